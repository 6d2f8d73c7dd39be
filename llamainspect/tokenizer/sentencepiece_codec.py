"""SentencePiece, as Llama 1, 2 and Code Llama have it, by Google's library.

A space is put before every text and spaces are written as U+2581; decoding takes both back. A
U+2581 in the text itself therefore comes back as a space, and a model whose normaliser is not
"identity" (no Llama's) changes more.
"""

import re
from collections.abc import Iterator
from functools import cached_property

import sentencepiece

from llamainspect.config import ModelConfig
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.sentencepiece_file import SPACE, Piece, parse_sentencepiece
from llamainspect.generations import INFILLING_TOKENS, STEP_TOKEN
from llamainspect.tokenizer import TokenFacts, encode_continued

SUFFIX = f"{SPACE}<SUF>"
_CODE_LLAMA = (*INFILLING_TOKENS, STEP_TOKEN)


class SentencePieceCodec:
    """A model file."""

    exact = False
    generation: str | None = None
    reason: str | None = None

    def __init__(self, data: bytes, file: str) -> None:
        self._file = parse_sentencepiece(data, file)
        self._name = file
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        except Exception as error:  # of any kind: its C++ raises what it likes
            reason = str(error).rpartition("] ")[2]  # behind the place in its source
            raise CorruptFile(
                f"{file}: SentencePiece refuses it ({reason}); download it again"
            ) from error
        pieces, processor = self._file.pieces, self._processor
        self.vocab_size = self.base_tokens = len(pieces)
        ends = (processor.bos_id(), processor.eos_id())  # -1: it has none
        self.special_tokens = {
            piece.text: id
            for id, piece in enumerate(pieces)
            if piece.type in ("control", "unknown") or piece.text in _CODE_LLAMA or id in ends
        }
        self.bos, self.eos = (pieces[id].text if 0 <= id < len(pieces) else None for id in ends)

    def parts(self, text: str) -> Iterator[str]:
        """The whole."""
        yield text

    def encode(self, text: str, special: bool, continued: bool) -> list[int]:
        """As Meta's `Tokenizer.encode`; what stands between special tokens is text by itself.

        Code Llama's infilling tokens hold the space before them. Behind <SUF> text gets no space
        of its own, behind the others the space that separates is that of the text: so
        "<PRE> a <SUF>b <MID>" becomes what Meta's `infilling_prompt_tokens` makes of a and b.
        """
        if not special:
            return self._encode(text, continued)
        ids: list[int] = []
        position = 0
        for match in self._special_names.finditer(text):
            ids += self._encode(text[position : match.start()], continued)
            infilling = match["apart"] or match["close"]
            ids.append(self.special_tokens[f"{SPACE}{infilling}" if infilling else match[0]])
            position, continued = match.end(), match["close"] is not None
        return ids + self._encode(text[position:], continued)

    def encode_bytes(self, data: bytes) -> list[int]:
        """The model's byte tokens. Raises UnsupportedFile when it has none."""
        try:
            return [self._byte_ids[byte] for byte in data]
        except KeyError:
            raise UnsupportedFile(f"{self._name}: it has no tokens for single bytes") from None

    def decode(self, ids: list[int]) -> str:
        """As Meta's `Tokenizer.decode`: control tokens are left out."""
        text: str = self._processor.decode(ids)
        return text

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The same before it is text; the space that was put before it is taken off."""
        settings = self._file
        pieces = (settings.pieces[id] for id in ids)
        parts: list[bytes] = []
        begins = settings.add_dummy_prefix or settings.remove_extra_whitespaces
        for piece in pieces:
            if piece.type == "control":
                continue
            data = self._piece_bytes(piece)
            if begins and piece.text.startswith(SPACE):
                data = data[1:]
                begins = settings.remove_extra_whitespaces and not data  # then of every piece
            else:
                begins = False
            parts.append(data)
        return b"".join(parts)

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for within a text; of a special token its name."""
        piece = self._file.pieces[id]
        named = piece.text in self.special_tokens
        return piece.text.encode() if named else self._piece_bytes(piece)

    def facts(self, id: int) -> TokenFacts:
        """Type and score, as the file has them."""
        piece = self._file.pieces[id]
        return TokenFacts(piece.type, score=piece.score)

    def settings(self) -> dict[str, str | bool]:
        """Of the trainer and the normaliser."""
        return {
            "algorithm": self._file.model_type,
            "byte_fallback": self._file.byte_fallback,
            "normalizer": self._file.normalizer,
            "add_dummy_prefix": self._file.add_dummy_prefix,
            "remove_extra_whitespaces": self._file.remove_extra_whitespaces,
        }

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        pieces = enumerate(self._file.pieces)
        return {int(piece.text[1:-1], 16): id for id, piece in pieces if piece.type == "byte"}

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        names = list(self.special_tokens)
        apart = [name[1:] for name in names if name in INFILLING_TOKENS and name != SUFFIX]
        close = [name[1:] for name in names if name == SUFFIX]
        others = [name for name in names if name not in INFILLING_TOKENS]
        return re.compile(
            f"[ {SPACE}]?(?:(?P<apart>{_any_of(apart)}) ?|(?P<close>{_any_of(close)}))"
            f"|{_any_of(others)}"
        )

    def _encode(self, text: str, continued: bool) -> list[int]:
        if not text:
            return []
        if not continued:
            ids: list[int] = self._processor.encode(text)
            return ids
        return encode_continued(self._processor.encode, text)

    def _piece_bytes(self, piece: Piece) -> bytes:
        if piece.type == "byte":
            return bytes((int(piece.text[1:-1], 16),))
        if piece.type == "unknown":
            surface: str = self._processor.decode([self._processor.unk_id()])
            return surface.encode()
        return piece.text.replace(SPACE, " ").encode()


def load(data: bytes, file: str, config: ModelConfig | None) -> SentencePieceCodec:
    """The codec of a file's content. Raises CorruptFile."""
    return SentencePieceCodec(data, file)


def _any_of(names: list[str]) -> str:
    """A pattern for any of the names; for none of none."""
    return "|".join(map(re.escape, names)) or "(?!)"
