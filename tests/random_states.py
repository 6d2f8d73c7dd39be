"""Random objects as people give them to torch.save, each made from a number and the same each time.

They are of every type that torch saves and of every shape: views of all kinds into storages that
several names share, containers in containers, wrapped, lazy, sparse and quantised tensors, numbers
of every bit pattern, plain values between them, and names that nobody should have chosen.
"""

import argparse
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

# Of Python's numbers; those of torch's own go by way of their bytes.
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
# The bits of an infinity, for each width and layout of exponent and mantissa.
INFINITIES = {
    torch.float64: 0x7FF0 << 48,
    torch.float32: 0x7F80 << 16,
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
}
COMPLEX = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
# Newer types, for which torch has no storage class of their own: an untyped one holds them. Those
# of one byte can be views of one storage, which torch refuses for all others.
ONE_BYTE = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
    torch.bits8,
    torch.bits1x8,
    torch.bits2x4,
    torch.bits4x2,
)
UNTYPED = (*ONE_BYTE, torch.bits16, torch.uint16, torch.uint32, torch.uint64)
# torch.int1 to int7 and uint1 to uint7 are missing: torch makes such tensors and cannot save them.
DTYPES = (*INTEGERS, *INFINITIES, *COMPLEX, *UNTYPED)
DIFFERENTIABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)

WORDS = ("layers", "attention", "wq", "weight", "bias", "norm", "experts", "scale", "w1")
ODD_NAMES = (
    "", " ", ".", "..", "a.", ".a", "a.b", "a.b (2)", "0", "1", "-1", "1.5", "True", "None",
    "ünï", "重み", "🦙", "\ud800", "a\nb", "a\tb", "\x00", "\x1b[31m", "\u202e", "a/b", "x" * 3000,
)  # fmt: skip
FILES = ("consolidated.00.pth", "model v2.pt", "consolidated", "llamä.pth", "a.b.c.pth", "0.pth")


class Saved(NamedTuple):
    """What to give to torch.save, and how."""

    value: Any
    protocol: int
    file: str
    through_buffer: bool
    crc32: bool
    alignment: int
    foreign: bool  # it holds an object that weights_only=True refuses

    @property
    def harmless(self) -> bool:
        """Whether torch.load(weights_only=True) takes it: of pickle it knows protocol 2 alone."""
        return self.protocol == 2 and not self.foreign


def random_saved(seed: int) -> Saved:
    """The object of that number and the way to save it."""
    return _Maker(random.Random(seed)).saved()


KEYS = (
    *(0, 1, 7, -3, 300, 2**40, 2**70, -(2**63), True, False, None, (), (1, "a")),
    *(0.0, -0.0, 1.5, 2.0, 1e300, float("inf"), float("nan")),
)
PLAIN_VALUES = (
    *(0, 7, -1, 2**31, -(2**31), 2**70, -(2**70), 0.5, float("nan"), float("-inf"), 1j),
    *(None, True, False, "text", "", "ü" * 300, b"\xff\x00", bytearray(b"x"), {1, 2}),
    *(torch.Size([1, 2]), torch.float8_e5m2, torch.device("cpu"), torch.strided),
)
FOREIGN_VALUES = (argparse.Namespace(lr=0.1), deque([1]), (1).__add__, range(3))


def random_tensor(rng: random.Random, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of its own storage, with any bits in it."""
    lengths = (0, 1, *(2, 3, 4, 5) * 5)
    shape = rng.choices(lengths, k=rng.choice((0, 1, 2, 2, 2, 3, 4)))
    elements = torch.Size(shape).numel()
    if not elements:
        return torch.empty(shape, dtype=dtype)
    raw = b"".join(_element(rng, dtype) for _ in range(elements))
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)


def _element(rng: random.Random, dtype: torch.dtype) -> bytes:
    if dtype is torch.bool:
        return bytes([rng.randint(0, 1)])
    if part := COMPLEX.get(dtype):
        return _element(rng, part) + _element(rng, part)
    width = dtype.itemsize
    if rng.random() < 0.5:
        return rng.randbytes(width)
    infinity = INFINITIES.get(dtype, 0)
    sign = rng.choice((0, 1 << (8 * width - 1)))
    # 0, the smallest subnormal, all bits, infinity, and a NaN that signals.
    bits = rng.choice((0, 1, (1 << (8 * width - 1)) - 1, infinity, infinity + 1))
    return (bits | sign).to_bytes(width, "little")


class _Maker:
    """Draws one object; `bases` are the tensors that later ones may be views of."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.bases: list[torch.Tensor] = []
        self.foreign = False

    def saved(self) -> Saved:
        rng = self.rng
        protocol = rng.choice((2, 2, 2, 2, 2, 3, 4, 5))
        with warnings.catch_warnings():
            # Of torch, about complex32, sparse and quantised tensors that people save all the same.
            warnings.simplefilter("ignore", UserWarning)
            value = self.root()
        return Saved(
            value,
            protocol,
            rng.choice(FILES),
            rng.random() < 0.3,
            rng.random() < 0.8,
            rng.choice((64, 64, 64, 256, 4096)),
            self.foreign,
        )

    def root(self) -> Any:
        kind = self.rng.random()
        if kind < 0.03:
            return self.tensor()
        if kind < 0.08:
            return self.module()
        return self.container(0)

    # Containers.

    def container(self, depth: int) -> Any:
        kind = self.rng.choice((dict, dict, OrderedDict, OrderedDict, list, tuple))
        length = self.rng.randint(0, 6 if depth == 0 else 3)
        if kind in (list, tuple):
            return kind(self.value(depth + 1) for _ in range(length))
        keys = dict.fromkeys(self.key() for _ in range(length))
        made = kind((key, self.value(depth + 1)) for key in keys)
        if kind is OrderedDict and self.rng.random() < 0.3:
            made._metadata = OrderedDict({"": {"version": 1}})
        return made

    def value(self, depth: int) -> Any:
        kind = self.rng.random()
        if kind < 0.15 and depth < 5:
            return self.container(depth)
        if kind < 0.3:
            return self.plain()
        return self.tensor()

    def key(self) -> Any:
        rng = self.rng
        kind = rng.random()
        if kind < 0.6:
            return ".".join(rng.choices(WORDS, k=rng.randint(1, 3)))
        if kind < 0.8:
            return rng.choice(ODD_NAMES)
        return rng.choice(KEYS)

    def plain(self) -> Any:
        if self.rng.random() < 0.05:
            self.foreign = True
            return self.rng.choice(FOREIGN_VALUES)
        return self.rng.choice(PLAIN_VALUES)

    def module(self) -> Any:
        """A state dict as torch.nn makes it, with its `_metadata`."""
        parts = [
            nn.Linear(2, 3, bias=self.rng.random() < 0.5), nn.BatchNorm1d(3), nn.Embedding(3, 2),
            nn.LayerNorm(2), nn.GRU(1, 2), nn.Identity(),
        ]  # fmt: skip
        chosen = self.rng.sample(parts, self.rng.randint(1, len(parts)))
        net = nn.Sequential(*chosen).to(self.rng.choice((torch.float32, torch.bfloat16)))
        return net.state_dict(keep_vars=self.rng.random() < 0.5)

    # Tensors.

    def tensor(self) -> torch.Tensor:
        rng = self.rng
        kind = rng.random()
        if kind < 0.08:
            return rng.choice(SPECIAL)(self)
        if self.bases and kind < 0.4:
            base = rng.choice(self.bases)
            if base.dtype in (torch.uint8, *ONE_BYTE):
                base = base.view(rng.choice((torch.uint8, *ONE_BYTE)))
        else:
            base = random_tensor(rng, rng.choice(DTYPES))
            self.bases.append(base)
        view = self.lazy(self.view(base)) if rng.random() < 0.7 else base
        # Nothing is of any type.
        if not view.untyped_storage().nbytes() and not (view.is_conj() or view.is_neg()):
            view = view.view(rng.choice([d for d in DTYPES if d.itemsize == view.dtype.itemsize]))
        return self.wrapped(view)

    def view(self, base: torch.Tensor) -> torch.Tensor:
        rng = self.rng
        for _ in range(rng.randint(1, 2)):
            base = rng.choice(VIEWS)(self, base)
        return base

    def strided(self, base: torch.Tensor) -> torch.Tensor:
        """Any strides that stay inside, 0 among them: rows that repeat, overlap or leave gaps."""
        rng = self.rng
        elements = base.untyped_storage().nbytes() // base.dtype.itemsize
        if not elements:
            return base
        offset = rng.randrange(elements)
        left = elements - 1 - offset
        shape, strides = [], []
        for _ in range(rng.randint(0, 4)):
            stride, length = rng.randint(0, 5), rng.choice((0, 1, *(2, 3, 4) * 5))
            if stride and length:
                length = min(length, left // stride + 1)
                left -= (length - 1) * stride
            shape.append(length)
            strides.append(stride)
        return base.as_strided(shape, strides, offset)

    def lazy(self, view: torch.Tensor) -> torch.Tensor:
        """Conjugated or negated when it is read, and not before."""
        if view.dtype in (torch.complex64, torch.complex128) and self.rng.random() < 0.5:
            view = view.conj()
            # Of a storage that others see as complex numbers torch saves no real view.
            if self.rng.random() < 0.3:
                view = view.clone().conj().imag
        return view

    def wrapped(self, tensor: torch.Tensor) -> torch.Tensor:
        rng = self.rng
        kind = rng.random()
        able = tensor.dtype in DIFFERENTIABLE
        if kind < 0.1:
            tensor = nn.Parameter(tensor, requires_grad=able and rng.random() < 0.7)
        elif kind < 0.15:
            tensor = nn.Buffer(tensor)
        elif kind < 0.2 and able:
            tensor = tensor.detach().requires_grad_()
        if rng.random() < 0.05:
            tensor = tensor if isinstance(tensor, nn.Parameter) else tensor.detach()
            tensor.note = rng.choice((1, "text", None, [1, 2]))  # type: ignore[attr-defined]
        return tensor

    # Tensors that are made of several, or of none.

    def sparse(self) -> torch.Tensor:
        dtype = self.rng.choice((torch.float32, torch.float64, torch.int64, torch.bfloat16))
        dense = torch.tensor([[self.rng.choice((0, 0, 1, 2)) for _ in range(4)] for _ in range(4)])
        dense = dense.to(dtype)
        layout = self.rng.choice(("coo", "csr", "csc", "bsr", "bsc"))
        if layout == "coo":
            return dense.to_sparse()
        blocks = ((2, 2),) if layout.startswith("bs") else ()
        made: torch.Tensor = getattr(dense, f"to_sparse_{layout}")(*blocks)
        return made

    def quantised(self) -> torch.Tensor:
        rng = self.rng
        dtype = rng.choice((torch.qint8, torch.quint8, torch.qint32))
        numbers = torch.tensor([[rng.gauss(0, 1) for _ in range(4)] for _ in range(3)])
        if rng.random() < 0.5:
            made = torch.quantize_per_tensor(numbers, 0.1, rng.randint(0, 9), dtype)
            return made[1:] if rng.random() < 0.3 else made
        points = torch.tensor([1, 2, 3])
        return torch.quantize_per_channel(numbers, torch.rand(3) + 0.1, points, 0, dtype)

    def meta(self) -> torch.Tensor:
        return torch.empty([self.rng.randint(0, 3)], device="meta")

    def nested(self) -> torch.Tensor:
        rows = [torch.ones(self.rng.randint(1, 3)) for _ in range(self.rng.randint(1, 3))]
        return torch.nested.nested_tensor(rows)


SPECIAL: tuple[Callable[[_Maker], torch.Tensor], ...] = (
    _Maker.sparse, _Maker.sparse, _Maker.quantised, _Maker.quantised, _Maker.meta, _Maker.nested,
)  # fmt: skip


def _sliced(maker: _Maker, base: torch.Tensor) -> torch.Tensor:
    if not base.ndim:
        return base
    axis = maker.rng.randrange(base.ndim)
    start, step = maker.rng.choice((0, 0, 1, 2)), maker.rng.randint(1, 3)
    return base[(slice(None),) * axis + (slice(start, None, step),)]


def _selected(maker: _Maker, base: torch.Tensor) -> torch.Tensor:
    axes = [axis for axis, length in enumerate(base.shape) if length]
    if not axes:
        return base
    axis = maker.rng.choice(axes)
    return base.select(axis, maker.rng.randrange(base.shape[axis]))


def _permuted(maker: _Maker, base: torch.Tensor) -> torch.Tensor:
    return base.permute(maker.rng.sample(range(base.ndim), base.ndim))


def _expanded(maker: _Maker, base: torch.Tensor) -> torch.Tensor:
    return base.unsqueeze(0).expand(maker.rng.choice((0, 2, 3, 3)), *base.shape)


VIEWS: tuple[Callable[[_Maker, torch.Tensor], torch.Tensor], ...] = (
    _Maker.strided, _Maker.strided, _sliced, _sliced, _selected, _permuted, _permuted, _expanded,
    lambda maker, base: base.unsqueeze(-1),
    lambda maker, base: base.diagonal() if base.ndim > 1 else base,
    lambda maker, base: base.flatten() if base.is_contiguous() else base,
)  # fmt: skip
