"""What is wrong with the values of weights, in findings: rules on their figures."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from llamainspect.names import NOT_PARAMETERS, compress, listing
from llamainspect.reports import Finding, NotFinite, Severity, WeightStats

MANY_ZEROS = 0.1  # a share of a matrix that is worth a word
_NUMBERS = re.compile(r"[\d,]+")
MAX_NAMED = 20  # weights with NaN or Inf that have a finding of their own


def judge_values(
    rows: Sequence[WeightStats], located: Mapping[str, Sequence[NotFinite]]
) -> list[Finding]:
    """What the figures of weights with bytes of their own tell, and where NaN and Inf are."""
    findings = _not_finite(rows, located)
    for severity, message, is_meant in _RULES:
        names = [row.name for row in rows if is_meant(row)]
        findings += grouped(severity, [(name, message) for name in names])
    return findings


def grouped(severity: Severity, found: Iterable[tuple[str, str]]) -> list[Finding]:
    """Names and messages in one finding for each message, whose numbers are those of the first."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, message in found:
        alike.setdefault(_NUMBERS.sub("", message), []).append((name, message))
    return [
        Finding(severity, listing(compress([name for name, _ in group])), group[0][1])
        for group in alike.values()
    ]


def narrow_finding(rows: Sequence[WeightStats]) -> list[Finding]:
    """On weights of 32 bits whose values are all such as BF16 has."""
    saved = sum(2 * row.count for row in rows)
    message = (
        "stored in 32 bits, and every value is one that BF16 has: as BF16 they would take "
        f"{saved:,} bytes less"
    )
    return grouped("note", [(row.name, message) for row in rows])


def _not_finite(
    rows: Sequence[WeightStats], located: Mapping[str, Sequence[NotFinite]]
) -> list[Finding]:
    odd = [row for row in rows if row.nan or row.inf]
    findings = []
    for row in odd[:MAX_NAMED]:
        kinds = (("NaN", row.nan or 0), ("Inf", row.inf or 0))
        message = " and ".join(f"{number:,} {kind}" for kind, number in kinds if number)
        if places := located.get(row.name):
            message += f", the first at {list(places[0].index)} ({places[0].place})"
            stored = places[0]
            if (stored.stored_name, stored.stored_index) != (row.name, stored.index):
                message += f": {list(stored.stored_index)} of {stored.stored_name} there"
        findings.append(Finding("error", row.name, message))
    more = [(row.name, "NaN or Inf in these weights, too") for row in odd[MAX_NAMED:]]
    return findings + grouped("error", more)


def copy_finding(weight: str, places: Sequence[NotFinite], number: int) -> Finding:
    """On what is not finite in a shard's copy of a weight, which no figure has."""
    first = f"the first at {list(places[0].index)} ({places[0].place})"
    return Finding("error", weight, f"{number:,} NaN or Inf in another shard's copy, {first}")


def _is_matrix(row: WeightStats) -> bool:
    return row.component not in NOT_PARAMETERS and row.count > 1 and len(row.shape or ()) > 1


def _is_constant(row: WeightStats) -> bool:
    return row.min is not None and row.min == row.max and not row.nan and not row.inf


def _has_zeros(row: WeightStats, share: float) -> bool:
    return row.zeros is not None and row.zeros > share * row.count


# Of a weight: how bad it is, what to say, and when.
_RULES: tuple[tuple[Severity, str, Callable[[WeightStats], bool]], ...] = (
    (
        "warning",
        "all values are 0: never trained, or lost",
        lambda row: _is_constant(row) and row.min == 0,
    ),
    (
        "warning",
        "all values of the matrix are the same: never trained, or lost",
        lambda row: _is_matrix(row) and _is_constant(row) and row.min != 0,
    ),
    (
        "note",
        f"more than {MANY_ZEROS:.0%} of the matrix is 0: pruned, or a stretch was lost",
        lambda row: _is_matrix(row) and _has_zeros(row, MANY_ZEROS) and not _is_constant(row),
    ),
    (
        "note",
        "no mean and no spread: float64 cannot hold the squares of its values",
        lambda row: row.min is not None and row.mean is None,
    ),
    (
        "note",
        "no histogram: its values stand closer together than buckets of 0.8 % tell apart",
        lambda row: row.histogram is None and row.mean is not None and bool(row.quantiles),
    ),
    (
        "note",
        "whole numbers beyond 2**53, which figures have rounded to float64",
        lambda row: row.dtype in ("I64", "U64") and (row.abs_max or 0) > 2**53,
    ),
)
