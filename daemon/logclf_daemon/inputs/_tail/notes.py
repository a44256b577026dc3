"""What an operator is told about files: each change once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from logclf_daemon.events import InputNote, InputTrouble, emit


class Notes:
    """The events of one input."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._empty: set[bytes] = set()
        self._problems: dict[bytes, str] = {}

    def note(self, what: str, where: bytes, detail: str | None = None) -> None:
        """Something an operator may want to know."""
        emit(InputNote(input=self._name, what=what, where=os.fsdecode(where), detail=detail))

    def trouble(self, what: str, where: bytes, detail: str | None = None) -> None:
        """Something odd that was survived; `what` is a fixed word."""
        emit(InputTrouble(input=self._name, what=what, where=os.fsdecode(where), detail=detail))

    def empty(self, patterns: Iterable[bytes]) -> None:
        """Patterns that match nothing yet."""
        now = set(patterns)
        for pattern in sorted(now - self._empty):
            self.note("nothing matches yet", pattern)
        self._empty = now

    def problems(self, problems: Mapping[bytes, str]) -> None:
        """Names that match and cannot be read, with the reason."""
        for path, problem in problems.items():
            if self._problems.get(path) != problem:
                self.trouble("unreadable", path, problem)
        self._problems = dict(problems)
