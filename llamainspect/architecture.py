"""From a configuration to every weight the model must have, with its shape.

This is the hinge of the package: it checks shapes, counts parameters without a checkpoint,
recognises official models and tells how shards are cut. Shapes are those of whole weights.

Sources: `model.py` of meta-llama/llama and llama3; llama-models `llama3/multimodal/model.py`,
`llama3/quantization/loader.py`, `llama4/model.py`, `moe.py`, `ffn.py`, `vision/*.py` (their load
hooks name the fused spellings that the released files use).
"""

from collections.abc import Collection, Iterator
from math import isqrt
from typing import NamedTuple

from llamainspect.config import CrossAttentionConfig, ModelConfig, MoEConfig, VisionConfig
from llamainspect.names import NOT_PARAMETERS, component_of, layer_pattern
from llamainspect.tensors import count

MLLAMA_VISION_DIM = 1280  # Llama 3.2 Vision: constants of the reference code, not in params.json
MLLAMA_VISION_LAYERS = 32
MLLAMA_VISION_GLOBAL_LAYERS = 8
MLLAMA_VISION_OUTPUTS = 6  # five intermediate layers and the last, concatenated
MLLAMA_PATCH = 14
MLLAMA_EXTRA_EMBEDDINGS = 8


class WeightSpec(NamedTuple):
    """What the configuration asks of one weight."""

    shape: tuple[int, ...] | None  # None: it belongs there, its shape is not known from facts
    # Rows of a fused weight, one entry per piece. Shards cut every piece, not the whole: each rank
    # of a wqkv holds its rows of q, then of k, then of v.
    blocks: tuple[int, ...] = ()
    required: bool = True
    # Every rank has numbers of its own, as many as the whole has: they are joined, last axis.
    per_rank: bool = False

    def whole(self, ranks: int) -> tuple[int, ...] | None:
        """The shape that all ranks together have."""
        if self.shape is None or not self.per_rank:
            return self.shape
        return (*self.shape[:-1], self.shape[-1] * ranks)


Slot = tuple[dict[str, WeightSpec], ...]  # spellings of the same weights, the usual one first


def expected_weights(config: ModelConfig, present: Collection[str] = ()) -> dict[str, WeightSpec]:
    """Every weight by name. Of several spellings the one found in `present` is chosen.

    `config.vocab_size` must be known. Buffers that some releases carry are listed as not required.
    """
    weights: dict[str, WeightSpec] = {}
    usual: dict[str, int] = {}  # spelling that earlier layers use, for a layer that has none
    row_scales = any(name.endswith(".scales") for name in present)
    for slot in _slots(config, row_scales):
        if len(slot) == 1:
            weights.update(slot[0])
            continue
        kind = layer_pattern(next(iter(slot[0])))[0]
        found = (i for i, spelling in enumerate(slot) if any(n in present for n in spelling))
        usual[kind] = next(found, usual.get(kind, 0))
        weights.update(slot[usual[kind]])
    return weights


def count_parameters(config: ModelConfig, tied_output: bool = False) -> int:
    """Unique parameters of the model that `config` describes, as published totals count them."""
    total = sum(
        count(spec.shape)
        for name, spec in expected_weights(config).items()
        if spec.shape is not None and component_of(name) not in NOT_PARAMETERS
    )
    if config.cross_attention and config.cross_attention.has_encoder:
        total += _mllama_position_parameters(config.cross_attention)
    return total - (config.vocab_size or 0) * config.dim if tied_output else total


def _mllama_position_parameters(cross: CrossAttentionConfig) -> int:
    """Position embeddings of the image encoder as the published totals count them.

    They are tabulated per arrangement of tiles, as on the hub (transformers, MllamaVisionModel):
    Meta's own files have a smaller table, which is resized when it is loaded.
    """
    tiles = cross.max_num_chunks
    # Rows and columns with a product of at most `tiles`: those with as many rows as columns or
    # fewer, twice, as a file may speak of billions of tiles; and the unknown one.
    root = isqrt(tiles)
    arrangements = 2 * sum(tiles // rows for rows in range(1, root + 1)) - root**2 + 1
    patches = (cross.chunk_size // MLLAMA_PATCH) ** 2 + 1
    per_tile = arrangements * tiles * MLLAMA_VISION_DIM  # before and after the first transformer
    return patches * (MLLAMA_VISION_DIM + per_tile) + 1 + 2 * (per_tile + 1)


def active_parameters(config: ModelConfig, tied_output: bool = False) -> int | None:
    """Parameters of the text model that one token visits; None where no experts are routed."""
    if config.moe is None:
        return None
    text = config._replace(vision=None)
    return count_parameters(text, tied_output) - inactive_parameters(text)


def inactive_parameters(config: ModelConfig, expert_parameters: int | None = None) -> int:
    """Parameters of routed experts that one token does not visit.

    `expert_parameters` are all that routed experts have; by default what the configuration says.
    """
    moe = config.moe
    if moe is None:
        return 0
    if expert_parameters is None:
        layer_experts = 3 * moe.num_experts * config.dim * moe.hidden_dim
        expert_parameters = routed_layers(config) * layer_experts
    return expert_parameters * (moe.num_experts - moe.top_k) // moe.num_experts


def routed_layers(config: ModelConfig) -> int:
    """How many layers have experts."""
    return sum(is_moe_layer(config.moe, layer) for layer in range(config.n_layers))


def is_moe_layer(moe: MoEConfig | None, layer: int) -> bool:
    """Llama 4 routes each `interleave_moe_layer_step`-th layer, counted from 1, or those listed."""
    if moe is None:
        return False
    if moe.layers:
        return layer in moe.layers
    return (layer + 1) % moe.interleave_moe_layer_step == 0


def _slots(config: ModelConfig, row_scales: bool) -> Iterator[Slot]:
    prefix = "text_model." if config.cross_attention else ""
    dim, vocab_size = config.dim, config.vocab_size or 0
    yield _one(f"{prefix}tok_embeddings.weight", (vocab_size, dim))
    for layer in range(config.n_layers):
        yield from _layer(config, f"{prefix}layers.{layer}.", layer, row_scales)
    yield _one(f"{prefix}norm.weight", (dim,))
    needed = config.has_output and not config.tied_output
    yield ({f"{prefix}output.weight": WeightSpec((vocab_size, dim), required=needed)},)
    if not config.has_output:
        yield _optional("score.weight", None)  # of a classifier
    yield _optional(f"{prefix}rope.freqs", (config.head_dim // 2,))
    if config.quantization and config.quantization.int4:
        # int8 with a scale per row; no public file shows the shape of the scales.
        yield _optional(f"{prefix}tok_embeddings.scales", None)
        yield _optional(f"{prefix}output.scales", None)
    if config.cross_attention:
        yield from _cross_attention(config, config.cross_attention)
    if config.vision:
        yield from _vision(config, config.vision)


def _layer(config: ModelConfig, prefix: str, layer: int, row_scales: bool) -> Iterator[Slot]:
    dim = config.dim
    attention, feed_forward = f"{prefix}attention.", f"{prefix}feed_forward."
    q_rows, kv_rows = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield (
        {f"{prefix}attention_norm.weight": WeightSpec((dim,))},
        {f"{attention}wqkv.layer_norm_weight": WeightSpec((dim,))},
    )
    yield (
        {
            f"{attention}wq.weight": WeightSpec((q_rows, dim)),
            f"{attention}wk.weight": WeightSpec((kv_rows, dim)),
            f"{attention}wv.weight": WeightSpec((kv_rows, dim)),
        },
        {
            f"{attention}wqkv.weight": WeightSpec(
                (q_rows + 2 * kv_rows, dim), blocks=(q_rows, kv_rows, kv_rows)
            )
        },
    )
    yield _one(f"{attention}wo.weight", (dim, q_rows))
    yield (
        {f"{prefix}ffn_norm.weight": WeightSpec((dim,))},
        {f"{feed_forward}norm.weight": WeightSpec((dim,))},
        {f"{feed_forward}mlp.layer_norm_weight": WeightSpec((dim,))},
    )
    if config.moe and is_moe_layer(config.moe, layer):
        yield from _experts(config.moe, dim, feed_forward)
    else:
        yield from _swiglu(config.hidden_dim, dim, feed_forward)
    if config.attention_bias:
        rows = {"wq": q_rows, "wk": kv_rows, "wv": kv_rows, "wo": dim}
        yield from _biases(f"{prefix}attention.", rows)
    if config.mlp_bias and config.moe is None:
        rows = {"w1": config.hidden_dim, "w2": dim, "w3": config.hidden_dim}
        yield from _biases(f"{prefix}feed_forward.", rows)
    if config.quantization and config.quantization.int4:
        yield from _quantized(config, prefix, q_rows, kv_rows)
    elif row_scales:
        yield from _row_scales(config, feed_forward, layer)


def _biases(prefix: str, rows: dict[str, int]) -> Iterator[Slot]:
    """Of linears: no release of Meta's has them, models that were made like Llamas may."""
    for name, length in rows.items():
        yield _one(f"{prefix}{name}.bias", (length,))


def _swiglu(hidden_dim: int, dim: int, prefix: str) -> Iterator[Slot]:
    yield (
        {
            f"{prefix}w1.weight": WeightSpec((hidden_dim, dim)),
            f"{prefix}w3.weight": WeightSpec((hidden_dim, dim)),
        },
        {
            f"{prefix}mlp.fc1_weight": WeightSpec(
                (2 * hidden_dim, dim), blocks=(hidden_dim, hidden_dim)
            )
        },
    )
    yield (
        {f"{prefix}w2.weight": WeightSpec((dim, hidden_dim))},
        {f"{prefix}mlp.fc2_weight": WeightSpec((dim, hidden_dim))},
    )


def _experts(moe: MoEConfig, dim: int, prefix: str) -> Iterator[Slot]:
    experts, hidden_dim = moe.num_experts, moe.hidden_dim
    yield _one(f"{prefix}router_DE", (dim, experts))
    yield (
        {
            f"{prefix}experts.moe_w_in_eD_F": WeightSpec((experts * dim, hidden_dim)),
            f"{prefix}experts.moe_w_swiglu_eD_F": WeightSpec((experts * dim, hidden_dim)),
            f"{prefix}experts.moe_w_out_eF_D": WeightSpec(
                (experts * hidden_dim, dim), blocks=(hidden_dim,) * experts
            ),
        },
        {
            f"{prefix}experts.w1": WeightSpec((experts, dim, hidden_dim)),
            f"{prefix}experts.w3": WeightSpec((experts, dim, hidden_dim)),
            f"{prefix}experts.w2": WeightSpec((experts, hidden_dim, dim)),
        },
    )
    yield (
        {
            f"{prefix}w_in_shared_FD.weight": WeightSpec((hidden_dim, dim)),
            f"{prefix}w_swiglu_FD.weight": WeightSpec((hidden_dim, dim)),
            f"{prefix}w_out_shared_DF.weight": WeightSpec((dim, hidden_dim)),
        },
        {
            f"{prefix}shared_expert.w1.weight": WeightSpec((hidden_dim, dim)),
            f"{prefix}shared_expert.w3.weight": WeightSpec((hidden_dim, dim)),
            f"{prefix}shared_expert.w2.weight": WeightSpec((dim, hidden_dim)),
        },
    )
    # Statistics from training; in the base models' files, dropped by Meta's own loader.
    yield _optional(f"{prefix}expert_activation_DE", None)
    yield _optional(f"{prefix}global_gate_stats_3E", None)
    yield _optional(f"{prefix}running_gate_stats_3E", None)


def _quantized(config: ModelConfig, prefix: str, q_rows: int, kv_rows: int) -> Iterator[Slot]:
    """Group scales beside each linear, and LoRA adaptors. Group size: 32 on the card, 256 in Meta's
    list of releases, so the scales' width is not checked."""
    dim, hidden_dim = config.dim, config.hidden_dim
    linears = {
        "attention.wq": (q_rows, dim),
        "attention.wk": (kv_rows, dim),
        "attention.wv": (kv_rows, dim),
        "attention.wo": (dim, q_rows),
        "feed_forward.w1": (hidden_dim, dim),
        "feed_forward.w2": (dim, hidden_dim),
        "feed_forward.w3": (hidden_dim, dim),
    }
    for name, (rows, columns) in linears.items():
        yield ({f"{prefix}{name}.scales": WeightSpec(None)},)
        yield _optional(f"{prefix}{name}.zeros", None)
        if config.lora:
            yield _one(f"{prefix}{name}.adaptor.A.weight", (config.lora.rank, columns))
            yield _one(f"{prefix}{name}.adaptor.B.weight", (rows, config.lora.rank))


def _row_scales(config: ModelConfig, prefix: str, layer: int) -> Iterator[Slot]:
    """One for each output of an FP8 matrix, in `fp8_scales_N.pt` beside the shards.

    Of w2 each rank has those of its own columns. In Llama 4 they are of the routed experts.
    """
    moe = config.moe if config.moe and is_moe_layer(config.moe, layer) else None
    place = f"{prefix}experts." if moe else prefix
    experts = (moe.num_experts,) if moe else ()
    rows = (*experts, moe.hidden_dim if moe else config.hidden_dim)
    yield _optional(f"{place}w1.scales", rows)
    yield _optional(f"{place}w3.scales", rows)
    spec = WeightSpec((*experts, config.dim), required=False, per_rank=True)
    yield ({f"{place}w2.scales": spec},)


def _cross_attention(config: ModelConfig, cross: CrossAttentionConfig) -> Iterator[Slot]:
    """Llama 3.2 Vision: cross-attention layers of the text model and the image encoder."""
    dim, head_dim = config.dim, config.head_dim
    yield _one("text_model.learnable_embedding.weight", (MLLAMA_EXTRA_EMBEDDINGS, dim))
    for layer in range(cross.n_layers):
        prefix = f"text_model.cross_attention_layers.{layer}."
        for name, shape in {
            "attention_norm.weight": (dim,),
            "attention.wq.weight": (config.n_heads * head_dim, dim),
            "attention.wk.weight": (config.n_kv_heads * head_dim, dim),
            "attention.wv.weight": (config.n_kv_heads * head_dim, dim),
            "attention.wo.weight": (dim, config.n_heads * head_dim),
            "attention.q_norm.weight": (head_dim,),
            "attention.k_norm.weight": (head_dim,),
            "gate_attn": (1,),
            "ffn_norm.weight": (dim,),
            "gate_ffwd": (1,),
        }.items():
            yield _one(prefix + name, shape)
        yield from _swiglu(config.hidden_dim, dim, f"{prefix}feed_forward.")
    if cross.has_encoder:
        yield from _mllama_encoder(dim)


def _mllama_encoder(dim: int) -> Iterator[Slot]:
    """Llama 3.2 Vision's image encoder, and what joins it to the text model."""
    width = MLLAMA_VISION_DIM
    encoder = "vision_model.vision_encoder."
    yield _one(f"{encoder}conv1._linear.weight", (width, 3 * MLLAMA_PATCH**2))
    yield _one(f"{encoder}class_embedding", (width,))
    for norm in ("ln_pre", "ln_post"):
        yield _one(f"{encoder}{norm}.weight", (width,))
        yield _one(f"{encoder}{norm}.bias", (width,))
    for stack, layers, gated in (
        ("transformer", MLLAMA_VISION_LAYERS, False),
        ("global_transformer", MLLAMA_VISION_GLOBAL_LAYERS, True),
    ):
        for layer in range(layers):
            prefix = f"{encoder}{stack}.resblocks.{layer}."
            yield from _vision_block(prefix, width, 4 * width, attention_bias=False)
            if gated:
                yield _one(f"{prefix}gate_attn", (1,))
                yield _one(f"{prefix}gate_ffn", (1,))
    # Position embeddings are resized when they are loaded, so a file may hold another grid.
    for name in (
        "positional_embedding",
        "gated_positional_embedding",
        "gated_positional_embedding_gate",
        "pre_tile_pos_embed.embedding",
        "pre_tile_pos_embed.gate",
        "post_tile_pos_embed.embedding",
        "post_tile_pos_embed.gate",
    ):
        yield _optional(encoder + name, None)
    yield _one("vision_model.vision_projection.weight", (dim, MLLAMA_VISION_OUTPUTS * width))
    yield _one("vision_model.vision_projection.bias", (dim,))


def _vision(config: ModelConfig, vision: VisionConfig) -> Iterator[Slot]:
    """Llama 4: the image encoder, its adapter, and the projection into the text model."""
    width = vision.dim
    (height_px, width_px), (patch_h, patch_w) = vision.image_size, vision.patch_size
    patches = (height_px // patch_h) * (width_px // patch_w)
    encoder = "vision_embeddings.vision_encoder."
    yield _one(f"{encoder}conv1._linear.weight", (width, 3 * patch_h * patch_w))
    yield _one(f"{encoder}class_embedding", (width,))
    yield (
        {f"{encoder}positional_embedding_vlm": WeightSpec((patches + 1, width))},
        {f"{encoder}positional_embedding": WeightSpec((patches + 1, width))},
    )
    for norm in ("ln_pre", "ln_post"):
        yield _one(f"{encoder}{norm}.weight", (width,))
        yield _one(f"{encoder}{norm}.bias", (width,))
    for layer in range(vision.n_layers):
        prefix = f"{encoder}transformer.resblocks.{layer}."
        yield from _vision_block(prefix, width, int(vision.mlp_ratio * width), attention_bias=True)
    shuffled = int(width // vision.pixel_shuffle_ratio**2)
    adapter = "vision_embeddings.vision_adapter.mlp."
    yield _one(f"{adapter}c_fc.weight", (vision.output_dim, shuffled))
    yield _one(f"{adapter}c_proj.weight", (vision.output_dim, vision.output_dim))
    yield _one("vision_projection.weight", (config.dim, vision.output_dim))


def _vision_block(
    prefix: str, width: int, hidden_dim: int, *, attention_bias: bool
) -> Iterator[Slot]:
    for name in ("wq", "wk", "wv", "wo"):
        yield _one(f"{prefix}attn.{name}.weight", (width, width))
        if attention_bias:
            yield _one(f"{prefix}attn.{name}.bias", (width,))
    for name, (rows, columns) in {
        "c_fc": (hidden_dim, width),
        "c_proj": (width, hidden_dim),
    }.items():
        yield _one(f"{prefix}mlp.{name}.weight", (rows, columns))
        yield _one(f"{prefix}mlp.{name}.bias", (rows,))
    for name in ("ln_1", "ln_2"):
        yield _one(f"{prefix}{name}.weight", (width,))
        yield _one(f"{prefix}{name}.bias", (width,))


def _one(name: str, shape: tuple[int, ...]) -> Slot:
    return ({name: WeightSpec(shape)},)


def _optional(name: str, shape: tuple[int, ...] | None) -> Slot:
    return ({name: WeightSpec(shape, required=False)},)
