"""One model in several processes: the logits are those of one, and each reads its share alone."""

import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import in_process
import pytest
import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    cut,
    dense_shapes,
    moe_weights,
    write_native,
)
from hub_layout import hub_config, hub_config_moe, to_hub, to_hub_moe, write_hub
from quantised import floats, write_fp8, write_fp8_moe, write_int4
from test_cli import EXAMPLE

import llamainspect as li
from llamainspect.model import parallel
from llamainspect.model.runner import estimate_need, last_hidden, own_part
from llamainspect.runs import check_runnable

PROGRAM = Path(__file__).parent.parent / "parallel_program.py"
CLOSE = 1e-5  # largest difference of any logit, as a share of their range
QUESTIONS = Path(EXAMPLE) / "questions.jsonl"
IDS = torch.randint(128, (40,), generator=torch.Generator().manual_seed(3)).tolist()
ODD = TINY | {"vocab_size": 131}  # no number of processes divides it
MOE = TINY_MOE | {"attention_chunk_size": 7, "nope_layer_interval": 2, "n_layers": 4}


class Job(NamedTuple):
    """A model, and how it is to be run."""

    write: Any  # writes it to a place
    options: dict[str, Any] = {}  # noqa: RUF012  nobody changes it
    step: int | None = None  # tokens at a time, through a cache


def native(params: dict[str, Any], ranks: int) -> Any:
    weights = floats(dense_shapes(params, TINY_HIDDEN))
    return lambda place: write_native(place, params, cut(weights, ranks))


def hub(params: dict[str, Any], shards: int, tied: bool = False) -> Any:
    weights = floats(dense_shapes(params, TINY_HIDDEN))
    named = to_hub(weights, params, TINY_HIDDEN)
    if tied:
        del named["lm_head.weight"]
    config = hub_config(params, TINY_HIDDEN, tie_word_embeddings=tied)
    return lambda place: write_hub(place, named, config, shards=shards)


def hub_moe(place: Path) -> Path:
    named = to_hub_moe(moe_weights(MOE), MOE)
    return write_hub(place, named, hub_config_moe(MOE), shards=2)


JOBS = {
    "one shard": Job(native(TINY, 1)),
    "one shard streamed": Job(native(TINY, 1), {"stream": True}),
    "one shard with a cache": Job(native(TINY, 1), step=7),
    "two shards": Job(native(TINY, 2)),
    "four shards streamed": Job(native(TINY, 4), {"stream": True}),
    "odd vocabulary": Job(native(ODD, 1)),
    "hub": Job(hub(TINY, 1)),
    "hub tied in two files": Job(hub(TINY, 2, tied=True), {"stream": True}),
    "int8 tried out": Job(native(TINY, 1), {"simulate": "int8"}),
    "int4 tried out": Job(hub(TINY, 1), {"simulate": "int4", "group_size": 24}),
    "int4": Job(lambda place: write_int4(place)[0]),
    "int4 in groups that no share is made of": Job(lambda place: write_int4(place, group=64)[0]),
    "SpinQuant and LoRA": Job(lambda place: write_int4(place, spinquant=True, lora=True)[0]),
    "zeros and LoRA": Job(lambda place: write_int4(place, zeros=True, lora=True)[0]),
    "fp8": Job(lambda place: write_fp8(place, 1)[0]),
    "fp8 in two": Job(lambda place: write_fp8(place, 2)[0]),
    "fp8 in four": Job(lambda place: write_fp8(place, 4)[0]),
    "Llama 4": Job(lambda place: write_native(place, MOE, [moe_weights(MOE)])),
    "Llama 4 in two shards": Job(
        lambda place: write_native(place, MOE, cut(moe_weights(MOE), 2, blocks=MOE_BLOCKS)),
        {"stream": True},
    ),
    "Llama 4 of the hub": Job(hub_moe, step=16),
    "Llama 4, int8 tried out": Job(hub_moe, {"simulate": "int8"}),
    "Llama 4 in fp8": Job(lambda place: write_fp8_moe(place, 2)[0]),
}


def torchrun(processes: int, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.run(
        [*command, *port, *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of pytest's workers has filled, for all of them: a start takes long."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            place.mkdir()
            make(place)
    return place


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: job.write(place / name) for name, job in JOBS.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(request, places, tmp_path_factory) -> tuple[int, dict[str, Any]]:
    """Of every job what so many processes make of it: all jobs in one start, which takes long."""

    def start(out: Path) -> None:
        jobs = [
            {"name": name, "path": str(places[name]), "ids": IDS, "step": job.step,
             "options": {"dtype": "fp32"} | job.options}
            for name, job in JOBS.items()
        ]  # fmt: skip
        (out / "jobs.json").write_text(json.dumps(jobs))
        done = torchrun(request.param, PROGRAM, out / "jobs.json", out)
        assert done.returncode == 0, done.stderr

    out = once(tmp_path_factory, f"together{request.param}", start)
    return request.param, {name: torch.load(out / f"{name}.pt") for name in JOBS}


@pytest.mark.parametrize("name", JOBS)
def test_logits_are_those_of_one_process(together, places, name):
    _, made = together
    model = li.load_model(
        li.find_subject(str(places[name])),
        li.RunOptions("cpu", **{"dtype": "fp32"} | JOBS[name].options),
    )
    alone = model.logits(last_hidden(model.walk(torch.tensor([IDS])))[0])
    theirs = made[name]["logits"]
    assert theirs.shape == alone.shape
    assert float((theirs - alone).abs().max() / (alone.max() - alone.min())) < CLOSE


def linear_nbytes(params: dict[str, Any], hidden_dim: int, processes: int) -> tuple[int, int]:
    """Elements of one process: of all layers' matrices, and of the rest but the embedding."""
    dim, head_dim = params["dim"], params["dim"] // params["n_heads"]
    kv_heads = max(params["n_kv_heads"] // processes, 1)
    layer = 2 * dim * dim // processes + 3 * dim * hidden_dim // processes
    layer += 2 * kv_heads * head_dim * dim
    rest = params["n_layers"] * 2 * dim + dim + params["vocab_size"] * dim // processes
    return params["n_layers"] * layer, rest


@pytest.mark.parametrize(
    "name", ["one shard", "one shard streamed", "two shards", "four shards streamed", "hub"]
)
def test_each_process_reads_its_share_alone(together, name):
    """To the byte, wherever the files are cut; and the rows of the embedding that are asked for."""
    processes, made = together
    layers, rest = linear_nbytes(TINY, TINY_HIDDEN, processes)
    expected = 4 * (layers + rest + len(set(IDS)) * TINY["dim"])
    assert made[name]["read"] == [expected] * processes


def test_each_process_reads_its_share_of_quantised_weights(together):
    processes, made = together
    if processes == 2:  # each has a file of its own
        one, two = made["fp8 in two"]["read"]
        assert one == two
        whole = made["fp8"]["read"][0]
        assert one == whole  # of one shard: the same columns, the same number of scales
    assert len(set(made["fp8 in four"]["read"])) == 1


def test_one_of_two_needs_half_the_memory():
    """Of weights, whatever is kept; and of the output, which no other test would miss."""
    params = TINY | {"vocab_size": 40_000, "dim": 512, "n_layers": 8, "n_heads": 8, "n_kv_heads": 4}
    with tempfile.TemporaryDirectory() as place:
        shapes = dense_shapes(params, 1376)
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        said = params | {"multiple_of": 32}
        subject = li.find_subject(str(write_native(Path(place), said, [weights], sparse=True)))
        checkpoint, config = check_runnable(subject)
    runnable = subject._replace(checkpoint=checkpoint, config=config)
    needs = []
    for ranks in (1, 2):
        part = own_part(runnable, li.Share(0, ranks, 0, ranks))
        needs.append(estimate_need(part, 4, tokens=1, ranks=ranks))
    one, two = needs
    assert 0.49 < two.resident / one.resident < 0.53
    assert two.streamed < 0.6 * one.streamed


# --- commands -----------------------------------------------------------------------------------

GIVEN = "1,2,3,5,8,13,21,34"


@pytest.fixture(scope="module")
def spoken(places, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """What two processes answer to each command, by rank."""
    out = once(tmp_path_factory, "spoken", lambda out: _speak(places, out))
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]
    names = json.loads((out / "names.json").read_text())
    return dict(zip(names, map(list, zip(*ranks, strict=True)), strict=True))


def _speak(places: dict[str, Path], out: Path) -> None:
    model, other = places["one shard"], places["two shards"]
    commands: dict[str, list[Any]] = {
        "logits": ["logits", model, "--ids", GIVEN, "--json"],
        "text": ["logits", model, "--ids", GIVEN],
        "save": ["logits", model, "--ids", GIVEN, "--save", out / "a.safetensors", "--json"],
        "reference": ["verify-logits", model, "--reference", out / "alone.safetensors", "--json"],
        "against": ["verify-logits", model, "--against", other, "--json"],
        "wrong": ["verify-logits", places["hub tied in two files"],
                  "--reference", out / "alone.safetensors", "--json"],
        "generate": ["generate", model, "--ids", GIVEN, "-n", "9", "--temperature", "1", "--json"],
        "evaluate": ["evaluate", EXAMPLE, "--choices", QUESTIONS, "--json"],
        "simulate": ["logits", model, "--ids", GIVEN, "--simulate", "int8", "--json"],
        "pieces": ["generate", model, "--ids", GIVEN, "-n", "9"],
        "summary": ["summary", model, "--json"],
    }  # fmt: skip
    saved = in_process.run("logits", model, "--ids", GIVEN, "--save", out / "alone.safetensors")
    assert saved.returncode == 0
    (out / "commands.json").write_text(json.dumps([list(map(str, c)) for c in commands.values()]))
    done = torchrun(2, PROGRAM.with_name("parallel_commands.py"), out / "commands.json", out)
    assert done.returncode == 0, done.stderr
    (out / "names.json").write_text(json.dumps(list(commands)))


def test_one_process_speaks_for_all(spoken):
    for name, (first, second) in spoken.items():
        assert first["returncode"] == (1 if name == "wrong" else 0), name
        assert (second["stdout"], second["stderr"]) == ("", ""), name
        assert first["stdout"], name
        if name not in ("text", "pieces"):
            assert json.loads(first["stdout"])["report"], name


def test_the_answer_says_in_how_many_processes(spoken, places):
    run = json.loads(spoken["logits"][0]["stdout"])["run"]
    assert len(run["processes"]) == 2
    assert run["processes"][0]["nbytes_read"] == run["nbytes_read"]
    assert "cpu, fp32, 2 processes" in spoken["text"][0]["stdout"]


def test_verify_logits_agrees_with_one_process(spoken):
    for name in ("reference", "against"):
        answer = json.loads(spoken[name][0]["stdout"])
        assert answer["ok"]
        assert answer["max_abs"] < CLOSE * answer["logit_range"]
    assert spoken["wrong"][1]["returncode"] == 1


def test_all_processes_throw_the_same_dice(spoken, places):
    """Without a seed each would choose one of its own, and they would go on with other tokens."""
    answer = json.loads(spoken["generate"][0]["stdout"])
    assert len(answer["tokens"]) == 9
    alone = in_process.run(
        "generate", places["one shard"], "--ids", GIVEN, "-n", "9", "--temperature", "1",
        "--seed", answer["seed"], "--json",
    )  # fmt: skip
    assert json.loads(alone.stdout)["tokens"] == answer["tokens"]


def test_evaluate_and_simulate_agree_with_one_process(spoken, places):
    for name, command in {
        "evaluate": ["evaluate", EXAMPLE, "--choices", QUESTIONS],
        "simulate": ["logits", places["one shard"], "--ids", GIVEN, "--simulate", "int8"],
    }.items():
        alone = json.loads(in_process.run(*command, "--json").stdout)
        answer = json.loads(spoken[name][0]["stdout"])
        if name == "evaluate":
            assert answer["correct"] == alone["correct"]
            for row, other in zip(answer["results"], alone["results"], strict=True):
                assert row["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-3)
        else:
            for row, other in zip(answer["top"], alone["top"], strict=True):
                assert row["id"] == other["id"]
                assert row["logit"] == pytest.approx(other["logit"], abs=1e-3)


def test_one_process_saves(spoken):
    first, second = spoken["save"]
    assert (first["saved"], second["saved"]) == (1, 0)


# --- failures -----------------------------------------------------------------------------------


def sentences(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("llamainspect: ")]


def test_a_process_that_fails_ends_all_with_one_sentence(tmp_path):
    """Only the second reads this file: the place of one of its weights is damaged."""
    path = native(TINY, 2)(tmp_path / "damaged")
    file = path / "consolidated.01.pth"
    data = bytearray(file.read_bytes())
    weights = li.open_checkpoint(str(path)).weights
    start = weights["layers.1.feed_forward.w1.weight"].parts[1].storage.start
    data[start : start + 4] = b"none"
    file.write_bytes(data)
    done = torchrun(2, "-m", "llamainspect", "logits", path, "--ids", "1,2,3", "--json")
    assert done.returncode != 0
    assert done.stdout == ""
    (sentence,) = sentences(done)
    assert "consolidated.01.pth" in sentence
    assert done.stderr.count("Traceback") == 1  # torchrun's own, of its start
    assert done.stderr.index("Traceback") > done.stderr.index(sentence)


def test_what_all_processes_find_wrong_is_said_once(tmp_path):
    weights = floats(dense_shapes(TINY, TINY_HIDDEN))
    weights["layers.1.feed_forward.w2.weight"][5, 150] = torch.nan  # the second has this column
    path = write_native(tmp_path / "nan", TINY, [weights])
    done = torchrun(2, "-m", "llamainspect", "logits", path, "--ids", "1,2,3")
    assert (done.returncode != 0, done.stdout) == (True, "")
    (sentence,) = sentences(done)
    assert "layers.1.feed_forward.w2.weight: it holds NaN at [5, 150]" in sentence


def test_nobody_waits_for_one_that_nobody_listens_to(places):
    """The reader of the first process's text goes away: `| head`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
               "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "llamainspect",
               "generate", str(places["one shard"]), "--ids", "1", "-n", "4000"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(5)
        process.stdout.close()
        process.wait(timeout=60)


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (0, "process 0 of 2 (has lost another, which was killed, or ran out of memory|was ended)"),
        (60, "process 0 of 2 was ended by torchrun, which has lost another"),
    ],
)
def test_a_process_that_is_killed_ends_all_with_one_sentence(tmp_path, places, seconds, sentence):
    """By itself, in the midst of a pass, as the system kills what takes too much memory; torchrun
    may tell the other before it notices, and does when that one is busy."""
    program = tmp_path / "killed.py"
    program.write_text(KILLED.replace("SECONDS", str(seconds)))
    done = torchrun(2, program, "generate", places["one shard"], "--ids", "1", "-n", "50")
    assert done.returncode != 0
    (said,) = sentences(done)
    assert re.search(sentence, said)
    assert done.stderr.count("Traceback") == 1  # torchrun's own


KILLED = """
import os, signal, time
from llamainspect.__main__ import main
from llamainspect.model import parallel

calls = 0
summed = parallel.Ranks.summed

def fatal(ranks, product):
    global calls
    calls += 1
    if calls == 20:
        if ranks.share.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SECONDS)
    return summed(ranks, product)

parallel.Ranks.summed = fatal
main()
"""


def test_processes_with_other_files_are_told_apart(tmp_path, places):
    """As on two machines, one of which has a copy that is older."""
    program = tmp_path / "other.py"
    program.write_text(
        "import os, sys\nfrom llamainspect.__main__ import main\n"
        "sys.argv[2] = sys.argv.pop(3) if os.environ['RANK'] == '0' else sys.argv.pop(3) + '-old'\n"
        "main()\n"
    )
    path = native(TINY, 1)(tmp_path / "model")
    native(ODD, 1)(tmp_path / "model-old")
    done = torchrun(2, program, "logits", "PATH", path, "--ids", "1")
    assert (done.returncode != 0, done.stdout) == (True, "")
    (sentence,) = sentences(done)
    assert "not every process finds the same checkpoint there" in sentence


REFUSED = {
    "3 processes cannot share this model equally": ["3", "logits", "{}", "--ids", "1"],
    "only one of several processes could read it": ["2", "logits", "{}", "--ids", "-"],
    "start it without torchrun": [
        "2", "verify-logits", "{}", "--implementation", "transformers",
    ],
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_several_processes_cannot_do(places, said, monkeypatch):
    """As one of them finds out before it has met the others."""
    ranks, *command = REFUSED[said]
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": ranks, "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "SHORTLY", timedelta(seconds=1))
    done = in_process.run(*(part.format(places["one shard"]) for part in command))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
