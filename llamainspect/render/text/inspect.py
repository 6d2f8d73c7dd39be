"""Views of the Inspect panel: summary, tensors, show, explain."""

from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.numbers import (
    count_text,
    exact_nbytes_text,
    nbytes_text,
    percent_text,
    shape_text,
    short_count,
)
from llamainspect.render.printable import printable
from llamainspect.render.text.common import bar, facts, findings_view, safe, section, view
from llamainspect.render.words import (
    CONFIG_LABELS,
    config_value,
    cut_text,
    exact_match,
    layer_rows,
    same_configuration,
    stored_rows,
    tokenizer_text,
)
from llamainspect.reports import (
    Explanation,
    FullReport,
    Parameters,
    Summary,
    TensorDetail,
    TensorEntry,
    TensorList,
    Topic,
)

MAX_FILES = 4
MAX_ROWS = 10_000  # of weights and their parts: rich takes a quarter of a millisecond for each


# --- summary --------------------------------------------------------------------------------------


@view.register
def _(report: Summary, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report), _overview(report)]
    if report.config is not None:
        parts.append(section("Configuration", _Config(report.config)))
    parts.append(section("Parameters", _Parameters(report.parameters, terminal)))
    parts.append(findings_view(report.findings))
    return Group(*parts)


def _headline(report: Summary) -> Text:
    model = report.model
    line = safe(report.path, "bold")
    line.append("  ")
    if model.match == "exact":
        line.append(f"{model.name}", style="bold green")
        line.append(f"  exact match: {exact_match(report)}", style="green")
    elif model.match == "architecture":
        line.append(f"like {model.name}", style="bold yellow")
        line.append("  same architecture", style="yellow")
    else:
        line.append("no official model has this architecture", style="yellow")
    return line


def _overview(report: Summary) -> Table:
    model = report.model
    rows: list[tuple[str, RenderableType]] = []
    if model.same_configuration:
        rows.append(("or", Text(same_configuration(model))))
    if model.differences:
        rows.append(("differs", safe("; ".join(model.differences))))
    rows.append(("layout", Text(_files(report))))
    dtypes = ", ".join(f"{name} {nbytes_text(n)}" for name, n in report.nbytes_by_dtype.items())
    rows.append(("weights", Text(dtypes)))
    rows += [(form, Text(text)) for form, text in stored_rows(report.stored_as)]
    if report.tied_output:
        rows.append(("output", Text("tied: it is the embedding")))
    if report.tokenizer:
        rows.append(("tokenizer", Text(tokenizer_text(report.tokenizer))))
    if model.context_length:
        rows.append(("context", Text(f"{model.context_length:,} tokens, as published")))
    return facts(rows)


def _files(report: Summary) -> str:
    total = sum(entry.nbytes for entry in report.files)
    names = [printable(entry.file) for entry in report.files]
    shown = names if len(names) <= MAX_FILES else [names[0], "…", names[-1]]
    shards = counted(report.shards, "shard")
    return f"{report.format}, {shards}: {', '.join(shown)} ({nbytes_text(total)})"


class _Config:
    """Labels and values in as many columns as fit."""

    def __init__(self, config: dict[str, Any]) -> None:
        cells = [
            (label, printable(config_value(key, config)))
            for key, label in CONFIG_LABELS.items()
            if key in config
        ]
        self.short = [cell for cell in cells if len(cell[1]) <= 12]
        self.long = [cell for cell in cells if len(cell[1]) > 12]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = max(1, min(3, options.max_width // 30))
        rows = -(-len(self.short) // columns)
        grid = Table.grid(padding=(0, 2))
        for _ in range(columns):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(no_wrap=True, min_width=10)
        for row in range(rows):
            across = [self.short[i] for i in range(row, len(self.short), rows)]
            grid.add_row(*(Text(text) for cell in across for text in cell))
        yield grid
        if self.long:
            yield facts([(label, Text(text)) for label, text in self.long])


class _Parameters:
    """Counts by component; where they would not fit beside them, without bars."""

    def __init__(self, parameters: Parameters, terminal: bool) -> None:
        self.parameters, self.terminal = parameters, terminal

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _parameters(self.parameters, self.terminal)
        if self.terminal and table.__rich_measure__(console, options).minimum > options.max_width:
            table = _parameters(self.parameters, False)
        yield table


def _parameters(parameters: Parameters, terminal: bool) -> Table:
    total = parameters.total
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="crop")
    heads = {
        "total": total,
        "sum over names": parameters.stored if parameters.stored != total else None,
        "active per token": parameters.active,
    }
    for label, number in heads.items():
        if number is not None:
            style = "bold" if label == "total" else ""
            table.add_row(label, Text(f"{number:,}", style=style), short_count(number), "")
    for name, number in parameters.by_component.items():
        label = name.replace("_", " ")
        share = Text(percent_text(number, total))
        table.add_row(label, Text(f"{number:,}"), share, bar(number, total) if terminal else "")
    for label, number in layer_rows(parameters.by_layer):
        table.add_row(label, Text(f"{number:,}"), Text(percent_text(number, total)), "")
    return table


# --- tensors --------------------------------------------------------------------------------------


@view.register
def _(report: TensorList, terminal: bool) -> RenderableType:
    per_shard = any(entry.parts for entry in report.tensors)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("name", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("file and offset" if per_shard else "cut", overflow="fold")
    rows = left = 0
    for entry in report.tensors:
        rows += 1 + len(entry.parts)
        if rows > MAX_ROWS:
            left += 1
            continue
        table.add_row(
            safe(entry.name),
            shape_text(entry.shape),
            entry.dtype,
            f"{entry.nbytes:,}",
            "" if per_shard else cut_text(entry),
            style="bold" if per_shard else "",
        )
        for part in entry.parts:
            place = f"{printable(part.file)} @ {part.offset:,}"
            table.add_row("", shape_text(part.shape), part.dtype, f"{part.nbytes:,}", Text(place))
    total = (
        f"\n{counted(report.count, 'weight')}, "
        f"{count_text(report.elements)} elements, "
        f"{exact_nbytes_text(report.nbytes)}"
    )
    parts: list[RenderableType] = [table] if report.tensors else []
    if left:
        parts.append(Text(f"({left:,} more; --json has all, and a GLOB chooses)", style="dim"))
    parts.append(Text(total.lstrip() if not report.tensors else total, style="bold"))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


# --- show -----------------------------------------------------------------------------------------


@view.register
def _(report: TensorDetail, terminal: bool) -> RenderableType:
    entry = report.tensor
    rows: list[tuple[str, RenderableType]] = [
        ("shape", Text(f"{shape_text(entry.shape)}, {entry.elements:,} elements")),
        ("dtype", Text(entry.dtype)),
        ("size", Text(exact_nbytes_text(entry.nbytes))),
        ("component", Text(entry.component.replace("_", " ") + _layer(entry))),
        ("stored", _places(entry)),
    ]
    parts: list[RenderableType] = [safe(entry.name, "bold"), facts(rows)]
    where = f"from {list(report.start)}" if any(report.start) else "first"
    title = f"Values as {entry.dtype}, {where} ({report.nbytes_read:,} bytes read)"
    parts.append(section(title, _Grid([list(row) for row in report.stored])))
    if report.float32 is not None and entry.dtype != "F32":
        # Nine significant digits tell every float32 from its neighbours.
        numbers = [["-" if v is None else f"{v:.9g}" for v in row] for row in report.float32]
        parts.append(section("The same as float32", _Grid(numbers)))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _layer(entry: TensorEntry) -> str:
    return "" if entry.layer is None else f", layer {entry.layer}"


def _places(entry: TensorEntry) -> RenderableType:
    cut = cut_text(entry)
    lines = [f"{cut}:"] if cut else []
    for part in entry.parts:
        shape = f" {shape_text(part.shape)}" if cut else ""
        strides = "" if part.contiguous else f" strides {list(part.strides)}"
        lines.append(f"{printable(part.file)} @ {part.offset:,}{shape}{strides}")
    return Text("\n".join(lines))


# --- report ---------------------------------------------------------------------------------------


@view.register
def _(report: FullReport, terminal: bool) -> RenderableType:
    """What is on the page, and where that is; the page has all the rest."""
    parts = {"summary": report.summary, "memory": report.memory, "stats": report.stats}
    shown = [name for name, part in parts.items() if part is not None]
    rows: list[tuple[str, RenderableType]] = [
        ("of", safe(report.path, "bold")),
        ("holds", Text(f"{', '.join(shown)}, {counted(report.tensors.count, 'weight')}")),
    ]
    if report.file is not None:
        size = nbytes_text(report.file_nbytes or 0)
        rows.insert(0, ("page", safe(report.file, "bold green").append(f"  {size}", "not bold")))
    return Group(facts(rows), findings_view(report.all_findings))


# --- explain --------------------------------------------------------------------------------------

TITLES = {
    "file": "Files",
    "field": "Configuration file",
    "derived": "Worked out",
    "bits": "One weight in bits",
}


@view.register
def _(report: Explanation, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [safe(report.model, "bold")]
    for kind, title in TITLES.items():
        topics = [topic for topic in report.topics if topic.kind == kind]
        if topics:
            listed = kind in ("file", "field") and report.field is None
            body = _listed(topics) if listed else Group(*map(_topic, topics))
            parts.append(section(title, body))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _listed(topics: list[Topic]) -> RenderableType:
    """Name, value and sentence, one below the other."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", overflow="fold")
    grid.add_column(justify="right", overflow="fold")
    grid.add_column(overflow="fold")
    for topic in topics:
        grid.add_row(safe(topic.name), _topic_value(topic), safe(topic.text))
    return grid


def _topic(topic: Topic) -> RenderableType:
    line = safe(topic.name, "bold cyan")
    line.append(f"  {_topic_value(topic)}", style="not cyan")
    rows = [safe(topic.text, "dim"), *map(safe, topic.steps)]
    if topic.check:
        mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}[topic.agrees]
        rows.append(safe(f"{mark} {topic.check}", style))
    if topic.mistake:
        rows.append(safe(f"! {topic.mistake}", "yellow"))
    return Group(line, Padding(Group(*rows), (0, 0, 0, 2)))


def _topic_value(topic: Topic) -> str:
    value = topic.value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if topic.kind == "file":
        return nbytes_text(value)
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1_000:
        return f"{value:,.0f}"
    return printable(f"{value:,}" if isinstance(value, int) else str(value), limit=60)


class _Grid:
    """Numbers in columns: as many as fit, since part of a number is another number."""

    def __init__(self, rows: list[list[str]]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        fitting, used = 0, 0
        while fitting < len(widths) and used + widths[fitting] <= options.max_width:
            used += widths[fitting] + 2
            fitting += 1
        fitting = max(fitting, 1)
        grid = Table.grid(padding=(0, 2))
        for _ in range(fitting):
            grid.add_column(justify="right", overflow="fold")
        for row in self.rows:
            grid.add_row(*(Text(cell) for cell in row[:fitting]))
        yield grid
        if fitting < len(widths):
            yield Text(f"({len(widths) - fitting} more columns in a wider terminal)", style="dim")
