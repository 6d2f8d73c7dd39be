"""What a checkpoint holds: which release it resembles, and its parameters, each of them once.

A weight counts once however often it is stored: the second name of a tied embedding and KV heads
that are repeated for the sake of more ranks are found here.
"""

from collections import Counter
from typing import NamedTuple

from llamainspect.architecture import inactive_parameters
from llamainspect.catalog import Form, Identified, identify
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import ModelConfig
from llamainspect.errors import LlamaInspectError
from llamainspect.formats.model_parallel import SCALES_FILE
from llamainspect.names import (
    COMPONENTS,
    NOT_PARAMETERS,
    component_of,
    compress,
    layer_of,
    layer_pattern,
    listing,
)
from llamainspect.reports import Finding, LayerCount, Parameters, StoredForm
from llamainspect.stored_forms import stored_forms
from llamainspect.weights import Weight

TIED = "tied: names for the same bytes"
PARTLY = "overlapping: names for some of the same bytes"
EQUAL = "tied, yet stored twice: the two have the same CRC-32"
SAID = "tied, as config.json says, yet stored twice (samples of the two are equal)"
UNTIED = "not tied, though config.json says so"
SAMPLE_NBYTES, SAMPLES = 4096, 16  # read of two matrices that should be one
OUTPUT, EMBEDDING = "output.weight", "tok_embeddings.weight"


class Census(NamedTuple):
    """What was counted."""

    identified: Identified | None  # the official model with this configuration
    parameters: Parameters
    tied_output: bool
    untied: bool  # config.json calls the output the embedding, and other values are stored
    nbytes_by_dtype: dict[str, int]  # of all tensors in all files, shared storage once
    stored_as: tuple[StoredForm, ...]
    findings: tuple[Finding, ...]


def take_census(checkpoint: Checkpoint) -> Census:
    """Count the weights of a checkpoint by their headers."""
    shares = _shares(checkpoint)
    unique, copies, copy_findings, untied = _find_copies(checkpoint, shares)
    identified = _identify(checkpoint)
    parameters, count_findings = _count(checkpoint, unique, identified)
    return Census(
        identified=identified,
        parameters=parameters,
        tied_output=any(name.endswith(OUTPUT) for name in copies) or _is_left_out(checkpoint),
        untied=untied,
        nbytes_by_dtype=_nbytes_by_dtype(checkpoint, shares),
        stored_as=stored_forms(checkpoint, _nbytes_once(checkpoint, shares)),
        findings=(*copy_findings, *count_findings),
    )


def _is_left_out(checkpoint: Checkpoint) -> bool:
    """Whether the output is not stored, since it is the embedding."""
    tied = checkpoint.config is not None and checkpoint.config.tied_output
    return tied and not any(name.endswith(OUTPUT) for name in checkpoint.weights)


def _identify(checkpoint: Checkpoint) -> Identified | None:
    config = checkpoint.config
    if config is None or config.vocab_size is None:
        return None
    if checkpoint.format != "meta":  # which may be cut in any way
        return identify(config, None, form_of(checkpoint))
    sizes = {e.nbytes for e in checkpoint.files if not SCALES_FILE.fullmatch(e.file)}
    shard_nbytes = sizes.pop() if len(sizes) == 1 else None
    return identify(config, checkpoint.shards, form_of(checkpoint), shard_nbytes)


def form_of(checkpoint: Checkpoint) -> Form:
    """How the weights are stored, as far as dtypes and configuration tell."""
    dtypes = {part.dtype.name for weight in checkpoint.weights.values() for part in weight.parts}
    if any(name.startswith("F8_") for name in dtypes):
        return "fp8"
    quantization = checkpoint.config.quantization if checkpoint.config else None
    if quantization and (quantization.native or "I8" not in dtypes):
        return "int4"
    return "int8" if "I8" in dtypes else "plain"


class _Share(NamedTuple):
    """How much of a weight's bytes no other weight has, and which one has the rest."""

    nbytes: int  # in the first of its parts; shards of one set share storages alike
    holder: Weight


def _shares(checkpoint: Checkpoint) -> dict[str, _Share]:
    """Every weight's own share of the storages that the weights view."""
    by_storage: dict[tuple[str, str], list[Weight]] = {}
    for weight in checkpoint.weights.values():
        part = weight.parts[0]
        by_storage.setdefault((part.file, part.storage.key), []).append(weight)
    shares: dict[str, _Share] = {}
    for weights in by_storage.values():
        # The embedding keeps its bytes and the output is the copy, whichever comes first.
        weights.sort(key=lambda w: (w.parts[0].offset, -w.parts[0].span, w.name.endswith(OUTPUT)))
        reached, holder = 0, weights[0]
        for weight in weights:
            part = weight.parts[0]
            end = part.offset + part.span
            own = min(part.nbytes, max(0, end - max(part.offset, reached)))
            shares[weight.name] = _Share(own, holder)
            if end > reached:
                reached, holder = end, weight
    return shares


def _nbytes_by_dtype(checkpoint: Checkpoint, shares: dict[str, _Share]) -> dict[str, int]:
    """Bytes that the tensors of all files take; what several views share counts once."""
    nbytes: Counter[str] = Counter()
    for weight in checkpoint.weights.values():
        dtype = weight.parts[0].dtype.name
        nbytes[dtype] += shares[weight.name].nbytes * len(weight.parts)
    return dict(nbytes.most_common())


def _nbytes_once(checkpoint: Checkpoint, shares: dict[str, _Share]) -> dict[str, int]:
    """Bytes of each whole weight, copies in other shards and shared storage not counted again."""
    return {
        weight.name: weight.nbytes * shares[weight.name].nbytes // max(weight.parts[0].nbytes, 1)
        for weight in checkpoint.weights.values()
    }


def _find_copies(
    checkpoint: Checkpoint, shares: dict[str, _Share]
) -> tuple[dict[str, int], set[str], list[Finding], bool]:
    """Unique elements of each weight, which weights have none of their own, and words on these;
    and whether an output is stored that should be the embedding and is not."""
    unique: dict[str, int] = {}
    pairs: dict[tuple[str, str, str], list[tuple[Weight, Weight]]] = {}
    for weight in checkpoint.weights.values():
        own, holder = shares[weight.name]
        nbytes = weight.parts[0].nbytes
        unique[weight.name] = weight.elements * own // nbytes if nbytes else 0
        if own < nbytes and holder is not weight:
            how = PARTLY if own else TIED
            kind = layer_pattern(weight.name)[0], layer_pattern(holder.name)[0], how
            pairs.setdefault(kind, []).append((weight, holder))
    equal, how = _output_equals_embedding(checkpoint)
    if equal and unique[equal[0].name]:
        unique[equal[0].name] = 0
        pairs[equal[0].name, equal[1].name, how] = [equal]
    findings = [
        Finding(
            "note" if name.endswith(OUTPUT) and other.endswith(EMBEDDING) else "warning",
            f"{', '.join(compress([a.name for a, _ in group]))}, "
            f"{listing(compress([b.name for _, b in group]))}",
            f"{how}, so {sum(a.elements - unique[a.name] for a, _ in group):,} parameters are not "
            "counted again; a sum over names counts them again",
        )
        for (name, other, how), group in pairs.items()
    ]
    copies = {a.name for group in pairs.values() for a, _ in group if not unique[a.name]}
    return unique, copies, findings, how == UNTIED


def _output_equals_embedding(
    checkpoint: Checkpoint,
) -> tuple[tuple[Weight, Weight] | None, str]:
    """The two, when every shard stores an output with the checksum of its embedding, or config.json
    says that they are one; and which it is."""
    output, embedding = (
        next((w for name, w in checkpoint.weights.items() if name.endswith(end)), None)
        for end in (OUTPUT, EMBEDDING)
    )
    if output is None or embedding is None or output.shape != embedding.shape:
        return None, ""
    if checkpoint.config is not None and checkpoint.config.tied_output:
        agree = _samples_agree(checkpoint, output, embedding)
        return ((output, embedding), SAID) if agree else (None, UNTIED if agree is False else "")
    sums = [
        [part.storage.crc32 if part.whole_storage else None for part in weight.parts]
        for weight in (output, embedding)
    ]
    same = sums[0] == sums[1] and None not in sums[0]
    return ((output, embedding) if same else None), EQUAL


def _samples_agree(checkpoint: Checkpoint, one: Weight, other: Weight) -> bool | None:
    """Whether two weights of one part each hold the same bytes in some places; None: not known."""
    parts = (one.parts[0], other.parts[0])
    nbytes = parts[0].nbytes
    if parts[0].dtype != parts[1].dtype or any(part.strides is not None for part in parts):
        return None
    source, locate = checkpoint.source, checkpoint.reader.locate
    last = max(nbytes - SAMPLE_NBYTES, 0)
    try:
        starts = [locate(source, part.storage) + part.offset for part in parts]
        for place in {last * number // (SAMPLES - 1) for number in range(SAMPLES)}:
            length = min(SAMPLE_NBYTES, nbytes - place)
            samples = [
                source.read(part.file, start + place, length)
                for part, start in zip(parts, starts, strict=True)
            ]
            if samples[0] != samples[1]:
                return False
    except (LlamaInspectError, OSError):
        return None  # a file that was cut short, which is said elsewhere
    return True


def _count(
    checkpoint: Checkpoint, unique: dict[str, int], identified: Identified | None
) -> tuple[Parameters, list[Finding]]:
    by_component: Counter[str] = Counter()
    by_layer: Counter[int] = Counter()
    stored, repeated = 0, []
    for weight in checkpoint.weights.values():
        stored += weight.stored_elements
        component = component_of(weight.name)
        once = _without_repeats(weight, checkpoint, identified)
        if once < weight.stored_elements:
            repeated.append(weight.name)
        if component in NOT_PARAMETERS or not unique[weight.name]:
            continue
        elements = min(once, unique[weight.name])
        by_component[component] += elements
        if (layer := layer_of(weight.name)) is not None:
            by_layer[layer] += elements
    findings = []
    if repeated:
        findings.append(
            Finding(
                "note",
                listing(compress(repeated)),
                f"each KV head is stored more than once, so that every one of {checkpoint.shards} "
                "ranks has one; the count takes it once",
            )
        )
    total = sum(by_component.values())
    config = checkpoint.config
    parameters = Parameters(
        total=total,
        stored=stored,
        by_component={name: by_component[name] for name in COMPONENTS if name in by_component},
        by_layer=tuple(LayerCount(layer, n) for layer, n in sorted(by_layer.items())),
        active=_active(config, total, by_component),
    )
    return parameters, findings


def _without_repeats(weight: Weight, checkpoint: Checkpoint, identified: Identified | None) -> int:
    """Elements without repeated KV heads: seen in the files, or known of the identified release."""
    config = checkpoint.config
    is_kv = weight.name.endswith((".attention.wk.weight", ".attention.wv.weight"))
    if weight.repeat == 1 and is_kv and identified and config and checkpoint.shards > 1:
        row = identified.model
        if row.params_unique and config.n_kv_heads == row.fields["n_kv_heads"]:
            return weight.elements * row.unique_kv_heads // config.n_kv_heads
    return weight.elements


def _active(config: ModelConfig | None, total: int, by_component: Counter[str]) -> int | None:
    if config is None or config.moe is None:
        return None
    inactive = inactive_parameters(config, by_component["experts"])
    return total - by_component["vision"] - inactive
