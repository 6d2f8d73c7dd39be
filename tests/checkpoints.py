"""Writes real checkpoints in Meta's layout: tiny ones with values, full-size ones that are sparse.

Names, shapes and cuts are spelled out here by hand from Meta's reference code, not taken from the
package, so that the two can disagree.
"""

import json
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

TINY = {
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 128,
    "multiple_of": 32,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
TINY_HIDDEN = 192  # int(2 * 4*64 / 3) = 170, up to a multiple of 32
TINY_PARAMETERS = 2 * 128 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 192 * 64 + 2 * 64)

TINY_MOE = {
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 128,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.2,
    "ffn_exp": 4.0,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "use_qk_norm": True,
    "nope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "moe_args": {
        "num_experts": 4,
        "capacity_factor": 1.0,
        "auto_scale_F": True,
        "top_k": 1,
        "interleave_moe_layer_step": 2,
    },
}
TINY_MOE_DENSE_HIDDEN = 224  # int(1.2 * 170) = 204, up to a multiple of 32
TINY_MOE_EXPERT_HIDDEN = 128  # int(204 / 2) = 102, up to a multiple of 32


# fairscale: ColumnParallelLinear cuts rows (axis 0), RowParallelLinear columns (axis 1).
ROWS = ("wq", "wk", "wv", "w1", "w3", "output", "w_in_shared_FD", "w_swiglu_FD")
COLUMNS = ("wo", "w2", "w_out_shared_DF", "moe_w_in_eD_F", "moe_w_swiglu_eD_F", "fc2_weight")


def dense_shapes(params: dict[str, Any], hidden_dim: int) -> dict[str, tuple[int, ...]]:
    """Every weight of a dense Llama, as Llama 1 to 3 name and shape them."""
    dim, vocab = params["dim"], params["vocab_size"]
    head_dim = dim // params["n_heads"]
    kv = (params.get("n_kv_heads") or params["n_heads"]) * head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim)}
    for layer in range(params["n_layers"]):
        p = f"layers.{layer}."
        shapes |= {
            f"{p}attention.wq.weight": (dim, dim),
            f"{p}attention.wk.weight": (kv, dim),
            f"{p}attention.wv.weight": (kv, dim),
            f"{p}attention.wo.weight": (dim, dim),
            f"{p}feed_forward.w1.weight": (hidden_dim, dim),
            f"{p}feed_forward.w2.weight": (dim, hidden_dim),
            f"{p}feed_forward.w3.weight": (hidden_dim, dim),
            f"{p}attention_norm.weight": (dim,),
            f"{p}ffn_norm.weight": (dim,),
        }
    return shapes | {"norm.weight": (dim,), "output.weight": (vocab, dim)}


def moe_shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """A Llama 4 text model in the fused spelling of the released files."""
    dim, vocab, experts = params["dim"], params["vocab_size"], params["moe_args"]["num_experts"]
    head_dim = dim // params["n_heads"]
    rows = dim + 2 * params["n_kv_heads"] * head_dim
    dense, expert = TINY_MOE_DENSE_HIDDEN, TINY_MOE_EXPERT_HIDDEN
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim)}
    for layer in range(params["n_layers"]):
        p = f"layers.{layer}."
        shapes |= {
            f"{p}attention.wqkv.layer_norm_weight": (dim,),
            f"{p}attention.wqkv.weight": (rows, dim),
            f"{p}attention.wo.weight": (dim, dim),
        }
        if (layer + 1) % params["moe_args"]["interleave_moe_layer_step"]:
            shapes |= {
                f"{p}feed_forward.mlp.layer_norm_weight": (dim,),
                f"{p}feed_forward.mlp.fc1_weight": (2 * dense, dim),
                f"{p}feed_forward.mlp.fc2_weight": (dim, dense),
            }
        else:
            shapes |= {
                f"{p}feed_forward.norm.weight": (dim,),
                f"{p}feed_forward.router_DE": (dim, experts),
                f"{p}feed_forward.experts.moe_w_in_eD_F": (experts * dim, expert),
                f"{p}feed_forward.experts.moe_w_swiglu_eD_F": (experts * dim, expert),
                f"{p}feed_forward.experts.moe_w_out_eF_D": (experts * expert, dim),
                f"{p}feed_forward.w_in_shared_FD.weight": (expert, dim),
                f"{p}feed_forward.w_swiglu_FD.weight": (expert, dim),
                f"{p}feed_forward.w_out_shared_DF.weight": (dim, expert),
            }
    return shapes | {"norm.weight": (dim,), "output.weight": (vocab, dim)}


def random_weights(
    shapes: dict[str, tuple[int, ...]], seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> "OrderedDict[str, torch.Tensor]":
    """Different numbers everywhere, so that a mixed-up row shows."""
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (name, torch.randn(shape, generator=generator).to(dtype)) for name, shape in shapes.items()
    )


def moe_weights(params: dict[str, Any]) -> "OrderedDict[str, torch.Tensor]":
    """A Llama 4 with numbers of a size that every part of it matters with."""
    made = random_weights(moe_shapes(params), 5, torch.float32)
    for name, weight in made.items():
        weight *= 0.3 if "experts" in name or "shared" in name else 0.15
        weight += "norm" in name
        weight *= 5 if "router" in name else 1
    return made


def cut(
    weights: dict[str, torch.Tensor],
    ranks: int,
    *,
    embedding_axis: int = 0,
    blocks: dict[str, tuple[int, ...]] | None = None,
) -> "list[OrderedDict[str, torch.Tensor]]":
    """One state dict per model-parallel rank. Llama 2 cuts the embedding's columns (axis 1)."""
    shards: list[OrderedDict[str, torch.Tensor]] = [OrderedDict() for _ in range(ranks)]
    for name, weight in weights.items():
        for rank, part in enumerate(_parts(name, weight, ranks, embedding_axis, blocks or {})):
            shards[rank][name] = part.clone()
    return shards


def _parts(
    name: str,
    weight: torch.Tensor,
    ranks: int,
    embedding_axis: int,
    blocks: dict[str, tuple[int, ...]],
) -> list[torch.Tensor]:
    fused = next((sizes for end, sizes in blocks.items() if name.endswith(end)), None)
    if fused:
        pieces = [block.chunk(ranks, dim=0) for block in weight.split(fused)]
        return [torch.cat([piece[rank] for piece in pieces]) for rank in range(ranks)]
    words = name.split(".")
    if name.startswith("tok_embeddings"):
        return list(weight.chunk(ranks, dim=embedding_axis))
    if any(word in ROWS for word in words):
        return list(weight.chunk(ranks, dim=0))
    if any(word in COLUMNS for word in words):
        return list(weight.chunk(ranks, dim=1))
    return [weight] * ranks


MOE_BLOCKS = {
    "wqkv.weight": (64, 32, 32),
    "fc1_weight": (TINY_MOE_DENSE_HIDDEN, TINY_MOE_DENSE_HIDDEN),
    "moe_w_out_eF_D": (TINY_MOE_EXPERT_HIDDEN,) * 4,
}


def write_native(
    directory: Path, params: dict[str, Any] | None, shards: list[Any], *, sparse: bool = False
) -> Path:
    """consolidated.NN.pth and params.json, as Meta publishes them; `sparse`: holes for data."""
    directory.mkdir(parents=True, exist_ok=True)
    if params is not None:
        (directory / "params.json").write_text(json.dumps(params))
    for rank, shard in enumerate(shards):
        with torch.serialization.skip_data() if sparse else nullcontext():
            torch.save(shard, directory / f"consolidated.{rank:02d}.pth")
    return directory


def write_sparse(directory: Path, params: dict[str, Any], hidden_dim: int, ranks: int) -> Path:
    """A full-size Llama 3: true names and shapes, no values, next to no disk or memory."""
    shapes = dense_shapes(params, hidden_dim)
    for rank in range(ranks):
        shard = OrderedDict()
        for name, shape in shapes.items():
            words = name.split(".")
            if any(word in (*ROWS, "tok_embeddings") for word in words):
                shape = (shape[0] // ranks, *shape[1:])
            elif any(word in COLUMNS for word in words):
                shape = (shape[0], shape[1] // ranks)
            shard[name] = torch.empty(shape, dtype=torch.bfloat16)  # untouched pages cost nothing
        directory.mkdir(parents=True, exist_ok=True)
        with torch.serialization.skip_data():
            torch.save(shard, directory / f"consolidated.{rank:02d}.pth")
        del shard
    (directory / "params.json").write_text(json.dumps(params))
    return directory


LLAMA_3_70B = {
    "dim": 8192,
    "n_layers": 80,
    "n_heads": 64,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "ffn_dim_multiplier": 1.3,
    "multiple_of": 4096,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
LLAMA_3_1_405B = {
    "dim": 16384,
    "n_layers": 126,
    "n_heads": 128,
    "n_kv_heads": 16,
    "vocab_size": 128256,
    "ffn_dim_multiplier": 1.2,
    "multiple_of": 4096,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}
