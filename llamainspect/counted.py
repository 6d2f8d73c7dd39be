"""A weight, a component or a layer from the tallies of its pieces."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.distribution import Distribution, Moments, entropy, joined, pooled
from llamainspect.tally import (
    UNIT_EXPONENT,
    Ints,
    Sums,
    Tally,
    ValueTable,
    bucket_middles,
    is_counted,
    table_of,
)
from llamainspect.weights import Weight

BUCKETS = "buckets"  # in place of a type's name: values are known to 0.4 percent
TableKey = tuple[str, bool]  # name of a dtype, and whether its values are negated


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
    exact: bool  # whether quantiles and histograms are

    @property
    def quantize_error(self) -> float | None:
        """Relative L2 of the round trip; None where none was made."""
        return math.sqrt(Fraction(self.error, self.square)) if self.square else None


def figures_of_group(members: list[Figures]) -> Figures:
    """Of all elements together."""
    entropies = [(m.entropy, m.entropy_elements) for m in members if m.entropy is not None]
    known = sum(count for _, count in entropies)
    return Figures(
        elements=sum(m.elements for m in members),
        moments=pooled([m.moments for m in members if m.moments]),
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
        exact=all(m.exact for m in members),
    )


class Counted:
    """One weight, put together from the tallies of its slices in whatever order they come."""

    def __init__(self, weight: Weight) -> None:
        part = weight.parts[0]
        self.weight = weight
        known = is_counted(part.dtype)
        self.key: TableKey = (part.dtype.name, part.negative) if known else ("BF16", False)
        self.not_finite: list[tuple[int, ...]] = []  # indices
        self._ranks: Ints = np.empty(0, np.int64)
        self._counts: Ints = np.empty(0, np.int64)
        self._dense: Ints | None = None  # of a weight in several slices
        self._sums: Sums | None = None
        self._error = self._square = 0

    def add(self, tally: Tally, alone: bool) -> None:
        """One slice; `alone`: it is the whole weight."""
        if alone:
            self._ranks, self._counts = tally.ranks, tally.counts
        else:
            if self._dense is None:
                self._dense = np.zeros(2**16, np.int64)
            self._dense[tally.ranks] += tally.counts
        if tally.sums is not None:
            if self._sums is None:
                self._sums = tally.sums
            else:
                self._sums.merge(tally.sums)
        self.not_finite += tally.not_finite
        self._error += tally.error
        self._square += tally.square

    def finish(self) -> Figures:
        """All slices are there."""
        if self._dense is not None:
            self._ranks = np.flatnonzero(self._dense)
            self._counts = self._dense[self._ranks]
            self._dense = None
        self.not_finite.sort()
        if self._sums is not None:
            self.key = ("BF16", False) if self._sums.narrow else (BUCKETS, False)
            if not self._sums.has_buckets:  # then quantiles would be those of the rest
                self._ranks, self._counts = self._ranks[:0], self._counts[:0]
        return self._figures()

    @property
    def narrow(self) -> bool:
        """Whether values of a wide type are such as BF16 has."""
        return self._sums is not None and self.key[0] != BUCKETS

    def distribution(self) -> Distribution:
        """Of the finite values."""
        return _distribution(self.key, self._ranks, self._counts)

    def add_to(self, dense: Ints) -> None:
        """Its counts by rank, to those of a group."""
        dense[self._ranks] += self._counts

    def _figures(self) -> Figures:
        exact = self.key[0] != BUCKETS
        plain = Figures(
            elements=self.weight.elements,
            moments=None,
            min=None,
            max=None,
            zeros=0,
            subnormal=0,
            nan=0,
            inf=0,
            entropy=entropy(self._counts) if exact else None,
            entropy_elements=self.weight.elements if exact else 0,
            error=self._error,
            square=self._square,
            exact=exact,
        )
        return self._of_codes(plain) if self._sums is None else _of_sums(plain, self._sums)

    def _of_codes(self, plain: Figures) -> Figures:
        table, known = table_of(*self.key), self.distribution()
        values = known.values

        def elements(chosen: npt.NDArray[np.bool_]) -> int:
            return int(self._counts[chosen[self._ranks]].sum())

        return plain._replace(
            moments=known.moments(),
            min=float(values[0]) if len(values) else None,
            max=float(values[-1]) if len(values) else None,
            zeros=elements(table.zero),
            subnormal=elements(table.subnormal),
            nan=elements(table.nan),
            inf=elements(table.inf),
        )


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


class GroupCounts:
    """The values of all weights of a component or layer, by how they are counted."""

    def __init__(self) -> None:
        self._by_key: dict[TableKey, Ints] = {}

    def add(self, counted: Counted) -> None:
        """One weight that is finished."""
        if counted.key not in self._by_key:
            self._by_key[counted.key] = np.zeros(2**16, np.int64)
        counted.add_to(self._by_key[counted.key])

    def join(self, other: "GroupCounts") -> None:
        """All weights of another group, too."""
        for key, dense in other._by_key.items():
            mine = self._by_key.get(key)
            self._by_key[key] = dense.copy() if mine is None else mine + dense

    def distribution(self) -> Distribution:
        """Of the finite values of all."""
        parts = []
        for key, dense in sorted(self._by_key.items()):
            ranks = np.flatnonzero(dense)
            parts.append(_distribution(key, ranks, dense[ranks]))
        return joined(parts)


def _table(key: TableKey) -> ValueTable:
    return table_of("BF16") if key[0] == BUCKETS else table_of(*key)


def _distribution(key: TableKey, ranks: Ints, counts: Ints) -> Distribution:
    table = _table(key)
    values = bucket_middles() if key[0] == BUCKETS else table.values
    finite = slice(*np.searchsorted(ranks, (table.first, table.end)))
    return Distribution(values[ranks[finite]], counts[finite])


def _moments(sums: Sums) -> Moments | None:
    """From sums of differences to a value near by, without rounding before the end."""
    if not sums.finite or sums.overflow:
        return None
    unit = Fraction(1, 2**-UNIT_EXPONENT)
    total, squares = sums.total * unit, sums.squares * unit
    deviations = max(squares - total * total / sums.finite, Fraction(0))
    try:
        mean = float(Fraction(sums.shift) + total / sums.finite)
        return Moments(sums.finite, mean, float(deviations))
    except OverflowError:
        return None
