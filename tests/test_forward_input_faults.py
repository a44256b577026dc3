"""What the forward input does with heartbeats, invalid records, corrupt chunks and garbage (S12-S14, S16)."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import msgpack
import pytest

from forward_doubles import CHUNK, DATA, EVENT_TIME, ack, entries, forward, logs, message, opened, pack, packed, served
from logclf_daemon.metrics import value


def test_s12_heartbeats_are_ignored() -> None:
    async def scenario() -> None:
        async with served() as server:
            (await server.connect()).reset()
            assert await server.exchange(b"") == b""
            answer = await server.exchange(b"\xc0" + forward("t", chunk="a") + b"\xc0\xc0" + forward("t", chunk="b"))

            assert answer == ack("a") + ack("b")

    asyncio.run(scenario())


INVALID: dict[str, list[Any]] = {
    "not a map": ["oops"],
    "a map alone": [{"log": "x"}],
    "three elements": [[EVENT_TIME, {"log": "x"}, 1]],
    "record is an array": [[EVENT_TIME, ["x"]]],
    "time is text": [["yesterday", {"log": "x"}]],
    "time is nil": [[None, {"log": "x"}]],
    "time is a foreign ext": [[msgpack.ExtType(5, b"12345678"), {"log": "x"}]],
    "time is an empty pair": [[[], {"log": "x"}]],
}


@pytest.mark.parametrize("what", INVALID)
def test_s13_an_invalid_record_is_dropped_and_counted_and_the_rest_is_acknowledged(what: str) -> None:
    records = [[EVENT_TIME, {"log": "before"}], *INVALID[what], [EVENT_TIME, {"log": "after"}]]

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(pack(["t", records, {"chunk": CHUNK}])) == ack(CHUNK)

            assert logs(server.pipeline.batches) == [b"before", b"after"]
            assert server.dropped("invalid") == 1
            assert value("logclf_records_read_total", input=server.source.name) == 1

    asyncio.run(scenario())


def test_s13_a_single_event_with_a_float_as_time_is_dropped_and_acknowledged() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(message(pack(1.5), options={"chunk": CHUNK})) == ack(CHUNK)

            assert server.pipeline.batches == []
            assert server.dropped("invalid") == 1

    asyncio.run(scenario())


def test_s13_a_float_as_time_of_an_entry_is_taken_as_fluent_bit_takes_it() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(pack(["t", [[1.5, {"log": "x"}]], {"chunk": CHUNK}])) == ack(CHUNK)

            assert opened(server.pipeline.batches[0]) == [[1.5, {b"log": b"x"}]]

    asyncio.run(scenario())


def test_s13_a_dropped_record_moves_the_group_marks_with_it() -> None:
    start = msgpack.ExtType(0, b"\xff\xff\xff\xff\x00\x00\x00\x00")
    records = [["no time", {}], [EVENT_TIME, {"log": "x"}], [start, {}]]

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(pack(["t", records]))

            assert server.pipeline.batches[0].passthrough == {1}

    asyncio.run(scenario())


def test_s13_no_records_at_all_are_acknowledged() -> None:
    async def scenario() -> None:
        async with served() as server:
            frames = pack(["t", [], {"chunk": "a"}]) + packed(b"", chunk="b") + pack(["t", ["no"], {"chunk": "c"}])
            assert await server.exchange(frames) == ack("a") + ack("b") + ack("c")

            assert server.pipeline.batches == []

    asyncio.run(scenario())


# A chunk as Fluent Bit's server was sent it: cutting it short needs no library.
ASKED: dict[str, dict[str, str]] = json.loads((DATA / "fluent-bit" / "in_forward.json").read_text())
ZSTD: bytes = msgpack.unpackb(bytes.fromhex(ASKED["zstd_chunk"]["sent"]), raw=True)[1]
CORRUPT = {
    "cut entry": packed(entries(3)[:-1], chunk=CHUNK),
    "cut between elements": packed(pack([EVENT_TIME, {}])[:-1], chunk=CHUNK),
    "reserved byte": packed(entries(2) + b"\xc1", chunk=CHUNK),
    "too deep": packed(b"\x91" * 5000 + b"\xc0", chunk=CHUNK),
    "gzip garbage": packed(b"\x1f\x8bzzzzzzzzzzzzzzzzzz", compressed="gzip", chunk=CHUNK),
    "gzip that is none": packed(entries(2), compressed="gzip", chunk=CHUNK),
    "gzip cut": packed(gzip.compress(entries(50))[:-9], compressed="gzip", chunk=CHUNK),
    "gzip with a tail": packed(gzip.compress(entries(5)) + b"tail", compressed="gzip", chunk=CHUNK),
    "gzip checksum": packed(gzip.compress(entries(5))[:-8] + b"\0" * 8, compressed="gzip", chunk=CHUNK),
    "gzip of nothing": packed(b"", compressed="gzip", chunk=CHUNK),
    "zstd garbage": packed(b"\x28\xb5\x2f\xfdzzzzzzzzzzzzz", compressed="zstd", chunk=CHUNK),
    "zstd cut": packed(ZSTD[:-9], compressed="zstd", chunk=CHUNK),
    "unknown compression": packed(entries(1), compressed="lzma", chunk=CHUNK),
}


@pytest.mark.parametrize("what", CORRUPT)
def test_s14_a_corrupt_chunk_is_not_acknowledged_and_its_connection_ends(what: str) -> None:
    async def scenario() -> None:
        async with served() as server:
            sender = await server.connect()
            await sender.send(CORRUPT[what])

            assert await sender.rest() == b""
            assert server.troubles("corrupt_chunk") == 1
            assert server.pipeline.batches == []
            assert await server.still_serves()

    asyncio.run(scenario())


def test_s14_a_corrupt_chunk_that_nobody_sends_again_counts_as_lost() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(packed(b"\x1f\x8bgarbage", compressed="gzip"))

            assert server.dropped("corrupt_chunk") == 1
            assert value("logclf_records_read_total", input=server.source.name) == 1

    asyncio.run(scenario())


def test_s14_a_chunk_sent_again_intact_is_delivered() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(packed(entries(3)[:-1], chunk=CHUNK))

            assert await server.exchange(packed(entries(3), chunk=CHUNK)) == ack(CHUNK)

    asyncio.run(scenario())


GARBAGE = {
    "reserved byte": b"\x93\xa1t\xc1",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303"),
    "json object": b'{"log": "x"}',
    "json array": b'["t", 1, {}]',
    "a map": pack({"a": 1}),
    "an empty array": b"\x90",
    "five elements": pack(["t", 1, {}, {}, {}]),
    "tag is a number": pack([1, []]),
    "tag is a bomb": b"\x93\x91\x91",
    "tag of megabytes": b"\x93\xdb\x00\x20\x00\x00" + b"x" * 100_000,
    "no entries": pack(["t", 1]),
    "options are text": pack(["t", [], "x"]),
    "chunk is a map": pack(["t", [], {"chunk": {}}]),
    "chunk of kilobytes": pack(["t", [], {"chunk": "x" * 5000}]),
    "signal is text": pack(["t", [], {"fluent_signal": "x"}]),
    "entries and time": pack(["t", [], {}, {}]),
    "too deep": b"\x93\xa1t\x01" + b"\x91" * 5000,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_s16_garbage_ends_its_connection_and_nothing_else(what: str) -> None:
    async def scenario() -> None:
        async with served() as server:
            bystander = await server.connect()
            await bystander.send(forward("t", chunk="first"))
            assert await bystander.read(len(ack("first"))) == ack("first")
            noisy = await server.connect()

            await noisy.send(GARBAGE[what])

            assert await noisy.rest() == b""
            assert server.troubles("malformed") + server.troubles("not_forward") == 1
            await bystander.send(forward("t", chunk="second"))
            assert await bystander.read(len(ack("second"))) == ack("second")

    asyncio.run(scenario())


def test_s16_what_came_whole_before_the_garbage_is_delivered() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(forward("t", 2) + forward("t", 3, chunk=CHUNK) + b"garbage")

            assert server.pipeline.records == 5

    asyncio.run(scenario())


def test_s16_a_message_cut_off_by_the_end_of_its_connection_is_counted_and_dropped() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", chunk=CHUNK) + forward("t", 9, chunk="cut")[:-20]) == ack(CHUNK)

            assert server.troubles("frame_cut") == 1
            assert server.pipeline.records == 1

    asyncio.run(scenario())
