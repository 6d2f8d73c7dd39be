"""Views of the Run panel: tokenize, detokenize, vocab."""

from collections.abc import Iterator, Sequence
from itertools import cycle

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llamainspect.render.printable import printable
from llamainspect.render.text.common import bar, facts, findings_view, percent_text, section, view
from llamainspect.reports import (
    Detokenization,
    Token,
    Tokenization,
    TokenizerInfo,
    VocabularyEntry,
    VocabularyReport,
    VocabularyStats,
)

MAX_ROWS = 500  # --ids and --json have no limit
MAX_SCRIPTS = 8
MAX_LENGTHS = 10
# Characters of a cell on a terminal; in a pipe nothing is shortened.
MAX_TEXT, MAX_HEX, MAX_BASE64, MAX_LONGEST = 20, 26, 14, 58
MAX_PARTS = 16  # tokens that one character may be cut into
# Of the eight colours that every terminal has, so that neighbours always differ.
BANDS = ("black on cyan", "black on green", "black on yellow")
SPECIAL = "bold magenta"
SPECIAL_BAND = "bold white on magenta"
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}


# --- tokenize -------------------------------------------------------------------------------------


@view.register
def _(report: Tokenization, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report.path, report.tokenizer)]
    if report.chat_format:
        parts.append(Text(f"dialogue in the format {report.chat_format}", style="dim"))
    parts.append(_Bands(report))
    if report.tokens:
        parts += [Text(), _token_table(report.tokens[:MAX_ROWS], terminal)]
    if len(report.tokens) > MAX_ROWS:
        more = f"({len(report.tokens) - MAX_ROWS:,} more tokens; --ids or --json has them all)"
        parts.append(Text(more, style="dim"))
    parts.append(Text(f"\n{_counts(report)}", style="bold"))
    if report.check:
        style = "green" if report.check.agrees else "bold red"
        parts.append(Text(printable(report.check.message, limit=500), style=style))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _headline(path: str, tokenizer: TokenizerInfo) -> Text:
    line = Text(printable(path), style="bold")
    line.append(f"  {tokenizer.kind}, {tokenizer.vocab_size:,} tokens", style="not bold")
    if tokenizer.generation:
        reason = tokenizer.reason or "no params.json says which"
        line.append(f"\nspecial tokens of {tokenizer.generation} ({reason})", style="not bold dim")
    return line


def _counts(report: Tokenization) -> str:
    text = f"{report.count:,} token{'s' * (report.count != 1)}"
    if report.characters_per_token is None or report.bytes_per_token is None:
        return text
    return (
        f"{text}, {report.characters:,} characters ({report.characters_per_token:.2f} a token), "
        f"{report.nbytes:,} bytes ({report.bytes_per_token:.2f} a token)"
    )


class _Bands:
    """The text with a band of colour under each token; without colour only a dialogue's prompt."""

    def __init__(self, report: Tokenization) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None:
            if self.report.prompt is not None:
                lines = self.report.prompt.split("\n")
                yield Text("\n" + "\n".join(printable(line, limit=None) for line in lines))
            return
        text = Text("\n")
        styles = cycle(BANDS)
        for token in self.report.tokens[:MAX_ROWS]:
            shown = _visible(token).replace("\n", "↵\n")
            text.append(shown, style=SPECIAL_BAND if token.special else next(styles))
        yield text


def _visible(token: Token) -> str:
    """A token's text for a band: parts of characters as escapes, line ends as they are."""
    text = bytes.fromhex(token.bytes).decode("utf-8", "backslashreplace")
    return "\n".join(printable(line, limit=None) for line in text.split("\n"))


def _token_table(tokens: Sequence[Token], terminal: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    table.add_column("bytes", no_wrap=True, style="dim")
    for position, (token, whole) in enumerate(zip(tokens, _cut_characters(tokens), strict=True)):
        text = _token_text(token.bytes, token.special)
        if whole:
            text.append(f"  part of {printable(whole)}", style="dim")
        data = "" if token.special else _hex(token.bytes)
        table.add_row(f"{position:,}", str(token.id), text, _short(data, MAX_HEX, terminal))
    return table


def _token_text(data: str, special: bool) -> Text:
    """In quotes, so that spaces are seen; a special token by its name."""
    text = bytes.fromhex(data).decode("utf-8", "backslashreplace")
    if special:
        return Text(printable(text), style=SPECIAL)
    return Text(_quoted(bytes.fromhex(data)))


def _quoted(data: bytes) -> str:
    parts = []
    for character in data.decode("utf-8", "surrogateescape"):
        if "\udc80" <= character <= "\udcff":  # a byte that is no character
            parts.append(f"\\x{ord(character) - 0xDC00:02x}")
        else:
            parts.append(_ESCAPES.get(character) or printable(character))
    return f'"{"".join(parts)}"'


def _short(text: str, limit: int, terminal: bool) -> str:
    return f"{text[: limit - 1]}…" if terminal and len(text) > limit else text


def _hex(data: str) -> str:
    return bytes.fromhex(data).hex(" ")


def _cut_characters(tokens: Sequence[Token]) -> Iterator[str]:
    """For each token the characters that it holds only a part of; else nothing."""
    waiting: list[bytes] = []
    for token in tokens:
        data = bytes.fromhex(token.bytes)
        if not waiting and (token.special or _text(data) is not None):
            yield ""
            continue
        waiting.append(data)
        whole = _text(b"".join(waiting))
        if token.special or whole is not None or len(waiting) > MAX_PARTS:
            before, after = (part.decode("utf-8", "ignore") for part in (waiting[0], waiting[-1]))
            cut = (whole or "")[len(before) :].removesuffix(after)
            yield from [cut] * len(waiting)
            waiting = []
    yield from [""] * len(waiting)


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


# --- detokenize -----------------------------------------------------------------------------------


@view.register
def _(report: Detokenization, terminal: bool) -> RenderableType:
    lines = report.text.split("\n")
    parts: list[RenderableType] = [Text("\n".join(printable(line, limit=None) for line in lines))]
    if not report.valid_utf8:
        note = "(some bytes are no UTF-8 and stand as \ufffd here; --bytes writes them)"
        parts.append(Text(note, style="dim"))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


# --- vocab ----------------------------------------------------------------------------------------


@view.register
def _(report: VocabularyReport, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report.path, report.tokenizer)]
    if report.stats:
        parts += [_sizes(report), *_stats(report.stats, terminal)]
    if report.tokens:
        one = report.count == 1
        parts += [
            Text(),
            _entry(report.tokens[0]) if one else _entry_table(report.tokens[:MAX_ROWS], terminal),
        ]
    if report.count > MAX_ROWS:
        more = f"({report.count - MAX_ROWS:,} more tokens; --json has them all)"
        parts.append(Text(more, style="dim"))
    if not report.stats and report.count != 1:
        count = f"\n{report.count:,} token{'s' * (report.count != 1)}"
        parts.append(Text(count, style="bold"))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _entry(entry: VocabularyEntry) -> Table:
    """One token, in full."""
    known = {
        "type": entry.type,
        "rank": entry.rank,
        "base64": entry.base64,
        "score": None if entry.score is None else f"{entry.score:g}",
    }
    rows: list[tuple[str, RenderableType]] = [
        ("id", Text(str(entry.id))),
        ("text", _token_text(entry.bytes, entry.special)),
        ("bytes", Text(_hex(entry.bytes))),
    ]
    rows += [(name, Text(str(value))) for name, value in known.items() if value is not None]
    return facts(rows)


def _entry_table(entries: Sequence[VocabularyEntry], terminal: bool) -> Table:
    """Many tokens; the rank, where there is one, is the id."""
    ranked = any(entry.base64 is not None for entry in entries)
    scored = any(entry.score is not None for entry in entries)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    table.add_column("bytes", no_wrap=True, style="dim")
    table.add_column("type", no_wrap=True)
    if ranked:
        table.add_column("base64", no_wrap=True)
    if scored:
        table.add_column("score", justify="right", no_wrap=True)
    for entry in entries:
        text = _token_text(entry.bytes, entry.special)
        data = "" if entry.special else _hex(entry.bytes)
        row: list[RenderableType] = [
            str(entry.id),
            Text(_short(text.plain, MAX_TEXT, terminal and not entry.special), style=text.style),
            _short(data, MAX_HEX, terminal),
            entry.type,
        ]
        if ranked:
            row.append(_short(entry.base64 or "", MAX_BASE64, terminal))
        if scored:
            row.append("" if entry.score is None else f"{entry.score:g}")
        table.add_row(*row)
    return table


def _longest_table(entries: Sequence[VocabularyEntry]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    for entry in entries:
        text = _token_text(entry.bytes, entry.special).plain
        shown = _short(text, MAX_LONGEST, terminal=True)
        table.add_row(str(entry.id), f"{len(entry.bytes) // 2} bytes", Text(shown))
    return table


def _sizes(report: VocabularyReport) -> RenderableType:
    tokenizer = report.tokenizer
    rows: list[tuple[str, RenderableType]] = []
    if tokenizer.kind == "tiktoken":
        sizes = f"{tokenizer.base_tokens:,} ranks and {tokenizer.special_tokens:,} special tokens"
        rows.append(("tokens", Text(sizes)))
    ends = [
        f"{name} {id}"
        for name, id in (("begin", tokenizer.bos_id), ("end", tokenizer.eos_id))
        if id is not None
    ]
    rows.append(("text ends", Text(", ".join(ends) or "no tokens for them")))
    if report.model_vocab_size is not None:
        model = f"vocab_size {report.model_vocab_size:,}"
        if report.embedding_rows is not None:
            model += f", embedding with {report.embedding_rows:,} rows"
        rows.append(("model", Text(model)))
    assert report.stats is not None
    settings = report.stats.settings
    rows += [(name.replace("_", " "), Text(_setting(value))) for name, value in settings.items()]
    return facts(rows)


def _setting(value: object) -> str:
    return (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else printable(str(value), limit=None)
    )


def _stats(stats: VocabularyStats, terminal: bool) -> list[RenderableType]:
    total = sum(stats.by_content.values())
    lengths = list(stats.by_nbytes.items())
    if len(lengths) > MAX_LENGTHS:
        longer = lengths[MAX_LENGTHS:]
        last = (f"{longer[0][0]} or more", sum(n for _, n in longer))
        lengths = [*lengths[:MAX_LENGTHS], last]
    scripts = [
        (name if name == "CJK" else name.capitalize(), n) for name, n in stats.by_script.items()
    ]
    if len(scripts) > MAX_SCRIPTS:
        others = ("others", sum(n for _, n in scripts[MAX_SCRIPTS:]))
        scripts = [*scripts[:MAX_SCRIPTS], others]
    return [
        section("Content", _counts_table(list(stats.by_content.items()), total, terminal)),
        section("Script of the first letter", _counts_table(scripts, total, terminal)),
        section(
            f"Length in bytes, {stats.mean_nbytes:.2f} on average",
            _counts_table(lengths, total, terminal),
        ),
        section("Longest", _longest_table(stats.longest)),
    ]


def _counts_table(rows: Sequence[tuple[str, int]], total: int, terminal: bool) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for name, number in rows:
        cells: list[RenderableType] = [
            Text(printable(name)),
            f"{number:,}",
            percent_text(number, total),
        ]
        grid.add_row(*cells, *([bar(number, total)] if terminal else []))
    return grid
