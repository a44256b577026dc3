"""The pipeline: every record arrives or goes back, whatever outputs and stages do."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence

import pytest
from msgspec import Raw

from doubles import ChaosOutput, ChaosStage, FixedStage, SlowStage, cascade, rule, until
from logclf_daemon.errors import OutputUnavailable, RecordRejected, ServiceUnavailable
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.metrics import value
from logclf_daemon.outputs._jsonl.text import JsonText
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import OutputSlot, Pipeline, Room, part_id
from logclf_daemon.protocols import Emit, Input, Output
from logclf_daemon.record import Batch, Outcome, SealedRecord
from logclf_daemon.waiting import WaitingRoom

LINES = [f"line {number} {'known' if number % 2 else 'other'} {'x' * (number % 7)}" for number in range(500)]


def pipeline(inputs: Sequence[Input], outputs: Sequence[OutputSlot | Output], **more: object) -> Pipeline:
    tested = more.pop("cascade", None) or cascade([rule("known")], [FixedStage({"other": "User Action"})])
    return Pipeline(inputs, tested, outputs, jitter=lambda: -0.999, **more)  # type: ignore[arg-type]


def run(tested: Pipeline) -> None:
    async def scenario() -> None:
        await tested.open()
        await tested.run()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_every_line_arrives_with_a_verdict_when_the_output_fails_at_random(seed: int) -> None:
    source, output = MemoryInput(LINES), ChaosOutput(seed, away=0.6)

    run(pipeline([source], [output]))

    assert sorted(line or b"" for line in output.lines) == sorted(line.encode() for line in LINES)
    assert all("logclf" in record.fields for record in output.written)  # type: ignore[union-attr]
    assert source.watermark.position == len(LINES)


@pytest.mark.parametrize("seed", range(5))
def test_every_line_arrives_when_stages_break(seed: int) -> None:
    source, output = MemoryInput(LINES), MemoryOutput()

    run(pipeline([source], [output], cascade=cascade([], [ChaosStage(seed)])))

    assert output.lines == [line.encode() for line in LINES]


def test_lines_of_one_source_keep_their_order() -> None:
    source, output = MemoryInput(LINES, batch_size=7), MemoryOutput()

    run(pipeline([source], [output]))

    assert output.lines == [line.encode() for line in LINES]


def test_all_required_outputs_get_every_line() -> None:
    source, one, other = MemoryInput(LINES), ChaosOutput(1), MemoryOutput()

    run(pipeline([source], [one, other]))

    assert sorted(line or b"" for line in one.lines) == sorted(line or b"" for line in other.lines)
    assert source.watermark.position == len(LINES)


def test_a_best_effort_output_holds_nothing_back(caplog: pytest.LogCaptureFixture) -> None:
    source, good, bad = MemoryInput(LINES), MemoryOutput(), ChaosOutput(1, away=1.0)
    before = value("logclf_output_records_dropped_total", output="chaos", reason="output_unavailable")

    run(pipeline([source], [good, OutputSlot(bad, required=False)]))

    assert len(good.lines) == len(LINES)
    assert value("logclf_output_records_dropped_total", output="chaos", reason="output_unavailable") - before == len(
        LINES
    )
    assert "records pass it by" in caplog.text
    assert "records wait at their source" not in caplog.text


def test_a_best_effort_output_that_is_gone_for_good_or_broken_ends_nothing() -> None:
    class Gone(MemoryOutput):
        async def write(self, batch: Batch) -> None:
            raise ServiceUnavailable("standard output was closed")

    source, good = MemoryInput(LINES), MemoryOutput()

    run(pipeline([source], [good, OutputSlot(Gone(), required=False)]))

    assert len(good.lines) == len(LINES)
    assert source.watermark.position == len(LINES)


def test_a_best_effort_output_that_hangs_is_passed_by_and_tried_again_in_a_while() -> None:
    now = [0.0]

    class Hanging(MemoryOutput):
        hangs, calls = True, 0

        async def write(self, batch: Batch) -> None:
            self.calls += 1
            if self.hangs:
                raise TimeoutError  # as asyncio.wait_for does when its time is over
            await super().write(batch)

    source, good, bad = MemoryInput(LINES, batch_size=1), MemoryOutput(), Hanging()
    slot = OutputSlot(bad, required=False)

    run(pipeline([source], [good, slot], clock=lambda: now[0]))

    assert len(good.lines) == len(LINES)
    assert bad.calls <= 3  # those that were under way when the first came back
    now[0] += 60
    bad.hangs = False
    run(pipeline([MemoryInput(LINES, batch_size=1)], [MemoryOutput(), slot], clock=lambda: now[0]))
    assert bad.lines == [line.encode() for line in LINES]
    assert slot.away_since is None


def test_rejected_records_are_counted_buried_and_settled() -> None:
    lines = ["fine"] * 10 + ["poison"] * 10 + ["fine"] * 10
    source, output, grave = MemoryInput(lines), ChaosOutput(1, away=0.3, poison=b"poison"), MemoryOutput()

    tested = pipeline([source], [output], dead_letter=grave)
    run(tested)

    assert (output.lines, grave.lines) == ([b"fine"] * 20, [b"poison"] * 10)
    assert b"poison" in bytes(grave.written[0].fields["logclf_rejected"])  # type: ignore[union-attr]
    assert (tested.totals.delivered, tested.totals.dropped) == (20, 10)
    assert source.watermark.position == 30


def test_a_dead_letter_file_that_takes_nothing_is_told_and_holds_nothing_back(caplog: pytest.LogCaptureFixture) -> None:
    source, output = MemoryInput(["fine", "poison"], batch_size=1), ChaosOutput(1, away=0.0, poison=b"poison")
    tested = pipeline([source], [output], dead_letter=ChaosOutput(1, away=1.0))

    run(tested)

    assert (tested.totals.delivered, tested.totals.dropped) == (1, 1)
    assert "the dead-letter file takes nothing" in caplog.text


def test_whatever_is_refused_is_buried_with_the_reason() -> None:
    """Also chunks that are not logs, and records whose map cannot be opened."""

    class Refusing(MemoryOutput):
        async def write(self, batch: Batch) -> None:
            raise RecordRejected("not here")

    class Odd(MemoryInput):
        async def run(self, emit: Emit) -> None:
            await emit(Batch("m", [], self.outcomes.append, opaque=b"\x90", input="odd"))
            sealed = SealedRecord(Raw(b"\x01"), Raw(b"\x81\x07\xa1x"))
            await emit(Batch("s", [sealed], self.outcomes.append, input="odd"))

    source, grave = Odd([]), MemoryOutput()

    run(pipeline([source], [Refusing()], dead_letter=grave))

    metrics, sealed = map(json.loads, JsonText().lines(grave.written).splitlines())
    assert metrics == {"tag": "m", "base64": "kA==", "logclf_rejected": "rejected: not here"}
    assert (sealed["7"], sealed["logclf_rejected"]) == ("x", "rejected: not here")
    assert source.outcomes == [Outcome.DELIVERED] * 2


class Stuck(MemoryOutput):
    """Never says that anything is safe."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def write(self, batch: Batch) -> None:
        self.calls += 1
        await asyncio.Event().wait()


def test_records_in_flight_are_bounded() -> None:
    source, output = MemoryInput(LINES, batch_size=10), Stuck()
    tested = pipeline([source], [output], max_in_flight=50, drain_secs=0.0)

    async def scenario() -> None:
        running = asyncio.create_task(tested.run())
        await until(lambda: output.calls == 5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert tested.room.taken == 50
        assert output.calls == 5
        tested.stop()
        await running

    asyncio.run(scenario())
    assert set(source.outcomes) == {Outcome.RETURNED}
    assert source.watermark.position == 0


@pytest.mark.parametrize("turns", range(8))
def test_a_batch_that_comes_with_the_drain_deadline_is_returned_once(turns: int) -> None:
    class LastMoment(MemoryInput):
        def __init__(self) -> None:
            super().__init__(LINES[:10])
            self.told = asyncio.Event()

        async def run(self, emit: Emit) -> None:
            await self.told.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            await super().run(emit)

    async def scenario() -> LastMoment:
        source = LastMoment()
        tested = pipeline([source], [Stuck()], drain_secs=0.0)
        running = asyncio.create_task(tested.run())
        await asyncio.sleep(0)
        tested.stop()
        source.told.set()
        source._stopped = False
        await running
        assert tested.room.taken == 0
        assert tested.totals.returned == 10 * len(source.outcomes)
        return source

    source = asyncio.run(scenario())
    assert value("logclf_records_in_flight", input="memory") == 0
    assert set(source.outcomes) <= {Outcome.RETURNED}


def test_a_batch_larger_than_the_room_goes_alone() -> None:
    source, output = MemoryInput(LINES, batch_size=200), MemoryOutput()

    run(pipeline([source], [output], max_in_flight=50))

    assert len(output.lines) == len(LINES)


def test_a_large_record_takes_the_room_of_many() -> None:
    output = Stuck()

    async def scenario() -> None:
        tested = pipeline([], [output], max_in_flight=50)
        batch = MemoryInput(LINES)._batch(0, [b"known"])
        batch.size = 49 << 10
        await tested.emit(batch)
        assert tested.room.taken == 49
        waiting = asyncio.create_task(tested.emit(MemoryInput(LINES)._batch(1, [b"known"] * 2)))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        tested.stop()
        for task in list(tested._under_way):
            task.cancel()
        await asyncio.gather(waiting, *tested._under_way, return_exceptions=True)
        assert tested.room.taken == 0

    asyncio.run(scenario())


def test_while_an_output_is_away_one_batch_at_a_time_is_tried_and_each_in_its_turn() -> None:
    class Away(MemoryOutput):
        def __init__(self) -> None:
            super().__init__()
            self.tried: list[str | None] = []
            self.back = False

        async def write(self, batch: Batch) -> None:
            self.tried.append(batch.chunk)
            await asyncio.sleep(0)
            if not self.back:
                raise OutputUnavailable("away")
            await super().write(batch)

    source, output = MemoryInput(LINES[:100], batch_size=10), Away()
    tested = pipeline([source], [output])

    async def scenario() -> None:
        running = asyncio.create_task(tested.run())
        await until(lambda: len(output.tried) >= 40)
        output.back = True
        await running

    asyncio.run(scenario())
    assert len(set(output.tried[10:20])) == len(set(output.tried[20:30])) == 10
    assert len(output.lines) == 100


def test_c11_pauses_grow_to_a_limit_with_jitter_and_each_change_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def recorded(secs: float) -> None:
        if secs:
            pauses.append(secs)
        await sleep(0)

    class Away(MemoryOutput):
        left = 9

        async def write(self, batch: Batch) -> None:
            self.left -= 1
            if self.left >= 0:
                raise OutputUnavailable("away")
            await super().write(batch)

    source, output, jitter = MemoryInput(LINES[:3]), Away(name="c11"), itertools.cycle([0.0, 1.0])
    monkeypatch.setattr(asyncio, "sleep", recorded)
    caplog.set_level("INFO", "logclf")

    run(Pipeline([source], cascade(), [output], jitter=lambda: next(jitter)))

    assert pauses == [0.125, 0.5, 0.5, 2.0, 2.0, 5.0, 2.5, 5.0, 2.5]
    lines = [record.getMessage() for record in caplog.records if "output=c11" in record.getMessage()]
    assert ["unavailable" in lines[0], "available again" in lines[1], len(lines)] == [True, True, 2]


def test_stop_delivers_what_is_under_way_and_reads_no_further() -> None:
    class Endless(MemoryInput):
        async def run(self, emit: object) -> None:
            while not self._stopped:
                await emit(self._batch(0, [b"x"]))  # type: ignore[operator]
                await asyncio.sleep(0)

    source, output = Endless([]), MemoryOutput()
    tested = pipeline([source], [output])

    async def scenario() -> None:
        running = asyncio.create_task(tested.run())
        await until(lambda: len(output.batches) > 10)
        tested.stop()
        await running

    asyncio.run(scenario())
    assert set(source.outcomes) == {Outcome.DELIVERED}
    assert len(source.outcomes) == len(output.lines)


def test_an_output_that_is_gone_for_good_ends_the_run_and_returns_the_records() -> None:
    class Gone(MemoryOutput):
        async def write(self, batch: Batch) -> None:
            raise ServiceUnavailable("standard output was closed")

    source = MemoryInput(LINES)

    with pytest.raises(ServiceUnavailable, match="closed"):
        run(pipeline([source], [Gone()]))

    assert source.watermark.position == 0


def test_a_failing_input_ends_the_run_with_its_error_after_the_others_settled() -> None:
    class Failing(MemoryInput):
        async def run(self, emit: object) -> None:
            raise ServiceUnavailable("the port is gone")

    good, output = MemoryInput(["a", "b"]), MemoryOutput()

    with pytest.raises(ServiceUnavailable, match="port"):
        run(pipeline([good, Failing([])], [output]))

    assert good.watermark.position == len(output.lines)


def test_the_ledger_balances() -> None:
    def ledger() -> dict[str, float]:
        names = ("read", "delivered", "returned")
        counted = {name: value(f"logclf_records_{name}_total", input="memory") for name in names}
        counted["dropped"] = value("logclf_records_dropped_total", input="memory", reason="rejected")
        return counted

    before = ledger()
    source = MemoryInput(["fine", "poison"] * 100, batch_size=3)
    run(pipeline([source], [ChaosOutput(2, away=0.5, poison=b"poison")]))
    change = {name: count - before[name] for name, count in ledger().items()}

    assert change["read"] == 200
    assert change["read"] == change["delivered"] + change["dropped"] + change["returned"]
    assert value("logclf_records_in_flight", input="memory") == 0


def test_metrics_and_traces_pass_unclassified() -> None:
    outcomes: list[Outcome] = []
    output = MemoryOutput()
    tested = pipeline([], [output])

    async def scenario() -> None:
        await tested.emit(Batch("cpu", [], outcomes.append, opaque=b"\x90", options={"fluent_signal": 1}))
        await until(lambda: outcomes)

    asyncio.run(scenario())
    assert outcomes == [Outcome.DELIVERED]
    assert [batch.opaque for batch in output.batches] == [b"\x90"]


def test_healthy_lines_leave_before_the_llm_answers_and_the_batch_settles_after() -> None:
    slow = SlowStage({"strange": "Security Alert"})
    source, output = MemoryInput(["known", "strange", "known 2"]), MemoryOutput()

    async def scenario() -> None:
        tested = pipeline([source], [output], cascade=cascade([rule("known")], waiting=WaitingRoom(slow)))
        running = asyncio.create_task(tested.run())
        await until(lambda: output.batches)
        assert output.lines == [b"known", b"known 2"]
        assert source.watermark.position == 0
        slow.go_on.set()
        await running

    asyncio.run(scenario())
    assert output.lines == [b"known", b"known 2", b"strange"]
    assert source.watermark.position == 3
    assert len({batch.chunk for batch in output.batches}) == 2


class Parts:
    """Remembers how batches were parted, as the state database does."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}

    def record_parts(self, chunk: str, parts: bytes) -> bool:
        self.known[chunk] = parts
        return True

    def parts_of(self, chunk: str) -> bytes:
        return self.known.get(chunk, b"")


def test_a_batch_parted_before_a_crash_is_parted_in_the_same_way_after_it() -> None:
    lines, parts = ["known", "strange", "known 2", "odd"], Parts()

    def ids(answered: bool, repeated: bool) -> dict[str | None, list[bytes | None]]:
        slow, output = SlowStage({"strange": "Security Alert"}), MemoryOutput()

        async def scenario() -> None:
            tested = pipeline([], [output], cascade=cascade([rule("known")], waiting=WaitingRoom(slow)), parts=parts)
            if answered:
                slow.go_on.set()
            source = MemoryInput(lines)
            batch = source._batch(0, [line.encode() for line in lines])
            batch.repeated = repeated
            await tested.emit(batch)
            await until(lambda: output.batches or slow.asked)
            slow.go_on.set()
            await until(lambda: source.outcomes)

        asyncio.run(scenario())
        return {batch.chunk: _only(batch).lines for batch in output.batches}

    before = ids(answered=False, repeated=False)
    after = ids(answered=True, repeated=True)

    assert len(before) == 2
    assert before == after


def _only(batch: Batch) -> MemoryOutput:
    output = MemoryOutput()
    output.batches.append(batch)
    return output


@pytest.mark.parametrize(("alone", "together"), [(True, 1), (False, 5)])
def test_batches_that_go_alone_are_sent_one_after_the_other(alone: bool, together: int) -> None:
    output = Stuck()

    async def scenario() -> None:
        tested = pipeline([], [output])
        source = MemoryInput(LINES)
        for start in range(5):
            batch = source._batch(start * 10, [b"known"] * 10)
            batch.alone = alone
            await tested.emit(batch)
        await until(lambda: output.calls >= together)
        for _ in range(50):
            await asyncio.sleep(0)
        assert output.calls == together
        for task in list(tested._under_way):
            task.cancel()
        await asyncio.gather(*tested._under_way, return_exceptions=True)

    asyncio.run(scenario())


def test_records_returned_after_a_part_left_are_not_counted_twice() -> None:
    slow, output = SlowStage(), MemoryOutput()

    async def scenario() -> Pipeline:
        tested = pipeline(
            [MemoryInput(["known", "strange"])],
            [output],
            cascade=cascade([rule("known")], waiting=WaitingRoom(slow)),
            drain_secs=0.0,
        )
        running = asyncio.create_task(tested.run())
        await until(lambda: output.batches)
        tested.stop()
        await running
        slow.go_on.set()
        return tested

    totals = asyncio.run(scenario()).totals
    assert (totals.delivered, totals.returned) == (1, 1)


def test_parts_of_a_chunk_have_ids_of_their_own() -> None:
    assert part_id("chunk", [0, 2]) == part_id("chunk", [0, 2])
    assert len({part_id("chunk", [0, 2]), part_id("chunk", [0, 1]), part_id("other", [0, 2]), "chunk"}) == 4


def test_room_lets_waiters_in_as_it_empties() -> None:
    async def scenario() -> list[str]:
        room, order = Room(10), []

        async def guest(name: str, count: int) -> None:
            await room.take(count)
            order.append(name)

        await room.take(8)
        waiting = asyncio.create_task(guest("late", 5))
        await asyncio.sleep(0)
        order.append("full")
        room.give_back(8)
        await waiting
        return order

    assert asyncio.run(scenario()) == ["full", "late"]


def test_a_large_batch_has_its_turn_however_many_small_ones_come() -> None:
    room = Room(10)
    entered: list[str] = []

    async def pass_through(name: str, weight: int) -> None:
        await room.take(weight)
        entered.append(name)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        room.give_back(weight)

    async def scenario() -> None:
        small = [asyncio.create_task(pass_through("small", 3)) for _ in range(4)]
        await asyncio.sleep(0)
        large = asyncio.create_task(pass_through("large", 9))
        await asyncio.sleep(0)
        while not large.done():
            small.append(asyncio.create_task(pass_through("small", 3)))
            await asyncio.sleep(0)
            assert len(small) < 100
        await asyncio.gather(*small)

    asyncio.run(scenario())
    assert room.taken == 0
