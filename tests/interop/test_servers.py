"""The real daemon sends to a foreign server: every record once, its answer awaited, its refusal understood."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daemon_process import Daemon
from interop.peers import (
    ALL,
    KEY,
    KEY_AND_USER,
    NAMES,
    PLAIN,
    TLS_ONLY,
    Peer,
    Protection,
    arrived,
    as_orders,
    at_server,
    configuration,
    entries,
    free_port,
    labelled,
    node,
)

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120), pytest.mark.usefixtures("npm_packages")]


def server(protection: Protection, port: int = 0) -> Peer:
    return node("fluent_org_server.js", port=port, **protection.orders())


def append(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def watching(folder: Path, port: int, **options: Any) -> tuple[str, str]:
    """Arguments of a daemon from the log files of a folder to a server."""
    source = {"type": "files", "paths": [f"{folder}/*.log"]}
    return configuration(folder, source, {"address": f"127.0.0.1:{port}", **options})


def lines(answers: list[Any]) -> list[tuple[str, str]]:
    """Line and label of all that came to a server."""
    return [(each.record["log"], each.record["logclf"]["label"]) for each in at_server(answers)]


@pytest.mark.parametrize(
    ("protection", "compress"),
    [(PLAIN, "none"), (PLAIN, "gzip"), (KEY, "none"), (TLS_ONLY, "none"), (ALL, "gzip")],
    ids=lambda each: NAMES.get(each, each),
)
def test_watched_files_arrive_once_at_a_server_of_npm(tmp_path: Path, protection: Protection, compress: str) -> None:
    rounds, size = 5, 100
    log = tmp_path / "app.log"
    with server(protection) as peer:
        arguments = watching(tmp_path, peer.answer()["port"], compress=compress, **protection.connecting())
        with Daemon(*arguments) as daemon:
            daemon.ready()
            for number in range(rounds):
                append(log, *(f"boom № {number}.{line}" for line in range(size)))
                peer.wait_for(1 + size * (number + 1))
            assert daemon.stop() == 0

        expected = [(f"boom № {number}.{line}", "Critical Error") for number in range(rounds) for line in range(size)]
        assert lines(peer.answers) == expected
        assert f"stopped delivered={rounds * size} returned=0" in daemon.said


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({"shared_key": "open"}, "login refused: the server said: shared key mismatch; check shared_key"),
        ({"shared_key": "sesame", "username": "ali", "password": "guess"}, "username/password mismatch"),
        ({}, "it asks for a login; set shared_key"),
    ],
    ids=["wrong key", "wrong password", "no login"],
)
def test_a_server_of_npm_that_refuses_the_login_gets_everything_after_the_right_one(
    tmp_path: Path, login: dict[str, str], words: str
) -> None:
    count = 50
    append(tmp_path / "app.log", *(f"boom {number}" for number in range(count)))
    with server(KEY_AND_USER) as peer:
        port = peer.answer()["port"]
        with Daemon(*watching(tmp_path, port, **login)) as daemon:
            daemon.wait_for(lambda daemon: words in daemon.said)
            daemon.kill()
        refused = len(peer.answers) - 1
        with Daemon(*watching(tmp_path, port, **KEY_AND_USER.connecting())) as daemon:
            peer.wait_for(1 + count)
            assert daemon.stop() == 0

        assert refused == 0
        assert lines(peer.answers) == [(f"boom {number}", "Critical Error") for number in range(count)]


def test_a_server_of_npm_that_was_away_gets_the_rest_when_it_is_back(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    port = free_port()
    with ExitStack() as stack:
        with server(ALL, port) as first:
            first.answer()
            daemon = stack.enter_context(Daemon(*watching(tmp_path, port, **ALL.connecting())))
            daemon.ready()
            append(log, "boom 1", "boom 2")
            first.wait_for(3)
        append(log, "boom 3", "boom 4")
        daemon.wait_for(lambda daemon: "output unavailable" in daemon.said)
        with server(ALL, port) as second:
            second.wait_for(3)
            assert daemon.stop() == 0

        came = [line for line, _ in lines(first.answers) + lines(second.answers)]
        assert came == ["boom 1", "boom 2", "boom 3", "boom 4"]


def test_from_clients_of_npm_to_a_server_of_npm_only_the_verdict_is_added(tmp_path: Path) -> None:
    modes = ["Message", "Forward", "PackedForward", "CompressedPackedForward"]
    parts = [entries(100, mode, first=100 * number) for number, mode in enumerate(modes)]
    port = free_port()
    source = {"type": "forward", "listen": f"127.0.0.1:{port}", **ALL.listening()}
    with server(ALL) as receiver:
        target = {"address": f"127.0.0.1:{receiver.answer()['port']}", **ALL.connecting()}
        with Daemon(*configuration(tmp_path, source, target)) as daemon:
            daemon.ready()
            for mode, part in zip(modes, parts, strict=True):
                orders = {"port": port, "mode": mode, "ack": True, "entries": as_orders(part)}
                with node("fluent_org_client.js", **ALL.orders(), **orders) as sender:
                    assert sender.answer() == {"sent": 100, "errors": []}
            assert daemon.stop() == 0

        assert arrived(at_server(receiver.answers)) == labelled(each for part in parts for each in part)
