"""The few system calls that tailing needs, in one place so that a test can make them fail."""

from __future__ import annotations

import errno
import glob
import os

_FOLDERS = 1000


class Filesystem:
    """The real one. Paths are bytes: a name need not be text."""

    def __init__(self) -> None:
        self._real: dict[bytes, bytes] = {}  # of folders; only hints depend on it, so it may be out of date

    def glob(self, pattern: bytes) -> list[bytes]:
        """Paths that match; `**` goes through folders. What cannot be looked into counts as empty."""
        return glob.glob(pattern, recursive=True)  # noqa: PTH207  # paths are bytes here

    def enter(self, folder: bytes, *, listing: bool) -> None:
        """Do what looking up a name in a folder needs and, with `listing`, all its names.

        Raises:
            OSError: It cannot be done. A name that leads through such a folder looks as if it were not there.
        """
        os.stat(folder + b"/.")  # noqa: PTH116  # needs the right to search, not that to read
        if listing:
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def inodes(self, folder: bytes) -> dict[int, bytes]:
        """Name of each entry of a folder, by inode."""
        with os.scandir(folder) as entries:
            return {entry.inode(): entry.name for entry in entries}

    def stat(self, path: bytes) -> os.stat_result:
        """Of the file a link leads to."""
        return os.stat(path)  # noqa: PTH116

    def real(self, path: bytes) -> bytes:
        """Where a link leads to."""
        folder, name = os.path.split(path)
        if os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        if folder not in self._real:
            if len(self._real) > _FOLDERS:
                self._real.clear()
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)  # noqa: PTH118

    def open(self, path: bytes) -> int:
        """Open for reading; returns at once even if a FIFO has taken the place of the file."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def fstat(self, fd: int) -> os.stat_result:
        """Of an open file, whatever its name is now."""
        return os.fstat(fd)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        return os.pread(fd, size, position)

    def next_data(self, fd: int, position: int) -> int | None:
        """Where the next byte outside a hole is; None: there is none, or the file system does not know."""
        try:
            return os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP):
                return None
            raise

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)
