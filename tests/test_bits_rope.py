"""Bit layouts against torch, code by code; wavelengths against transformers' rotary embeddings."""

import json
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Llama4TextConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama4.modeling_llama4 import Llama4TextRotaryEmbedding

import llamainspect as li
from llamainspect.bits import FLOATS, decode, encode, split
from llamainspect.rope import choose_rope, rope_scaling, wavelengths

TORCH = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP8 E4M3": torch.float8_e4m3fn,
    "FP8 E5M2": torch.float8_e5m2,
}
INTEGERS = {1: torch.uint8, 2: torch.uint16, 4: torch.int32}
LARGEST = {"FP16": 65_504.0, "BF16": 3.3895313892515355e38, "FP8 E4M3": 448.0,
           "FP8 E5M2": 57_344.0}  # fmt: skip

# Halfway to where 480 would be. Above it, converters differ: some saturate, some give NaN.
E4M3_END = 464.0


def codes_of(numbers, dtype):
    """The codes that torch stores for FP32 numbers."""
    stored = torch.tensor(numbers, dtype=torch.float32).to(dtype)
    return [n % 2 ** (8 * dtype.itemsize) for n in stored.view(INTEGERS[dtype.itemsize]).tolist()]


def same(here, there):
    """Equal to the sign of a zero, or both no number."""
    if math.isnan(here) or math.isnan(there):
        return math.isnan(here) and math.isnan(there)
    return here == there and math.copysign(1, here) == math.copysign(1, there)


def test_the_formats_are_those_that_are_known():
    assert set(FLOATS) == set(TORCH)
    for name, layout in FLOATS.items():
        width = 1 + layout.exponent_bits + layout.mantissa_bits
        assert width == 8 * TORCH[name].itemsize
        assert layout.bias == 2 ** (layout.exponent_bits - 1) - 1


@pytest.mark.parametrize("name", ["FP16", "BF16", "FP8 E4M3", "FP8 E5M2"])
def test_every_code_stands_for_what_torch_reads(name):
    layout, dtype = FLOATS[name], TORCH[name]
    size = 2 ** (8 * dtype.itemsize)
    integers = torch.arange(size, dtype=torch.int32).to(INTEGERS[dtype.itemsize])
    for code, value in enumerate(integers.view(dtype).to(torch.float64).tolist()):
        here = decode(code, layout)
        assert same(here, value), f"{code:#x}"
        if math.isfinite(value):
            assert encode(value, layout) == code


RANDOM = torch.randint(-(2**31), 2**31 - 1, (20_000,), generator=torch.Generator().manual_seed(7))


def test_random_codes_of_fp32_stand_for_what_torch_reads():
    codes = RANDOM.to(torch.int32)
    for code, value in zip(codes.tolist(), codes.view(torch.float32).tolist(), strict=True):
        here = decode(code % 2**32, FLOATS["FP32"])
        assert same(here, value)
        if math.isfinite(value):
            assert encode(value, FLOATS["FP32"]) == code % 2**32


def fp32_numbers():
    """All magnitudes, and those where a small format is busy: around 1, and its ends."""
    anywhere = RANDOM.to(torch.int32).view(torch.float32)
    normal = torch.randn(10_000, generator=torch.Generator().manual_seed(8))
    small = torch.randn(10_000, generator=torch.Generator().manual_seed(9)) * 1e-3
    tiny = torch.randn(10_000, generator=torch.Generator().manual_seed(10)) * 2e-7
    numbers = torch.cat([anywhere, normal, normal * 300, normal * 40_000, small, tiny])
    return numbers[numbers.isfinite()]


@pytest.mark.parametrize("name", ["FP16", "BF16", "FP8 E4M3", "FP8 E5M2"])
def test_rounding_is_torch_s(name):
    numbers = fp32_numbers()
    if name in ("FP16", "BF16"):
        numbers = numbers[::2]
    elif name == "FP8 E4M3":
        numbers = numbers[numbers.abs() <= E4M3_END]
    numbers = numbers.tolist()
    for number, code in zip(numbers, codes_of(numbers, TORCH[name]), strict=True):
        assert encode(number, FLOATS[name]) == code, number


@pytest.mark.parametrize("name", LARGEST)
def test_ties_go_to_even_and_so_do_the_ends(name):
    """Halfway between neighbours, and a little to each side of it, for every pair of neighbours."""
    dtype, layout = TORCH[name], FLOATS[name]
    step = 1 if dtype.itemsize == 1 else 61
    values = [decode(code, layout) for code in range(0, 2 ** (8 * dtype.itemsize - 1), step)]
    middles = []
    for code, value in zip(range(0, 2**16, step), values, strict=False):
        above = decode(code + 1, layout)
        if math.isfinite(value) and math.isfinite(above):
            middle = (value + above) / 2
            middles += [middle, -middle, math.nextafter(middle, 0), math.nextafter(middle, 1e300)]
    middles = [m for m in middles if struct.unpack("<f", struct.pack("<f", m))[0] == m]
    middles += [LARGEST[name], -LARGEST[name], LARGEST[name] * 1.01]
    if name == "FP8 E4M3":
        middles += [E4M3_END, -E4M3_END]
    else:
        middles += [LARGEST[name] * 1.0625, LARGEST[name] * 1.125]
    middles = torch.tensor(middles, dtype=torch.float32)
    middles = middles[middles.isfinite()].tolist()
    for number, code in zip(middles, codes_of(middles, dtype), strict=True):
        assert same(decode(encode(number, layout), layout), decode(code, layout)), number
    assert max(v for v in values if math.isfinite(v)) <= LARGEST[name]
    assert decode(encode(LARGEST[name], layout), layout) == LARGEST[name]


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_doubles_are_rounded_once(number):
    for name, letter in (("FP32", "f"), ("FP16", "e")):
        try:
            expected = struct.unpack(f"<{letter}", struct.pack(f"<{letter}", number))[0]
        except OverflowError:
            expected = math.copysign(math.inf, number)
        assert same(decode(encode(number, FLOATS[name]), FLOATS[name]), expected)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(list(FLOATS)))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_pieces_of_a_number_are_its_code(number, name):
    layout, bits = FLOATS[name], split(number, FLOATS[name])
    assert [len(bits.sign), len(bits.exponent), len(bits.mantissa)] == [
        1, layout.exponent_bits, layout.mantissa_bits,
    ]  # fmt: skip
    assert int(bits.sign + bits.exponent + bits.mantissa, 2) == bits.code
    assert same(bits.value, decode(bits.code, layout))


def test_a_tenth_by_hand():
    """0.1 is 1.6 * 2^-4: exponent 123 of 127, or 11 of 15, or 3 of 7."""
    assert split(0.1, FLOATS["FP32"])[1:4] == ("0", "01111011", "10011001100110011001101")
    assert split(0.1, FLOATS["BF16"])[1:4] == ("0", "01111011", "1001101")
    assert split(-0.1, FLOATS["FP16"])[1:4] == ("1", "01011", "1001100110")
    assert split(0.1, FLOATS["FP8 E4M3"])[1:] == ("0", "0011", "101", 0.1015625)
    assert split(0.1, FLOATS["FP8 E5M2"])[1:] == ("0", "01011", "10", 0.09375)
    assert split(-0.0, FLOATS["BF16"]).code == 0x8000


# --- rope -----------------------------------------------------------------------------------------

PARAMS = {"dim": 512, "n_layers": 4, "n_heads": 8, "vocab_size": 100}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}  # fmt: skip


def configured(directory, **more):
    (directory / "params.json").write_text(json.dumps(PARAMS | more))
    return li.find_subject(str(directory)).config


def lengths_of(embedding):
    return (2 * math.pi / embedding.inv_freq.to(torch.float64)).tolist()


def transformers_lengths(head_dim, **rope):
    config = LlamaConfig(
        hidden_size=8 * head_dim, num_attention_heads=8, head_dim=head_dim, rope_parameters=rope,
        max_position_embeddings=131_072,
    )  # fmt: skip
    return lengths_of(LlamaRotaryEmbedding(config))


def agree(here, there):
    assert here == pytest.approx(there, rel=3e-6)  # transformers computes in FP32


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1_000_000.0])
def test_wavelengths_are_those_of_transformers(tmp_path, head_dim, theta):
    config = configured(tmp_path, head_dim=head_dim, rope_theta=theta)
    assert rope_scaling(config) is None
    there = transformers_lengths(head_dim, rope_type="default", rope_theta=theta)
    agree(wavelengths(config), there)


@pytest.mark.parametrize("head_dim", [16, 64, 128, 254])
def test_scaled_wavelengths_are_those_of_transformers(tmp_path, head_dim):
    config = configured(tmp_path, head_dim=head_dim, rope_theta=5e5, use_scaled_rope=True)
    there = transformers_lengths(head_dim, **LLAMA_3)
    agree(wavelengths(config, rope_scaling(config)), there)
    assert there != pytest.approx(wavelengths(config), rel=1e-2)


@pytest.mark.parametrize(("factor", "high"), [(32.0, 4.0), (8.0, 2.0), (3.0, 7.5)])
def test_a_file_that_says_how_to_scale_is_obeyed(tmp_path, factor, high):
    config = configured(
        tmp_path, rope_theta=5e5, use_scaled_rope=True, rope_scaling_factor=factor,
        rope_high_freq_factor=high,
    )  # fmt: skip
    rope = LLAMA_3 | {"factor": factor, "high_freq_factor": high}
    agree(wavelengths(config, rope_scaling(config)), transformers_lengths(64, **rope))


@pytest.mark.parametrize(
    ("name", "scaled"),
    [("llama-1-7b", False), ("llama-2-70b", False), ("codellama-7b", False), ("llama-3-8b", False),
     ("llama-3.1-8b", True), ("llama-3.1-405b", True), ("llama-3.2-1b", True),
     ("llama-3.3-70b-instruct", True)],
)  # fmt: skip
def test_wavelengths_of_the_releases(name, scaled):
    config = li.find_subject(name).config
    assert (rope_scaling(config) is not None) == scaled
    theta = 500_000.0 if "llama-3" in name else 1_000_000.0 if "code" in name else 10_000.0
    rope = LLAMA_3 if scaled else {"rope_type": "default", "rope_theta": theta}
    agree(wavelengths(config, rope_scaling(config)), transformers_lengths(config.head_dim, **rope))


def test_scout_stretches_by_16_without_anything_in_between():
    """rope_scaling of its config.json on the hub: factor 16, low and high 1, 8192 tokens."""
    config = li.find_subject("llama-4-scout-17b-16e").config
    rope = LLAMA_3 | {"factor": 16.0, "high_freq_factor": 1.0}
    there = Llama4TextRotaryEmbedding(
        Llama4TextConfig(head_dim=128, rope_parameters=rope, max_position_embeddings=10_485_760)
    )
    agree(wavelengths(config, rope_scaling(config)), lengths_of(there))
    config = li.find_subject("llama-4-maverick-17b-128e").config
    assert rope_scaling(config) is None


def test_the_bounds_of_scaling_are_8192_and_a_quarter_of_it():
    scaling = rope_scaling(li.find_subject("llama-3.1-8b").config)
    assert (scaling.factor, scaling.kept_below, scaling.stretched_above) == (8, 2_048, 8_192)


@pytest.mark.parametrize(
    ("release", "factor", "reason"),
    [
        ("llama-3.1-8b", 8, "Meta's reference code, for llama-3.1-8b"),
        ("llama-3.3-70b-instruct", 8, "Meta's reference code"),
        (
            "llama-3.2-1b",
            32,
            "config.json of llama-3.2-1b on the Hugging Face hub; Meta's code has 8",
        ),
        ("llama-3.2-3b-instruct", 32, "config.json of llama-3.2-3b"),
        ("llama-guard-3-1b", 32, "config.json of llama-guard-3-1b"),
        ("llama-3.2-11b-vision", 8, "Meta's reference code"),
        ("llama-4-scout-17b-16e", 16, "Meta's reference code"),
        ("llama-3-8b", None, "params.json does not ask for it"),
        ("llama-2-7b", None, "params.json does not ask for it"),
    ],
)
def test_the_release_tells_how_far_rope_is_scaled(release, factor, reason):
    choice = choose_rope(li.find_subject(release).config, release)
    assert (choice.scaling and choice.scaling.factor) == factor
    assert choice.reason.startswith(reason)
    asked = choose_rope(li.find_subject(release).config, release, 3.5)
    assert (asked.scaling.factor, asked.reason) == (3.5, "as asked")
    assert asked.scaling.high_freq_factor == (1 if "scout" in release else 4)


def test_what_is_not_recognised_is_scaled_as_metas_code_does(tmp_path):
    config = configured(tmp_path, rope_theta=5e5, use_scaled_rope=True)
    assert choose_rope(config) == (rope_scaling(config), "Meta's reference code, for every Llama 3")
    config = configured(tmp_path, rope_theta=5e5, use_scaled_rope=True, rope_scaling_factor=20)
    choice = choose_rope(config, "llama-3.2-1b")
    assert (choice.scaling.factor, choice.reason) == (20, "rope_scaling_factor in params.json")


def test_explain_and_the_forward_pass_scale_alike():
    topic = next(
        t for t in li.explain_model(li.find_subject("llama-3.2-1b")).topics if "32 times" in str(t)
    )
    assert any("config.json of llama-3.2-1b on the Hugging Face hub" in s for s in topic.steps)
