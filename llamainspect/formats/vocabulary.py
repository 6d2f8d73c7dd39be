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
        pieces = _count_pieces(source.read(TOKENIZER_FILE, 0, size))
        return Vocabulary("sentencepiece", pieces, 0)
    return _tiktoken(source, size, head)


def _tiktoken(source: Source, size: int, head: bytes) -> Vocabulary:
    """Ranks count up from 0, so the last line has the number; the file is not read for it."""
    first = head.split(b"\n", 1)[0].split()
    length = min(size, LAST_LINE_NBYTES)
    lines = source.read(TOKENIZER_FILE, size - length, length).split()
    if len(first) != 2 or not first[1].isdigit() or not lines[-1].isdigit():
        kind = "a web page" if head.lstrip()[:1] == b"<" else "neither SentencePiece nor tiktoken"
        raise CorruptFile(f"{TOKENIZER_FILE}: it is {kind}; download it again")
    tokens = int(lines[-1][:12]) + 1
    return Vocabulary("tiktoken", tokens, SPECIAL_TOKENS.get(tokens))


def _count_pieces(data: bytes) -> int:
    """Pieces at the head of the protobuf. Raises CorruptFile when one runs past the end."""
    position, pieces, end = 0, 0, len(data)
    while position < end and data[position] == PIECE_TAG:
        length, shift, position = 0, 0, position + 1
        while position < end and shift < 35:
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        position += length
        pieces += 1
    if position > end:
        raise CorruptFile(f"{TOKENIZER_FILE}: it ends in the middle of a piece; download it again")
    return pieces
