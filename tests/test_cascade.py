"""The cascade: the cheapest stage that is sure answers, no record is lost, no verdict depends on the order of lines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import msgpack
import pytest
from msgspec import Raw

from doubles import ChaosStage, FixedStage, SlowStage, cascade, rule, until
from logclf_daemon.cascade import Cascade, Classified
from logclf_daemon.codec import encode_entries, raw_str
from logclf_daemon.generation import NO_RULE, Generation, source_class
from logclf_daemon.metrics import value
from logclf_daemon.record import Batch, Record, SealedRecord, Verdict
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import template_id
from logclf_daemon.waiting import WaitingRoom


def verdicts(classified: Classified) -> list[tuple[str, str]]:
    return [(answer.verdict.label, answer.verdict.stage) for answer in classified.answers if answer is not None]


def classify(tested: Cascade, lines: Sequence[bytes | None], source: str = "app.log") -> Classified:
    return asyncio.run(tested.classify(source, lines))


def test_rules_answer_first_and_the_model_what_they_leave() -> None:
    model = FixedStage({"disk": "Resource Usage", "sshd": "Error"})

    classified = classify(cascade([rule("sshd", "Security Alert")], [model]), [b"sshd: no", b"disk full", b"hello"])

    assert verdicts(classified) == [
        ("Security Alert", "rules"),
        ("Resource Usage", "model"),
        ("Unclassified", "none"),
    ]
    assert [question.text for question in model.asked] == ["disk full", "hello"]


def test_the_model_is_asked_once_a_template() -> None:
    model = FixedStage({"took": "Error"})
    tested = cascade([], [model])

    for _ in range(3):
        classify(tested, [f"request {number} took {number} ms".encode() for number in range(500)])

    assert len(model.asked) == 1


def test_an_unsure_stage_leaves_the_line_to_the_next() -> None:
    first, second = FixedStage({"a": "Error"}, name="first"), FixedStage({"b": "User Action"}, name="second")

    assert verdicts(classify(cascade([], [first, second]), [b"a", b"b"])) == [
        ("Error", "first"),
        ("User Action", "second"),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_stage_loses_no_line(seed: int) -> None:
    tested = cascade([rule("known", "Error")], [ChaosStage(seed), FixedStage({"late": "Error"}, name="last")])
    lines = [f"{word} word{'x' * number}".encode() for number, word in enumerate(["known", "late", "odd"] * 30)]

    classified = classify(tested, lines)

    assert len(classified.answers) == len(lines)
    assert None not in classified.answers
    assert all(
        stage != "none" for line, (_, stage) in zip(lines, verdicts(classified), strict=True) if b"odd" not in line
    )


def test_a_verdict_does_not_depend_on_the_order_of_lines() -> None:
    words = ["disk", "user", "net", "0 errors", "12 errors", "status=200", "status=500", "exit code 0", "exit code 9"]
    lines = [
        f"{random.Random(number).randint(0, 10**9)} {word} x{number}".encode() for number in range(40) for word in words
    ]
    stage = {"disk": "Resource Usage", "user": "User Action", "some": "Error", "server-error": "Critical Error"}

    seen = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(lines, len(lines))
        answers = classify(cascade([], [FixedStage(stage)]), shuffled).answers
        seen.append(
            {line: answer and (answer.verdict, answer.template) for line, answer in zip(shuffled, answers, strict=True)}
        )

    assert seen[0] == seen[1] == seen[2]


def test_numbers_that_carry_meaning_get_verdicts_of_their_own() -> None:
    stage = FixedStage({"some errors": "Error", "none errors": "System Notification"})
    lines = [b"backup: 0 errors", b"backup: 12 errors", b"backup: 0 errors"]

    assert [label for label, _ in verdicts(classify(cascade([], [stage]), lines))] == [
        "System Notification",
        "Error",
        "System Notification",
    ]


def test_records_without_a_message_say_so() -> None:
    classified = classify(cascade([rule("x")]), [None, b"x", None])

    reasons = [answer.verdict.reason for answer in classified.answers if answer]
    assert reasons == ["no_message", None, "no_message"]


def test_a_rule_for_other_sources_does_not_answer() -> None:
    tested = cascade([rule("ready", "Error", source=["nginx*"]), rule("ready", "User Action", priority=50)])

    assert verdicts(classify(tested, [b"ready"], "/var/log/nginx.log")) == [("Error", "rules")]
    assert verdicts(classify(tested, [b"ready"], "/var/log/other.log")) == [("User Action", "rules")]


def test_large_batches_are_answered_in_slices() -> None:
    lines = [b"known" if number % 3 else b"other" for number in range(5000)]

    classified = classify(cascade([rule("known")], [FixedStage({"other": "User Action"})]), lines)

    assert [label for label, _ in verdicts(classified)] == [
        "Error" if number % 3 else "User Action" for number in range(5000)
    ]


def test_a_flood_of_new_templates_costs_a_batch_its_wait_and_no_more() -> None:
    model = FixedStage({"word": "Error"})
    tested = cascade([rule("known")], [model], local_wait_secs=-1.0)
    lines = [f"word {'x' * number}".encode() for number in range(1, 100)]

    first = classify(tested, [b"known", *lines])
    assert {answer.verdict.reason for answer in first.answers if answer} == {None, "model_busy"}
    assert model.asked == []

    tested._local_wait_secs = float("inf")
    assert {label for label, _ in verdicts(classify(tested, lines))} == {"Error"}


def test_a_flood_of_new_templates_keeps_memory_flat() -> None:
    tested = cascade([], [FixedStage({})])
    letters = "abcdefghijklmnop"

    for start in range(0, 60_000, 1000):
        lines = [
            "".join(letters[int(digit, 16)] for digit in f"{number:x}").encode()
            for number in range(start, start + 1000)
        ]
        classify(tested, lines)

    caches = tested.generation.caches("app.log", None)
    assert 8192 <= len(caches.folds) <= 2 * (8192 + 1000)
    assert 16384 <= len(caches.templates) <= 2 * (16384 + 1000)


def test_sources_of_one_kind_share_a_cache() -> None:
    assert source_class("/var/log/app.log.3") == source_class("/var/log/app.log")
    assert source_class("kube.pod-7d9f4c_ns") == source_class("kube.pod-1a2b3c_ns")
    assert source_class("nginx") != source_class("sshd")
    assert source_class("/var/log/caf\udce9.log.1") == "caf?.log", "a name in Latin-1: what is kept of it is text"


def attached(record: Record | SealedRecord, tested: Cascade) -> dict[object, object]:
    classified = asyncio.run(tested.classify_batch(Batch("x", [record])))
    tested.attach([record], classified.answers)
    blob = encode_entries([record])
    entry: list[dict[object, object]] = msgpack.unpackb(blob, strict_map_key=False, raw=False)
    return entry[1]


def test_the_verdict_is_one_map_and_the_fields_stay() -> None:
    record = Record(Raw(b"\x01"), {"log": raw_str(b"boom 5"), "n": Raw(b"\x05")})

    fields = attached(record, cascade([rule("boom", "Critical Error", id="boom-rule")]))

    assert fields.pop("logclf") == {
        "label": "Critical Error",
        "confidence": 1.0,
        "stage": "rules",
        "rule": "boom-rule",
        "template": template_id(b"boom"),
        "generation": 1,
    }
    assert fields == {"log": "boom 5", "n": 5}


def test_a_confidence_that_was_not_measured_is_left_out() -> None:
    tested = cascade([], [FixedStage({"disk": "Resource Usage"}, name="llm", confidence=None)])

    (answer,) = classify(tested, [b"disk full"]).answers

    assert answer is not None
    assert list(answer.fields) == ["label", "stage", "template", "generation"]
    assert msgpack.unpackb(bytes(answer.raw)) == answer.fields


def test_flat_fields_on_request() -> None:
    record = Record(Raw(b"\x01"), {"log": raw_str(b"boom")})

    fields = attached(record, cascade([rule("boom", id="b")], flatten=True))

    assert {name: fields[name] for name in ("logclf_label", "logclf_stage", "logclf_rule")} == {
        "logclf_label": "Error",
        "logclf_stage": "rules",
        "logclf_rule": "b",
    }


def test_a_sealed_record_gets_its_verdict_too() -> None:
    record = SealedRecord(Raw(b"\x01"), Raw(b"\x82\x07\xa1x\xa3log\xa4boom"))

    fields = attached(record, cascade([rule("boom")]))

    assert fields[7] == "x"
    assert fields["logclf"]["label"] == "Error"  # type: ignore[index]


def test_group_markers_are_neither_classified_nor_touched() -> None:
    records = [Record(Raw(b"\x01"), {"log": raw_str(b"boom")}) for _ in range(2)]
    tested = cascade([rule("boom")])
    batch = Batch("x", list(records), passthrough=frozenset({0}))

    classified = asyncio.run(tested.classify_batch(batch))
    tested.attach(batch.records, classified.answers, batch.passthrough)

    assert ["logclf" in record.fields for record in records] == [False, True]


def test_a_new_generation_forgets_the_verdicts_of_the_old() -> None:
    tested = cascade([], [FixedStage({"x": "Error"})])
    classify(tested, [b"x"])

    tested.generation = Generation(2, RuleSet([]), [FixedStage({"x": "User Action"})], Taxonomy())

    answer = classify(tested, [b"x"]).answers[0]
    assert answer is not None
    assert (answer.verdict.label, answer.generation) == ("User Action", 2)


def test_verdicts_are_counted_by_stage_and_label() -> None:
    before = value("logclf_verdicts_total", stage="rules", label="Workflow Error")

    classify(cascade([rule("job", "Workflow Error")]), [b"job"] * 7 + [b"other"])

    assert value("logclf_verdicts_total", stage="rules", label="Workflow Error") - before == 7


def test_only_lines_that_need_the_llm_wait_for_it() -> None:
    slow = SlowStage({"strange": "Security Alert"})

    async def scenario() -> None:
        tested = cascade(
            [rule("known")], [FixedStage({"disk": "Resource Usage"})], waiting=WaitingRoom(slow, wait_secs=10)
        )
        classified = await tested.classify("x", [b"known", b"strange thing 1", b"disk", b"strange thing 2"])

        assert [answer is None for answer in classified.answers] == [False, True, False, True]
        slow.go_on.set()
        await tested.settle_late(classified.late, classified.answers)

        assert verdicts(classified)[1] == ("Security Alert", "llm")
        assert len(slow.asked) == 1
        again = await tested.classify("x", [b"strange thing 3"])
        assert verdicts(again) == [("Security Alert", "llm")]
        assert len(slow.asked) == 1

    asyncio.run(scenario())


def test_a_late_answer_is_there_for_the_next_line() -> None:
    slow = SlowStage({"strange": "Security Alert"})

    async def scenario() -> None:
        tested = cascade(waiting=WaitingRoom(slow, wait_secs=0.01))
        classified = await tested.classify("x", [b"strange"])
        await tested.settle_late(classified.late, classified.answers)
        assert [answer and answer.verdict.reason for answer in classified.answers] == ["llm_timeout"]

        slow.go_on.set()
        assert tested.waiting is not None
        room = tested.waiting
        await until(lambda: room.questions == 0)

        assert verdicts(await tested.classify("x", [b"strange"])) == [("Security Alert", "llm")]

    asyncio.run(scenario())


def test_an_absent_llm_is_a_reason_and_costs_nothing() -> None:
    slow = SlowStage()
    slow.reason = "llm_unavailable"

    async def scenario() -> None:
        tested = cascade(waiting=WaitingRoom(slow))
        classified = await tested.classify("x", [b"strange"])

        assert classified.late == []
        assert [answer and answer.verdict.reason for answer in classified.answers] == ["llm_unavailable"]

    asyncio.run(scenario())
    assert slow.asked == []


class Provisional(FixedStage):
    """A memory whose answers are to an older question."""

    def _verdict(self, text: str) -> Verdict | None:
        verdict = super()._verdict(text)
        return verdict and replace(verdict, provisional=True)


def test_an_answer_to_an_older_question_counts_until_the_new_one_is_there() -> None:
    slow = SlowStage({"strange": "Security Alert"})
    memory = Provisional({"strange": "Error"}, name="llm")

    async def scenario() -> None:
        room = WaitingRoom(slow)
        tested = cascade([], [memory], waiting=room)
        for _ in range(3):
            classified = await tested.classify("x", [b"strange"])
            assert (verdicts(classified), classified.late) == ([("Error", "llm")], [])
        assert room.waiting == 0

        slow.go_on.set()
        await until(lambda: room.questions == 0)

        assert verdicts(await tested.classify("x", [b"strange"])) == [("Security Alert", "llm")]
        assert len(slow.asked) == 1
        assert len(memory.asked) == 1

    asyncio.run(scenario())


def test_an_answer_to_an_older_question_stays_while_the_llm_is_away() -> None:
    slow = SlowStage()
    slow.reason = "llm_unavailable"

    async def scenario() -> None:
        tested = cascade([], [Provisional({"strange": "Error"}, name="llm")], waiting=WaitingRoom(slow))
        assert verdicts(await tested.classify("x", [b"strange"])) == [("Error", "llm")]
        assert verdicts(await tested.classify("x", [b"strange"])) == [("Error", "llm")]

    asyncio.run(scenario())


class Fallback(FixedStage):
    """A memory of what the LLM said when another model was in force."""

    def _verdict(self, text: str) -> Verdict | None:
        verdict = super()._verdict(text)
        return verdict and replace(verdict, fallback=True)


def test_a_sure_model_comes_before_what_the_llm_said_when_another_was_unsure() -> None:
    memory = Fallback({"strange": "System Notification", "odd": "Error"}, name="llm")
    model = FixedStage({"strange": "Security Alert"})

    assert verdicts(classify(cascade([], [memory, model]), [b"strange", b"odd"])) == [
        ("Security Alert", "model"),
        ("Error", "llm"),
    ]


def test_what_a_remembered_verdict_answered_is_counted() -> None:
    memory = FixedStage({"strange": "Error"}, name="llm")
    tested = cascade([rule("known")], [memory])
    classified = classify(tested, [b"strange 1", b"strange 2", b"known", b"strange 3", None], "app-1.log")

    answer = classified.answers[0]
    assert answer is not None
    assert tested.take_seen() == {(answer.template, "app.log"): 3}
    assert tested.take_seen() == {}


def test_explain_asks_every_stage() -> None:
    tested = cascade([rule("boom", "Critical Error")], [FixedStage({"boom": "Error"})])

    found = asyncio.run(tested.explain("x", b"boom 12"))

    assert found.question.text == "boom"
    assert [(step.stage, step.verdict and step.verdict.label) for step in found.steps] == [
        ("rules", "Critical Error"),
        ("model", "Error"),
    ]
    assert all(step.secs >= 0 for step in found.steps)
    assert found.answer.verdict.label == "Critical Error"


def test_a_rule_answers_with_the_template_of_its_line() -> None:
    generation = cascade([rule("boom")]).generation

    ((answer, other), opened) = generation.recall("x", [b"boom 1", b"boom two"])

    assert opened == []
    assert answer is not None
    assert other is not None
    assert answer.template != other.template
    assert generation.rules.match("x", [b"nothing"])[0] == [NO_RULE]
    assert generation.rules.verdict(0) == Verdict("Error", 1.0, "rules", rule=answer.verdict.rule)
