"""Pieces that all views share: numbers for people, bars, tables, findings."""

from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llamainspect.render.printable import printable
from llamainspect.render.words import tally
from llamainspect.reports import Finding, ModelRun, Report

BAR_WIDTH = 24
GAP = 2  # columns between two cells
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@singledispatch
def view(report: Report, terminal: bool) -> RenderableType:
    """What to print for a report; on a terminal with bars."""
    raise NotImplementedError(f"{type(report).__name__} has no text view")


# --- words ----------------------------------------------------------------------------------------


def run_text(run: ModelRun) -> str:
    """How a model is run, without what differs from machine to machine."""
    parts = [run.device if run.device_name is None else f"{run.device} ({run.device_name})"]
    parts += [run.dtype]
    parts += [f"{len(run.processes)} processes"] if run.processes else []
    parts += [f"weights rounded to {run.simulate}"] if run.simulate else []
    return ", ".join(parts)


def rope_text(run: ModelRun) -> str:
    """Which scaling of RoPE is used, and why."""
    factor = "not scaled" if run.rope_factor is None else f"factor {run.rope_factor:g}"
    return f"{factor} ({run.rope_reason})"


# --- pieces ---------------------------------------------------------------------------------------


def safe(text: str, style: str = "") -> Text:
    """Text from a file: no markup, nothing a terminal would obey."""
    return Text(printable(text), style=style)


def bar(part: int, whole: int) -> Text:
    """A share as a bar."""
    eighths = round(8 * BAR_WIDTH * part / whole) if whole else 0
    full, rest = divmod(eighths, 8)
    return Text("█" * full + " ▏▎▍▌▋▊▉"[rest] * (rest > 0), style="blue")


class Column(NamedTuple):
    """One column of a table that may be too wide."""

    title: str
    cells: list[Text]
    rank: int  # how soon a narrow terminal goes without it: the highest first; 0: never


class Fitted:
    """A table with as many columns as fit: part of a number is another number."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        chosen: set[int] = set()
        used = 0
        for index in sorted(range(len(self.columns)), key=lambda i: self.columns[i].rank):
            column = self.columns[index]
            width = max(len(column.title), *map(len, column.cells))
            if used + width > options.max_width and chosen:
                break
            chosen.add(index)
            used += width + GAP
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        for index in sorted(chosen):
            if index == 0:
                table.add_column(self.columns[index].title, overflow="fold")
            else:
                table.add_column(self.columns[index].title, justify="right", no_wrap=True)
        for cells in zip(*(self.columns[index].cells for index in sorted(chosen)), strict=True):
            table.add_row(*cells)
        yield table
        if left := [c.title for index, c in enumerate(self.columns) if index not in chosen]:
            yield Text(f"(in a wider terminal also {', '.join(left)})", style="dim")


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Labels and values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def section(title: str, body: RenderableType) -> Group:
    """A heading and what stands under it."""
    return Group(Text(f"\n{title}", style="bold"), body)


def findings_view(findings: tuple[Finding, ...]) -> RenderableType:
    """Severity, place and message of each, worst first as the report has them."""
    if not findings:
        return Text("\nNo findings.", style="green")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        line = Text()
        line.append(printable(finding.where), style="bold")
        line.append(f": {printable(finding.message, limit=1_000)}")
        grid.add_row(Text(finding.severity, style=SEVERITY_STYLES[finding.severity]), line)
    return section(f"Findings: {tally(findings)}", grid)
