"""The journald input on a double of journalctl: cursors, crashes, what journalctl gets wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from daemon_process import Daemon, command
from doubles import until
from journal_doubles import JournalDouble
from logclf_daemon.codec import event_time, text_bytes
from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.failpoint import POINTS
from logclf_daemon.inputs._journald.records import own_cgroup
from logclf_daemon.inputs.journald import JournaldInput, JournaldInputOptions
from logclf_daemon.record import Batch, Outcome, Record
from logclf_daemon.state import StateDb
from logclf_daemon.telemetry import Watched

Settling = Callable[[Batch], Outcome | None]
"""What becomes of a batch; None: it stays under way."""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalDouble:
    journal = JournalDouble(tmp_path)
    monkeypatch.setenv("PATH", f"{journal.program}:{os.environ['PATH']}")
    return journal


@pytest.fixture
def state_folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def delivered(_batch: Batch) -> Outcome:
    return Outcome.DELIVERED


async def read_to_end(state: StateDb | None, settle: Settling = delivered, **options: Any) -> list[Batch]:
    """All batches of one run with `once`."""
    batches: list[Batch] = []
    source = JournaldInput(JournaldInputOptions(**options), state=state, once=True)

    async def emit(batch: Batch) -> None:
        batches.append(batch)
        if (outcome := settle(batch)) is not None:
            batch.settle(outcome)

    await source.open()
    try:
        await source.run(emit)
    finally:
        await source.close()
    return batches


async def follow(state: StateDb | None, seen: list[Batch], enough: Callable[[], bool], **options: Any) -> None:
    """Run until it is enough."""
    source = JournaldInput(JournaldInputOptions(**options), state=state)

    async def emit(batch: Batch) -> None:
        seen.append(batch)
        batch.settle(Outcome.DELIVERED)

    await source.open()
    running = asyncio.create_task(source.run(emit))
    try:
        await until(enough, secs=30)
    finally:
        source.stop()
        await asyncio.wait_for(running, 30)
        await source.close()


def once(folder: Path, settle: Settling = delivered, **options: Any) -> list[Batch]:
    """One life of the daemon: the state is opened, the journal read to its end, all closed."""
    state = StateDb.open(folder)
    try:
        return asyncio.run(read_to_end(state, settle, **options))
    finally:
        state.close()


def messages(batches: list[Batch]) -> list[bytes | None]:
    """In the order of the journal."""
    records = [record for batch in batches for record in batch.records if isinstance(record, Record)]
    records.sort(key=lambda record: bytes(record.fields["__CURSOR"]))
    return [text_bytes(record.fields["MESSAGE"]) for record in records]


def test_a_record_has_every_field_the_time_of_the_entry_and_its_program_as_source(journal: JournalDouble) -> None:
    fields: dict[str, Any] = {"SYSLOG_IDENTIFIER": "sshd", "_PID": "7", "_SYSTEMD_UNIT": "ssh.service", "K": ["1", "2"]}
    cursor = journal.write("Failed password", **fields)

    (batch,) = asyncio.run(read_to_end(None))
    (record,) = batch.records

    assert isinstance(record, Record)
    assert {name: msgspec.msgpack.decode(value) for name, value in record.fields.items()} == {
        "__CURSOR": cursor,
        "__REALTIME_TIMESTAMP": "1700000000000001",
        **fields,
        "MESSAGE": "Failed password",
    }
    assert record.time == event_time(1_700_000_000_000_001_000)
    assert (batch.source, batch.lines) == ("sshd", [b"sshd[7]: Failed password"])


@pytest.mark.parametrize(
    ("fields", "source", "line"),
    [
        ({"SYSLOG_IDENTIFIER": "kernel"}, "kernel", b"kernel: m"),
        ({"_SYSTEMD_UNIT": "app.service", "_COMM": "python3", "_PID": "5"}, "app.service", b"python3[5]: m"),
        ({"_COMM": "python3"}, "python3", b"python3: m"),
        ({}, "journal", b"m"),
    ],
)
def test_the_source_and_the_line_come_from_what_is_known_of_the_writer(
    journal: JournalDouble, fields: dict[str, str], source: str, line: bytes
) -> None:
    journal.write("m", **fields)

    (batch,) = asyncio.run(read_to_end(None))

    assert (batch.source, batch.lines) == (source, [line])


def test_bytes_that_are_no_text_stay_as_they_are(journal: JournalDouble) -> None:
    journal.write(b"\x1b[1mtwo\n\nlines \xff")

    assert messages(asyncio.run(read_to_end(None))) == [b"\x1b[1mtwo\n\nlines \xff"]


def test_a_field_over_the_limit_is_cut_and_its_record_marked(journal: JournalDouble) -> None:
    journal.write("x" * 1000)
    journal.write("short")

    batches = asyncio.run(read_to_end(None, max_field_bytes=100))

    assert messages(batches) == [b"x" * 100, b"short"]
    records = [record for batch in batches for record in batch.records if isinstance(record, Record)]
    assert ["truncated" in record.fields for record in records] == [True, False]


def test_the_next_run_goes_on_where_this_one_ended(journal: JournalDouble, state_folder: Path) -> None:
    for number in range(5):
        journal.write(f"old {number}")
    first = once(state_folder)
    journal.write("new")

    second = once(state_folder)

    assert len(messages(first)) == 5
    assert messages(second) == [b"new"]
    assert journal.calls[-1][-1] == "--cursor=s=1;i=000005"


def test_the_cursor_stays_before_the_first_batch_that_is_not_safe(journal: JournalDouble, state_folder: Path) -> None:
    for number in range(30):
        journal.write(str(number))
    kept = once(state_folder, lambda batch: None if b"12" in (batch.lines or ()) else Outcome.DELIVERED, batch_lines=10)

    again = once(state_folder, batch_lines=10)

    assert [len(batch) for batch in kept] == [10, 10, 10]
    assert messages(again) == [str(number).encode() for number in range(10, 30)]


def test_after_a_crash_the_same_batches_have_the_same_chunk_ids(journal: JournalDouble, state_folder: Path) -> None:
    for number in range(40):
        journal.write(str(number), SYSLOG_IDENTIFIER=f"program{number % 3}")
    before = once(state_folder, lambda _batch: Outcome.RETURNED, batch_lines=7)
    journal.write("later", SYSLOG_IDENTIFIER="program1")

    again = once(state_folder, batch_lines=1000)

    same = again[: len(before)]
    assert [(batch.chunk, batch.lines) for batch in same] == [(batch.chunk, batch.lines) for batch in before]
    assert all(batch.repeated and batch.alone for batch in same)
    assert [batch.repeated for batch in again[len(before) :]] == [False]
    assert len({batch.chunk for batch in again}) == len(again)


def test_entries_left_out_do_not_break_the_chain_of_chunk_ids(journal: JournalDouble, state_folder: Path) -> None:
    options: dict[str, Any] = {"batch_lines": 2, "exclude_units": ["noise"]}
    for number in range(8):
        journal.write(str(number), _SYSTEMD_UNIT="noise.service" if 2 <= number < 6 else "app.service")
    before = once(state_folder, lambda _batch: Outcome.RETURNED, **options)

    again = once(state_folder, **options)

    assert messages(again) == [b"0", b"1", b"6", b"7"]
    assert [batch.chunk for batch in again] == [batch.chunk for batch in before]
    assert all(batch.repeated for batch in again)


def test_other_entries_never_go_out_under_an_old_chunk_id(journal: JournalDouble, state_folder: Path) -> None:
    for number in range(6):
        journal.write(str(number))
    before = once(state_folder, lambda _batch: Outcome.RETURNED, batch_lines=3)
    journal.vacuum(1)
    journal.write("6")

    again = once(state_folder, batch_lines=3)

    assert messages(again) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert not {batch.chunk for batch in before} & {batch.chunk for batch in again}
    assert not any(batch.repeated for batch in again)


def test_what_was_written_down_and_has_gone_from_the_journal_holds_nothing_up(
    journal: JournalDouble, state_folder: Path
) -> None:
    for number in range(6):
        journal.write(str(number))
    once(state_folder, lambda _batch: Outcome.RETURNED)
    journal.vacuum(4)

    assert messages(once(state_folder)) == [b"4", b"5"]


def test_no_entry_is_lost_where_the_one_read_last_has_gone(journal: JournalDouble, state_folder: Path) -> None:
    """`--after-cursor` would leave out the first of the others."""
    journal.write("old")
    once(state_folder)
    journal.write("new")
    journal.vacuum(1)

    assert messages(once(state_folder)) == [b"new"]


def spoil_cursor(folder: Path, **other: object) -> None:
    """What a foreign hand or a restored backup leaves in the state."""
    state = StateDb.open(folder)
    (offset,) = state.load_offsets("journald")
    state.commit([dataclasses.replace(offset, anchor=b"no cursor", **other)])  # type: ignore[arg-type]
    state.close()


def test_a_cursor_that_is_none_is_replaced_by_its_time_and_told_once(
    journal: JournalDouble, state_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write("long read")
    journal.passed_secs = 100
    journal.write("read last")
    once(state_folder)
    spoil_cursor(state_folder)
    journal.passed_secs = 200
    journal.write("new")

    with caplog.at_level("INFO", "logclf"):
        first, second = once(state_folder), once(state_folder)

    assert messages(first) == [b"read last", b"new"]  # by the second: one may come twice, none is lost
    assert messages(second) == []
    (told,) = [record for record in caplog.records if "stored cursor" in record.getMessage()]
    assert told.levelname == "WARNING"
    assert "2023-11-14T22:15:00" in told.getMessage()


FUTURE_SECS = 10_000_000_000


def test_a_journal_made_anew_after_the_clock_was_set_back_is_read_at_once_and_told_once(
    journal: JournalDouble, state_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.name, journal.passed_secs = "2", FUTURE_SECS
    journal.write("read last")
    once(state_folder)
    journal.made_anew("1", 0)  # by the clock it comes before what was read
    journal.write("new")

    with caplog.at_level("INFO", "logclf"):
        first, second = once(state_folder), once(state_folder)
    journal.write("newer")

    assert (messages(first), messages(second), messages(once(state_folder))) == ([b"new"], [], [b"newer"])
    (told,) = [record for record in caplog.records if "clock" in record.getMessage()]
    assert told.levelname == "WARNING"
    assert "read last is of 2340-" in told.getMessage() and "the newest one of 2023-" in told.getMessage()


def test_what_was_read_before_the_clock_was_set_back_does_not_come_again(
    journal: JournalDouble, state_folder: Path
) -> None:
    journal.name = "2"
    journal.write("read")
    journal.passed_secs = FUTURE_SECS
    journal.write("read last")
    once(state_folder)
    (journal.home / "000002.entry").unlink()
    journal.name, journal.passed_secs = "1", 10
    journal.write("new")

    assert messages(once(state_folder)) == [b"new"]


def test_following_an_entry_of_the_future_goes_on_in_a_journal_made_anew(
    journal: JournalDouble, state_folder: Path
) -> None:
    journal.name, journal.passed_secs = "2", FUTURE_SECS
    journal.write("read last")
    once(state_folder)
    journal.made_anew("1", 0)
    state = StateDb.open(state_folder)
    seen: list[Batch] = []

    def enough() -> bool:
        if journal.entries < 1 and any("--follow" in call for call in journal.calls):
            journal.write("new")
        return len(messages(seen)) == 1

    asyncio.run(follow(state, seen, enough, renew_secs=0.2))
    state.close()

    assert messages(seen) == [b"new"]


def test_in_the_same_journal_an_entry_of_the_future_is_no_reason_to_read_again(
    journal: JournalDouble, state_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.write("read")
    journal.passed_secs = FUTURE_SECS
    journal.write("read last")
    once(state_folder)
    (journal.home / "000002.entry").unlink()

    assert messages(once(state_folder)) == []
    assert not [record for record in caplog.records if "clock" in record.getMessage()]


def test_without_a_time_a_cursor_that_is_none_means_from_the_oldest_entry(
    journal: JournalDouble, state_folder: Path
) -> None:
    journal.write("old")
    once(state_folder)
    spoil_cursor(state_folder, head=b"")

    assert messages(once(state_folder)) == [b"old"]


def test_following_goes_on_after_a_cursor_that_is_none(journal: JournalDouble, state_folder: Path) -> None:
    journal.write("old")
    once(state_folder)
    spoil_cursor(state_folder)
    journal.passed_secs = 10
    state = StateDb.open(state_folder)
    seen: list[Batch] = []

    def enough() -> bool:
        if len(messages(seen)) == journal.entries < 4:
            journal.write(str(len(messages(seen))))
        return len(messages(seen)) == 4

    asyncio.run(follow(state, seen, enough))
    state.close()

    assert messages(seen) == [b"old", b"1", b"2", b"3"]


def test_a_journalctl_that_dies_is_started_again_where_it_stopped(journal: JournalDouble) -> None:
    for number in range(20):
        journal.write(str(number))
    journal.order({"entries": 7}, {"complaint": "Failed to open files: Too many open files"}, {"entries": 3})
    seen: list[Batch] = []

    asyncio.run(follow(None, seen, lambda: len(messages(seen)) >= 20))

    assert messages(seen) == [str(number).encode() for number in range(20)]


def test_what_keeps_it_from_reading_is_told(journal: JournalDouble) -> None:
    source = JournaldInput(JournaldInputOptions())
    journal.order({"complaint": "hint\nFailed to open files"})
    seen: list[list[str]] = []

    async def check() -> None:
        async def emit(batch: Batch) -> None:
            seen.append(source.troubles())
            batch.settle(Outcome.DELIVERED)

        await source.open()
        running = asyncio.create_task(source.run(emit))
        await until(lambda: source.troubles() == ["journalctl: Failed to open files"], secs=30)
        journal.write("old")
        await until(lambda: seen, secs=30)
        source.stop()
        await asyncio.wait_for(running, 30)
        await source.close()

    asyncio.run(check())

    assert seen == [[]]
    assert isinstance(source, Watched)


def test_it_reads_all_boots_before_it_follows(journal: JournalDouble) -> None:
    """`--follow` shows the present boot alone (systemd 36102): it begins where a run without it came to the end."""
    journal.write("old")
    seen: list[Batch] = []

    def enough() -> bool:
        if len(journal.calls) == 2 and journal.entries == 1:
            journal.write("new")
        return len(messages(seen)) == 2

    asyncio.run(follow(None, seen, enough))

    first, second = journal.calls
    assert "--follow" not in first
    assert second[-2:] == ["--follow", "--cursor=s=1;i=000001"]
    assert messages(seen) == [b"old", b"new"]


def test_following_is_renewed_and_nothing_is_lost_between(journal: JournalDouble) -> None:
    journal.write("0")
    seen: list[Batch] = []

    def enough() -> bool:
        if len(messages(seen)) == journal.entries < 10:
            journal.write(str(len(messages(seen))))
        return len(messages(seen)) == 10 and len(journal.calls) >= 6

    asyncio.run(follow(None, seen, enough, renew_secs=0.05))

    assert messages(seen) == [str(number).encode() for number in range(10)]


@pytest.mark.parametrize(("start_at", "lost"), [("end", False), ("checkpoint", True)])
def test_at_the_end_or_after_a_lost_state_it_reads_what_is_added(
    journal: JournalDouble, start_at: str, lost: bool
) -> None:
    state = StateDb.in_memory()
    state.lost, state.on_lost_state = lost, "tail"
    journal.write("old")
    seen: list[Batch] = []

    def enough() -> bool:
        if len(journal.calls) == 3 and journal.entries == 1:
            journal.write("new")
        return len(messages(seen)) == 1

    asyncio.run(follow(state, seen, enough, start_at=start_at))
    state.close()

    assert messages(seen) == [b"new"]


def test_start_at_beginning_reads_all_again(journal: JournalDouble, state_folder: Path) -> None:
    journal.write("old")
    once(state_folder)

    assert messages(once(state_folder, start_at="beginning")) == [b"old"]


def test_what_the_daemon_itself_writes_is_never_read(journal: JournalDouble) -> None:
    journal.write("ours", _PID=str(os.getpid()))
    journal.write("another's", _PID="1")

    assert messages(asyncio.run(read_to_end(None))) == [b"another's"]


@pytest.mark.parametrize(
    ("table", "cgroup"),
    [
        ("0::/system.slice/logclf-daemon.service\n", "/system.slice/logclf-daemon.service"),
        ("9:cpu:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", None),
        ("0::/\n", None),
    ],
)
def test_the_daemons_own_service_is_known_by_its_control_group(tmp_path: Path, table: str, cgroup: str | None) -> None:
    (tmp_path / "cgroup").write_text(table)

    assert own_cgroup(tmp_path / "cgroup") == cgroup


def test_the_options_become_arguments_of_journalctl(journal: JournalDouble) -> None:
    options: dict[str, Any] = {
        "units": ["ssh.service", "cron*"],
        "identifiers": ["sshd"],
        "priorities": "emerg..warning",
        "matches": ["_TRANSPORT=kernel"],
        "directory": "/var/log/journal/remote",
    }

    asyncio.run(read_to_end(None, **options))

    assert journal.calls[0][4:] == [
        "--unit=ssh.service",
        "--unit=cron*",
        "--identifier=sshd",
        "--priority=emerg..warning",
        "--directory=/var/log/journal/remote",
        "_TRANSPORT=kernel",
    ]


@pytest.mark.parametrize(
    "options", [{"matches": ["--flush"]}, {"matches": ["/bin/sh"]}, {"priorities": "loud"}, {"units": [""]}]
)
def test_what_is_no_selection_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JournaldInputOptions(**options)


def test_a_host_without_journalctl_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="no journalctl here"):
        asyncio.run(read_to_end(None))


def test_with_once_a_journal_that_cannot_be_read_is_an_error(journal: JournalDouble) -> None:
    journal.order({"complaint": "No journal files were opened due to insufficient permissions."})

    with pytest.raises(ServiceUnavailable, match="insufficient permissions"):
        asyncio.run(read_to_end(None))


def config_file(folder: Path) -> str:
    path = folder / "c.yaml"
    path.write_text(
        "inputs: [{type: journald, batch_lines: 20}]\n"
        f"outputs: [{{type: jsonl, path: '{folder}/out.jsonl'}}]\n"
        f"state: {{directory: '{folder}/state'}}\n"
        "rules: {builtin: false}\nmodel: {enabled: false}\nllm: {enabled: false}\n"
    )
    return str(path)


def written(folder: Path) -> list[str]:
    path = folder / "out.jsonl"
    return [json.loads(line)["MESSAGE"] for line in path.read_text().splitlines()] if path.exists() else []


def test_run_reads_the_journal_from_where_it_stopped(journal: JournalDouble, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    for life in range(2):
        for number in range(50):
            journal.write(f"{life} {number}")

        done = subprocess.run([*command(), "run", "-c", config, "--once"], timeout=50, capture_output=True, check=False)

        assert done.returncode == 0, done.stderr.decode()

    assert written(tmp_path) == [f"{life} {number}" for life in range(2) for number in range(50)]


@pytest.mark.crash
@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", [point for point in POINTS if point != "sent"])  # that one is the forward output's
def test_a_death_between_any_two_steps_loses_no_entry(journal: JournalDouble, tmp_path: Path, point: str) -> None:
    config = config_file(tmp_path)
    codes = []
    for life in range(2):
        for number in range(100):
            journal.write(f"{life} {number}")
        with Daemon("--config", config, "--once", environment={"LOGCLF_FAILPOINT": point}) as daemon:
            codes.append(daemon.ended())

    with Daemon("--config", config, "--once") as daemon:
        assert daemon.ended() == 0, daemon.said

    assert codes == [-signal.SIGKILL] * 2
    assert set(written(tmp_path)) == {f"{life} {number}" for life in range(2) for number in range(100)}


@pytest.mark.parametrize(
    ("order", "state", "says"),
    [
        ({}, "ok  ", "journal of this host: readable"),
        ({"complaint": "No journal files were opened due to insufficient permissions."}, "FAIL", "permissions"),
        ({"hint": "Hint: You are currently not seeing messages from other users."}, "FAIL", "its own entries only"),
    ],
)
def test_doctor_tells_whether_the_journal_can_be_read(
    journal: JournalDouble, tmp_path: Path, order: dict[str, str], state: str, says: str
) -> None:
    journal.write("m")
    journal.order(order)

    done = subprocess.run(
        [*command(), "doctor", "-c", config_file(tmp_path)], timeout=50, capture_output=True, check=False
    )

    (line,) = [line for line in done.stdout.decode().splitlines() if "journal" in line and "->" not in line]
    assert line.startswith(state)
    assert says in line
