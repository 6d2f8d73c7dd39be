"""The weights of a checkpoint as a list: filtered, sorted, and where each file keeps its part."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

from llamainspect.checkpoint import Checkpoint, Names, describe_weight, name_of
from llamainspect.names import natural
from llamainspect.reports import TensorList
from llamainspect.weights import Weight

Sort = Literal["file", "name", "size", "dtype"]

_SORT_KEYS: dict[str, Callable[[Weight], Any]] = {
    "name": lambda weight: natural(weight.name),
    "size": lambda weight: -weight.nbytes,
    "dtype": lambda weight: (weight.parts[0].dtype.name, natural(weight.name)),
}


def list_tensors(
    checkpoint: Checkpoint,
    pattern: str | None = None,
    sort: Sort = "file",
    per_shard: bool = False,
    names: Names = "meta",
) -> TensorList:
    """Weights whose name, of the kind that is shown, matches the glob `pattern`; in that order.

    `per_shard` adds where each file keeps its part, which reads the header of every record.
    """
    weights = [
        weight
        for weight in checkpoint.weights.values()
        if pattern is None or fnmatchcase(name_of(checkpoint, weight, names), pattern)
    ]
    if sort != "file":
        weights.sort(key=_SORT_KEYS[sort])
    return TensorList(
        path=checkpoint.source.place,
        pattern=pattern,
        tensors=tuple(describe_weight(checkpoint, weight, per_shard, names) for weight in weights),
        count=len(weights),
        elements=sum(weight.elements for weight in weights),
        nbytes=sum(weight.nbytes for weight in weights),
        findings=checkpoint.problems,
    )
