"""Messages of several lines: parts of container runtimes put together, then lines grouped (traces).

A cut ends only where nothing is open. What cannot be finished within the window leaves as it is, marked; the rest of
it is known by the skip state and dropped, so memory stays bounded whatever a file holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote_to_bytes

from logclf_daemon.inputs._tail.containers import Parser, plain
from logclf_daemon.inputs._tail.lines import REST_OF_LINE, Cut, Splitter, utf8_head
from logclf_daemon.inputs._tail.multiline import Grouping

Grouped = tuple[Grouping, Callable[[bytes], str]]


class JoinedFraming:
    """Physical lines to messages: `parser` reads a line of a container format, `grouped` says what belongs together."""

    joins = True

    def __init__(
        self,
        splitter: Splitter,
        max_line_bytes: int,
        read_bytes: int,
        *,
        parser: Parser | None = None,
        grouped: Grouped | None = None,
    ) -> None:
        self._splitter = splitter
        self._max = max_line_bytes
        self._parser = parser
        self._grouped = grouped
        self.window = 2 * max_line_bytes + read_bytes

    def cut(self, data: bytes, skip: str, *, closed: bool, limit: int) -> list[Cut]:
        state = Skipped.of(skip)
        start = 0
        if state.line:
            start = self._splitter.after_line(data)
            if not start:
                return [Cut(len(data), skip=skip)] if data else []
            state.line = False
        pieces, rest = self._splitter.split(data[start:] if start else data)
        lines, nuls = (pieces, 0) if self._splitter.is_clean(data) else self._splitter.clean(pieces)
        assembly = _Assembly(self._parser or plain, self._grouped, self._max, state, limit, start)
        width = len(self._splitter.newline)
        for piece, line in zip(pieces, lines, strict=True):
            assembly.add(line, len(piece) + width)
        full = len(data) >= self.window and not assembly.cuts and assembly.safe is None
        if rest and (closed or len(rest) > self._max):
            self._add_rest(assembly, rest)
        elif closed or full:
            assembly.flush()
        cuts = assembly.finished(self._parser is not None)
        if cuts:
            cuts[0].nuls += nuls
        return cuts

    def _add_rest(self, assembly: _Assembly, rest: bytes) -> None:
        too_long = len(rest) > self._max
        lines, _ = self._splitter.clean([self._splitter.head(rest, self._max) if too_long else rest])
        assembly.add(lines[0], len(rest))
        assembly.skipped.line = too_long
        assembly.flush("truncated" if too_long else "unfinished")


@dataclass(slots=True)
class Skipped:
    """What is dropped up to its end, because its head was sent: written as the skip state of a position."""

    line: bool = False
    streams: set[bytes] = field(default_factory=set)
    group: str = ""

    @classmethod
    def of(cls, skip: str) -> Skipped:
        """Read what `str` wrote."""
        found = cls()
        for token in filter(None, skip.split(";")):
            name, _, value = token.partition("=")
            if name == REST_OF_LINE:
                found.line = True
            elif name == "parts":
                found.streams = {unquote_to_bytes(stream) for stream in value.split(",")}
            elif name == "group":
                found.group = value
        return found

    def __str__(self) -> str:
        if not (self.line or self.streams or self.group):
            return ""
        tokens = [REST_OF_LINE] if self.line else []
        if self.streams:
            # Quoted: the name comes from the file, and must not read as another state.
            tokens.append("parts=" + ",".join(sorted(quote_from_bytes(stream, safe="") for stream in self.streams)))
        if self.group:
            tokens.append(f"group={self.group}")
        return ";".join(tokens)


@dataclass(slots=True)
class _Open:
    """A message under way."""

    stream: bytes
    time_ns: int | None
    pieces: list[bytes]
    size: int
    state: str = ""


@dataclass(slots=True)
class _Beginning:
    """Where a message began, how many were complete by then, and whether nothing was open."""

    position: int
    entries: int
    skip: str
    clean: bool


class _Assembly:
    """One pass over the lines of a block."""

    def __init__(
        self, parse: Parser, grouped: Grouped | None, limit_bytes: int, skipped: Skipped, limit: int, start: int
    ) -> None:
        self.skipped = skipped
        self.cuts: list[tuple[int, int, str]] = []  # messages, position, skip state
        self.safe: tuple[int, int, str] | None = None
        self._parse = parse
        self._grouped = grouped
        self._max = limit_bytes
        self._limit = limit
        self._position = start
        self._entries = 0
        self._parts: dict[bytes, tuple[_Open, _Beginning]] = {}
        self._group: _Open | None = None
        self._lines: list[bytes] = []
        self._origins: list[tuple[bytes, int | None]] = []
        self._marks: dict[int, str] = {}
        if start:
            self.safe = (0, start, str(skipped))

    def add(self, line: bytes, length: int) -> None:
        """One physical line that takes `length` bytes of the file."""
        start = self._position
        self._position += length
        stream, time_ns, message, complete = self._parse(line)
        if stream in self.skipped.streams:
            if complete:
                self.skipped.streams.discard(stream)
        else:
            self._join(stream, time_ns, message, complete, start)
        if not self._parts and self._group is None:
            self._mark_safe(len(self._lines), self._position, str(self.skipped))

    def flush(self, mark: str = "") -> None:
        """Let go of everything open; `mark` is for the last message."""
        for part, beginning in list(self._parts.values()):
            self._complete(part, beginning, "unfinished")
        self._parts.clear()
        self._close_group()
        if mark and self._lines:
            self._marks[len(self._lines) - 1] = mark
        self._mark_safe(len(self._lines), self._position, str(self.skipped))

    def finished(self, with_origins: bool) -> list[Cut]:
        """The cuts of the pass; what is open after the last of them is left for the next."""
        if self.safe is not None and (not self.cuts or self.safe[1] > self.cuts[-1][1]):
            self.cuts.append(self.safe)
        found = []
        before_count, before_position = 0, 0
        for count, position, skip in self.cuts:
            taken = Cut(position - before_position, self._lines[before_count:count], skip)
            taken.marks = {at - before_count: mark for at, mark in self._marks.items() if before_count <= at < count}
            taken.origins = self._origins[before_count:count] if with_origins else None
            found.append(taken)
            before_count, before_position = count, position
        return found

    def _join(self, stream: bytes, time_ns: int | None, message: bytes, complete: bool, start: int) -> None:
        known = self._parts.get(stream)
        if known is None:
            beginning = _Beginning(start, self._entries, str(self.skipped), clean=not self._parts)
            part = _Open(stream, time_ns, [message], len(message))
        else:
            part, beginning = known
            part.pieces.append(message)
            part.size += len(message)
        if part.size > self._max and not complete:
            self.skipped.streams.add(stream)
        elif not complete:
            self._parts[stream] = (part, beginning)
            return
        self._parts.pop(stream, None)
        self._complete(part, beginning)

    def _complete(self, part: _Open, beginning: _Beginning, mark: str = "") -> None:
        """A joined message: on its own, or in a group."""
        message = b"".join(part.pieces)
        if self._grouped is None:
            self._emit(part.stream, part.time_ns, message, mark)
        else:
            self._into_group(part, message, beginning, self._grouped)
        self._entries += 1

    def _into_group(self, part: _Open, message: bytes, beginning: _Beginning, grouped: Grouped) -> None:
        grouping, begins = grouped
        group = self._group
        if group is None and self.skipped.group:
            self.skipped.group = grouping(self.skipped.group, message) or ""
            if self.skipped.group:
                return
        if group is not None and group.stream == part.stream:
            state = grouping(group.state, message)
            if state is not None:
                group.pieces.append(message)
                group.size += len(message) + 1
                group.state = state
                self._end_long_group()
                return
        self._close_group()
        if beginning.clean and beginning.entries == self._entries and not self._parts:
            self._mark_safe(len(self._lines), beginning.position, beginning.skip)
        self._group = _Open(part.stream, part.time_ns, [message], len(message), begins(message))
        self._end_long_group()

    def _end_long_group(self) -> None:
        group = self._group
        if group is not None and group.size > self._max:
            self.skipped.group = group.state
            self._close_group()

    def _close_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            self._emit(group.stream, group.time_ns, b"\n".join(group.pieces), "")

    def _emit(self, stream: bytes, time_ns: int | None, message: bytes, mark: str) -> None:
        if len(message) > self._max:
            message, mark = utf8_head(message, self._max), "truncated"
        if mark:
            self._marks[len(self._lines)] = mark
        self._lines.append(message)
        self._origins.append((stream, time_ns))

    def _mark_safe(self, count: int, position: int, skip: str) -> None:
        self.safe = (count, position, skip)
        if self._limit and count - (self.cuts[-1][0] if self.cuts else 0) >= self._limit:
            self.cuts.append(self.safe)
