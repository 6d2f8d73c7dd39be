"""Changes to valid files: blind ones of bytes, and ones that know the container they are made in.

A blind change to a zip or a pickle mostly breaks its first length. The others take the container
apart, change one part and put it together again, so that what is behind the lengths is reached.
Everything is drawn from the `random.Random` that is given: the same seed makes the same change.
"""

import io
import json
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

Mutate = Callable[[bytes, Random], bytes]

EDGES = (0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31,
         2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


def several(data: bytes, random: Random, mutate: Mutate) -> bytes:
    """One to four changes, one upon the other."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = mutate(data, random)
    return data


# --- bytes ----------------------------------------------------------------------------------------


def change_bytes(data: bytes, random: Random) -> bytes:
    """Flipped bits, edges of integers, slices taken out, put in, doubled, swapped; the end cut."""
    return random.choice(_BYTES)(bytearray(data), random)


def _slice(data: bytearray, random: Random) -> slice:
    start = random.randrange(len(data) + 1)
    return slice(start, start + random.choice((1, 1, 2, 4, 8, 30, 200)))


def _flip(data: bytearray, random: Random) -> bytes:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _edge(data: bytearray, random: Random) -> bytes:
    width = random.choice((1, 2, 4, 8))
    value = random.choice(EDGES) % 256**width
    at = random.randrange(len(data) + 1)
    data[at : at + width] = value.to_bytes(width, random.choice(("little", "little", "big")))
    return bytes(data)


def _delete(data: bytearray, random: Random) -> bytes:
    del data[_slice(data, random)]
    return bytes(data)


def _insert(data: bytearray, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.choice((random.randbytes(random.choice((1, 4, 30))), b"\0" * 30))
    return bytes(data)


def _double(data: bytearray, random: Random) -> bytes:
    part = _slice(data, random)
    data[part.start : part.start] = data[part]
    return bytes(data)


def _swap(data: bytearray, random: Random) -> bytes:
    one, other = _slice(data, random), _slice(data, random)
    data[one], data[other] = data[other], data[one]
    return bytes(data)


def _cut(data: bytearray, random: Random) -> bytes:
    return bytes(data[: random.randrange(len(data) + 1)])


_BYTES = (_flip, _edge, _delete, _insert, _double, _swap, _cut)


def _reorder(items: list[Any], random: Random) -> None:
    """One item deleted, doubled or moved."""
    if items:
        item = items.pop(random.randrange(len(items)))
        for _ in range(random.choice((0, 1, 2))):
            items.insert(random.randrange(len(items) + 1), item)


# --- lines ----------------------------------------------------------------------------------------


def change_lines(change: Mutate) -> Mutate:
    """A line deleted, doubled, moved, or changed by `change`."""

    def mutate(data: bytes, random: Random) -> bytes:
        lines = data.split(b"\n")
        if random.random() < 0.3:
            _reorder(lines, random)
        else:
            at = random.randrange(len(lines))
            lines[at] = change(lines[at], random)
        return random.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines)

    return mutate


# --- JSON -----------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 64, 1.0, 0.5, 1e300, -1e-300, "", "x", "llama", "\x1b[31m",
    "\ud800", "\u202e", "1", "F32", "BF16", "../up", [], {}, [0], [1, 2], [0, 8], {"a": 1},
    10**30, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), "a" * 300, [[[[]]]],
)  # fmt: skip
RAW = (b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b'"\\ud800"',
       b"-0", b"1E400", b"0.0000001")  # fmt: skip


def change_json(data: bytes, random: Random) -> bytes:
    """One value or key of it replaced, taken out, moved or doubled; or bytes, where it is none."""
    if random.random() < 0.1:
        return change_bytes(data, random)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return change_bytes(data, random)
    holders: list[dict[str, Any] | list[Any]] = []
    _find_holders(value, holders)
    if not holders:
        return json.dumps(random.choice(VALUES)).encode()
    holder = random.choice(holders[: random.choice((1, 4, len(holders)))])  # outer ones matter more
    key: Any = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = random.randrange(6)
    raw = b""
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[random.choice((f"{key}x", key[:-1], "", "\x1b[0m", "\ud800", "__metadata__"))] = (
            holder.pop(key)
        )
    elif action == 2:
        holder[key] = [holder[key]] if random.random() < 0.5 else {"x": holder[key]}
    elif action == 3 and type(holder[key]) in (int, float):
        change = random.choice((lambda v: v + 1, lambda v: v - 1, lambda v: -v, lambda v: v * 2,
                                float, str, lambda v: v / 3 if abs(v) < 1e300 else v,
                                lambda v: random.choice(EDGES)))  # fmt: skip
        holder[key] = _or_zero(change, holder[key])
    elif action == 4:
        raw, holder[key] = random.choice(RAW), "\x00raw\x00"
    else:
        other = random.choice(holders)
        values = list(other.values() if isinstance(other, dict) else other)
        holder[key] = random.choice((*VALUES, *values[:20]))
    try:
        text = json.dumps(value).encode()
    except (RecursionError, ValueError):  # it holds itself now
        return change_bytes(data, random)
    return text.replace(b'"\\u0000raw\\u0000"', raw) if raw else text


def _or_zero(change: Callable[[Any], Any], value: Any) -> Any:
    try:
        return change(value)
    except (OverflowError, ValueError):
        return 0


def _find_holders(value: Any, found: list[Any]) -> None:
    """Every object and list with something in it, to a depth that needs no more stack."""
    level = [value]
    for _ in range(20):
        holders = [item for item in level if isinstance(item, (dict, list)) and item]
        found += holders
        level = [
            child
            for item in holders
            for child in (item.values() if isinstance(item, dict) else item)
        ]


# --- safetensors ----------------------------------------------------------------------------------


def change_safetensors(data: bytes, random: Random) -> bytes:
    """The JSON of the header under a length that is right again, the data, or plain bytes."""
    begin = 8 + int.from_bytes(data[:8], "little")
    if random.random() < 0.2 or not 8 < begin <= len(data):
        return change_bytes(data, random)
    header, rest = data[8:begin], data[begin:]
    if random.random() < 0.1:
        rest = rest + bytes(random.choice((1, 4, 100))) if random.random() < 0.5 else rest[:-1]
    else:
        header = change_json(header, random)
    return len(header).to_bytes(8, "little") + header + rest


# --- pickles --------------------------------------------------------------------------------------

_TEXTS = ("", "storage", "a.weight", "0", "1", "cpu", "\x1b[31m", "big" * 100)
_GLOBALS = (
    b"torch\nFloatStorage", b"torch\nBFloat16Storage", b"torch.storage\nUntypedStorage",
    b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_tensor_v3",
    b"torch._utils\n_rebuild_parameter", b"torch._utils\n_rebuild_qtensor",
    b"torch._utils\n_rebuild_sparse_tensor", b"torch._utils\n_rebuild_nested_tensor",
    b"torch._utils\n_rebuild_wrapper_subclass", b"torch._utils\n_rebuild_meta_tensor_no_storage",
    b"torch._utils\n_rebuild_device_tensor_from_cpu_tensor", b"torch\nSize",
    b"torch._utils\n_rebuild_parameter_with_state", b"torch\nfloat8_e4m3fn",
    b"torch._tensor\n_rebuild_from_type_v2", b"collections\nOrderedDict", b"os\nsystem",
    b"builtins\neval", b"torch._utils\n_rebuild_tensor", b"\xff\n\xfe", b"\n",
)  # fmt: skip


def _opcode(random: Random) -> bytes:
    """One opcode with an argument of the right length, most times."""
    kind = random.randrange(9)
    if kind == 0:
        return b"c" + random.choice(_GLOBALS) + b"\n"
    if kind == 1:
        text = random.choice(_TEXTS).encode()
        return b"X" + len(text).to_bytes(4, "little") + text
    if kind == 2:
        return b"J" + (random.choice(EDGES) % 2**32).to_bytes(4, "little")
    if kind == 3:
        number = random.choice(EDGES).to_bytes(10, "little", signed=True)
        return b"\x8a\x0a" + number
    if kind == 4:
        return random.choice((b"q", b"h", b"K", b"C\x01")) + bytes((random.randrange(8),))
    if kind == 5:
        return random.choice((b"r", b"j")) + random.randrange(8).to_bytes(4, "little")
    if kind == 6:
        return b"G" + random.choice((b"\x7f\xf0", b"\x7f\xf8", b"\0\0", b"\x40\0")) + bytes(6)
    plain = b"()}]Nt\x85\x86\x87RQbaeus\x81\x88\x89012\x8f\x90\x91\x93\x94."
    refused = b"ioP\x82\x83\x84\x92\x8bI\x97\x98"
    code = random.choice(refused if random.random() < 0.05 else plain)
    return bytes((code,))


def opcodes_of(data: bytes) -> list[bytes]:
    """The stream cut at its opcodes, as far as they can be told."""
    starts = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position)
    except Exception:  # whatever it makes of a stream that is none
        pass
    bounds = [*starts, len(data)]
    return [data[a:b] for a, b in pairwise(bounds)] or [data]


def change_pickle(data: bytes, random: Random) -> bytes:
    """Opcodes taken out, doubled, moved, put in or changed."""
    codes = opcodes_of(data)
    action = random.randrange(5)
    if action == 0:
        return change_bytes(data, random)
    if action == 1:
        _reorder(codes, random)
    elif action == 2:
        codes.insert(random.randrange(len(codes) + 1), _opcode(random))
    elif action == 3:
        codes[random.randrange(len(codes))] = _opcode(random)
    else:
        start = random.randrange(len(codes))
        part = codes[start : start + random.choice((2, 5, 20, 60))]
        at = random.randrange(len(codes) + 1)
        codes[at:at] = part
    return b"".join(codes)


# --- zip ------------------------------------------------------------------------------------------

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_FIELDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (10, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x07\x08": ((4, 4), (8, 4), (12, 4), (8, 8), (16, 8)),
    b"PK\x01\x02": ((4, 1), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2),
                    (34, 2), (36, 2), (38, 4), (42, 4)),
    b"PK\x06\x06": ((4, 8), (12, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\x06\x07": ((4, 4), (8, 8), (16, 4)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}  # fmt: skip
Records = list[tuple[bytes, bytes]]


def records_of(data: bytes) -> Records | None:
    """(name, bytes) of each record, by the standard library; None where it finds no zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = []
            for info in archive.infolist():
                name_length, extra_length = struct.unpack_from("<2H", data, info.header_offset + 26)
                start = info.header_offset + 30 + name_length + extra_length
                name = data[info.header_offset + 30 :][:name_length]
                found.append((name, data[start : start + info.file_size]))
            return found
    except Exception:  # zipfile fails in many ways
        return None


def torch_zip(records: Records, *, zip64: bool = True) -> bytes:
    """An archive as torch.save lays it out: aligned records, sums behind them, zip64 at the end."""
    body, directory = bytearray(), bytearray()
    for name, data in records:
        start, crc = len(body), zlib.crc32(data)
        pad = -(start + _LOCAL.size + len(name) + 4) % 64
        extra = b"FB" + pad.to_bytes(2, "little") + b"Z" * pad
        body += _LOCAL.pack(b"PK\x03\x04", 0, 0x808, 0, 0, 0, 0, 0, 0, len(name), len(extra))
        body += name + extra + data
        if data:
            body += struct.pack("<4s3L", b"PK\x07\x08", crc, len(data), len(data))
        directory += _CENTRAL.pack(
            b"PK\x01\x02", 0, 0, 0, 0x808, 0, 0, 0, crc, len(data), len(data), len(name), 0, 0, 0,
            0, 0, start,
        ) + name  # fmt: skip
    start, count = len(body), len(records)
    end = body + directory
    if zip64:
        end += _END64.pack(b"PK\x06\x06", _END64.size - 12, 0x31E, 45, 0, 0, count, count,
                           len(directory), start)  # fmt: skip
        end += _LOCATOR.pack(b"PK\x06\x07", 0, start + len(directory), 1)
    return bytes(end + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0))


def change_zip(data: bytes, random: Random) -> bytes:
    """A record changed, renamed, moved or taken out, all else right again; or a field that lies."""
    records = records_of(data)
    action = random.randrange(10)
    if records is None or not records or action == 0:
        return change_bytes(data, random)
    if action <= 3:
        return change_zip_field(data, random)
    if action <= 6:
        for at, (name, content) in enumerate(records):
            if name.endswith(b"data.pkl"):
                records[at] = name, change_pickle(content, random)
    elif action == 7:
        at = random.randrange(len(records))
        records[at] = records[at][0], change_bytes(records[at][1], random)
    elif action == 8:
        at = random.randrange(len(records))
        records[at] = change_bytes(records[at][0], random)[:500], records[at][1]
    else:
        _reorder(records, random)
    return torch_zip(records, zip64=random.random() < 0.9)


def change_pickled(data: bytes, random: Random) -> bytes:
    """A zip or a pickle in its own terms, and now and then its bytes."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    return (change_zip if data.startswith(b"PK") else change_pickle)(data, random)


def change_zip_field(data: bytes, random: Random) -> bytes:
    """A number in a header, descriptor, directory entry or end record."""
    sign = random.choice(list(_FIELDS))
    places = []
    at = data.find(sign)
    while at >= 0 and len(places) < 200:
        places.append(at)
        at = data.find(sign, at + 1)
    if not places:
        return change_bytes(data, random)
    offset, width = random.choice(_FIELDS[sign])
    at = random.choice(places) + offset
    old = int.from_bytes(data[at : at + width], "little")
    new = random.choice((random.choice(EDGES), old + 1, old - 1, old ^ 1 << random.randrange(16)))
    return data[:at] + (new % 256**width).to_bytes(width, "little") + data[at + width :]


# --- protobuf -------------------------------------------------------------------------------------


def change_protobuf(data: bytes, random: Random) -> bytes:
    """A field taken out, doubled, moved or changed inside, its length right again."""
    fields = _fields(data)
    if fields is None or not fields or random.random() < 0.15:
        return change_bytes(data, random)
    if random.random() < 0.3:
        _reorder(fields, random)
        return b"".join(map(_field, fields))
    at = random.randrange(len(fields))
    tag, value = fields[at]
    if isinstance(value, int):
        value = random.choice((*EDGES, value + 1, value ^ 1))
    else:
        inner = change_protobuf if _fields(value) and random.random() < 0.7 else change_bytes
        value = inner(value, random)
    if random.random() < 0.05:
        tag = random.choice(EDGES[:12])
    fields[at] = tag, value
    return b"".join(map(_field, fields))


def _fields(data: bytes) -> list[tuple[int, Any]] | None:
    """(tag, integer or bytes); None where it is no message."""
    found: list[tuple[int, Any]] = []
    position = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            wire = tag & 7
            if wire == 0:
                value, position = _varint(data, position)
                found.append((tag, value))
                continue
            if wire == 2:
                length, position = _varint(data, position)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                return None
            if position + length > len(data):
                return None
            found.append((tag, data[position : position + length]))
            position += length
    except IndexError:
        return None
    return found


def _field(field: tuple[int, Any]) -> bytes:
    tag, value = field
    if isinstance(value, int):
        return _as_varint(tag) + _as_varint(value)
    return _as_varint(tag) + (_as_varint(len(value)) if tag & 7 == 2 else b"") + value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


# --- npz ------------------------------------------------------------------------------------------


def change_npz(data: bytes, random: Random) -> bytes:
    """An array's file changed, renamed or taken out, in an archive that is right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # zipfile fails in many ways
        files = []
    if not files or random.random() < 0.2:
        return change_zip_field(data, random)
    at = random.randrange(len(files))
    name, content = files[at]
    action = random.randrange(4)
    if action == 0:
        _reorder(files, random)
    elif action == 1:
        files[at] = random.choice(("tokens.npy", "logits.npy", "positions.npy", "x")), content
    elif action == 2:  # what the array is said to be
        end = content.find(b"\n") + 1
        files[at] = name, change_bytes(content[:end], random) + content[end:]
    else:
        files[at] = name, change_bytes(content, random)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", random.choice((0, 0, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in dict(files).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
