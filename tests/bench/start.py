"""From exec to ready, and what a daemon costs that has nothing to do."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from measure import table
from whole import ROOT, cpu, free_port

FIRST_ROUNDS, WARM_ROUNDS = 3, 9
IDLE_SECS = 10.0


def command() -> list[str]:
    """The installed program where there is one, else the checkout's."""
    script = Path(sys.executable).with_name("logclf-daemon")
    return [str(script)] if script.exists() else [sys.executable, "-m", "logclf_daemon"]


def configuration(folder: Path, *, http: bool, files: int = 1) -> Path:
    """Watched files and forward input to JSON lines, all shipped rules and the model."""
    logs = folder / f"logs-{files}"
    logs.mkdir(exist_ok=True)
    for number in range(files):
        (logs / f"{number}.log").write_text(f"kernel: usb 1-1: reset of device {number}\n")
    path = folder / "config.yaml"
    config: dict[str, object] = {
        "inputs": [
            {"type": "files", "paths": [f"{logs}/*.log"]},
            {"type": "forward", "listen": f"127.0.0.1:{free_port()}"},
        ],
        "outputs": [{"type": "jsonl", "path": str(folder / "out.jsonl")}],
        "state": {"directory": str(folder / "state")},
        "http": {"listen": f"127.0.0.1:{free_port()}" if http else None},
    }
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def started(folder: Path, config: Path) -> Iterator[tuple[psutil.Process, float, float]]:
    """The daemon, when it told systemd that it is ready; seconds and CPU seconds that took."""
    address = folder / "notify"
    address.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"NOTIFY_SOCKET": str(address), "CACHE_DIRECTORY": str(folder / "cache")}
    environment["PYTHONPATH"] = f"{ROOT / 'daemon'}:{ROOT / 'training'}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, (folder / "log").open("wb") as log:
        systemd.bind(str(address))
        systemd.settimeout(120)
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command(), "run", "--config", str(config)], env=environment, stdout=log, stderr=log
        )
        try:
            while b"READY=1" not in systemd.recv(4096):
                pass
            secs, daemon = time.perf_counter() - begun, psutil.Process(process.pid)
            yield daemon, secs, cpu(daemon)
        finally:
            process.terminate()
            process.wait(30)


def _starts(folder: Path, config: Path, rounds: int, *, warm: bool) -> str:
    secs, spent = [], []
    for _ in range(rounds):
        if not warm:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        (folder / "cache").mkdir(mode=0o700, exist_ok=True)
        with started(folder, config) as (_, taken, cpu_secs):
            secs.append(taken)
            spent.append(cpu_secs)
    return f"{statistics.median(secs):5.2f} s   {statistics.median(spent):5.2f} CPU-s   (slowest {max(secs):.2f} s)"


def start() -> None:
    """Seconds from exec to READY=1, with all shipped rules and the model."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for http in (False, True):
            config, title = configuration(folder, http=http), "with HTTP" if http else "without HTTP"
            rows.append((f"first, {title}", _starts(folder, config, FIRST_ROUNDS, warm=False)))
            rows.append((f"warm, {title}", _starts(folder, config, WARM_ROUNDS, warm=True)))
    table("exec to ready: all shipped rules, the model (first: nothing compiled yet)", rows)


def idle() -> None:
    """Memory and CPU of a daemon that nobody sends anything."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cache").mkdir(mode=0o700)
        with started(folder, configuration(folder, http=False)):
            time.sleep(5)  # the rules are compiled
        for files, http in ((1, False), (1, True), (10, True), (100, True)):
            with started(folder, configuration(folder, http=http, files=files)) as (daemon, _, _):
                time.sleep(5)  # the files are read, the HTTP app is loaded
                before, begun = cpu(daemon), time.perf_counter()
                time.sleep(IDLE_SECS)
                share = (cpu(daemon) - before) / (time.perf_counter() - begun)
                rows.append(
                    (
                        f"{files} watched files, {'HTTP' if http else 'no HTTP'}",
                        f"{share:6.2%} of a core   {daemon.memory_info().rss >> 20} MB",
                    )
                )
    table(f"idle, over {IDLE_SECS:.0f} s", rows)
