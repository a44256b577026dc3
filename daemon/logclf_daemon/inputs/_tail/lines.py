"""Bytes of a file to lines. Pure: the same bytes, state and settings give the same lines."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from logclf_daemon.errors import ConfigError

REST_OF_LINE = "line"  # skip state: the head of a too long line was sent, its rest goes


@dataclass(slots=True)
class Cut:
    """Messages and how many bytes of the file they took.

    `marks` names the odd ones by position (`truncated`: more than the limit; `unfinished`: no end yet). `skip` is the
    state after the cut. `origins` gives, where the format tells, stream and time in nanoseconds of each message.
    """

    length: int
    lines: list[bytes] = field(default_factory=list)
    skip: str = ""
    marks: dict[int, str] = field(default_factory=dict)
    nuls: int = 0
    origins: list[tuple[bytes, int | None]] | None = None


class Framing(Protocol):
    """Finds where messages end."""

    window: int  # with so many bytes to look at, `cut` always takes some of them
    joins: bool  # a message may go on in the file that follows after a rotation

    def cut(self, data: bytes, skip: str, *, closed: bool, limit: int) -> list[Cut]:
        """Cut what is complete, at most `limit` messages a cut (0: all in one).

        `closed` says that nothing follows: what is open at the end is complete then. Cutting the bytes of one cut
        again, closed and without a limit, gives that one cut.
        """


class Splitter:
    """Splits at line feeds, one byte each: UTF-8 (bytes stay as they are) and whatever else keeps ASCII."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.newline = b"\n"
        self._codec = None if encoding == "utf-8" else encoding

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Complete lines without their ends, and the unfinished rest."""
        pieces = data.split(b"\n")
        return pieces, pieces.pop()

    def after_line(self, data: bytes) -> int:
        """The position after the first line end; 0 if there is none."""
        return data.find(b"\n") + 1

    def is_clean(self, data: bytes) -> bool:
        """Nothing in here needs `clean`."""
        return self._codec is None and b"\r" not in data and b"\0" not in data

    def clean(self, pieces: Sequence[bytes]) -> tuple[list[bytes], int]:
        """Lines as they are sent, without CR at the end and NULs of a hole at the start; and how many NULs went."""
        lines = [line.lstrip(b"\0") for line in pieces]
        nuls = sum(map(len, pieces)) - sum(map(len, lines))
        lines = [line.removesuffix(b"\r") for line in lines]
        if self._codec is not None:
            codec = self._codec
            lines = [line.decode(codec, "replace").encode() for line in lines]
        return lines, nuls

    def head(self, piece: bytes, size: int) -> bytes:
        """At most `size` bytes of a line, cut between characters."""
        return utf8_head(piece, size) if self._codec is None else piece[:size]


def utf8_head(text: bytes, size: int) -> bytes:
    """At most `size` bytes, without the beginning of a character that does not fit."""
    head = text[:size]
    if len(text) > size:
        for back in range(1, min(4, size) + 1):
            lead = head[-back]
            if lead & 0xC0 != 0x80:
                needed = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
                return head[:-back] if needed > back else head
    return head


class WideSplitter(Splitter):
    """UTF-16 and UTF-32: line feeds are two or four bytes and count only on their boundaries."""

    def __init__(self, encoding: str, unit: int) -> None:
        super().__init__(encoding)
        self._unit = unit
        self._wide = encoding
        self.newline = "\n".encode(encoding)

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        found = data.split(self.newline)
        unit = self._unit
        if all(len(piece) % unit == 0 for piece in found[:-1]):
            return found, found.pop()
        pieces, held = [], b""
        for piece in found[:-1]:
            held += piece
            if len(held) % unit:
                held += self.newline  # only looked like a line feed: it lies across two characters
            else:
                pieces.append(held)
                held = b""
        return pieces, held + found[-1]

    def after_line(self, data: bytes) -> int:
        at = data.find(self.newline)
        while at % self._unit and at >= 0:
            at = data.find(self.newline, at + 1)
        return at + self._unit if at >= 0 else 0

    def is_clean(self, data: bytes) -> bool:
        return not data

    def clean(self, pieces: Sequence[bytes]) -> tuple[list[bytes], int]:
        texts = [piece.decode(self._wide, "replace") for piece in pieces]
        stripped = [text.lstrip("\0") for text in texts]
        nuls = (sum(map(len, texts)) - sum(map(len, stripped))) * self._unit
        return [text.removesuffix("\r").encode() for text in stripped], nuls

    def head(self, piece: bytes, size: int) -> bytes:
        return piece[: size - size % self._unit]


_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


def splitter_for(encoding: str, first_bytes: bytes) -> Splitter:
    """The splitter of a file that starts with these bytes: they tell the byte order where `encoding` does not."""
    name = normal_name(encoding)
    if name in ("utf-16", "utf-32"):
        marked = [known for bom, known in _BOMS if known.startswith(name) and first_bytes.startswith(bom)]
        name = marked[0] if marked else f"{name}-le"
    unit = unit_of(name)
    return Splitter(name) if unit == 1 else WideSplitter(name, unit)


def mark_length(encoding: str, first_bytes: bytes) -> int:
    """Length of the byte order mark that a file in this encoding starts with."""
    name = normal_name(encoding)
    if not name.startswith("utf-"):
        return 0
    return next((len(bom) for bom, known in _BOMS if known.startswith(name) and first_bytes.startswith(bom)), 0)


def unit_of(name: str) -> int:
    """Bytes of the smallest step in an encoding."""
    return 2 if name.startswith("utf-16") else 4 if name.startswith("utf-32") else 1


def normal_name(encoding: str) -> str:
    """The codec's own name.

    Raises:
        ConfigError: Python has no such encoding, or its line feeds cannot be found in the bytes.
    """
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")
        feed = "\n".encode(name)
    except (LookupError, TypeError, UnicodeError) as error:
        raise ConfigError(f"encoding: {encoding!r} is unknown; use utf-8, utf-16, latin-1, …") from error
    if unit_of(name) == 1 and feed != b"\n":
        raise ConfigError(f"encoding: {encoding!r} cannot be tailed: its lines do not end in a line feed byte")
    return name


class PlainFraming:
    """One line, one message. A line over `max_line_bytes` gives its head; the rest up to its end is skipped."""

    joins = False

    def __init__(self, splitter: Splitter, max_line_bytes: int, read_bytes: int) -> None:
        self._splitter = splitter
        self._max = max_line_bytes
        self.window = max_line_bytes + read_bytes

    def cut(self, data: bytes, skip: str, *, closed: bool, limit: int) -> list[Cut]:
        start = 0
        if skip:
            start = self._splitter.after_line(data)
            if not start:
                return [Cut(len(data), skip=skip)] if data else []
        pieces, rest = self._splitter.split(data[start:] if start else data)
        clean = self._splitter.is_clean(data)
        step = limit or len(pieces) or 1
        cuts = [self._lines(pieces[at : at + step], clean) for at in range(0, len(pieces), step)]
        if start:
            if not cuts:
                cuts.append(Cut(0))
            cuts[0].length += start
        if rest and (len(rest) > self._max or closed):
            self._add_rest(cuts, rest, limit)
        return cuts

    def _lines(self, pieces: list[bytes], clean: bool) -> Cut:
        length = sum(map(len, pieces)) + len(pieces) * len(self._splitter.newline)
        marks: dict[int, str] = {}
        if length > self._max:  # one of them may be too long
            for at, piece in enumerate(pieces):
                if len(piece) > self._max:
                    pieces[at] = self._splitter.head(piece, self._max)
                    marks[at] = "truncated"
        lines, nuls = (pieces, 0) if clean else self._splitter.clean(pieces)
        return Cut(length, lines, marks=marks, nuls=nuls)

    def _add_rest(self, cuts: list[Cut], rest: bytes, limit: int) -> None:
        if not cuts or (limit and len(cuts[-1].lines) >= limit):
            cuts.append(Cut(0))
        last = cuts[-1]
        too_long = len(rest) > self._max
        lines, nuls = self._splitter.clean([self._splitter.head(rest, self._max) if too_long else rest])
        last.length += len(rest)
        last.nuls += nuls
        last.skip = REST_OF_LINE if too_long else ""
        last.marks[len(last.lines)] = "truncated" if too_long else "unfinished"
        last.lines += lines
