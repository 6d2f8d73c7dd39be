"""The forward pass against transformers: speed, time to the first logits, memory when streaming.

    python tests/benchmarks/bench_forward.py [--runs N] [--place DIRECTORY]

Writes a model of the shape of Llama 3.2 1B with random BF16 weights (2.3 GiB, twice: in Meta's
layout and in Hugging Face's), and measures in one run

- prefill of 128 tokens and decoding of 32 tokens on the CPU, both implementations in one process,
  their runs in turn, in float32 and bfloat16
- whole processes from start to the logits behind 128 tokens: `llamainspect logits` and a script
  with `from_pretrained` and one forward pass
- peak memory of `llamainspect logits --stream` with 16 layers and with 32 (those of zeros, which
  take no disk)
- on a GPU, if torch sees one: prefill of 2048 tokens and decoding of 64 at batch 1 in bfloat16,
  transformers with SDPA, and the share of the memory's bandwidth that decoding uses

Figures are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import environment, take_turns

TESTS = Path(__file__).parent.parent
PROMPT = [37 * n for n in range(1, 129)]

# Children do what needs torch: the peak memory of a process counts that of its parent.
WRITE = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
place = Path(sys.argv[2])
import torch
from checkpoints import dense_shapes, write_native, write_sparse
from transformers import LlamaConfig, LlamaForCausalLM

params = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
          "ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 500000.0,
          "use_scaled_rope": True}
generator = torch.Generator().manual_seed(0)
weights = {}
for name, shape in dense_shapes(params, 8192).items():
    if name != "output.weight":
        values = torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(
            0, 0.02, generator=generator)
        weights[name] = values.bfloat16()
weights["output.weight"] = weights["tok_embeddings.weight"]
write_native(place / "native", params, [weights])
write_sparse(place / "deep", params | {"n_layers": 32}, 8192, 1)
write_sparse(place / "shallow", params, 8192, 1)
rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
config = LlamaConfig(vocab_size=128256, hidden_size=2048, intermediate_size=8192,
                     num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                     rms_norm_eps=1e-5, max_position_embeddings=131072,
                     tie_word_embeddings=True, rope_parameters=rope)
with torch.device("meta"):
    model = LlamaForCausalLM(config)
names = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
         "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
         "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
         "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm"}
state = {"model.embed_tokens.weight": weights["tok_embeddings.weight"],
         "model.norm.weight": weights["norm.weight"]}
for layer in range(16):
    for ours, theirs in names.items():
        weight = weights[f"layers.{layer}.{ours}.weight"]
        if ours in ("attention.wq", "attention.wk"):
            weight = weight.view(-1, 32, 2, 2048).transpose(1, 2).reshape(weight.shape)
        state[f"model.layers.{layer}.{theirs}.weight"] = weight
model.load_state_dict(state, assign=True, strict=False)
model.tie_weights()
model.save_pretrained(place / "hf")
"""

SIDE_BY_SIDE = """
import json, sys, time
import torch
from transformers import LlamaForCausalLM
from llamainspect import RunOptions, find_subject, load_model

place, name, device, tokens, steps, runs = *sys.argv[1:4], *map(int, sys.argv[4:7])
kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
ids = [37 * n % 128256 for n in range(1, tokens + 1)]
prompt = torch.tensor([ids], device=device)
ours = load_model(find_subject(f"{place}/native"), RunOptions(device, name, stream=False))
theirs = LlamaForCausalLM.from_pretrained(f"{place}/hf", dtype=kind, attn_implementation="sdpa")
theirs = theirs.to(device).eval()


def clock():
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def run_ours():
    cache = ours.new_cache(tokens + steps)
    begin = clock()
    logits = ours.next_logits(ids, cache)
    middle = clock()
    for _ in range(steps):
        logits = ours.next_logits([int(logits.argmax())], cache)
    return middle - begin, clock() - middle, logits


@torch.inference_mode()
def run_theirs():
    begin = clock()
    made = theirs(prompt, logits_to_keep=1, use_cache=True)
    middle = clock()
    for _ in range(steps):
        token = made.logits[:, -1].argmax(-1, keepdim=True)
        made = theirs(token, past_key_values=made.past_key_values, use_cache=True)
    return middle - begin, clock() - middle, made.logits[0, -1].float()


times = {"ours": [], "theirs": []}
for run in range(runs + 1):
    for name, call in (("ours", run_ours), ("theirs", run_theirs)):
        prefill, decode, logits = call()
        if run:
            times[name].append((prefill, decode))
bandwidth = None
if device == "cuda":
    from llamainspect.model.devices import find_gpus

    bandwidth = find_gpus().gpu.bandwidth
print(json.dumps({"times": times, "bandwidth": bandwidth}))
"""

FIRST_LOGITS = """
import sys
import torch
from transformers import LlamaForCausalLM

model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
ids = torch.tensor([[37 * n for n in range(1, 129)]])
with torch.inference_mode():
    print(model(ids, logits_to_keep=1).logits[0, -1].topk(10))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--place", type=Path, help="keeps the checkpoints, and uses them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        if not (place / "hf").exists():
            child(WRITE, TESTS, place)
        side_by_side(place, "cpu", 128, 32, options.runs, ("fp32", "bf16"))
        if "True" in child("import torch; print(torch.cuda.is_available())"):
            side_by_side(place, "cuda", 2048, 64, options.runs, ("bf16",))
        first_logits(place, options.runs)
        streaming(place)


def side_by_side(
    place: Path, device: str, tokens: int, steps: int, runs: int, kinds: tuple[str, ...]
) -> None:
    """Both implementations in one process."""
    print(f"| {device} | llamainspect | transformers | speed |\n|---|---:|---:|---:|")
    for kind in kinds:
        found = json.loads(child(SIDE_BY_SIDE, place, kind, device, tokens, steps, runs))
        ours, theirs = (
            [statistics.median(column) for column in zip(*found["times"][name], strict=True)]
            for name in ("ours", "theirs")
        )
        for row, each, text in ((0, tokens, "prefill"), (1, steps, "decode")):
            label = f"{text} {each} tokens, {kind}"
            speed = theirs[row] / ours[row]
            print(f"| {label} | {ours[row]:.3f} s | {theirs[row]:.3f} s | {speed:.2f} times |")
        if found["bandwidth"]:
            nbytes = 2 * 1_235_814_400 * steps / ours[1]
            print(
                f"\nDecoding reads weights at {nbytes / found['bandwidth']:.0%} of the bandwidth."
            )
    print()


def first_logits(place: Path, runs: int) -> None:
    """Whole processes, from nothing to logits."""
    ours = str(Path(sys.executable).parent / "llamainspect")
    ids = " ".join(map(str, PROMPT))
    commands = {}
    script = place / "first_logits.py"
    script.write_text(FIRST_LOGITS)
    for kind, name in (("fp32", "float32"), ("bf16", "bfloat16")):
        words = ["logits", str(place / "native"), "--ids", ids, "--dtype", kind, "--device", "cpu"]
        commands[f"`llamainspect logits --dtype {kind}`"] = [ours, *words]
        commands[f"transformers script, {kind}"] = [
            sys.executable, str(script), str(place / "hf"), name,
        ]  # fmt: skip
    print("| from start to first logits | time | peak memory |\n|---|---:|---:|")
    for name, rows in take_turns(commands, runs).items():
        seconds = statistics.median(row[0] for row in rows)
        memory = statistics.median(row[1] for row in rows) / 2**20
        print(f"| {name} | {seconds:.2f} s | {memory:,.0f} MiB |")
    print()


def streaming(place: Path) -> None:
    """Peak memory does not grow with depth."""
    ours = str(Path(sys.executable).parent / "llamainspect")
    ids = " ".join(map(str, PROMPT))
    print("| `llamainspect logits --stream --dtype fp32`, 128 tokens | peak memory |\n|---|---:|")
    commands = {
        f"{name}, {layers} layers": [
            *[ours, "logits", str(place / name), "--ids", ids, "--dtype", "fp32", "--stream"],
            *["--device", "cpu", "--json"],
        ]
        for name, layers in (("native", 16), ("shallow", 16), ("deep", 32))
    }
    for name, rows in take_turns(commands, 3).items():
        print(f"| {name} | {statistics.median(row[1] for row in rows) / 1e6:,.0f} MB |")


def child(script: str, *arguments: object) -> str:
    """Run a script in another process."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment(), text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
