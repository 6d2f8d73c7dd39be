"""Bytes of weights and KV caches, tensor by tensor, against hand arithmetic and real caches."""

import json
from math import ceil

import pytest
import torch
from cached import run_with_cache
from checkpoints import TINY, TINY_HIDDEN, TINY_MOE, dense_shapes, random_weights, write_native
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DynamicCache,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
)

import llamainspect as li
from llamainspect.footprint import cached_tokens, tensor_splits

# Nothing in it divides by a power of two above 8, so that groups and blocks are left over.
RAGGED = {"dim": 72, "n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "vocab_size": 101,
          "multiple_of": 10, "norm_eps": 1e-5, "rope_theta": 10000.0}  # fmt: skip
RAGGED_HIDDEN = 200  # int(2 * 4*72 / 3) = 192, up to a multiple of 10


def configured(directory, params):
    """A model of which there is nothing but the configuration."""
    (directory / "params.json").write_text(json.dumps(params))
    return li.find_subject(str(directory))


def weights_of(subject, dtype, group=None, ends=False):
    usage = li.Usage(dtype=dtype, group_size=group, quantize_embeddings=ends)
    return li.estimate_memory(subject, usage).inference.weights


def int8(rows, columns):
    return rows * columns + 4 * rows


def int8_groups(rows, columns, group):
    return rows * columns + 2 * rows * ceil(columns / group)


def int4(rows, columns, group=128):
    groups = rows * ceil(columns / group)
    return rows * columns // 2 + ceil(groups * 2.5)


def nf4(rows, columns, block=64):
    blocks = ceil(rows * columns / block)
    return rows * columns // 2 + blocks + 4 * ceil(blocks / 256)


def nf4_single(rows, columns, block=64):
    return rows * columns // 2 + 4 * ceil(rows * columns / block)


FORMS = {
    "int8": (None, int8),
    "fp8": (None, int8),
    "int4": (None, int4),
    "nf4": (None, nf4),
    "nf4-single": (None, nf4_single),
    "int4 by 50": (50, lambda r, c: int4(r, c, 50)),
    "int4 by 1,000": (1000, lambda r, c: int4(r, c, 1000)),
    "int8 by 32": (32, lambda r, c: int8_groups(r, c, 32)),
    "fp8 by 7": (7, lambda r, c: int8_groups(r, c, 7)),
    "nf4 by 100": (100, lambda r, c: nf4(r, c, 100)),
    "nf4-single by 4096": (4096, lambda r, c: nf4_single(r, c, 4096)),
}


def is_linear(name, shape):
    return len(shape) == 2 and ("attention" in name or "feed_forward" in name)


def by_hand(shapes, each, ends=()):
    """Linears of the blocks, and `ends`, in a form; everything else in 16 bits."""
    chosen = {n for n, shape in shapes.items() if is_linear(n, shape) or n in ends}
    return sum(
        each(*shape) if name in chosen else 2 * torch.Size(shape).numel()
        for name, shape in shapes.items()
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("params", "hidden_dim"), [(TINY, TINY_HIDDEN), (RAGGED, RAGGED_HIDDEN)], ids=["tiny", "ragged"]
)
def test_quantised_weights_are_the_sum_over_the_tensors(tmp_path, params, hidden_dim, form):
    group, each = FORMS[form]
    subject, shapes = configured(tmp_path, params), dense_shapes(params, hidden_dim)
    dtype = form.split()[0]
    assert weights_of(subject, dtype, group) == by_hand(shapes, each)
    ends = ("tok_embeddings.weight", "output.weight")
    assert weights_of(subject, dtype, group, ends=True) == by_hand(shapes, each, ends)


@pytest.mark.parametrize("form", FORMS)
def test_a_tied_matrix_is_quantised_once(tmp_path, form):
    group, each = FORMS[form]
    shapes = dense_shapes(TINY, TINY_HIDDEN)
    weights = random_weights(shapes)
    weights["output.weight"] = weights["tok_embeddings.weight"]
    subject = li.find_subject(str(write_native(tmp_path / "tied", TINY, [weights])))
    del shapes["output.weight"]
    dtype = form.split()[0]
    assert weights_of(subject, dtype, group) == by_hand(shapes, each)
    ends = ("tok_embeddings.weight",)
    assert weights_of(subject, dtype, group, ends=True) == by_hand(shapes, each, ends)
    assert weights_of(subject, "fp32") == 4 * sum(torch.Size(s).numel() for s in shapes.values())


def split_moe_shapes():
    """TINY_MOE with each expert and each projection a matrix of its own, outputs by inputs."""
    shapes = {"tok_embeddings.weight": (128, 64), "output.weight": (128, 64), "norm.weight": (64,)}
    for layer in (0, 1):
        p = f"layers.{layer}."
        shapes |= {f"{p}norm1": (64,), f"{p}norm2": (64,)}
        shapes |= {f"{p}attention.{name}": (64, 64) for name in ("wq", "wo")}
        shapes |= {f"{p}attention.{name}": (32, 64) for name in ("wk", "wv")}
    for name in ("w1", "w3"):
        shapes[f"layers.0.feed_forward.{name}"] = (224, 64)
    shapes["layers.0.feed_forward.w2"] = (64, 224)
    for expert in ("0", "1", "2", "3", "shared"):
        for name in ("w1", "w3"):
            shapes[f"layers.1.feed_forward.{expert}.{name}"] = (128, 64)
        shapes[f"layers.1.feed_forward.{expert}.w2"] = (64, 128)
    return shapes | {"layers.1.router": (64, 4)}


@pytest.mark.parametrize("form", FORMS)
def test_experts_are_quantised_one_by_one_and_the_router_is_not(tmp_path, form):
    group, each = FORMS[form]
    subject, shapes = configured(tmp_path, TINY_MOE), split_moe_shapes()
    assert weights_of(subject, form.split()[0], group) == by_hand(shapes, each)
    report = li.estimate_memory(subject)
    assert report.parameters == sum(torch.Size(shape).numel() for shape in shapes.values())
    assert report.active_parameters == report.parameters - 3 * (3 * 128 * 64)  # of 4 experts one


MODELS = {
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                     "head_dim": 64, "tie_word_embeddings": True},
    "codellama-34b": {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 48,
                      "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_bitsandbytes_would_replace_in_transformers_is_what_is_quantised(name):
    """It replaces every torch.nn.Linear but lm_head."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**MODELS[name]))
    linears = [
        tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and path != "lm_head"
    ]
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    kept = 2 * (total - sum(rows * columns for rows, columns in linears))
    subject = li.find_subject(name)
    assert li.estimate_memory(subject).parameters == total
    for dtype, each in (("int8", int8), ("nf4", nf4), ("nf4-single", nf4_single), ("int4", int4)):
        assert weights_of(subject, dtype) == kept + sum(each(*shape) for shape in linears)


def test_the_naive_number_is_every_parameter_at_that_width(tmp_path):
    subject = configured(tmp_path, RAGGED)
    total = sum(torch.Size(shape).numel() for shape in dense_shapes(RAGGED, RAGGED_HIDDEN).values())
    rows = {row.dtype: row for row in li.estimate_memory(subject).table}
    assert list(rows) == ["fp32", "bf16", "fp8", "int8", "int4"]
    assert [row.naive for row in rows.values()] == [
        4 * total, 2 * total, total, total, total // 2,
    ]  # fmt: skip
    for dtype in ("fp32", "bf16"):
        assert rows[dtype].weights == rows[dtype].naive
    for dtype in ("fp8", "int8", "int4"):
        assert rows[dtype].weights > rows[dtype].naive


@given(st.integers(1, 500), st.sampled_from(["fp8", "int8", "int4", "nf4", "nf4-single"]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_larger_groups_never_take_more(group, dtype):
    subject = li.find_subject("llama-3.2-1b")
    assert weights_of(subject, dtype, group) >= weights_of(subject, dtype, 2 * group)


# --- KV cache -------------------------------------------------------------------------------------

# layers, heads, KV heads, head_dim, tokens, sequences, dtype
CACHES = [
    (2, 4, 4, 8, 5, 1, "fp32"),
    (3, 4, 2, 24, 7, 2, "bf16"),
    (1, 4, 1, 10, 33, 3, "fp16"),
    (5, 8, 2, 16, 1, 4, "bf16"),
]
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cache_nbytes(cache):
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def kv_subject(directory, layers, heads, kv_heads, head_dim, **more):
    params = {"dim": 32, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads,
              "head_dim": head_dim, "vocab_size": 40, "multiple_of": 16}  # fmt: skip
    return configured(directory, params | more)


@pytest.mark.parametrize("case", CACHES, ids=str)
def test_the_kv_cache_is_that_of_a_model_that_runs(tmp_path, case):
    layers, heads, kv_heads, head_dim, tokens, batch, dtype = case
    config = LlamaConfig(
        hidden_size=32, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=40,
    )  # fmt: skip
    model, cache = LlamaForCausalLM(config).to(TORCH[dtype]), DynamicCache(config=config)
    with torch.no_grad():
        run_with_cache(model, torch.zeros(batch, tokens, dtype=torch.long), cache)
    subject = kv_subject(tmp_path, layers, heads, kv_heads, head_dim)
    usage = li.Usage(context=tokens, batch=batch, kv_dtype=dtype)
    assert li.estimate_memory(subject, usage).inference.kv_cache == cache_nbytes(cache)

    static = StaticCache(config=config, max_cache_len=3 * tokens)
    static.early_initialization(
        batch_size=batch, num_heads=kv_heads, head_dim=head_dim, dtype=TORCH[dtype], device="cpu"
    )
    report = li.estimate_memory(subject, usage._replace(context=3 * tokens)).inference
    assert report.kv_cache == report.kv_cache_allocated == cache_nbytes(static)


@pytest.mark.parametrize("tokens", [3, 16, 17, 100])
@pytest.mark.parametrize("layers", [4, 6, 11])
def test_chunked_layers_keep_a_chunk_as_transformers_does(tmp_path, layers, tokens):
    config = Llama4TextConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, attention_chunk_size=16,
    )  # fmt: skip
    cache = StaticCache(config=config, max_cache_len=tokens)
    cache.early_initialization(
        batch_size=3, num_heads=2, head_dim=8, dtype=torch.bfloat16, device="cpu"
    )
    subject = kv_subject(tmp_path, layers, 4, 2, 8, attention_chunk_size=16, nope_layer_interval=4)
    report = li.estimate_memory(subject, li.Usage(context=tokens, batch=3)).inference
    assert report.kv_cache == cache_nbytes(cache)
    assert report.kv_cache_allocated == 2 * 2 * 8 * 2 * 3 * layers * tokens


@pytest.mark.parametrize("name", ["llama-4-scout-17b-16e", "llama-4-maverick-17b-128e-instruct"])
@pytest.mark.parametrize("tokens", [1, 8_192, 8_193, 131_072, 1_048_576])
def test_llama_4_has_12_global_layers_and_36_with_chunks(name, tokens):
    usage = li.Usage(context=tokens, batch=2)
    report = li.estimate_memory(li.find_subject(name), usage).inference
    assert report.kv_cache == 2 * (2 * 8 * 128 * 2) * (12 * tokens + 36 * min(tokens, 8_192))
    assert report.kv_cache_allocated == 2 * (2 * 8 * 128 * 2) * 48 * tokens


def test_quantised_caches_are_made_of_blocks_of_32_values(tmp_path):
    """ggml: 32 values and a 16-bit scale, which is 34 bytes in Q8_0 and 18 in Q4_0."""
    values = 2 * 32 * 8 * 128 * 1000  # keys and values of 1,000 tokens
    subject = li.find_subject("llama-3.1-8b")
    for dtype, nbytes in (("q8_0", values * 34 // 32), ("q4_0", values * 18 // 32),
                          ("fp8", values), ("int8", values), ("fp16", 2 * values)):  # fmt: skip
        usage = li.Usage(context=1000, kv_dtype=dtype)
        assert li.estimate_memory(subject, usage).inference.kv_cache == nbytes
    # 3 heads of 10 are 30 values: a block for the keys and one for the values of each layer.
    subject = kv_subject(tmp_path, 2, 3, 3, 10)
    usage = li.Usage(context=7, kv_dtype="q8_0")
    assert li.estimate_memory(subject, usage).inference.kv_cache == 2 * 2 * 34 * 7


def test_repeated_kv_heads_are_not_counted_in_the_cache():
    """405B in 16 shards stores each of its 8 KV heads twice; tables made from it are 2x too high"""
    for form in ("bf16-mp8", "bf16-mp16", "fp8"):
        subject = li.find_subject(f"llama-3.1-405b:{form}")
        report = li.estimate_memory(subject, li.Usage(context=1))
        assert report.inference.kv_cache == 516_096
        assert report.parameters == 405_853_388_800


def test_images_add_keys_and_values_in_the_cross_attention_layers():
    """32,768 bytes per token of an image on 11B, 81,920 on 90B; 4 tiles of (pixels/14)^2 + 1."""
    for name, nbytes in (
        ("llama-3.2-11b-vision", 32_768 * 4_100),
        ("llama-3.2-11b-vision-instruct", 32_768 * 6_404),
        ("llama-3.2-90b-vision-instruct", 81_920 * 6_404),
        ("llama-3.1-8b", 0),
    ):
        report = li.estimate_memory(li.find_subject(name))
        assert report.inference.image_kv_cache == nbytes


# --- prefill --------------------------------------------------------------------------------------


def test_the_prefill_peak_is_the_feed_forward_or_the_logits():
    subject = li.find_subject("llama-3.1-8b")
    tokens = 3 * 1000
    block, logits = 2 * tokens * (4 * 4096 + 3 * 14336), 2 * tokens * (128256 + 4096)
    for all_logits, nbytes in ((False, block), (True, max(block, logits))):
        usage = li.Usage(dtype="bf16", context=1000, batch=3, all_logits=all_logits)
        report = li.estimate_memory(subject, usage).inference
        assert report.activations == nbytes
        assert report.activations_all_logits == max(block, logits)
    report = li.estimate_memory(subject, li.Usage(dtype="fp32", context=1000, batch=3))
    assert report.inference.activations == 2 * block


def test_each_layer_keeps_its_own_tokens():
    """Scout: every fourth layer is global; without a chunk all are."""
    scout = li.find_subject("llama-4-scout-17b-16e").config
    assert cached_tokens(scout, 10**6) == (8_192, 8_192, 8_192, 10**6) * 12
    assert cached_tokens(scout, 100) == (100,) * 48
    assert cached_tokens(li.find_subject("llama-3.1-8b").config, 10**6) == (10**6,) * 32


def test_a_layer_is_cut_where_heads_kv_heads_and_hidden_sizes_divide():
    for name, splits in (
        ("llama-3.1-8b", [1, 2, 4, 8, 16, 32]),  # beyond 8 each KV head is repeated
        ("llama-3.2-3b", [1, 2, 4, 8]),  # 24 heads, but 3 and 12 cut KV heads, 24 the hidden size
        ("llama-4-maverick-17b-128e", [1, 2, 4, 8]),
        ("llama-2-13b", [1, 2, 4, 8]),  # 40 heads of each kind; 13,824 is no multiple of 5
    ):
        assert tensor_splits(li.find_subject(name).config) == splits
    # With a hidden size that 24 divides, what is left out are splits that would cut KV heads.
    wide = li.find_subject("llama-3.2-3b").config._replace(hidden_dim=9_216)
    assert tensor_splits(wide) == [1, 2, 4, 8, 24]


def test_a_thousand_million_heads_are_not_gone_through():
    """A config.json may claim them; 2**30 has 31 divisors."""
    small = li.find_subject("llama-3.1-8b").config
    config = small._replace(n_heads=2**30, n_kv_heads=2**30, hidden_dim=2**30)
    assert tensor_splits(config) == [2**power for power in range(31)]
