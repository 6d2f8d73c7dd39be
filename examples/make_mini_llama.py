"""Make the tiny native checkpoint in examples/mini-llama: random weights, a real tokenizer.

    pip install 'llamainspect[torch]'
    python examples/make_mini_llama.py [DIRECTORY]

The layout is that of Llama 3.2: one shard, output.weight and tok_embeddings.weight over one
storage, a SentencePiece tokenizer (as Llama 2 has) trained on the language reference that ships
inside Python, and the checklist of MD5 sums that comes with Meta's downloads.
"""

import hashlib
import io
import json
import sys
from collections import OrderedDict
from pathlib import Path
from pydoc_data.topics import topics

import sentencepiece
import torch

SEED = 0
PARAMS = {
    "dim": 64,
    "ffn_dim_multiplier": 1.0,
    "multiple_of": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 4,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": False,
    "vocab_size": 512,
}
HIDDEN_DIM = 192  # int(2 * 4 * 64 / 3) = 170, up to a multiple of 32


def make_weights() -> "OrderedDict[str, torch.Tensor]":
    """Random weights under Meta's names, each linear scaled by its fan-in."""
    torch.manual_seed(SEED)
    dim, head_dim = PARAMS["dim"], PARAMS["dim"] // PARAMS["n_heads"]
    kv_dim = PARAMS["n_kv_heads"] * head_dim

    def linear(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns) / columns**0.5).bfloat16()  # (rows, columns)

    weights = OrderedDict({"tok_embeddings.weight": linear(PARAMS["vocab_size"], dim)})
    for layer in range(PARAMS["n_layers"]):
        weights |= {
            f"layers.{layer}.attention.wq.weight": linear(dim, dim),
            f"layers.{layer}.attention.wk.weight": linear(kv_dim, dim),
            f"layers.{layer}.attention.wv.weight": linear(kv_dim, dim),
            f"layers.{layer}.attention.wo.weight": linear(dim, dim),
            f"layers.{layer}.feed_forward.w1.weight": linear(HIDDEN_DIM, dim),
            f"layers.{layer}.feed_forward.w2.weight": linear(dim, HIDDEN_DIM),
            f"layers.{layer}.feed_forward.w3.weight": linear(HIDDEN_DIM, dim),
            f"layers.{layer}.attention_norm.weight": torch.ones(dim).bfloat16(),
            f"layers.{layer}.ffn_norm.weight": torch.ones(dim).bfloat16(),
        }
    weights["norm.weight"] = torch.ones(dim).bfloat16()
    weights["output.weight"] = weights["tok_embeddings.weight"]  # tied: the same storage
    return weights


def make_tokenizer() -> bytes:
    """A SentencePiece BPE model with byte fallback, set up as Llama 2's is."""
    lines = [
        line for topic in sorted(topics) for line in topics[topic].splitlines() if line.strip()
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=PARAMS["vocab_size"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_checkpoint(directory: Path) -> None:
    """The four files of a native checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(make_weights(), directory / "consolidated.00.pth")
    (directory / "params.json").write_text(json.dumps(PARAMS))
    (directory / "tokenizer.model").write_bytes(make_tokenizer())
    lines = [
        f"{hashlib.md5((directory / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("consolidated.00.pth", "params.json", "tokenizer.model")
    ]
    (directory / "checklist.chk").write_text("".join(lines))


if __name__ == "__main__":
    default = Path(__file__).parent / "mini-llama"
    write_checkpoint(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
