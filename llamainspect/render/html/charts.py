"""The numbers that charts are drawn from, as compact columns. JavaScript gets them as JSON."""

from typing import Any

from llamainspect.render.html.budgets import (
    HISTOGRAMS_NBYTES,
    MAX_KINDS,
    MAX_LAYERS,
    Part,
    fit,
    json_nbytes,
)
from llamainspect.render.numbers import nbytes_unit, percent_text, short_count
from llamainspect.render.printable import printable
from llamainspect.reports import FullReport, LayerProfile, MemoryEstimate, StatsReport, WeightStats

SIGNIFICANT_DIGITS = 6


def chart_columns(report: FullReport) -> dict[str, Any]:
    """All that `page.js` draws; what a report has not is left out."""
    parameters = report.summary.parameters
    columns: dict[str, Any] = {
        "components": [
            {
                "name": name.replace("_", " "),
                "parameters": number,
                "text": f"{short_count(number) or f'{number:,}'}, "
                f"{percent_text(number, parameters.total)}",
            }
            for name, number in parameters.by_component.items()
        ]
    }
    if report.memory is not None:
        columns["memory"] = _memory(report.memory)
    if report.stats is not None:
        columns |= _stats(report.stats)
    return columns


def _memory(memory: MemoryEstimate) -> dict[str, Any]:
    unit, nbytes = nbytes_unit(max((row.total for row in memory.table), default=0))
    parts = ("weights", "kv_cache", "activations")
    rows = [
        {"form": row.dtype, **{part: _short(getattr(row, part) / nbytes) for part in parts}}
        for row in memory.table
    ]
    return {"unit": unit, "rows": rows}


def _stats(stats: StatsReport) -> dict[str, Any]:
    kinds = drawn_profile(stats)
    histograms = _histograms(stats)
    numbers = {profile.kind: number for number, profile in enumerate(kinds)}
    departed = (
        (numbers[row.kind], row.layer)
        for row in stats.departures
        if row.kind in numbers and row.layer < MAX_LAYERS
    )
    return {
        "profile": [_profile(profile) for profile in kinds],
        "departures": list(dict.fromkeys(departed)),  # numbers of a kind and a layer
        "by_component": [_histogram(row) for row in stats.by_component if row.histogram],
        "weights": histograms.rows,
        "weights_of": histograms.of,
    }


def drawn_profile(stats: StatsReport) -> list[LayerProfile]:
    """The kinds that are drawn: those in most layers, in the order of the report."""
    most = sorted(stats.profile, key=lambda profile: -len(profile.layers))[:MAX_KINDS]
    kept = set(map(id, most))
    return [profile for profile in stats.profile if id(profile) in kept]


def _profile(profile: LayerProfile) -> dict[str, Any]:
    drawn = [i for i, layer in enumerate(profile.layers) if layer < MAX_LAYERS]
    columns: dict[str, Any] = {
        "kind": printable(profile.kind),
        "layers": [profile.layers[i] for i in drawn],
    }
    for figure in ("std", "abs_max", "l2"):
        columns[figure] = [_short(getattr(profile, figure)[i]) for i in drawn]
    return columns


def _histograms(stats: StatsReport) -> Part[dict[str, Any]]:
    """Of single weights, as many as fit."""
    drawn = [row for row in stats.weights if row.histogram and row.same_as is None]
    return fit(map(_histogram, drawn), len(drawn), HISTOGRAMS_NBYTES, json_nbytes)


def _histogram(row: WeightStats) -> dict[str, Any]:
    histogram = row.histogram
    assert histogram is not None
    return {
        "name": printable(row.name),
        "start": _short(histogram.start),
        "end": _short(histogram.end),
        "counts": histogram.counts,
        "below": histogram.below,
        "above": histogram.above,
        "mean": _short(row.mean),
        "std": _short(row.std),
    }


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{SIGNIFICANT_DIGITS}g}")
