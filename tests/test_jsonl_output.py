"""JSON lines: valid, whole, and following rotation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
from msgspec import Raw

from logclf_daemon.codec import encode, event_time, raw_str
from logclf_daemon.errors import ConfigError, OutputUnavailable, RecordRejected, ServiceUnavailable
from logclf_daemon.outputs.jsonl import JsonlOutput, JsonlOutputOptions, rfc3339
from logclf_daemon.record import AnyRecord, Batch, Record, SealedRecord


def batch(*lines: bytes) -> Batch:
    return Batch("x", [Record(event_time(10**18), {"log": raw_str(line)}) for line in lines])


def write(options: dict[str, object], *batches: Batch) -> None:
    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions.model_validate({"type": "jsonl", **options}))
        await output.open()
        try:
            for one in batches:
                await output.write(one)
        finally:
            await output.close()

    asyncio.run(scenario())


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_record_is_one_object_a_line(tmp_path: Path) -> None:
    records: list[AnyRecord] = [
        Record(Raw(b"\x01"), {"log": raw_str(b'a "quoted"\nline\x1b[2J'), "n": Raw(encode(1.5)), "none": Raw(b"\xc0")}),
        SealedRecord(Raw(b"\x01"), Raw(b"\x82\x07\xa1x\xa3log\xa1y")),
        Record(Raw(b"\x01"), {"log": raw_str(b"bad \xff utf-8"), "deep": Raw(encode({"a": [b"bin", {"b": 1}]}))}),
        Record(Raw(b"\x01"), {"bin": Raw(encode(b"\xff\x00a"))}),
    ]

    write({"path": str(tmp_path / "out")}, Batch("x", records))

    assert rows(tmp_path / "out") == [
        {"log": 'a "quoted"\nline\x1b[2J', "n": 1.5, "none": None},
        {"7": "x", "log": "y"},
        {"log": "bad \ufffd utf-8", "deep": {"a": ["bin", {"b": 1}]}},
        {"bin": "\ufffd\x00a"},
    ]
    assert b"\x1b" not in (tmp_path / "out").read_bytes()


ODD = {
    "an array as a key": b"\x81\x91\x01\xa1x",
    "nil as a key": b"\x81\xc0\xa1x",
    "a map as a key": b"\x81\x81\x01\x02\xa1x",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x05",
    "a timestamp of another age": b"\xc7\x0c\xff" + b"\x7f" * 12,
    "an extension": b"\xd4\x05\x01",
    "no number": encode(float("nan")),
    "a thousand levels": b"\x91" * 990 + b"\xc0",
    "levels of maps": b"\x81\xa1a" * 400 + b"\xc0",
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("what", ODD)
def test_whatever_a_sender_sends_is_a_line_of_json(tmp_path: Path, what: str, sealed: bool) -> None:
    odd = ODD[what]
    record: AnyRecord = Record(Raw(b"\x01"), {"log": raw_str(b"before"), "odd": Raw(odd)})
    if sealed:  # its own keys are odd too
        record = SealedRecord(Raw(b"\x01"), Raw(b"\x84\xa3log\xa6before\xc0\xa1x\x93\x01\x02\x03\xa1x\xa3odd" + odd))

    write({"path": str(tmp_path / "out")}, Batch("x", [record, *batch(b"after").records]))

    first, second = (tmp_path / "out").read_text().splitlines()
    assert first.startswith("{")
    assert json.loads(second) == {"log": "after"}


def test_what_records_share_is_written_for_each_of_them(tmp_path: Path) -> None:
    """Also the maps and lists that come again in later batches, and values that are empty."""
    pod, path, none = encode({"pod": "web-1", "labels": ["a", {"b": 0}]}), raw_str(b"/var/log/x"), Raw(b"\xc0")

    def made(number: int) -> Batch:
        shared = {"file": path, "none": none, "empty": raw_str(b""), "zero": Raw(b"\x00"), "kube": Raw(pod)}
        return Batch("x", [Record(Raw(b"\x01"), {"log": raw_str(b"%d" % at), **shared}) for at in (number, number + 1)])

    write({"path": str(tmp_path / "out")}, made(1), made(3))

    assert rows(tmp_path / "out") == [
        {
            "log": str(number),
            "file": "/var/log/x",
            "none": None,
            "empty": "",
            "zero": 0,
            "kube": {"pod": "web-1", "labels": ["a", {"b": 0}]},
        }
        for number in (1, 2, 3, 4)
    ]


def test_it_appends_and_adds_the_time_on_request(tmp_path: Path) -> None:
    path = str(tmp_path / "out")

    write({"path": path}, batch(b"a"))
    write({"path": path, "time_key": "time", "fsync": True}, batch(b"b"))

    assert rows(tmp_path / "out") == [{"log": "a"}, {"time": "2001-09-09T01:46:40.000000Z", "log": "b"}]


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (encode(5), "1970-01-01T00:00:05.000000Z"),
        (encode([5, {}]), "1970-01-01T00:00:05.000000Z"),
        (bytes(event_time(1_500_000_000)), "1970-01-01T00:00:01.500000Z"),
        (b"\x92\x05\x81\xa1\xff\xa1\xff", "1970-01-01T00:00:05.000000Z"),  # metadata that are no text
        (encode("x"), None),
        (encode(float("nan")), None),
        (encode(2**64 - 1), None),
        (encode(-(2**60)), None),
    ],
)
def test_times_are_rfc_3339(time: bytes, text: str | None) -> None:
    assert rfc3339(Raw(time)) == text


def test_a_rotated_file_is_opened_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(tmp_path / "out")))
        await output.open()
        await output.write(batch(b"a"))
        (tmp_path / "out").rename(tmp_path / "out.1")
        await output.write(batch(b"b"))
        await output.close()

    asyncio.run(scenario())
    assert rows(tmp_path / "out.1") == [{"log": "a"}]
    assert rows(tmp_path / "out") == [{"log": "b"}]


def test_half_a_batch_is_taken_back_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, [5]

    def tight(fd: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(fd, bytes(data)[: room[0]])
        room[0] -= count
        return count

    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(tmp_path / "out")))
        await output.open()
        monkeypatch.setattr(os, "write", tight)
        with pytest.raises(OutputUnavailable, match="No space left"):
            await output.write(batch(b"first"))
        assert (tmp_path / "out").read_bytes() == b""
        room[0] = 1000
        await output.write(batch(b"first"))
        await output.close()

    asyncio.run(scenario())
    assert rows(tmp_path / "out") == [{"log": "first"}]


@pytest.mark.parametrize("room", [0, 3, 1000])
def test_a_line_torn_by_a_kill_does_not_swallow_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    real, left = os.write, [room]

    def tight(fd: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(fd, bytes(data)[: left[0]])
        left[0] -= count
        return count

    async def scenario() -> None:
        (tmp_path / "out").write_bytes(b'{"log":"whole"}\n{"log":"to')
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(tmp_path / "out")))
        await output.open()
        monkeypatch.setattr(os, "write", tight)
        if room < 1000:
            with pytest.raises(OutputUnavailable, match="No space left"):
                await output.write(batch(b"first"))
            left[0] = 1000
        await output.write(batch(b"first"))
        await output.write(batch(b"second"))
        await output.close()

    asyncio.run(scenario())
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert lines == [b'{"log":"whole"}', b'{"log":"to', b'{"log":"first"}', b'{"log":"second"}']


def test_a_pipe_waits_for_its_reader_and_for_the_next_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    came = []

    def reader() -> int:
        return os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(pipe)))
        await output.open()
        with pytest.raises(OutputUnavailable, match="nobody reads this pipe"):
            await output.write(batch(b"first"))
        for number in (b"first", b"second"):
            fd = reader()
            await output.write(batch(number))
            came.append(os.read(fd, 1000))
            os.close(fd)
            with pytest.raises(OutputUnavailable, match="the reader of this pipe has gone"):
                await output.write(batch(b"lost"))
        await output.close()

    asyncio.run(scenario())
    assert came == [b'{"log":"first"}\n', b'{"log":"second"}\n']


def test_behind_a_write_that_hangs_nothing_is_queued(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = [b"%d %s" % (number, b"x" * 1000) for number in range(100)]

    async def scenario() -> None:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(pipe)))
        await output.open()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(output.write(batch(*lines)), 0.2)  # more than a pipe holds
        for _ in range(3):
            with pytest.raises(OutputUnavailable, match="a write still hangs"):
                await output.write(batch(b"more"))
        came = b""
        while came.count(b"\n") < len(lines):
            with contextlib.suppress(BlockingIOError):
                came += os.read(reader, 10_000)
            await asyncio.sleep(0)
        while came.count(b"\n") == len(lines):
            with contextlib.suppress(OutputUnavailable):
                await output.write(batch(b"later"))
                came += os.read(reader, 10_000)
        await output.close()
        os.close(reader)
        assert [json.loads(row)["log"] for row in came.splitlines()] == [line.decode() for line in lines] + ["later"]

    asyncio.run(asyncio.wait_for(scenario(), 45))


def test_a_full_pipe_that_does_not_block_gets_everything_once(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = [b"%d %s" % (number, b"x" * 1000) for number in range(1000)]
    came = bytearray()

    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(tmp_path / "out")))
        await output.open()
        os.dup2(writer, output._fd)
        output._stdout = True
        writing = asyncio.create_task(output.write(batch(*lines)))
        while came.count(b"\n") < len(lines):
            came.extend(await asyncio.to_thread(os.read, reader, 10_000))
        await writing
        output._stdout = False
        await output.close()

    asyncio.run(scenario())
    os.close(reader)
    os.close(writer)
    assert [json.loads(row)["log"].encode() for row in came.splitlines()] == lines


def test_a_path_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: Is a directory"):
        write({"path": str(tmp_path)})


def test_metrics_are_refused() -> None:
    with pytest.raises(RecordRejected, match="metrics and traces"):
        write({"path": "/dev/null"}, Batch("x", [], opaque=b"\x90"))


def test_a_closed_standard_output_is_final(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    async def scenario() -> None:
        output = JsonlOutput(JsonlOutputOptions(type="jsonl", path=str(tmp_path / "out")))
        await output.open()
        os.dup2(writer, output._fd)
        output._stdout = True
        try:
            with pytest.raises(ServiceUnavailable, match="closed by its reader"):
                await output.write(batch(b"a"))
        finally:
            output._stdout = False
            await output.close()

    asyncio.run(scenario())
    os.close(writer)
