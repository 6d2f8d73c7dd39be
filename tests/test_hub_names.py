"""Weights that transformers itself saves, under Meta's names and in Meta's order.

What becomes of each weight is spelled out here by hand: rows by their indices, pieces by slices.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hub_layout import SCALED, SCALED_MOE
from safetensors import safe_open
from transformers import (
    Llama4Config,
    Llama4ForCausalLM,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MllamaConfig,
    MllamaForCausalLM,
    MllamaForConditionalGeneration,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from llamainspect import (
    Checkpoint,
    ModelConfig,
    expected_weights,
    list_tensors,
    open_checkpoint,
    show_tensor,
    summarize,
)
from llamainspect.arrays import decode, read_elements
from llamainspect.blocks import Memory, Reader, grid_of
from llamainspect.config import CrossAttentionConfig
from llamainspect.hub_names import to_hub, to_meta

transformers.utils.logging.disable_progress_bar()

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 131072,
}
LLAMA_3 = SCALED | {"rope_theta": 500000.0}
TEXT_4 = TEXT | {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "intermediate_size": 24,
    "intermediate_size_mlp": 48,
    "num_local_experts": 3,
    "interleave_moe_layer_step": 2,
    "rope_parameters": SCALED_MOE | {"rope_theta": 500000.0},
}
VISION_4 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 56,
    "patch_size": 14,
    "vision_output_dim": 48,
    "projector_input_dim": 48,
    "projector_output_dim": 48,
}
TEXT_M = TEXT | {
    "num_hidden_layers": 5,
    "cross_attention_layers": [1, 3],
    "rope_parameters": LLAMA_3,
}
ARRANGEMENTS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
VISION_M = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 28,
    "patch_size": 14,
    "intermediate_layers_indices": [0, 1],
    "vision_output_dim": 96,
    "max_num_tiles": 4,
    "supported_aspect_ratios": ARRANGEMENTS,
}

MODELS: dict[str, Callable[[], Any]] = {
    "dense": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    "dense in bfloat16": lambda: LlamaForCausalLM(
        LlamaConfig(**TEXT, rope_parameters=LLAMA_3, rms_norm_eps=1e-5)
    ).bfloat16(),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "biases": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, attention_bias=True, mlp_bias=True)),
    "wide heads": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, head_dim=24)),
    "Llama 4 text": lambda: Llama4ForCausalLM(Llama4TextConfig(**TEXT_4)),
    "Llama 4 text, no experts": lambda: Llama4ForCausalLM(
        Llama4TextConfig(**TEXT_4 | {"num_local_experts": 0, "moe_layers": []})
    ),
    "Llama 4 text, biases": lambda: Llama4ForCausalLM(
        Llama4TextConfig(**TEXT_4, attention_bias=True)
    ),
    "Llama 4": lambda: Llama4ForConditionalGeneration(
        Llama4Config(text_config=TEXT_4, vision_config=VISION_4)
    ),
    "Llama 3.2 Vision": lambda: MllamaForConditionalGeneration(
        MllamaConfig(text_config=TEXT_M, vision_config=VISION_M)
    ),
}
WHOLE = [name for name in MODELS if name != "Llama 3.2 Vision"]  # its tower has sizes of its own


def saved(directory: Path, model: Any, **how: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """Where transformers saved a model with other numbers everywhere, and its parameters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    model.save_pretrained(directory, **how)
    return directory, dict(model.named_parameters())


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Callable[[str], tuple[Path, dict[str, torch.Tensor]]]:
    """Each of MODELS on disk, made when it is first asked for."""
    made: dict[str, tuple[Path, dict[str, torch.Tensor]]] = {}

    def get(kind: str) -> tuple[Path, dict[str, torch.Tensor]]:
        if kind not in made:
            made[kind] = saved(tmp_path_factory.mktemp("saved"), MODELS[kind]())
        return made[kind]

    return get


def one_by_one(checkpoint: Checkpoint, name: str) -> np.ndarray:
    weight = checkpoint.weights[name]
    elements, _ = read_elements(checkpoint, weight, tuple(range(n) for n in weight.shape))
    return decode(elements, weight.parts[0]).reshape(weight.shape)


def in_blocks(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """As the stored bits, read in one block and then in many."""
    weight = checkpoint.weights[name]
    grid = grid_of(weight)
    reader = Reader(checkpoint, weight, grid, Memory())
    whole = reader.read(0, grid.rows).copy()
    step = grid.head_dim
    pieces = [
        reader.read(first, min(first + step, grid.rows)).copy()
        for first in range(0, grid.rows, max(step, -(-grid.rows // step // 5) * step))
    ]
    if sum(map(len, pieces)) == grid.rows:
        assert (np.concatenate(pieces) == whole).all(), name
    return whole.reshape(weight.shape)


# --- what Meta's weights are, by hand -------------------------------------------------------------


def pairs_first(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head so that those that are turned together stand together."""
    size = len(weight) // heads
    order = [
        head * size + half * (size // 2) + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in range(2)
    ]
    return weight[order]


def of_dense_layer(get: Callable[[str], torch.Tensor], bias: bool) -> dict[str, torch.Tensor]:
    found = {
        "attention_norm.weight": get("input_layernorm.weight"),
        "ffn_norm.weight": get("post_attention_layernorm.weight"),
    }
    for end in ("weight", "bias") if bias else ("weight",):
        found |= {
            f"attention.wq.{end}": pairs_first(get(f"self_attn.q_proj.{end}"), 4),
            f"attention.wk.{end}": pairs_first(get(f"self_attn.k_proj.{end}"), 2),
            f"attention.wv.{end}": get(f"self_attn.v_proj.{end}"),
            f"attention.wo.{end}": get(f"self_attn.o_proj.{end}"),
            f"feed_forward.w1.{end}": get(f"mlp.gate_proj.{end}"),
            f"feed_forward.w3.{end}": get(f"mlp.up_proj.{end}"),
            f"feed_forward.w2.{end}": get(f"mlp.down_proj.{end}"),
        }
    return found


def of_dense(there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {
        "tok_embeddings.weight": there["model.embed_tokens.weight"],
        "norm.weight": there["model.norm.weight"],
    }
    if "lm_head.weight" in there:
        found["output.weight"] = there["lm_head.weight"]
    bias = "model.layers.0.mlp.up_proj.bias" in there
    for layer in range(2):
        at = f"model.layers.{layer}."
        inner = of_dense_layer(lambda name, at=at: there[at + name], bias)
        found |= {f"layers.{layer}.{name}": weight for name, weight in inner.items()}
    return found


def of_llama_4(there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The rows stand as Meta has them; gate and up lie in one tensor, the router on its side."""
    outer = "language_model." if "language_model.lm_head.weight" in there else ""
    found = {
        "tok_embeddings.weight": there[f"{outer}model.embed_tokens.weight"],
        "norm.weight": there[f"{outer}model.norm.weight"],
        "output.weight": there[f"{outer}lm_head.weight"],
    }
    for layer in range(4):
        at, to = f"{outer}model.layers.{layer}.", f"layers.{layer}."
        found |= {
            f"{to}attention_norm.weight": there[f"{at}input_layernorm.weight"],
            f"{to}ffn_norm.weight": there[f"{at}post_attention_layernorm.weight"],
        }
        for letter in "qkvo":
            for end in ("weight", "bias"):
                if f"{at}self_attn.{letter}_proj.{end}" in there:
                    weight = there[f"{at}self_attn.{letter}_proj.{end}"]
                    found[f"{to}attention.w{letter}.{end}"] = weight
        swiglu = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
        if f"{at}feed_forward.router.weight" not in there:
            found |= {
                f"{to}feed_forward.{our}.weight": there[f"{at}feed_forward.{their}.weight"]
                for our, their in swiglu.items()
            }
            continue
        both = there[f"{at}feed_forward.experts.gate_up_proj"]  # (3, 64, 2 * 24)
        assert both.shape == (3, 64, 48)
        found |= {
            f"{to}feed_forward.router_DE": there[f"{at}feed_forward.router.weight"].T,
            f"{to}feed_forward.experts.w1": both[:, :, :24],
            f"{to}feed_forward.experts.w3": both[:, :, 24:],
            f"{to}feed_forward.experts.w2": there[f"{at}feed_forward.experts.down_proj"],
        }
        found |= {
            f"{to}feed_forward.shared_expert.{our}.weight": there[
                f"{at}feed_forward.shared_expert.{their}.weight"
            ]
            for our, their in swiglu.items()
        }
    return found | (of_llama_4_vision(there) if outer else {})


def of_llama_4_vision(there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder, vision = "vision_embeddings.vision_encoder.", "vision_model."
    adapter = "vision_embeddings.vision_adapter.mlp."
    found = {
        "vision_projection.weight": there["multi_modal_projector.linear_1.weight"],
        f"{adapter}c_fc.weight": there[f"{vision}vision_adapter.mlp.fc1.weight"],
        f"{adapter}c_proj.weight": there[f"{vision}vision_adapter.mlp.fc2.weight"],
        f"{encoder}conv1._linear.weight": there[f"{vision}patch_embedding.linear.weight"],
        f"{encoder}class_embedding": there[f"{vision}class_embedding"],
        f"{encoder}positional_embedding_vlm": there[f"{vision}positional_embedding_vlm"],
    }
    for end in ("weight", "bias"):
        for when in ("pre", "post"):
            found[f"{encoder}ln_{when}.{end}"] = there[f"{vision}layernorm_{when}.{end}"]
        for layer in range(2):
            to, at = f"{encoder}transformer.resblocks.{layer}.", f"{vision}model.layers.{layer}."
            found |= {
                f"{to}ln_1.{end}": there[f"{at}input_layernorm.{end}"],
                f"{to}ln_2.{end}": there[f"{at}post_attention_layernorm.{end}"],
                f"{to}mlp.c_fc.{end}": there[f"{at}mlp.fc1.{end}"],
                f"{to}mlp.c_proj.{end}": there[f"{at}mlp.fc2.{end}"],
            }
            for letter in "qkvo":
                found[f"{to}attn.w{letter}.{end}"] = there[f"{at}self_attn.{letter}_proj.{end}"]
    return found


def of_mllama(there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layers 1 and 3 of five look at the image; Meta counts them apart."""
    text = "model.language_model."
    embedding = there[f"{text}embed_tokens.weight"]
    assert embedding.shape == (48, 64)
    found = {
        "tok_embeddings.weight": embedding[:40],
        "learnable_embedding.weight": embedding[40:],
        "norm.weight": there[f"{text}norm.weight"],
        "output.weight": there["lm_head.weight"],
    }
    for theirs, ours in {0: 0, 2: 1, 4: 2}.items():
        at = f"{text}layers.{theirs}."
        inner = of_dense_layer(lambda name, at=at: there[at + name], bias=False)
        found |= {f"layers.{ours}.{name}": weight for name, weight in inner.items()}
    for theirs, ours in {1: 0, 3: 1}.items():
        at, to = f"{text}layers.{theirs}.", f"cross_attention_layers.{ours}."
        found |= {
            f"{to}attention_norm.weight": there[f"{at}input_layernorm.weight"],
            f"{to}ffn_norm.weight": there[f"{at}post_attention_layernorm.weight"],
            f"{to}feed_forward.w1.weight": there[f"{at}mlp.gate_proj.weight"],
            f"{to}feed_forward.w3.weight": there[f"{at}mlp.up_proj.weight"],
            f"{to}feed_forward.w2.weight": there[f"{at}mlp.down_proj.weight"],
            f"{to}gate_attn": there[f"{at}cross_attn_attn_gate"],
            f"{to}gate_ffwd": there[f"{at}cross_attn_mlp_gate"],
            f"{to}attention.q_norm.weight": there[f"{at}cross_attn.q_norm.weight"],
            f"{to}attention.k_norm.weight": there[f"{at}cross_attn.k_norm.weight"],
        }
        for letter in "qkvo":  # not turned, and so in one order
            found[f"{to}attention.w{letter}.weight"] = there[f"{at}cross_attn.{letter}_proj.weight"]
    return {f"text_model.{name}": weight for name, weight in found.items()}


def of_mllama_vision(there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder, vision = "vision_model.vision_encoder.", "model.vision_model."
    place = f"{vision}gated_positional_embedding."
    patch = there[f"{vision}patch_embedding.weight"]
    assert patch.shape == (32, 3, 14, 14)
    found = {
        f"{encoder}conv1._linear.weight": patch.reshape(32, 588),
        f"{encoder}class_embedding": there[f"{vision}class_embedding"],
        f"{encoder}positional_embedding": there[f"{place}embedding"],
        f"{encoder}gated_positional_embedding": there[f"{place}tile_embedding.weight"],
        f"{encoder}gated_positional_embedding_gate": there[f"{place}gate"],
    }
    for when in ("pre", "post"):
        at, to = f"{vision}{when}_tile_positional_embedding.", f"{encoder}{when}_tile_pos_embed."
        found |= {
            f"{to}embedding": there[f"{at}embedding.weight"],
            f"{to}gate": there[f"{at}gate"],
        }
    stacks = [(f"transformer.layers.{i}.", f"transformer.resblocks.{i}.") for i in range(2)]
    stacks.append(("global_transformer.layers.0.", "global_transformer.resblocks.0."))
    for theirs, ours in stacks:
        at, to = vision + theirs, encoder + ours
        for letter in "qkvo":
            found[f"{to}attn.w{letter}.weight"] = there[f"{at}self_attn.{letter}_proj.weight"]
    for gate in ("gate_attn", "gate_ffn"):
        gated = "global_transformer.resblocks.0."
        found[f"{encoder}{gated}{gate}"] = there[f"{vision}global_transformer.layers.0.{gate}"]
    for end in ("weight", "bias"):
        projection = there[f"model.multi_modal_projector.{end}"]
        found[f"vision_model.vision_projection.{end}"] = projection
        for when in ("pre", "post"):
            found[f"{encoder}ln_{when}.{end}"] = there[f"{vision}layernorm_{when}.{end}"]
        for theirs, ours in stacks:
            at, to = vision + theirs, encoder + ours
            found |= {
                f"{to}ln_1.{end}": there[f"{at}input_layernorm.{end}"],
                f"{to}ln_2.{end}": there[f"{at}post_attention_layernorm.{end}"],
                f"{to}mlp.c_fc.{end}": there[f"{at}mlp.fc1.{end}"],
                f"{to}mlp.c_proj.{end}": there[f"{at}mlp.fc2.{end}"],
            }
    return found


def by_hand(kind: str, there: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if kind == "Llama 3.2 Vision":
        return of_mllama(there) | of_mllama_vision(there)
    return of_llama_4(there) if kind.startswith("Llama 4") else of_dense(there)


# --- what transformers saves ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", WHOLE)
def test_what_transformers_saves_opens_without_a_finding(models, kind):
    path, there = models(kind)
    report = summarize(open_checkpoint(str(path)))
    assert report.findings == ()
    assert (report.format, report.shards, report.model.match) == ("hf", 1, "none")
    total = sum(weight.numel() for weight in there.values())  # a tied one once
    assert (report.parameters.total, report.parameters.stored) == (total, total)
    assert sum(report.parameters.by_component.values()) == total
    assert report.nbytes == sum(weight.nbytes for weight in there.values())
    assert report.tied_output == (kind == "tied")
    assert report.parameters.by_component.get("other", 0) == 0


@pytest.mark.parametrize("kind", MODELS)
def test_every_weight_has_the_values_of_its_tensor(models, kind):
    path, there = models(kind)
    expected = by_hand(kind, there)
    checkpoint = open_checkpoint(str(path))
    assert set(checkpoint.weights) == set(expected)
    assert {weight.numel() for weight in there.values()} != {0}
    for name, weight in expected.items():
        assert checkpoint.weights[name].shape == tuple(weight.shape), name
        value = weight.detach().float().numpy()
        assert (one_by_one(checkpoint, name) == value).all(), name
        bits = weight.detach().contiguous()
        bits = bits.view(torch.int16 if bits.dtype == torch.bfloat16 else torch.int32).numpy()
        assert (in_blocks(checkpoint, name).view(bits.dtype) == bits).all(), name


def test_the_order_of_rows_shows_in_these_values(models):
    """That the values agree says something: no row is where it stands in the file."""
    path, there = models("dense")
    checkpoint = open_checkpoint(str(path))
    stored = there["model.layers.1.self_attn.k_proj.weight"].detach().numpy()
    ours = one_by_one(checkpoint, "layers.1.attention.wk.weight")
    # A head has 16 rows: Meta's row 2 * i + j is row 8 * j + i there.
    order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    assert (ours[:16] == stored[order]).all()
    assert (ours[16:] == stored[16:][order]).all()
    assert not (ours[1:15] == stored[1:15]).all(axis=1).any()


def test_image_positions_alone_are_stored_otherwise_than_meta_has_them(models):
    """All of Llama 3.2 Vision's tower but its sizes, which are constants of Meta's code."""
    path, there = models("Llama 3.2 Vision")
    report = summarize(open_checkpoint(str(path)))
    assert report.parameters.total == sum(weight.numel() for weight in there.values())
    assert report.parameters.by_component.get("other", 0) == 0
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert errors != []  # a toy tower has fewer layers
    assert all(finding.where.startswith("vision_model.") for finding in errors)
    assert all(finding.message.startswith("missing") for finding in errors)
    assert not any("unexpected" in finding.message for finding in report.findings)


def test_every_name_of_llama_3_2_vision_is_one_that_meta_has(models):
    path, there = models("Llama 3.2 Vision")
    checkpoint = open_checkpoint(str(path))
    assert set(checkpoint.weights) - set(expected_weights(checkpoint.config)) == set()
    with safe_open(path / "model.safetensors", "pt") as opened:  # as `write_sparse` has them
        assert set(opened.keys()) == {on_disk(name, True) for name in there}


@pytest.mark.parametrize("size", ["30KB", "100KB"])
@pytest.mark.parametrize("kind", ["dense", "tied", "Llama 4"])
def test_shards_that_transformers_cuts_are_one_model(models, tmp_path, kind, size):
    path, there = saved(tmp_path, MODELS[kind](), max_shard_size=size)
    assert len(list(path.glob("*.safetensors"))) > 1
    assert (path / "model.safetensors.index.json").exists()
    report = summarize(open_checkpoint(str(path)))
    assert report.findings == ()
    assert report.parameters.total == sum(weight.numel() for weight in there.values())
    whole = open_checkpoint(str(models(kind)[0]))
    cut = open_checkpoint(str(path))
    assert set(cut.weights) == set(whole.weights)
    for name in cut.weights:
        assert (in_blocks(cut, name) == in_blocks(whole, name)).all(), name


def test_a_model_that_predicts_no_tokens_lacks_nothing(tmp_path):
    path, there = saved(tmp_path, LlamaModel(LlamaConfig(**TEXT)))
    report = summarize(open_checkpoint(str(path)))
    assert report.parameters.total == sum(weight.numel() for weight in there.values())
    assert report.findings == ()


def test_the_text_model_of_llama_3_2_vision_alone_lacks_nothing(tmp_path):
    path, there = saved(tmp_path, MllamaForCausalLM(MllamaTextConfig(**TEXT_M)))
    report = summarize(open_checkpoint(str(path)))
    assert report.parameters.total == sum(weight.numel() for weight in there.values())
    assert [f for f in report.findings if f.severity == "error"] == []


def test_experts_stand_in_the_layers_that_config_json_lists(tmp_path):
    model = Llama4ForCausalLM(Llama4TextConfig(**TEXT_4, moe_layers=[0, 3]))
    path, there = saved(tmp_path, model)
    report = summarize(open_checkpoint(str(path)))
    assert report.parameters.total == sum(weight.numel() for weight in there.values())
    assert [f for f in report.findings if f.severity == "error"] == []


# --- models of full size, whose headers transformers says -----------------------------------------

MLLAMA_11B = {
    "text_config": TEXT
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "rope_parameters": LLAMA_3,
    },
    "vision_config": {"image_size": 560},
}
SCOUT = {
    "text_config": TEXT
    | {
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 16,
        "interleave_moe_layer_step": 1,
        "attn_temperature_tuning": True,
        "max_position_embeddings": 10485760,
        "rms_norm_eps": 1e-5,
        "rope_parameters": SCALED_MOE | {"rope_theta": 500000.0},
    },
    "vision_config": {
        "hidden_size": 1408,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "image_size": 336,
        "vision_output_dim": 4096,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
    },
}
ONE_B = TEXT | {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": LLAMA_3 | {"factor": 32.0},
}
EIGHT_B = ONE_B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "tie_word_embeddings": False,
    "rope_parameters": LLAMA_3,
}
# A model without values, and the parameters that are published of it.
FULL_SIZE: dict[str, tuple[Callable[[], Any], int]] = {
    "llama-3.2-1b": (lambda: LlamaForCausalLM(LlamaConfig(**ONE_B)), 1_235_814_400),
    "llama-3.1-8b": (lambda: LlamaForCausalLM(LlamaConfig(**EIGHT_B)), 8_030_261_248),
    "llama-3.2-11b-vision-instruct": (
        lambda: MllamaForConditionalGeneration(MllamaConfig(**MLLAMA_11B)),
        10_670_220_835,
    ),
    "llama-4-scout-17b-16e": (
        lambda: Llama4ForConditionalGeneration(Llama4Config(**SCOUT)),
        108_641_793_536,
    ),
}


def on_disk(name: str, nested: bool) -> str:
    """What save_pretrained calls what Llama 3.2 Vision has under another name in memory."""
    if name == "lm_head.weight" and nested:
        return f"language_model.{name}"
    name = name.replace("model.language_model.", "language_model.model.")
    return re.sub(r"^model\.(vision_model|multi_modal)", r"\1", name)


def write_sparse(directory: Path, model: Any) -> dict[str, torch.Tensor]:
    """Header and configuration of a model on the meta device; a hole for its values."""
    weights = dict(model.named_parameters())
    nested = any("vision" in name for name in weights)
    header, end = {}, 0
    for name, weight in weights.items():
        nbytes = 2 * weight.numel()
        offsets = [end, end + nbytes]
        header[on_disk(name, nested)] = {
            "dtype": "BF16",
            "shape": list(weight.shape),
            "data_offsets": offsets,
        }
        end += nbytes
    text = json.dumps(header).encode()
    directory.mkdir(exist_ok=True)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    model.config.save_pretrained(directory)
    return weights


@pytest.mark.parametrize("kind", FULL_SIZE)
def test_a_model_of_full_size_is_recognised_and_lacks_nothing(tmp_path, kind):
    build, published = FULL_SIZE[kind]
    with torch.device("meta"):
        model = build()
    weights = write_sparse(tmp_path, model)
    assert sum(weight.numel() for weight in weights.values()) == published
    checkpoint = open_checkpoint(str(tmp_path))
    report = summarize(checkpoint)
    assert [f for f in report.findings if f.severity != "note"] == []
    assert report.model.name == kind
    assert report.parameters.total == published
    unknown = set(checkpoint.weights) - set(expected_weights(checkpoint.config, checkpoint.weights))
    assert unknown == set()
    assert report.tied_output == (kind == "llama-3.2-1b")


# --- names alone ----------------------------------------------------------------------------------


def config_of(**changes: Any) -> ModelConfig:
    base = ModelConfig(64, 3, 4, 2, 16, 96, 40)
    return base._replace(**changes)


CROSSING = config_of(
    n_layers=32,
    cross_attention=CrossAttentionConfig(8, 560, 4),
    cross_attention_layers=(3, 8, 13, 18, 23, 28, 33, 38),
)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layers.0.self_attn.q_proj.weight", "layers.0.attention.wq.weight"),
        ("layers.2.self_attn.q_proj.weight", "layers.2.attention.wq.weight"),
        ("layers.3.cross_attn.q_proj.weight", "cross_attention_layers.0.attention.wq.weight"),
        ("layers.3.mlp.down_proj.weight", "cross_attention_layers.0.feed_forward.w2.weight"),
        ("layers.4.input_layernorm.weight", "layers.3.attention_norm.weight"),
        ("layers.7.mlp.up_proj.weight", "layers.6.feed_forward.w3.weight"),
        ("layers.8.cross_attn_mlp_gate", "cross_attention_layers.1.gate_ffwd"),
        ("layers.9.mlp.gate_proj.weight", "layers.7.feed_forward.w1.weight"),
        ("layers.38.cross_attn.k_norm.weight", "cross_attention_layers.7.attention.k_norm.weight"),
        ("layers.39.self_attn.o_proj.weight", "layers.31.attention.wo.weight"),
        ("embed_tokens.weight", "tok_embeddings.weight"),
        ("norm.weight", "norm.weight"),
    ],
)
def test_layers_that_look_at_the_image_are_counted_apart(theirs, ours):
    for prefix in ("language_model.model.", "model.language_model.", "model.", ""):
        assert to_meta(prefix + theirs, CROSSING) == f"text_model.{ours}"


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model."])
def test_the_text_model_may_stand_anywhere(prefix):
    inner = "layers.12.post_attention_layernorm.weight"
    assert to_meta(prefix + inner, config_of()) == "layers.12.ffn_norm.weight"
    assert to_meta(f"{prefix}embed_tokens.weight", config_of()) == "tok_embeddings.weight"


@pytest.mark.parametrize(
    "name",
    [
        "tok_embeddings.weight",
        "norm.weight",
        "output.weight",
        "layers.0.attention.wq.weight",
        "layers.1.feed_forward.w2.weight",
        "layers.1.attention_norm.weight",
        "rope.freqs",
        "text_model.layers.3.attention.wk.weight",
        "text_model.cross_attention_layers.1.gate_attn",
        "layers.1.feed_forward.router_DE",
        "layers.1.attention.wqkv.layer_norm_weight",
        "",
        "layers.1.",
        "model.",
        "layers.x.self_attn.q_proj.weight",
        "layers.1234567.self_attn.q_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "transformer.h.0.attn.c_attn.weight",
        "\x1b[31mlayers.0.self_attn.q_proj.weight",
    ],
)
def test_what_is_meta_s_already_or_nobody_s_keeps_its_name(name):
    for config in (None, config_of(), CROSSING):
        found = to_meta(name, config)
        assert found in (name, f"text_model.{name}") if config is CROSSING else found == name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("self_attn.q_proj.weight_scale", "attention.wq.weight_scale"),  # FP8
        ("self_attn.q_proj.qweight", "attention.wq.qweight"),  # GPTQ
        ("mlp.down_proj.weight.absmax", "feed_forward.w2.weight.absmax"),  # bitsandbytes
        ("mlp.down_proj.weight.quant_state.bitsandbytes__nf4",
         "feed_forward.w2.weight.quant_state.bitsandbytes__nf4"),
        ("self_attn.v_proj.lora_A.weight", "attention.wv.lora_A.weight"),
        ("feed_forward.experts.gate_up_proj", "feed_forward.experts.gate_up_proj"),
        ("feed_forward.experts.down_proj", "feed_forward.experts.w2"),
        ("feed_forward.router.weight", "feed_forward.router_DE"),
    ],
)  # fmt: skip
def test_what_stands_beside_a_linear_goes_with_it(theirs, ours):
    assert to_meta(f"model.layers.1.{theirs}", config_of()) == f"layers.1.{ours}"


DENSE_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "layers.1.attention.wq.weight": "model.layers.1.self_attn.q_proj.weight",
    "layers.1.attention.wk.bias": "model.layers.1.self_attn.k_proj.bias",
    "layers.1.attention_norm.weight": "model.layers.1.input_layernorm.weight",
    "layers.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "layers.1.feed_forward.w1.weight": "model.layers.1.mlp.gate_proj.weight",
    "layers.1.feed_forward.w2.weight": "model.layers.1.mlp.down_proj.weight",
    "layers.1.feed_forward.w3.weight": "model.layers.1.mlp.up_proj.weight",
    "rope.freqs": "rope.freqs",  # has none
}


@pytest.mark.parametrize("ours", DENSE_NAMES)
def test_hugging_face_s_name_of_a_dense_weight(ours):
    assert to_hub(ours, config_of()) == DENSE_NAMES[ours]
    assert to_hub(ours, None) == DENSE_NAMES[ours]


def test_hugging_face_s_names_of_llama_4():
    config = config_of(nope_layer_interval=4)
    for ours, theirs in {
        "layers.1.feed_forward.w1.weight": "model.layers.1.feed_forward.gate_proj.weight",
        "layers.1.feed_forward.shared_expert.w2.weight":
            "model.layers.1.feed_forward.shared_expert.down_proj.weight",
        "layers.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
        # One of Meta's, several of Hugging Face's: no name is its.
        "layers.1.attention.wqkv.weight": "layers.1.attention.wqkv.weight",
        "layers.1.feed_forward.experts.moe_w_in_eD_F":
            "layers.1.feed_forward.experts.moe_w_in_eD_F",
    }.items():  # fmt: skip
        assert to_hub(ours, config) == theirs


def crossing_params(n_layers: int, crossing: int) -> ModelConfig:
    """Llama 3.2 Vision as its params.json describes it, which does not say where layers stand."""
    return ModelConfig.from_params(
        {
            "dim": 4096,
            "n_layers": n_layers,
            "n_heads": 32,
            "n_kv_heads": 8,
            "vocab_size": 128256,
            "vision_num_cross_attention_layers": crossing,
        }
    )


@pytest.mark.parametrize(("n_layers", "crossing"), [(32, 8), (80, 20)])
def test_native_llama_3_2_vision_has_hugging_face_s_numbers(n_layers, crossing):
    config = crossing_params(n_layers, crossing)
    # Meta: reversed(range(n_layers))[::k][:crossing], each before its layer.
    step = math.ceil(n_layers / crossing)
    before = sorted(list(reversed(range(n_layers)))[::step][:crossing])
    for number, layer in enumerate(before):
        found = to_hub(f"text_model.cross_attention_layers.{number}.attention.wq.weight", config)
        expected = f"language_model.model.layers.{layer + number}.cross_attn.q_proj.weight"
        assert found == expected
    for layer in range(n_layers):
        theirs = layer + sum(other <= layer for other in before)
        found = to_hub(f"text_model.layers.{layer}.attention.wq.weight", config)
        assert found == f"language_model.model.layers.{theirs}.self_attn.q_proj.weight"


@pytest.mark.parametrize("kind", MODELS)
def test_names_there_and_back(models, kind):
    """Every name of the text model is found again under the name that is made of it."""
    checkpoint = open_checkpoint(str(models(kind)[0]))
    config = checkpoint.config
    for name in checkpoint.weights:
        theirs = to_hub(name, config)
        if theirs != name:
            assert to_meta(theirs, config) == name
            assert theirs == checkpoint.weights[name].parts[0].name
        else:
            words = ("vision", "experts.w", "router_DE", "gate_", "learnable_embedding")
            assert any(word in name for word in words), name


# --- what is shown --------------------------------------------------------------------------------


def test_names_as_asked_for(models):
    path, there = models("dense")
    checkpoint = open_checkpoint(str(path))
    listed = list_tensors(checkpoint, names="hf").tensors
    assert {row.name: row.shape for row in listed} == {
        name: tuple(weight.shape) for name, weight in there.items()
    }
    listed = list_tensors(checkpoint, "model.layers.1.*", names="hf").tensors
    assert len(listed) == 9
    assert all(row.layer == 1 for row in listed)
    assert list_tensors(checkpoint, "model.*", names="meta").tensors == ()


@pytest.mark.parametrize(
    "name", ["layers.0.attention.wq.weight", "model.layers.0.self_attn.q_proj.weight"]
)
def test_rows_are_shown_in_the_order_that_is_asked_for(models, name):
    path, there = models("dense")
    weight = there["model.layers.0.self_attn.q_proj.weight"].detach()
    shown = show_tensor(open_checkpoint(str(path)), name, (4, 2))
    assert shown.tensor.name == "layers.0.attention.wq.weight"
    # Rows 4 to 9 of a head of 16 are its rows 2, 10, 3, 11, 4, 12 there.
    assert shown.float32 == tuple(tuple(row) for row in weight[[2, 10, 3, 11, 4, 12], 2:8].tolist())
    assert [f.severity for f in shown.findings] == ["note"]
    assert "another order" in shown.findings[0].message
    shown = show_tensor(open_checkpoint(str(path)), name, (4, 2), names="hf")
    assert shown.tensor.name == "model.layers.0.self_attn.q_proj.weight"
    assert shown.float32 == tuple(tuple(row) for row in weight[4:10, 2:8].tolist())
    assert shown.findings == ()


def test_a_piece_of_a_tensor_is_shown_where_it_lies(models):
    path, there = models("Llama 4")
    checkpoint = open_checkpoint(str(path))
    both = there["language_model.model.layers.1.feed_forward.experts.gate_up_proj"].detach()
    data = (path / "model.safetensors").read_bytes()
    for name, begin in (("w1", 0), ("w3", 24)):
        shown = show_tensor(checkpoint, f"layers.1.feed_forward.experts.{name}", (2, 5, 3))
        corner = both[2, 5:11, begin + 3 : begin + 9]
        assert shown.float32 == tuple(tuple(row) for row in corner.tolist())
        part = shown.tensor.parts[0]
        assert (part.shape, part.strides, part.contiguous) == ((3, 64, 24), (64 * 48, 48, 1), False)
        first = np.frombuffer(data[part.offset : part.offset + 4], np.float32)
        assert first[0] == both[0, 0, begin].item()
    router = there["language_model.model.layers.3.feed_forward.router.weight"].detach()
    shown = show_tensor(checkpoint, "layers.3.feed_forward.router_DE", (10, 1))
    assert shown.float32 == tuple(tuple(row) for row in router.T[10:16, 1:].tolist())
    assert shown.tensor.parts[0].strides == (1, 64)
