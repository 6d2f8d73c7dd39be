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
from llamainspect.formats.sentencepiece_file import SentencePieceFile, parse_sentencepiece
from llamainspect.generations import INFILLING_TOKENS, STEP_TOKEN
from llamainspect.tokenizer import TokenFacts, encode_continued

SPACE = "\u2581"


class SentencePieceCodec:
    """A model file."""

    exact = False
    generation: str | None = None
    reason: str | None = None

    def __init__(self, data: bytes, file: str) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        except (RuntimeError, OSError) as error:
            parse_sentencepiece(data, file)  # says what is wrong, where it can
            raise CorruptFile(
                f"{file}: SentencePiece refuses it ({error}); download it again"
            ) from error
        processor = self._processor
        self._data, self._file = data, file
        self.vocab_size = self.base_tokens = processor.vocab_size()
        ids = range(self.vocab_size)
        marked = [id for id in ids if processor.is_control(id) or processor.is_unknown(id)]
        for name in (*INFILLING_TOKENS, STEP_TOKEN):
            if (id := processor.piece_to_id(name)) != processor.unk_id():
                marked.append(id)
        ends = [
            id for id in (processor.bos_id(), processor.eos_id()) if id in ids
        ]  # -1: it has none
        self.special_tokens = {processor.id_to_piece(id): id for id in sorted({*marked, *ends})}
        self.bos = self._name(processor.bos_id())
        self.eos = self._name(processor.eos_id())

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
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in data]
        if not all(map(self._processor.is_byte, ids)):
            raise UnsupportedFile(f"{self._file}: it has no tokens for single bytes")
        return ids

    def decode(self, ids: list[int]) -> str:
        """As Meta's `Tokenizer.decode`: control tokens are left out."""
        text: str = self._processor.decode(ids)
        return text

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The same before it is text; the space that was put before it is taken off."""
        processor = self._processor
        shown = [id for id in ids if not processor.is_control(id)]
        data = b"".join(map(self._piece_bytes, shown))
        prefixed = shown and processor.id_to_piece(shown[0]).startswith(SPACE)
        return data[1:] if prefixed and self._takes_prefix_off else data

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for within a text; of a special token its name."""
        if self._processor.is_control(id) or self._processor.is_unknown(id):
            return self._processor.id_to_piece(id).encode()
        return self._piece_bytes(id)

    def facts(self, id: int) -> TokenFacts:
        """Type and score, as the file has them."""
        piece = self.file.pieces[id]
        return TokenFacts(piece.type, score=piece.score)

    def settings(self) -> dict[str, str | bool]:
        """Of the trainer and the normaliser."""
        return {
            "algorithm": self.file.model_type,
            "byte_fallback": self.file.byte_fallback,
            "normalizer": self.file.normalizer,
            "add_dummy_prefix": self.file.add_dummy_prefix,
            "remove_extra_whitespaces": self.file.remove_extra_whitespaces,
        }

    @cached_property
    def file(self) -> SentencePieceFile:
        """All that the file says. Raises CorruptFile."""
        return parse_sentencepiece(self._data, self._file)

    @cached_property
    def _takes_prefix_off(self) -> bool:
        text: str = self._processor.decode_pieces([f"{SPACE}a"])
        return text == "a"

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
        processor = self._processor
        piece: str = processor.id_to_piece(id)
        if processor.is_byte(id):
            return bytes((int(piece[1:-1], 16),))
        if processor.is_unknown(id):
            surface: str = processor.decode([id])
            return surface.encode()
        return piece.replace(SPACE, " ").encode()

    def _name(self, id: int) -> str | None:
        return self._processor.id_to_piece(id) if 0 <= id < self.vocab_size else None


def load(data: bytes, file: str, config: ModelConfig | None) -> SentencePieceCodec:
    """The codec of a file's content. Raises CorruptFile."""
    return SentencePieceCodec(data, file)
