"""A dense Llama, all of it: from token embeddings to logits, as Meta's reference code has it.

Sources: meta-llama/llama `llama/model.py` (1 and 2), meta-llama/llama3 `llama/model.py`, and
meta-llama/llama-models `models/llama3/model.py` (the scaling of RoPE).

Functions of tensors and nothing else. Where weights come from, whether one layer or all of them are
in memory, and whether gradients flow back through it, is not their business. Letters in the
comments:

    B sequences, T tokens of each that are computed now, S tokens that they look back on (T and what
    the cache holds), D dim, H n_heads, K n_kv_heads, E head_dim, F hidden_dim of the feed-forward,
    V vocabulary
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llamainspect.config import ModelConfig
from llamainspect.rope import RopeScaling


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


class LayerCache(NamedTuple):
    """Keys and values of one layer, with room for as many tokens as will come."""

    keys: Tensor  # (B, K, room, E)
    values: Tensor  # (B, K, room, E)


def block(
    x: Tensor,
    layer: Layer,
    turns: Tensor,
    config: ModelConfig,
    cache: LayerCache | None = None,
    start: int = 0,
) -> Tensor:
    """One layer: tokens from position `start` on look at those before them, then each thinks.

    Tokens before `start` are those in the cache. Without one `start` is 0, and none are kept.
    """
    attended = attention(
        rms_norm(x, layer.attention_norm, config.norm_eps), layer, turns, config, cache, start
    )
    h = x + attended  # (B, T, D)
    return h + feed_forward(rms_norm(h, layer.ffn_norm, config.norm_eps), layer)  # (B, T, D)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to a mean square of 1, in float32, and then each number by its weight."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)  # (B, T, D)
    return normed.type_as(x) * weight


def attention(
    x: Tensor,
    layer: Layer,
    turns: Tensor,
    config: ModelConfig,
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
    q, k, v = rotate(q, turns).transpose(1, 2), rotate(k, turns).transpose(1, 2), v.transpose(1, 2)
    keys, values = k, v  # (B, K, T, E)
    if cache is not None:
        cache.keys[:, :, start:end], cache.values[:, :, start:end] = k, v
        keys, values = cache.keys[:, :, :end], cache.values[:, :, :end]  # (B, K, S, E)
    mask = look_back(tokens, end, x.device) if start and tokens > 1 else None
    shared = config.n_heads // config.n_kv_heads
    if shared > 1 and needs_equal_heads(q, mask):
        keys, values = (t.repeat_interleave(shared, dim=1) for t in (keys, values))
    seen = F.scaled_dot_product_attention(  # softmax(q k^T / sqrt(E)) v, softmax in float32
        q,  # (B, H, T, E)
        keys,
        values,
        attn_mask=mask,
        is_causal=start == 0 and tokens > 1,
        enable_gqa=keys.shape[1] != config.n_heads,
    )  # (B, H, T, E)
    seen = seen + not_finite(q, k).type_as(seen)
    return F.linear(seen.transpose(1, 2).flatten(2), layer.wo)  # (B, T, D)


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


def look_back(tokens: int, end: int, device: torch.device) -> Tensor:
    """Which of `end` tokens each of the last `tokens` may look at: itself and those before it."""
    return torch.ones(tokens, end, dtype=torch.bool, device=device).tril(end - tokens)  # (T, S)


def feed_forward(x: Tensor, layer: Layer) -> Tensor:
    """SwiGLU."""
    gate = F.silu(F.linear(x, layer.w1))  # (B, T, F)
    return F.linear(gate * F.linear(x, layer.w3), layer.w2)  # (B, T, D)


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
