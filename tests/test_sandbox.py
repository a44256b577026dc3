"""What the unit's sandbox forbids is told before the service meets it, and with the setting that allows it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from logclf_daemon.errors import OutputUnavailable
from logclf_daemon.outputs._forward.packing import Packet
from logclf_daemon.outputs._forward.sender import ForwardSender
from logclf_daemon.outputs._forward.targets import Target
from logclf_daemon.sandbox import Sandbox, writing_hint
from logclf_daemon.stages._llm.server import failure

UNIT = """\
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths=-/srv/named /srv/also
StateDirectory=logclf-daemon
CacheDirectory=logclf-daemon
LogsDirectory=logclf-daemon
RuntimeDirectory=logclf-daemon
User=logclf
Group=
SupplementaryGroups=adm
"""


def test_the_groups_of_the_service_are_those_of_the_unit_and_of_drop_ins() -> None:
    assert Sandbox.parsed(UNIT).groups == {"adm", "logclf"}
    more = UNIT.replace("Groups=adm", "Groups=adm www-data").replace("Group=\n", "Group=logs\n")
    assert Sandbox.parsed(more).groups == {"adm", "www-data", "logs"}


@pytest.fixture
def _as_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody-listens")


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("/srv/other", "ProtectSystem=strict); name it in ReadWritePaths="),
        ("/srv/namedx", "ReadWritePaths="),
        ("/home/me/out", "ProtectHome="),
        ("/tmp/out", "PrivateTmp="),
        ("/var/log/logclf-daemon", None),
        ("/var/log/private/logclf-daemon/deeper", None),
        ("/var/lib/logclf-daemon", None),
        ("/run/logclf-daemon", None),
    ],
)
def test_where_the_unit_lets_its_service_write(folder: str, words: str | None) -> None:
    refusal = Sandbox.parsed(UNIT).refusal(Path(folder))

    assert (words in refusal) if refusal is not None and words is not None else refusal == words


def test_a_folder_that_the_unit_names_must_be_open_to_the_user_of_the_service(tmp_path: Path) -> None:
    sandbox = Sandbox.parsed(UNIT.replace("PrivateTmp=yes", "PrivateTmp=no").replace("/srv/also", str(tmp_path)))
    closed, opened = tmp_path / "closed", tmp_path / "opened"
    closed.mkdir(mode=0o755)
    opened.mkdir()
    opened.chmod(0o777)

    assert f"sudo chgrp adm {closed}" in (sandbox.refusal(closed) or "")
    assert sandbox.refusal(opened) is None


@pytest.mark.usefixtures("_as_service")
def test_a_file_the_service_may_not_write_names_the_setting() -> None:
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))

    assert "ReadWritePaths=" in writing_hint("/srv/out.jsonl", error)
    assert "/srv " in writing_hint("/srv/out.jsonl", error)
    assert "ReadWritePaths=" not in writing_hint("/srv", OSError(errno.EISDIR, os.strerror(errno.EISDIR)))


@pytest.fixture
def silent() -> Iterator[Target]:
    """A port that answers no connection, as one behind a filter that drops packets: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for peer in waiting:
            peer.setblocking(False)
            peer.connect_ex(listener.getsockname())
        yield Target(*listener.getsockname())
        for peer in waiting:
            peer.close()


def _failed(target: Target) -> str:
    sender = ForwardSender(target, connect_timeout_secs=0.3)
    with pytest.raises(OutputUnavailable) as caught:
        sender.send_batch([Packet(b"", None)])
    return str(caught.value)


@pytest.mark.usefixtures("_as_service")
def test_a_connection_that_times_out_names_the_filter_of_the_unit(silent: Target) -> None:
    said = _failed(silent)

    assert "no connection within 0.3 s; IPAddressDeny= of the unit drops what IPAddressAllow= does not name" in said


def test_outside_of_a_service_nothing_is_said_of_a_unit(silent: Target) -> None:
    assert _failed(silent).endswith("no connection within 0.3 s")


@pytest.mark.usefixtures("_as_service")
def test_an_llm_that_cannot_be_connected_to_names_the_filter_too() -> None:
    failed = failure(httpx.ConnectTimeout("late"), "http://10.0.0.9:11434", "m")

    assert "no connection to http://10.0.0.9:11434" in failed.detail
    assert "IPAddressAllow=" in failed.detail
    assert "IPAddressAllow=" not in failure(httpx.ReadTimeout("late"), "http://10.0.0.9:11434", "m").detail
