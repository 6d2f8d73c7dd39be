"""The vocabulary itself: single tokens, those that hold a text, and what it is made of."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from heapq import nlargest

from llamainspect.formats.sentencepiece_file import SPACE
from llamainspect.formats.vocabulary import SENTENCEPIECE
from llamainspect.reports import VocabularyEntry, VocabularyReport, VocabularyStats, worst_first
from llamainspect.tokenizer import Tokenizer

LONGEST = 5


def describe_vocabulary(
    tokenizer: Tokenizer,
    *,
    ids: Iterable[int] = (),
    search: str | None = None,
    special: bool = False,
    stats: bool = False,
) -> VocabularyReport:
    """Tokens with one of `ids`, those whose bytes hold `search`, those that are special.

    Of several conditions all must hold; without any no token is listed. `stats`: what the
    vocabulary is made of. Raises MissingFile for an id that is out of range.
    """
    chosen: Iterable[int] = tuple(ids)
    if not chosen and (special or search is not None):
        chosen = sorted(tokenizer.special_ids) if special else range(tokenizer.vocab_size)
    if search is not None and tokenizer.kind == SENTENCEPIECE:
        search = search.replace(SPACE, " ")  # its pieces are shown with spaces
    wanted = None if search is None else search.encode("utf-8", "surrogateescape")
    rows = [
        _entry(tokenizer, id)
        for id in chosen
        if (wanted is None or wanted in tokenizer.token_bytes(id))
        and (not special or id in tokenizer.special_ids)
    ]
    config = tokenizer.sizes.config
    return VocabularyReport(
        path=tokenizer.path,
        tokenizer=tokenizer.describe(),
        tokens=tuple(rows),
        count=len(rows),
        stats=_stats(tokenizer) if stats else None,
        model_vocab_size=None if config is None else config.vocab_size,
        embedding_rows=tokenizer.sizes.embedding_rows,
        findings=tuple(worst_first(tokenizer.findings())),
    )


def _entry(tokenizer: Tokenizer, id: int) -> VocabularyEntry:
    data = tokenizer.token_bytes(id)
    facts = tokenizer.codec.facts(id)
    return VocabularyEntry(
        id=id,
        text=data.decode("utf-8", "replace"),
        bytes=data.hex(),
        type=facts.type,
        special=id in tokenizer.special_ids,
        rank=facts.rank,
        base64=facts.base64,
        score=facts.score,
    )


def _stats(tokenizer: Tokenizer) -> VocabularyStats:
    contents: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    tokens = [
        (tokenizer.codec.token_bytes(id), id)
        for id in range(tokenizer.vocab_size)
        if id not in tokenizer.special_ids and tokenizer.codec.facts(id).type != "unused"
    ]
    for data, id in tokens:
        lengths[len(data)] += 1
        byte = tokenizer.codec.facts(id).type == "byte"
        content, script = ("single byte", None) if byte else _classify(data)
        contents[content] += 1
        if script:
            scripts[script] += 1
    longest = nlargest(LONGEST, tokens, key=lambda row: (len(row[0]), -row[1]))
    return VocabularyStats(
        by_content=dict(contents.most_common()),
        by_script=dict(scripts.most_common()),
        by_nbytes={str(length): n for length, n in sorted(lengths.items())},
        mean_nbytes=sum(n * k for n, k in lengths.items()) / len(tokens) if tokens else 0.0,
        longest=tuple(_entry(tokenizer, id) for _, id in longest),
        settings=tokenizer.codec.settings(),
    )


def _classify(data: bytes) -> tuple[str, str | None]:
    """Kind of token, and the script of its first letter where it has one."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "part of a character", None
    if not text or text.isspace():
        return "white space", None
    word = text.removeprefix(" ")
    letter = next((character for character in word if character.isalpha()), None)
    # The first word of a character's name is its script: LATIN SMALL LETTER A.
    script = unicodedata.name(letter, "OTHER").split()[0].rstrip("-") if letter else None
    if letter is None:
        return ("digits" if any(map(str.isnumeric, word)) else "punctuation and symbols"), None
    if all(unicodedata.category(character)[0] in "LM" for character in word):
        return ("word after a space" if text != word else "word or part of one"), script
    return "letters with other signs", script
