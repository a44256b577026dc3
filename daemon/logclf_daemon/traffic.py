"""What came by lately: each template with its counts over time, one line of it and the verdict it got last.

Flat memory: templates not met for long are forgotten.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol
from weakref import WeakSet

from prometheus_client import Counter as Counted

from logclf_daemon.cache import TwoGenerations
from logclf_daemon.events import templates_new
from logclf_daemon.metrics import before_collecting
from logclf_daemon.record import Question, Verdict

LIMIT = 4096  # up to twice as many templates are known, about a kilobyte each
MINUTES = 60
EXAMPLE_BYTES = 1000
SETTLE_SECS = 5.0
MAX_PENDING = 8192  # distinct answers
FEW = 512  # distinct answers, entered in under a millisecond


class Seen:
    """One template of one class of sources."""

    __slots__ = (
        "_counts",
        "_minute",
        "count",
        "example",
        "first_at",
        "last_at",
        "masked",
        "source",
        "template",
        "text",
        "turn",
        "verdict",
    )

    def __init__(self, question: Question, verdict: Verdict, now: float) -> None:
        self.template = question.template
        self.source = question.source
        self.text = question.text[:EXAMPLE_BYTES]
        self.example = question.example[:EXAMPLE_BYTES]
        self.masked: tuple[str, str] | None = None  # text and example for people: worked out when they are looked at
        self.verdict = verdict
        self.count = 0
        self.first_at = self.last_at = now
        self.turn = -1
        self._minute = int(now // 60)
        self._counts = array("L", bytes(8 * MINUTES))

    def add(self, count: int, now: float) -> None:
        """So many more lines of it."""
        minute = int(now // 60)
        if minute != self._minute:
            self._turn_to(minute)
        self._counts[minute % MINUTES] += count
        self.count += count
        self.last_at = now

    def minutes(self, now: float) -> list[int]:
        """Lines a minute in the last hour, the present minute last."""
        minute = int(now // 60)
        if minute != self._minute:
            self._turn_to(minute)
        start = (minute + 1) % MINUTES
        return [*self._counts[start:], *self._counts[:start]]

    def _turn_to(self, minute: int) -> None:
        for passed in range(max(self._minute + 1, minute - MINUTES + 1), minute + 1):
            self._counts[passed % MINUTES] = 0
        self._minute = max(minute, self._minute)


class Answered(Protocol):
    """An answer of the cascade: what all records of a template get. `seen` is for the traffic's own use."""

    verdict: Verdict
    question: Question | None
    series: Counted
    seen: Seen | None


class Traffic:
    """The templates met lately, and the count of verdicts. Belongs to the loop that classifies.

    A batch only adds to one dict, in C; what it means is worked out every few seconds, a part with each batch, or when
    somebody looks.
    """

    def __init__(self, limit: int = LIMIT, clock: Callable[[], float] = time.time) -> None:
        self._known: TwoGenerations[tuple[str, str], Seen] = TwoGenerations(limit)
        self._clock = clock
        self._turn = 0  # goes up when the older half is forgotten: then an answer's pointer is looked up anew
        self._pending: Counter[Answered | None] = Counter()
        self._counted: deque[tuple[Answered | None, int]] = deque()  # their verdicts are, their templates wait
        self._pending_since = self._last_at = clock()
        self._used: Counter[tuple[str, str]] = Counter()
        _ALIVE.add(self)

    def __len__(self) -> int:
        self.settle()
        return len(self._known)

    def __del__(self) -> None:
        self.settle()  # the verdicts are counted for good, also those of a cascade nobody needs any more

    def add(self, answers: Iterable[Answered | None]) -> None:
        """The answers of a batch, one for each line; None for those that are not known yet."""
        now = self._clock()
        if not self._pending:
            self._pending_since = now
        elif now - self._pending_since > SETTLE_SECS or len(self._pending) > MAX_PENDING:
            self._count()
            self._pending_since = now
        if self._counted:
            self._enter(max(FEW, len(self._counted) // 4))
        self._last_at = now
        self._pending.update(answers)

    def count(self) -> None:
        """Count the verdicts of what was added; if it is much, leave its templates for later.

        At full load those take longer than all else that a scrape asks for.
        """
        if len(self._pending) + len(self._counted) <= FEW:
            self.settle()
        else:
            self._count()

    def settle(self) -> None:
        """Work out what was added."""
        self._count()
        self._enter(len(self._counted))

    def _count(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, Counter()
        self._counted.extend(pending.items())
        series: dict[Counted, int] = {}
        for answer, count in pending.items():
            if answer is not None:
                series[answer.series] = series.get(answer.series, 0) + count
        for one, count in series.items():
            one.inc(count)

    def _enter(self, at_most: int) -> None:
        """The templates of so many of those whose verdicts are counted."""
        for _ in range(min(at_most, len(self._counted))):
            answer, count = self._counted.popleft()
            if answer is None:
                continue
            seen = answer.seen
            if seen is None or seen.turn != self._turn:
                if answer.question is None:
                    continue  # no message: there is nothing to know
                seen = answer.seen = self._entry(answer.question, answer.verdict, self._last_at)
            seen.verdict = answer.verdict
            if answer.verdict.stage == "llm":
                self._used[seen.template, seen.source] += count
            seen.add(count, self._last_at)
        if len(self._known.young) >= self._known.limit:
            self._known.trim()
            self._turn += 1

    def take_used(self) -> Mapping[tuple[str, str], int]:
        """How many records each verdict of the LLM or a person answered since this was last asked, once settled."""
        self.count()
        used, self._used = self._used, Counter()
        return used

    def _entry(self, question: Question, verdict: Verdict, now: float) -> Seen:
        key = (question.template, question.source)
        seen = self._known.find(key)
        if seen is None:
            seen = self._known.young[key] = Seen(question, verdict, now)
            templates_new.inc()
        seen.turn = self._turn
        return seen

    def find(self, template: str, source: str | None = None) -> Seen | None:
        """A template; of any class of sources if none is named."""
        if source is not None:
            self.settle()
            return self._known.find((template, source))
        return next((seen for seen in self.all() if seen.template == template), None)

    def all(self) -> list[Seen]:
        """Every template known, in no order."""
        self.settle()
        return self._known.values()


_ALIVE: WeakSet[Traffic] = WeakSet()


def _count_all() -> None:
    for traffic in list(_ALIVE):
        traffic.count()


before_collecting(_count_all)
