"""Special tokens of each generation, and which one a directory's tokenizer belongs to.

Names and ids are those of Meta's code: `llama/tokenizer.py` of meta-llama/llama3 (3.0),
`models/llama3/tokenizer.py` and `models/llama4/tokenizer.py` of meta-llama/llama-models.
"""

import json

import pytest
from checkpoints import TINY, TINY_MOE
from small_tokenizers import LLAMA_3_PATTERN, LLAMA_4_PATTERN, RANKS, rank_file, real

from llamainspect.config import ModelConfig
from llamainspect.generations import LLAMA_3, LLAMA_3_1, LLAMA_4, choose_generation
from llamainspect.tokenizer import load_tokenizer
from llamainspect.vocab import describe_vocabulary

# By place behind the ranks: of the released files, 128,000 and 200,000 less than the id.
SPOTS_3 = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    2: "<|reserved_special_token_0|>",
    3: "<|reserved_special_token_1|>",
    4: "<|reserved_special_token_2|>",
    5: "<|reserved_special_token_3|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|reserved_special_token_4|>",
    9: "<|eot_id|>",
    10: "<|reserved_special_token_5|>",
    100: "<|reserved_special_token_95|>",
    255: "<|reserved_special_token_250|>",
}
SPOTS_3_1 = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    2: "<|reserved_special_token_0|>",
    3: "<|reserved_special_token_1|>",
    4: "<|finetune_right_pad_id|>",
    5: "<|step_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
    11: "<|image|>",
    12: "<|reserved_special_token_2|>",
    100: "<|reserved_special_token_90|>",
    255: "<|reserved_special_token_245|>",
}
SPOTS_4 = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    2: "<|fim_prefix|>",
    3: "<|fim_middle|>",
    4: "<|fim_suffix|>",
    5: "<|header_start|>",
    6: "<|header_end|>",
    7: "<|eom|>",
    8: "<|eot|>",
    9: "<|step|>",
    10: "<|text_post_train_reserved_special_token_0|>",
    15: "<|text_post_train_reserved_special_token_5|>",
    16: "<|python_start|>",
    17: "<|python_end|>",
    18: "<|finetune_right_pad|>",
    19: "<|text_post_train_reserved_special_token_8|>",
    79: "<|text_post_train_reserved_special_token_68|>",
    80: "<|image_start|>",
    81: "<|image_end|>",
    82: "<|vision_reserved_special_token_0|>",
    83: "<|vision_reserved_special_token_1|>",
    84: "<|tile_x_separator|>",
    85: "<|tile_y_separator|>",
    86: "<|vision_reserved_special_token_2|>",
    89: "<|vision_reserved_special_token_5|>",
    90: "<|image|>",
    91: "<|vision_reserved_special_token_6|>",
    92: "<|patch|>",
    93: "<|vision_reserved_special_token_7|>",
    1133: "<|vision_reserved_special_token_1047|>",
    1134: "<|reasoning_reserved_special_token_0|>",
    1141: "<|reasoning_reserved_special_token_7|>",
    1142: "<|reasoning_thinking_start|>",
    1143: "<|reasoning_thinking_end|>",
    1144: "<|reserved_special_token_0|>",
    2047: "<|reserved_special_token_903|>",
}
GENERATIONS = {
    "3.0": (LLAMA_3, SPOTS_3, 256),
    "3.1": (LLAMA_3_1, SPOTS_3_1, 256),
    "4": (LLAMA_4, SPOTS_4, 2048),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_special_tokens_stand_where_metas_code_puts_them(name):
    generation, spots, count = GENERATIONS[name]
    tokens = generation.special_tokens
    assert {place: tokens[place] for place in spots} == spots
    assert len(tokens) == len(set(tokens)) == count


@pytest.mark.parametrize("name", GENERATIONS)
def test_names_that_are_reserved_are_numbered_without_a_gap(name):
    """Each family of reserved names is 0, 1, 2, ... but for the two that got names in training."""
    families: dict[str, list[int]] = {}
    for token in GENERATIONS[name][0].special_tokens:
        if "reserved_special_token_" in token:
            family, _, number = token.strip("<|>").rpartition("_")
            families.setdefault(family, []).append(int(number))
    for family, numbers in families.items():
        skipped = {6, 7} if family.startswith("text_post_train") else set()
        assert numbers == [n for n in range(max(numbers) + 1) if n not in skipped]


def test_patterns_are_those_of_metas_code():
    assert LLAMA_3.pattern == LLAMA_3_1.pattern == LLAMA_3_PATTERN
    assert LLAMA_4.pattern == LLAMA_4_PATTERN


# --- which one ------------------------------------------------------------------------------------

VISION_ARGS = {
    "image_size": {"height": 336, "width": 336},
    "patch_size": {"height": 14, "width": 14},
    "dim": 1408,
    "n_layers": 34,
    "n_heads": 16,
    "mlp_ratio": 4.0,
    "output_dim": 4096,
    "pixel_shuffle_ratio": 0.5,
}
CROSS_ATTENTION = {"vision_num_cross_attention_layers": 8, "vision_chunk_size": 448}
# params.json (None: there is none), generation, reason
CHOICES = {
    "no params.json": (None, LLAMA_3_1, None),
    "no word of scaled RoPE": (TINY, LLAMA_3, "params.json does not ask for scaled RoPE"),
    "no scaled RoPE": (
        TINY | {"use_scaled_rope": False},
        LLAMA_3,
        "params.json does not ask for scaled RoPE",
    ),
    "scaled RoPE": (
        TINY | {"use_scaled_rope": True},
        LLAMA_3_1,
        "params.json asks for scaled RoPE",
    ),
    "experts": (TINY_MOE, LLAMA_4, "params.json has experts or an image encoder"),
    "an image encoder": (
        TINY | {"vision_args": VISION_ARGS},
        LLAMA_4,
        "params.json has experts or an image encoder",
    ),
    "cross-attention": (
        TINY | CROSS_ATTENTION,
        LLAMA_3_1,
        "params.json is of a vision model",
    ),
    "cross-attention and scaled RoPE": (
        TINY | CROSS_ATTENTION | {"use_scaled_rope": True},
        LLAMA_3_1,
        "params.json is of a vision model",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_params_json_tells_the_generation_and_the_report_says_how(name, tmp_path):
    params, generation, reason = CHOICES[name]
    (tmp_path / "tokenizer.model").write_bytes(rank_file())
    if params is not None:
        (tmp_path / "params.json").write_text(json.dumps(params))
    tokenizer = load_tokenizer(str(tmp_path))
    described = tokenizer.describe()
    assert (described.generation, described.reason) == (generation.name, reason)
    names = generation.special_tokens
    assert tokenizer.special_tokens == {name: RANKS + n for n, name in enumerate(names)}
    assert described.special_tokens == len(names)
    assert described.vocab_size == tokenizer.vocab_size == RANKS + len(names)
    assert described.base_tokens == RANKS
    assert (described.bos_id, described.eos_id) == (RANKS, RANKS + 1)
    assert tokenizer.codec.settings()["pattern"] == generation.pattern
    listed = describe_vocabulary(tokenizer, special=True)
    assert [row.text for row in listed.tokens] == list(names)
    assert [row.id for row in listed.tokens] == list(range(RANKS, tokenizer.vocab_size))
    assert {row.type for row in listed.tokens} == {"special"}


CONFIGS = {
    "none": None,
    "of Llama 3": ModelConfig.from_params(TINY),
    "of Llama 3.1": ModelConfig.from_params(TINY | {"use_scaled_rope": True}),
    "of Llama 4": ModelConfig.from_params(TINY_MOE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_size_of_llama_4s_file_tells_it_whatever_the_configuration_says(name):
    assert choose_generation(200_000, CONFIGS[name]) == (LLAMA_4, "200,000 ranks")


def test_the_size_of_llama_3s_file_is_none_of_llama_4():
    assert choose_generation(128_000, CONFIGS["of Llama 4"]) == (
        LLAMA_3_1,
        "params.json asks for scaled RoPE",
    )
    assert choose_generation(128_000, CONFIGS["of Llama 3"])[0] is LLAMA_3
    assert choose_generation(128_000, None) == (LLAMA_3_1, None)


def test_ranks_of_no_release_without_a_params_json_are_told(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(rank_file())
    (finding,) = load_tokenizer(str(tmp_path)).findings()
    assert (finding.severity, finding.where) == ("warning", "tokenizer.model")
    assert finding.message.startswith(f"{RANKS} ranks are those of no release, and no params.json")
    params = TINY | {"vocab_size": RANKS + 256}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert load_tokenizer(str(tmp_path)).findings() == []


@pytest.mark.parametrize("generation", ["llama3", "llama4"])
def test_a_released_file_by_itself_is_nothing_to_tell(generation):
    assert load_tokenizer(str(real(generation))).findings() == []


def test_a_params_json_that_cannot_be_read_is_the_reason(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(rank_file())
    (tmp_path / "params.json").write_bytes(b'{"dim": ')
    described = load_tokenizer(str(tmp_path)).describe()
    assert described.generation == LLAMA_3_1.name
    assert described.reason == "params.json cannot be read"


@pytest.mark.parametrize(
    ("generation", "spots", "first", "pattern"),
    [
        ("llama3", SPOTS_3_1, 128_000, LLAMA_3_PATTERN),
        ("llama4", SPOTS_4, 200_000, LLAMA_4_PATTERN),
    ],
)
def test_the_released_files_have_the_published_ids(generation, spots, first, pattern):
    tokenizer = load_tokenizer(str(real(generation)))
    assert {tokenizer.special_tokens[name] for name in spots.values()} == {
        first + place for place in spots
    }
    assert all(tokenizer.special_tokens[name] == first + place for place, name in spots.items())
    assert tokenizer.codec.settings()["pattern"] == pattern
