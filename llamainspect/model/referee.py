"""The same weights in Hugging Face's transformers, an implementation that others wrote."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llamainspect.architecture import is_moe_layer
from llamainspect.config import ModelConfig
from llamainspect.errors import MissingDependency, NotEnoughMemory
from llamainspect.model import devices
from llamainspect.model.load import read_whole
from llamainspect.model.runner import Model, Stage
from llamainspect.model.transformer import ATTN_SCALE, FLOOR_SCALE, style_of
from llamainspect.readahead import EMBEDDING, LAYER_WEIGHTS, NORM, OUTPUT, layer_weight, read_parts
from llamainspect.rope import RopeScaling
from llamainspect.text_path import EXPERTS, ROUTER

try:
    import transformers
    from transformers import (
        Llama4ForCausalLM,
        Llama4TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )
except Exception as error:  # it imports much, of which any part may be broken
    raise MissingDependency(
        f"--implementation transformers: it cannot be imported ({type(error).__name__}: "
        f"{str(error)[:200]}); pip install 'transformers>=4.51'"
    ) from error

MODULES = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


class Referee:
    """transformers' LlamaForCausalLM or Llama4ForCausalLM with all weights of a checkpoint."""

    def __init__(self, model: Model) -> None:
        needed = model.weights.dtype.itemsize * sum(
            weight.elements for weight in model.weights.checkpoint.weights.values()
        )
        if needed > devices.available_nbytes(model.device):
            raise NotEnoughMemory(
                f"transformers needs all weights in memory, {needed / 2**30:.2f} GiB in "
                f"{model.dtype}, and there is less; --reference compares with logits that were "
                "recorded where there is more"
            )
        self.version = f"transformers {transformers.__version__}"
        self._llama = _build(model)
        self._device = model.device

    @torch.inference_mode()
    def run(self, ids: list[int]) -> tuple[list[Stage], Tensor]:
        """What comes out of the embedding, each layer and the last norm; and logits (T, V)."""
        stages: list[Stage] = []
        inner = self._llama.model
        places: list[Any] = [(inner.embed_tokens, "embedding", None)]
        places += [(layer, "layer", number) for number, layer in enumerate(inner.layers)]
        places += [(inner.norm, "norm", None)]
        hooks = [module.register_forward_hook(_keep(stages, kind, n)) for module, kind, n in places]
        try:
            made = self._llama(torch.tensor([ids], device=self._device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return stages, made.logits[0].float()


def _keep(stages: list[Stage], kind: Any, number: int | None) -> Any:
    def hook(module: Any, given: Any, made: Any) -> None:
        hidden = made[0] if isinstance(made, tuple) else made
        stages.append(Stage(kind, number, hidden.detach().clone()))

    return hook


def _build(model: Model) -> Any:
    config = model.config
    scaling = model.rope.scaling
    rope = _rope(scaling)
    names = dict(_state_dict(model))
    tied = "lm_head.weight" not in names
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": model.context_length or 2**17,
        "tie_word_embeddings": tied,
    }
    if int(transformers.__version__.partition(".")[0]) >= 5:
        settings["rope_parameters"] = {"rope_theta": config.rope_theta, **rope}
    else:
        settings |= {"rope_theta": config.rope_theta, "rope_scaling": rope if scaling else None}
    make_config: Any = LlamaConfig
    make_model: Any = LlamaForCausalLM
    if config.nope_layer_interval:
        settings |= _of_llama_4(config)
        make_config, make_model = Llama4TextConfig, Llama4ForCausalLM
    made = make_config(**settings)
    with torch.device("meta"):
        llama = make_model(made)
    llama.load_state_dict(names, assign=True, strict=False)
    if tied:
        llama.tie_weights()
    # Its frequencies are no weights: they were made on no device, and are made again on a real one.
    llama.model.rotary_emb = type(llama.model.rotary_emb)(made).to(model.device)
    return llama.eval()


def _of_llama_4(config: ModelConfig) -> dict[str, Any]:
    """Settings that no other Llama has, or has under another name."""
    moe = config.moe
    layers = range(config.n_layers)
    return {
        "intermediate_size": moe.hidden_dim if moe else config.hidden_dim,
        "intermediate_size_mlp": config.hidden_dim,
        "num_local_experts": moe.num_experts if moe else 0,
        "num_experts_per_tok": moe.top_k if moe else 1,
        "moe_layers": [layer for layer in layers if is_moe_layer(moe, layer)],
        "no_rope_layers": [int(style_of(config, layer).rope) for layer in layers],
        "attention_chunk_size": config.attention_chunk_size,
        "use_qk_norm": config.use_qk_norm,
        "attn_temperature_tuning": config.attn_temperature_tuning,
        "floor_scale": int(config.floor_scale or FLOOR_SCALE),
        "attn_scale": config.attn_scale or ATTN_SCALE,
    }


def _rope(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    if not scaling.original_context:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _state_dict(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Under the names of Hugging Face, in the order of rows that its RoPE asks for."""
    config, weights = model.config, model.weights
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}
    llama_4 = bool(config.nope_layer_interval)  # whose RoPE turns neighbours
    for number in range(config.n_layers):
        routed = is_moe_layer(config.moe, number)
        feed_forward = "feed_forward.shared_expert." if routed else "feed_forward."
        for field in LAYER_WEIGHTS:
            tensor = _read(model, layer_weight(number, field))
            if field in heads and not llama_4:
                tensor = _halves(tensor, heads[field])
            module = MODULES[field]
            if llama_4:
                module = module.replace("mlp.", feed_forward)
            yield f"model.layers.{number}.{module}.weight", tensor
        if routed:
            yield from _experts(model, number)
    yield "model.embed_tokens.weight", _read(model, EMBEDDING)
    yield "model.norm.weight", _read(model, NORM)
    if OUTPUT in weights.checkpoint.weights and not model.subject.tied_output:
        yield "lm_head.weight", _read(model, OUTPUT)


def _experts(model: Model, number: int) -> Iterator[tuple[str, Tensor]]:
    here, there = f"layers.{number}.", f"model.layers.{number}.feed_forward."
    gate, up, down = (_read(model, f"{here}{EXPERTS[field]}") for field in ("w1", "w3", "w2"))
    yield f"{there}router.weight", _read(model, f"{here}{ROUTER}").T.contiguous()
    yield f"{there}experts.gate_up_proj", torch.cat([gate, up], dim=2)
    yield f"{there}experts.down_proj", down


def _read(model: Model, name: str) -> Tensor:
    checkpoint = model.weights.checkpoint
    weight = checkpoint.weights[name]
    whole = read_whole(weight, lambda each: read_parts(checkpoint, each))
    return whole.to(model.device, model.weights.dtype)


def _halves(tensor: Tensor, heads: int) -> Tensor:
    """Rows of each head: first the first numbers of all pairs, then the second ones."""
    ordered: Tensor = tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)
    return ordered
