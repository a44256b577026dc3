"""Opening `cache.db`: its pragmas, its version, and what to do with a damaged one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.events import StateTrouble, emit
from logclf_daemon.migrating import migrate

APPLICATION_ID = 0x6C636C66  # "lclf"
VERSION = 4  # of verdicts_schema, which is imported only when a table must be made


def opened(path: Path, max_bytes: int, now: Callable[[], float] = time.time) -> sqlite3.Connection:
    """A connection to an up-to-date database; a damaged file is set aside first, once.

    Raises:
        ConfigError: It was written by a newer version.
        ServiceUnavailable: It cannot be opened now (locked, not writable, disk full).
    """
    try:
        return _opened(path, max_bytes)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise ServiceUnavailable(
                f"{path}: {error}; is it the daemon's own file, writable, and the disk not full?"
            ) from error
        set_aside(path, error, now)
        return _opened(path, max_bytes)


def set_aside(path: Path, error: sqlite3.Error, now: Callable[[], float] = time.time) -> None:
    """Give a damaged file another name."""
    aside = path.with_name(f"{path.name}.corrupt-{int(now())}")
    emit(StateTrouble(what="cache_quarantined", path=str(aside), detail=str(error)))
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at the path; None: there is none."""
    try:
        looked = path.stat()
    except OSError:
        return None
    return looked.st_dev, looked.st_ino


def reader(path: Path) -> sqlite3.Connection:
    """A second connection that only reads: a writer that waits for another process never holds it up."""
    connection = _connected(path)
    connection.execute("PRAGMA query_only=ON")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing. Takes the write lock at once: a lock asked for later fails without waiting."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)


def _opened(path: Path, max_bytes: int) -> sqlite3.Connection:
    connection = _connected(path)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "temp_store=MEMORY", f"journal_size_limit={16 << 20}"):
            connection.execute(f"PRAGMA {pragma}")
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={max_bytes // page_size}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise ConfigError(f"{path}: was written by a newer logclf-daemon; install that again or move the file away")
        if version < VERSION:
            _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:  # another process was not faster
            migrate(connection, "logclf_daemon.verdicts_schema")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong, not the moment."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
