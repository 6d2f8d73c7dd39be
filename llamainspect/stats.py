"""The weights themselves: every value is read once, and what is wrong or stands out is named.

Values are streamed: memory grows with the number of weights, not with their length.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any, Literal, NamedTuple

from llamainspect.arrays import place_of, stored_place
from llamainspect.blocks import Memory, has_values
from llamainspect.canonical import canonical_weights
from llamainspect.checkpoint import Checkpoint, name_of, open_checkpoint
from llamainspect.counted import Counted, Figures, Gathering, GroupCounts, figures_of_group
from llamainspect.distribution import Distribution
from llamainspect.dtypes import DTYPES, DType
from llamainspect.errors import InvalidRequest, LlamaInspectError, MissingFile, reason_of
from llamainspect.footprint import BLOCK_LINEARS, WeightForm, weight_form
from llamainspect.lookup import find_weight
from llamainspect.names import (
    COMPONENTS,
    component_of,
    layer_of,
    listing,
    natural,
)
from llamainspect.profiles import departures, kind_of, profile_layers
from llamainspect.progress import finish
from llamainspect.reports import (
    FileProgress,
    Finding,
    NotFinite,
    StatsReport,
    WeightPlot,
    WeightStats,
    worst_first,
)
from llamainspect.reuse import read_too_often
from llamainspect.sources import CHANGED, Folder
from llamainspect.tally import (
    MAX_PLACES,
    MAX_ROW_ELEMENTS,
    Place,
    Slice,
    Tally,
    count_values,
    index_of,
    slices_of,
)
from llamainspect.value_findings import copy_finding, grouped, judge_values, narrow_finding
from llamainspect.weights import Weight, unnamed_parts
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
MAX_WORKERS = 12  # each takes 18 MiB at most, and so many are faster than any disk
PLOT_BINS = 60  # they fit into 80 columns
MAX_LOCATED = 2_000  # NaN and Inf that are located in all


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


def stream_stats(
    path: str, options: StatsOptions = EVERYTHING
) -> Generator[WeightStats, None, StatsReport]:
    """Figures of each weight while others are still read; the report is returned.

    They come about in the order of layers, whatever `sort` says, and all of them. Weights that are
    others' bytes, and those that cannot be read, are in the report alone. Raises what
    `compute_stats` raises.
    """
    options.check()
    begin = monotonic()
    scan = _Scan(open_checkpoint(path), options)
    for _ in scan.run():
        yield from scan.new_rows()
    yield from scan.new_rows()
    return scan.report(begin)


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
        if _is_called(name, pattern) or _is_called(name_of(checkpoint, weight, "hf"), pattern)
    }
    if not chosen:
        raise MissingFile(
            f"{checkpoint.source.place}: no weight is called like {pattern!r}; "
            "`llamainspect tensors` lists them"
        )
    return chosen


def _is_called(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)  # a name may hold brackets


def _plotted(checkpoint: Checkpoint, weights: dict[str, Weight], name: str) -> dict[str, Weight]:
    """One weight by either of its names."""
    if name not in weights:
        stored = find_weight(checkpoint, name)
        places = {(part.name, part.storage) for part in stored.parts}
        pieces = [
            weight.name
            for weight in weights.values()
            if {(part.name, part.storage) for part in weight.parts} <= places
        ]
        if stored.name not in weights and len(pieces) > 1:
            raise MissingFile(
                f"{checkpoint.source.place}: {name} holds several weights; name one of them: "
                f"{listing(pieces, 9)}"
            )
        name = stored.name if stored.name in weights else pieces[0]
    return {name: weights[name]}


def _twins(weights: dict[str, Weight]) -> dict[str, str]:
    """Weights whose bytes are those of an earlier one, and which (tied outputs)."""
    first: dict[Any, str] = {}
    same = {}
    for name, weight in weights.items():
        place = unnamed_parts(weight)
        if first.setdefault(place, name) != name and weight.complete:
            same[name] = first[place]
    return same


# --- reading it all -------------------------------------------------------------------------------


class _Scan:
    """Reads the weights of a checkpoint and keeps what the report is made of."""

    def __init__(self, checkpoint: Checkpoint, options: StatsOptions) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.weights = _chosen(checkpoint, options)
        self.same_as = _twins(self.weights)
        self.meter = Meter()
        self.rows: dict[str, WeightStats] = {}
        self._new: list[WeightStats] = []  # of these, what nobody asked for yet
        self.places: dict[str, tuple[Place, ...]] = {}  # of what is not finite
        self.narrow: set[str] = set()  # stored wider than their values need
        self.failed: dict[str, str] = {}  # and why
        self.plot: WeightPlot | None = None
        self.components = {name: _Group(name) for name in COMPONENTS}
        self.layer_rows: dict[int, WeightStats] = {}
        self._layers: dict[int, _Group] = {}  # those that are not yet read to their end
        self._open: dict[str, Gathering] = {}
        # A layer's counts are kept until its last weight is read, so layer by layer.
        todo = [weight for weight in self.weights.values() if self._is_read(weight)]
        self._todo = sorted(todo, key=lambda weight: _layer_number(weight.name))
        self._left = Counter(layer_of(weight.name) for weight in todo)
        self.failed |= read_too_often(self._todo)

    def _is_read(self, weight: Weight) -> bool:
        return _has_values(weight) and weight.complete and weight.name not in self.same_as

    def run(self) -> Generator[tuple[FileProgress, ...], None, None]:
        """Look at all values; how far it is comes in between."""
        total = sum(weight.nbytes for weight in self._todo if weight.name not in self.failed)
        for ready in in_parallel(self._slices(), self._work, _nbytes, MAX_WORKERS):
            for piece, found in ready:
                self._take(piece, found)
            yield (FileProgress("values", min(self.meter.nbytes, total), total),)

    def _slices(self) -> Iterator[Slice]:
        for weight in self._todo:
            failed = weight.name in self.failed
            pieces = [] if failed else list(slices_of(weight, self._form(weight)))
            self._open[weight.name] = Gathering(weight, len(pieces))
            if not pieces:
                self._finish(weight)
            yield from pieces

    def _form(self, weight: Weight) -> WeightForm | None:
        """What a weight is sent through: the linear layers of the blocks, and nothing else."""
        return self.options.form if _is_quantisable(weight) else None

    def _work(self, piece: Slice, memory: Memory) -> tuple[Slice, Tally | str]:
        """A slice counted, or why it could not be."""
        try:
            found = count_values(self.checkpoint, piece, memory)
        except (LlamaInspectError, OSError) as error:
            return piece, reason_of(error, piece.weight.name)
        self.meter.add(piece.nbytes)
        return piece, found

    def _take(self, piece: Slice, found: Tally | str) -> None:
        weight = piece.weight
        gathering = self._open[weight.name]
        if isinstance(found, str):
            self.failed.setdefault(weight.name, found)
        else:
            gathering.add(piece, found)
        gathering.left -= 1
        if not gathering.left:
            self._finish(weight)

    def _finish(self, weight: Weight) -> None:
        """All of a weight was read."""
        gathering = self._open.pop(weight.name)
        if weight.name not in self.failed:
            self._keep(weight, gathering.finish())
        layer = layer_of(weight.name)
        self._left[layer] -= 1
        if layer is not None and not self._left[layer] and layer in self._layers:
            self.layer_rows[layer] = self._layers.pop(layer).row()

    def _keep(self, weight: Weight, counted: Counted) -> None:
        name, layer = weight.name, layer_of(weight.name)
        known = counted.distribution
        self.rows[name] = _weight_row(weight, counted.figures, known)
        self._new.append(self.rows[name])
        self.components[component_of(name)].add(weight, counted)
        if layer is not None:
            self._layers.setdefault(layer, _Group(f"layer {layer}")).add(weight, counted)
        if counted.narrow and counted.figures.min is not None:
            self.narrow.add(name)
        if counted.not_finite:
            self.places[name] = counted.not_finite[:MAX_PLACES]
        if self.options.plot is not None and _is_drawn(counted.figures, known):
            bins = known.histogram(float(known.values[0]), float(known.values[-1]), PLOT_BINS)
            self.plot = WeightPlot(name, bins, self.options.logarithmic)

    def new_rows(self) -> list[WeightStats]:
        """What has become known since this was last asked."""
        new, self._new = self._new, []
        return new

    # --- the report ---

    def report(self, begin: float) -> StatsReport:
        """All of it."""
        rows = [self._listed(weight) for weight in self.weights.values()]
        own = [row for row in rows if row.same_as is None]
        order = {kind_of(name): i for i, name in enumerate(self.checkpoint.expected)}
        profile = profile_layers(own, order)
        groups = [group for group in self.components.values() if group.members]
        located = self._located()
        in_copies, of_copies, copies = self._copies()
        options = self.options
        return StatsReport(
            path=self.checkpoint.source.place,
            format=self.checkpoint.format,
            pattern=options.pattern,
            sort=options.sort,
            count=len(rows),
            unread=sum(row.zeros is None for row in rows),
            total=_together("all", groups).row(),
            weights=tuple(_sorted(rows, options.sort)[: options.top]),
            by_component=tuple(group.row() for group in groups),
            by_layer=tuple(row for _, row in sorted(self.layer_rows.items())),
            profile=profile,
            departures=departures(profile),
            not_finite=(*(place for places in located.values() for place in places), *of_copies),
            not_finite_in_copies=in_copies,
            quantize=options.form.text if options.form else None,
            plot=self.plot,
            nbytes_read=self.meter.nbytes,
            seconds=monotonic() - begin,
            findings=tuple(
                worst_first(
                    [
                        *self.checkpoint.problems,
                        *judge_values(own, located),
                        *copies,
                        *self._unread(),
                        *narrow_finding([row for row in own if row.name in self.narrow]),
                    ]
                )
            ),
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

    def _located(self) -> dict[str, list[NotFinite]]:
        """What is not finite, by weight: its index and where it is stored."""
        located: dict[str, list[NotFinite]] = {}
        left = MAX_LOCATED
        for name, weight in self.weights.items():
            places = self.places.get(name, ())[:left]
            left -= len(places)
            if places:
                located[name] = [_locate(self.checkpoint, weight, place) for place in places]
        return located

    def _copies(self) -> tuple[int, list[NotFinite], list[Finding]]:
        """NaN and Inf in copies that shards keep of a weight (the norms), where these differ."""
        total, located, findings = 0, list[NotFinite](), list[Finding]()
        for weight in self._todo:
            if not _may_differ(weight):
                continue
            for part in weight.parts[1:]:
                copy = weight._replace(parts=(part,))
                if (counted := _count_alone(self.checkpoint, copy)) and counted.not_finite:
                    some = counted.not_finite[:MAX_PLACES]
                    places = [_locate(self.checkpoint, copy, place) for place in some]
                    number = counted.figures.nan + counted.figures.inf
                    findings.append(copy_finding(weight.name, places, number))
                    located += places
                    total += number
        return total, located, findings

    def _unread(self) -> list[Finding]:
        """What could not be looked at, and why."""
        weights = self.weights.values()
        reasons = [(name, self.failed[name]) for name in self.weights if name in self.failed]
        lost = "not looked at: parts of it are in shards that cannot be read"
        reasons += [(weight.name, lost) for weight in weights if not weight.complete]
        findings = grouped("error", reasons)
        unknown = "no figures: nothing here knows the values of this dtype"
        notes = [(weight.name, unknown) for weight in weights if not _has_values(weight)]
        if self.options.form is not None:
            without = [weight for weight in weights if self._has_no_trip(weight)]
            notes += [(weight.name, _why_no_trip(weight)) for weight in without]
            if not any(self._form(weight) for weight in weights):
                nothing = "nothing to quantise: no linear layer of a block in floats is among these"
                notes.append((self.checkpoint.source.place, nothing))
        findings += grouped("note", notes)
        source = self.checkpoint.source
        for file in source.changed() if isinstance(source, Folder) else ():
            findings.append(Finding("error", file, CHANGED))
        return findings

    def _has_no_trip(self, weight: Weight) -> bool:
        """Whether a weight that has values could not be sent through quantisation."""
        row = self.rows.get(weight.name)
        return (
            row is not None
            and _is_quantisable(weight)
            and row.quantize_error is None
            and bool(row.abs_max)
            and not row.nan
            and not row.inf
        )


def _why_no_trip(weight: Weight) -> str:
    if weight.shape[-1] > MAX_ROW_ELEMENTS:
        return f"no round trip: its rows have more than {MAX_ROW_ELEMENTS:,} values"
    return "no round trip: its rows lie scattered in the file, which is transposed"


def _may_differ(weight: Weight) -> bool:
    """Whether shards keep copies of it that are not known to be the same."""
    sums = {part.storage.crc32 for part in weight.parts}
    return weight.axis is None and len(weight.parts) > 1 and (None in sums or len(sums) > 1)


def _count_alone(checkpoint: Checkpoint, weight: Weight) -> Counted | None:
    """A small weight, here and now; None when it cannot be read, which is said elsewhere."""
    pieces = list(slices_of(weight, None))
    gathering, memory = Gathering(weight, len(pieces)), Memory()
    try:
        for piece in pieces:
            gathering.add(piece, count_values(checkpoint, piece, memory))
    except (LlamaInspectError, OSError):
        return None
    return gathering.finish()


def _has_values(weight: Weight) -> bool:
    return all(has_values(part.dtype) for part in weight.parts)


def _is_quantisable(weight: Weight) -> bool:
    """Whether it is a linear layer of a block, in floats: whole numbers were quantised before."""
    dtype = weight.parts[0].dtype
    linear = component_of(weight.name) in BLOCK_LINEARS and len(weight.shape) >= 2
    return linear and (dtype.small_float is not None or dtype.name in ("F16", "F32", "F64"))


def _nbytes(piece: Slice) -> int:
    return piece.nbytes


def _locate(checkpoint: Checkpoint, weight: Weight, place: Place) -> NotFinite:
    index = index_of(weight, place)
    file, offset = place_of(checkpoint, weight, index)
    part, stored_index = stored_place(weight, index)
    return NotFinite(
        name=weight.name,
        layer=layer_of(weight.name),
        index=index,
        value=str(place.value),
        place=f"{file} @ {offset:,}",
        stored_name=part.name,
        stored_index=stored_index,
    )


# --- rows -----------------------------------------------------------------------------------------


class _Group:
    """All weights of a component or a layer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: list[Figures] = []
        self.dtypes: set[str] = set()
        self.counts = GroupCounts()

    def add(self, weight: Weight, counted: Counted) -> None:
        """One more weight."""
        self.members.append(counted.figures)
        self.dtypes.add(weight.parts[0].dtype.name)
        self.counts.add(counted)

    def row(self) -> WeightStats:
        """The group as a row."""
        figures = figures_of_group(self.members)
        row = _row(self.name, figures, self.counts.distribution(figures))
        widths = {_bits(DTYPES[name]) for name in self.dtypes}
        return row._replace(
            weights=len(self.members),
            dtype=", ".join(sorted(self.dtypes)),
            bits=widths.pop() if len(widths) == 1 else None,
        )


def _together(name: str, groups: list[_Group]) -> _Group:
    """All weights of some groups."""
    whole = _Group(name)
    for group in groups:
        whole.members += group.members
        whole.dtypes |= group.dtypes
        whole.counts.join(group.counts)
    return whole


def _weight_row(weight: Weight, figures: Figures | None, known: Distribution | None) -> WeightStats:
    return _row(weight.name, figures, known)._replace(
        component=component_of(weight.name),
        layer=layer_of(weight.name),
        shape=weight.shape,
        dtype=weight.parts[0].dtype.name,
        bits=_bits(weight.parts[0].dtype),
        count=weight.elements,
    )


def _bits(dtype: DType) -> float:
    return 8 * dtype.block_bytes / dtype.block_elements


def _row(name: str, figures: Figures | None, known: Distribution | None) -> WeightStats:
    row = WeightStats(
        name=name, component=None, layer=None, shape=None, dtype="", bits=None, weights=1,
        same_as=None, count=0, mean=None, std=None, min=None, max=None, abs_max=None, l2=None,
        quantiles={}, zeros=None, subnormal=None, nan=None, inf=None, entropy=None,
        entropy_count=0, histogram=None, quantize_error=None, approximate=(),
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
        l2=moments.l2 if moments and math.isfinite(moments.l2) else None,
        quantiles=known.quantiles(),
        zeros=figures.zeros,
        subnormal=figures.subnormal,
        nan=figures.nan,
        inf=figures.inf,
        entropy=figures.entropy,
        entropy_count=figures.entropy_elements,
        histogram=known.around(moments) if moments and _is_drawn(figures, known) else None,
        quantize_error=figures.quantize_error,
        approximate=() if known.exact else ("quantiles", "histogram"),
    )


def _is_drawn(figures: Figures, known: Distribution) -> bool:
    return figures.moments is not None and known.fine and len(known.values) > 0


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
