"""A text, or a dialogue, as the tokens that a model reads; and back."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from llamainspect.catalog import find_by_name
from llamainspect.chat import Layout, Message, Segment, lay_out, parse_dialogue
from llamainspect.errors import CorruptFile, MissingFile, UnsupportedFile
from llamainspect.formats.sentencepiece_file import SPACE
from llamainspect.formats.strict_json import MAX_JSON_NBYTES, parse_json
from llamainspect.formats.vocabulary import JSON, JSON_FILE, SENTENCEPIECE
from llamainspect.names import counted, listing
from llamainspect.reports import (
    Detokenization,
    Finding,
    Token,
    Tokenization,
    TokenizerCheck,
    worst_first,
)
from llamainspect.sources import NATIVE_SUBFOLDER
from llamainspect.tokenizer import Tokenizer, load_tokenizer

MAX_SHOWN = 8  # ids at a difference
MAX_DIGITS = 100  # of an id, which is then out of range and not long to say
BRACKETED = re.compile(r"<[^<>\s]{1,80}>")  # what names of special tokens look like
BYTE_ORDER_MARK = "\ufeff"


def tokenize(
    tokenizer: Tokenizer,
    text: str | bytes,
    *,
    bos: bool = False,
    eos: bool = False,
    special: bool = False,
    ids_only: bool = False,
    check: bool = False,
) -> Tokenization:
    """Ids and tokens of a text; of bytes, those that are no UTF-8 each as a token of its own.

    `special`: names of special tokens in the text mean those tokens. `check`: the other tokenizer
    file of the directory encodes it too. Raises what `Tokenizer.encode` does, and MissingFile when
    there is no other file.
    """
    data = text if isinstance(text, bytes) else None
    shown = text if isinstance(text, str) else text.decode("utf-8", "replace")

    def encode(encoder: Tokenizer) -> list[int]:
        if data is not None:
            return encoder.encode_bytes(data, bos=bos, eos=eos, special=special)
        return encoder.encode(shown, bos=bos, eos=eos, special=special)

    ids = encode(tokenizer)
    findings = [] if special else _check_special_names(tokenizer, shown, ids)
    if shown.startswith(BYTE_ORDER_MARK):
        message = "it begins with a byte order mark (U+FEFF), which is encoded like any character"
        findings.append(Finding("note", "the text", message))
    if data is None and not special and not tokenizer.codec.exact:
        findings += _check_round_trip(tokenizer, shown, ids[bos : len(ids) - eos])
    return _report(
        tokenizer,
        ids,
        text_tokens=len(ids) - bos - eos,
        characters=len(shown),
        nbytes=len(data) if data is not None else len(shown.encode("utf-8")),
        check=_check(tokenizer, ids, encode) if check else None,
        findings=findings,
        ids_only=ids_only,
    )


def tokenize_dialogue(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    ids_only: bool = False,
    check: bool = False,
) -> Tokenization:
    """A dialogue in the format of the model's generation, up to where the model answers.

    Raises UnsupportedFile when the directory is of a base model, or when the format has no place
    for what the dialogue holds.
    """
    _refuse_base_model(tokenizer)
    bos, eos = tokenizer.codec.bos, tokenizer.codec.eos
    if bos is None or eos is None:
        raise UnsupportedFile(
            f"{tokenizer.place.file}: it has no tokens that begin and end a text, so no format of "
            "dialogues is known for it"
        )
    layout = lay_out(messages, tokenizer.special_tokens, bos, eos)

    def encode(encoder: Tokenizer) -> list[int]:
        return [id for segment in layout.segments for id in _encode_segment(encoder, segment)]

    ids = encode(tokenizer)
    texts = [segment.text for segment in layout.segments if not segment.special]
    findings = [
        finding
        for number, message in enumerate(messages, 1)
        for finding in _check_content(tokenizer, layout, message, number)
    ]
    return _report(
        tokenizer,
        ids,
        text_tokens=len(ids) - sum(segment.special for segment in layout.segments),
        characters=sum(map(len, texts)),
        nbytes=sum(len(text.encode("utf-8")) for text in texts),
        layout=layout,
        check=_check(tokenizer, ids, encode) if check else None,
        findings=findings,
        ids_only=ids_only,
    )


def detokenize(tokenizer: Tokenizer, ids: Iterable[int]) -> Detokenization:
    """The text of some ids. Raises MissingFile for one that is out of range."""
    known = tuple(ids)
    data = tokenizer.decode_bytes(known)
    try:
        data.decode("utf-8")
        valid = True
    except UnicodeDecodeError:
        valid = False
    return Detokenization(
        path=tokenizer.path,
        tokenizer=tokenizer.describe(),
        ids=known,
        text=tokenizer.decode(known),
        bytes=data.hex(),
        valid_utf8=valid,
        findings=tuple(worst_first(tokenizer.findings())),
    )


# --- what people give -----------------------------------------------------------------------------


def decode_text(data: bytes, where: str, way_out: str = "convert it with iconv") -> str:
    """Text from bytes. Raises CorruptFile with the place of the first byte that is no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(
            f"{where}: byte {error.start:,} (0x{data[error.start]:02x}) is no UTF-8; {way_out}"
        ) from error


def read_dialogue(data: bytes, where: str) -> list[Message]:
    """Messages from the JSON of a file. Raises CorruptFile and UnsupportedFile."""
    if len(data) > MAX_JSON_NBYTES:
        raise UnsupportedFile(f"{where}: {len(data):,} bytes are too many for one dialogue; cut it")
    return parse_dialogue(parse_json(data, where, "mend it"), where)


def parse_ids(text: str, where: str) -> list[int]:
    """Numbers with spaces, commas or brackets between them: as --ids prints them, or a list."""
    words = text.translate(str.maketrans("[],\ufeff", "    ")).split()
    for word in words:
        if not (word.isascii() and word.removeprefix("-").isdigit() and len(word) < MAX_DIGITS):
            raise CorruptFile(f"{where}: {word[:40]!r} is no token id; ids are whole numbers")
    return list(map(int, words))


# --- pieces of a report ---------------------------------------------------------------------------


def _report(
    tokenizer: Tokenizer,
    ids: list[int],
    *,
    text_tokens: int,
    characters: int,
    nbytes: int,
    check: TokenizerCheck | None,
    findings: list[Finding],
    ids_only: bool,
    layout: Layout | None = None,
) -> Tokenization:
    prompt = None if layout is None else "".join(segment.text for segment in layout.segments)
    return Tokenization(
        path=tokenizer.path,
        tokenizer=tokenizer.describe(),
        ids=tuple(ids),
        tokens=() if ids_only else describe_tokens(tokenizer, ids),
        count=len(ids),
        text_tokens=text_tokens,
        characters=characters,
        nbytes=nbytes,
        characters_per_token=characters / text_tokens if text_tokens else None,
        bytes_per_token=nbytes / text_tokens if text_tokens else None,
        chat_format=None if layout is None else layout.format,
        prompt=prompt,
        check=check,
        findings=tuple(worst_first([*tokenizer.findings(), *findings])),
    )


def describe_tokens(tokenizer: Tokenizer, ids: Iterable[int]) -> tuple[Token, ...]:
    """One row per token; the same token is the same object."""
    known: dict[int, Token] = {}
    rows = []
    for id in ids:
        token = known.get(id)
        if token is None:
            data = tokenizer.token_bytes(id)
            token = Token(
                id, data.decode("utf-8", "replace"), data.hex(), id in tokenizer.special_ids
            )
            known[id] = token
        rows.append(token)
    return tuple(rows)


def _encode_segment(tokenizer: Tokenizer, segment: Segment) -> list[int]:
    if not segment.special:
        return tokenizer.encode(segment.text)
    if segment.text not in tokenizer.special_tokens:
        raise UnsupportedFile(f"{tokenizer.place.file}: it has no special token {segment.text}")
    return [tokenizer.special_tokens[segment.text]]


# --- what a person should know --------------------------------------------------------------------


def _check_special_names(
    tokenizer: Tokenizer, text: str, ids: list[int], where: str = "the text"
) -> list[Finding]:
    """Special tokens that a text names, and that are not among its `ids`."""
    meant = set(ids)
    names = {
        name.lstrip(SPACE): id for name, id in tokenizer.special_tokens.items() if id not in meant
    }
    found = Counter(name for name in BRACKETED.findall(text) if name in names)
    found.update(
        {n: text.count(n) for n in names if not BRACKETED.fullmatch(n) and n in text},
    )
    if not found:
        return []
    tally = [name if n == 1 else f"{name} ({n:,} times)" for name, n in found.items()]
    message = f"it holds {listing(tally, 5)}, encoded as plain text"
    if where == "the text":
        message += "; with --special such names are special tokens"
    return [Finding("note", where, message)]


def _check_round_trip(tokenizer: Tokenizer, text: str, ids: list[int]) -> list[Finding]:
    """What the normaliser took away."""
    back = tokenizer.decode(ids)
    if back == text:
        return []
    at = _first_difference(text, back)
    cause = (
        "SentencePiece writes spaces as U+2581 and normalises as its model says"
        if tokenizer.kind == SENTENCEPIECE
        else "the normaliser or the decoder in the file changes it"
    )
    message = (
        f"decoding these ids gives another text: at character {at:,} it has "
        f"{back[at : at + 1]!r} where the text has {text[at : at + 1]!r}; {cause}"
    )
    return [Finding("note", "the text", message)]


def _check_content(
    tokenizer: Tokenizer, layout: Layout, message: Message, number: int
) -> list[Finding]:
    where = f"message {number}"
    findings = _check_special_names(tokenizer, message.text, [], where)
    tags = [tag for tag in layout.refused_tags if tag in message.text]
    if tags:
        text = f"it holds {listing(tags)}, and Meta's code does not answer such a dialogue"
        findings.append(Finding("warning", where, text))
    return findings


def _check(
    tokenizer: Tokenizer, ids: list[int], encode: Callable[[Tokenizer], list[int]]
) -> TokenizerCheck:
    """The same text through tokenizer.json. Raises MissingFile when there is only one file."""
    if tokenizer.kind == JSON:
        raise MissingFile(
            f"{tokenizer.path}: --check holds tokenizer.model against {JSON_FILE}; give the "
            "directory that has both, or the former"
        )
    other = load_tokenizer(tokenizer.place.model.directory, JSON_FILE)
    other.cut_as = tokenizer.codec  # or the cuts would be the difference
    try:
        others = encode(other)
    except UnsupportedFile as error:
        return TokenizerCheck(JSON_FILE, False, 0, None, (), (), str(error))
    if others == ids:
        message = f"{JSON_FILE} makes the same {counted(len(ids), 'token')} of it"
        return TokenizerCheck(JSON_FILE, True, len(others), None, (), (), message)
    at = _first_difference(ids, others)
    here, there = ids[at : at + MAX_SHOWN], others[at : at + MAX_SHOWN]
    message = (
        f"the files differ from token {at:,} on: {_show_token(tokenizer, here)} in "
        f"{tokenizer.place.file}, {_show_token(other, there)} in {JSON_FILE}"
    )
    return TokenizerCheck(JSON_FILE, False, len(others), at, tuple(here), tuple(there), message)


def _first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    """Where they part; the end of the shorter where that is the beginning of the longer."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _show_token(tokenizer: Tokenizer, ids: list[int]) -> str:
    if not ids:
        return "nothing more"
    text = tokenizer.token_bytes(ids[0]).decode("utf-8", "backslashreplace")
    return f"{ids[0]} ({text!r})"


def _refuse_base_model(tokenizer: Tokenizer) -> None:
    """A base model has no format of dialogues, and only the name of its directory tells it."""
    if tokenizer.place.named:
        return
    directory = tokenizer.place.model.directory
    for path in (os.path.abspath(directory), os.path.realpath(directory)):
        row = find_by_name(_model_name(path))
        if row is not None and row.is_base:
            raise UnsupportedFile(
                f"{directory}: by its name it is {row.id}, a base model, which was not trained on "
                "dialogues; give the directory of an instruct model, or the file "
                f"{tokenizer.place.file} itself to lay it out all the same"
            )


def _model_name(path: str) -> str:
    """What a directory calls its model: its own name, or the repository's in the hub's cache."""
    parts = path.split(os.sep)
    if parts[-1] == NATIVE_SUBFOLDER:
        parts.pop()
    if len(parts) > 2 and parts[-2] == "snapshots":
        return parts[-3].rpartition("--")[2]
    return parts[-1]
