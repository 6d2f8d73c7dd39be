"""The zip reader against zipfile, and archives that were damaged or made to mislead."""

import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import any_change, examples
from hypothesis import given
from hypothesis import strategies as st

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats import meta
from llamainspect.formats.torch_zip import locate_record, read_directory
from llamainspect.sources import Folder

FILE = "consolidated.00.pth"
REFUSED = (CorruptFile, UnsupportedFile)

# PKWARE APPNOTE 6.3.9: where fields stand in a record of the directory and in the two end records.
CENTRAL_FLAGS, CENTRAL_METHOD, CENTRAL_PACKED, CENTRAL_NBYTES = (8, 2), (10, 2), (20, 4), (24, 4)
CENTRAL_DISK, CENTRAL_START, CENTRAL_NAME = (34, 2), (42, 4), 46
END_NBYTES, LOCATOR_NBYTES, END64_NBYTES = 22, 20, 56
END_FIELDS = {
    "this disk": (4, 2),
    "disk of the directory": (6, 2),
    "records on this disk": (8, 2),
    "records": (10, 2),
    "bytes of the directory": (12, 4),
    "start of the directory": (16, 4),
    "length of the comment": (20, 2),
}
LOCATOR_FIELDS = {"disk of the end": (4, 4), "start of the end": (8, 8), "disks": (16, 4)}
END64_FIELDS = {
    "its length": (4, 8),
    "this disk": (16, 4),
    "disk of the directory": (20, 4),
    "records on this disk": (24, 8),
    "records": (32, 8),
    "bytes of the directory": (40, 8),
    "start of the directory": (48, 8),
}


def torch_file(value: Any = None, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(5.0), "b": torch.ones(2, 3)} if value is None else value, buffer,
               **options)  # fmt: skip
    return buffer.getvalue()


def zipped(*records: tuple[str, bytes], **options: Any) -> bytes:
    """A zip of stored records, which is what torch writes, with Python's zipfile."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in records:
            archive.writestr(name, data)
    return buffer.getvalue()


def write(directory: Path, data: bytes) -> Folder:
    (directory / FILE).write_bytes(data)
    return Folder(str(directory))


def patched(
    data: bytes, position: int, field: tuple[int, int], change: Callable[[int], int]
) -> bytes:
    """`data` with one little-endian number of a header at `position` replaced."""
    start, width = position + field[0], field[1]
    value = change(int.from_bytes(data[start : start + width], "little"))
    return data[:start] + value.to_bytes(width, "little") + data[start + width :]


def central(data: bytes, index: int) -> int:
    """Where the directory's record number `index` starts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        position, records = archive.start_dir, archive.infolist()
    for record in records[:index]:
        position += CENTRAL_NAME + len(record.orig_filename.encode()) + len(record.extra)
    assert data[position : position + 4] == b"PK\x01\x02"
    return position


# --- the same as zipfile --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"a": torch.ones(3), "empty": torch.empty(0), "big": torch.arange(100_000)},
        {f"layers.{i}": torch.full((i,), i) for i in range(70)},
        {},
    ],
    ids=["three tensors", "seventy tensors", "none"],
)
def test_records_of_a_torch_file_are_those_that_zipfile_finds(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / FILE)
    folder = Folder(str(tmp_path))
    records = read_directory(folder, FILE)
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        expected = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        assert list(records) == list(expected)
        for name, info in expected.items():
            record = records[name]
            assert (record.start, record.nbytes, record.crc32) == (
                info.header_offset,
                info.file_size,
                info.CRC,
            )
            offset = locate_record(folder, FILE, name, record)
            assert folder.read(FILE, offset, record.nbytes) == archive.read(info)


def test_records_beyond_four_gibibytes_are_those_that_zipfile_finds(tmp_path: Path) -> None:
    value = {"a": torch.empty(2**32 + 8, dtype=torch.uint8), "b": torch.empty(3)}
    with torch.serialization.skip_data():  # leaves a hole: a few kB on disk
        torch.save(value, tmp_path / FILE)
    folder = Folder(str(tmp_path))
    records = read_directory(folder, FILE)
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            record = records[name]
            assert (record.start, record.nbytes) == (info.header_offset, info.file_size)
            if info.file_size < 100 and not info.filename.startswith("consolidated.00/data/"):
                offset = locate_record(folder, FILE, name, record)
                assert folder.read(FILE, offset, record.nbytes) == archive.read(info)
    tensors, findings = meta.read_tensors(folder, FILE)
    assert [info.storage.nbytes for info in tensors] == [2**32 + 8, 12]
    assert findings == []
    assert all(meta.locate(folder, info.storage) % 64 == 0 for info in tensors)  # torch aligns them


def test_an_archive_without_zip64_records_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, zipped(("x/data.pkl", b"abc"), ("x/data/0", b"defg")))
    assert {name: record.nbytes for name, record in read_directory(folder, FILE).items()} == {
        "data.pkl": 3,
        "data/0": 4,
    }


@pytest.mark.parametrize("alignment", [64, 4096])
def test_padding_before_the_data_is_followed(alignment: int, tmp_path: Path) -> None:
    before = torch.utils.serialization.config.save.storage_alignment
    torch.utils.serialization.config.save.storage_alignment = alignment
    try:
        data = torch_file()
    finally:
        torch.utils.serialization.config.save.storage_alignment = before
    folder = write(tmp_path, data)
    record = read_directory(folder, FILE)["data/0"]
    offset = locate_record(folder, FILE, "data/0", record)
    assert offset % alignment == 0
    assert data[offset : offset + record.nbytes] == struct.pack("<5f", 0, 1, 2, 3, 4)


# --- files that are no torch zip ----------------------------------------------------------------


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return buffer.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"

STRANGERS: dict[str, tuple[Callable[[], bytes], type[Exception], str]] = {
    "an empty file": (lambda: b"", CorruptFile, "empty"),
    "a web page": (lambda: b"<!DOCTYPE html>\n<html></html>", CorruptFile, "web page"),
    "a web page in capitals": (lambda: b"\xef\xbb\xbf\r\n <HTML>", CorruptFile, "web page"),
    "an XML error": (lambda: b'<?xml version="1.0"?><Error/>', CorruptFile, "web page"),
    "a Git LFS pointer": (lambda: LFS, UnsupportedFile, "git lfs pull"),
    "gzip": (lambda: gzip.compress(torch_file()), UnsupportedFile, "gzip"),
    "a tar archive": (_tar, UnsupportedFile, "re-save"),
    "a bare pickle": (lambda: pickle.dumps({"a": 1}), UnsupportedFile, "bare pickle"),
    "a safetensors file": (_safetensors, UnsupportedFile, "safetensors"),
    "a GGUF file": (lambda: b"GGUF\x03\0\0\0" + bytes(64), UnsupportedFile, "GGUF"),
    "zeros": (lambda: bytes(5000), CorruptFile, "zeros"),
    "text": (lambda: b"access denied\n", CorruptFile, "not a zip"),
    "one byte": (lambda: b"P", CorruptFile, "not a zip"),
    "a signature alone": (lambda: b"PK\x03\x04", CorruptFile, "cut short"),
    "an empty zip": (lambda: zipped(), CorruptFile, ""),
    "an old torch file": (
        lambda: torch_file(_use_new_zipfile_serialization=False),
        UnsupportedFile,
        r"re-save it with torch\.save",
    ),
    "an old torch file in protocol 4": (
        lambda: torch_file(_use_new_zipfile_serialization=False, pickle_protocol=4),
        UnsupportedFile,
        r"re-save it with torch\.save",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_under_the_name_of_a_checkpoint_gets_a_sentence(
    name: str, tmp_path: Path
) -> None:
    make, kind, words = STRANGERS[name]
    with pytest.raises(kind, match=rf"^consolidated\.00\.pth: .*{words}"):
        meta.read_tensors(write(tmp_path, make()), FILE)


class Scale(torch.nn.Module):
    """A module for TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("deflated", [True, False])
def test_a_torchscript_archive_is_recognised(deflated: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Scale()), buffer)
    data = buffer.getvalue()
    if not deflated:  # as torch.jit.save leaves programs of less than some 200 bytes
        with zipfile.ZipFile(buffer) as archive:
            data = zipped(*((name, archive.read(name)) for name in archive.namelist()))
    with pytest.raises(UnsupportedFile, match=r"^consolidated\.00\.pth: .*TorchScript"):
        meta.read_tensors(write(tmp_path, data), FILE)


# --- damage -----------------------------------------------------------------------------------


def test_a_torch_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = torch_file()
    for length in range(len(data)):
        folder = write(tmp_path, data[:length])
        with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
            read_directory(folder, FILE)


def test_a_flipped_byte_anywhere_is_listed_or_refused_and_never_a_crash(tmp_path: Path) -> None:
    data = torch_file()
    outcomes = set()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        outcomes.add(_outcome(write(tmp_path, bytes(damaged))))
    assert outcomes == {"listed", f"refused with a sentence about {FILE}"}


def _outcome(folder: Folder) -> str:
    try:
        meta.read_tensors(folder, FILE)
    except REFUSED as error:
        return f"refused with a sentence about {re.split('[:,]', str(error))[0]}"
    return "listed"


@pytest.mark.parametrize("missing", [1, 22, 42, 98, 99, 1000])
def test_a_file_whose_end_was_never_written_says_so(missing: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: its end is missing.*download"):
        read_directory(write(tmp_path, torch_file()[:-missing]), FILE)


def test_a_hole_in_the_middle_that_leaves_the_end_is_refused(tmp_path: Path) -> None:
    data = torch_file()
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(write(tmp_path, data[:300] + data[400:]), FILE)


# --- archives made to look different to two readers -------------------------------------------

GOOD = (("x/data.pkl", b"\x80\x02}."), ("x/data/0", b"abcd"), ("x/version", b"3\n"))


def _with_comment() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in GOOD:
            archive.writestr(name, data)
        archive.comment = b"hello"
    return buffer.getvalue()


def _renamed(old: str, new: str) -> bytes:
    """GOOD with a record's name replaced in both places; zipfile itself would clean it up."""
    assert len(old) == len(new)
    return zipped(*GOOD).replace(old.encode(), new.encode())


def _second(field: tuple[int, int], change: Callable[[int], int]) -> bytes:
    """GOOD with one field of the second record of the directory changed."""
    data = zipped(*GOOD)
    return patched(data, central(data, 1), field, change)


MADE_TO_MISLEAD: dict[str, Callable[[], bytes]] = {
    "trailing bytes": lambda: zipped(*GOOD) + b"\0",
    "a second archive behind": lambda: zipped(*GOOD) + zipped(*GOOD),
    "bytes before": lambda: b"#!/bin/sh\n" + zipped(*GOOD),
    "a zip header before": lambda: b"PK\x03\x04" + bytes(60) + zipped(*GOOD),
    "a comment": _with_comment,
    "deflated records": lambda: zipped(*GOOD, compression=zipfile.ZIP_DEFLATED),
    "records in bzip2": lambda: zipped(*GOOD, compression=zipfile.ZIP_BZIP2),
    "an encrypted record": lambda: _second(CENTRAL_FLAGS, lambda flags: flags | 1),
    "strong encryption": lambda: _second(CENTRAL_FLAGS, lambda flags: flags | 0x40),
    "a patched record": lambda: _second(CENTRAL_FLAGS, lambda flags: flags | 0x20),
    "a masked directory": lambda: _second(CENTRAL_FLAGS, lambda flags: flags | 0x2000),
    "an unknown method": lambda: _second(CENTRAL_METHOD, lambda _: 99),
    "another length than the packed one": lambda: _second(CENTRAL_NBYTES, lambda n: n + 1),
    "a record on another disk": lambda: _second(CENTRAL_DISK, lambda _: 1),
    "records that overlap": lambda: _second(CENTRAL_START, lambda start: start - 1),
    "two records in one place": lambda: _second(CENTRAL_START, lambda _: 0),
    "records out of order": lambda: _second(CENTRAL_START, lambda start: start + 100),
    "a record that starts in the directory": lambda: _second(CENTRAL_START, lambda s: s + 500),
    "a record that starts far outside": lambda: _second(CENTRAL_START, lambda _: 0xFFFFFFFE),
    "a zip64 start that is missing": lambda: _second(CENTRAL_START, lambda _: 0xFFFFFFFF),
    "a zip64 length that is missing": lambda: _second(CENTRAL_NBYTES, lambda _: 0xFFFFFFFF),
    "no signature in the directory": lambda: zipped(*GOOD).replace(b"PK\x01\x02", b"PK\x01\x03"),
    "DATA.PKL beside data.pkl": lambda: zipped(*GOOD, ("x/DATA.PKL", b"\x80\x02}.")),
    "a second data.pkl": lambda: zipped(
        *GOOD, ("x/data.pkk", b"\x80\x02]."), ("x/tail", b"")
    ).replace(b"data.pkk", b"data.pkl"),
    "a folder above": lambda: _renamed("x/data/0", "x/../x/0"),
    "an absolute name": lambda: _renamed("x/data/0", "/x/data/"),
    "a folder that is not named": lambda: _renamed("x/data/0", "x//data0"),
    "a backslash": lambda: _renamed("x/data/0", "x\\data/0"),
    "a drive": lambda: _renamed("x/data/0", "c:/dat/0"),
    "a NUL in a name": lambda: _renamed("x/data/0", "x/data\0/"),
    "an ESC in a name": lambda: _renamed("x/data/0", "x/da\x1b[0m"),
    "a line end in a name": lambda: _renamed("x/data/0", "x/data\n0"),
    "a name that is not UTF-8": lambda: zipped(*GOOD).replace(b"x/data/0", b"x/data/\xff"),
    "a folder that is not UTF-8": lambda: zipped(*GOOD).replace(b"x/", b"\xff/"),
    "a name without a folder": lambda: zipped(("data.pkl", b"\x80\x02}."), ("version", b"3")),
    "two folders": lambda: zipped(*GOOD, ("y/data.pkl", b"\x80\x02].")),
    "a directory entry": lambda: zipped(*GOOD, ("x/data/", b"")),
}


@pytest.mark.parametrize("name", MADE_TO_MISLEAD)
def test_an_archive_made_to_mislead_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path, MADE_TO_MISLEAD[name]())
    with pytest.raises(REFUSED, match=r"^consolidated\.00\.pth: .{20,}"):
        read_directory(folder, FILE)


def test_the_archive_that_those_are_made_from_is_read(tmp_path: Path) -> None:
    assert list(read_directory(write(tmp_path, zipped(*GOOD)), FILE)) == [
        "data.pkl",
        "data/0",
        "version",
    ]


CHANGES: dict[str, Callable[[int], int]] = {
    "one more": lambda number: number + 1,
    "one bit else": lambda number: number ^ 2,
    "much more": lambda number: number + 20_000,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("field", END_FIELDS)
def test_a_wrong_number_in_the_end_record_is_refused(
    field: str, change: str, tmp_path: Path
) -> None:
    data = zipped(*GOOD)
    wrong = patched(data, len(data) - END_NBYTES, END_FIELDS[field], CHANGES[change])
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(write(tmp_path, wrong), FILE)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("field", END_FIELDS)
def test_an_end_record_that_disagrees_with_its_zip64_twin_is_refused(
    field: str, change: str, tmp_path: Path
) -> None:
    data = torch_file()
    wrong = patched(data, len(data) - END_NBYTES, END_FIELDS[field], CHANGES[change])
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(write(tmp_path, wrong), FILE)


FAR_CHANGES = CHANGES | {
    "the highest bit but one of 32": lambda number: number ^ 2**30,
    "all bits of 32": lambda number: number ^ (2**32 - 1),
}


@pytest.mark.parametrize("change", FAR_CHANGES)
@pytest.mark.parametrize("field", END64_FIELDS)
def test_a_wrong_number_in_the_zip64_end_record_is_refused(
    field: str, change: str, tmp_path: Path
) -> None:
    data = torch_file()
    position = len(data) - END_NBYTES - LOCATOR_NBYTES - END64_NBYTES
    assert data[position : position + 4] == b"PK\x06\x06"
    wrong = patched(data, position, END64_FIELDS[field], FAR_CHANGES[change])
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(write(tmp_path, wrong), FILE)


@pytest.mark.parametrize("change", FAR_CHANGES)
@pytest.mark.parametrize("field", LOCATOR_FIELDS)
def test_a_wrong_number_in_the_zip64_locator_is_refused(
    field: str, change: str, tmp_path: Path
) -> None:
    data = torch_file()
    position = len(data) - END_NBYTES - LOCATOR_NBYTES
    assert data[position : position + 4] == b"PK\x06\x07"
    wrong = patched(data, position, LOCATOR_FIELDS[field], FAR_CHANGES[change])
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(write(tmp_path, wrong), FILE)


def _zip64_extra(start: int, nbytes: int, directory: int, there: int = 28) -> bytes:
    """One stored record whose directory entry keeps its numbers in a zip64 extra field.

    `there`: bytes of the 28 that the field claims to have.
    """
    name, data = b"x/data.pkl", b"\x80\x02}."
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 4, 4, len(name), 0) + name
    extra = struct.pack("<2H3Q", 1, 24, nbytes, nbytes, start)[:there]
    entry = struct.pack(
        "<4s2B5H3L5H2L", b"PK\x01\x02", 45, 0, 45, 0, 0, 0, 0, 0, *(0xFFFFFFFF,) * 2, len(name),
        len(extra), 0, 0, 0, 0, 0xFFFFFFFF,
    )  # fmt: skip
    body = local + data
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry + name + extra), len(body) + directory, 0
    )
    return body + entry + name + extra + end


def test_numbers_in_a_zip64_extra_field_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path, _zip64_extra(0, 4, 0))
    record = read_directory(folder, FILE)["data.pkl"]
    assert (record.start, record.nbytes) == (0, 4)
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        info = archive.infolist()[0]
    assert (info.header_offset, info.file_size) == (0, 4)


@pytest.mark.parametrize(
    ("start", "nbytes", "directory"),
    [(1, 4, 0), (2**63, 4, 0), (0, 5, 0), (0, 2**63, 0), (0, 2**64 - 1, 0), (0, 4, 1), (0, 4, -1)],
)
def test_a_zip64_extra_field_that_lies_is_refused(
    start: int, nbytes: int, directory: int, tmp_path: Path
) -> None:
    folder = write(tmp_path, _zip64_extra(start, nbytes, directory))
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        read_directory(folder, FILE)


@pytest.mark.parametrize("there", range(28))
def test_a_zip64_extra_field_that_is_cut_short_is_refused(there: int, tmp_path: Path) -> None:
    folder = write(tmp_path, _zip64_extra(0, 4, 0, there))
    with pytest.raises(CorruptFile, match="a zip64 size is missing"):
        read_directory(folder, FILE)


def test_a_record_without_a_local_header_is_refused_when_its_bytes_are_wanted(
    tmp_path: Path,
) -> None:
    data = zipped(*GOOD)
    second = data.index(b"PK\x03\x04", 4)
    folder = write(tmp_path, data[:second] + b"XX" + data[second + 2 :])
    record = read_directory(folder, FILE)["data/0"]
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: no record stands where"):
        locate_record(folder, FILE, "data/0", record)


def test_a_local_header_that_moves_its_bytes_out_of_the_file_is_refused(tmp_path: Path) -> None:
    data = patched(zipped(*GOOD), 0, (28, 2), lambda _: 0xFFFF)  # length of the extra field
    folder = write(tmp_path, data)
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        meta.read_tensors(folder, FILE)


def test_a_local_header_with_another_name_than_the_directory_is_refused(tmp_path: Path) -> None:
    data = zipped(*GOOD).replace(b"x/data.pkl", b"x/DATA.pkl", 1)
    folder = write(tmp_path, data)
    with (
        zipfile.ZipFile(tmp_path / FILE) as archive,
        pytest.raises(zipfile.BadZipFile, match="differ"),
    ):
        archive.read("x/data.pkl")
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        meta.read_tensors(folder, FILE)


# --- anything at all ------------------------------------------------------------------------------

NAMES = st.sampled_from(["byteorder", "data.pkl", "a_b", "x/y/z", "n" * 300])
RECORDS = st.dictionaries(
    NAMES | st.integers(0, 99).map("data/{}".format), st.binary(max_size=200), max_size=6
)


@examples(60)
@given(records=RECORDS)
def test_any_records_that_torch_writes_are_those_that_zipfile_finds(
    records: dict[str, bytes], tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, data in records.items():
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    folder = write(tmp_path, buffer.getvalue())
    found = read_directory(folder, FILE)
    with zipfile.ZipFile(buffer) as archive:
        assert [f"archive/{name}" for name in found] == archive.namelist()
        for name, record in found.items():
            at = locate_record(folder, FILE, name, record)
            assert folder.read(FILE, at, record.nbytes) == archive.read(f"archive/{name}")


test_any_change_to_an_archive_is_read_or_refused = any_change("zip")
