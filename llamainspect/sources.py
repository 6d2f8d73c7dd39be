"""Where bytes live. Everything above asks for (file, offset, length) and never opens a path itself.

Files are read, never mapped: a mapped file that shrinks kills the process, a short read can be
reported. Only regular files are opened, and without blocking, so a FIFO cannot hang the program.
"""

import os
import stat
from typing import Protocol

from llamainspect.errors import CorruptFile, MissingFile, NotACheckpoint


class Source(Protocol):
    """A flat set of named files."""

    @property
    def place(self) -> str:
        """What to call it in a sentence."""
        ...

    @property
    def only(self) -> str | None:
        """The one file the person named, when it was not a directory."""
        ...

    def files(self) -> tuple[str, ...]:
        """Names of the regular files, sorted."""
        ...

    def nbytes(self, file: str) -> int:
        """Length of a file in bytes. Raises MissingFile."""
        ...

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises CorruptFile when the file ends before that."""
        ...


class Folder:
    """A directory on disk, or one file in it."""

    def __init__(self, directory: str, only: str | None = None) -> None:
        self.directory = directory
        self._only = only
        self._stat: dict[str, tuple[int, int, int]] = {}

    @property
    def place(self) -> str:
        """The path as the person would type it."""
        if self._only is None:
            return self.directory
        return self._only if self.directory == "." else os.path.join(self.directory, self._only)

    @property
    def only(self) -> str | None:
        """The one file the person named, when it was not a directory."""
        return self._only

    def files(self) -> tuple[str, ...]:
        """Names of the regular files (links to them included), sorted."""
        with os.scandir(self.directory) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_file()))

    def nbytes(self, file: str) -> int:
        """Length in bytes. Raises MissingFile for what is not a regular file."""
        return self._signature(file)[0]

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises CorruptFile when they are not there."""
        size = self._signature(file)[0]
        if offset < 0 or length < 0 or offset + length > size:
            raise CorruptFile(
                f"{file}: bytes {offset:,} to {offset + length:,} are needed and the file has "
                f"{size:,}; it is cut short or damaged, download it again"
            )
        descriptor = self._open(file)
        try:
            parts = []
            os.lseek(descriptor, offset, os.SEEK_SET)
            while length and (part := os.read(descriptor, length)):
                parts.append(part)
                length -= len(part)
        finally:
            os.close(descriptor)
        if length:
            raise CorruptFile(f"{file}: it became shorter while it was read; try again")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def changed(self) -> list[str]:
        """Files that were read and have another length or modification time by now."""
        return [file for file, before in self._stat.items() if self._look(file) != before]

    def _signature(self, file: str) -> tuple[int, int, int]:
        if file not in self._stat:
            found = self._look(file)
            if found is None:
                path = os.path.join(self.directory, file)
                raise MissingFile(f"{path}: there is no such regular file; check the path")
            self._stat[file] = found
        return self._stat[file]

    def _look(self, file: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(os.path.join(self.directory, file))
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino

    def _open(self, file: str) -> int:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        return os.open(os.path.join(self.directory, file), flags)


def open_source(path: str) -> Folder:
    """The directory at `path`, or the one file. Raises NotACheckpoint when it is neither."""
    if os.path.isdir(path):
        return Folder(path)
    if os.path.isfile(path):
        directory, name = os.path.split(path)
        return Folder(directory or ".", only=name)
    what = "is not a regular file or directory" if os.path.lexists(path) else "does not exist"
    raise NotACheckpoint(f"{path}: it {what}; give a checkpoint directory or a weight file")
