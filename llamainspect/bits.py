"""One number as the bits that store it: sign, exponent, mantissa.

Sources: IEEE 754 for FP32 and FP16, bfloat16 as the upper half of FP32, and the OCP 8-bit formats.
"""

import math
from typing import NamedTuple

from llamainspect.dtypes import BF16, DTYPES, SmallFloat

FLOATS: dict[str, SmallFloat] = {
    "FP32": SmallFloat(8, 23, 127, has_inf=True),
    "FP16": SmallFloat(5, 10, 15, has_inf=True),
    "BF16": BF16,
    **{
        f"FP8 {name.removeprefix('F8_')}": layout
        for name in ("F8_E4M3", "F8_E5M2")
        if (layout := DTYPES[name].small_float)
    },
}
# Of the dtypes in files, those that hold one float.
STORED = {"F32": "FP32", "F16": "FP16", "BF16": "BF16",
          "F8_E4M3": "FP8 E4M3", "F8_E5M2": "FP8 E5M2"}  # fmt: skip


class Bits(NamedTuple):
    """A stored number, and what its bits say."""

    code: int
    sign: str
    exponent: str
    mantissa: str
    value: float


def encode(value: float, layout: SmallFloat) -> int:
    """The code nearest to a finite `value`, ties to even; beyond the largest, infinity.

    Without infinity it is the largest, as torch saturates.
    """
    sign = int(math.copysign(1, value) < 0) << (layout.exponent_bits + layout.mantissa_bits)
    if value == 0:
        return sign
    exponent = max(math.frexp(value)[1] - 1, 1 - layout.bias)
    steps = round(math.ldexp(abs(value), layout.mantissa_bits - exponent))
    code = ((exponent + layout.bias) << layout.mantissa_bits) + steps - (1 << layout.mantissa_bits)
    return sign | min(code, _beyond(layout))


def decode(code: int, layout: SmallFloat) -> float:
    """What a code stands for."""
    exponent = code >> layout.mantissa_bits & ((1 << layout.exponent_bits) - 1)
    mantissa = code & ((1 << layout.mantissa_bits) - 1)
    sign = -1.0 if code >> (layout.exponent_bits + layout.mantissa_bits) else 1.0
    if code in layout.nan_codes:
        return math.nan
    if layout.has_inf and exponent == (1 << layout.exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - layout.bias - layout.mantissa_bits)
    whole = mantissa + (1 << layout.mantissa_bits)
    return sign * math.ldexp(whole, exponent - layout.bias - layout.mantissa_bits)


def split(value: float, layout: SmallFloat) -> Bits:
    """A number rounded to the layout, in bits."""
    code = encode(value, layout)
    width = 1 + layout.exponent_bits + layout.mantissa_bits
    text = f"{code:0{width}b}"
    end = 1 + layout.exponent_bits
    return Bits(code, text[0], text[1:end], text[end:], decode(code, layout))


def _beyond(layout: SmallFloat) -> int:
    """The code of infinity, or of the largest number where there is none."""
    if layout.has_inf:
        return ((1 << layout.exponent_bits) - 1) << layout.mantissa_bits
    return min(layout.nan_codes) - 1
