"""Entries to windows: what is read together, sent by program, and settled as one.

A window is written down before it is sent. After a crash the same entries make the same window, and its batches get the
same chunk ids: these are made of the cursors of their entries, so that nothing else can ever go out under them.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from logclf_daemon.acks import Watermark
from logclf_daemon.inputs._journald.export import Entry
from logclf_daemon.inputs._journald.records import record_of, source_of, text_of, written_us
from logclf_daemon.record import AnyRecord, Batch, Outcome
from logclf_daemon.state import Intent, Offset

WINDOW_BYTES = 1 << 20


@dataclass(slots=True)
class _Group:
    """The entries of one program in a window."""

    records: list[AnyRecord] = field(default_factory=list)
    lines: list[bytes | None] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True, eq=False)
class _Window:
    """How many of its batches are still under way, and where it ends."""

    start: int
    end: int
    cursor: str
    written_us: int
    open: int = 0


class Windows:
    """Cuts entries into windows and knows up to which cursor all is safe.

    Positions count entries since the input was first used; the cursor is what journalctl understands, and where it does
    not any more, there is the time its entry was written. `left_out` says which entries are read and not sent. Used by
    one thread; batches settle in any.
    """

    def __init__(
        self,
        name: str,
        offset: Offset,
        intents: Iterable[Intent],
        *,
        batch_lines: int,
        left_out: Callable[[Entry], bool],
    ) -> None:
        self._name = name
        self._offset = offset
        self._batch_lines = batch_lines
        self._left_out = left_out
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
        self._position = offset.position
        self._replays = _chain(offset.position, intents)
        self._watermark = Watermark(offset.position)
        self._cursors: deque[tuple[int, str, int]] = deque()
        written = int(offset.head) if offset.head.isdigit() and len(offset.head) < 20 else 0
        self.safe = (offset.position, offset.anchor.decode("ascii", "replace"), written)

    def add(self, entry: Entry) -> None:
        """One more entry, in the order of the journal."""
        self._entries.append(entry)

    def begin_at(self, entry: Entry) -> None:
        """Go on after this entry, whatever was before."""
        self.safe = (self._position, entry.cursor, written_us(entry))
        self._replays.clear()

    def cut(self, *, at_end: bool) -> tuple[list[Batch], list[Intent]]:
        """All that was added, as batches and what to write down before they leave.

        `at_end`: the journal was read to its end, so what was under way before a crash would be there.
        """
        batches: list[Batch] = []
        intents: list[Intent] = []
        while self._entries and (count := self._count(at_end=at_end)):
            taken = [self._entries.popleft() for _ in range(count)]
            for batch, intent in self._window(taken):
                batches.append(batch)
                intents.append(intent)
        return batches, intents

    @property
    def in_flight(self) -> int:
        """How many windows are not yet safe."""
        return self._watermark.in_flight

    def offset(self) -> Offset:
        """The safe position as it is written down: `anchor` is the cursor, `head` when that entry was written."""
        position, cursor, written = self.safe
        known = self._offset
        return Offset(
            source=known.source,
            input=known.input,
            device=0,
            inode=0,
            generation=0,
            path=known.path,
            position=position,
            head=str(written).encode() if written else b"",
            anchor=cursor.encode("ascii", "replace"),
        )

    def _count(self, *, at_end: bool) -> int:
        """How many entries the next window has; 0: wait for more."""
        if self._replays:
            count = self._replays[0][0] - self._position
            if count <= len(self._entries):
                return count
            if not at_end:
                return 0
            self._replays.clear()  # the journal has forgotten some of them
        size = 0
        for count, entry in enumerate(self._entries, 1):
            size += entry.size
            if count == self._batch_lines or size >= WINDOW_BYTES:
                return count
        return len(self._entries)

    def _window(self, entries: Sequence[Entry]) -> Iterable[tuple[Batch, Intent]]:
        start, self._position = self._position, self._position + len(entries)
        window = _Window(start, self._position, entries[-1].cursor, written_us(entries[-1]))
        groups: dict[str, _Group] = {}
        for entry in entries:
            if self._left_out(entry):
                continue
            group = groups.setdefault(source_of(entry), _Group())
            group.records.append(record_of(entry))
            group.lines.append(text_of(entry))
            group.cursors.append(entry.cursor)
            group.size += entry.size
        chunks = {source: chunk_id(self._name, source, group.cursors) for source, group in groups.items()}
        repeated = self._is_repetition(window.end, set(chunks.values()))
        settle = self._issued(window, len(groups))
        for at, (source, group) in enumerate(groups.items()):
            batch = Batch(
                source,
                group.records,
                settle,
                chunks[source],
                group.lines,
                input=self._name,
                alone=True,
                repeated=repeated,
                size=group.size,
            )
            # Each batch has a line of its own, found by where it starts; all of them are done with the window's end.
            yield batch, Intent(self._offset.source, start + at, window.end, chunks[source], kind="journal")

    def _is_repetition(self, end: int, chunks: set[str]) -> bool:
        if not self._replays:
            return False
        expected_end, expected = self._replays.popleft()
        if (expected_end, expected) == (end, chunks):
            return True
        self._replays.clear()  # other entries than before the crash: none of the old names holds
        return False

    def _issued(self, window: _Window, count: int) -> Callable[[Outcome], None]:
        token = self._watermark.issue(window.end)
        self._cursors.append((window.end, window.cursor, window.written_us))
        window.open = count

        def settle(outcome: Outcome) -> None:
            if outcome is not Outcome.DELIVERED:
                return  # it comes again after the next start
            with self._lock:
                window.open -= 1
                if window.open <= 0 and self._watermark.settle(token):
                    while self._cursors and self._cursors[0][0] <= self._watermark.position:
                        self.safe = self._cursors.popleft()

        if not count:
            settle(Outcome.DELIVERED)
        return settle


def chunk_id(name: str, source: str, cursors: Sequence[str]) -> str:
    """24 characters, the same whenever the same entries are sent together again."""
    hashed = hashlib.sha256("\0".join((name, source, *cursors)).encode("utf-8", "surrogateescape"))
    return b64encode(hashed.digest()[:18]).decode("ascii")


def _chain(position: int, intents: Iterable[Intent]) -> deque[tuple[int, set[str]]]:
    """The windows that were under way, one after the other: where each ends and its chunk ids."""
    windows: dict[int, tuple[int, set[str]]] = {}
    for intent in intents:
        start, chunks = windows.setdefault(intent.end, (intent.start, set()))
        chunks.add(intent.chunk)
        windows[intent.end] = (min(start, intent.start), chunks)
    chained: deque[tuple[int, set[str]]] = deque()
    for end in sorted(windows):
        start, chunks = windows[end]
        if start > position:
            chained.append((start, set()))  # of what stands there nothing was sent
        chained.append((end, chunks))
        position = end
    return chained
