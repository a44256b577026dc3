"""When the forward input acknowledges, in which order, and what it does with a chunk sent again (S6-S9)."""

from __future__ import annotations

import asyncio

from forward_doubles import CHUNK, EVENT_TIME, Pipeline, ack, entries, forward, message, pack, packed, served
from logclf_daemon.metrics import value
from logclf_daemon.record import Outcome


def test_s6_nothing_is_acknowledged_before_the_batch_is_safe() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(forward("t", chunk=CHUNK))
            await server.pipeline.has(1)
            assert await sender.is_silent()

            server.pipeline.batches[0].settle(Outcome.DELIVERED)

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)

    asyncio.run(scenario())


def test_s6_a_batch_given_back_ends_the_connection_without_acknowledgement() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=Outcome.RETURNED)) as server:
            sender = await server.connect()

            await sender.send(forward("t", chunk=CHUNK))

            assert await sender.rest() == b""

    asyncio.run(scenario())


def test_s6_a_returned_chunk_is_delivered_when_it_is_sent_again() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=Outcome.RETURNED)) as server:
            assert await server.exchange(forward("t", chunk=CHUNK)) == b""
            server.pipeline.outcome = Outcome.DELIVERED

            assert await server.exchange(forward("t", chunk=CHUNK)) == ack(CHUNK)

            first, second = server.pipeline.batches
            assert first.chunk == second.chunk is not None

    asyncio.run(scenario())


def test_s7_without_a_chunk_there_is_no_reply_at_all() -> None:
    frames = forward("t", 2) + packed(entries(2)) + packed(entries(2), size=2) + message(pack(EVENT_TIME))
    nil_chunk = pack(["t", [[EVENT_TIME, {"log": "x"}]], {"chunk": None}])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frames + nil_chunk) == b""

            assert server.pipeline.records == 8

    asyncio.run(scenario())


def test_s8_pipelined_chunks_are_acknowledged_in_their_order_however_they_settle() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(b"".join(forward("t", chunk=f"chunk-{number}") for number in range(5)))
            await server.pipeline.has(5)

            for number in (3, 1, 4, 2):
                server.pipeline.batches[number].settle(Outcome.DELIVERED)
            assert await sender.is_silent()
            server.pipeline.batches[0].settle(Outcome.DELIVERED)

            expected = b"".join(ack(f"chunk-{number}") for number in range(5))
            assert await sender.read(len(expected)) == expected

    asyncio.run(scenario())


def test_s8_many_chunks_under_way_on_one_connection_are_bounded_and_all_answered() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(b"".join(forward("t", chunk=f"{number:04}") for number in range(200)))
            await server.pipeline.has(64)
            assert await sender.is_silent()
            assert len(server.pipeline.batches) == 64

            server.pipeline.outcome = Outcome.DELIVERED
            for batch in list(server.pipeline.batches):
                batch.settle(Outcome.DELIVERED)

            expected = b"".join(ack(f"{number:04}") for number in range(200))
            assert await sender.read(len(expected)) == expected

    asyncio.run(scenario())


def test_s9_a_chunk_delivered_before_is_acknowledged_at_once_and_not_delivered_again() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", 3, chunk=CHUNK)) == ack(CHUNK)

            assert await server.exchange(forward("t", 3, chunk=CHUNK)) == ack(CHUNK)

            assert server.pipeline.records == 3
            assert value("logclf_chunks_repeated_total", input=server.source.name) == 1

    asyncio.run(scenario())


def test_s9_a_chunk_repeated_while_it_is_under_way_is_answered_when_it_settles() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            first, again = await server.connect(), await server.connect()
            await first.send(forward("t", chunk=CHUNK))
            await server.pipeline.has(1)
            first.reset()
            await again.send(forward("t", chunk=CHUNK) + forward("t", chunk="next"))
            await server.pipeline.has(2)
            assert await again.is_silent()

            for batch in server.pipeline.batches:
                batch.settle(Outcome.DELIVERED)

            expected = ack(CHUNK) + ack("next")
            assert await again.read(len(expected)) == expected
            assert len(server.pipeline.batches) == 2

    asyncio.run(scenario())


def test_s9_the_same_id_under_another_tag_is_another_chunk() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(forward("a", chunk=CHUNK))
            await server.exchange(forward("b", chunk=CHUNK))

            assert [batch.source for batch in server.pipeline.batches] == ["a", "b"]
            assert len({batch.chunk for batch in server.pipeline.batches}) == 2

    asyncio.run(scenario())


def test_s9_beyond_the_window_a_chunk_is_new_again() -> None:
    async def scenario() -> None:
        async with served(dedup_window=2) as server:
            for chunk in ("a", "b", "c", "a", "c"):
                assert await server.exchange(forward("t", chunk=chunk)) == ack(chunk)

            assert len(server.pipeline.batches) == 4

    asyncio.run(scenario())


def test_s9_without_a_window_every_chunk_is_new() -> None:
    async def scenario() -> None:
        async with served(dedup_window=0) as server:
            for _ in range(3):
                assert await server.exchange(forward("t", chunk=CHUNK)) == ack(CHUNK)

            assert len(server.pipeline.batches) == 3

    asyncio.run(scenario())
