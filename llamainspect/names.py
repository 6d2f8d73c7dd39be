"""What a tensor's name says: its layer and the component of the model it belongs to.

Names are Meta's. Sources: the state dicts of meta-llama/llama, llama3 and llama-models
(llama3/multimodal/model.py, llama4/model.py, llama4/moe.py with their load hooks).
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

LAYER = re.compile(r"(?:^|\.)(?:layers|cross_attention_layers|resblocks)\.(\d{1,5})(?=\.)")

COMPONENTS = (
    "token_embedding",
    "attention",
    "cross_attention",
    "feed_forward",
    "shared_experts",
    "experts",
    "router",
    "norms",
    "output",
    "vision",
    "adapters",
    "scales",
    "buffers",
    "other",
)


# First match wins: (how the text is looked for, any of these texts, component).
_COMPONENT_RULES: tuple[tuple[Callable[[str, str], bool], tuple[str, ...], str], ...] = (
    (str.endswith, ("rope.freqs", "freqs_cis", "_extra_state", ".inv_freq"), "buffers"),
    (str.endswith, ("expert_activation_DE", "gate_stats_3E"), "buffers"),
    (str.__contains__, (".adaptor.A.", ".adaptor.B.", ".lora_A.", ".lora_B."), "adapters"),
    (str.endswith, (".scales", ".zeros"), "scales"),
    # What libraries on the hub keep beside quantised weights: GPTQ and AWQ; FP8; bitsandbytes.
    (
        str.endswith,
        (
            ".qzeros",
            ".g_idx",
            ".weight_scale",
            ".input_scale",
            ".weight_scale_inv",
            ".weight_zero_point",
            ".weight_shape",
            ".SCB",
        ),
        "scales",
    ),
    (str.__contains__, (".weight.absmax", ".weight.nested_", ".weight.quant_"), "scales"),
    (str.startswith, ("vision_model.", "vision_embeddings.", "vision_projection."), "vision"),
    (str.__contains__, ("cross_attention_layers.",), "cross_attention"),
    (str.endswith, ("norm.weight", ".layer_norm_weight"), "norms"),
    (str.__contains__, (".attention.",), "attention"),
    (str.__contains__, (".feed_forward.experts.",), "experts"),
    (str.endswith, (".feed_forward.router_DE",), "router"),
    (str.__contains__, ("_shared_FD.", "_shared_DF.", ".w_swiglu_FD."), "shared_experts"),
    (str.__contains__, (".shared_expert.",), "shared_experts"),
    (str.__contains__, (".feed_forward.",), "feed_forward"),
    (str.__contains__, ("tok_embeddings.", "learnable_embedding."), "token_embedding"),
    (str.endswith, ("output.weight",), "output"),
    # Names of other architectures, which Hugging Face's layout can hold too.
    (str.__contains__, (".self_attn.", ".attn."), "attention"),
    (str.__contains__, (".mlp.experts.", ".block_sparse_moe.experts."), "experts"),
    (str.__contains__, (".mlp.", ".block_sparse_moe."), "feed_forward"),
    (str.__contains__, ("embed_tokens.", "wte."), "token_embedding"),
    (str.endswith, ("lm_head.weight",), "output"),
)
_COMPONENT_TESTS = tuple(
    (matches, text, component) for matches, texts, component in _COMPONENT_RULES for text in texts
)

# Not weights of the model: no parameter count includes them.
NOT_PARAMETERS = frozenset({"buffers", "scales", "adapters"})


def layer_of(name: str) -> int | None:
    """Number of the text layer; None for what belongs to none (vision, the ends)."""
    found = LAYER.search(name)
    is_text = (
        found and found[0].lstrip(".").startswith("layers.") and not name.startswith("vision_")
    )
    return int(found[1]) if found and is_text else None


def component_of(name: str) -> str:
    """One of COMPONENTS."""
    return _component_of_pattern(layer_pattern(name)[0])


# A hostile file can hold half a million names, each of a pattern of its own and asked for often.
@lru_cache(maxsize=2**16)
def _component_of_pattern(name: str) -> str:
    for matches, text, component in _COMPONENT_TESTS:  # one loop: a file may have 200,000 patterns
        if matches(name, text):
            return component
    return "other"


def layer_pattern(name: str) -> tuple[str, int | None]:
    """The name with {} for its layer number, and that number."""
    found = LAYER.search(name)
    if not found:
        return name, None
    return f"{name[: found.start(1)]}{{}}{name[found.end(1) :]}", int(found[1])


def compress(names: list[str]) -> list[str]:
    """Names that differ in the layer number alone as one: layers.{0-3,7}.attention.wq.weight."""
    layers: dict[str, list[int]] = {}
    for name in names:
        pattern, layer = layer_pattern(name)
        layers.setdefault(pattern, []).extend([] if layer is None else [layer])
    return [
        pattern.replace("{}", _ranges(numbers), 1) if numbers else pattern
        for pattern, numbers in layers.items()
    ]


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 7 as {0-2,7}; a single number bare."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return text if len(runs) == 1 and runs[0][0] == runs[0][1] else f"{{{text}}}"


def counted(number: int, noun: str) -> str:
    """1 shard, 2 shards."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listing(names: Sequence[str], limit: int = 3) -> str:
    """The first names and how many more: "a, b, c and 4 more"."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: layers.2 before layers.10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in name.split(".")]
