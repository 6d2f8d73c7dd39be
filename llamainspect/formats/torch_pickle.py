"""What `data.pkl` means: the tensors in the object that torch.save wrote.

The few constructs that make up a tensor are understood by exact (module, name); whatever else the
stream names is reported, and the tensors beside it are still found. Nothing is imported or called.
Sources: torch's `_utils.py` (`_rebuild_*`), `serialization.py` (`persistent_id`) and
`_weights_only_unpickler.py` (what torch itself takes for harmless).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count as counting
from itertools import repeat
from typing import Any, NamedTuple

from llamainspect.dtypes import BY_TORCH_NAME, BY_TORCH_STORAGE, DTYPES, DType
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.symbolic_pickle import Dict, Global, Malformed, Opaque, PickleReader
from llamainspect.tensors import contiguous_strides, count, is_contiguous

MAX_PICKLE_NBYTES = 64 * 2**20  # a real 405B shard has 136 kB
MAX_DEPTH = 64
MAX_VISITS = 500_000  # values and pairs seen while naming: bounds a "billion laughs" stream
MAX_NAME_CHARACTERS = 128 * 2**20  # of all names together, for the same reason
MAX_TENSORS = 100_000  # 405B has 1,137 in a shard; each takes a kilobyte until it is summed up
MAX_FOREIGN = 100  # globals that are named one by one
MAX_RANK = 64
INT64 = 2**63
UNTYPED_STORAGE = ("torch.storage", "UntypedStorage")
# A tensor of bytes and a view of them as FP8 share one storage, to which torch refers once as a
# ByteStorage and once as an untyped one.
STORAGES = {("torch", name): dtype for name, dtype in BY_TORCH_STORAGE.items()}
STORAGES[UNTYPED_STORAGE] = DTYPES["U8"]


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Persistent id of a storage; `numel` counts blocks of its dtype, which is U8 if untyped."""

    key: str
    dtype: DType
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes the record must have."""
        return self.numel * self.dtype.block_bytes


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the stream describes it; `offset` in bytes, `strides` in elements."""

    storage: StorageRef
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # None: C-contiguous
    span: int  # bytes from its first to its last element
    conjugate: bool = False
    negative: bool = False
    meaning: str | None = None  # what its numbers are, in words: None of plain ones


@dataclass(frozen=True, slots=True)
class MetaTensor:
    """A tensor of the meta device, of which nothing is stored."""

    dtype: DType
    shape: tuple[int, ...]


class Contents(NamedTuple):
    """What one pickle says."""

    tensors: tuple[tuple[str, TensorRef], ...]  # in the order of the stream, names unique
    storages: tuple[tuple[StorageRef, int], ...]  # every storage named, and its bytes
    viewed: frozenset[str]  # keys of the storages that some tensor views
    unused: dict[str, int]  # of those, the bytes that no tensor covers, where there are any
    foreign: tuple[tuple[str, int], ...]  # "module.name" and the position where first named
    more_foreign: int  # how many beyond those
    repeated: tuple[str, ...]  # keys given more than once; the last one counts, as in Python
    without_data: tuple[tuple[str, MetaTensor], ...]  # described, not stored


@lru_cache(maxsize=4)
def read_pickle(data: bytes) -> Contents:
    """The tensors that the pickle `data` describes.

    The shards of one model usually carry the same pickle byte for byte, so each distinct one is
    followed once. Raises CorruptFile or UnsupportedFile, without the file's name, for a stream
    that cannot be followed.
    """
    if len(data) > MAX_PICKLE_NBYTES:
        raise UnsupportedFile(
            f"the pickle has {len(data):,} bytes, more than the {MAX_PICKLE_NBYTES:,} that "
            "are read; no state dict needs that, so look at the file with care"
        )
    storages = _Storages()
    reader = PickleReader(data, _call, storages.refer)
    root = reader.run()
    names: dict[str, TensorRef] = {}
    repeated: dict[str, None] = {}
    without_data: list[tuple[str, MetaTensor]] = []
    taken: Counter[str] = Counter()
    for name, value in _walk(root, repeated):
        if isinstance(value, TensorRef):
            if len(names) >= MAX_TENSORS:
                raise UnsupportedFile(
                    f"it describes more than {MAX_TENSORS:,} tensors, and so many are not read"
                )
            # {"a.b": x, "a": {"b": y}} has two tensors, and both are called a.b.
            spelled = name
            while spelled in names:  # "a.b (2)" may be somebody's own name, too
                taken[name] += 1
                spelled = f"{name} ({taken[name] + 1})"
            names[spelled] = value
        elif isinstance(value, MetaTensor):
            without_data.append((name, value))
    foreign = [
        (pair, position)
        for pair, position in reader.globals.items()
        if not is_tensor_construct(*pair)
    ]
    return Contents(
        tensors=tuple(names.items()),
        storages=tuple((ref, ref.nbytes) for ref in storages.by_key.values()),
        viewed=frozenset(tensor.storage.key for tensor in names.values()),
        unused=_unused(names.values()),
        foreign=tuple(
            (f"{module}.{name}", position) for (module, name), position in foreign[:MAX_FOREIGN]
        ),
        more_foreign=max(0, len(foreign) - MAX_FOREIGN),
        repeated=tuple(repeated),
        without_data=tuple(without_data),
    )


@lru_cache(maxsize=4)
def check_constructs(data: bytes) -> dict[str, int]:
    """The bytes that each storage is taken for, by its key.

    Of a pickle that names tensor constructs alone, this is whether it puts them together as torch
    does: tensors lie within their storages, and nothing alters, fills or calls what torch has made.
    Raises as `read_pickle` where it does not: so a file can have memory freed that is in use.
    """
    storages = _LegacyStorages()
    PickleReader(data, _closed_call, storages.refer).run()
    return {key: ref.nbytes for key, ref in storages.by_key.items()}


class _Closed:
    """An object of torch's that has neither items nor a state to be set."""


def _closed_call(function: Global, args: tuple[Any, ...]) -> Any:
    """What torch makes is a tensor, or closed; an object with the attributes of one is none."""
    named = function.module, function.name
    rebuild, given = _CALLS.get(named), _at(args, 0)
    tensors = (TensorRef, MetaTensor, _Closed)
    if rebuild is _from_type:
        if len(args) < 3 or not isinstance(given, Global) or not isinstance(args[2], tuple):
            raise Malformed("_rebuild_from_type_v2 is called without a function")
        _check_state(_at(args, 3))
        return _closed_call(given, args[2])
    if rebuild is _parameter:
        if not isinstance(given, tensors):
            raise Malformed("a parameter is made of something that is no tensor")
        _check_state(_at(args, 3))  # where there is one, it stands there
    if rebuild is _moved and not isinstance(given, TensorRef):
        raise Malformed("something that is no tensor is moved to another device")
    if named == ("torch", "Size"):
        return _integers(given, "shape")
    made = _call(function, args)
    if function.module.partition(".")[0] == "torch" and named not in _PLAIN:
        return made if isinstance(made, tensors) else _Closed()
    if any(isinstance(each, (*tensors, StorageRef)) for each in args):
        raise Malformed(f"{function.module}.{function.name} is made of a tensor's elements")
    return made


def _check_state(state: Any) -> None:
    """Attributes of a tensor: what is set as `real` or `data`, torch copies or converts."""
    for table in state if isinstance(state, tuple) else (state,):
        if isinstance(table, Dict) and any(isinstance(value, _Closed) for _, value in table.pairs):
            raise Malformed("an attribute of a tensor is a sparse or quantised one")


def is_tensor_construct(module: str, name: str) -> bool:
    """Whether a global is one that ordinary checkpoints name, by its exact spelling."""
    return (module, name) in _CALLS or (module, name) in _INERT


class _Storages:
    """The storages that a stream refers to."""

    def __init__(self) -> None:
        self.by_key: dict[str, StorageRef] = {}

    def refer(self, value: Any) -> StorageRef:
        """('storage', class, key, location, numel), the only persistent id that torch writes."""
        if type(value) is not tuple or len(value) != 5:
            raise Malformed("a persistent id does not describe a storage")
        kind, storage_class, key, _, numel = value
        if kind != "storage" or not isinstance(storage_class, Global) or not isinstance(key, str):
            raise Malformed("a persistent id does not describe a storage")
        if type(numel) is not int or not 0 <= numel < INT64:
            raise Malformed(f"storage {key[:40]!r} has a length that is none")
        dtype = STORAGES.get((storage_class.module, storage_class.name))
        if dtype is None:
            raise Malformed(
                f"{storage_class.module}.{storage_class.name} is no storage class of torch"
            )
        found = StorageRef(key, dtype, numel)
        known = self.by_key.setdefault(key, found)
        if found != known and (found.nbytes or known.nbytes):  # none at all may be of any type
            raise Malformed(f"storage {key[:40]!r} is described in two different ways")
        return found


SHARED_KEY = "a view of a storage has the key of a storage"


class _LegacyStorages(_Storages):
    """Those of files from before torch 1.6, too, which describe a view of a storage as a sixth
    part: (key, offset, elements)."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, tuple[str, int, StorageRef]] = {}

    def refer(self, value: Any) -> StorageRef:
        """The storage, or the view of it, which lies inside and has a key of its own."""
        with_view = type(value) is tuple and len(value) == 6
        whole = super().refer(value[:5] if with_view else value)
        if whole.key in self.views:
            raise Malformed(SHARED_KEY)
        if not with_view or value[5] is None:
            return whole
        if type(value[5]) is not tuple or len(value[5]) != 3 or not isinstance(value[5][0], str):
            raise Malformed("a view of a storage is not described")
        key, *place = value[5]
        offset, numel = _integers(place, "view of a storage")
        if offset + numel > whole.numel:
            raise Malformed(f"a view of storage {whole.key[:40]!r} runs past its end")
        view = whole.key, offset, replace(whole, numel=numel)
        if key in self.by_key:
            raise Malformed(SHARED_KEY)
        if self.views.setdefault(key, view) != view:
            raise Malformed(f"view {key[:40]!r} is described in two different ways")
        return view[2]


def _unused(tensors: Collection[TensorRef]) -> dict[str, int]:
    """Bytes of each storage outside all spans, from a tensor's first element to its last."""
    spans: dict[StorageRef, list[tuple[int, int]]] = {}
    for tensor in tensors:
        spans.setdefault(tensor.storage, []).append((tensor.offset, tensor.offset + tensor.span))
    unused = {storage.key: storage.nbytes - _covered(found) for storage, found in spans.items()}
    return {key: nbytes for key, nbytes in unused.items() if nbytes > 0}


def _covered(intervals: list[tuple[int, int]]) -> int:
    covered = reached = 0
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


# --- names ----------------------------------------------------------------------------------------


def _walk(root: Any, repeated: dict[str, None]) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path, in order, without recursion and without copies."""
    path: list[tuple[str, Any, Iterator[tuple[str, Any]]]] = [("", None, iter([("", root)]))]
    visits = characters = 0
    while path:
        prefix, _, children = path[-1]
        key, value = next(children, (None, None))
        if key is None:
            path.pop()
            continue
        name = f"{prefix}.{key}" if prefix and key else prefix or key
        visits += 1 + (len(value.pairs) if isinstance(value, Dict) else 0)
        characters += len(name)
        if visits > MAX_VISITS or characters > MAX_NAME_CHARACTERS:
            raise CorruptFile(
                f"the object holds more than {MAX_VISITS:,} values, or the same parts so many "
                "times over, as no state dict does; the file is damaged or made to harm"
            )
        below = _children(value, name, repeated)
        if below is None:
            yield name, value
        elif any(value is above for _, above, _ in path):
            continue  # it holds itself, as foreign objects may: listed once
        elif len(path) > MAX_DEPTH:
            raise CorruptFile(
                f"the object is nested deeper than {MAX_DEPTH} levels, as no state dict is; the "
                "file is damaged or made to harm"
            )
        else:
            path.append((name, value, below))


def _children(value: Any, name: str, repeated: dict[str, None]) -> Iterator[tuple[str, Any]] | None:
    """What a value holds, by key; None for a leaf."""
    if isinstance(value, Dict):
        return iter(_items(value, name, repeated))
    if isinstance(value, (list, tuple)):
        return ((str(index), child) for index, child in enumerate(value))
    if isinstance(value, Opaque) and value.count:
        # A single child is the object's content: names stay as short as people know them.
        keys = repeat("") if value.count == 1 else map(str, counting())
        return zip(keys, value.children(), strict=False)
    return None


def _items(table: Dict, path: str, repeated: dict[str, None]) -> list[tuple[str, Any]]:
    """Pairs under text keys. Of equal keys the last wins: {0: a, False: b} is one entry."""
    items: dict[object, tuple[str, Any]] = {}
    twice: set[str] = set()
    for key, value in table.pairs:
        # Text and numbers are equal as Python has it; other keys are not compared, only named.
        known = isinstance(key, (str, bool, int, float))
        identity = key if known else len(items), known
        text = _key_text(key)
        if identity in items:
            twice.add(text)
        items[identity] = text, value
    repeated.update({f"{path}.{text}" if path else text: None for text in twice})
    return list(items.values())


def _key_text(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, float) and not key.is_integer():
        return repr(key)
    if isinstance(key, (bool, int, float)):
        return str(int(key)) if -INT64 < key < INT64 else "<number>"
    return f"<{type(key).__name__}>"


# --- calls that make up a tensor -----------------------------------------------------------------

LAYOUTS = {"torch.sparse_coo": 2} | dict.fromkeys(
    ("torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr", "torch.sparse_bsc"), 3
)  # where the size stands behind the parts
MAX_PARTS = 4  # of a sparse tensor, and its size
ELEMENTS = (
    "Byte", "Char", "Short", "Int", "Long", "Bool", "Half", "Float", "Double", "BFloat16",
)  # fmt: skip


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_RANK:
        raise Malformed(f"a tensor's {what} is no tuple of at most {MAX_RANK} numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < INT64:  # a bool is not a length
            raise Malformed(f"a tensor's {what} holds something that is no length")
    return tuple(values)


def _tensor(args: tuple[Any, ...], dtype: DType | None = None, metadata: Any = None) -> TensorRef:
    """A view of a storage, checked to lie inside it: (storage, offset, shape, strides, ...)."""
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, StorageRef):
        raise Malformed("a tensor is built from something that is no storage")
    dtype = dtype or storage.dtype
    shape, strides = _integers(shape, "shape"), _integers(strides, "strides")
    (offset,) = _integers((offset,), "offset")
    if len(shape) != len(strides):
        raise Malformed(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
    if count(shape) >= INT64:  # a stride of 0 needs no bytes for them
        raise Malformed("a tensor has more elements than can be counted")
    contiguous = strides == contiguous_strides(shape) or is_contiguous(shape, strides)
    if dtype.block_elements > 1 and (offset or not contiguous):
        raise Malformed("a view of a packed tensor, which torch does not make")
    start = offset * dtype.block_bytes
    if contiguous or 0 in shape:
        span = dtype.nbytes(shape)
    else:
        last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        span = (last + 1) * dtype.block_bytes
    if span and start + span > storage.nbytes:
        raise Malformed(
            f"a tensor of shape {list(shape)} needs {start + span:,} bytes of storage "
            f"{storage.key[:40]!r}, which has {storage.nbytes:,}"
        )
    kept = None if contiguous else strides
    if metadata is None:
        return TensorRef(storage, dtype, start, shape, kept, span)
    flags = _true_keys(metadata)
    return TensorRef(storage, dtype, start, shape, kept, span, "conj" in flags, "neg" in flags)


def _true_keys(metadata: Any) -> set[str]:
    """The flags of a lazy view: {"conj": True}, {"neg": True}."""
    pairs = metadata.pairs if isinstance(metadata, Dict) else ()
    return {key for key, value in pairs if value is True and isinstance(key, str)}


def _dtype(value: Any) -> DType:
    if isinstance(value, Global) and value.module == "torch" and value.name in BY_TORCH_NAME:
        return BY_TORCH_NAME[value.name]
    raise Malformed("a tensor's dtype is none that torch has")


def _at(args: tuple[Any, ...], index: int) -> Any:
    return args[index] if index < len(args) else None


def _from_type(args: tuple[Any, ...]) -> Any:
    """A tensor subclass or a tensor with attributes: (function, class, arguments, state)."""
    function, _, arguments = args[:3]
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise Malformed("_rebuild_from_type_v2 is called without a function")
    return _call(function, arguments)


def _sparse(args: tuple[Any, ...]) -> Opaque:
    """(layout, (indices, values, size, ...)): its parts, each with the size that it lacks."""
    layout, parts = args[:2]
    name = layout.arguments[0] if isinstance(layout, Opaque) and layout.arguments else None
    if not isinstance(name, str) or name not in LAYOUTS or len(parts) > MAX_PARTS:
        raise Malformed("a sparse tensor has no layout that torch has")
    shape = _integers(parts[LAYOUTS[name]], "shape")
    meaning = f"part of a {name.removeprefix('torch.')} tensor of shape {list(shape)}"
    named = (replace(p, meaning=meaning) if isinstance(p, TensorRef) else p for p in parts)
    return Opaque("sparse tensor", (tuple(named),))


def _ordered(args: tuple[Any, ...]) -> Dict:
    if args:
        raise Malformed("an OrderedDict is made of pairs, where torch.save fills an empty one")
    return Dict()


def _moved(args: tuple[Any, ...]) -> Any:
    """A tensor of a device that torch stores nothing of: the one on the CPU that it comes from."""
    tensor, dtype = args[0], _dtype(args[1])
    if isinstance(tensor, TensorRef) and tensor.dtype != dtype:
        raise Malformed(
            f"a tensor of {tensor.dtype.torch} is converted to {dtype.torch} on loading"
        )
    return tensor


def _parameter(args: tuple[Any, ...]) -> Any:
    if args[0] is None:
        raise Malformed("a parameter is made of no tensor")
    return args[0]


def _typed(dtype: DType, args: tuple[Any, ...]) -> TensorRef:
    """torch.FloatTensor(storage), which views all of it, and torch.FloatTensor(tensor)."""
    (given,) = args
    if isinstance(given, StorageRef):
        given = _tensor((given, 0, (given.numel,), (1,)))
    if not isinstance(given, TensorRef) or given.dtype != dtype:
        raise Malformed(f"a tensor of {dtype.torch} is made of something that is not stored as one")
    return given


_CALLS: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor"): lambda a: _tensor(a),
    ("torch._utils", "_rebuild_tensor_v2"): lambda a: _tensor(a, None, _at(a, 6)),
    ("torch._utils", "_rebuild_tensor_v3"): lambda a: _tensor(a, _dtype(a[6]), _at(a, 7)),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _moved,
    ("torch._utils", "_rebuild_qtensor"): lambda a: _quantized(a),
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch.nn.parameter", "Buffer"): _parameter,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): (
        lambda a: MetaTensor(_dtype(a[0]), _integers(a[1], "shape"))
    ),
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._utils", "_rebuild_nested_tensor"): lambda a: Opaque("nested tensor", a),
    ("torch._utils", "_rebuild_wrapper_subclass"): lambda a: Opaque("tensor subclass", ()),
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): lambda a: a[0],
    ("torch", "Tensor"): partial(_typed, DTYPES["F32"]),
    **{
        (module, f"{element}Tensor"): partial(_typed, BY_TORCH_STORAGE[f"{element}Storage"])
        for module in ("torch", "torch.cuda")
        for element in ELEMENTS
    },
}

PER_TENSOR = Global("torch", "per_tensor_affine")
PER_CHANNEL = tuple(Global("torch", f"per_channel_affine{more}") for more in ("", "_float_qparams"))

_PLAIN = {("torch", "device"), ("torch.serialization", "_get_layout")}  # values, not objects

# Named by ordinary checkpoints, harmless when unpickled, and of no interest here.
_INERT = {
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    UNTYPED_STORAGE,
    ("torch.storage", "TypedStorage"),
    ("collections", "Counter"),
    ("_codecs", "encode"),  # how protocol 2 spells bytes
    ("_io", "BytesIO"),  # `_extra_state` in Llama 4's files
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("bytearray", "complex", "frozenset", "set")
    ),
    *(("torch", name) for name in BY_TORCH_NAME),
    *(("torch", name) for name in BY_TORCH_STORAGE),
    *(("torch.cuda", name) for name in BY_TORCH_STORAGE),  # classes of before torch 0.4
    *(
        (module, f"{element}Tensor")
        for module in ("torch.sparse", "torch.cuda.sparse")
        for element in ELEMENTS
    ),
    *(
        ("torch", f"per_{scheme}")
        for scheme in (
            "tensor_affine",
            "tensor_symmetric",
            "channel_affine",
            "channel_symmetric",
            "channel_affine_float_qparams",
        )
    ),
}


def _quantized(args: tuple[Any, ...]) -> Dict:
    """The tensor under its own name; scales and zero points, when they are tensors, beneath it."""
    tensor = _tensor(args)
    if not tensor.dtype.quantised:
        raise Malformed(f"a tensor of {tensor.dtype.torch} is built with a scale")
    table = Dict()
    table.pairs = [("", replace(tensor, meaning=_quantizer(args[4]))), ("quantizer", args[4])]
    return table


def _quantizer(parameters: Any) -> str:
    """(scheme, scale, zero point), or of channels (scheme, scales, zero points, axis), in words."""
    if isinstance(parameters, (tuple, list)) and len(parameters) in (3, 4):
        scheme, *values = parameters
        kinds = [type(value) for value in values]
        if scheme == PER_TENSOR and kinds == [float, int] and -INT64 <= values[1] < INT64:
            return f"quantised, {scheme.name}, scale {values[0]!r}, zero point {values[1]}"
        if scheme in PER_CHANNEL and kinds == [TensorRef, TensorRef, int]:
            return f"quantised, {scheme.name}, scales and zero points beside it, axis {values[2]}"
    raise Malformed("a quantised tensor has no scale and zero point as torch.save writes them")


def _call(function: Global, args: tuple[Any, ...]) -> Any:
    rebuild = _CALLS.get((function.module, function.name))
    if rebuild is None:
        return Opaque(function.name, args)
    try:
        return rebuild(args)
    except (IndexError, TypeError, ValueError, RecursionError) as error:
        name = f"{function.module}.{function.name}"
        raise Malformed(f"{name} is called with arguments it does not take") from error
