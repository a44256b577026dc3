"""Foreign clients send to the real daemon, which passes on to a sink that acknowledges: every record once, whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fluent.sender import EventTime, FluentSender

from daemon_process import Daemon
from forward_sink import ForwardSink
from interop.peers import (
    ALL,
    KEY,
    KEY_AND_USER,
    NAMES,
    PLAIN,
    TLS_ONLY,
    Entry,
    Peer,
    Protection,
    arrived,
    as_orders,
    at_sink,
    configuration,
    entries,
    free_port,
    labelled,
    node,
)

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

FLUENT_ORG, FLUENT_LOGGER = "fluent_org_client.js", "fluent_logger_client.js"
MODES = {
    FLUENT_ORG: ["Message", "Forward", "PackedForward", "CompressedPackedForward"],
    FLUENT_LOGGER: ["Message", "PackedForward", "CompressedPackedForward"],
}
COUNT = 200
of_npm = pytest.mark.usefixtures("npm_packages")

Start = Callable[..., Peer]  # called with the orders


@dataclass(frozen=True, slots=True)
class Way:
    """A running daemon with a sink behind it."""

    daemon: Daemon
    sink: ForwardSink
    reach: dict[str, Any]  # orders: how its input is reached

    def check(self, sent: list[Entry]) -> None:
        """Stop the daemon; then nothing but what was sent must have come, once, each chunk under an id of its own."""
        assert self.daemon.stop() == 0
        assert f"stopped delivered={len(sent)} returned=0" in self.daemon.said
        assert arrived(at_sink(self.sink)) == labelled(sent)
        assert len(set(self.sink.chunks)) == len(self.sink.messages)


@contextmanager
def way(folder: Path, protection: Protection = PLAIN, listen: str = "", **output: Any) -> Iterator[Way]:
    port = 0 if listen else free_port()
    source = {"type": "forward", "listen": listen or f"127.0.0.1:{port}", **protection.listening()}
    with ForwardSink() as sink, Daemon(*configuration(folder, source, {"address": sink.address, **output})) as daemon:
        daemon.ready()
        yield Way(daemon, sink, {"port": port, "path": listen.removeprefix("unix://"), **protection.orders()})


def all_send(way_: Way, senders: Sequence[Start], *, ack: bool) -> list[Entry]:
    """All at once, entries of their own each; what was sent. With `ack`, what they call sent must be at the sink."""
    parts = [entries(COUNT, f"client{number}", first=number * COUNT) for number in range(len(senders))]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(start(**way_.reach, ack=ack, entries=as_orders(part)))
            for start, part in zip(senders, parts, strict=True)
        ]
        for client, part in zip(clients, parts, strict=True):
            told = client.answer()
            there = {each.record["n"] for each in at_sink(way_.sink)}
            assert told == {"sent": COUNT, "errors": []}
            assert not ack or there >= {each.record["n"] for each in part}
        way_.sink.records(COUNT * len(parts))
    return [each for part in parts for each in part]


def npm(script: str) -> list[Start]:
    """The client in each of its modes."""
    return [partial(node, script, mode=mode) for mode in MODES[script]]


# --- npm ----------------------------------------------------------------------------------------------------------

# fluent-logger is not asked to wait for acknowledgements over TLS: it listens for the answer only once node has called
# back after the write, and over TLS that can be after the answer came, which is then lost (measured: 1 run of 25).
WITH_ACK = [(FLUENT_ORG, each) for each in (PLAIN, KEY, TLS_ONLY, ALL)]
WITH_ACK += [(FLUENT_LOGGER, each) for each in (PLAIN, KEY, KEY_AND_USER)]
WITHOUT_ACK = [(FLUENT_ORG, PLAIN), (FLUENT_LOGGER, PLAIN), (FLUENT_LOGGER, ALL)]


@of_npm
@pytest.mark.parametrize(("script", "protection"), WITH_ACK, ids=lambda each: NAMES.get(each, each))
def test_what_a_client_of_npm_was_told_is_safe_is_at_the_sink(
    tmp_path: Path, script: str, protection: Protection
) -> None:
    with way(tmp_path, protection) as way_:
        sent = all_send(way_, npm(script), ack=True)

        way_.check(sent)


@of_npm
@pytest.mark.parametrize(("script", "protection"), WITHOUT_ACK, ids=lambda each: NAMES.get(each, each))
def test_a_client_of_npm_that_asks_for_no_acknowledgement_loses_nothing_on_a_good_day(
    tmp_path: Path, script: str, protection: Protection
) -> None:
    with way(tmp_path, protection) as way_:
        sent = all_send(way_, npm(script), ack=False)

        way_.check(sent)


@of_npm
@pytest.mark.parametrize("script", MODES)
def test_a_client_of_npm_with_a_wrong_login_is_refused_and_the_next_one_served(tmp_path: Path, script: str) -> None:
    wrong = [
        ({"key": "open"}, "Authentication failed: shared_key mismatch"),
        ({"password": "guess"}, "Authentication failed: username/password mismatch"),
        ({"user": "eve"}, "Authentication failed: username/password mismatch"),
    ]
    if script == FLUENT_ORG:  # the other one never notices: it sends, and takes the HELO for an answer
        wrong.append(({"key": ""}, "Server expected authentication"))
    refused = as_orders(entries(10, first=9000))
    with way(tmp_path, KEY_AND_USER) as way_:
        for login, words in wrong:
            with node(script, **{**way_.reach, **login}, mode="PackedForward", ack=True, entries=refused) as client:
                assert words in client.answer()["refused"]
        sent = all_send(way_, npm(script), ack=True)

        assert "what=handshake_refused" in way_.daemon.said
        way_.check(sent)


# --- Go -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["tcp", "tls", "unix"])
def test_what_the_go_client_was_told_is_safe_is_at_the_sink(tmp_path: Path, go_client: Start, network: str) -> None:
    listen = f"unix://{tmp_path}/in.sock" if network == "unix" else ""
    kinds = [partial(go_client, network=network, **{"async": queued}) for queued in (False, True)]
    with way(tmp_path, TLS_ONLY if network == "tls" else PLAIN, listen) as way_:
        sent = all_send(way_, kinds, ack=True)

        way_.check(sent)


def test_the_go_client_loses_nothing_while_the_daemon_is_killed_and_repeats_come_under_the_same_chunk_id(
    tmp_path: Path, go_client: Start
) -> None:
    sent, kills, port = entries(1000), 3, free_port()
    source = {"type": "forward", "listen": f"127.0.0.1:{port}"}
    with ForwardSink() as sink, ExitStack() as stack:
        arguments = configuration(tmp_path, source, {"address": sink.address})
        daemon = stack.enter_context(Daemon(*arguments))
        daemon.ready()
        client = stack.enter_context(go_client(network="tcp", port=port, ack=True, entries=as_orders(sent)))
        for kill in range(1, kills + 1):
            sink.records(200 * kill)
            daemon.kill()
            daemon = stack.enter_context(Daemon(*arguments))
        told = client.answer()

        assert told == {"sent": len(sent), "errors": []}
        assert daemon.stop() == 0
        assert arrived(at_sink(sink, repeated=False)) == labelled(sent)
        assert len(sink.entries) - len(sent) <= kills  # it sends one record at a time


# --- PyPI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["tcp", "unix"])
def test_fluent_logger_of_pypi_arrives_with_its_nanoseconds(tmp_path: Path, network: str) -> None:
    listen = f"unix://{tmp_path}/in.sock" if network == "unix" else ""
    sent = entries(COUNT)
    with way(tmp_path, listen=listen) as way_:
        sender = FluentSender("interop", host=listen or "127.0.0.1", port=way_.reach["port"])
        for each in sent:
            when = EventTime(each.sec, each.nano)
            assert sender.emit_with_time(each.tag.removeprefix("interop."), when, each.record)
        sender.close()
        way_.sink.records(COUNT)

        way_.check(sent)


# --- all of them --------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(npm_packages: None, go_client: Start) -> list[Start]:
    """Each client in each of its modes."""
    return [partial(go_client, network="tcp"), *npm(FLUENT_ORG), *npm(FLUENT_LOGGER)]


def test_all_clients_at_once_get_their_acknowledgements(tmp_path: Path, crowd: list[Start]) -> None:
    with way(tmp_path) as way_:
        sent = all_send(way_, crowd, ack=True)

        way_.check(sent)


def test_no_client_gets_its_acknowledgement_before_the_daemon_got_one(tmp_path: Path, crowd: list[Start]) -> None:
    with way(tmp_path, ack_timeout_secs=0.5) as way_:
        for number, start in enumerate(crowd):
            way_.sink.script.append("none")
            with start(**way_.reach, ack=True, entries=as_orders(entries(1, first=number))) as client:
                assert client.answer() == {"sent": 1, "errors": []}

            chunks = way_.sink.chunks
            assert chunks.count(chunks[-1]) >= 2
        assert arrived(at_sink(way_.sink, repeated=False)) == labelled(entries(len(crowd)))
