"""`diff` and `summary` on what people have: broken, half, quantised and edited checkpoints."""

import json
import os
import struct

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, TINY_MOE, write_native
from conftest import tiny_weights
from hub_layout import hub_config, hub_config_moe, to_hub, write_hub
from safetensors.torch import save_file

from llamainspect.checkpoint import open_checkpoint
from llamainspect.diff import DiffOptions, diff_checkpoints
from llamainspect.distance import compare_weights
from llamainspect.hub_config import config_from_hub
from llamainspect.inventory import list_tensors
from llamainspect.model.runner import load_model
from llamainspect.render.text import to_text
from llamainspect.subject import find_subject
from llamainspect.summary import summarize


def hub(path, weights=None, *, tied=False, **changes):
    """The tiny model as Hugging Face lays it out, with changes to its config.json."""
    stored = to_hub(weights or tiny_weights(), TINY, TINY_HIDDEN)
    if tied:
        del stored["lm_head.weight"]
        changes["tie_word_embeddings"] = True
    return str(write_hub(path, stored, hub_config(TINY, TINY_HIDDEN, **changes)))


def messages(report, severity):
    return [f"{f.where}: {f.message}" for f in report.findings if f.severity == severity]


@pytest.mark.parametrize("config", ["{}", "", '{"hidden_size": "wide"}'])
def test_a_broken_config_json_takes_nothing_from_the_weights(tmp_path, config):
    a, b = hub(tmp_path / "a"), hub(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text(config)
    report = diff_checkpoints(a, b)
    assert report.counts == {"identical": 21}
    assert any("no configuration that is known" in text for text in messages(report, "note"))


def test_an_output_that_only_the_other_has_by_being_tied_is_missing(tmp_path):
    tied = hub(tmp_path / "tied", tied=True)
    lost = hub(tmp_path / "lost", tied=True)
    config = json.loads((tmp_path / "lost" / "config.json").read_text())
    (tmp_path / "lost" / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": False})
    )
    report = diff_checkpoints(tied, lost)
    assert not report.ok
    assert [row.name for row in report.weights if row.status == "only_a"] == ["output.weight"]


def test_nan_where_the_other_has_numbers_comes_first(tmp_path):
    weights = {name: weight * 1.001 for name, weight in tiny_weights().items()}
    weights["layers.1.feed_forward.w3.weight"][:] = float("nan")
    a, b = hub(tmp_path / "a"), hub(tmp_path / "b", weights)
    for one, other, side in ((a, b, "B"), (b, a, "A")):
        report = diff_checkpoints(one, other, DiffOptions(top=1))
        assert report.likeness.kind == "not_finite"
        assert f"NaN or Inf in {side} where" in report.likeness.message
        assert report.weights[0].name == "layers.1.feed_forward.w3.weight"
        (warning,) = messages(report, "warning")
        assert "in 1 weight;" in warning


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_and_back_is_no_fine_tune(tmp_path, bits):
    generator = torch.Generator().manual_seed(0)
    shape, group = (64, 1024), 32 if bits == 4 else 1024
    sides = {}
    for name in "ab":
        (tmp_path / name).mkdir()
        sides[name] = {}
    for layer in range(3):
        weight = torch.randn(shape, generator=generator)
        grouped = weight.view(-1, group)
        top = 2 ** (bits - 1) - 1
        scale = grouped.abs().amax(1, keepdim=True) / top
        sides["a"][f"model.layers.{layer}.mlp.up_proj.weight"] = weight.bfloat16()
        back = ((grouped / scale).round() * scale).view(shape).bfloat16()
        sides["b"][f"model.layers.{layer}.mlp.up_proj.weight"] = back
    for name, weights in sides.items():
        save_file(weights, tmp_path / name / "model.safetensors")
    found = diff_checkpoints(str(tmp_path / "a"), str(tmp_path / "b")).likeness
    assert found.kind == "quantised"
    assert f"from {bits} bits" in found.message


def test_nothing_is_said_of_the_whole_model_when_some_was_chosen(tmp_path):
    moved = {name: weight * 1.01 for name, weight in tiny_weights().items()}
    a, b = hub(tmp_path / "a"), hub(tmp_path / "b", moved)
    assert diff_checkpoints(a, b).likeness.kind == "fine_tune"
    assert diff_checkpoints(a, b, DiffOptions(names="*q_proj*")).likeness is None


def test_everything_else_is_not_the_same_when_something_is_missing(tmp_path):
    edited = tiny_weights()
    edited["layers.0.attention.wq.weight"][3, 5] += 1
    a, b = hub(tmp_path / "a"), str(tmp_path / "b")
    stored = to_hub(edited, TINY, TINY_HIDDEN)
    write_hub(tmp_path / "b", stored, hub_config(TINY, TINY_HIDDEN))
    assert diff_checkpoints(a, b).likeness.kind == "damage"
    del stored["model.norm.weight"]
    write_hub(tmp_path / "b", stored, hub_config(TINY, TINY_HIDDEN))
    assert diff_checkpoints(a, b).likeness is None


def test_only_the_dtype_is_not_said_when_a_weight_is_missing(tmp_path):
    stored = {n: w.float() for n, w in to_hub(tiny_weights(), TINY, TINY_HIDDEN).items()}
    wide = str(write_hub(tmp_path / "wide", stored, hub_config(TINY, TINY_HIDDEN)))
    a = hub(tmp_path / "a")
    assert diff_checkpoints(a, wide).likeness.kind == "dtype"
    del stored["model.norm.weight"]
    write_hub(tmp_path / "wide", stored, hub_config(TINY, TINY_HIDDEN))
    assert diff_checkpoints(a, wide).likeness is None


def test_zeros_of_another_sign_are_shown(tmp_path):
    weights = [tiny_weights(), tiny_weights()]
    weights[0]["norm.weight"][5], weights[1]["norm.weight"][5] = 0.0, -0.0
    report = diff_checkpoints(hub(tmp_path / "a", weights[0]), hub(tmp_path / "b", weights[1]))
    page = to_text(report, terminal=False)
    assert (report.counts, report.ok) == ({"identical": 20, "equal": 1}, False)
    assert "norm.weight  0 and -0" in page
    assert "more (--top)" not in page


def test_a_field_that_nobody_knows_may_matter(tmp_path):
    a, b = hub(tmp_path / "a", logit_scale=1), hub(tmp_path / "b", logit_scale=9, pad_token_id=3)
    rows = {row.field: (row.a, row.b, row.matters) for row in diff_checkpoints(a, b).config}
    assert rows == {"logit_scale": (1, 9, True), "pad_token_id": (None, 3, False)}


@pytest.mark.parametrize("field", ["beta_fast", "original_max_position_embeddings", "factor"])
def test_all_of_a_foreign_rope_scaling_matters(tmp_path, field):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32,
            "original_max_position_embeddings": 4096}  # fmt: skip
    a = hub(tmp_path / "a", rope_parameters=rope)
    b = hub(tmp_path / "b", rope_parameters=rope | {field: 2 * rope[field]})
    assert diff_checkpoints(a, a).ok
    report = diff_checkpoints(a, b, DiffOptions(config_only=True))
    assert not report.ok
    assert [row.matters for row in report.config] == [True]


def test_two_models_with_other_heads_are_compared_row_by_row(tmp_path):
    a = hub(tmp_path / "a")
    changed = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    report = diff_checkpoints(a, hub(tmp_path / "b", **changed))
    assert {row.field for row in report.config} >= {"n_heads", "n_kv_heads", "head_dim"}
    changed_rows = {row.name.partition("attention.")[2] for row in report.weights if row.changed}
    assert changed_rows == {"wq.weight", "wk.weight"}  # the rows of other heads


def test_numbers_and_what_is_none_are_not_equal(tmp_path):
    for name, weight in (("a", torch.ones(4, dtype=torch.complex64)), ("b", torch.zeros(4))):
        (tmp_path / name).mkdir()
        save_file({"x": weight}, tmp_path / name / "model.safetensors")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    report = diff_checkpoints(a, b, DiffOptions(rtol=0))
    assert not report.ok
    assert any("not compared" in text for text in messages(report, "error"))


def test_floats_of_four_bits_are_listed(tmp_path):
    header = json.dumps({"x": {"dtype": "F4", "shape": [4, 6], "data_offsets": [0, 12]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(range(12))
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)
    (entry,) = list_tensors(open_checkpoint(str(tmp_path / "a"))).tensors
    assert (entry.dtype, entry.shape, entry.nbytes) == ("F4", (4, 6), 12)
    assert diff_checkpoints(str(tmp_path / "a"), str(tmp_path / "b")).counts == {"identical": 1}
    (tmp_path / "b" / "model.safetensors").write_bytes(data[:-1] + b"\xff")
    report = diff_checkpoints(str(tmp_path / "a"), str(tmp_path / "b"))
    assert [(row.status, row.first) for row in report.weights] == [("changed", (3, 4))]


def test_an_adapter_is_called_one_and_equals_itself(tmp_path):
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 4)},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    report = diff_checkpoints(str(tmp_path), str(tmp_path))
    assert report.ok
    assert any("an adapter alone" in text for text in messages(summarize(open_checkpoint(
        str(tmp_path))), "note"))  # fmt: skip


def test_a_head_that_should_be_the_embedding_and_is_not_is_a_warning(tmp_path):
    weights = tiny_weights()
    differs = hub(tmp_path / "differs", weights, tie_word_embeddings=True)
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    agrees = hub(tmp_path / "agrees", weights, tie_word_embeddings=True)
    reports = [summarize(open_checkpoint(path)) for path in (differs, agrees)]
    assert [report.tied_output for report in reports] == [False, True]
    assert "stored with other values" in "".join(messages(reports[0], "warning"))
    assert messages(reports[1], "warning") == []


def test_names_that_no_loader_finds_are_a_warning(tmp_path):
    for prefix in ("language_model.", "base_model.model."):
        path = tmp_path / prefix
        stored = {prefix + n: w for n, w in to_hub(tiny_weights(), TINY, TINY_HIDDEN).items()}
        write_hub(path, stored, hub_config(TINY, TINY_HIDDEN))
        report = summarize(open_checkpoint(str(path)))
        assert report.ok
        assert f"names begin with {prefix!r}" in "".join(messages(report, "warning"))


def test_a_classifier_lacks_nothing(tmp_path):
    stored = to_hub(tiny_weights(), TINY, TINY_HIDDEN)
    stored["score.weight"] = torch.ones(2, 64)
    del stored["lm_head.weight"]
    config = hub_config(TINY, TINY_HIDDEN, architectures=["LlamaForSequenceClassification"])
    assert summarize(open_checkpoint(str(write_hub(tmp_path, stored, config)))).ok


def test_blocks_end_where_heads_do(tmp_path, monkeypatch):
    monkeypatch.setattr("llamainspect.blocks.BLOCK_NBYTES", 5_000)  # 39 rows of 64, heads have 16
    native = write_native(tmp_path / "native", TINY, [tiny_weights()])
    assert diff_checkpoints(str(native), hub(tmp_path / "hub")).identical


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path, monkeypatch):
    a, b = hub(tmp_path / "a"), hub(tmp_path / "b")

    def compare(*arguments):
        file = tmp_path / "b" / "model.safetensors"
        os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1_000_000_000))
        return compare_weights(*arguments)

    monkeypatch.setattr("llamainspect.diff.compare_weights", compare)
    report = diff_checkpoints(a, b)
    assert not report.identical  # nothing is said of values that may be of two states
    assert not report.ok
    assert "it changed while it was read" in "".join(messages(report, "error"))


def test_two_elements_with_much_between_them_are_no_stretch(tmp_path):
    weights = tiny_weights()
    flat = weights["layers.0.feed_forward.w1.weight"].view(-1)
    flat[100] += 1
    flat[103] += 1
    near = diff_checkpoints(hub(tmp_path / "a"), hub(tmp_path / "near", weights)).likeness
    flat[103] -= 1
    flat[600] += 1
    far = diff_checkpoints(hub(tmp_path / "a"), hub(tmp_path / "far", weights)).likeness
    assert (near.kind, far) == ("damage", None)


def test_a_negated_model_was_not_trained_apart(tmp_path):
    negated = {name: -weight for name, weight in tiny_weights().items()}
    assert diff_checkpoints(hub(tmp_path / "a"), hub(tmp_path / "b", negated)).likeness is None


def test_a_missing_shard_leaves_the_total_size_unjudged(tmp_path):
    stored = to_hub(tiny_weights(), TINY, TINY_HIDDEN)
    write_hub(tmp_path, stored, hub_config(TINY, TINY_HIDDEN), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    report = summarize(open_checkpoint(str(tmp_path)))
    assert messages(report, "warning") == []
    assert [text for text in messages(report, "error") if "missing. " in text] == []


def test_safetensors_with_metas_names_go_by_params_json(tmp_path):
    save_file(tiny_weights(), tmp_path / "model.safetensors")
    (tmp_path / "params.json").write_text(json.dumps(TINY | {"vocab_size": -1}))
    native = write_native(tmp_path / "native", TINY, [tiny_weights()])
    report = summarize(open_checkpoint(str(tmp_path)))
    assert (report.ok, report.format, report.config["vocab_size"]) == (True, "hf", 128)
    assert diff_checkpoints(str(tmp_path), str(native)).identical


def test_a_llama_4_that_lists_no_routed_layers_has_none():
    raw = hub_config_moe(TINY_MOE, moe_layers=[])
    assert config_from_hub(raw).moe is None


def test_nan_in_q_proj_is_located_in_metas_order(tmp_path):
    weights = tiny_weights()
    weights["layers.1.attention.wq.weight"][3, 5] = float("nan")
    model = load_model(find_subject(hub(tmp_path, weights)))
    assert "wq.weight: it holds NaN at [3, 5]" in str(model.explain_non_finite([1, 2]))
