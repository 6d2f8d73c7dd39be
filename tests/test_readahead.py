"""Reading ahead: the bytes of weights in order, within bounds, and memory used again."""

import time
from contextlib import suppress

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, cut, dense_shapes, random_weights, write_native

from llamainspect.checkpoint import open_checkpoint
from llamainspect.errors import CorruptFile
from llamainspect.model.load import join
from llamainspect.readahead import (
    ReadAhead,
    nbytes_of,
    output_blocks,
    read_parts,
    rows_of,
    start_reading,
)

WEIGHTS = random_weights(dense_shapes(TINY, TINY_HIDDEN))


@pytest.fixture(params=[(1, 0), (2, 0), (2, 1), (4, 1)], ids="{0[0]} shards, axis {0[1]}".format)
def checkpoint(request, tmp_path):
    ranks, axis = request.param
    return open_checkpoint(
        str(write_native(tmp_path / "c", TINY, cut(WEIGHTS, ranks, embedding_axis=axis)))
    )


def test_weights_come_whole_from_any_number_of_shards(checkpoint):
    for name, expected in WEIGHTS.items():
        weight = checkpoint.weights[name]
        assert torch.equal(join(weight, read_parts(checkpoint, weight)), expected), name


@pytest.mark.parametrize("name", ["tok_embeddings.weight", "output.weight"])
@pytest.mark.parametrize(("start", "end"), [(0, 1), (31, 33), (63, 65), (5, 128), (127, 128)])
def test_rows_of_a_matrix(checkpoint, name, start, end):
    rows = rows_of(checkpoint.weights[name], start, end)
    assert rows.shape == (end - start, 64)
    assert nbytes_of(rows) == (end - start) * 64 * 2
    assert torch.equal(join(rows, read_parts(checkpoint, rows)), WEIGHTS[name][start:end])


def test_rows_of_a_matrix_with_strides(tmp_path):
    matrix = WEIGHTS["output.weight"].t().contiguous().t()  # columns one after another
    path = write_native(tmp_path / "t", TINY, [WEIGHTS | {"output.weight": matrix}])
    checkpoint = open_checkpoint(str(path))
    weight = checkpoint.weights["output.weight"]
    assert weight.parts[0].strides == (1, 128)
    rows = rows_of(weight, 7, 30)
    assert torch.equal(join(rows, read_parts(checkpoint, rows)), WEIGHTS["output.weight"][7:30])


def test_the_output_is_cut_without_a_gap(checkpoint, monkeypatch):
    monkeypatch.setattr("llamainspect.readahead.ROWS_MULTIPLE", 24)
    monkeypatch.setattr("llamainspect.readahead.BLOCK_ELEMENTS", 50 * 64)
    blocks = output_blocks(checkpoint)
    assert [block.shape[0] for block in blocks] == [48, 48, 32]
    pieces = [join(block, read_parts(checkpoint, block)) for block in blocks]
    assert torch.equal(torch.cat(pieces), WEIGHTS["output.weight"])


def test_no_more_is_read_than_was_allowed(checkpoint):
    weights = list(checkpoint.weights.values())
    limit = 3 * nbytes_of(weights[1])
    with ReadAhead(checkpoint, weights, limit) as ahead:
        most = 0
        for weight in weights:
            deadline = time.monotonic() + 0.02
            while time.monotonic() < deadline:
                most = max(most, ahead._waiting)
            ahead.take(weight)
        assert ahead._waiting == 0
    largest = max(map(nbytes_of, weights))
    assert 0 < most <= max(limit, largest)


def test_memory_is_used_again_while_there_is_use_for_it(checkpoint):
    equal = [w for n, w in checkpoint.weights.items() if n.endswith((".w1.weight", ".w3.weight"))]
    assert len(equal) == 4

    def places(parts):
        return {id(part.data.obj) for part in parts}

    with ReadAhead(checkpoint, equal, 1) as ahead:  # the next is begun when the last was taken
        first = ahead.take(equal[0])
        ahead.give_back(first)
        second = ahead.take(equal[1])
        third = ahead.take(equal[2])
        assert places(first) in (places(second), places(third))
        assert not places(second) & places(third)
        fourth = ahead.take(equal[3])
        assert not places(fourth) & (places(first) | places(second) | places(third))
        ahead.give_back(fourth)
        assert not any(ahead._spare.values()), "nothing of that size is to come"


def test_what_reading_met_reaches_the_one_who_waits(tmp_path):
    path = write_native(tmp_path / "c", TINY, [WEIGHTS])
    checkpoint = open_checkpoint(str(path))
    with (path / "consolidated.00.pth").open("r+b") as file:
        file.truncate(30_000)
    weights = list(checkpoint.weights.values())
    with (
        ReadAhead(checkpoint, weights, 10**9) as ahead,
        pytest.raises(CorruptFile, match=r"consolidated\.00\.pth"),
    ):
        [ahead.take(weight) for weight in weights]


def test_whoever_leaves_early_leaves_no_thread(checkpoint):
    ahead = start_reading(checkpoint)
    with suppress(KeyboardInterrupt), ahead:
        ahead.take(checkpoint.weights["layers.0.attention_norm.weight"])
        raise KeyboardInterrupt
    assert not ahead._thread.is_alive()
    with pytest.raises(RuntimeError, match="a reader that is closed"):
        ahead.take(checkpoint.weights["norm.weight"])
    assert not ahead._read


def test_a_weight_that_nobody_reads_is_not_waited_for(checkpoint):
    with start_reading(checkpoint) as ahead, pytest.raises(KeyError, match="is not among"):
        ahead.take(checkpoint.weights["tok_embeddings.weight"])
