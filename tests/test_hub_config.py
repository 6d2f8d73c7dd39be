"""config.json of Hugging Face's layout: fields, both spellings, defaults, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from changes import any_change
from checkpoints import TINY, TINY_HIDDEN, TINY_MOE, dense_shapes, random_weights
from hub_layout import SCALED, hub_config, hub_config_moe, to_hub, write_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Llama4TextConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from llamainspect import (
    CorruptFile,
    LlamaInspectError,
    ModelConfig,
    RunOptions,
    UnsupportedFile,
    explain_model,
    find_subject,
    load_model,
    open_checkpoint,
    summarize,
)
from llamainspect.config import CrossAttentionConfig, MoEConfig, QuantizationConfig, VisionConfig
from llamainspect.hub_config import config_from_hub
from llamainspect.rope import choose_rope, rope_scaling, wavelengths

transformers.utils.logging.set_verbosity_error()

# As little as describes a model.
LEAST = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 128,
}
LEAST_4 = LEAST | {"model_type": "llama4_text"}
LEAST_M = LEAST | {"model_type": "mllama_text_model", "cross_attention_layers": [1]}
VISION = {
    "hidden_size": 32,
    "image_size": 56,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "vision_output_dim": 40,
}


# --- what a file says -----------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [4, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_dense_model_is_that_of_its_params_json(spelling, scaled):
    params = TINY | {"use_scaled_rope": scaled}
    ours = ModelConfig.from_params(params)
    found = config_from_hub(hub_config(params, TINY_HIDDEN, spelling=spelling))
    assert found._replace(
        file=ours.file,
        context_length=None,
        multiple_of=32,  # which stays unsaid where the width itself is said
        rope_scaling_factor=None,
        rope_high_freq_factor=None,
        rope_low_freq_factor=None,
        rope_original_context=None,
    ) == ours._replace(unknown=None)
    assert found.context_length == (131072 if scaled else 8192)
    assert rope_scaling(found) == rope_scaling(ours)
    assert wavelengths(found, rope_scaling(found)) == wavelengths(ours, rope_scaling(ours))


@pytest.mark.parametrize("spelling", [4, 5])
def test_a_routed_model_is_that_of_its_params_json(spelling):
    ours = ModelConfig.from_params(TINY_MOE)
    found = config_from_hub(hub_config_moe(TINY_MOE, spelling=spelling))
    assert found.moe == MoEConfig(4, 1, 128, 2)
    assert (found.moe.num_experts, found.moe.hidden_dim) == (4, ours.moe.hidden_dim)
    for field in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim",
                  "vocab_size", "norm_eps", "rope_theta", "use_scaled_rope", "use_qk_norm",
                  "nope_layer_interval", "attention_chunk_size", "attn_temperature_tuning",
                  "tied_output", "vision", "cross_attention"):  # fmt: skip
        assert getattr(found, field) == getattr(ours, field), field
    assert (found.floor_scale, found.attn_scale) == (8192.0, 0.1)
    assert rope_scaling(found) == rope_scaling(ours)
    assert found.unknown is None


FIELDS = {
    "hidden_size": (128, "dim", 128),
    "num_hidden_layers": (7, "n_layers", 7),
    "num_attention_heads": (8, "n_heads", 8),
    "num_key_value_heads": (2, "n_kv_heads", 2),
    "head_dim": (48, "head_dim", 48),
    "intermediate_size": (100, "hidden_dim", 100),
    "vocab_size": (99, "vocab_size", 99),
    "rms_norm_eps": (1e-4, "norm_eps", 1e-4),
    "rope_theta": (1234.5, "rope_theta", 1234.5),
    "tie_word_embeddings": (True, "tied_output", True),
    "max_position_embeddings": (4096, "context_length", 4096),
    "attention_bias": (True, "attention_bias", True),
    "mlp_bias": (True, "mlp_bias", True),
    "hidden_act": ("gelu", "hidden_act", "gelu"),
}


@pytest.mark.parametrize("key", FIELDS)
def test_each_field_is_read(key):
    value, field, expected = FIELDS[key]
    found = config_from_hub(LEAST | {key: value})
    assert getattr(found, field) == expected
    assert found.unknown is None
    usual = config_from_hub(LEAST)
    changed = {name for name, a in found._asdict().items() if a != getattr(usual, name)}
    follows = {"hidden_size": {"head_dim"}, "num_attention_heads": {"head_dim", "n_kv_heads"}}
    assert changed == {field} | follows.get(key, set())


def test_what_is_not_written_is_what_transformers_takes_it_for():
    found, there = config_from_hub(LEAST), LlamaConfig(**LEAST)
    assert found.n_kv_heads == there.num_key_value_heads == 4
    assert found.head_dim == there.head_dim == 16
    assert found.norm_eps == there.rms_norm_eps == 1e-6
    assert found.rope_theta == there.rope_parameters["rope_theta"] == 10000.0
    assert found.tied_output is there.tie_word_embeddings is False
    assert found.attention_bias is there.attention_bias is False
    assert found.mlp_bias is there.mlp_bias is False
    assert found.hidden_act == there.hidden_act == "silu"
    assert (found.use_scaled_rope, found.rope_type, found.moe) == (False, None, None)


def test_what_is_not_written_of_llama_4_is_what_transformers_takes_it_for():
    found, there = config_from_hub(LEAST_4), Llama4TextConfig(**LEAST_4)
    assert found.head_dim == there.head_dim == 128
    assert found.moe.num_experts == there.num_local_experts == 16
    assert found.moe.top_k == there.num_experts_per_tok == 1
    assert found.moe.interleave_moe_layer_step == there.interleave_moe_layer_step == 1
    assert found.attention_chunk_size == there.attention_chunk_size == 8192
    assert found.use_qk_norm is there.use_qk_norm is True
    assert found.attn_temperature_tuning is there.attn_temperature_tuning is True
    assert found.rope_theta == there.rope_parameters["rope_theta"] == 500000.0
    assert found.nope_layer_interval == 4
    assert there.no_rope_layers == [1, 1]  # the fourth would be 0
    assert found.tied_output is there.tie_word_embeddings is False


def test_the_norm_of_later_models_that_is_not_written_is_what_transformers_takes_it_for():
    there = MllamaTextConfig(**LEAST_M, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    assert config_from_hub(LEAST_M).norm_eps == there.rms_norm_eps == 1e-5
    assert config_from_hub(LEAST_4).norm_eps == Llama4TextConfig(**LEAST_4).rms_norm_eps == 1e-5


def test_what_is_not_written_of_llama_3_2_vision_is_what_transformers_takes_it_for():
    found = config_from_hub(LEAST_M)
    there = MllamaTextConfig(**LEAST_M, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    assert found.rope_theta == there.rope_parameters["rope_theta"] == 500000.0
    assert found.tied_output is there.tie_word_embeddings is False
    assert (found.n_layers, found.cross_attention_layers) == (1, (1,))


def test_the_width_of_dense_layers_that_is_not_written_is_what_transformers_takes_it_for():
    there = Llama4TextConfig(**LEAST_4)
    assert config_from_hub(LEAST_4).hidden_dim == there.intermediate_size_mlp == 16384


def test_a_null_is_as_good_as_nothing():
    optional = ("num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters", "rope_theta",
                "tie_word_embeddings", "max_position_embeddings", "attention_bias", "mlp_bias",
                "hidden_act", "rms_norm_eps", "quantization_config", "pretraining_tp",
                "vision_config", "text_config")  # fmt: skip
    assert config_from_hub(LEAST | dict.fromkeys(optional)) == config_from_hub(LEAST)


@pytest.mark.parametrize("key", sorted(LEAST.keys() - {"model_type"}))
def test_a_key_that_is_missing_is_named(key):
    raw = {name: value for name, value in LEAST.items() if name != key}
    if key == "vocab_size":
        with pytest.raises(CorruptFile, match=r"^config\.json: vocab_size: it is missing"):
            config_from_hub(raw)
        return
    with pytest.raises(CorruptFile, match=rf"^config\.json: {key}: it is missing"):
        config_from_hub(raw)


NUMBERS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings"]  # fmt: skip


@pytest.mark.parametrize("value", ["64", True, [64], {"a": 64}, 64.5, 0, -64, 2**31 + 1, 10**30])
@pytest.mark.parametrize("key", NUMBERS)
def test_what_is_no_whole_number_is_named(key, value):
    with pytest.raises(CorruptFile, match=rf"^config\.json: {key}: "):
        config_from_hub(LEAST | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", "1e-5"),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", [1e-5]),
        ("rope_theta", "10000"),
        ("rope_theta", -1),
        ("rope_theta", True),
        ("tie_word_embeddings", "false"),
        ("tie_word_embeddings", 0),
        ("attention_bias", 1),
        ("mlp_bias", "no"),
        ("hidden_act", 5),
        ("rope_scaling", "linear"),
        ("rope_scaling", ["linear"]),
        ("rope_parameters", 8),
        ("quantization_config", "gptq"),
        ("text_config", [1]),
        ("vision_config", "none"),
        ("model_type", 5),
        ("model_type", ["llama"]),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key, value):
    with pytest.raises(CorruptFile, match=rf"^config\.json: {key}: "):
        config_from_hub(LEAST | {key: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 5}, "5 does not divide hidden_size 64"),
        ({"hidden_size": 2**17, "num_attention_heads": 1}, "1 for hidden_size 131072 is out"),
        ({"head_dim": 2**17}, "head_dim: 131,072 is out of range"),
        ({"num_key_value_heads": 3}, "3 does not divide num_attention_heads 4"),
        ({"num_hidden_layers": 1001}, "1,001 is out of range"),
        ({"head_dim": 2**31}, "head_dim: 2,147,483,648 is out of range"),
        ({"hidden_size": 2**31, "num_attention_heads": 1, "num_key_value_heads": None},
         "num_attention_heads: 1 for hidden_size 2147483648 is out of range"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_scaling.rope_type: a text is needed, it is 3"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "8"}}, "rope_scaling.factor: a number"),
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": "x"}},
         "rope_parameters.original_max_position_embeddings: a whole number is needed"),
        ({"quantization_config": {"quant_method": 4}}, "quantization_config.quant_method: a text"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_said(changes, words):
    with pytest.raises(CorruptFile) as caught:
        config_from_hub(LEAST | changes)
    assert words in str(caught.value)


def test_a_whole_number_may_be_written_as_a_float():
    assert config_from_hub(LEAST | {"hidden_size": 64.0}).dim == 64


# --- which model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {"model_type": "mistral"},
        {"model_type": "LLaMA"},
        {"model_type": ""},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": [5]},
        {"model_type": "\x1b[31m" * 1000},
    ],
)
def test_another_architecture_is_said_to_be_one(raw):
    raw = {key: value for key, value in LEAST.items() if key != "model_type"} | raw
    with pytest.raises(UnsupportedFile, match="another architecture") as caught:
        config_from_hub(raw)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("architectures", [None, [], ["LlamaForCausalLM"], ["LLaMAForCausalLM"]])
def test_an_early_file_has_no_model_type(architectures):
    raw = LEAST | {"architectures": architectures}
    del raw["model_type"]
    assert config_from_hub(raw) == config_from_hub(LEAST)


def test_keys_that_mean_nothing_here_are_listed():
    found = config_from_hub(
        LEAST | {"surprise": 1, "sliding_window": [1], "rope_scaling": {"rope_type": "llama3",
                 "mystery": "x"}}
    )  # fmt: skip
    assert found.unknown == {"surprise": 1, "sliding_window": "…", "rope_scaling.mystery": "x"}


# --- positions ------------------------------------------------------------------------------------


def both_spellings(theta: float, scaling: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [
        {"rope_theta": theta, "rope_scaling": scaling},
        {"rope_parameters": (scaling or {"rope_type": "default"}) | {"rope_theta": theta}},
        {"rope_theta": theta, "rope_parameters": scaling or {"rope_type": "default"}},
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "default"},
        SCALED,
        SCALED | {"factor": 32.0},
        SCALED | {"low_freq_factor": 2.0, "original_max_position_embeddings": 4096},
        {"type": "linear", "factor": 4.0},
        {"rope_type": "linear", "factor": 2.5},
        {"type": "linear", "rope_type": "linear", "factor": 2.5},
    ],
)
def test_wavelengths_are_those_of_transformers(scaling, number):
    raw = LEAST | {"max_position_embeddings": 131072} | both_spellings(50000.0, scaling)[number]
    config = config_from_hub(raw)
    there = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(raw))))
    expected = 2 * torch.pi / there.inv_freq.double()
    found = torch.tensor(wavelengths(config, choose_rope(config).scaling), dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert config.unknown is None


def test_of_two_spellings_that_of_transformers_counts():
    raw = LEAST | {
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0},
    }
    there = LlamaConfig(**json.loads(json.dumps(raw)))
    assert config_from_hub(raw).rope_scaling_factor == there.rope_parameters["factor"]


def test_the_inner_theta_counts_before_the_outer():
    raw = LEAST | {"rope_theta": 1.5, "rope_parameters": {"rope_theta": 2.5}}
    there = LlamaConfig(**json.loads(json.dumps(raw)))
    assert config_from_hub(raw).rope_theta == there.rope_parameters["rope_theta"] == 2.5


# What each kind of scaling has in its object.
OTHER_ROPES = {
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 2048},
    "dynamic": {"factor": 2.0},
    "longrope": {"factor": 2.0, "long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    "ntk-\x1b[31m": {"factor": 2.0},
}


@pytest.mark.parametrize("kind", OTHER_ROPES)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_another_scaling_is_described_and_not_run(tmp_path, kind, spelling):
    scaling = {"rope_type": kind, "rope_theta": 500000.0} | OTHER_ROPES[kind]
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    config = hub_config(TINY, TINY_HIDDEN, rope_parameters=None, **{}) | {spelling: scaling}
    write_hub(tmp_path, weights, config)
    report = summarize(open_checkpoint(str(tmp_path)))
    assert report.ok
    assert report.config["rope_type"] == kind
    assert report.config["rope_scaling_factor"] == OTHER_ROPES[kind]["factor"]
    subject = find_subject(str(tmp_path))
    assert explain_model(subject).ok
    with pytest.raises(UnsupportedFile, match="which is not computed here") as caught:
        load_model(subject, RunOptions("cpu"))
    assert kind[:3] in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, "its feed-forward uses gelu"),
        ({"attention_bias": True}, "its linears have biases"),
        ({"mlp_bias": True}, "its linears have biases"),
    ],
)
def test_what_is_not_computed_is_refused_in_a_sentence(tmp_path, changes, words):
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    write_hub(tmp_path, weights, hub_config(TINY, TINY_HIDDEN, **changes))
    with pytest.raises(UnsupportedFile, match=words):
        load_model(find_subject(str(tmp_path)), RunOptions("cpu"))


# --- Llama 4 and Llama 3.2 Vision -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["outer", "inner"])
def test_a_nested_text_model_is_read(where):
    inner = LEAST_4 | {"head_dim": 16, "num_local_experts": 4}
    raw = {"model_type": "llama4", "text_config": inner, "vision_config": VISION}
    (raw if where == "outer" else inner)["tie_word_embeddings"] = True
    raw["hidden_size"] = 12345  # not that of the text model
    found = config_from_hub(raw)
    assert (found.dim, found.head_dim, found.moe.num_experts) == (64, 16, 4)
    assert found.tied_output
    assert found.vision == VisionConfig((56, 56), (14, 14), 32, 3, 2, 3.0, 40, 0.5)


def test_what_a_nested_part_lacks_is_named_with_its_place():
    raw = {"model_type": "llama4", "text_config": dict(LEAST_4), "vision_config": dict(VISION)}
    for part, key in (("text_config", "hidden_size"), ("vision_config", "patch_size")):
        less = {name: value for name, value in raw[part].items() if name != key}
        with pytest.raises(CorruptFile, match=rf"^config\.json: {part}\.{key}: it is missing"):
            config_from_hub(raw | {part: less})


@pytest.mark.parametrize(("value", "expected"), [(4, True), (0, False), (True, True), (None, True)])
def test_early_llama_4_files_switch_with_a_number(value, expected):
    found = config_from_hub(LEAST_4 | {"attn_temperature_tuning": value})
    assert found.attn_temperature_tuning is expected


def test_more_experts_per_token_than_there_are_is_said():
    with pytest.raises(CorruptFile, match="num_experts_per_tok: 5 is more than num_local_experts"):
        config_from_hub(LEAST_4 | {"num_local_experts": 4, "num_experts_per_tok": 5})


def test_no_experts_are_dense_layers():
    """As in Llama Guard 4."""
    found = config_from_hub(LEAST_4 | {"num_local_experts": 0, "intermediate_size_mlp": 224})
    assert (found.moe, found.hidden_dim) == (None, 224)


def test_llama_3_2_vision_is_read():
    text = LEAST_M | {"num_hidden_layers": 10, "cross_attention_layers": [8, 3]}
    vision = {"image_size": 560, "max_num_tiles": 4, "attention_heads": 16}
    raw = {"model_type": "mllama", "text_config": text, "vision_config": vision}
    found = config_from_hub(raw)
    assert (found.n_layers, found.cross_attention_layers) == (8, (3, 8))
    assert found.cross_attention == CrossAttentionConfig(2, 560, 4)
    assert found.unknown is None


@pytest.mark.parametrize(
    "layers", [None, "3", [1, 1], [10], [-1], [True], [1.0], list(range(10)), {"1": 1}]
)
def test_layers_that_cannot_look_at_an_image_are_said(layers):
    raw = LEAST_M | {"num_hidden_layers": 10, "cross_attention_layers": layers}
    with pytest.raises(CorruptFile, match=r"^config\.json: cross_attention_layers: "):
        config_from_hub(raw)


# --- quantisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, ("gptq", 128)),
        ({"quant_method": "awq", "group_size": -1}, ("awq", None)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes", None)),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": []}},
         ("compressed-tensors", None)),
        ({}, (None, None)),
    ],
)  # fmt: skip
def test_what_quantised_it_is_told_and_nothing_is_checked(tmp_path, group, expected):
    found = config_from_hub(LEAST | {"quantization_config": group})
    assert found.quantization == QuantizationConfig(*expected, native=False)
    assert found.unknown is None
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    packed = torch.zeros(4, 7, dtype=torch.int32)  # of no shape that the configuration knows
    weights["model.layers.0.mlp.down_proj.qweight"] = packed
    del weights["model.layers.0.mlp.down_proj.weight"]
    write_hub(tmp_path, weights, hub_config(TINY, TINY_HIDDEN, quantization_config=group))
    report = summarize(open_checkpoint(str(tmp_path)))
    assert report.ok
    notes = [f.message for f in report.findings if f.where == "config.json"]
    assert any((expected[0] or "an unnamed library") in note for note in notes)
    with pytest.raises(UnsupportedFile, match="quantised"):
        load_model(find_subject(str(tmp_path)), RunOptions("cpu"))


# --- the file itself ------------------------------------------------------------------------------

FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty"),
    "text": (b'"llama"', "it holds text where an object belongs"),
    "a list": (b"[]", "it holds a list where an object belongs"),
    "null": (b"null", "it holds null where an object belongs"),
    "half of it": (b'{"model_type": "llama"', "it is not valid JSON"),
    "a key twice": (b'{"hidden_size": 1, "hidden_size": 2}', "stands there twice"),
    "NaN": (b'{"rope_theta": NaN}', "NaN is not JSON"),
    "too deep": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "a long number": (b'{"hidden_size": ' + b"9" * 5000 + b"}", "thousands of digits"),
    "no UTF-8": (b'{"\xff": 1}', "it is not UTF-8"),
    "a web page": (b"<!DOCTYPE html>", "it is a web page"),
    "no fields": (b"{}", "hidden_size: it is missing"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_says_nothing_is_a_finding_and_the_tensors_still_list(tmp_path, kind):
    data, words = FILES[kind]
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    write_hub(tmp_path, weights, None)
    (tmp_path / "config.json").write_bytes(data)
    report = summarize(open_checkpoint(str(tmp_path)))
    errors = [(f.where, f.message) for f in report.findings if f.severity == "error"]
    assert [where for where, _ in errors] == ["config.json"]
    assert words in errors[0][1]
    assert (report.parameters.total, report.config) == (115008, None)


def test_another_architecture_is_counted_and_listed_under_its_own_names(tmp_path):
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    biases = {
        f"model.layers.{layer}.self_attn.{letter}_proj.bias": torch.ones(rows)
        for layer in range(2)
        for letter, rows in {"q": 64, "k": 32, "v": 32}.items()
    }
    config = hub_config(TINY, TINY_HIDDEN) | {"model_type": "qwen2"}
    write_hub(tmp_path, weights | biases, config)
    checkpoint = open_checkpoint(str(tmp_path))
    assert set(checkpoint.weights) == {*weights, *biases}
    assert all(weight.rope_heads == 0 for weight in checkpoint.weights.values())
    report = summarize(checkpoint)
    assert report.ok
    assert report.parameters.total == 115008 + 2 * (64 + 32 + 32)
    assert report.parameters.by_component["token_embedding"] == 128 * 64
    assert report.parameters.by_component["output"] == 128 * 64
    (said,) = (f for f in report.findings if f.where == "config.json")
    assert said.severity == "note"
    assert "qwen2" in said.message
    assert "shapes are not checked" in said.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = sorted({*LEAST, *FIELDS, "rope_scaling", "rope_parameters", "text_config", "vision_config",
               "quantization_config", "cross_attention_layers", "num_local_experts",
               "num_experts_per_tok", "interleave_moe_layer_step", "intermediate_size_mlp",
               "attn_temperature_tuning", "no_rope_layer_interval", "architectures"})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    base=st.sampled_from([LEAST, LEAST_4, LEAST_M]),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    nested=st.booleans(),
    scaling=st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "rope_theta"]), VALUES),
)
def test_any_file_is_a_configuration_or_refused(base, changes, nested, scaling):
    raw: dict[str, Any] = base | {"rope_parameters": scaling} | changes
    if nested:
        raw = {"model_type": "llama4", "text_config": raw, "vision_config": VISION | changes}
    try:
        found = config_from_hub(raw)
    except LlamaInspectError:
        return
    assert found.dim > 0
    assert found.n_heads % found.n_kv_heads == 0
    assert len(wavelengths(found, rope_scaling(found))) == found.head_dim // 2


def test_the_file_may_lie_beside_one_weight_file(tmp_path: Path):
    weights = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN)), TINY, TINY_HIDDEN)
    write_hub(tmp_path, weights, hub_config(TINY, TINY_HIDDEN))
    report = summarize(open_checkpoint(str(tmp_path / "model.safetensors")))
    assert (report.ok, report.config["dim"]) == (True, 64)
    (tmp_path / "config.json").unlink()
    report = summarize(open_checkpoint(str(tmp_path / "model.safetensors")))
    assert (report.ok, report.config) == (True, None)
    assert [(f.severity, f.where) for f in report.findings] == [("warning", "config.json")]
    assert not summarize(open_checkpoint(str(tmp_path))).ok


test_any_change_to_config_json_is_described_or_refused = any_change("config", 60)
