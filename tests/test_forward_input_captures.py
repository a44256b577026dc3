"""The forward input against what Fluent Bit and fluentd really sent, and were answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from typing import Any

import msgpack
import pytest

from forward_doubles import DATA, KEY, ack, opened, pack, served
from logclf_daemon.record import Batch

ANSWERS: dict[str, str] = json.loads((DATA / "fluent-bit" / "answers.json").read_text())
PEER_ANSWERS: dict[str, dict[str, str]] = json.loads((DATA / "fluent-bit" / "in_forward.json").read_text())


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
    asyncio.run(scenario())


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

    asyncio.run(scenario())


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

    asyncio.run(scenario())
