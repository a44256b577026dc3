"""Chunks that came lately: one that is sent again is answered, not delivered again."""

from __future__ import annotations

from collections.abc import Callable

from logclf_daemon.record import Outcome

Told = Callable[[Outcome], None]


class Window:
    """The last `size` delivered chunks and all that are under way. Size zero: every chunk is new."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._delivered: dict[str, None] = {}
        self._under_way: dict[str, list[Told]] = {}

    def repeated(self, chunk: str, told: Told) -> bool:
        """Whether this chunk was seen before; if so `told` is called, now or later, with how it ended."""
        if chunk in self._delivered:
            told(Outcome.DELIVERED)
            return True
        waiting = self._under_way.get(chunk)
        if waiting is None:
            return False
        waiting.append(told)
        return True

    def begin(self, chunk: str, told: Told) -> Told:
        """Remember a new chunk as under way; the result is to be told its outcome, and tells all who sent it."""
        if not self._size:
            return told
        self._under_way[chunk] = [told]
        return lambda outcome: self._end(chunk, outcome)

    def _end(self, chunk: str, outcome: Outcome) -> None:
        if outcome is Outcome.DELIVERED:
            self._delivered[chunk] = None
            if len(self._delivered) > self._size:
                del self._delivered[next(iter(self._delivered))]
        for told in self._under_way.pop(chunk):
            told(outcome)


class Delivery:
    """A frame on its way in one or more batches: tells how the whole of it ended, once."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._left = 1
        self._outcome = Outcome.DELIVERED
        self._over = False

    def expect(self, batches: int) -> None:
        """So many batches will settle; none at all is delivered already."""
        self._left = batches
        if not batches:
            self._end()

    def settle(self, outcome: Outcome) -> None:
        """One of the batches ended."""
        if outcome is not Outcome.DELIVERED:
            self._outcome = outcome
        self._left -= 1
        if self._left == 0:
            self._end()

    def abandon(self) -> None:
        """The rest of the batches will never be emitted."""
        self._outcome = Outcome.RETURNED
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._told(self._outcome)
