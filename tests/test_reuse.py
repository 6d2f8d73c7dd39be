"""Views that ask for more than a file holds: what is read of them, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, dense_shapes

from llamainspect import reuse
from llamainspect.blocks import Memory, Reader, grid_of
from llamainspect.checkpoint import Checkpoint, open_checkpoint
from llamainspect.diff import diff_checkpoints
from llamainspect.dtypes import DTYPES
from llamainspect.errors import UnsupportedFile
from llamainspect.reuse import read_too_often
from llamainspect.runs import check_runnable
from llamainspect.sources import Folder
from llamainspect.stats import compute_stats
from llamainspect.subject import find_subject
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Weight

MIB = 2**20
ENDLESS = torch.ones(1).expand(2**30, 2**10)  # 4 TiB of a file of 1 KB
SHAPES = dense_shapes(TINY, TINY_HIDDEN)


def views(storage: Storage, count: int, nbytes: int, **more) -> list[Weight]:
    parts = [
        TensorInfo(f"{storage.key}.{i}", DTYPES["U8"], (nbytes,), storage, **more)
        for i in range(count)
    ]
    return [Weight(part.name, part.shape, (part,)) for part in parts]


def saved(path: Path, state: dict[str, torch.Tensor]) -> str:
    path.mkdir(exist_ok=True)
    torch.save(state, path / "consolidated.00.pth")
    return str(path)


def refused(report) -> list[str]:
    return [f.where for f in report.findings if "more than 32 times over" in f.message]


def test_a_storage_is_read_32_times_and_all_storages_256_mib_beyond_that():
    one, other = Storage("a.pth", "one", MIB, 0), Storage("a.pth", "other", 4 * MIB, 0)
    weights = views(one, 32 + 200, MIB) + views(other, 32 + 15, 4 * MIB)
    # 200 MiB beyond 32 times the first; of 56 that are left 14 views of 4 MiB of the second.
    assert list(read_too_often(weights)) == ["other.46"]
    assert "the 4,194,304 bytes of its storage" in read_too_often(weights)["other.46"]


def test_what_is_refused_leaves_room_for_what_follows():
    few = Storage("a.pth", "few", 4, 0)
    endless = views(few, 1, 2**42)[0]._replace(name="endless")
    assert list(read_too_often([endless, *views(few, 3, 100 * MIB)])) == ["endless", "few.2"]


def test_gaps_are_read_and_count():
    """Views of 16 elements, the first and last of them a MiB apart."""
    storage = Storage("a.pth", "gaps", MIB + 16, 0)
    weights = views(storage, 300, 16, strides=(MIB // 15,))
    assert len(read_too_often(weights)) == 300 - 32 - 256


def test_a_tensor_of_terabytes_in_a_small_file_is_refused(tmp_path):
    small = torch.full((3,), 2.0)
    a = saved(tmp_path / "a", {"w": ENDLESS, "x": small})
    b = saved(tmp_path / "b", {"w": torch.zeros(1).expand(ENDLESS.shape), "x": small})
    stats = compute_stats(a)
    assert refused(stats) == ["w"]
    assert stats.nbytes_read == 12
    assert {row.name: row.mean for row in stats.weights} == {"w": None, "x": 2.0}
    for other in (a, b):
        diff = diff_checkpoints(a, other)
        assert refused(diff) == ["w"]
        assert diff.counts == {"incomplete": 1, "identical": 1}
        assert not diff.same
        assert diff.nbytes_read == 24


def test_rows_that_two_sizes_of_an_endless_vocabulary_share_are_not_compared(tmp_path):
    one = torch.ones(1)
    a = saved(tmp_path / "a", {"output.weight": one.expand(2**30, 2**10)})
    b = saved(tmp_path / "b", {"output.weight": one.expand(2**30 + 1, 2**10)})
    assert refused(diff_checkpoints(a, b)) == ["output.weight"]


def test_overlapping_views_are_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(reuse, "SPARE_NBYTES", 0)
    paths = []
    for value in (0.0, 1.0):
        whole = torch.full((10_000,), value)
        state = {f"w{i}": whole[i:] for i in range(200)}
        paths.append(saved(tmp_path / str(value), state))
    names = [f"w{i}" for i in range(32)]
    elements = [10_000 - i for i in range(32)]
    stats = compute_stats(paths[1])
    read = {row.name: row for row in stats.weights if row.mean is not None}
    assert list(read) == names
    assert {row.mean for row in read.values()} == {1.0}
    assert [row.count for row in read.values()] == elements
    assert stats.nbytes_read == 4 * sum(elements)
    diff = diff_checkpoints(*paths)
    assert diff.counts == {"incomplete": 168, "changed": 32}
    assert {row.name for row in diff.weights if row.max_abs == 1.0} == set(names)


@pytest.fixture
def scattered(tmp_path) -> Checkpoint:
    """Columns of one matrix in two shards, each stored transposed: 2 MiB and 2 MiB."""
    matrix = torch.arange(1024.0 * 1024).view(1024, 1024)
    for rank, part in enumerate(matrix.split(512, dim=1)):
        transposed = part.T.contiguous().T
        state = {"layers.0.attention.wo.weight": transposed}
        torch.save(state, tmp_path / f"consolidated.0{rank}.pth")
    (tmp_path / "params.json").write_text(json.dumps(TINY | {"dim": 1024}))
    return open_checkpoint(str(tmp_path))


def test_transposed_parts_side_by_side_are_read_once(scattered, monkeypatch):
    lengths = []
    read_into = Folder.read_into

    def counting(self, file, offset, buffer, *runs):
        lengths.append(len(buffer))
        read_into(self, file, offset, buffer, *runs)

    monkeypatch.setattr(Folder, "read_into", counting)
    (weight,) = scattered.weights.values()
    reader = Reader(scattered, weight, grid_of(weight), Memory())
    rows = [reader.read(first, first + 128).copy() for first in range(0, 1024, 128)]
    assert np.array_equal(np.concatenate(rows), np.arange(1024.0 * 1024).reshape(1024, 1024))
    assert lengths == [2 * MIB, 2 * MIB]


def test_transposed_parts_side_by_side_have_one_limit(scattered):
    (weight,) = scattered.weights.values()
    grid = grid_of(weight)
    reader = Reader(scattered, weight, grid, Memory(), max_scattered_nbytes=4 * MIB - 1)
    with pytest.raises(UnsupportedFile, match="4,194,304 bytes would have to be in memory"):
        reader.read(0, 1)


def test_layers_that_share_their_weights_are_read_and_compared(tmp_path):
    layer = torch.randn(8, 8)
    state = {f"layers.{i}.attention.wo.weight": layer for i in range(32)}
    a, b = saved(tmp_path / "a", state), saved(tmp_path / "b", state)
    assert not refused(compute_stats(a))
    assert diff_checkpoints(a, b).counts == {"identical": 32}


def test_a_model_of_views_of_one_element_is_not_run(tmp_path):
    params = TINY | {"dim": 4096, "n_heads": 32, "n_kv_heads": 32, "multiple_of": 256}
    shapes = dense_shapes(params, hidden_dim=11_008)
    path = saved(tmp_path, {name: torch.ones(1).expand(shape) for name, shape in shapes.items()})
    (tmp_path / "params.json").write_text(json.dumps(params))
    sentence = r"^layers\.0\.[a-z_.0-9]+: views show the 4 bytes of its storage"
    with pytest.raises(UnsupportedFile, match=sentence):
        check_runnable(find_subject(path))


def test_a_small_model_of_views_is_run(tmp_path):
    weights = {name: torch.ones(1).expand(shape) for name, shape in SHAPES.items()}
    path = saved(tmp_path, weights)
    (tmp_path / "params.json").write_text(json.dumps(TINY))
    checkpoint, _ = check_runnable(find_subject(path))
    assert checkpoint.weights.keys() == weights.keys()
