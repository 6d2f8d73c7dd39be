"""Whole files in blocks, for those who must see every byte of 140 GB.

Memory is bounded by a block or two, and the page cache is left as it was.
"""

import os
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread

from llamainspect.errors import CorruptFile
from llamainspect.sources import CHANGED, Folder

BLOCK_NBYTES = 2**18  # of a stream: hashing finds it in the processor's cache
PROBE_NBYTES = 4 * 2**20  # between two pages of a window that are asked for
NEIGHBOUR_NBYTES = 16 * 2**10  # to a page that a read of another does not bring
AHEAD_NBYTES = 2**19  # of each of the two blocks when a thread reads ahead
WINDOW_NBYTES = 64 * 2**20  # of the page cache that is given back at a time; beyond any read-ahead


def stream(folder: Folder, file: str, ahead: bool = False) -> Iterator[memoryview]:
    """The whole file in order, in blocks. A block is valid until the next is asked for.

    `ahead`: a thread of its own reads the next block, which pays where the caller is slow and a
    core is idle. Raises CorruptFile when the file turns out shorter or longer than it was.
    """
    nbytes = folder.nbytes(file)
    descriptor = folder.open(file)
    done = 0
    try:
        for block in (_read_ahead if ahead else _blocks)(descriptor, nbytes):
            done += len(block)
            yield block
    finally:
        os.close(descriptor)
    if done != nbytes or folder.has_changed(file):
        raise CorruptFile(f"{file}: {CHANGED}")


def _blocks(descriptor: int, nbytes: int) -> Iterator[memoryview]:
    """A file in blocks, all of them in one buffer that is small enough to stay in the cache."""
    cache = _PageCache(descriptor, nbytes)
    buffer = memoryview(bytearray(min(BLOCK_NBYTES, nbytes + 1)))
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while length := file.readinto(buffer):
            yield buffer[:length]
            cache.read(length)
    cache.read(0)


def _read_ahead(descriptor: int, nbytes: int) -> Iterator[memoryview]:
    """The same in two buffers: while the caller has one, a thread fills the other."""
    free: SimpleQueue[bytearray | None] = SimpleQueue()
    full: SimpleQueue[memoryview | OSError] = SimpleQueue()
    for _ in range(2):
        free.put(bytearray(min(AHEAD_NBYTES, nbytes + 1)))

    def fill() -> None:
        cache = _PageCache(descriptor, nbytes)
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            while (buffer := free.get()) is not None:
                try:
                    length = file.readinto(buffer)
                except OSError as error:
                    full.put(error)
                    return
                full.put(memoryview(buffer)[:length])
                cache.read(length)
                if not length:
                    return

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while block := full.get():
            if isinstance(block, OSError):
                raise block
            yield block
            free.put(block.obj)  # type: ignore[arg-type]  # the bytearray that it views
    finally:
        free.put(None)
        thread.join()


class _PageCache:
    """Gives memory back to the system as a file is read: what was cached before stays cached.

    A look through 140 GB would else push everything out that the machine keeps at hand. Whether a
    window of the file was there before is asked of some of its pages, with a read that may not wait
    (preadv2 with RWF_NOWAIT), while the window before it is being read: later, the system's own
    read-ahead would have brought it. A window of which any page was there is left alone. Linux
    only; elsewhere nothing is done.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self.descriptor = descriptor
        self.nbytes = nbytes
        self.position = 0
        self.start = 0  # of the window
        self.supported = hasattr(os, "RWF_NOWAIT") and nbytes > 2**20
        if self.supported:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self.cached = self._is_cached(0)
            self.next_cached = self._is_cached(WINDOW_NBYTES)

    def read(self, length: int) -> None:
        """Call after each read, with its length; 0 at the end of the file."""
        if not self.supported:
            return
        self.position += length
        if length and self.position - self.start < WINDOW_NBYTES:
            return
        if not self.cached:
            os.posix_fadvise(
                self.descriptor, self.start, self.position - self.start, os.POSIX_FADV_DONTNEED
            )
        self.start = self.position
        self.cached = self.next_cached
        self.next_cached = self._is_cached(self.start + WINDOW_NBYTES)

    def _is_cached(self, start: int) -> bool:
        length = min(WINDOW_NBYTES, self.nbytes - start)
        places = range(start + length - 1, start, -PROBE_NBYTES)
        return length <= 0 or any(
            self._page_is_cached(place)
            # Asking makes Linux fetch the page, which on a busy machine can be there before the
            # answer is. That does not happen twice in a row.
            and self._page_is_cached(max(place - NEIGHBOUR_NBYTES, start))
            for place in places
        )

    def _page_is_cached(self, place: int) -> bool:
        try:
            os.preadv(self.descriptor, [bytearray(1)], place, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # not supported by this file system: leave the cache as it is
            return True
        return True
