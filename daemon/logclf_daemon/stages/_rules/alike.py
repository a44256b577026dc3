"""What templates with one label have in common, and which lines are most like another."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH_ALIKE, MOST_VARYING = 3, 3
MAX_COMPARED, MAX_COMPARED_WORDS = 20_000, 24
RUN = 4  # words in a row that say what a line is about; three occur by chance
SAME_RUN = 0.8  # a neighbour that as many templates have belongs to the same words

_VARIES = "\0"
_COMMON = 2000  # a word of more lines tells nothing of what they mean
_WORD = re.compile(r"[^\W_](?:[\w.@/+-]*[^\W_])?")


@dataclass(frozen=True, slots=True)
class Labelled:
    """The text of a template and its label."""

    template: str
    label: str
    text: str


def general(templates: Sequence[Labelled]) -> dict[str, str]:
    """The texts of templates without the words that vary: names and the like, which no digit gives away.

    A word varies where `ENOUGH_ALIKE` templates of one label differ in nothing else. The most frequent come first.
    """
    texts = {one.template: (one.label, tuple(one.text.split())) for one in templates[:MAX_COMPARED]}
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


def phrases(templates: Sequence[Labelled]) -> dict[str, str]:
    """For each template the words in a row that it shares with others of its label, and with none of another.

    One message comes in many wrappings: bare, after a logger's name, in the field of a JSON record. The templates
    differ then in words at both ends, and what they mean stands in the middle.
    """
    words_of = {one.template: tuple(one.text.split()[:MAX_COMPARED_WORDS]) for one in templates[:MAX_COMPARED]}
    support: dict[tuple[str, ...], int] = {}
    label_of: dict[tuple[str, ...], str] = {}
    for one in templates[:MAX_COMPARED]:
        for run in set(_runs(words_of[one.template])):
            support[run] = support.get(run, 0) + 1
            if label_of.setdefault(run, one.label) != one.label:
                label_of[run] = ""
    found = {}
    for template, words in words_of.items():
        counts = [support[run] if label_of[run] else 0 for run in _runs(words)]
        if max(counts, default=0) >= ENOUGH_ALIKE:
            found[template] = " ".join(_around_the_most_shared(words, counts))
    return found


def _runs(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[at : at + RUN] for at in range(len(words) - RUN + 1)]


def _around_the_most_shared(words: tuple[str, ...], counts: Sequence[int]) -> tuple[str, ...]:
    first = last = counts.index(max(counts))
    enough = SAME_RUN * counts[first]
    while first and counts[first - 1] >= enough:
        first -= 1
    while last + 1 < len(counts) and counts[last + 1] >= enough:
        last += 1
    return words[first : last + RUN]


class Nearest:
    """Finds the lines that share most words with another, by their rarer words."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        """`lines` with their labels."""
        self._lines = list(lines.items())
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for at, (line, _) in enumerate(self._lines):
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
        return [self._lines[at][0] for at in order if common[at] > 1 and self._lines[at][1] != label]
