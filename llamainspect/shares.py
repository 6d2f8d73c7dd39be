"""Which part of a model each of several processes holds.

Tensor parallelism as in Megatron-LM (arXiv 1909.08053): heads and hidden numbers of a feed-forward
are divided, so that wq, wk, wv, w1 and w3 are cut by rows and wo and w2 by columns; what leaves wo
and w2 is summed over all processes. Where there are more processes than KV heads, neighbours have
the same one. Each has the norms and the router, and a piece of every block of the output matrix.
"""

from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import tensor_splits
from llamainspect.names import counted, layer_pattern
from llamainspect.processes import Share
from llamainspect.weights import Weight, piece_of

BY_KV_HEADS = frozenset({"attention.wk.weight", "attention.wv.weight"})
# The axis that is divided evenly; experts are stored (experts, in, out).
EVENLY = {
    "attention.wq.weight": 0,
    "attention.wo.weight": 1,
    "feed_forward.w1.weight": 0,
    "feed_forward.w3.weight": 0,
    "feed_forward.w2.weight": 1,
    "feed_forward.experts.w1": 2,
    "feed_forward.experts.w3": 2,
    "feed_forward.experts.w2": 1,
}


def check_share(config: ModelConfig, share: Share) -> None:
    """Raises InvalidRequest where so many processes cannot have equal parts."""
    splits = tensor_splits(config)
    if share.ranks not in splits:
        *some, last = map(str, splits)
        numbers = f"it can be {', '.join(some)} or {last}" if some else "one alone can run it"
        raise InvalidRequest(
            f"{share.ranks} processes cannot share this model equally; with "
            f"{counted(config.n_heads, 'head')}, {counted(config.n_kv_heads, 'KV head')} and a "
            f"hidden size of {config.hidden_dim:,} {numbers} (--nproc-per-node)"
        )


def own_config(config: ModelConfig, share: Share) -> ModelConfig:
    """The sizes that one process computes with."""
    moe = config.moe
    return config._replace(
        n_heads=config.n_heads // share.ranks,
        n_kv_heads=max(config.n_kv_heads // share.ranks, 1),
        hidden_dim=config.hidden_dim // share.ranks,
        moe=moe and moe._replace(hidden_dim=moe.hidden_dim // share.ranks),
    )


def own_weights(
    weights: dict[str, Weight], config: ModelConfig, share: Share, *, whole_rows: bool = False
) -> dict[str, Weight]:
    """What one process reads of each weight; embedding and output stay whole, to be cut later.

    With `whole_rows` what is cut along its inputs is read whole, since rounding looks at all of a
    row, and cut after that.
    """
    if share.ranks == 1:
        return weights
    return {name: _own(name, weight, config, share, whole_rows) for name, weight in weights.items()}


def _own(name: str, weight: Weight, config: ModelConfig, share: Share, whole_rows: bool) -> Weight:
    pattern, number = layer_pattern(name)
    inner = pattern.removeprefix("layers.{}.") if number is not None else ""
    if inner in BY_KV_HEADS:
        head = share.rank * config.n_kv_heads // share.ranks
        heads = max(config.n_kv_heads // share.ranks, 1)
        return piece_of(weight, 0, head * config.head_dim, (head + heads) * config.head_dim)
    axis = EVENLY.get(inner)
    if axis is None:
        return weight
    start, end = share.piece(weight.shape[axis])
    if axis == 1 and whole_rows:
        return weight._replace(needed=(axis, start, end))
    return piece_of(weight, axis, start, end)
