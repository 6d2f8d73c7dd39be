"""Every weight under one spelling, so that two checkpoints can be compared weight by weight.

Llama 4's released files fuse wq, wk and wv, and w1 and w3, put norms into the linear behind them
and fold experts into two axes (llama4/moe.py and ffn.py undo it when they load); Hugging Face's do
not.
"""

from llamainspect.checkpoint import Checkpoint
from llamainspect.weights import Weight

FUSED = {
    "attention.wqkv.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
    "feed_forward.mlp.fc1_weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
}
RENAMED = {
    "attention.wqkv.layer_norm_weight": "attention_norm.weight",
    "feed_forward.mlp.layer_norm_weight": "ffn_norm.weight",
    "feed_forward.norm.weight": "ffn_norm.weight",
    "feed_forward.mlp.fc2_weight": "feed_forward.w2.weight",
    "feed_forward.w_in_shared_FD.weight": "feed_forward.shared_expert.w1.weight",
    "feed_forward.w_swiglu_FD.weight": "feed_forward.shared_expert.w3.weight",
    "feed_forward.w_out_shared_DF.weight": "feed_forward.shared_expert.w2.weight",
}
EXPERTS = {
    "feed_forward.experts.moe_w_in_eD_F": "feed_forward.experts.w1",
    "feed_forward.experts.moe_w_swiglu_eD_F": "feed_forward.experts.w3",
    "feed_forward.experts.moe_w_out_eF_D": "feed_forward.experts.w2",
}


def canonical_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """The weights of a checkpoint, fused ones taken apart, by the names of Meta's code."""
    moe = checkpoint.config.moe if checkpoint.config else None
    experts = moe.num_experts if moe else 0
    return {
        piece.name: piece
        for weight in checkpoint.weights.values()
        for piece in _pieces(weight, experts)
    }


def stem_of(name: str) -> str:
    """What the names of scales and adaptors of a weight begin with."""
    prefix, inner = _split(name)
    return f"{prefix}{EXPERTS.get(inner, inner)}".removesuffix(".weight")


def _pieces(weight: Weight, experts: int) -> tuple[Weight, ...]:
    prefix, inner = _split(weight.name)
    if inner in FUSED and len(weight.blocks) == len(FUSED[inner]):
        return _taken_apart(weight, [f"{prefix}{name}" for name in FUSED[inner]])
    if inner in RENAMED:
        return (weight._replace(name=f"{prefix}{RENAMED[inner]}"),)
    if inner in EXPERTS and _folds(weight, experts):
        return (_unfolded(weight, f"{prefix}{EXPERTS[inner]}", experts),)
    return (weight,)


def _split(name: str) -> tuple[str, str]:
    """ "layers.7." and the rest; an empty prefix for what stands in no layer."""
    start, found, rest = name.partition("layers.")
    number, _, inner = rest.partition(".")
    return (f"{start}layers.{number}.", inner) if found else ("", name)


def _taken_apart(weight: Weight, names: list[str]) -> tuple[Weight, ...]:
    """The pieces of a fused weight: every rank holds its rows of one, then of the next."""
    cut = 1 if weight.axis is None else weight.ranks
    pieces, first = [], 0
    for name, rows in zip(names, weight.blocks, strict=True):
        height = rows // cut
        parts = []
        for part in weight.parts:
            step = part.strides[0] if part.strides else part.elements // max(part.shape[0], 1)
            offset = part.offset + first * step * part.dtype.block_bytes
            parts.append(part._replace(shape=(height, *part.shape[1:]), offset=offset))
        first += height
        shape = (rows, *weight.shape[1:])
        pieces.append(Weight(name, shape, tuple(parts), weight.axis, weight.ranks))
    return tuple(pieces)


def _folds(weight: Weight, experts: int) -> bool:
    whole = len(weight.shape) == 2 and experts > 0
    return whole and all(p.strides is None and p.shape[0] % experts == 0 for p in weight.parts)


def _unfolded(weight: Weight, name: str, experts: int) -> Weight:
    """(experts * rows, columns) as (experts, rows, columns)."""
    parts = tuple(
        part._replace(shape=(experts, part.shape[0] // experts, part.shape[1]))
        for part in weight.parts
    )
    shape = (experts, weight.shape[0] // experts, weight.shape[1])
    axis = None if weight.axis is None else weight.axis + 1
    return Weight(name, shape, parts, axis, weight.ranks)
