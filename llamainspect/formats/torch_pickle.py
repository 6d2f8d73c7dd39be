"""`data.pkl`, the object that torch.save wrote, followed symbolically: nothing in it is ever run.

A pickle is a program for a stack machine. This one has no machine: globals stay names, calls stay
descriptions, and the few constructs that make up a tensor are understood by exact name. Whatever
else the stream names is reported; the tensors beside it are still found.

Values from the stream are never hashed, compared or printed: dictionaries are lists of pairs, and
results are walked with bounds. Formats: CPython's `pickletools` for the opcodes, torch's
`_utils.py` (`_rebuild_*`) and `serialization.py` (`persistent_id`) for what the calls mean.
"""

import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from llamainspect.dtypes import BY_TORCH_NAME, BY_TORCH_STORAGE, DType
from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.tensors import contiguous_strides, count

MAX_PICKLE_NBYTES = 64 * 2**20  # a real 405B shard has 136 kB
MAX_OPERATIONS = 8_000_000
MAX_DEPTH = 64
MAX_VISITS = 2_000_000  # values visited when names are given: bounds a "billion laughs" stream
MAX_RANK = 64
MAX_GLOBAL_NAME = 1_000
INT64 = 2**63
UNTYPED_STORAGE = ("torch.storage", "UntypedStorage")


# --- what a stream can contain, beside None, bool, int, float, str, bytes, tuple and list ---------
# (No named tuples here: a stream's own tuples must not be mistaken for these.)


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function named by the stream. A name; never imported."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Persistent id of a storage. `dtype` is None for untyped ones, whose `numel` is in bytes."""

    key: str
    dtype: DType | None
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes the record must have."""
        return self.dtype.nbytes(self.numel) if self.dtype else self.numel


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the stream describes it; `offset` in bytes, `strides` in elements."""

    storage: StorageRef
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # None: C-contiguous
    span: int  # elements from the first to the last one it visits
    conjugate: bool = False
    negative: bool = False


class Dict:
    """A dictionary as the list of the pairs that were put into it."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []


class Opaque:
    """An object that is not looked into, except for tensors among its arguments and state."""

    __slots__ = ("children", "what")

    def __init__(self, what: str, *children: Any) -> None:
        self.what = what
        self.children = list(children)


class Contents(NamedTuple):
    """What one pickle says."""

    tensors: tuple[tuple[str, TensorRef], ...]  # in the order of the stream, names unique
    storages: tuple[tuple[StorageRef, int], ...]  # every storage named, and its bytes
    unused: dict[str, int]  # storage key -> bytes that no tensor covers, where there are any
    foreign: tuple[tuple[str, int], ...]  # "module.name" and the position where first named
    repeated: tuple[str, ...]  # names given more than once; the last one counts, as in Python
    without_data: tuple[str, ...]  # tensors on the meta device: described, not stored


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
    reader = _Reader(data)
    root = reader.run()
    names: dict[str, TensorRef] = {}
    repeated: dict[str, None] = {}
    without_data: list[str] = []
    for name, value in _walk(root, repeated):
        if isinstance(value, TensorRef):
            if name in names:
                repeated[name] = None
            names[name] = value
        elif isinstance(value, Opaque) and value.what == META_TENSOR:
            without_data.append(name)
    return Contents(
        tensors=tuple(names.items()),
        storages=tuple((ref, ref.nbytes) for ref in reader.storages.values()),
        unused=_unused(reader.storages, names.values()),
        foreign=tuple(reader.foreign.items()),
        repeated=tuple(repeated),
        without_data=tuple(without_data),
    )


def _unused(storages: dict[str, StorageRef], tensors: Collection[TensorRef]) -> dict[str, int]:
    """Bytes of each storage outside all spans, from a tensor's first element to its last."""
    spans: dict[str, list[tuple[int, int]]] = {key: [] for key in storages}
    for tensor in tensors:
        end = tensor.offset + tensor.dtype.nbytes(tensor.span)
        spans[tensor.storage.key].append((tensor.offset, end))
    unused = {key: storages[key].nbytes - _covered(found) for key, found in spans.items()}
    return {key: nbytes for key, nbytes in unused.items() if nbytes > 0}


def _covered(intervals: list[tuple[int, int]]) -> int:
    covered = reached = 0
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


# --- names ----------------------------------------------------------------------------------------


def _walk(root: Any, repeated: dict[str, None]) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path, in order, without recursion."""
    todo: list[tuple[str, Any, int]] = [("", root, 0)]
    visits = 0
    while todo:
        path, value, depth = todo.pop()
        visits += 1
        if depth > MAX_DEPTH or visits > MAX_VISITS:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_VISITS:,} values"
            raise CorruptFile(
                f"the object is nested beyond {limit}, as no state dict is; "
                "the file is damaged or made to harm"
            )
        if isinstance(value, Dict):
            children = _items(value, path, repeated)
        elif isinstance(value, (list, tuple)):
            children = [(str(index), child) for index, child in enumerate(value)]
        elif isinstance(value, Opaque) and value.children:
            # A single child is the object's content: names stay as short as people know them.
            single = len(value.children) == 1
            children = [("" if single else str(i), c) for i, c in enumerate(value.children)]
        else:
            yield path, value
            continue
        for key, child in reversed(children):
            todo.append((f"{path}.{key}" if path and key else path or key, child, depth + 1))


def _items(table: Dict, path: str, repeated: dict[str, None]) -> list[tuple[str, Any]]:
    """Pairs under text keys. Of equal keys the last wins: {0: a, False: b} is one entry."""
    items: dict[str, Any] = {}
    for key, value in table.pairs:
        if isinstance(key, str):
            text = key
        elif isinstance(key, (bool, int)) or (isinstance(key, float) and key.is_integer()):
            text = str(int(key)) if -INT64 < key < INT64 else "<int>"
        else:
            text = f"<{type(key).__name__}>"
        if text in items:
            repeated[f"{path}.{text}" if path else text] = None
        items[text] = value
    return list(items.items())


# --- calls that make up a tensor -----------------------------------------------------------------

META_TENSOR = "tensor without data"


class _Malformed(Exception):
    """Arguments of a known construct that make no sense; becomes a CorruptFile."""


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_RANK:
        raise _Malformed(f"a tensor's {what} is no tuple of at most {MAX_RANK} numbers")
    for value in values:
        if type(value) is not int or not 0 <= value < INT64:  # a bool is not a length
            raise _Malformed(f"a tensor's {what} holds something that is no length")
    return tuple(values)


def _tensor(args: tuple[Any, ...], dtype: DType | None = None, metadata: Any = None) -> TensorRef:
    """A view of a storage, checked to lie inside it: (storage, offset, shape, strides, ...)."""
    storage, offset, shape, strides = args[:4]
    if not isinstance(storage, StorageRef):
        raise _Malformed("a tensor is built from something that is no storage")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise _Malformed("a tensor over an untyped storage has no dtype")
    shape, strides = _integers(shape, "shape"), _integers(strides, "strides")
    (offset,) = _integers((offset,), "offset")
    if len(shape) != len(strides):
        raise _Malformed(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
    contiguous = strides == contiguous_strides(shape)
    if contiguous or 0 in shape:
        span = count(shape)
    else:
        span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if span and dtype.nbytes(offset + span) > storage.nbytes:
        raise _Malformed(
            f"a tensor of shape {list(shape)} needs {dtype.nbytes(offset + span):,} bytes of "
            f"storage {storage.key[:40]!r}, which has {storage.nbytes:,}"
        )
    kept = None if contiguous or count(shape) <= 1 else strides
    start = dtype.nbytes(offset)
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
    raise _Malformed("a tensor's dtype is none that torch has")


def _at(args: tuple[Any, ...], index: int) -> Any:
    return args[index] if index < len(args) else None


def _from_type(args: tuple[Any, ...]) -> Any:
    """A tensor subclass or a tensor with attributes: (function, class, arguments, state)."""
    function, _, arguments = args[:3]
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise _Malformed("_rebuild_from_type_v2 is called without a function")
    return _call(function, arguments)


_CALLS: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor"): lambda a: _tensor(a),
    ("torch._utils", "_rebuild_tensor_v2"): lambda a: _tensor(a, None, _at(a, 6)),
    ("torch._utils", "_rebuild_tensor_v3"): lambda a: _tensor(a, _dtype(a[6]), _at(a, 7)),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): lambda a: a[0],
    ("torch._utils", "_rebuild_qtensor"): lambda a: _quantized(a),
    ("torch._utils", "_rebuild_parameter"): lambda a: a[0],
    ("torch._utils", "_rebuild_parameter_with_state"): lambda a: a[0],
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): lambda a: Opaque(META_TENSOR),
    ("torch._utils", "_rebuild_sparse_tensor"): lambda a: Opaque("sparse tensor", *a[1:2]),
    ("torch._utils", "_rebuild_nested_tensor"): lambda a: Opaque("nested tensor", *a),
    ("torch._utils", "_rebuild_wrapper_subclass"): lambda a: Opaque("tensor subclass"),
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("collections", "OrderedDict"): lambda a: _dict(a),
    ("torch", "Size"): lambda a: a[0],
}

# Named by ordinary checkpoints, harmless when unpickled, and of no interest here.
_INERT = {
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
    ("torch.serialization", "_get_layout"),
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
    table = Dict()
    table.pairs = [("", _tensor(args)), ("quantizer", args[4])]
    return table


def _dict(args: tuple[Any, ...]) -> Dict:
    """OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it."""
    table = Dict()
    if args and isinstance(args[0], (list, tuple)):
        for pair in args[0]:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise _Malformed("an OrderedDict is made of something that is no pair")
            table.pairs.append((pair[0], pair[1]))
    return table


def _call(function: Global, args: tuple[Any, ...]) -> Any:
    rebuild = _CALLS.get((function.module, function.name))
    if rebuild is None:
        return Opaque(f"{function.module}.{function.name}", *args)
    try:
        return rebuild(args)
    except (IndexError, TypeError, ValueError) as error:
        name = f"{function.module}.{function.name}"
        raise _Malformed(f"{name} is called with arguments it does not take") from error


# --- the stack machine that only describes --------------------------------------------------------

_MARK = object()


class _Reader:
    """One pass over the opcodes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.foreign: dict[str, int] = {}

    def run(self) -> Any:
        """The object the stream leaves, once it has ended as it should."""
        data, operations, position = self.data, _OPERATIONS, 0
        try:
            for _ in range(MAX_OPERATIONS):
                position = self.position
                opcode = data[position]
                if opcode == _STOP:
                    break
                self.position = position + 1
                operations[opcode](self)
            else:
                raise _Malformed(f"it has more than {MAX_OPERATIONS:,} operations")
            if len(self.stack) != 1 or self.position + 1 != len(data):
                raise _Malformed("it leaves something behind its end")
        except KeyError as error:
            if position < len(data) and data[position] in operations:
                raise self._damaged(position, "it uses a memo entry that was never set") from error
            raise self._refused(position) from error
        except (IndexError, struct.error) as error:
            raise self._damaged(position, "it ends, or its stack does, too early") from error
        except (UnicodeDecodeError, _Malformed) as error:
            text = (
                str(error) if isinstance(error, _Malformed) else "it holds text that is not UTF-8"
            )
            raise self._damaged(position, text) from error
        return self.stack[0]

    def _damaged(self, position: int, what: str) -> CorruptFile:
        return CorruptFile(
            f"byte {position:,}: {what}; the file is damaged or made to harm, "
            "download it again from a source you trust"
        )

    def _refused(self, position: int) -> UnsupportedFile:
        """For the opcodes that torch never writes; INST names what it would have called."""
        opcode = self.data[position : position + 1]
        named = ""
        if opcode == b"i":
            module, _, rest = self.data[position + 1 : position + MAX_GLOBAL_NAME].partition(b"\n")
            name = (module + b"." + rest.partition(b"\n")[0]).decode("utf-8", "replace")
            named = f", which calls {name}"
        return UnsupportedFile(
            f"byte {position:,}: pickle opcode {opcode!r}{named}: torch.save writes no "
            "such thing and it is not followed; do not load this file with pickle or torch.load"
        )

    # Reading arguments

    # Past the end these give too little, and then the next opcode is not there: run() notices.

    def take(self, length: int) -> bytes:
        start = self.position
        self.position = end = start + length
        return self.data[start:end]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def byte(self) -> int:
        position = self.position
        self.position = position + 1
        return self.data[position]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_GLOBAL_NAME)
        if end < 0:
            raise _Malformed(f"a name has no end within {MAX_GLOBAL_NAME} bytes")
        text = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return text

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise IndexError

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise _Malformed("a mark stands where a value should")
        return value

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _Malformed("a mark stands where a value should")
        return value

    def note_global(self, module: str, name: str) -> None:
        if (module, name) not in _CALLS and (module, name) not in _INERT:
            self.foreign.setdefault(f"{module}.{name}", self.position)
        self.stack.append(Global(module, name))


# --- the operations -------------------------------------------------------------------------------


def _constant(value: Any) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value)


def _fresh(make: Callable[[], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(make())


def _skip(width: int) -> Callable[[_Reader], None]:
    def operation(reader: _Reader) -> None:
        reader.take(width)

    return operation


def _unsigned(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.number(width))


def _text(width: int) -> Callable[[_Reader], None]:
    def operation(reader: _Reader) -> None:
        # surrogatepass: the pickler writes lone surrogates so, and a name may hold one.
        raw = reader.take(reader.number(width))
        reader.stack.append(raw.decode("utf-8", "surrogatepass"))

    return operation


def _bytes(width: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(width)))


def _put_byte(reader: _Reader) -> None:
    reader.memo[reader.byte()] = reader.top()


def _put_long(reader: _Reader) -> None:
    start = reader.position  # a quarter of all operations, hence not number(4)
    reader.position = end = start + 4
    reader.memo[int.from_bytes(reader.data[start:end], "little")] = reader.top()


def _get_byte(reader: _Reader) -> None:
    reader.stack.append(reader.memo[reader.byte()])


def _get_long(reader: _Reader) -> None:
    reader.stack.append(reader.memo[reader.number(4)])


def _tuple(length: int) -> Callable[[_Reader], None]:
    def operation(reader: _Reader) -> None:
        values = tuple(reader.stack[-length:])
        if len(values) < length or _MARK in values:
            raise IndexError
        reader.stack[-length:] = [values]

    return operation


def _tuple_to_mark(reader: _Reader) -> None:
    reader.stack.append(tuple(reader.pop_to_mark()))


def _memoize(reader: _Reader) -> None:
    reader.memo[len(reader.memo)] = reader.top()


def _int32(reader: _Reader) -> None:
    reader.stack.append(int.from_bytes(reader.take(4), "little", signed=True))


def _long1(reader: _Reader) -> None:
    reader.stack.append(int.from_bytes(reader.take(reader.number(1)), "little", signed=True))


def _float64(reader: _Reader) -> None:
    reader.stack.append(struct.unpack(">d", reader.take(8))[0])


def _global(reader: _Reader) -> None:
    module = reader.line()
    reader.note_global(module, reader.line())


def _stack_global(reader: _Reader) -> None:
    name, module = reader.pop(), reader.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise _Malformed("a global's name is no text")
    reader.note_global(module, name)


def _persistent_id(reader: _Reader) -> None:
    """('storage', class, key, location, numel), the only persistent id that torch writes."""
    value = reader.pop()
    if type(value) is not tuple or len(value) < 5 or not isinstance(value[0], str):
        raise _Malformed("a persistent id does not describe a storage")
    kind, storage_class, key, _, numel = value[:5]
    if kind != "storage" or not isinstance(storage_class, Global) or not isinstance(key, str):
        raise _Malformed("a persistent id does not describe a storage")
    if type(numel) is not int or not 0 <= numel < INT64:
        raise _Malformed(f"storage {key[:40]!r} has a length that is none")
    dtype = None
    if (storage_class.module, storage_class.name) != UNTYPED_STORAGE:
        dtype = BY_TORCH_STORAGE.get(storage_class.name)
        if dtype is None or storage_class.module != "torch":
            raise _Malformed(
                f"{storage_class.module}.{storage_class.name} is no storage class of torch"
            )
    known = reader.storages.get(key)
    if known is None:
        known = reader.storages[key] = StorageRef(key, dtype, numel)
    elif (known.dtype, known.numel) != (dtype, numel):
        raise _Malformed(f"storage {key[:40]!r} is described in two different ways")
    reader.stack.append(known)


def _reduce(reader: _Reader) -> None:
    """Call, or for NEWOBJ make: described, not done."""
    arguments, function = reader.pop(), reader.pop()
    if not isinstance(arguments, tuple):
        raise _Malformed("a call has no tuple of arguments")
    if isinstance(function, Global):
        reader.stack.append(_call(function, arguments))
    else:
        reader.stack.append(Opaque("object", function, *arguments))


def _build(reader: _Reader) -> None:
    """State of an object: attributes of dictionaries and tensors (`_metadata`) are not kept."""
    state, target = reader.pop(), reader.top()
    if isinstance(target, Opaque):
        target.children.append(state)


def _append(reader: _Reader) -> None:
    value = reader.pop()
    _extend(reader.top(), [value])


def _extend_to_mark(reader: _Reader) -> None:
    values = reader.pop_to_mark()
    _extend(reader.top(), values)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Opaque):
        target.children.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise _Malformed("something is appended to what is no list")


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop(), reader.pop()
    _set_pairs(reader.top(), [key, value])


def _set_items(reader: _Reader) -> None:
    values = reader.pop_to_mark()
    _set_pairs(reader.top(), values)


def _set_pairs(target: Any, flat: list[Any]) -> None:
    if len(flat) % 2:
        raise _Malformed("a dictionary gets a key without a value")
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if isinstance(target, Opaque):
        table = Dict()
        table.pairs = pairs
        target.children.append(table)
    elif isinstance(target, Dict):
        target.pairs.extend(pairs)
    else:
        raise _Malformed("items are set on what is no dictionary")


def _drop(reader: _Reader) -> None:
    reader.stack.pop()


def _drop_to_mark(reader: _Reader) -> None:
    reader.pop_to_mark()


def _set_to_mark(reader: _Reader) -> None:
    reader.stack.append(Opaque("frozenset", *reader.pop_to_mark()))


def _duplicate(reader: _Reader) -> None:
    reader.stack.append(reader.top())


# What torch.save writes, and what protocols up to 5 write for the same objects. Not here, and so
# refused: INST, OBJ, EXT1-4, NEWOBJ_EX, PERSID, LONG4, out-of-band buffers and the text opcodes.
_OPERATIONS: dict[int, Callable[[_Reader], None]] = {
    code[0]: operation
    for code, operation in {
        b"\x80": _skip(1),  # PROTO
        b"\x95": _skip(8),  # FRAME
        b"(": _constant(_MARK),
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"}": _fresh(Dict),
        b"]": _fresh(list),
        b")": _constant(()),
        b"\x8f": _fresh(lambda: Opaque("set")),
        b"K": lambda reader: reader.stack.append(reader.byte()),  # BININT1
        b"M": _unsigned(2),  # BININT2
        b"J": _int32,  # BININT
        b"\x8a": _long1,
        b"G": _float64,
        b"X": _text(4),  # BINUNICODE
        b"\x8c": _text(1),  # SHORT_BINUNICODE
        b"\x8d": _text(8),  # BINUNICODE8
        b"B": _bytes(4),  # BINBYTES
        b"C": _bytes(1),  # SHORT_BINBYTES
        b"\x8e": _bytes(8),  # BINBYTES8
        b"\x96": _bytes(8),  # BYTEARRAY8
        b"T": _bytes(4),  # BINSTRING
        b"U": _bytes(1),  # SHORT_BINSTRING
        b"q": _put_byte,  # BINPUT
        b"r": _put_long,  # LONG_BINPUT
        b"h": _get_byte,  # BINGET
        b"j": _get_long,  # LONG_BINGET
        b"\x94": _memoize,
        b"c": _global,
        b"\x93": _stack_global,
        b"Q": _persistent_id,  # BINPERSID
        b"R": _reduce,
        b"\x81": _reduce,  # NEWOBJ: class and arguments where REDUCE has function and arguments
        b"b": _build,
        b"a": _append,
        b"e": _extend_to_mark,  # APPENDS
        b"\x90": _extend_to_mark,  # ADDITEMS
        b"s": _set_item,
        b"u": _set_items,
        b"t": _tuple_to_mark,
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"\x91": _set_to_mark,  # FROZENSET
        b"0": _drop,
        b"1": _drop_to_mark,
        b"2": _duplicate,
    }.items()
}
_STOP = ord(".")
