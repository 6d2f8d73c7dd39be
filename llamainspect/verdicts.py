"""What the difference between two checkpoints looks like, by rules that numbers can meet or not.

In this order; the first that fits is named, and where none does, nothing is:

dtype           Every value is the same; only the type that it is stored in is not.
row_order       Only wq and wk differ, and each is the other's with the rows of its heads in Hugging
                Face's order where Meta's belongs, or the reverse: a conversion that forgot them, or
                did it twice.
swapped_shards  The weights that are cut hold the other's parts in another order, and all others
                are the same.
damage          Everything that changed lies in one stretch of one file, in at most two weights, no
                more than a hundredth of all bytes, and half of that stretch changed, though not all
                of each weight.
rounding        Every changed weight of one checkpoint is exactly the other's, rounded to a coarser
                type on the way, and at least FEW_ELEMENTS elements of matrices changed.
not_finite      One of the two has NaN or Inf where the other has numbers.
lora            Only matrices of layers changed, norms, embedding and output did not, and in those
                that are looked at, some of each kind, a twentieth of the elements changed, rounding
                explains half of the difference at most, and RANK directions (or a quarter of
                the shorter side) hold nine tenths of the rest.
quantised       More than half of the matrices changed, and in one of the two each group of 32, 64
                or 128 neighbours that are looked at (in the first row or head of some matrices) has
                no more than 16 values, or the row no more than 256, and in the other a quarter
                more.
fine_tune       Weights changed in nine of ten layers and more than half of all, and they still
                point the same way: a cosine of 0.9 and a difference of at most 0.3 of the length.
unrelated       Weights changed in nine of ten layers and more than half of all, and the two point
                different ways: a cosine between -0.3 and 0.3.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llamainspect.arrays import place_of, read_elements
from llamainspect.blocks import Memory, Reader, grid_of, has_values, values_of
from llamainspect.distance import (
    ROUNDED,
    Distance,
    Side,
    compare_weights,
    cosine,
    is_rounded,
    relative,
    same_values,
)
from llamainspect.names import (
    NOT_PARAMETERS,
    component_of,
    compress,
    counted,
    layer_of,
    layer_pattern,
    listing,
)
from llamainspect.reports import Likeness
from llamainspect.weights import Weight

Matrix = npt.NDArray[np.float64]
RANK = 64  # directions that a LoRA's difference must fit in; most have 8 to 64
SHARE_OF_SIDE = 4  # ... and at most this part of a matrix's shorter side
LOOKED_AT = 6  # matrices whose rank is measured, spread over the layers
LOW_RANK_SHARE = 0.9
LEAST_CHANGED = 0.05  # of a matrix's elements: a LoRA's product touches all, rounding hides some
LEAST_ENERGY = 0.5  # of the difference that rounding does not explain, or nothing can be said
MAX_DAMAGE = 0.01  # of all bytes
FEW_ELEMENTS = 100
MANY_LAYERS = 0.9
SAME_WAY, LITTLE, OTHER_WAY = 0.9, 0.3, 0.3
# Bits of a value, and how many share a scale (None: a row).
LEVELS = ((4, 32), (4, 64), (4, 128), (8, None))
LEAST_VALUES, MORE_VALUES = 4, 1.25
MAX_RANKS = 64
SAMPLE = 64  # elements of a row by which a part is recognised


class Compared(NamedTuple):
    """One weight of both, and how far apart they are."""

    name: str
    a: Side
    b: Side
    distance: Distance

    @property
    def changed(self) -> bool:
        """Whether any value is another."""
        return self.distance.changed > 0


def find_likeness(
    compared: Sequence[Compared], whole: bool = True, chosen: bool = False
) -> Likeness | None:
    """The first rule that fits; None when nothing changed, or nothing fits.

    `whole`: these are all weights of both. `chosen`: some were left out on purpose, so that nothing
    can be said of the model as such.
    """
    changed = [pair for pair in compared if pair.changed]
    if not changed:
        message = _dtype(compared) if whole or chosen else None
        return Likeness("dtype", message) if message else None
    for kind, rule in RULES.items():
        if (kind in OF_ALL and not whole) or (kind in OF_THE_MODEL and chosen):
            continue
        if message := rule(compared, changed):
            return Likeness(kind, message)
    return None


def _not_finite(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    for side, one, other in ((1, "B", "A"), (0, "A", "B")):
        names = [
            pair.name
            for pair in changed
            if pair.distance.not_finite[side] > pair.distance.not_finite[1 - side]
        ]
        if names:
            return (
                f"NaN or Inf in {one} where {other} has numbers ({listing(compress(names))}); a "
                "model with them computes nothing"
            )
    return None


# --- stored in another way ------------------------------------------------------------------------


def _dtype(compared: Sequence[Compared]) -> str | None:
    kinds = {
        (pair.a.dtype.name, pair.b.dtype.name) for pair in compared if pair.a.dtype != pair.b.dtype
    }
    if not kinds:
        return None
    ways = listing([f"{one} to {other}" for one, other in sorted(kinds)])
    return f"only the dtype: {ways}, and every value is the same"


def _row_order(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    names = (".attention.wq.weight", ".attention.wk.weight")
    if not all(pair.name.endswith(names) for pair in changed):
        return None
    for head_dim in _head_dims(changed[0]):
        if all(_equals(_turned(pair.a, head_dim), pair.b) for pair in changed) or all(
            _equals(pair.a, _turned(pair.b, head_dim)) for pair in changed
        ):
            return (
                f"rows of wq and wk in another order ({counted(len(changed), 'weight')}, heads of "
                f"{head_dim} rows), otherwise the same. Hugging Face's layout turns halves of a "
                "head, Meta's neighbours: a conversion left that out or did it twice, and the "
                "model computes nonsense"
            )
    return None


def _head_dims(pair: Compared) -> list[int]:
    """Rows of a head: as the configuration says, or all that usual models have."""
    config = pair.a.checkpoint.config or pair.b.checkpoint.config
    return [config.head_dim] if config else [128, 64, 96, 32, 80, 256, 16]


def _turned(side: Side, head_dim: int) -> Side:
    """Its rows as a conversion to Hugging Face's layout orders them, whatever order they are in."""
    heads, rest = divmod(side.weight.shape[0], head_dim)
    if rest or head_dim % 2:
        return side
    order = 0 if side.weight.rope_heads else -heads
    return side._replace(weight=side.weight._replace(rope_heads=order))


def _equals(a: Side, b: Side) -> bool:
    """Whether all values are the same, whatever type they are stored in."""
    if a.dtype == b.dtype:
        return same_values(a, b)
    return compare_weights(a, b).changed == 0


def _swapped_shards(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    cut_b = [pair for pair in changed if _is_cut(pair.b.weight)]
    cut = cut_b or [pair for pair in changed if _is_cut(pair.a.weight)]
    whole = [pair for pair in cut if (pair.b if cut_b else pair.a).weight.repeat == 1]
    if len(cut) != len(changed) or not whole:
        return None
    first = min(whole, key=lambda pair: pair.distance.elements)
    side, other = (first.b, first.a) if cut_b else (first.a, first.b)
    order = _order_of_parts(side, other)
    if order is None or order == sorted(order):
        return None
    for pair in changed:
        if not _equals(*((pair.a, _put_back(pair.b, order)) if cut_b else
                         (_put_back(pair.a, order), pair.b))):  # fmt: skip
            return None
    files = [part.file for part in side.weight.parts]
    moved = [
        f"{files[part]} holds what belongs in {files[place]}"
        for place, part in sorted(enumerate(order), key=lambda both: both[1])
        if place != part
    ]
    return (
        f"shards of {'B' if cut_b else 'A'} in another order than the other has them: "
        f"{listing(moved)}; with the files renamed the two are the same"
    )


def _is_cut(weight: Weight) -> bool:
    return weight.axis is not None and len(weight.parts) > 1


def _put_back(side: Side, order: list[int]) -> Side:
    """With its parts in that order, if it has as many."""
    parts = side.weight.parts
    if len(parts) != len(order):
        return side
    return side._replace(weight=side.weight._replace(parts=tuple(parts[i] for i in order)))


def _order_of_parts(side: Side, other: Side) -> list[int] | None:
    """For each place, which part belongs there, by the first elements of each; None if unclear."""
    parts = side.weight.parts
    if len(parts) > MAX_RANKS or not (has_values(side.dtype) and has_values(other.dtype)):
        return None
    here, there = _beginnings(side, side.weight), _beginnings(other, side.weight)
    order = [here.index(sample) if sample in here else -1 for sample in there]
    return order if sorted(order) == list(range(len(parts))) else None


def _beginnings(side: Side, cut: Weight) -> list[tuple[float, ...]]:
    """A few values from where each part of `cut` begins, read of `side`."""
    grid = grid_of(side.weight, whole_rows=True)
    reader = Reader(side.checkpoint, side.weight, grid, Memory())
    assert cut.axis is not None
    found = []
    begin = 0
    for part in cut.parts:
        by_columns = cut.axis == len(cut.shape) - 1 and len(cut.shape) > 1
        row = 0 if by_columns else begin * math.prod(cut.shape[cut.axis + 1 : -1])
        column = begin if by_columns else 0
        first = row // grid.head_dim * grid.head_dim
        codes = reader.read(first, first + grid.head_dim)[row - first]
        values = values_of(codes, side.dtype)
        width = part.shape[-1] if by_columns else len(values)
        found.append(tuple(values[column : column + min(SAMPLE, width)].tolist()))
        begin += part.shape[cut.axis]
    return found


# --- some of it changed ---------------------------------------------------------------------------


def _damage(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    if len(changed) > 2:
        return None
    if sum(pair.distance.changed for pair in changed) == 1:
        (pair,) = changed
        return f"one element alone: {pair.name} at {list(pair.distance.first or ())}{_bits(pair)}"
    if all(pair.distance.changed == pair.distance.elements for pair in changed):
        return None  # a stretch that ends where weights do was made by someone who knows them
    for side in "ba":
        if stretch := _common_stretch(changed, side):
            file, start, end, touched = stretch
            total = sum(pair.b.weight.nbytes for pair in compared)
            if end - start <= MAX_DAMAGE * total and 2 * touched >= end - start:
                return (
                    f"one damaged stretch: bytes {start:,} to {end:,} of {file} in {side.upper()} "
                    f"({listing([pair.name for pair in changed])}); everything else is the same. "
                    "`llamainspect verify-checksums` tells which of the two is as published"
                )
    return None


def _common_stretch(changed: list[Compared], side: str) -> tuple[str, int, int, int] | None:
    """(file, first byte, behind the last, bytes changed) of all together; None if in two files."""
    stretches = [_stretch(pair, side) for pair in changed]
    known = sorted(stretch for stretch in stretches if stretch is not None)
    if len(known) < len(changed) or len({file for file, *_ in known}) > 1:
        return None
    touched = sum(nbytes for *_, nbytes in known)
    return known[0][0], known[0][1], known[-1][2], touched


def _stretch(pair: Compared, side: str) -> tuple[str, int, int, int] | None:
    """The same of one weight, in the order in which `side` stores it."""
    sides = {"a": pair.a, "b": pair.b}
    stored, other = sides[side], sides["a" if side == "b" else "b"]
    heads, distance = stored.weight.rope_heads, pair.distance
    if heads:  # rows that are neighbours in the file are not in Meta's order
        order = 0 if other.weight.rope_heads else -heads
        stored = stored._replace(weight=stored.weight._replace(rope_heads=0))
        other = other._replace(weight=other.weight._replace(rope_heads=order))
        distance = compare_weights(stored, other)
    if distance.first is None or distance.last is None:
        return None
    (file, start), (last_file, end) = (
        place_of(stored.checkpoint, stored.weight, index)
        for index in (distance.first, distance.last)
    )
    if file != last_file or end < start:
        return None
    width = stored.dtype.block_bytes
    return file, start, end + width, distance.changed * width


def _bits(pair: Compared) -> str:
    """Which bit of an element is another, when it is one."""
    index = pair.distance.first
    if pair.a.dtype != pair.b.dtype or index is None:
        return ""
    window = tuple(range(i, i + 1) for i in index)
    codes = []
    for side in (pair.a, pair.b):
        elements, _ = read_elements(side.checkpoint, side.weight, window)
        codes.append(int.from_bytes(elements[0], "little"))
    bits = codes[0] ^ codes[1]
    return f", where bit {bits.bit_length() - 1} is flipped" if bits.bit_count() == 1 else ""


def _rounding(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    shared = frozenset.intersection(*(pair.distance.rounded for pair in changed))
    if sum(p.distance.changed for p in changed if len(p.a.weight.shape) > 1) < FEW_ELEMENTS:
        return None  # too few to tell: one norm of equal numbers can be anything
    for side, one, other in (("a", "A", "B"), ("b", "B", "A")):
        # The type that the rounded one is stored in says most; the others, finest first.
        stored = {(pair.b if side == "a" else pair.a).dtype.name for pair in changed}
        for kind in sorted(ROUNDED, key=lambda kind: kind not in stored):
            if (side, kind) in shared and all(is_rounded(p.a, p.b, side, kind) for p in changed):
                return (
                    f"a round trip through {kind}: {other} is exactly {one} after rounding to "
                    f"{kind} ({counted(len(changed), 'weight')} changed by it)"
                )
    return None


# --- training -------------------------------------------------------------------------------------


def _lora(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    if not all(layer_of(p.name) is not None and len(p.a.weight.shape) == 2 for p in changed):
        return None
    looked_at = _some_of_each_kind(changed)
    ranks = [_low_rank(pair) for pair in looked_at]
    if any(rank is None for rank in ranks):
        return None
    kinds = dict.fromkeys(layer_pattern(pair.name)[0].rpartition("{}.")[2] for pair in changed)
    names = listing([kind.removesuffix(".weight") for kind in kinds], 8)
    layers = counted(len({layer_of(pair.name) for pair in changed}), "layer")
    return (
        f"a LoRA merge: only {names} changed, in {layers}, by matrices of low rank (about "
        f"{max(rank or 0 for rank in ranks)}; measured on {len(looked_at)} of {len(changed):,})"
    )


def _some_of_each_kind(changed: list[Compared]) -> list[Compared]:
    """One or more matrices of each kind, from different layers."""
    kinds: dict[str, list[Compared]] = {}
    for pair in changed:
        kinds.setdefault(layer_pattern(pair.name)[0], []).append(pair)
    each = max(1, LOOKED_AT // len(kinds))
    chosen = []
    for number, pairs in enumerate(kinds.values()):
        for turn in range(min(each, len(pairs))):
            chosen.append(pairs[(number + turn * max(1, len(pairs) // each)) % len(pairs)])
    return chosen


def _low_rank(pair: Compared) -> int | None:
    """The rank of the difference, if it is low; None if it is not.

    Random directions are sent through the difference; what comes out spans nearly all of its range
    when that is narrow (Halko, Martinsson, Tropp, arXiv 0909.4061).
    """
    rows, columns = pair.a.weight.shape
    width = min(RANK, min(rows, columns) // SHARE_OF_SIDE)
    energy = pair.distance.square - pair.distance.rounding
    valued = has_values(pair.a.dtype) and has_values(pair.b.dtype)
    if width < 1 or not valued or any(pair.distance.not_finite):
        return None
    dense = pair.distance.changed >= LEAST_CHANGED * pair.distance.elements
    if not dense or energy < LEAST_ENERGY * pair.distance.square:
        return None
    probes = np.random.default_rng(0).standard_normal((columns, width))
    for _ in range(2):  # once more with what came out, so that noise counts for less
        range_of = _through(pair, probes)
        basis, _ = np.linalg.qr(range_of)
        inside = _back(pair, basis)
        probes = np.linalg.qr(inside.T)[0]
    values = np.linalg.svd(inside, compute_uv=False)
    noise = math.sqrt(pair.distance.rounding / (rows * columns)) * (rows**0.5 + columns**0.5)
    kept = float((values**2).sum())
    if kept < LOW_RANK_SHARE * energy:
        return None
    return max(1, int(np.count_nonzero(values > max(2 * noise, 1e-3 * values[0]))))


def _through(pair: Compared, probes: Matrix) -> Matrix:
    """The difference times `probes`, (rows, width)."""
    return np.concatenate([difference @ probes for difference in _differences(pair)])


def _back(pair: Compared, basis: Matrix) -> Matrix:
    """`basis` transposed times the difference, (width, columns)."""
    made = np.zeros((basis.shape[1], pair.a.weight.shape[1]))
    first = 0
    for difference in _differences(pair):
        last = first + len(difference)
        made += basis[first:last].T @ difference
        first = last
    return made


def _differences(pair: Compared) -> Iterator[Matrix]:
    """A minus B in blocks of whole rows."""
    grid = grid_of(pair.a.weight, pair.b.weight, whole_rows=True)
    readers = [Reader(side.checkpoint, side.weight, grid, Memory()) for side in (pair.a, pair.b)]
    for first, last in grid.blocks(8):
        values = []
        for reader in readers:
            codes = reader.read(first, last)
            values.append(values_of(codes, reader.dtype))
        yield values[0] - values[1]


def _quantised(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    matrices = [pair for pair in changed if len(pair.a.weight.shape) == 2]
    looked_at = matrices[:: max(1, len(matrices) // LOOKED_AT)][:LOOKED_AT]
    if 2 * len(matrices) <= sum(len(pair.a.weight.shape) == 2 for pair in compared):
        return None
    for bits, group in LEVELS:
        for one, other in (("B", "A"), ("A", "B")):
            if looked_at and all(_has_levels(pair, one, bits, group) for pair in looked_at):
                rows = "each row" if group is None else f"every {group} values"
                return (
                    f"quantised and back: in {one} {rows} of the matrices that changed have no "
                    f"more than {2**bits} values, as from {bits} bits, and more in {other} "
                    f"(measured on {len(looked_at)} of {len(matrices):,})"
                )
    return None


def _has_levels(pair: Compared, coarse: str, bits: int, group: int | None) -> bool:
    """Whether one side has so few values in each of some groups, and the other clearly more."""
    columns = pair.a.weight.shape[1]
    width = group or columns
    if (
        columns % width
        or width <= 2**bits
        or not all(map(has_values, (pair.a.dtype, pair.b.dtype)))
    ):
        return False
    rows = {
        name: _first_rows(side).reshape(-1, width) for name, side in (("A", pair.a), ("B", pair.b))
    }
    few = [len(np.unique(values)) for values in rows.pop(coarse)]
    (fine,) = rows.values()
    many = [len(np.unique(values)) for values in fine]
    some = sum(few) >= LEAST_VALUES * len(few)  # zeros were not quantised, they are nothing
    return some and max(few) <= 2**bits and sum(many) >= MORE_VALUES * sum(few)


def _first_rows(side: Side) -> Matrix:
    """The values of a matrix's first row or head."""
    grid = grid_of(side.weight, whole_rows=True)
    codes = Reader(side.checkpoint, side.weight, grid, Memory()).read(0, grid.head_dim)
    return values_of(codes, side.dtype)


def _fine_tune(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    overall = _overall(compared, changed)
    if overall is None:
        return None
    moved, angle = overall
    if angle < SAME_WAY or moved > LITTLE:
        return None
    return (
        f"a fine-tune: {counted(len(changed), 'weight')} of {len(compared):,} changed, all over "
        f"the model, and little: by {100 * moved:.2g} % of their length, cosine {angle:.6f}"
    )


def _unrelated(compared: Sequence[Compared], changed: list[Compared]) -> str | None:
    overall = _overall(compared, changed)
    if overall is None or abs(overall[1]) >= OTHER_WAY:
        return None
    return (
        f"two models that were trained apart, or values in other places: no more than chance in "
        f"common (cosine {overall[1]:.3f})"
    )


def _overall(compared: Sequence[Compared], changed: list[Compared]) -> tuple[float, float] | None:
    """(relative length of the difference, cosine) of all matrices that changed; None where they
    are in few layers, or not even half of all weights."""
    layers = {layer_of(pair.name) for pair in compared} - {None}
    touched = {layer_of(pair.name) for pair in changed} - {None}
    parameters = [pair for pair in compared if component_of(pair.name) not in NOT_PARAMETERS]
    if len(touched) < MANY_LAYERS * max(len(layers), 1) or 2 * len(changed) <= len(parameters):
        return None
    distances = [p.distance for p in changed if len(p.a.weight.shape) > 1 and p.distance.max_abs]
    square_a = sum(d.square_a for d in distances)
    moved = relative(sum(d.square for d in distances), square_a, 0)
    angle = cosine(sum(d.product for d in distances), square_a,
                   sum(d.square_b for d in distances), 0)  # fmt: skip
    return None if moved is None or angle is None else (moved, angle)


OF_ALL = frozenset({"row_order", "swapped_shards", "damage"})  # "everything else is the same"
OF_THE_MODEL = frozenset({"lora", "quantised", "fine_tune", "unrelated"})
RULES: dict[str, Callable[[Sequence[Compared], list[Compared]], str | None]] = {
    "row_order": _row_order,
    "swapped_shards": _swapped_shards,
    "damage": _damage,
    "rounding": _rounding,
    "not_finite": _not_finite,
    "lora": _lora,
    "quantised": _quantised,
    "fine_tune": _fine_tune,
    "unrelated": _unrelated,
}
