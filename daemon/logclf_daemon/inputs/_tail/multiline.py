"""Which lines belong together: stack traces of Python, Java and Go, or whatever begins with a pattern.

A grouping is a function of the state after the line before and the line: the state after it, or None if it begins a
message of its own. State "" is before the first line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import re2

from logclf_daemon.errors import ConfigError

Grouping = Callable[[str, bytes], str | None]
ALONE = "alone"  # state after a line that begins no trace

_CHAINED = (b"During handling of the above exception", b"The above exception was the direct cause")
_JAVA_MORE = re.compile(rb"[\t ]+(?:at |\.\.\. |- (?:locked|waiting|parking)|Suppressed: |Caused by: )|Caused by: ")
_GO_START = re.compile(rb"(?:.*: )?(?:panic: |fatal error: |http: panic serving )|goroutine \d+ \[")
_GO_MORE = re.compile(
    rb"\Z|[\t ]|goroutine \d+ |created by |\[signal |runtime\.|exit status |panic: |[\w./*()\-]+\(.*\)\Z"
)


def python(state: str, line: bytes) -> str | None:
    """`Traceback`, its indented lines, the exception, and the traces chained to it."""
    if line.startswith(b"Traceback (most recent call last)"):
        return "trace" if state == "chain" else None
    if state == "trace":
        return "trace" if line[:1] in (b" ", b"\t", b"") else "exception"
    if state == "exception" and not line:
        return "chain"
    if state == "chain" and (not line or line.startswith(_CHAINED)):
        return "chain"
    return None


def java(_state: str, line: bytes) -> str | None:
    """A line and the `at`, `...`, `Caused by:` lines that follow it."""
    return ALONE if _JAVA_MORE.match(line) else None


def go(state: str, line: bytes) -> str | None:
    """`panic:` or `goroutine N [` and everything that looks like the dump that follows."""
    return "dump" if state == "dump" and _GO_MORE.match(line) else None


def python_begins(line: bytes) -> str:
    """State after a line that begins a message."""
    return "trace" if line.startswith(b"Traceback (most recent call last)") else ALONE


def go_begins(line: bytes) -> str:
    """State after a line that begins a message."""
    return "dump" if _GO_START.match(line) else ALONE


def _alone(_line: bytes) -> str:
    return ALONE


def starting_with(pattern: str) -> Grouping:
    """Lines that do not match `pattern` (RE2, searched) belong to the one before.

    Raises:
        ConfigError: The pattern is not RE2's syntax.
    """
    try:
        found = re2.compile(pattern.encode(), _quiet()).search
    except re2.error as error:
        raise ConfigError(f"multiline.start: {pattern!r}: {_said(error)}; use RE2 syntax (no look-around)") from error

    def grouping(_state: str, line: bytes) -> str | None:
        return None if found(line) else ALONE

    return grouping


def _said(error: Exception) -> str:
    """The words of the engine, which come as bytes."""
    words = error.args[0] if error.args else error
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # lines are bytes, valid UTF-8 or not
    return options


PRESETS: dict[str, tuple[Grouping, Callable[[bytes], str]]] = {
    "python": (python, python_begins),
    "java": (java, _alone),
    "go": (go, go_begins),
}


def grouping_for(multiline: str, start: str | None) -> tuple[Grouping, Callable[[bytes], str]] | None:
    """How lines are grouped, and the state after a first line; None: each stands alone."""
    if start is not None:
        return starting_with(start), _alone
    return PRESETS.get(multiline)
