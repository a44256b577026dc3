"""Foreign programs that speak the forward protocol, as processes, and the daemon between them.

A peer takes its orders as one line of JSON on standard input, answers in lines of JSON, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from forward_sink import ForwardSink

HERE = Path(__file__).parent
TLS = HERE.parent / "data" / "forward" / "tls"
INSTALLED = os.environ.get("LOGCLF_INTEROP_DIR", "")
REQUIRED = "interop" in os.environ.get("LOGCLF_TEST_REQUIRE", "").split(",")
GO_SOURCES = Path("/usr/share/gocode")
DEADLINE_SECS = 40.0


def absent(what: str) -> NoReturn:
    """Skip the test, or fail it where CI requires these programs."""
    words = f"{what}; see tests/interop/install"
    if REQUIRED:
        pytest.fail(words)
    pytest.skip(words)


def program(name: str) -> str:
    return shutil.which(name) or absent(f"{name} is not installed")


# --- what is sent -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, in words that all languages have. `record["n"]` tells it from all others."""

    tag: str
    sec: int
    nano: int
    record: dict[str, Any]


def entries(count: int, tag: str = "interop", first: int = 0) -> list[Entry]:
    """Entries of two tags, each with a time of its own to the nanosecond; every seventh deserves a label."""
    return [
        Entry(
            f"{tag}.{number % 2}",
            1_700_000_000 + number,
            123_456_789 + number,
            {
                "n": number,
                "log": f"boom {number}" if number % 7 == 0 else f"grüße № {number}\t" + "x" * (number % 50),
                "nested": {"list": [1, -2, 2.5, "drei", None, True], "empty": {}},
                "large": 4_294_967_296 * 1000 + number,
            },
        )
        for number in range(first, first + count)
    ]


def as_orders(sent: Iterable[Entry]) -> list[dict[str, Any]]:
    return [{"tag": each.tag, "sec": each.sec, "nano": each.nano, "record": each.record} for each in sent]


@dataclass(frozen=True, slots=True)
class Protection:
    """What both ends of a connection demand of each other."""

    key: str | None = None
    user: str | None = None
    password: str | None = None
    tls: bool = False

    def listening(self) -> dict[str, Any]:
        """For our forward input."""
        options: dict[str, Any] = {"shared_key": self.key} if self.key else {}
        if self.user:
            options["users"] = {self.user: self.password}
        if self.tls:
            options["tls"] = {"cert": str(TLS / "server.pem"), "key": str(TLS / "server.key")}
        return options

    def connecting(self) -> dict[str, Any]:
        """For our forward output."""
        options = {"shared_key": self.key, "username": self.user, "password": self.password}
        options = {name: value for name, value in options.items() if value}
        return {**options, "tls": {"ca": str(TLS / "ca.pem")}} if self.tls else options

    def orders(self) -> dict[str, Any]:
        """For a peer; a client takes what it needs of it, a server the rest."""
        files = {"ca": "ca.pem", "cert": "server.pem", "cert_key": "server.key"} if self.tls else {}
        paths = {name: str(TLS / file) for name, file in files.items()}
        return {"key": self.key, "user": self.user, "password": self.password, **paths}


PLAIN = Protection()
KEY = Protection(key="sesame")
KEY_AND_USER = Protection(key="sesame", user="ali", password="baba")
TLS_ONLY = Protection(tls=True)
ALL = Protection(key="sesame", user="ali", password="baba", tls=True)
NAMES = {PLAIN: "plain", KEY: "key", KEY_AND_USER: "key and user", TLS_ONLY: "TLS", ALL: "TLS, key and user"}


# --- who sends and who receives -----------------------------------------------------------------------------------


class Peer:
    """A foreign program from its orders until `dismiss`; use as a context manager."""

    def __init__(self, command: Sequence[str], orders: dict[str, Any], **environment: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **environment},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._answers: list[Any] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._stdin.write(json.dumps(orders).encode() + b"\n")
        self._stdin.flush()

    def _read(self) -> None:
        for line in self._stdout:
            with self._changed:
                self._answers.append(json.loads(line))
                self._changed.notify_all()

    @property
    def answers(self) -> list[Any]:
        with self._changed:
            return list(self._answers)

    def wait_for(self, count: int) -> list[Any]:
        """Wait until it has given so many answers, then all that came."""
        deadline = time.monotonic() + DEADLINE_SECS
        with self._changed:
            while len(self._answers) < count:
                ended = self._process.poll() is not None and not self._reader.is_alive()
                assert not ended, f"the peer ended after {len(self._answers)} answers:\n{self._words()}"
                assert time.monotonic() < deadline, f"{len(self._answers)} answers, then silence:\n{self._words()}"
                self._changed.wait(0.05)
        return self.answers

    def answer(self) -> Any:
        """Its first answer: the only one of a client, the port of a server."""
        return self.wait_for(1)[0]

    def dismiss(self) -> int:
        """End its input; the exit code. Whatever it still said is among the answers."""
        self._stdin.close()
        code = self._process.wait(DEADLINE_SECS)
        self._reader.join(DEADLINE_SECS)
        return code

    def _words(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode("utf-8", "replace")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                assert self.dismiss() == 0, self._words()
        finally:
            self._process.kill()
            self._process.wait(DEADLINE_SECS)
            self._reader.join(DEADLINE_SECS)
            for stream in (self._stdin, self._stdout, self._stderr):
                stream.close()


def node_modules() -> Path:
    """Where the packages of npm are."""
    program("node")
    if not INSTALLED:
        absent("LOGCLF_INTEROP_DIR is not set")
    modules = Path(INSTALLED) / "node_modules"
    return modules if modules.is_dir() else absent(f"LOGCLF_INTEROP_DIR: {modules} is not there")


def node(script: str, **orders: Any) -> Peer:
    """Start one of the programs beside this file, with the packages of npm."""
    return Peer([program("node"), str(HERE / script)], orders, NODE_PATH=str(node_modules()))


def build_go_client(folder: Path) -> str:
    """Compile the Go client against Debian's library; the path of the program."""
    go = program("go")
    if not (GO_SOURCES / "src/github.com/fluent/fluent-logger-golang").is_dir():
        absent("golang-github-fluent-fluent-logger-golang-dev is not installed")
    target = str(folder / "go_client")
    settings = {"GO111MODULE": "off", "GOPATH": str(GO_SOURCES), "GOCACHE": str(folder / "cache"), "GOFLAGS": ""}
    built = subprocess.run(
        [go, "build", "-o", target, str(HERE / "go_client.go")],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return target


# --- the daemon between them --------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configuration(folder: Path, source: dict[str, Any], target: dict[str, Any]) -> tuple[str, str]:
    """Arguments of the daemon: one input, one forward output, one rule (`boom`) and nothing else that answers."""
    rules = folder / "rules.yaml"
    rules.write_text("version: 1\nrules: [{id: boom, label: Critical Error, pattern: '^boom', examples: [boom 0]}]\n")
    config = {
        "inputs": [source],
        "outputs": [{"type": "forward", **target}],
        "rules": {"builtin": False, "paths": [str(rules)]},
        "model": {"enabled": False},
        "llm": {"enabled": False},
        "state": {"directory": str(folder / "state")},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return "--config", str(path)


def labelled(sent: Iterable[Entry]) -> list[tuple[Entry, str]]:
    """What must arrive: each entry once, with its label, in the order of `n`."""
    expected = [(each, "Critical Error" if each.record["n"] % 7 == 0 else "Unclassified") for each in sent]
    return sorted(expected, key=_number)


def arrived(found: Iterable[Entry]) -> list[tuple[Entry, str]]:
    """What did arrive, in the order of `n`, the verdict parted from the record."""
    parted = []
    for each in found:
        record = dict(each.record)
        verdict = record.pop("logclf")
        parted.append((Entry(each.tag, each.sec, each.nano, record), verdict["label"]))
    return sorted(parted, key=_number)


def _number(labelled_entry: tuple[Entry, str]) -> int:
    number: int = labelled_entry[0].record["n"]
    return number


def at_sink(sink: ForwardSink, *, repeated: bool = True) -> list[Entry]:
    """Everything that came to our own sink; `repeated` False leaves out chunks that came before."""
    seen: set[bytes] = set()
    found = []
    for message in list(sink.messages):
        chunk = message.options[b"chunk"]
        if repeated or chunk not in seen:
            for when, record in message.entries:
                sec, nano = struct.unpack(">II", when.data)
                found.append(Entry(message.tag.decode(), sec, nano, _text(record)))
        seen.add(chunk)
    return found


def at_server(answers: Iterable[Any]) -> list[Entry]:
    """Everything that a foreign server said it got."""
    return [Entry(**answer) for answer in answers if "record" in answer]


def _text(value: Any) -> Any:
    """Bytes to text, all the way down."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {_text(key): _text(each) for key, each in value.items()}
    return [_text(each) for each in value] if isinstance(value, list) else value
