"""A weight of a model: where its bytes are, in how many parts, and how to cut it."""

from typing import NamedTuple

from llamainspect.architecture import WeightSpec
from llamainspect.config import ModelConfig
from llamainspect.reports import Finding
from llamainspect.tensors import TensorInfo, contiguous_strides, count


class Weight(NamedTuple):
    """One tensor of the model under Meta's name, cut into one part per model-parallel rank.

    Indices are Meta's, too: where `rope_heads` is set, row 2 * i + j of a head is stored as its row
    j * head_dim / 2 + i.
    """

    name: str
    shape: tuple[int, ...]  # of the whole
    parts: tuple[TensorInfo, ...]  # of the ranks whose files are there
    axis: int | None = None  # the parts are joined along it; None: one part, or copies
    ranks: int = 1  # how many parts make the whole
    repeat: int = 1  # every part stands this many times in a row (KV heads, ranks > n_kv_heads)
    blocks: tuple[int, ...] = ()  # pieces of a fused weight along `axis`, each cut by itself
    rope_heads: int = 0  # heads whose rows stand as Hugging Face's RoPE wants them; 0: Meta's order
    beside: "Beside | None" = None  # what makes numbers of quantised values again
    needed: tuple[int, int, int] | None = None  # axis, start and end: only this, once it is read

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


class Beside(NamedTuple):
    """What stands beside a quantised matrix (out, in), in Meta's files.

    The matrix that is meant is ((values - zeros) * scales + adaptor_scale * B A) H, where H is a
    Hadamard matrix or nothing.
    """

    scales: Weight  # (out, groups of a row), (out, 1) or (out); of experts (experts, out)
    zeros: Weight | None = None  # (out, groups of a row)
    adaptor: "tuple[Weight, Weight] | None" = None  # A (rank, in) and B (out, rank), of LoRA
    adaptor_scale: float | None = None  # set, if there is an adaptor
    hadamard: bool = False
    int4: bool = False  # the values are -8 to 7


def with_beside(weight: Weight) -> list[Weight]:
    """A weight and what stands beside it, in the order in which they are read."""
    if weight.beside is None:
        return [weight]
    others = (weight.beside.scales, weight.beside.zeros, *(weight.beside.adaptor or ()))
    return [weight, *(other for other in others if other is not None)]


class Assembly(NamedTuple):
    """What the files of a checkpoint make together."""

    config: ModelConfig | None  # with a vocabulary that the weights tell, if they had to
    weights: dict[str, Weight]  # by Meta's name, in the order of the first file
    expected: dict[str, WeightSpec]  # empty without a configuration
    shards: int  # how many files the model is cut into, there or not
    findings: tuple[Finding, ...]


def stored_row(weight: Weight, row: int) -> int:
    """Where a row of the whole stands among the rows that are stored."""
    if not weight.rope_heads:
        return row
    head_dim = weight.shape[0] // weight.rope_heads
    head, place = divmod(row, head_dim)
    return head * head_dim + place % 2 * (head_dim // 2) + place // 2


def meta_row(weight: Weight, stored: int) -> int:
    """Which row of the whole a stored one is."""
    if not weight.rope_heads:
        return stored
    head_dim = weight.shape[0] // weight.rope_heads
    head, place = divmod(stored, head_dim)
    return head * head_dim + place % (head_dim // 2) * 2 + place // (head_dim // 2)


def rows_of(weight: Weight, start: int, end: int) -> Weight:
    """Some rows of a matrix, as a weight of its own, from the parts that hold pieces of them."""
    return piece_of(weight, 0, start, end)


def piece_of(weight: Weight, axis: int, start: int, end: int) -> Weight:
    """What lies between two places of an axis, as a weight of its own, from the parts that hold
    pieces of it. Rows of heads in Hugging Face's order: whole heads.

    Where quantised values cannot be told without their neighbours the whole is to be read, and what
    is `needed` of it says so.
    """
    parts, kept, first = [], [], 0
    for number, part in enumerate(parts_needed(weight)):
        length = part.shape[axis]
        low, high = (start, end) if weight.axis != axis else (start - first, end - first)
        low, high = max(low, 0), min(high, length)
        if low < high:
            parts.append(_piece_of_part(part, axis, low, high))
            kept.append(number)
        first += length
    beside = weight.beside
    if beside is not None:
        beside = _beside_piece(weight, beside, axis, start, end, kept)
        if beside is None:
            return weight._replace(needed=(axis, start, end))
    heads = weight.rope_heads * (end - start) // weight.shape[0] if axis == 0 else weight.rope_heads
    return Weight(
        name=f"{weight.name}[{':, ' * axis}{start}:{end}]",
        shape=(*weight.shape[:axis], end - start, *weight.shape[axis + 1 :]),
        parts=tuple(parts),
        axis=weight.axis if len(parts) > 1 else None,
        ranks=len(parts),
        rope_heads=heads,
        beside=beside,
        needed=weight.needed,
    )


def _piece_of_part(part: TensorInfo, axis: int, start: int, end: int) -> TensorInfo:
    strides = part.strides or contiguous_strides(part.shape)
    shape = (*part.shape[:axis], end - start, *part.shape[axis + 1 :])
    return part._replace(
        shape=shape,
        offset=part.offset + start * strides[axis] * part.dtype.block_bytes,
        strides=part.strides if contiguous_strides(shape) == strides else strides,
    )


def _beside_piece(
    weight: Weight, beside: Beside, axis: int, start: int, end: int, kept: list[int]
) -> Beside | None:
    """What stands beside a piece; None where the whole is needed. `kept`: the parts it has."""
    a, b = beside.adaptor or (None, None)
    outputs = axis == 0 if len(weight.shape) == 2 else axis == 2  # a scale for each, or for groups
    if len(weight.shape) == 3 and axis == 0:  # some experts
        return beside._replace(scales=piece_of(beside.scales, 0, start, end))
    if outputs and weight.axis == 1 and len(parts_needed(beside.scales)) > 1:
        return beside._replace(scales=_rows_of_each(beside.scales, start, end))
    if outputs:
        at = axis // 2  # where scales have it: (out, groups), (experts, out)
        return beside._replace(
            scales=piece_of(beside.scales, at, start, end),
            zeros=beside.zeros and piece_of(beside.zeros, at, start, end),
            adaptor=None if a is None or b is None else (a, piece_of(b, 0, start, end)),
        )
    scales = _of_columns(weight, beside.scales, start, end, kept)
    zeros = beside.zeros and _of_columns(weight, beside.zeros, start, end, kept)
    if beside.hadamard or scales is None or (zeros is None) != (beside.zeros is None):
        return None
    adaptor = None if a is None or b is None else (piece_of(a, 1, start, end), b)
    return beside._replace(scales=scales, zeros=zeros, adaptor=adaptor)


def _rows_of_each(scales: Weight, start: int, end: int) -> Weight:
    """Of scales that each rank has for all rows, and no groups: some rows, of every rank."""
    parts = tuple(_piece_of_part(part, 0, start, end) for part in parts_needed(scales))
    shape = (len(parts) * (end - start),)
    return Weight(f"{scales.name} for {start}:{end}", shape, parts, scales.axis, len(parts))


def _of_columns(
    weight: Weight, scales: Weight, start: int, end: int, kept: list[int]
) -> Weight | None:
    """Scales of what lies between two inputs: those of the ranks that hold them, or of groups."""
    parts = parts_needed(scales)
    groups = scales.shape[1] if len(scales.shape) == 2 and len(weight.shape) == 2 else 1
    if groups > 1:
        columns = weight.shape[1] // groups
        if len(parts) > 1 or start % columns or end % columns:
            return None
        return piece_of(scales, 1, start // columns, end // columns)
    if len(parts) == 1 or len(kept) == len(parts):
        return scales
    some = tuple(parts[number] for number in kept)
    return Weight(
        name=f"{scales.name} for {start}:{end}",
        shape=(*scales.shape[:-1], sum(part.shape[-1] for part in some)),
        parts=some,
        axis=scales.axis if len(some) > 1 else None,
        ranks=len(some),
    )


def parts_needed(weight: Weight) -> tuple[TensorInfo, ...]:
    """The parts that make the whole: of copies the first, of repeated KV heads one of each."""
    return weight.parts[:1] if weight.axis is None else weight.parts[:: weight.repeat]


def unnamed_parts(weight: Weight) -> tuple[TensorInfo, ...]:
    """Those parts without their names: equal for two weights that are the same bytes."""
    return tuple(part._replace(name="") for part in parts_needed(weight))
