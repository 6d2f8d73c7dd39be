"""Memory of this machine: what there is, what a container leaves, what was used."""

import psutil
import pytest
import torch

from llamainspect.errors import MissingFile
from llamainspect.model import devices
from llamainspect.processes import Share

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "usage", "stat", "left"),
    [
        (4 * GIB, 3 * GIB, "anon 1\ninactive_file 1073741824\n", 2 * GIB),  # v2: the cache is spare
        (4 * GIB, 3 * GIB, "total_inactive_file 1073741824\ncache 5\n", 2 * GIB),  # v1
        (4 * GIB, 3 * GIB, "", GIB),
        (GIB, 3 * GIB, "", 0),
        ("max", 3 * GIB, "", None),  # no limit
    ],
)
def test_a_container_leaves_less_than_the_machine_has(
    tmp_path, monkeypatch, limit, usage, stat, left
):
    names = ("limit", "usage", "stat")
    for name, content in zip(names, (limit, usage, stat), strict=True):
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(devices, "CGROUPS", (tuple(str(tmp_path / name) for name in names),))
    machine = psutil.virtual_memory().available
    found = devices.available_nbytes(CPU)
    if left is None or left > machine:
        assert found == pytest.approx(machine, rel=0.2)
    else:
        assert found == left


def test_without_control_groups_the_machine_counts(monkeypatch):
    monkeypatch.setattr(devices, "CGROUPS", (("/none", "/none", "/none"),))
    assert devices.available_nbytes(CPU) == pytest.approx(
        psutil.virtual_memory().available, rel=0.2
    )


def test_the_peak_is_what_this_process_has_held():
    before = devices.peak_nbytes(CPU)
    assert before >= psutil.Process().memory_info().rss * 0.9
    held = torch.ones(before // 4 + 32 * 2**20)  # as many bytes again
    assert devices.peak_nbytes(CPU) > before
    del held


def test_float32_products_are_those_of_float32():
    torch.backends.cuda.matmul.allow_tf32 = True
    devices.forbid_shortcuts()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_each_process_of_a_machine_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert devices.choose_device("cuda", Share(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(MissingFile, match="3 processes need a GPU each, and torch sees 2"):
        devices.choose_device("cuda", Share(0, 3, 0, 3))
