"""Remembered verdicts in SQLite."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from logclf_daemon.errors import StageError
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.verdicts import VerdictMemory

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


def test_another_source_model_or_taxonomy_is_another_question(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), ERROR)
    memory.close()

    other = VerdictMemory(tmp_path / "cache.db", "two")

    assert other.classify([question("a")]) == [None]
    other.remember(question("a"), Verdict("User Action", 0.5, "llm"))
    assert other.classify([question("a"), question("a", "elsewhere")]) == [Verdict("User Action", 0.5, "llm"), None]
    other.close()


def test_a_persons_word_is_final(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "one")
    memory.remember(question("a"), Verdict("Security Alert", 1.0, "llm"), origin="human")
    memory.remember(question("a"), ERROR)
    memory.close()

    other = VerdictMemory(tmp_path / "cache.db", "two")

    (verdict,) = other.classify([question("a")])
    assert verdict is not None
    assert verdict.label == "Security Alert"
    other.close()


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
