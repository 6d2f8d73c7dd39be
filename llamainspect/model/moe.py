"""Llama 4's routed feed-forward: each token goes to the experts that its router likes best.

Source: meta-llama/llama-models `models/llama4/moe.py`. The score that an expert gets, through a
sigmoid, is multiplied with what it is given, not with what it makes of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from llamainspect.model.transformer import alone

ROWS = 2048  # tokens that pass an expert at a time


class Expert(NamedTuple):
    """The weights of one expert."""

    w1: Tensor  # (D, F), the gate
    w2: Tensor  # (F, D), back down
    w3: Tensor  # (D, F), up


@dataclass(frozen=True)
class Routed:
    """The experts of one layer. They are asked for one by one, and only those that tokens go to."""

    router: Tensor  # (D, experts)
    top_k: int
    expert: Callable[[int], Expert]  # its weights, valid until the next is asked for
    # Of several processes that have some hidden numbers of each expert: their products' sum.
    summed: Callable[[Tensor], Tensor] = alone

    def __call__(self, x: Tensor) -> Tensor:
        """What they add: (B, T, D) of what has passed the norm to (B, T, D)."""
        flat = x.flatten(0, -2)  # (tokens, D)
        scores, chosen = (flat @ self.router).topk(self.top_k, dim=-1)  # (tokens, top_k)
        gates = torch.sigmoid(scores.float()).type_as(x)
        made = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            expert = self.expert(number)
            tokens, place = (chosen == number).nonzero(as_tuple=True)
            for some, which in zip(tokens.split(ROWS), place.split(ROWS), strict=True):
                given = flat[some] * gates[some, which, None]
                made.index_add_(0, some, swiglu(given, expert))
        return self.summed(made).view_as(x)


def swiglu(x: Tensor, expert: Expert) -> Tensor:
    """(tokens, D) to (tokens, D)."""
    return (F.silu(x @ expert.w1) * (x @ expert.w3)) @ expert.w2
