"""Reading many files at once: each once, in bounded memory, gently, and stoppable at any time."""

import ctypes
import hashlib
import os
import pty
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
import torch

from llamainspect import examination, streams, verify_checksums
from llamainspect.examination import Examination, examine
from llamainspect.progress import finish
from llamainspect.sources import Folder
from llamainspect.streams import BLOCK_NBYTES, stream

MIB = 2**20


@pytest.fixture
def streamed(monkeypatch):
    """Bytes that are streamed from each file."""
    counts = Counter()

    def counting(folder, file, ahead=False):
        for block in stream(folder, file, ahead):
            counts[file] += len(block)
            yield block

    monkeypatch.setattr(examination, "stream", counting)
    return counts


def one(folder, file, algorithms, deep=False):
    looked = Examination(file, folder.nbytes(file), algorithms, deep)
    for _ in examine(folder, [looked]):
        pass
    return looked


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(
    "nbytes",
    [0, 1, BLOCK_NBYTES - 1, BLOCK_NBYTES, BLOCK_NBYTES + 1, 3 * MIB, 3 * MIB + 7],
)
def test_a_stream_is_the_whole_file(tmp_path, nbytes, ahead):
    data = os.urandom(nbytes)
    (tmp_path / "file").write_bytes(data)
    blocks = stream(Folder(str(tmp_path)), "file", ahead)
    assert b"".join(bytes(block) for block in blocks) == data


def test_several_digests_come_from_one_pass(tmp_path, streamed):
    data = os.urandom(3 * MIB + 5)
    (tmp_path / "file").write_bytes(data)
    folder = Folder(str(tmp_path))
    names = ["md5", "sha1", "sha256", "sha512", "git-blob-sha1"]
    looked = one(folder, "file", names)
    git = subprocess.run(
        ["git", "hash-object", "--no-filters", tmp_path / "file"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert looked.digests == {
        **{name: hashlib.new(name, data).hexdigest() for name in names[:-1]},
        "git-blob-sha1": git.stdout.strip(),
    }
    assert streamed == {"file": len(data)}
    assert looked.done == len(data)


def test_a_good_file_is_read_once_and_a_damaged_one_twice(tmp_path, streamed):
    torch.save({"a": torch.arange(300_000), "b": torch.ones(10)}, tmp_path / "x.pth")
    nbytes = (tmp_path / "x.pth").stat().st_size
    good = hashlib.md5((tmp_path / "x.pth").read_bytes()).hexdigest()
    for expected, passes in ((good, 1), ("0" * 32, 2)):
        folder = Folder(str(tmp_path))
        looked = Examination("x.pth", nbytes, ["md5"], search=True, expected={"md5": expected})
        finish(examine(folder, [looked]))
        read = streamed.pop("x.pth")
        # The second pass ends behind the last record: the directory has been read already.
        assert nbytes * (passes - 1) < read <= nbytes * passes
        assert (looked.verdict is not None) == (passes == 2)


def test_digest_and_deep_check_share_one_pass(tmp_path, streamed):
    torch.save({"a": torch.arange(300_000)}, tmp_path / "x.pth")
    folder = Folder(str(tmp_path))
    looked = one(folder, "x.pth", ["md5"], deep=True)
    assert looked.verdict.intact
    assert streamed["x.pth"] == folder.nbytes("x.pth")


def test_files_without_sums_inside_are_not_read_for_them(tmp_path, streamed):
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty(10 * MIB)}, tmp_path / "x.pth")
    folder = Folder(str(tmp_path))
    assert one(folder, "x.pth", [], deep=True).verdict.intact is None
    assert streamed == {}


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for mib in (4, 64):
        with open(tmp_path / "x.bin", "wb") as file:
            file.truncate(mib * MIB)
        digest = hashlib.md5(bytes(mib * MIB)).hexdigest()
        (tmp_path / "checklist.chk").write_text(f"{digest}  x.bin\n")
        tracemalloc.start()
        assert verify_checksums(str(tmp_path)).ok
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2 * MIB, peaks


def test_many_files_are_all_examined_and_every_one_reported(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * number)
    folder = Folder(str(tmp_path))
    examinations = [Examination(f"{n}", n, ["md5"], False) for n in range(40)]
    seen = [progress for progress in examine(folder, examinations) if progress]
    assert all(e.digests["md5"] for e in examinations)
    assert {file.nbytes for file in seen[-1]} <= set(range(40))


def test_one_file_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    folder = Folder(str(tmp_path))
    examinations = [Examination(name, 1, ["md5"], False) for name in "ab"]
    os.remove(tmp_path / "a")
    finish(examine(folder, examinations))
    assert "no such regular file" in examinations[0].problem
    assert examinations[1].digests["md5"] == hashlib.md5(b"b").hexdigest()


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, ahead, change):
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    blocks = stream(Folder(str(tmp_path)), "file", ahead)
    next(blocks)
    os.truncate(path, 4 * MIB + change)
    with pytest.raises(Exception, match="it changed while it was read"):
        list(blocks)


def test_a_bug_in_a_thread_is_raised_and_does_not_hang(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    looked = Examination("a", 1, ["no such hash"], False)
    with pytest.raises(ValueError, match="unsupported hash"):
        finish(examine(Folder(str(tmp_path)), [looked]))


def test_closing_stops_the_threads(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**36)  # 64 GiB of holes: far from done when it is stopped
    folder = Folder(str(tmp_path))
    looked = Examination("large", 2**36, ["md5"], False)
    progress = examine(folder, [looked])
    next(progress)
    next(progress)
    progress.close()
    assert 0 < looked.done < 2**36


# --- the page cache -------------------------------------------------------------------------------


def resident_pages(path):
    """How many pages of a file are in memory, as mincore(2) has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    nbytes = os.stat(path).st_size
    descriptor = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, nbytes, 1, 1, descriptor, 0)
    pages = (ctypes.c_ubyte * -(-nbytes // os.sysconf("SC_PAGE_SIZE")))()
    assert libc.mincore(address, nbytes, pages) == 0
    libc.munmap(address, nbytes)
    os.close(descriptor)
    return sum(page & 1 for page in pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells and obeys")
@pytest.mark.parametrize("ahead", [False, True])
def test_the_page_cache_is_left_as_it_was(tmp_path, ahead):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MIB) * 80)  # more than one window
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_pages(path):
        pytest.skip("this file system keeps its pages whatever it is told")
    folder = Folder(str(tmp_path))
    assert sum(map(len, stream(folder, "large", ahead))) == 80 * MIB
    assert resident_pages(path) < 16, "what was not cached is given back"
    path.read_bytes()
    cached = resident_pages(path)
    assert cached > 80 * MIB // os.sysconf("SC_PAGE_SIZE") * 0.9
    assert sum(map(len, stream(folder, "large", ahead))) == 80 * MIB
    # The system may take some back on its own account meanwhile.
    assert resident_pages(path) > cached * 0.9, "what was cached stays"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells and obeys")
def test_a_page_that_comes_by_being_asked_for_was_not_there_before(tmp_path, monkeypatch):
    """On a busy machine the fetch that a question starts can be done before the answer is given."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MIB) * 80)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_pages(path):
        pytest.skip("this file system keeps its pages whatever it is told")
    asked = []
    ask = streams._PageCache._page_is_cached
    monkeypatch.setattr(
        streams._PageCache,
        "_page_is_cached",
        lambda self, place: asked.append(place) or len(asked) == 1 or ask(self, place),
    )
    assert sum(map(len, stream(Folder(str(tmp_path)), "large", True))) == 80 * MIB
    assert resident_pages(path) < 16


# --- a person who waits ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--write", "--force"]])
def test_a_person_sees_bars_and_may_interrupt(tmp_path, arguments):
    """Bars on stderr when that is a terminal; Ctrl-C ends with 130 and leaves no list behind."""
    for rank in range(2):
        with open(tmp_path / f"consolidated.{rank:02d}.pth", "wb") as file:
            file.truncate(2**36)
    old = f"{'0' * 32}  consolidated.00.pth\n{'0' * 32}  consolidated.01.pth\n"
    (tmp_path / "checklist.chk").write_text(old)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llamainspect", "verify-checksums", tmp_path, *arguments],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(slave)
    seen = ""
    while "consolidated.01.pth" not in seen or "B/s" not in seen:
        seen += os.read(master, 65536).decode()
    process.send_signal(signal.SIGINT)
    try:
        while data := os.read(master, 65536):
            seen += data.decode()
    except OSError:  # the other end is closed
        pass
    output, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 130
    assert output == b""
    assert "Traceback" not in seen
    assert "64.00 GiB" in seen
    assert {path.name for path in tmp_path.iterdir()} == {
        "consolidated.00.pth", "consolidated.01.pth", "checklist.chk",
    }  # fmt: skip
    assert (tmp_path / "checklist.chk").read_text() == old
