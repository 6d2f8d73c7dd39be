"""Hugging Face's tensor names in Meta's words, and what the bytes are of those that are not alike.

The rows of wq and wk stand in another order (dense Llamas and the self-attention of Llama 3.2
Vision; not Llama 4): Meta turns neighbouring numbers of a head as a pair, transformers the first
with the first of the second half. Some weights are two of Meta's in one, or transposed.

Sources: what `save_pretrained` of transformers 5 writes, modeling_llama.py, modeling_llama4.py and
modeling_mllama.py there, and its scripts that convert Meta's checkpoints.
"""

import re
from functools import lru_cache

from llamainspect.architecture import MLLAMA_EXTRA_EMBEDDINGS
from llamainspect.config import ModelConfig
from llamainspect.tensors import TensorInfo, contiguous_strides, count
from llamainspect.weights import Weight

# Behind "layers.N.": a module here, and Meta's name for it.
MODULES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    # Llama 4
    "feed_forward.gate_proj": "feed_forward.w1",
    "feed_forward.up_proj": "feed_forward.w3",
    "feed_forward.down_proj": "feed_forward.w2",
    "feed_forward.shared_expert.gate_proj": "feed_forward.shared_expert.w1",
    "feed_forward.shared_expert.up_proj": "feed_forward.shared_expert.w3",
    "feed_forward.shared_expert.down_proj": "feed_forward.shared_expert.w2",
    # Llama 3.2 Vision
    "cross_attn.q_proj": "attention.wq",
    "cross_attn.k_proj": "attention.wk",
    "cross_attn.v_proj": "attention.wv",
    "cross_attn.o_proj": "attention.wo",
    "cross_attn.q_norm": "attention.q_norm",
    "cross_attn.k_norm": "attention.k_norm",
}
ENDS = {
    "embed_tokens.weight": "tok_embeddings.weight",
    "norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
# Behind "layers.N.", what is no module with a weight in it.
GATE_UP, ROUTER = "feed_forward.experts.gate_up_proj", "feed_forward.router_DE"
BARE = {
    "feed_forward.experts.gate_up_proj": GATE_UP,  # two of Meta's weights
    "feed_forward.experts.down_proj": "feed_forward.experts.w2",
    "feed_forward.router.weight": ROUTER,
    "cross_attn_attn_gate": "gate_attn",
    "cross_attn_mlp_gate": "gate_ffwd",
}
# What stands before the text model's names, the longest first.
PREFIXES = (
    "base_model.model.model.",  # as PEFT holds a model in memory
    "base_model.model.",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "",
)
LAYER = re.compile(r"layers\.(\d{1,5})\.(.+)")

# Image encoders: the one beginning that fits is replaced, and then all of the pieces.
_VISION_PIECES = (
    ("self_attn.q_proj.", "attn.wq."),
    ("self_attn.k_proj.", "attn.wk."),
    ("self_attn.v_proj.", "attn.wv."),
    ("self_attn.o_proj.", "attn.wo."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    ("input_layernorm.", "ln_1."),
    ("post_attention_layernorm.", "ln_2."),
    ("layernorm_pre.", "ln_pre."),
    ("layernorm_post.", "ln_post."),
    ("_tile_pos_embed.embedding.weight", "_tile_pos_embed.embedding"),
)
_LLAMA_4_ENCODER = "vision_embeddings.vision_encoder."
_LLAMA_4_VISION = (
    ("multi_modal_projector.linear_1.", "vision_projection."),
    ("vision_model.vision_adapter.", "vision_embeddings.vision_adapter."),
    ("vision_model.patch_embedding.linear.", f"{_LLAMA_4_ENCODER}conv1._linear."),
    ("vision_model.model.layers.", f"{_LLAMA_4_ENCODER}transformer.resblocks."),
    ("vision_model.", _LLAMA_4_ENCODER),
)
_MLLAMA_ENCODER = "vision_model.vision_encoder."
_POSITIONS = "vision_model.gated_positional_embedding."
_MLLAMA_VISION = (
    ("multi_modal_projector.", "vision_model.vision_projection."),
    ("vision_model.patch_embedding.", f"{_MLLAMA_ENCODER}conv1._linear."),
    ("vision_model.transformer.layers.", f"{_MLLAMA_ENCODER}transformer.resblocks."),
    ("vision_model.global_transformer.layers.", f"{_MLLAMA_ENCODER}global_transformer.resblocks."),
    (f"{_POSITIONS}embedding", f"{_MLLAMA_ENCODER}positional_embedding"),
    (f"{_POSITIONS}tile_embedding.weight", f"{_MLLAMA_ENCODER}gated_positional_embedding"),
    (f"{_POSITIONS}gate", f"{_MLLAMA_ENCODER}gated_positional_embedding_gate"),
    ("vision_model.pre_tile_positional_embedding.", f"{_MLLAMA_ENCODER}pre_tile_pos_embed."),
    ("vision_model.post_tile_positional_embedding.", f"{_MLLAMA_ENCODER}post_tile_pos_embed."),
    ("vision_model.", _MLLAMA_ENCODER),
)
_VISION_STARTS = ("vision_model.", "multi_modal_projector.")
# A Llama 3.2 Vision's embedding has the vectors of Meta's "learnable_embedding" at its end.
_EMBEDDING, _EXTRA = "text_model.tok_embeddings.weight", "text_model.learnable_embedding.weight"


def translate(tensor: TensorInfo, config: ModelConfig | None) -> tuple[Weight, ...]:
    """The weights of Meta's that a tensor of Hugging Face's holds; by its own name if unknown.

    Without `config` nothing is known of heads: rows of wq and wk are then left as they stand.
    """
    name = to_meta(tensor.name, config)
    axes = len(tensor.shape)
    if name.endswith(GATE_UP) and axes == 3:
        return _gate_and_up(name.removesuffix("gate_up_proj"), tensor)
    if name.endswith(ROUTER) and axes == 2 and name != tensor.name:
        return (_view(name, tensor, transposed=True),)
    if name == _EMBEDDING and axes == 2 and tensor.shape[0] > MLLAMA_EXTRA_EMBEDDINGS:
        rows = tensor.shape[0] - MLLAMA_EXTRA_EMBEDDINGS
        return _view(name, tensor, 0, slice(rows)), _view(_EXTRA, tensor, 0, slice(rows, None))
    if name.endswith("conv1._linear.weight") and axes == 4:
        tensor = tensor._replace(shape=(tensor.shape[0], count(tensor.shape[1:])))
    heads = 0 if name == tensor.name or config is None else _rope_heads(name, tensor, config)
    return (Weight(name, tensor.shape, (tensor,), rope_heads=heads),)


def to_meta(name: str, config: ModelConfig | None) -> str:
    """Meta's name; unchanged where there is none, or where it is Meta's already."""
    cross = cross_layers_of(config)
    whole = name.removeprefix("model.")
    if whole.startswith((_MLLAMA_ENCODER, _LLAMA_4_ENCODER)):
        return whole  # Meta's
    if whole.startswith(_VISION_STARTS):
        return _vision_name(whole, _MLLAMA_VISION if cross else _LLAMA_4_VISION)
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    rest = name[len(prefix) :]
    text = "text_model." if cross else ""
    if rest in ENDS:
        return text + ENDS[rest]
    found = LAYER.fullmatch(rest)
    inner = _inner_name(found[2]) if found else None
    if found is None or inner is None:
        return name
    number = int(found[1])
    if number in cross:
        return f"{text}cross_attention_layers.{cross.index(number)}.{inner}"
    return f"{text}layers.{number - sum(other < number for other in cross)}.{inner}"


def to_hub(name: str, config: ModelConfig | None) -> str:
    """Hugging Face's name of a weight of the text model; Meta's where it has none."""
    cross = cross_layers_of(config)
    nested = config is not None and bool(config.vision or config.cross_attention)
    outer = "language_model." if nested else ""
    rest = name.removeprefix("text_model.")
    for end, ours in ENDS.items():
        if rest == ours:
            return f"{outer}{end}" if end.startswith("lm_head") else f"{outer}model.{end}"
    found = re.fullmatch(r"(cross_attention_)?layers\.(\d{1,5})\.(.+)\.(\w+)", rest)
    routed = config is not None and config.nope_layer_interval is not None
    modules = _hub_modules(routed, bool(found and found[1]))
    if found is None or found[3] not in modules:
        return name
    number = int(found[2])
    if found[1]:
        number = cross[number] if number < len(cross) else number
    else:
        for other in cross:
            number += other <= number
    return f"{outer}model.layers.{number}.{modules[found[3]]}.{found[4]}"


def embedding_rows_of(tensor: TensorInfo, config: ModelConfig) -> int | None:
    """Tokens that the tensor has a vector for, if it is the embedding."""
    weight = translate(tensor, config)[0]
    is_embedding = weight.name.endswith("tok_embeddings.weight") and len(weight.shape) == 2
    return weight.shape[0] if is_embedding else None


def cross_layers_of(config: ModelConfig | None) -> tuple[int, ...]:
    """Numbers of the layers that look at the image, counted among all; as config.json says, or in
    the places that Meta's code gives them."""
    if config is None or config.cross_attention is None:
        return ()
    if config.cross_attention_layers:
        return config.cross_attention_layers
    crossing = config.cross_attention.n_layers
    step = -(-config.n_layers // crossing)
    return tuple(range(step - 1, config.n_layers + crossing, step + 1))[:crossing]


@lru_cache(maxsize=1024)
def _inner_name(name: str) -> str | None:
    """Meta's name of what stands behind "layers.N."; None for what is not known."""
    if name in BARE:
        return BARE[name]
    module = name.rpartition(".")[0]
    while module:
        if module in MODULES:
            return f"{MODULES[module]}{name[len(module) :]}"
        module = module.rpartition(".")[0]
    return None


def _vision_name(name: str, beginnings: tuple[tuple[str, str], ...]) -> str:
    old, new = next((pair for pair in beginnings if name.startswith(pair[0])), ("", ""))
    name = new + name[len(old) :]
    for old, new in _VISION_PIECES:
        name = name.replace(old, new)
    return name


@lru_cache(maxsize=4)
def _hub_modules(routed: bool, crossing: bool) -> dict[str, str]:
    """Meta's modules in Hugging Face's words, for one kind of layer."""
    left_out = "cross_attn." if not crossing else "self_attn."
    left_out_too = "mlp." if routed else "feed_forward."
    return {
        ours: theirs
        for theirs, ours in MODULES.items()
        if not theirs.startswith((left_out, left_out_too))
    }


def _rope_heads(name: str, tensor: TensorInfo, config: ModelConfig) -> int:
    """Heads whose rows are in Hugging Face's order; 0 where they are in Meta's."""
    if config.nope_layer_interval is not None or "cross_attention_layers." in name:
        return 0  # Llama 4 turns neighbours, and what looks at an image is not turned at all
    if tensor.dtype.block_elements > 1:
        return 0  # packed: rows of it are not rows of the weight
    kinds = {"attention.wq": config.n_heads, "attention.wk": config.n_kv_heads}
    heads = next((n for kind, n in kinds.items() if name.endswith(_ENDINGS[kind])), 0)
    whole = tensor.shape[:1] == (heads * config.head_dim,) and config.head_dim % 2 == 0
    return heads if whole else 0


_ENDINGS = {kind: (f"{kind}.weight", f"{kind}.bias") for kind in ("attention.wq", "attention.wk")}


# --- parts of a tensor ----------------------------------------------------------------------------


def _gate_and_up(prefix: str, tensor: TensorInfo) -> tuple[Weight, ...]:
    """(experts, dim, 2 * hidden) as w1 and w3, each (experts, dim, hidden)."""
    half = tensor.shape[2] // 2
    return (
        _view(f"{prefix}w1", tensor, 2, slice(half)),
        _view(f"{prefix}w3", tensor, 2, slice(half, None)),
    )


def _view(
    name: str,
    tensor: TensorInfo,
    axis: int = 0,
    piece: slice = slice(None),
    transposed: bool = False,
) -> Weight:
    """A piece of a tensor along one axis, or all of it with its two axes exchanged."""
    start, end, _ = piece.indices(tensor.shape[axis])
    shape = (*tensor.shape[:axis], end - start, *tensor.shape[axis + 1 :])
    strides = tensor.strides or contiguous_strides(tensor.shape)
    offset = tensor.offset + start * strides[axis] * tensor.dtype.block_bytes
    if transposed:
        shape, strides = shape[::-1], strides[::-1]
    storage = tensor.storage
    if (
        storage.key == tensor.name and end - start < tensor.shape[axis]
    ):  # not a record of a .pth; pieces share no bytes
        storage = storage._replace(key=f"{storage.key}[{':, ' * axis}{start}:{end}]")
    row_by_row = strides == contiguous_strides(shape)
    part = tensor._replace(
        shape=shape,
        strides=None if row_by_row else strides,
        offset=offset,
        storage=storage,
    )
    return Weight(name, shape, (part,))
