"""The forward input against the conformance checklist (S1-S24) and against what Fluent Bit and fluentd really sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import resource
import socket
import ssl
import time
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec import Raw
from pydantic import ValidationError

from doubles import cascade
from forward_doubles import (
    DATA,
    EVENT_TIME,
    Clock,
    Pipeline,
    Sender,
    Served,
    ack,
    entries,
    forward,
    logs,
    opened,
    pack,
    served,
    until,
)
from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.handshake import ClientLogin
from logclf_daemon.inputs._forward.chunks import inflate
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions
from logclf_daemon.metrics import value
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import Pipeline as WholePipeline
from logclf_daemon.record import Batch, Outcome, SealedRecord

CHUNK = "cGl4ZWxzLWFyZS1mdW4hIQ=="
EXT8 = bytes.fromhex("c7080068e7780000000005")
ANSWERS: dict[str, str] = json.loads((DATA / "fluent-bit" / "answers.json").read_text())
PEER_ANSWERS: dict[str, dict[str, str]] = json.loads((DATA / "fluent-bit" / "in_forward.json").read_text())
TLS = DATA / "tls"
KEY = "sekret"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def message(time: bytes, record: object = None, options: object = None) -> bytes:
    parts = [pack("t.msg"), time, pack({"log": "hello"} if record is None else record)]
    if options is not None:
        parts.append(pack(options))
    return bytes((0x90 | len(parts),)) + b"".join(parts)


def packed(payload: bytes, tag: str = "t.packed", **options: object) -> bytes:
    return pack([tag, payload, options] if options else [tag, payload])


# --- what is accepted -----------------------------------------------------------------------------------------------


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

    run(scenario())


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

    run(scenario())


def test_s2_the_metadata_of_a_single_event_is_kept_where_entries_have_it() -> None:
    frame = message(pack(EVENT_TIME), options={"metadata": {"k": "v"}, "fluent_signal": 0, "chunk": CHUNK})

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(frame)

            assert opened(server.pipeline.batches[0]) == [[[EVENT_TIME, {b"k": b"v"}], {b"log": b"hello"}]]

    run(scenario())


@pytest.mark.parametrize("as_text", [False, True])
def test_s3_a_packed_payload_is_accepted_as_bin_and_as_str(as_text: bool) -> None:
    payload = entries(3)
    frame = b"\x93" + pack("t") + (b"\xdb" if as_text else b"\xc6") + len(payload).to_bytes(4, "big") + payload

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frame + pack({"chunk": CHUNK})) == ack(CHUNK)

            assert logs(server.pipeline.batches) == [b"line 0", b"line 1", b"line 2"]

    run(scenario())


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    compressed: bytes = zstandard.ZstdCompressor().compress(data)
    return compressed


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

    run(scenario())


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

    run(scenario())


@pytest.mark.parametrize("chunk", [CHUNK, "dGhlLWZsdWVudGQtd2F5IQ==\n", b"\x00\xffbinary", 7, 1 << 63, "", "x" * 300])
def test_s5_the_chunk_id_comes_back_byte_for_byte_and_type_for_type(chunk: object) -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", chunk=chunk)) == pack({"ack": chunk})

    run(scenario())


def test_s5_a_chunk_id_of_bytes_that_are_no_utf8_comes_back_as_text() -> None:
    chunk = b"\xa4\xff\xfe\x00\x80"

    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(b"\x93" + pack("t") + b"\x90\x81" + pack("chunk") + chunk)

            assert answer == b"\x81\xa3ack" + chunk

    run(scenario())


def test_s6_nothing_is_acknowledged_before_the_batch_is_safe() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(forward("t", chunk=CHUNK))
            await server.pipeline.has(1)
            assert await sender.is_silent()

            server.pipeline.batches[0].settle(Outcome.DELIVERED)

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)

    run(scenario())


def test_s6_a_batch_given_back_ends_the_connection_without_acknowledgement() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=Outcome.RETURNED)) as server:
            sender = await server.connect()

            await sender.send(forward("t", chunk=CHUNK))

            assert await sender.rest() == b""

    run(scenario())


def test_s6_a_returned_chunk_is_delivered_when_it_is_sent_again() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=Outcome.RETURNED)) as server:
            assert await server.exchange(forward("t", chunk=CHUNK)) == b""
            server.pipeline.outcome = Outcome.DELIVERED

            assert await server.exchange(forward("t", chunk=CHUNK)) == ack(CHUNK)

            first, second = server.pipeline.batches
            assert first.chunk == second.chunk is not None

    run(scenario())


def test_s7_without_a_chunk_there_is_no_reply_at_all() -> None:
    frames = forward("t", 2) + packed(entries(2)) + packed(entries(2), size=2) + message(pack(EVENT_TIME))
    nil_chunk = pack(["t", [[EVENT_TIME, {"log": "x"}]], {"chunk": None}])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(frames + nil_chunk) == b""

            assert server.pipeline.records == 8

    run(scenario())


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

    run(scenario())


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

    run(scenario())


def test_s9_a_chunk_delivered_before_is_acknowledged_at_once_and_not_delivered_again() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", 3, chunk=CHUNK)) == ack(CHUNK)

            assert await server.exchange(forward("t", 3, chunk=CHUNK)) == ack(CHUNK)

            assert server.pipeline.records == 3
            assert value("logclf_chunks_repeated_total", input=server.source.name) == 1

    run(scenario())


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

    run(scenario())


def test_s9_the_same_id_under_another_tag_is_another_chunk() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(forward("a", chunk=CHUNK))
            await server.exchange(forward("b", chunk=CHUNK))

            assert [batch.source for batch in server.pipeline.batches] == ["a", "b"]
            assert len({batch.chunk for batch in server.pipeline.batches}) == 2

    run(scenario())


def test_s9_beyond_the_window_a_chunk_is_new_again() -> None:
    async def scenario() -> None:
        async with served(dedup_window=2) as server:
            for chunk in ("a", "b", "c", "a", "c"):
                assert await server.exchange(forward("t", chunk=chunk)) == ack(chunk)

            assert len(server.pipeline.batches) == 4

    run(scenario())


def test_s9_without_a_window_every_chunk_is_new() -> None:
    async def scenario() -> None:
        async with served(dedup_window=0) as server:
            for _ in range(3):
                assert await server.exchange(forward("t", chunk=CHUNK)) == ack(CHUNK)

            assert len(server.pipeline.batches) == 3

    run(scenario())


@pytest.mark.parametrize("size", [0, 1, 99, -1, 1 << 63, "many", None, [1]])
def test_s10_what_is_said_of_the_size_is_not_believed(size: object) -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(packed(entries(3), size=size, chunk=CHUNK)) == ack(CHUNK)

            assert server.pipeline.records == 3

    run(scenario())


def test_s11_unknown_options_and_options_of_nil_are_no_hindrance() -> None:
    odd = b"\x93" + pack("t") + b"\x91" + entries(1) + b"\x84" + b"\xa2\xff\xfe\x01" + b"\x07\x90" + b"\x91\x01\xc0"
    odd += pack("chunk") + pack(CHUNK)
    nil = pack(["t", [[EVENT_TIME, {"log": "x"}]], None])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(nil + odd + forward("t", foo="bar", chunk="x")) == ack(CHUNK) + ack("x")

            assert server.pipeline.records == 3

    run(scenario())


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

    run(scenario())


def test_s11_a_single_event_with_a_signal_passes_as_an_array_of_one() -> None:
    frame = message(pack(EVENT_TIME), record=["not", "a", "map"], options={"fluent_signal": 2})

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(frame)

            assert server.pipeline.batches[0].opaque == pack([[EVENT_TIME, ["not", "a", "map"]]])

    run(scenario())


def test_s11_signals_are_refused_where_the_configuration_says_so() -> None:
    async def scenario() -> None:
        async with served(signals="refuse") as server:
            assert await server.exchange(packed(b"x", chunk=CHUNK, fluent_signal=1)) == b""

            assert server.troubles("signal_refused") == 1
            assert server.pipeline.batches == []
            assert await server.still_serves()

    run(scenario())


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

    run(scenario())


def test_s12_heartbeats_are_ignored() -> None:
    async def scenario() -> None:
        async with served() as server:
            (await server.connect()).reset()
            assert await server.exchange(b"") == b""
            answer = await server.exchange(b"\xc0" + forward("t", chunk="a") + b"\xc0\xc0" + forward("t", chunk="b"))

            assert answer == ack("a") + ack("b")

    run(scenario())


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

    run(scenario())


def test_s13_a_single_event_with_a_float_as_time_is_dropped_and_acknowledged() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(message(pack(1.5), options={"chunk": CHUNK})) == ack(CHUNK)

            assert server.pipeline.batches == []
            assert server.dropped("invalid") == 1

    run(scenario())


def test_s13_a_float_as_time_of_an_entry_is_taken_as_fluent_bit_takes_it() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(pack(["t", [[1.5, {"log": "x"}]], {"chunk": CHUNK}])) == ack(CHUNK)

            assert opened(server.pipeline.batches[0]) == [[1.5, {b"log": b"x"}]]

    run(scenario())


def test_s13_a_dropped_record_moves_the_group_marks_with_it() -> None:
    start = msgpack.ExtType(0, b"\xff\xff\xff\xff\x00\x00\x00\x00")
    records = [["no time", {}], [EVENT_TIME, {"log": "x"}], [start, {}]]

    async def scenario() -> None:
        async with served() as server:
            await server.exchange(pack(["t", records]))

            assert server.pipeline.batches[0].passthrough == {1}

    run(scenario())


def test_s13_no_records_at_all_are_acknowledged() -> None:
    async def scenario() -> None:
        async with served() as server:
            frames = pack(["t", [], {"chunk": "a"}]) + packed(b"", chunk="b") + pack(["t", ["no"], {"chunk": "c"}])
            assert await server.exchange(frames) == ack("a") + ack("b") + ack("c")

            assert server.pipeline.batches == []

    run(scenario())


ZSTD: bytes = msgpack.unpackb(bytes.fromhex(PEER_ANSWERS["zstd_chunk"]["sent"]), raw=True)[1]
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

    run(scenario())


def test_s14_a_corrupt_chunk_that_nobody_sends_again_counts_as_lost() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(packed(b"\x1f\x8bgarbage", compressed="gzip"))

            assert server.dropped("corrupt_chunk") == 1
            assert value("logclf_records_read_total", input=server.source.name) == 1

    run(scenario())


def test_s14_a_chunk_sent_again_intact_is_delivered() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(packed(entries(3)[:-1], chunk=CHUNK))

            assert await server.exchange(packed(entries(3), chunk=CHUNK)) == ack(CHUNK)

    run(scenario())


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

    run(scenario())


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

    run(scenario())


def test_s16_what_came_whole_before_the_garbage_is_delivered() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.exchange(forward("t", 2) + forward("t", 3, chunk=CHUNK) + b"garbage")

            assert server.pipeline.records == 5

    run(scenario())


def test_s16_a_message_cut_off_by_the_end_of_its_connection_is_counted_and_dropped() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(forward("t", chunk=CHUNK) + forward("t", 9, chunk="cut")[:-20]) == ack(CHUNK)

            assert server.troubles("frame_cut") == 1
            assert server.pipeline.records == 1

    run(scenario())


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

    run(scenario())


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

    run(scenario())


def test_s17_a_thousand_frames_in_one_segment_are_a_thousand_batches() -> None:
    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(b"".join(packed(entries(1), chunk=number) for number in range(1000)))

            assert answer == b"".join(ack(number) for number in range(1000))
            assert len(server.pipeline.batches) == 1000

    run(scenario())


def test_s17_single_events_in_one_segment_with_the_same_tag_are_one_batch() -> None:
    one = [pack([tag, EVENT_TIME, {"log": tag}, {"fluent_signal": 0}]) for tag in ("a", "a", "b", "b", "b", "a")]
    chunked = pack(["a", EVENT_TIME, {"log": "a"}, {"chunk": CHUNK}])
    bare = pack(["a", EVENT_TIME, {"log": "a"}])

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(b"".join(one) + bare + chunked + bare) == ack(CHUNK)

            found = [(batch.source, len(batch.records)) for batch in server.pipeline.batches]
            assert found == [("a", 2), ("b", 3), ("a", 2), ("a", 1), ("a", 1)]

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


async def logged_in(server: Served, login: ClientLogin, trailing: bytes = b"") -> tuple[Sender, Any]:
    sender = await server.connect()
    ping, _ = login.ping(await sender.read_object())
    await sender.send(ping + trailing)
    return sender, await sender.read_object()


def test_s21_the_nonce_is_fresh_for_each_connection() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, users={"bob": "pw"}) as server:
            helos = [await (await server.connect()).read_object() for _ in range(5)]

            assert len({helo[1][b"nonce"] for helo in helos}) == 5
            assert len({helo[1][b"auth"] for helo in helos}) == 5

    run(scenario())


def test_s21_who_knows_the_key_is_served_even_if_data_follows_at_once() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY) as server:
            sender, pong = await logged_in(server, ClientLogin(b"client", KEY.encode()), forward("t", chunk="a"))

            assert pong[:2] == [b"PONG", True]
            assert await sender.read(len(ack("a"))) == ack("a")
            await sender.send(forward("t", chunk="b"))
            assert await sender.read(len(ack("b"))) == ack("b")

    run(scenario())


REFUSED = {
    "wrong key": ClientLogin(b"client", b"wrong", b"bob", b"pw"),
    "unknown user": ClientLogin(b"client", KEY.encode(), b"eve", b"pw"),
    "wrong password": ClientLogin(b"client", KEY.encode(), b"bob", b"wrong"),
    "no user": ClientLogin(b"client", KEY.encode()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_s21_who_cannot_prove_it_gets_a_reason_and_the_end(what: str) -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, users={"bob": "pw"}) as server:
            sender, pong = await logged_in(server, REFUSED[what], forward("t", chunk=CHUNK))

            assert pong[:2] == [b"PONG", False]
            assert b"mismatch" in pong[2]
            assert await sender.rest() == b""
            assert server.troubles("handshake_refused") == 1
            assert server.pipeline.batches == []

    run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pack(["PING", "h", "s", "d", ""]), id="five elements"),
        pytest.param(forward("t", chunk=CHUNK), id="data"),
        pytest.param(packed(b"x" * 100_000, chunk=CHUNK), id="much data"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\xdd\x7f\xff\xff\xff" * 3, id="bomb"),
        pytest.param(b"\x96\xa4PING\xdb\x00\x10\x00\x00" + b"x" * 20_000, id="long name"),
        pytest.param(b"\x81\x91\x01\x01", id="unhashable"),
    ],
)
def test_s21_nothing_but_a_ping_is_understood_before_the_login(data: bytes) -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY) as server:
            sender = await server.connect()
            await sender.read_object()
            await sender.send(data)

            assert (await sender.read_object())[:2] == [b"PONG", False]
            assert await sender.rest() == b""
            assert server.pipeline.batches == []
            assert server.troubles("handshake_refused") == 1

    run(scenario())


def test_s22_a_client_of_the_servers_own_name_is_refused() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, self_hostname="here") as server:
            sender, pong = await logged_in(server, ClientLogin(b"here", KEY.encode()))

            assert pong[1] is False
            assert b"same hostname" in pong[2]
            assert await sender.rest() == b""

    run(scenario())


def test_s22_the_pong_proves_the_servers_knowledge_under_its_own_name() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, self_hostname="here") as server:
            sender = await server.connect()
            ping, proof = ClientLogin(b"client", KEY.encode()).ping(await sender.read_object())
            await sender.send(ping)

            pong = await sender.read_object()

            assert pong[3] == b"here"
            proof.check(pong)

    run(scenario())


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

    run(scenario())


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

    run(scenario())


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

    run(scenario())


def test_s24_stopping_accepts_nobody_drops_half_a_frame_and_still_answers_what_is_under_way() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(forward("t", 2, chunk="whole") + forward("t", 9, chunk="half")[:40])
            await server.pipeline.has(1)

            server.source.stop()
            assert server.task is not None
            await asyncio.wait_for(asyncio.shield(server.task), 30)
            with pytest.raises(OSError):
                await server.connect()
            server.pipeline.batches[0].settle(Outcome.DELIVERED)
            await server.source.close()

            assert await sender.rest() == ack("whole")
            assert len(server.pipeline.batches) == 1

    run(scenario())


def test_s24_chunks_still_queued_when_it_stops_are_left_to_their_sender_and_the_others_are_emitted() -> None:
    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        async with served(pipeline) as server:
            sender = await server.connect()
            await sender.send(forward("a", chunk="first") + forward("b", chunk="second") + forward("c"))
            await until(lambda: bool(server.source._server.tasks))

            server.source.stop()
            pipeline.gate.set()
            assert server.task is not None
            await asyncio.wait_for(asyncio.shield(server.task), 30)
            await server.source.close()

            assert await sender.rest() == ack("first")
            assert [batch.source for batch in pipeline.batches] == ["a", "c"]

    run(scenario())


class Stuck(MemoryOutput):
    """Never says that anything is safe."""

    async def write(self, batch: Batch) -> None:
        await asyncio.Event().wait()


def test_s24_events_nobody_sends_again_are_counted_even_if_the_pipeline_takes_no_more() -> None:
    """Single events without a chunk id that wait for room when the time to drain is over."""

    async def scenario() -> None:
        source = ForwardInput(ForwardInputOptions(listen="127.0.0.1:0"), "late")
        delivery = WholePipeline([source], cascade(), [Stuck()], max_in_flight=1, drain_secs=0.0)
        await delivery.open()
        server = Served(source, Pipeline())
        running = asyncio.create_task(delivery.run())
        sender = await server.connect()
        await sender.send(b"".join(pack([f"tag.{number}", EVENT_TIME, {"log": "x"}]) for number in range(40)))
        await until(lambda: delivery.room.taken > 0)

        delivery.stop()
        await running

        assert value("logclf_records_read_total", input="late") == 40
        assert value("logclf_records_returned_total", input="late") == 40
        await sender.close()

    run(scenario())


def test_s24_a_pipeline_that_takes_nothing_any_more_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        source = ForwardInput(ForwardInputOptions(listen="127.0.0.1:0"), "stuck")
        await source.open()
        server = Served(source, pipeline)
        running = asyncio.create_task(source.run(pipeline))
        sender = await server.connect()
        await sender.send(forward("t", chunk=CHUNK))
        await until(lambda: bool(source._server.tasks))

        source.stop()
        running.cancel()
        await asyncio.wait([running])
        await source.close()

        assert await sender.rest() == b""
        await sender.close()

    run(scenario())


# --- what the real programs sent ------------------------------------------------------------------------------------


def expected_records(data: bytes) -> tuple[list[tuple[bytes, Any]], int]:
    """Tag and record of each log entry in a capture, and how many messages are no logs, by msgpack's own decoder."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(data)
    found: list[tuple[bytes, Any]] = []
    signals = 0
    for tag, second, *rest in unpacker:
        if tag == b"PING":
            continue
        options = rest[-1] if rest and isinstance(rest[-1], dict) and len(rest) != 1 + isinstance(second, int) else {}
        options = rest[-1] if isinstance(second, list | bytes) and rest else options
        if options.get(b"fluent_signal"):
            signals += 1
        elif isinstance(second, bytes):
            payload = gzip.decompress(second) if options.get(b"compressed") == b"gzip" else second
            inner = msgpack.Unpacker(raw=True, strict_map_key=False)
            inner.feed(payload)
            found += [(tag, record) for _, record in inner]
        elif isinstance(second, list):
            found += [(tag, record) for _, record in second]
        else:
            found.append((tag, rest[0]))
    return found, signals


def found_records(batches: list[Batch]) -> tuple[list[tuple[bytes, Any]], int]:
    found = [(os.fsencode(batch.source), record) for batch in batches for _, record in opened(batch)]
    return found, sum(batch.opaque is not None for batch in batches)


def security(name: str) -> dict[str, Any]:
    """The options of a server that these captured clients could log in to, with the capture's nonce and salt."""
    if not name.startswith("shared"):
        return {}
    with_user = name.startswith("shared_user")
    fixed = iter([b"N" * 16, b"A" * 16])
    return {
        "shared_key": "" if name.startswith("shared_empty") else KEY,
        "users": {"bob": "pw"} if with_user else {},
        "self_hostname": "sink.local",
        "random_bytes": lambda _count: next(fixed),
    }


NOT_ACKED_NORMALLY = re.compile("ack_wrong|ack_close|ack_never|ack_skipfirst|shared_(baddigest|pongfail)")
CAPTURES = sorted(path.name for path in (DATA / "fluent-bit").glob("*.bin"))


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_of_fluent_bit_is_read_and_answered_as_it_was(name: str) -> None:
    data = (DATA / "fluent-bit" / name).read_bytes()
    expected, signals = expected_records(data)

    async def scenario() -> None:
        async with served(**security(name)) as server:
            answer = await server.exchange(data)

            batches = server.pipeline.batches
            if "ack_wrong" in name:  # the same chunk twice on one connection: delivered once
                assert 2 * found_records(batches)[0] == expected
            else:
                assert found_records(batches) == (expected, signals)
            if name.startswith(("metrics", "traces")):
                assert signals and not any(batch.records for batch in batches)
            if not NOT_ACKED_NORMALLY.match(name):
                assert answer.hex() == ANSWERS[name]

    assert expected or signals or name.startswith(("shared_baddigest", "shared_pongfail"))
    run(scenario())


@pytest.mark.parametrize("name", sorted(path.name for path in (DATA / "fluentd").glob("*.bin")))
def test_a_capture_of_fluentd_is_read_and_every_chunk_acknowledged(name: str) -> None:
    data = (DATA / "fluentd" / name).read_bytes()
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(data)
    frames = list(unpacker)
    if frames[0][0] == b"PING":  # its key is not known; what came after the login is what counts here
        data = data[len(pack([part.decode() for part in frames.pop(0)])) :]
    chunks = [frame[2][b"chunk"].decode() for frame in frames if b"chunk" in frame[2]]

    async def scenario() -> None:
        async with served() as server:
            assert await server.exchange(data) == b"".join(map(ack, chunks))

            assert found_records(server.pipeline.batches)[0] == expected_records(data)[0]
            assert server.pipeline.records > 0

    run(scenario())


# Where this server answers otherwise than Fluent Bit's own, on purpose; the peer's chunk id is this one.
THEIR_CHUNK = "cGl4ZWxzLWFyZS1mdW4hIQ=="
BETTER = {
    "message_float": ack(THEIR_CHUNK),  # dropped, counted, acknowledged: no retry would help
    "chunk_bin": ack(THEIR_CHUNK.encode()),
    "chunk_int": ack(5),
    "bad_entry_mid": ack(THEIR_CHUNK),  # the other entries count
    "packed_garbage": b"",  # something is missing: the sender may try again
    "gzip_garbage": b"",  # Fluent Bit acknowledges it and loses it
    "signal_bad": ack(THEIR_CHUNK),  # a signal not known here may be known further on
    "nil_heartbeat": b"",
}


@pytest.mark.parametrize("case", PEER_ANSWERS)
def test_what_fluent_bits_server_was_asked_is_answered_like_there_or_better(case: str) -> None:
    asked = PEER_ANSWERS[case]
    if "zstd" in case:
        pytest.importorskip("zstandard")

    async def scenario() -> None:
        async with served() as server:
            answer = await server.exchange(bytes.fromhex(asked["sent"]))

            assert answer == BETTER.get(case, bytes.fromhex(asked["answer"]))

    run(scenario())


# --- listening ------------------------------------------------------------------------------------------------------


def test_a_peer_that_is_gone_without_a_word_is_noticed() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.connect()
            await until(lambda: bool(server.source._server.peers))

            (peer,) = server.source._server.peers
            sock = peer._transport.get_extra_info("socket")  # type: ignore[attr-defined]

            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60

    run(scenario())


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            source = ForwardInput(ForwardInputOptions(listen=f"127.0.0.1:{port}"), "forward")

            with pytest.raises(ServiceUnavailable, match=rf"127\.0\.0\.1:{port}: Address already in use; .*ss -ltnp"):
                await source.open()

    run(scenario())


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("key", [None, ""])
def test_off_loopback_a_key_or_client_certificates_are_demanded(listen: str, key: str | None) -> None:
    with pytest.raises(ConfigError, match=r"shared_key or tls\.client_ca"):
        ForwardInput(ForwardInputOptions.model_validate({"listen": listen, "shared_key": key}), "forward")


def test_off_loopback_a_key_is_enough() -> None:
    async def scenario() -> None:
        async with served(listen="0.0.0.0:0", shared_key=KEY) as server:
            assert server.address[0] == "0.0.0.0"

    run(scenario())


def test_users_without_a_key_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="shared_key"):
        ForwardInput(ForwardInputOptions.model_validate({"users": {"bob": "pw"}}), "forward")


@pytest.mark.parametrize("listen", ["", "24224", "host", "host:", ":24224", "host:99999", "host:x", "unix://relative"])
def test_a_bad_address_is_refused_with_the_form_of_a_good_one(listen: str) -> None:
    with pytest.raises(ValidationError, match=r"host:port|must be absolute"):
        ForwardInputOptions(listen=listen)


def test_a_host_that_does_not_exist_is_a_mistake_in_the_configuration() -> None:
    source = ForwardInput(ForwardInputOptions(listen="no-such-host.invalid:0"), "forward")

    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        asyncio.run(source.open())


def test_it_listens_on_ipv6() -> None:
    async def scenario() -> None:
        async with served(listen="[::1]:0") as server:
            assert server.address[0] == "::1"
            assert await server.still_serves()

    run(scenario())


def test_it_listens_on_a_unix_socket_and_removes_it_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "forward.sock"

    async def scenario() -> None:
        async with served(listen=f"unix://{path}") as server:
            assert server.address == (str(path), 0)
            assert path.stat().st_mode & 0o777 == 0o660
            assert await server.still_serves()

    run(scenario())
    assert not path.exists()


def test_a_unix_socket_left_over_from_a_crash_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "forward.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))

    async def scenario() -> None:
        async with served(listen=f"unix://{path}") as server:
            second = ForwardInput(ForwardInputOptions(listen=f"unix://{path}"), "forward")
            with pytest.raises(ServiceUnavailable, match="Address already in use"):
                await second.open()

            assert await server.still_serves()

    run(scenario())


def test_a_socket_that_already_listens_is_taken_over() -> None:
    async def scenario() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with served(sock=sock, listen="127.0.0.1:1") as server:
            assert server.address == ("127.0.0.1", port)
            assert await server.still_serves()

    run(scenario())


def highest_file_descriptor() -> int:
    return max(int(path.name) for path in Path("/proc/self/fd").iterdir())


def test_without_a_free_file_descriptor_it_waits_without_spinning_and_goes_on_after() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.still_serves()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            waiting = await server.connect()
            await waiting.send(forward("t", chunk="a"))
            await waiting.read(len(ack("a")))
            late = socket.socket()
            holes: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest_file_descriptor() + 1, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        holes.append(os.dup(0))
                late.setblocking(False)
                spent = time.process_time()
                late.connect_ex(server.address)
                await until(lambda: server.troubles("accept_failed") >= 1)
                await asyncio.sleep(0.2)
                assert server.troubles("accept_failed") <= 2
                assert time.process_time() - spent < 0.2
                await waiting.send(forward("t", chunk="b"))
                assert await waiting.read(len(ack("b"))) == ack("b")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for hole in holes:
                    os.close(hole)
                late.close()
            await waiting.close()

            assert await server.still_serves()

    run(scenario())


# --- TLS ------------------------------------------------------------------------------------------------------------


def client_context(with_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=TLS / "ca.pem")
    if with_certificate:
        context.load_cert_chain(TLS / "client.pem", TLS / "client.key")
    return context


def server_tls(**more: str) -> dict[str, str]:
    return {"cert": str(TLS / "server.pem"), "key": str(TLS / "server.key"), **more}


def test_it_serves_over_tls_and_survives_bad_handshakes() -> None:
    async def scenario() -> None:
        async with served(tls=server_tls()) as server:
            plain = await server.connect()
            await plain.send(forward("t", chunk=CHUNK))
            assert await plain.rest() != ack(CHUNK)
            with pytest.raises(ssl.SSLCertVerificationError):
                await server.connect(tls=ssl.create_default_context())
            (await server.connect()).reset()
            await until(lambda: server.troubles("tls_handshake") == 3)

            good = await server.connect(tls=client_context())
            await good.send(forward("t", chunk=CHUNK))

            assert await good.read(len(ack(CHUNK))) == ack(CHUNK)
            assert server.pipeline.records == 1

    run(scenario())


def test_a_large_chunk_over_tls_is_one_chunk() -> None:
    async def scenario() -> None:
        async with served(tls=server_tls()) as server:
            sender = await server.connect(tls=client_context())
            await sender.send(forward("t", 50_000, chunk=CHUNK))

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)
            assert server.pipeline.records == 50_000

    run(scenario())


def test_off_loopback_client_certificates_are_enough_and_are_demanded() -> None:
    async def scenario() -> None:
        async with served(listen="0.0.0.0:0", tls=server_tls(client_ca=str(TLS / "ca.pem"))) as server:
            server.address = ("127.0.0.1", server.address[1])
            good = await server.connect(tls=client_context(with_certificate=True))
            await good.send(forward("t", chunk=CHUNK))
            assert await good.read(len(ack(CHUNK))) == ack(CHUNK)

            bad = await server.connect(tls=client_context())
            await bad.send(forward("t", chunk="bad"))

            with contextlib.suppress(ssl.SSLError):
                assert await bad.rest() == b""
            await until(lambda: server.troubles("tls_handshake") == 1)
            assert server.pipeline.records == 1

    run(scenario())


def test_a_certificate_that_cannot_be_read_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    options = {"tls": {"cert": str(tmp_path / "no.pem"), "key": str(TLS / "server.key")}}

    with pytest.raises(ConfigError, match=r"no\.pem"):
        ForwardInput(ForwardInputOptions.model_validate(options), "forward")


def test_the_secrets_do_not_show() -> None:
    options = ForwardInputOptions.model_validate({"shared_key": "hush", "users": {"bob": "hush"}})

    assert "hush" not in repr(options)
    assert "hush" not in options.model_dump_json()
