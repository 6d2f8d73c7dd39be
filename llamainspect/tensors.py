"""What a file stores, before anybody asks what it means: storages, and tensors that view them.

Named tuples rather than dataclasses: a 405B set has 36,000 of them, and they are made four times
as fast.
"""

from typing import NamedTuple

from llamainspect.dtypes import DType


class Storage(NamedTuple):
    """A run of bytes in a file. Tensors are views of one; two may share one (tied weights)."""

    file: str
    key: str  # what the format calls it: "data/17" in a .pth
    nbytes: int
    start: int  # where the format finds it in `file`; `Format.locate` turns it into the first byte
    crc32: int | None = None  # of all its bytes, as the file records it; None: not recorded


class TensorInfo(NamedTuple):
    """One tensor exactly as one file stores it: where its bytes are, not the bytes."""

    name: str  # as written in the file
    dtype: DType
    shape: tuple[int, ...]
    storage: Storage
    offset: int = 0  # bytes from the start of the storage
    strides: tuple[int, ...] | None = None  # in elements; None means C-contiguous
    conjugate: bool = False  # torch's lazy views: the stored numbers are to be conjugated
    negative: bool = False  # ... or negated
    meaning: str | None = None  # what its numbers are, in words: None of plain ones

    @property
    def file(self) -> str:
        """The file that holds the bytes."""
        return self.storage.file

    @property
    def elements(self) -> int:
        """How many elements the shape has; 1 for a scalar."""
        return count(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, each counted once however the strides visit them."""
        return self.dtype.nbytes(self.shape)

    @property
    def span(self) -> int:
        """Bytes from the first to the last element; fewer than `nbytes` where strides repeat."""
        if self.strides is None or 0 in self.shape:
            return self.nbytes
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.block_bytes

    @property
    def whole_storage(self) -> bool:
        """True when the tensor is all of its storage in order, so the storage's CRC is its own."""
        return self.strides is None and self.nbytes == self.storage.nbytes


def count(shape: tuple[int, ...]) -> int:
    """Elements of a shape. (math.prod without the import, and always an int.)"""
    elements = 1
    for length in shape:
        elements *= length
    return elements


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a C-contiguous tensor."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements stand in order, without gaps: as torch has it, the strides of axes of
    length 1 mean nothing, and none do where nothing is."""
    return 0 in shape or all(
        length == 1 or step == usual
        for length, step, usual in zip(shape, strides, contiguous_strides(shape), strict=True)
    )
