"""The number of tokens in a tokenizer.model, real ones where they are at hand."""

import base64
import contextlib
import os
from pathlib import Path

import pytest

from llamainspect.errors import CorruptFile, MissingFile
from llamainspect.formats.vocabulary import Vocabulary, read_vocabulary
from llamainspect.sources import Folder

FILE = "tokenizer.model"
REAL = Path(
    os.environ.get("LLAMAINSPECT_TOKENIZERS")
    or Path(__file__).parents[2].parent / "shared" / "tokenizers"
)

# Vocabulary sizes that Meta publishes: with the special tokens that the models' code adds.
LLAMA_2, LLAMA_3, LLAMA_4 = 32_000, 128_256, 202_048


def read(directory: Path, data: bytes) -> Vocabulary:
    (directory / FILE).write_bytes(data)
    return read_vocabulary(Folder(str(directory)))


def real(generation: str) -> bytes:
    """A released file: Meta's licence keeps it out of this repository."""
    path = REAL / f"{generation}.{FILE}"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in LLAMAINSPECT_TOKENIZERS or ../shared/tokenizers")
    return path.read_bytes()


def tiktoken_file(tokens: int, ending: bytes = b"\n") -> bytes:
    """Tokens 0, 1, 2, ...: the bytes of the number, in base64."""
    lines = [base64.b64encode(n.to_bytes(3, "big")) + b" %d" % n for n in range(tokens)]
    return b"\n".join(lines) + ending


def piece(text: str, length_bytes: int = 1) -> bytes:
    """One SentencePiece as protobuf writes it: field 1 of the model, field 1 of the piece."""
    inner = b"\x0a" + bytes([len(text)]) + text.encode() + b"\x15\x00\x00\x00\x00"
    length = bytes([len(inner)])
    if length_bytes == 2:  # the same number in a longer varint
        length = bytes([len(inner) | 0x80, 0])
    return b"\x0a" + length + inner


TRAINER = b"\x12\x03abc"  # field 2: what follows the pieces


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "kind", "size"),
    [
        ("llama2", "sentencepiece", LLAMA_2),
        ("llama3", "tiktoken", LLAMA_3),
        ("llama4", "tiktoken", LLAMA_4),
    ],
)
def test_the_released_tokenizers_have_the_published_sizes(
    generation: str, kind: str, size: int, tmp_path: Path
) -> None:
    vocabulary = read(tmp_path, real(generation))
    assert (vocabulary.kind, vocabulary.vocab_size) == (kind, size)


def test_the_released_sentencepiece_model_has_as_many_pieces_as_sentencepiece_says(
    tmp_path: Path,
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    data = real("llama2")
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert read(tmp_path, data).base_tokens == processor.vocab_size()


@pytest.mark.parametrize("generation", ["llama3", "llama4"])
def test_a_released_tiktoken_file_has_as_many_tokens_as_lines(
    generation: str, tmp_path: Path
) -> None:
    data = real(generation)
    assert read(tmp_path, data).base_tokens == len(data.splitlines())


@pytest.mark.parametrize(
    ("generation", "size"), [("llama2", LLAMA_2), ("llama3", LLAMA_3), ("llama4", LLAMA_4)]
)
@pytest.mark.parametrize("part", [0.1, 0.25, 0.5, 0.7])
def test_a_released_file_cut_short_never_passes_for_whole(
    generation: str, size: int, part: float, tmp_path: Path
) -> None:
    data = real(generation)
    for missing in range(12):  # around a line or a piece: in its number, in its text, at its end
        cut = data[: int(len(data) * part) - missing]
        try:
            vocabulary = read(tmp_path, cut)
        except CorruptFile:
            continue
        assert vocabulary.vocab_size != size


# --- tiktoken -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n", b"", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("tokens", [1, 2, 1000])
def test_tokens_of_a_tiktoken_file_are_counted(tokens: int, ending: bytes, tmp_path: Path) -> None:
    vocabulary = read(tmp_path, tiktoken_file(tokens, ending))
    assert (vocabulary.kind, vocabulary.base_tokens) == ("tiktoken", tokens)


def test_the_special_tokens_of_an_unknown_size_are_not_guessed(tmp_path: Path) -> None:
    assert read(tmp_path, tiktoken_file(1000)).vocab_size is None


def test_a_tiktoken_file_with_thousands_of_empty_lines_at_its_end_is_no_crash(
    tmp_path: Path,
) -> None:
    with contextlib.suppress(CorruptFile):
        assert read(tmp_path, tiktoken_file(3) + b"\n" * 10_000).base_tokens == 3


# --- SentencePiece ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 300])
def test_pieces_of_a_sentencepiece_model_are_counted(count: int, tmp_path: Path) -> None:
    data = b"".join(piece(f"p{n}") for n in range(count)) + TRAINER
    assert read(tmp_path, data) == Vocabulary("sentencepiece", count, 0)


def test_a_length_in_more_bytes_than_it_needs_is_the_same_length(tmp_path: Path) -> None:
    data = piece("a") + piece("b", length_bytes=2) + piece("c") + TRAINER
    assert read(tmp_path, data).vocab_size == 3


def test_a_sentencepiece_model_cut_inside_a_piece_is_corrupt(tmp_path: Path) -> None:
    pieces = [piece("ab"), piece("cde"), piece("f")]
    data = b"".join(pieces)
    ends = {sum(map(len, pieces[:n])) for n in range(1, 4)}
    wrong = []
    for length in range(1, len(data)):
        if length in ends:
            continue
        try:
            wrong.append((length, read(tmp_path, data[:length])))
        except CorruptFile as error:
            assert str(error).startswith(FILE)  # noqa: PT017  all lengths in one go
    assert wrong == []


# --- neither --------------------------------------------------------------------------------------


NEITHER: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "empty"),
    "a web page": (b"<!DOCTYPE html>\n<html>1</html>", "web page"),
    "a web page after a line end": (
        b"\n<!DOCTYPE html>\n<html>\n" + b"<p>x</p>\n" * 20 + b"</html>",
        "web page",
    ),
    "a web page after line ends": (b"\r\n\r\n<html>\n</html>", "web page"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n",
        "",
    ),
    "white space": (b"  \n  \n", ""),
    "one line end": (b"\n", ""),
    "line ends": (b"\n" * 500, ""),
    "JSON": (b'{"model": {"vocab": {}}}', ""),
    "one word": (b"token", ""),
    "words": (b"some words\nand more", ""),
    "a rank in words": (b"IQ== zero\nIg== one\n", ""),
    "a rank that is negative": (b"IQ== 0\nIg== -1\n", ""),
    "a cut line": (b"IQ== 0\nIg== 1\nIw=", ""),
    "zeros": (bytes(1000), ""),
    "a piece longer than the file": (b"\x0a\x7f\x0a\x01a", "piece"),
    "a piece of 2^34 bytes": (b"\x0a\xff\xff\xff\xff\x3f", "piece"),
    "a length without an end": (b"\x0a" + b"\xff" * 50, ""),
    "a tag alone": (b"\x0a", ""),
}


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_no_tokenizer_gets_a_sentence(name: str, tmp_path: Path) -> None:
    data, words = NEITHER[name]
    with pytest.raises(CorruptFile, match=rf"^tokenizer\.model: .*{words}"):
        read(tmp_path, data)


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(2**33)  # a hole
    with pytest.raises(CorruptFile, match=r"^tokenizer\.model: 8,589,934,592 bytes"):
        read_vocabulary(Folder(str(tmp_path)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"tokenizer\.model"):
        read_vocabulary(Folder(str(tmp_path)))
