"""How frames become batches, however they come in and however many records they hold (S17, S19)."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from forward_doubles import (
    CHUNK,
    EVENT_TIME,
    EXT8,
    Pipeline,
    ack,
    entries,
    forward,
    message,
    opened,
    pack,
    packed,
    served,
)
from logclf_daemon.record import Outcome

BYTEWISE = {
    "messages": message(EXT8, options={"chunk": "a", "metadata": {"k": [1, 2]}}) + message(pack(5)),
    "forward": forward("t" * 40, 3, chunk="a" * 40, foo={"bar": [1, {"x": "y"}]}) + forward("u", 20),
    "packed": packed(entries(3), chunk="a") + packed(entries(30)) + packed(entries(2), size=2),
    "gzip": packed(gzip.compress(entries(300)), compressed="gzip", chunk=b"\x01" * 300),
    "mixed": forward("t") + packed(entries(2), chunk="a") + b"\xc0" + message(pack(5)) + forward("t", chunk="b"),
    "long headers": b"\xdd\x00\x00\x00\x03\xdb\x00\x00\x00\x01t\xdd\x00\x00\x00\x01" + entries(1) + b"\xdf\0\0\0\0",
}


@pytest.mark.parametrize("what", BYTEWISE)
def test_s17_byte_by_byte_delivery_has_the_same_result(what: str) -> None:
    data = BYTEWISE[what]

    async def result(piecemeal: bool) -> tuple[bytes, list[Any], int]:
        async with served() as server:
            sender = await server.connect()
            for at in range(0, len(data), 1 if piecemeal else len(data)):
                await sender.send(data[at : at + 1] if piecemeal else data)
                await asyncio.sleep(0)
            answer = await sender.end()
            batches = server.pipeline.batches
            return answer, [record for batch in batches for record in opened(batch)], len(batches)

    async def scenario() -> None:
        whole, piecemeal = await result(False), await result(True)

        assert piecemeal[:2] == whole[:2]
        assert whole[1]

    asyncio.run(scenario())


def test_s17_a_frame_of_three_megabytes_is_one_batch() -> None:
    frame = forward("t", 100_000, chunk=CHUNK)
    assert len(frame) > 3_000_000 // 2

    async def scenario() -> None:
        async with served() as server:
            sender = await server.connect()
            for at in range(0, len(frame), 4096):
                await sender.send(frame[at : at + 4096])

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)
            assert server.pipeline.records == 100_000

    asyncio.run(scenario())


def test_s17_a_thousand_frames_in_one_segment_are_a_thousand_batches() -> None:
    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(b"".join(packed(entries(1), chunk=number) for number in range(1000)))

            assert answer == b"".join(ack(number) for number in range(1000))
            assert len(server.pipeline.batches) == 1000

    asyncio.run(scenario())


def test_s17_single_events_in_one_segment_with_the_same_tag_are_one_batch() -> None:
    one = [pack([tag, EVENT_TIME, {"log": tag}, {"fluent_signal": 0}]) for tag in ("a", "a", "b", "b", "b", "a")]
    chunked = pack(["a", EVENT_TIME, {"log": "a"}, {"chunk": CHUNK}])
    bare = pack(["a", EVENT_TIME, {"log": "a"}])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(b"".join(one) + bare + chunked + bare) == ack(CHUNK)

            found = [(batch.source, len(batch.records)) for batch in server.pipeline.batches]
            assert found == [("a", 2), ("b", 3), ("a", 2), ("a", 1), ("a", 1)]

    asyncio.run(scenario())


def test_s19_a_frame_of_a_million_tiny_records_comes_in_parts_with_ids_of_their_own() -> None:
    frame = b"\x93\xa1t\xdd\x00\x01\x00\x00" + b"\x92\x00\x80" * 65_536 + pack({"chunk": CHUNK})

    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(frame)
            await server.pipeline.has(4)
            assert server.pipeline.records == 65_536
            assert len({batch.chunk for batch in server.pipeline.batches}) == 4

            for batch in server.pipeline.batches[:3]:
                batch.settle(Outcome.DELIVERED)
            assert await sender.is_silent()
            server.pipeline.batches[3].settle(Outcome.DELIVERED)

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)

    asyncio.run(scenario())


def test_s19_one_part_given_back_gives_back_the_frame() -> None:
    frame = packed(b"\x92\x00\x80" * 40_000, chunk=CHUNK)

    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(frame)
            await server.pipeline.has(3)

            first, *others = server.pipeline.batches
            first.settle(Outcome.RETURNED)
            for batch in others:
                batch.settle(Outcome.DELIVERED)

            assert await sender.rest() == b""

    asyncio.run(scenario())
