"""Logits of small random Llama 4 and vision models against transformers', on text.

Layouts are written by the tests' own hands (Meta's fused names, one and two shards; Hugging
Face's), or by transformers itself.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY_MOE,
    cut,
    moe_weights,
    write_native,
)
from hub_layout import hub_config_moe, to_hub_moe, write_hub
from in_process import run
from record_llama4 import DATA, RECORDED
from test_cli import EXAMPLE
from test_hub_names import TEXT_4, TEXT_M, VISION_4, VISION_M

import llamainspect as li
from llamainspect.errors import NonFinite
from llamainspect.model import moe, runner
from llamainspect.model.runner import Model, estimate_need, last_hidden
from llamainspect.runs import check_runnable

transformers = pytest.importorskip("transformers")

CLOSE = 3e-6  # largest difference of any logit, as a share of their range
EVERY = TINY_MOE["moe_args"] | {"interleave_moe_layer_step": 1}
KINDS: dict[str, dict[str, Any]] = {
    "as Scout, every layer routed": {"moe_args": EVERY},
    "as Maverick, every second, no QK norm": {"use_qk_norm": False, "use_scaled_rope": False},
    "chunks of 8": {"attention_chunk_size": 8, "n_layers": 4},
    "chunks of 7, every second without RoPE": {
        "attention_chunk_size": 7, "nope_layer_interval": 2, "n_layers": 4,
    },
    "temperature": {
        "nope_layer_interval": 2, "n_layers": 4, "attn_temperature_tuning": True,
        "floor_scale": 4, "attn_scale": 0.3,
    },
    "two experts for each token": {"moe_args": EVERY | {"top_k": 2}, "n_layers": 3},
    "all experts for each token": {"moe_args": EVERY | {"top_k": 4}},
}  # fmt: skip
TOKENS = 40
IDS = torch.randint(128, (1, TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory) -> tuple[dict[str, Path], torch.Tensor]:
    """The model in three layouts, and what transformers makes of it."""
    params = TINY_MOE | KINDS[request.param]
    weights, place = moe_weights(params), tmp_path_factory.mktemp("llama4")
    said = {key: params[key] for key in ("floor_scale", "attn_scale") if key in params}
    hub = write_hub(
        place / "hub", to_hub_moe(weights, params), hub_config_moe(params, **said), shards=2
    )
    paths = {
        "one shard": write_native(place / "one", params, [weights]),
        "two shards": write_native(place / "two", params, cut(weights, 2, blocks=MOE_BLOCKS)),
        "hub": hub,
    }
    theirs = transformers.Llama4ForCausalLM.from_pretrained(hub, dtype=torch.float32).eval()
    with torch.inference_mode():
        return paths, theirs(IDS, use_cache=False).logits[0]


def load(path: Path, **options: Any) -> Model:
    return li.load_model(
        li.find_subject(str(path)), li.RunOptions("cpu", **{"dtype": "fp32"} | options)
    )


def logits_of(model: Model, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
    return model.logits(last_hidden(model.walk(ids, cache))[0])


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


@pytest.mark.parametrize("layout", ["one shard", "two shards", "hub"])
@pytest.mark.parametrize("stream", [False, True])
def test_logits_are_those_of_transformers(kind, layout, stream):
    paths, theirs = kind
    assert apart(logits_of(load(paths[layout], stream=stream), IDS), theirs) < CLOSE


def test_transformers_is_asked_for_the_same_model(kind):
    paths, _ = kind
    for path in paths.values():
        report = li.verify_against_transformers(load(path), IDS[0].tolist())
        assert report.ok
        assert report.max_abs < CLOSE * report.logit_range
        assert [row.stage for row in report.stages][1] == "layer 0"


@pytest.mark.parametrize("step", [1, 7, 16])
def test_with_a_cache_in_steps(kind, step):
    """What is in a chunk is seen, and what is before it is not, wherever the steps end."""
    paths, theirs = kind
    model = load(paths["one shard"])
    cache = model.new_cache(TOKENS)
    pieces = [logits_of(model, IDS[:, at : at + step], cache) for at in range(0, TOKENS, step)]
    assert apart(torch.cat(pieces), theirs) < CLOSE


def test_all_layouts_give_the_same_bits(kind):
    paths, _ = kind
    first, *others = (logits_of(load(path, stream=True), IDS) for path in paths.values())
    for other in others:
        assert torch.equal(first, other)


def test_long_and_many_sequences_pass_in_pieces(kind, monkeypatch):
    """Rows of a batch, pieces of a sequence, tokens of an expert: no logit depends on them."""
    paths, theirs = kind
    model = load(paths["one shard"])
    many = torch.cat([IDS, IDS.flip(1), IDS])
    whole = last_hidden(model.walk(many)).clone()
    monkeypatch.setattr(runner, "CHUNK", 16)
    monkeypatch.setattr(moe, "ROWS", 3)
    pieces = last_hidden(model.walk(many))
    assert torch.allclose(whole, pieces, atol=1e-4)
    assert apart(model.logits(pieces[2]), theirs) < CLOSE


def test_only_the_experts_that_tokens_go_to_are_read(tmp_path):
    """One token, one expert of four: exactly its bytes, from every layout."""
    params = TINY_MOE | {"moe_args": EVERY}
    weights = moe_weights(params)
    expert = 3 * 64 * 128 * 4  # bytes in float32
    whole = sum(weight.nbytes for weight in weights.values())
    experts = params["n_layers"] * 4 * expert
    embedding = 128 * 64 * 4
    needed = whole - experts - embedding + 64 * 4 + params["n_layers"] * expert
    hub = to_hub_moe(weights, params)
    for path in (
        write_native(tmp_path / "one", params, [weights]),
        write_native(tmp_path / "two", params, cut(weights, 2, blocks=MOE_BLOCKS)),
        write_hub(tmp_path / "hub", hub, hub_config_moe(params)),
    ):
        model = load(path, stream=True)
        logits_of(model, IDS[:, :1])
        assert model.weights.nbytes_read == needed, path.name
        kept = load(path, stream=False)
        for _ in range(2):
            logits_of(kept, IDS[:, :1])
        assert kept.weights.nbytes_read == needed + 64 * 4, path.name  # one row more


def test_what_is_not_finite_is_blamed(tmp_path):
    params = TINY_MOE | {"moe_args": EVERY}
    for name, index, said in (
        ("layers.1.feed_forward.w_in_shared_FD.weight", (5, 7),
         r"layers.1.feed_forward.shared_expert.w1.weight: it holds NaN at \[5, 7\]"),
        ("layers.1.feed_forward.router_DE", (3, 2),
         r"layers.1.feed_forward.router_DE: it holds NaN at \[3, 2\]"),
        ("layers.0.feed_forward.experts.moe_w_out_eF_D", (130, 9),
         r"layers.0.feed_forward.experts.w2: it holds NaN at \[1, 2, 9\]"),
    ):  # fmt: skip
        weights = moe_weights(params)
        weights[name][index] = float("nan")
        model = load(write_native(tmp_path / name.rpartition(".")[2], params, [weights]))
        with pytest.raises(NonFinite, match=said):
            li.predict_logits(model, IDS[0].tolist())


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_simulated_experts_are_rounded_along_what_is_multiplied(tmp_path, form):
    """As a dense linear of the same numbers: w1 and w3 (out, in), w2 (out, in)."""
    from llamainspect.model.quantize import make_simulation, rounded

    params = TINY_MOE | {"moe_args": EVERY}
    weights = moe_weights(params)
    path = write_native(tmp_path, params, [weights])
    layer = next(load(path, simulate=form, group_size=32).weights.layers())
    expert = layer.routed.expert(2)
    simulation = make_simulation(form, 32)
    for tensor, name in ((expert.w1, "moe_w_in_eD_F"), (expert.w2, "moe_w_out_eF_D")):
        stored = weights[f"layers.0.feed_forward.experts.{name}"].chunk(4)[2]
        assert torch.equal(tensor, rounded(stored.T.contiguous(), simulation).T)
    assert torch.equal(layer.routed.router, weights["layers.0.feed_forward.router_DE"])


def test_every_command_that_runs_a_model_runs_it(tmp_path):
    vocabulary = li.load_tokenizer(EXAMPLE).vocab_size
    params = TINY_MOE | {"moe_args": EVERY, "vocab_size": vocabulary}
    path = write_native(tmp_path / "moe", params, [moe_weights(params)])
    shutil.copy(Path(EXAMPLE) / "tokenizer.model", path)
    recording = tmp_path / "logits.safetensors"
    questions = Path(EXAMPLE) / "questions.jsonl"
    for arguments in (
        ["logits", path, "--prompt", "def f(x):", "--save", recording],
        ["verify-logits", path, "--reference", recording],
        ["verify-logits", path, "--implementation", "transformers", "--prompt", "def f(x):"],
        ["generate", path, "--prompt", "def f(x):", "-n", "4"],
        ["evaluate", path, "--text", path / "params.json", "--window", "32"],
        ["evaluate", path, "--choices", questions],
    ):
        done = run(*arguments, "--json", "--device", "cpu")
        assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True), done.stderr


def test_memory_is_asked_for_experts(tmp_path):
    """All of them where they are kept, one where layers are streamed."""
    params = TINY_MOE | {"moe_args": EVERY}
    subject = li.find_subject(str(write_native(tmp_path, params, [moe_weights(params)])))
    checkpoint, config = check_runnable(subject)
    subject = subject._replace(checkpoint=checkpoint, config=config)
    expert = 3 * 64 * 128
    more = subject._replace(config=config._replace(moe=config.moe._replace(num_experts=6)))
    need, needs_more = (estimate_need(one, 4, 8) for one in (subject, more))
    assert needs_more.resident - need.resident == 4 * 2 * 2 * expert  # layers, experts
    assert needs_more.streamed == need.streamed
    wider = config._replace(moe=config.moe._replace(hidden_dim=128 + 64))
    needs_wider = estimate_need(subject._replace(config=wider), 4, 8)
    # One expert, as it is computed with and as it is stored at most.
    assert needs_wider.streamed - need.streamed >= 3 * 64 * 64 * (4 + 4)


# --- models that also look at images --------------------------------------------------------------

SEEING = {
    "Llama 4": lambda: transformers.Llama4ForConditionalGeneration(
        transformers.Llama4Config(text_config=TEXT_4, vision_config=VISION_4)
    ),
    "Llama 3.2 Vision": lambda: transformers.MllamaForConditionalGeneration(
        transformers.MllamaConfig(text_config=TEXT_M, vision_config=VISION_M)
    ),
}


@pytest.mark.parametrize("name", SEEING)
def test_a_text_alone_passes_the_text_model(tmp_path, name):
    torch.manual_seed(1)
    theirs = SEEING[name]().eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.1 + (weight.ndim == 1))
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(40, (1, 20))
    with torch.inference_mode():
        text = theirs.language_model if name == "Llama 4" else theirs
        expected = text(input_ids=ids, use_cache=False).logits[0]
    model = load(tmp_path)
    ours = logits_of(model, ids)
    assert apart(ours, expected[:, : ours.shape[1]]) < CLOSE
    report = li.predict_logits(model, ids[0].tolist())
    assert [finding.message for finding in report.findings] == [
        "it also looks at images, which are not given to it here: its text model runs on text"
    ]


# --- recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one shard", "two shards", "hub"])
@pytest.mark.parametrize("name", RECORDED)
def test_logits_are_those_that_were_recorded(tmp_path, name, layout):
    """Whatever transformers is installed, and by the command that a person would give."""
    params = RECORDED[name]
    weights = moe_weights(params)
    if layout == "hub":
        said = {key: params[key] for key in ("floor_scale", "attn_scale") if key in params}
        path = write_hub(tmp_path, to_hub_moe(weights, params), hub_config_moe(params, **said))
    else:
        shards = cut(weights, 2, blocks=MOE_BLOCKS) if layout == "two shards" else [weights]
        path = write_native(tmp_path, params, shards)
    recording = DATA / f"llama4-{name}.safetensors"
    done = run("verify-logits", path, "--reference", recording, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["tolerance"]["dtype"]) == (0, "fp32")
    assert answer["max_abs"] < CLOSE * answer["logit_range"]
    assert len(answer["positions"]) == 40
