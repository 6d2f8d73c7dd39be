"""`memory`: reference values, the verdict for GPUs, and what cannot be asked."""

import json
import re
import subprocess
import sys
from math import ceil

import pytest
import torch
from checkpoints import TINY, TINY_HIDDEN, TINY_PARAMETERS, dense_shapes, write_native
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import run
from test_house import loaded_after

import llamainspect as li
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.errors import InvalidRequest
from llamainspect.gpus import GPUS, Gpus

MIB, GIB = 2**20, 2**30
CUDA_CONTEXT = GIB  # of the 0.5 to 1.3 GB that are reported
IDS = [model.id for model in OFFICIAL_MODELS]


def ask(model="llama-3.1-8b", gpu=None, plan=None, **usage):
    gpus = None if gpu is None else li.parse_gpus(gpu)
    return li.estimate_memory(li.find_subject(model), li.Usage(**usage), plan, gpus)


def train(model="llama-3.1-8b", gpu=None, context=None, batch=1, **options):
    return ask(model, gpu, li.TrainingPlan(**options), context=context, batch=batch)


# --- reference values -----------------------------------------------------------------------------

WEIGHTS_8B = {
    "fp32": 32_121_044_992,
    "bf16": 16_060_522_496,
    "fp16": 16_060_522_496,
    "int8": 9_086_705_664,
    "nf4": 5_702_295_552,
    "int4": 5_727_854_592,
}


@pytest.mark.parametrize("dtype", WEIGHTS_8B)
def test_the_weights_of_8b_are_those_that_were_measured(dtype):
    report = ask(dtype=dtype)
    assert report.parameters == 8_030_261_248
    assert report.weights == {dtype: WEIGHTS_8B[dtype]}
    assert report.inference.weights == WEIGHTS_8B[dtype]


def test_reference_values_through_the_command_line():
    arguments = ["llama-3.1-8b", "--dtype", "nf4", "--context", "131072", "--json"]
    answer = json.loads(run("memory", *arguments).stdout)
    assert (answer["report"], answer["ok"], answer["dtype"]) == ("memory", True, "nf4")
    assert answer["inference"]["weights"] == WEIGHTS_8B["nf4"]
    assert answer["inference"]["kv_cache"] == 17_179_869_184
    answer = json.loads(run("memory", "llama-3-8b", "--json").stdout)
    rows = {row["dtype"]: row["weights"] for row in answer["table"]}
    assert rows == answer["weights"]
    assert {name: rows[name] for name in ("fp32", "bf16", "int8", "int4")} == {
        name: WEIGHTS_8B[name] for name in ("fp32", "bf16", "int8", "int4")
    }
    arguments = ["llama-3.1-8b", "--training", "full", "--checkpointing", "--json"]
    training = json.loads(run("memory", *arguments).stdout)["training"]
    assert (training["states"], training["peak"]) == (64_242_089_984, 64_784_203_776)


def test_the_kv_cache_of_8b_is_that_of_a_real_cache():
    assert ask(context=8_192).inference.kv_cache == 1_073_741_824
    assert ask(context=131_072).inference.kv_cache == 17_179_869_184
    assert ask(context=8_192, dtype="fp32").inference.kv_cache == 2 * 1_073_741_824
    assert ask(context=8_192, dtype="fp32", kv_dtype="bf16").inference.kv_cache == 1_073_741_824


def test_the_states_of_8b_at_8_16_and_18_bytes_per_parameter():
    assert train().training.states == 64_242_089_984
    assert train(master_copy=True).training.states == 128_484_179_968
    assert train(precision="fp32").training.states == 128_484_179_968
    assert train(precision="autocast").training.states == 128_484_179_968
    assert train(master_copy=True, grad_dtype="fp32").training.states == 144_544_702_464


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_zero_shares_optimizer_then_gradients_then_weights(ranks):
    """16 bytes per parameter: 2 + 2 + 12 (arXiv 1910.02054)."""
    p, n = 8_030_261_248, ranks
    expected = [16 * p, 4 * p + 12 * p // n, 2 * p + 14 * p // n, 16 * p // n]
    for zero, nbytes in enumerate(expected):
        memory = train(master_copy=True, zero=zero, gpus=n).training
        assert memory.states == nbytes
        assert (memory.gathered > 0) == (zero == 3)
    if n == 8:
        assert memory.states == 16_060_522_496
    assert memory.gathered == 2 * 128_256 * 4_096  # the output has more than a layer


def test_lora_adds_rank_times_inputs_and_outputs():
    memory = train(method="lora", rank=16).training
    assert memory.adapter_parameters == memory.trained_parameters == 41_943_040
    assert memory.weights == 16_060_522_496 + 4 * 41_943_040
    assert memory.gradients == 4 * 41_943_040
    assert memory.optimizer == 8 * 41_943_040
    assert memory.states == 16_060_522_496 + 16 * 41_943_040
    in_out = {"wq": 4096 + 4096, "wk": 4096 + 1024, "w2": 14336 + 4096}
    for name, width in in_out.items():
        memory = train(method="lora", rank=5, targets=(name,)).training
        assert memory.adapter_parameters == 32 * 5 * width
    memory = train(method="lora", rank=5, targets=("wk", "w2")).training
    assert memory.adapter_parameters == 32 * 5 * (in_out["wk"] + in_out["w2"])


def test_qlora_packs_the_linears_and_keeps_the_rest_in_fp32():
    kept = 8_030_261_248 - 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    packed = WEIGHTS_8B["nf4"] - 2 * kept
    memory = train(method="qlora", rank=16).training
    assert memory.weights == packed + 4 * kept + 4 * 41_943_040
    assert memory.states == memory.weights + 12 * 41_943_040
    assert memory.weights - 4 * 41_943_040 - WEIGHTS_8B["nf4"] == 2 * kept  # 2.1 GB


def test_8_bit_states_count_blocks_and_leave_small_tensors_alone(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(TINY))
    nbytes = 0
    for shape in dense_shapes(TINY, TINY_HIDDEN).values():
        n = shape[0] * (shape[1] if len(shape) == 2 else 1)
        nbytes += 8 * n if n < 4096 else 2 * n + 2 * 4 * ceil(n / 256)
    memory = train(str(tmp_path), optimizer="adamw-8bit").training
    assert memory.optimizer == nbytes
    assert memory.gradients == 2 * TINY_PARAMETERS
    assert train(str(tmp_path), optimizer="sgd").training.optimizer == 0


def test_the_optimizer_s_step_takes_what_it_copies():
    embedding = 128_256 * 4_096
    for step, nbytes in (("fused", 0), ("foreach", 16_060_522_496), ("for-loop", 4 * embedding)):
        memory = train(step=step, checkpointing=True).training
        assert memory.step == nbytes
        assert memory.step_peak == 64_242_089_984 + nbytes
    # From 64.8 to 80.3 GB.
    assert round(train(step="foreach", checkpointing=True).training.peak / 1e9, 1) == 80.3


def test_the_rule_of_thumb_is_six_times_the_fp32_weights():
    assert train().training.rule_of_thumb == 6 * 4 * 8_030_261_248


MINI_LLAMA = {"dim": 768, "n_layers": 12, "n_heads": 12, "vocab_size": 32000, "multiple_of": 256}


def test_the_parameters_of_a_mini_llama_whose_output_is_tied(tmp_path):
    shapes = dense_shapes(MINI_LLAMA, 2048)  # int(2 * 4*768 / 3) is a multiple of 256 already
    weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    weights["output.weight"] = weights["tok_embeddings.weight"]
    report = ask(str(write_native(tmp_path / "mini", MINI_LLAMA, [weights], sparse=True)))
    assert report.parameters == 109_529_856
    assert report.inference.weights == 2 * 109_529_856


# --- the catalog ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=IDS)
def test_parameters_and_native_size_are_those_that_were_published(model):
    report = ask(model.id)
    assert report.model == model.id
    assert report.parameters == (model.params_unique or model.params_total)
    published = model.pth_nbytes and model.shards and model.pth_nbytes * model.shards
    assert report.stored == published
    assert bool(report.stored_from) == bool(published)
    assert report.tied_output == model.tied_output
    assert json.loads(li.to_json(report))["model"] == model.id


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("llama-4-scout-17b-16e", 108_641_793_536, 17_172_894_720),
        ("llama-4-maverick-17b-128e-instruct:fp8", 401_583_781_376, 17_184_691_200),
        ("llama-guard-4-12b", 12_001_097_216, None),
        ("llama-3.2-90b-vision", 88_593_355_323, None),
        ("llama-3.2-11b-vision", 10_642_941_475, None),
        ("llama-3.2-11b-vision-instruct", 10_670_220_835, None),
        ("llama-3.2-3b", 3_212_749_824, None),
        ("llama-1-30b", 32_528_943_616, None),
    ],
)
def test_total_and_active_parameters(name, total, active):
    report = ask(name)
    assert (report.parameters, report.active_parameters) == (total, active)


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [
        ("llama-1-7b", 13_476_939_516),
        ("llama-3.1-8b", 16_060_617_592),
        ("llama-3.1-405b:bf16-mp8", 811_767_808_360),
        ("llama-3.1-405b:bf16-mp16", 820_292_838_224),
        ("llama-3.1-405b:fp8", 487_229_938_472),
        ("llama-4-maverick-17b-128e", 803_664_947_088),
        ("llama-4-maverick-17b-128e-instruct:fp8", 432_972_397_256),
    ],
)
def test_native_sizes(name, nbytes):
    assert ask(name).stored == nbytes


def test_bytes_on_disk_stand_beside_the_estimate(checkpoint_path):
    report = ask(str(checkpoint_path))
    endings = (".pth", ".safetensors", ".bin")
    files = [file for file in checkpoint_path.iterdir() if file.name.endswith(endings)]
    assert report.stored == sum(file.stat().st_size for file in files)
    assert str(len(files)) in report.stored_from
    assert (report.parameters, report.dtype) == (TINY_PARAMETERS, "bf16")
    assert report.inference.weights == 2 * TINY_PARAMETERS
    assert report.ok
    assert not [f for f in report.findings if f.severity != "note"]


def test_files_that_hold_something_else_are_a_finding(tiny):
    (tiny / "params.json").write_text(json.dumps(TINY | {"n_layers": 3}))
    report = ask(str(tiny))
    messages = [f.message for f in report.findings if f"{TINY_PARAMETERS:,}" in f.message]
    assert len(messages) == 1
    assert report.parameters > TINY_PARAMETERS


# --- parts and their sums -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-4-scout-17b-16e", "llama-3.2-11b-vision"])
def test_the_table_says_of_each_form_what_that_form_alone_says(name):
    report = ask(name, "h100:2", context=5_000, batch=3)
    for row in report.table:
        alone = ask(name, "h100:2", context=5_000, batch=3, dtype=row.dtype)
        assert alone.table == (row,)
        assert alone.inference[:4] == (row.weights, row.kv_cache, row.activations, row.total)
        assert alone.fits == row.fits
    assert report.dtype == "bf16"
    assert report.inference == ask(name, context=5_000, batch=3, dtype="bf16").inference


MODELS = st.sampled_from(
    ["llama-3.2-1b", "llama-3.1-405b:fp8", "llama-4-scout-17b-16e-instruct", "llama-2-7b"]
)
DTYPES = st.sampled_from(["fp32", "bf16", "fp16", "fp8", "int8", "int4", "nf4", "nf4-single", None])
KV_DTYPES = st.sampled_from([None, "fp32", "bf16", "fp8", "q8_0", "q4_0"])
NUMBERS = st.one_of(st.integers(1, 100_000), st.integers(1, 10**12))
METHODS = st.sampled_from(["full", "lora", "qlora"])


@given(MODELS, DTYPES, KV_DTYPES, NUMBERS, NUMBERS, st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_total_is_the_sum_of_its_parts(name, dtype, kv_dtype, context, batch, all_logits):
    usage = {"context": context, "batch": batch, "kv_dtype": kv_dtype, "all_logits": all_logits}
    report = ask(name, "h200:8", dtype=dtype, **usage)
    for row in (*report.table, report.inference):
        assert row.total == row.weights + row.kv_cache + row.activations
    assert report.gpu.needed == sum(report.gpu.parts.values())
    assert report.gpu.left == report.gpu.nbytes - report.gpu.needed
    assert report.fits == report.ok == (report.gpu.left >= 0)
    answer = json.loads(li.to_json(report), parse_constant=pytest.fail)
    assert (answer["context"], answer["batch"]) == (context, batch)
    terms = {term.name: term.value for term in report.terms}
    for row in report.table:
        assert terms[f"total, {row.dtype}"] == row.total
    assert report.inference.kv_cache in [t.value for t in report.terms if t.name == "KV cache"]


@given(MODELS, DTYPES, KV_DTYPES, st.integers(1, 10**6), st.integers(1, 10**3), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_more_context_or_batch_never_takes_less(name, dtype, kv_dtype, context, batch, all_logits):
    usage = {"dtype": dtype, "kv_dtype": kv_dtype, "all_logits": all_logits}
    here, longer, more = (
        ask(name, "h100:4", context=context + c, batch=batch + b, **usage)
        for c, b in ((0, 0), (1, 0), (0, 1))
    )
    for other in (longer, more):
        for before, after in zip(here.table, other.table, strict=True):
            assert after.weights == before.weights
            assert after.kv_cache >= before.kv_cache
            assert after.activations > before.activations
        assert other.gpu.needed > here.gpu.needed


@given(MODELS, METHODS, st.integers(1, 10**5), st.integers(1, 64), st.booleans(),
       st.sampled_from(["flash", "eager"]), st.integers(1, 3), st.integers(1, 8))  # fmt: skip
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_training_peak_is_the_largest_moment_and_grows(
    name, method, context, batch, checkpointing, attention, accumulation, gpus
):
    options = {
        "method": method,
        "checkpointing": checkpointing,
        "attention": attention,
        "accumulation": accumulation,
        "gpus": gpus,
        "zero": 2 if gpus > 1 else 0,
    }
    here, longer, more = (
        train(name, "h100:8" if gpus == 8 else None, context + c, batch + b, **options)
        for c, b in ((0, 0), (1, 0), (0, 1))
    )
    memory = here.training
    assert memory.states == memory.weights + memory.gradients + memory.optimizer + memory.master
    assert memory.peak == max(memory.forward_peak, memory.backward_peak, memory.step_peak)
    assert memory.peak >= memory.states - memory.gradients
    assert memory.peak == sum(memory.parts.values())
    assert memory.peak == getattr(memory, f"{memory.reached_in}_peak")
    assert longer.training.peak >= memory.peak
    assert more.training.peak >= memory.peak
    assert longer.training.states == more.training.states == memory.states
    if here.gpu:
        assert here.gpu.needed == sum(here.gpu.parts.values()) == memory.peak + CUDA_CONTEXT
        assert min(here.gpu.parts.values()) > 0
    json.loads(li.to_json(here), parse_constant=pytest.fail)


# --- GPUs -----------------------------------------------------------------------------------------


def test_what_one_gpu_holds_is_the_model_its_cache_its_prefill_and_cuda():
    report = ask("llama-3.1-8b", "rtx-4090", dtype="bf16", context=8_192)
    prefill = 2 * 8_192 * (4 * 4096 + 3 * 14336)
    assert list(report.gpu.parts.values()) == [
        16_060_522_496, 1_073_741_824, prefill, CUDA_CONTEXT,
    ]  # fmt: skip
    assert report.gpu.nbytes == 24_564 * MIB
    assert report.gpu.left == 24_564 * MIB - 16_060_522_496 - 1_073_741_824 - prefill - GIB
    assert report.fits
    assert (report.gpu.name, report.gpu.number, report.gpu.min_number) == ("rtx-4090", 1, 1)


@pytest.mark.parametrize(("number", "kv_heads"), [(2, 4), (4, 2), (8, 1)], ids=str)
def test_gpus_share_weights_heads_and_hidden_sizes(number, kv_heads):
    """70B has 64 heads of which 8 have keys and values."""
    report = ask("llama-3.3-70b-instruct", f"h100:{number}", context=10_000, batch=2)
    assert list(report.gpu.parts.values()) == [
        ceil(2 * 70_553_706_496 / number),
        2 * 80 * kv_heads * 128 * 2 * 10_000 * 2,
        2 * 20_000 * (4 * 8192 + 3 * 28672 // number),
        CUDA_CONTEXT,
    ]
    assert report.gpu.split == f"tensor parallel {number}"


def test_layers_are_shared_where_that_leaves_more_room():
    """8B on 3 GPUs, which do not divide its heads."""
    report = ask("llama-3.1-8b", "h100:3", context=100)
    end, norm = 128_256 * 4_096 * 2, 4_096 * 2
    blocks = 16_060_522_496 - 2 * end - norm
    assert report.gpu.split == "layers in 3 stages"
    assert list(report.gpu.parts.values()) == [
        ceil(blocks * 11 / 32) + end + norm,
        ceil(2 * 32 * 8 * 128 * 2 * 100 * 11 / 32),
        2 * 100 * (4 * 4096 + 3 * 14336),
        CUDA_CONTEXT,
    ]


def test_more_gpus_never_take_away_what_fewer_had():
    """Where a number has no good split, some are idle: 5 are as good as 4, 17 as 16."""
    for name, kind, usage in (
        ("llama-3.1-405b", "h100", {"context": 131_072}),
        ("llama-4-scout-17b-16e", "rtx-4090", {"dtype": "int4"}),
        ("llama-3.1-8b", "l4", {}),
    ):
        left = [ask(name, f"{kind}:{n}", **usage).gpu.left for n in range(1, 19)]
        assert left == sorted(left)
    assert ask("llama-3.1-8b", "h100:5", context=100).gpu.split == "tensor parallel 4; 1 idle"


def test_the_fullest_stage_counts():
    """Maverick's layers are dense and routed in turn: of two in a row one has the experts."""
    report = ask("llama-4-maverick-17b-128e", "b200:48", context=16_384, dtype="bf16")
    assert report.gpu.split.endswith("layers in 6 stages")  # 8 share a layer
    dense, routed = 314_583_040, 16_295_536_640
    vision = 871_932_416 + 5_120
    weights = 2 * (4 * dense + 4 * routed + 202_048 * 5_120 + vision) / 8
    assert report.gpu.parts["weights"] == pytest.approx(weights, rel=1e-6)


def test_gpus_that_no_split_uses_are_idle():
    """1,000 GPUs: 32 stages of 31 that share a layer would be 992, but 31 divides no head."""
    report = ask("llama-3.1-8b", "h100:1000")
    tensor, stages = re.fullmatch(
        r"tensor parallel (\d+), layers in (\d+) stages; \d+ idle", report.gpu.split
    ).groups()
    assert int(tensor) * int(stages) <= 1000
    assert 32 % int(tensor) == 0


CASES = [
    ("llama-3.1-8b", "rtx-4090", {"dtype": "bf16"}),
    ("llama-3.1-8b", "h100", {"dtype": "fp8", "kv_dtype": "fp8", "context": 131_072}),
    ("llama-3.1-8b", "l4:2", {"dtype": "nf4", "kv_dtype": "q4_0", "batch": 7}),
    ("llama-3.3-70b-instruct", "h100:2", {}),
    ("llama-3.3-70b-instruct", "a100-80:16", {"all_logits": True}),
    ("llama-4-scout-17b-16e", "h200:4", {"context": 100_000}),
    ("llama-4-scout-17b-16e", "h100", {"dtype": "int4"}),
    ("llama-3.1-405b", "mi300x:8", {"dtype": "int4", "group_size": 64}),
    ("llama-3.1-405b", "b200:8", {}),
    ("llama-1-7b", "t4", {"context": 2_048}),
]


def fits(report):
    return report.fits


@pytest.mark.parametrize(("name", "gpu", "usage"), CASES, ids=str)
def test_largest_context_and_batch_are_the_largest(name, gpu, usage):
    report = ask(name, gpu, **usage)
    if not report.fits:
        assert report.gpu.min_number is None or report.gpu.min_number > report.gpu.number
    largest = report.gpu.max_context
    if largest is None:
        assert not fits(ask(name, gpu, **usage | {"context": 1}))
    else:
        assert fits(ask(name, gpu, **usage | {"context": largest}))
        assert not fits(ask(name, gpu, **usage | {"context": largest + 1}))
    assert report.fits == (largest is not None and largest >= report.context)
    largest = report.gpu.max_batch
    if largest is None:
        assert not fits(ask(name, gpu, **usage | {"batch": 1}))
    else:
        assert fits(ask(name, gpu, **usage | {"batch": largest}))
        assert not fits(ask(name, gpu, **usage | {"batch": largest + 1}))
    assert report.fits == (largest is not None and largest >= report.batch)


@pytest.mark.parametrize(("name", "gpu", "usage"), CASES, ids=str)
def test_the_smallest_number_is_the_smallest_that_does(name, gpu, usage):
    kind = gpu.partition(":")[0]
    smallest = ask(name, gpu, **usage).gpu.min_number
    assert smallest is not None
    enough = (n for n in range(1, 200) if fits(ask(name, f"{kind}:{n}", **usage)))
    assert next(enough) == smallest


def test_no_number_of_gpus_is_enough_for_what_none_of_them_shares():
    report = ask("llama-3.1-8b", "t4", context=131_072, batch=16)
    assert not report.fits
    assert report.gpu.min_number is None
    assert "--context" in report.gpu.advice
    report = ask("llama-3.1-405b", "rtx-4090")
    assert (report.gpu.max_context, report.gpu.max_batch) == (None, None)
    report = train("llama-3.1-8b", "rtx-4090")
    assert report.gpu.min_number is None
    assert "--zero 3" in report.gpu.advice
    report = ask("llama-3.1-8b", "l4")
    assert (report.fits, report.gpu.min_number, report.gpu.advice) == (True, 1, None)


def test_a_release_that_is_quantised_is_estimated_in_its_form():
    for name, dtype in (("llama-3.1-405b:fp8", "fp8"), ("llama-guard-3-8b:int8", "int8"),
                        ("llama-guard-3-1b:int4", "int4"), ("llama-3.1-8b", "bf16")):  # fmt: skip
        report = ask(name)
        assert report.dtype == dtype
        alone = ask(name, dtype=dtype)
        assert report.inference == alone.inference
        assert bool(report.findings) == (dtype != "bf16")


TRAININGS = [
    ("llama-3.2-1b", "h100", {}),
    ("llama-3.2-1b", "rtx-4090", {"checkpointing": True, "optimizer": "adamw-8bit"}),
    ("llama-3.1-8b", "a100-40:8", {"zero": 3, "master_copy": True, "checkpointing": True}),
    ("llama-3.1-8b", "a100-40:8", {"zero": 1}),
    ("llama-3.1-8b", "rtx-4090", {"method": "qlora", "attention": "eager"}),
    ("llama-3.1-8b", "l4:4", {"method": "lora", "zero": 3, "accumulation": 4}),
    ("llama-3.1-405b", "b200:64", {"zero": 3, "master_copy": True, "checkpointing": True}),
]


@pytest.mark.parametrize(("name", "gpu", "plan"), TRAININGS, ids=str)
def test_largest_and_smallest_hold_for_training_too(name, gpu, plan):
    kind, _, number = gpu.partition(":")
    plan = {"gpus": int(number or 1)} | plan
    report = train(name, gpu, **plan)
    assert report.gpu.needed == report.training.peak + CUDA_CONTEXT
    for largest, option in ((report.gpu.max_context, "context"), (report.gpu.max_batch, "batch")):
        if largest is None:
            assert not fits(train(name, gpu, **plan | {option: 1}))
        else:
            assert fits(train(name, gpu, **plan | {option: largest}))
            assert not fits(train(name, gpu, **plan | {option: largest + 1}))
    least = report.gpu.min_number
    if least is None:
        assert not report.fits
    elif plan.get("zero"):
        assert fits(train(name, f"{kind}:{least}", **with_ranks(plan, least)))
        if least > 1:
            fewer = least - 1
            assert not fits(train(name, f"{kind}:{fewer}", **with_ranks(plan, fewer)))
    else:
        assert least == 1
        assert report.fits


def with_ranks(plan, ranks):
    return plan | {"gpus": ranks, "zero": plan["zero"] if ranks > 1 else 0}


def test_one_more_byte_than_there_is_does_not_fit():
    needed = ask("llama-3.2-1b", "h100").gpu.needed
    subject = li.find_subject("llama-3.2-1b")
    for nbytes, answer in ((needed, True), (needed - 1, False)):
        gpus = Gpus(GPUS["h100"]._replace(nbytes=nbytes))
        report = li.estimate_memory(subject, gpus=gpus)
        assert (report.fits, report.ok) == (answer, answer)
        assert report.gpu.min_number == (1 if answer else 2)
        assert {row.dtype: row.fits for row in report.table}["bf16"] == answer


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["llama-3.1-8b", "--gpu", "rtx-4090"], 0),
        (["llama-3.1-8b", "--gpu", "rtx-4090", "--dtype", "fp32"], 1),
        (["llama-3.3-70b-instruct", "--gpu", "h100"], 1),
        (["llama-3.3-70b-instruct", "--gpu", "h100:2"], 0),
        (["llama-3.1-8b", "--gpu", "rtx-4090", "--training", "full"], 1),
        (["llama-3.1-8b", "--gpu", "rtx-4090", "--training", "qlora", "--checkpointing"], 0),
        (["llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--training", "full", "--zero", "3"], 0),
    ],
    ids=str,
)
def test_the_exit_code_is_the_verdict(arguments, code):
    done = run("memory", *arguments, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (code, "")
    assert answer["ok"] is answer["fits"] is (code == 0)


# --- what is asked --------------------------------------------------------------------------------


def test_defaults_are_8192_tokens_or_what_the_model_has():
    assert ask("llama-3.1-8b").context == 8_192
    assert ask("llama-1-7b").context == 2_048
    assert train("llama-3.1-8b").context == 2_048
    assert ask("llama-3.1-8b").batch == 1


def test_more_context_than_the_model_has_is_a_finding_and_still_computed():
    report = ask("llama-1-7b", context=2_049)
    assert [f.severity for f in report.findings] == ["warning"]
    assert report.inference.kv_cache == 524_288 * 2_049
    assert report.ok
    assert not ask("llama-1-7b", context=2_048).findings


def test_json_equals_the_library(tiny2):
    plan = li.TrainingPlan("lora", rank=4, targets=("wq", "wv"))
    for arguments, report in (
        ([], ask(str(tiny2))),
        (["--dtype", "int4", "--group-size", "32", "--quantize-embeddings", "--batch", "3"],
         ask(str(tiny2), dtype="int4", group_size=32, quantize_embeddings=True, batch=3)),
        (["--kv-dtype", "q8_0", "--context", "99", "--all-logits", "--gpu", "l4:2"],
         ask(str(tiny2), "l4:2", kv_dtype="q8_0", context=99, all_logits=True)),
        (["--training", "lora", "--rank", "4", "--targets", "q_proj,wv"],
         ask(str(tiny2), plan=plan)),
    ):  # fmt: skip
        done = run("memory", tiny2, *arguments, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{li.to_json(report)}\n"


@pytest.mark.parametrize(
    "usage",
    [
        {"context": 0}, {"context": -1}, {"context": 10**12 + 1}, {"context": 10**30},
        {"batch": 0}, {"batch": -7}, {"batch": 10**13},
        {"dtype": "int4", "group_size": 0}, {"dtype": "int4", "group_size": -64},
        {"dtype": "int4", "group_size": 10**13},
        {"dtype": "bf16", "group_size": 64}, {"dtype": "fp32", "group_size": 64},
        {"dtype": "bf16", "quantize_embeddings": True},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(usage):
    with pytest.raises(InvalidRequest, match=r"^--") as caught:
        ask("llama-3.2-1b", **usage)
    assert "\n" not in str(caught.value)


def test_the_largest_numbers_are_answered():
    most = 10**12
    report = ask("llama-3.1-8b", context=most, batch=most, dtype="int8", group_size=most)
    assert report.inference.kv_cache == 131_072 * most * most
    assert json.loads(li.to_json(report))["inference"]["kv_cache"] == 131_072 * most * most


@pytest.mark.parametrize(
    "plan",
    [
        {"method": "qlora", "zero": 3, "gpus": 8}, {"method": "qlora", "precision": "fp32"},
        {"method": "lora", "master_copy": True}, {"precision": "fp32", "master_copy": True},
        {"optimizer": "sgd", "step": "foreach"}, {"optimizer": "adamw-8bit", "step": "for-loop"},
        {"method": "lora", "rank": 0}, {"method": "lora", "rank": 10**6}, {"accumulation": 0},
        {"gpus": 0}, {"gpus": -1}, {"gpus": 10**7}, {"zero": 1}, {"zero": 3, "gpus": 1},
    ],
    ids=str,
)  # fmt: skip
def test_plans_that_cannot_be_are_refused(plan):
    with pytest.raises(InvalidRequest, match=r"^--"):
        train("llama-3.2-1b", **plan)


WRONG = [
    "--context 0", "--context -5", "--context 99999999999999999999", "--batch 0", "--batch -1",
    "--group-size 0 --dtype int4", "--group-size 64 --dtype bf16", "--group-size -1",
    "--quantize-embeddings --dtype fp16",
    "--gpu a100", "--gpu h101", "--gpu h100:0", "--gpu h100:-1", "--gpu h100:x", "--gpu h100:",
    "--gpu h100:1000001", "--gpu h100:2 --gpus 4 --training full", "--gpus 8", "--zero 1",
    "--rank 8", "--checkpointing", "--precision bf16",
    "--training full --zero 2", "--training qlora --zero 3 --gpus 4", "--training full --rank 8",
    "--training full --targets wq", "--training full --dtype int8", "--training lora --rank 0",
    "--training lora --targets wz", "--training lora --targets ,", "--training full --gpus 0",
    "--training full --accumulation 0", "--training qlora --precision fp32",
    "--training lora --master-copy", "--training full --optimizer sgd --step foreach",
    "--training full --all-logits", "--training full --kv-dtype bf16",
    "--training full --group-size 4",
]  # fmt: skip


@pytest.fixture(scope="module")
def wrong_answers():
    """Each wrong command line through one process, since starting one costs most of the time."""
    script = (
        "import contextlib, io, json, sys\n"
        "from llamainspect import cli\n"
        "answers = {}\n"
        "for text in json.loads(sys.stdin.read()):\n"
        "    out, err, code = io.StringIO(), io.StringIO(), None\n"
        "    sys.argv = ['llamainspect', 'memory', 'llama-3.2-1b', *text.split(), '--json']\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n"
        "            cli.main()\n"
        "        except SystemExit as end:\n"
        "            code = end.code\n"
        "    answers[text] = code, out.getvalue(), err.getvalue()\n"
        "print(json.dumps(answers))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(WRONG),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_question_gets_one_sentence_and_exit_2(wrong_answers, text):
    code, out, err = wrong_answers[text]
    assert (code, out) == (2, "")
    assert err.startswith("llamainspect: --")
    assert err.count("\n") == 1
    named = [word for word in text.split() if word.startswith("--") and word in err]
    assert named


@pytest.mark.parametrize(
    "arguments",
    [["--dtype", "int3"], ["--zero", "4", "--training", "full"], ["--context", "1.5"],
     ["--training", "some"], ["--batch", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line_exits_2(arguments):
    done = run("memory", "llama-3.2-1b", *arguments, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_checkpoint_without_configuration_exits_3(tmp_path):
    write_native(tmp_path / "x", None, [{"norm.weight": torch.ones(4)}])
    done = run("memory", tmp_path / "x", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "params.json" in done.stderr


HEAVY = {"numpy", "torch", "rich", "tiktoken", "sentencepiece", "safetensors", "zipfile", "pickle"}


@pytest.mark.parametrize(
    "arguments",
    [["memory"], ["memory", "--gpu", "h100:2", "--dtype", "nf4"],
     ["memory", "--training", "lora", "--gpu", "h100"],
     ["compute"], ["compute", "--gpu", "h100:8", "--tokens", "1T"],
     ["explain"], ["explain", "hidden_dim"]],
    ids=" ".join,
)  # fmt: skip
def test_an_answer_as_json_loads_no_heavy_package(tiny, arguments):
    command, *options = arguments
    for model in (str(tiny), "llama-3.1-8b"):
        line = [command, model, *options, "--json"]
        loaded = loaded_after(
            "from llamainspect.cli import app\n"
            "try:\n"
            f"    app({line!r})\n"
            "except SystemExit:\n"
            "    pass"
        )
        assert not loaded & HEAVY
        assert f"llamainspect.{command}" in loaded


def test_a_prompt_may_be_read_in_chunks():
    whole = ask("llama-3.1-8b", context=8_192, batch=4, dtype="bf16").inference
    chunked = ask("llama-3.1-8b", context=8_192, batch=4, dtype="bf16", prefill_chunk=512)
    assert chunked.inference.activations == 2 * 512 * (4 * 4096 + 3 * 14336)
    assert chunked.inference.kv_cache == whole.kv_cache
    assert whole.activations == 64 * chunked.inference.activations
    assert chunked.symbols["T"] == 512
    longer = ask("llama-3.1-8b", context=100, dtype="bf16", prefill_chunk=512)
    assert longer.inference == ask("llama-3.1-8b", context=100, dtype="bf16").inference


def test_ranks_and_groups_that_are_too_long_are_findings():
    def where(**asked):
        return [f.where for f in ask("llama-3.1-8b", **asked).findings if f.severity == "warning"]

    lora = li.TrainingPlan("lora", rank=1_025, targets=("wk",))  # wk has 1,024 rows
    assert where(plan=lora) == ["--rank"]
    assert where(plan=lora._replace(rank=1_024)) == []
    assert where(plan=lora._replace(targets=("wq",))) == []
    assert where(dtype="int4", group_size=14_337) == ["--group-size"]  # w2 has 14,336 columns
    assert where(dtype="int4", group_size=14_336) == []


def test_experts_that_nothing_quantises_get_no_note_about_it():
    def notes(**asked):
        found = ask("llama-4-scout-17b-16e", **asked).findings
        return sum("counted as quantised" in finding.message for finding in found)

    assert (notes(), notes(dtype="int4"), notes(dtype="bf16")) == (1, 1, 0)
    assert (notes(plan=li.TrainingPlan("qlora")), notes(plan=li.TrainingPlan())) == (1, 0)
