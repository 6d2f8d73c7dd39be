"""Numpy's archives of arrays: those of a recording, in memory that the archive's length bounds."""

import errno
import math
import os
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import numpy.typing as npt

from llamainspect.errors import CorruptFile

ZIP = b"PK"  # how an archive begins
# Memory for an array of one. Deflate makes the example's logits 1.1 times shorter, rounded to whole
# numbers 7 times, and 12 times as float64.
MAX_EXPANSION = 16  # of the archive's bytes; deflate goes up to 1,032
FREE_NBYTES = 16 * 2**20  # however short the archive is
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(file: str, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Those arrays of a numpy archive that are there, in this machine's byte order.

    Whole numbers come as int64. Raises CorruptFile; nothing is ever unpickled.
    """
    found = {}
    with open(file, "rb") as opened:
        if opened.read(2) != ZIP:
            raise CorruptFile(f"{file}: it is no archive as numpy.savez writes it; record it anew")
        room = max(MAX_EXPANSION * opened.seek(0, os.SEEK_END), FREE_NBYTES)
        opened.seek(0)
        try:
            with np.load(opened, allow_pickle=False) as archive:
                for name in names:
                    if name in archive:
                        if obstacle := _obstacle(archive.zip, name, room):
                            raise CorruptFile(f"{file}: {name} {obstacle}")
                        found[name] = archive[name]
        except CorruptFile:
            raise
        except Exception as error:  # zip, header and data each fail in ways of their own
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # the disk; a directory can lead before the file
            raise CorruptFile(f"{file}: {_npz_reason(error)}; record it anew") from error
    return {name: _as_numbers(file, name, array) for name, array in found.items()}


def _obstacle(archive: ZipFile, name: str, room: int) -> str | None:
    """Why a member is not read: numpy makes the array that a header asks for, then looks for its
    bytes, and zipfile gives bzip2 and LZMA all the memory that they ask for."""
    entry = archive.getinfo(name if name in archive.NameToInfo else f"{name}.npy")
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "is compressed as numpy compresses nothing; record it anew, with numpy.savez"
    needed = entry.file_size
    if needed <= room:  # a header may be all of it
        with archive.open(entry) as opened:
            if opened.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                return None  # no array, and numpy takes it for bytes
            version = tuple(opened.read(2))
            if version not in NPY_HEADERS:
                return "is in a version of numpy's format that numbers do not need; record it anew"
            shape, _, dtype = NPY_HEADERS[version](opened)
            needed = max(needed, math.prod(shape) * max(dtype.itemsize, 8))  # integers get 64 bits
    if needed <= room:
        return None
    return (
        f"would take {needed:,} bytes of memory, and the archive is much too short for that; "
        "record it anew, with numpy.savez"
    )


def _npz_reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it claims to hold more than there is memory for"
    if "pickle" in str(error):
        return "it holds Python objects, which are not unpickled here"
    first_line = str(error).partition("\n")[0] or type(error).__name__
    return f"numpy cannot read it ({first_line})"


def _as_numbers(file: str, name: str, array: object) -> npt.NDArray[Any]:
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu":
        return array.astype(np.int64)
    if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return array.astype(array.dtype.newbyteorder("="))
    kind = f"of type {array.dtype}" if isinstance(array, np.ndarray) else "no array"
    raise CorruptFile(f"{file}: {name} is {kind}, and numbers are needed; record it anew")
