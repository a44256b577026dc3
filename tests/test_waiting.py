"""The waiting room before the LLM."""

from __future__ import annotations

import asyncio

from doubles import FixedStage, SlowStage, until
from logclf_daemon.record import Question, Verdict
from logclf_daemon.waiting import RETRY_SECS, WaitingRoom


def question(text: str, source: str = "app") -> Question:
    return Question(text, text, source, text.encode())


def test_concurrent_misses_of_one_template_share_one_question() -> None:
    stage = SlowStage({"a": "Error"})

    async def scenario() -> None:
        room = WaitingRoom(stage)
        futures = [room.ask(question("a"), 1) for _ in range(10)]
        stage.go_on.set()
        verdicts = await room.collect([(future, 1) for future in futures if not isinstance(future, Verdict)])

        assert [verdict.label for verdict in verdicts] == ["Error"] * 10
        assert len(stage.asked) == 1
        assert room.waiting == 0

    asyncio.run(scenario())


def test_records_that_wait_are_bounded() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage, max_waiting=5)
        first = room.ask(question("a"), 5)
        second = room.ask(question("b"), 1)
        stage.go_on.set()

        assert not isinstance(first, Verdict)
        assert isinstance(second, Verdict)
        assert second.reason == "llm_busy"
        room.close()

    asyncio.run(scenario())


def test_questions_are_bounded() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage, max_questions=2)
        answers = [room.ask(question(text), 1) for text in "abc"]
        stage.go_on.set()

        assert [isinstance(answer, Verdict) for answer in answers] == [False, False, True]
        room.close()

    asyncio.run(scenario())


def test_what_is_queued_when_the_llm_fails_is_not_asked_any_more_and_may_be_asked_again() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage)
        answers = [room.ask(question(text), 1) for text in "abc"]
        stage.reason = "llm_unavailable"
        stage.go_on.set()
        verdicts = await asyncio.gather(*(answer for answer in answers if not isinstance(answer, Verdict)))
        stage.reason = None

        assert [verdict.reason for verdict in verdicts[1:]] == ["llm_unavailable"] * 2
        assert len(stage.asked) <= 1
        assert not isinstance(room.ask(question("b"), 1), Verdict)
        room.close()

    asyncio.run(scenario())


def test_a_template_the_llm_cannot_label_is_not_asked_again_at_once() -> None:
    stage, now = SlowStage(), [0.0]
    stage.go_on.set()

    async def ask(room: WaitingRoom) -> str | None:
        asked = room.ask(question("a"), 1)
        if isinstance(asked, Verdict):
            return asked.reason
        (verdict,) = await room.collect([(asked, 1)])
        return f"asked: {verdict.reason}"

    async def scenario() -> None:
        room = WaitingRoom(stage, clock=lambda: now[0])

        assert await ask(room) == "asked: low_confidence"
        assert await ask(room) == "low_confidence"
        now[0] += RETRY_SECS
        assert await ask(room) == "asked: low_confidence"

    asyncio.run(scenario())


def test_answers_are_remembered_and_failures_are_not() -> None:
    stage, remembered = SlowStage({"good": "Error"}), []
    stage.go_on.set()

    async def scenario() -> None:
        room = WaitingRoom(stage, remember=lambda asked, verdict: remembered.append((asked.text, verdict.label)))
        room.ask(question("good"), 0)
        room.ask(question("bad"), 0)
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())
    assert remembered == [("good", "Error")]


def test_a_bug_in_the_stage_is_an_abstention() -> None:
    class Broken(SlowStage):
        def classify(self, questions: object) -> list[Verdict | None]:
            raise RuntimeError("bug")

    async def scenario() -> None:
        room = WaitingRoom(Broken())
        asked = room.ask(question("a"), 1)
        assert not isinstance(asked, Verdict)

        (verdict,) = await room.collect([(asked, 1)])

        assert verdict.reason == "stage_failed"

    asyncio.run(scenario())


def test_the_double_is_a_plain_stage() -> None:
    assert FixedStage({"a": "Error"}).classify([question("b")]) == [None]
