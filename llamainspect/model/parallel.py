"""One model in several processes, which torchrun has started: what they tell each other.

Everything goes through torch.distributed: DTensor sums products and joins logits, a broadcast
settles what one process must decide for all, and torchrun's store tells who failed first.
"""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from llamainspect.processes import Share

FAILED = "llamainspect/failed"  # in the store: how many processes have given up
SHORTLY = timedelta(seconds=5)  # the store is on the machine that torchrun was started on


class Ranks:
    """The processes that run a model together; every one calls the same methods in turn."""

    def __init__(self, share: Share, device: torch.device) -> None:
        self.share = share
        self._mesh = init_device_mesh(device.type, (share.ranks,))
        self._device = device

    def summed(self, product: Tensor) -> Tensor:
        """The sum of what all have computed, everywhere."""
        return self._whole(product, Partial(), product.shape)

    def joined(self, logits: Tensor, length: int) -> Tensor:
        """Pieces of the last axis, `Share.piece` of `length`, one behind the other, everywhere."""
        return self._whole(logits, Shard(logits.dim() - 1), (*logits.shape[:-1], length))

    def _whole(self, local: Tensor, placement: Placement, shape: tuple[int, ...]) -> Tensor:
        like = torch.empty(shape, device="meta")
        spread = DTensor.from_local(
            local.contiguous(), self._mesh, [placement],
            run_check=False, shape=like.shape, stride=like.stride(),
        )  # fmt: skip
        whole: Tensor = spread.redistribute(placements=[Replicate()]).to_local()
        return whole

    def agreed(self, number: int) -> int:
        """The number of the first process."""
        tensor = torch.tensor([number], dtype=torch.int64, device=self._device)
        dist.broadcast(tensor, src=0)
        return int(tensor)

    def of_each(self, *numbers: int) -> list[tuple[int, ...]]:
        """The numbers of all, by rank."""
        mine = torch.tensor([numbers], dtype=torch.int64, device=self._device)
        spread = DTensor.from_local(mine, self._mesh, [Shard(0)], run_check=False)
        return [tuple(row) for row in spread.full_tensor().tolist()]


def first_to_fail() -> bool:
    """Whether nobody else has given up: then it is for this process to say why."""
    try:
        return bool(_store().add(FAILED, 1) == 1)
    except (RuntimeError, ValueError, KeyError):  # there is no store any more: torchrun has gone
        return True


def someone_failed() -> bool:
    """Whether a process has given up: what others then meet is no fault of theirs."""
    try:
        return bool(_store().add(FAILED, 0) > 0)
    except (RuntimeError, ValueError, KeyError):
        return True


def _store() -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]  # documented there, and not exported
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=SHORTLY
    )


def part() -> None:
    """At the end, when all have their answer: nobody leaves before the others have heard it."""
    with suppress(RuntimeError):  # the others may have left all the same
        dist.barrier()
        dist.destroy_process_group()
