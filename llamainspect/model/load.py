"""A checkpoint's weights as tensors: one layer at a time, or all of them once.

Both ways are one: layers are read, joined and converted in the order in which the model uses them,
and then kept or dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llamainspect.architecture import is_moe_layer
from llamainspect.checkpoint import Checkpoint
from llamainspect.errors import CorruptFile
from llamainspect.model.dequantize import restore, restored
from llamainspect.model.moe import Expert, Routed
from llamainspect.model.quantize import Simulation, simulate
from llamainspect.model.transformer import Layer, alone
from llamainspect.processes import ALONE
from llamainspect.readahead import (
    EMBEDDING,
    LAYER_WEIGHTS,
    NORM,
    OUTPUT,
    RawPart,
    ReadAhead,
    block_ranges,
    block_rows,
    layer_weight,
    nbytes_with,
    output_blocks,
    read_parts,
    start_reading,
)
from llamainspect.sources import CHANGED, Folder
from llamainspect.tensors import contiguous_strides
from llamainspect.text_path import EXPERTS, ROUTER
from llamainspect.weights import Weight, rows_of, with_beside

if TYPE_CHECKING:
    from llamainspect.model.parallel import Ranks

LINEARS = frozenset(LAYER_WEIGHTS) - {"attention_norm", "ffn_norm"}


class Weights:
    """Tensors of a checkpoint in `dtype` on `device`; with `keep` each is read once.

    `ahead` is a thread that reads them already; without it one is started for each pass.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        *,
        keep: bool,
        simulation: Simulation | None = None,
        ahead: ReadAhead | None = None,
        ranks: "Ranks | None" = None,
    ) -> None:
        assert checkpoint.config is not None
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.ranks = ranks  # among whom the checkpoint's weights are a share
        self.share = ranks.share if ranks else ALONE
        self._summed = ranks.summed if ranks else alone
        self.device, self.dtype, self.keep = device, dtype, keep
        self.simulation = simulation
        self.nbytes_read = 0
        self._ahead = ahead  # is at the first layer
        self._rest: ReadAhead | None = None  # has passed the last, and is at the output matrix
        self._layers: list[Layer] = []
        self._experts: dict[tuple[int, int], Expert] = {}  # by layer and number, if they are kept
        self._lent: list[tuple[RawPart, ...]] = []  # memory that the layer in use is made of
        self._scratch: dict[str, Tensor] = {}  # that what is not kept is converted into
        self._norm: Tensor | None = None
        self._output: list[tuple[range, Tensor]] = []

    def __del__(self) -> None:
        self._drop_rest()

    def embed(self, ids: Tensor) -> Tensor:
        """The vectors of some tokens, (B, T) to (B, T, D). Only their rows are read, each time."""
        weight = self.checkpoint.weights[EMBEDDING]
        distinct, places = ids.unique(return_inverse=True)
        table = torch.empty(len(distinct), self.config.dim, dtype=self.dtype, device=self.device)
        for row, id in zip(table, distinct.tolist(), strict=True):
            row.copy_(self._read(rows_of(weight, id, id + 1))[0])
        self._check_unchanged()
        return table[places.to(self.device)]

    def layers(self) -> Iterator[Layer]:
        """All layers in order. One that is not kept is valid until the next is asked for."""
        if len(self._layers) == self.config.n_layers:
            yield from self._layers
            return
        self._drop_rest()
        ahead = self._ahead or start_reading(self.checkpoint, self.share)
        self._ahead = None  # whoever gives up on the way leaves nothing behind
        layers: list[Layer] = []
        with ExitStack() as stack:
            stack.enter_context(ahead)
            for number in range(self.config.n_layers):
                layer = self._read_layer(number, ahead)
                if self.keep:
                    layers.append(layer)
                yield layer
                self._give_back(ahead)
            self._norm = self._take(self.checkpoint.weights[NORM], ahead, NORM)
            self._check_unchanged()
            stack.pop_all()  # the output matrix is still to come
        self._scratch.clear()
        self._layers, self._rest = layers, ahead

    def norm(self) -> Tensor:
        """The weights of the last norm, (D); known when the layers have been walked through."""
        assert self._norm is not None
        return self._norm

    def output_blocks(self) -> Iterator[tuple[range, Tensor]]:
        """The output matrix (V, D) in blocks of rows, and which they are; that of the embedding
        where they are tied.

        Of several processes each has its share of every block. One that is not kept is valid until
        the next is asked for.
        """
        if self._output:
            yield from self._output
            return
        weights = output_blocks(self.checkpoint, self.share)
        ahead = self._rest or ReadAhead(self.checkpoint, weights, nbytes_with(weights[0]))
        self._rest = None
        blocks: list[tuple[range, Tensor]] = []
        with ahead:
            for rows, weight in zip(block_ranges(self.checkpoint), weights, strict=True):
                block = self._take(weight, ahead, OUTPUT)
                if self.keep:
                    blocks.append((rows, block))
                yield rows, block
                self._give_back(ahead)
        self._check_unchanged()
        self._output = blocks

    def _drop_rest(self) -> None:
        """End the thread of a pass whose output matrix nobody asked for."""
        if self._rest is not None:
            self._rest.close()
            self._rest = None

    def pieces(self, weight: Weight) -> Iterator[tuple[int, Tensor]]:
        """One weight by itself, as it is stored, in blocks: their first row, and their rows."""
        if len(weight.shape) < 2 or weight.rope_heads:  # whose rows are not where they are stored
            yield 0, self._read(weight)
            return
        rows, step = weight.shape[0], block_rows(weight.shape[1])
        if len(weight.shape) > 2:  # experts
            step = 1
        for start in range(0, rows, step):
            yield start, self._read(rows_of(weight, start, min(start + step, rows)))

    def _check_unchanged(self) -> None:
        """Raises CorruptFile when a file is not the one any more whose header was read."""
        source = self.checkpoint.source
        if isinstance(source, Folder) and (changed := source.changed()):
            raise CorruptFile(f"{changed[0]}: {CHANGED}")

    def _read(self, weight: Weight) -> Tensor:
        return read_whole(weight, self._read_parts)

    def _read_parts(self, weight: Weight) -> tuple[RawPart, ...]:
        parts = read_parts(self.checkpoint, weight)
        self.nbytes_read += sum(len(part.data) for part in parts)
        return parts

    def _read_layer(self, number: int, ahead: ReadAhead) -> Layer:
        weights = self.checkpoint.weights
        tensors: dict[str, Any] = {
            field: self._take(weights[layer_weight(number, field)], ahead, field)
            for field in LAYER_WEIGHTS
        }
        return Layer(**tensors, routed=self._routed(number), summed=self._summed)

    def _routed(self, number: int) -> Routed | None:
        """The experts of a layer that has some; they are read when tokens go to them."""
        moe = self.config.moe
        if moe is None or not is_moe_layer(moe, number):
            return None
        router = self._converted(self._read(self.checkpoint.weights[f"layers.{number}.{ROUTER}"]))
        return Routed(router, moe.top_k, partial(self._expert, number), self._summed)

    def _expert(self, layer: int, number: int) -> Expert:
        known = self._experts.get((layer, number))
        if known is not None:
            return known
        w1, w2, w3 = (
            rows_of(self.checkpoint.weights[f"layers.{layer}.{name}"], number, number + 1)
            for name in (EXPERTS["w1"], EXPERTS["w2"], EXPERTS["w3"])
        )
        both = beside(w1, w3)
        if both is None:
            gate, up = self._read(w1)[0], self._read(w3)[0]
        else:  # Hugging Face's files: read once
            gate, up = self._read(both)[0].chunk(2, dim=1)
        down = needed_of(w2, self._of_expert(self._read(w2)[0])[None])[0]
        expert = Expert(self._of_expert(gate), down, self._of_expert(up))
        self._check_unchanged()
        if self.keep:
            self._experts[layer, number] = expert
        return expert

    def _of_expert(self, tensor: Tensor) -> Tensor:
        """(in, out), as experts are stored; quantisation goes along what is multiplied."""
        tensor = self._converted(tensor)
        if self.simulation is None:
            return tensor
        turned = tensor.T.contiguous()
        simulate(turned, self.simulation)
        return turned.T

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype).contiguous()

    def _take(self, weight: Weight, ahead: ReadAhead, field: str) -> Tensor:
        if 0 in weight.shape:  # its share of a block of the vocabulary is nothing
            for each in with_beside(weight):
                ahead.take(each)
            return torch.empty(weight.shape, dtype=self.dtype, device=self.device)
        taken: list[tuple[RawPart, ...]] = []

        def take(weight: Weight) -> list[Tensor]:
            parts = ahead.take(weight)
            self.nbytes_read += sum(len(part.data) for part in parts)
            taken.append(parts)
            return [as_tensor(part) for part in parts]

        if weight.beside is not None:
            whole = self._room_for(weight, field)
            restore(whole, weight, take)
            for parts in taken:
                ahead.give_back(parts)
            return needed_of(weight, self._simulated(whole, field))
        tensors = take(weight)
        (parts,) = taken
        if len(tensors) == 1 and not weight.rope_heads and self._as_is(tensors[0]):
            if not self.keep:
                self._lent.append(parts)
            return needed_of(weight, self._simulated(tensors[0], field))
        whole = self._room_for(weight, field)
        join_into(whole, weight, tensors)
        ahead.give_back(parts)
        return needed_of(weight, self._simulated(whole, field))

    def _room_for(self, weight: Weight, field: str) -> Tensor:
        """New memory, or that of the same weight of the layer before, if nothing is kept."""
        whole = self._scratch.get(field)
        if whole is None or whole.shape != weight.shape:
            whole = torch.empty(weight.shape, dtype=self.dtype, device=self.device)
            if not self.keep:
                self._scratch[field] = whole
        return whole

    def _give_back(self, ahead: ReadAhead) -> None:
        while self._lent:
            ahead.give_back(self._lent.pop())

    def _as_is(self, tensor: Tensor) -> bool:
        """Whether it can be used where it was read to."""
        wanted = (self.device.type, self.dtype)
        return (tensor.device.type, tensor.dtype) == wanted and tensor.is_contiguous()

    def _simulated(self, tensor: Tensor, field: str) -> Tensor:
        if self.simulation is not None and field in LINEARS:
            simulate(tensor, self.simulation)
        return tensor


def needed_of(weight: Weight, whole: Tensor) -> Tensor:
    """What is needed of a weight that had to be read whole."""
    if weight.needed is None:
        return whole
    axis, start, end = weight.needed
    return whole.narrow(axis, start, end - start).contiguous()


def beside(first: Weight, second: Weight) -> Weight | None:
    """Two of (1, D, F) whose rows stand side by side in one file, as one of (1, D, 2 F)."""
    if len(first.parts) != 1 or len(second.parts) != 1 or first.shape != second.shape:
        return None
    if first.beside is not None or second.beside is not None:
        return None
    (a,), (b,) = first.parts, second.parts
    rows, columns = first.shape[1:]
    step = contiguous_strides((rows, 2 * columns))
    if a.file != b.file or a.strides is None or a.strides != b.strides or a.strides[1:] != step:
        return None
    if b.offset - a.offset != columns * a.dtype.block_bytes:
        return None
    shape = (1, rows, 2 * columns)
    return Weight(first.name, shape, (a._replace(shape=shape, strides=None),))


def read_whole(weight: Weight, read: Callable[[Weight], tuple[RawPart, ...]]) -> Tensor:
    """A weight from the parts of all ranks, contiguous, in its own type; a quantised one in
    float32."""
    if weight.beside is not None:
        return restored(weight, lambda each: [as_tensor(part) for part in read(each)])
    return join(weight, read(weight))


def join(weight: Weight, parts: tuple[RawPart, ...]) -> Tensor:
    """The whole of a weight from the parts of all ranks, contiguous, in its own type."""
    tensors = [as_tensor(part) for part in parts]
    if len(tensors) == 1 and not weight.rope_heads:
        return tensors[0].contiguous()
    whole = torch.empty(weight.shape, dtype=tensors[0].dtype)
    join_into(whole, weight, tensors)
    return whole


def join_into(whole: Tensor, weight: Weight, tensors: Sequence[Tensor]) -> None:
    """Write the parts of all ranks to where they belong, and convert them on the way."""
    if weight.rope_heads:  # rows of a head: the first half of all pairs, then the second
        (tensor,) = tensors
        pairs = whole.unflatten(0, (weight.rope_heads, -1, 2))
        pairs.copy_(tensor.unflatten(0, (weight.rope_heads, 2, -1)).transpose(1, 2))
        return
    first, axis = 0, weight.axis or 0
    for tensor in tensors:
        length = tensor.shape[axis]
        whole.narrow(axis, first, length).copy_(tensor)
        first += length


def as_tensor(part: RawPart) -> Tensor:
    """One part as a tensor that shares its memory, in the type and order that it is stored in."""
    info = part.info
    assert info.dtype.torch is not None
    kind: torch.dtype = getattr(torch, info.dtype.torch)
    if not len(part.data):
        return torch.empty(info.shape, dtype=kind)
    flat = torch.frombuffer(part.data, dtype=kind)
    shaped = (
        flat.view(info.shape) if info.strides is None else flat.as_strided(info.shape, info.strides)
    )
    return -shaped if info.negative else shaped
