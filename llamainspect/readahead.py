"""Weights from their files into memory, by a thread that stays a little ahead of whoever uses them.

Nothing here needs torch, so that reading begins while torch is still being imported. The order is
that of a dense model's forward pass.
"""

import mmap
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Condition, Thread
from typing import NamedTuple

from llamainspect.checkpoint import Checkpoint
from llamainspect.errors import CorruptFile
from llamainspect.processes import ALONE, Share
from llamainspect.tensors import TensorInfo
from llamainspect.weights import Weight, parts_needed, rows_of, with_beside

EMBEDDING, NORM, OUTPUT = "tok_embeddings.weight", "norm.weight", "output.weight"
# Of one layer, first used first: short name, and what follows "layers.N.".
LAYER_WEIGHTS = {
    "attention_norm": "attention_norm.weight",
    "wq": "attention.wq.weight",
    "wk": "attention.wk.weight",
    "wv": "attention.wv.weight",
    "wo": "attention.wo.weight",
    "ffn_norm": "ffn_norm.weight",
    "w1": "feed_forward.w1.weight",
    "w3": "feed_forward.w3.weight",
    "w2": "feed_forward.w2.weight",
}
# The output matrix is read and used in blocks: in float32 it is a gigabyte for 128,256 tokens of
# 2,048 numbers. The same blocks in all cases, so that results are the same.
BLOCK_ELEMENTS = 32 * 2**20
ROWS_MULTIPLE = 64


def layer_weight(number: int, field: str) -> str:
    """Meta's name of a weight of one layer."""
    return f"layers.{number}.{LAYER_WEIGHTS[field]}"


def output_name(checkpoint: Checkpoint) -> str:
    """The matrix that makes logits: where they are tied under one name, the embedding."""
    return OUTPUT if OUTPUT in checkpoint.weights else EMBEDDING


def start_reading(checkpoint: Checkpoint, share: Share = ALONE) -> "ReadAhead":
    """Begin to read the weights of all layers, the last norm, and the output matrix in blocks.

    One layer ahead of its use: with more, new pages of memory cost more time than waiting does, and
    what has been used is used again. Rows of the embedding and routed experts are read when it is
    known which.
    """
    layers = range(checkpoint.config.n_layers if checkpoint.config else 0)
    by_layer = [
        [checkpoint.weights[layer_weight(number, field)] for field in LAYER_WEIGHTS]
        for number in layers
    ]
    weights = [weight for layer in by_layer for weight in layer]
    weights += [checkpoint.weights[NORM], *output_blocks(checkpoint, share)]
    largest = max((sum(map(nbytes_with, layer)) for layer in by_layer), default=0)
    return ReadAhead(checkpoint, weights, largest)


def output_blocks(checkpoint: Checkpoint, share: Share = ALONE) -> list[Weight]:
    """The rows of the output matrix, some at a time; of each block those that are in `share`."""
    weight = checkpoint.weights[output_name(checkpoint)]
    blocks = []
    for rows in block_ranges(checkpoint):
        start, end = share.piece(len(rows))
        blocks.append(rows_of(weight, rows.start + start, rows.start + end))
    return blocks


def block_ranges(checkpoint: Checkpoint) -> list[range]:
    """Which rows of the output matrix are in each block."""
    rows, dim = checkpoint.weights[output_name(checkpoint)].shape
    step = block_rows(dim)
    return [range(start, min(start + step, rows)) for start in range(0, rows, step)]


def block_rows(dim: int) -> int:
    """Rows of the output matrix that are used at a time."""
    return max(BLOCK_ELEMENTS // dim // ROWS_MULTIPLE * ROWS_MULTIPLE, ROWS_MULTIPLE)


class RawPart(NamedTuple):
    """The bytes of one part of a weight as its file stores them, strides and all."""

    info: TensorInfo
    data: memoryview  # writable


class ReadAhead:
    """Reads weights in a given order, no more than `ahead_nbytes` beyond what was taken.

    One weight may be more than that: then it is read alone. Use it as a context: leaving ends the
    thread.
    """

    def __init__(
        self, checkpoint: Checkpoint, weights: Iterable[Weight], ahead_nbytes: int
    ) -> None:
        self.checkpoint = checkpoint
        self._order = [each for weight in weights for each in with_beside(weight)]
        self._names = frozenset(weight.name for weight in self._order)
        self._ahead_nbytes = ahead_nbytes
        self._waiting = 0  # bytes that are read and not yet taken
        self._read: dict[str, tuple[RawPart, ...] | BaseException] = {}
        self._spare: dict[int, list[memoryview]] = {}  # by length
        self._to_come = Counter(
            part_nbytes(part) for weight in self._order for part in parts_needed(weight)
        )
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what nobody took."""
        with self._changed:
            self._closed = True
            self._read.clear()
            self._spare.clear()
            self._changed.notify_all()
        self._thread.join()

    def take(self, weight: Weight) -> tuple[RawPart, ...]:
        """The parts of a weight, in the order that was given; what stands beside it comes next, and
        is asked for by itself. Raises what reading it raised."""
        with self._changed:
            while weight.name not in self._read:
                if weight.name not in self._names:
                    raise KeyError(f"{weight.name} is not among the weights that are read")
                if self._closed:
                    raise RuntimeError("weights were asked of a reader that is closed")
                self._changed.wait()
            found = self._read.pop(weight.name)
            self._waiting -= nbytes_of(weight)
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def give_back(self, parts: tuple[RawPart, ...]) -> None:
        """Memory that nobody looks at any more, for weights of the same size that are yet to come:
        new pages cost as much time as reading into them."""
        with self._changed:
            for part in parts:
                spare = self._spare.setdefault(len(part.data), [])
                if self._to_come[len(part.data)] > len(spare):
                    spare.append(part.data)

    def _memory(self, nbytes: int) -> memoryview:
        with self._changed:
            spare = self._spare.get(nbytes)
            self._to_come[nbytes] -= 1
            return spare.pop() if spare else new_pages(nbytes)

    def _work(self) -> None:
        for weight in self._order:
            with self._changed:
                while not self._closed and self._full(weight):
                    self._changed.wait()
                if self._closed:
                    return
                self._waiting += nbytes_of(weight)
            result: tuple[RawPart, ...] | BaseException
            try:
                result = read_parts(self.checkpoint, weight, self._memory)
            except BaseException as error:  # whatever it is, it belongs to the one who waits
                result = error
            with self._changed:
                if not self._closed:
                    self._read[weight.name] = result
                    self._changed.notify_all()
            del result  # or this thread would keep it while it waits

    def _full(self, weight: Weight) -> bool:
        return self._waiting > 0 and self._waiting + nbytes_of(weight) > self._ahead_nbytes


def nbytes_of(weight: Weight) -> int:
    """Bytes that `read_parts` reads."""
    return sum(part_nbytes(part) for part in parts_needed(weight))


def part_nbytes(part: TensorInfo) -> int:
    """The same of one part: with strides all that lies between, but for rows with gaps."""
    return part.span if _runs(part) is None else part.nbytes


def _runs(part: TensorInfo) -> tuple[int, int] | None:
    """Bytes of a run and from one to the next, where a part is runs with gaps between them."""
    sides = [
        (length, step)
        for length, step in zip(part.shape, part.strides or (), strict=False)
        if length > 1
    ]
    if len(sides) != 2 or sides[1][1] != 1 or sides[0][1] <= sides[1][0]:
        return None
    return sides[1][0] * part.dtype.block_bytes, sides[0][1] * part.dtype.block_bytes


def nbytes_with(weight: Weight) -> int:
    """The same of a weight and what stands beside it."""
    return sum(map(nbytes_of, with_beside(weight)))


def new_pages(nbytes: int) -> memoryview:
    """Memory for weights: aligned, so that results do not depend on where a buffer happens to lie,
    and given back at once when nobody uses it."""
    if nbytes == 0:
        return memoryview(bytearray())
    return memoryview(mmap.mmap(-1, nbytes, access=mmap.ACCESS_COPY))  # private to the process


def read_parts(
    checkpoint: Checkpoint, weight: Weight, memory: Callable[[int], memoryview] = new_pages
) -> tuple[RawPart, ...]:
    """The stored bytes of a weight. Raises CorruptFile when a file lacks some of them."""
    return tuple(_read_part(checkpoint, part, memory) for part in parts_needed(weight))


def _read_part(
    checkpoint: Checkpoint, part: TensorInfo, memory: Callable[[int], memoryview]
) -> RawPart:
    if part.offset + part.span > part.storage.nbytes:
        raise CorruptFile(
            f"{part.file}: {part.name} reaches beyond its {part.storage.nbytes:,} stored bytes; "
            "the file is damaged, download it again"
        )
    data = memory(part_nbytes(part))
    if not data:
        return RawPart(part, data)
    start = checkpoint.reader.locate(checkpoint.source, part.storage) + part.offset
    runs = _runs(part)
    if runs is None:
        checkpoint.source.read_into(part.file, start, data)
        return RawPart(part, data)
    checkpoint.source.read_into(part.file, start, data, *runs)
    return RawPart(part._replace(strides=None), data)
