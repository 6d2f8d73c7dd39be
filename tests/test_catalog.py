"""Which official model a configuration is."""

import pytest
from checkpoints import LLAMA_3_1_405B, LLAMA_3_70B

from llamainspect.catalog import OFFICIAL_MODELS, find_by_name, identify
from llamainspect.config import ModelConfig

LLAMA_3_1_8B = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
    "ffn_dim_multiplier": 1.3, "multiple_of": 1024, "norm_eps": 1e-05, "rope_theta": 500000.0,
    "use_scaled_rope": True,
}  # fmt: skip


def ids(found):
    return [found.model.id, *(model.id for model in found.same)]


def test_ids_are_unique_and_lower_case():
    names = [model.id for model in OFFICIAL_MODELS]
    assert len(names) == len(set(names)) >= 57
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=lambda model: model.id)
def test_every_model_is_found_by_its_own_configuration(model):
    found = identify(model.config, model.shards or 1, model.form, model.pth_nbytes)
    assert found is not None
    assert model.id in ids(found)
    assert found.differences == ()


def test_what_cannot_be_told_apart_is_listed():
    found = identify(ModelConfig.from_params(LLAMA_3_1_8B), 1, "plain")
    assert ids(found) == ["llama-3.1-8b", "llama-3.1-8b-instruct", "llama-guard-3-8b"]


def test_the_published_size_decides_between_base_and_instruct_of_maverick():
    base = next(m for m in OFFICIAL_MODELS if m.id == "llama-4-maverick-17b-128e")
    assert ids(identify(base.config, 8, "plain", 100_458_118_386)) == [base.id]
    assert ids(identify(base.config, 8, "plain", 100_426_653_046)) == [f"{base.id}-instruct"]


def test_a_different_setting_is_named():
    raw = LLAMA_3_1_8B | {"rope_theta": 10000.0}
    found = identify(ModelConfig.from_params(raw), 1, "plain")
    assert found.model.id == "llama-3.1-8b"
    assert found.differences == ("rope_theta is 10000.0, 500000.0 in llama-3.1-8b",)


def test_another_number_of_shards_is_named():
    found = identify(ModelConfig.from_params(LLAMA_3_70B), 4, "plain")
    assert found.model.id == "llama-3-70b"
    assert found.differences == ("4 shards, 8 in llama-3-70b",)


@pytest.mark.parametrize("heads", [8, 16])
def test_405b_in_16_shards_is_known_with_either_count_of_kv_heads(heads):
    found = identify(ModelConfig.from_params(LLAMA_3_1_405B | {"n_kv_heads": heads}), 16, "plain")
    assert found.model.id == "llama-3.1-405b:bf16-mp16"
    assert found.differences == ()


def test_quantised_releases_are_told_apart():
    quantised = [m for m in OFFICIAL_MODELS if m.id.startswith("llama-3.2-1b-instruct:int4")]
    assert len(quantised) == 2
    for model in quantised:
        assert ids(identify(model.config, 1, "int4")) == [model.id]


def test_an_unknown_architecture_is_none():
    assert identify(ModelConfig(64, 2, 4, 2, 16, 192, 128), 1, "plain") is None


def test_another_form_of_storage_is_named():
    found = identify(ModelConfig.from_params(LLAMA_3_1_8B), 1, "fp8")
    assert found.model.id == "llama-3.1-8b"
    assert found.differences == ("stored as fp8, plain in llama-3.1-8b",)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Llama3.1-8B", "llama-3.1-8b"),  # as `llama download` calls them
        ("Llama3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("Meta-Llama-3-8B", "llama-3-8b"),
        ("Llama-4-Scout-17B-16E-Instruct", "llama-4-scout-17b-16e-instruct"),
        ("llama-2-7b", "llama-2-7b"),  # as download.sh does
        ("Llama-2-7b-chat", "llama-2-7b-chat"),
        ("CodeLlama-7b-Python", "codellama-7b-python"),
        ("CodeLlama-34b-hf", "codellama-34b"),
        ("Llama3.2-11B-Vision", "llama-3.2-11b-vision"),
        ("Meta-Llama-3.1-70B", "llama-3.1-70b"),  # as the first download.sh of 3.1 did
        ("Meta-Llama-3.1-405B-MP16", "llama-3.1-405b:bf16-mp16"),
        ("Llama3.1-405B-bf16-mp8", "llama-3.1-405b:bf16-mp8"),
        ("Llama-4-Scout-17B-16E-Original", "llama-4-scout-17b-16e"),
        ("Llama-4-Scout-17B-16E-Instruct-Original", "llama-4-scout-17b-16e-instruct"),
        ("llama-7b", "llama-1-7b"),
        ("Llama3.1-405B", "llama-3.1-405b:bf16-mp8"),
        ("", None),
        ("7B", None),
        ("models", None),
        ("Llama3.1-8B-finetuned", None),
        ("mini-llama", None),
    ],
)
def test_a_release_is_found_by_the_name_of_its_directory(name, model):
    found = find_by_name(name)
    assert (found.id if found else None) == model


def test_base_models_are_told_from_those_trained_on_dialogues():
    base = {model.id for model in OFFICIAL_MODELS if model.is_base}
    assert {"llama-1-7b", "llama-2-70b", "llama-3.1-8b", "codellama-7b-python"} <= base
    assert not base & {"llama-2-7b-chat", "llama-3.3-70b-instruct", "llama-guard-3-8b",
                       "llama-4-maverick-17b-128e-instruct:fp8"}  # fmt: skip
