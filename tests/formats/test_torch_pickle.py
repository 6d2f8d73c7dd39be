"""data.pkl against torch itself, and against streams that were made to harm.

Hostile streams are put together from single opcodes (CPython's `pickletools` lists them), and what
they would have done is first shown to happen with `pickle.loads`.
"""

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from changes import any_change, examples
from hypothesis import given
from hypothesis import strategies as st
from random_states import DTYPES  # spelled out there, so that one that is forgotten is missed
from torch import nn

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats import meta
from llamainspect.formats.torch_pickle import read_pickle
from llamainspect.reports import Finding
from llamainspect.tensors import TensorInfo, contiguous_strides

FILE = "model.pth"

complex_half_is_experimental = pytest.mark.filterwarnings("ignore:ComplexHalf support is exp")
quantised_tensors_are_deprecated = pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel",
    "ignore:TypedStorage is deprecated",  # by torch.load itself
)
sparse_layouts_are_beta = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
nested_tensors_are_a_prototype = pytest.mark.filterwarnings("ignore:The PyTorch API of nested")


class InMemory:
    """A source of one file."""

    place = "memory"
    only = FILE

    def __init__(self, data: bytes) -> None:
        self.data = data

    def files(self) -> tuple[str, ...]:
        return (FILE,)

    def nbytes(self, file: str) -> int:
        return len(self.data)

    def read(self, file: str, offset: int, length: int) -> bytes:
        data = self.data[offset : offset + length]
        assert len(data) == length
        return data


def saved(value: Any, protocol: int = 2) -> InMemory:
    """What torch.save writes for `value`."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    return InMemory(buffer.getvalue())


def loaded(source: InMemory) -> Any:
    """What torch makes of it, with all of its checks."""
    return torch.load(io.BytesIO(source.data), map_location="cpu", weights_only=True, mmap=False)


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Tensors of nested containers under dotted names, a bool as the number that it equals."""
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    if isinstance(value, dict):
        children = [(key_text(key), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(str(index), child) for index, child in enumerate(value)]
    else:
        return []
    return [
        leaf for key, child in children for leaf in leaves(child, f"{path}.{key}" if path else key)
    ]


def key_text(key: Any) -> str:
    """How a key that is no text stands in a dotted name."""
    if isinstance(key, str):
        return key
    if isinstance(key, float) and key != int(key):
        return repr(key)
    if isinstance(key, (int, float)):
        return str(int(key)) if abs(key) < 2**63 else "<number>"
    return f"<{type(key).__name__}>"


def numbered_names(names: list[str]) -> list[str]:
    """{"a.b": x, "a": {"b": y}} has two tensors that would be called a.b: the second gets a 2."""
    before: Counter[str] = Counter()
    found = []
    for name in names:
        before[name] += 1
        found.append(f"{name} ({before[name]})" if before[name] > 1 else name)
    return found


def as_torch_has_it(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All that makes two views equal."""
    return (
        tensor.dtype,
        tuple(tensor.shape),
        _steps(tuple(tensor.shape), tensor.stride()),
        tensor.is_contiguous(),
        tensor.storage_offset(),
        tensor.is_conj(),
        tensor.is_neg(),
        bytes(tensor.untyped_storage().tolist()),
    )


def as_read(source: InMemory, info: TensorInfo) -> tuple[Any, ...]:
    """The same of a TensorInfo."""
    start = meta.locate(source, info.storage)
    return (
        getattr(torch, str(info.dtype.torch)),
        info.shape,
        _steps(info.shape, info.strides or contiguous_strides(info.shape)),
        info.strides is None,
        info.offset // info.dtype.block_bytes,
        info.conjugate,
        info.negative,
        source.read(info.file, start, info.storage.nbytes),
    )


def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """The strides that lead from one element to another."""
    if 0 in shape:
        return []
    return [step for length, step in zip(shape, strides, strict=True) if length > 1]


def assert_equal_to_torch(source: InMemory, reference: Any) -> list[Finding]:
    """Names, order, dtypes, shapes, strides, offsets, bytes and sharing as torch has them."""
    tensors, findings = meta.read_tensors(source, FILE)
    expected = leaves(reference)
    names = numbered_names([name for name, _ in expected])
    assert [info.name for info in tensors] == names
    expected = [(name, tensor) for name, (_, tensor) in zip(names, expected, strict=True)]
    for info, (name, tensor) in zip(tensors, expected, strict=True):
        assert as_read(source, info) == as_torch_has_it(tensor), name
    ours, theirs = (
        _sharing([(i.name, i.storage.key) for i in tensors]),
        _sharing([(name, tensor.untyped_storage()._cdata) for name, tensor in expected]),
    )
    assert ours == theirs
    return findings


def _sharing(storages: list[tuple[str, Any]]) -> set[frozenset[str]]:
    groups: dict[Any, set[str]] = {}
    for name, storage in storages:
        groups.setdefault(storage, set()).add(name)
    return {frozenset(names) for names in groups.values()}


def numbered(dtype: torch.dtype, elements: int) -> torch.Tensor:
    """A flat tensor whose bytes are 0, 1, 2, ..., whatever they mean."""
    raw = torch.arange(elements * dtype.itemsize) % 251
    return raw.to(torch.uint8).view(dtype) if elements else torch.empty(0, dtype=dtype)


# --- the same as torch ------------------------------------------------------------------------


@complex_half_is_experimental
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_that_torch_saves_is_read_as_torch_reads_it(dtype: torch.dtype) -> None:
    base = numbered(dtype, 24)
    source = saved({"a": base.reshape(4, 6), "b": base[3:9:2], "c": base[5], "d": base[:0]})
    assert assert_equal_to_torch(source, loaded(source)) == []


def _module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def _views() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "row": base[3],
        "scalar": base[2, 3],
        "overlapping": base.as_strided((5, 5), (2, 1), 1),
        "repeated row": base[0].expand(3, 6),
        "empty": base[:0],
        "empty at the end": base[4:],
        "permuted": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        "one row of every second": base[:3:2][:1, 2:],
        "one column": base[:, 2:3],
        "channels last": torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def _shared() -> dict[str, Any]:
    weight = torch.randn(3, 3)
    return {"a": weight, "tied": weight, "row": weight[1], "t": weight.t(), "own": weight.clone()}


def _lazy() -> dict[str, Any]:
    numbers = torch.randn(3, dtype=torch.complex64)
    return {"plain": numbers, "conj": numbers.conj(), "neg": numbers.clone().conj().imag}


def _bytes_seen_twice(dtype: torch.dtype) -> dict[str, Any]:
    """torch writes a ByteStorage for the bytes, and an untyped one for the newer types."""
    codes = torch.arange(8, dtype=torch.uint8)
    return {"codes": codes, "values": codes.view(dtype), "last": codes[5:]}


VALUES: dict[str, Any] = {
    "a state dict with _metadata": lambda: _module().state_dict(),
    "parameters and buffers": lambda: {
        "p": nn.Parameter(torch.ones(2, 3)),
        "b": nn.Buffer(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False),
    },
    "nested dictionaries and lists": lambda: {
        "model": {"w": [torch.ones(1), (torch.ones(2), {"k": torch.ones(3)})]},
        "step": 7,
        "big": 2**70,
        "negative": -(2**70),
        "small": -5,
        "rate": 0.5,
        "note": "text",
        "nothing": None,
        "flag": True,
        "odd": [1j, {1, 2}, bytearray(b"x"), torch.Size([1, 2]), b"\xff"],
        "last": torch.ones(4),
    },
    "integer and bool keys": lambda: {
        0: torch.ones(1),
        True: torch.ones(2),
        -3: torch.ones(3),
        2**40: {2.0: torch.ones(4)},
    },
    "an ordered dictionary": lambda: OrderedDict(b=torch.ones(1), a=torch.ones(2)),
    "views of one storage": _views,
    "shared storages": _shared,
    "conjugate and negative views": _lazy,
    "bytes, and the same bytes as another type": lambda: _bytes_seen_twice(torch.float8_e5m2),
    "the same the other way round": lambda: dict(reversed(_bytes_seen_twice(torch.uint16).items())),
    "scalars": lambda: {"a": torch.tensor(1.5), "b": torch.tensor(True), "c": torch.tensor(3)},
    "empty tensors": lambda: {"a": torch.empty(0), "b": torch.empty(3, 0, 2, dtype=torch.int64)},
    "one element seen many times": lambda: {"a": torch.ones(1).expand(5, 4), "z": torch.ones(2)},
    "a bare tensor": lambda: torch.ones(3),
    "a list": lambda: [torch.ones(1), torch.ones(2)],
    "an empty dictionary": dict,
    "an optimizer": lambda: {"optimizer": _optimizer_state(), "epoch": 3},
    "dots in keys": lambda: {"layers.0.w": torch.ones(1), "layers": {"1.w": torch.ones(2)}},
    "text beyond ASCII": lambda: {"wörter/\n\x1b[31m": torch.ones(1), "\ud800": torch.ones(2)},
    "300 entries": lambda: {f"layers.{i}.w": torch.full((i % 3,), i) for i in range(300)},
    "a dtype, a device, a layout": lambda: {
        "x": [torch.float8_e4m3fn, torch.device("cpu"), torch.strided, torch.bfloat16],
        "w": torch.ones(2),
    },
}


def _optimizer_state() -> dict[str, Any]:
    """As torch.optim.AdamW lays it out."""
    moments = {
        n: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, n), "exp_avg_sq": torch.ones(2, n)}
        for n in (1, 2)
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "foreach": None, "params": [1, 2]}
    return {"state": moments, "param_groups": [group]}


@pytest.mark.parametrize("name", VALUES)
def test_what_torch_saves_is_read_as_torch_reads_it(name: str) -> None:
    source = saved(VALUES[name]())
    findings = assert_equal_to_torch(source, loaded(source))
    assert [finding for finding in findings if finding.severity == "error"] == []


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_later_pickle_protocols_say_the_same_as_protocol_2(name: str, protocol: int) -> None:
    value = VALUES[name]()
    reference = loaded(saved(value))  # weights_only refuses to load the later protocols
    findings = assert_equal_to_torch(saved(value, protocol), reference)
    assert [finding for finding in findings if finding.severity == "error"] == []


def test_two_tensors_of_equal_bytes_do_not_share_a_storage() -> None:
    tensors, _ = meta.read_tensors(saved({"a": torch.ones(3), "b": torch.ones(3)}), FILE)
    assert tensors[0].storage != tensors[1].storage


@pytest.mark.parametrize("make", [lambda t: t, nn.Parameter], ids=["tensor", "parameter"])
def test_a_tensor_with_attributes_is_one_tensor(make: Any) -> None:
    tensor = make(torch.arange(6.0).reshape(2, 3))
    tensor.note, tensor.companion = "x", torch.zeros(7)
    source = saved({"w": tensor, "z": torch.ones(1)})
    assert torch.equal(loaded(source)["w"].companion, torch.zeros(7))
    findings = assert_equal_to_torch(source, loaded(source))
    assert [finding for finding in findings if finding.severity == "error"] == []


class Subclass(torch.Tensor):
    """A tensor class that only its own code knows."""


def test_a_tensor_subclass_lists_and_its_class_is_named() -> None:
    value = {"w": torch.arange(3.0).as_subclass(Subclass)}
    source = saved(value)
    findings = assert_equal_to_torch(source, {"w": torch.arange(3.0)})
    assert [f.severity for f in findings if f"{__name__}.Subclass" in f.message] == ["error"]


@sparse_layouts_are_beta
def test_parts_of_sparse_tensors_are_listed_beneath_their_name() -> None:
    matrix = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    source = saved({"coo": matrix.to_sparse(), "csr": matrix.to_sparse_csr(), "w": matrix})
    reference = loaded(source)
    coo, csr = reference["coo"], reference["csr"]
    findings = assert_equal_to_torch(
        source,
        {
            "coo": [coo._indices(), coo._values()],
            "csr": [csr.crow_indices(), csr.col_indices(), csr.values()],
            "w": reference["w"],
        },
    )
    meanings = {info.name: info.meaning for info in meta.read_tensors(source, FILE)[0]}
    assert meanings.pop("w") is None
    assert {(name[:3], meaning) for name, meaning in meanings.items()} == {
        ("coo", "part of a sparse_coo tensor of shape [2, 2]"),
        ("csr", "part of a sparse_csr tensor of shape [2, 2]"),
    }
    assert [finding for finding in findings if finding.severity == "error"] == []


@quantised_tensors_are_deprecated
def test_quantised_tensors_are_listed_with_their_scales() -> None:
    ones = torch.ones(3, 2)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.int64)
    source = saved(
        {
            "tensor": torch.quantize_per_tensor(ones, 0.1, 3, torch.qint8),
            "channel": torch.quantize_per_channel(ones, scales, zeros, 0, torch.quint8),
            "wide": torch.quantize_per_tensor(ones, 0.5, 0, torch.qint32),
        }
    )
    reference = loaded(source)
    found = {info.name: info for info in meta.read_tensors(source, FILE)[0]}
    for name, tensor in reference.items():
        assert as_read(source, found[name]) == as_torch_has_it(tensor), name
    assert {name: info.meaning for name, info in found.items() if info.meaning} == {
        "tensor": "quantised, per_tensor_affine, scale 0.1, zero point 3",
        "channel": "quantised, per_channel_affine, scales and zero points beside it, axis 0",
        "wide": "quantised, per_tensor_affine, scale 0.5, zero point 0",
    }
    beneath = [name for name in found if name.startswith("channel.")]
    assert len(beneath) == 2
    assert as_read(source, found[beneath[0]]) == as_torch_has_it(
        reference["channel"].q_per_channel_scales()
    )


@quantised_tensors_are_deprecated
@pytest.mark.parametrize("dtype", [torch.quint4x2, torch.quint2x4], ids=str)
def test_packed_quantised_tensors_do_not_hide_the_tensors_beside_them(dtype: torch.dtype) -> None:
    scales, zeros = torch.ones(3), torch.zeros(3)
    packed = torch.quantize_per_channel(torch.ones(3, 5), scales, zeros, 0, dtype)
    source = saved({"packed": packed, "w": torch.ones(2)})
    assert torch.equal(loaded(source)["packed"].int_repr(), packed.int_repr())
    found = {info.name: info for info in meta.read_tensors(source, FILE)[0]}
    assert (found["packed"].shape, found["w"].shape) == ((3, 5), (2,))
    assert found["packed"].storage.nbytes == loaded(source)["packed"].untyped_storage().nbytes()


@nested_tensors_are_a_prototype
def test_a_nested_tensor_does_not_hide_the_tensors_beside_it() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    source = saved({"nested": nested, "w": torch.ones(2)})
    names = [info.name for info in meta.read_tensors(source, FILE)[0]]
    assert "w" in names
    assert sum(name.startswith("nested.") for name in names) == 4  # values, sizes, strides, offsets


def test_meta_tensors_are_a_finding_and_no_bytes() -> None:
    value = {
        "a": torch.ones(3, device="meta"),
        "b": nn.Parameter(torch.ones(2, device="meta")),
        "w": torch.ones(2),
    }
    source = saved(value)
    assert loaded(source)["a"].is_meta
    tensors, findings = meta.read_tensors(source, FILE)
    assert [info.name for info in tensors] == ["w"]
    assert [finding.message.split()[0] for finding in findings] == ["a", "b"]
    assert all(finding.severity == "error" for finding in findings)
    assert "[3] of F32" in findings[0].message


def test_an_extra_state_of_llama_4_is_no_finding() -> None:
    source = saved({"layers.0._extra_state": io.BytesIO(b"abc"), "w": torch.ones(2)})
    tensors, findings = meta.read_tensors(source, FILE)
    assert ([info.name for info in tensors], findings) == (["w"], [])


def test_foreign_objects_are_named_and_the_tensors_inside_and_beside_them_list() -> None:
    module = nn.Linear(2, 3)
    source = saved({"net": module, "counts": Counter("aab"), "w": torch.ones(2)})
    tensors, findings = meta.read_tensors(source, FILE)
    by_shape = {info.shape: info.name for info in tensors}
    assert by_shape[2,] == "w"
    assert by_shape[3, 2].startswith("net.")
    assert by_shape[3, 2].endswith(".weight")
    assert [f.severity for f in findings if "torch.nn.modules.linear.Linear" in f.message] == [
        "error"
    ]
    assert not any("Counter" in finding.message for finding in findings)


def test_a_foreign_object_that_holds_itself_does_not_hide_the_tensors_beside_it() -> None:
    class_and_state = call("argparse", "Namespace", b")") + b"q\x05"
    knot = class_and_state + b"}" + literal("me") + b"h\x05sb"
    source = archive(state_dict(("knot", knot), ("w", tensor())))
    tensors, findings = meta.read_tensors(source, FILE)
    assert [info.name for info in tensors] == ["w"]
    assert any("argparse.Namespace" in finding.message for finding in findings)


KEYS = (
    st.text("abxyz_.01", min_size=1, max_size=3)
    | st.integers(-3, 300)
    | st.booleans()
    | st.sampled_from([None, (), (1, 2), 0.5, -0.25, 2.0, 1e300])
)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """Any view of a fresh storage: steps of 0, overlaps, gaps at both ends."""
    dtype = draw(st.sampled_from([d for d in DTYPES if d is not torch.complex32]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    strides = [draw(st.integers(0, 5)) for _ in shape]
    offset = draw(st.integers(0, 3))
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True) if n)
    base = numbered(dtype, offset + last + 1 + draw(st.integers(0, 2)))
    view = base.as_strided(shape, strides, offset)
    if dtype.is_complex and draw(st.booleans()):
        view = view.conj()
    return nn.Parameter(view, requires_grad=False) if draw(st.booleans()) else view


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tables = st.dictionaries(KEYS, children, max_size=4)
    rows = st.lists(children, max_size=3)
    return tables | tables.map(OrderedDict) | rows | rows.map(tuple)


@examples(200)
@given(
    value=st.dictionaries(
        KEYS, st.recursive(views() | st.none() | st.floats(), _containers, max_leaves=6), max_size=4
    ),
    protocol=st.sampled_from([2, 5]),
)
def test_any_state_dict_is_read_as_torch_reads_it(value: Any, protocol: int) -> None:
    assert_equal_to_torch(saved(value, protocol), loaded(saved(value)))


@examples(50)
@given(base=views(), rows=st.lists(st.integers(0, 3), min_size=2, max_size=5))
def test_views_of_one_tensor_share_its_storage(base: torch.Tensor, rows: list[int]) -> None:
    value = {f"w{i}": base[n:] if base.ndim else base for i, n in enumerate(rows)}
    source = saved(value)
    assert_equal_to_torch(source, loaded(source))


# --- streams put together by hand ----------------------------------------------------------------

PROTO, STOP = b"\x80\x02", b"."


def literal(value: Any) -> bytes:
    """Opcodes that push a plain value, as pickle writes them."""
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE."""
    return named(module, name) + arguments + b"R"


def storage(key: Any = "0", numel: Any = 4, kind: str = "FloatStorage") -> bytes:
    """A persistent id."""
    return (
        b"(" + literal("storage") + named("torch", kind) + literal(key) + literal("cpu")
        + literal(numel) + b"tQ"
    )  # fmt: skip


def tensor(
    stored: bytes = b"", *, offset: Any = 0, shape: Any = (4,), strides: Any = (1,)
) -> bytes:
    """_rebuild_tensor_v2."""
    hooks = call("collections", "OrderedDict", b")")
    arguments = b"(" + (stored or storage()) + literal(offset) + literal(shape) + literal(strides)
    return call("torch._utils", "_rebuild_tensor_v2", arguments + literal(False) + hooks + b"t")


def state_dict(*pairs: tuple[Any, bytes]) -> bytes:
    """A whole stream: a dictionary of plain keys and opcodes for the values."""
    items = b"".join(literal(key) + value for key, value in pairs)
    return PROTO + b"}(" + items + b"u" + STOP


def archive(pickled: bytes) -> InMemory:
    """A file with this data.pkl and 16 bytes of data/0."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("m/data.pkl", pickled)
        zipped.writestr("m/byteorder", b"little")
        zipped.writestr("m/data/0", struct.pack("<4f", 1, 2, 3, 4))
        zipped.writestr("m/version", b"3\n")
    return InMemory(buffer.getvalue())


def test_torch_reads_the_streams_that_are_built_here() -> None:
    source = archive(state_dict(("w", tensor()), ("v", tensor(offset=1, shape=(2,), strides=(2,)))))
    assert torch.equal(loaded(source)["v"], torch.tensor([2.0, 4.0]))
    assert assert_equal_to_torch(source, loaded(source)) == []


def test_of_equal_keys_the_last_wins_as_in_python() -> None:
    first, second = tensor(), tensor(offset=1, shape=(1,))
    source = archive(state_dict((0, first), (False, second)))
    assert len(loaded(source)) == 1
    findings = assert_equal_to_torch(source, loaded(source))
    assert any("more than once" in finding.message for finding in findings)


def test_a_name_given_twice_is_a_finding_and_the_last_one_counts() -> None:
    source = archive(state_dict(("w", tensor()), ("w", tensor(offset=2, shape=(2,)))))
    findings = assert_equal_to_torch(source, loaded(source))
    assert [f.severity for f in findings if f.message.startswith("w ")] == ["warning"]


def test_a_storage_described_twice_in_two_ways_is_refused() -> None:
    half = tensor(storage(kind="HalfStorage"))
    with pytest.raises(CorruptFile, match=r"model\.pth.*'0'.*two different ways"):
        meta.read_tensors(archive(state_dict(("a", tensor()), ("b", half))), FILE)


def test_a_storage_beside_a_tensor_that_views_it_is_no_contradiction() -> None:
    codes = torch.arange(8, dtype=torch.uint8)
    source = saved({"storage": codes.untyped_storage(), "codes": codes})
    assert assert_equal_to_torch(source, loaded(source)) == []


def test_a_storage_without_bytes_may_be_of_several_types() -> None:
    """torch finds no clash there when it saves, and makes two storages of it when it loads."""
    nothing = torch.empty(0)
    source = saved({"floats": nothing, "integers": nothing.view(torch.int32)})
    tensors, findings = meta.read_tensors(source, FILE)
    assert {info.name: info.dtype.torch for info in tensors} == {
        name: str(tensor.dtype).removeprefix("torch.") for name, tensor in loaded(source).items()
    }
    assert findings == []


def test_a_storage_described_twice_in_the_same_way_is_shared() -> None:
    source = archive(state_dict(("a", tensor()), ("b", tensor())))
    a, b = meta.read_tensors(source, FILE)[0]
    assert a.storage == b.storage


HUGE = 2**63

LIES: dict[str, bytes] = {
    "a negative offset": tensor(offset=-1),
    "an offset that is a bool": tensor(offset=False),
    "an offset past the end": tensor(offset=1),
    "an offset beyond 64 bits": tensor(offset=HUGE),
    "no offset": tensor(offset=None),
    "an offset that is a float": tensor(offset=0.0),
    "a negative length": tensor(shape=(-4,)),
    "a length that is a bool": tensor(shape=(True,)),
    "a length beyond 64 bits": tensor(shape=(HUGE,)),
    "lengths whose product overflows": tensor(shape=(2**32, 2**32), strides=(2**32, 1)),
    "elements beyond 64 bits, in no bytes": tensor(shape=(2**32, 2**32), strides=(0, 0)),
    "lengths that wrap around to 4": tensor(shape=(2**62 + 1, 4), strides=(4, 1)),
    "a length that is text": tensor(shape=("4",)),
    "a shape that is a number": tensor(shape=4),
    "a shape that is a dictionary": tensor(shape={0: 4}),
    "65 dimensions": tensor(shape=(1,) * 65, strides=(1,) * 65),
    "a negative stride": tensor(offset=3, strides=(-1,)),
    "a stride that is a bool": tensor(strides=(True,)),
    "a stride out of the storage": tensor(strides=(2,)),
    "a stride beyond 64 bits": tensor(shape=(2,), strides=(HUGE,)),
    "fewer strides than dimensions": tensor(shape=(2, 2)),
    "more strides than dimensions": tensor(shape=(), strides=(1,)),
    "a length out of the storage": tensor(shape=(5,)),
    "a storage of negative length": tensor(storage(numel=-4), shape=(0,)),
    "a storage whose length is a bool": tensor(storage(numel=True), shape=(1,)),
    "a storage whose length is a float": tensor(storage(numel=4.0)),
    "a storage beyond 64 bits": tensor(storage(numel=HUGE)),
    "a storage without a length": tensor(storage(numel=None)),
    "a storage whose key is a number": tensor(storage(key=0)),
    "a storage class that torch does not have": tensor(storage(kind="FloatStorages")),
    "a storage class that is a function": tensor(storage(kind="load")),
    "a tensor where a storage belongs": tensor(tensor()),
    "a storage that is described at length": (
        b"(" + literal("storage") + named("torch", "FloatStorage") + literal("0") + literal("cpu")
        + literal(4) + b"NtQ"
    ),
    "state of a tensor, which torch gives to Tensor.set_": (
        tensor() + b"(" + storage() + literal(2) + literal((2,)) + literal((1,)) + b"tb"
    ),
    "state of nothing": b"N}b",
    "a call of nothing": b"N)R",
    "a call of a dictionary": b"})R",
    "a list for a key": b"}]Ns",
    "a dictionary for a key": b"}}Ns",
    "text where a storage belongs": tensor(literal("0")),
    "a persistent id that is text": literal("0") + b"Q",
    "a tensor without arguments": call("torch._utils", "_rebuild_tensor_v2", b")"),
    "a parameter without arguments": call("torch._utils", "_rebuild_parameter", b")"),
    "arguments that are no tuple": call("torch._utils", "_rebuild_tensor_v2", b"]"),
    "arguments that are a number": call("torch._utils", "_rebuild_tensor_v2", b"K\x05"),
    "a dtype that is no dtype": call(
        "torch._utils",
        "_rebuild_tensor_v3",
        b"(" + storage() + literal(0) + literal((4,)) + literal((1,)) + b"N" * 2
        + named("os", "system") + b"t",
    ),
    "a key without a value": b"}(" + literal("a") + b"u",
    "items of a number": b"K\x01(" + literal("a") + b"Nu",
    "a list of items for a tuple": b")Na",
    "a memo entry that was never set": b"h\x63",
    "a mark where a value belongs": b"((\x85",
    "a tuple of an empty stack": b"\x87" * 9,
    "a global of two numbers": b"K\x01K\x02\x93",
    "a global without an end": b"c" + b"a" * 3000,
    "text that is not UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "text longer than the stream": b"X\xff\xff\xff\xff" + b"a" * 100,
    "bytes longer than the stream": b"\x8e" + b"\xff" * 8,
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_stream_that_lies_is_refused_with_a_sentence_that_names_the_file(name: str) -> None:
    with pytest.raises((CorruptFile, UnsupportedFile), match=r"^model\.pth, data\.pkl: byte \d"):
        meta.read_tensors(archive(state_dict(("a", LIES[name]), ("w", tensor()))), FILE)


ENDS: dict[str, bytes] = {
    "nothing at all": b"",
    "no STOP": PROTO + b"}",
    "an empty stack": PROTO + STOP,
    "nothing but a mark": PROTO + b"(" + STOP,
    "two values": PROTO + b"}}" + STOP,
    "a tail": PROTO + b"}" + STOP + b"\0",
    "a second pickle": (PROTO + b"}" + STOP) * 2,
}


@pytest.mark.parametrize("name", ENDS)
def test_a_stream_that_does_not_end_in_one_value_is_refused(name: str) -> None:
    with pytest.raises(CorruptFile):
        read_pickle(ENDS[name])


# --- streams that would run something -----------------------------------------------------------


def _touch(marker: Path) -> tuple[str]:
    return (f'echo > "{marker}"',)


class RunsOnLoad:
    """What a malicious checkpoint holds."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, _touch(self.marker)


SYSTEM = f"{os.system.__module__}.system"  # posix.system or nt.system, as pickle names it

PAYLOADS: dict[str, Any] = {
    "what __reduce__ gives": (SYSTEM, lambda m: pickle.dumps(RunsOnLoad(m), 2)[2:-1]),
    "the same in protocol 5": (SYSTEM, lambda m: pickle.dumps(RunsOnLoad(m), 5)[2:-1]),
    "GLOBAL": ("os.system", lambda m: call("os", "system", literal(_touch(m)))),
    "STACK_GLOBAL": (
        "os.system",
        lambda m: literal("os") + literal("system") + b"\x93" + literal(_touch(m)) + b"R",
    ),
    "STACK_GLOBAL behind a torch module": (
        "torch._utils.os.system",
        lambda m: (
            PROTO.replace(b"\x02", b"\x04")  # dotted names need protocol 4
            + literal("torch._utils") + literal("os.system") + b"\x93" + literal(_touch(m)) + b"R"
        ),
    ),
    "GLOBAL through the memo": (
        "os.system",
        lambda m: named("os", "system") + b"q\x09" + b"0h\x09" + literal(_touch(m)) + b"R",
    ),
    "a call whose result is thrown away": (
        "os.system",
        lambda m: call("os", "system", literal(_touch(m))) + b"0N",
    ),
    "eval": (
        "builtins.eval",
        lambda m: call("builtins", "eval", literal((f"open({str(m)!r}, 'w').close()",))),
    ),
    "the key of a dictionary": (
        "os.system",
        lambda m: b"}" + call("os", "system", literal(_touch(m))) + b"Ns",
    ),
    "the state of an ordered dictionary": (
        "os.system",
        lambda m: (
            call("collections", "OrderedDict", b")")
            + b"}" + literal("_metadata") + call("os", "system", literal(_touch(m))) + b"sb"
        ),
    ),
    "an item of a set": (
        "os.system",
        lambda m: b"\x8f(" + call("os", "system", literal(_touch(m))) + b"\x90",
    ),
    "the function of a tensor subclass": (
        "os.system",
        lambda m: call(
            "torch._tensor",
            "_rebuild_from_type_v2",
            b"(" + named("os", "system") + named("torch", "Tensor") + literal(_touch(m)) + b"}t",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_nothing_in_the_stream_is_run_and_what_it_names_is_an_error_finding(
    name: str, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    named_global, payload = PAYLOADS[name][0], PAYLOADS[name][1](marker)
    with contextlib.suppress(Exception):
        pickle.loads(PROTO + payload + STOP)
    assert marker.exists(), "the payload does nothing, so this test would prove nothing"
    marker.unlink()

    source = archive(state_dict(("a", tensor()), ("evil", payload), ("z", tensor())))
    tensors, findings = meta.read_tensors(source, FILE)

    assert not marker.exists()
    assert [info.name for info in tensors if not info.name.startswith("evil")] == ["a", "z"]
    errors = [finding for finding in findings if finding.severity == "error"]
    assert [named_global in finding.message for finding in errors] == [True]
    assert errors[0].where == FILE


def test_a_payload_that_torch_save_wrote_beside_weights_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = saved({"a": torch.ones(2), "evil": RunsOnLoad(marker), "z": torch.ones(3)})
    tensors, findings = meta.read_tensors(source, FILE)
    assert not marker.exists()
    assert [info.name for info in tensors] == ["a", "z"]
    assert [SYSTEM in f.message for f in findings if f.severity == "error"] == [True]
    torch.load(io.BytesIO(source.data), weights_only=False)
    assert marker.exists()  # so it would have run


class Foreign:
    """A class whose state is set when it is unpickled."""

    ran = False

    def __init__(self) -> None:
        self.weight = torch.ones(5)

    def __setstate__(self, state: Any) -> None:
        Foreign.ran = True


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_foreign_class_is_named_and_its_state_is_not_set(protocol: int) -> None:
    source = saved({"evil": Foreign(), "w": torch.ones(2)}, protocol)
    tensors, findings = meta.read_tensors(source, FILE)
    assert not Foreign.ran
    assert [info.name for info in tensors] == ["evil.weight", "w"]
    assert [f"{__name__}.Foreign" in f.message for f in findings] == [True]


def _arguments(marker: Path) -> bytes:
    return literal(_touch(marker)[0])


NOT_FOLLOWED: dict[str, Any] = {
    "INST": lambda m: b"(" + _arguments(m) + b"ios\nsystem\n",
    "OBJ": lambda m: b"(" + named("os", "system") + _arguments(m) + b"o",
    "NEWOBJ_EX": lambda m: named("os", "system") + literal(_touch(m)) + b"}\x92",
    "EXT1": lambda m: b"\x82\x01",
    "EXT2": lambda m: b"\x83\x01\x00",
    "EXT4": lambda m: b"\x84\x01\x00\x00\x00",
    "PERSID": lambda m: b"P0\n",
    "LONG4": lambda m: b"\x8b\x01\x00\x00\x00\x05",
    "INT": lambda m: b"I5\n",
    "LONG": lambda m: b"L5L\n",
    "FLOAT": lambda m: b"F5\n",
    "STRING": lambda m: b"S'a'\n",
    "UNICODE": lambda m: b"Va\n",
    "GET": lambda m: b"g0\n",
    "DICT": lambda m: b"(d",
    "LIST": lambda m: b"(l",
    "NEXT_BUFFER": lambda m: b"\x97",
    "READONLY_BUFFER": lambda m: b"N\x98",
    "a byte that is no opcode": lambda m: b"\xff",
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_opcodes_that_torch_never_writes_are_refused_and_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = archive(state_dict(("evil", NOT_FOLLOWED[name](marker)), ("w", tensor())))
    with pytest.raises(UnsupportedFile, match=r"^model\.pth, data\.pkl: byte \d.*not followed"):
        meta.read_tensors(source, FILE)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["INST", "OBJ"])
def test_the_calls_in_refused_opcodes_are_real(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(PROTO + NOT_FOLLOWED[name](marker) + STOP)
    assert marker.exists()


def test_the_sentence_about_inst_names_what_it_calls() -> None:
    with pytest.raises(UnsupportedFile, match=r"os\.system"):
        read_pickle(state_dict(("evil", b"(ios\nsystem\n")))


# --- damage -----------------------------------------------------------------------------------


def _real_pickle(protocol: int) -> bytes:
    value = {
        "p": nn.Parameter(torch.ones(2, 3)),
        "f8": torch.ones(2).to(torch.float8_e4m3fn),
        "c": {"d": [torch.ones(3, dtype=torch.complex64).conj(), 1, -7, 2**70, 2.5, None, True]},
        "sparse": torch.eye(2).to_sparse(),
        "state": _module().state_dict(),
        "extra": io.BytesIO(b"abc"),
    }
    with zipfile.ZipFile(io.BytesIO(saved(value, protocol).data)) as zipped:
        return zipped.read("archive/data.pkl")


def _outcome(data: bytes) -> str:
    try:
        read_pickle(data)
    except (CorruptFile, UnsupportedFile) as error:
        return type(error).__name__
    return "listed"


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_stream_cut_anywhere_is_refused(protocol: int) -> None:
    data = _real_pickle(protocol)
    outcomes = {_outcome(data[:length]) for length in range(len(data))}
    assert outcomes <= {"CorruptFile", "UnsupportedFile"}
    assert _outcome(data) == "listed"


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_flipped_byte_anywhere_is_listed_or_refused_and_never_a_crash(protocol: int) -> None:
    data = _real_pickle(protocol)
    for position in range(len(data)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= change
            _outcome(bytes(damaged))  # raises what it must not


# --- streams that grow ---------------------------------------------------------------------------

GUARDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.torch_pickle import read_pickle
try:
    read_pickle(sys.stdin.buffer.read())
except (CorruptFile, UnsupportedFile) as error:
    print(type(error).__name__)
else:
    print("listed")
"""  # a bound that holds the machine up, far from any measured value


def _laughs() -> bytes:
    """Sixty levels of tuples, each the one below ten times: 10^60 values in 1.5 kB."""
    levels = [b")q\x00"]
    for level in range(1, 60):
        levels.append(b"(" + (b"h" + bytes([level - 1])) * 10 + b"tq" + bytes([level]))
    return b"".join(levels)


DEEP = b")" + b"\x85" * 200_000
LONG = literal("k" * 1_000_000)

BOMBS: dict[str, bytes] = {
    "a billion laughs of tuples": PROTO + b"(" + _laughs() + b"t" + STOP,
    "a billion laughs as a key": PROTO + b"}(" + _laughs() + b"tNs" + STOP,
    "a billion laughs as an argument": PROTO + call("os", "system", b"(" + _laughs() + b"t") + STOP,
    "a deep tuple": PROTO + DEEP + STOP,
    "a deep tuple as a key": PROTO + b"}" + DEEP + b"Ns" + STOP,
    "a deep tuple as two keys": PROTO + b"}" + DEEP + b"q\x00Nsh\x00Ns" + STOP,
    "a deep tuple as a global": PROTO + DEEP + DEEP + b"\x93" + STOP,
    "a deep tuple as a persistent id": PROTO + DEEP + b"Q" + STOP,
    "a dictionary as a key": PROTO + b"}}Ns" + STOP,
    "a list as a key": PROTO + b"}]Ns" + STOP,
    "a dictionary inside itself": PROTO + b"}q\x00" + literal("a") + b"h\x00s" + STOP,
    "a dictionary as its own key": PROTO + b"}q\x00h\x00Ns" + STOP,
    "a long list inside itself": PROTO + b"]q\x00(h\x00" + b"N" * 300_000 + b"e" + STOP,
    "a million marks": PROTO + b"(" * 1_000_000 + STOP,
    "calls within calls": (
        PROTO + named("torch._tensor", "_rebuild_from_type_v2") + b"q\x00" + b"h\x00N" * 3000
        + b")" + b"\x87" * 3000 + b"R" + STOP
    ),
    "one long argument list for many calls": (
        PROTO + b"(" + b"N" * 50_000 + b"tq\x00" + named("os", "system")
        + b"q\x01(" + b"h\x01h\x00R" * 20_000 + b"t\x87" + STOP
    ),
    "one long list for many dictionaries": (
        PROTO + b"NN\x86q\x02]q\x00(" + b"h\x02" * 50_000 + b"e\x85q\x03"
        + named("collections", "OrderedDict") + b"q\x01(" + b"h\x01h\x03R" * 20_000
        + b"t\x87\x86" + STOP
    ),
    "one long module for many globals": (
        PROTO + LONG + b"q\x63("
        + b"".join(b"h\x63" + literal(f"f{i}") + b"\x93" for i in range(2000)) + b"t\x86" + STOP
    ),
    "one long key over many values": PROTO + b"}" + LONG + b"(" + b"N" * 2000 + b"ts" + STOP,
    "one long key over many tensors": (
        PROTO + tensor() + b"q\x63}" + LONG + b"(" + b"h\x63" * 2000 + b"ts\x86" + STOP
    ),
    "one key many times in a dictionary seen many times": (
        PROTO + literal("a") + b"q\x01" + b"}q\x00(" + b"h\x01N" * 50_000 + b"u"
        + b"(" + b"h\x00" * 50_000 + b"t\x87" + STOP
    ),
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="limits on memory and time are POSIX's")
@pytest.mark.parametrize("name", BOMBS)
def test_a_stream_made_to_grow_ends_within_a_gigabyte_and_seconds(name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", GUARDED], input=BOMBS[name], capture_output=True, check=False
    )
    outcome = child.stdout.decode().strip()
    assert outcome in ("listed", "CorruptFile", "UnsupportedFile"), (
        f"exit code {child.returncode}: {child.stderr.decode()[-300:]}"
    )


def test_entries_that_share_a_dotted_name_are_all_listed() -> None:
    """Distinct keys in Python; only their paths are written alike."""
    value = {
        "a.b": torch.ones(1),
        "a": {"b": torch.ones(2)},
        "0": torch.ones(3),
        0: torch.ones(4),
        2.5: torch.ones(5),
    }
    tensors, findings = meta.read_tensors(saved(value), FILE)
    assert {info.name: info.shape for info in tensors} == {
        "a.b": (1,),
        "a.b (2)": (2,),
        "0": (3,),
        "0 (2)": (4,),
        "2.5": (5,),
    }
    assert findings == []


def test_a_name_that_looks_like_a_numbered_one_hides_no_tensor() -> None:
    value = {
        "a": {"b": torch.ones(1)},
        "a.b": torch.ones(2),
        "a.b (2)": torch.ones(3),
        "a.b (2) (2)": torch.ones(4),
    }
    tensors, _ = meta.read_tensors(saved(value), FILE)
    assert {info.name: info.shape for info in tensors} == {
        "a.b": (1,),
        "a.b (2)": (2,),
        "a.b (2) (2)": (3,),
        "a.b (2) (2) (2)": (4,),
    }


def test_half_a_million_values_are_too_many_however_they_come():
    """Of a plain list of numbers it is not said that it holds anything twice."""
    with pytest.raises(CorruptFile, match="holds more than 500,000 values"):
        read_pickle(b"\x80\x02](" + b"K\x01" * 500_001 + b"e.")


def test_more_tensors_than_any_model_has_are_refused():
    """One that is put into a list a hundred thousand times over: 300 kB on disk."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x01\x85K\x01\x85\x89NtR"
    assert len(read_pickle(b"\x80\x02](" + tensor + b"2" * 99_999 + b"e.").tensors) == 100_000
    with pytest.raises(UnsupportedFile, match="more than 100,000 tensors, and so many are not"):
        read_pickle(b"\x80\x02](" + tensor + b"2" * 100_000 + b"e.")


# --- anything at all ------------------------------------------------------------------------------

test_any_change_to_a_stream_is_read_or_refused = any_change("pickle", 150)
test_any_change_to_a_file_is_described_or_refused = any_change("pth", 40)
