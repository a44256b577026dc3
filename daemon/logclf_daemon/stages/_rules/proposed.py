"""The pattern that the words of a template make: for `rules suggest` and for the page, which show it to a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from logclf_daemon.template import KEPT

LEAST_WORDS, LEAST_LETTERS = 2, 12  # fewer match what nobody meant
MAX_WORDS = 24
_VARIES = "\0"

_WORD = re.compile(r"[^\W_](?:[\w.@/+-]*[^\W_])?")
_PLACEHOLDER = re.compile(r"<[\w-]{2,12}>")
_MEANS_SOMETHING = re.compile(r"([\\.+*?()|\[\]{}^$])")
_KEPT = tuple((re.compile(kept.pattern), kept.word) for kept in KEPT)


def pattern_of(
    text: str, example: str, *, least_words: int = LEAST_WORDS, least_letters: int = LEAST_LETTERS
) -> str | None:
    """RE2 for the lines of a template: its words in their order, whatever varies between them.

    A number that carries meaning (an HTTP status, `0 errors`) matches the numbers that mean the same. `example` is a
    line of the template and may be masked: a mask varies. None: too little of the line is constant.
    """
    first = example.partition("\n")[0]  # a dot matches no line end
    line = _PLACEHOLDER.sub(lambda found: _VARIES * len(found[0]), first)
    found = sorted([*_words(text, line), *_numbers(line)])[:MAX_WORDS]
    pieces: list[str] = []
    literal: list[str] = []
    end = 0
    for start, stop, pattern in found:
        if start < end:
            continue  # a word that is part of what a number says
        if pieces:
            pieces.append(_gap(line[end:start]))
        pieces.append(pattern or _escaped(line[start:stop]))
        if not pattern:
            literal.append(line[start:stop])
        end = stop
    letters = sum(letter.isalpha() for word in literal for letter in word)
    if len(literal) < least_words or letters < least_letters:
        return None
    return "".join(pieces)


def _words(text: str, line: str) -> Iterator[tuple[int, int, str]]:
    """Where the words of a template stand in its line; a number that is spelled as a word stands nowhere."""
    at = 0
    for word in _WORD.findall(_PLACEHOLDER.sub(" ", text)):
        start = line.find(word, at)
        if start >= 0:
            at = start + len(word)
            yield start, at, ""


def _numbers(line: str) -> Iterator[tuple[int, int, str]]:
    """Where the numbers stand that carry meaning, with a pattern for those that mean the same.

    As the template does: what one kind has found is no number any more for the next.
    """
    for kind, word in _KEPT:
        for found in list(kind.finditer(line)):
            start, stop = found.span(1)
            # `0 errors` must not match in `10 errors`; where a letter stands beside the number there is no boundary.
            before = r"\b" if found[1][0].isdigit() and not _in_word(line[start - 1 : start]) else ""
            after = "" if _in_word(line[stop : stop + 1]) else r"\b"
            yield start, stop, f"{before}{_alike(found[1], word)}{after}"
            line = line[:start] + "x" * (stop - start) + line[stop:]


def _alike(number: str, word: Callable[[bytes], bytes]) -> str:
    """A pattern for the numbers that a template spells with the same word."""
    meant = word(number.encode()).strip()
    if meant.startswith(b"status-"):
        return f"{number[0]}[0-9][0-9]"
    if meant == b"none":
        return "0+" if number.isdigit() else number
    if meant == b"some":
        return "0x[0-9a-f]*[1-9a-f][0-9a-f]*" if number.startswith("0x") else "-?0*[1-9][0-9]*"
    if meant.startswith(b"level-"):
        return f"{number[:-1]}[0-9]"
    return number


def _gap(text: str) -> str:
    """What may stand between two words: another separator makes no other template."""
    if text == " ":
        return " "
    if not text or any(letter.isalnum() or letter == _VARIES for letter in text):
        return ".*"
    return r"[\W_]+" if "_" in text else r"\W+"


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _escaped(text: str) -> str:
    """Only what means something in a pattern is escaped: people read this."""
    return _MEANS_SOMETHING.sub(r"\\\1", text)
