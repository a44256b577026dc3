"""Random histories of a log file against a small model: nothing is lost, and what comes twice comes under one id."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logclf_daemon.inputs._tail.identity import Identity
from logclf_daemon.record import Outcome
from tail_doubles import Rig, copytruncate, lines_of

KEPT = 3  # rotated files


class History(RuleBasedStateMachine):
    """A program that writes numbered lines, logrotate, an operator, a downstream that acknowledges now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.rig = Rig(self.folder, paths=["a.log*"], batch_lines=3, read_bytes=64, max_unacked=4, idle_flush_secs=1e9)
        self.rig.acknowledging = False
        self.log = self.rig.path("a.log")
        self.log.touch()
        self.written = 0
        self.half = b""
        self.content: dict[Path, list[bytes]] = {self.log: []}
        self.may_miss: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.crashes = 0
        self.delivered: set[bytes] = set()

    # --- the program ------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), torn=st.booleans())
    def write(self, count: int, torn: bool) -> None:
        lines = [b"line %05d %s" % (self.written + at, b"x" * ((self.written + at) % 23)) for at in range(count)]
        self.written += count
        data = self.half + b"".join(line + b"\n" for line in lines)
        self.half = b""
        if torn:
            data, self.half = data[:-4], data[-4:]
        self.rig.write("a.log", data)
        self.content[self.log] += lines

    def finish_line(self) -> None:
        if self.half:
            self.rig.write("a.log", self.half)
            self.half = b""

    # --- what happens to the file -----------------------------------------------------------------------------------

    @rule()
    def rotate(self) -> None:
        self.finish_line()
        oldest = Path(f"{self.log}.{KEPT}")
        if oldest.exists():
            self.delete(oldest)
        for number in range(KEPT - 1, 0, -1):
            self.move(Path(f"{self.log}.{number}"), Path(f"{self.log}.{number + 1}"))
        self.move(self.log, Path(f"{self.log}.1"))
        self.log.touch()
        self.content[self.log] = []

    @rule()
    def remove(self) -> None:
        self.finish_line()
        self.delete(self.log)
        self.log.touch()
        self.content[self.log] = []

    @rule()
    def truncate(self) -> None:
        self.finish_line()
        self.lose(self.content[self.log], readable=False)
        os.truncate(self.log, 0)
        self.content[self.log] = []

    @precondition(lambda self: not Path(f"{self.log}.1").exists())
    @rule(looked_between=st.booleans())
    def copytruncate(self, looked_between: bool) -> None:
        self.finish_line()
        copy = Path(f"{self.log}.1")
        if looked_between:
            copy.write_bytes(self.log.read_bytes())
            self.step(1.0)
            os.truncate(self.log, 0)
        else:
            copytruncate(self.log, copy)
        self.content[copy], self.content[self.log] = self.content[self.log], []
        # What was never looked at before it was copied is read from the copy; the rules need the original seen first.
        self.read(6.0)

    def move(self, old: Path, new: Path) -> None:
        if old.exists():
            old.rename(new)
            self.content[new] = self.content.pop(old)

    def delete(self, path: Path) -> None:
        tail = self.rig.tailer.catalog.tails.get(Identity.of(path.stat()))
        self.lose(self.content.pop(path), readable=tail is not None and not tail.parked)
        path.unlink()

    def lose(self, lines: list[bytes], *, readable: bool) -> None:
        """The bytes of these lines have no name any more; an open descriptor may still lead to them."""
        self.gone |= set(lines)
        if not readable:
            self.may_miss |= set(lines) - self.delivered - set(lines_of(self.rig.waiting))

    # --- the daemon -------------------------------------------------------------------------------------------------

    @rule(secs=st.sampled_from([0.0, 0.2, 1.0, 6.0]))
    def step(self, secs: float) -> None:
        self.rig.step(secs)

    @rule(secs=st.sampled_from([1.0, 6.0]))
    def read(self, secs: float) -> None:
        self.rig.read(secs)

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.rig.waiting:
            chosen = data.draw(st.sets(st.integers(0, len(self.rig.waiting) - 1)))
            for at in sorted(chosen, reverse=True):
                self.settle(at)

    def settle(self, at: int) -> None:
        batch = self.rig.waiting.pop(at)
        self.delivered |= set(lines_of([batch]))
        batch.settle(Outcome.DELIVERED)

    @rule(arrived=st.booleans())
    def crash(self, arrived: bool) -> None:
        """What was under way arrived without its acknowledgement, or did not."""
        self.crashes += 1
        if arrived:
            self.delivered |= set(lines_of(self.rig.waiting))
        # The descriptors were the last way to what has no name any more.
        self.may_miss |= self.gone
        self.rig.crash()

    @rule()
    def restart(self) -> None:
        while self.rig.waiting:
            self.settle(0)
        self.may_miss |= self.gone - self.delivered
        self.rig.restart()

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_comes_twice_without_a_crash(self) -> None:
        if not self.crashes:
            assert len(self.rig.lines) == len(set(self.rig.lines))

    @invariant()
    def few_batches_are_ahead(self) -> None:
        assert all(tail.stream.in_flight <= 4 + 64 for tail in self.rig.tailer.catalog.tails.values())

    def teardown(self) -> None:
        try:
            self.finish_line()
            while self.rig.waiting:
                self.settle(0)
            self.rig.acknowledging = True
            self.delivered |= set(self.rig.settle_down(30))
            self.check()
        finally:
            self.rig.stop()
            shutil.rmtree(self.folder)

    def check(self) -> None:
        expected = {b"line %05d %s" % (number, b"x" * (number % 23)) for number in range(self.written)}
        chunks: defaultdict[bytes, set[str | None]] = defaultdict(set)
        for batch in self.rig.batches:
            for line in batch.lines or ():
                assert line is not None
                chunks[line].add(batch.chunk)

        assert expected - self.delivered <= self.may_miss
        assert set(chunks) <= expected
        assert {line: ids for line, ids in chunks.items() if len(ids) > 1} == {}


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
