"""Many files read once each, on all cores: digests and the deep check in the same pass.

hashlib and the CRC release Python's lock while they work on a block, so threads are enough. A
weight file whose digest is wrong is read a second time, to find the damage in it.
"""

import hashlib
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from threading import Event, Thread

from llamainspect.cores import usable_cores
from llamainspect.errors import LlamaInspectError, reason_of
from llamainspect.hub import GIT_BLOB
from llamainspect.integrity import DeepCheck, Verdict, settle
from llamainspect.reports import FileProgress
from llamainspect.sources import Folder
from llamainspect.streams import stream

MAX_THREADS = 16  # beyond that the disk is slower; each holds a block
LARGE_NBYTES = 16 * 2**20  # takes longer than a blink
POLL_SECONDS = 0.1  # between two reports of progress


class Examination:
    """What is to be computed of one file, and then what came out."""

    def __init__(
        self,
        file: str,
        size: int | None,
        algorithms: list[str],
        deep: bool = False,
        search: bool = False,
        expected: dict[str, str] | None = None,
    ) -> None:
        self.file = file
        self.size = size  # when it was found; None: it was gone already
        self.nbytes = size or 0  # to be read
        self.algorithms = algorithms
        self.deep = deep  # compare what the file says of itself too, in the same pass
        self.search = search  # when a digest is not the expected one, look for the damage
        self.expected = expected or {}  # algorithm -> hex
        self.done = 0  # bytes read so far
        self.digests: dict[str, str] = {}
        self.verdict: Verdict | None = None
        self.problem: str | None = None  # why it could not be read

    def run(self, folder: Folder, stop: Event, ahead: bool) -> None:
        """Fill in the results. Whatever keeps the file from being read becomes `problem`.

        `ahead`: there is an idle core, which may read while this one hashes.
        """
        try:
            self._read(folder, stop, self.algorithms, self.deep, ahead)
            wrong = any(self.digests.get(a) != digest for a, digest in self.expected.items())
            if wrong and self.search and self.verdict is None and not stop.is_set():
                self._read(folder, stop, [], deep=True, ahead=False)
            if self.verdict is not None and not stop.is_set():
                self.verdict = settle(self.verdict, self._prove(folder, stop))
        except (LlamaInspectError, OSError) as error:
            self.problem = reason_of(error, self.file)

    def _read(
        self, folder: Folder, stop: Event, algorithms: list[str], deep: bool, ahead: bool
    ) -> None:
        check = DeepCheck(folder, self.file) if deep else None
        hashes = {name: _new_hash(name, folder.nbytes(self.file)) for name in algorithms}
        consumers: list[Callable[[memoryview], None]] = [h.update for h in hashes.values()]
        if check is not None and check.needs_bytes:
            consumers.append(check.update)
        if consumers:
            self.nbytes = self.done + folder.nbytes(self.file)
            for block in stream(folder, self.file, ahead and bool(hashes)):
                if stop.is_set():
                    return
                for consume in consumers:
                    consume(block)
                self.done += len(block)
                if check is not None and check.done and not hashes:
                    break  # what is left cannot change the verdict
        self.digests |= {name: h.hexdigest() for name, h in hashes.items()}
        if check is not None:
            self.verdict = check.verdict()

    def _prove(self, folder: Folder, stop: Event) -> bool | None:
        """Whether one flipped bit is all: the digest of the file with that bit flipped back."""
        wrong = [name for name, digest in self.expected.items() if self.digests[name] != digest]
        if self.verdict is None or self.verdict.flipped_bit is None or not wrong:
            return None
        byte, bit = divmod(self.verdict.flipped_bit, 8)
        algorithm = wrong[0]
        repaired = _new_hash(algorithm, folder.nbytes(self.file))
        self.nbytes = self.done + folder.nbytes(self.file)
        position = 0
        for block in stream(folder, self.file):
            if stop.is_set():
                return None
            if position <= byte < position + len(block):
                copy = bytearray(block)
                copy[byte - position] ^= 1 << bit
                block = memoryview(copy)
            repaired.update(block)
            position += len(block)
            self.done += len(block)
        return repaired.hexdigest() == self.expected[algorithm]


def _new_hash(algorithm: str, nbytes: int) -> "hashlib._Hash":
    if algorithm == GIT_BLOB:
        return hashlib.sha1(f"blob {nbytes}\0".encode(), usedforsecurity=False)
    return hashlib.new(algorithm, usedforsecurity=False)


def examine(
    folder: Folder, examinations: list[Examination]
) -> Generator[tuple[FileProgress, ...], None, None]:
    """Run all, the largest first. Yields once when the work has begun, then how far the files at
    work are, at least ten times a second.

    Closing the generator stops the threads at their next block.
    """
    waiting: SimpleQueue[Examination] = SimpleQueue()
    finished: SimpleQueue[BaseException | None] = SimpleQueue()
    stop = Event()
    for examination in sorted(examinations, key=lambda e: -e.nbytes):
        waiting.put(examination)
    working: dict[int, Examination] = {}

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                working[number] = waiting.get_nowait()
                working[number].run(folder, stop, ahead=large < cores)
                finished.put(None)
        except Empty:
            pass
        except BaseException as error:  # a bug of ours must not leave the others waiting
            finished.put(error)

    cores = usable_cores()
    # Files of a few bytes, as beside every set of weights, keep no core busy.
    large = sum(examination.nbytes > LARGE_NBYTES for examination in examinations)
    count = min(len(examinations), MAX_THREADS, cores)
    threads = [Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        yield ()
        left = len(examinations)
        while left:
            try:
                error = finished.get(timeout=POLL_SECONDS)
                if error is not None:
                    raise error
                left -= 1
            except Empty:
                pass
            yield tuple(FileProgress(e.file, e.done, e.nbytes) for e in working.copy().values())
    finally:
        stop.set()
        for thread in threads:
            if thread.is_alive():  # not all have begun when an interrupt came early
                thread.join()
