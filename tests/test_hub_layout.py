"""The writer of Hugging Face's layout, against transformers and against the native checkpoints."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
)
from hub_layout import hub_config, hub_config_moe, to_hub, to_hub_moe, write_hub
from safetensors import safe_open
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import AutoModelForCausalLM

from llamainspect.model.runner import last_hidden, load_model
from llamainspect.runs import RunOptions
from llamainspect.subject import find_subject

IDS = torch.randint(TINY["vocab_size"], (1, 60), generator=torch.Generator().manual_seed(5))
SCALED = TINY | {"use_scaled_rope": True}


def small(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    weights = random_weights(shapes, 0, torch.float32)
    return {name: weight * 0.1 + ("norm" in name) for name, weight in weights.items()}


DENSE = small(dense_shapes(TINY, TINY_HIDDEN))
MOE = small(moe_shapes(TINY_MOE))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits_there(path: Path) -> torch.Tensor:
    """What transformers computes, once it has found every weight where it looked for it."""
    model, found = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(found.values()), found
    with torch.inference_mode():
        return model.eval()(IDS).logits[0]


def logits_here(path: Path) -> torch.Tensor:
    model = load_model(find_subject(str(path)), RunOptions("cpu", dtype="fp32"))
    return model.logits(last_hidden(model.walk(IDS))[0])


def agree(here: torch.Tensor, there: torch.Tensor) -> None:
    assert (here - there).abs().max() < 1e-4 * (there.max() - there.min())


@pytest.fixture(scope="module", params=[TINY, SCALED], ids=["plain", "scaled"])
def native(request, tmp_path_factory) -> tuple[dict[str, Any], torch.Tensor]:
    path = write_native(tmp_path_factory.mktemp("native"), request.param, [DENSE])
    return request.param, logits_here(path)


@pytest.mark.parametrize(
    ("spelling", "layout"),
    [
        (4, {}),
        (5, {}),
        (4, {"shards": 3, "kind": "bin"}),
        (5, {"shards": 5}),
        (5, {"kind": "bin"}),
    ],
)
def test_dense_is_the_native_model(native, tmp_path, spelling, layout):
    params, expected = native
    config = hub_config(params, TINY_HIDDEN, spelling=spelling)
    write_hub(tmp_path, to_hub(DENSE, params, TINY_HIDDEN), config, **layout)
    agree(expected, logits_there(tmp_path))


def test_scaling_and_row_order_show(tmp_path):
    """That the logits agree says something: neither can be left out."""
    whole = to_hub(DENSE, TINY, TINY_HIDDEN)
    right = logits_there(write_hub(tmp_path / "right", whole, hub_config(TINY, TINY_HIDDEN)))
    scaled = write_hub(tmp_path / "scaled", whole, hub_config(SCALED, TINY_HIDDEN))
    assert (logits_there(scaled) - right).abs().max() > 1e-3 * (right.max() - right.min())
    for end, native in (("q_proj", "wq"), ("k_proj", "wk")):
        name = f"model.layers.1.self_attn.{end}.weight"
        unordered = whole | {name: DENSE[f"layers.1.attention.{native}.weight"]}
        path = write_hub(tmp_path / end, unordered, hub_config(TINY, TINY_HIDDEN))
        assert (logits_there(path) - right).abs().max() > 1e-3 * (right.max() - right.min())


def logits_by_hand(weights: dict[str, torch.Tensor], params: dict[str, Any]) -> torch.Tensor:
    """A Llama 4 of few layers and tokens: every layer turns its queries and sees every token."""
    dim, heads, kv = params["dim"], params["n_heads"], params["n_kv_heads"]
    size, experts, count = dim // heads, params["moe_args"]["num_experts"], IDS.shape[1]
    frequencies = params["rope_theta"] ** -(torch.arange(0, size, 2) / size)
    frequencies[2 * math.pi / frequencies > 8192] /= 16
    turns = torch.outer(torch.arange(count), frequencies)[:, None]

    def norm(x: torch.Tensor, name: str | None = None) -> torch.Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + params["norm_eps"])
        return x if name is None else x * weights[name]

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(count, -1, size // 2, 2))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(turns), turns))
        return norm(turned.flatten(2)).transpose(0, 1)

    x = weights["tok_embeddings.weight"][IDS[0]]
    for layer in range(params["n_layers"]):
        at, feed = f"layers.{layer}.attention.", f"layers.{layer}.feed_forward."
        rows = norm(x, f"{at}wqkv.layer_norm_weight") @ weights[f"{at}wqkv.weight"].T
        q, k, v = rows.split([dim, kv * size, kv * size], dim=1)
        v = v.reshape(count, kv, size).transpose(0, 1)
        seen = scaled_dot_product_attention(
            turned(q), turned(k), v, is_causal=True, enable_gqa=True
        )
        x = x + seen.transpose(0, 1).reshape(count, dim) @ weights[f"{at}wo.weight"].T
        if f"{feed}mlp.fc1_weight" in weights:
            y = norm(x, f"{feed}mlp.layer_norm_weight")
            gate, up = (y @ weights[f"{feed}mlp.fc1_weight"].T).chunk(2, dim=1)
            x = x + (silu(gate) * up) @ weights[f"{feed}mlp.fc2_weight"].T
            continue
        y = norm(x, f"{feed}norm.weight")
        gate, up, down = (
            weights[f"{feed}{name}.weight"]
            for name in ("w_in_shared_FD", "w_swiglu_FD", "w_out_shared_DF")
        )
        x = x + (silu(y @ gate.T) * (y @ up.T)) @ down.T
        gates, ups, downs = (
            weights[f"{feed}experts.{name}"].chunk(experts)
            for name in ("moe_w_in_eD_F", "moe_w_swiglu_eD_F", "moe_w_out_eF_D")
        )
        scores, chosen = (y @ weights[f"{feed}router_DE"]).max(dim=1)
        assert len(set(chosen.tolist())) == experts
        for token, expert in enumerate(chosen.tolist()):
            one = y[token] * scores[token].sigmoid()
            x[token] += (silu(one @ gates[expert]) * (one @ ups[expert])) @ downs[expert]
    return norm(x, "norm.weight") @ weights["output.weight"].T


@pytest.mark.parametrize(
    ("spelling", "layout"), [(4, {"shards": 2}), (5, {}), (5, {"kind": "bin"})]
)
def test_experts_are_those_of_the_native_weights(tmp_path, spelling, layout):
    config = hub_config_moe(TINY_MOE, spelling=spelling)
    path = write_hub(tmp_path, to_hub_moe(MOE, TINY_MOE), config, **layout)
    agree(logits_by_hand(MOE, TINY_MOE), logits_there(path))


def test_tied_model_without_its_head(tmp_path):
    weights = to_hub(DENSE, TINY, TINY_HIDDEN)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    untied = write_hub(tmp_path / "untied", weights, hub_config(TINY, TINY_HIDDEN))
    del weights["lm_head.weight"]
    config = hub_config(TINY, TINY_HIDDEN, tie_word_embeddings=True)
    tied = write_hub(tmp_path / "tied", weights, config)
    assert torch.equal(logits_there(tied), logits_there(untied))


@pytest.mark.parametrize(
    ("kind", "first", "index"),
    [
        ("safetensors", "model-00001-of-00003.safetensors", "model.safetensors.index.json"),
        ("bin", "pytorch_model-00001-of-00003.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_files(tmp_path, kind, first, index):
    weights = to_hub(DENSE, TINY, TINY_HIDDEN)
    write_hub(tmp_path, weights, None, shards=3, kind=kind)
    contents = json.loads((tmp_path / index).read_text())
    places = contents["weight_map"]
    assert list(places) == list(weights)
    assert places["model.embed_tokens.weight"] == first
    assert {*places.values(), index} == {path.name for path in tmp_path.iterdir()}
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(set(places.values())):
        if kind == "bin":
            part = torch.load(tmp_path / file, weights_only=True)
        else:
            with safe_open(tmp_path / file, "pt") as opened:
                assert opened.metadata() == {"format": "pt"}
                part = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert set(part) == {name for name, place in places.items() if place == file}
        stored |= part
    assert all(torch.equal(stored[name], weight) for name, weight in weights.items())
    assert contents["metadata"] == {"total_size": sum(each.nbytes for each in weights.values())}
