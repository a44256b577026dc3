"""The line on a terminal that says how far a long command is, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

EVERY_SECS = 0.2


class Progress:
    """Told rows after each block. `position` says how much of the file was read; `size` 0: nobody knows."""

    def __init__(
        self,
        size: int,
        position: Callable[[], int],
        *,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = size
        self._position = position
        self._stream = stream
        self._clock = clock
        self._started = self._told = clock()
        self._first: tuple[int, int] | None = None
        self._width = 0

    def tell(self, rows: int, _done: int) -> None:
        """Rewrite the line, a few times a second."""
        now = self._clock()
        if self._first is None:
            # An interrupted run taken up again starts in the middle: what it did before says nothing of its rate.
            self._first = (rows, self._position())
        if now - self._told < EVERY_SECS:
            return
        self._told = now
        self._write(f"classifying {line_of(rows, self._position(), self._size, self._first, now - self._started)}")

    def close(self) -> None:
        """Take the line away."""
        if self._width:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


def line_of(rows: int, position: int, size: int, first: tuple[int, int], secs: float) -> str:
    """Share, rows, rate and time left."""
    rate = (rows - first[0]) / secs if secs > 0 else 0.0
    words = [f"{rows:,} rows", f"{rate:,.0f} rows/s"]
    read = position - first[1]
    if size and read > 0:
        left = secs * (size - position) / read
        words = [f"{position / size:4.0%}", *words, f"{_clock_time(left)} left"]
    return "  ".join(words)


def _clock_time(secs: float) -> str:
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
