"""How each generation of Llama cuts and names tokens where its tokenizer file does not say it.

A tiktoken file holds ranks and nothing else: the pattern that splits a text into words and the
names of the special tokens stand in the code of the model. Sources: meta-llama/llama3
`llama/tokenizer.py` (3.0), meta-llama/llama-models `models/llama3/tokenizer.py` (3.1 and later) and
`models/llama4/tokenizer.py`.
"""

from typing import NamedTuple

from llamainspect.config import ModelConfig


class Generation(NamedTuple):
    """What the code of a model adds to the ranks in its file."""

    name: str
    pattern: str  # a regular expression whose matches are encoded one by one
    special_tokens: tuple[str, ...]  # their ids follow the ranks, in this order


LLAMA_3_RANKS, LLAMA_4_RANKS = 128_000, 200_000  # in the released files
RELEASED_RANKS = frozenset((LLAMA_3_RANKS, LLAMA_4_RANKS))
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"  # of both

# What the code of Code Llama looks for among the pieces of its SentencePiece file
# (meta-llama/codellama `llama/tokenizer.py`): prefix, suffix, middle, end of the middle.
INFILLING_TOKENS = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
STEP_TOKEN = "<step>"  # ends each turn of Code Llama 70B Instruct


def choose_generation(
    base_tokens: int, config: ModelConfig | None
) -> tuple[Generation, str | None]:
    """The generation that a file of `base_tokens` ranks belongs to, and what tells it.

    Llama 3.0 and its successors share one file; the configuration tells them apart. Without one the
    names are those of 3.1, and the reason is None.
    """
    if base_tokens == LLAMA_4_RANKS:
        return LLAMA_4, f"{base_tokens:,} ranks"
    if config is None:
        return LLAMA_3_1, None
    if base_tokens != LLAMA_3_RANKS and (config.moe or config.vision):
        return LLAMA_4, f"{config.file} has experts or an image encoder"
    if config.cross_attention or config.vision:
        return LLAMA_3_1, f"{config.file} is of a vision model"
    if config.use_scaled_rope:
        return LLAMA_3_1, f"{config.file} asks for scaled RoPE"
    return LLAMA_3, f"{config.file} does not ask for scaled RoPE"


def _reserved(numbers: range, name: str = "") -> tuple[str, ...]:
    return tuple(f"<|{name}reserved_special_token_{number}|>" for number in numbers)


_LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Words end where a capital follows a small letter, and a contraction belongs to its word.
_LLAMA_4_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA_3 = Generation(
    "Llama 3.0",
    _LLAMA_3_PATTERN,
    (
        BEGIN,
        END,
        *_reserved(range(4)),
        "<|start_header_id|>",
        "<|end_header_id|>",
        *_reserved(range(4, 5)),
        "<|eot_id|>",
        *_reserved(range(5, 251)),
    ),
)
LLAMA_3_1 = Generation(
    "Llama 3.1 and later",
    _LLAMA_3_PATTERN,
    (
        BEGIN,
        END,
        *_reserved(range(2)),
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|image|>",
        *_reserved(range(2, 246)),
    ),
)
LLAMA_4 = Generation(
    "Llama 4",
    _LLAMA_4_PATTERN,
    (
        BEGIN,
        END,
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        # text, 200005 to 200079
        "<|header_start|>",
        "<|header_end|>",
        "<|eom|>",
        "<|eot|>",
        "<|step|>",
        *_reserved(range(6), "text_post_train_"),
        "<|python_start|>",
        "<|python_end|>",
        "<|finetune_right_pad|>",
        *_reserved(range(8, 69), "text_post_train_"),
        # images, 200080 to 201133
        "<|image_start|>",
        "<|image_end|>",
        *_reserved(range(2), "vision_"),
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
        *_reserved(range(2, 6), "vision_"),
        "<|image|>",
        *_reserved(range(6, 7), "vision_"),
        "<|patch|>",
        *_reserved(range(7, 1048), "vision_"),
        # reasoning, 201134 to 201143
        *_reserved(range(8), "reasoning_"),
        "<|reasoning_thinking_start|>",
        "<|reasoning_thinking_end|>",
        *_reserved(range(904)),
    ),
)
