"""One weight from near: its facts and a corner of its values, from only the bytes they need."""

import math
from typing import TypeVar

from llamainspect.arrays import as_float32, decode, read_elements, shortest_text
from llamainspect.checkpoint import Checkpoint, Names, describe_weight
from llamainspect.errors import MissingFile
from llamainspect.lookup import find_weight
from llamainspect.reports import Finding, TensorDetail
from llamainspect.weights import Weight

T = TypeVar("T")
CORNER = 6  # rows and columns


def show_tensor(
    checkpoint: Checkpoint, name: str, start: tuple[int, ...] = (), names: Names = "meta"
) -> TensorDetail:
    """Facts of one weight and up to CORNER rows and columns of its values, from index `start`.

    `name` may be Meta's or Hugging Face's. With Hugging Face's `names` rows are shown as they are
    stored, else those of wq and wk in Meta's order. Of a weight with more than two axes the last
    two are shown. Raises MissingFile when there is no such weight or `start` lies outside it.
    """
    weight = find_weight(checkpoint, name)
    findings = checkpoint.problems
    if names == "hf" and weight.rope_heads:
        weight = weight._replace(rope_heads=0)
    elif weight.rope_heads:
        message = (
            "Hugging Face stores the rows of each head in another order; they are shown in Meta's "
            "(--names hf: as stored)"
        )
        findings = (*findings, Finding("note", weight.name, message))
    if meaning := _meaning(weight):
        findings = (*findings, Finding("note", weight.name, meaning))
    window = _window(weight, start)
    elements, nbytes_read = read_elements(checkpoint, weight, window)
    part = weight.parts[0]
    values = decode(elements, part)
    if values is None:
        stored, floats = [element.hex() for element in elements], None
    else:
        layout = part.dtype.small_float
        stored = [shortest_text(float(v), layout) if layout else str(v) for v in values]
        float32 = None if part.dtype.quantised else as_float32(values)
        floats = None if float32 is None else [_finite(float(v)) for v in float32]
    columns = len(window[-1]) if window else 1
    return TensorDetail(
        path=checkpoint.source.place,
        tensor=describe_weight(checkpoint, weight, per_shard=True, names=names),
        start=tuple(axis.start for axis in window),
        stored=_rows(stored, columns),
        float32=None if floats is None else _rows(floats, columns),
        nbytes_read=nbytes_read,
        findings=findings,
    )


def _meaning(weight: Weight) -> str:
    """What the numbers are, if not plain ones."""
    meaning = "; ".join(sorted({part.meaning for part in weight.parts if part.meaning}))
    if not weight.parts[0].dtype.quantised:
        return meaning
    return (
        f"{meaning or 'quantised, how is not said'}: the numbers are shown as they are stored, and "
        "a value is (number - zero point) * scale"
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
