"""How far two weights are apart: every figure against float64, and every place against the file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import cut, dense_shapes, random_weights, write_native
from hub_layout import hub_config, to_hub, write_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llamainspect.blocks import BLOCK_NBYTES
from llamainspect.checkpoint import open_checkpoint
from llamainspect.diff import DiffOptions, diff_checkpoints
from llamainspect.distance import Side, round_to, same_values

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
WHOLE = {
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
ALL = FLOATS | WHOLE

quantised_tensors_are_deprecated = pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel",
    "ignore:TypedStorage is deprecated",
)


def random(name: str, shape, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name in FLOATS:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(FLOATS[name])
    high = 2 if name == "BOOL" else 100
    return torch.randint(0, high, shape, generator=generator).to(WHOLE[name])


def planted(a: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """A copy of which about so many elements are others' values."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(a.shape, generator=generator) < share
    # Neither `where` nor indexing knows the 8-bit floats: through float64, which is exact.
    return torch.where(where, a.double().flip(0), a.double()).to(a.dtype)


def write(path: Path, tensors: dict[str, torch.Tensor], kind: str = "pth") -> str:
    if kind == "pth":
        torch.save(tensors, path / "x.pth")
        return str(path / "x.pth")
    path.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()},
              path / "model.safetensors")  # fmt: skip
    return str(path)


def compare(tmp_path, a: torch.Tensor, b: torch.Tensor, options=DiffOptions(), kinds=("pth",) * 2):  # noqa: B008
    """The one weight of two files."""
    paths = []
    for side, tensor, kind in zip("ab", (a, b), kinds, strict=True):
        (tmp_path / side).mkdir(exist_ok=True)
        paths.append(write(tmp_path / side, {"x": tensor}, kind))
    (row,) = diff_checkpoints(*paths, options).weights
    return row


def same(a: float | None, b: float, **tolerance) -> bool:
    return a is not None and a == pytest.approx(b, **tolerance)


def check(row, a: torch.Tensor, b: torch.Tensor, rel: float = 1e-6) -> None:
    """Every figure of a row against float64 on the values themselves."""
    x, y = a.double().numpy(), b.double().numpy()
    differs = (x != y) & ~(np.isnan(x) & np.isnan(y))
    assert (row.changed, row.elements) == (int(differs.sum()), x.size)
    places = np.argwhere(differs)
    first, last = (tuple(map(int, places[i])) if len(places) else None for i in (0, -1))
    assert (row.first, row.last) == (first, last)
    if not len(places):
        assert (row.max_abs, row.rel_l2, row.cosine) == (0.0, 0.0, 1.0)
        assert row.status in ("identical", "equal")
        return
    finite = np.isfinite(x) & np.isfinite(y)
    assert (row.not_finite_a, row.not_finite_b) == (
        int((~np.isfinite(x)).sum()), int((~np.isfinite(y)).sum()),
    )  # fmt: skip
    x, y = np.where(finite, x, 0).ravel(), np.where(finite, y, 0).ravel()
    assert same(row.max_abs, np.abs(x - y).max(), rel=1e-6)
    length, other = math.sqrt((x * x).sum()), math.sqrt((y * y).sum())
    if length:
        moved = math.sqrt(((x - y) ** 2).sum()) / length
        assert same(row.rel_l2, moved, rel=rel, abs=1e-12)
    if length and other:
        assert same(row.cosine, float(x @ y) / length / other, abs=1e-6)
    if first is not None:
        for text, tensor in ((row.value_a, a), (row.value_b, b)):
            value = tensor.double()[first].item()
            if tensor.dtype == torch.bool:
                assert text == str(bool(value))
            elif math.isnan(value):
                assert text == "nan"
            else:
                assert torch.tensor(float(text), dtype=torch.float64).to(tensor.dtype).double() == (
                    value
                )


# --- dtypes and shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_figures_are_those_of_float64(tmp_path, dtype, share):
    a = random(dtype, (97, 130), 1)
    b = planted(a, share, 2)
    for kinds in (("pth", "pth"), ("pth", "safetensors")):
        check(compare(tmp_path, a, b, kinds=kinds), a, b)


@pytest.mark.parametrize("one", FLOATS)
@pytest.mark.parametrize("other", FLOATS)
def test_figures_of_two_dtypes_are_those_of_float64(tmp_path, one, other):
    a = random("F64", (50, 70), 3).to(FLOATS[one])
    b = (a.double() * 1.0625 + 0.01).to(FLOATS[other])
    row = compare(tmp_path, a, b)
    assert (row.dtype_a, row.dtype_b, row.status) == (one, other, "changed")
    check(row, a, b)


@pytest.mark.parametrize("one", ALL)
def test_values_that_are_the_same_in_another_dtype_are_equal(tmp_path, one):
    a = random(one, (20, 30), 4)
    b = a.to(torch.float64)
    row = compare(tmp_path, a, b)
    check(row, a, b)
    assert row.status == ("identical" if one == "F64" else "equal")


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (7,),
        (1, 1),
        (5, 1),
        (1, 5),
        (0,),
        (0, 5),
        (5, 0),
        (3, 4, 5),
        (2, 3, 4, 5),
        (3, 0, 2),
    ],
)
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F8_E4M3", "BOOL"])
def test_figures_of_any_shape(tmp_path, shape, dtype):
    a = random(dtype, shape, 5)
    b = (1 - a.double()).to(a.dtype)
    for kinds in (("pth", "pth"), ("safetensors", "pth")):
        row = compare(tmp_path, a, b, kinds=kinds)
        assert (row.shape_a, row.shape_b) == (shape, shape)
        check(row, a, b)
        assert compare(tmp_path, a, a, kinds=kinds).status == "identical"


def test_a_scalar_and_one_element_are_of_two_shapes(tmp_path):
    row = compare(tmp_path, torch.tensor(1.0), torch.tensor([1.0]))
    assert (row.status, row.changed, row.max_abs) == ("shape", None, None)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 2**16),
    one=st.sampled_from([*FLOATS]), other=st.sampled_from([*FLOATS]), share=st.floats(0, 1),
)  # fmt: skip
def test_figures_of_anything(tmp_path_factory, rows, columns, seed, one, other, share):
    a = random(one, (rows, columns), seed)
    b = planted(a, share, seed + 1).double().to(FLOATS[other])
    check(compare(tmp_path_factory.mktemp("any"), a, b), a, b)


# --- views ----------------------------------------------------------------------------------------

BASE = random("BF16", (60, 84), 6)
VIEWS = {
    "transposed": lambda x: x.T,
    "rows with gaps": lambda x: x[:, 10:50],
    "every other column": lambda x: x[:, ::2],
    "every third row": lambda x: x[::3],
    "from the middle": lambda x: x[17:40, 5:],
    "a column": lambda x: x[:, 3],
    "a column as a matrix": lambda x: x[:, 3:4],
    "three axes, the middle cut": lambda x: x.view(5, 12, 84)[:, 2:7, :],
    "three axes in another order": lambda x: x.view(5, 12, 84).permute(2, 0, 1),
    "three axes, the last two swapped": lambda x: x.view(5, 12, 84).transpose(1, 2),
    "one row many times": lambda x: x[7].expand(40, 84),
    "one element many times": lambda x: x[7, 7].expand(9, 11),
    "one vector many times": lambda x: x[:, 5].unsqueeze(1).expand(60, 9),
    "one value as a vector": lambda x: x[3, 3].expand(17),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_the_values_that_they_show(tmp_path, view):
    a = VIEWS[view](BASE)
    whole = a.contiguous()
    assert compare(tmp_path, a, whole).status == "identical"
    assert compare(tmp_path, whole, a).status == "identical"
    assert compare(tmp_path, a, a).status == "identical"
    b = planted(whole, 0.2, 7)
    check(compare(tmp_path, a, b), a, b)
    check(compare(tmp_path, b, a), b, a)
    other = VIEWS[view](BASE * 2)
    check(compare(tmp_path, a, other), a, other)


@pytest.mark.parametrize("view", ["transposed", "rows with gaps", "three axes in another order"])
def test_views_above_one_block(tmp_path, view):
    base = random("BF16", (60 * 25, 84 * 7), 8)  # 1.8 MB

    def shown(x: torch.Tensor) -> torch.Tensor:
        return {
            "transposed": x.T,
            "rows with gaps": x[:, 30:580],
            "three axes in another order": x.view(60, 25, 588).permute(2, 0, 1),
        }[view]

    a = shown(base)
    assert a.nbytes > BLOCK_NBYTES
    b = planted(a.contiguous(), 0.01, 9)
    check(compare(tmp_path, a, b), a, b)
    check(compare(tmp_path, a, shown(base.flip(1).clone())), a, shown(base.flip(1).clone()))


def test_lazily_negated_numbers_are_negated(tmp_path):
    a = random("F32", (30, 40), 10)
    lazy = torch._neg_view(a)
    assert lazy.is_neg()
    row = compare(tmp_path, lazy, -a)
    assert (row.status, row.changed, row.max_abs) == ("equal", 0, 0.0)
    row = compare(tmp_path, lazy, a)
    assert same(row.rel_l2, 2.0, rel=1e-6)
    assert same(row.cosine, -1.0, abs=1e-6)
    assert row.changed == 1200


# --- what is not finite, zeros, and the edges of a type -------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        ((NAN, 1.0), (NAN, 1.0), 0),
        ((NAN, 1.0), (NAN, 1.5), 1),
        ((NAN, 1.0), (2.0, 1.0), 1),
        ((2.0, 1.0), (NAN, 1.0), 1),
        ((INF, 1.0), (INF, 1.0), 0),
        ((INF, 1.0), (-INF, 1.0), 1),
        ((INF, 1.0), (NAN, 1.25), 2),
        ((INF, -INF), (2.0, 3.0), 2),
        ((NAN, NAN), (INF, 0.0), 2),
    ],
)
def test_what_is_not_finite_is_counted_and_left_out(tmp_path, dtype, one, other, changed):
    a = random(dtype, (40,), 11).double()
    b = a.clone()
    a[20:22], b[20:22] = torch.tensor(one), torch.tensor(other)
    a, b = a.to(FLOATS[dtype]), b.to(FLOATS[dtype])
    row = compare(tmp_path, a, b)
    assert (row.changed, row.status) == (changed, "changed" if changed else "identical")
    check(row, a, b)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_a_block_of_nan_among_others_leaves_the_figures_of_the_others(tmp_path, dtype):
    a = random(dtype, (1000, 1100), 12)  # more than one block in each of the types
    b = planted(a, 0.05, 13)
    b[300:303] = NAN
    a[999, 5] = INF
    check(compare(tmp_path, a, b), a, b)


def test_nan_with_other_bits_is_the_same_value_stored_in_another_way(tmp_path):
    a = torch.tensor([1, 0x7FC0, 3], dtype=torch.int16).view(torch.bfloat16)
    b = torch.tensor([1, 0x7FC1, 3], dtype=torch.int16).view(torch.bfloat16)
    row = compare(tmp_path, a, b)
    assert (row.status, row.changed) == ("equal", 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_minus_zero_is_zero_stored_in_another_way(tmp_path, dtype):
    a = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).to(FLOATS[dtype])
    b = torch.tensor([-0.0, 1.0, 0.0], dtype=torch.float64).to(FLOATS[dtype])
    row = compare(tmp_path, a, b)
    assert (row.status, row.changed, row.first, row.max_abs) == ("equal", 0, None, 0.0)
    assert compare(tmp_path, a, b, DiffOptions(atol=0)).status == "equal"


def test_a_difference_from_nothing_has_no_relative_length(tmp_path):
    zeros, ones = torch.zeros(8), torch.ones(8)
    row = compare(tmp_path, zeros, ones)
    assert (row.rel_l2, row.cosine, row.max_abs, row.changed) == (None, None, 1.0, 8)
    row = compare(tmp_path, ones, zeros)
    assert (row.rel_l2, row.cosine, row.max_abs) == (1.0, None, 1.0)
    assert compare(tmp_path, zeros, zeros).status == "identical"


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_values_whose_difference_overflows_their_type_are_far_apart(tmp_path, dtype):
    a = torch.tensor([3e38, 1.0]).to(FLOATS[dtype])
    b = torch.tensor([-3e38, 1.0]).to(FLOATS[dtype])
    for options in (DiffOptions(), DiffOptions(atol=1e-3), DiffOptions(rtol=1e-3)):
        row = compare(tmp_path, a, b, options)
        assert row.status == "changed"
        assert same(row.max_abs, 2 * a.double()[0].item(), rel=1e-6)
        assert same(row.cosine, -1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e19, 1e30])
def test_squares_that_float32_cannot_hold_are_still_added_up(tmp_path, dtype, scale):
    a = (random("F64", (40, 50), 14) * scale).to(FLOATS[dtype])
    b = (a.double() * 1.25 + scale / 8).to(FLOATS[dtype])
    check(compare(tmp_path, a, b), a, b, rel=1e-5)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("factor", [2**-12, 2**-6, 2, 2**6, 2**12, 2**20])
def test_the_cosine_of_a_multiple_is_one(tmp_path, dtype, factor):
    a = random(dtype, (500, 700), 15)
    row = compare(tmp_path, a, a * factor)
    assert same(row.cosine, 1.0, abs=1e-6)
    assert same(row.rel_l2, abs(factor - 1), rel=1e-6)


def test_a_small_weight_against_an_unrelated_long_one_has_the_angle_of_float64(tmp_path):
    a, b = random("BF16", (500, 700), 16), random("BF16", (500, 700), 17) * 2**14
    check(compare(tmp_path, a, b), a, b)


def test_large_whole_numbers_that_differ_are_not_equal(tmp_path):
    a = torch.tensor([2**60, 5])
    row = compare(tmp_path, a, a + torch.tensor([1, 0]))
    assert (row.status, row.changed, row.first) == ("changed", 1, (0,))


# --- dtypes without values ------------------------------------------------------------------------


@pytest.mark.parametrize("place", [(0, 0), (3, 2), (8, 6)])
def test_complex_numbers_are_compared_bit_by_bit_and_located(tmp_path, place):
    a = torch.view_as_complex(random("F32", (9, 7, 2), 18).contiguous())
    b = a.clone()
    b[place] += 1
    row = compare(tmp_path, a, b)
    assert (row.status, row.changed, row.max_abs) == ("changed", 1, None)
    assert (row.first, row.last) == (place, place)


@pytest.mark.parametrize("place", [(0, 0), (3, 2), (8, 6)])
def test_every_byte_of_a_type_without_numbers_is_compared(tmp_path, place):
    bits = torch.arange(9 * 7 * 2, dtype=torch.int16).view(9, 7, 2)
    other = bits.clone()
    other[place] += 1
    a, b = (x.view(torch.complex32).squeeze(-1) for x in (bits, other))
    row = compare(tmp_path, a, b)
    assert (row.status, row.first) == ("changed", place)


def test_packed_floats_are_not_taken_for_numbers(tmp_path):
    a = torch.tensor([0x12, 0x34], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    b = torch.tensor([0x12, 0x94], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    row = compare(tmp_path, a, b)
    assert (row.status, row.max_abs, row.rel_l2, row.first) == ("changed", None, None, (1,))


def quantised(scale: float, point: int) -> torch.Tensor:
    """The numbers 0 to 5, whatever they stand for."""
    values = (torch.arange(6.0) - point) * scale
    made = torch.quantize_per_tensor(values, scale, point, torch.qint8)
    assert made.int_repr().tolist() == [0, 1, 2, 3, 4, 5]
    return made


@quantised_tensors_are_deprecated
@pytest.mark.parametrize("options", [DiffOptions(), DiffOptions(rtol=1e9, atol=1e9)])
@pytest.mark.parametrize(("scale", "point"), [(0.2, 3), (0.1, 2)])
def test_equal_numbers_of_other_scales_or_zero_points_are_not_called_equal(
    tmp_path, scale, point, options
):
    a, b = quantised(0.1, 3), quantised(scale, point)
    assert not torch.equal(a.dequantize(), b.dequantize())
    assert compare(tmp_path, a, b, options).status == "incomplete"
    assert not diff_checkpoints(str(tmp_path / "a/x.pth"), str(tmp_path / "b/x.pth"), options).same


@quantised_tensors_are_deprecated
def test_weights_that_were_swapped_are_not_recognised_by_numbers_of_other_scales(tmp_path):
    for side, scale in (("a", 0.1), ("b", 0.2)):
        (tmp_path / side).mkdir()
        write(tmp_path / side, {"x": quantised(scale, 0)})
    sides = []
    for side in "aab":
        checkpoint = open_checkpoint(str(tmp_path / side / "x.pth"))
        sides.append(Side(checkpoint, checkpoint.weights["x"]))
    assert same_values(sides[0], sides[1])
    assert not same_values(sides[0], sides[2])


@quantised_tensors_are_deprecated
def test_quantised_weights_are_told_from_whole_numbers(tmp_path):
    a = quantised(0.1, 0)
    assert compare(tmp_path, a, a.int_repr()).status == "incomplete"


@quantised_tensors_are_deprecated
def test_numbers_quantised_alike_are_compared_one_by_one_and_no_distance_is_told(tmp_path):
    a = quantised(0.1, 0)
    b = torch.quantize_per_tensor(torch.tensor([0, 0.1, 0.2, 0.3, 0.4, 0.9]), 0.1, 0, torch.qint8)
    assert compare(tmp_path, a, a).status == "identical"
    row = compare(tmp_path, a, b)
    assert (row.status, row.changed, row.first, row.max_abs) == ("changed", 1, (5,), None)


@quantised_tensors_are_deprecated
def test_scales_of_channels_are_compared_as_weights_of_their_own(tmp_path):
    points, paths = torch.zeros(3, dtype=torch.int64), []
    for side, scale in (("a", 0.1), ("b", 0.2)):
        scales = torch.full((3,), scale, dtype=torch.float64)
        x = torch.quantize_per_channel(torch.full((3, 2), scale), scales, points, 0, torch.qint8)
        (tmp_path / side).mkdir()
        paths.append(write(tmp_path / side, {"x": x}))
    for options in (DiffOptions(), DiffOptions(names="x")):
        report = diff_checkpoints(*paths, options)
        assert {row.name: row.status for row in report.weights} == {
            "x": "identical", "x.quantizer.1": "changed", "x.quantizer.2": "identical",
        }  # fmt: skip
        assert not report.same


@pytest.mark.filterwarnings("ignore:Sparse ")  # is in beta, and is not checked
def test_sparse_weights_of_other_sizes_or_layouts_are_not_called_the_same(tmp_path):
    places, values, steps = torch.tensor([[0]]), torch.tensor([1.0]), torch.tensor([0, 1])
    weights = [
        torch.sparse_coo_tensor(places, values, (5,)),
        torch.sparse_coo_tensor(places, values, (6,)),
        torch.sparse_csr_tensor(steps, places[0], values, (1, 1)),
        torch.sparse_csc_tensor(steps, places[0], values, (1, 1)),
    ]
    paths = []
    for number, weight in enumerate(weights):
        (tmp_path / str(number)).mkdir()
        paths.append(write(tmp_path / str(number), {"x": weight}))
    assert [[diff_checkpoints(a, b).same for b in paths] for a in paths] == torch.eye(4).tolist()


# --- tolerances -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16), dtype=st.sampled_from(["F64", "F32", "F16", "BF16"]),
    rtol=st.sampled_from([None, 0.0, 1e-3, 0.03]), atol=st.sampled_from([None, 0.0, 1e-3, 0.03]),
    noise=st.sampled_from([1e-4, 1e-3, 1e-2]),
)  # fmt: skip
def test_close_is_what_numpy_calls_close(tmp_path_factory, seed, dtype, rtol, atol, noise):
    a = random(dtype, (12,), seed)
    b = (a.double() + noise * random("F64", (12,), seed + 1)).to(a.dtype)
    options = DiffOptions(rtol=rtol, atol=atol)
    row = compare(tmp_path_factory.mktemp("close"), a, b, options)
    x, y = a.double().numpy(), b.double().numpy()
    gap = np.abs(x - y) - ((atol or 0) + (rtol or 0) * np.abs(y))
    if np.abs(gap[gap != 0]).min(initial=1) < 1e-7:
        return  # on the edge, where rounding decides
    if (x == y).all():
        assert row.status == "identical"
    else:
        assert row.status == ("close" if (gap <= 0).all() else "changed")


@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_what_is_not_finite_in_both_keeps_nothing_from_being_close(tmp_path, special):
    a = torch.tensor([special, 1.0, 2.0])
    b = torch.tensor([special, 1.0, 2.0009765625])
    assert compare(tmp_path, a, b, DiffOptions(atol=0.01)).status == "close"
    assert compare(tmp_path, a, b, DiffOptions(atol=0.0001)).status == "changed"


@pytest.mark.parametrize(("one", "other"), [(NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, 1.0)])
def test_what_is_not_finite_in_one_is_close_to_nothing(tmp_path, one, other):
    a, b = torch.tensor([one, 2.0]), torch.tensor([other, 2.0])
    for options in (DiffOptions(atol=1e30), DiffOptions(rtol=1e30)):
        assert compare(tmp_path, a, b, options).status == "changed"


# --- blocks, shards and orders --------------------------------------------------------------------

# A model whose matrices are above one block, and end in the middle of one: 1,500 rows of 2 KiB.
LARGE = {
    "dim": 1024,
    "n_layers": 1,
    "n_heads": 8,
    "n_kv_heads": 4,
    "vocab_size": 1500,
    "multiple_of": 64,
    "ffn_dim_multiplier": 0.2,
    "norm_eps": 1e-5,
    "rope_theta": 5e5,
}
LARGE_HIDDEN = 576  # int(0.2 * int(2 * 4096 / 3)) = 546, up to a multiple of 64


def large_form(path: Path, form: str, weights) -> str:
    if form.startswith("native"):
        ranks = 1 if form == "native" else 2
        axis = int("columns" in form)
        return str(write_native(path, LARGE, cut(weights, ranks, embedding_axis=axis)))
    hub = to_hub(weights, LARGE, LARGE_HIDDEN)
    kind = "bin" if "bin" in form else "safetensors"
    return str(write_hub(path, hub, hub_config(LARGE, LARGE_HIDDEN), kind=kind))


LARGE_FORMS = ("native", "native, 2", "native, 2, columns", "hub", "hub, bin")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two versions of the large model in each form: weights, and where they are."""
    root = tmp_path_factory.mktemp("large")
    shapes = dense_shapes(LARGE, LARGE_HIDDEN)
    a = random_weights(shapes)
    b = {}
    for number, (name, weight) in enumerate(a.items()):
        b[name] = planted(weight, 0.001, number)
        if weight.nbytes > BLOCK_NBYTES:  # on both sides of where the first block ends
            edge = BLOCK_NBYTES // 2
            b[name].view(-1)[edge - 1 : edge + 1] = 0.5
    paths = {
        side: {form: large_form(root / side / form, form, weights) for form in LARGE_FORMS}
        for side, weights in (("a", a), ("b", b))
    }
    return a, b, paths


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("native, 2", "native, 2, columns"),
        ("native, 2, columns", "hub"),
        ("hub, bin", "native, 2"),
    ],
)
def test_figures_do_not_depend_on_form_or_blocks(large, one, other):
    a, b, paths = large
    assert diff_checkpoints(paths["a"][one], paths["a"][other]).identical
    report = diff_checkpoints(paths["a"][one], paths["b"][other])
    assert len(report.weights) == 12
    for row in report.weights:
        if "wq" in row.name or "wk" in row.name:
            # Two that are stored in Hugging Face's order are compared in that order.
            check_but_for_places(row, a[row.name], b[row.name], one, other)
        else:
            check(row, a[row.name], b[row.name])


def check_but_for_places(row, a, b, one, other):
    if one.startswith("hub") and other.startswith("hub"):
        differs = (a != b).nonzero().tolist()
        assert list(row.first) in differs
        assert list(row.last) in differs
        places = (a != b).nonzero()
        row = row._replace(first=tuple(places[0].tolist()), last=tuple(places[-1].tolist()))
        row = row._replace(value_a=str(a[row.first].item()), value_b=str(b[row.first].item()))
    check(row, a, b)


def test_every_element_is_looked_at(tmp_path):
    """One element after another, all over a weight of more than two blocks."""
    a = random("BF16", (1100, 1000), 20)
    assert a.nbytes > 2 * BLOCK_NBYTES
    first = write(tmp_path, {"x": a})
    (tmp_path / "b").mkdir()
    edges = [0, 1, 1_099_999]
    edges += [step * BLOCK_NBYTES // 2 + by for step in (1, 2) for by in (-1, 0, 1)]
    for place in [*edges, *range(7, 1_100_000, 123_457)]:
        b = a.clone()
        b.view(-1)[place] = 0.1875
        row = diff_checkpoints(first, write(tmp_path / "b", {"x": b})).weights[0]
        index = divmod(place, 1000)
        assert (row.changed, row.first, row.last) == (1, index, index)


# --- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F32"])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_rounding_is_that_of_torch(kind, wide):
    # Below half of E4M3's largest, 448, and E5M2's, 57,344: what is above is no round trip.
    generator = torch.Generator().manual_seed(21)
    values = torch.randn(20_000, generator=generator).float() * 2.0 ** torch.randint(
        -30, 7, (20_000,), generator=generator
    )
    values = values.clamp(-400, 400)
    if kind in ("F16", "F8_E4M3", "F8_E5M2"):  # and halfway between two of its numbers
        narrow = values.to(FLOATS[kind]).float()
        steps = narrow.abs().to(FLOATS[kind]).view(torch.int16 if kind == "F16" else torch.uint8)
        above = (steps + 1).view(FLOATS[kind]).float()
        values = torch.cat([values, (narrow.abs() + above).clamp(max=400) / 2])
    expected = values.to(FLOATS[kind]).to(wide)
    assert np.array_equal(round_to(values.to(wide).numpy(), kind), expected.numpy())
