"""A weight of a model: where its bytes are, in how many parts, and how to cut it."""

from typing import NamedTuple

from llamainspect.architecture import WeightSpec
from llamainspect.config import ModelConfig
from llamainspect.reports import Finding
from llamainspect.tensors import TensorInfo, count


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
    adaptor_scale: float = 1.0
    hadamard: bool = False


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
    parts, first = [], 0
    for part in parts_needed(weight):
        height = part.shape[0]
        low, high = (start, end) if weight.axis != 0 else (start - first, end - first)
        low, high = max(low, 0), min(high, height)
        if low < high:
            step = part.strides[0] if part.strides else part.elements // height
            offset = part.offset + low * step * part.dtype.block_bytes
            parts.append(part._replace(shape=(high - low, *part.shape[1:]), offset=offset))
        first += height
    return Weight(
        name=f"{weight.name}[{start}:{end}]",
        shape=(end - start, *weight.shape[1:]),
        parts=tuple(parts),
        axis=weight.axis if len(parts) > 1 else None,
        ranks=len(parts),
        beside=None if weight.beside is None else _rows_beside(weight.beside, start, end),
    )


def _rows_beside(beside: Beside, start: int, end: int) -> Beside:
    a, b = beside.adaptor or (None, None)
    return beside._replace(
        scales=rows_of(beside.scales, start, end),
        zeros=None if beside.zeros is None else rows_of(beside.zeros, start, end),
        adaptor=None if a is None or b is None else (a, rows_of(b, start, end)),
    )


def parts_needed(weight: Weight) -> tuple[TensorInfo, ...]:
    """The parts that make the whole: of copies the first, of repeated KV heads one of each."""
    return weight.parts[:1] if weight.axis is None else weight.parts[:: weight.repeat]
