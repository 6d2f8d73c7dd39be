"""Meta's quantised checkpoints: the logits are those of the floats that they mean."""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_native
from in_process import run
from quantised import RANK, SCALE, hadamard_matrix, write_fp8, write_fp8_moe, write_int4

import llamainspect as li
from llamainspect.errors import LlamaInspectError
from llamainspect.model import dequantize
from llamainspect.model.dequantize import hadamard
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


def test_some_rows_at_a_time_or_all(tmp_path, monkeypatch):
    path, _, _ = write_int4(tmp_path / "int4", spinquant=True, lora=True, zeros=True)
    expected = logits_of(path)
    monkeypatch.setattr(dequantize, "ROWS", 7)
    assert torch.equal(logits_of(path), expected)


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
        names[f"model.layers.{number}.post_attention_layernorm.weight"] = (
            f"layers.{number}.ffn_norm"
        )
    names |= {"model.norm.weight": "norm", "lm_head.weight": "output",
              "model.embed_tokens.weight": "tok_embeddings"}  # fmt: skip
    state = {theirs: meant[f"{mine}.weight"].float() for theirs, mine in names.items()}
    assert not llama.load_state_dict(state, strict=False).unexpected_keys
    with torch.inference_mode():
        expected = llama(IDS, use_cache=False).logits[0]
    assert apart(logits_of(path), expected) < CLOSE


@pytest.mark.parametrize("size", [1, 2, 4, 8, 256, 2048])
def test_the_hadamard_matrix_is_sylvesters(size):
    rows = torch.randn(3, size, generator=torch.Generator().manual_seed(1))
    expected = rows.double() @ hadamard_matrix(size).double()
    assert torch.allclose(hadamard(rows).double(), expected, atol=1e-5)


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


# --- what is said of them -------------------------------------------------------------------------


def test_summary_says_what_is_stored_in_which_form(tmp_path):
    path, _, _ = write_int4(tmp_path / "int4", lora=True)
    summary = li.summarize(li.open_checkpoint(str(path)))
    linears = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 256 * 64)
    sides = 2 * (64 + 64 + 2 * (64 + 32) + 64 + 64 + 3 * (64 + 256))  # in and out of each linear
    int4, int8, bf16 = summary.stored_as
    assert (int4.form, int4.dtype, int4.group, int4.weights) == ("int4", "I8", 32, 14)
    assert (int4.elements, int4.values_nbytes) == (linears, linears)
    assert (int4.scales_nbytes, int4.adaptors_nbytes) == (linears // 32 * 4, RANK * sides * 2)
    assert int4.components == ("attention", "feed_forward")
    assert int8[:7] == ("int8", "I8", None, 2, 2 * 128 * 64, 2 * 128 * 64, 2 * 128 * 4)
    assert bf16[:6] == ("bf16", "BF16", None, 5, 5 * 64, 5 * 64 * 2)
    assert li.estimate_memory(li.find_subject(str(path))).stored_as == summary.stored_as
    assert not [finding for finding in summary.findings if finding.severity != "note"]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("write", [write_fp8, write_fp8_moe])
def test_scales_in_files_of_their_own_are_part_of_the_checkpoint(tmp_path, write, ranks):
    path, params, _ = write(tmp_path / "fp8", ranks)
    summary = li.summarize(li.open_checkpoint(str(path)))
    bf16, fp8 = summary.stored_as
    experts = params.get("moe_args", {}).get("num_experts", 1)
    hidden = 128 if experts > 1 else 192
    assert fp8[:5] == ("fp8", "F8_E4M3", None, 6, 2 * 3 * experts * hidden * 64)
    rows = 2 * experts * (2 * hidden + 64 * ranks)  # every rank has its own of w2
    assert fp8.scales_nbytes == 4 * rows
    assert bf16.scales_nbytes == 0
    assert summary.shards == ranks
    assert [entry.file for entry in summary.files] == [
        *(f"consolidated.{rank:02d}.pth" for rank in range(ranks)),
        *(f"fp8_scales_{rank}.pt" for rank in range(ranks)),
    ]
    assert not [finding for finding in summary.findings if finding.severity != "note"]


def test_a_run_says_that_inputs_are_not_rounded(tmp_path):
    path, _, _ = write_int4(tmp_path / "int4")
    done = run("logits", path, "--ids", "1,2,3")
    assert done.returncode == 0
    out = done.stdout
    assert "Meta's code also rounds what goes into them to 8-bit integers" in " ".join(out.split())


# --- damaged --------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    done = run("logits", path, "--ids", "1,2,3")
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def edited(path: Path, **changes: Any) -> None:
    """Tensors of the only shard replaced, or taken away where None is given."""
    file = path / "consolidated.00.pth"
    stored = torch.load(file, weights_only=True)
    for name, tensor in changes.items():
        stored[name] = tensor
    torch.save({name: tensor for name, tensor in stored.items() if tensor is not None}, file)


W1 = "layers.1.feed_forward.w1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{W1}.scales": None}, f"{W1}.weight: it is stored as I8, and there are no scales"),
        ({f"{W1}.scales": torch.ones(256, 3)}, f"{W1}.scales: its shape [256, 3] does not go with"),
        ({f"{W1}.scales": torch.ones(255, 2)}, f"{W1}.scales: its shape [255, 2] does not go with"),
        ({f"{W1}.zeros": torch.ones(256, 1)}, f"{W1}.zeros: its shape [256, 1] does not go with"),
        ({f"{W1}.scales": torch.ones(256, 2).int()}, f"{W1}.scales: it is stored as I32"),
        ({f"{W1}.scales": torch.ones(256, 2).char()}, f"{W1}.scales: it is stored as I8"),
        ({f"{W1}.adaptor.B.weight": torch.ones(256, 8).char()}, "B.weight: it is stored as I8"),
        ({f"{W1}.adaptor.B.weight": None}, f"{W1}.adaptor.B.weight: it is not there"),
        ({f"{W1}.weight": torch.ones(256, 32).char()}, "its shape is [256, 32], and the config"),
        ({f"{W1}.weight": torch.ones(256, 64).bfloat16()}, f"{W1}.weight: it is stored as BF16"),
        ({f"{W1}.adaptor.A.weight": torch.ones(8, 63)}, "A.weight: its shape [8, 63] does not go"),
        ({f"{W1}.adaptor.B.weight": torch.ones(256, 9)}, "B.weight: its shape [256, 9] does not"),
        (
            {f"{W1}.adaptor.A.weight": None, f"{W1}.adaptor.B.weight": None},
            f"{W1}.weight: there is no adaptor beside it",
        ),
        ({"output.scales": torch.ones(127)}, "output.scales: its shape [127] does not go with"),
        ({f"{W1}.scales": torch.tensor(1.0)}, f"{W1}.scales: its shape [] does not go with"),
        ({f"{W1}.weight": torch.tensor(1).char()}, f"{W1}.weight: its shape is []"),
        ({f"{W1}.scales": torch.ones(0)}, f"{W1}.scales: its shape [0] does not go with"),
    ],
)
def test_int4_that_does_not_fit_together_is_refused(tmp_path, changes, said):
    path, _, _ = write_int4(tmp_path / "int4", lora=True)
    edited(path, **changes)
    assert said in refusal(path)


def test_scales_that_are_a_single_number_are_described(tmp_path):
    """In the file beside the shards, and in the shards: nothing there has a first axis."""
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    for rank in range(2):
        file = path / f"fp8_scales_{rank}.pt"
        stored = torch.load(file, weights_only=True)
        torch.save(stored | {f"1_feed_forward.w2_{rank}": torch.tensor(1.0)}, file)
    summary = li.summarize(li.open_checkpoint(str(path)))
    found = [f.message for f in summary.findings if f.where == "layers.1.feed_forward.w2.scales"]
    assert any("shape [], expected [128]" in message for message in found)
    assert "layers.1.feed_forward.w2.scales: its shape [] does not go with" in refusal(path)


def test_a_scale_that_is_nan_is_named(tmp_path):
    path, _, _ = write_int4(tmp_path / "int4")
    scales = torch.full((256, 2), 0.01)
    scales[17, 1] = torch.nan
    edited(path, **{f"{W1}.scales": scales})
    assert f"{W1}.weight: with its scales it holds NaN at [17, 32]" in refusal(path)


def test_spinquant_needs_a_power_of_two(tmp_path):
    path, params, _ = write_int4(tmp_path / "int4", spinquant=True)
    params["multiple_of"] = 32
    (path / "params.json").write_text(json.dumps(params))
    stored = torch.load(path / "consolidated.00.pth", weights_only=True)
    narrow = {}
    for name, tensor in stored.items():
        if "feed_forward" in name:
            per = 32 if name.endswith("scales") else 1
            narrow[name] = tensor[:, : 192 // per] if ".w2." in name else tensor[:192]
    edited(path, **{name: tensor.clone() for name, tensor in narrow.items()})
    assert "SpinQuant turns rows of 192 numbers, and that is no power of 2" in refusal(path)


def test_params_json_of_another_scheme_joins_no_scales_wrongly(tmp_path):
    """Of int4 nothing tells along which axis the scales of FP8 experts are cut."""
    path, params, _ = write_fp8_moe(tmp_path / "fp8", 2)
    params["quantization_args"] = {"group_size": 32}
    (path / "params.json").write_text(json.dumps(params))
    assert "layers.1.feed_forward.experts.w1.scales: its shape [8, 64] does not" in refusal(path)


def test_a_scheme_that_is_not_known_is_refused(tmp_path):
    path, params, _ = write_int4(tmp_path / "int4")
    params["quantization_args"]["scheme"] = "int3_weight"
    (path / "params.json").write_text(json.dumps(params))
    assert "it is quantised (int3_weight) in another way than Meta's files are" in refusal(path)


def test_fp8_without_the_file_of_its_scales(tmp_path):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    (path / "fp8_scales_0.pt").unlink()
    said = refusal(path)
    assert "layers.1.feed_forward.w1.scales: 1 of its 2 parts can be read" in said
    assert "not that of fp8_scales_0.pt" in said
    wrong = [
        f for f in li.summarize(li.open_checkpoint(str(path))).findings if f.severity == "error"
    ]
    assert [f.where for f in wrong] == ["fp8_scales_0.pt", "layers.1.feed_forward.w1.scales"]
    (path / "fp8_scales_1.pt").unlink()
    said = refusal(path)
    assert "layers.1.feed_forward.w1.weight: it is stored as F8_E4M3, and there are no sc" in said
    assert "download fp8_scales_N.pt again" in said


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("write", [write_fp8, write_fp8_moe])
def test_scales_of_rows_may_have_an_axis_of_one(tmp_path, write, ranks):
    path, params, _ = write(tmp_path / "fp8", ranks)
    expected = logits_of(path)
    for rank in range(ranks):
        file = path / f"fp8_scales_{rank}.pt"
        stored = torch.load(file, weights_only=True)
        torch.save({name: tensor[..., None] for name, tensor in stored.items()}, file)
    params["quantization_args"] = {"scheme": "fp8_mixed"}
    (path / "params.json").write_text(json.dumps(params))
    assert torch.equal(logits_of(path), expected)
    summary = li.summarize(li.open_checkpoint(str(path)))
    assert not [finding for finding in summary.findings if finding.severity != "note"]


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (None, "an adaptor stands beside it, and lora_args in params.json does not say its scale"),
        ({"rank": 8}, "an adaptor stands beside it, and lora_args in params.json does not say its"),
        ({"rank": 16, "scale": 2.0}, "its rank is 8, and lora_args in params.json says 16"),
    ],
)
def test_lora_args_and_adaptors_go_together(tmp_path, lora, said):
    path, params, _ = write_int4(tmp_path / "int4", lora=True)
    params["lora_args"] = lora
    (path / "params.json").write_text(json.dumps(params))
    assert said in refusal(path)
    summary = li.summarize(li.open_checkpoint(str(path)))
    assert summary.shards == 1
    assert [f.severity for f in summary.findings if said in f.message] == ["error"]


def test_values_that_are_no_int4_are_refused(tmp_path):
    path, _, _ = write_int4(tmp_path / "int4")
    edited(path, **{f"{W1}.weight": torch.full((256, 64), 8, dtype=torch.int8)})
    assert f"{W1}.weight: it holds 8 to 8, and int4 is -8 to 7" in refusal(path)


def test_values_that_are_packed_are_no_missing_shard(tmp_path):
    path, _, _ = write_int4(tmp_path / "int4")
    stored = torch.load(path / "consolidated.00.pth", weights_only=True)
    edited(path, **{
        name: tensor[:, ::2].clone() for name, tensor in stored.items()
        if tensor.dtype == torch.int8 and "layers" in name
    })  # fmt: skip
    summary = li.summarize(li.open_checkpoint(str(path)))
    assert summary.shards == 1
    assert any("2 quantised values are packed in each" in f.message for f in summary.findings)
    assert "its shape is [64, 32], and the configuration asks for [64, 64]" in refusal(path)


@pytest.mark.parametrize("name", ["tok_embeddings.scales", "output.scales", f"{W1}.scales"])
def test_summary_says_what_keeps_it_from_running(tmp_path, name):
    path, _, _ = write_int4(tmp_path / "int4")
    edited(path, **{name: None})
    done = run("summary", path)
    assert done.returncode == 1
    assert "it does not run: it is stored as I8, and there are no scales for it" in " ".join(
        done.stdout.split()
    )


def test_parts_in_two_types_are_refused(tmp_path):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    file = path / "consolidated.01.pth"
    stored = torch.load(file, weights_only=True)
    stored[f"{W1}.weight"] = torch.ones(96, 64, dtype=torch.int8)
    torch.save(stored, file)
    assert f"{W1}.weight: its parts are stored as F8_E4M3, I8" in refusal(path)


def test_floats_are_not_said_to_be_quantised(tmp_path):
    path, params, meant = write_int4(tmp_path / "int4")
    write_native(path, params, [{name: weight.float() for name, weight in meant.items()}])
    assert load(path).notes == ()


def test_scales_of_another_rank_or_of_nothing_are_not_used(tmp_path):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    shutil.copy(path / "fp8_scales_1.pt", path / "fp8_scales_0.pt")
    shutil.copy(path / "fp8_scales_1.pt", path / "fp8_scales_7.pt")
    found = {f.where: f.message for f in li.open_checkpoint(str(path)).findings}
    assert "no scales of rank 0 of a feed-forward, and not used" in found["fp8_scales_0.pt"]
    assert "it belongs to consolidated.07.pth, which cannot be read" in found["fp8_scales_7.pt"]
    assert "parts can be read" in refusal(path)


@pytest.mark.parametrize("key", ["1_feed_forward.w2_1", "1_feed_forward.w3_0"])
def test_nan_in_the_scales_of_a_rank_is_found(tmp_path, key):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    file = path / f"fp8_scales_{key[-1]}.pt"
    stored = torch.load(file, weights_only=True)
    stored[key][17] = torch.nan
    torch.save(stored, file)
    place = "[17, 96]" if "w2" in key else "[17, 0]"
    field = key.split(".")[1][:2]
    said = f"layers.1.feed_forward.{field}.weight: with its scales it holds NaN at {place}"
    assert said in refusal(path)


@pytest.mark.parametrize("ranks", [1, 2])
def test_scale_files_are_no_shards_of_the_vocabulary(tmp_path, ranks):
    path, _, _ = write_fp8(tmp_path / "fp8", ranks)
    checkpoint = li.open_checkpoint(str(path))
    files = checkpoint.reader.weight_files(checkpoint.source)
    assert checkpoint.config is not None
    assert checkpoint.reader.embedding_rows(checkpoint.source, files, checkpoint.config) == 128


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{W1}.scales": torch.ones(256, 0)}, f"{W1}.scales: its shape [256, 0] does not go"),
        ({"norm.weight": torch.ones(64).char(), "norm.scales": torch.ones(64)},
         "norm.weight: scales, zeros or adaptors stand beside it"),
    ],
)  # fmt: skip
def test_scales_of_nothing_are_refused(tmp_path, changes, said):
    path, _, _ = write_int4(tmp_path / "int4")
    edited(path, **changes)
    assert said in refusal(path)


def test_a_file_of_scales_that_cannot_be_read_is_named(tmp_path):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    file = path / "fp8_scales_1.pt"
    file.write_bytes(file.read_bytes()[:300])
    assert "not that of fp8_scales_1.pt" in refusal(path)
    summary = li.summarize(li.open_checkpoint(str(path)))
    assert summary.shards == 2
    wrong = {f.where for f in summary.findings if f.severity == "error"}
    assert wrong == {"fp8_scales_1.pt", "layers.1.feed_forward.w1.scales"}


def test_of_two_files_of_scales_for_a_rank_one_counts(tmp_path):
    path, _, _ = write_fp8(tmp_path / "fp8", 2)
    expected = logits_of(path)
    stored = torch.load(path / "fp8_scales_0.pt", weights_only=True)
    torch.save({name: 2 * scale for name, scale in stored.items()}, path / "fp8_scales_00.pt")
    assert torch.equal(logits_of(path), expected)
    found = {f.where: f.message for f in li.open_checkpoint(str(path)).findings}
    assert (
        "it has the number of fp8_scales_0.pt, which is read instead" in found["fp8_scales_00.pt"]
    )


# --- at random ------------------------------------------------------------------------------------

CHANGES = [
    lambda tensor: torch.empty(0),
    lambda tensor: torch.tensor(1.0),
    lambda tensor: tensor.reshape(-1),
    lambda tensor: tensor[None],
    lambda tensor: tensor[:0] if tensor.dim() else tensor,
    lambda tensor: tensor[..., ::2].clone() if tensor.dim() else tensor,
    lambda tensor: tensor.t().contiguous() if tensor.dim() == 2 else tensor,
    lambda tensor: tensor.float().to(torch.int8),
    lambda tensor: tensor.float() > 0,
    lambda tensor: tensor.float().to(torch.complex64),
    lambda tensor: tensor.double(),
    lambda tensor: None,
]


@pytest.mark.parametrize("seed", range(120))
def test_whatever_is_changed_it_runs_or_a_sentence_says_why_not(tmp_path, seed):
    dice = random.Random(seed)
    path = dice.choice([
        lambda: write_int4(tmp_path, lora=True, zeros=True),
        lambda: write_int4(tmp_path, spinquant=True),
        lambda: write_fp8(tmp_path, 2),
        lambda: write_fp8_moe(tmp_path, 2),
    ])()[0]  # fmt: skip
    file = dice.choice(sorted(path.glob("*.pt*")))
    stored = torch.load(file, weights_only=True)
    for name in dice.sample(sorted(stored), min(3, len(stored))):
        changed = dice.choice(CHANGES)(stored.pop(name))
        if changed is not None:
            stored[name] = changed
    torch.save(stored, file)
    if dice.random() < 0.3:
        params = json.loads((path / "params.json").read_text())
        params |= dice.choice([
            {"lora_args": {"rank": 0}}, {"lora_args": {"rank": 8}}, {"lora_args": None},
            {"quantization_args": {}}, {"quantization_args": None},
        ])  # fmt: skip
        (path / "params.json").write_text(json.dumps(params))
    li.summarize(li.open_checkpoint(str(path)))
    with suppress(LlamaInspectError):
        li.estimate_memory(li.find_subject(str(path)))
        logits_of(path)
