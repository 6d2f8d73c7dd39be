"""What it takes to run or to train a model: bytes, and whether they fit on some GPUs."""

from collections.abc import Callable
from typing import NamedTuple

from llamainspect.architecture import inactive_parameters
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import (
    MAX_NUMBER,
    TABLE_FORMS,
    WEIGHT_FORMS,
    KVCache,
    Layout,
    WeightBytes,
    WeightForm,
    image_kv_nbytes,
    kv_cache,
    kv_term,
    layout_of,
    prefill,
    prefill_term,
    symbols_of,
    weight_form,
    weight_nbytes,
    weight_terms,
)
from llamainspect.gpus import CUDA_CONTEXT_NBYTES, MAX_GPUS, Gpus
from llamainspect.names import counted
from llamainspect.plans import TrainingPlan
from llamainspect.reports import (
    Finding,
    GpuFit,
    InferenceMemory,
    MemoryEstimate,
    MemoryRow,
    Term,
    TrainingMemory,
    worst_first,
)
from llamainspect.subject import Subject
from llamainspect.training import estimate_training

USUAL_CONTEXT = 8_192  # tokens, where the model's own is not less
USUAL_TRAINING_CONTEXT = 2_048
STORED_FORMS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}


class Usage(NamedTuple):
    """How a model is run. None means the usual."""

    dtype: str | None = None  # of footprint.WEIGHT_FORMS; None: compare some
    group_size: int | None = None
    quantize_embeddings: bool = False
    context: int | None = None  # tokens of each sequence
    batch: int = 1
    kv_dtype: str | None = None  # of footprint.KV_FORMS; None: what is computed in
    all_logits: bool = False  # logits of all tokens are kept, not of the last alone


def estimate_memory(
    subject: Subject,
    usage: Usage = Usage(),  # noqa: B008  immutable
    training: TrainingPlan | None = None,
    gpus: Gpus | None = None,
    explained: bool = False,
) -> MemoryEstimate:
    """Bytes to run the model, to train it when `training` is given, and the verdict for `gpus`.

    Raises InvalidRequest for numbers and combinations that cannot be.
    """
    _check(usage, training)
    usual = USUAL_TRAINING_CONTEXT if training else USUAL_CONTEXT
    context = usage.context or min(usual, subject.context_length or usual)
    batch = usage.batch
    layout = layout_of(subject.config, subject.tied_output)
    run = _run(subject, layout, usage, usage.dtype or _stored_form(subject))
    dtypes = (usage.dtype,) if usage.dtype else TABLE_FORMS
    shared = None if training else gpus
    table = [_row(_run(subject, layout, usage, name), context, batch, shared) for name in dtypes]
    trained, fit = None, None
    if training:
        trained = estimate_training(
            subject.config, training, context, batch, subject.tied_output, layout
        )
        if gpus:
            fit = _fit_training(subject, layout, training, context, batch, gpus)
    elif gpus:
        fit = _fit_running(run, context, batch, gpus)
    stored, stored_from = _stored(subject)
    return MemoryEstimate(
        model=subject.name,
        parameters=layout.parameters,
        active_parameters=_active(subject),
        tied_output=subject.tied_output,
        context=context,
        batch=batch,
        dtype=run.form.name,
        kv_dtype=run.kv_form,
        weights={row.dtype: row.weights for row in table},
        table=tuple(table),
        inference=_inference(run, context, batch),
        training=trained,
        stored=stored,
        stored_from=stored_from,
        gpu=fit,
        fits=None if fit is None else fit.left >= 0,
        symbols=symbols_of(subject.config, subject.tied_output)
        | {"s": context, "b": batch, "T": context * batch},
        terms=trained.terms if trained else _terms(run, context, batch),
        explained=explained,
        findings=tuple(worst_first(_findings(subject, layout, context, training, gpus))),
    )


def _check(usage: Usage, training: TrainingPlan | None) -> None:
    running = usage._replace(context=None, batch=0)._asdict()
    for option, number in (
        ("--context", usage.context),
        ("--batch", usage.batch),
        ("--group-size", usage.group_size),
    ):
        if number is not None and not 0 < number <= MAX_NUMBER:
            raise InvalidRequest(f"{option} {number}: a number from 1 to {MAX_NUMBER:,} is needed")
    if training and any(running.values()):
        name = next(name for name, value in running.items() if value)
        raise InvalidRequest(
            f"--{name.replace('_', '-')} is of running a model, and --training was asked for; "
            "--precision says what one trains in"
        )
    if usage.quantize_embeddings and usage.dtype and not WEIGHT_FORMS[usage.dtype].quantised:
        raise InvalidRequest(
            f"--quantize-embeddings: {usage.dtype} quantises nothing; use it with --dtype int8, "
            "int4, nf4 or fp8"
        )


# --- running --------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """A model with its weights in one form."""

    config: ModelConfig
    layout: Layout
    form: WeightForm
    weights: WeightBytes
    kv_form: str
    all_logits: bool

    def kv_cache(self, context: int, batch: int) -> KVCache:
        return kv_cache(self.config, context, batch, self.kv_form)

    def activations(self, context: int, batch: int, gpus: int = 1) -> int:
        """On each of `gpus` that share the work."""
        most = prefill(self.config, context, batch, self.form.compute_nbytes, gpus)
        return max(most) if self.all_logits else most.blocks_nbytes


def _run(subject: Subject, layout: Layout, usage: Usage, dtype: str) -> _Run:
    quantised = WEIGHT_FORMS[dtype].quantised
    # In a table of forms, options that concern some of them leave the others alone.
    form = weight_form(dtype, usage.group_size if quantised or usage.dtype else None)
    ends = usage.quantize_embeddings and quantised
    return _Run(
        config=subject.config,
        layout=layout,
        form=form,
        weights=weight_nbytes(layout, form, quantise_ends=ends),
        kv_form=usage.kv_dtype or ("fp32" if form.compute_nbytes == 4 else "bf16"),
        all_logits=usage.all_logits,
    )


def _row(run: _Run, context: int, batch: int, gpus: Gpus | None = None) -> MemoryRow:
    cache, activations = run.kv_cache(context, batch).nbytes, run.activations(context, batch)
    return MemoryRow(
        dtype=run.form.name,
        naive=run.weights.naive,
        weights=run.weights.nbytes,
        kv_cache=cache,
        activations=activations,
        total=run.weights.nbytes + cache + activations,
        fits=_fits(run, context, batch, gpus) if gpus else None,
    )


def _inference(run: _Run, context: int, batch: int) -> InferenceMemory:
    row, cache = _row(run, context, batch), run.kv_cache(context, batch)
    return InferenceMemory(
        weights=row.weights,
        kv_cache=row.kv_cache,
        activations=row.activations,
        total=row.total,
        kv_cache_allocated=cache.nbytes_allocated,
        activations_all_logits=run._replace(all_logits=True).activations(context, batch),
        image_kv_cache=image_kv_nbytes(run.config),
    )


def _terms(run: _Run, context: int, batch: int) -> tuple[Term, ...]:
    total = _row(run, context, batch).total
    return (
        *weight_terms(run.layout, run.form, run.weights),
        kv_term(run.config, context, batch, run.kv_form),
        prefill_term(run.config, context, batch, run.form.compute_nbytes, run.all_logits),
        Term("total", total, "bytes", "weights + KV cache + prefill", f"{total:,}", ""),
    )


# --- what is there --------------------------------------------------------------------------------


def _stored_form(subject: Subject) -> str:
    """How the files store most weights, or the release does; bf16 where nothing tells."""
    form = subject.form
    if form != "plain":
        return form
    dtypes = subject.census.nbytes_by_dtype if subject.census else {}
    return STORED_FORMS.get(next(iter(dtypes), ""), "bf16")


def _stored(subject: Subject) -> tuple[int | None, str | None]:
    """Bytes of the weight files, and who says so."""
    if subject.checkpoint:
        files = subject.checkpoint.files
        return sum(entry.nbytes for entry in files), f"{counted(len(files), 'file')} on disk"
    if subject.official and subject.official.native_nbytes:
        return subject.official.native_nbytes, f"as published: {subject.official.size_source}"
    return None, None


def _active(subject: Subject) -> int | None:
    if subject.config.moe is None:
        return None
    text = subject.config._replace(vision=None)
    parameters = layout_of(text, subject.tied_output).parameters
    return parameters - inactive_parameters(text)


def _findings(
    subject: Subject,
    layout: Layout,
    context: int,
    training: TrainingPlan | None,
    gpus: Gpus | None,
) -> list[Finding]:
    found = [*subject.findings, *subject.check_context(context)]
    if subject.census and subject.census.parameters.total != layout.parameters:
        there = subject.census.parameters.total
        message = (
            f"the files hold {there:,} parameters, the configuration says {layout.parameters:,}, "
            "which is what this estimate is of; `llamainspect summary` tells what differs"
        )
        found.append(Finding("warning", subject.name, message))
    if subject.form != "plain":
        known = "is under stored" if _stored(subject)[0] else "is not published"
        message = (
            f"the release is {subject.form} in a scheme of its own: what its files take {known}, and "
            "the estimate is of all the blocks' linears in the forms of the table"
        )
        found.append(Finding("note", subject.name, message))
    if image := image_kv_nbytes(subject.config):
        message = (
            f"each image of a prompt adds {image:,} bytes of 16-bit keys and values in the "
            "cross-attention layers, which are not counted"
        )
        found.append(Finding("note", "images", message))
    elif subject.config.vision:
        message = "the image encoder's weights are counted, its activations are not"
        found.append(Finding("note", "images", message))
    if training and subject.config.moe:
        message = (
            "activations are counted as if tokens passed their own experts alone; code that runs "
            "every expert on every token, as transformers' does, saves several times as much"
        )
        found.append(Finding("note", "experts", message))
    if gpus and not training and subject.config.n_heads % gpus.number:
        message = (
            f"{gpus.number} does not divide the {subject.config.n_heads} heads, so tensor "
            "parallelism cannot share evenly; counted as if it did"
        )
        found.append(Finding("warning", "--gpu", message))
    return found


# --- GPUs -----------------------------------------------------------------------------------------


def _fit_running(run: _Run, context: int, batch: int, gpus: Gpus) -> GpuFit:
    heads = run.config.n_heads
    numbers = (number for number in range(1, heads + 1) if heads % number == 0)
    split = "tensor parallel: weights, heads and feed-forward shared evenly"
    return _fit(
        gpus,
        _running_parts(run, context, batch, gpus.number),
        _largest(lambda n: _fits(run, n, batch, gpus)),
        _largest(lambda n: _fits(run, context, n, gpus)),
        next((n for n in numbers if _fits(run, context, batch, gpus._replace(number=n))), None),
        split if gpus.number > 1 else "one GPU",
        "a smaller --context or --batch, or a smaller --dtype or --kv-dtype",
    )


def _fits(run: _Run, context: int, batch: int, gpus: Gpus) -> bool:
    return sum(_running_parts(run, context, batch, gpus.number).values()) <= gpus.gpu.nbytes


def _running_parts(run: _Run, context: int, batch: int, number: int) -> dict[str, int]:
    """On each of `number` GPUs: weights, heads and hidden sizes are shared, the residual is not."""
    heads = -(-run.config.n_kv_heads // number)  # beyond one per rank they are repeated
    return {
        "weights": -(-run.weights.nbytes // number),
        "KV cache": run.kv_cache(context, batch).nbytes * heads // run.config.n_kv_heads,
        "prefill": run.activations(context, batch, number),
        "CUDA context": CUDA_CONTEXT_NBYTES,
    }


def _fit_training(
    subject: Subject, layout: Layout, plan: TrainingPlan, context: int, batch: int, gpus: Gpus
) -> GpuFit:
    """Data parallelism, where ZeRO says what ranks share."""

    def estimate(context: int, batch: int, ranks: int) -> TrainingMemory:
        shared = plan._replace(gpus=ranks, zero=plan.zero if ranks > 1 else 0)
        return estimate_training(
            subject.config, shared, context, batch, subject.tied_output, layout
        )

    def fits(context: int, batch: int, ranks: int) -> bool:
        return estimate(context, batch, ranks).peak + CUDA_CONTEXT_NBYTES <= gpus.gpu.nbytes

    numbers = _smallest(lambda ranks: fits(context, batch, ranks), MAX_GPUS if plan.zero else 1)
    split = f"data parallel, ZeRO-{plan.zero}" if plan.zero else "data parallel, nothing shared"
    return _fit(
        gpus,
        estimate(context, batch, plan.gpus).parts | {"CUDA context": CUDA_CONTEXT_NBYTES},
        _largest(lambda n: fits(n, batch, plan.gpus)),
        _largest(lambda n: fits(context, n, plan.gpus)),
        numbers,
        split if plan.gpus > 1 else "one GPU",
        _training_advice(plan),
    )


def _training_advice(plan: TrainingPlan) -> str:
    options = []
    if plan.zero == 0:
        options.append(f"--zero {2 if plan.method == 'qlora' else 3} (each holds all without it)")
    options += ["--checkpointing"] * (not plan.checkpointing)
    options.append("a smaller --context or --batch")
    return ", ".join(options)


def _fit(
    gpus: Gpus,
    parts: dict[str, int],
    max_context: int | None,
    max_batch: int | None,
    min_number: int | None,
    split: str,
    advice: str,
) -> GpuFit:
    needed = sum(parts.values())
    return GpuFit(
        name=gpus.gpu.name,
        number=gpus.number,
        nbytes=gpus.gpu.nbytes,
        needed=needed,
        left=gpus.gpu.nbytes - needed,
        parts=parts,
        max_context=max_context,
        max_batch=max_batch,
        min_number=min_number,
        split=split,
        advice=advice if min_number is None else None,
        source=gpus.gpu.source,
    )


def _largest(fits: Callable[[int], bool]) -> int | None:
    """The largest number for which it fits; None when one is too many."""
    if not fits(1):
        return None
    least, most = 1, 2
    while most <= MAX_NUMBER and fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def _smallest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The smallest number up to `limit` for which it fits."""
    if not fits(limit):
        return None
    few, enough = 0, limit
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if fits(middle) else (middle, enough)
    return enough
