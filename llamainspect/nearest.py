"""Which of the known names a person may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches

from llamainspect.names import listing

MAX_NAME = 200  # characters that are compared


def nearest(name: str, known: Iterable[str]) -> str:
    """ "near are a, b and c; ", or nothing: the middle of a sentence about an unknown name."""
    wanted, names = name.lower()[:MAX_NAME], list(known)
    near = [other for other in names if wanted and wanted in other.lower()]
    near += get_close_matches(
        wanted, [other for other in names if other not in near], n=3, cutoff=0.5
    )
    return f"near {'are' if len(near) > 1 else 'is'} {listing(near)}; " if near else ""
