"""Read, classify, write, settle.

The source is the buffer: nothing is acknowledged upstream before every required output said "safe". Back-pressure is
one number, the records in flight (large ones count more than once); `emit` waits while it is reached, so tailing pauses
and sockets stop being read.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, TypeVar

from logclf_daemon.cascade import Cascade, Classified
from logclf_daemon.codec import event_time, raw_str, sealed_with
from logclf_daemon.errors import LogclfError, OutputUnavailable, RecordRejected, inside
from logclf_daemon.events import (
    BestEffortAway,
    Bug,
    DeadLetterAway,
    OutputAway,
    OutputBack,
    OutputRecordsDropped,
    RecordsDropped,
    emit,
    output_records_delivered,
    output_records_in_flight,
    output_records_read,
    output_records_returned,
    records_delivered,
    records_in_flight,
    records_read,
    records_returned,
)
from logclf_daemon.failpoint import reached
from logclf_daemon.generation import Answer
from logclf_daemon.protocols import Input, Output
from logclf_daemon.record import Batch, Outcome, Record

Result = TypeVar("Result")

FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS = 0.25, 5.0
BEST_EFFORT_SECS = 5.0


class Room:
    """How many records may be in flight, by their weight. A batch larger than that goes alone.

    First come, first served: a large batch is not held up for ever by small ones that always find room.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._changed = asyncio.Event()
        self._first = asyncio.Lock()  # of those that wait, the one that came first holds it

    async def take(self, weight: int) -> None:
        async with self._first:
            while self.taken and self.taken + weight > self.limit:
                self._changed.clear()
                await self._changed.wait()
            self.taken += weight

    def give_back(self, weight: int) -> None:
        self.taken -= weight
        self._changed.set()


@dataclass(slots=True)
class OutputSlot:
    """An output and its policy: a required one holds back acknowledgements, a best-effort one never does."""

    output: Output
    required: bool = True
    away_since: float | None = None
    error: str | None = None  # why it is away
    pause: float = FIRST_PAUSE_SECS
    knock_at: float = 0.0  # while it is away, a best-effort output is not tried before
    door: asyncio.Lock = field(default_factory=asyncio.Lock)  # who holds it knocks while the output is away


@dataclass(slots=True)
class Totals:
    """What became of the records, for the last word at the end."""

    delivered: int = 0
    dropped: int = 0
    returned: int = 0


class PartsLog(Protocol):
    """Where it is written down how a batch was parted, before any part leaves. Methods may block."""

    def record_parts(self, chunk: str, parts: bytes) -> bool:
        """Remember the parts of a chunk as long as it is under way."""

    def parts_of(self, chunk: str) -> bytes:
        """What was remembered; empty if nothing."""


@dataclass(slots=True, eq=False)
class _Turn:
    """Batches of one source are written in the order they were read."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    ours_since: float | None = None  # since when it is classified; None: it waits for the world or for the batch before


class Pipeline:
    """Inputs, one cascade, outputs.

    `run` ends when all inputs ended or `stop` was called and everything under way settled, or at the drain deadline.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        cascade: Cascade,
        outputs: Sequence[OutputSlot | Output],
        *,
        max_in_flight: int = 20_000,
        drain_secs: float = 20.0,
        dead_letter: Output | None = None,
        parts: PartsLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.inputs = list(inputs)
        self.cascade = cascade
        self.outputs = [slot if isinstance(slot, OutputSlot) else OutputSlot(slot) for slot in outputs]
        self.totals = Totals()
        self.room = Room(max_in_flight)
        self._drain_secs = drain_secs
        self._dead_letter = dead_letter
        self._parts = parts
        self._clock = clock
        self._jitter = jitter
        self._under_way: set[asyncio.Task[None]] = set()
        self._turns: dict[str, _Turn] = {}
        self._emitted: dict[int, tuple[str, float, int]] = {}  # batches not settled: input, when, bytes; oldest first
        self._carried: set[_Turn] = set()
        self._stopping = asyncio.Event()
        self._over = False
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Open outputs, then inputs: after this the daemon is ready.

        Raises:
            ConfigError: One can never work as configured; its key begins with `outputs`, `delivery` or `inputs`.
        """
        for at, slot in enumerate(self.outputs):
            with inside("outputs", at):
                await slot.output.open()
        if self._dead_letter is not None:
            with inside("delivery"):
                await self._dead_letter.open()
        for at, source in enumerate(self.inputs):
            with inside("inputs", at):
                await source.open()

    def stop(self) -> None:
        """Read no further; deliver what is under way."""
        self._stopping.set()
        for source in self.inputs:
            source.stop()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, or something failed for good: then it reads no more."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Carry batches until the inputs end or `stop`.

        Raises:
            LogclfError: An input or output failed for good; everything unacknowledged stays with its source.
        """
        readers = [asyncio.create_task(source.run(self.emit), name=f"input {source.name}") for source in self.inputs]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await self._read(readers, stopping)
            await self._drain(readers)
        finally:
            stopping.cancel()
            await self._close()
        if self._failure is not None:
            raise self._failure

    async def _read(self, readers: Sequence[asyncio.Task[None]], stopping: asyncio.Task[bool]) -> None:
        waiting: set[asyncio.Task[None]] = set(readers)
        while waiting and not stopping.done():
            done, _ = await asyncio.wait({*waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for reader in done - {stopping}:
                waiting.discard(reader)
                if (error := reader.exception()) is not None:
                    self._fail(error)

    async def _drain(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """Wait for what is under way: as long as it takes at the end of input, `drain_secs` after `stop`."""
        deadline = self._clock() + self._drain_secs
        while pending := [task for task in (*readers, *self._under_way) if not task.done()]:
            left = deadline - self._clock() if self._stopping.is_set() else 0.5
            if left <= 0:
                break
            await asyncio.wait(pending, timeout=min(left, 0.5))
        self._over = True
        await asyncio.sleep(0)  # a task that was cancelled before its first step could not settle its batch
        for task in (*readers, *self._under_way):
            task.cancel()
        await asyncio.gather(*readers, *self._under_way, return_exceptions=True)

    async def _close(self) -> None:
        for source in self.inputs:
            await source.close()
        for slot in self.outputs:
            await slot.output.close()
        if self._dead_letter is not None:
            await self._dead_letter.close()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop()

    def stalled(self, secs: float) -> str | None:
        """The part of ours that has not got on for `secs`; None: all is well.

        What waits for the world is no stall: an output that is away, a slow LLM, a disk that hangs, a pipe left full.
        """
        now = self._clock()
        asked = self.cascade.asked_since
        if asked is not None and now - asked > secs:
            return "the worker thread of the stages"
        # Batches may queue for the worker for long while a flood of new templates passes: then it gets on.
        if self._carried and now - self.cascade.answered_at > secs:
            for turn in self._carried:
                if turn.ours_since is not None and now - turn.ours_since > secs:
                    return "the pipeline"
        return None

    async def emit(self, batch: Batch) -> None:
        """Take a batch from an input; returns when it has room and is on its way."""
        self._emitted[id(batch)] = (batch.input, self._clock(), batch.size)
        try:
            await self.room.take(batch.weight)
        except BaseException:
            del self._emitted[id(batch)]
            raise
        # Counted together, as at each later step: the ledger balances whenever somebody looks.
        records_read.labels(batch.input).inc(len(batch))
        records_in_flight.labels(batch.input).inc(len(batch))
        if self._over:  # it waited for room until the drain deadline
            self._settle(batch, Outcome.RETURNED)
            return
        before = self._turns.get(batch.source)
        self._turns[batch.source] = turn = _Turn()
        task = asyncio.create_task(self._carry(batch, before, turn))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def unsettled(self) -> dict[str, tuple[float, int]]:
        """For each input the age of the oldest batch that is not settled, in seconds, and the bytes of all of them."""
        now = self._clock()
        found: dict[str, tuple[float, int]] = {source.name: (0.0, 0) for source in self.inputs}
        for name, emitted, size in self._emitted.values():
            age, bytes_before = found.get(name, (0.0, 0))
            found[name] = (max(age, now - emitted), bytes_before + size)
        return found

    async def _carry(self, batch: Batch, before: _Turn | None, turn: _Turn) -> None:
        outcome = Outcome.RETURNED
        turn.ours_since = self._clock()
        self._carried.add(turn)
        try:
            outcome = await self._deliver(batch, before, turn)
        except asyncio.CancelledError:
            pass  # the drain deadline: the batch goes back to its source
        except LogclfError as error:
            self._fail(error)
        except Exception as error:
            emit(Bug(where="pipeline", error=repr(error)))
            self._fail(error)
        finally:
            turn.done.set()
            self._carried.discard(turn)
            if self._turns.get(batch.source) is turn:
                del self._turns[batch.source]
            self._settle(batch, outcome)

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        self.room.give_back(batch.weight)
        self._emitted.pop(id(batch), None)
        if left := len(batch) - batch.settled:
            self.totals.returned += left
            records_in_flight.labels(batch.input).dec(left)
            records_returned.labels(batch.input).inc(left)
        batch.settle(outcome)

    async def _deliver(self, batch: Batch, before: _Turn | None, turn: _Turn) -> Outcome:
        if batch.opaque is not None:
            turn.ours_since = None
            await self._write(batch)
            return Outcome.DELIVERED
        classified = await self.cascade.classify_batch(batch)
        turn.ours_since = None
        if before is not None:
            await before.done.wait()
        answers = classified.answers
        reached("classified")
        first = await self._first_part(batch, classified)
        if first is None:
            if classified.late:
                turn.done.set()  # all of it waits for the LLM: what comes after must not
            await self.cascade.settle_late(classified.late, answers)
            self.cascade.attach(batch.records, answers, batch.passthrough)
            await self._write(batch, turn)
            return Outcome.DELIVERED
        rest = sorted(set(range(len(batch.records))) - set(first))

        async def write_rest() -> None:
            await self.cascade.settle_late(classified.late, answers)
            await self._write_part(batch, rest, answers)

        if any(answers[at] is None for at in first):  # parted before a crash; now others wait for the LLM
            await self.cascade.settle_late(classified.late, answers)
            classified.late = []
        await _together(self._write_part(batch, first, answers, turn), write_rest())
        return Outcome.DELIVERED

    async def _first_part(self, batch: Batch, classified: Classified) -> list[int] | None:
        """The positions that leave at once while others wait for the LLM; None if all leave together.

        It is written down before it leaves: after a crash the same records leave under the same chunk ids.
        """
        if batch.repeated and self._parts is not None and batch.chunk is not None:
            parts = await asyncio.to_thread(self._parts.parts_of, batch.chunk)
            bits = int.from_bytes(parts, "big")
            return [at for at in range(len(batch.records)) if bits >> at & 1] if parts else None
        waiting = {at for item in classified.late for at in item.positions}
        if not waiting or len(waiting) == len(batch.records):
            return None
        first = [at for at in range(len(batch.records)) if at not in waiting]
        if self._parts is not None and batch.chunk is not None:
            bits = sum(1 << at for at in first)
            parts = bits.to_bytes((len(batch.records) + 7) // 8, "big")
            await asyncio.to_thread(self._parts.record_parts, batch.chunk, parts)
        return first

    async def _write_part(
        self, batch: Batch, positions: Sequence[int], answers: Sequence[Answer | None], turn: _Turn | None = None
    ) -> None:
        if not positions:
            if turn is not None:
                turn.done.set()
            return
        whole = len(positions) == len(batch.records)
        part = batch.part(positions, batch.chunk if whole else part_id(batch.chunk, positions))
        at_part = frozenset(at for at, position in enumerate(positions) if position in batch.passthrough)
        self.cascade.attach(part.records, [answers[position] for position in positions], at_part)
        await self._write(part, turn)

    async def _write(self, batch: Batch, turn: _Turn | None = None) -> None:
        """Until every required output said "safe" or refused for good."""
        writing = [asyncio.create_task(self._write_to(slot, batch)) for slot in self.outputs]
        try:
            if turn is not None and not (batch.whole or batch).alone:
                # A turn of the loop: the write calls are under way in this order, the source's next batch may follow.
                await asyncio.sleep(0)
                turn.done.set()
            refusals = [refusal for refusal in await _together(*writing) if refusal is not None]
            if turn is not None:
                turn.done.set()
        finally:
            for task in writing:
                task.cancel()
        (batch.whole or batch).settled += len(batch)
        records_in_flight.labels(batch.input).dec(len(batch))
        if not refusals:
            self.totals.delivered += len(batch)
            records_delivered.labels(batch.input).inc(len(batch))
            return
        self.totals.dropped += len(batch)
        emit(RecordsDropped(input=batch.input, reason=refusals[0].reason, count=len(batch), detail=str(refusals[0])))
        await self._bury(batch, refusals[0])

    async def _write_to(self, slot: OutputSlot, batch: Batch) -> RecordRejected | None:
        """Until the output took the batch or never will. What a best-effort output refuses is its own affair."""
        name, count = slot.output.name, len(batch)
        output_records_read.labels(name).inc(count)
        output_records_in_flight.labels(name).inc(count)
        try:
            refusal = await (self._attempts if slot.required else self._one_attempt)(slot, batch)
            if refusal is None:
                output_records_delivered.labels(name).inc(count)
            else:
                emit(OutputRecordsDropped(output=name, reason=refusal.reason, count=count))
        except BaseException:
            output_records_returned.labels(name).inc(count)
            raise
        finally:
            output_records_in_flight.labels(name).dec(count)
        return refusal if slot.required else None

    async def _attempts(self, slot: OutputSlot, batch: Batch) -> RecordRejected | None:
        """While an output is away one batch after the other knocks, with growing pauses; then all go on at once."""
        while True:
            try:
                if slot.away_since is None:
                    await self._attempt(slot, batch)
                    return None
                async with slot.door:
                    if slot.away_since is not None:
                        await asyncio.sleep(slot.pause * (0.5 + self._jitter() / 2))
                        slot.pause = min(slot.pause * 2, LONGEST_PAUSE_SECS)
                        await self._attempt(slot, batch)
                        return None
            except RecordRejected as error:
                return error
            except (OutputUnavailable, TimeoutError) as error:
                self._is_away(slot, str(error) or "too slow")

    async def _one_attempt(self, slot: OutputSlot, batch: Batch) -> RecordRejected | None:
        """A best-effort output has a few seconds for each batch; while it is away, one batch in a while is tried."""
        if slot.away_since is not None and self._clock() < slot.knock_at:
            return RecordRejected("away", "output_unavailable")
        slot.knock_at = self._clock() + BEST_EFFORT_SECS + slot.pause
        try:
            await asyncio.wait_for(self._attempt(slot, batch), BEST_EFFORT_SECS)
        except RecordRejected as error:
            return error
        except TimeoutError:
            self._is_away(slot, "too slow")
        except LogclfError as error:  # whatever ails it, the others go on
            self._is_away(slot, str(error))
        else:
            return None
        slot.knock_at = self._clock() + slot.pause
        slot.pause = min(slot.pause * 2, LONGEST_PAUSE_SECS)
        return RecordRejected("away", "output_unavailable")

    def _is_away(self, slot: OutputSlot, error: str) -> None:
        slot.error = error
        kind = OutputAway if slot.required else BestEffortAway
        trouble = kind(output=slot.output.name, error=error)
        if slot.away_since is None:
            slot.away_since = self._clock()
            emit(trouble)
        else:
            trouble.count_it()  # one line when it goes away, one when it is back

    async def _attempt(self, slot: OutputSlot, batch: Batch) -> None:
        await slot.output.write(batch)
        slot.pause = FIRST_PAUSE_SECS
        if slot.away_since is not None:
            emit(OutputBack(output=slot.output.name, away_secs=round(self._clock() - slot.away_since, 1)))
            slot.away_since = slot.error = None

    async def _bury(self, batch: Batch, refusal: RecordRejected) -> None:
        """Rejected records go to the dead-letter file, with the reason; if that fails they are counted all the same."""
        if self._dead_letter is None:
            return
        try:
            await self._dead_letter.write(_remains(batch, f"{refusal.reason}: {refusal}"))
        except (OutputUnavailable, RecordRejected) as error:
            emit(DeadLetterAway(output=self._dead_letter.name, error=str(error)))


def _remains(batch: Batch, why: str) -> Batch:
    """What is buried of a batch: its records with the reason; of a chunk that is not logs its bytes as base64."""
    reason = {"logclf_rejected": raw_str(why.encode())}
    if batch.opaque is not None:
        fields = {"tag": raw_str(os.fsencode(batch.source)), "base64": raw_str(b64encode(batch.opaque))}
        return Batch(batch.source, [Record(event_time(time.time_ns()), fields | reason)])
    for record in batch.records:
        if isinstance(record, Record):
            record.fields |= reason
        else:
            record.body = sealed_with(record.body, reason)
    return batch


async def _together(*steps: Awaitable[Result]) -> list[Result]:
    """Run side by side; the first exception ends all of them."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def part_id(chunk: str | None, positions: Sequence[int]) -> str | None:
    """A chunk id for some records of a chunk: the same records get the same id after a restart, others another."""
    if chunk is None:
        return None
    bits = sum(1 << position for position in positions)
    return sha256(f"{chunk} {bits:x}".encode()).hexdigest()[:24]
