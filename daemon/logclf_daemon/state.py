"""Where each file was read to, and what is under way: one SQLite file, one writer.

A power cut may lose the last commits (synchronous=NORMAL, 50 us instead of 4 ms each): positions go back, lines come
twice under the same chunk id, none is lost. A full or broken disk never stops the delivery: what could not be written
stays in memory and goes out with the next write that works.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from logclf_daemon.errors import ConfigError, NoRoom, ServiceUnavailable
from logclf_daemon.events import StateTrouble, emit
from logclf_daemon.migrating import migrate

if TYPE_CHECKING:
    import sqlite_utils  # a third of a second to import: only where a table is made or a report is asked for

FILE_NAME = "state.db"
JOURNAL = "journal:"  # begins the source of a journal; the input's name follows
APPLICATION_ID = 0x4C4F4743  # "LOGC"
VERSION = 1
LEAST_FREE_BYTES = 256 << 10  # with less, SQLite may not even open what is there: it makes files beside it
PATIENT_MS, HASTY_MS = 5000, 20  # for a writer of another process; each while all goes well, and while it does not
MOST_PARTS = 10_000  # kept in memory while the disk takes no writes
REMEMBER_SECS = 7 * 86400  # how long a finished file is known: its copies and its re-used inode are told apart by it
# The write-ahead log needs memory shared by all processes on the file, which network file systems don't give.
REFUSED_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs"})

OnLostState = Literal["head", "tail", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """How far a file is safely delivered, and by what its bytes are known again.

    `position` counts from the start of the file, after the `carry`: bytes of an unfinished record taken over from the
    file before it. `skip` is the state of the splitter there. `head` is a digest of the first `head_bytes` bytes,
    `anchor` one of the last bytes before the position. A `finished` file is only remembered.
    """

    source: str
    input: str
    device: int
    inode: int
    generation: int
    path: bytes
    position: int
    skip: str = ""
    head_bytes: int = 0
    head: bytes = b""
    anchor: bytes = b""
    carry: bytes = b""
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Intent:
    """A byte range about to be sent: after a crash it is cut, timed and named in exactly the same way.

    `anchor` is a digest of its last bytes: a file written anew never goes out under an old name.
    """

    source: str
    start: int
    end: int
    chunk: str
    kind: str = "lines"
    read_ns: int = 0
    anchor: bytes = b""
    parts: bytes = b""


_UPSERT = """
    INSERT INTO offsets (source, input, device, inode, generation, path, position, skip, head_bytes, head, anchor,
                         carry, finished, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (source) DO UPDATE SET device = excluded.device, inode = excluded.inode, generation =
        excluded.generation, path = excluded.path, position = excluded.position, skip = excluded.skip,
        head_bytes = excluded.head_bytes, head = excluded.head, anchor = excluded.anchor, carry = excluded.carry,
        finished = excluded.finished, updated = excluded.updated"""


class StateDb:
    """The daemon's `state.db`. Every method may be called from any thread.

    `lost` tells that an unreadable file was put aside at opening; `behind` that the disk does not take writes now.
    """

    def __init__(self, connection: sqlite3.Connection, path: str = ":memory:", *, lock: int | None = None) -> None:
        self.connection = connection
        self.path = path
        self.lost = False
        self.on_lost_state: OnLostState = "head"
        self.behind = False
        self._lock_fd = lock
        self._lock = threading.Lock()
        self._offsets: dict[str, Offset] = {}
        self._intents: dict[tuple[str, int], Intent] = {}
        self._parts: dict[str, bytes] = {}
        self._forgotten: set[str] = set()

    @classmethod
    def in_memory(cls) -> StateDb:
        """A state that ends with the process."""
        connection = _connect(":memory:")
        _prepare(connection)
        return cls(connection)

    @classmethod
    def open(
        cls,
        directory: Path,
        on_lost_state: OnLostState = "head",
        *,
        filesystem_type: Callable[[Path], str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> StateDb:
        """Open or create `state.db` in `directory`; an unreadable one is renamed to `state.db.corrupt-TIME`.

        Raises:
            ConfigError: A network file system, a database of something else or of a newer version, or an unreadable
                one where `on_lost_state` says `refuse`.
            NoRoom: The disk is full.
            ServiceUnavailable: Not writable, or in use by another daemon.
        """
        kind = (filesystem_type or mounted_type)(directory)
        if kind in REFUSED_FILESYSTEMS:
            raise ConfigError(
                f"{directory}: is on {kind}, where SQLite cannot lock; set state.directory to a local disk"
            )
        path = directory / FILE_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = _locked(directory)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoRoom(f"{directory}: the disk is full, make room") from error
            raise ServiceUnavailable(f"{directory}: {error.strerror}; the daemon's user must own it") from error
        try:
            connection, lost = _open_or_quarantine(path, on_lost_state, now())
        except BaseException:
            os.close(lock)
            raise
        state = cls(connection, str(path), lock=lock)
        state.lost, state.on_lost_state = lost, on_lost_state
        state._prune(now() - REMEMBER_SECS)
        return state

    def load_offsets(self, name: str) -> list[Offset]:
        """Every file the input `name` knows, those read last at the end."""
        with self._lock:
            rows = self.connection.execute(
                "SELECT source, input, device, inode, generation, path, position, skip, head_bytes, head, anchor,"
                " carry, finished FROM offsets WHERE input = ? ORDER BY updated, rowid",
                (name,),
            ).fetchall()
        return [
            Offset(
                source=row[0],
                input=row[1],
                device=int(row[2]),
                inode=int(row[3]),
                generation=row[4],
                path=row[5],
                position=row[6],
                skip=row[7],
                head_bytes=row[8],
                head=row[9],
                anchor=row[10],
                carry=row[11],
                finished=bool(row[12]),
            )
            for row in rows
        ]

    def sources(self, beginning: str) -> list[str]:
        """The keys of all sources that begin like this, whichever input has them."""
        with self._lock:
            rows = self.connection.execute("SELECT source FROM offsets").fetchall()
        return [row[0] for row in rows if row[0].startswith(beginning)]

    def move_files(self, inputs: Mapping[str, Callable[[bytes], bool]]) -> bool:
        """Give each file to an input whose patterns match its name, if its own does not (any more).

        An input is called by its place in the configuration. Where another one is put before it, what it has read
        must not come again.
        """
        with self._lock:
            rows = self.connection.execute("SELECT source, input, device, inode, path FROM offsets").fetchall()
        held = {(owner, device, inode) for _, owner, device, inode, _ in rows if inode != "0"}
        moves: list[tuple[str, str]] = []
        for source, owner, device, inode, path in rows:
            if source.startswith(JOURNAL) or (owner in inputs and inputs[owner](path)):
                continue
            fitting = (name for name, matches in inputs.items() if (name, device, inode) not in held and matches(path))
            if (name := next(fitting, None)) is not None:
                held.discard((owner, device, inode))
                held.add((name, device, inode))
                moves.append((name, source))
        return self._change([("UPDATE offsets SET input = ? WHERE source = ?", moves)])

    def move_journal(self, name: str) -> bool:
        """Give the only cursor of a journal to the only input that reads one."""
        known, source = self.sources(JOURNAL), JOURNAL + name
        if len(known) != 1 or known == [source]:
            return True
        return self._change(
            [
                ("UPDATE offsets SET source = ?, input = ? WHERE source = ?", [(source, name, known[0])]),
                ("UPDATE intents SET source = ? WHERE source = ?", [(source, known[0])]),
            ]
        )

    def _change(self, steps: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> bool:
        """What is done once, at the start; False: the disk did not take it."""
        with self._lock:
            try:
                with self._transaction() as execute_many:
                    for sql, rows in steps:
                        execute_many(sql, rows)
            except sqlite3.Error as error:
                emit(StateTrouble(what="commit", path=self.path, detail=str(error)))
                return False
        return True

    def load_intents(self, name: str) -> dict[str, list[Intent]]:
        """The ranges that were under way, by source and in file order."""
        found: dict[str, list[Intent]] = {}
        with self._lock:
            rows = self.connection.execute(
                "SELECT i.source, i.start, i.end, i.chunk, i.kind, i.read_ns, i.anchor, i.parts FROM intents i"
                " JOIN offsets o USING (source) WHERE o.input = ? ORDER BY i.source, i.start",
                (name,),
            ).fetchall()
        for row in rows:
            found.setdefault(row[0], []).append(Intent(*row))
        return found

    def record_intent(self, source: str, start: int, end: int, chunk: str, parts: bytes = b"") -> bool:
        """Write down one range before it is sent."""
        return self.record_intents([Intent(source, start, end, chunk, parts=parts)])

    def record_intents(self, intents: Sequence[Intent], offsets: Iterable[Offset] = ()) -> bool:
        """Write down ranges before they are sent, and sources not known yet, in one transaction.

        False: the disk did not take them; they are kept for the next write.
        """
        with self._lock:
            for offset in offsets:
                self._offsets[offset.source] = offset
            for intent in intents:
                self._intents[intent.source, intent.start] = intent
            return self._flush()

    def record_parts(self, chunk: str, parts: bytes) -> bool:
        """Write down in which part of its batch each record goes, so that a repetition is parted in the same way."""
        with self._lock:
            self._parts[chunk] = parts
            if len(self._parts) > MOST_PARTS:
                del self._parts[next(iter(self._parts))]  # long done; were it not, it would come parted elsewhere
            return self._flush()

    def parts_of(self, chunk: str) -> bytes:
        """What `record_parts` was told of a chunk that is still under way; empty if nothing."""
        with self._lock:
            if chunk in self._parts:
                return self._parts[chunk]
            row = self.connection.execute("SELECT parts FROM intents WHERE chunk = ?", (chunk,)).fetchone()
            return cast(bytes, row[0]) if row else b""

    def commit(self, offsets: Sequence[Offset]) -> bool:
        """Move many positions in one transaction; intents up to them are done."""
        with self._lock:
            ends = {offset.source: offset.position for offset in offsets}
            self._offsets.update((offset.source, offset) for offset in offsets)
            if self._intents:
                self._intents = {
                    key: intent for key, intent in self._intents.items() if intent.end > ends.get(key[0], -1)
                }
            return self._flush()

    def forget(self, sources: Iterable[str]) -> bool:
        """Remove sources and their intents."""
        with self._lock:
            for source in sources:
                self._forgotten.add(source)
                self._offsets.pop(source, None)
                self._intents = {key: intent for key, intent in self._intents.items() if key[0] != source}
            return self._flush()

    def close(self) -> None:
        """Write what is left, empty the write-ahead log, give the directory free."""
        with self._lock:
            self._flush()
            try:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                emit(StateTrouble(what="checkpoint", path=self.path, detail=str(error)))
            self.connection.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _flush(self) -> bool:
        try:
            with self._transaction() as execute_many:
                self._write(execute_many)
        except sqlite3.Error as error:
            self._fell_behind(True)
            emit(StateTrouble(what="commit", path=self.path, detail=str(error)))
            return False
        self._offsets.clear()
        self._intents.clear()
        self._parts.clear()
        self._forgotten.clear()
        self._fell_behind(False)
        return True

    def _fell_behind(self, behind: bool) -> None:
        """Who holds the lock for seconds may hold it for hours: reading goes on meanwhile, and so must not wait."""
        if behind != self.behind:
            self.behind = behind
            with suppress(sqlite3.Error):
                self.connection.execute(f"PRAGMA busy_timeout = {HASTY_MS if behind else PATIENT_MS}")

    def _write(self, execute_many: Callable[[str, Iterable[Sequence[object]]], object]) -> None:
        execute_many("DELETE FROM offsets WHERE source = ?", [(source,) for source in self._forgotten])
        execute_many("DELETE FROM intents WHERE source = ?", [(source,) for source in self._forgotten])
        execute_many(_UPSERT, map(_row, self._offsets.values()))
        execute_many(
            "INSERT OR REPLACE INTO intents (source, start, end, chunk, kind, read_ns, anchor, parts)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(i.source, i.start, i.end, i.chunk, i.kind, i.read_ns, i.anchor, i.parts) for i in self._intents.values()],
        )
        execute_many(
            "UPDATE intents SET parts = ? WHERE chunk = ?", [(bits, chunk) for chunk, bits in self._parts.items()]
        )
        execute_many(
            "DELETE FROM intents WHERE source = ? AND end <= ?",
            [(o.source, o.position) for o in self._offsets.values()],
        )

    def _prune(self, before: float) -> None:
        with self._lock:
            try:
                with self._transaction() as execute_many:
                    execute_many("DELETE FROM offsets WHERE finished = 1 AND updated < ?", [(before,)])
                    execute_many("DELETE FROM intents WHERE source NOT IN (SELECT source FROM offsets) AND ?", [(1,)])
            except sqlite3.Error as error:
                emit(StateTrouble(what="prune", path=self.path, detail=str(error)))

    @contextmanager
    def _transaction(self) -> Iterator[Callable[[str, Iterable[Sequence[object]]], object]]:
        # IMMEDIATE: a transaction that reads first and meets a second writer fails at once, busy_timeout or not.
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection.executemany
            self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


def open_read_only(directory: Path) -> sqlite_utils.Database:
    """The state for reports, beside a running daemon or without one. Read briefly: a long look makes the log grow.

    Raises:
        ServiceUnavailable: There is none, or it cannot be read.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise ServiceUnavailable(f"{path}: no such file; has the daemon run with this state directory?")
    # A directory that may not be written to cannot hold the index of the log; without a log none is needed.
    for mode in ("mode=ro", "immutable=1"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("SELECT 1 FROM offsets LIMIT 1")
        except sqlite3.Error as error:
            connection.close()
            problem = error
        else:
            import sqlite_utils

            return sqlite_utils.Database(connection)
        if Path(f"{path}-wal").exists():
            break
    raise ServiceUnavailable(f"{path}: {problem}; may this user read it?")


def mounted_type(directory: Path) -> str:
    """The type of the file system that holds `directory` (or the nearest folder above that exists), if known."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    place = place.resolve()
    best, found = -1, ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return found
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape")
        if place.is_relative_to(point) and len(point) >= best:
            best, found = len(point), after.split(" ")[0]
    return found


def _row(offset: Offset) -> Sequence[object]:
    return (
        offset.source,
        offset.input,
        str(offset.device),
        str(offset.inode),
        offset.generation,
        offset.path,
        offset.position,
        offset.skip,
        offset.head_bytes,
        offset.head,
        offset.anchor,
        offset.carry,
        int(offset.finished),
        time.time(),
    )


def _locked(directory: Path) -> int:
    lock = os.open(directory / "state.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ServiceUnavailable(
            f"{directory}: another daemon uses it; stop that one or set state.directory to a folder of its own"
        ) from None
    return lock


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {PATIENT_MS}")
    return connection


def _open_or_quarantine(path: Path, on_lost_state: OnLostState, now: float) -> tuple[sqlite3.Connection, bool]:
    problem = ""
    for _ in range(2):
        connection = None
        try:
            connection = _connect(str(path))
            _check(connection, path)
            _prepare(connection)
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
            if not _is_damage(error) and shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES:
                raise NoRoom(f"{path}: {error}; the disk is full, make room") from error
            if not _is_damage(error) or problem:
                raise ServiceUnavailable(f"{path}: {error}; is the disk full or the file not writable?") from error
            problem = str(error)
            _put_aside(path, on_lost_state, now, problem)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        else:
            return connection, bool(problem)
    raise AssertionError("a fresh file opens or raises")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _put_aside(path: Path, on_lost_state: OnLostState, now: float, problem: str) -> None:
    if on_lost_state == "refuse":
        raise ConfigError(f"{path}: unreadable ({problem}); restore it, or set state.on_lost_state to head or tail")
    aside = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    for ending in ("", "-wal", "-shm"):
        if os.path.exists(f"{path}{ending}"):  # noqa: PTH110  # the ending is no suffix in pathlib's sense
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    emit(StateTrouble(what="quarantined", path=str(path), detail=problem))


def _check(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and owner not in (0, APPLICATION_ID):
        raise ConfigError(f"{path}: is a database of another program; set state.directory to a folder of its own")
    if version > VERSION:
        raise ConfigError(f"{path}: was written by a newer logclf-daemon; install that again or move the file away")


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "wal_autocheckpoint = 1000",
        f"journal_size_limit = {16 << 20}",
        "foreign_keys = OFF",
        "temp_store = MEMORY",
        "mmap_size = 0",
        f"application_id = {APPLICATION_ID}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
        migrate(connection, "logclf_daemon.state_schema")
        connection.execute(f"PRAGMA user_version = {VERSION}")
