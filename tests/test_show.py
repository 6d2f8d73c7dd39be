"""`show`: a corner of the values, right in every dtype, from few bytes."""

import pytest
import torch
from checkpoints import write_native

from llamainspect import MissingFile, open_checkpoint, show_tensor

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


def show(path, tensors, name="x", start=()):
    return show_tensor(open_checkpoint(str(write_native(path, None, [tensors]))), name, start)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_equal_torch_in_every_dtype(tmp_path, dtype):
    values = (torch.randn(9, 8, generator=torch.Generator().manual_seed(1)) * 20).abs().to(dtype)
    report = show(tmp_path, {"x": values})
    corner = values[:6, :6]
    assert report.float32 == tuple(tuple(row) for row in corner.float().tolist())
    # What is printed in the tensor's own dtype reads back as the same value of that dtype.
    for texts, row in zip(report.stored, corner, strict=True):
        for text, value in zip(texts, row, strict=True):
            number = {"True": 1, "False": 0}.get(text) if dtype is torch.bool else None
            if number is None:
                number = float(text) if dtype.is_floating_point else int(text)
            assert torch.tensor(number, dtype=torch.float64).to(dtype).float() == value.float()


def test_values_that_are_not_finite_are_null_in_json(tmp_path):
    report = show(tmp_path, {"x": torch.tensor([1.0, float("nan"), float("-inf")]).bfloat16()})
    assert report.float32 == ((1.0, None, None),)
    assert report.stored == (("1", "nan", "-inf"),)


def test_views_show_what_torch_shows(tmp_path):
    base = torch.arange(120.0).view(10, 12)
    weights = {
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "expanded": torch.arange(3.0).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "cube": torch.arange(60.0).view(3, 4, 5),
    }
    write_native(tmp_path, None, [weights])
    checkpoint = open_checkpoint(str(tmp_path))
    for name, tensor in weights.items():
        corner = tensor[0] if tensor.dim() == 3 else tensor
        corner = corner.reshape(1, 1) if tensor.dim() == 0 else corner[:6, :6]
        assert show_tensor(checkpoint, name).float32 == tuple(map(tuple, corner.tolist())), name


def test_lazy_conjugates_and_negatives_are_resolved(tmp_path):
    values = torch.tensor([1 + 2j, 3 - 4j])
    weights = {"conj": values.conj(), "imag": values.clone().conj().imag}  # a lazy negative
    write_native(tmp_path, None, [weights])
    checkpoint = open_checkpoint(str(tmp_path))
    assert show_tensor(checkpoint, "conj").stored == (("(1-2j)", "(3+4j)"),)
    assert show_tensor(checkpoint, "conj").float32 is None
    assert show_tensor(checkpoint, "imag").float32 == ((-2.0, 4.0),)


def test_a_corner_anywhere(tmp_path):
    values = torch.arange(10_000.0).view(100, 100)
    report = show(tmp_path, {"x": values}, start=(98, 96))
    assert report.float32 == ((9896, 9897, 9898, 9899), (9996, 9997, 9998, 9999))
    assert report.start == (98, 96)


def test_only_the_bytes_of_the_corner_are_read(tmp_path):
    report = show(tmp_path, {"x": torch.zeros(4000, 1000, dtype=torch.bfloat16)})
    assert report.nbytes_read == 6 * 6 * 2


def test_a_joined_corner_spans_shards(tmp_path):
    from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights

    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    write_native(tmp_path, TINY, cut(whole, 2))
    checkpoint = open_checkpoint(str(tmp_path))
    for name, start in (("output.weight", (61, 3)), ("layers.0.attention.wo.weight", (2, 29))):
        corner = whole[name][start[0] : start[0] + 6, start[1] : start[1] + 6].float().tolist()
        assert show_tensor(checkpoint, name, start).float32 == tuple(map(tuple, corner))


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel",
    "ignore:TypedStorage is deprecated",
)
def test_of_quantised_weights_the_stored_numbers_are_shown_and_said_to_be_those(tmp_path):
    weight = torch.quantize_per_tensor(torch.tensor([0.3, -0.4]), 0.1, 2, torch.qint8)
    report = show(tmp_path, {"x": weight})
    assert report.stored == (tuple(str(n) for n in weight.int_repr().tolist()),)
    assert report.float32 is None
    scale, point = weight.q_scale(), weight.q_zero_point()
    (note,) = [finding.message for finding in report.findings if finding.where == "x"]
    assert f"per_tensor_affine, scale {scale}, zero point {point}" in note
    assert weight.dequantize().tolist() == pytest.approx(
        [(int(number) - point) * scale for number in report.stored[0]]
    )


def test_an_unknown_name_suggests_near_ones(tiny):
    with pytest.raises(MissingFile, match=r"no weight is called output\.wieght.*output\.weight"):
        show_tensor(open_checkpoint(str(tiny)), "output.wieght")


@pytest.mark.parametrize("start", [(128, 0), (0, 64), (0, 0, 0)])
def test_an_index_outside_says_the_shape(tiny, start):
    with pytest.raises(MissingFile, match=r"there is nothing at .* its shape is \[128, 64\]"):
        show_tensor(open_checkpoint(str(tiny)), "output.weight", start)


def test_a_weight_with_a_missing_part_is_refused(tiny2):
    (tiny2 / "consolidated.01.pth").unlink()
    with pytest.raises(MissingFile, match="1 of its 2 parts can be read"):
        show_tensor(open_checkpoint(str(tiny2)), "output.weight")


def test_scalars_and_empty_weights_are_shown_from_the_command_line(tmp_path):
    import subprocess
    import sys

    write_native(tmp_path, None, [{"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)}])
    for name in ("scalar", "empty"):
        command = [sys.executable, "-m", "llamainspect", "show", str(tmp_path), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert ("2.5" in done.stdout) == (name == "scalar")
