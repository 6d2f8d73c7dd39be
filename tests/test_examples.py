"""The example checkpoint: intact, small, what its script makes, and a model that has learned."""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

import llamainspect as li
from llamainspect.questions import read_questions

EXAMPLES = Path(__file__).parent.parent / "examples"
MINI = EXAMPLES / "mini-llama"
TEXT = "\n".join(topics[name] for name in sorted(topics))
# The language reference differs between versions of Python; this is that of 3.11.7.
IS_THE_TEXT = hashlib.sha256(TEXT.encode()).hexdigest().startswith("2a95af4ac93f5b71")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "training_script", EXAMPLES / "train_mini_llama.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_script"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["training_script"]


@pytest.fixture(scope="module")
def model():
    return li.load_model(li.find_subject(str(MINI)), li.RunOptions("cpu"))


@pytest.fixture(scope="module")
def tokenizer():
    return li.load_tokenizer(str(MINI))


def test_it_verifies_against_its_checklist():
    lines = (MINI / "checklist.chk").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(listed) == {file.name for file in MINI.iterdir()} - {"checklist.chk"}
    for name, digest in listed.items():
        assert hashlib.md5((MINI / name).read_bytes()).hexdigest() == digest, name


def test_it_is_small():
    assert sum(file.stat().st_size for file in MINI.iterdir()) < 2_000_000


def test_it_is_what_the_script_makes(script):
    preset = script.PRESETS["tiny"].params
    assert json.loads((MINI / "params.json").read_text()) == preset
    summary = li.summarize(li.open_checkpoint(str(MINI)))
    assert (summary.ok, summary.parameters.total, summary.tied_output) == (True, 869_504, True)
    if not IS_THE_TEXT:
        pytest.skip("this Python has another language reference than the one it was trained on")
    training, held_out = script.hold_out(script.read_documents([]))
    assert (MINI / "held-out.txt").read_text(encoding="utf-8") == "\n".join(held_out)
    made = script.train_sentencepiece(training, preset["vocab_size"])
    assert made == (MINI / "tokenizer.model").read_bytes()


def test_a_held_out_text_is_five_times_less_surprising_than_to_random_weights(
    script, model, tokenizer, tmp_path
):
    text = (MINI / "held-out.txt").read_text(encoding="utf-8")
    trained = li.evaluate_text(model, tokenizer, text, window=256)
    untrained = script.MiniLlama(script.PRESETS["tiny"].params, 256, torch.device("cpu"))
    untrained.initialise(0)
    weights = {name: weight.detach().bfloat16() for name, weight in untrained.weights.items()}
    script.write_native(tmp_path, weights, 1)
    for name in ("params.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((MINI / name).read_bytes())
    other = li.load_model(li.find_subject(str(tmp_path)), li.RunOptions("cpu"))
    random = li.evaluate_text(other, tokenizer, text, window=256)
    assert random.perplexity > 800
    assert trained.perplexity < random.perplexity / 5
    assert trained.predicted == random.predicted > 10_000


def test_the_weights_compute_what_was_recorded(model):
    report = li.verify_against_recording(model, str(MINI / "logits.safetensors"))
    assert report.ok
    assert len(report.positions) == len(report.tokens) > 10
    assert li.verify_against_transformers(model, report.tokens).ok


def test_it_speaks_of_what_it_has_read(model, tokenizer):
    known = set(re.findall(r"[a-z]{4,}", TEXT.lower()))
    for start in ("If the object", "The class", "def f("):
        ids = tokenizer.encode(start, bos=True)
        text = li.generate_text(model, tokenizer, ids, max_new_tokens=100).text
        words = re.findall(r"[a-z]{4,}", text.lower())
        assert len(words) >= 10, text
        assert sum(word in known for word in words) / len(words) > 0.8, text


def test_it_answers_questions_better_than_by_chance(model, tokenizer):
    data = (MINI / "questions.jsonl").read_bytes()
    report = li.evaluate_choices(model, tokenizer, read_questions(data, "questions.jsonl"))
    assert report.questions >= 20
    assert report.low > report.chance
