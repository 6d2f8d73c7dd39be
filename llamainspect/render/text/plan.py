"""Views of the Plan panel: models."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.text.common import (
    count_text,
    exact_nbytes_text,
    facts,
    nbytes_text,
    section,
    view,
)
from llamainspect.reports import ModelCatalog, ModelRow

GAP = 2  # columns between two cells
BOUNDS = {"about": "~", "more than": ">", "up to": "≤"}


@view.register
def _(report: ModelCatalog, terminal: bool) -> RenderableType:
    if report.card:
        return _card(report.models[0])
    return Group(_Models(report.models), Text(f"\n{counted(report.count, 'model')}", style="bold"))


def _short(number: int | None) -> str:
    """8.03 B, 15 T, 131,072."""
    if number is None:
        return ""
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.2f}".rstrip("0").rstrip(".") + f" {letter}"
    return f"{number:,}"


def _tokens(row: ModelRow) -> str:
    return BOUNDS.get(row.training_tokens_bound or "", "") + _short(row.training_tokens)


# Title, cell, and how soon a narrow terminal goes without it: the highest number first.
_COLUMNS = (
    ("model", lambda row: row.id, 0),
    ("parameters", lambda row: f"{row.parameters / 10**9:.2f} B", 1),
    ("active", lambda row: _short(row.active_parameters), 9),
    ("layers", lambda row: str(row.n_layers), 5),
    ("dim", lambda row: f"{row.dim:,}", 7),
    ("heads", lambda row: str(row.n_heads), 8),
    ("KV", lambda row: str(row.n_kv_heads), 8),
    ("context", lambda row: "" if row.context_length is None else f"{row.context_length:,}", 2),
    ("vocabulary", lambda row: f"{row.vocab_size:,}", 10),
    ("shards", lambda row: "" if row.shards is None else str(row.shards), 6),
    ("size", lambda row: "" if row.nbytes is None else nbytes_text(row.nbytes), 7),
    ("released", lambda row: row.released or "", 3),
    ("tokens", _tokens, 4),
    ("cutoff", lambda row: row.knowledge_cutoff or "", 11),
    ("languages", lambda row: str(len(row.languages) or ""), 12),
)


class _Models:
    """One release a line, with as many columns as fit."""

    def __init__(self, rows: Sequence[ModelRow]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[title, *map(cell, self.rows)] for title, cell, _ in _COLUMNS]
        widths = [max(map(len, column)) for column in cells]
        chosen: set[int] = set()
        used = 0
        for index in sorted(range(len(_COLUMNS)), key=lambda index: _COLUMNS[index][2]):
            if used + widths[index] > options.max_width and chosen:
                break
            chosen.add(index)
            used += widths[index] + GAP
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        for index in sorted(chosen):
            title = _COLUMNS[index][0]
            if index == 0:
                table.add_column(title, overflow="fold")
            else:
                table.add_column(title, justify="right", no_wrap=True)
        for number in range(len(self.rows)):
            table.add_row(*(Text(cells[index][number + 1]) for index in sorted(chosen)))
        yield table
        if left := [_COLUMNS[index][0] for index in range(len(_COLUMNS)) if index not in chosen]:
            yield Text(f"(in a wider terminal also {', '.join(left)})", style="dim")


def _card(row: ModelRow) -> RenderableType:
    """Everything that is known of one release, and who says so."""
    context = None if row.context_length is None else f"{row.context_length:,} tokens"
    active = None if row.active_parameters is None else count_text(row.active_parameters)
    tokens = None if row.training_tokens is None else f"{row.training_tokens:,}"
    if tokens and row.training_tokens_bound:
        tokens = f"{row.training_tokens_bound} {tokens}"
    values = {
        "parameters": ("parameters", count_text(row.parameters)),
        "active_parameters": ("active per token", active),
        "dim": ("dim", f"{row.dim:,}"),
        "n_layers": ("layers", str(row.n_layers)),
        "n_heads": ("heads", f"{row.n_heads}, of {row.head_dim}"),
        "n_kv_heads": ("KV heads", str(row.n_kv_heads)),
        "hidden_dim": ("FFN hidden size", f"{row.hidden_dim:,}"),
        "vocab_size": ("vocabulary", f"{row.vocab_size:,}"),
        "context_length": ("context", context),
        "shards": ("native shards", None if row.shards is None else str(row.shards)),
        "nbytes": ("native size", None if row.nbytes is None else exact_nbytes_text(row.nbytes)),
        "released": ("released", row.released),
        "training_tokens": ("training tokens", tokens),
        "knowledge_cutoff": ("knowledge cutoff", row.knowledge_cutoff),
        "languages": ("languages", ", ".join(row.languages) or None),
    }
    head = Text(row.id, style="bold")
    head.append(f"  {row.repository}" if row.repository else "", style="not bold")
    stored = {"plain": "16-bit floats"}.get(row.form, row.form)
    head.append(f"\nstored as {stored}{', output tied to the embedding' * row.tied_output}",
                style="not bold dim")  # fmt: skip
    cited = list(dict.fromkeys(row.sources[field] for field in values if field in row.sources))
    rows: list[tuple[str, RenderableType]] = []
    for field, (label, value) in values.items():
        if value is not None:
            text = Text(value)
            text.append(f"  [{cited.index(row.sources[field]) + 1}]", style="dim")
            rows.append((label, text))
    sources = [f"[{number}] {source}" for number, source in enumerate(cited, 1)]
    return Group(head, Text(), facts(rows), section("Sources", Text("\n".join(sources))))
