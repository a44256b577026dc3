"""The journald input on real journal files, read by the real journalctl (Debian: systemd, systemd-journal-remote)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doubles import until
from journal_doubles import Value, exported
from logclf_daemon.codec import text_bytes
from logclf_daemon.inputs.journald import JournaldInput, JournaldInputOptions
from logclf_daemon.record import Batch, Outcome, Record
from logclf_daemon.state import StateDb

pytestmark = pytest.mark.interop
BOOTS = ("b" * 32, "c" * 32)


class Journal:
    """A folder of journal files. Each `write` makes or replaces what journald would call its active file."""

    def __init__(self, folder: Path, remote: str) -> None:
        self.folder = folder
        self._remote = remote
        self._count = 0
        self._files = 0
        self.passed_secs = 0  # between the first entry and the coming ones
        folder.mkdir()

    def write(self, *messages: Value, boot: int = 0, **fields: Value) -> None:
        """More entries in a new file, the rotated ones before it."""
        written = b""
        for message in messages:
            self._count += 1
            meta: dict[str, Value] = {
                "__REALTIME_TIMESTAMP": str(1_700_000_000_000_000 + self.passed_secs * 1_000_000 + self._count * 1000),
                "__MONOTONIC_TIMESTAMP": str(self._count * 1000),
                "_BOOT_ID": BOOTS[boot],
                "_MACHINE_ID": "a" * 32,
                "SYSLOG_IDENTIFIER": "app",
            }
            written += exported({**meta, **fields, "MESSAGE": message})
        self._files += 1
        # Made elsewhere and moved in: journald itself makes a file and then fills it, which takes no longer.
        path = self.folder.parent / f"part{self._files}.journal"
        subprocess.run([self._remote, "-o", str(path), "-"], input=written, check=True, capture_output=True, timeout=50)
        path.rename(self.folder / f"system{self._files}.journal")


@pytest.fixture
def journal(tmp_path: Path, needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Journal:
    needs("journalctl")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/lib/systemd:/usr/lib/systemd")
    return Journal(tmp_path / "journal", needs("systemd-journal-remote"))


async def read(state: StateDb, journal: Journal, enough: Callable[[list[bytes | None]], bool] | None) -> list[Batch]:
    """One run, to the end of the journal or until it is `enough`."""
    options: dict[str, Any] = {"directory": str(journal.folder)}
    source = JournaldInput(JournaldInputOptions(**options), state=state, once=enough is None)
    batches: list[Batch] = []

    async def emit(batch: Batch) -> None:
        batches.append(batch)
        batch.settle(Outcome.DELIVERED)

    await source.open()
    running = asyncio.create_task(source.run(emit))
    if enough is not None:
        try:
            await until(lambda: enough(messages(batches)), secs=40)
        finally:
            source.stop()
    await asyncio.wait_for(running, 40)
    await source.close()
    return batches


def messages(batches: list[Batch]) -> list[bytes | None]:
    records = [record for batch in batches for record in batch.records if isinstance(record, Record)]
    return [text_bytes(record.fields["MESSAGE"]) for record in records]


def test_each_run_reads_what_is_new_through_rotation_and_reboot(journal: Journal) -> None:
    state = StateDb.in_memory()
    journal.write("one", b"two\n\nlines \xff", "x" * 100_000)
    first = messages(asyncio.run(read(state, journal, None)))
    journal.write("the last of this boot")
    journal.write("the first of the next", "three", boot=1)

    second = messages(asyncio.run(read(state, journal, None)))
    third = messages(asyncio.run(read(state, journal, None)))
    state.close()

    assert first == [b"one", b"two\n\nlines \xff", b"x" * 100_000]
    assert second == [b"the last of this boot", b"the first of the next", b"three"]
    assert third == []


def test_a_removed_file_costs_what_was_in_it_and_no_more(journal: Journal) -> None:
    state = StateDb.in_memory()
    journal.write("read")
    asyncio.run(read(state, journal, None))
    journal.write("kept")
    (journal.folder / "system1.journal").unlink()

    after = messages(asyncio.run(read(state, journal, None)))
    state.close()

    assert after == [b"kept"]


def test_a_cursor_that_is_none_costs_nothing_but_a_repetition(journal: Journal) -> None:
    state = StateDb.in_memory()
    journal.write("old", "read last")
    asyncio.run(read(state, journal, None))
    (offset,) = state.load_offsets("journald")
    state.commit([replace(offset, anchor=b"no cursor")])
    journal.write("new")

    after = messages(asyncio.run(read(state, journal, None)))
    state.close()

    assert after[-1] == b"new"
    assert len(after) <= 3


def test_a_journal_made_anew_after_the_clock_was_set_back_is_read_at_once(journal: Journal) -> None:
    state = StateDb.in_memory()
    journal.passed_secs = 2_000_000_000
    journal.write("in 2087")
    asyncio.run(read(state, journal, None))
    (journal.folder / "system1.journal").unlink()
    journal.passed_secs = 0
    journal.write("one", "two", boot=1)

    first = messages(asyncio.run(read(state, journal, None)))
    second = messages(asyncio.run(read(state, journal, None)))
    journal.write("three", boot=1)
    third = messages(asyncio.run(read(state, journal, None)))
    state.close()

    assert (first, second, third) == ([b"one", b"two"], [], [b"three"])


def test_following_goes_on_through_rotations(journal: Journal) -> None:
    state = StateDb.in_memory()
    journal.write("0")
    expected = [str(number).encode() for number in range(12)]
    written = 1

    def enough(seen: list[bytes | None]) -> bool:
        nonlocal written
        if len(seen) == written < len(expected):
            journal.write(*(expected[at].decode() for at in (written, written + 1) if at < len(expected)))
            written = min(written + 2, len(expected))
        return len(seen) >= len(expected)

    batches = asyncio.run(read(state, journal, enough))
    state.close()

    assert messages(batches) == expected
