"""Everything a command can answer. Plain frozen data: this file is the JSON schema.

Units: bytes and counts are integers. Fields are a promise: added, never renamed.
Rows are named tuples, which cost a fifth of a dataclass at start-up; reports are dataclasses, since
they share a base.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

Severity = Literal["error", "warning", "note"]
Match = Literal["exact", "architecture", "none"]
FileStatus = Literal["ok", "mismatch", "missing", "unlisted", "unreadable", "unchecked"]
WRONG_STATUSES = frozenset({"mismatch", "missing", "unreadable"})
DamageState = Literal["differs", "cut", "absent"]


class Finding(NamedTuple):
    """Something a person should know: what was expected, what is there, the likely cause."""

    severity: Severity
    where: str  # a file, or a tensor name; {0-31} stands for a range of layers
    message: str


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order given."""
    order = get_args(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


@dataclass(frozen=True)
class Report:
    """Base of all answers. `ok` is false when the answer is no, and then the exit code is 1."""

    NAME: ClassVar[str]

    @property
    def ok(self) -> bool:
        """Good unless a subclass knows better."""
        return not any(finding.severity == "error" for finding in getattr(self, "findings", ()))


class FileEntry(NamedTuple):
    """One weight file of the checkpoint."""

    file: str
    nbytes: int
    tensors: int
    readable: bool


class ModelMatch(NamedTuple):
    """Which official model this is."""

    name: str | None  # catalog id
    match: Match  # exact: settings, every shape, dtype, count and shards; architecture: shapes
    same_configuration: tuple[str, ...]  # other ids that the files alone cannot tell apart
    differences: tuple[str, ...]  # from `name`, when the match is of the architecture only
    repository: str | None  # on the Hugging Face hub
    context_length: int | None  # tokens, as published


class LayerCount(NamedTuple):
    """Parameters of one transformer layer."""

    layer: int
    parameters: int


class Parameters(NamedTuple):
    """Parameter counts: each weight once, however often it is stored."""

    total: int  # unique
    stored: int  # naive sum over names: tied weights, repeated heads and buffers counted
    by_component: dict[str, int]  # sums to `total`
    by_layer: tuple[LayerCount, ...]
    active: int | None  # text weights that one token visits, where experts are routed; else null


class StoredForm(NamedTuple):
    """Weights that are kept in the same way."""

    form: str  # "bf16", "fp8", "int8", "int4"
    dtype: str  # that the files keep the values in
    group: int | None  # neighbours of a row that share a scale; null: a row, or there are no scales
    weights: int  # in number
    elements: int
    values_nbytes: int
    scales_nbytes: int  # and zero points
    adaptors_nbytes: int
    components: tuple[str, ...]


@dataclass(frozen=True)
class Summary(Report):
    """`summary`: what a checkpoint is and whether it is whole."""

    NAME: ClassVar[str] = "summary"

    path: str
    format: str
    shards: int
    files: tuple[FileEntry, ...]
    model: ModelMatch
    config: dict[str, Any] | None  # Meta's names, derived values included
    parameters: Parameters
    tied_output: bool
    nbytes: int  # of all tensors in all files, shared storage once
    nbytes_by_dtype: dict[str, int]
    stored_as: tuple[StoredForm, ...]
    tokenizer: dict[str, Any] | None  # kind and vocab_size of tokenizer.model
    findings: tuple[Finding, ...]


class TensorPart(NamedTuple):
    """Where one shard keeps its part."""

    file: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    contiguous: bool
    dtype: str
    offset: int  # of the first element, from the start of the file
    nbytes: int
    storage: str  # the format's name for the bytes, shared by tied weights


class TensorEntry(NamedTuple):
    """One weight, whole."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    nbytes: int  # of the whole, each element once
    axis: int | None  # along which shards cut it; null: not cut (one file, or copies)
    files: tuple[str, ...]
    component: str
    layer: int | None
    parts: tuple[TensorPart, ...] = ()  # with --per-shard


@dataclass(frozen=True)
class TensorList(Report):
    """`tensors`: the weights, filtered and sorted as asked."""

    NAME: ClassVar[str] = "tensors"

    path: str
    pattern: str | None
    tensors: tuple[TensorEntry, ...]
    count: int  # of those listed
    elements: int
    nbytes: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class TensorDetail(Report):
    """`show`: one weight and a corner of its values."""

    NAME: ClassVar[str] = "show"

    path: str
    tensor: TensorEntry
    start: tuple[int, ...]  # index of the first value shown
    stored: tuple[tuple[str, ...], ...]  # values in their own dtype, shortest exact text
    float32: tuple[tuple[float | None, ...], ...] | None  # null where not finite
    nbytes_read: int
    findings: tuple[Finding, ...]


DiffStatus = Literal[
    "identical", "equal", "close", "changed", "shape", "only_a", "only_b", "incomplete", "tabulated"
]


class ConfigDifference(NamedTuple):
    """One field of the configuration that is not the same."""

    field: str  # Meta's name where it has one
    a: str | int | float | bool | None
    b: str | int | float | bool | None
    matters: bool  # false: it changes nothing of what the model computes


class WeightDifference(NamedTuple):
    """One weight in two checkpoints. Numbers are null where values were not compared."""

    name: str  # Meta's
    # identical: to the last bit; equal: the same values, stored in another way; close: within the
    # tolerance; changed; shape: of another; incomplete: parts are missing; tabulated: Hugging Face
    # stores it worked out for each arrangement of image tiles.
    status: DiffStatus
    component: str
    layer: int | None
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    dtype_a: str | None
    dtype_b: str | None
    elements: int
    changed: int | None  # elements of another value
    max_abs: float | None
    rel_l2: float | None  # length of the difference as a share of A's
    cosine: float | None
    first: tuple[int, ...] | None  # index of the first element that changed, as it is stored
    last: tuple[int, ...] | None
    value_a: str | None  # of the first that changed
    value_b: str | None
    place_a: str | None  # where that is stored: "file @ byte"
    place_b: str | None
    not_finite_a: int | None  # NaN and Inf; left out of the figures
    not_finite_b: int | None


class GroupDifference(NamedTuple):
    """The weights of one component or layer together; figures are of those that changed."""

    name: str
    weights: int
    weights_changed: int
    elements: int
    changed: int
    max_abs: float | None
    rel_l2: float | None
    cosine: float | None


class Likeness(NamedTuple):
    """What a difference looks like."""

    # "not_finite", "dtype", "row_order", "swapped_shards", "damage", "rounding", "lora",
    # "quantised", "fine_tune", "unrelated"
    kind: str
    message: str


@dataclass(frozen=True)
class CheckpointDiff(Report):
    """`diff`: what is not the same in two checkpoints."""

    NAME: ClassVar[str] = "diff"

    a: str
    b: str
    format_a: str | None  # null: a configuration alone
    format_b: str | None
    identical: bool  # nothing differs, to the last bit
    same: bool  # nothing differs by more than was asked for
    config: tuple[ConfigDifference, ...]
    weights: tuple[WeightDifference, ...]  # what moved most first
    by_component: tuple[GroupDifference, ...]
    by_layer: tuple[GroupDifference, ...]
    counts: dict[str, int]  # weights by status
    likeness: Likeness | None
    rtol: float | None
    atol: float | None
    nbytes_read: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good when they are the same."""
        return super().ok and self.same


class FileProgress(NamedTuple):
    """How far one file has been read; what a progress bar shows."""

    file: str  # or what else is being done
    done: int  # bytes, or `unit`
    nbytes: int
    unit: str = "bytes"


class Damage(NamedTuple):
    """A record of a weight file whose bytes are not those that were saved."""

    record: str  # the format's name: "data/17" in a .pth
    tensors: tuple[str, ...]  # names that view it; empty when it holds no tensor
    layer: int | None
    start: int  # range of bytes in the file: what differs, or what is there of a cut record
    end: int
    state: DamageState
    flipped_bit: int | None = None  # 8 * byte + bit from the start of the file, when that is all


class FileChecksum(NamedTuple):
    """One file held against one digest, or against what it says of itself."""

    file: str  # relative to the directory
    nbytes: int | None  # null where there is no such file
    algorithm: str | None  # "md5", "sha256", "git-blob-sha1", ...; "crc32": by its own sums alone
    expected: str | None  # hex
    actual: str | None
    status: FileStatus
    message: str
    damaged: tuple[str, ...]  # names of tensors
    damage: tuple[Damage, ...]
    origin: str | None  # who says what is expected: "checklist.chk, line 3"


class DigestList(NamedTuple):
    """A place that digests come from."""

    name: str  # "checklist.chk"
    digests: int


@dataclass(frozen=True)
class ChecksumReport(Report):
    """`verify-checksums`: whether every byte is what was published."""

    NAME: ClassVar[str] = "verify-checksums"

    path: str
    files: tuple[FileChecksum, ...]
    lists: tuple[DigestList, ...]
    conclusion: str  # what was established, and what was not
    written: str | None  # the list that was made
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good when nothing differs, is missing or unreadable, and no finding is an error."""
        return super().ok and not any(row.status in WRONG_STATUSES for row in self.files)


GlobalStatus = Literal["known", "unknown", "dangerous"]
GOOD_TO_BAD = get_args(GlobalStatus)


class NamedGlobal(NamedTuple):
    """A class or function that a pickle names, and so has imported when it is unpickled."""

    name: str  # module.name
    position: int  # of the operation that first names it, in bytes from the start of the stream
    calls: int  # operations that call it
    status: GlobalStatus  # known: a construct of tensors; dangerous: it has power over the machine
    effect: str | None  # what a dangerous one does


class Oddity(NamedTuple):
    """What else a scan met: something hidden, or something that cannot be looked into."""

    where: str
    position: int | None
    status: GlobalStatus
    message: str


class ScannedPickle(NamedTuple):
    """One pickle, and all that it names."""

    where: str  # in its file: "data.pkl", "data.pkl > byte 104"; empty: it is the file
    nbytes: int
    operations: int
    globals: tuple[NamedGlobal, ...]  # in the order of the stream
    more_globals: int  # beyond those


class ScannedFile(NamedTuple):
    """One file that torch.load or pickle could be given."""

    file: str
    nbytes: int
    kind: str  # torch, zip, legacy, tar, array, pickle, none
    verdict: GlobalStatus
    pickles: tuple[ScannedPickle, ...]
    oddities: tuple[Oddity, ...]


@dataclass(frozen=True)
class ScanReport(Report):
    """`scan`: what unpickling the files in the ordinary way would import and call."""

    NAME: ClassVar[str] = "scan"

    path: str
    verdict: GlobalStatus
    files: tuple[ScannedFile, ...]
    others: int  # files beside those, which nothing unpickles

    @property
    def ok(self) -> bool:
        """Good when nothing but constructs of tensors is named."""
        return self.verdict == "known"


class ModelRow(NamedTuple):
    """One official release. What no source says is null."""

    id: str
    repository: str | None  # on the Hugging Face hub
    parameters: int  # unique
    active_parameters: int | None  # of the text model, per token, where experts are routed
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    context_length: int | None  # tokens
    tied_output: bool
    form: str  # "plain" (16-bit floats), "fp8", "int8", "int4"
    shards: int | None  # of the native layout
    nbytes: int | None  # of its weight files, as published
    released: str | None  # ISO date
    training_tokens: int | None
    training_tokens_bound: str | None  # "about", "more than", "up to"
    knowledge_cutoff: str | None  # ISO month
    languages: tuple[str, ...]  # officially supported
    sources: dict[str, str]  # field -> who says so


@dataclass(frozen=True)
class ModelCatalog(Report):
    """`models`: official releases, all or those that a word finds; one of them as a card."""

    NAME: ClassVar[str] = "models"

    filter: str | None
    card: bool  # the filter finds one model alone
    models: tuple[ModelRow, ...]
    count: int


class Term(NamedTuple):
    """One line of an estimate, and how it comes about."""

    name: str
    value: float  # an integer for bytes and counts
    unit: str  # "bytes", "FLOPs", "tokens", ...
    formula: str  # in symbols
    worked: str  # with this model's numbers
    source: str  # who says so, or what is assumed


class MemoryRow(NamedTuple):
    """What the model takes with its weights in one form, in bytes."""

    dtype: str
    naive: int  # every parameter at that width
    weights: int  # as such weights are really stored
    kv_cache: int
    activations: int
    total: int  # with the real weights
    fits: bool | None  # on the GPUs that were named


class InferenceMemory(NamedTuple):
    """Bytes while the model runs, with the form that was asked for, on all GPUs together."""

    weights: int
    kv_cache: int  # of all layers; those with chunked attention keep a chunk
    activations: int  # most that reading a prompt takes beside
    total: int
    kv_cache_allocated: int  # as Meta's reference code allocates it: all tokens in every layer
    activations_all_logits: int  # when the logits of every token are kept
    image_kv_cache: int  # that each image adds in cross-attention layers


class TrainingMemory(NamedTuple):
    """Bytes of training on each GPU."""

    plan: dict[str, Any]  # what was asked for, defaults included
    trained_parameters: int
    adapter_parameters: int | None
    weights: int
    gradients: int
    optimizer: int  # states
    master: int  # FP32 copy of the weights
    states: int  # the four above
    gathered: int  # what ZeRO-3 puts together for the moment that it is needed
    activations: int  # saved for the backward pass
    loss: int  # most that logits and loss take beside
    step: int  # that the optimizer's step takes beside
    forward_peak: int
    backward_peak: int
    step_peak: int
    peak: int  # the largest of the three
    reached_in: str  # "forward", "backward" or "step"
    parts: dict[str, int]  # of the peak
    rule_of_thumb: int  # 6 times the FP32 weights
    rule_of_thumb_differs: str  # why it is another number
    terms: tuple[Term, ...]
    symbols: dict[str, int]


class GpuFit(NamedTuple):
    """Whether it fits on one kind of GPU."""

    name: str
    number: int  # of such GPUs
    context_length: int | None  # tokens that the model was made for
    nbytes: int  # that a program can have on each
    needed: int  # on the fullest one
    left: int  # negative: how much is missing
    parts: dict[str, int]  # of what is needed
    max_context: int | None  # tokens, at this batch; null: not even one
    max_batch: int | None  # at this context
    min_number: int | None  # smallest number of such GPUs that would do; null: none does
    split: str  # how several share the work
    advice: str | None  # what else one could do, when no number of them would
    source: str  # who says how much memory it has


@dataclass(frozen=True)
class MemoryEstimate(Report):
    """`memory`: what it takes to run or to train a model."""

    NAME: ClassVar[str] = "memory"

    model: str  # catalog id or path
    by_name: bool  # an official release, of which no files were read
    parameters: int  # unique
    active_parameters: int | None  # of the text model, per token, where experts are routed
    tied_output: bool
    context: int  # tokens per sequence
    batch: int  # sequences
    dtype: str  # that `inference` is of
    kv_dtype: str
    weights: dict[str, int]  # dtype -> bytes as really stored
    table: tuple[MemoryRow, ...]
    inference: InferenceMemory
    training: TrainingMemory | None
    stored: int | None  # bytes of the weight files on disk, or as published
    stored_from: str | None  # who says so
    stored_as: tuple[StoredForm, ...]  # in which form, where there are files
    gpu: GpuFit | None
    fits: bool | None
    symbols: dict[str, int]  # what the letters in formulas stand for
    terms: tuple[Term, ...]
    explained: bool  # whether formulas were asked for
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good unless it does not fit or a finding is an error."""
        return super().ok and self.fits is not False


class Histogram(NamedTuple):
    """Finite values in bins of equal width; the last bin holds its upper edge."""

    start: float  # lower edge of the first bin
    end: float  # upper edge of the last one
    counts: tuple[int, ...]
    below: int  # elements outside
    above: int


class WeightStats(NamedTuple):
    """The values of one weight, or of all weights of a component or layer.

    Figures are over finite values, and null where there is none or nothing here knows the values.
    """

    name: str
    component: str | None  # of a weight
    layer: int | None  # of a weight
    shape: tuple[int, ...] | None  # of a weight
    dtype: str  # of a group all of its dtypes
    bits: float | None  # that an element is stored in; of a group null where they differ
    weights: int  # how many it stands for: 1 of a weight
    same_as: str | None  # the weight whose bytes these are (tied); a group leaves it out
    count: int  # type: ignore[assignment]  # elements, those that are not finite included
    mean: float | None
    std: float | None  # of the whole population: the divisor is the count
    min: float | None
    max: float | None
    abs_max: float | None
    l2: float | None  # Euclidean length: the square root of the sum of squares
    quantiles: dict[str, float]  # "0.5" is the median; between two elements a line is drawn
    zeros: int | None
    subnormal: int | None  # nonzero and closer to 0 than the smallest normal number of the dtype
    nan: int | None
    inf: int | None  # of both signs
    # Bits per element that tell its code from the others of its weight; of a group the mean over
    # the elements of weights that have one, which are those of up to 16 bits.
    entropy: float | None
    entropy_count: int  # elements that it is of
    histogram: Histogram | None  # up to HISTOGRAM_STDS standard deviations to each side of the mean
    quantize_error: float | None  # relative L2 of a round trip through --quantize
    approximate: tuple[str, ...]  # fields that are close and not exact, and none others


HISTOGRAM_STDS = 4
GENERATOR = "llamainspect"  # that a page of ours names, and is known by


class NotFinite(NamedTuple):
    """An element that is NaN or infinite; of many of them the first of each weight."""

    name: str
    layer: int | None
    index: tuple[int, ...]  # type: ignore[assignment]  # in the whole weight, as Meta has it
    value: str  # "nan", "inf" or "-inf"
    place: str  # where it is stored: "file @ byte"
    stored_name: str  # of the tensor in that file
    stored_index: tuple[int, ...]  # in that tensor


class LayerProfile(NamedTuple):
    """One kind of weight through the layers; the tuples are of one length."""

    kind: str  # the name within a layer: "attention.wq"; "*" stands for the number of an expert
    layers: tuple[int, ...]
    std: tuple[float | None, ...]
    abs_max: tuple[float | None, ...]
    l2: tuple[float | None, ...]


class Departure(NamedTuple):
    """A weight whose spread is not that of the same weight in the layers around it."""

    name: str  # its layer and kind: "layers.7.attention.wq"
    layer: int
    kind: str
    std: float
    neighbours: float  # median of theirs
    ratio: float | None  # std / neighbours; null where that is no number


class WeightPlot(NamedTuple):
    """A weight's full histogram, from its smallest to its largest value."""

    name: str
    histogram: Histogram
    logarithmic: bool  # how counts are drawn


@dataclass(frozen=True)
class StatsReport(Report):
    """`stats`: the weights themselves."""

    NAME: ClassVar[str] = "stats"

    path: str
    format: str
    pattern: str | None
    sort: str
    count: int  # weights that were asked for
    unread: int  # of these, those without figures: damaged, incomplete, or of an unknown dtype
    total: WeightStats  # of all whose values are known, each once
    weights: tuple[WeightStats, ...]  # in the order of `sort`, as many as were asked for
    by_component: tuple[WeightStats, ...]
    by_layer: tuple[WeightStats, ...]
    profile: tuple[LayerProfile, ...]
    departures: tuple[Departure, ...]  # furthest first
    not_finite: tuple[NotFinite, ...]  # in the order of the weights
    not_finite_in_copies: int  # that shards keep of a weight, beside the first; no figure has them
    quantize: str | None  # "int4, groups of 128"
    plot: WeightPlot | None
    nbytes_read: int
    seconds: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class FullReport(Report):
    """`report`: what is known of a checkpoint, on one page."""

    NAME: ClassVar[str] = "report"

    path: str
    created: str  # ISO date and time, UTC
    version: str  # of llamainspect
    summary: Summary
    tensors: TensorList
    memory: MemoryEstimate | None  # null without a configuration
    stats: StatsReport | None  # when asked for
    file: str | None  # that the page was written to
    file_nbytes: int | None
    findings: tuple[Finding, ...]  # of the report itself; each part has its own

    @property
    def ok(self) -> bool:
        """Good when every part is."""
        return super().ok and all(part.ok for part in self.parts)

    @property
    def parts(self) -> tuple[Report, ...]:
        """The answers that it consists of."""
        parts = (self.summary, self.memory, self.stats)
        return tuple(part for part in parts if part is not None)

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Of itself and of all parts, worst first, each once."""
        found = [*self.findings]
        for part in (self.summary, self.memory, self.stats):
            found += part.findings if part is not None else ()
        return tuple(worst_first(dict.fromkeys(found)))


class Decoding(NamedTuple):
    """How fast text can come at best, one sequence, with weights in one form."""

    dtype: str
    weights: int  # bytes that one token passes
    kv_cache: int
    nbytes_per_token: int  # both: read for each generated token
    tokens_per_second: float  # what the bandwidth of the GPUs allows
    gpus: int  # that can share one sequence, of those there are


@dataclass(frozen=True)
class ComputeEstimate(Report):
    """`compute`: what it costs to run and to train a model."""

    NAME: ClassVar[str] = "compute"

    model: str  # catalog id or path
    parameters: int  # unique
    active_parameters: int | None  # of the text model, per token, where experts are routed
    context: int  # tokens that attention looks back on
    matmul_flops_per_token: int
    attention_flops_per_token: int
    forward_flops_per_token: int  # both
    tokens: int  # trained on
    tokens_from: str  # who says so
    tokens_bound: str | None  # "about", "more than", "up to"
    tokens_per_parameter: float
    training_flops: int  # 6 * N * D
    training_flops_by_operation: int  # matrix products and attention alone
    petaflop_s_days: float
    gpu: str
    gpus: int
    mfu: float
    gpu_hours: float
    optimal_tokens: int  # Chinchilla
    optimal_flops: int
    decoding: tuple[Decoding, ...]
    symbols: dict[str, int]  # what the letters in formulas stand for
    terms: tuple[Term, ...]
    explained: bool  # whether formulas were asked for
    findings: tuple[Finding, ...]


class Topic(NamedTuple):
    """One thing about a model, explained."""

    kind: str  # "file", "field" of params.json, "derived", or "bits"
    name: str
    value: Any  # a number, a text, true or false; null where there is none
    text: str  # what it is, in a sentence
    steps: tuple[str, ...]  # how it comes about, with this model's numbers
    check: str | None  # what in the files bears it out, or does not
    agrees: bool | None  # whether it does
    mistake: str | None  # what is often said instead, and why that is wrong


@dataclass(frozen=True)
class Explanation(Report):
    """`explain`: a model's files, fields and derived numbers, for a person who learns."""

    NAME: ClassVar[str] = "explain"

    model: str  # catalog id or path
    field: str | None  # the one that was asked for
    topics: tuple[Topic, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good unless the files contradict a number or a finding is an error."""
        return super().ok and not any(topic.agrees is False for topic in self.topics)


class TokenizerInfo(NamedTuple):
    """Which tokenizer answered."""

    kind: str  # "sentencepiece", "tiktoken" or "tokenizer.json"
    file: str
    vocab_size: int  # tokens in all; ids run from 0
    base_tokens: int  # in the file, before the model's code adds special ones
    special_tokens: int
    bos_id: int | None
    eos_id: int | None
    generation: str | None  # whose names the special tokens have, where the file has none
    reason: str | None  # what told the generation; null: nothing did


class Token(NamedTuple):
    """One token of a text."""

    id: int
    text: str  # bytes that are no whole character become U+FFFD
    bytes: str  # hex
    special: bool


class TokenizerCheck(NamedTuple):
    """The same text through the other tokenizer file of the directory."""

    file: str
    agrees: bool
    other_count: int  # tokens that it makes
    position: int | None  # of the first token that differs
    ids: tuple[int, ...]  # from there: what the first makes of it, a few
    other_ids: tuple[int, ...]  # and what the other does
    message: str


@dataclass(frozen=True)
class Tokenization(Report):
    """`tokenize`: a text, or a dialogue, as the model reads it."""

    NAME: ClassVar[str] = "tokenize"

    path: str
    tokenizer: TokenizerInfo
    ids: tuple[int, ...]
    tokens: tuple[Token, ...]  # empty when only ids were asked for
    count: int  # of ids
    text_tokens: int  # without the special ones that --bos, --eos or a dialogue's format add
    characters: int  # of the text
    nbytes: int  # of the text in UTF-8
    characters_per_token: float | None  # of the text
    bytes_per_token: float | None
    chat_format: str | None
    prompt: str | None  # the dialogue as it is laid out
    check: TokenizerCheck | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good unless a finding is an error or the other file says otherwise."""
        return super().ok and (self.check is None or self.check.agrees)


@dataclass(frozen=True)
class Detokenization(Report):
    """`detokenize`: the text of some ids."""

    NAME: ClassVar[str] = "detokenize"

    path: str
    tokenizer: TokenizerInfo
    ids: tuple[int, ...]
    text: str  # bytes that are no UTF-8 become U+FFFD
    bytes: str  # hex
    valid_utf8: bool
    findings: tuple[Finding, ...]


class VocabularyEntry(NamedTuple):
    """One token, as the file has it."""

    id: int
    text: str
    bytes: str  # hex
    type: str  # "normal", "byte", "special", "control", "unknown", "user_defined", "unused"
    special: bool
    rank: int | None  # tiktoken: its place in the order of merges
    base64: str | None  # tiktoken: as in the file
    score: float | None  # SentencePiece


class VocabularyStats(NamedTuple):
    """What a vocabulary is made of; special tokens not counted."""

    by_content: dict[str, int]  # kinds of tokens
    by_script: dict[str, int]  # of those with letters, the script of the first letter
    by_nbytes: dict[str, int]  # length in bytes -> tokens
    mean_nbytes: float
    longest: tuple[VocabularyEntry, ...]
    settings: dict[str, Any]  # of the tokenizer: how it cuts and normalises


@dataclass(frozen=True)
class VocabularyReport(Report):
    """`vocab`: tokens of a vocabulary, or what it is made of."""

    NAME: ClassVar[str] = "vocab"

    path: str
    tokenizer: TokenizerInfo
    tokens: tuple[VocabularyEntry, ...]
    count: int  # of those listed
    stats: VocabularyStats | None
    model_vocab_size: int | None  # what params.json says
    embedding_rows: int | None  # what the weights have
    findings: tuple[Finding, ...]


class ProcessRun(NamedTuple):
    """One of several processes that a model was run in."""

    peak_nbytes: int
    nbytes_read: int


class ModelRun(NamedTuple):
    """How a model was run."""

    model: str | None  # catalog id of the release whose architecture it has
    device: str  # "cpu", "cuda", "mps"
    device_name: str | None  # of a GPU
    threads: int  # of the CPU
    dtype: str  # of the arithmetic: "fp32", "bf16", "fp16"
    streamed: bool  # one layer in memory at a time
    rope_factor: float | None  # null: RoPE is not scaled
    rope_reason: str
    simulate: str | None  # quantisation that was tried out on the weights
    torch: str  # version
    peak_nbytes: int  # the most memory that the process held; on a GPU, that tensors did
    nbytes_read: int  # of weights, from files
    processes: tuple[ProcessRun, ...] = ()  # by rank, where there are several; this is of the first


class Candidate(NamedTuple):
    """A token that may come next."""

    id: int
    text: str | None  # null without a tokenizer
    bytes: str | None  # hex
    probability: float
    logit: float


class PositionLogits(NamedTuple):
    """What the model expects behind one token of a prompt."""

    position: int
    id: int  # of the token there
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class LogitsReport(Report):
    """`logits`: which tokens may come next."""

    NAME: ClassVar[str] = "logits"

    path: str
    run: ModelRun
    tokens: tuple[int, ...]  # ids of the prompt
    prompt: tuple[Token, ...] | None  # the same in full; null without a tokenizer
    top: tuple[Candidate, ...]  # behind the last token, most likely first
    entropy: float  # of that distribution, in bits
    positions: tuple[PositionLogits, ...]  # empty unless every position was asked for
    saved: str | None  # the file that tokens and logits were written to
    saved_nbytes: int | None
    seconds: float
    findings: tuple[Finding, ...]


class Tolerance(NamedTuple):
    """How far logits may be apart."""

    dtype: str  # the coarsest that either side was stored or computed in
    max_abs: float  # as a share of the range of the reference's logits
    kl: float  # nats, at any position
    reason: str  # what decided the dtype


class PositionDifference(NamedTuple):
    """Two sets of logits at one position."""

    position: int
    id: int  # of the token there
    max_abs: float
    mean_abs: float
    kl: float  # of the reference to the model, in nats
    top1: int  # most likely token of the model
    reference_top1: int
    top5_overlap: float


class StageDifference(NamedTuple):
    """Hidden states of two models at one point of the way."""

    stage: str  # "embedding", "layer 0", ..., "norm"
    layer: int | None
    max_abs: float
    relative: float  # largest length of a token's difference, as a share of its vector's length


@dataclass(frozen=True)
class LogitsComparison(Report):
    """`verify-logits`: whether a model computes what it should."""

    NAME: ClassVar[str] = "verify-logits"

    path: str
    kind: str  # "reference", "against" or "implementation"
    other: str  # the file, path or package
    other_run: str  # how the reference was made, as far as that is known
    run: ModelRun
    tokens: tuple[int, ...]
    max_abs: float
    mean_abs: float
    kl: float  # mean over positions, in nats
    kl_max: float
    top1_agreement: float  # share of positions
    top5_overlap: float
    logit_range: float  # largest minus smallest of the reference's
    tolerance: Tolerance
    max_abs_allowed: float
    agrees: bool
    identical: bool  # every logit to the last bit
    positions: tuple[PositionDifference, ...]
    stages: tuple[StageDifference, ...]  # empty against a recording
    first_different_layer: str | None  # stage from which on hidden states are not the same bits
    first_divergent_layer: str | None  # first that departs by more than allowed; null if `agrees`
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Good when the logits are within the tolerance."""
        return super().ok and self.agrees


@dataclass(frozen=True)
class Generation(Report):
    """`generate`: a continuation."""

    NAME: ClassVar[str] = "generate"

    path: str
    run: ModelRun
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]  # what was generated
    text: str  # the same; bytes that are no UTF-8 become U+FFFD
    stopped: str  # "stop_token", "max_new_tokens" or "context"
    stop_token: int | None
    sampling: str  # "greedy", or the settings
    seed: int | None
    prefill_seconds: float
    decode_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None  # null when a single token was made
    kv_cache_nbytes: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Evaluation(Report):
    """`evaluate`: how well a model predicts a text."""

    NAME: ClassVar[str] = "evaluate"

    path: str
    file: str
    run: ModelRun
    nbytes: int  # of the text that was predicted
    tokens: int  # of the text
    predicted: int  # tokens that a loss was computed for
    window: int  # tokens
    stride: int
    windows: int
    cross_entropy: float  # nats per token
    perplexity: float
    bits_per_byte: float
    seconds: float
    tokens_per_second: float
    findings: tuple[Finding, ...]


class ChoiceAccuracy(NamedTuple):
    """How often the right ending had the highest score, in one way of scoring."""

    by: str  # log-likelihood per "character" of the ending, per "token", or in "total"
    correct: int
    accuracy: float
    low: float  # of the 95 % confidence interval (Wilson)
    high: float


class ChoiceScores(NamedTuple):
    """One question's endings."""

    line: int  # of the file, from 1
    label: int  # the right one, from 0
    chosen: dict[str, int]  # that has the highest score, for each way of scoring
    log_likelihoods: tuple[float, ...]  # of all tokens of each ending, in nats
    tokens: tuple[int, ...]
    characters: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceEvaluation(Report):
    """`evaluate --hellaswag` and `--choices`: how often the right ending is the likeliest."""

    NAME: ClassVar[str] = "evaluate-choices"

    path: str
    file: str
    kind: str  # "hellaswag" or "choices"
    run: ModelRun
    questions: int
    endings: int  # of all questions
    tokens: int  # that the model read
    chance: float  # accuracy of guessing
    correct: int  # by character, as are the next three
    accuracy: float
    low: float
    high: float
    scores: tuple[ChoiceAccuracy, ...]
    results: tuple[ChoiceScores, ...]
    seconds: float
    tokens_per_second: float
    findings: tuple[Finding, ...]
