"""What repeats is told seldom: at most once in a while for each key, then how often it came meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MAX_KEYS = 1000

Item = TypeVar("Item")


class Alarm(Protocol):
    """Something that was put off; `threading.Timer` is one."""

    def cancel(self) -> None:
        """It shall not happen any more."""


def later(secs: float, call: Callable[[], None]) -> Alarm:
    """Call it then, in a thread that holds up no exit.

    Raises:
        RuntimeError: No thread can be started now.
    """
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started now")  # Python 3.11 would wait for it for ever
    timer = threading.Timer(secs, call)
    timer.daemon = True
    timer.start()
    return timer


@dataclass(slots=True)
class _Told(Generic[Item]):
    """When one of this key was told last, how many were held back since, and the newest of them."""

    at: float
    held: int = 0
    newest: Item | None = None
    newest_at: float = 0.0


class Limiter(Generic[Item]):
    """At most one item for each key in `quiet_secs`; what is held back is told at the end of that time.

    `tell` gets the newest, how many others it stands for, and how many seconds ago it was.
    """

    def __init__(
        self,
        tell: Callable[[Item, int, float], None],
        quiet_secs: float,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Alarm] = later,
    ) -> None:
        self._tell = tell
        self._quiet_secs = quiet_secs
        self._clock = clock
        self._later = later
        self._told: dict[Hashable, _Told[Item]] = {}
        self._alarm: Alarm | None = None
        self._lock = threading.Lock()

    def held_back(self, key: Hashable, item: Item) -> int | None:
        """How many of this key were held back since the last, or None: hold this one back too."""
        with self._lock:
            now, told = self._clock(), self._told.get(key)
            if told is None:
                if len(self._told) > MAX_KEYS:
                    self._told = {key: told for key, told in self._told.items() if told.held}
                self._told[key] = _Told(now)
                return 0
            if now - told.at < self._quiet_secs:
                told.held, told.newest, told.newest_at = told.held + 1, item, now
                self._set_alarm(now)
                return None
            held, told.at, told.held, told.newest = told.held, now, 0, None
            return held

    def flush(self) -> None:
        """Tell all that was held back."""
        self._flush(0.0)

    def _flush(self, quiet_secs: float) -> None:
        due: list[tuple[Item, int, float]] = []
        with self._lock:
            now, self._alarm = self._clock(), None
            for told in self._told.values():
                if told.newest is not None and now - told.at >= quiet_secs:
                    due.append((told.newest, told.held - 1, now - told.newest_at))
                    told.at, told.held, told.newest = now, 0, None
            self._set_alarm(now)
        for item, held, ago in due:
            self._tell(item, held, ago)

    def _set_alarm(self, now: float) -> None:
        waiting = [told.at for told in self._told.values() if told.held]
        if waiting and self._alarm is None:
            # RuntimeError: no thread can be started now. Then the next of a key tells of the others.
            with suppress(RuntimeError):
                secs = max(0.0, min(waiting) + self._quiet_secs - now)
                self._alarm = self._later(secs, lambda: self._flush(self._quiet_secs))

    def close(self) -> None:
        """Tell nothing more."""
        with self._lock:
            self._told.clear()
            if self._alarm is not None:
                self._alarm.cancel()
