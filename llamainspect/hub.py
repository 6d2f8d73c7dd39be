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
LEVELS = 3  # how far above a subfolder of a download the metadata may lie


def read_hub_digests(folder: Folder, directories: list[str]) -> Digests:
    """From links into the hub's cache in `directories`, and from the metadata of a download."""
    return join_digests(_read_cache_links(folder, directories), _read_metadata(folder))


def _read_cache_links(folder: Folder, directories: list[str]) -> Digests:
    """Files of a snapshot in the hub's cache: links to `blobs/DIGEST`."""
    digests = []
    for directory in directories:
        for name in folder.names(directory):
            file = posixpath.join(directory, name)
            target = folder.link_target(file)
            blobs, digest = posixpath.split(target.replace(os.sep, "/")) if target else ("", "")
            if posixpath.basename(blobs) == "blobs" and DIGEST.fullmatch(digest):
                origin = "hub cache, name of the blob"
                digests.append(Digest(file, ALGORITHMS[len(digest)], digest, origin))
    lists = (DigestList("names of the blobs in the hub cache", len(digests)),) if digests else ()
    return Digests(tuple(digests), lists, ())


def _read_metadata(folder: Folder) -> Digests:
    """Files that `hf download --local-dir` brought, in this directory or one above it."""
    digests: list[Digest] = []
    findings: list[Finding] = []
    up, prefix = "", ""
    for _ in range(LEVELS):
        for path in folder.walk(f"{up}{METADATA}"):
            file = posixpath.relpath(path, f"{up}{METADATA}")
            if not file.startswith(prefix):
                continue
            if path.endswith(".incomplete"):
                message = f"an unfinished download of {folder.nbytes(path):,} bytes; resume it"
                findings.append(Finding("warning", path, message))
            elif file.endswith(".metadata"):
                digest = _read_etag(folder, path)
                name = file.removeprefix(prefix).removesuffix(".metadata")
                if digest and (folder.only in (None, name)):
                    algorithm = ALGORITHMS[len(digest)]
                    digests.append(Digest(name, algorithm, digest, "hub download, etag"))
        if digests or findings:
            break
        level = os.path.basename(os.path.abspath(os.path.join(folder.directory, up or ".")))
        up, prefix = f"../{up}", f"{level}/{prefix}"
    lists = (DigestList(f"{up}{METADATA}", len(digests)),) if digests else ()
    return Digests(tuple(digests), lists, tuple(findings))


def _read_etag(folder: Folder, path: str) -> str | None:
    """The second line of a metadata file, when it is a digest."""
    try:
        lines = folder.read(path, 0, min(folder.nbytes(path), 1024)).decode("ascii", "replace")
    except (LlamaInspectError, OSError):
        return None
    etag = [*lines.split("\n"), ""][1].strip().strip('"')
    return etag if DIGEST.fullmatch(etag) else None
