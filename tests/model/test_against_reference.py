"""What is made of logits and weights, against a second computation of the same in plain numpy.

Quantised weights, drawn tokens, windows over a text, divergences, and recordings from elsewhere.
"""

import gc
import io
import json
import math
import struct
import tracemalloc
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changes import any_change, examples
from checkpoints import TINY, TINY_HIDDEN, dense_shapes, random_weights, write_native
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from llamainspect import readahead
from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.model import evaluate, recordings
from llamainspect.model.evaluate import evaluate_text, windows
from llamainspect.model.generate import choose, generate_text
from llamainspect.model.logits import predict_logits
from llamainspect.model.quantize import make_simulation, rounded
from llamainspect.model.runner import Model, last_hidden, load_model
from llamainspect.model.verify import verify_against_checkpoint, verify_against_recording
from llamainspect.runs import RunOptions, Sampling
from llamainspect.subject import find_subject

VOCAB = TINY["vocab_size"]
IDS = torch.randint(VOCAB, (90,), generator=torch.Generator().manual_seed(5)).tolist()


def small_weights(seed: int = 0, std: float = 0.1) -> dict[str, torch.Tensor]:
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN), seed, torch.float32)
    return {name: weight * std + ("norm" in name) for name, weight in weights.items()}


def open_model(path: Path, **options: Any) -> Model:
    return load_model(find_subject(str(path)), RunOptions("cpu", **{"dtype": "fp32"} | options))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Thousands of tiny products, which threads that wait for each other make no faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_native(tmp_path_factory.mktemp("model"), TINY, [small_weights()])


@pytest.fixture(scope="module")
def model(path) -> Model:
    return open_model(path)


@pytest.fixture(scope="module")
def logits(model) -> torch.Tensor:
    return model.logits(last_hidden(model.walk(torch.tensor([IDS])))[0])


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    top = rows.max(-1, keepdims=True)
    return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))


# --- quantised weights --------------------------------------------------------------------------


def groups_of(columns: int, size: int | None) -> list[slice]:
    size = size or columns
    return [slice(start, min(start + size, columns)) for start in range(0, columns, size)]


def int8_scale(values: np.ndarray) -> tuple[float, int, int, int]:
    return float(np.abs(values).max()) / 127, 0, -127, 127


def int4_scale(values: np.ndarray) -> tuple[float, int, int, int]:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float16((high - low) / 15))
    return scale, round(-low / scale), 0, 15


@pytest.mark.parametrize("kind", ["spread", "positive", "negative", "outliers", "small"])
@pytest.mark.parametrize("columns", [256, 300, 96, 33, 1])
@pytest.mark.parametrize(
    ("form", "size", "scale_type", "length"),
    [
        ("int8", None, np.float32, None),
        ("int8", 64, np.float16, 64),
        ("int8", 100, np.float16, 100),
        ("int4", None, np.float16, 128),
        ("int4", 32, np.float16, 32),
        ("int4", 7, np.float16, 7),
    ],
)
def test_simulated_weights(form, size, scale_type, length, columns, kind):
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randn(12, columns, generator=generator)
    if kind == "positive":
        weight = weight.abs() + 2
    if kind == "negative":
        weight = -weight.abs() - 2
    if kind == "outliers":
        weight[3, columns // 2], weight[5] = 40.0, weight[5] * 0.001 + 1e-4
    if kind == "small":
        weight *= 0.02
    ours = rounded(weight.clone(), make_simulation(form, size)).double().numpy()
    assert ours.shape == weight.shape
    exact = weight.double().numpy()
    for row in range(12):
        for piece in groups_of(columns, length):
            values = exact[row, piece]
            if form == "int8":
                scale, zero, low, high = int8_scale(values)
                scale = float(scale_type(scale))
            else:
                scale, zero, low, high = int4_scale(values)
            zero = min(max(zero, low), high)
            places = values / scale
            codes = np.clip(np.rint(places) + zero, low, high)
            apart = np.abs(ours[row, piece] - (codes - zero) * scale)
            undecided = np.abs(np.abs(places - np.trunc(places)) - 0.5) < 1e-4
            assert (apart[~undecided] <= 1e-6 * scale * 128).all()
            assert (apart[undecided] <= scale * 1.001).all()


@pytest.mark.parametrize(("form", "size"), [("int8", None), ("int8", 48), ("int4", 32)])
def test_simulated_weights_are_those_of_torch(form, size):
    """torch.fake_quantize_per_channel_affine, with each group as a channel."""
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(2)) * 0.05
    groups = weight.reshape(-1, size or 96)
    if form == "int8":
        scales, zeros, low, high = groups.abs().amax(1) / 127, torch.zeros(len(groups)), -127, 127
    else:
        scales = (groups.amax(1).clamp(min=0) - groups.amin(1).clamp(max=0)) / 15
        low, high = 0, 15
    if size is not None:
        scales = scales.half().float()
    if form == "int4":
        zeros = (-groups.amin(1).clamp(max=0) / scales).round()
    theirs = torch.fake_quantize_per_channel_affine(groups, scales, zeros.int(), 0, low, high)
    apart = (rounded(weight, make_simulation(form, size)) - theirs.reshape(24, 96)).abs()
    same = apart.reshape(groups.shape) <= 1e-4 * scales[:, None]
    assert same.double().mean() > 0.999  # torch multiplies by 1 / scale: halves may fall elsewhere


def test_zeros_stay_zeros():
    for form, size in (("int8", None), ("int8", 16), ("int4", None), ("int4", 16)):
        assert torch.equal(
            rounded(torch.zeros(3, 40), make_simulation(form, size)), torch.zeros(3, 40)
        )


def test_simulation_is_of_the_linear_layers_of_the_blocks(path, tmp_path):
    """Run with a simulation, and run with weights that were quantised before."""
    weights = small_weights()
    simulation = make_simulation("int4", 32)
    for name in weights:
        if "attention.w" in name or "feed_forward.w" in name:
            weights[name] = rounded(weights[name], simulation)
    other = open_model(write_native(tmp_path / "model", TINY, [weights]))
    ours = open_model(path, simulate="int4", group_size=32)
    tokens = torch.tensor([IDS])
    assert torch.equal(
        ours.logits(last_hidden(ours.walk(tokens))), other.logits(last_hidden(other.walk(tokens)))
    )


# --- drawn tokens -------------------------------------------------------------------------------

ROW = [2.0, 1.5, -3.0, 0.25, 1.4, 0.0, -1.0, 2.1, 0.7, -0.5, 1.0, 1.8]
SAMPLINGS = [
    Sampling(1.0),
    Sampling(0.5),
    Sampling(3.0),
    Sampling(1.0, top_k=1),
    Sampling(1.0, top_k=4),
    Sampling(1.0, top_k=400),
    Sampling(1.0, top_p=0.6),
    Sampling(1.0, top_p=1e-6),
    Sampling(1.0, top_p=1.0),
    Sampling(0.8, top_k=6, top_p=0.8),
    Sampling(2.0, top_k=3, top_p=0.99),
]


def distribution(row: list[float], sampling: Sampling) -> dict[int, float]:
    """Temperature, then top-k, then top-p of what is left, one token at a time."""
    order = sorted(range(len(row)), key=lambda id: -row[id])[: sampling.top_k]
    weights = {id: math.exp(row[id] / sampling.temperature) for id in order}
    total = sum(weights.values())
    kept: dict[int, float] = {}
    for id in order:
        if sampling.top_p is not None and sum(kept.values()) / total >= sampling.top_p:
            break
        kept[id] = weights[id]
    return {id: weight / sum(kept.values()) for id, weight in kept.items()}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling.text)
def test_tokens_are_drawn_as_likely_as_they_are(sampling):
    there = distribution(ROW, sampling)
    logits, dice = torch.tensor(ROW), torch.Generator().manual_seed(11)
    draws = 3000
    found = Counter(choose(logits, sampling, dice) for _ in range(draws))
    assert found.keys() <= there.keys()
    square = sum((found[id] - draws * p) ** 2 / (draws * p) for id, p in there.items())
    freedom = len(there) - 1  # mean of the chi-square; its variance is twice that
    assert square <= freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling.text)
def test_each_token_has_its_share_of_the_dice(sampling, monkeypatch):
    """Exactly: the dice fall at places side by side."""
    there = distribution(ROW, sampling)
    logits, dice = torch.tensor(ROW), torch.Generator()
    count = 1000
    found: Counter[int] = Counter()
    for place in range(count):
        value = torch.tensor([(place + 0.5) / count], dtype=torch.float64)
        monkeypatch.setattr(torch, "rand", lambda *_, value=value, **__: value)
        found[choose(logits, sampling, dice)] += 1
    assert found.keys() <= there.keys()
    assert all(abs(found[id] / count - p) <= 1.01 / count for id, p in there.items())


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 1e-307, 1e-308, 5e-324])
def test_without_warmth_the_likeliest_token_is_drawn(temperature):
    row = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 20
    for sampling in (Sampling(temperature), Sampling(temperature, top_k=3)):
        assert choose(row, sampling, torch.Generator()) == int(row.argmax())


def test_greedy_tokens_are_the_likeliest_without_a_cache(model):
    ids = IDS[:7]
    made = generate_text(model, None, ids, max_new_tokens=12, stop=())
    for _ in range(12):
        row = model.logits(last_hidden(model.walk(torch.tensor([ids])))[0, -1])
        ids = [*ids, int(np.argmax(row.numpy()))]
    assert list(made.tokens) == ids[7:]
    assert made.stopped == "max_new_tokens"


def test_a_seed_makes_the_same_tokens(path, model):
    def tokens(model, **settings):
        sampling = Sampling(1.5, **settings)
        made = generate_text(model, None, IDS[:5], max_new_tokens=9, sampling=sampling, stop=())
        return made.tokens, made.seed

    first, seed = tokens(model, seed=3, top_p=0.95)
    assert seed == 3
    assert tokens(model, seed=3, top_p=0.95)[0] == first
    assert tokens(open_model(path, stream=True), seed=3, top_p=0.95)[0] == first
    assert tokens(model, seed=4, top_p=0.95)[0] != first
    drawn, seed = tokens(model)
    assert tokens(model, seed=seed)[0] == drawn


def test_a_stop_token_ends_it(model):
    made = generate_text(model, None, IDS[:7], max_new_tokens=12, stop=()).tokens
    again = generate_text(model, None, IDS[:7], max_new_tokens=12, stop={made[4]})
    assert again.tokens == made[: made.index(made[4]) + 1]
    assert (again.stopped, again.stop_token) == ("stop_token", made[4])


# --- what may come next -------------------------------------------------------------------------


def test_candidates_and_entropy(model, logits):
    report = predict_logits(model, IDS, top=6, every=True)
    logs = log_softmax(logits.numpy())
    assert [row.position for row in report.positions] == list(range(len(IDS)))
    for at, row in enumerate(report.positions):
        order = np.argsort(-logs[at])[:6]
        assert [candidate.id for candidate in row.top] == order.tolist()
        for candidate in row.top:
            assert candidate.probability == pytest.approx(math.exp(logs[at, candidate.id]))
            assert candidate.logit == float(logits[at, candidate.id])
    assert report.entropy == pytest.approx(-(np.exp2(logs[-1] / math.log(2)) * logs[-1]).sum()
                                           / math.log(2))  # fmt: skip


# --- windows over a text ------------------------------------------------------------------------


@given(tokens=st.integers(0, 400), window=st.integers(2, 60), data=st.data())
@settings(max_examples=200, deadline=None)
def test_windows(tokens, window, data):
    stride = data.draw(st.integers(1, window - 1))
    found = windows(tokens, window, stride)
    predicted = [at for one in found for at in range(one.first, one.end)]
    assert predicted == list(range(1, tokens))
    for number, one in enumerate(found):
        assert 0 <= one.start < one.first < one.end <= tokens
        assert one.end - one.start == min(window, tokens)
        assert one.first - one.start >= min(window - stride, one.first)
        assert number == 0 or one.end - one.first <= stride
    assert len(found) == (0 if tokens < 2 else 1 + math.ceil(max(0, tokens - window) / stride))


class Letters:
    """A token for each byte, below 127, and 127 to begin with."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [127] * bos + list(text.encode())

    def decode_bytes(self, ids: list[int]) -> bytes:
        return bytes(id for id in ids if id < 127)


TEXT = "The llama grazes; the lambda calculates. It was the best of times."
WINDOWS = [(40, 10), (40, 39), (31, None), (2, 1), (250, 100), (17, 1)]


@pytest.mark.parametrize(("window", "stride"), WINDOWS)
@pytest.mark.parametrize("small", [False, True])
def test_cross_entropy_of_a_text(model, path, window, stride, small, monkeypatch):
    """Token by token, with the context that its window gives it."""
    ids = Letters().encode(TEXT)
    if small:  # groups of few windows, few positions at a time, and blocks of the vocabulary
        monkeypatch.setattr(evaluate, "GROUP_NBYTES", 3 * 64 * 4 * window)
        monkeypatch.setattr(evaluate, "ROWS", 7)
        monkeypatch.setattr(readahead, "BLOCK_ELEMENTS", 64 * 64)
    tested = open_model(path, stream=small)
    report = evaluate_text(tested, Letters(), TEXT, window=window, stride=stride)
    step = stride or window // 2
    losses: list[torch.Tensor] = []
    starts: list[int] = []
    end = 0
    while end < len(ids):
        previous, end = end, min(window if not end else end + step, len(ids))
        start = max(0, end - window)
        starts.append(start)
        row = model.logits(last_hidden(model.walk(torch.tensor([ids[start:end]])))[0])
        kept = end - max(previous, 1)
        losses.append(torch.nn.functional.cross_entropy(
            row[:-1].double(), torch.tensor(ids[start + 1 : end]), reduction="none")[-kept:]
        )  # fmt: skip
    total = torch.cat(losses)
    assert len(total) == len(ids) - 1 == report.predicted == report.tokens
    assert report.windows == len(starts)
    assert (report.window, report.stride) == (window, step)
    assert report.cross_entropy == pytest.approx(float(total.mean()), rel=2e-6)
    assert report.perplexity == pytest.approx(math.exp(float(total.mean())), rel=1e-5)
    nbytes = len(TEXT.encode())
    assert report.nbytes == nbytes
    assert report.bits_per_byte == pytest.approx(
        float(total.sum()) / math.log(2) / nbytes, rel=2e-6
    )


def test_cross_entropy_is_that_of_transformers(model):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=TINY_HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCAB, rms_norm_eps=1e-5, dtype=torch.float32,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    other = transformers.LlamaForCausalLM(config).eval()
    weights, state = small_weights(), other.state_dict()
    names = {"embed_tokens": "tok_embeddings", "lm_head": "output", "model.norm": "norm",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
             "o_proj": "attention.wo", "gate_proj": "feed_forward.w1",
             "up_proj": "feed_forward.w3", "down_proj": "feed_forward.w2"}  # fmt: skip
    for name in state:
        word = next(word for word in names if f"{word}.weight" in name)
        layer = f"layers.{name.split('.')[2]}." if ".layers." in name else ""
        weight = weights[f"{layer}{names[word]}.weight"]
        if word in ("q_proj", "k_proj"):
            weight = weight.view(-1, 8, 2, 64).transpose(1, 2).reshape(weight.shape)
        state[name] = weight
    other.load_state_dict(state)
    window, step = 30, 13
    text = TEXT[: window + 2 * step - 1]  # that ends where a window does
    ids = Letters().encode(text)
    total, count, done = 0.0, 0, 0
    for start in range(0, len(ids) - window + 1, step):
        tokens = torch.tensor([ids[start : start + window]])
        labels = tokens.clone()
        labels[:, : max(done - start, 0)] = -100
        with torch.inference_mode():
            loss = other(tokens, labels=labels, use_cache=False).loss
        counted = int((labels[:, 1:] != -100).sum())
        total, count, done = total + float(loss) * counted, count + counted, start + window
    assert count == len(ids) - 1
    report = evaluate_text(model, Letters(), text, window=window, stride=step)
    assert report.cross_entropy == pytest.approx(total / count, rel=1e-5)


# --- two sets of logits -------------------------------------------------------------------------


def check_comparison(report, ours: np.ndarray, theirs: np.ndarray, places: list[int]) -> None:
    """Every number of the report, computed one position at a time."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    assert [row.position for row in report.positions] == places
    kls, overlaps, tops = [], [], []
    for row, at, mine, other in zip(report.positions, places, ours, theirs, strict=True):
        p, q = log_softmax(other), log_softmax(mine)
        kls.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
        best, others = (set(sorted(range(len(x)), key=lambda id, x=x: -x[id])[:5])
                        for x in (mine, other))  # fmt: skip
        overlaps.append(len(best & others) / 5)
        tops.append(np.argmax(mine) == np.argmax(other))
        assert row.id == IDS[at]
        assert row.max_abs == pytest.approx(np.abs(mine - other).max(), rel=1e-9)
        assert row.mean_abs == pytest.approx(np.abs(mine - other).mean(), rel=1e-9)
        assert row.kl == pytest.approx(kls[-1], rel=1e-6, abs=1e-13)
        assert (row.top1, row.reference_top1) == (np.argmax(mine), np.argmax(other))
        assert row.top5_overlap == pytest.approx(overlaps[-1])
    assert report.max_abs == pytest.approx(np.abs(ours - theirs).max())
    assert report.mean_abs == pytest.approx(np.abs(ours - theirs).mean())
    assert report.kl == pytest.approx(np.mean(kls), rel=1e-6, abs=1e-13)
    assert report.kl_max == pytest.approx(max(kls), rel=1e-6, abs=1e-13)
    assert report.top1_agreement == pytest.approx(np.mean(tops))
    assert report.top5_overlap == pytest.approx(np.mean(overlaps))
    assert report.logit_range == pytest.approx(theirs.max() - theirs.min())
    assert report.identical == np.array_equal(ours, theirs)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-3, 0.3])
def test_comparison_with_a_recording(model, logits, noise, tmp_path):
    random = np.random.default_rng(1)
    theirs = (logits.numpy() + noise * random.normal(size=logits.shape)).astype(np.float32)
    file = str(tmp_path / "r.safetensors")
    save_file({"tokens": torch.tensor(IDS), "logits": torch.tensor(theirs)}, file)
    report = verify_against_recording(model, file)
    check_comparison(report, logits.numpy(), theirs, list(range(len(IDS))))
    allowed = 1e-4 * float(theirs.max() - theirs.min())
    assert report.tolerance.dtype == "fp32"
    assert report.max_abs_allowed == pytest.approx(allowed, rel=1e-5)
    assert report.agrees == (report.max_abs <= allowed and report.kl_max <= 1e-6)
    assert report.agrees == (noise < 1e-4)


@pytest.mark.parametrize(("changed", "agrees"), [(0.99e-4, True), (1.01e-4, False)])
def test_the_largest_difference_decides(model, logits, changed, agrees, tmp_path):
    """A single logit of an unlikely token, so that the divergence stays small."""
    theirs = logits.double().numpy().copy()
    spread = float(logits.max() - logits.min())
    at, id = np.unravel_index(np.argmin(theirs), theirs.shape)
    at, id = int(at), int(np.argsort(theirs[at])[5])
    theirs[at, id] += changed * spread
    np.savez(tmp_path / "r.npz", tokens=IDS, logits=theirs)
    report = verify_against_recording(model, str(tmp_path / "r.npz"))
    assert report.kl_max < 1e-6
    assert report.agrees is agrees


@pytest.mark.parametrize(("share", "agrees"), [(0.2, True), (0.9, False)])
def test_the_divergence_decides(share, agrees, tmp_path):
    """Every logit off, by less than is allowed of a large range; probabilities feel it more."""
    weights = small_weights()
    weights["output.weight"] *= 5
    model = open_model(write_native(tmp_path / "model", TINY, [weights]))
    logits = model.logits(last_hidden(model.walk(torch.tensor([IDS])))[0])
    off = share * 1e-4 * float(logits.max() - logits.min())
    theirs = logits.double() + off * (torch.arange(VOCAB) % 2 * 2 - 1)
    report = verify_against_recording(model, npz(tmp_path, tokens=IDS, logits=theirs.numpy()))
    assert report.max_abs < report.max_abs_allowed
    assert (report.kl_max <= 1e-6) is agrees
    assert report.agrees is agrees


@pytest.mark.parametrize("places", [[0], [89], [5, 3, 88], list(range(0, 90, 7))], ids=str)
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_comparison_at_some_positions(model, logits, places, suffix, tmp_path):
    ours = model.logits(last_hidden(model.walk(torch.tensor([IDS])))[0, places])
    assert torch.allclose(ours, logits[places], atol=1e-5)
    theirs = ours + 0.01 * torch.randn(len(places), VOCAB)
    file = str(tmp_path / f"r.{suffix}")
    tensors = {"tokens": torch.tensor(IDS), "logits": theirs, "positions": torch.tensor(places)}
    if suffix == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        save_file(tensors, file)
    report = verify_against_recording(model, file)
    check_comparison(report, ours.numpy(), theirs.numpy(), places)


def test_comparison_with_another_checkpoint(model, logits, tmp_path):
    weights = small_weights()
    weights["layers.1.feed_forward.w2.weight"][3, 5] += 0.5
    other = open_model(write_native(tmp_path / "other", TINY, [weights]))
    theirs = other.logits(last_hidden(other.walk(torch.tensor([IDS])))[0])
    report = verify_against_checkpoint(model, other, IDS)
    check_comparison(report, logits.numpy(), theirs.numpy(), list(range(len(IDS))))
    assert report.first_different_layer == report.first_divergent_layer == "layer 1"
    assert [stage.stage for stage in report.stages] == ["embedding", "layer 0", "layer 1", "norm"]
    mine = [stage.hidden[0].double().clone() for stage in model.walk(torch.tensor([IDS]))]
    others = [stage.hidden[0].double().clone() for stage in other.walk(torch.tensor([IDS]))]
    for stage, a, b in zip(report.stages, mine, others, strict=True):
        shares = np.linalg.norm((a - b).numpy(), axis=1) / np.linalg.norm(b.numpy(), axis=1)
        assert stage.max_abs == pytest.approx(float((a - b).abs().max()))
        assert stage.relative == pytest.approx(shares.max())
    same = verify_against_checkpoint(model, open_model(tmp_path / "other"), IDS)
    assert not same.identical
    assert verify_against_checkpoint(other, open_model(tmp_path / "other"), IDS).identical


# --- recordings ---------------------------------------------------------------------------------

TOKENS = np.arange(4)
LOGITS = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path / "r.npz", **arrays)
    return str(path / "r.npz")


def tensors(path: Path, **arrays: Any) -> str:
    save_file({name: torch.as_tensor(array) for name, array in arrays.items()},
              path / "r.safetensors")  # fmt: skip
    return str(path / "r.safetensors")


def written(path: Path, data: bytes, name: str = "r.npz") -> str:
    (path / name).write_bytes(data)
    return str(path / name)


def archive(path: Path, **members: bytes) -> str:
    with zipfile.ZipFile(path / "r.npz", "w") as opened:
        for name, data in members.items():
            opened.writestr(f"{name}.npy", data)
    return str(path / "r.npz")


def damaged_bzip2(path: Path) -> str:
    """Of which bz2 says so with an OSError that has no number."""
    with zipfile.ZipFile(path / "r.npz", "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("tokens.npy", array_file(TOKENS))
    data = (path / "r.npz").read_bytes()
    return written(path, data.replace(b"BZh91AY&SY", b"BZh91AY&SX"))


def array_file(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def array_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.encode()


def header(path: Path, data: bytes, **entries: tuple[str, list[int], int, int]) -> str:
    table = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        for name, (dtype, shape, start, end) in entries.items()
    }
    text = json.dumps(table).encode()
    return written(path, struct.pack("<Q", len(text)) + text + data, "r.safetensors")


def lacking_bytes(file: str) -> str:
    """Its directory now leads to a place before the first byte."""
    data = Path(file).read_bytes()
    Path(file).write_bytes(data[:40] + data[240:])
    return file


def cut_short(file: str, nbytes: int) -> str:
    Path(file).write_bytes(Path(file).read_bytes()[:nbytes])
    return file


def renamed(file: str, name: str) -> str:
    return str(Path(file).rename(Path(file).with_name(name)))


GOOD: dict[str, Any] = {
    "plain": lambda p: npz(p, tokens=TOKENS, logits=LOGITS),
    "in float64": lambda p: npz(p, tokens=TOKENS, logits=LOGITS.astype(np.float64)),
    "in column order": lambda p: npz(p, tokens=TOKENS, logits=np.asfortranarray(LOGITS)),
    "tokens of 8 bits": lambda p: npz(p, tokens=TOKENS.astype(np.uint8), logits=LOGITS),
    "tokens of 16 bits": lambda p: npz(p, tokens=TOKENS.astype(np.uint16), logits=LOGITS),
    "tokens of 64 bits": lambda p: npz(p, tokens=TOKENS.astype(np.uint64), logits=LOGITS),
    "a batch of one": lambda p: npz(p, tokens=TOKENS[None], logits=LOGITS[None]),
    "logits in a batch of one": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[None]),
    "tokens in a batch of one": lambda p: npz(p, tokens=TOKENS[None], logits=LOGITS),
    "positions in a batch of one": lambda p: npz(
        p, tokens=TOKENS[None], logits=LOGITS[None], positions=TOKENS[None]
    ),
    "compressed": lambda p: (
        np.savez_compressed(p / "r.npz", tokens=TOKENS, logits=LOGITS),
        str(p / "r.npz"),
    )[1],
    "with more in it": lambda p: npz(p, tokens=TOKENS, logits=LOGITS, text=np.array("llama")),
    "safetensors": lambda p: tensors(p, tokens=TOKENS, logits=LOGITS),
    "safetensors in a batch of one": lambda p: tensors(
        p, tokens=TOKENS[None].astype(np.int32), logits=LOGITS[None]
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_recordings_that_are_read(name, tmp_path):
    recording = recordings.load(GOOD[name](tmp_path))
    assert recording.tokens == recording.positions == (0, 1, 2, 3)
    assert recording.logits.dtype == torch.float32
    assert np.array_equal(recording.logits.numpy(), LOGITS)
    assert recording.dtype == "fp32"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_recordings_of_small_floats(kind, tmp_path):
    there = torch.tensor(LOGITS).to(kind)
    recording = recordings.load(tensors(tmp_path, tokens=TOKENS, logits=there))
    assert torch.equal(recording.logits, there.float())
    assert recording.dtype == {torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]
    recording = recordings.load(npz(tmp_path, tokens=TOKENS, logits=there.float().numpy()))
    assert torch.equal(recording.logits, there.float())
    assert recording.dtype == {torch.bfloat16: "bf16", torch.float16: "fp16"}[kind]


def test_recordings_of_some_positions(tmp_path):
    for logits, given_positions, positions in (
        (LOGITS[:2], [3, 0], (3, 0)),
        (LOGITS[:1], [2], (2,)),
        (LOGITS[0], [2], (2,)),
        (LOGITS[:1], None, (3,)),
        (LOGITS[0], None, (3,)),
        (LOGITS[None, :1], None, (3,)),
    ):
        more = {} if given_positions is None else {"positions": np.array(given_positions)}
        for write in (npz, tensors):
            recording = recordings.load(write(tmp_path, tokens=TOKENS, logits=logits, **more))
            assert recording.positions == positions
            there = logits.reshape(-1, 8)
            assert np.array_equal(recording.logits.numpy(), there)


def test_what_was_saved_is_read_again(model, logits, tmp_path):
    file = str(tmp_path / "r.safetensors")
    predict_logits(model, IDS, save=file)
    recording = recordings.load(file)
    assert recording.tokens == tuple(IDS)
    assert torch.equal(recording.logits, logits)
    assert recording.dtype == "fp32"
    assert verify_against_recording(model, file).identical


def with_one(value: float) -> np.ndarray:
    logits = LOGITS.copy()
    logits[2, 3] = value
    return logits


BIG = 2**64 - 1
BAD: dict[str, Any] = {
    # what numpy writes
    "no logits": lambda p: npz(p, tokens=TOKENS),
    "no tokens": lambda p: npz(p, logits=LOGITS),
    "nothing": lambda p: npz(p),
    "tokens are floats": lambda p: npz(p, tokens=TOKENS * 1.0, logits=LOGITS),
    "tokens are texts": lambda p: npz(p, tokens=TOKENS.astype(str), logits=LOGITS),
    "tokens are dates": lambda p: npz(p, tokens=TOKENS.astype("M8[s]"), logits=LOGITS),
    "tokens are complex": lambda p: npz(p, tokens=TOKENS * 1j, logits=LOGITS),
    "tokens too large": lambda p: npz(p, tokens=np.full(4, BIG, np.uint64), logits=LOGITS),
    "tokens are one number": lambda p: npz(p, tokens=np.array(3), logits=LOGITS[:1]),
    "no token": lambda p: npz(p, tokens=TOKENS[:0], logits=LOGITS[:0]),
    "two sequences": lambda p: npz(p, tokens=np.stack([TOKENS] * 2), logits=LOGITS),
    "two sequences of logits": lambda p: npz(p, tokens=TOKENS, logits=np.stack([LOGITS] * 2)),
    "four dimensions": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[None, None]),
    "logits are one number": lambda p: npz(p, tokens=TOKENS[:1], logits=np.array(1.0)),
    "logits are whole numbers": lambda p: npz(p, tokens=TOKENS, logits=LOGITS.astype(int)),
    "logits are complex": lambda p: npz(p, tokens=TOKENS, logits=LOGITS * 1j),
    "logits are texts": lambda p: npz(p, tokens=TOKENS, logits=LOGITS.astype(str)),
    "logits are objects": lambda p: npz(p, tokens=TOKENS, logits=LOGITS.astype(object)),
    "logits are bytes": lambda p: npz(
        p, tokens=TOKENS, logits=LOGITS.astype(np.float16).view("V2")
    ),
    "logits are records": lambda p: npz(
        p, tokens=TOKENS, logits=np.zeros((4, 8), dtype=[("logit", "f4")])
    ),
    "no vocabulary": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:, :0]),
    "fewer logits": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:3]),
    "more logits": lambda p: npz(p, tokens=TOKENS[:3], logits=LOGITS),
    "NaN": lambda p: npz(p, tokens=TOKENS, logits=with_one(np.nan)),
    "Inf": lambda p: npz(p, tokens=TOKENS, logits=with_one(-np.inf)),
    "Inf in float32": lambda p: npz(p, tokens=TOKENS, logits=LOGITS.astype(np.float64) * 1e300),
    "position outside": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:2], positions=[0, 4]),
    "position below 0": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:2], positions=[0, -1]),
    "positions are floats": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:2], positions=[0.0, 1]),
    "positions are texts": lambda p: npz(p, tokens=TOKENS, logits=LOGITS[:1], positions=["1"]),
    "positions too large": lambda p: npz(
        p, tokens=TOKENS, logits=LOGITS[:1], positions=np.array([BIG], np.uint64)
    ),
    "positions in a column": lambda p: npz(
        p, tokens=TOKENS, logits=LOGITS[:2], positions=[[0], [1]]
    ),
    "fewer positions": lambda p: npz(p, tokens=TOKENS, logits=LOGITS, positions=[0, 1]),
    "no position": lambda p: npz(p, tokens=TOKENS, logits=LOGITS, positions=TOKENS[:0]),
    # archives that are none
    "empty": lambda p: written(p, b""),
    "an array alone": lambda p: written(p, array_file(LOGITS)),
    "a pickle": lambda p: written(p, b"\x80\x04N."),
    "a text": lambda p: written(p, b"logits\n"),
    "a member that is no array": lambda p: archive(p, tokens=b"0 1 2 3", logits=array_file(LOGITS)),
    "a member that is cut short": lambda p: archive(
        p, tokens=array_file(TOKENS), logits=array_file(LOGITS)[:-4]
    ),
    "a member with a damaged header": lambda p: archive(
        p, tokens=array_file(TOKENS), logits=array_header("(4, 8")
    ),
    "a member whose bzip2 stream is damaged": lambda p: damaged_bzip2(p),
    "a member of negative size": lambda p: archive(
        p, tokens=array_file(TOKENS), logits=array_header("(-4, 8)")
    ),
    "a member with a flipped bit": lambda p: written(
        p,
        Path(npz(p, tokens=TOKENS, logits=LOGITS))
        .read_bytes()
        .replace(LOGITS.tobytes()[:8], b"llamas!!"),
    ),
    # what safetensors writes
    "safetensors without logits": lambda p: tensors(p, tokens=TOKENS),
    "safetensors of other things": lambda p: tensors(p, weight=LOGITS),
    "safetensors, tokens are floats": lambda p: tensors(p, tokens=TOKENS * 1.0, logits=LOGITS),
    "safetensors, whole logits": lambda p: tensors(p, tokens=TOKENS, logits=LOGITS.astype(int)),
    "safetensors, logits of 8 bits": lambda p: tensors(
        p, tokens=TOKENS, logits=torch.tensor(LOGITS).to(torch.float8_e4m3fn)
    ),
    "safetensors, logits of 4 bits": lambda p: header(
        p, bytes(12), tokens=("I64", [1], 0, 8), logits=("F4", [1, 8], 8, 12)
    ),
    "safetensors, complex tokens": lambda p: header(
        p, bytes(40), tokens=("C64", [1], 0, 8), logits=("F32", [1, 8], 8, 40)
    ),
    "safetensors, unknown type": lambda p: header(
        p, bytes(40), tokens=("I64", [1], 0, 8), logits=("F33", [1, 8], 8, 40)
    ),
    "safetensors, Inf in float32": lambda p: tensors(
        p, tokens=TOKENS, logits=LOGITS.astype(np.float64) * 1e300
    ),
    "safetensors, NaN": lambda p: tensors(
        p, tokens=TOKENS, logits=np.full((4, 8), np.nan, np.float32)
    ),
    "safetensors, no vocabulary": lambda p: header(
        p, bytes(8), tokens=("I64", [1], 0, 8), logits=("F32", [1, 0], 8, 8)
    ),
    "safetensors, none of very many": lambda p: header(
        p, bytes(8), tokens=("I64", [1], 0, 8), logits=("F32", [0, 2**62, 2**62], 8, 8)
    ),
    "safetensors, more than memory": lambda p: header(
        p, bytes(64), tokens=("I64", [4], 0, 32), logits=("F32", [4, 2**50], 32, 32 + 2**54)
    ),
    "safetensors, overlapping": lambda p: header(
        p, bytes(40), tokens=("I64", [1], 0, 8), logits=("F32", [1, 8], 4, 36)
    ),
    "safetensors cut short": lambda p: cut_short(tensors(p, tokens=TOKENS, logits=LOGITS), 250),
    "safetensors, header cut short": lambda p: cut_short(
        tensors(p, tokens=TOKENS, logits=LOGITS), 40
    ),
    "safetensors, empty": lambda p: written(p, b"", "r.safetensors"),
    # files that are something else
    "an archive that lacks bytes of its middle": lambda p: lacking_bytes(
        npz(p, tokens=TOKENS, logits=LOGITS)
    ),
    "not there": lambda p: str(p / "nothing.npz"),
    "a folder": lambda p: str(p),
    "an archive with the other name": lambda p: renamed(
        npz(p, tokens=TOKENS, logits=LOGITS), "r.safetensors"
    ),
    "safetensors with the other name": lambda p: renamed(
        tensors(p, tokens=TOKENS, logits=LOGITS), "r.npz"
    ),
    "another name": lambda p: renamed(npz(p, tokens=TOKENS, logits=LOGITS), "r.txt"),
}


@pytest.mark.parametrize("name", BAD)
def test_recordings_that_are_refused(name, tmp_path):
    file = BAD[name](tmp_path)
    with pytest.raises(LlamaInspectError) as caught:
        recordings.load(file)
    text = str(caught.value)
    assert Path(file).name in text
    assert "\n" not in text
    assert len(text.split()) >= 5


def test_an_archive_that_is_cut_short_is_closed_again(tmp_path):
    file = cut_short(npz(tmp_path, tokens=TOKENS, logits=LOGITS), 300)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(CorruptFile, match="numpy cannot read it"):
            recordings.load(file)
        gc.collect()
    assert not [str(warning.message) for warning in caught]


# --- recordings that ask for more memory than they have bytes -------------------------------------


def deflated(path: Path, compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> str:
    with zipfile.ZipFile(path / "r.npz", "w", compression) as opened:
        for name, data in members.items():
            opened.writestr(f"{name}.npy", data)
    return str(path / "r.npz")


def zeros_file(shape: tuple[int, ...], kind: str) -> bytes:
    return array_file(np.zeros(shape, kind))


BOMBS: dict[str, Any] = {
    "logits": lambda p: deflated(
        p, tokens=zeros_file((33,), "i8"), logits=zeros_file((33, 2**17), "f4")
    ),
    "tokens": lambda p: deflated(
        p, tokens=zeros_file((2**21 + 1,), "i8"), logits=zeros_file((1, 8), "f4")
    ),
    "tokens of 8 bits, which get 64": lambda p: deflated(
        p, tokens=zeros_file((2**21 + 1,), "u1"), logits=zeros_file((1, 8), "f4")
    ),
    "a header": lambda p: deflated(
        p,
        tokens=b"\x93NUMPY\x02\x00" + struct.pack("<I", 17 * 2**20) + b" " * 17 * 2**20,
        logits=array_file(LOGITS),
    ),
    "no array": lambda p: deflated(p, tokens=bytes(17 * 2**20), logits=array_file(LOGITS)),
    "a header that lies": lambda p: archive(
        p, tokens=array_file(TOKENS), logits=array_header("(4, 1048577)")
    ),
    "bzip2": lambda p: deflated(
        p, zipfile.ZIP_BZIP2, tokens=array_file(TOKENS), logits=array_file(LOGITS)
    ),
    "LZMA": lambda p: deflated(
        p, zipfile.ZIP_LZMA, tokens=array_file(TOKENS), logits=array_file(LOGITS)
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_archives_that_would_take_far_more_memory_than_they_have_bytes_are_refused(name, tmp_path):
    file = BOMBS[name](tmp_path)
    assert Path(file).stat().st_size < 2**17
    tracemalloc.start()
    with pytest.raises(CorruptFile, match=r"r.npz: (tokens|logits) (would take|is compressed)"):
        recordings.load(file)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_compressed_recording_of_rounded_logits_is_read(kind, tmp_path):
    """Of what models write, whole numbers in float64 are compressed best: to a ninth."""
    logits = np.random.default_rng(0).normal(scale=3, size=(32, 2**17)).round().astype(kind)
    file = str(tmp_path / "r.npz")
    np.savez_compressed(file, tokens=np.arange(32), logits=logits)
    assert logits.nbytes >= 2**24
    assert Path(file).stat().st_size < logits.nbytes / 3
    assert np.array_equal(recordings.load(file).logits.numpy(), logits)


@pytest.mark.parametrize("kind", [">f4", ">f8", ">f2"])
def test_bytes_in_the_other_order(kind, tmp_path):
    file = npz(tmp_path, tokens=TOKENS.astype(">i8"), logits=LOGITS.astype(kind))
    recording = recordings.load(file)
    assert recording.tokens == (0, 1, 2, 3)
    assert np.array_equal(recording.logits.numpy(), LOGITS.astype(kind).astype(np.float32))


def test_recordings_of_another_model(model, tmp_path):
    with pytest.raises(UnsupportedFile, match=r"logits of 8 tokens, and .* has 128"):
        verify_against_recording(model, npz(tmp_path, tokens=TOKENS, logits=LOGITS))
    wide = np.zeros((4, VOCAB), np.float32)
    for token in (-1, VOCAB):
        file = npz(tmp_path, tokens=np.array([0, 1, token, 3]), logits=wide)
        with pytest.raises(LlamaInspectError, match=f"token 2 is {token}"):
            verify_against_recording(model, file)
    file = str(tmp_path / "r.safetensors")
    save_file({"tokens": torch.tensor(IDS[:4]), "logits": torch.tensor(wide)}, file,
              {"config.rope_theta": "10000.0"})  # fmt: skip
    with pytest.raises(UnsupportedFile, match=r"rope_theta was 10000\.0"):
        verify_against_recording(model, file)


def test_a_position_that_stands_there_twice(tmp_path):
    file = npz(tmp_path, tokens=TOKENS, logits=LOGITS[:3], positions=np.array([0, 0, 2]))
    with pytest.raises(CorruptFile, match="a position stands there twice"):
        recordings.load(file)


# --- anything at all ----------------------------------------------------------------------------


@examples(30)
@given(
    tokens=st.lists(st.integers(0, 2**31), min_size=2, max_size=5),
    vocab_size=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    metadata=st.dictionaries(st.text("abc", min_size=1), st.text(), max_size=2),
)
def test_any_recording_comes_back(tokens, vocab_size, dtype, metadata, tmp_path):
    file = str(tmp_path / "any.safetensors")
    logits = torch.randn(len(tokens), vocab_size).to(dtype)
    assert recordings.save(file, tuple(tokens), logits, metadata) == Path(file).stat().st_size
    found = recordings.load(file)
    assert (found.tokens, found.positions) == (tuple(tokens), tuple(range(len(tokens))))
    assert torch.equal(found.logits, logits.float())
    assert found.metadata == {"format": recordings.KIND, **metadata}


test_any_change_to_a_recording_is_read_or_refused = any_change("recording", 60)
test_any_change_to_an_archive_of_numpy_is_read_or_refused = any_change("recording-npz", 60)
