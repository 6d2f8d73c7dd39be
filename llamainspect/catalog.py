"""The official Llama models: configuration, shards and published sizes, as rows.

Gathered from Meta's repositories (llama, codellama, llama3, llama-models `sku_list.py` and its
corrections), model cards and hub listings; parameter counts are published ones, or computed from
the architecture where none was found. Fine-tunes share the configuration of their base, so the
files of `llama-3.1-8b` and `llama-3.1-8b-instruct` cannot be told apart by looking at headers.

Not here: Prompt Guard 1 and 2, which are DeBERTa classifiers rather than Llamas.
"""

from typing import Any, Literal, NamedTuple

from llamainspect.config import (
    CrossAttentionConfig,
    LoraConfig,
    ModelConfig,
    MoEConfig,
    QuantizationConfig,
    VisionConfig,
)
from llamainspect.names import counted

Form = Literal["plain", "fp8", "int4", "int8"]


class OfficialModel(NamedTuple):
    """One release. `fields` are those of ModelConfig that are known for it."""

    id: str
    repository: str | None
    shards: int | None  # model-parallel files of the native layout
    context_length: int | None  # tokens
    params_total: int  # as the configuration counts them
    fields: dict[str, Any]
    params_unique: int | None = None  # where the files repeat KV heads
    pth_nbytes: int | None = None  # published size of each shard
    tied_output: bool = False
    form: Form = "plain"

    @property
    def config(self) -> ModelConfig:
        """The configuration as far as it is known; defaults elsewhere."""
        return ModelConfig(**self.fields)

    @property
    def unique_kv_heads(self) -> int:
        """KV heads without repetition. 405B in 16 shards stores each of its 8 twice, and its
        params.json may count them as 8 or as 16."""
        heads: int = self.fields["n_kv_heads"]
        return heads // 2 if self.params_unique else heads

    @property
    def is_base(self) -> bool:
        """Trained on text alone, so that no format of dialogues means anything to it."""
        return not any(word in self.id for word in ("-chat", "-instruct", "guard"))

    @property
    def native_nbytes(self) -> int | None:
        """Bytes of all weight files of the native layout, where the size of one is published."""
        published = self.pth_nbytes is not None and self.shards is not None
        return (self.pth_nbytes or 0) * (self.shards or 0) if published else None

    @property
    def source(self) -> str:
        """Where configuration, shards and context length are from."""
        return next(text for prefix, text in _SOURCES if self.id.startswith(prefix))

    @property
    def size_source(self) -> str:
        """Where `pth_nbytes` is from."""
        return next(text for prefix, text in _SIZE_SOURCES if self.id.startswith(prefix))


class Identified(NamedTuple):
    """An official model that a checkpoint resembles."""

    model: OfficialModel
    same: tuple[OfficialModel, ...]  # others that fit exactly as well
    differences: tuple[str, ...]  # empty: an exact match


# What makes two models the same network; anything else is a setting of it.
_ARCHITECTURE = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size",
                 "moe", "vision", "cross_attention")  # fmt: skip
_SETTINGS = ("norm_eps", "rope_theta", "use_scaled_rope", "nope_layer_interval",
             "attention_chunk_size", "use_qk_norm")  # fmt: skip


def identify(
    config: ModelConfig, shards: int | None, form: Form, shard_nbytes: int | None = None
) -> Identified | None:
    """The official model with this architecture that differs least, if there is one.

    `shards` is of Meta's layout; None where the files may be cut in any way. Of models that fit
    equally, those whose published file size is `shard_nbytes` come first.
    """
    rows = [(_differences(row, config, shards, form), row) for row in OFFICIAL_MODELS
            if _same_architecture(row, config)]  # fmt: skip
    if not rows:
        return None
    fewest = min(len(differences) for differences, _ in rows)
    best = [row for differences, row in rows if len(differences) == fewest]
    best.sort(key=lambda row: row.form != form)
    if shard_nbytes is not None and any(shard_nbytes == row.pth_nbytes for row in best):
        # A published size that differs rules a row out; rows without one stay possible.
        best = [row for row in best if row.pth_nbytes in (shard_nbytes, None)]
        best.sort(key=lambda row: row.pth_nbytes is None)
    return Identified(best[0], tuple(best[1:]), _differences(best[0], config, shards, form))


def identify_by_shapes(
    dim: int, n_layers: int, hidden_dim: int, kv_rows: int, vocab_size: int
) -> OfficialModel | None:
    """The first official text model whose weights have these sizes, whatever a configuration says."""
    sizes = (dim, n_layers, hidden_dim, kv_rows, vocab_size)
    for row in OFFICIAL_MODELS:
        fields = row.fields
        if sizes == (
            fields["dim"],
            fields["n_layers"],
            fields["hidden_dim"],
            fields["n_kv_heads"] * fields["head_dim"],
            fields["vocab_size"],
        ):
            return row
    return None


def find_by_name(name: str) -> OfficialModel | None:
    """The release that a directory is called after: "Llama3.1-8B", "Meta-Llama-3-8B-Instruct"."""
    wanted = _letters(name)
    for row in OFFICIAL_MODELS:
        base = row.id.partition(":")[0]
        repository = (row.repository or "").rpartition("/")[2]
        names = (base, row.id, repository, row.repository or "", base.replace("llama-1-", "llama-"))
        if wanted and any(_letters(known) == wanted for known in names):
            return row
    return None


def _letters(name: str) -> str:
    """Letters and digits alone, without what names of the same files have and have not."""
    letters = "".join(filter(str.isalnum, name.lower())).replace("bf16mp", "mp")
    return letters.removeprefix("meta").removesuffix("hf").removesuffix("original")


def published_sizes(config: ModelConfig, nbytes: int) -> dict[int | None, list[str]]:
    """Ids of the official models of this architecture by the published size of one shard in bytes.

    Those of unknown size stand under None, unless some model has exactly `nbytes`. A vocabulary
    that params.json leaves to the tokenizer may be any.
    """
    sizes: dict[int | None, list[str]] = {}
    for row in OFFICIAL_MODELS:
        vocab_size = config.vocab_size or row.fields.get("vocab_size")
        if _same_architecture(row, config._replace(vocab_size=vocab_size)):
            sizes.setdefault(row.pth_nbytes, []).append(row.id)
    if nbytes in sizes:
        sizes.pop(None, None)
    return sizes


def _same_architecture(row: OfficialModel, config: ModelConfig) -> bool:
    for key in _ARCHITECTURE:
        here, there = getattr(config, key), row.fields.get(key)
        if key == "n_kv_heads" and here == row.unique_kv_heads:
            continue
        if isinstance(here, MoEConfig) and isinstance(there, MoEConfig):
            # The two fields that remain only say how hidden_dim came about.
            there = there._replace(
                capacity_factor=here.capacity_factor, auto_scale_F=here.auto_scale_F
            )
        if here != there:
            return False
    return True


def _differences(
    row: OfficialModel, config: ModelConfig, shards: int | None, form: Form
) -> tuple[str, ...]:
    found = [
        f"{key} is {getattr(config, key)}, {row.fields[key]} in {row.id}"
        for key in _SETTINGS
        if key in row.fields and getattr(config, key) != row.fields[key]
    ]
    if (config.lora is None) != ("lora" not in row.fields) or (
        config.quantization is not None
        and "quantization" in row.fields
        and config.quantization.spinquant != row.fields["quantization"].spinquant
    ):
        found.append(f"quantised in another way than {row.id}")
    if form != row.form:
        found.append(f"stored as {form}, {row.form} in {row.id}")
    if row.shards is not None and shards is not None and shards != row.shards:
        found.append(f"{counted(shards, 'shard')}, {row.shards} in {row.id}")
    return tuple(found)


# By the beginning of an id; the first that fits.
_SOURCES = (
    ("llama-1-", "meta-llama/llama download.sh (shards), params.json as public code quotes it"),
    ("llama-2-", "meta-llama/llama README (shards), params.json as public code quotes it"),
    ("codellama-", "meta-llama/codellama README and llama/model.py"),
    ("llama-guard-1-", "meta-llama/PurpleLlama Llama-Guard/MODEL_CARD.md"),
    ("llama-guard-2-", "meta-llama/PurpleLlama Llama-Guard2/MODEL_CARD.md"),
    ("llama-guard-3-1b:", "meta-llama/PurpleLlama Llama-Guard3/1B/MODEL_CARD.md"),
    ("llama-guard-4-", "meta-llama/PurpleLlama Llama-Guard4/12B/MODEL_CARD.md"),
    ("llama-4-", "meta-llama/llama-models models/llama4, meta-llama/llama-stack sku_list.py"),
    ("llama-", "meta-llama/llama-models models/sku_list.py"),
    ("mini-llama-", "the MiniLlama exercise"),
)
_SIZE_SOURCES = (
    ("llama-1-", "listings of the release"),
    ("llama-2-", "listings of the release"),
    ("llama-3.1-405b", "meta-llama/llama-models models/sku_list.py"),
    ("llama-4-", "meta-llama/llama-stack sku_list.py"),
    ("", "listing of original/ in the repository on the hub"),
)

# --- shapes ---------------------------------------------------------------------------------------


def _shape(
    dim: int, layers: int, heads: int, kv_heads: int, hidden_dim: int,
    multiple_of: int | None, multiplier: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "dim": dim, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads,
        "head_dim": dim // heads, "hidden_dim": hidden_dim,
        "multiple_of": multiple_of, "ffn_dim_multiplier": multiplier,
    }  # fmt: skip


_7B = _shape(4096, 32, 32, 32, 11008, 256)
_13B = _shape(5120, 40, 40, 40, 13824, 256)
_30B = _shape(6656, 60, 52, 52, 17920, 256)
_34B = _shape(8192, 48, 64, 8, 22016, 256, 1.0)
_65B = _shape(8192, 80, 64, 64, 22016, 256)
_70B = _shape(8192, 80, 64, 8, 28672, 4096, 1.3)
_8B = _shape(4096, 32, 32, 8, 14336, 1024, 1.3)
_405B = _shape(16384, 126, 128, 8, 53248, 4096, 1.2)
_405B_MP16 = _405B | {"n_kv_heads": 16}
_1B = _shape(2048, 16, 32, 8, 8192, 256, 1.5)
_3B = _shape(3072, 28, 24, 8, 8192, 256, 1.0)
_1B_PRUNED = _shape(2048, 12, 32, 8, 6400, None)
_LLAMA_4_SHAPE = _shape(5120, 48, 40, 8, 16384, 2048, 1.2)
_GUARD_4_SHAPE = _shape(5120, 48, 40, 8, 8192, None)
_MINI = _shape(768, 12, 12, 12, 2048, 256)

# --- settings -------------------------------------------------------------------------------------

_LLAMA_2 = {"vocab_size": 32000, "norm_eps": 1e-5, "rope_theta": 1e4, "use_scaled_rope": False}
_LLAMA_1 = _LLAMA_2 | {"norm_eps": 1e-6}
_CODE_32000 = _LLAMA_2 | {"rope_theta": 1e6}
_CODE = _CODE_32000 | {"vocab_size": 32016}
_GUARD_3 = {
    "vocab_size": 128256,
    "norm_eps": 1e-5,
    "rope_theta": 5e5,
}  # scaled RoPE: sources differ
_LLAMA_3 = _GUARD_3 | {"use_scaled_rope": False}
_LLAMA_3_1 = _GUARD_3 | {"use_scaled_rope": True}
_LLAMA_4 = {
    "vocab_size": 202048,
    "vision": VisionConfig((336, 336), (14, 14), 1408, 34, 16, 4.0, 4096, 0.5),
}
_SCOUT = _LLAMA_4 | {
    "norm_eps": 1e-5, "rope_theta": 5e5, "use_scaled_rope": True, "ffn_exp": 4.0,
    "moe": MoEConfig(16, 1, 8192, 1), "nope_layer_interval": 4, "attention_chunk_size": 8192,
    "use_qk_norm": True,
}  # fmt: skip
_MAVERICK = _LLAMA_4 | {
    "norm_eps": 1e-5, "rope_theta": 5e5, "moe": MoEConfig(128, 1, 8192, 2),
    "nope_layer_interval": 4, "attention_chunk_size": 8192, "use_qk_norm": False,
}  # fmt: skip
_INT4 = "int4_weight_int8_dynamic_activation"
_SPINQUANT = QuantizationConfig(_INT4, 32, spinquant=True)
_QLORA = QuantizationConfig(_INT4, 32)


def _row(
    id: str, repository: str | None, shards: int | None, context_length: int | None,
    params_total: int, fields: dict[str, Any], **more: Any,
) -> OfficialModel:  # fmt: skip
    for key in ("moe", "vision", "cross_attention"):
        fields.setdefault(key, None)
    return OfficialModel(id, repository, shards, context_length, params_total, fields, **more)


# id, repository, shards, context length, parameters, configuration
# fmt: off
OFFICIAL_MODELS: tuple[OfficialModel, ...] = (
    _row("llama-1-7b", None, 1, 2048, 6_738_415_616, _7B | _LLAMA_1, pth_nbytes=13_476_939_516),
    _row("llama-1-13b", None, 2, 2048, 13_015_864_320, _13B | _LLAMA_1),
    _row("llama-1-30b", None, 4, 2048, 32_528_943_616, _30B | _LLAMA_1),
    _row("llama-1-65b", None, 8, 2048, 65_285_660_672, _65B | _LLAMA_2),
    _row("llama-2-7b", "meta-llama/Llama-2-7b", 1, 4096, 6_738_415_616, _7B | _LLAMA_2),
    _row("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat", 1, 4096, 6_738_415_616, _7B | _LLAMA_2, pth_nbytes=13_476_925_163),
    _row("llama-2-13b", "meta-llama/Llama-2-13b", 2, 4096, 13_015_864_320, _13B | _LLAMA_2),
    _row("llama-2-13b-chat", "meta-llama/Llama-2-13b-chat", 2, 4096, 13_015_864_320, _13B | _LLAMA_2),
    _row("llama-2-70b", "meta-llama/Llama-2-70b", 8, 4096, 68_976_648_192, _70B | _LLAMA_2),
    _row("llama-2-70b-chat", "meta-llama/Llama-2-70b-chat", 8, 4096, 68_976_648_192, _70B | _LLAMA_2),
    _row("codellama-7b", "codellama/CodeLlama-7b-hf", 1, 16384, 6_738_546_688, _7B | _CODE),
    _row("codellama-7b-python", "codellama/CodeLlama-7b-python-hf", 1, 16384, 6_738_415_616, _7B | _CODE_32000),
    _row("codellama-7b-instruct", "codellama/CodeLlama-7b-instruct-hf", 1, 16384, 6_738_546_688, _7B | _CODE),
    _row("codellama-13b", "codellama/CodeLlama-13b-hf", 2, 16384, 13_016_028_160, _13B | _CODE),
    _row("codellama-13b-python", "codellama/CodeLlama-13b-python-hf", 2, 16384, 13_015_864_320, _13B | _CODE_32000),
    _row("codellama-13b-instruct", "codellama/CodeLlama-13b-instruct-hf", 2, 16384, 13_016_028_160, _13B | _CODE),
    _row("codellama-34b", "codellama/CodeLlama-34b-hf", 4, 16384, 33_743_970_304, _34B | _CODE_32000),
    _row("codellama-34b-python", "codellama/CodeLlama-34b-python-hf", 4, 16384, 33_743_970_304, _34B | _CODE_32000),
    _row("codellama-34b-instruct", "codellama/CodeLlama-34b-instruct-hf", 4, 16384, 33_743_970_304, _34B | _CODE_32000),
    _row("codellama-70b", "codellama/CodeLlama-70b-hf", 8, 16384, 68_976_910_336, _70B | _CODE),
    _row("codellama-70b-python", "codellama/CodeLlama-70b-Python-hf", 8, 16384, 68_976_910_336, _70B | _CODE),
    _row("codellama-70b-instruct", "codellama/CodeLlama-70b-Instruct-hf", 8, 16384, 68_976_910_336, _70B | _CODE),
    _row("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 1, 8192, 8_030_261_248, _8B | _LLAMA_3, pth_nbytes=16_060_617_592),
    _row("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct", 1, 8192, 8_030_261_248, _8B | _LLAMA_3, pth_nbytes=16_060_617_592),
    _row("llama-3.1-8b", "meta-llama/Llama-3.1-8B", 1, 131072, 8_030_261_248, _8B | _LLAMA_3_1, pth_nbytes=16_060_617_592),
    _row("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", 1, 131072, 8_030_261_248, _8B | _LLAMA_3_1, pth_nbytes=16_060_617_592),
    _row("llama-guard-3-8b", "meta-llama/Llama-Guard-3-8B", 1, 131072, 8_030_261_248, _8B | _GUARD_3),
    _row("llama-3-70b", "meta-llama/Meta-Llama-3-70B", 8, 8192, 70_553_706_496, _70B | _LLAMA_3),
    _row("llama-3-70b-instruct", "meta-llama/Meta-Llama-3-70B-Instruct", 8, 8192, 70_553_706_496, _70B | _LLAMA_3),
    _row("llama-3.1-70b", "meta-llama/Llama-3.1-70B", 8, 131072, 70_553_706_496, _70B | _LLAMA_3_1),
    _row("llama-3.1-70b-instruct", "meta-llama/Llama-3.1-70B-Instruct", 8, 131072, 70_553_706_496, _70B | _LLAMA_3_1),
    _row("llama-3.3-70b-instruct", "meta-llama/Llama-3.3-70B-Instruct", 8, 131072, 70_553_706_496, _70B | _LLAMA_3_1),
    _row("llama-guard-2-8b", "meta-llama/Meta-Llama-Guard-2-8B", 1, 4096, 8_030_261_248, _8B | _LLAMA_3),
    _row("llama-guard-1-7b", "meta-llama/LlamaGuard-7b", 1, 4096, 6_738_415_616, _7B | _LLAMA_2),
    _row("llama-3.1-405b:bf16-mp8", "meta-llama/Llama-3.1-405B", 8, 131072, 405_853_388_800, _405B | _LLAMA_3_1, pth_nbytes=101_470_976_045),
    _row("llama-3.1-405b-instruct:bf16-mp8", "meta-llama/Llama-3.1-405B-Instruct", 8, 131072, 405_853_388_800, _405B | _LLAMA_3_1, pth_nbytes=101_470_976_045),
    _row("llama-3.1-405b:bf16-mp16", "meta-llama/Llama-3.1-405B", 16, 131072, 410_081_247_232, _405B_MP16 | _LLAMA_3_1, params_unique=405_853_388_800, pth_nbytes=51_268_302_389),
    _row("llama-3.1-405b-instruct:bf16-mp16", "meta-llama/Llama-3.1-405B-Instruct", 16, 131072, 410_081_247_232, _405B_MP16 | _LLAMA_3_1, params_unique=405_853_388_800, pth_nbytes=51_268_302_389),
    _row("llama-3.1-405b:fp8", "meta-llama/Llama-3.1-405B-FP8", 8, 131072, 405_853_388_800, _405B | _LLAMA_3_1, pth_nbytes=60_903_742_309, form="fp8"),
    _row("llama-3.1-405b-instruct:fp8", "meta-llama/Llama-3.1-405B-Instruct-FP8", 8, 131072, 405_853_388_800, _405B | _LLAMA_3_1, pth_nbytes=60_903_742_309, form="fp8"),
    _row("llama-3.2-1b", "meta-llama/Llama-3.2-1B", 1, 131072, 1_235_814_400, _1B | _LLAMA_3_1, tied_output=True),
    _row("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", 1, 131072, 1_235_814_400, _1B | _LLAMA_3_1, tied_output=True),
    _row("llama-3.2-1b-instruct:int4-spinquant-eo8", "meta-llama/Llama-3.2-1B-Instruct-SpinQuant_INT4_EO8", 1, 8192, 1_235_814_400, _1B | _LLAMA_3_1 | {"quantization": _SPINQUANT}, tied_output=True, form="int4"),
    _row("llama-3.2-1b-instruct:int4-qlora-eo8", "meta-llama/Llama-3.2-1B-Instruct-QLORA_INT4_EO8", 1, 8192, 1_235_814_400, _1B | _LLAMA_3_1 | {"quantization": _QLORA, "lora": LoraConfig(16, 1.0)}, tied_output=True, form="int4"),
    _row("llama-3.2-3b", "meta-llama/Llama-3.2-3B", 1, 131072, 3_212_749_824, _3B | _LLAMA_3_1, tied_output=True),
    _row("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", 1, 131072, 3_212_749_824, _3B | _LLAMA_3_1, tied_output=True),
    _row("llama-3.2-3b-instruct:int4-spinquant-eo8", "meta-llama/Llama-3.2-3B-Instruct-SpinQuant_INT4_EO8", 1, 8192, 3_212_749_824, _3B | _LLAMA_3_1 | {"quantization": _SPINQUANT}, tied_output=True, form="int4"),
    _row("llama-3.2-3b-instruct:int4-qlora-eo8", "meta-llama/Llama-3.2-3B-Instruct-QLORA_INT4_EO8", 1, 8192, 3_212_749_824, _3B | _LLAMA_3_1 | {"quantization": _QLORA, "lora": LoraConfig(16, 1.0)}, tied_output=True, form="int4"),
    _row("llama-guard-3-1b", "meta-llama/Llama-Guard-3-1B", 1, 131072, 1_235_814_400, _1B | _LLAMA_3_1, tied_output=True),
    _row("llama-guard-3-1b:int4", "meta-llama/Llama-Guard-3-1B-INT4", 1, 131072, 860_407_808, _1B_PRUNED | _LLAMA_3_1, tied_output=True, form="int4"),
    _row("llama-guard-3-8b:int8", "meta-llama/Llama-Guard-3-8B-INT8", 1, 131072, 8_030_261_248, _8B | _GUARD_3, form="int8"),
    _row("llama-3.2-11b-vision", "meta-llama/Llama-3.2-11B-Vision", 1, 131072, 10_642_941_475, _8B | _LLAMA_3_1 | {"cross_attention": CrossAttentionConfig(8, 448, 4)}),
    _row("llama-3.2-11b-vision-instruct", "meta-llama/Llama-3.2-11B-Vision-Instruct", 1, 131072, 10_670_220_835, _8B | _LLAMA_3_1 | {"cross_attention": CrossAttentionConfig(8, 560, 4)}),
    _row("llama-3.2-90b-vision", "meta-llama/Llama-3.2-90B-Vision", 8, 131072, 88_593_355_323, _70B | _LLAMA_3_1 | {"cross_attention": CrossAttentionConfig(20, 560, 4)}),
    _row("llama-3.2-90b-vision-instruct", "meta-llama/Llama-3.2-90B-Vision-Instruct", 8, 131072, 88_593_355_323, _70B | _LLAMA_3_1 | {"cross_attention": CrossAttentionConfig(20, 560, 4)}),
    _row("llama-guard-3-11b-vision", "meta-llama/Llama-Guard-3-11B-Vision", 1, 131072, 10_670_220_835, _8B | _LLAMA_3_1 | {"cross_attention": CrossAttentionConfig(8, 560, 4)}),
    _row("llama-4-scout-17b-16e", "meta-llama/Llama-4-Scout-17B-16E", 8, 262144, 108_641_793_536, _LLAMA_4_SHAPE | _SCOUT),
    _row("llama-4-scout-17b-16e-instruct", "meta-llama/Llama-4-Scout-17B-16E-Instruct", 8, 10485760, 108_641_793_536, _LLAMA_4_SHAPE | _SCOUT),
    _row("llama-4-maverick-17b-128e", "meta-llama/Llama-4-Maverick-17B-128E", 8, 262144, 401_583_781_376, _LLAMA_4_SHAPE | _MAVERICK, pth_nbytes=100_458_118_386),
    _row("llama-4-maverick-17b-128e-instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct", 8, 1048576, 401_583_781_376, _LLAMA_4_SHAPE | _MAVERICK, pth_nbytes=100_426_653_046),
    _row("llama-4-maverick-17b-128e-instruct:fp8", "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", 8, 1048576, 401_583_781_376, _LLAMA_4_SHAPE | _MAVERICK, pth_nbytes=54_121_549_657, form="fp8"),
    _row("llama-guard-4-12b", "meta-llama/Llama-Guard-4-12B", 1, 8192, 12_001_097_216, _GUARD_4_SHAPE | _LLAMA_4),
    _row("mini-llama-110m", None, None, None, 109_529_856, _MINI | _LLAMA_2, tied_output=True),
)
# fmt: on
