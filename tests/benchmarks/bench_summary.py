"""`summary` of full-size checkpoints against torch, as whole processes in one run.

    python tests/benchmarks/bench_summary.py [--runs N]

Writes sparse checkpoints (true names and shapes, holes instead of values; about 100 MB on disk) of
Llama 3 70B in 8 shards and Llama 3.1 405B in 16 into a temporary directory, then times in turn:

- `llamainspect summary --json`
- a script that does torch.load(mmap=True, weights_only=True) and counts parameters
- `python -c "import typer"`, the floor for any command line made with Typer

Figures are medians; memory is the peak of the process, bytes are what its read calls returned from
files of the checkpoint (strace, when it is installed).
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import environment, measure, take_turns

# Run as a process of its own, so that this one stays small.
WRITE_SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from checkpoints import LLAMA_3_1_405B, LLAMA_3_70B, write_sparse

write_sparse(Path(sys.argv[2], "70B"), LLAMA_3_70B, 28672, 8)
write_sparse(Path(sys.argv[2], "405B"), LLAMA_3_1_405B, 53248, 16)
"""

TORCH_SCRIPT = """
import sys
from pathlib import Path
import torch

total = 0
for file in sorted(Path(sys.argv[1]).glob("consolidated.*.pth")):
    shard = torch.load(file, mmap=True, weights_only=True, map_location="cpu")
    total += sum(tensor.numel() for tensor in shard.values())
print(total)
"""


def bytes_read(command: list[str], directory: Path) -> int | None:
    """Bytes that the process read from files in `directory`; None without strace."""
    if not shutil.which("strace"):
        return None
    trace = ["strace", "-f", "-y", "-e", "trace=read,pread64,readv,preadv", "-o", "/dev/stderr"]
    run = subprocess.run([*trace, *command], capture_output=True, text=True, env=environment())
    calls = re.findall(rf"\(\d+<{re.escape(str(directory))}/[^>]*>.* = (\d+)$", run.stderr, re.M)
    return sum(map(int, calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=11, help="of each command (default 11)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        tests = str(Path(__file__).parent.parent)
        measure([sys.executable, "-c", WRITE_SCRIPT, tests, str(root)])
        script = root / "count.py"
        script.write_text(TORCH_SCRIPT)
        # The console script beside this interpreter: what pip installed.
        ours = [str(Path(sys.executable).parent / "llamainspect"), "summary", "--json"]
        commands = {
            "`llamainspect summary --json`, 70B": [*ours, str(root / "70B")],
            "`llamainspect summary --json`, 405B": [*ours, str(root / "405B")],
            "`torch.load` script, 70B": [sys.executable, str(script), str(root / "70B")],
            '`python -c "import typer"`': [sys.executable, "-c", "import typer"],
        }
        results = take_turns(commands, runs)
        report(results, {name: bytes_read(c, root) for name, c in commands.items()})


def report(results: dict[str, list[tuple[float, int, str]]], read: dict[str, int | None]) -> None:
    """The table, and the ratios that matter."""
    names = list(results)
    seconds = {name: statistics.median(r[0] for r in results[name]) for name in names}
    memory = {name: statistics.median(r[1] for r in results[name]) for name in names}
    print("| | time | peak memory | read from the checkpoint |")
    print("|---|---:|---:|---:|")
    for name in names:
        nbytes = read[name]
        data = f"{nbytes / 2**20:.2f} MiB" if nbytes else "-"
        print(f"| {name} | {seconds[name]:.3f} s | {memory[name] / 2**20:.0f} MiB | {data} |")
    small, large, script, typer = names
    total = json.loads(results[small][0][2])["parameters"]["total"]
    print(f"\n70B: {seconds[script] / seconds[small]:.1f} times faster than the script, ", end="")
    print(f"{memory[small] / memory[script]:.2f} of its memory, ", end="")
    print(f"{seconds[small] / seconds[typer]:.2f} times `import typer`; {total:,} parameters.")
    print(f"405B takes {seconds[large] / seconds[small]:.2f} times as long as 70B.")


if __name__ == "__main__":
    main()
