"""The daemon's own log: text for people, JSON for programs, with the same facts."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from logclf_daemon.cli.options import _Json
from logclf_daemon.events import LOGGER, InputNote, OutputAway, emit


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
