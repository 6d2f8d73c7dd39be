"""What happens while a command runs, and around it.

Files that change under it, disks that fill, interrupts, closed pipes, narrow terminals, strange
paths, and sets of very many files and tensors.
"""

import cProfile
import json
import os
import pstats
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoints import write_native
from in_process import run as run_here

import llamainspect as li
from llamainspect.sources import Folder

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
    shared = torch.zeros(1)
    torch.save(OrderedDict((f"t.{i}", shared) for i in range(300_000)), directory / "many.pth")
    safetensors = {f"layers.{i}.w": (1,) for i in range(220_000)}
    return [
        directory / "many.pth",
        write_safetensors(directory / "many.safetensors", safetensors),
    ]


QUESTIONS = (["summary"], ["tensors", "--json"], ["tensors"], ["verify-checksums"], ["diff"])


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
            assert cpu < 150
            assert mib < 1536


def measured(*arguments) -> tuple[int, float, int]:
    """Exit code, seconds of CPU, and MiB at most in memory."""
    command = [sys.executable, "-m", "llamainspect", *map(str, arguments)]
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024
