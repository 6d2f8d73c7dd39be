"""What a file is when it is not what its name says: a web page, a pointer, nothing.

Downloads fail in few ways, and each leaves a file that its first bytes give away.
"""

import zlib
from contextlib import suppress

WEB_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
LFS_POINTER = b"version https://git-lfs"
HEAD_NBYTES = 512  # that all of this looks at
# As RFC 1952, bzip2, xz, lzma, RFC 8878, the frame format of LZ4 and joblib before 0.10 have it.
COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"]\0", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"ZF0x", "zlib"),
)
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
    kind = next((name for sign, name in COMPRESSED if head.startswith(sign)), None)
    if head.startswith(ZLIB_STARTS):  # text can begin so
        with suppress(zlib.error):
            zlib.decompressobj().decompress(head)
            kind = "zlib"
    return kind and f"it is {kind}-compressed; decompress it first"
