"""One weight from near: its facts and a corner of its values, from only the bytes they need."""

import math
from difflib import get_close_matches
from typing import TypeVar

from llamainspect.arrays import as_float32, decode, read_elements, shortest_text
from llamainspect.checkpoint import Checkpoint, Weight, describe_weight
from llamainspect.errors import MissingFile
from llamainspect.names import listing
from llamainspect.reports import TensorDetail

T = TypeVar("T")
CORNER = 6  # rows and columns
MAX_COMPARED = 5_000  # names looked at for a near one; a file can hold a million
MAX_NAME = 200


def show_tensor(checkpoint: Checkpoint, name: str, start: tuple[int, ...] = ()) -> TensorDetail:
    """Facts of one weight and up to CORNER rows and columns of its values, from index `start`.

    Of a weight with more than two axes the last two are shown. Raises MissingFile when there is no
    such weight or `start` lies outside it.
    """
    weight = _find(checkpoint, name)
    window = _window(weight, start)
    elements, nbytes_read = read_elements(checkpoint, weight, window)
    part = weight.parts[0]
    values = decode(elements, part)
    if values is None:
        stored, floats = [element.hex() for element in elements], None
    else:
        layout = part.dtype.small_float
        stored = [shortest_text(float(v), layout) if layout else str(v) for v in values]
        float32 = as_float32(values)
        floats = None if float32 is None else [_finite(float(v)) for v in float32]
    columns = len(window[-1]) if window else 1
    return TensorDetail(
        path=checkpoint.source.place,
        tensor=describe_weight(checkpoint, weight, per_shard=True),
        start=tuple(axis.start for axis in window),
        stored=_rows(stored, columns),
        float32=None if floats is None else _rows(floats, columns),
        nbytes_read=nbytes_read,
        findings=checkpoint.problems,
    )


def _find(checkpoint: Checkpoint, name: str) -> Weight:
    if name in checkpoint.weights:
        return checkpoint.weights[name]
    names = list(checkpoint.weights)
    comparable = [other for other in names[:MAX_COMPARED] if len(other) <= MAX_NAME]
    near = get_close_matches(name[:MAX_NAME], comparable, n=3, cutoff=0.5) or names[:3]
    raise MissingFile(
        f"{checkpoint.source.place}: no weight is called {name}; there are {len(names):,}, for "
        f"example {listing(near)}. `llamainspect tensors` lists them"
    )


def _window(weight: Weight, start: tuple[int, ...]) -> tuple[range, ...]:
    """One range per axis: CORNER long on the last two, a single index on the others."""
    axes = len(weight.shape)
    inside = all(0 <= i < n for i, n in zip(start, weight.shape, strict=False))
    if len(start) > axes or not inside:
        raise MissingFile(
            f"{weight.name}: there is nothing at {list(start)}, its shape is {list(weight.shape)}"
        )
    begin = (*start, *(0,) * (axes - len(start)))
    lengths = [1] * max(0, axes - 2) + [CORNER] * min(axes, 2)
    return tuple(
        range(i, min(i + length, n))
        for i, length, n in zip(begin, lengths, weight.shape, strict=True)
    )


def _rows(values: list[T], columns: int) -> tuple[tuple[T, ...], ...]:
    step = max(columns, 1)
    return tuple(tuple(values[i : i + step]) for i in range(0, len(values), step))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
