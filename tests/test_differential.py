"""The same file read here and by those who write such files: torch and safetensors.

Thousands of random objects are saved and must come out alike, bit for bit. Of damaged and odd files
both say whether they take them. Where the two decide otherwise the case stands in a table, with the
reason: nothing else may differ, and nothing may stand there that does not.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from odd_files import odd_pths, odd_safetensors
from random_safetensors import random_safetensors
from random_states import Saved, random_saved
from torch.utils.serialization import config as serialization

from llamainspect.arrays import decode, read_elements
from llamainspect.checkpoint import Checkpoint, open_checkpoint
from llamainspect.errors import LlamaInspectError, NotACheckpoint
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


def quantizer_of(tensor: torch.Tensor) -> str:
    """How a quantised tensor's numbers become values."""
    scheme = str(tensor.qscheme()).removeprefix("torch.")
    if scheme == "per_tensor_affine":
        return (
            f"quantised, {scheme}, scale {tensor.q_scale()!r}, zero point {tensor.q_zero_point()}"
        )
    axis = tensor.q_per_channel_axis()
    return f"quantised, {scheme}, scales and zero points beside it, axis {axis}"


def has_meta(value: Any) -> bool:
    """Whether any tensor of an object is on the meta device, where it has no values."""
    if isinstance(value, torch.Tensor):
        return value.is_meta
    if isinstance(value, dict):
        return any(map(has_meta, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_meta, value))


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
    return tensor.view(AS_INTEGERS[tensor.dtype.itemsize]).flatten().numpy().tobytes()


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
        if tensor.is_quantized:
            assert info.meaning == quantizer_of(tensor), name
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
    is_wrong = saved.foreign or has_meta(reference)
    assert any(finding.severity == "error" for finding in findings) == is_wrong
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


# --- odd and damaged files: who takes them ----------------------------------------------------

# "Takes" of torch is torch.load(weights_only=True, mmap=False); of llamainspect it is a listing in
# which no error is found. Reasons first, then the files of `odd_files` that they explain.

TORCH_TAKES = {
    "torch looks names of records up without regard to case and takes the last of several, so what "
    "it loads depends on more than the name; here a name has one spelling and stands there once.": (
        "DATA.PKL alone",
        "DATA.PKL behind data.pkl",
        "DATA/0 alone",
        "a second data.pkl",
        "a second data/0",
    ),
    "Names like these can be made to leave a folder or to fool a terminal; torch writes such a "
    "folder only for a file that is itself called so, as `..pth` is.": (
        "a folder named .",
        "a folder with a control character",
        "a record that climbs",
        "a record with a backslash",
        "a record with a control character",
        "an empty folder",
    ),
    "torch finds the zip's end wherever it is; bytes, comments or archives behind it are how one "
    "file is made to look different to two programs, and torch.save writes none.": (
        "a comment",
        "a second archive behind",
        "bytes behind",
        "directory entry of data.pkl, disk: one more",
        "end record, comment length: all bits",
        "end record, comment length: one more",
        "end record, directory length: one more",
    ),
    "torch.save compresses nothing, and compressed bytes cannot be read piece by piece.": (
        "deflated",
    ),
    "Numbers of the other byte order are not converted.": ("big-endian",),
    "torch never looks at a CRC-32. Here the one of the pickle is an error as soon as a file is "
    "opened; those of storages are checked by verify-checksums, which reads them.": (
        "a flipped bit in a name of data.pkl",
        "directory entry of data.pkl, CRC: all bits",
        "directory entry of data.pkl, CRC: one more",
    ),
    "torch stops at STOP and takes the uppermost value; a pickle that leaves anything else was not "
    "written whole, or by somebody else.": (
        "a second pickle behind STOP",
        "a tail behind STOP",
        "operation 1 (EMPTY_DICT) twice",
        "operation 25 (SETITEMS) left out",
        "operation 26 (STOP) twice",
        "two values at STOP",
    ),
    "Python unpacks any sequence into the arguments of a call; a pickler writes a tuple.": (
        "a call with a dictionary of arguments",
        "a call with a list of arguments",
    ),
    "torch hands state that is set on a tensor to Tensor.set_ (legacy, its source says), and so it "
    "has another tensor than the one that was described.": ("state for a tensor",),
    "Of two descriptions of one storage torch believes the first, so the second tensor would be "
    "listed with a type that it does not get.": (
        "one storage as two types",
        "one storage in two lengths",
    ),
    "torch writes the key of a storage as text, and its class as one of torch's for the CPU.": (
        "a storage class of torch.cuda",
        "a storage whose key is a number",
    ),
    "torch makes a tensor that the file does not hold, of numbers in the pickle, of a length, of "
    "nothing or in another type; torch.save writes none of these, and they could not be listed.": (
        "a parameter of no tensor",
        "a parameter of nothing at all",
        "a tensor from the CPU in another type",
        "torch.Tensor of a length",
        "torch.Tensor of nothing",
        "torch.Tensor of numbers",
    ),
    "A tensor of the meta device has no values, and a checkpoint is there for its values.": (
        "a meta tensor",
        "a meta tensor whose stride is negative",
    ),
    "torch.save writes an OrderedDict empty and fills it then; one long list could be the pairs of "
    "many.": (
        "an OrderedDict of a dictionary",
        "an OrderedDict of pairs",
    ),
    "torch.save writes a scale as a float, and those of channels as tensors.": (
        "a scale that is a whole number",
        "scales of channels in lists",
    ),
    "A bound on the work that a hostile file can ask for; no checkpoint comes near it.": (
        "a shape of 65 axes",
        "nesting of 70",
    ),
    "A stride counts elements forward, even where it is never taken.": (
        "a negative stride of one element",
    ),
}

TORCH_REFUSES = {
    "weights_only=True knows the operations of protocol 2 that torch.save needs. People save with "
    "later protocols, and what those write is followed here, too.": (
        "a frame of protocol 4",
        "a frozenset",
        "a long string of Python 2",
        "a value that is dropped",
        "a value that is duplicated",
        "a value to the mark dropped",
        "bytes of protocol 3",
        "short text of protocol 4",
    ),
    "What a tensor is built with beside its storage, place, shape and type is of no interest to a "
    "listing, and is not checked.": (
        "a conjugate of real numbers",
        "lazy flags that are no dictionary",
        "no hooks",
        "one argument too many",
        "operation 19 (NEWFALSE) left out",
        "requires_grad of a type that cannot",
        "requires_grad that is a number",
    ),
    "Values from the file are never hashed, because that can hang or crash a program, so it does "
    "not show that a key cannot be hashed when that lies deep inside of it.": (
        "a tuple with a list for a key",
    ),
    "State of a plain dictionary is dropped, like the `_metadata` of an ordered one; to tell the "
    "two apart would serve nobody.": ("state for a dictionary",),
    "An empty tensor has no bytes, however long its other axes are.": (
        "lengths whose product overflows before a 0",
    ),
    "Records that say nothing of the tensors are not read: a version that torch does not know yet "
    "would hide a file that can be listed.": (
        "a version that is text",
        "an alignment that is text",
        "m/.storage_alignment is empty",
        "m/version is empty",
        "version 99",
        "without m/version",
    ),
}

TORCH_READS_OTHERWISE = {
    "A key that is neither text nor a number has no name, only a kind, and the kinds have other "
    "names here.": (
        "a storage for a key",
        "a tensor for a key",
    ),
}

SAFETENSORS_TAKES = {
    "A key that stands there twice means one thing to one reader and another to the next.": (
        "a field of no meaning twice",
        "a key of the metadata twice",
        "a tensor twice in two types",
        "a tensor twice, all the same",
    ),
    "The format's page has the header begin with a brace; the reference skips white space.": (
        "a line end before the header",
        "a space before the header",
        "byte 0 ({) with a space before",
    ),
    "The reference takes every spelling that its JSON library has for a structure; the format's "
    "page has one.": (
        "a type that is an object",
        "an entry that is a list",
        "metadata of null",
    ),
    "Lengths are signed in torch and numpy, so none of them can hold such a tensor.": (
        "a length of 2^63 beside a 0",
    ),
    "A bound on the memory that a hostile header can ask for; the reference has it at 100 MB.": (
        "a header of 17 MiB",
    ),
}

SAFETENSORS_REFUSES = {
    "To Python -0 is the whole number 0; the reference reads a fraction.": (
        "a length of -0",
        "an offset of -0",
        "byte 81 (0) with a minus before",
    ),
    "Fields that the format does not name are not looked into, if they are JSON to Python.": (
        "a field of no meaning nested 200 times",
        "half of a character in a field of no meaning",
    ),
}

Outcome = dict[str, tuple[Any, ...]] | None  # the tensors; None: not taken


def as_torch_takes_it(path: Path) -> Outcome:
    try:
        found = told_apart(leaves(load(path)))
    except Exception:  # whatever it is
        return None
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), bits_of(tensor))
        for name, tensor in found.items()
    }


def as_a_pth_is_taken_here(path: Path) -> Outcome:
    """None when it is refused, and when an error is found."""
    source = Folder(str(path.parent))
    try:
        tensors, findings = meta.read_tensors(source, path.name)
    except LlamaInspectError:
        return None
    if any(finding.severity == "error" for finding in findings):
        return None
    found: dict[str, tuple[Any, ...]] = {}
    for info in tensors:
        bits = b"".join(read_bits(open_checkpoint(str(path)), info)) if info.elements else b""
        found[info.name] = (f"torch.{info.dtype.torch}", info.shape, bits)
    return found


def as_safe_open_takes_it(path: Path) -> Outcome:
    try:
        raw = dict(safetensors.deserialize(path.read_bytes()))
        with safetensors.safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in raw}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError:
        return None
    found: dict[str, tuple[Any, ...]] = {
        name: (part.get_dtype(), tuple(part.get_shape()), bytes(raw[name]["data"]))
        for name, part in slices.items()
    }
    return found | {"__metadata__": tuple(sorted(metadata.items()))}


def as_a_safetensors_file_is_taken_here(path: Path) -> Outcome:
    source = Folder(str(path.parent))
    try:
        tensors, findings = hf.read_tensors(source, path.name)
        metadata = read_header(source, path.name).metadata
    except LlamaInspectError:
        return None
    if findings:
        return None
    found: dict[str, tuple[Any, ...]] = {}
    for info in tensors:
        start = hf.locate(source, info.storage) + info.offset
        bits = source.read(path.name, start, info.nbytes)
        found[info.name] = (info.dtype.name, info.shape, bits)
    return found | {"__metadata__": tuple(sorted(metadata.items()))}


def decided_otherwise(
    files: dict[str, bytes],
    path: Path,
    theirs: Callable[[Path], Outcome],
    ours: Callable[[Path], Outcome],
) -> dict[str, str]:
    """The files that one of the two takes and the other does not, or that they take for another."""
    found = {}
    for name, data in files.items():
        path.write_bytes(data)
        reference, here = theirs(path), ours(path)
        if reference is None and here is not None:
            found[name] = "taken here only"
        elif reference is not None and here is None:
            found[name] = "refused here only"
        elif reference != here:
            found[name] = "read otherwise"
    return found


def by_case(table: dict[str, tuple[str, ...]], what: str) -> dict[str, str]:
    return {name: what for names in table.values() for name in names}


def test_torch_takes_the_odd_files_that_are_taken_here_and_the_table_names_all_others(
    tmp_path: Path,
) -> None:
    found = decided_otherwise(
        odd_pths(), tmp_path / "m.pth", as_torch_takes_it, as_a_pth_is_taken_here
    )
    assert found == (
        by_case(TORCH_TAKES, "refused here only")
        | by_case(TORCH_REFUSES, "taken here only")
        | by_case(TORCH_READS_OTHERWISE, "read otherwise")
    )


def test_safe_open_takes_the_odd_files_that_are_taken_here_and_the_table_names_all_others(
    tmp_path: Path,
) -> None:
    found = decided_otherwise(
        odd_safetensors(),
        tmp_path / "model.safetensors",
        as_safe_open_takes_it,
        as_a_safetensors_file_is_taken_here,
    )
    assert found == (
        by_case(SAFETENSORS_TAKES, "refused here only")
        | by_case(SAFETENSORS_REFUSES, "taken here only")
    )


@pytest.mark.parametrize(
    "table",
    [TORCH_TAKES, TORCH_REFUSES, TORCH_READS_OTHERWISE, SAFETENSORS_TAKES, SAFETENSORS_REFUSES],
)
def test_every_reason_is_a_sentence(table: dict[str, tuple[str, ...]]) -> None:
    assert all(reason[0].isalpha() and reason.endswith(".") for reason in table)
    assert all(names for names in table.values())
