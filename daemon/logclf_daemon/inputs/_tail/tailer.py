"""Tails files in steps: *intent, send, ack, commit*.

A step looks around, reads a fair share of what is new, writes down in one transaction which ranges it is about to hand
over, and hands them over. When a range is safe, the position moves; after a crash the ranges that were written down
are cut, named and timed in exactly the same way before reading goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from logclf_daemon.events import input_lag_bytes
from logclf_daemon.failpoint import reached
from logclf_daemon.inputs._tail.catalog import Catalog
from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.identity import NOWHERE
from logclf_daemon.inputs._tail.lag import Lag
from logclf_daemon.inputs._tail.notes import Notes
from logclf_daemon.inputs._tail.reading import BlockReader
from logclf_daemon.inputs._tail.settings import TailSettings
from logclf_daemon.inputs._tail.stream import Reading, Stream
from logclf_daemon.inputs._tail.tail import Tail
from logclf_daemon.record import Batch, Outcome
from logclf_daemon.state import StateDb

COMMIT_SECS = 0.2
STEP_BYTES = 2 << 20  # a step hands over about so much, so that acknowledgements are looked at in between
STEP_VISITS = 512
SOON_SECS = 0.25  # between looks that hints of a watcher ask for; more where a look takes long


@dataclass(slots=True)
class Step:
    """What a step read, and how long to wait for the next one if nothing happens (0: there is more to read)."""

    batches: list[Batch] = field(default_factory=list)
    wait_secs: float = 0.0
    done: bool = False  # with `once`: everything was read


class Tailer:
    """Not thread-safe, but batches may be settled from any thread. `on_settled` is told of each, in that thread."""

    def __init__(
        self,
        settings: TailSettings,
        state: StateDb,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        filesystem: Filesystem | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._state = state
        self._clock = clock
        self._on_settled = on_settled
        self._notes = Notes(settings.name)
        self.catalog = Catalog(
            settings, filesystem or Filesystem(), self._notes, ready=self._queue, changed=self._mark_changed
        )
        self._blocks = BlockReader(
            settings,
            self._notes,
            now_ns=now_ns,
            settle=self._settle,
            settled=self._mark_safe,
            ignore=self.catalog.ignore,
        )
        self._ready: deque[Tail] = deque()
        self._blocked: set[Tail] = set()
        self._settled: deque[tuple[Stream, Reading, Outcome]] = deque()
        self._changed: dict[str, Stream] = {}
        self._reconcile_at = self._discover_at = self._committed_at = float("-inf")
        self._looking_secs = 0.0
        self._loaded = False
        self.discoveries = 0
        self.lag = Lag(clock())
        self.unreadable: tuple[tuple[str, str], ...] = ()  # path and why, as of the last look
        self._bytes_read = 0

    def step(self, dirty: Iterable[bytes] | None = ()) -> Step:
        """Look around where it is due, read, write down. `dirty`: paths that changed; None: look everywhere."""
        now = self._clock()
        self._take_settled()
        self._look_around(dirty, now)
        self._read(now)
        self._blocks.record(self._state)
        if now - self._committed_at >= COMMIT_SECS:
            self.commit()
        return Step(self._blocks.take(), self._wait_secs(now), done=self._settings.once and self._all_read())

    def commit(self) -> None:
        """Write down every position that moved, in one transaction."""
        self._take_settled()
        if self._changed or self._state.behind:
            offsets = [stream.offset() for stream in self._changed.values()]
            self._changed.clear()
            self._state.commit(offsets)
            reached("committed")
        self._committed_at = self._clock()

    def close(self) -> None:
        """Commit and close the files. What is still under way comes again after the next start."""
        self.commit()
        self.catalog.close()

    @property
    def unsaved(self) -> bool:
        """Whether acknowledgements came since the last look."""
        return bool(self._settled)

    # --- looking around ---------------------------------------------------------------------------------------------

    def _look_around(self, dirty: Iterable[bytes] | None, now: float) -> None:
        if not self._loaded:
            self.catalog.load(self._state)
            self._loaded = True
        if dirty is None:
            self._reconcile_at = self._discover_at = now
        else:
            self._take_hints(dirty, now)
        if now >= self._reconcile_at:
            self._reconcile_at = now + self._settings.reconcile_secs
            if self.catalog.reconcile(now):
                self._discover_at = now
            for tail in list(self.catalog.tails.values()):
                self._look_at_timers(tail, now)
            self._measure(now)
        if now >= self._discover_at and not (self._settings.once and self.catalog.discovered):
            self._discover_at = now + self._settings.discover_secs
            self.catalog.discover(now)
            self._looking_secs = self._clock() - now
            self.discoveries += 1

    def _measure(self, now: float) -> None:
        tails = [tail for tail in self.catalog.tails.values() if not tail.inflate]
        self.lag.note(self._bytes_read, sum(max(0, tail.end - tail.stream.position) for tail in tails), now)
        undelivered = sum(max(0, tail.end - tail.stream.safe_position) for tail in tails)
        input_lag_bytes.labels(self._settings.name).set(undelivered)
        self.unreadable = self.catalog.unreadable

    def _take_hints(self, dirty: Iterable[bytes], now: float) -> None:
        for path in dirty:
            tail = self.catalog.find(path)
            if tail is not None and self.catalog.look_at(tail, now):
                continue
            if tail is not None or self.catalog.may_matter(path):
                soon = now + max(SOON_SECS, 10 * self._looking_secs)
                self._reconcile_at = min(self._reconcile_at, soon)
                self._discover_at = min(self._discover_at, soon)

    def _look_at_timers(self, tail: Tail, now: float) -> None:
        """What happens to a file because nothing happened to it."""
        if tail.queued or tail in self._blocked or tail.parked:
            return
        settings = self._settings
        if tail.left_at is not None and now - max(tail.left_at, tail.changed_at) >= settings.rotate_wait_secs:
            self._end_rotated(tail)
        elif tail.unread and tail.at_end and now - tail.changed_at >= settings.idle_flush_secs:
            waiting = tail.successor is not None and tail.framing is not None and tail.framing.joins
            if not (tail.left_at is not None and waiting):
                tail.flush = "partial"
                self._queue(tail)
        elif tail.unread and not tail.at_end:
            self._queue(tail)

    def _end_rotated(self, tail: Tail) -> None:
        if tail.unread and tail.trouble == "":
            tail.flush = "carry" if self._blocks.can_carry(tail) else "lines"
            self._queue(tail)
        elif not tail.unread and tail.stream.in_flight == 0:
            self.catalog.park(tail)

    def _queue(self, tail: Tail) -> None:
        if not tail.queued:
            tail.queued = True
            self._ready.append(tail)

    def _mark_changed(self, stream: Stream) -> None:
        if stream.known:
            self._changed[stream.source] = stream
        elif stream.home != NOWHERE:
            self._blocks.remember(stream)

    def _wait_secs(self, now: float) -> float:
        if self._ready:
            return 0.0
        due = min(self._reconcile_at, self._discover_at)
        if self._changed:
            due = min(due, self._committed_at + COMMIT_SECS)
        return max(0.0, due - now)

    def _all_read(self) -> bool:
        return not self._ready and not any(tail.unread and not tail.trouble for tail in self.catalog.tails.values())

    # --- acknowledgements -------------------------------------------------------------------------------------------

    def _settle(self, stream: Stream, reading: Reading, outcome: Outcome) -> None:
        self._settled.append((stream, reading, outcome))
        if self._on_settled is not None:
            self._on_settled()

    def _mark_safe(self, stream: Stream, reading: Reading) -> None:
        if stream.settle(reading):
            self._changed[stream.source] = stream

    def _take_settled(self) -> None:
        while self._settled:
            stream, reading, outcome = self._settled.popleft()
            # RETURNED: nothing after it is committed; it all comes again after the next start, under the same ids.
            if outcome is Outcome.DELIVERED:
                self._mark_safe(stream, reading)
        for tail in [tail for tail in self._blocked if tail.stream.in_flight < self._settings.max_unacked]:
            self._blocked.discard(tail)
            self._queue(tail)

    @property
    def blocked(self) -> bool:
        """Whether a file waits for acknowledgements."""
        return bool(self._blocked)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        """One block of each file in turn, until the step is full."""
        budget, visits = STEP_BYTES, STEP_VISITS
        while self._ready and budget > 0 and visits > 0:
            tail = self._ready.popleft()
            tail.queued = False
            if tail.gone or tail.ignored:
                continue
            visits -= 1
            before, after = tail.stream.position, tail.successor
            try:
                more = self._visit(tail, now)
            except OSError as error:
                self.catalog.failed(tail, error, now)
                continue
            if after is not None and not more:
                self._queue(after)
            budget -= abs(tail.stream.position - before)
            self._bytes_read += 0 if tail.inflate else abs(tail.stream.position - before)
            if more:
                self._queue(tail)

    def _visit(self, tail: Tail, now: float) -> bool:
        """Read one block. True if there is more."""
        if tail.stream.in_flight >= self._settings.max_unacked:
            self._blocked.add(tail)
            return False
        if self._waits(tail, now):
            return False
        reader = self.catalog.reader(tail, now)
        if reader is None:
            return False
        if not tail.stream.recognises(reader):
            self.catalog.begin_anew(tail)
            return False
        if tail.stream.replays:
            self._blocks.replay(tail, reader)
            return True
        more = self._blocks.read(tail, reader)
        self.catalog.works(tail)
        return more

    def _waits(self, tail: Tail, now: float) -> bool:
        """Whether the file before it in the rotation has to be read first."""
        before = tail.waits_for
        if before is None:
            return False
        over = before.gone or before.trouble or now >= tail.waits_until or not before.unread
        if not over and not (before.left_at is not None and before.framing is not None and before.framing.joins):
            over = before.at_end or before.stream.position >= tail.waits_position
        if over:
            tail.waits_for = None
            before.successor = None if before.successor is tail else before.successor
        return not over
