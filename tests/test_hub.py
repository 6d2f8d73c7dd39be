"""Digests that the hub leaves behind, in the places where huggingface_hub itself puts them."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamainspect.checklists import Digests
from llamainspect.checksums import verify_checksums
from llamainspect.hub import GIT_BLOB, METADATA, read_hub_digests
from llamainspect.sources import Folder, open_source

COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"
SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180
SHA1 = "a9993e364706816aba3e25717850c26c9cd0d89d"  # of "abc", FIPS 180
GIT_EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's id of the empty blob

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")


def rows(found: Digests) -> list[tuple[str, str, str]]:
    return sorted((digest.file, digest.algorithm, digest.digest) for digest in found.digests)


def read(path: Path, *directories: str, only: str | None = None) -> Digests:
    return read_hub_digests(Folder(str(path), only=only), ["", *directories])


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in the hub's cache: large files under their SHA-256, small under git's id."""
    model = tmp_path / "models--meta-llama--Llama-3.2-1B"
    (model / "blobs").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT / "original").mkdir(parents=True)
    return model / "snapshots" / COMMIT


def link(snapshot: Path, file: str, digest: str, data: bytes | None = b"") -> None:
    """`file` as a link into blobs/, which stays dangling without data."""
    blob = snapshot.parent.parent / "blobs" / digest
    if data is not None:
        blob.write_bytes(data)
    (snapshot / file).symlink_to(os.path.relpath(blob, (snapshot / file).parent))


@needs_links
def test_links_into_the_cache_carry_digests(snapshot: Path) -> None:
    link(snapshot, "config.json", SHA1)
    link(snapshot, "model.safetensors", SHA256)
    link(snapshot, "original/consolidated.00.pth", SHA256)
    found = read(snapshot, "original")
    assert rows(found) == [
        ("config.json", GIT_BLOB, SHA1),
        ("model.safetensors", "sha256", SHA256),
        ("original/consolidated.00.pth", "sha256", SHA256),
    ]
    assert [entry.digests for entry in found.lists] == [3]
    assert found.findings == ()


@needs_links
def test_the_links_are_those_that_huggingface_hub_makes(snapshot: Path) -> None:
    downloads: Any = pytest.importorskip("huggingface_hub.file_download")
    for file in ("model.safetensors", "original/consolidated.00.pth"):
        blob = snapshot.parent.parent / "blobs" / SHA256
        blob.write_bytes(b"abc")
        downloads._create_symlink(str(blob), str(snapshot / file), new_blob=False)
    assert rows(read(snapshot, "original")) == [
        ("model.safetensors", "sha256", SHA256),
        ("original/consolidated.00.pth", "sha256", SHA256),
    ]


@needs_links
def test_a_folder_below_the_snapshot_may_be_named_itself(snapshot: Path) -> None:
    link(snapshot, "original/consolidated.00.pth", SHA256)
    assert rows(read(snapshot / "original")) == [("consolidated.00.pth", "sha256", SHA256)]


@needs_links
def test_the_snapshot_of_a_model_s_folder_is_found(snapshot: Path) -> None:
    link(snapshot, "model.safetensors", SHA256)
    found = read_hub_digests(open_source(str(snapshot.parent.parent)), [""])
    assert rows(found) == [("model.safetensors", "sha256", SHA256)]


@needs_links
def test_a_link_whose_blob_is_gone_still_says_what_the_file_should_be(snapshot: Path) -> None:
    link(snapshot, "model.safetensors", SHA256, data=None)
    assert rows(read(snapshot)) == [("model.safetensors", "sha256", SHA256)]


@needs_links
@pytest.mark.parametrize(
    "target",
    [
        f"../../blobs/{SHA256[:-1]}",
        f"../../blobs/{SHA256}0",
        f"../../blobs/{SHA256.upper()}",
        f"../../blobs/{SHA256}.incomplete",
        f"../../blobs/{'g' * 64}",
        f"../../blobs/{'0' * 32}",
        f"../../blobs/{'٣' * 64}",
        f"../../blobs/{SHA256}\n",
        f"../../elsewhere/{SHA256}",
        SHA256,
        "model.safetensors",
        "../../blobs",
        "/",
    ],
)
def test_a_link_that_ends_in_no_digest_says_nothing(target: str, snapshot: Path) -> None:
    (snapshot / "model.safetensors").symlink_to(target)
    assert read(snapshot) == Digests((), (), ())


def test_plain_files_say_nothing(tmp_path: Path) -> None:
    (tmp_path / SHA256).write_bytes(b"abc")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / SHA256).write_bytes(b"abc")
    assert read(tmp_path, "blobs") == Digests((), (), ())


def test_a_directory_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere", "original") == Digests((), (), ())


# --- the metadata of a download -------------------------------------------------------------------

FILES = {
    "config.json": SHA1,
    "model.safetensors": SHA256,
    "original/consolidated.00.pth": SHA256,
    "original/params.json": GIT_EMPTY,
    "original/mp8/consolidated.00.pth": SHA256,
}


def local_folder() -> Any:
    return pytest.importorskip("huggingface_hub._local_folder")


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """What `hf download --local-dir` leaves, written by huggingface_hub itself."""
    for file, etag in FILES.items():
        local_folder().write_download_metadata(tmp_path, file, COMMIT, etag)
        (tmp_path / file).write_bytes(b"abc")
    return tmp_path


def write_metadata(directory: Path, file: str, content: bytes) -> None:
    path = directory / METADATA / f"{file}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_the_metadata_that_huggingface_hub_writes_is_read(download: Path) -> None:
    found = read(download, "original")
    assert rows(found) == sorted(
        (file, "sha256" if len(etag) == 64 else GIT_BLOB, etag) for file, etag in FILES.items()
    )
    assert [(entry.name, entry.digests) for entry in found.lists] == [(METADATA, len(FILES))]
    assert found.findings == ()


def test_the_metadata_is_what_huggingface_hub_reads_there_itself(download: Path) -> None:
    for file, _, value in rows(read(download)):
        metadata = local_folder().read_download_metadata(download, file)
        assert metadata.etag == value


def test_below_a_download_its_metadata_is_found_above(download: Path) -> None:
    found = read(download / "original")
    assert rows(found) == [
        ("consolidated.00.pth", "sha256", SHA256),
        ("mp8/consolidated.00.pth", "sha256", SHA256),
        ("params.json", GIT_BLOB, GIT_EMPTY),
    ]
    assert [(entry.name, entry.digests) for entry in found.lists] == [(f"../{METADATA}", 3)]
    assert rows(read(download / "original" / "mp8")) == [("consolidated.00.pth", "sha256", SHA256)]


def test_metadata_is_found_from_a_relative_path(
    download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(download / "original")
    expected = rows(read(download / "original"))
    assert rows(read_hub_digests(Folder("."), [""])) == expected
    monkeypatch.chdir(download)
    assert rows(read_hub_digests(Folder("original"), [""])) == expected
    assert rows(read_hub_digests(Folder("original/"), [""])) == expected


def test_metadata_above_says_nothing_of_a_directory_that_it_does_not_name(download: Path) -> None:
    (download / "origin").mkdir()
    (download / "finetuned").mkdir()
    assert read(download / "origin") == Digests((), (), ())
    assert read(download / "finetuned") == Digests((), (), ())


def test_for_one_file_only_its_own_metadata_counts(download: Path) -> None:
    assert rows(read(download, only="config.json")) == [("config.json", GIT_BLOB, SHA1)]
    assert rows(read(download / "original", only="params.json")) == [
        ("params.json", GIT_BLOB, GIT_EMPTY)
    ]
    assert read(download, only="other.json") == Digests((), (), ())


def test_an_unfinished_download_is_a_finding_with_the_bytes_that_are_there(tmp_path: Path) -> None:
    paths = local_folder().get_local_download_paths(tmp_path, "model.safetensors")
    paths.incomplete_path(SHA256).write_bytes(bytes(1234))
    found = read(tmp_path)
    assert found.digests == ()
    (finding,) = found.findings
    assert finding.severity == "error"
    assert finding.where.startswith(f"{METADATA}/")
    assert "unfinished download (1,234 bytes so far)" in finding.message


@needs_links
def test_an_unfinished_download_that_vanishes_is_no_crash(tmp_path: Path) -> None:
    # A download that ends while we look renames it; to us the same as a link that leads nowhere.
    (tmp_path / METADATA).mkdir(parents=True)
    (tmp_path / METADATA / f"x.{SHA256}.incomplete").symlink_to("nowhere")
    assert read(tmp_path).digests == ()


GOOD = f"{COMMIT}\n{SHA256}\n1712656091.123\n".encode()
ETAGS = {
    "as it is written": (GOOD, SHA256),
    "without a time": (f"{COMMIT}\n{SHA256}".encode(), SHA256),
    "with the line ends of Windows": (GOOD.replace(b"\n", b"\r\n"), SHA256),
    "in quotes, as HTTP has it": (f'{COMMIT}\n"{SHA1}"\n1\n'.encode(), SHA1),
    "with more behind it": (GOOD + bytes(5000), SHA256),
}
NO_ETAGS = {
    "an empty file": b"",
    "the commit alone": COMMIT.encode(),
    "the commit and a line end": f"{COMMIT}\n".encode(),
    "the digest in the first line": f"{SHA256}\n".encode(),
    "the digest in the third line": f"{COMMIT}\n\n{SHA256}\n".encode(),
    "an MD5 as S3 gives it": f"{COMMIT}\n{'0' * 32}\n1\n".encode(),
    "an etag of several parts as S3 gives it": f"{COMMIT}\n{'0' * 32}-12\n1\n".encode(),
    "an Xet hash and more": f"{COMMIT}\n{SHA256}-xet\n1\n".encode(),
    "upper case": f"{COMMIT}\n{SHA256.upper()}\n1\n".encode(),
    "63 digits": f"{COMMIT}\n{SHA256[:-1]}\n1\n".encode(),
    "65 digits": f"{COMMIT}\n{SHA256}0\n1\n".encode(),
    "41 digits": f"{COMMIT}\n{SHA1}0\n1\n".encode(),
    "two digests": f"{COMMIT}\n{SHA1} {SHA1}\n1\n".encode(),
    "a weak etag": f'{COMMIT}\nW/"{SHA1}"\n1\n'.encode(),
    "None": f"{COMMIT}\nNone\n1\n".encode(),
    "binary": bytes(range(256)),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "JSON": b'{"etag": "x"}',
    "a very long first line": b"0" * 10_000 + b"\n" + SHA256.encode(),
}


@pytest.mark.parametrize("kind", ETAGS)
def test_an_etag_that_is_a_digest_counts(kind: str, tmp_path: Path) -> None:
    content, etag = ETAGS[kind]
    write_metadata(tmp_path, "a/b.json", content)
    assert [(row.file, row.digest) for row in read(tmp_path).digests] == [("a/b.json", etag)]


@pytest.mark.parametrize("kind", NO_ETAGS)
def test_an_etag_that_is_no_digest_is_a_note_and_no_more(kind: str, tmp_path: Path) -> None:
    write_metadata(tmp_path, "model.safetensors", NO_ETAGS[kind])
    found = read(tmp_path)
    assert (found.digests, found.lists) == ((), ())
    assert [(f.severity, f.message) for f in found.findings] == [
        ("note", "it holds no digest of model.safetensors")
    ]


def test_what_else_lies_there_is_passed_over(tmp_path: Path) -> None:
    write_metadata(tmp_path, "good", GOOD)
    there = tmp_path / METADATA
    (there / "model.lock").write_bytes(b"")
    (there / "notes.txt").write_bytes(GOOD)
    (there / "folder.metadata").mkdir()
    if sys.platform != "win32":
        os.mkfifo(there / "fifo.metadata")
        os.symlink("nowhere", there / "dangling.metadata")
    assert [row.file for row in read(tmp_path).digests] == ["good"]


def test_a_file_in_place_of_the_metadata_directory_says_nothing(tmp_path: Path) -> None:
    (tmp_path / METADATA).parent.mkdir(parents=True)
    (tmp_path / METADATA).write_bytes(GOOD)
    assert read(tmp_path) == Digests((), (), ())


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.one_of(st.binary(max_size=200), st.binary(max_size=90).map(lambda b: GOOD + b)))
def test_whatever_stands_in_metadata_nothing_is_raised(content: bytes, tmp_path: Path) -> None:
    write_metadata(tmp_path, "model.safetensors", content)
    found = read(tmp_path)
    assert all(len(row.digest) in (40, 64) and row.digest.isascii() for row in found.digests)


# --- git's digest ---------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"a\r\nb\r\n", bytes(range(256)) * 1000, b"x" * 2**20 + b"y"],
    ids=["no bytes", "three bytes", "CRLF", "256 kB", "beyond a MiB"],
)
def test_git_s_digest_is_that_of_git_hash_object(content: bytes, tmp_path: Path) -> None:
    command = ["git", "hash-object", "--no-filters", "--stdin"]
    run = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60)
    etag = run.stdout.decode().strip()
    (tmp_path / "tokenizer.txt").write_bytes(content)
    write_metadata(tmp_path, "tokenizer.txt", f"{COMMIT}\n{etag}\n1\n".encode())
    (row,) = verify_checksums(str(tmp_path)).files
    assert (row.file, row.algorithm, row.status) == ("tokenizer.txt", GIT_BLOB, "ok")
    assert row.expected == row.actual == etag


def test_a_byte_that_differs_is_told_by_both_kinds_of_digest(tmp_path: Path) -> None:
    data = b"content of a file"
    git = hashlib.sha1(b"blob 17\0" + data).hexdigest()
    for name, etag in (("a.txt", git), ("b.txt", hashlib.sha256(data).hexdigest())):
        write_metadata(tmp_path, name, f"{COMMIT}\n{etag}\n1\n".encode())
        (tmp_path / name).write_bytes(data)
    assert [row.status for row in verify_checksums(str(tmp_path)).files] == ["ok", "ok"]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(data.replace(b"f", b"g", 1))
    assert [row.status for row in verify_checksums(str(tmp_path)).files] == ["mismatch"] * 2
