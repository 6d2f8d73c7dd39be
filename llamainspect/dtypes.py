"""The one table of element types: how wide they are and what each tool calls them.

Names are those of safetensors where it has one, otherwise torch's in the same style.
Sources: safetensors `tensor.rs` (Dtype), torch `c10/core/ScalarType.h`, and for the small floats
the OCP 8-bit and microscaling specifications (exponent and mantissa bits, bias, special values).
"""

from typing import NamedTuple


class SmallFloat(NamedTuple):
    """Bit layout of a float that numpy has no type for: sign, then exponent, then mantissa."""

    exponent_bits: int
    mantissa_bits: int
    bias: int
    has_inf: bool = False  # an all-ones exponent means Inf/NaN, as in IEEE 754
    nan_codes: tuple[int, ...] = ()  # otherwise: the codes that are NaN
    signed: bool = True


class DType(NamedTuple):
    """One element type. `block_bytes` bytes store `block_elements` neighbours."""

    name: str
    block_bytes: int
    block_elements: int = 1
    torch: str | None = None  # attribute of torch, as in torch.bfloat16
    storage: str | None = None  # torch's legacy storage class, as torch.save writes it
    numpy: str | None = None  # little-endian numpy type of the stored bits, None: no numeric view
    small_float: SmallFloat | None = None  # set when those bits need decoding
    own_rows: bool = False  # of packed types: every row begins at a byte of its own

    @property
    def quantised(self) -> bool:
        """Whether its numbers mean nothing without a scale and a zero point: torch's own types."""
        return self.name.startswith("Q")

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a contiguous tensor."""
        elements = 1
        for length in shape:
            elements *= length
        if self.block_elements == 1:
            return elements * self.block_bytes
        if self.own_rows and elements and shape:
            blocks = elements // shape[-1] * -(-shape[-1] // self.block_elements)
        else:
            blocks = -(-elements // self.block_elements)
        return blocks * self.block_bytes


BF16 = SmallFloat(8, 7, 127, has_inf=True)

_ROWS = (
    # name, bytes, torch dtype, torch storage class, numpy, layout
    ("F64", 8, "float64", "DoubleStorage", "<f8", None),
    ("F32", 4, "float32", "FloatStorage", "<f4", None),
    ("F16", 2, "float16", "HalfStorage", "<f2", None),
    ("BF16", 2, "bfloat16", "BFloat16Storage", "<u2", BF16),
    ("I64", 8, "int64", "LongStorage", "<i8", None),
    ("I32", 4, "int32", "IntStorage", "<i4", None),
    ("I16", 2, "int16", "ShortStorage", "<i2", None),
    ("I8", 1, "int8", "CharStorage", "|i1", None),
    ("U64", 8, "uint64", None, "<u8", None),
    ("U32", 4, "uint32", None, "<u4", None),
    ("U16", 2, "uint16", None, "<u2", None),
    ("U8", 1, "uint8", "ByteStorage", "|u1", None),
    ("BOOL", 1, "bool", "BoolStorage", "|b1", None),
    ("C32", 4, "complex32", None, None, None),
    ("C64", 8, "complex64", "ComplexFloatStorage", "<c8", None),
    ("C128", 16, "complex128", "ComplexDoubleStorage", "<c16", None),
    ("F8_E4M3", 1, "float8_e4m3fn", None, "|u1", SmallFloat(4, 3, 7, nan_codes=(0x7F, 0xFF))),
    ("F8_E5M2", 1, "float8_e5m2", None, "|u1", SmallFloat(5, 2, 15, has_inf=True)),
    ("F8_E4M3FNUZ", 1, "float8_e4m3fnuz", None, "|u1", SmallFloat(4, 3, 8, nan_codes=(0x80,))),
    ("F8_E5M2FNUZ", 1, "float8_e5m2fnuz", None, "|u1", SmallFloat(5, 2, 16, nan_codes=(0x80,))),
    (
        "F8_E8M0",
        1,
        "float8_e8m0fnu",
        None,
        "|u1",
        SmallFloat(8, 0, 127, nan_codes=(0xFF,), signed=False),
    ),
    # torch counts a byte that holds two 4-bit floats as one element, and so do its shapes.
    ("F4_E2M1_X2", 1, "float4_e2m1fn_x2", None, "|u1", None),
    ("QI32", 4, "qint32", "QInt32Storage", "<i4", None),
    ("QI8", 1, "qint8", "QInt8Storage", "|i1", None),
    ("QU8", 1, "quint8", "QUInt8Storage", "|u1", None),
    ("BITS8", 1, "bits8", None, "|u1", None),
    ("BITS16", 2, "bits16", None, "<u2", None),
    ("BITS1X8", 1, "bits1x8", None, "|u1", None),
    ("BITS2X4", 1, "bits2x4", None, "|u1", None),
    ("BITS4X2", 1, "bits4x2", None, "|u1", None),
    *((f"I{n}", 1, f"int{n}", None, "|i1", None) for n in range(1, 8)),
    *((f"U{n}", 1, f"uint{n}", None, "|u1", None) for n in range(1, 8)),
)

_PACKED = (
    DType("QU4X2", 1, 2, torch="quint4x2", storage="QUInt4x2Storage", own_rows=True),
    DType("QU2X4", 1, 4, torch="quint2x4", storage="QUInt2x4Storage", own_rows=True),
    # As safetensors packs them, rows without a gap; torch has no type that counts their elements in
    # this way.
    DType("F4", 1, 2),
    DType("F6_E2M3", 3, 4),
    DType("F6_E3M2", 3, 4),
)

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        *(
            DType(name, size, 1, torch, storage, numpy, layout)
            for name, size, torch, storage, numpy, layout in _ROWS
        ),
        *_PACKED,
    )
}
BY_TORCH_NAME: dict[str, DType] = {d.torch: d for d in DTYPES.values() if d.torch}
BY_TORCH_STORAGE: dict[str, DType] = {d.storage: d for d in DTYPES.values() if d.storage}
