"""`diff` of two checkpoints against `cmp` and a torch script, as whole processes in one run.

    python tests/benchmarks/bench_diff.py [--runs N] [--place DIRECTORY]

Writes three checkpoints of the shape of Llama 3.2 1B as Hugging Face lays them out, each in one
file of 2.5 GB (BF16, tied embeddings), into a temporary directory, which needs 7.5 GB: A of random
values, B with the same bytes, and C like a fine-tune of A, where the last bit of every value is
flipped, so that each moves by 0.4 to 0.8 percent. Then it times in turn

- `cmp` of the files of A and B, which reads all of both
- `llamainspect diff --json` of A and B (exit code 0), and of A and C (exit code 1)
- a script that loads A and C with safetensors.torch.load_file and computes, in float32, the
  largest difference, the relative L2 distance and the cosine of each weight

The round to warm up leaves all files in the page cache, where memory has room for them. Figures are
medians; GB/s are bytes of one side; memory is the peak of the process, mapped files included.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_hub import LLAMA_3_1_8B, hub_shapes
from measuring import environment, take_turns

LLAMA_3_2_1B = LLAMA_3_1_8B | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": LLAMA_3_1_8B["rope_scaling"] | {"factor": 32.0},
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
}
FILE = "model.safetensors"

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
for name in sys.argv[4]:
    if name == "C":
        for weight in weights.values():
            weight.view(torch.int16).bitwise_xor_(1)
    (place / name).mkdir(parents=True, exist_ok=True)
    (place / name / "config.json").write_text(config)
    save_file(weights, place / name / "model.safetensors", {"format": "pt"})
"""

TORCH_SCRIPT = """
import sys
import torch
from safetensors.torch import load_file

left, right = load_file(sys.argv[1]), load_file(sys.argv[2])
for name, weight in left.items():
    a, b = weight.float().flatten(), right[name].float().flatten()
    change = b - a
    furthest = change.abs().max().item()
    relative = (change.norm() / a.norm()).item()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    print(name, furthest, relative, cosine)
"""

# For a command whose exit code 1 is its answer: this has 0 then, and 1 for anything else.
ENDS_WITH_1 = ["sh", "-c", '"$@"; test $? -eq 1', "sh"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each command (default 5)")
    parser.add_argument("--place", type=Path, help="keeps the checkpoints, and uses them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        if not (place / "C" / FILE).exists():
            write(place)
        script = Path(temporary, "compare.py")
        script.write_text(TORCH_SCRIPT)
        a, b, c = (str(place / name) for name in "ABC")
        # The console script beside this interpreter: what pip installed.
        ours = [str(Path(sys.executable).parent / "llamainspect"), "diff", "--json"]
        commands = {
            "`cmp A B`": ["cmp", f"{a}/{FILE}", f"{b}/{FILE}"],
            "`llamainspect diff A B --json`": [*ours, a, b],
            "`llamainspect diff A C --json`": [*ENDS_WITH_1, *ours, a, c],
            "torch script, A and C": [sys.executable, str(script), f"{a}/{FILE}", f"{c}/{FILE}"],
        }
        report(take_turns(commands, options.runs), (place / "A" / FILE).stat().st_size)


def write(place: Path, names: str = "ABC") -> None:
    """A, B and C; every file is written, so none shares its blocks with another."""
    place.mkdir(parents=True, exist_ok=True)
    needed = 2.6 * len(names)
    if shutil.disk_usage(place).free < needed * 1e9:
        raise SystemExit(f"{place} has no room for {needed:.0f} GB; say where to with --place")
    config = json.dumps(LLAMA_3_2_1B)
    arguments = [str(place), json.dumps(hub_shapes(LLAMA_3_2_1B)), config, names]
    subprocess.run([sys.executable, "-c", WRITE_SCRIPT, *arguments], env=environment(), check=True)


def report(results: dict[str, list[tuple[float, int, str]]], nbytes: int) -> None:
    """The table, and the ratios that matter."""
    names = list(results)
    seconds = {name: statistics.median(row[0] for row in results[name]) for name in names}
    memory = {name: statistics.median(row[1] for row in results[name]) for name in names}
    print(f"| {nbytes:,} bytes a side | time | speed | peak memory |\n|---|---:|---:|---:|")
    for name in names:
        speed = nbytes / seconds[name] / 1e9
        print(f"| {name} | {seconds[name]:.2f} s | {speed:.2f} GB/s | ", end="")
        print(f"{memory[name] / 2**20:,.0f} MiB |")
    compare, same, moved, script = names
    for name in (same, moved):
        json.loads(results[name][0][2])  # Python ends with 1 behind a traceback, too.
    print(f"\ndiff runs at {seconds[compare] / seconds[same]:.2f} times the speed of cmp ", end="")
    print(f"({seconds[compare] / seconds[moved]:.2f} times where every value differs), ", end="")
    print(f"at {seconds[script] / seconds[moved]:.2f} times that of the script ", end="")
    print(f"in {memory[moved] / memory[script]:.2f} of its memory.")


if __name__ == "__main__":
    main()
