"""Which single bit was flipped, told from two CRC-32s alone.

A CRC is linear: the exclusive or of the recorded sum and the found one depends on the damage only.
For one flipped bit, k bits before the end, it is x^k modulo the CRC's polynomial, so k is a
discrete logarithm in GF(2^32). Baby steps and giant steps (Shanks) find it in a moment. The
polynomial is that of zlib and zip (0x04C11DB7), bits reflected.
"""

POLYNOMIAL = 0xEDB88320
BABY_STEPS = 2**16  # the square root of the number of powers

Matrix = list[int]  # 32 columns: the images of the 32 single bits


def find_flipped_bit(recorded: int, found: int, nbytes: int) -> int | None:
    """Position of the one bit (8 * byte + bit) whose flip explains the difference of the two sums.

    None when no single bit of `nbytes` bytes does. Any other damage is explained so by chance, with
    a probability of 8 * nbytes / 2^32.
    """
    target = recorded ^ found
    if not target or 8 * nbytes >= 2**32:
        return None
    babies: dict[int, int] = {}
    power = 1
    for exponent in range(BABY_STEPS):
        babies[power] = exponent
        power = (power >> 1) ^ (POLYNOMIAL if power & 1 else 0)
    back = _tables(_inverse_power())
    for giant in range(8 * nbytes // BABY_STEPS + 1):
        if target in babies:
            # Bit b of byte i stands 8 * (nbytes - i) - b bits before the end.
            exponent = giant * BABY_STEPS + babies[target]
            return 8 * nbytes - exponent if 0 < exponent <= 8 * nbytes else None
        one, two, three, four = back
        target = (
            one[target & 255]
            ^ two[target >> 8 & 255]
            ^ three[target >> 16 & 255]
            ^ four[target >> 24]
        )
    return None


def _inverse_power() -> Matrix:
    """The matrix that takes x^k to x^(k - BABY_STEPS)."""
    matrix = [
        ((1 << bit ^ POLYNOMIAL) << 1 | 1) & 0xFFFFFFFF if bit == 31 else 1 << bit + 1
        for bit in range(32)
    ]
    for _ in range(BABY_STEPS.bit_length() - 1):
        matrix = [_apply(matrix, column) for column in matrix]
    return matrix


def _apply(matrix: Matrix, vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
    return result


def _tables(matrix: Matrix) -> tuple[list[int], ...]:
    """The same for a byte at a time."""
    return tuple(
        [_apply(matrix, value << shift) for value in range(256)] for shift in (0, 8, 16, 24)
    )
