"""`summary` of Hugging Face directories against a reader of one file, as whole processes.

    python tests/benchmarks/bench_hub.py [--runs N]

Writes sparse checkpoints (true names and shapes, holes instead of values; next to no disk) of
Llama 3.1 8B in 4 shards and 70B in 30, with their index, into a temporary directory, then times in
turn:

- `llamainspect summary --json`
- `safetensors-print` 0.1.0 on the first shard of 8B: a package without dependencies that reads the
  header of one file, checks it against the specification and prints what it found. It is taken from
  the environment variable SAFETENSORS_PRINT, or from PATH (not from this environment: it would be
  the only thing that needs it). Where it is in neither, a bare script stands in, with work of the
  same shape: it parses the header of that shard with the json of the standard library and prints
  name, dtype and shape of each tensor
- `python -c "import typer"`, the floor for any command line made with Typer

Figures are medians; memory is the peak of the process.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import take_turns

SHARD_BYTES = 5_000_000_000  # at most, as save_pretrained cut them
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA_3_1_70B = LLAMA_3_1_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}

HEADER_SCRIPT = """
import json, sys

with open(sys.argv[1], "rb") as file:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
for name, tensor in header.items():
    if name != "__metadata__":
        print(name, tensor["dtype"], tensor["shape"])
"""


def hub_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight of a dense Llama as transformers names, shapes and orders them."""
    dim, hidden, vocab = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = dim // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, dim)}
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes |= {
            f"{p}self_attn.q_proj.weight": (dim, dim),
            f"{p}self_attn.k_proj.weight": (kv, dim),
            f"{p}self_attn.v_proj.weight": (kv, dim),
            f"{p}self_attn.o_proj.weight": (dim, dim),
            f"{p}mlp.gate_proj.weight": (hidden, dim),
            f"{p}mlp.up_proj.weight": (hidden, dim),
            f"{p}mlp.down_proj.weight": (dim, hidden),
            f"{p}input_layernorm.weight": (dim,),
            f"{p}post_attention_layernorm.weight": (dim,),
        }
    shapes["model.norm.weight"] = (dim,)
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, dim)}


def bf16_bytes(shape: tuple[int, ...]) -> int:
    """Two for each value."""
    count = 2
    for length in shape:
        count *= length
    return count


def write_hub(directory: Path, config: dict[str, Any]) -> list[Path]:
    """config.json, the index, and sparse shards, which are returned."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = SHARD_BYTES
    for name, shape in hub_shapes(config).items():
        if bf16_bytes(shape) > room:
            shards.append({})
            room = SHARD_BYTES
        room -= bf16_bytes(shape)
        shards[-1][name] = shape
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    sizes = [
        write_holes(directory / name, shard) for name, shard in zip(names, shards, strict=True)
    ]
    weight_map = {
        weight: name for name, shard in zip(names, shards, strict=True) for weight in shard
    }
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return [directory / name for name in names]


def write_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A BF16 safetensors file without its values; returns how many bytes those would be."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + bf16_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=11, help="of each command (default 11)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        shard = str(write_hub(root / "8B", LLAMA_3_1_8B)[0])
        write_hub(root / "70B", LLAMA_3_1_70B)
        # The console script beside this interpreter: what pip installed.
        ours = [str(Path(sys.executable).parent / "llamainspect"), "summary", "--json"]
        printer = os.environ.get("SAFETENSORS_PRINT") or shutil.which("safetensors-print")
        script = root / "header.py"
        script.write_text(HEADER_SCRIPT)
        other = [printer, shard] if printer else [sys.executable, str(script), shard]
        commands = {
            "`llamainspect summary --json`, 8B": [*ours, str(root / "8B")],
            "`llamainspect summary --json`, 70B": [*ours, str(root / "70B")],
            f"{'`safetensors-print`' if printer else 'header script'}, one shard of 8B": other,
            '`python -c "import typer"`': [sys.executable, "-c", "import typer"],
        }
        report(take_turns(commands, runs))


def report(results: dict[str, list[tuple[float, int, str]]]) -> None:
    """The table, and the ratios that matter."""
    names = list(results)
    seconds = {name: statistics.median(row[0] for row in results[name]) for name in names}
    print("| | time | peak memory |\n|---|---:|---:|")
    for name in names:
        memory = statistics.median(row[1] for row in results[name]) / 2**20
        print(f"| {name} | {seconds[name]:.3f} s | {memory:.0f} MiB |")
    small, large, other, typer = names
    totals = [json.loads(results[name][0][2])["parameters"]["total"] for name in (small, large)]
    ratio = seconds[small] / (seconds[other] + seconds[typer])
    print(f"\n8B takes {ratio:.2f} times as long as {other} and `import typer` together; ", end="")
    print(f"70B {seconds[large] / seconds[small]:.2f} times as long as 8B.")
    print("{:,} and {:,} parameters.".format(*totals))


if __name__ == "__main__":
    main()
