"""Shards of Meta's layout: into how many ranks a model is cut, and the weights that they make.

Which axis is cut is inferred: the one in which a part is smaller than the configuration says.
"""

import re
from collections import Counter
from collections.abc import Callable

from llamainspect.architecture import WeightSpec, expected_weights
from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.names import NOT_PARAMETERS, component_of, compress, counted, listing
from llamainspect.reports import Finding
from llamainspect.sources import Source
from llamainspect.tensors import Storage, TensorInfo
from llamainspect.weights import Assembly, Weight

WEIGHT_FILE = re.compile(r"consolidated(?:\.(\d+))?\.pth")
SCALES_FILE = re.compile(r"fp8_scales_(\d+)\.pt")  # beside the shards, one for each
# Their matrices are cut in every model-parallel set; routers and position embeddings are not.
CUT_COMPONENTS = {"attention", "feed_forward", "experts", "shared_experts", "output"}
MAX_RANKS = 2**16  # the largest release has 16; a made-up vocab_size must not ask for a billion
COMPARE_NBYTES = 256 * 2**10  # copies without a checksum are read when all of them fit in this

Locate = Callable[[Source, Storage], int]


def join_ranks(
    source: Source,
    locate: Locate,
    shards: dict[str, dict[str, TensorInfo]],
    unreadable: set[str],
    config: ModelConfig | None,
) -> Assembly:
    """The whole weights of a model, from the tensors of its files."""
    findings = []
    if config is not None and config.vocab_size is None:
        config = config._replace(vocab_size=count_rows(shards, len(shards), config.dim))
    names = {name for tensors in shards.values() for name in tensors}
    known = config is not None and config.vocab_size is not None
    expected = expected_weights(config, names) if config and known else {}
    if config and not known:
        message = "it leaves vocab_size open, and no embedding tells it: shapes are not checked"
        findings.append(Finding("error", PARAMS_FILE, message))
    packed = config is not None and config.quantization is not None and config.quantization.int4
    joiner = _Joiner(source, locate, shards, unreadable, expected, packed)
    weights = joiner.join()
    return Assembly(config, weights, expected, joiner.world, (*findings, *joiner.findings))


class _Joiner:
    """Finds how many shards the model is cut into, and joins the parts of each weight."""

    def __init__(
        self,
        source: Source,
        locate: Locate,
        shards: dict[str, dict[str, TensorInfo]],
        unreadable: set[str],
        expected: dict[str, WeightSpec],
        packed: bool,
    ) -> None:
        self.source = source
        self.locate = locate
        self.shards = shards
        self.unreadable = unreadable
        self.expected = expected
        self.packed = packed  # whether several values may be in one element
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

        Without a configuration, or with one of another model, the number of files; and of int4,
        where a matrix of half the size may be one that is packed two to a byte.
        """
        if self.packed:
            return len(self.shards)
        votes: Counter[int] = Counter()
        matrices = 0
        for name, shape in self.shapes.items():
            spec = self.expected.get(name)
            counts = component_of(name) not in NOT_PARAMETERS
            if spec and spec.shape and len(spec.shape) > 1 and counts:
                matrices += 1
                if shape == spec.shape:
                    votes[1] += 1
                elif (axis := _cut_axis(shape, spec.shape)) is not None:
                    votes[spec.shape[axis] // shape[axis]] += 1
        ratio, agreeing = votes.most_common(1)[0] if votes else (0, 0)
        believed = 2 * agreeing > matrices and ratio <= MAX_RANKS
        return ratio if believed else len(self.shards)

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
        if spec and spec.per_rank and shape:
            joined = (*shape[:-1], shape[-1] * self.world)
            return Weight(name, joined, parts, len(shape) - 1, self.world)
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
        # Scales may stand in files of their own, whose absence is said of those.
        here = [name for name, weight in weights.items() if not _aside(weight)]
        for file, tensors in self.shards.items():
            absent = [name for name in here if name in usual and name not in tensors]
            alone = [name for name in here if name not in usual and name in tensors]
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
        if not cut or not cut[0][0].storage.crc32:
            return
        sums_of: dict[str, list[int]] = {file: [] for file in self.shards}
        for parts in cut:
            for part in parts:
                if part.file in sums_of:  # scales have files of their own
                    sums_of[part.file].append(part.storage.crc32 or 0)
        first: dict[tuple[int, ...], str] = {}
        for file, found in sums_of.items():
            sums = tuple(found)
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
            start = self.locate(self.source, part.storage) + part.offset
            values.add(self.source.read(part.file, start, part.nbytes))
        return len(values) == 1


def _aside(weight: Weight) -> bool:
    scales = component_of(weight.name) == "scales"
    return scales and any(SCALES_FILE.fullmatch(part.file) for part in weight.parts)


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


def count_rows(shards: dict[str, dict[str, TensorInfo]], ranks: int, dim: int) -> int | None:
    """Tokens that the model has a vector for, from those of its shards that are given."""
    for tensors in shards.values():
        embedding = tensors.get("tok_embeddings.weight")
        if embedding and len(embedding.shape) == 2:
            rows, columns = embedding.shape
            return rows * ranks if columns == dim else rows  # Llama 1 and 2 cut columns
    return None
