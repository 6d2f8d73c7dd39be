"""Logits in files: what `logits --save` writes, and what other programs recorded.

A recording is a `.safetensors` or `.npz` file with `tokens`, whole numbers (T), and `logits`,
floats (T, V), or (P, V) with `positions` (P); a first dimension of 1 is one sequence. Metadata,
which only safetensors has, says who made it.
"""

import os
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from llamainspect import runs
from llamainspect.dtypes import DTYPES
from llamainspect.errors import (
    CorruptFile,
    InvalidRequest,
    MissingFile,
    UnsupportedFile,
)
from llamainspect.formats.safetensors_header import read_header
from llamainspect.model.load import as_tensor
from llamainspect.npz import read_npz
from llamainspect.readahead import RawPart
from llamainspect.sources import CHANGED, Folder, open_source
from llamainspect.targets import check_target
from llamainspect.tensors import Storage, TensorInfo

KIND = "llamainspect logits 1"  # in the metadata of our own recordings, under "format"
NAMES = ("tokens", "logits", "positions")
SUFFIX = ".safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8")


class Recording(NamedTuple):
    """Logits of some positions of one sequence."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]  # of the rows of `logits`
    logits: Tensor  # (P, V), float32
    metadata: dict[str, str]

    @property
    def dtype(self) -> str:
        """What it was computed in: as its metadata says, else as its numbers look."""
        if self.metadata.get("dtype") in runs.DTYPES:
            return self.metadata["dtype"]
        for name, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if torch.equal(self.logits.to(kind).float(), self.logits):
                return name
        return "fp32"


def check_recording_target(file: str) -> None:
    """Whether a recording may be written there: nothing else is overwritten. Before any work."""
    if not file.endswith(SUFFIX):
        raise InvalidRequest(f"--save: {file} should end with {SUFFIX}, which is what is written")
    check_target("--save", file, "recording of logits", _is_recording)


def _is_recording(folder: Folder, name: str) -> bool:
    return read_header(folder, name).metadata.get("format") == KIND


def save(file: str, tokens: tuple[int, ...], logits: Tensor, metadata: dict[str, str]) -> int:
    """Write the logits (T, V) of all tokens, at once; returns the size in bytes."""
    from safetensors.torch import save_file

    tensors = {"tokens": torch.tensor(tokens), "logits": logits.float().cpu().contiguous()}
    target = os.path.realpath(file)  # a link stays one
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        save_file(tensors, temporary, {"format": KIND, **metadata})
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # the library makes it for this user alone
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.remove(temporary)
        if type(error).__name__ == "SafetensorError":  # the disk is full, say
            raise UnsupportedFile(f"{file}: it cannot be written: {error}") from error
        raise
    return os.path.getsize(file)


def load(file: str) -> Recording:
    """A recording. Raises CorruptFile or UnsupportedFile for what is none."""
    if not os.path.lexists(file):
        raise MissingFile(f"{file}: there is no such file; `logits --save` records one")
    source = open_source(file)
    if source.only is None:
        raise UnsupportedFile(
            f"{file}: it is a directory; a recording is one file, {SUFFIX} or .npz. To compare "
            "with a checkpoint, use --against"
        )
    metadata: dict[str, str] = {}
    if file.endswith(".npz"):
        found = _read_npz(source, source.only, file)
    elif file.endswith(SUFFIX):
        found, metadata = _read_safetensors(source, source.only)
    else:
        raise UnsupportedFile(f"{file}: a recording is a {SUFFIX} or .npz file")
    for name in ("tokens", "logits"):
        if name not in found:
            raise UnsupportedFile(
                f"{file}: it has no {name!r}; a recording has tokens, logits and perhaps positions"
            )
    return _check(file, found, metadata)


def _read_npz(source: Folder, file: str, path: str) -> dict[str, Tensor]:
    source.nbytes(file)  # the state that counts
    try:
        return {name: torch.from_numpy(array) for name, array in read_npz(path, NAMES).items()}
    finally:
        if source.has_changed(file):  # whatever numpy made of it
            raise CorruptFile(f"{path}: {CHANGED}")


def _read_safetensors(source: Folder, file: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    header = read_header(source, file)
    if header.end > source.nbytes(file):
        raise CorruptFile(
            f"{file}: cut short: by its header it has {header.end:,} bytes, and it has "
            f"{source.nbytes(file):,}; record it anew"
        )
    found = {}
    for entry in header.entries:
        if entry.name not in NAMES:
            continue
        if entry.dtype not in (FLOATS if entry.name == "logits" else INTEGERS):
            raise CorruptFile(
                f"{file}: {entry.name} are of type {entry.dtype}, and "
                f"{'floats' if entry.name == 'logits' else 'whole numbers'} are needed; record it "
                "anew"
            )
        nbytes = entry.end - entry.start
        if not nbytes:
            raise CorruptFile(f"{file}: {entry.name} are empty; record it anew")
        data = memoryview(bytearray(nbytes))
        source.read_into(file, entry.start, data)
        storage = Storage(file, entry.name, nbytes, entry.start)
        info = TensorInfo(entry.name, DTYPES[entry.dtype], entry.shape, storage)
        found[entry.name] = as_tensor(RawPart(info, data))
    return found, header.metadata


def _check(file: str, found: dict[str, Tensor], metadata: dict[str, str]) -> Recording:
    def wrong(what: str) -> CorruptFile:
        return CorruptFile(f"{file}: {what}; record it anew")

    tokens, logits = _one_sequence(found["tokens"], 1), _one_sequence(found["logits"], 2)
    if tokens is None or tokens.is_floating_point() or not len(tokens):
        raise wrong(f"tokens are {_shape(found['tokens'])}, one row of whole numbers is needed")
    if logits is None or not logits.is_floating_point() or not logits.numel():
        raise wrong(f"logits are {_shape(found['logits'])}, floats (tokens, vocabulary) are needed")
    logits = logits.float()
    ids = tuple(tokens.long().tolist())
    if min(ids) < 0:
        at = ids.index(min(ids))
        raise wrong(f"token {at:,} is {ids[at]}, and no vocabulary has such a token")
    if "positions" in found:
        given = _one_sequence(found["positions"], 1)
        if given is None or given.is_floating_point():
            raise wrong(f"positions are {_shape(found['positions'])}, whole numbers are needed")
        positions = tuple(given.long().tolist())
        if outside := [p for p in positions if not 0 <= p < len(ids)]:
            raise wrong(f"position {outside[0]:,} is outside of its {len(ids):,} tokens")
    else:
        positions = tuple(range(len(ids)))
        if len(logits) == 1:  # of the last token, as a program that generates has them
            positions = positions[-1:]
    if len(set(positions)) != len(positions):
        raise wrong("a position stands there twice")
    if len(positions) != len(logits):
        raise wrong(
            f"there are logits of {len(logits):,} positions and {len(positions):,} "
            f"{'positions' if 'positions' in found else 'tokens'}"
        )
    finite = torch.isfinite(logits).all(-1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise wrong(f"the logits of position {positions[first]:,} hold NaN or Inf")
    return Recording(ids, positions, logits, metadata)


def _one_sequence(tensor: Tensor, dimensions: int) -> Tensor | None:
    """Without a leading dimension of 1; None when it has another number of dimensions."""
    if tensor.dim() == dimensions + 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if dimensions == 2 and tensor.dim() == 1:
        tensor = tensor[None]  # one position
    return tensor if tensor.dim() == dimensions else None


def _shape(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)}"
