"""The template of a line: what stays when its numbers, identifiers and addresses vary.

Every token that contains a digit is dropped (2-3 us a line with C-level bytes methods; a `re.sub` chain costs ten times
that). Against LogHub's ground truth this groups about as well as Drain3 with masks (.764 against .767).

Some numbers carry the meaning: an HTTP status, an exit code, `0 errors` against `12 errors`. `KEPT` lists them; they
are rewritten to words before digits are dropped, so two such lines never share a template, hence never a verdict.

The text of a template is at the same time its key and what the later stages see. That makes a verdict a function of the
template alone: it cannot depend on which line of the template came first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress

MAX_BYTES = 1024  # a longer line is known by its head: keys stay small, hostile lines stay cheap

FOLD = bytes.maketrans(b"123456789", b"000000000")
"""Digits to 0. Exact for caching: two lines with one fold have one template (`KEPT` lines are rewritten before)."""

_SEPARATORS = b"=[](){}\"',;<>|\t\n\r\x0b\x0c\x00"
_SPLIT = bytes.maketrans(_SEPARATORS, b" " * len(_SEPARATORS))
_HAS_DIGIT = bytes(0x30 if 0x30 <= byte <= 0x39 else (0x20 if byte == 0x20 else 0x61) for byte in range(256))

# <PRI>, a syslog or ISO time, a host before `program[pid]:` — the host and the month say nothing of the event; a level
# in the place of the host does.
_LEVEL = rb"(?i:trace|debug|info|notice|warn|warning|error|err|crit|critical|fatal|severe|alert|emerg|panic)"
_HEADER = re.compile(
    rb"(?:<\d{1,3}>)?(?:\d )?(?:(?:[A-Z][a-z]{2} )?[A-Z][a-z]{2} [ \d]\d (?:\d{4} )?\d\d:\d\d:\d\d(?:\.\d+)?(?: \d{4})?"
    rb"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\s]*)\s"
    rb"(?:(?!" + _LEVEL + rb" )[^ :\[\]\t]+ (?=[^ :\[\]\t]{1,64}(?:\[\d+\])?:))?"
)
_DAY_OR_MONTH = frozenset(b"Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())
_LETTERS = bytes.maketrans(b"0123456789", b"abcdefghij")
_STATUS_WORDS = {
    0x31: b" status-informational ",
    0x32: b" status-success ",
    0x33: b" status-redirect ",
    0x34: b" status-client-error ",
    0x35: b" status-server-error ",
}


def _status(number: bytes) -> bytes:
    return _STATUS_WORDS.get(number[0], b" status-other ")


def _zero(number: bytes) -> bytes:
    return b" none " if not number.strip(b"0x-") else b" some "


def _exact(number: bytes) -> bytes:
    return b" number-" + number[:4].translate(_LETTERS) + b" "


def _tens(number: bytes) -> bytes:
    return b" level-" + (number[:-1] or b"0").translate(_LETTERS) + b" "


@dataclass(frozen=True, slots=True)
class Kept:
    """A number that carries meaning. `pattern` has one group, the number; it is valid for `re`, RE2 and hyperscan.

    hyperscan tells only where a match ends, and for a repeat at the end the first of such places: the digits of the
    number lie within `back` bytes before it and `ahead` bytes after.
    """

    name: str
    pattern: str
    word: Callable[[bytes], bytes]
    back: int = 4
    ahead: int = 0


_FAILURES = (
    r"(?:[Ee]rrors?|[Ff]ailures?|[Ff]ailed|[Ww]arnings?"
    r"|lost|dropped|dead|unreachable|timeouts?|vulnerabilities|violations|uncorrectable|unreadable)"
)
_IS = r"[\"']?[ :=]{1,3}[\"']?"
_INT = r"(-?[0-9]{1,9})"
# In this order: `exit status 126` is spelled as an exit code before it could look like an HTTP status.
KEPT: tuple[Kept, ...] = (
    Kept("request-status", r'HTTP/[0-9.]{1,3}"? ([1-5][0-9][0-9])(?:[^0-9]|$)', _status),
    Kept(
        "exit",
        rf"(?:[Ee]xit(?:ed|ing)?|EXIT)(?: with)?(?:[ _-]?(?:[Cc]ode|[Ss]tatus))?[ :=(]{{1,3}}{_INT}",
        _zero,
        1,
        8,
    ),
    Kept(
        "status",
        rf"(?:[Ss]tatus|STATUS|HTTP|[Rr]esponse[ _-]?[Cc]ode)(?:[ _-]?[Cc]ode)?{_IS}([1-5][0-9][0-9])(?:[^0-9]|$)",
        _status,
    ),
    Kept("return", rf"(?:rc|retval|return code|error code|with code|errorCode|exitCode){_IS}{_INT}", _zero, 1, 8),
    # The end of a time or date is no count: `09:55:00 Connection lost`.
    Kept("count-before", rf"(?:^|[^0-9A-Za-z.:,/-])([0-9]{{1,9}}) (?:[A-Za-z]{{1,15}} )?{_FAILURES}", _zero, 44),
    Kept("count-after", rf"{_FAILURES}[\"']?[=:]{{1,2}} ?{_INT}", _zero, 1, 8),
    Kept("errno", r"(?:[Ee]rrno|error)[ =:]{1,3}-?([0-9]{1,3})(?:[^0-9.]|$)", _exact),
    Kept("severity", rf"(?:[Ss]everity|SEVERITY){_IS}([0-9]{{1,2}})(?:[^0-9]|$)", _exact),
    Kept(
        "smart",
        r"(?:[Rr]eallocated|[Pp]ending.[Ss]ector|[Cc]ritical.[Ww]arning)[^0-9\n]{1,20}(0x[0-9a-f]{1,4}|[0-9]{1,9})",
        _zero,
        1,
        8,
    ),
    Kept("temperature", r"[Tt]emperature[^0-9\n]{1,20}([0-9]{1,3})(?:[^0-9]|$)", _tens),
)
_KEPT_RE = tuple((re.compile(kept.pattern.encode()), kept.word) for kept in KEPT)


def spell_kept(line: bytes, which: Sequence[int] = range(len(KEPT))) -> bytes:
    """Rewrite the numbers of `KEPT` (only those at `which`, when a scan already found them) to words."""
    for number in which:
        pattern, word = _KEPT_RE[number]
        line = pattern.sub(lambda found, word=word: _replace_group(found, word), line)  # type: ignore[misc]
    return line


def _replace_group(found: re.Match[bytes], word: Callable[[bytes], bytes]) -> bytes:
    whole, (start, end) = found.group(), found.span(1)
    offset = found.start()
    return whole[: start - offset] + word(found.group(1)) + whole[end - offset :]


def fold(line: bytes, found: Sequence[tuple[int, int]] = ()) -> bytes:
    """The cache key of a line: digits to 0 in its first KiB, but for those of `KEPT` numbers.

    `found` are the kept patterns a scan found and where each match ends. Two lines with one fold have one template.
    """
    folded = line[:MAX_BYTES].translate(FOLD)
    for number, end in found:
        start, stop = max(0, end - KEPT[number].back), min(end + KEPT[number].ahead, MAX_BYTES)
        folded = folded[:start] + line[start:stop] + folded[stop:]
    if len(line) > MAX_BYTES:
        # A kept number may look complete where the head is cut off: its digits must count.
        folded = folded[:-8] + line[MAX_BYTES - 8 : MAX_BYTES]
    return folded


def key(spelled: bytes) -> bytes:
    """The template of a line whose `KEPT` numbers are spelled. At most 1 KiB of the line counts.

    `key(line) == key(line.translate(FOLD))`; a line of nothing but numbers gives its fold.
    """
    head = spelled[:MAX_BYTES]
    header = _HEADER.match(head)
    text = (head[header.end() :] if header else head).translate(_SPLIT)
    words = text.split()
    kept = list(compress(words, map(bytes.isalpha, text.translate(_HAS_DIGIT).split())))
    if kept and kept[0] in _DAY_OR_MONTH:
        kept = [word for word in kept[:2] if word not in _DAY_OR_MONTH] + kept[2:]
    return b" ".join(kept) or head.translate(FOLD).strip()


def template_id(template: bytes) -> str:
    """16 hex digits, stable over restarts and machines."""
    return blake2b(template, digest_size=8).hexdigest()


def text_of(template: bytes) -> str:
    """A template as text for model, prompt and people; undecodable bytes become U+FFFD."""
    return template.decode("utf-8", "replace")


def canonical(line: bytes) -> str:
    """What the model sees of a line. Training must use this very function."""
    return text_of(key(spell_kept(line[:MAX_BYTES])))
