"""Byte-pair encoding over ranks, as Llama 3 and 4 have it, by OpenAI's tiktoken."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain

import tiktoken

from llamainspect.config import ModelConfig
from llamainspect.formats.ranks import parse_ranks
from llamainspect.generations import BEGIN, END, choose_generation
from llamainspect.tokenizer import TokenFacts

# Meta's limits: the encoder is given no more at a time, and no longer run of one kind
# (github.com/openai/tiktoken/issues/195).
MAX_CHARACTERS = 400_000
MAX_RUN = 25_000  # of characters that are all white space, or all none
_SPACES, _OTHERS = re.compile(r"\s*"), re.compile(r"\S*")


class TiktokenCodec:
    """A rank file and what its generation adds to it."""

    exact = True
    bos: str | None = BEGIN
    eos: str | None = END

    def __init__(self, data: bytes, file: str, config: ModelConfig | None) -> None:
        ranks = parse_ranks(data, file)
        generation, self.reason = choose_generation(len(ranks), config)
        names = generation.special_tokens
        self.generation: str | None = generation.name
        self.base_tokens = len(ranks)
        self.special_tokens = {name: len(ranks) + index for index, name in enumerate(names)}
        self.vocab_size = len(ranks) + len(names)
        self._data, self._ranks, self._pattern = data, ranks, generation.pattern
        self._encoding = tiktoken.Encoding(
            "llama",
            pat_str=generation.pattern,
            mergeable_ranks=ranks,
            special_tokens=self.special_tokens,
        )
        self._encode_special = partial(
            self._encoding.encode, allowed_special=frozenset(names), disallowed_special=()
        )

    def parts(self, text: str) -> Iterator[str]:
        """As Meta's code cuts it."""
        return split_text(text)

    def encode(self, text: str, special: bool, continued: bool) -> list[int]:
        """As Meta's `Tokenizer.encode`; text after text is like any other.

        The parts of a long text are encoded on all cores: tiktoken lets go of the interpreter.
        """
        encode = self._encode_special if special else self._encoding.encode_ordinary
        parts = list(split_text(text))
        if len(parts) == 1:
            return encode(parts[0])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(chain.from_iterable(pool.map(encode, parts)))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Each byte has a token: the parser of the file saw to that."""
        return [self._ranks[data[i : i + 1]] for i in range(len(data))]

    def decode(self, ids: list[int]) -> str:
        """As Meta's `Tokenizer.decode`: special tokens by name."""
        return self._encoding.decode(ids)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The same before it is text."""
        return self._encoding.decode_bytes(ids)

    def token_bytes(self, id: int) -> bytes:
        """Of one token."""
        return self._encoding.decode_single_token_bytes(id)

    def facts(self, id: int) -> TokenFacts:
        """Rank and base64; special tokens have neither."""
        if id >= self.base_tokens:
            return TokenFacts("special")
        return TokenFacts("normal", id, self._base64[id])

    def settings(self) -> dict[str, str | bool]:
        """The pattern, which the file does not hold."""
        return {"algorithm": "byte-level BPE", "pattern": self._pattern}

    @cached_property
    def _base64(self) -> dict[int, str]:
        """By rank, as it stands in the file."""
        fields = self._data.decode("ascii").split()
        return dict(zip(map(int, fields[1::2]), fields[::2], strict=True))


def load(data: bytes, file: str, config: ModelConfig | None) -> TiktokenCodec:
    """The codec of a file's content. Raises CorruptFile."""
    return TiktokenCodec(data, file, config)


def split_text(text: str) -> Iterator[str]:
    """The text in the parts that Meta's code hands to the encoder one by one."""
    for start in range(0, max(len(text), 1), MAX_CHARACTERS):
        part = text[start : start + MAX_CHARACTERS]
        cut = 0
        for begin, end in _long_runs(part):
            for position in range(begin + MAX_RUN, end, MAX_RUN):
                yield part[cut:position]
                cut = position
        yield part[cut:]


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """Runs of white space, or of anything else, that are longer than MAX_RUN.

    Such a run holds a position that MAX_RUN divides, so the text need not be walked through.
    """
    end = 0
    for position in range(0, len(text), MAX_RUN):
        if position < end:
            continue  # inside of the last run
        kind = _SPACES if text[position].isspace() else _OTHERS
        before = kind.match(text[max(position - MAX_RUN, 0) : position][::-1])
        after = kind.match(text, position)
        assert before is not None
        assert after is not None
        begin, end = position - before.end(), after.end()
        if end - begin > MAX_RUN:
            yield begin, end
