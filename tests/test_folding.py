"""What a rule says of a fold is what it says of every line of that fold."""

from __future__ import annotations

import asyncio

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles import FixedStage, cascade, rule
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules.dialect import complaint, options
from logclf_daemon.stages._rules.engines import HyperscanEngine, Pattern, Re2Engine
from logclf_daemon.stages._rules.files import read_rules
from logclf_daemon.stages._rules.folding import folded
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import FOLD, KEPT

PIECES = [
    r"\d+", r"[0-9]{1,2}", r"[1-5]\d", r"[^1-5]", r"[^,]*", "5", "00", "a", " ", r"\x31", r"\x41", r"\Q1.\E", r"\Qa]\E",
    r"[]1]", r"[^]1-8]", r"[-1]", r"[\]1]", r"[[:digit:]a]", r"[[:^digit:]]", r"\w", r"\W", r"\b", r"\.", "{2}",
    r"\{2}", r"\08",
    "(?P<n1>1)", "(?:2|a3)", "(?i:A1)", "1?", "a{1,2}", r"\07", r"\0", "|", "$",
]  # fmt: skip
LINES = st.text("0123459a,. {}]-\\A", min_size=1, max_size=8)


TURNED = ("1234567890", "5678901234", "7070707070", "2222222222")


def found(pattern: str, line: bytes) -> bool:
    return re2.compile(pattern.encode(), options(False)).search(line) is not None


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.lists(LINES, min_size=1, max_size=12))
def test_a_folded_pattern_misses_no_line_and_an_exact_one_claims_none_too_many(
    pieces: list[str], texts: list[str]
) -> None:
    pattern = "".join(pieces)
    if complaint(pattern) is not None:
        return
    for_folds, exact = folded(pattern)

    for line in [text.encode() for text in texts]:
        matched = found(for_folds, line.translate(FOLD))
        assert matched or not found(pattern, line)
        assert not exact or matched == found(pattern, line)


@pytest.mark.parametrize(
    ("pattern", "for_folds", "exact"),
    [
        (r"exit code \d+", r"exit code \d+", True),
        (r"HTTP [45]\d\d", r"HTTP (?:0|[45])\d\d", False),
        (r"a{2,30} [^\s]{12}", r"a{2,30} [^\s]{12}", True),
        (r"(?P<v6>IPv6)", r"(?P<v6>IPv0)", False),
        (r"\x1b\[31m", r"\x1b\[00m", False),
        (r"\x35", "0", False),
        (r"\Q(1)\E|x", r"\Q(0)\E|x", False),
        ("٣ (?:é|7)", "٣ (?:é|0)", False),  # a digit of another script is none to a fold
        ("[1]2", "(?:0|[1])0", False),
    ],
)
def test_digits_become_what_stands_for_them(pattern: str, for_folds: str, exact: bool) -> None:
    assert folded(pattern) == (for_folds, exact)


@pytest.fixture(scope="module")
def shipped() -> RuleSet:
    return RuleSet(read_rules((), Taxonomy(), builtin=folder("rules")), cache_directory())


def other_digits(text: str) -> list[bytes]:
    """The line, and lines of the same fold."""
    return [
        text.encode(),
        *(text.translate(str.maketrans("0123456789", turned)).encode() for turned in TURNED),
    ]


def test_every_shipped_rule_matches_the_same_lines_as_its_pattern_alone(shipped: RuleSet) -> None:
    """Its examples and counterexamples, as they are and with other digits; also what the kept numbers find."""
    texts = {text for rule in shipped.rules for text in (*rule.options.examples, *rule.options.counterexamples)}
    lines = [line for text in sorted(texts) for line in other_digits(text)]
    alone = [Pattern(rule.options.pattern, rule.options.ignore_case) for rule in shipped.rules]
    alone += [Pattern(kept.pattern, ends=True) for kept in KEPT]

    numbers, kept = shipped.match("x", lines)

    expected: dict[int, list[tuple[int, int]]] = {}
    for at, number, end in HyperscanEngine(alone).hits(lines):
        expected.setdefault(at, []).append((number, end))
    count = len(shipped.rules)
    assert len(lines) > 5000
    for at, line in enumerate(lines):
        hits = expected.get(at, [])
        assert numbers[at] == min((number for number, _ in hits if number < count), default=-1), line
        assert sorted(kept.get(at, [])) == sorted((number - count, end) for number, end in hits if number >= count), (
            line
        )


def test_a_fold_whose_digits_do_not_count_has_one_winner_for_all_its_lines(shipped: RuleSet) -> None:
    texts = sorted({text for rule in shipped.rules for text in rule.options.examples})
    tried = 0

    for text, (number, digits_count) in zip(
        texts, shipped.by_fold("x", [text.encode().translate(FOLD) for text in texts]), strict=True
    ):
        if not digits_count:
            tried += 1
            assert shipped.match("x", other_digits(text)) == ([number] * 5, {}), text
    assert tried > len(texts) / 2


@pytest.mark.parametrize("engine", [HyperscanEngine, Re2Engine])
def test_a_rule_that_looks_at_digits_yields_to_a_better_one_that_does_not(
    engine: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logclf_daemon.stages._rules.matcher.engine_for", lambda patterns, *_, **__: engine(patterns))
    sees, blind = rule("code 5", "Error", priority=1), rule("code", "User Action", priority=2)

    assert RuleSet([blind, sees]).by_fold("x", [b"code 0"]) == [(0, False)]
    assert RuleSet([sees, blind]).by_fold("x", [b"code 0"]) == [(1, True)]


def test_lines_of_one_fold_get_the_verdicts_of_their_digits_in_any_order() -> None:
    tested = cascade(
        [rule("code [45]", "Error"), rule("done in", "Workflow Error")], [FixedStage({"code": "User Action"})]
    )
    lines = [b"code 2", b"code 5", b"code 2", b"code 4", b"done in 3", b"done in 9"] * 3

    for batch in (lines, lines[1:], lines[::-1]):
        answers = asyncio.run(tested.classify("x", batch)).answers
        labels = {line: answer.verdict.label for line, answer in zip(batch, answers, strict=True) if answer}
        assert labels == {
            b"code 2": "User Action",
            b"code 5": "Error",
            b"code 4": "Error",
            b"done in 3": "Workflow Error",
            b"done in 9": "Workflow Error",
        }


def test_a_rule_beyond_the_head_of_a_long_line_still_decides() -> None:
    tested = cascade(
        [rule("at the end", "Error"), rule("number 7$", "Security Alert")], [FixedStage({"x": "User Action"})]
    )
    head = b"x " * 1000

    for _ in range(2):
        answers = asyncio.run(
            tested.classify("x", [head, head + b"at the end", head + b"number 7", head + b"number 8"])
        )
        assert [answer.verdict.label for answer in answers.answers if answer] == [
            "User Action",
            "Error",
            "Security Alert",
            "User Action",
        ]


def test_sources_that_meet_other_rules_share_no_verdict() -> None:
    tested = cascade([rule("boom", "Error", source=("a-1.log",))], [FixedStage({"boom": "User Action"})])

    labels = []
    for source in ("a-1.log", "a-2.log", "a-1.log"):
        (answer,) = asyncio.run(tested.classify(source, [b"boom"])).answers
        assert answer is not None
        labels.append(answer.verdict.label)
    assert labels == ["Error", "User Action", "Error"]
