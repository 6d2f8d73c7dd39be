"""Random safetensors files, each made from a number and the same each time.

The writers of the safetensors package make some. Others are put together here, because there is
more that the format allows than those write: blanks, any order of keys and fields, escapes, tensors
that stand in another order than their entries, and types that no framework has.
"""

import json
import random
from math import prod
from typing import Any

import safetensors.numpy
import safetensors.torch
import torch
from random_states import ODD_NAMES, WORDS, random_tensor

WRITTEN_BY_TORCH = tuple(safetensors.torch._TYPES.values())
WRITTEN_BY_NUMPY = tuple(
    dtype
    for dtype in WRITTEN_BY_TORCH
    if dtype is not torch.bfloat16 and not str(dtype).startswith("torch.float8")
)
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
NAMES = [name for name in ODD_NAMES if name != "\ud800"]  # that is no text for a safetensors file
BLANKS = (" ", "\n", "\t", "\r")


def random_safetensors(seed: int) -> bytes:
    """The file of that number."""
    rng = random.Random(seed)
    return rng.choice((_by_torch, _by_numpy, _by_hand, _by_hand))(rng)


def _name(rng: random.Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.3 else ".".join(rng.choices(WORDS, k=3))


def _metadata(rng: random.Random) -> dict[str, str] | None:
    if rng.random() < 0.4:
        return None
    return {
        _name(rng): rng.choice(("pt", "", 'ü\n"\\/\x00', "1")) for _ in range(rng.randint(1, 3))
    }


def _by_torch(rng: random.Random) -> bytes:
    made = {
        _name(rng): random_tensor(rng, rng.choice(WRITTEN_BY_TORCH))
        for _ in range(rng.randint(0, 5))
    }
    return safetensors.torch.save(made, _metadata(rng))


def _by_numpy(rng: random.Random) -> bytes:
    made = {
        _name(rng): random_tensor(rng, rng.choice(WRITTEN_BY_NUMPY)).numpy()
        for _ in range(rng.randint(0, 5))
    }
    return safetensors.numpy.save(made, _metadata(rng))


def _by_hand(rng: random.Random) -> bytes:
    header: list[tuple[str, Any]] = []
    data = b""
    for name in dict.fromkeys(_name(rng) for _ in range(rng.randint(0, 6))):
        dtype = rng.choice(list(BITS))
        shape = [rng.choice((0, 1, *(2, 3, 4) * 5)) for _ in range(rng.choice((0, 1, 2, 2, 3, 4)))]
        if prod(shape) * BITS[dtype] % 8:  # types of less than a byte end with one all the same
            shape.append(4)
        nbytes = prod(shape) * BITS[dtype] // 8
        raw = rng.randbytes(nbytes)
        raw = bytes(byte & 1 for byte in raw) if dtype == "BOOL" else raw
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + nbytes]}
        if rng.random() < 0.1:
            entry["note"] = rng.choice((None, 1, "text", [1.5], {"a": {}}))
        header.append((name, dict(_shuffled(rng, entry.items()))))
        data += raw
    if (metadata := _metadata(rng)) is not None:
        header.append(("__metadata__", metadata))
    return _packed(rng, dict(_shuffled(rng, header)), data)


def _packed(rng: random.Random, header: dict[str, Any], data: bytes) -> bytes:
    blank = rng.choice(BLANKS)
    text = json.dumps(
        header,
        ensure_ascii=rng.random() < 0.5,
        indent=rng.choice((None, None, 1, "\t")),
        separators=rng.choice(((",", ":"), (", ", ": "), (f"{blank},{blank}", f"{blank}:{blank}"))),
    )
    if rng.random() < 0.3:
        text = text.replace("/", "\\/")
    encoded = text.encode() + rng.choice(BLANKS).encode() * rng.choice((0, 0, 1, 7, 64))
    return len(encoded).to_bytes(8, "little") + encoded + data


def _shuffled(rng: random.Random, items: Any) -> list[Any]:
    listed = list(items)
    rng.shuffle(listed)
    return listed
