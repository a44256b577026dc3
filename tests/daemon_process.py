"""The daemon as a process of its own, started the way a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_SECS = 60.0


def command() -> list[str]:
    """The installed command of this environment, else the module."""
    script = Path(sys.executable).with_name("logclf-daemon")
    return [str(script)] if script.exists() else [sys.executable, "-m", "logclf_daemon"]


class Daemon:
    """`logclf-daemon run …`, or another command that stays, until `stop`; what it says on stderr is kept.

    Use as a context manager.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None, does: str = "run") -> None:
        self.said = ""
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [*command(), does, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self._printed: list[bytes] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._streams = (self._process.stdout, self._process.stderr)
        self._readers = [threading.Thread(target=self._read_stdout), threading.Thread(target=self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def _read_stdout(self) -> None:
        for line in self._streams[0]:
            with self._changed:
                self._printed.append(line)
                self._changed.notify_all()

    def _read_stderr(self) -> None:
        for line in self._streams[1]:
            with self._changed:
                self.said += line.decode("utf-8", "replace")
                self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[bytes]:
        """What it printed so far."""
        with self._changed:
            return list(self._printed)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, condition: Callable[[Daemon], object]) -> None:
        """Return when the condition holds; fails at the deadline or when the process ended before."""
        deadline = time.monotonic() + DEADLINE_SECS
        while not condition(self):
            assert time.monotonic() < deadline, f"waited in vain; the daemon said:\n{self.said}"
            assert self._process.poll() is None or condition(self), f"the daemon ended:\n{self.said}"
            with self._changed:
                self._changed.wait(0.05)

    def ready(self, port: int = 0) -> int:
        """Wait until it says so; returns the port it was given."""
        self.wait_for(lambda daemon: " ready " in daemon.said)
        return port

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._process.kill()
        self.ended()

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        code = self._process.wait(DEADLINE_SECS)
        for reader in self._readers:
            reader.join(DEADLINE_SECS)
        for stream in self._streams:
            stream.close()
        return code

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if not self._streams[0].closed:
            self.ended()


def rules_file(path: Path, label: str = "Critical Error", pattern: str = "boom") -> None:
    """Write a rule file the way an editor saves it: a new file in its place."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(
        "version: 1\nrules:\n"
        f"  - {{id: own-boom, label: {label}, pattern: '{pattern}', examples: [boom], priority: 999}}\n"
    )
    unfinished.replace(path)
