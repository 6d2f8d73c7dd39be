"""The header of a safetensors file: which bytes belong to which tensor.

8 bytes of length (little-endian), that many bytes of JSON, then the tensors' bytes without a gap.
Format: https://github.com/huggingface/safetensors#format. Stricter than the reference reader in
that a key may stand there once only.
"""

from typing import Any, NamedTuple

from llamainspect.dtypes import DTYPES
from llamainspect.errors import CorruptFile, UnsupportedFile, reason_of
from llamainspect.formats.signatures import HEAD_NBYTES, describe_stand_in
from llamainspect.formats.strict_json import parse_json_object
from llamainspect.sources import Source

LENGTH_NBYTES = 8
MAX_HEADER_NBYTES = 16 * 2**20  # far more than any model needs
OTHER_FORMATS = ((b"GGUF", "a GGUF file"), (b"PK\x03\x04", "a zip archive, as torch.save writes"))
METADATA = "__metadata__"
MAX_ELEMENTS = 2**63
# safetensors `tensor.rs`, Dtype; those of less than a byte are packed.
NAMES = "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32"
NAMES += " C64 F64 I64 U64 F4 F6_E2M3 F6_E3M2"
BITS = {n: 8 * DTYPES[n].block_bytes // DTYPES[n].block_elements for n in NAMES.split()}


class Entry(NamedTuple):
    """One tensor of the header; `start` and `end` from the first byte of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """All tensors in the order of their bytes, which they cover without gap or overlap."""

    entries: tuple[Entry, ...]
    end: int  # of the last tensor, and so of a whole file
    metadata: dict[str, str]  # what its writer says of it


def read_header(source: Source, file: str) -> Header:
    """The tensors of one file; the last of them end behind its end when it was cut short.

    Raises CorruptFile or UnsupportedFile when the header cannot be followed or contradicts itself.
    """
    nbytes = source.nbytes(file)
    head = source.read(file, 0, min(nbytes, HEAD_NBYTES))
    if stand_in := describe_stand_in(head, nbytes):
        raise CorruptFile(f"{file}: {stand_in}")
    length = int.from_bytes(head[:LENGTH_NBYTES], "little")
    for start, what in OTHER_FORMATS:
        if head.startswith(start):
            raise CorruptFile(f"{file}: it is {what}, under the name of another; rename it")
    if len(head) <= LENGTH_NBYTES or head[LENGTH_NBYTES : LENGTH_NBYTES + 1] != b"{":
        raise CorruptFile(f"{file}: it does not begin like a safetensors file; download it again")
    begin = LENGTH_NBYTES + length
    if begin > nbytes:
        raise CorruptFile(
            f"{file}: cut short or damaged: its header alone would need {begin:,} bytes, the file "
            f"has {nbytes:,}; download it again"
        )
    if length > MAX_HEADER_NBYTES:
        raise UnsupportedFile(
            f"{file}: its header claims {length:,} bytes; more than {MAX_HEADER_NBYTES:,} are not "
            "read"
        )
    try:
        table = parse_json_object(source.read(file, LENGTH_NBYTES, length), file)
    except CorruptFile as error:
        raise CorruptFile(f"{file}: its header is damaged: {reason_of(error, file)}") from error
    metadata = table.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(map(_is_text, (*metadata, *metadata.values()))):
        raise CorruptFile(f"{file}: {METADATA} in its header is no table of texts")
    entries = [_entry(file, name, item, begin) for name, item in table.items() if name != METADATA]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    position = begin
    for entry in entries:
        if entry.start != position:
            what = "overlaps the one before it" if entry.start < position else "leaves a gap"
            raise CorruptFile(f"{file}: {entry.name[:80]} {what} (byte {entry.start:,})")
        position = entry.end
    return Header(tuple(entries), position, metadata)


def _entry(file: str, name: str, item: Any, begin: int) -> Entry:
    if not isinstance(item, dict) or not _is_text(name):
        raise CorruptFile(f"{file}: the header says nothing usable of {name[:80]}")
    dtype: Any = item.get("dtype")
    shape: Any = item.get("shape")
    offsets: Any = item.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets, 2):
        raise CorruptFile(f"{file}: the header says nothing usable of {name[:80]}")
    entry = Entry(name, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])
    needed = _nbytes(dtype, entry.shape)
    if needed is None:
        raise UnsupportedFile(f"{file}: {name[:80]} has dtype {dtype[:40]}, which is not known")
    if entry.end - entry.start != needed:
        raise CorruptFile(
            f"{file}: {name[:80]} of shape {str(shape)[:80]} and dtype {dtype} does not fit in the "
            f"{entry.end - entry.start:,} bytes that the header gives it"
        )
    return entry


def _is_text(value: Any) -> bool:
    """Whether it is Unicode text; JSON can escape half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)


def _are_sizes(value: Any, count: int | None = None) -> bool:
    return (
        isinstance(value, list)
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
        and (count is None or len(value) == count)
    )


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor, -1 when no file can have as many or they are no whole number."""
    bits = BITS.get(dtype)
    if bits is None:
        return None
    elements = 1
    for length in shape:
        elements *= length
        if elements > MAX_ELEMENTS:
            return -1  # even if a 0 follows, as the reference has it
    return -1 if elements * bits % 8 else elements * bits // 8
