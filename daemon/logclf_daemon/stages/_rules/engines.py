"""Many patterns, one scan, linear time on any input.

hyperscan does it in .5-.6 us a line with 50-500 rules; `re2.Filter` (1-2 us) where hyperscan has no wheel. A pattern
must be valid for both: RE2 has the error message a person can read, hyperscan has the last word.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import re2

from logclf_daemon.stages._rules.child import TooCostly, compile_apart

try:
    import hyperscan
except ImportError:  # no wheel for this platform
    hyperscan = None  # type: ignore[assignment]

__all__ = [
    "Engine",
    "HyperscanEngine",
    "Pattern",
    "Re2Engine",
    "TooCostly",
    "complaint",
    "engine_complaint",
    "engine_for",
]

MAX_COMPILED_BYTES = 8 << 20
MAX_CACHED = 8

# What RE2 says (or the construct it stumbles over) and what to write instead.
_INSTEAD = {
    "(?=": "look-ahead is not linear; match the text itself, or add a second rule with a higher priority",
    "(?!": "look-ahead is not linear; give the exception a rule of its own with a higher priority",
    "(?<=": "look-behind is not linear; include the text before in the pattern",
    "(?<!": "look-behind is not linear; give the exception a rule of its own with a higher priority",
    "(?>": "atomic groups do not exist here and are not needed; use (?:…)",
    "(?#": "comments belong in the rule's description",
    r"\Z": r"write $ for the end of the line",
    r"\h": r"write [ \t]",
}


class Engine(Protocol):
    """Finds which of many patterns occur in each line."""

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """(line, pattern, end) for each pattern that occurs in a line, lines in order.

        A pattern comes once a line, `end` without meaning; one that asked for `ends` comes with each place where a
        match of it ends.
        """


@dataclass(frozen=True, slots=True)
class Pattern:
    """What an engine looks for."""

    text: str
    ignore_case: bool = False
    ends: bool = False


def complaint(pattern: str, *, ignore_case: bool = False) -> str | None:
    """Why RE2 or common sense refuses a pattern, in words for its author; None if it can be a rule."""
    if "\x00" in pattern:
        return r"contains a NUL character; write \x00"
    if ignore_case and not pattern.isascii():
        return "ignore_case works for ASCII letters only; write both cases of the others as [Éé]"
    try:
        compiled = re2.compile(pattern, _options(ignore_case))
    except re2.error as error:
        return _explained(pattern, error)
    if compiled.search(b""):
        return "matches the empty string, so it would match every line; make a part of it mandatory"
    return None


def _explained(pattern: str, error: Exception) -> str:
    reason = error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
    for construct, instead in sorted(_INSTEAD.items(), key=lambda item: -len(item[0])):
        if construct in pattern:
            return f"{construct} is not supported (patterns are RE2, linear in time): {instead}"
    if "escape" in reason and any(f"\\{digit}" in pattern for digit in "123456789"):
        return "back-references are not supported (patterns are RE2, linear in time): write the alternatives out"
    return f"not a valid RE2 pattern: {reason}"


def _options(ignore_case: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not ignore_case
    options.max_mem = MAX_COMPILED_BYTES
    return options


def _flags(pattern: Pattern) -> int:
    flags: int = 0 if pattern.ends else hyperscan.HS_FLAG_SINGLEMATCH
    return flags | (hyperscan.HS_FLAG_CASELESS if pattern.ignore_case else 0)


def engine_complaint(pattern: Pattern, *, apart: bool = False) -> str | None:
    """Why the matching engine of this machine refuses a pattern that RE2 takes. Slow: for when all were refused."""
    if hyperscan is None:
        return None
    try:
        _compiled([pattern], apart=apart)
    except (hyperscan.error, ValueError, TooCostly) as error:
        return f"refused by the matching engine: {error}; ^ and $ only at the ends, no huge repeats"
    return None


class HyperscanEngine:
    """All patterns in one hyperscan database. Belongs to one thread: the scratch space is not shared.

    Compiling hundreds of patterns takes seconds, loading what was compiled a millisecond: `cache` is a folder for that.
    """

    def __init__(self, patterns: Sequence[Pattern], cache: Path | None = None, *, apart: bool = False) -> None:
        self._database = _cached(patterns, cache, apart=apart)

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        add = found.append
        scan: Callable[..., None] = self._database.scan

        def on_match(pattern: int, _start: int, end: int, _flags: int, line: int) -> None:
            add((line, pattern, end))

        for at, line in enumerate(lines):
            scan(line, on_match, 0, at)
        return found


def _cached(patterns: Sequence[Pattern], cache: Path | None, *, apart: bool) -> Any:
    """The database from the cache, or compiled and put there."""
    name = sha256(repr((version("hyperscan"), list(patterns))).encode()).hexdigest()[:24]
    path = cache / f"rules-{name}.hsdb" if cache is not None else None
    if path is not None:
        with contextlib.suppress(OSError, hyperscan.error):  # absent, or of another processor: compile
            return _loaded(path.read_bytes())
    database, data = _compiled(patterns, apart=apart)
    if path is not None:
        with contextlib.suppress(OSError):  # a full or read-only disk costs the next start some seconds
            _keep(path, data or hyperscan.dumpb(database))
    return database


def _loaded(data: bytes) -> Any:
    database = hyperscan.loadb(data, hyperscan.HS_MODE_BLOCK)
    database.scratch = hyperscan.Scratch(database)
    return database


def _compiled(patterns: Sequence[Pattern], *, apart: bool) -> tuple[Any, bytes | None]:
    """The database, and its bytes if it comes from a child process."""
    if apart:
        data = compile_apart([(pattern.text, _flags(pattern)) for pattern in patterns])
        return _loaded(data), data
    database = hyperscan.Database()
    database.compile(
        expressions=[pattern.text.encode() for pattern in patterns],
        ids=list(range(len(patterns))),
        elements=len(patterns),
        flags=[_flags(pattern) for pattern in patterns],
    )
    return database, None


def _keep(path: Path, data: bytes) -> None:
    """Replace the file; only a few are kept, the ones used last."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    kept = sorted(path.parent.glob("rules-*.hsdb"), key=lambda other: other.stat().st_mtime, reverse=True)
    for old in kept[MAX_CACHED:]:
        old.unlink(missing_ok=True)


class Re2Engine:
    """The same with RE2 alone: a filter of literals first, then the few patterns that can match."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._ends = {at: re2.compile(pattern.text) for at, pattern in enumerate(patterns) if pattern.ends}
        self._filter = re2.Filter()
        for pattern in patterns:
            self._filter.Add(pattern.text, _options(pattern.ignore_case))
        self._filter.Compile()

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        match, ends = self._filter.Match, self._ends
        found: list[tuple[int, int, int]] = []
        for at, line in enumerate(lines):
            for pattern in match(line) or ():
                if pattern in ends:
                    found += [(at, pattern, hit.end()) for hit in ends[pattern].finditer(line)]
                else:
                    found.append((at, pattern, 0))
        return found


@lru_cache(maxsize=4)
def engine_for(patterns: tuple[Pattern, ...], cache: Path | None = None, *, apart: bool = False) -> Engine:
    """The fastest engine of this machine for these patterns; the same object for the same patterns.

    `apart` compiles in a child process with limits: for patterns nobody has looked at.

    Raises:
        ValueError: It refuses one of them; `engine_complaint` finds which.
        TooCostly: Compiling takes too long or too much memory.
    """
    if hyperscan is None:
        return Re2Engine(patterns)
    try:
        return HyperscanEngine(patterns, cache, apart=apart)
    except hyperscan.error as error:
        raise ValueError(str(error)) from error
