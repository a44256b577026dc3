"""Secrets and personal data taken out of a line that is kept for people to read.

It is a net, not a promise: what looks like a secret, a name or an address is replaced by what it is. A line is cut
before it is looked at, and a pattern begins with what is rare or is tried only where a word begins: hostile lines stay
cheap.
"""

from __future__ import annotations

import re

MAX_CHARS = 2000  # looked at; a secret is never cut in the middle before it was seen

_SECRET_NAME = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?"
    r"|authorization|cookie|session[_-]?(?:id|key)|signature)"
)
_VALUE = r"""(?:"[^"]{0,400}"?|'[^']{0,400}'?|[^\s,;&"'<]{1,400})"""
# In this order: what is recognised by its name first, then by its shape.
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*", "<secret>"),
        (r"\b(bearer|basic|negotiate)\s{1,4}[\w.~+/=-]{6,}", r"\1 <secret>"),
        (rf"({_SECRET_NAME}[\w-]{{0,32}}[\"']?\s{{0,4}}[=:]\s{{0,4}}){_VALUE}", r"\1<secret>"),
        (r"://[^\s/@:]{1,100}:[^\s/@]{1,200}@", "://<user>:<secret>@"),
        (r"\beyJ[\w-]{6,}(?:\.[\w-]{2,}){1,2}", "<secret>"),
        (
            r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\b(?:gh[pousr]_|glpat-|xox[abeprs]-|sk-|AIza|npm_|pypi-)[\w-]{10,}",
            "<secret>",
        ),
        (r"(?<![\w.+-])[\w.+-]++@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}", "<e-mail>"),
        (
            r"\b((?:e?uid|r?user(?:[_-]?name|[_-]?id)?|login|logname|account|acct|owner|sasl_username)[\"']?"
            rf"\s{{0,4}}[=:]\s{{0,4}}){_VALUE}",
            r"\1<user>",
        ),
        (r"\b((?:invalid|unknown|illegal|for|of|by) user\s{1,4})[^\s,;:]{1,100}", r"\1<user>"),
        (
            r"\b((?:for|by)\s{1,4})(?!user\b|invalid\b|unknown\b|illegal\b)[^\s,;:<]{1,100}(?=\s{1,4}from\b)",
            r"\1<user>",
        ),
        (r"(/home/|/Users/|\\Users\\)[^\s/\\:,;\"']{1,100}", r"\1<user>"),
        (r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d)", "<address>"),
        (r"(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}(?![\w:])", "<address>"),
        (r"(?<![\w:])(?:[0-9a-f]{1,4}:){0,6}[0-9a-f]{0,4}::(?:[0-9a-f]{1,4}:){0,6}[0-9a-f]{0,4}(?![\w:])", "<address>"),
        (r"(?<![\w.])\+?\d(?:[ -]?\d){12,18}(?![\w.])", "<number>"),
        (r"(?<!\w)[0-9a-f]{32,}(?!\w)|(?<![\w+-])(?=[\w+-]*\d)[\w+-]{40,}={0,2}", "<id>"),
    )
)


def masked(line: str | bytes) -> str:
    """The line, at most `MAX_CHARS` of it, without secrets, names and addresses."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    text = text[:MAX_CHARS]
    for pattern, words in _MASKS:
        text = pattern.sub(words, text)
    return text


_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_login(text: str) -> str:
    """An address, or words with addresses in them, without the user names and passwords of these."""
    return _USER_INFO.sub("…", text)
