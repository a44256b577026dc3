"""The waiting room before the LLM."""

from __future__ import annotations

import asyncio
from itertools import count

from doubles import FixedStage, SlowStage, until
from logclf_daemon.record import Question, Verdict
from logclf_daemon.waiting import PATIENCE_SECS, RETRY_SECS, WaitingRoom


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


def test_a_template_that_fails_again_and_again_is_asked_less_and_less() -> None:
    stage, now = SlowStage(), [0.0]
    stage.go_on.set()

    async def scenario() -> None:
        room = WaitingRoom(stage, clock=lambda: now[0])
        for _ in range(24 * 60):  # a line a minute, for a day
            asked = room.ask(question("a"), 1)
            if not isinstance(asked, Verdict):
                await room.collect([(asked, 1)])
            now[0] += 60

    asyncio.run(scenario())
    assert 5 < len(stage.asked) < 15


def test_sources_take_turns() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage)
        for number in range(50):
            room.ask(question(f"flood{number}", "flood"), 1)
        for number in range(2):
            room.ask(question(f"quiet{number}", "quiet"), 1)
        stage.go_on.set()
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())
    assert [asked.source for asked in stage.asked[1:5]] == ["flood", "quiet", "flood", "quiet"]


def test_a_source_that_floods_the_queue_makes_room_for_the_others() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage, max_questions=6)
        flood = [room.ask(question(f"flood{number}", "flood"), 1) for number in range(20)]
        quiet = [room.ask(question(f"quiet{number}", "quiet"), 1) for number in range(5)]

        assert sum(not isinstance(asked, Verdict) for asked in flood) == 6
        assert [isinstance(asked, Verdict) for asked in quiet] == [False, False, True, True, True]
        assert room.questions == 6
        displaced = [asked for asked in flood if not isinstance(asked, Verdict) and asked.done()]
        assert [asked.result().reason for asked in displaced] == ["llm_busy"] * 2
        stage.go_on.set()
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())


def test_what_records_wait_for_is_asked_before_what_only_renews() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage, max_questions=4)
        room.ask(question("under way"), 1)
        for text in ("renewal", "promoted", "displaced"):
            room.ask(question(text), 0)
        room.ask(question("promoted"), 1)
        room.ask(question("new"), 1)
        stage.go_on.set()
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())
    assert [asked.text for asked in stage.asked] == ["under way", "promoted", "new", "renewal"]


def test_a_budget_bounds_the_questions() -> None:
    stage = SlowStage({"a": "Error", "b": "Error"})
    stage.go_on.set()

    async def scenario() -> None:
        room = WaitingRoom(stage, budget=2)
        for text in ("a", "a", "b"):
            asked = room.ask(question(text), 1)
            assert not isinstance(asked, Verdict)
        last = room.ask(question("c"), 1)
        assert isinstance(last, Verdict)
        assert last.reason == "llm_off"
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())
    assert len(stage.asked) == 2


def test_the_stage_is_warmed_up_before_the_first_question() -> None:
    stage = SlowStage({"a": "Error"})
    stage.go_on.set()

    async def scenario() -> None:
        room = WaitingRoom(stage)
        room.warm_up()
        asked = room.ask(question("a"), 1)
        assert not isinstance(asked, Verdict)
        await asked
        assert stage.warm

    asyncio.run(scenario())


def test_a_stage_is_looked_at_when_that_is_due_one_look_at_a_time() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage)
        room.look_again()
        stage.looks = 0
        for _ in range(3):
            room.look_again()
        await until(lambda: stage.looks == 1)
        stage.go_on.set()

        def again() -> bool:
            room.look_again()
            return stage.looks == 2

        await until(again)
        room.close()
        room.look_again()

    asyncio.run(scenario())


class Flaky(SlowStage):
    """Answers, then is away for as long as the test says."""

    def __init__(self) -> None:
        super().__init__({"": "Error"})
        self.go_on.set()
        self.looked = 0

    def unavailable(self) -> str | None:
        self.looked += 1
        return super().unavailable()


def test_who_has_time_waits_out_a_failure_of_a_server_that_answered_before() -> None:
    stage = Flaky()

    async def scenario() -> None:
        room = WaitingRoom(stage, wait_secs=None)
        first = room.ask(question("a"), 1)
        assert not isinstance(first, Verdict)
        await first
        stage.reason = "llm_unavailable"
        later = [room.ask(question(text), 1) for text in "bc"]
        before = stage.looked
        await until(lambda: stage.looked > before + 2)
        stage.reason = None
        verdicts = await room.collect([(asked, 1) for asked in later if not isinstance(asked, Verdict)])

        assert [verdict.label for verdict in verdicts] == ["Error", "Error"]

    asyncio.run(scenario())


def test_who_has_time_does_not_wait_for_ever_nor_for_a_server_that_never_answered() -> None:
    stage, ticks = Flaky(), count(0, PATIENCE_SECS / 2)  # half of its patience passes with every look

    async def scenario() -> None:
        room = WaitingRoom(stage, wait_secs=None, clock=lambda: float(next(ticks)))
        stage.reason = "llm_unavailable"
        never = room.ask(question("a"), 1)
        assert isinstance(never, Verdict)
        stage.reason = None
        asked = room.ask(question("a"), 1)
        assert not isinstance(asked, Verdict)
        await asked
        stage.reason = "llm_unavailable"
        later = [room.ask(question(text), 1) for text in "bc"]
        verdicts = await room.collect([(asked, 1) for asked in later if not isinstance(asked, Verdict)])

        assert [verdict.reason for verdict in verdicts] == ["llm_unavailable"] * 2
        assert isinstance(room.ask(question("d"), 1), Verdict)

    asyncio.run(scenario())


def test_a_closed_room_drops_its_queue() -> None:
    stage = SlowStage()

    async def scenario() -> None:
        room = WaitingRoom(stage, wait_secs=20)
        asked = [room.ask(question(text), 1) for text in "ab"]
        room.close()
        stage.go_on.set()
        verdicts = await room.collect([(future, 1) for future in asked if not isinstance(future, Verdict)])

        assert [verdict.reason for verdict in verdicts] == ["low_confidence", "llm_timeout"]
        assert len(stage.asked) == 1

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


def test_an_answer_that_cannot_be_remembered_counts_and_holds_up_no_other() -> None:
    stage = SlowStage({"a": "Error", "b": "Error"})
    stage.go_on.set()

    def forgets(asked: Question, verdict: Verdict) -> None:
        raise RuntimeError("bug")

    async def scenario() -> None:
        room = WaitingRoom(stage, remember=forgets)
        asked = [room.ask(question(text), 1) for text in "ab"]
        verdicts = await room.collect([(future, 1) for future in asked if not isinstance(future, Verdict)])

        assert [verdict.label for verdict in verdicts] == ["Error", "Error"]
        await until(lambda: room.questions == 0)

    asyncio.run(scenario())


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
