"""Work in threads: every result comes once, an error ends it, nothing is left running."""

import threading
import time

import pytest

from llamainspect.workers import BATCH_JOBS, Meter, in_parallel


def results(jobs, work, nbytes=lambda job: 0, workers=4):
    return sorted(r for ready in in_parallel(jobs, work, nbytes, workers) for r in ready)


@pytest.mark.parametrize("number", [0, 1, BATCH_JOBS, 3 * BATCH_JOBS + 1])
def test_every_job_is_done_once(number):
    assert results(range(number), lambda job, memory: job * 2) == [2 * i for i in range(number)]


def test_threads_have_memories_of_their_own():
    seen, lock = set(), threading.Lock()

    def work(job, memory):
        with lock:
            assert id(memory) not in seen
            seen.add(id(memory))
        time.sleep(0.01)
        with lock:
            seen.remove(id(memory))
        return job

    assert results(range(20), work, lambda job: 2**30) == list(range(20))


def test_jobs_are_taken_when_they_are_next():
    taken = []

    def jobs():
        for job in range(1000):
            taken.append(job)
            yield job

    before = threading.active_count()
    steps = in_parallel(jobs(), lambda job, memory: job, lambda job: 2**30, 2)
    next(steps)
    assert len(taken) < 20
    steps.close()
    assert threading.active_count() == before


def test_an_error_comes_out_and_ends_the_rest():
    def work(job, memory):
        if job == 3:
            raise ValueError("three")
        return job

    before = threading.active_count()
    with pytest.raises(ValueError, match="three"):
        results(range(1000), work, lambda job: 2**30)
    assert threading.active_count() == before


def test_a_meter_adds_from_all_threads():
    meter = Meter()
    results(range(2000), lambda job, memory: meter.add(job) or 0, lambda job: 2**30)
    assert meter.nbytes == sum(range(2000))
