"""The tables of `state.db`, version by version. Apart from `state.py`: sqlite-utils takes long to import."""

from __future__ import annotations

import sqlite_utils
from sqlite_utils import Migrations

migrations = Migrations("logclf_state")


@migrations()
def first(db: sqlite_utils.Database) -> None:
    """Positions by source, and the ranges under way."""
    db.table("offsets").create(
        {
            "source": str,
            "input": str,
            "device": str,  # text: unsigned 64 bits don't fit SQLite's integers
            "inode": str,
            "generation": int,
            "path": bytes,
            "position": int,
            "skip": str,
            "head_bytes": int,
            "head": bytes,
            "anchor": bytes,
            "carry": bytes,
            "finished": int,
            "updated": float,
        },
        pk="source",
    )
    db.table("intents").create(
        {
            "source": str,
            "start": int,
            "end": int,
            "chunk": str,
            "kind": str,
            "read_ns": int,
            "anchor": bytes,
            "parts": bytes,
        },
        pk=("source", "start"),
    )
    db.table("intents").create_index(["chunk"])
