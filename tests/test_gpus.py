"""GPUs by name, and the memory that a program can have on them."""

import pytest

import llamainspect as li
from llamainspect.errors import InvalidRequest
from llamainspect.gpus import GPUS, Gpus, find_gpu
from llamainspect.model.devices import recognise
from llamainspect.nearest import nearest

# As nvidia-smi prints it.
MIB = {
    "a100-40": 40_960, "a100-80": 81_920, "h100": 81_559, "h200": 143_771, "b200": 183_359,
    "rtx-4090": 24_564, "rtx-5090": 32_607, "l40s": 46_068, "a40": 46_068, "l4": 23_034,
}  # fmt: skip


@pytest.mark.parametrize("name", MIB)
def test_memory_is_what_a_program_can_have(name):
    assert find_gpu(name).nbytes == MIB[name] * 2**20


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_memory_arithmetic_bandwidth_and_a_source(name):
    gpu = GPUS[name]
    assert gpu.name == name == name.lower()
    assert 10 * 2**30 < gpu.nbytes < 300 * 2**30
    assert 50e12 < gpu.flops < 3e15
    assert 200e9 < gpu.bandwidth < 10e12
    assert gpu.source
    assert find_gpu(name) is find_gpu(name.upper()) is gpu


def test_eighty_gigabytes_are_neither_decimal_nor_binary():
    assert 80e9 < GPUS["h100"].nbytes < 80 * 2**30


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100", "h100"), ("NVIDIA H100", "h100"), ("h100-sxm", "h100"), ("H100 SXM5", "h100"),
        ("RTX 4090", "rtx-4090"), ("rtx4090", "rtx-4090"), ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("RTX_5090", "rtx-5090"),
        ("A100-80GB", "a100-80"), ("a100 40gb", "a100-40"), ("NVIDIA A100 80GB", "a100-80"),
        ("L4", "l4"), ("T4", "t4"), ("A10", "a10"), ("a10g", "a10g"), ("A40", "a40"),
        ("AMD MI300X", "mi300x"), ("rtx a6000", "rtx-a6000"), ("A6000", "rtx-a6000"),
        ("RTX 6000 Ada", "rtx-6000-ada"), ("h100 nvl", "h100-nvl"), ("H100 PCIe", "h100-pcie"),
        ("V100-32GB", "v100-32"), ("h200", "h200"), ("H20", "h20"), ("b200", "b200"),
    ],
)  # fmt: skip
def test_names_in_many_spellings(text, name):
    assert find_gpu(text).name == name
    assert li.parse_gpus(f"{text}:3") == Gpus(GPUS[name], 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [("h100", 1), ("h100:1", 1), ("h100:16384", 16_384), ("h100:008", 8), ("h100:1000000", 10**6)],
)
def test_how_many_stands_behind_the_colon(text, number):
    assert li.parse_gpus(text) == Gpus(GPUS["h100"], number)


@pytest.mark.parametrize(
    "text",
    ["h100:", "h100:0", "h100:-1", "h100:+1", "h100:1.5", "h100:x", "h100:1:2", "h100: 8",
     "h100:1000001", "h100:" + "9" * 30, "h100:²", "h100:٣"],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused(text):
    with pytest.raises(InvalidRequest, match=r"after the colon stands how many, from 1 to"):
        li.parse_gpus(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a100", "a100-40 and a100-80; say which"),
        ("v100", "v100-16 and v100-32; say which"),
        ("h101", "near are h100"),
        ("rtx-4080", "rtx-4090"),
        ("", "which one? As in h100:8"),
        (":8", "which one? As in h100:8"),
        ("auto:2", "counts the GPUs of this machine; leave the number out"),
        ("a1000", "known are a100-40"),
        ("nvidia", "known are a100-40"),
        ("tpu-v5e", "known are a100-40"),
        ("x" * 10_000, "known are a100-40"),
        ("\x1b[31mh100", "known are"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_an_unknown_gpu_is_refused_with_the_nearest(text, said):
    with pytest.raises(InvalidRequest) as caught:
        li.parse_gpus(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--gpu ")


def test_ranks_and_gpus_are_the_same_number():
    one, four = li.parse_gpus("h100"), li.parse_gpus("h100:4")
    assert one.shared_by(None) == one
    assert one.shared_by(8) == Gpus(GPUS["h100"], 8)
    assert four.shared_by(None) == four.shared_by(4) == four
    with pytest.raises(InvalidRequest, match="different numbers"):
        four.shared_by(8)


def test_the_nearest_names_are_the_middle_of_a_sentence():
    known = ("hidden_dim", "head_dim", "norm_eps", "dim")
    assert nearest("norm_epz", known) == "near is norm_eps; "
    assert nearest("HIDDEN_DIMS", known).startswith("near are hidden_dim")
    assert nearest("zzz", known) == nearest("", known) == nearest("x", ()) == ""
    assert nearest("norm_eps" * 100_000, known) == ""


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_names_as_drivers_say_them(driver, name):
    assert li.parse_gpus(driver).gpu.name == name
    known = li.GPUS[name]
    found = recognise(driver, int(0.97 * known.nbytes))
    assert (found.name, found.flops, found.bandwidth) == (name, known.flops, known.bandwidth)
    assert found.nbytes == int(0.97 * known.nbytes)
    assert recognise(driver, known.nbytes // 2).flops is None  # a part of one


@pytest.mark.parametrize("card", ["RTX 4090 Laptop GPU", "RTX 3090 Ti", "RTX 4090 D"])
def test_other_cards_of_a_similar_name_are_not_taken_for_it(card):
    with pytest.raises(InvalidRequest):
        li.parse_gpus(card)
