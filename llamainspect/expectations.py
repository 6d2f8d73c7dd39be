"""What is to be verified at a path: its files, the digest each should have, and what must be read.

Nothing is judged here. Witnesses, in this order: lists of checksums and digests of the hub; digests
of official files that are publicly known; and what a weight file records of itself.
"""

import posixpath
import re
from typing import NamedTuple

from llamainspect.catalog import published_sizes
from llamainspect.checklists import (
    CHECKLIST,
    Digest,
    Digests,
    contradictions,
    is_list,
    join_digests,
    read_lists,
)
from llamainspect.checkpoint import open_checkpoint
from llamainspect.errors import LlamaInspectError, MissingFile
from llamainspect.examination import Examination
from llamainspect.formats import meta
from llamainspect.formats.model_parallel import WEIGHT_FILE
from llamainspect.formats.signatures import HEAD_NBYTES, describe_stand_in
from llamainspect.formats.strict_json import read_json_object
from llamainspect.hub import read_hub_digests
from llamainspect.names import counted
from llamainspect.published import PUBLISHED, PublishedDigest
from llamainspect.reports import Finding
from llamainspect.sources import Folder

WEIGHTS = re.compile(
    r".+\.(pth|pt|safetensors|gguf)|(.+/)?(pytorch|adapter)_model.*\.bin", re.IGNORECASE
)
INDEX = re.compile(r".+\.index\.json")
MODEL_FILES = re.compile(r".+\.(json|model)")


class Plan(NamedTuple):
    """What will be read and why."""

    known: Digests
    obstacles: dict[str, str]  # files that cannot be read, and the reason
    expected: dict[str, list[Digest]]  # by file; empty where nothing says
    disputed: dict[str, str]  # files of which two lists say different things
    closed: dict[str, str]  # directories that cannot be listed, and the reason
    published: dict[str, list[PublishedDigest]]  # candidates for files without a digest
    absent: dict[str, str]  # shards that must exist and do not, and who says so
    set_findings: tuple[Finding, ...]  # of shards that no list vouches for, as a set
    examinations: dict[str, Examination]
    write: bool


def make_plan(folder: Folder, deep: bool, write: bool) -> Plan:
    """Find the files, collect their digests, and set up what each has to be read for."""
    directories, closed = _directories(folder)
    known = join_digests(
        read_lists(folder, directories, without=CHECKLIST if write else None),
        read_hub_digests(folder, directories),
    )
    one_list = folder.only is not None and is_list(folder.only)
    listed = [d for d in known.digests if one_list or folder.only in (None, d.file)]
    present = _present(folder, directories)
    if folder.only:
        present = [] if one_list else [folder.only]
    disputes = {
        (one.file, one.algorithm): f"{one.origin}, and {other.origin}, give different digests"
        for one, other in contradictions(tuple(listed))
    }
    expected: dict[str, list[Digest]] = {file: [] for file in present}
    for digest in listed:
        row = expected.setdefault(digest.file, [])
        disputed = (digest.file, digest.algorithm) in disputes
        if not disputed and digest.algorithm not in [d.algorithm for d in row]:
            row.append(digest)
    obstacles = {file: reason for file in expected if (reason := folder.obstacle(file))}
    published = _candidates(folder, expected, obstacles)
    absent, set_findings = _look_at_sets(folder, directories, expected)
    return Plan(
        known=known,
        obstacles=obstacles,
        expected=expected,
        disputed={file: message for (file, _), message in disputes.items()},
        closed=closed,
        published=published,
        absent=absent,
        set_findings=tuple(set_findings),
        examinations={
            file: _set_up(folder, file, digests, published.get(file, []), deep, write)
            for file, digests in expected.items()
            if file not in obstacles
        },
        write=write,
    )


def sizes_of_architecture(folder: Folder, file: str) -> dict[int | None, list[str]]:
    """Official models of this architecture by the published size of a shard (None: not known)."""
    try:
        directory = posixpath.dirname(file)
        there = Folder(posixpath.join(folder.directory, directory)) if directory else folder
        return published_sizes(meta.read_config(there), folder.nbytes(file))
    except (LlamaInspectError, OSError):
        return {}


def stand_in(folder: Folder, file: str) -> str | None:
    """A web page, a pointer or nothing in place of the file; None too when it cannot be read."""
    try:
        nbytes = folder.nbytes(file)
        return describe_stand_in(folder.read(file, 0, min(nbytes, HEAD_NBYTES)), nbytes)
    except (LlamaInspectError, OSError):
        return None


def _set_up(
    folder: Folder,
    file: str,
    digests: list[Digest],
    candidates: list[PublishedDigest],
    deep: bool,
    write: bool,
) -> Examination:
    """What has to be computed of one file. Weights without a digest must speak for themselves."""
    algorithms = {d.algorithm for d in digests} | {row.algorithm for row in candidates}
    algorithms |= {"md5"} if write else set()
    is_weights = WEIGHTS.fullmatch(file) is not None
    try:
        size = folder.nbytes(file)
    except MissingFile:  # it was here a moment ago; reading it will tell
        size = None
    return Examination(
        file,
        size,
        sorted(algorithms),
        deep=is_weights and (deep or write or not digests),
        search=is_weights,
        expected={digest.algorithm: digest.digest for digest in digests},
    )


def _directories(folder: Folder) -> tuple[list[str], dict[str, str]]:
    """The directory itself and those right below it that hold weights or a list; and those that
    cannot be listed, with the reason."""
    found, closed = [""], {}
    for name in [] if folder.only else folder.folders():
        if name.startswith("."):
            continue
        try:
            inside = folder.names(name)
        except OSError as error:
            closed[name] = f"it cannot be listed: {error.strerror or error}"
            continue
        if any(is_list(f) or WEIGHTS.fullmatch(f) for f in inside):
            found.append(name)
    return found, closed


def _present(folder: Folder, directories: list[str]) -> list[str]:
    """Files to give a row even when nothing lists them: no hidden ones, no lists.

    Of the directories below, only what belongs to a model.
    """
    files = [
        posixpath.join(directory, name)
        for directory in directories
        for name in folder.names(directory)
        if not name.startswith(".")
        and not is_list(name)
        and (not directory or WEIGHTS.fullmatch(name) or MODEL_FILES.fullmatch(name))
    ]
    return files + [name for name in folder.folders() if WEIGHTS.fullmatch(name)]


def _candidates(
    folder: Folder, expected: dict[str, list[Digest]], obstacles: dict[str, str]
) -> dict[str, list[PublishedDigest]]:
    """Publicly known digests that a file without one may have; large files only where it may be."""
    found = {}
    for file, digests in expected.items():
        rows = [row for row in PUBLISHED if row.file == posixpath.basename(file)]
        if digests or file in obstacles or not rows or stand_in(folder, file):
            continue
        if WEIGHTS.fullmatch(file):
            sizes = sizes_of_architecture(folder, file)
            models = sizes.get(folder.nbytes(file)) or sizes.get(None, [])
            rows = [row for row in rows if row.model in models]
        if rows:
            found[file] = rows
    return found


def _look_at_sets(
    folder: Folder, directories: list[str], expected: dict[str, list[Digest]]
) -> tuple[dict[str, str], list[Finding]]:
    """Shards that are neither here nor in a list, though the others show that they exist.

    And what is wrong with shards together, such as two that changed places, where no list tells.
    """
    absent: dict[str, str] = {}
    findings: list[Finding] = []
    for directory in [] if folder.only else directories:
        inside = {file for file in expected if posixpath.dirname(file) == directory}
        for file, reason in _named_by_index(folder, inside):
            absent[posixpath.join(directory, file)] = reason
        there = set(folder.names(directory))
        shards = {posixpath.join(directory, n) for n in there if WEIGHT_FILE.fullmatch(n)}
        if "consolidated.pth" in there or not shards:
            continue
        try:
            checkpoint = open_checkpoint(posixpath.join(folder.directory, directory))
        except (LlamaInspectError, OSError):
            continue
        # However many digits a number is written with: 3.pth and 03.pth are of the same rank.
        ranks = {int(found[1]) for n in there if (found := WEIGHT_FILE.fullmatch(n)) and found[1]}
        for rank in range(checkpoint.shards):
            if rank in ranks:
                continue
            name = f"consolidated.{rank:02d}.pth"
            reason = f"the weights are cut into {counted(checkpoint.shards, 'shard')}"
            absent[posixpath.join(directory, name)] = reason
        for finding in checkpoint.problems:
            file = posixpath.join(directory, finding.where)
            if file in shards and not expected[file]:
                findings.append(finding._replace(where=file))
    return {file: reason for file, reason in absent.items() if file not in expected}, findings


def _named_by_index(folder: Folder, files: set[str]) -> list[tuple[str, str]]:
    """(file, who says so) of what model.safetensors.index.json and its like name."""
    found = []
    for file in files:
        if INDEX.fullmatch(file):
            try:
                table = read_json_object(folder, file).get("weight_map")
            except (LlamaInspectError, OSError):
                continue
            values = table.values() if isinstance(table, dict) else ()
            names = {name for name in values if isinstance(name, str) and "/" not in name}
            found += [(n, f"{file} names it") for n in sorted(names) if WEIGHTS.fullmatch(n)]
    return found
