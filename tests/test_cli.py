"""The command line: the library's answer, the right exit code, one sentence on trouble."""

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

import llamainspect as li


def run(*arguments, cwd=None, env=None, **options):
    """The command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "llamainspect", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        timeout=60,
        **{"text": True, **options},
    )


def in_terminal(*arguments, columns=80, env=None):
    """What a terminal of that width receives."""
    master, slave = pty.openpty()
    variables = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **(env or {})}
    variables.pop("NO_COLOR", None) if not env or "NO_COLOR" not in env else None
    command = [sys.executable, "-m", "llamainspect", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=variables)
    os.close(slave)
    received = b""
    try:
        while data := os.read(master, 65536):
            received += data
    except OSError:  # the other end is closed
        pass
    process.communicate(timeout=60)
    os.close(master)
    return received.decode()


# What stands behind the path, and the same asked of the library.
COMMANDS = {
    "summary": ([], lambda path: li.summarize(li.open_checkpoint(path))),
    "tensors": (
        ["layers.0.*"],
        lambda path: li.list_tensors(li.open_checkpoint(path), "layers.0.*"),
    ),
    "show": (
        ["output.weight"],
        lambda path: li.show_tensor(li.open_checkpoint(path), "output.weight"),
    ),
    "verify-checksums": (["--deep"], lambda path: li.verify_checksums(path, deep=True)),
    "memory": (
        ["--context", "100", "--gpu", "t4"],
        lambda path: li.estimate_memory(
            li.find_subject(path), li.Usage(context=100), gpus=li.parse_gpus("t4")
        ),
    ),
    "compute": (
        ["--tokens", "1B", "--mfu", "0.5"],
        lambda path: li.estimate_compute(li.find_subject(path), li.Work(tokens=10**9, mfu=0.5)),
    ),
    "explain": (["HIDDEN_dim"], lambda path: li.explain_model(li.find_subject(path), "HIDDEN_dim")),
}


EXAMPLE = str(Path(__file__).parent.parent / "examples" / "mini-llama")
# What is given beside --model, and the same asked of the library.
TOKENIZER_COMMANDS = {
    "tokenize": (["a  b\n", "--bos"], lambda tok: li.tokenize(tok, "a  b\n", bos=True)),
    "detokenize": (["1", "424", "505"], lambda tok: li.detokenize(tok, [1, 424, 505])),
    "vocab": (["--search", "ll"], lambda tok: li.describe_vocabulary(tok, search="ll")),
}


@pytest.mark.parametrize(
    "checkpoint_path", ["two shards", "safetensors, three files"], indirect=True
)
@pytest.mark.parametrize("command", COMMANDS)
def test_json_equals_the_library(checkpoint_path, tmp_path, command):
    if command == "verify-checksums":  # a list, since safetensors have no checksums in them
        checkpoint_path = shutil.copytree(checkpoint_path, tmp_path / "listed")
        sums = [
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in sorted(checkpoint_path.iterdir())
        ]
        (checkpoint_path / "SHA256SUMS").write_text("".join(sums))
    arguments, ask = COMMANDS[command]
    done = run(command, checkpoint_path, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == li.to_json(ask(str(checkpoint_path))) + "\n"
    answer = json.loads(done.stdout)
    assert (answer["report"], answer["schema"], answer["ok"]) == (command, 1, True)


@pytest.mark.parametrize("command", TOKENIZER_COMMANDS)
def test_json_of_the_tokenizer_equals_the_library(command):
    arguments, ask = TOKENIZER_COMMANDS[command]
    done = run(command, *arguments, "--model", EXAMPLE, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == li.to_json(ask(li.load_tokenizer(EXAMPLE))) + "\n"
    answer = json.loads(done.stdout)
    assert (answer["report"], answer["schema"], answer["ok"]) == (command, 1, True)


def test_the_fields_of_the_tokenizer_that_programs_rely_on():
    answer = json.loads(run("tokenize", "é", "-m", EXAMPLE, "--json").stdout)
    assert answer["ids"] == [token["id"] for token in answer["tokens"]]
    assert [(t["text"], t["bytes"]) for t in answer["tokens"]] == [
        (" ", "20"),
        ("\ufffd", "c3"),
        ("\ufffd", "a9"),
    ]
    answer = json.loads(run("detokenize", *answer["ids"], "-m", EXAMPLE, "--json").stdout)
    assert answer["text"] == "é"


def test_the_fields_that_programs_rely_on(tiny2):
    summary = json.loads(run("summary", tiny2, "--json").stdout)
    assert summary["format"] == "meta"
    assert summary["shards"] == 2
    assert summary["model"]["name"] is None
    assert summary["model"]["match"] == "none"
    assert summary["config"]["n_kv_heads"] == 2
    assert set(summary["parameters"]) >= {"total", "stored", "by_component"}
    assert summary["tied_output"] is False
    assert isinstance(summary["nbytes"], int)
    assert summary["findings"] == []
    tensor = json.loads(run("tensors", tiny2, "--json").stdout)["tensors"][0]
    assert tensor["files"] == ["consolidated.00.pth", "consolidated.01.pth"]
    assert {"name", "shape", "dtype", "nbytes", "axis"} <= set(tensor)
    (tiny2 / "checklist.chk").write_text(f"{'0' * 32}  params.json\n")
    file = json.loads(run("verify-checksums", tiny2, "--json").stdout)["files"][2]
    expected = {"file", "algorithm", "expected", "actual", "status", "message", "damaged"}
    assert expected <= set(file)
    assert (file["file"], file["status"], file["damaged"]) == ("params.json", "mismatch", [])


HERE = [["summary"], ["tensors", "*.wq.weight"], ["show", "norm.weight"], ["verify-checksums"]]
HERE_TOKENIZER = [["tokenize", "a b"], ["detokenize", "300"], ["vocab"]]


def test_the_current_directory_is_the_default(tiny):
    for arguments in HERE:
        done = run(*arguments, cwd=tiny)
        assert done.returncode == 0, done.stderr
    assert "layers.1.attention.wq.weight" in run("tensors", "*.wq.weight", cwd=tiny).stdout


def test_the_environment_names_the_model(tiny, tmp_path):
    env = {"LLAMAINSPECT_MODEL": str(tiny)}
    for arguments in HERE:
        assert run(*arguments, cwd=tmp_path, env=env).returncode == 0
    for arguments in HERE_TOKENIZER:
        assert run(*arguments, cwd=EXAMPLE).returncode == 0
        env = {"LLAMAINSPECT_MODEL": EXAMPLE}
        assert run(*arguments, cwd=tmp_path, env=env).returncode == 0
        done = run(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_an_error_finding_exits_1_and_still_answers(tiny2):
    os.remove(tiny2 / "consolidated.01.pth")
    done = run("summary", tiny2, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["summary", "--nonsense"], ["tensors", "--sort", "color"], ["nonsense"],
     ["show", ".", "norm.weight", "--at", "x,y"], ["show"], ["show", "."],
     ["verify-checksums", "--force"],
     ["tokenize"], ["tokenize", "a", "--file", "b"], ["tokenize", "--chat", "a", "--user", "b"],
     ["tokenize", "--system", "a"], ["tokenize", "--user", "a", "--bos"], ["detokenize"],
     ["detokenize", "x"], ["detokenize", "1", "--json", "--bytes"], ["vocab", "--id", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line_exits_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["summary", "tensors", "show"])
def test_no_answer_exits_3_with_one_sentence(tmp_path, command):
    (tmp_path / "consolidated.00.pth").write_bytes(b"<html>please log in</html>")
    done = run(command, tmp_path, *COMMANDS[command][0])
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("llamainspect: consolidated.00.pth: it is a web page of 26 bytes")


def test_nothing_to_check_against_exits_3_with_one_sentence(tmp_path):
    done = run("verify-checksums", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "nothing to check against" in done.stderr


def test_a_mismatch_exits_1_and_a_list_that_is_there_is_kept(tiny2):
    (tiny2 / "checklist.chk").write_text(f"{'0' * 32}  params.json\n")
    assert run("verify-checksums", tiny2).returncode == 1
    done = run("verify-checksums", tiny2, "--write")
    assert (done.returncode, done.stdout) == (3, "")
    assert (tiny2 / "checklist.chk").read_text().startswith("0")
    done = run("verify-checksums", tiny2, "--write", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert run("verify-checksums", tiny2).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_so(tiny):
    (tiny / "consolidated.00.pth").chmod(0)
    done = run("summary", tiny)
    assert done.returncode == 3
    assert "Permission denied; check the path and its permissions" in done.stderr


def test_forms_of_the_command_line_are_those_of_the_tables():
    from llamainspect.cli.plan import CacheForm, WeightForm
    from llamainspect.footprint import KV_FORMS, WEIGHT_FORMS

    assert get_args(WeightForm) == tuple(WEIGHT_FORMS)
    assert get_args(CacheForm) == tuple(KV_FORMS)


def test_help_and_version():
    assert run("--version").stdout == f"llamainspect {li.__version__}\n"
    overview = run("--help").stdout
    assert all(command in overview for command in (*COMMANDS, *TOKENIZER_COMMANDS))
    assert "models" in overview
    panels = [overview.index(f"─ {panel} ─") for panel in ("Inspect", "Verify", "Plan", "Run")]
    assert panels == sorted(panels)
    for command in (*COMMANDS, *TOKENIZER_COMMANDS, "models"):
        text = run(command, "-h").stdout
        assert f"Example: llamainspect {command}" in text


def test_a_pipe_gets_plain_lines_that_are_never_wrapped(tiny):
    output = run("tensors", tiny, env={"COLUMNS": "20"}).stdout
    assert "\x1b" not in output
    assert "█" not in run("summary", tiny).stdout
    row = next(line for line in output.splitlines() if line.startswith("layers.0.feed_forward.w1"))
    assert row.split() == ["layers.0.feed_forward.w1.weight", "[192,", "64]", "BF16", "24,576"]


def test_a_terminal_gets_colour_and_bars_unless_told_otherwise(tiny):
    output = in_terminal("summary", tiny)
    assert "\x1b[" in output
    assert "█" in output
    assert "\x1b[" not in in_terminal("summary", tiny, "--no-color")
    assert "\x1b[" not in in_terminal("summary", tiny, env={"NO_COLOR": "1"})


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_gets_no_line_that_is_too_long(tiny, columns):
    for command, (arguments, _) in COMMANDS.items():
        output = in_terminal(command, tiny, *arguments, "--no-color", columns=columns)
        assert max(map(len, output.splitlines())) <= columns, output
    for command, (arguments, _) in TOKENIZER_COMMANDS.items():
        arguments = [*arguments, "--model", EXAMPLE, "--no-color"]
        output = in_terminal(command, *arguments, columns=columns)
        assert max(map(len, output.splitlines())) <= columns, output


def test_numbers_are_never_cut_short(tmp_path):
    numbers = torch.full((3, 6), 1.2345678901234567e-20, dtype=torch.float64)
    torch.save({"x": numbers}, tmp_path / "x.pth")
    for columns in (40, 80):
        output = in_terminal("show", tmp_path / "x.pth", "x", "--no-color", columns=columns)
        numbers = [word for word in output.split() if word.startswith("1.23")]
        assert set(numbers) == {"1.2345678901234567e-20", "1.23456787e-20"}


def test_a_closed_pipe_is_no_error(tiny):
    command = f"{sys.executable} -m llamainspect tensors {tiny} | head -1"
    script = f"set -o pipefail; {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_unicode_gets_an_answer(tiny):
    done = run("summary", tiny, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr


EVIL = "layers.0.\x1b[31mred\x1b[0m\u202e[bold]\r\nx\udc80"


def test_names_from_files_cannot_drive_the_terminal(tmp_path):
    torch.save({EVIL: torch.ones(2, 2)}, tmp_path / "consolidated.00.pth")
    quantised = {"quantization_args": {"scheme": "\x1b[31m"}, "\x1b]8;;evil": 1}
    (tmp_path / "params.json").write_text(
        json.dumps({"dim": 4, "n_heads": 2, "n_layers": 1, "vocab_size": 3} | quantised)
    )
    for command in (["summary"], ["tensors"], ["show", "nothing"]):
        for json_option in ([], ["--json"]):
            done = run(command[0], tmp_path, *command[1:], *json_option)
            text = done.stdout + done.stderr
            assert done.returncode in (0, 1, 3)
            assert "Traceback" not in text
            assert not [c for c in text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
            assert "\u202e" not in text
    listing = run("tensors", tmp_path).stdout
    assert r"layers.0.\x1b[31mred\x1b[0m\u202e[bold]\x0d\x0ax\x80" in listing
    assert json.loads(run("tensors", tmp_path, "--json").stdout)["tensors"][0]["name"] == EVIL
