"""tiktoken's rank file: one line per token, its bytes in base64 and its rank.

The rank is the token's id and its place in the order of merges. What the encoder needs of the file
(each rank once, from 0 on without a hole; each of the 256 single bytes) is checked here, since it
ends the process when that is not so.
"""

import binascii

from llamainspect.errors import CorruptFile, UnsupportedFile
from llamainspect.names import counted

BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
# Between fields: one in a line, and two at its end; Llama 4 has 200,018 lines.
MAX_BLANKS = 3 * 2**19
MAX_SHOWN = 60  # characters of a bad line


def parse_ranks(data: bytes, file: str) -> dict[bytes, int]:
    """Token bytes by rank order. Raises CorruptFile that names the first bad line."""
    check_length(data, file)
    fields = data.split()
    count, odd = divmod(len(fields), 2)
    # All that is left without base64 must be one space and one line end per token.
    marks = data.translate(None, BASE64)
    regular = (b" \n" * count, b" \n" * (count - 1) + b" ", b" \r\n" * count)
    try:
        if odd or marks not in regular:
            raise ValueError
        tokens = [binascii.a2b_base64(field, strict_mode=True) for field in fields[::2]]
        numbers = list(map(int, fields[1::2]))
    except ValueError:  # binascii.Error is one
        tokens, numbers = _parse_lines(data, file)
    cut = "" if data.endswith(b"\n") else "it ends inside of a line, so it was cut short; "
    if numbers != list(range(len(tokens))):
        _check_numbers(numbers, file, cut)
        tokens = [token for _, token in sorted(zip(numbers, tokens, strict=True))]
    ranks = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ranks) != len(tokens):
        raise CorruptFile(f"{file}: {_twice(tokens)}; {cut}download it again")
    if missing := [byte for byte in range(256) if bytes((byte,)) not in ranks]:
        raise CorruptFile(
            f"{file}: it lacks {counted(len(missing), 'single byte')} (the first is "
            f"0x{missing[0]:02x}), so that not every text can be encoded; download it again"
        )
    return ranks


def check_length(data: bytes, file: str) -> None:
    """Raises UnsupportedFile for so many fields that they would take memory without a bound."""
    if sum(map(data.count, (b" ", b"\t", b"\n", b"\r", b"\v", b"\f"))) > MAX_BLANKS:
        raise UnsupportedFile(
            f"{file}: it holds more ranks than the {MAX_BLANKS // 3:,} that are read"
        )


def _parse_lines(data: bytes, file: str) -> tuple[list[bytes], list[int]]:
    """Line by line, as other readers take it: blank lines are passed over."""
    tokens, numbers = [], []
    lines = data.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split()
        try:
            if len(fields) != 2 or not fields[1].isdigit() or len(fields[1]) > 9:
                raise ValueError("a line is a token in base64, a space and its rank")
            tokens.append(binascii.a2b_base64(fields[0], strict_mode=True))
            numbers.append(int(fields[1]))
        except ValueError as error:
            shown = line[:MAX_SHOWN].decode("ascii", "backslashreplace")
            raise CorruptFile(
                f"{file}: it ends in the middle of line {number:,}, so it was cut short; "
                "download it again"
                if number == len(lines) and not data.endswith(b"\n")
                else f"{file}: line {number:,} is damaged ({shown!r}: {error}); download it again"
            ) from error
    return tokens, numbers


def _check_numbers(numbers: list[int], file: str, cut: str) -> None:
    """Ranks may stand in any order, but each once and without a hole."""
    ordered = sorted(numbers)
    for expected, rank in enumerate(ordered):
        if rank < expected:
            raise CorruptFile(f"{file}: rank {rank:,} stands there twice; {cut}download it again")
        if rank > expected:
            raise CorruptFile(
                f"{file}: rank {expected:,} is missing, and ranks go on to {ordered[-1]:,}; "
                f"{cut}download it again"
            )


def _twice(tokens: list[bytes]) -> str:
    """Which token is there twice, and at which ranks."""
    first: dict[bytes, int] = {}
    for rank, token in enumerate(tokens):
        if token in first:
            break
        first[token] = rank
    return f"ranks {first[token]:,} and {rank:,} stand for the same bytes, 0x{token[:20].hex()}"
