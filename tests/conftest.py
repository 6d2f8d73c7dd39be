"""Fixtures: the same tiny model in every layout that is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights, write_native
from hub_layout import hub_config, to_hub, write_hub

# What is expected of a run here is what a CPU does, wherever the tests run.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A worker for each core: threads of torch that wait for each other's make everything slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

FORMS: dict[str, Callable[[Path], Path]] = {
    "one shard": lambda path: write_native(path, TINY, [tiny_weights()]),
    "two shards": lambda path: write_native(path, TINY, cut(tiny_weights(), 2)),
    "two shards, embedding cut by columns": lambda path: write_native(
        path, TINY, cut(tiny_weights(), 2, embedding_axis=1)
    ),
}


HUB_FORMS: dict[str, Callable[[Path], Path]] = {
    "safetensors, one file": lambda path: write_tiny_hub(path),
    "safetensors, three files": lambda path: write_tiny_hub(path, shards=3, spelling=4),
    "pytorch_model.bin, two files": lambda path: write_tiny_hub(path, shards=2, kind="bin"),
}


def write_tiny_hub(path: Path, *, spelling: int = 5, **how) -> Path:
    """The tiny model as Hugging Face lays it out."""
    weights = to_hub(tiny_weights(), TINY, TINY_HIDDEN)
    return write_hub(path, weights, hub_config(TINY, TINY_HIDDEN, spelling=spelling), **how)


def tiny_weights():
    return random_weights(dense_shapes(TINY, TINY_HIDDEN))


@pytest.fixture(scope="session", params=FORMS)
def native_path(request, tmp_path_factory) -> Path:
    """The tiny model in one of its native forms; do not write into it."""
    return FORMS[request.param](tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="session", params=[*FORMS, *HUB_FORMS])
def checkpoint_path(request, tmp_path_factory) -> Path:
    """The tiny model in one of all its forms; do not write into it."""
    return (FORMS | HUB_FORMS)[request.param](tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", params=HUB_FORMS)
def hub_path(request, tmp_path_factory) -> Path:
    """The tiny model as Hugging Face lays it out; do not write into it."""
    return HUB_FORMS[request.param](tmp_path_factory.mktemp("hub"))


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The tiny model in one file, in a directory of this test's own."""
    return FORMS["one shard"](tmp_path / "tiny")


@pytest.fixture
def tiny2(tmp_path) -> Path:
    """The tiny model in two shards, in a directory of this test's own."""
    return FORMS["two shards"](tmp_path / "tiny2")
