"""A look at labelled lines as they pass: filtered, at most so many a second, and never in anybody's way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

from logclf_daemon.record import Verdict

MAX_HELD = 1000  # a reader that is slow misses lines, and is told how many
MAX_LINE_BYTES = 2000


class Answered(Protocol):
    """An answer of the cascade."""

    verdict: Verdict
    template: str


class Tap:
    """Takes lines that fit from each batch, until `per_sec` are used up."""

    def __init__(
        self,
        *,
        label: str | None = None,
        stage: str | None = None,
        source: str | None = None,
        per_sec: float = 50.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._stage = stage
        self._source = source
        self._per_sec = per_sec
        self._clock = clock
        self._budget, self._at = per_sec, clock()
        self._held: deque[dict[str, Any]] = deque(maxlen=MAX_HELD)
        self._missed = 0

    def offer(self, source: str, lines: Sequence[bytes | None], answers: Sequence[Answered | None]) -> None:
        """A batch that was just labelled; None for lines that are not known yet."""
        if self._source is not None and not fnmatchcase(source, self._source):
            return
        now = self._clock()
        self._budget = min(self._per_sec, self._budget + (now - self._at) * self._per_sec)
        self._at = now
        for line, answer in zip(lines, answers, strict=True):
            if answer is None or not self._fits(answer.verdict):
                continue
            if self._budget < 1 or len(self._held) == MAX_HELD:
                self._missed += 1
                continue
            self._budget -= 1
            self._held.append(_row(source, line, answer))

    def _fits(self, verdict: Verdict) -> bool:
        return self._label in (None, verdict.label) and self._stage in (None, verdict.stage)

    def take(self) -> dict[str, Any]:
        """What was taken since the last time, and how many more lines would have fitted."""
        found: dict[str, Any] = {"lines": list(self._held), "missed": self._missed}
        self._held.clear()
        self._missed = 0
        return found


def _row(source: str, line: bytes | None, answer: Answered) -> dict[str, Any]:
    verdict = answer.verdict
    return {
        "source": source,
        "line": (line or b"")[:MAX_LINE_BYTES].decode("utf-8", "replace"),
        "label": verdict.label,
        "stage": verdict.stage,
        "confidence": verdict.rounded,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "template": answer.template,
    }
