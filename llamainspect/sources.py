"""Where bytes live. Everything above asks for (file, offset, length) and never opens a path itself.

Files are read, never mapped: a mapped file that shrinks kills the process, a short read can be
reported. Only regular files are opened, and without blocking, so a FIFO cannot hang the program.
What is read of a file is all of one state of it, that of the first look, or an error.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from llamainspect.errors import CorruptFile, MissingFile, NotACheckpoint

ABSENT = "there is no such file"
UNREADABLE = "it cannot be opened"
NATIVE_SUBFOLDER = "original"  # where a hub download keeps Meta's files
SHRANK = "it became shorter while it was read; try again"
CHANGED = "it changed while it was read; try again"
_NOT_REGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Readable(Protocol):
    """Files by name, of known length."""

    def nbytes(self, file: str) -> int:
        """Length of a file in bytes. Raises MissingFile."""
        ...

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises CorruptFile when the file ends before that or changed."""
        ...


class Source(Readable, Protocol):
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

    def read_into(
        self, file: str, offset: int, buffer: memoryview, run: int | None = None, step: int = 0
    ) -> None:
        """Fill `buffer`, with all from `offset` or with runs of `run` bytes, one every `step`.

        Raises CorruptFile when the file ends before that or changed.
        """
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
            return tuple(sorted(entry.name for entry in entries if _is(entry.is_file)))

    def names(self, directory: str = "") -> list[str]:
        """Everything in the directory, or in one below it, that is not a directory, sorted."""
        with os.scandir(os.path.join(self.directory, directory)) as entries:
            return sorted(entry.name for entry in entries if not _is(entry.is_dir))

    def folders(self) -> list[str]:
        """Directories in this one, links to directories left out."""
        with os.scandir(self.directory) as entries:
            return sorted(
                entry.name for entry in entries if _is(entry.is_dir) and not entry.is_symlink()
            )

    def walk(self, directory: str, left_out: list[str] | None = None) -> Iterator[str]:
        """Names of all files at any depth below `directory`, which need not be there.

        `left_out` receives the directories that are not entered: links, and what may not be listed.
        """
        errors: list[OSError] = []
        for root, folders, files in os.walk(
            os.path.join(self.directory, directory), onerror=errors.append
        ):
            inside = self._name_of(root)
            yield from (f"{inside}/{file}" for file in sorted(files))
            if left_out is not None:
                links = (f for f in folders if os.path.islink(os.path.join(root, f)))
                left_out += (f"{inside}/{folder}" for folder in links)
        if left_out is not None:
            left_out += (self._name_of(os.fspath(error.filename)) for error in errors)

    def _name_of(self, path: str) -> str:
        return os.path.relpath(path, self.directory).replace(os.sep, "/")

    def parent(self) -> "Folder":
        """The directory above, which a link may put elsewhere than its path says."""
        above = os.path.join(self.directory, os.pardir)
        short = os.path.normpath(above)
        return Folder(short if os.path.samefile(short, above) else above)

    def holds(self, directory: str) -> bool:
        """Whether a directory below this one is really there, and not where a link leads."""
        here = os.path.realpath(self.directory)
        there = os.path.realpath(os.path.join(self.directory, directory))
        return os.path.commonpath((here, there)) == here

    def link_target(self, file: str) -> str | None:
        """Where a link leads, as it is written; None when `file` is no link."""
        try:
            return os.readlink(os.path.join(self.directory, file))
        except OSError:
            return None

    def nbytes(self, file: str) -> int:
        """Length in bytes. Raises MissingFile for what is not a regular file."""
        return self._signature(file)[0]

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises CorruptFile when they are not there."""
        self._check_range(file, offset, length)
        descriptor = self.open(file)
        try:
            parts = []
            os.lseek(descriptor, offset, os.SEEK_SET)
            while length and (part := os.read(descriptor, length)):
                parts.append(part)
                length -= len(part)
        finally:
            os.close(descriptor)
        self._check_state(file, length)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(
        self, file: str, offset: int, buffer: memoryview, run: int | None = None, step: int = 0
    ) -> None:
        """Fill `buffer` with the bytes from `offset`, or with runs of `run` bytes, one every `step`
        bytes, and read nothing between them. Raises CorruptFile as `read` does."""
        length = len(buffer) if run is None else run
        runs = len(buffer) // max(length, 1)
        self._check_range(file, offset, max(runs - 1, 0) * step + length)
        missing = 0
        with open(self.open(file), "rb", buffering=0) as opened:
            for number in range(runs):
                opened.seek(offset + number * step)
                rest = buffer[number * length : (number + 1) * length]
                while rest and (got := opened.readinto(rest)):
                    rest = rest[got:]
                missing += len(rest)
        self._check_state(file, missing)

    def obstacle(self, file: str) -> str | None:
        """Why `file` cannot be read as a file ("it is a FIFO"); None when it can."""
        path = os.path.join(self.directory, file)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISREG(mode):
                os.close(self.open(file))
                return None
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(path):
                return f"it is a link to {os.readlink(path)}, which does not exist"
            return ABSENT
        except OSError as error:
            return f"{UNREADABLE}: {error.strerror or error}"
        kind = next((text for test, text in _NOT_REGULAR if test(mode)), "no regular file")
        return f"it is {kind}"

    def changed(self) -> list[str]:
        """Files that were read and have another length or modification time by now."""
        return [file for file in self._stat if self.has_changed(file)]

    def has_changed(self, file: str) -> bool:
        """Whether a file that was looked at has another length, time or place on disk by now."""
        return self._look(file) != self._stat[file]

    def refuses_writing(self) -> bool:
        """Whether this user may not make files here."""
        return not os.access(self.directory, os.W_OK)

    def write(self, file: str, text: str) -> None:
        """A whole new file at once: a reader, or an interrupt, never sees half of it."""
        path = os.path.join(self.directory, file)
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(
                temporary, "x", encoding="utf-8", errors="surrogateescape", newline=""
            ) as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.remove(temporary)
            raise

    def open(self, file: str) -> int:
        """A descriptor to read from; opening never waits, not even for a FIFO."""
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        return os.open(os.path.join(self.directory, file), flags)

    def _check_range(self, file: str, offset: int, length: int) -> None:
        size = self._signature(file)[0]
        if offset < 0 or length < 0 or offset + length > size:
            raise CorruptFile(
                f"{file}: bytes {offset:,} to {offset + length:,} are needed and the file has "
                f"{size:,}; it is cut short or damaged, download it again"
            )

    def _check_state(self, file: str, missing: int) -> None:
        """After a read: whether it was of the file as it was first looked at."""
        if missing:
            raise CorruptFile(f"{file}: {SHRANK}")
        if self.has_changed(file):
            raise CorruptFile(f"{file}: {CHANGED}")

    def _signature(self, file: str) -> tuple[int, int, int]:
        if file not in self._stat:
            found = self._look(file)
            if found is None:
                path = os.path.join(self.directory, file)
                try:
                    os.stat(path)
                except PermissionError as error:  # of its directory
                    raise MissingFile(
                        f"{path}: {error.strerror}; check the permissions of its directory"
                    ) from error
                except OSError:
                    pass
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


def _is(kind: Callable[[], bool]) -> bool:
    """What an entry is; a link that leads in a circle or through a file is nothing of the kind."""
    try:
        return kind()
    except OSError:
        return False


def open_source(path: str) -> Folder:
    """The directory at `path`, or the one file. Raises NotACheckpoint when it is neither.

    Of a model's folder in the hub's cache (blobs/, refs/, snapshots/) the snapshot is meant.
    """
    if os.path.isdir(path):
        snapshots = os.path.join(path, "snapshots")
        if os.path.basename(os.path.abspath(path)) == "snapshots":
            path, snapshots = os.path.join(path, os.pardir), path
        if os.path.isdir(snapshots) and os.path.isdir(os.path.join(path, "blobs")):
            return Folder(os.path.join(snapshots, _revision(path, snapshots)))
        return Folder(path)
    if os.path.isfile(path):
        directory, name = os.path.split(path)
        return Folder(directory or ".", only=name)
    what = "is not a regular file or directory" if os.path.lexists(path) else "does not exist"
    raise NotACheckpoint(
        f"{path or 'the empty path'}: it {what}; give a checkpoint directory, or one of its files"
    )


def _revision(path: str, snapshots: str) -> str:
    """The snapshot that `main` stands for, or the only one."""
    found = sorted(os.listdir(snapshots))
    # What is no text is no revision (a UnicodeDecodeError is a ValueError).
    with (
        suppress(OSError, ValueError),
        open(os.path.join(path, "refs", "main"), encoding="ascii") as main,
    ):
        revision = main.read(100).strip()
        if revision in found:
            return revision
    if len(found) == 1:
        return found[0]
    which = f"are several snapshots ({', '.join(found[:3])}, ...)" if found else "is no snapshot"
    raise NotACheckpoint(f"{path}: there {which} in snapshots/; give the path of one")
