"""JSON lines on standard output or in a file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import stat
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.errors import ConfigError, OutputUnavailable, RecordRejected, ServiceUnavailable
from logclf_daemon.loose import LooseThreads
from logclf_daemon.outputs._jsonl.text import JsonText
from logclf_daemon.record import AnyRecord, Batch
from logclf_daemon.sandbox import writing_hint
from logclf_daemon.writable import NEVER, look_at_file

CLOSE_SECS = 2.0  # for the last write, if its reader takes it
_C1 = re.compile(rb"\xc2[\x80-\x9f]")  # control characters that JSON leaves as they are and some terminals obey


class JsonlOutputOptions(BaseModel):
    """One JSON object a line: the record's fields and the verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["jsonl"]
    path: str = Field("-", description="A file, opened again when it is rotated away; `-` is standard output.")
    time_key: str | None = Field(None, description="Add the record's time (RFC 3339) under this key, if it is free.")
    fsync: bool = Field(
        False, description="Force each batch to the disk before it is acknowledged (safe at power loss)."
    )
    required: bool = Field(True, description="false: a failure of this output never holds back the others.")


class JsonlOutput:
    """Writes each batch with one system call, in the order of the calls. `key` is the option that names the file."""

    def __init__(self, options: JsonlOutputOptions, name: str = "jsonl", *, key: str = "path") -> None:
        self.name = name
        self._options = options
        self._key = key
        self._stdout = options.path == "-"
        if not self._stdout:
            try:
                look_at_file(Path(options.path))
            except NEVER as error:
                raise self._cannot_be_opened(error) from error
            except OSError:
                pass  # who checks may be another user, and at another time: opening it will tell
        self._fd = -1
        self._terminal = False
        self._regular = False  # what was written can be taken back
        self._seam = b""  # goes before the next line
        self._text = JsonText()
        # One thread: order is kept, and a blocked pipe never stops the event loop, nor the end of the process.
        self._executor = LooseThreads(1, name)
        self._hanging: Future[None] | None = None  # a write that was given up, and goes on all the same

    async def open(self) -> None:
        if self._stdout:
            try:
                self._fd = sys.stdout.fileno()
            except (AttributeError, ValueError, OSError) as error:
                raise ConfigError("standard output is closed; connect it or name a file", (self._key,)) from error
            self._terminal = os.isatty(self._fd)
            return
        try:
            self._reopen()
        except OSError as error:
            if error.errno != errno.ENXIO:  # a pipe that nobody reads yet
                raise self._cannot_be_opened(error) from error

    def _cannot_be_opened(self, error: OSError) -> ConfigError:
        what_to_do = writing_hint(self._options.path, error)
        return ConfigError(f"{self._options.path}: cannot be opened: {error.strerror}; {what_to_do}", (self._key,))

    async def write(self, batch: Batch) -> None:
        if batch.opaque is not None:
            raise RecordRejected("metrics and traces cannot be written as JSON lines", reason="not_logs")
        if self._hanging is not None and not self._hanging.done():
            raise OutputUnavailable(f"{self._options.path}: a write still hangs")  # what is queued behind it adds up
        writing = self._executor.submit(self._write, batch.records)
        try:
            await asyncio.wrap_future(writing)
        except asyncio.CancelledError:
            if writing.running():
                self._hanging = writing
            raise

    def _write(self, records: Sequence[AnyRecord]) -> None:
        key = self._options.time_key
        times = None if key is None else [{key: rfc3339(record.time)} for record in records]
        text = self._text.lines(records, times)
        if self._terminal:
            text = _C1.sub(lambda found: b"\\u%04x" % found.group()[1], text)
        try:
            if not self._stdout:
                self._follow_rotation()
            self._write_all(text)
        except BrokenPipeError as error:
            if self._stdout:
                raise ServiceUnavailable(
                    "standard output was closed by its reader; unwritten lines are not acknowledged"
                ) from error
            self._close()  # another reader may come
            raise OutputUnavailable(f"{self._options.path}: the reader of this pipe has gone") from error
        except OSError as error:
            words = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
            raise OutputUnavailable(f"{self._options.path}: {words}") from error

    def _write_all(self, text: bytes) -> None:
        """All of the text or none of it: half a batch would come twice."""
        rest = memoryview(self._seam + text)
        size = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    # A pipe whose other user made it non-blocking: full is not broken.
                    _wait_for_room(self._fd)
            if self._options.fsync:
                os.fsync(self._fd)
        except OSError:
            written = size - len(rest)
            if written and self._regular:
                os.ftruncate(self._fd, max(0, os.fstat(self._fd).st_size - written))
            raise
        self._seam = b""

    def _follow_rotation(self) -> None:
        try:
            named, opened = Path(self._options.path).stat(), os.fstat(self._fd)
            if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                return
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.EBADF}:
                raise
        self._reopen()

    def _reopen(self) -> None:
        # Not to wait in `open` for the reader of a pipe. It changes nothing for a file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        opened = os.open(self._options.path, flags, 0o640)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._regular = opened, stat.S_ISREG(os.fstat(opened).st_mode)
        # A kill may have torn the last line: the next one, which is acknowledged, must not become a part of it.
        self._seam = b"\n" if self._regular and _ends_within_a_line(self._options.path) else b""

    async def close(self) -> None:
        closing = asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)
        await asyncio.wait([closing], timeout=CLOSE_SECS)

    def _close(self) -> None:
        if not self._stdout and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _ends_within_a_line(path: str) -> bool:
    """Whether the last byte of the file is something else than a newline; False for one that may not be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # it is only looked at
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def _wait_for_room(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def rfc3339(raw: msgspec.Raw) -> str | None:
    """The time of a record (EventTime, integer, or either with metadata) as RFC 3339 in UTC; None if it has none."""
    try:
        return datetime.fromtimestamp(_seconds(raw), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, TypeError, OverflowError, OSError):  # no time, or one of another age
        return None


def _seconds(raw: msgspec.Raw) -> float:
    with contextlib.suppress(msgspec.DecodeError):  # a time without metadata
        raw, *_ = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
    time = msgspec.msgpack.decode(raw)
    if isinstance(time, msgspec.msgpack.Ext) and time.code == 0:
        data = bytes(time.data)
        return int.from_bytes(data[:4], "big") + int.from_bytes(data[4:8], "big") / 1e9
    if not isinstance(time, int | float):
        raise TypeError("no time")
    return time
