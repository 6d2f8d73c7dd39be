"""Text from strangers made fit for a terminal.

Tensor names, file names and keys can hold escape sequences, hidden or reordered characters, or a
megabyte. rich passes control characters through, so they are made visible before it sees them.
"""

import re

MAX_CHARACTERS = 200
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # hidden and bidi
    "\ud800-\udfff\U000e0000-\U000e0fff]"  # surrogates, tags
)


def printable(text: str, limit: int | None = MAX_CHARACTERS) -> str:
    """The text with control, bidirectional and hidden characters written as escapes, shortened."""
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return _UNSAFE.sub(lambda match: escape(match[0]), text)


def escape(character: str) -> str:
    """The number of one character, as Python would write it; a byte that is none as a byte."""
    code = ord(character)
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:  # the latter as surrogateescape decodes bytes
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable_lines(text: str) -> str:
    """The same of a text whose lines and tabs are meant."""
    return _UNSAFE.sub(lambda m: m[0] if m[0] in "\n\t" else escape(m[0]), text)
