"""The daemon as a process of its own, pinned to one core; its peers on the other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from hotpath import shipped_rules
from measure import table
from traffic import lines

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DAEMON_CORE, PEER_CORE = "1", "0"


def pinned(core: str, *command: str, **more: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'training'}"}
    return subprocess.Popen(["taskset", "-c", core, sys.executable, *command], env=environment, **more)  # type: ignore[call-overload,no-any-return]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, config: Mapping[str, object]) -> Iterator[psutil.Process]:
    """The daemon, ready, until the end of the block."""
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"llm": {"enabled": False}, "state": {"directory": str(folder / "state")}, **config})
    )
    with (folder / "log").open("wb") as log:
        process = pinned(DAEMON_CORE, "-m", "logclf_daemon", "run", "--config", str(path), stderr=log, stdout=log)
        try:
            while b" ready " not in (folder / "log").read_bytes():
                if process.poll() is not None:
                    sys.exit((folder / "log").read_text())
                time.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def sink() -> Iterator[int]:
    port = free_port()
    process = pinned(PEER_CORE, str(HERE / "peers.py"), "sink", str(port))
    try:
        time.sleep(0.5)
        yield port
    finally:
        process.kill()
        process.wait()


def feed(port: int, chunks: int, records: int, lanes: int) -> dict[str, float]:
    command = [str(HERE / "peers.py"), "feed", *map(str, (port, chunks, records, lanes))]
    out, _ = pinned(PEER_CORE, *command, stdout=subprocess.PIPE).communicate(timeout=600)
    found: dict[str, float] = json.loads(out)
    return found


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def fifty_rules(folder: Path) -> dict[str, object]:
    """A rule file with 50 of the shipped rules."""
    rules = [rule.options.model_dump(mode="json") for rule in shipped_rules(50)]
    (folder / "fifty.yaml").write_text(yaml.safe_dump({"version": 1, "rules": rules}))
    return {"paths": [str(folder / "fifty.yaml")], "builtin": False}


def loopback() -> None:
    """Forward in, forward out, acknowledged on both sides."""
    rows = []
    with tempfile.TemporaryDirectory() as name, sink() as out:
        folder = Path(name)
        for title, rules, ack in (
            ("50 rules", fifty_rules(folder), True),
            ("50 rules, no acknowledgement downstream", fifty_rules(folder), False),
            ("all shipped rules", {"builtin": True}, True),
        ):
            port = free_port()
            config = {
                "inputs": [{"type": "forward", "listen": f"127.0.0.1:{port}"}],
                "outputs": [{"type": "forward", "address": f"127.0.0.1:{out}", "ack": ack}],
                "rules": rules,
                "model": {"enabled": True},
            }
            with running(folder, config) as daemon:
                feed(port, 60, 2000, 2)  # warm: the model has seen every template
                before = cpu(daemon)
                result = feed(port, 400, 2000, 4)
                spent = cpu(daemon) - before
                speed = f"{result['records'] / result['secs'] / 1000:6.0f} k records/s"
                rows.append(
                    (title, f"{speed}   {spent / result['records'] * 1e6:5.2f} CPU-s per million in the daemon")
                )
    table("forward -> forward over loopback, model on, warm, one core", rows)


def latency() -> None:
    """One record at a time through an idle daemon, forward in to acknowledgement."""
    with tempfile.TemporaryDirectory() as name, sink() as out:
        folder, port = Path(name), free_port()
        config = {
            "inputs": [{"type": "forward", "listen": f"127.0.0.1:{port}"}],
            "outputs": [{"type": "forward", "address": f"127.0.0.1:{out}"}],
        }
        with running(folder, config):
            feed(port, 500, 1, 1)
            result = feed(port, 2000, 1, 1)
    rows = [("median", f"{result['median_ms']:.2f} ms"), ("p99", f"{result['p99_ms']:.2f} ms")]
    table("latency of one record, forward in to forward out and back", rows)


def files() -> None:
    """A file that is there, to JSON lines in a file."""
    count, rows = 1_000_000, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = b"\n".join(lines(100_000)) + b"\n"
        (folder / "in.log").write_bytes(sample * (count // 100_000))
        for title, rules in (("50 rules", fifty_rules(folder)), ("all shipped rules", {"builtin": True})):
            out, state = folder / "out.jsonl", folder / title.replace(" ", "-")
            out.unlink(missing_ok=True)
            config = {
                "inputs": [{"type": "files", "paths": [str(folder / "in.log")]}],
                "outputs": [{"type": "jsonl", "path": str(out)}],
                "rules": rules,
                "state": {"directory": str(state)},
                "model": {"enabled": False},
            }
            with running(folder, config) as daemon:
                started, before = time.perf_counter(), cpu(daemon)
                grown_at = started
                size = 0
                while not size or time.perf_counter() - grown_at < 1:
                    time.sleep(0.02)
                    if out.exists() and (grown := out.stat().st_size) != size:
                        size, grown_at = grown, time.perf_counter()
                secs, spent = grown_at - started, cpu(daemon) - before
            with out.open("rb") as written:
                assert sum(block.count(b"\n") for block in iter(lambda: written.read(1 << 20), b"")) == count
            rows.append((title, f"{count / secs / 1000:6.0f} k lines/s   {spent / count * 1e6:5.2f} CPU-s per million"))
    table("file -> JSON lines, one core", rows)


def save() -> None:
    """From the save of an own rule file to the first line that gets its label, all shipped rules on."""
    taken = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own, log, out = folder / "own.yaml", folder / "in.log", folder / "out.jsonl"
        own.write_text("version: 1\nrules: []\n")
        log.touch()
        config = {
            "inputs": [{"type": "files", "paths": [str(log)]}],
            "outputs": [{"type": "jsonl", "path": str(out)}],
            "rules": {"paths": [str(own)]},
            "model": {"enabled": False},
        }
        with running(folder, config):
            for number in range(7):
                word = f"saved{'abcdefg'[number]}"
                rule = {"id": word, "label": "Error", "pattern": f"{word} [1-5]\\d\\d", "examples": [f"{word} 404"]}
                unfinished = folder / "own.tmp"
                unfinished.write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))
                started = time.perf_counter()
                unfinished.replace(own)
                while not out.exists() or f'"rule":"{word}"' not in out.read_text():
                    with log.open("a") as more:
                        more.write(f"{word} 404\n")
                    time.sleep(0.01)
                    if time.perf_counter() - started > 30:
                        sys.exit((folder / "log").read_text())
                taken.append(time.perf_counter() - started)
    taken.sort()
    table("a saved rule is in force", [("median", f"{taken[3]:.2f} s"), ("slowest of 7", f"{taken[-1]:.2f} s")])


def memory() -> None:
    """Resident memory with the model loaded, over five million records."""
    rows = []
    with tempfile.TemporaryDirectory() as name, sink() as out:
        folder, port = Path(name), free_port()
        config = {
            "inputs": [{"type": "forward", "listen": f"127.0.0.1:{port}"}],
            "outputs": [{"type": "forward", "address": f"127.0.0.1:{out}"}],
        }
        with running(folder, config) as daemon:
            rows.append(("ready", f"{daemon.memory_info().rss >> 20} MB"))
            for million in range(1, 6):
                feed(port, 500, 2000, 4)
                rows.append((f"after {million} M records", f"{daemon.memory_info().rss >> 20} MB"))
    table("resident memory, all shipped rules and the model", rows)
