"""The catalog as a table and as cards."""

import json

import pytest
from test_cli import in_terminal, run

import llamainspect as li
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.errors import InvalidRequest


def only(name):
    report = li.list_models(name)
    assert report.card
    (row,) = report.models
    return row


def test_all_releases_are_listed_in_the_order_of_the_catalog():
    report = li.list_models()
    assert [row.id for row in report.models] == [model.id for model in OFFICIAL_MODELS]
    assert (report.card, report.count) == (False, len(OFFICIAL_MODELS))


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),  # though it is part of other ids
        ("LLAMA-3.1-8B", "llama-3.1-8b"),
        ("Llama3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b-instruct"),
        ("llama-3.1-405b:fp8", "llama-3.1-405b:fp8"),
        ("spinquant*3b", None),
    ],
)
def test_a_name_gives_one_card(name, id):
    if id is None:
        with pytest.raises(InvalidRequest):
            li.list_models(name)
    else:
        assert only(name).id == id


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        ("scout", ["llama-4-scout-17b-16e", "llama-4-scout-17b-16e-instruct"]),
        ("llama-1-*", ["llama-1-7b", "llama-1-13b", "llama-1-30b", "llama-1-65b"]),
        ("PurpleLlama", None),
    ],
)
def test_a_part_of_a_name_gives_some(filter, ids):
    if ids is None:
        with pytest.raises(InvalidRequest, match="no official model is called so; "):
            li.list_models(filter)
    else:
        assert [row.id for row in li.list_models(filter).models] == ids


def test_a_row_says_what_is_published():
    row = only("llama-3.1-8b")
    assert (row.parameters, row.active_parameters) == (8_030_261_248, None)
    assert (row.n_layers, row.n_heads, row.n_kv_heads, row.head_dim) == (32, 32, 8, 128)
    assert (row.dim, row.hidden_dim, row.vocab_size) == (4096, 14336, 128_256)
    assert (row.context_length, row.shards, row.nbytes) == (131_072, 1, 16_060_617_592)
    assert (row.released, row.knowledge_cutoff) == ("2024-07-23", "2023-12")
    assert (row.training_tokens, row.training_tokens_bound) == (15 * 10**12, "more than")
    assert len(row.languages) == 8


def test_experts_that_a_token_does_not_visit_are_not_active():
    """17B is in the models' names; embedding and output count, the image encoder does not."""
    for name in ("llama-4-scout-17b-16e", "llama-4-maverick-17b-128e"):
        row = only(name)
        # attention and both norms, then the routed and the shared expert or the dense layer
        layer = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 2 * 5120
        moe = 2 * 3 * 5120 * 8192 + 5120 * (16 if "scout" in name else 128)
        dense = 3 * 5120 * 16384
        layers = 48 * moe if "scout" in name else 24 * moe + 24 * dense
        assert row.active_parameters == 48 * layer + layers + 5120 + 2 * 202_048 * 5120


def test_repeated_kv_heads_count_once():
    row = only("llama-3.1-405b:bf16-mp16")
    assert (row.parameters, row.n_kv_heads, row.shards) == (405_853_388_800, 8, 16)
    assert row.nbytes == 16 * 51_268_302_389


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=lambda model: model.id)
def test_every_cell_has_a_source_or_is_blank(model):
    row = next(row for row in li.list_models().models if row.id == model.id)
    without = {"id", "repository", "tied_output", "form", "training_tokens_bound", "sources"}
    for field, value in row._asdict().items():
        if field not in without:
            assert bool(row.sources.get(field)) == (value not in (None, ())), field


def test_json_equals_the_library():
    for arguments in ([], ["scout"], ["llama-3.2-1b"]):
        done = run("models", *arguments, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == li.to_json(li.list_models(*arguments)) + "\n"
    assert json.loads(done.stdout)["models"][0]["tied_output"] is True


def test_an_unknown_name_exits_2_and_names_the_nearest():
    done = run("models", "llama-3.1-9b")
    assert (done.returncode, done.stdout) == (2, "")
    assert "llama-3.1-8b" in done.stderr


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_names_and_parameters_are_there_at_any_width(columns):
    output = in_terminal("models", "405b:fp8", "--no-color", columns=columns)
    assert max(map(len, output.splitlines())) <= columns
    assert "405,853,388,800" in "".join(output.split())
    output = in_terminal("models", "llama-3.1-405b*", "--no-color", columns=columns)
    assert max(map(len, output.splitlines())) <= columns
    assert "llama-3.1-405b" in output


def test_no_heavy_package_is_loaded_for_the_catalog():
    from test_house import loaded_after

    loaded = loaded_after("import llamainspect as li\nprint(li.to_json(li.list_models()))")
    assert not loaded & {"numpy", "torch", "rich", "tiktoken", "sentencepiece", "zipfile"}
