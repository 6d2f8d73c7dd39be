"""The values of a weight, counted: however it is cut into shards or slices, the same bits come out.

A type of at most 16 bits has at most 65,536 values. How often each is there says everything about a
weight, exactly, in one pass. The values of wider types are counted by the upper 16 bits of their
float32, buckets of 0.8 percent, which give quantiles; their sums are taken row by row in float64,
and rows are added up exactly.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.blocks import (
    Codes,
    Floats,
    Grid,
    Memory,
    Reader,
    grid_of,
    has_values,
    is_flat,
    widen,
)
from llamainspect.checkpoint import Checkpoint
from llamainspect.dtypes import DTYPES, DType
from llamainspect.footprint import WeightForm
from llamainspect.rounding import round_trip
from llamainspect.tensors import contiguous_strides
from llamainspect.weights import Weight, meta_row

Ints = npt.NDArray[np.int64]
POINTS = 8  # that the elements of a bucket are spread over
SPARSE = 2**12  # elements of a slice up to which all values of a type are too many to look at
FEW = 2**16  # elements of a wide type that are counted one by one, too
SLICE_NBYTES = 32 * 2**20  # of a weight that one thread looks at in one go
RUN = 64  # elements of a column that are added up in float64
# What bounds the memory of a thread: bytes by which an element counts in a block (of 1 MiB), since
# wider arrays are made of it, and what is read at one go.
COUNTED_WIDTH, WIDE_WIDTH = 1, 8
MAX_ROW_ELEMENTS = 2**17
MAX_SCATTERED_NBYTES = 8 * 2**20
MAX_PLACES = 100  # elements that are not finite, located in each weight
SMALLEST_NORMAL = {"F64": float(np.finfo(np.float64).tiny)}


# --- what there is to count -----------------------------------------------------------------------


class ValueTable:
    """All codes of a type of at most 16 bits, in the order of their values; NaN stands last."""

    def __init__(self, dtype: DType, negative: bool = False) -> None:
        bits = 8 * dtype.block_bytes
        codes = np.arange(2**bits, dtype=f"<u{dtype.block_bytes}")
        widened = np.empty(len(codes), np.float32)
        stored: Codes = (codes != 0).view(np.uint8) if dtype.name == "BOOL" else codes
        with np.errstate(all="ignore"):
            widen(stored.view(np.dtype(dtype.numpy)), dtype, widened)
            values = -widened if negative else widened
            self.order = np.argsort(values, kind="stable")
            self.values: Floats = values[self.order].astype(np.float64)
        finite = np.flatnonzero(np.isfinite(self.values))
        self.first, self.end = int(finite[0]), int(finite[-1]) + 1  # ranks of finite values
        self.rank = np.argsort(self.order)  # of each code
        self.code_values: Floats = values
        self.nan, self.inf = np.isnan(self.values), np.isinf(self.values)
        self.zero = self.values == 0
        self.subnormal = ~self.zero & (np.abs(self.values) < _smallest_normal(dtype))


def _smallest_normal(dtype: DType) -> float:
    """Below it values have fewer digits; 0 where there is nothing of the kind."""
    layout = dtype.small_float
    if layout is not None:
        return math.ldexp(1, 1 - layout.bias) if layout.mantissa_bits else 0.0
    return float(np.finfo(np.float16).tiny) if dtype.name == "F16" else 0.0


@cache
def table_of(name: str, negative: bool = False) -> ValueTable:
    """Of a dtype by its name; `negative`: as torch's lazy negatives are read."""
    return ValueTable(DTYPES[name], negative)


@cache
def bucket_points() -> Floats:
    """What stands for each bucket of wide values, in the order of BF16's table (buckets, POINTS):
    values spread over it, ascending, and 0 for the bucket that 0 is in."""
    table = table_of("BF16")
    starts = table.order.astype(np.uint32) << np.uint32(16)
    inside = np.arange(1, 2 * POINTS, 2, dtype=np.uint32) * np.uint32(2**15 // POINTS)
    with np.errstate(invalid="ignore"):  # buckets of NaN, which nothing is counted in
        points = (starts[:, None] | inside).view(np.float32).astype(np.float64)
    return np.sort(np.where(table.zero[:, None], 0.0, points), axis=1)


def has_table(dtype: DType) -> bool:
    """Whether its values are few enough to be counted one by one."""
    return has_values(dtype) and dtype.block_bytes <= 2


class Sums:
    """Of wide values: sums that do not depend on the order of what was added."""

    def __init__(self, shift: float) -> None:
        self.shift = shift  # a value that was near, so that nothing is lost in the squares
        self.finite = self.zeros = self.subnormal = self.nan = self.inf = 0
        self.min, self.max = math.inf, -math.inf
        self.total = self.squares = 0  # of differences from `shift`, in units of UNIT_EXPONENT
        self.overflow = False  # float64 cannot hold the square of a value
        self.narrow = True  # every value so far is one that BF16 has, too

    def merge(self, other: "Sums") -> None:
        """Add what another thread found in other rows of the same weight."""
        assert self.shift == other.shift
        self.finite += other.finite
        self.zeros += other.zeros
        self.subnormal += other.subnormal
        self.nan += other.nan
        self.inf += other.inf
        self.total += other.total
        self.squares += other.squares
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        self.overflow |= other.overflow
        self.narrow &= other.narrow


class Place(NamedTuple):
    """An element that is not finite."""

    number: int  # of the element, in the order of the weight as Meta has it
    value: float


class Tally(NamedTuple):
    """Some rows of a weight, counted."""

    ranks: Ints  # of the table's values that are there, ascending
    counts: Ints
    not_finite: tuple[Place, ...]  # the first of them
    sums: Sums | None  # of wide types
    few: Floats  # of these, where they are FEW: the finite values
    error: int  # sum of squared errors of a round trip, in units of UNIT_EXPONENT
    square: int  # sum of squares, likewise


UNIT_EXPONENT = -1127  # of two: below the last bit of float64's smallest


def exact_sum(values: Floats) -> int:
    """Of finite float64s, in units of 2**UNIT_EXPONENT: the same whatever their order."""
    fractions, exponents = np.frexp(values)
    whole = np.ldexp(fractions, 53).astype(np.int64)
    high, low = whole >> 26, whole & (2**26 - 1)
    lowest = int(exponents.min(initial=0))
    place = exponents - lowest
    # Halves of 27 bits: float64 adds up 2**26 of them without rounding.
    highs, lows = np.bincount(place, high), np.bincount(place, low)
    return sum(
        ((int(highs[i]) << 26) + int(lows[i])) << (int(i) + lowest - 53 - UNIT_EXPONENT)
        for i in np.flatnonzero((highs != 0) | (lows != 0))
    )


# --- counting -------------------------------------------------------------------------------------


class Slice(NamedTuple):
    """Rows of a weight that are looked at in one go."""

    weight: Weight
    stored: Weight  # the same as it is read
    axes: tuple[int, ...]  # of the weight, in the order that `stored` has
    grid: Grid
    step: int  # rows of a block
    first: int
    last: int
    form: WeightForm | None  # what a round trip is made through

    @property
    def nbytes(self) -> int:
        """Of these rows."""
        return (self.last - self.first) * self.grid.columns * self.stored.parts[0].dtype.block_bytes

    @property
    def whole(self) -> bool:
        """Whether it is all of the weight."""
        return self.first == 0 and self.last == self.grid.rows

    def numbers(self, places: Ints) -> Ints:
        """Of elements by the order in which they are read: by the order that Meta has."""
        shape = self.weight.shape
        if not shape or (self.stored.shape == shape and not self.weight.rope_heads):
            return places
        read = np.unravel_index(places, self.stored.shape)
        index = [read[self.axes.index(axis)] for axis in range(len(shape))]
        if self.weight.rope_heads:
            head_dim = shape[0] // self.weight.rope_heads
            rows = np.array([meta_row(self.weight, row) for row in range(head_dim)])
            index[0] = index[0] // head_dim * head_dim + rows[index[0] % head_dim]
        return np.asarray(np.ravel_multi_index(tuple(index), shape))


def slices_of(weight: Weight, form: WeightForm | None) -> Iterator[Slice]:
    """A weight of known values in pieces, none for one without elements.

    Counted types are read as they are stored, whatever the order of rows and axes. Sums of wide
    types are of a weight's own rows, and so are groups of a round trip; where these cannot be read
    in blocks, sums are of the rows that are stored, and no round trip is made.
    """
    known = has_table(weight.parts[0].dtype)
    axes = _stored_axes(weight)
    if not _has_its_rows(weight, axes):
        form = None
    elif form is not None or not known:
        axes = tuple(range(len(weight.shape)))
    stored = _in_order(weight._replace(rope_heads=0), axes)
    grid = grid_of(stored, whole_rows=form is not None or not known)
    if form is None and grid.columns > MAX_ROW_ELEMENTS and is_flat(stored):
        grid = Grid(grid.rows * grid.columns, 1)
    width = COUNTED_WIDTH if known and form is None else WIDE_WIDTH
    step = next((last for _, last in grid.blocks(width)), 0)
    nbytes = step * grid.columns * weight.parts[0].dtype.block_bytes
    rows = step * max(SLICE_NBYTES // max(nbytes, 1), 1)  # of a slice: whole blocks
    for first in range(0, grid.rows, max(rows, 1)):
        yield Slice(weight, stored, axes, grid, step, first, min(first + rows, grid.rows), form)


def _has_its_rows(weight: Weight, axes: tuple[int, ...]) -> bool:
    """Whether rows can be read without all of the weight, and fit into a block."""
    plain = axes == tuple(range(len(axes)))
    few = all(part.span <= MAX_SCATTERED_NBYTES for part in weight.parts)
    short = not weight.shape or weight.shape[-1] <= MAX_ROW_ELEMENTS
    return short and (plain or few)


def _stored_axes(weight: Weight) -> tuple[int, ...]:
    """Axes by their steps, the longest first, if all parts are plain when they are sorted so."""
    plain = tuple(range(len(weight.shape)))
    strides = weight.parts[0].strides
    if strides is None:
        return plain
    axes = tuple(sorted(plain, key=lambda axis: -strides[axis]))
    for part in weight.parts:
        shape = _sorted_by(axes, part.shape)
        steps = _sorted_by(axes, part.strides or contiguous_strides(part.shape))
        expected = contiguous_strides(shape)
        # The step of an axis of one says nothing.
        if any(n > 1 and a != b for n, a, b in zip(shape, steps, expected, strict=True)):
            return plain
    return axes


def _in_order(weight: Weight, axes: tuple[int, ...]) -> Weight:
    """With its axes in that order: a transposed view becomes a plain matrix."""
    if axes == tuple(range(len(axes))):
        return weight
    parts = tuple(
        part._replace(shape=_sorted_by(axes, part.shape), strides=None) for part in weight.parts
    )
    axis = None if weight.axis is None else axes.index(weight.axis)
    return weight._replace(shape=_sorted_by(axes, weight.shape), parts=parts, axis=axis)


def _sorted_by(axes: tuple[int, ...], numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(numbers[axis] for axis in axes)


def index_of(weight: Weight, place: Place) -> tuple[int, ...]:
    """The index of an element in the whole weight."""
    return tuple(int(i) for i in np.unravel_index(place.number, weight.shape))


def count_values(checkpoint: Checkpoint, piece: Slice, memory: Memory) -> Tally:
    """Read some rows and count what is in them. Raises CorruptFile when bytes are missing."""
    counter = _Counter(checkpoint, piece, memory)
    for first in range(piece.first, piece.last, piece.step):
        counter.read(first, min(first + piece.step, piece.last))
    return counter.tally()


class _Counter:
    """Counts the blocks of a slice."""

    def __init__(self, checkpoint: Checkpoint, piece: Slice, memory: Memory) -> None:
        self.piece, self.memory = piece, memory
        self.reader = Reader(
            checkpoint,
            piece.stored,
            piece.grid,
            memory,
            max_scattered_nbytes=MAX_SCATTERED_NBYTES,
        )
        part = piece.weight.parts[0]
        self.dtype, self.negative = part.dtype, part.negative
        known = has_table(self.dtype)
        self.table = table_of(self.dtype.name, self.negative) if known else table_of("BF16")
        # How often each code was seen; of a slice of few elements only those that were seen.
        self.histogram: Ints | None = None
        self.codes: list[Codes] = []
        if (piece.last - piece.first) * piece.grid.columns > SPARSE:
            self.histogram = memory.take("histogram", len(self.table.order), np.int64)
            self.histogram[:] = 0
        self.places: list[Place] = []
        self.few: list[Floats] = []
        self.sums = None if known else Sums(self._shift())
        self.error = self.square = 0

    def _shift(self) -> float:
        """The weight's first value, which is the same for all of its slices."""
        value = float(self.reader.read(0, 1).reshape(-1)[0])
        return 0.0 if not math.isfinite(value) else -value if self.negative else value

    def read(self, first: int, last: int) -> None:
        """Count one block."""
        codes = self.reader.read(first, last)
        start = first * self.piece.grid.columns  # number of the first element
        with np.errstate(all="ignore"):  # what is not finite is counted, not warned of
            if self.sums is None:
                self._add_counted(start, codes)
            else:
                self._add_wide(start, codes, self.sums)
            if self.piece.form is not None:
                self._add_round_trip(codes, self.piece.form)

    def _add_counted(self, start: int, codes: Codes) -> None:
        plain = codes.reshape(-1).view(f"<u{self.dtype.block_bytes}")
        if not np.isfinite(self.table.code_values[self._count(plain)]).all():
            self._locate(start, self.table.code_values[plain])

    def _locate(self, start: int, values: Floats) -> None:
        """Keep the first elements that are not finite, by the order that Meta has."""
        odd = np.flatnonzero(~np.isfinite(values))
        numbers = self.piece.numbers(start + odd)
        first = np.argsort(numbers)[:MAX_PLACES]
        found = [Place(int(numbers[i]), float(values[odd[i]])) for i in first]
        self.places = sorted([*self.places, *found])[:MAX_PLACES]

    def _count(self, codes: Codes) -> Codes | Ints:
        """Count them; which there are comes back."""
        if self.histogram is None:
            self.codes.append(codes.copy())
            return codes
        places = self.memory.take("places", codes.size, np.intp)
        np.copyto(places, codes)
        found = np.bincount(places, minlength=len(self.histogram))
        self.histogram += found
        return np.flatnonzero(found)

    def _add_wide(self, start: int, codes: Codes, sums: Sums) -> None:
        values = self.memory.take("values", codes.size, np.float64).reshape(codes.shape)
        np.copyto(values, codes, casting="unsafe")
        if self.negative:
            np.negative(values, out=values)
        finite = np.isfinite(values)
        good = int(np.count_nonzero(finite))
        if good < values.size:
            nan = int(np.count_nonzero(np.isnan(values)))
            sums.nan += nan
            sums.inf += values.size - good - nan
            self._locate(start, values.reshape(-1))
        sums.finite += good
        sums.min = min(sums.min, float(np.min(values, initial=math.inf, where=finite)))
        sums.max = max(sums.max, float(np.max(values, initial=-math.inf, where=finite)))
        zeros = values.size - int(np.count_nonzero(values))
        sums.zeros += zeros
        if self.piece.weight.elements <= FEW:
            self.few.append(values[finite])
        self._add_sums(sums, values, finite)
        self._add_buckets(sums, values, zeros)

    def _add_sums(self, sums: Sums, values: Floats, finite: npt.NDArray[np.bool_]) -> None:
        room = self.memory.take("difference", values.size, np.float64).reshape(values.shape)
        np.subtract(values, sums.shift, out=room)
        np.copyto(room, 0, where=~finite)
        sums.total += exact_sum(_finite_rows(_row_sums(room), sums))
        np.multiply(room, room, out=room)
        sums.squares += exact_sum(_finite_rows(_row_sums(room), sums))

    def _add_buckets(self, sums: Sums, values: Floats, zeros: int) -> None:
        if self.dtype.name in SMALLEST_NORMAL:
            tiny = np.abs(values) < SMALLEST_NORMAL[self.dtype.name]
            sums.subnormal += int(np.count_nonzero(tiny)) - zeros
        narrow = self.memory.take("narrow", values.size, np.float32)
        np.copyto(narrow, values.reshape(-1), casting="unsafe")
        halves = narrow.view("<u2").reshape(-1, 2)
        self._count(halves[:, 1])  # NaN and Inf have buckets of their own
        sums.narrow &= self.dtype.name == "F32" and not halves[:, 0].any()

    def _add_round_trip(self, codes: Codes, form: WeightForm) -> None:
        values = self.memory.take("given", codes.size, np.float32).reshape(codes.shape)
        widen(codes, self.dtype, values)
        if self.negative:
            np.negative(values, out=values)
        back = round_trip(values, form)
        # Where not even a scale can be stored, all is lost.
        np.copyto(back, 0, where=~np.isfinite(back))
        squares = values.astype(np.float64)
        np.subtract(squares, back, out=squares)
        np.multiply(squares, squares, out=squares)
        error = squares.sum(axis=1)
        np.multiply(values, values, out=squares, dtype=np.float64)
        square = squares.sum(axis=1)
        whole = np.isfinite(error) & np.isfinite(square)  # rows with NaN have no round trip
        self.error += exact_sum(error[whole])
        self.square += exact_sum(square[whole])

    def tally(self) -> Tally:
        """What was counted, by rank."""
        ranks, counts = self._by_rank()
        if self.sums is not None and self.dtype.name == "F32":
            self.sums.subnormal = int(counts[_subnormal_buckets()[ranks]].sum()) - self.sums.zeros
        return Tally(
            ranks=ranks,
            counts=counts,
            not_finite=tuple(self.places),
            sums=self.sums,
            few=np.concatenate(self.few) if self.few else np.empty(0),
            error=self.error,
            square=self.square,
        )

    def _by_rank(self) -> tuple[Ints, Ints]:
        if self.histogram is None:
            codes = np.concatenate(self.codes) if self.codes else np.empty(0, np.uint8)
            return np.unique(self.table.rank[codes], return_counts=True)
        by_rank = self.histogram[self.table.order]
        ranks = np.flatnonzero(by_rank)
        return ranks, by_rank[ranks]


@cache
def _subnormal_buckets() -> npt.NDArray[np.bool_]:
    """By rank in BF16's table: buckets of float32s below the smallest normal one, 0 included."""
    table = table_of("BF16")
    return np.asarray(table.zero | table.subnormal)


def _row_sums(values: Floats) -> Floats:
    """Of each row; of a single column, of every RUN elements and of what is left of them.

    Blocks of a column begin at the same elements in every layout, and so do these runs.
    """
    if values.shape[1] > 1:
        return np.asarray(values.sum(axis=1))
    runs = len(values) // RUN * RUN
    return np.append(values[:runs].reshape(-1, RUN).sum(axis=1), values[runs:].sum())


def _finite_rows(rows: Floats, sums: Sums) -> Floats:
    """Row sums, those that float64 cannot hold left out and remembered."""
    finite = np.isfinite(rows)
    if not finite.all():
        sums.overflow = True
        return np.asarray(rows[finite])
    return rows
