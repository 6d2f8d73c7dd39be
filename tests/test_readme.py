"""The README says what is so: its commands run, their output is current, CI runs the same text.

python tests/test_readme.py     writes the current output of each command into the README
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")

SETUP, TESTS = re.findall(r"```sh\n(.+)\n```", TEXT)
CONSOLE = re.compile(r"```console\n\$ (?P<command>.+)\n(?P<output>[\s\S]*?)```")
PYTHON = re.findall(r"```python\n([\s\S]+?)```", TEXT)
INLINE = re.findall(r"`(llamainspect [a-z-]+ examples/[^`]+)`", TEXT)


COMPUTED = {"logits", "verify-logits", "evaluate"}  # with floats, on whatever processor there is
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?")
PASSES = "pass: no further apart than rounding allows"
DAMAGED = "damaged"  # the example with one bit flipped, as the README says
CONVERTED = "converted"  # the example in Hugging Face's layout
HARMFUL = "adapter_model.bin"  # a few weights, and a call
FLIPPED_BYTE, FLIPPED_BIT = 800_001, 1  # of an exponent: the element is 16 times as large


def run(command):
    """A README command, as this interpreter's llamainspect; exit code and output."""
    words = shlex.split(command)
    if words[0] == "torchrun":
        words[0] = "torch.distributed.run"
    assert words[0] in ("llamainspect", "torch.distributed.run")
    environment = {k: v for k, v in os.environ.items() if k != "LLAMAINSPECT_MODEL"}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "examples").symlink_to(ROOT / "examples")
        shutil.copytree(ROOT / "examples" / "mini-llama", place / DAMAGED)
        weights = place / DAMAGED / "consolidated.00.pth"
        data = bytearray(weights.read_bytes())
        data[FLIPPED_BYTE] ^= 1 << FLIPPED_BIT
        weights.write_bytes(data)
        if HARMFUL in words:
            write_harmful(place / HARMFUL)
        if CONVERTED in words:
            write_converted(place / CONVERTED)
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
            env={**environment, "CUDA_VISIBLE_DEVICES": ""},  # the output shown is that of a CPU
        )
    return done.returncode, done.stdout


class Harmful:
    def __reduce__(self):
        return os.system, ("echo this could be anything",)


def write_harmful(file):
    """What somebody could share as an adaptor."""
    import torch

    torch.save({"lora_A": torch.zeros(4, 2), "lora_B": torch.zeros(2, 4), "r": Harmful()}, file)


def write_converted(directory):
    """The example as a conversion for transformers writes it, tied and so without lm_head."""
    import torch
    from hub_layout import hub_config, to_hub, write_hub

    example = ROOT / "examples" / "mini-llama"
    params = json.loads((example / "params.json").read_text(encoding="utf-8"))
    native = torch.load(example / "consolidated.00.pth", weights_only=True)
    hidden_dim = native["layers.0.feed_forward.w1.weight"].shape[0]
    weights = to_hub(native, params, hidden_dim)
    del weights["lm_head.weight"]
    config = hub_config(params, hidden_dim, tie_word_embeddings=True)
    write_hub(directory, weights, config, shards=2)
    shutil.copy(example / "tokenizer.model", directory)


@pytest.mark.parametrize("block", list(CONSOLE.finditer(TEXT)), ids=lambda m: m["command"])
def test_the_output_shown_is_what_the_command_prints(block):
    code, output = run(block["command"])
    assert code == int(DAMAGED in block["command"] or HARMFUL in block["command"])
    if "--reference" in block["command"]:  # rounding alone, which differs between processors
        assert output.split("Logits\n")[0] == block["output"].split("Logits\n")[0]
        assert output.split("\n")[-2] == block["output"].split("\n")[-2] == PASSES
    elif COMPUTED & set(block["command"].split()):
        words, numbers = apart(output)
        shown_words, shown_numbers = apart(block["output"])
        assert words == shown_words
        assert numbers == pytest.approx(shown_numbers, rel=0.05)
    else:
        assert output == block["output"]


def apart(text):
    """Words, and the numbers between them: another processor rounds in another way."""
    return NUMBER.sub("#", text).split(), [float(n.replace(",", "")) for n in NUMBER.findall(text)]


@pytest.mark.parametrize("command", INLINE)
def test_commands_in_sentences_work(command):
    assert run(command)[0] == 0


@pytest.mark.parametrize("code", PYTHON)
def test_python_examples_run(code, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    assert "869504 True" in capsys.readouterr().out


def test_the_first_command_ends_with_one_that_works():
    assert SETUP.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -q . && ")
    assert run(SETUP.rpartition(" && ")[2])[0] == 0


def test_ci_runs_the_test_command_as_printed():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert TESTS in lines
    assert lines.index("rm -rf .venv") < lines.index(TESTS)
    assert {"ruff check", "ruff format --check", "mypy"} <= set(lines)


def test_the_training_command_is_one_that_the_script_takes(monkeypatch):
    (block,) = re.findall(r"```\n(pip install -e '.\[train\]'\n[\s\S]+?)```", TEXT)
    _, train, then = block.strip().split("\n")
    assert train == "python examples/train_mini_llama.py -o my-llama"
    assert then.startswith("llamainspect generate my-llama ")
    script = runpy.run_path(str(ROOT / "examples" / "train_mini_llama.py"))
    options = script["parse"](shlex.split(train)[2:])
    assert (options.preset, options.seed) == ("tiny", 0)  # as the example was made
    # --steps, --text and the rest are what tests/test_train_mini_llama.py runs
    for option in re.findall(
        r"`(--[a-z-]+)", TEXT.split("## Train one yourself")[1].split("## ")[0]
    ):
        assert option.removeprefix("--") in vars(options)


def test_the_scripts_in_the_table_are_those_in_the_folder():
    table = re.findall(r"^\| `([a-z_]+\.py) ", TEXT, re.MULTILINE)
    assert {*table, "train_mini_llama.py"} == {p.name for p in (ROOT / "examples").glob("*.py")}


def test_every_command_is_shown():
    from llamainspect.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = [block["command"].split("llamainspect ")[1] for block in CONSOLE.finditer(TEXT)]
    assert names == {command.split()[0] for command in shown}


if __name__ == "__main__":
    README.write_text(
        CONSOLE.sub(lambda m: f"```console\n$ {m['command']}\n{run(m['command'])[1]}```", TEXT),
        encoding="utf-8",
    )
