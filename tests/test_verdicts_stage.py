"""Remembered verdicts in SQLite."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from logclf_daemon.errors import BadInput, ConfigError, ServiceUnavailable, StageError
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.verdicts import Remembered, VerdictMemory
from logclf_daemon.taxonomy import Taxonomy

ERROR = Verdict("Error", 0.75, "llm")


def question(template: str, source: str = "app") -> Question:
    return Question(template, template, source, b"")


def test_a_verdict_survives_a_restart(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "model/labels/1")
    memory.remember(question("a"), ERROR)
    memory.close()

    again = VerdictMemory(tmp_path / "cache.db", "model/labels/1")

    assert again.classify([question("b"), question("a")]) == [None, ERROR]
    again.close()


def test_another_source_is_another_question(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), ERROR)

    assert memory.classify([question("a"), question("a", "elsewhere")]) == [ERROR, None]
    memory.close()


def test_an_answer_to_an_older_question_counts_until_the_new_one_is_there(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), ERROR)
    memory.close()

    other = VerdictMemory(tmp_path / "cache.db", "two")

    assert other.classify([question("a")]) == [replace(ERROR, provisional=True)]
    assert [row.asked for row in other.listed(stale=True)] == ["one"]
    other.remember(question("a"), Verdict("User Action", 0.5, "llm"))
    assert other.classify([question("a")]) == [Verdict("User Action", 0.5, "llm")]
    assert [row.asked for row in other.listed(stale=False)] == ["two"]
    other.close()


def test_the_same_model_with_other_weights_is_another_one(tmp_path: Path) -> None:
    names = ["small:1b@aaa"]
    memory = VerdictMemory(tmp_path / "cache.db", "one", model=lambda: names[0])
    memory.remember(question("a"), ERROR)

    names[0] = "small:1b"  # the server has not told yet
    assert memory.classify([question("a")]) == [ERROR]
    names[0] = "small:1b@bbb"
    assert memory.classify([question("a")]) == [replace(ERROR, provisional=True)]
    memory.remember(question("a"), ERROR)
    assert memory.classify([question("a")]) == [ERROR]
    assert memory.count() == 1
    memory.close()


def test_what_the_llm_said_when_another_local_model_was_unsure_is_a_fallback(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.head = "older"
    memory.remember(question("a"), ERROR)
    memory.set("b", "app", "Error")
    assert memory.classify([question("a")]) == [ERROR]

    memory.head = "newer"

    assert memory.classify([question("a"), question("b")]) == [
        replace(ERROR, fallback=True),
        Verdict("Error", 1.0, "llm"),
    ]
    memory.close()


def test_a_label_that_is_none_any_more_is_no_answer_and_not_forgotten(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.set("a", "app", "Old Label")
    memory.close()

    other = VerdictMemory(tmp_path / "cache.db", "two", taxonomy=Taxonomy())

    assert other.classify([question("a")]) == [None]
    assert [row.label for row in other.shown("a")] == ["Old Label"]
    other.close()


def test_a_persons_word_is_final(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.set("a", "app", "Security Alert")
    memory.remember(question("a"), ERROR)
    memory.close()

    other = VerdictMemory(tmp_path / "cache.db", "two", max_verdicts=1, clock=lambda: 1e10)
    other.remember(question("a"), ERROR)

    assert other.classify([question("a")]) == [Verdict("Security Alert", 1.0, "llm")]
    other.close()


def test_without_an_llm_only_peoples_words_count(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), ERROR)
    memory.set("b", "app", "Security Alert")
    memory.close()

    without = VerdictMemory(tmp_path / "cache.db", "", people_only=True)

    assert without.classify([question("a"), question("b")]) == [None, Verdict("Security Alert", 1.0, "llm")]
    without.close()


def test_a_person_says_one_of_the_labels(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one", taxonomy=Taxonomy())

    with pytest.raises(BadInput, match="did you mean 'Security Alert'"):
        memory.set("a", "app", "Security Alerts")

    assert memory.count() == 0
    memory.close()


def test_a_persons_word_takes_over_what_is_known_of_the_template(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(Question("a", "disk full", "app", b"disk 7 full"), ERROR)
    memory.saw({("a", "app"): 5})

    memory.set("a", "app", "Resource Usage")

    said = next(row for row in memory.shown("a") if row.origin == "human")
    assert (said.label, said.confidence, said.text, said.example, said.hits) == (
        "Resource Usage",
        1.0,
        "disk full",
        "disk 7 full",
        5,
    )
    memory.close()


def test_everything_people_change_is_a_change_and_what_the_llm_says_is_none(tmp_path: Path) -> None:
    memory, elsewhere = VerdictMemory(tmp_path / "cache.db", "one"), VerdictMemory(tmp_path / "cache.db", "one")
    seen = [memory.changes()]
    memory.remember(question("a"), ERROR)
    memory.saw({("a", "app"): 1})
    assert memory.changes() == seen[0]

    for change in (
        lambda: elsewhere.set("a", "app", "Error"),
        lambda: elsewhere.put(elsewhere.listed()),
        lambda: elsewhere.forget("a"),
    ):
        change()
        seen.append(memory.changes())

    assert seen == sorted(set(seen))
    memory.close()
    elsewhere.close()


def test_what_is_forgotten_is_asked_again(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    for source in ("app", "web"):
        memory.remember(question("a", source), ERROR)
        memory.set("a", source, "Error")

    assert memory.forget("a", "app") == 2
    assert memory.classify([question("a"), question("a", "web")])[0] is None
    assert memory.forget("a") == 2
    assert memory.count() == 0
    assert memory.forget("a") == 0
    memory.close()


def test_verdicts_are_listed_as_they_were_seen(tmp_path: Path) -> None:
    now = [1000.0]
    memory = VerdictMemory(tmp_path / "cache.db", "one", clock=lambda: now[0])
    for name in "abc":
        memory.remember(question(name), ERROR)
        now[0] += 1
    memory.saw({("a", "app"): 7, ("b", "elsewhere"): 7})
    memory.set("c", "app", "User Action")

    assert [row.template for row in memory.listed()] == ["a", "c", "c", "b"]
    assert memory.listed()[0].hits == 7
    assert [row.template for row in memory.listed(limit=1, offset=1)] == ["c"]
    assert [row.template for row in memory.listed(label="User Action")] == ["c"]
    assert [row.origin for row in memory.listed(origin="human")] == ["human"]
    assert memory.listed(origin="llm", label="User Action") == []
    memory.close()


def test_what_was_not_seen_for_long_and_the_oldest_of_too_many_are_let_go(tmp_path: Path) -> None:
    now = [0.0]
    memory = VerdictMemory(tmp_path / "cache.db", "one", clock=lambda: now[0])
    for number in range(20):
        memory.remember(question(f"{number:02}"), ERROR)
        now[0] += 1
    memory.set("00", "app", "Error")
    memory.saw({("05", "app"): 1})
    memory.close()

    def left(**bounds: float) -> list[str]:
        reopened = VerdictMemory(tmp_path / "cache.db", "one", clock=lambda: now[0], **bounds)  # type: ignore[arg-type]
        names = sorted(row.template for row in reopened.listed())
        reopened.close()
        return names

    assert left(max_age_secs=10.5) == ["00", "05", *(f"{number:02}" for number in range(9, 20))]
    assert left(max_verdicts=3) == ["00", "05", "19"]


def test_secrets_and_names_are_not_kept(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    line = "login of user=alice password=hunter2 from 10.1.2.3 by alice@example.org"

    memory.remember(Question("a", "login of user alice@example.org", "app", line.encode()), ERROR)

    (row,) = memory.shown("a")
    for word in ("alice", "hunter2", "10.1.2.3", "example.org"):
        assert word not in row.text + row.example
    memory.close()


def test_the_table_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "cache.db")
    connection.execute(
        "CREATE TABLE verdicts (template TEXT, source TEXT, label TEXT, confidence FLOAT, asked TEXT, origin TEXT,"
        " text TEXT, created INTEGER, last_seen INTEGER, hits INTEGER, PRIMARY KEY (template, source))"
    )
    rows = [
        ("a", "app", "Error", 0.75, "hf.co/x/small:1b/0f0f/1", "llm", "text a", 1, 2, 3),
        ("b", "app", "User Action", 0.5, "small:1b/0f0f/1", "human", "text b", 1, 2, 3),
        ("c", "app", "Error", 0.0, "hf.co/x/small:1b/0f0f/1", "llm", "text c", 1, 2, 3),
    ]
    connection.executemany(f"INSERT INTO verdicts VALUES ({','.join('?' * 10)})", rows)
    connection.commit()
    connection.close()

    memory = VerdictMemory(tmp_path / "cache.db", "hf.co/x/small:1b/0f0f/1", clock=lambda: 10.0)

    assert memory.classify([question("a"), question("b")]) == [ERROR, Verdict("User Action", 1.0, "llm")]
    assert memory.shown("a") == [
        Remembered("a", "app", "Error", 0.75, "llm", "hf.co/x/small:1b", rows[0][4], "text a", "", 1, 2, 3)
    ]
    assert [(row.model, row.asked) for row in memory.shown("b")] == [("", "")]
    assert [row.confidence for row in memory.shown("c")] == [None], "0 was: not measured"
    memory.close()


def test_a_confidence_that_was_not_measured_stays_so_after_a_restart(tmp_path: Path) -> None:
    unmeasured = Verdict("Error", None, "llm")
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), unmeasured)
    memory.close()

    memory = VerdictMemory(tmp_path / "cache.db", "one")
    assert memory.classify([question("a")]) == [unmeasured]
    memory.close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    VerdictMemory(tmp_path / "cache.db", "one").close()
    connection = sqlite3.connect(tmp_path / "cache.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(ConfigError, match="newer logclf-daemon"):
        VerdictMemory(tmp_path / "cache.db", "one")


def test_a_file_that_cannot_be_opened_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "cache.db").mkdir()

    with pytest.raises(ServiceUnavailable, match=r"cache\.db"):
        VerdictMemory(tmp_path / "cache.db", "one")

    assert [path.name for path in tmp_path.iterdir()] == ["cache.db"]


def test_a_writer_elsewhere_holds_up_no_look(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), ERROR)
    elsewhere = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
    elsewhere.execute("BEGIN IMMEDIATE")
    writing = threading.Thread(target=memory.remember, args=(question("b"), ERROR))
    writing.start()

    started = time.monotonic()
    assert memory.classify([question("a")]) == [ERROR]
    assert time.monotonic() - started < 3  # the writer waits five seconds

    elsewhere.execute("ROLLBACK")
    writing.join()
    assert memory.classify([question("b")]) == [ERROR]
    elsewhere.close()
    memory.close()


def test_many_processes_may_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from logclf_daemon.record import Question, Verdict;"
        "from logclf_daemon.stages.verdicts import VerdictMemory;"
        "memory = VerdictMemory(Path(sys.argv[1]), 'one');"
        "[memory.remember(Question(f'{sys.argv[2]}{n}', 't', 'app', b''), Verdict('Error', .75, 'llm'))"
        " or memory.set(f'{sys.argv[2]}{n}', 'app', 'Error') for n in range(100)];"
        "memory.close()"
    )
    path = tmp_path / "cache.db"

    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]

    assert [process.wait(50) for process in running] == [0, 0, 0]
    memory = VerdictMemory(path, "one")
    assert memory.count() == 600
    assert memory.changes() == 300
    memory.close()


def test_many_questions_are_one_look(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    for number in range(0, 1000, 2):
        memory.remember(question(f"t{number}"), ERROR)

    found = memory.classify([question(f"t{number}") for number in range(1000)])

    assert [verdict is not None for verdict in found] == [number % 2 == 0 for number in range(1000)]
    memory.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
def test_a_damaged_file_is_set_aside_and_the_memory_starts_empty(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(damage)

    memory = VerdictMemory(path, "one", clock=lambda: 7.0)
    memory.remember(question("a"), ERROR)

    assert memory.classify([question("a")]) == [ERROR]
    assert (tmp_path / "cache.db.corrupt-7").exists() == bool(damage)
    memory.close()


@pytest.mark.parametrize("gone", ["deleted", "moved", "replaced"])
def test_a_file_that_is_gone_under_a_running_daemon_is_made_again_and_peoples_words_count(
    tmp_path: Path, gone: str
) -> None:
    path = tmp_path / "cache.db"
    memory = VerdictMemory(path, "one")
    memory.set("a", "app", "Error")
    seen = memory.changes()
    for file in list(tmp_path.iterdir()):
        file.unlink() if gone == "deleted" else file.rename(tmp_path / f"old-{file.name}")
    if gone == "replaced":
        VerdictMemory(path, "one").close()

    again = memory.changes()
    other = VerdictMemory(path, "one")
    other.set("b", "app", "User Action")

    assert seen < again < memory.changes()
    assert memory.classify([question("a"), question("b")]) == [None, Verdict("User Action", 1.0, "llm")]
    memory.close()
    other.close()


def test_damage_under_a_running_daemon_is_set_aside_and_what_is_said_from_then_on_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    memory = VerdictMemory(path, "one", clock=lambda: 7.0)
    for number in range(200):
        memory.remember(question(f"t{number}"), ERROR)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.write(b"damage " * 20_000)

    with pytest.raises(StageError, match=r"cache\.db"):
        memory.classify([question(f"t{number}") for number in range(200)])
    memory.changes()
    memory.remember(question("new"), ERROR)

    assert (tmp_path / "cache.db.corrupt-7").exists()
    assert memory.classify([question("t1"), question("new")]) == [None, ERROR]
    memory.close()


def test_it_may_be_used_from_several_threads(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")

    def work(name: str) -> None:
        for number in range(50):
            memory.remember(question(f"{name}{number}"), ERROR)
            memory.classify([question(f"{name}{number}")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert memory.classify([question(f"{name}49") for name in "abcd"]) == [ERROR] * 4
    memory.close()


def test_an_unreadable_database_is_a_stage_error(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.close()

    with pytest.raises(StageError, match=r"cache\.db"):
        memory.classify([question("a")])


def test_two_processes_may_share_the_file(tmp_path: Path) -> None:
    one, other = VerdictMemory(tmp_path / "cache.db", "x"), VerdictMemory(tmp_path / "cache.db", "x")
    one.remember(question("a"), ERROR)

    assert other.classify([question("a")]) == [ERROR]
    one.close()
    other.close()
