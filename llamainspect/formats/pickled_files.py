"""Where pickles stand in a file, and what each of them names.

A torch zip has one or more, a file from before torch 1.6 five in a row, a tar from before 0.1.10
has a row in each of three members, and what a pickle holds as bytes may be a file of these kinds
again. An archive that the strict reader refuses is looked into all the same, by the standard
library's reader and by its local headers, since one of the readers that do open it would run it.

Sources: torch's `serialization.py` (`_legacy_load`, `legacy_load`); PKWARE APPNOTE 4.3.7.
"""

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.formats.pickle_scan import (
    ENDS,
    PickleScan,
    scan_pickle,
)
from llamainspect.formats.signatures import (
    HEAD_NBYTES,
    describe_compression,
    describe_stand_in,
)
from llamainspect.formats.symbolic_pickle import Global, Opaque, PickleReader
from llamainspect.formats.torch_pickle import (
    MAX_PICKLE_NBYTES,
    STORAGES,
    check_constructs,
    is_tensor_construct,
    read_pickle,
)
from llamainspect.formats.torch_zip import (
    END_SIGN,
    GGUF,
    GGUF_SIGN,
    LEGACY_MAGIC,
    LOCAL,
    LOCAL_SIGN,
    PICKLE,
    STORAGE,
    Record,
    locate_record,
    read_directory,
)
from llamainspect.formats.views import View

# What is done for one file at most, as bytes read; other work counts as many as cost the same.
MAX_WORK = 2**30
OPERATION_NBYTES = 256  # of a pickle
LOOK_NBYTES = 2**16  # at what may be a file of these kinds
MEMBER_NBYTES = 2**14  # of an archive
INFLATING = 4  # times the bytes read and made
LOOK_OPERATIONS = 101  # at the beginning; what goes on behind them is followed to its end
MAX_LEVELS = 8  # of files within files
MAX_DOUBTS = 1_000
MAX_MEMBERS = 20_000  # of an archive, beside storages
MAX_MEMBER_NBYTES = 16 * 2**20  # of a compressed member
MAX_DIRECTORY_NBYTES = 4 * 2**20  # of an archive that torch did not write
SWEPT_NBYTES = 32 * 2**20  # of it, searched for headers that no directory names
BLOCK_NBYTES = 2**16
# How a pickle of any protocol begins whose other bytes need no look, an archive, and the globals of
# protocols 0 and 1.
BEGINS = re.compile(
    rb"\x80[\x00-\x05]|PK(?:\x03\x04|\x05\x06)|\(*[ci][A-Za-z_][\w.]{0,99}\n[A-Za-z_]"
)
# What names a global: a line's end, STACK_GLOBAL, an extension, a persistent id.
NAMING = re.compile(rb"[\n\x93\x82-\x84Q]")
PROTO = b"\x80"  # how pickles of protocol 2 and later begin
PICKLE_NAME = re.compile(r".*\.(?:pkl|pickle|p|pck|joblib|dill)", re.IGNORECASE | re.DOTALL)
# Records that some loaders run, and who; torch looks names up in any case.
PROGRAMS = tuple(
    (re.compile(rf"(?:[^/]*/)?(?:{pattern})", re.IGNORECASE | re.DOTALL), message)
    for pattern, message in (
        (
            r"code/.*|constants\.pkl.*|model\.json",
            "it holds a TorchScript program, which torch.load hands to torch.jit.load",
        ),
        (
            r"\.data/extern_modules",
            "it is a torch.package, and loading that runs the sources in it",
        ),
        (
            r"archive_format|models/.*\.json|data/aotinductor/.*|serialized_exported_program\.json",
            "it holds a program of torch.export, and loading that evaluates it or compiles it",
        ),
        (
            r".*\.(?:so|dll|dylib|pyd)(?:\.\d+)*",
            "it holds a library of machine code, which torch._inductor would load",
        ),
    )
)
ENCRYPTED = 1  # zip flag
NUMPY_SIGN = b"\x93NUMPY"
# The header of an array without objects, as NumPy writes it, or of one with several such fields;
# readers take any spelling.
NUMPY_SHAPE = rb"\((?:\d{1,18}L?, ?)*(?:\d{1,18}L?)?\)"
NUMPY_TYPE = rb"'[<>|=]?[?biufcmMSUV]\d{1,9}(?:\[\w+\])?'"
NUMPY_FIELD = rb"\('[^'\\]*', %b(?:, %b)?\)" % (NUMPY_TYPE, NUMPY_SHAPE)
NUMPY_PLAIN = re.compile(
    rb"\{'descr': (%b|\[%b(?:, %b)*\]), 'fortran_order': (?:True|False), 'shape': (%b), \} *\n"
    % (NUMPY_TYPE, NUMPY_FIELD, NUMPY_FIELD, NUMPY_SHAPE)
)
# Of a type its unit, how many of them and, in a field, how often.
NUMPY_LENGTH = re.compile(rb"'[<>|=]?(\D)(\d+)(?:\[\w+\])?'(?:, (\([\dL, ]*\)))?")
NUMPY_FIXED = 8  # bytes: the sign and the version
LENGTH16, LENGTH32 = struct.Struct("<H"), struct.Struct("<L")
MAX_NUMPY_HEADER = 10_000
TAR_BLOCK = 512
# Headers that only add to the next one: long names, and PAX records of times, owners and names.
TAR_NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
TAR_RECORDS = (b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname")
TAR_MEMBERS = ("storages", "tensors", "pickle")
UNCHECKED_TAR = "torch checks no size and no place that a tar of before 0.1.10 gives, nor does this"
MAX_TAR_NAMING_NBYTES = 2**16
TAR_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
NUMEL, RANK = struct.Struct("<Q"), struct.Struct("<L4x")
ZIP_END_NBYTES = 2**16 + 22  # searched by the standard library for an end record
NAME = "archive"  # what torch_zip calls it in a sentence, which is cut off again
MIN_HEAD_NBYTES = 128  # of a storage
MIN_PACKED_NBYTES = 20  # as many as zlib.compress(b"cos\nfork\n)R.") has
ZIP_SIGN = b"PK"
PACKED = "packed"
PUT_TOGETHER = (
    "put together as torch never does, which may damage memory on loading, with weights_only=True, "
    "too"
)
LEGACY_HEAD_NBYTES = 32  # of any protocol
LEGACY_PARTS = ("magic number", "protocol version", "system", "object", "storage keys")


class FoundPickle(NamedTuple):
    """One pickle of a file."""

    where: str  # the way to it: "data.pkl", "data.pkl > byte 104 > pickle 1"
    scan: PickleScan


class Doubt(NamedTuple):
    """Something that loading the file would meet and that cannot be looked into."""

    where: str
    message: str


class _TooMuch(Exception):
    """The work is at its limit."""


class PickledFile:
    """Takes a file apart; `pickles` and `doubts` are what is found in it."""

    def __init__(self, view: View) -> None:
        self.pickles: list[FoundPickle] = []
        self.doubts: list[Doubt] = []
        self.refusals: list[Doubt] = []  # why torch.load would not take an archive, or not as one
        self._left = MAX_WORK
        try:
            kind = self._look(view, "", 0)
            # torch, zip, legacy, tar, array, pickle, none
            self.kind = "none" if kind == PACKED else kind
        except _TooMuch:
            self._doubt("", "it holds more than is looked into, files within files or operations")
            self.kind = "pickle"

    def _spend(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise _TooMuch

    def _look(self, view: View, where: str, level: int) -> str:
        """What it is; all that is found in it is kept."""
        self._spend(LOOK_NBYTES)
        if level > MAX_LEVELS:
            self._doubt(where, f"files within files, more than {MAX_LEVELS} deep")
            return "none"
        head = view.read(0, HEAD_NBYTES)
        packed = describe_compression(head)
        if packed:
            self._doubt(where, packed)
        # A file can be of several kinds, each to another reader.
        is_zip = head.startswith(LOCAL_SIGN)
        archive = (self._zip if is_zip else self._behind)(view, where, level)
        tar = self._tar(view, where, level) if _is_tar(head) else "none"
        if head.startswith(NUMPY_SIGN):
            row = self._numpy(view, where, level)
        else:  # "PK" asks pickle itself for a persistent id, and there it stops
            row = "none" if is_zip else self._row(view, where, level)
        kinds = archive, tar, row, PACKED if packed else "none"
        return next((kind for kind in kinds if kind != "none"), "none")

    def _inside(self, view: View, where: str, level: int) -> None:
        """What may be a file of these kinds; forgotten when it is not."""
        pickles, doubts, refusals = len(self.pickles), len(self.doubts), len(self.refusals)
        kind = self._look(view, where, level)
        found = [pickle.scan for pickle in self.pickles[pickles:]]
        whole = bool(found) and found[0].broken is None and view.read(0, 1) == PROTO
        chance = kind == "pickle" and not whole and not any(scan.is_no_chance for scan in found)
        if (kind == "none" or chance) and level <= MAX_LEVELS:
            del self.pickles[pickles:], self.doubts[doubts:], self.refusals[refusals:]

    def _doubt(self, where: str, message: str) -> None:
        if len(self.doubts) + len(self.refusals) < MAX_DOUBTS:
            self.doubts.append(Doubt(where, message))

    def _refuse(self, where: str, message: str) -> None:
        if len(self.doubts) + len(self.refusals) < MAX_DOUBTS:
            self.refusals.append(Doubt(where, message))

    # --- pickles, one behind the other ---

    def _pickle(self, view: View, at: int, where: str, level: int) -> PickleScan | None:
        """The pickle there; None when nothing tells that it is one."""
        scan = scan_pickle(view, at, max(1, self._left // OPERATION_NBYTES), _begins_hidden)
        if scan.says_something:
            self.pickles.append(FoundPickle(where, scan))
        self._spend(scan.operations * OPERATION_NBYTES + scan.read_nbytes + scan.look_work)
        if not scan.says_something:
            return None
        self._check(view, scan, where)
        for position, inner in scan.nested:
            self._inside(inner, _below(where, f"byte {position:,}"), level + 1)
        scan.nested.clear()
        return scan

    def _check(self, view: View, scan: PickleScan, where: str) -> None:
        """Known names can be put together so that torch writes where it should not."""
        names = scan.uses.keys()
        ours = any(module.partition(".")[0] == "torch" for module, _ in names)
        if scan.broken or not ours or not all(is_tensor_construct(*pair) for pair in names):
            return
        self._spend(scan.operations * OPERATION_NBYTES)
        try:
            check_constructs(_bytes_of(view, scan))
        except LlamaInspectError as error:
            self._doubt(where, f"{PUT_TOGETHER}: {error}")

    def _row(self, view: View, where: str, level: int, whole: bool = True) -> str:
        """Pickles in a row, and behind the five of a legacy file its storages.

        `whole`: the view ends where the row should.
        """
        kind = "none"
        number, at = 0, 0
        after: int | None = 0
        while after is not None and after < view.nbytes:
            number, at = number + 1, after
            if LEGACY_MAGIC in view.read(at, LEGACY_HEAD_NBYTES):
                found = "legacy"
                after = self._legacy(view, where, level, at)
            else:
                name = where if number == 1 else _below(where, f"pickle {number}")
                scan = self._pickle(view, at, name, level)
                found = "none" if scan is None else "pickle"
                after = None if scan is None or scan.broken else scan.end
            if number == 1:
                kind = found
            elif found == "none" and whole:
                self._doubt(where, f"{view.nbytes - at:,} bytes behind its end are no pickle")
        return kind

    def _legacy(self, view: View, where: str, level: int, at: int) -> int | None:
        """Where a legacy file ends that begins there; None when that cannot be told."""
        scans: list[PickleScan] = []
        for part in LEGACY_PARTS:
            scan = self._pickle(view, at, _below(where, part), level)
            if scan is None or scan.broken:
                if scan is None:
                    self._doubt(_below(where, part), f"at byte {at:,} stands no pickle")
                return None
            scans.append(scan)
            at = scan.end
        try:
            described: dict[str, tuple[int, int]] = {}
            _value(view, scans[3], lambda value: _describe_storage(described, *value))
            return _skip_storages(view, at, _value(view, scans[4]), described)
        except (LlamaInspectError, LookupError, TypeError, AttributeError, struct.error):
            self._doubt(where, f"which storages stand behind byte {at:,} cannot be told")
            return None

    # --- archives ---

    def _zip(self, view: View, where: str, level: int) -> str:
        """As torch opens it; what torch would never have written is searched as a stranger's."""
        archive = _Archive(view)
        try:
            records = read_directory(archive, NAME)
            taken = _storages(archive, records)
            storages = taken.keys() & records.keys()
            self._compare(records, taken, where)
            others = [name for name in records if name not in storages][:MAX_MEMBERS]
            parts = {name: _record(archive, name, records[name]) for name in others}
        except LlamaInspectError as error:
            self._refuse(where, str(error).removeprefix(f"{NAME}: "))
            self._search_zip(view, where, level, self._listed(view, where))
            return "zip"
        for name, part in parts.items():
            self._member(part, name, _below(where, name), level)
        for name, record in records.items():
            if name in storages:
                self._storage(archive, record, _below(where, name), level)
        if len(records) > len(storages) + len(parts):
            self._doubt(where, f"more than {MAX_MEMBERS:,} records are no storages")
        if PICKLE not in records:
            self._refuse(where, f"it holds no {PICKLE}, so torch.load would refuse it")
        self._programs(records, where)
        return "torch"

    def _compare(self, records: dict[str, Record], taken: dict[str, int], where: str) -> None:
        """Whether data.pkl takes a storage for longer than its record is, or has one by a name that
        is no record's to the letter."""
        for name, nbytes in taken.items():
            if name not in records:
                self._doubt(_below(where, name), "there is no record of exactly this name")
            elif records[name].nbytes < nbytes:
                message = f"{records[name].nbytes:,} bytes, of which {nbytes:,} are taken"
                self._doubt(_below(where, name), message)

    def _programs(self, names: Iterable[str], where: str) -> None:
        """What is run that is no pickle; of each kind the first."""
        for pattern, message in PROGRAMS:
            if program := next(filter(pattern.fullmatch, names), None):
                self._doubt(_below(where, program), message)

    def _behind(self, view: View, where: str, level: int) -> str:
        """An archive that is found by its end, whatever stands in front of it."""
        doubts = len(self.doubts)
        members = self._listed(view, where)
        if not members:
            return "none" if len(self.doubts) == doubts else "zip"
        self._refuse(where, "an archive stands in it behind something else")
        self._search_zip(view, where, level, members)
        return "zip"

    def _listed(self, view: View, where: str) -> list["_Member"]:
        try:
            members = _members(view)
            if len(members) > MAX_MEMBERS:
                self._doubt(where, f"of its members only {MAX_MEMBERS:,} were looked at")
            return members[:MAX_MEMBERS]
        except UnsupportedFile as error:
            self._doubt(where, str(error))
            return []

    def _storage(self, archive: "_Archive", record: Record, where: str, level: int) -> None:
        """numpy.load and torch.export.load unpickle a storage when its bytes begin that way."""
        block = archive.view.read(record.start, HEAD_NBYTES)  # its header, and how it begins
        skipped = LOCAL.size + sum(LOCAL.unpack_from(block)[-2:]) if len(block) >= LOCAL.size else 0
        start = record.start + skipped
        part = archive.view.part(start, min(record.nbytes, archive.view.nbytes - start))
        head = block[skipped : skipped + record.nbytes]
        if len(head) < MIN_HEAD_NBYTES:
            head = part.read(0, MIN_HEAD_NBYTES)
        if self._begins(head, part):
            self._inside(part, where, level + 1)

    def _begins(self, head: bytes, view: View) -> bool:
        begins, work = _begins_pickled(head, view)
        self._spend(work)
        return begins

    def _member(self, view: View, name: str, where: str, level: int, whole: bool = True) -> None:
        """A record: one with a pickle's name is one, others may be."""
        if not PICKLE_NAME.fullmatch(name):
            if self._begins(view.read(0, HEAD_NBYTES), view):
                self._inside(view, where, level + 1)
            return
        if self._row(view, where, level, whole) == "none":
            self._doubt(where, "it is no pickle, whatever its name says")

    def _search_zip(self, view: View, where: str, level: int, members: list["_Member"]) -> None:
        """Through the members that the standard library finds, and those that no directory has."""
        self._spend(min(view.nbytes, SWEPT_NBYTES))
        if not members and view.nbytes > SWEPT_NBYTES:
            message = f"its directory is not found, and of its bytes {SWEPT_NBYTES:,} were searched"
            self._doubt(where, message)
        listed = {member.start for member in members}
        self._programs([member.name for member in members], where)
        for member in chain(members, _swept(view, listed)):
            self._spend(MEMBER_NBYTES)
            place = _below(where, member.name)
            if member.flags & ENCRYPTED:
                self._doubt(place, "it is encrypted, so what it holds cannot be told")
                continue
            part = view.part(member.start, min(member.packed, view.nbytes - member.start))
            if member.method == zipfile.ZIP_DEFLATED:
                data, taken, whole = _inflate(part)
                self._spend((taken + len(data)) * INFLATING)
                part = View.of(data)
                if not whole:
                    self._doubt(place, "it is damaged, or too long to be unpacked here")
            elif member.method != zipfile.ZIP_STORED:
                self._doubt(place, f"it is compressed in a way (method {member.method}) not read")
                continue
            self._member(part, member.name, place, level, whole=member.ends)

    def _tar(self, view: View, where: str, level: int) -> str:
        """The members that torch wrote, storages, tensors and pickle, and any others."""
        at, long_name, told = 0, None, set[str]()
        for _ in range(MAX_MEMBERS):
            self._spend(MEMBER_NBYTES)
            header = view.read(at, TAR_BLOCK)
            if len(header) < TAR_BLOCK or not header.strip(b"\0"):
                break
            entry = _tar_entry(header)
            # Of two such headers in a row the first counts for some readers.
            naming = entry and entry.type in TAR_NAMING and long_name is None
            if entry and naming and 0 <= entry.size <= MAX_TAR_NAMING_NBYTES:
                nbytes = -(-entry.size // TAR_BLOCK) * TAR_BLOCK
                long_name = _tar_name(entry.type, view.read(at + TAR_BLOCK, nbytes))
                if long_name is not None:
                    at += TAR_BLOCK + nbytes
                    continue
            if entry is None or entry.size < 0 or entry.type not in TAR_TYPES:
                self._doubt(where, f"at byte {at:,} of the tar stands what torch never wrote")
                break
            at += TAR_BLOCK
            if entry.isdir():  # whatever its length, nothing is skipped behind it
                long_name = None
                continue
            part = view.part(at, min(entry.size, view.nbytes - at))
            name, long_name = long_name or entry.name, None
            place = _below(where, name)
            if name in TAR_MEMBERS:
                told.add(name)
            if name in ("storages", "tensors"):
                self._tar_row(part, place, level, name)
            else:
                self._member(part, "pickle.pkl" if name == "pickle" else name, place, level)
            at += -(-entry.size // TAR_BLOCK) * TAR_BLOCK
        else:
            self._doubt(where, f"the tar has more than {MAX_MEMBERS:,} members")
        if told:
            self._doubt(where, UNCHECKED_TAR)
        return "tar"

    def _tar_row(self, view: View, where: str, level: int, member: str) -> None:
        """A count, and for each a pickle and numbers: the bytes, or the shape and strides."""
        at = 0

        def pickled(what: str) -> Any:
            nonlocal at
            scan = self._pickle(view, at, _below(where, what), level)
            if scan is None or scan.broken:
                raise CorruptFile("no pickle, or not a whole one")
            at = scan.end
            return _value(view, scan)

        try:
            for number in range(pickled("count")):
                described = pickled(f"{number}")
                if member == "storages":
                    itemsize = _itemsize(described[2])
                    at += NUMEL.size + NUMEL.unpack(view.read(at, NUMEL.size))[0] * itemsize
                else:
                    (rank,) = RANK.unpack(view.read(at, RANK.size))
                    at += RANK.size + 2 * NUMEL.size * rank + NUMEL.size
            if member == "storages":
                pickled("views")
        except (LlamaInspectError, LookupError, TypeError, AttributeError, struct.error):
            self._doubt(where, f"what stands behind byte {at:,} cannot be told")

    def _numpy(self, view: View, where: str, level: int) -> str:
        """Arrays, one behind the other; one of objects is a pickle behind a header."""
        at, found = 0, len(self.pickles) + len(self.doubts)
        while (head := view.read(at, HEAD_NBYTES)).startswith(NUMPY_SIGN):
            self._spend(MEMBER_NBYTES)
            number = LENGTH16 if head[6:7] == b"\1" else LENGTH32
            begin = NUMPY_FIXED + number.size
            nbytes = number.unpack_from(head, NUMPY_FIXED)[0] if len(head) >= begin else 0
            start = at + begin + nbytes
            length = _array_nbytes(view.read(at + begin, min(nbytes, MAX_NUMPY_HEADER)))
            if length is None:
                kind = self._row(view.part(start, max(0, view.nbytes - start)), where, level)
                if kind == "none":
                    self._doubt(where, "an array of another type than NumPy's simple ones")
                return "array"
            at = start + length
        if at < view.nbytes:  # numpy.load would unpickle that
            rest = view.part(at, view.nbytes - at)
            self._inside(rest, _below(where, f"byte {at:,}"), level + 1)
        return "array" if len(self.pickles) + len(self.doubts) > found else "none"


def may_be_pickled(view: View) -> bool:
    """Whether it begins as a pickle does, or as an archive of some, or ends as one."""
    return _begins_pickled(view.read(0, HEAD_NBYTES), view)[0] or END_SIGN in _tail(view)


def _begins_pickled(head: bytes, view: View) -> tuple[bool, int]:
    """Whether it may be one by its first bytes, and the work that it took to know."""
    if _has_a_sign(head):
        return True, 0
    scan, work = _followed(head, view)
    return scan.is_no_chance or scan.broken is None, work


def _begins_hidden(head: bytes, view: View) -> tuple[bool, int]:
    """The same of a constant, where there are texts of all kinds; also what had to be unpacked."""
    if not head.isascii() and len(head) >= MIN_PACKED_NBYTES and describe_compression(head):
        return True, 0
    whole = view.nbytes <= len(head)
    if END_SIGN in (head if whole else _tail(view)):
        return True, ZIP_END_NBYTES
    if whole and not NAMING.search(head):
        return head.startswith((ZIP_SIGN, NUMPY_SIGN)), 0
    if _has_a_sign(head):
        return True, 0
    scan, work = _followed(head, view)
    return scan.is_no_chance, work + (0 if whole else ZIP_END_NBYTES)


def _has_a_sign(head: bytes) -> bool:
    return bool(BEGINS.match(head)) or head.startswith(NUMPY_SIGN) or _is_tar(head)


def _followed(head: bytes, view: View) -> tuple[PickleScan, int]:
    """As a pickle from its start, no further than to where that is no chance; and the work."""
    scan = scan_pickle(View.of(head), 0, LOOK_OPERATIONS)
    work = scan.operations * OPERATION_NBYTES
    # It may be the head that ends, and not the pickle; a line ends with it, too.
    if scan.broken and (scan.broken == ENDS or scan.end == len(head)) and view.nbytes > len(head):
        scan = scan_pickle(view, 0, LOOK_OPERATIONS)
        work += scan.operations * OPERATION_NBYTES + scan.read_nbytes
    return scan, work


def describe_other(head: bytes, nbytes: int) -> str:
    """What a file is that holds no pickle, as far as its first bytes tell."""
    if stand_in := describe_stand_in(head, nbytes):
        return stand_in
    if packed := describe_compression(head):
        return packed
    if head.startswith(GGUF_SIGN):
        return GGUF
    return (
        f"it is neither a pickle nor an archive (it begins with {head[:8].hex(' ')}), so nothing "
        "can be told of it"
    )


def _below(where: str, name: str) -> str:
    return f"{where} > {name[:200]}" if where else name[:200]


# --- values of a few small pickles ----------------------------------------------------------------


def _bytes_of(view: View, scan: PickleScan) -> bytes:
    if scan.end - scan.start > MAX_PICKLE_NBYTES:
        raise UnsupportedFile("the pickle is too long")
    return view.read(scan.start, scan.end - scan.start)


def _value(
    view: View, scan: PickleScan, persistent_id: Callable[[Any], Any] = lambda value: None
) -> Any:
    """What a pickle leaves; what it calls leaves a description."""
    data = _bytes_of(view, scan)
    return PickleReader(data, lambda named, given: Opaque(named.name, given), persistent_id).run()


def _describe_storage(
    described: dict[str, tuple[int, int]], kind: str, storage_class: Global, key: str, place: str,
    numel: int, *view: Any,
) -> None:  # fmt: skip
    """A storage as a legacy file refers to it: how many elements, and bytes of each."""
    described[key] = numel, _itemsize(storage_class)


def _itemsize(storage_class: Any) -> int:
    """Of a class by its name; an instance of one may have another dtype."""
    if not isinstance(storage_class, Global):
        raise CorruptFile("the class of a storage is none")
    return STORAGES[storage_class.module, storage_class.name].block_bytes


def _skip_storages(view: View, at: int, keys: Any, described: dict[str, tuple[int, int]]) -> int:
    """Behind the storages of a legacy file: for each key a count and so many elements."""
    for key in keys:
        numel, itemsize = described[key]
        if NUMEL.unpack(view.read(at, NUMEL.size))[0] != numel:
            raise CorruptFile("a storage has another length than the object says")
        at += NUMEL.size + numel * itemsize
    if at > view.nbytes:
        raise CorruptFile("a storage runs past the end")
    return at


# --- archives that torch did not write ------------------------------------------------------------


def _record(archive: "_Archive", name: str, record: Record) -> View:
    return archive.view.part(locate_record(archive, NAME, name, record), record.nbytes)


def _storages(archive: "_Archive", records: dict[str, Record]) -> dict[str, int]:
    """The names of records that data.pkl has for storages, and how long it takes them for."""
    record = records.get(PICKLE)
    if record is None or record.nbytes > MAX_PICKLE_NBYTES:
        return {}
    part = _record(archive, PICKLE, record)
    data = part.read(0, part.nbytes)
    for read in (check_constructs, _stored):
        with suppress(LlamaInspectError):  # what is odd in it will be told
            return {f"{STORAGE}{key}": nbytes for key, nbytes in read(data).items()}
    return {}


def _stored(data: bytes) -> dict[str, int]:
    return {ref.key: nbytes for ref, nbytes in read_pickle(data).storages}


class _Member(NamedTuple):
    name: str
    start: int  # of its bytes, as they are packed
    packed: int
    method: int
    flags: int
    ends: bool  # its length is known


class _Archive:
    """A view as the only file there is, which is what torch_zip reads."""

    def __init__(self, view: View) -> None:
        self.view = view

    def nbytes(self, file: str) -> int:
        return self.view.nbytes

    def read(self, file: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.view.nbytes:
            raise CorruptFile(f"{file}: it ends before byte {offset + length:,}, which is needed")
        return self.view.read(offset, length)


class _Seekable:
    """As much of a file object as zipfile needs to find a directory."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self.position, self.view.nbytes)[whence]
        if start + offset < 0:
            raise OSError("before its start")
        self.position = start + offset
        return self.position

    def read(self, length: int = -1) -> bytes:
        length = self.view.nbytes if length < 0 else length
        if min(length, self.view.nbytes - self.position) > MAX_DIRECTORY_NBYTES:
            raise UnsupportedFile(
                f"an archive in it would have a directory of {length:,} bytes, which is not read"
            )
        data = self.view.read(self.position, length)
        self.position += len(data)
        return data


def _members(view: View) -> list[_Member]:
    """The members that the standard library finds; none where no archive ends.

    Raises UnsupportedFile for a directory that is not read, as others might read it.
    """
    if END_SIGN not in _tail(view):
        return []
    try:
        with zipfile.ZipFile(_Seekable(view)) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UnsupportedFile(
            f"it ends as an archive does, and its directory cannot be read ({error})"
        ) from error
    members = []
    for info in found[: MAX_MEMBERS + 1]:
        if member := _local_member(view, info.header_offset):
            flags = info.flag_bits | member.flags & ENCRYPTED
            name, packed, method = info.orig_filename, info.compress_size, info.compress_type
            members.append(_Member(name, member.start, packed, method, flags, True))
    return members


def _tail(view: View) -> bytes:
    return view.read(max(0, view.nbytes - ZIP_END_NBYTES), ZIP_END_NBYTES)


def _local_member(view: View, at: int) -> _Member | None:
    """A member as its local header describes it; without a length it reaches to the end."""
    header = view.read(at, LOCAL.size) if at >= 0 else b""
    if len(header) < LOCAL.size or not header.startswith(LOCAL_SIGN):
        return None
    _, _, flags, method, *_, packed, _, name_length, extra_length = LOCAL.unpack(header)
    name = view.read(at + LOCAL.size, name_length).decode("utf-8", "replace")
    start = at + LOCAL.size + name_length + extra_length
    rest = max(0, view.nbytes - start)
    ends = 0 < packed < rest
    return _Member(name, start, packed if ends else rest, method, flags, ends)


def _swept(view: View, known: set[int]) -> Iterator[_Member]:
    """Members by their local headers: in no directory, or of files that were cut."""
    data = view.read(0, SWEPT_NBYTES)
    at = data.find(LOCAL_SIGN)
    while at >= 0:
        member = _local_member(view, at)
        if member and member.start not in known:
            yield member
        at = data.find(LOCAL_SIGN, at + 1)


def _inflate(view: View) -> tuple[bytes, int, bool]:
    """The bytes of a deflated member, how many were read for them, and whether that is all."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = bytearray()
    taken = 0
    while taken < view.nbytes and taken < MAX_MEMBER_NBYTES and len(data) < MAX_MEMBER_NBYTES:
        block = view.read(taken, BLOCK_NBYTES)
        taken += len(block)
        try:
            data += inflater.decompress(block, MAX_MEMBER_NBYTES - len(data))
        except zlib.error:
            break
        if inflater.eof:
            break
    return bytes(data), taken, inflater.eof


def _array_nbytes(header: bytes) -> int | None:
    """How many bytes an array has that NumPy describes so; None where it may hold objects."""
    plain = NUMPY_PLAIN.fullmatch(header)
    if not plain:
        return None
    types, shape = plain.groups()
    names_left_out = re.sub(rb"\('[^']*', ", b"", types)
    itemsize = sum(
        int(number) * (4 if unit == b"U" else 1) * _elements(times)
        for unit, number, times in NUMPY_LENGTH.findall(names_left_out)
    )
    return itemsize * _elements(shape)


def _elements(shape: bytes) -> int:
    return prod(map(int, re.findall(rb"\d+", shape)))


def _is_tar(head: bytes) -> bool:
    return _tar_entry(head) is not None


def _tar_entry(header: bytes) -> tarfile.TarInfo | None:
    """A header as the standard library, and so torch, reads it: its sum decides, not its sign."""
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _tar_name(kind: bytes, data: bytes) -> str | None:
    """What a header of its own says of the next member: its name, none, or None for anything else
    (a length, say, which would change where the tar goes on). `data` is all of its blocks, as
    `tarfile` reads on behind the length that the header gives."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    name = ""
    data = data.rstrip(b"\0")
    while data:
        digits = data.partition(b" ")[0]
        nbytes = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        key, equals, value = data[len(digits) + 1 : nbytes].partition(b"=")
        if key not in TAR_RECORDS or not equals or not value.endswith(b"\n"):
            return None
        if key == b"path":
            name = value[:-1].rstrip(b"/").decode("utf-8", "surrogateescape")
        data = data[nbytes:]
    return name
