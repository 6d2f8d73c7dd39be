"""What a checkpoint is: the official model it matches, its parameters, and what is wrong."""

from collections import Counter
from typing import Any

from llamainspect.architecture import WeightSpec, inactive_parameters
from llamainspect.catalog import Form, Identified, identify
from llamainspect.checkpoint import Checkpoint, Weight
from llamainspect.config import ModelConfig
from llamainspect.errors import LlamaInspectError, MissingFile
from llamainspect.formats.vocabulary import TOKENIZER_FILE, Vocabulary, read_vocabulary
from llamainspect.names import (
    COMPONENTS,
    NOT_PARAMETERS,
    component_of,
    compress,
    layer_of,
    layer_pattern,
    listing,
)
from llamainspect.reports import (
    Finding,
    LayerCount,
    ModelMatch,
    Parameters,
    Severity,
    Summary,
)
from llamainspect.tensors import count

HF_NAMES = ("model.layers.", "model.embed_tokens.", "lm_head.")
OUTPUT, EMBEDDING = "output.weight", "tok_embeddings.weight"


def summarize(checkpoint: Checkpoint) -> Summary:
    """Identity, counts and findings. Reads nothing but headers and the tokenizer's length."""
    config = checkpoint.config
    vocabulary, tokenizer_findings = _read_tokenizer(checkpoint)
    shape_findings = check_shapes(checkpoint)
    shared = _find_copies(checkpoint)
    equal = {} if shared else _output_equals_embedding(checkpoint)
    copies = shared | equal
    identified = _identify(checkpoint)
    whole = config is not None and not any(
        finding.severity == "error" for finding in (*checkpoint.findings, *shape_findings)
    )
    parameters, count_findings = _count(checkpoint, copies, identified)
    findings = (
        *checkpoint.findings,
        *shape_findings,
        *_check_mixed_dtypes(checkpoint),
        *_describe_copies(checkpoint, shared, equal),
        *count_findings,
        *tokenizer_findings,
        *check_vocabulary(config, vocabulary),
    )
    order = {"error": 0, "warning": 1, "note": 2}
    nbytes_by_dtype = _nbytes_by_dtype(checkpoint)
    return Summary(
        path=checkpoint.source.place,
        format=checkpoint.format,
        shards=checkpoint.shards,
        files=checkpoint.files,
        model=_match(identified, whole),
        config=None if config is None else _describe_config(config),
        parameters=parameters,
        tied_output=any(name.endswith(OUTPUT) for name in copies),
        nbytes=sum(nbytes_by_dtype.values()),
        nbytes_by_dtype=nbytes_by_dtype,
        tokenizer=None if vocabulary is None else _describe_vocabulary(vocabulary),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.severity])),
    )


# --- which model ----------------------------------------------------------------------------------


def _identify(checkpoint: Checkpoint) -> Identified | None:
    config = checkpoint.config
    if config is None or config.vocab_size is None:
        return None
    sizes = {entry.nbytes for entry in checkpoint.files}
    shard_nbytes = sizes.pop() if len(sizes) == 1 else None
    return identify(config, checkpoint.shards, _form(checkpoint), shard_nbytes)


def _form(checkpoint: Checkpoint) -> Form:
    """How the weights are stored, as far as dtypes and configuration tell."""
    dtypes = {part.dtype.name for weight in checkpoint.weights.values() for part in weight.parts}
    if any(name.startswith("F8_") for name in dtypes):
        return "fp8"
    if checkpoint.config and checkpoint.config.quantization:
        return "int4"
    return "int8" if "I8" in dtypes else "plain"


def _match(identified: Identified | None, whole: bool) -> ModelMatch:
    if identified is None:
        return ModelMatch(None, "none", (), (), None, None)
    model = identified.model
    exact = whole and not identified.differences
    return ModelMatch(
        name=model.id,
        match="exact" if exact else "architecture",
        same_configuration=tuple(other.id for other in identified.same),
        differences=identified.differences,
        repository=model.repository,
        context_length=model.context_length,
    )


def _describe_config(config: ModelConfig) -> dict[str, Any]:
    """Every field that is set, groups as objects, and what follows from them."""
    fields = {
        key: value._asdict() if hasattr(value, "_asdict") else value
        for key, value in config._asdict().items()
        if value not in (None, ())
    }
    return {**fields, "gqa_group": config.n_heads // config.n_kv_heads}


# --- shapes ---------------------------------------------------------------------------------------


def check_shapes(checkpoint: Checkpoint) -> list[Finding]:
    """Weights that are missing, unexpected or of another shape than the configuration says."""
    expected, weights = checkpoint.expected, checkpoint.weights
    if not expected:
        return []
    missing = [name for name, spec in expected.items() if spec.required and name not in weights]
    unexpected = [
        name
        for name in weights
        if name not in expected and component_of(name) not in NOT_PARAMETERS
    ]
    findings = _check_missing(missing, expected, checkpoint)
    findings += _check_unexpected(unexpected)
    findings += _check_wrong(checkpoint)
    unchecked = [
        name
        for name, spec in expected.items()
        if spec.shape is None and name in weights and component_of(name) != "buffers"
    ]
    if unchecked:
        findings.append(
            Finding(
                "note",
                listing(compress(unchecked)),
                "listed and counted, shapes not checked: no public file or code fixes them",
            )
        )
    return findings


def _check_missing(
    missing: list[str], expected: dict[str, WeightSpec], checkpoint: Checkpoint
) -> list[Finding]:
    if not missing:
        return []
    if any(name.startswith(HF_NAMES) for name in checkpoint.weights):
        return []  # said once, of the names that are there
    layers = {layer_of(name) for name in checkpoint.weights} - {None}
    findings = []
    for pattern, names in _by_pattern(missing).items():
        shape = list(expected[names[0]].shape or ())
        cause = "the file is incomplete, or params.json is of another model"
        if pattern.endswith(OUTPUT):
            cause = (
                "tied models of Meta's store it beside the embedding all the same; the file was "
                "converted from a layout that drops it, or is incomplete"
            )
        elif all(layer_of(name) not in layers for name in names) and layer_of(names[0]) is not None:
            cause = (
                f"the files hold {len(layers)} layers: params.json is of another model, or they "
                "were cut down"
            )
        findings.append(
            Finding(
                "error", pattern, f"missing; expected with shape {shape}. Likely cause: {cause}"
            )
        )
    return findings


def _check_unexpected(unexpected: list[str]) -> list[Finding]:
    foreign = [name for name in unexpected if name.startswith(HF_NAMES)]
    rest = [name for name in unexpected if not name.startswith(HF_NAMES)]
    findings = []
    if foreign:
        findings.append(
            Finding(
                "error",
                listing(compress(foreign)),
                f"Hugging Face names in Meta's container (in number: {len(foreign):,}), with q "
                "and k rows in another order; convert the checkpoint back or use the folder it "
                "came from",
            )
        )
    return findings + [
        Finding(
            "warning" if component_of(names[0]) == "vision" else "error",
            pattern,
            "unexpected: the configuration asks for no such weight. Likely cause: params.json is "
            "of another model, or something was added to the weights",
        )
        for pattern, names in _by_pattern(rest).items()
    ]


def _check_wrong(checkpoint: Checkpoint) -> list[Finding]:
    wrong: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name, weight in checkpoint.weights.items():
        spec = checkpoint.expected.get(name)
        if spec and spec.shape is not None and weight.shape != spec.shape:
            wrong.setdefault((spec.shape, weight.shape), []).append(name)
    return [
        Finding(
            _severity(names[0], checkpoint.config),
            pattern,
            f"shape {list(shape)}, expected {list(expected)}. Likely cause: "
            f"{_cause(expected, shape, names[0], checkpoint)}",
        )
        for (expected, shape), all_names in wrong.items()
        for pattern, names in _by_pattern(all_names).items()
    ]


def _severity(name: str, config: ModelConfig | None) -> Severity:
    """Towers are checked where facts allow, and no public file shows how int4 is packed."""
    quantised = config is not None and config.quantization is not None
    return "warning" if component_of(name) == "vision" or quantised else "error"


def _cause(
    expected: tuple[int, ...], shape: tuple[int, ...], name: str, checkpoint: Checkpoint
) -> str:
    config = checkpoint.config
    if shape == expected[::-1]:
        return "it was saved transposed"
    if count(shape) == count(expected):
        return "it was saved reshaped, or packed for another program"
    if config and expected[:1] == (config.vocab_size,) and shape[1:] == expected[1:]:
        return f"the vocabulary was resized to {shape[0]:,}, or vocab_size in params.json is wrong"
    if config and config.quantization and count(expected) % max(count(shape), 1) == 0:
        return (
            f"{count(expected) // max(count(shape), 1)} quantised values are packed in each element"
        )
    if name.endswith((".wk.weight", ".wv.weight")) and config:
        heads = shape[0] / config.head_dim
        return f"n_kv_heads in params.json is {config.n_kv_heads}, these rows are {heads:g} heads"
    if config and config.dim in expected and config.dim not in shape:
        return f"dim in params.json ({config.dim}) is of another model"
    if "feed_forward" in name:
        return "multiple_of or ffn_dim_multiplier in params.json is of another model"
    return "params.json is of another model, or the file is damaged"


def _by_pattern(names: list[str]) -> dict[str, list[str]]:
    """Names grouped by what `compress` calls them together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(layer_pattern(name)[0], []).append(name)
    return {compress(group)[0]: group for group in groups.values()}


# --- dtypes ---------------------------------------------------------------------------------------


def _check_mixed_dtypes(checkpoint: Checkpoint) -> list[Finding]:
    """Weights whose dtype is not that of most. Quantised releases mix them on purpose."""
    dtypes = {
        weight.name: weight.parts[0].dtype.name
        for weight in checkpoint.weights.values()
        if component_of(weight.name) not in NOT_PARAMETERS
    }
    tally = Counter(dtypes.values())
    if len(tally) < 2:
        return []
    usual = tally.most_common(1)[0][0]
    quantised = _form(checkpoint) != "plain"
    return [
        Finding(
            "note" if quantised else "warning",
            listing(compress([name for name, found in dtypes.items() if found == dtype])),
            f"{dtype} (in number: {tally[dtype]:,}) where {tally[usual]:,} weights are {usual}. "
            + (
                "Quantised checkpoints do that"
                if quantised
                else "Likely cause: a conversion, merge or fine-tune that missed some"
            ),
        )
        for dtype in tally
        if dtype != usual
    ]


def _nbytes_by_dtype(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of all tensors in all files, bytes that two tensors share counted once."""
    views = {
        (part.file, part.storage.key, part.offset, part.shape): part
        for weight in checkpoint.weights.values()
        for part in weight.parts
    }
    nbytes: Counter[str] = Counter()
    for part in views.values():
        nbytes[part.dtype.name] += part.nbytes
    return dict(nbytes.most_common())


# --- counts ---------------------------------------------------------------------------------------


def _find_copies(checkpoint: Checkpoint) -> dict[str, str]:
    """Weights that are another one's bytes under a second name, each with that other's name."""
    weights = checkpoint.weights
    first: dict[tuple[object, ...], str] = {}
    copies: dict[str, str] = {}
    # The embedding keeps its name and the output is the copy, whichever the file lists first.
    for weight in sorted(weights.values(), key=lambda weight: weight.name.endswith(OUTPUT)):
        part = weight.parts[0]
        key = part.file, part.storage.key, part.offset, weight.shape
        other = weights[first.setdefault(key, weight.name)]
        if weight.elements and other is not weight and _views(weight) == _views(other):
            copies[weight.name] = other.name
    return copies


def _views(weight: Weight) -> list[tuple[object, ...]]:
    return [(part.storage, part.offset, part.strides) for part in weight.parts]


def _output_equals_embedding(checkpoint: Checkpoint) -> dict[str, str]:
    """The output, when it is stored beside an embedding with the same checksum in every shard."""
    output, embedding = (
        next((w for name, w in checkpoint.weights.items() if name.endswith(end)), None)
        for end in (OUTPUT, EMBEDDING)
    )
    if output is None or embedding is None or output.shape != embedding.shape:
        return {}
    sums = [
        [part.storage.crc32 if part.whole_storage else None for part in weight.parts]
        for weight in (output, embedding)
    ]
    return {output.name: embedding.name} if sums[0] == sums[1] and None not in sums[0] else {}


def _describe_copies(
    checkpoint: Checkpoint, shared: dict[str, str], equal: dict[str, str]
) -> list[Finding]:
    return [
        Finding(
            "note",
            f"{name}, {other}",
            f"{how}, so the {checkpoint.weights[name].elements:,} parameters count once; a sum "
            "over names counts them twice",
        )
        for copies, how in (
            (shared, "tied: two names for the same bytes"),
            (equal, "tied, yet stored twice: the two have the same CRC-32"),
        )
        for name, other in copies.items()
    ]


def _count(
    checkpoint: Checkpoint, copies: dict[str, str], identified: Identified | None
) -> tuple[Parameters, list[Finding]]:
    by_component: Counter[str] = Counter()
    by_layer: Counter[int] = Counter()
    stored, repeated = 0, []
    for weight in checkpoint.weights.values():
        stored += weight.stored_elements
        component = component_of(weight.name)
        unique = _unique_elements(weight, checkpoint, identified)
        if unique < weight.stored_elements:
            repeated.append(weight.name)
        if component in NOT_PARAMETERS or weight.name in copies:
            continue
        by_component[component] += unique
        if (layer := layer_of(weight.name)) is not None:
            by_layer[layer] += unique
    findings = []
    if repeated:
        findings.append(
            Finding(
                "note",
                listing(compress(repeated)),
                f"{checkpoint.shards} ranks are more than the KV heads, so each head is stored "
                "more than once; the count takes it once",
            )
        )
    total = sum(by_component.values())
    config = checkpoint.config
    parameters = Parameters(
        total=total,
        stored=stored,
        by_component={name: by_component[name] for name in COMPONENTS if name in by_component},
        by_layer=tuple(LayerCount(layer, n) for layer, n in sorted(by_layer.items())),
        active=_active(config, total, by_component["vision"]),
    )
    return parameters, findings


def _unique_elements(weight: Weight, checkpoint: Checkpoint, identified: Identified | None) -> int:
    """Elements without repeated KV heads: seen in the files, or known of the identified release."""
    config = checkpoint.config
    is_kv = weight.name.endswith((".attention.wk.weight", ".attention.wv.weight"))
    if weight.repeat == 1 and is_kv and identified and config and checkpoint.shards > 1:
        row = identified.model
        if row.params_unique and config.n_kv_heads == row.fields["n_kv_heads"]:
            return weight.elements * row.unique_kv_heads // config.n_kv_heads
    return weight.elements


def _active(config: ModelConfig | None, total: int, vision: int) -> int | None:
    return total - vision - inactive_parameters(config) if config and config.moe else None


# --- tokenizer ------------------------------------------------------------------------------------


def _read_tokenizer(checkpoint: Checkpoint) -> tuple[Vocabulary | None, list[Finding]]:
    try:
        return read_vocabulary(checkpoint.source), []
    except MissingFile:
        return None, []
    except (LlamaInspectError, OSError) as error:
        message = str(error).removeprefix(f"{TOKENIZER_FILE}: ")
        return None, [Finding("error", TOKENIZER_FILE, message)]


def _describe_vocabulary(vocabulary: Vocabulary) -> dict[str, object]:
    return {
        "kind": vocabulary.kind,
        "base_tokens": vocabulary.base_tokens,
        "special_tokens": vocabulary.special_tokens,
        "vocab_size": vocabulary.vocab_size,
    }


def check_vocabulary(config: ModelConfig | None, vocabulary: Vocabulary | None) -> list[Finding]:
    """The tokenizer's size against the model's."""
    if config is None or config.vocab_size is None or vocabulary is None:
        return []
    rows, tokens = config.vocab_size, vocabulary.vocab_size
    if tokens is None:
        fits = vocabulary.base_tokens <= rows
        there = f"at least {vocabulary.base_tokens:,}"
    else:
        fits = tokens == rows
        there = f"{tokens:,}"
    if fits:
        return []
    return [
        Finding(
            "error",
            TOKENIZER_FILE,
            f"it has {there} tokens, the model has {rows:,}. Likely cause: the "
            "tokenizer of another model, or a vocabulary that was padded or extended",
        )
    ]
