"""What a pattern may say, and what to write instead of what it may not.

The dialect is what RE2 and hyperscan both understand, in the same way. Lines are bytes, so a pattern is bytes too: a
dot is one byte, `\\w` and ignoring the case know ASCII only. What the engines would read differently is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

MAX_COMPILED_BYTES = 8 << 20

_NO_LOOK_AHEAD = "match the text itself"
_NO_EXCEPTION = "give the exception a rule of its own with a higher priority"
_NO_REFERENCE = "write the alternatives out; what matched earlier cannot be asked for again"
_NO_RECURSION = "nesting of any depth is not linear; write out the levels that occur"
_BYTES = r"write the character itself, or \x and two digits for each of its bytes"
_ASCII = r"leave it out: \w, \d and \b are ASCII here"
# What RE2 stumbles over, as it names it, and what to write instead.
_INSTEAD = {
    "(?=": f"look-ahead: {_NO_LOOK_AHEAD}, or add a second rule with a higher priority",
    "(?!": f"look-ahead: {_NO_EXCEPTION}",
    "(?<=": f"look-behind: {_NO_LOOK_AHEAD} before it too",
    "(?<!": f"look-behind: {_NO_EXCEPTION}",
    "(?>": "atomic group: not needed here, use (?:…)",
    "(?#": "comment: it belongs in the rule's description",
    "(?x": "free spacing: write the pattern without blanks and explain it in the description",
    "(?(": f"condition: {_NO_EXCEPTION}",
    "(?|": "branch reset: use (?:…|…)",
    "(?'": "group name: write (?P<name>…)",
    "(?P": f"back-reference: {_NO_REFERENCE}",
    "(?R": f"recursion: {_NO_RECURSION}",
    "(?&": f"recursion: {_NO_RECURSION}",
    "(?u": f"flag: {_ASCII}",
    "(?a": f"flag: {_ASCII}",
    "(?L": f"flag: {_ASCII}",
    r"\Z": "end: write $ for the end of the line",
    r"\G": "start: write ^ for the start of the line",
    r"\h": r"blank: write [ \t]",
    r"\H": r"no blank: write [^ \t]",
    r"\R": r"line end: write \r?\n",
    r"\N": "any character: write .",
    r"\X": "any character: write .",
    r"\K": "cut: leave it out, only whether a line matches counts",
    r"\k": f"back-reference: {_NO_REFERENCE}",
    r"\g": f"back-reference: {_NO_REFERENCE}",
    r"\e": r"escape: write \x1b",
    r"\u": f"code point: {_BYTES}",
    r"\U": f"code point: {_BYTES}",
    r"\x{": f"code point: {_BYTES}",
}
_INSTEAD |= {rf"\{digit}": f"back-reference: {_NO_REFERENCE}" for digit in range(1, 10)}
_INSTEAD |= {f"(?{digit}": f"recursion: {_NO_RECURSION}" for digit in range(10)}

# What RE2 takes, but hyperscan refuses or reads differently.
_DISPUTED = {
    r"\p": r"write the letters out, or [^\x00-\x7f]+ for all that is not ASCII",
    r"\P": r"write the letters out, or [^\x00-\x7f]+ for all that is not ASCII",
    r"\C": r"write [\x00-\xff]",
    r"\z": "write $ for the end of the line",
    r"\v": r"write \x0b, or [\n\x0b\x0c\r] for any vertical space",
    "(?U": "greedy or not is the same here: only whether a line matches counts; leave it out",
}
_TOKEN = re.compile(
    r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\(\?U|[^\x00-\x7f][*+?{]?|.", re.DOTALL
)


@lru_cache(maxsize=4096)  # a reload meets the same patterns again
def complaint(pattern: str, *, ignore_case: bool = False) -> str | None:
    """Why a pattern cannot be a rule's, in words for its author; None if nothing speaks against it."""
    if "\x00" in pattern:
        return r"contains a NUL character; write \x00"
    try:
        compiled = re2.compile(pattern.encode(), options(ignore_case))
    except re2.error as error:
        return _explained(pattern, error)
    if compiled.search(b""):
        return "matches the empty string, so it would match every line; make a part of it mandatory"
    return _disputed(pattern, ignore_case=ignore_case)


def options(ignore_case: bool) -> Any:
    """How RE2 reads a pattern: as bytes, like hyperscan, with bounded memory and without a word on stderr."""
    chosen = re2.Options()
    chosen.log_errors = False
    chosen.case_sensitive = not ignore_case
    chosen.max_mem = MAX_COMPILED_BYTES
    chosen.encoding = re2.Options.Encoding.LATIN1
    return chosen


def _explained(pattern: str, error: Exception) -> str:
    reason = str(error.args[0], "utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
    kind, _, construct = reason.partition(": ")
    if kind == "bad repetition operator" and construct.endswith("+") and construct != "++":
        construct = construct[-2:]
    if kind == "bad repetition operator" and construct.endswith("+"):
        return f"possessive repeat {construct} is not supported: not needed here, leave the last + away"
    if kind == "invalid repetition size":
        return f"repeat {construct} is too large: they go up to 1000, nested ones multiplied; write .* or +"
    if kind.startswith("pattern too large"):
        return "too large once compiled; use .* in place of bounded repeats such as .{0,900}"
    if construct == "(?P" and "(?P=" not in pattern:
        construct = "(?&"  # the same by its other name
    for known, instead in _INSTEAD.items():
        if construct.startswith(known):
            name, _, words = instead.partition(": ")
            return f"{name} {known} is not supported (patterns are RE2, linear in time): {words}"
    return f"not a valid RE2 pattern: {reason}"


def _disputed(pattern: str, *, ignore_case: bool) -> str | None:
    """What both engines take and read differently, or would read otherwise than its author."""
    if not pattern.isascii() and (ignore_case or re.search(r"\(\?[a-zA-Z]*i", pattern)):
        return "ignoring the case works for ASCII letters only; write both cases of the others as (?:É|é)"
    for token in _TOKEN.findall(pattern):
        if (instead := _DISPUTED.get(token[:3] if token.startswith("(") else token[:2])) is not None:
            return f"{token} is not supported: {instead}"
        if token[0] == "[" and not token.isascii():
            return f"{token}: a class holds single bytes, other letters have several; write alternatives as (?:é|è)"
        if not token[0].isascii() and len(token) > 1:
            return f"{token}: a repeat counts single bytes, this letter has several; write (?:{token[0]}){token[1:]}"
    return None


def refused_by_the_engine(reason: str) -> str:
    """The same for a pattern that RE2 takes and hyperscan refuses with `reason`."""
    if "anchor" in reason:
        return "^ and $ may stand only at the ends of a pattern or of its alternatives; write the text around it"
    if "too large" in reason or "too much memory" in reason or "Resource limit" in reason:
        return "too large once compiled; use .* in place of bounded repeats such as .{0,900}"
    return f"refused by the matching engine: {reason.rstrip('.')}; write it with plain words, classes and .*"
