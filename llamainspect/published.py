"""Digests of official files that people who downloaded them have posted in public.

A match says that the file is the one that was published. No match says nothing: few files are here.
Sources, as each row names them:
- llama-dl: https://github.com/shawwn/llama-dl/issues/4, Meta's checklists of Llama 1; the weights
  also in https://github.com/ggml-org/llama.cpp/issues/238
- llama.cpp: its SHA256SUMS of 2023, also in https://github.com/meta-llama/llama/pull/87
- llama#541: https://github.com/meta-llama/llama/issues/541, MD5 of Llama 2 downloads
- tokenizers: MD5 of `tokenizer.model`, as Meta's checklists of Llama 2 and 3 have it, and of the
  file in the Llama 4 releases
"""

from typing import NamedTuple


class PublishedDigest(NamedTuple):
    """One official file. `model` is a catalog id; for a tokenizer, the generations that use it."""

    model: str
    file: str
    algorithm: str
    digest: str  # hex
    source: str


def _weights(model: str, *digests: str, source: str = "llama-dl") -> list[PublishedDigest]:
    return [
        PublishedDigest(model, f"consolidated.{rank:02d}.pth", "md5", digest, source)
        for rank, digest in enumerate(digests)
    ]


_LLAMA_1_7B = "6efc8dab194ab59e49cd24be5574d85e"
_LLAMA_1_13B = ("0804c42ca65584f50234a86d71e6916a", "016017be6040da87604f77703b92f2bc")
_LLAMA_1_30B = (
    "f856e9d99c30855d6ead4d00cc3a5573",
    "d9dbfbea61309dc1e087f5081e98331a",
    "2b2bed47912ceb828c0a37aac4b99073",
    "ea0405cdb5bc638fee12de614f729ebc",
)
_LLAMA_1_65B = (
    "9deae67e2e7b5ccfb2c738f390c00854",
    "0c4b00c30460c3818bd184ee949079ee",
    "847194df776dd38f8ae9ddcede8829a1",
    "3b6c8adcb5654fd36abab3206b46a0f1",
    "68d61d1242597ad92616ec31b8cb6b4c",
    "7f71259eaee2b906aa405d8edf39925f",
    "0574e26b6891ab2cb0df7340d773fe9b",
    "e5d9790df955270b836aec79462ead22",
)
_LLAMA_2_13B = ("76087fcc6c5269ddea74c4f0f6144e4b", "3f893d85e21541021aea58a3c4162e4b")
_PARAMS = (
    ("llama-1-7b", "md5", "7596560e011154b90eb51a1b15739763", "llama-dl"),
    ("llama-1-13b", "md5", "0171286599e0f8858893e49fb74b71f8", "llama-dl"),
    ("llama-1-30b", "md5", "4babdbd05b8923226a9e9622492054b6", "llama-dl"),
    (
        "llama-1-65b",
        "sha256",
        "999ed1659b469ccc2a941714c0a9656fa571d17c9f7c8c7589817ca90edef51b",
        "llama.cpp",
    ),
    ("llama-2-7b", "md5", "9a3757de7196d1840b551a85b82efbc8", "llama#541"),
    ("llama-2-7b-chat", "md5", "1c39bc3c6b51079fd807cc105b86c9df", "llama#541"),
    ("llama-2-13b", "md5", "b54ad5614e2a66c1e6eb3d4d25aa8d94", "llama#541"),
)
_TOKENIZERS = (
    ("Llama 1 and 2", "eeec4125e9c7560836b4873b6f8e3025"),
    ("Llama 3", "08292403f8b173e7524d7fba7bbbd2d3"),
    ("Llama 4", "0c0d98d8d15241230fae8c4153aa9fc8"),
)

PUBLISHED: tuple[PublishedDigest, ...] = (
    *_weights("llama-1-7b", _LLAMA_1_7B),
    *_weights("llama-1-13b", *_LLAMA_1_13B),
    *_weights("llama-1-30b", *_LLAMA_1_30B),
    *_weights("llama-1-65b", *_LLAMA_1_65B),
    *_weights("llama-2-7b", "daa8e3109935070df7fe8fc42d34525e", source="llama#541"),
    *_weights("llama-2-7b-chat", "0c4837f3ef97f648452f91faed308a07", source="llama#541"),
    *_weights("llama-2-13b", *_LLAMA_2_13B, source="llama#541"),
    *(PublishedDigest(model, "params.json", *rest) for model, *rest in _PARAMS),
    *(
        PublishedDigest(models, "tokenizer.model", "md5", digest, "tokenizers")
        for models, digest in _TOKENIZERS
    ),
)
