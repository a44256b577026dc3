"""Rules from remembered verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from doubles import rule
from logclf_daemon.cli import main
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.rules import RuleSet, RulesOptions, load_rules
from logclf_daemon.stages.verdicts import Remembered, VerdictMemory
from logclf_daemon.suggest import Suggestions, Wanted, pattern_of, suggest
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import canonical, template_id


def verdict(
    line: str,
    label: str = "Workflow Error",
    *,
    source: str = "app",
    origin: str = "llm",
    confidence: float = 0.95,
    hits: int = 500,
    example: str | None = None,
) -> Remembered:
    text = canonical(line.encode())
    return Remembered(
        template=template_id(text.encode()),
        source=source,
        label=label,
        confidence=confidence,
        origin=origin,
        model="small:1b@abc" if origin == "llm" else "",
        asked="x" if origin == "llm" else "",
        text=text,
        example=line if example is None else example,
        created=1,
        last_seen=1,
        hits=hits,
    )


def suggested(*verdicts: Remembered, rules: RuleSet | None = None) -> Suggestions:
    return suggest(verdicts, rules or RuleSet([rule("nothing like it")]), Wanted())


STALLED = verdict("backup of volume 7 stalled after 31 seconds")


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("backup of volume 7 stalled after 31 s", r"backup\W+of\W+volume.*stalled\W+after.*s"),
        ("job[17]: sync-queue (main) stalled", r"job.*sync\-queue\W+main\W+stalled"),
        ("user=<user> backup (weekly) failed from <address>", r"user.*backup\W+weekly\W+failed\W+from"),
        ("7 up", None),
        ("12 errors in the nightly backup", None),
    ],
)
def test_a_pattern_has_the_words_of_the_template_and_gaps_for_what_varies(line: str, pattern: str | None) -> None:
    real = line.replace("<user>", "ann").replace("<address>", "10.0.0.9")
    assert pattern_of(canonical(real.encode()), line) == pattern


def test_a_frequent_and_sure_verdict_becomes_a_rule() -> None:
    (found,) = suggested(STALLED).found

    assert (found.rule.label, found.hits, found.said) == ("Workflow Error", 500, "small:1b")
    assert found.rule.examples == (STALLED.example,)


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ([verdict("backup of volume 7 stalled", hits=19)], "too_rare"),
        ([verdict("backup of volume 7 stalled", confidence=0.79)], "not_sure_enough"),
        ([verdict("backup of volume 7 stalled", example="")], "no_example"),
        ([verdict("a 7 b")], "too_few_words"),
        (
            [verdict("backup of volume 7 stalled"), verdict("backup of volume 7 stalled", "Error", source="web")],
            "labels_differ_by_source",
        ),
    ],
)
def test_what_is_not_stable_frequent_and_specific_becomes_none(verdicts: list[Remembered], reason: str) -> None:
    found = suggested(*verdicts)

    assert found.found == []
    assert found.left_out[reason] == 1


def test_a_persons_word_needs_no_number() -> None:
    (found,) = suggested(
        verdict("backup of volume 7 stalled", "Error", hits=0, confidence=0.1),
        verdict("backup of volume 7 stalled", "Workflow Error", origin="human", hits=0),
    ).found

    assert (found.rule.label, found.said) == ("Workflow Error", "a person")


def test_what_a_rule_answers_already_is_left_out() -> None:
    found = suggested(STALLED, rules=RuleSet([rule("backup of volume", "Error")]))

    assert found.left_out == {"a_rule_answers_already": 1}


def test_a_rule_that_would_match_a_line_with_another_label_is_not_shown() -> None:
    other = verdict("backup of volume 7 was never stalled or late, done after checks", "System Notification")
    shipped = RuleSet([rule("never mind", "System Notification")])

    assert (
        suggested(verdict("backup of volume 7 stalled"), other, rules=shipped).left_out["contradicts_other_lines"] == 1
    )
    traffic = [("backup of volume 3, long ago stalled, runs again", "System Notification")]
    against = suggest([verdict("backup of volume 7 stalled")], shipped, Wanted(), traffic)
    assert against.left_out["contradicts_other_lines"] == 1


def test_a_word_that_varies_is_a_gap() -> None:
    names = ("ann", "bob", "eve")
    found = suggested(*(verdict(f"nightly backup of {name} stalled after checks (code {len(name)})") for name in names))

    (one,) = found.found
    assert one.rule.pattern == r"nightly\W+backup\W+of.*stalled\W+after\W+checks\W+code"
    two = suggested(*(verdict(f"nightly backup of {name} stalled after checks") for name in names[:2])).found
    assert len(two) == 2, "two are no pattern"


def test_rare_templates_that_differ_in_what_varies_speak_together() -> None:
    names = ["ann", "bob", "cyd", "dan", "eve", "fay"]
    rare = [verdict(f"backup of home {name} stalled for good", hits=5) for name in names]

    (found,) = suggested(*rare).found

    assert found.hits == 5 * len(names)
    assert not suggested(*rare[:1]).found


def test_the_nearest_lines_with_another_label_are_counterexamples() -> None:
    other = verdict("backup of volume 7 finished after 31 seconds", "System Notification")

    found = suggested(STALLED, other).found

    assert found[0].rule.counterexamples == (other.example,)
    assert found[1].rule.counterexamples == (STALLED.example,)


def test_the_file_is_one_that_the_rule_commands_accept_and_its_rules_answer(tmp_path: Path) -> None:
    memory = VerdictMemory(tmp_path / "cache.db", "x", model=lambda: "small:1b")
    for line in ("backup of volume 7 stalled: 'café' \x07", 'queue: worker 3 gave up on "it"'):
        text = canonical(line.encode())
        question = Question(template_id(text.encode()), text, "app", line.encode())
        memory.remember(question, Verdict("Workflow Error", 0.9, "llm"))
        memory.saw({(question.template, "app"): 50})
    memory.close()
    target = tmp_path / "suggested.yaml"

    done = CliRunner().invoke(main, ["rules", "suggest", "--state-dir", str(tmp_path), "-o", str(target)])

    assert done.exit_code == 0, done.output
    assert "2 rules suggested" in done.output
    for command in ("check", "test"):
        assert CliRunner().invoke(main, ["rules", command, str(target)]).exit_code == 0
    rules = load_rules(RulesOptions(paths=(target,), builtin=False), Taxonomy(), None)
    numbers, _ = rules.match("app", [b"2026 host backup of volume 12 stalled: 'tea'", b"queue: worker 4 gave up on x"])
    assert [rules.verdict(number).label for number in numbers] == ["Workflow Error"] * 2


def test_nothing_to_suggest_is_no_file(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["rules", "suggest", "--state-dir", str(tmp_path), "-o", str(tmp_path / "no.yaml")])

    assert done.exit_code == 0
    assert "0 rules suggested" in done.output
    assert not (tmp_path / "no.yaml").exists()
