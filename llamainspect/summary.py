"""What a checkpoint is: the official model it matches, its parameters, and what is wrong."""

import os
from collections import Counter
from itertools import groupby
from typing import Any

from llamainspect.architecture import WeightSpec
from llamainspect.catalog import OfficialModel, identify_by_shapes
from llamainspect.census import EMBEDDING, OUTPUT, Census, form_of, take_census
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import PARAMS_FILE, ModelConfig
from llamainspect.errors import LlamaInspectError, UnsupportedFile, reason_of
from llamainspect.formats.vocabulary import (
    JSON_FILE,
    TOKENIZER_FILE,
    Vocabulary,
    check_vocabulary,
    find_tokenizer,
    read_vocabulary,
)
from llamainspect.names import (
    NOT_PARAMETERS,
    component_of,
    compress,
    layer_of,
    layer_pattern,
    listing,
)
from llamainspect.reports import (
    Finding,
    ModelMatch,
    Severity,
    Summary,
    worst_first,
)
from llamainspect.runs import check_runnable
from llamainspect.sources import Folder
from llamainspect.subject import subject_of
from llamainspect.tensors import count

HF_NAMES = ("model.layers.", "model.embed_tokens.", "lm_head.")
PUBLISHED_DTYPES = ("BF16", "F16")
MAX_FINDINGS = 100  # of each severity


def summarize(checkpoint: Checkpoint) -> Summary:
    """Identity, counts and findings. Reads nothing but headers and the tokenizer's length."""
    config = checkpoint.config
    vocabulary, tokenizer_file, tokenizer_findings = _read_tokenizer(checkpoint)
    shape_findings = check_shapes(checkpoint)
    census = take_census(checkpoint)
    structural = (*checkpoint.findings, *shape_findings)
    model = _match(checkpoint, census, structural)
    findings = [
        *structural,
        *_check_other_model(checkpoint, model),
        *_check_mixed_dtypes(checkpoint),
        *_check_quantised(checkpoint),
        *_check_broadcasts(checkpoint),
        *_check_tying(census),
        *census.findings,
        *tokenizer_findings,
        *_check_vocabulary(checkpoint, vocabulary, tokenizer_file),
    ]
    return Summary(
        path=checkpoint.source.place,
        format=checkpoint.format,
        shards=checkpoint.shards,
        files=checkpoint.files,
        model=model,
        config=None if config is None else _describe_config(config),
        parameters=census.parameters,
        tied_output=census.tied_output,
        nbytes=sum(census.nbytes_by_dtype.values()),
        nbytes_by_dtype=census.nbytes_by_dtype,
        stored_as=census.stored_as,
        tokenizer=None if vocabulary is None else _describe_vocabulary(vocabulary, tokenizer_file),
        findings=_cap(worst_first(findings)),
    )


def _cap(findings: list[Finding]) -> tuple[Finding, ...]:
    """At most MAX_FINDINGS of each severity, and how many more there are."""
    kept: list[Finding] = []
    for severity, group in groupby(findings, key=lambda finding: finding.severity):
        rows = list(group)
        kept += rows[:MAX_FINDINGS]
        if len(rows) > MAX_FINDINGS:
            more = f"{len(rows) - MAX_FINDINGS:,} more of this kind are not shown"
            kept.append(Finding(severity, "…", more))
    return tuple(kept)


# --- which model ----------------------------------------------------------------------------------


def _match(checkpoint: Checkpoint, census: Census, findings: tuple[Finding, ...]) -> ModelMatch:
    """`exact` is a strong word: settings, shards, every shape, dtype and unique parameters."""
    identified = census.identified
    if identified is None or not _shapes_agree(checkpoint):
        return ModelMatch(None, "none", (), (), None, None)
    row = identified.model
    differences = [*identified.differences, *_stored_otherwise(checkpoint, row, census)]
    whole = not any(finding.severity == "error" for finding in findings)
    tower = not any(component_of(finding.where) == "vision" and finding.severity == "warning"
                    for finding in findings)  # fmt: skip
    return ModelMatch(
        name=row.id,
        match="exact" if whole and tower and not differences else "architecture",
        same_configuration=tuple(other.id for other in identified.same),
        differences=tuple(differences),
        repository=row.repository,
        context_length=row.context_length,
    )


def _shapes_agree(checkpoint: Checkpoint) -> bool:
    """Whether most weights that the configuration asks for are there with the shape it says."""
    required = [(n, s) for n, s in checkpoint.expected.items() if s.required and s.shape]
    agreeing = sum(
        name in checkpoint.weights and checkpoint.weights[name].shape == spec.shape
        for name, spec in required
    )
    return 2 * agreeing > len(required)


def _stored_otherwise(checkpoint: Checkpoint, row: OfficialModel, census: Census) -> list[str]:
    if row.form != "plain":
        return []
    found = []
    dtypes = {
        weight.parts[0].dtype.name
        for weight in checkpoint.weights.values()
        if component_of(weight.name) not in NOT_PARAMETERS
    }
    if not any(dtypes <= {dtype} for dtype in PUBLISHED_DTYPES):
        found.append(f"stored as {', '.join(sorted(dtypes))}, {row.id} has 16-bit floats")
    if census.tied_output != row.tied_output:
        tying = "tied" if census.tied_output else "not tied"
        found.append(f"output and embedding are {tying}, unlike in {row.id}")
    elif row.config.cross_attention is None and census.parameters.total != (
        row.params_unique or row.params_total
    ):
        found.append(
            f"{census.parameters.total:,} unique parameters, {row.params_total:,} in {row.id}"
        )
    return found


def _check_other_model(checkpoint: Checkpoint, model: ModelMatch) -> list[Finding]:
    """When the weights contradict params.json: whose they are by their shapes alone."""
    shapes = [
        weight.shape if (weight := checkpoint.weights.get(name)) else ()
        for name in (EMBEDDING, "layers.0.feed_forward.w1.weight", "layers.0.attention.wk.weight")
    ]
    if model.name or checkpoint.config is None or any(len(shape) != 2 for shape in shapes):
        return []
    (vocab_size, dim), (hidden_dim, _), (kv_rows, _) = shapes
    layers = {layer_of(name) for name in checkpoint.weights} - {None}
    row = identify_by_shapes(dim, len(layers), hidden_dim, kv_rows, vocab_size)
    if row is None:
        return []
    file = checkpoint.config_file
    return [Finding("error", file, f"the weights have the shapes of {row.id}; {file} is another's")]


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
    expected, weights, config = checkpoint.expected, checkpoint.weights, checkpoint.config
    if not expected:
        return []
    if config and config.quantization and not config.quantization.native:
        message = (
            f"quantised with {config.quantization.scheme or 'an unnamed library'}, which packs "
            "weights in a way of its own: listed and counted as stored, shapes not checked"
        )
        return [Finding("note", checkpoint.config_file, message)]
    missing = [name for name, spec in expected.items() if spec.required and name not in weights]
    unexpected = [
        name
        for name in weights
        if name not in expected and component_of(name) not in NOT_PARAMETERS
    ]
    findings = _check_missing(missing, expected, checkpoint)
    findings += _check_unexpected(unexpected, checkpoint)
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
    if checkpoint.format == "meta" and any(n.startswith(HF_NAMES) for n in checkpoint.weights):
        return []  # said once, of the names that are there
    file = checkpoint.config_file
    layers = {layer_of(name) for name in checkpoint.weights} - {None}
    findings = []
    for pattern, names in _by_pattern(missing).items():
        spec = expected[names[0]]
        shape = f"; expected with shape {list(spec.shape)}" if spec.shape else ""
        cause = f"the file is incomplete, or {file} is of another model"
        if pattern.endswith(OUTPUT) and checkpoint.format == "hf":
            cause = (
                "tie_word_embeddings should be true in config.json, or the file is incomplete; "
                "loaders fill what is missing with random numbers"
            )
        elif pattern.endswith(OUTPUT):
            cause = (
                "tied models of Meta's store it beside the embedding all the same; the file was "
                "converted from a layout that drops it, or is incomplete"
            )
        elif all(layer_of(name) not in layers for name in names) and layer_of(names[0]) is not None:
            cause = (
                f"the files hold {len(layers)} layers: {file} is of another model, or they "
                "were cut down"
            )
        findings.append(Finding("error", pattern, f"missing{shape}. Likely cause: {cause}"))
    return findings


def _check_unexpected(unexpected: list[str], checkpoint: Checkpoint) -> list[Finding]:
    native = checkpoint.format == "meta"
    foreign = [name for name in unexpected if native and name.startswith(HF_NAMES)]
    rest = [name for name in unexpected if not (native and name.startswith(HF_NAMES))]
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
            "unexpected: the configuration asks for no such weight. Likely cause: "
            f"{checkpoint.config_file} is of another model, or something was added to the weights",
        )
        for pattern, names in _by_pattern(rest).items()
    ]


def _check_wrong(checkpoint: Checkpoint) -> list[Finding]:
    wrong: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name, weight in checkpoint.weights.items():
        spec = checkpoint.expected.get(name)
        expected = spec.whole(checkpoint.shards) if spec else None
        if expected is not None and weight.shape != expected:
            wrong.setdefault((expected, weight.shape), []).append(name)
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
    config, file = checkpoint.config, checkpoint.config_file
    if shape == expected[::-1]:
        return "it was saved transposed"
    if count(shape) == count(expected):
        return "it was saved reshaped, or packed for another program"
    if name.endswith((EMBEDDING, OUTPUT)) and shape[1:] == expected[1:]:
        return f"the vocabulary was resized to {shape[0]:,}, or vocab_size in {file} is wrong"
    if config and config.quantization and count(expected) % max(count(shape), 1) == 0:
        return (
            f"{count(expected) // max(count(shape), 1)} quantised values are packed in each element"
        )
    if name.endswith((".wk.weight", ".wv.weight")) and config and shape:
        heads = shape[0] / config.head_dim
        return f"n_kv_heads in {file} is {config.n_kv_heads}, these rows are {heads:g} heads"
    if config and config.dim in expected and config.dim not in shape:
        return f"dim in {file} ({config.dim}) is of another model"
    if "feed_forward" in name:
        field = "intermediate_size" if file != PARAMS_FILE else "multiple_of or ffn_dim_multiplier"
        return f"{field} in {file} is of another model"
    return f"{file} is of another model, or the file is damaged"


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
    quantised = form_of(checkpoint) != "plain"
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


def _check_quantised(checkpoint: Checkpoint) -> list[Finding]:
    """What keeps a checkpoint that Meta quantised from being run: scales that are missing or do not
    fit, say. The first such thing."""
    if form_of(checkpoint) == "plain" or checkpoint.format != "meta" or not checkpoint.expected:
        return []
    try:
        check_runnable(subject_of(checkpoint))
    except LlamaInspectError as error:
        severity: Severity = "warning" if isinstance(error, UnsupportedFile) else "error"
        where, _, message = str(error).partition(": ")
        return [Finding(severity, where, f"it does not run: {message}")]
    return []


def _check_tying(census: Census) -> list[Finding]:
    """An output that config.json calls the embedding, and that is stored with other values."""
    if not census.untied:
        return []
    message = (
        "config.json says that it is the embedding, and it is stored with other values: "
        "transformers 5 uses them, others may use the embedding. tie_word_embeddings should be "
        "false"
    )
    return [Finding("warning", OUTPUT, message)]


def _check_broadcasts(checkpoint: Checkpoint) -> list[Finding]:
    """Views that repeat stored elements (stride 0): no checkpoint of weights has them."""
    names = [
        weight.name
        for weight in checkpoint.weights.values()
        if weight.parts[0].strides is not None and weight.parts[0].span < weight.parts[0].nbytes
    ]
    if not names:
        return []
    message = (
        f"fewer elements are stored than the shape has (strides of 0 repeat them; in number: "
        f"{len(names):,}); these are no trained weights"
    )
    return [Finding("error", listing(compress(names)), message)]


# --- tokenizer ------------------------------------------------------------------------------------


def _read_tokenizer(
    checkpoint: Checkpoint,
) -> tuple[Vocabulary | None, str, list[Finding]]:
    """What is known of tokenizer.model, and where it stands: in Llama 1 and 2, one level up."""
    source, file = checkpoint.source, TOKENIZER_FILE
    try:
        if isinstance(source, Folder) and source.only is None:
            place = find_tokenizer(source, (TOKENIZER_FILE, JSON_FILE))
            if place is None:
                return None, file, []
            between = os.path.relpath(place.source.directory, source.directory)
            file = os.path.normpath(os.path.join(between, place.file)).replace(os.sep, "/")
            source = place.source
            if place.file == JSON_FILE:  # too long to be read for its size alone
                return Vocabulary(JSON_FILE, None, None), file, []
        elif TOKENIZER_FILE not in source.files():
            return None, file, []
        return read_vocabulary(source, config=checkpoint.config), file, []
    except (LlamaInspectError, OSError) as error:
        return None, file, [Finding("error", file, reason_of(error, TOKENIZER_FILE))]


def _describe_vocabulary(vocabulary: Vocabulary, file: str) -> dict[str, object]:
    return {
        "file": file,
        "kind": vocabulary.kind,
        "base_tokens": vocabulary.base_tokens,
        "special_tokens": vocabulary.special_tokens,
        "vocab_size": vocabulary.vocab_size,
    }


def _check_vocabulary(
    checkpoint: Checkpoint, vocabulary: Vocabulary | None, file: str
) -> list[Finding]:
    config, embedding = checkpoint.config, checkpoint.weights.get(EMBEDDING)
    if config is None or vocabulary is None:
        return []
    rows = embedding.shape[0] if embedding and len(embedding.shape) == 2 else None
    return check_vocabulary(config.vocab_size, rows, vocabulary.vocab_size, file, config.file)
