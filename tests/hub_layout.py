"""Writes the tiny models in Hugging Face's layout, from their weights in Meta's.

Names, row orders and configuration keys are spelled out here by hand, not taken from the package,
so that the two can disagree.
"""

import json
from pathlib import Path
from typing import Any

import torch
from checkpoints import TINY_MOE_DENSE_HIDDEN, TINY_MOE_EXPERT_HIDDEN
from safetensors.torch import save_file

# What stands in a layer of a dense Llama: here on the left, as Meta names it on the right.
LAYER = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}

# Llama 3.1: the constants that Meta has in its code where params.json has use_scaled_rope.
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Llama 4 Scout: others.
SCALED_MOE = SCALED | {"factor": 16.0, "high_freq_factor": 1.0}


def halves_first(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key in the order in which Hugging Face's rotary embedding pairs them.

    Meta turns row 2i of a head with row 2i + 1, Hugging Face row i with row i + size / 2.
    """
    size = weight.shape[0] // heads
    order = [
        head * size + 2 * pair + half
        for head in range(heads)
        for half in range(2)
        for pair in range(size // 2)
    ]
    return weight[order]


def to_hub(
    weights: dict[str, torch.Tensor], params: dict[str, Any], hidden_dim: int
) -> dict[str, torch.Tensor]:
    """A dense Llama's weights as LlamaForCausalLM names and orders them."""
    heads = params["n_heads"]
    hub = {"model.embed_tokens.weight": weights["tok_embeddings.weight"]}
    for layer in range(params["n_layers"]):
        for here, there in LAYER.items():
            weight = weights[f"layers.{layer}.{there}.weight"]
            if there == "attention.wq":
                weight = halves_first(weight, heads)
            if there == "attention.wk":
                weight = halves_first(weight, params.get("n_kv_heads") or heads)
            if there == "feed_forward.w1":
                assert weight.shape == (hidden_dim, params["dim"])
            hub[f"model.layers.{layer}.{here}.weight"] = weight
    hub |= {"model.norm.weight": weights["norm.weight"], "lm_head.weight": weights["output.weight"]}
    return hub


def hub_config(
    params: dict[str, Any], hidden_dim: int, *, spelling: int = 5, **changes: Any
) -> dict[str, Any]:
    """What config.json says of a dense Llama, as transformers 4 or 5 spells it."""
    scaled = params.get("use_scaled_rope", False)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": params["dim"] // params["n_heads"],
        "hidden_act": "silu",
        "hidden_size": params["dim"],
        "initializer_range": 0.02,
        "intermediate_size": hidden_dim,
        "max_position_embeddings": 131072 if scaled else 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": params["n_heads"],
        "num_hidden_layers": params["n_layers"],
        "num_key_value_heads": params.get("n_kv_heads") or params["n_heads"],
        "pretraining_tp": 1,
        "rms_norm_eps": params["norm_eps"],
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": params["vocab_size"],
    }
    config |= _spelt(params.get("rope_theta", 10000.0), SCALED if scaled else None, spelling)
    return config | changes


def _spelt(theta: float, scaling: dict[str, Any] | None, spelling: int) -> dict[str, Any]:
    """The keys that transformers 5 renamed."""
    if spelling == 4:
        return {
            "rope_scaling": scaling,
            "rope_theta": theta,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.44.2",
        }
    assert spelling == 5
    return {
        "dtype": "bfloat16",
        "rope_parameters": (scaling or {"rope_type": "default"}) | {"rope_theta": theta},
        "transformers_version": "5.0.0",
    }


def to_hub_moe(weights: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A Llama 4 text model's weights, fused as released, as Llama4ForCausalLM names them.

    Queries and keys keep their order: Hugging Face pairs neighbouring rows here, as Meta does.
    """
    dim, experts = params["dim"], params["moe_args"]["num_experts"]
    keys = params["n_kv_heads"] * (dim // params["n_heads"])
    hub = {"model.embed_tokens.weight": weights["tok_embeddings.weight"]}
    for layer in range(params["n_layers"]):
        there, here = f"layers.{layer}.", f"model.layers.{layer}."
        feed, mlp = f"{there}feed_forward.", f"{here}feed_forward."
        wqkv = weights[f"{there}attention.wqkv.weight"]
        hub |= {
            f"{here}input_layernorm.weight": weights[f"{there}attention.wqkv.layer_norm_weight"],
            f"{here}self_attn.q_proj.weight": wqkv[:dim],
            f"{here}self_attn.k_proj.weight": wqkv[dim : dim + keys],
            f"{here}self_attn.v_proj.weight": wqkv[dim + keys :],
            f"{here}self_attn.o_proj.weight": weights[f"{there}attention.wo.weight"],
        }
        if (layer + 1) % params["moe_args"]["interleave_moe_layer_step"]:
            fc1 = weights[f"{feed}mlp.fc1_weight"]
            hub |= {
                f"{here}post_attention_layernorm.weight": weights[f"{feed}mlp.layer_norm_weight"],
                f"{mlp}gate_proj.weight": fc1[: len(fc1) // 2],
                f"{mlp}up_proj.weight": fc1[len(fc1) // 2 :],
                f"{mlp}down_proj.weight": weights[f"{feed}mlp.fc2_weight"],
            }
        else:
            gate = weights[f"{feed}experts.moe_w_in_eD_F"].reshape(experts, dim, -1)
            up = weights[f"{feed}experts.moe_w_swiglu_eD_F"].reshape(experts, dim, -1)
            down = weights[f"{feed}experts.moe_w_out_eF_D"].reshape(experts, -1, dim)
            shared = f"{mlp}shared_expert."
            hub |= {
                f"{here}post_attention_layernorm.weight": weights[f"{feed}norm.weight"],
                f"{mlp}router.weight": weights[f"{feed}router_DE"].T,
                f"{mlp}experts.gate_up_proj": torch.cat([gate, up], dim=2),
                f"{mlp}experts.down_proj": down,
                f"{shared}gate_proj.weight": weights[f"{feed}w_in_shared_FD.weight"],
                f"{shared}up_proj.weight": weights[f"{feed}w_swiglu_FD.weight"],
                f"{shared}down_proj.weight": weights[f"{feed}w_out_shared_DF.weight"],
            }
    hub |= {"model.norm.weight": weights["norm.weight"], "lm_head.weight": weights["output.weight"]}
    return hub


def hub_config_moe(params: dict[str, Any], *, spelling: int = 5, **changes: Any) -> dict[str, Any]:
    """What config.json says of the tiny Llama 4 text model."""
    layers, step = range(params["n_layers"]), params["moe_args"]["interleave_moe_layer_step"]
    every = params["nope_layer_interval"]
    config = {
        "architectures": ["Llama4ForCausalLM"],
        "attention_bias": False,
        "attention_chunk_size": params["attention_chunk_size"],
        "attention_dropout": 0.0,
        "attn_scale": 0.1,
        "attn_temperature_tuning": params.get("attn_temperature_tuning", False),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "floor_scale": 8192,
        "head_dim": params["dim"] // params["n_heads"],
        "hidden_act": "silu",
        "hidden_size": params["dim"],
        "initializer_range": 0.02,
        "interleave_moe_layer_step": step,
        "intermediate_size": TINY_MOE_EXPERT_HIDDEN,
        "intermediate_size_mlp": TINY_MOE_DENSE_HIDDEN,
        "max_position_embeddings": 262144,
        "model_type": "llama4_text",
        "moe_layers": [layer for layer in layers if (layer + 1) % step == 0],
        "no_rope_layer_interval": every,
        "no_rope_layers": [int((layer + 1) % every != 0) for layer in layers],  # 1: has one
        "num_attention_heads": params["n_heads"],
        "num_experts_per_tok": params["moe_args"]["top_k"],
        "num_hidden_layers": params["n_layers"],
        "num_key_value_heads": params["n_kv_heads"],
        "num_local_experts": params["moe_args"]["num_experts"],
        "output_router_logits": False,
        "rms_norm_eps": params["norm_eps"],
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_qk_norm": params["use_qk_norm"],
        "vocab_size": params["vocab_size"],
    }
    scaling = SCALED_MOE if params["use_scaled_rope"] else None
    return config | _spelt(params["rope_theta"], scaling, spelling) | changes


def write_hub(
    directory: Path,
    weights: dict[str, torch.Tensor],
    config: dict[str, Any] | None,
    *,
    shards: int = 1,
    kind: str = "safetensors",
) -> Path:
    """config.json and the weights, in one file or in several under an index."""
    stem, end = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    directory.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        _save(weights, directory / f"{stem}.{end}")
        return directory
    names = list(weights)
    cuts = [len(names) * shard // shards for shard in range(shards + 1)]
    places: dict[str, str] = {}
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{end}"
        part = {name: weights[name] for name in names[cuts[shard] : cuts[shard + 1]]}
        _save(part, directory / file)
        places |= dict.fromkeys(part, file)
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / f"{stem}.{end}.index.json").write_text(json.dumps(index, indent=2))
    return directory


def _save(weights: dict[str, torch.Tensor], path: Path) -> None:
    own = {  # a view would be written with all that it is a view of
        name: weight.clone(memory_format=torch.contiguous_format)
        for name, weight in weights.items()
    }
    if path.suffix == ".bin":
        torch.save(own, path)
    else:
        save_file(own, path, metadata={"format": "pt"})
