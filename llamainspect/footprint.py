"""How many bytes a model takes when it runs: its weights in any form, the KV cache, the prefill.

Symbols in formulas: L layers, h dim, a heads, kv KV heads, hd head_dim, f hidden size of the
feed-forward, V vocabulary, P parameters, s tokens of a sequence, b sequences, T = b*s.

Sources of the forms: LLM.int8 (arXiv 2208.07339) and bitsandbytes, which quantise the linear layers
of the blocks and nothing else; QLoRA (arXiv 2305.14314) for NF4 and its double quantisation; GPTQ
and AWQ files for groups with a 16-bit scale and a 4-bit zero; ggml for Q8_0 and Q4_0.
"""

import math
from collections import Counter
from typing import Any, NamedTuple

from llamainspect.architecture import (
    MLLAMA_PATCH,
    count_parameters,
    expected_weights,
    routed_layers,
)
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.names import NOT_PARAMETERS, component_of, layer_of
from llamainspect.reports import Term
from llamainspect.tensors import count

BLOCK_LINEARS = frozenset(
    {"attention", "feed_forward", "experts", "shared_experts", "cross_attention"}
)
ENDS = frozenset({"token_embedding", "output"})
# Llama 4's shared expert, in the spelling of Meta's files.
SHARED_EXPERT = {"w_in_shared_FD": "w1", "w_swiglu_FD": "w3", "w_out_shared_DF": "w2"}
USUAL_CONTEXT = 8_192  # tokens that are asked about, where the model's own context is not less
MAX_NUMBER = 10**12  # of tokens or sequences
DOUBLE_GROUP = 256  # first-level scales that share a second-level one in QLoRA


class WeightForm(NamedTuple):
    """One way to store weights. Scales belong to `group` values of a row, or to the row."""

    name: str
    bits: int  # of one value
    compute_nbytes: int = 2  # of activations, and of what is not quantised
    scale_nbytes: float = 0  # per group
    zero_bits: int = 0  # per group
    group: int | None = None  # values; None: a row
    flat: bool = False  # groups run through the whole tensor, not row by row
    double: bool = False  # scales are 8-bit, with a 32-bit one for DOUBLE_GROUP of them
    recipe: str = ""

    @property
    def quantised(self) -> bool:
        """True when the block's linears and nothing else take this form."""
        return self.bits < 16

    @property
    def text(self) -> str:
        """For a report: "int4, groups of 128"."""
        return f"{self.name}, {f'groups of {self.group:,}' if self.group else 'a scale per row'}"


WEIGHT_FORMS: dict[str, WeightForm] = {
    form.name: form
    for form in (
        WeightForm("fp32", 32, compute_nbytes=4, recipe="4 bytes each"),
        WeightForm("bf16", 16, recipe="2 bytes each"),
        WeightForm("fp16", 16, recipe="2 bytes each"),
        WeightForm("fp8", 8, scale_nbytes=4, recipe="1 byte each, a 32-bit scale per row"),
        WeightForm("int8", 8, scale_nbytes=4,
                   recipe="LLM.int8: 1 byte each, a 32-bit scale per row"),
        WeightForm("int4", 4, scale_nbytes=2, zero_bits=4, group=128,
                   recipe="half a byte each, a 16-bit scale and a 4-bit zero per group"),
        WeightForm("nf4", 4, scale_nbytes=1, group=64, flat=True, double=True,
                   recipe="half a byte each, an 8-bit scale per block, a 32-bit one per 256"),
        WeightForm("nf4-single", 4, scale_nbytes=4, group=64, flat=True,
                   recipe="half a byte each, a 32-bit scale per block"),
    )
}  # fmt: skip
TABLE_FORMS = ("fp32", "bf16", "fp8", "int8", "int4")  # what a person compares

# Bytes per block, values per block.
KV_FORMS: dict[str, tuple[int, int]] = {
    "fp32": (4, 1),
    "bf16": (2, 1),
    "fp16": (2, 1),
    "fp8": (1, 1),
    "int8": (1, 1),
    "q8_0": (34, 32),
    "q4_0": (18, 32),
}


def weight_form(name: str, group_size: int | None = None) -> WeightForm:
    """A form by name, with groups of another length where it has groups at all."""
    form = WEIGHT_FORMS[name]
    if group_size is None:
        return form
    if not form.quantised:
        raise InvalidRequest(
            f"--group-size is of quantised weights, and {name} is not; use it with --dtype int8, "
            "int4, nf4 or fp8"
        )
    # Scales of a row are 32-bit floats; those of many small groups are kept in 16 bits.
    scale_nbytes = 2 if form.group is None else form.scale_nbytes
    recipe = form.recipe.replace("a 32-bit scale per row", "a 16-bit scale per group")
    return form._replace(
        group=group_size, scale_nbytes=scale_nbytes, recipe=recipe.replace("LLM.int8: ", "")
    )


# --- weights --------------------------------------------------------------------------------------


class Matrix(NamedTuple):
    """A linear layer: `rows` outputs of `columns` inputs each."""

    rows: int
    columns: int
    name: str | None = None  # "wq", ..., "w3" of a block; None: a routed expert, or an end

    @property
    def elements(self) -> int:
        """Parameters."""
        return self.rows * self.columns


class Layout(NamedTuple):
    """The weights of a model as far as bytes depend on them: what there is how many times."""

    parameters: int  # unique
    linears: dict[Matrix, int]  # of the blocks, experts one by one
    ends: dict[Matrix, int]  # embedding and output; one when they are tied
    tensors: dict[int, int]  # by number of elements
    layers: tuple[int, ...]  # parameters of each text layer

    @property
    def linear_parameters(self) -> int:
        """Parameters of the blocks' linears."""
        return _elements(self.linears)


def layout_of(config: ModelConfig, tied_output: bool) -> Layout:
    """What the configuration asks for. `config.vocab_size` must be known."""
    parameters = count_parameters(config, tied_output)
    linears, ends, tensors, layers = (Counter[Any]() for _ in range(4))
    for name, spec in expected_weights(config).items():
        component = component_of(name)
        if spec.shape is None or component in NOT_PARAMETERS:
            continue
        if tied_output and component == "output":
            continue
        tensors[count(spec.shape)] += 1
        layers[layer_of(name)] += count(spec.shape)
        if component == "experts" and config.moe:  # input by output, all experts of a layer in one
            rows, columns = spec.shape
            linears[Matrix(columns, rows // config.moe.num_experts)] += config.moe.num_experts
        elif component in BLOCK_LINEARS and len(spec.shape) == 2:
            linears[Matrix(*spec.shape, _linear_name(name))] += 1
        elif component in ENDS and spec.shape == (config.vocab_size, config.dim):
            ends[Matrix(*spec.shape)] += 1
    if rest := parameters - sum(elements * n for elements, n in tensors.items()):
        tensors[rest] += 1  # position embeddings of an image encoder, of which no shape is known
    sizes = tuple(layers[layer] for layer in range(config.n_layers))
    return Layout(parameters, linears, ends, tensors, sizes)


def _linear_name(name: str) -> str:
    linear = name.removesuffix(".weight").rpartition(".")[2]
    return SHARED_EXPERT.get(linear, linear)


class WeightBytes(NamedTuple):
    """Weights in one form."""

    quantised: int  # values that are stored in the form
    values_nbytes: int
    scales_nbytes: int
    kept: int  # values that stay as they are
    kept_nbytes: int
    naive: int  # every parameter at the form's width, as most tables have it
    end_nbytes: int  # embedding or output, the larger of them; part of the rest

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.values_nbytes + self.scales_nbytes + self.kept_nbytes


def weight_nbytes(
    layout: Layout, form: WeightForm, *, quantise_ends: bool = False, kept_nbytes: int | None = None
) -> WeightBytes:
    """Bytes of the weights in `form`; `kept_nbytes` each for what is not quantised."""
    naive = layout.parameters * form.bits // 8
    width = form.compute_nbytes if kept_nbytes is None else kept_nbytes
    end = max(layout.ends, key=lambda matrix: matrix.elements)
    if not form.quantised:
        each = end.elements * form.bits // 8
        return WeightBytes(0, 0, 0, layout.parameters, naive, naive, each)
    matrices = Counter(layout.linears)
    if quantise_ends:
        matrices.update(layout.ends)
    quantised = _elements(matrices)
    scales = sum(_scales_nbytes(matrix, form) * n for matrix, n in matrices.items())
    kept = layout.parameters - quantised
    each = end.elements * width
    if quantise_ends:
        each = end.elements * form.bits // 8 + _groups(end, form) * _scale_bits(form) // 8
    return WeightBytes(
        quantised, quantised * form.bits // 8, scales, kept, kept * width, naive, each
    )


def _scales_nbytes(matrix: Matrix, form: WeightForm) -> int:
    groups = _groups(matrix, form)
    second = 4 * -(-groups // DOUBLE_GROUP) if form.double else 0
    return -(-groups * _scale_bits(form) // 8) + second


def _groups(matrix: Matrix, form: WeightForm) -> int:
    if form.group is None:
        return matrix.rows
    if form.flat:
        return -(-matrix.elements // form.group)
    return matrix.rows * -(-matrix.columns // form.group)


def _scale_bits(form: WeightForm) -> int:
    """Of one group: its scale and its zero."""
    return int(8 * form.scale_nbytes) + form.zero_bits


def _elements(matrices: dict[Matrix, int]) -> int:
    return sum(matrix.elements * n for matrix, n in matrices.items())


def weight_terms(layout: Layout, form: WeightForm, weights: WeightBytes) -> tuple[Term, ...]:
    """How the bytes of the weights come about."""
    if not form.quantised:
        width = form.bits // 8
        worked = f"{width} * {layout.parameters:,}"
        return (
            Term(
                f"{form.name} weights", weights.nbytes, "bytes", f"{width} * P", worked, form.recipe
            ),
        )
    values, kept = weights.quantised, weights.kept
    matrices = Counter(layout.linears)
    if values > layout.linear_parameters:
        matrices.update(layout.ends)
    groups = sum(_groups(matrix, form) * n for matrix, n in matrices.items())
    of_what = "linears of the blocks"
    if values > layout.linear_parameters:
        of_what += ", embedding and output"
    return (
        Term(
            f"{form.name} values", weights.values_nbytes, "bytes", f"{form.bits}/8 * quantised",
            f"{form.bits}/8 * {values:,}", of_what,
        ),
        Term(
            f"{form.name} scales", weights.scales_nbytes, "bytes", *_scales_formula(form, groups),
            form.recipe,
        ),
        Term(
            f"kept beside {form.name}", weights.kept_nbytes, "bytes",
            f"{form.compute_nbytes} * rest", f"{form.compute_nbytes} * {kept:,}",
            "what is not quantised stays in 16 bits",
        ),
        Term(
            f"naive {form.name}", weights.naive, "bytes", f"{form.bits}/8 * P",
            f"{form.bits}/8 * {layout.parameters:,}",
            "what most tables say: every parameter at that width, no scales; not counted here",
        ),
    )  # fmt: skip


def _scales_formula(form: WeightForm, groups: int) -> tuple[str, str]:
    """In words and with numbers."""
    each = f"{form.scale_nbytes:g}"
    if form.zero_bits:
        each = f"({each} + {form.zero_bits}/8)"
    what = "rows" if form.group is None else f"groups of {form.group:,}"
    second = (f" + 4 * groups / {DOUBLE_GROUP}", f" + 4 * {groups:,} / {DOUBLE_GROUP}")
    if not form.double:
        second = ("", "")
    return f"{each} * {what}{second[0]}", f"{each} * {groups:,}{second[1]}"


# --- KV cache -------------------------------------------------------------------------------------


class KVCache(NamedTuple):
    """Keys and values of all layers, in bytes."""

    nbytes: int  # layers with chunked attention keep no more than a chunk
    nbytes_allocated: int  # as Meta's reference code allocates: every layer for every token
    global_layers: int
    chunked_layers: int


def kv_cache(config: ModelConfig, seq_len: int, batch: int, form: str) -> KVCache:
    """Keys and values of `batch` sequences of `seq_len` tokens, in the form of KV_FORMS."""
    block_nbytes, block_values = KV_FORMS[form]
    blocks = -(-config.n_kv_heads * config.head_dim // block_values)
    per_token = 2 * blocks * block_nbytes  # of one layer
    chunked = chunked_layers(config)
    full = config.n_layers - chunked
    kept = min(seq_len, config.attention_chunk_size or seq_len)
    return KVCache(
        nbytes=batch * per_token * (full * seq_len + chunked * kept),
        nbytes_allocated=batch * per_token * config.n_layers * seq_len,
        global_layers=full,
        chunked_layers=chunked,
    )


def kv_term(config: ModelConfig, seq_len: int, batch: int, form: str) -> Term:
    """How the bytes of the KV cache come about."""
    cache = kv_cache(config, seq_len, batch, form)
    block_nbytes, block_values = KV_FORMS[form]
    width = f"{block_nbytes / block_values:g}"
    heads = f"2 * {config.n_kv_heads} * {config.head_dim} * {width} * {batch:,}"
    if not cache.chunked_layers:
        formula = f"2 * L * kv * hd * {width} * b * s"
        worked = f"{heads} * {config.n_layers} * {seq_len:,}"
        source = f"keys and values of every layer and token, {form}"
    else:
        kept = min(seq_len, config.attention_chunk_size or seq_len)
        formula = (
            f"2 * kv * hd * {width} * b * (global layers * s + chunked layers * min(s, chunk))"
        )
        worked = (
            f"{heads} * ({cache.global_layers} * {seq_len:,} + {cache.chunked_layers} * {kept:,})"
        )
        source = (
            f"{form}; chunked layers look back {config.attention_chunk_size:,} tokens at most; "
            f"Meta's reference code allocates all: {cache.nbytes_allocated:,}"
        )
    return Term("KV cache", cache.nbytes, "bytes", formula, worked, source)


def chunked_layers(config: ModelConfig) -> int:
    """Layers that attend within a chunk: all but every `nope_layer_interval`-th (Llama 4)."""
    return sum(_is_chunked(config, layer) for layer in range(config.n_layers))


def _is_chunked(config: ModelConfig, layer: int) -> bool:
    interval = config.nope_layer_interval
    return config.attention_chunk_size is not None and not (
        interval and (layer + 1) % interval == 0
    )


def cached_tokens(config: ModelConfig, seq_len: int) -> tuple[int, ...]:
    """Tokens of one sequence that each layer keeps keys and values of."""
    kept = min(seq_len, config.attention_chunk_size or seq_len)
    return tuple(kept if _is_chunked(config, i) else seq_len for i in range(config.n_layers))


def image_kv_nbytes(config: ModelConfig) -> int:
    """16-bit keys and values of one image in the cross-attention layers of Llama 3.2 Vision."""
    cross = config.cross_attention
    if cross is None:
        return 0
    tokens = cross.max_num_chunks * ((cross.chunk_size // MLLAMA_PATCH) ** 2 + 1)
    one_layer = 2 * config.n_kv_heads * config.head_dim * tokens  # keys and values
    return cross.n_layers * one_layer * 2  # bytes


# --- prefill --------------------------------------------------------------------------------------


class Prefill(NamedTuple):
    """Most bytes that reading a prompt takes beside weights and KV cache, no gradients kept."""

    blocks_nbytes: int  # within a layer
    logits_nbytes: int  # at the end, when the logits of all tokens are kept


def prefill(config: ModelConfig, tokens: int, compute_nbytes: int, gpus: int = 1) -> Prefill:
    """Of `tokens` read in one go; on each of `gpus` that share it."""
    ffn, vocab_size = -(-ffn_width(config) // gpus), -(-(config.vocab_size or 0) // gpus)
    return Prefill(
        blocks_nbytes=compute_nbytes * tokens * (4 * config.dim + 3 * ffn),
        logits_nbytes=compute_nbytes * tokens * (vocab_size + config.dim),
    )


def prefill_term(
    config: ModelConfig, tokens: int, compute_nbytes: int, all_logits: bool, chunked: bool
) -> Term:
    """How the bytes of the prefill come about."""
    most, width = prefill(config, tokens, compute_nbytes), compute_nbytes
    formula = f"{width} * T * (4h + 3f)"
    worked = f"{width} * {tokens:,} * (4 * {config.dim:,} + 3 * {ffn_width(config):,})"
    source = f"{f'{tokens:,} tokens' if chunked else 'all prompts'} read in one go; "
    if all_logits:
        formula = f"max({formula}, {width} * T * (V + h))"
        worked = f"max({most.blocks_nbytes:,}, {most.logits_nbytes:,})"
        source += "logits of every token, as perplexity needs them"
    else:
        source += "logits of the last token alone, as generation keeps them"
    nbytes = max(most) if all_logits else most.blocks_nbytes
    return Term("prefill", nbytes, "bytes", formula, worked, source)


def ffn_width(config: ModelConfig) -> int:
    """Hidden size of the widest feed-forward that a token passes at once."""
    routed = routed_layers(config)
    dense = config.hidden_dim if routed < config.n_layers else 0
    return max(dense, config.moe.top_k * config.moe.hidden_dim if config.moe and routed else 0)


def symbols_of(config: ModelConfig, tied_output: bool) -> dict[str, int]:
    """What the letters in formulas stand for, of this model."""
    return {
        "P": count_parameters(config, tied_output),
        "L": config.n_layers,
        "h": config.dim,
        "a": config.n_heads,
        "kv": config.n_kv_heads,
        "hd": config.head_dim,
        "f": ffn_width(config),
        "V": config.vocab_size or 0,
    }


# --- several GPUs ---------------------------------------------------------------------------------


def tensor_splits(config: ModelConfig) -> list[int]:
    """Into how many equal parts a layer can be cut: heads, KV heads and hidden sizes divide, or KV
    heads are repeated the same number of times."""
    widths = {config.hidden_dim} | ({config.moe.hidden_dim} if config.moe else set())
    common, kv = math.gcd(config.n_heads, *widths), config.n_kv_heads
    small = [n for n in range(1, math.isqrt(common) + 1) if common % n == 0]
    divisors = sorted({*small, *(common // n for n in small)})
    return [n for n in divisors if kv % n == 0 or n % kv == 0]


def largest_split(config: ModelConfig, gpus: int) -> int:
    """How many of `gpus` can share a layer."""
    return max(n for n in tensor_splits(config) if n <= gpus)
