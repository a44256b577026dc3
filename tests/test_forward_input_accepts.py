"""What the forward input accepts: messages and options of every form (S1-S5, S10, S11, S18)."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from msgspec import Raw

from forward_doubles import (
    CHUNK,
    EVENT_TIME,
    EXT8,
    ack,
    entries,
    forward,
    logs,
    message,
    opened,
    pack,
    packed,
    served,
    zstd,
)
from logclf_daemon.inputs._forward.chunks import inflate
from logclf_daemon.record import SealedRecord


@pytest.mark.parametrize(
    "time",
    [
        pytest.param(pack(1759999999), id="uint32"),
        pytest.param(pack(5), id="fixint"),
        pytest.param(pack(1 << 40), id="uint64"),
        pytest.param(pack(EVENT_TIME), id="fixext8"),
        pytest.param(EXT8, id="ext8"),
    ],
)
def test_s1_a_message_is_accepted_with_every_kind_of_time(time: bytes) -> None:
    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(message(time, options={"chunk": CHUNK}))

            assert answer == ack(CHUNK)
            (batch,) = server.pipeline.batches
            assert batch.source == "t.msg"
            assert bytes(batch.records[0].time) == time
            assert logs([batch]) == [b"hello"]

    asyncio.run(scenario())


def test_s2_classic_entries_and_entries_with_metadata_are_accepted_mixed_and_with_long_headers() -> None:
    classic = b"\xdd\x00\x00\x00\x02" + pack(EVENT_TIME) + b"\xdf\x00\x00\x00\x01" + pack("log") + pack("one")
    with_metadata = pack([[EVENT_TIME, {"k": "v"}], {"log": "two"}])
    frame = b"\xdd\x00\x00\x00\x03" + pack("t") + b"\xdd\x00\x00\x00\x02" + classic + with_metadata
    frame += b"\xdf\x00\x00\x00\x01" + pack("chunk") + pack(CHUNK)

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frame) == ack(CHUNK)

            (batch,) = server.pipeline.batches
            assert [time for time, _ in opened(batch)] == [EVENT_TIME, [EVENT_TIME, {b"k": b"v"}]]
            assert logs([batch]) == [b"one", b"two"]

    asyncio.run(scenario())


def test_s2_the_metadata_of_a_single_event_is_kept_where_entries_have_it() -> None:
    frame = message(pack(EVENT_TIME), options={"metadata": {"k": "v"}, "fluent_signal": 0, "chunk": CHUNK})

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(frame)

            assert opened(server.pipeline.batches[0]) == [[[EVENT_TIME, {b"k": b"v"}], {b"log": b"hello"}]]

    asyncio.run(scenario())


@pytest.mark.parametrize("as_text", [False, True])
def test_s3_a_packed_payload_is_accepted_as_bin_and_as_str(as_text: bool) -> None:
    payload = entries(3)
    frame = b"\x93" + pack("t") + (b"\xdb" if as_text else b"\xc6") + len(payload).to_bytes(4, "big") + payload

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frame + pack({"chunk": CHUNK})) == ack(CHUNK)

            assert logs(server.pipeline.batches) == [b"line 0", b"line 1", b"line 2"]

    asyncio.run(scenario())


COMPRESSED: dict[str, Callable[[bytes], tuple[bytes, dict[str, Any]]]] = {
    "gzip": lambda data: (gzip.compress(data), {"compressed": "gzip"}),
    "gzip in members": lambda data: (gzip.compress(data[:9]) + gzip.compress(data[9:]), {"compressed": "gzip"}),
    "gzip in tiny members": lambda data: (
        b"".join(gzip.compress(data[at : at + 1]) for at in range(len(data))),
        {"compressed": "gzip"},
    ),
    "gzip by its magic": lambda data: (gzip.compress(data), {}),
    "text": lambda data: (data, {"compressed": "text"}),
    "zstd": lambda data: (zstd(data), {"compressed": "zstd"}),
    "zstd in frames": lambda data: (zstd(data[:9]) + zstd(data[9:]), {"compressed": "zstd"}),
}


@pytest.mark.parametrize("how", COMPRESSED)
def test_s4_every_compression_is_opened(how: str) -> None:
    payload, options = COMPRESSED[how](entries(1000))

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(packed(payload, chunk=CHUNK, **options)) == ack(CHUNK)

            assert logs(server.pipeline.batches) == [b"line %d" % number for number in range(1000)]

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("members", [1, 2])
def test_s4_the_content_is_the_same_wherever_its_pieces_end(size: int, members: int) -> None:
    content = bytes(size // 2) + os.urandom(1000) + bytes(size - size // 2 - 1000)
    cut = size if members == 1 else size - 1

    assert inflate(gzip.compress(content[:cut]) + gzip.compress(content[cut:]), b"gzip", 4 << 20) == content


def test_s4_a_large_compressed_chunk_is_opened_too() -> None:
    noise = os.urandom(400_000).hex()
    payload = gzip.compress(pack([EVENT_TIME, {"log": noise}]))

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(packed(payload, compressed="gzip", chunk=CHUNK)) == ack(CHUNK)

            assert logs(server.pipeline.batches) == [noise.encode()]

    asyncio.run(scenario())


@pytest.mark.parametrize("chunk", [CHUNK, "dGhlLWZsdWVudGQtd2F5IQ==\n", b"\x00\xffbinary", 7, 1 << 63, "", "x" * 300])
def test_s5_the_chunk_id_comes_back_byte_for_byte_and_type_for_type(chunk: object) -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", chunk=chunk)) == pack({"ack": chunk})

    asyncio.run(scenario())


def test_s5_a_chunk_id_of_bytes_that_are_no_utf8_comes_back_as_text() -> None:
    chunk = b"\xa4\xff\xfe\x00\x80"

    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(b"\x93" + pack("t") + b"\x90\x81" + pack("chunk") + chunk)

            assert answer == b"\x81\xa3ack" + chunk

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [0, 1, 99, -1, 1 << 63, "many", None, [1]])
def test_s10_what_is_said_of_the_size_is_not_believed(size: object) -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(packed(entries(3), size=size, chunk=CHUNK)) == ack(CHUNK)

            assert server.pipeline.records == 3

    asyncio.run(scenario())


def test_s11_unknown_options_and_options_of_nil_are_no_hindrance() -> None:
    odd = b"\x93" + pack("t") + b"\x91" + entries(1) + b"\x84" + b"\xa2\xff\xfe\x01" + b"\x07\x90" + b"\x91\x01\xc0"
    odd += pack("chunk") + pack(CHUNK)
    nil = pack(["t", [[EVENT_TIME, {"log": "x"}]], None])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(nil + odd + forward("t", foo="bar", chunk="x")) == ack(CHUNK) + ack("x")

            assert server.pipeline.records == 3

    asyncio.run(scenario())


def test_s11_metrics_and_traces_pass_as_they_came_and_are_acknowledged() -> None:
    payload = b"\x93\x01\x02\x03cmetrics"
    frame = packed(payload, "m", chunk=CHUNK, compressed="gzip", fluent_signal=1)

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frame) == ack(CHUNK)

            (batch,) = server.pipeline.batches
            assert (batch.source, batch.opaque, batch.records) == ("m", pack(payload), [])
            assert batch.options == {"compressed": Raw(pack("gzip")), "fluent_signal": Raw(b"\x01")}
            assert batch.chunk is not None

    asyncio.run(scenario())


def test_s11_a_single_event_with_a_signal_passes_as_an_array_of_one() -> None:
    frame = message(pack(EVENT_TIME), record=["not", "a", "map"], options={"fluent_signal": 2})

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(frame)

            assert server.pipeline.batches[0].opaque == pack([[EVENT_TIME, ["not", "a", "map"]]])

    asyncio.run(scenario())


def test_s11_signals_are_refused_where_the_configuration_says_so() -> None:
    async def scenario() -> None:
        async with served(signals="refuse") as server:
            assert await server.exchange(packed(b"x", chunk=CHUNK, fluent_signal=1)) == b""

            assert server.troubles("signal_refused") == 1
            assert server.pipeline.batches == []
            assert await server.still_serves()

    asyncio.run(scenario())


def test_s11_group_markers_are_marked_as_no_log_lines() -> None:
    start = msgpack.ExtType(0, b"\xff\xff\xff\xff\x00\x00\x00\x00")
    end = msgpack.ExtType(0, b"\xff\xff\xff\xfe\x00\x00\x00\x00")
    records = [[[start, {"g": 1}], {}], [EVENT_TIME, {"log": "x"}], [[end, {}], {}]]

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(pack(["t", records, {"chunk": CHUNK}])) == ack(CHUNK)

            (batch,) = server.pipeline.batches
            assert len(batch.records) == 3
            assert batch.passthrough == {0, 2}

    asyncio.run(scenario())


def test_s18_bytes_that_are_no_utf8_and_odd_keys_survive() -> None:
    odd = [
        b"\x81\xa3log\xa3\xff\xfe\xfd",  # value
        b"\x81\xa2\xff\xfe\xa1x",  # key
        b"\x82\xa3log\xa1a\xa3log\xa1b",  # twice the same key
        b"\x81\x05\xa1x",  # a number as key
        b"\x81\x91\x01\xa1x",  # an array as key
        b"\x81\xc4\x03log\xa1x",  # a binary key
        b"\x81\x81\x01\x02\xa1x",  # a map as key
    ]
    frame = b"\x93\xa2\xff\xfe" + bytes((0x90 | len(odd),))
    frame += b"".join(b"\x92" + pack(EVENT_TIME) + record for record in odd) + pack({"chunk": CHUNK})

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frame) == ack(CHUNK)

            (batch,) = server.pipeline.batches
            assert os.fsencode(batch.source) == b"\xff\xfe"
            assert len(batch.records) == len(odd)
            bodies = [bytes(record.body) for record in batch.records if isinstance(record, SealedRecord)]
            assert odd[3] in bodies

    asyncio.run(scenario())
