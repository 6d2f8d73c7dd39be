"""Fixtures: the same tiny model in every layout that is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights, write_native

# What is expected of a run here is what a CPU does, wherever the tests run.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

FORMS: dict[str, Callable[[Path], Path]] = {
    "one shard": lambda path: write_native(path, TINY, [tiny_weights()]),
    "two shards": lambda path: write_native(path, TINY, cut(tiny_weights(), 2)),
    "two shards, embedding cut by columns": lambda path: write_native(
        path, TINY, cut(tiny_weights(), 2, embedding_axis=1)
    ),
}


def tiny_weights():
    return random_weights(dense_shapes(TINY, TINY_HIDDEN))


@pytest.fixture(scope="session", params=FORMS)
def checkpoint_path(request, tmp_path_factory) -> Path:
    """The tiny model in one of its forms; do not write into it."""
    return FORMS[request.param](tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The tiny model in one file, in a directory of this test's own."""
    return FORMS["one shard"](tmp_path / "tiny")


@pytest.fixture
def tiny2(tmp_path) -> Path:
    """The tiny model in two shards, in a directory of this test's own."""
    return FORMS["two shards"](tmp_path / "tiny2")
