"""What every output must do. An output in the registry without a case here fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forward_sink import ForwardSink
from logclf_daemon.codec import event_time, raw_str
from logclf_daemon.errors import RecordRejected
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.protocols import Output
from logclf_daemon.record import Batch, Record
from logclf_daemon.registry import OUTPUTS


@dataclass
class Case:
    """An output, and what has arrived at its destination."""

    output: Output
    arrived: Callable[[], list[str]]


def _memory(_path: Path, _stack: ExitStack) -> Case:
    output = MemoryOutput()
    return Case(output, lambda: [(line or b"").decode() for line in output.lines])


def _jsonl(path: Path, _stack: ExitStack) -> Case:
    target = path / "out.jsonl"
    output = _create("jsonl", path=str(target))
    return Case(output, lambda: [json.loads(line)["log"] for line in target.read_text().splitlines()])


def _forward(_path: Path, stack: ExitStack) -> Case:
    sink = stack.enter_context(ForwardSink())
    output = _create("forward", address=sink.address, connections=1)
    return Case(output, lambda: [record[b"log"].decode() for _, record in sink.entries])


def _create(kind: str, **options: Any) -> Output:
    model = OUTPUTS[kind].options_model()
    output: Output = OUTPUTS[kind].create(model.model_validate({"type": kind, **options}), f"{kind}.0", {})
    return output


CASES: dict[str, Callable[[Path, ExitStack], Case]] = {"memory": _memory, "jsonl": _jsonl, "forward": _forward}


@pytest.fixture(params=list(OUTPUTS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    assert request.param in CASES, "an output in the registry needs a case here"
    with ExitStack() as stack:
        yield CASES[request.param](tmp_path, stack)


def batch(number: int) -> Batch:
    lines = [f"batch {number} line {line}" for line in range(3)]
    records = [Record(event_time(10**18), {"log": raw_str(line.encode())}) for line in lines]
    return Batch("app", list(records), chunk=f"chunk-{number}")


def test_when_write_returns_the_records_are_there(case: Case) -> None:
    async def scenario() -> None:
        await case.output.open()
        for number in range(3):
            await case.output.write(batch(number))
            assert len(case.arrived()) == 3 * (number + 1)
        await case.output.close()

    asyncio.run(scenario())
    assert case.arrived() == [f"batch {number} line {line}" for number in range(3) for line in range(3)]


def test_writes_may_overlap(case: Case) -> None:
    async def scenario() -> None:
        await case.output.open()
        await asyncio.gather(*(case.output.write(batch(number)) for number in range(10)))
        await case.output.close()

    asyncio.run(scenario())
    assert sorted(case.arrived()) == sorted(f"batch {number} line {line}" for number in range(10) for line in range(3))


def test_what_is_not_logs_is_passed_on_or_refused_by_name(case: Case) -> None:
    opaque = Batch("cpu", [], chunk="m", opaque=b"\x91\x81\xa4meta\x80", options={"fluent_signal": 1})

    async def scenario() -> None:
        await case.output.open()
        try:
            await case.output.write(opaque)
        except RecordRejected as error:
            assert error.reason == "not_logs"
        finally:
            await case.output.close()

    asyncio.run(scenario())


def test_close_without_a_write_is_fine(case: Case) -> None:
    async def scenario() -> None:
        await case.output.open()
        await case.output.close()

    asyncio.run(scenario())
