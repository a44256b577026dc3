"""The waiting room: only records that need the LLM wait, bounded in time and number.

One question a template is under way at a time, whoever asks; a question goes on when its records have left, so that
the next such line is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from logclf_daemon.errors import StageError
from logclf_daemon.events import Bug, StageFailed, emit, stage_seconds
from logclf_daemon.loose import LooseThreads
from logclf_daemon.protocols import Stage
from logclf_daemon.record import Question, Verdict, abstention

RETRY_SECS = 60.0  # a template the LLM could not label is not asked again before
MAX_REMEMBERED_FAILURES = 4096


class SlowStage(Stage, Protocol):
    """A stage that may take seconds, and knows when asking is useless."""

    def unavailable(self) -> str | None:
        """Why a question would not be answered now (`llm_unavailable`, …), or None. Must not block."""


class WaitingRoom:
    """Asks a slow stage in the background, one flight a template.

    `max_waiting` bounds the records that wait, `max_questions` the questions queued, `wait_secs` how long a record
    waits. `remember` is told each answer (verdict memory). `renews` says whether provisional verdicts are asked again.
    All methods belong to one event loop; the stage runs in threads.
    """

    def __init__(
        self,
        stage: SlowStage,
        *,
        wait_secs: float = 10.0,
        max_waiting: int = 1000,
        max_questions: int = 1000,
        concurrency: int = 1,
        renews: bool = True,
        remember: Callable[[Question, Verdict], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = stage
        self.renews = renews
        self._wait_secs = wait_secs
        self._max_waiting = max_waiting
        self._max_questions = max_questions
        self._remember = remember
        self._clock = clock
        self._flights: dict[tuple[str, str], asyncio.Future[Verdict]] = {}
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._executor = LooseThreads(concurrency, "llm")
        self.waiting = 0

    @property
    def questions(self) -> int:
        """Questions queued or under way."""
        return len(self._flights)

    def ask(self, question: Question, records: int) -> Verdict | asyncio.Future[Verdict]:
        """A future answer, or at once the abstention that says why there will be none now."""
        flight = (question.template, question.source)
        future = self._flights.get(flight)
        if future is None:
            reason = self.stage.unavailable() or self._failed_lately(flight)
            if reason is None and len(self._flights) >= self._max_questions:
                reason = "llm_busy"
            if reason is not None:
                return abstention(reason)
            future = self._start(flight, question)
        if self.waiting + records > self._max_waiting:
            return abstention("llm_busy")
        self.waiting += records
        return future

    def _failed_lately(self, flight: tuple[str, str]) -> str | None:
        until, reason = self._failed.get(flight, (0.0, ""))
        return reason if self._clock() < until else None

    def _start(self, flight: tuple[str, str], question: Question) -> asyncio.Future[Verdict]:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, self._answer, question)
        self._flights[flight] = future
        future.add_done_callback(lambda done: self._landed(flight, done))
        return future

    def _answer(self, question: Question) -> Verdict:
        """In a worker thread. Never raises: a stage cannot lose a record."""
        if (reason := self.stage.unavailable()) is not None:
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
        if self._remember is not None and not verdict.abstained:
            self._remember(question, verdict)
        return verdict

    def _landed(self, flight: tuple[str, str], done: asyncio.Future[Verdict]) -> None:
        self._flights.pop(flight, None)
        if done.cancelled() or done.exception() is not None or not done.result().abstained:
            return
        if done.result().reason in ("llm_unavailable", "llm_busy"):
            return  # not the template's fault: the stage itself says when to ask again
        if len(self._failed) >= MAX_REMEMBERED_FAILURES:
            self._failed.clear()
        self._failed[flight] = (self._clock() + RETRY_SECS, done.result().reason or "stage_failed")

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
        self._executor.shutdown(wait=False, cancel_futures=True)
