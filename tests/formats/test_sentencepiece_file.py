"""SentencePiece's model file: what Google's own reader says of it, and damage in sentences."""

import random

import pytest
import sentencepiece
from changes import any_change, examples
from hypothesis import example, given
from hypothesis import strategies as st
from small_tokenizers import (
    NFKC,
    NO_BYTES,
    code_llama_file,
    piece_message,
    processor,
    sentencepiece_file,
)

from llamainspect.errors import CorruptFile, LlamaInspectError
from llamainspect.formats.sentencepiece_file import Piece, count_pieces, parse_sentencepiece
from llamainspect.tokenization import detokenize, tokenize
from llamainspect.tokenizer import load_tokenizer
from llamainspect.vocab import describe_vocabulary

FILE = "tokenizer.model"
FILES = {
    "Llama 2": sentencepiece_file,
    "Code Llama": code_llama_file,
    "Code Llama 70B": lambda: code_llama_file(step=True),
    "with user defined symbols": lambda: code_llama_file(step=True, type=4),
    "with control symbols": lambda: code_llama_file(step=True, type=3),
    "with unused pieces": lambda: code_llama_file(step=True, type=5),
    "NFKC": lambda: sentencepiece_file(**NFKC),
    "without byte fallback": lambda: sentencepiece_file(**NO_BYTES),
    "unigram": lambda: sentencepiece_file(model_type="unigram", vocab_size=420),
}


def type_of(model: sentencepiece.SentencePieceProcessor, id: int) -> str:
    for name in ("unknown", "control", "unused", "byte"):
        if getattr(model, f"is_{name}")(id):
            return name
    return "normal"  # or user_defined, of which the processor says nothing


@pytest.mark.parametrize("name", FILES)
def test_pieces_are_those_of_googles_reader(name):
    data = FILES[name]()
    model, parsed = processor(data), parse_sentencepiece(data, FILE)
    assert [(p.text, p.score) for p in parsed.pieces] == [
        (model.id_to_piece(id), model.get_score(id)) for id in range(model.vocab_size())
    ]
    types = [piece.type.replace("user_defined", "normal") for piece in parsed.pieces]
    assert types == [type_of(model, id) for id in range(model.vocab_size())]
    assert count_pieces(data) == model.vocab_size()


def test_user_defined_pieces_are_told_from_normal_ones():
    parsed = parse_sentencepiece(code_llama_file(step=True, type=4), FILE)
    assert [p.text for p in parsed.pieces if p.type == "user_defined"] == [
        *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "<step>")
    ]


SETTINGS = {
    "as Llama 2": ({}, ("bpe", True, "identity", True, False)),
    "NFKC": (NFKC, ("bpe", True, "nmt_nfkc", True, True)),
    "without byte fallback": (NO_BYTES, ("bpe", False, "identity", True, False)),
    "no space before": ({"add_dummy_prefix": False}, ("bpe", True, "identity", False, False)),
    "unigram": (
        {"model_type": "unigram", "vocab_size": 420},
        ("unigram", True, "identity", True, False),
    ),
    "characters": (
        {"model_type": "char", "byte_fallback": False, "vocab_size": 100},
        ("char", False, "identity", True, False),
    ),
    "words": (
        {"model_type": "word", "byte_fallback": False, "vocab_size": 40},
        ("word", False, "identity", True, False),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_those_that_it_was_trained_with(name):
    settings, expected = SETTINGS[name]
    assert parse_sentencepiece(sentencepiece_file(**settings), FILE)[1:] == expected


# --- files by hand --------------------------------------------------------------------------------

UNKNOWN = piece_message("<unk>", type=2)
A, B = piece_message("a", -1.5), piece_message("b", -2.25)
# Fields of the model: 2 the trainer's settings (3 type of model, 35 byte fallback), 3 the
# normaliser's (1 name, 3 space before, 4 extra spaces away).
TRAINER = b"\x12\x05\x18\x02\x98\x02\x01"
NORMALIZER = b"\x1a\x0e\x0a\x08identity\x18\x00\x20\x00"


def test_pieces_and_settings_stand_where_protobuf_puts_them():
    parsed = parse_sentencepiece(UNKNOWN + A + B + TRAINER + NORMALIZER, FILE)
    assert parsed.pieces == (
        Piece("<unk>", 0.0, "unknown"),
        Piece("a", -1.5, "normal"),
        Piece("b", -2.25, "normal"),
    )
    assert parsed[1:] == ("bpe", True, "identity", False, False)


def test_defaults_are_those_of_the_format():
    parsed = parse_sentencepiece(UNKNOWN + b"\x0a\x03\x0a\x01a", FILE)
    assert parsed.pieces[1] == Piece("a", 0.0, "normal")
    assert parsed[1:] == ("unigram", False, "", True, True)


OTHER_FIELDS = b"\x22\x02hi" + b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
SCORE_OF_B = B[5:10]  # tag and four bytes
ELSEWHERE = {
    "the type before the score": UNKNOWN
    + A
    + b"\x0a\x0a\x0a\x01b\x18\x01"
    + SCORE_OF_B
    + TRAINER
    + NORMALIZER,
    "the text last": UNKNOWN
    + A
    + b"\x0a\x0a\x18\x01"
    + SCORE_OF_B
    + b"\x0a\x01b"
    + TRAINER
    + NORMALIZER,
    "a score given twice": UNKNOWN
    + A
    + b"\x0a\x0d\x0a\x01b\x15abcd"
    + SCORE_OF_B
    + TRAINER
    + NORMALIZER,
    "a piece with a field of its own": UNKNOWN
    + A
    + b"\x0a\x0c\x0a\x01b\x7a\x02hi"
    + SCORE_OF_B
    + TRAINER
    + NORMALIZER,
    "unknown fields of every kind": UNKNOWN + A + OTHER_FIELDS + B + TRAINER + NORMALIZER,
    "settings before the pieces": TRAINER + NORMALIZER + UNKNOWN + A + B,
    "settings in several messages": UNKNOWN
    + A
    + B
    + b"\x12\x02\x18\x02\x12\x03\x98\x02\x01"
    + NORMALIZER,
    "settings given twice": UNKNOWN + A + B + b"\x12\x02\x18\x01" + TRAINER + NORMALIZER,
    "a length in more bytes than it needs": UNKNOWN
    + A
    + B[:1]
    + bytes((B[1] | 0x80, 0))
    + B[2:]
    + TRAINER
    + NORMALIZER,
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_way_to_write_the_file_says_the_same(name):
    expected = parse_sentencepiece(UNKNOWN + A + B + TRAINER + NORMALIZER, FILE)
    assert parse_sentencepiece(ELSEWHERE[name], FILE) == expected


DAMAGED = {
    "nothing": (b"", "there is no piece in it"),
    "settings alone": (TRAINER + NORMALIZER, "there is no piece in it"),
    "an empty piece": (UNKNOWN + A + b"\x0a\x00" + B, "piece 2 has no text"),
    "a piece without a text": (UNKNOWN + b"\x0a\x05\x15" + bytes(4), "piece 1 has no text"),
    "two pieces alike": (UNKNOWN + A + B + A, "pieces 1 and 3 are the same, 'a'"),
    "no unknown piece": (A + B, "0 pieces for unknown characters"),
    "two unknown pieces": (
        UNKNOWN + A + piece_message("<unk2>", type=2),
        "2 pieces for unknown characters",
    ),
    "a score that is none": (
        UNKNOWN + piece_message("a", float("nan")),
        "the score of piece 1 is nan",
    ),
    "a score without end": (UNKNOWN + piece_message("a", float("inf")), "score of piece 1 is inf"),
    "a type that does not exist": (UNKNOWN + piece_message("a", type=9), "is of type 9"),
    "a text that is no UTF-8": (UNKNOWN + b"\x0a\x03\x0a\x01\xff", "utf-8"),
    "a number for a message": (UNKNOWN + b"\x08\x05", "a number stands where a message belongs"),
    "a number for a text": (UNKNOWN + b"\x0a\x02\x08\x05", "a number stands where a message"),
    "a number for the settings": (UNKNOWN + b"\x10\x05", "a number stands where a message"),
    "a piece longer than the file": (UNKNOWN + b"\x0a\x7f\x0a\x01a", "in the middle of a field"),
    "a text longer than its piece": (UNKNOWN + b"\x0a\x03\x0a\x7fa", "in the middle of a field"),
    "a length without an end": (UNKNOWN + b"\x0a" + b"\xff" * 20, "in the middle of a number"),
    "a tag without a value": (UNKNOWN + b"\x28", "in the middle of a number"),
    "a group, which nobody writes": (UNKNOWN + A + b"\x2b", "is no field of a protobuf"),
    "field 0": (UNKNOWN + A + b"\x02\x01a", "in the middle of a field"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_in_a_sentence(name):
    data, words = DAMAGED[name]
    with pytest.raises(CorruptFile, match=rf"^tokenizer\.model: .*{words}.*; download it again$"):
        parse_sentencepiece(data, FILE)


@pytest.mark.parametrize("text", ["<0xZZ>", "<0x4>", "<0x041>", "0x41", "<0x4a>", "<0x41>x"])
def test_a_byte_piece_that_names_no_byte_is_damage(text):
    with pytest.raises(CorruptFile, match=rf"^tokenizer\.model: '{text}' stands for a byte"):
        parse_sentencepiece(UNKNOWN + A + piece_message(text, type=6), FILE)


def test_a_text_that_looks_like_a_score_is_a_text():
    name = "\x15abcd\x18\x01" * 3
    parsed = parse_sentencepiece(UNKNOWN + piece_message(name, -1.5), FILE)
    assert parsed.pieces[1] == Piece(name, -1.5, "normal")


# --- whole files, damaged by chance ---------------------------------------------------------------


def use(path) -> None:
    """All that is ever asked of a tokenizer."""
    tokenizer = load_tokenizer(str(path))
    text = "The llama <s> grazes 🦙\n\x00 ﬁ"
    tokenize(tokenizer, text)
    tokenize(tokenizer, text, special=True)
    ids = range(tokenizer.vocab_size)
    for id in ids:
        detokenize(tokenizer, [id])
    detokenize(tokenizer, ids)
    tokenize(tokenizer, b"\xff a")
    describe_vocabulary(tokenizer, ids=ids, search="a", special=True, stats=True)


def failures(tmp_path, damaged) -> list[tuple[str, str]]:
    """Whatever is raised that is no error of ours, or does not begin with the file."""
    found = []
    for what, data in damaged:
        (tmp_path / FILE).write_bytes(data)
        try:
            use(tmp_path)
        except LlamaInspectError as error:
            if not str(error).startswith(FILE):
                found.append((what, str(error)[:150]))
        except Exception as error:
            found.append((what, repr(error)[:150]))
    return found


def tiny_file() -> bytes:
    return sentencepiece_file(vocab_size=420, character_coverage=0.98)


def test_a_file_cut_anywhere_is_refused_or_read(tmp_path):
    data = tiny_file()
    cuts = [*range(0, 60), *range(60, len(data) - 200, 97), *range(len(data) - 200, len(data))]
    assert failures(tmp_path, [(f"cut at {cut}", data[:cut]) for cut in cuts]) == []


def test_bytes_changed_by_chance_are_refused_or_read(tmp_path):
    generator = random.Random(5)
    original = tiny_file()

    def damaged():
        for number in range(250):
            data = bytearray(original)
            where = []
            for _ in range(generator.choice((1, 1, 2, 8))):
                at = generator.choice(
                    (generator.randrange(len(data)), len(data) - 1 - generator.randrange(300))
                )
                data[at] = generator.choice((generator.randrange(256), 0xFF, 0, data[at] ^ 1))
                where.append(at)
            yield f"{number}: bytes {where}", bytes(data)

    found = failures(tmp_path, damaged())
    import collections

    print(collections.Counter(e[:60] for _, e in found))


def with_text(id: int, text: bytes) -> bytes:
    """The file with another text of the same length in one piece."""
    data = tiny_file()
    position = 0
    for _ in range(id):
        position += 2 + data[position + 1]
    assert data[position + 3] == len(text)
    return data[: position + 4] + text + data[position + 4 + len(text) :]


CHANGED = {
    "a byte piece of no byte": with_text(3 + 0x41, b"<0xZZ>"),
    "a byte piece twice": with_text(3 + 0x41, b"<0x42>"),
    "a text that is no UTF-8": with_text(3 + 0x41, b"\xff\xfe\x80abc"),
    "<s> called otherwise": with_text(1, b"<x>"),
    "</s> that is no UTF-8": with_text(2, b"<\xff\xfe>"),
    "<unk> called otherwise": with_text(0, b"\xffunk>"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_piece_changed_on_purpose_is_refused_or_read(name, tmp_path):
    assert failures(tmp_path, [(name, CHANGED[name])]) == []


# --- anything at all ------------------------------------------------------------------------------

TEXTS = st.text(min_size=1, max_size=20)
SCORES = st.floats(width=32, allow_nan=False, allow_infinity=False)  # which are refused here
ADDED = st.lists(st.tuples(TEXTS, SCORES, st.sampled_from([1, 3, 4, 5])), min_size=1, max_size=5)


@examples(40)
@given(added=ADDED)
@example(added=[("0\0", 0.0, 1)])
@example(added=[("\0", 0.0, 1)])
def test_any_pieces_are_those_of_googles_reader_or_refused_by_both(added):
    """Pieces of any text put before those of a whole file."""
    whole = sentencepiece_file()
    data = b"".join(piece_message(*piece) for piece in added) + whole
    try:
        parsed = parse_sentencepiece(data, FILE)
    except CorruptFile:
        with pytest.raises(RuntimeError):
            processor(data)
        return
    model = processor(data)
    assert [(p.text, p.score) for p in parsed.pieces] == [
        (model.id_to_piece(id), model.get_score(id)) for id in range(model.vocab_size())
    ]
    assert count_pieces(data) == model.vocab_size()


test_any_change_to_a_file_is_read_or_refused = any_change("sentencepiece", 80)
