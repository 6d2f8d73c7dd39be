"""Kinds of weights, and which layers are not like those around them."""

import math

import pytest

from llamainspect.profiles import departures, kind_of
from llamainspect.reports import LayerProfile


def profile(*std, kind="attention.wq"):
    return LayerProfile(kind, tuple(range(len(std))), std, std, std)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.17.attention.wq.weight", "attention.wq"),
        ("layers.3.feed_forward.experts.12.w1.weight", "feed_forward.experts.*.w1"),
        ("layers.3.feed_forward.experts.w1", "feed_forward.experts.w1"),
        ("model.layers.3.self_attn.q_proj.weight", "self_attn.q_proj"),
    ],
)
def test_a_kind_is_a_name_without_its_numbers(name, kind):
    assert kind_of(name) == kind


def test_one_layer_departs_and_its_neighbours_do_not():
    (found,) = departures([profile(1, 1.01, 0.99, 2, 1, 1.01, 0.98, 1)])
    assert (found.name, found.layer, found.std, found.neighbours) == (
        "layers.3.attention.wq", 3, 2, pytest.approx(1.005),
    )  # fmt: skip
    assert found.ratio == pytest.approx(2 / 1.005)


def test_small_steps_and_noisy_kinds_do_not_depart():
    assert departures([profile(1, 1.2, 1, 1, 1.2, 1, 1)]) == ()
    assert departures([profile(1, 2, 1, 2, 1, 2, 1, 2.5)]) == ()


def test_the_ends_are_held_against_as_many_layers():
    (found,) = departures([profile(3, 1, 1, 1, 1, 1, 1)])
    assert (found.layer, found.neighbours) == (0, 1)
    (found,) = departures([profile(1, 1, 1, 1, 1, 1, 0.5)])
    assert (found.layer, found.neighbours) == (6, 1)
    assert departures([profile(1, 1.5, 1, 1, 1, 1, 1)])[0].layer == 1


def test_the_furthest_comes_first():
    found = departures([profile(1, 1, 1, 2, 1, 1, 1), profile(1, 1, 0.1, 1, 1, 1, kind="b")])
    assert [row.kind for row in found] == ["b", "attention.wq"]


def test_zero_and_unknown_spreads():
    zeros = departures([profile(1, 1, 0, 1, 1, 1)])
    assert [(row.layer, row.ratio) for row in zeros] == [(2, 0.0)]
    alone = departures([profile(0, 0, 0, 1, 0, 0, 0)])
    assert [(row.layer, row.ratio) for row in alone] == [(3, None)]
    assert departures([profile(0, 0, 0, 0, 0)]) == ()
    assert departures([profile(None, None, 1, 1, 9)]) == (), "of three nobody knows"
    assert all(math.isfinite(row.neighbours) for row in zeros)
