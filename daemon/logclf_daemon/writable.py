"""Whether a path can be written to, found out without writing: a check that root makes leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

NEVER = (IsADirectoryError, NotADirectoryError)  # the others may be over by the start, or concern this user only


def look_at_file(path: Path) -> None:
    """Raises the OSError that opening or making the file would end in."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        path.parent.stat()
        _demand(path.parent, os.W_OK | os.X_OK)
        return
    if stat.S_ISDIR(mode):
        raise _error(errno.EISDIR, path)
    _demand(path, os.W_OK)


def look_at_folder(path: Path) -> None:
    """Raises the OSError that making the folder, with those above it, or a file in it would end in."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        raise _error(errno.ENOTDIR, path)
    _demand(path, os.W_OK | os.X_OK)


def _demand(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise _error(errno.EACCES, path)


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
