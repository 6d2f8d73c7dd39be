"""Bytes to numbers: the one place where stored elements become numpy arrays.

Shards are joined here and small floats decoded. Only the bytes that are asked for are read.
"""

import math
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from llamainspect.checkpoint import Checkpoint
from llamainspect.dtypes import SmallFloat
from llamainspect.errors import CorruptFile, MissingFile
from llamainspect.tensors import TensorInfo, contiguous_strides
from llamainspect.weights import Weight, stored_row

Index = tuple[int, ...]


def read_elements(
    checkpoint: Checkpoint, weight: Weight, window: tuple[range, ...]
) -> tuple[list[bytes], int]:
    """Stored bytes of each element in `window` (one range per axis), and how many were read.

    Raises MissingFile when a shard that is needed is not there, CorruptFile when bytes are.
    """
    if not weight.complete:
        raise MissingFile(
            f"{weight.name}: {len(weight.parts)} of its {weight.ranks} parts can be read; "
            "download the missing shards to see its values"
        )
    starts: dict[str, int] = {}
    places: list[tuple[str, int, int]] = []  # file, offset, length
    for index in product(*window):
        part, local = stored_place(weight, index)
        offset, length = _element(part, local)
        if part.file not in starts:
            starts[part.file] = checkpoint.reader.locate(checkpoint.source, part.storage)
        places.append((part.file, starts[part.file] + offset, length))
    return _read_places(checkpoint, places)


def place_of(checkpoint: Checkpoint, weight: Weight, index: Index) -> tuple[str, int]:
    """The file that holds an element, and the element's first byte there."""
    part, local = stored_place(weight, index)
    offset, _ = _element(part, local)
    return part.file, checkpoint.reader.locate(checkpoint.source, part.storage) + offset


def decode(elements: list[bytes], part: TensorInfo) -> npt.NDArray[Any] | None:
    """Elements of `part` as a flat array of its own type; None for types without one here.

    BF16 and the 8-bit floats come out as float32, which holds each of their values exactly; torch's
    lazy conjugates and negatives are resolved.
    """
    dtype = part.dtype
    if dtype.numpy is None or dtype.block_elements > 1:
        return None
    values: npt.NDArray[Any] = np.frombuffer(b"".join(elements), dtype=dtype.numpy)
    if dtype.small_float is not None:
        values = decode_small_float(values, dtype.small_float)
    if part.conjugate:
        values = np.conjugate(values)
    return np.negative(values) if part.negative else values


def decode_small_float(codes: npt.NDArray[Any], layout: SmallFloat) -> npt.NDArray[np.float32]:
    """Values of 8- or 16-bit codes, by the layout's definition; same shape as `codes`."""
    code = codes.astype(np.int64)
    exponent = (code >> layout.mantissa_bits) & ((1 << layout.exponent_bits) - 1)
    mantissa = code & ((1 << layout.mantissa_bits) - 1)
    hidden = 1 << layout.mantissa_bits
    scale = -layout.bias - layout.mantissa_bits
    values = np.ldexp((hidden + mantissa).astype(np.float64), exponent + scale)
    if layout.mantissa_bits:  # without a mantissa there is neither zero nor subnormal
        subnormal = np.ldexp(mantissa.astype(np.float64), 1 + scale)
        values = np.where(exponent == 0, subnormal, values)
    if layout.has_inf:
        top = exponent == (1 << layout.exponent_bits) - 1
        values = np.where(top, np.where(mantissa == 0, np.inf, np.nan), values)
    if layout.signed:
        sign = code >> (layout.exponent_bits + layout.mantissa_bits)
        values = np.where(sign == 1, -values, values)
    values = np.where(np.isin(code, layout.nan_codes), np.nan, values)
    return values.astype(np.float32)


def as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    """Rounded to float32; None for complex numbers."""
    if np.iscomplexobj(values):
        return None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def shortest_text(value: float, layout: SmallFloat) -> str:
    """The fewest digits that no other value of this small float is nearer to."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    fraction, exponent = math.frexp(value)
    smallest = 1 - layout.bias  # exponent of the subnormal and the smallest normal values
    half_gap = math.ldexp(1, max(exponent - 1, smallest) - layout.mantissa_bits - 1)
    # Below a power of two the values stand twice as close.
    inward = half_gap / 2 if abs(fraction) == 0.5 and exponent - 1 > smallest else half_gap
    for digits in range(1, 17):
        text = f"{value:.{digits}g}"
        outside = abs(float(text)) - abs(value)
        if -inward < outside < half_gap:
            return text
    return repr(value)


def stored_place(weight: Weight, index: Index) -> tuple[TensorInfo, Index]:
    """The part that holds an element of the whole, and the element's index in that part."""
    axis = weight.axis
    if weight.rope_heads:
        index = (stored_row(weight, index[0]), *index[1:])
    if axis is None:
        return weight.parts[0], index
    position, start, local_start = index[axis], 0, 0
    for length in weight.blocks or (weight.shape[axis],):
        share = length * weight.repeat // weight.ranks  # of this block, in each part
        if position < start + length:
            rank, local = divmod(position - start, share)
            part = weight.parts[rank * weight.repeat]
            return part, (*index[:axis], local_start + local, *index[axis + 1 :])
        start += length
        local_start += share
    raise AssertionError("an index outside the weight was asked for")


def _element(part: TensorInfo, index: Index) -> tuple[int, int]:
    """(offset in the storage, length) of the block of bytes that holds an element."""
    strides = part.strides or contiguous_strides(part.shape)
    element = sum(i * step for i, step in zip(index, strides, strict=True))
    length = part.dtype.block_bytes
    offset = part.offset + element // part.dtype.block_elements * length
    if offset + length > part.storage.nbytes:
        raise CorruptFile(
            f"{part.file}: {part.name} reaches beyond its {part.storage.nbytes:,} stored bytes; "
            "the file is damaged, download it again"
        )
    return offset, length


def _read_places(
    checkpoint: Checkpoint, places: list[tuple[str, int, int]]
) -> tuple[list[bytes], int]:
    """Bytes at each place, in order; neighbours in a file are read together."""
    found: dict[tuple[str, int], bytes] = {}
    nbytes = 0
    runs: list[tuple[str, int, int, int]] = []  # file, start, end, element length
    for file, offset, length in sorted(set(places)):
        if runs and runs[-1][0] == file and runs[-1][2] == offset:
            runs[-1] = (file, runs[-1][1], offset + length, length)
        else:
            runs.append((file, offset, offset + length, length))
    for file, start, end, length in runs:
        data = checkpoint.source.read(file, start, end - start)
        nbytes += len(data)
        for offset in range(start, end, length):
            found[file, offset] = data[offset - start : offset - start + length]
    return [found[file, offset] for file, offset, _ in places], nbytes
