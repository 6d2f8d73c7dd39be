"""Reports for the tests of the HTML page: checkpoints that are whole, odd, hostile or huge."""

from dataclasses import replace
from pathlib import Path

import torch
from checkpoints import TINY, TINY_HIDDEN, dense_shapes, random_weights, write_native

from llamainspect.full_report import build_report
from llamainspect.reports import Departure, FileEntry, Finding, FullReport, NotFinite

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"
LAYERS = 12
DEPARTED = "layers.7.attention.wq.weight"  # its values are four times those of its neighbours
BROKEN = "layers.3.feed_forward.w2.weight"  # has one NaN

# What runs, or would make a page show something else, where it is not taken for text.
PAYLOADS = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "</script><script>window.hacked=1</script>",
    "<!--<script>window.hacked=1",
    "</STYLE><svg onLoad=window.hacked=1>",
    "{{ 7*191 }}{% raw %}",
    "'-window.hacked=1-'&amp;&#60;",
    "\x1b[31mred\x00\u202ereversed\u2028line",
)


def example(stats: bool = False) -> FullReport:
    """examples/mini-llama."""
    return build_report(str(EXAMPLE), stats)


def untrained(directory: Path) -> FullReport:
    """Random matrices, a tied output, and norms that are all 1."""
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["output.weight"] = weights["tok_embeddings.weight"]
    weights |= {name: torch.ones_like(weights[name]) for name in weights if "norm" in name}
    return build_report(str(write_native(directory / "Untrained", TINY, [weights])), stats=True)


def departing(directory: Path) -> FullReport:
    """Twelve layers; one has another spread, one a NaN."""
    params = TINY | {"n_layers": LAYERS}
    weights = random_weights(dense_shapes(params, TINY_HIDDEN))
    weights[DEPARTED] *= 4
    weights[BROKEN][5, 11] = float("nan")
    return build_report(str(write_native(directory / "Tiny", params, [weights])), stats=True)


def hostile(directory: Path) -> FullReport:
    """Payloads as names of tensors, kinds of weights, directories and in findings."""
    weights = random_weights(dict.fromkeys(PAYLOADS, (4, 4)))
    for layer in range(3):
        weights |= random_weights({f"layers.{layer}.{payload}": (4, 4) for payload in PAYLOADS})
    weights[PAYLOADS[0]][0, 0] = torch.inf
    place = directory / '"><img src=x onerror="window.hacked=1">' / "<script>window.hacked=1<"
    write_native(place, TINY | {PAYLOADS[0]: PAYLOADS[1]}, [weights])
    report = build_report(str(place), stats=True)
    (file,) = report.summary.files
    files = tuple(file._replace(file=payload) for payload in PAYLOADS)
    return replace(report, summary=replace(report.summary, files=files))


def huge(directory: Path, count: int = 100_000) -> FullReport:
    """As much of everything as a file could hold: long names, each character escaped."""
    report = hostile(directory)
    stats = report.stats
    name = "\x00" * 100 + "&" * 99  # the longest that printable() and escaping make of a name
    message = name * 10
    entry = report.tensors.tensors[0]
    entries = tuple(entry._replace(name=f"{i}{name}") for i in range(count))
    row = stats.weights[0]._replace(quantize_error=0.012345678)
    histogram = row.histogram._replace(counts=(10**11,) * 32)
    row = row._replace(histogram=histogram)
    rows = tuple(
        row._replace(name=f"{i}{name}", same_as=name if i % 2 else None) for i in range(count)
    )
    layers = tuple(range(count // 100))
    figures = (-1.23456789e-300,) * len(layers)
    kind = stats.profile[0]._replace(layers=layers, std=figures, abs_max=figures, l2=figures)
    departures = tuple(
        Departure(name, i % 1_000, f"{i % 10}{name}", 1.23456789e-300, 1.23456789e-300, 1e300)
        for i in range(count)
    )
    return replace(
        report,
        path=message,
        findings=(Finding("warning", name, message),),
        summary=replace(
            report.summary,
            files=tuple(FileEntry(f"{i}{name}", 10**15, 10**9, False) for i in range(count)),
            findings=tuple(Finding("warning", f"{i}{name}", message) for i in range(count)),
        ),
        tensors=replace(report.tensors, tensors=entries, count=count),
        stats=replace(
            stats,
            weights=rows,
            profile=tuple(kind._replace(kind=f"{i}{name}") for i in range(1_000)),
            departures=departures,
            not_finite=(NotFinite(name, 1, (1,) * 8, "-inf", name, name, (1,) * 8),) * count,
            quantize=name,
            pattern=name,
        ),
    )
