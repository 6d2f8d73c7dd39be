"""How well a model predicts a text: cross-entropy over a sliding window."""

import math
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from llamainspect.errors import InvalidRequest, UnusablePrompt
from llamainspect.model.logits import layer_progress
from llamainspect.model.runner import Model, Stage, float64
from llamainspect.names import counted
from llamainspect.progress import finish
from llamainspect.reports import Evaluation, FileProgress, Finding
from llamainspect.tokenizer import Tokenizer

DEFAULT_WINDOW = 2048
GROUP_NBYTES = 512 * 2**20  # of hidden states that pass a layer together
ROWS = 512  # positions whose logits are computed at a time

Progress = Generator[tuple[FileProgress, ...], None, Evaluation]


class Window(NamedTuple):
    """Tokens that the model reads at once, and those of them that are counted."""

    start: int
    end: int
    first: int  # the first position whose token is predicted here; all later ones are, too


def windows(tokens: int, window: int, stride: int) -> list[Window]:
    """Each token but the first is predicted once, with up to `window` - 1 tokens before it.

    Every window but the first predicts its last `stride` tokens, so that each of them has at least
    `window` - `stride` before it.
    """
    found: list[Window] = []
    done = 1
    while done < tokens:
        end = min(window if not found else done + stride, tokens)
        found.append(Window(max(0, end - window), end, done))
        done = end
    return found


def default_window(context_length: int | None) -> int:
    """Tokens: 2,048, or the model's context where that is less; 2 at least, to predict one."""
    return max(2, min(DEFAULT_WINDOW, context_length or DEFAULT_WINDOW))


def windows_at_once(dim: int, window: int) -> int:
    """Windows whose hidden states are in memory together, so that layers are read once for all."""
    return max(1, GROUP_NBYTES // (4 * dim * max(window, 1)))


def evaluating(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    file: str,
    *,
    bos: bool = True,
    window: int | None = None,
    stride: int | None = None,
) -> Progress:
    """Cross-entropy of the tokens of a text, all of them behind the begin-of-text token.

    Without it the first token is not predicted. Yields its progress. Raises InvalidRequest for
    settings that mean nothing, UnusablePrompt for tokens that the model has not, NonFinite when it
    computes NaN or Inf.
    """
    begin = perf_counter()
    if model.context_length is not None and model.context_length < 2:
        raise UnusablePrompt(
            f"the context of this model holds {counted(model.context_length, 'token')}, as its "
            "configuration says, and it takes 2 to predict one"
        )
    length = default_window(model.context_length) if window is None else window
    step = max(length // 2, 1) if stride is None else stride
    if length < 2:
        raise InvalidRequest("--window: a window has 2 tokens at least")
    if model.context_length is not None and length > model.context_length:
        raise InvalidRequest(
            f"--window: {length:,} tokens are more than the model's context of "
            f"{model.context_length:,}"
        )
    if not 0 < step < length:
        raise InvalidRequest("--stride: a number of tokens from 1 to below the window is needed")
    ids = tokenizer.encode(text, bos=bos)
    if len(ids) < 2:
        raise UnusablePrompt(f"{file}: it has too few tokens to predict one from another")
    model.check_vocabulary(ids)
    nbytes = len(text.encode()) - (0 if bos else len(tokenizer.decode_bytes(ids[:1])))
    plan = windows(len(ids), length, step)
    size = windows_at_once(model.config.dim, length)
    total = 0.0
    for first in range(0, len(plan), size):
        group = plan[first : first + size]
        # All of them pass one layer before the next is needed: what streams is read once.
        rows = torch.tensor([ids[window.start : window.end] for window in group])
        for stage in model.walk(rows):
            yield (_progress(file, len(ids), model, group, stage),)
        total += _loss(model, ids, group, stage.hidden)
        del stage  # or its hidden states would stay through the next walk
    predicted = len(ids) - 1
    seconds = perf_counter() - begin
    mean = total / predicted
    return Evaluation(
        path=model.subject.name,
        file=file,
        run=model.describe(),
        nbytes=nbytes,
        tokens=len(ids) - bos,
        predicted=predicted,
        window=length,
        stride=step,
        windows=len(plan),
        cross_entropy=mean,
        perplexity=math.exp(min(mean, 700)),
        bits_per_byte=total / math.log(2) / nbytes,
        seconds=seconds,
        tokens_per_second=predicted / seconds,
        findings=(*model.notes, *_few(file, predicted)),
    )


def evaluate_text(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> Evaluation:
    """As `evaluating`, without telling how far it is."""
    return finish(evaluating(model, tokenizer, text, "the text", window=window, stride=stride))


def _few(file: str, predicted: int) -> list[Finding]:
    if predicted >= 1000:
        return []
    message = f"{predicted:,} tokens are few: another text of the same kind may give other numbers"
    return [Finding("note", file, message)]


def _progress(
    file: str, tokens: int, model: Model, group: Sequence[Window], stage: Stage
) -> FileProgress:
    """A walk through the layers is worth the tokens that are predicted at its end."""
    (layers,) = layer_progress(model, stage)
    first, last = group[0].first, group[-1].end
    return FileProgress(
        file, first + (last - first) * layers.done // layers.nbytes, tokens, "tokens"
    )


def _loss(model: Model, ids: Sequence[int], group: Sequence[Window], hidden: Tensor) -> float:
    """Sum over the tokens that a group predicts, in nats; hidden states are (windows, T, D)."""
    states: list[Tensor] = []
    targets: list[int] = []
    for row, window in zip(hidden, group, strict=True):
        states.append(row[window.first - 1 - window.start : window.end - 1 - window.start])
        targets += ids[window.first : window.end]
    losses = cross_entropies(model, torch.cat(states), torch.tensor(targets))
    if not torch.isfinite(losses).all():
        at = group[0].first + int((~torch.isfinite(losses)).nonzero()[0])
        window = next(window for window in group if at < window.end)
        raise model.explain_non_finite(ids[window.start : window.end])
    return float(losses.sum())


@torch.inference_mode()
def cross_entropies(model: Model, hidden: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target (T), in nats and float64; hidden states (T, D) have passed the norm.

    The vocabulary comes in blocks, so that no more than a block of logits is in memory.
    """
    exact = "cpu" if hidden.device.type == "mps" else hidden.device  # Apple's have no float64
    targets = targets.to(exact)
    sums = torch.full(targets.shape, -math.inf, dtype=torch.float64, device=exact)
    meant = torch.zeros_like(sums)
    for rows, logits_of in model.output_blocks():
        for first in range(0, len(hidden), ROWS):
            piece = slice(first, first + ROWS)
            logits = float64(logits_of(hidden[piece]))
            sums[piece] = torch.logaddexp(sums[piece], torch.logsumexp(logits, -1))
            place = targets[piece] - rows.start
            inside = (place >= 0) & (place < logits.shape[1])
            found = logits.gather(1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
            meant[piece] = torch.where(inside, found, meant[piece])
    return sums - meant
