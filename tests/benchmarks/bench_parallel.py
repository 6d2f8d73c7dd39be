"""One model in two processes against one: wall time, and the most memory that a process takes.

    python tests/benchmarks/bench_parallel.py

Writes a checkpoint in the shape of Llama 3.2 1B with random weights in BF16 (2.8 GiB), and runs
`llamainspect logits` on 64 tokens in float32 on the CPU, all weights kept or one layer at a time:
as one process with as many threads as there are cores, and as two with half as many each. The two
take turns. Memory and bytes are those of the process that has most of them, Python and torch
included. "The pass" is the command's own clock, which starts when the model is to be read.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench_experts import write
from measuring import take_turns

LLAMA_3_2_1B = {
    "dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
    "ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 500000.0,
    "use_scaled_rope": True,
}  # fmt: skip
IDS = " ".join(str(1999 * n % 128000) for n in range(1, 65))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each measurement (default 5)")
    runs = parser.parse_args().runs
    cores = len(os.sched_getaffinity(0))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        write(path, LLAMA_3_2_1B)
        print("| | processes | time | of it the pass | most memory | read |")
        print("|---|---:|---:|---:|---:|---:|")
        for label, option in (("all weights kept", "--no-stream"), ("streamed", "--stream")):
            command = ["llamainspect", "logits", str(path), "--ids", IDS, option, "--dtype",
                       "fp32", "--device", "cpu", "--json"]  # fmt: skip
            commands = {
                "1": with_threads(cores, [sys.executable, "-m", *command]),
                "2": with_threads(max(cores // 2, 1), [*torchrun, *command]),
            }
            columns = []
            for name, rows in take_turns(commands, runs).items():
                answers = [json.loads(output) for _, _, output in rows]
                passes = statistics.median(answer["seconds"] for answer in answers)
                seconds = statistics.median(seconds for seconds, _, _ in rows)
                peaks, read = zip(*(largest(answer["run"]) for answer in answers), strict=True)
                columns.append((seconds, passes, statistics.median(peaks), read[0]))
                print(
                    f"| {label} | {name} | {seconds:.2f} s | {passes:.2f} s "
                    f"| {columns[-1][2] / 2**20:,.0f} MiB | {read[0] / 2**20:,.0f} MiB |"
                )
            one, two = columns
            ratios = " | ".join(f"{b / a:.2f}" for a, b in zip(one, two, strict=True))
            print(f"| | 2 to 1 | {ratios} |")


def with_threads(number: int, command: list[str]) -> list[str]:
    return ["env", f"OMP_NUM_THREADS={number}", *command]


def largest(run: dict) -> tuple[int, int]:
    """Peak memory and bytes read of the process that has most of them."""
    rows = run["processes"] or [run]
    return max(row["peak_nbytes"] for row in rows), max(row["nbytes_read"] for row in rows)


if __name__ == "__main__":
    main()
