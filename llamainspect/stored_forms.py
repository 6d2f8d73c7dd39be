"""In which form a checkpoint keeps its weights: floats, or values with scales and adaptors beside.

Meta's layouts are known by the names and shapes of what stands beside a matrix; of what libraries
on the hub pack in ways of their own, the element type is all that is said.
"""

from collections.abc import Mapping

from llamainspect.canonical import stem_of
from llamainspect.checkpoint import Checkpoint
from llamainspect.names import COMPONENTS, NOT_PARAMETERS, component_of, layer_of
from llamainspect.reports import StoredForm
from llamainspect.weights import Weight

FORMS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8",
         "F8_E5M2": "fp8", "I8": "int8"}  # fmt: skip
SCALES, ADAPTORS = ("scales", "zeros"), ("adaptor.A.weight", "adaptor.B.weight")


def stored_forms(checkpoint: Checkpoint, nbytes: Mapping[str, int]) -> tuple[StoredForm, ...]:
    """The forms, the one with most bytes first. `nbytes`: of each weight, once."""
    weights = checkpoint.weights
    scaled = any(name.endswith(".scales") for name in weights)  # else nothing stands beside
    groups: dict[tuple[str, str, int | None], list[Weight]] = {}
    for weight in weights.values():
        if component_of(weight.name) not in NOT_PARAMETERS:
            scales = weights.get(f"{stem_of(weight.name)}.scales") if scaled else None
            groups.setdefault(_form(checkpoint, weight, scales), []).append(weight)
    rows = []
    for key, group in groups.items():
        stems = [stem_of(weight.name) for weight in group] if scaled else []
        components = {component_of(weight.name) for weight in group}
        row = StoredForm(
            *key,
            weights=len(group),
            elements=sum(weight.elements for weight in group),
            values_nbytes=sum(nbytes[weight.name] for weight in group),
            scales_nbytes=sum(nbytes.get(f"{stem}.{end}", 0) for stem in stems for end in SCALES),
            adaptors_nbytes=sum(
                nbytes.get(f"{stem}.{end}", 0) for stem in stems for end in ADAPTORS
            ),
            components=tuple(name for name in COMPONENTS if name in components),
        )
        rows.append(row)
    return tuple(sorted(rows, key=lambda row: -row.values_nbytes))


def _form(
    checkpoint: Checkpoint, weight: Weight, scales: Weight | None
) -> tuple[str, str, int | None]:
    """Its name, the dtype of the values, and neighbours of a row that share a scale."""
    dtype = weight.parts[0].dtype.name
    form = FORMS.get(dtype, dtype.lower())
    if scales is None:
        return form, dtype, None
    quantization = checkpoint.config.quantization if checkpoint.config else None
    # A layer's linears are int4 in int8; the two ends are what they are stored as.
    if quantization and quantization.int4 and dtype == "I8" and layer_of(weight.name) is not None:
        form = "int4"
    part, of_it = weight.parts[0], scales.parts[0]
    if len(part.shape) != 2 or not part.elements or of_it.shape[:1] != part.shape[:1]:
        return form, dtype, None
    rows, columns = part.shape
    groups = of_it.elements // rows
    return form, dtype, columns // groups if 1 < groups <= columns else None
