"""Files of multiple-choice questions: what they are as text for a model, and what is wrong."""

import json

import pytest
from changes import any_change, examples
from hypothesis import given
from hypothesis import strategies as st

from llamainspect import CorruptFile, Question, read_questions

# The first lines of hellaswag_val.jsonl, as github.com/rowanz/hellaswag publishes them.
ROOF = {
    "ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he", "ctx": "A man is sitting on a roof. he", "split": "val",
    "split_type": "indomain", "label": 3,
    "endings": ["is using wrap to wrap a pair of skis.", "is ripping level tiles off.",
                "is holding a rubik's cube.", "starts pulling up roofing on a roof."],
    "source_id": "activitynet~v_-JhWjGDPHMY",
}  # fmt: skip
WIKIHOW = ROOF | {
    "activity_label": "Personal Care and Style",
    "ctx_a": "[header] How to tie a scarf [title] Choose a scarf. [step] A  long one is best.",
    "ctx_b": "",
    "endings": [" [substeps] Fold it. [title] Wrap it. ", "b", "c", "d"],
    "label": "0",
}


def lines(*rows):
    return b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"


def test_hellaswag_as_the_evaluation_harness_reads_it():
    (question,) = read_questions(lines(ROOF), "val.jsonl", "hellaswag")
    assert question == Question(
        1,
        "Roof shingle removal: A man is sitting on a roof. He",
        (
            " is using wrap to wrap a pair of skis.",
            " is ripping level tiles off.",
            " is holding a rubik's cube.",
            " starts pulling up roofing on a roof.",
        ),
        3,
        (37, 27, 26, 36),
    )


def test_marks_of_wikihow_are_taken_out():
    (question,) = read_questions(lines(WIKIHOW), "val.jsonl", "hellaswag")
    # By hand: strip, " [title]" becomes ". ", brackets go, and two spaces become one, once.
    assert question.context == (
        "Personal Care and Style: How to tie a scarf. Choose a scarf. A long one is best."
    )
    assert question.endings[0] == "  Fold it.. Wrap it."  # the first space joins it
    assert question.characters[0] == 19
    assert question.label == 0


def test_choices_are_taken_as_they_are():
    rows = [
        {"context": "One and one is", "endings": [" two", " three."], "label": 1, "note": "?"},
        {"context": "", "endings": ["a", "\u00e4\U0001f999", " "[:0] + "b c"], "label": 0},
    ]
    data = b"\xef\xbb\xbf" + lines(rows[0]) + b"\r\n\n" + lines(rows[1])
    assert read_questions(data, "q.jsonl") == [
        Question(1, "One and one is", (" two", " three."), 1, (4, 7)),
        Question(4, "", ("a", "\u00e4\U0001f999", "b c"), 0, (1, 2, 3)),
    ]


GOOD = {"context": "a", "endings": ["b", "c"], "label": 0}


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        (b"", "choices", "q.jsonl: there is no question in it"),
        (b"\n  \n", "choices", "there is no question in it"),
        (lines(GOOD) + b"{", "choices", "q.jsonl: line 2: it is not valid JSON"),
        (b"[1]", "choices", "q.jsonl: line 1: it is no JSON object; mend that line"),
        (b"\xff", "choices", "line 1: it is not UTF-8 text"),
        (b'{"context": "a", "context": "b"}', "choices", "the key 'context' stands there twice"),
        (lines(GOOD | {"context": 3}), "choices", "line 1: context: a text is needed"),
        (lines({"endings": ["b", "c"], "label": 0}), "choices", "context: a text is needed"),
        (lines(GOOD | {"context": "\ud800"}), "choices", "context: it holds half a character"),
        (lines(GOOD | {"endings": ["\ud800", "b"]}), "choices", "endings: it holds half a"),
        (lines(GOOD | {"endings": ["b"]}), "choices", "endings: a list of 2 to 1,000 texts"),
        (lines(GOOD | {"endings": ["b"] * 1001}), "choices", "endings: a list of 2 to 1,000"),
        (lines(GOOD | {"endings": "bc"}), "choices", "endings: a list of 2 to 1,000 texts"),
        (lines(GOOD | {"endings": ["b", " "]}), "choices", "endings: each must be a text"),
        (lines(GOOD | {"endings": ["b", None]}), "choices", "endings: each must be a text"),
        (lines(GOOD | {"label": 2}), "choices", "label: a number from 0 to 1 is needed"),
        (lines(GOOD | {"label": -1}), "choices", "label: a number from 0 to 1 is needed"),
        (lines(GOOD | {"label": True}), "choices", "label: a number from 0 to 1 is needed"),
        (lines(GOOD | {"label": 0.0}), "choices", "label: a number from 0 to 1 is needed"),
        (lines(GOOD | {"label": "x"}), "choices", "label: a number from 0 to 1 is needed"),
        (lines(GOOD | {"label": "\u0661"}), "choices", "label: a number from 0 to 1 is needed"),
        (lines({"context": "a", "endings": ["b", "c"]}), "choices", "use the validation split"),
        (lines(ROOF | {"label": ""}), "hellaswag", "use the validation split"),
        (lines(ROOF | {"ctx_b": None}), "hellaswag", "ctx_b: a text is needed"),
        (lines(GOOD), "hellaswag", "line 1: ctx_a: a text is needed"),
        (lines(ROOF), "choices", "line 1: context: a text is needed; this is HellaSwag's"),
    ],
)
def test_what_is_wrong_is_a_sentence(line, kind, sentence):
    with pytest.raises(CorruptFile) as caught:
        read_questions(line, "q.jsonl", kind)
    assert sentence in str(caught.value)


ROWS = st.lists(
    st.tuples(
        st.text(),
        st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=5),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@examples(60)
@given(rows=ROWS)
def test_any_choices_are_taken_as_they_are(rows):
    data = lines(*({"context": c, "endings": e, "label": n} for c, e, n in rows))
    found = read_questions(data, "q.jsonl")
    assert [(q.context, list(q.endings), q.label) for q in found] == rows


test_any_change_to_a_file_is_read_or_refused = any_change("questions", 150)
