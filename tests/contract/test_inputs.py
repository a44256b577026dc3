"""What every input must do. An input in the registry without a case here fails."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pytest

from doubles import until
from journal_doubles import JournalDouble
from logclf_daemon.protocols import Input
from logclf_daemon.record import Batch, Outcome
from logclf_daemon.registry import INPUTS
from logclf_daemon.state import StateDb

LINES = [f"line {number}".encode() for number in range(25)]


@dataclass
class Case:
    """An input that will read `LINES`, and what makes it do so once it runs."""

    input: Input
    feed: Callable[[], Any] = field(default=lambda: None)
    ends: bool = True
    message_key: str = "log"


def _create(kind: str, services: dict[str, object] | None = None, **options: Any) -> Input:
    model = INPUTS[kind].options_model()
    created: Input = INPUTS[kind].create(model.model_validate({"type": kind, **options}), f"{kind}.0", services or {})
    return created


def _memory(_path: Path, _stack: ExitStack) -> Case:
    return Case(_create("memory", lines=[line.decode() for line in LINES]))


def _files(path: Path, stack: ExitStack) -> Case:
    (path / "a.log").write_bytes(b"\n".join(LINES) + b"\n")
    state = StateDb.in_memory()
    stack.callback(state.close)
    services = {"state": state, "once": True}
    return Case(_create("files", services, paths=[str(path / "*.log")]))


def _stdin(path: Path, stack: ExitStack) -> Case:
    (path / "in").write_bytes(b"\n".join(LINES) + b"\n")
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setattr("sys.stdin", stack.enter_context((path / "in").open()))
    return Case(_create("stdin"))


def _journald(path: Path, stack: ExitStack) -> Case:
    journal = JournalDouble(path)
    for line in LINES:
        journal.write(line.decode())
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("PATH", f"{journal.program}:{os.environ['PATH']}")
    state = StateDb.in_memory()
    stack.callback(state.close)
    return Case(_create("journald", {"state": state, "once": False}), ends=False, message_key="MESSAGE")


def _forward(_path: Path, _stack: ExitStack) -> Case:
    created = _create("forward", listen="127.0.0.1:0")

    def feed() -> None:
        with socket.create_connection(created.address) as peer:  # type: ignore[attr-defined]
            peer.sendall(msgpack.packb(["app", [[7, {"log": line.decode()}] for line in LINES]]))

    return Case(created, lambda: asyncio.to_thread(feed), ends=False)


CASES: dict[str, Callable[[Path, ExitStack], Case]] = {
    "memory": _memory,
    "files": _files,
    "journald": _journald,
    "stdin": _stdin,
    "forward": _forward,
}


@pytest.fixture(params=list(INPUTS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    assert request.param in CASES, "an input in the registry needs a case here"
    with ExitStack() as stack:
        yield CASES[request.param](tmp_path, stack)


async def read(case: Case, batches: list[Batch], outcome: Outcome) -> None:
    async def emit(batch: Batch) -> None:
        batches.append(batch)
        batch.settle(outcome)

    await case.input.open()
    running = asyncio.create_task(case.input.run(emit))
    feeding = case.feed()
    if feeding is not None:
        await feeding
    await until(lambda: sum(len(batch) for batch in batches) == len(LINES))
    case.input.stop()
    await asyncio.wait_for(running, 10)
    await case.input.close()


def test_every_line_is_read_in_order_with_its_source(case: Case) -> None:
    batches: list[Batch] = []

    asyncio.run(read(case, batches, Outcome.DELIVERED))

    key = case.message_key
    lines = [bytes(record.fields[key])[1:] for batch in batches for record in batch.records]  # type: ignore[union-attr]
    assert lines == LINES
    assert all(batch.source and batch.input == case.input.name for batch in batches)


def test_returned_batches_are_no_error(case: Case) -> None:
    asyncio.run(read(case, [], Outcome.RETURNED))


def test_stop_ends_it_without_any_input(case: Case) -> None:
    async def scenario() -> None:
        async def emit(batch: Batch) -> None:
            batch.settle(Outcome.RETURNED)

        await case.input.open()
        running = asyncio.create_task(case.input.run(emit))
        await asyncio.sleep(0)
        case.input.stop()
        await asyncio.wait_for(running, 10)
        await case.input.close()

    asyncio.run(scenario())
