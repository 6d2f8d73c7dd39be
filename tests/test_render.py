"""Text views: every report has one, and the pages look as recorded."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from checkpoints import TINY_MOE, moe_shapes, random_weights, write_native

from llamainspect import (
    Message,
    StatsOptions,
    TrainingPlan,
    Usage,
    Work,
    build_report,
    compute_stats,
    describe_vocabulary,
    detokenize,
    estimate_compute,
    estimate_memory,
    explain_model,
    find_subject,
    list_models,
    list_tensors,
    load_tokenizer,
    open_checkpoint,
    parse_gpus,
    scan_files,
    show_tensor,
    summarize,
    tokenize,
    tokenize_dialogue,
    verify_checksums,
)
from llamainspect.render.json import json_pieces
from llamainspect.render.numbers import count_text, nbytes_text
from llamainspect.render.printable import printable
from llamainspect.render.text import to_text
from llamainspect.render.text import verify as verify_view
from llamainspect.render.text.common import view
from llamainspect.reports import (
    Candidate,
    CheckpointDiff,
    ChoiceAccuracy,
    ChoiceEvaluation,
    ChoiceScores,
    ConfigDifference,
    Evaluation,
    Finding,
    Generation,
    GroupDifference,
    Likeness,
    LogitsComparison,
    LogitsReport,
    ModelRun,
    PositionDifference,
    PositionLogits,
    Report,
    StageDifference,
    Token,
    Tolerance,
    WeightDifference,
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"
PAGES = Path(__file__).parent / "data" / "pages"

RUN = ModelRun(
    "llama-3.2-1b", "cpu", None, 2, "bf16", True, 32.0, "config.json on the hub",
    "int4, groups of 128", "2.13.0", 645_922_816, 2_471_645_608,
)  # fmt: skip
CANDIDATES = (
    Candidate(12366, " Paris", b" Paris".hex(), 0.4131, 15.25),
    Candidate(107, "\ufffd", "e6", 0.00004, 6.015),
)
WEIGHT = WeightDifference(
    "layers.7.attention.wq.weight", "changed", "attention", 7, (128, 64), (128, 64), "BF16", "BF16",
    8_192, 3, 0.25, 0.5, 0.875, (41, 32), (41, 34), "0.12", "0.118",
    "consolidated.00.pth @ 200,000", "model.safetensors @ 7,000", 0, 0,
)  # fmt: skip
# Made by hand: what is computed differs in the last digits from processor to processor.
COMPUTED = {
    "logits": LogitsReport(
        "Llama3.2-1B", RUN, (128000, 791, 3), (
            Token(128000, "<|begin_of_text|>", b"<|begin_of_text|>".hex(), True),
            Token(791, "The", b"The".hex(), False), Token(3, "\x1b", "1b", False),
        ), CANDIDATES, 3.25, (
            PositionLogits(0, 128000, CANDIDATES), PositionLogits(1, 791, CANDIDATES[:1]),
        ), "paris.safetensors", 1_539_072, 1.5, (),
    ),
    "verify-logits": LogitsComparison(
        "merged", "against", "Llama3.2-1B", "cpu, bf16", RUN, (128000, 791), 0.75, 0.125, 0.03125,
        0.0625, 0.5, 0.8, 20.0, Tolerance("bf16", 0.05, 0.02, "both are run in it"), 1.0, False,
        False, (
            PositionDifference(0, 128000, 0.5, 0.1, 0.0, 5, 5, 1.0),
            PositionDifference(1, 791, 0.75, 0.15, 0.0625, 7, 9, 0.6),
        ), (
            StageDifference("embedding", None, 0.0, 0.0),
            *(StageDifference(f"layer {i}", i, 0.0, 0.0) for i in range(9)),
            *(StageDifference(f"layer {i}", i, i / 64, i / 128) for i in range(9, 16)),
            StageDifference("norm", None, 0.25, 0.125),
        ), "layer 9", "layer 9", 2.0, (Finding("warning", "Llama3.2-1B", "norm_eps is 1e-05"),),
    ),
    "diff": CheckpointDiff(
        "Llama3.2-1B", "merged\x1b[31m", "meta", "hf", False, False, (
            ConfigDifference("rope.factor", 8.0, 32.0, True),
            ConfigDifference("eos_token_id", "[1, 2]", None, False),
        ), (
            WEIGHT._replace(name="output.weight", status="shape", shape_b=(130, 64), changed=None,
                            max_abs=None, rel_l2=None, cosine=None, first=None),
            WEIGHT,
            WEIGHT._replace(name="norm.weight", dtype_b="F32", changed=8_192, rel_l2=0.0031,
                            first=None, not_finite_b=3),
            WEIGHT._replace(name="tok_embeddings.weight", status="identical", changed=0),
        ), (
            GroupDifference("attention", 64, 1, 100_000, 3, 0.25, 0.5, 0.875),
            GroupDifference("norms", 33, 1, 67_584, 8_192, 0.25, None, None),
        ), tuple(
            GroupDifference(f"layer {i}", 9, 1, 8_192, i, 0.25, i / 64, 1 - i / 64)
            for i in range(1, 15)
        ), {"identical": 143, "changed": 2, "shape": 1, "only_b": 0},
        Likeness("fine_tune", "a fine-tune: 2 weights of 146 changed"), 0.001, 0.01, 123, 1.5,
        (Finding("warning", "merged: model.safetensors.index.json", "its total_size is 1"),),
    ),
    "generate": Generation(
        "Llama3.2-1B", RUN, (128000, 791), (12366, 13, 128009), " Paris.\n\x1b[31m", "stop token",
        128009, "temperature 0.8, top-p 0.9", 7, 0.5, 0.25, 4.0, 8.0, 65_536, (),
    ),
    "evaluate": Evaluation(
        "Llama3.2-1B", "wiki.txt", RUN, 1_290_590, 287_645, 287_644, 2048, 1024, 280, 2.276,
        9.7377, 0.7318, 3600.0, 79.9, (),
    ),
    "evaluate-choices": ChoiceEvaluation(
        "Llama3.2-1B", "hellaswag_val.jsonl", "hellaswag", RUN, 10_042, 40_168, 3_591_004, 0.25,
        6_146, 0.612, 0.6025, 0.6215, (
            ChoiceAccuracy("character", 6_146, 0.612, 0.6025, 0.6215),
            ChoiceAccuracy("token", 6_090, 0.6065, 0.5968, 0.616),
            ChoiceAccuracy("total", 4_719, 0.4699, 0.4602, 0.4797),
        ), (ChoiceScores(1, 3, {"character": 3}, (-9.0, -8.0), (2, 2), (8, 9)),), 3600.0, 997.5, (),
    ),
}  # fmt: skip
REPORTS = {
    **{name: lambda path, report=report: report for name, report in COMPUTED.items()},
    "summary": lambda path: summarize(open_checkpoint(path)),
    "tensors": lambda path: list_tensors(open_checkpoint(path), "layers.0.*"),
    "show": lambda path: show_tensor(open_checkpoint(path), "layers.0.attention.wk.weight"),
    "verify-checksums": lambda path: verify_checksums(path),
    "scan": lambda path: scan_files(path),
    "memory": lambda path: estimate_memory(find_subject(path)),
    "memory-gpu": lambda path: estimate_memory(
        find_subject("llama-4-scout-17b-16e"),
        Usage("int4", context=100_000),
        gpus=parse_gpus("h100"),
        explained=True,
    ),
    "memory-training": lambda path: estimate_memory(
        find_subject("llama-3.1-8b"),
        training=TrainingPlan("qlora", checkpointing=True),
        gpus=parse_gpus("t4"),
        explained=True,
    ),
    "compute": lambda path: estimate_compute(find_subject(path), explained=True),
    "compute-moe": lambda path: estimate_compute(
        find_subject("llama-4-scout-17b-16e"), Work(gpus=parse_gpus("h200:8"), dtype="fp8")
    ),
    "stats": lambda path: compute_stats(path, StatsOptions(top=4)),
    "stats-quantize": lambda path: compute_stats(
        path, StatsOptions("layers.*", "error", 4, quantize="int4", group_size=32)
    ),
    "stats-plot": lambda path: compute_stats(
        path, StatsOptions(plot="layers.1.attention.wk.weight", logarithmic=True)
    ),
    "report": lambda path: replace(build_report(path), file="report.html", file_nbytes=600_000),
    "explain": lambda path: explain_model(find_subject(path)),
    "explain-name": lambda path: explain_model(find_subject("llama-4-maverick-17b-128e"), "rope"),
    "models": lambda path: list_models("llama-3*"),
    "models-card": lambda path: list_models("llama-4-scout-17b-16e"),
    "tokenize": lambda path: tokenize(load_tokenizer(path), '<s> "é"\n\t🦙  \\x', bos=True),
    "tokenize-dialogue": lambda path: tokenize_dialogue(
        load_tokenizer(path),
        [
            Message("system", "Be brief."),
            Message("user", "[INST]?"),
            Message("assistant", "No.\n"),
            Message("user", "Why?"),
        ],
    ),
    "detokenize": lambda path: detokenize(load_tokenizer(path), [1, 424, 13, 30, 195, 506]),
    "vocab": lambda path: describe_vocabulary(load_tokenizer(path), stats=True),
    "vocab-id": lambda path: describe_vocabulary(load_tokenizer(path), ids=[300]),
    "vocab-search": lambda path: describe_vocabulary(load_tokenizer(path), search="er"),
}


def test_every_report_has_a_text_view():
    for report in Report.__subclasses__():
        assert view.dispatch(report) is not view.dispatch(object), report.__name__


@pytest.mark.parametrize("command", REPORTS)
def test_pages_at_100_columns_are_as_recorded(command, monkeypatch):
    monkeypatch.chdir(EXAMPLE.parent.parent)
    report = REPORTS[command]("examples/mini-llama")
    page = to_text(report, terminal=True, plain=True, width=100)
    assert page == (PAGES / f"{command}.txt").read_text(encoding="utf-8")


def as_loaded(value):
    """What `json` reads of a value that was written: named tuples as objects."""
    if isinstance(value, Report):
        return {
            "ok": value.ok,
            **{f.name: as_loaded(getattr(value, f.name)) for f in fields(value)},
        }
    if hasattr(value, "_asdict"):
        return as_loaded(value._asdict())
    if isinstance(value, dict):
        return {name: as_loaded(member) for name, member in value.items()}
    return [as_loaded(member) for member in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("command", REPORTS)
def test_json_is_what_the_report_holds_row_by_row(command, monkeypatch):
    monkeypatch.chdir(EXAMPLE.parent.parent)
    report = REPORTS[command]("examples/mini-llama")
    pieces = list(json_pieces(report))
    assert json.loads("".join(pieces)) == {
        "report": report.NAME,
        "schema": 1,
        **as_loaded(report),
    }
    assert all(len(piece) < 20_000 for piece in pieces)


def test_json_of_rows_that_come_again_and_again():
    """Whether their text is kept (256 are) or not, each has its own."""
    inventory = list_tensors(open_checkpoint(str(EXAMPLE)))
    rows = [inventory.tensors[0]._replace(name=f"t{n}") for n in range(300)]
    many = replace(inventory, tensors=(*rows, *rows[:10], rows[299], rows[299]))
    names = [row["name"] for row in json.loads("".join(json_pieces(many)))["tensors"]]
    assert names == [f"t{n}" for n in (*range(300), *range(10), 299, 299)]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (80, "80 bytes"),
        (1023, "1,023 bytes"),
        (1536, "1.50 KiB"),
        (5 * 2**20, "5.00 MiB"),
        (16_060_617_592, "14.96 GiB"),
        (2**40, "1,024.00 GiB"),
    ],
)
def test_bytes_for_people(nbytes, text):
    assert nbytes_text(nbytes) == text


def test_bytes_of_a_column_have_one_unit_unless_that_says_nothing():
    assert nbytes_text(64 * 2**20, like=2**34) == "0.06 GiB"
    assert nbytes_text(2**20, like=2**34) == "1.00 MiB"
    assert nbytes_text(0, like=2**34) == "0.00 GiB"
    assert nbytes_text(10**24) == "931,322,574,615,478.52 GiB"


def test_counts_for_people():
    assert count_text(8_030_261_248) == "8,030,261,248 (8.03 B)"
    assert count_text(109_529_856) == "109,529,856 (109.53 M)"
    assert count_text(999_999) == "999,999"


def test_printable_shows_what_a_terminal_would_obey():
    assert printable("a\x00b\x1b\u009b\u202e\ufeff\ud800") == r"a\x00b\x1b\u009b\u202e\ufeff\ud800"
    name = b"a\xff\x80".decode("utf-8", "surrogateescape")  # as names of files come
    assert printable(name) == r"a\xff\x80"
    assert printable("weiß 模型 [bold]") == "weiß 模型 [bold]"
    assert printable("x" * 300) == "x" * 199 + "…"


def test_every_kind_of_configuration_has_a_page(tmp_path):
    """Experts, an image encoder, cross-attention, quantisation and LoRA, in words."""
    params = TINY_MOE | {
        "vision_args": {
            "image_size": {"height": 28, "width": 28}, "patch_size": {"height": 14, "width": 14},
            "dim": 32, "n_layers": 1, "n_heads": 4, "mlp_ratio": 4.0, "output_dim": 64,
            "pixel_shuffle_ratio": 0.5,
        },
        "vision_chunk_size": 448, "vision_max_num_chunks": 4,
        "vision_num_cross_attention_layers": 8,
        "quantization_args": {"scheme": "int4", "group_size": 32},
        "lora_args": {"rank": 16, "scale": 2.0},
    }  # fmt: skip
    write_native(tmp_path, params, [random_weights(moe_shapes(TINY_MOE))])
    page = to_text(summarize(open_checkpoint(str(tmp_path))), terminal=True, plain=True, width=100)
    for line in (
        "experts          4 routed, top 1, of hidden size 128, in every 2nd layer",
        "vision           1 layers of 32, images of 28 x 28 px",
        "cross-attention  8 layers, image tiles of 448 px",
        "quantization     scheme int4, group_size 32",
        "LoRA             rank 16, scale 2.0",
    ):
        assert line in page


def test_what_is_wrong_with_files_stands_below_them(tmp_path, monkeypatch):
    """A flipped bit, a missing shard, a web page, a directory, a bad list: the page as recorded."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLE, "llama")
    data = bytearray(Path("llama/consolidated.00.pth").read_bytes())
    data[200_000] ^= 4
    Path("llama/consolidated.00.pth").write_bytes(data)
    Path("llama/params.json").write_text("<html>please log in</html>")
    Path("llama/tokenizer.model").unlink()
    Path("llama/tokenizer.model").mkdir()
    with Path("llama/checklist.chk").open("a") as checklist:
        checklist.write(f"{'0' * 32}  consolidated.01.pth\n{'0' * 32}  ../etc/passwd\n\x1b[31m\n")
    page = to_text(verify_checksums("llama"), terminal=True, plain=True, width=100)
    assert page == (PAGES / "verify-checksums-wrong.txt").read_text(encoding="utf-8")


def test_a_list_of_very_many_files_is_shown_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(verify_view, "MAX_FILES", 3)
    lines = [f"{'0' * 32}  missing-{number}\n" for number in range(10)]
    (tmp_path / "checklist.chk").write_text("".join(lines))
    page = to_text(verify_checksums(str(tmp_path)), terminal=False, plain=True)
    assert "(7 more files; --json has all)" in page
    assert "10 of 10 wrong" in page
    assert page.count("\nmissing  missing-") == page.count("\n  there is no such file") == 3
