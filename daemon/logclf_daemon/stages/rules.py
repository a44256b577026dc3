"""The rules stage: many RE2 patterns, one scan a line at most, the highest priority wins."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.errors import ConfigError
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages._rules.dialect import complaint
from logclf_daemon.stages._rules.engines import Pattern, TooCostly, engine_complaint
from logclf_daemon.stages._rules.files import Rule, read_rules, rule_paths
from logclf_daemon.stages._rules.lint import Finding, lint
from logclf_daemon.stages._rules.matcher import Matcher
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import FOLD, KEPT

__all__ = ["RuleSet", "RulesOptions", "applies", "complaint", "load_rules", "read_rules", "rule_paths"]

NO_RULE = -1


class RulesOptions(BaseModel):
    """Which rules are in force."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[Path, ...] = Field((), description="Rule files or folders of *.yaml; watched and hot-reloaded.")
    builtin: bool = Field(True, description="Use the rules that ship with the daemon too.")


class RuleSet:
    """Compiled rules. Immutable.

    `cache` is a folder for compiled patterns; `apart` compiles all but the shipped rules in a child process; `soon`
    puts off what takes long to compile until `join`.

    Raises:
        ConfigError: From the constructor, one line for each pattern that cannot be a rule.
    """

    name = "rules"

    def __init__(
        self, rules: Sequence[Rule], cache: Path | None = None, *, apart: bool = False, soon: bool = False
    ) -> None:
        self.rules = tuple(rules)
        self._verdicts = tuple(Verdict(rule.options.label, 1.0, "rules", rule=rule.id) for rule in rules)
        self._limited = {number: rule.options.source for number, rule in enumerate(rules) if rule.options.source}
        self._elsewhere: dict[str, frozenset[int]] = {}
        patterns = [Pattern(rule.options.pattern, rule.options.ignore_case) for rule in rules]
        _refuse(rules, [_complaint(rule) for rule in rules])
        # Shipped rules are compiled apart: a save of the user's own is in force at once. The kept numbers ride with
        # them, with numbers after those of the rules.
        patterns += [Pattern(kept.pattern, ends=True) for kept in KEPT]
        own = [number for number, rule in enumerate(rules) if not rule.shipped]
        first = sorted(set(range(len(patterns))) - set(own))
        try:
            self._matchers = [
                Matcher(
                    {number: patterns[number] for number in numbers}, cache, apart=apart and numbers is own, soon=soon
                )
                for numbers in (first, own)
                if numbers
            ]
        except TooCostly as error:
            where = "rules" if error.culprit is None else rules[own[error.culprit]].where(pattern=True)
            raise ConfigError(f"{where}: {error}; use .* in place of bounded repeats such as .{{0,900}}") from error
        except ValueError as error:
            _refuse(rules, [engine_complaint(pattern, apart=apart) for pattern in patterns[: len(rules)]])
            raise ConfigError(f"rules: {len(rules)} patterns are too much together: {error}") from error

    def __len__(self) -> int:
        return len(self.rules)

    def verdict(self, number: int) -> Verdict:
        """What the rule with this number says."""
        return self._verdicts[number]

    def join(self) -> None:
        """Take the time to become faster, where that was put off to be ready sooner. For a thread beside."""
        for matcher in self._matchers:
            matcher.join()

    def _hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """(line, number of the pattern, end), whatever it sees."""
        folds = [line.translate(FOLD) for line in lines]
        sure = [
            (at, number, 0) for matcher in self._matchers for at, number, certain in matcher.by_fold(folds) if certain
        ]
        return sure + [hit for matcher in self._matchers for hit in matcher.by_digits(lines)]

    def scope(self, source: str) -> Hashable:
        """The same for sources whose lines meet the same rules."""
        return self._not_for(source) if self._limited else None

    def by_fold(self, source: str, folds: Sequence[bytes]) -> list[tuple[int, bool]]:
        """For each fold: the best rule among those that match all its lines, or -1, and whether their digits count.

        They do where a better rule, or one of `template.KEPT`, matches some of these lines and perhaps not all.
        """
        count = len(self.rules)
        elsewhere = self._not_for(source) if self._limited else ()
        sure = [count] * len(folds)
        perhaps = [count] * len(folds)
        for matcher in self._matchers:
            for at, number, certain in matcher.by_fold(folds):
                if number >= count:
                    perhaps[at] = NO_RULE
                elif number not in elsewhere:
                    best = sure if certain else perhaps
                    best[at] = min(best[at], number)
        return [(NO_RULE if rule == count else rule, other < rule) for rule, other in zip(sure, perhaps, strict=True)]

    def by_digits(self, source: str, lines: Sequence[bytes]) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """For each line the best rule that looks at digits, or -1; for some which of `template.KEPT` end where."""
        numbers = [NO_RULE] * len(lines)
        kept: dict[int, list[tuple[int, int]]] = {}
        count = len(self.rules)
        elsewhere = self._not_for(source) if self._limited else ()
        for matcher in self._matchers:
            for line, number, end in matcher.by_digits(lines):
                if number >= count:
                    kept.setdefault(line, []).append((number - count, end))
                elif (numbers[line] == NO_RULE or number < numbers[line]) and number not in elsewhere:
                    numbers[line] = number
        return numbers, kept

    def match(self, source: str, lines: Sequence[bytes]) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """For each line the number of the winning rule or -1; for some lines which of `template.KEPT` end where."""
        numbers, kept = self.by_digits(source, lines)
        sure = self.by_fold(source, [line.translate(FOLD) for line in lines])
        both = zip(numbers, sure, strict=True)
        return [max(one, other) if NO_RULE in (one, other) else min(one, other) for one, (other, _) in both], kept

    def _not_for(self, source: str) -> frozenset[int]:
        """The rules whose `source` globs leave this source out."""
        known = self._elsewhere.get(source)
        if known is None:
            if len(self._elsewhere) > 10_000:
                self._elsewhere.clear()
            known = self._elsewhere[source] = frozenset(
                number for number, globs in self._limited.items() if not applies(globs, source)
            )
        return known

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """As a plain stage: the example line of each question."""
        numbers = [self.match(question.source, [question.example])[0][0] for question in questions]
        return [None if number == NO_RULE else self._verdicts[number] for number in numbers]

    def matches(self, line: bytes, source: str = "") -> list[Rule]:
        """All rules that match a line, the winner first."""
        elsewhere = self._not_for(source) if source else frozenset()
        numbers = {number for _, number, _ in self._hits([line])} - elsewhere
        return [self.rules[number] for number in sorted(numbers) if number < len(self.rules)]

    def findings(self, sample: Sequence[bytes] | None = ()) -> Iterator[Finding]:
        """What is odd about these valid rules; `sample` are real lines to time them on, None leaves that out."""
        return lint(self.rules, self._hits, sample)

    def failed_examples(self, *, shipped: bool = True) -> Iterator[str]:
        """Examples a rule does not match and counterexamples it does, one line each; those of `shipped` rules too."""
        rules = [(number, rule) for number, rule in enumerate(self.rules) if shipped or not rule.shipped]
        for polarity, name in ((True, "examples"), (False, "counterexamples")):
            tried = [(number, text) for number, rule in rules for text in getattr(rule.options, name)]
            matched: dict[int, set[int]] = {}
            for at, pattern, _end in self._hits([text.encode() for _, text in tried]):
                matched.setdefault(at, set()).add(pattern)
            for at, (number, text) in enumerate(tried):
                if (number in matched.get(at, set())) != polarity:
                    verb = "does not match its example" if polarity else "matches its counterexample"
                    yield f"{self.rules[number].where()}: {verb} {text[:120]!r}"


def _complaint(rule: Rule) -> str | None:
    # The tests look at the shipped ones: all of them take a tenth of a second, at every start and reload.
    if rule.shipped:
        return None
    return complaint(rule.options.pattern, ignore_case=rule.options.ignore_case)


def _refuse(rules: Sequence[Rule], reasons: Sequence[str | None]) -> None:
    mistakes = [
        f"{rule.where(pattern=True)}: pattern: {reason}" for rule, reason in zip(rules, reasons, strict=True) if reason
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def applies(globs: Sequence[str], source: str) -> bool:
    """Whether a rule limited to `globs` looks at this tag, path or file name."""
    name = PurePath(source).name
    return any(fnmatchcase(source, glob) or fnmatchcase(name, glob) for glob in globs)


def load_rules(
    options: RulesOptions,
    taxonomy: Taxonomy,
    builtin: Path | None,
    cache: Path | None = None,
    *,
    soon: bool = False,
) -> RuleSet:
    """Read and compile all rules, and try those that do not ship with the daemon on their own examples.

    `builtin` is the folder of shipped rules, used where the options say so; for `cache` and `soon` see `RuleSet`.

    Raises:
        ConfigError: One line for each mistake; nothing of the set may be used then.
    """
    for at, place in enumerate(options.paths):
        try:
            rule_paths([place])
        except ConfigError as error:
            raise ConfigError(str(error), ("rules", "paths", at)) from error
    found = read_rules(options.paths, taxonomy, builtin=builtin if options.builtin else None)
    rules = RuleSet(found, cache, apart=True, soon=soon)
    if mistakes := list(rules.failed_examples(shipped=False)):
        raise ConfigError("\n".join(mistakes))
    return rules
