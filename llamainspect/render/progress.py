"""Progress bars on stderr, for a person who waits."""

from collections.abc import Generator
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from llamainspect.render.numbers import nbytes_text
from llamainspect.render.printable import printable
from llamainspect.reports import FileProgress

T = TypeVar("T")
BAR_WIDTH = 20  # columns: what stands beside it fits into 80
PATIENCE_SECONDS = 0.5  # what is over before that needs no bar


def with_bars(progress: Generator[tuple[FileProgress, ...], None, T], plain: bool = False) -> T:
    """Drive the generator to its end with a bar for each file at work, and return its result."""
    console = Console(stderr=True, no_color=plain or None)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR_WIDTH),
        _Amount(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    tasks: dict[str, TaskID] = {}
    begin = monotonic()
    started = False
    try:
        while True:
            try:
                running = next(progress)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if not started and monotonic() - begin < PATIENCE_SECONDS:
                continue
            if not started:
                bars.start()
                started = True
            _draw(bars, tasks, running)
    finally:
        if started:
            bars.stop()
        progress.close()


class _Amount(ProgressColumn):
    """How much is done and how fast, in the units of everything else."""

    def render(self, task: Task) -> Text:
        unit, done, total = task.fields["unit"], int(task.completed), int(task.total or 0)
        if unit == "bytes":
            text = f"{nbytes_text(done, total)} of {nbytes_text(total)}"
            return Text(f"{text}  {nbytes_text(int(task.speed))}/s" if task.speed else text)
        text = f"{done:,} of {total:,} {unit}"
        return Text(
            f"{text}  {task.speed:,.{0 if task.speed >= 10 else 2}f}/s" if task.speed else text
        )


def _draw(bars: Progress, tasks: dict[str, TaskID], running: tuple[FileProgress, ...]) -> None:
    """One bar per running file; those that are done make room."""
    names = {file.file for file in running}
    for name in tasks.keys() - names:
        bars.remove_task(tasks.pop(name))
    for file in running:
        if file.file not in tasks:
            tasks[file.file] = bars.add_task(
                printable(file.file, limit=40), total=file.nbytes, unit=file.unit
            )
        bars.update(tasks[file.file], completed=file.done, total=file.nbytes)
    bars.refresh()
