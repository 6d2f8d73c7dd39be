"""Weight-only quantisation, simulated: each weight takes the value that it would come back as."""

from typing import NamedTuple

import torch
from torch import Tensor

from llamainspect.footprint import WeightForm, weight_form

ROWS = 256  # of a matrix that are rounded at a time


class Simulation(NamedTuple):
    """How the linear layers of the blocks are quantised; embedding, output and norms are not."""

    form: WeightForm

    @property
    def text(self) -> str:
        """For a report: "int4, groups of 128"."""
        return self.form.text


def make_simulation(name: str | None, group_size: int | None) -> Simulation | None:
    """What --simulate and --group-size ask for."""
    return None if name is None else Simulation(weight_form(name, group_size))


def simulate(weight: Tensor, simulation: Simulation) -> None:
    """Round a matrix (rows, columns) in place, some rows at a time: groups never cross a row."""
    for rows in weight.split(ROWS):
        rows.copy_(rounded(rows.float(), simulation))


def rounded(weight: Tensor, simulation: Simulation) -> Tensor:
    """Rows of float32, each group of a row as its integers would give it back.

    int8: symmetric, -127 to 127, scale = largest magnitude / 127. int4: 0 to 15 with a zero point,
    scale = (largest - smallest) / 15 of a range that holds 0. Scales are rounded to the type that
    `memory` counts for them.
    """
    form = simulation.form
    columns = weight.shape[1]
    size = min(form.group or columns, columns)
    padding = -columns % size
    groups = torch.nn.functional.pad(weight, (0, padding)).unflatten(1, (-1, size))
    kind = torch.float16 if form.scale_nbytes == 2 else torch.float32
    if form.zero_bits:
        steps = 2**form.bits - 1
        low = groups.amin(-1, keepdim=True).clamp(max=0)
        high = groups.amax(-1, keepdim=True).clamp(min=0)
        scale = _usable((high - low) / steps, kind)
        zero = (-low / scale).round().clamp(0, steps)
        codes = ((groups / scale).round() + zero).clamp(0, steps)
        values = (codes - zero) * scale
    else:
        most = 2 ** (form.bits - 1) - 1
        scale = _usable(groups.abs().amax(-1, keepdim=True) / most, kind)
        values = (groups / scale).round().clamp(-most, most) * scale
    back: Tensor = values.flatten(1)[:, :columns].contiguous()
    return back


def _usable(scale: Tensor, kind: torch.dtype) -> Tensor:
    """As it is stored; that of a group of zeros may be anything but 0."""
    stored = scale.to(kind).float()
    return torch.where(stored > 0, stored, torch.finfo(kind).tiny)
