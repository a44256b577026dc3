"""The ledger: for each input and output `read = delivered + dropped + returned + in flight`, whenever somebody looks.

A loop that looks after every step runs the real pipeline under faults that hypothesis chooses.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge

from doubles import FixedStage, cascade, rule, until
from forward_doubles import EVENT_TIME, forward, pack
from logclf_daemon import events
from logclf_daemon.codec import event_time, raw_str
from logclf_daemon.errors import OutputUnavailable, RecordRejected, ServiceUnavailable
from logclf_daemon.inputs.files import FilesInput, FilesInputOptions
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.protocols import Emit, Input
from logclf_daemon.record import Batch, Outcome, Record
from logclf_daemon.waiting import WaitingRoom

REASONS = ("rejected", "output_unavailable", "not_logs", "invalid", "corrupt_chunk", "malformed")
NEVER_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]  # where real sockets and files take their time
_numbers = itertools.count()


# --- who looks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ledger:
    """The counts of one input or output."""

    name: str
    read: Counter
    in_flight: Gauge
    ends: Sequence[Counter]

    def counts(self) -> tuple[float, float, float]:
        """Read, ended, in flight."""
        return _value(self.read), sum(map(_value, self.ends)), _value(self.in_flight)

    def check(self) -> None:
        read, ended, in_flight = self.counts()
        assert read == ended + in_flight, f"{self.name}: {read:g} read, {ended:g} ended, {in_flight:g} in flight"
        assert in_flight >= 0, f"{self.name}: {in_flight:g} in flight"


def _value(metric: Counter | Gauge) -> float:
    (family,) = metric.collect()
    return next(iter(family.samples)).value


def _total(event: type[events.Event]) -> Counter:
    assert event.total is not None
    return event.total


def input_ledger(name: str) -> Ledger:
    ends = [events.records_delivered.labels(name), events.records_returned.labels(name)]
    dropped = _total(events.RecordsDropped)
    return Ledger(
        name,
        events.records_read.labels(name),
        events.records_in_flight.labels(name),
        [*ends, *(dropped.labels(name, reason) for reason in REASONS)],
    )


def output_ledger(name: str) -> Ledger:
    ends = [events.output_records_delivered.labels(name), events.output_records_returned.labels(name)]
    dropped = _total(events.OutputRecordsDropped)
    return Ledger(
        name,
        events.output_records_read.labels(name),
        events.output_records_in_flight.labels(name),
        [*ends, *(dropped.labels(name, reason) for reason in REASONS)],
    )


class WatchedLoop(asyncio.SelectorEventLoop):
    """Looks at the ledgers after each step; `seen` is the first thing that was wrong."""

    def __init__(self, ledgers: Iterable[Ledger], selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(selector)
        self._ledgers = list(ledgers)
        self.steps = 0
        self.seen: AssertionError | None = None

    def call_soon(self, callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.Handle:  # type: ignore[override]
        return super().call_soon(self._watched(callback), *args, **more)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.Handle:  # type: ignore[override]
        return super().call_soon_threadsafe(self._watched(callback), *args, **more)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        return super().call_at(when, self._watched(callback), *args, **more)

    def _watched(self, callback: Callable[..., Any]) -> Callable[..., None]:
        def step(*args: Any) -> None:
            callback(*args)
            self.steps += 1
            if self.seen is None:
                try:
                    for ledger in self._ledgers:
                        ledger.check()
                except AssertionError as error:
                    self.seen = error

        return step


class _Impatient(selectors.DefaultSelector):
    """Never waits: tells how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for somebody"
        self.waited += max(0.0, timeout)
        return super().select(0)


class TimelessLoop(WatchedLoop):
    """Waiting takes no time, and what belongs in a thread runs in the loop, after as long as `delays` says."""

    def __init__(self, ledgers: Iterable[Ledger], delays: Sequence[float] = ()) -> None:
        self._impatient = _Impatient()
        super().__init__(ledgers, self._impatient)
        self._delays = itertools.cycle(delays or [0.0])

    def time(self) -> float:
        return self._impatient.waited

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()

        def work() -> None:
            if not future.cancelled():
                future.set_result(func(*args))

        self.call_later(next(self._delays), work)
        return future


def watch(loop: WatchedLoop, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it; the ledgers balanced all the time, and at the end nothing is in flight."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scenario())
    if loop.seen is not None:
        raise loop.seen
    assert loop.steps
    for ledger in loop._ledgers:
        ledger.check()
        assert ledger.counts()[2] == 0, f"{ledger.name}: still in flight at the end"


# --- who fails ------------------------------------------------------------------------------------------------------


class FaultyOutput(MemoryOutput):
    """Does with each write what its script says, then takes everything."""

    def __init__(self, name: str, script: Iterable[str]) -> None:
        super().__init__(name=name)
        self._script = iter(script)

    async def write(self, batch: Batch) -> None:
        step = next(self._script, "take")
        if step == "slow":
            await asyncio.sleep(0.02)
        elif step == "stuck":
            await asyncio.sleep(3600)
        elif step == "away":
            raise OutputUnavailable("away")
        elif step == "refuse":
            raise RecordRejected("never")
        elif step == "gone":
            raise ServiceUnavailable("gone for good")
        elif step == "bug":
            raise ZeroDivisionError
        await super().write(batch)


class FaultyInput:
    """Emits batches of these sizes (0: a chunk that is not logs) with pauses, and may fail after them."""

    def __init__(self, name: str, batches: Sequence[tuple[int, float]], *, fails: bool) -> None:
        self.name = name
        self.emitted = 0
        self.outcomes: list[Outcome] = []
        self._batches = batches
        self._fails = fails
        self._stopped = False

    async def open(self) -> None:
        return

    async def run(self, emit: Emit) -> None:
        for number, (size, pause) in enumerate(self._batches):
            if self._stopped:
                return
            await emit(self._batch(number, size))
            self.emitted += 1
            if pause:
                await asyncio.sleep(pause)
        if self._fails:
            raise ServiceUnavailable("the input is gone")

    def _batch(self, number: int, size: int) -> Batch:
        words = ("known", "strange", "odd")
        lines: list[bytes | None] = [f"{words[(number + at) % 3]} {'x' * at}".encode() for at in range(size)]
        return Batch(
            self.name if number % 2 else f"{self.name} other",
            [Record(event_time(0), {"log": raw_str(line or b"")}) for line in lines],
            self.outcomes.append,
            f"{self.name}-{number}",
            lines,
            opaque=None if size else b"\x90",
            input=self.name,
        )

    def stop(self) -> None:
        self._stopped = True

    async def close(self) -> None:
        return


class Llm(FixedStage):
    """Answers some templates, abstains from others."""

    def unavailable(self) -> str | None:
        return None

    def warm_up(self) -> None:
        return

    def due(self) -> bool:
        return False

    def look(self) -> None:
        return


STEPS = st.sampled_from(["take", "take", "slow", "away", "refuse"])
SCRIPTS = st.lists(st.one_of(STEPS, STEPS, st.sampled_from(["stuck", "gone", "bug"])), max_size=12)
OUTPUTS = st.lists(st.tuples(st.booleans(), SCRIPTS), min_size=1, max_size=3)
BATCHES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.0, 0.01, 0.3])), max_size=10)
INPUTS = st.lists(st.tuples(BATCHES, st.booleans()), min_size=1, max_size=2)
DELAYS = st.lists(st.sampled_from([0.0, 0.05, 5.0]), max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=NEVER_SLOW)
@given(
    inputs=INPUTS,
    outputs=OUTPUTS,
    delays=DELAYS,
    stop_at=st.sampled_from([0.001, 0.05, 1.0, 100.0]),
    drain_secs=st.sampled_from([0.0, 0.1, 10.0]),
    room=st.integers(1, 20),
    buried=st.booleans(),
)
def test_the_ledger_balances_after_every_step_whatever_fails(
    inputs: list[tuple[list[tuple[int, float]], bool]],
    outputs: list[tuple[bool, list[str]]],
    delays: list[float],
    stop_at: float,
    drain_secs: float,
    room: int,
    buried: bool,
) -> None:
    run = next(_numbers)
    sources = [FaultyInput(f"ledger-{run}-in-{at}", batches, fails=fails) for at, (batches, fails) in enumerate(inputs)]
    slots = [
        OutputSlot(FaultyOutput(f"ledger-{run}-out-{at}", script), required=required)
        for at, (required, script) in enumerate(outputs)
    ]
    ledgers = [*(input_ledger(source.name) for source in sources), *(output_ledger(slot.output.name) for slot in slots)]
    loop = TimelessLoop(ledgers, delays)

    async def scenario() -> None:
        waiting = WaitingRoom(Llm({"strange": "Error"}, name="llm"), wait_secs=1.0, clock=loop.time)
        tested = Pipeline(
            sources,
            cascade([rule("known")], waiting=waiting),
            slots,
            max_in_flight=room,
            drain_secs=drain_secs,
            dead_letter=FaultyOutput("grave", ["slow", "away"]) if buried else None,
            clock=loop.time,
            jitter=lambda: 0.5,
        )
        loop.call_later(stop_at, tested.stop)
        with suppress(ServiceUnavailable, ZeroDivisionError):
            await tested.run()
        waiting.close()

    watch(loop, scenario)

    for source in sources:
        assert len(source.outcomes) == source.emitted


# --- the real inputs ------------------------------------------------------------------------------------------------


async def settled(tested: Pipeline, task: asyncio.Task[None]) -> None:
    tested.stop()
    with suppress(ServiceUnavailable):
        await asyncio.wait_for(task, 20)


def pipeline(source: Input, script: Iterable[str]) -> tuple[Pipeline, FaultyOutput]:
    output = FaultyOutput(f"{source.name} out", script)
    return Pipeline([source], cascade([rule("line")]), [output], drain_secs=0.05, jitter=lambda: -0.99), output


def frame(kind: str, number: int, chunk: bool) -> bytes:
    """A message of the forward protocol, right or wrong."""
    options: Any = {"chunk": f"chunk-{number}"} if chunk else {}
    if kind == "good":
        return forward("app", 1 + number % 4, **options)
    if kind == "metrics":
        return pack(["app", b"\x90", {**options, "fluent_signal": 1}])
    if kind == "half invalid":
        return pack(["app", [[EVENT_TIME, {"log": "line"}], [EVENT_TIME, "no map"], ["no time", {}]], options])
    if kind == "corrupt":
        return pack(["app", msgpack.packb([7, {"log": "line"}])[:-2], options])
    return pack(["app", b"no gzip", {**options, "compressed": "gzip"}])


FRAMES = st.lists(
    st.tuples(st.sampled_from(["good", "good", "metrics", "half invalid", "corrupt", "no gzip"]), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None, phases=WITHOUT_SHRINKING, suppress_health_check=NEVER_SLOW)
@given(frames=FRAMES, script=st.lists(STEPS, max_size=12), wait=st.booleans())
def test_the_ledger_of_the_forward_input_balances_whatever_is_sent(
    frames: list[tuple[str, bool]], script: list[str], wait: bool
) -> None:
    name = f"ledger-{next(_numbers)}"

    async def scenario() -> None:
        source = ForwardInput(ForwardInputOptions(listen="127.0.0.1:0"), name)
        tested, _ = pipeline(source, script)
        await tested.open()
        address = source.address
        task = asyncio.create_task(tested.run())
        for number, (kind, chunk) in enumerate(frames):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(frame(kind, number, chunk) * (1 + number % 2))
            if wait:
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await settled(tested, task)

    watch(WatchedLoop([input_ledger(name), output_ledger(f"{name} out")]), scenario)


@settings(max_examples=15, deadline=None, phases=WITHOUT_SHRINKING, suppress_health_check=NEVER_SLOW)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    script=st.lists(STEPS, max_size=20),
    stop_after=st.integers(0, 8),
)
def test_the_ledger_of_the_files_input_balances_wherever_it_is_stopped(
    counts: list[int], script: list[str], stop_after: int
) -> None:
    name = f"ledger-{next(_numbers)}"

    async def scenario(folder: str) -> None:
        source = FilesInput(FilesInputOptions(paths=(f"{folder}/*.log",), batch_lines=5, watch=False), name)
        tested, output = pipeline(source, script)
        await tested.open()
        task = asyncio.create_task(tested.run())
        batches = sum(-(-count // 5) for count in counts)
        await until(lambda: len(output.batches) >= min(stop_after, batches - script.count("refuse")))
        await settled(tested, task)

    with tempfile.TemporaryDirectory() as folder:
        for number, count in enumerate(counts):
            Path(folder, f"{number}.log").write_text("".join(f"line {at}\n" for at in range(count)))
        watch(WatchedLoop([input_ledger(name), output_ledger(f"{name} out")]), lambda: scenario(folder))
