"""A weight by the name that a person gives."""

from difflib import get_close_matches

from llamainspect.checkpoint import Checkpoint, name_of
from llamainspect.errors import MissingFile
from llamainspect.names import listing
from llamainspect.weights import Weight

MAX_COMPARED = 5_000  # names looked at for a near one; a file can hold a million
MAX_NAME = 200


def find_weight(checkpoint: Checkpoint, name: str) -> Weight:
    """A weight by either of its names. Raises MissingFile, which names near ones."""
    if name in checkpoint.weights:
        return checkpoint.weights[name]
    for weight in checkpoint.weights.values():
        if name in (weight.parts[0].name, name_of(checkpoint, weight, "hf")):
            return weight
    names = list(checkpoint.weights)
    comparable = [other for other in names[:MAX_COMPARED] if len(other) <= MAX_NAME]
    near = get_close_matches(name[:MAX_NAME], comparable, n=3, cutoff=0.5) or names[:3]
    raise MissingFile(
        f"{checkpoint.source.place}: no weight is called {name}; there are {len(names):,}, for "
        f"example {listing(near)}. `llamainspect tensors` lists them"
    )
