"""`tensors`: filtered, sorted, and with the place of every part."""

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights, write_native

from llamainspect import list_tensors, open_checkpoint
from llamainspect.render.text import inspect, to_text


def names(report):
    return [entry.name for entry in report.tensors]


def test_every_weight_is_listed_with_its_facts(checkpoint_path):
    report = list_tensors(open_checkpoint(str(checkpoint_path)))
    shapes = dense_shapes(TINY, TINY_HIDDEN)
    assert {entry.name: entry.shape for entry in report.tensors} == shapes
    assert all(entry.dtype == "BF16" for entry in report.tensors)
    assert all(entry.nbytes == 2 * torch.Size(entry.shape).numel() for entry in report.tensors)
    assert report.count == len(shapes)
    assert report.nbytes == sum(entry.nbytes for entry in report.tensors)
    assert report.ok


def test_cut_axes_are_those_of_the_reference_code(tiny2):
    axes = {e.name: e.axis for e in list_tensors(open_checkpoint(str(tiny2)), "layers.0.*").tensors}
    assert axes == {
        "layers.0.attention.wq.weight": 0,
        "layers.0.attention.wk.weight": 0,
        "layers.0.attention.wv.weight": 0,
        "layers.0.attention.wo.weight": 1,
        "layers.0.feed_forward.w1.weight": 0,
        "layers.0.feed_forward.w2.weight": 1,
        "layers.0.feed_forward.w3.weight": 0,
        "layers.0.attention_norm.weight": None,
        "layers.0.ffn_norm.weight": None,
    }


def test_a_glob_filters(tiny):
    report = list_tensors(open_checkpoint(str(tiny)), "*.attention.w[qk].weight")
    assert names(report) == [
        f"layers.{layer}.attention.w{letter}.weight" for layer in (0, 1) for letter in "qk"
    ]
    assert names(list_tensors(open_checkpoint(str(tiny)), "nothing")) == []


@pytest.mark.parametrize("sort", ["name", "size", "dtype"])
def test_sorting(tmp_path, sort):
    weights = {f"layers.{i}.x": torch.zeros(i + 1) for i in (10, 2, 1)}
    weights["layers.2.x"] = weights["layers.2.x"].half()
    checkpoint = open_checkpoint(str(write_native(tmp_path, None, [weights])))
    by = {"name": [1, 2, 10], "size": [10, 1, 2], "dtype": [2, 1, 10]}[sort]
    assert names(list_tensors(checkpoint, sort=sort)) == [f"layers.{i}.x" for i in by]


def test_parts_are_where_the_values_are(tiny2):
    """Offset, shape and strides of each part, read with nothing but seek and read."""
    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    expected = cut(whole, 2)
    for entry in list_tensors(open_checkpoint(str(tiny2)), per_shard=True).tensors:
        for part, shard in zip(entry.parts, expected, strict=True):
            with open(tiny2 / part.file, "rb") as file:
                file.seek(part.offset)
                raw = torch.frombuffer(bytearray(file.read(part.nbytes)), dtype=torch.bfloat16)
            assert torch.equal(raw.view(part.shape), shard[entry.name])
            assert part.strides == shard[entry.name].stride()


def test_a_page_stops_before_a_million_rows_and_says_so(tiny, monkeypatch):
    monkeypatch.setattr(inspect, "MAX_ROWS", 5)
    page = to_text(list_tensors(open_checkpoint(str(tiny))), terminal=False, plain=True)
    shown = [line for line in page.splitlines() if ".weight" in line]
    assert len(shown) == 5
    assert "(16 more; --json has all, and a GLOB chooses)" in page
