"""The configuration of a Llama as Hugging Face's `config.json` spells it, in Meta's terms.

Sources: `configuration_llama.py`, `configuration_llama4.py` and `configuration_mllama.py` of
transformers 4 and 5, whose defaults are those below, and the config.json files of the hub. Version
4 writes `rope_theta`, `rope_scaling` and `torch_dtype`, version 5 `rope_parameters` and `dtype`.
"""

from typing import Any

from llamainspect.architecture import is_moe_layer
from llamainspect.config import (
    DEFAULT_ROPE_THETA,
    HUB_CONFIG_FILE,
    MAX_EXPERTS,
    MAX_LAYERS,
    CrossAttentionConfig,
    Fields,
    ModelConfig,
    MoEConfig,
    QuantizationConfig,
    VisionConfig,
    read_head_dim,
)
from llamainspect.errors import UnsupportedFile

MODEL_TYPES = ("llama", "llama4", "llama4_text", "mllama", "mllama_text_model")
LLAMA_NORM_EPS = 1e-6  # unlike in Meta's code
LATER_NORM_EPS = 1e-5  # of Llama 4 and Llama 3.2 Vision
DEFAULT_DENSE_WIDTH = 16_384  # of Llama 4
LATER_ROPE_THETA = 500_000.0  # of Llama 4 and Llama 3.2 Vision, when it is not written
DEFAULT_LLAMA_4_HEAD_DIM = 128
DEFAULT_EXPERTS = 16
DEFAULT_CHUNK_SIZE = 8_192
DEFAULT_NOPE_INTERVAL = 4
UNSCALED, LLAMA_3 = ("default", None), "llama3"  # values of rope_type
# Of training, generation and serving, or of no effect on which weights there are.
IGNORED = (
    "architectures", "attention_dropout", "auto_map", "boi_token_index", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "dropout", "dtype", "eoi_token_index",
    "eos_token_id", "for_llm_compressor", "gradient_checkpointing", "image_token_index",
    "initializer_range", "layer_types", "max_sequence_length", "model_type",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "return_dict", "rope_interleaved", "router_aux_loss_coef",
    "router_jitter_noise", "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
)  # fmt: skip


def config_from_hub(raw: dict[str, Any], file: str = HUB_CONFIG_FILE) -> ModelConfig:
    """From the object in `config.json`.

    Raises UnsupportedFile for a model that is no Llama, CorruptFile naming the key that is wrong.
    """
    fields = Fields(raw, file)
    kind = _kind(fields)
    routed = kind.startswith("llama4")
    text = fields.group("text_config") or fields  # Llama 4 and Mllama; what surrounds it is ignored
    if text is not fields:
        text.ignore(*IGNORED)
    fields.ignore(*IGNORED)
    vision = fields.group("vision_config")
    dim, n_heads = text.integer("hidden_size"), text.integer("num_attention_heads")
    default = DEFAULT_LLAMA_4_HEAD_DIM if routed else None
    head_dim = read_head_dim(text, "hidden_size", "num_attention_heads", default)
    n_kv_heads = text.optional_integer("num_key_value_heads") or n_heads
    if n_heads % n_kv_heads:
        what = f"{n_kv_heads} does not divide num_attention_heads {n_heads}"
        raise text.wrong("num_key_value_heads", what)
    layers = text.integer("num_hidden_layers", MAX_LAYERS)
    cross_layers = _cross_layers(text, layers) if kind.startswith("mllama") else ()
    width = text.integer("intermediate_size")
    first = kind == "llama"
    default_eps = LLAMA_NORM_EPS if first else LATER_NORM_EPS
    config = ModelConfig(
        dim=dim,
        n_layers=layers - len(cross_layers),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        hidden_dim=(text.optional_integer("intermediate_size_mlp") or DEFAULT_DENSE_WIDTH)
        if routed
        else width,
        vocab_size=text.integer("vocab_size"),
        norm_eps=text.optional_number("rms_norm_eps") or default_eps,
        moe=_moe(text, width, layers) if routed else None,
        vision=_llama_4_vision(vision) if routed and vision else None,
        cross_attention=_cross_attention(vision, len(cross_layers)) if cross_layers else None,
        quantization=_quantization(fields),
        file=file,
        tied_output=text.boolean("tie_word_embeddings", fields.boolean("tie_word_embeddings")),
        context_length=text.optional_integer("max_position_embeddings"),
        attention_bias=text.boolean("attention_bias"),
        mlp_bias=text.boolean("mlp_bias"),
        hidden_act=text.text("hidden_act") or "silu",
        cross_attention_layers=cross_layers,
        has_output=_has_output(fields.raw.get("architectures")),
    )
    config = _with_rope(config, text, DEFAULT_ROPE_THETA if first else LATER_ROPE_THETA)
    if routed:
        config = _with_llama_4(config, text)
    return config._replace(unknown=fields.unread() or None)


# Fields, groups with a dot, that end up in a ModelConfig.
_COMPARED = frozenset(
    (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "rms_norm_eps", "rope_theta", "no_rope_layer_interval",
        "attention_chunk_size", "use_qk_norm", "attn_temperature_tuning", "floor_scale",
        "attn_scale", "num_local_experts", "num_experts_per_tok", "interleave_moe_layer_step",
        "moe_layers", "intermediate_size", "intermediate_size_mlp", "tie_word_embeddings",
        "max_position_embeddings", "hidden_act", "attention_bias", "mlp_bias",
        "cross_attention_layers", "rope_scaling", "rope_scaling.rope_theta",
        "rope_scaling.rope_type", "rope_scaling.type", "rope_scaling.factor",
        "quantization_config.quant_method", "quantization_config.group_size",
    )
)  # fmt: skip
_COMPARED_OF_LLAMA_3 = (
    "rope_scaling.low_freq_factor", "rope_scaling.high_freq_factor",
    "rope_scaling.original_max_position_embeddings",
)  # fmt: skip


def is_compared(name: str, foreign_rope: bool) -> bool:
    """Whether a field of config.json is part of a ModelConfig, so that it is compared there.

    Of a way of scaling RoPE that is not known here, only its name and factor are.
    """
    if name.startswith("vision_config."):
        return name.partition(".")[2] in _VISION_FIELDS
    return name in _COMPARED or (not foreign_rope and name in _COMPARED_OF_LLAMA_3)


_VISION_FIELDS = (
    "hidden_size", "patch_size", "image_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "vision_output_dim", "pixel_shuffle_ratio", "max_num_tiles",
)  # fmt: skip


def says_llama(raw: dict[str, Any]) -> bool:
    """Whether a config.json is of a model whose weights are known here, as far as it says.

    Early files have no model type, only the name of a class.
    """
    kind, classes = raw.get("model_type"), raw.get("architectures")
    if isinstance(kind, str):
        return kind in MODEL_TYPES
    names = classes if isinstance(classes, list) else []
    return all(isinstance(name, str) and name.lower().startswith("llama") for name in names)


def _has_output(classes: Any) -> bool:
    """Whether the class that was saved predicts tokens: others have no output, or another one."""
    names = classes if isinstance(classes, list) else []
    predicts = ("ForCausalLM", "ForConditionalGeneration")
    return not names or any(isinstance(n, str) and n.endswith(predicts) for n in names)


def _kind(fields: Fields) -> str:
    """The model type; early files have none."""
    if not says_llama(fields.raw):
        what = fields.raw.get("model_type") or fields.raw.get("architectures")
        raise UnsupportedFile(
            f"{fields.file}: it is of another architecture ({str(what)[:80]}), not of a Llama; "
            "weights are counted and listed under their own names, shapes are not checked"
        )
    return fields.text("model_type") or "llama"


def _with_rope(config: ModelConfig, text: Fields, default_theta: float) -> ModelConfig:
    """The position encoding, in either spelling."""
    group = text.group("rope_scaling") or text.group("rope_parameters")
    text.ignore("rope_parameters", "rope_scaling", "no_rope_layers")
    theta = (group.optional_number("rope_theta") if group else None) or text.optional_number(
        "rope_theta"
    )
    config = config._replace(rope_theta=theta or default_theta)
    if group is None:
        return config
    kind = group.text("rope_type") or group.text("type")
    group.ignore("type")  # as early files call it; later ones have both
    if kind in UNSCALED:
        return config
    factor = group.optional_number("factor")
    if kind != LLAMA_3:
        group.ignore(*group.raw)
        return config._replace(rope_type=kind, rope_scaling_factor=factor)
    return config._replace(
        use_scaled_rope=True,
        rope_scaling_factor=factor,
        rope_high_freq_factor=group.optional_number("high_freq_factor"),
        rope_low_freq_factor=group.optional_number("low_freq_factor"),
        rope_original_context=group.optional_integer("original_max_position_embeddings"),
    )


# --- Llama 4 --------------------------------------------------------------------------------------


def _moe(text: Fields, width: int, layers: int) -> MoEConfig | None:
    if text.get("num_local_experts") == 0:  # Llama Guard 4: dense layers alone
        text.ignore("num_experts_per_tok", "interleave_moe_layer_step", "moe_layers")
        return None
    experts = text.optional_integer("num_local_experts", MAX_EXPERTS) or DEFAULT_EXPERTS
    top_k = text.optional_integer("num_experts_per_tok") or 1
    if top_k > experts:
        raise text.wrong("num_experts_per_tok", f"{top_k} is more than num_local_experts {experts}")
    step = text.optional_integer("interleave_moe_layer_step") or 1
    config = MoEConfig(experts, top_k, width, step)
    listed = text.get("moe_layers")
    if listed is None:
        return config
    if not isinstance(listed, list) or any(type(number) is not int for number in listed):
        raise text.wrong("moe_layers", "a list of layer numbers is needed")
    if sorted(listed) == [layer for layer in range(layers) if is_moe_layer(config, layer)]:
        return config
    return config._replace(layers=tuple(sorted(listed))) if listed else None


def _with_llama_4(config: ModelConfig, text: Fields) -> ModelConfig:
    interval = text.optional_integer("no_rope_layer_interval")
    return config._replace(
        nope_layer_interval=interval or DEFAULT_NOPE_INTERVAL,
        attention_chunk_size=text.optional_integer("attention_chunk_size") or DEFAULT_CHUNK_SIZE,
        use_qk_norm=text.boolean("use_qk_norm", default=True),
        attn_temperature_tuning=_switch(text, "attn_temperature_tuning"),
        floor_scale=text.optional_number("floor_scale"),
        attn_scale=text.optional_number("attn_scale"),
    )


def _switch(text: Fields, key: str) -> bool:
    """true or false, which early files of Llama 4 write as 4 or 0."""
    value = text.get(key)
    return bool(value) if type(value) in (int, float) else text.boolean(key, default=True)


def _llama_4_vision(fields: Fields) -> VisionConfig:
    fields.ignore(*IGNORED)
    fields.ignore(
        "hidden_act", "multi_modal_projector_bias", "norm_eps", "num_channels", "projector_dropout",
        "projector_input_dim", "projector_output_dim", "rope_parameters", "rope_theta",
        "vision_feature_layer", "vision_feature_select_strategy",
    )  # fmt: skip
    dim, patch = fields.integer("hidden_size"), fields.integer("patch_size")
    image = fields.integer("image_size")
    return VisionConfig(
        image_size=(image, image),
        patch_size=(patch, patch),
        dim=dim,
        n_layers=fields.integer("num_hidden_layers", MAX_LAYERS),
        n_heads=fields.integer("num_attention_heads"),
        mlp_ratio=fields.integer("intermediate_size") / dim,
        output_dim=fields.integer("vision_output_dim"),
        pixel_shuffle_ratio=fields.optional_number("pixel_shuffle_ratio", 1e-3) or 0.5,
    )


# --- Llama 3.2 Vision -----------------------------------------------------------------------------


def _cross_layers(text: Fields, layers: int) -> tuple[int, ...]:
    """Numbers of the layers that look at the image, counted among all layers."""
    numbers = text.get("cross_attention_layers")
    listed = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not listed or len(set(numbers)) != len(numbers):
        raise text.wrong("cross_attention_layers", "a list of different layer numbers is needed")
    if any(not 0 <= number < layers for number in numbers) or len(numbers) >= layers:
        raise text.wrong("cross_attention_layers", f"a number is not one of {layers} layers")
    return tuple(sorted(numbers))


def _cross_attention(vision: Fields | None, layers: int) -> CrossAttentionConfig:
    if vision is None:  # the text model alone
        return CrossAttentionConfig(layers, 448, 4, has_encoder=False)
    vision.ignore(*vision.raw)  # the encoder's own sizes are constants of the reference code
    return CrossAttentionConfig(
        layers,
        vision.optional_integer("image_size") or 448,
        vision.optional_integer("max_num_tiles") or 4,
    )


# --- quantisation ---------------------------------------------------------------------------------


def _quantization(fields: Fields) -> QuantizationConfig | None:
    """What a library on the hub (bitsandbytes, GPTQ, AWQ, compressed-tensors, ...) says it did."""
    group = fields.group("quantization_config")
    if group is None:
        return None
    group.ignore(*group.raw)
    size = group.get("group_size")
    size = size if type(size) is int and size > 0 else None
    return QuantizationConfig(group.text("quant_method"), size, native=False)
