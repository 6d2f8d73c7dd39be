"""Bytes that a streamed Llama 4 reads per token, and a dense Llama of as many parameters.

    python tests/benchmarks/bench_experts.py

Writes two checkpoints with random weights in BF16: 8 layers, each with 16 experts of which a token
goes to one, beside the one that all share; and 8 dense layers whose feed-forward is as large as all
17 together. Both run `llamainspect logits --stream` on one token, and on 64.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import environment, take_turns

EXPERTS = 16
ROUTED = {
    "dim": 1024, "n_layers": 8, "n_heads": 16, "n_kv_heads": 4, "vocab_size": 4096,
    "multiple_of": 256, "ffn_dim_multiplier": 1.0, "ffn_exp": 4.0, "norm_eps": 1e-5,
    "rope_theta": 500000.0, "use_scaled_rope": False, "use_qk_norm": True,
    "nope_layer_interval": 4, "attention_chunk_size": 8192,
    "moe_args": {"num_experts": EXPERTS, "capacity_factor": 1.0, "auto_scale_F": True,
                 "top_k": 1, "interleave_moe_layer_step": 1},
}  # fmt: skip
LLAMA_4 = ("ffn_exp", "use_qk_norm", "nope_layer_interval", "attention_chunk_size", "moe_args")
WRITE = """
import json, sys
import torch
import llamainspect

directory, params = sys.argv[1], json.loads(sys.argv[2])
config = llamainspect.ModelConfig.from_params(params)
torch.manual_seed(0)
weights = {
    name: (torch.randn(spec.shape) * 0.02 + ("norm" in name)).bfloat16()
    for name, spec in llamainspect.expected_weights(config).items()
    if spec.required
}
torch.save(weights, f"{directory}/consolidated.00.pth")
json.dump(params, open(f"{directory}/params.json", "w"))
print(llamainspect.count_parameters(config), config.moe.hidden_dim if config.moe else 0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each measurement (default 5)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        routed, dense = Path(temporary) / "routed", Path(temporary) / "dense"
        count, hidden = write(routed, ROUTED)
        wide = (EXPERTS + 1) * hidden  # int(2 * 4 * dim / 3) = 2730, times the multiplier
        plain = {key: value for key, value in ROUTED.items() if key not in LLAMA_4}
        plain["ffn_dim_multiplier"] = wide / (8 * ROUTED["dim"] // 3)
        also, _ = write(dense, plain)
        print(f"{count:,} parameters routed, {also:,} dense\n")
        print(
            "| | tokens | read | per token | time | peak memory |\n|---|---:|---:|---:|---:|---:|"
        )
        for tokens in (1, 64):
            ids = " ".join(str(37 * n % 4096) for n in range(1, tokens + 1))
            commands = {
                name: [sys.executable, "-m", "llamainspect", "logits", str(path), "--ids", ids,
                       "--stream", "--dtype", "bf16", "--device", "cpu", "--json"]
                for name, path in (("routed", routed), ("dense", dense))
            }  # fmt: skip
            for name, rows in take_turns(commands, runs).items():
                read = json.loads(rows[0][2])["run"]["nbytes_read"]
                times, peaks, _ = zip(*rows, strict=True)
                seconds, memory = statistics.median(times), statistics.median(peaks)
                print(f"| {name} | {tokens} | {read / 2**20:,.1f} MiB "
                      f"| {read / tokens / 2**20:,.2f} MiB | {seconds:.2f} s "
                      f"| {memory / 2**20:,.0f} MiB |")  # fmt: skip


def write(directory: Path, params: dict) -> tuple[int, int]:
    """A checkpoint with random weights: its parameters, and the hidden size of an expert."""
    directory.mkdir()
    command = [sys.executable, "-c", WRITE, str(directory), json.dumps(params)]
    done = subprocess.run(command, check=True, capture_output=True, env=environment(), text=True)
    count, hidden = map(int, done.stdout.split())
    return count, hidden


if __name__ == "__main__":
    main()
