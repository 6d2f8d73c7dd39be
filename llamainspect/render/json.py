"""A report as one JSON object."""

import json
from dataclasses import fields
from typing import Any

from llamainspect.reports import Report

SCHEMA = 1


def to_json(report: Report) -> str:
    """`{"report": NAME, "schema": 1, "ok": BOOL, ...}`: ASCII, no NaN, fields as in reports.py."""
    values = {field.name: _plain(getattr(report, field.name)) for field in fields(report)}
    head = {"report": report.NAME, "schema": SCHEMA, "ok": report.ok}
    return json.dumps({**head, **values}, allow_nan=False)


def _plain(value: Any) -> Any:
    """Named tuples as objects, other tuples as lists."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is None:
            known = {id(item): item for item in value}  # a row that stands there often: made once
            made = {key: _plain(item) for key, item in known.items()}
            return [made[id(item)] for item in value]
        return {name: _plain(item) for name, item in zip(names, value, strict=True)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
