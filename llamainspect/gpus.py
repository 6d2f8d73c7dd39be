"""GPUs: the memory that a program can have, peak arithmetic and bandwidth.

Memory is the total that nvidia-smi prints, which is less than the name says: "80 GB" of an H100 are
neither 80e9 bytes nor 80 * 2^30. Arithmetic is dense BF16 on tensor cores with FP32 accumulation
(FP16 on V100 and T4, which have no BF16), never the doubled figure with sparsity. What the sources
of a row do not agree on stands in its comment.

Sources: outputs of nvidia-smi in public issue threads; NVIDIA's datasheets of each card, the Ampere
GA102 and RTX Blackwell architecture papers; AMD's MI300X datasheet (its memory: what HIP reports).
"""

import re
from typing import NamedTuple

from llamainspect.errors import InvalidRequest
from llamainspect.nearest import nearest

MIB = 2**20
OTHER_CARDS = ("ti", "d", "super", "laptop", "mobile", "maxq")  # behind a model: not that one
MEMORY = re.compile(r"\d+gb")  # behind the model, as drivers write it
# What CUDA, its libraries and the driver keep on each GPU: 0.3 to 1.3 GB are reported, more with
# CUDA before 11.7.
CUDA_CONTEXT_NBYTES = 2**30
MAX_GPUS = 1_000_000


class Gpu(NamedTuple):
    """One kind of GPU."""

    name: str
    nbytes: int  # of memory
    flops: float | None  # peak, per second
    bandwidth: float | None  # bytes per second
    source: str = "nvidia-smi; datasheet"
    bf16: bool = True


def _row(name: str, mib: int, teraflops: float, gigabytes: float, bf16: bool = True) -> Gpu:
    return Gpu(name, mib * MIB, teraflops * 1e12, gigabytes * 1e9, bf16=bf16)


_ROWS = (
    # name, MiB, dense BF16 TFLOP/s, GB/s
    _row("a100-40", 40_960, 312, 1_555),
    _row("a100-80", 81_920, 312, 2_039),  # SXM; PCIe 1,935 GB/s
    _row("h100", 81_559, 989.5, 3_350),  # SXM
    _row("h100-pcie", 81_559, 756.5, 2_000),
    _row("h100-nvl", 95_830, 835.5, 3_938),
    _row("gh200", 97_871, 990, 4_000),  # with 96 GB
    _row("h200", 143_771, 989.5, 4_800),
    _row("h20", 97_871, 148, 4_000),
    _row("b200", 183_359, 2_250, 8_000),
    _row("rtx-3090", 24_576, 71.2, 936),
    _row("rtx-4090", 24_564, 165.2, 1_008),
    _row("rtx-5090", 32_607, 209.5, 1_792),
    _row("rtx-a6000", 49_140, 154.8, 768),  # ECC off; 46,068 MiB with it
    _row("rtx-6000-ada", 49_140, 364, 960),  # ECC off
    _row("rtx-pro-6000", 97_887, 503.8, 1_792),  # workstation edition
    _row("l40s", 46_068, 362.05, 864),
    _row("a40", 46_068, 149.7, 696),  # ECC on; 49,140 MiB without
    _row("l4", 23_034, 121, 300),
    _row("a10", 23_028, 125, 600),
    _row("a10g", 23_028, 70, 600),
    _row("t4", 15_360, 65, 320, bf16=False),
    _row("v100-16", 16_384, 125, 900, bf16=False),
    _row("v100-32", 32_768, 125, 900, bf16=False),
    _row("mi300x", 196_592, 1_307.4, 5_325),
)
GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _ROWS}
# What one may also write, in letters and digits alone.
_ALIASES = {
    "a10040gb": "a100-40", "a10080gb": "a100-80", "h100sxm": "h100", "h10080gb": "h100",
    "h10080": "h100", "h100sxm5": "h100", "h200sxm": "h200", "3090": "rtx-3090", "4090": "rtx-4090",
    "5090": "rtx-5090", "a6000": "rtx-a6000", "6000ada": "rtx-6000-ada",
    "pro6000": "rtx-pro-6000", "v10016gb": "v100-16", "v10032gb": "v100-32", "gh20096": "gh200",
}  # fmt: skip


class Gpus(NamedTuple):
    """So many of one kind."""

    gpu: Gpu
    number: int = 1

    def shared_by(self, ranks: int | None) -> "Gpus":
        """As many as ranks were asked for, unless another number was."""
        if ranks is None or ranks == self.number:
            return self
        if self.number > 1:
            raise InvalidRequest(
                f"--gpu {self.gpu.name}:{self.number} and --gpus {ranks} say different numbers; "
                "say one of them"
            )
        return Gpus(self.gpu, ranks)


def parse_gpus(text: str) -> Gpus:
    """NAME or NAME:COUNT. Raises InvalidRequest, with the nearest names, for what is not known."""
    name, colon, number = text.partition(":")
    if not name:
        raise InvalidRequest(f"--gpu {text!r}: which one? As in h100:8")
    if name.lower() == "auto":
        raise InvalidRequest("--gpu auto counts the GPUs of this machine; leave the number out")
    if not colon:
        return Gpus(find_gpu(name))
    if not (number.isascii() and number.isdecimal() and 0 < int(number[:9]) <= MAX_GPUS):
        raise InvalidRequest(
            f"--gpu {text}: after the colon stands how many, from 1 to {MAX_GPUS:,}, as in h100:8"
        )
    return Gpus(find_gpu(name), int(number))


def find_gpu(name: str) -> Gpu:
    """A GPU by its name, however it is spelled ("H100", "RTX 4090", "NVIDIA A100-80GB")."""
    letters = letters_of(name)
    for gpu in _ROWS:
        if letters == gpu.name.replace("-", ""):
            return gpu
    if letters in _ALIASES:
        return GPUS[_ALIASES[letters]]
    if found := match_driver_name(letters):
        return found
    kinds = [known for known in GPUS if letters and known.startswith(f"{letters}-")]
    if kinds:
        raise InvalidRequest(f"--gpu {name}: there are {' and '.join(kinds)}; say which")
    raise InvalidRequest(
        f"--gpu {name}: no GPU of that name is known; {nearest(name, GPUS)}known are "
        f"{', '.join(GPUS)}, and auto for those of this machine"
    )


def match_driver_name(letters: str) -> Gpu | None:
    """What begins like a name here and holds all of it: "NVIDIA A100-SXM4-80GB", "Tesla T4"."""
    alike = []
    for gpu in _ROWS:
        model, *rest = gpu.name.removeprefix("rtx-").split("-")
        bare = letters.removeprefix("rtx")
        after = bare.removeprefix(model)
        if after == bare or (after[:1].isdigit() and not MEMORY.match(after)):
            continue  # "a100" is no A10
        if after.startswith(OTHER_CARDS):
            continue
        if all(part in after for part in rest):
            alike.append(gpu)
    return max(alike, key=lambda gpu: len(gpu.name), default=None)


def letters_of(name: str) -> str:
    """Letters and digits alone, without the maker."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    for maker in ("nvidia", "amd", "geforce", "tesla", "quadro", "instinct"):
        letters = letters.removeprefix(maker)
    return letters
