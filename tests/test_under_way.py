"""What happens while a command runs, and around it.

Files that change under it, disks that fill, interrupts, closed pipes, narrow terminals, strange
paths, and sets of very many files and tensors.
"""

import cProfile
import json
import os
import pstats
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, write_native
from conftest import tiny_weights
from hub_layout import hub_config, to_hub, write_hub
from in_process import run as run_here
from safetensors.torch import load, save
from test_cli import EXAMPLE, in_terminal

import llamainspect as li
from llamainspect.render.text import to_text
from llamainspect.sources import Folder

# --- files that change ----------------------------------------------------------------------------

SHARD, HUB_FILE = "consolidated.00.pth", "model.safetensors"
LONG_AGO = 1_700_000_000  # a clock may not tell two writes of one moment apart
GONE = re.compile("No such file|[Tt]here is no such|there is none|does not exist")
CHANGED_SENTENCE = "while it was read; try again"


def write_again(path: Path, factor: float) -> None:
    """The weights in a file with other values, and as many bytes."""
    data = path.read_bytes()
    if path.suffix == ".pth":
        weights = {n: (w.float() * factor).bfloat16() for n, w in torch.load(path).items()}
        torch.save(OrderedDict(weights), path)
    elif path.suffix == ".npz":
        recording = dict(np.load(path))
        np.savez(path, **recording | {"logits": recording["logits"] * np.float32(factor)})
    elif path.suffix == ".safetensors":
        weights = {n: w * factor if w.is_floating_point() else w for n, w in load(data).items()}
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        path.write_bytes(save(weights, header["__metadata__"]))
    else:  # a tokenizer or a configuration
        path.write_bytes(data[:-9] + data[-9:].replace(b"1", b"2"))
    assert len(path.read_bytes()) == len(data)


def replace_it(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parents[1]) as elsewhere:
        other = Path(shutil.copy2(path, elsewhere))
        write_again(other, 2)
        os.replace(other, path)


def grow_it(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1000))


CHANGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": grow_it,
    "replaced": replace_it,
    "written over": lambda path: write_again(path, 0.5),
    "removed": os.remove,
}
# Which file changes, and what is asked of the directory {} meanwhile.
ASKED = {
    "summary": (SHARD, ["summary", "{}"]),
    "summary of safetensors": (HUB_FILE, ["summary", "{}/hub"]),
    "tensors": (SHARD, ["tensors", "{}", "--per-shard"]),
    "show": (SHARD, ["show", "{}", "output.weight"]),
    "show of safetensors": (HUB_FILE, ["show", "{}/hub", "output.weight"]),
    "stats": (SHARD, ["stats", "{}"]),
    "report": (SHARD, ["report", "{}"]),
    "verify-checksums": (SHARD, ["verify-checksums", "{}", "--deep"]),
    "scan": (SHARD, ["scan", "{}"]),
    "diff": (SHARD, ["diff", "{}", "{}/hub"]),
    "logits": (SHARD, ["logits", "{}", "--ids", "1 2"]),
    "logits streamed": (SHARD, ["logits", "{}", "--ids", "1 2", "--stream"]),
    "explain": ("params.json", ["explain", "{}"]),
    "memory": ("params.json", ["memory", "{}"]),
    "tokenize": ("tokenizer.model", ["tokenize", "a b", "-m", "{}"]),
    "a recording": ("logits.safetensors",
                    ["verify-logits", "{}", "--reference", "{}/logits.safetensors"]),
    "a numpy archive": ("logits.npz", ["verify-logits", "{}", "--reference", "{}/logits.npz"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A model in both layouts, its tokenizer, a list, and its logits as two programs keep them."""
    path = tmp_path_factory.mktemp("pristine") / "model"
    # Of a size that a trained model's weights have.
    weights = {name: (weight.float() * 0.08).bfloat16() for name, weight in tiny_weights().items()}
    params = TINY | {"vocab_size": 1024}
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = weights[name].repeat(8, 1)[:1024]
    write_native(path, params, [OrderedDict(weights)])
    hub = to_hub(weights, params, TINY_HIDDEN)
    write_hub(path / "hub", hub, hub_config(params, TINY_HIDDEN))
    shutil.copy(Path(EXAMPLE, "tokenizer.model"), path)
    target = path / "logits.safetensors"
    assert run_here("logits", path, "--ids", "5 100 3", "--save", target).returncode == 0
    recorded = load(target.read_bytes())
    np.savez(path / "logits.npz", **{name: value.numpy() for name, value in recorded.items()})
    for file in (path, path / "hub"):
        assert run_here("verify-checksums", file, "--write").returncode == 0
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        os.utime(file, (LONG_AGO, LONG_AGO))
    return path


class Moments:
    """Does something at one of the moments in which a file is opened or has just been."""

    def __init__(self, monkeypatch, name: str) -> None:
        self.number, self.action = 0, (-1, lambda: None)
        opened = Folder.open

        def counting(folder, file):
            watched = os.path.basename(file) == name
            if watched:
                self.passes()
            descriptor = opened(folder, file)
            if watched:
                self.passes()
            return descriptor

        monkeypatch.setattr(Folder, "open", counting)

    def passes(self) -> None:
        at, action = self.action
        self.number += 1
        if self.number - 1 == at:
            action()


def answer(arguments, path: Path) -> str:
    """What a person sees, but for what is never twice the same."""
    command = [argument.replace("{}", str(path)) for argument in arguments]
    json_option = ["--json"]
    done = run_here(*command, *json_option)
    assert done.returncode in (0, 1, 3), done.stderr
    assert done.returncode != 3 or (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "Traceback" not in done.stderr
    unsteady = r'"(seconds|peak_nbytes|created|available_nbytes|\w*mtime)": [^,}]+'
    return re.sub(unsteady, "", done.stdout) + done.stderr


def check_changes(monkeypatch, pristine: Path, tmp_path: Path, asked: str, limit: int) -> set[str]:
    """Each kind of change at the moments of a command; returns how they were answered."""
    name, arguments = ASKED[asked]
    path = tmp_path / "model"
    where = path / "hub" / name if name == HUB_FILE else path / name

    def restore() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(pristine, path)

    restore()
    moments = Moments(monkeypatch, name)
    before = answer(arguments, path)
    count = moments.number
    outcomes = set()
    for kind, change in CHANGES.items():
        restore()
        change(where)
        after = answer(arguments, path)
        step = max(1, count // limit)
        for moment in range(0, count, step):
            restore()
            moments.number = 0
            moments.action = (moment, lambda change=change: change(where))
            found = answer(arguments, path)
            moments.action = (-1, None)
            outcomes.add(
                "changed" if CHANGED_SENTENCE in found
                else "gone" if kind == "removed" and GONE.search(found)
                else "as before" if found == before
                else "as after" if found == after
                else f"mixed: {kind} at {moment} of {count}: {found[-300:]}"
            )  # fmt: skip
    return outcomes


@pytest.mark.parametrize("asked", ASKED)
def test_a_file_that_changes_is_read_in_one_state_or_said_to_change(
    monkeypatch, pristine, tmp_path, asked
):
    outcomes = check_changes(monkeypatch, pristine, tmp_path, asked, limit=2)
    assert outcomes <= {"changed", "gone", "as before", "as after"}, outcomes


@pytest.mark.thorough
@pytest.mark.parametrize("asked", ASKED)
def test_at_every_moment(monkeypatch, pristine, tmp_path, asked):
    outcomes = check_changes(monkeypatch, pristine, tmp_path, asked, limit=10_000)
    assert outcomes <= {"changed", "gone", "as before", "as after"}, outcomes


RESTLESS = """
import os, sys, time
path = sys.argv[1]
with open(path, "rb") as file:
    data = file.read()
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    os.truncate(path, len(data) // 3)
    time.sleep(0.003)
    with open(path, "r+b") as file:
        file.write(data)
    time.sleep(0.01)
    with open(path + ".new", "wb") as file:
        file.write(data[::-1])
    os.replace(path + ".new", path)
    time.sleep(0.003)
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.replace(path + ".new", path)
    time.sleep(0.01)
"""


def test_a_file_that_another_process_never_leaves_alone_ends_in_an_answer(tmp_path):
    """Mapped, it would kill the reader; half read, it would be called damaged without a word."""
    path = write_native(tmp_path / "restless", None, [{"w": torch.rand(2**20)}])
    (path / "checklist.chk").write_text(f"{'0' * 32}  {SHARD}\n")
    with subprocess.Popen([sys.executable, "-c", RESTLESS, path / SHARD, "2"]) as other:
        while other.poll() is None:
            for command in (["summary"], ["show"], ["stats"], ["verify-checksums"]):
                done = run_here(*command, path, *(["w"] if command == ["show"] else []))
                assert done.returncode in (0, 1, 3)
                assert done.returncode != 3 or done.stderr.count("\n") == 1, done.stderr
    assert other.returncode == 0
    assert run_here("stats", path).returncode == 0


# --- interrupts -----------------------------------------------------------------------------------

# From the first import that is ours; what Python does before that is its own, and an interrupt
# there is held back until then.
OURS = """
import signal, sys
from llamainspect.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
def hook(event, arguments):
    if event == "import" and arguments[0] == "llamainspect.cli":
        sys.stderr.write(".")
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
sys.addaudithook(hook)
main()
"""
INTERRUPTED = {
    "summary": ["summary", "{}"],
    "stats": ["stats", "{}"],
    "a list": ["verify-checksums", "{}", "--write", "--force"],
    "a page": ["report", "{}", "--stats", "-o", "{}/report.html"],
    "scan": ["scan", "{}"],
    "diff": ["diff", "{}", EXAMPLE],
    "a recording": ["logits", "{}", "--prompt", "a", "--save", "{}/recording.safetensors"],
    "a text": ["generate", "{}", "--prompt", "a", "-n", "9"],
}


def test_before_its_first_line_the_program_imports_nothing():
    """What Ctrl-C meets there is a traceback that nobody can catch."""
    script = (
        "import sys; before = set(sys.modules); import llamainspect.__main__; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "['llamainspect', 'llamainspect.__main__']\n"


LOST = """
import sys, time, llamainspect.__main__ as program
sys.unraisablehook = program.interrupt_again
class Callback:
    def __init__(self, error): self.error = error
    def __del__(self): raise self.error
try:
    Callback(KeyboardInterrupt())
    begin = time.monotonic()
    time.sleep(20)
    print("lost")
except KeyboardInterrupt:
    print("heard" if time.monotonic() - begin < 10 else "late")
Callback(ValueError("said"))
"""


def test_the_program_listens_for_interrupts_that_python_would_lose():
    script = (
        "import sys, llamainspect.__main__ as program; sys.argv = ['llamainspect', '--version']\n"
        "try: program.main()\n"
        "except SystemExit: print(sys.unraisablehook is program.interrupt_again)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_an_interrupt_within_a_callback_of_python_is_not_lost():
    """As in that of a lock for imports, while the program is being loaded."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True)
    assert done.stdout == "heard\n"
    assert "KeyboardInterrupt" not in done.stderr
    assert "ValueError: said" in done.stderr


@pytest.mark.parametrize("number", range(3))
def test_an_interrupt_while_threads_begin_is_not_lost(tmp_path, monkeypatch, number):
    for name in ("a.pth", "b.pth", "c.pth"):
        (tmp_path / name).write_bytes(b"x")
    begun, start = [], threading.Thread.start

    def interrupted(thread):
        if len(begun) == number:
            raise KeyboardInterrupt
        begun.append(thread)
        start(thread)

    monkeypatch.setattr("llamainspect.examination.usable_cores", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        li.verify_checksums(str(tmp_path))
    assert not any(thread.is_alive() for thread in begun)


def check_interrupt(arguments, path: Path, delay: float | None) -> float:
    """Interrupts a command after so long, or never; returns how long it took."""
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    command = [sys.executable, "-c", OURS, *(a.replace("{}", str(path)) for a in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr.read(1) == b"."
    begin = time.monotonic()
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), (delay, error)
    assert b"Traceback" not in error, delay
    left = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    assert not [name for name in left if name.endswith(".tmp")]
    for name, data in left.items():
        if before.get(name, data) != data and process.returncode:
            assert name in ("checklist.chk", "recording.safetensors", "report.html")
            assert len(data) >= len(before[name]) // 2  # a whole one, new or old
    return time.monotonic() - begin


def model_to_interrupt(tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLE, tmp_path / "model")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.4, 0.8, 0.97])
def test_ctrl_c_ends_a_command_without_a_word(tmp_path, part):
    check_interrupt(INTERRUPTED["a list"], model_to_interrupt(tmp_path), 0.3 * part)


@pytest.mark.thorough
@pytest.mark.parametrize("command", INTERRUPTED)
def test_ctrl_c_at_forty_moments(tmp_path, command):
    path = model_to_interrupt(tmp_path)
    took = check_interrupt(INTERRUPTED[command], path, None)
    for step in range(40):
        check_interrupt(INTERRUPTED[command], path, took * step / 38)


# --- disks and permissions ------------------------------------------------------------------------

WRITING = {
    "checklist.chk": ["verify-checksums", "{}", "--write", "--force"],
    "report.html": ["report", "{}", "-o", "{}/report.html"],
    "logits.safetensors": ["logits", "{}", "--ids", "1 2", "--save", "{}/logits.safetensors"],
}


@pytest.fixture
def full_disk(monkeypatch, tmp_path):
    """A model on a disk that takes no more than its older answers; nothing, if none can be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own can be made by root alone")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("target", WRITING)
def test_on_a_full_disk_nothing_half_is_left_and_the_old_is_kept(full_disk, pristine, target):
    path = shutil.copytree(pristine, full_disk / "model")
    arguments = [argument.replace("{}", str(path)) for argument in WRITING[target]]
    assert run_here(*arguments).returncode == 0
    old = (path / target).read_bytes()
    with suppress(OSError), (full_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    before = sorted(path.iterdir())
    done = run_here(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert re.search(f"{target}: it cannot be written: .*No space left on device", done.stderr)
    assert (path / target).read_bytes() == old
    assert sorted(path.iterdir()) == before


@pytest.fixture
def nobody():
    """A directory, and what makes root a user who may not do everything."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)  # pytest's own is closed to others
    yield directory, lambda: None if os.geteuid() else os.setresuid(65534, 65534, 0)
    if os.getresuid()[2] == 0:
        os.setresuid(0, 0, 0)
    shutil.rmtree(directory)


@pytest.mark.parametrize("target", WRITING)
def test_where_nothing_may_be_written_it_is_said_before_any_work(nobody, pristine, target):
    directory, become = nobody
    path = shutil.copytree(pristine, directory / "model")
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    path.chmod(0o555)
    become()
    done = run_here(*(argument.replace("{}", str(path)) for argument in WRITING[target]))
    assert done.returncode in (2, 3)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert {file: file.read_bytes() for file in path.iterdir() if file.is_file()} == before


def test_a_directory_that_may_be_listed_and_not_entered_is_not_called_empty(nobody, pristine):
    directory, become = nobody
    path = shutil.copytree(pristine, directory / "model")
    path.chmod(0o444)
    become()
    done = run_here("summary", path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"llamainspect: {path / SHARD}: Permission denied; check the permissions of its directory\n"
    )


@pytest.mark.parametrize("command", ["summary", "scan", "verify-checksums"])
def test_a_directory_that_may_not_be_listed_gets_no_answer(nobody, pristine, command):
    directory, become = nobody
    path = shutil.copytree(pristine, directory / "model")
    path.chmod(0)
    become()
    done = run_here(command, path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"llamainspect: {path}: Permission denied; check the path and its permissions\n"
    )


# --- streams --------------------------------------------------------------------------------------

# What is asked of the directory {}, of all commands that take no torch.
EVERY = {
    "summary": ["{}"], "tensors": ["{}"], "show": ["{}", "norm.weight"], "stats": ["{}"],
    "explain": ["{}"], "verify-checksums": ["{}"], "diff": ["{}", "{}"], "memory": ["{}"],
    "compute": ["{}"], "models": [], "tokenize": ["a b", "-m", "{}"],
    "detokenize": ["300", "-m", "{}"], "vocab": ["-m", "{}"], "report": ["{}"],
    "scan": ["{}"],
}  # fmt: skip
SMALL = ("summary", "tokenize")  # enough for what is the same in all
# How a shell runs it, with what environment, and how it must end.
STREAMS = {
    "nobody reads on": ("set -o pipefail; {} | true", {}, 0),
    "one line is read": ("set -o pipefail; {} | head -n1 > /dev/null", {}, 0),
    "stdout is closed": ("{} >&-", {}, 0),
    "stdin is closed": ("{} <&- > /dev/null", {}, 0),
    "stderr is closed": ("{} 2>&- > /dev/null", {}, 0),
    "all are closed": ("{} <&- >&- 2>&-", {}, 0),
    "the disk is full": ("{} > /dev/full", {}, 3),
    "no locale": ("{}", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0),
    "ASCII": ("{}", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, 0),
    "no width": ("{}", {"COLUMNS": "0", "TERM": "dumb"}, 0),
    "nonsense for a width": ("{}", {"COLUMNS": "wide", "LINES": "-3", "NO_COLOR": "1"}, 0),
}


def check_stream(line: str, variables: dict[str, str], code: int, arguments: list[str]) -> None:
    command = shlex.join([sys.executable, "-m", "llamainspect", *arguments])
    done = subprocess.run(
        ["bash", "-c", line.replace("{}", command)],
        env=os.environ | variables, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.count(b"\n") == (code == 3), done.stderr
    assert b"Traceback" not in done.stderr
    if variables.get("PYTHONUTF8") == "0":
        assert done.stdout.isascii()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("how", STREAMS)
def test_streams_may_be_closed_full_or_poor(pristine, how):
    for command in SMALL:
        arguments = [argument.replace("{}", str(pristine)) for argument in EVERY[command]]
        check_stream(*STREAMS[how], [command, *arguments])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "summary --help", "--version"])
def test_what_the_parser_prints_ends_as_an_answer_does(arguments):
    for how in ("nobody reads on", "one line is read", "stdout is closed", "the disk is full"):
        check_stream(*STREAMS[how], arguments.split())
    command = shlex.join([sys.executable, "-m", "llamainspect", *arguments.split()])
    done = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert done.stderr == (
        "llamainspect: standard output: No space left on device; make room, or write elsewhere\n"
    )


def test_a_wrong_command_line_is_one_whoever_listens():
    command = shlex.join([sys.executable, "-m", "llamainspect", "nonsense"])
    line = f"set -o pipefail; {command} 2>&1 | true"
    assert subprocess.run(["bash", "-c", line], capture_output=True).returncode == 2


@pytest.mark.thorough
@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize("how", STREAMS)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_streams_of_every_command(pristine, tmp_path, command, how, options):
    arguments = [argument.replace("{}", str(pristine)) for argument in EVERY[command]]
    if command == "report" and not options:
        options = ["-o", str(tmp_path / "report.html")]
    check_stream(*STREAMS[how], [command, *arguments, *options])


@pytest.mark.parametrize("columns", range(38, 72, 4))
def test_counts_are_whole_at_any_width(columns):
    report = li.summarize(li.open_checkpoint(EXAMPLE))
    text = to_text(report, terminal=True, plain=True, width=columns)
    assert max(map(len, text.splitlines())) <= columns
    for count in (report.parameters.total, *report.parameters.by_component.values()):
        assert f" {count:,}" in text


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [20, 40, 300])
@pytest.mark.parametrize("command", EVERY)
def test_every_command_fits_a_terminal(pristine, tmp_path, command, columns):
    arguments = [argument.replace("{}", str(pristine)) for argument in EVERY[command]]
    options = ["-o", str(tmp_path / "report.html")] if command == "report" else []
    output = in_terminal(command, *arguments, *options, "--no-color", columns=columns)
    assert "Traceback" not in output
    if columns >= 40:
        assert max(map(len, output.splitlines())) <= columns, output


# --- paths ----------------------------------------------------------------------------------------

NAMES = {
    "a blank": "a b", "a line break": "a\nb", "a tab": "a\tb", "quotes": "it's \"it\"",
    "no text": os.fsdecode(b"\xff\xfe"), "a dash": "-dash", "255 bytes": "x" * 255,
    "right to left": "\u202e\u05d0abc", "a pattern": "[a-z]*",
}  # fmt: skip
DRIVING = re.compile("[\x00-\x09\x0b-\x1f\x7f\u202e]")  # what a terminal would obey


def check_answers(path: str, codes: set[int]) -> None:
    """Every command answers of the path, or says in one sentence why not."""
    for command, arguments in EVERY.items():
        given = [argument.replace("{}", path) for argument in arguments]
        options = ["--json"] if command == "report" else []
        end = ["--"] if "-m" not in given else []
        done = run_here(command, *options, *end, *given)
        assert done.returncode in codes or command in ("models", "scan"), (command, done.stderr)
        assert done.returncode < 3 or done.stderr.count("\n") == 1
        assert not DRIVING.search(done.stdout + done.stderr)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_have_any_name(pristine, tmp_path, monkeypatch, name):
    shutil.copytree(pristine, tmp_path / NAMES[name])
    monkeypatch.chdir(tmp_path)
    check_answers(NAMES[name], {0})


def test_a_path_may_be_very_long(pristine, tmp_path):
    deep = tmp_path.joinpath(*["d" * 200] * 15, "model")
    shutil.copytree(pristine, deep)
    check_answers(str(deep), {0})


@pytest.mark.parametrize(
    "path",
    ["fifo", "socket", "loop", "dangling", "/dev/null", "/dev/zero", "/dev/stdin", "/proc/cpuinfo",
     "/proc/self/mem", "", "x" * 300, "x/" * 3000, "a\0b"],
    ids=lambda path: ascii(path[:20]),
)  # fmt: skip
def test_what_is_no_checkpoint_is_said_to_be_none_at_once(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        check_answers(path, {2, 3})


IRREGULAR = {
    "a FIFO": os.mkfifo,
    "a directory": os.mkdir,
    "a loop": lambda path: os.symlink(path.name, path),
    "a dangling link": lambda path: os.symlink("nowhere", path),
    "a device": lambda path: os.symlink("/dev/zero", path),
    "a file of /proc": lambda path: os.symlink("/proc/cpuinfo", path),
    "a hole": lambda path: (path.touch(), os.truncate(path, 2**26)),
}


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize(
    "file",
    [SHARD, "checklist.chk",
     pytest.param("params.json", marks=pytest.mark.thorough),
     pytest.param("tokenizer.model", marks=pytest.mark.thorough)],
)  # fmt: skip
def test_irregular_files_in_a_directory_hang_nothing(pristine, tmp_path, kind, file):
    path = shutil.copytree(pristine, tmp_path / "model")
    os.remove(path / file)
    IRREGULAR[kind](path / file)
    check_answers(str(path), {0, 1, 3})


# --- very many files and tensors ------------------------------------------------------------------


def write_shards(directory: Path, ranks: int) -> Path:
    """Two matrices cut by rows into so many shards, a row in each, and a norm that all have."""
    params = {"dim": 4, "n_layers": 1, "n_heads": 1, "vocab_size": ranks, "multiple_of": 4,
              "norm_eps": 1e-5}  # fmt: skip
    write_native(directory, params, [])
    for rank in range(ranks):
        weights = OrderedDict(
            (name, torch.full((1, 4), float(rank + offset)))
            for offset, name in ((0, "tok_embeddings.weight"), (0.5, "output.weight"))
        )
        weights["norm.weight"] = torch.ones(4)
        torch.save(weights, directory / f"consolidated.{rank:05d}.pth")
    return directory


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A file of zeros, U8, which are a hole."""
    table, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel()
        table[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    return path


def write_hub_shards(directory: Path, files: int) -> Path:
    """One tensor in each file, and an index."""
    directory.mkdir()
    places = {}
    for number in range(files):
        name, file = f"layers.{number}.w", f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        write_safetensors(directory / file, {name: (2, 3)})
        places[name] = file
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return directory


class Counting(Folder):
    """Counts what is read."""

    reads = 0

    def read(self, file, offset, length):
        Counting.reads += 1
        return super().read(file, offset, length)


@pytest.fixture
def reads(monkeypatch):
    """How often a folder is read from; call it for the number since the call before."""
    monkeypatch.setattr("llamainspect.sources.Folder", Counting)
    Counting.reads = 0

    def since():
        found, Counting.reads = Counting.reads, 0
        return found

    return since


def cpu_seconds(call):
    begin = time.process_time()
    call()
    return time.process_time() - begin


@pytest.mark.parametrize("write", [write_shards, write_hub_shards])
def test_reads_are_in_proportion_to_the_number_of_files(tmp_path, reads, write):
    counts = []
    for number in (75, 300):
        path = str(write(tmp_path / str(number), number))
        reads()
        checkpoint = li.open_checkpoint(path)
        assert len(checkpoint.files) == number
        li.summarize(checkpoint)
        counts.append(reads())
    assert 300 <= counts[1] <= 4.2 * counts[0]


def calls(ask) -> int:
    """Calls of functions that it takes: as good as time, and the same on a busy machine."""
    profile = cProfile.Profile()
    profile.runcall(ask)
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize(
    "ask",
    [lambda path: li.summarize(li.open_checkpoint(path)), li.verify_checksums],
    ids=["summary", "verify-checksums"],
)
def test_work_is_in_proportion_to_the_number_of_shards(tmp_path, ask):
    """Four times as many files would be sixteen times the work where each is held against all."""
    paths = [str(write_shards(tmp_path / str(number), number)) for number in (100, 400)]
    ask(paths[0])  # what is imported is imported
    few, many = (calls(lambda path=path: ask(path)) for path in paths)
    assert many < 4.5 * few


def list_of(directory: Path, files: int) -> Path:
    """A list of files that are not there, beside as many that are."""
    directory.mkdir()
    lines = []
    for number in range(files):
        (directory / f"other{number}.safetensors").touch()
        lines.append(f"{number:032x}  model{number:04}.safetensors\n")
    (directory / "checklist.chk").write_text("".join(lines))
    return directory


def test_work_is_in_proportion_to_the_number_of_absent_files(tmp_path):
    paths = [str(list_of(tmp_path / str(number), number)) for number in (100, 400)]
    few, many = (calls(lambda path=path: li.verify_checksums(path)) for path in paths)
    assert many < 4.5 * few
    gone = [row for row in li.verify_checksums(paths[0]).files if row.status == "missing"]
    assert len(gone) == 100
    assert "of the weights there are other0.safetensors, other1.safetensors" in gone[0].message


def test_shards_with_numbers_of_five_digits_are_not_missed_under_those_of_two(tmp_path):
    report = li.verify_checksums(str(write_shards(tmp_path / "shards", 12)))
    assert report.ok
    assert {row.status for row in report.files if row.file.endswith(".pth")} == {"ok"}


@pytest.mark.parametrize("command", ["summary", "verify-checksums", "tensors"])
def test_a_made_up_vocabulary_does_not_ask_for_a_billion_shards(tmp_path, command):
    write_shards(tmp_path / "one", 1)
    params = json.loads((tmp_path / "one" / "params.json").read_text())
    (tmp_path / "one" / "params.json").write_text(json.dumps(params | {"vocab_size": 2**31 - 1}))
    assert cpu_seconds(lambda: run_here(command, tmp_path / "one")) < 1


def test_a_header_of_a_million_tensors_is_refused_at_once(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", {"x" * 200: (1,)})
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 75_000_000))
        file.truncate(80_000_000)
    done = run_here("summary", path)
    assert (done.returncode, done.stderr) == (
        3,
        "llamainspect: x.safetensors: its header claims 75,000,000 bytes; more than 16,777,216 "
        "are not read\n",
    )


def shards_in_many_files(directory: Path) -> list[Path]:
    return [
        write_shards(directory / "meta", 10_000),
        write_hub_shards(directory / "hub", 10_000),
    ]


def tensors_in_one_file(directory: Path) -> list[Path]:
    """About as many as are read, and a million, which are refused."""
    shared = torch.zeros(1)
    paths = []
    for pickled, described in ((100_000, 70_000), (1_000_000, 1_000_000)):
        path = directory / f"{pickled}.pth"
        torch.save(OrderedDict((f"t.{i}", shared) for i in range(pickled)), path)
        safetensors = {f"layers.{i}.w": (1,) for i in range(described)}
        paths += [path, write_safetensors(directory / f"{described}.safetensors", safetensors)]
    return paths


QUESTIONS = (
    ["summary"], ["tensors", "--json"], ["tensors"], ["verify-checksums"], ["diff"], ["scan"],
)  # fmt: skip


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux counts it")
@pytest.mark.parametrize("write", [shards_in_many_files, tensors_in_one_file])
def test_very_much_is_bounded_in_time_and_memory(tmp_path, write):
    """A table of seconds and MiB is printed (-s)."""
    for path in write(tmp_path):
        for command, *options in QUESTIONS:
            arguments = [command, path, *([path] if command == "diff" else []), *options]
            code, cpu, mib = measured(*arguments)
            print(f"\n{path.name:18} {command} {' '.join(options):8} {cpu:6.1f} s {mib:5} MiB",
                  end="")  # fmt: skip
            assert code in (0, 1, 3)
            assert cpu < 60
            assert mib < 1024


MEASURING = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def measured(*arguments) -> tuple[int, float, int]:
    """Exit code, seconds of CPU, and MiB at most in memory.

    Started from a small process: what starts another counts as its memory until it is replaced.
    """
    command = [sys.executable, "-m", "llamainspect", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, *command], capture_output=True, text=True, check=True
    )
    code, cpu, kib = done.stdout.split()
    return int(code), float(cpu), int(kib) // 1024
