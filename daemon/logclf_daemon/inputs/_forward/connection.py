"""One connection: handshake, frames, back-pressure, deadlines, acknowledgements in the order of their frames."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import cast

import msgpack
from msgpack.exceptions import OutOfData

from logclf_daemon import events
from logclf_daemon.handshake import LoginRefused, ServerChallenge, refusal
from logclf_daemon.inputs._forward.dedup import Told
from logclf_daemon.inputs._forward.framing import UNPACK_ERRORS, Frame, Framer, Malformed
from logclf_daemon.inputs._forward.receiver import Receiver
from logclf_daemon.inputs._forward.server import Server
from logclf_daemon.record import Outcome

MAX_PING_BYTES = 16_384
MAX_UNDER_WAY = 64  # frames of one connection that are emitted and not settled
SLOWEST_BYTES_PER_SEC = 65_536  # a frame may take longer than its deadline by what it has brought at this pace
LINGER_SECS = 5.0  # for a peer that does not read the last bytes before the connection is cut


@dataclass(slots=True)
class _Owed:
    """An acknowledgement that waits for its chunk and for those before it."""

    answer: bytes
    due: bool = False


class Connection(asyncio.Protocol):
    """Reads frames, emits their records, answers when they are safe. Every method belongs to the event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._framer = Framer(server.limits.max_frame_bytes)
        self._frames: deque[Frame] = deque()
        self._owed: deque[_Owed] = deque()
        self._under_way = 0
        self._room = asyncio.Event()
        self._challenge: ServerChallenge | None = None
        self._greeting: msgpack.Unpacker | None = None
        self._greeted_bytes = 0
        self._deadline: float | None = None  # of the handshake, the frame, the unread answers, or the last bytes
        self._frame_since = 0.0
        self._held = 0
        self._reading = True
        self._unread = False  # our answers
        self._closing = False
        self._at_end = False
        self._peer = "?"
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    # --- called by the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peer = _printed(transport.get_extra_info("peername"))
        self._server.joined(self)
        if self._server.login is not None:
            self._challenge = self._server.login.challenge(self._server.random_bytes)
            self._greeting = msgpack.Unpacker(
                raw=True, read_size=MAX_PING_BYTES, max_buffer_size=0, max_array_len=8, max_map_len=8
            )
            self._deadline = self._server.clock() + self._limits.handshake_timeout_secs
            self._transport.write(self._challenge.helo())

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        unfinished, complete = self._framer.buffered > 0, len(self._frames)
        try:
            if self._challenge is not None:
                data = self._log_in(data)
            if data:
                self._framer.feed(data, self._frames)
        except Malformed as error:
            self.refuse(error.what, error.detail)
        self._watch_frame(restarted=not unfinished or len(self._frames) > complete)
        if self._frames:
            self._work()
        self._hold(self._held + len(data) if self._frames else self._framer.buffered)

    def eof_received(self) -> bool:
        """Keep a half-closed connection while answers are owed; TLS cannot be half-closed."""
        if not self._at_end:
            self._at_end = True
            self._note_cut_frame()
        return self._busy and self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._at_end and not self._closing:
            self._note_cut_frame()
        self._closing = True
        self._owed.clear()
        self._server.left(self)
        if not self._frames:
            self._hold(0)
        self.ended.set()

    def pause_writing(self) -> None:
        """The peer does not read its acknowledgements."""
        self._unread = True
        self.stop_reading()
        self._deadline = self._server.clock() + self._limits.frame_timeout_secs

    def resume_writing(self) -> None:
        self._unread = False
        self._deadline = None
        self._read_on()

    # --- deadlines and ends -----------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        return self._framer.buffered

    @property
    def _busy(self) -> bool:
        return bool(self._under_way or self._frames or self.task)

    def check(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        if self._closing:
            self.abort()
        elif self._challenge is not None:
            self.refuse("handshake_timeout", "no PING in time")
        elif self._unread:
            self._server.trouble("acks_unread", self._peer)
            self.abort()
        else:
            self.refuse("frame_timeout", f"{self._framer.buffered} bytes of a message in time")

    def refuse(self, what: str, detail: str) -> None:
        self._server.trouble(what, self._peer, detail)
        self.close()

    def close(self) -> None:
        """Send what is written, then close. Chunks still under way are not acknowledged any more."""
        if self._closing:
            return
        self._closing = True
        self._owed.clear()
        self._framer = Framer(self._limits.max_frame_bytes)  # lets go of what was read
        self._deadline = self._server.clock() + LINGER_SECS
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._closing = True
        self._transport.abort()

    def stop_reading(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._deadline = None  # now it is us who are slow
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if not self._server.crowded:
            self.resume_reading()

    def resume_reading(self) -> None:
        stays = self._unread or self._at_end or self._closing or self._server.stopping or self.task is not None
        if self._reading or stays or self._transport.is_closing():
            return
        self._reading = True
        if self._challenge is not None:
            self._deadline = self._server.clock() + self._limits.handshake_timeout_secs
        self._watch_frame(restarted=True)
        self._transport.resume_reading()

    def _watch_frame(self, *, restarted: bool) -> None:
        """A frame once begun must come to its end; the deadline moves with what it brings."""
        if self._challenge is not None or self._closing:
            return
        if not self._framer.buffered:
            self._deadline = None
            return
        if restarted:
            self._frame_since = self._server.clock()
        allowed = self._limits.frame_timeout_secs + self._framer.buffered / SLOWEST_BYTES_PER_SEC
        self._deadline = self._frame_since + allowed

    def _hold(self, count: int) -> None:
        if count != self._held:
            more, self._held = count - self._held, count
            self._server.hold(more)

    def _note_cut_frame(self) -> None:
        if self._framer.buffered:
            self._server.trouble("frame_cut", self._peer, f"closed after {self._framer.buffered} bytes of a message")

    # --- the handshake ----------------------------------------------------------------------------------------------

    def _log_in(self, data: bytes) -> bytes:
        """Take the PING; returns the bytes after it. Nothing else is parsed before it is accepted."""
        assert self._challenge is not None
        assert self._greeting is not None
        self._greeted_bytes += len(data)
        self._greeting.feed(data[: MAX_PING_BYTES + 1])
        ping: object = None
        try:
            ping = self._greeting.unpack()
        except OutOfData:
            if self._greeted_bytes <= MAX_PING_BYTES:
                return b""
        except UNPACK_ERRORS:
            pass  # no PING: refused below
        try:
            self._transport.write(self._challenge.answer(ping))
        except LoginRefused as error:
            self._transport.write(refusal(str(error)))
            raise Malformed("handshake_refused", str(error)) from error
        self._challenge = None
        return data[len(data) - (self._greeted_bytes - self._greeting.tell()) :]

    # --- frames in --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Emit what was read. While an earlier emit is awaited nothing more is read: that is the back-pressure."""
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self._emit_frames())
            self._server.tasks.add(self.task)
            self.task.add_done_callback(self._server.tasks.discard)
        else:
            self.stop_reading()

    async def _emit_frames(self) -> None:
        try:
            while self._frames:
                await self._emit_frame()
        except Exception as error:
            # Only this connection ends; its sender sends again what was not acknowledged.
            events.emit(events.Bug(where=f"input {self._server.name}", error=repr(error)))
            self.abort()
        finally:
            if self.task is not None:
                self._server.tasks.discard(self.task)
            self.task = None
            self._hold(0 if self.ended.is_set() else self._framer.buffered)
            self._read_on()
            self._close_at_end()

    async def _emit_frame(self) -> None:
        while self._under_way >= MAX_UNDER_WAY:
            self._room.clear()
            await self._room.wait()
        try:
            await Receiver(self._server, self._owe).take(self._frames)  # kept, it would keep this object
        except Malformed as error:
            self.refuse(error.what, error.detail)

    # --- answers out ------------------------------------------------------------------------------------------------

    def _owe(self, answer: bytes | None) -> Told:
        self._under_way += 1
        if answer is None:
            return lambda outcome: self._settled(None, outcome)
        owed = _Owed(answer)
        self._owed.append(owed)
        return lambda outcome: self._settled(owed, outcome)

    def _settled(self, owed: _Owed | None, outcome: Outcome) -> None:
        self._under_way -= 1
        self._room.set()
        if outcome is not Outcome.DELIVERED:
            # Never a late answer on a living connection: it would be taken for the answer to the next chunk.
            self.close()
        elif owed is not None and not self._closing:
            owed.due = True
            self._answer()
        self._close_at_end()

    def _answer(self) -> None:
        """Send what is due, each in a write of its own: Fluent Bit takes one acknowledgement whole with one read."""
        while self._owed and self._owed[0].due:
            self._transport.write(self._owed.popleft().answer)

    def _close_at_end(self) -> None:
        """A half-closed connection has nothing more to say once the last answer is written."""
        if self._at_end and not self._busy:
            self.close()


def _printed(peername: object) -> str:
    if isinstance(peername, tuple) and len(peername) >= 2:
        return f"{peername[0]}:{peername[1]}"
    return "unix socket"
