"""What a weight file says of its own bytes: every bit flipped, every length, and strangers."""

import gzip
import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from llamainspect.integrity import DeepCheck, Verdict
from llamainspect.reports import Damage
from llamainspect.sources import Folder

FILE = "consolidated.00.pth"
LOCAL_NBYTES, DESCRIPTOR_NBYTES = 30, 16  # PKWARE APPNOTE 4.3.7 and 4.3.9


class Part(NamedTuple):
    """One record as zipfile has it, and the tensors that torch says live in it."""

    record: str  # without the folder
    header: int  # where its local header starts
    start: int
    end: int
    tensors: tuple[str, ...]


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def storage_bytes(tensor: torch.Tensor) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()


def parts_of(data: bytes) -> dict[str, Part]:
    """Tensors are matched to records by their bytes, which must be unique in the file."""
    loaded = torch.load(io.BytesIO(data), weights_only=True)
    parts = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            record = info.filename.partition("/")[2]
            start = info.header_offset + LOCAL_NBYTES
            start += sum(struct.unpack_from("<2H", data, info.header_offset + 26))
            content = data[start : start + info.file_size]
            assert not info.CRC or content == archive.read(info)  # without a sum it will not read
            names = tuple(
                name
                for name, tensor in loaded.items()
                if record.startswith("data/") and storage_bytes(tensor) == content
            )
            end = start + info.file_size
            parts[record] = Part(record, info.header_offset, start, end, names)
    return parts


def small() -> dict[str, torch.Tensor]:
    """Tied weights, a view, an empty tensor, and enough storages to confuse data/1 with data/10."""
    embedding = torch.arange(1.0, 7.0)
    value = {
        "tok_embeddings.weight": embedding,
        "layers.0.attention.wq.weight": torch.arange(10, 20, dtype=torch.bfloat16),
        "layers.1.attention.wq.weight": torch.full((3, 3), 7.0),
        "empty": torch.empty(0),
        "rows": embedding[2:4],
        "norm.weight": torch.arange(3, dtype=torch.int8),
    }
    value |= {f"layers.{i}.ffn_norm.weight": torch.full((i,), i / 8) for i in range(2, 10)}
    return value | {"output.weight": embedding}


GOOD = saved(small())
PARTS = parts_of(GOOD)
STORAGES = [part for name, part in PARTS.items() if name.startswith("data/")]
WITH_BYTES = [part for part in STORAGES if part.start < part.end]


def check(directory: Path, data: bytes, block_nbytes: int = 2**20, file: str = FILE) -> Verdict:
    """The verdict on a file that holds `data`."""
    (directory / file).write_bytes(data)
    deep = DeepCheck(Folder(str(directory)), file)
    if deep.needs_bytes:
        for start in range(0, len(data), block_nbytes):
            deep.update(memoryview(data)[start : start + block_nbytes])
    return deep.verdict()


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def places(damage: tuple[Damage, ...]) -> list[tuple[str, tuple[str, ...], int, int, str]]:
    return [(row.record, row.tensors, row.start, row.end, row.state) for row in damage]


def differs(part: Part) -> tuple[str, tuple[str, ...], int, int, str]:
    return part.record, part.tensors, part.start, part.end, "differs"


def test_the_referee_finds_who_shares_a_storage() -> None:
    assert PARTS["data/0"].tensors == ("tok_embeddings.weight", "rows", "output.weight")
    assert [len(part.tensors) for part in WITH_BYTES] == [3] + [1] * 11
    assert PARTS["data/3"].tensors == ("empty",)
    assert PARTS["data/10"].tensors == ("layers.7.ffn_norm.weight",)


# --- whole files ----------------------------------------------------------------------------------


def test_a_file_as_it_was_saved_is_intact(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD) == Verdict(True, "12 storages with the right CRC-32", by_sums=True)


@pytest.mark.parametrize("nbytes", [1, 100_000])
def test_a_file_of_one_tensor_is_intact(nbytes: int, tmp_path: Path) -> None:
    data = saved({"a": torch.ones(nbytes, dtype=torch.int8)})
    assert check(tmp_path, data) == Verdict(True, "1 storage with the right CRC-32", by_sums=True)


@pytest.mark.parametrize("value", [{}, {"empty": torch.empty(0)}], ids=["none", "an empty one"])
def test_a_file_without_bytes_of_tensors_is_not_said_to_lack_sums(
    value: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    verdict = check(tmp_path, saved(value))
    assert verdict.intact is True
    assert "no CRC-32" not in verdict.message


def without_sums(value: Any) -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return saved(value)
    finally:
        torch.serialization.set_crc32_options(True)


def test_a_file_saved_without_sums_cannot_be_judged_and_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    data = without_sums(small())
    for changed in (data, flipped(data, parts_of(data)["data/1"].start)):
        verdict = check(tmp_path, changed)
        assert verdict == Verdict(None, "no CRC-32 was recorded when it was saved")
    assert not DeepCheck(Folder(str(tmp_path)), FILE).needs_bytes


def test_a_file_saved_without_sums_and_cut_short_is_damaged(tmp_path: Path) -> None:
    data = without_sums(small())
    part = parts_of(data)["data/10"]
    verdict = check(tmp_path, data[: part.start + 3])
    assert verdict.intact is False
    assert places(verdict.damage)[0] == (
        "data/10", ("layers.7.ffn_norm.weight",), part.start, part.start + 3, "cut",
    )  # fmt: skip


def test_a_file_saved_without_sums_that_lacks_a_storage_is_damaged(tmp_path: Path) -> None:
    data = without_sums({"a": torch.arange(5), "b": torch.arange(7)})
    verdict = check(tmp_path, data.replace(b"/data/1", b"/data/9"))
    assert verdict.intact is False
    assert [(row.record, row.tensors, row.state) for row in verdict.damage] == [
        ("data/1", ("b",), "absent")
    ]


def test_some_storages_without_a_sum_leave_the_rest_to_be_judged(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        sums = [info.CRC for info in archive.infolist() if info.filename.endswith(("/1", "/2"))]
    data = GOOD
    for value in sums:
        assert data.count(struct.pack("<L", value)) == 2  # in the directory and behind the record
        data = data.replace(struct.pack("<L", value), bytes(4))
    verdict = check(tmp_path, data)
    assert verdict == Verdict(None, "2 storages of 12 without a CRC-32")
    assert check(tmp_path, flipped(data, PARTS["data/1"].start)) == verdict
    other = PARTS["data/5"]
    assert places(check(tmp_path, flipped(data, other.start)).damage) == [differs(other)]


def test_bytes_whose_sum_is_zero_agree_with_a_sum_of_zero(tmp_path: Path) -> None:
    # 9d 0a d9 6d is the one text of four bytes whose CRC-32 is 0.
    zero = torch.tensor([0x9D, 0x0A, 0xD9, 0x6D], dtype=torch.uint8)
    data = saved({"zero": zero, "one": torch.ones(1)})
    assert check(tmp_path, data).intact is True


# --- flipped bits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", WITH_BYTES, ids=[part.record for part in WITH_BYTES])
def test_a_bit_flipped_in_any_byte_of_a_tensor_is_found_and_named(
    part: Part, tmp_path: Path
) -> None:
    for position in range(part.start, part.end):
        verdict = check(tmp_path, flipped(GOOD, position, position % 8))
        assert verdict.intact is False
        assert places(verdict.damage) == [differs(part)]
        assert verdict.flipped_bit == 8 * position + position % 8
        assert part.tensors[0] in verdict.message
        assert f"bytes {part.start:,} to {part.end:,}" in verdict.message


@pytest.mark.parametrize(
    ("record", "layer"), [("data/0", None), ("data/1", 0), ("data/2", 1), ("data/12", 9)]
)
def test_the_layer_of_a_damaged_tensor_is_told(
    record: str, layer: int | None, tmp_path: Path
) -> None:
    (row,) = check(tmp_path, flipped(GOOD, PARTS[record].start)).damage
    assert row.layer == layer


def test_a_flip_in_another_record_is_found_in_it(tmp_path: Path) -> None:
    others = [part for name, part in PARTS.items() if not name.startswith("data/")]
    for part in others:
        for position in range(part.start, part.end, 41 if part.record == "data.pkl" else 1):
            verdict = check(tmp_path, flipped(GOOD, position, position % 8))
            assert verdict.intact is False
            changed = [row for row in verdict.damage if row.state == "differs"]
            assert [(row.record, row.start, row.end) for row in changed] == [
                (part.record, part.start, part.end)
            ]
            assert not changed[0].tensors


def test_a_damaged_pickle_is_said_to_make_the_names_doubtful(tmp_path: Path) -> None:
    part = PARTS["data.pkl"]
    position = GOOD.index(b"norm.weight", part.start)  # a name, and the pickle stays readable
    verdict = check(tmp_path, flipped(GOOD, position))
    assert places(verdict.damage) == [("data.pkl", (), part.start, part.end, "differs")]
    assert verdict.message.endswith(
        "data.pkl holds the names and shapes, which may be wrong with it"
    )


def test_damage_in_two_tensors_is_told_of_both(tmp_path: Path) -> None:
    first, second = PARTS["data/1"], PARTS["data/7"]
    verdict = check(tmp_path, flipped(flipped(GOOD, second.start), first.end - 1))
    assert places(verdict.damage) == [differs(first), differs(second)]
    assert verdict.message.startswith("damaged: ")
    assert f"{len(WITH_BYTES) - 2} storages with the right CRC-32" in verdict.message


def test_a_flip_between_the_records_is_noticed_and_blamed_on_no_tensor(tmp_path: Path) -> None:
    for part in PARTS.values():
        descriptor = DESCRIPTOR_NBYTES * (part.start < part.end)
        signature = range(part.header, part.header + 4)
        name_end = GOOD.index(part.record.encode(), part.header) + len(part.record)
        for position in (
            *(signature if part.header else ()),  # without the first it is no zip
            name_end - 1,
            *range(name_end + 4, part.start),  # the padding; its own header is not looked at
            *range(part.end, part.end + descriptor),
        ):
            verdict = check(tmp_path, flipped(GOOD, position))
            assert verdict.intact is False, position
            assert verdict.damage == (), position
            assert "outside of the tensors" in verdict.message


def test_a_flip_in_the_directory_s_copy_of_a_sum_is_not_blamed_on_the_tensor(
    tmp_path: Path,
) -> None:
    # The copy behind the record still agrees with the bytes: the tensor is as it was saved.
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        directory = archive.start_dir
        sums = [struct.pack("<L", info.CRC) for info in archive.infolist() if info.CRC]
    for value in sums:
        verdict = check(tmp_path, flipped(GOOD, GOOD.index(value, directory)))
        assert verdict.intact is False
        assert verdict.damage == ()


def test_what_is_called_intact_despite_a_flip_is_loaded_by_torch_as_it_was(tmp_path: Path) -> None:
    expected = small()
    unnoticed = 0
    inside = {i for part in PARTS.values() for i in range(part.start, part.end)}
    for position in sorted(set(range(0, len(GOOD), 3)) - inside):
        data = flipped(GOOD, position)
        if check(tmp_path, data).intact:
            unnoticed += 1
            loaded = torch.load(io.BytesIO(data), weights_only=True)
            assert loaded.keys() == expected.keys()
            assert all(torch.equal(loaded[name], expected[name]) for name in expected), position
    assert unnoticed < len(GOOD) / 12  # fields of headers that nobody reads


# --- blocks ---------------------------------------------------------------------------------------

VARIANTS = {
    "whole": GOOD,
    "damaged": flipped(flipped(GOOD, PARTS["data/4"].start), PARTS["version"].start),
    "damaged between": flipped(GOOD, PARTS["data/4"].end + 3),
    "cut short": GOOD[: PARTS["data/4"].start + 1],
    "cut short behind the tensors": GOOD[:-100],
    "too long": GOOD + bytes(1000),
    "without sums": without_sums(small()),
}


@pytest.mark.parametrize("block_nbytes", [1, 7, 64, 1000])
@pytest.mark.parametrize("kind", VARIANTS)
def test_the_verdict_does_not_depend_on_the_length_of_the_blocks(
    kind: str, block_nbytes: int, tmp_path: Path
) -> None:
    data = VARIANTS[kind]
    assert check(tmp_path, data, block_nbytes) == check(tmp_path, data, len(data))


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_verdict_stands_once_nothing_more_is_to_be_told(kind: str, tmp_path: Path) -> None:
    data = VARIANTS[kind]
    expected = check(tmp_path, data)
    deep = DeepCheck(Folder(str(tmp_path)), FILE)
    position = 0
    while deep.needs_bytes and not deep.done and position < len(data):
        deep.update(memoryview(data)[position : position + 1])
        position += 1
    assert deep.verdict() == expected


# --- files of the wrong length --------------------------------------------------------------------

LOSS = re.compile(r"cut short: of ([\d,]+) bytes of tensors ([\d,]+) are missing")


def assert_loss(verdict: Verdict, parts: list[Part], length: int) -> None:
    """The loss that zipfile's offsets of the whole file give for its first `length` bytes."""
    assert verdict.intact is False, length
    expected = [
        (part.record, part.tensors, min(part.start, length), length,
         "cut" if part.start < length else "absent")
        for part in parts
        if length < part.end and part.start < part.end
    ]  # fmt: skip
    with_bytes = {part.record for part in parts if part.start < part.end}
    assert [row for row in places(verdict.damage) if row[0] in with_bytes] == expected, length
    total = sum(part.end - part.start for part in parts)
    missing = sum(part.end - max(part.start, min(length, part.end)) for part in parts)
    found = LOSS.search(verdict.message)
    if missing:
        assert found, length
        assert [int(number.replace(",", "")) for number in found.groups()] == [total, missing]
        assert expected[0][1][0].split(".")[0] in verdict.message
    else:
        assert found is None
        assert "all tensors are there, what stands behind them is not" in verdict.message


def test_at_every_length_the_loss_is_told_exactly(tmp_path: Path) -> None:
    first_whole = PARTS["data.pkl"].end + DESCRIPTOR_NBYTES
    for length in range(first_whole, len(GOOD)):
        assert_loss(check(tmp_path, GOOD[:length]), STORAGES, length)


def test_before_the_pickle_is_whole_nothing_is_made_up(tmp_path: Path) -> None:
    for length in range(PARTS["data.pkl"].end + DESCRIPTOR_NBYTES):
        verdict = check(tmp_path, GOOD[:length])
        assert verdict.intact is False
        assert verdict.damage == ()


def test_an_empty_tensor_loses_nothing(tmp_path: Path) -> None:
    data = saved({"a": torch.ones(2), "empty": torch.empty(0)})
    parts = parts_of(data)
    for length in range(parts["data/0"].end, len(data)):
        verdict = check(tmp_path, data[:length])
        assert verdict.intact is False
        assert verdict.damage == (), length


def big() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{i}.feed_forward.w1.weight": torch.randn(1000 * (i + 1), generator=generator)
        for i in range(11)
    }


BIG = saved(big())
BIG_STORAGES = [part for name, part in parts_of(BIG).items() if name.startswith("data/")]


def test_at_the_edges_of_larger_tensors_the_loss_is_told_exactly(tmp_path: Path) -> None:
    edges = {edge for part in BIG_STORAGES for edge in (part.header, part.start, part.end)}
    lengths = {edge + offset for edge in edges for offset in (-1, 0, 1, 16, 29, 30)}
    lengths |= set(range(4000, len(BIG), 9973))
    for length in sorted(length for length in lengths if length < len(BIG)):
        assert_loss(check(tmp_path, BIG[:length]), BIG_STORAGES, length)


def test_what_is_left_of_a_file_cut_short_is_compared_too(tmp_path: Path) -> None:
    hurt, cut = BIG_STORAGES[3], BIG_STORAGES[8]
    length = cut.start + 5
    verdict = check(tmp_path, flipped(BIG[:length], hurt.start + 77))
    assert places(verdict.damage)[:2] == [
        differs(hurt), (cut.record, cut.tensors, cut.start, length, "cut"),
    ]  # fmt: skip
    assert "damaged: layers.3.feed_forward.w1.weight" in verdict.message
    assert "7 storages with the right CRC-32" in verdict.message


@pytest.mark.parametrize("count", [1, 2, 22, 98, 99, 4096, 70_000])
@pytest.mark.parametrize("content", [b"\0", b"x"], ids=["zeros", "text"])
def test_appended_bytes_are_counted_and_the_tensors_compared(
    count: int, content: bytes, tmp_path: Path
) -> None:
    verdict = check(tmp_path, GOOD + count * content)
    assert verdict.intact is False
    assert verdict.damage == ()
    assert f"{count:,} byte{'s' * (count != 1)} too long" in verdict.message
    assert "12 storages with the right CRC-32" in verdict.message


def test_a_file_that_was_written_twice_is_too_long_by_its_own_length(tmp_path: Path) -> None:
    verdict = check(tmp_path, GOOD + GOOD)
    assert verdict.intact is False
    assert verdict.damage == ()
    assert f"{len(GOOD):,} bytes too long" in verdict.message


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ends=st.tuples(st.integers(600, len(BIG) - 2000), st.integers(1, len(BIG))))
@example(ends=(25844, 23))  # lengths of 0 in a header that has nothing else of its own
def test_a_hole_that_a_download_never_filled_is_told_by_every_tensor_in_it(
    ends: tuple[int, int], tmp_path: Path
) -> None:
    first = BIG_STORAGES[0].header
    start = max(ends[0], first)
    end = min(start + ends[1], BIG_STORAGES[-1].end + DESCRIPTOR_NBYTES)
    data = BIG[:start] + bytes(end - start) + BIG[end:]
    hurt = [part for part in BIG_STORAGES if data[part.start : part.end]
            != BIG[part.start : part.end]]  # fmt: skip
    verdict = check(tmp_path, data)
    assert places(verdict.damage) == [differs(part) for part in hurt if part.tensors]
    if hurt or data == BIG:
        assert verdict.intact is (not hurt)


def test_a_tail_that_a_download_never_filled_does_not_hide_what_is_lost(tmp_path: Path) -> None:
    part = BIG_STORAGES[5]
    data = BIG[: part.start + 100] + bytes(len(BIG) - part.start - 100)
    verdict = check(tmp_path, data)
    assert verdict.intact is False
    named = {row.record for row in verdict.damage}
    assert {part.record for part in BIG_STORAGES[6:]} <= named
    assert not {part.record for part in BIG_STORAGES[:5]} & named


# --- files that contradict themselves -------------------------------------------------------------


def repacked(value: Any, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """A torch file with other records, their sums in order."""
    with zipfile.ZipFile(io.BytesIO(saved(value))) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    change(records)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


VALUE = {"a": torch.arange(5.0), "b": torch.ones(2), "tied": torch.zeros(0)}


def test_a_storage_that_the_pickle_names_and_the_zip_lacks_is_absent(tmp_path: Path) -> None:
    data = repacked(VALUE, lambda records: records.pop("archive/data/1"))
    verdict = check(tmp_path, data)
    assert verdict.intact is False
    assert places(verdict.damage) == [("data/1", ("b",), 0, 0, "absent")]
    assert "not there at all: b" in verdict.message


@pytest.mark.parametrize("nbytes", [1, 19, 21])
def test_a_storage_of_another_length_than_the_pickle_needs_is_cut(
    nbytes: int, tmp_path: Path
) -> None:
    data = repacked(VALUE, lambda records: records.update({"archive/data/0": bytes(nbytes)}))
    verdict = check(tmp_path, data)
    start = data.index(b"archive/data/0") + len("archive/data/0")
    assert verdict.intact is False
    assert places(verdict.damage) == [("data/0", ("a",), start, start + nbytes, "cut")]


def test_a_storage_that_no_tensor_views_is_named_by_its_record(tmp_path: Path) -> None:
    data = repacked(VALUE, lambda records: records.update({"archive/data/99": b"abc"}))
    assert check(tmp_path, data).intact is True
    position = data.index(b"archive/data/99") + len("archive/data/99")
    verdict = check(tmp_path, flipped(data, position))
    assert places(verdict.damage) == [("data/99", (), position, position + 3, "differs")]
    assert "data/99" in verdict.message


def test_a_save_that_was_interrupted_is_called_that(tmp_path: Path) -> None:
    data = repacked(VALUE, lambda records: records.pop("archive/data.pkl"))
    verdict = check(tmp_path, data)
    assert verdict.intact is False
    assert verdict.message == "it holds no data.pkl: torch.save was interrupted"


def test_a_pickle_that_cannot_be_followed_leaves_the_records_to_be_compared(
    tmp_path: Path,
) -> None:
    data = repacked(VALUE, lambda records: records.update({"archive/data.pkl": b"\x80\x02K."}))
    assert check(tmp_path, data).intact is True
    position = data.index(b"archive/data/1") + len("archive/data/1")
    verdict = check(tmp_path, flipped(data, position))
    assert places(verdict.damage) == [("data/1", (), position, position + 8, "differs")]


# --- strangers ------------------------------------------------------------------------------------


class Scale(torch.nn.Module):
    """A module for TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Scale()), buffer)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
STRANGERS: dict[str, tuple[Callable[[], bytes], bool | None, str]] = {
    "nothing": (lambda: b"", False, "empty"),
    "a web page": (lambda: b"<!DOCTYPE html>\n<html></html>", False, "web page of 29 bytes"),
    "an XML error": (lambda: b'<?xml version="1.0"?><Error/>', False, "web page"),
    "a Git LFS pointer": (lambda: LFS, False, "git lfs pull"),
    "zeros": (lambda: bytes(5000), False, "zeros"),
    "a beginning of zeros": (lambda: bytes(600) + GOOD[600:], False, "zeros"),
    "text": (lambda: b"access denied\n", False, "not a zip"),
    "one byte": (lambda: b"P", False, "not a zip"),
    "a signature alone": (lambda: b"PK\x03\x04", False, "its end is missing"),
    "an old torch file": (
        lambda: saved(small(), _use_new_zipfile_serialization=False), None, "before torch 1.6",
    ),
    "TorchScript": (torchscript, None, "TorchScript"),
    "gzip": (lambda: gzip.compress(GOOD), None, "gzip"),
    "a GGUF file": (lambda: b"GGUF\x03\0\0\0" + bytes(64), None, "GGUF"),
    "safetensors": (lambda: save_safetensors({"a": torch.ones(2)}), None, "safetensors"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_under_the_name_of_a_weight_file_is_called_what_it_is(
    kind: str, tmp_path: Path
) -> None:
    make, intact, words = STRANGERS[kind]
    verdict = check(tmp_path, make())
    assert verdict.intact is intact
    assert words in verdict.message
    assert verdict.damage == ()
    assert not verdict.message.startswith(FILE)  # the report names it already


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize(
    "make",
    [torchscript, lambda: saved(small(), _use_new_zipfile_serialization=False)],
    ids=["TorchScript", "an old torch file"],
)
def test_a_stranger_cut_at_any_length_is_never_called_intact(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    data = make()
    for length in range(0, len(data), 7):
        assert check(tmp_path, data[:length]).intact is not True


# --- safetensors ----------------------------------------------------------------------------------

SAFE = "model.safetensors"
SAFE_DATA = save_safetensors(
    {
        "model.layers.0.a": torch.ones(4),
        "model.layers.1.a": torch.ones(6),
        "norm": torch.ones(1, dtype=torch.int8),
    }
)
SAFE_BEGIN = 8 + int.from_bytes(SAFE_DATA[:8], "little")
# safetensors sorts by the width of the dtype, then by name.
SAFE_RANGES = {"model.layers.0.a": (0, 16), "model.layers.1.a": (16, 40), "norm": (40, 41)}


def test_a_whole_safetensors_file_is_in_order_as_far_as_it_can_tell(tmp_path: Path) -> None:
    verdict = check(tmp_path, SAFE_DATA, file=SAFE)
    assert verdict.intact is None
    assert "its 3 tensors cover the file byte for byte" in verdict.message
    assert "the format has no checksums" in verdict.message


def test_a_safetensors_file_cut_anywhere_says_which_tensors_that_cuts(tmp_path: Path) -> None:
    for length in range(SAFE_BEGIN, len(SAFE_DATA)):
        verdict = check(tmp_path, SAFE_DATA[:length], file=SAFE)
        left = length - SAFE_BEGIN
        assert verdict.intact is False
        assert places(verdict.damage) == [
            (name, (name,), min(length, SAFE_BEGIN + start), length,
             "cut" if start < left else "absent")
            for name, (start, end) in SAFE_RANGES.items()
            if left < end
        ]  # fmt: skip
        missing, total = len(SAFE_DATA) - length, len(SAFE_DATA)
        assert f"cut short: {missing:,} of {total:,} bytes are missing" in verdict.message


def test_a_safetensors_file_cut_in_its_header_is_damaged(tmp_path: Path) -> None:
    for length in range(SAFE_BEGIN):
        verdict = check(tmp_path, SAFE_DATA[:length], file=SAFE)
        assert verdict.intact is False
        assert verdict.damage == ()


@pytest.mark.parametrize("count", [1, 1000])
def test_a_safetensors_file_that_is_too_long_says_by_how_much(count: int, tmp_path: Path) -> None:
    verdict = check(tmp_path, SAFE_DATA + bytes(count), file=SAFE)
    assert verdict.intact is False
    assert verdict.message == f"{count:,} byte{'s' * (count != 1)} longer than its header says"


def test_the_layer_of_a_tensor_in_safetensors_is_told(tmp_path: Path) -> None:
    verdict = check(tmp_path, SAFE_DATA[: SAFE_BEGIN + 3], file=SAFE)
    assert [row.layer for row in verdict.damage] == [0, 1, None]


# --- anything at all ------------------------------------------------------------------------------

EDITS = st.lists(
    st.tuples(
        st.integers(0, len(GOOD)),
        st.integers(0, 200),
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"PK\x03\x04", b"PK\x07\x08", b"\xff" * 8, bytes(100)]),
        ),
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=EDITS, same_length=st.booleans(), block_nbytes=st.integers(50, 5000))
def test_whatever_was_done_to_a_file_there_is_a_verdict(
    edits: list[tuple[int, int, bytes]], same_length: bool, block_nbytes: int, tmp_path: Path
) -> None:
    data = GOOD
    for position, removed, added in edits:
        removed = len(added) if same_length else removed
        data = data[:position] + added + data[position + removed :]
    verdict = check(tmp_path, data, block_nbytes)
    assert verdict.message
    for row in verdict.damage:
        assert 0 <= row.start <= row.end <= len(data)
    if verdict.intact:
        assert len(data) == len(GOOD)
        assert all(data[p.start : p.end] == GOOD[p.start : p.end] for p in PARTS.values())


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=300),
    head=st.sampled_from([b"", b"PK\x03\x04", GOOD[:30], GOOD[:64], b"\x80\x02", b"{"]),
    file=st.sampled_from([FILE, SAFE]),
)
def test_random_bytes_are_never_intact_and_never_a_crash(
    content: bytes, head: bytes, file: str, tmp_path: Path
) -> None:
    assert check(tmp_path, head + content, file=file).intact is not True
