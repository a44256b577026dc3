"""`ctl tap` and `ctl top`: a look at a running daemon that holds nothing up and never commands the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from daemon_process import Daemon
from doubles import FixedStage, cascade, rule
from logclf_daemon.cli import main
from logclf_daemon.cli.ctl import _tapped, _words
from logclf_daemon.control import ANSWER_SECS, LOOK_SECS, ask
from logclf_daemon.errors import ServiceUnavailable
from logclf_daemon.record import Batch
from logclf_daemon.tap import MAX_HELD, Tap

LINES: list[bytes | None] = [b"sshd: no", b"disk full", b"hello", None]


def tapped(tap: Tap, batches: int = 1) -> dict[str, object]:
    tested = cascade([rule("sshd", "Security Alert", id="sshd-any")], [FixedStage({"disk": "Resource Usage"})])
    tested.taps.append(tap)
    for _ in range(batches):
        asyncio.run(tested.classify_batch(Batch("app.log", [], lines=list(LINES))))
    return tap.take()


def test_a_tap_shows_what_passes_with_its_verdict() -> None:
    found = tapped(Tap())

    assert [(row["line"], row["label"], row["stage"]) for row in found["lines"]] == [  # type: ignore[attr-defined]
        ("sshd: no", "Security Alert", "rules"),
        ("disk full", "Resource Usage", "model"),
        ("hello", "Unclassified", "none"),
        ("", "Unclassified", "none"),
    ]


def test_a_tap_is_filtered_by_label_stage_and_source() -> None:
    assert [row["line"] for row in tapped(Tap(label="Security Alert"))["lines"]] == ["sshd: no"]  # type: ignore[attr-defined]
    assert [row["line"] for row in tapped(Tap(stage="model"))["lines"]] == ["disk full"]  # type: ignore[attr-defined]
    assert tapped(Tap(source="other*")) == {"lines": [], "missed": 0}


def test_a_tap_takes_so_many_a_second_and_tells_what_it_left_out() -> None:
    now = 0.0
    tap = Tap(per_sec=5, clock=lambda: now)

    found = tapped(tap, batches=10)

    assert (len(found["lines"]), found["missed"]) == (5, 35)  # type: ignore[arg-type]
    now = 0.4
    assert len(tapped(tap)["lines"]) == 2  # type: ignore[arg-type]


def test_a_tap_that_nobody_empties_stays_small() -> None:
    tap = Tap(per_sec=1e9)

    found = tapped(tap, batches=MAX_HELD)

    assert len(found["lines"]) == MAX_HELD  # type: ignore[arg-type]
    assert found["missed"] == 3 * MAX_HELD


def test_what_a_line_says_to_a_terminal_is_shown_and_not_obeyed() -> None:
    row = {
        "label": "Error",
        "stage": "rules",
        "rule": "x",
        "reason": None,
        "source": "a\x1b[2J",
        "line": "\x1b]0;t\x07\u202e",
    }

    shown = _tapped(row)

    assert "\\x1b[2J" in shown
    assert "\x1b]" not in shown
    assert "\u202e" not in shown


@contextlib.contextmanager
def somebody(folder: Path, answer: bytes | None) -> Iterator[Path]:
    """A control socket that answers each who asks, and hangs up; None: nobody answers, as if the daemon were halted."""
    path = folder / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # it is closed
                while True:
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(1000)
                        peer.sendall(answer or b"")

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("command", "patience"),
    [
        (["status"], "LOOK_SECS"),
        (["top", "--once"], "LOOK_SECS"),
        (["reload", "--no-wait"], "LOOK_SECS"),
        (["reload"], "ANSWER_SECS"),
    ],
)
def test_a_halted_daemon_is_given_up_on_soon_except_while_it_may_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], patience: str
) -> None:
    assert (LOOK_SECS, ANSWER_SECS) == (5, 60)
    for secs in ("LOOK_SECS", "ANSWER_SECS"):
        monkeypatch.setattr(f"logclf_daemon.cli.ctl.{secs}", 0.1 if secs == patience else 60)

    with somebody(tmp_path, None):
        done = CliRunner().invoke(main, ["ctl", *command, "--state-dir", str(tmp_path)])

    assert (done.exit_code, "no answer in 0.1 s" in done.stderr) == (69, True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "no answer in 0.1 s"), (b"", "it hung up without an answer"), (b"?\n", "no daemon answers")],
)
def test_what_does_not_answer_has_a_log_to_look_at_where_it_is_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, words: str
) -> None:
    secs = 0.1 if answer is None else 30
    with somebody(tmp_path, answer) as path:
        monkeypatch.setattr("logclf_daemon.control.SYSTEM_SOCKETS", (path,))
        with pytest.raises(ServiceUnavailable, match=words) as service:
            ask(path, "status", secs)
        monkeypatch.setattr("logclf_daemon.control.SYSTEM_SOCKETS", ())
        monkeypatch.setattr("logclf_daemon.control.SYSTEMD", tmp_path / "no systemd")
        with pytest.raises(ServiceUnavailable, match=words) as another:
            ask(path, "status", secs)

    for look in ("systemctl status logclf-daemon", "journalctl -u logclf-daemon"):
        assert look in str(service.value)
        assert look not in str(another.value)
    assert "state folder" not in str(service.value)
    assert "is it running, with this state folder?" in str(another.value)


def test_where_nobody_listens_systemd_is_named_if_it_may_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logclf_daemon.control.SYSTEMD", tmp_path)

    with pytest.raises(ServiceUnavailable) as error:
        ask(tmp_path / "control.sock", "status")

    assert str(error.value).endswith(
        "no daemon answers (No such file or directory); is it running, with this state folder? "
        "If it is a service, `systemctl status logclf-daemon` and `journalctl -u logclf-daemon` say why"
    )


STATUS: dict[str, Any] = {
    "version": "1",
    "uptime_secs": 3.2,
    "generation": 1,
    "rules": 2,
    "model": "off",
    "llm": "off",
    "state": {"directory": "/s", "lost": None},
    "troubles": [],
    "notes": [],
    "inputs": {"files.0": {"read": 3051, "lag_secs": 0.25, "lag_bytes": 0.0}},
    "outputs": {},
}


def test_status_of_a_daemon_that_is_well() -> None:
    assert _words(STATUS)[4:] == [
        "  state   directory /s",
        "  ready   yes",
        "  input   files.0: read 3051, lag secs 0.25, lag bytes 0",
    ]


def test_status_shows_a_few_of_many_troubles_and_every_note() -> None:
    troubles = [f"input files.0: /var/log/{at}\x1b[2J: Permission denied" for at in range(300)]

    shown = _words(STATUS | {"troubles": troubles, "notes": ["llm: absent"]})

    assert shown[5:7] == ["  ready   no:", "          input files.0: /var/log/0\\x1b[2J: Permission denied"]
    assert shown[11:13] == ["          and 295 more (--json has them all)", "  note    llm: absent"]


def test_tap_and_top_of_a_running_daemon(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("")
    state = ("--state-dir", str(tmp_path / "s"))
    with Daemon("--tail", str(log), "--to", str(tmp_path / "out"), "--no-llm", "--no-model", *state) as daemon:
        daemon.ready()
        runner = CliRunner()
        with log.open("a") as file:
            file.writelines(f"sshd[1]: Failed password for root from 10.0.0.{at} port 22 ssh2\n" for at in range(50))

        # The tap may open after the lines passed: they come again, until it has seen enough.
        async def seen() -> str:
            asking = asyncio.create_task(
                asyncio.to_thread(
                    runner.invoke, main, ["ctl", "tap", *state, "--json", "--limit", "3", "--stage", "rules"]
                )
            )
            while not asking.done():
                with log.open("a") as file:
                    file.write("sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2\n")
                await asyncio.wait([asking], timeout=0.1)
            result = await asking
            assert result.exit_code == 0, result.output
            return result.output

        rows = [json.loads(line) for line in asyncio.run(seen()).splitlines()]
        top = runner.invoke(main, ["ctl", "top", *state, "--once", "--every", "0.2"])

        assert [row["label"] for row in rows] == ["Security Alert"] * 3
        assert top.exit_code == 0, top.output
        assert "Security Alert" in top.output and "files.0" in top.output
        assert daemon.stop() == 0
