"""Tables made and brought up to date by sqlite-utils, which is imported only then, and without pandas."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def migrate(connection: sqlite3.Connection, schema: str) -> None:
    """Apply the `migrations` of the module `schema` that the database does not have yet."""
    with _without_pandas():
        import sqlite_utils  # a third of a second to import

        migrations = import_module(schema).migrations
    migrations.apply(sqlite_utils.Database(connection))


@contextmanager
def _without_pandas() -> Iterator[None]:
    """sqlite-utils imports pandas where it is there, for its data frames: 70 MB that a daemon would keep for years."""
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # to an import this means: there is none
    try:
        yield
    finally:
        del sys.modules["pandas"]
