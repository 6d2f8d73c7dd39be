"""Reports for people, through rich. One file per help panel."""

import io

from rich.console import Console

from llamainspect.render.text import diff, inspect, plan, run, stats, verify  # noqa: F401  they register
from llamainspect.render.text.common import view
from llamainspect.reports import Report

PIPE_WIDTH = 10_000  # columns: in a pipe nothing is wrapped


def to_text(
    report: Report, *, terminal: bool, plain: bool = False, width: int | None = None
) -> str:
    """What to print for a report, as lines.

    On a terminal with colour (unless `plain`), bars, and wrapped to its width.
    """
    page = io.StringIO()
    console = Console(
        file=page,
        force_terminal=terminal,
        color_system=None if plain or not terminal else "auto",
        width=width or (None if terminal else PIPE_WIDTH),
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(view(report, terminal))
    # Tables pad their last column; nobody needs those spaces.
    return "\n".join(line.rstrip(" ") for line in page.getvalue().split("\n"))
