"""Remembered verdicts: what the LLM (or a person) said of a template, kept in SQLite.

A verdict belongs to a template, a class of sources and what was asked (model, labels, prompt). An answer to an older
question counts until the new one is there; a person's word counts for ever. A damaged `cache.db` is set aside and the
questions are asked again; one that was taken away or replaced under a running daemon is opened again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from logclf_daemon.errors import BadInput, ServiceUnavailable, StageError
from logclf_daemon.events import StateTrouble, cache_hits, cache_misses, emit
from logclf_daemon.masking import masked
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages._verdicts import database
from logclf_daemon.taxonomy import Taxonomy

FILE_NAME = "cache.db"
MAX_BYTES = 256 << 20
MAX_VERDICTS = 100_000
MAX_AGE_SECS = 90 * 86400.0  # since its template was last seen
HUMAN, LLM = "human", "llm"
_MANY = 200  # questions a statement
_TEXT_CHARS, _EXAMPLE_CHARS = 800, 500
_PRUNE_EVERY = 1000  # new verdicts


@dataclass(frozen=True, slots=True)
class Remembered:
    """A verdict as it is kept. `asked` and `model` are empty for a person's word; times are seconds since 1970.

    `confidence` is None where the LLM's server told no probabilities.
    """

    template: str
    source: str
    label: str
    confidence: float | None
    origin: str
    model: str
    asked: str
    text: str
    example: str
    created: int
    last_seen: int
    hits: int


_COLUMNS = ", ".join(field.name for field in fields(Remembered))
# Of a model known by digest (`name@digest`), the answers of its other digests are old ones.
_STALE = f"""
(origin != '{HUMAN}' AND (asked != :asked OR (model != :model AND instr(model, '@') AND instr(:model, '@'))))"""
_FIND = f"""
SELECT template, source, label, confidence, origin = '{HUMAN}', {_STALE}, head != :head FROM verdicts
WHERE template IN (SELECT value FROM json_each(:templates)) ORDER BY origin = '{HUMAN}', NOT {_STALE}, created
"""
_PUT = f"""
INSERT INTO verdicts ({_COLUMNS}, head) VALUES ({", ".join("?" * len(fields(Remembered)))}, ?)
ON CONFLICT (template, source, asked) DO UPDATE SET label = excluded.label, confidence = excluded.confidence,
  model = excluded.model, head = excluded.head, text = excluded.text, example = excluded.example,
  created = excluded.created, last_seen = max(last_seen, excluded.last_seen), hits = max(hits, excluded.hits)
"""
_SAW = """
UPDATE verdicts SET hits = hits + ?, last_seen = ? WHERE template = ? AND source = ? AND asked IN ('', ?)"""
_LIST = f"""
SELECT {_COLUMNS} FROM verdicts
WHERE (:label IS NULL OR label = :label) AND (:origin IS NULL OR origin = :origin)
  AND (:stale IS NULL OR {_STALE} = :stale)
ORDER BY last_seen DESC, template, source, asked LIMIT :limit OFFSET :offset
"""
_SHOW = f"SELECT {_COLUMNS} FROM verdicts WHERE template = ? ORDER BY source, origin, created DESC"
_FORGET = "DELETE FROM verdicts WHERE template = :template AND (:source IS NULL OR source = :source)"
_OLD = f"DELETE FROM verdicts WHERE last_seen < ? AND origin != '{HUMAN}'"
_TOO_MANY = f"""
DELETE FROM verdicts WHERE (template, source, asked) IN (
  SELECT template, source, asked FROM verdicts WHERE origin != '{HUMAN}' ORDER BY last_seen LIMIT ?)
"""


class VerdictMemory:
    """Verdicts by template and class of source. Safe to call from several threads; several processes share the file.

    `asked` names what an answer depends on; `model` gives the model's name, with `@digest` once that is known. A label
    outside of `taxonomy` is kept and not answered; with `people_only` neither is what an LLM said. `head` names the
    local model: the LLM was asked since that one was not sure. Where another is in force by now, what the LLM said is
    its `fallback`.

    Raises:
        ConfigError: From the constructor: the file was written by a newer version.
        ServiceUnavailable: From the constructor and every method but `classify`, `remember` and `saw`: the file cannot
            be read or written now.
    """

    name = "verdicts"

    def __init__(
        self,
        path: Path,
        asked: str,
        *,
        model: Callable[[], str] = str,
        people_only: bool = False,
        taxonomy: Taxonomy | None = None,
        max_age_secs: float = MAX_AGE_SECS,
        max_verdicts: int = MAX_VERDICTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.asked = asked
        self._model = model
        self._people_only = people_only
        self._taxonomy = taxonomy
        self._max_age_secs = max_age_secs
        self._max_verdicts = max_verdicts
        self._clock = clock
        self.head = ""
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._opening = threading.Lock()
        self._writer = database.opened(path, MAX_BYTES, clock)
        self._reader = database.reader(path)
        self._file = database.identity(path)
        self._damage: sqlite3.Error | None = None
        self._changes_before = self._changes = 0  # in files that were at the path before, and in all
        self._new = 0
        self._prune()

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """What is remembered of each template, `provisional` where it answers an older question; None for the others.

        Raises:
            StageError: The database cannot be read now.
        """
        found: dict[tuple[str, str], Verdict] = {}
        try:
            with self._reading:
                for start in range(0, len(questions), _MANY):
                    found |= self._find([question.template for question in questions[start : start + _MANY]])
        except sqlite3.Error as error:
            self._note(error)
            raise StageError(f"{self.path}: {error}") from error
        answers = [found.get((question.template, question.source)) for question in questions]
        known = len(answers) - answers.count(None)
        cache_hits.labels("memory").inc(known)
        cache_misses.labels("memory").inc(len(answers) - known)
        return answers

    def _find(self, templates: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        asked = {**self._now_asked(), "head": self.head, "templates": json.dumps(templates)}
        rows = self._reader.execute(_FIND, asked)
        return {  # the best of several comes last
            (template, source): Verdict(label, 1.0, "llm")
            if human
            else Verdict(label, confidence, "llm", provisional=bool(stale), fallback=bool(elder))
            for template, source, label, confidence, human, stale, elder in rows
            if (human or not self._people_only) and (self._taxonomy is None or label in self._taxonomy)
        }

    def _now_asked(self) -> dict[str, str]:
        return {"asked": self.asked, "model": self._model()}

    def remember(self, question: Question, verdict: Verdict) -> None:
        """Keep what the LLM said. A failure is counted, nothing else: the question will be asked again."""
        now = int(self._clock())
        row = Remembered(
            question.template,
            question.source,
            verdict.label,
            verdict.confidence,
            LLM,
            self._model(),
            self.asked,
            *_kept(question.text, question.example),
            now,
            now,
            0,
        )
        self._try_to_write(_PUT, [(*astuple(row), self.head)])
        self._new += 1
        if self._new % _PRUNE_EVERY == 0:
            self._prune()

    def saw(self, counts: Mapping[tuple[str, str], int]) -> None:
        """So many records were answered from the verdicts of these templates and classes of sources."""
        now = int(self._clock())
        rows = [(count, now, template, source, self.asked) for (template, source), count in counts.items()]
        self._try_to_write(_SAW, rows)

    def _try_to_write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            with self._writing, database.transaction(self._writer):
                self._writer.executemany(statement, rows)
        except sqlite3.Error as error:
            self._note(error)
            emit(StateTrouble(what="cache_write_failed", path=str(self.path), detail=str(error)))

    def _note(self, error: sqlite3.Error) -> None:
        if database.is_damage(error):
            self._damage = error  # for `changes`, which comes by soon and may take its time

    def _prune(self) -> None:
        """Let go of what was not seen for long, and of the oldest of too many; never of a person's word."""
        self._try_to_write(_OLD, [(int(self._clock() - self._max_age_secs),)])
        if (surplus := self.count() - self._max_verdicts) > 0:
            self._try_to_write(_TOO_MANY, [(surplus,)])

    # --- review -----------------------------------------------------------------------------------------------------

    def listed(
        self,
        *,
        label: str | None = None,
        origin: str | None = None,
        stale: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Remembered]:
        """Verdicts that fit, those seen last first; `stale` ones answer an older question."""
        wanted = {"label": label, "origin": origin, "stale": stale, "limit": limit, "offset": offset}
        return self._read(_LIST, {**self._now_asked(), **wanted})

    def shown(self, template: str) -> list[Remembered]:
        """Everything that is remembered of a template."""
        return self._read(_SHOW, (template,))

    def count(self) -> int:
        """How many verdicts there are."""
        with self._reviewing(self._reading):
            return int(self._reader.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def changes(self) -> int:
        """A number that grows with everything people change, in whatever process, and when another file is there.

        Who asks often goes on with the file that is at the path: verdicts in one that was deleted are seen by nobody.
        """
        if self._damage is not None or database.identity(self.path) != self._file:
            self._open_again()
        with self._reviewing(self._reading):
            number = int(self._reader.execute("SELECT number FROM changes").fetchone()[0])
            self._changes = self._changes_before + number
            return self._changes

    def _open_again(self) -> None:
        with self._opening, self._reviewing():  # not the locks of those who ask: opening may wait for seconds
            found = database.identity(self.path)
            if self._damage is not None and found == self._file:  # else another process set it aside
                database.set_aside(self.path, self._damage, self._clock)
            writer = database.opened(self.path, MAX_BYTES, self._clock)
            reader = database.reader(self.path)
            with self._reading, self._writing, closing(self._writer), closing(self._reader):
                self._writer, self._reader, self._file = writer, reader, database.identity(self.path)
                self._damage, self._changes_before = None, self._changes + 1

    def set(self, template: str, source: str, label: str, *, text: str = "", example: str = "") -> None:
        """A person's word on a template: it is final. Text and example are taken over from what is remembered.

        Raises:
            BadInput: No such label.
        """
        known = [row for row in self.shown(template) if row.source == source]
        now = int(self._clock())
        text, example = _kept(text, example)
        text = text or next((row.text for row in known if row.text), "")
        example = example or next((row.example for row in known if row.example), "")
        seen = max((row.last_seen for row in known), default=now)
        hits = max((row.hits for row in known), default=0)
        self.put([Remembered(template, source, label, 1.0, HUMAN, "", "", text, example, now, seen, hits)])

    def put(self, verdicts: Sequence[Remembered]) -> None:
        """Keep verdicts that come from elsewhere, all or none.

        Raises:
            BadInput: No such label, or an origin that is none.
        """
        for verdict in verdicts:
            if self._taxonomy is not None and verdict.label not in self._taxonomy:
                raise BadInput(f"unknown label {verdict.label!r}{self._taxonomy.suggestion(verdict.label)}")
            if verdict.origin not in (HUMAN, LLM) or (verdict.origin == HUMAN) != (verdict.asked == ""):
                raise BadInput(f"a verdict of {verdict.template} is of {verdict.origin!r}; it is human or llm")
        rows = []
        for verdict in verdicts:
            text, example = _kept(verdict.text, verdict.example)
            rows.append((*astuple(replace(verdict, text=text, example=example)), ""))
        with self._changing():
            self._writer.executemany(_PUT, rows)

    def forget(self, template: str, source: str | None = None) -> int:
        """Drop all that is remembered of a template (of one class of sources); how many verdicts that was."""
        with self._changing():
            return self._writer.execute(_FORGET, {"template": template, "source": source}).rowcount

    def _read(self, statement: str, parameters: Mapping[str, object] | Sequence[object]) -> list[Remembered]:
        with self._reviewing(self._reading):
            return [Remembered(*row) for row in self._reader.execute(statement, parameters)]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A change by people, in one transaction with its number."""
        with self._reviewing(self._writing), database.transaction(self._writer):
            yield
            self._writer.execute("UPDATE changes SET number = number + 1")

    @contextmanager
    def _reviewing(self, lock: threading.Lock | None = None) -> Iterator[None]:
        try:
            with lock or nullcontext():
                yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error):
                self._note(error)
            raise ServiceUnavailable(f"{self.path}: {error}") from error

    def close(self) -> None:
        with self._reading, self._writing, closing(self._writer), closing(self._reader):
            pass


def _kept(text: str, example: str | bytes) -> tuple[str, str]:
    return masked(text)[:_TEXT_CHARS], masked(example)[:_EXAMPLE_CHARS]
