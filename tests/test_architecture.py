"""Counts and shapes against published numbers and other people's implementations."""

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, TINY_MOE, dense_shapes, moe_shapes

from llamainspect.architecture import count_parameters, expected_weights, inactive_parameters
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.config import ModelConfig

# Published (hub API and index files, model cards); 405B in 16 shards counts KV heads twice.
PUBLISHED = {
    "llama-1-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "codellama-7b": 6_738_546_688,
    "codellama-34b": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b:bf16-mp8": 405_853_388_800,
    "llama-3.1-405b:bf16-mp16": 410_081_247_232,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b-instruct": 70_553_706_496,
    "llama-guard-3-1b:int4": 860_407_808,
    "llama-4-scout-17b-16e": 108_641_793_536,
    "llama-4-maverick-17b-128e": 401_583_781_376,
    "llama-guard-4-12b": 12_001_097_216,
    "mini-llama-110m": 109_529_856,
}
BY_ID = {model.id: model for model in OFFICIAL_MODELS}


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=lambda model: model.id)
def test_every_official_model_counts_to_its_published_total(model):
    assert count_parameters(model.config, model.tied_output) == model.params_total


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_catalog_says_what_was_published(name):
    assert BY_ID[name].params_total == PUBLISHED[name]


def test_active_parameters_of_llama_4():
    for name, active in (
        ("llama-4-scout-17b-16e", 17_172_894_720),
        ("llama-4-maverick-17b-128e", 17_184_691_200),
    ):
        text = BY_ID[name].config._replace(vision=None)
        assert count_parameters(text) - inactive_parameters(text) == active


def test_dense_shapes_are_those_of_the_reference_code():
    expected = expected_weights(ModelConfig.from_params(TINY))
    required = {name: spec.shape for name, spec in expected.items() if spec.required}
    assert required == dense_shapes(TINY, TINY_HIDDEN)


def test_fused_llama_4_shapes_are_those_of_the_released_files():
    shapes = moe_shapes(TINY_MOE)
    expected = expected_weights(ModelConfig.from_params(TINY_MOE), shapes)
    assert {name: spec.shape for name, spec in expected.items() if spec.required} == shapes


def test_split_and_fused_spellings_have_the_same_parameters():
    config = ModelConfig.from_params(TINY_MOE)
    fused = expected_weights(config, moe_shapes(TINY_MOE))
    fused_total = sum(torch.Size(s.shape).numel() for s in fused.values() if s.required)
    assert fused_total == count_parameters(config)


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_count_equals_transformers_llama(tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=1000, hidden_size=96, intermediate_size=256, num_hidden_layers=3,
                num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=tied,
            )
        )  # fmt: skip
    config = ModelConfig(96, 3, 6, 2, 16, 256, 1000)
    assert count_parameters(config, tied) == model.num_parameters()


def test_parameter_count_equals_transformers_llama4():
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    with torch.device("meta"):
        model = Llama4ForCausalLM(
            Llama4TextConfig(
                vocab_size=128, hidden_size=64, intermediate_size=128, intermediate_size_mlp=224,
                num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                num_local_experts=4, interleave_moe_layer_step=2, tie_word_embeddings=False,
                pad_token_id=0,
            )
        )  # fmt: skip
    config = ModelConfig.from_params(TINY_MOE | {"n_layers": 4})
    assert count_parameters(config) == model.num_parameters()


@pytest.mark.parametrize("tiles", [4, 1, 6, 9])
@pytest.mark.parametrize(
    ("model", "tile_px"), [("llama-3.2-11b-vision", 448), ("llama-3.2-11b-vision-instruct", 560)]
)
def test_parameter_count_equals_transformers_mllama(model, tile_px, tiles):
    """With the position embeddings as the hub's files have them, which Meta's files do not."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaVisionConfig

    numbers = range(1, tiles + 1)
    ratios = [[rows, columns] for rows in numbers for columns in numbers if rows * columns <= tiles]
    vision = MllamaVisionConfig(
        image_size=tile_px, max_num_tiles=tiles, supported_aspect_ratios=ratios
    )
    config = BY_ID[model].config
    cross = config.cross_attention._replace(max_num_chunks=tiles)
    with torch.device("meta"):
        transformers = MllamaForConditionalGeneration(MllamaConfig(vision_config=vision))
    counted = count_parameters(config._replace(cross_attention=cross))
    assert counted == transformers.num_parameters()


def test_billions_of_tiles_are_counted_at_once():
    """One by one it took minutes."""
    config = BY_ID["llama-3.2-11b-vision"].config
    cross = config.cross_attention._replace(max_num_chunks=2**31 - 1)
    assert count_parameters(config._replace(cross_attention=cross)) > 10**20


def test_quantised_models_expect_scales_beside_their_linears():
    raw = TINY | {
        "quantization_args": {
            "scheme": "int4_weight_int8_dynamic_activation",
            "group_size": 32,
            "spinquant": False,
        },
        "lora_args": {"rank": 16, "scale": 2.0},
    }
    expected = expected_weights(ModelConfig.from_params(raw))
    assert expected["layers.1.feed_forward.w2.scales"].required
    assert expected["layers.0.attention.wk.adaptor.A.weight"].shape == (16, 64)
    assert expected["layers.0.attention.wk.adaptor.B.weight"].shape == (32, 16)
    assert count_parameters(ModelConfig.from_params(raw)) == count_parameters(
        ModelConfig.from_params(TINY)
    )
