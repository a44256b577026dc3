"""Reads the journal through one journalctl after the other, each beginning where the one before stopped.

First a run that ends by itself, from the cursor to the end of the journal, through all boots; then one that follows.
However the second ends - it is renewed now and then, since it keeps rotated files open - the first comes again: what
following may have missed at a rotation or a reboot is read then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from logclf_daemon.errors import ServiceUnavailable
from logclf_daemon.events import InputNote, InputTrouble, emit
from logclf_daemon.failpoint import reached
from logclf_daemon.inputs._journald.export import Entry, ExportParser
from logclf_daemon.inputs._journald.journalctl import NO_CURSOR, Journalctl, Selection, pause
from logclf_daemon.inputs._journald.records import numbered, written_us
from logclf_daemon.inputs._journald.windows import Windows
from logclf_daemon.record import Batch
from logclf_daemon.state import StateDb

COMMIT_SECS = 0.2
IDLE_SECS = 5.0
LOOKUP_SECS = 60.0
AHEAD_SECS = 30.0
FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS = 0.5, 30.0


@dataclass(slots=True)
class Step:
    """What to send, and whether that was all."""

    batches: list[Batch] = field(default_factory=list)
    done: bool = False


class JournalReader:
    """One `step` after the other in one thread; `wake` is readable when a step is to return soon."""

    def __init__(
        self,
        name: str,
        selection: Selection,
        windows: Windows,
        state: StateDb,
        *,
        wake: int,
        once: bool,
        max_field_bytes: int,
        renew_secs: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._selection = selection
        self._windows = windows
        self._state = state
        self._wake = wake
        self._once = once
        self._max_field_bytes = max_field_bytes
        self._renew_secs = renew_secs
        self._clock = clock
        self._now = now
        _, self._cursor, self._cursor_us = windows.safe
        self._committed = windows.safe
        self._read_before: tuple[str, int] | None = None  # up to which entry of a journal all are passed over
        self._known = False  # its position stands in the state database
        self._child: Journalctl | None = None
        self._parser = ExportParser(max_field_bytes)
        self._asked: str | None = None  # the cursor this run was begun with, until its first entry came
        self._following = False
        self._renew_at = 0.0
        self._pause_secs = FIRST_PAUSE_SECS
        self._resume_at = 0.0
        self._read_us = 0  # when the entry read last was written
        self.trouble = ""  # why the last run of journalctl failed, until an entry comes

    def skip_to_end(self) -> None:
        """Begin after what is there now."""
        if (entry := self._last(self._selection)) is not None:
            self._cursor, self._cursor_us = entry.cursor, written_us(entry)
            self._windows.begin_at(entry)

    def step(self) -> Step:
        """Read what comes, write it down; after a failure wait first.

        Raises:
            ServiceUnavailable: With `once`, journalctl cannot read the journal.
        """
        block = self._read()
        at_end = block == b"" and self._ended()
        if block:
            for entry in self._parser.feed(block):
                self._take(entry)
        batches, intents = self._windows.cut(at_end=at_end or self._following)
        if intents:
            reached("read")
            self._state.record_intents(intents, () if self._known else [self._windows.offset()])
            self._known = True
            reached("intent")
        self.commit()
        return Step(batches, done=at_end and self._once)

    def commit(self) -> None:
        """Write down the position if it moved."""
        safe = self._windows.safe
        if safe != self._committed or self._state.behind:
            reached("acked")
            self._state.commit([self._windows.offset()])
            self._committed, self._known = safe, True
            reached("committed")

    @property
    def unread_secs(self) -> float:
        """How old the entry read last is while there are more; 0 where the end was reached."""
        return 0.0 if self._following or not self._read_us else max(0.0, self._now() - self._read_us / 1e6)

    @property
    def unsaved(self) -> bool:
        return self._windows.safe != self._committed

    def close(self) -> None:
        """End journalctl, write down the position."""
        if self._child is not None:
            self._child.end()
            self._child = None
        self.commit()

    def _last(self, selection: Selection) -> Entry | None:
        """The newest entry there is now."""
        child, parser = Journalctl(selection.last()), ExportParser(self._max_field_bytes)
        last: Entry | None = None
        while block := child.read(self._wake, LOOKUP_SECS):
            for entry in parser.feed(block):
                last = entry
        child.end(by_itself=block is not None)
        return last

    def _read(self) -> bytes | None:
        wait_secs = COMMIT_SECS if self._windows.in_flight else IDLE_SECS
        if self._child is None and (left := self._resume_at - self._clock()) > 0:
            pause(self._wake, min(left, wait_secs))
            return None
        if self._child is None:
            self._start()
        if self._child is None:
            return None
        if self._following and self._clock() >= self._renew_at:
            return b""
        return self._child.read(self._wake, wait_secs)

    def _start(self) -> None:
        self._parser = ExportParser(self._max_field_bytes)
        self._asked = self._cursor or None
        # Following an entry of the future shows nothing where the journal was made anew: it is looked at again soon.
        self._renew_at = self._clock() + (min(AHEAD_SECS, self._renew_secs) if self._ahead else self._renew_secs)
        try:
            arguments = self._selection.arguments(self._cursor, since_us=self._cursor_us, follow=self._following)
            self._child = Journalctl(arguments)
        except ServiceUnavailable as error:
            self._failed(str(error))

    def _ended(self) -> bool:
        """The run is over: what comes next. True if the journal was read to its end."""
        assert self._child is not None
        child, self._child = self._child, None
        renewed = self._following and self._clock() >= self._renew_at
        code = child.end(by_itself=not renewed)
        was_following, self._following = self._following, False
        if renewed:
            return False
        if code == 0 or (not was_following and not child.complaint):
            if not was_following and self._asked is not None and self._ahead and self._begin_anew():
                return False
            self._following = not was_following and not self._once
            return not was_following
        if self._asked is not None and NO_CURSOR in child.complaint:
            self._go_by_time()
        else:
            self._failed(child.complaint or f"ended with {code}")
        return False

    def _go_by_time(self) -> None:
        """The stored cursor is none, and will be none next time too: the time of its entry tells where to go on."""
        resumes = (
            f"reading goes on at {_date(self._cursor_us)}" if self._cursor_us else "reading starts at the oldest entry"
        )
        detail = f"journalctl does not take the stored cursor; {resumes}, some entries may come twice"
        emit(InputTrouble(input=self._name, what="cursor", where="journal", detail=detail))
        self._cursor = ""

    @property
    def _ahead(self) -> bool:
        """Whether the clock was set back to before the entry that was read last."""
        return bool(self._cursor) and self._cursor_us > self._now() * 1e6

    def _begin_anew(self) -> bool:
        """Nothing comes after an entry of the future. True if the journal was made anew since, and is to be read.

        In the same journal entries are found by their number, whatever the clock says. One that was made anew, on a
        host that starts without a clock or where its files were removed, is searched by time: what it has would be
        passed over until the clock is where it was (systemd 6213).
        """
        try:
            last = self._last(Selection(directory=self._selection.directory))
        except ServiceUnavailable:
            return False
        before = numbered(self._cursor)
        if last is None or written_us(last) >= self._cursor_us or numbered(last.cursor)[0] == before[0]:
            return False
        dates = f"the entry read last is of {_date(self._cursor_us)}, the newest one of {_date(written_us(last))}"
        why = "the clock was set back and the journal made anew"
        detail = f"{dates}: {why}; all that is in it is read, some entries may come twice"
        emit(InputTrouble(input=self._name, what="clock", where="journal", detail=detail))
        self._read_before = before
        self._cursor, self._cursor_us = "", 0
        return True

    def _failed(self, complaint: str) -> None:
        if self._once:
            raise ServiceUnavailable(f"the journal cannot be read: {complaint}")
        self.trouble = complaint.splitlines()[-1]
        emit(InputTrouble(input=self._name, what="journalctl", where="journal", detail=self.trouble))
        self._resume_at = self._clock() + self._pause_secs
        self._pause_secs = min(self._pause_secs * 2, LONGEST_PAUSE_SECS)

    def _take(self, entry: Entry) -> None:
        asked, self._asked = self._asked, None
        self._pause_secs = FIRST_PAUSE_SECS
        if entry.cursor == asked:
            return  # the one read last
        if self._read_before is not None:
            journal, number = numbered(entry.cursor)
            if journal == self._read_before[0] and number <= self._read_before[1]:
                return
        if asked is not None and not self._following:
            emit(InputNote(input=self._name, what="the last entry read is gone from the journal", where=entry.cursor))
        self.trouble = ""
        self._cursor = entry.cursor
        self._read_us = self._cursor_us = written_us(entry)
        self._windows.add(entry)


def _date(microseconds: int) -> str:
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # of another age
        return f"{microseconds // 1_000_000} s after 1970"
