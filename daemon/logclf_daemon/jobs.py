"""Blocks labelled in other processes: same order, same labels. Each worker has a cascade of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

from logclf_daemon.build import Parts, build_parts, cascade_of, close
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config
from logclf_daemon.errors import LogclfError
from logclf_daemon.record import Question, Verdict, abstention
from logclf_daemon.stages.llm import LlmStage
from logclf_daemon.stages.verdicts import VerdictMemory
from logclf_daemon.tables.labelling import Labelled, label_block
from logclf_daemon.tables.rows import Block, Codec, TableOptions
from logclf_daemon.waiting import SlowStage

if TYPE_CHECKING:
    Left = Synchronized[int]


@dataclass(frozen=True, slots=True)
class WorkerSetting:
    """What a worker needs to label like any other."""

    config: Config
    state: Path | None
    codec: Codec
    options: TableOptions
    llm_budget: int | None = None  # questions of all workers together


class Workers:
    """A pool of processes that label blocks."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def label(self, block: Block) -> asyncio.Future[Labelled]:
        """Begin with a block."""
        bare = Block(block.payload, block.line)  # its cells cost more to send than to parse
        # The first one starts the workers. They inherit it: the parent decides, from their first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return asyncio.wrap_future(self._executor.submit(_label, bare))
        except OSError as error:  # the others were being started
            raise BrokenProcessPool(str(error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def workers(setting: WorkerSetting, jobs: int) -> Iterator[Workers]:
    """`jobs` processes, gone at the end of the block.

    Raises:
        LogclfError: A worker died.
    """
    # Not forked: the threads of numeric libraries do not survive that.
    context = multiprocessing.get_context("spawn")
    left = context.Value("q", -1 if setting.llm_budget is None else setting.llm_budget)
    executor = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(setting, left))
    try:
        yield Workers(executor)
    except BrokenProcessPool as error:
        for one in multiprocessing.active_children():
            one.kill()  # one that was being started has not been told, and would hold the pipe that all wait for
        raise LogclfError("a worker process died; is there memory for --jobs? try fewer") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class TakingTurns:
    """The LLM as one of several processes sees it: one question at a time, and none that another has had answered.

    `left` is how many questions all of them may ask, negative without a bound; its lock is the turn.
    """

    name = LlmStage.name

    def __init__(self, llm: SlowStage, memory: VerdictMemory | None, left: Left) -> None:
        self._llm = llm
        self._memory = memory
        self._left = left

    def unavailable(self) -> str | None:
        return self._llm.unavailable()

    def warm_up(self) -> None:
        self._llm.warm_up()

    def due(self) -> bool:
        return self._llm.due()

    def look(self) -> None:
        self._llm.look()

    def classify(self, questions: Sequence[Question]) -> Sequence[Verdict | None]:
        with self._left.get_lock():
            known = self._memory.classify(questions) if self._memory is not None else [None] * len(questions)
            if all(known):
                return known
            if self._left.value == 0:
                return [abstention("llm_off")] * len(questions)
            self._left.value -= self._left.value > 0
            answers = self._llm.classify(questions)
            for question, verdict in zip(questions, answers, strict=True):
                if self._memory is not None and verdict is not None and not verdict.abstained:
                    self._memory.remember(question, verdict)  # before the next one's turn
            return answers


@dataclass(slots=True)
class _Worker:
    loop: asyncio.AbstractEventLoop
    parts: Parts
    cascade: Cascade
    codec: Codec
    options: TableOptions


_WORKER: list[_Worker] = []  # of this process


def _begin(setting: WorkerSetting, left: Left) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parts = build_parts(setting.config, setting.state)
    cascade = cascade_of(parts, patient=True)
    if cascade.waiting is not None and parts.llm is not None:
        cascade.waiting.stage = TakingTurns(parts.llm, parts.memory, left)
    Finalize(None, close, args=(cascade, parts), exitpriority=10)  # atexit does not run in a worker
    _WORKER.append(_Worker(asyncio.new_event_loop(), parts, cascade, setting.codec, setting.options))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _label(block: Block) -> Labelled:
    (worker,) = _WORKER
    return worker.loop.run_until_complete(label_block(block, worker.codec, worker.cascade, worker.options))
