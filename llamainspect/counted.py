"""A weight, a component or a layer from the tallies of its slices."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.blocks import Floats
from llamainspect.distribution import Distribution, entropy, joined
from llamainspect.moments import Moments, pooled
from llamainspect.tally import (
    FEW,
    POINTS,
    UNIT_EXPONENT,
    Ints,
    Place,
    Slice,
    Sums,
    Tally,
    bucket_points,
    has_table,
    table_of,
)
from llamainspect.weights import Weight

BUCKETS = ("buckets", False)  # values are known to 0.8 percent
SMALLEST = 1e-280  # a sum of squares below it may have lost some
LEAST = 1e-35  # of the largest magnitude: far above float32's subnormal values, of few digits
MOST = float(np.finfo(np.float32).max)
BUCKET_WIDTH = 2.0**-7  # as a share of the values in it
MIN_BUCKETS = 1  # in a standard deviation: fewer draw nothing
NOTHING = joined([])
# In which order what is left of a bucket goes to its points: from the middle outwards.
_FILLED = np.argsort(np.argsort(np.abs(np.arange(POINTS) - (POINTS - 1) / 2), kind="stable"))
TableKey = tuple[str, bool]  # name of a dtype, and whether its values are negated; or BUCKETS


class Figures(NamedTuple):
    """What is known of some elements without looking at their distribution."""

    elements: int
    moments: Moments | None  # None: no value is finite, or float64 cannot hold their squares
    min: float | None
    max: float | None
    zeros: int
    subnormal: int
    nan: int
    inf: int
    entropy: float | None  # None: values were not counted one by one
    entropy_elements: int  # elements that it is of
    error: int  # sums of squares of a round trip, as in a Tally
    square: int

    @property
    def quantize_error(self) -> float | None:
        """Relative L2 of the round trip; None where none was made."""
        return math.sqrt(Fraction(self.error, self.square)) if self.square else None


def figures_of_group(members: list[Figures]) -> Figures:
    """Of all elements together."""
    entropies = [(m.entropy, m.entropy_elements) for m in members if m.entropy is not None]
    known = sum(elements for _, elements in entropies)
    unknown = any(m.moments is None and m.elements > m.nan + m.inf for m in members)
    return Figures(
        elements=sum(m.elements for m in members),
        moments=None if unknown else pooled([m.moments for m in members if m.moments]),
        min=min((m.min for m in members if m.min is not None), default=None),
        max=max((m.max for m in members if m.max is not None), default=None),
        zeros=sum(m.zeros for m in members),
        subnormal=sum(m.subnormal for m in members),
        nan=sum(m.nan for m in members),
        inf=sum(m.inf for m in members),
        entropy=math.fsum(bits * n for bits, n in entropies) / known if known else None,
        entropy_elements=known,
        error=sum(m.error for m in members),
        square=sum(m.square for m in members),
    )


class Counted(NamedTuple):
    """One weight, all of it."""

    figures: Figures
    key: TableKey  # what its counts are of
    ranks: Ints  # in that table, ascending
    counts: Ints
    few: Distribution | None  # of a wide type, where its values were counted one by one, too
    not_finite: tuple[Place, ...]  # the first of them
    narrow: bool  # of a wide type, and all values are such as BF16 has

    @property
    def distribution(self) -> Distribution:
        """Of the finite values; empty where it is not known."""
        if self.few is not None:
            return self.few
        known = _distribution(self.key, self.ranks, self.counts, self.figures)
        return known if self.key != BUCKETS else _judged(known, self.figures)


class Gathering:
    """The tallies of a weight's slices, in whatever order they come."""

    def __init__(self, weight: Weight, slices: int) -> None:
        self.weight = weight
        self.left = slices  # that are still to come
        self._whole: Tally | None = None  # of a weight in one slice
        self._dense: Ints | None = None
        self._sums: Sums | None = None
        self._few: list[Floats] = []
        self._places: list[Place] = []
        self._error = self._square = 0

    def add(self, piece: Slice, tally: Tally) -> None:
        """One slice."""
        if piece.whole:
            self._whole = tally
        else:
            if self._dense is None:
                self._dense = np.zeros(2**16, np.int64)
            self._dense[tally.ranks] += tally.counts
        if self._sums is not None and tally.sums is not None:
            self._sums.merge(tally.sums)
        else:
            self._sums = tally.sums
        self._few.append(tally.few)
        self._places += tally.not_finite
        self._error += tally.error
        self._square += tally.square

    def finish(self) -> Counted:
        """What the slices are together."""
        ranks = counts = np.empty(0, np.int64)
        if self._whole is not None:
            ranks, counts = self._whole.ranks, self._whole.counts
        elif self._dense is not None:
            ranks = np.flatnonzero(self._dense)
            counts = self._dense[ranks]
        key, narrow = self._key()
        few = None
        if key == BUCKETS and self.weight.elements <= FEW:
            few = Distribution(*np.unique(np.concatenate(self._few), return_counts=True))
        plain = self._plain(entropy(counts) if key != BUCKETS else None)
        if self._sums is not None:
            figures = _of_sums(plain, self._sums)
        else:
            figures = _of_codes(plain, key, ranks, counts)
        return Counted(figures, key, ranks, counts, few, tuple(sorted(self._places)), narrow)

    def _key(self) -> tuple[TableKey, bool]:
        part = self.weight.parts[0]
        if has_table(part.dtype):
            return (part.dtype.name, part.negative), False
        if self._sums is None:  # there is no value
            return ("BF16", False), False
        narrow = self._sums.narrow
        return ("BF16", False) if narrow else BUCKETS, narrow

    def _plain(self, bits: float | None) -> Figures:
        return Figures(
            elements=self.weight.elements,
            moments=None,
            min=None,
            max=None,
            zeros=0,
            subnormal=0,
            nan=0,
            inf=0,
            entropy=bits,
            entropy_elements=0 if bits is None else self.weight.elements,
            error=self._error,
            square=self._square,
        )


class GroupCounts:
    """The values of all weights of a component or layer, by how they are counted."""

    def __init__(self) -> None:
        self._by_key: dict[TableKey, Ints] = {}

    def add(self, weight: Counted) -> None:
        """One more weight."""
        if weight.key not in self._by_key:
            self._by_key[weight.key] = np.zeros(2**16, np.int64)
        self._by_key[weight.key][weight.ranks] += weight.counts

    def join(self, other: "GroupCounts") -> None:
        """All weights of another group, too."""
        for key, dense in other._by_key.items():
            mine = self._by_key.get(key)
            self._by_key[key] = dense if mine is None else mine + dense

    def distribution(self, figures: Figures) -> Distribution:
        """Of the finite values of all; empty where some are not known."""
        parts = []
        for key, dense in sorted(self._by_key.items()):
            ranks = np.flatnonzero(dense)
            parts.append(_distribution(key, ranks, dense[ranks], figures))
        whole = joined(parts)
        return _judged(whole, figures) if BUCKETS in self._by_key else whole


def _distribution(key: TableKey, ranks: Ints, counts: Ints, figures: Figures) -> Distribution:
    table = table_of("BF16") if key == BUCKETS else table_of(*key)
    finite = slice(*np.searchsorted(ranks, (table.first, table.end)))
    if key != BUCKETS or figures.min is None:
        return Distribution(table.values[ranks[finite]], counts[finite])
    # No value is outside of what is known of it; those of a bucket are spread over it.
    values = np.clip(bucket_points()[ranks[finite]], figures.min, figures.max)
    each, rest = np.divmod(counts[finite][:, None], POINTS)
    spread = each + (rest > _FILLED)  # (buckets, POINTS)
    return Distribution(values.reshape(-1), spread.reshape(-1), exact=False)


def _judged(known: Distribution, figures: Figures) -> Distribution:
    """Values by buckets, if these are worth anything: nothing where float32 cannot hold the values,
    or only with few digits, and no drawing where all are in a bucket or two."""
    if figures.min is None or figures.max is None or figures.moments is None:
        return NOTHING
    largest = max(figures.max, -figures.min)
    if not (largest == 0 or LEAST <= largest <= MOST):
        return NOTHING
    width = BUCKET_WIDTH * abs(figures.moments.mean)
    fine = figures.min == figures.max or figures.moments.std >= MIN_BUCKETS * width
    return known._replace(fine=fine)


def _of_sums(plain: Figures, sums: Sums) -> Figures:
    return plain._replace(
        moments=_moments(sums),
        min=sums.min if sums.finite else None,
        max=sums.max if sums.finite else None,
        zeros=sums.zeros,
        subnormal=sums.subnormal,
        nan=sums.nan,
        inf=sums.inf,
    )


def _of_codes(plain: Figures, key: TableKey, ranks: Ints, counts: Ints) -> Figures:
    table, known = table_of(*key), _distribution(key, ranks, counts, plain)

    def elements(chosen: npt.NDArray[np.bool_]) -> int:
        return int(counts[chosen[ranks]].sum())

    return plain._replace(
        moments=known.moments(),
        min=float(known.values[0]) if len(known.values) else None,
        max=float(known.values[-1]) if len(known.values) else None,
        zeros=elements(table.zero),
        subnormal=elements(table.subnormal),
        nan=elements(table.nan),
        inf=elements(table.inf),
    )


def _moments(sums: Sums) -> Moments | None:
    """From sums of differences to a value near by, without rounding before the end."""
    if not sums.finite or sums.overflow:
        return None
    unit = Fraction(1, 2**-UNIT_EXPONENT)
    total, squares = sums.total * unit, sums.squares * unit
    deviations = max(squares - total * total / sums.finite, Fraction(0))
    if sums.min < sums.max and deviations < SMALLEST:
        return None
    try:
        mean = float(Fraction(sums.shift) + total / sums.finite)
        return Moments(sums.finite, mean, float(deviations))
    except OverflowError:
        return None
