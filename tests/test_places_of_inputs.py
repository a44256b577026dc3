"""Inputs are called by their place in the configuration: a new place is no reason to read anything again."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fault_doubles import configuration
from journal_doubles import JournalDouble
from logclf_daemon.config import Config
from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.globs import Globs
from logclf_daemon.service import Service


def files(*paths: Path) -> dict[str, Any]:
    return {"type": "files", "paths": [str(path) for path in paths]}


def read(folder: Path, *inputs: dict[str, Any]) -> list[str]:
    """What one run with `once` delivers."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    config = configuration(folder, {"type": "jsonl", "path": str(out)}, inputs=list(inputs))
    asyncio.run(Service(Config.model_validate(config), once=True).run())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return sorted(row.get("log", row.get("MESSAGE")) for row in rows)


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_nothing_comes_again_when_another_input_is_put_before(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one", "two")
    before = read(tmp_path, files(app))
    append(app, "three")
    append(other, "new")

    after = read(tmp_path, files(other), files(app))

    assert before == ["one", "two"]
    assert after == ["new", "three"]


def test_nothing_comes_again_or_twice_when_inputs_change_places(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one")
    append(other, "two")
    read(tmp_path, files(app), files(other))
    for name in ("three", "four"):
        append(app, name)

        assert read(tmp_path, files(other), files(app)) == [name]


def test_a_file_rotated_meanwhile_is_finished_by_the_input_in_its_new_place(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one")
    read(tmp_path, files(app))
    append(app, "two")
    app.rename(tmp_path / "app.log.1")
    append(app, "three")

    assert read(tmp_path, files(other), files(app)) == ["three", "two"]


def test_what_no_pattern_matches_any_more_is_not_read_any_more(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one")
    read(tmp_path, files(app))
    append(app, "not for us")
    append(other, "two")

    assert read(tmp_path, files(other)) == ["two"]


def test_a_stream_of_the_same_place_and_file_gets_a_key_of_its_own(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one")
    read(tmp_path, files(app))
    read(tmp_path, files(other), files(app))
    app.rename(other)
    append(other, "two")

    # The second finishes the file it knows; to the first, in whose place it was read before, it is new.
    assert read(tmp_path, files(other), files(app)) == ["one", "two", "two"]
    assert read(tmp_path, files(other), files(app)) == []


def test_two_inputs_that_read_the_same_file_keep_a_position_each(tmp_path: Path) -> None:
    app, other = tmp_path / "app.log", tmp_path / "other.log"
    append(app, "one")
    read(tmp_path, files(app), files(app))
    append(app, "two")

    assert read(tmp_path, files(other), files(app), files(app)) == ["two", "two"]


def test_the_journal_is_not_read_again_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = JournalDouble(tmp_path)
    monkeypatch.setenv("PATH", f"{journal.program}:{os.environ['PATH']}")
    journal.write("one")
    before = read(tmp_path, {"type": "journald"})
    journal.write("two")

    after = read(tmp_path, files(tmp_path / "app.log"), {"type": "journald"})

    assert (before, after) == (["one"], ["two"])


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/var/log/app.log", "/var/log/app.log", True),
        ("/var/log/*.log", "/var/log/app.log", True),
        ("/var/log/*.log", "/var/log/app.log.1", False),
        ("/var/log/*.log", "/var/log/app/x.log", False),
        ("/var/log/**/*.log", "/var/log/x.log", True),
        ("/var/log/**/*.log", "/var/log/a/b/x.log", True),
        ("/var/log/**/*.log", "/var/log/a/b/x.txt", False),
        ("/var/log/**", "/var/log/a/b/x.txt", True),
        ("/var/*/app[0-9].log", "/var/log/app7.log", True),
        ("/var/*/app[0-9].log", "/var/log/appx.log", False),
        ("/var/log/*", "/var/log/app.log.gz", False),
        ("/var/log/*", "/var/log/debug.log", False),
    ],
)
def test_a_name_is_known_to_match_without_a_look_at_the_disk(pattern: str, path: str, matches: bool) -> None:
    globs = Globs(Filesystem(), [pattern], ["debug*"], inflate=False)

    assert globs.matches(os.fsencode(path)) is matches


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:24224", "127.0.0.1:24224"),
        ("127.0.0.1:24224", "forward://localhost"),
        ("unix:///run/x.sock", "forward+unix:///run/x.sock"),
    ],
)
def test_an_output_that_leads_back_to_an_input_is_refused(tmp_path: Path, listen: str, address: str) -> None:
    output = {"type": "forward", "address": ["10.0.0.1:24224", address]}
    config = configuration(tmp_path, output, inputs=[{"type": "forward", "listen": listen}])

    with pytest.raises(ConfigError, match=r"outputs\.0\.address: .* is where this daemon itself listens"):
        asyncio.run(Service(Config.model_validate(config)).run())
