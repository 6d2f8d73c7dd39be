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
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_diff import FILE, LLAMA_3_2_1B
from bench_hub import hub_shapes
from measuring import environment, measure

# Run as a process of its own: the peak memory of a process counts that of its parent.
WRITE_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file

place, shapes, config = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
generator = torch.Generator().manual_seed(0)
weights = {}
for name, shape in shapes.items():
    mean = 1 if len(shape) == 1 else 0
    weights[name] = torch.empty(shape).normal_(mean, 0.02, generator=generator).bfloat16()
place.mkdir(parents=True, exist_ok=True)
(place / "config.json").write_text(config)
save_file(weights, place / "model.safetensors", {"format": "pt"})
"""

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
        if not (place / FILE).exists():
            write(place)
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


def write(place: Path) -> None:
    """The checkpoint; nothing of it is sparse."""
    place.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place).free < 3e9:
        raise SystemExit(f"{place} has no room for 3 GB; say where to with --place")
    arguments = [str(place), json.dumps(hub_shapes(LLAMA_3_2_1B)), json.dumps(LLAMA_3_2_1B)]
    subprocess.run([sys.executable, "-c", WRITE_SCRIPT, *arguments], env=environment(), check=True)


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
