"""SentencePiece, as Llama 1, 2 and Code Llama have it, by Google's library.

A space is put before every text and spaces are written as U+2581; decoding takes both back. A
U+2581 in the text itself therefore comes back as a space, and a model whose normaliser is not
"identity" (no Llama's) changes more.
"""

import re
from functools import cached_property

import sentencepiece

from llamainspect.config import ModelConfig
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.sentencepiece_file import parse_sentencepiece
from llamainspect.generations import INFILLING_TOKENS, STEP_TOKEN
from llamainspect.tokenizer import TokenFacts, encode_continued

SPACE = "\u2581"
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
            raise CorruptFile(
                f"{file}: SentencePiece refuses it ({error}); download it again"
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

    def encode(self, text: str, special: bool, continued: bool) -> list[int]:
        """As Meta's `Tokenizer.encode`; what stands between special tokens is text by itself.

        Code Llama's infilling tokens hold the space before them, and the text that follows gets
        none: so "<PRE> a <SUF>b <MID>" becomes what Meta's `infilling_prompt_tokens` makes of it.
        """
        if not special:
            return self._encode(text, continued)
        ids: list[int] = []
        position = 0
        for match in self._special_names.finditer(text):
            ids += self._encode(text[position : match.start()], continued)
            name = match[0].replace(" ", SPACE)
            infilling = match.lastgroup == "infilling"
            ids.append(self.special_tokens[SPACE + name.lstrip(SPACE) if infilling else name])
            position, continued = match.end(), infilling
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
        pieces = self._file.pieces
        shown = [id for id in ids if pieces[id].type != "control"]
        data = b"".join(map(self._piece_bytes, shown))
        prefixed = shown and pieces[shown[0]].text.startswith(SPACE)
        return data[1:] if prefixed and self._file.add_dummy_prefix else data

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for within a text; of a special token its name."""
        piece = self._file.pieces[id]
        named = piece.type in ("control", "unknown")
        return piece.text.encode() if named else self._piece_bytes(id)

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
        infilling = [name.lstrip(SPACE) for name in self.special_tokens if name in INFILLING_TOKENS]
        others = [name for name in self.special_tokens if name not in INFILLING_TOKENS]
        either = [f"[ {SPACE}]?(?P<infilling>{'|'.join(map(re.escape, infilling))})"] * bool(
            infilling
        )
        return re.compile("|".join([*either, *map(re.escape, others)]))

    def _encode(self, text: str, continued: bool) -> list[int]:
        if not text:
            return []
        if not continued:
            ids: list[int] = self._processor.encode(text)
            return ids
        return encode_continued(self._processor.encode, text)

    def _piece_bytes(self, id: int) -> bytes:
        piece = self._file.pieces[id]
        if piece.type == "byte":
            return bytes((int(piece.text[1:-1], 16),))
        if piece.type == "unknown":
            surface: str = self._processor.decode([id])
            return surface.encode()
        return piece.text.replace(SPACE, " ").encode()


def load(data: bytes, file: str, config: ModelConfig | None) -> SentencePieceCodec:
    """The codec of a file's content. Raises CorruptFile."""
    return SentencePieceCodec(data, file)
