"""How far two weights of one shape are apart, in one pass over both of them, block by block.

Floats of up to 32 bits are compared in float32, which rounds a difference by 6e-8 of it at most,
all others in float64; sums are kept in float64.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.blocks import (
    Codes,
    Floats,
    Grid,
    Memory,
    Reader,
    bytes_of,
    grid_of,
    has_codes,
    has_values,
    is_flat,
    is_wide,
    small_values,
    widen,
)
from llamainspect.checkpoint import Checkpoint
from llamainspect.dtypes import DTYPES, DType
from llamainspect.errors import UnsupportedFile
from llamainspect.weights import Weight, meta_row

Mask = npt.NDArray[np.bool_]
RUN = 1024  # products that are added up in the type of the values
TINY = 1e-24  # a sum below that may have lost products that float32 takes for nothing
# Types that values may have passed through, coarsest last.
ROUNDED = ("F16", "BF16", "F8_E4M3", "F8_E5M2")


class Side(NamedTuple):
    """One weight of one of the two checkpoints."""

    checkpoint: Checkpoint
    weight: Weight

    @property
    def dtype(self) -> DType:
        """Of its elements, as the first part has it."""
        return self.weight.parts[0].dtype


class Distance(NamedTuple):
    """What was found. Sums are over elements that are finite on both sides."""

    elements: int
    changed: int  # elements of another value; NaN equals NaN
    # Index in Meta's numbers of the first element that changed, and of the last: first and last as
    # they are stored where both sides store their rows alike.
    first: tuple[int, ...] | None
    last: tuple[int, ...] | None
    same_bits: bool  # stored alike, to the last bit
    outside: int  # changed elements that are further apart than the tolerance
    max_abs: float | None  # None: nothing here knows the values
    square: float  # sum of squared differences
    square_a: float
    square_b: float
    product: float  # sum of products
    not_finite: tuple[int, int]  # NaN and Inf in each
    rounding: float  # sum of squares that storing B's values may have cost, at most
    rounded: frozenset[tuple[str, str]]  # ("a", "F16"): A, rounded to F16, may have B's values

    @property
    def rel_l2(self) -> float | None:
        """Length of the difference as a share of A's length."""
        return relative(self.square, self.square_a, self.max_abs)

    @property
    def cosine(self) -> float | None:
        """Of the angle between the two."""
        return cosine(self.product, self.square_a, self.square_b, self.max_abs)


def relative(square: float, square_a: float, max_abs: float | None) -> float | None:
    """Length of a difference as a share of A's length; None where that is nothing."""
    if max_abs is None or (square_a == 0 and square > 0) or not math.isfinite(square_a + square):
        return None
    return math.sqrt(square / square_a) if square_a else 0.0


def cosine(product: float, a: float, b: float, max_abs: float | None) -> float | None:
    """Of the angle between two, from their product and squares; None where one has no length."""
    if max_abs is None or a == 0 or b == 0 or not math.isfinite(a + b + product):
        return None
    return max(-1.0, min(1.0, product / math.sqrt(a) / math.sqrt(b)))


class Tolerance(NamedTuple):
    """Values count as the same within |a - b| <= atol + rtol * |b|."""

    rtol: float = 0.0
    atol: float = 0.0


EXACTLY = Tolerance()
Progress = Callable[[int], None]  # called with the bytes of both sides that were read


def compare_weights(
    a: Side,
    b: Side,
    tolerance: Tolerance = EXACTLY,
    memory: Memory | None = None,
    progress: Progress | None = None,
) -> Distance:
    """One weight in two checkpoints.

    Raises CorruptFile where bytes are missing, UnsupportedFile where equal numbers would not be
    equal values.
    """
    _check_meaning(a, b)
    if a.weight.rope_heads == b.weight.rope_heads != 0:
        return _as_stored(a, b, tolerance, memory, progress)
    valued = has_values(a.dtype) and has_values(b.dtype)
    if not has_codes(a.dtype) or not has_codes(b.dtype) or (a.dtype != b.dtype and not valued):
        return _as_bytes(a, b, memory, progress)
    memory = memory or Memory()
    grid = grid_of(a.weight, b.weight)
    if _same_storage_form(a, b) and _all_equal(a, b, grid, memory, progress):
        return _identical(a.weight.elements, has_values(a.dtype))
    sums = _Sums(a, b, grid, tolerance, memory)
    for first, codes_a, codes_b in _pairs(a, b, grid, memory, progress):
        sums.add(first, codes_a, codes_b)
    return sums.distance()


def _check_meaning(a: Side, b: Side) -> None:
    parts = (*a.weight.parts, *b.weight.parts)
    found = {part.meaning or "plain numbers" for part in parts}
    if len(found) > 1:
        raise UnsupportedFile(
            f"{a.weight.name}: its numbers are not of one kind ({'; '.join(sorted(found))}), and "
            "are not compared"
        )


def _as_stored(
    a: Side, b: Side, tolerance: Tolerance, memory: Memory | None, progress: Progress | None
) -> Distance:
    """Two weights with their rows in the same order, whichever that is."""
    sides = [side._replace(weight=side.weight._replace(rope_heads=0)) for side in (a, b)]
    found = compare_weights(sides[0], sides[1], tolerance, memory, progress)

    def in_meta(index: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return index and (meta_row(a.weight, index[0]), *index[1:])

    return found._replace(first=in_meta(found.first), last=in_meta(found.last))


def _as_bytes(a: Side, b: Side, memory: Memory | None, progress: Progress | None) -> Distance:
    """Two weights of a type that nothing here has numbers for: packed, or a rare one."""
    if a.dtype != b.dtype or not (is_flat(a.weight) and is_flat(b.weight)):
        raise UnsupportedFile(
            f"{a.weight.name}: stored as {a.dtype.name} and {b.dtype.name}, not byte after byte; "
            "values of these types are not compared"
        )
    sides = [side._replace(weight=bytes_of(side.weight)) for side in (a, b)]
    found = compare_weights(sides[0], sides[1], EXACTLY, memory, progress)
    per_byte = a.dtype.block_elements / a.dtype.block_bytes

    def element(index: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if index is None or not a.weight.shape:
            return index and ()
        place = np.unravel_index(int(index[0] * per_byte), a.weight.shape)
        return tuple(int(i) for i in place)

    return found._replace(
        elements=a.weight.elements,
        changed=math.ceil(found.changed * per_byte),
        outside=math.ceil(found.changed * per_byte),
        first=element(found.first),
        last=element(found.last),
        max_abs=None,
        rounded=frozenset(),
    )


def same_values(a: Side, b: Side) -> bool:
    """Whether two weights hold the same bits; ends at the first block that differs."""
    if not has_codes(a.dtype) or not _same_storage_form(a, b):
        return False
    return _all_equal(a, b, grid_of(a.weight, b.weight), Memory(), None)


def is_rounded(a: Side, b: Side, side: str, kind: str) -> bool:
    """Whether all values of one, "a" or "b", rounded to a type of ROUNDED, are those of the other.

    Of 16 bits there are 65,536 values, and each is rounded once.
    """
    given, target = (a, b) if side == "a" else (b, a)

    def passed(values: Floats) -> Floats:
        return round_to(round_to(values, kind), target.dtype.name)

    memory = Memory()
    table = None
    if given.dtype.block_bytes == 2:
        every = np.empty(2**16, np.float32)
        codes = np.arange(2**16, dtype=np.uint16).view(np.dtype(given.dtype.numpy))
        widen(codes, given.dtype, every)
        table = passed(every)
    for _, codes_a, codes_b in _pairs(a, b, grid_of(a.weight, b.weight), memory, None):
        codes, others = (codes_a, codes_b) if side == "a" else (codes_b, codes_a)
        expected = memory.take("expected", others.size, float_type(target.dtype))
        widen(others.reshape(-1), target.dtype, expected)
        if table is not None:
            rounded = np.take(table, codes.reshape(-1).view(np.uint16))
        else:
            values = memory.take("given", codes.size, float_type(given.dtype))
            widen(codes.reshape(-1), given.dtype, values)
            rounded = passed(values)
        if not np.array_equal(rounded, expected, equal_nan=True):
            return False
    return True


def float_type(dtype: DType) -> type[np.float32] | type[np.float64]:
    """What values of a type are compared in."""
    return np.float64 if is_wide(dtype) else np.float32


def _same_storage_form(a: Side, b: Side) -> bool:
    """Whether equal bits are equal values."""
    parts = (*a.weight.parts, *b.weight.parts)
    forms = {(part.dtype.name, part.conjugate, part.negative, part.meaning) for part in parts}
    return len(forms) == 1


def _identical(elements: int, valued: bool) -> Distance:
    nothing = 0.0 if valued else None
    return Distance(elements, 0, None, None, True, 0, nothing, 0, 0, 0, 0, (0, 0), 0, frozenset())


def _all_equal(a: Side, b: Side, grid: Grid, memory: Memory, progress: Progress | None) -> bool:
    return all(_equal(one, other) for _, one, other in _pairs(a, b, grid, memory, progress))


def _equal(one: Codes, other: Codes) -> bool:
    """Bit by bit, eight bytes at a time where they allow it."""
    flat, flat_other = one.reshape(-1).view("u1"), other.reshape(-1).view("u1")
    eights = len(flat) // 8 * 8
    return bool(
        np.array_equal(flat[:eights].view("u8"), flat_other[:eights].view("u8"))
        and np.array_equal(flat[eights:], flat_other[eights:])
    )


def _pairs(
    a: Side, b: Side, grid: Grid, memory: Memory, progress: Progress | None
) -> Iterator[tuple[int, Codes, Codes]]:
    """The same rows of both, block by block: first row, stored elements."""
    reader_a = Reader(a.checkpoint, a.weight, grid, memory, "a")
    reader_b = Reader(b.checkpoint, b.weight, grid, memory, "b")
    width = max(reader_a.type.itemsize, reader_b.type.itemsize)
    for first, last in grid.blocks(width):
        codes_a, codes_b = reader_a.read(first, last), reader_b.read(first, last)
        if progress is not None:
            progress(codes_a.nbytes + codes_b.nbytes)
        yield first, codes_a, codes_b


class _Sums:
    """Adds up what is found in the blocks of one weight."""

    def __init__(self, a: Side, b: Side, grid: Grid, tolerance: Tolerance, memory: Memory) -> None:
        self.a, self.b, self.grid, self.memory = a, b, grid, memory
        self.tolerance = tolerance
        self.valued = has_values(a.dtype) and has_values(b.dtype)
        self.float_type = float_type(a.dtype if is_wide(a.dtype) else b.dtype)
        self.signs = tuple(-1 if side.weight.parts[0].negative else 1 for side in (a, b))
        self.changed = self.outside = 0
        self.first: int | None = None
        self.last: int | None = None
        self.max_abs = self.square = self.square_a = self.square_b = self.product = 0.0
        self.not_finite = [0, 0]
        self.same_bits = _same_storage_form(a, b)
        self.whole_numbers = (
            a.dtype == b.dtype
            and np.dtype(a.dtype.numpy).kind in "iu"
            and (a.dtype.small_float is None)
        )
        self.rounded = {(side, kind) for side in "ab" for kind in ROUNDED} if self.valued else set()

    def add(self, first_row: int, codes_a: Codes, codes_b: Codes) -> None:
        """One block of both."""
        start = first_row * self.grid.columns
        if self.same_bits and not _equal(codes_a, codes_b):
            self.same_bits = False
        if not self.valued:
            self._note(start, (codes_a != codes_b).reshape(-1))
            return
        with np.errstate(all="ignore"):  # NaN and what is too large are counted, not warned of
            self._add_values(start, codes_a, codes_b)

    def _add_values(self, start: int, codes_a: Codes, codes_b: Codes) -> None:
        values_a, values_b, difference = self._floats(codes_a, codes_b)
        if _subtract(values_a, values_b, difference):
            changed = self.memory.take("changed", len(difference), np.bool_)
            if self.whole_numbers:  # which float64 does not hold all of
                np.not_equal(codes_a.reshape(-1), codes_b.reshape(-1), out=changed)
            else:
                np.not_equal(difference, 0, out=changed)
            self._note(start, changed)
        else:
            wide = [values.astype(np.float64) for values in (values_a, values_b, difference)]
            values_a, values_b, difference = wide
            _subtract(values_a, values_b, difference)
            self._keep_finite(start, values_a, values_b, difference)
        self._add_up(values_a, values_b, difference)
        if self.rounded:
            self._check_rounding(values_a, values_b)

    def _floats(self, codes_a: Codes, codes_b: Codes) -> list[Floats]:
        count = codes_a.size
        values = [self.memory.take(name, count, self.float_type) for name in ("a", "b", "a - b")]
        for codes, side, sign, out in zip((codes_a, codes_b), (self.a, self.b), self.signs, values,
                                          strict=False):  # fmt: skip
            flat = codes.reshape(-1)
            if self.float_type == np.float64 and side.dtype.small_float is not None:
                narrow = np.empty(count, np.float32)
                widen(flat, side.dtype, narrow)
                np.copyto(out, narrow)
            else:
                widen(flat, side.dtype, out)
            if sign < 0:
                np.negative(out, out=out)
        return values

    def _keep_finite(self, start: int, a: Floats, b: Floats, difference: Floats) -> None:
        """Count what is not finite, and leave it out of what is added up."""
        finite_a, finite_b = np.isfinite(a), np.isfinite(b)
        self.not_finite[0] += int(np.count_nonzero(~finite_a))
        self.not_finite[1] += int(np.count_nonzero(~finite_b))
        finite = np.isfinite(difference)  # which two of float64's largest do not have
        changed = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        self._note(start, changed)
        self.outside += int(np.count_nonzero(changed & ~finite))
        for values in (a, b, difference):
            values[~finite] = 0

    def _note(self, start: int, changed: Mask) -> None:
        count = int(np.count_nonzero(changed))
        if count:
            self.changed += count
            if self.first is None:
                self.first = start + int(changed.argmax())
            self.last = start + _last_true(changed)

    def _add_up(self, a: Floats, b: Floats, difference: Floats) -> None:
        self.square_a += _product(a, a)
        self.square_b += _product(b, b)
        self.square += _product(difference, difference)
        self.product += _product(a, b)
        if len(difference):
            largest = max(float(difference.max()), -float(difference.min()))
            self.max_abs = max(self.max_abs, largest)
        if any(self.tolerance):
            allowed = self.tolerance.atol + self.tolerance.rtol * np.abs(b)
            self.outside += int(np.count_nonzero(np.abs(difference) > allowed))

    def _check_rounding(self, a: Floats, b: Floats) -> None:
        """Which of the types both sides may have passed through, by the first of each block."""
        for side, kind in sorted(self.rounded):
            given, expected, target = (a, b, self.b) if side == "a" else (b, a, self.a)
            passed = round_to(round_to(given[:RUN], kind), target.dtype.name)
            if not np.array_equal(passed, expected[:RUN]):
                self.rounded.discard((side, kind))

    def distance(self) -> Distance:
        """The result, when all blocks were added."""
        tolerant = self.valued and any(self.tolerance)
        return Distance(
            elements=self.a.weight.elements,
            changed=self.changed,
            first=self._index(self.first),
            last=self._index(self.last),
            same_bits=self.same_bits,
            outside=self.outside if tolerant else self.changed,
            max_abs=self.max_abs if self.valued else None,
            square=self.square,
            square_a=self.square_a,
            square_b=self.square_b,
            product=self.product,
            not_finite=(self.not_finite[0], self.not_finite[1]),
            rounding=self.square_b * _rounding_share(self.b.dtype),
            rounded=frozenset(self.rounded),
        )

    def _index(self, place: int | None) -> tuple[int, ...] | None:
        if place is None:
            return None
        shape = self.a.weight.shape
        return tuple(int(i) for i in np.unravel_index(place, shape)) if shape else ()


def _last_true(flags: Mask) -> int:
    """Place of the last one; there is one. Looked for from the end, in growing pieces."""
    length = RUN
    while not flags[-length:].any():
        length *= 8
    tail = flags[-length:]
    return len(flags) - 1 - int(tail[::-1].argmax())


def _subtract(a: Floats, b: Floats, difference: Floats) -> bool:
    """a - b into `difference`; whether all of it is finite."""
    np.subtract(a, b, out=difference)
    return math.isfinite(float(np.sum(difference)))


def _product(a: Floats, b: Floats) -> float:
    """Sum of products: of short runs in the type of the values, of these in float64.

    Where float32 is too small or too large for the products, all of it in float64.
    """
    runs = len(a) // RUN * RUN
    rows_a, rows_b = a[:runs].reshape(-1, RUN), b[:runs].reshape(-1, RUN)
    total = float(np.einsum("ij,ij->i", rows_a, rows_b).sum(dtype=np.float64))
    total += float(np.multiply(a[runs:], b[runs:], dtype=np.float64).sum())
    if math.isfinite(total) and (abs(total) > TINY or a.dtype == np.float64):
        return total
    return float(np.multiply(a, b, dtype=np.float64).sum())


def _rounding_share(dtype: DType) -> float:
    """What rounding to `dtype` adds to a sum of squares, as a share of it.

    An error of up to half a step, step^2 / 12 on average, of values that are spread evenly between
    two powers of two, where squares are 7/3 on average.
    """
    bits = {"F16": 10, "F32": 23, "F64": 52}.get(dtype.name)
    if dtype.small_float is not None:
        bits = dtype.small_float.mantissa_bits
    return 0.0 if bits is None else float(4.0**-bits / 28)


def round_to(values: Floats, kind: str) -> Floats:
    """Values as they come out of a type: rounded to the nearest, ties to even."""
    with np.errstate(all="ignore"):
        return _rounded(values, kind)


def _rounded(values: Floats, kind: str) -> Floats:
    if kind == "F16":
        return values.astype(np.float16).astype(values.dtype)
    if kind == "BF16":
        bits = values.astype(np.float32).view(np.uint32)
        up = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        exact = np.where(np.isnan(values), bits, up) & np.uint32(0xFFFF0000)
        result: Floats = exact.view(np.float32).astype(values.dtype)
        return result
    layout = DTYPES[kind].small_float if kind in DTYPES else None
    if layout is None:
        return values.astype(np.float32).astype(values.dtype) if kind == "F32" else values
    # The step between neighbours at each value; below the normal numbers it stays the same.
    _, exponent = np.frexp(values)
    smallest = 1 - layout.bias
    step = np.ldexp(1.0, np.maximum(exponent - 1, smallest) - layout.mantissa_bits)
    rounded = np.asarray(np.rint(values / step) * step, values.dtype)
    largest = float(np.nanmax(np.where(np.isfinite(t := small_values(kind)), t, 0)))
    beyond = np.abs(rounded) > largest
    limit = math.inf if layout.has_inf else largest  # without Inf torch stays at the largest
    return np.where(beyond, np.copysign(limit, rounded), rounded).astype(values.dtype)
