"""The round trip in numpy gives the bits that the one in torch gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamainspect.footprint import weight_form
from llamainspect.model.quantize import make_simulation, rounded
from llamainspect.rounding import round_trip


def both(values, form, group_size):
    ours = round_trip(values.copy(), weight_form(form, group_size))
    theirs = rounded(torch.from_numpy(values.copy()), make_simulation(form, group_size)).numpy()
    return ours, theirs


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["int8", "int4"]),
    st.one_of(st.none(), st.integers(1, 70)),
    st.integers(1, 4),
    st.integers(1, 66),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-30, 1e-6, 1e-3, 1.0, 1e4, 1e30]),
)
def test_bits_are_those_of_torch(form, group_size, rows, columns, seed, scale):
    random = np.random.default_rng(seed)
    values = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
    values[random.random(values.shape) < 0.1] = 0
    with np.errstate(all="ignore"):
        ours, theirs = both(values, form, group_size)
    np.testing.assert_array_equal(ours, theirs)


def test_by_hand():
    """int8, a scale per row: 127 / 127 = 1, so all is rounded to whole numbers, ties to even."""
    row = np.array([[127.0, 0.5, 1.5, -2.4]], np.float32)
    assert round_trip(row, weight_form("int8")).tolist() == [[127, 0, 2, -2]]
    # int4 of 0 to 15: a scale of 1 and a zero point of 0.
    row = np.array([[15.0, 0.4, 0.6, 7.5]], np.float32)
    assert round_trip(row, weight_form("int4", 4)).tolist() == [[15, 0, 1, 8]]


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_zeros_stay_zeros(form):
    values = np.zeros((3, 5), np.float32)
    assert not round_trip(values, weight_form(form, 2)).any()
