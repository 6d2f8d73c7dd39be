"""What a file is when it is not what its name says: a web page, a pointer, nothing.

Downloads fail in few ways, and each leaves a file that its first bytes give away.
"""

WEB_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
LFS_POINTER = b"version https://git-lfs"
HEAD_NBYTES = 512  # that all of this looks at


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
