"""Multiple choice, against transformers: each ending by itself, no padding, no groups."""

import json
import math
import re
import shutil
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, dense_shapes, random_weights, write_native
from hub_layout import hub_config, to_hub, write_hub
from in_process import run
from test_cli import EXAMPLE, in_terminal
from test_questions import ROOF, lines

import llamainspect as li
from llamainspect.errors import CorruptFile, InvalidRequest, NonFinite, UnusablePrompt
from llamainspect.model import choices
from llamainspect.model.choices import accuracy, continuations, evaluate_choices, groups
from llamainspect.model.runner import Model, estimate_need
from llamainspect.questions import read_questions

QUESTIONS = [
    {"context": "The while statement is used for", "endings": [" repeated execution.", " a dog"],
     "label": 0},
    {"context": "x = ", "endings": ["1", "None  # nothing at all, as far as I know", "(2, 3)"],
     "label": 2},
    {"context": "An import sta", "endings": ["tement", "tion has trains", "r"], "label": 1},
    {"context": "", "endings": ["Classes", "classes"], "label": 1},
    {"context": "Ünïcode ", "endings": [" \U0001f999", "ist gut"], "label": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> tuple[Path, Path]:
    """A model with random weights in both layouts, with the example's tokenizer."""
    place = tmp_path_factory.mktemp("choices")
    params = TINY | {"vocab_size": li.load_tokenizer(EXAMPLE).vocab_size}
    shapes = dense_shapes(params, TINY_HIDDEN)
    weights = {
        name: (weight.float() * 0.1 + ("norm" in name)).bfloat16()
        for name, weight in random_weights(shapes, 3).items()
    }
    native = write_native(place / "native", params, [weights])
    hub = write_hub(
        place / "hub", to_hub(weights, params, TINY_HIDDEN), hub_config(params, TINY_HIDDEN)
    )
    for path in (native, hub):
        shutil.copy(Path(EXAMPLE) / "tokenizer.model", path)
    return native, hub


def load(path: Path, **options) -> Model:
    return li.load_model(li.find_subject(str(path)), li.RunOptions("cpu", **options))


def straightforward(hub: Path, rows: list[dict], joint: str = "") -> list[list[float]]:
    """Log-likelihood of every ending: sentencepiece, transformers, one sequence at a time."""
    sentencepiece = pytest.importorskip("sentencepiece")
    transformers = pytest.importorskip("transformers")
    tokenizer = sentencepiece.SentencePieceProcessor(str(hub / "tokenizer.model"))
    model = transformers.LlamaForCausalLM.from_pretrained(hub, dtype=torch.float32).eval()
    found = []
    for row in rows:
        context = [tokenizer.bos_id(), *tokenizer.encode(row["context"].rstrip())]
        scores = []
        for ending in row["endings"]:
            ids = [tokenizer.bos_id(), *tokenizer.encode(row["context"] + joint + ending)]
            first = 0
            while first < min(len(context), len(ids)) and context[first] == ids[first]:
                first += 1
            with torch.inference_mode():
                logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
            logs = torch.log_softmax(logits, -1)
            scores.append(sum(float(logs[at - 1, ids[at]]) for at in range(first, len(ids))))
        found.append(scores)
    return found


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("small", [False, True])
def test_scores_are_those_of_transformers(pairs, layout, small, monkeypatch):
    if small:  # groups of one sequence
        monkeypatch.setattr(choices, "GROUP_NBYTES", 1)
    questions = read_questions(lines(*QUESTIONS), "q.jsonl")
    tokenizer = li.load_tokenizer(str(pairs[layout]))
    report = evaluate_choices(load(pairs[layout], stream=small), tokenizer, questions)
    expected = straightforward(pairs[1], QUESTIONS)
    right = {"character": 0, "token": 0, "total": 0}
    for row, question, scores in zip(report.results, QUESTIONS, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(scores, rel=1e-6, abs=1e-4)
        assert row.label == question["label"]
        assert row.characters == tuple(len(ending) for ending in question["endings"])
        for by, divisors in (
            ("character", row.characters), ("token", row.tokens), ("total", [1] * len(scores)),
        ):  # fmt: skip
            means = [score / divisor for score, divisor in zip(scores, divisors, strict=True)]
            assert row.chosen[by] == means.index(max(means))
            right[by] += row.chosen[by] == row.label
    assert {row.by: row.correct for row in report.scores} == right
    assert [row.accuracy for row in report.scores] == [count / 5 for count in right.values()]
    assert (report.questions, report.endings) == (5, 12)
    assert report.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 5)
    assert report.tokens == sum(
        len(tokenizer.encode(row["context"] + ending, bos=True))
        for row in QUESTIONS for ending in row["endings"]
    )  # fmt: skip


def test_hellaswag_from_the_command_line_is_what_transformers_says(pairs, tmp_path):
    rows = [ROOF, ROOF | {"ctx_b": "the man", "endings": ROOF["endings"][::-1], "label": 0}]
    (tmp_path / "val.jsonl").write_bytes(lines(*rows))
    done = run("evaluate", pairs[0], "--hellaswag", tmp_path / "val.jsonl", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["report"], report["kind"]) == ("evaluate-choices", "hellaswag")
    by_hand = [
        {"context": f"Roof shingle removal: A man is sitting on a roof. {subject}",
         "endings": row["endings"]}
        for subject, row in zip(("He", "The man"), rows, strict=True)
    ]  # fmt: skip
    expected = straightforward(pairs[1], by_hand, joint=" ")
    correct = 0
    for row, scores, question in zip(report["results"], expected, rows, strict=True):
        assert row["log_likelihoods"] == pytest.approx(scores, rel=1e-6, abs=1e-4)
        means = [s / len(e) for s, e in zip(scores, question["endings"], strict=True)]
        correct += means.index(max(means)) == question["label"]
    assert report["correct"] == report["scores"][0]["correct"] == correct
    assert report["accuracy"] == correct / 2


def test_tokens_that_hold_the_end_of_the_context_belong_to_the_ending():
    """By hand: what the context's own tokens share with those of the whole."""

    class Pairs:
        def encode(self, text: str, bos: bool = False) -> list[int]:
            return [0] * bos + [
                int.from_bytes(text[i : i + 2].encode(), "big") for i in range(0, len(text), 2)
            ]

    (question,) = read_questions(
        lines({"context": "abc", "endings": ["d", "dex", "c"], "label": 0}), "q.jsonl"
    )
    asked = continuations([question], Pairs(), "q.jsonl")
    assert [(one.first, len(one.ids)) for one in asked] == [(2, 3), (2, 4), (2, 3)]
    (question,) = read_questions(
        lines({"context": "ab", "endings": ["cd", "e"], "label": 0}), "q.jsonl"
    )
    asked = continuations([question], Pairs(), "q.jsonl", bos=False)
    assert [(one.first, len(one.ids)) for one in asked] == [(1, 2), (1, 2)]
    (question,) = read_questions(  # blanks at the end of a context are the ending's
        lines({"context": "ab  ", "endings": ["cd", "e"], "label": 0}), "q.jsonl"
    )
    asked = continuations([question], Pairs(), "q.jsonl", bos=False)
    assert [(one.first, len(one.ids)) for one in asked] == [(1, 3), (1, 3)]
    (question,) = read_questions(
        lines({"context": "", "endings": ["cd", "e"], "label": 0}), "q.jsonl"
    )
    with pytest.raises(UnusablePrompt, match=r"q.jsonl: line 1: nothing stands .* out --no-bos"):
        continuations([question], Pairs(), "q.jsonl", bos=False)


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (1, 2), (61, 100), (7892, 10042)])
def test_the_interval_is_wilsons(correct, count):
    """Its ends are the shares that lie 1.96 of their own standard deviations from what was seen."""
    found = accuracy("total", correct, count)
    seen = correct / count
    assert found.accuracy == seen
    assert found.low <= seen <= found.high
    for end in (found.low, found.high):
        if 0 < end < 1:
            deviation = math.sqrt(end * (1 - end) / count)
            assert abs(seen - end) == pytest.approx(1.959964 * deviation, rel=1e-6)
        else:
            assert end == seen


def test_an_interval_from_a_table():
    """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20."""
    table = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}
    for (correct, count), (low, high) in table.items():
        found = accuracy("total", correct, count)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def asked_of(*lengths: int) -> list[choices.Continuation]:
    return [choices.Continuation(0, array("i", [1] * length), 1) for length in lengths]


def test_groups_hold_all_once_and_no_more_than_fit(monkeypatch):
    monkeypatch.setattr(choices, "GROUP_NBYTES", 4 * 8 * 100)
    asked = asked_of(5, 90, 7, 30, 100, 60, 2, 300, 6)
    found = list(groups(asked, 8))
    assert sorted(at for group in found for at in group) == list(range(9))
    for group in found:
        lengths = [len(asked[at].ids) for at in group]
        assert len(group) == 1 or len(group) * max(lengths) <= 100
        assert min(lengths) >= max(lengths) / 2  # the rest would be padding
    assert found[-1] == [6]  # of the shortest
    assert [2, 8, 0] in found


def test_memory_is_asked_for_the_longest_and_for_the_most(monkeypatch):
    monkeypatch.setattr(choices, "GROUP_NBYTES", 4 * 8 * 1000)
    assert choices.largest_group(asked_of(300), 8) == (300, 1)
    assert choices.largest_group(asked_of(300, *[90] * 11), 8) == (300, 4)  # 990 tokens in 11
    assert choices.largest_group(asked_of(2000, *[90] * 11), 8) == (2000, 1)


def test_memory_of_many_short_sequences_is_that_of_the_tokens_that_pass_together(pairs):
    """2,048 tokens pass a layer together, in however many sequences."""
    subject = li.find_subject(str(pairs[0]))
    one, many, more = (
        estimate_need(subject, 4, 64, sequences).streamed for sequences in (1, 32, 33)
    )
    # What the blocks need: 2 T (4 h + 3 f) numbers of 2 bytes, here of 4; hidden states twice.
    per_token = 2 * 2 * (4 * 64 + 3 * TINY_HIDDEN) // 2
    assert many - one == pytest.approx(31 * 64 * (2 * per_token + 2 * 4 * 64), rel=0.01)
    assert more - many == 2 * 4 * 64 * 64


LETTERS = SimpleNamespace(encode=lambda text, *, bos=True: [127] * bos + list(text.encode()))


def ask(model: Model, *rows: dict) -> li.ChoiceEvaluation:
    return evaluate_choices(model, LETTERS, read_questions(lines(*rows), "q"))


def test_nan_is_named_and_only_where_it_matters(tmp_path):
    weights = {name: weight * 0.1 for name, weight in
               random_weights(dense_shapes(TINY, TINY_HIDDEN)).items()}  # fmt: skip
    first = {"context": "a", "endings": ["bbbbbbbb", "cccccccc"], "label": 0}
    second = {"context": "x", "endings": ["q", "z"], "label": 0}
    weights["tok_embeddings.weight"][ord("q"), 5] = float("nan")
    model = load(write_native(tmp_path / "some", TINY, [weights]))
    assert ask(model, first).questions == 1  # it reads no q
    with pytest.raises(NonFinite, match=r"tok_embeddings.weight: it holds NaN at \[113, 5\]"):
        ask(model, first, second)
    weights["tok_embeddings.weight"][ord("q"), 5] = 0
    weights["tok_embeddings.weight"][0, 3] = float("nan")  # a token that none of them has
    model = load(write_native(tmp_path / "none", TINY, [weights]))
    assert ask(model, first, second).questions == 2
    weights["layers.1.attention.wv.weight"][3, 17] = float("nan")
    model = load(write_native(tmp_path / "all", TINY, [weights]))
    with pytest.raises(NonFinite, match=r"layers.1.attention.wv.weight: it holds NaN at \[3, 17\]"):
        ask(model, first)


def test_of_equal_endings_the_first_is_chosen(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    model = load(write_native(tmp_path, TINY, [weights]))
    for label in (0, 1):
        report = ask(model, {"context": "a", "endings": ["same", "same"], "label": label})
        assert set(report.results[0].chosen.values()) == {0}
        assert report.accuracy == 1 - label


def test_progress_grows_up_to_all_tokens(pairs, monkeypatch):
    monkeypatch.setattr(choices, "GROUP_NBYTES", 1)
    questions = read_questions(lines(*QUESTIONS), "q.jsonl")
    asked = continuations(questions, li.load_tokenizer(str(pairs[0])), "q.jsonl")
    steps = choices.choosing(load(pairs[0]), questions, asked, "q.jsonl", "choices")
    told = [row for (row,) in steps]
    total = sum(len(one.ids) for one in asked)
    assert {(row.nbytes, row.unit) for row in told} == {(total, "tokens")}
    done = [row.done for row in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert len(set(done)) > len(asked)


def test_what_is_too_long_is_named(tmp_path, pairs):
    config = json.loads((pairs[1] / "config.json").read_text())
    shutil.copytree(pairs[1], tmp_path / "short")
    (tmp_path / "short" / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 8})
    )
    fits = {"context": "a", "endings": ["b", "c"], "label": 0}
    (tmp_path / "q.jsonl").write_bytes(lines(fits, fits | {"context": "a " * 20}))
    done = run("evaluate", tmp_path / "short", "--choices", tmp_path / "q.jsonl")
    assert (done.returncode, done.stdout) == (3, "")
    assert re.search(r"q.jsonl: line 2: \d+ tokens are more than .* context of 8", done.stderr)


def test_tokens_that_the_model_has_not_are_named(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    path = write_native(tmp_path / "few", TINY, [weights])
    (tmp_path / "q.jsonl").write_bytes(lines({"context": "a", "endings": ["b", "c"], "label": 0}))
    done = run("evaluate", path, "--choices", tmp_path / "q.jsonl", "--tokenizer", EXAMPLE)
    assert (done.returncode, done.stdout) == (3, "")
    assert "the model has 128 tokens" in done.stderr


def test_what_cannot_be_asked_is_a_sentence(pairs, monkeypatch):
    tokenizer, model = li.load_tokenizer(str(pairs[0])), load(pairs[0])
    with pytest.raises(InvalidRequest, match="there is no question to ask"):
        evaluate_choices(model, tokenizer, [])
    with pytest.raises(InvalidRequest, match="questions of choices and hellaswag, not mmlu"):
        read_questions(lines(*QUESTIONS), "q.jsonl", "mmlu")
    with pytest.raises(CorruptFile, match="this is no HellaSwag; --choices reads it"):
        read_questions(lines(*QUESTIONS), "q.jsonl", "hellaswag")
    with pytest.raises(CorruptFile, match="ctx_b: a text is needed; mend that line"):
        read_questions(lines(ROOF | {"ctx_b": None}), "q.jsonl", "hellaswag")
    monkeypatch.setattr(choices, "MAX_TOKENS", 30)
    with pytest.raises(UnusablePrompt, match="line 2: with it there are more than 30 tokens"):
        evaluate_choices(model, tokenizer, read_questions(lines(*QUESTIONS), "q.jsonl"))


def test_without_the_begin_of_text_token(pairs, tmp_path):
    rows = [row for row in QUESTIONS if row["context"]]
    (tmp_path / "q.jsonl").write_bytes(lines(*rows))
    with_it, without = (
        json.loads(run("evaluate", pairs[0], "--choices", tmp_path / "q.jsonl", *more,
                       "--json").stdout)
        for more in ([], ["--no-bos"])
    )  # fmt: skip
    assert with_it["tokens"] - without["tokens"] == sum(len(row["endings"]) for row in rows)
    report = evaluate_choices(
        load(pairs[0]), li.load_tokenizer(str(pairs[0])),
        read_questions(lines(*rows), "q.jsonl"), bos=False,
    )  # fmt: skip
    for there, here in zip(without["results"], report.results, strict=True):
        assert there["log_likelihoods"] == pytest.approx(list(here.log_likelihoods))


def test_questions_from_standard_input_and_the_page(pairs):
    data = lines(*QUESTIONS).decode()
    done = run("evaluate", pairs[0], "--choices", "-", input=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert "questions  standard input: 5, with 12 endings" in done.stdout
    assert "with 5 questions chance carries far" in done.stdout
    assert "per character" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--choices", "a", "--text", "b"], 2, "--text and --choices exclude each other"),
        (["--choices", "a", "--hellaswag", "b"], 2, "exclude each other"),
        (["--choices", "a", "--window", "8"], 2, "they go with --text"),
        (["--hellaswag", "a", "--stride", "8"], 2, "they go with --text"),
        ([], 2, "what should it read? Give --text, --hellaswag or --choices"),
        (["--choices", "nosuch.jsonl"], 3, "nosuch.jsonl"),
        (["--choices", f"{EXAMPLE}/params.json"], 3, "context: a text is needed"),
        (["--hellaswag", f"{EXAMPLE}/tokenizer.model"], 3, "line 1"),
    ],
)
def test_what_cannot_be_answered(pairs, arguments, code, sentence):
    done = run("evaluate", pairs[0], *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_no_line_is_wider_than_a_narrow_terminal(pairs, tmp_path):
    (tmp_path / "q.jsonl").write_bytes(lines(*QUESTIONS))
    page = in_terminal("evaluate", pairs[0], "--choices", tmp_path / "q.jsonl", columns=60)
    assert "per character" in page
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in page.splitlines()) <= 60
