"""Joining shards: whole weights, missing and foreign shards, copies, repeated heads."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    cut,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
)

from llamainspect import CorruptFile, NotACheckpoint, open_checkpoint
from llamainspect.arrays import decode, read_elements


def values(checkpoint, name):
    """The whole weight as float32, through the package."""
    weight = checkpoint.weights[name]
    elements, _ = read_elements(checkpoint, weight, tuple(range(n) for n in weight.shape))
    return decode(elements, weight.parts[0]).reshape(weight.shape)


def errors(checkpoint):
    return [f"{f.where}: {f.message}" for f in checkpoint.findings if f.severity == "error"]


def test_every_form_joins_to_the_same_values(checkpoint_path):
    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    checkpoint = open_checkpoint(str(checkpoint_path))
    if checkpoint.format == "meta":  # safetensors sort by dtype and name
        assert list(checkpoint.weights) == list(whole)
    assert checkpoint.weights.keys() == whole.keys()
    assert errors(checkpoint) == []
    for name, tensor in whole.items():
        assert checkpoint.weights[name].shape == tuple(tensor.shape)
        assert (values(checkpoint, name) == tensor.float().numpy()).all(), name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_fused_llama_4_weights_are_joined_piece_by_piece(tmp_path, ranks):
    whole = random_weights(moe_shapes(TINY_MOE))
    shards = cut(whole, ranks, blocks=MOE_BLOCKS)
    checkpoint = open_checkpoint(str(write_native(tmp_path, TINY_MOE, shards)))
    assert errors(checkpoint) == []
    for name, tensor in whole.items():
        assert (values(checkpoint, name) == tensor.float().numpy()).all(), name


@pytest.mark.parametrize("n_kv_heads", [2, 4], ids=["counted once", "counted as stored"])
def test_kv_heads_repeated_over_ranks_count_once(tmp_path, n_kv_heads):
    """4 ranks, 2 KV heads: every rank holds one head, two neighbours the same one."""
    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    stored = {
        name: tensor.view(2, 16, 64).repeat_interleave(2, 0).reshape(64, 64)
        if name.endswith(("wk.weight", "wv.weight"))
        else tensor
        for name, tensor in whole.items()
    }
    params = TINY | {"n_kv_heads": n_kv_heads}
    checkpoint = open_checkpoint(str(write_native(tmp_path, params, cut(stored, 4))))
    weight = checkpoint.weights["layers.0.attention.wk.weight"]
    assert (weight.repeat, weight.shape, weight.stored_elements) == (2, (32, 64), 64 * 64)
    assert errors(checkpoint) == []
    name = "layers.1.attention.wv.weight"
    assert (values(checkpoint, name) == whole[name].float().numpy()).all()


def test_a_missing_shard_is_named(tiny2):
    os.remove(tiny2 / "consolidated.01.pth")
    checkpoint = open_checkpoint(str(tiny2))
    assert checkpoint.shards == 2
    assert errors(checkpoint)[0].startswith(
        "consolidated.01.pth missing: the weights are cut into 2"
    )
    assert checkpoint.weights["output.weight"].shape == (128, 64)
    assert not checkpoint.weights["output.weight"].complete


def test_an_extra_shard_is_named_and_not_counted(tiny2):
    shutil.copy(tiny2 / "consolidated.01.pth", tiny2 / "consolidated.02.pth")
    checkpoint = open_checkpoint(str(tiny2))
    assert errors(checkpoint) == [
        "consolidated.02.pth: too many: the weights are cut into 2 shards and 3 files are there; "
        "these are not counted. They belong to another download, or params.json does"
    ]
    assert checkpoint.weights["output.weight"].shape == (128, 64)
    assert len(checkpoint.weights["output.weight"].parts) == 2


def test_swapped_shards_are_noticed(tiny2):
    first, second = (tiny2 / f"consolidated.0{rank}.pth" for rank in (0, 1))
    first.rename(tiny2 / "first")
    second.rename(first)
    (tiny2 / "first").rename(second)
    found = [f for f in open_checkpoint(str(tiny2)).findings if f.severity == "warning"]
    assert [(f.where, f.message.split(":")[0]) for f in found] == [
        ("consolidated.00.pth", "torch saved it as consolidated.01.pth"),
        ("consolidated.01.pth", "torch saved it as consolidated.00.pth"),
    ]


def test_a_vocabulary_size_that_nothing_tells_is_said_so(tiny):
    weights = torch.load(tiny / "consolidated.00.pth", weights_only=True)
    del weights["tok_embeddings.weight"]
    write_native(tiny, TINY | {"vocab_size": -1}, [weights])
    assert errors(open_checkpoint(str(tiny))) == [
        "params.json: it leaves vocab_size open, and no embedding tells it: shapes are not checked"
    ]


def test_one_unreadable_shard_leaves_the_others(tiny2):
    (tiny2 / "consolidated.01.pth").write_bytes(b"<!DOCTYPE html><html>Access denied</html>")
    checkpoint = open_checkpoint(str(tiny2))
    assert [entry.readable for entry in checkpoint.files] == [True, False]
    assert len(errors(checkpoint)) == 1
    assert "consolidated.01.pth: it is a web page" in errors(checkpoint)[0]


def test_a_shard_of_another_model_is_found_by_its_copies(tiny2, tmp_path):
    other = random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=1)
    torch.save(cut(other, 2)[1], tiny2 / "consolidated.01.pth")
    assert errors(open_checkpoint(str(tiny2))) == [
        f"{name}: several shards keep a copy and the copies differ; shards of two models, or damage"
        for name in (
            "layers.{0-1}.attention_norm.weight",
            "layers.{0-1}.ffn_norm.weight",
            "norm.weight",
        )
    ]


def test_copies_without_a_checksum_are_read_and_compared(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        shards = cut(random_weights(dense_shapes(TINY, TINY_HIDDEN)), 2)
        path = write_native(tmp_path / "same", TINY, shards)
        shards[1]["norm.weight"][5] += 1
        differing = write_native(tmp_path / "differing", TINY, shards)
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_checkpoint(str(path)).findings == ()
    assert [e.split(":")[0] for e in errors(open_checkpoint(str(differing)))] == ["norm.weight"]


def test_a_weight_missing_from_one_shard_is_a_finding(tiny2):
    shard = torch.load(tiny2 / "consolidated.01.pth", weights_only=True)
    del shard["layers.1.attention.wo.weight"]
    torch.save(shard, tiny2 / "consolidated.01.pth")
    assert (
        "consolidated.01.pth: it lacks layers.1.attention.wo.weight, which other shards have"
        in errors(open_checkpoint(str(tiny2)))
    )


def test_dtypes_that_differ_between_shards_are_a_finding(tiny2):
    shard = torch.load(tiny2 / "consolidated.01.pth", weights_only=True)
    shard["output.weight"] = shard["output.weight"].half()
    torch.save(shard, tiny2 / "consolidated.01.pth")
    assert errors(open_checkpoint(str(tiny2))) == [
        "output.weight: its parts have different dtypes in different shards; shards of two models?"
    ]


@pytest.mark.parametrize("axis", [0, 1])
def test_shards_join_without_params_json_where_that_is_certain(tmp_path, axis):
    whole = dense_shapes(TINY | {"vocab_size": 160}, TINY_HIDDEN)
    shards = cut(random_weights(whole), 2, embedding_axis=axis)
    checkpoint = open_checkpoint(str(write_native(tmp_path, None, shards)))
    assert checkpoint.config is None
    assert [f.where for f in checkpoint.findings] == ["params.json"]
    assert {name: weight.shape for name, weight in checkpoint.weights.items()} == whole


def test_a_cut_that_is_not_certain_is_not_guessed(tmp_path):
    """Half of 128 rows is 64, as many as dim: rows and columns look alike."""
    shards = cut(random_weights(dense_shapes(TINY, TINY_HIDDEN)), 2)
    checkpoint = open_checkpoint(str(write_native(tmp_path, None, shards)))
    assert errors(checkpoint)[1:] == [
        f"{name}: cut into 2 parts of shape [64, 64], and without params.json it is not certain "
        "along "
        "which axis; it is counted as one part"
        for name in ("tok_embeddings.weight", "output.weight")
    ]


def test_vocab_size_of_minus_one_comes_from_the_embedding(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    for ranks, axis in ((1, 0), (2, 1), (2, 0)):
        path = tmp_path / f"{ranks}-{axis}"
        params = TINY | {"vocab_size": -1}
        checkpoint = open_checkpoint(
            str(write_native(path, params, cut(weights, ranks, embedding_axis=axis)))
        )
        assert checkpoint.config.vocab_size == 128
        assert checkpoint.findings == ()


def test_a_state_dict_under_a_key_is_unwrapped(tmp_path):
    wrapped = {
        "model": random_weights(dense_shapes(TINY, TINY_HIDDEN)),
        "step": 7,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    checkpoint = open_checkpoint(str(write_native(tmp_path, TINY, [wrapped])))
    assert checkpoint.weights["layers.0.attention.wq.weight"].shape == (64, 64)
    assert checkpoint.weights["optimizer.state.0.exp_avg"].shape == (3,)


def test_a_hub_download_is_found_in_its_original_folder(tmp_path, tiny):
    shutil.move(tiny, tmp_path / "repo" / "original")
    (tmp_path / "repo" / "config.json").write_text("{}")
    assert open_checkpoint(str(tmp_path / "repo")).config.dim == 64


def test_one_file_is_a_checkpoint(tiny):
    checkpoint = open_checkpoint(str(tiny / "consolidated.00.pth"))
    assert checkpoint.config.dim == 64
    assert errors(checkpoint) == []


def test_one_file_of_a_set_is_said_to_be_one(tiny2):
    checkpoint = open_checkpoint(str(tiny2 / "consolidated.01.pth"))
    assert errors(checkpoint)[0].startswith(
        "consolidated.00.pth missing: the weights are cut into 2"
    )


def test_a_single_file_with_another_name_and_no_params_is_only_warned_about(tmp_path, tiny):
    shutil.move(tiny / "consolidated.00.pth", tmp_path / "finetuned.pth")
    checkpoint = open_checkpoint(str(tmp_path / "finetuned.pth"))
    assert [(f.severity, f.where) for f in checkpoint.findings] == [("warning", "params.json")]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "no consolidated.*.pth here or in original/, no model.safetensors; give a directory"),
        (["a.safetensors", "b.safetensors"], "to read a.safetensors, b.safetensors, give the path"),
        (["weights.bin"], "to read weights.bin, give the path of that file"),
    ],
)
def test_a_directory_without_weights_says_what_was_looked_for(tmp_path, files, sentence):
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(NotACheckpoint) as caught:
        open_checkpoint(str(tmp_path))
    assert sentence in str(caught.value)


def test_a_path_that_does_not_exist_is_said_so(tmp_path):
    with pytest.raises(NotACheckpoint, match="it does not exist; give a checkpoint directory"):
        open_checkpoint(str(tmp_path / "nowhere"))


def test_a_file_without_tensors_is_no_checkpoint(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "consolidated.00.pth")
    with pytest.raises(NotACheckpoint, match=r"there is no tensor in consolidated\.00\.pth"):
        open_checkpoint(str(tmp_path))


def test_when_no_file_can_be_read_the_first_error_is_raised(tiny2):
    for rank in (0, 1):
        (tiny2 / f"consolidated.0{rank}.pth").write_bytes(b"")
    with pytest.raises(CorruptFile, match=r"consolidated\.00\.pth: the file is empty"):
        open_checkpoint(str(tiny2))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("{", "it is not valid JSON"),
        ("[1]", "it holds a list where an object belongs"),
        (json.dumps(TINY | {"n_heads": 5}), "n_heads: 5 does not divide dim 64"),
        (json.dumps(TINY | {"n_layers": "2"}), "n_layers: a whole number is needed, it is '2'"),
        (json.dumps(TINY | {"dim": True}), "dim: a whole number is needed, it is True"),
        (json.dumps(TINY | {"norm_eps": float("nan")}), "NaN is not JSON"),
    ],
)
def test_an_unusable_params_json_is_a_finding_and_the_tensors_still_list(tiny, text, sentence):
    (tiny / "params.json").write_text(text)
    checkpoint = open_checkpoint(str(tiny))
    assert sentence in errors(checkpoint)[0]
    assert len(checkpoint.weights) == 21


def test_unknown_keys_are_kept_and_listed(tiny):
    (tiny / "params.json").write_text(json.dumps(TINY | {"surprise": 1, "moe_args": None, "x": []}))
    checkpoint = open_checkpoint(str(tiny))
    assert checkpoint.config.unknown == {"surprise": 1, "x": "…"}
    assert checkpoint.findings[0].message.endswith(": surprise, x")


@pytest.fixture
def tiny4(tmp_path):
    """Four shards, one KV head for every two ranks."""
    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    stored = {
        name: tensor.view(2, 16, 64).repeat_interleave(2, 0).reshape(64, 64)
        if name.endswith(("wk.weight", "wv.weight"))
        else tensor
        for name, tensor in whole.items()
    }
    return write_native(tmp_path / "tiny4", TINY, cut(stored, 4))


def test_a_shard_copied_over_another_is_named(tiny4):
    shutil.copy(tiny4 / "consolidated.03.pth", tiny4 / "consolidated.02.pth")
    found = errors(open_checkpoint(str(tiny4)))
    assert any(e.startswith("consolidated.03.pth: it holds the same weights as") for e in found)


def test_repeated_kv_heads_that_differ_are_an_error(tiny4):
    shard = torch.load(tiny4 / "consolidated.03.pth", weights_only=True)
    shard["layers.0.attention.wk.weight"] += 1
    torch.save(shard, tiny4 / "consolidated.03.pth")
    assert errors(open_checkpoint(str(tiny4))) == [
        "layers.0.attention.wk.weight: several shards keep a copy and the copies differ; shards of "
        "two models, or damage"
    ]


def test_the_one_shard_of_another_model_is_named_and_the_rest_believed(tiny4):
    other = random_weights(dense_shapes(TINY | {"vocab_size": 256}, 256))
    torch.save(cut(other, 4)[0], tiny4 / "consolidated.00.pth")
    checkpoint = open_checkpoint(str(tiny4))
    odd = [e for e in errors(checkpoint) if "other shapes" in e]
    assert len(odd) == 1
    assert odd[0].startswith("consolidated.00.pth: 12 of its 21 tensors have other shapes")
    assert checkpoint.weights["output.weight"].shape == (128, 64)


def test_a_tensor_that_one_shard_alone_has_blames_that_shard(tiny4):
    shard = torch.load(tiny4 / "consolidated.02.pth", weights_only=True)
    torch.save(shard | {"rope.freqs": torch.ones(8)}, tiny4 / "consolidated.02.pth")
    assert errors(open_checkpoint(str(tiny4))) == [
        "consolidated.02.pth: it has rope.freqs, which other shards have not"
    ]


def test_two_files_of_one_rank_are_an_error(tiny2):
    shutil.copy(tiny2 / "consolidated.01.pth", tiny2 / "consolidated.1.pth")
    shutil.copy(tiny2 / "consolidated.01.pth", tiny2 / "consolidated.01 (1).pth")
    checkpoint = open_checkpoint(str(tiny2))
    assert errors(checkpoint) == [
        "consolidated.1.pth: it has the number of consolidated.01.pth, which is read instead; "
        "remove one"
    ]
    warned = [f.where for f in checkpoint.findings if f.severity == "warning"]
    assert warned == ["consolidated.01 (1).pth"]


def test_a_matrix_that_every_shard_holds_whole_is_an_error(tmp_path):
    whole = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    shards = cut(whole, 2)
    for shard in shards:
        shard["layers.0.feed_forward.w1.weight"] = whole["layers.0.feed_forward.w1.weight"]
    found = errors(open_checkpoint(str(write_native(tmp_path, TINY, shards))))
    assert found[0].startswith(
        "layers.0.feed_forward.w1.weight: every one of 2 shards holds it whole, [192, 64]"
    )


def test_a_dangling_link_is_called_that(tmp_path):
    (tmp_path / "consolidated.00.pth").symlink_to("nowhere")
    with pytest.raises(
        NotACheckpoint, match=r"of consolidated\.00\.pth: it is a link to nowhere, w"
    ):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_has_the_name_of_a_shard_and_is_no_file_is_an_error(tmp_path, make):
    """Also where the shapes fit without it."""
    path = write_native(tmp_path, TINY, cut(random_weights(dense_shapes(TINY, TINY_HIDDEN)), 1))
    assert not errors(open_checkpoint(str(path)))
    make(path / "consolidated.01.pth")
    [error] = errors(open_checkpoint(str(path)))
    assert error.startswith("consolidated.01.pth: it is a ")
    assert error.endswith(", so it is not read")


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_extra_shard_with_tensors_of_its_own_leaves_no_trace(tmp_path, ranks):
    shards = cut(random_weights(dense_shapes(TINY, TINY_HIDDEN)), ranks)
    alone = shards[-1] | {"only.here": torch.ones(3), "norm.weight": torch.ones(7)}
    path = write_native(tmp_path, TINY, [*shards, alone])
    checkpoint = open_checkpoint(str(path))
    assert set(checkpoint.weights) == set(shards[0])
    assert checkpoint.weights["norm.weight"].shape == (64,)
    assert any(": too many:" in error for error in errors(checkpoint))
