"""Numbers for people: bytes, counts, shares. Whatever the face."""

from collections.abc import Iterable


def nbytes_text(nbytes: int, like: int | None = None) -> str:
    """4.56 GiB; a smaller unit where GiB would say next to nothing. In the unit of `like`, so that
    the numbers of a column can be compared."""
    unit, size = nbytes_unit(nbytes if like is None else like)
    if size == 1:
        return f"{nbytes:,} bytes"
    hundredths = (200 * nbytes + size) // (2 * size)  # exact, however large
    if nbytes and not hundredths:
        return nbytes_text(nbytes)
    return f"{hundredths // 100:,}.{hundredths % 100:02d} {unit}"


def nbytes_unit(nbytes: int) -> tuple[str, int]:
    """The unit for so many bytes, and how many bytes it is."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= max(size // 10, 2**10):
            return unit, size
    return "bytes", 1


def exact_nbytes_text(nbytes: int) -> str:
    """16,060,522,496 bytes (14.96 GiB)."""
    short = nbytes_text(nbytes)
    exact = f"{nbytes:,} bytes"
    return exact if short == exact else f"{exact} ({short})"


def short_count(number: int) -> str:
    """8.03 B; nothing below a million, where the number itself is short."""
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return ""


def count_text(number: int) -> str:
    """8,030,261,248 (8.03 B)."""
    short = short_count(number)
    return f"{number:,} ({short})" if short else f"{number:,}"


def shape_text(shape: Iterable[int]) -> str:
    """[128256, 4096], as torch and this package's findings write it."""
    return str(list(shape))


def percent_text(part: float, whole: float = 1) -> str:
    """A share with one decimal."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def difference_text(number: float) -> str:
    """A small number: 0, 0.031, 3.9e-06."""
    if not number:
        return "0"
    return f"{number:.2g}"


def figure_text(number: float | None) -> str:
    """A figure of weights with four digits: 0.01312, 1.5e-08; "-" where there is none."""
    return "-" if number is None else f"{number:.4g}"
