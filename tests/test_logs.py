"""The daemon's own log: text for people, JSON for programs, fields for the journal, with the same facts."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from logclf_daemon.cli.options import _Json
from logclf_daemon.events import LOGGER, InputNote, OutputAway, emit
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
