"""How often stored bytes may be read: views can ask for far more than a file holds.

A tensor of torch may repeat its elements (strides of 0) or overlap itself, and thousands may show
one storage: a file of a few KB then asks for terabytes. Tied weights and shared layers do so a
little; what that comes to is bounded here, for whoever reads all values.
"""

from collections import Counter
from collections.abc import Iterable

from llamainspect.tensors import Storage
from llamainspect.weights import Weight

MAX_TIMES = 32  # as often a storage may be read: each layer of most models could share it
SPARE_NBYTES = 256 * 2**20  # that all weights together may ask for beyond that


def read_too_often(weights: Iterable[Weight]) -> dict[str, str]:
    """Those whose bytes are not to be read once more, and why, for weights in the order given.

    All others together take at most MAX_TIMES the bytes that are stored, and SPARE_NBYTES.
    """
    asked: Counter[Storage] = Counter()
    spare = SPARE_NBYTES
    reasons: dict[str, str] = {}
    for weight in weights:
        needed: Counter[Storage] = Counter()
        for part in weight.parts:
            needed[part.storage] += max(part.nbytes, part.span)  # gaps are read, too
        beyond = {
            storage: min(nbytes, asked[storage] + nbytes - MAX_TIMES * storage.nbytes)
            for storage, nbytes in needed.items()
        }
        excess = sum(nbytes for nbytes in beyond.values() if nbytes > 0)
        if excess > spare:
            reasons[weight.name] = _reason(max(beyond, key=lambda storage: beyond[storage]))
            continue
        spare -= excess
        asked.update(needed)
    return reasons


def _reason(storage: Storage) -> str:
    return (
        f"views show the {storage.nbytes:,} bytes of its storage more than {MAX_TIMES} times over, "
        "so its values are not read; save a copy of each instead (.clone() before torch.save)"
    )
