"""Work in all cores: jobs in some threads, their results as they come.

numpy lets other threads run while it works, so threads do where the work is numpy's.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

from llamainspect.blocks import Memory
from llamainspect.cores import usable_cores

J = TypeVar("J")
R = TypeVar("R")

STEP_SECONDS = 0.1  # between two looks at how far it is
BATCH_NBYTES, BATCH_JOBS = 4 * 2**20, 256  # that one thread is given at one go


class Meter:
    """Bytes that all threads have read."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        """From any thread."""
        with self._lock:
            self.nbytes += nbytes


def in_parallel(
    jobs: Iterable[J],
    work: Callable[[J, Memory], R],
    nbytes: Callable[[J], int],
    max_workers: int,
) -> Iterator[list[R]]:
    """What `work` makes of each job, in no order: what is ready, or nothing after STEP_SECONDS.

    Each thread has a memory of its own. Small jobs, by their `nbytes`, are handed over together:
    that costs more than doing them. Jobs are taken from their iterator only when they are next.
    """
    workers = min(usable_cores(), max_workers)
    pool = ThreadPoolExecutor(workers)
    idle: SimpleQueue[Memory] = SimpleQueue()
    for _ in range(workers):
        idle.put(Memory())

    def work_off(batch: list[J]) -> list[R]:
        memory = idle.get()
        try:
            return [work(job, memory) for job in batch]
        finally:
            idle.put(memory)

    running: set[Future[list[R]]] = set()
    queue = _batches(jobs, nbytes)
    try:
        while True:
            for batch in queue:
                running.add(pool.submit(work_off, batch))
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            ready, running = wait(running, STEP_SECONDS, FIRST_COMPLETED)
            yield [result for future in ready for result in future.result()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(jobs: Iterable[J], nbytes: Callable[[J], int]) -> Iterator[list[J]]:
    batch: list[J] = []
    total = 0
    for job in jobs:
        batch.append(job)
        total += nbytes(job)
        if total >= BATCH_NBYTES or len(batch) >= BATCH_JOBS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
