"""How much of a page each part may take, so that no checkpoint makes it larger than 2 MB.

The libraries, the page's own script and its looks take 0.53 MB. Bytes are those of UTF-8 with
everything escaped.
"""

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import escape

from llamainspect.render.printable import printable

Row = TypeVar("Row")

TENSORS_NBYTES = 640_000
STATS_NBYTES = 450_000  # that the table of tensors has too where there are no statistics
HISTOGRAMS_NBYTES = 280_000
FINDINGS_NBYTES = 100_000
FILES_NBYTES = 60_000
NOT_FINITE_NBYTES = 40_000
LAYERS_NBYTES = 100_000
DEPARTURES_NBYTES = 40_000
COMPONENTS_NBYTES = 10_000
MAX_KINDS = 16  # lines that can be told apart in one chart
MAX_LAYERS = 256  # columns of a heat map that can still be seen
CELL_NBYTES = 10  # <td></td> and a line break


class Part(NamedTuple, Generic[Row]):
    """The first rows of a table, as many as fit, and how many there are."""

    rows: list[Row]
    of: int

    @property
    def cut(self) -> bool:
        """Whether rows are left out."""
        return len(self.rows) < self.of


def fit(rows: Iterable[Row], of: int, nbytes: int, cost: Callable[[Row], int]) -> Part[Row]:
    """The first rows that together take no more than so many bytes."""
    taken: list[Row] = []
    for row in rows:
        nbytes -= cost(row)
        if nbytes < 0:
            break
        taken.append(row)
    return Part(taken, of)


def row_nbytes(cells: Iterable[str]) -> int:
    """Bytes of a table row with these texts in it, as they will stand there."""
    return CELL_NBYTES + sum(CELL_NBYTES + len(escape(printable(cell)).encode()) for cell in cells)


def json_nbytes(value: object) -> int:
    """Bytes of a value as JSON that is safe in HTML."""
    return len(htmlsafe_json_dumps(value, separators=(",", ":"))) + 1
