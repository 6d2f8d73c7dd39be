"""The same file read here and by those who write such files: torch and safetensors.

Thousands of random objects are saved and must come out alike, bit for bit. Of damaged and odd files
both say whether they take them. Where the two decide otherwise the case stands in a table, with the
reason: nothing else may differ, and nothing may stand there that does not.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from random_safetensors import random_safetensors
from random_states import Saved, random_saved
from torch.utils.serialization import config as serialization

from llamainspect.arrays import decode, read_elements
from llamainspect.checkpoint import Checkpoint, open_checkpoint
from llamainspect.errors import NotACheckpoint
from llamainspect.formats import hf, meta
from llamainspect.formats.safetensors_header import read_header
from llamainspect.reports import Finding
from llamainspect.sources import Folder
from llamainspect.tensors import TensorInfo
from llamainspect.weights import Weight

STATES, STATES_AT_ONCE = 1000, 50
MORE_STATES = int(os.environ.get("LLAMAINSPECT_RANDOM_STATES", "10000"))  # of the thorough run


# --- random objects: what torch.load makes of them --------------------------------------------


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, of beta layouts and deprecated classes, which it gives itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save(saved: Saved, directory: Path) -> Path:
    path = directory / saved.file
    with (
        quiet(),
        serialization.patch(
            {"save.compute_crc32": saved.crc32, "save.storage_alignment": saved.alignment}
        ),
    ):
        if saved.through_buffer:
            with path.open("wb") as file:
                torch.save(saved.value, file, pickle_protocol=saved.protocol)
        else:
            torch.save(saved.value, path, pickle_protocol=saved.protocol)
    return path


def load(path: Path, *, weights_only: bool = True) -> Any:
    with quiet():
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=False)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an object with stored numbers of their own, under dotted names.

    Keys that are whole numbers are called as such, other keys by their type. A key without any
    characters adds nothing to the name.
    """
    if isinstance(value, torch.Tensor):
        for part, tensor in parts_of(value):
            yield ".".join(word for word in (*path, *part) if word), tensor
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, (*path, key_name(key)))
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from leaves(child, (*path, str(index)))


def key_name(key: Any) -> str:
    if isinstance(key, str):
        return key
    if not isinstance(key, (int, float)):
        return f"<{type(key).__name__}>"
    if key != key or key in (float("inf"), float("-inf")) or key != int(key):
        return repr(key)
    return str(int(key)) if -(2**63) < key < 2**63 else "<number>"


def parts_of(tensor: torch.Tensor) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """What torch stores of a tensor, as `torch._utils._rebuild_*` take it."""
    tensor = tensor.detach()
    if tensor.is_meta:
        return
    if tensor.is_nested:
        yield ("0",), tensor.values()
        yield ("1",), tensor._nested_tensor_size()
        yield ("2",), tensor._nested_tensor_strides()
        yield ("3",), tensor._nested_tensor_storage_offsets()
    elif tensor.layout is torch.sparse_coo:
        yield ("0",), tensor._indices()
        yield ("1",), tensor._values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield ("0",), tensor.crow_indices()
        yield ("1",), tensor.col_indices()
        yield ("2",), tensor.values()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield ("0",), tensor.ccol_indices()
        yield ("1",), tensor.row_indices()
        yield ("2",), tensor.values()
    else:
        yield (), tensor
        if tensor.is_quantized and tensor.qscheme() is torch.per_channel_affine:
            yield ("quantizer", "1"), tensor.q_per_channel_scales()
            yield ("quantizer", "2"), tensor.q_per_channel_zero_points()


def told_apart(found: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By name; of several of one name all but the first have a number behind it."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in found:
        number, spelled = 1, name
        while spelled in named:
            number += 1
            spelled = f"{name} ({number})"
        named[spelled] = tensor
    return named


AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_stored(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers that lie in the file: before they are conjugated or negated."""
    if tensor.is_conj():
        tensor = tensor.conj()
    return torch._neg_view(tensor) if tensor.is_neg() else tensor


def bits_of(tensor: torch.Tensor) -> bytes:
    """Its elements in order, as they are stored."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    tensor = as_stored(tensor)
    if tensor.dtype is torch.complex128:  # numpy's order of parts is torch's
        return tensor.contiguous().numpy().tobytes()
    return tensor.view(AS_INTEGERS[tensor.dtype.itemsize]).contiguous().numpy().tobytes()


def numbers_of(tensor: torch.Tensor) -> "np.ndarray[Any, Any] | None":
    """Its values as numpy has them, small floats as float32; None for types that it lacks."""
    if tensor.is_quantized:
        return tensor.int_repr().numpy()
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16 or str(tensor.dtype).startswith("torch.float8"):
        tensor = tensor.to(torch.float32)
    try:
        return tensor.numpy()
    except TypeError:
        return None


def read_bits(checkpoint: Checkpoint, info: TensorInfo) -> list[bytes]:
    """The elements of one tensor by way of the package."""
    weight = Weight(info.name, info.shape, (info,))
    return read_elements(checkpoint, weight, tuple(range(length) for length in info.shape))[0]


def assert_same_numbers(info: TensorInfo, elements: list[bytes], tensor: torch.Tensor) -> None:
    """Bit for bit where numpy has the type. A NaN that was widened is any NaN."""
    expected, found = numbers_of(tensor), decode(elements, info)
    if expected is None or found is None:
        return
    expected = expected.reshape(-1)
    assert found.dtype == expected.dtype, info.name
    if info.dtype.small_float is None:
        assert found.tobytes() == expected.tobytes(), info.name
        return
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan), info.name
    assert found[~nan].tobytes() == expected[~nan].tobytes(), info.name


def assert_read_as_torch_reads_it(path: Path, reference: Any) -> list[Finding]:
    """Names, order, types, shapes, strides, laziness, sharing and every bit."""
    expected = told_apart(leaves(reference))
    if not expected:
        with pytest.raises(NotACheckpoint, match="there is no tensor in"):
            open_checkpoint(str(path))
        return meta.read_tensors(Folder(str(path.parent)), path.name)[1]
    checkpoint = open_checkpoint(str(path))
    tensors, findings = meta.read_tensors(checkpoint.source, path.name)
    assert [info.name for info in tensors] == list(expected)
    assert list(checkpoint.weights) == list(expected)
    storages: dict[str, int] = {}
    for info, (name, tensor) in zip(tensors, expected.items(), strict=True):
        assert f"torch.{info.dtype.torch}" == str(tensor.dtype), name
        assert info.shape == tuple(tensor.shape), name
        assert (info.conjugate, info.negative) == (tensor.is_conj(), tensor.is_neg()), name
        assert (info.strides is None) == tensor.is_contiguous(), name
        if info.strides is not None:
            assert info.strides == tensor.stride(), name
        assert info.offset == tensor.storage_offset() * tensor.dtype.itemsize, name
        elements = read_bits(checkpoint, info)
        assert b"".join(elements) == bits_of(tensor), name
        assert_same_numbers(info, elements, tensor)
        shared = tensor.untyped_storage()
        if shared.nbytes():
            assert storages.setdefault(info.storage.key, shared.data_ptr()) == shared.data_ptr()
    assert len(set(storages.values())) == len(storages)
    return findings


def check_state(seed: int, directory: Path) -> None:
    saved = random_saved(seed)
    path = save(saved, directory)
    # Of later protocols than 2 and of foreign objects weights_only=True takes nothing.
    reference = load(path, weights_only=saved.harmless)
    findings = assert_read_as_torch_reads_it(path, reference)
    assert any(finding.severity == "error" for finding in findings) == saved.foreign
    path.unlink()


def check_each(check: Any, seeds: range, directory: Path) -> None:
    for seed in seeds:
        try:
            check(seed, directory)
        except Exception as error:
            error.add_note(f"random case {seed}")
            raise


def blocks(start: int, end: int) -> list[range]:
    return [range(at, at + STATES_AT_ONCE) for at in range(start, end, STATES_AT_ONCE)]


@pytest.mark.parametrize("seeds", blocks(0, STATES), ids=str)
def test_any_object_is_read_as_torch_reads_it(seeds: range, tmp_path: Path) -> None:
    check_each(check_state, seeds, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", blocks(STATES, STATES + MORE_STATES), ids=str)
def test_any_other_object_is_read_as_torch_reads_it(seeds: range, tmp_path: Path) -> None:
    check_each(check_state, seeds, tmp_path)


# --- random safetensors: what safe_open makes of them -----------------------------------------


def check_safetensors(seed: int, directory: Path) -> None:
    """Names, types, shapes and metadata as safe_open has them, and every bit."""
    data = random_safetensors(seed)
    path = directory / "model.safetensors"
    path.write_bytes(data)
    source = Folder(str(directory))
    tensors, findings = hf.read_tensors(source, path.name)
    assert findings == []
    raw = dict(safetensors.deserialize(data))
    with safetensors.safe_open(path, "pt") as file:
        # Of what is empty and stands in one place the reference has no order.
        assert {info.name for info in tensors} == set(file.keys())
        order = [name for name in file.offset_keys() if raw[name]["data"]]
        assert [info.name for info in tensors if info.nbytes] == order
        assert read_header(source, path.name).metadata == (file.metadata() or {})
        for info in tensors:
            name = info.name
            sliced = file.get_slice(name)
            assert (info.dtype.name, list(info.shape)) == (sliced.get_dtype(), sliced.get_shape())
            start = hf.locate(source, info.storage) + info.offset
            assert source.read(path.name, start, info.nbytes) == bytes(raw[name]["data"]), name
            if info.dtype.block_elements == 1:
                elements = read_bits(open_checkpoint(str(path)), info)
                assert_same_numbers(info, elements, file.get_tensor(name))
    path.unlink()


@pytest.mark.parametrize("seeds", blocks(0, STATES), ids=str)
def test_any_safetensors_file_is_read_as_safe_open_reads_it(seeds: range, tmp_path: Path) -> None:
    check_each(check_safetensors, seeds, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", blocks(STATES, STATES + MORE_STATES), ids=str)
def test_any_other_safetensors_file_is_read_as_safe_open_reads_it(
    seeds: range, tmp_path: Path
) -> None:
    check_each(check_safetensors, seeds, tmp_path)
