"""What a difference looks like: an example made for each rule, and near misses of each."""

import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from checkpoints import cut, dense_shapes, random_weights, write_native
from hub_layout import halves_first, hub_config, to_hub, write_hub
from safetensors.torch import save_file

from llamainspect.diff import diff_checkpoints

# wq, wo 256 x 256; wk, wv 128 x 256; w1, w3 512 x 256; w2 256 x 512: a head has 32 rows.
MODEL = {
    "dim": 256,
    "n_layers": 3,
    "n_heads": 8,
    "n_kv_heads": 4,
    "vocab_size": 256,
    "multiple_of": 256,
    "ffn_dim_multiplier": 0.6,
    "norm_eps": 1e-5,
    "rope_theta": 5e5,
}
HIDDEN = 512  # int(0.6 * 682) = 409, up to a multiple of 256
NBYTES = 2 * (2 * 256 * 256 + 256 + 3 * (2 * 256**2 + 2 * 128 * 256 + 3 * 512 * 256 + 2 * 256))
LAYERS = range(3)
MATRICES = ("attention.wq", "attention.wk", "attention.wv", "attention.wo",
            "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")  # fmt: skip
F8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
KINDS = {"F16": torch.float16, "BF16": torch.bfloat16} | F8


@cache
def base(dtype: torch.dtype = torch.bfloat16, seed: int = 0, n_layers: int = 3):
    """Weights of the sizes that trained ones have; do not write into them."""
    shapes = dense_shapes(MODEL | {"n_layers": n_layers}, HIDDEN)
    made = random_weights(shapes, seed, torch.float32)
    return {
        name: (1 + weight / 16 if name.endswith("norm.weight") else weight / 32).to(dtype)
        for name, weight in made.items()
    }


def names(*ends: str, layers=LAYERS) -> list[str]:
    return [f"layers.{layer}.{end}.weight" for layer in layers for end in ends]


def noise(weight: torch.Tensor, size: float, seed: int) -> torch.Tensor:
    """Another random direction, of so much of the weight's length."""
    made = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return made * (size * weight.float().norm() / made.norm())


def params_of(weights):
    layers = sum(name.endswith("wq.weight") for name in weights)
    return MODEL | {"n_layers": layers}


def native(path: Path, weights, ranks: int = 1, **how) -> str:
    return str(write_native(path, params_of(weights), cut(weights, ranks, **how)))


def hub(path: Path, weights, **how) -> str:
    params = params_of(weights)
    config = hub_config(params, HIDDEN)
    return str(write_hub(path, to_hub(weights, params, HIDDEN), config, **how))


FORMS = {"native": native, "hub": hub}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The model in BF16, in both layouts; do not write into it."""
    root = tmp_path_factory.mktemp("original")
    return {form: write(root / form, base()) for form, write in FORMS.items()}


def likeness(a: str, b: str) -> tuple[str | None, str]:
    found = diff_checkpoints(a, b).likeness
    return (found.kind, found.message) if found else (None, "")


def kind_of(tmp_path: Path, a, b) -> str | None:
    """Of two sets of weights, in Meta's layout."""
    return likeness(native(tmp_path / "a", a), native(tmp_path / "b", b))[0]


# --- dtype ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_same_values_in_another_type_are_a_dtype(tmp_path, original, form):
    wide = {name: weight.float() for name, weight in base().items()}
    path = FORMS[form](tmp_path, wide)
    for a, b, ways in ((original["native"], path, "BF16 to F32"),
                       (path, original["hub"], "F32 to BF16")):  # fmt: skip
        kind, message = likeness(a, b)
        assert kind == "dtype"
        assert ways in message


def test_norms_alone_in_another_type_are_a_dtype(tmp_path, original):
    mixed = {name: weight.float() if "norm" in name else weight for name, weight in base().items()}
    report = diff_checkpoints(original["hub"], native(tmp_path, mixed))
    assert (report.likeness.kind, report.identical) == ("dtype", False)
    assert report.counts == {"identical": 23, "equal": 7}


def test_another_type_and_one_other_value_is_no_dtype_alone(tmp_path, original):
    wide = {name: weight.float() for name, weight in base().items()}
    wide["norm.weight"] = wide["norm.weight"].clone()
    wide["norm.weight"][5] = 3.0
    kind, message = likeness(original["native"], native(tmp_path, wide))
    assert kind == "damage"
    assert message.startswith("one element alone: norm.weight at [5]")


# --- row order ------------------------------------------------------------------------------------


def forward(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return halves_first(weight, heads)


def backward(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows that `forward` would have made this one of."""
    order = halves_first(torch.arange(weight.shape[0]), heads)
    return weight[order.argsort()]


def test_the_two_orders_undo_each_other():
    rows = torch.arange(64)
    assert forward(rows, 2)[:4].tolist() == [0, 2, 4, 6]
    assert forward(rows, 2)[16:18].tolist() == [1, 3]
    assert torch.equal(backward(forward(rows, 2), 2), rows)
    assert not torch.equal(forward(forward(rows, 2), 2), rows)


def reordered(order, layers=LAYERS, ends=("wq", "wk")):
    weights = dict(base())
    for end in ends:
        for name in names(f"attention.{end}", layers=layers):
            weights[name] = order(weights[name], 8 if end == "wq" else 4)
    return weights


# In Meta's layout: left in Hugging Face's order, or undone once too often. In Hugging Face's: not
# reordered at all (which reads as undone too often), or twice.
@pytest.mark.parametrize("order", [forward, backward])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
def test_rows_left_in_the_wrong_order_are_named(tmp_path, original, order, form, other):
    path = FORMS[form](tmp_path, reordered(order))
    for a, b in ((original[other], path), (path, original[other])):
        kind, message = likeness(a, b)
        assert (kind, "6 weights" in message) == ("row_order", True)


@pytest.mark.parametrize(
    ("layers", "ends", "count"),
    [((2,), ("wq", "wk"), 2), ((0, 2), ("wq",), 2), ((1,), ("wk",), 1), ((0, 1, 2), ("wk",), 3)],
)
def test_rows_in_the_wrong_order_in_some_layers_are_named(tmp_path, original, layers, ends, count):
    path = native(tmp_path / "1", reordered(forward, layers, ends))
    kind, message = likeness(original["hub"], path)
    assert (kind, f"({count} weight" in message) == ("row_order", True)
    path = native(tmp_path / "2", reordered(forward, layers, ends), 2)
    assert likeness(original["native"], path)[0] == "row_order"
    path = hub(tmp_path / "3", reordered(backward, layers, ends), shards=2)
    assert likeness(original["native"], path)[0] == "row_order"


def test_rows_in_the_wrong_order_are_named_across_dtypes(tmp_path, original):
    wide = {name: weight.float() for name, weight in reordered(forward).items()}
    assert likeness(original["native"], native(tmp_path, wide))[0] == "row_order"


@pytest.mark.parametrize("near", ["heads reversed", "one value more", "wv too", "one layer turned"])
def test_rows_in_another_order_are_not_called_the_wrong_one(tmp_path, original, near):
    weights = reordered(forward)
    name = "layers.1.attention.wq.weight"
    if near == "heads reversed":
        weights = dict(base())
        weights[name] = weights[name].view(8, 32, 256).flip(0).reshape(256, 256)
    elif near == "one value more":
        weights[name] = weights[name].clone()
        weights[name][40, 40] = 1.0
    elif near == "wv too":
        weights["layers.1.attention.wv.weight"] = forward(
            weights["layers.1.attention.wv.weight"], 4
        )
    else:
        weights[name] = weights[name].flip(0)
    assert likeness(original["native"], native(tmp_path, weights))[0] is None


# --- shards ---------------------------------------------------------------------------------------


def swap(path: str, order) -> str:
    """Give file i the contents of file order[i]."""
    files = [Path(path) / f"consolidated.{rank:02d}.pth" for rank in range(len(order))]
    data = [file.read_bytes() for file in files]
    for file, place in zip(files, order, strict=True):
        file.write_bytes(data[place])
    return path


@pytest.mark.parametrize("order", [(1, 0), (0, 2, 1, 3), (1, 2, 3, 0)])
@pytest.mark.parametrize("axis", [0, 1], ids=["embedding by rows", "embedding by columns"])
def test_swapped_shards_are_named(tmp_path, original, order, axis):
    ranks = len(order)
    right = native(tmp_path / "right", base(), ranks, embedding_axis=axis)
    wrong = swap(native(tmp_path / "wrong", base(), ranks, embedding_axis=axis), order)
    for a, b, where in (
        (original["native"], wrong, "B"),
        (original["hub"], wrong, "B"),
        (right, wrong, "B"),
        (wrong, original["native"], "A"),
        (wrong, original["hub"], "A"),
    ):
        kind, message = likeness(a, b)
        assert kind == "swapped_shards"
        assert f"shards of {where} in another order" in message
        moved = [(rank, part) for rank, part in enumerate(order) if rank != part]
        listed = re.findall(r"(\d\d)\.pth holds what belongs in consolidated\.(\d\d)", message)
        assert len(listed) == min(len(moved), 3)
        assert {(int(rank), int(part)) for rank, part in listed} <= set(moved)
        assert ("and 1 more" in message) == (len(moved) == 4)


def test_swapped_shards_of_another_type_are_named(tmp_path, original):
    wide = {name: weight.float() for name, weight in base().items()}
    wrong = swap(native(tmp_path, wide, 2), (1, 0))
    assert likeness(original["native"], wrong)[0] == "swapped_shards"


def test_swapped_shards_with_heads_stored_twice_are_named(tmp_path, original):
    """As in 405B: 8 ranks, 4 KV heads; two neighbours hold the same head."""
    stored = {
        name: tensor.view(4, 32, 256).repeat_interleave(2, 0).reshape(256, 256)
        if name.endswith(("wk.weight", "wv.weight"))
        else tensor
        for name, tensor in base().items()
    }
    wrong = swap(native(tmp_path / "b", stored, 8), (2, 3, 0, 1, 4, 5, 6, 7))
    assert likeness(original["hub"], wrong)[0] == "swapped_shards"


def test_swapped_shards_and_one_other_value_are_not_only_swapped(tmp_path, original):
    weights = base() | {"norm.weight": base()["norm.weight"] * 2}
    path = swap(native(tmp_path / "1", weights, 2), (1, 0))
    assert likeness(original["native"], path)[0] == "unrelated"  # by their cosine
    weights = dict(base())
    weights["output.weight"] = weights["output.weight"].clone()
    weights["output.weight"][200, 200] = 5.0
    path = swap(native(tmp_path / "2", weights, 2), (1, 0))
    assert likeness(original["native"], path)[0] == "unrelated"


def test_a_shard_that_is_there_twice_is_not_swapped(tmp_path, original):
    path = native(tmp_path, base(), 4)
    shutil.copy(f"{path}/consolidated.00.pth", f"{path}/consolidated.01.pth")
    assert likeness(original["native"], path)[0] is None


# --- damage ---------------------------------------------------------------------------------------


def harm(path: str, file: str, tensor: torch.Tensor, start: int, data: bytes) -> int:
    """Overwrite bytes of a tensor as it is stored; returns the first one's place in the file."""
    raw = tensor.contiguous().view(torch.int16).numpy().tobytes()
    target = Path(path) / file
    content = bytearray(target.read_bytes())
    place = content.find(raw)
    assert place > 0
    assert content.find(raw, place + 1) == -1
    content[place + start : place + start + len(data)] = data
    target.write_bytes(content)
    return place + start


def rubbish(count: int) -> bytes:
    """Bytes of which neighbours in pairs are never zero and never those of a small number."""
    return bytes([0x11, 0x42]) * (count // 2)


class Copies(dict):
    """A copy of each form, made when it is asked for."""

    def __init__(self, original, path: Path) -> None:
        self.original, self.path = original, path

    def __missing__(self, form: str) -> str:
        self[form] = shutil.copytree(self.original[form], str(self.path / form))
        return self[form]


@pytest.fixture
def place(original, tmp_path):
    """The model in BF16, for a test to damage."""
    return Copies(original, tmp_path)


FILES = {"native": "consolidated.00.pth", "hub": "model.safetensors"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("name", ["norm.weight", "layers.2.ffn_norm.weight"])
def test_a_damaged_norm_is_one_stretch(original, place, form, other, name):
    first = harm(place[form], FILES[form], base()[name], 100, rubbish(64))
    kind, message = likeness(original[other], place[form])
    assert kind == "damage"
    assert f"bytes {first:,} to {first + 64:,} of {FILES[form]} in B ({name})" in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("fill", [bytes, rubbish], ids=["zeros", "rubbish"])
def test_a_damaged_stretch_of_a_matrix_is_found(original, place, form, other, fill):
    name = "layers.1.feed_forward.w2.weight"
    first = harm(place[form], FILES[form], base()[name], 5000, fill(4096))
    kind, message = likeness(original[other], place[form])
    assert kind == "damage"
    assert f"bytes {first:,} to {first + 4096:,} of {FILES[form]}" in message


# A row has 512 bytes and a head 32 rows; in Hugging Face's order its first 16 are the even ones.
STRETCHES = {
    "within a row": (700, 200),
    "some rows of one half": (512 * 33, 512 * 5),
    "across the halves of a head": (512 * 44 + 100, 512 * 8),
    "a head": (512 * 64, 512 * 32),
    "across two heads": (512 * 58 + 10, 512 * 12),
    "more than a head": (512 * 30, 512 * 50),
}


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("other", FORMS)
def test_damage_in_q_proj_is_one_stretch_of_the_file(original, place, stretch, other):
    start, count = STRETCHES[stretch]
    assert count < NBYTES / 100
    stored = forward(base()["layers.2.attention.wq.weight"], 8)
    first = harm(place["hub"], FILES["hub"], stored, start, rubbish(count))
    kind, message = likeness(original[other], place["hub"])
    assert kind == "damage"
    assert f"bytes {first:,} to {first + count:,} of {FILES['hub']}" in message


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize(("form", "other"), [("native", "hub"), ("hub", "native")])
def test_damage_of_wq_is_damage_whichever_side_has_it(original, place, form, other, stretch):
    start, count = STRETCHES[stretch]
    stored = base()["layers.2.attention.wq.weight"]
    stored = stored if form == "native" else forward(stored, 8)
    harm(place[form], FILES[form], stored, start, rubbish(count))
    kind, message = likeness(place[form], original[other])
    assert kind == "damage"
    low, high, file, side = re.search(r"bytes (\S+) to (\S+) of (\S+) in (.)", message).groups()
    path = {"A": place[form], "B": original[other]}[side]
    assert file == FILES[form if side == "A" else other]
    # Where the damaged elements stand in that file.
    hit = torch.zeros(256 * 256, dtype=torch.bool)
    hit[start // 2 : (start + count) // 2] = True
    hit = backward(hit.view(256, 256), 8) if form == "hub" else hit.view(256, 256)
    if file == FILES["hub"]:
        hit = forward(hit, 8)
    if file == FILES["hub"]:
        begin = header_of(Path(path) / file)["model.layers.2.self_attn.q_proj.weight"][0]
    else:
        raw = base()["layers.2.attention.wq.weight"].view(torch.int16).numpy().tobytes()
        data = (Path(path) / file).read_bytes()
        begin = data.find(raw[-100:]) + 100 - len(raw)
    places = hit.reshape(-1).nonzero().flatten()
    assert int(low.replace(",", "")) <= begin + 2 * places[0]
    assert int(high.replace(",", "")) >= begin + 2 * places[-1] + 2


def header_of(path: Path) -> dict[str, tuple[int, int]]:
    """First and last byte of every tensor of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: tuple(8 + length + offset for offset in entry["data_offsets"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("mlp.gate_proj", "mlp.up_proj"),
        ("self_attn.k_proj", "self_attn.o_proj"),
        ("self_attn.q_proj", "self_attn.v_proj"),
        ("mlp.up_proj", "post_attention_layernorm"),
    ],
)
@pytest.mark.parametrize("other", FORMS)
def test_damage_across_two_neighbours_is_one_stretch(original, place, one, two, other):
    file = Path(place["hub"]) / FILES["hub"]
    header = header_of(file)
    border = header[f"model.layers.1.{one}.weight"][1]
    assert border == header[f"model.layers.1.{two}.weight"][0]
    content = bytearray(file.read_bytes())
    content[border - 3000 : border + 500] = rubbish(3500)
    file.write_bytes(content)
    kind, message = likeness(original[other], place["hub"])
    assert kind == "damage"
    assert f"bytes {border - 3000:,} to {border + 500:,} of" in message


@pytest.mark.parametrize("form", FORMS)
def test_two_damaged_places_far_apart_are_not_one_stretch(original, place, form):
    weight = base()["layers.1.feed_forward.w1.weight"]
    harm(place[form], FILES[form], weight, 1000, rubbish(300))
    raw = weight.clone().view(torch.int16).numpy().tobytes()
    file = Path(place[form]) / FILES[form]
    content = bytearray(file.read_bytes())
    first = content.find(raw[:1000])
    content[first + 150_000 : first + 150_300] = rubbish(300)
    file.write_bytes(content)
    assert likeness(original["native"], place[form])[0] is None


@pytest.mark.parametrize(
    "pair", [("attention.wo", "feed_forward.w1"), ("attention_norm", "ffn_norm")]
)
def test_two_damaged_weights_far_apart_are_not_one_stretch(original, place, pair):
    for layer, end in zip((0, 2), pair, strict=True):
        weight = base()[f"layers.{layer}.{end}.weight"]
        harm(place["hub"], FILES["hub"], weight, 100, rubbish(300))
    assert likeness(original["native"], place["hub"])[0] is None


def test_a_damaged_row_in_each_of_many_matrices_is_no_lora(original, tmp_path):
    weights = dict(base())
    for name in names("attention.wo"):
        weights[name] = weights[name].clone()
        weights[name][77] = 0
    assert likeness(original["native"], native(tmp_path, weights))[0] is None


def test_more_than_a_hundredth_is_no_one_stretch(original, place):
    weight = base()["output.weight"]  # 131,072 bytes of 3,804,672
    harm(place["native"], FILES["native"], weight, 0, rubbish(60_000))
    assert likeness(original["hub"], place["native"])[0] is None


def test_every_second_element_of_a_norm_in_three_layers_is_no_stretch(original, tmp_path):
    weights = dict(base())
    for name in names("ffn_norm", layers=LAYERS):
        weights[name] = weights[name].clone()
        weights[name][::2] = 0
    assert likeness(original["native"], native(tmp_path, weights))[0] is None


def test_damage_in_one_shard_names_the_shard(original, tmp_path):
    path = native(tmp_path, base(), 2)
    part = base()["layers.2.attention.wo.weight"][:, 128:]  # wo is cut by columns
    first = harm(path, "consolidated.01.pth", part, 600, rubbish(1000))
    kind, message = likeness(original["hub"], path)
    assert kind == "damage"
    assert f"bytes {first:,} to {first + 1000:,} of consolidated.01.pth" in message


# --- rounding -------------------------------------------------------------------------------------


def through(weights, kind: str):
    return {name: weight.to(KINDS[kind]).to(weight.dtype) for name, weight in weights.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_round_trip_is_named_in_both_directions(tmp_path, kind, stored):
    weights = base(stored, n_layers=1)
    if (kind, stored) == ("F16", torch.bfloat16):  # which it holds but for small numbers
        weights = {name: weight * 2**-12 for name, weight in weights.items()}
    rounded = through(weights, kind)
    if all(torch.equal(weights[name], rounded[name]) for name in weights):
        return  # a type holds its own values
    a, b = native(tmp_path / "a", weights), hub(tmp_path / "b", rounded)
    found, message = likeness(a, b)
    assert found == "rounding"
    assert f"B is exactly A after rounding to {kind} " in message
    found, message = likeness(b, a)
    assert found == "rounding"
    assert f"A is exactly B after rounding to {kind} " in message


@pytest.mark.parametrize(
    ("one", "other"),
    [("F32", "BF16"), ("F32", "F16"), ("F32", "F8_E4M3"), ("BF16", "F8_E4M3"), ("BF16", "F8_E5M2"),
     ("F16", "F8_E4M3"), ("F16", "BF16")],
)  # fmt: skip
def test_what_is_stored_in_a_coarser_type_was_rounded_to_that_type(tmp_path, one, other):
    weights = base({"F32": torch.float32, **KINDS}[one], n_layers=1)
    narrow = {name: weight.to(KINDS[other]) for name, weight in weights.items()}
    found, message = likeness(native(tmp_path / "a", weights), native(tmp_path / "b", narrow))
    assert found == "rounding"
    assert f"B is exactly A after rounding to {other} " in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_of_what_is_too_large_is_named(tmp_path, kind):
    weights = {name: weight.clone() for name, weight in base(torch.float32, n_layers=1).items()}
    for name in names("feed_forward.w2", layers=(0,)):
        weights[name][7, 7] = 3.4e38 if kind == "BF16" else 1e5  # Inf, or the largest
    rounded = through(weights, kind)
    a, b = native(tmp_path / "a", weights), native(tmp_path / "b", rounded)
    found, message = likeness(a, b)
    assert (found, f"rounding to {kind} " in message) == ("rounding", True)


@pytest.mark.parametrize("near", ["cut off", "one value more", "eight bits", "one step"])
def test_almost_a_round_trip_is_none(tmp_path, near):
    weights = base(torch.float32, n_layers=1)
    rounded = through(weights, "BF16")
    if near == "cut off":  # towards zero, not to the nearest
        rounded = {
            name: (weight.view(torch.int32) & -65536).view(torch.float32)
            for name, weight in weights.items()
        }
    elif near == "one value more":
        rounded["output.weight"][200, 3] = 0.3
    elif near == "eight bits":
        rounded = {
            name: (weight / weight.abs().max() * 127).round() * (weight.abs().max() / 127)
            for name, weight in weights.items()
        }
    else:
        name = "layers.0.attention.wo.weight"
        rounded[name].view(torch.int32)[5, 5] += 65536
    assert kind_of(tmp_path, weights, rounded) != "rounding"


@pytest.mark.parametrize("half", [slice(0, 512), slice(512, 1024), slice(100, 700)])
def test_a_weight_of_which_some_was_rounded_is_no_round_trip(tmp_path, half):
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(3))  # 4 blocks
    other = weight.clone()
    other[half] = other[half].bfloat16().float()
    for side, tensor in (("a", weight), ("b", other)):
        torch.save({"x": tensor}, tmp_path / f"{side}.pth")
    assert likeness(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))[0] is None


# --- LoRA -----------------------------------------------------------------------------------------


def merged(weights, ends, rank: int, size: float, layers=LAYERS):
    """Products of two thin matrices added to some, of so much of their length, and stored again."""
    result = dict(weights)
    for number, name in enumerate(names(*ends, layers=layers)):
        weight = weights[name]
        generator = torch.Generator().manual_seed(1000 + number)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        down = torch.randn(rank, weight.shape[1], generator=generator)
        delta = up @ down
        delta *= size * weight.float().norm() / delta.norm()
        result[name] = (weight.float() + delta).to(weight.dtype)
    return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["BF16", "F32"])
@pytest.mark.parametrize(
    ("ends", "rank", "size"),
    [
        (("attention.wq", "attention.wv"), 4, 0.005),
        (("attention.wq", "attention.wv"), 16, 0.03),
        (MATRICES, 1, 0.01),
    ],
)
def test_a_lora_merge_is_named_with_its_rank(tmp_path, dtype, rank, ends, size):
    a, b = base(dtype), merged(base(dtype), ends, rank, size)
    kind, message = likeness(native(tmp_path / "a", a), hub(tmp_path / "b", b))
    assert kind == "lora"
    assert f"about {rank};" in message
    assert "in 3 layers" in message
    assert all(end in message for end in ends)
    assert likeness(hub(tmp_path / "b", b), native(tmp_path / "a", a))[0] == "lora"


def test_a_lora_merge_in_one_layer_is_named(tmp_path, original):
    weights = merged(base(), ("attention.wq", "attention.wv"), 8, 0.03, layers=(2,))
    kind, message = likeness(original["hub"], native(tmp_path, weights, 2))
    assert (kind, "in 1 layer," in message) == ("lora", True)


def test_a_lora_that_was_merged_in_float32_and_stored_so_is_named(tmp_path, original):
    wide = {name: weight.float() for name, weight in base().items()}
    weights = merged(wide, ("attention.wq", "attention.wv"), 16, 0.01)
    assert likeness(original["native"], native(tmp_path, weights))[0] == "lora"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["BF16", "F32"])
@pytest.mark.parametrize("size", [0.003, 0.03])
def test_a_change_of_full_rank_is_no_lora(tmp_path, dtype, size):
    weights = dict(base(dtype))
    for number, name in enumerate(names("attention.wq", "attention.wv")):
        weights[name] = (weights[name].float() + noise(weights[name], size, number)).to(dtype)
    assert kind_of(tmp_path, base(dtype), weights) is None


@pytest.mark.parametrize("share", [0.02, 0.08, 0.12, 0.5])
def test_single_steps_of_bf16_here_and_there_are_no_lora(tmp_path, original, share):
    weights = dict(base())
    for number, name in enumerate(names("attention.wq", "attention.wv")):
        generator = torch.Generator().manual_seed(number)
        moved = (torch.rand(weights[name].shape, generator=generator) < share).to(torch.int16)
        weights[name] = (weights[name].view(torch.int16) + moved).view(torch.bfloat16)
    assert likeness(original["native"], native(tmp_path, weights))[0] is None


def test_a_lora_beside_a_change_of_full_rank_is_none(tmp_path):
    a = base(torch.float32, n_layers=6)
    b = merged(a, ("attention.wq",), 4, 0.03, layers=range(6))
    for number, name in enumerate(names("attention.wv", layers=range(6))):
        b[name] = b[name] + noise(b[name], 0.03, number)
    assert kind_of(tmp_path, a, b) is None


@pytest.mark.parametrize("end", ["norm.weight", "tok_embeddings.weight", "output.weight"])
def test_a_lora_beside_a_change_elsewhere_is_none(tmp_path, end):
    a = base(torch.float32)
    b = merged(a, ("attention.wq", "attention.wv"), 4, 0.03)
    b[end] = b[end] + noise(b[end], 0.01, 5)
    assert kind_of(tmp_path, a, b) is None


# --- fine-tune and unrelated ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["BF16", "F32"])
@pytest.mark.parametrize("size", [0.004, 0.25])
def test_a_fine_tune_is_named(tmp_path, dtype, size):
    a = base(dtype)
    b = {
        name: (weight.float() + noise(weight, size, number)).to(dtype)
        for number, (name, weight) in enumerate(a.items())
    }
    kind, message = likeness(native(tmp_path / "a", a), hub(tmp_path / "b", b))
    assert kind == "fine_tune"
    assert "30 weights of 30 changed" in message


def test_a_fine_tune_of_the_matrices_alone_is_no_lora(tmp_path, original):
    b = dict(base())
    for number, name in enumerate(names(*MATRICES)):
        b[name] = (b[name].float() + noise(b[name], 0.02, number)).bfloat16()
    assert likeness(original["native"], native(tmp_path, b))[0] == "fine_tune"


@pytest.mark.parametrize("layers", [(0,), (0, 2)])
def test_training_of_some_layers_alone_has_no_name(tmp_path, original, layers):
    b = dict(base())
    for number, name in enumerate(names(*MATRICES, "ffn_norm", layers=layers)):
        b[name] = (b[name].float() + noise(b[name], 0.02, number)).bfloat16()
    assert likeness(original["native"], native(tmp_path, b))[0] is None


def test_a_change_of_a_third_is_no_fine_tune(tmp_path):
    a = base(torch.float32)
    b = {name: weight + noise(weight, 0.35, number)
         for number, (name, weight) in enumerate(a.items())}  # fmt: skip
    assert kind_of(tmp_path, a, b) is None


def test_two_models_that_were_trained_apart_are_unrelated(tmp_path, original):
    other = base(seed=1)
    assert likeness(original["native"], hub(tmp_path / "1", other))[0] == "unrelated"
    kept = other | {name: weight for name, weight in base().items() if "norm" in name}
    assert likeness(original["hub"], native(tmp_path / "2", kept))[0] == "unrelated"


def test_models_half_way_apart_are_neither_fine_tuned_nor_unrelated(tmp_path):
    a, other = base(torch.float32), base(torch.float32, seed=1)
    half = {name: (weight + other[name]) / 2 for name, weight in a.items()}  # a cosine of 0.71
    assert kind_of(tmp_path, a, half) is None


# --- what none of the rules is for ----------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 2.0, 1.5])
def test_a_scaled_model_has_no_name(tmp_path, original, factor):
    scaled = {name: weight * factor for name, weight in base().items()}
    assert likeness(original["native"], native(tmp_path, scaled))[0] is None


@pytest.mark.parametrize("ends", [(*MATRICES, "attention_norm", "ffn_norm"), MATRICES,
                                  ("attention.wo",)])  # fmt: skip
def test_a_zeroed_layer_has_no_name(tmp_path, original, ends):
    weights = dict(base())
    for name in names(*ends, layers=(1,)):
        weights[name] = torch.zeros_like(weights[name])
    assert likeness(original["hub"], native(tmp_path, weights))[0] is None


def test_a_model_of_zeros_has_no_name(tmp_path, original):
    zeros = {name: torch.zeros_like(weight) for name, weight in base().items()}
    assert likeness(original["native"], native(tmp_path, zeros))[0] is None


def test_two_layers_in_each_others_place_have_no_name(tmp_path, original):
    weights = dict(base())
    for end in (*MATRICES, "attention_norm", "ffn_norm"):
        one, two = names(end, layers=(1, 2))
        weights[one], weights[two] = base()[two], base()[one]
    assert likeness(original["native"], native(tmp_path, weights))[0] is None


def test_a_changed_norm_alone_has_no_name(tmp_path, original):
    weights = base() | {"norm.weight": base()["norm.weight"] * 1.25}
    report = diff_checkpoints(original["hub"], native(tmp_path, weights))
    assert report.likeness is None  # all of a weight and nothing else: that was no accident


def test_weights_without_a_model_have_no_name(tmp_path):
    generator = torch.Generator().manual_seed(4)
    for side in "ab":
        save_file({"x": torch.randn(64, 64, generator=generator)}, tmp_path / f"{side}.st")
        os.makedirs(tmp_path / side)
        (tmp_path / f"{side}.st").rename(tmp_path / side / "model.safetensors")
    assert likeness(str(tmp_path / "a"), str(tmp_path / "b"))[0] is None
