"""The dialect of patterns: refusals that say what to write, and two engines that read a pattern alike."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules.dialect import complaint
from logclf_daemon.stages._rules.engines import HyperscanEngine, Pattern, Re2Engine, engine_complaint
from logclf_daemon.stages._rules.files import Rule, read_rules
from logclf_daemon.taxonomy import Taxonomy


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("boom (?=12)", "look-ahead (?= is not supported (patterns are RE2, linear in time): match the text itself"),
        ("boom (?!12)", "look-ahead (?! is not supported"),
        ("(?<=a)boom", "match the text itself before it too"),
        ("(?<!a)boom", "give the exception a rule of its own with a higher priority"),
        (r"(b)oom \1", r"back-reference \1 is not supported"),
        ("(?P<b>b)oom (?P=b)", "write the alternatives out"),
        (r"(?P<b>b)oom \k<b>", "write the alternatives out"),
        ("(?>bo)om", "atomic group (?> is not supported"),
        ("bo++m", "leave the last + away"),
        ("b.{1,2}+m", "leave the last + away"),
        ("(?x) boom", "free spacing"),
        ("bo(?#o)m", "it belongs in the rule's description"),
        ("(b)?(?(1)o|m)", "condition (?( is not supported"),
        ("boom(?R)?", "recursion (?R is not supported"),
        ("(?P<b>b)(?P>b)", "recursion"),
        (r"boom\Z", "write $ for the end of the line"),
        (r"\Gboom", "write ^ for the start of the line"),
        (r"\hboom", r"write [ \t]"),
        (r"bo\Kom", "leave it out"),
        (r"\u0041", r"write the character itself, or \x and two digits for each of its bytes"),
        (r"\x{3b1}", r"write the character itself, or \x and two digits for each of its bytes"),
        ("(?'name'boom)", "write (?P<name>…)"),
        ("b.{0,1001}m", "go up to 1000"),
        ("|".join(f"w{number}.{{0,900}}x{number}" for number in range(200)), "in place of bounded repeats"),
        ("boom(", "not a valid RE2 pattern: missing )"),
        (r"boom\\Z(", "not a valid RE2 pattern: missing )"),
        ("boom*|", "matches the empty string"),
        ("bo\x00om", r"write \x00"),
        (r"\p{Greek}", r"\p is not supported"),
        (r"boom\z", "write $ for the end of the line"),
        (r"bo\Cm", r"write [\x00-\xff]"),
        (r"bo\vm", r"write \x0b"),
        ("(?U)bo+m", "leave it out"),
        ("(?i)é", "as (?:É|é)"),
        ("x[éè]y", "write alternatives as (?:é|è)"),
        ("xé+y", "write (?:é)+"),
    ],
)
def test_a_refusal_says_what_to_write_instead(pattern: str, words: str) -> None:
    assert words in (complaint(pattern) or "")


@pytest.mark.parametrize(
    "pattern",
    [
        r"boom \(\?=12\)",
        r"boom\\Zx",
        "café (?:é|è)+",
        r"[[:alpha:]_]+\d{2,}",
        r"\Q(?=\E",
        r"(?i)boom",
        r"^a\.b$",
        "(?<n>x)",
    ],
)
def test_what_only_looks_like_a_refused_construct_is_taken(pattern: str) -> None:
    assert complaint(pattern) is None
    assert engine_complaint(Pattern(pattern)) is None


@pytest.mark.parametrize("pattern", ["b^oom", "b$oom"])
def test_an_anchor_inside_is_refused_with_what_to_do(pattern: str) -> None:
    assert complaint(pattern) is None
    assert "write the text around it" in (engine_complaint(Pattern(pattern)) or "")


def _found(engine: HyperscanEngine | Re2Engine, lines: Sequence[bytes]) -> set[tuple[int, int]]:
    return {(line, pattern) for line, pattern, _end in engine.hits(lines)}


ALIKE = (
    r"a.b", r"a.*b$", r"boom$", r"^boom", r"(?m)^b", r"é", r"(?:é|è)+t", r"\bx", r"\Bx", r"\w+\.\d", r"[^b]c",
    r"x[[:space:]]y", r"\xe9", r"\Qa.b\E", r"(?i)Foo", r"(?s)a.c", r"a$|b\n", r"a{2,3}b", r"[\x80-\xff]{2}",
    r"(?:^| )x(?: |$)",
)  # fmt: skip
HYPERSCAN, RE2 = (engine([Pattern(pattern) for pattern in ALIKE]) for engine in (HyperscanEngine, Re2Engine))


PIECES = [
    piece.encode() for piece in ("a", "b", "c", "x", "y", "t", " ", ".", "\n", "0", "boom", "foo", "FOO", "é", "\0")
]
PIECES += [b"\xc3", b"\xe9", b"\xff"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_both_engines_read_a_pattern_alike(line: bytes) -> None:
    assert _found(HYPERSCAN, [line]) == _found(RE2, [line])


def test_without_hyperscan_the_shipped_rules_give_the_same_answers() -> None:
    """On their own examples and counterexamples, with other ends, cut, joined and damaged."""
    rules: list[Rule] = read_rules((), Taxonomy(), builtin=folder("rules"))
    patterns = [Pattern(rule.options.pattern, rule.options.ignore_case) for rule in rules]
    texts = [text for rule in rules for text in (*rule.options.examples, *rule.options.counterexamples)]
    chosen = Random(4)
    lines = []
    for text in texts:
        line = text.encode()
        cut = chosen.randrange(len(line))
        other = chosen.choice(texts).encode()
        lines += [
            line,
            line + b"\n",
            line[cut:] + other[:cut],
            line[:cut] + bytes([chosen.randrange(128, 256)]) + line[cut:],
        ]

    assert _found(Re2Engine(patterns), lines) == _found(HyperscanEngine(patterns, cache_directory()), lines)
