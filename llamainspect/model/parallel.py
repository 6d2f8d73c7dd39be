"""One model in several processes, which torchrun has started: what they tell each other.

Everything goes through torch.distributed: DTensor sums products, joins logits and settles what one
process must decide for all, and torchrun's store tells who failed first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from llamainspect.errors import LostProcess
from llamainspect.processes import Share

# In torchrun's store, which outlives a restart: how many processes have given up, and that one has
# said why.
FAILED, SAID = (
    f"llamainspect/{what}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    for what in ("failed", "said")
)
GIVEN_UP = 3  # exit code
SHORTLY = timedelta(seconds=5)  # the store is on the machine that torchrun was started on


class Ranks:
    """The processes that run a model together; every one calls the same methods in turn.

    They raise LostProcess when another one is gone.
    """

    def __init__(self, share: Share, device: torch.device) -> None:
        self.share = share
        self._device = device
        with self._losing():
            self._mesh = init_device_mesh(device.type, (share.ranks,))

    def summed(self, product: Tensor) -> Tensor:
        """The sum of what all have computed, everywhere."""
        return self._whole(product, Partial(), product.shape)

    def joined(self, logits: Tensor, length: int) -> Tensor:
        """Pieces of the last axis, `Share.piece` of `length`, one behind the other, everywhere."""
        return self._whole(logits, Shard(logits.dim() - 1), (*logits.shape[:-1], length))

    def agreed(self, number: int) -> int:
        """The number of the first process."""
        return self.of_each(number)[0][0]

    def of_each(self, *numbers: int) -> list[tuple[int, ...]]:
        """The numbers of all, by rank."""
        mine = torch.tensor([numbers], dtype=torch.int64, device=self._device)
        rows = self._whole(mine, Shard(0), (self.share.ranks, len(numbers)))
        return [tuple(row) for row in rows.tolist()]

    def _whole(self, local: Tensor, placement: Placement, shape: tuple[int, ...]) -> Tensor:
        like = torch.empty(shape, device="meta")
        with self._losing():
            spread = DTensor.from_local(
                local.contiguous(), self._mesh, [placement],
                run_check=False, shape=like.shape, stride=like.stride(),
            )  # fmt: skip
            whole: Tensor = spread.redistribute(placements=[Replicate()]).to_local()
        return whole

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """What torch.distributed raises when a connection is closed, in words of its backends."""
        try:
            yield
        except RuntimeError as error:
            if type(error).__name__ == "OutOfMemoryError" or "allocate" in str(error):
                raise
            reason = str(error).strip().partition("\n")[0][:200]
            raise LostProcess(
                f"process {self.share.rank} of {self.share.ranks} has lost another, which was "
                f"killed, or ran out of memory ({reason}); start them again"
            ) from error


def end_with_others() -> None:
    """When a process has given up and said why, this one ends at once, wherever it waits: torchrun
    sees to that on its own machine, and not on others."""
    Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    with suppress(RuntimeError, ValueError, KeyError):  # torchrun has gone, and its store with it
        _store().wait([SAID], timedelta(days=365))
        os._exit(GIVEN_UP)


def first_to_fail() -> bool:
    """Whether nobody else has given up: then it is for this process to say why."""
    try:
        return bool(_store().add(FAILED, 1) == 1)
    except (RuntimeError, ValueError, KeyError):  # there is no store any more: torchrun has gone
        return True


def has_said() -> None:
    """Why it gave up: the others may end."""
    with suppress(RuntimeError, ValueError, KeyError):
        _store().set(SAID, "")


def wait_until_said() -> None:
    """Let the one that gave up first say why."""
    with suppress(RuntimeError, ValueError, KeyError):
        _store().wait([SAID], SHORTLY)


def _store() -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]  # documented there, and not exported
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=SHORTLY
    )


def part() -> None:
    """At the end, when all have their answer: nobody leaves before the others have heard it."""
    with suppress(RuntimeError):  # the others may have left all the same
        dist.barrier()
        dist.destroy_process_group()
