"""A model for a person who learns: its files, its fields, and every derived number worked out."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from llamainspect.architecture import count_parameters, expected_weights
from llamainspect.bits import FLOATS, STORED, Bits, decode, split
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import DEFAULT_MULTIPLE_OF, PARAMS_FILE, ModelConfig, ffn_hidden_dim
from llamainspect.dtypes import DTYPES, SmallFloat
from llamainspect.errors import InvalidRequest, LlamaInspectError
from llamainspect.footprint import (
    USUAL_CONTEXT,
    chunked_layers,
    kv_cache,
    layout_of,
    weight_form,
    weight_nbytes,
)
from llamainspect.formats.strict_json import read_json_object
from llamainspect.glossary import FIELDS, FILES, SAME_FIELDS
from llamainspect.names import NOT_PARAMETERS, component_of, counted, layer_of
from llamainspect.nearest import nearest
from llamainspect.reports import Explanation, Finding, Topic
from llamainspect.rope import LINEAR, choose_rope, wavelengths
from llamainspect.subject import Subject
from llamainspect.tensors import count
from llamainspect.weights import Weight

GROUPS = {
    "moe": "moe_args.",
    "vision": "vision_args.",
    "quantization": "quantization_args.",
    "lora": "lora_args.",
}
CROSS_ATTENTION = {
    "n_layers": "vision_num_cross_attention_layers",
    "chunk_size": "vision_chunk_size",
    "max_num_chunks": "vision_max_num_chunks",
}
SIZE = ("height", "width")
# Fields that every model has, written or not.
ALWAYS = ("n_kv_heads", "norm_eps", "rope_theta", "use_scaled_rope")
EXAMPLE_VALUE = 0.1  # where there are no weights to take one from
EXAMPLE_WEIGHTS = (
    "layers.0.attention.wq.weight",
    "layers.0.attention.wqkv.weight",
    "tok_embeddings.weight",
)
LOOKED_AT = 64  # elements, for one that is not zero
SHOWN_PAIRS = 6


def explain_model(subject: Subject, field: str | None = None) -> Explanation:
    """Everything about a model, or the one thing called `field`.

    Reads params.json and a few bytes of one weight. Raises InvalidRequest, with the nearest names,
    when nothing is called `field`.
    """
    topics = [*_files(subject), *_fields(subject), *_derived(subject), *_bits(subject)]
    if field is not None:
        found = _called(topics, field)
        if not found:
            names = list(dict.fromkeys(topic.name for topic in topics))
            raise InvalidRequest(
                f"{field!r}: nothing of {subject.name} is called so; {nearest(field, names)}"
                f"there are {', '.join(names)}"
            )
        topics = found
    findings = subject.findings
    if subject.form != "plain":
        message = f"stored as {subject.form}: what is said of 16 bits is of the same weights before"
        findings = (*findings, Finding("note", subject.name, message))
    return Explanation(subject.name, field, tuple(topics), findings)


def is_topic(name: str) -> bool:
    """Whether some model has something of that name, so that it is no path."""
    words = _words(name)
    return bool(words) and any(words <= _words(known) for known in (*FIELDS, *DERIVED, *FLOATS))


def _called(topics: list[Topic], field: str) -> list[Topic]:
    """Those with that name; or else those whose names have all of its words: "FP8", "kv"."""
    exact = [topic for topic in topics if topic.name.lower() == field.lower()]
    words = _words(field)
    return exact or [topic for topic in topics if words and words <= _words(topic.name)]


def _words(name: str) -> set[str]:
    return set(filter(None, re.split(r"[^a-z0-9]+", name.lower())))


def _topic(
    kind: str,
    name: str,
    value: Any,
    text: str,
    *steps: str,
    check: tuple[str, bool | None] | None = None,
    mistake: str | None = None,
) -> Topic:
    claim, agrees = check or (None, None)
    return Topic(kind, name, value, text, steps, claim, agrees, mistake)


# --- files ----------------------------------------------------------------------------------------


def _files(subject: Subject) -> Iterator[Topic]:
    if subject.checkpoint is None:
        return
    source = subject.checkpoint.source
    names = (source.only,) if source.only else source.files()
    for name in names:
        text = next((text for pattern, text in FILES if pattern.fullmatch(name)), None)
        if text:
            yield _topic("file", name, source.nbytes(name), text)


# --- fields ---------------------------------------------------------------------------------------


def _fields(subject: Subject) -> Iterator[Topic]:
    written = _written(subject)
    values = written if written is not None else _known(subject)
    for name, value in values.items():
        known = name if name in FIELDS else name.replace("rope_parameters", "rope_scaling")
        text = FIELDS.get(known.removeprefix("text_config."), "not a field that is known here")
        if (same := SAME_FIELDS.get(known.removeprefix("text_config."))) and same != name:
            text += f" (Meta: {same})"
        if name == "vocab_size" and value == -1:
            text += (
                f"; -1: taken from the tokenizer or the embedding, {subject.config.vocab_size:,}"
            )
        yield _topic("field", name, value, text)
    for name in ALWAYS if subject.config.file == PARAMS_FILE else ():
        if name not in values and written is not None:
            value = getattr(subject.config, name)
            yield _topic("field", name, value, f"{FIELDS[name]}; not in the file, so by default")


def _written(subject: Subject) -> dict[str, Any] | None:
    """What the configuration file says, groups with a dot; None where there is none."""
    if subject.source is None:
        return None
    raw = read_json_object(subject.source, subject.config.file)
    inner = raw.get("model")
    return dict(_flatten(inner if isinstance(inner, dict) and "dim" in inner else raw))


def _flatten(raw: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", "[…]"
        else:
            yield f"{prefix}{key}", value


def _known(subject: Subject) -> dict[str, Any]:
    """What the catalog knows, under the names that params.json has."""
    values: dict[str, Any] = {}
    config = subject.config._asdict()
    known = subject.official.fields if subject.official else config
    for name, value in config.items():
        if name not in known:
            continue  # a default of ours
        if name in GROUPS and value is not None:
            values |= _flatten(_named(value), GROUPS[name])
        elif name == "cross_attention" and value is not None:
            fields = value._asdict()
            values |= {name: fields[key] for key, name in CROSS_ATTENTION.items()}
        elif value is not None and value is not False:
            values[name] = value
    del values["head_dim"]  # params.json leaves it out, and it is worked out below
    return {name: value for name, value in values.items() if name in FIELDS}


def _named(group: Any) -> dict[str, Any]:
    return {
        key: dict(zip(SIZE, value, strict=True)) if isinstance(value, tuple) else value
        for key, value in group._asdict().items()
        if value != ()
    }


# --- derived numbers ------------------------------------------------------------------------------


def _derived(subject: Subject) -> Iterator[Topic]:
    for name, work_out in DERIVED.items():
        topic = work_out(subject, name)
        if topic is not None:
            yield topic


def _head_dim(subject: Subject, name: str) -> Topic:
    config = subject.config
    rows = config.n_heads * config.head_dim
    return _topic(
        "derived",
        name,
        config.head_dim,
        FIELDS["head_dim"],
        f"{config.dim} / {config.n_heads} = {config.head_dim}"
        if rows == config.dim
        else f"{config.head_dim}, as written; {config.n_heads} heads of it are {rows:,}",
        check=_check_rows(subject, "attention.wq", rows, f"{config.n_heads} * {config.head_dim}"),
    )


def _hidden_dim(subject: Subject, name: str) -> Topic | None:
    config = subject.config
    if config.moe and config.moe.interleave_moe_layer_step == 1:
        return None  # no layer is dense
    steps, mistake = [], None
    official = subject.official.fields if subject.official else {}
    if config.file != PARAMS_FILE and official.get("hidden_dim") == config.hidden_dim:
        config = config._replace(  # as Meta's file of the same model has them
            ffn_dim_multiplier=official.get("ffn_dim_multiplier"),
            multiple_of=official.get("multiple_of"),
        )
    text = "hidden size of the feed-forward (SwiGLU: w1 and w3 widen, w2 narrows)"
    if ffn_hidden_dim(4 * config.dim, config.ffn_dim_multiplier, _multiple_of(config)) == (
        config.hidden_dim
    ):
        steps = _ffn_steps(config, 4 * config.dim, f"4 * {config.dim}", 1)
        text += (
            "; with three matrices instead of two, 2/3 of 4 * dim costs as much as an ordinary one"
        )
        wrong = int(2 * config.dim * (config.ffn_dim_multiplier or 1))
        mistake = f"2 * dim * multiplier, as some guides have it, would be {wrong:,}"
    elif config.file != PARAMS_FILE:
        text += f"; as written in {config.file}. Meta's file has the numbers of a rule instead"
    else:
        text += "; not by the usual rule, as of a model that was cut down"
    return _topic(
        "derived",
        name,
        config.hidden_dim,
        text,
        *steps,
        check=_check_rows(subject, "feed_forward.w1", config.hidden_dim, "hidden_dim"),
        mistake=mistake,
    )


def _expert_hidden_dim(subject: Subject, name: str) -> Topic | None:
    config, moe = subject.config, subject.config.moe
    if moe is None or config.file != PARAMS_FILE:  # where it is written, and nothing is worked out
        return None
    exp = config.ffn_exp or 4
    divisor = moe.capacity_factor + 1 if moe.auto_scale_F else 1
    return _topic(
        "derived",
        name,
        moe.hidden_dim,
        "hidden size of each expert, and of the shared one: made smaller, since a token passes "
        "the shared expert and those it is routed to",
        *_ffn_steps(config, int(exp * config.dim), f"{exp:g} * {config.dim}", divisor),
    )


def _ffn_steps(config: ModelConfig, wide: int, name: str, divisor: float) -> list[str]:
    """The truncations of `config.ffn_hidden_dim`, one by one."""
    width = int(2 * wide / 3)
    parts = [f"{name} = {wide}", f"* 2/3 = {width}"]
    if config.ffn_dim_multiplier is not None:
        width = int(config.ffn_dim_multiplier * width)
        parts.append(f"* {config.ffn_dim_multiplier} = {width}")
    if divisor != 1:
        width = int(width / divisor)
        parts.append(f"/ {divisor:g} = {width}")
    multiple_of = _multiple_of(config)
    rounded = multiple_of * -(-width // multiple_of)
    return [" -> ".join([*parts, f"multiple of {multiple_of} = {rounded}"])]


def _multiple_of(config: ModelConfig) -> int:
    return config.multiple_of or DEFAULT_MULTIPLE_OF


def _gqa(subject: Subject, name: str) -> Topic:
    config = subject.config
    group = config.n_heads // config.n_kv_heads
    stored = config.n_kv_heads
    if subject.checkpoint and subject.checkpoint.config:
        stored = subject.checkpoint.config.n_kv_heads  # 405B in 16 shards counts each twice
    twice: tuple[str, ...] = ()
    if stored != config.n_kv_heads:
        twice = (f"{config.file} counts {stored}: each head is stored more than once",)
    if group == 1:
        text = "each query head has keys and values of its own (multi-head attention)"
    else:
        text = (
            f"{group} query heads share one head of keys and values, so the KV cache is 1/{group} "
            "of what it would be with one for each (grouped-query attention, arXiv 2305.13245)"
        )
    return _topic(
        "derived",
        name,
        group,
        text,
        f"{config.n_heads} / {config.n_kv_heads} = {group}",
        *twice,
        check=_check_rows(
            subject, "attention.wk", stored * config.head_dim, f"{stored} * {config.head_dim}"
        ),
    )


def _rope(subject: Subject, name: str) -> Topic | None:
    config = subject.config
    if subject.source is None and subject.official and "rope_theta" not in subject.official.fields:
        return None  # not published
    if config.head_dim % 2 or config.rope_type not in (None, LINEAR):
        return None  # no pairs, or scaled in a way that is not worked out here
    scaling, reason = choose_rope(config, subject.official.id if subject.official else None)
    plain, scaled = wavelengths(config), wavelengths(config, scaling)
    pairs = len(plain)
    shown = {round(i * (pairs - 1) / (SHOWN_PAIRS - 1)) for i in range(SHOWN_PAIRS)}
    text = (
        "longest wavelength, in tokens: position is written into each query and key by turning its "
        f"{pairs} pairs of numbers; pair i turns once in 2*pi * rope_theta^(2i/head_dim) tokens"
    )
    steps = [f"rope_theta {config.rope_theta:,.0f}, head_dim {config.head_dim}"]
    if scaling:
        steps.append(
            f"scaled: wavelengths over {scaling.stretched_above:,.0f} tokens are "
            f"{scaling.factor:g} times as long ({reason})"
            + f", those under {scaling.kept_below:,.0f} as they were, those between less so"
            * (scaling.kept_below < scaling.stretched_above)
        )
        between = [
            pair
            for pair, length in enumerate(plain)
            if scaling.kept_below <= length <= scaling.stretched_above
        ]
        shown |= set(between[len(between) // 2 :][:1])
    for pair in sorted(shown):
        stretched = f" -> {scaled[pair]:,.1f}" if scaled[pair] != plain[pair] else ""
        steps.append(f"pair {pair}: {plain[pair]:,.1f} tokens{stretched}")
    if interval := config.nope_layer_interval:
        steps.append(f"one layer in {interval} has none: it sees what, not where")
    mistake = None
    if scaling and config.file == PARAMS_FILE:
        mistake = (
            f"params.json says that wavelengths are scaled, not how: {scaling.factor:g} is from "
            "Meta's reference code"
        )
        if subject.tied_output:
            mistake += "; config.json of Llama 3.2 1B and 3B on the hub says 32"
    return _topic("derived", name, round(max(scaled)), text, *steps, mistake=mistake)


def _layer_parameters(subject: Subject, name: str) -> Topic:
    """Of the last layer: where experts alternate with dense layers, it is a routed one."""
    config = subject.config
    layer = config.n_layers - 1
    shapes = {
        weight.partition(f"layers.{layer}.")[2]: spec.shape
        for weight, spec in expected_weights(config).items()
        if layer_of(weight) == layer and spec.shape and component_of(weight) not in NOT_PARAMETERS
    }
    steps = [
        f"{weight.removesuffix('.weight')} {' * '.join(map(str, shape))} = {count(shape):,}"
        for weight, shape in shapes.items()
    ]
    total = sum(map(count, shapes.values()))
    check = None
    if subject.census and not _is_packed(subject):
        found = dict(subject.census.parameters.by_layer).get(layer, 0)
        check = (f"the files have {found:,} in layer {layer}", found == total)
    text = f"parameters of layer {layer}: all that its matrices and norms hold"
    return _topic("derived", name, total, text, *steps, check=check)


def _parameters(subject: Subject, name: str) -> Topic:
    config, tied = subject.config, subject.tied_output
    total = count_parameters(config, tied)
    sizes = Counter(_layer_sizes(config).values())
    ends = (config.vocab_size or 0) * config.dim
    rest = total - sum(size * n for size, n in sizes.items()) - config.dim - ends * (2 - tied)
    steps = [f"{counted(n, 'layer')} of {size:,} = {n * size:,}" for size, n in sizes.items()]
    steps.append(f"last norm = {config.dim:,}")
    which = "embedding, which is the output too" if tied else "embedding and output"
    times = "" if tied else "2 * "
    steps.append(f"{which}: {times}{config.vocab_size:,} * {config.dim:,} = {ends * (2 - tied):,}")
    if rest:
        cross = "cross-attention, " * (config.cross_attention is not None)
        steps.append(f"{cross}image encoder and what joins it = {rest:,}")
    check = None
    if subject.census and not _is_packed(subject):
        found = subject.census.parameters.total
        check = (f"the files have {found:,}", not subject.check_parameters(total))
    mistake = None
    if tied:
        mistake = (
            f"a sum over the names of the state dict gives {total + ends:,}: it counts the one "
            "matrix under both of its names"
        )
    text = "parameters, each once"
    return _topic("derived", name, total, text, *steps, check=check, mistake=mistake)


def _layer_sizes(config: ModelConfig) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for weight, spec in expected_weights(config).items():
        layer = layer_of(weight)
        if layer is not None and spec.shape and component_of(weight) not in NOT_PARAMETERS:
            sizes[layer] += count(spec.shape)
    return sizes


def _kv_cache(subject: Subject, name: str) -> Topic:
    config = subject.config
    one = kv_cache(config, 1, 1, "bf16").nbytes
    heads = f"{config.n_kv_heads} KV heads * {config.head_dim} * 2 bytes"
    steps = [f"2 (keys, values) * {config.n_layers} layers * {heads} = {one:,} bytes per token"]
    limit = subject.context_length or USUAL_CONTEXT
    for tokens in sorted({min(USUAL_CONTEXT, limit), limit}):
        cache = kv_cache(config, tokens, 1, "bf16")
        steps.append(f"{tokens:,} tokens: {cache.nbytes:,} bytes")
    if chunked := chunked_layers(config):
        steps.append(
            f"{chunked} layers keep {config.attention_chunk_size:,} tokens at most; allocated in "
            f"full, as Meta's code does, {limit:,} tokens take {cache.nbytes_allocated:,} bytes"
        )
    mistake = None
    if config.n_kv_heads < config.n_heads:
        many = one * config.n_heads // config.n_kv_heads
        mistake = f"with all {config.n_heads} heads, as if there were no GQA, it would be {many:,}"
    text = "bytes of keys and values that each token of a text leaves behind, in 16 bits"
    return _topic("derived", name, one, text, *steps, mistake=mistake)


def _weight_bytes(subject: Subject, name: str) -> Topic:
    parameters = count_parameters(subject.config, subject.tied_output)
    steps = [f"{dtype}: {parameters:,} * {width} = {parameters * width:,}" for dtype, width in
             (("BF16 or FP16", 2), ("FP32", 4))]  # fmt: skip
    int4 = weight_nbytes(layout_of(subject.config, subject.tied_output), weight_form("int4"))
    check = None
    if subject.checkpoint and subject.census:
        stored = sum(subject.census.nbytes_by_dtype.values())
        dtypes = list(subject.census.nbytes_by_dtype)
        agrees = None
        once = subject.checkpoint.shards == 1 or subject.checkpoint.format != "meta"
        whole = once and not subject.config.cross_attention
        if whole and len(dtypes) == 1 and dtypes[0] in STORED:  # shards hold copies of norms
            agrees = stored == DTYPES[dtypes[0]].nbytes((parameters,))
        check = (f"the files hold {stored:,} bytes of tensors, as {', '.join(dtypes)}", agrees)
    mistake = (
        f"half a byte per parameter, as is often said of INT4, would be {int4.naive:,}; with "
        f"scales, and with embedding, output and norms in 16 bits, it is {int4.nbytes:,}"
    )
    text = "bytes of the weights in 16 bits"
    return _topic("derived", name, 2 * parameters, text, *steps, check=check, mistake=mistake)


DERIVED: dict[str, Callable[[Subject, str], Topic | None]] = {
    "head_dim": _head_dim,
    "hidden_dim": _hidden_dim,
    "expert_hidden_dim": _expert_hidden_dim,
    "gqa_group": _gqa,
    "rope": _rope,
    "layer_parameters": _layer_parameters,
    "parameters": _parameters,
    "weight_bytes": _weight_bytes,
    "kv_bytes_per_token": _kv_cache,
}


def _is_packed(subject: Subject) -> bool:
    """Whether a library on the hub quantised it, and stores it in a way of its own."""
    quantization = subject.config.quantization
    return quantization is not None and not quantization.native


def _check_rows(subject: Subject, linear: str, rows: int, name: str) -> tuple[str, bool] | None:
    """Whether the first dense layer's matrix has so many rows."""
    if subject.checkpoint is None or _is_packed(subject):
        return None
    for weight in subject.checkpoint.weights.values():
        if weight.name.endswith(f".{linear}.weight") and layer_of(weight.name) is not None:
            found = weight.shape[0] if weight.shape else 0
            return f"{weight.name} has {found:,} rows, {name} = {rows:,}", found == rows
    return None


# --- bits -----------------------------------------------------------------------------------------


def _bits(subject: Subject) -> Iterator[Topic]:
    value, origin = EXAMPLE_VALUE, "an example, as there are no weights here"
    found = _first_value(subject.checkpoint) if subject.checkpoint else None
    if found:
        value, origin = found
    for name, layout in FLOATS.items():
        bits = split(value, layout)
        yield _topic(
            "bits",
            name,
            bits.value if math.isfinite(bits.value) else None,
            f"1 bit of sign, {layout.exponent_bits} of exponent, {layout.mantissa_bits} of "
            f"mantissa: {value!r} ({origin})",
            f"{bits.sign} {bits.exponent} {bits.mantissa}",
            _in_words(bits, layout),
        )


def _in_words(bits: Bits, layout: SmallFloat) -> str:
    """What the bits come to."""
    sign = "-" if bits.sign == "1" else ""
    if not math.isfinite(bits.value):
        return f"{sign}infinity: the number is too large for this format"
    exponent, mantissa = int(bits.exponent, 2), int(bits.mantissa, 2)
    power = f"2^({exponent} - {layout.bias})" if exponent else f"2^{1 - layout.bias}"
    fraction = (exponent > 0) + mantissa / 2**layout.mantissa_bits
    return f"{sign}{power} * {fraction!r} = {bits.value!r}"


def _first_value(checkpoint: Checkpoint) -> tuple[float, str] | None:
    """The first number of a weight that is not zero, and where it stands."""
    for name in (*EXAMPLE_WEIGHTS, *checkpoint.weights):
        weight = checkpoint.weights.get(name)
        layout = FLOATS.get(STORED.get(weight.parts[0].dtype.name, "")) if weight else None
        if weight and layout:
            values = _read(checkpoint, weight, layout)
            for index, value in enumerate(values):
                if value and math.isfinite(value):
                    return (
                        value,
                        f"element {index} of {name}, stored as {weight.parts[0].dtype.name}",
                    )
    return None


def _read(checkpoint: Checkpoint, weight: Weight, layout: SmallFloat) -> list[float]:
    """The first elements in the order that they are stored."""
    part = weight.parts[0]
    width = part.dtype.block_bytes
    length = min(LOOKED_AT * width, part.span)
    try:
        start = checkpoint.reader.locate(checkpoint.source, part.storage) + part.offset
        data = checkpoint.source.read(part.file, start, length)
    except LlamaInspectError:
        return []
    codes = (int.from_bytes(data[i : i + width], "little") for i in range(0, length, width))
    return [decode(code, layout) for code in codes]
