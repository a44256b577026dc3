"""What it costs a busy daemon to be scraped, and how long the scrape takes then."""

from __future__ import annotations

import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from measure import table
from whole import cpu, feed, free_port, running, sink

ROUNDS = 9
CHUNKS, RECORDS, LANES = 1000, 2000, 4
ALONE = 300  # scrapes of a daemon that does nothing else
EVERY_SECS = 1.0


@contextmanager
def scraped(port: int, kept: list[float], anew: list[float]) -> Iterator[None]:
    """A Prometheus, which keeps its connection, and a curl, each once a second; how long their answers took."""
    over = threading.Event()

    def come() -> None:
        prometheus = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not over.is_set():
            kept.append(_scrape(prometheus))
            over.wait(EVERY_SECS / 2)
            curl = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            anew.append(_scrape(curl))
            curl.close()
            over.wait(EVERY_SECS / 2)
        prometheus.close()

    thread = threading.Thread(target=come)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _scrape(peer: http.client.HTTPConnection) -> float:
    started = time.perf_counter()
    peer.request("GET", "/metrics")
    assert len(peer.getresponse().read()) > 1000
    return time.perf_counter() - started


def _load(daemon: psutil.Process, port: int) -> float:
    """CPU seconds of the daemon for a million records."""
    before = cpu(daemon)
    result = feed(port, CHUNKS, RECORDS, LANES)
    return (cpu(daemon) - before) / result["records"] * 1e6


def _cpu_of_one(daemon: psutil.Process, port: int) -> float:
    """CPU seconds of one scrape of an idle daemon, connection and all."""
    before = cpu(daemon)
    for _ in range(ALONE):
        peer = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        peer.request("GET", "/metrics")
        peer.getresponse().read()
        peer.close()
        time.sleep(0.02)  # the limit of requests a second is http.requests_per_sec
    return (cpu(daemon) - before) / ALONE


def _answers(secs: list[float]) -> str:
    ms = [one * 1000 for one in sorted(secs)]
    return f"median {statistics.median(ms):.1f} ms, 9 of 10 within {ms[len(ms) * 9 // 10]:.1f} ms ({len(ms)} scrapes)"


def scrape() -> None:
    """The same load with and without scrapes, in turns."""
    with tempfile.TemporaryDirectory() as name, sink() as out:
        port, http_port = free_port(), free_port()
        config = {
            "inputs": [{"type": "forward", "listen": f"127.0.0.1:{port}"}],
            "outputs": [{"type": "forward", "address": f"127.0.0.1:{out}"}],
            "http": {"listen": f"127.0.0.1:{http_port}"},
        }
        with running(Path(name), config) as daemon:
            feed(port, 60, 2000, 2)  # warm: the model has seen every template
            kept: list[float] = []
            anew: list[float] = []
            bare, watched = [], []
            for _ in range(ROUNDS):
                bare.append(_load(daemon, port))
                with scraped(http_port, kept, anew):
                    watched.append(_load(daemon, port))
            alone = _cpu_of_one(daemon, http_port)
    ratios = statistics.quantiles((late / early for early, late in zip(bare, watched, strict=True)), n=4)
    rows = [
        ("CPU-s per million records without, with", f"{statistics.median(bare):.3f}, {statistics.median(watched):.3f}"),
        (
            "pairs of rounds: with two scrapes a second",
            f"{ratios[1] - 1:+.1%} (half: {ratios[0] - 1:+.1%} to {ratios[2] - 1:+.1%})",
        ),
        ("CPU of one scrape", f"{alone * 1000:.1f} ms: {alone / EVERY_SECS:.2%} of a core at one a second"),
        ("its answer at full load, connection kept", _answers(kept)),
        ("on a new connection", _answers(anew)),
    ]
    table(f"/metrics at full load, {ROUNDS} rounds of each in turns", rows)
