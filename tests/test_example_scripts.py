"""The scripts in examples/ that users copy: run as processes on real files.

Their numbers are worked out anew with torch, safetensors, numpy and arithmetic.
"""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import (
    LLAMA_3_70B,
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
from hub_layout import hub_config, to_hub, write_hub
from safetensors import safe_open

import llamainspect

EXAMPLES = Path(__file__).parent.parent / "examples"
MINI = EXAMPLES / "mini-llama"
SCRIPTS = (
    "inspect_checkpoint",
    "list_tensors",
    "plan_memory",
    "stream_statistics",
    "verify_conversion",
)
OF_ONE_PATH = ("inspect_checkpoint", "list_tensors", "stream_statistics")
WQ = "layers.0.attention.wq.weight"


def run(script, *arguments, code=0, **options):
    """What a script prints; it must end with that exit code."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == code, done.stdout + done.stderr
    if code != 3:
        assert done.stderr == ""
    return done.stdout if code != 3 else done.stderr


def number(text):
    """1,234 as a number."""
    return float(text.replace(",", ""))


def mini_weights():
    return torch.load(MINI / "consolidated.00.pth", weights_only=True)


def mini_params():
    return json.loads((MINI / "params.json").read_text(encoding="utf-8"))


def tiny_weights():
    return random_weights(dense_shapes(TINY, TINY_HIDDEN))


def once(weights):
    """The weights without those that are another's storage."""
    return {weight.untyped_storage().data_ptr(): weight for weight in weights.values()}.values()


def write_converted(directory, weights, params, **settings):
    """Hugging Face's layout of a native state dict: two files, and no lm_head when it is tied."""
    hidden_dim = weights["layers.0.feed_forward.w1.weight"].shape[0]
    tied = torch.equal(weights["output.weight"], weights["tok_embeddings.weight"])
    hub = to_hub(weights, params, hidden_dim)
    if tied:
        del hub["lm_head.weight"]
    config = hub_config(params, hidden_dim, tie_word_embeddings=tied, **settings)
    return write_hub(directory, hub, config, shards=2)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The example in Hugging Face's layout; do not write into it."""
    return write_converted(tmp_path_factory.mktemp("converted"), mini_weights(), mini_params())


@pytest.fixture
def without_torch(tmp_path):
    """An environment in which torch cannot be imported."""
    text = "raise ModuleNotFoundError('No module named torch', name='torch')"
    (tmp_path / "torch.py").write_text(text, encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_public_names_are_used(script):
    tree = ast.parse((EXAMPLES / f"{script}.py").read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "llamainspect"
    }
    assert used
    assert used <= set(llamainspect.__all__)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = [
        n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names
    ]
    assert set(imported) <= {"argparse", "sys", "llamainspect"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_that_it_shows_work(script, tmp_path, converted):
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "original").symlink_to(MINI)
    (tmp_path / "converted").symlink_to(converted)
    docstring = ast.get_docstring(
        ast.parse((EXAMPLES / f"{script}.py").read_text(encoding="utf-8"))
    )
    commands = re.findall(rf"^    python examples/{script}\.py (.+)$", docstring, re.MULTILINE)
    assert commands
    for command in commands:
        assert run(script, *command.split(), cwd=tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_path_is_one_sentence_and_exit_code_3(script, tmp_path):
    missing = tmp_path / "nowhere"
    arguments = {"plan_memory": (missing, "h100"), "verify_conversion": (MINI, missing)}
    done = run_anyhow(script, *arguments.get(script, (missing,)))
    assert done.returncode == 3
    assert done.stdout == ""
    assert re.fullmatch(rf"{script}: {re.escape(str(missing))}: .+\n", done.stderr)


def run_anyhow(script, *arguments):
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_that_the_system_refuses_is_one_sentence_and_exit_code_3(
    script, monkeypatch, capsys
):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "consolidated.00.pth")

    for name in ("open_checkpoint", "find_subject", "diff_checkpoints"):
        monkeypatch.setattr(llamainspect, name, refuse)
    monkeypatch.setattr(sys, "argv", [script, str(MINI), "h100"][: 2 + (script not in OF_ONE_PATH)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"{script}: [Errno 13] Permission denied: 'consolidated.00.pth'\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_arguments_it_says_what_it_wants(script):
    done = run_anyhow(script)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {script}.py")


@pytest.mark.parametrize("script", [*OF_ONE_PATH, "plan_memory"])
def test_torch_is_not_needed(script, without_torch):
    arguments = (MINI, "h100")[: 1 + (script == "plan_memory")]
    assert run(script, *arguments, env=without_torch) == run(script, *arguments)


@pytest.mark.parametrize("script", ["list_tensors", "stream_statistics"])
def test_a_reader_that_has_seen_enough_is_no_error(script, tmp_path):
    params = TINY | {"n_layers": 16}  # more text than is kept back until the end
    weights = random_weights(dense_shapes(params, TINY_HIDDEN))
    path = write_native(tmp_path, params, [weights])
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), str(path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# --- inspect_checkpoint ---------------------------------------------------------------------------


def sections(printed):
    """First line, and the rows of each section by its heading: first word -> the other words."""
    head, *blocks = printed.split("\n\n")
    return head, {
        block.split("\n")[0]: {
            row.split()[0]: row.split()[1:] for row in block.rstrip().split("\n")[1:]
        }
        for block in blocks
    }


def component(name):
    """What kind a dense Llama's weight is of."""
    words = ("tok_embeddings", "norm", "attention", "feed_forward", "output")
    names = ("token_embedding", "norms", "attention", "feed_forward", "output")
    return next(kind for word, kind in zip(words, names, strict=True) if word in name)


def test_the_inspection_counts_what_the_state_dict_holds():
    weights, params = mini_weights(), mini_params()
    head, found = sections(run("inspect_checkpoint", MINI))
    assert head == f"{MINI}: no official model has this architecture"
    expected = Counter()
    seen = set()
    for name, weight in weights.items():
        if weight.data_ptr() not in seen:
            expected[component(name)] += weight.numel()
        seen.add(weight.data_ptr())
    total = expected.total()
    counts = found["parameters, each weight once"]
    assert counts.pop("total") == [f"{total:,}"]
    assert counts == {k: [f"{n:,}", f"{n / total:.1%}"] for k, n in expected.items()}
    nbytes = Counter()
    for weight in once(weights):
        nbytes[weight.dtype] += weight.numel() * weight.element_size()
    dtypes = {"BF16": [f"{nbytes[torch.bfloat16]:,}"], "total": [f"{nbytes.total():,}"]}
    assert found["bytes of tensors, in all files"] == dtypes
    hidden_dim = len(weights["layers.0.feed_forward.w1.weight"])
    shown = params | {"hidden_dim": hidden_dim, "head_dim": params["dim"] // params["n_heads"]}
    for field, (value,) in found["configuration"].items():
        assert number(value) == shown[field]
    assert "hidden_dim" in found["configuration"]
    size = (MINI / "consolidated.00.pth").stat().st_size
    files = {"consolidated.00.pth": [f"{size:,}", "bytes", f"{len(weights):,}", "tensors"]}
    assert found["layout: meta, shards: 1"] == files


def test_the_inspection_of_a_conversion_counts_the_same(converted):
    native, hub = (sections(run("inspect_checkpoint", path))[1] for path in (MINI, converted))
    for heading in ("parameters, each weight once", "bytes of tensors, in all files"):
        assert native[heading] == hub[heading]
    assert set(hub["layout: hf, shards: 2"]) == {
        f"model-0000{n}-of-00002.safetensors" for n in (1, 2)
    }


def test_the_inspection_knows_an_official_model(tmp_path):
    path = write_sparse(tmp_path, LLAMA_3_70B, 28672, 8)
    head, found = sections(run("inspect_checkpoint", path))
    assert head == f"{path}: llama-3-70b or llama-3-70b-instruct"
    assert len(found["layout: meta, shards: 8"]) == 8


def test_the_inspection_says_what_is_unlike_an_official_model(tmp_path):
    path = write_sparse(tmp_path, LLAMA_3_70B | {"norm_eps": 1e-6}, 28672, 8)
    head, _ = sections(run("inspect_checkpoint", path))
    assert re.search(r": like llama-3-70b.*, but norm_eps", head)


def test_the_inspection_finds_what_is_missing(tmp_path):
    weights = tiny_weights()
    del weights[WQ]
    printed = run("inspect_checkpoint", write_native(tmp_path, TINY, [weights]), code=1)
    assert "findings: 1\n  error: " in printed
    assert f"error: {WQ}: missing" in printed


def test_the_inspection_works_without_a_configuration(tmp_path):
    printed = run("inspect_checkpoint", write_native(tmp_path, None, [tiny_weights()]), code=1)
    assert sections(printed)[1]["configuration"] == {}
    assert "error: params.json: there is none" in printed


# --- list_tensors ---------------------------------------------------------------------------------

ROW = re.compile(r"(\S+) +(\[[\d, ]*\]) +(\w+) +([\d,]+) +([\d,]+)(?:  is (\S+), counted once)?")


def listing(*arguments, **options):
    """Rows of the list by name, and the three totals."""
    head, totals = run("list_tensors", *arguments, **options).split("\n\n")
    rows = [ROW.fullmatch(line).groups() for line in head.split("\n")[1:]]
    assert len({len(line) for line in head.split("\n") if " is " not in line}) == 1  # aligned
    found = re.match(r"([\d,]+) tensors, ([\d,]+) elements, ([\d,]+) bytes\n", totals)
    return {row[0]: row[1:] for row in rows}, tuple(map(number, found.groups()))


def rows_of(weights, tied=()):
    """What is to be listed of a state dict in BF16."""
    return {
        name: (
            str(list(weight.shape)),
            "BF16",
            f"{weight.numel():,}",
            f"{2 * weight.numel():,}",
            "tok_embeddings.weight" if name in tied else None,
        )
        for name, weight in weights.items()
    }


def totals_of(weights):
    """Each storage once."""
    distinct = list(once(weights))
    elements = sum(weight.numel() for weight in distinct)
    return len(distinct), elements, sum(w.numel() * w.element_size() for w in distinct)


def test_the_list_is_what_torch_loads():
    weights = mini_weights()
    tied = [
        name
        for name, weight in weights.items()
        if name == "output.weight"
        and weight.data_ptr() == weights["tok_embeddings.weight"].data_ptr()
    ]
    assert listing(MINI) == (rows_of(weights, tied), totals_of(weights))


def test_the_list_of_a_conversion_has_the_totals_of_its_files(converted):
    stored = []
    for file in sorted(converted.glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            stored += [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    elements = sum(int(np.prod(shape)) for shape in stored)
    rows, totals = listing(converted)
    assert totals == (len(stored), elements, 2 * elements)
    assert totals == listing(MINI)[1]
    native = rows_of(mini_weights())
    assert all(native[name] == row for name, row in rows.items())


def test_two_shards_are_listed_as_one(tiny, tiny2):
    expected = rows_of(tiny_weights()), (21, TINY_PARAMETERS, 2 * TINY_PARAMETERS)
    assert listing(tiny) == expected
    assert listing(tiny2) == expected


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_a_tied_output_counts_once_however_it_is_stored(tmp_path, ranks, shared):
    weights = tiny_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    shards = cut(weights, ranks)
    for shard in shards if shared else ():
        shard["output.weight"] = shard["tok_embeddings.weight"]
    rows, totals = listing(write_native(tmp_path, TINY, shards))
    assert rows == rows_of(weights, ["output.weight"])
    once_each = TINY_PARAMETERS - 128 * 64
    assert totals == (20, once_each, 2 * once_each)


def test_layers_that_share_a_weight_count_it_once(tmp_path):
    weights = tiny_weights()
    weights["layers.1.attention.wq.weight"] = weights[WQ]
    rows, totals = listing(write_native(tmp_path, TINY, [weights]))
    assert rows["layers.1.attention.wq.weight"][-1] == WQ
    assert totals == (20, TINY_PARAMETERS - 64 * 64, 2 * (TINY_PARAMETERS - 64 * 64))


def test_the_list_of_a_lone_shard_says_what_is_missing(tiny2):
    (tiny2 / "consolidated.01.pth").unlink()
    printed = run("list_tensors", tiny2, code=1)
    assert f"21 tensors, {TINY_PARAMETERS:,} elements" in printed
    assert "error: consolidated.01.pth missing: " in printed


# --- verify_conversion ----------------------------------------------------------------------------


def test_a_faithful_conversion_is_identical(converted):
    weights = mini_weights()
    assert run("verify_conversion", MINI, converted) == (
        f"a        {MINI} (meta)\n"
        f"b        {converted} (hf)\n"
        "config   identical\n"
        f"weights  {len(weights):,} identical\n"
        "logits   identical (10 positions)\n"
        "\nno difference found\n"
    )


def test_one_changed_element_is_named(tmp_path):
    weights = {name: weight.clone() for name, weight in mini_weights().items()}
    before = float(weights[WQ][0, 5])  # row 0 of a head is row 0 in both layouts
    weights[WQ][0, 5] = before + 1.0
    apart = abs(float(weights[WQ][0, 5]) - before)
    changed = write_converted(tmp_path, weights, mini_params())
    printed = run("verify_conversion", MINI, changed, code=1)
    assert f"weights  1 changed, {len(weights) - 1:,} identical\n" in printed
    difference = re.search(rf"  {re.escape(WQ)}: 1 of ([\d,]+) elements, at most (\S+) apart; "
                           r"at (\(.+\)) (\S+) became (\S+)\n", printed)  # fmt: skip
    elements, most, place, a, b = difference.groups()
    assert number(elements) == weights[WQ].numel()
    assert float(most) == pytest.approx(apart, rel=1e-8)
    assert place == "(0, 5)"
    assert (float(a), float(b)) == pytest.approx((before, before + apart), rel=1e-2)
    assert re.search(r"\nlogits   at most \d\S* apart, from layer 0 on \(10 positions\)\n", printed)
    assert printed.endswith("\nNOT the same\n")


def test_what_moved_most_comes_first_and_no_more_than_ten(tmp_path, without_torch):
    weights = tiny_weights()
    changed = {name: weight.clone() for name, weight in weights.items()}
    names = [f"layers.{i}.feed_forward.w{n}.weight" for i, n in product((0, 1), (1, 2, 3))]
    names += [f"layers.{i}.attention.w{n}.weight" for i, n in product((0, 1), "qkvo")]
    for power, name in enumerate(names):
        changed[name] *= 1 + 2.0 ** -(power % 6)
    paths = [write_native(tmp_path / x, TINY, [w]) for x, w in (("a", weights), ("b", changed))]
    printed = run("verify_conversion", *paths, code=1, env=without_torch)
    assert "weights  14 changed, 7 identical\n" in printed
    named = re.findall(r"^  (layers\S+): [\d,]+ of", printed, re.MULTILINE)
    powers = [names.index(name) % 6 for name in named]
    assert len(named) == 10
    assert powers == sorted(powers)


def test_another_configuration_is_not_the_same(tmp_path):
    changed = write_converted(tmp_path, mini_weights(), mini_params() | {"norm_eps": 0.25})
    printed = run("verify_conversion", MINI, changed, code=1)
    assert f"config   norm_eps {mini_params()['norm_eps']} became 0.25\n" in printed
    assert f"weights  {len(mini_weights()):,} identical\n" in printed
    assert "logits   at most " in printed
    assert "apart, from layer 0 on" in printed


def test_the_same_values_in_another_dtype_are_not_the_same_bits(tmp_path):
    weights = dict(mini_weights())
    weights["norm.weight"] = weights["norm.weight"].float()
    printed = run(
        "verify_conversion", MINI, write_native(tmp_path, mini_params(), [weights]), code=1
    )
    count = len(weights["norm.weight"])
    assert f"  norm.weight: equal, BF16 ({count},) in a, F32 ({count},) in b\n" in printed
    assert "logits   identical (10 positions)\n" in printed


def test_logits_alone_can_say_no(tmp_path, monkeypatch, capsys):
    diff = llamainspect.diff_checkpoints(str(MINI), str(MINI))
    weights = {name: 2 * weight for name, weight in mini_weights().items()}
    changed = write_native(tmp_path, mini_params(), [weights])
    main = runpy.run_path(str(EXAMPLES / "verify_conversion.py"))["main"]
    monkeypatch.setattr(llamainspect, "diff_checkpoints", lambda *_: diff)
    assert main(str(MINI), str(changed)) == 1
    assert "logits   at most " in capsys.readouterr().out


def test_a_weight_that_is_gone_is_named(tmp_path, without_torch):
    weights = tiny_weights()
    a = write_native(tmp_path / "a", TINY, [weights])
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    del hub["model.layers.1.mlp.up_proj.weight"]
    b = write_hub(tmp_path / "b", hub, hub_config(TINY, TINY_HIDDEN))
    printed = run("verify_conversion", a, b, code=1, env=without_torch)
    assert "weights  1 only_a, 20 identical\n" in printed
    assert (
        "  layers.1.feed_forward.w3.weight: only_a, BF16 (192, 64) in a, None None in b\n"
        in printed
    )


def test_rows_in_the_wrong_order_are_recognised(tmp_path, without_torch):
    weights = tiny_weights()
    a = write_native(tmp_path / "a", TINY, [weights])
    hub = to_hub(weights, TINY, TINY_HIDDEN)
    hub["model.layers.0.self_attn.q_proj.weight"] = weights[WQ]
    b = write_hub(tmp_path / "b", hub, hub_config(TINY, TINY_HIDDEN))
    printed = run("verify_conversion", a, b, code=1, env=without_torch)
    assert "\n  rows of wq and wk in another order" in printed


def test_without_torch_the_logits_are_left_out(converted, without_torch):
    printed = run("verify_conversion", MINI, converted, env=without_torch)
    assert f"weights  {len(mini_weights()):,} identical\n" in printed
    assert "logits   not compared: this needs torch, which is not installed; pip install" in printed
    assert printed.endswith("\nno difference found\n")


# --- plan_memory ----------------------------------------------------------------------------------

MIB = 2**20
LLAMA_3_1_8B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
LLAMA_3_1_8B_HIDDEN = 14336
# Bytes of a row of a linear: a 32-bit scale; a 16-bit scale and a 4-bit zero for 128 values.
ROW_NBYTES = {
    "bf16": lambda columns: 2 * columns,
    "int8": lambda columns: columns + 4,
    "int4": lambda columns: columns / 2 + 2.5 * -(-columns // 128),
}


def planned(*arguments, **options):
    """(form, context) -> MiB of weights, KV cache, prefill, total and each GPU, and the verdict."""
    head, lines, last = run("plan_memory", *arguments, **options).rstrip("\n").split("\n\n")
    rows = [line.split() for line in lines.split("\n")[1:] if line.split()[0] in ROW_NBYTES]
    table = {(row[0], number(row[1])): ([*map(number, row[2:7])], row[7]) for row in rows}
    return head, table, last


def weight_nbytes(params, hidden_dim, form, tied):
    """Linears of the blocks in that form, all else in 16 bits."""
    total = 0
    for name, shape in dense_shapes(params, hidden_dim).items():
        linear = name.startswith("layers.") and len(shape) == 2
        if name != "output.weight" or not tied:
            rows, columns = shape if len(shape) == 2 else (1, *shape)
            total += rows * ROW_NBYTES[form if linear else "bf16"](columns)
    return total


def check_plan(table, params, hidden_dim, tied, contexts):
    assert list(table) == list(product(ROW_NBYTES, contexts))
    head_dim = params["dim"] // params["n_heads"]
    for (form, context), (mib, _) in table.items():
        weights, kv_cache, prefill, total, _ = mib
        expected = weight_nbytes(params, hidden_dim, form, tied) / MIB
        assert weights == pytest.approx(expected, abs=0.0501)
        # keys and values, two bytes each
        token = 2 * 2 * params["n_layers"] * params["n_kv_heads"] * head_dim
        assert kv_cache == pytest.approx(token * context / MIB, abs=0.0501)
        assert total == pytest.approx(weights + kv_cache + prefill, abs=0.21)


def check_verdicts(table, last, capacity):
    largest = dict.fromkeys(ROW_NBYTES, "none")
    for (form, context), (mib, verdict) in table.items():
        assert verdict == ("yes" if mib[-1] <= capacity else "no")
        if verdict == "yes":
            largest[form] = f"{context:,.0f}"
    contexts = "; ".join(f"{form} {context}" for form, context in largest.items())
    assert last == f"largest context of these that fits: {contexts}"


def test_the_plan_of_an_official_model():
    head, table, last = planned("llama-3.1-8b", "rtx-4090")
    assert head.startswith("llama-3.1-8b on 1 x rtx-4090 of 24,564.0 MiB, ")
    check_plan(table, LLAMA_3_1_8B, LLAMA_3_1_8B_HIDDEN, False, (2_048, 8_192, 32_768, 131_072))
    check_verdicts(table, last, capacity=24_564)
    assert {verdict for _, verdict in table.values()} == {"yes", "no"}
    for mib, _ in table.values():
        assert mib[4] == pytest.approx(mib[3] + 1_024, abs=0.11)  # and what CUDA keeps


def test_two_gpus_hold_more():
    (_, one, _), (head, two, last) = (planned("llama-3.1-8b", f"rtx-4090{n}") for n in ("", ":2"))
    assert head.startswith("llama-3.1-8b on 2 x rtx-4090 of 24,564.0 MiB, ")
    check_verdicts(two, last, capacity=24_564)
    for key, (mib, _) in two.items():
        assert mib[:4] == one[key][0][:4]
        assert mib[0] / 2 < mib[4] < one[key][0][4]


def test_the_plan_of_a_checkpoint():
    params, weights = mini_params(), mini_weights()
    hidden_dim = len(weights["layers.0.feed_forward.w1.weight"])
    head, table, last = planned(MINI, "h100")
    assert head.startswith(f"{MINI} on 1 x h100 of 81,559.0 MiB, ")
    tied = torch.equal(weights["output.weight"], weights["tok_embeddings.weight"])
    check_plan(table, params, hidden_dim, tied, sorted({context for _, context in table}))
    check_verdicts(table, last, capacity=81_559)


def test_no_context_is_longer_than_the_models():
    _, table, _ = planned("llama-2-7b", "h100")
    assert list(table) == list(product(ROW_NBYTES, (2_048, 4_096)))


def test_nothing_that_fits_is_exit_code_1():
    _, table, last = planned("llama-3.1-405b", "h100", code=1)
    assert {verdict for _, verdict in table.values()} == {"no"}
    assert last == "largest context of these that fits: bf16 none; int8 none; int4 none"


def test_what_the_estimate_leaves_out_is_said():
    printed = run("plan_memory", "llama-4-scout", "h100:8")
    assert printed.count("\nnote: images: the image encoder's weights are counted") == 1


@pytest.mark.parametrize("gpu", ["abacus", "h100:none"])
def test_an_unknown_gpu_is_one_sentence(gpu):
    assert re.fullmatch(r"plan_memory: .+\n", run("plan_memory", "llama-3.1-8b", gpu, code=3))


# --- stream_statistics ----------------------------------------------------------------------------


def statistics(*arguments, **options):
    """Figures of each weight, and what is said at the end."""
    table, last = run("stream_statistics", *arguments, **options).split("\n\n")
    head, *lines = table.split("\n")
    assert head.split() == ["name", "elements", "mean", "std", "min", "max", "zeros", "NaN", "Inf"]
    assert {len(line) for line in lines} == {len(head)}
    return {line.split()[0]: [*map(number, line.split()[1:])] for line in lines}, last


def check_figures(found, weights):
    assert set(found) == set(weights)
    for name, figures in found.items():
        values = weights[name].double().numpy()
        finite = values[np.isfinite(values)]
        elements, mean, std, low, high, zeros, nan, inf = figures
        assert (elements, zeros) == (values.size, np.count_nonzero(values == 0))
        assert (nan, inf) == (
            np.count_nonzero(np.isnan(values)),
            np.count_nonzero(np.isinf(values)),
        )
        # four digits are printed; a mean near 0 is a sum of much larger numbers
        assert mean == pytest.approx(finite.mean(), rel=6e-4, abs=1e-12)
        assert (std, low, high) == pytest.approx(
            (finite.std(), finite.min(), finite.max()), rel=6e-4
        )


def test_the_statistics_are_those_of_numpy():
    found, last = statistics(MINI)
    check_figures(found, mini_weights())
    assert last == f"{len(found):,} weights, every value finite\n"


def test_the_statistics_of_a_conversion_are_the_same(converted):
    native, hub = (statistics(path)[0] for path in (MINI, converted))
    assert {name: native[name] for name in hub} == hub
    assert set(native) - set(hub) <= {"output.weight"}


def test_two_shards_have_the_statistics_of_one(tiny, tiny2):
    assert run("stream_statistics", tiny2) == run("stream_statistics", tiny)


def test_what_is_not_finite_is_named(tmp_path):
    weights = tiny_weights()
    weights[WQ][3, 5] = float("nan")
    weights["norm.weight"][7] = float("-inf")
    weights["norm.weight"][9] = 0.0
    found, last = statistics(write_native(tmp_path, TINY, [weights]), code=1)
    check_figures(found, weights)
    wrong, also = last.rstrip("\n").split("\n")
    assert wrong.startswith(f"{WQ}: 1 NaN, the first at [3, 5] (consolidated.00.pth @ ")
    assert also.startswith("norm.weight: 1 Inf, the first at [7] (consolidated.00.pth @ ")


def test_a_shard_that_is_gone_is_said_and_the_rest_is_there(tiny2):
    (tiny2 / "consolidated.01.pth").unlink()
    printed = run("stream_statistics", tiny2, code=1)
    assert re.search(r"^norm\.weight +64 +-?0\.\d+ ", printed, re.MULTILINE)
    assert re.search(rf"^{re.escape(WQ)} +4,096 + - +- +- +- +- +- +-$", printed, re.MULTILINE)
    assert "not looked at: parts of it are in shards that cannot be read\n" in printed


def test_weights_that_are_stored_as_one_have_rows_of_their_own(tmp_path):
    weights = random_weights(moe_shapes(TINY_MOE))
    found, last = statistics(write_native(tmp_path, TINY_MOE, [weights]))
    keys = weights["layers.0.attention.wqkv.weight"][64:96]  # behind as many rows as dim is
    check_figures({"wk": found["layers.0.attention.wk.weight"]}, {"wk": keys})
    assert last == f"{len(found):,} weights, every value finite\n"


def test_a_row_is_printed_as_soon_as_it_is_there(tiny, monkeypatch):
    """Between the first row's line and the second row nothing is waited for."""
    happened = []

    class Output:
        def write(self, text):
            happened.append(text.split(" ")[0].strip())

        def flush(self):
            happened.append("flush")

    def stream_stats(path, stream=llamainspect.stream_stats):
        rows = stream(path)
        for row in rows:
            happened.append(f"made {row.name}")
            yield row
        return llamainspect.compute_stats(path)

    main = runpy.run_path(str(EXAMPLES / "stream_statistics.py"))["main"]
    monkeypatch.setattr(llamainspect, "stream_stats", stream_stats)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Output())
        assert main(str(tiny)) == 0
    names = {*tiny_weights()}
    steps = [step for step in happened if step in ("flush", *names) or "made" in step]
    order = [step.removeprefix("made ") for step in steps if "made" in step]
    assert set(order) == names
    assert steps == [step for name in order for step in (f"made {name}", name, "flush")]


@pytest.mark.parametrize("script", OF_ONE_PATH)
def test_names_that_a_terminal_would_obey_are_escaped(script, tmp_path):
    weights = tiny_weights() | {"evil\x1b[31m.weight": torch.full((2,), float("nan"))}
    path = write_native(tmp_path, TINY, [weights])
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "\x1b" not in done.stdout + done.stderr
    assert "evil\\x1b[31m.weight" in done.stdout
