"""Where bytes come from: regular files only, and a short read is an error."""

import os
import sys
from pathlib import Path

import pytest

from llamainspect.errors import CorruptFile, MissingFile, NotACheckpoint
from llamainspect.sources import Folder, open_source

FILE = "consolidated.00.pth"

needs_fifo = pytest.mark.skipif(sys.platform == "win32", reason="there are no FIFOs on Windows")


def folder_with(directory: Path, data: bytes = b"0123456789") -> Folder:
    (directory / FILE).write_bytes(data)
    return Folder(str(directory))


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (0, 0), (3, 4), (9, 1), (10, 0), (0, 1), (5, 5)]
)
def test_exactly_the_bytes_asked_for_are_read(offset: int, length: int, tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    assert folder.read(FILE, offset, length) == b"0123456789"[offset : offset + length]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 11), (10, 1), (11, 0), (5, 6), (-1, 1), (-1, 20), (3, -1), (2**63, 1), (0, 2**63)],
)
def test_bytes_that_are_not_there_are_an_error_that_names_the_file(
    offset: int, length: int, tmp_path: Path
) -> None:
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: "):
        folder_with(tmp_path).read(FILE, offset, length)


def test_a_read_of_many_megabytes_is_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 2**16  # 16 MiB
    assert folder_with(tmp_path, data).read(FILE, 1, len(data) - 1) == data[1:]


def test_a_read_beyond_four_gibibytes_is_at_its_place(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.seek(2**32 + 5)
        file.write(b"end")  # behind a hole
    folder = Folder(str(tmp_path))
    assert folder.nbytes(FILE) == 2**32 + 8
    assert folder.read(FILE, 2**32 + 4, 4) == b"\0end"


def test_files_are_the_regular_ones_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "C"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert Folder(str(tmp_path)).files() == ("C", "a", "b", "link")


# --- what is no file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing", "folder", "dangling"])
def test_what_is_no_regular_file_is_missing_and_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    folder = Folder(str(tmp_path))
    with pytest.raises(MissingFile, match=name):
        folder.nbytes(name)
    with pytest.raises(MissingFile, match=name):
        folder.read(name, 0, 1)


@needs_fifo
def test_a_fifo_is_no_file_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    folder = Folder(str(tmp_path))
    assert folder.files() == ()
    with pytest.raises(MissingFile, match=FILE):
        folder.nbytes(FILE)
    with pytest.raises(MissingFile, match=FILE):
        folder.read(FILE, 0, 1)
    with pytest.raises(NotACheckpoint, match=r"not a regular file or directory"):
        open_source(str(tmp_path / FILE))


@needs_fifo
def test_a_file_that_becomes_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    assert folder.nbytes(FILE) == 10
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises((CorruptFile, MissingFile, OSError)):
        folder.read(FILE, 0, 10)
    assert folder.changed() == [FILE]


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="there is no /dev/zero")
def test_a_device_is_no_file() -> None:
    with pytest.raises(NotACheckpoint, match="/dev/zero"):
        open_source("/dev/zero")
    with pytest.raises(MissingFile):
        Folder("/dev").read("zero", 0, 1)


def test_a_path_that_does_not_exist_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match=r"nowhere: it does not exist; give"):
        open_source(str(tmp_path / "nowhere"))


def test_a_dangling_link_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotACheckpoint, match="link"):
        open_source(str(tmp_path / "link"))


# --- what a path means ---------------------------------------------------------------------------


def test_a_directory_is_a_source_of_all_its_files(tmp_path: Path) -> None:
    folder_with(tmp_path)
    source = open_source(str(tmp_path))
    assert (source.only, source.place, source.files()) == (None, str(tmp_path), (FILE,))


def test_one_file_is_a_source_that_knows_which_was_meant(tmp_path: Path) -> None:
    folder_with(tmp_path)
    source = open_source(str(tmp_path / FILE))
    assert (source.only, source.place) == (FILE, str(tmp_path / FILE))
    assert source.read(FILE, 0, 3) == b"012"


def test_a_bare_file_name_means_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = open_source(FILE)
    assert source.only == FILE
    assert source.read(FILE, 0, 3) == b"012"


# --- files that change ---------------------------------------------------------------------------


def test_a_file_that_shrinks_after_its_length_was_read_is_an_error(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    assert folder.nbytes(FILE) == 10
    (tmp_path / FILE).write_bytes(b"0123")
    with pytest.raises(CorruptFile, match=r"^consolidated\.00\.pth: it became shorter"):
        folder.read(FILE, 0, 10)
    assert folder.changed() == [FILE]


def test_a_file_that_did_not_change_is_not_called_changed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    folder.read(FILE, 0, 10)
    assert folder.changed() == []


def test_files_that_were_never_looked_at_do_not_count_as_changed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (tmp_path / FILE).write_bytes(b"else")
    assert folder.changed() == []


def test_a_file_that_grows_has_changed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    folder.nbytes(FILE)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"more")
    assert folder.changed() == [FILE]


def test_a_file_written_over_with_as_many_bytes_has_changed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    folder.nbytes(FILE)
    status = (tmp_path / FILE).stat()
    (tmp_path / FILE).write_bytes(b"9876543210")
    os.utime(tmp_path / FILE, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert folder.changed() == [FILE]


def test_a_file_replaced_by_another_of_the_same_length_and_time_has_changed(
    tmp_path: Path,
) -> None:
    folder = folder_with(tmp_path)
    folder.nbytes(FILE)
    status = (tmp_path / FILE).stat()
    (tmp_path / "other").write_bytes(b"9876543210")
    os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "other").replace(tmp_path / FILE)
    assert folder.changed() == [FILE]


def test_a_file_that_disappears_has_changed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    folder.nbytes(FILE)
    (tmp_path / FILE).unlink()
    assert folder.changed() == [FILE]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_no_file_stays_open_after_a_read_or_an_error(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        folder.read(FILE, 0, 10)
    (tmp_path / FILE).write_bytes(b"")
    for _ in range(5):
        with pytest.raises(CorruptFile):
            folder.read(FILE, 0, 10)
    assert len(os.listdir("/proc/self/fd")) == before
