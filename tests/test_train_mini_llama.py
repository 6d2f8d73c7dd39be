"""examples/train_mini_llama.py: what it learns, what it writes, and how it goes on."""

import contextlib
import importlib.util
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import llamainspect as li
from llamainspect.tokenizer.json_codec import byte_alphabet

SCRIPT = Path(__file__).parent.parent / "examples" / "train_mini_llama.py"
WORDS = ["the", "llama", "eats", "grass", "and", "lambda", "calculates", "while", "a", "class",
         "defines", "its", "methods"]  # fmt: skip
FAST = ["--context", "16", "--batch", "2", "--steps", "4", "--warmup", "2", "--every", "2",
        "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_mini_llama", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_mini_llama"] = module
    spec.loader.exec_module(module)
    yield module
    torch.use_deterministic_algorithms(False)
    del sys.modules["train_mini_llama"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of few words, so that there is something to learn."""
    draw = random.Random(1)
    sentences = (" ".join(draw.choices(WORDS, k=9)).capitalize() + "." for _ in range(300))
    file = tmp_path_factory.mktemp("text") / "llama.txt"
    file.write_text("\n\n".join(sentences), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def trained(script, text, tmp_path_factory):
    """A run of four steps, in both layouts."""
    out = tmp_path_factory.mktemp("trained") / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST, "--hf"]) == 0
    return out


def weights_of(out):
    return (out / "consolidated.00.pth").read_bytes()


# --- what it writes -------------------------------------------------------------------------------


def test_a_checkpoint_that_every_command_accepts(trained):
    assert sorted(file.name for file in trained.iterdir()) == [
        "checklist.chk", "consolidated.00.pth", "held-out.txt", "hf", "loss.png", "params.json",
        "tokenizer.model",
    ]  # fmt: skip
    summary = li.summarize(li.open_checkpoint(str(trained)))
    assert summary.ok
    # 1024 * 128 + 4 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 352 * 128 + 2 * 128) + 128
    assert summary.parameters.total == 869_504
    assert summary.tied_output
    assert [finding.severity for finding in summary.findings] == ["note"]
    checked = li.verify_checksums(str(trained))
    assert checked.ok
    assert {row.file: row.status for row in checked.files} == dict.fromkeys(
        ("consolidated.00.pth", "held-out.txt", "loss.png", "params.json", "tokenizer.model",
         "hf/config.json", "hf/model.safetensors", "hf/tokenizer.model"), "ok"
    )  # fmt: skip
    stored = torch.load(trained / "consolidated.00.pth", weights_only=True)
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert stored["output.weight"].data_ptr() == stored["tok_embeddings.weight"].data_ptr()


def test_both_layouts_are_the_same_model(trained):
    diff = li.diff_checkpoints(str(trained), str(trained / "hf"))
    assert diff.identical
    assert not [row for row in diff.config if row.matters]
    config = json.loads((trained / "hf" / "config.json").read_text())
    assert (config["max_position_embeddings"], config["bos_token_id"]) == (16, 1)


def test_transformers_computes_the_same(trained):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        trained / "hf", dtype=torch.float32
    ).eval()
    ids = [1, *range(300, 312)]
    model = li.load_model(li.find_subject(str(trained)), li.RunOptions("cpu"))
    report = li.verify_against_transformers(model, ids)
    assert report.ok
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0, -1].softmax(-1)
    best = li.predict_logits(model, ids, top=3).top
    assert [row.probability for row in best] == pytest.approx(
        expected.topk(3).values.tolist(), rel=1e-4
    )


def test_two_shards_are_the_same_weights(script, text, trained, tmp_path):
    out = tmp_path / "cut"
    assert script.main(["-o", str(out), "--text", text, *FAST, "--shards", "2"]) == 0
    assert li.diff_checkpoints(str(trained), str(out)).identical
    summary = li.summarize(li.open_checkpoint(str(out)))
    assert (summary.ok, summary.shards, summary.parameters.total) == (True, 2, 869_504)
    assert li.verify_checksums(str(out)).ok


def test_the_curve_is_a_picture(trained):
    data = (trained / "loss.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    from matplotlib import image

    pixels = image.imread(trained / "loss.png")
    assert pixels.shape[:2] == (480, 840)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


# --- the same again -------------------------------------------------------------------------------


def test_a_seed_decides_everything(script, text, trained, tmp_path):
    for name, seed in (("again", "0"), ("other", "1")):
        arguments = ["-o", str(tmp_path / name), "--text", text, *FAST, "--seed", seed]
        assert script.main(arguments) == 0
    assert weights_of(tmp_path / "again") == weights_of(trained)
    assert weights_of(tmp_path / "other") != weights_of(trained)


def test_a_run_goes_on_where_it_was_interrupted(
    script, text, trained, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "llama"
    arguments = ["-o", str(out), "--text", text, *FAST]
    whole = script.train

    def cut_short(*given):
        for step in whole(*given):
            yield step
            if step.number == 3:  # after the state of step 2 was saved
                raise KeyboardInterrupt

    monkeypatch.setattr(script, "train", cut_short)
    assert script.main(arguments) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert not (out / "consolidated.00.pth").exists()
    monkeypatch.setattr(script, "train", whole)

    assert script.main(arguments) == 3
    assert "holds an earlier run; name another directory" in capsys.readouterr().err
    assert script.main([*arguments, "--resume", "--lr", "0.5"]) == 3
    assert "was made with lr 0.003, not 0.5" in capsys.readouterr().err

    assert script.main([*arguments, "--resume"]) == 0
    assert weights_of(out) == weights_of(trained)
    assert not (out / "training.pt").exists()
    assert script.main([*arguments, "--resume"]) == 3
    assert "to go on with; that run has finished" in capsys.readouterr().err


def test_overwriting_leaves_no_shard_of_before(script, text, trained, tmp_path):
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST, "--shards", "2"]) == 0
    assert script.main(["-o", str(out), "--text", text, *FAST, "--overwrite"]) == 0
    assert weights_of(out) == weights_of(trained)
    assert [file.name for file in out.glob("*.pth")] == ["consolidated.00.pth"]


def test_a_directory_that_is_someone_elses_is_left_alone(script, tmp_path, capsys):
    (tmp_path / "consolidated.00.pth").write_bytes(b"140 GB")
    for more in ([], ["--overwrite"]):
        assert script.main(["-o", str(tmp_path), *more]) == 3
        assert "no run of this script made it" in capsys.readouterr().err
    (tmp_path / "held-out.txt").write_text("mine")  # and so may another's be called
    (tmp_path / "params.json").write_text('{"dim": 4096}')
    assert script.main(["-o", str(tmp_path), "--overwrite"]) == 3
    assert (tmp_path / "consolidated.00.pth").read_bytes() == b"140 GB"
    assert script.main(["-o", str(tmp_path / "consolidated.00.pth")]) == 3
    assert "no run of this script made it" in capsys.readouterr().err


def test_what_is_there_goes_only_when_something_will_come_of_it(script, text, tmp_path, capsys):
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST]) == 0
    before = weights_of(out)
    (tmp_path / "short.txt").write_text("A llama.")
    for more in (["--text", str(tmp_path / "short.txt")], ["--text", "nosuch"]):
        assert script.main(["-o", str(out), *more, "--overwrite", "--device", "cpu"]) == 3
        assert weights_of(out) == before
        assert li.verify_checksums(str(out)).ok
    fresh = tmp_path / "fresh"
    assert script.main(["-o", str(fresh), "--text", str(tmp_path / "short.txt")]) == 3
    assert "give more --text" in capsys.readouterr().err
    assert not fresh.exists()


def test_a_device_that_is_not_there_costs_no_model(script, text, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST]) == 0
    before = weights_of(out)
    assert (
        script.main(["-o", str(out), "--text", text, *FAST, "--overwrite", "--device", "cuda"]) == 3
    )
    assert "--device cuda" in capsys.readouterr().err
    assert weights_of(out) == before


def test_resuming_as_another_run_changes_no_file(script, text, tmp_path, capsys):
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST]) == 0
    torch.save(
        {"run": {"preset": "mini"}, "points": [], "weights": {}, "optimizer": {}},
        out / "training.pt",
    )
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    arguments = [*FAST, "--resume", "--tokenizer", "tiktoken"]
    assert script.main(["-o", str(out), "--text", text, *arguments]) == 3
    assert "was made with preset mini, not tiny" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_reader_that_went_away_changes_nothing(text, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(SCRIPT), "-o", str(tmp_path / "llama"), "--text", text, *FAST]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert done.returncode == 0
    assert "Broken pipe" not in done.stderr
    assert li.verify_checksums(str(tmp_path / "llama")).ok


def test_a_damaged_state_is_said_to_be_damaged(script, text, tmp_path, capsys):
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST]) == 0
    torch.save({"run": 1}, out / "training.pt")
    assert script.main(["-o", str(out), "--text", text, *FAST, "--resume"]) == 3
    assert "training.pt: no run of this script wrote it" in capsys.readouterr().err
    for data in (b"", b"PK\x03\x04 half", b"\x80\x02}q\x00."):
        (out / "training.pt").write_bytes(data)
        assert script.main(["-o", str(out), "--text", text, *FAST, "--resume"]) == 3
        assert "training.pt: it is damaged; --overwrite begins anew" in capsys.readouterr().err
    assert script.main(["-o", str(out), "--text", text, *FAST, "--overwrite"]) == 0
    assert not (out / "training.pt").exists()


def test_what_else_is_in_the_directory_stays(script, text, tmp_path):
    out = tmp_path / "llama"
    assert script.main(["-o", str(out), "--text", text, *FAST, "--hf"]) == 0
    (out / "notes.txt").write_text("mine")
    assert script.main(["-o", str(out), "--text", text, *FAST, "--overwrite"]) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not list((out / "hf").iterdir())  # which this run did not write
    assert "notes.txt" not in (out / "checklist.chk").read_text()


def test_a_text_may_hold_the_names_that_fill_the_vocabulary(script, tmp_path):
    text = "<reserved_0> and <_reserved_1> are reserved.\n" * 50
    (tmp_path / "tokenizer.model").write_bytes(script.train_sentencepiece([text], 1024))
    tokenizer = li.load_tokenizer(str(tmp_path))
    assert tokenizer.vocab_size == 1024
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_of_which_all_is_held_out(script, tmp_path, capsys):
    (tmp_path / "same.txt").write_text("The same.\n\n" * 500)
    arguments = ["-o", str(tmp_path / "llama"), "--text", str(tmp_path / "same.txt")]
    assert script.main(arguments) == 3
    assert "nothing is left to train on" in capsys.readouterr().err


def test_too_little_memory_is_a_sentence(text, tmp_path):
    arguments = ["-o", str(tmp_path / "llama"), "--text", text, *FAST, "--batch", "2000000000"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)),
    )
    assert done.returncode == 3
    assert "too little memory; lower --batch" in done.stderr


def test_a_text_of_many_characters_has_a_way_out(script, tmp_path, capsys):
    file = tmp_path / "han.txt"
    file.write_text(
        "\n".join("".join(map(chr, range(n, n + 40))) for n in range(0x4E00, 0x8000, 9)),
        encoding="utf-8",
    )
    assert script.main(["-o", str(tmp_path / "a"), "--text", str(file), *FAST]) == 3
    assert "try --tokenizer tiktoken" in capsys.readouterr().err
    arguments = ["-o", str(tmp_path / "b"), "--text", str(file), *FAST, "--tokenizer", "tiktoken"]
    assert script.main(arguments) == 0


def test_a_line_of_100_kb_is_learned_from(script, tmp_path):
    words = " ".join(random.Random(2).choices(WORDS, k=20_000))
    data = script.train_sentencepiece([words], 1024)
    (tmp_path / "tokenizer.model").write_bytes(data)
    tokenizer = li.load_tokenizer(str(tmp_path))
    assert len(tokenizer.encode(words)) == 20_000


def test_without_torch_a_sentence_says_so(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-o", str(tmp_path / "llama")],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "train_mini_llama.py: No module named 'torch'; pip install 'llamainspect[train]'\n"
    )


# --- what it learns -------------------------------------------------------------------------------


def small(script, vocab=64):
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": vocab,
              "multiple_of": 16, "norm_eps": 1e-5, "rope_theta": 10000.0}  # fmt: skip
    model = script.MiniLlama(params, 24, torch.device("cpu"))
    model.initialise(7)
    with torch.no_grad():
        for weight in model.weights.values():
            weight *= 4 if weight.ndim > 1 else 1.1
    return model


def test_gradients_are_those_of_transformers(script):
    transformers = pytest.importorskip("transformers")
    model = small(script)
    config = model.config
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=32, intermediate_size=config.hidden_dim, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=64, rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ))  # fmt: skip
    ours = dict(model.weights)
    there = {"embed_tokens": "tok_embeddings", "model.norm": "norm",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
             "o_proj": "attention.wo", "gate_proj": "feed_forward.w1",
             "up_proj": "feed_forward.w3", "down_proj": "feed_forward.w2"}  # fmt: skip

    def halves(rows):  # Meta's pairs of neighbours as transformers' halves
        return rows.view(-1, 4, 2, 32).transpose(1, 2).reshape(rows.shape)

    pairs = []
    for name, parameter in theirs.named_parameters():
        word = next(word for word in there if f"{word}." in name)
        layer = re.search(r"layers\.\d+\.", name)
        weight = ours.pop(f"{layer.group() if layer else ''}{there[word]}.weight")
        change = halves if word in ("q_proj", "k_proj") else torch.clone
        parameter.data = change(weight.data)
        pairs.append((name, parameter, weight, change))
    assert not ours
    ids = torch.randint(64, (3, 21), generator=torch.Generator().manual_seed(2))
    loss = model.loss(ids)
    loss.backward()
    other = theirs(ids, labels=ids).loss
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)
    for name, parameter, weight, change in pairs:
        expected = parameter.grad
        assert torch.allclose(change(weight.grad), expected, atol=1e-6, rtol=1e-4), name
        assert expected.abs().max() > 1e-4, name


def test_it_learns(script, text, tmp_path, capsys):
    out = tmp_path / "llama"
    arguments = ["--context", "32", "--batch", "8", "--steps", "60", "--every", "60", "--warmup",
                 "5", "--device", "cpu"]  # fmt: skip
    assert script.main(["-o", str(out), "--text", text, *arguments]) == 0
    reached = float(re.search(r"held out ([\d.]+) nats", capsys.readouterr().out).group(1))
    # Thirteen words of equal chance cost 2.56 nats each, and end in 9 sentences with a period.
    assert reached < 3
    held_out = (out / "held-out.txt").read_text(encoding="utf-8")
    model = li.load_model(li.find_subject(str(out)), li.RunOptions("cpu"))
    report = li.evaluate_text(model, li.load_tokenizer(str(out)), held_out, window=32)
    assert report.cross_entropy == pytest.approx(reached, rel=0.1)
    generated = li.generate_text(model, li.load_tokenizer(str(out)), [1], max_new_tokens=40)
    assert sum(word in generated.text.lower() for word in WORDS) >= 3


def test_the_rate_goes_up_and_down(script):
    run = make_run(script, steps=110, warmup=10, lr=1.0)
    rates = [script.learning_rate(step, run) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx((1 + 0.1) / 2)  # in the middle of the cosine
    assert rates[109] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def make_run(script, **changes):
    values = {"preset": "tiny", "params": {}, "tokenizer": "sentencepiece", "context": 8,
              "batch": 3, "accumulate": 2, "steps": 5, "lr": 1.0, "warmup": 1, "decay": 0.1,
              "seed": 0, "text": ""}  # fmt: skip
    return script.Run(**values | changes)


def test_sequences_are_pieces_of_the_text(script):
    tokens = torch.arange(1000, 1100)
    run = make_run(script)
    seen = set()
    for step in range(5):
        for part in range(2):
            drawn = script.draw(tokens, run, step, part)
            assert drawn.shape == (3, 9)
            assert torch.equal(drawn, script.draw(tokens, run, step, part))
            for row in drawn.tolist():
                assert row == list(range(row[0], row[0] + 9))
                assert 1000 <= row[0] <= 1091
                seen.add(row[0])
    assert len(seen) > 20
    assert script.draw(torch.arange(9), run, 0, 0).tolist() == [list(range(9))] * 3


def test_another_seed_draws_and_begins_otherwise(script):
    tokens = torch.arange(1000)
    drawn = [script.draw(tokens, make_run(script, seed=seed), 0, 0) for seed in (0, 1)]
    assert not torch.equal(*drawn)
    made = []
    for seed in (0, 1):
        model = small(script)
        model.initialise(seed)
        made.append(model.weights["layers.0.attention.wq.weight"])
        wide = torch.cat([w.flatten() for n, w in model.weights.items() if "wq" in n or "w1" in n])
        assert float(wide.detach().std()) == pytest.approx(0.02, rel=0.05)
        narrow = torch.cat([w.flatten() for n, w in model.weights.items() if ".w2" in n])
        assert float(narrow.detach().std()) == pytest.approx(0.01, rel=0.1)  # / sqrt(2 * 2)
    assert not torch.equal(*made)


def test_the_held_out_loss_is_that_of_all_its_tokens(script):
    model, run = small(script), make_run(script, context=8)
    tokens = torch.randint(64, (21,), generator=torch.Generator().manual_seed(4))
    total, count = 0.0, 0
    for piece in (tokens[:8], tokens[8:16], tokens[16:]):
        logits = model.logits(piece[None, :-1]).detach()[0]
        total += float(torch.nn.functional.cross_entropy(logits, piece[1:], reduction="sum"))
        count += len(piece) - 1
    assert script.validate(model, tokens, run) == pytest.approx(total / count, rel=1e-6)


def test_a_point_is_the_mean_of_the_steps_since_the_last(script):
    model, run = small(script), make_run(script, steps=5, lr=1e-3)
    tokens = torch.arange(100) % 64
    steps = list(script.train(model, script.make_optimizer(model, run), tokens, tokens, run, 0, 2))
    points = [step.point for step in steps if step.point]
    assert [point.step for point in points] == [2, 4, 5]
    losses = [step.loss for step in steps]
    means = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert [point.training for point in points] == pytest.approx(means)


def test_gradients_are_clipped(script, monkeypatch):
    model, run = small(script), make_run(script, steps=1)
    seen = []
    optimizer = script.make_optimizer(model, run)
    step = optimizer.step

    def look(*given):
        squares = sum(float(w.grad.pow(2).sum()) for w in model.weights.values())
        seen.append(squares**0.5)
        return step(*given)

    monkeypatch.setattr(optimizer, "step", look)
    tokens = torch.arange(100) % 64
    monkeypatch.setattr(script, "MAX_NORM", 0.01)
    list(script.train(model, optimizer, tokens, tokens, run, 0, 1))
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def test_documents_stand_between_begin_and_end(script, trained):
    tokenizer = li.load_tokenizer(str(trained))
    ids = script.encode(tokenizer, ["the llama", "a class"]).tolist()
    assert ids == [
        *tokenizer.encode("the llama", bos=True, eos=True),
        *tokenizer.encode("a class", bos=True, eos=True),
    ]
    assert ids.count(tokenizer.bos_id) == ids.count(tokenizer.eos_id) == 2


def test_accumulation_is_a_larger_batch(script):
    """Two passes of one sequence each, or one of both: the same step."""
    made = []
    for batch, accumulate in ((1, 2), (2, 1)):
        model = small(script)
        run = make_run(script, batch=batch, accumulate=accumulate, steps=1, context=20)
        tokens = torch.arange(21) % 64  # of which there is one sequence only
        # Steps that are as large as the gradients; Adam's are all of one size.
        optimizer = torch.optim.SGD(model.weights.values(), lr=0.0)
        (step,) = script.train(model, optimizer, tokens, tokens, run, 0, 5)
        assert step.point.step == 1
        made.append((model.weights, step.loss))
    for name, weight in made[0][0].items():
        assert torch.allclose(weight, made[1][0][name], atol=1e-6), name
    assert made[0][1] == pytest.approx(made[1][1], rel=1e-6)


def test_norms_do_not_decay(script):
    model = small(script)
    run = make_run(script, decay=0.3)
    groups = script.make_optimizer(model, run).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert {weight.ndim for weight in groups[0]["params"]} == {2}
    assert {weight.ndim for weight in groups[1]["params"]} == {1}
    assert sum(len(group["params"]) for group in groups) == 2 * 9 + 2


def test_a_loss_that_is_no_number_ends_it(script, text, tmp_path, capsys):
    arguments = ["-o", str(tmp_path / "llama"), "--text", text, *FAST, "--lr", "1e9"]
    assert script.main(arguments) == 3
    assert re.search(r"the held-out loss is (nan|inf); lower --lr", capsys.readouterr().err)
    assert script.main([*arguments, "--every", "50", "--overwrite"]) == 3
    assert re.search(r"the loss of step \d is (nan|inf); lower --lr", capsys.readouterr().err)
    assert not list((tmp_path / "llama").glob("*.pth"))


# --- text and tokenizer ---------------------------------------------------------------------------


def test_what_is_held_out_is_not_trained_on(script):
    documents = [
        f"only {n}\n\nshared by all" if n % 10 else f"out {n}\n\nonly 3" for n in range(20)
    ]
    training, held_out = script.hold_out(documents)
    assert held_out == ["out 0\n\nonly 3", "out 10\n\nonly 3"]
    assert len(training) == 18
    assert "only 3" not in "".join(training[2].split("\n\n"))
    assert training[0] == "only 1\n\nshared by all"
    training, held_out = script.hold_out(["a" * 50 + "b" * 50, "0123456789"])
    assert held_out == ["b" * 10, "9"]
    assert training == ["a" * 50 + "b" * 40, "012345678"]


def test_the_language_reference_is_the_text(script):
    from pydoc_data.topics import topics

    documents = script.read_documents([])
    assert sorted(documents) == sorted(topics.values())
    training, held_out = script.hold_out(documents)
    assert 0.02 < sum(map(len, held_out)) / sum(map(len, documents)) < 0.25
    kept = {paragraph for text in held_out for paragraph in text.split("\n\n")}
    assert not kept & {paragraph for text in training for paragraph in text.split("\n\n")}


def test_ranks_are_those_of_the_trainer(script, tmp_path):
    """What the tokenizers library makes of its own merges, tiktoken makes of the ranks."""
    tokenizers = pytest.importorskip("tokenizers")
    documents = script.read_documents([])[:30]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    words = tokenizers.Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    level = tokenizers.pre_tokenizers
    theirs.pre_tokenizer = level.Sequence(
        [level.Split(words, "isolated"), level.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    theirs.train_from_iterator(documents, tokenizers.trainers.BpeTrainer(
        vocab_size=768, initial_alphabet=level.ByteLevel.alphabet(), show_progress=False
    ))  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(script.train_tiktoken(documents, 1024))
    (tmp_path / "params.json").write_text(json.dumps(script.PRESETS["tiny"].params))
    tokenizer = li.load_tokenizer(str(tmp_path))
    assert (tokenizer.vocab_size, tokenizer.codec.base_tokens) == (1024, 768)
    assert tokenizer.bos_id == 768
    text = "def f(x):\n    return 'naïve' + \"🦙\"  # 12345\n\n" + documents[2]
    ids = tokenizer.encode(text)
    # Ids of single bytes are in an order of the library's own; what they stand for is the same.
    marks = byte_alphabet()
    pieces = [bytes(marks[mark] for mark in token) for token in theirs.encode(text).tokens]
    assert [tokenizer.token_bytes(id) for id in ids] == pieces
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", ["sentencepiece", "tiktoken"])
def test_a_short_text_fills_the_vocabulary(script, text, kind, tmp_path):
    documents = script.read_documents([text])
    data = script.TOKENIZERS[kind](documents, 32_000)
    (tmp_path / "tokenizer.model").write_bytes(data)
    (tmp_path / "params.json").write_text(json.dumps(script.PRESETS["mini"].params))
    tokenizer = li.load_tokenizer(str(tmp_path))
    assert tokenizer.vocab_size == 32_000
    ids = tokenizer.encode(documents[0])
    assert tokenizer.decode(ids) == documents[0]
    used = {tokenizer.token_bytes(id) for id in ids}
    assert not any(token.startswith((b"\xff", b"<reserved_")) for token in used)
    assert len(ids) < len(documents[0]) / 4


def test_a_checkpoint_with_ranks(script, text, tmp_path):
    out = tmp_path / "llama"
    arguments = ["-o", str(out), "--text", text, *FAST, "--tokenizer", "tiktoken", "--hf"]
    assert script.main(arguments) == 0
    assert li.summarize(li.open_checkpoint(str(out))).ok
    tokenizer = li.load_tokenizer(str(out))
    config = json.loads((out / "hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert tokenizer.decode(tokenizer.encode("The llama, 2024!")) == "The llama, 2024!"


# --- presets and options --------------------------------------------------------------------------


def test_mini_is_the_exercise(script):
    params = script.PRESETS["mini"].params
    config = li.ModelConfig.from_params(params)
    assert li.count_parameters(config, tied_output=True) == 109_529_856
    row = next(row for row in li.OFFICIAL_MODELS if row.id == "mini-llama-110m")
    assert config._replace(file=row.config.file) == row.config


def test_what_it_cost_beside_what_was_foreseen(script, trained):
    run = make_run(script, context=256, batch=16, accumulate=4, steps=10)
    gpus = li.parse_gpus("h100")
    speed, memory = script.cost(trained, run, 10, 2.0, gpus, 123_456)
    tokens = 10 * 256 * 16 * 4
    flops = 6 * 869_504 * tokens / 2.0
    assert f"{tokens:,} tokens in 2 s: {tokens // 2:,} tokens/s" in speed
    assert f"{flops / 1e12:.3f} TFLOP/s, {flops / 989.5e12:.1%} of the GPU's" in speed
    assert re.fullmatch(r"peak memory 123,456 bytes; estimated [\d,]+", memory)
    assert len(list(script.cost(trained, run, 10, 2.0, None, None))) == 1
    assert not list(script.cost(trained, run, 0, 0.0, None, None))


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--shards", "3"], 3, "--shards 3: n_kv_heads 2 cannot be cut into so many parts"),
        (["--shards", "0"], 3, "--shards 0: a number above 0"),
        (["--steps", "0"], 3, "--steps 0: a number above 0"),
        (["--lr", "nan"], 3, "--lr nan: a number above 0"),
        (["--context", "1"], 3, "--context 1: 2 tokens at least are needed"),
        (["--lr", "inf"], 3, "--lr inf: a number above 0"),
        (["--decay", "-1"], 3, "--decay -1.0: a number from 0 is needed"),
        (["--warmup", "-1"], 3, "--warmup -1: a number from 0 is needed"),
        (["--seed", "-1"], 3, "--seed -1: a number from 0 to below 2,147,483,648 is needed"),
        (["--seed", "9" * 20], 3, "a number from 0 to below 2,147,483,648 is needed"),
        (["--text", "/dev/null"], 3, "/dev/null: there is no text in it; leave it out"),
        (["--text", "nosuch.txt"], 3, "nosuch.txt"),
        (["--text", str(SCRIPT.parent / "mini-llama" / "consolidated.00.pth")], 3, "not UTF-8"),
        (["--text", str(SCRIPT.parent / "mini-llama" / "params.json")], 3, "give more --text"),
        (["--resume"], 3, "to go on with"),
        (["--preset", "huge"], 2, "invalid choice: 'huge'"),
    ],
)
def test_what_cannot_be_is_a_sentence(script, tmp_path, arguments, code, sentence, capsys):
    try:
        done = script.main(["-o", str(tmp_path / "llama"), *arguments])
    except SystemExit as ended:
        done = ended.code
    streams = capsys.readouterr()
    assert (done, streams.out) == (code, "")
    assert sentence in streams.err
    assert "Traceback" not in streams.err


def test_a_package_that_is_missing_is_named(script, tmp_path, monkeypatch, capsys):
    for package in ("matplotlib", "tokenizers"):
        monkeypatch.setattr(script, "find_spec", lambda name, gone=package: name != gone or None)
        with contextlib.suppress(SystemExit):
            code = script.main(["-o", str(tmp_path / "llama"), "--tokenizer", "tiktoken"])
        assert code == 3
        assert f"needs {package}" in capsys.readouterr().err
