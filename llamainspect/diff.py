"""Two checkpoints, weight by weight: what only one has, what differs, by how much, and like what.

Both are read under Meta's names and in Meta's order, so that a conversion that changed nothing
shows no difference. Values are streamed; memory does not grow with the checkpoints.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any, NamedTuple

from llamainspect.arrays import decode, place_of, read_elements, shortest_text
from llamainspect.blocks import Memory
from llamainspect.canonical import canonical_weights
from llamainspect.census import EMBEDDING, OUTPUT
from llamainspect.checkpoint import Checkpoint, name_of, open_checkpoint
from llamainspect.config import PARAMS_FILE
from llamainspect.distance import (
    Side,
    Tolerance,
    compare_weights,
    cosine,
    relative,
)
from llamainspect.errors import InvalidRequest, LlamaInspectError, MissingFile, reason_of
from llamainspect.formats.strict_json import read_json_object
from llamainspect.hub_config import IGNORED, is_compared
from llamainspect.hub_names import cross_layers_of, to_hub
from llamainspect.names import (
    COMPONENTS,
    NOT_PARAMETERS,
    component_of,
    compress,
    counted,
    layer_of,
    listing,
)
from llamainspect.progress import finish
from llamainspect.reports import (
    CheckpointDiff,
    ConfigDifference,
    DiffStatus,
    FileProgress,
    Finding,
    GroupDifference,
    Likeness,
    WeightDifference,
    worst_first,
)
from llamainspect.reuse import read_too_often
from llamainspect.rope import LINEAR, choose_rope
from llamainspect.sources import CHANGED, Folder
from llamainspect.subject import Subject, find_subject, subject_of
from llamainspect.value_findings import grouped
from llamainspect.verdicts import Compared, find_likeness
from llamainspect.weights import Weight, rows_of, unnamed_parts
from llamainspect.workers import Meter, in_parallel

MAX_WORKERS = 4  # each has blocks of both sides in memory
# Fields that decide what is computed.
FIELDS = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "norm_eps",
    "rope_theta", "rope_type", "use_qk_norm", "attention_bias", "mlp_bias", "hidden_act",
)  # fmt: skip
GROUPS = ("moe", "vision", "cross_attention", "quantization", "lora")
# Of these groups, what only says how another of their fields came about, or who wrote them.
LEFT_OUT = ("capacity_factor", "auto_scale_F", "native")
# Written by some releases only; compared where both have them.
OPTIONAL = ("nope_layer_interval", "attention_chunk_size", "floor_scale", "attn_scale")
HARMLESS = ("context_length",)
SCALES = ".quantizer."  # in names of the scales of channels, behind the tensor that they are of
OF_SERVING = ("max_batch_size", "max_seq_len")  # in params.json


class DiffOptions(NamedTuple):
    """What is compared, and how closely."""

    config_only: bool = False
    names: str | None = None  # a glob, of Meta's names or of Hugging Face's
    rtol: float | None = None  # of B's value
    atol: float | None = None
    top: int | None = None  # weights that are listed; None: all

    @property
    def tolerant(self) -> bool:
        """Whether values decide, and not their bits."""
        return self.rtol is not None or self.atol is not None

    def check(self) -> None:
        """Raises InvalidRequest for what means nothing."""
        for name, value in (("--rtol", self.rtol), ("--atol", self.atol)):
            if value is not None and not 0 <= value < float("inf"):
                raise InvalidRequest(f"{name}: a number from 0 upwards is needed")
        if self.top is not None and self.top < 0:
            raise InvalidRequest("--top: a whole number from 0 upwards is needed")
        given = (self.names, self.rtol, self.atol)
        if self.config_only and any(value is not None for value in given):
            raise InvalidRequest(
                "--config-only looks at no weights: leave out --names and --rtol/--atol"
            )


EXACTLY = DiffOptions()


def diff_checkpoints(a: str, b: str, options: DiffOptions = EXACTLY) -> CheckpointDiff:
    """Compare two checkpoints in any layout.

    Raises InvalidRequest for options that mean nothing, and what opening a checkpoint raises.
    """
    return finish(comparing(a, b, options))


def comparing(
    path_a: str, path_b: str, options: DiffOptions = EXACTLY
) -> Generator[tuple[FileProgress, ...], None, CheckpointDiff]:
    """`diff_checkpoints`, step by step."""
    options.check()
    begin = monotonic()
    yield ()
    if options.config_only:
        return _compare_configs(find_subject(path_a), find_subject(path_b), begin)
    a, b = _open_both(path_a, path_b)
    whole = _Comparison(a, b, options)
    yield from whole.run()
    return whole.report(begin)


def _open_both(path_a: str, path_b: str) -> tuple["_Half", "_Half"]:
    """Both checkpoints; the configuration of one stands in where the other has none."""
    a, b = open_checkpoint(path_a), open_checkpoint(path_b)
    lent_a = open_checkpoint(path_a, b.config) if a.config is None and b.config else a
    lent_b = open_checkpoint(path_b, a.config) if b.config is None and a.config else b
    return (
        _Half.of(path_a, lent_a, own_config=a.config is not None),
        _Half.of(path_b, lent_b, own_config=b.config is not None),
    )


class _Half(NamedTuple):
    """One of the two."""

    path: str
    checkpoint: Checkpoint
    subject: Subject | None  # None: there is no configuration, not even a lent one
    own_config: bool
    weights: dict[str, Weight]

    @classmethod
    def of(cls, path: str, checkpoint: Checkpoint, own_config: bool) -> "_Half":
        try:
            subject = subject_of(checkpoint)
        except MissingFile:
            subject = None
        return cls(path, checkpoint, subject, own_config, canonical_weights(checkpoint))

    @property
    def tied_output(self) -> bool:
        return self.subject is not None and self.subject.tied_output


# --- configurations -------------------------------------------------------------------------------


def _compare_configs(a: Subject, b: Subject, begin: float) -> CheckpointDiff:
    differences = compare_configs(a, b)
    same = not any(row.matters for row in differences)
    return CheckpointDiff(
        a=a.name, b=b.name,
        format_a=a.checkpoint.format if a.checkpoint else None,
        format_b=b.checkpoint.format if b.checkpoint else None,
        identical=same, same=same, config=tuple(differences),
        weights=(), by_component=(), by_layer=(), counts={}, likeness=None,
        rtol=None, atol=None, nbytes_read=0, seconds=monotonic() - begin, findings=(),
    )  # fmt: skip


def compare_configs(a: Subject, b: Subject) -> list[ConfigDifference]:
    """Fields that are not the same, whatever file and spelling they stand in."""
    values_a, values_b = _values(a), _values(b)
    if a.config.file == b.config.file:  # Hugging Face's default for it is not Meta's
        name = "attn_temperature_tuning"
        values_a[name], values_b[name] = getattr(a.config, name), getattr(b.config, name)
    rows = [
        ConfigDifference(name, values_a.get(name), values_b.get(name), name not in HARMLESS)
        for name in dict.fromkeys((*values_a, *values_b))
        if values_a.get(name) != values_b.get(name) and not _unsaid(name, values_a, values_b)
    ]
    if a.tied_output != b.tied_output:
        rows.append(ConfigDifference("tied_output", a.tied_output, b.tied_output, matters=False))
    return rows + _other_fields(a, b)


def _unsaid(name: str, values_a: dict[str, Any], values_b: dict[str, Any]) -> bool:
    """Whether one of the two says nothing of a field that need not be said."""
    return name in (*OPTIONAL, *HARMLESS) and None in (values_a.get(name), values_b.get(name))


def _values(subject: Subject) -> dict[str, Any]:
    """What decides what a model computes, flat."""
    config = subject.config
    cross = cross_layers_of(config)
    values: dict[str, Any] = {"cross_attention_layers": str(list(cross)) if cross else None}
    values |= {name: getattr(config, name) for name in (*FIELDS, *OPTIONAL, *HARMLESS)}
    if config.rope_type is not None:
        values["rope.factor"] = config.rope_scaling_factor
    for group in GROUPS:
        found = getattr(config, group)
        for key, value in (found._asdict() if found else {}).items():
            if key not in LEFT_OUT:
                values[f"{group}.{key}"] = str(value) if isinstance(value, tuple) else value or None
    scaling = choose_rope(config, subject.official.id if subject.official else None).scaling
    values |= {
        f"rope.{key}": value for key, value in (scaling._asdict() if scaling else {}).items()
    }
    return values


def _other_fields(a: Subject, b: Subject) -> list[ConfigDifference]:
    """Of two files of one kind also what decides nothing here: token ids, dtype, versions."""
    if a.config.file != b.config.file or a.source is None or b.source is None:
        return []
    raw_a, raw_b = (_flat(read_json_object(s.source, s.config.file)) for s in (a, b) if s.source)
    hub = a.config.file != PARAMS_FILE
    foreign = any(s.config.rope_type not in (None, LINEAR) for s in (a, b))
    apart = {*(a.config.unknown or ()), *(b.config.unknown or ()), *OF_SERVING}
    rows = []
    for name in dict.fromkeys((*raw_a, *raw_b)):
        one, other = raw_a.get(name), raw_b.get(name)
        read = is_compared(name, foreign) if hub else name not in apart
        if one != other and not read and not (name == "no_rope_layers" and None in (one, other)):
            harmless = name.partition(".")[0] in (*IGNORED, *OF_SERVING)
            rows.append(ConfigDifference(name, _short(one), _short(other), not harmless))
    return rows


def _flat(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys with a dot for each group; of two spellings of one field the same."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        name = prefix + {"torch_dtype": "dtype", "rope_parameters": "rope_scaling"}.get(key, key)
        if isinstance(value, dict):
            flat |= _flat(value, "" if key == "text_config" else f"{name}.")
        elif value != []:
            flat.setdefault(name, value)
    return flat


def _short(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)[:200]


# --- weights --------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """A weight that both have, and what is to be said if values need not be looked at."""

    name: str
    a: Weight | None
    b: Weight | None
    status: DiffStatus | None  # None: values decide


def _nbytes(pair: _Pair) -> int:
    return pair.a.nbytes if pair.a else 0


class _Comparison:
    """Compares all weights of two checkpoints, several at a time."""

    def __init__(self, a: _Half, b: _Half, options: DiffOptions) -> None:
        self.a, self.b, self.options = a, b, options
        self.pairs = self._match()
        if options.names is not None and not self.pairs:
            raise MissingFile(
                f"{a.path} and {b.path}: no weight is called like {options.names!r}; "
                "`llamainspect tensors` lists them"
            )
        self.compared: list[Compared] = []
        self._by_name: dict[str, Compared] = {}
        self.findings: list[Finding] = []
        self.read = Meter()
        self._refused = self._too_often()
        self._failed: list[Finding] = []  # weights whose bytes could not be read, or are not
        for pair in self.pairs:
            if pair.status is None and pair.name in self._refused:
                self._failed.append(self._refusal(pair))

    def _match(self) -> list[_Pair]:
        """Weights by name; of a tied model the embedding stands for the output it lacks."""
        a, b = dict(self.a.weights), dict(self.b.weights)
        for ours, half, others, other in ((a, self.a, b, self.b), (b, self.b, a, self.a)):
            embedding = ours.get(EMBEDDING)
            needed = OUTPUT in others or (other.subject is not None and not other.tied_output)
            if half.tied_output and embedding is not None and OUTPUT not in ours and needed:
                ours[OUTPUT] = embedding._replace(name=OUTPUT)
        return [
            _Pair(name, a.get(name), b.get(name), self._status(name, a.get(name), b.get(name)))
            for name in dict.fromkeys((*a, *b))
            if self._is_wanted(name)
        ]

    def _is_wanted(self, name: str) -> bool:
        """Whether --names asks for it, by either of its names."""
        glob = self.options.names
        if glob is None:
            return True
        names = {name, to_hub(name, self.a.checkpoint.config or self.b.checkpoint.config)}
        names.add(name.partition(SCALES)[0])  # without them, numbers that are equal mean nothing
        for half in (self.a, self.b):
            if name in half.weights:
                names.add(name_of(half.checkpoint, half.weights[name], "hf"))
        return any(fnmatchcase(one, glob) for one in names)

    def _status(self, name: str, a: Weight | None, b: Weight | None) -> DiffStatus | None:
        if b is None:
            return "only_a"
        if a is None:
            return "only_b"
        if not a.complete or not b.complete:
            return "incomplete"
        if a.shape == b.shape:
            return None
        return "tabulated" if self._is_tabulated(name) else "shape"

    def _is_tabulated(self, name: str) -> bool:
        """Position embeddings of images, in which the two layouts differ on purpose."""
        halves = (self.a.checkpoint, self.b.checkpoint)
        specs = [half.expected.get(name) for half in halves]
        unknown = any(spec is not None and spec.shape is None for spec in specs)
        return unknown and halves[0].format != halves[1].format

    def _too_often(self) -> dict[str, str]:
        """Weights that either side would have read more often than its bytes may be, and why."""
        both = [(pair.a, pair.b) for pair in self.pairs if pair.a and pair.b]
        return read_too_often(b for _, b in both) | read_too_often(a for a, _ in both)

    def _refusal(self, pair: _Pair) -> Finding:
        return Finding("error", pair.name, self._refused[pair.name])

    def run(self) -> Generator[tuple[FileProgress, ...], None, None]:
        """Look at all values; how far it is comes in between."""
        todo = [p for p in self.pairs if p.status is None and p.name not in self._refused]
        total = sum(weight.nbytes for pair in todo for weight in (pair.a, pair.b) if weight)
        # The largest first, so that no core is left with one of them at the end.
        todo.sort(key=_nbytes, reverse=True)
        tolerance = Tolerance(self.options.rtol or 0.0, self.options.atol or 0.0)

        def compare(pair: _Pair, memory: Memory) -> Compared | Finding:
            return self._compare(pair, tolerance, memory)

        for ready in in_parallel(todo, compare, _nbytes, MAX_WORKERS):
            for found in ready:
                self._take(found)
            yield (FileProgress("values", min(self.read.nbytes, total), total),)
        places = {pair.name: place for place, pair in enumerate(self.pairs)}
        self.compared.sort(key=lambda compared: places[compared.name])
        self._check_unchanged()

    def _compare(self, pair: _Pair, tolerance: Tolerance, memory: Memory) -> "Compared | Finding":
        assert pair.a is not None
        assert pair.b is not None
        a, b = Side(self.a.checkpoint, pair.a), Side(self.b.checkpoint, pair.b)
        try:
            distance = compare_weights(a, b, tolerance, memory, self.read.add)
        except (LlamaInspectError, OSError) as error:
            return Finding("error", pair.name, reason_of(error, pair.name))
        return Compared(pair.name, a, b, distance)

    def _take(self, found: "Compared | Finding") -> None:
        if isinstance(found, Compared):
            self.compared.append(found)
        else:
            self._failed.append(found)

    def _check_unchanged(self) -> None:
        for half in (self.a, self.b):
            source = half.checkpoint.source
            for file in source.changed() if isinstance(source, Folder) else ():
                self.findings.append(Finding("error", f"{half.path}: {file}", CHANGED))

    # --- the report ---

    def report(self, begin: float) -> CheckpointDiff:
        """All of it; what a rule has to read again is read here."""
        rows = self._rows()
        config = self._config()
        rows.sort(key=_moved_most)
        counts = Counter(row.status for row in rows)
        harmless = {"identical", "tabulated"}
        wanted = [row for row in rows if not _is_buffer(row)]
        same_config = not any(row.matters for row in config)
        identical = same_config and all(row.status in harmless for row in wanted)
        within = harmless | {"equal", "close"}
        same = identical or (
            self.options.tolerant and same_config and all(row.status in within for row in wanted)
        )
        return CheckpointDiff(
            a=self.a.path,
            b=self.b.path,
            format_a=self.a.checkpoint.format,
            format_b=self.b.checkpoint.format,
            identical=identical,
            same=same,
            config=tuple(config),
            weights=tuple(self._located(row) for row in rows[: self.options.top]),
            by_component=self._groups(component_of, COMPONENTS),
            by_layer=self._groups(_layer_name, self._layers()),
            counts={str(status): count for status, count in counts.items()},
            likeness=None if same else self._likeness(rows),
            rtol=self.options.rtol,
            atol=self.options.atol,
            nbytes_read=self.read.nbytes,
            seconds=monotonic() - begin,
            findings=tuple(worst_first([*self._problems(rows), *self.findings])),
        )

    def _likeness(self, rows: list[WeightDifference]) -> Likeness | None:
        """What it looks like; not what needs all weights, where some were not looked at."""
        chosen = self.options.names is not None
        wanted = [row for row in rows if not _is_buffer(row)]
        whole = not chosen and all(row.changed is not None for row in wanted)
        try:
            return find_likeness(self.compared, whole, chosen)
        except (LlamaInspectError, OSError) as error:
            message = f"what the difference looks like is not known: {reason_of(error, '')}"
            self.findings.append(Finding("note", self.b.path, message))
            return None

    def _config(self) -> list[ConfigDifference]:
        own = self.a.own_config and self.b.own_config
        if not own or self.a.subject is None or self.b.subject is None:
            return []
        return compare_configs(self.a.subject, self.b.subject)

    def _rows(self) -> list[WeightDifference]:
        self._by_name = {compared.name: compared for compared in self.compared}
        return [
            _row_of(self._by_name[pair.name], self._judged(self._by_name[pair.name]))
            if pair.name in self._by_name
            else _row_without_values(pair, pair.status or "incomplete")
            for pair in self.pairs
        ]

    def _located(self, row: WeightDifference) -> WeightDifference:
        """With the first element that changed: its values, and where they are stored."""
        index = row.first
        if index is None:
            return row
        compared = self._by_name[row.name]
        sides = (compared.a, compared.b)
        places = [place_of(side.checkpoint, side.weight, index) for side in sides]
        texts = [f"{file} @ {offset:,}" for file, offset in places]
        values = [_value(side, index) for side in sides]
        if values[0] == values[1]:  # the shortest texts of two types may be the same
            values = [_value(side, index, exact=True) for side in sides]
        return row._replace(
            value_a=values[0], value_b=values[1], place_a=texts[0], place_b=texts[1]
        )

    def _judged(self, compared: Compared) -> DiffStatus:
        distance = compared.distance
        if distance.same_bits:
            return "identical"
        if distance.changed == 0:
            return "equal"
        return "close" if self.options.tolerant and distance.outside == 0 else "changed"

    def _layers(self) -> list[str]:
        """Names of the layers in their order, which is not that of every file."""
        numbers = {layer_of(compared.name) for compared in self.compared}
        return [f"layer {number}" for number in sorted(n for n in numbers if n is not None)]

    def _groups(
        self, key: Callable[[str], str], order: Iterable[str]
    ) -> tuple[GroupDifference, ...]:
        groups: dict[str, list[Compared]] = {name: [] for name in order}
        for compared in self.compared:
            if name := key(compared.name):
                groups.setdefault(name, []).append(compared)
        return tuple(_group(name, found) for name, found in groups.items() if found)

    def _problems(self, rows: list[WeightDifference]) -> list[Finding]:
        """What keeps the two from being compared, and what was wrong with either before."""
        findings = [
            finding._replace(where=f"{half.path}: {finding.where}")
            for half in (self.a, self.b)
            for finding in half.checkpoint.findings
            if finding.severity != "note"
            and (half.own_config or finding.where != half.checkpoint.config_file)
        ]
        for half in (self.a, self.b):
            if not half.own_config:
                message = "no configuration that is known here, so no fields were compared"
                if half.subject is None:
                    message += ", and the order of rows of wq and wk is taken as it stands"
                where = f"{half.path}: {half.checkpoint.reader.CONFIG_FILE}"
                findings.append(Finding("note", where, message))
        findings += [self._resized(pair) for pair in self.pairs if _is_resized(pair)]
        one_matrix = [_has_one_matrix(half.weights) for half in (self.a, self.b)]
        if {*one_matrix} == {True, False} and self._is_wanted(OUTPUT):
            tied, other = "AB" if one_matrix[0] else "BA"
            message = f"in {tied} it has the bytes of the embedding, in {other} its own"
            findings.append(Finding("note", OUTPUT, message))
        incomplete = [row.name for row in rows if row.status == "incomplete"]
        findings += grouped("error", [(f.where, f.message) for f in self._failed])
        failed = {finding.where for finding in self._failed}
        incomplete = [name for name in incomplete if name not in failed]
        if incomplete:
            message = "not compared: parts of it are in shards that cannot be read"
            findings.append(Finding("error", listing(compress(incomplete)), message))
        findings += _not_finite(rows)
        if tabulated := [row.name for row in rows if row.status == "tabulated"]:
            message = (
                "not compared: Hugging Face's layout holds position embeddings worked out for each "
                "arrangement of tiles, Meta's holds what they are worked out from"
            )
            findings.append(Finding("note", listing(compress(tabulated)), message))
        if buffers := [row.name for row in rows if _is_buffer(row)]:
            message = "no weight of the model: worked out anew by whoever loads it"
            where = listing(compress(buffers))
            findings.append(Finding("note", where, f"in one of the two; {message}"))
        return findings

    def _resized(self, pair: _Pair) -> Finding:
        """What became of the rows that both vocabularies have."""
        assert pair.a is not None
        assert pair.b is not None
        if pair.name in self._refused:
            return self._refusal(pair)
        rows = min(pair.a.shape[0], pair.b.shape[0])
        a = Side(self.a.checkpoint, rows_of(pair.a, 0, rows))
        b = Side(self.b.checkpoint, rows_of(pair.b, 0, rows))
        try:
            changed = compare_weights(a, b).changed
        except (LlamaInspectError, OSError) as error:
            return Finding("error", pair.name, reason_of(error, pair.name))
        share = f"{changed:,} of {a.weight.elements:,} elements" if changed else "nothing"
        message = (
            f"the vocabulary was resized, from {pair.a.shape[0]:,} to {pair.b.shape[0]:,}; in the "
            f"first {rows:,} rows, which both have, {share} changed"
        )
        return Finding("note", pair.name, message)


def _has_one_matrix(weights: dict[str, Weight]) -> bool | None:
    """Whether output and embedding are two names for the same bytes; None: not both are there."""
    both = [weights[name] for name in (OUTPUT, EMBEDDING) if name in weights]
    if len(both) < 2:
        return None
    return unnamed_parts(both[0]) == unnamed_parts(both[1])


def _is_resized(pair: _Pair) -> bool:
    both = pair.a is not None and pair.b is not None and pair.status == "shape"
    if not both or not pair.name.endswith((OUTPUT, EMBEDDING)):
        return False
    assert pair.a is not None
    assert pair.b is not None
    return len(pair.a.shape) == 2 and pair.a.shape[1:] == pair.b.shape[1:]


def _not_finite(rows: list[WeightDifference]) -> list[Finding]:
    """NaN and Inf that only one of the two has: no figure shows them."""
    findings = []
    for side, other in (("A", "B"), ("B", "A")):
        names = []
        for row in rows:
            counts = {"A": row.not_finite_a or 0, "B": row.not_finite_b or 0}
            if counts[side] > counts[other]:
                names.append(row.name)
        if names:
            weights = counted(len(names), "weight")
            message = (
                f"NaN or Inf in {side} where {other} has numbers, in {weights}; they are left out "
                "of the figures"
            )
            findings.append(Finding("warning", listing(compress(names)), message))
    return findings


def _is_buffer(row: WeightDifference) -> bool:
    return row.status in ("only_a", "only_b") and row.component == "buffers"


def _layer_name(name: str) -> str:
    layer = layer_of(name)
    return "" if layer is None else f"layer {layer}"


_ORDER = (
    "shape",
    "only_a",
    "only_b",
    "incomplete",
    "changed",
    "close",
    "equal",
    "tabulated",
    "identical",
)


def _moved_most(row: WeightDifference) -> tuple[int, float]:
    """What has no numbers first, then what moved most; the rest as in the files."""
    beside = row.component in NOT_PARAMETERS and row.status in ("only_a", "only_b")
    if beside:  # scales, adapters: many, and not the weights themselves
        return len(_ORDER), 0.0
    moved = row.rel_l2 if row.rel_l2 is not None else float("inf")
    if (row.not_finite_a or 0) != (row.not_finite_b or 0):
        moved = float("inf")
    return _ORDER.index(row.status), -moved if row.changed else 0.0


def _row_without_values(pair: _Pair, status: DiffStatus) -> WeightDifference:
    some = pair.a or pair.b
    assert some is not None
    return WeightDifference(
        name=pair.name,
        status=status,
        component=component_of(pair.name),
        layer=layer_of(pair.name),
        shape_a=pair.a.shape if pair.a else None,
        shape_b=pair.b.shape if pair.b else None,
        dtype_a=pair.a.parts[0].dtype.name if pair.a else None,
        dtype_b=pair.b.parts[0].dtype.name if pair.b else None,
        elements=some.elements,
        changed=None, max_abs=None, rel_l2=None, cosine=None, first=None, last=None,
        value_a=None, value_b=None, place_a=None, place_b=None,
        not_finite_a=None, not_finite_b=None,
    )  # fmt: skip


def _row_of(compared: Compared, status: DiffStatus) -> WeightDifference:
    found = compared.distance
    pair = _Pair(compared.name, compared.a.weight, compared.b.weight, status)
    same = found.changed == 0
    return _row_without_values(pair, status)._replace(
        changed=found.changed,
        max_abs=found.max_abs,
        rel_l2=0.0 if same and found.max_abs is not None else found.rel_l2,
        cosine=1.0 if same and found.max_abs is not None else found.cosine,
        first=found.first,
        last=found.last,
        not_finite_a=found.not_finite[0],
        not_finite_b=found.not_finite[1],
    )


def _value(side: Side, index: tuple[int, ...], exact: bool = False) -> str:
    """One element, in the shortest text that no other value of its type has, or in full."""
    window = tuple(range(i, i + 1) for i in index)
    elements, _ = read_elements(side.checkpoint, side.weight, window)
    values = decode(elements, side.weight.parts[0])
    if values is None:
        return elements[0].hex()
    layout = side.dtype.small_float
    if exact:
        return repr(values[0].item())
    return shortest_text(float(values[0]), layout) if layout else str(values[0])


def _group(name: str, found: list[Compared]) -> GroupDifference:
    distances = [compared.distance for compared in found]
    changed = [distance for distance in distances if distance.changed]
    known = [distance.max_abs for distance in distances if distance.max_abs is not None]
    moved: float | None = 0.0
    angle: float | None = 1.0
    max_abs = max(known) if known else None
    if changed:
        # Of weights that are the same no sums were made: the figures are of those that changed.
        square_a = sum(distance.square_a for distance in changed)
        moved = relative(sum(distance.square for distance in changed), square_a, max_abs)
        angle = cosine(
            sum(distance.product for distance in changed),
            square_a,
            sum(distance.square_b for distance in changed),
            max_abs,
        )
    return GroupDifference(
        name=name,
        weights=len(found),
        weights_changed=len(changed),
        elements=sum(distance.elements for distance in distances),
        changed=sum(distance.changed for distance in distances),
        max_abs=max_abs,
        rel_l2=moved,
        cosine=angle,
    )
