"""Which tokenizer a checkpoint has: where its file is, of which kind, and how many tokens it has.

SentencePiece's file is a protobuf and tiktoken's has one line per token, base64 and rank; both are
called `tokenizer.model` and told apart by content. No tokenizer is built here.
"""

import re
from contextlib import suppress
from typing import NamedTuple

from llamainspect.config import HUB_CONFIG_FILE, PARAMS_FILE, ModelConfig
from llamainspect.errors import CorruptFile, MissingFile, NotACheckpoint
from llamainspect.formats.ranks import check_length
from llamainspect.formats.sentencepiece_file import PIECE_TAG, count_pieces
from llamainspect.formats.signatures import HEAD_NBYTES, describe_stand_in
from llamainspect.generations import RELEASED_RANKS, choose_generation
from llamainspect.reports import Finding
from llamainspect.sources import ABSENT, NATIVE_SUBFOLDER, Folder, Source, open_source

TOKENIZER_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"  # of Hugging Face's tokenizers library
BESIDE = (".pth", ".pt", ".bin", ".safetensors", PARAMS_FILE, HUB_CONFIG_FILE)  # not tokenizers
# Of the released ones, 3.6 MB and 28 MB are the largest.
MAX_MODEL_NBYTES, MAX_TOKENIZER_JSON_NBYTES = 16 * 2**20, 128 * 2**20
LAST_LINE_NBYTES = 4096
RANK_LINE = re.compile(rb"\s*([A-Za-z0-9+/]+={0,2})[ \t]+(\d{1,9})\s")
SENTENCEPIECE, TIKTOKEN, JSON = "sentencepiece", "tiktoken", JSON_FILE  # kinds


class Vocabulary(NamedTuple):
    """What the tokenizer file says of its size."""

    kind: str  # "sentencepiece", "tiktoken" or "tokenizer.json"
    base_tokens: int | None  # in the file; None: not counted
    special_tokens: int | None  # added by the model's code; None: not known for this size

    @property
    def vocab_size(self) -> int | None:
        """Tokens in all."""
        if self.base_tokens is None or self.special_tokens is None:
            return None
        return self.base_tokens + self.special_tokens


# --- where ----------------------------------------------------------------------------------------


class TokenizerPlace(NamedTuple):
    """A tokenizer file, and the directory with the configuration of its model."""

    source: Folder
    file: str
    model: Folder
    named: bool = False  # the person gave the file, not the model


def locate_tokenizer(path: str, file: str = TOKENIZER_FILE) -> TokenizerPlace:
    """The tokenizer of the checkpoint at `path`, or the file itself when `path` is one.

    `tokenizer.model` stands beside the weights, in `original/` of a hub download, or one level up
    (Llama 1 and 2); `tokenizer.json` is taken when there is no other. Raises MissingFile, and
    NotACheckpoint when there is nothing at `path`.
    """
    folder = open_source(path)
    if folder.only and not folder.only.endswith(BESIDE):
        return TokenizerPlace(folder, folder.only, Folder(folder.directory), named=True)
    names = tuple(dict.fromkeys((file, JSON_FILE)))
    found = find_tokenizer(Folder(folder.directory), names)
    if found is None:
        raise MissingFile(
            f"{path}: there is no {' or '.join(names)} here, in {NATIVE_SUBFOLDER}/ or one level "
            "up; give the directory that has it, or the file"
        )
    return found


def find_tokenizer(folder: Folder, names: tuple[str, ...]) -> TokenizerPlace | None:
    """The first of `names` that is beside the weights, in `original/`, or above a native model.

    Raises MissingFile when what is there is no file.
    """
    native = [folder]
    with suppress(NotACheckpoint):
        native.append(open_source(f"{folder.directory}/{NATIVE_SUBFOLDER}"))
    model = next((place for place in native if PARAMS_FILE in place.files()), folder)
    places = [*native, *([model.parent()] if _is_model(model) else [])]
    for name in names:
        for place in places:
            obstacle = place.obstacle(name)
            if obstacle is None:
                return TokenizerPlace(place, name, model)
            if obstacle != ABSENT:
                raise MissingFile(f"{name}: {obstacle}, in {place.directory}; put the file there")
    return None


def _is_model(folder: Folder) -> bool:
    """Whether the directory holds a native model: only then is what stands above it its own.

    On the hub everything lies in one directory.
    """
    return any(name == PARAMS_FILE or name.endswith(".pth") for name in folder.files())


# --- how many tokens ------------------------------------------------------------------------------


def kind_of(source: Source, file: str) -> str:
    """SENTENCEPIECE, TIKTOKEN or JSON, by content. Raises CorruptFile for anything else."""
    size = source.nbytes(file)
    head = source.read(file, 0, min(size, HEAD_NBYTES))
    is_json = head.lstrip().startswith(b"{")
    if size > (MAX_TOKENIZER_JSON_NBYTES if is_json else MAX_MODEL_NBYTES):
        raise CorruptFile(f"{file}: {size:,} bytes are too many for a tokenizer")
    if RANK_LINE.match(head + b"\n"):
        return TIKTOKEN
    if is_json:
        return JSON
    if head.startswith(bytes((PIECE_TAG,))) and head.strip():
        return SENTENCEPIECE
    raise not_a_tokenizer(head, size, file)


def read_vocabulary(
    source: Source, file: str = TOKENIZER_FILE, config: ModelConfig | None = None
) -> Vocabulary:
    """Kind and size. Raises MissingFile, or CorruptFile when the file is no tokenizer.model.

    What a tiktoken file leaves to the model's code follows from its size or from `config`.
    """
    kind = kind_of(source, file)
    size = source.nbytes(file)
    if kind == SENTENCEPIECE:
        return _sentencepiece(source.read(file, 0, size), file)
    if kind == TIKTOKEN:
        return _tiktoken(source, file, size, config)
    raise not_a_tokenizer(source.read(file, 0, min(size, HEAD_NBYTES)), size, file)


def not_a_tokenizer(head: bytes, nbytes: int, file: str) -> CorruptFile:
    """The error for a file of another kind."""
    stand_in = describe_stand_in(head, nbytes)
    return CorruptFile(
        f"{file}: {stand_in or 'it is neither a SentencePiece nor a tiktoken model'}"
        f"{'' if stand_in else '; download it again'}"
    )


def _tiktoken(source: Source, file: str, size: int, config: ModelConfig | None) -> Vocabulary:
    """As many ranks as lines, in files whose ranks count up; else they are counted one by one."""
    length = min(size, LAST_LINE_NBYTES)
    end = source.read(file, size - length, length)
    last = end.split()[-1:]
    if not last or not last[0].isdigit() or len(last[0]) > 9:
        raise not_a_tokenizer(end, size, file)
    data = source.read(file, 0, size)
    check_length(data, file)
    tokens = int(last[0]) + 1
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if lines != tokens or b"\n\n" in data or data.count(b"\r") not in (0, data.count(b"\n")):
        tokens = len(data.split()) // 2
    known = tokens in RELEASED_RANKS or config is not None
    special = len(choose_generation(tokens, config)[0].special_tokens) if known else None
    return Vocabulary(TIKTOKEN, tokens, special)


def _sentencepiece(data: bytes, file: str) -> Vocabulary:
    try:
        pieces = count_pieces(data)
    except ValueError:
        raise not_a_tokenizer(data[:HEAD_NBYTES], len(data), file) from None
    if pieces is None:
        raise CorruptFile(f"{file}: it ends in the middle of a piece; download it again")
    return Vocabulary(SENTENCEPIECE, pieces, 0)


# --- whether it fits ------------------------------------------------------------------------------


def check_vocabulary(
    vocab_size: int | None,
    embedding_rows: int | None,
    tokens: int | None,
    file: str,
    config_file: str = PARAMS_FILE,
) -> list[Finding]:
    """The tokenizer's size against the model's, as its configuration and its weights have it.

    On the hub rows without a token are usual: tokens that were never added, or a rounder number.
    """
    sizes = {size for size in (vocab_size, embedding_rows) if size is not None}
    if tokens is None or sizes <= {tokens}:
        return []
    rows = max(sizes) if len(sizes) == 1 else None
    there = (
        f"the model has {rows:,}"
        if rows is not None
        else f"{config_file} says {vocab_size:,} and the embedding has {embedding_rows:,} rows"
    )
    padded = config_file == HUB_CONFIG_FILE and rows is not None and rows > tokens
    return [
        Finding(
            "warning" if padded else "error",
            file,
            f"it has {tokens:,} tokens, {there}. Likely cause: the tokenizer of another model, a "
            "file that was cut short, or a vocabulary that was padded or extended",
        )
    ]
