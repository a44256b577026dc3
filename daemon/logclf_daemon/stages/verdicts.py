"""Remembered verdicts: what the LLM (or a person) said of a template, kept in SQLite.

`cache.db` is disposable: if it is damaged it is set aside and the questions are asked again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from logclf_daemon.errors import StageError
from logclf_daemon.events import StateTrouble, emit
from logclf_daemon.record import Question, Verdict

APPLICATION_ID = 0x6C636C66  # "lclf"
MAX_BYTES = 256 << 20
_MANY = 200  # questions a statement

_FIND = """
SELECT template, source, label, confidence FROM verdicts
WHERE (asked = ? OR origin = 'human') AND template IN ({})
"""
_PUT = """
INSERT INTO verdicts (template, source, label, confidence, asked, origin, text, created, last_seen, hits)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)
ON CONFLICT (template, source) DO UPDATE SET label = excluded.label, confidence = excluded.confidence,
  asked = excluded.asked, origin = excluded.origin, text = excluded.text, created = excluded.created
WHERE verdicts.origin != 'human' OR excluded.origin = 'human'
"""


class VerdictMemory:
    """Verdicts by template and class of source. Safe to call from several threads; one connection, short transactions.

    `asked` names model, taxonomy and prompt: an answer to another question does not count, a person's word always does.
    """

    name = "verdicts"

    def __init__(self, path: Path, asked: str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._asked = asked
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = self._opened()

    def _opened(self) -> sqlite3.Connection:
        try:
            return _open(self._path)
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{self._path.name}.corrupt-{int(self._clock())}")
            emit(StateTrouble(what="cache_quarantined", path=str(aside), detail=str(error)))
            self._path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return _open(self._path)

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """What is remembered of each template; None for the others.

        Raises:
            StageError: The database cannot be read now.
        """
        found: dict[tuple[str, str], Verdict] = {}
        try:
            with self._lock:
                for start in range(0, len(questions), _MANY):
                    found |= self._find([question.template for question in questions[start : start + _MANY]])
        except sqlite3.Error as error:
            raise StageError(f"{self._path}: {error}") from error
        return [found.get((question.template, question.source)) for question in questions]

    def _find(self, templates: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        rows = self._connection.execute(
            _FIND.format(",".join("?" * len(templates))), (self._asked, *templates)
        ).fetchall()
        return {(template, source): Verdict(label, confidence, "llm") for template, source, label, confidence in rows}

    def remember(self, question: Question, verdict: Verdict, origin: str = "llm") -> None:
        """Keep a verdict. A failure is counted, nothing else: the question will be asked again."""
        now = int(self._clock())
        row = (
            question.template,
            question.source,
            verdict.label,
            verdict.confidence,
            self._asked,
            origin,
            question.text[:1000],
            now,
            now,
        )
        try:
            with self._lock:
                self._connection.execute(_PUT, row)
        except sqlite3.Error as error:
            emit(StateTrouble(what="cache_write_failed", path=str(self._path), detail=str(error)))

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY", f"journal_size_limit={16 << 20}"):
            connection.execute(f"PRAGMA {pragma}")
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={MAX_BYTES // page_size}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdicts'").fetchone():
        return
    import sqlite_utils  # a third of a second, and only needed once

    sqlite_utils.Database(connection)["verdicts"].create(  # type: ignore[union-attr]
        {
            "template": str,
            "source": str,
            "label": str,
            "confidence": float,
            "asked": str,
            "origin": str,
            "text": str,
            "created": int,
            "last_seen": int,
            "hits": int,
        },
        pk=("template", "source"),
        if_not_exists=True,
    )
