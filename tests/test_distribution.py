"""Figures of counted values are those of the values themselves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamainspect.distribution import QUANTILES, Distribution, entropy, joined
from llamainspect.moments import Moments, pooled

VALUES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=60)


def counted(values):
    unique, counts = np.unique(np.array(values, np.float64), return_counts=True)
    return Distribution(unique, counts.astype(np.int64))


@settings(deadline=None)
@given(VALUES)
def test_quantiles_are_those_of_numpy(values):
    for name, value in counted(values).quantiles().items():
        assert value == pytest.approx(np.quantile(values, float(name)), abs=1e-12)
    assert tuple(counted(values).quantiles()) == QUANTILES


@settings(deadline=None)
@given(VALUES, VALUES)
def test_moments_of_parts_are_those_of_the_whole(one, other):
    whole = counted(one + other).moments()
    assert whole.mean == pytest.approx(np.mean(one + other), abs=1e-12)
    assert whole.std == pytest.approx(np.std(one + other), abs=1e-12)
    assert whole.l2 == pytest.approx(np.linalg.norm(one + other), abs=1e-12)
    parts = pooled([counted(one).moments(), counted(other).moments()])
    assert parts.elements == whole.elements
    assert parts.mean == pytest.approx(whole.mean, abs=1e-12)
    assert parts.std == pytest.approx(whole.std, abs=1e-12)
    assert pooled([]) is None


@settings(deadline=None)
@given(VALUES, VALUES)
def test_joined_distributions_are_that_of_all_values(one, other):
    together = joined([counted(one), counted(other)])
    assert (np.diff(together.values) >= 0).all()
    assert together.quantiles() == pytest.approx(counted(one + other).quantiles())
    assert joined([]).quantiles() == {}


@settings(deadline=None)
@given(VALUES)
def test_a_histogram_has_every_value_once(values):
    known = counted(values)
    histogram = known.around(known.moments())
    assert sum(histogram.counts) + histogram.below + histogram.above == len(values)
    whole = known.histogram(min(values), max(values), 7)
    if min(values) < max(values):
        assert whole.counts == tuple(np.histogram(values, 7)[0].tolist())
    else:
        assert whole.counts == (len(values),)


def test_entropy_by_hand():
    assert entropy(np.array([4, 4, 0, 4, 4])) == 2.0
    assert entropy(np.array([7])) == 0.0
    assert entropy(np.array([], np.int64)) is None
    assert entropy(np.array([1, 3])) == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))


@pytest.mark.parametrize(
    "parts",
    [
        [Moments(1, 1e300, 0), Moments(1, 0, 0)],  # a square that overflows
        [Moments(2, 0, 1.7e308), Moments(2, 0, 1.7e308)],  # a sum of squares
        [Moments(100, 1.7e308, 0), Moments(1, 0, 0)],  # a sum
    ],
)
def test_what_float64_cannot_hold_together_is_not_pooled(parts):
    assert pooled(parts) is None


def test_length_of_a_spread():
    assert Moments(4, 3.0, 0.0).l2 == 6.0
    assert Moments(4, 0.0, 16.0).std == 2.0
