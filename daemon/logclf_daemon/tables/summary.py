"""What a table held: counts by label and stage, and the details its report shows. Flat in memory; parts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from logclf_daemon.generation import Answer
from logclf_daemon.record import UNCLASSIFIED
from logclf_daemon.tables.rows import Rows

NAMED_MEMBERS = 20
NAMED_ROWS = 1000  # bad rows whose line numbers are kept
MAX_TEMPLATES = 20_000
LEAST_CERTAIN = 20
MAX_TIMES = 2000
RESOLUTIONS = (16, 13, 10, 7)  # letters of an ISO time: minute, hour, day, month
SHOWN_LETTERS = 300


@dataclass(slots=True)
class Template:
    """Lines of one form that got one label."""

    label: str
    stage: str
    confidence: float | None
    count: int
    line: int  # where it came first
    source: str
    example: str


@dataclass(slots=True)
class Details:
    """What the report shows. Rare templates are forgotten when there are too many; times grow coarser."""

    templates: dict[str, Template] = field(default_factory=dict)
    uncertain: dict[str, Template] = field(default_factory=dict)
    times: dict[str, dict[str, int]] = field(default_factory=dict)
    letters: int = RESOLUTIONS[0]

    def add(self, rows: Rows, answers: Sequence[Answer | None], counts: Counter[Answer | None]) -> None:
        """Count a block."""
        first = dict(zip(reversed(answers), range(len(answers) - 1, -1, -1), strict=True))
        for answer, count in counts.items():
            if answer is not None:
                self._add_template(_template(answer, count, rows, first[answer]), answer.template)
        if rows.times is not None:
            moments = [time[:16] if time[4:5] in (b"-", b"/") else time for time in rows.times]
            for (moment, answer), count in Counter(zip(moments, answers, strict=True)).items():
                minute = minute_of(moment)
                if answer is not None and minute is not None:
                    labels = self.times.setdefault(minute[: self.letters], {})
                    labels[answer.verdict.label] = labels.get(answer.verdict.label, 0) + count
        self._trim()

    def _add_template(self, new: Template, template: str) -> None:
        key = f"{template} {new.label}"
        known = self.templates.get(key)
        if known is not None:
            known.count += new.count
        else:
            self.templates[key] = new
        if new.stage != "rules" and new.confidence:
            self.uncertain.setdefault(key, new)

    def _trim(self) -> None:
        if len(self.templates) > MAX_TEMPLATES:
            frequent = sorted(self.templates.items(), key=lambda item: (-item[1].count, item[0]))
            self.templates = dict(frequent[: MAX_TEMPLATES // 2])
        if len(self.uncertain) > LEAST_CERTAIN * 50:
            self.uncertain = dict(self.least_certain())
        while len(self.times) > MAX_TIMES and self.letters > RESOLUTIONS[-1]:
            self._coarser(RESOLUTIONS[RESOLUTIONS.index(self.letters) + 1])

    def _coarser(self, letters: int) -> None:
        before, self.times, self.letters = self.times, {}, letters
        for moment, labels in before.items():
            _add_up(self.times.setdefault(moment[:letters], {}), labels)

    def least_certain(self) -> list[tuple[str, Template]]:
        """The answers to trust least, each template once."""
        ordered = sorted(self.uncertain.items(), key=lambda item: (item[1].confidence or 0.0, item[1].line, item[0]))
        return ordered[:LEAST_CERTAIN]

    def merge(self, other: Details) -> None:
        """Add what comes after."""
        letters = min(self.letters, other.letters)
        for details in (self, other):
            if details.letters > letters:
                details._coarser(letters)
        for moment, labels in other.times.items():
            _add_up(self.times.setdefault(moment, {}), labels)
        for key, template in other.templates.items():
            self._add_template(template, key.split()[0])
        self.uncertain = other.uncertain | self.uncertain
        self._trim()


@dataclass(slots=True)
class Summary:
    """What the table held, by label and stage."""

    rows: int = 0
    unclassified: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    odd_rows: list[int] = field(default_factory=list)  # line numbers of the first bad rows
    odd_count: int = 0
    lost: list[str] = field(default_factory=list)  # the first names of members that were left out
    details: Details | None = None

    def add(self, rows: Rows, answers: Sequence[Answer | None]) -> None:
        """Count a block."""
        counts = Counter(answers)
        labels: dict[str, int] = {}
        stages: dict[str, int] = {}
        for answer, count in counts.items():  # hundreds in a block
            if answer is not None:
                verdict = answer.verdict
                labels[verdict.label] = labels.get(verdict.label, 0) + count
                stages[verdict.stage] = stages.get(verdict.stage, 0) + count
        self.labels.update(labels)
        self.stages.update(stages)
        self.rows += sum(labels.values())
        self.unclassified += labels.get(UNCLASSIFIED, 0)
        if rows.bad:
            self.odd_count += len(rows.bad)
            self.odd_rows += sorted(rows.lines[at] for at in rows.bad)[: NAMED_ROWS - len(self.odd_rows)]
        if self.details is not None:
            self.details.add(rows, answers, counts)

    def note_lost(self, names: Collection[str]) -> None:
        """Remember the names of members that have no column."""
        if len(self.lost) < NAMED_MEMBERS:
            new = {name[:SHOWN_LETTERS] for name in names} - set(self.lost)
            self.lost += sorted(new)[: NAMED_MEMBERS - len(self.lost)]

    def merge(self, other: Summary) -> None:
        """Add what comes after."""
        self.note_lost(other.lost)
        self.rows += other.rows
        self.unclassified += other.unclassified
        self.labels.update(other.labels)
        self.stages.update(other.stages)
        self.odd_rows += other.odd_rows[: NAMED_ROWS - len(self.odd_rows)]
        self.odd_count += other.odd_count
        if self.details is not None and other.details is not None:
            self.details.merge(other.details)

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        state: dict[str, Any] = {
            name: getattr(self, name) for name in ("rows", "unclassified", "odd_rows", "odd_count", "lost")
        }
        counted = {"labels": dict(self.labels), "stages": dict(self.stages)}
        return state | counted | {"details": None if self.details is None else asdict(self.details)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Summary:
        """What `as_json` gave."""
        details = state["details"]
        if details is not None:
            for kept in ("templates", "uncertain"):
                details[kept] = {key: Template(**template) for key, template in details[kept].items()}
            details = Details(**details)
        counted = {name: Counter(state[name]) for name in ("labels", "stages")}
        return cls(**{**state, **counted, "details": details})


def _template(answer: Answer, count: int, rows: Rows, at: int) -> Template:
    verdict = answer.verdict
    message = rows.messages[at] or b""
    return Template(
        verdict.label,
        verdict.stage,
        verdict.confidence,
        count,
        rows.lines[at],
        rows.sources[at][:100].decode("utf-8", "replace"),
        message[: SHOWN_LETTERS * 4].decode("utf-8", "replace")[:SHOWN_LETTERS],
    )


def _add_up(labels: dict[str, int], more: dict[str, int]) -> None:
    for label, count in more.items():
        labels[label] = labels.get(label, 0) + count


_FORMATS = ("%Y/%m/%d %H:%M", "%Y/%m/%d", "%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y:%H:%M:%S", "%d.%m.%Y %H:%M:%S")


@lru_cache(maxsize=65536)
def minute_of(moment: bytes) -> str | None:
    """The minute of a time as ISO text, in the zone it is written in; None for what is no time."""
    text = moment.decode("ascii", "replace").strip('"[] ')
    for read in _READERS:
        try:
            return read(text).isoformat()[:16]
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _formatted(form: str, text: str) -> datetime:
    return datetime.strptime(text, form)


def _epoch(text: str) -> datetime:
    """Seconds, or thousandths of them and so on: whatever gives a year before 5000."""
    if not 9 <= len(text) <= 30 or not text.replace(".", "", 1).isdigit():
        raise ValueError(text)
    number = float(text)
    while number > 1e11:
        number /= 1000
    return datetime.fromtimestamp(number, UTC).replace(tzinfo=None)


_READERS: tuple[Callable[[str], datetime], ...] = (_epoch, _iso, *(partial(_formatted, form) for form in _FORMATS))
