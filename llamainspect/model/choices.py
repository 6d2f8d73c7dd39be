"""Which ending of a context does the model find likeliest? Multiple choice, as HellaSwag has it.

An ending's score is the log-likelihood of its tokens behind the context: per character of it, as
lm-evaluation-harness' `acc_norm` has it and most published results are, per token, and in total.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch

from llamainspect.errors import UnusablePrompt
from llamainspect.model.evaluate import GROUP_NBYTES, cross_entropies
from llamainspect.model.logits import layer_progress
from llamainspect.model.runner import Model
from llamainspect.progress import finish
from llamainspect.questions import Question
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
Progress = Generator[tuple[FileProgress, ...], None, ChoiceEvaluation]


class Candidate(NamedTuple):
    """A question's context with one of its endings."""

    question: int
    ids: list[int]  # of both
    first: int  # the first that belongs to the ending


def candidates(
    questions: Sequence[Question], tokenizer: Tokenizer, file: str, bos: bool = True
) -> list[Candidate]:
    """The tokens of every ending behind its context, in the order of the questions.

    Tokens of an ending are those that the context by itself does not begin with: a token that holds
    the last letters of the one and the first of the other belongs to the ending. Raises
    UnusablePrompt where the first of them has nothing before it.
    """
    found: list[Candidate] = []
    for number, question in enumerate(questions):
        alone = tokenizer.encode(question.context, bos=bos)
        for ending in question.endings:
            ids = tokenizer.encode(question.context + ending, bos=bos)
            pairs = zip(alone, ids, strict=False)
            first = next(
                (at for at, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(ids))
            )
            if not 0 < first < len(ids):
                raise UnusablePrompt(
                    f"{file}: line {question.line:,}: an ending has no token, or nothing before it "
                    "that it could be predicted from; give a context, or leave out --no-bos"
                )
            found.append(Candidate(number, ids, first))
    return found


def choosing(
    model: Model, questions: Sequence[Question], asked: Sequence[Candidate], file: str, kind: str
) -> Progress:
    """How often the right ending scores best; `asked` are the `candidates` of the questions.

    Yields its progress. Raises UnusablePrompt for tokens that the model has not or that are more
    than its context, NonFinite when it computes NaN or Inf.
    """
    begin = perf_counter()
    check(model, questions, asked, file)
    total = sum(len(candidate.ids) for candidate in asked)
    done = 0
    sums = [0.0] * len(asked)
    for group in groups(asked, model.config.dim):
        length = max(len(asked[at].ids) for at in group)
        # Padded behind their ends, where nothing that is scored looks.
        rows = torch.tensor([asked[at].ids + [0] * (length - len(asked[at].ids)) for at in group])
        tokens = sum(len(asked[at].ids) for at in group)
        for stage in model.walk(rows):
            (layers,) = layer_progress(model, stage)
            part = tokens * layers.done // layers.nbytes
            yield (FileProgress(file, done + part, total, "tokens"),)
        chosen = [asked[at] for at in group]
        pairs = zip(stage.hidden, chosen, strict=True)
        hidden = torch.cat([row[one.first - 1 : len(one.ids) - 1] for row, one in pairs])
        del stage  # or its hidden states would stay through the next walk
        targets = torch.tensor([id for one in chosen for id in one.ids[one.first :]])
        lengths = [len(one.ids) - one.first for one in chosen]
        losses = cross_entropies(model, hidden, targets).split(lengths)
        for at, loss in zip(group, losses, strict=True):
            if not torch.isfinite(loss).all():
                raise model.explain_non_finite(asked[at].ids)
            sums[at] = -float(loss.sum())
        done += tokens
    results = list(_results(questions, asked, sums))
    seconds = perf_counter() - begin
    scores = tuple(
        accuracy(by, sum(row.chosen[by] == row.label for row in results), len(results))
        for by in DIVISORS
    )
    chance = sum(1 / len(question.endings) for question in questions) / len(questions)
    return ChoiceEvaluation(
        path=model.subject.name,
        file=file,
        kind=kind,
        run=model.describe(),
        questions=len(questions),
        endings=len(asked),
        tokens=total,
        chance=chance,
        correct=scores[0].correct,
        accuracy=scores[0].accuracy,
        low=scores[0].low,
        high=scores[0].high,
        scores=scores,
        results=tuple(results),
        seconds=seconds,
        tokens_per_second=total / seconds,
        findings=tuple(_findings(file, len(questions), scores[0], chance)),
    )


def evaluate_choices(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    bos: bool = True,
) -> ChoiceEvaluation:
    """As `choosing`, without telling how far it is."""
    asked = candidates(questions, tokenizer, "the questions", bos)
    return finish(choosing(model, questions, asked, "the questions", "choices"))


def check(
    model: Model, questions: Sequence[Question], asked: Sequence[Candidate], file: str
) -> None:
    """Raises UnusablePrompt for what the model cannot read."""
    for one in asked:
        model.check_vocabulary(one.ids)
        if model.context_length and len(one.ids) > model.context_length:
            raise UnusablePrompt(
                f"{file}: line {questions[one.question].line:,}: {len(one.ids):,} tokens are more "
                f"than the model's context of {model.context_length:,}; take it out"
            )


def groups(asked: Sequence[Candidate], dim: int) -> Iterator[list[int]]:
    """Those that pass the layers together, by number: of like length, the longest first."""
    order = sorted(range(len(asked)), key=lambda at: -len(asked[at].ids))
    first = 0
    while first < len(order):
        length = len(asked[order[first]].ids)
        rows = max(1, GROUP_NBYTES // (4 * dim * length))
        yield order[first : first + rows]
        first += rows


def largest_group(asked: Sequence[Candidate], dim: int) -> tuple[int, int]:
    """Tokens and sequences of what passes the layers together, at most."""
    found = [(len(asked[group[0]].ids), len(group)) for group in groups(asked, dim)]
    return max(found, key=lambda size: size[0] * size[1])


def accuracy(by: str, correct: int, questions: int) -> ChoiceAccuracy:
    """The share of right answers with Wilson's 95 % interval."""
    share = correct / questions
    middle = (share + Z_95**2 / (2 * questions)) / (1 + Z_95**2 / questions)
    spread = math.sqrt(share * (1 - share) / questions + (Z_95 / (2 * questions)) ** 2)
    half = Z_95 * spread / (1 + Z_95**2 / questions)
    return ChoiceAccuracy(by, correct, share, max(middle - half, 0.0), min(middle + half, 1.0))


def _by_character(question: Question, tokens: Sequence[int]) -> Sequence[int]:
    return question.characters


def _by_token(question: Question, tokens: Sequence[int]) -> Sequence[int]:
    return tokens


def _total(question: Question, tokens: Sequence[int]) -> Sequence[int]:
    return [1] * len(tokens)


DIVISORS = {"character": _by_character, "token": _by_token, "total": _total}


def _results(
    questions: Sequence[Question], asked: Sequence[Candidate], sums: Sequence[float]
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
        message = f"{questions:,} questions are few: the interval says how far chance may carry"
        found.append(Finding("note", file, message))
    if best.low <= chance <= best.high:
        message = (
            f"chance alone, {100 * chance:.1f} %, lies within the interval: it may be guessing"
        )
        found.append(Finding("note", file, message))
    return found
