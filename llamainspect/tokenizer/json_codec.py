"""`tokenizer.json`, as Hugging Face's repositories have it, by their tokenizers library."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock

from llamainspect.config import ModelConfig
from llamainspect.errors import CorruptFile, MissingDependency, UnsupportedFile
from llamainspect.formats.sentencepiece_file import BYTE_PIECE, SPACE
from llamainspect.generations import BEGIN, END
from llamainspect.tokenizer import TokenFacts, encode_continued

try:
    import tokenizers
except ImportError as error:
    raise MissingDependency(
        "tokenizer.json is read with the package tokenizers, which is not installed; "
        "pip install 'llamainspect[tokenizers]'"
    ) from error

MAX_TOKENS = 2**20  # Llama 4 has 202,048; each id may be asked for, whether it has a token or not
STDERR = 2  # its file descriptor
_LOCK = Lock()  # the library keeps its settings, and this process its stderr, for all threads
BEGINNINGS, ENDS = (BEGIN, "<s>"), (END, "</s>")
PANIC = "PanicException"  # how Rust's failures reach Python; no subclass of Exception


class JsonCodec:
    """A tokenizer.json."""

    exact = False  # its normaliser may change the text
    generation: str | None = None
    reason: str | None = None

    def __init__(self, data: bytes, file: str) -> None:
        self._file = file
        with self._refusals("download it again"):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        if not 0 < self.vocab_size <= MAX_TOKENS:
            raise CorruptFile(f"{file}: {self.vocab_size:,} is no size of a vocabulary")
        self._added = self._tokenizer.get_added_tokens_decoder()
        self.base_tokens = self._tokenizer.get_vocab_size(with_added_tokens=False)
        self.special_tokens = {
            token.content: id for id, token in sorted(self._added.items()) if token.special
        }
        self.bos = next((name for name in BEGINNINGS if name in self.special_tokens), None)
        self.eos = next((name for name in ENDS if name in self.special_tokens), None)
        self._byte_of = byte_alphabet()
        self._byte_level = all(
            self._tokenizer.token_to_id(character) is not None for character in self._byte_of
        )

    def parts(self, text: str) -> Iterator[str]:
        """The whole."""
        yield text

    def encode(self, text: str, special: bool, continued: bool) -> list[int]:
        """Without the special tokens that its post-processor adds."""
        if continued and not self._byte_level:
            return encode_continued(partial(self._encode, special), text)
        return self._encode(special, text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """The tokens of single bytes. Raises UnsupportedFile when it has none."""
        character_of = {byte: character for character, byte in self._byte_of.items()}
        names = [character_of[b] if self._byte_level else f"<0x{b:02X}>" for b in data]
        found = [self._tokenizer.token_to_id(name) for name in names]
        ids = [id for id in found if id is not None]
        if len(ids) < len(found):
            raise UnsupportedFile(f"{self._file}: it has no tokens for single bytes")
        return ids

    def decode(self, ids: list[int]) -> str:
        """As the library does, special tokens by name."""
        with self._refusals("it cannot decode these ids"):
            text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of all tokens, less the space that the library puts before a text."""
        data = b"".join(map(self.token_bytes, ids))
        if self._byte_level or not data.startswith(b" "):
            return data
        text = self.decode(ids)
        taken = len(data) - len(data.lstrip(b" ")) > len(text) - len(text.lstrip(" "))
        return data[1:] if taken else data

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for; nothing where the file has no token of that number."""
        name: str | None = self._tokenizer.id_to_token(id)
        if name is None:
            return b""
        if id in self._added and not BYTE_PIECE.fullmatch(name):
            return name.encode()
        if self._byte_level:
            return b"".join(
                bytes((self._byte_of[c],)) if c in self._byte_of else c.encode() for c in name
            )
        if BYTE_PIECE.fullmatch(name):
            return bytes.fromhex(name[3:5])
        return name.replace(SPACE, " ").encode()

    def facts(self, id: int) -> TokenFacts:
        """Whether it is special, added beside the model's own, or not there."""
        if id in self._added:
            return TokenFacts("special" if self._added[id].special else "user_defined")
        return TokenFacts("normal" if self._tokenizer.id_to_token(id) is not None else "unused")

    def settings(self) -> dict[str, str | bool]:
        """Its model, and whether it works on bytes."""
        return {
            "algorithm": type(self._tokenizer.model).__name__,
            "byte_level": self._byte_level,
        }

    def _encode(self, special: bool, text: str) -> list[int]:
        with self._refusals("it cannot encode this text"):
            self._tokenizer.encode_special_tokens = not special
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @contextmanager
    def _refusals(self, way_out: str) -> Iterator[None]:
        """Whatever the library finds wrong with the file, as a sentence; one thread at a time."""
        with _LOCK, _silence():
            try:
                yield
            except BaseException as error:
                if isinstance(error, Exception) or type(error).__name__ == PANIC:
                    raise CorruptFile(
                        f"{self._file}: the tokenizers library refuses it ({error}); {way_out}"
                    ) from error
                raise


@contextmanager
def _silence() -> Iterator[None]:
    """Rust prints what it fails at, with a backtrace, before Python hears of it."""
    try:
        kept = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary.

    Printable Latin-1 stands for itself, the other bytes for U+0100 and on (github.com/openai/gpt-2,
    `bytes_to_unicode` in src/encoder.py).
    """
    same = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in same]
    table = {chr(byte): byte for byte in same}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def load(data: bytes, file: str, config: ModelConfig | None) -> JsonCodec:
    """The codec of a file's content. Raises CorruptFile."""
    return JsonCodec(data, file)
