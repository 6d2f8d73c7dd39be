"""A checkpoint that can be run: what it needs, whether that is here, and tokens in, logits out."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from llamainspect.architecture import routed_layers
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import ModelConfig
from llamainspect.errors import CorruptFile, NonFinite, NotEnoughMemory, UnusablePrompt
from llamainspect.footprint import kv_cache, prefill
from llamainspect.model import devices, transformer
from llamainspect.model.dequantize import restoring_nbytes
from llamainspect.model.load import Weights
from llamainspect.model.quantize import make_simulation
from llamainspect.model.transformer import Layer, LayerCache
from llamainspect.names import NOT_PARAMETERS, component_of, layer_of
from llamainspect.processes import ALONE, Share
from llamainspect.readahead import (
    EMBEDDING,
    LAYER_WEIGHTS,
    NORM,
    ReadAhead,
    block_rows,
    layer_weight,
    nbytes_with,
    output_name,
)
from llamainspect.reports import Finding, ModelRun, ProcessRun
from llamainspect.rope import RopeChoice, choose_rope
from llamainspect.runs import STORED, RunOptions, check_runnable
from llamainspect.shares import check_share, own_config, own_weights
from llamainspect.subject import Subject
from llamainspect.weights import Weight

if TYPE_CHECKING:
    from llamainspect.model.parallel import Ranks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNK = 2048  # tokens of a prompt that pass a layer at a time
CHECKED = 2**22  # numbers that are looked at together for NaN and Inf
SPARE = 1 / 32  # of the memory that is available: what estimates do not know
GIB = 2**30
AS_FITS = RunOptions()


class Need(NamedTuple):
    """Bytes that a run takes, all weights kept or one layer at a time."""

    resident: int
    streamed: int

    def of(self, keep: bool) -> int:
        """With all weights kept, or without."""
        return self.resident if keep else self.streamed


class Stage(NamedTuple):
    """What has become of the tokens at one point of the way."""

    kind: Literal["embedding", "layer", "norm"]
    layer: int | None
    hidden: Tensor  # (B, T, D); what follows may overwrite it

    @property
    def text(self) -> str:
        """For a sentence."""
        return self.kind if self.layer is None else f"layer {self.layer}"


class KVCache:
    """Keys and values of every layer for one sequence of up to `room` tokens."""

    def __init__(self, config: ModelConfig, room: int, device: torch.device, dtype: torch.dtype):
        shape = (config.n_layers, 1, config.n_kv_heads, room, config.head_dim)
        keys = torch.empty(shape, device=device, dtype=dtype)
        values = torch.empty(shape, device=device, dtype=dtype)
        self.layers = [LayerCache(k, v) for k, v in zip(keys, values, strict=True)]
        self.room = room
        self.length = 0  # tokens that are in it
        self.nbytes = 2 * keys.nbytes


class Model:
    """A model with its weights, resident or streamed; `load_model` makes it."""

    def __init__(
        self,
        subject: Subject,
        weights: Weights,
        rope: RopeChoice,
        dtype: str,
        notes: tuple[Finding, ...] = (),
    ) -> None:
        self.subject = subject
        self.notes = notes  # for whoever reads its answers
        self.config = subject.config
        self.weights = weights
        self.rope = rope
        self.dtype = dtype
        self.device = weights.device
        self.vocab_size = self.config.vocab_size or 0
        self.ranks = weights.ranks  # the processes that it runs in, if there are several
        self._own = own_config(self.config, weights.share)  # what this one computes
        self._turns = transformer.rope_turns(self.config, rope.scaling, 0, self.device)

    @property
    def streamed(self) -> bool:
        """Whether one layer at a time is in memory."""
        return not self.weights.keep

    @property
    def context_length(self) -> int | None:
        """Tokens, as published of the release whose architecture it has."""
        return self.subject.context_length

    def describe(self) -> ModelRun:
        """For a report; peak memory as of now."""
        scaling = self.rope.scaling
        return ModelRun(
            model=self.subject.official.id if self.subject.official else None,
            device=self.device.type,
            device_name=devices.name_of(self.device),
            threads=torch.get_num_threads(),
            dtype=self.dtype,
            streamed=self.streamed,
            rope_factor=None if scaling is None else scaling.factor,
            rope_reason=self.rope.reason,
            simulate=None if self.weights.simulation is None else self.weights.simulation.text,
            torch=torch.__version__,
            peak_nbytes=devices.peak_nbytes(self.device),
            nbytes_read=self.weights.nbytes_read,
            processes=self._processes(),
        )

    def _processes(self) -> tuple[ProcessRun, ...]:
        if self.ranks is None:
            return ()
        mine = devices.peak_nbytes(self.device), self.weights.nbytes_read
        return tuple(ProcessRun(*numbers) for numbers in self.ranks.of_each(*mine))

    def new_cache(self, room: int, layers: int | None = None) -> KVCache:
        """An empty cache for `room` tokens, of all layers."""
        count = self.config.n_layers if layers is None else layers
        config = self._own._replace(n_layers=count)
        return KVCache(config, room, self.device, self.weights.dtype)

    def check_tokens(self, ids: Sequence[int]) -> None:
        """Raises UnusablePrompt for no tokens, too many for the model, and tokens it has not."""
        if not ids:
            raise UnusablePrompt("there is no token to begin with; give a prompt")
        self.check_vocabulary(ids)
        if self.context_length and len(ids) > self.context_length:
            raise UnusablePrompt(
                f"the prompt has {len(ids):,} tokens, and the context of "
                f"{self.subject.model} holds {self.context_length:,}; shorten it"
            )

    def check_vocabulary(self, ids: Sequence[int]) -> None:
        """Raises UnusablePrompt for a token that the model has no vector for."""
        for position, id in enumerate(ids):
            if not 0 <= id < self.vocab_size:
                raise UnusablePrompt(
                    f"token {position:,} is {id:,}, and the model has {self.vocab_size:,} tokens, "
                    f"0 to {self.vocab_size - 1:,}; was it tokenized for another model?"
                )

    @torch.inference_mode()
    def walk(self, ids: Tensor, cache: KVCache | None = None) -> Iterator[Stage]:
        """Sequences (B, T) through the model, layer by layer; all of them through each layer.

        With a cache, of one sequence, they follow the tokens that are in it. What a stage holds may
        be overwritten by the next. Raises what reading the weights raises.
        """
        batch, tokens = ids.shape
        start = cache.length if cache else 0
        if cache and start + tokens > cache.room:
            raise ValueError(f"the cache has room for {cache.room} tokens, not {start + tokens}")
        turns = self._turns_of(start + tokens)
        layer_caches: list[LayerCache | None] = [None]  # short sequences need none
        if cache:
            layer_caches = [*cache.layers]
        elif tokens > CHUNK:  # all layers and sequences use the same one
            layer_caches = [*self.new_cache(tokens, layers=1).layers]
        x = self.weights.embed(ids)
        yield Stage("embedding", None, x)
        rows = rows_at_once(tokens)

        def in_pieces(x: Tensor, passes: Callable[[Tensor, int], Tensor]) -> Tensor:
            if batch <= rows and tokens <= CHUNK:
                return passes(x, start)
            for row in range(0, batch, rows):
                for first in range(0, tokens, CHUNK):
                    piece = x[row : row + rows, first : first + CHUNK]
                    piece.copy_(passes(piece, start + first))
            return x

        for number, layer in enumerate(self.weights.layers()):
            kept = layer_caches[number % len(layer_caches)]
            x = in_pieces(x, self._attends(number, layer, turns, kept))
            added = self._routed(x, layer, in_pieces)
            x = in_pieces(x, self._thinks(layer))
            if added is not None:
                x = x + added
            yield Stage("layer", number, x)
        if cache:
            cache.length += tokens
        weight, eps = self.weights.norm(), self.config.norm_eps
        x = in_pieces(x, lambda x, at: transformer.rms_norm(x, weight, eps))
        yield Stage("norm", None, x)

    def _attends(
        self, number: int, layer: Layer, turns: Tensor, cache: LayerCache | None
    ) -> Callable[[Tensor, int], Tensor]:
        """The first half of a layer, of tokens from some position on."""
        style = transformer.style_of(self.config, number)

        def attend(x: Tensor, at: int) -> Tensor:
            positions = turns[at : at + x.shape[1]]
            return transformer.attend(x, layer, positions, self._own, style, cache, at)

        return attend

    def _thinks(self, layer: Layer) -> Callable[[Tensor, int], Tensor]:
        """The second half."""
        return lambda h, at: transformer.think(h, layer, self.config)

    def _routed(self, h: Tensor, layer: Layer, in_pieces: Callable[..., Tensor]) -> Tensor | None:
        """What experts add, of all tokens together: each expert is read once."""
        if layer.routed is None:
            return None
        weight, eps = layer.ffn_norm, self.config.norm_eps
        return layer.routed(
            in_pieces(h.clone(), lambda h, at: transformer.rms_norm(h, weight, eps))
        )

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states that have passed the last norm: (..., D) to (..., V), in float32."""
        shape = (*hidden.shape[:-1], self.vocab_size)
        made = torch.empty(shape, dtype=torch.float32, device=self.device)
        for rows, logits_of in self.output_blocks():
            made[..., rows.start : rows.stop] = logits_of(hidden)
        return made

    @torch.inference_mode()
    def output_blocks(self) -> Iterator[tuple[range, Callable[[Tensor], Tensor]]]:
        """The output matrix in blocks: the tokens of each, and what makes their logits, (..., D) to
        (..., rows) in float32."""
        for rows, block in self.weights.output_blocks():
            yield rows, partial(self._block_logits, block, len(rows))

    def _block_logits(self, block: Tensor, rows: int, hidden: Tensor) -> Tensor:
        made = transformer.logits(hidden, block)
        return made if self.ranks is None else self.ranks.joined(made, rows)

    def agreed(self, number: int) -> int:
        """The same number in all processes that the model runs in."""
        return number if self.ranks is None else self.ranks.agreed(number)

    @property
    def answers(self) -> bool:
        """Whether this process is the one that writes, of those that the model runs in."""
        return self.weights.share.rank == 0

    def next_logits(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Logits (V) of the token that follows `ids`, which are put into the cache."""
        hidden = last_hidden(self.walk(torch.tensor([ids]), cache))
        return self.logits(hidden[0, -1])

    def _turns_of(self, positions: int) -> Tensor:
        known = len(self._turns)
        if known < positions:
            self._turns = transformer.rope_turns(
                self.config, self.rope.scaling, max(positions, 2 * known), self.device
            )
            if not torch.isfinite(torch.view_as_real(self._turns)).all():
                raise NonFinite(
                    f"{self.subject.name}: RoPE makes NaN of rope_theta {self.config.rope_theta:g} "
                    f"and factor {self.rope.scaling.factor if self.rope.scaling else 1:g}; "
                    f"{self.config.file} should have those of the release"
                )
        return self._turns

    def explain_non_finite(self, ids: Sequence[int]) -> NonFinite:
        """Where NaN or Inf first appears when the model reads `ids`: a tensor, or a layer."""
        for stage in self.walk(torch.tensor([ids])):
            if not all_finite(stage.hidden):
                return NonFinite(f"{self.subject.name}: {self._blame(stage)}")
        return NonFinite(f"{self.subject.name}: {self._blame(None)}")

    def _blame(self, stage: Stage | None) -> str:
        """The weight that is not finite, or that it is the arithmetic."""
        if stage is None:
            names, text = [output_name(self.weights.checkpoint)], "the output matrix"
        elif stage.layer is not None:
            weights = self.weights.checkpoint.weights
            names = [
                name
                for name in weights
                if layer_of(name) == stage.layer and component_of(name) not in NOT_PARAMETERS
            ]
            text = stage.text
        else:
            names = [EMBEDDING if stage.kind == "embedding" else NORM]
            text = "the embedding" if stage.kind == "embedding" else "the last norm"
        for name in names:
            if where := self._first_bad(name):
                weight = self._whole(name)
                made = "with its scales " * (weight.beside is not None)
                return (
                    f"{weight.name}: {made}it holds {where}, so that the model computes nothing; "
                    "`llamainspect verify-checksums` tells whether the file is as published"
                )
        advice = "--dtype fp32 or bf16" if self.dtype == "fp16" else "--dtype fp32"
        way_out = (
            f"numbers grow too large for {self.dtype}; try {advice}"
            if self.dtype != "fp32"
            else "numbers grow too large; the weights are not those of a trained model"
        )
        return f"{text}: NaN or Inf first appears there, and its weights are finite: {way_out}"

    def _whole(self, name: str) -> Weight:
        """Of which this process may have a share."""
        assert self.subject.checkpoint is not None
        return self.subject.checkpoint.weights[name]

    def _first_bad(self, name: str) -> str | None:
        """The first element of a weight that is not finite, as in "NaN at [3, 17]"."""
        for first, tensor in self.weights.pieces(self._whole(name)):
            if not all_finite(tensor):
                index = (~torch.isfinite(tensor)).nonzero()[0].tolist()
                what = "NaN" if math.isnan(float(tensor[tuple(index)])) else "Inf"
                return f"{what} at {[first + index[0], *index[1:]]}"
        return None


def rows_at_once(tokens: int) -> int:
    """Sequences of so many tokens that pass a layer together."""
    return max(1, CHUNK // max(tokens, 1))


def all_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no Inf; in pieces, so that it takes no memory to speak of."""
    pieces = tensor.reshape(-1).split(CHECKED)
    return all(bool(torch.isfinite(piece).all()) for piece in pieces)


def float64(tensor: Tensor) -> Tensor:
    """In float64; on the CPU where the device knows none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def last_hidden(stages: Iterator[Stage]) -> Tensor:
    """What comes out of the last norm, (B, T, D)."""
    for stage in stages:
        hidden = stage.hidden
    return hidden


def load_model(
    subject: Subject,
    options: RunOptions = AS_FITS,
    *,
    tokens: int = CHUNK,
    sequences: int = 1,
    logits: int = 1,
    passes: int | None = None,
    share: float = 1.0,
    ahead: ReadAhead | None = None,
    processes: Share = ALONE,
) -> Model:
    """The model of a checkpoint, ready to run; weights are read when they are first used.

    `tokens` of each of so many `sequences` will be in memory, and `logits` of so many positions.
    For a single one of `passes` through the layers there is no use in keeping them; None: who
    knows. It may take a `share` of the memory that is available. `ahead` already reads the weights.
    Several `processes` may have a part of it each, as `share_here` says under torchrun: all of them
    then do the same with it.
    Settings of torch that trade exactness for speed on GPUs are turned off, for the whole process.

    Raises MissingFile, CorruptFile and UnsupportedFile for what cannot be run, NotEnoughMemory, and
    InvalidRequest for options that are wrong.
    """
    options.check()
    checkpoint, config = check_runnable(subject)
    check_share(config, processes)
    seen = _sees(subject)
    subject = subject._replace(checkpoint=checkpoint, config=config)
    notes = (*seen, *_rounds(subject))
    device = devices.choose_device(options.device, processes)
    dtype = options.dtype or ("fp32" if device.type == "cpu" else _stored(subject))
    simulation = make_simulation(options.simulate, options.group_size)
    release = subject.official.id if subject.official else None
    rope = choose_rope(config, release, options.rope_factor)
    devices.forbid_shortcuts()
    tokens = min(tokens, subject.context_length or tokens)

    part = own_part(subject, processes, whole_rows=simulation is not None)
    assert part.checkpoint is not None

    def need(dtype: str) -> Need:
        width = DTYPES[dtype].itemsize
        return estimate_need(part, width, tokens, sequences, logits, processes.ranks)

    if options.stream is None and passes == 1:
        options = options._replace(stream=True)
    neighbours = processes.local_ranks if device.type == "cpu" else 1
    keep = _decide(need, device, dtype, options.stream, share, neighbours)
    read = Weights(
        part.checkpoint, device, DTYPES[dtype], keep=keep, simulation=simulation, ahead=ahead,
        ranks=_together(processes, device, checkpoint, config),
    )  # fmt: skip
    return Model(subject, read, rope, dtype, notes)


def own_part(subject: Subject, share: Share, *, whole_rows: bool = False) -> Subject:
    """What one process has of a model that can be run: its weights, and sizes that fit them."""
    checkpoint, config = subject.checkpoint, subject.config
    assert checkpoint is not None
    weights = own_weights(checkpoint.weights, config, share, whole_rows=whole_rows)
    own = checkpoint._replace(weights=weights)
    return subject._replace(checkpoint=own, config=own_config(config, share))


def _together(
    processes: Share, device: torch.device, checkpoint: Checkpoint, config: ModelConfig
) -> "Ranks | None":
    """Whom a model is shared with. Raises CorruptFile where others have another checkpoint."""
    if processes.ranks == 1:
        return None
    from llamainspect.model.parallel import Ranks  # torch.distributed takes its time to import

    ranks = Ranks(processes, device)
    if len(set(ranks.of_each(_digest(checkpoint, config)))) > 1:
        raise CorruptFile(
            f"{checkpoint.source.place}: not every process finds the same checkpoint there; each "
            "machine needs the same files under the same path"
        )
    return ranks


def _digest(checkpoint: Checkpoint, config: ModelConfig) -> int:
    """Of headers and configuration, with the checksums that files have of their own."""
    rows = [
        (name, weight.shape, weight.axis, [(p.dtype.name, p.storage.crc32) for p in weight.parts])
        for name, weight in checkpoint.weights.items()
    ]
    return zlib.crc32(repr((config, rows)).encode())


def _sees(subject: Subject) -> tuple[Finding, ...]:
    """A note on models that look at images."""
    if subject.config.vision is None and subject.config.cross_attention is None:
        return ()
    message = "it also looks at images, which are not given to it here: its text model runs on text"
    return (Finding("note", subject.name, message),)


def _rounds(subject: Subject) -> tuple[Finding, ...]:
    """A note on models that Meta's own code runs with rounded inputs, too."""
    weights = subject.checkpoint.weights.values() if subject.checkpoint else ()
    if all(weight.beside is None for weight in weights):
        return ()
    kind = "FP8" if subject.form == "fp8" else "8-bit integers"
    message = (
        f"its quantised weights are made floats again, exactly; Meta's code also rounds what goes "
        f"into them to {kind}, token by token, which is not done here"
    )
    return (Finding("note", subject.name, message),)


def estimate_need(
    subject: Subject, width: int, tokens: int, sequences: int = 1, logits: int = 1, ranks: int = 1
) -> Need:
    """Bytes for `tokens` of each of some sequences, with the logits of so many positions.

    Of one of `ranks` processes, whose layers `subject` has, and which has a share of the output.
    """
    checkpoint, config = subject.checkpoint, subject.config
    assert checkpoint is not None
    layers = [
        [checkpoint.weights[layer_weight(number, field)] for field in LAYER_WEIGHTS]
        for number in range(config.n_layers)
    ]
    elements = [sum(weight.elements for weight in weights) for weights in layers]
    layer_stored = max(sum(map(nbytes_with, weights)) for weights in layers)
    moe = config.moe
    expert = 3 * config.dim * moe.hidden_dim if moe else 0
    experts = routed_layers(config) * moe.num_experts * expert if moe else 0
    beside = 2 * width * config.dim * tokens * sequences if moe else 0  # what experts are given
    output = checkpoint.weights[output_name(checkpoint)]
    rows = -(-min(block_rows(config.dim), output.shape[0]) // ranks)
    largest = max(output.nbytes // ranks, layer_stored)
    chunk = min(tokens, CHUNK)
    at_once = chunk * min(sequences, rows_at_once(tokens))
    mask = chunk * tokens * (1 + width) if tokens > chunk else 0
    restoring = max((restoring_nbytes(weight) for layer in layers for weight in layer), default=0)
    running = (
        mask
        + restoring
        + beside
        + kv_cache(config, tokens, 1, "fp32").nbytes_allocated * width // 4
        + prefill(config, at_once, width).blocks_nbytes
        + 2 * width * config.dim * tokens * sequences
        + 4 * (config.vocab_size or 0) * (logits + 2)
    )
    return Need(
        resident=width * (sum(elements) + experts + output.elements // ranks) + largest + running,
        streamed=width * (max(elements) + expert)
        + 2 * layer_stored
        + 4 * expert
        + rows * config.dim * (width + 4)
        + running,
    )


def _decide(
    need: Callable[[str], Need],
    device: torch.device,
    dtype: str,
    stream: bool | None,
    share: float,
    neighbours: int = 1,
) -> bool:
    """Whether all weights are kept; `neighbours` are the processes that share the memory.

    Raises NotEnoughMemory, with what would fit.
    """
    available = int(devices.available_nbytes(device) * (1 - SPARE) * share / neighbours)
    for keep in (True, False):
        if stream in (None, not keep) and need(dtype).of(keep) <= available:
            return keep
    least = need(dtype).of(keep=stream is False)
    ways = [
        f"{'--no-stream' if keep else '--stream'} --dtype {other} takes {_size(nbytes)}"
        for other in dict.fromkeys((dtype, "bf16"))
        for keep in (True, False)
        if (nbytes := need(other).of(keep)) <= available
    ]
    if device.type != "cpu":
        ways.append("--device cpu has memory of its own")
    advice = "; ".join(ways) or "give fewer tokens, or run it where there is more memory"
    raise NotEnoughMemory(
        f"about {_size(least)} are needed in {dtype}"
        f"{'' if stream is False else ', one layer at a time'}, and {_size(available)} are "
        f"available on {device.type}{'' if share == 1 else ' for each of two models'}"
        f"{'' if neighbours == 1 else f' in each of {neighbours} processes'}: {advice}"
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / 2**20:.0f} MiB"


def _stored(subject: Subject) -> str:
    """The type that most of the weights are stored in."""
    assert subject.census is not None
    by_dtype = {k: n for k, n in subject.census.nbytes_by_dtype.items() if k in STORED}
    return STORED[max(by_dtype, key=lambda name: by_dtype[name])] if by_dtype else "fp32"
