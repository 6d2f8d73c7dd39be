"""`compute`: FLOPs against torch's counter and by hand, training, and the speed of generating."""

import json

import pytest
import torch
from cached import run_with_cache
from checkpoints import TINY, TINY_MOE
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import run
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DynamicCache,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

import llamainspect as li
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.compute import parse_tokens
from llamainspect.errors import InvalidRequest


def ask(model="llama-3.1-8b", gpu=None, **work):
    gpus = None if gpu is None else li.parse_gpus(gpu)
    return li.estimate_compute(li.find_subject(model), li.Work(gpus=gpus, **work))


def configured(directory, params):
    (directory / "params.json").write_text(json.dumps(params))
    return str(directory)


# --- one token ------------------------------------------------------------------------------------


def flops_of_token(model, config, position):
    """What torch counts while the token at `position` (from 1) passes, by kind of product."""
    cache = DynamicCache(config=config)
    with torch.no_grad():
        if position > 1:
            run_with_cache(model, torch.zeros(1, position - 1, dtype=torch.long), cache)
        with FlopCounterMode(display=False) as counter:
            run_with_cache(model, torch.zeros(1, 1, dtype=torch.long), cache)
    counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    assert set(counts) <= {"aten.mm", "aten.bmm"}
    return counts


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("context", [1, 7, 40])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 4, 16), (4, 2, 16), (4, 1, 24)], ids=str
)
def test_a_forward_pass_is_what_torch_counts(tmp_path, heads, kv_heads, head_dim, context, tied):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=50, tie_word_embeddings=tied,
        attn_implementation="eager",
    )  # fmt: skip
    params = {"dim": 64, "n_layers": 3, "n_heads": heads, "n_kv_heads": kv_heads,
              "head_dim": head_dim, "vocab_size": 50, "multiple_of": 32,
              "ffn_dim_multiplier": 0.5}  # fmt: skip
    counts = flops_of_token(LlamaForCausalLM(config), config, context)  # 96: int(.5 * 170) is 85
    report = ask(configured(tmp_path, params), context=context)
    assert report.matmul_flops_per_token == counts["aten.mm"]
    assert report.attention_flops_per_token == counts["aten.bmm"]
    assert report.forward_flops_per_token == counts["aten.mm"] + counts["aten.bmm"]


MOE = {"dim": 64, "n_layers": 8, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50,
       "multiple_of": 32, "attention_chunk_size": 16, "nope_layer_interval": 4,
       "moe_args": {"num_experts": 4, "top_k": 1, "interleave_moe_layer_step": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def llama_4():
    config = Llama4TextConfig(
        hidden_size=64, intermediate_size=96, intermediate_size_mlp=192, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=50,
        num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2,
        attention_chunk_size=16, attn_implementation="eager",
    )  # fmt: skip
    return Llama4ForCausalLM(config), config


@pytest.mark.parametrize("context", [5, 16, 17, 40])
def test_a_token_visits_one_expert_and_chunked_layers_look_back_a_chunk(tmp_path, llama_4, context):
    """transformers runs all four experts on every token, so three are taken off its count."""
    counts = flops_of_token(*llama_4, context)
    expert = 2 * 3 * 64 * 96  # int(170 / 2) is 85, up to a multiple of 32
    report = ask(configured(tmp_path, MOE), context=context)
    assert report.forward_flops_per_token == sum(counts.values()) - 4 * 3 * expert
    assert report.attention_flops_per_token == 4 * 64 * (2 * context + 6 * min(context, 16))


def test_the_products_of_8b_are_those_that_were_counted():
    report = ask("llama-3.1-8b", context=8_192)
    assert report.matmul_flops_per_token == 15_009_316_864
    assert report.attention_flops_per_token == 4 * 32 * 4_096 * 8_192
    # 2 * (P - V*h - norms), as the embedding is looked up
    assert report.matmul_flops_per_token == 2 * (8_030_261_248 - 128_256 * 4_096 - 65 * 4_096)


def test_the_output_is_a_product_even_where_it_is_the_embedding():
    report = ask("llama-3.2-1b")
    assert report.matmul_flops_per_token == 2 * (1_235_814_400 - 33 * 2_048)


@pytest.mark.parametrize(
    ("name", "active"),
    [("llama-4-scout-17b-16e", 17_172_894_720), ("llama-4-maverick-17b-128e", 17_184_691_200)],
)
def test_llama_4_computes_with_its_active_parameters(name, active):
    report = ask(name, context=100_000)
    assert report.active_parameters == active
    norms = 97 * 5_120
    assert report.matmul_flops_per_token == 2 * (active - 202_048 * 5_120 - norms)
    assert report.attention_flops_per_token == 4 * 5_120 * (12 * 100_000 + 36 * 8_192)
    assert report.optimal_tokens == 20 * active
    assert report.training_flops == 6 * active * report.tokens


def test_image_encoders_and_cross_attention_are_no_work_for_a_token_of_text():
    vision, text = ask("llama-3.2-11b-vision-instruct"), ask("llama-3.1-8b")
    assert vision.forward_flops_per_token == text.forward_flops_per_token
    assert vision.parameters == 10_670_220_835
    assert vision.symbols["N"] == text.symbols["N"] == 8_030_261_248
    assert vision.optimal_tokens == text.optimal_tokens
    assert [finding.where for finding in vision.findings] == ["images"]


# --- training -------------------------------------------------------------------------------------


def test_training_8b_on_15_trillion_tokens():
    report = ask("llama-3.1-8b", "h100", tokens=15 * 10**12, mfu=0.4)
    assert report.training_flops == 6 * 8_030_261_248 * 15 * 10**12
    assert f"{report.training_flops:.3e}" == "7.227e+23"
    assert round(report.petaflop_s_days, 1) == 8_364.9
    assert round(report.gpu_hours) == 507_217
    assert report.tokens_per_parameter == pytest.approx(1867.93, abs=0.01)
    assert report.optimal_tokens == 20 * 8_030_261_248  # 160.6e9
    assert report.optimal_flops == 120 * 8_030_261_248**2
    assert f"{report.optimal_flops:.2e}" == "7.74e+21"
    by_operation = 3 * 15 * 10**12 * (15_009_316_864 + 2 * 32 * 4_096 * 8_192)
    assert report.training_flops_by_operation == by_operation


def test_training_405b_through_the_command_line():
    arguments = ["llama-3.1-405b", "--tokens", "15.6T", "--gpu", "h100:16384", "--mfu", "0.38"]
    answer = json.loads(run("compute", *arguments, "--json").stdout)
    assert f"{answer['training_flops']:.3e}" == "3.799e+25"
    assert (answer["tokens"], answer["tokens_from"]) == (15_600_000_000_000, "--tokens")
    hours = 6 * 405_853_388_800 * 15.6e12 / (0.38 * 989.5e12) / 3600
    assert answer["gpu_hours"] == pytest.approx(hours, rel=1e-12)
    assert (answer["gpu"], answer["gpus"], answer["mfu"]) == ("h100", 16_384, 0.38)


@pytest.mark.parametrize(
    ("name", "tokens", "card"),
    [
        ("llama-3.1-405b", 156 * 10**11, "arXiv 2407.21783"),
        ("llama-2-70b", 2 * 10**12, "llama2/MODEL_CARD.md"),
        ("llama-4-scout-17b-16e", 40 * 10**12, "llama4/MODEL_CARD.md"),
        ("llama-4-maverick-17b-128e-instruct:fp8", 22 * 10**12, "llama4/MODEL_CARD.md"),
        ("llama-3.2-1b", 9 * 10**12, "llama3_2/MODEL_CARD.md"),
        ("llama-1-7b", 10**12, ""),
        ("llama-1-65b", 14 * 10**11, ""),
    ],
)
def test_tokens_are_those_of_the_model_card_or_the_paper(name, tokens, card):
    report = ask(name)
    assert report.tokens == tokens
    assert card in report.tokens_from
    assert report.tokens_from


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=lambda model: model.id)
def test_every_release_has_an_estimate(model):
    report = ask(model.id)
    (row,) = li.list_models(model.id).models
    assert report.active_parameters == row.active_parameters
    assert report.parameters == row.parameters
    n = row.active_parameters or row.parameters
    if any(finding.where == "images" for finding in report.findings) and not model.config.moe:
        n = report.symbols["N"]  # without image encoder and cross-attention
        assert n < row.parameters
    assert report.tokens == (row.training_tokens or 20 * n)
    assert report.training_flops == 6 * n * report.tokens
    assert report.petaflop_s_days == pytest.approx(6 * n * report.tokens / 8.64e19, rel=1e-12)
    assert report.gpu_hours == pytest.approx(
        6 * n * report.tokens / (0.4 * 989.5e12) / 3600, rel=1e-12
    )
    assert json.loads(li.to_json(report), parse_constant=pytest.fail)["model"] == model.id


def test_a_model_of_one_s_own_is_trained_as_long_as_is_optimal(tmp_path):
    report = ask(configured(tmp_path, TINY))
    assert report.tokens == report.optimal_tokens == 20 * report.parameters
    assert report.training_flops == report.optimal_flops
    assert report.tokens_per_parameter == 20


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("15T", 15 * 10**12), ("15t", 15 * 10**12), ("15.6T", 15_600_000_000_000),
        ("15e12", 15 * 10**12), ("1.5e13", 15 * 10**12), ("15_000_000", 15 * 10**6),
        ("15,000,000", 15 * 10**6), ("300B", 300 * 10**9), ("2m", 2 * 10**6), ("7K", 7_000),
        (" 1 ", 1), ("1", 1), ("1e18", 10**18), ("0.1T", 10**11), ("1000000T", 10**18),
        ("1.4T", 1_400_000_000_000), ("2.3b", 2_300_000_000),
    ],
)  # fmt: skip
def test_tokens_in_many_spellings(text, tokens):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize(
    "text",
    ["", " ", "T", "0", "0T", "-1", "-15T", "nan", "inf", "-inf", "1e19", "1e400", "x", "15TT",
     "15 Tokens", "0.4", "1e18T", "0x10", "1/2", "15Q"],
)  # fmt: skip
def test_tokens_that_are_no_number_are_refused(text):
    with pytest.raises(InvalidRequest, match="--tokens") as caught:
        parse_tokens(text)
    assert "\n" not in str(caught.value)


# --- generating -----------------------------------------------------------------------------------


def test_generating_reads_every_weight_but_the_embedding_and_the_cache():
    report = ask("llama-3.1-8b", "rtx-4090", context=8_192)
    rows = {row.dtype: row for row in report.decoding}
    assert list(rows) == ["fp32", "bf16", "fp8", "int8", "int4"]
    embedding, cache = 128_256 * 4_096, 131_072 * 8_192
    weights = {
        "fp32": 4 * (8_030_261_248 - embedding),
        "bf16": 2 * (8_030_261_248 - embedding),
        "int8": 9_086_705_664 - 2 * embedding,
        "int4": 5_727_854_592 - 2 * embedding,
    }
    for dtype, nbytes in weights.items():
        kv_cache = cache * (2 if dtype == "fp32" else 1)
        assert rows[dtype][1:4] == (nbytes, kv_cache, nbytes + kv_cache)
        speed = 1_008e9 / (nbytes + kv_cache)
        assert rows[dtype].tokens_per_second == pytest.approx(speed, rel=1e-12)


def test_generating_with_one_form_and_several_gpus():
    (row,) = ask("llama-3.1-8b", "h100:8", dtype="nf4", context=100).decoding
    assert row.dtype == "nf4"
    assert row.weights == 5_702_295_552 - 2 * 128_256 * 4_096
    speed = 8 * 3_350e9 / (row.weights + 131_072 * 100)
    assert row.tokens_per_second == pytest.approx(speed, rel=1e-12)


def test_a_tied_output_is_read_as_the_output():
    (row,) = ask("llama-3.2-1b", dtype="bf16").decoding
    assert row.weights == 2 * 1_235_814_400


def test_generating_with_experts_reads_those_that_are_visited(tmp_path):
    (row,) = ask(configured(tmp_path, TINY_MOE), dtype="bf16", context=10).decoding
    total = 2 * 128 * 64 + 64 + 4 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64) + 3 * 224 * 64
    total += 64 * 4 + 5 * (3 * 128 * 64)  # router, 4 experts and the shared one
    assert row.weights == 2 * (total - 128 * 64 - 3 * (3 * 128 * 64))
    assert row.kv_cache == 2 * 2 * 2 * 16 * 2 * 10
    (row,) = ask("llama-4-scout-17b-16e", dtype="bf16", context=10).decoding
    assert row.weights == 2 * (17_172_894_720 - 202_048 * 5_120)


# --- what is asked --------------------------------------------------------------------------------

MODELS = st.sampled_from(["llama-3.2-1b", "llama-3.1-405b", "llama-4-scout-17b-16e", "llama-1-7b"])


@given(MODELS, st.integers(1, 10**12 - 1), st.integers(1, 10**18), st.floats(0.001, 1))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_longer_contexts_and_more_tokens_cost_more(name, context, tokens, mfu):
    report = ask(name, context=context, tokens=tokens, mfu=mfu)
    longer = ask(name, context=context + 1, tokens=tokens, mfu=mfu)
    assert longer.attention_flops_per_token > report.attention_flops_per_token
    assert longer.matmul_flops_per_token == report.matmul_flops_per_token
    assert longer.training_flops == report.training_flops
    assert longer.training_flops_by_operation >= report.training_flops_by_operation
    for short, long in zip(report.decoding, longer.decoding, strict=True):
        assert long.nbytes_per_token > short.nbytes_per_token
        assert long.tokens_per_second <= short.tokens_per_second
    json.loads(li.to_json(report), parse_constant=pytest.fail)


def test_defaults_and_contexts_beyond_the_model_s():
    assert ask("llama-3.1-8b").context == 8_192
    assert ask("llama-1-7b").context == 2_048
    report = ask("llama-1-7b", context=4_096)
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert report.attention_flops_per_token == 4 * 32 * 4_096 * 4_096


def test_json_equals_the_library(tiny):
    arguments = ["--context", "9", "--tokens", "2M", "--gpu", "l4:3", "--mfu", "0.5"]
    done = run("compute", tiny, *arguments, "--dtype", "int8", "--json")
    report = ask(str(tiny), "l4:3", context=9, tokens=2_000_000, mfu=0.5, dtype="int8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{li.to_json(report)}\n"


@pytest.mark.parametrize(
    "work",
    [{"context": 0}, {"context": -1}, {"context": 10**13}, {"mfu": 0.0}, {"mfu": -0.1},
     {"mfu": 1.01}, {"mfu": float("nan")}, {"mfu": float("inf")}],
    ids=str,
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(work):
    with pytest.raises(InvalidRequest, match=r"^--"):
        ask("llama-3.2-1b", **work)


@pytest.mark.parametrize(
    "arguments",
    [["--tokens", "many"], ["--tokens", "0"], ["--mfu", "2"], ["--context", "0"],
     ["--gpu", "h101"], ["--gpu", "a100"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_question_gets_one_sentence_and_exit_2(arguments):
    done = run("compute", "llama-3.2-1b", *arguments, "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"llamainspect: {arguments[0]} ")


def test_no_more_gpus_share_a_sequence_than_heads_allow():
    """8B: 32 at most, and beyond 8 each of them reads one KV head that others read too."""
    many, most = ask("llama-3.1-8b", "h100:1024"), ask("llama-3.1-8b", "h100:32")
    assert [row.gpus for row in many.decoding] == [32] * 5
    assert many.decoding == most.decoding
    (row,) = ask("llama-3.1-8b", "h100:32", dtype="bf16", context=1_000).decoding
    seconds = (row.weights / 32 + row.kv_cache / 8) / 3_350e9
    assert row.tokens_per_second == pytest.approx(1 / seconds)
