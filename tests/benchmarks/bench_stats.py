"""`stats` against the obvious torch code, as whole processes in one run.

    python tests/benchmarks/bench_stats.py [--runs N] [--place DIRECTORY]

Writes a checkpoint of the shape of Llama 3.2 1B as Hugging Face lays it out, in one file of 2.5 GB
(BF16, tied embeddings, random values), into a temporary directory. Then it times in turn

- `llamainspect stats --json`, kept to one core, and on all cores
- `llamainspect stats --quantize int4 --json` on all cores
- a script that takes each weight from the file with safetensors, makes it float() and asks torch
  for min, max, mean, std and how many are NaN, infinite and zero, kept to one core and on all cores

A round to warm up leaves the file in the page cache, where memory has room for it. Figures are
medians; memory is the peak of the process, mapped files included.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench_diff import FILE, write
from measuring import measure

TORCH_SCRIPT = """
import sys
import torch
from safetensors import safe_open

torch.set_num_threads(int(sys.argv[2]))
with safe_open(sys.argv[1], "pt") as file:
    for name in file.keys():
        x = file.get_tensor(name).float()
        print(name, x.min().item(), x.max().item(), x.mean().item(), x.std().item(),
              x.isnan().sum().item(), x.isinf().sum().item(), (x == 0).sum().item())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each command (default 5)")
    parser.add_argument("--place", type=Path, help="keeps the checkpoint, and uses it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        if not (place / "A" / FILE).exists():
            write(place, "A")
        place /= "A"
        script = Path(temporary, "figures.py")
        script.write_text(TORCH_SCRIPT)
        # The console script beside this interpreter: what pip installed.
        ours = [str(Path(sys.executable).parent / "llamainspect"), "stats", str(place), "--json"]
        torch = [sys.executable, str(script), str(place / FILE)]
        cores = os.sched_getaffinity(0)
        one = {min(cores)}
        commands = {
            "`llamainspect stats --json`, one core": (ours, one),
            f"`llamainspect stats --json`, {len(cores)} cores": (ours, None),
            f"`llamainspect stats --quantize int4 --json`, {len(cores)} cores": (
                [*ours, "--quantize", "int4"],
                None,
            ),
            "the script, one core": ([*torch, "1"], one),
            f"the script, {len(cores)} cores": ([*torch, str(len(cores))], None),
        }
        results: dict[str, list[tuple[float, int, str]]] = {name: [] for name in commands}
        for run in range(options.runs + 1):
            for name, (command, kept_to) in commands.items():
                result = measure(command, kept_to)
                if run:
                    results[name].append(result)
        report(results)


def report(results: dict[str, list[tuple[float, int, str]]]) -> None:
    """The table, and the ratios that matter."""
    names = list(results)
    answer = json.loads(results[names[0]][0][2])
    elements, nbytes = answer["total"]["count"], answer["nbytes_read"]
    seconds = {name: statistics.median(row[0] for row in results[name]) for name in names}
    memory = {name: statistics.median(row[1] for row in results[name]) for name in names}
    print(f"| {nbytes:,} bytes | time | elements | peak memory |\n|---|---:|---:|---:|")
    for name in names:
        speed = elements / seconds[name] / 1e6
        print(f"| {name} | {seconds[name]:.2f} s | {speed:,.0f} M/s | ", end="")
        print(f"{memory[name] / 2**20:,.0f} MiB |")
    one, many, _, script_one, script_many = names
    print(
        f"\nstats is {seconds[script_one] / seconds[one]:.1f} times as fast as the script ", end=""
    )
    print(f"on one core, {seconds[script_many] / seconds[many]:.1f} times on all, ", end="")
    print(f"in {memory[many] / memory[script_many]:.2f} of its memory.")


if __name__ == "__main__":
    main()
