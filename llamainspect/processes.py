"""What torchrun says of a process: which of how many it is."""

import os
from typing import NamedTuple

LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it, and nobody else


class Share(NamedTuple):
    """One of `ranks` processes that run a model together."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0  # among those on the same machine
    local_ranks: int = 1

    def piece(self, length: int) -> tuple[int, int]:
        """From where to where of so many; the last pieces may be shorter, or empty."""
        step = -(-length // self.ranks)
        return min(self.rank * step, length), min((self.rank + 1) * step, length)


ALONE = Share()


def share_here() -> Share:
    """What torchrun has started this process as; otherwise it is alone."""
    if LAUNCHED not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Share(*(int(os.environ[name]) for name in names))
