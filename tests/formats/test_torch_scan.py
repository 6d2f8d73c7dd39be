"""The scan of a torch zip against zipfile, and what is left of a file without its directory."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from changes import any_change
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamainspect.errors import CorruptFile, LlamaInspectError
from llamainspect.formats import torch_scan
from llamainspect.formats.torch_scan import Salvage, ZipScan, salvage
from llamainspect.formats.torch_zip import read_archive
from llamainspect.sources import Folder

FILE = "consolidated.00.pth"
LOCAL_NBYTES, DESCRIPTOR_NBYTES = 30, 16  # PKWARE APPNOTE 4.3.7 and 4.3.9


class Part(NamedTuple):
    """One record as zipfile has it."""

    name: str  # without the folder
    header: int  # where its local header starts
    start: int  # of its bytes
    nbytes: int
    crc32: int

    @property
    def end(self) -> int:
        return self.start + self.nbytes


def parts_of(data: bytes) -> list[Part]:
    parts = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            lengths = struct.unpack_from("<2H", data, info.header_offset + 26)
            start = info.header_offset + LOCAL_NBYTES + sum(lengths)
            name = info.filename.partition("/")[2]
            parts.append(Part(name, info.header_offset, start, info.file_size, info.CRC))
    return parts


def directory_of(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.start_dir


def storages(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.name.startswith("data/")]


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def twelve() -> dict[str, torch.Tensor]:
    """Twelve storages of different lengths, so that data/1 and data/10 can be mixed up."""
    return {f"layers.{i}.w": torch.arange(1, 2 + 3 * i, dtype=torch.int16) for i in range(12)}


GOOD = saved(twelve())
PARTS = parts_of(GOOD)


def write(directory: Path, data: bytes) -> Folder:
    (directory / FILE).write_bytes(data)
    return Folder(str(directory))


def scan(folder: Folder, data: bytes, block_nbytes: int = 2**20) -> ZipScan:
    result = ZipScan(*read_archive(folder, FILE))
    feed(result, data, block_nbytes)
    return result


def feed(result: ZipScan, data: bytes, block_nbytes: int = 2**20) -> None:
    for start in range(0, len(data), block_nbytes):
        result.update(memoryview(data)[start : start + block_nbytes])


def states(found: ZipScan) -> list[tuple[str, int, int, str]]:
    return [(row.name, row.start, row.nbytes, row.state) for row in found.scanned]


def differing(found: ZipScan) -> list[tuple[str, int, int, str]]:
    return [row for row in states(found) if row[3] != "intact"]


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


# --- a file that is as it was saved ---------------------------------------------------------------

VALUES: dict[str, Callable[[], Any]] = {
    "twelve tensors": twelve,
    "none": dict,
    "empty tensors among others": lambda: {
        "a": torch.empty(0), "b": torch.ones(3), "c": torch.empty(0, 4), "d": torch.zeros(1),
    },
    "tensors of a megabyte": lambda: {str(i): torch.full((2**18,), i + 1.0) for i in range(3)},
    "eighty tensors": lambda: {f"layers.{i}": torch.full((i,), i) for i in range(80)},
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_the_records_found_are_those_of_zipfile_and_all_intact(kind: str, tmp_path: Path) -> None:
    data = saved(VALUES[kind]())
    found = scan(write(tmp_path, data), data)
    assert states(found) == [
        (part.name, part.start, part.nbytes, "intact") for part in parts_of(data)
    ]
    assert found.oddities == []
    assert found.done


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_any_alignment_is_followed(alignment: int, tmp_path: Path) -> None:
    before = torch.utils.serialization.config.save.storage_alignment
    torch.utils.serialization.config.save.storage_alignment = alignment
    try:
        data = saved(twelve())
    finally:
        torch.utils.serialization.config.save.storage_alignment = before
    found = scan(write(tmp_path, data), data)
    assert [(record.start, record.state) for record in found.scanned] == [
        (part.start, "intact") for part in parts_of(data)
    ]
    assert found.oddities == []


@pytest.mark.parametrize("block_nbytes", [1, 2, 3, 7, 64, 1000, 2**18])
def test_blocks_of_any_length_give_the_same(block_nbytes: int, tmp_path: Path) -> None:
    data = flipped(flipped(GOOD, PARTS[-3].start), PARTS[4].end + 5)
    folder = write(tmp_path, data)
    whole, pieces = scan(folder, data), scan(folder, data, block_nbytes)
    assert (pieces.scanned, pieces.oddities) == (whole.scanned, whole.oddities)
    assert whole.oddities
    assert any(record.state == "differs" for record in whole.scanned)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, len(GOOD)), max_size=30))
def test_blocks_of_different_lengths_give_the_same(cuts: list[int], tmp_path: Path) -> None:
    found = ZipScan(*read_archive(write(tmp_path, GOOD), FILE))
    ends = [*sorted(cuts), len(GOOD)]
    for start, end in zip([0, *ends], ends, strict=False):
        found.update(memoryview(GOOD)[start:end])
    assert [record.state for record in found.scanned] == ["intact"] * len(PARTS)
    assert found.oddities == []


def test_the_scan_is_done_when_the_last_record_has_gone_by_and_ignores_the_rest(
    tmp_path: Path,
) -> None:
    found = ZipScan(*read_archive(write(tmp_path, GOOD), FILE))
    end = directory_of(GOOD)
    feed(found, GOOD[: end - 1])
    assert not found.done
    feed(found, GOOD[end - 1 : end])
    assert found.done
    before = list(found.scanned)
    feed(found, GOOD[end:] + bytes(1000))
    assert found.scanned == before


# --- damage in the records ------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_each_flipped_bit_in_a_record_is_found_in_that_record_alone(
    part: Part, tmp_path: Path
) -> None:
    folder = write(tmp_path, GOOD)
    records = read_archive(folder, FILE)
    for position in range(part.start, part.end):
        for bit in range(8) if part.name.startswith("data/") else [position % 8]:
            found = ZipScan(*records)
            feed(found, flipped(GOOD, position, bit))
            assert differing(found) == [(part.name, part.start, part.nbytes, "differs")]
            assert found.oddities == []


def test_damage_in_two_records_is_found_in_both(tmp_path: Path) -> None:
    first, _, third = storages(PARTS)[3:6]
    data = flipped(flipped(GOOD, first.start), third.end - 1, 7)
    found = scan(write(tmp_path, data), data)
    assert [row[0] for row in differing(found)] == [first.name, third.name]


def _with_sum(data: bytes, name: str, crc32: int) -> bytes:
    """Another CRC-32 for a record, in the directory and behind the record."""
    part = next(part for part in parts_of(data) if part.name == name)
    field = struct.pack("<L", part.crc32)
    assert data.count(field) == 2
    return data.replace(field, struct.pack("<L", crc32))


def test_a_sum_of_zero_was_not_computed_and_is_no_damage(tmp_path: Path) -> None:
    data = _with_sum(GOOD, "data/3", 0)
    found = scan(write(tmp_path, data), data)
    assert [(row[0], row[3]) for row in differing(found)] == [("data/3", "unrecorded")]
    assert found.oddities == []


def test_a_wrong_sum_in_both_places_is_damage(tmp_path: Path) -> None:
    data = _with_sum(GOOD, "data/3", 1)
    found = scan(write(tmp_path, data), data)
    assert [(row[0], row[3]) for row in differing(found)] == [("data/3", "differs")]


def test_a_sum_that_only_the_directory_lacks_is_taken_from_behind_the_record(
    tmp_path: Path,
) -> None:
    part = next(part for part in PARTS if part.name == "data/3")
    field = GOOD.index(struct.pack("<L", part.crc32), directory_of(GOOD))
    lacking = GOOD[:field] + bytes(4) + GOOD[field + 4 :]
    assert differing(scan(write(tmp_path, lacking), lacking)) == []
    changed = flipped(lacking, part.start)
    assert differing(scan(write(tmp_path, changed), changed)) == [
        (part.name, part.start, part.nbytes, "differs")
    ]


# --- damage between the records -------------------------------------------------------------------

SIGNATURE, NAME_LENGTH = range(0, 4), range(26, 28)


def _between(part: Part) -> Iterator[tuple[int, str]]:
    """Positions outside of the records that are looked at, and a word for the place."""
    name_length, extra_length = struct.unpack_from("<2H", GOOD, part.header + 26)
    name_end = part.header + LOCAL_NBYTES + name_length
    assert name_end + extra_length == part.start
    yield from ((part.header + offset, "header") for offset in SIGNATURE)
    yield from ((position, "name") for position in range(name_end - name_length, name_end))
    yield from ((position, "padding") for position in range(name_end + 4, part.start))
    if part.nbytes:
        descriptor = range(part.end, part.end + DESCRIPTOR_NBYTES)
        yield from ((position, "second copy") for position in descriptor)


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_damage_between_the_records_is_an_oddity_near_it_and_blamed_on_no_record(
    part: Part, tmp_path: Path
) -> None:
    records = read_archive(write(tmp_path, GOOD), FILE)
    for position, word in _between(part):
        found = ZipScan(*records)
        feed(found, flipped(GOOD, position))
        assert {record.state for record in found.scanned} == {"intact"}, position
        assert [record.start for record in found.scanned] == [part.start for part in PARTS]
        ((at, what),) = found.oddities
        assert word in what
        assert part.name in what
        assert 0 <= position - at < 128


@pytest.mark.parametrize("field", [26, 28], ids=["name", "padding"])
@pytest.mark.parametrize("length", [0, 1, 1000, 0x7FFF, 0xFFFF])
def test_a_header_with_a_wrong_length_is_noticed_and_every_record_found_in_its_place(
    length: int, field: int, tmp_path: Path
) -> None:
    records = read_archive(write(tmp_path, GOOD), FILE)
    for part in PARTS:
        changed = bytearray(GOOD)
        struct.pack_into("<H", changed, part.header + field, length)
        found = ZipScan(*records)
        feed(found, bytes(changed))
        assert found.oddities
        assert states(found) == [(p.name, p.start, p.nbytes, "intact") for p in PARTS]


def test_a_header_that_leads_nowhere_does_not_keep_its_record_from_being_compared(
    tmp_path: Path,
) -> None:
    part = storages(PARTS)[5]
    changed = bytearray(GOOD)
    changed[part.header : part.start] = bytes(part.start - part.header)
    changed[part.start] ^= 1
    found = scan(write(tmp_path, bytes(changed)), bytes(changed))
    assert differing(found) == [(part.name, part.start, part.nbytes, "differs")]


def test_bytes_that_belong_to_no_record_are_an_oddity(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("x/data.pkl", "x/data/0"):
            archive.writestr(name, b"abc")
            archive.fp.write(bytes(100))  # type: ignore[union-attr]
            archive.start_dir = archive.fp.tell()  # type: ignore[union-attr]
    data = buffer.getvalue()
    found = scan(write(tmp_path, data), data)
    assert [record.state for record in found.scanned] == ["intact", "intact"]
    assert [what for _, what in found.oddities] == [
        "bytes behind data.pkl that belong to no record",
        "bytes behind data/0 that belong to no record",
    ]


# --- files without a directory --------------------------------------------------------------------

FIRST_WHOLE = PARTS[0].end + DESCRIPTOR_NBYTES  # from here on data.pkl can be read


def test_at_every_length_what_is_left_is_what_zipfile_says_of_the_whole_file(
    tmp_path: Path,
) -> None:
    for length in range(FIRST_WHOLE, len(GOOD)):
        found = salvage(write(tmp_path, GOOD[:length]), FILE)
        with_bytes = storages(PARTS)
        there = {part.name: max(0, min(length, part.end) - part.start) for part in with_bytes}
        whole = {part.name for part in with_bytes if there[part.name] == part.nbytes}
        cut = {name: count for name, count in there.items() if count and name not in whole}
        absent = {p.name: p.nbytes for p in with_bytes if not there[p.name]}
        assert {name for name in found.records if name.startswith("data/")} == whole, length
        assert found.cut == cut, length
        assert found.absent == absent, length
        assert (found.behind, found.lost) == (0, None)


def test_a_file_that_ends_within_the_name_of_a_record_does_not_cut_another_one(
    tmp_path: Path,
) -> None:
    part = next(part for part in PARTS if part.name == "data/10")
    length = GOOD.index(b"data/10", part.header) + len("data/1")
    found = salvage(write(tmp_path, GOOD[:length]), FILE)
    assert found.cut == {}
    assert set(found.absent) == {"data/10", "data/11"}


def test_a_record_that_is_whole_with_its_second_sum_is_as_zipfile_has_it(tmp_path: Path) -> None:
    found = salvage(write(tmp_path, GOOD[: directory_of(GOOD)]), FILE)
    assert {
        name: (record.start, record.nbytes, record.crc32) for name, record in found.records.items()
    } == {part.name: (part.header, part.nbytes, part.crc32) for part in PARTS}
    assert found.end == directory_of(GOOD)


def test_a_record_whose_second_sum_is_cut_off_has_none(tmp_path: Path) -> None:
    part = storages(PARTS)[7]
    for missing in range(1, DESCRIPTOR_NBYTES + 1):
        data = GOOD[: part.end + DESCRIPTOR_NBYTES - missing]
        found = salvage(write(tmp_path, data), FILE)
        assert found.records[part.name].crc32 == 0
        assert found.cut == {}
        scanned = ZipScan(found.records, found.end, found.root)
        feed(scanned, data)
        assert [(row[0], row[3]) for row in differing(scanned)] == [(part.name, "unrecorded")]


@pytest.mark.parametrize("length", [4, 29, 30, 60, 64, 100, FIRST_WHOLE - 16, FIRST_WHOLE - 1])
def test_without_a_whole_pickle_nothing_can_be_told(length: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        salvage(write(tmp_path, GOOD[:length]), FILE)


@pytest.mark.parametrize("count", [1, 2, 22, 98, 99, 4096, 70_000])
def test_bytes_behind_the_end_are_counted(count: int, tmp_path: Path) -> None:
    found = salvage(write(tmp_path, GOOD + b"x" * count), FILE)
    assert (found.behind, found.cut, found.absent) == (count, {}, {})


def test_a_second_archive_behind_the_end_is_counted(tmp_path: Path) -> None:
    found = salvage(write(tmp_path, GOOD + GOOD), FILE)
    assert found.behind == len(GOOD)
    assert [name for name in found.records if name.startswith("data/")] == [
        part.name for part in storages(PARTS)
    ]


def test_a_pickle_that_holds_the_mark_of_a_descriptor_is_followed_to_its_real_end(
    tmp_path: Path,
) -> None:
    data = saved({"PK\x07\x08": torch.arange(5), "a": torch.arange(7)})
    assert data.index(b"PK\x07\x08") < parts_of(data)[0].end
    found = salvage(write(tmp_path, data[:-30]), FILE)
    assert [name for name, _ in found.contents.tensors] == ["PK\x07\x08", "a"]
    assert (found.cut, found.absent) == ({}, {})


def test_a_name_that_looks_like_a_whole_descriptor_does_not_end_the_pickle(tmp_path: Path) -> None:
    # Protocol 2: PROTO, EMPTY_DICT, BINPUT, MARK and BINUNICODE take 11 bytes, then the key begins.
    name = struct.pack("<4s4s2L", b"PK\x07\x08", b"sum?", 11, 11).decode()
    data = saved({name: torch.arange(5), "a": torch.arange(7)})
    first = parts_of(data)[0]
    assert data.index(name.encode()) == first.start + 11
    found = salvage(write(tmp_path, data[:-30]), FILE)
    assert found.records["data.pkl"].nbytes == first.nbytes


def test_a_pickle_of_a_megabyte_is_found_whole(tmp_path: Path) -> None:
    names = {f"{'n' * 900}{i}": torch.full((1,), i, dtype=torch.int32) for i in range(1200)}
    data = saved(names)
    assert parts_of(data)[0].nbytes > 2**20
    found = salvage(write(tmp_path, data[:-30]), FILE)
    assert [name for name, _ in found.contents.tensors] == list(names)


def test_the_trail_is_taken_up_again_behind_a_damaged_header(tmp_path: Path) -> None:
    part, after = storages(PARTS)[4:6]
    changed = flipped(GOOD[:-30], part.header)
    found = salvage(write(tmp_path, changed), FILE)
    assert found.lost == part.header
    assert after.name in found.records
    assert set(found.absent) == {part.name}


def test_records_beyond_four_gibibytes_are_followed_without_a_directory(tmp_path: Path) -> None:
    value = {"a": torch.empty(2**32 + 8, dtype=torch.uint8), "b": torch.empty(300)}
    with torch.serialization.skip_data():  # leaves a hole: a few kB on disk
        torch.save(value, tmp_path / FILE)
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        b = archive.getinfo("consolidated.00/data/1").header_offset
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(b + 26)
        start = b + LOCAL_NBYTES + sum(struct.unpack("<2H", file.read(4)))
        file.truncate(start + 1000)
    found = salvage(Folder(str(tmp_path)), FILE)
    assert found.records["data/0"].nbytes == 2**32 + 8
    assert found.cut == {"data/1": 1000}
    assert (found.absent, found.lost) == ({}, None)


# --- made to harm ---------------------------------------------------------------------------------


class CountingFolder(Folder):
    """Counts the bytes that are asked of it."""

    total = 0

    def read(self, file: str, offset: int, length: int) -> bytes:
        self.total += length
        return super().read(file, offset, length)


def _first_header(name: bytes = b"x/data.pkl") -> bytes:
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", *[0] * 8, len(name), 0) + name


def test_a_pickle_full_of_false_ends_is_not_summed_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = 0

    def counting(data: bytes, value: int = 0) -> int:
        nonlocal summed
        summed += len(data)
        return zlib.crc32(data, value)

    monkeypatch.setattr(torch_scan, "crc32", counting)
    fits = (struct.pack("<4s3L", b"PK\x07\x08", 1, at, at) for at in range(0, 2**17, 16))
    data = _first_header() + b"".join(fits)  # each claims what stands before it, with a wrong sum
    with pytest.raises(CorruptFile):
        salvage(write(tmp_path, data), FILE)
    assert summed < 10 * len(data)


def test_headers_that_lead_to_nothing_are_not_looked_through_over_and_over(tmp_path: Path) -> None:
    head = GOOD[: PARTS[1].header]
    data = head + _first_header(b"x/y") * 3000
    (tmp_path / FILE).write_bytes(data)
    folder = CountingFolder(str(tmp_path))
    salvage(folder, FILE)
    assert folder.total < 300 * len(data)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 100), st.binary(max_size=40)),
        min_size=1,
        max_size=6,
    ),
    keep=st.integers(0, len(GOOD)),
)
def test_whatever_is_left_of_a_file_it_is_salvaged_or_refused(
    edits: list[tuple[int, int, bytes]], keep: int, tmp_path: Path
) -> None:
    data = GOOD
    for position, removed, added in edits:
        data = data[:position] + added + data[position + removed :]
    data = data[: max(keep, FIRST_WHOLE)]
    try:
        found = salvage(write(tmp_path, data), FILE)
    except LlamaInspectError:
        return
    _assert_inside(found, len(data))
    scanned = ZipScan(found.records, found.end, found.root)
    feed(scanned, data, 100)
    assert len(scanned.scanned) == len(found.records)


def _assert_inside(found: Salvage, nbytes: int) -> None:
    ends = [0]
    for record in sorted(found.records.values(), key=lambda record: record.start):
        assert ends[-1] <= record.start
        ends.append(record.start + LOCAL_NBYTES + record.nbytes)
    assert ends[-1] <= nbytes
    assert not set(found.cut) & set(found.records)
    assert not set(found.absent) & (set(found.records) | set(found.cut))


def test_following_a_file_without_its_directory_reads_its_headers_alone(tmp_path: Path) -> None:
    data = saved({f"layers.{i}.weight": torch.full((20_000,), i) for i in range(50)})  # 8 MB
    (tmp_path / FILE).write_bytes(data[:-100])
    folder = CountingFolder(str(tmp_path))
    found = salvage(folder, FILE)
    assert len(found.records) == len(parts_of(data))
    assert folder.total < 2**19


# --- anything at all ------------------------------------------------------------------------------

test_any_change_to_an_archive_is_followed_or_refused = any_change("salvage")
