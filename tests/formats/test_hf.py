"""Files of Hugging Face's layout: which are read, the index against the headers, and damage."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import any_change
from checkpoints import (
    TINY,
    TINY_HIDDEN,
    TINY_PARAMETERS,
    dense_shapes,
    random_weights,
    write_native,
)
from hub_layout import hub_config, to_hub, write_hub
from huggingface_hub import save_torch_state_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llamainspect import (
    CorruptFile,
    LlamaInspectError,
    NotACheckpoint,
    UnsupportedFile,
    list_tensors,
    open_checkpoint,
    show_tensor,
    summarize,
)
from llamainspect.arrays import decode, read_elements

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
NATIVE = random_weights(dense_shapes(TINY, TINY_HIDDEN))
WEIGHTS = to_hub(NATIVE, TINY, TINY_HIDDEN)
CONFIG = hub_config(TINY, TINY_HIDDEN)
OTHER = to_hub(random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=1), TINY, TINY_HIDDEN)

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_hub(tmp_path / "single", WEIGHTS, CONFIG)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_hub(tmp_path / "sharded", WEIGHTS, CONFIG, shards=3)


def change_index(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index)
    (path / INDEX).write_text(json.dumps(index))


def findings(path: Path, severity: str | None = None) -> list[tuple[str, str]]:
    """Where and what, of reading and joining alone."""
    return [
        (finding.where, finding.message)
        for finding in open_checkpoint(str(path)).findings
        if severity in (None, finding.severity)
    ]


def files_of(path: Path) -> list[str]:
    return [entry.file for entry in open_checkpoint(str(path)).files]


def first_value(path: Path, name: str = "norm.weight") -> float:
    value = show_tensor(open_checkpoint(str(path)), name).float32
    assert value is not None
    return value[0][0]


OURS, THEIRS = NATIVE["norm.weight"][0].item(), OTHER["model.norm.weight"][0].item()


# --- which files are read -------------------------------------------------------------------------


def test_every_form_holds_the_same_values(checkpoint_path):
    """Native in one shard and two, safetensors in one file and three, pytorch_model.bin."""
    checkpoint = open_checkpoint(str(checkpoint_path))
    assert [finding for finding in checkpoint.findings if finding.severity != "note"] == []
    assert set(checkpoint.weights) == set(NATIVE)
    for name, tensor in NATIVE.items():
        weight = checkpoint.weights[name]
        elements, _ = read_elements(checkpoint, weight, tuple(range(n) for n in weight.shape))
        values = decode(elements, weight.parts[0]).reshape(weight.shape)
        assert (values == tensor.float().numpy()).all(), name
    report = summarize(checkpoint)
    assert (report.parameters.total, report.ok) == (TINY_PARAMETERS, True)


def test_a_file_by_itself_is_a_model_when_it_is_all_of_one(single):
    for name in ("model.safetensors", "weights.safetensors"):
        (single / "model.safetensors").rename(single / name)
        for path in (single, single / name):
            assert files_of(path) == [name]
            assert findings(path) == []
        (single / name).rename(single / "model.safetensors")


def test_one_shard_by_itself_is_said_to_be_one(sharded):
    for place, shard in enumerate(SHARDS):
        checkpoint = open_checkpoint(str(sharded / shard))
        (found,) = checkpoint.findings
        assert (found.severity, found.where) == ("error", shard)
        assert "one of 3 files" in found.message
        assert len(checkpoint.weights) == 7  # of 21 tensors
        assert ("norm.weight" in checkpoint.weights) == (place == 2)
        report = summarize(checkpoint)
        assert not any("missing" in finding.message for finding in report.findings)


def test_a_file_alone_counts_before_shards(sharded):
    write_hub(sharded, OTHER, None)
    assert files_of(sharded) == ["model.safetensors"]
    assert first_value(sharded) == THEIRS
    ((where, message),) = findings(sharded, "warning")
    assert where == ", ".join(SHARDS)
    assert "model.safetensors is read instead" in message


def test_safetensors_count_before_pickles(single):
    write_hub(single, OTHER, None, kind="bin")
    assert files_of(single) == ["model.safetensors"]
    (single / "model.safetensors").unlink()
    assert files_of(single) == ["pytorch_model.bin"]
    assert first_value(single) == THEIRS


def test_meta_s_files_count_where_both_layouts_are_mixed(single):
    other = random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=1)
    write_native(single, TINY, [other])
    checkpoint = open_checkpoint(str(single))
    assert (checkpoint.format, files_of(single)) == ("meta", ["consolidated.00.pth"])
    assert checkpoint.config_file == "params.json"
    assert first_value(single) == THEIRS
    assert open_checkpoint(str(single / "model.safetensors")).format == "hf"
    assert first_value(single / "model.safetensors") == OURS


def test_hugging_face_s_files_count_before_those_in_original(single):
    other = random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=1)
    write_native(single / "original", TINY, [other])
    assert (open_checkpoint(str(single)).format, first_value(single)) == ("hf", OURS)
    assert findings(single, "error") == findings(single, "warning") == []
    assert first_value(single / "original") == THEIRS
    (single / "model.safetensors").unlink()
    assert (open_checkpoint(str(single)).format, first_value(single)) == ("meta", THEIRS)


def test_two_sets_of_shards_are_said_to_be_two(sharded):
    write_hub(sharded, OTHER, None, shards=2)
    found = findings(sharded, "error")
    assert any("of 2 and of 3" in message and "mixed" in message for _, message in found)
    assert any("stand in" in message and "too" in message for _, message in found)
    assert not any("are not here" in message for _, message in found)


def test_files_that_make_no_one_model_are_not_guessed_at(single):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(single / "model.safetensors", single / name)
    (single / "model.safetensors").unlink()
    with pytest.raises(NotACheckpoint, match=r"to read a\.safetensors, b\.safetensors, give"):
        open_checkpoint(str(single))


def test_an_index_may_call_shards_as_it_likes(sharded):
    for number, shard in enumerate(SHARDS):
        (sharded / shard).rename(sharded / f"part{number}.safetensors")
    text = (sharded / INDEX).read_text()
    for number, shard in enumerate(SHARDS):
        text = text.replace(shard, f"part{number}.safetensors")
    (sharded / INDEX).write_text(text)
    assert files_of(sharded) == ["part0.safetensors", "part1.safetensors", "part2.safetensors"]
    assert findings(sharded) == []


def test_shards_without_an_index_are_read_and_missed_by_loaders(sharded):
    (sharded / INDEX).unlink()
    ((where, message),) = findings(sharded)
    assert (where, "there is no index" in message) == (SHARDS[0], True)
    assert summarize(open_checkpoint(str(sharded))).parameters.total == TINY_PARAMETERS


def test_pickles_that_transformers_4_cut_have_the_size_that_it_said(tmp_path):
    """Of tied weights, which a pickle holds once, the index counts once."""
    tied = WEIGHTS | {"lm_head.weight": WEIGHTS["model.embed_tokens.weight"]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    save_torch_state_dict(tied, tmp_path, safe_serialization=False, max_shard_size="100KB")
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * (TINY_PARAMETERS - 128 * 64)
    report = summarize(open_checkpoint(str(tmp_path)))
    assert report.parameters.total == TINY_PARAMETERS - 128 * 64
    assert [finding for finding in report.findings if finding.severity != "note"] == []


# --- the hub's cache ------------------------------------------------------------------------------

COMMITS = ("0e9e39f249a16976918f6564b8830bc894c89659", "8c22764a7e3675c50d4c7c9a4edb474456022b16")


def cached(root: Path, commit: str, weights: dict[str, torch.Tensor]) -> Path:
    """A snapshot in the layout of the hub's cache: links to blobs that are named by a digest."""
    model = root / "models--meta-llama--Llama-Tiny"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for folder in ("blobs", "refs"):
        (model / folder).mkdir(exist_ok=True)
    write_hub(root / commit, weights, CONFIG, shards=3)
    for number, file in enumerate(sorted((root / commit).iterdir())):
        blob = model / "blobs" / f"{number}{commit}".ljust(64, "0")
        shutil.move(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@needs_links
def test_a_snapshot_of_the_hub_s_cache_is_a_checkpoint(tmp_path):
    snapshot = cached(tmp_path, COMMITS[0], WEIGHTS)
    model = snapshot.parent.parent
    (model / "refs" / "main").write_text(COMMITS[0])
    for path in (snapshot, model, model / "snapshots"):
        assert files_of(path) == SHARDS
        assert findings(path) == []
        assert first_value(path) == OURS
    cached(tmp_path, COMMITS[1], OTHER)
    assert first_value(model) == OURS  # what refs/main says
    (model / "refs" / "main").write_text(f"{COMMITS[1]}\n")
    assert first_value(model) == THEIRS
    assert first_value(snapshot) == OURS


@needs_links
@pytest.mark.parametrize("text", ["nothing of the kind", "../..", "", "é"])
def test_a_reference_to_no_snapshot_is_none(tmp_path, text):
    for commit in COMMITS:
        snapshot = cached(tmp_path, commit, WEIGHTS)
    model = snapshot.parent.parent
    (model / "refs" / "main").write_text(text, encoding="utf-8")
    with pytest.raises(NotACheckpoint, match="several snapshots"):
        open_checkpoint(str(model))


@needs_links
def test_a_link_to_a_blob_that_is_not_there_is_a_missing_file(tmp_path):
    snapshot = cached(tmp_path, COMMITS[0], WEIGHTS)
    os.remove((snapshot / SHARDS[1]).resolve())
    found = findings(snapshot, "error")
    assert any(where == "shard 2" for where, _ in found)
    assert any(where == INDEX and SHARDS[1] in message for where, message in found)
    (snapshot / "config.json").resolve().unlink()
    assert open_checkpoint(str(snapshot)).config is None


# --- the index ------------------------------------------------------------------------------------


def test_a_tensor_that_is_not_where_the_index_says_is_an_error(sharded):
    change_index(sharded, lambda index: index["weight_map"].update({"ghost": SHARDS[1]}))
    ((where, message),) = findings(sharded, "error")
    assert where == INDEX
    assert "ghost (1 tensor)" in message
    assert f"in {SHARDS[1]}, whose header does not have" in message
    assert "has some" not in message


def test_a_tensor_in_another_shard_than_the_index_says_is_an_error(sharded):
    change = {"model.norm.weight": SHARDS[0], "lm_head.weight": SHARDS[0]}
    change_index(sharded, lambda index: index["weight_map"].update(change))
    ((where, message),) = findings(sharded, "error")
    assert where == INDEX
    assert "(2 tensors)" in message
    assert message.endswith(f"{SHARDS[2]} has some")
    assert first_value(sharded) == OURS  # read from where it is


def test_a_tensor_that_the_index_leaves_out_is_an_error(sharded):
    change_index(sharded, lambda index: index["weight_map"].pop("model.norm.weight"))
    ((where, message),) = findings(sharded, "error")
    assert where == INDEX
    assert f"does not name model.norm.weight (1 tensor) in {SHARDS[2]}" in message
    assert "norm.weight" in open_checkpoint(str(sharded)).weights


@pytest.mark.parametrize(
    ("total", "words"),
    [
        (230017, "its total_size is 230,017, the tensors have 230,016 bytes"),
        (0, "its total_size is 0,"),
        (-1, "its total_size is -1,"),
        ("230016", "its total_size is 230016,"),
        ([], "its total_size is [],"),
        (460032.0, "its total_size is 460032.0,"),
    ],
)
def test_a_wrong_total_is_a_warning(sharded, total, words):
    change_index(sharded, lambda index: index["metadata"].update(total_size=total))
    ((where, message),) = findings(sharded)
    assert (where, findings(sharded, "warning") != []) == (INDEX, True)
    assert words in message


@pytest.mark.parametrize("metadata", [{}, None, {"total_size": 230016.0}, {"total_size": None}, []])
def test_a_total_that_is_right_or_not_said_is_no_finding(sharded, metadata):
    """Early files have it as a float."""
    assert 2 * TINY_PARAMETERS == 230016
    change_index(sharded, lambda index: index.update(metadata=metadata))
    assert findings(sharded) == []


OUTSIDE = ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", ".", "",
           "..\\model.safetensors", "C:\\model.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_outside_of_the_directory_is_never_opened(sharded, name):
    write_hub(sharded.parent, OTHER, None)  # what ../model.safetensors leads to
    (sharded / "sub").mkdir()
    write_hub(sharded / "sub", OTHER, None)
    change = dict.fromkeys(WEIGHTS, name)
    change_index(sharded, lambda index: index["weight_map"].update(change))
    assert files_of(sharded) == SHARDS
    assert first_value(sharded) == OURS
    found = findings(sharded, "error")
    assert any(where == INDEX and "outside of the directory" in text for where, text in found)


def test_an_index_of_files_outside_alone_is_no_checkpoint(sharded):
    write_hub(sharded.parent, OTHER, None)
    change = dict.fromkeys(WEIGHTS, "../model.safetensors")
    change_index(sharded, lambda index: index["weight_map"].update(change))
    for shard in SHARDS:
        (sharded / shard).unlink()
    with pytest.raises(NotACheckpoint):
        open_checkpoint(str(sharded))


def test_a_shard_that_is_missing_is_named(sharded):
    (sharded / SHARDS[1]).unlink()
    found = findings(sharded, "error")
    assert [where for where, _ in found] == ["shard 2", INDEX]
    assert "1 of 3 shards not here" in found[0][1]
    assert SHARDS[1] in found[1][1]
    report = summarize(open_checkpoint(str(sharded)))
    missing = sum(weight.numel() for weight in list(WEIGHTS.values())[7:14])
    assert report.parameters.total == TINY_PARAMETERS - missing
    assert not report.ok


def test_several_things_wrong_with_an_index_are_all_said(sharded):
    def change(index: dict[str, Any]) -> None:
        index["weight_map"] |= {"ghost": SHARDS[0], "a": "../a", "b": "gone.safetensors"}
        del index["weight_map"]["model.norm.weight"]

    change_index(sharded, change)
    messages = [message for where, message in findings(sharded, "error") if where == INDEX]
    for words in (
        "ghost",
        "'../a', below or outside",
        "gone.safetensors, and there is no such",
        "not name",
    ):
        assert any(words in message for message in messages), words
    assert len(messages) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("[]", "it holds a list"),
        ('"x"', "it holds text"),
        ("{", "it is not valid JSON"),
        ("{}", "it has no weight_map"),
        ('{"weight_map": null}', "it has no weight_map"),
        ('{"weight_map": []}', "its weight_map is no table"),
        ('{"weight_map": {"a": 5}}', "its weight_map is no table"),
        ('{"weight_map": {"a": ["x"]}}', "its weight_map is no table"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "stands there twice"),
        ('{"weight_map": ' + '{"a": ' * 50_000 + "}" * 50_001, "nested too deeply"),
        ('{"metadata": {"total_size": NaN}, "weight_map": {}}', "NaN is not JSON"),
        ("<html>", "it is a web page"),
    ],
)
def test_an_index_that_cannot_be_read_is_an_error_and_the_shards_are_read(sharded, text, words):
    (sharded / INDEX).write_text(text)
    ((where, message),) = findings(sharded)
    assert where == INDEX
    assert words in message
    assert summarize(open_checkpoint(str(sharded))).parameters.total == TINY_PARAMETERS


# --- damage ---------------------------------------------------------------------------------------


def test_a_shard_that_was_cut_short_is_named_with_what_is_lost(sharded):
    data = (sharded / SHARDS[2]).read_bytes()
    (sharded / SHARDS[2]).write_bytes(data[:-1])
    ((where, message),) = findings(sharded, "error")
    assert where == SHARDS[2]
    assert message.startswith(f"cut short: {len(data) - 1:,} of {len(data):,} bytes; ")
    assert message.endswith(" is cut; download it again")
    begin = 8 + int.from_bytes(data[:8], "little")
    (sharded / SHARDS[2]).write_bytes(data[:begin])
    ((where, message),) = findings(sharded, "error")
    assert (where, "of 7 tensors nothing is there" in message) == (SHARDS[2], True)
    with pytest.raises(CorruptFile, match="cut short"):
        show_tensor(open_checkpoint(str(sharded)), "norm.weight")


def test_bytes_behind_the_last_tensor_are_an_error(single):
    with (single / "model.safetensors").open("ab") as file:
        file.write(bytes(1234))
    ((where, message),) = findings(single, "error")
    assert (where, message.split(" which")[0]) == (
        "model.safetensors",
        "1,234 bytes follow its last tensor,",
    )


def test_of_two_shards_one_that_cannot_be_read_leaves_the_others(sharded):
    for data in (b"", b"<!DOCTYPE html>", bytes(1000), b"PK\x03\x04", b"\xff" * 100):
        (sharded / SHARDS[0]).write_bytes(data)
        checkpoint = open_checkpoint(str(sharded))
        assert [entry.readable for entry in checkpoint.files] == [False, True, True]
        errors = [f for f in checkpoint.findings if f.severity == "error"]
        assert [f.where for f in errors] == [SHARDS[0]]
        assert len(checkpoint.weights) == 14


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def packed(header: Any, nbytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(nbytes)


HEADERS: dict[str, tuple[bytes, type[LlamaInspectError], str]] = {
    "longer than the file": ((10**6).to_bytes(8, "little") + b'{"a":', CorruptFile, "1,000,008"),
    "2^64 - 1 bytes long": (b"\xff" * 8 + b"{", CorruptFile, "its header alone would need"),
    "an overlap": (packed({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12), CorruptFile,
                   "b overlaps the one before it"),
    "a hole": (packed({"a": entry(0, 8, [2]), "b": entry(12, 16, [1])}, 16), CorruptFile,
               "b leaves a gap"),
    "a dtype that is not known": (packed({"a": entry(0, 4, [1], "F33")}, 4), UnsupportedFile,
                                  "a has dtype F33, which is not known"),
    "a shape that does not fit": (packed({"a": entry(0, 4, [2])}, 4), CorruptFile,
                                  "does not fit in the 4 bytes"),
    "a key twice": (packed(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, [1])).encode(),) * 2), 4),
                    CorruptFile, "stands there twice"),
    "an escape in a name": (packed({"\x1b[31ma": entry(4, 8, [1])}, 8), CorruptFile, "a gap"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_an_error_of_its_file_alone(sharded, kind):
    data, error, words = HEADERS[kind]
    (sharded / SHARDS[1]).write_bytes(data)
    (found,) = findings(sharded, "error")
    assert found[0] == SHARDS[1]
    assert words in found[1]
    for shard in SHARDS:
        (sharded / shard).unlink()
    (sharded / "model.safetensors").write_bytes(data)
    with pytest.raises(error, match=r"^model\.safetensors: ") as caught:
        open_checkpoint(str(sharded))
    assert words in str(caught.value)


def test_a_header_of_100_megabytes_is_not_read(single):
    length = 100 * 10**6
    with (single / "model.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(8 + length)  # a hole
    with pytest.raises(UnsupportedFile, match="its header claims 100,000,000 bytes"):
        open_checkpoint(str(single))


def test_a_file_without_tensors_is_no_checkpoint(single):
    save_file({}, single / "model.safetensors")
    with pytest.raises(NotACheckpoint, match=r"there is no tensor in model\.safetensors"):
        open_checkpoint(str(single))


def test_a_tensor_in_two_shards_counts_once_and_is_an_error(sharded):
    both = {name: WEIGHTS[name] for name in list(WEIGHTS)[14:]}
    both["model.embed_tokens.weight"] = OTHER["model.embed_tokens.weight"]
    save_file(both, sharded / SHARDS[2])
    found = findings(sharded, "error")
    assert (SHARDS[2], True) in [(where, SHARDS[0] in message) for where, message in found]
    report = summarize(open_checkpoint(str(sharded)))
    assert report.parameters.total == TINY_PARAMETERS
    embedding = NATIVE["tok_embeddings.weight"][0, 0].item()
    assert first_value(sharded, "tok_embeddings.weight") == embedding


def test_two_names_of_one_weight_are_an_error(single):
    save_file(
        WEIGHTS | {"norm.weight": WEIGHTS["model.norm.weight"] + 1}, single / "model.safetensors"
    )
    ((where, message),) = findings(single, "error")
    assert where in ("norm.weight in model.safetensors", "model.norm.weight in model.safetensors")
    assert "the same weight" in message


# --- what does not belong there -------------------------------------------------------------------


def test_a_weight_that_is_missing_is_said_though_old_buffers_are_there(single):
    weights = {name: weight for name, weight in WEIGHTS.items() if name != "lm_head.weight"}
    weights |= {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)
    }
    save_file(weights, single / "model.safetensors")
    report = summarize(open_checkpoint(str(single)))
    assert report.parameters.total == TINY_PARAMETERS - 128 * 64
    assert [finding.where for finding in report.findings] == ["output.weight"]
    assert not report.ok


def test_old_buffers_are_no_weights(single):
    """Early conversions hold the frequencies of each layer."""
    buffers = {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8).bfloat16()
        for layer in range(2)
    }
    save_file(WEIGHTS | buffers, single / "model.safetensors")
    report = summarize(open_checkpoint(str(single)))
    assert report.findings == ()
    assert report.parameters.total == TINY_PARAMETERS
    assert report.parameters.stored == TINY_PARAMETERS + 16


def test_a_weight_that_no_llama_has_is_not_called_meta_s(single):
    extra = {"model.layers.1.self_attn.q_norm.weight": torch.ones(16).bfloat16()}
    save_file(WEIGHTS | extra, single / "model.safetensors")
    report = summarize(open_checkpoint(str(single)))
    (found,) = (finding for finding in report.findings if finding.severity == "error")
    assert found.where == "model.layers.1.self_attn.q_norm.weight"
    assert "Meta's container" not in found.message
    assert "unexpected" in found.message


def test_names_cannot_speak_to_a_terminal(single):
    from llamainspect.render.text import to_text

    name = "model.\x1b]0;title\x07\x1b[31mlayers.\r\n\x9b2J"
    save_file(WEIGHTS | {name: torch.ones(2).bfloat16()}, single / "model.safetensors")
    checkpoint = open_checkpoint(str(single))
    assert name in checkpoint.weights
    for report in (
        summarize(checkpoint),
        list_tensors(checkpoint),
        list_tensors(checkpoint, names="hf"),
        show_tensor(checkpoint, name, names="hf"),
    ):
        text = to_text(report, terminal=False, plain=True)
        assert not set(text) & {"\x1b", "\x07", "\r", "\x9b"}


# --- anything at all ------------------------------------------------------------------------------

TRIED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.sampled_from([*list(WEIGHTS)[:8], "ghost", "", "model.layers.999999.x", "\x1b[31m"])
PLACES = st.one_of(
    st.sampled_from([*SHARDS, "model.safetensors", "../x", "", ".", INDEX, "config.json"]),
    st.text(max_size=5),
    st.none(),
    st.integers(),
    st.lists(st.none(), max_size=1),
)
TOTALS = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))


def answers(path: Path) -> None:
    """Whatever is there: an answer, or one of the errors that are foreseen."""
    try:
        checkpoint = open_checkpoint(str(path))
        summarize(checkpoint)
        list_tensors(checkpoint, per_shard=True, names="hf")
        for name in list(checkpoint.weights)[:3]:
            show_tensor(checkpoint, name)
    except LlamaInspectError as error:
        assert str(error)  # noqa: PT017


@TRIED
@given(
    table=st.one_of(st.dictionaries(NAMES, PLACES, max_size=5), PLACES),
    total=TOTALS,
    cut=st.integers(0, 30),
)
def test_any_index_is_answered(tmp_path, table, total, cut):
    path = tmp_path / "any"
    if not path.exists():
        write_hub(path, WEIGHTS, CONFIG, shards=3)
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": table})
    text = text[: len(text) - max(0, cut - 25)]
    (path / INDEX).write_text(text)
    answers(path)


@TRIED
@given(
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.one_of(st.none(), st.integers(0, 4000)),
    shard=st.sampled_from(SHARDS),
)
def test_any_bytes_in_a_header_are_answered(tmp_path, changes, length, shard):
    path = tmp_path / "any"
    if not path.exists():
        write_hub(path, WEIGHTS, CONFIG, shards=3)
    whole = (path / shard).read_bytes()
    data = bytearray(whole)
    header = 8 + int.from_bytes(data[:8], "little")
    for place, value in changes:
        data[place % header] = value
    try:
        (path / shard).write_bytes(data[:length])
        answers(path)
    finally:
        (path / shard).write_bytes(whole)


FIELD_VALUES = st.one_of(
    st.integers(-2, 300),
    st.sampled_from([2**31, 2**63, 0.5, True, None, "F32", "U8", "F4", "BF16"]),
    st.lists(st.integers(-1, 300), max_size=4),
)


@TRIED
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 30),
            st.sampled_from(["dtype", "shape", "data_offsets", "extra"]),
            FIELD_VALUES,
        ),
        min_size=1,
        max_size=3,
    ),
    renamed=st.one_of(st.none(), NAMES),
)
def test_any_fields_in_a_header_are_answered(tmp_path, changes, renamed):
    path = tmp_path / "any"
    if not path.exists():
        write_hub(path, WEIGHTS, CONFIG)
        (path / "whole").write_bytes((path / "model.safetensors").read_bytes())
    whole = (path / "whole").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8 : 8 + length])
    names = list(table)
    for number, key, value in changes:
        if isinstance(table[names[number % len(names)]], dict):
            table[names[number % len(names)]][key] = value
    if renamed is not None:
        table[renamed] = table.pop(names[-1])
    text = json.dumps(table).encode()
    data = len(text).to_bytes(8, "little") + text + whole[8 + length :]
    (path / "model.safetensors").write_bytes(data)
    answers(path)


test_any_change_to_a_file_is_described_or_refused = any_change("hub", 40)
test_any_change_to_an_index_is_described_or_refused = any_change("index", 40)
