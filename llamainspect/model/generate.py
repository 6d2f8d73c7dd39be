"""A continuation of a prompt, token by token, with a KV cache."""

from collections.abc import Collection, Generator, Sequence
from time import perf_counter

import torch
from torch import Tensor

from llamainspect.errors import InvalidRequest
from llamainspect.model.runner import Model, all_finite
from llamainspect.progress import finish
from llamainspect.reports import Generation
from llamainspect.runs import Sampling
from llamainspect.tokenizer import Tokenizer

# Special tokens behind which no model goes on: of a text, of an answer, of a call to a tool.
STOP_TOKENS = (
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "</s>",
    "<step>",
)
GREEDY = Sampling()
TAIL = 8  # tokens that are decoded again with each new one


def stop_ids(tokenizer: Tokenizer | None, names: Sequence[str] = ()) -> frozenset[int]:
    """Ids of the tokens that end an answer, and of those that were named.

    Raises InvalidRequest for a name or id that the tokenizer has not.
    """
    if tokenizer is None:
        if wrong := [name for name in names if not (name.isascii() and name.isdigit())]:
            raise InvalidRequest(f"--stop: {wrong[0]!r} is no id, and there is no tokenizer")
        return frozenset(map(int, names))
    special = tokenizer.special_tokens
    found = {special[name] for name in STOP_TOKENS if name in special}
    found |= set() if tokenizer.eos_id is None else {tokenizer.eos_id}
    for name in names:
        if name in special:
            found.add(special[name])
        elif name.isascii() and name.isdigit() and int(name) < tokenizer.vocab_size:
            found.add(int(name))
        elif single := _single_tokens(tokenizer, name):
            found |= single
        else:
            raise InvalidRequest(
                f"--stop: {name!r} is no single token; give a special token, a text that is one "
                "token, or an id"
            )
    return frozenset(found)


def _single_tokens(tokenizer: Tokenizer, text: str) -> set[int]:
    """Tokens that are this text, at the beginning of a text (where SentencePiece puts a space
    before it) and within one."""
    spellings = (tokenizer.encode(text), tokenizer.codec.encode(text, False, True))
    return {ids[0] for ids in spellings if len(ids) == 1}


def generating(
    model: Model,
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop: Collection[int] = (),
) -> Generator[str, None, Generation]:
    """Yields the text as it comes, and returns the report.

    Without a tokenizer the text is the ids. Raises InvalidRequest for settings that mean nothing,
    UnusablePrompt for tokens that the model has not, NonFinite when it computes NaN or Inf.
    """
    sampling.check()
    if max_new_tokens < 1:
        raise InvalidRequest("--max-new-tokens: a whole number from 1 upwards is needed")
    model.check_tokens(ids)
    if sampling.temperature and sampling.seed is None:
        sampling = sampling._replace(seed=model.agreed(torch.seed() % 2**32))
    dice = torch.Generator().manual_seed(sampling.seed or 0)
    room = len(ids) + max_new_tokens
    room = min(room, model.context_length or room)
    cache = model.new_cache(room)
    made: list[int] = []
    writer = _Writer(tokenizer, ids)
    begin = perf_counter()
    logits = model.next_logits(list(ids), cache)
    prefill_end = perf_counter()
    stopped, stop_token = "max_new_tokens", None
    while True:
        if not all_finite(logits):
            raise model.explain_non_finite([*ids, *made])
        token = choose(logits, sampling, dice)
        made.append(token)
        if token in stop:
            stopped, stop_token = "stop_token", token
            break
        yield writer.add(token)
        if len(made) == max_new_tokens:
            break
        if cache.length == room:
            stopped = "context"
            break
        logits = model.next_logits([token], cache)
    yield writer.rest()
    end = perf_counter()
    steps = len(made) - 1
    return Generation(
        path=model.subject.name,
        run=model.describe(),
        prompt_tokens=tuple(ids),
        tokens=tuple(made),
        text=writer.written,
        stopped=stopped,
        stop_token=stop_token,
        sampling=sampling.text,
        seed=sampling.seed,
        prefill_seconds=prefill_end - begin,
        decode_seconds=end - prefill_end,
        prefill_tokens_per_second=len(ids) / (prefill_end - begin),
        decode_tokens_per_second=steps / (end - prefill_end) if steps else None,
        kv_cache_nbytes=cache.nbytes,
        findings=model.notes,
    )


def generate_text(
    model: Model,
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    *,
    max_new_tokens: int = 128,
    sampling: Sampling = GREEDY,
    stop: Collection[int] | None = None,
) -> Generation:
    """As `generating`, all at once; by default it stops where texts and answers end."""
    ends = stop_ids(tokenizer) if stop is None else stop
    pieces = generating(
        model, tokenizer, ids, max_new_tokens=max_new_tokens, sampling=sampling, stop=ends
    )
    return finish(pieces)


def choose(logits: Tensor, sampling: Sampling, dice: torch.Generator) -> int:
    """One token from logits (V): the most likely one, or one that the dice decide.

    Dice are thrown on the CPU, in float64: the same logits and dice give the same token anywhere.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    row = logits.cpu().double()
    row = (row - row.max()) / sampling.temperature
    count = min(sampling.top_k or len(row), len(row))
    best, order = torch.sort(row, descending=True, stable=True)
    probabilities = torch.softmax(best[:count], -1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < sampling.top_p, probabilities, 0)
    sums = probabilities.cumsum(-1)
    drawn = torch.rand(1, dtype=torch.float64, generator=dice) * sums[-1]
    place = int(torch.searchsorted(sums, drawn, right=True))
    return int(order[min(place, int((probabilities > 0).sum()) - 1)])


class _Writer:
    """Tokens as text: only what no later token can change, as a character may have several."""

    def __init__(self, tokenizer: Tokenizer | None, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tail = list(prompt[-TAIL:])  # what comes before decides on a space
        self._pending = b""
        self.written = ""

    def add(self, token: int) -> str:
        """What can be written now."""
        before = self._bytes(self._tail)
        self._tail.append(token)
        self._pending += self._bytes(self._tail)[len(before) :]
        del self._tail[:-TAIL]
        return self._write(len(self._pending) - _unfinished(self._pending))

    def rest(self) -> str:
        """What is left at the end, half a character perhaps."""
        return self._write(len(self._pending))

    def _write(self, end: int) -> str:
        text = self._pending[:end].decode("utf-8", "replace")
        self._pending = self._pending[end:]
        self.written += text
        return text

    def _bytes(self, ids: Sequence[int]) -> bytes:
        if self._tokenizer is None:
            return "".join(f"{id} " for id in ids).encode()
        return self._tokenizer.decode_bytes(id for id in ids if id < self._tokenizer.vocab_size)


def _unfinished(data: bytes) -> int:
    """Bytes at the end that begin a character and may be completed by those that follow."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte < 0x80:
            return 0
    return 0
