"""Many patterns, one scan, linear time on any input.

hyperscan does it in .5-.6 us a line with 50-500 rules; `re2.Filter` (1-2 us) where hyperscan has no wheel. A pattern
must be valid for both (`dialect.py`), and both give the same answers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import re2

from logclf_daemon.stages._rules.child import TooCostly, compile_apart
from logclf_daemon.stages._rules.dialect import options, refused_by_the_engine

try:
    import hyperscan
except ImportError:  # no wheel for this platform
    hyperscan = None  # type: ignore[assignment]

__all__ = [
    "Engine",
    "Halves",
    "HyperscanEngine",
    "Pattern",
    "Provisional",
    "Re2Engine",
    "TooCostly",
    "engine_complaint",
    "engine_for",
]

MAX_CACHED = 16
KNOWN = 8  # engines kept for the next set of rules
SOME = 100  # patterns: a tenth of a second to compile
MANY = 400  # half a second
FILTERED_TOGETHER = 250  # patterns a filter of RE2: over 500 to 700 of them it does not compile


class Engine(Protocol):
    """Finds which of many patterns occur in each line."""

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """(line, pattern, end) for each pattern that occurs in a line, lines in order.

        A pattern comes once a line, `end` without meaning; one that asked for `ends` comes with each place where a
        match of it ends.
        """

    def join(self) -> None:
        """Take the time to become faster, where that was put off to be ready sooner. For a thread beside."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What an engine looks for."""

    text: str
    ignore_case: bool = False
    ends: bool = False


def _flags(pattern: Pattern) -> int:
    flags: int = 0 if pattern.ends else hyperscan.HS_FLAG_SINGLEMATCH
    return flags | (hyperscan.HS_FLAG_CASELESS if pattern.ignore_case else 0)


def engine_complaint(pattern: Pattern, *, apart: bool = False) -> str | None:
    """Why the matching engine of this machine refuses a pattern that RE2 takes. Slow: for when all were refused."""
    if hyperscan is None:
        return None
    try:
        _compiled([pattern], apart=apart)
    except (ValueError, TooCostly) as error:
        return refused_by_the_engine(str(error))
    return None


class HyperscanEngine:
    """All patterns in one hyperscan database, with a scratch space for each thread that scans.

    A reload tries its examples on the very engine the running set scans with, in another thread.
    Compiling hundreds of patterns takes seconds, loading what was compiled a millisecond: `cache` is a folder for that.
    """

    def __init__(self, patterns: Sequence[Pattern], cache: Path | None = None, *, apart: bool = False) -> None:
        self._database = _cached(patterns, cache, apart=apart)
        self._own = threading.local()

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        add = found.append
        scan: Callable[..., None] = self._database.scan
        scratch = getattr(self._own, "scratch", None)
        if scratch is None:
            scratch = self._own.scratch = hyperscan.Scratch(self._database)

        def on_match(pattern: int, _start: int, end: int, _flags: int, line: int) -> None:
            add((line, pattern, end))

        for at, line in enumerate(lines):
            scan(line, on_match, 0, at, scratch)
        return found

    def join(self) -> None:
        pass


class Halves:
    """Many patterns as two databases, compiled side by side in child processes.

    Compiling takes as long as there are patterns; but two scans of a line take a third longer than one.

    Raises:
        TooCostly: From the constructor.
    """

    def __init__(self, patterns: Sequence[Pattern], cache: Path | None = None) -> None:
        with ThreadPoolExecutor(2) as beside:
            halves = [beside.submit(HyperscanEngine, patterns[odd::2], cache, apart=True) for odd in (0, 1)]
        self._engines: list[HyperscanEngine] = []
        for odd, half in enumerate(halves):
            try:
                self._engines.append(half.result())
            except TooCostly as error:
                raise TooCostly(None if error.culprit is None else 2 * error.culprit + odd) from error

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        return sorted(
            (at, 2 * number + odd, end)
            for odd, half in enumerate(self._engines)
            for at, number, end in half.hits(lines)
        )

    def join(self) -> None:
        pass


class Provisional:
    """One that is there sooner than all patterns in one database, until `join` has compiled that."""

    def __init__(self, first: Engine, whole: Callable[[], Engine]) -> None:
        self._engine = first
        self._whole: Callable[[], Engine] | None = whole
        self._joining = threading.Lock()

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        return self._engine.hits(lines)

    def join(self) -> None:
        with self._joining:
            if self._whole is None:
                return
            with contextlib.suppress(TooCostly):  # all of them at once; they were not in parts
                self._engine = self._whole()
            self._whole = None


def _place(patterns: Sequence[Pattern], cache: Path | None) -> Path | None:
    """Where the database of these patterns is kept."""
    name = sha256(repr((version("hyperscan"), list(patterns))).encode()).hexdigest()[:24]
    return cache / f"rules-{name}.hsdb" if cache is not None else None


def _cached(patterns: Sequence[Pattern], cache: Path | None, *, apart: bool) -> Any:
    """The database from the cache, or compiled and put there."""
    path = _place(patterns, cache)
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
    """The database, and its bytes if it comes from a child process.

    Raises:
        ValueError: The engine refuses a pattern.
        TooCostly: In a child process only.
    """
    if apart:
        data = compile_apart([(pattern.text, _flags(pattern)) for pattern in patterns])
        return _loaded(data), data
    database = hyperscan.Database()
    try:
        database.compile(
            expressions=[pattern.text.encode() for pattern in patterns],
            ids=list(range(len(patterns))),
            elements=len(patterns),
            flags=[_flags(pattern) for pattern in patterns],
        )
    except hyperscan.error as error:
        raise ValueError(str(error)) from error
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
    """The same with RE2 alone: a filter of literals first, then the few patterns that can match.

    One byte makes a difference: the vertical tab is white space (`\\s`) for hyperscan only.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._ends = {
            at: re2.compile(pattern.text.encode(), options(pattern.ignore_case))
            for at, pattern in enumerate(patterns)
            if pattern.ends
        }
        self._filters = [
            (start, _filter(patterns[start : start + FILTERED_TOGETHER]))
            for start in range(0, len(patterns), FILTERED_TOGETHER)
        ]

    def hits(self, lines: Sequence[bytes]) -> list[tuple[int, int, int]]:
        ends = self._ends
        found: list[tuple[int, int, int]] = []
        for at, line in enumerate(lines):
            for pattern in self._matched(line):
                if pattern in ends:
                    found += [(at, pattern, hit.end()) for hit in ends[pattern].finditer(line)]
                else:
                    found.append((at, pattern, 0))
        return found

    def join(self) -> None:
        pass

    def _matched(self, line: bytes) -> set[int]:
        # hyperscan's $ stands before a last line end too, as in Perl.
        texts = (line, line[:-1]) if line.endswith(b"\n") else (line,)
        return {start + at for start, part in self._filters for text in texts for at in part.Match(text) or ()}


def _filter(patterns: Sequence[Pattern]) -> Any:
    built = re2.Filter()
    for pattern in patterns:
        built.Add(pattern.text.encode(), options(pattern.ignore_case))
    built.Compile()
    return built


def engine_for(
    patterns: tuple[Pattern, ...], cache: Path | None = None, *, apart: bool = False, soon: bool = False
) -> Engine:
    """The fastest engine of this machine for these patterns; the same object for the same patterns.

    `apart` compiles in a child process with limits: for patterns nobody has looked at. `soon` takes one that is there
    sooner and scans slower, where compiling takes long; `join` it then.

    Raises:
        ValueError: It refuses one of them; `engine_complaint` finds which.
        TooCostly: Compiling takes too long or too much memory.
    """
    key = (patterns, cache, apart)
    engine = _known.get(key)
    if engine is None:
        engine = _known[key] = _made(patterns, cache, apart=apart, soon=soon)
        for old in list(_known)[:-KNOWN]:
            _known.pop(old, None)  # another thread may be here too
    return engine


_known: dict[tuple[tuple[Pattern, ...], Path | None, bool], Engine] = {}


def _made(patterns: tuple[Pattern, ...], cache: Path | None, *, apart: bool, soon: bool) -> Engine:
    if hyperscan is None:
        return Re2Engine(patterns)
    whole = partial(HyperscanEngine, patterns, cache, apart=apart)
    place = _place(patterns, cache)
    if not soon or len(patterns) <= (MANY if apart else SOME) or (place is not None and place.exists()):
        return whole()
    # Whether hyperscan takes patterns that nobody has looked at has to be known at once.
    return Provisional(Halves(patterns, cache) if apart else Re2Engine(patterns), whole)
