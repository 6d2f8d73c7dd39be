"""The values of a weight in blocks of rows, in Meta's order, from whatever parts it is stored in.

Memory is bounded by the block, not by the weight. A weight with other than two axes is read as rows
of its last one.
"""

from collections.abc import Iterator
from math import lcm, prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.arrays import decode_small_float
from llamainspect.checkpoint import Checkpoint
from llamainspect.dtypes import BF16, DTYPES, DType
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.tensors import TensorInfo
from llamainspect.weights import Weight, parts_needed

Codes = npt.NDArray[Any]  # elements as they are stored: the bits of a BF16 as a whole number
Floats = npt.NDArray[Any]

VALUED = frozenset(
    (
        "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL",
        "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0",
    )
)  # fmt: skip
MAX_ROW_NBYTES = 64 * 2**20  # of rows that have to be read together; no model's are near
MAX_SCATTERED_NBYTES = 256 * 2**20  # of a part that can only be read whole
BLOCK_NBYTES = 2**20  # of one side: it stays in a core's cache while it is looked at


class Grid(NamedTuple):
    """A weight as rows and columns."""

    rows: int
    columns: int
    head_dim: int = 1  # rows that stand together, in another order than Meta's

    def blocks(self, width: int) -> Iterator[tuple[int, int]]:
        """First and last row of blocks of about BLOCK_NBYTES, for elements of `width` bytes."""
        step = max(BLOCK_NBYTES // max(self.columns * width, 1), 1)
        step = -(-step // self.head_dim) * self.head_dim
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)


class Memory:
    """Arrays that are used again: new pages of memory cost more time than what is done in them."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[np.uint8]] = {}

    def take(self, name: str, count: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Room for `count` elements; whatever had that name before is overwritten."""
        needed = count * np.dtype(kind).itemsize
        if name not in self._arrays or len(self._arrays[name]) < needed:
            self._arrays[name] = np.empty(needed, np.uint8)
        return self._arrays[name][:needed].view(kind)


def grid_of(*weights: Weight, whole_rows: bool = False) -> Grid:
    """Rows and columns in which all of some weights of one shape can be read.

    Where all lie there row after row, each element is a row unless `whole_rows` are needed, so that
    blocks may end anywhere.
    """
    shape = weights[0].shape
    if not whole_rows and all(is_flat(weight) for weight in weights):
        return Grid(prod(shape), 1)
    columns = shape[-1] if len(shape) > 1 else 1
    rows = prod(shape) // columns if columns else 0
    head_dims = [shape[0] // abs(weight.rope_heads) for weight in weights if weight.rope_heads]
    return Grid(rows, columns, lcm(*head_dims))


def has_codes(dtype: DType) -> bool:
    """Whether an element of it can be read as one number of numpy's."""
    return dtype.numpy is not None and dtype.block_elements == 1


def bytes_of(weight: Weight) -> Weight:
    """A weight whose parts lie there byte after byte, as these bytes."""
    parts = tuple(
        part._replace(dtype=DTYPES["U8"], shape=(part.nbytes,)) for part in parts_needed(weight)
    )
    whole = sum(part.nbytes for part in parts)
    return Weight(weight.name, (whole,), parts, weight.axis, len(parts))


class Reader:
    """Reads blocks of one weight into one place in `memory`; the next overwrites the last.

    Raises UnsupportedFile for what would need more memory than a block may.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        weight: Weight,
        grid: Grid,
        memory: Memory,
        place: str = "",
        max_scattered_nbytes: int = MAX_SCATTERED_NBYTES,
    ) -> None:
        self.checkpoint, self.weight, self.grid = checkpoint, weight, grid
        self.max_scattered_nbytes = max_scattered_nbytes
        self.memory, self.place = memory, place
        self.dtype = weight.parts[0].dtype
        self.type = np.dtype(self.dtype.numpy)
        dtypes = sorted({part.dtype.name for part in weight.parts})
        if len(dtypes) > 1:
            raise UnsupportedFile(
                f"{weight.name}: its parts are stored as {', '.join(dtypes)}; values are not "
                "looked at"
            )
        needed = grid.head_dim * grid.columns * self.type.itemsize
        if needed > MAX_ROW_NBYTES:
            raise UnsupportedFile(
                f"{weight.name}: {needed:,} bytes of it would have to be in memory at once; its "
                "values are not looked at"
            )
        self._starts: dict[str, int] = {}
        self._scattered: dict[TensorInfo, Codes] = {}  # parts that had to be read whole

    def read(self, first: int, last: int) -> Codes:
        """Rows `first` to `last` as (rows, columns). Raises CorruptFile when they are not there."""
        count = (last - first) * self.grid.columns
        room = self.memory.take(f"{self.place} stored", count, self.type)
        block = room.reshape(last - first, self.grid.columns)
        flat = self.grid.columns == 1
        for run in _runs(self.weight, flat, first, last):
            rows = block[run.at : run.at + run.rows]
            self._read_run(run, rows[:, run.column : run.column + run.columns])
        return self._in_order(block) if self.weight.rope_heads else block

    def _read_run(self, run: "_Run", target: Codes) -> None:
        part = run.part
        start = self._start(part)
        if part.strides is None:
            offset = run.first * run.columns * self.type.itemsize
            if target.flags.c_contiguous:
                self._fill(part, start + offset, target)
                return
            rows = np.empty(target.shape, self.type)
            self._fill(part, start + offset, rows)
            target[...] = rows
            return
        strides = _row_strides(part)
        if strides is not None and strides[0] >= strides[1] * run.columns:
            self._read_with_gaps(run, target, start, *strides)
            return
        whole = self._whole(part, start)
        target[...] = whole[run.first : run.first + run.rows]

    def _read_with_gaps(
        self, run: "_Run", target: Codes, start: int, row: int, column: int
    ) -> None:
        """Rows that lie one after the other with something between them, which is read too."""
        width = self.type.itemsize
        step = max(BLOCK_NBYTES // max(row * width, 1), 1)
        for first in range(0, run.rows, step):
            rows = min(step, run.rows - first)
            raw = np.empty((rows - 1) * row + (run.columns - 1) * column + 1, self.type)
            self._fill(run.part, start + (run.first + first) * row * width, raw)
            target[first : first + rows] = np.lib.stride_tricks.as_strided(
                raw, (rows, run.columns), (row * width, column * width)
            )

    def _whole(self, part: TensorInfo, start: int) -> Codes:
        """All of a part whose rows lie scattered (a transposed view), up to a limit.

        Parts that are joined along their rows come one after the other; of others every block
        needs all, and they are kept together.
        """
        assert part.strides is not None
        if part in self._scattered:
            return self._scattered[part]
        if not self.weight.axis:
            self._scattered.clear()
        kept = sum(codes.nbytes for codes in self._scattered.values())
        nbytes = kept + max(part.span, part.nbytes)
        if nbytes > self.max_scattered_nbytes:
            raise UnsupportedFile(
                f"{part.name}: a transposed view, for which {nbytes:,} bytes would have to be in "
                "memory at once, so it is not read; save it anew, contiguous"
            )
        raw = np.empty(part.span // self.type.itemsize, self.type)
        self._fill(part, start, raw)
        width = self.type.itemsize
        strides = tuple(step * width for step in part.strides)
        view = np.lib.stride_tricks.as_strided(raw, part.shape, strides)
        columns = part.shape[-1] if len(part.shape) > 1 and self.grid.columns > 1 else 1
        self._scattered[part] = np.ascontiguousarray(view).reshape(-1, columns)
        return self._scattered[part]

    def _start(self, part: TensorInfo) -> int:
        if part.offset + part.span > part.storage.nbytes:
            raise CorruptFile(
                f"{part.file}: {part.name} reaches beyond its {part.storage.nbytes:,} stored "
                "bytes; the file is damaged, download it again"
            )
        key = f"{part.file}/{part.storage.key}"
        if key not in self._starts:
            self._starts[key] = self.checkpoint.reader.locate(self.checkpoint.source, part.storage)
        return self._starts[key] + part.offset

    def _fill(self, part: TensorInfo, offset: int, target: Codes) -> None:
        if target.size:
            data = memoryview(target.reshape(-1).view("u1"))  # type: ignore[arg-type]
            self.checkpoint.source.read_into(part.file, offset, data)

    def _in_order(self, block: Codes) -> Codes:
        """Rows of each head from Hugging Face's order to Meta's; -heads: the reverse."""
        rows, columns = block.shape
        heads = self.weight.rope_heads
        half = self.weight.shape[0] // abs(heads) // 2
        before, after = ((2, half), (half, 2)) if heads > 0 else ((half, 2), (2, half))
        room = self.memory.take(f"{self.place} ordered", block.size, self.type)
        ordered = room.reshape(-1, *after, columns)
        ordered[...] = block.reshape(-1, *before, columns).swapaxes(1, 2)
        return ordered.reshape(rows, columns)


class _Run(NamedTuple):
    """Some rows of one part, and where they belong in a block."""

    part: TensorInfo
    first: int  # row of the part
    rows: int
    at: int  # row of the block
    column: int
    columns: int


def _runs(weight: Weight, flat: bool, first: int, last: int) -> Iterator[_Run]:
    """What has to be read for rows `first` to `last` of the whole."""
    parts, shape, axis = parts_needed(weight), weight.shape, weight.axis
    columns = 1 if flat else shape[-1]
    if axis is None:
        yield _Run(parts[0], first, last - first, 0, 0, columns)
        return
    if not flat and axis == len(shape) - 1:
        column = 0
        for part in parts:
            yield _Run(part, first, last - first, 0, column, part.shape[-1])
            column += part.shape[-1]
        return
    # Each step of the axes before it holds rows of every part, one after the other.
    inner = prod(shape[axis + 1 :]) // columns
    heights = [part.shape[axis] * inner for part in parts]
    outer_rows = shape[axis] * inner
    for outer in range(first // outer_rows, -(-last // outer_rows)):
        begin = outer * outer_rows
        for part, height in zip(parts, heights, strict=True):
            low, high = max(first, begin), min(last, begin + height)
            if low < high:
                inside = outer * height + low - begin
                yield _Run(part, inside, high - low, low - first, 0, columns)
            begin += height


def is_flat(weight: Weight) -> bool:
    """Whether all elements of the whole lie one after the other, in one part or several."""
    simple = weight.rope_heads == 0 and all(part.strides is None for part in weight.parts)
    return simple and weight.axis in (None, 0)


def _row_strides(part: TensorInfo) -> tuple[int, int] | None:
    """(from row to row, from column to column) in elements, if one number says each."""
    assert part.strides is not None
    if len(part.shape) < 2:
        return part.strides[0] if part.strides else 1, 1
    row, column = part.strides[-2:]
    if part.shape[-2] == 1 and len(part.shape) > 2:
        return None  # the step of an axis of one says nothing
    step = row * part.shape[-2]
    for length, stride in zip(part.shape[-3::-1], part.strides[-3::-1], strict=True):
        if length == 1:
            continue
        if stride != step:
            return None
        step = stride * length
    return row, column


# --- values ---------------------------------------------------------------------------------------


def has_values(dtype: DType) -> bool:
    """Whether its elements are real numbers that are known here, one each."""
    return dtype.name in VALUED


def is_wide(dtype: DType) -> bool:
    """Whether float32 would lose some of its values."""
    return dtype.name in ("F64", "I64", "I32", "U64", "U32")


def widen(codes: Codes, dtype: DType, out: Floats) -> None:
    """Values of stored elements into `out`, of the same shape: float32, float64 for wide ones."""
    if dtype.small_float == BF16:
        np.left_shift(codes, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    elif dtype.small_float is not None:
        np.take(small_values(dtype.name), codes, out=out)
    else:
        np.copyto(out, codes, casting="unsafe")


_TABLES: dict[str, Floats] = {}


def small_values(name: str) -> Floats:
    """The values of all 256 codes of an 8-bit float."""
    if name not in _TABLES:
        layout = DTYPES[name].small_float
        assert layout is not None
        _TABLES[name] = decode_small_float(np.arange(256, dtype=np.uint8), layout)
    return _TABLES[name]


def values_of(codes: Codes, dtype: DType) -> Floats:
    """Values of stored elements, in float64, of the same shape."""
    values = np.empty(codes.shape, np.float64 if is_wide(dtype) else np.float32)
    with np.errstate(all="ignore"):
        widen(codes, dtype, values)
        return values.astype(np.float64)
