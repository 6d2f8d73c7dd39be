"""Element types and their decoding against torch, every code of the small floats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamainspect.arrays import (
    as_float32,
    decode,
    decode_small_float,
    read_elements,
    shortest_text,
)
from llamainspect.checkpoint import open_checkpoint
from llamainspect.dtypes import BY_TORCH_NAME, BY_TORCH_STORAGE, DTYPES, DType, SmallFloat
from llamainspect.tensors import Storage, TensorInfo

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
SMALL_FLOATS = ("BF16", *FLOATS_OF_8_BITS)


def layout(name: str) -> SmallFloat:
    found = DTYPES[name].small_float
    assert found is not None
    return found


def torch_dtype(dtype: DType) -> torch.dtype:
    return getattr(torch, str(dtype.torch))


def all_codes(name: str) -> Array:
    """Every bit pattern of the type: 256, or 65,536 for BF16."""
    return np.arange(2 ** (8 * DTYPES[name].block_bytes)).astype(DTYPES[name].numpy)


def as_torch_decodes(name: str) -> Array:
    codes = torch.from_numpy(all_codes(name))
    return codes.view(torch_dtype(DTYPES[name])).to(torch.float32).numpy()


def finite_values(name: str) -> Array:
    """All values, as torch decodes them, ascending and each once."""
    values = as_torch_decodes(name)
    return np.unique(values[np.isfinite(values)].astype(np.float64))


# --- the table of types -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_TORCH_NAME)
def test_elements_are_as_wide_as_torch_says(name: str) -> None:
    dtype, reference = BY_TORCH_NAME[name], getattr(torch, name)
    assert isinstance(reference, torch.dtype)
    assert dtype.block_bytes == reference.itemsize


def test_every_dtype_of_torch_has_a_row() -> None:
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert dtypes == {getattr(torch, name) for name in BY_TORCH_NAME}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", BY_TORCH_STORAGE)
def test_storage_classes_hold_the_dtype_that_torch_says(name: str) -> None:
    assert getattr(torch, name).dtype is torch_dtype(BY_TORCH_STORAGE[name])


def test_every_typed_storage_class_of_torch_has_a_row() -> None:
    untyped = {"Storage", "TypedStorage", "UntypedStorage"}
    assert set(BY_TORCH_STORAGE) == {n for n in dir(torch) if n.endswith("Storage")} - untyped


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.numpy])
def test_numpy_types_are_as_wide_as_the_elements_and_little_endian(name: str) -> None:
    dtype = DTYPES[name]
    assert np.dtype(dtype.numpy).itemsize == dtype.block_bytes
    assert dtype.numpy is not None
    assert dtype.numpy[0] in "<|"


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("BF16", (0, 3), 0),
        ("BF16", (3,), 6),
        ("C128", (), 16),
        ("F4_E2M1_X2", (3, 1), 3),
        ("F64", (10**6, 10**6), 8 * 10**12),
        ("QU4X2", (3, 5), 9),  # torch begins each row at a byte of its own
        ("QU2X4", (3, 5), 6),
        ("QU4X2", (3, 0), 0),
        ("QU4X2", (), 1),
        ("F4", (4, 3), 6),  # safetensors: 12 * 4 bits, whatever the rows
        ("F6_E2M3", (2, 3, 2), 9),  # 12 * 6 bits
        ("F6_E3M2", (4, 0), 0),
    ],
)
def test_bytes_of_a_shape(name: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert DTYPES[name].nbytes(shape) == nbytes


# --- decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_every_code_of_a_small_float_has_the_value_that_torch_gives_it(name: str) -> None:
    ours, theirs = decode_small_float(all_codes(name), layout(name)), as_torch_decodes(name)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    numbers = ~np.isnan(theirs)
    # Bit by bit, so that -0.0 and 0.0 differ.
    np.testing.assert_array_equal(ours[numbers].view(np.uint32), theirs[numbers].view(np.uint32))


def test_decoding_keeps_the_shape() -> None:
    codes = all_codes("F8_E4M3").reshape(4, 8, 8)
    values = decode_small_float(codes, layout("F8_E4M3"))
    assert values.shape == (4, 8, 8)
    assert values[0, 7, 0] == 1.0  # 0x38: exponent 7 less the bias 7, mantissa 0


def stored(dtype: DType, elements: int = 1, **flags: bool) -> TensorInfo:
    """A tensor that is all of its storage."""
    storage = Storage("w.pth", "data/0", dtype.nbytes((elements,)), 0)
    return TensorInfo("w", dtype, (elements,), storage, **flags)


# Types that numpy can hold, or hold exactly in float32.
DECODED = [
    name
    for name in BY_TORCH_NAME
    if name in ("bool", "complex64", "complex128")
    or name.startswith(("float8", "bfloat", "float16", "float32", "float64"))
    or name in (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
]


@pytest.mark.parametrize("name", DECODED)
def test_elements_decode_to_the_numbers_that_torch_reads(name: str) -> None:
    dtype = BY_TORCH_NAME[name]
    raw = (np.arange(64 * dtype.block_bytes) * 37 % 251).astype(np.uint8)
    if name == "bool":
        raw %= 2
    tensor = torch.from_numpy(raw.copy()).view(getattr(torch, name))
    data, width = raw.tobytes(), dtype.block_bytes
    elements = [data[start : start + width] for start in range(0, len(data), width)]
    decoded = decode(elements, stored(dtype, 64))
    if dtype.small_float:
        tensor = tensor.to(torch.float32)
    np.testing.assert_array_equal(decoded, tensor.numpy())


@pytest.mark.parametrize("name", ["C32", "QU4X2", "QU2X4"])
def test_types_without_a_numpy_form_are_not_decoded(name: str) -> None:
    dtype = DTYPES[name]
    assert decode([bytes(dtype.block_bytes)], stored(dtype)) is None


def test_no_elements_decode_to_an_empty_array() -> None:
    decoded = decode([], stored(DTYPES["BF16"], 0))
    assert decoded is not None
    assert decoded.shape == (0,)


def _views() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    numbers = torch.complex(torch.arange(4.0), torch.arange(4.0) - 1)
    return {
        "whole": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "overlapping": base.as_strided((5, 5), (2, 1), 1),
        "one row three times": base[0].expand(3, 6),
        "one element twenty times": torch.full((1,), 7.0).expand(5, 4),
        "one element of many": base[2, 3].expand(2, 2),
        "scalar": torch.tensor(1.5),
        "empty": base[:0],
        "conjugate": numbers.conj(),
        "negative": numbers.clone().conj().imag,
        "bfloat16": torch.arange(6.0).to(torch.bfloat16).reshape(2, 3).t(),
        "float8": torch.arange(6.0).to(torch.float8_e5m2).reshape(2, 3).t(),
    }


@pytest.mark.parametrize("name", _views())
def test_values_of_a_saved_view_are_those_that_torch_loads(name: str, tmp_path: Path) -> None:
    torch.save({"w": _views()[name]}, tmp_path / "consolidated.00.pth")
    expected = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)["w"]
    if expected.dtype in (torch.bfloat16, torch.float8_e5m2):
        expected = expected.to(torch.float32)
    checkpoint = open_checkpoint(str(tmp_path))
    weight = checkpoint.weights["w"]
    window = tuple(range(length) for length in weight.shape)
    elements, _ = read_elements(checkpoint, weight, window)
    decoded = decode(elements, weight.parts[0])
    assert decoded is not None
    np.testing.assert_array_equal(
        decoded.reshape(weight.shape), expected.resolve_conj().resolve_neg().numpy()
    )


def test_rounding_to_float32_is_torchs() -> None:
    values = np.array([0.1, 1e300, -1e300, 1 + 2**-30, np.nan, np.inf, 5e-324])
    rounded = as_float32(values)
    np.testing.assert_array_equal(rounded, torch.from_numpy(values).to(torch.float32).numpy())


def test_complex_numbers_have_no_float32_form() -> None:
    assert as_float32(np.array([1j])) is None


# --- text ---------------------------------------------------------------------------------------


def nearest(values: Array, texts: list[str]) -> Array:
    """Of all `values`, the one nearest to each text; NaN where two are as near."""
    numbers = np.array([float(text) for text in texts])
    above = np.clip(np.searchsorted(values, numbers), 1, len(values) - 1)
    down, up = numbers - values[above - 1], values[above] - numbers
    found = np.where(down < up, values[above - 1], values[above])
    return np.where(down == up, np.nan, found)


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_the_text_of_every_small_float_means_that_value_and_no_other(name: str) -> None:
    values = finite_values(name)
    texts = [shortest_text(value, layout(name)) for value in values.tolist()]
    np.testing.assert_array_equal(nearest(values, texts), values)


@pytest.mark.parametrize("name", [name for name in SMALL_FLOATS if name != "F8_E8M0"])
def test_torch_rounds_the_text_of_every_small_float_back_to_it(name: str) -> None:
    values = finite_values(name)  # not E8M0: torch rounds 6e-39, which is 2^-127, up to 2^-126
    texts = [shortest_text(value, layout(name)) for value in values.tolist()]
    numbers = torch.tensor([float(text) for text in texts], dtype=torch.float64)
    back = numbers.to(torch_dtype(DTYPES[name])).to(torch.float64)
    np.testing.assert_array_equal(back.numpy(), values)


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (0.0, "BF16", "0.0"),
        (-0.0, "BF16", "-0.0"),
        (float("inf"), "BF16", "inf"),
        (float("-inf"), "BF16", "-inf"),
        (float("nan"), "BF16", "nan"),
        (1.0, "BF16", "1"),
        (0.10009765625, "BF16", "0.1"),  # the neighbours are 0.0005 away
        (-3.140625, "BF16", "-3.14"),  # the neighbours are 0.016 away, and 3.1 is 0.04 away
        (448.0, "F8_E4M3", "4.5e+02"),  # 400 lies between 384 and 416
        (0.09375, "F8_E4M3", "0.09"),  # the neighbours are 0.0859 and 0.1016
        (2.0**-127, "F8_E8M0", "6e-39"),  # 5.88e-39; the next is 1.18e-38
    ],
)
def test_the_fewest_digits_are_written(value: float, name: str, text: str) -> None:
    assert shortest_text(value, layout(name)) == text
