"""Valid tiny files for each target, by the programs that write such files.

python tests/fuzz/seeds.py TARGET DIRECTORY     writes them there

A process of its own makes them for the fuzzer, which would otherwise hold torch in its memory.
"""

import hashlib
import io
import json
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import safetensors.torch
import torch
from checkpoints import TINY_MOE, dense_shapes, random_weights
from fuzz.mutations import records_of
from fuzz.targets import HUB_CONFIG, HUB_SHARDS, PARAMS, WEIGHTS
from hub_layout import hub_config, hub_config_moe
from malicious import FILES, PICKLES, as_file
from small_tokenizers import (
    LLAMA_3_PATTERN,
    byte_level_json,
    code_llama_file,
    rank_file,
    sentencepiece_file,
    sentencepiece_json,
    train_ranks,
)

RANKS = 300


def saved(value: Any, protocol: int = 2, zero_sums: bool = False) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    if zero_sums:
        torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, buffer, pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    return buffer.getvalue()


@cache
def _pth() -> list[bytes]:
    weights = random_weights(dense_shapes(PARAMS, 24))
    one = torch.arange(12, dtype=torch.float32)
    views = {
        "a": one[2:8].view(2, 3).T,
        "b": one.expand(3, 12),
        "c": [torch.tensor(1.5), torch.ones(0, 3), {"d": one[::3]}],
        3: torch.nn.Parameter(torch.ones(2, 2)),
    }
    return [
        saved(weights),
        saved({"model": weights, "step": 3, "lr": 1e-4}),
        saved(views),
        saved(views, protocol=5),
        saved({"f8": torch.ones(4).to(torch.float8_e4m3fn), "n": np.float64(1.0)}),
        saved({"w": torch.ones(3), "x": torch.ones(2)}, zero_sums=True),
        saved(OrderedDict()),
    ]


def _pickles() -> list[bytes]:
    various = {
        "p": torch.nn.Parameter(torch.ones(2, 3)),
        "c": {"d": [torch.ones(3, dtype=torch.complex64).conj(), 1, -7, 2**70, 2.5, None, True]},
        "sparse": torch.sparse_coo_tensor(
            torch.tensor([[0]]), torch.ones(1), (2,), check_invariants=True
        ),
        "state": torch.nn.Linear(2, 2).state_dict(),
        "meta": torch.empty(2, device="meta"),
        "extra": io.BytesIO(b"abc"),
        "foreign": {1, 2}, "path": Path("x"), "bytes": b"\0\xff",
    }  # fmt: skip
    found = []
    for data in [*_pth(), saved(various), saved(various, protocol=5)]:
        found += [content for name, content in records_of(data) or () if name.endswith(b".pkl")]
    return found


def _malicious() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        written = []
        for write in [*FILES.values(), *map(as_file, PICKLES.values())]:
            write(path)
            written.append(path.read_bytes())
    return [data for data in written if len(data) < 2**13]


def _damaged() -> list[bytes]:
    whole = _pth()
    first = whole[0]
    return [*whole, first[: len(first) // 2], first[:-30], first + b"more", whole[2] * 2]


def _safetensors() -> list[bytes]:
    dtypes = [torch.float32, torch.int8, torch.bool, torch.float8_e5m2, torch.int64]
    tensors = {str(dtype)[6:]: torch.zeros(2, 3).to(dtype) for dtype in dtypes}
    hub = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in WEIGHTS.items()}
    return [
        safetensors.torch.save(tensors, {"format": "pt"}),
        safetensors.torch.save({"s": torch.tensor(1.0), "e": torch.zeros(0, 2)}),
        safetensors.torch.save({}),
        safetensors.torch.save(hub),
    ]


def _json(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def _index() -> list[bytes]:
    where = {name: file for file, names in HUB_SHARDS.items() for name in names}
    return _json({"metadata": {"total_size": 1616}, "weight_map": where}, {"weight_map": {}})


def _params() -> list[bytes]:
    vision = {"image_size": {"height": 8, "width": 8}, "patch_size": {"height": 2, "width": 2},
              "dim": 8, "n_layers": 1, "n_heads": 2, "mlp_ratio": 4.0, "output_dim": 8,
              "pixel_shuffle_ratio": 0.5}  # fmt: skip
    seeing = {"vision_num_cross_attention_layers": 1, "vision_chunk_size": 56,
              "vision_max_num_chunks": 4}  # fmt: skip
    small = {"quantization_args": {"scheme": "int4", "group_size": 4, "spinquant": True},
             "lora_args": {"rank": 2, "scale": 2.0}}  # fmt: skip
    return _json(
        PARAMS,
        PARAMS | {"ffn_dim_multiplier": 1.3, "use_scaled_rope": True, "vocab_size": -1},
        TINY_MOE | {"vision_args": vision},
        PARAMS | seeing,
        PARAMS | small,
    )


def _config() -> list[bytes]:
    mllama = HUB_CONFIG | {"model_type": "mllama_text_model", "num_hidden_layers": 2,
                           "cross_attention_layers": [1]}  # fmt: skip
    vision = {"hidden_size": 8, "patch_size": 2, "image_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 16,
              "vision_output_dim": 8}  # fmt: skip
    return _json(
        HUB_CONFIG,
        hub_config(PARAMS | {"use_scaled_rope": True}, 24),
        hub_config(PARAMS, 24, spelling=4)
        | {"quantization_config": {"quant_method": "gptq", "group_size": 128}},
        hub_config_moe(TINY_MOE),
        {"model_type": "llama4", "text_config": hub_config_moe(TINY_MOE), "vision_config": vision},
        mllama,
    )


def _lists() -> list[bytes]:
    digests = [hashlib.new(name, b"weights").hexdigest() for name in ("md5", "sha1", "sha256")]
    gnu = "".join(f"{digest}  consolidated.00.pth\n" for digest in digests)
    bsd = f"MD5 (consolidated.00.pth) = {digests[0]}\r\nSHA2-256 (a/b) = {digests[2].upper()}\r\n"
    odd = f"# a comment\n{digests[1]} *tokenizer.model\n\\{digests[0]}  a\\nb\n{digests[0]}  ../c\n"
    return [gnu.encode(), bsd.encode(), odd.encode(), gnu.encode("utf-16")]


def _dialogues() -> list[bytes]:
    turns = [{"role": role, "content": "text"} for role in ("system", "user", "assistant", "user")]
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    return _json(turns, {"messages": [*turns, parts]}, [parts, {"role": "tool", "content": "4"}])


def _questions() -> list[bytes]:
    own = {"context": "a", "endings": [" b", " c"], "label": 1}
    hellaswag = {"activity_label": "A", "ctx_a": "b", "ctx_b": "c [title] d", "ctx": "e",
                 "endings": ["f", "g"], "label": "0"}  # fmt: skip
    return [b"\n".join(_json(own, own)), b"\n".join(_json(hellaswag, hellaswag))]


def _recordings() -> list[bytes]:
    logits = torch.linspace(-1, 1, 12).view(3, 4)
    tokens = torch.tensor([1, 2, 3])
    return [
        safetensors.torch.save({"tokens": tokens, "logits": logits}, {"dtype": "bf16"}),
        safetensors.torch.save(
            {"tokens": tokens.int()[None], "logits": logits[:1].half(), "positions": tokens[:1]}
        ),
    ]


def _npz() -> list[bytes]:
    logits = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    made = [io.BytesIO(), io.BytesIO()]
    np.savez(made[0], tokens=np.array([1, 2, 3]), logits=logits)
    np.savez_compressed(
        made[1], tokens=np.array([[1, 2]], ">i4"), logits=logits[:1].T.copy().T,
        positions=np.array([1]),
    )  # fmt: skip
    return [file.getvalue() for file in made]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "zip": _pth,
    "salvage": _damaged,
    "pickle": _pickles,
    "pth": _pth,
    "scan": lambda: [*_pth(), *_pickles(), *_malicious()],
    "safetensors": _safetensors,
    "hub": _safetensors,
    "index": _index,
    "params": _params,
    "config": _config,
    "checklist": _lists,
    "hub-metadata": lambda: [b"%s\n\"%s\"\n1700000000.0\n" % (b"a" * 40, b"b" * 64)],
    "sentencepiece": lambda: [sentencepiece_file(), code_llama_file()],
    "tiktoken": lambda: [rank_file(RANKS)],
    "tokenizer-json": lambda: [
        byte_level_json(train_ranks(RANKS), LLAMA_3_PATTERN, ["<|begin_of_text|>", "<|eot_id|>"]),
        sentencepiece_json(sentencepiece_file()),
    ],
    "dialogue": _dialogues,
    "questions": _questions,
    "ids": lambda: [b"1 2 3", b"[1, 22,\n-3]"],
    "recording": _recordings,
    "recording-npz": _npz,
}  # fmt: skip


def main(target: str, directory: str) -> None:
    """Write the seeds of a target into a directory."""
    for data in SEEDS[target]():
        file = Path(directory) / hashlib.sha1(data).hexdigest()
        file.write_bytes(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
