"""When to stop asking a server that fails, and when to try again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from logclf_daemon.events import llm_breaker

FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS = 5.0, 120.0

State = Literal["closed", "open", "half_open"]
STATES: tuple[State, ...] = ("closed", "open", "half_open")


class Breaker:
    """closed: ask; open: do not, for a growing pause; half_open: one question may go out, the probe.

    Not thread-safe: its owner holds a lock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open_until: float | None = None
        self._pause = FIRST_PAUSE_SECS
        self._tell()

    @property
    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def failed(self) -> None:
        """A question could not be answered: pause, twice as long as the last time."""
        self._open_until = self._clock() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECS)
        self._tell()

    def worked(self) -> None:
        """The server answers."""
        self._open_until, self._pause = None, FIRST_PAUSE_SECS
        self._tell()

    def _tell(self) -> None:
        for state in STATES:
            llm_breaker.labels(state).set(state == self.state)
