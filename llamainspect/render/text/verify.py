"""Views of the Verify panel: verify-checksums, scan, verify-logits."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted, listing
from llamainspect.render.numbers import difference_text, nbytes_text
from llamainspect.render.printable import printable
from llamainspect.render.text.common import (
    Column,
    Fitted,
    facts,
    findings_view,
    rope_text,
    run_text,
    safe,
    section,
    view,
)
from llamainspect.reports import (
    GOOD_TO_BAD,
    WRONG_STATUSES,
    ChecksumReport,
    FileChecksum,
    LogitsComparison,
    NamedGlobal,
    Oddity,
    PositionDifference,
    ScannedFile,
    ScannedPickle,
    ScanReport,
)

R = TypeVar("R")

STATUS_STYLES = {
    "ok": "green",
    "mismatch": "bold red",
    "missing": "bold red",
    "unreadable": "bold red",
    "unlisted": "yellow",
    "unchecked": "yellow",
}
MAX_MESSAGE = 1_000
MAX_FILES = 2_000  # a list can name 20,000; --json has all
MAX_POSITIONS = 8  # --json has all
MAX_STAGES = 12


@view.register
def _(report: ChecksumReport, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report), _sources(report), Text()]
    if report.files:
        parts.append(_table(report))
        if (more := len(report.files) - MAX_FILES) > 0:
            parts.append(Text(f"({more:,} more files; --json has all)", style="dim"))
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
    for row, message in list(zip(report.files, messages, strict=True))[:MAX_FILES]:
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
    for row in rows[:MAX_FILES]:
        text = Text(printable(row.message, limit=MAX_MESSAGE))
        if row.status == "mismatch" and row.expected and row.actual != row.expected:
            text.append(f"\nexpected {row.expected}  {printable(row.origin or '')}", style="dim")
            text.append(f"\nactual   {row.actual}", style="dim")
        parts += [safe(row.file, "bold"), Padding(text, (0, 0, 0, 2))]
    return section(f"Wrong: {len(rows)}", Group(*parts))


# --- scan -----------------------------------------------------------------------------------------

VERDICTS = {
    "known": ("only known tensor constructs", "bold green"),
    "unknown": ("unknown globals, or what cannot be followed", "bold yellow"),
    "dangerous": ("dangerous", "bold red"),
}
STATUSES = {"known": "green", "unknown": "yellow", "dangerous": "bold red"}
ADVICE = {
    "known": "Nothing was unpickled here. Unpickling would import these names, and no others.",
    "unknown": "Nothing was unpickled here. What is unknown may do anything: load such a file with "
    "torch.load(..., weights_only=True) alone, which refuses unknown names.",
    "dangerous": "Nothing was unpickled here. Do not load this with pickle, nor with "
    "torch.load(..., weights_only=False).",
}
FILE_KINDS = {
    "torch": "torch zip",
    "zip": "zip, not as torch writes it",
    "legacy": "torch before 1.6",
    "tar": "tar of torch before 0.1.10",
    "array": "NumPy array",
    "pickle": "pickle",
    "none": "no pickle",
}
LISTED = 40  # globals of one pickle, pickles and oddities of one file


@view.register
def _(report: ScanReport, terminal: bool) -> RenderableType:
    line = safe(report.path, "bold")
    if not report.files:
        others = counted(report.others, "file")
        line.append(f"  no pickle in {others}", style="bold green")
        return Group(line, Text("None has the name of a pickle, begins as one, or is compressed."))
    text, style = VERDICTS[report.verdict]
    line.append("  ").append(text, style=style)
    pickled = sum(scanned.kind != "none" for scanned in report.files)
    closed = len(report.files) - pickled
    counts = [
        counted(pickled, "pickled file"),
        f"{closed:,} of which nothing can be told" if closed else "",
        f"{counted(report.others, 'other')} beside them" if report.others else "",
    ]
    parts: list[RenderableType] = [line, Text(", ".join(filter(None, counts)), style="dim")]
    groups: dict[object, list[ScannedFile]] = {}
    for scanned in report.files:  # shards of one model usually carry the same pickle
        groups.setdefault((scanned.kind, scanned.pickles, scanned.oddities), []).append(scanned)
    for same in groups.values():
        parts += _scanned(same[0], [scanned.file for scanned in same])
    parts.append(Text(f"\n{ADVICE[report.verdict]}"))
    return Group(*parts)


def _scanned(scanned: ScannedFile, names: list[str]) -> list[RenderableType]:
    """One file, or several that are the same but for their tensors."""
    title = Text("\n").append(printable(listing(names)), style="bold")
    title.append(f"  {FILE_KINDS[scanned.kind]}")
    if scanned.kind != "none":
        title.append(f", {counted(len(scanned.pickles), 'pickle')}")
    parts: list[RenderableType] = [title]
    pickles = _worst(scanned.pickles, lambda pickle: max(map(_badness, pickle.globals), default=0))
    for pickle in pickles:
        about = f"{pickle.nbytes:,} bytes, {counted(pickle.operations, 'operation')}"
        named = f"{printable(pickle.where)}: {about}" if pickle.where else about
        parts.append(Text(named if pickle.globals else f"{named}, no globals", style="dim"))
        if pickle.globals:
            parts += _globals(pickle)
    parts += _more(len(scanned.pickles) - len(pickles), "pickles")
    oddities = _worst(scanned.oddities, _badness)
    parts += [_oddity(odd) for odd in oddities]
    return parts + _more(len(scanned.oddities) - len(oddities), "like these")


def _globals(pickle: ScannedPickle) -> list[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("at byte", "calls"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("global", overflow="fold")
    listed = _worst(pickle.globals, _badness)
    for entry in listed:
        status = Text(entry.status, style=STATUSES[entry.status])
        name = safe(entry.name).append(f": {entry.effect}" if entry.effect else "")
        table.add_row(f"{entry.position:,}", f"{entry.calls:,}", status, name)
    left = len(pickle.globals) + pickle.more_globals - len(listed)
    return [table, *_more(left, "globals")]


def _badness(entry: NamedGlobal | Oddity) -> int:
    return GOOD_TO_BAD.index(entry.status)


def _worst(rows: Sequence[R], badness: Callable[[R], int]) -> list[R]:
    """The worst of them, as many as a page lists, in the order given."""
    chosen = sorted(range(len(rows)), key=lambda index: -badness(rows[index]))[:LISTED]
    return [rows[index] for index in sorted(chosen)]


def _more(number: int, what: str) -> list[RenderableType]:
    return [Text(f"and {number:,} more {what} (--json has more)", style="dim")] if number else []


def _oddity(odd: Oddity) -> Text:
    line = Text(odd.status, style=STATUSES[odd.status])
    place = [printable(odd.where)] if odd.where else []
    place += [] if odd.position is None else [f"byte {odd.position:,}"]
    line.append(f"  {', '.join(place)}: " if place else "  ", style="not bold")
    return line.append(printable(odd.message, limit=MAX_MESSAGE), style="not bold")


# --- verify-logits --------------------------------------------------------------------------------

KINDS = {
    "reference": "against a recording",
    "against": "against another checkpoint",
    "implementation": "against another implementation",
}


@view.register
def _(report: LogitsComparison, terminal: bool) -> RenderableType:
    headline = safe(report.path, "bold")
    headline.append(f"  {KINDS[report.kind]}: {printable(report.other)}", style="not bold")
    rows = [
        ("run", f"{run_text(report.run)}; the other: {printable(report.other_run)}"),
        ("RoPE", rope_text(report.run)),
        ("tokens", f"{len(report.tokens):,}, logits of {counted(len(report.positions), 'position')}"
                   " compared"),
        ("tolerance", f"that of {report.tolerance.dtype} ({report.tolerance.reason}): "
                      f"{report.tolerance.max_abs:g} of the logits' range, which is "
                      f"{report.logit_range:.4g}; {report.tolerance.kl:g} nats of KL divergence"),
    ]  # fmt: skip
    parts: list[RenderableType] = [headline, facts((label, Text(text)) for label, text in rows)]
    parts.append(section("Logits", _measures(report)))
    if report.max_abs > 0:
        worst = sorted(report.positions, key=lambda row: -row.max_abs)[:MAX_POSITIONS]
        title = "Positions" if len(worst) == len(report.positions) else "Worst positions"
        parts.append(section(title, _positions(sorted(worst, key=lambda row: row.position))))
    if any(stage.max_abs > 0 for stage in report.stages):
        parts.append(section("Hidden states", _stages(report)))
    parts.append(_verdict(report))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _verdict(report: LogitsComparison) -> Text:
    if report.identical:
        return Text("\npass: every logit is the same to the last bit", style="bold green")
    if report.agrees:
        return Text("\npass: no further apart than rounding allows", style="bold green")
    text = Text("\nfail: further apart than rounding allows", style="bold red")
    if report.first_divergent_layer == "output":
        text.append("; hidden states agree, the output matrix differs")
    elif report.first_divergent_layer is not None:
        text.append(f"; hidden states depart at {report.first_divergent_layer}")
        if report.first_different_layer != report.first_divergent_layer:
            text.append(f" (the first bits differ at {report.first_different_layer})")
    return text


def _measures(report: LogitsComparison) -> Fitted:
    rows = [
        ("max abs difference", report.max_abs, report.max_abs_allowed),
        ("mean abs difference", report.mean_abs, None),
        ("KL divergence, worst", report.kl_max, report.tolerance.kl),
        ("KL divergence, mean", report.kl, None),
    ]
    labels, founds, limits = [], [], []
    for label, found, allowed in rows:
        wrong = allowed is not None and found > allowed
        labels.append(Text(label, style="dim"))
        founds.append(Text(difference_text(found), style="bold red" if wrong else ""))
        limits.append(Text("" if allowed is None else difference_text(allowed)))
    for label, share in (
        ("same most likely token", report.top1_agreement),
        ("overlap of the top 5", report.top5_overlap),
    ):
        labels.append(Text(label, style="dim"))
        founds.append(Text(f"{100 * share:.1f} %"))
        limits.append(Text())
    return Fitted([Column("", labels, 0), Column("found", founds, 1), Column("allowed", limits, 2)])


def _positions(rows: list[PositionDifference]) -> Fitted:
    def same(row: PositionDifference) -> str:
        return "" if row.top1 == row.reference_top1 else "red"

    return Fitted(
        [
            Column("position", [Text(f"{row.position:,}") for row in rows], 0),
            Column("token", [Text(str(row.id)) for row in rows], 2),
            Column("max abs", [Text(difference_text(row.max_abs)) for row in rows], 1),
            Column("mean abs", [Text(difference_text(row.mean_abs)) for row in rows], 6),
            Column("KL", [Text(difference_text(row.kl)) for row in rows], 3),
            Column("top 1", [Text(str(row.top1)) for row in rows], 4),
            Column("of the other", [Text(str(r.reference_top1), same(r)) for r in rows], 5),
        ]
    )


def _stages(report: LogitsComparison) -> Table:
    """All of them, or those around the first that departs, and some of the rest."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("behind", no_wrap=True)
    grid.add_column("max abs", justify="right", no_wrap=True)
    grid.add_column("relative", justify="right", no_wrap=True)
    chosen = _chosen_stages(report)
    for number, stage in enumerate(report.stages):
        if number in chosen:
            style = "bold red" if stage.stage == report.first_divergent_layer else ""
            grid.add_row(
                Text(stage.stage, style=style),
                Text(difference_text(stage.max_abs), style=style),
                Text(difference_text(stage.relative), style=style),
            )
        elif number - 1 in chosen:
            grid.add_row(Text("…", style="dim"), "", "")
    return grid


def _chosen_stages(report: LogitsComparison) -> set[int]:
    count = len(report.stages)
    if count <= MAX_STAGES:
        return set(range(count))
    marked = (report.first_different_layer, report.first_divergent_layer)
    chosen = {0, 1, count - 2, count - 1}
    for number, stage in enumerate(report.stages):
        if stage.stage in marked:
            chosen |= {number - 1, number, number + 1}
    return chosen
