"""Rules: files, refusals with a reason, priorities, examples."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from doubles import rule
from logclf_daemon.errors import ConfigError
from logclf_daemon.record import Question
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules import child, engines
from logclf_daemon.stages._rules.engines import HyperscanEngine, Pattern, Re2Engine
from logclf_daemon.stages.rules import RuleSet, RulesOptions, applies, complaint, load_rules
from logclf_daemon.taxonomy import Taxonomy

GOOD = """
version: 1
rules:
  - id: boom
    label: Critical Error
    pattern: 'boom \\d+'
    examples: ["boom 12"]
    counterexamples: ["boom twelve"]
"""


def load(
    tmp_path: Path, text: str, *, name: str = "own.yaml", taxonomy: Taxonomy | None = None, soon: bool = False
) -> RuleSet:
    path = tmp_path / name
    path.write_text(text)
    return load_rules(RulesOptions(paths=(tmp_path,), builtin=False), taxonomy or Taxonomy(), None, soon=soon)


def winner(rules: RuleSet, line: bytes, source: str = "x") -> str | None:
    number = rules.match(source, [line])[0][0]
    return None if number < 0 else rules.rules[number].id


def test_a_rule_answers_what_its_pattern_finds(tmp_path: Path) -> None:
    rules = load(tmp_path, GOOD)

    assert winner(rules, b"Nov 22 host x: boom 7!") == "boom"
    assert winner(rules, b"boom none") is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("pattern: 'boom \\d+'", "pattern: '(?<=a)boom'"), "yaml:6: boom: pattern: look-behind (?<= is not supported"),
        (("pattern: 'boom \\d+'", "pattern: '(?!a)boom'"), "give the exception a rule of its own"),
        (("pattern: 'boom \\d+'", "pattern: '(b)oom \\1'"), "back-reference \\1 is not supported"),
        (("pattern: 'boom \\d+'", "pattern: 'boom('"), "own.yaml:6: boom: pattern: not a valid RE2 pattern: missing )"),
        (("pattern: 'boom \\d+'", "pattern: 'x*'"), "matches the empty string"),
        (("pattern: 'boom \\d+'", "pattern: 'é'\n    ignore_case: true"), "ignoring the case works for ASCII"),
        (("label: Critical Error", "label: Critical Eror"), "'Critical Eror' is not a label; did you mean 'Critical"),
        (("id: boom", "id: boom\n    lable: x"), "own.yaml:5: rules.0.lable: unknown option; did you mean 'label'?"),
        (("version: 1", "version: 2"), "own.yaml:2: version: must be 1"),
        (('examples: ["boom 12"]', "examples: []"), "own.yaml:7: rules.0.examples:"),
        (("boom 12", "bang"), "own.yaml:4: boom: does not match its example 'bang'"),
        (("boom twelve", "boom 12"), "own.yaml:4: boom: matches its counterexample 'boom 12'"),
        (("id: boom", "id: [boom"), "own.yaml:"),
        (("id: boom", "id: boom\n    id: again"), "id: given twice, first in line 4"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_what_to_do(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace(*change))

    assert complaint in str(error.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    two = GOOD + GOOD.split("rules:\n")[1].replace("id: boom", "id: bang").replace("\\d+", "(?=x)")

    with pytest.raises(ConfigError) as error:
        load(tmp_path, two.replace("boom \\d+", "(?<=a)boom"))

    assert len(str(error.value).splitlines()) == 2


def test_an_id_used_twice_names_both_places(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(GOOD)

    with pytest.raises(ConfigError, match=r"own.yaml:4: boom: id: already used in .*first.yaml:4"):
        load(tmp_path, GOOD)


def test_hidden_files_of_a_folder_are_no_rule_files(tmp_path: Path) -> None:
    for unfinished in (".own.yaml", ".ansible_tmpx1own.yaml", "._own.yaml"):
        (tmp_path / unfinished).write_bytes(b"\x00\xff: [")

    assert len(load(tmp_path, GOOD)) == 1


def test_a_place_that_cannot_be_looked_at_is_named_with_its_option() -> None:
    options = RulesOptions(paths=(Path("/tmp"), Path("/") / ("x" * 300)), builtin=False)

    with pytest.raises(ConfigError, match=r"xxx: cannot be read: File name too long; give") as raised:
        load_rules(options, Taxonomy(), None)

    assert raised.value.key == ("rules", "paths", 1)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(ConfigError, match="/nowhere/rules: no such rule file or folder"):
        load_rules(RulesOptions(paths=(Path("/nowhere/rules"),), builtin=False), Taxonomy(), None)


@pytest.mark.parametrize("engine", [HyperscanEngine, Re2Engine])
def test_the_highest_priority_wins_then_file_and_order(engine: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logclf_daemon.stages._rules.matcher.engine_for", lambda patterns, *_, **__: engine(patterns))
    rules = RuleSet([rule("a.*b", id="first"), rule("b", id="second"), rule("A.*B", id="third", ignore_case=True)])

    assert [winner(rules, line) for line in (b"a b", b"xb", b"ayB", b"c")] == ["first", "second", "third", None]


@pytest.mark.parametrize("engine", [HyperscanEngine, Re2Engine])
def test_engines_report_every_end_of_a_kept_number(engine: type) -> None:
    tested = engine([Pattern("never"), Pattern("status=([0-9])(?:[^0-9]|$)", ends=True)])

    assert tested.hits([b"status=2 status=5", b"none"]) == [(0, 1, 9), (0, 1, 17)]


def test_hostile_lines_take_linear_time() -> None:
    rules = RuleSet([rule(r"(a+)+$"), rule(r"(.*a){8}b"), rule(r"x\S+y\S+z")])

    for line in (b"a" * 100_000 + b"!", b"xy" * 50_000, bytes(range(256)) * 400):
        rules.match("x", [line])


def test_globs_look_at_tag_path_and_file_name() -> None:
    assert applies(["auth*"], "/var/log/auth.log")
    assert applies(["/var/log/*"], "/var/log/auth.log")
    assert applies(["kube.*"], "kube.app")
    assert not applies(["nginx*", "apache*"], "/var/log/auth.log")


def test_as_a_stage_it_answers_questions() -> None:
    rules = RuleSet([rule("boom", "Critical Error", id="b")])

    first, second = rules.classify([Question("t", "boom", "s", b"boom"), Question("t", "-", "s", b"-")])

    assert first is not None
    assert (first.label, first.rule, first.confidence) == ("Critical Error", "b", 1.0)
    assert second is None


def test_own_labels_leave_shipped_rules_out(tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "a.yaml").write_text(GOOD)

    rules = load_rules(RulesOptions(), Taxonomy({"Fire": "it burns", "Water": "it is wet"}), tmp_path / "shipped")

    assert len(rules) == 0


def test_the_patterns_of_the_shipped_rules_are_what_a_start_takes_them_for() -> None:
    rules = load_rules(RulesOptions(), Taxonomy(), folder("rules"), cache_directory()).rules

    assert all(rule.shipped for rule in rules)
    refused = [(rule.id, complaint(rule.options.pattern, ignore_case=rule.options.ignore_case)) for rule in rules]
    assert [(name, reason) for name, reason in refused if reason is not None] == []


def test_the_shipped_rules_hold() -> None:
    rules = load_rules(RulesOptions(), Taxonomy(), folder("rules"), cache_directory())

    assert list(rules.failed_examples()) == []
    assert len(rules) >= 500
    assert len({rule.path for rule in rules.rules}) >= 40
    assert [rule.id for rule in rules.rules if not rule.options.counterexamples] == []
    assert list(map(str, rules.findings(None))) == []


def test_without_hyperscan_the_other_engine_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "hyperscan", None)

    assert isinstance(engines.engine_for((Pattern("only here"),)), Re2Engine)
    assert engines.engine_complaint(Pattern("a b")) is None


@pytest.mark.parametrize("soon", [False, True])
def test_a_pattern_that_takes_for_ever_to_compile_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    monkeypatch.setattr(child, "DEADLINE_SECS", 1.5)
    monkeypatch.setattr(child, "ALONE_SECS", 0.5)
    monkeypatch.setattr(engines, "MANY", 1)
    bomb = "|".join(f"w{number}.{{0,40}}x{number}" for number in range(600))  # RE2 takes it, compiling takes 2.6 s
    text = GOOD + f"  - {{id: bomb, label: Error, pattern: '{bomb}', examples: ['w1x1']}}\n"

    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, soon=soon)

    assert "own.yaml:9: bomb: compiling takes too long" in str(error.value)


@pytest.mark.parametrize("engine", [HyperscanEngine, Re2Engine])
def test_an_engine_can_be_tried_in_one_thread_while_another_scans(engine: type) -> None:
    """A reload does so: both sets share the engine of the shipped rules."""
    tested = engine([Pattern("boom"), Pattern("b.*m$")])
    lines = [b"boom " * 200, b"none"] * 500

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(tested.hits, [lines] * 40))

    assert all(hits == found[0] for hits in found)
    assert len(found[0]) == 500


def test_compiled_rules_are_kept_and_loaded_again(tmp_path: Path) -> None:
    patterns = [Pattern("kept [a-z]+"), Pattern("other")]

    first = HyperscanEngine(patterns, tmp_path)
    (path,) = tmp_path.iterdir()
    again = HyperscanEngine(patterns, tmp_path)

    assert first.hits([b"kept x"]) == again.hits([b"kept x"]) == [(0, 0, 6)]
    path.write_bytes(b"damaged")
    assert HyperscanEngine(patterns, tmp_path).hits([b"other"]) == [(0, 1, 5)]


@pytest.mark.parametrize(
    ("apart", "first", "compiled"), [(True, engines.Halves, 2), (False, Re2Engine, 0)], ids=["own", "shipped"]
)
def test_many_patterns_are_joined_later(tmp_path: Path, apart: bool, first: type, compiled: int) -> None:
    patterns = tuple(Pattern(f"word{number}x") for number in range(engines.MANY + 1))
    lines = [b"none", b"word7x word400x word6x", b"word0x"]
    found = [(1, 6), (1, 7), (1, 400), (2, 0)]

    engine = engines.engine_for(patterns, tmp_path, apart=apart, soon=True)
    assert isinstance(engine, engines.Provisional)
    assert isinstance(engine._engine, first)
    assert sorted(hit[:2] for hit in engine.hits(lines)) == found
    assert len(list(tmp_path.iterdir())) == compiled

    engine.join()
    engine.join()
    assert isinstance(engine._engine, HyperscanEngine)
    assert sorted(hit[:2] for hit in engine.hits(lines)) == found
    assert len(list(tmp_path.iterdir())) == compiled + 1
    assert engines.engine_for(patterns, tmp_path, apart=apart) is engine

    engines._known.clear()
    assert isinstance(engines.engine_for(patterns, tmp_path, apart=apart, soon=True), HyperscanEngine)


def test_what_is_too_much_together_stays_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(Pattern(f"part{number}x") for number in range(engines.MANY + 1))
    engine = engines.engine_for(many, tmp_path, apart=True, soon=True)
    calls = []

    def too_costly(*_patterns: object, **_how: object) -> NoReturn:
        calls.append(1)
        raise engines.TooCostly(None)

    monkeypatch.setattr(engines, "_cached", too_costly)
    engine.join()
    engine.join()

    assert calls == [1]
    assert [hit[:2] for hit in engine.hits([b"part9x"])] == [(0, 9)]


def test_few_patterns_are_compiled_at_once_and_many_where_nobody_is_in_a_hurry(tmp_path: Path) -> None:
    few = tuple(Pattern(f"few{number}x") for number in range(engines.SOME))
    unknown = tuple(Pattern(f"own{number}x") for number in range(engines.SOME + 1))

    assert isinstance(engines.engine_for(few, tmp_path, soon=True), HyperscanEngine)
    assert isinstance(engines.engine_for(unknown, tmp_path, apart=True, soon=True), HyperscanEngine)
    assert isinstance(engines.engine_for(unknown, tmp_path), HyperscanEngine)


def test_engines_not_used_for_long_are_let_go(tmp_path: Path) -> None:
    first = engines.engine_for((Pattern("gone 0"),), tmp_path)
    others = [engines.engine_for((Pattern(f"gone {number}"),), tmp_path) for number in range(1, engines.KNOWN + 1)]

    assert engines.engine_for((Pattern(f"gone {engines.KNOWN}"),), tmp_path) is others[-1]
    assert engines.engine_for((Pattern("gone 0"),), tmp_path) is not first


def test_lint_finds_what_is_odd() -> None:
    rules = RuleSet(
        [
            rule("boom", "Error", id="wide", examples=["boom"]),
            rule("boom now", "Critical Error", id="never", examples=["boom now"]),
            rule("bang( now)?", "Error", id="half", examples=["bang", "boom bang"], counterexamples=["boom boom"]),
        ]
    )

    found = {(finding.kind, finding.rule.id) for finding in rules.findings()}

    assert ("dead", "never") in found
    assert ("contradicts", "wide") in found
    assert not any(name == "half" and kind == "dead" for kind, name in found)


def test_lint_finds_a_rule_that_claims_the_lines_of_other_programs() -> None:
    others = [
        replace(
            rule(f"{name} said no", "Security Alert", id=name, examples=[f"{name} said no"]), path=Path(f"{name}.yaml")
        )
        for name in ("door", "gate", "wall")
    ]
    rules = RuleSet([*others, rule("said", "Error", id="wide", examples=["it said"])])

    (finding,) = rules.findings()

    assert (finding.kind, finding.rule.id) == ("broad", "wide")
    assert str(finding).endswith(
        "broad: matches examples with another label in 3 files: door.yaml, gate.yaml, wall.yaml"
    )


def test_lint_tells_what_a_costly_rule_takes() -> None:
    """A hundred times the threshold, so that a busy machine changes nothing."""
    rules = RuleSet([rule(r"\w+@\w+[.]\w+x", id="slow")])

    (finding,) = rules.findings([b"a" * 20_000 + b"@" + b"b" * 200_000] * 20)

    assert (finding.kind, finding.rule.id) == ("costly", "slow")
    assert re.search(r"costly: \d+\.\d us a line on its own", str(finding))


def test_explaining_a_line_names_all_rules_that_match() -> None:
    rules = RuleSet([rule("boom", id="first"), rule("b..m", id="second"), rule("bang", id="third")])

    assert [matched.id for matched in rules.matches(b"a boom")] == ["first", "second"]
