"""One file on disk that is read: where it is, how far it has grown, what it waits for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from logclf_daemon.inputs._tail.identity import Identity
from logclf_daemon.inputs._tail.lines import Framing
from logclf_daemon.inputs._tail.stream import Stream


@dataclass(slots=True, eq=False)
class Tail:
    """A file and the stream that is read from it now. Times are those of the monotonic clock."""

    identity: Identity
    path: bytes | None  # where it was last seen; None: it has no name any more
    stream: Stream
    window: int
    changed_at: float
    inflate: bool = False
    listed: bool = True  # a pattern matches it
    framing: Framing | None = None
    size: int = 0
    mtime_ns: int = 0
    left_at: float | None = None  # since when its label is not its path
    at_end: bool = False
    flush: str = ""  # how what is open at the end leaves now: as "lines", "partial", or as the "carry" of the next file
    stop_at: int | None = None
    queued: bool = False
    parked: bool = False  # rotated, drained and closed; opened again if it grows
    ignored: bool = False
    gone: bool = False  # not read any more
    retry_at: float = 0.0
    failures: int = 0
    trouble: str = ""
    waits_for: Tail | None = None
    waits_until: float = 0.0
    waits_position: int = 0
    successor: Tail | None = None
    names: tuple[bytes, ...] = ()  # what a change of it may be reported under

    @property
    def end(self) -> int:
        """The position at the end of what is known to be there."""
        end = self.size + len(self.stream.carry)
        return end if self.stop_at is None else min(end, self.stop_at + len(self.stream.carry))

    @property
    def unread(self) -> bool:
        """Whether there is something that was not handed on."""
        if self.ignored:
            return False
        if self.inflate:
            return not self.at_end or bool(self.stream.replays)
        return self.stream.position < self.end

    @property
    def label(self) -> bytes:
        return self.stream.label

    def seen(self, looked: os.stat_result, now: float) -> bool:
        """Remember what was seen of it. True if something changed."""
        if looked.st_size == self.size and looked.st_mtime_ns == self.mtime_ns:
            return False
        if looked.st_size != self.size:
            self.changed_at = now
        self.size, self.mtime_ns = looked.st_size, looked.st_mtime_ns
        self.at_end = False
        return True

    def begin(self, stream: Stream, window: int) -> None:
        """Read another stream from it."""
        self.stream, self.window = stream, window
        self.framing, self.at_end, self.flush, self.ignored = None, False, "", False
