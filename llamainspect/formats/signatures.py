"""What a file is when it is not what its name says: a web page, a pointer, nothing.

Downloads fail in few ways, and each leaves a file that its first bytes give away.
"""

import re
import struct
import zlib
from contextlib import suppress

WEB_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
LFS_POINTER = b"version https://git-lfs"
HEAD_NBYTES = 512  # that all of this looks at
# As RFC 1952, bzip2, xz, RFC 8878, the frame format of LZ4 and joblib before 0.10 have it: that one
# takes any spelling of a number behind its sign.
COMPRESSED = tuple(
    (re.compile(sign, re.DOTALL), name)
    for sign, name in (
        (rb"\x1f\x8b\x08", "gzip"),
        (rb"BZh[1-9]", "bzip2"),
        (rb"\xfd7zXZ\0", "xz"),
        (rb"\x28\xb5\x2f\xfd", "zstd"),
        (rb"\x04\x22\x4d\x18", "lz4"),
        (rb"ZF[\s+_0-9a-fA-FxX-]{19}", "zlib"),
    )
)
LZMA = struct.Struct("<BLQB")  # properties, dictionary, bytes unpacked, first of the packed ones
ZLIB_STARTS = (b"x\x01", b"x^", b"x\x9c", b"x\xda")  # of its usual window, one for each level


def is_web_page(head: bytes) -> bool:
    """HTML, or the XML that a storage service answers with when it refuses."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGE_STARTS)


def is_like_safetensors(head: bytes, nbytes: int) -> bool:
    """Whether a file begins with the length of a header within it, and the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < nbytes


def describe_stand_in(head: bytes, nbytes: int) -> str | None:
    """What stands in place of the wanted file, with the way out; None when nothing is plain."""
    if nbytes == 0:
        return "the file is empty; download it again"
    if is_web_page(head):
        return (
            f"it is a web page of {nbytes:,} bytes: the download was refused or needs a login; "
            "log in, accept the licence and download it again"
        )
    if head.startswith(LFS_POINTER):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    if not head.strip(b"\0"):
        return "it begins with zeros; the download never wrote it"
    return None


def describe_compression(head: bytes) -> str | None:
    """Which program unpacks a file that begins so, with the way out."""
    kind = next((name for sign, name in COMPRESSED if sign.match(head)), None)
    if _is_lzma(head):
        kind = "lzma"
    if head.startswith(ZLIB_STARTS):  # text can begin so
        with suppress(zlib.error):
            zlib.decompressobj().decompress(head)
            kind = "zlib"
    return kind and f"it is {kind}-compressed; decompress it first"


def _is_lzma(head: bytes) -> bool:
    """A file of LZMA alone, which has no sign: values that liblzma takes when it has to guess."""
    if len(head) < LZMA.size:
        return False
    properties, dictionary, nbytes, first = LZMA.unpack_from(head)
    literal, position = properties % 9, properties // 9 % 5  # bits of context
    # The dictionary's bytes: 2**n or 2**n + 2**(n - 1), or no limit.
    usual = f"{dictionary:b}".rstrip("0") in ("", "1", "11") or dictionary == 2**32 - 1
    known = 0 < nbytes < 2**38 or nbytes == 2**64 - 1
    fit = properties < 9 * 5 * 5 and literal + position <= 4 and first == 0
    return bool(fit and usual and known)
