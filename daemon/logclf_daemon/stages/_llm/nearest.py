"""Labelled lines that are most like a question, to show the LLM how such lines are labelled.

Measured on a 1.5B model with 30 lines: three of them lift it from 83 % to 90 %. They break the server's prefix cache,
so that a question takes a few times as long.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence


class Nearest:
    """Finds the texts that share most of a text's rarer words. Immutable after construction."""

    def __init__(self, labelled: Sequence[tuple[str, str]]) -> None:
        self._labelled = list(dict.fromkeys(labelled))
        self._words = [frozenset(_words(text)) for text, _ in self._labelled]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for at, words in enumerate(self._words):
            for word in words:
                self._with_word[word].append(at)

    def of(self, text: str, count: int) -> list[tuple[str, str]]:
        """At most `count` texts with their labels, the nearest last: what stands next to a question counts most."""
        score: dict[int, float] = defaultdict(float)
        for word in set(_words(text)):
            places = self._with_word.get(word, ())
            for at in places:
                score[at] += math.log(len(self._labelled) / len(places))
        # Of two that share the same words the shorter one is nearer.
        order = sorted(score, key=lambda at: (-score[at] / (2 + len(self._words[at])), at))
        return [self._labelled[at] for at in reversed(order[:count]) if score[at] > 0]


def _words(text: str) -> list[str]:
    return [word for word in text.lower().split() if len(word) > 2]
