"""Kill -9, again and again, of both sides: nothing is lost, what comes twice comes under the same chunk id."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon_process import Daemon
from logclf_daemon.failpoint import POINTS

BATCH_LINES = 1024
HERE = Path(__file__).parent
CONFIG = """
inputs: [{{type: files, paths: ['{folder}/app.log*']}}]
outputs: [{{type: forward, address: '127.0.0.1:{port}', ack_timeout_secs: 5}}]
rules: {{builtin: false}}
model: {{enabled: false}}
llm: {{enabled: false}}
state: {{directory: '{folder}/state'}}
"""


class Downstream:
    """The sink as a process that can be killed; what it wrote survives it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "received.jsonl"
        self.file.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(HERE / "crash_sink.py"), str(self.port), str(self.file)])

    def restart(self) -> None:
        self.kill()
        self._process = self._started()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def rows(self) -> list[tuple[str, list[str]]]:
        """Chunk id and lines of every message it wrote; a line cut by a kill was never acknowledged."""
        found = []
        for text in self.file.read_bytes().split(b"\n"):
            try:
                row = json.loads(text)
            except ValueError:
                continue
            found.append((row["chunk"], row["lines"]))
        return found


def received(downstream: Downstream) -> tuple[Counter[str], Counter[str]]:
    """How often each line came, and how often it came to a receiver that drops repeated chunk ids."""
    every: Counter[str] = Counter()
    once: Counter[str] = Counter()
    seen: set[str] = set()
    for chunk, lines in downstream.rows():
        every.update(lines)
        if chunk not in seen:
            once.update(lines)
        seen.add(chunk)
    return every, once


@contextmanager
def downstream_in(folder: Path) -> Iterator[Downstream]:
    downstream = Downstream(folder)
    try:
        yield downstream
    finally:
        downstream.kill()


def write_with_rotation(folder: Path, count: int, secs: float, rotate_secs: float) -> None:
    """Lines in torn pieces, at an even pace; the file is renamed away every `rotate_secs`."""
    chosen = random.Random(5)
    started = rotated = time.monotonic()
    number, generation, rest = 0, 0, b""
    file = (folder / "app.log").open("ab", buffering=0)
    while number < count or rest:
        due = min(count, int((time.monotonic() - started) / secs * count) + 1)
        rest += b"".join(f"line {index} {'x' * (index % 50)}\n".encode() for index in range(number, due))
        number = due
        cut = chosen.randrange(len(rest) + 1) if number < count else len(rest)
        file.write(rest[:cut])
        rest = rest[cut:]
        if time.monotonic() - rotated > rotate_secs and not rest:
            file.close()
            generation += 1
            (folder / "app.log").rename(folder / f"app.log.{generation}")
            file = (folder / "app.log").open("ab", buffering=0)
            rotated = time.monotonic()
        time.sleep(0.005)
    file.close()


def expected(count: int) -> set[str]:
    return {f"line {index} {'x' * (index % 50)}" for index in range(count)}


def finished(downstream: Downstream, count: int, daemon: Daemon, secs: float = 120) -> None:
    """Wait until every line has come."""
    deadline = time.monotonic() + secs
    while len(received(downstream)[0]) < count:
        if time.monotonic() > deadline:
            pytest.fail(
                f"{count - len(received(downstream)[0])} lines never came; the daemon said:\n{daemon.said[-2000:]}"
            )
        time.sleep(0.2)


@pytest.mark.crash
@pytest.mark.timeout(400)
def test_thirty_kills_of_the_daemon_and_twelve_of_the_downstream_lose_nothing(tmp_path: Path) -> None:
    count, kills = 100_000, 30
    chosen = random.Random(11)
    with downstream_in(tmp_path) as downstream:
        (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path, port=downstream.port))
        writer = threading.Thread(target=write_with_rotation, args=(tmp_path, count, 70, 0.7))
        writer.start()
        for kill in range(kills):
            with Daemon("--config", str(tmp_path / "c.yaml")) as daemon:
                daemon.ready()
                time.sleep(chosen.uniform(0.05, 1.5))
                if kill % 5 in (1, 3):
                    downstream.restart()
                    time.sleep(chosen.uniform(0.0, 0.5))
                daemon.kill()
        writer.join()
        with Daemon("--config", str(tmp_path / "c.yaml")) as daemon:
            daemon.ready()
            finished(downstream, count, daemon)
            assert daemon.stop() == 0

        every, once = received(downstream)
        repeated = sum(times - 1 for times in every.values())
        print(f"{len(every)} lines, {kills} + 12 kills, {repeated} repeated ({repeated / count:.2%})")
        assert set(every) == expected(count)
        assert max(once.values()) == 1
        assert repeated <= (kills + 12) * BATCH_LINES


@pytest.mark.crash
@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
def test_a_death_between_any_two_steps_loses_nothing(tmp_path: Path, point: str) -> None:
    count = 5000
    lines = iter(sorted(expected(count)))
    with downstream_in(tmp_path) as downstream:
        (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path, port=downstream.port))
        for _ in range(2):
            with (tmp_path / "app.log").open("a") as log:
                log.writelines(f"{next(lines)}\n" for _ in range(count // 2))
            with Daemon("--config", str(tmp_path / "c.yaml"), environment={"LOGCLF_FAILPOINT": point}) as daemon:
                assert daemon.ended() == -signal.SIGKILL
        with Daemon("--config", str(tmp_path / "c.yaml")) as daemon:
            daemon.ready()
            finished(downstream, count, daemon)
            assert daemon.stop() == 0

        every, once = received(downstream)
        assert set(every) == expected(count)
        assert max(once.values()) == 1
