"""How weights change from layer to layer, and which layers are not like those around them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from llamainspect.moments import Moments, pooled
from llamainspect.names import layer_pattern
from llamainspect.reports import Departure, LayerProfile, WeightStats

# A spread stands out when it is this many times that of its neighbours, or this small a part of it,
# and when its distance (in logarithms) is this many times what is usual for that kind of weight.
RATIO = 1.25
USUAL_TIMES = 6
NEIGHBOURS = 2  # layers to each side
MIN_LAYERS = 4  # of fewer nobody can say what is usual
TO_SIGMA = 1.4826  # from a median of absolute deviations, for a normal distribution


class Spread(NamedTuple):
    """One or several weights of one kind in one layer."""

    std: float | None
    abs_max: float | None
    l2: float | None


def kind_of(name: str) -> str:
    """A name within its layer, without numbers: "attention.wq", "feed_forward.experts.*.w1"."""
    inner = layer_pattern(name)[0].partition("{}.")[2].removesuffix(".weight")
    return ".".join("*" if piece.isdecimal() else piece for piece in inner.split("."))


def profile_layers(
    rows: Iterable[WeightStats], order: Mapping[str, int] | None = None
) -> tuple[LayerProfile, ...]:
    """Every kind of weight through the layers, by `order`, else in the order in which they come."""
    kinds: dict[str, dict[int, list[WeightStats]]] = {}
    for row in rows:
        if row.layer is not None:
            kinds.setdefault(kind_of(row.name), {}).setdefault(row.layer, []).append(row)
    places = order or {}
    names = sorted(kinds, key=lambda kind: places.get(kind, len(places)))
    return tuple(_profile(kind, kinds[kind]) for kind in names)


def _profile(kind: str, layers: dict[int, list[WeightStats]]) -> LayerProfile:
    numbers = sorted(layers)
    spreads = [_spread(layers[number]) for number in numbers]
    return LayerProfile(
        kind,
        tuple(numbers),
        tuple(spread.std for spread in spreads),
        tuple(spread.abs_max for spread in spreads),
        tuple(spread.l2 for spread in spreads),
    )


def _spread(rows: list[WeightStats]) -> Spread:
    """Of all experts of a layer together."""
    if len(rows) == 1:
        return Spread(rows[0].std, rows[0].abs_max, rows[0].l2)
    together = pooled([_moments(row, row.mean, row.std) for row in rows if row.mean is not None
                       and row.std is not None])  # fmt: skip
    lengths = [row.l2 for row in rows if row.l2 is not None]
    length = math.hypot(*lengths)
    return Spread(
        std=together.std if together else None,
        abs_max=max((row.abs_max for row in rows if row.abs_max is not None), default=None),
        l2=length if lengths and math.isfinite(length) else None,
    )


def _moments(row: WeightStats, mean: float, std: float) -> Moments:
    elements = row.count - (row.nan or 0) - (row.inf or 0)
    return Moments(elements, mean, elements * std * std)


def departures(profiles: Sequence[LayerProfile]) -> tuple[Departure, ...]:
    """Weights whose spread is not that of the layers around them, furthest first.

    The spread is held against the median of NEIGHBOURS layers to each side (at the ends: of the
    nearest layers, as many). It stands out when the ratio is above RATIO or below 1 / RATIO, and
    its logarithm more than USUAL_TIMES what is usual: the median over all layers, scaled to a
    standard deviation.
    """
    found = [departure for profile in profiles for departure in _departures(profile)]
    return tuple(sorted(found, key=lambda one: -_distance(one.std, one.neighbours)))


def _departures(profile: LayerProfile) -> list[Departure]:
    known = [
        (layer, std)
        for layer, std in zip(profile.layers, profile.std, strict=True)
        if std is not None
    ]
    if len(known) < MIN_LAYERS:
        return []
    stds = [std for _, std in known]
    around = [median(_neighbours(stds, place)) for place in range(len(stds))]
    distances = [_distance(std, near) for std, near in zip(stds, around, strict=True)]
    limit = max(math.log(RATIO), USUAL_TIMES * TO_SIGMA * median(distances))
    return [
        Departure(
            name=f"layers.{layer}.{profile.kind}",
            layer=layer,
            kind=profile.kind,
            std=std,
            neighbours=near,
            ratio=_ratio(std, near),
        )
        for (layer, std), near, distance in zip(known, around, distances, strict=True)
        if distance > limit
    ]


def _neighbours(stds: list[float], place: int) -> list[float]:
    """Of the layers to each side; at the ends as many, from the one side that there is."""
    first = max(min(place - NEIGHBOURS, len(stds) - 2 * NEIGHBOURS - 1), 0)
    window = stds[first : first + 2 * NEIGHBOURS + 1]
    return window[: place - first] + window[place - first + 1 :]


def _distance(std: float, near: float) -> float:
    """Of two spreads, in logarithms; of none from some it is infinite."""
    if std and near:
        return abs(math.log(std) - math.log(near))
    return math.inf if std or near else 0.0


def _ratio(std: float, near: float) -> float | None:
    ratio = std / near if near else math.inf
    return ratio if math.isfinite(ratio) else None
