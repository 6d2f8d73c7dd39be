"""Checkpoints in each of which one thing is wrong: what downloads, tools and malice make of files.

`CASES` names them; `write_case` puts one into a directory. The rest of each is a small model that
is right in every way, so that commands get as far as the damage lets them. Cases are the same every
time: what looks random comes from a generator with a seed.

Formats are spelled out here from their descriptions, byte by byte; nothing comes from the package.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import socket
import struct
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import small_tokenizers as tokens
import torch
from checkpoints import cut, dense_shapes, random_weights, write_native
from hub_layout import hub_config, to_hub, write_hub

Make = Callable[[Path], object]
Files = dict[str, bytes | Make]  # what stands in a file, or what makes it something else
SHARD, PARAMS, TOKENIZER, LIST = (
    "consolidated.00.pth", "params.json", "tokenizer.model", "checklist.chk",
)  # fmt: skip
TENSORS, CONFIG, INDEX, TOKENS = (
    "model-00001-of-00002.safetensors", "config.json", "model.safetensors.index.json",
    "tokenizer.json",
)  # fmt: skip
MEGABYTE = 2**20
HTML = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>\n"
LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 16060522496\n"
)

# Names and texts that mean something to whoever prints, opens, formats or parses them.
NAMES = {
    "ESC": "\x1b[31mred\x1b[0m",
    "a title for the terminal": "\x1b]0;owned\x07",
    "a link for the terminal": "\x1b]8;;http://example.org\x1b\\here\x1b]8;;\x1b\\",
    "a question to the terminal": "\x1b[c\x05",
    "C1": "\x9b31mred\x9d0;owned\x9c",
    "line ends": "one\ntwo\r\nthree\rfour",
    "backspaces": "abc\b\b\bxyz\x7f",
    "NUL": "a\0b",
    "bidi": "\u202egnp.exe\u202c\u2066x\u2069",
    "nothing to see": "\u200b\u200d\ufeff\u2060\u00ad",
    "tags": "\U000e0041\U000e007f",
    "line separators": "a\u2028b\u2029c\x85d",
    "half a character": "\ud800",
    "markup": "[bold red]x[/bold red]",
    "the end of markup": "[/]",
    "a page's script": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "a template": "{{ 7 * 7 }}{% for %}${x}{0}%s%n",
    "a path out": "../../../etc/passwd",
    "a path from the root": "/etc/passwd",
    "a pattern": "*[a-z]?**",
    "a formula": "=cmd|'/c calc'!A0",
    "marks upon marks": "e" + "\u0301" * 2_000,
    "a megabyte": "x" * MEGABYTE,
    "nothing": "",
    "dots": "....",
}


def write_case(name: str, root: Path) -> None:
    """The case `name`: a model in `root/model`, and what commands read besides in `root/given`."""
    write_files(CASES[name](), root)


def write_files(files: Files, root: Path) -> None:
    """Files, and what is none."""
    (root / "model").mkdir(parents=True)
    for name, content in files.items():
        path = root / (name if name.startswith("given/") else f"model/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)


# --- what is right --------------------------------------------------------------------------------

RANKS = 260
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|image|>")
HIDDEN = 48  # int(2 * 4*16 / 3) = 42, up to a multiple of 16


def shape(vocab_size: int) -> dict[str, Any]:
    """params.json of a model with two layers."""
    return {
        "dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "vocab_size": vocab_size,
        "multiple_of": 16, "norm_eps": 1e-5, "rope_theta": 500000.0,
    }  # fmt: skip


def native() -> Files:
    """Meta's layout with the tokenizer of Llama 3."""
    return dict(_native(RANKS + 256, 1))


def ranked() -> Files:
    """The same in two shards."""
    return dict(_native(RANKS + 256, 2))


def pieces() -> Files:
    """Meta's layout with the tokenizer of Llama 2."""
    return dict(_native(tokens.PIECES, 1))


@cache
def _native(vocab_size: int, ranks: int) -> Files:
    llama_2 = vocab_size == tokens.PIECES
    params = shape(vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        write_native(Path(folder), params, cut(weights(vocab_size), ranks))
        files = _read(Path(folder))
    if llama_2:
        files[TOKENIZER] = tokens.sentencepiece_file()
        files[TOKENS] = tokens.sentencepiece_json(files[TOKENIZER])
    else:
        files[TOKENIZER] = tokens.rank_file(RANKS)
        files[TOKENS] = _byte_level((*SPECIAL, *(f"<|more_{i}|>" for i in range(252))))
    files[LIST] = sums(files, "md5")
    return files | given(vocab_size)


def hub() -> Files:
    """Hugging Face's layout in two safetensors under an index, with tokenizer.json."""
    return dict(_hub(2, "safetensors"))


def single() -> Files:
    """The same in one file."""
    return dict(_hub(1, "safetensors"))


def binary() -> Files:
    """The same in pytorch_model.bin."""
    return dict(_hub(1, "bin"))


@cache
def _byte_level(special: tuple[str, ...]) -> bytes:
    return tokens.byte_level_json(tokens.train_ranks(RANKS), tokens.LLAMA_3_PATTERN, special)


@cache
def _hub(shards: int, kind: str) -> Files:
    params = shape(RANKS + len(SPECIAL))
    with tempfile.TemporaryDirectory() as folder:
        here = to_hub(weights(params["vocab_size"]), params, HIDDEN)
        write_hub(Path(folder), here, hub_config(params, HIDDEN), shards=shards, kind=kind)
        files = _read(Path(folder))
    files[TOKENS] = _byte_level(SPECIAL)
    files["tokenizer_config.json"] = json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0]}
    ).encode()
    files["generation_config.json"] = json.dumps({"eos_token_id": [RANKS + 1]}).encode()
    files["SHA256SUMS"] = sums(files, "sha256")
    return files | given(params["vocab_size"])


@cache
def weights(vocab_size: int) -> "OrderedDict[str, torch.Tensor]":
    """Values with which every command ends well."""
    made = random_weights(dense_shapes(shape(vocab_size), HIDDEN), 3)
    return OrderedDict((name, weight * 0.1) for name, weight in made.items())


def given(vocab_size: int) -> Files:
    """What commands read besides a model."""
    generator = np.random.default_rng(7)
    recorded = {
        "tokens": np.array([1, 2, 3]),
        "logits": generator.standard_normal((3, vocab_size)).astype(np.float32),
    }
    npz = io.BytesIO()
    np.savez(npz, **recorded)
    questions = {"context": "The llama", "endings": [" grazes", " flies"], "label": 0}
    return {
        "given/logits.safetensors": safetensors.numpy.save(recorded),
        "given/logits.npz": npz.getvalue(),
        "given/text.txt": b"The cat sat on the mat.",
        "given/questions.jsonl": json.dumps(questions).encode() + b"\n",
        "given/chat.json": json.dumps([{"role": "user", "content": "Hi"}]).encode(),
    }


def sums(files: Files, algorithm: str) -> bytes:
    """A list of digests as md5sum and its like write it."""
    digests = {
        name: hashlib.new(algorithm, content).hexdigest()
        for name, content in files.items()
        if isinstance(content, bytes)
    }
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()


def _read(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- ways to write a case -------------------------------------------------------------------------

Base = Callable[[], Files]
Case = Callable[[], Files]
CASES: dict[str, Case] = {}
GOOD: dict[str, Base] = {
    "native": native,
    "two ranks": ranked,
    "pieces": pieces,
    "hub": hub,
    "one safetensors": single,
    "pytorch_model.bin": binary,
}


def replaced(base: Base, file: str, make: Callable[[], bytes | Make]) -> Case:
    """A good model with another file in one place."""
    return lambda: base() | {file: make()}


def add(what: str, base: Base, file: str, table: dict[str, Callable[[], bytes | Make]]) -> None:
    """Cases of one file."""
    for name, make in table.items():
        assert f"{what}: {name}" not in CASES
        CASES[f"{what}: {name}"] = replaced(base, file, make)


def always(content: bytes | Make) -> Callable[[], bytes | Make]:
    """The same content every time."""
    return lambda: content


def content(base: Base, file: str) -> bytes:
    """What stands in a file of a good model."""
    found = base()[file]
    assert isinstance(found, bytes)
    return found


def damaged(base: Base, file: str) -> dict[str, Callable[[], bytes | Make]]:
    """What becomes of any file, whatever its format."""
    return {
        "nothing in it": always(b""),
        "one byte": lambda: content(base, file)[:1],
        "one line end": always(b"\n"),
        "a web page": always(HTML),
        "a refusal in XML": always(
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
        ),
        "a pointer of Git LFS": always(LFS),
        "zeros": lambda: bytes(len(content(base, file))),
        "zeros behind half": lambda: _half(content(base, file)) + bytes(_middle(base, file)),
        "zeros before half": lambda: (
            bytes(_middle(base, file)) + content(base, file)[_middle(base, file) :]
        ),
        "half of it": lambda: _half(content(base, file)),
        "all but the last byte": lambda: content(base, file)[:-1],
        "one byte more": lambda: content(base, file) + b"\0",
        "twice": lambda: content(base, file) * 2,
        "all bytes ff": lambda: b"\xff" * 4096,
        "noise": lambda: random.Random(1).randbytes(20_000),
        "compressed": lambda: gzip.compress(content(base, file), mtime=0),
        "line ends of another system": lambda: content(base, file).replace(b"\n", b"\r\n"),
        "a directory": always(lambda path: path.mkdir()),
        "a FIFO": always(os.mkfifo),
        "a socket": always(_make_socket),
        "a link to nothing": always(lambda path: path.symlink_to("nowhere")),
        "a link to itself": always(lambda path: path.symlink_to(path.name)),
        "a device": always(lambda path: path.symlink_to("/dev/zero")),
    }


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _middle(base: Base, file: str) -> int:
    return len(content(base, file)) // 2


def _make_socket(path: Path) -> None:
    """A path of a socket may be no longer than 108 bytes, so it is made where it lies."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def cut_and_flipped(
    base: Base, file: str, cuts: int, flips: int
) -> dict[str, Callable[[], bytes | Make]]:
    """Cut short all over, and single bits that differ."""
    generator = random.Random(file)
    nbytes = len(content(base, file))
    table: dict[str, Callable[[], bytes | Make]] = {}
    for part in range(1, cuts):
        table[f"cut to {part} parts of {cuts}"] = partial(_cut, base, file, nbytes * part // cuts)
    for _ in range(flips):
        bit = generator.randrange(8 * nbytes)
        table[f"bit {bit} differs"] = partial(_flipped, base, file, bit)
    return table


def _cut(base: Base, file: str, length: int) -> bytes:
    return content(base, file)[:length]


def _flipped(base: Base, file: str, bit: int) -> bytes:
    data = bytearray(content(base, file))
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


# --- the zip of a .pth ----------------------------------------------------------------------------

# PKWARE APPNOTE 6.3.9: where the numbers stand in the three records at the end, and how wide.
END, LOCATOR, END64 = 22, 20, 56
END_FIELDS = {
    "the disk": (-END + 4, 2),
    "the records here": (-END + 8, 2),
    "the records": (-END + 10, 2),
    "the bytes of the directory": (-END + 12, 4),
    "the start of the directory": (-END + 16, 4),
    "the comment": (-END + 20, 2),
    "the start of the wide end": (-END - LOCATOR + 8, 8),
    "the disks": (-END - LOCATOR + 16, 4),
    "the length of the wide end": (-END - LOCATOR - END64 + 4, 8),
    "the records, wide": (-END - LOCATOR - END64 + 32, 8),
    "the bytes of the directory, wide": (-END - LOCATOR - END64 + 40, 8),
    "the start of the directory, wide": (-END - LOCATOR - END64 + 48, 8),
}
LIES = {"none": lambda n: 0, "one more": lambda n: n + 1, "as many as can be": lambda n: -1}
CENTRAL_FIELDS = {
    "flags: encrypted": (8, 2, 1),
    "flags: strongly encrypted": (8, 2, 0x41),
    "flags: a masked directory": (8, 2, 0x2000),
    "method: deflated": (10, 2, 8),
    "method: unknown": (10, 2, 99),
    "CRC: none": (16, 4, 0),
    "CRC: another": (16, 4, 0x12345678),
    "packed: none": (20, 4, 0),
    "packed: 4 GiB": (20, 4, 0xFFFFFFFE),
    "length: none": (24, 4, 0),
    "length: 4 GiB": (24, 4, 0xFFFFFFFE),
    "length: in an extra field that is not there": (24, 4, 0xFFFFFFFF),
    "name: 65,535 bytes": (28, 2, 0xFFFF),
    "extra: 65,535 bytes": (30, 2, 0xFFFF),
    "comment: 65,535 bytes": (32, 2, 0xFFFF),
    "disk: another": (34, 2, 1),
    "start: that of the first": (42, 4, 0),
    "start: far behind the end": (42, 4, 0xFFFFFFFE),
    "start: in an extra field that is not there": (42, 4, 0xFFFFFFFF),
    "start: one byte further": (42, 4, None),
}


def shard() -> bytes:
    """A good one."""
    return content(native, SHARD)


def _end_changed(place: tuple[int, int], change: Callable[[int], int]) -> bytes:
    data, (position, width) = bytearray(shard()), place
    at = len(data) + position
    number = change(int.from_bytes(data[at : at + width], "little"))
    data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data)


def _entry(data: bytes, number: int) -> int:
    """Where an entry of the directory starts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at, records = archive.start_dir, archive.infolist()
    for record in records[:number]:
        at += 46 + len(record.orig_filename.encode()) + len(record.extra)
    return at


def _entry_changed(record: int, offset: int, width: int, number: int | None) -> bytes:
    data = bytearray(shard())
    at = _entry(bytes(data), record) + offset
    if number is None:
        number = int.from_bytes(data[at : at + width], "little") + 1
    data[at : at + width] = number.to_bytes(width, "little")
    return bytes(data)


def _renamed_record(name: bytes) -> bytes:
    """`data/0` under a name of the same length, in both places where it stands."""
    old = b"consolidated.00/data/0"
    return shard().replace(old, name.ljust(len(old), b"_")[: len(old)])


def zipped(*records: tuple[str, bytes], root: str = "consolidated.00", **how: Any) -> bytes:
    """A zip as Python writes it, the same every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        for name, data in records:
            info = zipfile.ZipInfo(f"{root}/{name}" if root else name)
            info.compress_type = archive.compression
            archive.writestr(info, data)
    return buffer.getvalue()


def records() -> list[tuple[str, bytes]]:
    """All records of the good shard."""
    with zipfile.ZipFile(io.BytesIO(shard())) as archive:
        return [(name.partition("/")[2], archive.read(name)) for name in archive.namelist()]


def _without(*names: str) -> bytes:
    return zipped(*(record for record in records() if record[0] not in names))


def _changed(name: str, data: bytes) -> bytes:
    return zipped(*((key, data if key == name else value) for key, value in records()))


def _with_comment() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records():
            archive.writestr(zipfile.ZipInfo(f"consolidated.00/{name}"), data)
        archive.comment = b"\x1b[31mhello"
    return buffer.getvalue()


def _tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def _legacy(protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    state = {"norm.weight": torch.ones(16)}
    torch.save(state, buffer, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    return buffer.getvalue()


def _scripted() -> bytes:
    return zipped(*records(), ("constants.pkl", b"\x80\x02)."), ("code/a.py", b"import os"))


ZIPS: dict[str, Callable[[], bytes | Make]] = {
    "a comment": _with_comment,
    "a byte behind the end": lambda: shard() + b"\0",
    "a second archive behind": lambda: shard() + shard(),
    "a pickle behind": lambda: shard() + b"cos\nsystem\n(S'id'\ntR.",
    "a program before": lambda: b"#!/bin/sh\nexit\n" + shard(),
    "a PNG before": lambda: b"\x89PNG\r\n\x1a\n" + bytes(64) + shard(),
    "a header before": lambda: b"PK\x03\x04" + bytes(60) + shard(),
    "deflated": lambda: zipped(*records(), compression=zipfile.ZIP_DEFLATED),
    "in bzip2": lambda: zipped(*records(), compression=zipfile.ZIP_BZIP2),
    "in LZMA": lambda: zipped(*records(), compression=zipfile.ZIP_LZMA),
    "a bomb": lambda: zipped(
        *records(), ("data/999", bytes(64 * MEGABYTE)), compression=zipfile.ZIP_DEFLATED
    ),
    "a bomb in the pickle": lambda: zipped(
        ("data.pkl", b"\x80\x02" + b"N0" * (8 * MEGABYTE)), compression=zipfile.ZIP_DEFLATED
    ),
    "an archive in the archive": lambda: zipped(("data.pkl", shard())),
    "no records": lambda: zipped(),
    "no pickle": lambda: _without("data.pkl"),
    "no version": lambda: _without("version", ".format_version", ".data/serialization_id"),
    "no data": lambda: zipped(*(r for r in records() if not r[0].startswith("data/"))),
    "the pickle last": lambda: zipped(*reversed(records())),
    "DATA.PKL before": lambda: zipped(("DATA.PKL", b"\x80\x02}."), *records()),
    "DATA.PKL behind": lambda: zipped(*records(), ("DATA.PKL", b"\x80\x02}.")),
    "Data/0 behind": lambda: zipped(*records(), ("Data/0", b"12345678")),
    "data/00 and data/ 0": lambda: zipped(*records(), ("data/00", b"1"), ("data/ 0", b"2")),
    "two pickles": lambda: _doubled("data.pkl"),
    "two of one storage": lambda: _doubled("data/0"),
    "two roots": lambda: zipped(*records()[:5]) + zipped(*records()[5:], root="other"),
    "another root": lambda: zipped(*records(), root="consolidated.07"),
    "no root": lambda: zipped(*records(), root=""),
    "a root of dots": lambda: zipped(*records(), root=".."),
    "a deep root": lambda: zipped(*records(), root="/".join("abcdefgh" * 100)),
    "a directory entry": lambda: zipped(*records(), ("data/", b"")),
    "a program": _scripted,
    "big-endian": lambda: _changed("byteorder", b"big"),
    "no byte order": lambda: _changed("byteorder", b"mixed"),
    "a byte order of a megabyte": lambda: _changed("byteorder", b"little" * 200_000),
    "a byte order that speaks to terminals": lambda: _changed("byteorder", b"\x1b[31m"),
    "another version": lambda: _changed("version", b"99999999999999999999\n"),
    "records of nothing": lambda: zipped(*((n, b"" if "/" in n else d) for n, d in records())),
    "storages one byte short": lambda: zipped(
        *((name, data[:-1] if name.startswith("data/") else data) for name, data in records())
    ),
    "storages one byte long": lambda: zipped(
        *((name, data + b"x" if name.startswith("data/") else data) for name, data in records())
    ),
    "20,000 records more": lambda: zipped(
        *records(), *((f"data/{number}", b"") for number in range(1_000, 21_000))
    ),
    "a hole of 64 MB behind": lambda: _sparse(shard(), 64 * MEGABYTE),
    "a hole of 64 MB": lambda: _sparse(shard()[:1000], 64 * MEGABYTE),
    "a tar archive": _tarred,
    "before torch 1.6": _legacy,
    "before torch 1.6, protocol 4": lambda: _legacy(4),
    "a bare pickle": lambda: pickle.dumps({"a": 1}),
    "a GGUF file": lambda: b"GGUF\x03\0\0\0" + b"\xff" * 64,
    "a safetensors file": lambda: content(single, "model.safetensors"),
    "a program of this machine": lambda: b"\x7fELF\x02\x01\x01" + bytes(100),
    "four bytes of a zip": always(b"PK\x03\x04"),
    "an end alone": always(b"PK\x05\x06" + bytes(18)),
    "ends all over": lambda: b"PK\x03\x04" + b"PK\x05\x06" * 50_000,
    "headers all over": lambda: b"PK\x03\x04" + bytes(26) + b"PK\x03\x04" * 250_000,
    "entries all over": lambda: shard()[:-98] + b"PK\x01\x02" * 250_000,
    "descriptors all over": lambda: shard()[:900] + b"PK\x07\x08" * 250_000,
}


def _doubled(name: str) -> bytes:
    """A record twice: the directory has the second under a name that it takes from the first."""
    other = "x" * len(name)
    data = zipped(*records(), (other, dict(records())[name]))
    return data.replace(f"consolidated.00/{other}".encode(), f"consolidated.00/{name}".encode())


def _sparse(data: bytes, nbytes: int) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(data)
        os.truncate(path, nbytes)

    return make


add("shard", native, SHARD, damaged(native, SHARD))
add("shard", native, SHARD, cut_and_flipped(native, SHARD, 12, 16))
add("second shard", ranked, "consolidated.01.pth", damaged(ranked, "consolidated.01.pth"))
add("zip", native, SHARD, ZIPS)
add(
    "zip", native, SHARD,
    {
        f"{field}: {lie}": partial(_end_changed, place, change)
        for field, place in END_FIELDS.items()
        for lie, change in LIES.items()
    },
)  # fmt: skip
for _record, _what in ((0, "first"), (3, "fourth")):
    add(
        f"zip, {_what} record", native, SHARD,
        {name: partial(_entry_changed, _record, *field) for name, field in CENTRAL_FIELDS.items()},
    )  # fmt: skip
add(
    "record called", native, SHARD,
    {
        name: partial(_renamed_record, raw)
        for name, raw in {
            "a folder above": b"consolidated.00/../x/0",
            "an absolute path": b"/etc/passwd",
            "a drive": b"c:/windows/system32/x",
            "with backslashes": b"consolidated.00\\data\\0",
            "NUL": b"consolidated.00/data\0/",
            "ESC": b"consolidated.00/d\x1b[31m",
            "a line end": b"consolidated.00/data\n0",
            "no UTF-8": b"consolidated.00/data/\xff",
            "bidi": "consolidated.00/\u202e".encode(),
            "with two slashes": b"consolidated.00//data0",
            "nothing": b"consolidated.00/",
        }.items()
    },
)  # fmt: skip


# --- the pickle of a .pth -------------------------------------------------------------------------

TEXT, MARK, TUPLE, DICT, STOP = b"X", b"(", b"t", b"}", b"."
LIST_OF, CALL, PERSISTENT = b"]", b"R", b"Q"


def text(words: str) -> bytes:
    """BINUNICODE, with halves of characters as Python's pickler writes them."""
    raw = words.encode("utf-8", "surrogatepass")
    return TEXT + len(raw).to_bytes(4, "little") + raw


def number(value: int) -> bytes:
    """The shortest form."""
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(raw),)) + raw


def tuple_of(*items: bytes) -> bytes:
    """Any number of them."""
    return MARK + b"".join(items) + TUPLE


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def storage(
    key: bytes, numel: bytes, kind: bytes | None = None, where: bytes | None = None
) -> bytes:
    """A reference to the bytes of a tensor."""
    kind = kind or named("torch", "BFloat16Storage")
    return tuple_of(text("storage"), kind, key, where or text("cpu"), numel) + PERSISTENT


def tensor(
    of: bytes,
    sizes: bytes,
    strides: bytes,
    offset: bytes = b"K\x00",
    function: bytes = named("torch._utils", "_rebuild_tensor_v2"),
    more: bytes = b"",
) -> bytes:
    """A call that rebuilds one."""
    hooks = named("collections", "OrderedDict") + b")" + CALL
    return function + tuple_of(of, offset, sizes, strides, b"\x89", hooks, more) + CALL


def strides_of(sizes: Iterable[int]) -> list[int]:
    """C-contiguous."""
    found, step = [], 1
    for length in reversed(list(sizes)):
        found.append(step)
        step *= length
    return found[::-1]


@cache
def entries() -> tuple[tuple[str, bytes], ...]:
    """The good model's names and tensors."""
    found = []
    for index, (name, weight) in enumerate(weights(RANKS + 256).items()):
        sizes = tuple(weight.shape)
        of = storage(text(str(index)), number(weight.numel()))
        lengths = tuple_of(*map(number, sizes))
        found.append((name, tensor(of, lengths, tuple_of(*map(number, strides_of(sizes))))))
    return tuple(found)


def pickled(*more: bytes, **changed: bytes) -> bytes:
    """A shard whose pickle has other keys and values behind the good ones, or in place of them.

    `changed`: by the last parts of a name, with _ for the dots.
    """
    table = dict(entries())
    for end, value in changed.items():
        name = next(name for name in table if name.endswith(end.replace("_", ".")))
        table[name] = value
    body = b"".join(text(name) + value for name, value in table.items())
    return stored(b"\x80\x02" + DICT + MARK + body + b"".join(more) + b"u" + STOP)


def stored(stream: bytes) -> bytes:
    """A shard with any pickle."""
    data = [(f"data/{i}", _raw(weight)) for i, weight in enumerate(weights(RANKS + 256).values())]
    return zipped(("data.pkl", stream), ("byteorder", b"little"), ("version", b"3\n"), *data)


def _raw(weight: torch.Tensor) -> bytes:
    return weight.contiguous().view(torch.uint8).numpy().tobytes()


ONE = tuple_of(number(16))
STEP = tuple_of(number(1))
NORM = storage(text("19"), number(16))  # of norm.weight


def norm(**how: bytes) -> bytes:
    """The shard with the last norm built in another way."""
    made = {"of": NORM, "sizes": ONE, "strides": STEP} | how
    return pickled(norm_weight=tensor(**made))


def deep(opening: bytes, closing: bytes, depth: int, core: bytes = b"N") -> bytes:
    """One thing in another, many times."""
    return opening * depth + core + closing * depth


def doubling(levels: int, start: bytes = b"]", width: int = 10) -> bytes:
    """Lists of the list before, ten times each: a billion laughs."""
    body = start + b"q\x00"
    for _ in range(levels):
        body += LIST_OF + MARK + b"h\x00" * width + b"e" + b"q\x00"
    return body


def doubled_tuples(levels: int) -> bytes:
    """A tuple of the tuple before, twice: to hash it takes 2 ** levels steps."""
    return b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * levels


STORAGES = {
    "numel is one more": storage(text("19"), number(17)),
    "numel is one less": storage(text("19"), number(15)),
    "numel is nothing": storage(text("19"), number(0)),
    "numel is negative": storage(text("19"), number(-16)),
    "numel is huge": storage(text("19"), number(2**62)),
    "numel has 2,000 bits": storage(text("19"), number(2**1999)),
    "numel is true": storage(text("19"), b"\x88"),
    "numel is 16.0": storage(text("19"), b"G" + struct.pack(">d", 16.0)),
    "numel is text": storage(text("19"), text("16")),
    "numel is nothing at all": storage(text("19"), b"N"),
    "key of another": storage(text("18"), number(16)),
    "key that is not there": storage(text("777"), number(16)),
    "key in two ways": storage(text("0"), number(16)),
    "key is a number": storage(number(19), number(16)),
    "key leads out": storage(text("../../etc/passwd"), number(16)),
    "key is absolute": storage(text("/etc/passwd"), number(16)),
    "key speaks to terminals": storage(text("\x1b[31m\u202e"), number(16)),
    "key of a megabyte": storage(text("9" * MEGABYTE), number(16)),
    "key is half a character": storage(text("\udc80"), number(16)),
    "dtype of another length": storage(text("19"), number(16), named("torch", "FloatStorage")),
    "dtype that there is not": storage(text("19"), number(16), named("torch", "HugeStorage")),
    "dtype of no library": storage(text("19"), number(16), named("os", "FloatStorage")),
    "dtype is text": storage(text("19"), number(16), text("BFloat16Storage")),
    "dtype is untyped": storage(text("19"), number(32), named("torch.storage", "UntypedStorage")),
    "place is a list": storage(text("19"), number(16), where=LIST_OF),
    "reference of text": text("19") + PERSISTENT,
    "reference of nothing": b")" + PERSISTENT,
    "reference of another kind": tuple_of(text("module"), b"N", b"N", b"N", b"N") + PERSISTENT,
    "no reference": text("storage"),
    "a device": storage(text("19"), number(16), where=text("cuda:99999999999999999999")),
}
VIEWS: dict[str, dict[str, bytes]] = {
    "longer than its storage": {"sizes": tuple_of(number(17))},
    "far longer than its storage": {"sizes": tuple_of(number(2**62))},
    "of more than all numbers": {"sizes": tuple_of(number(2**62), number(2**62)),
                                 "strides": tuple_of(number(2**62), number(1))},
    "of a negative length": {"sizes": tuple_of(number(-1))},
    "of a length that is true": {"sizes": tuple_of(b"\x88")},
    "of a length that is 1.5": {"sizes": tuple_of(b"G" + struct.pack(">d", 1.5))},
    "of a length that is NaN": {"sizes": tuple_of(b"G" + struct.pack(">d", float("nan")))},
    "of a length of 2,000 bits": {"sizes": tuple_of(number(2**1999))},
    "of no length": {"sizes": tuple_of(number(0))},
    "of no dimension": {"sizes": b")", "strides": b")"},
    "of 64 dimensions": {"sizes": tuple_of(*[number(1)] * 64),
                         "strides": tuple_of(*[number(1)] * 64)},
    "of 65 dimensions": {"sizes": tuple_of(*[number(1)] * 65),
                         "strides": tuple_of(*[number(1)] * 65)},
    "of 100,000 dimensions": {"sizes": tuple_of(*[number(1)] * 100_000),
                              "strides": tuple_of(*[number(1)] * 100_000)},
    "of more dimensions than strides": {"sizes": tuple_of(number(4), number(4))},
    "of a shape that is text": {"sizes": text("16")},
    "of a shape that is a number": {"sizes": number(16)},
    "of a shape that is nothing": {"sizes": b"N"},
    "with a stride of nothing": {"strides": tuple_of(number(0))},
    "with a negative stride": {"strides": tuple_of(number(-1))},
    "with a huge stride": {"strides": tuple_of(number(2**62))},
    "with an offset beyond": {"offset": number(16)},
    "with a negative offset": {"offset": number(-1)},
    "with a huge offset": {"offset": number(2**62)},
    "with an offset that is false": {"offset": b"\x89"},
    "with an offset of text": {"offset": text("0")},
    "with flags that are a list": {"more": LIST_OF},
    "with flags that are deep": {"more": deep(LIST_OF, b"a", 5_000)},
    "conjugated": {"more": DICT + text("conj") + b"\x88s"},
    "negated": {"more": DICT + text("neg") + b"\x88s"},
    "of an older call": {"function": named("torch._utils", "_rebuild_tensor")},
    "of a newer call": {"function": named("torch._utils", "_rebuild_tensor_v3")},
    "of a call that there is not": {"function": named("torch._utils", "_rebuild_tensor_v9")},
    "of a method by its path": {"function": named("torch._utils", "_rebuild_tensor_v2.x")},
    "of a parameter": {"function": named("torch._utils", "_rebuild_parameter")},
    "of a sparse tensor": {"function": named("torch._utils", "_rebuild_sparse_tensor")},
    "of a nested tensor": {"function": named("torch._utils", "_rebuild_nested_tensor")},
    "of a subclass": {"function": named("torch._utils", "_rebuild_wrapper_subclass")},
    "of a quantised tensor": {"function": named("torch._utils", "_rebuild_qtensor")},
    "of no storage": {"function": named("torch._utils", "_rebuild_meta_tensor_no_storage")},
    "of a type": {"function": named("torch._tensor", "_rebuild_from_type_v2")},
}  # fmt: skip
# What a pickle can run, and how. None of it may be imported, let alone called.
CALLS: dict[str, bytes] = {
    "os.system": named("os", "system") + text("touch owned") + b"\x85R",
    "posix.system": named("posix", "system") + text("touch owned") + b"\x85R",
    "eval": named("builtins", "eval") + text("open('owned', 'w')") + b"\x85R",
    "exec of Python 2": named("__builtin__", "exec") + text("open('owned', 'w')") + b"\x85R",
    "getattr": named("builtins", "getattr") + named("os", "path") + text("join") + b"\x86R",
    "subprocess.Popen": named("subprocess", "Popen") + text("id") + b"\x85R",
    "runpy": named("runpy", "_run_code") + text("import os") + DICT + b"\x86R",
    "webbrowser": named("webbrowser", "open") + text("http://127.0.0.1/") + b"\x85R",
    "a socket": named("socket", "create_connection") + b")R",
    "numpy's files": named("numpy", "memmap")
    + text("owned")
    + text("uint8")
    + text("w+")
    + b"\x87R",
    "torch.load": named("torch", "load") + text("owned.pth") + b"\x85R",
    "torch's libraries": named("torch.ops", "load_library") + text("./owned.so") + b"\x85R",
    "a module beside it": named("owned", "run") + b")R",
    "STACK_GLOBAL": text("torch._utils") + text("os.system") + b"\x93" + text("id") + b"\x85R",
    "STACK_GLOBAL of numbers": number(1) + number(2) + b"\x93",
    "INST": b"(" + text("id") + b"ios\nsystem\n",
    "OBJ": b"(" + named("os", "system") + text("id") + b"o",
    "NEWOBJ": named("os", "system") + text("id") + b"\x85\x81",
    "NEWOBJ_EX": named("os", "system") + text("id") + b"\x85" + DICT + b"\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"P19\n",
    "INT": b"I16\n",
    "LONG": b"L16L\n",
    "UNICODE": b"Vabc\n",
    "STRING": b"S'abc'\n",
    "FLOAT": b"F1e400\n",
    "GET": b"g0\n",
    "DICT": b"(" + text("a") + b"Nd",
    "LIST": b"(Nl",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "an opcode that there is not": b"\xfe",
    "BUILD": named("torch.nn.modules.linear", "Linear") + b")\x81" + DICT + b"b",
    "BUILD of slots": named("a", "b") + b")\x81" + DICT + DICT + b"\x86b",
    "a call of what was called": named("os", "system") + b")R)R",
    "a call of a list": LIST_OF + b")R",
    "a call without a tuple": named("os", "getcwd") + LIST_OF + b"R",
    "a name that speaks to terminals": b"c\x1b[31mos\nsys\x1b]0;x\x07tem\n)R",
    "a name of a megabyte": b"c" + b"x" * MEGABYTE + b"\ny\n)R",
    "a name without an end": b"cos",
    "a name that is no UTF-8": b"c\xff\xfe\nx\n)R",
    "200 names": b"".join(named("m", f"f{i}") + b")R" + text(f"k{i}") for i in range(200)) + b"N",
}
SHAPES: dict[str, Callable[[], bytes]] = {
    "lists 500 deep": lambda: deep(LIST_OF, b"a", 500),
    "lists 100,000 deep": lambda: deep(LIST_OF, b"a", 100_000),
    "tuples 100,000 deep": lambda: b")" + b"\x85" * 100_000,
    "dictionaries 100,000 deep": lambda: (DICT + text("a")) * 100_000 + b"N" + b"s" * 100_000,
    "calls 100,000 deep": lambda: named("a", "b") * 50_000 + b")" + b"R\x85" * 49_999 + b"R",
    "a billion lists": lambda: doubling(12),
    "a billion lists, wide": lambda: doubling(60, width=200),
    "a billion tensors": lambda: doubling(9, tensor(NORM, ONE, STEP)),
    "a list in itself": lambda: LIST_OF + b"q\x00h\x00a",
    "a dictionary in itself": lambda: DICT + b"q\x00" + text("a") + b"h\x00s",
    "an object in itself": lambda: named("a", "b") + b")Rq\x00h\x00b",
    "900,000 lists": lambda: MARK + LIST_OF * 900_000 + TUPLE,
    "900,000 dictionaries": lambda: MARK + DICT * 900_000 + TUPLE,
    "900,000 objects": lambda: b"c_\n_\nq\x000" + MARK + b"h\x00)\x81" * 900_000 + TUPLE,
    "900,000 tuples": lambda: MARK + b"N\x85" * 900_000 + TUPLE,
    "900,000 numbers": lambda: MARK + b"J\x00\x00\x01\x00" * 900_000 + TUPLE,
    "900,000 keys": lambda: DICT + MARK + b"".join(
        b"J" + i.to_bytes(4, "little") + b"N" for i in range(900_000)
    ) + b"u",
    "900,000 tensors": lambda: LIST_OF + MARK + tensor(NORM, ONE, STEP) + b"2" * 900_000 + b"e",
    "900,000 memos": lambda: b"N" + b"".join(
        b"r" + i.to_bytes(4, "little") for i in range(900_000)
    ),
    "3,000,000 things": lambda: MARK + b"N" * 3_000_000 + TUPLE,
    "marks": lambda: MARK * 1_000_000,
    "marks and their ends": lambda: MARK * 50_000 + b"1" * 50_000 + b"N",
    "texts of a kilobyte, 20,000 times one": lambda: text("x" * 1000) + b"q\x000" + LIST_OF + MARK
    + b"h\x00" * 20_000 + b"e",
    "a memo far off": lambda: b"Nr\xff\xff\xff\xff",
    "a memo that was not set": lambda: b"h\x63",
    "a text of 4 GiB": lambda: b"X\xff\xff\xff\xff" + b"x" * 1000,
    "a text of 16 EiB": lambda: b"\x8d" + b"\xff" * 8 + b"x" * 1000,
    "bytes of 16 EiB": lambda: b"\x8e" + b"\xff" * 8,
    "bytes of 8 MB": lambda: b"B" + (8 * MEGABYTE).to_bytes(4, "little") + bytes(8 * MEGABYTE),
    "a frame of 16 EiB": lambda: b"\x95" + b"\xff" * 8 + b"N",
    "a long of 255 bytes": lambda: b"\x8a\xff" + b"\xff" * 254 + b"\x7f",
    "LONG4 of 4 GiB": lambda: b"\x8b\xff\xff\xff\x7f",
    "LONG4 of a megabyte": lambda: b"\x8b\x00\x00\x10\x00" + b"\x7f" * MEGABYTE,
    "an empty stack": lambda: b"0" * 100,
    "a mark as a value": lambda: MARK,
    "items on a tuple": lambda: b")NNs",
    "an odd number of items": lambda: DICT + MARK + b"NNNu",
    "protocol 200": lambda: b"\x80\xc8N",
}  # fmt: skip
# Of the state dict itself; `N` is the value behind each.
KEYS: dict[str, bytes] = {
    "a deep tuple": b")" + b"\x85" * 100_000,
    "a shared tuple": doubled_tuples(100),
    "a tuple of a list": LIST_OF + b"\x85",
    "a list": LIST_OF,
    "a dictionary": DICT,
    "NaN": b"G" + struct.pack(">d", float("nan")),
    "infinity": b"G" + struct.pack(">d", float("inf")),
    "1e308": b"G" + struct.pack(">d", 1e308),
    "nothing": b"N",
    "true": b"\x88",
    "a number of 2,000 bits": number(2**1999),
    "bytes": b"C\x03abc",
    "a tensor": tensor(NORM, ONE, STEP),
    "a class": named("os", "system"),
    "one that is there": text("norm.weight"),
}


def _keyed(key: bytes) -> bytes:
    return pickled(key + tensor(NORM, ONE, STEP))


def _with_protocol(protocol: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights(RANKS + 256), buffer, pickle_protocol=protocol)
    return buffer.getvalue()


PICKLES: dict[str, Callable[[], bytes | Make]] = {
    "protocol 4": lambda: _with_protocol(4),
    "protocol 5": lambda: _with_protocol(5),
    "nothing in it": lambda: stored(b""),
    "its end alone": lambda: stored(b"."),
    "an empty dictionary": lambda: stored(b"\x80\x02}."),
    "a number": lambda: stored(b"\x80\x02K\x01."),
    "a text": lambda: stored(b"\x80\x02" + text("\x1b[31m" * 1000) + b"."),
    "a list of weights": lambda: stored(
        b"\x80\x02](" + b"".join(value for _, value in entries()) + b"e."
    ),
    "one weight": lambda: stored(b"\x80\x02" + tensor(NORM, ONE, STEP) + b"."),
    "no end": lambda: stored(b"\x80\x02}"),
    "more behind its end": lambda: stored(b"\x80\x02}.N."),
    "more on its stack": lambda: stored(b"\x80\x02}}."),
    "two in one": lambda: stored(b"\x80\x02}.\x80\x02}."),
    "no UTF-8": lambda: stored(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "wrapped in model": lambda: stored(
        b"\x80\x02}" + text("model") + DICT + MARK
        + b"".join(text(name) + value for name, value in entries()) + b"us."
    ),
    "wrapped in itself": lambda: stored(b"\x80\x02}q\x00" + text("model") + b"h\x00s."),
    "each weight twice": lambda: pickled(*(text(name) + value for name, value in entries())),
    "a name in two ways": lambda: pickled(text("norm") + DICT + text("weight") + NORM + b"ss"[:1]),
    "{0: a, False: b}": lambda: pickled(
        number(0) + tensor(NORM, ONE, STEP) + b"\x89" + tensor(NORM, ONE, STEP)
    ),
    "1,000,000 layers": lambda: pickled(
        text("layers.999999.attention.wq.weight") + tensor(NORM, ONE, STEP)
    ),
    "a layer of a long number": lambda: pickled(
        text(f"layers.{'9' * 5000}.attention.wq.weight") + tensor(NORM, ONE, STEP)
    ),
    "a layer of another script": lambda: pickled(
        text("layers.\u0663.attention.wq.weight") + tensor(NORM, ONE, STEP)
    ),
    "20,000 weights": lambda: pickled(
        *(text(f"extra.{i}") + tensor(NORM, ONE, STEP) for i in range(20_000))
    ),
    "no weights": lambda: stored(b"\x80\x02}" + text("step") + number(1) + b"s."),
    "a weight that is a number": lambda: pickled(norm_weight=number(1)),
    "a weight that is a list": lambda: pickled(norm_weight=LIST_OF),
    "a weight in a list in itself": lambda: pickled(
        norm_weight=LIST_OF + b"q\x00" + tensor(NORM, ONE, STEP) + b"ah\x00a"
    ),
    "noise": lambda: stored(random.Random(2).randbytes(10_000)),
    "64 MB": lambda: stored(b"\x80\x02" + b"N0" * (32 * MEGABYTE) + b"N."),
    "16 MB of operations": lambda: stored(b"\x80\x02" + b"N0" * (7 * MEGABYTE) + b"N."),
}  # fmt: skip

add("pickle", native, SHARD, PICKLES)
add(
    "storage whose", native, SHARD,
    {name: lambda of=of: norm(of=of) for name, of in STORAGES.items()},
)  # fmt: skip
add("view", native, SHARD, {name: lambda how=how: norm(**how) for name, how in VIEWS.items()})
add(
    "pickle that names", native, SHARD,
    {name: lambda code=code: pickled(text("extra") + code) for name, code in CALLS.items()},
)  # fmt: skip
add(
    "pickle with", native, SHARD,
    {name: lambda make=make: pickled(text("extra") + make()) for name, make in SHAPES.items()},
)  # fmt: skip
add("key that is", native, SHARD, {name: partial(_keyed, key) for name, key in KEYS.items()})
add(
    "tensor called", native, SHARD,
    {name: lambda words=words: _keyed(text(words)) for name, words in NAMES.items()},
)  # fmt: skip
add(
    "pickle with noise at", native, SHARD,
    {f"{seed}": lambda seed=seed: stored(_noisy(seed)) for seed in range(24)},
)  # fmt: skip


def _noisy(seed: int) -> bytes:
    """The good stream with some bytes changed, taken out or put in."""
    generator = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(pickled())) as archive:
        stream = bytearray(archive.read("consolidated.00/data.pkl"))
    for _ in range(generator.randrange(1, 6)):
        at = generator.randrange(len(stream))
        match generator.randrange(3):
            case 0:
                stream[at] = generator.randrange(256)
            case 1:
                del stream[at]
            case _:
                stream.insert(at, generator.randrange(256))
    return bytes(stream)


# --- values that are read -------------------------------------------------------------------------


def _saved(change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    state = OrderedDict((name, weight.clone()) for name, weight in weights(RANKS + 256).items())
    change(state)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / SHARD)
        return (Path(folder) / SHARD).read_bytes()


def _set(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: state.__setitem__(name, value)


def _filled(value: float, name: str = "norm.weight") -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: state[name].fill_(value)


WQ = "layers.0.attention.wq.weight"
add(
    "weights", native, SHARD,
    {
        name: partial(_saved, change)
        for name, change in {
            "NaN": _filled(float("nan")),
            "all NaN": lambda state: [weight.fill_(float("nan")) for weight in state.values()],
            "infinite": _filled(float("inf"), WQ),
            "zero": lambda state: [weight.zero_() for weight in state.values()],
            "huge": lambda state: [weight.fill_(3e38) for weight in state.values()],
            "subnormal": _filled(1e-40, WQ),
            "one missing": lambda state: state.pop("norm.weight"),
            "all but one missing": lambda state: [state.pop(n) for n in list(state)[1:]],
            "none": lambda state: state.clear(),
            "one of another shape": _set(WQ, torch.ones(16, 17)),
            "one of no shape": _set(WQ, torch.tensor(1.0)),
            "one of nothing": _set(WQ, torch.empty(0, 16)),
            "one of four dimensions": _set(WQ, torch.ones(2, 8, 2, 8)),
            "one transposed": _set(WQ, torch.randn(16, 16).T),
            "one of integers": _set(WQ, torch.ones(16, 16, dtype=torch.int64)),
            "one of booleans": _set(WQ, torch.ones(16, 16, dtype=torch.bool)),
            "one of complex numbers": _set(WQ, torch.ones(16, 16, dtype=torch.complex64)),
            "one in FP64": _set(WQ, torch.ones(16, 16, dtype=torch.float64)),
            "one in FP8": _set(WQ, torch.ones(16, 16).to(torch.float8_e4m3fn)),
            "one expanded": _set(WQ, torch.ones(1, 1).expand(16, 16)),
            "one expanded without end": _set("extra", torch.ones(1).expand(2**40)),
            "one of a sliced storage": _set(WQ, torch.ones(100, 100)[:16, :16]),
            "one without data": _set(WQ, torch.ones(16, 16, device="meta")),
            "one on the meta device, huge": _set("extra", torch.ones(2**20, 2**20, device="meta")),
            "all of one storage": lambda state: state.update(
                {name: state[WQ] for name in state if state[name].shape == (16, 16)}
            ),
            "an object among them": _set("extra", {"a": [1, 2, {"b": None}]}),
            "Llama 4's names": _set(
                "layers.0.feed_forward.experts.moe_w_in_eD_F", torch.ones(4, 4)
            ),
            "names of both layouts": _set("model.embed_tokens.weight", torch.ones(4, 4)),
            "a layer too many": _set("layers.2.attention.wq.weight", torch.ones(16, 16)),
            "scales without weights": _set("layers.0.feed_forward.w1.scales", torch.ones(48)),
        }.items()
    },
)  # fmt: skip


# --- safetensors ----------------------------------------------------------------------------------


def tensors_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's object, and the bytes behind the header."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def headed(header: bytes | dict[str, Any], body: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any header, true or not."""
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    claimed = len(header) if length is None else length
    return (claimed % 2**64).to_bytes(8, "little") + header + body


def _header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The good first shard with another header."""
    table, body = tensors_of(content(hub, TENSORS))
    change(table)
    return headed(table, body)


def _spelt(change: Callable[[bytes], bytes]) -> bytes:
    """The good first shard with another spelling of the same header."""
    data = content(hub, TENSORS)
    length = int.from_bytes(data[:8], "little")
    return headed(change(data[8 : 8 + length].rstrip()), data[8 + length :])


def _claiming(length: int) -> bytes:
    data = content(hub, TENSORS)
    return (length % 2**64).to_bytes(8, "little") + data[8:]


LAST = "model.layers.0.self_attn.q_proj.weight"


def _of_last(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda table: table[LAST].update(fields)


def _shifted(start: int, end: int) -> Callable[[dict[str, Any]], object]:
    def change(table: dict[str, Any]) -> None:
        begin, stop = table[LAST]["data_offsets"]
        table[LAST]["data_offsets"] = [begin + start, stop + end]

    return change


def _many(count: int) -> bytes:
    row = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    rows = ",".join(f'"{i}":{json.dumps(row, separators=(",", ":"))}' for i in range(count))
    return headed(f"{{{rows}}}".encode(), b"")


SAFETENSORS: dict[str, Callable[[], bytes | Make]] = {
    "a header of no length": lambda: _claiming(0),
    "a header one shorter": lambda: _spelt(lambda raw: raw)[:8] + content(hub, TENSORS)[7:],
    "a header of one byte": lambda: _claiming(1),
    "a header as long as the file": lambda: _claiming(len(content(hub, TENSORS))),
    "a header of 16 EiB": lambda: _claiming(-1),
    "a header of 2**63": lambda: _claiming(2**63),
    "a header of 100 MB": lambda: _claiming(100 * 10**6),
    "a header that is a list": lambda: headed(b"[]", b""),
    "a header that is empty": lambda: headed(b"{}", b""),
    "a header of blanks": lambda: headed(b" " * 1000, b""),
    "blanks before": lambda: _spelt(lambda raw: b"   \n" + raw),
    "blanks behind": lambda: _spelt(lambda raw: raw + b" " * 1000),
    "a NUL behind": lambda: _spelt(lambda raw: raw + b"\0"),
    "text behind": lambda: _spelt(lambda raw: raw + b"{}"),
    "a byte order mark": lambda: _spelt(lambda raw: b"\xef\xbb\xbf" + raw),
    "UTF-16": lambda: _spelt(lambda raw: raw.decode().encode("utf-16")),
    "no UTF-8": lambda: _spelt(lambda raw: raw.replace(b"BF16", b"BF\xff6", 1)),
    "a key twice": lambda: _spelt(lambda raw: raw[:-1] + b"," + raw[1:]),
    "a key twice, escaped": lambda: _spelt(
        lambda raw: raw[:-1] + b',"\\u006c"' + raw[raw.index(b":") : raw.index(b"}") + 1]
        + b',"l"' + raw[raw.index(b":") : raw.index(b"}") + 1] + b"}"
    ),
    "NaN": lambda: headed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}', b""),
    "1e400": lambda: headed(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,0]}}', b""),
    "4,000 digits": lambda: headed(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,0]}}', b""
    ),
    "5,000 digits": lambda: headed(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}', b""
    ),
    "lists 100,000 deep": lambda: headed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "objects 100,000 deep": lambda: headed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
    "a comma too many": lambda: _spelt(lambda raw: raw[:-1] + b",}"),
    "single quotes": lambda: _spelt(lambda raw: raw.replace(b'"', b"'")),
    "a tensor that is text": lambda: _header(lambda table: table.update({LAST: "BF16"})),
    "a tensor that is nothing": lambda: _header(lambda table: table.update({LAST: None})),
    "no dtype": lambda: _header(lambda table: table[LAST].pop("dtype")),
    "no shape": lambda: _header(lambda table: table[LAST].pop("shape")),
    "no offsets": lambda: _header(lambda table: table[LAST].pop("data_offsets")),
    "a field more": lambda: _header(_of_last(more="\x1b[31m")),
    "a dtype that there is not": lambda: _header(_of_last(dtype="F7")),
    "a dtype that speaks to terminals": lambda: _header(_of_last(dtype="\x1b[31m\u202e")),
    "a dtype of a megabyte": lambda: _header(_of_last(dtype="F" * MEGABYTE)),
    "a dtype in small letters": lambda: _header(_of_last(dtype="bf16")),
    "a dtype of another length": lambda: _header(_of_last(dtype="F32")),
    "a dtype of the same length": lambda: _header(_of_last(dtype="I16")),
    "a dtype of half bytes": lambda: _header(_of_last(dtype="F4")),
    "a dtype that is a number": lambda: _header(_of_last(dtype=16)),
    "a shape that is text": lambda: _header(_of_last(shape="16,16")),
    "a shape that is a number": lambda: _header(_of_last(shape=256)),
    "a shape of booleans": lambda: _header(_of_last(shape=[True, True])),
    "a shape of floats": lambda: _header(_of_last(shape=[16.0, 16.0])),
    "a shape of negative numbers": lambda: _header(_of_last(shape=[-16, -16])),
    "a shape of another product": lambda: _header(_of_last(shape=[16, 15])),
    "a shape of the same product": lambda: _header(_of_last(shape=[8, 32])),
    "a shape of one dimension": lambda: _header(_of_last(shape=[256])),
    "a shape of 100,000 dimensions": lambda: _header(_of_last(shape=[1] * 100_000 + [16, 16])),
    "a shape that overflows": lambda: _header(_of_last(shape=[2**32, 2**32])),
    "a shape that overflows to nothing": lambda: _header(_of_last(shape=[2**40, 2**40, 0])),
    "a shape of no dimension": lambda: _header(_of_last(shape=[])),
    "offsets that are negative": lambda: _header(_of_last(data_offsets=[-512, 0])),
    "offsets in the wrong order": lambda: _header(_of_last(data_offsets=[512, 0])),
    "offsets that are huge": lambda: _header(_of_last(data_offsets=[2**62, 2**62 + 512])),
    "offsets beyond all": lambda: _header(_of_last(data_offsets=[2**64, 2**64 + 512])),
    "offsets that are text": lambda: _header(_of_last(data_offsets=["0", "512"])),
    "three offsets": lambda: _header(_of_last(data_offsets=[0, 512, 512])),
    "an overlap": lambda: _header(_shifted(-2, -2)),
    "an overlap of all": lambda: _header(_of_last(data_offsets=[0, 512])),
    "a hole": lambda: _header(_shifted(2, 2)),
    "a tensor too long": lambda: _header(_shifted(0, 2)),
    "a hole at the end": lambda: content(hub, TENSORS) + bytes(1000),
    "no tensor of the first": lambda: _header(lambda table: table.pop(LAST)),
    "metadata that is a list": lambda: _header(lambda t: t.update(__metadata__=[1])),
    "metadata of numbers": lambda: _header(lambda t: t.update(__metadata__={"format": 1})),
    "metadata that speaks to terminals": lambda: _header(
        lambda t: t.update(__metadata__={"format": "\x1b[31m", "\x1b]0;x\x07": "\u202e"})
    ),
    "metadata of a megabyte": lambda: _header(
        lambda t: t.update(__metadata__={"format": "x" * MEGABYTE})
    ),
    "100,000 tensors": lambda: _many(100_000),
    "250,000 tensors": lambda: _many(250_000),
    "a zip": shard,
    "a GGUF file": lambda: b"GGUF\x03\0\0\0" + b"\xff" * 64,
    "a pickle": lambda: pickle.dumps({"a": 1}),
    "eight bytes": lambda: bytes((2, 0, 0, 0, 0, 0, 0, 0)),
}  # fmt: skip
add("safetensors", hub, TENSORS, damaged(hub, TENSORS))
add("safetensors", hub, TENSORS, cut_and_flipped(hub, TENSORS, 8, 12))
add("safetensors with", hub, TENSORS, SAFETENSORS)
add(
    "safetensors, one more tensor called", hub, TENSORS,
    {
        name: lambda words=words: _header(
            lambda table: table.update({words: table["model.embed_tokens.weight"] | EMPTY})
        )
        for name, words in NAMES.items()
    },
)  # fmt: skip
EMPTY = {"shape": [0], "data_offsets": [0, 0]}
add(
    "safetensors by itself", single, "model.safetensors",
    damaged(single, "model.safetensors"),
)  # fmt: skip
add("pytorch_model.bin", binary, "pytorch_model.bin", damaged(binary, "pytorch_model.bin"))


# --- JSON: params.json, config.json, the index and what stands beside -----------------------------


def spelt_json(base: Base, file: str) -> dict[str, Callable[[], bytes | Make]]:
    """What can be wrong with any of them."""
    good = content(base, file)
    inner = good.strip()[1:-1]
    return {
        "a list": always(b"[" + good + b"]"),
        "a text": always(b'"\\u001b[31m"'),
        "a number": always(b"1"),
        "true": always(b"true"),
        "null": always(b"null"),
        "empty": always(b"{}"),
        "blanks": always(b" \n\t "),
        "a byte order mark": always(b"\xef\xbb\xbf" + good),
        "UTF-16": always(good.decode().encode("utf-16")),
        "UTF-32": always(good.decode().encode("utf-32")),
        "Latin-1": always(b'{"\xe9":1,' + inner + b"}"),
        "every key twice": always(b"{" + inner + b"," + inner + b"}"),
        "a comment": always(b"// Llama\n" + good),
        "a comma too many": always(b"{" + inner + b",}"),
        "text behind": always(good + b"\n{}"),
        "a NUL behind": always(good + b"\0"),
        "lists 100,000 deep": always(
            b"{" + inner + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        ),
        "objects 100,000 deep": always(
            b"{" + inner + b',"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001
        ),
        "lists 900 deep": always(b"{" + inner + b',"x":' + b"[" * 900 + b"]" * 900 + b"}"),
        "4,000 digits": always(b"{" + inner + b',"x":' + b"9" * 4_000 + b"}"),
        "5,000 digits": always(b"{" + inner + b',"x":' + b"9" * 5_000 + b"}"),
        "a million digits behind the point": always(
            b"{" + inner + b',"x":0.' + b"9" * MEGABYTE + b"}"
        ),
        "10 MB of blanks": always(b"{" + inner + b" " * 10 * MEGABYTE + b"}"),
        "10 MB of text": always(b"{" + inner + b',"x":"' + b"x" * 10 * MEGABYTE + b'"}'),
        "10 MB of lists": always(
            b"{" + inner + b',"x":[' + b"[]," * (3 * MEGABYTE) + b"[]]}"
        ),
        "10 MB of objects": always(
            b"{" + inner + b',"x":[' + b"{}," * (3 * MEGABYTE) + b"{}]}"
        ),
        "100,000 keys": always(
            b"{" + inner + b"," + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}"
        ),
        "30 MB": always(b"{" + inner + b',"x":"' + b"x" * 30 * MEGABYTE + b'"}'),
        "40 MB": always(b"{" + inner + b" " * 40 * MEGABYTE + b"}"),
        "a hole of 200 MB": always(_sparse(good, 200 * 10**6)),
        "__proto__ and __class__": always(
            b"{" + inner + b',"__proto__":{"x":1},"__class__":"os","__init__":{}}'
        ),
    }  # fmt: skip


def changed_json(base: Base, file: str, path: tuple[str, ...], value: str) -> bytes:
    """The file with one value, written as JSON, in place of another."""
    table = json.loads(content(base, file))
    inner = table
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = "@@"
    return json.dumps(table).replace('"@@"', value).encode()


def values_of(
    base: Base, file: str, fields: dict[str, tuple[str, ...]]
) -> dict[str, Callable[[], bytes | Make]]:
    """Each field with each of its values."""
    return {
        f"{field} {value[:40]}": partial(changed_json, base, file, tuple(field.split(".")), value)
        for field, values in fields.items()
        for value in values
    }


NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "true", '"16"', "[]", "{}", "null")
NO_LENGTHS = ("0", "-1", "1.5", "2147483648", "1" + "0" * 30)
add("params.json", native, PARAMS, damaged(native, PARAMS))
add("params.json", native, PARAMS, cut_and_flipped(native, PARAMS, 4, 4))
add("params.json that is", native, PARAMS, spelt_json(native, PARAMS))
add(
    "params.json with", native, PARAMS,
    values_of(
        native, PARAMS,
        {
            "dim": (*NO_NUMBERS, *NO_LENGTHS, "15", "17", "1073741824"),
            "n_layers": ("0", "-1", "true", "1000", "1001", "1e9", '"2"'),
            "n_heads": ("0", "-1", "3", "true", "1000000000", "0.5"),
            "n_kv_heads": ("0", "-1", "3", "4", '"2"'),
            "vocab_size": ("0", "-1", "-2", "1", "515", "2147483647", "true"),
            "multiple_of": ("0", "-16", "2147483647", "1e-5"),
            "ffn_dim_multiplier": ("0", "-1", "1e300", "NaN", '"1.3"', "1e-300"),
            "norm_eps": ("0", "-1", "NaN", "1e400", "1e308", '"1e-5"', "true"),
            "rope_theta": ("0", "-1", "NaN", "Infinity", "1e308", "1e-300", "[]"),
            "use_scaled_rope": ("1", '"true"', "[]"),
            "moe_args": ("1", "[]", "{}", '{"num_experts": 0}', '{"num_experts": 1e9}'),
            "moe_args.num_experts": ("4096", "4097", "-1"),
            "moe_args.interleave_moe_layer_step": ("0", "-1"),
            "moe_args.top_k": ("0", "100"),
            "vision_args": ("1", "{}", '{"image_size": 0}'),
            "vision_num_cross_attention_layers": ("0", "-2", "1000000", "2"),
            "quantization_args": ("1", "{}", '{"scheme": "\\u001b[31m"}', '{"group_size": 0}'),
            "lora_args": ("1", "{}", '{"rank": -1}', '{"rank": 1e12}'),
            "head_dim": ("0", "-1", "1000000"),
            "model": ("1", "{}", '{"dim": 16}'),
        },
    ),
)  # fmt: skip
add(
    "params.json with a key called", native, PARAMS,
    {
        name: lambda words=words: json.dumps(
            json.loads(content(native, PARAMS)) | {words: {words: words}}
        ).encode()
        for name, words in NAMES.items()
    },
)  # fmt: skip
add("config.json", hub, CONFIG, damaged(hub, CONFIG))
add("config.json that is", hub, CONFIG, spelt_json(hub, CONFIG))
add(
    "config.json with", hub, CONFIG,
    values_of(
        hub, CONFIG,
        {
            "hidden_size": (*NO_NUMBERS, *NO_LENGTHS, "15"),
            "num_hidden_layers": ("0", "-1", "true", "1000", "1001", '"2"'),
            "num_attention_heads": ("0", "-1", "3", "1000000000"),
            "num_key_value_heads": ("0", "3", "4", "-1"),
            "head_dim": ("0", "-1", "7", "2147483647", "null"),
            "intermediate_size": ("0", "-1", "2147483647", "47"),
            "vocab_size": ("0", "-1", "1", "2147483647"),
            "max_position_embeddings": ("0", "-1", "1e12", "1", '"x"', "2147483647"),
            "rms_norm_eps": ("NaN", "0", "-1", "1e308", "true"),
            "tie_word_embeddings": ("1", '"false"', "null", "true"),
            "torch_dtype": ('"float4096"', "16", "[]", '"\\u001b[31m"'),
            "model_type": ('"gpt2"', "1", "[]", '""', '"llama4"', '"mllama"', '"llama4_text"'),
            "architectures": ("1", "{}", "[]", "[1]", '["\\u001b[31m"]', '"LlamaForCausalLM"'),
            "hidden_act": ('"gelu"', "1", '"os.system"'),
            "rope_parameters": ("1", "[]", '"x"', "{}", "null"),
            "rope_parameters.rope_theta": ("NaN", "0", "-1", "1e308", "true"),
            "rope_parameters.rope_type": ('"llama3"', '"yarn"', "1", '"\\u001b[31m"'),
            "rope_scaling": (
                "1", "[]", '{"rope_type": "llama3", "factor": 0}', '{"factor": NaN}',
                '{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, '
                '"original_max_position_embeddings": 8192}',
                '{"rope_type": "llama3", "factor": 1e308, "low_freq_factor": 1e-308, '
                '"high_freq_factor": 1e308, "original_max_position_embeddings": 1}',
            ),
            "quantization_config": ("1", "[]", "{}", '{"quant_method": "\\u001b[31m"}'),
            "text_config": ("1", "[]", "{}", '{"hidden_size": 16}', "null"),
            "vision_config": ("1", "[]", "{}"),
            "moe_layers": ("1", "[-1]", "[1e9]", '["x"]'),
            "auto_map": ('{"AutoModel": "owned.Model"}',),
            "bos_token_id": ("-1", "1e400", '"x"', "[[]]", "99999999999999999999"),
        },
    ),
)  # fmt: skip
add(
    "config.json with a key called", hub, CONFIG,
    {
        name: lambda words=words: json.dumps(
            json.loads(content(hub, CONFIG)) | {words: {words: words}, "model_type": words}
        ).encode()
        for name, words in NAMES.items()
    },
)  # fmt: skip


def _mapped(change: Callable[[dict[str, Any]], object]) -> bytes:
    table = json.loads(content(hub, INDEX))
    change(table)
    return json.dumps(table).encode()


def _everywhere(file: Any) -> Callable[[dict[str, Any]], object]:
    return lambda table: table.update(weight_map=dict.fromkeys(table["weight_map"], file))


def _one_in(file: Any) -> Callable[[dict[str, Any]], object]:
    return lambda table: table["weight_map"].update({LAST: file})


add("index", hub, INDEX, damaged(hub, INDEX))
add("index that is", hub, INDEX, spelt_json(hub, INDEX))
add(
    "index with", hub, INDEX,
    {
        name: partial(_mapped, change)
        for name, change in {
            "no map": lambda table: table.pop("weight_map"),
            "a map that is a list": lambda table: table.update(weight_map=[LAST]),
            "a map that is text": lambda table: table.update(weight_map="model.safetensors"),
            "an empty map": lambda table: table.update(weight_map={}),
            "a file that leads out": _one_in("../model.safetensors"),
            "a file that leads far out": _one_in("../../../../../../etc/passwd"),
            "a file from the root": _one_in("/etc/passwd"),
            "a file of another system": _one_in("..\\..\\model.safetensors"),
            "a file on another machine": _one_in("//host/share/model.safetensors"),
            "an address": _one_in("http://127.0.0.1/model.safetensors"),
            "all files leading out": _everywhere("../model.safetensors"),
            "all files from the root": _everywhere("/etc/passwd"),
            "a file below": _one_in("below/model.safetensors"),
            "a file through this one": _one_in("./model-00001-of-00002.safetensors"),
            "a file that is the directory": _one_in("."),
            "a file of nothing": _one_in(""),
            "a file with NUL": _one_in("model\0.safetensors"),
            "a file that is not there": _one_in("model-00003-of-00002.safetensors"),
            "no file that is there": _everywhere("model-00009-of-00009.safetensors"),
            "a file that is a number": _one_in(1),
            "a file that is a list": _one_in([TENSORS]),
            "a file that is nothing": _one_in(None),
            "a file of another kind": _one_in("config.json"),
            "a pickle": _one_in("pytorch_model.bin"),
            "the other shard": _one_in("model-00002-of-00002.safetensors"),
            "one weight less": lambda table: table["weight_map"].pop(LAST),
            "a weight more": lambda table: table["weight_map"].update({"extra": TENSORS}),
            "1,000 files": lambda table: table["weight_map"].update(
                {f"extra.{i}": f"model-{i:05d}-of-01000.safetensors" for i in range(1_000)}
            ),
            "50,000 weights": lambda table: table["weight_map"].update(
                {f"extra.{i}": TENSORS for i in range(50_000)}
            ),
            "a total that is text": lambda table: table["metadata"].update(total_size="\x1b[31m"),
            "a total that is negative": lambda table: table["metadata"].update(total_size=-1),
            "a total that is huge": lambda table: table["metadata"].update(total_size=10**40),
            "a total that is a float": lambda table: table["metadata"].update(total_size=1.5),
            "metadata that is a list": lambda table: table.update(metadata=[]),
        }.items()
    },
)  # fmt: skip
add(
    "index with a file called", hub, INDEX,
    {
        name: lambda words=words: _mapped(_one_in(f"{words}.safetensors"))
        for name, words in NAMES.items()
    },
)  # fmt: skip
add(
    "index with a weight called", hub, INDEX,
    {
        name: lambda words=words: _mapped(lambda t: t["weight_map"].update({words: TENSORS}))
        for name, words in NAMES.items()
    },
)  # fmt: skip


# --- lists of checksums ---------------------------------------------------------------------------


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data).hexdigest().encode()


def _listing(name: bytes, digest: bytes | None = None) -> bytes:
    return content(native, LIST) + (digest or b"0" * 32) + b"  " + name + b"\n"


LISTS: dict[str, Callable[[], bytes | Make]] = {
    "CRLF": lambda: content(native, LIST).replace(b"\n", b"\r\n"),
    "CR": lambda: content(native, LIST).replace(b"\n", b"\r"),
    "upper case": lambda: content(native, LIST).replace(b"a", b"A"),
    "stars": lambda: content(native, LIST).replace(b"  ", b" *"),
    "BSD lines": lambda: b"MD5 (consolidated.00.pth) = " + _md5(shard()) + b"\n",
    "BSD lines of another algorithm": lambda: b"SHA256 (consolidated.00.pth) = " + _md5(shard()),
    "SHA-256": lambda: sums({SHARD: shard()}, "sha256"),
    "SHA-512": lambda: sums({SHARD: shard()}, "sha512"),
    "CRC-32": always(b"12345678  consolidated.00.pth\n"),
    "digests one digit short": lambda: content(native, LIST).replace(b"\n", b"\n0")[1:],
    "digests of no digits": always(b"g" * 32 + b"  consolidated.00.pth\n"),
    "digests alone": lambda: _md5(shard()) + b"\n",
    "names alone": always(b"consolidated.00.pth\nparams.json\n"),
    "a wrong digest": always(b"0" * 32 + b"  consolidated.00.pth\n"),
    "the digest of nothing": always(b"d41d8cd98f00b204e9800998ecf8427e  consolidated.00.pth\n"),
    "contradictions": lambda: content(native, LIST) + b"0" * 32 + b"  consolidated.00.pth\n",
    "each line twice": lambda: content(native, LIST) * 2,
    "an absolute path": lambda: _listing(b"/etc/passwd"),
    "a path out": lambda: _listing(b"../../../../etc/passwd"),
    "a path out and in": lambda: _listing(b"../model/consolidated.00.pth"),
    "a path out by another system": lambda: _listing(b"..\\..\\secret"),
    "a drive": lambda: _listing(b"C:\\windows\\win.ini"),
    "another machine": lambda: _listing(b"\\\\host\\share\\x"),
    "a home": lambda: _listing(b"~/.ssh/id_rsa"),
    "a device": lambda: _listing(b"/dev/zero"),
    "a process": lambda: _listing(b"/proc/self/environ"),
    "the list itself": lambda: _listing(b"checklist.chk"),
    "the directory": lambda: _listing(b"."),
    "a directory": lambda: _listing(b"../model"),
    "a path through a file": lambda: _listing(b"params.json/../tokenizer.model"),
    "a file that is not there": lambda: _listing(b"consolidated.01.pth"),
    "a file with NUL": lambda: _listing(b"consolidated.00.pth\0.txt"),
    "lines that end in NUL": lambda: content(native, LIST).replace(b"\n", b"\0"),
    "a name of blanks": lambda: _listing(b"   "),
    "a name that is escaped": lambda: content(native, LIST) + b"\\" + b"0" * 32 + b"  a\\nb\\\\c\n",
    "a name that ends in an escape": lambda: content(native, LIST) + b"\\" + b"0" * 32 + b"  a\\\n",
    "a name that is no UTF-8": lambda: _listing(b"\xff\xfe\x1b[31m"),
    "a name of 10,000 bytes": lambda: _listing(b"x" * 10_000),
    "a name of 500 folders": lambda: _listing(b"/".join([b"x"] * 500)),
    "a name of 100,000 dots": lambda: _listing(b"./" * 50_000 + b"params.json"),
    "a page with one good line": lambda: HTML + content(native, LIST),
    "comments": lambda: b"# md5\n; sums\n" + content(native, LIST),
    "prose": always(b"These are the checksums of the files, ask for them by mail.\n" * 20),
    "UTF-16": lambda: content(native, LIST).decode().encode("utf-16"),
    "UTF-16 without its mark": lambda: content(native, LIST).decode().encode("utf-16-le"),
    "a byte order mark": lambda: b"\xef\xbb\xbf" + content(native, LIST),
    "a line of 10 MB": lambda: content(native, LIST) + b"0" * 10 * MEGABYTE,
    "a line of 900 kB": lambda: content(native, LIST) + b"0" * 900_000,
    "a name of 900 kB": lambda: _listing(b"x" * 900_000),
    "blanks of 900 kB": lambda: content(native, LIST) + b" " * 900_000 + b"x",
    "900,000 brackets": lambda: content(native, LIST) + b"MD5 (" + b") = " * 220_000,
    "20,000 files": lambda: content(native, LIST) + b"".join(
        b"0" * 32 + b"  f%d\n" % i for i in range(20_000)
    ),
    "20,000 names of one file": lambda: content(native, LIST) + _md5(shard())
    + b"".join(b"\n" + _md5(shard()) + b"  ./consolidated.00.pth" for _ in range(20_000)),
    "20,000 bad lines": lambda: content(native, LIST) + b"\x1b[31mbad " + b"9" * 20 + b"\n" * 1
    + b"bad line\n" * 20_000,
    "JSON": always(b'{"consolidated.00.pth": "d41d8cd98f00b204e9800998ecf8427e"}'),
}  # fmt: skip
add("checklist", native, LIST, damaged(native, LIST))
add("checklist with", native, LIST, LISTS)
add(
    "checklist with a file called", native, LIST,
    {
        name: lambda words=words: _listing(words.encode("utf-8", "surrogatepass"))
        for name, words in NAMES.items()
    },
)  # fmt: skip
CASES |= {
    "checklist through a folder that leads out": lambda: (
        native()
        | {
            "out": lambda path: path.symlink_to("/etc"),
            LIST: _listing(b"out/passwd"),
        }
    ),
    "checklist beside others": lambda: (
        native()
        | {
            "SHA256SUMS": b"0" * 64 + b"  consolidated.00.pth\n",
            "consolidated.00.pth.md5": b"\x1b[31m",
            "params.json.sha256": b"0" * 64,
            "md5sums.txt": HTML,
            "tokenizer_checklist.chk": b"0" * 32 + b"  tokenizer.model\n",
        }
    ),
    "digests of a hub download": lambda: (
        hub()
        | {
            f".cache/huggingface/download/{name}.metadata": data
            for name, data in {
                TENSORS: b"0" * 40 + b"\n" + b"0" * 64 + b"\n1.5\n",
                CONFIG: b"\x1b[31m\n\xff\xfe\n",
                INDEX: b"",
                "a.safetensors.incomplete": b"x" * 100_000,
                "../../../../escaped": b"0" * 40 + b"\n" + b"0" * 40 + b"\n1\n",
            }.items()
            if ".." not in name
        }
    ),
}


# --- tokenizer.model ------------------------------------------------------------------------------

LINES = tuple(tokens.rank_lines(tokens.train_ranks(RANKS)))


def _lines(change: Callable[[list[bytes]], object]) -> bytes:
    lines = list(LINES)
    change(lines)
    return b"\n".join(lines) + b"\n"


def _line(index: int, line: bytes) -> Callable[[list[bytes]], object]:
    return lambda lines: lines.__setitem__(index, line)


LAST_TOKEN = base64.b64encode(b"last")
RANK_FILES: dict[str, Callable[[], bytes | Make]] = {
    name: partial(_lines, change)
    for name, change in {
        "a token of no base64": _line(-1, b"!!!! 259"),
        "a token of nothing": _line(-1, b" 259"),
        "a token of bad padding": _line(-1, b"YQ= 259"),
        "a token with bits too many": _line(-1, b"YR== 259"),
        "a token that is there": _line(-1, LINES[0].split()[0] + b" 259"),
        "a token of a megabyte": _line(-1, base64.b64encode(b"x" * MEGABYTE) + b" 259"),
        "a token that speaks to terminals": _line(-1, base64.b64encode(b"\x1b[31m") + b" 259"),
        "a token that is no UTF-8": _line(-1, base64.b64encode(b"\xff\xfe") + b" 259"),
        "a rank with a sign": _line(-1, LAST_TOKEN + b" 2_59"),
        "a rank with a plus": _line(-1, LAST_TOKEN + b" +259"),
        "a negative rank": _line(-1, LAST_TOKEN + b" -1"),
        "a rank of other digits": _line(-1, LAST_TOKEN + " \u0662\u0665\u0669".encode()),
        "a rank with a point": _line(-1, LAST_TOKEN + b" 259.0"),
        "a rank twice": _line(-1, LAST_TOKEN + b" 258"),
        "a gap": _line(-1, LAST_TOKEN + b" 260"),
        "a huge rank": _line(-1, LAST_TOKEN + b" 4294967296"),
        "a rank of 5,000 digits": _line(-1, LAST_TOKEN + b" " + b"9" * 5_000),
        "no rank": _line(-1, LAST_TOKEN),
        "three fields": _line(-1, LAST_TOKEN + b" 259 x"),
        "a comment": _line(-1, b"# a comment"),
        "a line that speaks to terminals": _line(-1, b"\x1b[31m \x1b]0;x\x07"),
        "no first byte": lambda lines: lines.pop(0),
        "no last line": lambda lines: lines.pop(),
        "blank lines": lambda lines: lines.insert(5, b""),
        "the order of another": lambda lines: lines.reverse(),
        "tabs": lambda lines: lines.__setitem__(
            slice(None), [line.replace(b" ", b"\t") for line in lines]
        ),
        "all on one line": lambda lines: lines.__setitem__(slice(None), [b" ".join(lines)]),
        "twice all": lambda lines: lines.extend(LINES),
        "one line alone": lambda lines: lines.__delitem__(slice(1, None)),
        "half of them": lambda lines: lines.__delitem__(slice(130, None)),
        "100,000 more": lambda lines: lines.extend(
            base64.b64encode(f"t{i:06d}".encode()) + b" %d" % (RANKS + i) for i in range(100_000)
        ),
    }.items()
} | {
    "CRLF": lambda: content(native, TOKENIZER).replace(b"\n", b"\r\n"),
    "a byte order mark": lambda: b"\xef\xbb\xbf" + content(native, TOKENIZER),
    "no last line end": lambda: content(native, TOKENIZER)[:-1],
    "20 MB": lambda: content(native, TOKENIZER) + b"\n" * 20 * MEGABYTE,
    "15 MB of lines": lambda: content(native, TOKENIZER) + b"eA== 1\n" * (2 * MEGABYTE),
    "a hole of 200 MB": always(_sparse(b"IQ== 0\n", 200 * 10**6)),
    "the other kind": lambda: content(pieces, TOKENIZER),
    "tokenizer.json": lambda: content(hub, TOKENS),
}  # fmt: skip
add("ranks", native, TOKENIZER, damaged(native, TOKENIZER))
add("ranks", native, TOKENIZER, cut_and_flipped(native, TOKENIZER, 6, 6))
add("ranks with", native, TOKENIZER, RANK_FILES)


def varint(value: int) -> bytes:
    """As protobuf writes it."""
    raw = bytearray()
    while value > 127:
        raw.append(value & 127 | 128)
        value >>= 7
    return bytes((*raw, value))


def message(field: int, content: bytes, length: int | None = None) -> bytes:
    """A field that holds bytes, with a length that may be a lie."""
    return varint(field << 3 | 2) + varint(len(content) if length is None else length) + content


def piece(words: bytes, score: float = -1.0, kind: int = 1) -> bytes:
    """One entry of the vocabulary."""
    inner = message(1, words) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
    return message(1, inner)


def _pieces(before: bytes = b"", behind: bytes = b"") -> bytes:
    return before + content(pieces, TOKENIZER) + behind


PIECE_FILES: dict[str, Callable[[], bytes | Make]] = {
    "a number without an end": lambda: _pieces(behind=b"\x80" * 100),
    "a number too long": lambda: _pieces(behind=b"\x08" + b"\xff" * 9 + b"\x7f"),
    "a field 0": lambda: _pieces(behind=b"\x02\x00"),
    "a group": lambda: _pieces(behind=b"\x0b\x0c"),
    "wire type 6": lambda: _pieces(behind=b"\x0e"),
    "wire type 7": lambda: _pieces(behind=b"\x0f"),
    "a length of 16 EiB": lambda: _pieces(behind=message(1, b"x", 2**64 - 1)),
    "a length of 2**70": lambda: _pieces(behind=message(1, b"x", 2**70 - 1)),
    "a length beyond the end": lambda: _pieces(behind=message(1, b"x", 1000)),
    "a huge field": lambda: _pieces(behind=varint(2**40 << 3) + b"\x01"),
    "a piece that is a number": lambda: _pieces(behind=b"\x08\x01"),
    "a piece of nothing": lambda: _pieces(behind=message(1, b"")),
    "a piece without text": lambda: _pieces(behind=piece(b"")),
    "a piece that is there": lambda: _pieces(behind=piece(b"a")),
    "a piece that is no UTF-8": lambda: _pieces(behind=piece(b"\xff\xfe")),
    "a piece cut in a character": lambda: _pieces(behind=piece(b"\xe2\x96")),
    "a piece of a megabyte": lambda: _pieces(behind=piece(b"x" * MEGABYTE)),
    "a piece of type 0": lambda: _pieces(behind=piece(b"new", kind=0)),
    "a piece of type 99": lambda: _pieces(behind=piece(b"new", kind=99)),
    "a piece of a huge type": lambda: _pieces(behind=piece(b"new", kind=2**63)),
    "a second unknown": lambda: _pieces(behind=piece(b"<unk2>", kind=2)),
    "a byte of no name": lambda: _pieces(behind=piece(b"<0xGG>", kind=6)),
    "a byte twice": lambda: _pieces(behind=piece(b"<0x41>", kind=6)),
    "a control character for control": lambda: _pieces(behind=piece(b"\x1b[31m", kind=3)),
    "a piece of one's own": lambda: _pieces(behind=piece(b"a(a+)+$[", kind=4)),
    "10,000 pieces of one's own": lambda: _pieces(
        behind=b"".join(piece(b"u%d" % i, kind=4) for i in range(10_000))
    ),
    "a score of NaN": lambda: _pieces(behind=piece(b"new", float("nan"))),
    "a score of infinity": lambda: _pieces(behind=piece(b"new", float("inf"))),
    "no unknown": lambda: content(pieces, TOKENIZER).replace(b"\x18\x02", b"\x18\x05", 1),
    "no pieces": lambda: message(2, b"") + message(3, b""),
    "no settings": lambda: piece(b"<unk>", kind=2) + piece(b"a"),
    "settings twice": lambda: _pieces(behind=message(2, b"\x18\x01")),
    "settings of another model": lambda: _pieces(behind=message(2, b"\x18\x03")),
    "settings of a model that there is not": lambda: _pieces(behind=message(2, b"\x18\x63")),
    "settings of huge ids": lambda: _pieces(
        behind=message(2, b"\xc0\x02" + varint(2**31 - 1) + b"\xc8\x02" + varint(2**31 - 1))
    ),
    "settings of negative ids": lambda: _pieces(behind=message(2, b"\xc0\x02" + varint(2**64 - 5))),
    "a normaliser that there is not": lambda: _pieces(behind=message(3, message(1, b"\x1b[31m"))),
    "a normaliser that is no UTF-8": lambda: _pieces(behind=message(3, message(1, b"\xff"))),
    "a map of characters that is noise": lambda: _pieces(
        behind=message(3, message(2, random.Random(3).randbytes(1000)))
    ),
    "a map of characters that lies": lambda: _pieces(
        behind=message(3, message(2, b"\xff\xff\xff\x7f" + bytes(64)))
    ),
    "a test of its own": lambda: _pieces(behind=message(4, message(1, message(1, b"a")))),
    "100,000 empty fields": lambda: _pieces(behind=message(200, b"") * 100_000),
    "100,000 more": lambda: _pieces(behind=b"".join(piece(b"t%06d" % i) for i in range(100_000))),
    "messages 10,000 deep": lambda: _pieces(behind=_nested(10_000)),
}


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = message(1, data)
        if len(data) > MEGABYTE:
            break
    return data


add("pieces", pieces, TOKENIZER, damaged(pieces, TOKENIZER))
add("pieces", pieces, TOKENIZER, cut_and_flipped(pieces, TOKENIZER, 8, 12))
add("pieces with", pieces, TOKENIZER, PIECE_FILES)
add(
    "piece called", pieces, TOKENIZER,
    {
        name: lambda words=words: _pieces(behind=piece(words.encode("utf-8", "surrogatepass")))
        for name, words in NAMES.items()
    },
)  # fmt: skip


# --- tokenizer.json -------------------------------------------------------------------------------


def _tokens(change: Callable[[dict[str, Any]], object]) -> bytes:
    table = json.loads(content(hub, TOKENS))
    change(table)
    return json.dumps(table).encode()


def _deep_object(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        made = {"type": "Sequence", "normalizers": [made]}
    return made


def _split(pattern: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


JSONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no model": lambda t: t.pop("model"),
    "a model that is text": lambda t: t.update(model="BPE"),
    "another model": lambda t: t["model"].update(type="WordPiece"),
    "a model that there is not": lambda t: t["model"].update(type="\x1b[31m"),
    "no vocabulary": lambda t: t["model"].pop("vocab"),
    "an empty vocabulary": lambda t: t["model"].update(vocab={}),
    "a vocabulary that is a list": lambda t: t["model"].update(vocab=[]),
    "a negative id": lambda t: t["model"]["vocab"].update(new=-1),
    "a huge id": lambda t: t["model"]["vocab"].update(new=2**32 - 1),
    "an id beyond 32 bits": lambda t: t["model"]["vocab"].update(new=2**40),
    "an id that is 1.5": lambda t: t["model"]["vocab"].update(new=1.5),
    "an id that is text": lambda t: t["model"]["vocab"].update(new="1"),
    "an id twice": lambda t: t["model"]["vocab"].update(new=1),
    "an id far off": lambda t: t["model"]["vocab"].update(new=10**7),
    "an id not so far off": lambda t: t["model"]["vocab"].update(new=10**6),
    "a token of nothing": lambda t: t["model"]["vocab"].update({"": 300}),
    "merges that are text": lambda t: t["model"].update(merges="a b"),
    "merges of nothing": lambda t: t["model"].update(merges=[[]]),
    "merges of three": lambda t: t["model"].update(merges=[["a", "b", "c"]]),
    "merges of what there is not": lambda t: t["model"].update(merges=[["qq", "zz"]]),
    "merges of numbers": lambda t: t["model"].update(merges=[[1, 2]]),
    "no merges": lambda t: t["model"].update(merges=[]),
    "an unknown that there is not": lambda t: t["model"].update(unk_token="nope"),
    "a dropout": lambda t: t["model"].update(dropout=0.5),
    "a dropout of NaN": lambda t: t["model"].update(dropout="NaN"),
    "added tokens that are text": lambda t: t.update(added_tokens="x"),
    "an added token of nothing": lambda t: t["added_tokens"][0].update(content=""),
    "an added token without id": lambda t: t["added_tokens"][0].pop("id"),
    "an added token far off": lambda t: t["added_tokens"][0].update(id=2**31),
    "an added token twice": lambda t: t["added_tokens"].append(t["added_tokens"][0]),
    "an added token of another id": lambda t: t["added_tokens"][0].update(id=1),
    "added tokens that are a number": lambda t: t["added_tokens"].append(1),
    "10,000 added tokens": lambda t: t["added_tokens"].extend(
        t["added_tokens"][0] | {"id": 300 + i, "content": f"<{i}>"} for i in range(10_000)
    ),
    "a normaliser that there is not": lambda t: t.update(normalizer={"type": "\x1b[31m"}),
    "a normaliser 50 deep": lambda t: t.update(normalizer=_deep_object(50)),
    "a normaliser of noise": lambda t: t.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "////"}
    ),
    "a replacement of everything": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000}
    ),
    "a pattern that is none": lambda t: t.update(pre_tokenizer=_split({"Regex": "(((("})),
    "a pattern without end": lambda t: t.update(pre_tokenizer=_split({"Regex": "(a*)*b"})),
    "a pattern of nothing": lambda t: t.update(pre_tokenizer=_split({"Regex": ""})),
    "a pattern 10,000 deep": lambda t: t.update(
        pre_tokenizer=_split({"Regex": "(" * 10_000 + ")" * 10_000})
    ),
    "a pattern of a million repeats": lambda t: t.update(
        pre_tokenizer=_split({"Regex": "(a{1000}){1000}"})
    ),
    "no splitting": lambda t: t.update(pre_tokenizer=None),
    "no decoder": lambda t: t.update(decoder=None),
    "a decoder that there is not": lambda t: t.update(decoder={"type": "x"}),
    "a post-processor of what there is not": lambda t: t.update(
        post_processor={
            "type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {},
        }
    ),
    "padding without end": lambda t: t.update(
        padding={
            "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
        }
    ),
    "truncation to nothing": lambda t: t.update(
        truncation={
            "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5
        }
    ),
    "another version": lambda t: t.update(version="99"),
    "keys that nobody knows": lambda t: t.update({"\x1b[31m": {"a": 1}}),
}  # fmt: skip
add("tokenizer.json", hub, TOKENS, damaged(hub, TOKENS))
add("tokenizer.json that is", hub, TOKENS, spelt_json(hub, TOKENS))
add(
    "tokenizer.json with", hub, TOKENS,
    {name: partial(_tokens, change) for name, change in JSONS.items()},
)  # fmt: skip
add(
    "tokenizer.json with a token called", hub, TOKENS,
    {
        name: lambda words=words: _tokens(
            lambda t: t["added_tokens"].append(t["added_tokens"][0] | {"id": 264, "content": words})
        )
        for name, words in NAMES.items()
    },
)  # fmt: skip
add("tokenizer.json beside ranks", native, TOKENS, damaged(native, TOKENS))
for _beside in ("tokenizer_config.json", "generation_config.json"):
    add(_beside, hub, _beside, damaged(hub, _beside))
    add(f"{_beside} that is", hub, _beside, spelt_json(hub, _beside))


# --- what commands read besides -------------------------------------------------------------------


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _npy(header: str, body: bytes = b"") -> bytes:
    """A .npz whose one array has any header."""
    raw = header.encode("latin-1")
    data = b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + body
    return zipped(("tokens.npy", data), ("logits.npy", data), root="")


class _Runs:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def _objects() -> bytes:
    buffer = io.BytesIO()
    runs = np.empty(1, dtype=object)
    runs[0] = _Runs()
    np.savez(buffer, tokens=runs, logits=runs)
    return buffer.getvalue()


def _damaged_text(file: str) -> dict[str, Callable[[], bytes | Make]]:
    """A text may come from a pipe or a device, if a person says so: that is no damage."""
    table = damaged(native, file)
    return {name: make for name, make in table.items() if name not in ("a FIFO", "a device")}


RECORDINGS: dict[str, Callable[[], bytes | Make]] = {
    "objects": _objects,
    "a dtype of code": lambda: _npy("{'descr': __import__('os').system('id'), 'shape': (3,)}"),
    "a shape of 2**62": lambda: _npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"
    ),
    "a shape of -1": lambda: _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
    "a header 10,000 deep": lambda: _npy("(" * 10_000 + ")" * 10_000),
    "a header of nothing": lambda: _npy(""),
    "a dtype of text": lambda: _npz(tokens=np.array(["a"]), logits=np.array([["b"]])),
    "NaN": lambda: _npz(tokens=np.array([1, 2]), logits=np.full((2, RANKS + 256), np.nan)),
    "no tokens": lambda: _npz(logits=np.zeros((2, RANKS + 256))),
    "tokens that there are not": lambda: _npz(
        tokens=np.array([-1, 10**9]), logits=np.zeros((2, RANKS + 256))
    ),
    "tokens of nothing": lambda: _npz(tokens=np.array([], int), logits=np.zeros((0, RANKS + 256))),
    "positions that there are not": lambda: _npz(
        tokens=np.array([1, 2]), logits=np.zeros((1, RANKS + 256)), positions=np.array([7])
    ),
    "another vocabulary": lambda: _npz(tokens=np.array([1, 2]), logits=np.zeros((2, 3))),
    "a bomb": lambda: zipped(
        ("logits.npy", bytes(64 * MEGABYTE)), root="", compression=zipfile.ZIP_DEFLATED
    ),
    "a path out": lambda: zipped(("../../tokens.npy", b""), root=""),
}
add("recording", native, "given/logits.npz", damaged(native, "given/logits.npz"))
add("recording of", native, "given/logits.npz", RECORDINGS)
add(
    "recording in safetensors", native, "given/logits.safetensors",
    damaged(native, "given/logits.safetensors"),
)  # fmt: skip
add("text", native, "given/text.txt", _damaged_text("given/text.txt"))
add(
    "text of", native, "given/text.txt",
    {
        name: always(words.encode("utf-8", "surrogatepass"))
        for name, words in NAMES.items()
        if name != "a megabyte"
    },
)  # fmt: skip
add("dialogue", native, "given/chat.json", _damaged_text("given/chat.json"))
add(
    "dialogue of", native, "given/chat.json",
    {
        name: always(value.encode())
        for name, value in {
            "nobody": "[]",
            "a number": "[1]",
            "no role": '[{"content": "x"}]',
            "a role that speaks to terminals": '[{"role": "\\u001b[31m", "content": "x"}]',
            "no content": '[{"role": "user"}]',
            "content that is a list": '[{"role": "user", "content": [{"type": "image"}]}]',
            "half a character": '[{"role": "user", "content": "\\ud800"}]',
            "special tokens": '[{"role": "user", "content": "<|eot_id|><|image|>"}]',
            "10,000 turns": "[" + '{"role": "user", "content": "x"},' * 9_999
            + '{"role": "user", "content": "x"}]',
            "depth": "[" * 100_000 + "]" * 100_000,
        }.items()
    },
)  # fmt: skip
add("questions", native, "given/questions.jsonl", _damaged_text("given/questions.jsonl"))
add(
    "questions of", native, "given/questions.jsonl",
    {
        name: always(value.encode())
        for name, value in {
            "a list": "[]\n",
            "no endings": '{"context": "x", "endings": [], "label": 0}\n',
            "one ending": '{"context": "x", "endings": ["y"], "label": 0}\n',
            "empty endings": '{"context": "x", "endings": ["", ""], "label": 0}\n',
            "a label beyond": '{"context": "x", "endings": ["y", "z"], "label": 2}\n',
            "a negative label": '{"context": "x", "endings": ["y", "z"], "label": -1}\n',
            "a label of NaN": '{"context": "x", "endings": ["y", "z"], "label": NaN}\n',
            "a label of 4,000 digits": '{"context": "x", "endings": ["y", "z"], "label": "'
            + "9" * 4_000 + '"}\n',
            "half a character": '{"context": "\\ud800", "endings": ["y", "z"], "label": 0}\n',
            "depth": '{"context": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
            "10,000 bad lines": "x\n" * 10_000,
        }.items()
    },
)  # fmt: skip


# --- the directory --------------------------------------------------------------------------------


def _named_file(base: Base, old: str, new: str) -> Case:
    def make() -> Files:
        files = base()
        files[new] = files.pop(old)
        return files

    return make


def _less(base: Base, *names: str) -> Case:
    return lambda: {name: data for name, data in base().items() if name not in names}


CASES |= {
    "directory with nothing": lambda: {},
    "directory with a file of nothing": lambda: {"x": b""},
    "directory without weights": _less(native, SHARD),
    "directory without params.json": _less(native, PARAMS),
    "directory without a tokenizer": _less(native, TOKENIZER),
    "directory without a list": _less(native, LIST),
    "directory with weights alone": _less(native, PARAMS, TOKENIZER, LIST),
    "directory without the first shard": _less(ranked, SHARD),
    "directory without the second shard": _less(ranked, "consolidated.01.pth"),
    "directory without config.json": _less(hub, CONFIG),
    "directory without an index": _less(hub, INDEX),
    "directory without a shard of safetensors": _less(hub, TENSORS),
    "directory without tokenizer.json": _less(hub, TOKENS),
    "directory of both layouts": lambda: hub() | native(),
    "directory of two native models": lambda: (
        native() | {"consolidated.pth": shard(), "consolidated.0.pth": shard()}
    ),
    "directory of shards 0 and 99999": lambda: native() | {"consolidated.99999.pth": shard()},
    "directory of 200 shards": lambda: (
        native() | {f"consolidated.{i:02d}.pth": shard() for i in range(200)}
    ),
    "directory of shards that are each other": lambda: (
        ranked() | {"consolidated.01.pth": content(ranked, SHARD)}
    ),
    "directory of scales alone": _named_file(native, SHARD, "fp8_scales_0.pt"),
    "directory of scales that are a shard": lambda: native() | {"fp8_scales_0.pt": shard()},
    "directory of many files": lambda: native() | {f"x{i}.txt": b"" for i in range(2_000)},
    "directory in a directory in itself": lambda: (
        native() | {"again": lambda path: path.symlink_to(".")}
    ),
    "directory with modules of Python": lambda: (
        native()
        | {
            f"{name}.py": b"open('owned', 'w')\n"
            for name in ("owned", "json", "numpy", "torch", "sitecustomize", "consolidated", "os")
        }
    ),
    "directory with a cache that is none": lambda: {
        "snapshots/main/config.json": b"{}",
        "blobs/x": b"",
        "refs/main": b"../../../../etc",
    },
    "directory with an original that is a file": lambda: hub() | {"original": b"x"},
    "directory with an original that leads out": lambda: (
        hub() | {"original": lambda path: path.symlink_to("/etc")}
    ),
    "directory with an original in itself": lambda: (
        hub() | {"original": lambda path: path.symlink_to("original")}
    ),
}
for _what, _words in NAMES.items():
    if "/" not in _words and "\0" not in _words and "\ud800" not in _words and len(_words) < 200:
        CASES[f"shard of safetensors called {_what}"] = _named_file(
            hub, TENSORS, f"{_words}.safetensors"
        )
        CASES[f"list called {_what}"] = _named_file(native, LIST, f"{_words}.md5")
CASES["list called no UTF-8"] = _named_file(native, LIST, "\udcff\udcfe.md5")
CASES["shard of safetensors called no UTF-8"] = _named_file(hub, TENSORS, "\udcff.safetensors")
