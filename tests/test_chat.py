"""Dialogues: the ids of Meta's code, put together here by hand from tiktoken and SentencePiece.

The recipes are `chat_completion` of meta-llama/llama, `dialog_prompt_tokens` of codellama, and
`ChatFormat` of llama3 (3.0) and of llama-models (3.1 and 4).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from changes import any_change
from checkpoints import TINY
from small_tokenizers import (
    LLAMA_3_PATTERN,
    LLAMA_4_PATTERN,
    RANKS,
    byte_level_json,
    code_llama_file,
    encoding,
    processor,
    rank_file,
    read_ranks,
    real,
    sentencepiece_file,
    sentencepiece_json,
    train_ranks,
)

from llamainspect.chat import Message, parse_dialogue
from llamainspect.errors import CorruptFile, LlamaInspectError, MissingFile, UnsupportedFile
from llamainspect.generations import LLAMA_3_1
from llamainspect.tokenization import read_dialogue, tokenize_dialogue
from llamainspect.tokenizer import Tokenizer, load_tokenizer

LLAMA_3_PARAMS = TINY | {"vocab_size": RANKS + 256}
LLAMA_3_1_PARAMS = LLAMA_3_PARAMS | {"use_scaled_rope": True}
LLAMA_4_PARAMS = LLAMA_3_1_PARAMS | {
    "vocab_size": RANKS + 2048,
    "moe_args": {"num_experts": 4, "top_k": 1},
}
Dialogue = list[tuple[str, str]]
Referee = Callable[[Dialogue], list[int]]

USER: Dialogue = [("user", "Who are you?")]
SYSTEM: Dialogue = [("system", "Be brief."), ("user", "Why?")]
TURNS: Dialogue = [
    ("user", "the end"),
    ("assistant", "of the line"),
    ("user", "and the dog"),
    ("assistant", "sat"),
    ("user", "on the log"),
]
SPACES: Dialogue = [
    ("system", "  a system \n"),
    ("user", " \n the end \t"),
    ("assistant", "\n of it  "),
    ("user", "  why?\n\n"),
]
NAMES: Dialogue = [("user", "what is <|eot_id|> or </s> or <|eot|>?")]
EMPTY: Dialogue = [("system", ""), ("user", ""), ("assistant", ""), ("user", "")]
BLANK: Dialogue = [("system", " "), ("user", " \n"), ("assistant", "\t"), ("user", "  ")]
MANY: Dialogue = [("system", "世界"), *TURNS]
ORDERLY = {
    "one question": USER,
    "a system prompt": SYSTEM,
    "turns": TURNS,
    "turns and a system prompt": MANY,
    "white space around": SPACES,
    "names of special tokens": NAMES,
    "nothing said": EMPTY,
    "white space alone": BLANK,
}
TOOL: Dialogue = [
    ("system", "Environment: ipython"),
    ("user", "what is 2+2?"),
    ("assistant", "print(2+2)"),
    ("tool", ' {"output": 4} '),
    ("assistant", "Four."),
    ("ipython", "5"),
]
ANY_ORDER = ORDERLY | {
    "a tool": TOOL,
    "the assistant last": [*USER, ("assistant", "A llama")],
    "the system alone": [("system", "x")],
    "the assistant first": [("assistant", "hello"), ("assistant", "again"), ("user", "x")],
}


def messages(dialogue: Dialogue) -> list[Message]:
    return [Message(*turn) for turn in dialogue]


def load(directory: Path, data: bytes, params: dict | None = None) -> Tokenizer:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(data)
    if params is not None:
        (directory / "params.json").write_text(json.dumps(params))
    return load_tokenizer(str(directory))


# --- Llama 3 and 4 --------------------------------------------------------------------------------

# Places of special tokens behind the ranks.
BEGIN, HEADER_3, HEADER_END_3, EOT_3 = 0, 6, 7, 9
HEADER_4, HEADER_END_4, EOM_4, EOT_4 = 5, 6, 7, 8


def llama_3(ranks: dict[bytes, int], strip: bool) -> Referee:
    encode = encoding(ranks, LLAMA_3_PATTERN).encode_ordinary
    first = len(ranks)

    def header(role: str) -> list[int]:
        name = encode("ipython" if role == "tool" else role)
        return [first + HEADER_3, *name, first + HEADER_END_3, *encode("\n\n")]

    def ids(dialogue: Dialogue) -> list[int]:
        found = [first + BEGIN]
        for role, content in dialogue:
            said = content.strip() if strip else content
            found += [*header(role), *encode(said), first + EOT_3]
        return found + header("assistant")

    return ids


def llama_4(ranks: dict[bytes, int]) -> Referee:
    encode = encoding(ranks, LLAMA_4_PATTERN).encode_ordinary
    first = len(ranks)

    def header(role: str) -> list[int]:
        name = encode("ipython" if role == "tool" else role)
        return [first + HEADER_4, *name, first + HEADER_END_4, *encode("\n\n")]

    def ids(dialogue: Dialogue) -> list[int]:
        found = [first + BEGIN]
        for role, content in dialogue:
            end = EOM_4 if role in ("tool", "ipython") else EOT_4
            found += [*header(role), *encode(content), first + end]
        return found + header("assistant")

    return ids


@pytest.mark.parametrize("name", sorted(set(ANY_ORDER) - {"a tool"}))
def test_llama_3_strips_what_is_said(name, tmp_path):
    dialogue = ANY_ORDER[name]
    report = tokenize_dialogue(load(tmp_path, rank_file(), LLAMA_3_PARAMS), messages(dialogue))
    assert list(report.ids) == llama_3(train_ranks(), strip=True)(dialogue)
    assert report.chat_format == "Llama 3.0 headers"


def test_llama_3_knows_no_tools(tmp_path):
    tokenizer = load(tmp_path, rank_file(), LLAMA_3_PARAMS)
    for role in ("tool", "ipython"):
        with pytest.raises(UnsupportedFile, match=f"^message 2: Llama 3.0 knows no {role}"):
            tokenize_dialogue(tokenizer, messages([("user", "a"), (role, "b")]))


def test_a_role_that_nobody_knows_is_refused_from_python_too(tmp_path):
    with pytest.raises(UnsupportedFile, match=r"^message 1: the role 'boss' is none of"):
        tokenize_dialogue(load(tmp_path, rank_file()), [Message("boss", "x")])


@pytest.mark.parametrize(
    ("key", "value"),
    [("context", "x"), ("destination", "ipython"), ("stop_reason", "end_of_message")],
)
def test_what_would_change_the_prompt_is_not_dropped(key, value):
    entry = {"role": "assistant", "content": "x", key: value}
    with pytest.raises(UnsupportedFile, match=rf"^f: message 1 has '{key}', which is not laid out"):
        parse_dialogue([entry], "f")
    with pytest.raises(UnsupportedFile, match=r"^f: tools are not laid out"):
        parse_dialogue({"messages": [entry], "tools": [{}]}, "f")
    for harmless in ({"destination": "user"}, {"stop_reason": "end_of_turn"}, {"context": None}):
        assert parse_dialogue([{"role": "user", "content": "x", **harmless}], "f")


@pytest.mark.parametrize("params", [LLAMA_3_1_PARAMS, None], ids=["configured", "by default"])
@pytest.mark.parametrize("name", ANY_ORDER)
def test_llama_3_1_takes_what_is_said_as_it_is(name, params, tmp_path):
    dialogue = ANY_ORDER[name]
    report = tokenize_dialogue(load(tmp_path, rank_file(), params), messages(dialogue))
    assert list(report.ids) == llama_3(train_ranks(), strip=False)(dialogue)
    assert report.chat_format == "Llama 3 headers"


@pytest.mark.parametrize("name", ANY_ORDER)
def test_llama_4_ends_the_message_of_a_tool_and_the_turn_of_others(name, tmp_path):
    dialogue = ANY_ORDER[name]
    report = tokenize_dialogue(load(tmp_path, rank_file(), LLAMA_4_PARAMS), messages(dialogue))
    assert list(report.ids) == llama_4(train_ranks())(dialogue)
    assert report.chat_format == "Llama 4 headers"


# --- Llama 2 and Code Llama -----------------------------------------------------------------------


def llama_2(data: bytes) -> Referee:
    encode = processor(data).encode

    def ids(dialogue: Dialogue) -> list[int]:
        said = [content for _, content in dialogue]
        if dialogue[0][0] == "system":
            said = [f"<<SYS>>\n{said[0]}\n<</SYS>>\n\n{said[1]}", *said[2:]]
        found: list[int] = []
        while len(said) > 1:
            question, answer, *said = said
            found += [1, *encode(f"[INST] {question.strip()} [/INST] {answer.strip()} "), 2]
        return [*found, 1, *encode(f"[INST] {said[0].strip()} [/INST]")]

    return ids


def code_llama_70b(data: bytes) -> Referee:
    model = processor(data)
    encode, step = model.encode, model.piece_to_id("<step>")

    def ids(dialogue: Dialogue) -> list[int]:
        turns = dialogue if dialogue[0][0] == "system" else [("system", ""), *dialogue]
        found = [1]
        for role, content in turns:
            to = "\nDestination: user" if role == "assistant" else ""
            found += encode(f" Source: {role}{to}")
            if content:
                found += encode(f"\n\n {content.strip()}")
            found.append(step)
        return [*found, *encode(" Source: assistant\nDestination: user"), *encode("\n\n ")]

    return ids


@pytest.mark.parametrize("file", [sentencepiece_file, code_llama_file], ids=["Llama", "Code Llama"])
@pytest.mark.parametrize("name", ORDERLY)
def test_llama_2_puts_questions_between_inst(name, file, tmp_path):
    dialogue = ORDERLY[name]
    report = tokenize_dialogue(load(tmp_path, file()), messages(dialogue))
    assert list(report.ids) == llama_2(file())(dialogue)
    assert report.chat_format == "Llama 2 [INST]"


@pytest.mark.parametrize("type", [1, 3, 4], ids=["normal", "control", "user defined"])
@pytest.mark.parametrize("name", ORDERLY)
def test_code_llama_70b_names_source_and_destination(name, type, tmp_path):
    data, dialogue = code_llama_file(step=True, type=type), ORDERLY[name]
    report = tokenize_dialogue(load(tmp_path, data), messages(dialogue))
    assert list(report.ids) == code_llama_70b(data)(dialogue)
    assert report.chat_format == "Code Llama 70B turns"


@pytest.mark.parametrize(
    ("generation", "recipe"),
    [
        ("llama2", lambda path: llama_2(path.read_bytes())),
        ("llama3", lambda path: llama_3(read_ranks(path), strip=False)),
        ("llama4", lambda path: llama_4(read_ranks(path))),
    ],
)
def test_dialogues_of_the_released_files(generation, recipe):
    path = real(generation)
    tokenizer, referee = load_tokenizer(str(path)), recipe(path)
    for dialogue in ORDERLY.values():
        assert list(tokenize_dialogue(tokenizer, messages(dialogue)).ids) == referee(dialogue)


# --- what the report says -------------------------------------------------------------------------


def test_the_prompt_is_the_text_of_the_whole_layout(tmp_path):
    report = tokenize_dialogue(load(tmp_path, rank_file(), LLAMA_3_1_PARAMS), messages(SYSTEM))
    assert report.prompt == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    special = sum(token.special for token in report.tokens)
    assert special == 1 + 3 * 2 + 2
    # "system", "Be brief.", "user", "Why?", "assistant" and three times two line ends
    assert report.characters == report.nbytes == 6 + 9 + 4 + 4 + 9 + 3 * 2
    assert report.characters_per_token == report.characters / (report.count - special)


def test_the_prompt_of_llama_2_is_told(tmp_path):
    report = tokenize_dialogue(load(tmp_path, sentencepiece_file()), messages(SYSTEM))
    assert report.prompt == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]"
    assert [token.special for token in report.tokens] == [True] + [False] * (report.count - 1)
    assert report.findings == ()


@pytest.mark.parametrize(
    ("params", "name", "where"),
    [(LLAMA_3_1_PARAMS, "<|eot_id|>", "message 2"), (LLAMA_4_PARAMS, "<|eot|>", "message 2")],
)
def test_names_of_special_tokens_in_a_message_are_told(params, name, where, tmp_path):
    dialogue = [Message("system", "x"), Message("user", f"a {name} b")]
    (finding,) = tokenize_dialogue(load(tmp_path, rank_file(), params), dialogue).findings
    assert (finding.severity, finding.where) == ("note", where)
    assert finding.message == f"it holds {name}, encoded as plain text"


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize(
    ("data", "params", "told"),
    [
        (sentencepiece_file(), None, True),
        (code_llama_file(step=True), None, True),
        (rank_file(), LLAMA_3_1_PARAMS, False),
        (rank_file(), LLAMA_4_PARAMS, False),
    ],
    ids=["Llama 2", "Code Llama 70B", "Llama 3.1", "Llama 4"],
)
def test_tags_that_metas_code_does_not_answer_are_told(data, params, told, tag, tmp_path):
    dialogue = messages([("user", "a"), ("assistant", "b"), ("user", f"x {tag} y")])
    findings = tokenize_dialogue(load(tmp_path, data, params), dialogue).findings
    assert [(f.severity, f.where) for f in findings] == [("warning", "message 3")] * told
    assert all(tag in finding.message for finding in findings)


def test_tokenizer_json_lays_out_the_same(tmp_path):
    level = byte_level_json(train_ranks(), LLAMA_3_PATTERN, LLAMA_3_1.special_tokens)
    (tmp_path / "tokenizer.json").write_bytes(level)
    report = tokenize_dialogue(load_tokenizer(str(tmp_path)), messages(TURNS))
    assert list(report.ids) == llama_3(train_ranks(), strip=False)(TURNS)
    (tmp_path / "tokenizer.json").write_bytes(sentencepiece_json(sentencepiece_file()))
    report = tokenize_dialogue(load_tokenizer(str(tmp_path)), messages(TURNS))
    assert list(report.ids) == llama_2(sentencepiece_file())(TURNS)


def test_dialogues_are_checked_against_tokenizer_json(tmp_path):
    tokenizer = load(tmp_path, rank_file())
    names = LLAMA_3_1.special_tokens
    file = tmp_path / "tokenizer.json"
    file.write_bytes(byte_level_json(train_ranks(), LLAMA_3_PATTERN, names))
    report = tokenize_dialogue(tokenizer, messages(SYSTEM), check=True)
    assert report.check.agrees
    assert report.check.other_count == report.count
    file.write_bytes(byte_level_json(train_ranks(), LLAMA_4_PATTERN, names))
    dialogue = [("user", "helloWorld")]
    check = tokenize_dialogue(tokenizer, messages(dialogue), check=True).check
    ids = llama_3(train_ranks(), strip=False)(dialogue)
    assert not check.agrees
    assert check.ids[0] == ids[check.position]
    file.write_bytes(byte_level_json(train_ranks(), LLAMA_3_PATTERN, names[:5]))
    check = tokenize_dialogue(tokenizer, messages(SYSTEM), check=True).check
    assert not check.agrees
    assert check.message.startswith("tokenizer.json: it has no special token <|")
    assert not tokenize_dialogue(tokenizer, messages(SYSTEM), check=True).ok


# --- refusals -------------------------------------------------------------------------------------

DISORDERLY = {
    "the assistant first": (
        [("assistant", "a"), ("user", "b")],
        "message 1: the assistant speaks where the user should",
    ),
    "two questions": (
        [("user", "a"), ("user", "b"), ("user", "c")],
        "message 2: the user speaks where the assistant should",
    ),
    "a system prompt in the middle": (
        [("user", "a"), ("system", "b"), ("user", "c")],
        "message 2: the system speaks where the assistant should",
    ),
    "two system prompts": (
        [("system", "a"), ("system", "b"), ("user", "c")],
        "message 2: the system speaks where the user should",
    ),
    "the assistant behind the system": (
        [("system", "a"), ("assistant", "b"), ("user", "c")],
        "message 2: the assistant speaks where the user should",
    ),
    "two answers behind the system": (
        [("system", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")],
        "message 4: the assistant speaks where the user should",
    ),
    "a tool": (
        [("user", "a"), ("assistant", "b"), ("tool", "c")],
        "message 3: the tool speaks where the user should",
    ),
    "the assistant last": (
        [("user", "a"), ("assistant", "b")],
        "message 2: a dialogue of MODEL ends with the user",
    ),
    "the assistant last, with a system prompt": (
        [("system", "x"), ("user", "a"), ("assistant", "b")],
        "message 3: a dialogue of MODEL ends with the user",
    ),
    "the system alone": (
        [("system", "a")],
        "(the dialogue: Llama 2 puts the system prompt|message 1: a dialogue of Code Llama 70B)",
    ),
}


@pytest.mark.parametrize("step", [False, True], ids=["Llama 2", "Code Llama 70B"])
@pytest.mark.parametrize("name", DISORDERLY)
def test_a_dialogue_out_of_order_is_refused(name, step, tmp_path):
    dialogue, words = DISORDERLY[name]
    data = code_llama_file(step=True) if step else sentencepiece_file()
    model = "Code Llama 70B" if step else "Llama 2"
    with pytest.raises(UnsupportedFile, match=f"^{words.replace('MODEL', model)}"):
        tokenize_dialogue(load(tmp_path, data), messages(dialogue))


@pytest.mark.parametrize(
    ("data", "params"),
    [
        (sentencepiece_file(), None),
        (code_llama_file(step=True), None),
        (rank_file(), LLAMA_3_PARAMS),
        (rank_file(), LLAMA_4_PARAMS),
    ],
    ids=["Llama 2", "Code Llama 70B", "Llama 3", "Llama 4"],
)
def test_a_dialogue_without_a_message_is_refused(data, params, tmp_path):
    with pytest.raises(LlamaInspectError):
        tokenize_dialogue(load(tmp_path, data, params), [])


def test_a_tokenizer_without_a_beginning_has_no_dialogues(tmp_path):
    with pytest.raises(UnsupportedFile, match=r"^tokenizer\.model: it has no tokens that begin"):
        tokenize_dialogue(load(tmp_path, sentencepiece_file(bos_id=-1)), messages(USER))


def said(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content} | more


IMAGE = {"type": "image", "image": "x.png"}
TEXT_A, TEXT_B = {"type": "text", "text": "a"}, {"type": "text", "text": " b"}
REFUSED = {
    "no list": (5, CorruptFile, "f: a dialogue is a list"),
    "a text": ("hello", CorruptFile, "f: a dialogue is a list"),
    "nothing": ([], CorruptFile, "f: a dialogue is a list"),
    "null": (None, CorruptFile, "f: a dialogue is a list"),
    "an object of something else": ({"chat": []}, CorruptFile, "f: a dialogue is a list"),
    "no messages": ({"messages": []}, CorruptFile, "f: a dialogue is a list"),
    "messages that are none": ({"messages": {"a": 1}}, CorruptFile, "f: a dialogue is a list"),
    "a message that is text": (["hi"], CorruptFile, 'f: message 1 has no "role"'),
    "no role": ([{"content": "a"}], CorruptFile, 'f: message 1 has no "role"'),
    "a role that is a number": ([said(5, "a")], CorruptFile, 'f: message 1 has no "role"'),
    "an unknown role": (
        [said("user", "a"), said("narrator", "b")],
        CorruptFile,
        "f: message 2: the role 'narrator' is none of system, user, assistant, tool",
    ),
    "a role in capitals": ([said("User", "a")], CorruptFile, "f: message 1: the role 'User'"),
    "no content": ([{"role": "user"}], CorruptFile, 'f: message 1 has no "content"'),
    "a content that is null": ([said("user", None)], CorruptFile, 'f: message 1 has no "content"'),
    "a content that is an object": (
        [said("user", TEXT_A)],
        CorruptFile,
        'f: message 1 has no "content"',
    ),
    "an image": (
        [said("user", [TEXT_A, IMAGE])],
        UnsupportedFile,
        "f: message 1 holds something other than text",
    ),
    "an address of an image": (
        [said("user", [{"type": "image_url", "image_url": {"url": "x"}}])],
        UnsupportedFile,
        "f: message 1 holds something other than text",
    ),
    "a part that is text itself": (
        [said("user", ["a"])],
        UnsupportedFile,
        "f: message 1 holds something other than text",
    ),
    "a text that is a number": (
        [said("user", [{"type": "text", "text": 5}])],
        UnsupportedFile,
        "f: message 1 holds something other than text",
    ),
    "a call of a tool": (
        [said("user", "a"), said("assistant", "", tool_calls=[{"name": "f"}])],
        UnsupportedFile,
        "f: message 2 has 'tool_calls'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dialogue_is_refused_with_its_place(name):
    value, error, words = REFUSED[name]
    with pytest.raises(error, match=f"^{re.escape(words)}"):
        read_dialogue(json.dumps(value).encode(), "f")


@pytest.mark.parametrize(
    "data", [b"", b"[", b"[{'role': 'user'}]", b'\xff[{"role": "user", "content": "a"}]', b"NaN"]
)
def test_bad_json_is_refused_with_the_file(data):
    with pytest.raises(CorruptFile, match=r"^talk\.json"):
        read_dialogue(data, "talk.json")


READ = {
    "a list": [said("user", "a b")],
    "messages": {"messages": [said("user", "a b")], "model": "x"},
    "no tool calls": [said("user", "a b", tool_calls=[], name="me")],
    "no tool calls, said otherwise": [said("user", "a b", tool_calls=None)],
}


@pytest.mark.parametrize("name", READ)
def test_dialogues_are_read_as_people_write_them(name):
    assert parse_dialogue(READ[name], "f") == [Message("user", "a b")]


L = {"type": "text", "text": "l"}  # of which two are another token than one and one
PARTS = [said("system", [L]), said("user", [L, L, TEXT_B]), said("assistant", [])]
HALVES = {"system": ["l"], "user": ["l", "l", " b"], "assistant": []}


@pytest.mark.parametrize(
    ("params", "pattern", "places"),
    [
        (LLAMA_3_1_PARAMS, LLAMA_3_PATTERN, (HEADER_3, HEADER_END_3, EOT_3)),
        (LLAMA_4_PARAMS, LLAMA_4_PATTERN, (HEADER_4, HEADER_END_4, EOT_4)),
    ],
    ids=["Llama 3.1", "Llama 4"],
)
def test_parts_of_a_content_are_encoded_one_by_one(params, pattern, places, tmp_path):
    """`_encode_content` of llama-models goes through the items of a list."""
    encode = encoding(train_ranks(), pattern).encode_ordinary
    assert encode("ll") != encode("l") * 2
    start, end, eot = (RANKS + place for place in places)
    expected = [RANKS]
    for role, parts in HALVES.items():
        expected += [start, *encode(role), end, *encode("\n\n")]
        expected += [*(id for part in parts for id in encode(part)), eot]
    expected += [start, *encode("assistant"), end, *encode("\n\n")]
    tokenizer = load(tmp_path, rank_file(), params)
    report = tokenize_dialogue(tokenizer, parse_dialogue(PARTS, "f"))
    assert list(report.ids) == expected
    assert "ll b" in report.prompt


def test_parts_of_a_content_are_one_text_where_the_code_knows_only_texts(tmp_path):
    dialogue = parse_dialogue([said("user", [L, L, TEXT_B])], "f")
    joined = [("user", "ll b")]
    tokenizer = load(tmp_path / "3", rank_file(), LLAMA_3_PARAMS)
    expected = llama_3(train_ranks(), strip=True)(joined)
    assert list(tokenize_dialogue(tokenizer, dialogue).ids) == expected
    data = sentencepiece_file()
    report = tokenize_dialogue(load(tmp_path / "2", data), dialogue)
    assert list(report.ids) == llama_2(data)(joined)


@pytest.mark.parametrize("content", ["a\ud83e", [{"type": "text", "text": "\ud83e"}]])
def test_half_a_character_is_refused_with_its_message(content):
    value = [said("user", "a"), said("assistant", content)]
    with pytest.raises(CorruptFile, match=r"^f: message 2 holds half a character"):
        read_dialogue(json.dumps(value).encode(), "f")


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "ipython"])
def test_every_role_is_read(role):
    assert parse_dialogue([said(role, "x")], "f") == [Message(role, "x")]


# --- base models ----------------------------------------------------------------------------------

CACHE = "models--meta-llama--{}/snapshots/0e9e39f"
BASE = {
    "Llama3.1-8B": "llama-3.1-8b",
    "Llama-2-7b": "llama-2-7b",
    "llama-2-70b": "llama-2-70b",
    "Meta-Llama-3-8B": "llama-3-8b",
    "Llama-3.2-1B/original": "llama-3.2-1b",
    CACHE.format("Llama-3.1-8B"): "llama-3.1-8b",
    CACHE.format("Llama-3.1-8B") + "/original": "llama-3.1-8b",
    "Llama-4-Scout-17B-16E": "llama-4-scout-17b-16e",
}
OTHERS = (
    "Llama3.1-8B-Instruct",
    "Llama-2-7b-chat",
    "Meta-Llama-3-8B-Instruct/original",
    CACHE.format("Llama-3.1-8B-Instruct") + "/original",
    CACHE.format("Llama-Guard-3-8B"),
    "my-model",
    "Llama3.1-8B-my-own",
    "original",
)


@pytest.mark.parametrize("name", BASE)
def test_a_base_model_has_no_dialogues(name, tmp_path):
    directory = tmp_path / name
    tokenizer = load(directory, rank_file(), LLAMA_3_1_PARAMS)
    words = rf"^{re.escape(str(directory))}: by its name it is {re.escape(BASE[name])}, a base"
    with pytest.raises(UnsupportedFile, match=words):
        tokenize_dialogue(tokenizer, messages(USER))
    if not name.endswith("original"):
        (directory / "original").mkdir()
        (directory / "tokenizer.model").rename(directory / "original" / "tokenizer.model")
        (directory / "params.json").rename(directory / "original" / "params.json")
        with pytest.raises(UnsupportedFile, match=f"is {re.escape(BASE[name])}, a base model"):
            tokenize_dialogue(load_tokenizer(str(directory)), messages(USER))


@pytest.mark.parametrize("name", [*BASE, *OTHERS])
def test_the_file_of_any_model_lays_out_dialogues(name, tmp_path):
    load(tmp_path / name, rank_file(), LLAMA_3_1_PARAMS)
    tokenizer = load_tokenizer(str(tmp_path / name / "tokenizer.model"))
    expected = llama_3(train_ranks(), strip=False)(USER)
    assert list(tokenize_dialogue(tokenizer, messages(USER)).ids) == expected


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_have_dialogues(name, tmp_path):
    tokenizer = load(tmp_path / name, rank_file(), LLAMA_3_1_PARAMS)
    assert tokenize_dialogue(tokenizer, messages(USER)).chat_format == "Llama 3 headers"


def test_a_relative_path_names_a_base_model_too(tmp_path, monkeypatch):
    load(tmp_path / "Llama3.1-8B", rank_file(), LLAMA_3_1_PARAMS)
    monkeypatch.chdir(tmp_path / "Llama3.1-8B")
    with pytest.raises(UnsupportedFile, match=r"by its name it is llama-3\.1-8b, a base"):
        tokenize_dialogue(load_tokenizer("."), messages(USER))


LLAMA_1_7B = {
    "dim": 4096,
    "multiple_of": 256,
    "n_heads": 32,
    "n_layers": 32,
    "norm_eps": 1e-06,
    "vocab_size": -1,
}


def test_the_configuration_of_llama_1_is_no_proof(tmp_path):
    """Llama 2 7B chat was first released with the same params.json, and Llama 1 was fine-tuned."""
    tokenizer = load(tmp_path / "7B", sentencepiece_file(), LLAMA_1_7B)
    assert tokenize_dialogue(tokenizer, messages(USER)).chat_format == "Llama 2 [INST]"


def test_a_link_to_a_base_model_is_one(tmp_path):
    base = tmp_path / "models--meta-llama--Llama-3.1-8B" / "snapshots" / "0e9e39f"
    load(base, rank_file(), LLAMA_3_1_PARAMS)
    (tmp_path / "link").symlink_to(base)
    with pytest.raises(UnsupportedFile, match=r"by its name it is llama-3\.1-8b, a base"):
        tokenize_dialogue(load_tokenizer(str(tmp_path / "link")), messages(USER))


def test_the_other_file_is_needed_for_a_check(tmp_path):
    with pytest.raises(MissingFile, match=r"there is no tokenizer\.json"):
        tokenize_dialogue(load(tmp_path, rank_file()), messages(USER), check=True)


test_any_change_to_a_dialogue_is_laid_out_or_refused = any_change("dialogue", 150)
