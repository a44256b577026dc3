"""Acknowledgements that come in any order, positions that move in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class _Range:
    end: int
    settled: bool = False


class Watermark:
    """The position up to which everything is safe, without a gap.

    `issue(end)` is called in reading order with the position after each batch; `settle(token)` in any order.
    """

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self._open: deque[_Range] = deque()

    def issue(self, end: int) -> _Range:
        """Remember a batch that ends at `end`; the token settles it."""
        issued = _Range(end)
        self._open.append(issued)
        return issued

    def settle(self, token: _Range) -> bool:
        """Mark a batch as safe. True if the position moved."""
        token.settled = True
        before = self.position
        while self._open and self._open[0].settled:
            self.position = self._open.popleft().end
        return self.position != before

    @property
    def in_flight(self) -> int:
        """How many batches are not yet safe, or wait for an earlier one."""
        return len(self._open)
