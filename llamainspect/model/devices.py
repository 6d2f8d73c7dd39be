"""What a model can run on here: devices, their memory, and how much of it has been used."""

import os
import sys
from contextlib import suppress

import torch

from llamainspect.errors import MissingFile
from llamainspect.gpus import Gpu, Gpus, letters_of, match_driver_name
from llamainspect.processes import ALONE, Share

SAME_MEMORY = 0.06  # torch sees up to this share less than nvidia-smi prints
# Limit and use of a container: cgroups version 2, then 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def find_gpus() -> Gpus:
    """The GPUs here, as many as there are of the smallest. Raises MissingFile without any."""
    if not torch.cuda.is_available():
        raise MissingFile("--gpu auto: torch sees no GPU on this machine; name one, as in h100")
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    smallest = min(found, key=lambda device: int(device.total_memory))
    return Gpus(recognise(smallest.name, smallest.total_memory), len(found))


def recognise(name: str, nbytes: int) -> Gpu:
    """A GPU by the driver's name for it and its memory; arithmetic and bandwidth where known."""
    known = match_driver_name(letters_of(name))
    if known and not 0 <= 1 - nbytes / known.nbytes < SAME_MEMORY:
        known = None  # a part of one, or another edition
    return Gpu(
        name=known.name if known else name,
        nbytes=nbytes,
        flops=known.flops if known else None,
        bandwidth=known.bandwidth if known else None,
        source="torch on this machine",
    )


def choose_device(name: str, share: Share = ALONE) -> torch.device:
    """By name; "auto" is a GPU where there is one. Of several processes on a machine each has one.

    Raises MissingFile.
    """
    device = _choose_kind(name)
    if device.type == "mps" and share.ranks > 1:
        device = torch.device("cpu")  # with which torch.distributed does not speak
    if device.type != "cuda" or share.ranks == 1:
        return device
    there = torch.cuda.device_count()
    if there < share.local_ranks:
        raise MissingFile(
            f"--device {name}: {share.local_ranks} processes need a GPU each, and torch sees "
            f"{there} on this machine; start fewer, or give --device cpu"
        )
    torch.cuda.set_device(share.local_rank)
    return torch.device("cuda", share.local_rank)


def _choose_kind(name: str) -> torch.device:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if not there[name]:
        others = " and ".join(kind for kind in there if there[kind])
        built = "" if name != "cuda" or torch.version.cuda else " (built without CUDA)"
        raise MissingFile(
            f"--device {name}: torch {torch.__version__}{built} sees no such device on this "
            f"machine; it sees {others}"
        )
    return torch.device(name)


def name_of(device: torch.device) -> str | None:
    """As the driver calls a GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def available_nbytes(device: torch.device) -> int:
    """Bytes that can be allocated now; in a container no more than it is allowed."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    available = int(psutil.virtual_memory().available)
    left = [_cgroup_left(*files) for files in CGROUPS]
    return min([available, *(nbytes for nbytes in left if nbytes is not None)])


def peak_nbytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU in tensors, elsewhere in memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _cgroup_left(limit: str, usage: str, stat: str) -> int | None:
    """What a control group leaves, with the page cache that it would give back."""
    with suppress(OSError, ValueError):
        left = int(_read(limit)) - int(_read(usage))
        cached = [line.split()[1] for line in _read(stat).splitlines() if "inactive_file" in line]
        return max(left + int(cached[0] if cached else 0), 0)
    return None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(2**16)


def forbid_shortcuts() -> None:
    """No TF32 and no 16-bit sums: products of float32 are those of float32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same result every time
