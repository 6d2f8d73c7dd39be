"""How many tokens a `tokenizer.model` has, and of which kind, without building a tokenizer.

SentencePiece's file is a protobuf (`sentencepiece_model.proto`: field 1 of ModelProto is one piece,
repeated); tiktoken's has one line per token, base64 and rank. Both are told apart by content.
"""

from typing import NamedTuple

from llamainspect.errors import CorruptFile
from llamainspect.sources import Source

TOKENIZER_FILE = "tokenizer.model"
MAX_TOKENIZER_NBYTES = 64 * 2**20
LAST_LINE_NBYTES = 4096
SPECIAL_TOKENS = {128_000: 256, 200_000: 2_048}  # Llama 3 and 4 add these after the ranks
PIECE_TAG = 0x0A  # field 1, length-delimited


class Vocabulary(NamedTuple):
    """What the tokenizer file says of its size."""

    kind: str  # "sentencepiece" or "tiktoken"
    base_tokens: int  # in the file
    special_tokens: int | None  # added by the model's code; None: not known for this size

    @property
    def vocab_size(self) -> int | None:
        """Tokens in all."""
        return None if self.special_tokens is None else self.base_tokens + self.special_tokens


def read_vocabulary(source: Source) -> Vocabulary:
    """Kind and size. Raises MissingFile, or CorruptFile when it is neither kind."""
    size = source.nbytes(TOKENIZER_FILE)
    if not size:
        raise CorruptFile(f"{TOKENIZER_FILE}: the file is empty; download it again")
    if size > MAX_TOKENIZER_NBYTES:
        raise CorruptFile(f"{TOKENIZER_FILE}: {size:,} bytes are too many for a tokenizer")
    head = source.read(TOKENIZER_FILE, 0, min(size, 512))
    if head[:1] == bytes([PIECE_TAG]):
        return _sentencepiece(source.read(TOKENIZER_FILE, 0, size))
    return _tiktoken(source, size, head)


def _tiktoken(source: Source, size: int, head: bytes) -> Vocabulary:
    """Ranks count up from 0, so the last line has the number; the file is not read for it."""
    first = head.split(b"\n", 1)[0].split()
    length = min(size, LAST_LINE_NBYTES)
    last = source.read(TOKENIZER_FILE, size - length, length).split()[-1:]
    ranks = first[1:], last
    if len(first) != 2 or not all(r and r[0].isdigit() and len(r[0]) < 10 for r in ranks):
        raise _no_tokenizer(head)
    tokens = int(last[0]) + 1
    return Vocabulary("tiktoken", tokens, SPECIAL_TOKENS.get(tokens))


def _sentencepiece(data: bytes) -> Vocabulary:
    """Counts the pieces at the head of the protobuf: each a tag, a length, and a message."""
    position, pieces, end = 0, 0, len(data)
    while position < end and data[position] == PIECE_TAG:
        length, message = _varint(data, position + 1)
        position = message + length
        if message == 0 or position > end:
            raise CorruptFile(
                f"{TOKENIZER_FILE}: it ends in the middle of a piece; download it again"
            )
        if length and data[message] != PIECE_TAG:  # the message begins with the piece's text
            raise _no_tokenizer(data)
        pieces += 1
    return Vocabulary("sentencepiece", pieces, 0)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it); position 0 when the data end before the number does."""
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return 0, 0


def _no_tokenizer(data: bytes) -> CorruptFile:
    page = data.lstrip()[:1] == b"<"
    kind = "a web page" if page else "neither a SentencePiece nor a tiktoken model"
    return CorruptFile(f"{TOKENIZER_FILE}: it is {kind}; download it again")
