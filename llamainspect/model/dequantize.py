"""Quantised values as the floats that they stand for, as Meta's files keep them.

Sources: llama-models `llama3/quantization/loader.py` (int4 in groups, int8 by row, adaptors, FP8 by
row), `quantize_impls.py` (scales of FP8 multiply), torchao's `Int8DynActInt4WeightLinear` (zeros),
and llama-stack's `hadamard_utils.py` (SpinQuant turns what goes into w2).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llamainspect.errors import CorruptFile
from llamainspect.weights import Weight

ROWS = 1024  # of a matrix that are in float32 at a time

Read = Callable[[Weight], Sequence[Tensor]]  # the stored parts of a weight, one per rank
Part = tuple[Tensor, Tensor, Tensor | None]  # values, scales and zeros of one rank


def restore(whole: Tensor, weight: Weight, read: Read) -> None:
    """Write the matrix that `weight` means to `whole`, in its type; some rows at a time."""
    beside = weight.beside
    assert beside is not None
    values, scales = read(weight), read(beside.scales)
    if beside.int4:
        _check_int4(weight, values)
    zeros = [None] * len(values) if beside.zeros is None else read(beside.zeros)
    adaptor = None if beside.adaptor is None else _adaptor(beside.adaptor, read)
    if whole.dim() == 3:  # experts (experts, in, out), which have a scale for each output
        numbers = [part.float() * scale.float()[:, None]
                   for part, scale in zip(values, scales, strict=True)]  # fmt: skip
        whole.copy_(torch.cat(numbers, weight.axis or 0))
        return
    parts = list(zip(values, scales, zeros, strict=True))
    first = 0
    for stack in [[part] for part in parts] if weight.axis == 0 else [parts]:  # of the same rows
        for start in range(0, len(stack[0][0]), ROWS):
            pieces = [_rows(part, slice(start, start + ROWS)) for part in stack]
            made = torch.cat([_numbers(*piece) for piece in pieces], dim=1)
            rows = slice(first, first + len(made))
            if adaptor is not None and beside.adaptor_scale is not None:
                a, b = adaptor
                made += beside.adaptor_scale * (b[rows] @ a)
            whole[rows].copy_(hadamard(made) if beside.hadamard else made)
            first = rows.stop


def _check_int4(weight: Weight, values: Sequence[Tensor]) -> None:
    for part in values:
        if part.numel() and not (int(part.min()) >= -8 and int(part.max()) <= 7):
            raise CorruptFile(
                f"{weight.name}: it holds {int(part.min())} to {int(part.max())}, and int4 is "
                "-8 to 7: it is damaged, or packed in another way than Meta's code reads"
            )


def restoring_nbytes(weight: Weight) -> int:
    """The most memory that `restore` takes beside what it reads and writes."""
    if weight.beside is None:
        return 0
    adaptor = sum(each.elements for each in weight.beside.adaptor or ())
    return 4 * (4 * min(ROWS, weight.shape[0]) * weight.shape[-1] + adaptor)


def restored(weight: Weight, read: Read) -> Tensor:
    """In float32."""
    whole = torch.empty(weight.shape, dtype=torch.float32)
    restore(whole, weight, read)
    return whole


def _adaptor(adaptor: tuple[Weight, Weight], read: Read) -> tuple[Tensor, Tensor]:
    a, b = (torch.cat([part.float() for part in read(weight)], weight.axis or 0)
            for weight in adaptor)  # fmt: skip
    return a, b  # (rank, in), (out, rank)


def _rows(part: Part, rows: slice) -> Part:
    values, scales, zeros = part
    return values[rows], scales[rows], None if zeros is None else zeros[rows]


def _numbers(values: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
    """(rows, columns) in float32. Groups are neighbours in a row."""
    per_row = scales.reshape(len(scales), -1).float()  # (rows, groups)
    groups = values.float().unflatten(1, (per_row.shape[1], -1))  # (rows, groups, group)
    if zeros is not None:
        groups = groups - zeros.reshape(len(zeros), -1, 1).float()
    numbers: Tensor = (groups * per_row[:, :, None]).flatten(1)
    return numbers


def hadamard(rows: Tensor) -> Tensor:
    """Each row (n) times the orthonormal Hadamard matrix in Sylvester's order; n a power of 2.

    It is symmetric, so that W (H x) = (W H) x: rows of W may be turned instead of x. And it is the
    Kronecker product of smaller ones, which turn the columns and rows of a grid.
    """
    length = rows.shape[-1]
    across = 1 << length.bit_length() // 2
    grid = rows.unflatten(-1, (-1, across))  # (..., n / across, across)
    turned = _sylvester(length // across) @ grid @ _sylvester(across)
    whole: Tensor = turned.flatten(-2) * length**-0.5
    return whole


def _sylvester(size: int) -> Tensor:
    """Of 1 and -1, (size, size)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
