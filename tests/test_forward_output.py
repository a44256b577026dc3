"""The forward output against the client checklist (C1-C20; backing off, C11, is the pipeline's)."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import math
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgpack
import pytest
from fluent.sender import FluentSender
from msgspec import Raw
from pydantic import ValidationError

from forward_doubles import DATA, EVENT_TIME, Clock, Pipeline, pack, served, until
from forward_sink import ForwardSink, Login
from logclf_daemon.codec import decode_entries, event_time, raw_str
from logclf_daemon.errors import ConfigError, OutputUnavailable, RecordRejected
from logclf_daemon.metrics import value
from logclf_daemon.outputs._forward.sender import ForwardSender
from logclf_daemon.outputs._forward.targets import Router, Target, parse_target
from logclf_daemon.outputs.forward import ForwardOutput, ForwardOutputOptions
from logclf_daemon.record import AnyRecord, Batch, Record, SealedRecord

CHUNK = "q83vEjRWeJCrze8SNFZ4kA=="
TLS = DATA / "tls"
NOW = event_time(1_760_000_000_000_000_005)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def record(text: str = "hello", **more: bytes) -> Record:
    return Record(NOW, {"log": raw_str(text.encode()), **{name: Raw(data) for name, data in more.items()}})


def batch(count: int = 1, source: str = "app", chunk: str | None = CHUNK) -> Batch:
    return Batch(source, [record(f"line {number}") for number in range(count)], chunk=chunk)


@asynccontextmanager
async def output(
    address: object, *, clock: Callable[[], float] = time.monotonic, **options: object
) -> AsyncIterator[ForwardOutput]:
    opened = ForwardOutput(ForwardOutputOptions.model_validate({"address": address, **options}), clock=clock)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


def lines(sink: ForwardSink) -> list[bytes]:
    return [entry[b"log"] for _, entry in sink.entries]


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_c1_the_bytes_are_these() -> None:
    entries = b"\x92\xd7\x00\x68\xe7\x78\x00\x00\x00\x00\x05\x81\xa3log\xa6line 0"
    golden = b"\x93\xaeclassified.app\xc6\x00\x00\x00" + bytes((len(entries),)) + entries
    golden += b"\x82\xa5chunk\xb8" + CHUNK.encode() + b"\xa4size\x01"

    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, tag_prefix="classified.") as out:
                await out.write(batch())

            assert bytes(sink.received) == golden

    run(scenario())


def test_c2_compressed_bytes_have_no_time_in_them_and_are_always_the_same() -> None:
    async def scenario() -> None:
        with ForwardSink(["close"]) as sink:
            async with output(sink.address, compress="gzip") as out:
                with pytest.raises(OutputUnavailable):
                    await out.write(batch(50))
                await out.write(batch(50))

            first, second = sink.messages
            assert first.raw == second.raw
            assert first.options == {b"chunk": CHUNK.encode(), b"size": 50, b"compressed": b"gzip"}
            payload = msgpack.unpackb(first.raw, raw=True)[1]
            assert payload.startswith(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")
            assert len(decode_entries(gzip.decompress(payload), 50).records) == 50
            assert len(payload) < 1000

    run(scenario())


def test_c3_the_options_hold_size_and_chunk_and_a_fresh_chunk_id_stays_with_its_batch() -> None:
    async def scenario() -> None:
        with ForwardSink(["close"]) as sink:
            async with output(sink.address) as out:
                unnamed = batch(3, chunk=None)
                with pytest.raises(OutputUnavailable):
                    await out.write(unnamed)
                await out.write(unnamed)
                await out.write(batch(3, chunk=None))

            first, again, other = sink.chunks
            assert first == again != other
            assert len(first) == 24
            assert [message.options[b"size"] for message in sink.messages] == [3, 3, 3]

    run(scenario())


# --- acknowledgements -----------------------------------------------------------------------------------------------


def test_c4_a_batch_is_written_only_when_its_own_acknowledgement_came() -> None:
    async def scenario() -> None:
        with ForwardSink(["none"]) as sink:
            async with output(sink.address) as out:
                writing = asyncio.create_task(out.write(batch()))
                await asyncio.to_thread(sink.records, 1)

                done, _ = await asyncio.wait([writing], timeout=0.05)

                assert not done
                sink.cut_connections()
                with pytest.raises(OutputUnavailable):
                    await writing

    run(scenario())


def test_c5_after_a_lost_acknowledgement_the_same_bytes_go_under_the_same_id_on_a_new_connection() -> None:
    async def scenario() -> None:
        with ForwardSink(["none"]) as sink:
            async with output(sink.address, ack_timeout_secs=1) as out:
                with pytest.raises(OutputUnavailable, match="no acknowledgement within"):
                    await out.write(batch(5))
                await out.write(batch(5))

            first, second = sink.messages
            assert first.raw == second.raw
            assert (first.connection, second.connection) == (1, 2)
            assert len(sink.once()) == 5

    run(scenario())


def test_c6_an_acknowledgement_byte_by_byte_is_one() -> None:
    async def scenario() -> None:
        with ForwardSink(["split"]) as sink:
            async with output(sink.address) as out:
                await out.write(batch())
            assert len(sink.messages) == 1

    run(scenario())


def test_c7_two_acknowledgements_in_one_read_are_two() -> None:
    async def scenario() -> None:
        with ForwardSink(["twice", "twice"]) as sink:
            async with output(sink.address) as out:
                await out.write(batch(chunk="one"))
                await out.write(batch(chunk="two"))
            assert sink.connections == 1

    run(scenario())


def test_c8_a_wrong_id_is_ignored_until_the_deadline_and_then_the_connection_ends() -> None:
    async def scenario() -> None:
        with ForwardSink(["wrong"]) as sink:
            async with output(sink.address, ack_timeout_secs=1) as out:
                with pytest.raises(OutputUnavailable, match="no acknowledgement"):
                    await out.write(batch())
                await out.write(batch())
            assert sink.connections == 2

    run(scenario())


def test_c8_a_late_acknowledgement_is_not_taken_for_that_of_the_next_chunk() -> None:
    async def scenario() -> None:
        with ForwardSink(["late", "ack", "wrong"]) as sink:
            async with output(sink.address, ack_timeout_secs=1, connections=1) as out:
                with pytest.raises(OutputUnavailable):
                    await out.write(batch(chunk="one"))
                await out.write(batch(chunk="two"))
                with pytest.raises(OutputUnavailable):
                    await out.write(batch(chunk="three"))

    run(scenario())


def test_c9_a_server_that_closes_before_the_acknowledgement_is_away() -> None:
    async def scenario() -> None:
        with ForwardSink(["close"]) as sink:
            async with output(sink.address) as out:
                with pytest.raises(OutputUnavailable, match=rf"{sink.address}: it closed the connection before"):
                    await out.write(batch())

    run(scenario())


def test_c10_a_server_that_reads_no_further_is_away_after_the_time_for_it() -> None:
    large = Batch("app", [record("x" * 3_000_000)], chunk=CHUNK)

    async def scenario() -> None:
        with ForwardSink(["stall"], receive_buffer=4096) as sink:
            async with output(sink.address, ack_timeout_secs=0.3, connections=1) as out:
                writing = asyncio.create_task(out.write(batch(chunk="first")))
                await asyncio.to_thread(sink.records, 1)
                with pytest.raises(OutputUnavailable):
                    await writing
                sink.script.append("stall")
                started = time.monotonic()
                with pytest.raises(OutputUnavailable):
                    await out.write(large)
                assert time.monotonic() - started < 20

    run(scenario())


def test_c10_a_server_that_accepts_and_never_reads_is_away_too() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=8) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            large = Batch("app", [record("x" * 3_000_000) for _ in range(4)], chunk=CHUNK)
            async with output(f"127.0.0.1:{deaf.getsockname()[1]}", ack_timeout_secs=0.3) as out:
                with pytest.raises(OutputUnavailable, match="timed out"):
                    await out.write(large)

    run(scenario())


def test_an_answer_that_is_none_ends_the_connection() -> None:
    async def scenario() -> None:
        with ForwardSink(["garbage"]) as sink:
            async with output(sink.address) as out:
                with pytest.raises(OutputUnavailable, match="no acknowledgement"):
                    await out.write(batch())
                await out.write(batch())
            assert sink.connections == 2

    run(scenario())


def test_without_acknowledgements_no_chunk_id_is_sent_and_nothing_awaited() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, ack=False) as out:
                await out.write(batch(2))
                sink.wait_for(lambda sink: len(sink.messages) == 1)

            assert sink.messages[0].options == {b"size": 2}

    run(scenario())


def test_a_connection_the_server_closed_while_it_was_idle_is_replaced_before_data_goes_there() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, connections=1) as out:
                await out.write(batch())
                sink.cut_connections()
                await asyncio.to_thread(sink.wait_for, lambda sink: not sink._sockets)

                await out.write(batch())

            assert sink.connections == 2

    run(scenario())


def test_a_connection_is_kept_and_as_many_are_used_as_are_needed() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, connections=3) as out:
                for number in range(20):
                    await out.write(batch(chunk=str(number)))
                assert sink.connections == 1

                await asyncio.gather(*(out.write(batch(chunk=str(number))) for number in range(20, 60)))

                assert 1 <= sink.connections <= 3
            assert len(set(sink.chunks)) == 60

    run(scenario())


# --- login ----------------------------------------------------------------------------------------------------------


def test_c12_the_key_and_the_user_are_proven_once_for_a_connection() -> None:
    login = Login("sekret", {"bob": "pw"})

    async def scenario() -> None:
        with ForwardSink(login=login) as sink:
            async with output(
                sink.address, shared_key="sekret", username="bob", password="pw", self_hostname="me", connections=1
            ) as out:
                await out.write(batch(chunk="one"))
                await out.write(batch(chunk="two"))

            (ping,) = sink.logins
            assert (ping[1], ping[4]) == (b"me", b"bob")
            assert sink.chunks == [b"one", b"two"]

    run(scenario())


@pytest.mark.parametrize(
    ("login", "words"),
    [
        pytest.param(Login("other"), "shared_key mismatch.*check shared_key", id="wrong key"),
        pytest.param(Login("sekret", {"bob": "pw"}), "username/password mismatch", id="wrong password"),
        pytest.param(Login("sekret", pong=["PONG", True, "", "sink", "0" * 128]), "does not know", id="wrong digest"),
        pytest.param(Login("sekret", pong=["PONG", True]), "PONG", id="short pong"),
        pytest.param(Login("sekret", pong=["tag", 1, {}]), "PONG", id="no pong"),
        pytest.param(Login("sekret", hostname="me"), "same hostname", id="loop"),
        pytest.param(Login("sekret", helo=False), "no HELO came", id="no helo"),
    ],
)
def test_c12_without_a_mutual_login_nothing_is_sent(login: Login, words: str) -> None:
    async def scenario() -> None:
        with ForwardSink(login=login) as sink:
            async with output(
                sink.address,
                shared_key="sekret",
                username="bob",
                password="wrong",
                self_hostname="me",
                connect_timeout_secs=10.0 if login.helo else 0.5,
            ) as out:
                with pytest.raises(OutputUnavailable, match=words):
                    await out.write(batch())

            assert not sink.received

    run(scenario())


def test_c12_a_server_that_asks_for_a_login_we_do_not_have_is_said_so() -> None:
    async def scenario() -> None:
        with ForwardSink(login=Login("sekret")) as sink:
            async with output(sink.address) as out:
                with pytest.raises(OutputUnavailable, match="set shared_key"):
                    await out.write(batch())

    run(scenario())


def test_c12_our_own_input_takes_our_own_output() -> None:
    async def scenario() -> None:
        async with served(shared_key="sekret", users={"bob": "pw"}, self_hostname="there") as server:
            async with output(
                f"127.0.0.1:{server.address[1]}", shared_key="sekret", username="bob", password="pw", compress="gzip"
            ) as out:
                await out.write(batch(100))

            assert server.pipeline.records == 100
            assert server.pipeline.batches[0].source == "app"

    run(scenario())


# --- transports -----------------------------------------------------------------------------------------------------


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    return context


def test_c13_over_tls_the_certificate_is_checked() -> None:
    async def scenario() -> None:
        with ForwardSink(tls=server_context()) as sink:
            async with output(sink.address, tls={"ca": TLS / "ca.pem"}) as out:
                await out.write(batch(3))
                await out.write(batch(3, chunk="next"))

            assert len(sink.entries) == 6
            assert sink.connections == 1

    run(scenario())


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (None, "certificate is not trusted.*check tls.ca"),
        ({"ca": str(TLS / "ca.pem"), "server_name": "example.org"}, "certificate is not trusted.*example.org"),
    ],
)
def test_c13_a_certificate_of_a_stranger_or_of_another_name_is_refused(tls: object, words: str) -> None:
    async def scenario() -> None:
        with ForwardSink(tls=server_context()) as sink:
            async with output(sink.address, tls=tls) as out:
                with pytest.raises(OutputUnavailable, match=words):
                    await out.write(batch())
            assert not sink.received

    run(scenario())


def test_c13_checking_can_be_switched_off_and_a_client_certificate_shown() -> None:
    async def scenario() -> None:
        context = server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(TLS / "ca.pem")
        with ForwardSink(tls=context) as sink:
            tls = {"verify": False, "cert": TLS / "client.pem", "key": TLS / "client.key"}
            async with output(sink.address.removeprefix("forward+tls://"), tls=tls) as out:
                await out.write(batch())
            assert len(sink.entries) == 1

    run(scenario())


def test_c13_tls_against_a_plain_server_fails_with_words() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(f"forward+tls://{sink.address}", connect_timeout_secs=2.0) as out:
                with pytest.raises(OutputUnavailable):
                    await out.write(batch())
            assert sink.entries == []

    run(scenario())


def test_c14_it_sends_to_a_unix_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        with ForwardSink(path=str(tmp_path / "sink.sock"), login=Login("sekret")) as sink:
            async with output(sink.address, shared_key="sekret") as out:
                await out.write(batch(2))
            assert lines(sink) == [b"line 0", b"line 1"]

    run(scenario())


def test_c15_it_sends_over_ipv6() -> None:
    async def scenario() -> None:
        with ForwardSink(host="::1") as sink:
            async with output(sink.address) as out:
                await out.write(batch(2))
            assert lines(sink) == [b"line 0", b"line 1"]

    run(scenario())


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_c16_a_large_batch_goes_in_parts_with_ids_that_say_what_is_in_them() -> None:
    large = Batch("app", [record(f"{number:04} " + "x" * 500) for number in range(1000)], chunk=CHUNK)

    async def scenario() -> None:
        with ForwardSink(["ack", "close"]) as sink:
            async with output(sink.address, max_chunk_bytes=100_000, connections=1) as out:
                with pytest.raises(OutputUnavailable):
                    await out.write(large)
                await out.write(large)

            assert all(len(message.raw) < 101_000 for message in sink.messages)
            assert [line[:4] for line in (entry[b"log"] for _, entry in sink.once())] == [
                b"%04d" % number for number in range(1000)
            ]
            assert sink.chunks[1] == sink.chunks[2]  # the first part is safe, and does not go again
            assert len(set(sink.chunks)) == len(sink.chunks) - 1
            assert CHUNK.encode() not in sink.chunks

    run(scenario())


def test_c16_a_part_cut_elsewhere_has_another_id() -> None:
    def ids(count: int, limit: int) -> set[bytes]:
        large = Batch("app", [record("x" * 500) for _ in range(count)], chunk=CHUNK)

        async def scenario() -> list[bytes]:
            with ForwardSink() as sink:
                async with output(sink.address, max_chunk_bytes=limit) as out:
                    await out.write(large)
                return sink.chunks

        return set(asyncio.run(scenario()))

    assert len(ids(100, 20_000)) == 4
    assert not ids(100, 20_000) & ids(99, 20_000)


def test_c16_a_record_too_large_is_cut_and_marked_and_harms_no_other() -> None:
    oversize = record("ü" * 30_000, id=b"\x07", nested=pack({"a": "y" * 9000}), blob=pack(b"z" * 9000))
    sealed = SealedRecord(NOW, Raw(b"\x81\x05" + pack("x" * 30_000)))
    records: list[AnyRecord] = [record("before"), oversize, record("between"), sealed, record("after")]

    async def scenario() -> None:
        before = value("logclf_records_truncated_total", output="forward")
        with ForwardSink() as sink:
            async with output(sink.address, max_chunk_bytes=10_000) as out:
                await out.write(Batch("app", records, chunk=CHUNK))

            first, cut, between, bare, last = [entry for _, entry in sink.entries]
            assert (first[b"log"], between[b"log"], last[b"log"]) == (b"before", b"between", b"after")
            assert cut[b"truncated"] is True
            assert cut[b"id"] == 7
            assert set(cut[b"log"].decode()) <= {"ü"}
            assert bare == {b"truncated": True}
            assert all(len(message.raw) <= 10_100 for message in sink.messages)
            assert value("logclf_records_truncated_total", output="forward") - before == 2

    run(scenario())


def test_c17_whatever_msgpack_carries_arrives_as_it_was() -> None:
    values = {
        "surrogates": b"\xa3\xff\xfe\xfd",
        "nan": pack(math.nan),
        "large": pack((1 << 64) - 1),
        "small": pack(-(1 << 63)),
        "time": pack(msgpack.Timestamp(1_760_000_000, 5)),
        "ext": pack(msgpack.ExtType(42, b"any")),
        "nil": b"\xc0",
        "deep": b"\x91" * 100 + b"\xc0",
    }
    sealed = SealedRecord(Raw(pack([EVENT_TIME, {}])), Raw(b"\x82\x05\x01\x05\x02"))

    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address) as out:
                await out.write(Batch("app", [record("x", **values), sealed], chunk=CHUNK))

            for name, data in values.items():
                assert pack(name) + data in sink.received
            assert bytes(sealed.time) + bytes(sealed.body) in sink.received

    run(scenario())


@pytest.mark.parametrize(
    ("source", "prefix", "tag"),
    [
        ("app.web", "", b"app.web"),
        ("app.web", "classified.", b"classified.app.web"),
        ("/var/log/syslog", "classified.", b"classified.var.log.syslog"),
        ("/var/log/app 1.log", "", b"var.log.app 1.log"),
        ("", "", b"logclf"),
        ("", "classified.", b"classified"),
        ("/", "", b"logclf"),
        ("caf\udce9", "", b"caf\xe9"),
        ("ü", "ä.", "ä.ü".encode()),
    ],
)
def test_c18_a_tag_is_kept_a_path_becomes_one_and_none_is_empty(source: str, prefix: str, tag: bytes) -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, tag_prefix=prefix) as out:
                await out.write(batch(source=source))

            assert sink.messages[0].tag == tag

    run(scenario())


@pytest.mark.parametrize(
    ("nanoseconds", "sent"),
    [
        (-1, "d7000000000000000000"),
        (1_760_000_000_000_000_005, "d70068e7780000000005"),
        (1 << 80, "d700ffffffff3b9ac9ff"),
    ],
)
def test_c19_a_time_out_of_range_is_sent_as_the_nearest_one(nanoseconds: int, sent: str) -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address) as out:
                await out.write(Batch("app", [Record(event_time(nanoseconds), {"log": raw_str(b"x")})], chunk=CHUNK))

            assert bytes.fromhex(sent) in sink.received

    run(scenario())


def test_c20_nothing_is_sent_before_the_connection_is_established() -> None:
    """A server that lets the PING in and never answers it gets no data."""

    async def scenario() -> None:
        got = bytearray()

        def silent(listener: socket.socket) -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(pack(["HELO", {"nonce": b"n" * 16, "auth": b"", "keepalive": True}]))
                while data := sock.recv(65536):
                    got.extend(data)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=silent, args=(listener,))
            thread.start()
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            async with output(address, shared_key="sekret", connect_timeout_secs=1.5) as out:
                with pytest.raises(OutputUnavailable):
                    await out.write(batch())
            thread.join()

        assert msgpack.unpackb(bytes(got), raw=True)[0] == b"PING"

    run(scenario())


def test_an_opaque_chunk_is_sent_as_it_came_with_its_options() -> None:
    options = {"fluent_signal": Raw(b"\x01"), "compressed": Raw(b"\xa4gzip"), "caf\udce9": Raw(b"\xcc\x07")}
    metrics = Batch("m", [], chunk=CHUNK, opaque=pack(b"cmetrics"), options=dict(options))

    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address, tag_prefix="classified.", compress="gzip") as out:
                await out.write(metrics)

            expected = b"\x93\xacclassified.m" + pack(b"cmetrics") + b"\x84" + pack("chunk") + pack(CHUNK)
            expected += pack("fluent_signal") + b"\x01" + pack("compressed") + pack("gzip") + b"\xa4caf\xe9\xcc\x07"
            assert bytes(sink.received) == expected

    run(scenario())


@pytest.mark.parametrize("name", ["metrics_ack.c1.bin", "traces_gzip_ack.c1.bin", "metrics_compat.c1.bin"])
def test_metrics_and_traces_of_fluent_bit_go_through_unchanged(name: str) -> None:
    data = (DATA / "fluent-bit" / name).read_bytes()
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(data)
    sent = list(unpacker)

    async def scenario() -> None:
        with ForwardSink() as sink:
            async with served(Pipeline()) as server:
                await server.exchange(data)
                async with output(sink.address) as out:
                    for passed in server.pipeline.batches:
                        await out.write(passed)

            came = [msgpack.unpackb(message.raw, raw=True, strict_map_key=False) for message in sink.messages]
            for (tag, second, options), (its_tag, its_second, its_options) in zip(sent, came, strict=True):
                assert (tag, second) == (its_tag, its_second)
                assert {**options, b"chunk": 0} == {**its_options, b"chunk": 0}

    run(scenario())


def test_an_empty_batch_is_safe_at_once() -> None:
    async def scenario() -> None:
        async with output("127.0.0.1:1") as out:
            await out.write(Batch("app", []))

    run(scenario())


def test_what_can_never_be_packed_is_rejected() -> None:
    async def scenario() -> None:
        async with output("127.0.0.1:1") as out:
            with pytest.raises(RecordRejected):
                await out.write(Batch("app", [Record(NOW, {"\udce9": raw_str(b"x")})]))
            with pytest.raises(RecordRejected):
                await out.write(Batch("app", [], opaque=b"\x90", options={"odd": object()}))

    run(scenario())


# --- several servers ------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_named() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        async with output(f"127.0.0.1:{port}") as out:
            with pytest.raises(OutputUnavailable, match=rf"^127\.0\.0\.1:{port}: Connection refused$"):
                await out.write(batch())

    run(scenario())


def test_within_one_write_the_next_server_is_tried() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(["127.0.0.1:1", sink.address]) as out:
                for number in range(4):
                    await out.write(batch(chunk=str(number)))

            assert len(sink.chunks) == 4

    run(scenario())


def test_when_all_servers_are_away_all_are_named() -> None:
    async def scenario() -> None:
        async with output(["127.0.0.1:1", "[::1]:1"]) as out:
            with pytest.raises(OutputUnavailable, match=r"127\.0\.0\.1:1: .*; \[::1\]:1: "):
                await out.write(batch())

    run(scenario())


def test_parts_that_are_safe_are_not_sent_to_the_next_server() -> None:
    large = Batch("app", [record(f"{number:04} " + "x" * 500) for number in range(100)], chunk=CHUNK)

    async def scenario() -> None:
        with ForwardSink(["ack", "ack", "close"]) as first, ForwardSink() as second:
            async with output([first.address, second.address], max_chunk_bytes=20_000) as out:
                await out.write(large)

            assert first.chunks[2] == second.chunks[0]
            assert len(first.chunks) + len(second.chunks) == 5

    run(scenario())


def test_batches_are_shared_by_weight_and_standbys_and_failed_servers_come_last() -> None:
    clock = Clock()
    heavy, light = Target("a", 1, weight=3), Target("b", 1)
    standby = Target("c", 1, standby=True)
    router = Router([heavy, light, standby], clock)

    firsts = [router.order()[0] for _ in range(8)]
    assert (firsts.count(heavy), firsts.count(light)) == (6, 2)
    assert all(router.order()[-1] == standby for _ in range(8))

    router.failed(heavy)
    assert router.order() == [light, standby, heavy]
    router.failed(light)
    assert router.order() == [standby, heavy, light]
    router.failed(standby)
    assert router.order() == [heavy, light, standby]

    clock.now += 11
    assert router.order()[-1] == standby
    router.failed(heavy)
    router.answered(heavy)
    assert {router.order()[0] for _ in range(8)} == {heavy, light}


def test_a_server_that_fails_again_and_again_is_tried_ever_more_seldom() -> None:
    clock = Clock()
    deaf, other = Target("a", 1), Target("b", 1)
    router = Router([deaf, other], clock)
    tried = 0

    for _ in range(3600):
        clock.now += 1
        if router.order()[0] == deaf:
            tried += 1
            router.failed(deaf)
            router.failed(deaf)  # by another connection at the same time

    assert 10 <= tried <= 20


def test_one_of_several_servers_that_goes_away_or_comes_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with ForwardSink() as sink, socket.create_server(("127.0.0.1", 0)) as away:
            port = away.getsockname()[1]
            away.close()
            clock = Clock()
            async with output([f"127.0.0.1:{port}", sink.address], clock=clock) as out:
                for number in range(4):
                    await out.write(batch(chunk=str(number)))
                assert [row.getMessage().split(" error=")[0] for row in caplog.records] == [
                    f"one of several servers fails; it is tried last for a while output=forward server=127.0.0.1:{port}"
                ]
                clock.now += 11
                with ForwardSink(port=port) as back:
                    for number in range(4, 8):
                        await out.write(batch(chunk=str(number)))
                    assert back.chunks
        assert "the server answers again" in caplog.records[-1].getMessage()

    with caplog.at_level("INFO", logger="logclf"):
        run(scenario())


# --- ends -----------------------------------------------------------------------------------------------------------


def test_a_write_that_is_given_up_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        with ForwardSink(["none", "none"]) as sink:
            started = time.monotonic()
            async with output(sink.address, connections=1) as out:
                writing = asyncio.create_task(out.write(batch()))
                await asyncio.to_thread(sink.records, 1)

                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
                sink.script.clear()
                await out.write(batch(chunk="next"))

            assert time.monotonic() - started < 25  # the time for an acknowledgement is 30
            assert sink.chunks == [CHUNK.encode(), b"next"]

    run(scenario())


def test_a_resolver_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def dead(*_: object, **__: object) -> NoReturn:
        asked.set()
        answer.wait(45)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    async def scenario() -> float:
        async with output("logs.example.com:24224") as out:
            writing = asyncio.create_task(out.write(batch()))
            await until(asked.is_set)
            monkeypatch.undo()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            started = time.monotonic()
        return time.monotonic() - started

    monkeypatch.setattr(socket, "getaddrinfo", dead)
    took = asyncio.run(scenario())
    answer.set()

    assert took < 2.0 + 15.0


def test_closing_ends_its_threads() -> None:
    async def scenario() -> None:
        with ForwardSink() as sink:
            async with output(sink.address) as out:
                await asyncio.gather(*(out.write(batch(chunk=str(number))) for number in range(8)))

    run(scenario())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("output-")]


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("host:1", Target("host", 1)),
        ("host", Target("host", 24224)),
        ("forward://host:1", Target("host", 1)),
        ("forward://host:1/", Target("host", 1)),
        ("forward+tls://host", Target("host", 24224, tls=True)),
        ("forward+unix:///run/x.sock", Target("localhost", 0, "/run/x.sock")),
        ("[::1]:5", Target("::1", 5)),
        ("[::1]", Target("::1", 24224)),
        ("forward+tls://[::1]:5", Target("::1", 5, tls=True)),
    ],
)
def test_addresses_are_understood(address: str, target: Target) -> None:
    assert parse_target(address) == target


@pytest.mark.parametrize(
    "address",
    ["", "http://host:1", "host:", "host:x", "host:0", "host:99999", "::1", "[::1", "a/b:1", "forward+unix://x", []],
)
def test_a_bad_address_is_refused(address: object) -> None:
    with pytest.raises(ValidationError):
        ForwardOutputOptions.model_validate({"address": address})


def test_a_user_without_a_key_and_files_that_cannot_be_read_are_mistakes(tmp_path: Path) -> None:
    for options in (
        {"username": "bob"},
        {"tls": {"ca": tmp_path / "no.pem"}},
        {"tls": {"cert": tmp_path / "no.pem"}},
    ):
        with pytest.raises(ConfigError):
            ForwardOutput(ForwardOutputOptions.model_validate({"address": "host:1", **options}))


def test_the_secrets_do_not_show() -> None:
    options = ForwardOutputOptions.model_validate({"address": "h:1", "shared_key": "hush", "password": "hush"})

    assert "hush" not in repr(options)
    assert "hush" not in options.model_dump_json()


def test_the_hooks_of_fluent_logger_that_the_sender_overrides_exist() -> None:
    for hook in ("_reconnect", "_check_recv_side", "_send_data", "_close", "close"):
        assert hasattr(FluentSender, hook), f"fluent-logger has no {hook} any more"
    plain = FluentSender("x")
    assert {"lock", "socket", "timeout", "_closed"} <= vars(plain).keys()
    assert "forward_packet_error" in inspect.signature(FluentSender.__init__).parameters
    assert issubclass(ForwardSender, FluentSender)
