"""Patterns as the folds of lines (`template.FOLD`: every digit 0) meet them.

A fold stands for all lines that differ in digits only. What matches a line matches its fold once the pattern is folded
too; where the pattern takes all digits or none at each place (`\\d+`, `[^,]*`) the reverse holds as well: its answer
for a fold is that for all lines of it.
"""

from __future__ import annotations

import re
from functools import lru_cache

import re2

from logclf_daemon.stages._rules.dialect import options

DIGITS = b"0123456789"
_TOKEN = re.compile(
    r"\\Q(?P<quoted>.*?)(?:\\E|$)"
    r"|(?P<code>\\x[0-9A-Fa-f]{2}|\\[0-7]{1,3})"
    r"|(?P<whole>\\.|\{[0-9]+(?:,[0-9]*)?\}|\(\?P?<\w+>)"
    r"|(?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\])"
    r"|(?P<digit>[0-9])"
    r"|[^\\\[0-9({]+|.",
    re.DOTALL,
)


@lru_cache(maxsize=4096)  # a reload meets the same patterns again
def folded(pattern: str) -> tuple[str, bool]:
    """A valid pattern for folds, and whether it matches the very folds whose lines the pattern itself matches."""
    parts: list[str] = []
    exact = True
    for token in _TOKEN.finditer(pattern):
        text, blind = _folded(token)
        parts.append(text)
        exact = exact and blind
    return "".join(parts), exact


def _folded(token: re.Match[str]) -> tuple[str, bool]:
    text = token.group()
    if token.group("digit"):
        return "0", False
    if (quoted := token.group("quoted")) is not None:
        zeros = re.sub(r"[0-9]", "0", quoted)
        return rf"\Q{zeros}\E", not re.search(r"[0-9]", quoted)
    if code := token.group("code"):
        value = int(code[2:], 16) if code.startswith(r"\x") else int(code[1:], 8)
        return ("0", False) if value in DIGITS else (rf"\x{value:02x}", True)  # no digit after it can join it
    if token.group("set"):
        return _folded_set(text)
    return text, True


@lru_cache(maxsize=512)
def _folded_set(text: str) -> tuple[str, bool]:
    """A set that takes some digits takes the 0 that stands for them; its other members stay."""
    compiled = re2.compile(text.encode(), options(ignore_case=False))
    taken = sum(compiled.fullmatch(bytes((digit,))) is not None for digit in DIGITS)
    return (text, True) if taken in (0, len(DIGITS)) else (f"(?:0|{text})", False)
