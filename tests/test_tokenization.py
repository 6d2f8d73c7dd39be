"""The reports of tokenize and detokenize, and what a person gets from the commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from checkpoints import TINY
from test_cli import EXAMPLE, in_terminal, run

import llamainspect as li
from llamainspect.errors import CorruptFile
from llamainspect.tokenization import decode_text, parse_ids


@pytest.fixture(scope="module")
def tokenizer():
    return li.load_tokenizer(EXAMPLE)


@pytest.fixture(scope="module")
def processor():
    return sentencepiece.SentencePieceProcessor(str(Path(EXAMPLE, "tokenizer.model")))


def ranks_model(directory: Path, params=None) -> Path:
    """A model directory with a tiktoken file of the 256 bytes and a few merges."""
    import base64

    tokens = [bytes([n]) for n in range(256)] + [b"ll", b"He", b"Hell", b" w", "é".encode()]
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(b"".join(lines))
    if params is not None:
        (directory / "params.json").write_text(json.dumps(params))
    return directory


# --- the report -----------------------------------------------------------------------------------


def test_counts_are_of_the_text_and_not_of_what_is_added(tokenizer, processor):
    text = "Hello, llama! é"
    report = li.tokenize(tokenizer, text, bos=True, eos=True)
    ids = processor.encode(text)
    assert report.ids == (1, *ids, 2)
    assert (report.count, report.characters, report.nbytes) == (len(ids) + 2, 15, 16)
    assert report.characters_per_token == 15 / len(ids)
    assert report.bytes_per_token == 16 / len(ids)


def test_an_empty_text_has_no_tokens_and_no_averages(tokenizer):
    report = li.tokenize(tokenizer, "")
    assert (report.ids, report.tokens, report.count) == ((), (), 0)
    assert report.characters_per_token is None
    assert report.ok


def test_each_token_has_its_text_and_bytes(tokenizer):
    report = li.tokenize(tokenizer, "\t🙂", bos=True)
    assert [(t.text, t.bytes, t.special) for t in report.tokens] == [
        ("<s>", "3c733e", True),
        (" ", "20", False),
        ("\t", "09", False),
        *(("\ufffd", byte, False) for byte in ("f0", "9f", "99", "82")),
    ]


def test_ids_only_leaves_the_tokens_out(tokenizer):
    report = li.tokenize(tokenizer, "Hello", ids_only=True)
    assert report.tokens == ()
    assert report.count == len(report.ids) > 0


def test_names_of_special_tokens_in_the_text_are_noted_once(tokenizer):
    (finding,) = li.tokenize(tokenizer, "<s> a <s> </s> <s").findings
    assert finding.severity == "note"
    assert finding.message.startswith("it holds <s>, </s> (3 times), encoded as plain text")
    assert li.tokenize(tokenizer, "<s> a", special=True).findings == ()


def test_what_normalisation_changes_is_noted(tokenizer):
    (finding,) = li.tokenize(tokenizer, "ab\u2581c").findings
    assert "at character 2 it has ' ' where the text has '▁'" in finding.message


def test_a_byte_order_mark_is_noted(tokenizer):
    (finding,) = li.tokenize(tokenizer, "\ufeffabc").findings
    assert "byte order mark" in finding.message


def test_bytes_that_are_no_text_are_tokens_of_their_own(tokenizer, processor):
    report = li.tokenize(tokenizer, b"ab\xff\xfe c")
    byte = [processor.piece_to_id(f"<0x{b:02X}>") for b in b"\xff\xfe"]
    rest = processor.encode("☺ c")[len(processor.encode("☺")) :]
    assert list(report.ids) == [*processor.encode("ab"), *byte, *rest]
    assert (report.nbytes, report.characters) == (6, 6)
    assert tokenizer.decode_bytes(report.ids) == b"ab\xff\xfe c"


def test_detokenize_says_whether_it_is_text(tokenizer):
    assert li.detokenize(tokenizer, [1, *tokenizer.encode("a é")]).text == "a é"
    part = li.detokenize(tokenizer, tokenizer.encode("é")[:-1])
    assert (part.valid_utf8, part.bytes) == (False, "c3")
    assert part.text == "\ufffd"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(CorruptFile, match=r"^the text: its character 2 is half of one"):
        li.tokenize(tokenizer, "ab\ud800")


@pytest.mark.parametrize(
    ("text", "ids"),
    [("1 2", [1, 2]), ("[1, 2,\n3]", [1, 2, 3]), ("", []), ("-1", [-1]), ("007", [7])],
)
def test_ids_are_read_as_they_are_printed(text, ids):
    assert parse_ids(text, "IDS") == ids


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", "²", "٣", "--1", "1" * 30, "0x10"])
def test_what_is_no_id_is_named(text):
    with pytest.raises(CorruptFile, match=r"^IDS: .* is no token id"):
        parse_ids(text, "IDS")


def test_the_first_byte_that_is_no_utf_8_is_named():
    with pytest.raises(CorruptFile, match=r"^a\.txt: byte 1 \(0xff\) is no UTF-8; --bytes"):
        decode_text(b"a\xffb\xfe", "a.txt")


# --- fit ------------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_size_is_the_same_finding_in_every_answer(tiny):
    shutil.copy(Path(EXAMPLE, "tokenizer.model"), tiny)
    tokenizer = li.load_tokenizer(str(tiny))
    summary = li.summarize(li.open_checkpoint(str(tiny)))
    reports = (
        li.tokenize(tokenizer, "a"),
        li.detokenize(tokenizer, [5]),
        li.describe_vocabulary(tokenizer, stats=True),
    )
    (expected,) = [f for f in summary.findings if f.where == "tokenizer.model"]
    assert expected.message.startswith("it has 512 tokens, the model has 128. Likely cause")
    for report in reports:
        assert report.findings == (expected,)
        assert not report.ok


def test_the_embedding_has_a_say(tiny):
    """Llama 2 leaves vocab_size to the tokenizer (-1): the weights tell what the model has."""
    shutil.copy(Path(EXAMPLE, "tokenizer.model"), tiny)
    (tiny / "params.json").write_text(json.dumps(TINY | {"vocab_size": -1}))
    (finding,) = li.tokenize(li.load_tokenizer(str(tiny)), "a").findings
    assert finding.message.startswith("it has 512 tokens, the model has 128.")
    (tiny / "params.json").write_text(json.dumps(TINY | {"vocab_size": 512}))
    (finding,) = li.tokenize(li.load_tokenizer(str(tiny)), "a").findings
    assert "params.json says 512 and the embedding has 128 rows" in finding.message


def test_only_one_header_is_read_to_learn_the_rows(tiny2, monkeypatch):
    from llamainspect.sources import Folder

    shutil.copy(Path(EXAMPLE, "tokenizer.model"), tiny2)
    read = []
    original = Folder.read
    monkeypatch.setattr(
        Folder,
        "read",
        lambda self, file, offset, length: (
            read.append(file) or original(self, file, offset, length)
        ),
    )
    li.load_tokenizer(str(tiny2))
    assert "consolidated.00.pth" in read
    assert "consolidated.01.pth" not in read


@pytest.mark.parametrize("params", [b"{", b"<html>", b'{"dim": "x"}'])
def test_a_damaged_params_json_is_a_finding(tmp_path, params):
    ranks_model(tmp_path)
    (tmp_path / "params.json").write_bytes(params)
    report = li.tokenize(li.load_tokenizer(str(tmp_path)), "Hello")
    assert [(f.severity, f.where) for f in report.findings] == [("error", "params.json")]
    assert report.ids == (258, 111)


# --- the commands ---------------------------------------------------------------------------------


def test_ids_go_through_a_pipe_and_come_back_as_the_same_bytes(tmp_path):
    model = ranks_model(tmp_path / "model")
    data = b"\xef\xbb\xbfHello w\xc3\xa9ll\r\n\n\x00 \x1b[31m\xe2\x80\xae end \n\n"
    (tmp_path / "text").write_bytes(data)
    ids = run("tokenize", "--file", tmp_path / "text", "--ids", "-m", model).stdout
    done = run("detokenize", "-", "-m", model, input=ids.encode(), text=False)
    assert (done.returncode, done.stdout) == (0, data)


def test_bytes_that_are_no_text_go_through_a_pipe(tmp_path):
    model = ranks_model(tmp_path / "model")
    data = b"Hell\xff\xc3\xa9\xc3 w\x80"
    refused = run("tokenize", "-", "-m", model, input=data, text=False)
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert refused.stderr.startswith(b"llamainspect: standard input: byte 4 (0xff) is no UTF-8")
    ids = run("tokenize", "-", "--bytes", "--ids", "-m", model, input=data, text=False).stdout
    done = run("detokenize", *ids.decode().split(), "--bytes", "-m", model, text=False)
    assert done.stdout == data


def test_an_argument_that_is_no_utf_8_is_refused_and_with_bytes_taken(tmp_path):
    model = ranks_model(tmp_path / "model")
    command = [
        sys.executable,
        "-m",
        "llamainspect",
        "tokenize",
        b"a\xff",
        "-m",
        str(model),
        "--ids",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert "TEXT: byte 1 (0xff) is no UTF-8" in done.stderr
    done = subprocess.run([*command, "--bytes"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "97 255\n"


def test_what_is_found_goes_to_stderr_when_only_ids_are_printed():
    done = run("tokenize", "<s>", "--ids", "-m", EXAMPLE)
    assert done.returncode == 0
    assert done.stdout.replace(" ", "").strip().isdigit()
    assert done.stderr.startswith("llamainspect: note: the text: it holds <s> (1 time)")


def test_an_id_out_of_range_exits_3_with_one_sentence():
    for command in (["detokenize", "512"], ["vocab", "--id", "512"]):
        done = run(*command, "-m", EXAMPLE)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            "llamainspect: tokenizer.model: there is no token 512; it has 512 tokens, 0 to 511\n"
        )


def test_colour_bands_stand_above_the_table_in_a_terminal():
    output = in_terminal("tokenize", "é\nab", "--bos", "-m", EXAMPLE)
    band = output[: output.index("bytes")]
    assert r"\xc3" in band
    assert "↵" in band
    assert "\x1b[30;46m" in band  # black on cyan
    assert "<s>" in band
    assert "\x1b[" not in in_terminal("tokenize", "é", "-m", EXAMPLE, "--no-color")


def test_texts_and_vocabularies_cannot_drive_the_terminal(tmp_path):
    model = ranks_model(tmp_path / "model")
    evil = "\x1b[31m\x07\u202e\x9b"
    for arguments in (["tokenize", evil], ["detokenize", "27", "91", "7"], ["vocab", "--id", "27"],
                      ["tokenize", "--user", evil]):  # fmt: skip
        output = in_terminal(*arguments, "-m", model, "--no-color")
        assert not [c for c in output if c not in "\r\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
        assert "\u202e" not in output


def test_very_many_tokens_are_not_all_shown():
    done = run("tokenize", "a " * 1_000, "-m", EXAMPLE)
    assert "more tokens; --ids or --json has them all)" in done.stdout
    assert done.stdout.count("\n") < 520


def test_a_dialogue_comes_from_a_file_and_from_options(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (tmp_path / "chat.json").write_text(json.dumps(messages))
    from_file = run("tokenize", "--chat", tmp_path / "chat.json", "-m", EXAMPLE)
    from_options = run("tokenize", "--system", "Be brief.", "--user", "Why?", "-m", EXAMPLE)
    assert from_file.returncode == 0
    assert from_file.stdout == from_options.stdout
    assert "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]\n" in from_file.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "a dialogue is a list of"),
        ("{", "is not valid JSON"),
        ('[{"role": "user", "content": "\\ud800"}]', "half of one"),
        ('[{"role": "user", "content": 5}]', 'message 1 has no "content"'),
        ("[" * 100_000, "nested too deeply"),
        ("<html>", "web page"),
    ],
)
def test_a_bad_dialogue_exits_3_with_one_sentence(tmp_path, content, words):
    (tmp_path / "chat.json").write_text(content)
    done = run("tokenize", "--chat", tmp_path / "chat.json", "-m", EXAMPLE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert words in done.stderr


def test_starting_up_loads_only_the_library_of_the_file(tmp_path):
    code = (
        "import sys, llamainspect as li\n"
        "li.tokenize(li.load_tokenizer(sys.argv[1]), 'a')\n"
        "print(*sorted(sys.modules))"
    )
    for model, loaded, absent in (
        (EXAMPLE, "sentencepiece", "tiktoken"),
        (ranks_model(tmp_path / "model"), "tiktoken", "sentencepiece"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, str(model)], capture_output=True, text=True, timeout=60
        )
        names = set(done.stdout.split())
        assert loaded in names
        assert not names & {absent, "tokenizers", "numpy", "torch", "rich", "transformers"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_text_may_come_from_a_process(tmp_path):
    script = (
        f"{sys.executable} -m llamainspect tokenize --file <(printf 'Hello') --ids -m {EXAMPLE}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == run("tokenize", "Hello", "--ids", "-m", EXAMPLE).stdout != ""
