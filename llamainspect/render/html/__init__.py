"""The HTML face: what is known of a checkpoint, on one page that needs no network.

`page.html` is the template, `page.css` its looks, `page.js` draws the charts and works the table.
Three things keep text from files text: every value goes through `printable` and then through
Jinja's escaping, JavaScript gets it as JSON and only ever sets `textContent`, and a policy in the
page lets no script run but those whose digests it names.
"""

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llamainspect.names import counted
from llamainspect.render.html.budgets import MAX_LAYERS
from llamainspect.render.html.charts import chart_columns
from llamainspect.render.html.content import Content, spark
from llamainspect.render.numbers import (
    count_text,
    exact_nbytes_text,
    figure_text,
    nbytes_text,
    percent_text,
    short_count,
)
from llamainspect.render.printable import printable
from llamainspect.reports import GENERATOR, FullReport

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "page.js")  # in the order they run
_FOLDER = Path(__file__).parent


def to_html(report: FullReport) -> str:
    """One HTML page, complete in itself and under 2 MB: summary, memory, weights, statistics."""
    scripts = [_text(name) for name in SCRIPTS]
    return (
        _environment()
        .get_template("page.html")
        .render(
            generator=GENERATOR,
            policy=_policy(scripts),
            scripts=list(map(Markup, scripts)),
            style=Markup(_text("page.css")),
            licences=_text("vendor/LICENSES.txt"),
            report=report,
            page=Content(report),
            columns=chart_columns(report),
            max_layers=MAX_LAYERS,
        )
    )


def _policy(scripts: list[str]) -> str:
    """A Content-Security-Policy: these scripts and nothing else. Plot sets style attributes."""
    digests = (hashlib.sha256(text.encode()).digest() for text in scripts)
    hashes = " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _text(name: str) -> str:
    """A file of this folder, which must not be able to end the element that it stands in."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    assert not any(end in text.lower() for end in ("</script", "</style", "<!--")), name
    return text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "counted": counted,
        "count": count_text,
        "exact_nbytes": exact_nbytes_text,
        "figure": figure_text,
        "full": lambda text: Markup.escape(printable(text, limit=1_000)),
        "nbytes": nbytes_text,
        "percent": percent_text,
        "short": short_count,
        "spark": lambda histogram: Markup(spark(histogram)),
        "verbatim": lambda text: Markup.escape(text),
        "whole": "{:,}".format,
        "words": lambda name: name.replace("_", " "),
    }
    return environment


def _visible(value: Any) -> Any:
    """Every text that the template puts out: nothing in it that hides or reorders."""
    return printable(value) if type(value) is str else value
