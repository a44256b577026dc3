"""The stdin input, on a pipe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest

from logclf_daemon.codec import text_bytes
from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs.stdin import StdinInput, StdinInputOptions
from logclf_daemon.record import Batch, Record

Pipe = tuple[int, Callable[[bytes], object], Callable[[], None]]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    ends = {writing}

    def end() -> None:
        if ends:
            os.close(ends.pop())

    yield reading, lambda data: os.write(writing, data), end
    end()
    os.close(reading)


async def read_all(source: StdinInput) -> list[Batch]:
    batches: list[Batch] = []

    async def emit(batch: Batch) -> None:
        batches.append(batch)

    await source.open()
    await source.run(emit)
    await source.close()
    return batches


def test_every_line_arrives_byte_for_byte_and_the_end_ends_it(pipe: Pipe) -> None:
    fd, write, end = pipe
    write(b"one\r\n\xff\xfe\n\nlast")
    end()

    batches = asyncio.run(read_all(StdinInput(StdinInputOptions(message_key="text"), fd=fd, now_ns=lambda: 0)))
    lines = [line for batch in batches for line in batch.lines or ()]
    records = [record for batch in batches for record in batch.records if isinstance(record, Record)]

    assert lines == [b"one", b"\xff\xfe", b"", b"last"]
    assert [text_bytes(record.fields["text"]) for record in records] == lines
    assert {batch.source for batch in batches} == {"stdin"}


def test_lines_arrive_while_the_pipe_stays_open(pipe: Pipe) -> None:
    fd, write, end = pipe
    seen: list[bytes | None] = []

    async def check() -> None:
        source = StdinInput(StdinInputOptions(), fd=fd)

        async def emit(batch: Batch) -> None:
            seen.extend(batch.lines or ())
            if seen == [b"one"]:
                write(b"wo\n")
            else:
                end()

        await source.open()
        write(b"one\nt")
        await source.run(emit)
        await source.close()

    asyncio.run(check())

    assert seen == [b"one", b"two"]


def test_a_line_over_the_limit_is_cut_and_marked(pipe: Pipe) -> None:
    fd, write, end = pipe
    write(b"x" * 1000 + b"\nshort\n")
    end()

    (batch,) = asyncio.run(read_all(StdinInput(StdinInputOptions(max_line_bytes=100), fd=fd)))

    assert batch.lines == [b"x" * 100, b"short"]
    assert ["truncated" in record.fields for record in batch.records if isinstance(record, Record)] == [True, False]


def test_stop_ends_the_waiting_for_a_pipe_that_says_nothing(pipe: Pipe) -> None:
    fd, _, _ = pipe

    async def check() -> None:
        source = StdinInput(StdinInputOptions(), fd=fd)

        async def emit(_batch: Batch) -> None:
            raise AssertionError("nothing was written")

        await source.open()
        running = asyncio.create_task(source.run(emit))
        asyncio.get_running_loop().call_soon(source.stop)
        await asyncio.wait_for(running, 10)
        await source.close()

    asyncio.run(check())


def test_a_closed_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)

    async def check() -> None:
        source = StdinInput(StdinInputOptions())
        try:
            await source.open()
        finally:
            await source.close()

    with pytest.raises(ConfigError, match="is closed"):
        asyncio.run(check())
