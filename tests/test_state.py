"""The state database: what was committed is there after a crash, and no disk trouble stops the delivery."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from logclf_daemon.errors import ConfigError, NoRoom, ServiceUnavailable
from logclf_daemon.metrics import value
from logclf_daemon.state import (
    FILE_NAME,
    HASTY_MS,
    MOST_PARTS,
    PATIENT_MS,
    Intent,
    Offset,
    StateDb,
    mounted_type,
    open_read_only,
)
from logclf_daemon.state_schema import migrations


def offset(source: str = "files/1:2:0", position: int = 0, **more: object) -> Offset:
    known: dict[str, object] = {"input": "files", "device": 1, "inode": 2, "generation": 0, "path": b"/a.log"}
    return Offset(source=source, position=position, **(known | more))  # type: ignore[arg-type]


def intent(start: int, end: int, source: str = "files/1:2:0") -> Intent:
    return Intent(source, start, end, f"chunk-{start}", "lines", 7, b"anchor")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_offsets_and_intents_come_back_as_they_were(folder: Path) -> None:
    written = offset(
        position=10,
        inode=2**64 - 1,
        path=b"/\xff\n.log",
        skip="line",
        head_bytes=3,
        head=b"\0h",
        anchor=b"a",
        carry=b"c\xff",
        finished=True,
    )
    state = StateDb.open(folder)
    state.record_intents([intent(20, 30), intent(10, 20)], [written])
    state.close()
    state = StateDb.open(folder)

    assert state.load_offsets("files") == [written]
    assert state.load_intents("files") == {"files/1:2:0": [intent(10, 20), intent(20, 30)]}
    assert state.load_offsets("other") == []
    assert not state.lost
    state.close()


def test_a_commit_removes_the_intents_up_to_it_and_no_others() -> None:
    state = StateDb.in_memory()
    state.record_intents([intent(0, 10), intent(10, 20), intent(0, 10, "other")], [offset(), offset("other")])
    state.commit([offset(position=10)])

    assert state.load_intents("files") == {"files/1:2:0": [intent(10, 20)], "other": [intent(0, 10, "other")]}
    state.close()


def test_the_parts_of_a_chunk_are_kept_until_it_is_committed() -> None:
    state = StateDb.in_memory()
    state.record_intents([], [offset()])
    state.record_intent("files/1:2:0", 0, 10, "chunk", b"")
    state.record_parts("chunk", b"\x05")
    kept = state.parts_of("chunk")
    state.commit([offset(position=10)])

    assert (kept, state.parts_of("chunk")) == (b"\x05", b"")
    state.close()


def test_a_forgotten_source_is_gone_with_its_intents() -> None:
    state = StateDb.in_memory()
    state.record_intents([intent(0, 10)], [offset()])
    state.forget(["files/1:2:0"])

    assert state.load_offsets("files") == []
    assert state.load_intents("files") == {}
    state.close()


def test_the_database_is_set_up_for_a_daemon(folder: Path) -> None:
    state = StateDb.open(folder)
    pragmas = {
        name: state.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "user_version", "application_id", "busy_timeout")
    }
    state.close()

    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 1,
        "user_version": 1,
        "application_id": 0x4C4F4743,
        "busy_timeout": 5000,
    }


@pytest.mark.parametrize("damage", ["random", "half", "header"])
def test_an_unreadable_file_is_put_aside_and_the_daemon_starts(folder: Path, damage: str) -> None:
    state = StateDb.open(folder)
    for number in range(200):
        state.record_intents([], [offset(f"files/1:{number}:0", carry=b"x" * 500)])
    state.close()
    path = folder / FILE_NAME
    data = path.read_bytes()
    damaged = {"random": os.urandom(20_000), "half": data[: len(data) // 2], "header": b"not sqlite at all" + data[17:]}
    path.write_bytes(damaged[damage])
    before = value("logclf_state_troubles_total", what="quarantined")

    state = StateDb.open(folder, "tail", now=lambda: 0.0)

    assert state.lost
    assert state.on_lost_state == "tail"
    assert state.load_offsets("files") == []
    assert (folder / "state.db.corrupt-19700101T000000Z").read_bytes() == damaged[damage]
    assert value("logclf_state_troubles_total", what="quarantined") == before + 1
    state.close()


def test_an_unreadable_file_is_left_where_it_is_if_the_operator_says_so(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(b"x" * 5000)

    with pytest.raises(ConfigError, match="on_lost_state"):
        StateDb.open(folder, "refuse")
    assert (folder / FILE_NAME).read_bytes() == b"x" * 5000


def test_databases_of_others_and_of_newer_versions_are_refused(folder: Path) -> None:
    StateDb.open(folder).close()
    for pragma, message in (("application_id = 7", "another program"), ("user_version = 99", "newer")):
        with sqlite3.connect(folder / FILE_NAME) as connection:
            connection.execute(f"PRAGMA {pragma}")
        connection.close()
        with pytest.raises(ConfigError, match=message):
            StateDb.open(folder)
        with sqlite3.connect(folder / FILE_NAME) as connection:
            connection.execute("PRAGMA application_id = 0x4C4F4743")
        connection.close()


def test_a_second_daemon_on_the_same_folder_is_refused(folder: Path) -> None:
    state = StateDb.open(folder)

    with pytest.raises(ServiceUnavailable, match="another daemon"):
        StateDb.open(folder)
    state.close()
    StateDb.open(folder).close()


@pytest.mark.parametrize(("free", "error"), [(0, NoRoom), (1 << 30, ServiceUnavailable)])
def test_a_full_disk_is_told_from_a_file_that_cannot_be_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, error: type[Exception]
) -> None:
    (folder / "state.db").mkdir(parents=True)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))

    with pytest.raises(ServiceUnavailable) as raised:
        StateDb.open(folder)

    assert type(raised.value) is error


def test_a_network_file_system_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nfs4"):
        StateDb.open(folder, filesystem_type=lambda _path: "nfs4")


def test_the_type_of_a_file_system_is_known(tmp_path: Path) -> None:
    assert mounted_type(Path("/proc/self")) == "proc"
    assert mounted_type(tmp_path / "not" / "there" / "yet")


def test_a_full_disk_is_survived_and_positions_catch_up(folder: Path) -> None:
    state = StateDb.open(folder)
    state.record_intents([intent(0, 10)], [offset()])
    pages = state.connection.execute("PRAGMA page_count").fetchone()[0]
    state.connection.execute(f"PRAGMA max_page_count = {pages}")
    before = value("logclf_state_troubles_total", what="commit")
    written = [
        state.record_intents([intent(10 * at, 10 * at + 10)], [offset(f"files/9:{at}:0", inode=at, carry=b"x" * 3000)])
        for at in range(1, 20)
    ]
    behind = state.behind
    state.commit([offset(position=50)])
    on_disk = state.connection.execute("SELECT max(position) FROM offsets").fetchone()[0]
    state.connection.execute("PRAGMA max_page_count = 100000")
    caught_up = state.commit([])

    assert not all(written)
    assert behind
    assert on_disk == 0
    assert caught_up
    assert not state.behind
    assert value("logclf_state_troubles_total", what="commit") > before
    assert len(state.load_offsets("files")) == 20
    assert [known.start for known in state.load_intents("files")["files/1:2:0"]] == list(range(50, 200, 10))
    state.close()


def test_a_disk_that_takes_nothing_for_long_does_not_fill_the_memory() -> None:
    state = StateDb.in_memory()
    state.connection.execute("PRAGMA query_only = ON")

    for number in range(MOST_PARTS + 500):
        assert not state.record_parts(f"chunk {number}", b"\x01")

    assert state.behind
    assert state.parts_of("chunk 0") == b""
    assert state.parts_of(f"chunk {MOST_PARTS + 499}") == b"\x01"
    state.connection.execute("PRAGMA query_only = OFF")
    state.close()


def test_a_writer_of_another_process_is_waited_for(folder: Path) -> None:
    state = StateDb.open(folder)
    other = sqlite3.connect(folder / FILE_NAME, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    committing = threading.Thread(target=lambda: state.commit([offset(position=5)]))
    committing.start()
    other.execute("COMMIT")
    committing.join()
    other.close()

    assert state.load_offsets("files")[0].position == 5
    state.close()


def test_a_writer_that_stays_is_not_waited_for_each_time(folder: Path) -> None:
    def patience() -> int:
        return int(state.connection.execute("PRAGMA busy_timeout").fetchone()[0])

    state = StateDb.open(folder)
    other = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    state.connection.execute("PRAGMA busy_timeout = 1")  # it has been waited for

    assert not state.commit([offset(position=5)])
    assert patience() == HASTY_MS
    assert not state.commit([offset(position=6)])
    other.execute("COMMIT")
    other.close()
    assert state.commit([offset(position=7)])
    assert patience() == PATIENT_MS
    assert state.load_offsets("files")[0].position == 7
    state.close()


def test_reports_read_beside_the_daemon_and_after_it(folder: Path) -> None:
    state = StateDb.open(folder)
    state.commit([offset(position=5)])
    beside = open_read_only(folder)
    during = [row["position"] for row in beside.query("SELECT position FROM offsets")]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        beside.conn.execute("DELETE FROM offsets")
    beside.close()
    state.close()
    after = open_read_only(folder)

    assert during == [row["position"] for row in after.query("SELECT position FROM offsets")] == [5]
    after.close()
    with pytest.raises(ServiceUnavailable, match="no such file"):
        open_read_only(folder / "nowhere")


def test_finished_files_are_forgotten_after_a_week(folder: Path) -> None:
    state = StateDb.open(folder)
    state.commit([offset("files/1:1:0", finished=True), offset("files/1:2:0")])
    state.close()
    state = StateDb.open(folder, now=lambda: 4e9)

    assert [known.source for known in state.load_offsets("files")] == ["files/1:2:0"]
    state.close()


def test_a_migration_is_applied_once(folder: Path) -> None:
    StateDb.open(folder).close()
    StateDb.open(folder).close()
    report = open_read_only(folder)

    assert [migration.name for migration in migrations.applied(report)] == ["first"]
    report.close()


WRITER = """
import sys
from pathlib import Path
from logclf_daemon.state import Intent, Offset, StateDb
state = StateDb.open(Path(sys.argv[1]))
for position in range(1, 10**9):
    state.commit([Offset(source="a", input="files", device=1, inode=1, generation=0, path=b"p", position=position)])
    print(position, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_committed(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.stdout if line.endswith(b"\n")]
    state = StateDb.open(folder)

    assert state.load_offsets("files")[0].position >= max([200, *told])
    assert state.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    state.close()


def test_making_the_tables_does_not_load_pandas(tmp_path: Path) -> None:
    """It would be 70 MB for good."""
    code = (
        "import sys; from pathlib import Path; from logclf_daemon.state import StateDb; "
        "from logclf_daemon.stages.verdicts import VerdictMemory; place = Path(sys.argv[1]); "
        "StateDb.open(place).close(); VerdictMemory(place / 'cache.db', 'x').close(); "
        "assert 'sqlite_utils' in sys.modules and 'pandas' not in sys.modules; import pandas"
    )
    path = ":".join(entry for entry in sys.path if entry)

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
