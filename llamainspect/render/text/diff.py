"""View of diff, which has a page of its own."""

from rich.console import Group, RenderableType
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.numbers import count_text, difference_text, percent_text, shape_text
from llamainspect.render.printable import printable
from llamainspect.render.text.common import (
    Column,
    Fitted,
    facts,
    findings_view,
    safe,
    section,
    view,
)
from llamainspect.reports import (
    CheckpointDiff,
    ConfigDifference,
    DiffStatus,
    GroupDifference,
    WeightDifference,
)

# In the order of a sentence: how many weights, in which words.
STATUSES: dict[DiffStatus, str] = {
    "identical": "identical",
    "equal": "with the same values, stored in another way",
    "close": "within the tolerance",
    "changed": "changed",
    "shape": "of another shape",
    "only_a": "in A alone",
    "only_b": "in B alone",
    "incomplete": "not compared, for the reasons below",
    "tabulated": "not compared, since the layouts differ in them on purpose",
}
MAX_LAYERS = 12  # --json has all
MAX_MESSAGE = 1_000


@view.register
def _(report: CheckpointDiff, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report), _overview(report)]
    if report.config:
        parts.append(section("Configuration", _config(report.config)))
    different = [row for row in report.weights if _differs(row)]
    moved = [group for group in report.by_component if group.changed]
    if sum(group.weights_changed for group in moved) > 1:
        parts.append(section("Components that changed", _groups(moved)))
        layers = [group for group in report.by_layer if group.changed]
        if layers:
            title = "Layers that changed"
            if len(layers) > MAX_LAYERS:
                layers = sorted(layers, key=_moved)[:MAX_LAYERS]
                title += f", the {MAX_LAYERS} that did most"
            parts.append(section(title, _groups(layers)))
    if different:
        parts.append(section("Weights, what moved most first", _weights(different, report)))
    if report.likeness:
        line = Text("\nlooks like  ", style="bold")
        line.append(printable(report.likeness.message, limit=MAX_MESSAGE), style="not bold")
        parts.append(line)
    if report.findings:
        parts.append(findings_view(report.findings))
    parts.append(_verdict(report))
    return Group(*parts)


def _headline(report: CheckpointDiff) -> Text:
    line = Text("A ", style="dim")
    line.append_text(safe(report.a, "bold"))
    line.append("   B ", style="dim")
    line.append_text(safe(report.b, "bold"))
    return line


def _overview(report: CheckpointDiff) -> RenderableType:
    formats = [name or "configuration alone" for name in (report.format_a, report.format_b)]
    rows = [("layouts", formats[0] if formats[0] == formats[1] else " and ".join(formats))]
    tally = [
        f"{report.counts[status]:,} {words}"
        for status, words in STATUSES.items()
        if report.counts.get(status)
    ]
    if tally:
        rows.append(("weights", ", ".join(tally)))
    if report.rtol is not None or report.atol is not None:
        limits = [f"{report.atol:g}"] if report.atol else []
        limits += [f"{report.rtol:g} * |b|"] if report.rtol else []
        rows.append(("tolerance", f"|a - b| <= {' + '.join(limits) or '0'}"))
    return facts([(label, Text(text)) for label, text in rows])


def _verdict(report: CheckpointDiff) -> Text:
    alone = not report.counts
    if not report.ok and report.same:
        return Text("\nnot established: an error stands above", style="bold red")
    if report.identical:
        what = "every field that matters" if alone else "every weight, to the last bit"
        return Text(f"\nsame: {what}", style="bold green")
    if report.same:
        return Text("\nsame: nothing differs by more than the tolerance", style="bold green")
    unread = {"incomplete", "identical", "tabulated"}
    same_config = not any(row.matters for row in report.config)
    if same_config and report.counts.get("incomplete") and set(report.counts) <= unread:
        return Text("\nnot established: not all weights could be compared", style="bold red")
    return Text("\ndifferent", style="bold red")


def _config(rows: tuple[ConfigDifference, ...]) -> Fitted:
    def text(value: object) -> str:
        return "-" if value is None else printable(str(value), limit=60)

    return Fitted(
        [
            Column("field", [safe(row.field, "" if row.matters else "dim") for row in rows], 0),
            Column("A", [Text(text(row.a)) for row in rows], 0),
            Column("B", [Text(text(row.b)) for row in rows], 0),
            Column("", [Text("" if row.matters else "does not count", "dim") for row in rows], 1),
        ]
    )


def _moved(group: GroupDifference) -> float:
    return -(group.rel_l2 if group.rel_l2 is not None else float("inf"))


def _groups(groups: list[GroupDifference]) -> Fitted:
    return Fitted(
        [
            Column("", [Text(group.name.replace("_", " ")) for group in groups], 0),
            Column("weights", [Text(f"{g.weights_changed:,} of {g.weights:,}") for g in groups], 4),
            Column("elements", [_share(g.changed, g.elements) for g in groups], 1),
            Column("max abs", [_number(group.max_abs) for group in groups], 3),
            Column("relative L2", [_number(group.rel_l2) for group in groups], 2),
            Column("cosine", [_cosine(group.cosine) for group in groups], 5),
        ]
    )


def _weights(rows: list[WeightDifference], report: CheckpointDiff) -> RenderableType:
    table = Fitted(
        [
            Column("name", [safe(row.name) for row in rows], 0),
            Column("", [Text(_what(row)) for row in rows], 1),
            Column("elements", [_changed(row) for row in rows], 2),
            Column("max abs", [_number(row.max_abs) for row in rows], 4),
            Column("relative L2", [_number(row.rel_l2) for row in rows], 3),
            Column("cosine", [_cosine(row.cosine) for row in rows], 5),
        ]
    )
    all_different = sum(
        count for status, count in report.counts.items() if status not in ("identical", "equal")
    )
    parts: list[RenderableType] = [table]
    more = all_different - sum(row.status != "equal" for row in rows)
    if more > 0:
        parts.append(Text(f"and {counted(more, 'weight')} more (--top)", style="dim"))
    first = next((row for row in rows if row.first is not None), None)
    if first is not None and first.changed is not None:
        where = f"{first.name} at {list(first.first or ())}"
        text = f"first element that changed: {where} is {first.value_a} in A, {first.value_b} in B"
        places = f"({first.place_a}; {first.place_b})"
        parts.append(Text(printable(f"{text} {places}", limit=MAX_MESSAGE), style="dim"))
    return Group(*parts)


def _differs(row: WeightDifference) -> bool:
    """Whether it belongs into the table: not what is stored in another type alone."""
    other_bits = row.status == "equal" and row.dtype_a == row.dtype_b
    return other_bits or row.status not in ("identical", "equal")


def _what(row: WeightDifference) -> str:
    """What is to be said of a weight besides its numbers."""
    if row.status == "shape":
        return f"{shape_text(row.shape_a or ())} and {shape_text(row.shape_b or ())}"
    if row.status in ("only_a", "only_b"):
        return f"in {row.status[-1].upper()} alone"
    if row.status == "equal":
        return "0 and -0, or NaN of other bits"
    if row.dtype_a != row.dtype_b:
        return f"{row.dtype_a} and {row.dtype_b}"
    return "not compared" if row.status in ("incomplete", "tabulated") else ""


def _changed(row: WeightDifference) -> Text:
    if row.changed is None:
        return Text("-", style="dim")
    return _share(row.changed, row.elements)


def _share(changed: int, elements: int) -> Text:
    """How many of how many, as a share where that says more."""
    if changed and changed * 1000 < elements:
        return Text(f"{count_text(changed)} of {count_text(elements)}")
    return Text(percent_text(changed, elements))


def _number(value: float | None) -> Text:
    return Text("-" if value is None else difference_text(value))


def _cosine(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.6f}")
