"""Headers of safetensors files against the reference implementation, and headers that lie."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from changes import any_change, examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llamainspect.dtypes import DTYPES
from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.formats.safetensors_header import MAX_HEADER_NBYTES, Entry, Header, read_header
from llamainspect.sources import Folder

FILE = "model.safetensors"


def write(directory: Path, data: bytes) -> Folder:
    (directory / FILE).write_bytes(data)
    return Folder(str(directory))


def packed(header: Any, nbytes: int = 0) -> bytes:
    """A file with this header (JSON, or the text itself) and `nbytes` bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(nbytes)


def entry(start: Any = 0, end: Any = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


# --- files that safetensors writes ----------------------------------------------------------------

VALUES: dict[str, dict[str, torch.Tensor]] = {
    "one": {"a": torch.arange(5.0)},
    "several": {f"layers.{i}.weight": torch.full((i, 3), i + 0.5) for i in range(1, 20)},
    "empty among others": {"a": torch.ones(2), "b": torch.empty(0), "c": torch.empty(3, 0, 2)},
    "a scalar": {"a": torch.tensor(3.0), "b": torch.ones(2)},
    "different widths": {
        "a": torch.ones(3, dtype=torch.int8),
        "b": torch.ones(3, dtype=torch.float64),
        "c": torch.ones(3, dtype=torch.bfloat16),
    },
    "names of all kinds": {"": torch.ones(1), "é 羊驼": torch.ones(2), 'a"b\\c\n': torch.ones(3)},
}


def bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["bare", "with metadata"])
@pytest.mark.parametrize("kind", VALUES)
def test_a_header_is_what_safe_open_makes_of_it(
    kind: str, metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    save_file(VALUES[kind], tmp_path / FILE, metadata)
    data = (tmp_path / FILE).read_bytes()
    header = read_header(Folder(str(tmp_path)), FILE)
    with safetensors.safe_open(tmp_path / FILE, framework="pt") as referee:
        assert sorted(row.name for row in header.entries) == sorted(referee.keys())
        for row in header.entries:
            view = referee.get_slice(row.name)
            assert (row.dtype, list(row.shape)) == (view.get_dtype(), view.get_shape())
            assert data[row.start : row.end] == bytes_of(referee.get_tensor(row.name))
    assert header.end == len(data)


TYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64",
    "uint32", "uint16", "uint8", "bool", "complex64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
]  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_every_type_that_safetensors_writes_is_known(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    value = torch.zeros(6 * dtype.itemsize, dtype=torch.uint8).view(dtype)
    save_file({"a": value, "b": torch.ones(2, dtype=torch.uint8)}, tmp_path / FILE)
    header = read_header(Folder(str(tmp_path)), FILE)
    (row,) = (row for row in header.entries if row.name == "a")
    assert row.end - row.start == 6 * dtype.itemsize
    assert header.end == (tmp_path / FILE).stat().st_size


def test_positions_count_from_the_first_byte_of_the_file(tmp_path: Path) -> None:
    data = packed({"b": entry(4, 12, [2]), "a": entry(0, 4)}, 12)
    begin = len(data) - 12
    assert read_header(write(tmp_path, data), FILE) == Header(
        (Entry("a", "F32", (1,), begin, begin + 4), Entry("b", "F32", (2,), begin + 4, begin + 12)),
        begin + 12,
        {},
    )


def test_a_file_without_tensors_ends_with_its_header(tmp_path: Path) -> None:
    assert read_header(write(tmp_path, packed({})), FILE) == Header((), 10, {})
    assert read_header(write(tmp_path, packed({"__metadata__": {"a": "b"}})), FILE).entries == ()


def test_spaces_behind_the_header_are_padding(tmp_path: Path) -> None:
    data = packed(json.dumps({"a": entry()}).encode() + b"   ", 4)
    assert read_header(write(tmp_path, data), FILE).end == len(data)


# --- files of the wrong length --------------------------------------------------------------------


def test_at_every_length_the_header_is_read_whole_or_the_file_refused(tmp_path: Path) -> None:
    save_file(VALUES["different widths"], tmp_path / FILE)
    data = (tmp_path / FILE).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    whole = read_header(Folder(str(tmp_path)), FILE)
    for length in range(len(data)):
        folder = write(tmp_path, data[:length])
        if length < begin:
            with pytest.raises(CorruptFile, match=r"^model\.safetensors: "):
                read_header(folder, FILE)
        else:
            assert read_header(folder, FILE) == whole


def test_bytes_behind_the_last_tensor_leave_the_end_where_the_header_has_it(tmp_path: Path) -> None:
    data = packed({"a": entry()}, 4)
    assert read_header(write(tmp_path, data + bytes(100)), FILE).end == len(data)


# --- headers that lie -----------------------------------------------------------------------------

LIES: dict[str, tuple[Any, int]] = {
    "a gap before the first": ({"a": entry(4, 8)}, 8),
    "a gap between": ({"a": entry(0, 4), "b": entry(8, 12)}, 12),
    "an overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, 8),
    "two in one place": ({"a": entry(0, 4), "b": entry(0, 4)}, 4),
    "one inside of another": ({"a": entry(0, 16, [4]), "b": entry(4, 8)}, 16),
    "fewer bytes than the shape needs": ({"a": entry(0, 4, [2])}, 4),
    "more bytes than the shape needs": ({"a": entry(0, 8, [1])}, 8),
    "bytes for an empty tensor": ({"a": entry(0, 4, [0])}, 4),
    "offsets in the wrong order": ({"a": entry(4, 0)}, 4),
    "a negative offset": ({"a": entry(-4, 0)}, 4),
    "a negative length": ({"a": entry(0, 4, [-1])}, 4),
    "two negative lengths": ({"a": entry(0, 4, [-1, -1])}, 4),
    "an offset beyond 64 bits": ({"a": entry(2**64, 2**64 + 4)}, 4),
    "a length beyond 64 bits": ({"a": entry(0, 4, [2**64])}, 4),
    "lengths that overflow 64 bits to the right number": ({"a": entry(0, 4, [2**63, 2, 1])}, 4),
    "a product that overflows 64 bits before a 0": ({"a": entry(0, 0, [2**62, 2**62, 0])}, 0),
    "a product that overflows 64 bits": ({"a": entry(0, 0, [2**62, 2**62])}, 0),
    "an offset that is a float": ({"a": entry(0.0, 4)}, 4),
    "an offset that is true": ({"a": entry(0, True, [1], "U8")}, 1),
    "an offset that is text": ({"a": entry("0", 4)}, 4),
    "a length that is a float": ({"a": entry(0, 4, [1.0])}, 4),
    "a length that is true": ({"a": entry(0, 4, [True])}, 4),
    "a shape that is a number": ({"a": entry(0, 4, 1)}, 4),
    "a shape that is null": ({"a": entry(0, 4, None)}, 4),
    "a shape that is an object": ({"a": entry(0, 4, {"0": 1})}, 4),
    "one offset": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, 4),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, 4),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, 4),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4),
    "a dtype that is a number": ({"a": entry(0, 4, [1], 32)}, 4),
    "a dtype that is null": ({"a": entry(0, 4, [1], None)}, 4),
    "a tensor that is a list": ({"a": [0, 4]}, 4),
    "a tensor that is null": ({"a": None}, 0),
    "a tensor that is text": ({"a": "F32"}, 0),
    "half a byte": ({"a": entry(0, 1, [3], "F4")}, 1),
    "three quarters of a byte": ({"a": entry(0, 0, [1], "F6_E2M3")}, 0),
    "metadata that is no object": ({"__metadata__": 5, "a": entry()}, 4),
    "half of a character in the metadata": ({"__metadata__": {"x": "\ud800"}, "a": entry()}, 4),
    "half of a character in a key of it": ({"__metadata__": {"\ud800": "x"}, "a": entry()}, 4),
    "metadata that is not text": ({"__metadata__": {"a": 1}, "a": entry()}, 4),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_is_refused_by_the_reference_and_here(kind: str, tmp_path: Path) -> None:
    data = packed(*LIES[kind])
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(data)
    with pytest.raises(CorruptFile, match=r"^model\.safetensors: .{10,}"):
        read_header(write(tmp_path, data), FILE)


A = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
STRICTER = {
    "a key twice": (b'{"a":' + A + b',"a":' + A + b"}", 4),
    "a field twice": (b'{"a":{"shape":[1],' + A[1:] + b"}", 4),
    "half of a character in the metadata": (b'{"__metadata__":{"x":"\\ud800"},"a":' + A + b"}", 4),
    "half of a character in a key of it": (b'{"__metadata__":{"\\ud800":"x"},"a":' + A + b"}", 4),
    "NaN in the metadata": (b'{"__metadata__":{"x":NaN},"a":' + A + b"}", 4),
    "NaN for a length": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4),
    "Infinity for an offset": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}', 4),
    "1e400 for a length": (b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}', 4),
    "a number of thousands of digits": (
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', 4,
    ),
    "a list for a header": (b"[]", 0),
    "text for a header": (b'"a"', 0),
    "half of a header": (b'{"a":', 0),
    "more behind the header": (b'{"a":' + A + b"}{}", 4),
    "no UTF-8": (b'{"\xff":' + A + b"}", 4),
    "zeros behind the header": (b'{"a":' + A + b"}\0\0", 4),
    "bottomless nesting": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
    "half of a character in a name": (b'{"\\ud800":' + A + b"}", 4),
    "white space before the header": (b' {"a":' + A + b"}", 4),
    "nothing for a header": (b"", 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRICTER)
def test_a_header_that_is_no_strict_json_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^model\.safetensors: .{10,}"):
        read_header(write(tmp_path, packed(*STRICTER[kind])), FILE)


@pytest.mark.parametrize("dtype", ["F33", "f32", "BF17", "", "torch.float32", "x" * 100_000])
def test_a_type_that_is_not_known_is_not_called_damage(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match="is not known") as caught:
        read_header(write(tmp_path, packed({"a": entry(0, 4, [1], dtype)}, 4)), FILE)
    assert len(str(caught.value)) < 200


def test_the_types_are_those_of_the_reference_and_no_others(tmp_path: Path) -> None:
    known, accepted = set(), set()
    for dtype in (*DTYPES, "F4", "F6_E2M3", "F6_E3M2"):
        nbytes = DTYPES[dtype].nbytes((4,)) if dtype in DTYPES else {"F4": 2}.get(dtype, 3)
        data = packed({"a": entry(0, nbytes, [4], dtype)}, nbytes)
        with suppress(safetensors.SafetensorError):
            safetensors.deserialize(data)
            known.add(dtype)
        with suppress(UnsupportedFile):
            read_header(write(tmp_path, data), FILE)
            accepted.add(dtype)
    assert accepted == known


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        ("F4", [2], 1),  # 2 * 4 bits
        ("F4", [3, 4], 6),  # 12 * 4 bits
        ("F6_E2M3", [4], 3),  # 4 * 6 bits
        ("F6_E3M2", [2, 8], 12),  # 16 * 6 bits
        ("F8_E8M0", [5], 5),
        ("F4", [0], 0),
    ],
)
def test_types_of_less_than_a_byte_are_packed_as_the_reference_has_it(
    dtype: str, shape: list[int], nbytes: int, tmp_path: Path
) -> None:
    data = packed({"a": entry(0, nbytes, shape, dtype)}, nbytes)
    assert [name for name, _ in safetensors.deserialize(data)] == ["a"]
    (row,) = read_header(write(tmp_path, data), FILE).entries
    assert row.end - row.start == nbytes


# --- headers that claim too much ------------------------------------------------------------------


@pytest.mark.parametrize("claim", [100, 2**20, MAX_HEADER_NBYTES, 2**32, 2**60, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_damage_and_not_read(claim: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^model\.safetensors: "):
        read_header(write(tmp_path, claim.to_bytes(8, "little") + b'{"a":'), FILE)


def test_a_header_longer_than_any_model_needs_is_not_read(tmp_path: Path) -> None:
    claim = MAX_HEADER_NBYTES + 1
    with (tmp_path / FILE).open("wb") as file:
        file.write(claim.to_bytes(8, "little") + b"{")
        file.truncate(claim + 100)  # a hole
    with pytest.raises(UnsupportedFile, match="its header claims 16,777,217 bytes"):
        read_header(Folder(str(tmp_path)), FILE)


@pytest.mark.parametrize("rank", [100, 300, 5000])
def test_a_shape_whose_product_has_thousands_of_digits_is_refused(
    rank: int, tmp_path: Path
) -> None:
    with pytest.raises(CorruptFile, match=r"^model\.safetensors: ") as caught:
        read_header(write(tmp_path, packed({"a": entry(0, 4, [2**62] * rank)}, 4)), FILE)
    assert len(str(caught.value)) < 1000


def test_a_name_of_a_megabyte_is_shown_in_part(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile) as caught:
        read_header(write(tmp_path, packed({"n" * 10**6: entry(4, 8)}, 8)), FILE)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(1000), "zeros"),
        (b"PK\x03\x04" + bytes(100), "a zip archive, as torch.save writes"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (b"\x02\0\0\0\0\0\0\0", "does not begin like a safetensors file"),
        (b"{}", "does not begin like a safetensors file"),
    ],
)
def test_a_stranger_is_called_what_it_is(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=rf"^model\.safetensors: .*{words}"):
        read_header(write(tmp_path, data), FILE)


# --- anything at all ------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-1, 20), st.sampled_from([2**31, 2**62, 2**63, 2**64, 0.5, True]))
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "F6_E2M3", "QU4X2", "X"]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    }
)
HEADERS = st.dictionaries(st.text(max_size=5), st.one_of(TENSORS, st.none()), max_size=4)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=st.one_of(HEADERS, st.binary(max_size=80)), nbytes=st.integers(0, 40))
def test_any_header_is_consistent_or_refused(
    header: dict[str, Any] | bytes, nbytes: int, tmp_path: Path
) -> None:
    data = packed(header, nbytes)
    try:
        found = read_header(write(tmp_path, data), FILE)
    except LlamaInspectError:
        return
    begin = 8 + int.from_bytes(data[:8], "little")
    ends = [begin, *(row.end for row in found.entries)]
    assert [row.start for row in found.entries] == ends[:-1]
    assert found.end == ends[-1]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=HEADERS, nbytes=st.integers(0, 40))
def test_no_whole_file_is_accepted_that_the_reference_refuses(
    header: dict[str, Any], nbytes: int, tmp_path: Path
) -> None:
    data = packed(header, nbytes)
    try:
        found = read_header(write(tmp_path, data), FILE)
    except LlamaInspectError:
        return
    if found.end == len(data):
        assert sorted(name for name, _ in safetensors.deserialize(data)) == sorted(
            row.name for row in found.entries
        )


UNPACKED = [name for name in TYPES if name != "float4_e2m1fn_x2"]
WRITTEN = st.tuples(st.sampled_from(UNPACKED), st.lists(st.integers(0, 4), max_size=4))


@examples(60)
@given(
    # Of no tensors and empty metadata safetensors 0.8 writes a header that is no JSON.
    kinds=st.dictionaries(st.text(max_size=6), WRITTEN, min_size=1, max_size=6),
    metadata=st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
def test_any_tensors_that_safetensors_writes_are_found_in_their_places(
    kinds: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(len(kinds))
    values = {}
    for name, (kind, shape) in kinds.items():
        dtype = getattr(torch, kind)
        raw = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator)
        raw = raw.to(torch.uint8) % 2 if dtype == torch.bool else raw.to(torch.uint8)
        values[name] = raw.view(dtype).reshape(shape)
    save_file(values, tmp_path / FILE, metadata)
    data = (tmp_path / FILE).read_bytes()
    header = read_header(Folder(str(tmp_path)), FILE)
    assert {row.name: data[row.start : row.end] for row in header.entries} == {
        name: bytes_of(value) for name, value in values.items()
    }
    for row in header.entries:
        assert (DTYPES[row.dtype].torch, list(row.shape)) == kinds[row.name]
    assert (header.end, header.metadata) == (len(data), metadata or {})


test_any_change_to_a_file_is_read_or_refused = any_change("safetensors", 150)
