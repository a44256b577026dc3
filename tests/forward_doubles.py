"""Both ends of a forward connection for tests: a served input with a scripted pipeline, and a bare sender.

S1 to S24 in the names of tests are the points of the conformance checklist for a server of the forward protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

from logclf_daemon.codec import encode_entries
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions
from logclf_daemon.metrics import value
from logclf_daemon.record import Batch, Outcome

DATA = Path(__file__).parent / "data" / "forward"
DEADLINE_SECS = 45.0
_numbers = itertools.count()

EVENT_TIME = msgpack.ExtType(0, bytes.fromhex("68e7780000000005"))
EXT8 = bytes.fromhex("c7080068e7780000000005")  # the same, with the longer of the two headers it may have
CHUNK = "cGl4ZWxzLWFyZS1mdW4hIQ=="
KEY = "sekret"
RECORD = {"log": "hello"}


def pack(message: object) -> bytes:
    packed: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogateescape")
    return packed


def entries(count: int) -> bytes:
    return b"".join(pack([EVENT_TIME, {"log": f"line {number}"}]) for number in range(count))


def forward(tag: str, count: int = 1, **options: object) -> bytes:
    """A Forward mode message of `count` records."""
    records = [[EVENT_TIME, {"log": f"line {number}"}] for number in range(count)]
    return pack([tag, records, options] if options else [tag, records])


def message(time: bytes, record: object = None, options: object = None) -> bytes:
    """A Message mode message: a single event."""
    parts = [pack("t.msg"), time, pack({"log": "hello"} if record is None else record)]
    if options is not None:
        parts.append(pack(options))
    return bytes((0x90 | len(parts),)) + b"".join(parts)


def packed(payload: bytes, tag: str = "t.packed", **options: object) -> bytes:
    """A PackedForward mode message."""
    return pack([tag, payload, options] if options else [tag, payload])


def zstd(data: bytes) -> bytes:
    """Needs the extra `zstd`; the test is skipped without it."""
    zstandard = pytest.importorskip("zstandard")
    compressed: bytes = zstandard.ZstdCompressor().compress(data)
    return compressed


def ack(chunk: object) -> bytes:
    return pack({"ack": chunk})


def opened(batch: Batch) -> list[Any]:
    """The records of a batch as msgpack's own decoder sees them, bytes for text."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(encode_entries(batch.records))
    return list(unpacker)


def logs(batches: list[Batch]) -> list[bytes]:
    return [record[b"log"] for batch in batches for _, record in opened(batch)]


async def until(condition: Callable[[], bool]) -> None:
    """Poll for a condition; a test that waits in vain fails."""
    async with asyncio.timeout(DEADLINE_SECS):
        while not condition():  # noqa: ASYNC110  # the condition may be anything, a counter too
            await asyncio.sleep(0.002)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipeline:
    """Takes batches; settles each at once with `outcome`, or leaves that to the test (None). `gate` holds them up."""

    def __init__(self, outcome: Outcome | None = Outcome.DELIVERED) -> None:
        self.batches: list[Batch] = []
        self.outcome = outcome
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, batch: Batch) -> None:
        await self.gate.wait()
        self.batches.append(batch)
        if self.outcome is not None:
            batch.settle(self.outcome)

    @property
    def records(self) -> int:
        return sum(len(batch.records) for batch in self.batches)

    async def has(self, batches: int) -> None:
        await until(lambda: len(self.batches) >= batches)


class Sender:
    """A client that sends the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_SECS):
            return await self._reader.readexactly(count)

    async def read_object(self) -> Any:
        """One msgpack object, bytes for text."""
        unpacker = msgpack.Unpacker(raw=True)
        while True:
            unpacker.feed(await self.read(1))
            try:
                return unpacker.unpack()
            except msgpack.OutOfData:
                continue

    async def end(self) -> bytes:
        """Send no more; everything that still comes until the server closes."""
        self._writer.write_eof()
        return await self.rest()

    async def rest(self) -> bytes:
        """Everything that comes until the server closes, however it closes."""
        got = bytearray()
        async with asyncio.timeout(DEADLINE_SECS):
            with suppress(ConnectionError):
                while data := await self._reader.read(65536):
                    got += data
        return bytes(got)

    async def is_silent(self) -> bool:
        """Nothing comes for a moment, and the connection stays open."""
        try:
            await asyncio.wait_for(self._reader.read(1), 0.05)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self._writer.wait_closed()

    def reset(self) -> None:
        self._writer.transport.abort()


class Served:
    """A running forward input with the pipeline behind it."""

    def __init__(self, source: ForwardInput, pipeline: Pipeline) -> None:
        self.source = source
        self.pipeline = pipeline
        self.address = source.address
        self.senders: list[Sender] = []
        self.task: asyncio.Task[None] | None = None

    async def connect(self, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> Sender:
        host, port = self.address
        if port == 0:
            reader, writer = await asyncio.open_unix_connection(host)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
                name = "localhost" if tls else None
                reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name)
            except BaseException:
                sock.close()
                raise
        self.senders.append(Sender(reader, writer))
        return self.senders[-1]

    async def exchange(self, data: bytes) -> bytes:
        """Send on a connection of its own, close our half, return all that was answered."""
        sender = await self.connect()
        try:
            await sender.send(data)
        except ConnectionError:
            return await sender.rest()
        return await sender.end()

    def troubles(self, what: str) -> float:
        return value("logclf_input_troubles_total", input=self.source.name, what=what)

    def dropped(self, reason: str) -> float:
        return value("logclf_records_dropped_total", input=self.source.name, reason=reason)

    async def still_serves(self) -> bool:
        """Another sender is served as if nothing had happened."""
        return await self.exchange(forward("other", chunk="still-there")) == ack("still-there")


def new_name() -> str:
    """A name no other test counts under."""
    return f"forward-{next(_numbers)}"


@asynccontextmanager
async def served(
    pipeline: Pipeline | None = None,
    *,
    clock: Callable[[], float] | None = None,
    random_bytes: Callable[[int], bytes] | None = None,
    sock: socket.socket | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    options.setdefault("listen", "127.0.0.1:0")
    more: dict[str, Any] = {"sock": sock, "sweep_secs": 0.005}
    if clock is not None:
        more["clock"] = clock
    if random_bytes is not None:
        more["random_bytes"] = random_bytes
    source = ForwardInput(ForwardInputOptions(**options), new_name(), **more)
    await source.open()
    running = Served(source, pipeline or Pipeline())
    running.task = asyncio.create_task(source.run(running.pipeline))
    try:
        yield running
    finally:
        source.stop()
        running.pipeline.gate.set()
        async with asyncio.timeout(DEADLINE_SECS):
            await asyncio.wait([running.task])
        await source.close()
        for sender in running.senders:
            await sender.close()
        await running.task
