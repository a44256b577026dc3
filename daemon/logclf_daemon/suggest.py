"""Rules from remembered verdicts: what the LLM said again and again is answered in a microsecond from then on.

Nothing is taken over by itself. A rule is proposed only if it matches its own lines, no remembered line with another
label and no example of another rule with another label; a person reads it, then it joins the rule files.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from logclf_daemon.stages._rules.files import Rule, RuleOptions
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.stages.verdicts import HUMAN, Remembered
from logclf_daemon.template import spell_kept

LEAST_WORDS, LEAST_LETTERS = 2, 12  # of a pattern: fewer match what nobody meant
COUNTEREXAMPLES = 2
PRIORITY = 50  # below rules that people wrote
ENOUGH_ALIKE, MOST_VARYING = 3, 3
MAX_COMPARED, MAX_COMPARED_WORDS = 20_000, 24
_VARIES = "\0"
_COMMON = 2000  # a word of more lines tells nothing of what they mean

_WORD = re.compile(r"[^\W_](?:[\w.@/+-]*[^\W_])?")
_PLACEHOLDER = re.compile(r"<[\w-]{2,12}>")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which verdicts are stable and frequent enough."""

    min_hits: int = 20
    min_confidence: float = 0.8


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rule to review; `hits` are the records its verdicts answered, `said` who said so."""

    rule: RuleOptions
    hits: int
    said: str


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What is proposed, and of how many verdicts nothing could be, by reason."""

    found: list[Suggestion]
    left_out: Counter[str]

    def as_yaml(self) -> str:
        """A rule file to review; there must be rules."""
        blocks = [
            "# Suggested from remembered verdicts. Read each rule, then put the file into a rules folder.\nversion: 1"
        ]
        blocks.append("rules:")
        for suggestion in self.found:
            options = suggestion.rule.model_dump(mode="json", exclude_defaults=True)
            text = yaml.safe_dump([options], sort_keys=False, allow_unicode=True, width=1000)
            blocks.append(f"# {suggestion.hits} records, said by {suggestion.said}\n{text.rstrip()}")
        return "\n".join(blocks) + "\n"


def suggest(
    verdicts: Sequence[Remembered], rules: RuleSet, wanted: Wanted, traffic: Sequence[tuple[str, str]] = ()
) -> Suggestions:
    """Rules for verdicts; `traffic` holds more lines with their labels, which no rule may contradict."""
    templates = list(in_force(verdicts))
    known = [*((row.example, row.label) for rows in templates for row in rows if row.example), *traffic]
    known += [(text, rule.options.label) for rule in rules.rules for text in rule.options.examples]
    left_out: Counter[str] = Counter()
    drafts: dict[str, Suggestion] = {}
    words = general([rows[0] for rows in templates])
    # Templates that differ in nothing but what varies speak for one rule together.
    kind_of = [(rows[0].label, words.get(rows[0].template, rows[0].text)) for rows in templates]
    hits: Counter[tuple[str, str]] = Counter()
    for kind, rows in zip(kind_of, templates, strict=True):
        hits[kind] += sum(row.hits for row in rows)
    for kind, rows in zip(kind_of, templates, strict=True):
        reason = _unfit(rows, hits[kind], rules, wanted)
        pattern = None if reason else pattern_of(kind[1], rows[0].example)
        if reason is None and pattern is None:
            reason = "too_few_words"
        if reason is not None or pattern is None:
            left_out[reason or ""] += 1
        elif pattern not in drafts:
            drafts[pattern] = _draft(rows, hits[kind], pattern)
    found, contradicting = _tried(list(drafts.values()), known)
    left_out["contradicts_other_lines"] += contradicting
    return Suggestions(sorted(found, key=lambda one: -one.hits), +left_out)


def in_force(verdicts: Sequence[Remembered]) -> Iterator[list[Remembered]]:
    """The verdicts in force of each template: of a class of sources a person's word, else the newest."""
    best: dict[str, dict[str, Remembered]] = defaultdict(dict)
    for row in sorted(verdicts, key=lambda row: (row.origin == HUMAN, row.created)):
        best[row.template][row.source] = row
    for sources in best.values():
        yield sorted(sources.values(), key=lambda row: (not row.example, -row.hits))


def _unfit(rows: Sequence[Remembered], hits: int, rules: RuleSet, wanted: Wanted) -> str | None:
    """Why no rule is made of the verdicts of one template; `hits` are those of all templates of its kind."""
    if len({row.label for row in rows}) > 1:
        return "labels_differ_by_source"
    human = any(row.origin == HUMAN for row in rows)
    if not human and min(row.confidence for row in rows) < wanted.min_confidence:
        return "not_sure_enough"
    if not human and hits < wanted.min_hits:
        return "too_rare"
    if not rows[0].example:
        return "no_example"
    if rules.matches(rows[0].example.encode(), rows[0].source):
        return "a_rule_answers_already"
    return None


def general(verdicts: Sequence[Remembered]) -> dict[str, str]:
    """The texts of templates without the words that vary: names and the like, which no digit gives away.

    A word varies where `ENOUGH_ALIKE` templates of one label differ in nothing else.
    """
    ordered = sorted(verdicts, key=lambda row: -row.hits)[:MAX_COMPARED]
    texts = {row.template: (row.label, tuple(row.text.split())) for row in ordered}
    for _ in range(MOST_VARYING):
        seen: dict[int, set[str]] = defaultdict(set)
        for label, words in texts.values():
            for at, word in enumerate(words[:MAX_COMPARED_WORDS]):
                seen[hash((label, at, words[:at], words[at + 1 :]))].add(word)
        for template, (label, words) in texts.items():
            for at in range(min(len(words), MAX_COMPARED_WORDS)):
                alike = seen[hash((label, at, words[:at], words[at + 1 :]))]
                if words[at] != _VARIES and len(alike) >= ENOUGH_ALIKE:
                    texts[template] = (label, (*words[:at], _VARIES, *words[at + 1 :]))
                    break
    return {template: " ".join(word for word in words if word != _VARIES) for template, (_, words) in texts.items()}


def pattern_of(text: str, example: str) -> str | None:
    """RE2 for the lines of a template: its words in their order, whatever varies between them; None: too unspecific."""
    if spell_kept(example.encode()) != example.encode():
        return None  # a number decides here (a status, `0 errors`): a person writes that rule better
    line = _PLACEHOLDER.sub(lambda found: "0" * len(found[0]), example)  # what was masked varies
    pieces: list[str] = []
    literal: list[str] = []
    at = 0
    for word in _WORD.findall(_PLACEHOLDER.sub(" ", text)):
        start = line.find(word, at)
        if start < 0:
            continue
        gap = line[at:start]
        if pieces:
            pieces.append(r"\W+" if gap and not any(map(str.isalnum, gap)) else ".*")
        pieces.append(re.escape(word))
        literal.append(word)
        at = start + len(word)
    letters = sum(letter.isalpha() for word in literal for letter in word)
    if len(literal) < LEAST_WORDS or letters < LEAST_LETTERS:
        return None
    return "".join(pieces)


def _draft(rows: Sequence[Remembered], hits: int, pattern: str) -> Suggestion:
    first = rows[0]
    examples = tuple(dict.fromkeys(row.example for row in rows if row.example and re.search(pattern, row.example)))
    said = ", ".join(sorted({"a person" if row.origin == HUMAN else row.model.partition("@")[0] for row in rows}))
    options = RuleOptions(
        id=f"suggested-{first.template}",
        label=first.label,
        pattern=pattern,
        priority=PRIORITY,
        description=f"Suggested: {first.text[:100]}",
        examples=examples or (first.example,),
    )
    return Suggestion(options, hits, said)


def _tried(drafts: Sequence[Suggestion], known: Sequence[tuple[str, str]]) -> tuple[list[Suggestion], int]:
    """The drafts that match their examples and nothing with another label, and how many do not."""
    place = Path("suggested.yaml")
    rules = [Rule(draft.rule, place, 1, 1) for draft in drafts]
    if not rules:
        return [], 0
    tried = RuleSet(rules)
    wrong = {words.split(": ")[1] for words in tried.failed_examples()}
    for line, label in known:
        wrong |= {rule.id for rule in tried.matches(line.encode()) if rule.options.label != label}
    kept = [draft for draft in drafts if draft.rule.id not in wrong]
    alike = _Alike(known)
    return [_with_counterexamples(draft, alike) for draft in kept], len(drafts) - len(kept)


class _Alike:
    """Finds the lines that share most words with another, by their rarer words."""

    def __init__(self, lines: Sequence[tuple[str, str]]) -> None:
        self._lines = lines
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for at, (line, _) in enumerate(lines):
            for word in set(_WORD.findall(line)):
                self._with_word[word].append(at)

    def of(self, line: str, label: str) -> list[str]:
        """Those with another label that share two words or more, the nearest first."""
        common: Counter[int] = Counter()
        for word in set(_WORD.findall(line)):
            places = self._with_word.get(word, ())
            if len(places) <= _COMMON:
                common.update(places)
        order = sorted(common, key=lambda at: (-common[at], at))
        return list(dict.fromkeys(self._lines[at][0] for at in order if common[at] > 1 and self._lines[at][1] != label))


def _with_counterexamples(draft: Suggestion, alike: _Alike) -> Suggestion:
    """The lines with another label that are most like it, where there are any: they must never match."""
    nearest = alike.of(draft.rule.examples[0], draft.rule.label)[:COUNTEREXAMPLES]
    rule = draft.rule.model_copy(update={"counterexamples": tuple(nearest)})
    return Suggestion(rule, draft.hits, draft.said)
