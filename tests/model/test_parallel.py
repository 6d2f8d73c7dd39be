"""One model in several processes: the logits are those of one, and each reads its share alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

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

import llamainspect as li
from llamainspect.model.runner import last_hidden

PROGRAM = Path(__file__).parent.parent / "parallel_program.py"
CLOSE = 1e-5  # largest difference of any logit, as a share of their range
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


def torchrun(
    processes: int, *arguments: Any, **settings: Any
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.run(
        [*command, *port, *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: job.write(place / name) for name, job in JOBS.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(request, places, tmp_path_factory) -> tuple[int, dict[str, Any]]:
    """Of every job what so many processes make of it: all jobs in one start, which takes long."""
    out = tmp_path_factory.mktemp("out")
    jobs = [
        {"name": name, "path": str(places[name]), "ids": IDS, "step": job.step,
         "options": {"dtype": "fp32"} | job.options}
        for name, job in JOBS.items()
    ]  # fmt: skip
    (out / "jobs.json").write_text(json.dumps(jobs))
    done = torchrun(request.param, PROGRAM, out / "jobs.json", out)
    assert done.returncode == 0, done.stderr
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
