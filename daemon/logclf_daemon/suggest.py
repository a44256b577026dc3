"""Rules from remembered verdicts: what the LLM said again and again is answered in a microsecond from then on.

Nothing is taken over by itself. A rule is proposed only if it matches its own lines and no line that is known to have
another label: remembered ones, examples of other rules, the corpus of the shipped model, recent traffic. A person reads
it, then it joins the rule files.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import yaml

from logclf_daemon.masking import masked
from logclf_daemon.stages._rules.alike import ENOUGH_ALIKE, Labelled, Nearest, general, phrases
from logclf_daemon.stages._rules.files import Rule, RuleOptions
from logclf_daemon.stages._rules.proposed import pattern_of
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.stages.verdicts import HUMAN, Remembered
from logclf_daemon.template import canonical, template_id

COUNTEREXAMPLES = 2
PRIORITY = 50  # below rules that people wrote
REMEMBERED, EXAMPLES = "remembered lines", "examples of rules"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which verdicts are stable and frequent enough."""

    min_hits: int = 20
    min_confidence: float = 0.8


@dataclass(frozen=True, slots=True)
class Evidence:
    """Lines with their labels that no rule may contradict, and what people call them."""

    what: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rule to review. `hits` are the records its verdicts answered, `said` who said so.

    `matches` are the lines it was tried on and matches, by kind of evidence; all of them have its label.
    """

    rule: RuleOptions
    hits: int
    said: str
    matches: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A rule that is not proposed: it matches `line`, one of `what`, which has another label."""

    rule: RuleOptions
    line: str
    label: str
    what: str


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What is proposed and what is not, of how many templates nothing is, by reason, and how many lines were tried."""

    found: list[Suggestion]
    refused: list[Refused]
    left_out: Counter[str]
    tried: Mapping[str, int]

    def as_yaml(self) -> str:
        """A rule file to review; there must be rules."""
        blocks = [
            "# Suggested from remembered verdicts. Read each rule, then put the file into a rules folder.\n"
            f"# No rule matches a line with another label. Tried on {counted(self.tried)}.\nversion: 1\nrules:"
        ]
        for suggestion in self.found:
            options = suggestion.rule.model_dump(mode="json", exclude_defaults=True)
            text = yaml.safe_dump([options], sort_keys=False, allow_unicode=True, width=1000)
            facts = f"{suggestion.hits} records, said by {suggestion.said}; matches {counted(suggestion.matches)}"
            blocks.append(f"# {facts}\n{text.rstrip()}")
        return "\n".join(blocks) + "\n"


def counted(lines: Mapping[str, int]) -> str:
    """`remembered lines (3), lines of the corpus (12)`."""
    return ", ".join(f"{what} ({count:,})" for what, count in lines.items())


def suggest(
    verdicts: Sequence[Remembered], rules: RuleSet, wanted: Wanted, known: Sequence[Evidence] = ()
) -> Suggestions:
    """Rules for verdicts; `known` are more lines that none of them may contradict."""
    templates = list(in_force(verdicts))
    drafts, left_out = _drafts(templates, rules, wanted)
    remembered = [row for rows in templates for row in rows if row.example and _counts(row, wanted)]
    examples = [(text, rule.options.label) for rule in rules.rules for text in rule.options.examples]
    everything = [
        Evidence(REMEMBERED, [(row.example, row.label) for row in remembered]),
        Evidence(EXAMPLES, examples),
        *known,
    ]
    people = {row.template: row.label for rows in templates for row in rows if row.origin == HUMAN}
    kept, refused = _tried([draft for several in drafts for draft in several], everything, people)
    # A rule for many templates comes first; those it speaks for need none of their own.
    chosen = [next((draft for draft in several if draft.pattern in kept), None) for several in drafts]
    left_out["contradicts_other_lines"] = sum(one is None for one in chosen)
    made = {draft.pattern: draft for draft in chosen if draft is not None}
    given_up = [several[-1].pattern for several, one in zip(drafts, chosen, strict=True) if one is None]
    nearest = Nearest(dict(line for one in everything for line in one.lines)) if made else None
    found = [_suggestion(draft, kept[pattern], nearest) for pattern, draft in made.items() if nearest is not None]
    return Suggestions(
        sorted(found, key=lambda one: -one.hits),
        [refused[pattern] for pattern in dict.fromkeys(given_up) if pattern in refused],
        +left_out,
        {one.what: len(one.lines) for one in everything},
    )


def in_force(verdicts: Sequence[Remembered]) -> Iterator[list[Remembered]]:
    """The verdicts in force of each template: of a class of sources a person's word, else the newest."""
    best: dict[str, dict[str, Remembered]] = defaultdict(dict)
    for row in sorted(verdicts, key=lambda row: (row.origin == HUMAN, row.created)):
        best[row.template][row.source] = row
    for sources in best.values():
        yield sorted(sources.values(), key=lambda row: (not row.example, -row.hits))


def _counts(row: Remembered, wanted: Wanted) -> bool:
    """Whether a verdict speaks against others: one the LLM was not sure of does not."""
    return row.origin == HUMAN or row.confidence is None or row.confidence >= wanted.min_confidence


@dataclass(frozen=True, slots=True)
class _Draft:
    """A rule that was not tried yet: for the templates of one kind, the verdicts of each."""

    pattern: str
    templates: list[list[Remembered]]

    @property
    def hits(self) -> int:
        return _hits(self.templates)

    def options(self) -> RuleOptions:
        first = self.templates[0][0]
        lines = (row.example for rows in self.templates for row in rows if row.example)
        examples = list(dict.fromkeys(line for line in lines if re.search(self.pattern, line)))[:ENOUGH_ALIKE]
        return RuleOptions(
            id=f"suggested-{template_id(self.pattern.encode())}",
            label=first.label,
            pattern=self.pattern,
            priority=PRIORITY,
            description=f"Suggested: {first.text[:100]}",
            examples=tuple(examples) or (first.example,),
        )


def _hits(templates: Sequence[Sequence[Remembered]]) -> int:
    return sum(row.hits for rows in templates for row in rows)


def _drafts(
    templates: Sequence[list[Remembered]], rules: RuleSet, wanted: Wanted
) -> tuple[list[list[_Draft]], Counter[str]]:
    """For each template that is fit the rules that would answer it, the most general first; why others are not fit."""
    sure = [rows[0] for rows in templates if all(_counts(row, wanted) for row in rows)]
    ordered = [Labelled(row.template, row.label, row.text) for row in sorted(sure, key=lambda row: -row.hits)]
    kinds: dict[tuple[str, str], list[list[Remembered]]] = defaultdict(list)
    kinds_of: list[list[tuple[str, str]]] = []
    shared, without_varying = phrases(ordered), general(ordered)
    for rows in templates:
        first = rows[0]
        texts = (first.text, without_varying.get(first.template), shared.get(first.template))
        kinds_of.append([(first.label, text) for text in dict.fromkeys(texts) if text])
        for kind in kinds_of[-1]:
            kinds[kind].append(rows)
    left_out: Counter[str] = Counter()
    found = []
    for rows, several in zip(templates, kinds_of, strict=True):
        hits = max((_hits(kinds[kind]) for kind in several), default=0)
        reason = _unfit(rows, hits, rules, wanted)
        several.sort(key=lambda kind: -len(kinds[kind]))  # of two that speak for as many the one that says more
        drafts = [] if reason else [draft for kind in several if (draft := _draft(kind[1], kinds[kind], rows, wanted))]
        if drafts:
            found.append(drafts)
        else:
            left_out[reason or "too_few_words"] += 1
    return found, left_out


def _unfit(rows: Sequence[Remembered], hits: int, rules: RuleSet, wanted: Wanted) -> str | None:
    """Why no rule is made of the verdicts of one template; `hits` are those of all templates of its kind."""
    if len({row.label for row in rows}) > 1:
        return "labels_differ_by_source"
    human = any(row.origin == HUMAN for row in rows)
    if not human and min(row.confidence or 0.0 for row in rows) < wanted.min_confidence:
        return "not_sure_enough"
    if not human and hits < wanted.min_hits:
        return "too_rare"
    if not rows[0].example:
        return "no_example"
    if rules.matches(rows[0].example.encode(), rows[0].source):
        return "a_rule_answers_already"
    return None


def _draft(text: str, templates: Sequence[list[Remembered]], rows: list[Remembered], wanted: Wanted) -> _Draft | None:
    """A rule for what these templates have in common; None where that is too little, or too rare."""
    human = any(row.origin == HUMAN for row in rows)
    if not human and _hits(templates) < wanted.min_hits:
        return None
    pattern = pattern_of(text, rows[0].example)
    # Those with most records first: their lines are the examples.
    return _Draft(pattern, sorted(templates, key=lambda one: -_hits([one]))) if pattern else None


def _tried(
    drafts: Sequence[_Draft], known: Sequence[Evidence], people: Mapping[str, str]
) -> tuple[dict[str, Counter[str]], dict[str, Refused]]:
    """What each rule that contradicts nothing matches, by pattern, and the others with the first line they do.

    A line of the same template as a person labelled counts as what the person said.
    """
    options = {draft.pattern: draft.options() for draft in drafts}
    if not options:
        return {}, {}
    place = Path("suggested.yaml")
    tried = RuleSet([Rule(rule, place, 1, 1) for rule in options.values()])
    misread = {words.split(": ")[1] for words in tried.failed_examples()}
    matches: dict[str, Counter[str]] = {rule.pattern: Counter() for rule in options.values() if rule.id not in misread}
    refused: dict[str, Refused] = {}
    for one in known:
        for line, label in one.lines:
            for rule in (rule.options for rule in tried.matches(line.encode("utf-8", "surrogateescape"))):
                if rule.label == label or people.get(_template(line)) == rule.label:
                    if rule.pattern in matches:
                        matches[rule.pattern][one.what] += 1
                else:
                    refused.setdefault(rule.pattern, Refused(rule, line, label, one.what))
    return {pattern: counts for pattern, counts in matches.items() if pattern not in refused}, refused


def _template(line: str) -> str:
    return template_id(canonical(line.encode("utf-8", "surrogateescape")).encode())


def _suggestion(draft: _Draft, matches: Mapping[str, int], nearest: Nearest) -> Suggestion:
    """With the lines with another label that are most like it, where there are any: they must never match."""
    rule = draft.options()
    shown = map(masked, nearest.of(rule.examples[0], rule.label))  # rule files are shown around
    against = list(islice((line for line in shown if not re.search(rule.pattern, line)), COUNTEREXAMPLES))
    rows = [row for several in draft.templates for row in several]
    said = ", ".join(sorted({"a person" if row.origin == HUMAN else row.model.partition("@")[0] for row in rows}))
    return Suggestion(rule.model_copy(update={"counterexamples": tuple(against)}), draft.hits, said, matches)
