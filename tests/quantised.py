"""Writes small quantised checkpoints as Meta's code reads them, and the floats that they mean.

Layouts are spelled out by hand from llama-models (`llama3/quantization/loader.py`,
`llama4/scripts/quantize.py`) and llama-stack (`hadamard_utils.py`), not taken from the package.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from checkpoints import (
    MOE_BLOCKS,
    TINY,
    TINY_MOE,
    cut,
    dense_shapes,
    moe_weights,
    random_weights,
    write_native,
)

TINY_INT4 = TINY | {
    "multiple_of": 256,  # w2 has 256 columns, a power of 2
    "quantization_args": {
        "scheme": "int4_weight_int8_dynamic_activation",
        "group_size": 32,
        "spinquant": False,
    },
}
INT4_HIDDEN = 256
LINEARS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
RANK, SCALE = 8, 2.0


def floats(shapes: dict[str, tuple[int, ...]], seed: int = 11) -> "OrderedDict[str, torch.Tensor]":
    """Numbers of a size that every part of the model matters with."""
    made = random_weights(shapes, seed, torch.float32)
    for name, weight in made.items():
        weight *= 0.15
        weight += "norm" in name
    return made


def int4_groups(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 that holds -8 to 7, and a scale for each group of a row."""
    groups = weight.reshape(len(weight), -1, group)
    scales = groups.abs().amax(-1) / 7.5
    codes = (groups / scales[..., None]).round().clamp(-8, 7).to(torch.int8)
    return codes.reshape(weight.shape), scales


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = weight.abs().amax(-1, keepdim=True) / 127
    return (weight / scales).round().to(torch.int8), scales  # scales: (rows, 1)


def hadamard_matrix(size: int) -> torch.Tensor:
    made = torch.ones(1, 1)
    while len(made) < size:
        made = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), made)
    return made / size**0.5


def write_int4(
    directory: Path,
    *,
    spinquant: bool = False,
    lora: bool = False,
    zeros: bool = False,
    flat_scales: bool = False,
    group: int = 32,
) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """The checkpoint, its params.json, and the same model in floats (float64 arithmetic)."""
    params: dict[str, Any] = TINY_INT4 | {
        "quantization_args": TINY_INT4["quantization_args"] | {"spinquant": spinquant}
    }
    if lora:
        params["lora_args"] = {"rank": RANK, "scale": SCALE}
    generator = torch.Generator().manual_seed(5)
    stored: OrderedDict[str, torch.Tensor] = OrderedDict()
    meant = {}
    for name, weight in floats(dense_shapes(params, INT4_HIDDEN)).items():
        stem = name.removesuffix(".weight")
        if name in ("tok_embeddings.weight", "output.weight"):
            stored[name], scales = int8_rows(weight)
            stored[f"{stem}.scales"] = scales[:, 0] if flat_scales else scales
            meant[name] = stored[name].double() * scales.double()
        elif stem.rpartition(".")[2] in LINEARS:
            stored[name], scales = int4_groups(weight, group)
            stored[f"{stem}.scales"] = scales
            codes = stored[name].double().unflatten(1, (-1, group))
            if zeros:
                offsets = torch.randint(-2, 3, scales.shape, generator=generator).float()
                stored[f"{stem}.zeros"] = offsets
                codes = codes - offsets[..., None].double()
            made = (codes * scales[..., None].double()).flatten(1)
            if lora:
                a = 0.05 * torch.randn(RANK, weight.shape[1], generator=generator)
                b = 0.05 * torch.randn(weight.shape[0], RANK, generator=generator)
                a, b = a.bfloat16(), b.bfloat16()
                stored[f"{stem}.adaptor.A.weight"], stored[f"{stem}.adaptor.B.weight"] = a, b
                made = made + SCALE * b.double() @ a.double()
            if spinquant and stem.endswith("feed_forward.w2"):
                made = made @ hadamard_matrix(weight.shape[1]).double()
            meant[name] = made
        else:
            stored[name] = weight.bfloat16()
            meant[name] = stored[name].double()
    return write_native(directory, params, [stored]), params, meant


def fp8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (..., rows, columns): values, and scales (..., rows) that multiply them."""
    scales = weight.abs().amax(-1) / torch.finfo(torch.float8_e4m3fn).max
    return (weight / scales[..., None]).to(torch.float8_e4m3fn), scales


def write_fp8(
    directory: Path, ranks: int, layers: int = 4
) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """Llama 3: feed-forward of all but the first and last layer, each rank by itself."""
    params: dict[str, Any] = TINY | {"n_layers": layers}
    weights = floats(dense_shapes(params, 192))
    shards = cut(weights, ranks)
    back: list[dict[str, torch.Tensor]] = []
    for rank, shard in enumerate(shards):
        scales = {}
        meant = {}
        for name, weight in shard.items():
            words = name.split(".")
            if "feed_forward" in words and words[1] not in ("0", str(layers - 1)):
                shard[name], scale = fp8_rows(weight)
                scales[f"{words[1]}_feed_forward.{words[3]}_{rank}"] = scale
                meant[name] = shard[name].double() * scale[:, None].double()
            else:
                shard[name] = weight.bfloat16()
                meant[name] = shard[name].double()
        back.append(meant)
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(scales, directory / f"fp8_scales_{rank}.pt")
    return write_native(directory, params, shards), params, joined(back, weights)


def joined(
    shards: list[dict[str, torch.Tensor]], like: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The parts of all ranks put together, along the axis in which they are smaller."""
    whole = {}
    for name, weight in like.items():
        parts = [shard[name] for shard in shards]
        pairs = zip(parts[0].shape, weight.shape, strict=True)
        axes = [axis for axis, (part, all_) in enumerate(pairs) if part != all_]
        whole[name] = torch.cat(parts, axes[0]) if axes else parts[0]
    return whole


EXPERTS = {"w1": "moe_w_in_eD_F", "w3": "moe_w_swiglu_eD_F", "w2": "moe_w_out_eF_D"}


def write_fp8_moe(
    directory: Path, ranks: int, layers: int = 4
) -> tuple[Path, dict[str, Any], list[dict[str, torch.Tensor]]]:
    """Llama 4: routed experts of all but the first and last layer; the floats rank by rank."""
    params: dict[str, Any] = TINY_MOE | {
        "n_layers": layers,
        "moe_args": TINY_MOE["moe_args"] | {"interleave_moe_layer_step": 1},
    }
    experts = params["moe_args"]["num_experts"]
    weights = moe_weights(params)
    shards = cut(weights, ranks, blocks=MOE_BLOCKS)
    back = []
    directory.mkdir(parents=True, exist_ok=True)
    for rank, shard in enumerate(shards):
        scales, meant = {}, {}
        for name, weight in shard.items():
            words = name.split(".")
            field = next((f for f, last in EXPERTS.items() if words[-1] == last), None)
            if field and words[1] not in ("0", str(layers - 1)):
                turned = weight.unflatten(0, (experts, -1)).transpose(1, 2)  # (e, out, in)
                values, scale = fp8_rows(turned.contiguous())
                scales[f"layers.{words[1]}.feed_forward.experts.{field}"] = scale
                shard[name] = values.transpose(1, 2).reshape(weight.shape).contiguous()
                numbers = values.double() * scale[..., None].double()
                meant[name] = numbers.transpose(1, 2).reshape(weight.shape).contiguous()
            else:
                shard[name] = weight.bfloat16()
                meant[name] = shard[name].double()
        back.append(meant)
        torch.save(scales, directory / f"fp8_scales_{rank}.pt")
    return write_native(directory, params, shards), params, back
