"""The limits of the forward input: sizes, memory, time, connections, a pipeline that is full (S15, S19, S20, S23)."""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
import zlib
from typing import Any

import pytest

from forward_doubles import (
    CHUNK,
    EVENT_TIME,
    KEY,
    Clock,
    Pipeline,
    ack,
    entries,
    forward,
    message,
    pack,
    packed,
    served,
    until,
    zstd,
)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(forward("t", 500, chunk=CHUNK), id="forward"),
        pytest.param(packed(entries(500), chunk=CHUNK), id="packed"),
        pytest.param(message(pack(EVENT_TIME), {"log": "x" * 9000}, {"chunk": CHUNK}), id="message"),
        pytest.param(b"\x93" + pack("t") + b"\xc6\x7f\xff\xff\xff", id="only promised"),
        pytest.param(b"\x93" + pack("t") + b"\xdd\x7f\xff\xff\xff", id="entries only promised"),
    ],
)
def test_s15_a_message_over_the_limit_ends_its_connection_and_is_counted(frame: bytes) -> None:
    async def scenario() -> None:
        async with served(max_frame_bytes=8192) as server:
            assert await server.exchange(frame) == b""

            assert server.troubles("frame_too_large") == 1
            assert server.pipeline.batches == []
            assert await server.still_serves()

    asyncio.run(scenario())


def gzip_bomb(size: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=31)
    return b"".join([*(deflater.compress(bytes(1 << 20)) for _ in range(size >> 20)), deflater.flush()])


BOMBS = {
    "gzip": lambda: packed(gzip_bomb(300 << 20), compressed="gzip", chunk=CHUNK),
    "zstd": lambda: packed(zstd(bytes(300 << 20)), compressed="zstd", chunk=CHUNK),
    "empty maps": lambda: b"\x93\xa1t\xdd\x00\x40\x00\x00" + b"\x80" * (4 << 20) + pack({"chunk": CHUNK}),
    "packed empty maps": lambda: packed(b"\x80" * (4 << 20), chunk=CHUNK),
    "packed texts": lambda: packed(b"\xa3aaa" * (1 << 18), chunk=CHUNK),
    "nested giants": lambda: b"\x93\xa1t" + b"\xdd\x00\x01\x86\xa0" * 900,
    "nested giants packed": lambda: packed(b"\xdd\x00\x01\x86\xa0" * 900, chunk=CHUNK),
    "a giant map": lambda: b"\x93\xa1t\x01\xdf\x7f\xff\xff\xff" + b"\x01" * 100_000,
    "a giant ext as time": lambda: b"\x93\xa1t\xc9\x7f\xff\xff\xff\x00" + b"\x01" * 100_000,
    "giant options": lambda: b"\x93\xa1t\x90\xdf\x7f\xff\xff\xff" + b"\x01" * 100_000,
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("what", BOMBS)
def test_s19_a_bomb_does_not_take_the_memory(what: str) -> None:
    bomb = BOMBS[what]()

    async def scenario() -> None:
        async with served(max_inflated_bytes=8 << 20) as server:
            tracemalloc.start()
            try:
                sender = await server.connect()
                try:
                    await sender.send(bomb)
                    answer = await sender.end()
                except ConnectionError:
                    answer = await sender.rest()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

            assert answer == b""
            assert server.pipeline.batches == []
            assert peak < 64 << 20
            assert await server.still_serves()

    asyncio.run(scenario())


def test_s19_unfinished_messages_of_all_senders_together_are_bounded() -> None:
    half = packed(b"x" * 3_000_000)[:2_500_000]

    async def scenario() -> None:
        clock = Clock()

        def three_had_to_go() -> bool:
            clock.now += 3
            return server.troubles("buffers_full") >= 3

        limits: dict[str, Any] = {"max_frame_bytes": 4 << 20, "max_held_bytes": 8 << 20, "frame_timeout_secs": 1e9}
        async with served(clock=clock, **limits) as server:
            senders = [await server.connect() for _ in range(6)]
            sending = [asyncio.create_task(sender.send(half)) for sender in senders]
            await until(three_had_to_go)
            await asyncio.gather(*sending, return_exceptions=True)

            assert server.troubles("buffers_full") == 3
            assert await server.still_serves()

    asyncio.run(scenario())


def test_s20_a_handshake_that_does_not_come_to_its_end_is_ended() -> None:
    async def scenario() -> None:
        clock = Clock()
        async with served(clock=clock, shared_key=KEY) as server:
            sender = await server.connect()
            await sender.read_object()
            for byte in b"\x96\xa4PING":
                await sender.send(bytes((byte,)))
                clock.now += 1.9

            assert await sender.rest() == b""
            assert server.troubles("handshake_timeout") == 1

    asyncio.run(scenario())


def test_s20_a_frame_that_does_not_come_to_its_end_is_ended() -> None:
    async def scenario() -> None:
        clock = Clock()
        async with served(clock=clock) as server:
            silent, dripping = await server.connect(), await server.connect()
            await silent.send(forward("t", chunk="whole") + forward("t", 9, chunk="half")[:50])
            assert await silent.read(len(ack("whole"))) == ack("whole")
            for count, byte in enumerate(forward("t", 9, chunk="slow")[:20], start=1):
                await dripping.send(bytes((byte,)))
                await until(lambda count=count: server.source._server.held == 50 + count)  # type: ignore[misc]
                clock.now += 1.4
            clock.now += 3

            assert await silent.rest() == b""
            assert await dripping.rest() == b""
            assert server.troubles("frame_timeout") == 2

    asyncio.run(scenario())


def test_s20_idle_connections_stay_open_and_hinder_nobody() -> None:
    async def scenario() -> None:
        clock = Clock()
        async with served(clock=clock) as server:
            idle = [await server.connect() for _ in range(300)]
            clock.now += 100_000
            assert await server.still_serves()

            for sender in (idle[0], idle[299]):
                await sender.send(forward("t", chunk=CHUNK))
                assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)

    asyncio.run(scenario())


def test_s20_more_connections_than_allowed_are_turned_away() -> None:
    async def scenario() -> None:
        async with served(max_connections=2) as server:
            first, second = await server.connect(), await server.connect()
            for sender in (first, second):
                await sender.send(forward("t", chunk=CHUNK))
                await sender.read(len(ack(CHUNK)))

            assert await (await server.connect()).rest() == b""
            assert server.troubles("too_many_connections") == 1
            await first.close()
            await until(lambda: len(server.source._server.peers) < 2)
            assert await server.still_serves()

    asyncio.run(scenario())


def test_s20_a_sender_that_never_reads_its_acknowledgements_is_cut() -> None:
    frames = b"".join(forward("t", chunk=f"{number:01000}") for number in range(1000))

    async def scenario() -> None:
        clock = Clock()
        async with served(clock=clock, dedup_window=0) as server:
            sender = await server.connect(receive_buffer=4096)

            async def flood() -> None:
                while True:
                    await sender.send(frames)

            flooding = asyncio.create_task(flood())
            await until(lambda: any(peer._unread for peer in server.source._server.peers))  # type: ignore[attr-defined]
            assert await server.still_serves()
            clock.now += 31

            await until(lambda: server.troubles("acks_unread") == 1)
            await asyncio.wait([flooding])
            assert isinstance(flooding.exception(), ConnectionError)

    asyncio.run(scenario())


def test_s23_while_the_pipeline_is_full_nothing_more_is_read_and_nothing_is_lost() -> None:
    frame = packed(pack([EVENT_TIME, {"log": "x" * 200_000}]))
    total = 400

    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        async with served(pipeline) as server:
            sender = await server.connect()
            sent = 0

            async def flood() -> None:
                nonlocal sent
                for _ in range(total):
                    await sender.send(frame)
                    sent += 1

            flooding = asyncio.create_task(flood())
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < total // 2
            assert pipeline.batches == []
            assert server.source._server.held < 2 << 20

            pipeline.gate.set()
            await flooding
            await pipeline.has(total)

            assert pipeline.records == total

    asyncio.run(scenario())


def test_s23_many_waiting_senders_are_bounded_together_and_all_served_in_the_end() -> None:
    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        async with served(pipeline, clock=Clock(), max_frame_bytes=1 << 20, max_held_bytes=1 << 20) as server:
            senders = [await server.connect() for _ in range(30)]
            payload = pack([EVENT_TIME, {"log": "x" * 300_000}])
            sending = [
                asyncio.create_task(sender.send(packed(payload, chunk=str(number))))
                for number, sender in enumerate(senders)
            ]
            await until(lambda: server.source._server.held > 1 << 20)
            assert server.source._server.held < 3 << 20

            pipeline.gate.set()
            await asyncio.gather(*sending)

            for number, sender in enumerate(senders):
                assert await sender.read(len(ack(str(number)))) == ack(str(number))
            assert server.troubles("buffers_full") == 0

    asyncio.run(scenario())


def test_s23_the_time_a_sender_waits_for_us_is_not_held_against_it() -> None:
    async def scenario() -> None:
        clock, pipeline = Clock(), Pipeline()
        pipeline.gate.clear()
        async with served(pipeline, clock=clock) as server:
            sender = await server.connect()
            frame = forward("t", 50_000, chunk="b")
            await sender.send(forward("t", chunk="a"))
            sending = asyncio.create_task(sender.send(frame))
            await until(lambda: not next(iter(server.source._server.peers))._reading)  # type: ignore[attr-defined]
            clock.now += 1000
            assert await sender.is_silent()

            pipeline.gate.set()
            await sending

            assert await sender.read(len(ack("a") + ack("b"))) == ack("a") + ack("b")

    asyncio.run(scenario())


def test_s20_connections_that_send_nothing_cost_little_and_are_freed_at_once() -> None:
    """A monitor that looks whether the port is open does so for years; nobody looks for cycles meanwhile."""

    async def scenario() -> tuple[int, int]:
        async with served() as server:
            assert await server.exchange(forward("t", 1, chunk=CHUNK)) == ack(CHUNK)
            gc.collect()
            gc.disable()
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                probes = [socket.create_connection(server.address) for _ in range(50)]
                await until(lambda: len(server.source._server.peers) == 50)
                opened = tracemalloc.get_traced_memory()[0] - before
                for probe in probes:
                    probe.close()
                await until(lambda: not server.source._server.peers)
                return opened, tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
                gc.enable()

    opened, left = asyncio.run(scenario())

    assert opened < 50 * 80_000  # 45 kB of it are an unpacker
    assert left < 50 * 6_000  # the remains of asyncio's own, which refer to themselves
