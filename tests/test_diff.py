"""`diff`: every form of one model is the same model, and what is not is found where it stands."""

import gc
import json
import os
import shutil
import sys
import tracemalloc
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    cut,
    moe_shapes,
    random_weights,
    write_native,
)
from conftest import FORMS, HUB_FORMS, tiny_weights
from hub_layout import SCALED, hub_config, hub_config_moe, to_hub, to_hub_moe, write_hub
from test_cli import run as run_process

from llamainspect.cli import main
from llamainspect.diff import DiffOptions, diff_checkpoints
from llamainspect.errors import (
    CorruptFile,
    InvalidRequest,
    LlamaInspectError,
    MissingFile,
    NotACheckpoint,
)
from llamainspect.render.json import to_json
from llamainspect.render.text import to_text

ALL_FORMS = FORMS | HUB_FORMS
CONFIG_ONLY = DiffOptions(config_only=True)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The tiny model in each form; do not write into it."""
    root = tmp_path_factory.mktemp("forms")
    return {name: str(write(root / str(i))) for i, (name, write) in enumerate(ALL_FORMS.items())}


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: its exit code, standard output and standard error."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["llamainspect", *map(str, arguments)])
        threshold = gc.get_threshold()
        with pytest.raises(SystemExit) as ended:
            main()
        gc.set_threshold(*threshold)
        gc.unfreeze()
        return ended.value.code, *capsys.readouterr()

    return command


def write_form(path: Path, form: str, weights) -> str:
    """Some weights of the tiny model's shapes in one of the forms."""
    shards = {"one shard": 1, "two shards": 2, "two shards, embedding cut by columns": 2}
    if form in shards:
        axis = int("columns" in form)
        return str(write_native(path, TINY, cut(weights, shards[form], embedding_axis=axis)))
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    how = {
        "safetensors, one file": {},
        "safetensors, three files": {"shards": 3},
        "pytorch_model.bin, two files": {"shards": 2, "kind": "bin"},
    }[form]
    return str(write_hub(path, hub, hub_config(TINY, TINY_HIDDEN), **how))


def statuses(report) -> dict[str, str]:
    """What became of those weights that are not identical."""
    return {row.name: row.status for row in report.weights if row.status != "identical"}


def errors(report) -> list[str]:
    return [f"{f.where}: {f.message}" for f in report.findings if f.severity == "error"]


def test_an_output_that_is_the_embedding_in_one_of_the_two_alone_is_a_note(tmp_path):
    matrix = torch.arange(6.0).view(3, 2)
    tied = {"tok_embeddings.weight": matrix, "output.weight": matrix}
    loose = tied | {"output.weight": matrix.clone()}
    paths = {
        name: str(write_native(tmp_path / name, None, [state]))
        for name, state in (("tied", tied), ("loose", loose))
    }
    notes = {}
    for a in paths:
        for b in paths:
            report = diff_checkpoints(paths[a], paths[b])
            assert (report.ok, report.identical) == (True, True)
            notes[a, b] = [f.message for f in report.findings if f.where == "output.weight"]
    assert notes == {
        ("tied", "tied"): [],
        ("tied", "loose"): ["in A it has the bytes of the embedding, in B its own"],
        ("loose", "tied"): ["in B it has the bytes of the embedding, in A its own"],
        ("loose", "loose"): [],
    }


def test_weights_without_values_are_not_called_the_same(tmp_path, run):
    for side, rows in (("a", 3), ("b", 5)):
        state = {"w": torch.empty(rows, device="meta"), "x": torch.ones(2)}
        write_native(tmp_path / side, None, [state])
    for other in ("a", "b"):
        code, page, _ = run("diff", tmp_path / "a", tmp_path / other)
        assert code == 1
        assert "not established: an error stands above" in page
        assert "to the last bit" not in page
    assert "[3] of F32" in page
    assert "[5] of F32" in page


# --- the same model -------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(ALL_FORMS, 2)])
def test_every_form_of_a_model_is_the_same_model(forms, one, other):
    for a, b in ((one, other), (other, one)):
        report = diff_checkpoints(forms[a], forms[b])
        assert (report.identical, report.same, report.ok) == (True, True, True)
        assert report.counts == {"identical": 21}
        assert (fields(report), report.likeness, report.findings) == ({}, None, ())
        assert {(row.changed, row.max_abs, row.rel_l2, row.cosine) for row in report.weights} == {
            (0, 0.0, 0.0, 1.0)
        }


def test_the_same_path_twice_is_the_same(forms):
    path = forms["two shards"]
    assert diff_checkpoints(path, path).ok
    assert diff_checkpoints(path, f"{path}/").ok
    assert diff_checkpoints(path, path, CONFIG_ONLY).ok


def test_a_file_of_its_own_is_the_directory_that_it_stands_in(forms):
    native, hub = forms["one shard"], forms["safetensors, one file"]
    report = diff_checkpoints(f"{native}/consolidated.00.pth", f"{hub}/model.safetensors")
    assert (report.ok, report.counts) == (True, {"identical": 21})


@pytest.fixture
def tied(tmp_path):
    """A model whose output is its embedding, in the ways in which that is stored."""
    weights = tiny_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    twice = weights | {"output.weight": weights["output.weight"].clone()}
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    short = {name: weight for name, weight in hub.items() if name != "lm_head.weight"}
    config = hub_config(TINY, TINY_HIDDEN, tie_word_embeddings=True)
    return {
        "shared": str(write_native(tmp_path / "shared", TINY, [weights])),
        "twice": str(write_native(tmp_path / "twice", TINY, [twice])),
        "shards": str(write_native(tmp_path / "shards", TINY, cut(weights, 2))),
        "no head": str(write_hub(tmp_path / "hub", short, config)),
        "no head, bin": str(write_hub(tmp_path / "bin", short, config, shards=2, kind="bin")),
        "head": str(write_hub(tmp_path / "head", hub, config)),
    }


def test_a_tied_output_is_the_same_however_it_is_stored(tied):
    for one in tied:
        for other in tied:
            report = diff_checkpoints(tied[one], tied[other])
            assert (report.ok, report.identical) == (True, True), (one, other)
            assert [row for row in report.config if row.matters] == []
            assert errors(report) == []


def test_an_output_that_is_no_longer_the_embedding_is_a_change(tied, tmp_path):
    weights = tiny_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    weights["output.weight"][3, 4] += 1
    untied = str(write_native(tmp_path / "untied", TINY, [weights]))
    for form in tied.values():
        report = diff_checkpoints(form, untied)
        assert statuses(report) == {"output.weight": "changed"}
        row = report.weights[0]
        assert (row.changed, row.first, row.last) == (1, (3, 4), (3, 4))
        assert not report.ok


# --- one element ----------------------------------------------------------------------------------

# Weight, index, and where Hugging Face's layout has that row: a head has 16 rows, and Meta's row
# 2 * i + j of one is row 8 * j + i there. Row 53 is row 5 of head 3: i = 2, j = 1, so its row 10.
PLANTED = [
    ("layers.1.attention.wq.weight", (53, 7), 58),
    ("layers.0.attention.wk.weight", (18, 63), 17),  # row 2 of head 1: i = 1, j = 0
    ("layers.0.attention.wv.weight", (18, 63), 18),
    ("layers.1.attention.wo.weight", (5, 40), 5),
    ("layers.0.feed_forward.w2.weight", (63, 191), 63),
    ("layers.1.feed_forward.w3.weight", (0, 0), 0),
    ("layers.1.ffn_norm.weight", (33,), None),
    ("norm.weight", (63,), None),
    ("tok_embeddings.weight", (100, 50), 100),
    ("output.weight", (64, 0), 64),
]


def word(value: torch.Tensor) -> bytes:
    """A BF16 value as it is stored."""
    return value.reshape(1).view(torch.int16).numpy().tobytes()


def bytes_at(path: str, place: str) -> bytes:
    file, offset = place.split(" @ ")
    return (Path(path) / file).read_bytes()[int(offset.replace(",", "")) :][:2]


@pytest.mark.parametrize("form", ALL_FORMS)
def test_one_changed_element_is_found_in_its_place(forms, tmp_path, form):
    whole = tiny_weights()
    for number, (name, index, _) in enumerate(PLANTED):
        weights = whole | {name: whole[name].clone()}
        before = whole[name][index].clone()
        weights[name][index] = 0.15625  # 5/32
        path = write_form(tmp_path / str(number), form, weights)
        for a in (forms["two shards"], forms["safetensors, three files"]):
            report = diff_checkpoints(a, path)
            assert (report.identical, report.same, report.ok) == (False, False, False)
            assert statuses(report) == {name: "changed"}, name
            row = report.weights[0]  # sorted to the front
            assert (row.name, row.changed, row.first, row.last) == (name, 1, index, index)
            assert row.max_abs == abs(before.double() - 0.15625).item()
            assert torch.tensor(float(row.value_b)).bfloat16() == 0.15625
            assert bytes_at(path, row.place_b) == b"\x20\x3e"
            assert torch.tensor(float(row.value_a)).bfloat16() == before
            assert bytes_at(a, row.place_a) == word(before)
            assert report.likeness.kind == "damage"
            assert report.likeness.message.startswith(f"one element alone: {name} at {list(index)}")


def test_the_place_in_hugging_face_order_is_that_of_the_stored_row(tmp_path, forms):
    whole = tiny_weights()
    for name, index, row in PLANTED:
        if row is None:
            continue
        weights = whole | {name: whole[name].clone()}
        weights[name][index] = 0.15625
        path = write_form(tmp_path / name, "safetensors, one file", weights)
        found = diff_checkpoints(forms["one shard"], path).weights[0]
        data = (Path(path) / "model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        stored = {"model.embed_tokens.weight": "tok_embeddings.weight",
                  "lm_head.weight": "output.weight"}  # fmt: skip
        for layer in (0, 1):
            for here, there in (
                ("self_attn.q_proj", "attention.wq"), ("self_attn.k_proj", "attention.wk"),
                ("self_attn.v_proj", "attention.wv"), ("self_attn.o_proj", "attention.wo"),
                ("mlp.down_proj", "feed_forward.w2"), ("mlp.up_proj", "feed_forward.w3"),
            ):  # fmt: skip
                stored[f"model.layers.{layer}.{here}.weight"] = f"layers.{layer}.{there}.weight"
        (entry,) = [header[key] for key in stored if stored[key] == name]
        start = 8 + length + entry["data_offsets"][0]
        offset = start + 2 * (row * entry["shape"][1] + index[1])
        assert found.place_b == f"model.safetensors @ {offset:,}", name


def test_a_flipped_bit_is_named(forms, tmp_path):
    weights = tiny_weights()
    weights["layers.0.attention.wo.weight"].view(torch.int16)[2, 3] ^= 1 << 9
    path = write_form(tmp_path, "two shards", weights)
    message = diff_checkpoints(forms["safetensors, one file"], path).likeness.message
    assert message.endswith("layers.0.attention.wo.weight at [2, 3], where bit 9 is flipped")


def test_two_flipped_bits_are_not_called_one(forms, tmp_path):
    weights = tiny_weights()
    weights["layers.0.attention.wo.weight"].view(torch.int16)[2, 3] ^= 0b11
    path = write_form(tmp_path, "one shard", weights)
    assert "bit" not in diff_checkpoints(forms["one shard"], path).likeness.message


# --- only one has it, or it is of another shape or type -------------------------------------------


def test_weights_of_one_side_alone_are_named(forms, tmp_path):
    weights = tiny_weights()
    del weights["layers.1.ffn_norm.weight"]
    weights["layers.1.extra.weight"] = torch.ones(2, 2)
    path = str(write_native(tmp_path, TINY, [weights]))
    report = diff_checkpoints(forms["safetensors, one file"], path)
    assert statuses(report) == {
        "layers.1.ffn_norm.weight": "only_a",
        "layers.1.extra.weight": "only_b",
    }
    assert (report.identical, report.ok) == (False, False)
    rows = {row.name: row for row in report.weights}
    assert rows["layers.1.ffn_norm.weight"].shape_b is None
    assert rows["layers.1.extra.weight"].shape_b == (2, 2)
    assert statuses(diff_checkpoints(path, forms["one shard"])) == {
        "layers.1.ffn_norm.weight": "only_b",
        "layers.1.extra.weight": "only_a",
    }


def test_rope_frequencies_of_one_side_are_no_difference(forms, tmp_path):
    weights = tiny_weights() | {"rope.freqs": torch.ones(8)}
    path = str(write_native(tmp_path, TINY, [weights]))
    for a, b in ((path, forms["two shards"]), (forms["safetensors, one file"], path)):
        report = diff_checkpoints(a, b)
        assert (report.ok, report.identical) == (True, True)


def test_a_longer_vocabulary_is_a_change_of_shape(forms, tmp_path):
    weights = tiny_weights()
    longer = TINY | {"vocab_size": 132}
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = torch.cat([weights[name], torch.ones(4, 64).bfloat16()])
    path = str(write_native(tmp_path, longer, cut(weights, 2)))
    report = diff_checkpoints(forms["safetensors, one file"], path)
    assert statuses(report) == {"tok_embeddings.weight": "shape", "output.weight": "shape"}
    assert [(row.field, row.a, row.b) for row in report.config] == [("vocab_size", 128, 132)]
    rows = {row.name: row for row in report.weights}
    assert rows["output.weight"].shape_a == (128, 64)
    assert rows["output.weight"].shape_b == (132, 64)
    assert rows["output.weight"].changed is None
    assert not report.ok


def test_another_dtype_alone_is_a_difference_unless_tolerance_is_given(forms, tmp_path):
    weights = {name: weight.float() for name, weight in tiny_weights().items()}
    path = write_form(tmp_path, "safetensors, one file", weights)
    report = diff_checkpoints(forms["one shard"], path)
    assert (report.identical, report.same, report.counts) == (False, False, {"equal": 21})
    assert {(row.dtype_a, row.dtype_b, row.changed) for row in report.weights} == {
        ("BF16", "F32", 0)
    }
    assert report.likeness.kind == "dtype"
    assert diff_checkpoints(forms["one shard"], path, DiffOptions(atol=0)).ok


# --- order, components and layers -----------------------------------------------------------------


def test_what_moved_most_stands_first_and_groups_add_up(forms, tmp_path):
    whole = tiny_weights()
    factors = {
        "layers.0.attention.wv.weight": 1.5,
        "layers.1.feed_forward.w1.weight": 3.0,
        "layers.1.feed_forward.w2.weight": 2.0,
        "norm.weight": 1.25,
    }
    changed = {name: whole[name] * factor for name, factor in factors.items()}
    path = write_form(tmp_path, "safetensors, three files", whole | changed)
    report = diff_checkpoints(forms["two shards"], path)
    moved = [(row.name, row.rel_l2) for row in report.weights[:4]]
    assert [name for name, _ in moved] == sorted(factors, key=lambda name: -factors[name])
    for name, rel_l2 in moved:  # exact in BF16 for 2.0; the others are rounded once
        assert rel_l2 == pytest.approx(factors[name] - 1, rel=1e-2)
    assert moved[1][1] == pytest.approx(1.0, rel=1e-6)
    w1, w2 = (f"layers.1.feed_forward.{name}.weight" for name in ("w1", "w2"))
    a = torch.cat([whole[w1].double().flatten(), whole[w2].double().flatten()])
    b = torch.cat([changed[w1].double().flatten(), changed[w2].double().flatten()])
    layer = next(group for group in report.by_layer if group.name == "layer 1")
    assert (layer.weights, layer.weights_changed) == (9, 2)
    assert (layer.changed, layer.elements) == (2 * 192 * 64, 49_280)
    assert layer.max_abs == (a - b).abs().max().item()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    assert layer.rel_l2 == pytest.approx(((a - b).norm() / a.norm()).item(), rel=1e-6)
    assert layer.cosine == pytest.approx(cosine, abs=1e-6)
    components = {group.name: group for group in report.by_component}
    assert {name for name, group in components.items() if group.changed} == {
        "attention", "feed_forward", "norms",
    }  # fmt: skip
    assert components["feed_forward"].rel_l2 == layer.rel_l2
    assert components["norms"].weights == 5
    assert components["norms"].weights_changed == 1
    assert (components["output"].changed, components["output"].rel_l2) == (0, 0.0)


def test_layers_are_listed_once_each(forms):
    report = diff_checkpoints(forms["safetensors, three files"], forms["one shard"])
    assert [group.name for group in report.by_layer] == ["layer 0", "layer 1"]
    assert sum(group.elements for group in report.by_component) == 115_008


# --- configurations -------------------------------------------------------------------------------


def native_config(path: Path, params) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "params.json").write_text(json.dumps(params))
    return str(path)


def hub_only(path: Path, config) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def fields(report) -> dict[str, tuple]:
    return {row.field: (row.a, row.b) for row in report.config if row.matters}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dim": 128, "n_heads": 8, "ffn_dim_multiplier": 0.5},
         {"dim": (64, 128), "n_heads": (4, 8)}),  # hidden: int(0.5 * 341) = 170, up to 192
        ({"n_layers": 3}, {"n_layers": (2, 3)}),
        ({"n_heads": 2}, {"n_heads": (4, 2), "head_dim": (16, 32)}),
        ({"n_kv_heads": 4}, {"n_kv_heads": (2, 4)}),
        ({"vocab_size": 256}, {"vocab_size": (128, 256)}),
        ({"multiple_of": 256}, {"hidden_dim": (192, 256)}),
        ({"ffn_dim_multiplier": 1.3}, {"hidden_dim": (192, 224)}),  # int(1.3 * 170) = 221
        ({"norm_eps": 1e-6}, {"norm_eps": (1e-5, 1e-6)}),
        ({"rope_theta": 1e4}, {"rope_theta": (5e5, 1e4)}),
        ({"use_scaled_rope": True},
         {"rope.factor": (None, 8.0), "rope.high_freq_factor": (None, 4.0),
          "rope.low_freq_factor": (None, 1.0), "rope.original_context": (None, 8192)}),
    ],
)  # fmt: skip
def test_each_field_of_a_native_configuration_counts(tmp_path, changes, expected):
    a = native_config(tmp_path / "a", TINY)
    b = native_config(tmp_path / "b", TINY | changes)
    report = diff_checkpoints(a, b, CONFIG_ONLY)
    assert (fields(report), report.ok, report.identical) == (expected, False, False)
    assert diff_checkpoints(b, b, CONFIG_ONLY).ok


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": ("silu", "gelu")}),
        ({"attention_bias": True}, {"attention_bias": (False, True)}),
        ({"mlp_bias": True}, {"mlp_bias": (False, True)}),
        ({"intermediate_size": 256}, {"hidden_dim": (192, 256)}),
        ({"head_dim": 32}, {"head_dim": (16, 32)}),
        ({"rms_norm_eps": 1e-6}, {"norm_eps": (1e-5, 1e-6)}),
        ({"num_key_value_heads": 1}, {"n_kv_heads": (2, 1)}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
         {"rope_theta": (5e5, 1e4)}),
        ({"rope_parameters": SCALED | {"rope_theta": 5e5, "factor": 32.0}},
         {"rope.factor": (None, 32.0), "rope.high_freq_factor": (None, 4.0),
          "rope.low_freq_factor": (None, 1.0), "rope.original_context": (None, 8192)}),
    ],
)  # fmt: skip
def test_each_field_of_a_hub_configuration_counts(tmp_path, changes, expected):
    a = hub_only(tmp_path / "a", hub_config(TINY, TINY_HIDDEN))
    b = hub_only(tmp_path / "b", hub_config(TINY, TINY_HIDDEN, **changes))
    report = diff_checkpoints(a, b, CONFIG_ONLY)
    assert (fields(report), report.ok) == (expected, False)
    native = diff_checkpoints(native_config(tmp_path / "n", TINY), b, CONFIG_ONLY)
    assert fields(native) == expected  # whichever file the other stands in


@pytest.mark.parametrize("scaled", [False, True])
def test_rope_spelled_in_three_ways_is_one(tmp_path, scaled):
    params = TINY | {"use_scaled_rope": scaled}
    paths = [
        native_config(tmp_path / "native", params),
        hub_only(tmp_path / "four", hub_config(params, TINY_HIDDEN, spelling=4)),
        hub_only(tmp_path / "five", hub_config(params, TINY_HIDDEN, spelling=5)),
    ]
    for a in paths:
        for b in paths:
            report = diff_checkpoints(a, b, CONFIG_ONLY)
            assert (report.ok, report.identical, fields(report)) == (True, True, {}), (a, b)


def test_each_constant_of_scaled_rope_counts(tmp_path):
    scaled = TINY | {"use_scaled_rope": True}
    a = hub_only(tmp_path / "a", hub_config(scaled, TINY_HIDDEN, spelling=4))
    for number, (key, value, field) in enumerate(
        [
            ("factor", 32.0, "rope.factor"),
            ("low_freq_factor", 2.0, "rope.low_freq_factor"),
            ("high_freq_factor", 8.0, "rope.high_freq_factor"),
            ("original_max_position_embeddings", 4096, "rope.original_context"),
        ]
    ):
        changed = SCALED | {key: value}
        config = hub_config(scaled, TINY_HIDDEN, spelling=4, rope_scaling=changed)
        report = diff_checkpoints(a, hub_only(tmp_path / str(number), config), CONFIG_ONLY)
        assert fields(report) == {field: (SCALED[key], value)}


HARMLESS = {
    "torch_dtype": "float32",
    "eos_token_id": [2, 3],
    "bos_token_id": 7,
    "max_position_embeddings": 4096,
    "transformers_version": "4.31.0",
    "architectures": ["LlamaModel"],
    "use_cache": False,
    "attention_dropout": 0.1,
    "initializer_range": 0.01,
    "pad_token_id": 0,
    "_name_or_path": "somewhere",
}


@pytest.mark.parametrize("key", HARMLESS)
def test_what_decides_nothing_that_is_computed_does_not_count(tmp_path, key):
    a = hub_only(tmp_path / "a", hub_config(TINY, TINY_HIDDEN, spelling=4))
    changed = hub_config(TINY, TINY_HIDDEN, spelling=4, **{key: HARMLESS[key]})
    b = hub_only(tmp_path / "b", changed)
    report = diff_checkpoints(a, b, CONFIG_ONLY)
    assert (report.ok, fields(report)) == (True, {})
    assert [row.matters for row in report.config] == [False]  # said all the same


def test_a_harmless_field_leaves_equal_weights_identical(forms, tmp_path):
    config = hub_config(TINY, TINY_HIDDEN, eos_token_id=9, max_position_embeddings=16)
    path = write_hub(tmp_path, to_hub(tiny_weights(), TINY, TINY_HIDDEN), config)
    report = diff_checkpoints(forms["safetensors, one file"], str(path))
    assert (report.ok, report.identical) == (True, True)


def test_a_field_that_counts_makes_equal_weights_another_model(forms, tmp_path):
    path = str(write_native(tmp_path, TINY | {"rope_theta": 1e4}, [tiny_weights()]))
    for a in forms.values():
        report = diff_checkpoints(a, path)
        assert (report.ok, report.identical, report.same) == (False, False, False)
        assert report.counts == {"identical": 21}
        assert fields(report) == {"rope_theta": (5e5, 1e4)}
        assert not diff_checkpoints(a, path, DiffOptions(atol=1.0)).ok


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"nope_layer_interval": 2}, "nope_layer_interval"),
        ({"attention_chunk_size": 4096}, "attention_chunk_size"),
        ({"moe_args": TINY_MOE["moe_args"] | {"num_experts": 8}}, "moe.num_experts"),
        ({"moe_args": TINY_MOE["moe_args"] | {"top_k": 2}}, "moe.top_k"),
        ({"moe_args": TINY_MOE["moe_args"] | {"interleave_moe_layer_step": 1}},
         "moe.interleave_moe_layer_step"),
        ({"use_qk_norm": False}, "use_qk_norm"),
        ({"attn_temperature_tuning": True, "floor_scale": 8192.0, "attn_scale": 0.1},
         "attn_temperature_tuning"),
    ],
)  # fmt: skip
def test_each_field_of_llama_4_counts(tmp_path, changes, field):
    a = native_config(tmp_path / "a", TINY_MOE)
    b = native_config(tmp_path / "b", TINY_MOE | changes)
    report = diff_checkpoints(a, b, CONFIG_ONLY)
    assert (field in fields(report), report.ok) == (True, False)


def test_official_names_stand_for_their_configurations():
    assert diff_checkpoints("llama-3.1-8b", "llama-3.1-8b-instruct", CONFIG_ONLY).ok
    report = diff_checkpoints("llama-3-8b", "llama-3.1-8b", CONFIG_ONLY)
    assert set(fields(report)) == {
        "rope.factor", "rope.high_freq_factor", "rope.low_freq_factor", "rope.original_context",
    }  # fmt: skip


# --- options --------------------------------------------------------------------------------------


@pytest.fixture
def nudged(tmp_path):
    """1.0 in wo became 1.0078125, one BF16 step (2^-7) more; all else is the same."""
    weights = tiny_weights()
    name = "layers.0.attention.wo.weight"
    weights[name][0, 0] = 1.0
    a = write_form(tmp_path / "a", "one shard", weights)
    b = write_form(tmp_path / "b", "safetensors, one file", weights | {name: weights[name] * 1})
    weights[name][0, 0] = 1.0078125
    b = write_form(tmp_path / "b", "safetensors, one file", weights)
    return a, b


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"atol": 0.0078125}, True),
        ({"atol": 0.0078}, False),
        ({"rtol": 0.0078125 / 1.0078125 + 1e-6}, True),  # times B's value, the larger one
        ({"rtol": 0.0078125 / 1.0078125 - 1e-5}, False),
        ({"rtol": 0.00390625, "atol": 0.00390625}, True),  # 2^-8 + 2^-8 * 1.0078125 > 2^-7
        ({"rtol": 0.0, "atol": 0.0}, False),
        ({"rtol": 0.0}, False),
    ],
)
def test_tolerances_are_those_of_allclose(nudged, options, same):
    report = diff_checkpoints(*nudged, DiffOptions(**options))
    assert (report.same, report.ok, report.identical) == (same, same, False)
    row = report.weights[0]
    assert (row.status, row.changed, row.max_abs) == ("close" if same else "changed", 1, 0.0078125)
    assert (report.rtol, report.atol) == (options.get("rtol"), options.get("atol"))


@pytest.mark.parametrize(
    ("glob", "count"),
    [
        ("layers.0.*", 9),
        ("*.wq.weight", 2),
        ("model.layers.0.self_attn.q_proj.weight", 1),
        ("*q_proj*", 2),
        ("lm_head.weight", 1),
        ("output.weight", 1),
        ("*", 21),
        ("*norm*", 5),
    ],
)
def test_names_are_those_of_either_layout(forms, glob, count):
    options = DiffOptions(names=glob)
    for a, b in (("one shard", "safetensors, three files"), ("two shards", "one shard"),
                 ("pytorch_model.bin, two files", "one shard")):  # fmt: skip
        report = diff_checkpoints(forms[a], forms[b], options)
        assert (report.counts, report.ok) == ({"identical": count}, True)


def test_names_leave_the_others_unread(forms, nudged):
    a, b = nudged
    assert diff_checkpoints(a, b, DiffOptions(names="*.wq.*")).ok
    assert not diff_checkpoints(a, b, DiffOptions(names="*.wo.*")).ok
    report = diff_checkpoints(forms["one shard"], forms["two shards"], DiffOptions(names="*wq*"))
    assert report.nbytes_read == 2 * 2 * 64 * 64 * 2


def test_a_glob_that_matches_nothing_is_said_so(forms):
    with pytest.raises(MissingFile, match="no weight is called like 'nothing'"):
        diff_checkpoints(forms["one shard"], forms["two shards"], DiffOptions(names="nothing"))


@pytest.mark.parametrize("top", [0, 1, 5, 100])
def test_top_lists_so_many_and_counts_all(forms, tmp_path, top):
    weights = {name: weight * 2 for name, weight in tiny_weights().items()}
    path = write_form(tmp_path, "one shard", weights)
    report = diff_checkpoints(forms["one shard"], path, DiffOptions(top=top))
    assert len(report.weights) == min(top, 21)
    assert report.counts == {"changed": 21}
    assert sum(group.weights_changed for group in report.by_component) == 21


@pytest.mark.parametrize(
    "options",
    [
        DiffOptions(rtol=-1.0),
        DiffOptions(atol=float("nan")),
        DiffOptions(atol=float("inf")),
        DiffOptions(top=-1),
        DiffOptions(config_only=True, names="*"),
        DiffOptions(config_only=True, atol=0.0),
    ],
)
def test_options_that_mean_nothing_are_refused(forms, options):
    with pytest.raises(InvalidRequest):
        diff_checkpoints(forms["one shard"], forms["two shards"], options)


def test_config_only_opens_no_weights(tmp_path, forms):
    for name in ("a", "b"):
        native_config(tmp_path / name, TINY)
    report = diff_checkpoints(str(tmp_path / "a"), str(tmp_path / "b"), CONFIG_ONLY)
    assert (report.ok, report.weights, report.nbytes_read) == (True, (), 0)
    report = diff_checkpoints(str(tmp_path / "a"), forms["safetensors, one file"], CONFIG_ONLY)
    assert (report.ok, fields(report)) == (True, {})


# --- the command ----------------------------------------------------------------------------------


def test_the_process_ends_with_0_when_they_are_the_same_and_with_1_when_not(forms, nudged):
    done = run_process("diff", forms["two shards"], forms["safetensors, three files"], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_process("diff", *nudged)
    assert (done.returncode, done.stderr) == (1, "")
    assert "layers.0.attention.wo.weight" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_has_the_fields_that_programs_rely_on(run, nudged, forms):
    code, out, _ = run("diff", *nudged, "--json")
    answer = json.loads(out)
    assert code == 1
    assert (answer["report"], answer["schema"]) == ("diff", 1)
    assert (answer["ok"], answer["identical"]) == (False, False)
    assert len(answer["weights"]) == 21  # all of them, unless --top says otherwise
    row = answer["weights"][0]
    assert (row["name"], row["status"]) == ("layers.0.attention.wo.weight", "changed")
    assert row["max_abs"] == 0.0078125
    assert {"rel_l2", "cosine", "changed", "elements", "dtype_a", "shape_b"} <= row.keys()
    assert (row["first"], row["elements"]) == ([0, 0], 4096)
    assert answer["weights"][-1]["status"] == "identical"
    code, out, _ = run("diff", forms["one shard"], forms["two shards"], "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["identical"]) == (0, True, True)
    assert {row["cosine"] for row in answer["weights"]} == {1.0}


def test_json_equals_the_library(run, nudged):
    _, out, _ = run("diff", *nudged, "--json")
    expected = json.loads(to_json(diff_checkpoints(*nudged)))
    answer = json.loads(out)
    del expected["seconds"], answer["seconds"]
    assert answer == expected


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 1),
        (["--atol", "0.01"], 0),
        (["--rtol", "0.01"], 0),
        (["--rtol", "0.001", "--atol", "0.001"], 1),
        (["--names", "*.wq.*"], 0),
        (["--names", "*.wo.*", "--top", "1"], 1),
        (["--config-only"], 0),
        (["--top", "0"], 1),
        (["--names", "nothing"], 3),
        (["--rtol", "-1"], 2),
        (["--config-only", "--names", "*"], 2),
    ],
)
def test_exit_codes(run, nudged, options, code):
    ended, out, err = run("diff", *nudged, *options)
    assert (ended, bool(out), bool(err)) == (code, code < 2, code >= 2)


def test_a_page_lists_twenty_and_says_how_many_more(run, forms, tmp_path):
    weights = {name: weight * 2 for name, weight in tiny_weights().items()}
    path = write_form(tmp_path, "one shard", weights)
    code, out, _ = run("diff", forms["one shard"], path)
    assert code == 1
    listed = out[out.index("Weights, what moved most first") :]
    assert "and 1 weight more (--top)" in listed
    _, out, _ = run("diff", forms["one shard"], path, "--top", "3")
    assert "and 18 weights more (--top)" in out
    assert len(json.loads(run("diff", forms["one shard"], path, "--json")[1])["weights"]) == 21


def test_the_page_of_equal_models_says_so(forms):
    report = diff_checkpoints(forms["one shard"], forms["safetensors, one file"])
    text = to_text(report, terminal=False)
    assert "same: every weight, to the last bit" in text
    assert "changed" not in text
    report = diff_checkpoints(forms["one shard"], forms["safetensors, one file"], CONFIG_ONLY)
    assert "same: every field that matters" in to_text(report, terminal=False)


def test_a_page_that_shows_a_tolerance_says_which(nudged):
    report = diff_checkpoints(*nudged, DiffOptions(atol=0.5, rtol=0.25))
    text = to_text(report, terminal=False)
    assert "|a - b| <= 0.5 + 0.25 * |b|" in text
    assert "same: nothing differs by more than the tolerance" in text


def test_names_in_files_cannot_drive_the_terminal(tmp_path):
    evil = "layers.0.\x1b[31mred\u202e[bold]\n"
    for name, fill in (("a", 1.0), ("b", 2.0)):
        torch.save({evil: torch.full((2, 2), fill)}, tmp_path / f"{name}.pth")
    report = diff_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    text = to_text(report, terminal=False)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert json.loads(to_json(report))["weights"][0]["name"] == evil


# --- Llama 4 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """The tiny Llama 4 in its forms; do not write into it."""
    root = tmp_path_factory.mktemp("routed")
    return {form: write_moe(root / form, form, random_weights(moe_shapes(TINY_MOE)))
            for form in MOE_FORMS}  # fmt: skip


MOE_FORMS = ("one shard", "two shards", "four shards", "hub", "hub in three files", "hub, bin")


def write_moe(path: Path, form: str, weights) -> str:
    ranks = {"one shard": 1, "two shards": 2, "four shards": 4}.get(form)
    if ranks:
        return str(write_native(path, TINY_MOE, cut(weights, ranks, blocks=MOE_BLOCKS)))
    how = {"hub": {}, "hub in three files": {"shards": 3}, "hub, bin": {"kind": "bin"}}[form]
    return str(write_hub(path, to_hub_moe(weights, TINY_MOE), hub_config_moe(TINY_MOE), **how))


@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(MOE_FORMS, 2)])
def test_every_form_of_llama_4_is_the_same_model(routed, one, other):
    for a, b in ((one, other), (other, one)):
        report = diff_checkpoints(routed[a], routed[b])
        assert (report.ok, report.identical, fields(report)) == (True, True, {})
        assert set(report.counts) == {"identical"}
        assert errors(report) == []


# Fused weight, place in it, and the weight and place that it means. wqkv: 64 + 32 + 32 rows; fc1:
# 224 + 224 rows; experts: 4 of 64 rows of dim each, or of 128 rows of their own width.
MOE_PLANTED = [
    ("layers.0.attention.wqkv.weight", (20, 3), "layers.0.attention.wq.weight", (20, 3)),
    ("layers.1.attention.wqkv.weight", (64, 63), "layers.1.attention.wk.weight", (0, 63)),
    ("layers.0.attention.wqkv.weight", (127, 0), "layers.0.attention.wv.weight", (31, 0)),
    ("layers.0.feed_forward.mlp.fc1_weight", (224, 1), "layers.0.feed_forward.w3.weight", (0, 1)),
    ("layers.0.feed_forward.mlp.fc1_weight", (223, 1), "layers.0.feed_forward.w1.weight", (223, 1)),
    ("layers.0.feed_forward.mlp.fc2_weight", (63, 200), "layers.0.feed_forward.w2.weight",
     (63, 200)),
    ("layers.1.feed_forward.experts.moe_w_in_eD_F", (130, 100), "layers.1.feed_forward.experts.w1",
     (2, 2, 100)),
    ("layers.1.feed_forward.experts.moe_w_swiglu_eD_F", (255, 0),
     "layers.1.feed_forward.experts.w3", (3, 63, 0)),
    ("layers.1.feed_forward.experts.moe_w_out_eF_D", (128, 33), "layers.1.feed_forward.experts.w2",
     (1, 0, 33)),
    ("layers.1.feed_forward.router_DE", (40, 3), "layers.1.feed_forward.router_DE", (40, 3)),
    ("layers.1.feed_forward.w_swiglu_FD.weight", (100, 5),
     "layers.1.feed_forward.shared_expert.w3.weight", (100, 5)),
    ("layers.1.feed_forward.norm.weight", (9,), "layers.1.ffn_norm.weight", (9,)),
]  # fmt: skip


@pytest.mark.parametrize("form", ["two shards", "hub", "one shard"])
def test_one_changed_element_of_llama_4_is_found_in_its_place(routed, tmp_path, form):
    whole = random_weights(moe_shapes(TINY_MOE))
    for number, (stored, index, name, place) in enumerate(MOE_PLANTED):
        weights = whole | {stored: whole[stored].clone()}
        before = word(whole[stored][index])
        weights[stored][index] = 0.15625
        path = write_moe(tmp_path / str(number), form, weights)
        for a in ("one shard", "two shards", "hub"):
            report = diff_checkpoints(routed[a], path)
            assert statuses(report) == {name: "changed"}, stored
            row = report.weights[0]
            assert (row.changed, row.first, row.last) == (1, place, place)
            assert bytes_at(path, row.place_b) == b"\x20\x3e"
            assert bytes_at(routed[a], row.place_a) == before


def test_heads_that_are_stored_twice_are_the_same_as_stored_once(tmp_path, forms):
    """4 ranks, 2 KV heads: every rank holds one head, two neighbours the same one."""
    stored = {
        name: tensor.view(2, 16, 64).repeat_interleave(2, 0).reshape(64, 64)
        if name.endswith(("wk.weight", "wv.weight"))
        else tensor
        for name, tensor in tiny_weights().items()
    }
    four = str(write_native(tmp_path / "four", TINY, cut(stored, 4)))
    for path in forms.values():
        assert diff_checkpoints(four, path).identical
        assert diff_checkpoints(path, four).identical


# --- bad input ------------------------------------------------------------------------------------


def copy_of(path: str, to: Path) -> Path:
    return Path(shutil.copytree(path, to))


def test_a_missing_shard_is_no_equality(forms, tmp_path):
    path = copy_of(forms["two shards"], tmp_path / "b")
    os.remove(path / "consolidated.01.pth")
    for a, b in ((forms["one shard"], str(path)), (str(path), forms["one shard"]),
                 (str(path), str(path))):  # fmt: skip
        report = diff_checkpoints(a, b)
        assert (report.identical, report.same, report.ok) == (False, False, False)
        assert report.counts == {"identical": 5, "incomplete": 16}  # norms are in both shards
        assert any("not compared" in error for error in errors(report))
        assert "consolidated.01.pth missing" in "".join(errors(report))


def test_a_missing_hub_shard_leaves_its_weights_on_one_side(forms, tmp_path):
    path = copy_of(forms["safetensors, three files"], tmp_path / "b")
    os.remove(path / "model-00003-of-00003.safetensors")
    report = diff_checkpoints(forms["two shards"], str(path))
    assert not report.ok
    assert set(report.counts) == {"identical", "only_a"}
    assert report.counts["only_a"] == 7  # 21 weights in three files


def test_a_truncated_safetensors_file_is_compared_as_far_as_it_goes(forms, tmp_path, run):
    path = copy_of(forms["safetensors, one file"], tmp_path / "b")
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)
    report = diff_checkpoints(forms["one shard"], str(path))
    assert (report.identical, report.same, report.ok) == (False, False, False)
    # By name model.norm.weight stands last, 128 bytes, and v_proj before it, 4,096.
    assert report.counts == {"identical": 19, "incomplete": 2}
    assert {row.name for row in report.weights if row.status == "incomplete"} == {
        "norm.weight", "layers.1.attention.wv.weight",
    }  # fmt: skip
    assert errors(report)
    code, out, err = run("diff", forms["one shard"], path)
    assert (code, err) == (1, "")
    assert "same:" not in out


@pytest.mark.parametrize("form", ["two shards", "pytorch_model.bin, two files"])
def test_a_truncated_archive_is_an_unreadable_shard(forms, tmp_path, form):
    path = copy_of(forms[form], tmp_path / "b")
    file = sorted(path.glob("*0*1*.pth" if form == "two shards" else "*.bin"))[-1]
    os.truncate(file, file.stat().st_size // 2)
    report = diff_checkpoints(forms["one shard"], str(path))
    assert (report.identical, report.same, report.ok) == (False, False, False)
    assert file.name in "".join(errors(report))


def test_a_checkpoint_of_which_nothing_can_be_read_is_no_answer(forms, tmp_path, run):
    path = copy_of(forms["one shard"], tmp_path / "b")
    os.truncate(path / "consolidated.00.pth", 5000)
    with pytest.raises(CorruptFile):
        diff_checkpoints(forms["one shard"], str(path))
    code, out, err = run("diff", forms["one shard"], path)
    assert (code, out) == (3, "")
    assert "consolidated.00.pth" in err


def test_a_weight_file_that_is_a_directory_is_named(forms, tmp_path, run):
    path = tmp_path / "b"
    (path / "model.safetensors").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(hub_config(TINY, TINY_HIDDEN)))
    with pytest.raises(LlamaInspectError):
        diff_checkpoints(forms["one shard"], str(path))
    assert run("diff", forms["one shard"], path)[0] == 3
    assert run("diff", forms["one shard"], path / "model.safetensors")[0] == 3


def test_a_path_that_is_not_there_is_said_so(forms, tmp_path, run):
    with pytest.raises(NotACheckpoint):
        diff_checkpoints(forms["one shard"], str(tmp_path / "nowhere"))
    code, _, err = run("diff", tmp_path / "nowhere", forms["one shard"])
    assert code == 3
    assert "nowhere" in err


def test_another_architecture_is_compared_under_its_own_names(tmp_path, forms):
    shapes = {"model.layers.0.self_attn.q_proj.weight": (64, 64), "lm_head.weight": (128, 64)}
    weights, config = random_weights(shapes), {"model_type": "mistral", "hidden_size": 64}
    a = str(write_hub(tmp_path / "a", weights, config))
    b = str(write_hub(tmp_path / "b", weights, config, kind="bin"))
    report = diff_checkpoints(a, b)
    assert (report.ok, report.identical) == (True, True)
    report = diff_checkpoints(a, forms["safetensors, one file"])
    assert (report.ok, report.identical) == (False, False)


@pytest.mark.parametrize("stripped", ["one shard", "two shards"])
@pytest.mark.parametrize("other", ["one shard", "safetensors, one file"])
def test_a_native_side_without_a_configuration_is_still_compared(forms, tmp_path, stripped, other):
    path = copy_of(forms[stripped], tmp_path / "b")
    os.remove(path / "params.json")
    for a, b in ((forms[other], str(path)), (str(path), forms[other])):
        report = diff_checkpoints(a, b)
        assert report.counts == {"identical": 21}
        assert "params.json" in "".join(f.where for f in report.findings)


@pytest.mark.parametrize("stripped", HUB_FORMS)
@pytest.mark.parametrize("other", ["one shard", "safetensors, one file"])
def test_a_hub_side_without_a_configuration_is_still_compared(forms, tmp_path, stripped, other):
    path = copy_of(forms[stripped], tmp_path / "b")
    os.remove(path / "config.json")
    for a, b in ((forms[other], str(path)), (str(path), forms[other])):
        report = diff_checkpoints(a, b)
        assert report.counts == {"identical": 21}


def test_a_file_without_a_configuration_is_the_same_model(forms, tmp_path, run):
    """Who names one file may well have no more: the other's configuration is enough."""
    hub = Path(forms["safetensors, one file"]) / "model.safetensors"
    file = Path(shutil.copy(hub, tmp_path / "merged.safetensors"))
    for a, b in ((forms["two shards"], file), (file, forms["two shards"])):
        report = diff_checkpoints(str(a), str(b))
        assert (report.ok, report.identical, report.counts) == (True, True, {"identical": 21})
    assert run("diff", file, forms["one shard"])[0] == 0


def test_two_sides_without_configurations_are_compared_as_stored(forms, tmp_path):
    hub = copy_of(forms["safetensors, one file"], tmp_path / "hub")
    os.remove(hub / "config.json")
    assert diff_checkpoints(str(hub), str(hub)).counts == {"identical": 21}
    files = [shutil.copy(hub / "model.safetensors", tmp_path / f"{name}.safetensors")
             for name in "ab"]  # fmt: skip
    report = diff_checkpoints(*map(str, files))
    assert (report.ok, report.identical) == (True, True)
    assert "no configuration" in "".join(f.message for f in report.findings)


def test_a_config_only_diff_needs_two_configurations(forms, tmp_path, run):
    path = copy_of(forms["one shard"], tmp_path / "b")
    os.remove(path / "params.json")
    with pytest.raises(MissingFile):
        diff_checkpoints(forms["one shard"], str(path), CONFIG_ONLY)
    assert run("diff", forms["one shard"], path, "--config-only")[0] == 3


def test_a_broken_configuration_is_not_passed_over(forms, tmp_path):
    path = copy_of(forms["one shard"], tmp_path / "b")
    (path / "params.json").write_text("{")
    report = diff_checkpoints(forms["safetensors, one file"], str(path))
    assert not report.ok
    assert any("params.json" in error for error in errors(report))


def test_an_odd_extra_shard_is_not_passed_over(forms, tmp_path):
    path = copy_of(forms["two shards"], tmp_path / "b")
    shutil.copy(path / "consolidated.01.pth", path / "consolidated.02.pth")
    report = diff_checkpoints(forms["one shard"], str(path))
    assert (report.ok, report.counts) == (False, {"identical": 21})


# --- memory ---------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_weights(tmp_path):
    whole = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(1)).bfloat16()  # 32 MiB
    for name, weight in (("a", whole), ("b", whole * 2)):
        torch.save({"x": weight}, tmp_path / f"{name}.pth")
    tracemalloc.start()
    report = diff_checkpoints(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.weights[0].rel_l2 == pytest.approx(1.0, rel=1e-6)
    assert peak < 16 * 2**20
