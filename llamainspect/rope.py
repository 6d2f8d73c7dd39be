"""Rotary position embeddings: how far apart two tokens are, written as turns of pairs of numbers.

Sources: RoFormer (arXiv 2104.09864); llama-models llama3/model.py and llama4/model.py, args.py for
the scaling of Llama 3.1 and of Llama 4 Scout, which params.json switches on but does not describe.
"""

import math
from typing import NamedTuple

from llamainspect.config import PARAMS_FILE, ModelConfig

ORIGINAL_CONTEXT = 8_192  # tokens that Llama 3 was first trained on
LOW_FREQ_FACTOR = 1.0
LINEAR = "linear"  # config.json's name for the stretching of all wavelengths alike
# Releases whose config.json on the hub has another factor than Meta's reference code, by the
# beginning of their id. (The models were evaluated with either; long contexts tell them apart.)
HUB_FACTORS = {"llama-3.2-1b": 32.0, "llama-3.2-3b": 32.0, "llama-guard-3-1b": 32.0}


class RopeScaling(NamedTuple):
    """Slow pairs turn `factor` times slower, fast ones as before, those between in between."""

    factor: float
    high_freq_factor: float
    low_freq_factor: float = LOW_FREQ_FACTOR
    original_context: int = ORIGINAL_CONTEXT  # tokens; 0: all pairs are slow ones

    @property
    def kept_below(self) -> float:
        """Tokens: pairs with a shorter wavelength stay as they are."""
        return self.original_context / self.high_freq_factor

    @property
    def stretched_above(self) -> float:
        """Tokens: pairs with a longer wavelength turn `factor` times slower."""
        return self.original_context / self.low_freq_factor


def rope_scaling(config: ModelConfig) -> RopeScaling | None:
    """As Meta's reference code has it: 8 and 4 for every Llama 3, 16 and 1 for Llama 4.

    A config.json says all of it, and may ask for all wavelengths to be stretched alike.
    """
    if config.rope_type == LINEAR:
        return RopeScaling(config.rope_scaling_factor or 1.0, 1.0, original_context=0)
    if not config.use_scaled_rope:
        return None
    factor, high = (16.0, 1.0) if config.moe else (8.0, 4.0)
    return RopeScaling(
        config.rope_scaling_factor or factor,
        config.rope_high_freq_factor or high,
        config.rope_low_freq_factor or LOW_FREQ_FACTOR,
        config.rope_original_context or ORIGINAL_CONTEXT,
    )


class RopeChoice(NamedTuple):
    """The scaling that a model is run with, and why that one."""

    scaling: RopeScaling | None
    reason: str


def choose_rope(
    config: ModelConfig, release: str | None = None, factor: float | None = None
) -> RopeChoice:
    """The scaling for a model whose weights look like those of `release`, an id of the catalog.

    params.json says whether RoPE is scaled and not by how much; config.json says all of it.
    `factor` overrides everything.
    """
    usual = rope_scaling(config)
    if factor is not None:
        return RopeChoice((usual or RopeScaling(factor, 4.0))._replace(factor=factor), "as asked")
    if usual is None:
        return RopeChoice(None, f"{config.file} does not ask for it")
    if config.rope_scaling_factor is not None:
        field = "rope_scaling_factor" if config.file == PARAMS_FILE else "factor"
        return RopeChoice(usual, f"{field} in {config.file}")
    for beginning, known in HUB_FACTORS.items():
        if release and release.startswith(beginning):
            reason = (
                f"config.json of {beginning} on the Hugging Face hub; Meta's code has "
                f"{usual.factor:g}"
            )
            return RopeChoice(usual._replace(factor=known), reason)
    whose = release or "every Llama 3"
    return RopeChoice(usual, f"Meta's reference code, for {whose}")


def wavelengths(config: ModelConfig, scaling: RopeScaling | None = None) -> list[float]:
    """Tokens after which each pair of a head's numbers has turned once, fastest first."""
    pairs = config.head_dim // 2
    plain = [2 * math.pi * config.rope_theta ** (pair / pairs) for pair in range(pairs)]
    return plain if scaling is None else [_stretch(length, scaling) for length in plain]


def _stretch(wavelength: float, scaling: RopeScaling) -> float:
    if wavelength < scaling.kept_below:
        return wavelength
    if wavelength > scaling.stretched_above:
        return wavelength * scaling.factor
    share = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return wavelength / ((1 - share) / scaling.factor + share)
