"""Whether a model computes what it should: its logits held against others."""

from collections.abc import Generator, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from llamainspect.errors import UnsupportedFile
from llamainspect.model import recordings
from llamainspect.model.logits import CONFIG, configuration, identity, layer_progress
from llamainspect.model.recordings import Recording
from llamainspect.model.runner import Model, Stage, all_finite, float64
from llamainspect.progress import finish
from llamainspect.reports import (
    FileProgress,
    Finding,
    LogitsComparison,
    PositionDifference,
    StageDifference,
    Tolerance,
)
from llamainspect.runs import STORED

# What rounding alone may do: the largest difference as a share of the logits' range, and the KL
# divergence in nats at any position. Measured with random weights in the shape of Llama 3.2 1B:
# 1.3e-6 and 3e-12 for fp32 against transformers, 1.5e-3 and 5e-6 for fp16 against fp32, 1.3e-2 and
# 3e-4 for bf16. Five times as many layers, and real weights, may do some times that.
TOLERANCES = {"fp32": (1e-4, 1e-6), "fp16": (1e-2, 1e-3), "bf16": (5e-2, 2e-2)}
COARSENESS = ("fp32", "fp16", "bf16")
ROWS = 64  # positions that are compared at a time
DEFAULT_TOKENS = 64
STEP = 0.6180339887498949  # of the vocabulary, from one default token to the next

Progress = Generator[tuple[FileProgress, ...], None, LogitsComparison]


def default_tokens(vocab_size: int, context_length: int | None = None) -> list[int]:
    """Tokens for a comparison that was given none: spread over the whole vocabulary.

    As many as the context holds, up to 64. Steps of the golden ratio never come close to where they
    have been.
    """
    count = min(DEFAULT_TOKENS, context_length or DEFAULT_TOKENS)
    return [int(vocab_size * (STEP * (i + 1) % 1)) for i in range(count)]


def verifying_reference(
    model: Model, recording: Recording, file: str, ids: Sequence[int] | None = None
) -> Progress:
    """Against a recording. Raises UnsupportedFile when it is of another model or other tokens."""
    begin = perf_counter()
    _check_recording(model, recording, file, ids)
    hidden = yield from _walk(model, recording.tokens)
    logits = _finite(model, recording.tokens, model.logits(hidden[list(recording.positions)]))
    made_by = ", ".join(
        recording.metadata[key] for key in ("device", "dtype") if recording.metadata.get(key)
    )
    numbers = _compare(logits, recording.logits.to(logits.device), recording.positions,
                       recording.tokens)  # fmt: skip
    here = identity(model)
    findings = [
        Finding("warning", file, f"it was recorded with {label} {was or 'none'}, and here it is "
                                 f"{now or 'none'}; {option} sets it")
        for label, option, key in (("a RoPE factor of", "--rope-factor", "rope_factor"),
                                   ("weights rounded to", "--simulate", "simulate"))
        if (was := recording.metadata.get(key)) is not None
        and was != (now := here[key])
    ]  # fmt: skip
    tolerance = _tolerance([(model.dtype, "the model is run in it"),
                            (recording.dtype, "the reference was made in it")])  # fmt: skip
    return _report(
        model, "reference", file, made_by or "made by another program", recording.tokens, numbers,
        tolerance, [], begin, findings,
    )  # fmt: skip


def verifying_against(model: Model, other: Model, ids: Sequence[int]) -> Progress:
    """Against another checkpoint, both walked side by side, one layer of each at a time."""
    begin = perf_counter()
    if model.vocab_size != other.vocab_size:
        raise UnsupportedFile(
            f"{other.subject.name}: its vocabulary has {other.vocab_size:,} tokens and that of "
            f"{model.subject.name} {model.vocab_size:,}; their logits cannot be compared"
        )
    model.check_tokens(ids)
    other.check_tokens(ids)
    tokens = torch.tensor([ids])
    stages: list[StageDifference] = []
    same_shape = (model.config.dim, model.config.n_layers) == (
        other.config.dim,
        other.config.n_layers,
    )
    settings = configuration(other)
    findings = [
        Finding("warning", other.subject.name, f"{key} is {settings[key]}, {mine} in the first")
        for key, mine in configuration(model).items()
        if mine != settings[key]
    ]
    if model.rope.scaling != other.rope.scaling:
        here, there = (m.describe().rope_factor or "none" for m in (model, other))
        message = f"its RoPE factor is {there}, {here} in the first"
        findings.append(Finding("warning", other.subject.name, message))
    if same_shape:
        for mine, theirs in zip(model.walk(tokens), other.walk(tokens), strict=True):
            yield layer_progress(model, mine)
            stages.append(_stage_difference(mine, theirs.hidden))
            hidden, others = mine.hidden[0], theirs.hidden[0]
        logits, reference = model.logits(hidden), other.logits(others)
    else:
        logits = model.logits((yield from _walk(model, ids)))
        reference = other.logits((yield from _walk(other, ids)))
    _finite(model, ids, logits)
    _finite(other, ids, reference)
    numbers = _compare(logits, reference, range(len(ids)), ids)
    mine_stored, theirs_stored = _coarsest(model), _coarsest(other)
    reasons = [(model.dtype, "both are run in it")]
    if mine_stored != theirs_stored:
        reasons += [(mine_stored, f"{model.subject.name} is stored in it"),
                    (theirs_stored, f"{other.subject.name} is stored in it")]  # fmt: skip
    run = other.describe()
    return _report(
        model, "against", other.subject.name, f"{run.device}, {run.dtype}", ids, numbers,
        _tolerance(reasons), stages, begin, findings,
    )  # fmt: skip


def verifying_implementation(model: Model, ids: Sequence[int]) -> Progress:
    """Against transformers, on the same machine and in the same dtype."""
    from llamainspect.model.referee import Referee

    begin = perf_counter()
    model.check_tokens(ids)
    referee = Referee(model)
    theirs, reference = referee.run(list(ids))
    stages: list[StageDifference] = []
    for mine, their in zip(model.walk(torch.tensor([ids])), theirs, strict=True):
        yield layer_progress(model, mine)
        stages.append(_stage_difference(mine, their.hidden))
        hidden = mine.hidden[0]
    logits = _finite(model, ids, model.logits(hidden))
    numbers = _compare(logits, reference, range(len(ids)), ids)
    run = model.describe()
    return _report(
        model, "implementation", referee.version, f"{run.device}, {run.dtype}", ids, numbers,
        _tolerance([(model.dtype, "both are run in it")]), stages, begin, [],
    )  # fmt: skip


def verify_against_recording(model: Model, file: str) -> LogitsComparison:
    """Its logits against those in a file. Raises CorruptFile and UnsupportedFile."""
    return finish(verifying_reference(model, recordings.load(file), file))


def verify_against_checkpoint(
    model: Model, other: Model, ids: Sequence[int] | None = None
) -> LogitsComparison:
    """Two checkpoints side by side, on the given tokens or on `default_tokens`."""
    return finish(verifying_against(model, other, _tokens(model, ids)))


def verify_against_transformers(model: Model, ids: Sequence[int] | None = None) -> LogitsComparison:
    """The same weights in transformers. Raises MissingDependency where it is not installed."""
    return finish(verifying_implementation(model, _tokens(model, ids)))


def _tokens(model: Model, ids: Sequence[int] | None) -> Sequence[int]:
    return default_tokens(model.vocab_size, model.context_length) if ids is None else ids


# --- running ------------------------------------------------------------------------------------


def _walk(model: Model, ids: Sequence[int]) -> Generator[tuple[FileProgress, ...], None, Tensor]:
    """Hidden states (T, D) behind the last norm."""
    model.check_tokens(ids)
    hidden: Tensor | None = None
    for stage in model.walk(torch.tensor([list(ids)])):
        yield layer_progress(model, stage)
        hidden = stage.hidden[0]
    assert hidden is not None
    return hidden


def _finite(model: Model, ids: Sequence[int], logits: Tensor) -> Tensor:
    if not all_finite(logits):
        raise model.explain_non_finite(list(ids))
    return logits


def _check_recording(
    model: Model, recording: Recording, file: str, ids: Sequence[int] | None
) -> None:
    if recording.logits.shape[1] != model.vocab_size:
        raise UnsupportedFile(
            f"{file}: it was recorded for another model: it has logits of "
            f"{recording.logits.shape[1]:,} tokens, and {model.subject.name} has "
            f"{model.vocab_size:,}"
        )
    for key, value in configuration(model).items():
        recorded = recording.metadata.get(f"{CONFIG}{key}", str(value))
        if recorded != str(value):
            raise UnsupportedFile(
                f"{file}: it was recorded for another model: {key} was {recorded}, and is {value} "
                f"in {model.subject.name}"
            )
    if ids is not None and tuple(ids) != recording.tokens:
        pairs = enumerate(zip(ids, recording.tokens, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(recording.tokens)))
        raise UnsupportedFile(
            f"{file}: it was recorded for other tokens: they differ from token {at:,} on, of "
            f"{len(recording.tokens):,} there and {len(ids):,} here; without a prompt its own are "
            "used"
        )


# --- comparing ----------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    positions: tuple[PositionDifference, ...]
    logit_range: float
    identical: bool


def _compare(
    logits: Tensor, reference: Tensor, positions: Iterable[int], ids: Sequence[int]
) -> _Numbers:
    """Two sets of logits (P, V), in float64."""
    found: list[PositionDifference] = []
    places = list(positions)
    five = min(5, logits.shape[1])
    for first in range(0, len(logits), ROWS):
        piece = slice(first, first + ROWS)
        ours, theirs = float64(logits[piece]), float64(reference[piece])
        apart = (ours - theirs).abs()
        log_p, log_q = torch.log_softmax(theirs, -1), torch.log_softmax(ours, -1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # below 0 by rounding
        tops, their_tops = ours.topk(five).indices, theirs.topk(five).indices
        shared = (tops[:, :, None] == their_tops[:, None, :]).any(-1).double().mean(-1)
        columns = (apart.amax(-1), apart.mean(-1), divergence, tops[:, 0], their_tops[:, 0], shared)
        for row, values in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            at = places[first + row]
            found.append(PositionDifference(at, ids[at], *values))
    spread = float(reference.max()) - float(reference.min())
    return _Numbers(tuple(found), spread, torch.equal(logits, reference))


def _stage_difference(stage: Stage, other: Tensor) -> StageDifference:
    ours, theirs = float64(stage.hidden[0]), float64(other[0].to(stage.hidden.device))
    apart = ours - theirs
    lengths = theirs.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    share = (apart.norm(dim=-1) / lengths).amax()
    return StageDifference(stage.text, stage.layer, float(apart.abs().max()), float(share))


def _tolerance(reasons: Sequence[tuple[str, str]]) -> Tolerance:
    """That of the coarsest dtype on the way, and why it is that one."""
    dtype, reason = max(reasons, key=lambda pair: COARSENESS.index(pair[0]))
    return Tolerance(dtype, *TOLERANCES[dtype], reason)


def _coarsest(model: Model) -> str:
    parts = (part for weight in model.weights.checkpoint.weights.values() for part in weight.parts)
    kinds = {STORED[part.dtype.name] for part in parts if part.dtype.name in STORED}
    return max(kinds, key=COARSENESS.index, default="fp32")


def _report(
    model: Model,
    kind: str,
    other: str,
    other_run: str,
    ids: Sequence[int],
    numbers: _Numbers,
    tolerance: Tolerance,
    stages: list[StageDifference],
    begin: float,
    findings: list[Finding],
) -> LogitsComparison:
    rows = numbers.positions
    count = len(rows)
    worst = max(row.max_abs for row in rows)
    kl_max = max(row.kl for row in rows)
    allowed = tolerance.max_abs * numbers.logit_range
    agrees = worst <= allowed and kl_max <= tolerance.kl
    first_different = next((s.stage for s in stages if s.max_abs > 0), None)
    if stages and first_different is None and worst > 0:
        first_different = "output"
    limit = tolerance.max_abs
    divergent = next((s.stage for s in stages if not s.relative <= limit), None)
    if agrees:
        divergent = None
    elif stages and divergent is None:
        # In two runs of the same code the first bit tells; others round in ways of their own.
        divergent = first_different if kind == "against" else "output"
    if agrees and first_different is not None and kind == "against":
        message = (
            f"results are not the same: from {first_different} on they differ, though by no "
            "more than rounding may"
        )
        findings = [*findings, Finding("note", other, message)]
    return LogitsComparison(
        path=model.subject.name,
        kind=kind,
        other=other,
        other_run=other_run,
        run=model.describe(),
        tokens=tuple(ids),
        max_abs=worst,
        mean_abs=sum(row.mean_abs for row in rows) / count,
        kl=sum(row.kl for row in rows) / count,
        kl_max=kl_max,
        top1_agreement=sum(row.top1 == row.reference_top1 for row in rows) / count,
        top5_overlap=sum(row.top5_overlap for row in rows) / count,
        logit_range=numbers.logit_range,
        tolerance=tolerance,
        max_abs_allowed=allowed,
        agrees=agrees,
        identical=numbers.identical,
        positions=rows,
        stages=tuple(stages),
        first_different_layer=first_different,
        first_divergent_layer=divergent,
        seconds=perf_counter() - begin,
        findings=(*model.notes, *findings),
    )
