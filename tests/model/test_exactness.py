"""Logits of small random models against two other implementations, and against themselves.

The referees are transformers, and the formulas of Meta's reference code written out in float64 with
complex numbers. Neither takes anything but the tensors from here: how rows are permuted and how a
configuration is called over there is spelled out by hand.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from checkpoints import cut, dense_shapes, random_weights, write_native
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llamainspect import readahead
from llamainspect.model import runner, transformer
from llamainspect.model.runner import Model, last_hidden, load_model
from llamainspect.runs import RunOptions
from llamainspect.subject import find_subject

CLOSE = 2e-5  # largest difference of any logit, as a share of their range
HIDDEN = 192  # for dim 64: int(2 * 256 / 3) = 170, up to a multiple of 32


class Kind(NamedTuple):
    """A model to be made: the configuration, the size of its numbers, and how it is stored."""

    heads: int = 4
    kv_heads: int | None = 2
    theta: float | None = 500000.0
    eps: float = 1e-5
    scaled: bool = False
    asked: float | None = None  # --rope-factor
    tied: str | None = None  # "left out", "stored twice"
    std: float = 0.1
    ranks: int = 1
    axis: int = 0  # of the embedding that is cut
    dtype: torch.dtype = torch.float32
    tokens: int = 40
    layers: int = 2
    vocab: int = 320

    @property
    def params(self) -> dict[str, Any]:
        params = {
            "dim": 64,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "vocab_size": self.vocab,
            "multiple_of": 32,
            "norm_eps": self.eps,
        }
        if self.kv_heads is not None:
            params["n_kv_heads"] = self.kv_heads
        if self.theta is not None:
            params["rope_theta"] = self.theta
        if self.scaled:
            params["use_scaled_rope"] = True
        return params

    @property
    def factor(self) -> float | None:
        return self.asked or (8.0 if self.scaled else None)

    def weights(self, seed: int = 0) -> dict[str, torch.Tensor]:
        weights = random_weights(dense_shapes(self.params, HIDDEN), seed, torch.float32)
        for name, weight in weights.items():
            weight *= self.std
            if "norm" in name:
                weight += 1
            if self.tokens > 1000 and name.endswith(("wq.weight", "wk.weight")):
                weight *= 2  # so that it matters where a token is
        if self.tied:
            weights["output.weight"] = weights["tok_embeddings.weight"].clone()
        return {name: weight.to(self.dtype) for name, weight in weights.items()}

    def write(self, path: Path, weights: dict[str, torch.Tensor]) -> Path:
        stored = {
            name: weight
            for name, weight in weights.items()
            if self.tied != "left out" or name != "output.weight"
        }
        return write_native(path, self.params, cut(stored, self.ranks, embedding_axis=self.axis))

    def ids(self, seed: int = 1) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.vocab, (self.tokens,), generator=generator).tolist()


KINDS = {
    "MHA": Kind(kv_heads=None, theta=None, eps=1e-6),
    "MHA, 4 shards by columns": Kind(kv_heads=4, theta=10000.0, ranks=4, axis=1),
    "GQA": Kind(),
    "GQA, small eps": Kind(eps=1e-6, std=0.02),
    "GQA, large eps": Kind(eps=1e-5, std=0.02),
    "GQA, 2 shards": Kind(ranks=2),
    "GQA, stored in bf16": Kind(dtype=torch.bfloat16, std=0.3),
    "GQA, stored in fp16, 2 shards by columns": Kind(dtype=torch.float16, ranks=2, axis=1),
    "MQA": Kind(kv_heads=1, theta=1000000.0),
    "MQA, 8 heads, 4 shards": Kind(heads=8, kv_heads=1, theta=1000000.0, ranks=4),
    "MQA, steep": Kind(kv_heads=1, std=0.3, layers=3),
    "tied, left out": Kind(tied="left out"),
    "tied, left out, 4 shards": Kind(tied="left out", ranks=4),
    "tied, left out, 2 shards by columns": Kind(tied="left out", ranks=2, axis=1),
    "tied, stored twice": Kind(tied="stored twice"),
    "scaled, long": Kind(scaled=True, tokens=2300, layers=1),
    "scaled by 32, long": Kind(2, 1, scaled=True, asked=32.0, tokens=2300, layers=1),
    "scaled by 3, not asked by file": Kind(2, 2, asked=3.0, tokens=2300, layers=1),
    "plain, long, 2 shards": Kind(2, 2, theta=10000.0, tokens=2300, layers=1, ranks=2),
    "one token": Kind(tokens=1),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny products, which threads that wait for each other make no faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def open_model(path: Path, **options: Any) -> Model:
    return load_model(find_subject(str(path)), RunOptions("cpu", **{"dtype": "fp32"} | options))


def all_logits(model: Model, ids: list[int]) -> torch.Tensor:
    return model.logits(last_hidden(model.walk(torch.tensor([ids])))[0])


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference as a share of the range."""
    ours, theirs = ours.double(), theirs.double()
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


def halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of wq or wk as Hugging Face has them: the first of each pair, then the second."""
    size = len(rows) // heads
    order = [h * size + e for h in range(heads) for e in [*range(0, size, 2), *range(1, size, 2)]]
    return rows[order]


def transformers_model(kind: Kind, weights: dict[str, torch.Tensor], **implementation: str) -> Any:
    transformers = pytest.importorskip("transformers")
    kv_heads = kind.kv_heads or kind.heads
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": kind.theta or 10000.0}
    if kind.factor:
        rope |= {"rope_type": "llama3", "factor": kind.factor, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=HIDDEN,
        num_hidden_layers=kind.layers,
        num_attention_heads=kind.heads,
        num_key_value_heads=kv_heads,
        vocab_size=kind.vocab,
        rms_norm_eps=kind.eps,
        rope_parameters=rope,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",
        dtype=torch.float32,
    )
    names = {
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    state = {
        "model.embed_tokens.weight": weights["tok_embeddings.weight"].float(),
        "model.norm.weight": weights["norm.weight"].float(),
        "lm_head.weight": weights["output.weight"].float(),
    }
    for layer in range(kind.layers):
        for ours, theirs in names.items():
            weight = weights[f"layers.{layer}.{ours}.weight"].float()
            if ours == "attention.wq":
                weight = halves(weight, kind.heads)
            if ours == "attention.wk":
                weight = halves(weight, kv_heads)
            state[f"model.layers.{layer}.{theirs}.weight"] = weight
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(state, strict=True)
    return model


@torch.inference_mode()
def transformers_logits(
    kind: Kind, weights: dict[str, torch.Tensor], ids: list[int]
) -> torch.Tensor:
    output = transformers_model(kind, weights)(torch.tensor([ids]), use_cache=False)
    return output.logits[0].float()


def written_out(kind: Kind, weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """The formulas in float64; only the angles are float32, which is part of the model."""
    w = {name: weight.double().numpy() for name, weight in weights.items()}
    tokens, heads, kv_heads = len(ids), kind.heads, kind.kv_heads or kind.heads
    size = 64 // heads

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + kind.eps) * w[name]

    theta = torch.tensor(kind.theta or 10000.0, dtype=torch.float32)
    speeds = 1 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    if kind.factor:
        slowed = []
        for speed in speeds.tolist():
            length = 2 * np.pi / speed
            if length > 8192:
                speed /= kind.factor
            elif length >= 2048:
                smooth = (8192 / length - 1) / (4 - 1)
                speed = (1 - smooth) * speed / kind.factor + smooth * speed
            slowed.append(speed)
        speeds = torch.tensor(slowed, dtype=torch.float32)
    angles = torch.arange(tokens, dtype=torch.float32)[:, None] * speeds
    turns = np.exp(1j * angles.double().numpy())[:, None, :]  # (T, 1, E / 2)

    def rotate(x):
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = w["tok_embeddings.weight"][ids]
    future = np.triu(np.full((tokens, tokens), -np.inf), 1)
    for layer in range(kind.layers):
        p = f"layers.{layer}."
        h = norm(x, f"{p}attention_norm.weight")
        q = rotate((h @ w[f"{p}attention.wq.weight"].T).reshape(tokens, heads, size))
        k = rotate((h @ w[f"{p}attention.wk.weight"].T).reshape(tokens, kv_heads, size))
        v = (h @ w[f"{p}attention.wv.weight"].T).reshape(tokens, kv_heads, size)
        seen = np.empty_like(q)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(size) + future
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            seen[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, shared]
        x = x + seen.reshape(tokens, -1) @ w[f"{p}attention.wo.weight"].T
        h = norm(x, f"{p}ffn_norm.weight")
        gate = h @ w[f"{p}feed_forward.w1.weight"].T
        up = h @ w[f"{p}feed_forward.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{p}feed_forward.w2.weight"].T
    return torch.from_numpy(norm(x, "norm.weight") @ w["output.weight"].T)


# --- against others -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("referee", [transformers_logits, written_out])
def test_logits_are_those_of_another_implementation(name, referee, tmp_path):
    kind = KINDS[name]
    weights = kind.weights()
    model = open_model(kind.write(tmp_path / "model", weights), rope_factor=kind.asked)
    ids = kind.ids()
    assert apart(all_logits(model, ids), referee(kind, weights, ids)) <= CLOSE


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_size_of_the_numbers_does_not_matter(std, tmp_path):
    kind = Kind(std=std, tokens=60)
    weights = kind.weights(seed=3)
    ours = all_logits(open_model(kind.write(tmp_path / "model", weights)), kind.ids())
    assert apart(ours, transformers_logits(kind, weights, kind.ids())) <= CLOSE
    assert apart(ours, written_out(kind, weights, kind.ids())) <= CLOSE


def test_factor_in_the_file(tmp_path):
    kind = Kind(2, 1, scaled=True, tokens=2300, layers=1)
    weights = kind.weights()
    path = kind.write(tmp_path / "model", weights)
    params = kind.params | {"rope_scaling_factor": 32.0, "rope_high_freq_factor": 4}
    (path / "params.json").write_text(json.dumps(params))
    ours = all_logits(open_model(path), kind.ids())
    there = written_out(kind._replace(asked=32.0), weights, kind.ids())
    assert apart(ours, there) <= CLOSE
    assert apart(ours, written_out(kind, weights, kind.ids())) > 20 * CLOSE


def test_settings_can_be_told_apart():
    """Without this, a test that agrees would say nothing of what the settings do."""
    long = Kind(2, 1, scaled=True, tokens=2300, layers=1)
    small = Kind(std=0.02)
    for kind, other in (
        (long, long._replace(asked=32.0)),
        (long, long._replace(scaled=False)),
        (small, small._replace(eps=1e-6)),
        (Kind(), Kind(theta=1000000.0)),
        (Kind(), Kind(kv_heads=None)),
    ):
        weights = kind.weights()
        there = other.weights() if kind.kv_heads != other.kv_heads else weights
        ids = kind.ids()
        assert apart(written_out(kind, weights, ids), written_out(other, there, ids)) > 20 * CLOSE


# --- against themselves -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [[1] * 40, [40], [39, 1], [1, 39], [17, 1, 1, 1, 12, 1, 7], [2, 3, 5, 8, 13, 9]],
    ids=str,
)
@pytest.mark.parametrize("kind", [Kind(), Kind(kv_heads=1, scaled=True, tied="left out")], ids=str)
def test_a_cache_changes_nothing(kind, pieces, tmp_path):
    weights = kind.weights()
    model = open_model(kind.write(tmp_path / "model", weights))
    ids = kind.ids()
    whole = all_logits(model, ids)
    model = open_model(tmp_path / "model")  # that knows of no later position yet
    cache = model.new_cache(len(ids) + 3)
    done = 0
    rows, places = [], []
    for piece in pieces:
        rows.append(model.next_logits(ids[done : done + piece], cache))
        done += piece
        places.append(done - 1)
        assert cache.length == done
    assert apart(torch.stack(rows), whole[places]) <= CLOSE
    theirs = transformers_logits(kind, weights, ids)
    assert apart(torch.stack(rows), theirs[places]) <= CLOSE


@pytest.mark.parametrize("chunk", [1, 7, 16, 39])
def test_chunks_change_nothing(chunk, tmp_path, monkeypatch):
    kind = Kind()
    weights = kind.weights()
    model = open_model(kind.write(tmp_path / "model", weights))
    ids = kind.ids()
    whole = all_logits(model, ids)
    monkeypatch.setattr(runner, "CHUNK", chunk)
    assert apart(all_logits(model, ids), whole) <= CLOSE
    cache = model.new_cache(len(ids))  # and where tokens are in the cache already
    model.next_logits(ids[:11], cache)
    assert apart(model.next_logits(ids[11:], cache), whole[-1]) <= CLOSE


def test_a_long_prompt_and_what_follows(tmp_path):
    """More than two chunks, then tokens one by one, all against transformers."""
    kind = Kind(heads=2, kv_heads=1, scaled=True, tokens=runner.CHUNK + 200, layers=1)
    weights = kind.weights()
    model = open_model(kind.write(tmp_path / "model", weights), stream=True)
    ids = kind.ids()
    theirs = transformers_logits(kind, weights, ids)
    assert apart(all_logits(model, ids), theirs) <= CLOSE
    cache = model.new_cache(len(ids))
    cuts = [0, 150, runner.CHUNK + 170, runner.CHUNK + 171, runner.CHUNK + 199, len(ids)]
    rows = [model.next_logits(ids[a:b], cache) for a, b in pairwise(cuts)]
    assert apart(torch.stack(rows), theirs[[b - 1 for b in cuts[1:]]]) <= CLOSE


def test_several_sequences_at_once_are_those_one_by_one(tmp_path, monkeypatch):
    kind = Kind(kv_heads=1)
    model = open_model(kind.write(tmp_path / "model", kind.weights()))
    rows = [kind.ids(seed) for seed in (1, 2, 3)]
    single = torch.stack([all_logits(model, row) for row in rows])
    together = model.logits(last_hidden(model.walk(torch.tensor(rows))))
    assert apart(together, single) <= CLOSE
    monkeypatch.setattr(runner, "CHUNK", 16)
    chunked = model.logits(last_hidden(model.walk(torch.tensor(rows))))
    assert apart(chunked, single) <= CLOSE


@pytest.mark.parametrize(
    ("dtype", "stored", "threads"),
    [
        ("fp32", torch.float32, 1),
        ("fp32", torch.bfloat16, 1),
        ("bf16", torch.float32, 1),
        ("bf16", torch.bfloat16, 1),
        ("fp16", torch.float32, 1),
        ("fp16", torch.bfloat16, 1),
        ("fp32", torch.float32, 2),
    ],
    ids=str,
)
def test_shards_and_streaming_change_no_bit(dtype, stored, threads, tmp_path):
    torch.set_num_threads(threads)
    kind = Kind(heads=8, kv_heads=4, scaled=True, dtype=stored)
    weights = kind.weights()
    ids = kind.ids()
    found = []
    for ranks, axis in ((1, 0), (2, 0), (2, 1), (4, 0), (4, 1)):
        cut_so = kind._replace(ranks=ranks, axis=axis)
        path = cut_so.write(tmp_path / f"{ranks} {axis}", weights)
        for stream in (False, True):
            model = open_model(path, dtype=dtype, stream=stream)
            assert model.streamed is stream
            found += [all_logits(model, ids), all_logits(model, ids)]  # read, and kept or again
            cache = model.new_cache(len(ids))
            model.next_logits(ids[:-2], cache)
            found[-1] = torch.cat([found[-1], model.next_logits(ids[-2:], cache)[None]])
            found[-2] = torch.cat([found[-2], found[-1][-1:]])
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_simulated_weights_stream_and_shard_alike(tmp_path):
    kind = Kind(heads=8, kv_heads=4)
    weights = kind.weights()
    found = [
        all_logits(
            open_model(
                kind._replace(ranks=ranks).write(tmp_path / f"{ranks} {stream}", weights),
                stream=stream,
                simulate="int4",
                group_size=24,
            ),
            kind.ids(),
        )
        for ranks in (1, 4)
        for stream in (False, True)
    ]
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kind", [Kind(), Kind(ranks=2), Kind(ranks=4, axis=1),
                                  Kind(ranks=2, tied="left out")], ids=str)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_output_in_blocks(kind, stream, tmp_path, monkeypatch):
    """Blocks of 64 rows, of 320, some of which are of two shards."""
    weights = kind.weights()
    path = kind.write(tmp_path / "model", weights)
    ids = kind.ids()
    there = written_out(kind, weights, ids)
    monkeypatch.setattr(readahead, "BLOCK_ELEMENTS", 64 * 64)
    model = open_model(path, stream=stream)
    assert [rows.start for rows, _ in _blocks(model, ids)] == [0, 64, 128, 192, 256]
    assert apart(all_logits(model, ids), there) <= CLOSE


def _blocks(model: Model, ids: list[int]) -> list[Any]:
    last_hidden(model.walk(torch.tensor([ids])))
    return list(model.output_blocks())


def test_a_head_dim_of_its_own(tmp_path):
    """head_dim * n_heads is not dim: wq is no square."""
    params = Kind().params | {"head_dim": 24}
    shapes = dense_shapes(params, HIDDEN)
    for name in shapes:
        if name.endswith("wq.weight"):
            shapes[name] = (96, 64)
        if name.endswith(("wk.weight", "wv.weight")):
            shapes[name] = (48, 64)
        if name.endswith("wo.weight"):
            shapes[name] = (64, 96)
    weights = random_weights(shapes, dtype=torch.float32)
    for weight in weights.values():
        weight *= 0.1
    model = open_model(write_native(tmp_path / "model", params, [weights]))
    ids = Kind().ids()
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=24, vocab_size=320, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        attn_implementation="eager", dtype=torch.float32,
    )  # fmt: skip
    other = transformers.LlamaForCausalLM(config).eval()
    state = other.state_dict()
    names = {"embed_tokens": "tok_embeddings", "lm_head": "output", "model.norm": "norm",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
             "o_proj": "attention.wo", "gate_proj": "feed_forward.w1",
             "up_proj": "feed_forward.w3", "down_proj": "feed_forward.w2"}  # fmt: skip
    for name in state:
        word = next(word for word in names if f"{word}.weight" in name)
        layer = f"layers.{name.split('.')[2]}." if ".layers." in name else ""
        weight = weights[f"{layer}{names[word]}.weight"]
        heads = {"q_proj": 4, "k_proj": 2}.get(word)
        state[name] = halves(weight, heads) if heads else weight
    other.load_state_dict(state)
    with torch.inference_mode():
        theirs = other(torch.tensor([ids]), use_cache=False).logits[0]
    assert apart(all_logits(model, ids), theirs) <= CLOSE


def test_a_norm_is_rounded_before_it_is_scaled():
    """In 16 bits the order shows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, generator=generator).bfloat16()
    weight = torch.randn(64, generator=generator).bfloat16()
    norm = LlamaRMSNorm(64, eps=1e-5)
    norm.weight.data = weight
    assert torch.equal(transformer.rms_norm(x, weight, 1e-5), norm(x))
    late = torch.nn.functional.rms_norm(x.float(), (64,), weight.float(), 1e-5).bfloat16()
    assert not torch.equal(late, norm(x))


@pytest.mark.parametrize("tokens", [(40,), (25, 1, 14)])
def test_equal_heads_give_the_same(tokens, tmp_path, monkeypatch):
    """What GPUs need: KV heads repeated, with and without a mask."""
    kind = Kind(kv_heads=1, scaled=True)
    path, ids = kind.write(tmp_path / "model", kind.weights()), kind.ids()
    usual = all_logits(open_model(path), ids)
    monkeypatch.setattr(transformer, "needs_equal_heads", lambda q, mask: True)
    model = open_model(path)
    cache, first = model.new_cache(40), 0
    for count in tokens:
        last = model.next_logits(ids[first : first + count], cache)
        first += count
    assert apart(last, usual[-1]) <= CLOSE


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_wide_model_gives_the_same_bits_sharded_and_streamed(tmp_path, dtype):
    """Wide enough for every kernel and thread, with several blocks of the output matrix."""
    params = {"dim": 1024, "n_layers": 1, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 40_000,
              "multiple_of": 256, "norm_eps": 1e-5}  # fmt: skip
    weights = random_weights(dense_shapes(params, 2816))
    weights = {n: w if w.dim() == 1 else (0.03 * w.float()).bfloat16() for n, w in weights.items()}
    one = write_native(tmp_path / "one", params, [weights])
    two = write_native(tmp_path / "two", params, cut(weights, 2))
    ids = list(range(0, 40_000, 997))
    found = [
        open_model(path, stream=stream, dtype=dtype) for path in (one, two) for stream in (0, 1)
    ]
    rows = [all_logits(model, ids) for model in found]
    assert all(torch.equal(row, rows[0]) for row in rows[1:])
