"""The daemon's own log: text for people, JSON for programs, fields for the journal, with the same facts."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logclf_daemon import events
from logclf_daemon.cli.options import _Json
from logclf_daemon.events import LOGGER, Bug, InputNote, InputTrouble, OutputAway, OutputBack, emit
from logclf_daemon.journal import JournalHandler, is_ours


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Json())
    level, handlers = LOGGER.level, LOGGER.handlers
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    yield stream
    LOGGER.handlers = handlers
    LOGGER.setLevel(level)


def test_an_event_is_one_object_with_its_facts(said: io.StringIO) -> None:
    emit(InputNote(input="files.0", what="found", where='/a "b"\n\x1b[2J'))

    (line,) = said.getvalue().rstrip("\n").split("\n")
    found = json.loads(line)
    assert found.pop("time") > 1e9
    assert found == {
        "level": "info",
        "event": "input",
        "input": "files.0",
        "what": "found",
        "where": '/a "b"\n\x1b[2J',
    }
    assert "\x1b" not in line


def test_a_repeated_event_is_held_back_as_json_too(said: io.StringIO) -> None:
    for _ in range(5):
        emit(OutputAway(output="json log test", error="away"))

    (line,) = said.getvalue().rstrip("\n").split("\n")
    assert json.loads(line)["level"] == "warning"


class Time:
    """A clock that only a test moves, and what shall happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alarms: list[tuple[float, Callable[[], None]]] = []

    def later(self, secs: float, call: Callable[[], None]) -> Time:
        self.alarms.append((self.now + secs, call))
        return self

    def cancel(self) -> None:
        self.alarms.clear()

    def pass_by(self, secs: float) -> None:
        end = self.now + secs
        while self.alarms and min(at for at, _ in self.alarms) <= end:
            self.now, call = self.alarms.pop(min(range(len(self.alarms)), key=lambda at: self.alarms[at][0]))
            call()
        self.now = end


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()
    monkeypatch.setattr(events, "_limiter", events.limiter(lambda: passing.now, passing.later))
    return passing


def unreadable(where: str, name: str = "files.0") -> InputTrouble:
    return InputTrouble(input=name, what="unreadable", where=where)


def told(said: io.StringIO) -> list[tuple[str, int]]:
    """What each line is about, and how many it stands for besides."""
    found = [json.loads(line) for line in said.getvalue().splitlines()]
    return [(line.get("where", line["event"]), line.get("held_back", 0)) for line in found]


def test_what_was_held_back_is_told_in_time_though_nothing_follows(said: io.StringIO, passing: Time) -> None:
    for at in range(300):
        emit(unreadable(f"/{at}"))
    assert told(said) == [("/0", 0)]

    passing.pass_by(9.9)
    assert told(said) == [("/0", 0)]
    passing.pass_by(0.1)

    assert told(said) == [("/0", 0), ("/299", 298)]
    passing.pass_by(100)
    assert len(told(said)) == 2
    assert passing.alarms == []


def test_a_flood_is_a_line_in_ten_seconds(said: io.StringIO, passing: Time) -> None:
    for _ in range(350):
        emit(unreadable("/a"))
        passing.pass_by(0.1)
    passing.pass_by(20)

    assert [where for where, _ in told(said)] == ["/a"] * 5
    assert sum(1 + held for _, held in told(said)) == 350


def test_each_kind_of_event_is_held_back_for_itself(said: io.StringIO, passing: Time) -> None:
    for _ in range(2):
        emit(unreadable("/a"))
    passing.pass_by(6)
    for _ in range(3):
        emit(unreadable("/b", "files.1"))
    passing.pass_by(5)
    assert told(said) == [("/a", 0), ("/b", 0), ("/a", 0)]
    passing.pass_by(5)

    assert told(said) == [("/a", 0), ("/b", 0), ("/a", 0), ("/b", 1)]


def test_what_was_held_back_says_how_long_ago_it_was(said: io.StringIO, passing: Time) -> None:
    emit(OutputAway(output="a", error="full"))
    passing.pass_by(2)
    emit(OutputAway(output="a", error="full"))
    emit(OutputBack(output="a", away_secs=1.0))
    passing.pass_by(10)

    found = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [(line["event"].split(";")[0], line.get("secs_ago")) for line in found] == [
        ("output unavailable", None),
        ("output available again", None),
        ("output unavailable", 8),  # told last, and over
    ]


def test_a_bug_that_repeats_shows_where_it_happened_once(said: io.StringIO, passing: Time) -> None:
    for at in range(3):
        try:
            raise ValueError(at)
        except ValueError as error:
            emit(Bug(where="test", error=repr(error)))
    passing.pass_by(10)

    first, last = (json.loads(line) for line in said.getvalue().splitlines())
    assert ("traceback" in first, "traceback" in last, last["held_back"]) == (True, False, 1)


def test_what_is_held_back_at_the_end_is_told_then(tmp_path: Path) -> None:
    script = """
from logclf_daemon.events import OutputAway, emit
for at in range(3):
    emit(OutputAway(output="a", error=f"{at}"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)

    assert [line.rsplit("error=")[1] for line in done.stderr.splitlines()] == ["0", "2 (and 1 more like this)"]


@pytest.fixture
def journal_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "journal"))
        bound.settimeout(5)
        yield bound


def fields_of(datagram: bytes) -> dict[str, str]:
    """An entry of the journal's native protocol."""
    found = {}
    while datagram:
        line, datagram = datagram.split(b"\n", 1)
        name, told, value = line.partition(b"=")
        if not told:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def instead() -> tuple[logging.Handler, io.StringIO]:
    stream = io.StringIO()
    return logging.StreamHandler(stream), stream


def test_in_the_journal_each_fact_is_a_field(journal_socket: socket.socket, said: io.StringIO, tmp_path: Path) -> None:
    handler, elsewhere = instead()
    LOGGER.handlers = [JournalHandler(handler, str(tmp_path / "journal"))]

    emit(OutputAway(output="out.1", error="refused\nPRIORITY=0"))

    fields = fields_of(journal_socket.recv(1 << 16))
    assert fields == {
        "MESSAGE": fields["MESSAGE"],
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "logclf-daemon",
        "LOGCLF_EVENT": OutputAway.message,
        "LOGCLF_OUTPUT": "out.1",
        "LOGCLF_ERROR": "refused\nPRIORITY=0",
    }
    assert fields["MESSAGE"].startswith(f"{OutputAway.message} output=out.1")
    assert "\n" not in fields["MESSAGE"]
    assert elsewhere.getvalue() == ""


def test_what_the_journal_does_not_take_goes_to_standard_error(said: io.StringIO, tmp_path: Path) -> None:
    handler, elsewhere = instead()
    LOGGER.handlers = [JournalHandler(handler, str(tmp_path / "no journal here"))]

    emit(OutputAway(output="out.2", error="refused"))

    assert "output=out.2" in elsewhere.getvalue()


def test_standard_error_is_the_journals_only_where_systemd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        looked = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{looked.st_dev}:{looked.st_ino + 1}")
        assert not is_ours()
        monkeypatch.setenv("JOURNAL_STREAM", f"{looked.st_dev}:{looked.st_ino}")
        assert is_ours()
