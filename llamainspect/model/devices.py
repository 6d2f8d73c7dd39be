"""The GPUs of this machine, as torch sees them."""

from llamainspect.errors import MissingDependency, MissingFile
from llamainspect.gpus import Gpu, Gpus, letters_of, match_driver_name

try:
    import torch
except ImportError as error:
    raise MissingDependency(
        "--gpu auto: looking at this machine's GPUs needs torch; "
        "pip install 'llamainspect[torch]', or name the GPU"
    ) from error

SAME_MEMORY = 0.06  # torch sees up to this share less than nvidia-smi prints


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
