"""Standard fields beside a verdict: what its label means to those who speak ECS or OpenTelemetry.

Names and values are those of the Elastic Common Schema 9 and of the OpenTelemetry logs data model (its Appendix B tells
which SeverityNumber a level is). Everything is worked out once an answer, not once a record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import msgspec
from msgspec import Raw
from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.codec import encode, opened, sealed_with
from logclf_daemon.record import AnyRecord, Question, Record, Verdict

Standard = Literal["ecs", "otel"]
Level = Literal["trace", "debug", "info", "notice", "warn", "error", "critical", "alert", "fatal"]
EventKind = Literal["alert", "asset", "enrichment", "event", "metric", "state"]  # what a log line may be
Category = Literal[
    "api",
    "authentication",
    "configuration",
    "database",
    "driver",
    "email",
    "file",
    "host",
    "iam",
    "intrusion_detection",
    "library",
    "malware",
    "network",
    "package",
    "process",
    "registry",
    "session",
    "threat",
    "vulnerability",
    "web",
]
EventType = Literal[
    "access",
    "admin",
    "allowed",
    "change",
    "connection",
    "creation",
    "deletion",
    "denied",
    "device",
    "end",
    "error",
    "group",
    "indicator",
    "info",
    "installation",
    "protocol",
    "start",
    "user",
]

SEVERITIES: dict[Level, tuple[int, str]] = {
    "trace": (1, "TRACE"),
    "debug": (5, "DEBUG"),
    "info": (9, "INFO"),
    "notice": (10, "INFO2"),
    "warn": (13, "WARN"),
    "error": (17, "ERROR"),
    "critical": (18, "ERROR2"),
    "alert": (19, "ERROR3"),
    "fatal": (21, "FATAL"),
}


class Meaning(BaseModel):
    """What a label stands for in ECS and OpenTelemetry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Level = Field("info", description="`log.level` and the severity, unless the line says more.")
    kind: EventKind = Field("event", description="`event.kind`.")
    category: tuple[Category, ...] = Field((), description="`event.category`; none: the label says nothing of it.")
    type: tuple[EventType, ...] = Field((), description="`event.type`.")


# Only what a label says for sure: an Error or a System Notification may come from anywhere, so it has no category.
DEFAULT_MEANINGS: dict[str, Meaning] = {
    "HTTP Status": Meaning(level="info", category=("web",), type=("access",)),
    "Critical Error": Meaning(level="fatal", type=("error",)),
    "Security Alert": Meaning(level="error", kind="alert", category=("intrusion_detection",), type=("info",)),
    "Error": Meaning(level="error", type=("error",)),
    "System Notification": Meaning(level="info", type=("info",)),
    "Resource Usage": Meaning(level="info", category=("host",), type=("info",)),
    "User Action": Meaning(level="info", category=("session",), type=("info",)),
    "Workflow Error": Meaning(level="error", type=("error",)),
    "Deprecation Warning": Meaning(level="warn", type=("info",)),
}

_SPELLINGS: dict[Level, str] = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "notice": "notice",
    "warn": "warn warning",
    "error": "err error severe",
    "critical": "crit critical",
    "alert": "alert",
    "fatal": "fatal emerg emergency panic",
}
_WORDS = {word: level for level, words in _SPELLINGS.items() for word in words.split()}
_NAMED = frozenset(("level", "lvl", "severity", "loglevel", "log.level", "levelname"))
_AT_THE_HEAD = 5  # words: program, logger and thread may come before the level
# Words of an ordinary sentence too: only in capitals do they tell a level.
_ORDINARY = frozenset(("critical", "alert", "fatal", "panic", "severe", "trace", "emergency"))


def level_of(text: str) -> Level | None:
    """The level that the lines of a template state themselves: `level=warn`, or `ERROR` among the first words.

    Numbers and brackets are gone from a template, so `<13>` and `E1128` tell nothing here.
    """
    words = [word.strip(":-") for word in text.split(None, 24)]
    words = [word for word in words if word]
    for name, word in pairwise(words):
        if name.lower() in _NAMED and word.lower() in _WORDS:
            return _WORDS[word.lower()]
    for at, word in enumerate(words[:_AT_THE_HEAD]):
        lowered = word.lower()
        if lowered in _WORDS and (word.isupper() or (at == 0 and lowered not in _ORDINARY)):
            return _WORDS[lowered]
    return None


def _more_precise(label: Level, line: Level | None) -> Level:
    """The line's own level; but who writes lines cannot play down what was labelled as trouble."""
    if line is None or (label not in ("info", "notice") and SEVERITIES[line] < SEVERITIES[label]):
        return label
    return line


class Encoded(NamedTuple):
    """The fields of an answer, and those of them that may stand beside a line in `log`."""

    fields: dict[str, Raw]
    beside_a_line: dict[str, Raw]


class Answered(Protocol):
    """What is needed of the cascade's answers."""

    @property
    def verdict(self) -> Verdict: ...

    @property
    def question(self) -> Question | None: ...

    standard: Encoded | None


class Enrichment:
    """Adds the fields of the chosen standards. A field that a record has already stays as it is."""

    def __init__(self, standards: Collection[Standard], meanings: Mapping[str, Meaning] | None = None) -> None:
        self._standards = frozenset(standards)
        self._meanings = {**DEFAULT_MEANINGS, **(meanings or {})}
        self._encoded: dict[tuple[str, Level | None], Encoded] = {}
        names = [name for label in self._meanings for name in self.fields(label, None)]
        self._near = frozenset([*names, *(name.partition(".")[0] for name in names)])

    def fields(self, label: str, line_level: Level | None) -> dict[str, object]:
        """The fields of a label; none for a label without a meaning, such as `Unclassified`."""
        meaning = self._meanings.get(label)
        if meaning is None:
            return {}
        level = _more_precise(meaning.level, line_level)
        fields: dict[str, object] = {}
        if "ecs" in self._standards:
            fields |= {"log.level": level, "event.kind": meaning.kind}
            fields |= {"event.category": meaning.category} if meaning.category else {}
            fields |= {"event.type": meaning.type} if meaning.type else {}
        if "otel" in self._standards:
            fields |= dict(zip(("severityNumber", "severityText"), SEVERITIES[level], strict=True))
        return fields

    def add(self, records: Sequence[AnyRecord], answers: Sequence[Answered | None]) -> None:
        """Add to each record the fields of its answer."""
        near, elsewhere = self._near, self._near - {"log"}
        for record, answer in zip(records, answers, strict=True):
            if answer is None:
                continue
            standard = answer.standard
            if standard is None:
                standard = answer.standard = self._of(answer)
            if not isinstance(record, Record):
                if missing := _missing(opened(record.body), standard.fields):
                    record.body = sealed_with(record.body, missing)
            elif near.isdisjoint(record.fields):
                record.fields |= standard.fields
            elif elsewhere.isdisjoint(record.fields) and not _is_map(record.fields["log"]):
                record.fields |= standard.beside_a_line
            else:
                record.fields |= _missing(record.fields, standard.fields)

    def _of(self, answer: Answered) -> Encoded:
        key = (answer.verdict.label, level_of(answer.question.text) if answer.question is not None else None)
        found = self._encoded.get(key)
        if found is None:
            fields = {name: Raw(encode(value)) for name, value in self.fields(*key).items()}
            found = Encoded(fields, _missing({"log": _LINE}, fields))
            self._encoded[key] = found
        return found


def _missing(fields: Mapping[str, Raw], standard: Mapping[str, Raw]) -> dict[str, Raw]:
    """What may be added: not a name that is there, alone or within a map, and nothing below a plain value.

    A store that takes `log.level` for a member of `log` refuses a record whose `log` is the line.
    """
    found: dict[str, Raw] = {}
    for name, value in standard.items():
        parent, _, inner = name.partition(".")
        if name not in fields and (not inner or parent not in fields or _lacks(fields[parent], inner)):
            found[name] = value
    return found


_LINE = Raw(encode(""))
_MAP_STARTS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_MAP_NAMES = msgspec.msgpack.Decoder(dict[str, Raw])


def _is_map(value: Raw) -> bool:
    return bytes(value)[0] in _MAP_STARTS


def _lacks(value: Raw, name: str) -> bool:
    """Whether it is a map without this key."""
    if not _is_map(value):
        return False
    try:
        return name not in _MAP_NAMES.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
