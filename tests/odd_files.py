"""Small files with one thing wrong or odd in them, each under a name that says what."""

import io
import pickle
import pickletools
import struct
import warnings
import zipfile
from typing import Any

Records = list[tuple[str, bytes]]

# --- .pth: what the pickle is made of -------------------------------------------------------------


def literal(value: Any) -> bytes:
    """Opcodes that push a plain value, without leaving it in the memo."""
    return pickletools.optimize(pickle.dumps(value, protocol=2))[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, arguments: bytes) -> bytes:
    return named(module, name) + arguments + b"R"


def many(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def storage(
    key: Any = "0",
    numel: Any = 4,
    kind: bytes = named("torch", "FloatStorage"),
    location: Any = "cpu",
    tag: Any = "storage",
) -> bytes:
    fields = (literal(tag), kind, literal(key), literal(location), literal(numel))
    return many(*fields) + b"Q"


NO_HOOKS = call("collections", "OrderedDict", b")")


def tensor(
    stored: bytes = b"",
    offset: Any = 0,
    shape: Any = (4,),
    strides: Any = (1,),
    grad: Any = False,
    hooks: bytes = NO_HOOKS,
    *more: bytes,
) -> bytes:
    plain = (literal(value) for value in (offset, shape, strides, grad))
    arguments = many(stored or storage(), *plain, hooks, *more)
    return call("torch._utils", "_rebuild_tensor_v2", arguments)


def stream(*pairs: tuple[bytes, bytes], proto: bytes = b"\x80\x02", end: bytes = b".") -> bytes:
    """A dictionary of these keys and values."""
    return proto + b"}(" + b"".join(key + value for key, value in pairs) + b"u" + end


def of(value: bytes, key: bytes = b"X\x01\x00\x00\x00w") -> bytes:
    return stream((key, value))


def new_type(dtype: str, numel: int = 16, shape: Any = (4,), *more: bytes) -> bytes:
    """Over an untyped storage, with the type as an argument."""
    stored = storage(numel=numel, kind=named("torch.storage", "UntypedStorage"))
    plain = (literal(value) for value in (0, shape, (1,), False))
    arguments = many(stored, *plain, NO_HOOKS, named("torch", dtype), *more)
    return call("torch._utils", "_rebuild_tensor_v3", arguments)


def quantised(
    scheme: bytes = b"",
    *parameters: bytes,
    stored: bytes = storage(numel=16, kind=named("torch", "QInt8Storage")),
) -> bytes:
    """A tensor of four whole numbers that stand for others."""
    scale = parameters or (literal(0.5), literal(3))
    quantizer = many(scheme or named("torch", "per_tensor_affine"), *scale)
    plain = (literal(value) for value in (0, (4,), (1,)))
    arguments = many(stored, *plain, quantizer, literal(False), NO_HOOKS)
    return call("torch._utils", "_rebuild_qtensor", arguments)


def moved(dtype: str) -> bytes:
    """A tensor as torch saves those of devices that have no storages."""
    return call(
        "torch._utils",
        "_rebuild_device_tensor_from_cpu_tensor",
        many(tensor(), named("torch", dtype), literal("cpu"), literal(False)),
    )


def of_meta(dtype: str = "float32", shape: Any = (2,), strides: Any = (1,)) -> bytes:
    """A tensor that has no values."""
    plain = (literal(value) for value in (shape, strides, False))
    return call(
        "torch._utils", "_rebuild_meta_tensor_no_storage", many(named("torch", dtype), *plain)
    )


def sparse(size: Any = (4,), layout: str = "torch.sparse_coo") -> bytes:
    """A tensor of nothing but zeros, of which no index and no value is stored."""
    stored = storage(numel=2, kind=named("torch", "LongStorage"))
    indices, values = tensor(stored, 0, (1, 0), (1, 1)), tensor(stored, 0, (0,), (1,))
    named_layout = call("torch.serialization", "_get_layout", literal(layout) + b"\x85")
    parts = many(indices, values, literal(size), literal(True))
    return call("torch._utils", "_rebuild_sparse_tensor", many(named_layout, parts))


GOOD = of(tensor())
NUMBERS = struct.pack("<4f", 1, 2, 3, 4)


def _nested(depth: int) -> bytes:
    return b"\x80\x02" + b"}X\x01\x00\x00\x00k" * depth + tensor() + b"s" * depth + b"."


PICKLES: dict[str, bytes] = {
    "nothing odd": GOOD,
    # The stream.
    "protocol 4": stream((literal("w"), tensor()), proto=b"\x80\x04"),
    "protocol 200": stream((literal("w"), tensor()), proto=b"\x80\xc8"),
    "no protocol": stream((literal("w"), tensor()), proto=b""),
    "a frame of protocol 4": stream((literal("w"), tensor()), proto=b"\x80\x04\x95" + bytes(8)),
    "short text of protocol 4": of(tensor(), b"\x8c\x01w"),
    "a tail behind STOP": GOOD + b"\0",
    "a second pickle behind STOP": GOOD * 2,
    "no STOP": stream((literal("w"), tensor()), end=b""),
    "two values at STOP": b"\x80\x02N" + GOOD[2:],
    "no value at STOP": b"\x80\x02.",
    "a mark at STOP": b"\x80\x02(.",
    "an empty stream": b"",
    "a value that is duplicated": of(b"N" + tensor() + b"20" + b"\x86"),
    "a value that is dropped": of(b"N0" + tensor()),
    "a value to the mark dropped": of(b"(N1" + tensor()),
    "a long integer of 4 bytes of length": of(b"\x8b\x01\x00\x00\x00\x07"),
    "INT": of(b"I7\n"),
    "FLOAT as text": of(b"F7.5\n"),
    "STRING as text": of(b"S'x'\n"),
    "UNICODE as text": of(b"Vx\n"),
    "LIST to the mark": of(b"(" + tensor() + b"l"),
    "DICT to the mark": of(b"(" + literal("k") + tensor() + b"d"),
    "INST": of(b"(icollections\nOrderedDict\n"),
    "OBJ": of(b"(" + named("collections", "OrderedDict") + b"o"),
    "PERSID": of(b"P0\n"),
    "an extension code": of(b"\x82\x01"),
    "bytes of protocol 3": of(b"C\x01x"),
    "a string of Python 2": of(b"U\x01x"),
    "a long string of Python 2": of(b"T\x01\x00\x00\x00x"),
    "a frozenset": of(b"(\x91"),
    "an unknown opcode": of(b"\xff"),
    "a memo entry that was never set": of(b"h\x07"),
    "a memo entry set with nothing on the stack": b"\x80\x02q\x00.",
    "text that is not UTF-8": of(tensor(), b"X\x01\x00\x00\x00\xff"),
    "half of a character": of(tensor(), b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "text longer than the stream": of(b"X\xff\xff\x00\x00x"),
    "nesting of 60": _nested(60),
    "nesting of 70": _nested(70),
    # Keys.
    "a key twice": stream((literal("w"), tensor()), (literal("w"), tensor(shape=(2,)))),
    "0 and False": stream((literal(0), tensor()), (literal(False), tensor(shape=(2,)))),
    "1, 1.0 and True": stream(*((literal(k), tensor()) for k in (1, 1.0, True))),
    "a list for a key": of(tensor(), b"]"),
    "a dictionary for a key": of(tensor(), b"}"),
    "a tuple with a list for a key": of(tensor(), b"]\x85"),
    "a tensor for a key": of(tensor(), tensor()),
    "a storage for a key": of(tensor(), storage()),
    "None for a key": of(tensor(), b"N"),
    "a key without a value": b"\x80\x02}(" + literal("w") + tensor() + literal("v") + b"u.",
    "items of a tuple": b"\x80\x02)(" + literal("w") + tensor() + b"u.",
    "items of a list": b"\x80\x02](" + literal(0) + tensor() + b"u.",
    "an item appended to a dictionary": b"\x80\x02}" + tensor() + b"a.",
    "an item appended to an OrderedDict": b"\x80\x02" + NO_HOOKS + tensor() + b"a.",
    "items of a tensor": of(tensor() + b"(" + literal("k") + b"Nu"),
    # Calls.
    "os.system": of(call("os", "system", literal("true") + b"\x85")),
    "os.system that is named and not called": of(named("os", "system") + b"0" + tensor()),
    "posix.system": of(call("posix", "system", literal("true") + b"\x85")),
    "builtins.eval": of(call("builtins", "eval", literal("1") + b"\x85")),
    "a function of torch": of(call("torch", "ones", b"K\x02\x85")),
    "torch.load": of(call("torch", "load", literal("x") + b"\x85")),
    "a class of numpy": of(call("numpy", "ndarray", b"K\x02\x85")),
    "a name that begins with torch's": of(call("torch._utils_", "x", b")")),
    "a dotted name": of(call("torch", "_utils._rebuild_tensor_v2", b")")),
    "Python 2's name of a module": of(call("__builtin__", "set", b"]\x85")),
    "an exception class": of(call("builtins", "Exception", b")")),
    "a call of nothing": of(b"N)R"),
    "a call of a tensor": of(tensor() + b")R"),
    "a call with a list of arguments": of(named("collections", "OrderedDict") + b"]R"),
    "a call with a dictionary of arguments": of(named("collections", "OrderedDict") + b"}R"),
    "a call with a number for arguments": of(named("collections", "OrderedDict") + b"K\x01R"),
    "an object made of an OrderedDict": of(named("collections", "OrderedDict") + b")\x81"),
    "an object made of a function": of(named("torch._utils", "_rebuild_tensor_v2") + b")\x81"),
    "state for a dictionary": of(b"}}b"),
    "state for an OrderedDict": of(NO_HOOKS + b"}" + literal("a") + b"Nsb"),
    "state for a tensor": of(tensor() + b"}b"),
    "state for None": of(b"N}b"),
    "bytes by way of _codecs": of(call("_codecs", "encode", many(literal("x"), literal("latin1")))),
    "bytes by way of rot13": of(call("_codecs", "encode", many(literal("x"), literal("rot13")))),
    "a bytearray": of(call("builtins", "bytearray", b")")),
    "no bytes at all, as protocol 2 spells them": of(call("__builtin__", "bytes", b")")),
    # Storages.
    "a storage and no tensor": of(storage()),
    "a persistent id of 4 fields": of(many(*(literal("storage"),) * 4) + b"Q"),
    "a persistent id of 6 fields": of(
        tensor(
            many(
                literal("storage"),
                named("torch", "FloatStorage"),
                literal("0"),
                literal("cpu"),
                literal(4),
                b"N",
            )
            + b"Q"
        )
    ),
    "a persistent id that is text": of(literal("0") + b"Q"),
    "a persistent id that is a number": of(literal(0) + b"Q"),
    "another kind of persistent id": of(tensor(storage(tag="module"))),
    "a storage whose key is a number": of(tensor(storage(key=0))),
    "a storage that is not there": of(tensor(storage(key="1"))),
    "a storage whose key is a path": of(tensor(storage(key="../data/0"))),
    "a storage whose key is another record": of(tensor(storage(key="../version"))),
    "a storage whose key has no text": of(tensor(storage(key=""))),
    "a storage with fewer elements than its record": of(tensor(storage(numel=2), shape=(2,))),
    "a storage with more elements than its record": of(tensor(storage(numel=5))),
    "a storage of no elements over a record with some": of(tensor(storage(numel=0), shape=(0,))),
    "a storage of negative length": of(tensor(storage(numel=-1), shape=(0,))),
    "a storage whose length is true": of(tensor(storage(numel=True), shape=(1,))),
    "a storage whose length is a float": of(tensor(storage(numel=4.0))),
    "a storage whose length is text": of(tensor(storage(numel="4"))),
    "a storage on a GPU": of(tensor(storage(location="cuda:0"))),
    "a storage on a device of no name": of(tensor(storage(location="q"))),
    "a storage whose place is a number": of(tensor(storage(location=0))),
    "a storage of another class": of(tensor(storage(kind=named("torch", "IntStorage")))),
    "a storage of wider elements": of(
        tensor(storage(numel=2, kind=named("torch", "DoubleStorage")), shape=(2,))
    ),
    "a storage class that torch does not have": of(tensor(storage(kind=named("torch", "Storag")))),
    "a storage class of torch.cuda": of(tensor(storage(kind=named("torch.cuda", "FloatStorage")))),
    "a storage class that is a dtype": of(tensor(storage(kind=named("torch", "float32")))),
    "an untyped storage with a tensor that has no type": of(
        tensor(storage(numel=16, kind=named("torch.storage", "UntypedStorage")))
    ),
    "one storage as two types": stream(
        (literal("a"), tensor()),
        (literal("b"), tensor(storage(kind=named("torch", "IntStorage")))),
    ),
    "one storage in two lengths": stream(
        (literal("a"), tensor()), (literal("b"), tensor(storage(numel=2), shape=(2,)))
    ),
    # Tensors.
    "a negative offset": of(tensor(offset=-1)),
    "an offset past the end": of(tensor(offset=1)),
    "an offset past the end of nothing": of(tensor(offset=9, shape=(0,))),
    "an offset that is true": of(tensor(offset=True, shape=(2,))),
    "an offset that is a float": of(tensor(offset=0.0)),
    "an offset beyond 64 bits": of(tensor(offset=2**64)),
    "a negative length": of(tensor(shape=(-1,))),
    "a length that is true": of(tensor(shape=(True,))),
    "a length that is a float": of(tensor(shape=(4.0,))),
    "a length beyond 64 bits": of(tensor(shape=(2**64,))),
    "lengths whose product overflows": of(tensor(shape=(2**32, 2**32), strides=(0, 0))),
    "lengths whose product overflows before a 0": of(
        tensor(shape=(2**32, 2**32, 0), strides=(0, 0, 0))
    ),
    "a shape in a list": of(tensor(shape=[4])),
    "a shape that is a number": of(tensor(shape=4)),
    "strides in a list": of(tensor(strides=[1])),
    "a shape of 65 axes": of(tensor(shape=(1,) * 65, strides=(1,) * 65)),
    "a shape of 64 axes": of(tensor(shape=(1,) * 64, strides=(1,) * 64)),
    "a negative stride": of(tensor(offset=3, strides=(-1,))),
    "a negative stride of one element": of(tensor(shape=(1,), strides=(-1,))),
    "a stride that is true": of(tensor(strides=(True,))),
    "a stride of 0": of(tensor(strides=(0,))),
    "a stride out of the storage": of(tensor(strides=(2,))),
    "a huge stride of one element": of(tensor(shape=(1,), strides=(2**62,))),
    "a huge stride of no elements": of(tensor(shape=(0,), strides=(2**62,))),
    "fewer strides than axes": of(tensor(shape=(2, 2))),
    "more strides than axes": of(tensor(shape=(), strides=(1,))),
    "a length out of the storage": of(tensor(shape=(5,))),
    "rows that overlap": of(tensor(shape=(3, 2), strides=(1, 1))),
    "requires_grad of a type that cannot": of(
        tensor(storage(kind=named("torch", "IntStorage")), grad=True)
    ),
    "requires_grad that is a number": of(tensor(grad=1)),
    "hooks that are none": of(tensor(hooks=b"N")),
    "hooks that are text": of(tensor(hooks=literal("x"))),
    "no hooks": of(
        call(
            "torch._utils",
            "_rebuild_tensor_v2",
            many(storage(), *map(literal, (0, (4,), (1,), False))),
        )
    ),
    "one argument too many": of(tensor(b"", 0, (4,), (1,), False, NO_HOOKS, b"}", b"N")),
    "lazy flags that are no dictionary": of(tensor(b"", 0, (4,), (1,), False, NO_HOOKS, b"K\x01")),
    "a lazy flag that is not known": of(
        tensor(b"", 0, (4,), (1,), False, NO_HOOKS, b"}" + literal("odd") + b"\x88s")
    ),
    "a conjugate of real numbers": of(
        tensor(b"", 0, (4,), (1,), False, NO_HOOKS, b"}" + literal("conj") + b"\x88s")
    ),
    "a negative of real numbers": of(
        tensor(b"", 0, (4,), (1,), False, NO_HOOKS, b"}" + literal("neg") + b"\x88s")
    ),
    "an FP8 tensor": of(new_type("float8_e5m2")),
    "an FP8 tensor shorter than its storage": of(new_type("float8_e5m2", 16, (3,))),
    "a type that torch does not have": of(new_type("float9")),
    "a type that cannot be stored": of(new_type("int4")),
    "a type with an older storage class": of(new_type("float32")),
    "a length in elements of an untyped storage": of(new_type("uint32", 4)),
    "a tensor in place of a storage": of(tensor(tensor())),
    "a parameter": of(
        call("torch._utils", "_rebuild_parameter", many(tensor(), b"\x88", NO_HOOKS))
    ),
    "a parameter by the name of its class": of(
        call("torch.nn.parameter", "Parameter", many(tensor(), b"\x88"))
    ),
    "a new object of the class of parameters": of(
        named("torch.nn.parameter", "Parameter") + many(tensor(), b"\x88") + b"\x81"
    ),
    "a parameter of nothing at all": of(call("torch.nn.parameter", "Parameter", b")")),
    "a parameter of no tensor": of(
        call("torch._utils", "_rebuild_parameter", many(b"N", b"\x88", NO_HOOKS))
    ),
    "a tensor of the first version": of(
        call("torch._utils", "_rebuild_tensor", many(storage(), *map(literal, (0, (4,), (1,)))))
    ),
    "torch.FloatTensor of a storage": of(call("torch", "FloatTensor", storage() + b"\x85")),
    "a new object of torch.Tensor over a storage": of(
        named("torch", "Tensor") + storage() + b"\x85\x81"
    ),
    "torch.FloatTensor of a tensor": of(call("torch", "FloatTensor", tensor() + b"\x85")),
    "torch.DoubleTensor of floats": of(call("torch", "DoubleTensor", storage() + b"\x85")),
    "torch.ByteTensor of an untyped storage": of(
        call(
            "torch",
            "ByteTensor",
            storage(numel=16, kind=named("torch.storage", "UntypedStorage")) + b"\x85",
        )
    ),
    "torch.Tensor of a length": of(call("torch", "Tensor", literal(5) + b"\x85")),
    "torch.Tensor of numbers": of(call("torch", "Tensor", literal([1.0, 2.0]) + b"\x85")),
    "torch.Tensor of nothing": of(call("torch", "Tensor", b")")),
    "a tensor from the CPU": of(moved("float32")),
    "a tensor from the CPU in another type": of(moved("float16")),
    "an OrderedDict of pairs": of(
        call("collections", "OrderedDict", b"]" + many(literal("a"), tensor()) + b"a\x85")
    ),
    "an OrderedDict of a dictionary": of(
        call("collections", "OrderedDict", b"}" + literal("a") + tensor() + b"s\x85")
    ),
    "a quantised tensor": of(quantised()),
    "a scale that is a whole number": of(quantised(b"", literal(2), literal(3))),
    "a zero point that is a float": of(quantised(b"", literal(0.5), literal(3.0))),
    "a zero point that is true": of(quantised(b"", literal(0.5), literal(True))),
    "a zero point beyond 64 bits": of(quantised(b"", literal(0.5), literal(2**63))),
    "a scale and no zero point": of(quantised(b"", literal(0.5))),
    "a scheme that torch does not read back": of(quantised(named("torch", "per_tensor_symmetric"))),
    "scales of channels in lists": of(
        quantised(
            named("torch", "per_channel_affine"), literal([0.5] * 4), literal([0] * 4), literal(0)
        )
    ),
    "one scale for all channels": of(
        quantised(named("torch", "per_channel_affine"), literal(0.5), literal(0), literal(0))
    ),
    "floats that are quantised": of(quantised(stored=storage())),
    "a meta tensor": of(of_meta()),
    "a meta tensor of another type than torch has": of(of_meta("float9")),
    "a meta tensor of a negative length": of(of_meta(shape=(-1,))),
    "a meta tensor whose stride is negative": of(of_meta(strides=(-1,))),
    "a sparse tensor": of(sparse()),
    "a sparse tensor whose size is a list": of(sparse([4])),
    "a sparse tensor of a negative size": of(sparse((-4,))),
    "a sparse tensor without a size": of(sparse(None)),
    "a sparse tensor of a layout that torch does not have": of(sparse(layout="torch.sparse_coon")),
    "a sparse tensor of the layout of a dense one": of(sparse(layout="torch.strided")),
}


def operations() -> dict[str, bytes]:
    """A good stream without one of its operations, or with one of them twice."""
    places = [place for *_, place in pickletools.genops(GOOD)]
    ends = [*places[1:], len(GOOD)]
    found = {}
    for number, (start, end) in enumerate(zip(places, ends, strict=True)):
        name = pickletools.code2op[GOOD[start : start + 1].decode("latin1")].name
        found[f"operation {number} ({name}) left out"] = GOOD[:start] + GOOD[end:]
        found[f"operation {number} ({name}) twice"] = GOOD[:end] + GOOD[start:]
    return found


# --- .pth: the zip around it ----------------------------------------------------------------------

RECORDS: Records = [
    ("m/data.pkl", GOOD),
    ("m/.format_version", b"1"),
    ("m/.storage_alignment", b"64"),
    ("m/byteorder", b"little"),
    ("m/data/0", NUMBERS),
    ("m/version", b"3\n"),
    ("m/.data/serialization_id", b"0" * 40),
]


def zipped(records: Records, method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two records of one name
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in records:
                archive.writestr(zipfile.ZipInfo(name), data, method)
            archive.comment = comment
    return buffer.getvalue()


def with_record(name: str, data: bytes | None) -> Records:
    """The good records with one of them changed, or added, or left out."""
    changed = [(n, data if n == name else d) for n, d in RECORDS]
    if name not in dict(RECORDS):
        changed.append((name, data))
    return [(n, d) for n, d in changed if d is not None]


def renamed(old: str, new: str) -> Records:
    return [(name.replace(old, new), data) for name, data in RECORDS]


def patched(what: bytes, number: int, at: int, layout: str, value: int) -> bytes:
    """The good file with one field changed, counted from the n-th place of a signature."""
    data, place = bytearray(zipped(RECORDS)), -1
    for _ in range(number + 1):
        place = data.index(what, place + 1)
    struct.pack_into(layout, data, place + at, value)
    return bytes(data)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
OTHER = of(tensor(shape=(2,)))


def odd_pths() -> dict[str, bytes]:
    """All of them."""
    pickles = PICKLES | operations()
    found = {name: zipped(with_record("m/data.pkl", data)) for name, data in pickles.items()}
    return found | archives()


def archives() -> dict[str, bytes]:
    """Good records in zips that torch would not write."""
    good = zipped(RECORDS)
    found = {f"without {name}": zipped(with_record(name, None)) for name, _ in RECORDS}
    found |= {f"{name} is empty": zipped(with_record(name, b"")) for name, _ in RECORDS}
    found |= {
        "records in reverse": zipped(RECORDS[::-1]),
        "a comment": zipped(RECORDS, comment=b"hello"),
        "deflated": zipped(RECORDS, zipfile.ZIP_DEFLATED),
        "bytes behind": good + b"\0",
        "many bytes behind": good + bytes(70_000),
        "a second archive behind": good + zipped(with_record("m/data.pkl", OTHER)),
        "bytes before": b"x" * 8 + good,
        "a second data.pkl": zipped([*RECORDS, ("m/data.pkl", OTHER)]),
        "DATA.PKL behind data.pkl": zipped([*RECORDS, ("m/DATA.PKL", OTHER)]),
        "DATA.PKL alone": zipped(renamed("data.pkl", "DATA.PKL")),
        "DATA/0 alone": zipped(renamed("data/0", "DATA/0")),
        "a second data/0": zipped([*RECORDS, ("m/data/0", bytes(16))]),
        "a record of no tensor": zipped([*RECORDS, ("m/data/1", bytes(16))]),
        "a record of another name": zipped([*RECORDS, ("m/notes", b"x")]),
        "a record outside the folder": zipped([*RECORDS, ("n/notes", b"x")]),
        "a record that climbs": zipped([*RECORDS, ("m/../x", b"x")]),
        "an absolute record": zipped([*RECORDS, ("/x", b"x")]),
        "a record with a backslash": zipped([*RECORDS, ("m/a\\b", b"x")]),
        "a record with a control character": zipped([*RECORDS, ("m/\x1b", b"x")]),
        "an empty folder": zipped([*RECORDS, ("m/data/", b"")]),
        "a folder named .": zipped(renamed("m/", "./")),
        "a folder with a control character": zipped(renamed("m/", "a\tb/")),
        "a folder of two levels": zipped(renamed("m/", "m/n/")),
        "no folder": zipped(renamed("m/", "")),
        "constants.pkl of TorchScript": zipped([*RECORDS, ("m/constants.pkl", b"\x80\x02).")]),
        "big-endian": zipped(with_record("m/byteorder", b"big")),
        "a byte order of no name": zipped(with_record("m/byteorder", b"middle")),
        "version 2": zipped(with_record("m/version", b"2\n")),
        "version 99": zipped(with_record("m/version", b"99\n")),
        "a version that is text": zipped(with_record("m/version", b"new\n")),
        "an alignment that is text": zipped(with_record("m/.storage_alignment", b"x")),
        "a format version of text": zipped(with_record("m/.format_version", b"x")),
        "data/0 too short": zipped(with_record("m/data/0", NUMBERS[:-1])),
        "data/0 too long": zipped(with_record("m/data/0", NUMBERS + b"\0")),
        "a flipped bit in data/0": good.replace(NUMBERS, NUMBERS[:-1] + b"\x41"),
        "a flipped bit in data.pkl": good.replace(GOOD, GOOD.replace(b"u.", b"u0")[:-1] + b"."),
        "a flipped bit in a name of data.pkl": good.replace(
            b"X\x01\x00\x00\x00w", b"X\x01\x00\x00\x00v"
        ),
    }
    for what, sign, fields in (
        ("local header of data.pkl", LOCAL, {"flags": (6, "<H"), "method": (8, "<H"),
         "CRC": (14, "<L"), "packed length": (18, "<L"), "length": (22, "<L"),
         "name length": (26, "<H"), "extra length": (28, "<H")}),
        ("directory entry of data.pkl", CENTRAL, {"flags": (8, "<H"), "method": (10, "<H"),
         "CRC": (16, "<L"), "packed length": (20, "<L"), "length": (24, "<L"),
         "name length": (28, "<H"), "extra length": (30, "<H"), "comment length": (32, "<H"),
         "disk": (34, "<H"), "start": (42, "<L")}),
        ("end record", END, {"disk": (4, "<H"), "directory's disk": (6, "<H"),
         "records here": (8, "<H"), "records": (10, "<H"), "directory length": (12, "<L"),
         "directory start": (16, "<L"), "comment length": (20, "<H")}),
    ):  # fmt: skip
        for field, (at, layout) in fields.items():
            old = struct.unpack_from(layout, good, good.index(sign) + at)[0]
            for change, value in {"0": 0, "one more": old + 1, "all bits": -1}.items():
                value %= 1 << 8 * struct.calcsize(layout)
                if value != old:
                    found[f"{what}, {field}: {change}"] = patched(sign, 0, at, layout, value)
    found["a CRC of 0 for data/0"] = patched(CENTRAL, 4, 16, "<L", 0)
    found["a wrong CRC of data/0"] = patched(CENTRAL, 4, 16, "<L", 1)
    found |= {f"cut to {n} bytes": good[:n] for n in range(0, len(good), 37)}
    return found


# --- safetensors ----------------------------------------------------------------------------------

HEADER = (
    b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},'
    b'"b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}'
)
DATA = bytes(range(9))


def packed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def one(
    dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]", more: str = "", name: str = "a"
) -> bytes:
    """A header of one tensor, its fields as they are to stand there."""
    entry = f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}{more}}}'
    return f'{{"{name}":{entry}}}'.encode()


def beside(more: str) -> bytes:
    """A header of one tensor, behind something else."""
    return b"{" + more.encode() + b"," + one()[1:]


FULL = 2**62  # lengths of an empty tensor, whose product no integer holds
HEADERS: dict[str, tuple[bytes, int]] = {
    "nothing odd in the header": (one(), 4),
    "no tensors": (b"{}", 0),
    "no tensors and some bytes": (b"{}", 4),
    "metadata of null": (beside('"__metadata__":null'), 4),
    "empty metadata": (beside('"__metadata__":{}'), 4),
    "metadata that is a tensor": (one(name="__metadata__"), 4),
    "metadata that holds a number": (beside('"__metadata__":{"a":1}'), 4),
    "metadata twice": (beside('"__metadata__":{"a":"1"},"__metadata__":{"a":"1"}'), 4),
    "a key of the metadata twice": (beside('"__metadata__":{"a":"1","a":"2"}'), 4),
    "half of a character in the metadata": (beside('"__metadata__":{"a":"\\ud800"}'), 4),
    "a tensor twice, all the same": (beside(one()[1:-1].decode()), 4),
    "a tensor twice in two types": (beside(one("I32")[1:-1].decode()), 4),
    "a field twice": (one(more=',"dtype":"F32"'), 4),
    "a field of no meaning": (one(more=',"n":1'), 4),
    "a field of no meaning twice": (one(more=',"n":1,"n":2'), 4),
    "NaN in a field of no meaning": (one(more=',"n":NaN'), 4),
    "1e400 in a field of no meaning": (one(more=',"n":1e400'), 4),
    "half of a character in a field of no meaning": (one(more=',"n":"\\ud800"'), 4),
    "a field of no meaning nested 100 times": (one(more=',"n":' + "[" * 100 + "]" * 100), 4),
    "a field of no meaning nested 200 times": (one(more=',"n":' + "[" * 200 + "]" * 200), 4),
    "a number of 5,000 digits in a field of no meaning": (one(more=',"n":' + "9" * 5000), 4),
    "a length of -0": (one(shape="[-0]", offsets="[0,0]"), 0),
    "an offset of -0": (one(offsets="[-0,4]"), 4),
    "a length of 1.0": (one(shape="[1.0]"), 4),
    "a length of 1e0": (one(shape="[1e0]"), 4),
    "a length of 01": (one(shape="[01]"), 4),
    "a length of +1": (one(shape="[+1]"), 4),
    "a length of 2^63 beside a 0": (one(shape=f"[{2**63},0]", offsets="[0,0]"), 0),
    "a length of 2^64 beside a 0": (one(shape=f"[{2**64},0]", offsets="[0,0]"), 0),
    "an overflow before a 0": (one(shape=f"[{FULL},{FULL},0]", offsets="[0,0]"), 0),
    "an overflow behind a 0": (one(shape=f"[0,{FULL},{FULL}]", offsets="[0,0]"), 0),
    "an overflow in bits": (one("F64", f"[{2**61}]", "[0,0]"), 0),
    "5,000 axes": (one(shape="[" + ",".join("1" * 5000) + "]"), 4),
    "an entry that is a list": (b'{"a":["F32",[1],[0,4]]}', 4),
    "a type that is an object": (
        b'{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}',
        4,
    ),
    "a type in small letters": (one("f32"), 4),
    "a byte order mark": (b"\xef\xbb\xbf" + one(), 4),
    "a space before the header": (b" " + one(), 4),
    "a line end before the header": (b"\n" + one(), 4),
    "white space behind the header": (one() + b"\t\r\n ", 4),
    "a form feed behind the header": (one() + b"\x0c", 4),
    "a NUL behind the header": (one() + b"\0", 4),
    "a control character in a name": (one(name="\x01"), 4),
    "a line end in a name": (one(name="\n"), 4),
    "DEL in a name": (one(name="\x7f"), 4),
    "an escaped NUL for a name": (one(name="\\u0000"), 4),
    "no name": (one(name=""), 4),
    "half of a character in a name": (one(name="\\ud800"), 4),
    "the other half of a character in a name": (one(name="\\udc00"), 4),
    "both halves of a character in a name": (one(name="\\ud83e\\udd99"), 4),
    "half of a character in a name, in UTF-8": (one().replace(b'"a"', b'"\xed\xa0\x80"'), 4),
    "UTF-8 that is too long": (one().replace(b'"a"', b'"\xc0\x80"'), 4),
    "an escape that JSON does not have": (one(name="\\x41"), 4),
    "an empty tensor inside of another": (
        b'{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' + one("U8", "[0]", "[4,4]")[1:],
        8,
    ),
    "an empty tensor between two": (
        b'{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"c":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},' + one("U8", "[0]", "[4,4]")[1:],
        8,
    ),
    "an empty tensor behind the end": (
        b'{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' + one("U8", "[0]", "[5,5]")[1:],
        4,
    ),
    "half a byte of F4": (one("F4", "[3]", "[0,1]"), 1),
    "a scalar of F4": (one("F4", "[]", "[0,1]"), 1),
    "rows of F4 that end within a byte": (one("F4", "[2,3]", "[0,3]"), 3),
    "a header of 17 MiB": (b'{"__metadata__":{"a":"' + b"x" * (17 * 2**20) + b'"}}', 0),
}


def odd_safetensors() -> dict[str, bytes]:
    """All of them."""
    good = packed(HEADER, DATA)
    found = {name: packed(header, bytes(count)) for name, (header, count) in HEADERS.items()}
    found |= {f"cut to {n} bytes": good[:n] for n in range(len(good))}
    found |= {"a byte behind": good + b"\0", "a byte before": b"\0" + good}
    for length in (0, 1, len(HEADER) - 1, len(HEADER) + 1, 10**8, 10**8 + 1, 2**63, 2**64 - 1):
        found[f"a header of {length} bytes, it says"] = length.to_bytes(8, "little") + good[8:]
    for at in range(len(HEADER)):
        here, before, behind = HEADER[at : at + 1], HEADER[:at], HEADER[at + 1 :]
        changes = {"left out": b"", "twice": here * 2, "for a 9": b"9", "for a quote": b'"'}
        changes |= {"for a NUL": b"\0", "with a minus before": b"-" + here}
        changes |= {"with a space before": b" " + here, "with a comma before": b"," + here}
        for change, new in changes.items():
            found[f"byte {at} ({here.decode()}) {change}"] = packed(before + new + behind, DATA)
    return found
