"""`stats`: every figure is numpy's, whatever the layout, and what is not finite is found."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    cut,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
)
from conftest import FORMS, HUB_FORMS, tiny_weights
from hub_layout import hub_config, hub_config_moe, to_hub, to_hub_moe, write_hub
from test_cli import in_terminal, run

from llamainspect import open_checkpoint
from llamainspect.blocks import Memory
from llamainspect.cli.inspect import StatsSort
from llamainspect.counted import Gathering
from llamainspect.errors import CorruptFile, InvalidRequest, MissingFile
from llamainspect.footprint import weight_form
from llamainspect.render.json import to_json
from llamainspect.render.text import to_text
from llamainspect.sources import Folder
from llamainspect.stats import SORTS, Sort, StatsOptions, compute_stats, stream_stats
from llamainspect.tally import count_values, slices_of, table_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"
COUNTED = [
    torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.bool,
]  # fmt: skip
WIDE = [torch.float32, torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64]
TINIEST = {
    torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14, torch.float32: 2.0**-126,
    torch.float64: 2.0**-1022, torch.float8_e4m3fn: 2.0**-6, torch.float8_e5m2: 2.0**-14,
    torch.float8_e4m3fnuz: 2.0**-7, torch.float8_e5m2fnuz: 2.0**-15,
}  # fmt: skip
# The relative error that a bucket of wide values allows.
BUCKET = 2.0**-7


@pytest.fixture(autouse=True)
def the_same_numbers():
    torch.manual_seed(0)


def stats_of(path, tensors, options=None):
    """Rows by name of some tensors, written as one native file."""
    report = compute_stats(str(write_native(path, None, [tensors])), options or StatsOptions())
    return {row.name: row for row in report.weights}


def values_of(tensor):
    """As float64, which holds every value that is tested here."""
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return tensor.numpy().astype(np.float64).reshape(-1)
    return tensor.to(torch.float64).numpy().reshape(-1)


def check(row, values, dtype):
    """Every figure against numpy in float64."""
    finite = values[np.isfinite(values)]
    assert row.count == values.size
    assert (row.nan, row.inf) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert row.zeros == (values == 0).sum()
    tiny = TINIEST.get(dtype, 0)
    assert row.subnormal == ((finite != 0) & (np.abs(finite) < tiny)).sum()
    if not finite.size:
        assert (row.mean, row.std, row.min, row.max, row.abs_max, row.l2) == (None,) * 6
        assert row.quantiles == {}
        assert row.histogram is None
        return
    assert (row.min, row.max) == (finite.min(), finite.max())
    assert row.abs_max == np.abs(finite).max()
    spread = float(finite.std())
    # numpy's own sum of values that cancel out is off by some ulps of the largest.
    near = {"rel": 1e-12, "abs": 1e-13 * (spread + abs(float(finite.mean())))}
    assert row.mean == pytest.approx(math.fsum(finite) / finite.size, **near)
    assert row.std == pytest.approx(spread, **near)
    assert row.l2 == pytest.approx(math.sqrt(math.fsum(finite * finite)), rel=1e-12)
    for name, value in row.quantiles.items():
        expected = float(np.quantile(finite, float(name)))
        if "quantiles" in row.approximate:
            assert abs(value - expected) <= BUCKET * np.abs(finite).max() * 1.01
            below, above = (
                float(np.quantile(finite, float(name), method=m)) for m in ("lower", "higher")
            )
            most = max(abs(below), abs(above)) * BUCKET * 1.01 + 1e-40
            assert below - most <= value <= above + most
        else:
            assert value == pytest.approx(expected, rel=1e-14, abs=1e-300)
    histogram = row.histogram
    assert sum(histogram.counts) + histogram.below + histogram.above == finite.size
    if "histogram" not in row.approximate and histogram.start < histogram.end:
        inside = finite[(finite >= histogram.start) & (finite <= histogram.end)]
        edges = np.linspace(histogram.start, histogram.end, len(histogram.counts) + 1)
        assert list(histogram.counts) == np.histogram(inside, edges)[0].tolist()
        assert histogram.below == (finite < histogram.start).sum()
        assert histogram.above == (finite > histogram.end).sum()


def random_tensor(dtype, shape=(67, 130), seed=0):
    """Values as they come, and some that are hard: zeros, the smallest and the largest."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        values[0] *= 1e-3
        values[1] *= TINIEST[dtype] if dtype is not torch.float64 else 1e-308
        values[2, ::3] = 0
        values[3] = values[3].round()
        return values.to(torch.float32 if dtype is not torch.float64 else dtype).to(dtype)
    if dtype is torch.bool:
        return torch.randn(shape, generator=generator) > 0.5
    info = torch.iinfo(dtype)
    low, high = max(info.min, -(2**40)), min(info.max, 2**40)
    whole = torch.randint(low, high, shape, generator=generator, dtype=torch.int64)
    whole[2, ::3] = 0
    return whole.to(dtype)


@pytest.mark.parametrize("few", [0, 2**16])
@pytest.mark.parametrize("dtype", COUNTED + WIDE, ids=str)
def test_every_figure_is_that_of_numpy(tmp_path, dtype, few, monkeypatch):
    """`few`: elements up to which wide values are counted one by one, too."""
    monkeypatch.setattr("llamainspect.tally.FEW", few)
    monkeypatch.setattr("llamainspect.counted.FEW", few)
    tensor = random_tensor(dtype)
    row = stats_of(tmp_path, {"x": tensor})["x"]
    check(row, values_of(tensor), dtype)
    assert bool(row.approximate) == (dtype in WIDE and not few)
    assert (row.entropy is None) == (dtype in WIDE)


@pytest.mark.parametrize("dtype", COUNTED, ids=str)
def test_entropy_is_that_of_the_stored_codes(tmp_path, dtype):
    tensor = random_tensor(dtype)
    codes = tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy()
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    row = stats_of(tmp_path, {"x": tensor})["x"]
    assert row.entropy == pytest.approx(float(-(shares * np.log2(shares)).sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_spread_far_from_zero_loses_no_digits(tmp_path, dtype):
    """Where the mean is a thousand times the spread, a sum of squares alone would lose them."""
    generator = torch.Generator().manual_seed(3)
    values = 1000 + torch.randn((500, 70), generator=generator, dtype=torch.float64)
    tensor = values.to(dtype)
    row = stats_of(tmp_path, {"x": tensor})["x"]
    expected = values_of(tensor)
    assert row.mean == pytest.approx(expected.mean(), rel=1e-14)
    assert row.std == pytest.approx(expected.std(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64], ids=str)
def test_views_count_each_element_once(tmp_path, dtype):
    base = torch.arange(-600, 600).view(30, 40).to(dtype)
    weights = {
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "cube": base.view(3, 10, 40)[:, ::2].transpose(1, 2),
        "expanded": torch.arange(3).to(dtype).expand(4, 3),
        "scalar": torch.tensor(2.5).to(dtype),
        "empty": torch.empty((0, 4), dtype=dtype),
        "flat": torch.arange(7).to(dtype),
    }
    rows = stats_of(tmp_path, weights)
    for name, tensor in weights.items():
        check(rows[name], values_of(tensor), dtype)
        assert rows[name].shape == tuple(tensor.shape)


def test_lazy_negatives_have_their_sign(tmp_path):
    values = torch.tensor([1 + 2j, 3 - 4j])
    rows = stats_of(tmp_path, {"complex": values, "imag": values.clone().conj().imag})
    assert (rows["imag"].min, rows["imag"].max, rows["imag"].mean) == (-2, 4, 1)
    assert rows["complex"].mean is None
    assert rows["complex"].count == 2


def test_types_without_values_are_said_to_have_none(tmp_path):
    write_native(tmp_path, None, [{"z": torch.zeros(3, 3, dtype=torch.complex64)}])
    report = compute_stats(str(tmp_path))
    assert report.ok
    assert [(f.severity, f.where) for f in report.findings if f.severity == "note"] == [
        ("note", "z")
    ]
    assert "z" in to_text(report, terminal=True, plain=True, width=80)


# --- any layout -----------------------------------------------------------------------------------


def without_places(report):
    """What must not depend on the layout: rows by name, groups, profile."""
    rows = {row.name: row for row in report.weights}
    return (rows, report.total, report.by_component, report.by_layer, set(report.profile))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_form_of_a_model_has_the_same_figures_to_the_last_bit(tmp_path, dtype):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN), dtype=dtype)
    write_native(tmp_path / "one", TINY, [weights])
    write_native(tmp_path / "two", TINY, cut(weights, 2))
    write_native(tmp_path / "columns", TINY, cut(weights, 2, embedding_axis=1))
    hub, config = to_hub(weights, TINY, TINY_HIDDEN), hub_config(TINY, TINY_HIDDEN)
    write_hub(tmp_path / "hub", hub, config)
    write_hub(tmp_path / "hub3", hub, config, shards=3)
    write_hub(tmp_path / "bin", hub, config, shards=2, kind="bin")
    options = StatsOptions(quantize="int4", group_size=32)
    first = without_places(compute_stats(str(tmp_path / "one"), options))
    for form in ("two", "columns", "hub", "hub3", "bin"):
        other = without_places(compute_stats(str(tmp_path / form), options))
        assert other[0] == first[0], form
        # Groups list their members in the order of the files, and that must not show.
        assert {row.name: row for row in other[2]} == {row.name: row for row in first[2]}, form
        assert (other[1], other[3]) == (first[1], first[3]), form
        assert {p.kind: p for p in other[4]} == {p.kind: p for p in first[4]}, form
    for name, row in first[0].items():
        check(row, values_of(weights[name]), dtype)


def test_a_weight_in_many_slices_has_the_same_figures(tmp_path, monkeypatch):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        weights = {"x": random_tensor(dtype, (300, 70)), "y": random_tensor(dtype, (9000, 1))[:, 0]}
        weights["x"][200, 3], weights["x"][299, 69], weights["x"][1, 1] = math.nan, math.inf, 0
        weights["x"][150] = weights["x"][1]  # with what is subnormal
        weights["half"] = weights["y"].bfloat16().to(dtype)
        weights["half"][8000] = 1 + 2**-7 + 2**-8  # which BF16 lacks
        if dtype is torch.float64:
            weights["huge"] = torch.full((300, 70), 1e-3, dtype=dtype)
            weights["huge"][299, 69] = 1e300
        weights["y"][::7] = math.nan
        whole = stats_of(tmp_path / str(dtype), weights)
        places = compute_stats(str(tmp_path / str(dtype))).not_finite
        monkeypatch.setattr("llamainspect.tally.SLICE_NBYTES", 2000)
        monkeypatch.setattr("llamainspect.blocks.BLOCK_NBYTES", 512)
        assert stats_of(tmp_path / str(dtype), weights) == whole
        assert compute_stats(str(tmp_path / str(dtype))).not_finite == places
        monkeypatch.undo()
        assert [place.index for place in places[:2]] == [(200, 3), (299, 69)]
        assert [place.index for place in places[2:102]] == [(7 * i,) for i in range(100)]
        check(whole["x"], values_of(weights["x"]), dtype)
        check(whole["y"], values_of(weights["y"]), dtype)
        assert (whole["half"].entropy is None) == (dtype is not torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_slices_may_come_in_any_order(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("llamainspect.tally.SLICE_NBYTES", 2000)
    monkeypatch.setattr("llamainspect.blocks.BLOCK_NBYTES", 512)
    tensor = random_tensor(dtype, (300, 70))
    tensor[::9, ::5] = math.nan
    write_native(tmp_path, None, [{"x": tensor}])
    checkpoint = open_checkpoint(str(tmp_path))
    pieces = list(slices_of(checkpoint.weights["x"], None))
    assert len(pieces) > 9
    found = []
    for order in (pieces, pieces[::-1], pieces[1::2] + pieces[::2]):
        gathering = Gathering(checkpoint.weights["x"], len(pieces))
        for piece in order:
            gathering.add(piece, count_values(checkpoint, piece, Memory()))
        counted = gathering.finish()
        found.append((counted.figures, str(counted.not_finite), counted.ranks.tolist()))
    assert found[0] == found[1] == found[2]


def test_groups_are_what_their_weights_are_together(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    for name in list(weights):
        if "norm" in name:
            weights[name] = weights[name].float()  # two dtypes in each layer
    write_native(tmp_path, TINY, [weights])
    report = compute_stats(str(tmp_path))
    values = {name: values_of(weight) for name, weight in weights.items()}
    layer = np.concatenate([v for name, v in values.items() if name.startswith("layers.1.")])
    row = report.by_layer[1]
    assert (row.name, row.weights, row.dtype) == ("layer 1", 9, "BF16, F32")
    assert row.mean == pytest.approx(layer.mean(), rel=1e-9)
    assert row.std == pytest.approx(layer.std(), rel=1e-12)
    assert (row.min, row.max, row.count) == (layer.min(), layer.max(), layer.size)
    assert row.l2 == pytest.approx(np.linalg.norm(layer), rel=1e-12)
    attention = np.concatenate([v for name, v in values.items() if ".attention." in name])
    row = next(row for row in report.by_component if row.name == "attention")
    check(row, attention, torch.bfloat16)
    everything = np.concatenate(list(values.values()))
    assert report.total.std == pytest.approx(everything.std(), rel=1e-12)
    assert report.total.count == everything.size
    assert report.total.quantiles["0.5"] == pytest.approx(np.median(everything), abs=0.01)
    # BF16 values that are stored as F32 are counted one by one, too.
    assert report.total.approximate == ()
    weights["layers.1.ffn_norm.weight"] = 5 + torch.randn(64)
    layer = np.concatenate(
        [values_of(w) for name, w in weights.items() if name.startswith("layers.1.")]
    )
    report = compute_stats(str(write_native(tmp_path / "wide", TINY, [weights])))
    row = report.by_layer[1]
    assert row.approximate == ("quantiles", "histogram")
    assert report.by_layer[0].approximate == ()
    check(row, layer, torch.bfloat16)


def test_values_of_16_bits_in_32_are_counted_exactly_and_pointed_out(tmp_path):
    narrow = random_weights({"x": (200, 30)})["x"]
    wide = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    write_native(tmp_path, None, [{"x": narrow.float(), "y": wide}])
    report = compute_stats(str(tmp_path))
    rows = {row.name: row for row in report.weights}
    check(rows["x"], values_of(narrow), torch.float32)
    assert rows["x"].approximate == ()
    assert rows["x"].entropy == stats_of(tmp_path / "b", {"x": narrow})["x"].entropy
    assert rows["y"].approximate == ("quantiles", "histogram")
    notes = [f for f in report.findings if "BF16" in f.message]
    assert [(f.severity, f.where) for f in notes] == [("note", "x")]
    assert "12,000 bytes less" in notes[0].message


def test_fused_weights_are_taken_apart_whatever_the_layout(tmp_path):
    weights = random_weights(moe_shapes(TINY_MOE))
    write_native(tmp_path / "one", TINY_MOE, [weights])
    write_native(tmp_path / "two", TINY_MOE, cut(weights, 2, blocks=MOE_BLOCKS))
    write_hub(tmp_path / "hub", to_hub_moe(weights, TINY_MOE), hub_config_moe(TINY_MOE))
    reports = [compute_stats(str(tmp_path / form)) for form in ("one", "two", "hub")]
    rows = [{row.name: row for row in report.weights} for report in reports]
    fused = weights["layers.0.attention.wqkv.weight"]
    check(rows[0]["layers.0.attention.wk.weight"], values_of(fused[64:96]), torch.bfloat16)
    assert rows[0] == rows[1]
    same = [name for name in rows[0] if rows[2].get(name) != rows[0][name]]
    assert same == [], "Hugging Face's layout has the same values"
    norm = "layers.0.attention.wqkv.layer_norm_weight"
    report = compute_stats(str(tmp_path / "one"), StatsOptions(plot=norm))
    assert report.plot.name == "layers.0.attention_norm.weight"
    wide = {name: weight.float() + 1e-4 for name, weight in weights.items()}
    native = compute_stats(str(write_native(tmp_path / "wide", TINY_MOE, [wide])))
    write_hub(tmp_path / "wide hub", to_hub_moe(wide, TINY_MOE), hub_config_moe(TINY_MOE))
    hub = compute_stats(str(tmp_path / "wide hub"))
    # There the router is stored transposed, and its sums are of the same rows all the same.
    assert {row.name: row for row in native.weights} == {row.name: row for row in hub.weights}
    with pytest.raises(MissingFile, match=r"wqkv\.weight holds several weights.*wq\.weight"):
        compute_stats(str(tmp_path / "one"), StatsOptions(plot="layers.0.attention.wqkv.weight"))


def test_a_tied_output_is_read_and_counted_once(tmp_path):
    weights = tiny_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    write_native(tmp_path, TINY, [weights])
    report = compute_stats(str(tmp_path))
    rows = {row.name: row for row in report.weights}
    assert rows["output.weight"].same_as == "tok_embeddings.weight"
    assert rows["output.weight"].std == rows["tok_embeddings.weight"].std
    unique = sum(w.numel() for name, w in weights.items() if name != "output.weight")
    assert (report.total.count, report.nbytes_read) == (unique, 2 * unique)
    assert "output" not in {row.name for row in report.by_component}
    page = to_text(report, terminal=True, plain=True, width=120)
    assert "output.weight is tok_embeddings.weight" in page


def test_rows_come_as_soon_as_their_weight_is_read(tmp_path):
    """In one file the first layer's rows are there long before the last weight was read."""
    weights = {
        f"layers.{layer}.attention.wq.weight": torch.randn(512, 2048) for layer in range(20)
    } | {"empty.weight": torch.empty(0, 4), "norm.weight": torch.ones(4)}
    weights["output.weight"] = weights["norm.weight"]  # listed in the report alone
    path = str(write_native(tmp_path, None, [weights]))
    read = []
    original = Folder.read_into

    def counted(self, file, offset, buffer):
        read.append(len(buffer))
        return original(self, file, offset, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "read_into", counted)
        patch.setattr("llamainspect.stats.MAX_WORKERS", 1)
        stream = stream_stats(path)
        rows = [next(stream)]
        assert 0 < sum(read) < sum(weight.nbytes for weight in weights.values()) / 2
        while True:
            try:
                rows.append(next(stream))
            except StopIteration as stop:
                report = stop.value
                break
    whole = compute_stats(path)
    assert sorted(rows) == sorted(row for row in whole.weights if row.same_as is None)
    assert (report.weights, report.total, report.findings) == (
        whole.weights, whole.total, whole.findings,
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="group-size"):
        next(stream_stats(path, StatsOptions(group_size=3)))


def test_no_byte_is_read_twice(tmp_path, monkeypatch):
    weights = tiny_weights()
    path = write_native(tmp_path, TINY, cut(weights, 2))
    asked = []
    read_into = Folder.read_into

    def counting(self, file, offset, buffer):
        asked.append((file, offset, len(buffer)))
        read_into(self, file, offset, buffer)

    monkeypatch.setattr(Folder, "read_into", counting)
    report = compute_stats(str(path))
    assert len(set(asked)) == len(asked)
    # Norms are whole in both shards; one of the two is read.
    assert sum(length for _, _, length in asked) == report.nbytes_read
    assert report.nbytes_read == sum(weight.nbytes for weight in weights.values())


# --- NaN and Inf ----------------------------------------------------------------------------------

PLANTED = "layers.1.attention.wq.weight"


@pytest.mark.parametrize("form", [*FORMS, *HUB_FORMS])
def test_a_nan_in_bf16_is_found_at_its_index_in_every_form(tmp_path, form, monkeypatch):
    weights = tiny_weights()
    weights[PLANTED][37, 5] = math.nan
    weights["output.weight"][3, 60] = -math.inf
    monkeypatch.setattr("conftest.tiny_weights", lambda: weights)
    path = (FORMS | HUB_FORMS)[form](tmp_path)
    report = compute_stats(str(path))
    found = {place.name: place for place in report.not_finite}
    assert {name: (p.index, p.value) for name, p in found.items()} == {
        PLANTED: ((37, 5), "nan"),
        "output.weight": ((3, 60), "-inf"),
    }
    assert found[PLANTED].layer == 1
    for place, code in ((found[PLANTED], 0x7FC0), (found["output.weight"], 0xFF80)):
        file, _, offset = place.place.partition(" @ ")
        data = (path / file).read_bytes()[int(offset.replace(",", "")) :][:2]
        assert int.from_bytes(data, "little") == code
    assert not report.ok
    assert [f.severity for f in report.findings] == ["error", "error"]
    row = next(row for row in report.weights if row.name == PLANTED)
    check(row, values_of(weights[PLANTED]), torch.bfloat16)
    layer = report.by_layer[1]
    assert (layer.nan, layer.inf, report.total.nan, report.total.inf) == (1, 0, 1, 1)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
     torch.float8_e5m2],
    ids=str,
)  # fmt: skip
def test_what_is_not_finite_is_located_in_every_dtype(tmp_path, dtype):
    tensor = random_tensor(dtype).float()
    tensor[5, 7] = math.nan
    tensor[66, 129] = math.nan
    has_inf = dtype is not torch.float8_e4m3fn
    if has_inf:
        tensor[6, 0] = math.inf
    tensor = tensor.to(dtype)
    write_native(tmp_path, None, [{"x": tensor, "first": torch.tensor([math.nan, 1]).to(dtype)}])
    report = compute_stats(str(tmp_path))
    places = [(place.index, place.value) for place in report.not_finite if place.name == "x"]
    infinite = [((6, 0), "inf")] if has_inf else []
    assert places == [((5, 7), "nan"), *infinite, ((66, 129), "nan")]
    rows = {row.name: row for row in report.weights}
    check(rows["x"], values_of(tensor), dtype)
    assert (rows["first"].mean, rows["first"].nan) == (1.0, 1)


def test_of_very_many_the_first_are_located_and_all_are_counted(tmp_path):
    tensor = torch.full((1000, 100), math.nan, dtype=torch.bfloat16)
    tensor[0, 0] = 1
    write_native(tmp_path, None, [{"x": tensor, "y": tensor.float()}])
    report = compute_stats(str(tmp_path))
    assert (report.total.nan, len(report.not_finite)) == (2 * 99_999, 200)
    for name in "xy":
        indices = [place.index for place in report.not_finite if place.name == name]
        assert indices == [divmod(i, 100) for i in range(1, 101)]
    page = to_text(report, terminal=True, plain=True, width=80)
    assert "and 199,978 more" in page


def test_weights_without_a_finite_value_have_no_figures_and_valid_json(tmp_path, monkeypatch):
    weights = {
        "nan": torch.full((3, 4), math.nan, dtype=torch.bfloat16),
        "inf": torch.full((3, 4), math.inf),
        "huge": torch.full((2, 2), 1e308, dtype=torch.float64) * torch.tensor([1.0, -1.0]),
        "large": torch.full((2, 2), 1e100, dtype=torch.float64),
        "mixed": torch.tensor([1, 2, 1e100], dtype=torch.float64),
    }
    write_native(tmp_path, None, [weights])
    report = compute_stats(str(tmp_path))
    rows = {row.name: row for row in report.weights}
    for name in ("nan", "inf"):
        check(rows[name], values_of(weights[name]), weights[name].dtype)
    assert (rows["huge"].min, rows["huge"].max) == (-1e308, 1e308)
    assert rows["huge"].std is None, "its square is beyond float64"
    assert rows["large"].mean == 1e100
    assert set(rows["large"].quantiles.values()) == {1e100}
    assert rows["mixed"].quantiles["0.5"] == 2
    assert not any("BF16" in finding.message for finding in report.findings), "NaN is no value"
    monkeypatch.setattr("llamainspect.tally.FEW", 0)
    monkeypatch.setattr("llamainspect.counted.FEW", 0)
    rows = {row.name: row for row in compute_stats(str(tmp_path)).weights}
    # Beyond float32 there are no buckets, and no quantiles rather than wrong ones.
    assert (rows["large"].quantiles, rows["large"].histogram) == ({}, None)
    assert (rows["mixed"].quantiles, rows["mixed"].max) == ({}, 1e100)
    assert compute_stats(str(tmp_path)).total.quantiles == {}
    json.loads(to_json(report), parse_constant=pytest.fail)
    assert to_text(report, terminal=True, width=80)


def test_the_first_are_the_first_in_every_layout(tmp_path):
    """With rows in another order, and so many that not all are located."""
    weights = tiny_weights()
    weights[PLANTED][:60] = math.nan
    native = compute_stats(str(write_native(tmp_path / "native", TINY, cut(weights, 2))))
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    write_hub(tmp_path / "hub", hub, hub_config(TINY, TINY_HIDDEN))
    other = compute_stats(str(tmp_path / "hub"))
    for report in (native, other):
        assert [place.index for place in report.not_finite] == [divmod(i, 64) for i in range(100)]


def test_very_many_broken_weights_are_counted_and_some_located(tmp_path):
    broken = {f"layers.{i}.attention.wq.weight": torch.full((16, 16), math.nan) for i in range(30)}
    write_native(tmp_path, None, [broken])
    report = compute_stats(str(tmp_path))
    assert (report.total.nan, len(report.not_finite)) == (30 * 256, 2_000)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert len(errors) == 21
    assert errors[-1].message == "NaN or Inf in these weights, too"


def test_numbers_at_the_end_of_float64_are_no_crash(tmp_path):
    def layer(number, *values):
        return {
            f"layers.{number}.feed_forward.experts.{expert}.w1.weight": torch.full(
                (2, 2), value, dtype=torch.float64
            )
            for expert, value in enumerate(values)
        }

    weights = layer(0, 1e300, 0) | layer(1, 1.7e308, -1.7e308) | layer(2, 1e200, 1e-200)
    weights |= layer(3, 1e-300) | layer(4, 5e-324) | layer(5, 1.0)
    for tensor in weights.values():
        tensor[0, 0] /= 2
    write_native(tmp_path, None, [weights])
    report = compute_stats(str(tmp_path))
    json.loads(to_json(report), parse_constant=pytest.fail)
    assert to_text(report, terminal=True, width=100)
    assert (report.total.min, report.total.max) == (-1.7e308, 1.7e308)
    assert report.total.std is None


def test_wide_values_that_stand_close_have_no_quantiles_rather_than_wrong_ones(
    tmp_path, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    near = 1 + 1e-4 * torch.randn(4096, generator=generator)
    few = stats_of(tmp_path / "few", {"near": near})["near"]
    check(few, values_of(near), torch.float32)
    assert few.approximate == (), "so few are counted one by one, too"
    monkeypatch.setattr("llamainspect.tally.FEW", 0)
    monkeypatch.setattr("llamainspect.counted.FEW", 0)
    weights = {
        "near": near,
        "constant": torch.full((50,), 0.1),
        "whole": torch.full((50,), 1001, dtype=torch.int32),
        "spread": 1 + 0.1 * torch.randn(4096, generator=generator),
        "tiny": 1e-40 * torch.randn(4096, generator=generator),
    }
    rows = stats_of(tmp_path, weights)
    assert rows["near"].histogram is None
    assert rows["near"].quantiles["0.5"] == pytest.approx(1, rel=2**-7)
    assert rows["near"].approximate == ("quantiles", "histogram")
    assert rows["near"].std == pytest.approx(float(near.double().std(correction=0)), rel=1e-9)
    assert set(rows["constant"].quantiles.values()) == {float(torch.tensor(0.1))}
    assert set(rows["whole"].quantiles.values()) == {1001.0}
    assert rows["whole"].histogram.counts == (50,)
    check(rows["spread"], values_of(weights["spread"]), torch.float32)
    assert rows["tiny"].quantiles == {}, "float32 has few digits there"
    report = compute_stats(str(tmp_path))
    notes = [f.where for f in report.findings if f.message.startswith("no histogram")]
    assert notes == ["near"]
    for row in rows.values():
        assert all(row.min <= value <= row.max for value in row.quantiles.values())


def test_any_byte_but_0_is_true(tmp_path):
    tensor = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).view(torch.bool)
    row = stats_of(tmp_path, {"x": tensor})["x"]
    assert (row.zeros, row.mean, row.max) == (1, 0.75, 1)


def test_findings_name_weights_in_the_order_of_the_files(tmp_path, monkeypatch):
    weights = {f"w{i:02d}": torch.ones(40, 40).bfloat16().float() for i in range(12)}
    write_native(tmp_path, None, [weights])
    count = count_values

    def slow(checkpoint, piece, memory):
        time.sleep(0.002 * (12 - int(piece.weight.name[1:])))
        return count(checkpoint, piece, memory)

    monkeypatch.setattr("llamainspect.stats.count_values", slow)
    monkeypatch.setattr("llamainspect.workers.BATCH_JOBS", 1)
    report = compute_stats(str(tmp_path))
    (note,) = [finding for finding in report.findings if "BF16" in finding.message]
    assert note.where == "w00, w01, w02 and 9 more"


def test_nan_in_another_shards_copy_is_found(tmp_path):
    shards = cut(tiny_weights(), 2)
    shards[1]["norm.weight"] = shards[1]["norm.weight"].clone()
    shards[1]["norm.weight"][5] = math.nan
    report = compute_stats(str(write_native(tmp_path, TINY, shards)))
    (finding,) = [f for f in report.findings if "copy, the first" in f.message]
    assert (finding.severity, finding.where) == ("error", "norm.weight")
    assert "1 NaN or Inf in another shard's copy, the first at [5] (consolidated.01.pth @" in (
        finding.message
    )
    assert (report.total.nan, report.not_finite_in_copies) == (0, 1)
    (place,) = report.not_finite
    assert (place.index, place.place.partition(" @")[0]) == ((5,), "consolidated.01.pth")
    assert "0 NaN, 0 Inf, and 1 in other shards' copies" in to_text(report, terminal=False)


def test_where_a_file_has_other_names_or_rows_they_are_said(tmp_path):
    weights = tiny_weights()
    weights[PLANTED][37, 5] = math.nan  # row 5 of head 2: the third of the odd ones
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    write_hub(tmp_path, hub, hub_config(TINY, TINY_HIDDEN))
    report = compute_stats(str(tmp_path))
    (place,) = report.not_finite
    name = "model.layers.1.self_attn.q_proj.weight"
    assert (place.stored_name, place.stored_index) == (name, (42, 5))
    assert hub[name][42, 5].isnan()
    assert f"[42, 5] of {name} there" in report.findings[0].message
    shards = cut(weights, 2)
    (place,) = compute_stats(str(write_native(tmp_path / "two", TINY, shards))).not_finite
    assert (place.stored_name, place.stored_index) == (PLANTED, (5, 5))
    assert shards[1][PLANTED][5, 5].isnan()


def test_what_was_not_read_is_counted(tmp_path):
    weights = {"z": torch.zeros(2, 2, dtype=torch.complex64), "y": torch.rand(3)}
    report = compute_stats(str(write_native(tmp_path, None, [weights])))
    assert (report.count, report.unread) == (2, 1)
    assert "not read   1 weight, see below" in to_text(report, terminal=False)


def test_whole_numbers_that_float64_lacks_are_noted(tmp_path):
    weights = {"big": torch.tensor([2**53 + 1, 2**53 + 3]), "small": torch.tensor([2**53])}
    report = compute_stats(str(write_native(tmp_path, None, [weights])))
    assert [f.where for f in report.findings if "2**53" in f.message] == ["big"]


def test_spreads_that_float64_lacks_are_none_and_noted(tmp_path):
    weights = {
        "huge": torch.tensor([1e200, -1e200], dtype=torch.float64),
        "tiny": torch.tensor([1e-294, 3e-294], dtype=torch.float64),
    }
    report = compute_stats(str(write_native(tmp_path, None, [weights])))
    assert [row.std for row in report.weights] == [None, None]
    assert [f.where for f in report.findings if "squares" in f.message] == ["huge, tiny"]


# --- quantisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [None, 32, 48])
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_the_round_trip_is_that_of_simulate(tmp_path, form, group_size):
    from llamainspect.model.quantize import make_simulation, rounded

    weights = tiny_weights()
    write_native(tmp_path, TINY, cut(weights, 2))
    report = compute_stats(
        str(tmp_path), StatsOptions(quantize=form, group_size=group_size, sort="error")
    )
    simulation = make_simulation(form, group_size)
    assert report.quantize == simulation.text
    errors = {row.name: row.quantize_error for row in report.weights}
    square = error = 0.0
    for name, weight in weights.items():
        linear = name.split(".")[-2] in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
        assert (errors[name] is not None) == linear, name
        if linear:
            values = weight.float()
            lost = (values - rounded(values, simulation)).double()
            expected = lost.norm() / values.double().norm()
            assert errors[name] == pytest.approx(float(expected), rel=1e-12)
            if name.startswith("layers.0."):
                square += float(values.double().square().sum())
                error += float(lost.square().sum())
    layer = next(row for row in report.by_layer if row.name == "layer 0")
    assert layer.quantize_error == pytest.approx(math.sqrt(error / square), rel=1e-12)
    ordered = [row.quantize_error for row in report.weights if row.quantize_error is not None]
    assert ordered == sorted(ordered, reverse=True)
    assert [row.quantize_error for row in report.weights[: len(ordered)]] == ordered


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_the_round_trip_of_other_dtypes(tmp_path, dtype):
    from llamainspect.model.quantize import make_simulation, rounded

    name = "layers.0.attention.wq.weight"
    weight = random_tensor(dtype, (70, 200))
    row = stats_of(tmp_path, {name: weight}, StatsOptions(quantize="int4"))[name]
    values = weight.float()
    lost = (values - rounded(values, make_simulation("int4", None))).double()
    assert row.quantize_error == pytest.approx(
        float(lost.norm() / values.double().norm()), rel=1e-12
    )
    check(row, values_of(weight), dtype)


def test_what_is_quantised_already_is_left_alone(tmp_path):
    weights = {"layers.0.attention.wq.weight": torch.randint(-9, 9, (8, 64), dtype=torch.int32)}
    report = compute_stats(
        str(write_native(tmp_path, None, [weights])), StatsOptions(quantize="int4", sort="error")
    )
    assert report.weights[0].quantize_error is None
    assert any("nothing to quantise" in finding.message for finding in report.findings)
    assert "suffer" not in to_text(report, terminal=False)


def test_a_group_without_a_scale_is_lost(tmp_path):
    """A value beyond what 16 bits can scale takes its whole group with it."""
    name = "layers.0.attention.wq.weight"
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    whole = stats_of(tmp_path / "a", {name: weight}, StatsOptions(quantize="int4"))[name]
    assert whole.quantize_error < 0.2
    weight[1, 3] = 1e30
    row = stats_of(tmp_path / "b", {name: weight}, StatsOptions(quantize="int4"))[name]
    assert row.quantize_error == pytest.approx(1)


def test_a_weight_of_zeros_and_one_with_nan_have_a_round_trip_or_none(tmp_path):
    names = [f"layers.0.attention.{n}.weight" for n in ("wq", "wk", "wv")]
    zeros, nan = torch.zeros(4, 64), torch.ones(4, 64)
    nan[1, 1] = math.nan
    rows = stats_of(
        tmp_path,
        dict(zip(names, (zeros, nan, torch.full((4, 64), math.nan)), strict=True)),
        StatsOptions(quantize="int8"),
    )
    assert [rows[name].quantize_error for name in names] == [None, pytest.approx(0, abs=1e-7), None]


# --- what stands out ------------------------------------------------------------------------------


def deep(layers=12):
    return random_weights(dense_shapes({**TINY, "n_layers": layers}, TINY_HIDDEN))


def test_a_layer_that_departs_is_pointed_out_and_no_other(tmp_path):
    weights = deep()
    weights["layers.7.attention.wo.weight"] *= 1.5
    weights["layers.3.feed_forward.w1.weight"] *= 0.25
    write_native(tmp_path, {**TINY, "n_layers": 12}, [weights])
    report = compute_stats(str(tmp_path))
    found = [(row.layer, row.kind) for row in report.departures]
    assert found == [(3, "feed_forward.w1"), (7, "attention.wo")]
    assert report.departures[1].ratio == pytest.approx(1.5, rel=0.05)
    assert report.ok, "to stand out is no error"


def test_spreads_that_grow_from_layer_to_layer_do_not_depart(tmp_path):
    weights = deep()
    for name in weights:
        if name.startswith("layers."):
            weights[name] *= 1.06 ** int(name.split(".")[1])  # twice as large at the end
    write_native(tmp_path, {**TINY, "n_layers": 12}, [weights])
    assert compute_stats(str(tmp_path)).departures == ()


def test_the_profile_has_every_kind_and_layer(tmp_path):
    weights = deep(5)
    write_native(tmp_path, {**TINY, "n_layers": 5}, [weights])
    report = compute_stats(str(tmp_path))
    profiles = {profile.kind: profile for profile in report.profile}
    assert len(profiles) == 9
    rows = {row.name: row for row in report.weights}
    for kind, profile in profiles.items():
        assert profile.layers == (0, 1, 2, 3, 4)
        names = [f"layers.{layer}.{kind}.weight" for layer in profile.layers]
        assert profile.std == tuple(rows[name].std for name in names)
        assert profile.abs_max == tuple(rows[name].abs_max for name in names)


def test_experts_of_a_layer_are_one_kind(tmp_path):
    weights = {
        f"layers.{layer}.feed_forward.experts.{expert}.w1.weight": torch.randn(8, 8) * (expert + 1)
        for layer in range(2)
        for expert in range(3)
    }
    write_native(tmp_path, None, [weights])
    weights["layers.1.feed_forward.experts.3.w1.weight"] = torch.full((2, 2), math.nan)
    weights["layers.1.feed_forward.experts.0.w1.weight"][3, 3] = math.nan
    write_native(tmp_path, None, [weights])
    (profile,) = compute_stats(str(tmp_path)).profile
    assert profile.kind == "feed_forward.experts.*.w1"
    del weights["layers.1.feed_forward.experts.3.w1.weight"]
    together = torch.cat([w for name, w in weights.items() if ".1.feed" in name]).double()
    together = together[together.isfinite()]
    assert profile.std[1] == pytest.approx(float(together.std(correction=0)), rel=1e-9)
    assert profile.l2[1] == pytest.approx(float(together.norm()), rel=1e-12)
    assert profile.abs_max[1] == float(together.abs().max())


def test_what_could_not_be_read_is_not_called_constant(tiny2, tmp_path):
    (tiny2 / "consolidated.01.pth").unlink()
    messages = [f.message for f in compute_stats(str(tiny2)).findings]
    assert not any("are the same" in message for message in messages)
    write_native(tmp_path / "c", None, [{"z": torch.zeros(3, 3, dtype=torch.complex64)}])
    (finding,) = [f for f in compute_stats(str(tmp_path / "c")).findings if f.where == "z"]
    assert finding.message == "no figures: nothing here knows the values of this dtype"


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel",
    "ignore:TypedStorage is deprecated",
)
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32], ids=str)
def test_the_whole_numbers_of_quantised_weights_are_not_taken_for_values(tmp_path, dtype):
    quantised = torch.quantize_per_tensor(torch.full((2, 2), 0.3), 0.1, 0, dtype)
    assert quantised.int_repr().unique().tolist() == [3]
    row = stats_of(tmp_path, {"w": quantised})["w"]
    assert (row.count, row.mean, row.max, row.zeros) == (4, None, None, None)


def test_lost_and_constant_matrices_are_warnings(tmp_path):
    weights = {
        "gone": torch.zeros(8, 8),
        "same": torch.full((8, 8), 0.5),
        "hole": torch.cat([torch.zeros(4, 8), torch.randn(4, 8)]),
        "norm.weight": torch.ones(8),
        "good": torch.randn(8, 8),
    }
    write_native(tmp_path, None, [weights])
    report = compute_stats(str(tmp_path))
    found = {
        f.where: f.severity for f in report.findings if " 0" in f.message or "same" in f.message
    }
    assert found == {"gone": "warning", "same": "warning", "hole": "note"}
    assert report.ok


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_what_the_library_says():
    done = run("stats", EXAMPLE, "--json", "--quantize", "int8")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = json.loads(
        to_json(compute_stats(str(EXAMPLE), StatsOptions(sort="error", quantize="int8")))
    )
    assert answer.pop("seconds") > 0
    expected.pop("seconds")
    assert answer == expected
    assert {"name", "count", "mean", "std", "min", "max", "zeros", "nan", "inf"} <= set(
        answer["weights"][0]
    )


def test_nan_ends_with_1_and_is_named(tiny):
    weights = torch.load(tiny / "consolidated.00.pth", weights_only=True)
    weights["norm.weight"][9] = math.nan
    torch.save(weights, tiny / "consolidated.00.pth")
    done = run("stats", tiny)
    assert done.returncode == 1
    assert "norm.weight: 1 NaN, the first at [9] (consolidated.00.pth @" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--group-size", "32"], 2, "--group-size is of --quantize"),
        (["--sort", "error"], 2, "--sort error is of --quantize"),
        (["--log"], 2, "--log is of --plot NAME"),
        (["*", "--plot", "norm.weight"], 2, "leave out the pattern"),
        (["--top", "-1"], 2, "--top: a whole number from 0 upwards"),
        (["--plot", "norm.wieght"], 3, "no weight is called norm.wieght"),
        (["nothing*"], 3, "no weight is called like 'nothing*'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, code, sentence):
    done = run("stats", EXAMPLE, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pattern_alone_means_the_current_directory():
    done = run("stats", "*.wq.weight", "--json", cwd=EXAMPLE)
    assert len(json.loads(done.stdout)["weights"]) == 4


def test_a_pattern_may_have_the_names_of_hugging_face(hub_path):
    report = compute_stats(str(hub_path), StatsOptions("*self_attn.q_proj*"))
    assert [row.name for row in report.weights] == [
        f"layers.{layer}.attention.wq.weight" for layer in range(2)
    ]


def test_top_and_sort_choose_the_rows():
    everything = compute_stats(str(EXAMPLE)).weights
    for sort, figure in (("std", "std"), ("abs-max", "abs_max"), ("entropy", "entropy")):
        rows = compute_stats(str(EXAMPLE), StatsOptions(sort=sort, top=5)).weights
        expected = sorted((getattr(row, figure) for row in everything), reverse=True)[:5]
        assert [getattr(row, figure) for row in rows] == expected
    names = [row.name for row in compute_stats(str(EXAMPLE), StatsOptions(sort="name")).weights]
    assert names[0] == "layers.0.attention.wk.weight"
    assert compute_stats(str(EXAMPLE), StatsOptions(top=0)).weights == ()


def test_the_command_line_knows_every_order():
    assert get_args(StatsSort) == get_args(Sort)
    assert set(get_args(Sort)) == {"file", "name", *SORTS}


def test_what_has_no_figure_comes_last(tmp_path):
    weights = {"z": torch.zeros(2, dtype=torch.complex64), "a": -torch.rand(9), "b": torch.rand(9)}
    write_native(tmp_path, None, [weights])
    rows = compute_stats(str(tmp_path), StatsOptions(sort="mean")).weights
    assert rows[-1].name == "z"
    assert abs(rows[0].mean) >= abs(rows[1].mean)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_plot_is_the_histogram_from_end_to_end(logarithmic):
    name = "layers.2.attention.wk.weight"
    options = StatsOptions(plot=name, logarithmic=logarithmic)
    report = compute_stats(str(EXAMPLE), options)
    weight = torch.load(EXAMPLE / "consolidated.00.pth", weights_only=True)[name]
    values = values_of(weight)
    counts, edges = np.histogram(values, bins=len(report.plot.histogram.counts))
    assert report.plot.histogram.counts == tuple(counts.tolist())
    assert (report.plot.histogram.start, report.plot.histogram.end) == (edges[0], edges[-1])
    assert report.nbytes_read == weight.nbytes
    page = to_text(report, terminal=True, plain=True, width=80)
    assert f"{counts.max():,} " in page
    bottom = page.splitlines()[-2].partition("0 ")[2]
    assert [mark != " " for mark in f"{bottom:<{len(counts)}}"] == (counts > 0).tolist()
    assert max(map(len, page.splitlines())) <= 80
    piped = to_text(report, terminal=False)
    assert [line.split()[-1] for line in piped.splitlines()[-len(counts) :]] == [
        f"{count:,}" for count in counts.tolist()
    ]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_pages_fit_their_terminal(tmp_path, columns):
    weights = random_weights({
        f"layers.{layer}.attention.{kind}.weight": (4, 4)
        for layer in range(126) for kind in ("wq", "wk")
    })  # fmt: skip
    write_native(tmp_path, None, [weights])
    page = to_text(compute_stats(str(tmp_path)), terminal=True, plain=True, width=columns)
    assert max(map(len, page.splitlines())) <= columns
    assert "attention.wq" in page


@pytest.mark.parametrize("columns", [40, 80])
def test_a_plot_fits_its_terminal(columns):
    options = StatsOptions(plot="layers.2.attention.wk.weight")
    page = to_text(compute_stats(str(EXAMPLE), options), terminal=True, plain=True, width=columns)
    chart = page.splitlines()[-13:]
    assert max(map(len, chart)) <= columns
    assert chart[0].lstrip(" 0123456789,").startswith(("▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"))


def test_in_a_pipe_rows_of_a_map_end(tmp_path):
    weights = random_weights({f"layers.{i}.attention.wq.weight": (2, 2) for i in range(1_000)})
    page = to_text(compute_stats(str(write_native(tmp_path, None, [weights]))), terminal=False)
    rows = [line for line in page.splitlines() if line.startswith("attention.wq ")]
    assert len(rows) == 2
    assert all(100 < len(row) < 200 for row in rows)
    assert "a mark stands for 8 layers" in page


def test_colour_is_on_a_terminal_alone():
    assert "\x1b[" in in_terminal("stats", EXAMPLE)
    assert "\x1b[" not in in_terminal("stats", EXAMPLE, env={"NO_COLOR": "1"})
    assert "\x1b[" not in run("stats", EXAMPLE).stdout


def test_names_from_files_are_escaped(tmp_path):
    write_native(tmp_path, None, [{"layers.0.\x1b[31mred": torch.randn(3, 3)}])
    for terminal in (True, False):
        page = to_text(compute_stats(str(tmp_path)), terminal=terminal, plain=True, width=100)
        assert "\x1b" not in page
        assert r"\x1b[31mred" in page


# --- broken files, large files --------------------------------------------------------------------


def test_a_missing_shard_is_an_error_and_the_rest_is_looked_at(tiny2):
    (tiny2 / "consolidated.01.pth").unlink()
    report = compute_stats(str(tiny2))
    assert not report.ok
    rows = {row.name: row for row in report.weights}
    assert rows["output.weight"].mean is None
    assert rows["norm.weight"].mean is not None
    assert any("not looked at" in finding.message for finding in report.findings)


def test_a_file_that_ends_early_is_an_error_finding(tmp_path):
    shutil.copytree(FORMS["one shard"](tmp_path / "whole"), tmp_path / "cut")
    hub = HUB_FORMS["safetensors, one file"](tmp_path / "hub")
    file = hub / "model.safetensors"
    os.truncate(file, file.stat().st_size * 6 // 10)
    report = compute_stats(str(hub))
    assert not report.ok
    assert any(row.mean is not None for row in report.weights)
    json.loads(to_json(report))
    # One finding of the reader's, and one of all weights that lack bytes.
    assert len([finding for finding in report.findings if finding.severity == "error"]) <= 2


def test_weights_that_fail_for_other_reasons_have_findings_of_their_own(tmp_path, monkeypatch):
    write_native(tmp_path, None, [{f"w{i}": torch.rand(4) for i in range(4)}])

    def failing(checkpoint, piece, memory):
        place = int(piece.weight.name[1:])
        reason = f"byte {place:,}00,000 is missing" if place < 3 else "it is torn"
        raise CorruptFile(f"{piece.weight.name}: {reason}")

    monkeypatch.setattr("llamainspect.stats.count_values", failing)
    errors = [f for f in compute_stats(str(tmp_path)).findings if f.severity == "error"]
    assert [(f.where, f.message) for f in errors] == [
        ("w0, w1, w2", "byte 000,000 is missing"), ("w3", "it is torn"),
    ]  # fmt: skip


def test_a_name_with_brackets_is_found(tmp_path):
    write_native(tmp_path, None, [{"a[0]": torch.rand(3), "b": torch.rand(3)}])
    assert [row.name for row in compute_stats(str(tmp_path), StatsOptions("a[0]")).weights] == [
        "a[0]"
    ]


def test_a_file_that_changes_under_way_is_noticed(tiny, monkeypatch):
    read_into = Folder.read_into

    def touching(self, file, offset, buffer):
        read_into(self, file, offset, buffer)
        os.utime(Path(self.directory, file), (1, 1))

    monkeypatch.setattr(Folder, "read_into", touching)
    report = compute_stats(str(tiny))
    changed = "it changed while it was read; try again"
    of_file, of_weights = sorted(report.findings, key=lambda finding: len(finding.message))
    assert (of_file.where, of_file.message) == ("consolidated.00.pth", changed)
    assert of_weights.message == f"consolidated.00.pth: {changed}"  # which have no figures then


@pytest.mark.skipif(sys.platform != "linux", reason="a peak that is not the parent's, from /proc")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_memory_does_not_grow_with_a_weight(tmp_path, dtype):
    """One row of 512 MiB, which no block may hold at once."""
    elements = 2**29 // dtype.itemsize
    write_native(tmp_path, None, [{"x": torch.empty(1, elements, dtype=dtype)}], sparse=True)
    script = (
        "import sys; from llamainspect.stats import compute_stats\n"
        "report = compute_stats(sys.argv[1])\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(report.total.zeros, peak.split()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    zeros, peak = map(int, done.stdout.split())
    assert zeros == elements
    assert peak < 300 * 1024, "KiB"


def test_transposed_views_in_shards_are_located_and_counted(tmp_path):
    weights = tiny_weights()
    name = "layers.0.feed_forward.w1.weight"
    weights[name][100, 7] = math.inf
    plain = compute_stats(str(write_native(tmp_path / "plain", TINY, cut(weights, 2))))
    shards = cut(weights, 2)
    for shard in shards:
        for key, weight in shard.items():
            if weight.dim() == 2:
                shard[key] = weight.t().contiguous().t()
    turned = compute_stats(str(write_native(tmp_path / "turned", TINY, shards)))
    assert turned.weights == plain.weights
    assert [place.index for place in turned.not_finite] == [(100, 7)]
    file, _, offset = turned.not_finite[0].place.partition(" @ ")
    data = (tmp_path / "turned" / file).read_bytes()[int(offset.replace(",", "")) :][:2]
    assert data == b"\x80\x7f"


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_a_large_transposed_view_has_figures_and_no_round_trip(tmp_path, quantize):
    name = "layers.0.attention.wq.weight"
    view = torch.ones(5000, 5000, dtype=torch.bfloat16).t()
    write_native(tmp_path, None, [{name: view}])
    report = compute_stats(str(tmp_path), StatsOptions(quantize=quantize))
    assert (report.total.count, report.total.mean, report.ok) == (25_000_000, 1.0, True)
    notes = [finding.message for finding in report.findings if "round trip" in finding.message]
    assert len(notes) == (quantize is not None)


def measured(piece, checkpoint):
    """Most bytes that counting a slice takes, by tracemalloc, which numpy reports to."""
    tracemalloc.start()
    count_values(checkpoint, piece, Memory())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float32,
                                   torch.float64], ids=str)  # fmt: skip
@pytest.mark.parametrize("form", [None, "int4"])
@pytest.mark.parametrize("shape", [(2048, 4096), (3, 2**20), (2**22, 1)])
def test_a_thread_takes_little_memory(tmp_path, dtype, form, shape):
    weight = torch.zeros(shape, dtype=dtype)
    write_native(tmp_path, None, [{"x": weight}], sparse=True)
    checkpoint = open_checkpoint(str(tmp_path))
    chosen = weight_form(form) if form else None
    for piece in slices_of(checkpoint.weights["x"], chosen):
        table_of("BF16"), table_of("F8_E4M3")  # made once, for all
        assert measured(piece, checkpoint) < 18 * 2**20


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(InvalidRequest, match="--group-size"):
        StatsOptions(quantize="int4", group_size=0).check()


def test_values_that_are_not_asked_for_are_not_read():
    report = compute_stats(str(EXAMPLE), StatsOptions("norm.weight"))
    assert report.nbytes_read == 2 * 128


def test_a_view_without_end_is_not_read(tmp_path):
    weights = {"norm.weight": torch.ones(4), "endless": torch.ones(1).expand(2**40)}
    report = compute_stats(str(write_native(tmp_path, None, [weights])))
    assert [(row.name, row.mean) for row in report.weights if row.mean is not None] == [
        ("norm.weight", 1.0)
    ]
    (refused,) = (f for f in report.findings if f.where == "endless")
    assert "views show the 4 bytes of its storage more than 32 times over" in refused.message
