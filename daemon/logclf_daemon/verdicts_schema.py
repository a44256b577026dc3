"""The tables of `cache.db`, version by version. Apart from the memory: sqlite-utils takes long to import."""

from __future__ import annotations

import sqlite_utils
from sqlite_utils import Migrations

migrations = Migrations("logclf_verdicts")


@migrations()
def first(db: sqlite_utils.Database) -> None:
    """One verdict for a template and a class of sources. Written without a version: the table may be there."""
    db.table("verdicts").create(
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


@migrations()
def one_for_each_question(db: sqlite_utils.Database) -> None:
    """What was asked joins the key: an old answer stays until the new one is there. People have a row of their own."""
    db.execute(
        """
        CREATE TABLE answers (
          template TEXT NOT NULL, source TEXT NOT NULL, asked TEXT NOT NULL, label TEXT NOT NULL,
          confidence REAL NOT NULL, origin TEXT NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
          example TEXT NOT NULL, created INTEGER NOT NULL, last_seen INTEGER NOT NULL, hits INTEGER NOT NULL,
          PRIMARY KEY (template, source, asked)
        ) WITHOUT ROWID
        """
    )
    # `asked` was model/taxonomy/prompt, and the name of a model may hold slashes.
    db.execute(
        """
        INSERT INTO answers
        SELECT template, source, CASE origin WHEN 'human' THEN '' ELSE asked END, label, confidence, origin,
          CASE origin WHEN 'human' THEN '' ELSE rtrim(rtrim(rtrim(rtrim(asked, replace(asked, '/', '')), '/'),
            replace(asked, '/', '')), '/') END,
          COALESCE(text, ''), '', created, last_seen, hits
        FROM verdicts
        """
    )
    db.execute("DROP TABLE verdicts")
    db.execute("ALTER TABLE answers RENAME TO verdicts")
    db.execute("CREATE INDEX verdicts_last_seen ON verdicts (last_seen)")
    # Counts what people changed: a running daemon looks at it.
    db.execute("CREATE TABLE changes (number INTEGER NOT NULL)")
    db.execute("INSERT INTO changes VALUES (0)")


@migrations()
def the_model_that_was_unsure(db: sqlite_utils.Database) -> None:
    """The digest of the local model in force when the LLM was asked."""
    db.execute("ALTER TABLE verdicts ADD COLUMN head TEXT NOT NULL DEFAULT ''")


@migrations()
def a_confidence_that_was_not_measured(db: sqlite_utils.Database) -> None:
    """NULL where the LLM's server told no probabilities; it was 0 before."""
    db.execute(
        """
        CREATE TABLE answers (
          template TEXT NOT NULL, source TEXT NOT NULL, asked TEXT NOT NULL, label TEXT NOT NULL,
          confidence REAL, origin TEXT NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
          example TEXT NOT NULL, created INTEGER NOT NULL, last_seen INTEGER NOT NULL, hits INTEGER NOT NULL,
          head TEXT NOT NULL DEFAULT '', PRIMARY KEY (template, source, asked)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        INSERT INTO answers
        SELECT template, source, asked, label, NULLIF(confidence, 0), origin, model, text, example, created, last_seen,
          hits, head
        FROM verdicts
        """
    )
    db.execute("DROP TABLE verdicts")  # and its index
    db.execute("ALTER TABLE answers RENAME TO verdicts")
    db.execute("CREATE INDEX verdicts_last_seen ON verdicts (last_seen)")
