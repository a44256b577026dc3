"""One block of one file at a time: read, cut, named, ready to be handed over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from logclf_daemon.failpoint import reached
from logclf_daemon.inputs._tail.batches import BatchMaker
from logclf_daemon.inputs._tail.identity import chunk_id, is_compressed
from logclf_daemon.inputs._tail.lines import Cut, Framing, mark_length, normal_name, unit_of
from logclf_daemon.inputs._tail.notes import Notes
from logclf_daemon.inputs._tail.readers import Reader
from logclf_daemon.inputs._tail.settings import TailSettings
from logclf_daemon.inputs._tail.stream import Reading, Stream
from logclf_daemon.inputs._tail.tail import Tail
from logclf_daemon.record import Batch, Outcome
from logclf_daemon.state import Intent, Offset, StateDb


class BlockReader:
    """Cuts what is new in a file into ranges; `record` writes them down, `take` gives their batches away.

    `settle` is told of each range by whoever settles its batch, `settled` at once of one without a message; `ignore`
    of a file that is nothing to read.
    """

    def __init__(
        self,
        settings: TailSettings,
        notes: Notes,
        *,
        now_ns: Callable[[], int],
        settle: Callable[[Stream, Reading, Outcome], None],
        settled: Callable[[Stream, Reading], None],
        ignore: Callable[[Tail, str], None],
    ) -> None:
        self._settings = settings
        self._notes = notes
        self._now_ns = now_ns
        self._settle = settle
        self._settled = settled
        self._ignore = ignore
        self._make = BatchMaker(settings.name, settings.message_key, settings.path_key)
        self._new: dict[str, Offset] = {}
        self._intents: list[Intent] = []
        self._batches: list[Batch] = []

    def remember(self, stream: Stream) -> None:
        """Write down also where this stream is."""
        self._new[stream.source] = stream.offset()
        stream.known = True

    def record(self, state: StateDb) -> None:
        """Write down the ranges read since the last time, in one transaction: before their batches go anywhere."""
        if self._intents or self._new:
            reached("read")
            state.record_intents(self._intents, self._new.values())
            reached("intent")
            self._intents, self._new = [], {}

    def take(self) -> list[Batch]:
        """The batches read since the last time, in order."""
        batches, self._batches = self._batches, []
        return batches

    def read(self, tail: Tail, reader: Reader) -> bool:
        stream = tail.stream
        framing = tail.framing or self._framing(tail, reader)
        if framing is None:
            tail.at_end = True
            return False
        size = min(tail.window, max(0, tail.end - stream.position)) if tail.stop_at is not None else tail.window
        data = stream.read(reader, stream.position, size)
        short = len(data) < tail.window
        if data[:1] == b"\0" and not stream.skip and not data.strip(b"\0"):
            return self._meet_nuls(tail, reader, len(data), short)
        # A line that went on after it was found idle is not idle.
        grown = not tail.inflate and stream.position + len(data) > tail.end
        closed = short and not grown and tail.flush in ("lines", "partial")
        used = 0
        for cut in framing.cut(data, stream.skip, closed=closed, limit=self._settings.batch_lines):
            used += cut.length
            self._hand_over(stream, reader, cut, "partial" if closed and tail.flush == "partial" else "lines")
        return self._after_block(tail, reader, data, used, short)

    def _after_block(self, tail: Tail, reader: Reader, data: bytes, used: int, short: bool) -> bool:
        stream, framing = tail.stream, tail.framing
        tail.at_end = short
        if used or framing is None:
            tail.window = self._settings.frames.read_bytes
        elif not short:
            tail.window = min(tail.window * 4, framing.window)
        if not short:
            return True
        if used < len(data) and tail.flush == "carry" and tail.successor is not None and self.can_carry(tail):
            self._carry(tail, tail.successor, reader, data[used:])
            used = len(data)
        if tail.flush and (used == len(data) or stream.position + len(data) - used > tail.end):
            tail.flush = ""
        if used < len(data) and not tail.flush and (self._settings.once or (tail.inflate and reader.complete)):
            tail.flush = "lines"  # this is the end for good: what is open leaves too
            tail.at_end = False
            return True
        if not tail.inflate and tail.stop_at is None:
            tail.size = max(tail.size, stream.position + len(data) - used - len(stream.carry))
        return False

    def replay(self, tail: Tail, reader: Reader) -> None:
        """A range that was under way when the last run ended."""
        stream = tail.stream
        intent = stream.replays.popleft()
        if intent.kind == "nothing" and not stream.skip:
            self._emit(stream, Cut(intent.end - intent.start), intent)
            return
        data = stream.read(reader, intent.start, intent.end - intent.start)
        framing = tail.framing or self._settings.frames.for_file(stream.read(reader, 0, 6))
        for cut in framing.cut(data, stream.skip, closed=True, limit=0):
            self._emit(stream, cut, intent, repeated=True)

    def _framing(self, tail: Tail, reader: Reader) -> Framing | None:
        """How this file is read; None if it should not be."""
        stream, frames = tail.stream, self._settings.frames
        first_bytes = stream.read(reader, 0, 6)
        if len(first_bytes) < unit_of(normal_name(frames.encoding)) and not self._settings.once:
            return None  # the byte order mark may be half written
        if stream.position == 0 and not stream.carry:
            if is_compressed(b"", first_bytes):
                self._ignore(tail, "looks compressed, not read")
                return None
            mark = mark_length(frames.encoding, first_bytes)
            if mark:
                self._pass_over(stream, reader, mark)
        tail.framing = frames.for_file(first_bytes) if first_bytes else None
        return tail.framing

    def _hand_over(self, stream: Stream, reader: Reader, cut: Cut, kind: str) -> None:
        start, end = stream.position, stream.position + cut.length
        if cut.lines:
            chunk = chunk_id(stream.source, stream.fingerprint(reader, end), start, end)
            intent = Intent(stream.source, start, end, chunk, kind, self._now_ns(), stream.anchor_at(reader, end))
        else:
            intent = Intent(stream.source, start, end, "", "nothing", anchor=stream.anchor_at(reader, end))
        self._intents.append(intent)
        self._emit(stream, cut, intent)

    def _emit(self, stream: Stream, cut: Cut, intent: Intent, *, repeated: bool = False) -> None:
        """The batch of a range whose intent is written down."""
        reading = stream.issue(intent.end, cut.skip, intent.anchor)
        if cut.nuls:
            self._notes.trouble("nul_bytes", stream.label, f"{cut.nuls} before a line, removed")
        if "truncated" in cut.marks.values():
            self._notes.trouble("long_line", stream.label, f"cut after {self._settings.frames.max_line_bytes} bytes")
        if not cut.lines:
            self._settled(stream, reading)
            return
        self._batches.append(
            self._make.batch(
                cut,
                stream.label,
                chunk=intent.chunk,
                read_ns=intent.read_ns,
                partial=intent.kind == "partial",
                repeated=repeated,
                settle=partial(self._settle, stream, reading),
            )
        )

    def _meet_nuls(self, tail: Tail, reader: Reader, size: int, short: bool) -> bool:
        """A hole, left by a writer that went on at its old position after a truncation, or data still to come (NFS)."""
        stream = tail.stream
        if short and tail.flush != "lines" and not self._settings.once:
            tail.at_end = True
            return False
        end = stream.position + size
        data_at = reader.next_data(stream.position - len(stream.carry))
        if data_at is not None and not short:
            end = max(end, data_at + len(stream.carry))
        self._notes.trouble("nul_bytes", stream.label, f"{end - stream.position} in a hole, passed over")
        self._pass_over(stream, reader, end)
        tail.flush = ""
        return not short

    def _pass_over(self, stream: Stream, reader: Reader, end: int) -> None:
        self._hand_over(stream, reader, Cut(end - stream.position, skip=stream.skip), "nothing")

    def can_carry(self, tail: Tail) -> bool:
        """Whether the open message at the end goes on at the beginning of the next file."""
        after = tail.successor
        if tail.stream.skip or after is None or tail.framing is None or not tail.framing.joins:
            return False
        fresh = after.stream.position == 0 and not after.stream.carry and after.waits_for is tail
        return fresh and tail.end - tail.stream.position <= self._settings.frames.max_line_bytes

    def _carry(self, tail: Tail, after: Tail, reader: Reader, data: bytes) -> None:
        """Leave what is open at the end of a rotated file to the file after it, in one transaction."""
        stream = after.stream
        stream.carry = data
        self.remember(stream)
        self._pass_over(tail.stream, reader, tail.stream.position + len(data))
        after.waits_for = tail.successor = None
