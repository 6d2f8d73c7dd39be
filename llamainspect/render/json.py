"""A report as one JSON object."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from llamainspect.reports import Report

SCHEMA = 1
KNOWN_ROWS = 256  # whose text is kept, should they come again


def to_json(report: Report) -> str:
    """`{"report": NAME, "schema": 1, "ok": BOOL, ...}`: ASCII, no NaN, fields as in reports.py."""
    return "".join(json_pieces(report))


def json_pieces(report: Report) -> Iterator[str]:
    """The same in pieces, none of which is longer than a row or a field that has no rows."""
    yield from _object({"report": report.NAME, "schema": SCHEMA, "ok": report.ok}, report)


def _object(head: dict[str, Any], report: Report) -> Iterator[str]:
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    before = "{"
    for name, value in {**head, **values}.items():
        yield f"{before}{_dumps(name)}: "
        yield from _texts(value)
        before = ", "
    yield "}"


def _texts(value: Any) -> Iterator[str]:
    """JSON of one field; of rows, one that stands there a million times is written out once."""
    if isinstance(value, Report):
        yield from _object({"ok": value.ok}, value)
    elif type(value) is tuple and value and isinstance(value[0], tuple):
        known: dict[int, str] = {}
        before = "["
        for row in value:
            if id(row) not in known:
                if len(known) == KNOWN_ROWS:
                    known.clear()
                known[id(row)] = _dumps(_plain(row))
            yield f"{before}{known[id(row)]}"
            before = ", "
        yield "]"
    else:
        yield _dumps(_plain(value))


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _plain(value: Any) -> Any:
    """Named tuples as objects, other tuples as lists."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is None:
            return [_plain(item) for item in value]
        return {name: _plain(item) for name, item in zip(names, value, strict=True)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
