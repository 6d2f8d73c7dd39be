"""Whole processes measured from outside: seconds, peak memory, output. Used by all benchmarks."""

import os
import subprocess
import sys
import time


def measure(command: list[str], cores: set[int] | None = None) -> tuple[float, int, str]:
    """Seconds, peak bytes and standard output of one process; raises when it fails.

    `cores` keeps the process to those, where the system can do that. A child's peak memory cannot
    read below that of its parent, so a benchmark stays small and imports no torch.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env=environment(),
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit, output


def take_turns(
    commands: dict[str, list[str]], runs: int
) -> dict[str, list[tuple[float, int, str]]]:
    """What `measure` says of each command, `runs` times in turn behind a round to warm up."""
    results: dict[str, list[tuple[float, int, str]]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            result = measure(command)
            if run:
                results[name].append(result)
    return results


def environment() -> dict[str, str]:
    """As a user has it: bytecode may be cached, as pip caches it on installation."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
