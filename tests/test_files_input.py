"""The files input as the pipeline sees it: in a loop, with a thread, the real clock and the real watcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from doubles import until
from logclf_daemon.inputs import files
from logclf_daemon.inputs.files import FilesInput, FilesInputOptions
from logclf_daemon.record import Batch, Outcome
from logclf_daemon.state import StateDb
from logclf_daemon.watch import Watcher
from tail_doubles import lines_of, numbered, text


class Sink:
    """Takes batches and settles them, or keeps them."""

    def __init__(self, *, settling: bool = True) -> None:
        self.batches: list[Batch] = []
        self.settling = settling

    async def emit(self, batch: Batch) -> None:
        self.batches.append(batch)
        if self.settling:
            batch.settle(Outcome.DELIVERED)

    @property
    def lines(self) -> list[bytes]:
        return lines_of(self.batches)

    async def until(self, lines: int) -> None:
        await until(lambda: len(self.lines) >= lines)


def options(folder: Path, **more: Any) -> FilesInputOptions:
    return FilesInputOptions(paths=(str(folder / "*.log"),), **more)


async def running(source: FilesInput, sink: Sink, during: Callable[[], Awaitable[None]]) -> None:
    await source.open()
    task = asyncio.create_task(source.run(sink.emit))
    try:
        await during()
    finally:
        source.stop()
        await asyncio.wait_for(task, 30)
        await source.close()


@pytest.mark.parametrize("watch", [True, False])
def test_lines_arrive_soon_after_they_were_written(tmp_path: Path, watch: bool) -> None:
    sink, before = Sink(), set(threading.enumerate())
    secs = 60.0 if watch else 0.05
    source = FilesInput(options(tmp_path, watch=watch, reconcile_secs=secs, discover_secs=secs))

    async def during() -> None:
        (tmp_path / "a.log").write_bytes(b"one\n")
        await sink.until(1)
        (tmp_path / "b.log").write_bytes(b"two\n")
        await sink.until(2)
        for number in range(3, 6):
            with (tmp_path / "a.log").open("ab") as file:
                file.write(b"more\n")
            await sink.until(number)

    asyncio.run(running(source, sink, during))

    assert sorted(sink.lines) == [b"more", b"more", b"more", b"one", b"two"]
    assert set(threading.enumerate()) <= before


def test_once_ends_at_the_present_end_and_positions_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(text(numbered(0, 5000)) + b"no end")
    lines = []

    async def read(state: StateDb) -> None:
        sink = Sink()
        source = FilesInput(options(tmp_path), state=state, once=True)
        await source.open()
        await asyncio.wait_for(source.run(sink.emit), 30)
        await source.close()
        lines.append(sink.lines)

    for _ in range(2):
        state = StateDb.open(tmp_path / "state")
        asyncio.run(read(state))
        state.close()

    assert lines == [[*numbered(0, 5000), b"no end"], []]


def test_what_was_not_settled_comes_again_under_the_same_id(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(text(numbered(0, 10)))
    first, second = Sink(settling=False), Sink()

    async def read(state: StateDb, sink: Sink) -> None:
        await running(FilesInput(options(tmp_path, watch=False), state=state), sink, lambda: sink.until(10))

    for sink in (first, second):
        state = StateDb.open(tmp_path / "state")
        asyncio.run(read(state, sink))
        state.close()

    assert first.lines == second.lines == numbered(0, 10)
    assert [batch.chunk for batch in first.batches] == [batch.chunk for batch in second.batches]
    assert [batch.records for batch in first.batches] == [batch.records for batch in second.batches]


def test_positions_are_committed_while_the_pipeline_takes_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(text(numbered(0, 100)))
    state = StateDb.in_memory()
    source = FilesInput(options(tmp_path, watch=False, batch_lines=10), state=state)
    committed: list[int] = []
    taken: list[Batch] = []

    async def emit(batch: Batch) -> None:
        taken.append(batch)
        if len(taken) == 2:
            await asyncio.Event().wait()  # full

    async def check() -> None:
        await source.open()
        task = asyncio.create_task(source.run(emit))
        await until(lambda: len(taken) == 2)
        taken[0].settle(Outcome.DELIVERED)
        await until(lambda: any(offset.position for offset in state.load_offsets("files")))
        committed.extend(offset.position for offset in state.load_offsets("files"))
        source.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()

    asyncio.run(check())
    state.close()

    assert committed[-1] == len(text(numbered(0, 10)))


def test_a_slow_disk_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\n")
    held, release = threading.Event(), threading.Event()

    def slow_clock() -> float:
        if threading.current_thread() is not threading.main_thread():  # there it would hang us
            held.set()
            release.wait(10)
        return time.monotonic()

    sink = Sink()
    source = FilesInput(options(tmp_path, watch=False), clock=slow_clock)

    async def during() -> None:
        await until(held.is_set)
        release.set()
        await sink.until(1)

    asyncio.run(running(source, sink, during))

    assert sink.lines == [b"one"]


def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CLOSE_SECS", 0.2)
    watcher = Watcher("files", lambda: None)
    monkeypatch.setattr(files, "Watcher", lambda *_: watcher)
    (tmp_path / "a.log").write_bytes(b"one\n")
    held, release = threading.Event(), threading.Event()

    def hanging_clock() -> float:
        if threading.current_thread() is not threading.main_thread():  # there it would hang us
            held.set()
            release.wait(45)
        return time.monotonic()

    state = StateDb.open(tmp_path / "state")
    source = FilesInput(options(tmp_path), state=state, clock=hanging_clock)

    async def check() -> float:
        await source.open()
        task = asyncio.create_task(source.run(Sink().emit))
        await until(held.is_set)
        started = time.monotonic()
        source.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()
        return time.monotonic() - started

    took = asyncio.run(check())
    release.set()
    source._thread.shutdown()
    watcher.close()  # its threads would stay: the one that should have closed it hung

    assert took < 2 * 0.2 + 15.0


def test_lost_state_makes_files_start_at_their_end_if_the_operator_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"old\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_bytes(b"broken" * 1000)
    state = StateDb.open(tmp_path / "state", "tail")
    sink = Sink()
    source = FilesInput(options(tmp_path, watch=False, reconcile_secs=0.05), state=state)

    async def during() -> None:
        await until(lambda: source._tailer.discoveries)
        with (tmp_path / "a.log").open("ab") as file:
            file.write(b"new\n")
        await sink.until(1)

    asyncio.run(running(source, sink, during))
    state.close()

    assert sink.lines == [b"new"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"paths": ()}, "at least 1"),
        ({"encoding": "klingon"}, "unknown"),
        ({"multiline": {"start": "(?=x)"}}, "look-around"),
        ({"multiline": "cobol"}, "python"),
        ({"start_at": "middle"}, "checkpoint"),
        ({"no_such_option": 1}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused_with_what_would_be_right(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FilesInputOptions.model_validate({"type": "files", "paths": ["/a"], **wrong})


def test_every_option_has_its_words() -> None:
    assert all(field.description for name, field in FilesInputOptions.model_fields.items() if name != "type")
