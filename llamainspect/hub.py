"""What the Hugging Face hub leaves behind that says which bytes a file should have.

Its downloads come without a list. In the hub's cache a file is a link to a blob that is named after
its digest; `hf download --local-dir` keeps the same digest (the "etag") in
`.cache/huggingface/download`. 64 hex digits are the SHA-256 of the file, 40 are git's SHA-1 of a
blob: of "blob", the length and the content. Source: huggingface_hub's `_local_folder.py` and
`file_download.py`.
"""

import os
import posixpath
import re

from llamainspect.checklists import Digest, Digests, join_digests
from llamainspect.errors import LlamaInspectError
from llamainspect.reports import DigestList, Finding
from llamainspect.sources import Folder

GIT_BLOB = "git-blob-sha1"
ALGORITHMS = {40: GIT_BLOB, 64: "sha256"}
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
METADATA = ".cache/huggingface/download"
RECORD, INCOMPLETE = ".metadata", ".incomplete"
BLOB = "the name of its blob in the hub cache"
LEVELS = 3  # how far above a subfolder of a download the metadata may lie


def read_hub_digests(folder: Folder, directories: list[str]) -> Digests:
    """From links into the hub's cache in `directories`, and from the metadata of a download."""
    return join_digests(_read_cache_links(folder, directories), _read_metadata(folder))


def _read_cache_links(folder: Folder, directories: list[str]) -> Digests:
    """Files of a snapshot in the hub's cache: links to `blobs/DIGEST`; or the blobs themselves."""
    path = os.path.abspath(folder.directory)
    digests, blob_folders = [], set()
    if os.path.basename(path) == "blobs":
        blob_folders.add("")
        digests = [
            _digest(name, name, BLOB) for name in _names(folder, "") if DIGEST.fullmatch(name)
        ]
    if os.path.basename(os.path.dirname(path)) == "snapshots":
        blob_folders.add("../../blobs")
        files = [posixpath.normpath(file) for file in folder.walk("")]
    else:
        files = [
            posixpath.join(below, name) for below in directories for name in _names(folder, below)
        ]
    for file in files:
        target = folder.link_target(file)
        blobs, digest = posixpath.split(target.replace(os.sep, "/")) if target else ("", "")
        if posixpath.basename(blobs) == "blobs" and DIGEST.fullmatch(digest):
            digests.append(_digest(file, digest, BLOB))
            blob_folders.add(posixpath.normpath(posixpath.join(posixpath.dirname(file), blobs)))
    unfinished = [
        f"{blobs}/{name}" for blobs in blob_folders for name in _names(folder, blobs)
        if name.endswith(INCOMPLETE)
    ]  # fmt: skip
    lists = (DigestList("names of the blobs in the hub cache", len(digests)),) if digests else ()
    return Digests(tuple(digests), lists, tuple(_describe_unfinished(folder, unfinished)))


def _read_metadata(folder: Folder) -> Digests:
    """Files that `hf download --local-dir` brought, in this directory or one above it."""
    digests: list[Digest] = []
    findings: list[Finding] = []
    unfinished: list[str] = []
    up, prefix = "", ""
    for _ in range(LEVELS):
        for path in folder.walk(f"{up}{METADATA}"):
            file = posixpath.relpath(path, f"{up}{METADATA}")
            if not file.startswith(prefix):
                continue
            file = file.removeprefix(prefix)
            if file.endswith(INCOMPLETE):
                unfinished.append(path)
            elif file.endswith(RECORD) and folder.only in (None, file.removesuffix(RECORD)):
                name = file.removesuffix(RECORD)
                etag = _read_etag(folder, path)
                if not folder.holds(posixpath.dirname(name)):
                    message = f"{name} lies where a link leads out of the directory; not opened"
                    findings.append(Finding("error", path, message))
                elif etag is None:
                    findings.append(Finding("note", path, f"it holds no digest of {name}"))
                else:
                    digests.append(_digest(name, etag, "the hub's metadata (etag)"))
        if digests or findings or unfinished:
            break
        level = os.path.basename(os.path.abspath(os.path.join(folder.directory, up or ".")))
        up, prefix = f"../{up}", f"{level}/{prefix}"
    lists = (DigestList(f"{up}{METADATA}", len(digests)),) if digests else ()
    findings += _describe_unfinished(folder, unfinished)
    return Digests(tuple(digests), lists, tuple(findings))


def _digest(file: str, digest: str, origin: str) -> Digest:
    return Digest(file, ALGORITHMS[len(digest)], digest, origin)


def _describe_unfinished(folder: Folder, files: list[str]) -> list[Finding]:
    """What was not downloaded to its end has no name yet, and no row: a finding stands for it."""
    findings = []
    for file in [] if folder.only else sorted(files):
        so_far = "" if folder.obstacle(file) else f" ({folder.nbytes(file):,} bytes so far)"
        message = f"an unfinished download{so_far}: a file of the model is not here yet; resume it"
        findings.append(Finding("error", file, message))
    return findings


def _read_etag(folder: Folder, path: str) -> str | None:
    """The second line of a metadata file, when it is a digest."""
    try:
        lines = folder.read(path, 0, min(folder.nbytes(path), 1024)).decode("ascii", "replace")
    except (LlamaInspectError, OSError):
        return None
    etag = [*lines.split("\n"), ""][1].strip().strip('"')
    return etag if DIGEST.fullmatch(etag) else None


def _names(folder: Folder, directory: str) -> list[str]:
    try:
        return folder.names(directory)
    except OSError:
        return []
