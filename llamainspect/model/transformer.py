"""A Llama, all of it: from token embeddings to logits, as Meta's reference code has it.

Sources: meta-llama/llama `llama/model.py` (1 and 2), meta-llama/llama3 `llama/model.py`, and
meta-llama/llama-models `models/llama3/model.py` (the scaling of RoPE) and `models/llama4/model.py`
(iRoPE: chunks, norms of queries and keys, temperature). Llama 4's routed experts are in `moe`.

Functions of tensors and nothing else. Where weights come from, whether one layer or all of them are
in memory, and whether gradients flow back through it, is not their business. Letters in the
comments:

    B sequences, T tokens of each that are computed now, S tokens that they look back on (T and what
    the cache holds), D dim, H n_heads, K n_kv_heads, E head_dim, F hidden_dim of the feed-forward,
    V vocabulary
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llamainspect.config import ModelConfig
from llamainspect.rope import RopeScaling

FLOOR_SCALE, ATTN_SCALE = 8192.0, 0.1  # llama4/args.py


def alone(product: Tensor) -> Tensor:
    """What one process sums with others: nothing."""
    return product


class Layer(NamedTuple):
    """The weights of one transformer block, under Meta's names."""

    attention_norm: Tensor  # (D)
    wq: Tensor  # (H * E, D)
    wk: Tensor  # (K * E, D)
    wv: Tensor  # (K * E, D)
    wo: Tensor  # (D, H * E)
    ffn_norm: Tensor  # (D)
    w1: Tensor  # (F, D), the gate
    w2: Tensor  # (D, F), back down
    w3: Tensor  # (F, D), up
    # Of a Llama 4: what is added by experts, (B, T, D) each; w1 to w3 are those of the shared one.
    routed: Callable[[Tensor], Tensor] | None = None
    # Of several processes that have some heads and hidden numbers each: their products' sum.
    summed: Callable[[Tensor], Tensor] = alone


class LayerStyle(NamedTuple):
    """How a layer looks at positions. All layers of a Llama do it in one way, but Llama 4's."""

    rope: bool = True
    qk_norm: bool = False  # queries and keys are scaled to a mean square of 1
    chunk: int | None = None  # tokens: each looks at those before it in its own chunk alone
    tempered: bool = False  # queries grow with their position


class LayerCache(NamedTuple):
    """Keys and values of one layer, with room for as many tokens as will come."""

    keys: Tensor  # (B, K, room, E)
    values: Tensor  # (B, K, room, E)


def style_of(config: ModelConfig, number: int) -> LayerStyle:
    """Of one layer. Each `nope_layer_interval`-th has no positions and looks at all tokens."""
    interval = config.nope_layer_interval
    if interval and (number + 1) % interval == 0:
        return LayerStyle(rope=False, tempered=config.attn_temperature_tuning)
    return LayerStyle(qk_norm=config.use_qk_norm, chunk=config.attention_chunk_size)


def block(x: Tensor, layer: Layer, turns: Tensor, config: ModelConfig, style: LayerStyle) -> Tensor:
    """One layer, of sequences from their first token on: each looks back, then each thinks."""
    h = attend(x, layer, turns, config, style)
    out = think(h, layer, config)  # (B, T, D)
    if layer.routed is None:
        return out
    return out + layer.routed(rms_norm(h, layer.ffn_norm, config.norm_eps))


def attend(
    x: Tensor,
    layer: Layer,
    turns: Tensor,
    config: ModelConfig,
    style: LayerStyle,
    cache: LayerCache | None = None,
    start: int = 0,
) -> Tensor:
    """Tokens from position `start` on look at those before them.

    Tokens before `start` are those in the cache. Without one `start` is 0, and none are kept.
    """
    normed = rms_norm(x, layer.attention_norm, config.norm_eps)
    return x + attention(normed, layer, turns, config, style, cache, start)  # (B, T, D)


def think(h: Tensor, layer: Layer, config: ModelConfig) -> Tensor:
    """Each token by itself; without what routed experts add."""
    return h + feed_forward(rms_norm(h, layer.ffn_norm, config.norm_eps), layer)  # (B, T, D)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to a mean square of 1, in float32, and then each number by its weight."""
    return to_unit(x, eps) * weight


def to_unit(x: Tensor, eps: float) -> Tensor:
    """Each vector with a mean square of 1."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).type_as(x)


def attention(
    x: Tensor,
    layer: Layer,
    turns: Tensor,
    config: ModelConfig,
    style: LayerStyle,
    cache: LayerCache | None,
    start: int,
) -> Tensor:
    """Grouped-query attention: each KV head serves n_heads / n_kv_heads query heads."""
    batch, tokens, _ = x.shape
    end = start + tokens
    assert start == 0 or cache is not None
    q = F.linear(x, layer.wq).view(batch, tokens, config.n_heads, config.head_dim)
    k = F.linear(x, layer.wk).view(batch, tokens, config.n_kv_heads, config.head_dim)
    v = F.linear(x, layer.wv).view(batch, tokens, config.n_kv_heads, config.head_dim)
    if style.rope:
        q, k = rotate(q, turns), rotate(k, turns)
    if style.qk_norm:
        q, k = to_unit(q, config.norm_eps), to_unit(k, config.norm_eps)
    if style.tempered:
        q = (q * temperatures(config, start, end, x.device)).type_as(q)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    first, keys, values = start, k, v  # (B, K, T, E)
    if cache is not None:
        cache.keys[:, :, start:end], cache.values[:, :, start:end] = k, v
        first = start - start % style.chunk if style.chunk else 0
        keys, values = cache.keys[:, :, first:end], cache.values[:, :, first:end]  # (B, K, S, E)
    mask = look_back(first, start, end, style.chunk, x.device)
    shared = config.n_heads // config.n_kv_heads
    if shared > 1 and needs_equal_heads(q, mask):
        keys, values = (t.repeat_interleave(shared, dim=1) for t in (keys, values))
    seen = F.scaled_dot_product_attention(  # softmax(q k^T / sqrt(E)) v, softmax in float32
        q,  # (B, H, T, E)
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and tokens > 1,
        enable_gqa=keys.shape[1] != config.n_heads,
    )  # (B, H, T, E)
    seen = seen + not_finite(q, k).type_as(seen)
    return layer.summed(F.linear(seen.transpose(1, 2).flatten(2), layer.wo))  # (B, T, D)


def needs_equal_heads(q: Tensor, mask: Tensor | None) -> bool:
    """Where torch's attention with fewer KV heads is slow, takes much memory, or fails: on GPUs
    with a mask or in float32, and with Apple's."""
    if q.device.type == "cpu":
        return False
    return mask is not None or q.dtype == torch.float32 or q.device.type == "mps"


def not_finite(*tensors: Tensor) -> Tensor:
    """0 for each sequence, or NaN when any of its numbers is NaN or Inf. (torch's attention gives
    zeros where all scores are NaN, and damaged weights would look sound.)"""
    sums = [tensor.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float32) for tensor in tensors]
    return 0 * torch.stack(sums).sum(0)  # (B, 1, 1, 1)


def look_back(
    first: int, start: int, end: int, chunk: int | None, device: torch.device
) -> Tensor | None:
    """Which of the tokens from `first` on those from `start` on may look at: themselves and those
    before them, in the same chunk. None where that is all of them, or what is causal."""
    whole = chunk is None or first // chunk == (end - 1) // chunk
    if whole and (start == first or start == end - 1):
        return None
    keys = torch.arange(first, end, device=device)  # (S)
    queries = torch.arange(start, end, device=device)[:, None]  # (T, 1)
    seen = keys <= queries  # (T, S)
    return seen if chunk is None else seen & (keys // chunk == queries // chunk)


def temperatures(config: ModelConfig, start: int, end: int, device: torch.device) -> Tensor:
    """By what queries are multiplied where positions are not seen, so that they stay sharp among
    very many tokens (arXiv 2501.19399): 1 for the first `floor_scale`."""
    floor, scale = config.floor_scale or FLOOR_SCALE, config.attn_scale or ATTN_SCALE
    positions = torch.arange(start, end, device=device, dtype=torch.float32)
    grown = 1 + scale * torch.log(torch.floor((positions + 1) / floor) + 1)
    return grown[:, None, None]  # (T, 1, 1)


def feed_forward(x: Tensor, layer: Layer) -> Tensor:
    """SwiGLU."""
    gate = F.silu(F.linear(x, layer.w1))  # (B, T, F)
    return layer.summed(F.linear(gate * F.linear(x, layer.w3), layer.w2))  # (B, T, D)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """RoPE: each pair of neighbours of a head, numbers 0 and 1, 2 and 3, ..., is a complex number
    that is turned, in float32.

    Meta's order of rows. (Hugging Face's files pair number i with i + E / 2, and have the rows of
    wq and wk in another order for it.)
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, T, heads, E / 2)
    turned = pairs * turns[:, None]  # turns: (T, 1, E / 2)
    return torch.view_as_real(turned).flatten(-2).type_as(x)  # (B, T, heads, E)


def rope_turns(
    config: ModelConfig, scaling: RopeScaling | None, positions: int, device: torch.device
) -> Tensor:
    """By what the pairs at positions 0, 1, 2, ... are multiplied; rounded where Meta's code does.

    cos + i sin of each angle, (T, E / 2), complex64.
    """
    pairs = torch.arange(0, config.head_dim, 2).float()  # (E / 2)
    frequencies = 1.0 / (config.rope_theta ** (pairs / config.head_dim))  # radians per token
    if scaling is not None:
        frequencies = scale(frequencies, scaling)
    angles = torch.outer(torch.arange(positions).float(), frequencies)  # (T, E / 2)
    return torch.complex(angles.cos(), angles.sin()).to(device)


def scale(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow pairs turn `factor` times slower, so that a longer context looks like the old one."""
    wavelengths = 2 * math.pi / frequencies
    slowed = frequencies / scaling.factor
    share = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )  # 0 for the slowest of those between, 1 for the fastest
    between = (1 - share) * slowed + share * frequencies
    scaled = torch.where(wavelengths > scaling.stretched_above, slowed, between)
    return torch.where(wavelengths < scaling.kept_below, frequencies, scaled)


def logits(x: Tensor, output: Tensor) -> Tensor:
    """Of each token that could come next; `x` has passed the last norm. In float32."""
    return F.linear(x, output).float()  # (B, T, V)
