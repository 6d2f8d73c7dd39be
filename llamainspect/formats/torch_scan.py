"""A torch zip from its first byte to its last: every record held against its CRC-32.

torch writes a CRC-32 for every record into the zip's directory and again behind the record, and
never looks at either when it loads. Here the file goes by in blocks, in order, and what lies
between the records (headers, padding, the second copy of the sum) is looked at as well.

The directory stands at the end, so a file that was cut short has none. What is left can be followed
all the same: `data.pkl` comes first and says how long every storage must be. Layout: see torch_zip.
"""

import struct
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

from zlib_ng.zlib_ng import crc32

from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile
from llamainspect.formats.torch_pickle import MAX_PICKLE_NBYTES, Contents, read_pickle
from llamainspect.formats.torch_zip import (
    CENTRAL_SIGN,
    END,
    END_SIGN,
    LOCAL,
    LOCAL_SIGN,
    PICKLE,
    STORAGE,
    STORED,
    Record,
)
from llamainspect.sources import Source

State = Literal["intact", "differs", "unrecorded"]

DESCRIPTOR = struct.Struct("<4s3L")  # signature, CRC-32, packed and plain length
DESCRIPTOR64 = struct.Struct("<4sL2Q")
DESCRIPTOR_SIGN = b"PK\x07\x08"
MAX_DIRECTORY_NBYTES = 4 * 2**20  # of a directory whose end is looked for from its front
FLAG_DESCRIPTOR = 8  # of a local header: sum and lengths stand behind the record
PADDING_FIELD = b"FB"  # an extra field full of "Z" that aligns what follows
SMALL_NBYTES = 4096  # of records such as `version`, whose length nothing else tells
MAX_ENDS = 4096  # places that look like the end of a record, near the right one
RESYNC_NBYTES = 2**20  # looked through for the next record behind a damaged one


class ScannedRecord(NamedTuple):
    """One record, and whether its bytes agree with its CRC-32."""

    name: str
    start: int  # of its first byte, from the start of the file
    nbytes: int
    state: State
    recorded: int = 0  # the two CRC-32s, where they differ
    found: int = 0


class ZipScan:
    """Takes the blocks of a torch zip in order, from the first to the last."""

    def __init__(
        self, records: dict[str, Record], end: int, root: bytes, seams: Iterable[int] = ()
    ) -> None:
        """`end`: where the last record must have ended, the start of the directory.

        `root`: the folder of all records, with its slash. `seams`: other places where something
        begins that is none of the records.
        """
        self.records = sorted(records.items(), key=lambda item: item[1].start)
        self.bounds = sorted({end, *seams, *(record.start for record in records.values())})
        self.root = root
        self.scanned: list[ScannedRecord] = []
        self.oddities: list[tuple[int, str]] = []  # position and what is wrong there
        self._position = 0
        self._what, self._left = "skip", 0
        self._taken, self._sum = bytearray(), 0
        self._steps = self._follow()
        self._advance(None)

    @property
    def done(self) -> bool:
        """Whether the last record has gone by."""
        return self._what == "stop"

    def update(self, block: memoryview) -> None:
        """The next bytes of the file."""
        at = 0
        while at < len(block) and self._what != "stop":
            piece = block[at : at + self._left]
            if self._what == "sum":
                self._sum = crc32(piece, self._sum)
            elif self._what == "take":
                self._taken += piece
            at += len(piece)
            self._position += len(piece)
            self._left -= len(piece)
            if not self._left:
                self._advance(self._result())

    def _result(self) -> bytes | int:
        result = bytes(self._taken) if self._what == "take" else self._sum
        self._taken, self._sum = bytearray(), 0
        return result

    def _advance(self, result: bytes | int | None) -> None:
        """To the next step that needs bytes."""
        while True:
            try:
                self._what, self._left = self._steps.send(result)
            except StopIteration:
                self._what = "stop"
                return
            if self._left:
                return
            result = self._result()

    def _follow(self) -> Generator[tuple[str, int], Any, None]:
        """What to do with the next bytes: ("take" | "sum" | "skip", how many)."""
        for name, record in self.records:
            next_start = self.bounds[bisect_right(self.bounds, record.start)]
            if self._position != record.start:
                self._odd(f"bytes before {name} that belong to no record")
                yield "skip", record.start - self._position
            header: bytes = yield "take", LOCAL.size
            yield from self._skip_header(name, record, next_start, header)
            start = self._position
            found: int = yield "sum", record.nbytes
            behind = next_start - self._position
            copy = b""
            if behind > DESCRIPTOR64.size:
                self._odd(f"bytes behind {name} that belong to no record")
                yield "skip", behind
            elif behind:
                copy = yield "take", behind
            self._compare(name, record, start, found, copy)

    def _compare(self, name: str, record: Record, start: int, found: int, copy: bytes) -> None:
        """The sum of a record's bytes with the one in the directory and the copy behind it."""
        copied = _sum_in_descriptor(copy, record.nbytes)
        state: State = "differs"
        if found == record.crc32:
            state = "intact"
            if copy and copied != record.crc32:
                self._odd(f"the second copy of the checksum of {name}", before=len(copy))
        elif not record.nbytes or (copied and found == copied):
            state = "intact"
            self._odd(f"the checksum of {name} in the directory", before=len(copy))
        elif not record.crc32 and not copied:
            state = "unrecorded"
        recorded = record.crc32 or copied or 0
        self.scanned.append(ScannedRecord(name, start, record.nbytes, state, recorded, found))

    def _skip_header(
        self, name: str, record: Record, next_start: int, header: bytes
    ) -> Generator[tuple[str, int], Any, None]:
        """To the first byte of the record, even when its own header does not lead there."""
        fields = LOCAL.unpack(header)
        flags, (name_length, extra_length) = fields[2], fields[-2:]
        room = next_start - self._position - record.nbytes
        behind = room - name_length - extra_length
        if flags & FLAG_DESCRIPTOR:
            leads = behind in (DESCRIPTOR.size, DESCRIPTOR64.size)
        else:
            leads = behind >= 0 if record.nbytes else behind == 0
        leads = leads and name_length >= len(self.root + name.encode())  # zeros may lead there, too
        if header[:4] != LOCAL_SIGN or not leads:
            self._odd(f"the header of {name}", before=LOCAL.size)
            tail = DESCRIPTOR.size if record.nbytes else 0
            yield "skip", max(0, room - tail)
            return
        written: bytes = yield "take", name_length
        if written != self.root + name.encode():
            self._odd(f"the name in the header of {name}", before=name_length)
        extra: bytes = yield "take", extra_length
        if extra.startswith(PADDING_FIELD) and extra[4:].strip(b"Z"):
            self._odd(f"the padding before {name}", before=extra_length)

    def _odd(self, what: str, before: int = 0) -> None:
        self.oddities.append((self._position - before, what))


def _sum_in_descriptor(data: bytes, nbytes: int) -> int | None:
    """The CRC-32 in what stands behind a record; None when that is no descriptor of it."""
    layout = {DESCRIPTOR.size: DESCRIPTOR, DESCRIPTOR64.size: DESCRIPTOR64}.get(len(data))
    if layout is None:
        return None
    sign, crc, packed, plain = layout.unpack(data)
    return int(crc) if sign == DESCRIPTOR_SIGN and packed == plain == nbytes else None


# --- files without a directory --------------------------------------------------------------------


class Salvage(NamedTuple):
    """What can be found of a torch zip from its front, without its directory."""

    contents: Contents
    records: dict[str, Record]  # those that are there from the first byte to the last
    end: int  # of the last of them
    root: bytes  # the folder of all of them, with its slash
    seams: tuple[int, ...]  # where others begin, and where nothing begins that must
    broken: dict[str, tuple[int, int]]  # where they stand, of those that do not end as they must
    cut: dict[str, int]  # storages that begin and do not end: bytes that are there
    absent: dict[str, int]  # storages that are not there at all: bytes they should have
    behind: int  # bytes that stand behind the end of the directory
    lost: int | None  # where the trail was lost before the end of the file


def salvage(source: Source, file: str) -> Salvage:
    """Follow the records of a file whose directory is missing or wrong.

    Raises CorruptFile when the first record is not whole, and UnsupportedFile when it is not
    `data.pkl` or records are compressed: then torch.save did not write the file.
    """
    return _Salvager(source, file).run()


class _Salvager:
    def __init__(self, source: Source, file: str) -> None:
        self.source = source
        self.file = file
        self.nbytes = source.nbytes(file)
        self.records: dict[str, Record] = {}
        self.cut: dict[str, int] = {}
        self.broken: dict[str, tuple[int, int]] = {}
        self.seams: list[int] = []

    def run(self) -> Salvage:
        contents, position = self._read_pickle()
        sizes = {f"{STORAGE}{ref.key}": nbytes for ref, nbytes in contents.storages}
        behind, lost = 0, None
        while position < self.nbytes:
            header = self._read(position, LOCAL.size + 256)
            if header[:4] == CENTRAL_SIGN:
                behind = self._behind_directory(position)
                break
            if len(header) >= LOCAL.size and header[:4] == LOCAL_SIGN:
                found = len(self.records)
                after = self._read_record(position, header, sizes)
                if len(self.records) == found:
                    self.seams.append(position)
                if after is None:  # the file ends inside this record
                    break
                position = after
            elif len(header) < LOCAL.size:
                break
            else:
                lost = position
                self.seams.append(position)
                resumed = self._find_header(position)
                if resumed is None:
                    break
                position = resumed
        absent = {
            name: nbytes
            for name, nbytes in sizes.items()
            if nbytes and not any(name in known for known in (self.records, self.cut, self.broken))
        }
        return Salvage(
            contents,
            self.records,
            position,
            self.root,
            tuple(self.seams),
            self.broken,
            self.cut,
            absent,
            behind,
            lost,
        )

    def _read_pickle(self) -> tuple[Contents, int]:
        """The first record, whose end is where a descriptor fits what stands before it."""
        header = self._read(0, LOCAL.size)
        name_length, extra_length = (
            LOCAL.unpack(header)[-2:] if len(header) == LOCAL.size else (0, 0)
        )
        name = self._read(LOCAL.size, name_length)
        if len(name) < max(name_length, 1):
            raise CorruptFile(f"{self.file}: only {self.nbytes:,} bytes are there")
        root, slash, inner = name.partition(b"/")
        self.root = root + slash
        if inner != PICKLE.encode():
            raise UnsupportedFile(
                f"{self.file}: it does not begin with {PICKLE}, as torch.save does"
            )
        start = LOCAL.size + name_length + extra_length
        record, after = self._find_end(0, start, MAX_PICKLE_NBYTES)
        if record is None:
            raise CorruptFile(
                f"{self.file}: cut short or damaged in its first record, {PICKLE}, so it cannot "
                "be told what it held"
            )
        self.records[PICKLE] = record
        try:
            return read_pickle(self._read(start, record.nbytes)), after
        except LlamaInspectError as error:
            raise type(error)(f"{self.file}, {PICKLE}: {error}") from error

    def _read_record(self, position: int, header: bytes, sizes: dict[str, int]) -> int | None:
        """The position behind a record; None when the file ends first."""
        fields = LOCAL.unpack_from(header)
        method: int = fields[3]
        name_length: int = fields[-2]
        extra_length: int = fields[-1]
        raw = self._read(position + LOCAL.size, name_length)
        if len(raw) < name_length:  # whose record it was is not known
            return None
        name = raw.removeprefix(self.root).decode("utf-8", "replace")
        start = position + LOCAL.size + name_length + extra_length
        if method != STORED:
            raise UnsupportedFile(f"{self.file}: record {name[:80]!r} is compressed")
        if name not in sizes:
            record, after = self._find_end(position, start, SMALL_NBYTES)
            if record is None:
                return self._find_header(start)
            self.records[name] = record
            return after
        nbytes = sizes[name]
        end = start + nbytes
        if not nbytes:
            self.records[name] = Record(position, 0)
            return end
        for place in chain((end,), self._shifted_ends(start, end)):
            for size in (DESCRIPTOR.size, DESCRIPTOR64.size):
                crc = _sum_in_descriptor(self._read(place, size), nbytes)
                if crc is not None and place == end:
                    self.records[name] = Record(position, nbytes, crc)
                elif crc is not None:  # bytes were lost or put in on the way
                    self.broken[name] = (start, place)
                if crc is not None:
                    return place + size
        if end > self.nbytes:
            if start < self.nbytes:
                self.cut[name] = self.nbytes - start
            return None
        if end + DESCRIPTOR.size > self.nbytes:  # all of its bytes are there, and not their sum
            self.records[name] = Record(position, nbytes)
            return self.nbytes
        self.broken[name] = (start, end)
        for size in (DESCRIPTOR.size, DESCRIPTOR64.size):
            if self._read(end + size, 4) in (LOCAL_SIGN, CENTRAL_SIGN):
                return end + size
        return end

    def _shifted_ends(self, start: int, end: int) -> Iterator[int]:
        """Where else near its place the descriptor of a record may stand, before another begins."""
        begin = max(start, end - RESYNC_NBYTES)
        data = self._read(begin, end - begin + RESYNC_NBYTES).partition(LOCAL_SIGN)[0]
        at = data.find(DESCRIPTOR_SIGN)
        for _ in range(MAX_ENDS):
            if at < 0:
                return
            yield begin + at
            at = data.find(DESCRIPTOR_SIGN, at + 1)

    def _find_header(self, start: int) -> int | None:
        """Where the next record begins, if one does soon."""
        for length in (SMALL_NBYTES, RESYNC_NBYTES):
            found = self._read(start, length).find(LOCAL_SIGN)
            if found >= 0:
                return start + found
        return None

    def _find_end(self, position: int, start: int, limit: int) -> tuple[Record | None, int]:
        """A record of unknown length, up to the first descriptor whose sum and length fit it."""
        step, data = 2**16, b""
        while True:
            data = self._read(start, min(limit, step))
            at = data.find(DESCRIPTOR_SIGN)
            summed, running = 0, 0  # the sum of what stands before `at`, as far as it is needed
            while at >= 0:
                for layout in (DESCRIPTOR, DESCRIPTOR64):
                    if at + layout.size <= len(data):
                        _, crc, packed, plain = layout.unpack_from(data, at)
                        if packed == plain == at:
                            running = crc32(data[summed:at], running)
                            summed = at
                            if crc in (0, running):
                                return Record(position, at, crc), start + at + layout.size
                at = data.find(DESCRIPTOR_SIGN, at + 1)
            if len(data) < step or step >= limit:
                return None, 0
            step *= 4

    def _behind_directory(self, start: int) -> int:
        at = self._read(start, MAX_DIRECTORY_NBYTES).find(END_SIGN)
        return 0 if at < 0 else max(0, self.nbytes - (start + at + END.size))

    def _read(self, start: int, length: int) -> bytes:
        """As much of it as the file has."""
        length = min(length, self.nbytes - start)
        return self.source.read(self.file, start, length) if length > 0 else b""
