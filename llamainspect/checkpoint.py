"""A checkpoint: the tensors of all its files joined into the weights of one model."""

import os
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from llamainspect.architecture import WeightSpec, expected_weights
from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.errors import LlamaInspectError, MissingFile, NotACheckpoint, reason_of
from llamainspect.formats import FORMATS, Format
from llamainspect.formats.meta import WEIGHT_FILE
from llamainspect.names import component_of, compress, counted, layer_of, listing
from llamainspect.reports import FileEntry, Finding, TensorEntry, TensorPart
from llamainspect.sources import ABSENT, NATIVE_SUBFOLDER, Folder, Source, open_source
from llamainspect.tensors import TensorInfo, contiguous_strides, count

WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
)  # {"model": {...}, "optimizer": ...}
# Their matrices are cut in every model-parallel set; routers and position embeddings are not.
CUT_COMPONENTS = {"attention", "feed_forward", "experts", "shared_experts", "output"}
COMPARE_NBYTES = 256 * 2**10  # copies without a checksum are read when all of them fit in this


class Weight(NamedTuple):
    """One tensor of the model under Meta's name, cut into one part per model-parallel rank."""

    name: str
    shape: tuple[int, ...]  # of the whole
    parts: tuple[TensorInfo, ...]  # of the ranks whose files are there
    axis: int | None = None  # the parts are joined along it; None: one part, or copies
    ranks: int = 1  # how many parts make the whole
    repeat: int = 1  # every part stands this many times in a row (KV heads, ranks > n_kv_heads)
    blocks: tuple[int, ...] = ()  # pieces of a fused weight along `axis`, each cut by itself

    @property
    def elements(self) -> int:
        """Elements of the whole."""
        return count(self.shape)

    @property
    def stored_elements(self) -> int:
        """Elements with repeated parts counted as often as they stand there."""
        return self.elements * self.repeat

    @property
    def nbytes(self) -> int:
        """Bytes of the whole, each element once."""
        return self.parts[0].dtype.nbytes(self.shape)

    @property
    def complete(self) -> bool:
        """True when every part is there."""
        return self.axis is None or len(self.parts) == self.ranks


class Checkpoint(NamedTuple):
    """What a path holds. `findings` are about reading and joining; answers add their own."""

    source: Source
    format: str  # key of FORMATS
    config: ModelConfig | None  # None: missing or unreadable, and then a finding says so
    files: tuple[FileEntry, ...]
    shards: int  # how many the model is cut into, there or not
    weights: dict[str, Weight]  # by Meta's name, in the order of the first file
    expected: dict[str, WeightSpec]  # empty without a configuration
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What concerns a person who looks at single weights: no notes, nothing on the config."""
        return tuple(
            finding
            for finding in self.findings
            if finding.severity != "note" and finding.where != PARAMS_FILE
        )

    @property
    def reader(self) -> Format:
        """The format's functions."""
        return FORMATS[self.format]


def open_checkpoint(path: str) -> Checkpoint:
    """The checkpoint in a directory, in its `original/` folder, or in one weight file.

    Reads headers only. Raises NotACheckpoint, or what a file's reader raised when no weight file
    can be read; anything that leaves something to describe becomes a finding.
    """
    source, name, files = _find(path)
    reader = FORMATS[name]
    config, findings = _read_config(source, reader)
    shards, entries, problems = _read_files(source, reader, files)
    findings += problems + _check_neighbours(source, files)
    if config is not None and config.vocab_size is None:
        config = config._replace(vocab_size=_embedding_rows(shards, len(shards), config.dim))
    names = {name for tensors in shards.values() for name in tensors}
    known = config is not None and config.vocab_size is not None
    expected = expected_weights(config, names) if config and known else {}
    if config and not known:
        message = "it leaves vocab_size open, and no embedding tells it: shapes are not checked"
        findings.append(Finding("error", PARAMS_FILE, message))
    unreadable = {entry.file for entry in entries if not entry.readable}
    joiner = _Joiner(source, reader, shards, unreadable, expected)
    weights = joiner.join()
    changed = source.changed() if isinstance(source, Folder) else []
    findings += joiner.findings
    findings += [
        Finding("error", file, "it changed while it was read; try again") for file in changed
    ]
    return Checkpoint(
        source, name, config, tuple(entries), joiner.world, weights, expected, tuple(findings)
    )


class ModelSizes(NamedTuple):
    """What a tokenizer has to fit, from params.json and the header of one weight file."""

    config: ModelConfig | None
    embedding_rows: int | None
    findings: tuple[Finding, ...]


def read_sizes(source: Folder) -> ModelSizes:
    """Of the native checkpoint in `source`, if there is one; what is missing there is None."""
    config, findings = None, list[Finding]()
    obstacle = source.obstacle(PARAMS_FILE)
    if obstacle is None:
        config, findings = _read_config(source, FORMATS["meta"])
    elif obstacle != ABSENT:
        findings = [Finding("error", PARAMS_FILE, f"it cannot be read: {obstacle}")]
    files = FORMATS["meta"].weight_files(source)
    rows = None
    if config is not None and files:
        with suppress(LlamaInspectError, OSError):  # `summary` tells what is wrong with weights
            tensors, _ = FORMATS["meta"].read_tensors(source, files[0])
            rows = _embedding_rows({files[0]: _unwrap(tensors)}, len(files), config.dim)
    errors = tuple(finding for finding in findings if finding.severity == "error")
    return ModelSizes(config, rows, errors)


def describe_weight(checkpoint: Checkpoint, weight: Weight, per_shard: bool = False) -> TensorEntry:
    """One weight as a row; `per_shard` reads the header of each part's record for its offset."""
    return TensorEntry(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.parts[0].dtype.name,
        elements=weight.elements,
        nbytes=weight.nbytes,
        axis=weight.axis,
        files=tuple(part.file for part in weight.parts),
        component=component_of(weight.name),
        layer=layer_of(weight.name),
        parts=tuple(_part(checkpoint, part) for part in weight.parts) if per_shard else (),
    )


def _part(checkpoint: Checkpoint, part: TensorInfo) -> TensorPart:
    return TensorPart(
        file=part.file,
        shape=part.shape,
        strides=part.strides or contiguous_strides(part.shape),
        contiguous=part.strides is None,
        dtype=part.dtype.name,
        offset=checkpoint.reader.locate(checkpoint.source, part.storage) + part.offset,
        nbytes=part.nbytes,
        storage=part.storage.key,
    )


# --- finding and reading -------------------------------------------------------------------------


def _find(path: str) -> tuple[Source, str, list[str]]:
    source: Source = open_source(path)
    candidates: list[Source] = [source]
    if source.only is None:
        with suppress(NotACheckpoint):
            candidates.append(open_source(os.path.join(path, NATIVE_SUBFOLDER)))
    for candidate in candidates:
        for name, reader in FORMATS.items():
            if files := reader.weight_files(candidate):
                return candidate, name, files
    raise NotACheckpoint(_nothing_there(path, source))


def _nothing_there(path: str, source: Source) -> str:
    files = source.files()
    irregular = [
        name
        for name in (os.listdir(path) if os.path.isdir(path) else ())
        if WEIGHT_FILE.fullmatch(name) and name not in files
    ]
    text = f"{path}: no consolidated.*.pth here or in {NATIVE_SUBFOLDER}/"
    others = [file for file in files if file.endswith((".pth", ".pt", ".bin"))]
    if any(file.endswith(".safetensors") for file in files):
        return (
            f"{text}, but safetensors files, a layout that this version does not read; Meta's "
            f"files of the same model are in the {NATIVE_SUBFOLDER}/ folder of its hub repository"
        )
    if irregular:
        return f"{text}, but {listing(irregular)} is no regular file (a link to nothing?)"
    if others:
        return f"{text}; to read {listing(others)}, give the path of that file"
    return f"{text}; give a directory that Meta's download made, or one weight file"


def _read_config(source: Source, reader: Format) -> tuple[ModelConfig | None, list[Finding]]:
    try:
        config = reader.read_config(source)
    except MissingFile:
        # Someone who names one file may well have no more; a directory claims to be a checkpoint.
        return None, [
            Finding(
                "warning" if source.only else "error",
                PARAMS_FILE,
                "there is none, so shapes are not checked and shards are joined only where that is "
                "certain; it comes with the download",
            )
        ]
    except (LlamaInspectError, OSError) as error:
        return None, [Finding("error", PARAMS_FILE, reason_of(error, PARAMS_FILE))]
    if not config.unknown:
        return config, []
    keys = listing(list(config.unknown), 12)
    return config, [Finding("note", PARAMS_FILE, f"keys not understood, and so not used: {keys}")]


def _read_files(
    source: Source, reader: Format, files: list[str]
) -> tuple[dict[str, dict[str, TensorInfo]], list[FileEntry], list[Finding]]:
    shards: dict[str, dict[str, TensorInfo]] = {}
    entries: list[FileEntry] = []
    findings: list[Finding] = []
    first_error: LlamaInspectError | OSError | None = None
    for file in files:
        try:
            tensors, problems = reader.read_tensors(source, file)
        except (LlamaInspectError, OSError) as error:
            first_error = first_error or error
            findings.append(Finding("error", file, reason_of(error, file)))
            entries.append(FileEntry(file, _nbytes(source, file), 0, readable=False))
            continue
        shards[file] = _unwrap(tensors)
        findings += problems
        entries.append(FileEntry(file, source.nbytes(file), len(tensors), readable=True))
    if not shards and first_error:
        raise first_error
    if not any(shards.values()):
        found = [finding for finding in findings if finding.severity == "error"]
        reason = f" ({found[0].message})" if found else ""
        raise NotACheckpoint(f"{source.place}: there is no tensor in {listing(files)}{reason}")
    return shards, entries, findings


def _check_neighbours(source: Source, files: list[str]) -> list[Finding]:
    """Files like "consolidated.03 (1).pth", which no loader reads."""
    if source.only:
        return []
    return [
        Finding("warning", file, "its name is not consolidated.NN.pth, so it is not read")
        for file in source.files()
        if file.startswith("consolidated") and file.endswith(".pth") and file not in files
    ]


def _nbytes(source: Source, file: str) -> int:
    try:
        return source.nbytes(file)
    except LlamaInspectError:
        return 0


def _unwrap(tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
    """Tensors by name, without the key under which a training script put the state dict."""
    named = {tensor.name: tensor for tensor in tensors}
    for wrapper in WRAPPERS:
        prefix = f"{wrapper}."
        if f"{prefix}tok_embeddings.weight" in named or f"{prefix}norm.weight" in named:
            return {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _embedding_rows(shards: dict[str, dict[str, TensorInfo]], ranks: int, dim: int) -> int | None:
    """Tokens that the model has a vector for, from those of its shards that are given."""
    for tensors in shards.values():
        embedding = tensors.get("tok_embeddings.weight")
        if embedding and len(embedding.shape) == 2:
            rows, columns = embedding.shape
            return rows * ranks if columns == dim else rows  # Llama 1 and 2 cut columns
    return None


# --- joining --------------------------------------------------------------------------------------


class _Joiner:
    """Finds how many shards the model is cut into, and joins the parts of each weight."""

    def __init__(
        self,
        source: Source,
        reader: Format,
        shards: dict[str, dict[str, TensorInfo]],
        unreadable: set[str],
        expected: dict[str, WeightSpec],
    ) -> None:
        self.source = source
        self.reader = reader
        self.shards = shards
        self.unreadable = unreadable
        self.expected = expected
        self.findings: list[Finding] = []
        self.copies: list[Weight] = []
        self._check_ranks()
        self.shapes = _usual_shapes(self.shards)
        self.odd: dict[str, list[str]] = {}
        self.world = self._world()
        norm = self.shapes.get("norm.weight", ())
        self.dim = norm[0] if len(norm) == 1 else None

    def join(self) -> dict[str, Weight]:
        """All weights, in the order of the first file that has them."""
        self._check_set()
        weights = {name: self._join(name) for name in self.shapes}
        self._check_odd()
        self._check_presence(weights)
        self._check_dtypes(weights)
        self._check_copies()
        self._check_duplicates(weights)
        return weights

    def _world(self) -> int:
        """Number of ranks: how often the parts of most matrices fit into the expected whole.

        Without a configuration, or with one of another model, the number of files.
        """
        votes: Counter[int] = Counter()
        matrices = 0
        for name, shape in self.shapes.items():
            spec = self.expected.get(name)
            if spec and spec.shape and len(spec.shape) > 1:
                matrices += 1
                if shape == spec.shape:
                    votes[1] += 1
                elif (axis := _cut_axis(shape, spec.shape)) is not None:
                    votes[spec.shape[axis] // shape[axis]] += 1
        ratio, agreeing = votes.most_common(1)[0] if votes else (0, 0)
        return ratio if 2 * agreeing > matrices else len(self.shards)

    def _check_ranks(self) -> None:
        """Of two files for one rank (consolidated.3.pth beside consolidated.03.pth) one counts."""
        first: dict[int, str] = {}
        for file in list(self.shards):
            rank = _rank(file)
            if rank is not None and first.setdefault(rank, file) != file:
                message = f"it has the number of {first[rank]}, which is read instead; remove one"
                self.findings.append(Finding("error", file, message))
                del self.shards[file]

    def _check_set(self) -> None:
        """Names the shards that are missing or too many; those too many are not joined."""
        ranks = {file: rank for file in self.shards if (rank := _rank(file)) is not None}
        unreadable = {_rank(file) for file in self.unreadable}
        absent = sorted(set(range(self.world)) - set(ranks.values()) - unreadable)
        found = len(self.shards) + len(self.unreadable)
        if self.world > found or (ranks and self.world > 1 and absent):
            names = [f"consolidated.{rank:02d}.pth" for rank in absent] if ranks else []
            message = (
                f"the weights are cut into {self.world} shards and {len(self.shards)} can be read; "
                "counts are of the whole model. Download what is missing, or give the "
                "directory that holds all of it"
            )
            where = f"{listing(names)} missing" if names else next(iter(self.shards))
            self.findings.append(Finding("error", where, message))
        extra = [file for file, rank in ranks.items() if rank >= self.world]
        if extra and len(extra) < len(self.shards):
            message = (
                f"too many: the weights are cut into {counted(self.world, 'shard')} and "
                f"{len(self.shards)} files are there; these are "
                "not counted. They belong to another download, or params.json does"
            )
            self.findings.append(Finding("error", listing(extra), message))
            self.shards = {f: tensors for f, tensors in self.shards.items() if f not in extra}
            self.shapes = _usual_shapes(self.shards)

    def _join(self, name: str) -> Weight:
        shape = self.shapes[name]
        parts = []
        for file, tensors in self.shards.items():
            part = tensors.get(name)
            if part is not None and part.shape == shape:
                parts.append(part)
            elif part is not None:
                self.odd.setdefault(file, []).append(name)
        return self._join_parts(name, shape, tuple(parts))

    def _join_parts(
        self, name: str, shape: tuple[int, ...], parts: tuple[TensorInfo, ...]
    ) -> Weight:
        spec = self.expected.get(name)
        blocks = spec.blocks if spec else ()
        if self.world == 1:
            return Weight(name, shape, parts[:1], blocks=blocks)
        whole = spec.shape if spec else None
        axis = self._axis(shape, whole)
        if axis is None:
            weight = Weight(name, shape, parts)
            if whole is None and len(shape) > 1 and not _same_checksum(parts):
                message = (
                    f"cut into {len(parts)} parts of shape {list(shape)}, and without params.json "
                    "it is not certain along which axis; it is counted as one part"
                )
                self.findings.append(Finding("error", name, message))
            elif component_of(name) in CUT_COMPONENTS and len(shape) > 1:
                message = f"every one of {self.world} shards holds it whole, {list(shape)}; no "
                message += "model-parallel loader takes that, the others are cut"
                self.findings.append(Finding("error", name, message))
            else:
                self.copies.append(weight)
            return weight
        length = shape[axis] * self.world
        repeat = _repeat(name, parts, length, whole[axis] if whole else length)
        if repeat > 1:
            for first in range(0, len(parts), repeat):
                self.copies.append(Weight(name, shape, parts[first : first + repeat]))
        joined = (*shape[:axis], length // repeat, *shape[axis + 1 :])
        return Weight(name, joined, parts, axis, self.world, repeat, blocks)

    def _axis(self, part: tuple[int, ...], whole: tuple[int, ...] | None) -> int | None:
        """The axis that is cut; None when every rank has the whole."""
        if whole is not None and len(whole) == len(part):
            axes = [axis for axis, (p, w) in enumerate(zip(part, whole, strict=True)) if p != w]
            # A matrix that differs in one axis is cut there, even when the total is then wrong.
            fits = len(axes) == 1 and part[axes[0]] * self.world == whole[axes[0]]
            return axes[0] if fits or (len(axes) == 1 and len(part) > 1) else None
        # Without an expectation: each matrix of a Llama has one side of `dim`, which stays whole,
        # but for the embedding of Llama 1 and 2, where it is the side that is cut.
        if len(part) != 2 or self.dim is None:
            return None
        others = [axis for axis in (0, 1) if part[axis] != self.dim]
        if len(others) == 1:
            return others[0]
        cut = [axis for axis in others if part[axis] * self.world == self.dim]
        return cut[0] if len(cut) == 1 else None

    def _check_odd(self) -> None:
        for file, names in self.odd.items():
            name = names[0]
            message = (
                f"{len(names):,} of its {len(self.shards[file]):,} tensors have other shapes than "
                f"in the other shards ({name}: {list(self.shards[file][name].shape)}, there "
                f"{list(self.shapes[name])}); it is of another model"
            )
            self.findings.append(Finding("error", file, message))

    def _check_presence(self, weights: dict[str, Weight]) -> None:
        holders = {
            name: sum(name in tensors for tensors in self.shards.values()) for name in weights
        }
        usual = {name for name, n in holders.items() if 2 * n >= len(self.shards)}
        for file, tensors in self.shards.items():
            absent = [name for name in weights if name in usual and name not in tensors]
            alone = [name for name in tensors if name not in usual]
            for names, what in (
                (absent, "it lacks {}, which other shards have"),
                (alone, "it has {}, which other shards have not"),
            ):
                if names:
                    message = what.format(listing(compress(names)))
                    self.findings.append(Finding("error", file, message))

    def _check_dtypes(self, weights: dict[str, Weight]) -> None:
        mixed = [w.name for w in weights.values() if len({part.dtype.name for part in w.parts}) > 1]
        for name in compress(mixed):
            message = "its parts have different dtypes in different shards; shards of two models?"
            self.findings.append(Finding("error", name, message))

    def _check_copies(self) -> None:
        """Weights that several ranks store must be equal: by checksum, or small ones by reading."""
        verdicts = [(weight, _same_checksum(weight.parts)) for weight in self.copies]
        unknown = [weight for weight, same in verdicts if same is None]
        nbytes = sum(part.nbytes for weight in unknown for part in weight.parts)
        if nbytes <= COMPARE_NBYTES:
            verdicts = [
                (weight, self._same_bytes(weight.parts) if same is None else same)
                for weight, same in verdicts
            ]
        for name in compress([weight.name for weight, same in verdicts if same is False]):
            message = (
                "several shards keep a copy and the copies differ; shards of two models, or damage"
            )
            self.findings.append(Finding("error", name, message))
        if unchecked := [weight.name for weight, same in verdicts if same is None]:
            message = (
                f"{counted(len(set(unchecked)), 'weight')} in several shards, not compared: "
                f"the files record no checksum for them alone, and they have {nbytes:,} bytes"
            )
            self.findings.append(Finding("note", listing(compress(unchecked)), message))

    def _check_duplicates(self, weights: dict[str, Weight]) -> None:
        """A shard whose cut parts all have the checksums of another's is that other one."""
        cut = [weight.parts for weight in weights.values() if weight.axis is not None]
        first: dict[tuple[int, ...], str] = {}
        for file in self.shards if cut and cut[0][0].storage.crc32 else ():
            sums = tuple(
                part.storage.crc32 or 0 for parts in cut for part in parts if part.file == file
            )
            if sums and 0 not in sums and first.setdefault(sums, file) != file:
                message = (
                    f"it holds the same weights as {first[sums]} (all checksums are equal): one "
                    "shard was copied over another; download it again"
                )
                self.findings.append(Finding("error", file, message))

    def _same_bytes(self, parts: tuple[TensorInfo, ...]) -> bool | None:
        values = set()
        for part in parts:
            if part.strides is not None or part.offset + part.nbytes > part.storage.nbytes:
                return None
            start = self.reader.locate(self.source, part.storage) + part.offset
            values.add(self.source.read(part.file, start, part.nbytes))
        return len(values) == 1


def _rank(file: str) -> int | None:
    match = WEIGHT_FILE.fullmatch(file)
    return int(match[1]) if match and match[1] else None


def _usual_shapes(shards: dict[str, dict[str, TensorInfo]]) -> dict[str, tuple[int, ...]]:
    """What most shards say of a weight counts; a shard that differs is named, not believed."""
    return {
        name: _most_common([tensors[name].shape for tensors in shards.values() if name in tensors])
        for name in dict.fromkeys(name for tensors in shards.values() for name in tensors)
    }


def _most_common(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that most shards have; the first of those that as many have."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    return Counter(shapes).most_common(1)[0][0]


def _cut_axis(part: tuple[int, ...], whole: tuple[int, ...]) -> int | None:
    """The one axis along which `part` is a whole fraction of `whole`; None when there is none."""
    if len(part) != len(whole):
        return None
    axes = [axis for axis, (p, w) in enumerate(zip(part, whole, strict=True)) if p != w]
    if len(axes) != 1 or part[axes[0]] == 0 or whole[axes[0]] % part[axes[0]]:
        return None
    return axes[0]


def _same_checksum(parts: tuple[TensorInfo, ...]) -> bool | None:
    """Whether all parts have the same CRC-32; None when a file has none for the tensor alone."""
    sums = {part.storage.crc32 if part.whole_storage else None for part in parts}
    return None if None in sums else len(sums) == 1


def _repeat(name: str, parts: tuple[TensorInfo, ...], length: int, target: int) -> int:
    """How often each KV head is stored, when there are more ranks than heads.

    Either the configuration has fewer rows than the ranks store together, or the checksums of
    neighbouring ranks say that they hold the same head.
    """
    if ".attention.wk." not in name and ".attention.wv." not in name:
        return 1
    if length > target and length % target == 0:
        return length // target
    repeat = 1
    while len(parts) % (2 * repeat) == 0 and all(
        _same_checksum(parts[i : i + 2 * repeat]) for i in range(0, len(parts), 2 * repeat)
    ):
        repeat *= 2
    return repeat
