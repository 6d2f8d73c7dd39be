"""What the page says beside its charts, worded and cut to what fits."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from markupsafe import escape

from llamainspect.names import counted
from llamainspect.render.html.budgets import (
    COMPONENTS_NBYTES,
    DEPARTURES_NBYTES,
    FILES_NBYTES,
    FINDINGS_NBYTES,
    LAYERS_NBYTES,
    MAX_LAYERS,
    NOT_FINITE_NBYTES,
    STATS_NBYTES,
    TENSORS_NBYTES,
    Part,
    fit,
    row_nbytes,
)
from llamainspect.render.numbers import (
    count_text,
    exact_nbytes_text,
    figure_text,
    nbytes_text,
    percent_text,
    shape_text,
)
from llamainspect.render.printable import printable
from llamainspect.render.words import (
    CONFIG_LABELS,
    config_value,
    cut_text,
    exact_match,
    layer_rows,
    same_configuration,
    stored_rows,
    tally,
    tokenizer_text,
)
from llamainspect.reports import (
    Departure,
    FileEntry,
    Finding,
    FullReport,
    Histogram,
    NotFinite,
    TensorEntry,
    WeightStats,
)

SPARK_WIDTH, SPARK_HEIGHT = 96, 20  # of a histogram in a table cell
MODEL_WORDS = {
    "exact": ("good", "✓ exact match"),
    "architecture": ("fair", "≈ same architecture"),
    "none": ("plain", "? no official model has this architecture"),
}


class Verdict(NamedTuple):
    """The first thing to know."""

    style: str  # class of the style sheet
    text: str


class Content:
    """A report as the template asks for it. Names may be hostile: the template escapes them."""

    def __init__(self, report: FullReport) -> None:
        self.report = report
        self.title = report.path.rstrip("/").rsplit("/", 1)[-1] or report.path

    # --- the head of the page ---------------------------------------------------------------------

    @property
    def verdict(self) -> Verdict:
        """Whether anything is wrong, in a few words."""
        findings = self.report.all_findings
        worst = findings[0].severity if findings else None
        counts = tally(findings)
        if worst == "error" or not self.report.ok:
            return Verdict("bad", f"✗ {counts or 'not good'}")
        if worst == "warning":
            return Verdict("fair", f"! no errors, {counts}")
        return Verdict("good", f"✓ no errors{', ' * bool(counts)}{counts}")

    @property
    def model(self) -> Verdict:
        """Which official model it is."""
        style, words = MODEL_WORDS[self.report.summary.model.match]
        name = self.report.summary.model.name
        like = "like " * (self.report.summary.model.match == "architecture")
        return Verdict(style, words if name is None else f"{words}: {like}{name}")

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Labels and values that tell what the checkpoint is."""
        summary = self.report.summary
        model = summary.model
        dtypes = (f"{name} {nbytes_text(n)}" for name, n in summary.nbytes_by_dtype.items())
        files = sum(entry.nbytes for entry in summary.files)
        rows = [
            ("parameters", count_text(summary.parameters.total)),
            ("weights", ", ".join(dtypes)),
            *stored_rows(summary.stored_as),
            ("layout", f"{summary.format}, {counted(summary.shards, 'shard')}"),
            ("files", f"{counted(len(summary.files), 'file')}, {exact_nbytes_text(files)}"),
        ]
        if model.match == "exact":
            rows.append(("matches", exact_match(summary)))
        if model.same_configuration:
            rows.append(("or", same_configuration(model)))
        if model.differences:
            rows.append(("differs", "; ".join(model.differences)))
        if summary.tied_output:
            rows.append(("output", "tied: it is the embedding"))
        if summary.tokenizer:
            rows.append(("tokenizer", tokenizer_text(summary.tokenizer)))
        if model.context_length:
            rows.append(("context", f"{model.context_length:,} tokens, as published"))
        return rows

    @property
    def findings(self) -> Part[Finding]:
        """Worst first, as many as fit."""
        findings = self.report.all_findings
        return fit(findings, len(findings), FINDINGS_NBYTES, _finding_nbytes)

    # --- configuration, files, parameters, memory -------------------------------------------------

    @property
    def config(self) -> list[tuple[str, str]]:
        """Labels and values; empty without a configuration."""
        config = self.report.summary.config or {}
        return [
            (label, config_value(key, config))
            for key, label in CONFIG_LABELS.items()
            if key in config
        ]

    @property
    def files(self) -> Part[FileEntry]:
        """Weight files, as many as fit."""
        files = self.report.summary.files
        return fit(files, len(files), FILES_NBYTES, _file_nbytes)

    @property
    def components(self) -> Part[tuple[str, str, str]]:
        """Name, parameters and share of each component, and of layers of one size."""
        parameters = self.report.summary.parameters
        named = [(name.replace("_", " "), n) for name, n in parameters.by_component.items()]
        rows = [
            (name, f"{n:,}", percent_text(n, parameters.total))
            for name, n in (*named, *layer_rows(parameters.by_layer))
        ]
        return fit(rows, len(rows), COMPONENTS_NBYTES, row_nbytes)

    # --- statistics -------------------------------------------------------------------------------

    @property
    def not_finite(self) -> Part[NotFinite]:
        """Where elements are NaN or infinite, as many as fit."""
        rows = self.report.stats.not_finite if self.report.stats else ()
        return fit(rows, len(rows), NOT_FINITE_NBYTES, _not_finite_nbytes)

    @property
    def departures(self) -> Part[Departure]:
        """Weights whose spread is not that of their neighbours, as many as fit."""
        rows = self.report.stats.departures if self.report.stats else ()
        return fit(rows, len(rows), DEPARTURES_NBYTES, _departure_nbytes)

    @property
    def layers_left_out(self) -> bool:
        """Whether charts end before the last layer."""
        profile = self.report.stats.profile if self.report.stats else ()
        return any(max(kind.layers, default=0) >= MAX_LAYERS for kind in profile)

    @property
    def layers(self) -> Part[WeightStats]:
        """Figures of each layer, as many as fit."""
        rows = self.report.stats.by_layer if self.report.stats else ()
        return fit(rows, len(rows), LAYERS_NBYTES, _stats_nbytes)

    @property
    def figure_titles(self) -> list[str]:
        """Heads of the columns that statistics add to a table."""
        return [title for title, _ in FIGURES] if self.report.stats else []

    def figures(self, stats: WeightStats | None) -> list[str]:
        """The cells of those columns."""
        if self.report.stats is None:
            return []
        return ["-" if stats is None else cell(stats) for _, cell in FIGURES]

    # --- the table of tensors ---------------------------------------------------------------------

    @cached_property
    def tensors(self) -> Part[list[str]]:
        """One row of texts for each weight, as many as fit."""
        stats = self.report.stats
        by_name = {row.name: row for row in stats.weights} if stats else {}
        entries = self.report.tensors.tensors
        rows = (self._tensor(entry, by_name.get(entry.name)) for entry in entries)
        nbytes = TENSORS_NBYTES + (0 if stats else STATS_NBYTES)
        return fit(rows, len(entries), nbytes, row_nbytes)

    def _tensor(self, entry: TensorEntry, stats: WeightStats | None) -> list[str]:
        cells = [
            entry.name,
            shape_text(entry.shape),
            entry.dtype,
            f"{entry.elements:,}",
            f"{entry.nbytes:,}",
            entry.component.replace("_", " "),
            "-" if entry.layer is None else str(entry.layer),
            _stored(entry, stats),
        ]
        return [*cells, *self.figures(stats)]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Of the table: what stands above each, and how it is sorted."""
        return [*COLUMNS, *((title, "number") for title in self.figure_titles)]

    @property
    def tensor_components(self) -> list[str]:
        """What the table can be narrowed to."""
        place = [title for title, _ in COLUMNS].index("component")
        return list(dict.fromkeys(row[place] for row in self.tensors.rows))


def spark(histogram: Histogram) -> str:
    """A histogram as the path of an SVG as wide and high as a table cell."""
    highest = max(histogram.counts, default=0) or 1
    step = SPARK_WIDTH / (len(histogram.counts) or 1)
    tops = (
        f"L{i * step:g} {SPARK_HEIGHT * (1 - n / highest):.1f}h{step:g}"
        for i, n in enumerate(histogram.counts)
    )
    return f"M0 {SPARK_HEIGHT}{''.join(tops)}V{SPARK_HEIGHT}Z"


def _stored(entry: TensorEntry, stats: WeightStats | None) -> str:
    """The file, or how several share it; and whose bytes they are when they are not its own."""
    place = cut_text(entry) or ", ".join(entry.files)
    return f"{place}; same bytes as {stats.same_as}" if stats and stats.same_as else place


def _figure(field: str) -> Callable[[WeightStats], str]:
    def cell(stats: WeightStats) -> str:
        number = getattr(stats, field)
        return f"{number:,}" if isinstance(number, int) else figure_text(number)

    return cell


def _median(stats: WeightStats) -> str:
    about = "~" * ("quantiles" in stats.approximate)
    return about + figure_text(stats.quantiles.get("0.5"))


def _entropy(stats: WeightStats) -> str:
    return figure_text(stats.entropy if stats.entropy_count == stats.count else None)


def _not_finite(stats: WeightStats) -> str:
    if stats.nan is None or stats.inf is None:
        return "-"
    return f"{stats.nan + stats.inf:,}"


# Columns of the table of tensors, and how each is sorted.
COLUMNS = (
    ("name", "name"),
    ("shape", "name"),
    ("dtype", "name"),
    ("elements", "number"),
    ("bytes", "number"),
    ("component", "name"),
    ("layer", "number"),
    ("stored in", "name"),
)
# And those of figures.
FIGURES = (
    ("mean", _figure("mean")),
    ("std", _figure("std")),
    ("min", _figure("min")),
    ("median", _median),
    ("max", _figure("max")),
    ("abs max", _figure("abs_max")),
    ("L2 norm", _figure("l2")),
    ("zeros", _figure("zeros")),
    ("subnormal", _figure("subnormal")),
    ("NaN/Inf", _not_finite),
    ("entropy", _entropy),
)


# What a row takes in the page; figures and tags are given as long as they can be.


def _finding_nbytes(finding: Finding) -> int:
    message = printable(finding.message, limit=1_000)
    return 100 + len(escape(message).encode()) + row_nbytes([finding.where])


def _file_nbytes(file: FileEntry) -> int:
    return 150 + row_nbytes([file.file])


def _stats_nbytes(row: WeightStats) -> int:
    path = len(spark(row.histogram)) if row.histogram else 0
    return 250 + path + 25 * len(FIGURES) + row_nbytes([row.name])


def _not_finite_nbytes(element: NotFinite) -> int:
    return 80 + row_nbytes([element.name, element.place, shape_text(element.index)])


def _departure_nbytes(departure: Departure) -> int:
    return 130 + row_nbytes([departure.name])
