"""`explain`: every step is worked out again here, and every check is held against real files."""

import json
import math
import re
from decimal import Decimal
from functools import cache

import pytest
import torch
from checkpoints import (
    LLAMA_3_1_405B,
    MOE_BLOCKS,
    TINY,
    TINY_HIDDEN,
    TINY_MOE,
    TINY_PARAMETERS,
    cut,
    dense_shapes,
    moe_shapes,
    random_weights,
    write_native,
    write_sparse,
)
from test_cli import run

import llamainspect as li
from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.errors import InvalidRequest
from llamainspect.glossary import FIELDS

IDS = [model.id for model in OFFICIAL_MODELS]
each_model = pytest.mark.parametrize("model", OFFICIAL_MODELS, ids=IDS)


@cache
def explanation(model):
    """Kept for releases, which many tests look at."""
    return li.explain_model(li.find_subject(model))


def topics(model, kind=None):
    ask = explanation if model in IDS else explanation.__wrapped__
    report = ask(str(model))
    return {topic.name: topic for topic in report.topics if kind in (None, topic.kind)}


def config_of(model):
    return model.config._replace(n_kv_heads=model.unique_kv_heads)


def numbers(text):
    return [float(n) for n in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", text.replace(",", ""))]


def product(text):
    return math.prod(int(n) for n in numbers(text))


def equation(step):
    """`... 2 * 3 = 6 ...`: both sides, the left one multiplied or divided."""
    left, _, right = step.partition(" = ")
    if " / " in left:
        first, second = numbers(left)
        assert first % second == 0
        return first / second, numbers(right)[0]
    return product(left), numbers(right)[0]


# --- steps of every release -----------------------------------------------------------------------


@each_model
def test_head_dim_and_the_group_are_divisions_that_come_out(model):
    config, found = config_of(model), topics(model.id, "derived")
    for name, expected in (
        ("head_dim", config.head_dim),
        ("gqa_group", config.n_heads // config.n_kv_heads),
    ):
        (step,) = found[name].steps
        left, right = equation(step)
        assert left == right == found[name].value == expected
    assert product(found["head_dim"].steps[0].partition("=")[0].replace("/", "")) == (
        config.dim * config.n_heads
    )


def follow(chain):
    """`4 * 5120 = 20480 -> * 2/3 = 13653 -> ...` once more, in exact arithmetic, truncating."""
    first, *links = chain.split(" -> ")
    left, value = equation(first)
    assert left == value
    rounded = False
    for link in links:
        operation, _, result = link.partition(" = ")
        if operation == "* 2/3":
            value = Decimal(2 * int(value) // 3)
        elif operation.startswith("* "):
            value = Decimal(int(value * Decimal(operation[2:])))
        elif operation.startswith("/ "):
            value = Decimal(int(value / Decimal(operation[2:])))
        else:
            multiple = int(operation.removeprefix("multiple of "))
            value, rounded = Decimal(-(-int(value) // multiple) * multiple), True
        assert value == int(result), link
    assert rounded
    return value


@each_model
def test_hidden_sizes_follow_from_the_fields(model):
    found = topics(model.id, "derived")
    moe = model.config.moe
    sizes = {"hidden_dim": model.config.hidden_dim}
    if moe:
        sizes["expert_hidden_dim"] = moe.hidden_dim
        if moe.interleave_moe_layer_step == 1:
            del sizes["hidden_dim"]  # of a dense feed-forward, which it has none of
    assert {name for name in found if name.endswith("hidden_dim")} == set(sizes)
    for name, width in sizes.items():
        assert found[name].value == width
        assert len(found[name].steps) == (model.config.multiple_of is not None)
        for step in found[name].steps:
            assert follow(step) == width
            assert step.startswith(f"4 * {model.config.dim} = ")


def test_hidden_sizes_of_the_releases_by_hand():
    chain = "4 * 3072 = 12288 -> * 2/3 = 8192 -> * 1.0 = 8192 -> multiple of 256 = 8192"
    assert topics("llama-3.2-3b")["hidden_dim"].steps == (chain,)
    (chain,) = topics("llama-3.2-1b")["hidden_dim"].steps
    assert [step.split(" = ")[-1] for step in chain.split(" -> ")] == [
        "8192", "5461", "8191", "8192",
    ]  # fmt: skip
    for name, width in (("llama-1-7b", 11_008), ("llama-2-70b", 28_672), ("llama-3-8b", 14_336)):
        assert topics(name)["hidden_dim"].value == width
    assert topics("llama-4-maverick-17b-128e")["hidden_dim"].value == 16_384
    assert topics("llama-4-scout-17b-16e")["expert_hidden_dim"].value == 8_192


@each_model
def test_the_usual_mistake_about_hidden_sizes_is_worked_out(model):
    found = topics(model.id).get("hidden_dim")
    if model.id in ("llama-guard-3-1b:int4", "llama-guard-4-12b"):  # pruned, cut from experts
        assert (found.steps, found.mistake) == ((), None)
    elif found:
        wrong = int(2 * model.config.dim * Decimal(str(model.config.ffn_dim_multiplier or 1)))
        assert numbers(found.mistake)[-1] == wrong != found.value


@each_model
def test_parameters_are_the_sum_of_their_steps(model):
    found, config = topics(model.id, "derived"), config_of(model)
    parameters = found["parameters"]
    total, layers = 0, 0
    for step in parameters.steps:
        left, _, right = step.rpartition(" = ")
        if counted := re.match(r"(\d+) layers? of ", step):
            layers += int(counted[1])
        if "*" in step or counted:
            assert product(left.rpartition(": ")[2]) == numbers(right)[0]
        total += numbers(right)[0]
    assert layers == config.n_layers
    assert total == parameters.value == (model.params_unique or model.params_total)
    if model.tied_output:
        assert numbers(parameters.mistake)[0] == total + config.vocab_size * config.dim
    else:
        assert parameters.mistake is None


def test_parameters_that_are_counted_twice_by_name():
    found = topics("llama-3.2-1b")["parameters"]
    assert found.value == 1_235_814_400
    assert "1,498,482,688" in found.mistake


@each_model
def test_parameters_of_a_layer_are_the_sum_of_its_matrices(model):
    found, config = topics(model.id, "derived")["layer_parameters"], config_of(model)
    total = 0
    for step in found.steps:
        _, _, arithmetic = step.partition(" ")
        left, right = equation(arithmetic)
        assert left == right
        total += right
    assert total == found.value
    h, q, kv = config.dim, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = 2 * h * q + 2 * h * kv + 2 * h
    if config.moe:
        experts = config.moe.num_experts + 1
        assert total == attention + 3 * experts * h * config.moe.hidden_dim + h * (experts - 1)
    elif config.lora is None:
        assert total == attention + 3 * h * config.hidden_dim


@each_model
def test_bytes_of_the_weights_are_products(model):
    found = topics(model.id, "derived")["weight_bytes"]
    total = model.params_unique or model.params_total
    for step, width in zip(found.steps, (2, 4), strict=True):
        left, right = equation(step)
        assert left == right == width * total
    assert found.value == 2 * total
    assert f"{total // 2:,}" in found.mistake


def test_int4_is_more_than_half_a_byte_per_parameter():
    mistake = topics("llama-3.1-8b")["weight_bytes"].mistake
    assert "4,015,130,624" in mistake
    assert "5,727,854,592" in mistake


@each_model
def test_bytes_of_the_kv_cache_are_products(model):
    found, config = topics(model.id, "derived")["kv_bytes_per_token"], config_of(model)
    left, right = equation(found.steps[0])
    layer = 2 * config.n_kv_heads * config.head_dim * 2
    assert left == right == found.value == config.n_layers * layer
    chunked = 36 if config.attention_chunk_size else 0
    contexts, others = set(), 0
    for step in found.steps[1:]:
        if re.match(r"[\d,]+ tokens: ", step):
            tokens, nbytes = numbers(step)
            kept = min(tokens, config.attention_chunk_size or tokens)
            assert nbytes == layer * ((config.n_layers - chunked) * tokens + chunked * kept)
            contexts.add(tokens)
        else:
            others += 1
            layers, chunk, tokens, nbytes = numbers(step)
            assert (layers, chunk) == (chunked, config.attention_chunk_size)
            assert nbytes == config.n_layers * layer * tokens
    assert model.context_length in contexts | {None}
    assert others == bool(chunked)
    if config.n_heads > config.n_kv_heads:
        assert numbers(found.mistake)[-1] == config.n_layers * 4 * config.n_heads * config.head_dim
    else:
        assert found.mistake is None


def test_bytes_per_token_of_the_releases_by_hand():
    for name, nbytes in (
        ("llama-1-7b", 524_288), ("llama-2-70b", 327_680), ("llama-3.1-8b", 131_072),
        ("llama-3.1-405b", 516_096), ("llama-3.2-1b", 32_768), ("llama-3.2-3b", 114_688),
        ("llama-4-scout-17b-16e", 196_608), ("llama-guard-4-12b", 196_608),
    ):  # fmt: skip
        assert topics(name)["kv_bytes_per_token"].value == nbytes


@each_model
def test_wavelengths_are_powers_of_the_base(model):
    if model.id == "llama-guard-4-12b":  # rope_theta is not published
        assert "rope" not in topics(model.id, "derived")
        return
    found, config = topics(model.id, "derived")["rope"], config_of(model)
    pairs = config.head_dim // 2
    factor, high = (16, 1) if config.moe else (8, 4)
    if model.id.startswith(("llama-3.2-1b", "llama-3.2-3b", "llama-guard-3-1b")):
        factor = 32  # config.json of these on the hub
    shown = {}
    for step in found.steps:
        if line := re.match(r"pair (\d+): ([\d,.]+) tokens(?: -> ([\d,.]+))?$", step):
            pair = int(line[1])
            plain, stretched = numbers(line[2])[0], numbers(line[3] or line[2])[0]
            wavelength = 2 * math.pi * config.rope_theta ** (2 * pair / config.head_dim)
            assert plain == pytest.approx(wavelength, abs=0.06)
            shown[pair] = stretched
            if not config.use_scaled_rope or wavelength < 8192 / high:
                assert line[3] is None
            elif wavelength > 8192:
                assert stretched == pytest.approx(factor * wavelength, abs=0.06)
            else:  # frequencies blended: all slowed down at 8192 tokens, none at 8192 / high
                share = (8192 / wavelength - 1) / (high - 1)
                blended = wavelength / ((1 - share) / factor + share)
                assert stretched == pytest.approx(blended, abs=0.06)
    assert {0, pairs - 1} <= set(shown)
    assert found.value == pytest.approx(max(shown.values()), abs=0.6)


@each_model
def test_the_bits_of_an_example_give_the_value(model):
    check_bits(topics(model.id, "bits"))


TORCH = {
    "FP32": (torch.float32, torch.int32, 8),
    "FP16": (torch.float16, torch.int16, 5),
    "BF16": (torch.bfloat16, torch.int16, 8),
    "FP8 E4M3": (torch.float8_e4m3fn, torch.int8, 4),
    "FP8 E5M2": (torch.float8_e5m2, torch.int8, 5),
}


def check_bits(found):
    """Bits, and what they are worked out to, are those of torch; returns the value that is shown"""
    assert list(found) == list(TORCH)
    for name, topic in found.items():
        dtype, integer, exponent_bits = TORCH[name]
        value = float(re.search(r": (-?[\d.e+-]+) \(", topic.text)[1])
        stored = torch.tensor(value, dtype=torch.float64).to(torch.float32).to(dtype)
        width = 8 * dtype.itemsize
        code = f"{stored.view(integer).item() % 2**width:0{width}b}"
        bits, arithmetic = topic.steps
        assert bits == f"{code[0]} {code[1 : 1 + exponent_bits]} {code[1 + exponent_bits :]}"
        assert topic.value == stored.to(torch.float64).item()
        left, _, right = arithmetic.partition(" = ")
        sign, base, fraction = re.fullmatch(r"(-?)2\^(\(.+\)|-?\d+) \* (\S+)", left).groups()
        exponent = sum(int(n) for n in re.findall(r"-?\d+", base.replace(" - ", " -")))
        worked = float(fraction) * 2.0**exponent
        assert (-worked if sign else worked) == float(right) == topic.value
    return value


# --- fields ---------------------------------------------------------------------------------------


@each_model
def test_every_field_has_a_sentence_and_no_topic_is_there_twice(model):
    report = explanation(model.id)
    names = [topic.name for topic in report.topics]
    assert len(names) == len(set(names))
    for topic in report.topics:
        assert topic.text
        assert topic.kind in ("field", "derived", "bits")
        assert topic.agrees is None
        assert topic.name in FIELDS or topic.kind != "field"
    answer = json.loads(li.to_json(report), parse_constant=pytest.fail)
    assert answer["ok"] is True


def test_fields_are_those_of_the_file_and_their_groups(tmp_path):
    params = TINY_MOE | {"no_such_field": [1, 2], "max_seq_len": 99}
    (tmp_path / "params.json").write_text(json.dumps(params))
    found = topics(tmp_path, "field")
    for name, value in TINY_MOE.items():
        if name != "moe_args":
            assert found[name].value == value
    for name, value in TINY_MOE["moe_args"].items():
        assert found[f"moe_args.{name}"].value == value
    assert found["max_seq_len"].value == 99
    assert "no_such_field" in found
    assert found["no_such_field"].text not in FIELDS.values()


def test_fields_that_the_file_leaves_out_have_their_default(tmp_path):
    params = {"dim": 64, "n_layers": 1, "n_heads": 4, "vocab_size": 10}
    (tmp_path / "params.json").write_text(json.dumps(params))
    found = topics(tmp_path, "field")
    assert found["n_kv_heads"].value == 4
    assert found["norm_eps"].value == 1e-5
    assert found["rope_theta"].value == 10_000
    assert found["use_scaled_rope"].value is False
    assert all("default" in found[name].text for name in ("n_kv_heads", "rope_theta"))
    assert "default" not in found["dim"].text


@pytest.mark.parametrize("field", ["hidden_dim", "HIDDEN_DIM", "rope", "fp8 e4m3", "norm_eps"])
def test_one_field_is_the_same_alone(field):
    subject = li.find_subject("llama-3.1-8b")
    report = li.explain_model(subject, field)
    everything = {topic.name.lower(): topic for topic in li.explain_model(subject).topics}
    assert report.topics == (everything[field.lower()],)
    assert report.field == field


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(InvalidRequest, match=r"near (is|are) [^;]*hidden_dim"):
        li.explain_model(li.find_subject("llama-3.1-8b"), "hiden_dims")
    done = run("explain", "llama-3.1-8b", "rope_teta", "--json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "rope_theta" in done.stderr


def test_a_field_alone_is_of_the_current_directory(tiny):
    done = run("explain", "hidden_dim", "--json", cwd=tiny)
    assert (done.returncode, done.stderr) == (0, "")
    assert [topic["value"] for topic in json.loads(done.stdout)["topics"]] == [TINY_HIDDEN]
    done = run(
        "explain", "gqa_group", "--json", env={"LLAMAINSPECT_MODEL": "llama-3.3-70b-instruct"}
    )
    assert [topic["value"] for topic in json.loads(done.stdout)["topics"]] == [8]


def test_json_equals_the_library(tiny2):
    for arguments in ([], ["rope"]):
        done = run("explain", tiny2, *arguments, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        subject = li.find_subject(str(tiny2))
        assert done.stdout == f"{li.to_json(li.explain_model(subject, *arguments))}\n"


# --- real files -----------------------------------------------------------------------------------


def tied():
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["output.weight"] = weights["tok_embeddings.weight"]
    return weights


def moe_weights():
    return random_weights(moe_shapes(TINY_MOE))


MOE_PARAMETERS = sum(math.prod(shape) for shape in moe_shapes(TINY_MOE).values())
LAYOUTS = {
    "experts": (TINY_MOE, lambda: [moe_weights()], MOE_PARAMETERS),
    "experts, two shards": (
        TINY_MOE, lambda: cut(moe_weights(), 2, blocks=MOE_BLOCKS), MOE_PARAMETERS,
    ),
    "tied": (TINY, lambda: [tied()], TINY_PARAMETERS - 128 * 64),
}  # fmt: skip


def checks(found):
    return {name: topic.agrees for name, topic in found.items() if topic.agrees is not None}


DENSE_CHECKS = dict.fromkeys(
    ("head_dim", "hidden_dim", "gqa_group", "layer_parameters", "parameters", "weight_bytes"), True
)


def test_the_files_bear_out_every_number(checkpoint_path):
    found = topics(checkpoint_path)
    shards = len(list(checkpoint_path.glob("*.pth"))) or 1  # Hugging Face's hold nothing twice
    expected = dict(DENSE_CHECKS)
    if shards > 1:
        del expected["weight_bytes"]  # norms are in both shards
    assert checks(found) == expected
    assert (found["parameters"].value, found["hidden_dim"].value) == (TINY_PARAMETERS, TINY_HIDDEN)
    for name, rows in (("hidden_dim", TINY_HIDDEN), ("gqa_group", 32), ("head_dim", 64)):
        assert f"has {rows} rows" in found[name].check
    assert f"{TINY_PARAMETERS:,}" in found["parameters"].check
    norms = (2 * 2 + 1) * 64 * 2 * (shards - 1)
    assert f"{2 * TINY_PARAMETERS + norms:,} bytes" in found["weight_bytes"].check
    files = {name for name, topic in found.items() if topic.kind == "file"}
    assert files == {file.name for file in checkpoint_path.iterdir()}
    for name in files:
        assert found[name].value == (checkpoint_path / name).stat().st_size


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_bear_out_experts_and_tied_outputs(tmp_path, layout):
    params, shards, total = LAYOUTS[layout]
    path = write_native(tmp_path / "model", params, shards())
    found = topics(path)
    agreed = checks(found)
    assert set(agreed.values()) == {True}
    assert {"layer_parameters", "parameters"} <= set(agreed)
    assert found["parameters"].value == total
    if layout == "tied":
        assert agreed == DENSE_CHECKS
        assert f"{total + 128 * 64:,}" in found["parameters"].mistake


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"n_kv_heads": 4}, {"gqa_group", "layer_parameters", "parameters", "weight_bytes"}),
        ({"multiple_of": 128},
         {"hidden_dim", "layer_parameters", "parameters", "weight_bytes"}),
        ({"ffn_dim_multiplier": 1.5},
         {"hidden_dim", "layer_parameters", "parameters", "weight_bytes"}),
        ({"head_dim": 32},
         {"head_dim", "gqa_group", "layer_parameters", "parameters", "weight_bytes"}),
        ({"n_layers": 3}, {"layer_parameters", "parameters", "weight_bytes"}),
        ({"vocab_size": 130}, {"parameters", "weight_bytes"}),
        ({"dim": 32, "head_dim": 16, "multiple_of": 192},
         {"layer_parameters", "parameters", "weight_bytes"}),
    ],
    ids=lambda value: str(sorted(value)),  # a set's order differs from process to process
)  # fmt: skip
def test_a_wrong_configuration_does_not_agree(tiny, change, wrong):
    (tiny / "params.json").write_text(json.dumps(TINY | change))
    report = li.explain_model(li.find_subject(str(tiny)))
    agreed = checks({topic.name: topic for topic in report.topics})
    assert {name for name, agrees in agreed.items() if not agrees} == wrong
    assert not report.ok


def test_a_contradiction_exits_1(tiny):
    (tiny / "params.json").write_text(json.dumps(TINY | {"n_kv_heads": 4}))
    done = run("explain", tiny, "gqa_group", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_bits_are_those_of_a_real_weight(tmp_path, dtype, ranks):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN), seed=3, dtype=dtype)
    path = write_native(tmp_path / "model", TINY, cut(weights, ranks))
    found = topics(path, "bits")
    weight = weights["layers.0.attention.wq.weight"][0, 0]
    assert check_bits(found) == weight.item()
    own = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}[dtype]
    assert found[own].value == weight.item()
    assert all("element 0 of layers.0.attention.wq.weight" in t.text for t in found.values())


@pytest.mark.parametrize("skipped", [0.0, math.nan, math.inf, -math.inf], ids=str)
def test_the_weight_that_is_shown_is_a_number_other_than_zero(tmp_path, skipped):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["layers.0.attention.wq.weight"].view(-1)[:3] = skipped
    value = weights["layers.0.attention.wq.weight"].view(-1)[3].item()
    found = topics(write_native(tmp_path / "one", TINY, [weights]), "bits")
    assert check_bits(found) == value
    assert "element 3 of layers.0.attention.wq.weight" in found["BF16"].text

    weights["layers.0.attention.wq.weight"].fill_(skipped)
    found = topics(write_native(tmp_path / "two", TINY, [weights]), "bits")
    assert check_bits(found) == weights["tok_embeddings.weight"][0, 0].item()
    assert "tok_embeddings.weight" in found["BF16"].text


@pytest.mark.parametrize("value", [1e-3, -6e-8, 2.0**-140, -448.0, 3e-39])
def test_small_and_large_weights_have_bits_too(tmp_path, value):
    """Subnormal in some of the formats, nothing but zero in others."""
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN), dtype=torch.float32)
    weights["layers.0.attention.wq.weight"].fill_(value)
    path = write_native(tmp_path / "model", TINY, [weights])
    assert check_bits(topics(path, "bits")) == torch.tensor(value).item()


def test_without_weights_the_bits_are_of_an_example(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(TINY))
    assert check_bits(topics(tmp_path, "bits")) == 0.1


def test_kv_heads_that_are_stored_twice_are_no_contradiction(tmp_path):
    write_sparse(tmp_path / "405B", LLAMA_3_1_405B, 53248, 16)
    found = topics(tmp_path / "405B")
    assert found["gqa_group"].value == 16
    assert found["gqa_group"].agrees
    assert "counts 16: each head is stored more than once" in found["gqa_group"].steps[-1]
    assert set(checks(found).values()) == {True}


@pytest.mark.parametrize("head_dim", [1, 3])
def test_heads_without_pairs_have_no_wavelengths(tmp_path, head_dim):
    params = {"dim": 4 * head_dim, "n_heads": 4, "n_layers": 1, "vocab_size": 10}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert "rope" not in topics(tmp_path)


def test_numbers_that_do_not_fit_a_format_are_infinite(tmp_path):
    weights = random_weights(dense_shapes(TINY, TINY_HIDDEN))
    weights["layers.0.attention.wq.weight"].fill_(1e30)
    found = topics(write_native(tmp_path / "big", TINY, [weights]))
    assert (found["FP16"].value, found["FP8 E5M2"].value) == (None, None)
    assert found["FP8 E4M3"].value == 448  # it has no infinity
    assert found["FP16"].steps[-1].startswith("infinity: the number is too large")
    assert found["BF16"].value == pytest.approx(1e30, rel=0.01)


def test_fields_are_found_by_their_words():
    for field, names in (
        ("fp8", {"FP8 E4M3", "FP8 E5M2"}),
        ("num_experts", {"moe_args.num_experts"}),
        ("kv", {"n_kv_heads", "kv_bytes_per_token"}),
        ("hidden_dim", {"expert_hidden_dim"}),
    ):
        subject = li.find_subject("llama-4-scout-17b-16e")
        assert {t.name for t in li.explain_model(subject, field).topics} == names
    done = run("explain", "%")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such path" in done.stderr


def test_a_release_that_is_quantised_says_so():
    report = li.explain_model(li.find_subject("llama-3.1-405b:fp8"))
    assert [finding.severity for finding in report.findings] == ["note"]
    assert "stored as fp8" in report.findings[0].message
