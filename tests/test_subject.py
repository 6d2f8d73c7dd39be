"""What a word means: a path where there is one, else an official model's name."""

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoints import (
    TINY,
    TINY_HIDDEN,
    TINY_PARAMETERS,
    cut,
    dense_shapes,
    random_weights,
    write_native,
)
from small_tokenizers import PIECES, RANKS, rank_file, sentencepiece_file
from test_cli import run

import llamainspect as li
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.errors import CorruptFile, InvalidRequest, MissingFile, NotACheckpoint

LLAMA_2_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05}
LLAMA_3_8B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
              "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05,
              "rope_theta": 500000.0}  # fmt: skip
LLAMA_3_2_1B = LLAMA_3_8B | {"dim": 2048, "n_layers": 16, "multiple_of": 256,
                             "ffn_dim_multiplier": 1.5, "use_scaled_rope": True}  # fmt: skip


def write_params(directory, params):
    directory.mkdir(exist_ok=True)
    (directory / "params.json").write_text(json.dumps(params))
    return str(directory)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=lambda model: model.id)
def test_every_release_is_found_by_its_id(model):
    subject = li.find_subject(model.id)
    assert (subject.name, subject.official) == (model.id, model)
    assert subject.config.vocab_size == model.fields["vocab_size"]
    assert subject.config.n_kv_heads == model.unique_kv_heads
    assert subject.tied_output == model.tied_output
    assert subject.context_length == model.context_length
    assert (subject.checkpoint, subject.census, subject.source, subject.findings) == (
        None, None, None, (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("LLAMA-3.1-8B", "llama-3.1-8b"),
        ("Llama3.1-8B", "llama-3.1-8b"),
        ("llama 3.1 8b", "llama-3.1-8b"),
        ("llama_3_1_8b", "llama-3.1-8b"),
        ("Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("Meta-Llama-3-8B-Instruct", "llama-3-8b-instruct"),
        ("Llama-3.3-70B-Instruct", "llama-3.3-70b-instruct"),
        ("Llama-2-7b-hf", "llama-2-7b"),
        ("Llama-2-7b-chat-hf", "llama-2-7b-chat"),
        ("CodeLlama-7b", "codellama-7b"),
        ("llama-7b", "llama-1-7b"),
        ("Llama-3.2-11B-Vision", "llama-3.2-11b-vision"),
        ("Llama-4-Scout-17B-16E", "llama-4-scout-17b-16e"),
        ("Llama-4-Scout", "llama-4-scout-17b-16e"),  # all that begin so are the same network
        ("llama-3.3-70b", "llama-3.3-70b-instruct"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-405B-FP8", "llama-3.1-405b:fp8"),
        ("llama-3.1-405b:bf16-mp16", "llama-3.1-405b:bf16-mp16"),
        ("Llama3.1-405B-Instruct:bf16-mp8", "llama-3.1-405b-instruct:bf16-mp8"),
        ("LLAMA-3.1-405B:FP8", "llama-3.1-405b:fp8"),
    ],
)
def test_names_in_many_spellings(text, id):
    assert li.find_subject(text).name == id


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("llama-3.1-9b", "llama-3.1-8b"),
        ("lama-2-70b", "llama-2-70b"),
        ("Llama-4-Scot", "llama-4-scout-17b-16e"),
        ("scout", "llama-4-scout-17b-16e"),
        ("llama-3.1", "llama-3.1-8b"),  # of several sizes
        ("codelama-34b", "codellama-34b"),
        ("gpt-5", None),
        ("", None),
        ("   ", None),
        ("x" * 100_000, None),
        ("no/such/path", None),
        ("\x00", None),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_an_unknown_name_is_refused_with_the_nearest(text, near):
    with pytest.raises(InvalidRequest, match="no official model is called so") as caught:
        li.find_subject(text)
    assert (near is None) == ("near " not in str(caught.value))
    assert (near or "") in str(caught.value)


@pytest.mark.parametrize("command", ["memory", "compute", "explain"])
def test_an_unknown_name_exits_2_with_one_sentence(command, tmp_path):
    done = run(command, "llama-3.1-9b", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("llamainspect: llama-3.1-9b: ")
    assert "llama-3.1-8b" in done.stderr


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "Llama3.1-8B"])
def test_a_path_comes_before_a_name(tmp_path, monkeypatch, name):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    write_native(tmp_path / name, TINY, [weights])
    monkeypatch.chdir(tmp_path)
    subject = li.find_subject(name)
    assert subject.checkpoint is not None
    assert (subject.config.dim, subject.official) == (64, None)
    assert li.estimate_memory(subject).parameters == TINY_PARAMETERS
    monkeypatch.chdir("/")
    assert li.find_subject(name).config.dim == 4096


def test_an_empty_directory_of_a_model_s_name_is_no_model(tmp_path, monkeypatch):
    (tmp_path / "llama-3.1-8b").mkdir()
    (tmp_path / "llama-3.2-1b").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotACheckpoint):
        li.find_subject("llama-3.1-8b")
    with pytest.raises((NotACheckpoint, FileNotFoundError)):
        li.find_subject("llama-3.2-1b")
    assert li.find_subject("llama-3.1-70b").official


def test_a_checkpoint_is_what_its_files_say(checkpoint_path):
    subject = li.find_subject(str(checkpoint_path))
    assert subject.checkpoint.config == subject.config
    assert subject.census.parameters.total == TINY_PARAMETERS
    context = None if list(checkpoint_path.glob("*.pth")) else 8192  # config.json alone says it
    assert (subject.tied_output, subject.official, subject.context_length) == (False, None, context)
    assert subject.name == str(checkpoint_path)


def test_a_checkpoint_with_one_matrix_for_both_ends_is_tied(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["output.weight"] = weights["tok_embeddings.weight"]
    shared = li.find_subject(str(write_native(tmp_path / "shared", TINY, [weights])))
    weights["output.weight"] = weights["tok_embeddings.weight"].clone()
    twice = li.find_subject(str(write_native(tmp_path / "twice", TINY, [weights])))
    assert shared.tied_output
    assert twice.tied_output
    report = li.estimate_memory(shared)
    assert report.parameters == li.estimate_memory(twice).parameters == TINY_PARAMETERS - 128 * 64


@pytest.mark.parametrize("as_file", [False, True], ids=["directory", "params.json"])
def test_a_configuration_without_weights_is_enough(tmp_path, as_file):
    path = write_params(tmp_path / "config", TINY)
    subject = li.find_subject(os.path.join(path, "params.json") if as_file else path)
    assert (subject.checkpoint, subject.census) == (None, None)
    assert subject.name == path
    assert [finding.where for finding in subject.findings] == ["params.json"]
    report = li.estimate_memory(subject)
    assert (report.parameters, report.stored, report.dtype) == (TINY_PARAMETERS, None, "bf16")
    assert li.explain_model(subject).ok


def test_a_configuration_is_found_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(write_params(tmp_path / "config", TINY))
    for text in (".", "params.json", "./params.json"):
        assert li.find_subject(text).config.dim == 64


def test_params_json_beside_weights_is_the_configuration_alone(tiny):
    subject = li.find_subject(str(tiny / "params.json"))
    assert subject.config == li.find_subject(str(tiny)).config


@pytest.mark.parametrize(
    ("params", "id", "total", "tied", "context"),
    [
        (LLAMA_3_8B, "llama-3-8b", 8_030_261_248, False, 8_192),
        (LLAMA_3_8B | {"use_scaled_rope": True}, "llama-3.1-8b", 8_030_261_248, False, 131_072),
        (LLAMA_3_2_1B, "llama-3.2-1b", 1_235_814_400, True, 131_072),
        (LLAMA_2_7B | {"vocab_size": 32000}, "llama-2-7b", 6_738_415_616, False, 4_096),
    ],
)
def test_a_configuration_of_a_release_is_recognised(tmp_path, params, id, total, tied, context):
    subject = li.find_subject(write_params(tmp_path / "config", params))
    assert (subject.official.id, subject.tied_output) == (id, tied)
    assert subject.context_length == context
    assert li.estimate_memory(subject).parameters == total


def test_kv_heads_that_405b_repeats_are_counted_once(tmp_path):
    params = {"dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 16,
              "vocab_size": 128256, "ffn_dim_multiplier": 1.2, "multiple_of": 4096,
              "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True}  # fmt: skip
    for heads in (16, 8):
        subject = li.find_subject(write_params(tmp_path / "config", params | {"n_kv_heads": heads}))
        assert subject.config.n_kv_heads == 8
        report = li.estimate_memory(subject, li.Usage(context=1))
        assert (report.parameters, report.inference.kv_cache) == (405_853_388_800, 516_096)


# --- the vocabulary of the tokenizer --------------------------------------------------------------


def test_a_vocabulary_that_is_left_to_the_tokenizer(tmp_path):
    path = Path(write_params(tmp_path / "config", TINY | {"vocab_size": -1}))
    with pytest.raises(MissingFile, match=r"vocab_size.*tokenizer\.model") as caught:
        li.find_subject(str(path))
    assert "\n" not in str(caught.value)
    done = run("memory", path, "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)

    (path / "tokenizer.model").write_bytes(sentencepiece_file())
    subject = li.find_subject(str(path))
    assert subject.config.vocab_size == PIECES
    assert li.estimate_memory(subject).parameters == TINY_PARAMETERS + 2 * 64 * (PIECES - 128)


def test_a_vocabulary_of_ranks_counts_its_special_tokens(tmp_path):
    """Llama 3 has 256 of them behind the ranks."""
    path = Path(write_params(tmp_path / "config", TINY | {"vocab_size": -1, "rope_theta": 5e5}))
    (path / "tokenizer.model").write_bytes(rank_file())
    assert li.find_subject(str(path)).config.vocab_size == RANKS + 256


def test_llama_2_with_its_weights_takes_the_vocabulary_from_them(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    path = write_native(tmp_path / "model", TINY | {"vocab_size": -1}, cut(weights, 2))
    subject = li.find_subject(str(path))
    assert subject.config.vocab_size == 128
    assert li.estimate_memory(subject).parameters == TINY_PARAMETERS


# --- what is no model -----------------------------------------------------------------------------


def test_a_place_without_anything_exits_3_with_one_sentence(tmp_path):
    for command in ("memory", "compute", "explain"):
        done = run(command, tmp_path, "--json")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
        assert "Traceback" not in done.stderr
    done = run("memory", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_weights_without_a_configuration_are_not_enough(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    path = write_native(tmp_path / "model", None, [weights])
    with pytest.raises(MissingFile, match=r"params\.json"):
        li.find_subject(str(path))


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"dim": 64}', '{"dim": 0, "n_layers": 1, "n_heads": 1}', "\x00"]
)
def test_a_broken_configuration_is_an_error_of_one_sentence(tmp_path, content):
    (tmp_path / "params.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"params\.json") as caught:
        li.find_subject(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_not_one(tmp_path):
    (tmp_path / "notes.txt").write_text("a note")
    with pytest.raises(li.LlamaInspectError):
        li.find_subject(str(tmp_path / "notes.txt"))


def test_the_variable_says_where_to_look(tiny, tmp_path):
    for value, parameters in ((str(tiny), TINY_PARAMETERS), ("llama-3.2-1b", 1_235_814_400)):
        done = run("memory", "--json", cwd=tmp_path, env={"LLAMAINSPECT_MODEL": value})
        assert json.loads(done.stdout)["parameters"] == parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_estimate_is_of_the_form_that_is_stored(tmp_path, dtype):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN), dtype=dtype)
    report = li.estimate_memory(li.find_subject(str(write_native(tmp_path / "m", TINY, [weights]))))
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    assert report.dtype == names[dtype]
    assert report.kv_dtype == ("fp32" if dtype is torch.float32 else "bf16")
    assert report.inference.weights == dtype.itemsize * TINY_PARAMETERS
