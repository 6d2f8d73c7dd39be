"""Which tokens may come next, at the end of a prompt or at every position of it."""

import math
from collections.abc import Generator, Sequence
from time import perf_counter

import torch
from torch import Tensor

from llamainspect import __version__
from llamainspect.model import recordings
from llamainspect.model.runner import Model, Stage, all_finite, float64
from llamainspect.progress import finish
from llamainspect.reports import Candidate, FileProgress, LogitsReport, PositionLogits, Token
from llamainspect.tokenizer import Tokenizer

CONFIG = "config."  # before settings of the model in the metadata of a recording
Progress = Generator[tuple[FileProgress, ...], None, LogitsReport]


def predicting(
    model: Model,
    ids: Sequence[int],
    *,
    tokenizer: Tokenizer | None = None,
    top: int = 10,
    every: bool = False,
    save: str | None = None,
) -> Progress:
    """The `top` next tokens, behind the last of `ids` or behind `every` one; yields its progress.

    `save` names a file for the logits of all positions. Raises UnusablePrompt for tokens that the
    model has not, and NonFinite when it computes NaN or Inf.
    """
    begin = perf_counter()
    model.check_tokens(ids)
    if save is not None:
        recordings.check_recording_target(save)
    hidden: Tensor | None = None
    for stage in model.walk(torch.tensor([ids])):
        yield layer_progress(model, stage)
        hidden = stage.hidden
    assert hidden is not None
    wanted = hidden[0] if every or save else hidden[0, -1:]
    logits = model.logits(wanted)  # (T or 1, V)
    if not all_finite(logits):
        raise model.explain_non_finite(ids)
    last = _candidates(logits[-1], top, tokenizer)
    rows = list(enumerate(logits)) if every else []
    positions = tuple(
        PositionLogits(at, ids[at], _candidates(row, top, tokenizer)) for at, row in rows
    )
    nbytes = None
    if save is not None:
        said = identity(model)
        if model.answers:
            nbytes = recordings.save(save, tuple(ids), logits, said)
    return LogitsReport(
        path=model.subject.name,
        run=model.describe(),
        tokens=tuple(ids),
        prompt=None if tokenizer is None else tuple(describe_token(tokenizer, id) for id in ids),
        top=last,
        entropy=_entropy(logits[-1]),
        positions=positions,
        saved=save,
        saved_nbytes=nbytes,
        seconds=perf_counter() - begin,
        findings=model.notes,
    )


def predict_logits(
    model: Model,
    ids: Sequence[int],
    *,
    tokenizer: Tokenizer | None = None,
    top: int = 10,
    every: bool = False,
    save: str | None = None,
) -> LogitsReport:
    """As `predicting`, without telling how far it is."""
    return finish(predicting(model, ids, tokenizer=tokenizer, top=top, every=every, save=save))


def layer_progress(model: Model, stage: Stage) -> tuple[FileProgress, ...]:
    """How far a walk through the layers has come."""
    total = model.config.n_layers
    done = {"embedding": 0, "norm": total}.get(stage.kind, (stage.layer or 0) + 1)
    return (FileProgress("layers", done, total, "layers"),)


def identity(model: Model) -> dict[str, str]:
    """What a recording says of how it was made."""
    run = model.describe()
    return {
        **{f"{CONFIG}{key}": str(value) for key, value in configuration(model).items()},
        "release": run.model or "",
        "path": model.subject.name,
        "dtype": run.dtype,
        "device": run.device,
        "rope_factor": "" if run.rope_factor is None else f"{run.rope_factor:g}",
        "simulate": run.simulate or "",
        "torch": run.torch,
        "llamainspect": __version__,
    }


def configuration(model: Model) -> dict[str, float | bool | None]:
    """What two models must have in common for their logits to be comparable one by one."""
    config = model.config
    return {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_dim": config.hidden_dim,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": config.use_scaled_rope,
    }


def _candidates(row: Tensor, top: int, tokenizer: Tokenizer | None) -> tuple[Candidate, ...]:
    probabilities = torch.softmax(float64(row), -1)
    found = probabilities.topk(min(top, len(row)))
    rows = []
    for probability, id in zip(found.values.tolist(), found.indices.tolist(), strict=True):
        token = None if tokenizer is None else describe_token(tokenizer, id)
        text, data = (None, None) if token is None else (token.text, token.bytes)
        rows.append(Candidate(id, text, data, probability, float(row[id])))
    return tuple(rows)


def _entropy(row: Tensor) -> float:
    logs = torch.log_softmax(float64(row), -1)
    return float(-(logs.exp() * logs).sum()) / math.log(2)


def describe_token(tokenizer: Tokenizer, id: int) -> Token:
    """What a token stands for; nothing, where the model has more tokens than the tokenizer."""
    data = tokenizer.token_bytes(id) if id < tokenizer.vocab_size else b""
    return Token(id, data.decode("utf-8", "replace"), data.hex(), id in tokenizer.special_ids)
