"""The waiting room: only records that need the LLM wait, bounded in time and number.

One question a template is under way at a time, whoever asks; a question goes on when its records have left, so that
the next such line is answered. Sources take turns: one that floods the queue holds up the others by one question.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from logclf_daemon.errors import StageError
from logclf_daemon.events import Bug, StageFailed, emit, stage_seconds
from logclf_daemon.loose import LooseThreads
from logclf_daemon.protocols import Stage
from logclf_daemon.record import Question, Verdict, abstention

# A template the LLM could not label is asked again after a minute, then after two, …
RETRY_SECS, LONGEST_RETRY_SECS = 60.0, 6 * 3600.0
MAX_REMEMBERED_FAILURES = 4096
LOOK_AGAIN_SECS = 1.0  # how often it is asked whether a look is due; the stage has its own, slower pace
PATIENCE_SECS, LOOK_SECS = 120.0, 0.25  # where records wait as long as it takes, for a server that answered before


class SlowStage(Stage, Protocol):
    """A stage that may take seconds, and knows when asking is useless."""

    def unavailable(self) -> str | None:
        """Why a question would not be answered now (`llm_unavailable`, …), or None. Must not block."""

    def warm_up(self) -> None:
        """Prepare for the first question; may take long."""

    def due(self) -> bool:
        """Whether nobody knows how it is by now: it failed and had its pause, or was not asked for long.

        Must not block.
        """

    def look(self) -> None:
        """Find out how it is, where nobody asks; may take long."""


class _Flight:
    """A question queued or under way, and the future of all who asked it."""

    __slots__ = ("future", "question", "wanted")

    def __init__(self, question: Question, wanted: bool) -> None:
        self.question = question
        self.wanted = wanted  # some record waited for it; else it only renews what is known
        self.future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()


class _Queue:
    """Questions by source, taken in turns; those no record ever waited for come last."""

    def __init__(self) -> None:
        self._sources: dict[str, deque[_Flight]] = {}
        self._renewals: deque[_Flight] = deque()

    def put(self, flight: _Flight) -> None:
        if flight.wanted:
            self._sources.setdefault(flight.question.source, deque()).append(flight)
        else:
            self._renewals.append(flight)

    def promote(self, flight: _Flight) -> None:
        """A record waits for it now."""
        if not flight.wanted and flight in self._renewals:
            self._renewals.remove(flight)
            flight.wanted = True
            self.put(flight)

    def take(self) -> _Flight | None:
        """The next one: of the source that was served longest ago."""
        if not self._sources:
            return self._renewals.popleft() if self._renewals else None
        source, flights = next(iter(self._sources.items()))
        del self._sources[source]
        flight = flights.popleft()
        if flights:
            self._sources[source] = flights  # to the end of the row
        return flight

    def displace(self, source: str) -> _Flight | None:
        """Make room for a question of `source`: a renewal, or the newest of a source that has more than it."""
        if self._renewals:
            return self._renewals.pop()
        longest = max(self._sources, key=lambda name: len(self._sources[name]), default=source)
        if len(self._sources.get(longest, ())) <= len(self._sources.get(source, ())) + 1:
            return None
        return self._sources[longest].pop()


class WaitingRoom:
    """Asks a slow stage in the background, one flight a template.

    `max_waiting` bounds the records that wait, `max_questions` the questions queued, `wait_secs` how long a record
    waits (None: as long as it takes), `budget` the questions in all. `remember` is told each answer (verdict memory).
    `renews` says whether provisional verdicts are asked again.
    All methods belong to one event loop; the stage runs in threads.
    """

    def __init__(
        self,
        stage: SlowStage,
        *,
        wait_secs: float | None = 10.0,
        max_waiting: int = 1000,
        max_questions: int = 1000,
        concurrency: int = 1,
        budget: int | None = None,
        renews: bool = True,
        remember: Callable[[Question, Verdict], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = stage
        self.renews = renews
        self.budget = budget
        self._wait_secs = wait_secs
        self._max_waiting = max_waiting
        self._max_questions = max_questions
        self._concurrency = concurrency
        self._remember = remember
        self._clock = clock
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._queue = _Queue()
        self._running = 0
        self._closed = False
        self._over = threading.Event()
        self._worked = False
        self._failed: dict[tuple[str, str], tuple[float, float, str]] = {}
        self._executor = LooseThreads(concurrency, "llm")
        self._looking: Future[None] | None = None
        self.waiting = 0

    @property
    def questions(self) -> int:
        """Questions queued or under way."""
        return len(self._flights)

    def warm_up(self) -> None:
        """Prepare the stage in the background; questions come after it."""
        self._looking = self._executor.submit(self._beside, self.stage.warm_up)

    def look_again(self) -> None:
        """Have the stage looked at in the background if that is due, one look at a time."""
        looks = self._looking is not None and not self._looking.done()
        if not looks and not self._closed and self.stage.due():
            self._looking = self._executor.submit(self._beside, self.stage.look)

    def _beside(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            emit(Bug(where=f"stage {self.stage.name}", error=repr(error)))

    def ask(self, question: Question, records: int) -> Verdict | asyncio.Future[Verdict]:
        """A future answer, or at once the abstention that says why there will be none now.

        Without records it is a renewal: it comes after the questions that records wait for.
        """
        key = (question.template, question.source)
        flight = self._flights.get(key)
        if flight is None:
            reason = self._no_use_asking() or self._failed_lately(key) or self._refused(question)
            if reason is not None:
                return abstention(reason)
            flight = self._start(key, question, wanted=records > 0)
        elif records:
            self._queue.promote(flight)
        if self.waiting + records > self._max_waiting:
            return abstention("llm_busy")
        self.waiting += records
        return flight.future

    @property
    def _patient(self) -> bool:
        return self._wait_secs is None

    def _no_use_asking(self) -> str | None:
        reason = self._unavailable()
        return None if self._patient and self._worked else reason

    def _unavailable(self) -> str | None:
        reason = self.stage.unavailable()
        return None if reason == "llm_busy" and self._patient else reason

    def _failed_lately(self, key: tuple[str, str]) -> str | None:
        until, _, reason = self._failed.get(key, (0.0, 0.0, ""))
        return reason if self._clock() < until else None

    def _refused(self, question: Question) -> str | None:
        """Why there is no place in the queue, or no question left in the budget."""
        if self.budget is not None and self.budget <= 0:
            return "llm_off"
        if len(self._flights) < self._max_questions:
            return None
        displaced = self._queue.displace(question.source)
        if displaced is None:
            return "llm_busy"
        self._land(displaced, abstention("llm_busy"))
        return None

    def _start(self, key: tuple[str, str], question: Question, *, wanted: bool) -> _Flight:
        if self.budget is not None:
            self.budget -= 1
        flight = self._flights[key] = _Flight(question, wanted)
        self._queue.put(flight)
        self._next()
        return flight

    def _next(self) -> None:
        while not self._closed and self._running < self._concurrency and (flight := self._queue.take()) is not None:
            self._running += 1
            answer = self._patiently if self._patient else self._answer
            asked = asyncio.get_running_loop().run_in_executor(self._executor, answer, flight.question)
            asked.add_done_callback(lambda done, flight=flight: self._answered(flight, done))  # type: ignore[misc]

    def _answered(self, flight: _Flight, done: asyncio.Future[Verdict]) -> None:
        self._running -= 1
        self._land(flight, abstention("llm_unavailable") if done.cancelled() else done.result())
        self._next()

    def _patiently(self, question: Question) -> Verdict:
        """As `_answer`; a server that answered before may go away for a while, once: its failure is waited out."""
        ends = self._clock() + PATIENCE_SECS
        while (verdict := self._answer(question)).reason == "llm_unavailable" and self._worked:
            if self._clock() >= ends or self._over.wait(LOOK_SECS):
                self._worked = False
        return verdict

    def _answer(self, question: Question) -> Verdict:
        """In a worker thread. Never raises: a stage cannot lose a record."""
        if (reason := self._unavailable()) is not None:
            return abstention(reason)  # it failed while this question was queued
        try:
            with stage_seconds.labels(self.stage.name).time():
                (verdict,) = self.stage.classify([question])
        except StageError as error:
            emit(StageFailed(stage=self.stage.name, error=str(error)))
            return abstention("stage_failed")
        except Exception as error:
            emit(Bug(where=f"stage {self.stage.name}", error=repr(error)))
            return abstention("stage_failed")
        verdict = verdict or abstention("low_confidence")
        self._worked = self._worked or not verdict.abstained
        if self._remember is not None and not verdict.abstained:
            try:
                self._remember(question, verdict)
            except Exception as error:  # the answer counts all the same
                emit(Bug(where="stage verdicts", error=repr(error)))
        return verdict

    def _land(self, flight: _Flight, verdict: Verdict) -> None:
        key = (flight.question.template, flight.question.source)
        if not flight.future.done():
            flight.future.set_result(verdict)
        if verdict.abstained:
            self._flights.pop(key, None)
        else:
            # After those who asked were told: a line that comes in between must find the answer in one of both places.
            flight.future.get_loop().call_soon(self._flights.pop, key, None)
        # What is not the template's fault may be asked again at once: the stage itself says when.
        if verdict.abstained and verdict.reason not in ("llm_unavailable", "llm_busy"):
            self._failed_now(key, verdict.reason or "stage_failed")
        else:
            self._failed.pop(key, None)

    def _failed_now(self, key: tuple[str, str], reason: str) -> None:
        _, pause, _ = self._failed.pop(key, (0.0, RETRY_SECS / 2, ""))
        if len(self._failed) >= MAX_REMEMBERED_FAILURES:
            del self._failed[next(iter(self._failed))]
        pause = min(2 * pause, LONGEST_RETRY_SECS)
        self._failed[key] = (self._clock() + pause, pause, reason)

    async def collect(self, flights: Sequence[tuple[asyncio.Future[Verdict], int]]) -> list[Verdict]:
        """The answers of these futures, `llm_timeout` for those that do not come within `wait_secs`."""
        try:
            await asyncio.wait({future for future, _ in flights}, timeout=self._wait_secs)
        finally:
            self.waiting -= sum(records for _, records in flights)
        return [
            future.result() if future.done() and not future.cancelled() else abstention("llm_timeout")
            for future, _ in flights
        ]

    def close(self) -> None:
        """Drop the queue; a question under way is abandoned with its thread."""
        self._closed = True
        self._over.set()
        while (flight := self._queue.take()) is not None:
            if not flight.future.get_loop().is_closed():
                flight.future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)


async def look_after(room: Callable[[], WaitingRoom | None]) -> None:
    """For ever: what is said of the slow stage of the room of the moment is true, also where nobody asks it."""
    while True:
        await asyncio.sleep(LOOK_AGAIN_SECS)
        if (current := room()) is not None:
            current.look_again()
