"""What is odd about rules that are valid: dead, shadowed, contradicting, costly or too broad ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from logclf_daemon.stages._rules.engines import Engine, Pattern, engine_for
from logclf_daemon.stages._rules.files import Rule

Kind = Literal["dead", "shadowed", "contradicts", "costly", "broad"]
Hits = Callable[[Sequence[bytes]], list[tuple[int, int, int]]]

COSTLY_US = 2.0  # a line, scanned for this rule alone; an ordinary one takes .2
BROAD_FILES = 3
SAMPLE_LINES = 5000


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity of one rule. `dead` and `contradicts` are mistakes, the others worth a look."""

    kind: Kind
    rule: Rule
    words: str

    @property
    def mistake(self) -> bool:
        return self.kind in {"dead", "contradicts"}

    def __str__(self) -> str:
        return f"{self.rule.where()}: {self.kind}: {self.words}"


def lint(rules: Sequence[Rule], hits: Hits, sample: Sequence[bytes] | None = ()) -> Iterator[Finding]:
    """All oddities. `rules` in winning order, `hits` finds their numbers in lines, `sample` are real lines.

    An empty sample: the examples are timed, which takes some seconds for hundreds of rules; None: nothing is.
    """
    examples = [(number, text.encode()) for number, rule in enumerate(rules) for text in rule.options.examples]
    yield from _overruled(rules, examples, hits)
    yield from _contradicting(rules, hits)
    yield from _broad(rules, examples, hits)
    if sample is not None:
        yield from _costly(rules, list(sample[:SAMPLE_LINES]) or [text for _, text in examples][:SAMPLE_LINES])


def _matched(lines: Sequence[bytes], hits: Hits, count: int) -> list[list[int]]:
    """For each line the rules that match it, winner first."""
    found: list[set[int]] = [set() for _ in lines]
    for line, number, _end in hits(lines):
        if number < count:
            found[line].add(number)
    return [sorted(numbers) for numbers in found]


def _overruled(rules: Sequence[Rule], examples: Sequence[tuple[int, bytes]], hits: Hits) -> Iterator[Finding]:
    winners: dict[int, list[int]] = {}
    for (number, _), matched in zip(examples, _matched([text for _, text in examples], hits, len(rules)), strict=True):
        winners.setdefault(number, []).append(matched[0] if matched else number)
    for number, won in winners.items():
        others = sorted({winner for winner in won if winner != number})
        names = ", ".join(rules[other].id for other in others)
        if number not in won:
            yield Finding(
                "dead", rules[number], f"all its examples are claimed by {names}; give it a higher priority or drop it"
            )
        elif any(rules[other].options.label != rules[number].options.label for other in others):
            yield Finding("shadowed", rules[number], f"some of its examples are claimed by {names} with another label")


def _contradicting(rules: Sequence[Rule], hits: Hits) -> Iterator[Finding]:
    tried = [(number, text.encode()) for number, rule in enumerate(rules) for text in rule.options.counterexamples]
    for (number, _), matched in zip(tried, _matched([text for _, text in tried], hits, len(rules)), strict=True):
        # What a rule says it is not, another rule of the same label should not claim as the winner.
        winner = matched[0] if matched else number
        if winner != number and rules[winner].options.label == rules[number].options.label:
            words = f"claims a counterexample of {rules[number].id} for the same label"
            yield Finding("contradicts", rules[winner], words)


def _costly(rules: Sequence[Rule], lines: Sequence[bytes]) -> Iterator[Finding]:
    for rule in rules:
        engine = engine_for((Pattern(rule.options.pattern, rule.options.ignore_case),))
        # The machine does other things too: only what is slow each time is the rule's.
        micros = _micros(engine, lines)
        for _ in range(3):
            if micros > COSTLY_US:
                micros = min(micros, _micros(engine, lines))
        if micros > COSTLY_US:
            yield Finding(
                "costly", rule, f"{micros:.1f} us a line on its own; begin with fixed words, avoid leading .*"
            )


def _micros(engine: Engine, lines: Sequence[bytes]) -> float:
    """CPU microseconds a line."""
    started = time.thread_time()
    engine.hits(lines)
    return (time.thread_time() - started) / max(len(lines), 1) * 1e6


def _broad(rules: Sequence[Rule], examples: Sequence[tuple[int, bytes]], hits: Hits) -> Iterator[Finding]:
    """A rule that matches examples of many other files which have another label: it says less than it claims."""
    elsewhere: dict[int, set[str]] = {}
    for (number, _), matched in zip(examples, _matched([text for _, text in examples], hits, len(rules)), strict=True):
        for other in matched:
            if rules[other].path != rules[number].path and rules[other].options.label != rules[number].options.label:
                elsewhere.setdefault(other, set()).add(rules[number].path.name)
    for other, files in elsewhere.items():
        if len(files) >= BROAD_FILES:
            names = ", ".join(sorted(files)[:5])
            yield Finding("broad", rules[other], f"matches examples with another label in {len(files)} files: {names}")
