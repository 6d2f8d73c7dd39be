"""A report as one JSON object."""

import json
from dataclasses import asdict

from llamainspect.reports import Report

SCHEMA = 1


def to_json(report: Report) -> str:
    """`{"report": NAME, "schema": 1, "ok": BOOL, ...}`: ASCII, no NaN, fields as in reports.py."""
    fields = {"report": report.NAME, "schema": SCHEMA, "ok": report.ok, **asdict(report)}
    return json.dumps(fields, allow_nan=False)
