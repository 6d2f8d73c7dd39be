"""Views of the Verify panel: verify-checksums."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llamainspect.render.printable import printable
from llamainspect.render.text.common import findings_view, nbytes_text, safe, section, view
from llamainspect.reports import WRONG_STATUSES, ChecksumReport, FileChecksum

STATUS_STYLES = {
    "ok": "green",
    "mismatch": "bold red",
    "missing": "bold red",
    "unreadable": "bold red",
    "unlisted": "yellow",
    "unchecked": "yellow",
}
MAX_MESSAGE = 1_000


@view.register
def _(report: ChecksumReport, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report), _sources(report), Text()]
    if report.files:
        parts.append(_table(report))
    if wrong := [row for row in report.files if row.status in WRONG_STATUSES]:
        parts.append(_wrong(wrong))
    parts.append(Text(f"\n{printable(report.conclusion, limit=MAX_MESSAGE)}."))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _headline(report: ChecksumReport) -> Text:
    line = safe(report.path, "bold")
    line.append("  ")
    files = {row.file for row in report.files}
    bad = {row.file for row in report.files if row.status in WRONG_STATUSES}
    apart = sum(row.status in ("unlisted", "unchecked") for row in report.files)
    if bad:
        line.append(f"{len(bad)} of {len(files)} wrong", style="bold red")
    elif not report.ok:
        line.append("not all could be verified", style="bold red")
    elif report.written:
        line.append(f"{report.written} written", style="bold green")
    elif any(entry.digests for entry in report.lists):
        line.append("all as listed", style="bold green")
        line.append(f", {apart} in no list" if apart else "", style="yellow")
    else:
        line.append("undamaged as far as the files themselves tell", style="bold yellow")
    return line


def _sources(report: ChecksumReport) -> Text:
    names = [f"{printable(entry.name)} ({entry.digests})" for entry in report.lists]
    return Text(
        f"digests from {', '.join(names)}" if names else "no list of checksums", style="dim"
    )


def _table(report: ChecksumReport) -> Table:
    messages = ["" if row.status in WRONG_STATUSES else row.message for row in report.files]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("status", no_wrap=True)
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    if any(messages):
        table.add_column("", overflow="fold")
    for row, message in zip(report.files, messages, strict=True):
        table.add_row(
            Text(row.status, style=STATUS_STYLES[row.status]),
            safe(row.file),
            "" if row.nbytes is None else nbytes_text(row.nbytes),
            row.algorithm or "",
            *([Text(printable(message, limit=MAX_MESSAGE))] if any(messages) else []),
        )
    return table


def _wrong(rows: list[FileChecksum]) -> RenderableType:
    """What is wrong with each file, and both digests where they differ."""
    parts: list[RenderableType] = []
    for row in rows:
        text = Text(printable(row.message, limit=MAX_MESSAGE))
        if row.status == "mismatch" and row.expected and row.actual != row.expected:
            text.append(f"\nexpected {row.expected}  {printable(row.origin or '')}", style="dim")
            text.append(f"\nactual   {row.actual}", style="dim")
        parts += [safe(row.file, "bold"), Padding(text, (0, 0, 0, 2))]
    return section(f"Wrong: {len(rows)}", Group(*parts))
