"""Meta's quantised checkpoints: the logits are those of the floats that they mean."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MOE_BLOCKS, TINY, write_native
from in_process import run
from quantised import (
    RANK,
    SCALE,
    hadamard_matrix,
    write_fp8,
    write_fp8_moe,
    write_int4,
)

import llamainspect as li
from llamainspect.model.runner import Model, last_hidden

CLOSE = 3e-6  # largest difference of any logit, as a share of their range
IDS = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(3))
INT4: dict[str, dict[str, Any]] = {
    "groups of 32": {},
    "groups of 64, which params.json does not say": {"group": 64},
    "SpinQuant": {"spinquant": True},
    "QLoRA": {"lora": True},
    "zeros": {"zeros": True},
    "scales of rows without an axis": {"flat_scales": True},
    "all of it": {"spinquant": True, "lora": True, "zeros": True},
}


def load(path: Path, **options: Any) -> Model:
    return li.load_model(
        li.find_subject(str(path)), li.RunOptions("cpu", **{"dtype": "fp32"} | options)
    )


def logits_of(path: Path, **options: Any) -> torch.Tensor:
    model = load(path, **options)
    return model.logits(last_hidden(model.walk(IDS))[0])


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


def plain(place: Path, params: dict[str, Any], meant: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the same model in float32."""
    said = {k: v for k, v in params.items() if k not in ("quantization_args", "lora_args")}
    weights = {name: weight.float() for name, weight in meant.items()}
    return logits_of(write_native(place, said, [weights]))


@pytest.mark.parametrize("kind", INT4)
@pytest.mark.parametrize("stream", [False, True])
def test_int4_computes_what_its_floats_do(tmp_path, kind, stream):
    path, params, meant = write_int4(tmp_path / "int4", **INT4[kind])
    expected = plain(tmp_path / "plain", params, meant)
    assert apart(logits_of(path, stream=stream), expected) < CLOSE


def test_int4_computes_what_modules_like_metas_do(tmp_path):
    """Adaptors and the Hadamard matrix as steps of their own, in transformers' model."""
    transformers = pytest.importorskip("transformers")
    path, params, meant = write_int4(tmp_path / "int4", spinquant=True, lora=True)
    stored = torch.load(path / "consolidated.00.pth", weights_only=True)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=params["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": params["rope_theta"]},
        tie_word_embeddings=False,
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(config).eval()
    places = {
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip

    class Linear(torch.nn.Module):
        def __init__(self, stem: str, heads: int | None) -> None:
            super().__init__()
            groups = stored[f"{stem}.weight"].float().unflatten(1, (-1, 32))
            self.weight = (groups * stored[f"{stem}.scales"][..., None]).flatten(1)
            self.a = stored[f"{stem}.adaptor.A.weight"].float()
            self.b = stored[f"{stem}.adaptor.B.weight"].float()
            self.turned = stem.endswith("w2")
            self.heads = heads

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.turned:
                x = x @ hadamard_matrix(x.shape[-1])
            made = x @ self.weight.T + SCALE * ((x @ self.a.T) @ self.b.T)
            if self.heads:  # rows in Meta's order: pairs are neighbours
                made = made.unflatten(-1, (self.heads, -1, 2)).transpose(-1, -2).flatten(-3)
            return made

    names = {}
    for number, layer in enumerate(llama.model.layers):
        for mine, theirs in places.items():
            heads = {"attention.wq": 4, "attention.wk": 2}.get(mine)
            owner, _, last = theirs.partition(".")
            setattr(getattr(layer, owner), last, Linear(f"layers.{number}.{mine}", heads))
        names[f"model.layers.{number}.input_layernorm.weight"] = f"layers.{number}.attention_norm"
        names[f"model.layers.{number}.post_attention_layernorm.weight"] = f"layers.{number}.ffn_norm"
    names |= {"model.norm.weight": "norm", "lm_head.weight": "output",
              "model.embed_tokens.weight": "tok_embeddings"}  # fmt: skip
    state = {theirs: meant[f"{mine}.weight"].float() for theirs, mine in names.items()}
    assert not llama.load_state_dict(state, strict=False).unexpected_keys
    with torch.inference_mode():
        expected = llama(IDS, use_cache=False).logits[0]
    assert apart(logits_of(path), expected) < CLOSE


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_fp8_computes_what_its_floats_do(tmp_path, ranks, stream):
    path, params, meant = write_fp8(tmp_path / "fp8", ranks)
    expected = plain(tmp_path / "plain", params, meant)
    assert apart(logits_of(path, stream=stream), expected) < CLOSE


@pytest.mark.parametrize("ranks", [1, 2])
def test_fp8_experts_compute_what_their_floats_do(tmp_path, ranks):
    path, params, meant = write_fp8_moe(tmp_path / "fp8", ranks)
    shards = [{name: weight.float() for name, weight in shard.items()} for shard in meant]
    expected = logits_of(write_native(tmp_path / "plain", params, shards))
    for stream in (False, True):
        assert apart(logits_of(path, stream=stream), expected) < CLOSE
