"""What a scan says, against CPython's unpicklers, torch.load, pickletools and other scanners."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import LLAMA_3_1_405B, write_sparse
from in_process import run
from malicious import (
    CONSTRUCTIONS,
    HARMFUL_TAR,
    HARMLESS_TAR,
    HOOK,
    INNER,
    LEGACY,
    LONG_LINE,
    NAMES_TENSORS,
    RUN,
    STOP,
    TRUE,
    call,
    named,
    numpy_array,
    pax,
    proto,
    std_zip,
    tar,
    tar_member,
    torch_zip,
    verdicts,
    wide,
)
from test_cli import EXAMPLE, in_terminal

import llamainspect as li
from llamainspect import effects
from llamainspect.effects import effect_of
from llamainspect.formats.pickle_scan import scan_pickle
from llamainspect.formats.views import View
from llamainspect.sources import Folder


@pytest.fixture(scope="module")
def constructions(tmp_path_factory) -> dict[str, Path]:
    """A file of each construction."""
    place = tmp_path_factory.mktemp("malicious")
    written = {}
    for number, (name, write) in enumerate(CONSTRUCTIONS.items()):
        written[name] = place / f"{number}.pth"
        write(written[name])
    return written


def only(path) -> "li.reports.ScannedFile":
    (scanned,) = li.scan_files(str(path)).files
    return scanned


# --- malicious files ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # fickling's and the standard library's own
def test_every_construction_is_flagged(tmp_path):
    said = verdicts(tmp_path)
    assert len(said) >= 200
    assert [name for name, (ours, _, _) in said.items() if ours == "known"] == []
    # The others flag most, so that these are what the field calls malicious.
    assert sum(row[1] is True for row in said.values()) > 200
    assert sum(row[2] is True for row in said.values()) > 200


# Not one of these names code that runs commands by itself, or a reader must guess at it.
NOT_DANGEROUS = {
    "EXT1", "EXT2", "EXT4", "blanks and then another", "bzip2", "lzma", "encrypted", "gzip",
    "a wrong sign of the archive", "before torch 1.6, attributes of a function",
    "before torch 1.6, a file written", "tar, attributes of a function",
    "an archive with a directory of 4.5 MB", "an array of objects behind one of records",
    "torch zip, a package", "torch zip, a library", "torch zip, an expression",
    "torch zip, a source for a compiler", "an archive of version 9.9",
    "lzma that begins as safetensors", "within bytes, compressed",
    "within text in another codec", "tar and gzip at once",
    "tar, a length behind the end of its header",
    "an address in memory by an attribute of NumPy's",
    "an address in memory by an attribute __new__",
}  # fmt: skip


def test_what_runs_commands_is_dangerous(constructions):
    for name, path in constructions.items():
        if not name.startswith("call of") and name not in NOT_DANGEROUS:
            assert only(path).verdict == "dangerous", name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encrypted", "it is encrypted, so what it holds cannot be told"),
        ("bzip2", "it is compressed in a way (method 12) not read"),
        ("lzma", "it is compressed in a way (method 14) not read"),
        ("something in front of an archive", "an archive stands in it behind something else"),
        ("gzip", "it is gzip-compressed; decompress it first"),
    ],
)
def test_what_cannot_be_looked_into_is_said(constructions, name, message):
    assert message in [odd.message for odd in only(constructions[name]).oddities]


def test_of_an_archive_that_was_cut_only_that_is_said(constructions):
    (odd,) = only(constructions["cut short"]).oddities
    assert "its end is missing" in odd.message


def test_a_member_that_is_no_pickle_or_cannot_be_unpacked_is_said(tmp_path):
    torch_zip(NAMES_TENSORS, tmp_path / "a.pth", {"more.pkl": b"\xff\xff"})
    assert [(odd.where, odd.message) for odd in only(tmp_path / "a.pth").oddities] == [
        ("more.pkl", "it is no pickle, whatever its name says")
    ]
    data = bytearray(std_zip(tmp_path / "b.pth", [("a/data.pkl", bytes(10_000))], 8))
    at = data.index(b"a/data.pkl") + len("a/data.pkl") + 2
    data[at : at + 3] = b"\xff\xff\xff"
    (tmp_path / "b.pth").write_bytes(data)
    assert "it is damaged, or too long to be unpacked here" in [
        odd.message for odd in only(tmp_path / "b.pth").oddities
    ]


def test_behind_a_directory_in_a_tar_nothing_is_skipped(tmp_path):
    """It has a length, as no directory has, and what comes next is read all the same."""
    with tarfile.open(tmp_path / "a.pth", "w:") as archive:
        entry = tarfile.TarInfo("folder")
        entry.type, entry.size = tarfile.DIRTYPE, 1024
        archive.addfile(entry)
        entry = tarfile.TarInfo("pickle")
        entry.size = len(INNER)
        archive.addfile(entry, io.BytesIO(INNER))
    assert only(tmp_path / "a.pth").verdict == "dangerous"


REACHED = """
import json, sys, warnings
import torch
warnings.simplefilter("ignore")
allowed = {tuple(pair) for pair in json.loads(sys.argv[1])}
names = []

def hook(event, arguments):
    if event == "pickle.find_class":
        names.append(arguments)
        if tuple(arguments) not in allowed:
            raise RuntimeError("reached")

sys.addaudithook(hook)
said = {}
for path in sys.argv[2:]:
    names.clear()
    try:
        torch.load(path, weights_only=False)
    except Exception:
        pass
    said[path] = [".".join(pair) for pair in names]
print(json.dumps(said))
"""


def test_what_torch_comes_to_is_listed(constructions):
    """torch.load, stopped by an audit hook at the first global that is no tensor's."""
    harmless = [
        ("collections", "OrderedDict"), ("_codecs", "encode"), ("torch", "FloatStorage"),
        ("torch", "FloatTensor"), ("torch", "Tensor"), ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._tensor", "_rebuild_from_type_v2"), ("torch._utils", "_rebuild_parameter"),
        ("torch.nn.parameter", "Parameter"),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", REACHED, json.dumps(harmless), *map(str, constructions.values())],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    reached = json.loads(done.stdout)
    spelled = {".".join(pair) for pair in harmless}
    real = 0
    for name, path in constructions.items():
        scanned = only(path)
        listed = {entry.name for pickle in scanned.pickles for entry in pickle.globals}
        told = ("computes", "frame", "of the tar stands")  # instead of what stands there
        hidden = any(word in odd.message for odd in scanned.oddities for word in told)
        assert hidden or set(reached[str(path)]) <= listed, name
        real += any(entry not in spelled for entry in reached[str(path)])
    assert real > 170  # the others are refused by torch, and run by other readers or not at all


class Anything:
    """What every global of a random stream stands for: it takes all that is done to it."""

    def __new__(cls, *arguments, **names):
        return object.__new__(cls)

    def __init__(self, *arguments, **names): ...

    def __call__(self, *arguments, **names):
        return Anything()

    def __setstate__(self, state): ...

    def __setitem__(self, key, value): ...

    def append(self, value): ...

    extend = add = append

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return True


def listening(unpickler: type) -> type:
    class Listening(unpickler):  # type: ignore[misc, valid-type]
        def __init__(self, data: bytes) -> None:
            super().__init__(io.BytesIO(data))
            self.asked: list[tuple[str, str]] = []

        def find_class(self, module, name):
            self.asked.append((module, name))
            return Anything

        def persistent_load(self, value):
            return Anything()

        def get_extension(self, code):
            raise pickle.UnpicklingError("an extension")

    return Listening


UNPICKLERS = [listening(pickle.Unpickler), listening(pickle._Unpickler)]
TEXTS = [b"os", b"system", b"a", b"", b"builtins", b"eval", b"0", b"1", b"2", b"x y", b"\\x6fs",
         b"\xc3\xa9"]  # fmt: skip
OFTEN = {
    "MARK": 4, "GLOBAL": 4, "STACK_GLOBAL": 6, "SHORT_BINUNICODE": 6, "BINPUT": 4, "BINGET": 4,
    "REDUCE": 4, "EMPTY_TUPLE": 4, "MEMOIZE": 4, "INST": 3, "OBJ": 3, "POP": 3, "DUP": 3,
    "UNICODE": 3, "STRING": 3, "BINUNICODE": 3, "STOP": 0.2,
}  # fmt: skip


def random_stream(seed: int) -> bytes:
    """Operations in any order with arguments that fit, in part with a few bytes changed."""
    rng = random.Random(seed)
    weights = [OFTEN.get(opcode.name, 1) for opcode in pickletools.opcodes]
    data = bytearray()
    for opcode in rng.choices(pickletools.opcodes, weights, k=rng.randrange(2, 40)):
        data += opcode.code.encode("latin-1") + argument(opcode, rng)
    data += STOP
    for _ in range(rng.choice([0, 0, 0, 1, 2, 3])):
        at = rng.randrange(len(data))
        data[at : at + rng.choice([0, 1])] = rng.randbytes(rng.choice([0, 1]))
    return bytes(data)


def argument(opcode: pickletools.OpcodeInfo, rng: random.Random) -> bytes:
    if opcode.arg is None:
        return b""
    text, width = rng.choice(TEXTS), opcode.arg.n
    if width > 0:
        return rng.choice([0, 1, 2, 3]).to_bytes(width, "little")
    if width == pickletools.UP_TO_NEWLINE:
        if "pair" in opcode.arg.name:
            return text + b"\n" + rng.choice(TEXTS) + b"\n"
        if "decimal" in opcode.arg.name:
            return rng.choice([b"0", b"1", b"2", b"01", b" 1", b"1L"]) + b"\n"
        return (b"'" + text + b"'" if opcode.name == "STRING" else text) + b"\n"
    lengths = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }  # fmt: skip
    return len(text).to_bytes(lengths[width], "little") + text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, 4_000, 1_000))
def test_whatever_cpython_asks_for_is_named(first):
    """Its two unpicklers, in C and in Python, on streams that nobody wrote."""
    asked = 0
    for seed in range(first, first + 1_000):
        data = random_stream(seed)
        scan = scan_pickle(View.of(data))
        for unpickler in UNPICKLERS:
            reader = unpickler(data)
            failed = True
            try:
                reader.load()
                failed = False
            except (Exception, MemoryError):  # on most of them
                pass
            asked += len(reader.asked)
            hidden = scan.computed or scan.torn
            assert hidden or set(reader.asked) <= set(scan.uses), (seed, data)
            if unpickler is UNPICKLERS[0]:
                assert failed or hidden or scan.broken is None, (seed, data, scan.broken)
    assert asked > 100


# --- ordinary files -------------------------------------------------------------------------------


def test_checkpoints_name_only_known_constructs(checkpoint_path):
    report = li.scan_files(str(checkpoint_path))
    assert (report.verdict, report.ok) == ("known", True)
    pickled = [*checkpoint_path.glob("*.pth"), *checkpoint_path.glob("*.bin")]
    assert sorted(scanned.file for scanned in report.files) == sorted(p.name for p in pickled)
    assert report.others == len(list(checkpoint_path.iterdir())) - len(pickled)


EVERYTHING = {
    "weights": torch.zeros(3), "nested": [{"x": (torch.zeros(2), 1.5)}],
    "fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    "parameter": torch.nn.Parameter(torch.zeros(2)), "sparse": torch.eye(3).to_sparse(),
    "device": torch.device("cpu"), "dtype": torch.bfloat16, "bytes": b"abc", "set": {1},
    "size": torch.Size([2]), "complex": 1j, "state": torch.nn.Linear(2, 2).state_dict(),
    "meta": torch.zeros(2, device="meta"), "conjugate": torch.zeros(2, dtype=torch.cfloat).conj(),
}  # fmt: skip
BEFORE = {name: value for name, value in EVERYTHING.items() if name != "fp8"}  # it cannot hold it


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_that_torch_saves_and_loads_with_weights_only_is_known(tmp_path, new, protocol):
    path = tmp_path / "all.pt"
    saved = EVERYTHING if new else BEFORE
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    if protocol == 2:
        torch.load(path, weights_only=True)
    scanned = only(path)
    assert (scanned.verdict, scanned.oddities) == ("known", ())
    assert scanned.kind == ("torch" if new else "legacy")
    assert len(scanned.pickles) == (1 if new else 5)


def test_positions_and_operations_are_those_of_pickletools(tmp_path):
    torch.save(EVERYTHING | {"other": Path("x")}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        data = archive.read("a/data.pkl")
    operations = list(pickletools.genops(data))
    first: dict[str, int] = {}
    for opcode, value, position in operations:
        if opcode.name == "GLOBAL":
            first.setdefault(value.replace(" ", "."), position)
    (scanned,) = only(tmp_path / "a.pt").pickles
    assert {entry.name: entry.position for entry in scanned.globals} == first
    assert (scanned.nbytes, scanned.operations) == (len(data), len(operations))
    assert [entry.name for entry in scanned.globals if entry.status != "known"] == [
        "pathlib.PosixPath"
    ]


def test_a_frame_that_ends_behind_the_one_it_begins_in_is_told():
    body = b"\x95" + (4).to_bytes(8, "little") + b"N0"
    data = proto(4) + b"\x95" + len(body).to_bytes(8, "little") + body + b"N."
    assert scan_pickle(View.of(data)).torn == [11]


@pytest.mark.parametrize(
    "how",
    [
        lambda made: call(made, TRUE),
        lambda made: made + b")\x81",  # NEWOBJ
        lambda made: made + b")}\x92",  # NEWOBJ_EX
        lambda made: b"(" + made + b"o",  # OBJ
        lambda made: made + b"q\x000h\0)R",  # by way of the memo
    ],
)
def test_a_call_of_what_a_call_made_is_told(how):
    """Which by then may have attributes that pickle.py or a class of its own would call."""
    made = call(named("collections", "Counter"))
    scan = scan_pickle(View.of(proto(4) + how(made) + STOP))
    assert len(scan.values) == 1
    assert scan_pickle(View.of(proto(4) + how(b"N") + STOP)).values == []


def test_calls_are_counted():
    data = proto(2) + RUN + b"0" + RUN + b"0" + RUN[:15] + b"0N."  # the last is named alone
    scan = scan_pickle(View.of(data))
    assert {name: use.calls for name, use in scan.uses.items()} == {("posix", "system"): 2}


# What a pickle can do very often, and where the first 1,000 times stand.
A_HUNDRED_THOUSAND: dict[str, tuple[bytes, bytes, range]] = {
    "altered": (named("a", "b"), b"Nb", range(8, 2008, 2)),
    "extensions": (b"", b"\x82\x010", range(2, 3002, 3)),
    "references": (b"", b"NQ0", range(3, 3003, 3)),
    "computed": (b"", b"NN\x930", range(4, 4004, 4)),
}


@pytest.mark.parametrize("what", A_HUNDRED_THOUSAND)
def test_what_is_done_100_000_times_is_noted_a_thousand_times(what):
    before, operations, places = A_HUNDRED_THOUSAND[what]
    data = proto(2) + before + operations * 100_000 + b"N."
    tracemalloc.start()
    scan = scan_pickle(View.of(data))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert scan.broken is None
    noted = [one[0] if isinstance(one, tuple) else one for one in getattr(scan, what)]
    assert noted == list(places)


def test_a_harmless_tar_is_unknown_for_what_nobody_checks(tmp_path):
    tar(HARMLESS_TAR)(tmp_path / "old.pth")
    scanned = only(tmp_path / "old.pth")
    (odd,) = scanned.oddities
    assert (scanned.kind, scanned.verdict, odd.status) == ("tar", "unknown", "unknown")
    assert odd.message.startswith("torch checks no size and no place")
    assert [found.where for found in scanned.pickles] == [
        "storages > count", "storages > 0", "storages > views", "tensors > count", "tensors > 0",
        "pickle",
    ]  # fmt: skip


@pytest.mark.parametrize("opcode", [b"P1\n.", b"K\1Q."])
def test_an_id_that_describes_no_storage_is_told(tmp_path, opcode):
    """A line, too, for which the tar files of torch give out a tensor."""
    (tmp_path / "x.pkl").write_bytes(proto(2) + opcode)
    messages = [odd.message for odd in only(tmp_path / "x.pkl").oddities]
    assert messages[0].startswith("a persistent id that describes no storage")


def test_a_legacy_file_ends_with_its_storages(tmp_path):
    torch.save(BEFORE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pt").read_bytes()
    (tmp_path / "twice.pt").write_bytes(data + data)  # torch.load can be called twice on it
    assert only(tmp_path / "twice.pt").verdict == "known"
    assert len(only(tmp_path / "twice.pt").pickles) == 10
    (tmp_path / "short.pt").write_bytes(data[:-1])
    assert only(tmp_path / "short.pt").verdict == "unknown"
    (tmp_path / "long.pt").write_bytes(data + b"x")
    assert [odd.message for odd in only(tmp_path / "long.pt").oddities] == [
        "1 bytes behind its end are no pickle"
    ]


@pytest.mark.parametrize(
    ("module", "name", "dangerous"),
    [
        ("argparse", "Namespace", False), ("numpy.core.multiarray", "_reconstruct", False),
        ("numpy", "ndarray", False), ("torch.optim.adamw", "AdamW", False),
        ("transformers.training_args", "TrainingArguments", False),
        ("mymodel.types", "Config", False), ("my.code", "Thing", False),
        ("pathlib", "PosixPath", False), ("types", "SimpleNamespace", False),
        ("__builtin__", "execfile", True), ("commands", "getoutput", True),
        ("random", "_os.system", True), ("torch.serialization", "os.system", True),
        ("collections", "OrderedDict.__init__.__globals__", True), ("urllib2", "urlopen", True),
        ("posixpath_like", "join", False), ("torch._C", "Generator", False),
        ("numpy", "save", True), ("torch.storage", "UntypedStorage.from_file", True),
        ("torch.storage", "UntypedStorage", False), ("psutil", "Popen", True),
        ("torch.jit._pickle", "build_intlist", False), ("torch.jit._pickle", "x", True),
        ("os.path", "join", True), ("code", "x", True),
    ],
)  # fmt: skip
def test_what_is_dangerous_is_not_guessed_by_a_part_of_a_name(module, name, dangerous):
    assert bool(effect_of(module, name)) is dangerous


# --- bounds ---------------------------------------------------------------------------------------


def test_files_within_files_end(tmp_path):
    data = NAMES_TENSORS
    for _ in range(30):
        data = pickle.dumps(data, protocol=4)
    (tmp_path / "deep.pkl").write_bytes(data)
    scanned = only(tmp_path / "deep.pkl")
    assert (scanned.verdict, len(scanned.pickles)) == ("unknown", 9)
    assert "deep" in scanned.oddities[0].message


def test_a_bomb_is_unpacked_in_part(tmp_path):
    """A gigabyte of zeros in a megabyte, sixteen times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(128)) + packer.flush()
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
        warnings.simplefilter("ignore")
        for number in range(16):
            archive.writestr(f"a/{number}.pkl", packed)
    data = (tmp_path / "bomb.pth").read_bytes()
    at = -1
    data = bytearray(data)
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        data[at + 10 : at + 12] = b"\x08\0"
    (tmp_path / "bomb.pth").write_bytes(data)
    tracemalloc.start()
    scanned = only(tmp_path / "bomb.pth")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scanned.verdict == "unknown"
    assert peak < 80 * 2**20


def test_operations_and_objects_are_bounded(tmp_path):
    (tmp_path / "long.pkl").write_bytes(b"N0" * 2_200_000 + STOP)
    scanned = only(tmp_path / "long.pkl")
    assert (scanned.verdict, len(scanned.pickles)) == ("unknown", 1)
    assert 4_000_000 < scanned.pickles[0].operations < 4_200_000
    (tmp_path / "wide.pkl").write_bytes(b"N" * 1_200_000 + STOP)
    assert "objects" in only(tmp_path / "wide.pkl").oddities[0].message


def test_the_worst_is_listed_whatever_stands_in_front_of_it(tmp_path):
    names = b"".join(named("somewhere", f"name{number}") + b"0" for number in range(1_500))
    (tmp_path / "many.pkl").write_bytes(proto(2) + names + RUN + STOP)
    scanned = only(tmp_path / "many.pkl")
    (found,) = scanned.pickles
    assert (scanned.verdict, len(found.globals), found.more_globals) == ("dangerous", 1_000, 501)
    assert found.globals[-1].name == "posix.system"


def test_more_constants_than_are_looked_into_are_said(tmp_path):
    inner = pickle.dumps(Fraction(1))
    (tmp_path / "many.pkl").write_bytes(
        pickle.dumps([inner + bytes([n % 7]) for n in range(1_003)], protocol=4)
    )
    messages = [odd.message for odd in only(tmp_path / "many.pkl").oddities]
    assert "3 more constants may be pickles and were not looked into" in messages


def test_many_pickles_in_a_row_are_bounded(tmp_path):
    (tmp_path / "row.pkl").write_bytes(b"N." * 500_000)
    scanned = only(tmp_path / "row.pkl")
    assert (scanned.verdict, scanned.kind) == ("unknown", "pickle")
    assert 10_000 < len(scanned.pickles) < 20_000


@pytest.mark.parametrize("header", [bytes(26), bytes(22) + b"\1\0\0\0pV"])
def test_archives_in_archives_without_end_are_bounded(tmp_path, monkeypatch, header):
    """Each header is the contents of the one before: a tree as wide as it is deep."""
    (tmp_path / "tree.pth").write_bytes((b"PK\x03\x04" + header) * 50_000)
    lengths, read = [], Folder.read
    monkeypatch.setattr(Folder, "read", lambda *asked: (lengths.append(asked[-1]), read(*asked))[1])
    assert only(tmp_path / "tree.pth").verdict == "unknown"
    assert sum(lengths) < 2**31  # without a bound: 10^11


def test_a_tar_with_more_members_than_are_looked_at_is_not_known(tmp_path):
    empty = tar_member(b"x", b"")
    (tmp_path / "long.pth").write_bytes(empty * 20_000 + HARMFUL_TAR + bytes(1024))
    assert only(tmp_path / "long.pth").verdict == "unknown"


def test_headers_that_begin_archives_upon_archives_end_soon(tmp_path):
    """Each of 40 headers has no length, so that all behind it is its own."""
    header = b"PK\x03\x04" + bytes(22) + b"\1\0\0\0a"
    (tmp_path / "nested.pth").write_bytes(header * 40)
    start = time.process_time()
    scanned = only(tmp_path / "nested.pth")
    assert time.process_time() - start < 20  # without a bound: hours
    assert scanned.verdict == "unknown"
    assert len(scanned.oddities) <= 1_000


def test_a_report_is_bounded_and_has_the_worst_of_each_pickle(tmp_path):
    names = b"".join(b"ca\nb%d\n0" % number for number in range(1_500)) + b"N."
    computed = b"NN\x930" * 1_500 + b"N."
    (tmp_path / "many.pkl").write_bytes(names * 3 + INNER + computed * 3)
    scanned = only(tmp_path / "many.pkl")
    assert [len(found.globals) for found in scanned.pickles] == [1_000, 1, 1, 1, 0, 0, 0]
    assert [found.more_globals for found in scanned.pickles[:4]] == [500, 1_499, 1_499, 0]
    assert scanned.pickles[3].globals[0].name == "posix.system"
    assert len(scanned.oddities) == 1_002


def test_what_torch_writes_by_name_and_by_persistent_id_is_no_oddity(tmp_path):
    """Only keywords of tensor constructs, and only persistent ids of no storage."""
    keywords = proto(4) + b"ca\nb\n)}" + b"\x92."
    (tmp_path / "a.pkl").write_bytes(keywords)
    assert only(tmp_path / "a.pkl").oddities == ()
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ."
    (tmp_path / "b.pkl").write_bytes(storage)
    assert only(tmp_path / "b.pkl").verdict == "known"


def test_keywords_of_a_tensor_construct_are_told_behind_thousands_of_others(tmp_path):
    others = (b"ca\nb\n)}" + b"\x92" + b"0") * 2_000
    last = named("torch._utils", "_rebuild_tensor_v2") + b")}" + b"\x92."
    (tmp_path / "a.pkl").write_bytes(proto(4) + others + last)
    (odd,) = only(tmp_path / "a.pkl").oddities
    assert odd.position == 2 + len(others) + len(last) - 2
    assert "torch._utils._rebuild_tensor_v2 with arguments by name" in odd.message


def test_torchscript_is_told_whatever_the_case_of_its_folder(tmp_path):
    torch_zip(NAMES_TENSORS, tmp_path / "a.pt", {"CODE/__torch__.py": b"class M: ..."})
    (odd,) = only(tmp_path / "a.pt").oddities
    assert "TorchScript" in odd.message


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """Bytes of each read."""
    lengths: list[int] = []
    read = Folder.read

    def counting(self, file, offset, length):
        lengths.append(length)
        return read(self, file, offset, length)

    monkeypatch.setattr(Folder, "read", counting)
    return lengths


def test_a_large_shard_is_not_read_for_it(tmp_path, taken):
    """Of 50 GB the directory, its pickle and the heads of a few records."""
    write_sparse(tmp_path, LLAMA_3_1_405B, 53248, 16)
    shard = tmp_path / "consolidated.00.pth"
    assert only(shard).verdict == "known"
    assert sum(taken) < 1_500_000 < shard.stat().st_size


def test_of_files_that_are_none_little_is_read(tmp_path, taken):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_bytes(b"some text" * 100_000)
    assert li.scan_files(str(tmp_path)).others == 10
    assert sum(taken) < 10 * 70_000


# --- the command ----------------------------------------------------------------------------------


def test_exit_codes_and_json(tmp_path, constructions):
    done = run("scan", EXAMPLE, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["verdict"]) == (0, True, "known")
    assert report["files"][0]["pickles"][0]["where"] == "data.pkl"
    done = run("scan", constructions["torch zip"], "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["verdict"]) == (1, False, "dangerous")
    (named,) = report["files"][0]["pickles"][0]["globals"]
    assert named == {
        "name": "posix.system", "position": 2, "calls": 1, "status": "dangerous",
        "effect": "runs commands",
    }  # fmt: skip


def test_the_page_never_says_safe(constructions):
    for path in [EXAMPLE, *list(constructions.values())[::10]]:
        assert "safe" not in run("scan", path).stdout.lower().replace("safetensors", "")
    assert "safe" not in run("scan", "--help").stdout.lower()


def test_nothing_that_is_unpickled(tmp_path):
    done = run("scan", tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    (tmp_path / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    done = run("scan", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no pickle in 1 file" in done.stdout
    assert "None has the name of a pickle, begins as one, or is compressed." in done.stdout
    assert run("scan", tmp_path / "model.safetensors").returncode == 0
    (tmp_path / "pytorch_model.bin").write_bytes(b"<html>please log in</html>")
    done = run("scan", tmp_path)
    assert (done.returncode, "web page" in done.stdout) == (1, True)


def test_other_formats_hold_no_pickle(tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(3))
    (tmp_path / "ggml-model.bin").write_bytes(b"GGUF" + bytes(100))
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "renamed.bin").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    for path in [tmp_path, *tmp_path.iterdir()]:
        report = li.scan_files(str(path))
        assert (report.verdict, report.files) == ("known", ()), path


def test_what_cannot_be_opened_is_told_and_nothing_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "dangling.pth").symlink_to("nowhere")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "sub").mkdir()
    torch_zip(INNER, tmp_path / "sub" / "evil.bin")
    report = li.scan_files(str(tmp_path))
    assert {scanned.file: scanned.verdict for scanned in report.files} == {
        "dangling.pth": "unknown", "loop.pth": "unknown", "pipe.pth": "unknown",
        "sub/evil.bin": "dangerous",
    }  # fmt: skip


def test_a_pickle_under_any_name_is_found(tmp_path):
    (tmp_path / "README").write_bytes(INNER)
    torch_zip(INNER, tmp_path / "weights.dat")
    (tmp_path / "notes.txt").write_bytes(b"cposix or not")
    (tmp_path / "modeling.py").write_bytes(b"import os\nimport sys\n\nprint(os, sys)\n")
    (tmp_path / "LICENSE").write_bytes(b"(it is provided as is\nand so on\n)")
    report = li.scan_files(str(tmp_path))
    assert [scanned.file for scanned in report.files] == ["README", "weights.dat"]
    assert report.others == 3


PACKERS = {  # joblib.load unpacks all of these by how they begin
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    **{f"zlib, level {n}": partial(zlib.compress, level=n) for n in (1, 3, 6, 9)},
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + data,
    "lz4": lambda data: b"\x04\x22\x4d\x18" + data,
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["model.pkl.gz", "model.PKL.Z", "model.sav", "vocabulary.txt"])
def test_what_is_compressed_is_not_passed_over(tmp_path, name, packer):
    (tmp_path / name).write_bytes(PACKERS[packer](INNER))
    (tmp_path / "formula.txt").write_bytes(b"x^2 + y^2 = z^2")
    (scanned,) = li.scan_files(str(tmp_path)).files
    assert (scanned.file, scanned.verdict) == (name, "unknown")
    kind = packer.partition(",")[0]
    assert scanned.oddities[0].message == f"it is {kind}-compressed; decompress it first"


def test_a_link_to_a_directory_is_not_entered_and_so_not_known(tmp_path):
    for name in ("model", "elsewhere"):
        (tmp_path / name).mkdir()
    torch_zip(INNER, tmp_path / "elsewhere" / "evil.bin")
    (tmp_path / "model" / "part").symlink_to("../elsewhere")
    (scanned,) = li.scan_files(str(tmp_path / "model")).files
    assert (scanned.file, scanned.verdict) == ("part", "unknown")
    assert "not entered" in scanned.oddities[0].message


@pytest.mark.parametrize("start", [b"N0", proto(1), b"N0" * 200, b"]0)0"])
def test_a_pickle_under_any_name_is_found_however_it_begins(tmp_path, start):
    (tmp_path / "vocabulary.txt").write_bytes(start + RUN + STOP)
    (tmp_path / "notes.md").write_bytes(b"Notes.\nN. Nobody\n")
    for path in (tmp_path, tmp_path / "vocabulary.txt"):
        (scanned,) = li.scan_files(str(path)).files
        assert (scanned.file, scanned.verdict) == ("vocabulary.txt", "dangerous")


def deflated_in_front(path):
    path.write_bytes(b"#!/bin/sh\n" + std_zip(path, [("data", INNER)], zipfile.ZIP_DEFLATED))


# What a name does not tell: each is dangerous or unknown, as one file and in a directory.
UNDER_OTHER_NAMES = {
    "weights.npz": lambda path: std_zip(path, [("a.npy", INNER)], zipfile.ZIP_BZIP2),
    "lzma.zip": lambda path: std_zip(path, [("data", INNER)], zipfile.ZIP_LZMA),
    "data.zip": lambda path: std_zip(path, [("data", b"N0" + INNER)]),
    "front.zip": deflated_in_front,
    "model.tar": lambda path: path.write_bytes(
        tar_member(b"l", b"11 mtime=1\n", b"g") + HARMFUL_TAR + bytes(1024)
    ),
    "model.sav": lambda path: path.write_bytes(
        b"ZF" + hex(len(INNER)).ljust(19).encode() + zlib.compress(INNER)
    ),
    "data.xz": lambda path: path.write_bytes(
        lzma.compress(
            INNER,
            lzma.FORMAT_ALONE,
            filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 4096, "lc": 4, "lp": 0}],
        )
    ),
    "altered.json": lambda path: path.write_bytes(
        b"N0" + named("collections", "Counter") + b"N}" + proto(2) + b"X\1\0\0\0aNs\x86b!"
    ),
    "model.pt2": lambda path: torch_zip(b"N.", path, {"data/aotinductor/x.so.1": b"\x7fELF"}),
    "old.pt2": lambda path: std_zip(
        path, [("version", b"8.2"), ("serialized_exported_program.json", b"{}")]
    ),
    "hook.dat": lambda path: path.write_bytes(HOOK),
    "notes.txt": lambda path: path.write_bytes(HOOK),
    "environment.dat": lambda path: path.write_bytes(named("os", "environ") + b"(Va\nVb\nu."),
    "long_line.json": lambda path: path.write_bytes(LONG_LINE),
    "long_line.npz": lambda path: std_zip(path, [("a.npy", LONG_LINE)]),
    "frame.tar": lambda path: path.write_bytes(
        lzma.compress(
            HARMFUL_TAR,
            lzma.FORMAT_ALONE,
            filters=[{"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0}],
        )
    ),
    "model.joblib.old": lambda path: path.write_bytes(
        b"ZF" + b"%x".rjust(19) % len(INNER) + zlib.compress(INNER)
    ),
    "sized.tar": lambda path: path.write_bytes(
        tar_member(b"x", b"11 size=99\n", b"x") + HARMFUL_TAR + bytes(1024)
    ),
}


@pytest.mark.parametrize("name", UNDER_OTHER_NAMES)
def test_under_any_name_it_is_found(tmp_path, name):
    UNDER_OTHER_NAMES[name](tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        (scanned,) = li.scan_files(str(path)).files
        assert scanned.verdict != "known"


@pytest.mark.parametrize("limit", ["MAX_MEMBERS", "SWEPT_NBYTES"])
def test_what_is_not_searched_to_its_end_is_not_passed_over(tmp_path, monkeypatch, limit):
    """Arrays behind more members than are looked at, or far from where a directory is sought."""
    monkeypatch.setattr("llamainspect.formats.pickled_files.SWEPT_NBYTES", 2**10)
    path = tmp_path / "model.dat"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("big", bytes(2**11))
        archive.writestr("other", b"")
        archive.writestr("a.npy", numpy_array(INNER))
    if limit == "MAX_MEMBERS":
        monkeypatch.setattr("llamainspect.formats.pickled_files.MAX_MEMBERS", 2)
        message = "of its members only 2 were looked at"
    else:
        path.write_bytes(path.read_bytes() + bytes(2**17))
        message = "its directory is not found, and of its bytes 1,024 were searched"
    (scanned,) = li.scan_files(str(tmp_path)).files
    assert scanned.verdict == "unknown"
    assert message in [odd.message for odd in scanned.oddities]


def test_ordinary_tars_and_arrays_hold_no_pickle(tmp_path):
    """Long names and times with fractions have headers of their own; fields may have names."""
    fields = np.zeros(3, [("a b", "<U3"), ("x", "<f4", (2, 3)), ("y", "i1")])
    np.save(tmp_path / "fields.npy", fields)
    np.savez(tmp_path / "many.npz", fields, np.arange(9))
    np.savez_compressed(tmp_path / "packed.npz", x=fields)
    np.savez(tmp_path / "empty.npz")
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as archive:
            for name in ("a" * 200, "b" * 99 + "/" + "\u00fc" * 99, "c"):
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.uname = 600, 1.5, "\u00fc"
                archive.addfile(info, io.BytesIO(bytes(600)))
    paths = [tmp_path, *tmp_path.iterdir()]
    assert len(paths) == 7
    for path in paths:
        for scanned in li.scan_files(str(path)).files:
            assert (scanned.kind, scanned.verdict, scanned.pickles) == ("tar", "known", ())


def test_long_names_of_a_tar_are_those_that_tarfile_reads(tmp_path):
    """A row of pickles by its name, which no header holds as a whole."""
    long = "x" * 150 + ".pkl"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as archive:
            info = tarfile.TarInfo(long)
            info.size = len(INNER)
            archive.addfile(info, io.BytesIO(INNER))
    for scanned in li.scan_files(str(tmp_path)).files:
        assert [pickle.where for pickle in scanned.pickles] == [long]
        assert scanned.verdict == "dangerous"


NOT_TOLD = "what stands behind byte 0 cannot be told"  # as of all else called "storages"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (tar_member(b"././@LongLink", b"storages\0", b"L", 7), NOT_TOLD),
        (
            tar_member(b"x", pax(path="storages"), b"x") + tar_member(b"l", b"tensors\0", b"L"),
            "at byte 1,024 of the tar stands what torch never wrote",
        ),
        (tar_member(b"x", pax(path="storages/"), b"x"), NOT_TOLD),
    ],
)
def test_names_in_a_tar_are_the_ones_that_tarfile_has(tmp_path, headers, message):
    """Or it is told that they are not followed: "storages" is read otherwise than others."""
    (tmp_path / "x.pth").write_bytes(headers + tar_member(b"y", b"none") + bytes(1024))
    with tarfile.open(tmp_path / "x.pth") as archive:
        assert archive.getnames() == ["storages"]
    assert only(tmp_path / "x.pth").oddities[0].message == message


def storage(key="0", numel=3, view=None, kind="FloatStorage"):
    """Its persistent id, of a legacy file where it has a view."""
    parts = [wide("storage"), named("torch", kind), wide(key), wide("cpu"), b"K" + bytes([numel])]
    if view:
        name, offset, viewed = view
        parts.append(wide(name) + b"K" + bytes([offset]) + b"K" + bytes([viewed]) + b"\x87")
    return b"(" + b"".join(parts) + b"tQ"


def tensor(of, numel=3):
    """A call that makes one of a storage."""
    shape, ordered = b"K" + bytes([numel]) + b"\x85", call(named("collections", "OrderedDict"))
    return call(
        named("torch._utils", "_rebuild_tensor_v2"), of, b"K\0", shape, b"K\1\x85", b"\x89", ordered
    )


ZERO_ONE = b"K\0G" + struct.pack(">d", 1.0)
SPARSE = call(
    named("torch._utils", "_rebuild_sparse_tensor"),
    call(named("torch.serialization", "_get_layout"), wide("torch.sparse_coo")),
    b"(" + tensor(storage()) + tensor(storage()) + b"K\1\x85t",
)
PUT_TOGETHER = {
    "a state for a tensor": tensor(storage()) + b"(" + storage() + b"K\0K\xff\x85K\1\x85tb",
    "an item for a tensor": tensor(storage()) + ZERO_ONE + b"s",
    "items for a tensor": tensor(storage()) + b"(" + ZERO_ONE + b"u",
    "an item for a parameter": call(
        named("torch._utils", "_rebuild_parameter"), tensor(storage()), b"\x89",
        call(named("collections", "OrderedDict")),
    ) + ZERO_ONE + b"s",
    "an item for a storage": storage() + ZERO_ONE + b"s",
    "a tensor longer than its storage": tensor(storage(), 4),
    "a tensor longer than its view": tensor(storage(view=("1", 1, 2))),
    "a view longer than its storage": tensor(storage(view=("1", 1, 3))),
    "one view of two lengths": b"(" + tensor(storage(view=("1", 1, 1)), 1)
    + tensor(storage(view=("1", 0, 3))) + b"t",
    "a view with the key of a storage": b"(" + tensor(storage("1"))
    + tensor(storage(view=("1", 0, 3))) + b"t",
    "a storage with the key of a view": b"(" + tensor(storage(view=("1", 0, 3)))
    + tensor(storage("1")) + b"t",
    "one storage of two lengths": b"(" + tensor(storage()) + tensor(storage(numel=5), 5) + b"t",
    "a state for a storage": call(named("torch", "FloatStorage")) + b"}"
    + wide("_untyped_storage") + b"C\1as" + b"b",
    "a tensor of no storage": tensor(call(named("torch", "FloatStorage"))),
    "a state for a parameter of no tensor": call(
        named("torch.nn.parameter", "Buffer"), call(named("collections", "OrderedDict"))
        + b"}" + wide("detach") + named("torch", "ByteTensor") + b"sb",
    ) + b"}b",
    "a parameter of no tensor, by its type": call(
        named("torch._tensor", "_rebuild_from_type_v2"), named("torch.nn.parameter", "Parameter"),
        named("torch", "Tensor"), b"}\x85", b"}",
    ),
    "a state for a quantised tensor": call(
        named("torch._utils", "_rebuild_qtensor"), storage(kind="QInt8Storage"), b"K\0", b"K\3\x85",
        b"K\1\x85", b"(" + named("torch", "per_tensor_affine") + ZERO_ONE[2:] + b"K\0t", b"\x89",
        call(named("collections", "OrderedDict")),
    ) + b"}b",
    "a state for a sparse tensor": SPARSE + b"}b",
    "a set of a sparse tensor's elements": call(named("builtins", "set"), SPARSE),
    "a sparse tensor for an attribute": call(
        named("torch._utils", "_rebuild_parameter_with_state"), tensor(storage()), b"\x89",
        call(named("collections", "OrderedDict")), b"}" + wide("real") + SPARSE + b"s",
    ),
    "a shape of a sparse tensor": call(named("torch", "Size"), SPARSE),
    "an object moved as if it were a tensor": call(
        named("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), b"}",
        named("torch", "float32"), wide("cpu"), b"\x89",
    ),
    "a call of a parameter": call(
        call(named("torch._utils", "_rebuild_parameter"), tensor(storage()), b"\x89", b"N")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUT_TOGETHER)
def test_known_names_that_torch_would_not_put_together_so(tmp_path, name):
    """Of them a file can be made that writes into memory that is no longer a tensor's."""
    pickled = proto(2) + PUT_TOGETHER[name] + STOP
    torch_zip(pickled, tmp_path / "zip.pth")
    legacy = [*LEGACY[:3], pickled, LEGACY[4]]
    (tmp_path / "legacy.pth").write_bytes(b"".join(legacy))
    (tmp_path / "within.pth").write_bytes(pickle.dumps([pickled], 4))
    for path in tmp_path.iterdir():
        messages = [odd.message for odd in only(path).oddities]
        assert [m for m in messages if m.startswith("put together as torch never does")], path


@pytest.mark.parametrize("key", ["A", "a\0x", "b"])
def test_a_storage_whose_record_has_another_name(tmp_path, key):
    """torch finds data/a for the first two, and compares no lengths then."""
    pickled = proto(2) + tensor(storage(key)) + STOP
    torch_zip(pickled, tmp_path / "x.pth", {"data/a": bytes(8)})
    messages = [odd.message for odd in only(tmp_path / "x.pth").oddities]
    assert messages == ["there is no record of exactly this name"]


def test_a_short_storage_is_told_however_deep_its_tensor_lies(tmp_path):
    pickled = proto(2) + b"]" * 200 + tensor(storage("1")) + b"a" * 200 + STOP
    torch_zip(pickled, tmp_path / "x.pth", {"data/1": bytes(8)})
    messages = [odd.message for odd in only(tmp_path / "x.pth").oddities]
    assert messages == ["8 bytes, of which 12 are taken"]


def test_a_storage_that_is_longer_than_its_record(tmp_path):
    torch_zip(proto(2) + tensor(storage("1")) + STOP, tmp_path / "x.pth", {"data/1": bytes(8)})
    messages = {odd.where: odd.message for odd in only(tmp_path / "x.pth").oddities}
    assert messages == {"data/1": "8 bytes, of which 12 are taken"}


def test_views_and_parameters_of_legacy_files_are_known(tmp_path):
    whole = torch.arange(10.0)
    state = {
        "parts": [whole[2:5], whole[5:], whole[::2]], "whole": whole, "twice": whole,
        "parameter": torch.nn.Parameter(whole), "empty": torch.empty(0), "none": torch.ones(()),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "layer": torch.nn.Linear(2, 3).state_dict(),
    }  # fmt: skip
    for new in (True, False):
        torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        assert only(tmp_path / "x.pth").verdict == "known"


def test_names_that_lead_over_hundreds_of_attributes_take_no_longer(monkeypatch):
    looked_up = []

    class Counting(dict):
        def get(self, name, default=None):
            looked_up.append(name)
            return super().get(name, default)

    monkeypatch.setattr("llamainspect.effects._BY_NAME", Counting(effects._BY_NAME))
    assert effect_of("a", "b." * 499 + "b") is None
    assert len(looked_up) < 2 * 500 * 6
    assert effect_of("a", "b." * 400 + "os.system") == effects.RUNS_COMMANDS


def test_of_many_long_names_only_those_of_the_report_are_spelled(tmp_path):
    """40,000 pairs of 200 modules and 200 names of 900 characters."""
    body = [b"\x80\4"]
    for number in range(400):
        body += [wide(f"{number:03d}".ljust(900, "m")), b"\x94", b"0"]
    for number in range(40_000):
        module, name = number // 200, 200 + number % 200
        body.append(b"j%bj%b\x930" % (struct.pack("<L", module), struct.pack("<L", name)))
    (tmp_path / "x.pkl").write_bytes(b"".join([*body, b"N."]))
    tracemalloc.start()
    scanned = only(tmp_path / "x.pkl")
    assert tracemalloc.get_traced_memory()[1] < 30 * 2**20  # all names together have 72 MB
    tracemalloc.stop()
    assert len(scanned.pickles[0].globals) == 1_000
    assert scanned.pickles[0].more_globals == 39_000


@pytest.mark.parametrize("protocol", range(6))
def test_bytes_and_texts_that_hold_nothing_are_no_oddities(tmp_path, protocol):
    """NumPy's scalars, texts of every kind, a few thousand of each; and nothing is left unseen."""
    rng = random.Random(protocol)
    words = ["x^2 + y", "input_ids", "cos", "is", "PKU", "BZh", "ZF", "N.", "((((", "I am", "Q."]
    texts = [" ".join(rng.choices([*words, "\u4f60\u597d", "\n"], k=40)) for _ in range(3_000)]
    held = [rng.randbytes(8) for _ in range(3_000)] + [rng.randbytes(600) for _ in range(300)]
    torch.save([*words, *texts, *held], tmp_path / "x.pt", pickle_protocol=protocol or 1)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([words, texts, held], protocol))
    for scanned in li.scan_files(str(tmp_path)).files:
        assert scanned.oddities == ()


def test_where_the_scanner_gives_up_is_not_where_a_pickle_ends(tmp_path, monkeypatch):
    """It begins as a safetensors file does, too, and has that name."""
    monkeypatch.setattr("llamainspect.formats.pickle_scan.MAX_LINE", 2**10)
    data = b"B\5\0\0\0\0\0\0{}0V" + b"a" * 2**16 + b"\n0" + RUN + STOP
    for name in ("model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(data)
        assert only(tmp_path / name).verdict == "unknown"


def test_of_a_folder_of_the_hub_everything_is_scanned(tmp_path):
    for name in ("blobs", "refs", "snapshots/main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "refs" / "main").write_text("main")
    (tmp_path / "snapshots" / "main" / "README.md").write_text("A model.")
    torch_zip(INNER, tmp_path / "pytorch_model.bin")
    report = li.scan_files(str(tmp_path))
    assert [scanned.file for scanned in report.files] == ["pytorch_model.bin"]
    assert report.verdict == "dangerous"


@pytest.mark.parametrize(
    "text",
    ["N.B. This is text.\n", "cat\ndog\n", "I1\n.\n", "import os\n", "PIL/a.py,sha256=b\n" * 200],
)
def test_text_that_begins_as_a_pickle_and_does_nothing_is_text(tmp_path, text):
    (tmp_path / "notes").write_text(text)
    torch_zip(NAMES_TENSORS, tmp_path / "model.pth", {"notes": text.encode()})
    std_zip(tmp_path / "notes.zip", [("notes", text.encode())], zipfile.ZIP_DEFLATED)
    report = li.scan_files(str(tmp_path))
    assert [(s.file, s.verdict, len(s.pickles)) for s in report.files] == [
        ("model.pth", "known", 1)
    ]


ARRAYS = {
    "float64": np.zeros(3), "text": np.full((2, 3), "text"), "bool": np.zeros((), bool),
    "times": np.zeros((0, 4), "<M8[ns]"), "columns": np.asfortranarray(np.ones((2, 3))),
    "big-endian": np.zeros(3, ">i2"), "bytes": np.array([b"abc"]), "complex": np.zeros(2, complex),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_numbers_and_texts_hold_no_pickle_and_end_where_they_should(tmp_path, name):
    with (tmp_path / "a.npy").open("wb") as file:
        for _ in range(2):
            np.save(file, ARRAYS[name])
    assert li.scan_files(str(tmp_path)).files == ()
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(INNER)
    (scanned,) = li.scan_files(str(tmp_path)).files
    assert (scanned.kind, scanned.verdict) == ("array", "dangerous")


def test_shards_with_the_same_pickle_are_shown_once(tmp_path):
    for number in range(4):
        torch_zip(NAMES_TENSORS, tmp_path / f"consolidated.{number:02d}.pth")
    text = run("scan", tmp_path).stdout
    assert text.count("data.pkl") == 1
    assert "4 pickled files" in text


def test_names_from_the_stream_are_escaped_and_fit_narrow_terminals(tmp_path):
    name = "\x1b[31mred\u202e" + "x" * 300
    (tmp_path / "a.pkl").write_bytes(proto(2) + f"c{name}\nname\n.".encode())
    page = in_terminal("scan", str(tmp_path), columns=40)
    assert "\x1b[31mred" not in page
    assert "\u202e" not in page
    assert r"\x1b" in page


def test_a_dangerous_global_is_shown_behind_any_number_of_unknown_ones(tmp_path):
    unknown = b"".join(b"cpackage%d\nthing\n0" % number for number in range(60))
    (tmp_path / "a.pkl").write_bytes(proto(2) + unknown + b"cos\nsystem\n" + STOP)
    text = run("scan", tmp_path).stdout
    assert "dangerous  os.system: runs commands" in text
    assert "and 21 more" in text


def test_what_changes_while_it_is_read_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    torch_zip(NAMES_TENSORS, path, {"data/1": bytes(2**21)})  # too long to be read at once
    read = Folder.read

    def changing(self, file, offset, length):
        data = read(self, file, offset, length)
        os.utime(path, ns=(1, 1))
        return data

    monkeypatch.setattr(Folder, "read", changing)
    assert [odd.message for odd in only(path).oddities] == [
        "it changed while it was read; try again"
    ]


def test_the_five_of_a_legacy_file_have_names(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"".join(LEGACY))
    assert [found.where for found in only(tmp_path / "old.pt").pickles] == [
        "magic number", "protocol version", "system", "object", "storage keys",
    ]  # fmt: skip
