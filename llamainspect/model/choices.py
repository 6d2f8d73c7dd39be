"""Which ending of a context does the model find likeliest? Multiple choice, as HellaSwag has it.

An ending's score is the log-likelihood of its tokens behind the context: per character of it, as
lm-evaluation-harness' `acc_norm` has it and most published results are, per token, and in total.
"""

import math
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from llamainspect.errors import InvalidRequest, UnusablePrompt
from llamainspect.model.evaluate import GROUP_NBYTES, cross_entropies
from llamainspect.model.logits import layer_progress
from llamainspect.model.runner import Model
from llamainspect.names import counted
from llamainspect.progress import finish
from llamainspect.questions import Kind, Question
from llamainspect.reports import (
    ChoiceAccuracy,
    ChoiceEvaluation,
    ChoiceScores,
    FileProgress,
    Finding,
)
from llamainspect.tokenizer import Tokenizer

Z_95 = 1.959963984540054  # standard deviations to each side that hold 95 % of a normal distribution
FEW = 100  # questions
MAX_TOKENS = 2**26  # of all questions, each ending with its context; HellaSwag has 4 million
LEAST_FILLED = 0.5  # of a group's sequences: shorter ones would be padding for the most part
Progress = Generator[tuple[FileProgress, ...], None, ChoiceEvaluation]


class Continuation(NamedTuple):
    """A question's context with one of its endings."""

    question: int
    ids: "array[int]"  # of both
    first: int  # the first that belongs to the ending


def continuations(
    questions: Sequence[Question], tokenizer: Tokenizer, file: str, bos: bool = True
) -> list[Continuation]:
    """The tokens of every ending behind its context, in the order of the questions.

    Tokens of an ending are those that the context by itself does not begin with, less its last
    blanks: a token that holds the end of the one and the start of the other belongs to the ending.
    Raises InvalidRequest without a question, and UnusablePrompt where nothing stands before an
    ending, and for too many tokens.
    """
    if not questions:
        raise InvalidRequest(f"{file}: there is no question to ask")
    found: list[Continuation] = []
    total = 0
    for number, question in enumerate(questions):
        alone = tokenizer.encode(question.context.rstrip(), bos=bos)
        for ending in question.endings:
            ids = array("i", tokenizer.encode(question.context + ending, bos=bos))
            first = _shared(alone, ids)
            total += len(ids)
            if total > MAX_TOKENS:
                raise UnusablePrompt(
                    f"{file}: line {question.line:,}: with it there are more than {MAX_TOKENS:,} "
                    "tokens; give the questions in parts"
                )
            if first == len(ids):
                raise UnusablePrompt(
                    f"{file}: line {question.line:,}: an ending has no token of its own; mend it"
                )
            if first == 0:
                raise UnusablePrompt(
                    f"{file}: line {question.line:,}: nothing stands before an ending that it "
                    "could be predicted from; give a context, or leave out --no-bos"
                )
            found.append(Continuation(number, ids, first))
    return found


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shortest = min(len(a), len(b))
    return next((at for at in range(shortest) if a[at] != b[at]), shortest)


def choosing(
    model: Model,
    questions: Sequence[Question],
    asked: Sequence[Continuation],
    file: str,
    kind: Kind,
) -> Progress:
    """How often the right ending scores best; `asked` are the `continuations` of the questions.

    Yields its progress. Raises UnusablePrompt for tokens that the model has not or that are more
    than its context, NonFinite when it computes NaN or Inf.
    """
    begin = perf_counter()
    check(model, questions, asked, file)
    sums = yield from _scoring(model, asked, file)
    results = tuple(_results(questions, asked, sums))
    seconds = perf_counter() - begin
    scores = tuple(
        accuracy(by, sum(row.chosen[by] == row.label for row in results), len(results))
        for by in DIVISORS
    )
    chance = sum(1 / len(question.endings) for question in questions) / len(questions)
    tokens = sum(len(one.ids) for one in asked)
    return ChoiceEvaluation(
        path=model.subject.name,
        file=file,
        kind=kind,
        run=model.describe(),
        questions=len(questions),
        endings=len(asked),
        tokens=tokens,
        chance=chance,
        correct=scores[0].correct,
        accuracy=scores[0].accuracy,
        low=scores[0].low,
        high=scores[0].high,
        scores=scores,
        results=results,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        findings=(*model.notes, *_findings(file, len(questions), scores[0], chance)),
    )


def evaluate_choices(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    bos: bool = True,
    kind: Kind = "choices",
) -> ChoiceEvaluation:
    """As `choosing`, without telling how far it is; `kind` is what the questions were read as."""
    asked = continuations(questions, tokenizer, "the questions", bos)
    return finish(choosing(model, questions, asked, "the questions", kind))


def check(
    model: Model, questions: Sequence[Question], asked: Sequence[Continuation], file: str
) -> None:
    """Raises UnusablePrompt for what the model cannot read."""
    for one in asked:
        model.check_vocabulary(one.ids)
        if model.context_length and len(one.ids) > model.context_length:
            raise UnusablePrompt(
                f"{file}: line {questions[one.question].line:,}: {len(one.ids):,} tokens are more "
                f"than the model's context of {model.context_length:,}; take it out"
            )


def _scoring(
    model: Model, asked: Sequence[Continuation], file: str
) -> Generator[tuple[FileProgress, ...], None, list[float]]:
    """Log-likelihood of each ending, in nats; groups of like length pass the layers together."""
    total = sum(len(one.ids) for one in asked)
    done = 0
    sums = [0.0] * len(asked)
    for group in groups(asked, model.config.dim):
        chosen = [asked[at] for at in group]
        tokens = sum(len(one.ids) for one in chosen)
        for stage in model.walk(_padded(chosen)):
            (layers,) = layer_progress(model, stage)
            part = tokens * layers.done // layers.nbytes
            yield (FileProgress(file, done + part, total, "tokens"),)
        losses = _losses(model, chosen, stage.hidden)
        del stage  # or its hidden states would stay through the next walk
        for at, loss in zip(group, losses, strict=True):
            if not torch.isfinite(loss).all():
                raise model.explain_non_finite(list(asked[at].ids))
            sums[at] = -float(loss.sum())
        done += tokens
    return sums


def _padded(chosen: Sequence[Continuation]) -> Tensor:
    """One row each, (B, T); what is behind its end is its own last token, which nobody sees."""
    length = max(len(one.ids) for one in chosen)
    rows = [one.ids + one.ids[-1:] * (length - len(one.ids)) for one in chosen]
    return torch.tensor([list(row) for row in rows])  # (B, T)


def _losses(model: Model, chosen: Sequence[Continuation], hidden: Tensor) -> tuple[Tensor, ...]:
    """-log p of the tokens of each ending; hidden states (B, T, D) have passed the norm."""
    pairs = zip(hidden, chosen, strict=True)
    states = torch.cat([row[one.first - 1 : len(one.ids) - 1] for row, one in pairs])  # (n, D)
    targets = torch.tensor([id for one in chosen for id in one.ids[one.first :]])  # (n)
    lengths = [len(one.ids) - one.first for one in chosen]
    losses: tuple[Tensor, ...] = cross_entropies(model, states, targets).split(lengths)
    return losses


def groups(asked: Sequence[Continuation], dim: int) -> Iterator[list[int]]:
    """Those that pass the layers together, by number: of like length, the longest first."""
    order = sorted(range(len(asked)), key=lambda at: -len(asked[at].ids))
    group: list[int] = []
    for at in order:
        longest = len(asked[group[0]].ids) if group else 0
        full = 4 * dim * longest * (len(group) + 1) > GROUP_NBYTES
        if group and (full or len(asked[at].ids) < LEAST_FILLED * longest):
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def largest_group(asked: Sequence[Continuation], dim: int) -> tuple[int, int]:
    """Tokens of the longest sequence, and how many of that length would be as much as any group."""
    sizes = [(len(asked[group[0]].ids), len(group)) for group in groups(asked, dim)]
    longest = sizes[0][0]
    return longest, -(-max(length * rows for length, rows in sizes) // longest)


def accuracy(by: str, correct: int, questions: int) -> ChoiceAccuracy:
    """The share of right answers with Wilson's 95 % interval."""
    share = correct / questions
    middle = (share + Z_95**2 / (2 * questions)) / (1 + Z_95**2 / questions)
    spread = math.sqrt(share * (1 - share) / questions + (Z_95 / (2 * questions)) ** 2)
    half = Z_95 * spread / (1 + Z_95**2 / questions)
    return ChoiceAccuracy(by, correct, share, max(middle - half, 0.0), min(middle + half, 1.0))


# By what the log-likelihood of an ending is divided: of a question, and the tokens of its endings.
DIVISORS: dict[str, Callable[[Question, Sequence[int]], Sequence[int]]] = {
    "character": lambda question, tokens: question.characters,
    "token": lambda question, tokens: tokens,
    "total": lambda question, tokens: [1] * len(tokens),
}


def _results(
    questions: Sequence[Question], asked: Sequence[Continuation], sums: Sequence[float]
) -> Iterator[ChoiceScores]:
    """What every way of scoring chooses; of equals the first."""
    at = 0
    for question in questions:
        end = at + len(question.endings)
        found = sums[at:end]
        tokens = [len(one.ids) - one.first for one in asked[at:end]]
        chosen = {}
        for by, divisors in DIVISORS.items():
            scores = [s / d for s, d in zip(found, divisors(question, tokens), strict=True)]
            chosen[by] = scores.index(max(scores))
        yield ChoiceScores(
            question.line, question.label, chosen, tuple(found), tuple(tokens), question.characters
        )
        at = end


def _findings(file: str, questions: int, best: ChoiceAccuracy, chance: float) -> list[Finding]:
    found = []
    if questions < FEW:
        message = f"with {counted(questions, 'question')} chance carries far, as the interval says"
        found.append(Finding("note", file, message))
    if best.low <= chance <= best.high:
        message = (
            f"chance alone, {100 * chance:.1f} %, lies within the interval: it may be guessing"
        )
        found.append(Finding("note", file, message))
    return found
