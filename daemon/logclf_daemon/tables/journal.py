"""An interrupted run taken up again: beside the output, its unfinished bytes and a journal of how far they are right.

The journal names the task (what is read, with which options, rules and model) and how far it is; it is replaced after
the disk has the output up to there. A journal of another task, or a damaged one, does not count.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from logclf_daemon.errors import BadInput
from logclf_daemon.tables.files import mode_of, refuse_folder


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Up to where the output is right."""

    read: int  # bytes of rows, unpacked and in UTF-8
    line: int  # the number of the next one
    written: int  # bytes of the output file
    aside: int  # bytes of the file for bad rows
    summary: dict[str, Any]


class Journal:
    """The unfinished output and how far it is; they belong to one run at a time."""

    def __init__(self, file: BinaryIO, path: Path, task: dict[str, Any], found: Checkpoint | None) -> None:
        self.file = file
        self.found = found
        self._path = path
        self._task = task

    def note(self, checkpoint: Checkpoint) -> None:
        """Remember how far it is. What it speaks of must be on the disk."""
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("wb") as file:
            file.write(json.dumps({"task": self._task, "checkpoint": asdict(checkpoint)}).encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


@contextlib.contextmanager
def taken_up(target: Path, task: dict[str, Any], aside: BinaryIO | None = None) -> Iterator[Journal]:
    """Open or go on with the unfinished output of `target`; at the end of the block it gets its name.

    `aside` is the unfinished file of bad rows: an earlier run counts if that has what it wrote there, too.

    Raises:
        BadInput: It cannot be written, or another run is at it.
    """
    target = target.resolve()  # a link stays one
    log = target.with_name(f".{target.name}.journal")
    with unfinished(target) as file:
        sizes = [os.fstat(one.fileno()).st_size if one is not None else 0 for one in (file, aside)]
        found = _last(log, task, *sizes)
        cut(file, found.written if found is not None else 0)
        yield Journal(file, log, task, found)
    log.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[BinaryIO]:
    """A file beside `target`, as an earlier run left it; it gets its name at the end of the block.

    Raises:
        BadInput: It cannot be written, or another run is at it.
    """
    target = target.resolve()
    refuse_folder(target, str(target))
    part, mode = target.with_name(f".{target.name}.part"), mode_of(target)
    try:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "r+b") as file:
        if not _locked(handle, part):
            raise BadInput(f"{target}: another run is writing it; wait for it or choose another output")
        yield file
        file.flush()
        os.fsync(handle)
        os.fchmod(handle, mode)
        part.replace(target)


def _locked(handle: int, part: Path) -> bool:
    """Whether the file is ours now, and still the one of that name: a run that just ended may have renamed it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle).st_ino == part.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def cut(file: BinaryIO, size: int) -> None:
    """Keep what is known to be right, and go on there."""
    file.truncate(size)
    file.seek(size)


def _last(log: Path, task: dict[str, Any], size: int, aside: int) -> Checkpoint | None:
    """How far this very task came, if the unfinished files still have that much."""
    try:
        journal = json.loads(log.read_bytes())
        checkpoint = Checkpoint(**journal["checkpoint"])
        same = journal["task"] == json.loads(json.dumps(task))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return checkpoint if same and checkpoint.written <= size and checkpoint.aside <= aside else None
