"""Figures of values of which it is known how often each is there."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.blocks import Floats
from llamainspect.moments import Moments
from llamainspect.reports import HISTOGRAM_STDS, Histogram

QUANTILES = ("0.001", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "0.999")
BINS = 32
_QUANTILES = np.array([float(name) for name in QUANTILES])


class Distribution(NamedTuple):
    """Finite values, ascending, and how often each is there."""

    values: Floats
    counts: npt.NDArray[np.int64]
    exact: bool = True  # or else each is close to what it stands for
    fine: bool = True  # or else values stand closer together than that tells apart

    def moments(self) -> Moments | None:
        """Exact but for the last rounding: products of a count and a value of 16 bits are exact,
        and so is their sum before it is rounded."""
        total = int(self.counts.sum())
        if not total:
            return None
        mean = math.fsum((self.counts * self.values).tolist()) / total
        deviations = math.fsum((self.counts * (self.values - mean) ** 2).tolist())
        return Moments(total, mean, deviations)

    def quantiles(self) -> dict[str, float]:
        """Between the two elements that a quantile falls between a line is drawn, as numpy does."""
        reached = np.cumsum(self.counts)
        if not len(reached):
            return {}
        places = _QUANTILES * (int(reached[-1]) - 1)
        below = places.astype(np.int64)
        above = np.minimum(below + 1, int(reached[-1]) - 1)
        low, high = self.values[np.searchsorted(reached, [below, above], side="right")]
        share = places - below
        between = np.where(low == high, low, low * (1 - share) + high * share)
        return dict(zip(QUANTILES, between.tolist(), strict=True))

    def around(self, moments: Moments) -> Histogram:
        """Some standard deviations to each side of the mean, no further than values go."""
        reach = HISTOGRAM_STDS * moments.std
        start = max(float(self.values[0]), moments.mean - reach)
        end = min(float(self.values[-1]), moments.mean + reach)
        return self.histogram(start, end, BINS)

    def histogram(self, start: float, end: float, bins: int) -> Histogram:
        """In bins of equal width; one alone where all values are the same."""
        if start >= end:
            start = end = float(self.values[0])
            return Histogram(start, end, (int(self.counts.sum()),), 0, 0)
        inside = (self.values >= start) & (self.values <= end)
        values, counts = self.values[inside], self.counts[inside]
        # Whole numbers below 2**53 are exact in float64, which numpy adds weights up in.
        edges = np.linspace(start, end, bins + 1)
        found, _ = np.histogram(values, edges, weights=counts.astype(np.float64))
        below = int(self.counts[self.values < start].sum())
        above = int(self.counts[self.values > end].sum())
        return Histogram(start, end, tuple(int(count) for count in found), below, above)


def joined(parts: list[Distribution]) -> Distribution:
    """All values of some distributions."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts]) if parts else np.empty(0)
    counts = np.concatenate([part.counts for part in parts]) if parts else np.empty(0, np.int64)
    order = np.argsort(values, kind="stable")
    return Distribution(values[order], counts[order], all(part.exact for part in parts))


def entropy(counts: npt.NDArray[np.int64]) -> float | None:
    """Bits per element that tell which value it is, where each is as frequent as it is here."""
    total = int(counts.sum())
    if not total:
        return None
    shares = counts[counts > 0] / total
    return max(0.0, -math.fsum((shares * np.log2(shares)).tolist()))
