"""Every command over one model in four forms: the same exit codes and the same figures."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TINY, cut, dense_shapes, random_weights, write_native
from hub_layout import hub_config, to_hub, write_hub
from safetensors.torch import save_file

from llamainspect import (
    ModelConfig,
    RunOptions,
    find_subject,
    list_tensors,
    load_model,
    open_checkpoint,
    summarize,
)
from llamainspect.__main__ import main

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"
PARAMS = TINY | {"vocab_size": 1024}  # as many tokens as the example's tokenizer has
HIDDEN = 192
PARAMETERS = 2 * 1024 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 192 * 64 + 2 * 64)
NATIVE = random_weights(dense_shapes(PARAMS, HIDDEN))
NATIVE = {name: weight * 0.1 + ("norm" in name) for name, weight in NATIVE.items()}
HUB = to_hub(NATIVE, PARAMS, HIDDEN)

FORMS: dict[str, Callable[[Path], Path]] = {
    "native, one shard": lambda path: write_native(path, PARAMS, [NATIVE]),
    "native, two shards": lambda path: write_native(path, PARAMS, cut(NATIVE, 2)),
    "one file": lambda path: write_hub(path, HUB, hub_config(PARAMS, HIDDEN, spelling=4)),
    "three files": lambda path: write_hub(path, HUB, hub_config(PARAMS, HIDDEN), shards=3),
    "a snapshot": lambda path: as_snapshot(path),
}
if sys.platform == "win32":
    del FORMS["a snapshot"]
HUB_FORMS = [form for form in FORMS if not form.startswith("native")]


def as_snapshot(path: Path) -> Path:
    """The model's folder in the hub's cache, every file a link."""
    commit = "0e9e39f249a16976918f6564b8830bc894c89659"
    snapshot = path / "models--a--b" / "snapshots" / commit
    files = write_hub(path / "files", HUB, hub_config(PARAMS, HIDDEN), shards=2)
    shutil.copy(EXAMPLE / "tokenizer.model", files)
    blobs = path / "models--a--b" / "blobs"
    for folder in (snapshot, blobs, path / "models--a--b" / "refs"):
        folder.mkdir(parents=True)
    (path / "models--a--b" / "refs" / "main").write_text(commit)
    for file in files.iterdir():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.move(file, blobs / digest)
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / digest, snapshot))
    return snapshot.parent.parent


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for form, write in FORMS.items():
        made[form] = write(tmp_path_factory.mktemp("form"))
        if form != "a snapshot":
            shutil.copy(EXAMPLE / "tokenizer.model", made[form])
    return made


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: exit code, standard output, standard error."""

    def run(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llamainspect", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def without_places(answer: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on how the model lies on disk."""
    gone = {"path", "files", "format", "shards", "model", "stored", "stored_from"}
    return {key: value for key, value in answer.items() if key not in gone}


# What every form answers alike, but for the keys named.
SAME: dict[str, tuple[list[str], set[str]]] = {
    "memory": (["--context", "100", "--gpu", "h100", "--explain"], set()),
    "compute": (["--tokens", "1B", "--context", "64"], set()),
    "tokenize": (["Hello world", "--bos"], set()),
    "detokenize": (["1", "424", "505"], set()),
    "logits": (["--ids", "1 2 3 4", "--device", "cpu"], {"run"}),
    "generate": (["--ids", "1 2 3", "-n", "3", "--device", "cpu"], {"run"}),
}


@pytest.mark.parametrize("command", SAME)
def test_every_form_gives_the_same_answer(forms, call, command):
    options, ignored = SAME[command]
    answers = {}
    for form, path in forms.items():
        place = ["--model", path] if command in ("tokenize", "detokenize") else [path]
        code, out, err = call(command, *place, *options, "--json")
        assert (code, err) == (0, ""), form
        answers[form] = {
            key: value
            for key, value in without_places(json.loads(out)).items()
            if key not in ignored and not key.endswith(("seconds", "per_second"))
        }
        if command == "memory":  # params.json does not say it
            limit = answers[form]["gpu"].pop("context_length")
            assert limit == (None if form.startswith("native") else 8192)
    first = answers["native, one shard"]
    for form, answer in answers.items():
        for key, value in first.items():
            if key == "findings":
                assert answer[key] == [], form
            else:
                assert answer[key] == value, (form, key)


def test_summary_has_the_same_figures(forms, call):
    answers = {}
    for form, path in forms.items():
        code, out, err = call("summary", path, "--json")
        answers[form] = json.loads(out)
        assert (code, err, answers[form]["findings"]) == (0, "", []), form
        assert answers[form]["format"] == ("meta" if form.startswith("native") else "hf")
    assert [answer["shards"] for answer in answers.values()] == [1, 2, 1, 3, 2][: len(answers)]
    for answer in answers.values():
        assert answer["parameters"] == answers["native, one shard"]["parameters"]
        assert answer["parameters"]["total"] == PARAMETERS
        assert answer["tied_output"] is False
        assert answer["tokenizer"] == answers["native, one shard"]["tokenizer"]
        for key in ("dim", "n_layers", "n_kv_heads", "head_dim", "hidden_dim", "rope_theta"):
            assert answer["config"][key] == answers["native, one shard"]["config"][key]
    for form in HUB_FORMS:
        assert answers[form]["nbytes"] == 2 * PARAMETERS


def test_tensors_are_the_same_under_either_name(forms, call):
    expected = {name: list(weight.shape) for name, weight in NATIVE.items()}
    theirs = {name: list(weight.shape) for name, weight in HUB.items()}
    for form, path in forms.items():
        code, out, _ = call("tensors", path, "--json")
        listed = json.loads(out)["tensors"]
        assert (code, {row["name"]: row["shape"] for row in listed}) == (0, expected), form
        code, out, _ = call("tensors", path, "--json", "--names", "hf")
        listed = json.loads(out)["tensors"]
        assert (code, {row["name"]: row["shape"] for row in listed}) == (0, theirs), form
        code, out, _ = call("tensors", path, "model.layers.1.*_proj.weight", "--names", "hf")
        assert (code, out.count("model.layers.1.")) == (0, 7), form
        code, out, _ = call("tensors", path, "--names", "other")
        assert code == 2


def test_where_each_file_keeps_its_part_is_where_the_bytes_are(forms, call):
    for form in ("one file", "three files"):
        _, out, _ = call("tensors", forms[form], "--per-shard", "--json")
        for row in json.loads(out)["tensors"]:
            (part,) = row["parts"]
            data = (forms[form] / part["file"]).read_bytes()
            data = data[part["offset"] : part["offset"] + part["nbytes"]]
            stored = torch.frombuffer(bytearray(data), dtype=torch.bfloat16)
            assert torch.equal(stored, HUB[part["storage"]].flatten())


@pytest.mark.parametrize(
    "name", ["layers.1.attention.wq.weight", "layers.0.feed_forward.w2.weight"]
)
def test_show_has_the_same_values(forms, call, name):
    theirs = {
        "layers.1.attention.wq.weight": "model.layers.1.self_attn.q_proj.weight",
        "layers.0.feed_forward.w2.weight": "model.layers.0.mlp.down_proj.weight",
    }[name]
    corner = NATIVE[name][3:9, 1:7].float().tolist()
    for form, path in forms.items():
        for asked in (name, theirs):
            code, out, err = call("show", path, asked, "--at", "3,1", "--json")
            answer = json.loads(out)
            assert (code, err, answer["float32"]) == (0, "", corner), form
            assert answer["tensor"]["name"] == name
    for form in HUB_FORMS:
        code, out, _ = call("show", forms[form], theirs, "--at", "3,1", "--names", "hf", "--json")
        answer = json.loads(out)
        assert answer["float32"] == HUB[theirs][3:9, 1:7].float().tolist()
        assert answer["tensor"]["name"] == theirs


def test_explain_has_the_same_numbers(forms, call):
    native = json.loads(call("explain", forms["native, one shard"], "--json")[1])
    kinds = ("derived", "bits")
    numbers = {t["name"]: t["value"] for t in native["topics"] if t["kind"] in kinds}
    assert len(numbers) > 5
    for form, path in forms.items():
        code, out, err = call("explain", path, "--json")
        answer = json.loads(out)
        assert (code, err) == (0, ""), form
        found = {t["name"]: t["value"] for t in answer["topics"] if t["kind"] in kinds}
        assert {name: found.get(name) for name in numbers} == numbers, form
        assert all(topic["agrees"] is not False for topic in answer["topics"]), form
        code, out, _ = call("explain", path, "hidden_dim")
        assert code == 0
        assert "192" in out


def test_a_configuration_alone_answers_what_needs_no_weights(call, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(hub_config(PARAMS, HIDDEN)))
    for path in (tmp_path, tmp_path / "config.json"):
        for command in ("memory", "compute"):
            code, out, _ = call(command, path, "--json")
            assert (code, json.loads(out)["parameters"]) == (0, PARAMETERS)
        assert call("explain", path)[0] == 0
    for command in ("summary", "tensors"):
        code, out, err = call(command, tmp_path)
        assert (code, out) == (3, "")
        assert err.startswith("llamainspect: ")


# --- the forward pass -----------------------------------------------------------------------------


def test_logits_are_the_same_to_the_last_bit(forms):
    ids = torch.tensor([[1, 7, 300, 511, 0, 42]])
    found = {}
    for form, path in forms.items():
        for dtype in ("fp32", "bf16"):
            model = load_model(find_subject(str(path)), RunOptions("cpu", dtype=dtype))
            *_, last = model.walk(ids)
            found[form, dtype] = model.logits(last.hidden[0])
    for (form, dtype), logits in found.items():
        assert logits.isfinite().all()
        assert torch.equal(logits, found["native, one shard", dtype]), form


def test_a_tied_model_without_a_head_is_that_with_the_embedding_twice(tmp_path):
    tied = {name: weight for name, weight in HUB.items() if name != "lm_head.weight"}
    config = hub_config(PARAMS, HIDDEN, tie_word_embeddings=True)
    native = NATIVE | {"output.weight": NATIVE["tok_embeddings.weight"]}
    paths = [
        write_hub(tmp_path / "tied", tied, config, shards=2),
        write_native(tmp_path / "native", PARAMS, [native]),
        write_hub(
            tmp_path / "twice",
            HUB | {"lm_head.weight": HUB["model.embed_tokens.weight"]},
            hub_config(PARAMS, HIDDEN),
        ),
    ]
    found = []
    for path in paths:
        model = load_model(find_subject(str(path)), RunOptions("cpu"))
        *_, last = model.walk(torch.tensor([[5, 6, 7]]))
        found.append(model.logits(last.hidden[0]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    reports = [summarize(open_checkpoint(str(path))) for path in paths]
    assert [report.tied_output for report in reports[:2]] == [True, True]
    assert [r.parameters.total for r in reports[:2]] == [PARAMETERS - 1024 * 64] * 2
    assert all(report.ok for report in reports)


def test_a_head_that_is_missing_is_said_and_not_run(call, tmp_path):
    weights = {name: weight for name, weight in HUB.items() if name != "lm_head.weight"}
    write_hub(tmp_path, weights, hub_config(PARAMS, HIDDEN))
    code, out, _ = call("summary", tmp_path)
    assert (code, "tie_word_embeddings should be true" in " ".join(out.split())) == (1, True)
    code, out, err = call("logits", tmp_path, "--ids", "1", "--device", "cpu")
    assert (code, out) == (3, "")
    assert "output.weight" in err
    assert err.count("\n") == 1


def test_other_models_are_counted_and_not_run(call, tmp_path):
    config = hub_config(PARAMS, HIDDEN) | {"model_type": "qwen2"}
    write_hub(tmp_path, HUB, config, shards=2)
    code, out, _ = call("summary", tmp_path, "--json")
    answer = json.loads(out)
    assert (code, answer["parameters"]["total"], answer["config"]) == (0, PARAMETERS, None)
    code, out, _ = call("summary", tmp_path)
    assert (code, "qwen2" in out) == (0, True)
    for words in (["logits", tmp_path, "--ids", "1"], ["memory", tmp_path], ["explain", tmp_path]):
        code, out, err = call(*words)
        assert (code, out, err.count("\n")) == (3, "", 1), words
        assert "qwen2" in err


@pytest.mark.parametrize("form", HUB_FORMS)
def test_a_conversion_differs_in_nothing_from_its_native_checkpoint(forms, call, form):
    for native in ("native, one shard", "native, two shards"):
        code, out, _ = call("diff", forms[native], forms[form], "--json")
        answer = json.loads(out)
        assert (code, answer["identical"], answer["counts"]["identical"]) == (0, True, 21)
    code, out, _ = call(
        "verify-logits", forms[form], "--against", forms["native, two shards"], "--device", "cpu"
    )
    assert code == 0


# --- checksums ------------------------------------------------------------------------------------


def write_sums(path: Path) -> None:
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(path.iterdir())
    ]
    (path / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize("form", ["one file", "three files"])
def test_checksums_of_safetensors_are_verified(forms, call, tmp_path, form):
    path = tmp_path / "copy"
    shutil.copytree(forms[form], path)
    code, _, err = call("verify-checksums", path)  # nothing to check against
    assert (code, err.count("\n")) == (3, 1)
    write_sums(path)
    code, out, _ = call("verify-checksums", path, "--json")
    answer = json.loads(out)
    assert (code, {row["status"] for row in answer["files"]}) == (0, {"ok"})
    listed = {row["file"] for row in answer["files"]}
    assert listed == {file.name for file in path.iterdir()} - {"SHA256SUMS"}
    file = sorted(path.glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, out, _ = call("verify-checksums", path, "--json")
    wrong = [row for row in json.loads(out)["files"] if row["status"] != "ok"]
    assert (code, [row["file"] for row in wrong]) == (1, [file.name])
    file.unlink()
    code, out, _ = call("verify-checksums", path, "--json")
    wrong = [(row["file"], row["status"]) for row in json.loads(out)["files"]]
    assert code == 1
    assert (file.name, "missing") in wrong


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")
def test_a_snapshot_is_verified_by_the_names_of_its_blobs(forms, call):
    code, out, _ = call("verify-checksums", forms["a snapshot"], "--json")
    answer = json.loads(out)
    assert (code, {row["status"] for row in answer["files"]}) == (0, {"ok"})
    assert len(answer["files"]) == 5  # configuration, index, two shards, tokenizer


# --- trouble --------------------------------------------------------------------------------------

BROKEN: dict[str, Callable[[Path], Any]] = {
    "a shard is gone": lambda path: next(path.glob("*-00002-*")).unlink(),
    "a shard is cut": lambda path: os.truncate(next(path.glob("*-00002-*")), 3000),
    "a shard is a web page": lambda path: next(path.glob("*-00002-*")).write_text("<html>"),
    "the index is gone to pieces": lambda path: next(path.glob("*.index.json")).write_text("{"),
    "config.json is gone": lambda path: (path / "config.json").unlink(),
    "config.json is text": lambda path: (path / "config.json").write_text('"llama"'),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_download_is_described_and_not_run(call, tmp_path, kind):
    path = write_hub(tmp_path, HUB, hub_config(PARAMS, HIDDEN), shards=3)
    BROKEN[kind](path)
    code, out, err = call("summary", path)
    assert (code, err) == (1, "")
    assert out
    code, out, _ = call("tensors", path, "--json")
    assert code in (0, 1)
    assert json.loads(out)["count"] >= 14
    if kind != "the index is gone to pieces":
        code, out, err = call("logits", path, "--ids", "1 2", "--device", "cpu")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "Traceback" not in err


def test_no_command_lets_a_file_speak_to_the_terminal(call, tmp_path):
    escape = "\x1b]0;x\x07\x1b[2J\r\x9b31m"
    extra = {f"model.layers.0.{escape}.weight": torch.ones(2).bfloat16()}
    config = hub_config(PARAMS, HIDDEN) | {
        escape: escape,
        "rope_parameters": {"rope_type": escape, "rope_theta": 5.0, "factor": 2.0},
    }
    path = write_hub(tmp_path, HUB | extra, config, shards=2)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {escape: f"../{escape}", "b": escape}
    index["metadata"]["total_size"] = escape
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for words in (
        ["summary", path],
        ["tensors", path],
        ["tensors", path, "--names", "hf", "--per-shard"],
        ["show", path, "norm.weight"],
        ["show", path, escape],
        ["explain", path],
        ["memory", path],
        ["logits", path, "--ids", "1"],
        ["verify-checksums", path],
    ):
        code, out, err = call(*words)
        assert code in (0, 1, 3), words
        assert not set(out + err) & {"\x1b", "\x07", "\r", "\x9b"}, words
    (path / "config.json").write_text(json.dumps(config | {"model_type": escape}))
    for command in ("summary", "memory"):
        _, out, err = call(command, path)
        assert not set(out + err) & {"\x1b", "\x07", "\r", "\x9b"}


def test_names_of_hugging_face_of_a_native_checkpoint_are_those_of_its_conversion(tmp_path):
    """Though no file has them."""
    native = open_checkpoint(str(write_native(tmp_path / "native", PARAMS, cut(NATIVE, 2))))
    assert [row.name for row in list_tensors(native, names="hf").tensors] == [
        {name: theirs for theirs in HUB for name in [by_hand(theirs)]}[name] for name in NATIVE
    ]
    assert isinstance(native.config, ModelConfig)


def by_hand(theirs: str) -> str:
    for there, ours in {
        "model.layers.": "layers.",
        "model.embed_tokens": "tok_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }.items():
        theirs = theirs.replace(there, ours)
    return theirs


def test_meta_s_names_inside_safetensors_are_taken_as_they_are(tmp_path, call):
    """Rows are then in Meta's order, too."""
    path = write_hub(tmp_path, HUB, hub_config(PARAMS, HIDDEN))
    save_file(dict(NATIVE), path / "model.safetensors")
    code, out, _ = call("summary", path, "--json")
    assert (code, json.loads(out)["parameters"]["total"]) == (0, PARAMETERS)
    checkpoint = open_checkpoint(str(path))
    assert all(weight.rope_heads == 0 for weight in checkpoint.weights.values())
    listed = {row.name for row in list_tensors(checkpoint, names="hf").tensors}
    assert listed == set(HUB)
