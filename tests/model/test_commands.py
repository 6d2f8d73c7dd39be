"""logits, verify-logits, generate and evaluate as a person meets them."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from checkpoints import (
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    cut,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
    write_sparse,
)
from hostile import write_case
from hub_layout import hub_config, to_hub, write_hub
from in_process import run
from test_cli import EXAMPLE, in_terminal
from test_cli import run as run_process

import llamainspect as li
from llamainspect import readahead
from llamainspect.model import devices, quantize, runner
from llamainspect.model.generate import stop_ids

UNSTEADY = ("seconds", "peak_nbytes", "prefill_seconds", "decode_seconds", "tokens_per_second",
            "prefill_tokens_per_second", "decode_tokens_per_second")  # fmt: skip
IDS = "5 100 3 77 12"


def weights(**changes):
    """Random ones of a size that a trained model's have, some of them changed."""
    made = {name: (w.float() * 0.08).bfloat16() for name, w in
            random_weights(dense_shapes(TINY, TINY_HIDDEN)).items()}  # fmt: skip
    for name in made:
        if name.endswith("norm.weight"):
            made[name] = torch.ones_like(made[name])
    return made | changes


@pytest.fixture
def sane(tmp_path):
    return write_native(tmp_path / "sane", TINY, [weights()])


def steady(text):
    """A report without what differs from run to run."""

    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in UNSTEADY}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return clean(json.loads(text))


def model_of(path, **options):
    return li.load_model(li.find_subject(str(path)), li.RunOptions(device="cpu", **options))


# --- answers --------------------------------------------------------------------------------------

TOKENIZER = li.load_tokenizer(EXAMPLE)
COMMANDS = {
    "logits": (
        ["--prompt", "Hello", "--top", "3", "--all-positions"],
        lambda model, ids: li.predict_logits(model, ids, tokenizer=TOKENIZER, top=3, every=True),
    ),
    "verify-logits": (
        ["--against", EXAMPLE, "--prompt", "Hello"],
        lambda model, ids: li.verify_against_checkpoint(model, model_of(EXAMPLE), ids),
    ),
    "generate": (
        ["--prompt", "Hello", "-n", "5", "--temperature", "0.9", "--seed", "4"],
        lambda model, ids: li.generate_text(
            model, TOKENIZER, ids, max_new_tokens=5, sampling=li.Sampling(0.9, seed=4)
        ),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_json_equals_the_library(command):
    arguments, ask = COMMANDS[command]
    done = run(command, EXAMPLE, *arguments, "--device", "cpu", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    ids = TOKENIZER.encode("Hello", bos=True)
    options = {"stream": True} if command != "generate" else {}
    assert steady(done.stdout) == steady(li.to_json(ask(model_of(EXAMPLE, **options), ids)))


def test_evaluate_as_json_equals_the_library(tmp_path):
    text = "Alice was beginning to get very tired of sitting. " * 9
    (tmp_path / "alice.txt").write_text(text)
    done = run("evaluate", EXAMPLE, "--text", tmp_path / "alice.txt", "--window", "40", "--json",
               "--device", "cpu")  # fmt: skip
    report = li.evaluate_text(model_of(EXAMPLE), TOKENIZER, text, window=40)
    found, expected = steady(done.stdout), steady(li.to_json(report))
    assert (found.pop("file"), expected.pop("file")) == (str(tmp_path / "alice.txt"), "the text")
    assert [row.pop("where") for row in found["findings"]] == [str(tmp_path / "alice.txt")]
    assert [row.pop("where") for row in expected["findings"]] == ["the text"]
    assert found == expected
    assert report.nbytes == len(text)
    assert report.predicted == report.tokens == len(TOKENIZER.encode(text))
    assert report.bits_per_byte == pytest.approx(
        report.cross_entropy * report.predicted / len(text) / 0.6931471805599453
    )


def test_the_fields_that_programs_rely_on():
    answer = json.loads(run("logits", EXAMPLE, "--prompt", "Hello", "--json").stdout)
    assert answer["tokens"] == TOKENIZER.encode("Hello", bos=True)
    assert set(answer["top"][0]) >= {"id", "text", "probability"}
    assert len(answer["top"]) == 10
    assert answer["positions"] == []
    answer = json.loads(run("verify-logits", EXAMPLE, "--against", EXAMPLE, "--json").stdout)
    assert {"max_abs", "mean_abs", "kl", "top1_agreement", "first_divergent_layer"} <= set(answer)
    assert (answer["max_abs"], answer["top1_agreement"]) == (0, 1)
    assert answer["first_divergent_layer"] is None


def test_ids_may_come_from_standard_input(sane):
    done = run("logits", sane, "--ids", "-", "--json", input=IDS)
    assert json.loads(done.stdout)["tokens"] == [int(id) for id in IDS.split()]


def test_a_tokenizer_that_was_named_must_be_there(sane):
    done = run("logits", sane, "--ids", IDS, "--tokenizer", "/nosuch")
    assert (done.returncode, done.stdout) == (3, "")
    done = run("verify-logits", sane, "--against", sane, "--tokenizer", EXAMPLE)
    assert (done.returncode, done.stdout) == (2, "")


def test_ids_need_no_tokenizer(sane):
    answer = json.loads(run("logits", sane, "--ids", IDS, "--json").stdout)
    assert (answer["prompt"], answer["top"][0]["text"]) == (None, None)
    page = run("logits", sane, "--ids", IDS, "--all-positions").stdout
    assert "prompt   5 tokens\n" in page
    made = run("generate", sane, "--ids", IDS, "-n", "3")
    numbers = json.loads(run("generate", sane, "--ids", IDS, "-n", "3", "--json").stdout)["tokens"]
    assert made.stdout.split() == [str(number) for number in numbers]


def test_the_bos_token_may_be_left_out():
    ids = json.loads(run("logits", EXAMPLE, "--prompt", "Hi", "--no-bos", "--json").stdout)[
        "tokens"
    ]
    assert ids == TOKENIZER.encode("Hi")
    report = json.loads(
        run("evaluate", EXAMPLE, "--text", "-", "--no-bos", "--json", input="Hello you").stdout
    )
    ids = TOKENIZER.encode("Hello you")
    assert report["predicted"] == len(ids) - 1
    assert report["nbytes"] == len("Hello you") - len(TOKENIZER.decode_bytes(ids[:1]))


# --- two checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_shards_give_the_same_bits(sane, tmp_path, ranks):
    params = TINY | {"n_kv_heads": 2}
    other = write_native(tmp_path / "cut", params, cut(weights(), ranks))
    done = run("verify-logits", sane, "--against", other, "--json", "--device", "cpu")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["identical"]
    assert (answer["first_different_layer"], answer["first_divergent_layer"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("layers.0.attention.wk.weight", "layer 0"),
        ("layers.1.feed_forward.w2.weight", "layer 1"),
        ("layers.1.ffn_norm.weight", "layer 1"),
        ("norm.weight", "norm"),
        ("output.weight", "output"),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_layer_with_a_changed_weight_is_named(sane, tmp_path, name, stage, dtype):
    changed = weights()[name].clone()
    changed.view(-1)[: changed.numel() // 2] += 0.5
    other = write_native(tmp_path / "other", TINY, [weights(**{name: changed})])
    done = run("verify-logits", sane, "--against", other, "--json", "--dtype", dtype)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["agrees"]) == (1, False, False)
    assert answer["first_divergent_layer"] == answer["first_different_layer"] == stage
    page = run("verify-logits", sane, "--against", other, "--dtype", dtype).stdout
    if stage == "output":
        assert "fail: further apart than rounding allows; hidden states agree, the output" in page
    else:
        assert f"fail: further apart than rounding allows; hidden states depart at {stage}" in page


def test_what_is_different_but_within_rounding_is_said(sane, tmp_path):
    name = "layers.1.attention.wo.weight"
    changed = weights()[name].float()
    changed[3, 5] += 1e-6
    other = weights()
    other = {key: value.float() for key, value in other.items()} | {name: changed}
    path = write_native(tmp_path / "near", TINY, [other])
    done = run("verify-logits", sane, "--against", path)
    assert done.returncode == 0
    assert "results are not the same: from layer 1 on they differ" in done.stdout
    assert "tolerance  that of bf16" in done.stdout  # one of them is stored in it
    answer = json.loads(run("verify-logits", sane, "--against", path, "--json").stdout)
    assert (answer["first_different_layer"], answer["first_divergent_layer"]) == ("layer 1", None)


def test_models_of_other_shape_are_compared_by_their_logits(sane, tmp_path):
    params = TINY | {"n_layers": 1}
    shapes = dense_shapes(params, TINY_HIDDEN)
    other = write_native(tmp_path / "short", params, [{n: weights()[n] for n in shapes}])
    done = run("verify-logits", sane, "--against", other, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["stages"], answer["agrees"]) == (1, [], False)
    assert any("n_layers is 1, 2" in finding["message"] for finding in answer["findings"])
    params = TINY | {"vocab_size": 64}
    made = random_weights(dense_shapes(params, TINY_HIDDEN))
    done = run("verify-logits", sane, "--against", write_native(tmp_path / "v", params, [made]))
    assert done.returncode == 3
    assert "its vocabulary has 64 tokens and that of" in done.stderr
    assert "cannot be compared" in done.stderr


def test_another_rope_factor_is_said(sane, tmp_path):
    params = TINY | {"use_scaled_rope": True, "rope_scaling_factor": 4.0}
    other = write_native(tmp_path / "rope", params, [weights()])
    done = run("verify-logits", sane, "--against", other)
    assert done.returncode == 1
    assert "its RoPE factor is 4.0, none in the first" in done.stdout


def test_transformers_agrees(sane):
    done = run("verify-logits", sane, "--implementation", "transformers", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer["max_abs"] <= 2e-5 * answer["logit_range"]
    assert [stage["layer"] for stage in answer["stages"]] == [None, 0, 1, None]


# --- recordings -----------------------------------------------------------------------------------


def test_a_recording_is_met_again_and_others_are_refused(sane, tmp_path):
    file = tmp_path / "rec.safetensors"
    done = run("logits", sane, "--ids", IDS, "--save", file)
    assert "logits of 5 positions recorded in" in done.stdout
    assert run("logits", sane, "--ids", IDS, "--save", file).returncode == 0, "its own is replaced"
    done = run("verify-logits", sane, "--reference", file, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["identical"], answer["other_run"]) == (0, True, "cpu, fp32")
    assert len(answer["positions"]) == 5
    done = run("verify-logits", sane, "--reference", file, "--ids", "5 100 4")
    assert done.returncode == 3
    assert "recorded for other tokens: they differ from token 2 on" in done.stderr
    params = TINY | {"norm_eps": 1e-6}
    other = write_native(tmp_path / "eps", params, [weights()])
    done = run("verify-logits", other, "--reference", file)
    assert done.returncode == 3
    assert "recorded for another model: norm_eps was 1e-05, and is 1e-06" in done.stderr
    done = run("verify-logits", EXAMPLE, "--reference", file)
    assert done.returncode == 3
    assert "it has logits of 128 tokens, and" in done.stderr


def test_quantisation_is_seen_in_the_logits(sane, tmp_path):
    file = tmp_path / "rec.safetensors"
    run("logits", sane, "--ids", IDS, "--save", file)
    found = {}
    for form in ("int8", "int4"):
        done = run("verify-logits", sane, "--reference", file, "--simulate", form, "--json")
        assert done.returncode == 1
        answer = json.loads(done.stdout)
        found[form] = answer["max_abs"]
        assert answer["run"]["simulate"].startswith(form)
    assert 0 < found["int8"] < found["int4"] / 4
    done = run(
        "verify-logits", sane, "--against", sane, "--simulate", "int4", "--ids", IDS, "--json"
    )
    assert json.loads(done.stdout)["max_abs"] == pytest.approx(found["int4"])


def test_how_a_recording_was_made_is_said_when_it_is_run_otherwise(sane, tmp_path):
    file = tmp_path / "rec.safetensors"
    run("logits", sane, "--ids", IDS, "--save", file, "--simulate", "int4", "--group-size", "32")
    done = run("verify-logits", sane, "--reference", file)
    assert done.returncode == 1
    assert "recorded with weights rounded to int4, groups of 32, and here it is none" in done.stdout
    again = ["--simulate", "int4", "--group-size", "32"]
    assert run("verify-logits", sane, "--reference", file, *again).returncode == 0
    done = run("verify-logits", sane, "--reference", file, *again, "--rope-factor", "32")
    assert "recorded with a RoPE factor of none, and here it is 32" in done.stdout


def test_a_recording_may_stand_behind_a_link(sane, tmp_path):
    link, file = tmp_path / "link.safetensors", tmp_path / "real.safetensors"
    assert run("logits", sane, "--ids", IDS, "--save", file).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()
    link.symlink_to(file)
    before = file.read_bytes()
    assert run("logits", sane, "--ids", "1 2", "--save", link).returncode == 0
    assert link.is_symlink()
    assert file.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "link.safetensors", "real.safetensors", "sane",
    ]  # fmt: skip


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", ["weights.bin", "model.safetensors", "none/rec.safetensors"])
def test_nothing_else_is_overwritten(sane, tmp_path, name):
    target = tmp_path / name
    if target.parent.exists():
        target.write_bytes(b"precious")
    done = run("logits", sane, "--ids", IDS, "--save", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert not target.exists() or target.read_bytes() == b"precious"


# --- numbers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("tok_embeddings.weight", (100, 7), float("nan")),
        ("layers.0.attention_norm.weight", (3,), float("inf")),
        ("layers.0.attention.wq.weight", (63, 0), float("nan")),
        ("layers.1.attention.wk.weight", (3, 17), float("-inf")),
        ("layers.1.attention.wv.weight", (9, 60), float("nan")),
        ("layers.1.feed_forward.w2.weight", (63, 191), float("-inf")),
        ("norm.weight", (0,), float("nan")),
        ("output.weight", (127, 1), float("nan")),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_tensor_with_the_first_nan_is_named(tmp_path, name, index, value, ranks):
    bad = weights()[name].clone()
    bad[index] = value
    path = write_native(tmp_path / "bad", TINY, cut(weights(**{name: bad}), ranks))
    what = "NaN" if value != value else "Inf"
    for command in (["logits"], ["generate"], ["verify-logits", "--against", str(path)]):
        done = run(command[0], path, *command[1:], "--ids", IDS)
        assert (done.returncode, done.stdout.strip()) == (3, ""), command
        assert f"llamainspect: {path}: {name}: it holds {what} at {list(index)}" in done.stderr


def test_rope_that_makes_no_angles_is_told(tmp_path):
    path = write_native(tmp_path / "theta", TINY | {"rope_theta": 1e-300}, [weights()])
    done = run("logits", path, "--ids", IDS)
    assert (done.returncode, done.stdout) == (3, "")
    assert "RoPE makes NaN of rope_theta 1e-300 and factor 1" in done.stderr


def test_arithmetic_that_overflows_is_told_from_bad_weights(tmp_path):
    large = weights()
    for name in ("w1", "w3"):
        key = f"layers.1.feed_forward.{name}.weight"
        large[key] = large[key].float() * 4_000
    path = write_native(tmp_path / "large", TINY, [large])
    assert run("logits", path, "--ids", IDS).returncode == 0
    done = run("logits", path, "--ids", IDS, "--dtype", "fp16")
    assert done.returncode == 3
    assert "layer 1: NaN or Inf first appears there, and its weights are finite" in done.stderr
    assert "--dtype fp32 or bf16" in done.stderr


# --- what cannot be run ---------------------------------------------------------------------------


def test_without_torch_the_pip_command_is_said(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here')")
    done = run_process("logits", EXAMPLE, "--ids", "1", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'llamainspect[torch]'" in done.stderr


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("raise ImportError('libcudnn.so.9: cannot open')", "importing it fails (libcudnn.so.9"),
     ("raise OSError('a DLL is missing')", "importing it fails (a DLL is missing)")],
)  # fmt: skip
def test_a_broken_torch_is_not_said_to_be_missing(tmp_path, code, sentence):
    (tmp_path / "torch.py").write_text(code)
    done = run_process("logits", EXAMPLE, "--ids", "1", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence in done.stderr


def test_without_transformers_the_pip_command_is_said(tmp_path):
    (tmp_path / "transformers.py").write_text("raise ImportError('none')")
    done = run_process("verify-logits", EXAMPLE, "--implementation", "transformers",
               env={"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'transformers" in done.stderr


def test_what_cannot_be_run_is_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    weights = random_weights(moe_shapes(TINY_MOE))
    weights["layers.1.feed_forward.router_DE"] = torch.ones(64, 3)
    path = write_native(tmp_path / "moe", TINY_MOE, [weights])
    done = run_process("logits", path, "--ids", "1", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (3, "")
    assert "layers.1.feed_forward.router_DE: its shape is [64, 3], and the" in done.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda made: made.pop("layers.1.attention.wo.weight"), "layers.1.attention.wo.weight"),
        (
            lambda made: made.update({"norm.weight": torch.ones(32)}),
            "norm.weight: its shape is [32], and the configuration asks for [64]",
        ),
        (
            lambda made: made.update({"norm.weight": torch.ones(64, dtype=torch.int64)}),
            "norm.weight: it is stored as I64",
        ),
        (
            lambda made: made.update({"output.weight": torch.ones(128, 64, dtype=torch.int8)}),
            "it is quantised (int8)",
        ),
    ],
)
def test_weights_that_are_not_as_needed_are_named(tmp_path, change, sentence):
    made = weights()
    change(made)
    done = run("logits", write_native(tmp_path / "bad", TINY, [made]), "--ids", IDS)
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence in done.stderr


def test_a_path_that_is_none(sane):
    for arguments in ([sane, "--against", "nosuch"], ["nosuch", "--against", sane]):
        done = run("verify-logits", *arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "nosuch: there is no such path; give the directory" in done.stderr


def test_the_tokenizer_may_lie_elsewhere(sane, tmp_path):
    done = run("evaluate", sane, "--text", EXAMPLE + "/params.json")
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no tokenizer.model or tokenizer.json here" in done.stderr
    for place in (EXAMPLE, EXAMPLE + "/tokenizer.model"):
        done = run("logits", EXAMPLE, "--prompt", "Hi", "--tokenizer", place, "--json")
        assert json.loads(done.stdout)["tokens"] == TOKENIZER.encode("Hi", bos=True)
    done = run("logits", sane, "--prompt", "Hello", "--tokenizer", EXAMPLE)
    assert done.returncode == 3
    assert "the model has 128 tokens, 0 to 127; was it tokenized for another model?" in done.stderr


def test_a_missing_shard_is_named(tmp_path):
    path = write_native(tmp_path / "cut", TINY, cut(weights(), 2))
    (path / "consolidated.01.pth").unlink()
    done = run("logits", path, "--ids", IDS)
    assert (done.returncode, done.stdout) == (3, "")
    assert "1 of its 2 parts can be read" in done.stderr


def test_a_file_that_is_cut_while_it_is_read_ends_in_a_sentence(tmp_path):
    """The thread that reads must pass on what it met."""
    path = write_native(tmp_path / "short", TINY, [weights()])
    subject = li.find_subject(str(path))
    model = li.load_model(subject)
    with (path / "consolidated.00.pth").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(li.CorruptFile, match=r"consolidated\.00\.pth"):
        li.predict_logits(model, [1, 2])


@pytest.mark.parametrize("stream", [True, False])
def test_a_file_that_was_replaced_is_not_taken_for_the_same(tmp_path, stream):
    path = write_native(tmp_path / "other", TINY, [weights()])
    model = model_of(path, stream=stream)
    li.predict_logits(model, [1, 2])
    write_native(path, TINY, [random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=9)])
    with pytest.raises(li.CorruptFile, match=r"it changed while it was read"):
        li.predict_logits(model, [1, 2])


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_gives_up_on_the_way_may_begin_again(sane, stream):
    expected = li.predict_logits(model_of(sane), [1, 2]).top
    model = model_of(sane, stream=stream)
    for steps in (1, 2, 3):
        walk = model.walk(torch.tensor([[1, 2]]))
        for _ in range(steps):
            next(walk)
        del walk
    assert li.predict_logits(model, [1, 2]).top == expected
    hidden = [runner.last_hidden(model.walk(torch.tensor([[1, 2]]))) for _ in range(3)]
    assert torch.equal(model.logits(hidden[0]), model.logits(hidden[2]))
    next(model.output_blocks())
    assert li.predict_logits(model, [1, 2]).top == expected
    assert li.verify_against_checkpoint(model, model).identical


@pytest.mark.parametrize("ids", ["", "1 128", "-1"])
def test_tokens_that_the_model_has_not(sane, ids):
    done = run("logits", sane, "--ids", ids)
    assert (done.returncode, done.stdout) == (3, "")
    assert "prompt" in done.stderr or "the model has 128 tokens, 0 to 127" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["logits"],
        ["logits", "--ids", "1", "--prompt", "a"],
        ["logits", "--ids", "1", "--dtype", "int8"],
        ["logits", "--ids", "1", "--device", "tpu"],
        ["logits", "--ids", "1", "--simulate", "int3"],
        ["logits", "--ids", "1", "--group-size", "32"],
        ["logits", "--ids", "1", "--rope-factor", "-2"],
        ["logits", "--ids", "x"],
        ["logits", "--ids", "1", "--special"],
        ["logits", "--ids", "1", "--no-bos"],
        ["generate", "--ids", "1", "--chat"],
        ["generate", "--prompt", "a", "--chat", "--no-bos"],
        ["generate", "--ids", "1", "--temperature", "1", "--seed", "-1"],
        ["generate", "--ids", "1", "--temperature", "1", "--seed", "9" * 20],
        ["generate", "--prompt", "a", "--system", "b"],
        ["generate", "--ids", "1", "--top-k", "3"],
        ["generate", "--ids", "1", "--temperature", "-1"],
        ["generate", "--ids", "1", "--temperature", "1", "--top-p", "0"],
        ["evaluate"],
        ["evaluate", "--text", EXAMPLE + "/params.json", "--window", "1"],
        ["evaluate", "--text", EXAMPLE + "/params.json", "--window", "0"],
        ["evaluate", "--text", EXAMPLE + "/params.json", "--window", "9", "--stride", "9"],
        ["verify-logits"],
        ["verify-logits", "--against", EXAMPLE, "--reference", "x"],
        ["verify-logits", "--implementation", "vllm"],
    ],
)
def test_wrong_command_lines(arguments):
    done = run(arguments[0], EXAMPLE, *arguments[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_cuda_that_is_not_there(sane):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = run("logits", sane, "--ids", IDS, "--device", "cuda")
    assert (done.returncode, done.stdout) == (3, "")
    assert "sees no such device on this machine; it sees cpu" in done.stderr


# --- memory ---------------------------------------------------------------------------------------


def test_what_does_not_fit_is_streamed_or_refused(tmp_path, monkeypatch):
    """A sparse 3.2 1B: 4.6 GiB in float32, 0.6 GiB streamed."""
    path = write_sparse(tmp_path / "1b", LLAMA_3_2_1B, 8192, 1)
    subject = li.find_subject(str(path))
    gib = 2**30
    assert subject.official.id == "llama-3.2-1b"

    def load(available, **options):
        monkeypatch.setattr(devices, "available_nbytes", lambda device: available)
        return li.load_model(subject, li.RunOptions(device="cpu", **options))

    assert not load(8 * gib).streamed
    assert load(3 * gib).streamed
    assert load(8 * gib, stream=True).streamed
    assert not load(4 * gib, dtype="bf16").streamed
    with pytest.raises(li.NotEnoughMemory, match=r"--stream --dtype fp32 takes 1\.\d\d GiB; --no"):
        load(4 * gib, stream=False)
    with pytest.raises(li.NotEnoughMemory, match=r"one layer at a time, and 992 MiB .* --stream"):
        load(gib)
    with pytest.raises(li.NotEnoughMemory, match=r"198 MiB are available on cpu: give fewer"):
        load(gib // 5)
    # What the context does not hold takes no memory.
    monkeypatch.setattr(devices, "available_nbytes", lambda device: 20 * gib)
    assert not li.load_model(subject, li.RunOptions(device="cpu"), tokens=10**9).streamed


LLAMA_3_2_1B = {
    "dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
    "ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 500000.0,
    "use_scaled_rope": True,
}  # fmt: skip


def test_the_context_of_a_release_bounds_the_prompt(tmp_path):
    path = write_sparse(tmp_path / "1b", LLAMA_3_2_1B, 8192, 1)
    model = model_of(path, stream=True)
    assert (model.rope.scaling.factor, model.context_length) == (32, 131_072)
    model.check_tokens([0] * 131_072)
    with pytest.raises(li.UnusablePrompt, match=r"the context of llama-3\.2-1b holds 131,072"):
        model.check_tokens([0] * 131_073)


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_weight_is_read_once_and_of_the_embedding_the_rows_needed(tmp_path, ranks):
    path = write_native(tmp_path / "cut", TINY, cut(weights(), ranks))
    for stream in (True, False):
        model = model_of(path, stream=stream)
        model.next_logits([5, 100, 5], model.new_cache(4))
        stored = 2 * sum(w.numel() for n, w in weights().items() if "tok_emb" not in n)
        assert model.weights.nbytes_read == stored + 2 * 2 * TINY["dim"]
        before = model.weights.nbytes_read
        model.next_logits([5], model.new_cache(1))
        again = model.weights.nbytes_read - before
        assert again == 2 * TINY["dim"] + (stored if stream else 0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_does_not_grow_with_depth(tmp_path, monkeypatch, dtype):
    """Streaming 24 layers takes new memory for no more than three: what was used is used again."""
    params = TINY | {"n_layers": 24}
    shapes = dense_shapes(params, TINY_HIDDEN)
    path = write_native(tmp_path / "deep", params, [random_weights(shapes)])
    taken = []
    new_pages = readahead.new_pages
    monkeypatch.setattr(
        readahead, "new_pages", lambda nbytes: taken.append(nbytes) or new_pages(nbytes)
    )
    model = model_of(path, stream=True, dtype=dtype)
    runner.last_hidden(model.walk(torch.tensor([[1, 2]])))
    layer = 2 * sum(math.prod(shape) for name, shape in shapes.items() if ".7." in name)
    ends = 2 * 64 * (2 + 1 + 128)  # rows of the embedding, the last norm, the output matrix
    assert layer < sum(taken) <= 3 * layer + ends


# --- text that comes ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_same_seed_same_text_streaming_or_not(dtype):
    texts = [
        run("generate", EXAMPLE, "--prompt", "Once", "-n", "24", "--dtype", dtype, *sampling).stdout
        for sampling in (
            ["--temperature", "1.1", "--seed", "7", "--stream"],
            ["--temperature", "1.1", "--seed", "7", "--no-stream"],
            ["--temperature", "1.1", "--seed", "8"],
        )
    ]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_seed_one_is_drawn_and_told():
    first = run("generate", EXAMPLE, "--prompt", "Once", "--temperature", "2", "-n", "16", "--json")
    answer = json.loads(first.stdout)
    again = run("generate", EXAMPLE, "--prompt", "Once", "--temperature", "2", "-n", "16",
                "--seed", answer["seed"], "--json")  # fmt: skip
    assert json.loads(again.stdout)["tokens"] == answer["tokens"]


def test_speed_stands_beside_the_text():
    done = run("generate", EXAMPLE, "--prompt", "Once", "-n", "4")
    text = json.loads(run("generate", EXAMPLE, "--prompt", "Once", "-n", "4", "--json").stdout)[
        "text"
    ]
    assert done.stdout == text + "\n"
    assert "4 tokens in" in done.stderr
    assert "tokens/s" in done.stderr
    assert "peak memory" in done.stderr


def test_a_stop_token_ends_the_text():
    free = json.loads(run("generate", EXAMPLE, "--prompt", "Once", "-n", "9", "--json").stdout)
    stop = free["tokens"][4]
    done = json.loads(
        run("generate", EXAMPLE, "--prompt", "Once", "-n", "9", "--stop", stop, "--json").stdout
    )
    end = free["tokens"].index(stop) + 1
    assert done["tokens"] == free["tokens"][:end]
    assert (done["stopped"], done["stop_token"]) == ("stop_token", stop)
    assert done["text"] == TOKENIZER.decode_bytes(
        [*TOKENIZER.encode("Once", bos=True), *free["tokens"][: end - 1]]
    )[len("Once") :].decode("utf-8", "replace")


def test_a_stop_text_is_meant_within_a_text_too():
    """SentencePiece puts a space before a text: " l" is another token than "l"."""
    ids = stop_ids(TOKENIZER, ["l"]) - stop_ids(TOKENIZER)
    assert {TOKENIZER.token_bytes(id) for id in ids} == {b"l", b" l"}
    ids = stop_ids(TOKENIZER, ["}"]) - stop_ids(TOKENIZER)  # of which there is one alone
    assert [TOKENIZER.token_bytes(id) for id in ids] == [b"}"]
    newline = stop_ids(TOKENIZER, ["\n"]) - stop_ids(TOKENIZER)
    assert [TOKENIZER.token_bytes(id) for id in newline] == [b"\n"]
    assert stop_ids(TOKENIZER) == {TOKENIZER.eos_id}
    assert stop_ids(None, ["7"]) == {7}


def test_as_many_tokens_are_compared_as_the_context_holds(tmp_path):
    config = hub_config(TINY, TINY_HIDDEN, max_position_embeddings=8)
    path = write_hub(tmp_path, to_hub(weights(), TINY, TINY_HIDDEN), config)
    report = json.loads(run("verify-logits", path, "--against", path, "--json").stdout)
    assert (report["ok"], len(report["tokens"])) == (True, 8)


def test_no_token_to_compare_is_no_reason_to_take_others(sane):
    done = run("verify-logits", sane, "--against", sane, "--ids", "")
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no token to begin with" in done.stderr


def test_a_group_longer_than_a_row_is_the_row(sane):
    rows = [
        run("logits", sane, "--ids", IDS, "--simulate", "int4", "--group-size", size, "--json")
        for size in ("192", "1000000000000")
    ]
    assert json.loads(rows[0].stdout)["top"] == json.loads(rows[1].stdout)["top"]


def test_a_matrix_of_many_rows_is_rounded_whole():
    weight = torch.randn(700, 64, generator=torch.Generator().manual_seed(1))
    simulation = quantize.make_simulation("int4", 32)
    expected = quantize.rounded(weight, simulation)
    quantize.simulate(weight, simulation)
    assert torch.equal(weight, expected)


def test_a_cache_that_is_full_is_said(sane):
    model = model_of(sane)
    cache = model.new_cache(3)
    model.next_logits([1, 2], cache)
    with pytest.raises(ValueError, match="the cache has room for 3 tokens, not 4"):
        model.next_logits([3, 4], cache)


def test_nobody_reads_on():
    """`| head`: what nobody reads is not made."""
    command = [sys.executable, "-m", "llamainspect", "generate", EXAMPLE, "--prompt", "a",
               "-n", "100000"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(("ids", "code"), [("1", 0), ("9999", 3)])
def test_notes_that_cannot_be_written_change_nothing(ids, code):
    command = [sys.executable, "-m", "llamainspect", "generate", EXAMPLE, "--ids", ids, "-n", "2"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stdout=subprocess.PIPE, stderr=full).returncode == code


def test_an_interrupt_that_is_ignored_stays_so():
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from llamainspect.cli.inputs import interrupts_end_it\n"
        "with interrupts_end_it():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"went on\n")


def test_ctrl_c_while_torch_is_imported_ends_it():
    """torch is replaced by something that takes interrupts for something else."""
    script = (
        "import os, signal, sys\n"
        "from llamainspect.cli.inputs import interrupts_end_it\n"
        "with interrupts_end_it():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except BaseException:\n"
        "        pass\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, b"")


def test_a_dialogue_is_laid_out():
    answer = json.loads(
        run("generate", EXAMPLE, "--chat", "--system", "Be brief.", "--prompt", "Hi", "-n", "1",
            "--json").stdout
    )  # fmt: skip
    messages = [li.Message("system", "Be brief."), li.Message("user", "Hi")]
    assert tuple(answer["prompt_tokens"]) == li.tokenize_dialogue(TOKENIZER, messages).ids


def test_a_terminal_receives_nothing_that_it_would_obey(tmp_path):
    seen = in_terminal("generate", EXAMPLE, "--prompt", "x", "-n", "60", "--temperature", "3",
                       "--seed", "1")  # fmt: skip
    assert not any(ord(c) < 32 and c not in "\r\n\t" for c in seen)
    assert not any(0x7F <= ord(c) < 0xA0 for c in seen)


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom llamainspect.cli import app\n"
        "try:\n    app(['generate', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("False\n")


def test_a_long_prompt_passes_a_layer_in_pieces(sane, monkeypatch):
    whole = li.predict_logits(model_of(sane), list(range(100)))
    monkeypatch.setattr(runner, "CHUNK", 7)
    pieces = li.predict_logits(model_of(sane), list(range(100)))
    for a, b in zip(whole.top, pieces.top, strict=True):
        assert (a.id, a.logit) == (b.id, pytest.approx(b.logit, abs=1e-5))


def test_a_context_of_one_token_is_said_and_no_option_blamed(tmp_path):
    write_case("config.json with: max_position_embeddings 1", tmp_path)
    done = run("evaluate", tmp_path / "model", "--text", tmp_path / "given" / "text.txt")
    assert (done.returncode, done.stdout) == (3, "")
    assert "the context of this model holds 1 token" in done.stderr


def test_a_window_of_a_tiny_context_still_predicts_a_token():
    from llamainspect.model.evaluate import default_window

    assert [default_window(length) for length in (1, 2, 100, 10**6, None)] == [
        2,
        2,
        100,
        2048,
        2048,
    ]
