"""How far behind reading is, in bytes and in seconds, and whether it stands still."""

from __future__ import annotations

from collections import deque

MARKS = 4096


class Lag:
    """Told now and then how much was read and how much is left; knows when the oldest unread byte appeared.

    Not for several threads, but its numbers may be read from any.
    """

    def __init__(self, now: float) -> None:
        self.unread = 0
        self._read = 0
        self._progress_at = now
        self._marks: deque[tuple[int, float]] = deque(maxlen=MARKS)  # so many bytes had appeared at that time

    def note(self, read: int, unread: int, now: float) -> None:
        """`read` bytes in all since the start, `unread` left."""
        if read != self._read or not unread:
            self._progress_at = now
        appeared, since = read + unread, now
        while self._marks and self._marks[-1][0] >= appeared:  # a file went away with its unread bytes
            since = self._marks.pop()[1]
        self._marks.append((appeared, since))
        while self._marks and self._marks[0][0] <= read:
            self._marks.popleft()
        self._read, self.unread = read, unread

    def secs(self, now: float) -> float:
        """How long the oldest unread byte has been there; 0 if all was read."""
        oldest = next(iter(self._marks), None)
        return max(0.0, now - oldest[1]) if oldest is not None and self.unread else 0.0

    def still_secs(self, now: float) -> float:
        """For how long there has been something to read and nothing was."""
        return max(0.0, now - self._progress_at) if self.unread else 0.0
