"""Fuzz one target with atheris (pip install 'llamainspect[fuzz]') for as long as you like.

python tests/fuzz/run.py TARGET [--seconds N] [--corpus DIR] [--crashes DIR] [--stats FILE]
python tests/fuzz/run.py TARGET --replay FILE       one input, with the traceback

Valid tiny files are the first inputs; each is changed by libFuzzer, which knows bytes, or by
`mutations`, which knows the container. An input is a crash when its target fails on it (see
`targets`), when it takes 5 s of this process's time, or when memory grows by 200 MB. Every minute
and at the end a line goes to FILE: date, target, seconds, executions, coverage, crashes.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

SECONDS_PER_INPUT = 5
WAIT_SECONDS = 60  # for an input that never ends, however busy the machine
GROWTH_BYTES = 200 * 2**20
MINUTE = 60
OURS = 0.7  # of the changes are by `mutations`


def main() -> None:
    """The fuzzer runs in a process of its own, so that its end is told however it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    parser.add_argument("--stats", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        return replay(options.target, options.replay)
    if options.child:
        return fuzz(options.target, options.seconds, options.corpus, options.crashes)
    with tempfile.TemporaryDirectory() as empty:
        options.corpus = (options.corpus or Path(empty)).resolve()
        options.crashes = options.crashes.resolve()
        for directory in (options.corpus, options.crashes):
            directory.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, HERE / "seeds.py", options.target, options.corpus],
                       check=True)  # fmt: skip
        sys.exit(watch(options))


def replay(target: str, file: Path) -> None:
    """One input, as it is."""
    from fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as directory:
        TARGETS[target].check(file.read_bytes(), Path(directory))
    print("read, or refused with a sentence")


# --- the process that watches ---------------------------------------------------------------------


def watch(options: argparse.Namespace) -> int:
    """Start the fuzzer, count what it says, and pass on what it says at its end."""
    command = [sys.executable, __file__, options.target, "--child",
               "--seconds", str(options.seconds), "--corpus", str(options.corpus),
               "--crashes", str(options.crashes)]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    assert child.stderr is not None
    started = last = time.monotonic()
    executions = coverage = 0
    tail: list[str] = []

    def tell(crashes: int) -> None:
        if options.stats:
            row = (time.strftime("%Y-%m-%dT%H:%M:%S"), options.target,
                   round(time.monotonic() - started), executions, coverage, crashes)  # fmt: skip
            with options.stats.open("a") as stats:
                stats.write("\t".join(map(str, row)) + "\n")

    for line in child.stderr:
        tail = [*tail, line][-80:]
        if found := re.match(r"executions (\d+)|stat::number_of_executed_units: *(\d+)", line):
            executions = max(executions, int(found[1] or found[2]))
        if found := re.search(r"cov: (\d+)", line):
            coverage = int(found[1])
        if time.monotonic() - last > MINUTE:
            last = time.monotonic()
            tell(0)
    code = child.wait()
    tell(int(code != 0))
    print(f"{options.target}: {executions:,} executions, coverage {coverage}, exit code {code}")
    if code:
        sys.stderr.writelines(tail)
    return code


# --- the process that fuzzes ----------------------------------------------------------------------


def fuzz(name: str, seconds: int, corpus: Path, crashes: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["llamainspect"]):
        from fuzz.mutations import several
        from fuzz.targets import TARGETS

        import llamainspect.render.text

        if name.startswith("recording"):
            import llamainspect.model.recordings  # noqa: F401  torch is part of the base below
    target = TARGETS[name]
    directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for seed in sorted(corpus.iterdir())[:20]:  # whatever is imported late is imported here
        target.check(seed.read_bytes(), directory)
    base = _peak_nbytes()
    executions, told = 0, time.monotonic()

    def check(data: bytes) -> None:
        nonlocal executions, told
        started = time.process_time()
        target.check(data, directory)
        taken = time.process_time() - started
        assert taken < SECONDS_PER_INPUT, f"one input took {taken:.1f} s"
        grown = _peak_nbytes() - base
        assert grown < GROWTH_BYTES, f"memory grew by {grown / 2**20:.0f} MB"
        executions += 1
        if time.monotonic() - told > MINUTE / 4:
            told = time.monotonic()
            os.write(2, b"executions %d\n" % executions)

    def change(data: bytes, max_nbytes: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < OURS:
            return several(data, random, target.mutate)[:max_nbytes]
        return bytes(atheris.Mutate(data, max_nbytes))

    limit = (base + GROWTH_BYTES) // 2**20 + 50  # `check` tells it first, and more exactly
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-max_len={target.max_nbytes}",
            f"-timeout={WAIT_SECONDS}", f"-rss_limit_mb={limit}", f"-artifact_prefix={crashes}/",
            "-print_final_stats=1", "-len_control=0", "-reload=0", "-use_value_profile=0",
        ],
        check,
        custom_mutator=change,
    )  # fmt: skip
    atheris.Fuzz()


def _peak_nbytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
