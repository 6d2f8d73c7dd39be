"""SentencePiece's model file: its pieces, and how it was set up to cut and normalise text.

A protobuf, `sentencepiece_model.proto` of github.com/google/sentencepiece: field 1 of ModelProto is
one piece (1 text, 2 score, 3 type), repeated; field 2 the trainer's settings, field 3 the
normaliser's. Read here before the encoder sees it: a damaged file is told by a sentence, and the
encoder tells neither types nor settings.
"""

import math
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from llamainspect.errors import CorruptFile

PIECE, TRAINER, NORMALIZER = 1, 2, 3  # fields of ModelProto
SPACE = "\u2581"  # how pieces write a space
PIECE_TAG = 0x0A  # field 1, length-delimited
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
TYPES = {1: "normal", 2: "unknown", 3: "control", 4: "user_defined", 5: "unused", 6: "byte"}
NORMAL = 1  # what a piece is that has no type
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Fields of TrainerSpec and NormalizerSpec that decide how text is cut, with their defaults.
TRAINER_FIELDS = {3: ("model_type", 1), 35: ("byte_fallback", 0)}
NORMALIZER_FIELDS = {
    1: ("name", b""),
    3: ("add_dummy_prefix", 1),
    4: ("remove_extra_whitespaces", 1),
}
# A piece as its writer puts it: text, score, type. Thousands are read in this one step each.
_USUAL_PIECE = re.compile(
    rb"\x0a([\x01-\x7f])(.*)\x15(.{4})(?:\x18([\x01-\x06]))?", flags=re.DOTALL
)
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_FLOAT = struct.Struct("<f")


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place in the file."""

    text: str
    score: float
    type: str  # one of TYPES


class SentencePieceFile(NamedTuple):
    """All of a model file that people ask for."""

    pieces: tuple[Piece, ...]
    model_type: str  # "bpe" in every Llama
    byte_fallback: bool  # characters without a piece become bytes
    normalizer: str  # "identity" in every Llama
    add_dummy_prefix: bool  # a space is put before the text
    remove_extra_whitespaces: bool


def parse_sentencepiece(data: bytes, file: str) -> SentencePieceFile:
    """The whole file. Raises CorruptFile with what is wrong with it."""
    try:
        messages = list(_fields(data))
        pieces = tuple(_piece(value) for field, value in messages if field == PIECE)
        trainer = _settings(messages, TRAINER, TRAINER_FIELDS)
        normalizer = _settings(messages, NORMALIZER, NORMALIZER_FIELDS)
        name = normalizer["name"].decode("utf-8")
    except ValueError as error:  # UnicodeDecodeError is one
        raise CorruptFile(
            f"{file}: it is a damaged SentencePiece model ({error}); download it again"
        ) from error
    if not pieces:
        raise CorruptFile(f"{file}: there is no piece in it; download it again")
    _check_pieces(pieces, file)
    return SentencePieceFile(
        pieces,
        MODEL_TYPES.get(trainer["model_type"], "unknown"),
        bool(trainer["byte_fallback"]),
        name,
        bool(normalizer["add_dummy_prefix"]),
        bool(normalizer["remove_extra_whitespaces"]),
    )


def count_pieces(data: bytes) -> int | None:
    """How many pieces stand at the head of the file; None when it ends in the middle of one.

    Raises ValueError when a message there is no piece.
    """
    position, pieces, end = 0, 0, len(data)
    while position < end and data[position] == PIECE_TAG:
        try:
            length, message = _varint(data, position + 1)
        except ValueError:
            return None
        position = message + length
        if position > end:
            return None
        if length and data[message] != PIECE_TAG:  # the message begins with the piece's text
            raise ValueError("a piece without a text")
        pieces += 1
    return pieces


def _check_pieces(pieces: tuple[Piece, ...], file: str) -> None:
    """What the encoder refuses, in words."""
    first: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if not piece.text:
            raise CorruptFile(f"{file}: piece {number:,} has no text; download it again")
        if "\0" in piece.text and piece.text != "\0":
            raise CorruptFile(f"{file}: piece {number:,} has a zero in its text; download it again")
        if not math.isfinite(piece.score):
            raise CorruptFile(
                f"{file}: the score of piece {number:,} is {piece.score}, which is no number; "
                "download it again"
            )
        if first.setdefault(piece.text, number) != number:
            raise CorruptFile(
                f"{file}: pieces {first[piece.text]:,} and {number:,} are the same, "
                f"{piece.text[:40]!r}; download it again"
            )
    bad = next(
        (p.text for p in pieces if p.type == "byte" and not BYTE_PIECE.fullmatch(p.text)), None
    )
    if bad is not None:
        raise CorruptFile(
            f"{file}: {bad[:40]!r} stands for a byte and names none, as <0x41> does; "
            "download it again"
        )
    unknown = sum(piece.type == "unknown" for piece in pieces)
    if unknown != 1:
        raise CorruptFile(
            f"{file}: it has {unknown} pieces for unknown characters and must have one; "
            "download it again"
        )


def _piece(value: Any) -> Piece:
    message = _message(value)
    usual = _USUAL_PIECE.fullmatch(message)
    if usual and len(usual[2]) == usual[1][0]:
        kind = usual[4][0] if usual[4] else NORMAL
        return Piece(usual[2].decode("utf-8"), _FLOAT.unpack(usual[3])[0], TYPES[kind])
    text, score, kind = b"", 0.0, NORMAL
    for field, found in _fields(message):
        if field == 1:
            text = _message(found)
        elif field == 2 and isinstance(found, bytes) and len(found) == 4:
            (score,) = _FLOAT.unpack(found)
        elif field == 3 and isinstance(found, int):
            kind = found
    if kind not in TYPES:
        raise ValueError(f"a piece is of type {kind}, which does not exist")
    return Piece(text.decode("utf-8"), score, TYPES[kind])


def _settings(
    messages: list[tuple[int, Any]], field: int, known: dict[int, tuple[str, Any]]
) -> dict[str, Any]:
    """Values of the known fields of a message; the last one counts, as protobuf has it."""
    values = dict(known.values())
    for number, value in messages:
        if number == field:
            for inner, found in _fields(_message(value)):
                if inner in known and isinstance(found, type(known[inner][1])):
                    values[known[inner][0]] = found
    return values


def _message(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a message belongs")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of one message: an integer, or bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(data, position)
            yield field, value
            continue
        if wire == BYTES:
            length, position = _varint(data, position)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"byte {position - 1:,} is no field of a protobuf")
        if field == 0 or position + length > end:
            raise ValueError("it ends in the middle of a field")
        yield field, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it). Raises ValueError when the data end before the number does."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it ends in the middle of a number")
