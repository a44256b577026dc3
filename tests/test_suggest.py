"""Rules from remembered verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from doubles import rule
from logclf_daemon.cli import main
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.rules import RuleSet, RulesOptions, load_rules
from logclf_daemon.stages.verdicts import Remembered, VerdictMemory
from logclf_daemon.suggest import Evidence, Suggestions, Wanted, suggest
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
    against = suggest([verdict("backup of volume 7 stalled")], shipped, Wanted(), [Evidence("recent lines", traffic)])
    assert against.left_out["contradicts_other_lines"] == 1
    (refused,) = against.refused
    assert (refused.line, refused.label, refused.what) == (*traffic[0], "recent lines")


def test_a_word_that_varies_is_a_gap() -> None:
    names = ("ann", "bob", "eve")
    found = suggested(*(verdict(f"nightly backup of {name} stalled after checks (code {len(name)})") for name in names))

    (one,) = found.found
    assert one.rule.pattern == r"nightly backup of.*stalled after checks\W+code"
    two = suggested(*(verdict(f"nightly backup of {name} stalled after checks") for name in names[:2])).found
    assert len(two) == 2, "two are no pattern"


def test_rare_templates_that_differ_in_what_varies_speak_together() -> None:
    names = ["ann", "bob", "cyd", "dan", "eve", "fay"]
    rare = [verdict(f"backup of home {name} stalled for good", hits=5) for name in names]

    (found,) = suggested(*rare).found

    assert found.hits == 5 * len(names)
    assert not suggested(*rare[:1]).found


def test_one_message_in_many_wrappings_is_one_rule() -> None:
    message = "cannot sync volume now"
    wrapped = [f"app: {message}", f"INFO store {message}", f'{{"ts": 1, "msg": "{message}"}}', message]

    (found,) = suggested(*(verdict(line, hits=9) for line in wrapped)).found

    assert found.rule.pattern == "cannot sync volume now"
    assert found.hits == 9 * len(wrapped)
    assert len(found.rule.examples) == 3, "a few show it"


def test_where_a_general_rule_would_contradict_each_template_has_its_own() -> None:
    wrapped = [verdict(f"{word}: cannot sync volume now") for word in ("app", "store", "web")]
    elsewhere = [("will retry, cannot sync volume now", "System Notification")]

    found = suggest(wrapped, RuleSet([rule("nothing like it")]), Wanted(), [Evidence("recent lines", elsewhere)])

    first_words = sorted(one.rule.pattern.split()[0] for one in found.found)
    assert first_words == [r"app\W+cannot", r"store\W+cannot", r"web\W+cannot"]
    assert found.refused == []


def test_what_the_llm_was_not_sure_of_refuses_no_rule() -> None:
    unsure = verdict("backup of volume 7 was stalled", "Error", confidence=0.5)

    (found,) = suggested(verdict("backup of volume 7 stalled"), unsure).found

    assert found.rule.label == "Workflow Error"


def test_a_persons_word_on_a_template_replaces_what_the_corpus_says_of_it() -> None:
    corpus = [Evidence("lines of the corpus", [("backup of volume 9 stalled", "Error")])]
    quiet = RuleSet([rule("nothing like it")])

    by_a_person = suggest([verdict("backup of volume 7 stalled", origin="human")], quiet, Wanted(), corpus)
    by_the_llm = suggest([verdict("backup of volume 7 stalled")], quiet, Wanted(), corpus)

    assert [one.rule.label for one in by_a_person.found] == ["Workflow Error"]
    assert by_the_llm.found == []
    assert [one.what for one in by_the_llm.refused] == ["lines of the corpus"]


def test_the_file_says_what_each_rule_was_tried_on_and_what_it_matches() -> None:
    corpus = [Evidence("lines of the corpus", [("backup of volume 9 stalled", "Workflow Error"), ("up", "Error")])]

    text = suggest([verdict("backup of volume 7 stalled")], RuleSet([rule("no")]), Wanted(), corpus).as_yaml()

    assert "Tried on remembered lines (1), examples of rules (1), lines of the corpus (2)." in text
    assert "matches remembered lines (1), lines of the corpus (1)" in text


def test_counterexamples_hold_no_secrets() -> None:
    recent = [Evidence("recent lines", [("backup of volume 7 done, password=hunter2", "System Notification")])]

    (found,) = suggest([verdict("backup of volume 7 stalled")], RuleSet([rule("no")]), Wanted(), recent).found

    assert found.rule.counterexamples == ("backup of volume 7 done, password=<secret>",)


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


def remembered(folder: Path, line: str, label: str) -> None:
    memory = VerdictMemory(folder / "cache.db", "x", model=lambda: "small:1b")
    text = canonical(line.encode())
    memory.remember(Question(template_id(text.encode()), text, "app", line.encode()), Verdict(label, 0.9, "llm"))
    memory.saw({(template_id(text.encode()), "app"): 50})
    memory.close()


def test_a_file_that_cannot_be_written_is_no_bug(tmp_path: Path) -> None:
    remembered(tmp_path, "backup of volume 7 stalled", "Workflow Error")
    target = tmp_path / "nowhere" / "suggested.yaml"

    done = CliRunner().invoke(main, ["rules", "suggest", "--state-dir", str(tmp_path), "-o", str(target)])

    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{target}: cannot be written: No such file or directory; give another -o" in done.stderr


def test_proposals_are_tried_on_the_corpus_before_anyone_sees_them(tmp_path: Path) -> None:
    line = (
        "device (wlan9): Activation: successful, device activated."  # the corpus has such lines, as System Notification
    )
    remembered(tmp_path, line, "Resource Usage")
    (tmp_path / "config.yaml").write_text("rules: {builtin: false}\n")

    done = CliRunner().invoke(
        main, ["rules", "suggest", "--config", str(tmp_path / "config.yaml"), "--state-dir", str(tmp_path)]
    )

    assert done.exit_code == 0, done.output
    assert "0 rules suggested; of other templates 1 contradicts other lines" in done.output
    (tried,) = re.findall(r"lines of the corpus \(([\d,]+)\)", done.output)
    assert int(tried.replace(",", "")) > 20_000
    assert "which is System Notification" in done.output


def test_proposals_are_tried_on_what_came_last_in_the_configured_files(tmp_path: Path) -> None:
    remembered(tmp_path, "backup of volume 7 stalled", "Workflow Error")
    (tmp_path / "own.yaml").write_text(
        "version: 1\nrules:\n  - {id: own, label: User Action, pattern: 'asked for it', examples: [asked for it]}\n"
    )
    (tmp_path / "app.log").write_text("ann asked for it: backup of volume 9 stalled\n")
    (tmp_path / "config.yaml").write_text(
        f"inputs: [{{type: files, paths: ['{tmp_path}/*.log']}}]\n"
        f"rules: {{builtin: false, paths: ['{tmp_path}/own.yaml']}}\nmodel: {{enabled: false}}\n"
    )

    done = CliRunner().invoke(
        main, ["rules", "suggest", "--config", str(tmp_path / "config.yaml"), "--state-dir", str(tmp_path)]
    )

    assert done.exit_code == 0, done.output
    assert "recent lines (1)" in done.output
    assert "of the recent lines, ann asked for it" in done.output


def test_without_the_corpus_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logclf_daemon.registry.CORPUS", ("logclf_no_such_package.known", "labelled_lines"))
    remembered(tmp_path, "backup of volume 7 stalled", "Workflow Error")

    done = CliRunner().invoke(main, ["rules", "suggest", "--state-dir", str(tmp_path)])

    assert done.exit_code == 0, done.output
    assert "lines of the corpus (0)" in done.output


def test_nothing_to_suggest_is_no_file(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["rules", "suggest", "--state-dir", str(tmp_path), "-o", str(tmp_path / "no.yaml")])

    assert done.exit_code == 0
    assert "0 rules suggested" in done.output
    assert not (tmp_path / "no.yaml").exists()
