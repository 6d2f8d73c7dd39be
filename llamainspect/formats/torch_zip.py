"""The zip that torch.save writes: stored records, found through the central directory alone.

Strict on purpose. torch writes one narrow kind of zip, and what deviates from it (comments,
deflated or encrypted records, overlaps, two directories that disagree) is how one file is made to
look different to two readers. Format: PKWARE APPNOTE 6.3.9 (4.3.7 local header, 4.3.12 central
directory, 4.3.14 zip64 end, 4.5.3 zip64 extra field), torch
`caffe2/serialize/inline_container.cc`.
"""

import struct
from typing import NamedTuple

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.formats.signatures import (
    HEAD_NBYTES,
    LFS_POINTER,
    describe_compression,
    describe_stand_in,
    is_like_safetensors,
)
from llamainspect.sources import Readable

END = struct.Struct("<4s4H2LH")  # end of central directory
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s2B5H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
EXTRA = struct.Struct("<HH")
WIDE = struct.Struct("<Q")
LOCAL_SIGN, CENTRAL_SIGN, END_SIGN = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
PICKLE, STORAGE = "data.pkl", "data/"  # records: the objects, and the bytes that they refer to
TAIL_NBYTES = END64.size + END64_LOCATOR.size + END.size
MAX_DIRECTORY_NBYTES = 256 * 2**20
MASK16, MASK32 = 0xFFFF, 0xFFFFFFFF
STORED = 0
ALLOWED_FLAGS = 0x0808  # sizes in a data descriptor, UTF-8 names
ZIP64_EXTRA = 1

GGUF_SIGN = b"GGUF"
GGUF = "it is a GGUF file, which is not read; inspect the checkpoint it was made from"
LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the first of the pickles in a legacy file
LEGACY = (
    "was written by torch.save before torch 1.6 (or with _use_new_zipfile_serialization=False), a "
    "format that cannot be listed without unpickling; re-save it with torch.save(torch.load(path, "
    "weights_only=True), new_path)"
)


class Record(NamedTuple):
    """One member of the archive, as the central directory has it."""

    start: int  # of its local header
    nbytes: int
    crc32: int = 0  # 0 on a record with bytes: not computed


class Archive(NamedTuple):
    """All that the directory says."""

    records: dict[str, Record]  # by name without the root folder
    end: int  # of the last record, where the directory begins
    root: bytes  # the folder of all records, with its slash


def read_directory(source: Readable, file: str) -> dict[str, Record]:
    """Records by name without the root folder: "data.pkl", "data/0", ...

    Two or three reads at the end of the file, whatever its length. Raises CorruptFile or
    UnsupportedFile with a sentence for everything that is not a torch zip.
    """
    return read_archive(source, file).records


def read_archive(source: Readable, file: str) -> Archive:
    """The same, with what else the directory says."""
    size = source.nbytes(file)
    head = source.read(file, 0, min(size, HEAD_NBYTES))
    if not head.startswith(LOCAL_SIGN):
        raise _not_a_zip(source, file, size, head)
    tail = source.read(file, max(0, size - TAIL_NBYTES), min(size, TAIL_NBYTES))
    start, nbytes, count = _locate_directory(file, size, tail)
    if nbytes > MAX_DIRECTORY_NBYTES:
        raise UnsupportedFile(f"{file}: its zip directory has {nbytes:,} bytes; that is not read")
    data = source.read(file, start, nbytes)
    root = _root(file, data)
    return Archive(_parse_directory(file, data, count, start, root), start, root)


def locate_record(source: Readable, file: str, name: str, record: Record) -> int:
    """Offset of a record's first byte; reads its local header, which only then is needed.

    The local header's sizes are zero in torch's files; only the lengths of its name and of its
    padding count, and its name must be the one that the directory has.
    """
    size = source.nbytes(file)
    # The name comes with the fixed part in one read, unless the file was saved under a long one.
    header = source.read(file, record.start, min(LOCAL.size + 256, size - record.start))
    if len(header) < LOCAL.size or header[:4] != LOCAL_SIGN:
        raise _lies(file, f"no record stands where its directory has {name[:80]!r}")
    name_length, extra_length = LOCAL.unpack_from(header)[-2:]
    name_end = LOCAL.size + name_length
    if name_end > len(header):
        header = source.read(file, record.start, min(name_end, size - record.start))
    if not header[LOCAL.size : name_end].endswith(b"/" + name.encode()):
        raise _lies(file, f"record {name[:80]!r} has another name in its own header")
    offset: int = record.start + name_end + extra_length
    if offset + record.nbytes > size:
        raise _lies(file, f"record {name[:80]!r} runs past the end of the file")
    return offset


def read_root(source: Readable, file: str) -> str:
    """The folder that all records lie in: the stem of the name under which torch saved the file."""
    head = source.read(file, 0, min(512, source.nbytes(file)))
    name_length = LOCAL.unpack_from(head)[-2]
    name = head[LOCAL.size : LOCAL.size + name_length]
    return name.partition(b"/")[0].decode("utf-8", "replace")


def _not_a_zip(
    source: Readable, file: str, size: int, head: bytes
) -> CorruptFile | UnsupportedFile:
    if stand_in := describe_stand_in(head, size):
        kind = UnsupportedFile if head.startswith(LFS_POINTER) else CorruptFile
        return kind(f"{file}: {stand_in}")
    if packed := describe_compression(head):
        return UnsupportedFile(f"{file}: {packed}")
    if head.startswith(GGUF_SIGN):
        return UnsupportedFile(f"{file}: {GGUF}")
    if LEGACY_MAGIC in head[:32]:
        return UnsupportedFile(f"{file}: it {LEGACY}")
    if head[257:262] == b"ustar":
        return UnsupportedFile(f"{file}: it {LEGACY}")
    if is_like_safetensors(head, size):
        return UnsupportedFile(
            f"{file}: it looks like a safetensors file under another name; rename it to end in "
            ".safetensors"
        )
    if head[:1] == b"\x80":
        return UnsupportedFile(f"{file}: it is a bare pickle, not a checkpoint; do not load it")
    return CorruptFile(
        f"{file}: it is not a zip archive, as torch.save writes (it begins with "
        f"{head[:8].hex(' ')}); "
        "download it again"
    )


def _locate_directory(file: str, size: int, tail: bytes) -> tuple[int, int, int]:
    """(start, nbytes, records) of the central directory, from the end records that must agree."""
    end_at = len(tail) - END.size
    if 0 <= tail.rfind(END_SIGN) < end_at:
        raise _lies(file, "something was appended behind its end")
    if end_at < 0 or tail[end_at : end_at + 4] != END_SIGN:
        raise CorruptFile(
            f"{file}: its end is missing (a torch zip ends with its directory), so the file of "
            f"{size:,} bytes is cut short or damaged; resume or repeat the download"
        )
    _, disk, start_disk, here, count, nbytes, start, comment = END.unpack_from(tail, end_at)
    locator_at = end_at - END64_LOCATOR.size
    directory_end = size - END.size
    if locator_at >= 0 and tail[locator_at : locator_at + 4] == b"PK\x06\x07":
        _, end64_disk, end64_start, disks = END64_LOCATOR.unpack_from(tail, locator_at)
        end64_at = locator_at - END64.size
        directory_end = size - TAIL_NBYTES
        if end64_at < 0 or end64_start != directory_end or disks != 1 or end64_disk:
            raise _lies(file, "its zip64 locator points elsewhere")
        sign, length, _, _, disk64, start_disk64, here64, count64, nbytes64, start64 = (
            END64.unpack_from(tail, end64_at)
        )
        if sign != b"PK\x06\x06" or length != END64.size - 12:
            raise _lies(file, "its zip64 end record is malformed")
        for short, long, mask in (
            (disk, disk64, MASK16),
            (start_disk, start_disk64, MASK16),
            (here, here64, MASK16),
            (count, count64, MASK16),
            (nbytes, nbytes64, MASK32),
            (start, start64, MASK32),
        ):
            if short not in (long, mask):
                raise _lies(file, "its two end records disagree")
        disk, start_disk, here, count = disk64, start_disk64, here64, count64
        nbytes, start = nbytes64, start64
    if comment or disk or start_disk or here != count:
        raise _lies(file, "it has a comment or several volumes, which torch never writes")
    if start + nbytes != directory_end:
        raise _lies(file, "its directory is not where the end record says")
    if count * CENTRAL.size > nbytes:
        raise _lies(file, f"its directory is too small for {count:,} records")
    return start, nbytes, count


def _parse_directory(
    file: str, data: bytes, count: int, directory: int, root: bytes
) -> dict[str, Record]:
    """Every record, checked; a large set has ten thousand, so the usual case goes straight."""
    records: dict[str, Record] = {}
    folded: set[str] = set()  # torch looks names up without case, so DATA.PKL would hide data.pkl
    position, expected_start = 0, 0
    for _ in range(count):
        if position + CENTRAL.size > len(data):
            raise _lies(file, "its directory ends too early")
        (sign, _, _, _, flags, method, _, _, crc, packed, nbytes, name_length, extra_length,
         comment_length, disk, _, _, start) = CENTRAL.unpack_from(data, position)  # fmt: skip
        if sign != CENTRAL_SIGN:
            raise _lies(file, "its directory holds something that is no record")
        name_end = position + CENTRAL.size + name_length
        raw_name = data[position + CENTRAL.size : name_end]
        position = name_end + extra_length + comment_length
        if start == MASK32 or nbytes == MASK32 or packed == MASK32:
            extra = data[name_end : name_end + extra_length]
            nbytes, packed, start = _zip64_fields(file, extra, nbytes, packed, start)
        if not raw_name.startswith(root):
            raise _lies(file, f"record {raw_name[:80]!r} lies outside the folder {root[:80]!r}")
        name = raw_name[len(root) :].decode("utf-8", "replace")
        if not _is_plain(name):
            raise _lies(file, f"a record is called {name[:80]!r}, which torch never writes")
        lower = name.lower()
        if lower in folded:
            raise _lies(file, f"record {name[:80]!r} is there twice")
        if flags & ~ALLOWED_FLAGS or disk:
            raise UnsupportedFile(
                f"{file}: record {name[:80]!r} is encrypted or marked in a way torch never does "
                f"(zip flags {flags:#06x}); get the file from its publisher again"
            )
        if method != STORED or packed != nbytes:
            raise UnsupportedFile(
                f"{file}: record {name[:80]!r} is compressed; torch.save stores records as they "
                "are. "
                "It was zipped again or is a TorchScript archive: re-save it with torch.save"
            )
        if start < expected_start or (start and not records):
            raise _lies(file, f"record {name[:80]!r} overlaps the one before it")
        expected_start = start + LOCAL.size + name_length + nbytes
        folded.add(lower)
        records[name] = Record(start, nbytes, crc)
    if expected_start > directory or position != len(data):
        raise _lies(file, "its records run into its directory, or the directory has a rest")
    return records


def _is_plain(name: str) -> bool:
    """ASCII without control characters, backslash, ".." or empty parts: all that torch writes."""
    return (
        name.isascii()
        and name.isprintable()
        and "\\" not in name
        and ".." not in name
        and "//" not in name
        and not name.startswith("/")
        and not name.endswith("/")
        and name != ""
    )


def _root(file: str, data: bytes) -> bytes:
    """The folder of all records, with its slash: the stem of the name it was saved under."""
    name = data[CENTRAL.size : CENTRAL.size + int.from_bytes(data[28:30], "little")]
    root, slash, _ = name.partition(b"/")
    text = root.decode("utf-8", "replace")
    strange = not text.isprintable() or "\\" in text or "\ufffd" in text  # no UTF-8: zipfile fails
    if not slash or text in ("", ".", "..") or strange:
        raise _lies(file, f"its first record is called {name[:80]!r}, which torch never writes")
    return root + slash


def _zip64_fields(
    file: str, extra: bytes, nbytes: int, packed: int, start: int
) -> tuple[int, int, int]:
    """The values that did not fit in 32 bits, in the order the format prescribes."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = EXTRA.unpack_from(extra, position)
        position += EXTRA.size
        if kind == ZIP64_EXTRA:
            whole = min(length, len(extra) - position) // WIDE.size * WIDE.size
            wide = WIDE.iter_unpack(extra[position : position + whole])
            values = [next(wide, (-1,))[0] if v == MASK32 else v for v in (nbytes, packed, start)]
            if -1 in values:
                break
            return values[0], values[1], values[2]
        position += length
    raise _lies(file, "a zip64 size is missing")


def _lies(file: str, what: str) -> CorruptFile:
    return CorruptFile(f"{file}: {what}; the file is damaged or made to mislead, download it again")
