"""Lists of checksums: which digest every file should have.

They come in GNU's form (`HASH  name`, `HASH *name`), BSD's (`MD5 (name) = HASH`), or as a bare
digest in `name.sha256`. The algorithm follows from the length of each digest: Meta's
`checklist.chk` holds MD5, and hashing with anything else reports every good file as broken. What a
list says is data: names that lead out of its directory are reported and never opened.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from llamainspect.errors import LlamaInspectError, reason_of
from llamainspect.formats.signatures import HEAD_NBYTES, is_web_page
from llamainspect.names import counted
from llamainspect.reports import DigestList, Finding
from llamainspect.sources import ABSENT, Folder

CHECKLIST = "checklist.chk"
KINDS = r"(md5|sha(1|224|256|384|512))"
SIDECAR = re.compile(rf"(.+)\.{KINDS}(sums?)?(\.txt)?", re.IGNORECASE)  # model.pth.sha256
LIST_FILE = re.compile(
    rf".*checklist\.chk|({KINDS}|check)sums?(\.txt|\.md5|\.sha256)?|{SIDECAR.pattern}",
    re.IGNORECASE,
)
PARENT_LISTS = (CHECKLIST, "tokenizer_checklist.chk")  # Llama 1 keeps one above the weights
MAX_LIST_NBYTES = 2**20  # some 10,000 files
MAX_NAME = 4096
MAX_BAD_LINES = 5  # named one by one

ALGORITHMS = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}

# Exactly as GNU's tools write it, where a name may begin with a blank; or with other blanks.
GNU_LINE = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]+) [ *](?P<name>.+)")
LOOSE_LINE = re.compile(r"[ \t]*(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]+)[ \t]+\*?(?P<name>\S.*)")
BSD_LINE = re.compile(
    r"[ \t]*(?P<escaped>\\?)(?P<tag>[A-Za-z0-9/-]+) ?\((?P<name>.+)\)"
    r" ?= ?(?P<digest>[0-9A-Fa-f]+)[ \t]*"
)
BARE_LINE = re.compile(r"[ \t]*(?P<digest>[0-9A-Fa-f]+)[ \t]*")
DIGITS = re.compile(r"[0-9A-Fa-f]{16}")  # a line that holds these was meant as a checksum
ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
UNESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


class Digest(NamedTuple):
    """What one file should have."""

    file: str  # relative to the directory, with "/"
    algorithm: str
    digest: str  # lower-case hex
    origin: str  # "checklist.chk, line 3"


class Digests(NamedTuple):
    """All that is known of what the files should be."""

    digests: tuple[Digest, ...]
    lists: tuple[DigestList, ...]
    findings: tuple[Finding, ...]


def is_list(file: str) -> bool:
    """Whether a file of this name is a list of checksums."""
    return LIST_FILE.fullmatch(posixpath.basename(file)) is not None


def read_lists(folder: Folder, directories: list[str], without: str | None = None) -> Digests:
    """All lists in `directories` of the folder and one level above it, but for `without`.

    Where the person named one list, that one alone.
    """
    if folder.only and is_list(folder.only):
        return read_list(folder, folder.only)
    files = [
        posixpath.join(directory, name)
        for directory in directories
        for name in folder.names(directory)
        if is_list(name)
    ]
    return join_digests(
        *(read_list(folder, file) for file in files if file != without),
        *(_read_parent_list(folder, name) for name in PARENT_LISTS),
    )


def read_list(folder: Folder, file: str) -> Digests:
    """One list. Trouble with it is a finding, and the good lines count; absent, it is empty."""
    obstacle = folder.obstacle(file)
    if obstacle == ABSENT:
        return Digests((), (), ())
    if obstacle is not None:
        return Digests((), (DigestList(file, 0),), (Finding("error", file, obstacle),))
    try:
        text = _read_text(folder, file)
    except (LlamaInspectError, OSError) as error:
        finding = Finding("error", file, reason_of(error, file))
        return Digests((), (DigestList(file, 0),), (finding,))
    digests: list[Digest] = []
    findings: list[Finding] = []
    bad: list[tuple[int, str]] = []
    base = posixpath.dirname(file)
    sidecar_of = _sidecar_of(folder, file)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        parsed = _parse_line(line, sidecar_of)
        if parsed is None:
            bad.append((number, line))
            continue
        name, digest = parsed
        # Blanks at either end are seldom part of a name; which of the two is meant, what is there
        # tells, and nothing is looked for where a name leads away.
        exact = _leads_away(folder, base, name) is None
        if not exact or folder.obstacle(posixpath.join(base, name)) == ABSENT:
            name = name.strip(" \t") or name
        if problem := _leads_away(folder, base, name):
            message = f"line {number} names {name[:200]!r}, {problem}; it was not opened"
            findings.append(Finding("error", file, message))
            continue
        path = posixpath.normpath(posixpath.join(base, name))
        if path == posixpath.normpath(file):
            message = f"line {number} names the list itself, which no list can hold; passed over"
            findings.append(Finding("note", file, message))
            continue
        origin = f"{file}, line {number}"
        digests.append(Digest(path, ALGORITHMS[len(digest)], digest.lower(), origin))
    findings += _describe_bad_lines(file, bad, bool(digests))
    return Digests(tuple(digests), (DigestList(file, len(digests)),), tuple(findings))


def join_digests(*found: Digests) -> Digests:
    """Several as one."""
    return Digests(
        tuple(digest for part in found for digest in part.digests),
        tuple(entry for part in found for entry in part.lists),
        tuple(finding for part in found for finding in part.findings),
    )


def contradictions(digests: tuple[Digest, ...]) -> Iterator[tuple[Digest, Digest]]:
    """Pairs that name one file and one algorithm, and different digests."""
    first: dict[tuple[str, str], Digest] = {}
    for digest in digests:
        other = first.setdefault((digest.file, digest.algorithm), digest)
        if other.digest != digest.digest:
            yield other, digest


def format_line(digest: str, name: str) -> str:
    """A line of a list, as md5sum writes it."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{chr(92) * (escaped != name)}{digest}  {escaped}\n"


# --- one list ------------------------------------------------------------------------------------


def _read_text(folder: Folder, file: str) -> str:
    """The text of a list. Raises LlamaInspectError when it is none."""
    nbytes = folder.nbytes(file)
    if not nbytes:
        raise LlamaInspectError(f"{file}: the list is empty: its download failed; get it again")
    if nbytes > MAX_LIST_NBYTES:
        raise LlamaInspectError(f"{file}: {nbytes:,} bytes are too many for a list of checksums")
    data = folder.read(file, 0, nbytes)
    if is_web_page(data[:HEAD_NBYTES]):
        raise LlamaInspectError(
            f"{file}: it is a web page, not a list: the download was refused or needs a login; "
            "get it again"
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # PowerShell's redirection writes UTF-16
        text = data.decode("utf-16", "replace")
    elif data[1:2] == b"\0":
        text = data.decode("utf-16-le", "replace")
    elif b"\0" in data and not DIGITS.match(os.fsdecode(data[:16])):
        raise LlamaInspectError(f"{file}: it is no text; get the list again")
    else:
        data = data.replace(b"\0", b"\n")  # md5sum --zero
        text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _sidecar_of(folder: Folder, file: str) -> str | None:
    """The file that a list such as model.pth.sha256 is about, in which a bare digest is enough."""
    directory, name = posixpath.split(file)
    match = SIDECAR.fullmatch(name)
    if match is None:
        return None
    stem = match[1]
    names = [other for other in folder.names(directory) if not is_list(other)]
    near = [other for other in names if other.startswith(f"{stem}.")]
    return near[0] if stem not in names and len(near) == 1 else stem


def _parse_line(line: str, sidecar_of: str | None) -> tuple[str, str] | None:
    """(name, digest); None for what is no checksum."""
    match = BSD_LINE.fullmatch(line) or GNU_LINE.fullmatch(line) or LOOSE_LINE.fullmatch(line)
    if match is None and sidecar_of:
        match = BARE_LINE.fullmatch(line)
    if match is None or len(match["digest"]) not in ALGORITHMS:
        return None
    parts = match.groupdict()
    tag, name = parts.get("tag"), parts.get("name") or sidecar_of or ""
    if tag and tag.lower().replace("-", "").replace("/", "") not in _tags(len(match["digest"])):
        return None
    if parts.get("escaped"):
        name = re.sub(r"\\[\\nr]", lambda found: UNESCAPES[found[0]], name)
    usable = 0 < len(name) <= MAX_NAME and "\0" not in name
    return (name, match["digest"]) if usable else None


def _tags(digits: int) -> tuple[str, str]:
    """How BSD lines call the algorithm of a digest this long: SHA256, or SHA2-256."""
    algorithm = ALGORITHMS[digits]
    return algorithm, algorithm.replace("sha", "sha2", 1)


def _leads_away(folder: Folder, base: str, name: str) -> str | None:
    """Why a name in a list is not followed; None when it stays in the list's directory."""
    if ABSOLUTE.match(name):
        return "an absolute path"
    for path in {posixpath.normpath(name), posixpath.normpath(name.replace("\\", "/"))}:
        if path == ".." or path.startswith("../"):
            return "which lies outside of its directory"
    inside = posixpath.dirname(posixpath.join(base, posixpath.normpath(name)))
    if inside and not folder.holds(inside):
        return "which a link leads out of its directory"
    return None


def _describe_bad_lines(
    file: str, bad: list[tuple[int, str]], some_are_good: bool
) -> list[Finding]:
    """Lines that are no checksum: errors where one was meant, since a file then goes unchecked."""
    if not some_are_good and not bad:
        return [Finding("error", file, "the list names no file; get it again")]
    findings = []
    for number, line in bad[:MAX_BAD_LINES]:
        meant = DIGITS.search(line) is not None
        reason = "a checksum that is damaged or of an unknown kind" if meant else "no checksum"
        message = f"line {number} is {reason}: {line[:80]!r}"
        findings.append(
            Finding("error" if meant or not some_are_good else "warning", file, message)
        )
    if len(bad) > MAX_BAD_LINES:
        meant = any(DIGITS.search(line) for _, line in bad[MAX_BAD_LINES:])
        message = f"{counted(len(bad) - MAX_BAD_LINES, 'more line')} that are no checksums"
        findings.append(
            Finding("error" if meant or not some_are_good else "warning", file, message)
        )
    return findings


def _read_parent_list(folder: Folder, name: str) -> Digests:
    """A list one level up: Llama 1 keeps the tokenizer and its list beside the models' folders.

    Only what concerns this directory counts: files in it, and the tokenizer where it has none.
    """
    if folder.only or folder.obstacle(f"../{name}"):
        return Digests((), (), ())
    parent = folder.parent()
    found = read_list(parent, name)
    here = posixpath.basename(os.path.abspath(folder.directory))
    own = set(folder.names())
    listed = {digest.file for digest in found.digests}
    # A list that names files which are all here and none there was put one level too high.
    is_ours = bool(listed & own) and not any(not parent.obstacle(file) for file in listed)
    digests = []
    for digest in found.digests:
        file = posixpath.relpath(digest.file, here) if not is_ours else digest.file
        inside = not file.startswith("../")
        shared = digest.file == "tokenizer.model" and digest.file not in own
        if inside or shared:
            digests.append(digest._replace(file=file, origin=f"../{digest.origin}"))
    if not digests and not (found.findings and name != CHECKLIST):
        return Digests((), (), ())
    findings = tuple(finding._replace(where=f"../{finding.where}") for finding in found.findings)
    return Digests(tuple(digests), (DigestList(f"../{name}", len(digests)),), findings)
