"""View of stats, which has a page of its own."""

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llamainspect.names import counted
from llamainspect.render.numbers import count_text, percent_text, shape_text
from llamainspect.render.printable import printable
from llamainspect.render.text.common import (
    GAP,
    Column,
    Fitted,
    facts,
    findings_view,
    safe,
    section,
    view,
)
from llamainspect.reports import (
    Departure,
    Histogram,
    LayerProfile,
    NotFinite,
    StatsReport,
    WeightPlot,
    WeightStats,
)

LEVELS = " ▁▂▃▄▅▆▇█"
# Of a mark in a heat map, by level: blue is below the median of its row, red above.
HEAT = ("", "#2c7bb6", "#5a9bc9", "#92bcd8", "#c9c9c9", "#e8c0b0", "#e8a58c", "#e0704f", "#d7301f")
SPARK_WIDTH = 16
MAX_KINDS = 24  # rows of a heat map; --json has all
FEW_MARKS, MAX_MARKS = 16, 128  # in a row
MAX_DEPARTURES = 10
MAX_PLACES = 20
MAX_LAYERS = 12  # in a table; --json has all
SMALLEST_SCALE = math.log(1.5)  # what a heat map's full height means at least, as a ratio
PLOT_HEIGHT = 12  # lines
MANY = 2**16  # values, which the table of a code for them is small beside


@view.register
def _(report: StatsReport, terminal: bool) -> RenderableType:
    parts: list[RenderableType] = [_headline(report)]
    if report.count == len(report.weights) == 1:
        parts += [_card(report.weights[0], report.quantize)]
        if report.plot is not None:
            title = "Histogram"
            if terminal and report.plot.logarithmic:
                title += ", counts on a logarithmic scale"
            body = _Columns(report.plot) if terminal else _bins(report.plot.histogram)
            parts.append(section(title, body))
    else:
        parts += _overview(report, terminal)
    if len(report.not_finite) > len({place.name for place in report.not_finite}):
        parts.append(section("NaN and Inf", _places(report)))
    if report.findings:
        parts.append(findings_view(report.findings))
    return Group(*parts)


def _headline(report: StatsReport) -> Text:
    total = report.total
    line = safe(report.path, "bold")
    values = f"{count_text(total.count)} value{'s' * (total.count != 1)}"
    line.append(f"  {counted(report.count, 'weight')}, {values}")
    return line


def _overview(report: StatsReport, terminal: bool) -> list[RenderableType]:
    """A page on many weights."""
    parts: list[RenderableType] = [facts(_totals(report))]
    if report.by_component:
        parts.append(section("Components", _table(report.by_component, report.quantize)))
    if report.by_layer:
        title, layers = _layers(report)
        parts.append(section(title, _table(layers, report.quantize)))
    if report.quantize is None and any(len(profile.layers) > 1 for profile in report.profile):
        for title, figure in (("Spread", "std"), ("Largest magnitude", "abs_max")):
            parts.append(section(f"{title}, layer by layer", _HeatMap(report.profile, figure)))
    if report.departures:
        parts.append(section("Stand out from the layers around them", _departures(report)))
    if report.weights:
        order = "" if report.sort == "file" else f", by {report.sort}"
        parts.append(section(f"Weights{order}", _table(report.weights, report.quantize)))
    if more := report.count - len(report.weights):
        parts.append(Text(f"and {counted(more, 'weight')} more (--top)", style="dim"))
    return parts


def _totals(report: StatsReport) -> list[tuple[str, RenderableType]]:
    total = report.total
    odd = f"{total.nan or 0:,} NaN, {total.inf or 0:,} Inf"
    if report.not_finite_in_copies:
        odd += f", and {report.not_finite_in_copies:,} in other shards' copies"
    rows: list[tuple[str, RenderableType]] = [
        ("dtypes", Text(total.dtype or "-")),
        ("zeros", Text(_share(total.zeros, total.count))),
        ("subnormal", Text(_share(total.subnormal, total.count))),
        (
            "NaN, Inf",
            Text(odd, style="bold red")
            if total.nan or total.inf or report.not_finite_in_copies
            else Text("none", style="" if report.unread else "green"),
        ),
    ]
    if report.unread:
        rows.append(("not read", Text(f"{counted(report.unread, 'weight')}, see below", "yellow")))
    if total.entropy is not None:
        rows.append(("entropy", Text(_entropy(total))))
    if report.quantize is not None and total.quantize_error is not None:
        error = f"{_percentage(total.quantize_error)} of the weights' length (relative L2)"
        rows.append(("round trip", Text(f"{report.quantize}: errs by {error}")))
    return rows


def _entropy(total: WeightStats) -> str:
    text = f"{total.entropy:.2f} bits per weight"
    if total.entropy_count < total.count:
        text += f", of the {total.entropy_count:,} values of up to 16 bits"
    elif total.bits and total.entropy is not None and total.count >= MANY:
        saved = 100 * (1 - total.entropy / total.bits)
        text += f" of {total.bits:g}: lossless compression could save {saved:.1f} %"
    return text


def _percentage(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")


def _share(part: int | None, whole: int) -> str:
    if not part:
        return "none"
    return f"{part:,} ({percent_text(part, whole)})"


# --- tables ---------------------------------------------------------------------------------------


def _number(value: float | None) -> Text:
    return Text("-" if value is None else "0" if value == 0 else f"{value:.3g}")


def _table(rows: Sequence[WeightStats], quantize: str | None) -> RenderableType:
    """One line for each weight or group, and as many figures as fit."""
    columns = [
        Column("", [_name(row) for row in rows], 0),
        Column("L2 error", [_percent(row.quantize_error) for row in rows], 1),
        Column("values", [Text(f"{row.count:,}") for row in rows], 6),
        Column("mean", [_number(row.mean) for row in rows], 5),
        Column("std", [_number(row.std) for row in rows], 2),
        Column("min", [_number(row.min) for row in rows], 7),
        Column("median", [_quantile(row, "0.5") for row in rows], 9),
        Column("max", [_number(row.max) for row in rows], 8),
        Column("abs max", [_number(row.abs_max) for row in rows], 3),
        Column("zeros", [_whole(row.zeros) for row in rows], 10),
        Column("subnormal", [_whole(row.subnormal) for row in rows], 12),
        Column("NaN, Inf", [_odd(row) for row in rows], 1),
        Column("bits", [_number(_bits(row)) for row in rows], 11),
        Column("distribution", [_sparkline(row.histogram) for row in rows], 4),
    ]
    unneeded = {"L2 error"} if quantize is None else set()
    unneeded |= set() if any(row.nan or row.inf for row in rows) else {"NaN, Inf"}
    unneeded |= set() if any(row.subnormal for row in rows) else {"subnormal"}
    unneeded |= set() if any(row.zeros for row in rows) else {"zeros"}
    parts: list[RenderableType] = [Fitted([c for c in columns if c.title not in unneeded])]
    if any(row.approximate for row in rows):
        text = "~: within 0.8 %, since values of more than 16 bits are not counted one by one"
        parts.append(Text(text, style="dim"))
    return Group(*parts)


def _name(row: WeightStats) -> Text:
    name = row.name if row.shape is not None else row.name.replace("_", " ")
    text = safe(name)
    if row.same_as is not None:
        text.append(f" is {printable(row.same_as)}", style="dim")
    return text


def _quantile(row: WeightStats, name: str) -> Text:
    value = row.quantiles.get(name)
    return Text("~" * ("quantiles" in row.approximate and bool(value))) + _number(value)


def _whole(number: int | None) -> Text:
    return Text("-" if number is None else f"{number:,}")


def _bits(row: WeightStats) -> float | None:
    """The entropy, if it is of all values."""
    return row.entropy if row.entropy_count == row.count else None


def _percent(share: float | None) -> Text:
    return Text("-" if share is None else _percentage(share))


def _odd(row: WeightStats) -> Text:
    number = (row.nan or 0) + (row.inf or 0)
    return Text(f"{number:,}", style="bold red" if number else "")


def _sparkline(histogram: Histogram | None) -> Text:
    """From 4 standard deviations below the mean to 4 above it."""
    if histogram is None:
        return Text("-")
    counts = histogram.counts
    step = max(len(counts) // SPARK_WIDTH, 1)
    sums = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    most = max(sums) or 1
    marks = "".join(LEVELS[-(-8 * number // most)] for number in sums)
    return Text(f"{marks:^{SPARK_WIDTH}}", style="blue")


def _layers(report: StatsReport) -> tuple[str, list[WeightStats]]:
    """A title, and the layers that it promises: of many those that matter most."""
    rows, title = list(report.by_layer), "Layers"
    if any(row.quantize_error is not None for row in rows):
        title = f"Layers, those that suffer most from {report.quantize} first"
        rows.sort(key=lambda row: -(row.quantize_error or 0))
    elif len(rows) > MAX_LAYERS:
        title = f"Layers, the {MAX_LAYERS} of largest spread"
        rows.sort(key=lambda row: -(row.std or 0))
    return title, rows[:MAX_LAYERS]


def _departures(report: StatsReport) -> RenderableType:
    rows = report.departures[:MAX_DEPARTURES]
    table: RenderableType = Fitted(
        [
            Column("", [safe(row.name) for row in rows], 0),
            Column("std", [_number(row.std) for row in rows], 1),
            Column("theirs", [_number(row.neighbours) for row in rows], 2),
            Column("", [Text(_times(row)) for row in rows], 1),
        ]
    )
    more = len(report.departures) - len(rows)
    return Group(table, Text(f"and {more:,} more (--json)", style="dim")) if more else table


def _times(row: Departure) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f} times"


def _places(report: StatsReport) -> RenderableType:
    rows: tuple[NotFinite, ...] = report.not_finite[:MAX_PLACES]
    table = Fitted(
        [
            Column("weight", [safe(row.name) for row in rows], 0),
            Column("index", [Text(str(list(row.index))) for row in rows], 0),
            Column("value", [Text(row.value, style="bold red") for row in rows], 1),
            Column("file and offset", [safe(row.place) for row in rows], 2),
        ]
    )
    found = (report.total.nan or 0) + (report.total.inf or 0)
    if (more := found - len(rows)) <= 0:
        return table
    return Group(
        table, Text(f"and {more:,} more (--json locates the first 100 of each weight)", style="dim")
    )


# --- heat maps ------------------------------------------------------------------------------------


class _HeatMap:
    """A row for each kind of weight, a mark for each layer: how far it is from its row's median."""

    def __init__(self, profiles: Sequence[LayerProfile], figure: str) -> None:
        self.more = max(len(profiles) - MAX_KINDS, 0)
        self.profiles = profiles[:MAX_KINDS]
        self.figure = figure
        self.last = max(max(profile.layers) for profile in self.profiles)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ends = [self._ends(profile) for profile in self.profiles]
        beside = sum(max(6, *map(len, column)) + GAP for column in zip(*ends, strict=True))
        names = [printable(profile.kind, limit=40) for profile in self.profiles]
        room = options.max_width - max(map(len, names)) - GAP
        heads = [Text(title, style="dim") for title in ("from", "median", "to")]
        if room - beside < min(self.last + 1, FEW_MARKS):  # then marks matter more than numbers
            ends, heads, beside = [[] for _ in ends], [], 0
        marks = min(max(room - beside, FEW_MARKS), MAX_MARKS)
        step = -(-(self.last + 1) // marks)  # layers that one mark stands for
        grid = Table.grid(padding=(0, GAP, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        for _ in heads:
            grid.add_column(justify="right", no_wrap=True)
        grid.add_row("", self._axis(step), *heads)
        for name, profile, numbers in zip(names, self.profiles, ends, strict=True):
            grid.add_row(Text(name), self._marks(profile, step), *map(Text, numbers))
        yield grid
        notes = []
        if step > 1:
            notes.append(f"a mark stands for {step} layers: for that furthest from the median")
        if self.more:
            notes.append(f"{counted(self.more, 'kind')} of weights more in --json")
        if notes:
            yield Text("; ".join(notes), style="dim")

    def _values(self, profile: LayerProfile) -> dict[int, float]:
        values = getattr(profile, self.figure)
        pairs = zip(profile.layers, values, strict=True)
        return {layer: value for layer, value in pairs if value is not None}

    def _ends(self, profile: LayerProfile) -> list[str]:
        """Smallest, median and largest value of a row."""
        values = list(self._values(profile).values())
        if not values:
            return ["-"] * 3
        return [_number(value).plain for value in (min(values), median(values), max(values))]

    def _axis(self, step: int) -> Text:
        """Numbers of layers above their marks, where there is room for them."""
        line = ""
        for layer in range(0, self.last + 1, 5 * step):
            column = layer // step
            if len(line) <= column and (not line or len(line) < column):
                line = f"{line:<{column}}{layer}"
        return Text(line, style="dim")

    def _marks(self, profile: LayerProfile, step: int) -> Text:
        values = self._values(profile)
        known = [value for value in values.values() if value > 0]
        middle = median(known) if known else 1.0
        ratios = {n: math.log(v) - math.log(middle) for n, v in values.items() if v > 0}
        scale = max(SMALLEST_SCALE, *(abs(ratio) for ratio in ratios.values())) if ratios else 1.0
        marks = Text()
        for first in range(0, self.last + 1, step):
            layers = range(first, first + step)
            here = [ratios[layer] for layer in layers if layer in ratios]
            if here:
                level = max(1, 4 + round(4 * max(here, key=abs) / scale))
                marks.append(LEVELS[level], style=HEAT[level])
            else:
                marks.append("·" if any(layer in values for layer in layers) else " ", "dim")
        return marks


# --- one weight -----------------------------------------------------------------------------------


def _card(row: WeightStats, quantize: str | None) -> RenderableType:
    """Every figure of one weight."""
    about = "~" if row.approximate else ""
    layer = "" if row.layer is None else f", layer {row.layer}"
    known: list[tuple[str, RenderableType]] = [
        ("weight", safe(row.name, "bold")),
        ("shape", Text(f"{shape_text(row.shape or ())}, {row.dtype}")),
        ("component", Text((row.component or "").replace("_", " ") + layer)),
    ]
    if row.zeros is None:
        return facts(known)
    known += [
        ("mean", _long(row.mean)),
        ("std", _long(row.std)),
        ("min, max", Text(f"{_long(row.min)}, {_long(row.max)}")),
        ("L2 norm", _long(row.l2)),
        ("zeros", Text(_share(row.zeros, row.count))),
        ("subnormal", Text(_share(row.subnormal, row.count))),
        ("NaN, Inf", Text(f"{row.nan:,}, {row.inf:,}")),
    ]
    if row.entropy is not None:
        known.append(("entropy", Text(_entropy(row))))
    if quantize is not None and row.quantize_error is not None:
        known.append(
            (
                "round trip",
                Text(f"{quantize}: errs by {_percentage(row.quantize_error)} (relative L2)"),
            )
        )
    if row.histogram is not None:
        span = f"{_number(row.histogram.start)} to {_number(row.histogram.end)}"
        known.append(("distribution", _sparkline(row.histogram).append(f"  {span}", "not blue")))
    parts: list[RenderableType] = [facts(known)]
    if row.quantiles:
        cells = [
            Column(f"{float(name):.4g}", [Text(about + _number(value).plain)], 0)
            for name, value in row.quantiles.items()
        ]
        parts.append(section("Quantiles", Fitted(cells)))
        if about:
            parts.append(Text("~: within 0.8 %, counted by their upper 16 bits", style="dim"))
    return Group(*parts)


def _long(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.9g}")


def _bins(histogram: Histogram) -> RenderableType:
    """A line for each bin, which can be read as numbers."""
    counts = histogram.counts
    width = (histogram.end - histogram.start) / len(counts)
    edges = [histogram.start + i * width for i in range(len(counts))] + [histogram.end]
    return Fitted(
        [
            Column("from", [Text(f"{start:.6g}") for start in edges[:-1]], 0),
            Column("to", [Text(f"{end:.6g}") for end in edges[1:]], 0),
            Column("values", [Text(f"{count:,}") for count in counts], 0),
        ]
    )


class _Columns:
    """A column for each bin, or for some together where the terminal is narrow."""

    def __init__(self, plot: WeightPlot) -> None:
        self.plot = plot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        histogram = self.plot.histogram
        label = f"{max(histogram.counts):,}"
        step = -(-len(histogram.counts) // max(options.max_width - len(label) - 1, 1))
        counts = [
            sum(histogram.counts[i : i + step]) for i in range(0, len(histogram.counts), step)
        ]
        most = max(counts)
        heights = [_height(count, most, self.plot.logarithmic) for count in counts]
        label = f"{most:,}"
        for line in range(PLOT_HEIGHT - 1, -1, -1):
            marks = "".join(LEVELS[min(max(height - 8 * line, 0), 8)] for height in heights)
            side = label if line == PLOT_HEIGHT - 1 else "0" if line == 0 else ""
            yield Text(f"{side:>{len(label)}} ").append(marks, style="blue")
        left, right = f"{histogram.start:.4g}", f"{histogram.end:.4g}"
        space = " " * max(len(counts) - len(left) - len(right), 1)
        yield Text(f"{'':>{len(label)}} {left}{space}{right}", style="dim")


def _height(count: int, most: int, logarithmic: bool) -> int:
    """In eighths of a line; what is there is seen."""
    if not count:
        return 0
    share = math.log1p(count) / math.log1p(most) if logarithmic else count / most
    return max(round(8 * PLOT_HEIGHT * share), 1)
