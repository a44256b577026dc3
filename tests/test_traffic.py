"""What came by lately: counted exactly, over time, in flat memory."""

from __future__ import annotations

import asyncio

from doubles import FixedStage, cascade, rule
from logclf_daemon.cascade import Cascade
from logclf_daemon.metrics import value
from logclf_daemon.traffic import FEW, MINUTES, SETTLE_SECS, Traffic

MODEL = {"disk": "Resource Usage"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def watched(limit: int = 100) -> tuple[Cascade, Traffic, Clock]:
    clock = Clock()
    traffic = Traffic(limit, clock)
    return cascade([rule("sshd", "Security Alert")], [FixedStage(MODEL)], traffic=traffic), traffic, clock


def classify(tested: Cascade, *lines: bytes | None, source: str = "app.log") -> None:
    asyncio.run(tested.classify(source, lines))


def test_lines_of_a_template_are_counted_together_with_one_of_them_and_their_verdict() -> None:
    tested, traffic, _ = watched()

    classify(tested, b"disk 1 full", b"disk 2 full", b"sshd: no", b"hello")
    classify(tested, b"disk 3 full")

    found = {seen.example: (seen.count, seen.verdict.label, seen.verdict.stage) for seen in traffic.all()}
    assert found == {
        b"disk 1 full": (3, "Resource Usage", "model"),
        b"sshd: no": (1, "Security Alert", "rules"),
        b"hello": (1, "Unclassified", "none"),
    }


def test_the_same_template_of_another_source_is_another_one() -> None:
    tested, traffic, _ = watched()

    classify(tested, b"disk full")
    classify(tested, b"disk full", source="other.log")

    assert sorted(seen.source for seen in traffic.all()) == ["app.log", "other.log"]
    seen = traffic.all()[0]
    assert traffic.find(seen.template, "app.log") is not traffic.find(seen.template, "other.log")


def test_lines_without_a_message_are_no_template() -> None:
    tested, traffic, _ = watched()

    classify(tested, None, b"hello", None)

    assert [seen.example for seen in traffic.all()] == [b"hello"]


def test_the_last_hour_is_known_by_the_minute() -> None:
    tested, traffic, clock = watched()
    classify(tested, b"disk full", b"disk full")
    clock.now += 60
    classify(tested, b"disk full")
    (seen,) = traffic.all()

    assert seen.minutes(clock.now)[-3:] == [0, 2, 1]

    clock.now += 120
    assert seen.minutes(clock.now)[-5:] == [0, 2, 1, 0, 0]
    clock.now += 60 * MINUTES
    assert seen.minutes(clock.now) == [0] * MINUTES
    assert seen.count == 3


def test_old_templates_are_forgotten_and_busy_ones_are_not() -> None:
    tested, traffic, clock = watched(limit=50)

    for number in range(400):
        classify(tested, b"disk full", f"word{'x' * number} hello".encode())
        clock.now += 2
        assert len(traffic) <= 101

    (busy,) = [seen for seen in traffic.all() if seen.example == b"disk full"]
    assert busy.count == 400


def test_novelty_counts_templates_and_a_reload_makes_none_of_them_new() -> None:
    tested, traffic, _ = watched()
    before = value("logclf_templates_new_total")

    classify(tested, b"disk 1 full", b"disk 2 full", b"hello")
    tested.generation = cascade([rule("sshd")]).generation
    classify(tested, b"disk 3 full", b"hello", b"new")

    assert value("logclf_templates_new_total") - before == 3
    assert len(traffic) == 3


def test_verdicts_are_counted_when_somebody_looks_also_those_of_a_cascade_that_is_gone() -> None:
    before = value("logclf_verdicts_total", stage="model", label="Resource Usage")

    classify(cascade([], [FixedStage(MODEL)]), *[b"disk full"] * 7)

    assert value("logclf_verdicts_total", stage="model", label="Resource Usage") - before == 7


def test_a_batch_adds_to_one_dict_and_what_came_before_is_worked_out_every_few_seconds() -> None:
    tested, traffic, clock = watched()
    classify(tested, b"disk full")
    clock.now += SETTLE_SECS + 1

    classify(tested, b"disk full")

    assert sum(traffic._pending.values()) == 1


def test_a_look_at_full_load_counts_every_verdict_and_leaves_the_templates_for_later() -> None:
    tested, traffic, clock = watched(limit=2 * FEW)
    many = [f"word{'x' * number} hello".encode() for number in range(FEW + 1)]
    none = {"stage": "none", "label": "Unclassified"}
    before = value("logclf_verdicts_total", **none)
    classify(tested, *many, *many)

    assert value("logclf_verdicts_total", **none) - before == 2 * len(many)
    assert not traffic._known.values()
    clock.now += SETTLE_SECS + 1
    classify(tested, b"disk full")
    assert [seen.count for seen in traffic._known.values()] == [2] * FEW
    classify(tested)

    assert [seen.count for seen in traffic._known.values()] == [2] * len(many)
    assert value("logclf_verdicts_total", **none) - before == 2 * len(many)
    assert len(traffic) == len(many) + 1
