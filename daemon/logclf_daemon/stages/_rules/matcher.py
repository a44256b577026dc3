"""Patterns parted by what they see: most take any digit where they take one, and need not look at each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from logclf_daemon.stages._rules.engines import Pattern, TooCostly, engine_for
from logclf_daemon.stages._rules.folding import folded


class Matcher:
    """Finds which of numbered patterns match all lines of a fold, and which of the others match a line.

    A pattern that wants its `ends` looks at digits.

    Raises:
        ValueError: From the constructor: an engine refuses a pattern.
        TooCostly: From the constructor; its culprit is the position of a pattern among all.
    """

    def __init__(self, patterns: Mapping[int, Pattern], cache: Path | None, *, apart: bool, soon: bool) -> None:
        by_fold = {number: folded(pattern.text) for number, pattern in patterns.items()}
        self._numbers = list(patterns)
        self._certain = [by_fold[number][1] and not patterns[number].ends for number in patterns]
        self._looking = [number for number, certain in zip(patterns, self._certain, strict=True) if not certain]
        for_folds = [Pattern(by_fold[number][0], pattern.ignore_case) for number, pattern in patterns.items()]
        looking = tuple(patterns[number] for number in self._looking)
        with ThreadPoolExecutor(1) as beside:  # compiling takes a second and holds no lock
            digits = beside.submit(engine_for, looking, cache, apart=apart, soon=soon) if looking else None
            self._folds = engine_for(tuple(for_folds), cache, apart=apart, soon=soon)
            try:
                self._digits = digits.result() if digits is not None else None
            except TooCostly as error:
                culprit = None if error.culprit is None else self._numbers.index(self._looking[error.culprit])
                raise TooCostly(culprit) from error

    def join(self) -> None:
        """Take the time to become faster (see `Engine`)."""
        self._folds.join()
        if self._digits is not None:
            self._digits.join()

    def by_fold(self, folds: Sequence[bytes]) -> list[tuple[int, int, bool]]:
        """(fold, number, whether it matches every line of this fold) for what matches some line of it."""
        numbers, certain = self._numbers, self._certain
        return [(at, numbers[place], certain[place]) for at, place, _ in self._folds.hits(folds)]

    def by_digits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """(line, number, end of the match) for those that look at digits and match a line."""
        if self._digits is None:
            return []
        numbers = self._looking
        return [(at, numbers[place], end) for at, place, end in self._digits.hits(lines)]
