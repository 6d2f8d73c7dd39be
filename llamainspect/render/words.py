"""What views say of a report in words. Whatever the face."""

from collections.abc import Iterable
from typing import Any, get_args

from llamainspect.names import counted
from llamainspect.render.numbers import count_text, nbytes_text
from llamainspect.render.printable import printable
from llamainspect.reports import (
    Finding,
    LayerCount,
    ModelMatch,
    Severity,
    StoredForm,
    Summary,
    TensorEntry,
)

# Configuration fields in the order a reader asks for them; what is left out follows by itself.
CONFIG_LABELS = {
    "dim": "dim",
    "n_layers": "layers",
    "n_heads": "heads",
    "n_kv_heads": "KV heads",
    "head_dim": "head_dim",
    "hidden_dim": "FFN hidden size",
    "vocab_size": "vocabulary",
    "norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "use_scaled_rope": "scaled RoPE",
    "rope_type": "RoPE scaling",
    "moe": "experts",
    "vision": "vision",
    "cross_attention": "cross-attention",
    "quantization": "quantization",
    "lora": "LoRA",
}


def exact_match(report: Summary) -> str:
    """What an exact match is a match of."""
    shards = " and shards" if report.format == "meta" else ""
    return f"configuration, shapes{',' if shards else ' and'} dtype{shards}"


def same_configuration(model: ModelMatch) -> str:
    """Other models that have the same configuration."""
    names = ", ".join(model.same_configuration)
    apart = " (the same headers; files cannot tell them apart)" * (model.match == "exact")
    return names + apart


def config_value(key: str, config: dict[str, Any]) -> str:
    """One field of a summary's configuration; `key` of CONFIG_LABELS."""
    value = config[key]
    if key == "n_kv_heads":
        group = config["gqa_group"]
        return f"{value:,} (GQA {group})" if group > 1 else f"{value:,}"
    if key == "moe":
        return (
            f"{value['num_experts']} routed, top {value['top_k']}, of hidden size "
            f"{value['hidden_dim']:,}, in every {_ordinal(value['interleave_moe_layer_step'])}layer"
        )
    if key == "vision":
        height, width = value["image_size"]
        return f"{value['n_layers']} layers of {value['dim']:,}, images of {height} x {width} px"
    if key == "cross_attention":
        return f"{value['n_layers']} layers, image tiles of {value['chunk_size']} px"
    if isinstance(value, dict):
        shown = {k: v for k, v in value.items() if v not in (None, False) and k != "native"}
        return ", ".join(k if v is True else f"{k} {v}" for k, v in shown.items())
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _ordinal(step: int) -> str:
    return "" if step == 1 else f"{step}{'nd' if step == 2 else 'rd' if step == 3 else 'th'} "


def stored_rows(forms: tuple[StoredForm, ...]) -> list[tuple[str, str]]:
    """Forms and what is kept in each; nothing where all weights are plain floats."""
    if all(row.scales_nbytes == 0 for row in forms):
        return []
    return [(row.form, _stored(row)) for row in forms]


def _stored(row: StoredForm) -> str:
    parts = [f"{count_text(row.elements)} values, {nbytes_text(row.values_nbytes)}"]
    if row.scales_nbytes:
        each = f"{row.group} values" if row.group else "row"
        inside = f" in {row.dtype}" * (row.form == "int4")
        parts[0] += inside
        parts.append(f"a scale for each {each}, {nbytes_text(row.scales_nbytes)}")
    if row.adaptors_nbytes:
        parts.append(f"LoRA adaptors, {nbytes_text(row.adaptors_nbytes)}")
    names = ", ".join(name.replace("_", " ") for name in row.components)
    return f"{'; '.join(parts)}: {names}"


def layer_rows(layers: tuple[LayerCount, ...]) -> list[tuple[str, int]]:
    """Layers of one size together, however they alternate: "each of 24 layers (1, 3, 5, ...)"."""
    by_size: dict[int, list[int]] = {}
    for entry in layers:
        by_size.setdefault(entry.parameters, []).append(entry.layer)
    return [(_layer_label(numbers), size) for size, numbers in by_size.items()]


def _layer_label(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"each of layers {numbers[0]}-{numbers[-1]}"
    shown = ", ".join(map(str, numbers[:3]))
    return f"each of {len(numbers)} layers ({shown}, …)"


def cut_text(entry: TensorEntry) -> str:
    """How shards share a weight; nothing where one file has it whole."""
    if len(entry.files) == 1:
        return ""
    parts = len(entry.files)
    return f"{parts} copies" if entry.axis is None else f"{parts} parts, axis {entry.axis}"


def tokenizer_text(tokenizer: dict[str, Any]) -> str:
    """sentencepiece, 512 tokens; and where it is, when that is not where one looks first."""
    size = tokenizer["vocab_size"] or tokenizer["base_tokens"]
    file = printable(tokenizer["file"])
    place = f", in {file}" if "/" in file else ""
    tokens = "" if size is None else f", {size:,} tokens"
    return f"{tokenizer['kind']}{tokens}{place}"


def tally(findings: Iterable[Finding]) -> str:
    """1 error, 3 notes; nothing where there are none."""
    severities = [finding.severity for finding in findings]
    counts = {severity: severities.count(severity) for severity in get_args(Severity)}
    return ", ".join(counted(n, severity) for severity, n in counts.items() if n)
