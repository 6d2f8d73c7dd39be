"""A report as one JSON object."""

import json
from dataclasses import fields
from typing import Any

from llamainspect.reports import Report

SCHEMA = 1


def to_json(report: Report) -> str:
    """`{"report": NAME, "schema": 1, "ok": BOOL, ...}`: ASCII, no NaN, fields as in reports.py."""
    return _object({"report": report.NAME, "schema": SCHEMA, "ok": report.ok}, report)


def _object(head: dict[str, Any], report: Report) -> str:
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    members = [f"{_dumps(name)}: {_text(value)}" for name, value in {**head, **values}.items()]
    return f"{{{', '.join(members)}}}"


def _text(value: Any) -> str:
    """JSON of one field; of rows, one that stands there a million times is written out once."""
    if isinstance(value, Report):
        return _object({"ok": value.ok}, value)
    rowed = type(value) is tuple and value and isinstance(value[0], tuple)
    if not rowed:
        return _dumps(_plain(value))
    rows = {id(row): row for row in value}
    texts = {key: _dumps(_plain(row)) for key, row in rows.items()}
    return f"[{', '.join([texts[id(row)] for row in value])}]"


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
