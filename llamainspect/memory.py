"""What it takes to run or to train a model: bytes, and whether they fit on some GPUs."""

from collections.abc import Callable
from typing import NamedTuple

from llamainspect.architecture import active_parameters
from llamainspect.config import ModelConfig
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import (
    MAX_NUMBER,
    TABLE_FORMS,
    USUAL_CONTEXT,
    WEIGHT_FORMS,
    KVCache,
    Layout,
    WeightBytes,
    WeightForm,
    cached_tokens,
    image_kv_nbytes,
    kv_cache,
    kv_term,
    layout_of,
    prefill,
    prefill_term,
    symbols_of,
    tensor_splits,
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

USUAL_TRAINING_CONTEXT = 2_048  # tokens
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
    prefill_chunk: int | None = None  # tokens of prompts that are read in one go; None: all


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
    runs = [_run(subject, layout, usage, name) for name in dtypes]
    table = [_row(run, context, batch, shared) for run in runs]
    trained, fit = None, None
    if training:
        trained = estimate_training(
            subject.config, training, context, batch, subject.tied_output, layout
        )
        if gpus:
            fit = _fit_training(subject, layout, training, context, batch, gpus)
    elif gpus:
        fit = _fit_running(run, context, batch, gpus, subject.context_length)
    stored, stored_from = _stored(subject)
    return MemoryEstimate(
        model=subject.name,
        by_name=subject.source is None,
        parameters=layout.parameters,
        active_parameters=active_parameters(subject.config, subject.tied_output),
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
        stored_as=subject.census.stored_as if subject.census else (),
        gpu=fit,
        fits=None if fit is None else fit.left >= 0,
        symbols=symbols_of(subject.config, subject.tied_output)
        | {"s": context, "b": batch}
        | {"T": context * batch if training else run.tokens(context, batch)}
        | (trained.symbols if trained else {}),
        terms=trained.terms if trained else _terms(runs, context, batch),
        explained=explained,
        findings=tuple(worst_first(_findings(subject, layout, usage, context, training, gpus))),
    )


def _check(usage: Usage, training: TrainingPlan | None) -> None:
    running = usage._replace(context=None, batch=0)._asdict()
    for option, number in (
        ("--context", usage.context),
        ("--batch", usage.batch),
        ("--group-size", usage.group_size),
        ("--prefill-chunk", usage.prefill_chunk),
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
    prefill_chunk: int | None

    def tokens(self, context: int, batch: int) -> int:
        """How many are read in one go."""
        return min(context * batch, self.prefill_chunk or context * batch)

    def kv_cache(self, context: int, batch: int) -> KVCache:
        return kv_cache(self.config, context, batch, self.kv_form)

    def activations(self, context: int, batch: int, gpus: int = 1) -> int:
        """On each of `gpus` that share the work."""
        tokens = self.tokens(context, batch)
        most = prefill(self.config, tokens, self.form.compute_nbytes, gpus)
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
        prefill_chunk=usage.prefill_chunk,
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


def _terms(runs: list[_Run], context: int, batch: int) -> tuple[Term, ...]:
    """Weights in each form; cache and prefill once for each width that is computed in."""
    terms = [term for run in runs for term in weight_terms(run.layout, run.form, run.weights)]
    seen = set()
    for run in runs:
        width = run.form.compute_nbytes
        if (run.kv_form, width) not in seen:
            seen.add((run.kv_form, width))
            terms.append(kv_term(run.config, context, batch, run.kv_form))
            tokens, chunked = run.tokens(context, batch), run.prefill_chunk is not None
            terms.append(prefill_term(run.config, tokens, width, run.all_logits, chunked))
    return (*terms, *(_total_term(_row(run, context, batch)) for run in runs))


def _total_term(row: MemoryRow) -> Term:
    return Term(
        f"total, {row.dtype}", row.total, "bytes", "weights + KV cache + prefill",
        f"{row.weights:,} + {row.kv_cache:,} + {row.activations:,}", "",
    )  # fmt: skip


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


def _findings(
    subject: Subject,
    layout: Layout,
    usage: Usage,
    context: int,
    training: TrainingPlan | None,
    gpus: Gpus | None,
) -> list[Finding]:
    found = [*subject.findings, *subject.check_parameters(layout.parameters)]
    found += subject.check_context(context)
    if subject.form != "plain":
        known = "is under stored" if _stored(subject)[0] else "is not published"
        message = (
            f"the release is {subject.form} in a scheme of its own; what its files take {known}, "
            "and the estimate is of all the blocks' linears in the forms of the table"
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
    if training:
        packed = training.method == "qlora"
    else:
        packed = usage.dtype is None or WEIGHT_FORMS[usage.dtype].quantised
    if subject.config.moe and packed:
        message = (
            "experts are counted as quantised like linears; bitsandbytes leaves those of "
            "transformers' Llama 4, which are no linear layers, in 16 bits"
        )
        found.append(Finding("note", "experts", message))
    if training and training.gpus > 1 and not training.zero:
        message = (
            "DistributedDataParallel holds gradients once more in its buckets, unless "
            "gradient_as_bucket_view is set; that is not counted"
        )
        found.append(Finding("note", "--gpus", message))
    if gpus and not gpus.gpu.bf16:
        message = f"{gpus.gpu.name} computes no BF16; FP16 takes the same bytes, FP32 weights twice"
        found.append(Finding("note", "--gpu", message))
    targets = training.targets if training and training.method != "full" else ()
    adapted = [matrix for matrix in layout.linears if matrix.name in targets]
    narrowest = min((min(m.rows, m.columns) for m in adapted), default=0)
    if training and adapted and training.rank > narrowest:
        message = (
            f"rank {training.rank:,} is more than the {narrowest:,} of a linear that it adapts"
        )
        found.append(Finding("warning", "--rank", message))
    longest = max(matrix.columns for matrix in layout.linears)
    if usage.group_size is not None and usage.group_size > longest:
        message = f"groups of {usage.group_size:,} are longer than any row ({longest:,})"
        found.append(Finding("warning", "--group-size", message))
    return found


# --- GPUs -----------------------------------------------------------------------------------------


class Split(NamedTuple):
    """How GPUs share a model: `tensor` of them each layer, `stages` of these groups the layers."""

    tensor: int
    stages: int

    def __str__(self) -> str:
        if self == (1, 1):
            return "one GPU"
        tensor = f"tensor parallel {self.tensor}" if self.tensor > 1 else ""
        stages = f"layers in {self.stages} stages" if self.stages > 1 else ""
        return ", ".join(filter(None, (tensor, stages)))


def _fit_running(run: _Run, context: int, batch: int, gpus: Gpus, limit: int | None) -> GpuFit:
    parts, split = _running_parts(run, context, batch, gpus)
    idle = gpus.number - split.tensor * split.stages
    return _fit(
        gpus,
        parts,
        _largest(lambda n: _fits(run, n, batch, gpus)),
        _largest(lambda n: _fits(run, context, n, gpus)),
        _fewest(run, context, batch, gpus),
        f"{split}{f'; {idle:,} idle' * (idle > 0)}",
        "a smaller --context or --batch, --prefill-chunk, a smaller --dtype or --kv-dtype",
        limit,
    )


def _fits(run: _Run, context: int, batch: int, gpus: Gpus) -> bool:
    parts, _ = _running_parts(run, context, batch, gpus)
    return sum(parts.values()) <= gpus.gpu.nbytes


def _running_parts(run: _Run, context: int, batch: int, gpus: Gpus) -> tuple[dict[str, int], Split]:
    """On the fullest GPU, with the split of at most so many that leaves it the most room."""
    shares = []
    for tensor in tensor_splits(run.config):
        if tensor <= gpus.number:
            split = Split(tensor, min(gpus.number // tensor, run.config.n_layers))
            shares.append((_share(run, context, batch, split), split))
    return min(shares, key=lambda share: sum(share[0].values()))


def _share(run: _Run, context: int, batch: int, split: Split) -> dict[str, int]:
    """What one GPU of the fullest stage holds."""
    stage = -(-run.config.n_layers // split.stages)
    heads = -(-run.config.n_kv_heads // split.tensor)  # beyond one per rank they are repeated
    cache = run.kv_cache(context, batch).nbytes * heads // run.config.n_kv_heads
    return {
        "weights": -(-_stage_weights(run, stage) // split.tensor),
        "KV cache": _of_stage(cache, cached_tokens(run.config, context), stage),
        "prefill": run.activations(context, batch, split.tensor),
        "CUDA context": CUDA_CONTEXT_NBYTES,
    }


def _stage_weights(run: _Run, stage: int) -> int:
    """Of the fullest `stage` layers in a row, with what stands at an end of the model."""
    if stage == run.config.n_layers:
        return run.weights.nbytes
    layout, one = run.layout, run.weights.end_nbytes
    ends = sum(matrix.elements * n for matrix, n in layout.ends.items())
    outside = layout.parameters - sum(layout.layers) - ends  # image encoder, last norm
    outside_nbytes = outside * (2 if run.form.quantised else run.form.bits // 8)
    blocks = run.weights.nbytes - one * sum(layout.ends.values()) - outside_nbytes
    return _of_stage(blocks, layout.layers, stage) + one + outside_nbytes


def _of_stage(nbytes: int, layers: tuple[int, ...], stage: int) -> int:
    """The share of the fullest `stage` layers in a row, of what all layers take together."""
    if min(layers) == max(layers):
        return -(-nbytes * stage // len(layers))
    total = sum(layers)
    most = max(sum(layers[i : i + stage]) for i in range(len(layers) - stage + 1))
    return -(-nbytes * most // total)


def _fewest(run: _Run, context: int, batch: int, gpus: Gpus) -> int | None:
    """The smallest number of GPUs for which it fits."""
    numbers = [
        tensor * stages
        for tensor in tensor_splits(run.config)
        for stages in range(1, run.config.n_layers + 1)
        if sum(_share(run, context, batch, Split(tensor, stages)).values()) <= gpus.gpu.nbytes
    ]
    return min(numbers, default=None)


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

    number = 1 if fits(context, batch, 1) else None
    if number is None and plan.zero:
        number = _smallest(lambda ranks: fits(context, batch, ranks), MAX_GPUS)
    shared = f"shared by ZeRO-{plan.zero}" if plan.zero else "each holds all of it"
    return _fit(
        gpus,
        estimate(context, batch, plan.gpus).parts | {"CUDA context": CUDA_CONTEXT_NBYTES},
        _largest(lambda n: fits(n, batch, plan.gpus)),
        _largest(lambda n: fits(context, n, plan.gpus)),
        number,
        f"data parallel, {shared}" if plan.gpus > 1 else "one GPU",
        _training_advice(plan),
        subject.context_length,
    )


def _training_advice(plan: TrainingPlan) -> str:
    options = []
    highest = 2 if plan.method == "qlora" else 3
    if plan.zero < highest:
        options.append(f"--zero {highest}{' (each holds all without it)' * (not plan.zero)}")
    options += ["--checkpointing"] * (not plan.checkpointing)
    if plan.method == "full":
        options += ["--optimizer adamw-8bit"] * (plan.optimizer == "adamw")
        options.append("--training lora")
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
    context_length: int | None,
) -> GpuFit:
    needed = sum(parts.values())
    return GpuFit(
        name=gpus.gpu.name,
        number=gpus.number,
        context_length=context_length,
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
