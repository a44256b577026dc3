"""For the fault matrix: the daemon inside this process, a sender like Fluent Bit, and ways to look at both."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import yaml

from forward_sink import ForwardSink
from logclf_daemon.build import build_parts, build_pipeline, cascade_of, open_state
from logclf_daemon.config import Config
from logclf_daemon.pipeline import Pipeline

DEADLINE_SECS = 45.0
EVENT_TIME = msgpack.ExtType(0, bytes.fromhex("68e7780000000005"))


# --- the daemon -----------------------------------------------------------------------------------------------------


def configuration(folder: Path, output: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Reads `folder/*.log*`, writes to one output, nothing that takes time to load."""
    return {
        "inputs": [{"type": "files", "paths": [f"{folder}/*.log*"], "exclude": ["*.gz"]}],
        "outputs": [output],
        "rules": {"builtin": False},
        "model": {"enabled": False},
        "llm": {"enabled": False},
        "state": {"directory": str(folder / "state")},
        "delivery": {"drain_secs": 0.5},
        **more,
    }


def forward_to(address: str, **more: Any) -> dict[str, Any]:
    return {"type": "forward", "address": address, "ack_timeout_secs": 10.0, **more}


def config_file(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@asynccontextmanager
async def daemon(config: dict[str, Any]) -> AsyncIterator[Pipeline]:
    """The whole daemon in this process, without signals and reloads; at the end it drains as at SIGTERM."""
    options = Config.model_validate(config)
    directory, state = open_state(options)
    parts = build_parts(options, directory)
    cascade = cascade_of(parts)
    try:
        pipeline = build_pipeline(options, cascade, state)
        await pipeline.open()
        running = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            pipeline.stop()
            await running
    finally:
        if cascade.waiting is not None:
            cascade.waiting.close()
        cascade.close()
        parts.close()
        if state is not None:
            state.close()


async def until(condition: Callable[[], object], secs: float = DEADLINE_SECS) -> None:
    """Poll until the condition holds; fails at the deadline."""
    async with asyncio.timeout(secs):
        while not condition():  # noqa: ASYNC110  # the condition may be anything
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object], secs: float = DEADLINE_SECS, *, what: str = "it") -> None:
    """The same without a loop."""
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came true"
        time.sleep(0.01)


# --- what arrived ---------------------------------------------------------------------------------------------------


def arrived(*sinks: ForwardSink) -> int:
    """How many lines came, those of a repeated chunk once. Cheap enough to ask all the time."""
    chunks = {message.options[b"chunk"]: len(message.entries) for sink in sinks for message in list(sink.messages)}
    return sum(chunks.values())


def assert_each_once(sinks: Iterable[ForwardSink], expected: Iterable[str], *, repeated_chunks: int = 0) -> None:
    """Nothing is lost; a receiver that drops repeated chunk ids has each line once; so many chunks came again.

    A chunk that came again is the same, byte for byte.
    """
    raw: dict[bytes, bytes] = {}
    lines: Counter[str] = Counter()
    repeated = 0
    for sink in sinks:
        for message in list(sink.messages):
            chunk = message.options[b"chunk"]
            if chunk in raw:
                repeated += 1
                assert raw[chunk] == message.raw
                continue
            raw[chunk] = message.raw
            lines.update(entry[1][b"log"].decode() for entry in message.entries)
    assert lines == Counter(expected)
    assert repeated <= repeated_chunks, f"{repeated} chunks came again"


# --- senders and writers --------------------------------------------------------------------------------------------


class Upstream:
    """Sends chunks as Fluent Bit does: one at a time, the same again on a new connection until it is acknowledged."""

    def __init__(self, port: int, tag: str = "app", *, patience_secs: float = DEADLINE_SECS) -> None:
        self.acknowledged: list[str] = []
        self.attempts = 0
        self._port = port
        self._tag = tag
        self._patience_secs = patience_secs
        self._sock: socket.socket | None = None

    def send(self, chunk: str, lines: Iterable[str], *, attempts: int = 1000) -> bool:
        """Whether it was acknowledged within so many attempts."""
        entries = [[EVENT_TIME, {"log": line}] for line in lines]
        frame = msgpack.packb([self._tag, entries, {"chunk": chunk, "size": len(entries)}])
        for _ in range(attempts):
            self.attempts += 1
            try:
                if self._attempt(frame, chunk):
                    self.acknowledged.append(chunk)
                    return True
            except OSError:
                time.sleep(0.05)  # as any sender, it does not hammer
            self.close()
        return False

    @property
    def connected(self) -> bool:
        return self._sock is not None

    def _attempt(self, frame: bytes, chunk: str) -> bool:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), timeout=self._patience_secs)
        self._sock.settimeout(self._patience_secs)
        self._sock.sendall(frame)
        return bool(self._sock.recv(1000) == msgpack.packb({"ack": chunk}))

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Flood:
    """Threads that work until the block ends; the first error of one of them is the block's."""

    def __init__(self, *jobs: Callable[[threading.Event], None]) -> None:
        self.over = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(job,)) for job in jobs]

    def _run(self, job: Callable[[threading.Event], None]) -> None:
        try:
            job(self.over)
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Returns when all have stopped."""
        self.over.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECS)
            assert not thread.is_alive(), "a sender hangs"
        if self._errors:
            raise self._errors[0]


class LineWriter:
    """Appends numbered lines to a file, as a job of a `Flood`, at most so many in a second."""

    def __init__(self, path: Path, *, per_sec: int, pad: int = 0, limit: int = 1 << 30) -> None:
        self.path = path
        self.written: list[str] = []
        self._per_sec = per_sec
        self._pad = "x" * pad
        self._limit = limit

    def __call__(self, over: threading.Event) -> None:
        started = time.monotonic()
        with self.path.open("a") as file:
            while not over.wait(0.02) and len(self.written) < self._limit:
                due = min(self._limit, int((time.monotonic() - started) * self._per_sec))
                new = [f"{self.path.name} {number} {self._pad}" for number in range(len(self.written), due)]
                file.write("".join(f"{line}\n" for line in new))
                file.flush()
                self.written += new


@contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """A process started inside the block may have only so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def open_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    peers: list[socket.socket] = []
    try:
        for _ in range(count):
            peers.append(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECS))  # noqa: PERF401
        yield peers
    finally:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.close()
