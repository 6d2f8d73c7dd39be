"""A stretch of a file, or bytes in memory, as one thing to read from: what lies in what."""

from collections.abc import Callable
from typing import NamedTuple

from llamainspect.sources import Source

AT_ONCE_NBYTES = 2**20


class View(NamedTuple):
    """`nbytes` bytes; `read_at(offset, length)` gives exactly so many of them."""

    nbytes: int
    read_at: Callable[[int, int], bytes]

    @classmethod
    def of_file(cls, source: Source, file: str) -> "View":
        """All of a file."""
        return cls(source.nbytes(file), lambda offset, length: source.read(file, offset, length))

    @classmethod
    def of(cls, data: bytes) -> "View":
        """Bytes in memory."""
        return cls(len(data), lambda offset, length: data[offset : offset + length])

    def at_once(self) -> "View":
        """The same, read now if it is short: for what is asked for thousands of times."""
        return View.of(self.read(0, self.nbytes)) if self.nbytes <= AT_ONCE_NBYTES else self

    def part(self, start: int, nbytes: int) -> "View":
        """A stretch of it."""
        read_at = self.read_at
        return View(nbytes, lambda offset, length: read_at(start + offset, length))

    def read(self, offset: int, length: int) -> bytes:
        """As many of these bytes as there are."""
        length = min(length, self.nbytes - offset)
        return self.read_at(offset, length) if length > 0 else b""
