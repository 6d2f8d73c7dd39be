"""params.json of every generation, and what strangers write into one."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from changes import any_change

from llamainspect.config import ModelConfig, ffn_hidden_dim
from llamainspect.errors import CorruptFile
from llamainspect.formats import meta
from llamainspect.sources import Folder

# params.json as the releases have them and as their readers quote them.
LLAMA_1_7B = {
    "dim": 4096,
    "multiple_of": 256,
    "n_heads": 32,
    "n_layers": 32,
    "norm_eps": 1e-06,
    "vocab_size": -1,
}
LLAMA_2_7B = LLAMA_1_7B | {"norm_eps": 1e-05}
LLAMA_2_70B = {
    "dim": 8192,
    "multiple_of": 4096,
    "ffn_dim_multiplier": 1.3,
    "n_heads": 64,
    "n_kv_heads": 8,
    "n_layers": 80,
    "norm_eps": 1e-05,
    "vocab_size": -1,
}
CODE_LLAMA_34B = {
    "dim": 8192,
    "n_layers": 48,
    "n_heads": 64,
    "n_kv_heads": 8,
    "multiple_of": 256,
    "ffn_dim_multiplier": 1.0,
    "norm_eps": 1e-5,
    "rope_theta": 1000000,
    "vocab_size": 32000,
}
LLAMA_3_8B = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
LLAMA_3_1_8B = LLAMA_3_8B | {"use_scaled_rope": True}
LLAMA_3_2_1B = {
    "dim": 2048,
    "ffn_dim_multiplier": 1.5,
    "multiple_of": 256,
    "n_heads": 32,
    "n_kv_heads": 8,
    "n_layers": 16,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "vocab_size": 128256,
}
LLAMA_3_2_1B_QLORA = LLAMA_3_2_1B | {
    "quantization_args": {"group_size": 32, "scheme": "int8_dynamic_activation_int4_weight"},
    "lora_args": {"rank": 16, "scale": 2.0},
}
LLAMA_3_2_11B_VISION = LLAMA_3_1_8B | {
    "vision_chunk_size": 448,
    "vision_max_num_chunks": 4,
    "vision_num_cross_attention_layers": 8,
}
LLAMA_4_SCOUT = {
    "dim": 5120,
    "n_layers": 48,
    "n_heads": 40,
    "n_kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 202048,
    "multiple_of": 2048,
    "ffn_dim_multiplier": 1.2,
    "ffn_exp": 4.0,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
    "use_qk_norm": True,
    "nope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "moe_args": {
        "num_experts": 16,
        "capacity_factor": 1.0,
        "auto_scale_F": True,
        "top_k": 1,
        "interleave_moe_layer_step": 1,
    },
    "vision_args": {
        "image_size": {"height": 336, "width": 336},
        "patch_size": {"height": 14, "width": 14},
        "dim": 1408,
        "n_layers": 34,
        "n_heads": 16,
        "mlp_ratio": 4.0,
        "output_dim": 4096,
        "pixel_shuffle_ratio": 0.5,
    },
}
RELEASED = {
    "Llama 1 7B": LLAMA_1_7B,
    "Llama 2 7B": LLAMA_2_7B,
    "Llama 2 70B": LLAMA_2_70B,
    "Code Llama 34B": CODE_LLAMA_34B,
    "Llama 3 8B": LLAMA_3_8B,
    "Llama 3.1 8B": LLAMA_3_1_8B,
    "Llama 3.2 1B": LLAMA_3_2_1B,
    "Llama 3.2 1B QLoRA": LLAMA_3_2_1B_QLORA,
    "Llama 3.2 11B Vision": LLAMA_3_2_11B_VISION,
    "Llama 4 Scout": LLAMA_4_SCOUT,
}


def read(params: Any, directory: Path) -> ModelConfig:
    """Through the file, as a person's params.json comes."""
    text = params if isinstance(params, str) else json.dumps(params)
    (directory / "params.json").write_text(text)
    return meta.read_config(Folder(str(directory)))


# --- the releases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head_dim", "n_kv_heads", "hidden_dim", "vocab_size", "rope_theta"),
    [
        ("Llama 1 7B", 128, 32, 11008, None, 10_000.0),
        ("Llama 2 7B", 128, 32, 11008, None, 10_000.0),
        ("Llama 2 70B", 128, 8, 28672, None, 10_000.0),
        ("Code Llama 34B", 128, 8, 22016, 32000, 1_000_000.0),
        ("Llama 3 8B", 128, 8, 14336, 128256, 500_000.0),
        ("Llama 3.1 8B", 128, 8, 14336, 128256, 500_000.0),
        ("Llama 3.2 1B", 64, 8, 8192, 128256, 500_000.0),
        ("Llama 3.2 1B QLoRA", 64, 8, 8192, 128256, 500_000.0),
        ("Llama 3.2 11B Vision", 128, 8, 14336, 128256, 500_000.0),
        ("Llama 4 Scout", 128, 8, 16384, 202048, 500_000.0),
    ],
)
def test_what_a_release_leaves_out_is_completed(
    name: str,
    head_dim: int,
    n_kv_heads: int,
    hidden_dim: int,
    vocab_size: int | None,
    rope_theta: float,
    tmp_path: Path,
) -> None:
    params, config = RELEASED[name], read(RELEASED[name], tmp_path)
    assert config.head_dim == head_dim
    assert config.n_kv_heads == n_kv_heads
    assert config.hidden_dim == hidden_dim
    assert config.vocab_size == vocab_size
    assert config.rope_theta == rope_theta
    for key in ("dim", "n_layers", "n_heads", "norm_eps", "multiple_of"):
        assert getattr(config, key) == params[key]
    assert config.ffn_dim_multiplier == params.get("ffn_dim_multiplier")
    assert config.use_scaled_rope == params.get("use_scaled_rope", False)
    assert config.unknown is None


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Llama 3 8B", set()),
        ("Llama 3.2 1B QLoRA", {"quantization", "lora"}),
        ("Llama 3.2 11B Vision", {"cross_attention"}),
        ("Llama 4 Scout", {"moe", "vision"}),
    ],
)
def test_the_parts_a_model_has_are_there_and_no_others(
    name: str, fields: set[str], tmp_path: Path
) -> None:
    config = read(RELEASED[name], tmp_path)
    parts = {"moe", "vision", "cross_attention", "quantization", "lora"}
    assert {part for part in parts if getattr(config, part) is not None} == fields


def test_the_experts_of_llama_4_are_read(tmp_path: Path) -> None:
    config = read(LLAMA_4_SCOUT, tmp_path)
    assert config.moe is not None
    assert (config.moe.num_experts, config.moe.top_k) == (16, 1)
    assert config.moe.hidden_dim == 8192  # published: half of the dense 16384, with top_k 1
    assert config.moe.interleave_moe_layer_step == 1
    assert (config.use_qk_norm, config.nope_layer_interval) == (True, 4)
    assert (config.attention_chunk_size, config.ffn_exp) == (8192, 4.0)


def test_experts_without_auto_scaling_are_as_wide_as_the_dense_layer(tmp_path: Path) -> None:
    params = LLAMA_4_SCOUT | {"moe_args": {"num_experts": 16, "auto_scale_F": False}}
    config = read(params, tmp_path)
    assert config.moe is not None
    assert config.moe.hidden_dim == 16384


def test_the_image_encoder_of_llama_4_is_read(tmp_path: Path) -> None:
    vision = read(LLAMA_4_SCOUT, tmp_path).vision
    assert vision is not None
    assert (vision.image_size, vision.patch_size) == ((336, 336), (14, 14))
    assert (vision.dim, vision.n_layers, vision.n_heads) == (1408, 34, 16)
    assert (vision.mlp_ratio, vision.output_dim, vision.pixel_shuffle_ratio) == (4.0, 4096, 0.5)


def test_the_cross_attention_of_llama_3_2_vision_is_read(tmp_path: Path) -> None:
    cross = read(LLAMA_3_2_11B_VISION, tmp_path).cross_attention
    assert cross is not None
    assert (cross.n_layers, cross.chunk_size, cross.max_num_chunks) == (8, 448, 4)


def test_minus_one_cross_attention_layers_are_none(tmp_path: Path) -> None:
    """The default in Meta's code for text models."""
    params = LLAMA_3_1_8B | {"vision_chunk_size": -1, "vision_num_cross_attention_layers": -1}
    config = read(params, tmp_path)
    assert config.cross_attention is None
    assert config.unknown is None


def test_quantisation_and_adapters_are_read(tmp_path: Path) -> None:
    config = read(LLAMA_3_2_1B_QLORA, tmp_path)
    assert config.quantization is not None
    assert config.lora is not None
    assert config.quantization.scheme == "int8_dynamic_activation_int4_weight"
    assert (config.quantization.group_size, config.quantization.spinquant) == (32, False)
    assert (config.lora.rank, config.lora.scale) == (16, 2.0)


def test_everything_may_be_wrapped_in_model_as_llama_4_has_it(tmp_path: Path) -> None:
    assert read({"model": LLAMA_4_SCOUT}, tmp_path) == read(LLAMA_4_SCOUT, tmp_path)


def test_settings_of_the_serving_code_are_no_unknown_keys(tmp_path: Path) -> None:
    params = LLAMA_3_8B | {"max_batch_size": 32, "max_seq_len": 2048}
    assert read(params, tmp_path) == read(LLAMA_3_8B, tmp_path)


# dim, ffn_dim_multiplier, multiple_of and the published width of the feed-forward.
FEED_FORWARDS = [
    ("llama-1-7b", 4096, None, 256, 11008),
    ("llama-1-13b", 5120, None, 256, 13824),
    ("llama-1-30b", 6656, None, 256, 17920),
    ("llama-1-65b", 8192, None, 256, 22016),
    ("llama-2-7b", 4096, None, 256, 11008),
    ("llama-2-13b", 5120, None, 256, 13824),
    ("llama-2-70b", 8192, 1.3, 4096, 28672),
    ("codellama-7b", 4096, 1.0, 256, 11008),
    ("codellama-13b", 5120, 1.0, 256, 13824),
    ("codellama-34b", 8192, 1.0, 256, 22016),
    ("codellama-70b", 8192, 1.3, 4096, 28672),
    ("llama-3-8b", 4096, 1.3, 1024, 14336),
    ("llama-3-70b", 8192, 1.3, 4096, 28672),
    ("llama-3.1-405b", 16384, 1.2, 4096, 53248),
    ("llama-3.2-1b", 2048, 1.5, 256, 8192),
    ("llama-3.2-3b", 3072, 1.0, 256, 8192),
    ("llama-4-scout", 5120, 1.2, 2048, 16384),
    ("mini-llama-110m", 768, None, 256, 2048),
]


@pytest.mark.parametrize(
    ("dim", "multiplier", "multiple_of", "width"),
    [row[1:] for row in FEED_FORWARDS],
    ids=[row[0] for row in FEED_FORWARDS],
)
def test_feed_forwards_are_as_wide_as_published(
    dim: int, multiplier: float | None, multiple_of: int, width: int
) -> None:
    assert ffn_hidden_dim(4 * dim, multiplier, multiple_of) == width


def test_a_width_that_is_a_multiple_already_is_not_rounded_up() -> None:
    assert ffn_hidden_dim(3 * 512, None, 1024) == 1024
    assert ffn_hidden_dim(3 * 512 + 3, None, 1024) == 2048


# --- what strangers write ------------------------------------------------------------------------


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in LLAMA_3_8B.items() if name != key}


def with_moe(**args: Any) -> dict[str, Any]:
    return LLAMA_4_SCOUT | {"moe_args": {"num_experts": 16} | args}


def with_vision(**args: Any) -> dict[str, Any]:
    return LLAMA_4_SCOUT | {"vision_args": LLAMA_4_SCOUT["vision_args"] | args}


INTEGERS = ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "head_dim")
NUMBERS = ("norm_eps", "rope_theta", "ffn_dim_multiplier", "ffn_exp", "rope_scaling_factor")
BOOLEANS = ("use_scaled_rope", "use_qk_norm", "attn_temperature_tuning")
GROUPS = ("moe_args", "vision_args", "quantization_args", "lora_args")

WRONG: list[tuple[Any, str]] = [
    *((without(key), key) for key in ("dim", "n_layers", "n_heads")),
    *((LLAMA_3_8B | {key: None}, key) for key in ("dim", "n_layers", "n_heads")),
    *(
        (LLAMA_3_8B | {key: value}, key)
        for key in INTEGERS
        for value in (True, False, "8", 8.5, 0, -2, [8], {}, 2**31 + 1, 10**30, 1e30)
    ),
    *(
        (LLAMA_3_8B | {key: value}, key)
        for key in NUMBERS
        for value in (True, "1e-05", [1.0], {}, 0, -1.0, 1e300, 10**400)
    ),
    *(
        (LLAMA_3_8B | {key: value}, key)
        for key in BOOLEANS
        for value in (0, 1, "true", 1.0, [True], {})
    ),
    *((LLAMA_3_8B | {key: value}, key) for key in GROUPS for value in (1, True, "x", [1], [{}])),
    (LLAMA_3_8B | {"n_heads": 33}, "n_heads"),
    (LLAMA_3_8B | {"dim": 2**17, "n_heads": 1}, "n_heads"),
    (LLAMA_3_8B | {"head_dim": 2**16 + 1}, "head_dim"),
    (LLAMA_3_8B | {"n_kv_heads": 5}, "n_kv_heads"),
    (LLAMA_3_8B | {"n_kv_heads": 64}, "n_kv_heads"),
    (LLAMA_3_8B | {"n_layers": 1001}, "n_layers"),
    (LLAMA_3_8B | {"vision_num_cross_attention_layers": -2}, "vision_num_cross_attention_layers"),
    (with_moe(num_experts=None), "moe_args.num_experts"),
    (with_moe(num_experts=10**6), "moe_args.num_experts"),
    (with_moe(num_experts=True), "moe_args.num_experts"),
    (with_moe(top_k=17), "moe_args.top_k"),
    (with_moe(top_k="1"), "moe_args.top_k"),
    (with_moe(capacity_factor="1"), "moe_args.capacity_factor"),
    (with_moe(auto_scale_F=1), "moe_args.auto_scale_F"),
    (with_moe(interleave_moe_layer_step=0), "moe_args.interleave_moe_layer_step"),
    (with_vision(dim=None), "vision_args.dim"),
    (with_vision(image_size=336), "vision_args.image_size"),
    (with_vision(image_size=None), "vision_args.image_size"),
    (with_vision(patch_size={"height": 14}), "vision_args.patch_size.width"),
    (with_vision(patch_size={"height": 14, "width": 14.5}), "vision_args.patch_size.width"),
    (LLAMA_3_2_1B_QLORA | {"lora_args": {}}, "lora_args.rank"),
    (LLAMA_3_2_1B_QLORA | {"lora_args": {"rank": -1}}, "lora_args.rank"),
    (LLAMA_3_8B | {"quantization_args": {"scheme": 4}}, "quantization_args.scheme"),
    (LLAMA_3_8B | {"quantization_args": {"group_size": "32"}}, "quantization_args.group_size"),
]


@pytest.mark.parametrize(("params", "key"), WRONG)
def test_a_wrong_value_gets_a_sentence_that_names_the_file_and_the_key(
    params: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptFile, match=rf"^params\.json: {key}: .*compare the file") as caught:
        read(params, tmp_path)
    assert len(str(caught.value)) < 250


def test_the_sentence_about_a_wrong_value_shows_the_value(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"whole number.*'4096'"):
        read(LLAMA_3_8B | {"dim": "4096"}, tmp_path)
    with pytest.raises(CorruptFile, match="33 does not divide dim 4096"):
        read(LLAMA_3_8B | {"n_heads": 33}, tmp_path)


def test_the_sentence_about_a_very_long_value_stays_short(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile) as caught:
        read(LLAMA_3_8B | {"dim": "9" * 100_000}, tmp_path)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("key", ["dim", "norm_eps", "rope_theta", "ffn_dim_multiplier"])
def test_numbers_that_are_none_do_not_get_through(key: str, text: str, tmp_path: Path) -> None:
    params = json.dumps(LLAMA_3_8B | {key: "HERE"}).replace('"HERE"', text)
    with pytest.raises(CorruptFile, match=r"^params\.json: .*" + text.replace("+", "")):
        read(params, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["dim", "n_layers", "vocab_size", "norm_eps", "rope_theta"])
def test_not_even_from_a_dictionary(key: str, value: float) -> None:
    with pytest.raises(CorruptFile, match=rf"^params\.json: {key}: "):
        ModelConfig.from_params(LLAMA_3_8B | {key: value})


def test_an_integer_of_thousands_of_digits_does_not_get_through(tmp_path: Path) -> None:
    params = json.dumps(LLAMA_3_8B | {"dim": "HERE"}).replace('"HERE"', "1" * 4000)
    with pytest.raises(CorruptFile, match=r"^params\.json: dim: .*out of range"):
        read(params, tmp_path)


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    config = read(LLAMA_3_8B | {"dim": 4096.0, "n_layers": 32.0}, tmp_path)
    assert config == read(LLAMA_3_8B, tmp_path)
    assert type(config.dim) is int


def test_null_is_the_same_as_leaving_out(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("n_kv_heads", "ffn_dim_multiplier", "moe_args", "use_qk_norm"))
    assert read(LLAMA_1_7B | nothing, tmp_path) == read(LLAMA_1_7B, tmp_path)


def test_unknown_keys_are_kept_with_the_group_they_stand_in(tmp_path: Path) -> None:
    params = with_moe(router="new") | {"attention_bias": True, "window": 4096, "scale": 0.5}
    params["vision_args"] = params["vision_args"] | {"colour": 1}
    params["vision_args"]["image_size"] = {"height": 336, "width": 336, "depth": 3}
    assert read(params, tmp_path).unknown == {
        "attention_bias": True,
        "window": 4096,
        "scale": 0.5,
        "moe_args.router": "new",
        "vision_args.colour": 1,
        "vision_args.image_size.depth": 3,
    }


def test_of_unknown_lists_and_objects_the_key_is_kept(tmp_path: Path) -> None:
    unknown = read(LLAMA_3_8B | {"extra": {"a": 1}, "list": [1, 2]}, tmp_path).unknown
    assert unknown is not None
    assert set(unknown) == {"extra", "list"}


def test_thousands_of_keys_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^params\.json: it has 1,001 keys that no config"):
        read(LLAMA_3_8B | {f"key {number}": number for number in range(1_001)}, tmp_path)


def test_an_empty_object_names_the_first_thing_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^params\.json: dim: it is missing"):
        read({}, tmp_path)


def test_the_largest_numbers_that_pass_make_no_number_that_overflows(tmp_path: Path) -> None:
    top = {"dim": 2**31, "n_heads": 2**15, "n_layers": 1000, "ffn_dim_multiplier": 1e12}
    config = read(top, tmp_path)
    assert config.hidden_dim > 0
    json.dumps(config.hidden_dim, allow_nan=False)


def test_the_file_in_the_sentence_is_the_one_that_was_read() -> None:
    with pytest.raises(CorruptFile, match=r"^other\.json: dim: "):
        ModelConfig.from_params({}, "other.json")


test_any_change_to_params_json_is_described_or_refused = any_change("params", 60)
