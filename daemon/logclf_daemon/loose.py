"""Threads for calls that may never end: nobody waits for them when the process does."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_Calls = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class LooseThreads(Executor):
    """Like a thread pool, but a thread that hangs (in a full pipe, at a dead server) never holds up the exit.

    The interpreter joins the threads of `ThreadPoolExecutor` before it ends, whatever `shutdown` was told.
    """

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        self._calls: _Calls = SimpleQueue()
        self._max_workers = max_workers
        self._name = thread_name_prefix
        self._threads: list[threading.Thread] = []
        self._over = False
        weakref.finalize(self, _end, self._calls, self._threads).atexit = False

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        if self._over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Result] = Future()
        self._calls.put((future, partial(fn, *args, **kwargs)))
        if len(self._threads) < self._max_workers:
            thread = threading.Thread(target=_work, args=(self._calls,), name=f"{self._name}_{len(self._threads)}")
            thread.daemon = True
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those queued are still made, or dropped with `cancel_futures`."""
        self._over = True
        if cancel_futures:
            while not self._calls.empty():
                if (item := self._calls.get()) is not None:
                    item[0].cancel()
        _end(self._calls, self._threads)
        if wait:
            for thread in self._threads:
                thread.join()


def _work(calls: _Calls) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del item, future, call  # nothing is kept alive while it waits


def _end(calls: _Calls, threads: list[threading.Thread]) -> None:
    for _ in threads:
        calls.put(None)
