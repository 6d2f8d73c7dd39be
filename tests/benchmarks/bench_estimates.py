"""`memory`, `compute` and `explain` against `summary` and torch, as whole processes in one run.

    python tests/benchmarks/bench_estimates.py [--runs N]

Times in turn, with the checkpoint of examples/mini-llama and with official models by name:

- `llamainspect summary`, whose start-up the others should share, and `python -c "import typer"`
- `memory`, `compute` and `explain`, as JSON and as text
- a script that builds the model on torch's meta device with transformers and asks it for its bytes,
  which is how estimators that are at hand do it

Figures are medians; memory is the peak of the process.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import take_turns

EXAMPLE = str(Path(__file__).parent.parent.parent / "examples" / "mini-llama")

META_SCRIPT = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    intermediate_size=14336, vocab_size=128256, dtype=torch.bfloat16,
)
with torch.device("meta"):
    model = LlamaForCausalLM(config).to(torch.bfloat16)
print(sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=11, help="of each command (default 11)")
    runs = parser.parse_args().runs
    # The console script beside this interpreter: what pip installed.
    ours = str(Path(sys.executable).parent / "llamainspect")
    asked = {
        "summary --json": ["summary", EXAMPLE, "--json"],
        "memory --json": ["memory", EXAMPLE, "--json"],
        "memory llama-3.1-8b --json": ["memory", "llama-3.1-8b", "--json"],
        "memory llama-3.1-405b --training full --zero 3 --checkpointing --gpu h200:64 --json": [
            *["memory", "llama-3.1-405b", "--training", "full", "--zero", "3"],
            "--checkpointing",
            *["--gpu", "h200:64", "--json"],
        ],
        "compute llama-3.1-8b --json": ["compute", "llama-3.1-8b", "--json"],
        "explain --json": ["explain", EXAMPLE, "--json"],
        "explain llama-3.1-8b --json": ["explain", "llama-3.1-8b", "--json"],
        "summary": ["summary", EXAMPLE],
        "memory llama-3.1-8b": ["memory", "llama-3.1-8b"],
        "explain": ["explain", EXAMPLE],
    }
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary, "meta.py")
        script.write_text(META_SCRIPT)
        commands = {f"`llamainspect {name}`": [ours, *words] for name, words in asked.items()}
        commands['`python -c "import typer"`'] = [sys.executable, "-c", "import typer"]
        commands["transformers on the meta device, 8B"] = [sys.executable, str(script)]
        results = take_turns(commands, runs)
    report(results)


def report(results: dict[str, list[tuple[float, int, str]]]) -> None:
    """The table, and whether the two ways to 8B's weights agree."""
    seconds = {name: statistics.median(r[0] for r in rows) for name, rows in results.items()}
    base = seconds["`llamainspect summary --json`"]
    print("| | time | of `summary --json` | peak memory |")
    print("|---|---:|---:|---:|")
    for name, rows in results.items():
        memory = statistics.median(r[1] for r in rows) / 2**20
        print(f"| {name} | {seconds[name]:.3f} s | {seconds[name] / base:.2f} | {memory:.0f} MiB |")
    ours = json.loads(results["`llamainspect memory llama-3.1-8b --json`"][0][2])["weights"]["bf16"]
    theirs = int(results["transformers on the meta device, 8B"][0][2])
    print(f"\n8B in bf16: {ours:,} bytes here, {theirs:,} there.")


if __name__ == "__main__":
    main()
