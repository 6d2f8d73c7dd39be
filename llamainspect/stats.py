"""The weights themselves: every value is read once, and what is wrong or stands out is named.

Values are streamed: memory grows with the number of weights, not with their length.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any, Literal, NamedTuple

from llamainspect.arrays import decode, place_of, read_elements
from llamainspect.blocks import Memory, has_values
from llamainspect.canonical import canonical_weights
from llamainspect.checkpoint import Checkpoint, name_of, open_checkpoint
from llamainspect.counted import Counted, Figures, GroupCounts, figures_of_group
from llamainspect.distribution import Distribution
from llamainspect.dtypes import DTYPES
from llamainspect.errors import InvalidRequest, LlamaInspectError, MissingFile, reason_of
from llamainspect.footprint import BLOCK_LINEARS, WeightForm, weight_form
from llamainspect.lookup import find_weight
from llamainspect.names import (
    COMPONENTS,
    NOT_PARAMETERS,
    component_of,
    compress,
    layer_of,
    listing,
    natural,
)
from llamainspect.profiles import departures, profile_layers
from llamainspect.progress import finish
from llamainspect.reports import (
    FileProgress,
    Finding,
    NotFinite,
    Severity,
    StatsReport,
    WeightPlot,
    WeightStats,
    worst_first,
)
from llamainspect.sources import Folder
from llamainspect.tally import MAX_PLACES, Slice, Tally, count_values, slices_of
from llamainspect.weights import Weight, parts_needed
from llamainspect.workers import Meter, in_parallel

Sort = Literal[
    "file", "name", "elements", "mean", "std", "abs-max", "zeros", "subnormal", "entropy", "error"
]
SORTS: dict[str, Callable[[WeightStats], Any]] = {
    "elements": lambda row: row.count,
    "mean": lambda row: None if row.mean is None else abs(row.mean),
    "std": lambda row: row.std,
    "abs-max": lambda row: row.abs_max,
    "zeros": lambda row: None if row.zeros is None else row.zeros / max(row.count, 1),
    "subnormal": lambda row: None if row.subnormal is None else row.subnormal / max(row.count, 1),
    "entropy": lambda row: row.entropy,
    "error": lambda row: row.quantize_error,
}  # the largest first
MAX_WORKERS = 16  # each has up to 12 MiB of blocks
PLOT_BINS = 60  # they fit into 80 columns
MANY_ZEROS = 0.1  # a share of a matrix that is worth a word
MAX_NAMED = 20  # weights with NaN or Inf that have a finding of their own


class StatsOptions(NamedTuple):
    """What is looked at, and how it is shown."""

    pattern: str | None = None  # a glob, of Meta's names or of Hugging Face's
    sort: Sort = "file"
    top: int | None = None  # weights that are listed; None: all
    plot: str | None = None  # one weight alone, with its full histogram
    logarithmic: bool = False
    quantize: Literal["int8", "int4"] | None = None  # what a round trip is made through
    group_size: int | None = None  # values that share a scale; None: int4 128, int8 a row

    def check(self) -> None:
        """Raises InvalidRequest for what means nothing."""
        if self.top is not None and self.top < 0:
            raise InvalidRequest("--top: a whole number from 0 upwards is needed")
        if self.group_size is not None and self.group_size < 1:
            raise InvalidRequest("--group-size: a whole number from 1 upwards is needed")
        if self.group_size is not None and self.quantize is None:
            raise InvalidRequest("--group-size is of --quantize int8 or int4; give that, too")
        if self.sort == "error" and self.quantize is None:
            raise InvalidRequest("--sort error is of --quantize int8 or int4; give that, too")
        if self.plot is not None and self.pattern is not None:
            raise InvalidRequest("--plot shows one weight by its name; leave out the pattern")
        if self.logarithmic and self.plot is None:
            raise InvalidRequest("--log is of --plot NAME; give that, too")

    @property
    def form(self) -> WeightForm | None:
        """What a round trip is made through."""
        return None if self.quantize is None else weight_form(self.quantize, self.group_size)


EVERYTHING = StatsOptions()


def compute_stats(path: str, options: StatsOptions = EVERYTHING) -> StatsReport:
    """Figures of all weights of a checkpoint in any layout.

    Raises InvalidRequest for options that mean nothing, MissingFile when no weight is called as
    asked, and what opening a checkpoint raises.
    """
    return finish(scanning(path, options))


def scanning(
    path: str, options: StatsOptions = EVERYTHING
) -> Generator[tuple[FileProgress, ...], None, StatsReport]:
    """`compute_stats`, step by step."""
    options.check()
    begin = monotonic()
    yield ()
    return (yield from scanning_checkpoint(open_checkpoint(path), options, begin))


def scanning_checkpoint(
    checkpoint: Checkpoint, options: StatsOptions, begin: float
) -> Generator[tuple[FileProgress, ...], None, StatsReport]:
    """The same of one that is open; `begin` is when the work began."""
    scan = _Scan(checkpoint, options)
    yield from scan.run()
    return scan.report(begin)


def _chosen(checkpoint: Checkpoint, options: StatsOptions) -> dict[str, Weight]:
    """The weights that are asked for, under the names of Meta's code, fused ones taken apart."""
    weights = canonical_weights(checkpoint)
    if options.plot is not None:
        return _plotted(checkpoint, weights, options.plot)
    pattern = options.pattern
    if pattern is None:
        return weights
    chosen = {
        name: weight
        for name, weight in weights.items()
        if fnmatchcase(name, pattern) or fnmatchcase(name_of(checkpoint, weight, "hf"), pattern)
    }
    if not chosen:
        raise MissingFile(
            f"{checkpoint.source.place}: no weight is called like {pattern!r}; "
            "`llamainspect tensors` lists them"
        )
    return chosen


def _plotted(checkpoint: Checkpoint, weights: dict[str, Weight], name: str) -> dict[str, Weight]:
    """One weight by either of its names."""
    if name not in weights:
        stored = find_weight(checkpoint, name)
        pieces = [w.name for w in weights.values() if w.parts[0].name == stored.parts[0].name]
        if stored.name not in weights:
            raise MissingFile(
                f"{checkpoint.source.place}: {name} holds several weights; name one of them: "
                f"{listing(pieces, 9)}"
            )
        name = stored.name
    return {name: weights[name]}


def _twins(weights: dict[str, Weight]) -> dict[str, str]:
    """Weights whose bytes are those of an earlier one, and which (tied outputs)."""
    first: dict[Any, str] = {}
    same = {}
    for name, weight in weights.items():
        place = tuple(part._replace(name="") for part in parts_needed(weight))
        if first.setdefault(place, name) != name and weight.complete:
            same[name] = first[place]
    return same


# --- reading it all -------------------------------------------------------------------------------


class _Job(NamedTuple):
    """A slice of a weight that is to be counted."""

    piece: Slice
    alone: bool  # it is the whole weight


class _Done(NamedTuple):
    job: _Job
    found: Tally | Finding


class _Scan:
    """Reads the weights of a checkpoint and keeps what the report is made of."""

    def __init__(self, checkpoint: Checkpoint, options: StatsOptions) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.weights = _chosen(checkpoint, options)
        self.same_as = _twins(self.weights)
        self.rows: dict[str, WeightStats] = {}
        self.not_finite: dict[str, list[NotFinite]] = {}
        self.narrow: list[str] = []  # stored wider than their values need
        self.failed: dict[str, Finding] = {}
        self.plot: WeightPlot | None = None
        self.read = Meter()
        self.components = {name: _Group(name) for name in COMPONENTS}
        self.layers: dict[int, _Group] = {}
        self.layer_rows: dict[int, WeightStats] = {}
        self._open: dict[str, tuple[Counted, int]] = {}  # and how many slices are still to come
        # A layer's counts are kept until its last weight is read, so layer by layer.
        todo = [weight for weight in self.weights.values() if self._is_read(weight)]
        self._todo = sorted(todo, key=lambda weight: _layer_number(weight.name))
        self._left = Counter(layer_of(weight.name) for weight in todo)

    def _is_read(self, weight: Weight) -> bool:
        known = all(has_values(part.dtype) for part in weight.parts)
        return known and weight.complete and weight.name not in self.same_as

    def run(self) -> Generator[tuple[FileProgress, ...], None, None]:
        """Look at all values; how far it is comes in between."""
        total = sum(weight.nbytes for weight in self._todo)
        for ready in in_parallel(self._jobs(), self._work, _job_nbytes, MAX_WORKERS):
            for done in ready:
                self._take(done)
            yield (FileProgress("values", min(self.read.nbytes, total), total),)

    def _jobs(self) -> Iterator[_Job]:
        for weight in self._todo:
            pieces = list(slices_of(weight, self._form(weight)))
            self._open[weight.name] = (Counted(weight), len(pieces))
            if not pieces:
                self._finish(weight.name)
            yield from (_Job(piece, len(pieces) == 1) for piece in pieces)

    def _form(self, weight: Weight) -> WeightForm | None:
        """What a weight is sent through: the linear layers of the blocks, and nothing else."""
        linear = component_of(weight.name) in BLOCK_LINEARS and len(weight.shape) >= 2
        return self.options.form if linear else None

    def _work(self, job: _Job, memory: Memory) -> _Done:
        name = job.piece.weight.name
        try:
            found: Tally | Finding = count_values(self.checkpoint, job.piece, memory)
        except (LlamaInspectError, OSError) as error:
            found = Finding("error", name, reason_of(error, name))
        self.read.add(job.piece.nbytes)
        return _Done(job, found)

    def _take(self, done: _Done) -> None:
        name = done.job.piece.weight.name
        counted, left = self._open[name]
        if isinstance(done.found, Finding):
            self.failed.setdefault(name, done.found)
        else:
            counted.add(done.found, done.job.alone)
        self._open[name] = (counted, left - 1)
        if left == 1:
            self._finish(name)

    def _finish(self, name: str) -> None:
        """All of a weight was read."""
        counted, _ = self._open.pop(name)
        if name not in self.failed:
            self._keep(name, counted)
        layer = layer_of(name)
        self._left[layer] -= 1
        if layer is not None and not self._left[layer] and layer in self.layers:
            self.layer_rows[layer] = self.layers.pop(layer).row()

    def _keep(self, name: str, counted: Counted) -> None:
        weight, layer = self.weights[name], layer_of(name)
        figures, known = counted.finish(), counted.distribution()
        self.rows[name] = _weight_row(weight, figures, known)
        self.components[component_of(name)].add(weight, figures, counted)
        if layer is not None:
            self.layers.setdefault(layer, _Group(f"layer {layer}")).add(weight, figures, counted)
        if counted.narrow:
            self.narrow.append(name)
        if counted.not_finite:
            self.not_finite[name] = self._located(weight, counted.not_finite[:MAX_PLACES])
        if self.options.plot is not None and len(known.values):
            bins = known.histogram(float(known.values[0]), float(known.values[-1]), PLOT_BINS)
            self.plot = WeightPlot(name, bins, self.options.logarithmic)

    def _located(self, weight: Weight, indices: list[tuple[int, ...]]) -> list[NotFinite]:
        found = []
        for index in indices:
            elements, _ = read_elements(
                self.checkpoint, weight, tuple(range(i, i + 1) for i in index)
            )
            values = decode(elements, weight.parts[0])
            assert values is not None
            file, offset = place_of(self.checkpoint, weight, index)
            where = f"{file} @ {offset:,}"
            value = str(float(values[0]))
            found.append(NotFinite(weight.name, layer_of(weight.name), index, value, where))
        return found

    # --- the report ---

    def report(self, begin: float) -> StatsReport:
        """All of it."""
        rows = [self._listed(weight) for weight in self.weights.values()]
        profile = profile_layers(row for row in rows if row.same_as is None)
        components = [group for group in self.components.values() if group.members]
        total = _Group("all")
        for group in components:
            total.join(group)
        options = self.options
        return StatsReport(
            path=self.checkpoint.source.place,
            format=self.checkpoint.format,
            pattern=options.pattern,
            sort=options.sort,
            count=len(rows),
            total=total.row(),
            weights=tuple(_sorted(rows, options.sort)[: options.top]),
            by_component=tuple(group.row() for group in components),
            by_layer=tuple(row for _, row in sorted(self.layer_rows.items())),
            profile=profile,
            departures=departures(profile),
            not_finite=tuple(
                place for name in self.weights for place in self.not_finite.get(name, ())
            ),
            quantize=options.form.text if options.form else None,
            plot=self.plot,
            nbytes_read=self.read.nbytes,
            seconds=monotonic() - begin,
            findings=tuple(worst_first([*self.checkpoint.problems, *self._findings(rows)])),
        )

    def _listed(self, weight: Weight) -> WeightStats:
        """The row of a weight; of one that is another's bytes, the other's figures."""
        twin = self.same_as.get(weight.name)
        row = self.rows.get(twin or weight.name)
        if row is None:
            return _weight_row(weight, None, None)._replace(same_as=twin)
        if twin is None:
            return row
        component, layer = component_of(weight.name), layer_of(weight.name)
        return row._replace(name=weight.name, component=component, layer=layer, same_as=twin)

    def _findings(self, rows: list[WeightStats]) -> list[Finding]:
        """What is wrong with values, and what could not be looked at."""
        findings = self._not_finite(rows)
        findings += _grouped("error", self.failed)
        own = [row for row in rows if row.same_as is None]
        for severity, message, is_meant in _RULES:
            names = [row.name for row in own if is_meant(row)]
            if names:
                findings.append(Finding(severity, listing(compress(names)), message))
        incomplete = [weight.name for weight in self.weights.values() if not weight.complete]
        if incomplete:
            message = "not looked at: parts of it are in shards that cannot be read"
            findings.append(Finding("error", listing(compress(incomplete)), message))
        if self.narrow:
            saved = sum(row.count * 2 for row in own if row.name in set(self.narrow))
            message = (
                "stored in 32 bits, and every value is one that BF16 has: as BF16 they would take "
                f"{saved:,} bytes less"
            )
            findings.append(Finding("note", listing(compress(self.narrow)), message))
        source = self.checkpoint.source
        for file in source.changed() if isinstance(source, Folder) else ():
            findings.append(Finding("error", file, "it changed while it was read; try again"))
        return findings

    def _not_finite(self, rows: list[WeightStats]) -> list[Finding]:
        found = []
        for row in rows:
            places = self.not_finite.get(row.name)
            if places:
                kinds = (("NaN", row.nan or 0), ("Inf", row.inf or 0))
                counts = " and ".join(f"{number:,} {kind}" for kind, number in kinds if number)
                first = f"the first at {list(places[0].index)} ({places[0].place})"
                found.append(Finding("error", row.name, f"{counts}, {first}"))
        if len(found) <= MAX_NAMED:
            return found
        names = [finding.where for finding in found[MAX_NAMED:]]
        more = Finding("error", listing(compress(names)), "NaN or Inf in these weights, too")
        return [*found[:MAX_NAMED], more]


# Of a weight with bytes of its own: how bad it is, what to say, and when.
_RULES: tuple[tuple[Severity, str, Callable[[WeightStats], bool]], ...] = (
    (
        "warning",
        "all values are 0: never trained, or lost",
        lambda row: bool(row.count) and row.zeros == row.count,
    ),
    (
        "warning",
        "all values of the matrix are the same: never trained, or lost",
        lambda row: _is_matrix(row) and row.min == row.max != 0 and not row.nan and not row.inf,
    ),
    (
        "note",
        f"more than {MANY_ZEROS:.0%} of the matrix is 0: pruned, or a stretch was lost",
        lambda row: _is_matrix(row) and MANY_ZEROS * row.count < (row.zeros or 0) < row.count,
    ),
    (
        "note",
        "no figures: nothing here knows the values of this dtype",
        lambda row: row.shape is not None and not has_values(DTYPES[row.dtype]),
    ),
)


def _is_matrix(row: WeightStats) -> bool:
    return row.component not in NOT_PARAMETERS and row.count > 1 and len(row.shape or ()) > 1


def _grouped(severity: Severity, failed: dict[str, Finding]) -> list[Finding]:
    """Weights that failed for one reason in one finding."""
    reasons: dict[str, list[str]] = {}
    for name, finding in failed.items():
        reasons.setdefault(finding.message, []).append(name)
    return [
        Finding(severity, listing(compress(names)), message) for message, names in reasons.items()
    ]


# --- rows -----------------------------------------------------------------------------------------


class _Group:
    """All weights of a component or a layer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: list[Figures] = []
        self.dtypes: set[str] = set()
        self.counts = GroupCounts()

    def add(self, weight: Weight, figures: Figures, counted: Counted) -> None:
        self.members.append(figures)
        self.dtypes.add(weight.parts[0].dtype.name)
        self.counts.add(counted)

    def join(self, other: "_Group") -> None:
        """All weights of another group, too."""
        self.members += other.members
        self.dtypes |= other.dtypes
        self.counts.join(other.counts)

    def row(self) -> WeightStats:
        """The group as a row."""
        empty = _row(self.name, figures_of_group(self.members), self.counts.distribution())
        return empty._replace(weights=len(self.members), dtype=", ".join(sorted(self.dtypes)))


def _weight_row(weight: Weight, figures: Figures | None, known: Distribution | None) -> WeightStats:
    return _row(weight.name, figures, known)._replace(
        component=component_of(weight.name),
        layer=layer_of(weight.name),
        shape=weight.shape,
        dtype=weight.parts[0].dtype.name,
        count=weight.elements,
    )


def _row(name: str, figures: Figures | None, known: Distribution | None) -> WeightStats:
    row = WeightStats(
        name=name, component=None, layer=None, shape=None, dtype="", weights=1, same_as=None,
        count=0, mean=None, std=None, min=None, max=None, abs_max=None, l2=None, quantiles={},
        zeros=None, subnormal=None, nan=None, inf=None, entropy=None, histogram=None,
        quantize_error=None, approximate=(),
    )  # fmt: skip
    if figures is None or known is None:
        return row
    moments = figures.moments
    ends = [abs(end) for end in (figures.min, figures.max) if end is not None]
    return row._replace(
        count=figures.elements,
        mean=moments.mean if moments else None,
        std=moments.std if moments else None,
        min=figures.min,
        max=figures.max,
        abs_max=max(ends, default=None),
        l2=moments.l2 if moments else None,
        quantiles=known.quantiles(),
        zeros=figures.zeros,
        subnormal=figures.subnormal,
        nan=figures.nan,
        inf=figures.inf,
        entropy=figures.entropy,
        histogram=known.around(moments) if moments and len(known.values) else None,
        quantize_error=figures.quantize_error,
        approximate=() if figures.exact else ("quantiles", "histogram"),
    )


def _sorted(rows: list[WeightStats], sort: Sort) -> list[WeightStats]:
    if sort == "file":
        return rows
    if sort == "name":
        return sorted(rows, key=lambda row: natural(row.name))
    figure = SORTS[sort]

    def key(row: WeightStats) -> tuple[bool, Any]:
        value = figure(row)
        return value is None, 0 if value is None else -value

    return sorted(rows, key=key)


def _layer_number(name: str) -> int:
    layer = layer_of(name)
    return -1 if layer is None else layer


def _job_nbytes(job: _Job) -> int:
    return job.piece.nbytes
