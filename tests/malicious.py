"""Files that would do harm if they were unpickled, each in another way; what they call is `true`.

`CONSTRUCTIONS` maps a name to a function that writes one such file. Run as a program, this compares
what `llamainspect scan`, picklescan and fickling say of them.
"""

import gzip
import io
import lzma
import pickle
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch

# --- writing a pickle by hand ---------------------------------------------------------------------

STOP = b"."
EMPTY = b")"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def wide(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<L", len(raw)) + raw


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE of a tuple."""
    return function + b"(" + b"".join(arguments) + b"tR"


def proto(number: int) -> bytes:
    """PROTO."""
    return b"\x80" + bytes([number])


SYSTEM, TRUE = named("posix", "system"), wide("true")
RUN = call(SYSTEM, TRUE)


def plain(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle of protocol 2 that calls one global."""
    return proto(2) + call(named(module, name), *(arguments or (TRUE,))) + STOP


def framed(*operations: bytes) -> bytes:
    """A pickle of protocol 4, in one frame as pickle writes it."""
    body = b"".join(operations) + STOP
    return proto(4) + b"\x95" + struct.pack("<Q", len(body)) + body


def frame(length: int) -> bytes:
    """FRAME."""
    return b"\x95" + struct.pack("<Q", length)


def blob(raw: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<L", len(raw)) + raw


def numpy_array(pickled: bytes, descr: str = "'descr': '|O'") -> bytes:
    """The file of an array of objects."""
    header = f"{{{descr}, 'fortran_order': False, 'shape': (1,), }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + pickled


ROT13 = call(named("_codecs", "encode"), wide("flfgrz"), wide("rot13"))  # "system"
ORDERED = call(named("collections", "OrderedDict"))
INNER = plain("posix", "system")
# An import calls what stands in sys.path_hooks with what stands in sys.path.
HOOK = b"csys\npath_hooks\n" + SYSTEM + b"a0csys\npath\n" + TRUE + b"a0cno_such_module\nx\n."
LONG_LINE = b"Np" + b" " * 600 + b"5\n0" + RUN + STOP  # a number that is one as a whole

# Names alone, by module and name: called with one text.
CALLED = [
    ("posix", "system"), ("os", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"),
    ("os", "spawnlp"), ("os", "posix_spawn"), ("posix", "fork"),
    ("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "eval"),
    ("__builtin__", "execfile"), ("builtins", "compile"), ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("builtins", "open"), ("__builtin__", "file"), ("builtins", "breakpoint"),
    ("builtins", "map"), ("commands", "getoutput"), ("subprocess", "Popen"),
    ("subprocess", "check_output"), ("_posixsubprocess", "fork_exec"), ("pty", "spawn"),
    ("webbrowser", "open"), ("pip", "main"), ("runpy", "run_path"), ("runpy", "_run_code"),
    ("code", "InteractiveInterpreter"), ("timeit", "timeit"), ("cProfile", "run"),
    ("profile", "run"), ("pdb", "run"), ("bdb", "Bdb"), ("doctest", "debug_script"),
    ("trace", "Trace"), ("importlib", "import_module"), ("imp", "load_source"),
    ("zipimport", "zipimporter"), ("pkgutil", "resolve_name"), ("operator", "attrgetter"),
    ("operator", "methodcaller"), ("_operator", "attrgetter"), ("functools", "partial"),
    ("functools", "reduce"), ("types", "FunctionType"), ("types", "CodeType"),
    ("marshal", "loads"), ("pickle", "loads"), ("_pickle", "loads"), ("cPickle", "loads"),
    ("dill", "loads"), ("joblib", "load"), ("shelve", "open"), ("sys", "setrecursionlimit"),
    ("shutil", "rmtree"), ("shutil", "copyfile"), ("io", "open"), ("_io", "open"),
    ("_io", "FileIO"), ("pathlib", "Path.write_text"), ("tempfile", "mktemp"),
    ("linecache", "getlines"), ("fileinput", "input"), ("sqlite3", "connect"),
    ("socket", "create_connection"), ("_socket", "socket"), ("urllib.request", "urlopen"),
    ("urllib2", "urlopen"), ("http.client", "HTTPConnection"), ("httplib", "HTTPConnection"),
    ("ftplib", "FTP"), ("smtplib", "SMTP"), ("xmlrpc.client", "ServerProxy"), ("requests", "get"),
    ("ctypes", "CDLL"), ("ctypes.util", "find_library"), ("_ctypes", "dlopen"),
    ("multiprocessing.util", "spawnv_passfds"), ("concurrent.futures", "ProcessPoolExecutor"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"), ("threading", "Thread"),
    ("signal", "signal"), ("atexit", "register"), ("logging.config", "fileConfig"),
    ("distutils.file_util", "write_file"), ("idlelib.run", "Executive"), ("ensurepip", "bootstrap"),
    ("pydoc", "pipepager"), ("uuid", "_get_command_stdout"), ("lib2to3.pgen2.pgen", "generate"),
    ("test.support.script_helper", "assert_python_ok"), ("antigravity", "geohash"),
    ("numpy", "load"), ("numpy.testing._private.utils", "runstring"), ("numpy.f2py", "compile"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    ("torch.storage", "_load_from_bytes"), ("torch.utils.cpp_extension", "load"),
    ("torch.utils.collect_env", "run"), ("torch._dynamo.guards", "GuardBuilder.get"),
    ("torch.utils._config_module", "ConfigModule.load_config"), ("torch.ops", "load_library"),
    ("torch.serialization", "os.system"), ("linecache", "os.system"),
    ("collections", "_sys.exit"), ("random", "_os.system"), ("builtins", "object.__reduce_ex__"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__.get"), ("somebodys_package", "Model"),
    # Names that look like those of tensors.
    ("torch._utils", "_rebuild_tensor_v22"), ("torch._utils ", "_rebuild_tensor_v2"),
    ("Torch._utils", "_rebuild_tensor_v2"), ("t\u043erch._utils", "_rebuild_tensor_v2"),
    ("torch._utils\r", "_rebuild_tensor_v2"), ("collections", "ordereddict"),
    ("", "OrderedDict"), ("torch", "_utils._rebuild_tensor_v2"),
]  # fmt: skip

# Whole pickles, by what is special in them.
PICKLES: dict[str, bytes] = {
    "protocol 0": b"cposix\nsystem\n(S'true'\ntR.",
    "protocol 0, no mark": b"cposix\nsystem\nS'true'\n\x85R.",
    "protocol 1": b"cposix\nsystem\n(U\x04truetR.",
    "protocol 4": framed(call(stacked("posix", "system"), text("true"))),
    "protocol 5": proto(5) + framed(call(stacked("posix", "system"), text("true")))[2:],
    "protocol 2 with STACK_GLOBAL": proto(2) + call(stacked("posix", "system"), TRUE) + STOP,
    "named and not called": proto(2) + named("antigravity", "fly") + STOP,
    "named and dropped": proto(2) + SYSTEM + b"0" + ORDERED + STOP,
    "called and dropped": proto(2) + RUN + b"0" + ORDERED + STOP,
    "INST": b"(S'true'\niposix\nsystem\n.",
    "INST under two marks": b"((X\x04\0\0\0trueiposix\nsystem\nt.",
    "OBJ": proto(2) + b"(" + SYSTEM + TRUE + b"o.",
    "OBJ through the memo": proto(2) + SYSTEM + b"q\x000(h\x00" + TRUE + b"o.",
    "NEWOBJ": proto(2) + named("subprocess", "Popen") + b"(" + TRUE + b"t\x81.",
    "NEWOBJ_EX": framed(stacked("subprocess", "Popen"), EMPTY, b"}", text("args"), text("true"),
                        b"s\x92"),
    "EXT1": proto(2) + call(b"\x82\xf0", TRUE) + STOP,
    "EXT2": proto(2) + call(b"\x83\x34\x12", TRUE) + STOP,
    "EXT4": proto(2) + call(b"\x84\x78\x56\x34\x12", TRUE) + STOP,
    "BUILD of a method": proto(2) + call(named("types", "SimpleNamespace")) + b"}" + wide(
        "__setstate__") + SYSTEM + b"sb" + TRUE + b"b.",
    "BUILD on a class": proto(2) + named("torch", "Tensor") + b"}" + wide("shape") + wide("x")
    + b"sb.",
    "BUILD with slots on a class": proto(2) + named("torch.nn.parameter", "Parameter") + b"N}"
    + wide("__add__") + named("torch._utils", "_rebuild_parameter") + b"s\x86b.",
    "BUILD on a function": proto(2) + named("torch._utils", "_rebuild_tensor_v2") + b"N}"
    + wide("__defaults__") + b")s\x86b.",
    "a name in UNICODE's escapes": proto(2) + b"V\\u0070osix\nVsys\\u0074em\n\x93"
    + b"(" + TRUE + b"tR.",
    "a name in STRING's escapes": proto(2) + b"S'\\x70osix'\nS\"s\\171stem\"\n\x93("
    + TRUE + b"tR.",
    "names as BINSTRING": proto(2) + b"T\x05\0\0\0posixU\x06system\x93(" + TRUE + b"tR.",
    "names as BINUNICODE8": framed(b"\x8d\x05\0\0\0\0\0\0\0posix", text("system"), b"\x93",
                                   b"(", text("true"), b"tR"),
    "names out of the memo": framed(text("posix"), b"\x940", text("system"), b"\x940",
                                    b"h\x00h\x01\x93(", text("true"), b"tR"),
    "a memo entry put twice": framed(text("collections"), b"q\x00", text("posix"), b"q\x00",
                                     b"00h\x00", text("system"), b"\x93(", text("true"), b"tR"),
    "a memo entry of MEMOIZE over one of PUT": framed(
        text("x"), b"\x940", text("collections"), b"q\x010", text("posix"), b"r\x01\0\0\0", b"0",
        b"j\x01\0\0\0", text("system"), b"\x93(", text("true"), b"tR"),
    "GET and PUT in decimals": proto(2) + b"Vposix\np7\n0g7\nVsystem\n\x93(" + TRUE + b"tR.",
    "one name by DUP": proto(2) + b"Vtimeit\n2\x93(" + TRUE + b"tR.",
    "decoys on the stack": framed(text("collections"), text("OrderedDict"), b"00", text("posix"),
                                  text("OrderedDict"), b"0", text("system"), b"\x93(",
                                  text("true"), b"tR"),
    "decoys above a mark": framed(text("posix"), b"(", text("collections"), text("OrderedDict"),
                                  b"1", text("system"), b"\x93(", text("true"), b"tR"),
    "decoys in a tuple": framed(text("posix"), b"(", text("collections"), text("OrderedDict"),
                                b"t0", text("system"), b"\x93(", text("true"), b"tR"),
    "an empty mark popped": framed(text("posix"), b"(0", text("system"), b"\x93(", text("true"),
                                   b"tR"),
    "a computed name": proto(2) + wide("posix") + ROT13 + b"\x93(" + TRUE + b"tR.",
    "a frame cut through a name": proto(4) + b"\x95\x02" + bytes(7) + b"cX" + b"posix\nsystem\n("
    + TRUE + b"tR.",
    # Behind the outer frame CPython takes a text of 20 bytes, most readers what is left of it.
    "a frame cut, with a frame within": proto(4) + frame(18) + frame(2) + b"N0" + b"\x8c\x14aaaaa"
    + b"b" * 15 + blob(b"0" + RUN + STOP) + b"00N.",
    "a memo entry by a number of 21 digits": proto(2) + b"Vposix\np5\n0Vcollections\np0\n0"
    + b"Vsystem\np16\n0VOrderedDict\np1\n0g" + b"0" * 20 + b"5\ng" + b"0" * 19 + b"16\n\x93("
    + TRUE + b"tR.",
    "a memo entry by a number with a NUL": proto(2) + b"Np0\0x\n0" + RUN + STOP,
    "an address in memory for a storage": proto(4) + named("torch.storage", "UntypedStorage")
    + b"(K\x08t}" + wide("allocator") + b"J\x01\0\0\0s\x92.",
    "an address in memory for a tensor": proto(4) + named("torch.cuda", "FloatTensor")
    + b")}" + wide("cdata") + b"J\x01\0\0\0s\x92.",
    "an address in memory, after items for a class": proto(4) + named("torch.cuda", "FloatTensor")
    + b"(u)}" + wide("cdata") + b"J\x01\0\0\0s\x92.",
    "BUILD on a class, after items for it": proto(2) + named("collections", "Counter") + b"(eN}"
    + wide("most_common") + named("collections", "OrderedDict") + b"s\x86b.",
    "BUILD on a class, after members for it": proto(4) + named("collections", "Counter")
    + b"(\x90N}" + wide("most_common") + named("collections", "OrderedDict") + b"s\x86b.",
    "a name of 1,200 characters": proto(4) + wide("os") + wide("path.os." * 150 + "system")
    + b"\x93" + TRUE + b"\x85R.",
    "a line of 1,200 characters": proto(4) + named("os", "path.os." * 150 + "system")
    + TRUE + b"\x85R.",
    "a long name, no STOP": b"N0" + proto(4) + wide("os") + wide("path.os." * 150 + "system")
    + b"\x93" + TRUE + b"\x85R",
    "a frame that is none": proto(4) + b"\x95\x01" + bytes(7) + b"(0" + RUN + STOP,
    "no PROTO": RUN + STOP,
    "PROTO in the middle": b"N0" + proto(2) + RUN + proto(3) + STOP,
    "a call in a dictionary's key": proto(2) + b"}" + RUN + b"K\x01s.",
    "a call in a list in a tuple": proto(2) + b"](" + RUN + b"ta.",
    "a call in the state of an object": proto(2) + ORDERED + b"}" + wide("_metadata") + RUN
    + b"sb.",
    "a call as an argument": proto(2) + call(named("collections", "OrderedDict"), RUN) + STOP,
    "a call in a persistent id": proto(2) + b"(" + wide("storage") + RUN + b"tQ.",
    "a hook of a tensor's type": proto(2) + call(named("torch._tensor", "_rebuild_from_type_v2"),
        SYSTEM, named("torch", "Tensor"), b"(" + TRUE + b"t", b"}") + STOP,
    "getattr upon getattr": proto(2) + call(call(named("builtins", "getattr"),
        call(named("builtins", "__import__"), wide("os")), wide("system")), TRUE) + STOP,
    "an operation that is none behind it": proto(2) + RUN + b"\xff.",
    "an empty stack behind it": proto(2) + RUN + b"00000.",
    "a missing memo entry behind it": proto(2) + RUN + b"h\xee.",
    "protocol 77 behind it": proto(2) + RUN + proto(77) + STOP,
    "a wrong STRING behind it": proto(2) + RUN + b"Strue\n.",
    "a wrong INT behind it": proto(2) + RUN + b"Ix\n.",
    "no STOP": proto(2) + RUN,
    "cut within a constant": proto(2) + RUN + b"X\xff\0\0\0abc",
    "two in a row": plain("collections", "OrderedDict")[:-1].replace(TRUE, b"") + STOP + INNER,
    "a hundred in a row": (proto(2) + b"N.") * 100 + INNER,
    "blanks and then another": proto(2) + b"N." + b"\n\n" + INNER,
    "within bytes, loaded": proto(3) + call(named("_pickle", "loads"),
                                            b"B" + struct.pack("<L", len(INNER)) + INNER) + STOP,
    "within bytes": proto(3) + b"B" + struct.pack("<L", len(INNER)) + INNER + STOP,
    "within a bytearray": proto(5) + b"\x96" + struct.pack("<Q", len(INNER)) + INNER + STOP,
    "within text, for protocol 2": pickle.dumps(INNER, protocol=2),
    "within bytes within bytes": pickle.dumps(pickle.dumps(INNER, protocol=4), protocol=4),
    "protocol 0 within bytes": pickle.dumps(b"cposix\nsystem\n(S'true'\ntR.", protocol=4),
    "within bytes, behind another operation": proto(3) + blob(b"N0" + RUN + STOP) + STOP,
    "within bytes, of protocol 1": proto(3) + blob(proto(1) + RUN + STOP) + STOP,
    "within bytes, items for a global": proto(3) + blob(HOOK) + STOP,
    "within bytes, a line of 600 blanks": proto(3) + blob(LONG_LINE) + STOP,
    "within bytes, an array": proto(3) + blob(numpy_array(INNER)) + STOP,
    "within bytes, compressed": proto(3) + blob(zlib.compress(INNER)) + STOP,
    "within text of protocol 0": b"V" + RUN.replace(b"\n", rb"\u000a") + b".\n.",
    "within text in another codec": proto(2) + call(named("_codecs", "encode"),
        wide(INNER.decode("cp037")), wide("cp037")) + STOP,
    "items for a global": proto(2) + HOOK,
    "an item of a table of functions": proto(2) + named("copyreg", "dispatch_table")
    + named("builtins", "complex") + SYSTEM + b"s.",
    "an address in memory by an attribute __new__": proto(4) + call(
        named("torch._tensor", "_rebuild_from_type_v2"), named("torch._utils", "_rebuild_tensor"),
        named("torch", "Tensor"),
        b"(" + call(named("torch", "LongStorage"), b"]K\x08a") + b"K\0))t",
        b"}" + wide("__new__") + named("torch.storage", "UntypedStorage") + b"s",
    ) + b")}" + wide("allocator") + b"J\x01\0\0\0s\x92.",
    "an address in memory by an attribute of NumPy's": proto(2) + call(
        named("torch._utils", "_rebuild_parameter_with_state"), call(named("torch", "Tensor")),
        b"\x89", ORDERED, b"}" + wide("__array_interface__") + b"}" + wide("data")
        + b"J\x01\0\0\0\x89\x86ss",
    ) + STOP,
    "behind a constant of 100,000 bytes": proto(3) + b"B" + struct.pack("<L", 100_000)
    + bytes(100_000) + b"0" + RUN + STOP,
    "behind 70,000 operations": proto(2) + b"N0" * 35_000 + RUN + STOP,
}  # fmt: skip


# --- files around a pickle ------------------------------------------------------------------------

NAMES_TENSORS = proto(2) + b"}" + STOP


def torch_zip(pickled: bytes, path: Path, extra: dict[str, bytes] | None = None, **how) -> None:
    """The records that torch.save writes, by torch's own writer; and others."""
    with torch.serialization._open_zipfile_writer(str(path), **how) as archive:
        archive.write_record("data.pkl", pickled, len(pickled))
        archive.write_record("data/0", bytes(64), 64)
        for name, data in (extra or {}).items():
            archive.write_record(name, data, len(data))


def std_zip(
    path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, comment=b""
) -> bytes:
    """An archive by the standard library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
            archive.comment = comment
    return path.read_bytes()


def zipped_with(old: bytes, new: bytes, times: int = -1) -> Callable[[Path], None]:
    """An archive in which some bytes are others."""

    def write(path: Path) -> None:
        torch_zip(INNER, path)
        path.write_bytes(path.read_bytes().replace(old, new, times))

    return write


def encrypted(path: Path) -> None:
    """The flag of encryption on its pickle, in both headers."""
    data = bytearray(std_zip(path, [("a/data.pkl", INNER)]))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    """An archive whose second half is missing."""
    torch_zip(INNER, path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(INNER) + len(INNER) + 20])


def two_archives(path: Path) -> None:
    """A harmless archive in front of another."""
    torch_zip(NAMES_TENSORS, path)
    first = path.read_bytes()
    torch_zip(INNER, path)
    path.write_bytes(first + path.read_bytes())


def hidden_in_the_front(path: Path) -> None:
    """The same the other way round: readers that go by the local headers see the harmful one."""
    torch_zip(INNER, path)
    first = path.read_bytes()
    torch_zip(NAMES_TENSORS, path)
    path.write_bytes(first + path.read_bytes())


def zip_in_zip(path: Path) -> None:
    """An archive as a record of another."""
    torch_zip(INNER, path)
    torch_zip(NAMES_TENSORS, path, {"extra.bin": path.read_bytes()})


def wrong_crc(path: Path) -> None:
    """torch does not look at sums, and the standard library refuses."""
    data = bytearray(std_zip(path, [("a/data.pkl", INNER), ("a/version", b"3\n")]))
    at = data.index(b"PK\x01\x02") + 16
    data[at : at + 4] = b"\1\2\3\4"
    path.write_bytes(data)


def other_local_name(path: Path) -> None:
    """The local header calls the pickle otherwise."""
    data = std_zip(path, [("a/data.pkl", INNER)])
    path.write_bytes(data.replace(b"a/data.pkl", b"a/data.txt", 1))


LEGACY = [  # what a file of torch before 1.6 holds, one pickle each
    proto(2) + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    proto(2) + b"M\xe9\x03.",
    proto(2) + b"}" + STOP,
    NAMES_TENSORS,
    proto(2) + b"]" + STOP,
]


def legacy(place: int) -> Callable[[Path], None]:
    """A file of torch before 1.6 with the call in one of its five pickles, or behind them."""

    def write(path: Path) -> None:
        parts = [*LEGACY[:place], LEGACY[place][:-1] + RUN + b"0.", *LEGACY[place + 1 :]]
        path.write_bytes(b"".join(parts))

    return write


# torch before 1.6 takes for a persistent id of this kind the class or function that it holds.
OF_MODULE = wide("module") + named("torch._utils", "_rebuild_tensor")
PADDED_MAGIC = LEGACY[0][:2] + b"N0" * 20 + LEGACY[0][2:]  # and so not plain to see


def legacy_module(*operations: bytes) -> Callable[[Path], None]:
    """A file of torch before 1.6 with these as its object."""
    parts = [PADDED_MAGIC, *LEGACY[1:3], proto(2), *operations, STOP, LEGACY[4]]
    return lambda path: path.write_bytes(b"".join(parts)) and None


def frame_over_others(path: Path) -> None:
    """Behind the first pickle most readers find four harmless ones, and a storage; CPython goes on
    behind the frame of the first, in the bytes of that storage."""
    magic = LEGACY[0][2:]
    hidden = LEGACY[1] + LEGACY[2] + INNER + LEGACY[4]
    hidden += bytes(-len(hidden) % 4)
    count = len(hidden) // 4
    tensors = proto(2) + b"(" + wide("storage") + named("torch", "FloatStorage") + wide("0")
    tensors += wide("cpu") + b"K" + bytes([count]) + b"NtQ."
    shown = LEGACY[1] + LEGACY[2] + tensors + proto(2) + b"]" + wide("0") + b"a."
    shown += struct.pack("<q", count)
    path.write_bytes(proto(4) + frame(len(magic + shown)) + magic + shown + hidden)


def legacy_with_storages(path: Path) -> None:
    """Written by torch, and another pickle behind its storages."""
    torch.save({"w": torch.arange(5.0)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + INNER)


def tar(members: dict[str, bytes]) -> Callable[[Path], None]:
    """A tar with these members, as torch wrote before 0.1.10."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

    return write


def tar_member(name: bytes, data: bytes, kind: bytes = b"0", nbytes: int | None = None) -> bytes:
    """A header as tar wrote it before there was a sign in it, and the bytes behind."""
    nbytes = len(data) if nbytes is None else nbytes
    fields = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % nbytes + b"00000000000\0"
    header = bytearray((name.ljust(100, b"\0") + fields + b" " * 8 + kind).ljust(512, b"\0"))
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def tar_in_a_constant(path: Path) -> None:
    """A tar without a sign whose first name begins a pickle, all the rest of it in one constant."""
    rest = HARMFUL_TAR + bytes(1024)
    name = proto(3) + b"B" + struct.pack("<L", 512 + len(rest) - 7)
    path.write_bytes(tar_member(name, b"") + rest + b"0N.")


NOTHING = pickle.dumps(0, protocol=2)
ONE = pickle.dumps(1, protocol=2)
STORAGES = b"".join(
    [
        ONE,
        proto(2) + b"(K\x05" + wide("cpu") + named("torch", "FloatStorage") + b"t.",
        struct.pack("<q", 3) + bytes(12),
        pickle.dumps([], protocol=2),
    ]
)
TENSORS = b"".join(
    [
        ONE,
        proto(2) + b"(K\x06K\x05" + named("torch", "FloatTensor") + b"t.",
        struct.pack("<i4x2q2qq", 2, 1, 3, 3, 1, 0),
    ]
)
HARMLESS_TAR = {"storages": STORAGES, "tensors": TENSORS, "pickle": NAMES_TENSORS}


HARMFUL_TAR = b"".join(
    tar_member(name.encode(), data) for name, data in (HARMLESS_TAR | {"pickle": INNER}).items()
)


HARMLESS_ARRAY = b"".join(
    [
        b"\x93NUMPY\1\0\x76\0",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }".ljust(117) + b"\n",
        bytes(48),
    ]
)


def in_a_storage(data: bytes) -> Callable[[Path], None]:
    """Bytes that a tensor holds: numpy.load and torch.export.load unpickle what they find there."""
    padded = bytearray(data + bytes(-len(data) % 8))
    return lambda path: torch.save({"w": torch.frombuffer(padded, dtype=torch.uint8)}, path)


def behind_a_constant(
    comment: bytes = b"", extra: int = 0, version: int = 20
) -> Callable[[Path], None]:
    """An archive of an array in a constant of a harmless pickle, found by its end alone."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(extra):
                info = zipfile.ZipInfo(f"{number}")
                info.comment = bytes(65_000)
                archive.writestr(info, b"")
            archive.writestr("a.npy", numpy_array(INNER))
            archive.comment = comment
        data = bytearray(b"!" + path.read_bytes())
        struct.pack_into("<H", data, data.rindex(b"PK\1\2") + 6, version)
        path.write_bytes(proto(3) + b"B" + struct.pack("<L", len(data)) + data + b".")

    return write


def tar_in_a_header(path: Path) -> None:
    """A zip whose first header is the header of a tar, too; its fields lie in the file's name."""
    inside = INNER + bytes(-len(INNER) % 512 + 1024)
    header = bytearray(tar_member(b"", INNER)[:512])
    name, length = b"a/data.pkl", 512 + len(inside)
    front = struct.pack(
        "<4s5H3L2H",
        b"PK\3\4",
        0,
        0,
        0,
        0,
        0,
        zlib.crc32(NAMES_TENSORS),
        len(NAMES_TENSORS),
        len(NAMES_TENSORS),
        len(name),
        length - 30 - len(name),
    )
    header[: len(front) + len(name)] = front + name
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + inside + NAMES_TENSORS
    directory = struct.pack("<4s2B5H3L5H2L", b"PK\1\2", 0, 0, 0, 0, 0, 0, 0,
                            zlib.crc32(NAMES_TENSORS), len(NAMES_TENSORS), len(NAMES_TENSORS),
                            len(name), 0, 0, 0, 0, 0, 0) + name  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(data), 0)
    path.write_bytes(data + directory + end)


def pax(**records: str) -> bytes:
    """Records of a PAX header."""
    texts = {f"{key}={value}\n" for key, value in records.items()}
    return b"".join(b"%d %b" % (len(text) + 3, text.encode()) for text in sorted(texts))


def hidden_tar(*headers: bytes, name: bytes = b"notes") -> Callable[[Path], None]:
    """A harmless tar, and another in a member that some headers in front make a short one."""
    hidden = b"\xff" * 512 + HARMFUL_TAR
    front = b"".join(tar_member(key.encode(), data) for key, data in HARMLESS_TAR.items())
    data = front + b"".join(headers) + tar_member(name, hidden) + bytes(1024)
    return lambda path: path.write_bytes(data) and None


def tar_and_gzip(path: Path) -> None:
    """A tar whose first name is the header of a gzip, which has the rest of that block skipped."""
    name = b"\x1f\x8b\x08\x04AAAAAA" + struct.pack("<H", 500) + b"m"
    path.write_bytes(tar_member(name, gzip.compress(INNER, mtime=0)[10:]) + bytes(1024))


FILES: dict[str, Callable[[Path], None]] = {
    "torch zip": lambda path: torch_zip(INNER, path),
    "torch zip, deep in a state dict": lambda path: torch_zip(
        proto(2) + b"}(" + wide("a") + b"}" + wide("b") + RUN + b"su.", path
    ),
    "torch zip, INST": lambda path: torch_zip(PICKLES["INST"], path),
    "torch zip, protocol 4": lambda path: torch_zip(PICKLES["protocol 4"], path),
    "torch zip, two pickles in data.pkl": lambda path: torch_zip(NAMES_TENSORS + INNER, path),
    "torch zip, another pickle beside": lambda path: torch_zip(
        NAMES_TENSORS, path, {"constants.pkl": INNER}
    ),
    "torch zip, a pickle in a folder": lambda path: torch_zip(
        NAMES_TENSORS, path, {"a/b/c/more.pkl": INNER}
    ),
    "torch zip, a pickle called .txt": lambda path: torch_zip(
        NAMES_TENSORS, path, {"readme.txt": INNER}
    ),
    "torch zip, a pickle among the storages": lambda path: torch_zip(
        NAMES_TENSORS, path, {"data/1": INNER}
    ),
    "torch zip, DATA.PKL before data.pkl": lambda path: std_zip(
        path, [("a/DATA.PKL", INNER), ("a/data.pkl", NAMES_TENSORS)]
    ),
    "two records data.pkl": lambda path: std_zip(
        path, [("a/data.pkl", NAMES_TENSORS), ("a/data.pkl", INNER)]
    ),
    "two records data.pkl, the first one": lambda path: std_zip(
        path, [("a/data.pkl", INNER), ("a/data.pkl", NAMES_TENSORS)]
    ),
    "deflated": lambda path: std_zip(path, [("a/data.pkl", INNER)], zipfile.ZIP_DEFLATED),
    "bzip2": lambda path: std_zip(path, [("a/data.pkl", INNER)], zipfile.ZIP_BZIP2),
    "lzma": lambda path: std_zip(path, [("a/data.pkl", INNER)], zipfile.ZIP_LZMA),
    "encrypted": encrypted,
    "a comment behind": lambda path: std_zip(
        path, [("a/data.pkl", INNER)], comment=b"PK\x05\x06" + bytes(18)
    ),
    "a name that leads out": lambda path: std_zip(path, [("../../data.pkl", INNER)]),
    "an absolute name": lambda path: std_zip(path, [("/data.pkl", INNER)]),
    "a name with backslashes": lambda path: std_zip(path, [("a\\data.pkl", INNER)]),
    "a name with a NUL": zipped_with(b"/data.pkl", b"/data\0pkl"),
    "a pickle in a folder called data.pkl": lambda path: std_zip(
        path, [("a/data.pkl", NAMES_TENSORS), ("a/data.pkl/x", INNER)]
    ),
    "another name in the local header": other_local_name,
    "a wrong CRC": wrong_crc,
    "a wrong sign of the archive": zipped_with(b"PK\x03\x04", b"PK\x03\x05", 1),
    "a wrong sign of the directory": zipped_with(b"PK\x01\x02", b"PK\x01\x03", 1),
    "cut short": cut_short,
    "two archives": two_archives,
    "two archives, the first one": hidden_in_the_front,
    "something in front of an archive": lambda path: path.write_bytes(
        b"#!/bin/sh\n" + std_zip(path, [("a/data.pkl", INNER)])
    ),
    "a pickle in front of an archive": lambda path: path.write_bytes(
        INNER + std_zip(path, [("a/data.pkl", NAMES_TENSORS)])
    ),
    "an archive within an archive": zip_in_zip,
    **{f"before torch 1.6, pickle {place + 1}": legacy(place) for place in range(5)},
    "before torch 1.6, attributes of a function": legacy_module(
        b"(" + OF_MODULE + b"NNtQN}" + wide("__defaults__") + b")s\x86b"
    ),
    "before torch 1.6, a file written": legacy_module(
        b"(" + OF_MODULE + wide("any text") + wide("any other") + b"tQ"
    ),
    "before torch 1.6, a frame over four pickles": frame_over_others,
    "before torch 1.6, a wrong magic number": lambda path: path.write_bytes(
        proto(2) + b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x18." + INNER
    ),
    "before torch 1.6, another pickle behind": legacy_with_storages,
    "tar": tar(HARMLESS_TAR | {"pickle": INNER}),
    "tar, in its storages": tar(HARMLESS_TAR | {"storages": NOTHING[:-1] + b"0" + RUN + b"0K\0."}),
    "tar, behind its storages": tar(HARMLESS_TAR | {"storages": STORAGES[:-6] + INNER}),
    "tar, in its tensors": tar(HARMLESS_TAR | {"tensors": INNER}),
    "tar, a member beside": tar(HARMLESS_TAR | {"other.pkl": INNER}),
    "tar, attributes of a function": tar(
        HARMLESS_TAR | {"pickle": proto(2) + b"(" + OF_MODULE[11:] + b"NNtQN}"
                        + wide("__defaults__") + b")s\x86b."}
    ),
    "tar in a constant of a pickle": tar_in_a_constant,
    "tar within the length of a directory": lambda path: path.write_bytes(
        tar_member(b"d", b"", b"5", len(HARMFUL_TAR)) + HARMFUL_TAR + bytes(1024)
    ),
    "tar within the length of an old directory": lambda path: path.write_bytes(
        tar_member(b"d/", b"", b"\0", len(HARMFUL_TAR)) + HARMFUL_TAR + bytes(1024)
    ),
    "tar and gzip at once": tar_and_gzip,
    "tar, a length behind the end of its header": hidden_tar(
        tar_member(b"x", pax(mtime="1") + pax(size="512"), b"x", len(pax(mtime="1")))
    ),
    "tar and pickle at once": lambda path: path.write_bytes(
        (RUN + STOP).ljust(257, b"\0") + b"ustar\0" + b"00" + bytes(247)
    ),
    "an array of objects": lambda path: path.write_bytes(numpy_array(INNER)),
    "an array of records with objects": lambda path: path.write_bytes(
        numpy_array(INNER, "'descr': [('a', '|O')]")
    ),
    "an array of objects in other quotes": lambda path: path.write_bytes(
        numpy_array(INNER, '"descr": "|O"')
    ),
    "an array of objects far behind": lambda path: path.write_bytes(
        numpy_array(INNER, " " * 11_000 + "'descr': '|O'")
    ),
    "an archive of arrays of objects": lambda path: std_zip(
        path, [("a.npy", numpy_array(INNER))]
    ),
    "an array of objects in a storage": in_a_storage(numpy_array(INNER)),
    "a pickle in a storage": in_a_storage(INNER),
    "a pickle in a storage, behind 20 operations": in_a_storage(b"N0" * 10 + INNER),
    "a pickle in a storage, behind a constant": in_a_storage(
        b"B" + struct.pack("<L", 1_000) + bytes(1_000) + b"0" + INNER
    ),
    "lzma that begins as safetensors": lambda path: path.write_bytes(
        b"]\0\0\0\0\0\0\0{" + lzma.compress(INNER, lzma.FORMAT_ALONE)[9:]
    ),
    "an archive in a storage": lambda path: in_a_storage(
        std_zip(path, [("a/data.pkl", INNER)])
    )(path),
    "an array of objects behind another": lambda path: path.write_bytes(
        HARMLESS_ARRAY * 2 + numpy_array(INNER)
    ),
    "an array of objects behind one of records": lambda path: path.write_bytes(
        numpy_array(bytes(4), "'descr': [('a', '<f4')]") + numpy_array(INNER)
    ),
    "a pickle behind an array": lambda path: path.write_bytes(HARMLESS_ARRAY + INNER),
    "an archive of arrays behind an empty one": lambda path: path.write_bytes(
        b"PK\x05\x06\n\xff" + std_zip(path, [("a.npy", numpy_array(INNER))])
    ),
    "an archive with a directory of 4.5 MB": behind_a_constant(extra=70),
    "an archive 65,536 bytes before the end": behind_a_constant(b"x" * 65_535),
    "an archive of version 9.9": behind_a_constant(version=99),
    "tar in the header of a zip": tar_in_a_header,
    "torch zip, a package": lambda path: torch_zip(
        NAMES_TENSORS, path, {".data/extern_modules": b"", "evil.py": b"import os"}
    ),
    "torch zip, an expression": lambda path: torch_zip(
        NAMES_TENSORS, path, {"models/model.json": b"{}"}
    ),
    "torch zip, a source for a compiler": lambda path: torch_zip(
        NAMES_TENSORS, path, {"data/aotinductor/model/x.cpp": b""}
    ),
    "torch zip, a library": lambda path: torch_zip(
        NAMES_TENSORS, path, {"data/aotinductor/model/x.so": b"\x7fELF"}
    ),
    "gzip": lambda path: path.write_bytes(gzip.compress(INNER)),
}  # fmt: skip


def as_file(pickled: bytes) -> Callable[[Path], object]:
    """What writes a pickle as it is."""
    return lambda path: path.write_bytes(pickled)


CONSTRUCTIONS: dict[str, Callable[[Path], None]] = {
    **{f"call of {f'{module}.{name}'!r}": as_file(plain(module, name)) for module, name in CALLED},
    **{name: as_file(pickled) for name, pickled in PICKLES.items()},
    **FILES,
}


# --- what the three say ---------------------------------------------------------------------------


def picklescan_flags(path: Path) -> bool:
    """Whether picklescan finds anything but harmless globals, in any way it can say so."""
    from picklescan.scanner import SafetyLevel, scan_file_path

    result = scan_file_path(str(path))
    return bool(
        result.issues_count
        or result.scan_err
        or any(found.safety != SafetyLevel.Innocuous for found in result.globals)
    )


def fickling_flags(path: Path) -> bool:
    """Whether fickling finds the file, or a pickle in its archive, anything but likely harmless."""
    from fickling import scan_file, scan_zip_archive

    with redirect_stderr(io.StringIO()):  # where it says what it found malformed
        if zipfile.is_zipfile(path):
            results = list(scan_zip_archive(str(path), graceful=True).values())
        else:
            results = [scan_file(str(path), graceful=True)]
    return not all(results)


def verdicts(directory: Path) -> dict[str, tuple[str, bool | None, bool | None]]:
    """By construction: ours, and whether picklescan and fickling flag it; None: they fail."""
    from llamainspect import scan_files

    said = {}
    for number, (name, write) in enumerate(CONSTRUCTIONS.items()):
        path = directory / f"{number}.pth"
        write(path)
        others: list[bool | None] = []
        for flags in (picklescan_flags, fickling_flags):
            try:
                others.append(flags(path))
            except Exception:  # whatever they fail with, it is no answer
                others.append(None)
        said[name] = (scan_files(str(path)).verdict, others[0], others[1])
    return said


def main() -> None:
    """A line for each construction, and the sums."""
    words = {True: "flagged", False: "missed", None: "fails"}
    with tempfile.TemporaryDirectory() as directory:
        said = verdicts(Path(directory))
    for name, (ours, picklescan, fickling) in said.items():
        print(f"{ours:10} {words[picklescan]:8} {words[fickling]:8} {name}")
    flagged = [ours != "known" for ours, _, _ in said.values()]
    print(f"\nof {len(said)}: llamainspect {sum(flagged)}", end="")
    for index, scanner in ((1, "picklescan"), (2, "fickling")):
        counts = {
            word: sum(row[index] is key for row in said.values()) for key, word in words.items()
        }
        print(f", {scanner} {counts['flagged']} ({counts['fails']} fails)", end="")
    print()


if __name__ == "__main__":
    sys.exit(main())
