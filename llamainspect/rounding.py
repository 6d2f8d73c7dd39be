"""Weight-only quantisation, there and back, in numpy: what each weight would come back as.

The same arithmetic as `model.quantize`, which runs in torch where a model runs; a test holds the
two together.
"""

import numpy as np
import numpy.typing as npt

from llamainspect.footprint import WeightForm

Float32 = npt.NDArray[np.float32]


def round_trip(weight: Float32, form: WeightForm) -> Float32:
    """Rows of float32 (rows, columns), each group of a row as its integers would give it back.

    int8: symmetric, -127 to 127, scale = largest magnitude / 127. int4: 0 to 15 with a zero point,
    scale = (largest - smallest) / 15 of a range that holds 0. Scales are rounded to the type that
    `memory` counts for them; a group whose scale that type cannot hold comes back as NaN.
    """
    rows, columns = weight.shape
    group = min(form.group or columns, columns)
    padding = -columns % group
    padded = np.pad(weight, ((0, 0), (0, padding))) if padding else weight
    groups = padded.reshape(rows, -1, group)  # (rows, groups, group)
    kind = np.float16 if form.scale_nbytes == 2 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):  # a scale beyond `kind` gives back no number
        if form.zero_bits:
            back = _with_zero_point(groups, 2**form.bits - 1, kind)
        else:
            back = _symmetric(groups, 2 ** (form.bits - 1) - 1, kind)
    return back.reshape(rows, -1)[:, :columns]


def _with_zero_point(groups: Float32, steps: int, kind: type[np.floating]) -> Float32:
    low = np.minimum(groups.min(axis=-1, keepdims=True), 0)
    high = np.maximum(groups.max(axis=-1, keepdims=True), 0)
    scale = _usable((high - low) / np.float32(steps), kind)
    zero = np.clip(np.rint(-low / scale), 0, steps)
    codes = np.divide(groups, scale)
    np.rint(codes, out=codes)
    codes += zero
    np.clip(codes, 0, steps, out=codes)
    codes -= zero
    codes *= scale
    return codes


def _symmetric(groups: Float32, most: int, kind: type[np.floating]) -> Float32:
    largest = np.maximum(groups.max(axis=-1, keepdims=True), -groups.min(axis=-1, keepdims=True))
    scale = _usable(largest / np.float32(most), kind)
    codes = np.divide(groups, scale)
    np.rint(codes, out=codes)
    np.clip(codes, -most, most, out=codes)
    codes *= scale
    return codes


def _usable(scale: Float32, kind: type[np.floating]) -> Float32:
    """As it is stored; that of a group of zeros may be anything but 0."""
    stored = scale.astype(kind).astype(np.float32)
    return np.where(stored > 0, stored, np.float32(np.finfo(kind).tiny))
