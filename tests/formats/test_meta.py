"""Meta's layout: what the pickle says of a shard, held against what the zip has."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from llamainspect.errors import CorruptFile, MissingFile, UnsupportedFile
from llamainspect.formats import meta
from llamainspect.reports import Finding
from llamainspect.sources import Folder, open_source

FILE = "consolidated.00.pth"


def save(directory: Path, value: Any) -> Folder:
    torch.save(value, directory / FILE)
    return Folder(str(directory))


def rewrite(
    directory: Path, changes: dict[str, bytes | None], added: dict[str, bytes] | None = None
) -> Folder:
    """The same archive with records replaced, left out (None) or added; stored, CRCs right."""
    path = directory / FILE
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            short = name.partition("/")[2]
            data = changes.get(short, old.read(name))
            if data is not None:
                new.writestr(f"x/{short}", data)
        for short, data in (added or {}).items():
            new.writestr(f"x/{short}", data)
    return Folder(str(directory))


def errors(findings: list[Finding]) -> list[str]:
    assert all(finding.where == FILE for finding in findings)
    return [finding.message for finding in findings if finding.severity == "error"]


def names(folder: Folder) -> list[str]:
    return [info.name for info in meta.read_tensors(folder, FILE)[0]]


# --- storages ---------------------------------------------------------------------------------


def test_a_whole_shard_has_no_findings(tmp_path: Path) -> None:
    folder = save(tmp_path, {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)})
    tensors, findings = meta.read_tensors(folder, FILE)
    assert findings == []
    assert [(t.name, t.dtype.name, t.shape, t.file) for t in tensors] == [
        ("a", "F32", (5,), FILE),
        ("b", "BF16", (2, 3), FILE),
    ]


def test_a_storage_carries_the_checksum_and_the_place_of_its_bytes(tmp_path: Path) -> None:
    folder = save(tmp_path, {"a": torch.arange(5.0)})
    storage = meta.read_tensors(folder, FILE)[0][0].storage
    data = struct.pack("<5f", 0, 1, 2, 3, 4)
    assert folder.read(FILE, meta.locate(folder, storage), storage.nbytes) == data
    assert (storage.key, storage.nbytes, storage.crc32) == ("data/0", 20, zlib.crc32(data))


def test_a_storage_without_a_recorded_checksum_has_none(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        folder = save(tmp_path, {"a": torch.ones(5)})
    tensors, findings = meta.read_tensors(folder, FILE)
    assert (tensors[0].storage.crc32, findings) == (None, [])


def test_a_record_shorter_than_its_tensor_is_an_error_that_names_both(tmp_path: Path) -> None:
    save(tmp_path, {"norm.weight": torch.arange(5.0), "z": torch.ones(1)})
    folder = rewrite(tmp_path, {"data/0": bytes(16)})
    tensors, findings = meta.read_tensors(folder, FILE)
    (message,) = errors(findings)
    for part in ("norm.weight", "20", "16", "data/0"):
        assert part in message
    assert [info.name for info in tensors] == ["norm.weight", "z"]
    assert tensors[0].storage.nbytes == 16  # what can be read, not what was promised


def test_a_record_longer_than_its_storage_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, {"w": torch.arange(5.0)})
    (message,) = errors(meta.read_tensors(rewrite(tmp_path, {"data/0": bytes(24)}), FILE)[1])
    assert "24" in message


def test_a_pickle_that_asks_for_more_than_the_record_has_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, {"w": torch.arange(5.0)})
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        data = archive.read("consolidated.00/data.pkl")
    # numel and the only length: BININT1 5 becomes BININT1 6.
    assert data.count(b"K\x05") == 2
    folder = rewrite(tmp_path, {"data.pkl": data.replace(b"K\x05", b"K\x06")})
    (message,) = errors(meta.read_tensors(folder, FILE)[1])
    assert "24" in message
    assert "20" in message


def test_a_missing_record_is_an_error_and_the_other_tensors_list(tmp_path: Path) -> None:
    weight = torch.ones(3)
    save(tmp_path, {"a": weight, "b": torch.ones(2), "tied": weight})
    folder = rewrite(tmp_path, {"data/0": None})
    tensors, findings = meta.read_tensors(folder, FILE)
    (message,) = errors(findings)
    for part in ("a, tied", "data/0", "download"):
        assert part in message
    assert [info.name for info in tensors] == ["b"]


def test_a_shard_whose_records_are_all_missing_lists_nothing(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3), "b": torch.ones(2)})
    tensors, findings = meta.read_tensors(rewrite(tmp_path, {"data/0": None, "data/1": None}), FILE)
    assert tensors == []
    (message,) = errors(findings)
    assert "the bytes of a, b are not in the file (no record data/0, data/1)" in message


def test_a_slice_that_was_saved_with_its_whole_storage_is_a_warning(tmp_path: Path) -> None:
    folder = save(tmp_path, {"slice": torch.arange(100.0)[10:20], "own": torch.ones(3)})
    tensors, findings = meta.read_tensors(folder, FILE)
    assert tensors[0].storage.nbytes == 400
    (finding,) = findings
    assert finding.severity == "warning"
    assert "360 bytes" in finding.message  # 90 floats that no tensor uses
    assert "data/0" in finding.message
    assert "data/1" not in finding.message


def test_views_that_cover_a_storage_between_them_are_no_finding(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    folder = save(tmp_path, {"head": base[:60], "tail": base[50:]})
    assert meta.read_tensors(folder, FILE)[1] == []


def test_views_with_a_gap_between_them_waste_the_gap(tmp_path: Path) -> None:
    base = torch.arange(100.0)
    folder = save(tmp_path, {"head": base[:10], "again": base[:10], "tail": base[70:]})
    (finding,) = meta.read_tensors(folder, FILE)[1]
    assert "240 bytes" in finding.message


def test_a_storage_that_no_name_leads_to_is_not_called_a_slice(tmp_path: Path) -> None:
    weight = torch.ones(3)
    weight.companion = torch.zeros(7)  # its storage belongs to no name
    _, findings = meta.read_tensors(save(tmp_path, {"w": weight}), FILE)
    assert not any("slice" in finding.message for finding in findings)


def test_records_that_no_tensor_names_are_a_warning_with_their_bytes(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    folder = rewrite(tmp_path, {}, {"data/7": bytes(1000), "data/8": bytes(234)})
    tensors, findings = meta.read_tensors(folder, FILE)
    assert [info.name for info in tensors] == ["a"]
    (finding,) = findings
    assert finding.severity == "warning"
    assert "2 storages" in finding.message
    assert "1,234 bytes" in finding.message


def test_records_that_no_tensor_names_are_counted_beside_missing_ones(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    folder = rewrite(tmp_path, {"data/0": None}, {"data/7": bytes(1000)})
    findings = meta.read_tensors(folder, FILE)[1]
    assert len(errors(findings)) == 1
    assert any("1,000 bytes" in finding.message for finding in findings)


GUARDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
from llamainspect.formats import meta
from llamainspect.sources import Folder
print(len(meta.read_tensors(Folder(sys.argv[1]), sys.argv[2])[0]))
"""  # a bound that holds the machine up, far from any measured value


@pytest.mark.skipif(sys.platform == "win32", reason="limits on time are POSIX's")
def test_a_shard_with_very_many_missing_records_ends_within_seconds(tmp_path: Path) -> None:
    save(tmp_path, {str(n): torch.empty(1) for n in range(20_000)})
    rewrite(tmp_path, {f"data/{n}": None for n in range(20_000)})
    child = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path), FILE], capture_output=True, check=False
    )
    assert (child.returncode, child.stdout.strip()) == (0, b"0"), child.stderr.decode()[-300:]


# --- the other records -------------------------------------------------------------------------


def test_a_pickle_that_differs_from_its_checksum_is_an_error_and_still_lists(
    tmp_path: Path,
) -> None:
    save(tmp_path, {"weight": torch.arange(5.0)})
    path = tmp_path / FILE
    # The name inside the pickle, one bit else; the directory keeps the old CRC.
    path.write_bytes(path.read_bytes().replace(b"weight", b"weighu", 1))
    tensors, findings = meta.read_tensors(Folder(str(tmp_path)), FILE)
    assert [info.name for info in tensors] == ["weighu"]
    (message,) = errors(findings)
    assert "CRC" in message
    assert "data.pkl" in message


def test_a_pickle_that_differs_from_its_checksum_and_makes_no_sense_names_the_file(
    tmp_path: Path,
) -> None:
    save(tmp_path, {"weight": torch.arange(5.0)})
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b"\x80\x02}", b"\x80\x02\xff", 1))
    with pytest.raises((CorruptFile, UnsupportedFile), match=r"^consolidated\.00\.pth, data\.pkl"):
        meta.read_tensors(Folder(str(tmp_path)), FILE)


@pytest.mark.parametrize(
    "order", [b"", b"middle", b"big\n", b"big             ", b"little, or is it big?"]
)
def test_a_byte_order_that_torch_does_not_know_is_not_read(order: bytes, tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    folder = rewrite(tmp_path, {"byteorder": order})
    with pytest.raises(ValueError, match="endian"):
        torch.load(tmp_path / FILE)
    with pytest.raises((UnsupportedFile, CorruptFile), match=r"^consolidated\.00\.pth: "):
        meta.read_tensors(folder, FILE)


def test_a_big_endian_shard_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    with pytest.raises(UnsupportedFile, match=r"^consolidated\.00\.pth: .*big-endian.*re-save"):
        meta.read_tensors(rewrite(tmp_path, {"byteorder": b"big"}), FILE)


def test_only_the_pickle_and_the_data_are_needed_as_torch_1_12_wrote_them(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    optional = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
    folder = rewrite(tmp_path, dict.fromkeys(optional))
    assert names(folder) == list(torch.load(tmp_path / FILE))


def test_a_zip_without_a_pickle_is_corrupt(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: .*data\.pkl"):
        meta.read_tensors(rewrite(tmp_path, {"data.pkl": None}), FILE)


def test_the_sentence_about_a_bad_pickle_names_the_file(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth, data\.pkl: byte 0: "):
        meta.read_tensors(rewrite(tmp_path, {"data.pkl": b""}), FILE)


# --- files ------------------------------------------------------------------------------------


def touch(directory: Path, *files: str) -> None:
    for file in files:
        (directory / file).touch()


def test_weight_files_come_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    ranks = [f"consolidated.{rank:02d}.pth" for rank in range(12)]
    touch(tmp_path, *reversed(ranks))
    assert meta.weight_files(Folder(str(tmp_path))) == ranks


def test_ranks_are_numbers_and_not_text(tmp_path: Path) -> None:
    touch(tmp_path, "consolidated.10.pth", "consolidated.9.pth", "consolidated.100.pth")
    assert meta.weight_files(Folder(str(tmp_path))) == [
        "consolidated.9.pth",
        "consolidated.10.pth",
        "consolidated.100.pth",
    ]


def test_other_files_are_no_weight_files(tmp_path: Path) -> None:
    others = (
        "params.json",
        "tokenizer.model",
        "consolidated.00.pth.part",
        "consolidated.00.safetensors",
        "old-consolidated.00.pth",
        "consolidated.xx.pth",
        "consolidated.-1.pth",
        "model.pth",
    )
    touch(tmp_path, *others)
    (tmp_path / "consolidated.01.pth").mkdir()
    assert meta.weight_files(Folder(str(tmp_path))) == []


def test_a_single_file_without_a_rank_is_a_weight_file(tmp_path: Path) -> None:
    touch(tmp_path, "consolidated.pth", "params.json")
    assert meta.weight_files(Folder(str(tmp_path))) == ["consolidated.pth"]


def test_the_one_file_that_was_named_is_the_only_one_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "consolidated.00.pth", "mine.bin")
    assert meta.weight_files(open_source(str(tmp_path / "mine.bin"))) == ["mine.bin"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"consolidated\.00\.pth"):
        meta.read_tensors(Folder(str(tmp_path)), FILE)


def test_the_configuration_comes_from_params_json(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"dim": 64, "n_layers": 2, "n_heads": 4}')
    assert meta.read_config(Folder(str(tmp_path))).head_dim == 16
    with pytest.raises(MissingFile, match=r"params\.json"):
        meta.read_config(Folder(str(tmp_path / "elsewhere")))
