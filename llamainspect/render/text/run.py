"""Views of the Run panel: tokenize, detokenize, vocab, logits, generate, evaluate."""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import cycle

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.numbers import nbytes_text, percent_text
from llamainspect.render.printable import escape, printable, printable_lines
from llamainspect.render.text.common import (
    Column,
    Fitted,
    bar,
    facts,
    findings_view,
    rope_text,
    run_text,
    safe,
    section,
    view,
)
from llamainspect.reports import (
    Candidate,
    ChoiceEvaluation,
    Detokenization,
    Evaluation,
    Generation,
    LogitsReport,
    ModelRun,
    Token,
    Tokenization,
    TokenizerInfo,
    VocabularyEntry,
    VocabularyReport,
    VocabularyStats,
)

MAX_ROWS = 500  # --ids and --json have no limit
MAX_PROMPT = 12  # tokens of it that are shown
MAX_BESIDE = 3  # candidates in a line
MAX_SCRIPTS = 8
MAX_LENGTHS = 10
MAX_LONGEST = 58  # characters
NARROW = 60  # columns, below which tables keep to what matters
# Shares of the width that a cell may fill: in a pipe, which is very wide, nothing is shortened.
TEXT_SHARE, HEX_SHARE, BASE64_SHARE = 4, 3, 6
MAX_PARTS = 16  # tokens that one character may be cut into
# Of the eight colours that every terminal has, so that neighbours always differ.
BANDS = ("black on cyan", "black on green", "black on yellow")
SPECIAL = "bold magenta"
SPECIAL_BAND = "bold white on magenta"
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}
# Characters beyond ASCII that look like a space or like nothing at all: spaces by category, letters
# and marks that are drawn as nothing by number.
_UNSEEN_CATEGORIES = ("Zs", "Zl", "Zp", "Cf", "Cc", "Cn", "Co")
_FILLERS = (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
_UNSEEN = frozenset((*_FILLERS, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))


# --- tokenize -------------------------------------------------------------------------------------


@view.register
def _(report: Tokenization, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report.path, report.tokenizer)]
    if report.prompt is None:
        parts.append(_Bands(report))
    else:
        parts.append(section(f"Prompt, in the format of {report.chat_format}", _Bands(report)))
    if report.tokens:
        parts.append(section("Tokens", _TokenTable(report.tokens[:MAX_ROWS])))
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
    kind = "Hugging Face" if tokenizer.kind == "tokenizer.json" else tokenizer.kind
    line.append(f"  {kind}, {tokenizer.vocab_size:,} tokens", style="not bold")
    if tokenizer.generation:
        reason = tokenizer.reason or "no params.json says which"
        line.append(f"\nspecial tokens of {tokenizer.generation} ({reason})", style="not bold dim")
    return line


def _counts(report: Tokenization) -> str:
    tokens = counted(report.count, "token")
    if report.text_tokens != report.count:
        tokens += f", {report.count - report.text_tokens:,} of them special"
    if report.characters_per_token is None or report.bytes_per_token is None:
        return tokens
    characters = counted(report.characters, "character")
    nbytes = counted(report.nbytes, "byte")
    return (
        f"{tokens}: {characters} ({report.characters_per_token:.2f} per token), "
        f"{nbytes} ({report.bytes_per_token:.2f} per token)"
    )


class _Bands:
    """The text with a band of colour under each token; without colour only a dialogue's prompt."""

    def __init__(self, report: Tokenization) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None:
            if self.report.prompt is not None:
                yield Text(_readable(self.report.prompt))
            return
        text = Text("" if self.report.prompt is not None else "\n")
        styles = cycle(BANDS)
        for token in self.report.tokens[:MAX_ROWS]:
            shown = bytes.fromhex(token.bytes).decode("utf-8", "backslashreplace")
            shown = _readable(shown).replace("\n", "↵\n")
            text.append(shown, style=SPECIAL_BAND if token.special else next(styles))
        yield text


def _readable(text: str) -> str:
    """Running text: line ends as they are, all else that a terminal would obey as escapes."""
    lines = text.replace("\r", "\\r").replace("\t", "\\t").split("\n")
    return "\n".join(printable(line, limit=None) for line in lines)


class _TokenTable:
    """Place, id, text and bytes of each token."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("", justify="right", style="dim", no_wrap=True)
        table.add_column("id", justify="right", no_wrap=True)
        table.add_column("text", overflow="fold")
        if width >= NARROW:
            table.add_column("bytes", no_wrap=True, style="dim")
        rows = zip(self.tokens, _cut_characters(self.tokens), strict=True)
        for position, (token, whole) in enumerate(rows):
            text = _token_text(token.bytes, token.special)
            if whole:
                text.append(f"  part of {printable(whole)}", style="dim")
            cells: list[RenderableType] = [f"{position:,}", str(token.id), text]
            if width >= NARROW:
                cells.append("" if token.special else _hex(token.bytes, width // HEX_SHARE))
            table.add_row(*cells)
        yield table


def _token_text(data: str, special: bool) -> Text:
    """In quotes, so that spaces are seen; a special token by its name."""
    token = bytes.fromhex(data)
    if special:
        return Text(printable(token.decode("utf-8", "backslashreplace")), style=SPECIAL)
    return Text(_quoted(token))


def _quoted(data: bytes) -> str:
    parts: list[str] = []
    for character in data.decode("utf-8", "surrogateescape"):
        if character > "\x7f" and _is_unseen(character, first=not parts):
            parts.append(escape(character))
        else:
            parts.append(_ESCAPES.get(character) or printable(character))
    return f'"{"".join(parts)}"'


def _is_unseen(character: str, first: bool) -> bool:
    """Whether it looks like a space or like nothing; a mark needs something to stand on."""
    category = unicodedata.category(character)
    unseen = category in _UNSEEN_CATEGORIES or ord(character) in _UNSEEN
    return unseen or (first and category.startswith("M"))


def _short(text: str, limit: int) -> str:
    return f"{text[: limit - 1]}…" if len(text) > limit else text


def _hex(data: str, width: int | None = None) -> str:
    """Bytes as hex, as many as fit into so many columns."""
    text = bytes.fromhex(data).hex(" ")
    if width is None or len(text) <= width:
        return text
    return f"{text[: max(width // 3 - 1, 1) * 3]}…"


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
    parts: list[RenderableType] = [Text(_readable(report.text))]
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
            _entry(report.tokens[0]) if one else _EntryTable(report.tokens[:MAX_ROWS]),
        ]
    if report.count > MAX_ROWS:
        more = f"({report.count - MAX_ROWS:,} more tokens; --json has them all)"
        parts.append(Text(more, style="dim"))
    if not report.stats and report.count != 1:
        parts.append(Text(f"\n{counted(report.count, 'token')}", style="bold"))
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


class _EntryTable:
    """Many tokens; the rank, where there is one, is the id."""

    def __init__(self, entries: Sequence[VocabularyEntry]) -> None:
        self.entries = entries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        wide = width >= NARROW
        ranked = wide and any(entry.base64 is not None for entry in self.entries)
        scored = wide and any(entry.score is not None for entry in self.entries)
        columns = ["bytes", "type"] * wide + ["base64"] * ranked + ["score"] * scored
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("id", justify="right", no_wrap=True)
        table.add_column("text", overflow="fold")
        for name in columns:
            table.add_column(
                name,
                justify="right" if name == "score" else "left",
                style="dim" if name == "bytes" else "",
                no_wrap=True,
            )
        for entry in self.entries:
            text = _token_text(entry.bytes, entry.special)
            if not entry.special:
                text = Text(_short(text.plain, max(width // TEXT_SHARE, 8)))
            cells = {
                "bytes": "" if entry.special else _hex(entry.bytes, width // HEX_SHARE),
                "type": entry.type,
                "base64": _short(entry.base64 or "", width // BASE64_SHARE),
                "score": "" if entry.score is None else f"{entry.score:g}",
            }
            table.add_row(str(entry.id), text, *(cells[name] for name in columns))
        yield table


def _longest_table(entries: Sequence[VocabularyEntry]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    for entry in entries:
        text = _token_text(entry.bytes, entry.special).plain
        shown = _short(text, MAX_LONGEST)
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value), limit=None)


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


# --- logits, generate, evaluate -------------------------------------------------------------------


@view.register
def _(report: LogitsReport, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_run_headline(report.path, report.run)]
    prompt = counted(len(report.tokens), "token")
    if report.prompt is not None:
        shown = " ".join(_piece(token.bytes) for token in report.prompt[-MAX_PROMPT:])
        prompt += f", {'… ' * (len(report.prompt) > MAX_PROMPT)}{shown}"
    parts.append(
        facts(
            [
                ("prompt", Text(prompt)),
                ("RoPE", Text(rope_text(report.run))),
                ("entropy", Text(f"{report.entropy:.2f} bits")),
            ]
        )
    )
    if report.positions:
        parts.append(section("Most likely behind each token", _positions_table(report)))
    parts.append(section("Most likely next", _candidates_table(report.top, terminal)))
    if report.saved is not None:
        saved = f"\nlogits of {counted(len(report.tokens), 'position')} recorded in "
        saved += f"{printable(report.saved)} ({nbytes_text(report.saved_nbytes or 0)})"
        parts.append(Text(saved, style="green"))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _run_headline(path: str, run: ModelRun) -> Text:
    line = safe(path, "bold")
    like = "no official architecture" if run.model is None else f"architecture of {run.model}"
    line.append(f"  {like}; {run_text(run)}", style="not bold")
    return line


def _candidates_table(candidates: Sequence[Candidate], terminal: bool) -> Fitted:
    columns = [
        Column("id", [Text(str(row.id)) for row in candidates], 0),
        Column("token", [Text(_piece(row.bytes)) for row in candidates], 1),
        Column("probability", [Text(_probability(row.probability)) for row in candidates], 2),
        Column("logit", [Text(f"{row.logit:.2f}") for row in candidates], 3),
    ]
    if all(row.bytes is None for row in candidates):
        del columns[1]
    if terminal:
        bars = [bar(round(row.probability * 10_000), 10_000) for row in candidates]
        for one in bars:
            one.pad_right(max(map(len, bars)) - len(one))
        columns.append(Column("", bars, 4))
    return Fitted(columns)


def _positions_table(report: LogitsReport) -> Table:
    """One line per token of the prompt, with the likeliest of those that may follow."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("position", justify="right", no_wrap=True)
    grid.add_column("token", overflow="fold")
    grid.add_column("next", overflow="fold")
    for row in report.positions[:MAX_ROWS]:
        best = ", ".join(
            f"{_label(candidate.id, candidate.bytes)} {_probability(candidate.probability)}"
            for candidate in row.top[:MAX_BESIDE]
        )
        data = report.prompt[row.position].bytes if report.prompt else None
        grid.add_row(f"{row.position:,}", Text(_label(row.id, data)), Text(best))
    return grid


def _label(id: int, data: str | None) -> str:
    """A token, or its number where nothing says what it stands for."""
    return str(id) if data is None else _piece(data)


def _piece(data: str | None) -> str:
    """A token as it can be read, from its bytes in hex; those that are no text as hex."""
    return "-" if data is None else _quoted(bytes.fromhex(data))


def _probability(share: float) -> str:
    return f"{100 * share:.2f} %" if share >= 5e-5 else f"{100 * share:.2g} %"


@view.register
def _(report: Generation, terminal: bool) -> RenderableType:
    rows = [
        ("RoPE", Text(rope_text(report.run))),
        ("sampling", Text(report.sampling)),
        ("stopped by", Text(report.stopped.replace("_", " "))),
    ]
    text = Text(f"\n{printable_lines(report.text)}")
    parts: list[RenderableType] = [_run_headline(report.path, report.run), facts(rows), text]
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def time_text(run: ModelRun, seconds: float) -> str:
    """Time and memory of a run."""
    where = f"{run.device}, {counted(run.threads, 'thread')}" if run.device == "cpu" else run.device
    return f"{where}: {seconds:.2f} s, peak memory {peak_text(run)}"


def peak_text(run: ModelRun) -> str:
    """The most memory; of several processes that of the one which held most."""
    most = max((run.peak_nbytes, *(process.peak_nbytes for process in run.processes)))
    return f"{nbytes_text(most)}{' in a process' * bool(run.processes)}"


def speed_text(report: Generation) -> str:
    """How fast a text was made, in how much memory, and why it ended."""
    made = counted(len(report.tokens), "token")
    rate = report.decode_tokens_per_second
    speed = "" if rate is None else f" ({_rate(rate)} tokens/s)"
    seed = "" if report.seed is None else f", seed {report.seed}"
    prompt = counted(len(report.prompt_tokens), "token")
    streamed = ", weights streamed" if report.run.streamed else ""
    return (
        f"{made} in {report.decode_seconds:.2f} s{speed}, after a prompt of {prompt} in "
        f"{report.prefill_seconds:.2f} s ({_rate(report.prefill_tokens_per_second)} tokens/s); "
        f"ended by {report.stopped.replace('_', ' ')}\n"
        f"{run_text(report.run)}{streamed}; RoPE {rope_text(report.run)}; {report.sampling}{seed}; "
        f"peak memory {peak_text(report.run)}, KV cache "
        f"{nbytes_text(report.kv_cache_nbytes)}"
        + "".join(f"\n{finding.severity}: {finding.message}" for finding in report.findings)
    )


def _perplexity(number: float) -> str:
    return f"{number:,.4g}" if number < 1e4 else f"{number:,.0f}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


@view.register
def _(report: Evaluation, terminal: bool) -> RenderableType:
    rows = [
        ("text", f"{report.file}, {counted(report.nbytes, 'byte')}, "
                 f"{counted(report.predicted, 'token')} predicted"),
        ("window", f"{report.window:,} tokens, moved by {report.stride:,}, "
                   f"{counted(report.windows, 'window')}"),
        ("RoPE", rope_text(report.run)),
        ("cross-entropy", f"{report.cross_entropy:.4f} nats per token"),
        ("perplexity", _perplexity(report.perplexity)),
        ("bits per byte", f"{report.bits_per_byte:.4f}"),
    ]  # fmt: skip
    parts: list[RenderableType] = [_run_headline(report.path, report.run)]
    parts.append(facts((label, Text(printable(text))) for label, text in rows))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


_WAYS = {"character": "per character", "token": "per token", "total": "in total"}


@view.register
def _(report: ChoiceEvaluation, terminal: bool) -> RenderableType:
    name = "HellaSwag, " if report.kind == "hellaswag" else ""
    rows = [
        ("questions", f"{name}{report.file}: {report.questions:,}, with "
                      f"{counted(report.endings, 'ending')}, {counted(report.tokens, 'token')}"),
        ("RoPE", rope_text(report.run)),
        ("chance", f"{percent_text(report.chance)} would be right by guessing"),
    ]  # fmt: skip
    ways = report.scores
    ranges = [f"{percent_text(row.low)} to {percent_text(row.high)}" for row in ways]
    table = Fitted([
        Column("log-likelihood", [Text(_WAYS[row.by]) for row in ways], 0),
        Column("right", [Text(f"{row.correct:,}") for row in ways], 1),
        Column("accuracy", [Text(percent_text(row.accuracy)) for row in ways], 0),
        Column("95 % interval", [Text(text) for text in ranges], 0),
    ])  # fmt: skip
    parts: list[RenderableType] = [_run_headline(report.path, report.run)]
    parts.append(facts((label, Text(printable(text))) for label, text in rows))
    parts.append(section("How often the right ending is the likeliest", table))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)
