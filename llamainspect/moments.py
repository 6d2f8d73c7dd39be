"""Mean and spread of some values, and of several such groups together."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Moments(NamedTuple):
    """Of some finite values."""

    elements: int
    mean: float
    deviations: float  # sum of squared differences from the mean

    @property
    def std(self) -> float:
        """Of the whole population."""
        return math.sqrt(self.deviations / self.elements)

    @property
    def l2(self) -> float:
        """The square root of the sum of squares; infinite where float64 cannot hold it."""
        return math.hypot(math.sqrt(self.deviations), math.sqrt(self.elements) * self.mean)


def pooled(parts: Sequence[Moments]) -> Moments | None:
    """Of all values together; None where there are none, or float64 cannot hold their squares.

    The same in whatever order the parts come.
    """
    elements = sum(part.elements for part in parts)
    if not elements:
        return None
    try:
        mean = math.fsum(part.elements * part.mean for part in parts) / elements
        between = [part.elements * (part.mean - mean) ** 2 for part in parts]
        deviations = math.fsum([*between, *(part.deviations for part in parts)])
    except OverflowError:
        return None
    found = Moments(elements, mean, deviations)
    return found if math.isfinite(mean) and math.isfinite(deviations) else None
