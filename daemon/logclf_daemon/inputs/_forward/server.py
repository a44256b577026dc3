"""What the connections of one forward input share: limits, the window of known chunks, memory, counters."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from logclf_daemon import events
from logclf_daemon.handshake import RandomBytes, ServerLogin
from logclf_daemon.inputs._forward.dedup import Window
from logclf_daemon.protocols import Emit
from logclf_daemon.record import Batch

STUCK_SECS = 2.0  # no byte for so long from the one sender that is read while too much is held


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take of us."""

    max_frame_bytes: int = 16 << 20
    max_inflated_bytes: int = 32 << 20
    max_held_bytes: int = 16 << 20  # received and not handed on, all connections together
    handshake_timeout_secs: float = 10.0
    frame_timeout_secs: float = 30.0


class Peer(Protocol):
    """A connection, as far as the server needs to know it."""

    @property
    def buffered(self) -> int:
        """Bytes of a message that is not complete."""

    def stop_reading(self) -> None:
        """Until `resume_reading`."""

    def resume_reading(self) -> None:
        """Unless there is another reason not to."""

    def refuse(self, what: str, detail: str) -> None:
        """Close it and count why."""

    def check(self, now: float) -> None:
        """Close it if it let a deadline pass."""

    def close(self) -> None:
        """Send what is written, then close."""

    def abort(self) -> None:
        """Cut it."""

    ended: asyncio.Event


@dataclass(slots=True, eq=False)
class Server:
    """One input's server, without its sockets."""

    name: str
    window: Window
    limits: Limits = field(default_factory=Limits)
    login: ServerLogin | None = None
    refuse_signals: bool = False
    clock: Callable[[], float] = time.monotonic
    random_bytes: RandomBytes = os.urandom
    stopping: bool = False
    held: int = 0  # bytes received and not handed on
    freed: asyncio.Event = field(default_factory=asyncio.Event)  # set whenever a connection ends
    emit: Emit | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # connections that emit just now
    peers: set[Peer] = field(default_factory=set)
    # Of all that wait for room in the pipeline only one is open and one decoded: records take many times their bytes.
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    decoding: asyncio.Lock = field(default_factory=asyncio.Lock)
    crowded: bool = False  # more is held than may be
    _stuck_at: int = 0
    _stuck_since: float = 0.0

    def joined(self, peer: Peer) -> None:
        self.peers.add(peer)
        if self.crowded:
            peer.stop_reading()

    def left(self, peer: Peer) -> None:
        self.peers.discard(peer)
        self.freed.set()

    def check(self) -> None:
        """Close the connections that let a deadline pass. Called about once a second."""
        now = self.clock()
        for peer in list(self.peers):
            peer.check(now)
        if not self._stuck or self._stuck_at != self.held:
            self._stuck_at, self._stuck_since = self.held, now
        elif now - self._stuck_since > STUCK_SECS:
            # The one that should come to its end first, so that others may go on, brings nothing.
            self._nearest_end().refuse("buffers_full", f"{self.held} bytes of unfinished messages from all senders")

    @property
    def _stuck(self) -> bool:
        """Nothing but unfinished messages, and no room for more."""
        return self.crowded and not self.tasks and bool(self.peers)

    def _nearest_end(self) -> Peer:
        return max(self.peers, key=lambda peer: peer.buffered)

    def hold(self, count: int) -> None:
        """Account for bytes that came (or, negative, went on). Over the limit nobody is read, or but one."""
        self.held += count
        crowded = self.held > self.limits.max_held_bytes
        if crowded != self.crowded:
            self.crowded = crowded
            for peer in list(self.peers):
                if crowded:
                    peer.stop_reading()
                else:
                    peer.resume_reading()
        if self._stuck:
            self._nearest_end().resume_reading()

    async def hand_on(self, batch: Batch) -> None:
        """Give a batch to the pipeline."""
        assert self.emit is not None
        await self.emit(batch)

    def trouble(self, what: str, where: str, detail: str | None = None) -> None:
        """Something odd that was survived."""
        events.emit(events.InputTrouble(input=self.name, what=what, where=where, detail=detail))

    def dropped(self, count: int, reason: str, detail: str) -> None:
        """Records that were read here and never reach the pipeline: the ledger has them on both sides."""
        events.records_read.labels(self.name).inc(count)
        events.emit(events.RecordsDropped(input=self.name, reason=reason, count=count, detail=detail))
