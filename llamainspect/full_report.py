"""All that is known of a checkpoint, for one page: several answers put together."""

import os
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from llamainspect import __version__
from llamainspect.canonical import canonical_weights
from llamainspect.checkpoint import Checkpoint, open_checkpoint
from llamainspect.errors import LlamaInspectError, UnsupportedFile
from llamainspect.inventory import list_tensors
from llamainspect.memory import estimate_memory
from llamainspect.progress import finish
from llamainspect.reports import (
    GENERATOR,
    FileProgress,
    Finding,
    FullReport,
    MemoryEstimate,
    StatsReport,
)
from llamainspect.sources import Folder
from llamainspect.subject import subject_of
from llamainspect.summary import summarize
from llamainspect.targets import check_target

PAGE = "report.html"  # unless --output says otherwise
# How every page of ours begins, so that none but these is ever replaced.
MARK = f'<meta name="generator" content="{GENERATOR} '.encode()
HEAD_NBYTES = 1_000  # that the mark is in


def build_report(path: str, stats: bool = False) -> FullReport:
    """Summary, tensors and memory of a checkpoint, and figures of its values if `stats`.

    Raises what opening a checkpoint raises.
    """
    return finish(reporting(path, stats))


def reporting(
    path: str, stats: bool = False, output: str | None = None
) -> Generator[tuple[FileProgress, ...], None, FullReport]:
    """`build_report`, step by step. Whether `output` may be written is looked at first."""
    if output is not None:
        check_target("--output", output, "report of llamainspect's", _is_page)
    begin = monotonic()
    yield ()
    checkpoint = open_checkpoint(path)
    memory, findings = _memory(checkpoint)
    values: StatsReport | None = None
    listed = checkpoint
    if stats:
        # Here and not above: without figures nobody waits for numpy.
        from llamainspect.stats import EVERYTHING, scanning_checkpoint

        values = yield from scanning_checkpoint(checkpoint, EVERYTHING, begin)
        listed = checkpoint._replace(weights=canonical_weights(checkpoint))  # as figures name them
    return FullReport(
        path=checkpoint.source.place,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        summary=summarize(checkpoint),
        tensors=list_tensors(listed),
        memory=memory,
        stats=values,
        file=None,
        file_nbytes=None,
        findings=tuple(findings),
    )


def _memory(checkpoint: Checkpoint) -> tuple[MemoryEstimate | None, list[Finding]]:
    """What it takes to run, or a word on why that is not known."""
    try:
        return estimate_memory(subject_of(checkpoint)), []
    except LlamaInspectError as error:
        return None, [Finding("note", "memory", f"not estimated: {error}")]


def write_page(report: FullReport, file: str, page: str) -> FullReport:
    """Write the page whole, or not at all; returns the report that says where it is."""
    directory, name = os.path.split(os.path.realpath(file))  # a link stays one
    try:
        Folder(directory).write(name, page)
    except OSError as error:
        reason = error.strerror or error
        raise UnsupportedFile(f"{file}: it cannot be written: {reason}; name another") from error
    return replace(report, file=file, file_nbytes=len(page.encode()))


def _is_page(folder: Folder, name: str) -> bool:
    return MARK in folder.read(name, 0, min(HEAD_NBYTES, folder.nbytes(name)))
