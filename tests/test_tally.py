"""Counting: tables hold each dtype's values, sums do not depend on order, slices cover it all."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamainspect.dtypes import DTYPES
from llamainspect.footprint import weight_form
from llamainspect.tally import (
    UNIT_EXPONENT,
    Place,
    bucket_points,
    exact_sum,
    index_of,
    slices_of,
    table_of,
)
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Weight

TORCH = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8, "U8": torch.uint8, "I16": torch.int16, "U16": torch.uint16,
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("negative", [False, True])
def test_a_table_has_the_value_of_every_code(name, negative):
    bits = 8 * DTYPES[name].block_bytes
    codes = torch.arange(2**bits, dtype=torch.int32)
    codes = codes.to(torch.uint8) if bits == 8 else codes.to(torch.uint16)
    values = codes.view(TORCH[name])
    expected = values.numpy().astype(np.float64) if name == "U16" else values.double().numpy()
    expected = -expected if negative else expected
    table = table_of(name, negative)
    np.testing.assert_array_equal(table.values, expected[table.order])
    assert sorted(table.order.tolist()) == list(range(2**bits))
    finite = table.values[table.first : table.end]
    assert np.isfinite(finite).all()
    assert (np.diff(finite) >= 0).all()
    assert len(finite) == np.isfinite(expected).sum()
    assert (table.order[table.rank] == np.arange(2**bits)).all()
    assert table.zero.sum() == (expected == 0).sum()


def test_subnormal_values_are_those_with_an_exponent_of_zeros():
    codes = np.arange(2**16)
    for name, mantissa_bits, exponent_bits in (("BF16", 7, 8), ("F16", 10, 5)):
        exponents = codes >> mantissa_bits & (2**exponent_bits - 1)
        expected = (exponents == 0) & ((codes & (2**mantissa_bits - 1)) != 0)
        table = table_of(name)
        np.testing.assert_array_equal(table.subnormal, expected[table.order])


def test_points_of_buckets_stand_in_them():
    table, points = table_of("BF16"), bucket_points()
    for code, low, high in ((0x3F80, 1, 1 + 2**-7), (0xBF80, -1 - 2**-7, -1)):
        mine = points[int(np.flatnonzero(table.order == code)[0])]
        assert mine.tolist() == [low + (high - low) * (2 * i + 1) / 16 for i in range(8)]
    assert set(points[table.zero].reshape(-1)) == {0.0}


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(FLOATS, max_size=50))
def test_a_sum_is_exact(values):
    units = exact_sum(np.array(values, np.float64))
    assert units * Fraction(2) ** UNIT_EXPONENT == sum(map(Fraction, values))


@settings(deadline=None)
@given(st.lists(FLOATS, max_size=50), st.randoms())
def test_a_sum_does_not_depend_on_the_order(values, random):
    shuffled = values[:]
    random.shuffle(shuffled)
    parts = [shuffled[:7], shuffled[7:]]
    assert sum(exact_sum(np.array(part)) for part in parts) == exact_sum(np.array(values))


def test_many_equal_values_are_not_rounded():
    values = np.full(2**20, 1 / 3)
    assert exact_sum(values) * Fraction(2) ** UNIT_EXPONENT == Fraction(1 / 3) * 2**20


def weight_of(shape, dtype="BF16", rope_heads=0):
    nbytes = math.prod(shape) * DTYPES[dtype].block_bytes
    part = TensorInfo("x", DTYPES[dtype], shape, Storage("f", "0", nbytes, 0))
    return Weight("x", shape, (part,), rope_heads=rope_heads)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3000), max_size=3),
    st.sampled_from(["BF16", "F32", "U8", "F64"]),
)
def test_slices_cover_every_row_once(shape, dtype):
    weight = weight_of(tuple(shape), dtype)
    pieces = list(slices_of(weight, None))
    reached = 0
    for piece in pieces:
        assert piece.first == reached < piece.last
        reached = piece.last
    assert reached * (pieces[0].grid.columns if pieces else 1) == math.prod(shape) * bool(pieces)
    assert bool(pieces) == bool(math.prod(shape))
    assert sum(piece.nbytes for piece in pieces) == weight.nbytes


def test_a_row_that_no_block_holds_is_read_in_pieces():
    weight = weight_of((1, 2**28), "F32")
    pieces = list(slices_of(weight, None))
    assert len(pieces) == 2**30 // 2**25
    assert pieces[0].grid.columns == 1


def meta_order(piece):
    """Numbers in Meta's order of all elements in the order in which they are read."""
    return piece.numbers(np.arange(piece.weight.elements)).tolist()


def test_numbers_are_those_of_metas_order():
    """Rows of one head of 8: Hugging Face stores the even ones first."""
    (piece,) = slices_of(weight_of((8, 3), rope_heads=1), None)
    assert meta_order(piece)[::3] == [3 * row for row in (0, 2, 4, 6, 1, 3, 5, 7)]
    (piece,) = slices_of(weight_of((16, 1), rope_heads=2), None)
    assert meta_order(piece) == [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]
    (piece,) = slices_of(weight_of(()), None)
    assert meta_order(piece) == [0]
    assert index_of(piece.weight, Place(0, math.nan)) == ()
    assert index_of(weight_of((2, 3, 4)), Place(23, math.nan)) == (1, 2, 3)


def transposed(shape=(2, 4, 3), strides=(1, 6, 2)):
    plain = weight_of((4, 3, 2))
    view = plain.parts[0]._replace(shape=shape, strides=strides)
    return plain._replace(shape=shape, parts=(view,))


def test_a_transposed_view_is_read_as_it_is_stored():
    (piece,) = slices_of(transposed(), None)
    assert (piece.stored.shape, piece.stored.parts[0].strides) == ((4, 3, 2), None)
    expected = np.arange(24).reshape(4, 3, 2).transpose(2, 0, 1)
    assert expected.reshape(-1)[meta_order(piece)].tolist() == list(range(24))
    (piece,) = slices_of(transposed(), weight_form("int8"))
    assert piece.stored.shape == (2, 4, 3), "groups of a round trip run along its rows"


def test_the_step_of_an_axis_of_one_says_nothing():
    (piece,) = slices_of(transposed((1, 6, 4), (77, 1, 6)), None)
    assert piece.stored.parts[0].strides is None
