"""Whether every byte is what was published, and if not, which tensor is damaged.

Three witnesses, in this order: lists of checksums and digests of the hub; digests of official files
that are publicly known; and what a weight file says of itself. What was established and what was
not is said in words.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Generator
from dataclasses import replace

from llamainspect.checklists import CHECKLIST, Digest, format_line, read_list
from llamainspect.config import PARAMS_FILE
from llamainspect.errors import LlamaInspectError, MissingFile, UnsupportedFile, reason_of
from llamainspect.examination import Examination, examine
from llamainspect.expectations import (
    INDEX,
    MODEL_FILES,
    WEIGHTS,
    Plan,
    make_plan,
    sizes_of_architecture,
    stand_in,
)
from llamainspect.formats.model_parallel import WEIGHT_FILE
from llamainspect.formats.strict_json import read_json_object
from llamainspect.formats.vocabulary import TOKENIZER_FILE, read_vocabulary
from llamainspect.names import counted, listing
from llamainspect.progress import finish
from llamainspect.published import PUBLISHED
from llamainspect.reports import (
    ChecksumReport,
    FileChecksum,
    FileProgress,
    FileStatus,
    Finding,
    worst_first,
)
from llamainspect.sources import ABSENT, Folder, open_source

POSTED = "posted in public"  # origin of a digest that is built in
EMPTY_DIGESTS = {  # of no bytes at all
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
}

Progress = Generator[tuple[FileProgress, ...], None, ChecksumReport]


def verify_checksums(
    path: str, deep: bool = False, write: bool = False, force: bool = False
) -> ChecksumReport:
    """Hold the files at `path` against every digest that can be found for them.

    `deep` compares the CRC-32 of every tensor too, which otherwise is done only where a digest is
    wrong or missing; `write` makes a checklist.chk, over an old one only with `force`. Raises
    MissingFile when there is nothing to check against, and LlamaInspectError when a list may not be
    written.
    """
    return finish(verifying(path, deep, write, force))


def verifying(path: str, deep: bool = False, write: bool = False, force: bool = False) -> Progress:
    """The same as a generator: yields the progress of the files being read, returns the report."""
    folder = open_source(path)
    if write:
        _check_writable(folder, force)
    plan = make_plan(folder, deep, write)
    yield from examine(folder, list(plan.examinations.values()))
    report = _report(folder, plan)
    return _write(folder, plan, report) if write else report


# --- judging --------------------------------------------------------------------------------------


class _Others:
    """What else is there or listed, looked up once for all files: there may be ten thousand."""

    def __init__(self, plan: Plan) -> None:
        self.files = sorted(plan.examinations)
        self.weights: dict[str, list[str]] = {}  # by directory
        for file in filter(WEIGHTS.fullmatch, self.files):
            self.weights.setdefault(posixpath.dirname(file), []).append(posixpath.basename(file))
        self.listed: dict[str, list[Digest]] = {}  # by digest
        for digest in plan.known.digests:
            self.listed.setdefault(digest.digest, []).append(digest)

    def longer(self, file: str) -> str | None:
        """The first whose name goes on where that of an absent file ends."""
        after = self.files[bisect_left(self.files, file) :][:1]
        return after[0] if after and after[0].startswith(file) else None

    def with_digest(self, digest: str, file: str) -> Digest | None:
        """The first other file that should have it."""
        return next((d for d in self.listed.get(digest, ()) if d.file != file), None)


def _report(folder: Folder, plan: Plan) -> ChecksumReport:
    rows: list[FileChecksum] = []
    others = _Others(plan)
    for file in sorted(plan.expected):
        rows += _judge(folder, plan, others, file)
    rows += [
        _row(file, None, "missing", f"{_missing(others, file, None)}; {reason}")
        for file, reason in plan.absent.items()
    ]
    rows += [_row(name, None, "unreadable", reason) for name, reason in plan.closed.items()]
    wrong = {row.file for row in rows if row.status in ("mismatch", "unreadable")}
    findings = [*plan.known.findings, *_disputes(plan), *_unvouched(plan, rows)]
    findings += [finding for finding in plan.set_findings if finding.where not in wrong]
    findings += _check_sizes(folder, plan)
    unfinished = any(finding.severity == "error" for finding in plan.known.findings)
    silent = not plan.known.lists and not unfinished and not any(map(_says_something, rows))
    if silent and not plan.write:
        raise MissingFile(_nothing_to_check(folder, rows))
    rows.sort(key=lambda row: (posixpath.dirname(row.file), row.file))
    return ChecksumReport(
        path=folder.place,
        files=tuple(rows),
        lists=plan.known.lists,
        conclusion=_conclude(plan, rows),
        written=None,
        findings=tuple(worst_first(findings)),
    )


def _judge(folder: Folder, plan: Plan, others: _Others, file: str) -> list[FileChecksum]:
    """A row for each digest of the file, or one row where there is none."""
    expected = plan.expected[file]
    if file in plan.obstacles:
        first = expected[0] if expected else None
        if plan.obstacles[file] == ABSENT:
            return [_row(file, None, "missing", _missing(others, file, first), first)]
        return [_row(file, None, "unreadable", plan.obstacles[file], first)]
    examination = plan.examinations[file]
    if examination.problem:
        first = expected[0] if expected else None
        return [_row(file, examination.size, "unreadable", examination.problem, first)]
    if not expected:
        return [_judge_without_digest(folder, plan, file, examination)]
    return [_judge_digest(folder, others, examination, digest) for digest in expected]


def _missing(others: _Others, file: str, digest: Digest | None) -> str:
    """Who names an absent file, and which of its kind are there."""
    message = f"{ABSENT}; {digest.origin} names it" if digest else ABSENT
    there = others.weights.get(posixpath.dirname(file))
    if there and WEIGHTS.fullmatch(file):
        message = f"{message}; of the weights there are {listing(there, 8)}"
    longer = others.longer(file)
    if longer and digest:
        message = f"{message}; {longer} is there, so the list may have been cut short"
    return message


def _judge_digest(
    folder: Folder, others: _Others, examination: Examination, digest: Digest
) -> FileChecksum:
    file, verdict = examination.file, examination.verdict
    actual = examination.digests[digest.algorithm]
    nbytes = folder.nbytes(file)
    if actual == digest.digest:
        if verdict is None:
            return _row(file, nbytes, "ok", "", digest, actual)
        if verdict.intact is False:
            message = f"as listed, yet {verdict.message}: it was damaged before it was listed"
            return _row(file, nbytes, "mismatch", message, digest, actual, examination)
        return _row(file, nbytes, "ok", verdict.message, digest, actual)
    message = _explain(folder, others, examination, digest, actual)
    return _row(file, nbytes, "mismatch", message, digest, actual, examination)


def _explain(
    folder: Folder, others: _Others, examination: Examination, digest: Digest, actual: str
) -> str:
    """Why a file has not the digest it should have, as far as that can be known."""
    file, verdict = examination.file, examination.verdict
    other = others.with_digest(actual, file)
    official = next((row for row in PUBLISHED if row.digest == actual), None)
    if instead := stand_in(folder, file):
        return instead
    if other is not None:
        return f"it has the bytes that {other.file} should have: the two were swapped, or copied"
    if official is not None:
        return f"it is {official.file} of {official.model}: the list is of another model"
    if digest.digest in EMPTY_DIGESTS:
        return "the list has the digest of an empty file: it was made of a failed download"
    if verdict is None:
        return "it differs"
    if verdict.intact:
        return (
            f"it differs, yet it has {verdict.message}, so its tensors are as they were saved: "
            "another file than the listed one (another release, or saved again), or damage in its "
            "headers alone"
        )
    if verdict.intact is None:
        return f"it differs; nothing inside tells where: {verdict.message}"
    return verdict.message


def _judge_without_digest(
    folder: Folder, plan: Plan, file: str, examination: Examination
) -> FileChecksum:
    nbytes = folder.nbytes(file)
    verdict = examination.verdict
    status: FileStatus
    unlisted: FileStatus = "unlisted" if plan.known.digests else "unchecked"
    known = next(
        (
            row
            for row in plan.published.get(file, ())
            if examination.digests.get(row.algorithm) == row.digest
        ),
        None,
    )
    if known is not None and (verdict is None or verdict.intact is not False):
        digest = Digest(file, known.algorithm, known.digest, f"{POSTED} ({known.source})")
        return _row(file, nbytes, "ok", f"the file of {known.model}", digest, known.digest)
    if file in plan.disputed:
        message = plan.disputed[file]
        if verdict is not None:
            message = f"{message}; {verdict.message}"
        damaged = verdict is not None and verdict.intact is False
        status = "mismatch" if damaged else "unchecked"
        return _row(file, nbytes, status, message, examination=examination)
    if MODEL_FILES.fullmatch(file) and (instead := _wrong_by_itself(folder, file)):
        return _row(file, nbytes, "mismatch", instead)
    if plan.write and (verdict is None or verdict.intact is not False):
        # Recorded, and only what vouches for itself is verified.
        status = "ok" if verdict and verdict.intact else "unchecked"
        message = verdict.message if verdict else ""
        return _row(file, nbytes, status, message, actual=examination.digests["md5"])
    if verdict is None:
        return _row(file, nbytes, unlisted, "")
    row = _row(file, nbytes, unlisted, verdict.message, examination=examination)
    row = row._replace(algorithm="crc32" if verdict.by_sums else None)
    if verdict.intact is None:
        return row
    if not verdict.intact:
        return row._replace(status="mismatch")
    return row._replace(status="unlisted" if plan.known.digests else "ok")


def _wrong_by_itself(folder: Folder, file: str) -> str | None:
    """What shows that a small file is not what its name says, with nothing to compare it to."""
    name = posixpath.basename(file)
    if instead := stand_in(folder, file):
        return instead
    there = Folder(posixpath.join(folder.directory, posixpath.dirname(file)))
    try:
        if name in (PARAMS_FILE, "config.json") or INDEX.fullmatch(name):
            read_json_object(there, name)
        elif name == TOKENIZER_FILE:
            read_vocabulary(there)
    except (UnsupportedFile, OSError):  # nothing that is wrong with the file
        return None
    except LlamaInspectError as error:
        return reason_of(error, name)
    return None


def _row(
    file: str,
    nbytes: int | None,
    status: FileStatus,
    message: str,
    digest: Digest | None = None,
    actual: str | None = None,
    examination: Examination | None = None,
) -> FileChecksum:
    damage = examination.verdict.damage if examination and examination.verdict else ()
    return FileChecksum(
        file=file,
        nbytes=nbytes,
        algorithm=digest.algorithm if digest else "md5" if actual else None,
        expected=digest.digest if digest else None,
        actual=actual,
        status=status,
        message=message,
        damaged=tuple(dict.fromkeys(name for row in damage for name in row.tensors)),
        damage=damage,
        origin=digest.origin if digest else None,
    )


# --- findings -------------------------------------------------------------------------------------


def _disputes(plan: Plan) -> list[Finding]:
    return [
        Finding("error", file, f"{why}; neither was used") for file, why in plan.disputed.items()
    ]


def _unvouched(plan: Plan, rows: list[FileChecksum]) -> list[Finding]:
    """Weights that no digest and no sum of their own speaks for: not all is verified then."""
    files = [
        row.file
        for row in rows
        if row.status in ("unlisted", "unchecked")
        and row.algorithm is None
        and WEIGHTS.fullmatch(row.file)
        and row.file not in plan.disputed
    ]
    if not files or plan.write:
        return []
    message = "nothing vouches for these weights: no digest, and no checksum inside"
    return [Finding("error", listing(files), message)]


def _check_sizes(folder: Folder, plan: Plan) -> list[Finding]:
    """Weights without a digest, by their length: a hint, since anybody may save a model again."""
    findings = []
    for file, examination in plan.examinations.items():
        name = posixpath.basename(file)
        if plan.expected[file] or not WEIGHT_FILE.fullmatch(name):
            continue
        nbytes = folder.nbytes(file)
        sizes = sizes_of_architecture(folder, file)
        known = min(
            (size for size in sizes if size), key=lambda size: abs(size - nbytes), default=0
        )
        if nbytes in sizes:
            message = f"{nbytes:,} bytes, the size published for {listing(sizes[nbytes])}"
            findings.append(Finding("note", file, message))
            continue
        sound = examination.verdict is not None and examination.verdict.intact
        near = 100 * abs(nbytes - known) < known
        # A sound file of quite another length is another model, which `summary` tells.
        if near or (nbytes < known and not sound):
            than = "fewer" if nbytes < known else "more"
            message = (
                f"{abs(nbytes - known):,} bytes {than} than the {known:,} published for "
                f"{listing(sizes[known])}"
            )
            findings.append(Finding("note" if sound else "warning", file, message))
    return findings


def _says_something(row: FileChecksum) -> bool:
    return row.status not in ("unchecked", "unlisted") or row.algorithm is not None


# --- words ----------------------------------------------------------------------------------------


def _nothing_to_check(folder: Folder, rows: list[FileChecksum]) -> str:
    """Why there is no answer, and what would help."""
    weights = [row for row in rows if WEIGHTS.fullmatch(row.file)]
    detail = "".join(f"; {row.file}: {row.message}" for row in weights[:1] if row.message)
    return (
        f"{folder.place}: nothing to check against: no list of checksums ({CHECKLIST}, "
        f"SHA256SUMS), no digests from the hub, and no file that carries its own{detail}. Put the "
        "publisher's list beside the files"
    )


def _conclude(plan: Plan, rows: list[FileChecksum]) -> str:
    """What was established, and what was not, in a few sentences."""
    posted = [row.file for row in rows if (row.origin or "").startswith(POSTED)]
    listed = [row for row in rows if row.expected is not None and row.file not in posted]
    by_sums = [row.file for row in rows if row.algorithm == "crc32" and row.status != "mismatch"]
    bad = [row.file for row in rows if row.status in ("mismatch", "missing")]
    closed = [row.file for row in rows if row.status == "unreadable"]
    unknown = [
        row.file for row in rows if row.status in ("unchecked", "unlisted") and not row.algorithm
    ]
    parts = []
    if listed:
        good = sum(row.status == "ok" for row in listed)
        parts.append(f"{good} of {len(listed):,} digests agree")
    elif plan.known.lists:
        parts.append("No digest in the list can be used")
    elif not plan.known.digests:
        parts.append("No list of checksums and no digests from the hub to hold the files against")
    if posted:
        parts.append(f"As digests that were posted in public have it: {listing(posted)}")
    if bad:
        parts.append(f"Wrong, to be downloaded again: {listing(list(dict.fromkeys(bad)), 5)}")
    if closed:
        parts.append(f"Could not be read, and so not checked: {listing(closed, 5)}")
    if by_sums:
        parts.append(
            f"Established by the CRC-32s inside: the tensors in {listing(by_sums)} are as they "
            "were saved. Not established: who saved them, and whether that is what was published"
        )
    if unknown:
        parts.append(f"Not checked, since nothing says what they should be: {listing(unknown, 5)}")
    return ". ".join(parts)


# --- writing a list -------------------------------------------------------------------------------


def _check_writable(folder: Folder, force: bool) -> None:
    """Before hours of reading, not after."""
    obstacle = folder.obstacle(CHECKLIST)
    if folder.only:
        raise LlamaInspectError(f"{folder.place}: a list is made for a directory; give its path")
    if obstacle is None and not force:
        raise LlamaInspectError(f"{folder.place}: there is a {CHECKLIST}; --force overwrites it")
    if obstacle not in (None, ABSENT):
        raise LlamaInspectError(f"{folder.place}: {CHECKLIST} cannot be replaced: {obstacle}")
    if folder.refuses_writing():
        raise LlamaInspectError(f"{folder.place}: no file may be made there; check its permissions")


def _write(folder: Folder, plan: Plan, report: ChecksumReport) -> ChecksumReport:
    """The list, unless something is wrong: a list must not bless damage."""
    files = [file for file in sorted(plan.examinations) if not file.startswith("../")]
    if not report.ok:
        return replace(report, conclusion=f"{report.conclusion}. {CHECKLIST} was not written")
    if not files:
        raise MissingFile(f"{folder.place}: there is no file to list; give a checkpoint directory")
    digests = {file: plan.examinations[file].digests["md5"] for file in files}
    replaced = [
        Finding("warning", d.file, f"the list that was replaced has another digest: {d.digest}")
        for d in read_list(folder, CHECKLIST).digests
        if d.algorithm == "md5" and d.digest != digests.get(d.file)
    ]
    text = "".join(format_line(digest, file) for file, digest in digests.items())
    try:
        folder.write(CHECKLIST, text)
    except OSError as error:
        reason = error.strerror or error
        raise UnsupportedFile(
            f"{posixpath.join(folder.place, CHECKLIST)}: it cannot be written: {reason}; make room "
            "and try again"
        ) from error
    conclusion = f"{CHECKLIST} was written: MD5 of {counted(len(files), 'file')}"
    findings = (*report.findings, *replaced)
    return replace(report, written=CHECKLIST, conclusion=conclusion, findings=findings)
