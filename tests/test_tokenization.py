"""The reports of tokenize and detokenize, and what a person gets from the commands."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import sentencepiece
from checkpoints import TINY
from test_cli import EXAMPLE, in_terminal, run
from typer.testing import CliRunner

import llamainspect as li
from llamainspect.cli import app
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.tokenization import decode_text, parse_ids


@pytest.fixture(scope="module")
def tokenizer():
    return li.load_tokenizer(EXAMPLE)


@pytest.fixture(scope="module")
def processor():
    return sentencepiece.SentencePieceProcessor(str(Path(EXAMPLE, "tokenizer.model")))


def ranks_model(directory: Path, params=None) -> Path:
    """A model directory with a tiktoken file of the 256 bytes and a few merges."""
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


def test_json_keeps_a_row_that_begins_with_a_list_a_row():
    from typing import NamedTuple

    from llamainspect.render import json as render

    class Row(NamedTuple):
        numbers: tuple[int, ...]
        name: str

    row = Row((1, 2), "x")
    assert json.loads("".join(render._texts(row))) == {"numbers": [1, 2], "name": "x"}
    assert json.loads("".join(render._texts((row, row)))) == [{"numbers": [1, 2], "name": "x"}] * 2


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
    assert finding.message.startswith("it holds <s> (2 times), </s>, encoded as plain text")
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


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", "²", "٣", "--1", "1" * 200, "0x10"])
def test_what_is_no_id_is_named(text):
    with pytest.raises(CorruptFile, match=r"^IDS: .* is no token id"):
        parse_ids(text, "IDS")


def test_the_first_byte_that_is_no_utf_8_is_named():
    with pytest.raises(CorruptFile, match=r"^a\.txt: byte 1 \(0xff\) is no UTF-8; convert it"):
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
    assert expected.message.startswith("it has 1,024 tokens, the model has 128. Likely cause")
    for report in reports:
        assert report.findings == (expected,)
        assert not report.ok


def test_the_embedding_has_a_say(tiny):
    """Llama 2 leaves vocab_size to the tokenizer (-1): the weights tell what the model has."""
    shutil.copy(Path(EXAMPLE, "tokenizer.model"), tiny)
    (tiny / "params.json").write_text(json.dumps(TINY | {"vocab_size": -1}))
    (finding,) = li.tokenize(li.load_tokenizer(str(tiny)), "a").findings
    assert finding.message.startswith("it has 1,024 tokens, the model has 128.")
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
    assert [f.where for f in report.findings if f.severity == "error"] == ["params.json"]
    assert report.ids == (258, 111)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_params_json_that_is_no_file_is_a_finding_and_does_not_block(tmp_path):
    ranks_model(tmp_path)
    os.mkfifo(tmp_path / "params.json")
    report = li.tokenize(li.load_tokenizer(str(tmp_path)), "Hello")
    assert report.findings[0] == ("error", "params.json", "it cannot be read: it is a FIFO")
    assert report.tokenizer.reason == "params.json cannot be read"


def test_ranks_of_no_release_without_a_configuration_are_a_warning(tmp_path):
    ranks_model(tmp_path)
    (finding,) = li.tokenize(li.load_tokenizer(str(tmp_path)), "Hello").findings
    assert (finding.severity, finding.where) == ("warning", "tokenizer.model")
    assert finding.message.startswith("261 ranks are those of no release")
    ranks_model(tmp_path, TINY | {"vocab_size": 261 + 256})
    assert li.tokenize(li.load_tokenizer(str(tmp_path)), "Hello").findings == ()


def test_what_the_tokenizer_makes_special_by_itself_is_not_called_plain(tmp_path):
    """SentencePiece always finds user-defined symbols in a text."""
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f"] * 50), model_writer=model, model_type="bpe",
        vocab_size=290, byte_fallback=True, user_defined_symbols=["▁<PRE>"],
        normalization_rule_name="identity", minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    report = li.tokenize(li.load_tokenizer(str(tmp_path)), "a <PRE> b")
    assert [t.text for t in report.tokens if t.special] == ["▁<PRE>"]
    assert report.findings == ()


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
    assert done.stderr.startswith(
        "llamainspect: note: the text: it holds <s>, encoded as plain text"
    )


def test_an_id_out_of_range_exits_3_with_one_sentence():
    for command in (["detokenize", "1024"], ["vocab", "--id", "1024"]):
        done = run(*command, "-m", EXAMPLE)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            "llamainspect: tokenizer.model: there is no token 1,024; it has 1,024 tokens, 0 to "
            "1,023\n"
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


def test_characters_that_cannot_be_seen_are_written_out(tmp_path):
    model = ranks_model(tmp_path / "model", TINY | {"vocab_size": 518, "use_scaled_rope": True})
    unseen = "\u00a0\u3000\u2800\ufe0f\u115f\u0301\U000e0041\x85\u00ad"
    names = [r"\u00a0", r"\u3000", r"\u2800", r"\ufe0f", r"\u115f", r"\u0301", r"\U000e0041",
             r"\u0085", r"\u00ad"]  # fmt: skip
    tokens = [*(bytes([n]) for n in range(256)), *(c.encode() for c in unseen), "e\u0301".encode()]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (model / "tokenizer.model").write_text("".join(lines))
    ids = [str(n) for n in range(256, 256 + len(unseen) + 1)]
    rows = run("vocab", model, *(word for id in ids for word in ("--id", id))).stdout
    for name in names:
        assert f'"{name}"' in rows
    assert '"e\u0301"' in rows  # a mark that stands on a letter is seen


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
        ('[{"role": "user", "content": "\\ud800"}]', "half a character"),
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


def test_the_text_of_a_list_is_encoded_item_by_item(tmp_path):
    """As Meta's ChatFormat does it for Llama 3.1; the items together would be another token."""
    model = ranks_model(tmp_path / "model", TINY | {"vocab_size": 517, "use_scaled_rope": True})
    items = [{"type": "text", "text": "He"}, {"type": "text", "text": "ll"}]
    ids = []
    for content in (items, "Hell"):
        messages = [{"role": "user", "content": content}]
        (tmp_path / "chat.json").write_text(json.dumps({"messages": messages}))
        done = run("tokenize", "--chat", tmp_path / "chat.json", "-m", model, "--ids")
        ids.append(done.stdout.split())
    assert ids[0][9:11] == ["257", "256"]
    assert ids[1][9:10] == ["258"]
    assert [n for n in ids[0] if n not in ("257", "256")] == [n for n in ids[1] if n != "258"]


@pytest.mark.parametrize("option", ["--file", "--chat"])
def test_endless_input_is_refused(option, monkeypatch):
    from llamainspect.cli import inputs

    monkeypatch.setattr(inputs, "MAX_NBYTES", 2**20)
    runner = CliRunner()
    result = runner.invoke(app, ["tokenize", option, "/dev/zero", "-m", EXAMPLE])
    assert isinstance(result.exception, UnsupportedFile)
    assert str(result.exception).startswith("/dev/zero: it has more than 1 MiB")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tokenize", "--ids", "--json", "a"], "has the ids already"),
        (["vocab", EXAMPLE, "-m", EXAMPLE], "PATH says it already"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_raw_bytes_are_not_sent_to_a_terminal():
    assert in_terminal("detokenize", "30", "--bytes", "-m", EXAMPLE) == ""


def test_conditions_of_vocab_hold_together():
    answer = json.loads(run("vocab", EXAMPLE, "--special", "--search", "s>", "--json").stdout)
    assert [token["text"] for token in answer["tokens"]] == ["<s>", "</s>"]
    answer = json.loads(
        run("vocab", EXAMPLE, "--id", "1", "--id", "300", "--search", "c", "--json").stdout
    )
    assert [(token["id"], token["text"]) for token in answer["tokens"]] == [(300, "ec")]


def test_a_full_disk_is_said_so():
    command = [sys.executable, "-m", "llamainspect", "tokenize", "a", "-m", EXAMPLE]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr == (
        "llamainspect: standard output: No space left on device; make room, or write elsewhere\n"
    )


@pytest.mark.parametrize("columns", [24, 40, 59, 60, 80, 160])
def test_ids_and_texts_are_kept_whole_at_any_width(columns):
    for arguments in (["tokenize", "function"], ["vocab", "--search", "func"]):
        output = in_terminal(*arguments, "-m", EXAMPLE, "--no-color", columns=columns)
        assert "410" in output
        assert '" func' in output


def test_check_says_yes_and_no(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = ranks_model(tmp_path, TINY | {"vocab_size": 517, "use_scaled_rope": True})
    alphabet = _byte_characters()
    names = ["".join(alphabet[b] for b in token) for token in (b"ll", b"He", b"Hell", b" w")]
    vocabulary = {alphabet[n]: n for n in range(256)} | {n: 256 + i for i, n in enumerate(names)}
    merges = [("l", "l"), ("H", "e"), ("He", "ll"), (alphabet[32], "w")]
    for count, agrees in ((4, True), (2, False)):
        other = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges[:count]))
        other.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        other.save(str(model / "tokenizer.json"))
        done = run("tokenize", "xHell w", "--check", "--json", "-m", model)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["ok"], answer["check"]["agrees"]) == (
            int(not agrees), agrees, agrees,
        )  # fmt: skip
    assert answer["check"]["position"] == 1
    assert (answer["check"]["ids"], answer["check"]["other_ids"]) == (
        [258, 259],
        [257, 256, 32, 119],
    )
    done = run("tokenize", "xHell w", "--check", "--ids", "-m", model)
    assert (done.returncode, done.stdout) == (1, "120 258 259\n")
    assert (
        "the files differ from token 1 on: 258 ('Hell') in tokenizer.model, 257 ('He')"
        in done.stderr
    )


def _byte_characters():
    """GPT-2's alphabet: a printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return {byte: chr(byte if byte in printable else next(rest)) for byte in range(256)}


def test_a_long_text_is_checked_in_the_parts_that_it_is_encoded_in(tmp_path):
    """The cut at 400,000 characters is Meta's; tokenizer.json knows nothing of it."""
    tokenizers = pytest.importorskip("tokenizers")
    model = ranks_model(tmp_path, TINY | {"vocab_size": 517, "use_scaled_rope": True})
    alphabet = _byte_characters()
    vocabulary = {alphabet[n]: n for n in range(256)} | {"ll": 256}
    other = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("l", "l")]))
    other.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    other.save(str(model / "tokenizer.json"))
    text = "x " * 199_999 + "xll l"  # a pair of l stands across the cut
    assert text[399_999:400_001] == "ll"
    tokenizer = li.load_tokenizer(str(model))
    assert 256 not in tokenizer.encode(text)
    assert 256 in tokenizer.encode(text[1:])
    assert li.tokenize(tokenizer, text, check=True).check.agrees
    assert li.tokenize(tokenizer, text.encode(), check=True).check.agrees
    other.add_special_tokens(list(tokenizer.special_tokens))
    other.save(str(model / "tokenizer.json"))
    dialogue = [li.Message("user", text)]
    check = li.tokenize_dialogue(tokenizer, dialogue, check=True).check
    assert check.position == 0  # its special tokens have other ids than Meta's
    content = [id for id in check.other_ids if id < 257]
    assert content == [id for id in check.ids if id < 257]


def test_special_tokens_with_other_ids_are_a_difference(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = ranks_model(tmp_path, TINY | {"vocab_size": 517, "use_scaled_rope": True})
    alphabet = _byte_characters()
    other = tokenizers.Tokenizer(tokenizers.models.BPE({alphabet[n]: n for n in range(256)}, []))
    other.add_special_tokens(["<|begin_of_text|>"])
    other.save(str(model / "tokenizer.json"))
    tokenizer = li.load_tokenizer(str(model))
    assert li.tokenize(tokenizer, "x", check=True).ok
    report = li.tokenize(tokenizer, "x", check=True, bos=True)
    assert not report.ok
    assert (report.check.position, report.check.ids, report.check.other_ids) == (
        0, (261, 120), (256, 120),
    )  # fmt: skip


def test_tokenizer_json_is_right_in_many_threads_and_leaves_stderr_alone(tmp_path):
    """The library keeps its settings for all threads, and what it prints is held back."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = _byte_characters()
    made = tokenizers.Tokenizer(tokenizers.models.BPE({alphabet[n]: n for n in range(256)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|begin_of_text|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    shared = li.load_tokenizer(str(tmp_path))
    text = "<|begin_of_text|>"
    before = os.fstat(2)
    wrong = []

    def work(special):
        for _ in range(40):
            ids = shared.encode(text, special=special)
            wrong.extend([ids] * (ids != ([256] if special else list(text.encode()))))
            li.load_tokenizer(str(tmp_path))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=work, args=(bool(n % 2),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert (os.fstat(2).st_ino, os.fstat(2).st_dev) == (before.st_ino, before.st_dev)


def test_notes_do_not_go_to_stdout_when_stderr_is_closed(tmp_path):
    command = f"{sys.executable} -m llamainspect tokenize '<s>' --ids -m {EXAMPLE} 2>&-"
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.replace(" ", "").strip().isdigit()
    (tmp_path / "tokenizer.json").write_text("{}")
    command = f"{sys.executable} -m llamainspect tokenize a -m {tmp_path} 2>&-"
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")


def test_a_panic_of_the_other_library_stays_quiet(tmp_path):
    """A merge of an empty piece makes tokenizers' Rust fail; that prints a backtrace of its own."""
    pytest.importorskip("tokenizers")
    model = {
        "type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
        "continuing_subword_prefix": "####", "unk_token": None,
    }  # fmt: skip
    content = {"version": "1.0", "added_tokens": [], "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    done = run("tokenize", "ab", "-m", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("llamainspect: tokenizer.json: the tokenizers library refuses it")


def test_without_the_package_for_tokenizer_json_its_pip_command_is_said(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    code = (
        "import sys\n"
        "sys.modules['tokenizers'] = None  # as if it were not installed\n"
        f"sys.argv = ['llamainspect', 'tokenize', 'a', '-m', {str(tmp_path)!r}]\n"
        "from llamainspect.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "pip install 'llamainspect[tokenizers]'" in done.stderr


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
