"""One face for every tokenizer of the Llamas: text to ids and back, exactly as Meta's code does it.

What knows a kind of file is a codec, a module of this folder each; it alone imports the library of
its kind. Which special tokens a tiktoken file gets is decided in `generations.py`.
"""

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import NamedTuple, Protocol

from llamainspect.checkpoint import ModelSizes, read_sizes
from llamainspect.errors import CorruptFile, MissingFile, UnsupportedFile
from llamainspect.formats.vocabulary import (
    JSON,
    SENTENCEPIECE,
    TIKTOKEN,
    TOKENIZER_FILE,
    TokenizerPlace,
    check_vocabulary,
    kind_of,
    locate_tokenizer,
)
from llamainspect.generations import RELEASED_RANKS
from llamainspect.names import counted
from llamainspect.reports import Finding, TokenizerInfo
from llamainspect.sources import Folder

_CODECS = {
    SENTENCEPIECE: "llamainspect.tokenizer.sentencepiece_codec",
    TIKTOKEN: "llamainspect.tokenizer.tiktoken_codec",
    JSON: "llamainspect.tokenizer.json_codec",
}
_INVALID = re.compile("([\udc80-\udcff]+)")  # bytes that are no UTF-8, as surrogateescape has them


class TokenFacts(NamedTuple):
    """What the file says of one token, beyond its bytes."""

    type: str  # "normal", "byte", "special", "control", "unknown", "user_defined", "unused"
    rank: int | None = None  # its place in the order of merges; tiktoken
    base64: str | None = None  # as it stands in the file; tiktoken
    score: float | None = None  # SentencePiece


class Codec(Protocol):
    """What each module of this folder makes of its kind of file."""

    vocab_size: int  # ids run from 0 to vocab_size - 1
    base_tokens: int  # in the file
    special_tokens: dict[str, int]  # plain text makes none of them, but user-defined pieces
    bos: str | None  # names of the special tokens that begin and end a text
    eos: str | None
    generation: str | None  # who names the special tokens, where the file does not
    reason: str | None  # what told that
    exact: bool  # decoding gives the text that was encoded, whatever it is

    def parts(self, text: str) -> Iterable[str]:
        """What is encoded one by one of a long text."""
        ...

    def encode(self, text: str, special: bool, continued: bool) -> list[int]:
        """Ids of valid text; with `special` those of special tokens whose names stand in it.

        `continued`: the text follows other text, and gets no space before it.
        """
        ...

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of bytes that are no text, one each."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD."""
        ...

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes that the ids stand for together."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for within a text; of a special token its name."""
        ...

    def facts(self, id: int) -> TokenFacts:
        """What else the file says of the token."""
        ...

    def settings(self) -> dict[str, str | bool]:
        """How it cuts and normalises text."""
        ...


class Tokenizer:
    """A tokenizer, as `load_tokenizer` makes it."""

    def __init__(self, codec: Codec, kind: str, place: TokenizerPlace, sizes: ModelSizes) -> None:
        self.codec = codec
        self.kind = kind
        self.place = place
        self.sizes = sizes
        self.cut_as = codec  # whose parts a long text is encoded in
        self.vocab_size = codec.vocab_size
        self.special_tokens = codec.special_tokens
        self.special_ids = frozenset(codec.special_tokens.values())
        self.bos_id = None if codec.bos is None else codec.special_tokens[codec.bos]
        self.eos_id = None if codec.eos is None else codec.special_tokens[codec.eos]

    def encode(
        self, text: str, *, bos: bool = False, eos: bool = False, special: bool = False
    ) -> list[int]:
        """Ids of a text. Names of special tokens in it are plain text unless `special`.

        Raises UnsupportedFile when `bos` or `eos` is asked of a tokenizer without such a token, and
        CorruptFile when the text holds half a character (a lone surrogate).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CorruptFile(
                f"the text: its character {error.start:,} is half of one (a lone surrogate), which "
                "has no place in UTF-8; take it out"
            ) from error
        return self.framed(self._encode(text, special, continued=False), bos, eos)

    def encode_bytes(
        self, data: bytes, *, bos: bool = False, eos: bool = False, special: bool = False
    ) -> list[int]:
        """Ids of any bytes: what is UTF-8 as text, every other byte as the token of that byte."""
        parts = _INVALID.split(data.decode("utf-8", "surrogateescape"))
        ids: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                ids += self.codec.encode_bytes(part.encode("utf-8", "surrogateescape"))
            elif part:
                ids += self._encode(part, special, continued=index > 0)
        return self.framed(ids, bos, eos)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises MissingFile for an id that there is none of."""
        return self.codec.decode(self._checked(ids))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, valid UTF-8 or not. Raises MissingFile as `decode` does."""
        return self.codec.decode_bytes(self._checked(ids))

    def token_bytes(self, id: int) -> bytes:
        """What one token stands for within a text; of a special token its name."""
        return self.codec.token_bytes(*self._checked([id]))

    @property
    def path(self) -> str:
        """The file, as a person would type it."""
        return Folder(self.place.source.directory, self.place.file).place

    def describe(self) -> TokenizerInfo:
        """Facts for a report."""
        codec = self.codec
        return TokenizerInfo(
            kind=self.kind,
            file=self.place.file,
            vocab_size=codec.vocab_size,
            base_tokens=codec.base_tokens,
            special_tokens=len(codec.special_tokens),
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            generation=codec.generation,
            reason=self._reason(),
        )

    def findings(self) -> list[Finding]:
        """Whether it fits the model that it lies with."""
        config = self.sizes.config
        vocab_size = None if config is None else config.vocab_size
        rows = self.sizes.embedding_rows
        findings = [
            *self.sizes.findings,
            *check_vocabulary(vocab_size, rows, self.vocab_size, self.place.file, self.sizes.file),
        ]
        if (
            self.kind == TIKTOKEN
            and vocab_size is None
            and self.codec.base_tokens not in RELEASED_RANKS
        ):
            message = (
                f"{self.codec.base_tokens:,} ranks are those of no release, and no "
                f"{self.sizes.file} says how many there should be: the file was cut short, or is "
                "of another model. The ids of the special tokens follow the ranks"
            )
            findings.append(Finding("warning", self.place.file, message))
        return findings

    def framed(self, ids: list[int], bos: bool, eos: bool) -> list[int]:
        """`ids` with the tokens that begin and end a text. Raises UnsupportedFile without one."""
        first = self._end(self.bos_id, "begins") if bos else []
        last = self._end(self.eos_id, "ends") if eos else []
        return [*first, *ids, *last] if first or last else ids

    def _end(self, id: int | None, what: str) -> list[int]:
        if id is None:
            raise UnsupportedFile(f"{self.place.file}: it has no token that {what} a text")
        return [id]

    def _encode(self, text: str, special: bool, continued: bool) -> list[int]:
        if self.cut_as is self.codec:
            return self.codec.encode(text, special, continued)
        ids: list[int] = []
        for index, part in enumerate(self.cut_as.parts(text)):
            ids += self.codec.encode(part, special, continued or index > 0)
        return ids

    def _reason(self) -> str | None:
        unread = self.codec.generation and self.sizes.findings
        return self.codec.reason or (f"{self.sizes.file} cannot be read" if unread else None)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        found = list(ids)
        if found and not 0 <= min(found) <= max(found) < self.vocab_size:
            wrong = next(id for id in found if not 0 <= id < self.vocab_size)
            raise MissingFile(
                f"{self.place.file}: there is no token {wrong:,}; it has "
                f"{counted(self.vocab_size, 'token')}, 0 to {self.vocab_size - 1:,}"
            )
        return found


def load_tokenizer(path: str, file: str = TOKENIZER_FILE) -> Tokenizer:
    """The tokenizer of a checkpoint directory, or of one file (tokenizer.model, tokenizer.json).

    It is looked for beside the weights, in `original/`, and one level up. Raises MissingFile,
    CorruptFile, and MissingDependency when `tokenizer.json` needs a package that is not there.
    """
    place = locate_tokenizer(path, file)
    kind = kind_of(place.source, place.file)
    sizes = read_sizes(place.model)
    data = place.source.read(place.file, 0, place.source.nbytes(place.file))
    codec: Codec = import_module(_CODECS[kind]).load(data, place.file, sizes.config)
    return Tokenizer(codec, kind, place, sizes)


ANCHOR = "☺"  # stands before a text that gets no space, and is taken off again


def encode_continued(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """Ids of a text that follows other text, from an encoder that puts a space before any.

    Meta's `encode_infilling` (codellama, llama/tokenizer.py) does it in this way.
    """
    return encode(ANCHOR + text)[len(encode(ANCHOR)) :]
