"""What `summary` says: counts by hand, findings on damage made on purpose."""

import json
import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from checkpoints import (
    LLAMA_3_1_405B,
    LLAMA_3_70B,
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    TINY_PARAMETERS,
    cut,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
    write_sparse,
)

from llamainspect import open_checkpoint, summarize

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"


def summary_of(path):
    return summarize(open_checkpoint(str(path)))


def findings(path, severity="error"):
    return [f"{f.where}: {f.message}" for f in summary_of(path).findings if f.severity == severity]


def change(path, edit, file="consolidated.00.pth"):
    """Load a shard, let `edit` work on the state dict or return another, save it again."""
    weights = torch.load(path / file, weights_only=True)
    changed = edit(weights)
    torch.save(weights if changed is None else changed, path / file)


def without(*names):
    return lambda weights: {name: w for name, w in weights.items() if name not in names}


# --- counts ---------------------------------------------------------------------------------------


def test_every_form_of_a_model_has_the_same_parameters(checkpoint_path):
    report = summary_of(checkpoint_path)
    assert report.ok
    assert report.findings == ()
    assert report.parameters.total == report.parameters.stored == TINY_PARAMETERS
    assert report.parameters.by_component == {
        "token_embedding": 128 * 64,
        "attention": 2 * (2 * 64 * 64 + 2 * 32 * 64),
        "feed_forward": 2 * 3 * 192 * 64,
        "norms": 5 * 64,
        "output": 128 * 64,
    }
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 192 * 64 + 2 * 64
    assert [(row.layer, row.parameters) for row in report.parameters.by_layer] == [
        (0, layer),
        (1, layer),
    ]
    assert report.tied_output is False


def test_bytes_count_copies_in_every_shard(tiny, tiny2):
    norms = 2 * 5 * 64
    assert summary_of(tiny).nbytes == 2 * TINY_PARAMETERS
    assert summary_of(tiny2).nbytes == 2 * TINY_PARAMETERS + norms
    assert summary_of(tiny).nbytes_by_dtype == {"BF16": 2 * TINY_PARAMETERS}


def test_the_configuration_is_given_with_derived_values(tiny):
    config = summary_of(tiny).config
    assert config["head_dim"] == 16
    assert config["hidden_dim"] == TINY_HIDDEN
    assert config["gqa_group"] == 2
    assert config["norm_eps"] == 1e-5


def test_tied_weights_count_once_and_the_naive_sum_is_explained():
    report = summary_of(EXAMPLE)
    layer = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 352 * 128 + 2 * 128
    assert report.tied_output
    assert report.parameters.total == 1024 * 128 + 4 * layer + 128
    assert report.parameters.stored == 2 * 1024 * 128 + 4 * layer + 128
    assert report.nbytes == 2 * report.parameters.total
    assert "131,072 parameters are not counted again" in report.findings[0].message


def test_of_many_names_for_the_same_bytes_each_sentence_is_true(tmp_path):
    one = torch.ones(1)
    sizes = {"a": 50, "b": 30, "c": 20}
    path = write_native(tmp_path, None, [{n: one.expand(s) for n, s in sizes.items()}])
    report = summary_of(path)
    assert (report.parameters.total, report.parameters.stored) == (1, sum(sizes.values()))
    told = {f.where: f.message for f in report.findings if f.message.startswith("tied")}
    assert told == {
        f"{name}, a": f"tied: names for the same bytes, so {sizes[name]} parameters are not "
        "counted again; a sum over names counts them again"
        for name in "bc"
    }


def test_equal_output_and_embedding_that_are_stored_twice_count_once(tiny):
    change(tiny, lambda w: w.update({"output.weight": w["tok_embeddings.weight"].clone()}))
    report = summary_of(tiny)
    assert report.tied_output
    assert report.parameters.total == TINY_PARAMETERS - 128 * 64
    assert report.nbytes == 2 * TINY_PARAMETERS
    assert "stored twice" in report.findings[0].message


def test_rope_frequencies_are_a_buffer_and_no_parameter(tiny):
    change(tiny, lambda w: w.update({"rope.freqs": torch.ones(8)}))
    report = summary_of(tiny)
    assert report.ok
    assert report.parameters.total == TINY_PARAMETERS
    assert report.parameters.stored == TINY_PARAMETERS + 8


@pytest.mark.parametrize("ranks", [1, 2])
def test_llama_4_counts_experts_and_active_parameters(tmp_path, ranks):
    shards = cut(random_weights(moe_shapes(TINY_MOE)), ranks, blocks=MOE_BLOCKS)
    report = summary_of(write_native(tmp_path, TINY_MOE, shards))
    assert report.ok, report.findings
    by_component = report.parameters.by_component
    assert by_component["experts"] == 4 * 3 * 64 * 128
    assert by_component["shared_experts"] == 3 * 64 * 128
    assert by_component["router"] == 64 * 4
    assert by_component["feed_forward"] == 3 * 64 * 224
    assert report.parameters.active == report.parameters.total - 3 * 3 * 64 * 128


# --- official models ------------------------------------------------------------------------------


def test_a_sparse_70b_is_recognised(tmp_path):
    report = summary_of(write_sparse(tmp_path, LLAMA_3_70B, 28672, 8))
    assert (report.model.name, report.model.match) == ("llama-3-70b", "exact")
    assert report.model.same_configuration == ("llama-3-70b-instruct",)
    assert report.parameters.total == 70_553_706_496
    assert report.shards == 8
    assert report.ok


def test_a_sparse_405b_in_16_shards_counts_each_kv_head_once(tmp_path):
    report = summary_of(write_sparse(tmp_path, LLAMA_3_1_405B, 53248, 16))
    assert (report.model.name, report.model.match) == ("llama-3.1-405b:bf16-mp16", "exact")
    assert report.parameters.total == 405_853_388_800
    assert report.parameters.stored == 410_081_247_232


def test_an_incomplete_official_model_is_not_called_exact(tmp_path):
    path = write_sparse(tmp_path, LLAMA_3_70B, 28672, 8)
    os.remove(path / "consolidated.03.pth")
    report = summary_of(path)
    assert report.model.match == "architecture"
    assert not report.ok


# --- findings -------------------------------------------------------------------------------------


def test_a_missing_weight_is_named_with_its_shape(tiny):
    change(tiny, without(*(f"layers.{layer}.attention.wo.weight" for layer in (0, 1))))
    assert findings(tiny) == [
        "layers.{0-1}.attention.wo.weight: missing; expected with shape [64, 64]. Likely cause: "
        "the "
        "file is incomplete, or params.json is of another model"
    ]


def test_missing_layers_point_at_params_json(tiny):
    (tiny / "params.json").write_text(json.dumps(TINY | {"n_layers": 4}))
    found = findings(tiny)
    assert len(found) == 9
    assert found[0].startswith(
        "layers.{2-3}.attention_norm.weight: missing; expected with shape [64]"
    )
    assert "the files hold 2 layers: params.json is of another model" in found[0]


def test_a_missing_output_is_explained_by_tying(tiny):
    change(tiny, without("output.weight"))
    assert "tied models of Meta's store it beside the embedding" in findings(tiny)[0]


def test_an_unexpected_weight_is_an_error(tiny):
    change(tiny, lambda w: w.update({"layers.0.attention.bias": torch.ones(3).bfloat16()}))
    assert findings(tiny)[0].startswith("layers.0.attention.bias: unexpected")


@pytest.mark.parametrize(
    ("change_params", "where", "cause"),
    [
        ({"vocab_size": 130}, "tok_embeddings.weight", "the vocabulary was resized to 128"),
        ({"n_kv_heads": 4}, "layers.{0-1}.attention.wk.weight", "is 4, these rows are 2 heads"),
        ({"multiple_of": 256}, "layers.{0-1}.feed_forward.w1.weight", "multiple_of or ffn_dim"),
        (
            {"dim": 128, "n_heads": 8},
            "layers.{0-1}.attention.wo.weight",
            "dim in params.json (128)",
        ),
    ],
)
def test_a_wrong_shape_names_the_likely_cause(tiny, change_params, where, cause):
    (tiny / "params.json").write_text(json.dumps(TINY | change_params))
    matching = [finding for finding in findings(tiny) if finding.startswith(where)]
    assert matching
    assert cause in matching[0]


def test_a_transposed_weight_is_called_that(tiny):
    name = "layers.0.feed_forward.w2.weight"
    change(tiny, lambda w: w.update({name: w[name].t().contiguous()}))
    assert findings(tiny) == [
        f"{name}: shape [192, 64], expected [64, 192]. Likely cause: it was saved transposed"
    ]


def test_a_resized_vocabulary_of_two_shards_is_reported_whole(tiny2):
    for file in ("consolidated.00.pth", "consolidated.01.pth"):
        change(tiny2, lambda w: w.update({"output.weight": torch.zeros(70, 64).bfloat16()}), file)
    assert findings(tiny2)[0].startswith("output.weight: shape [140, 64], expected [128, 64]")


def test_hugging_face_names_in_a_pth_are_recognised(tiny):
    change(tiny, lambda w: {"model.layers.0.self_attn.q_proj.weight": torch.ones(64, 64)})
    assert findings(tiny) == [
        "model.layers.0.self_attn.q_proj.weight: Hugging Face names in Meta's container (in "
        "number: "
        "1), with q and k rows in another order; convert the checkpoint back or use the folder it "
        "came from"
    ]


def test_mixed_dtypes_are_a_warning_that_names_the_few(tiny):
    change(tiny, lambda w: w.update({"norm.weight": w["norm.weight"].float()}))
    assert findings(tiny, "warning") == [
        "norm.weight: F32 (in number: 1) where 20 weights are BF16. Likely cause: a conversion, "
        "merge "
        "or fine-tune that missed some"
    ]


def test_wasted_bytes_are_a_warning(tiny):
    change(tiny, lambda w: w.update({"norm.weight": torch.zeros(4096).bfloat16()[:64]}))
    assert findings(tiny, "warning")[0].startswith(
        "consolidated.00.pth: 8,064 bytes are stored and no tensor uses them"
    )


def test_a_foreign_global_is_an_error_and_the_tensors_still_list(tiny):
    weights = torch.load(tiny / "consolidated.00.pth", weights_only=True)
    torch.save(weights | {"config": Path("x")}, tiny / "consolidated.00.pth")
    report = summary_of(tiny)
    assert "its pickle names pathlib.PosixPath" in findings(tiny)[0]
    assert report.parameters.total == TINY_PARAMETERS
    assert not report.ok


def test_a_truncated_file_is_an_error_that_says_so(tiny2):
    path = tiny2 / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cut short or damaged; resume or repeat the download" in findings(tiny2)[0]


# --- tokenizer ------------------------------------------------------------------------------------


def test_a_tokenizer_of_the_right_size_is_described():
    report = summary_of(EXAMPLE)
    pieces = sentencepiece.SentencePieceProcessor(str(EXAMPLE / "tokenizer.model")).vocab_size()
    assert report.tokenizer == {
        "file": "tokenizer.model",
        "kind": "sentencepiece",
        "base_tokens": pieces,
        "special_tokens": 0,
        "vocab_size": pieces,
    }


def test_a_tokenizer_of_another_size_is_an_error(tiny):
    shutil.copy(EXAMPLE / "tokenizer.model", tiny)
    assert findings(tiny) == [
        "tokenizer.model: it has 1,024 tokens, the model has 128. Likely cause: the tokenizer of "
        "another model, a file that was cut short, or a vocabulary that was padded or extended"
    ]


@pytest.mark.parametrize("place", ["..", "original"])
def test_a_tokenizer_elsewhere_is_found_and_its_place_said(tiny, place):
    """Llama 1 has it one level up; a hub download may have it in original/."""
    (tiny / place).mkdir(exist_ok=True)
    shutil.copy(EXAMPLE / "tokenizer.model", tiny / place)
    (tiny / "params.json").write_text(json.dumps(TINY | {"vocab_size": 1024}))
    report = summary_of(tiny)
    assert report.tokenizer["file"] == f"{place}/tokenizer.model"
    assert report.tokenizer["vocab_size"] == 1024


def test_a_tokenizer_that_is_a_link_to_nothing_is_an_error(tiny):
    (tiny / "tokenizer.model").symlink_to(tiny / "nowhere")
    (finding,) = summary_of(tiny).findings
    assert (finding.severity, finding.where) == ("error", "tokenizer.model")
    assert "which does not exist" in finding.message


def test_a_damaged_tokenizer_is_an_error(tiny):
    (tiny / "tokenizer.model").write_bytes((EXAMPLE / "tokenizer.model").read_bytes()[:1000])
    assert "tokenizer.model: it ends in the middle of a piece" in findings(tiny)[0]


# --- quantised and vision checkpoints -------------------------------------------------------------

INT4 = {
    "quantization_args": {
        "scheme": "int4_weight_int8_dynamic_activation",
        "group_size": 32,
        "spinquant": True,
    }
}


def test_a_quantised_checkpoint_counts_weights_and_not_scales(tmp_path):
    weights = {}
    for name, tensor in random_weights(dense_shapes(TINY, TINY_HIDDEN)).items():
        if "norm" in name:
            weights[name] = tensor
            continue
        weights[name] = (tensor * 4).clamp(-8, 7).to(torch.int8)
        groups = 1 if name in ("tok_embeddings.weight", "output.weight") else tensor.shape[1] // 32
        weights[name.replace(".weight", ".scales")] = torch.rand(tensor.shape[0], groups)
    said = {"quantization_args": INT4["quantization_args"] | {"spinquant": False}}
    report = summary_of(write_native(tmp_path, TINY | said, [weights]))
    assert report.ok, report.findings
    assert report.parameters.total == TINY_PARAMETERS
    assert {f.severity for f in report.findings} == {"note"}


def test_a_vision_checkpoint_counts_its_tower_and_says_what_is_not_checked(tmp_path):
    vision = {
        "image_size": {"height": 28, "width": 28}, "patch_size": {"height": 14, "width": 14},
        "dim": 32, "n_layers": 1, "n_heads": 4, "mlp_ratio": 4.0, "output_dim": 64,
        "pixel_shuffle_ratio": 0.5,
    }  # fmt: skip
    encoder = "vision_embeddings.vision_encoder."
    block = f"{encoder}transformer.resblocks.0."
    tower = {
        f"{encoder}conv1._linear.weight": (32, 3 * 14 * 14),
        f"{encoder}class_embedding": (32,),
        f"{encoder}positional_embedding_vlm": (5, 32),
        **{f"{encoder}{n}.{w}": (32,) for n in ("ln_pre", "ln_post") for w in ("weight", "bias")},
        **{f"{block}{n}.{w}": (32,) for n in ("ln_1", "ln_2") for w in ("weight", "bias")},
        **{f"{block}attn.{n}.weight": (32, 32) for n in ("wq", "wk", "wv", "wo")},
        **{f"{block}attn.{n}.bias": (32,) for n in ("wq", "wk", "wv", "wo")},
        f"{block}mlp.c_fc.weight": (128, 32),
        f"{block}mlp.c_fc.bias": (128,),
        f"{block}mlp.c_proj.weight": (32, 128),
        f"{block}mlp.c_proj.bias": (32,),
        "vision_embeddings.vision_adapter.mlp.c_fc.weight": (64, 128),
        "vision_embeddings.vision_adapter.mlp.c_proj.weight": (64, 64),
        "vision_projection.weight": (64, 64),
    }
    weights = random_weights(moe_shapes(TINY_MOE) | tower)
    report = summary_of(write_native(tmp_path, TINY_MOE | {"vision_args": vision}, [weights]))
    assert report.ok, report.findings
    assert report.parameters.by_component["vision"] == sum(
        torch.Size(shape).numel() for shape in tower.values()
    )


def test_any_weight_that_stands_there_under_two_names_counts_once(tiny):
    def share(weights):
        weights["layers.1.ffn_norm.weight"] = weights["layers.0.ffn_norm.weight"]

    change(tiny, share)
    report = summary_of(tiny)
    assert report.parameters.total == TINY_PARAMETERS - 64
    assert report.parameters.stored == TINY_PARAMETERS
    assert report.tied_output is False
    assert report.findings[0].where == "layers.1.ffn_norm.weight, layers.0.ffn_norm.weight"


def test_a_sparse_llama_3_2_1b_counts_its_tied_embedding_once(tmp_path):
    shapes = dense_shapes(LLAMA_3_2_1B, 8192)
    weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    weights["output.weight"] = weights["tok_embeddings.weight"]
    report = summary_of(write_native(tmp_path, LLAMA_3_2_1B, [weights], sparse=True))
    assert (report.model.name, report.model.match) == ("llama-3.2-1b", "exact")
    assert report.parameters.total == 1_235_814_400
    assert report.parameters.stored == 1_498_482_688
    assert report.tied_output
    assert report.nbytes == 2 * 1_235_814_400


LLAMA_3_2_1B = {
    "dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
    "ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0,
    "use_scaled_rope": True,
}  # fmt: skip


def official_1b(path, **replaced):
    """A sparse Llama 3.2 1B with some weights replaced."""
    shapes = dense_shapes(LLAMA_3_2_1B, 8192)
    weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    weights["output.weight"] = weights["tok_embeddings.weight"]
    weights.update(replaced)
    return write_native(path, LLAMA_3_2_1B, [weights], sparse=True)


def test_another_dtype_is_not_an_exact_match(tmp_path):
    norm = torch.empty(2048, dtype=torch.float32)
    model = summary_of(official_1b(tmp_path, **{"norm.weight": norm})).model
    assert (model.match, model.differences) == (
        "architecture",
        ("stored as BF16, F32, llama-3.2-1b has 16-bit floats",),
    )


def test_an_untied_copy_of_a_tied_model_is_not_an_exact_match(tmp_path):
    output = torch.empty(128256, 2048, dtype=torch.bfloat16)
    model = summary_of(official_1b(tmp_path, **{"output.weight": output})).model
    assert (model.match, model.differences) == (
        "architecture",
        ("output and embedding are not tied, unlike in llama-3.2-1b",),
    )


def test_broadcast_weights_are_an_error_and_not_counted(tmp_path):
    wide = torch.zeros(1, dtype=torch.bfloat16).expand(8192, 2048)
    path = official_1b(tmp_path, **{"layers.0.feed_forward.w1.weight": wide})
    report = summary_of(path)
    assert "fewer elements are stored than the shape has" in findings(path)[0]
    assert report.model.match == "architecture"
    assert report.parameters.total == 1_235_814_400 - 8192 * 2048 + 1


def test_a_weight_without_a_single_axis_is_named(tiny):
    change(tiny, lambda weights: weights.update({"layers.1.attention.wk.weight": torch.ones(())}))
    assert any("layers.1.attention.wk.weight: shape []" in text for text in findings(tiny))


def test_weights_that_contradict_params_json_are_recognised_by_their_shapes(tmp_path):
    path = official_1b(tmp_path)
    (path / "params.json").write_text(json.dumps(LLAMA_3_70B))
    report = summary_of(path)
    assert report.model.match == "none"
    assert (
        "params.json: the weights have the shapes of llama-3.2-1b; params.json is another's"
        in findings(path)
    )


def test_overlapping_views_count_their_bytes_once(tmp_path):
    base = torch.arange(1000.0)
    report = summary_of(write_native(tmp_path, None, [{"a": base[:], "b": base[:50]}]))
    assert (report.parameters.total, report.parameters.stored) == (1000, 1050)
    assert report.nbytes == 4000
    assert report.findings[-1].message.startswith("tied: names for the same bytes, so 50")


def test_active_parameters_are_never_negative(tmp_path):
    params = TINY_MOE | {"moe_args": TINY_MOE["moe_args"] | {"interleave_moe_layer_step": 1}}
    report = summary_of(write_native(tmp_path, params, [random_weights(moe_shapes(TINY_MOE))]))
    assert 0 < report.parameters.active < report.parameters.total


def test_a_tiktoken_file_that_is_far_too_small_is_an_error(tiny):
    (tiny / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    (tiny / "params.json").write_text(json.dumps(TINY | {"vocab_size": 128256}))
    assert any("it has 258 tokens, params.json says 128,256" in f for f in findings(tiny))


def test_very_many_findings_are_cut_short(tmp_path):
    weights = {f"x{i}": torch.ones(1).bfloat16() for i in range(300)}
    write_native(tmp_path, TINY, [weights | random_weights(dense_shapes(TINY, TINY_HIDDEN))])
    report = summary_of(tmp_path)
    assert len(report.findings) == 101
    assert report.findings[-1].message == "200 more of this kind are not shown"


def test_the_output_is_the_copy_even_when_it_is_listed_first(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["output.weight"] = weights["tok_embeddings.weight"]
    weights.move_to_end("output.weight", last=False)
    report = summary_of(write_native(tmp_path, TINY, [weights]))
    assert report.tied_output
    assert report.parameters.by_component["token_embedding"] == 128 * 64
    assert "output" not in report.parameters.by_component
