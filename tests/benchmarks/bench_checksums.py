"""`verify-checksums` against `openssl md5` and `md5sum`, as whole processes on the same files.

    python tests/benchmarks/bench_checksums.py [--runs N] [--gib SIZE]

Writes a checkpoint of SIZE GiB (default 4) of random numbers with torch.save, once as one file and
once as 8 equal shards, with a checklist.chk for each, into a temporary directory. All files are
read once before each round, so the cache is warm; commands take turns, and figures are medians.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import measure

SHARDS = 8
TENSORS = 64  # in the single file
WRITE_SCRIPT = """
import hashlib, sys
from pathlib import Path
import torch

def save(directory, shards, nbytes):
    directory.mkdir()
    lines = []
    for rank in range(shards):
        path = directory / f"consolidated.{rank:02d}.pth"
        each = nbytes // shards // (64 // shards)
        torch.save({
            f"layers.{i}.attention.wq.weight": torch.randint(0, 256, (each,), dtype=torch.uint8)
            for i in range(64 // shards)
        }, path)
        digest = hashlib.file_digest(path.open("rb"), "md5").hexdigest()
        lines.append(f"{digest}  {path.name}\\n")
    (directory / "checklist.chk").write_text("".join(lines))

root, nbytes = Path(sys.argv[1]), int(sys.argv[2])
save(root / "one", 1, nbytes)
save(root / "eight", 8, nbytes)
(root / "bare").mkdir()
(root / "bare" / "consolidated.00.pth").hardlink_to(root / "one" / "consolidated.00.pth")
"""


def main() -> None:
    """Write the files, time everything in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gib", type=float, default=4)
    arguments = parser.parse_args()
    nbytes = int(arguments.gib * 2**30) // 2**20 * 2**20
    tool = [sys.executable, "-m", "llamainspect", "verify-checksums"]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        subprocess.run([sys.executable, "-c", WRITE_SCRIPT, directory, str(nbytes)], check=True)
        one = str(root / "one" / "consolidated.00.pth")
        shards = sorted(map(str, (root / "eight").glob("*.pth")))
        core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else None
        commands: dict[str, tuple[list[str], set[int] | None]] = {
            "`openssl md5`, one file": (["openssl", "md5", one], None),
            "`md5sum`, one file": (["md5sum", one], None),
            "`verify-checksums`, one file": ([*tool, str(root / "one")], None),
            "`openssl md5`, 8 shards": (["openssl", "md5", *shards], None),
            "`verify-checksums`, 8 shards": ([*tool, str(root / "eight")], None),
            "CRC-32s alone, one file": ([*tool, "--deep", str(root / "bare")], None),
            "`openssl md5`, one file, one core": (["openssl", "md5", one], core),
            "CRC-32s alone, one file, one core": ([*tool, "--deep", str(root / "bare")], core),
        }
        commands = {name: row for name, row in commands.items() if shutil.which(row[0][0])}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        memory = dict.fromkeys(commands, 0)
        for _ in range(arguments.runs):
            for path in (one, *shards):
                warm(path)
            for name, (command, cores) in commands.items():
                elapsed, peak, _ = measure(command, cores)
                seconds[name].append(elapsed)
                memory[name] = max(memory[name], peak)
    report(seconds, memory, nbytes)


def warm(path: str) -> None:
    """Bring a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(2**20)
        while file.readinto(buffer):
            pass


def report(seconds: dict[str, list[float]], memory: dict[str, int], nbytes: int) -> None:
    """The table, and the ratios that the claims are about."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print("| | time | rate | peak memory |")
    print("|---|---:|---:|---:|")
    for name, value in median.items():
        rate = nbytes / value / 2**30
        print(f"| {name} | {value:.2f} s | {rate:.2f} GiB/s | {memory[name] / 2**20:.0f} MiB |")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    single = median["`openssl md5`, one file"]
    one, eight = median["`verify-checksums`, one file"], median["`verify-checksums`, 8 shards"]
    deep = median["CRC-32s alone, one file"]
    pinned = (
        median["`openssl md5`, one file, one core"] / median["CRC-32s alone, one file, one core"]
    )
    print(f"\nOne file: {single / one:.2f} times the speed of `openssl md5`.")
    each = single / eight / cores
    print(f"8 shards on {cores} cores: {single / eight:.2f} times, {each:.2f} a core.")
    print(f"CRC-32s alone: {single / deep:.1f} times; both on one core: {pinned:.1f} times.")


if __name__ == "__main__":
    main()
