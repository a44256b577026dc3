"""CSV and its like: records passed on with their own bytes, and cells added at their end.

The `csv` module decides what a record and a cell are. It is spared where it can be: lines without a quote are split as
bytes, all at once, which gives the same rows (the tests compare the two) at a fifth of the cost. Text is decoded as
latin-1 on its way through the module: one letter a byte, whatever the encoding.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import BinaryIO, Protocol

from logclf_daemon.errors import BadInput
from logclf_daemon.generation import Answer
from logclf_daemon.record import Verdict
from logclf_daemon.tables.columns import place_of, refuse_taken, time_place
from logclf_daemon.tables.encodings import as_utf8, refuse_packed
from logclf_daemon.tables.rows import (
    BLOCK_BYTES,
    EXPLAINED,
    MAX_RECORD_BYTES,
    Block,
    Quoted,
    Rows,
    TableOptions,
    collector_paused,
    filled,
)

MAX_HEADER_BYTES = 1 << 20
SHORT_LINE = 32  # bytes; where lines are shorter on average, less is read at once
BOM = b"\xef\xbb\xbf"
DELIMITERS = ",;\t|"
# A spreadsheet takes a cell that starts so for a formula, or for what leads to one.
FORMULA_STARTS = frozenset((b"=", b"+", b"-", b"@", b"\t", b"\r"))
_STRAY = "\u0100"  # stands for a carriage return within a line: no latin-1 letter, and the csv module stumbles over \r

csv.field_size_limit(min(MAX_RECORD_BYTES, sys.maxsize))  # the module's own limit is 128 KiB; a record has ours


@dataclass(frozen=True, slots=True)
class DelimitedCodec:
    """The rows of a CSV with this header."""

    options: TableOptions
    delimiter: str
    names: tuple[str, ...]
    source: int
    message: int
    time: int | None

    def parse(self, block: Block) -> Rows:
        """The rows of a block, the quick way where that is sure to be right."""
        rows = self._split(block)
        return rows if rows is not None else self.parse_quoted(block)

    def _split(self, block: Block) -> Rows | None:
        """The rows of a block in which each record is one line, none is blank, and all have the header's width."""
        body, delimiter, width = block.payload, self.delimiter.encode(), len(self.names)
        end = _line_end(body)
        if end is None:
            return None
        lines = body.split(end)
        del lines[-1]
        quoted = () if b'"' not in body else block.quoted or _quoted_lines(body, lines, self.delimiter)
        if quoted is None or not all(lines) or not {len(cells) for _, cells in quoted} <= {width}:
            return None
        if quoted:
            plain = lines.copy()
            for at, _ in quoted:
                plain[at] = delimiter * (width - 1)  # filled in below
            body = end.join([*plain, b""])
        # Delimiters and line ends alone: the same in every line?
        if body.translate(None, _all_but(delimiter + end)) != (delimiter * (width - 1) + end) * len(lines):
            return None
        cells = body.replace(end, delimiter).split(delimiter)
        sources, messages = cells[self.source : -1 : width], cells[self.message : -1 : width]
        if body.startswith(b" ") or delimiter + b" " in body or end + b" " in body:
            messages = [message.lstrip(b" ") for message in messages]
        times = None if self.time is None else cells[self.time : -1 : width]
        for at, row in quoted:
            sources[at], messages[at] = row[self.source].encode("latin-1"), row[self.message].encode("latin-1")
            if times is not None and self.time is not None:
                times[at] = row[self.time].encode("latin-1")
        return Rows(
            lines,
            end,
            self._in_utf8(sources),
            self._usable(messages),
            range(block.line, block.line + len(lines)),
            None if times is None else [time.strip() for time in times],
        )

    def _in_utf8(self, cells: Sequence[bytes]) -> Sequence[bytes]:
        encoding = self.options.encoding
        return cells if encoding == "utf-8" else [as_utf8(cell, encoding) for cell in cells]

    def _usable(self, messages: Sequence[bytes]) -> Sequence[bytes | None]:
        messages = self._in_utf8(messages)
        return messages if all(messages) else [message or None for message in messages]

    def parse_quoted(self, block: Block) -> Rows:
        """The rows as the csv module sees them."""
        numbered = block.cells
        if numbered is None:
            numbered = _numbered(_lines(block.payload), self.delimiter)
        cells = [row for _, row in numbered]
        bodies, ends = _bodies(block.payload, [stop for stop, _ in numbered])
        starts = [block.line, *(block.line + stop for stop, _ in numbered)][:-1]
        plain = "latin-1" if b"\r" not in block.payload else None
        if set(map(len, cells)) == {len(self.names)}:
            column = [_column(cells, place, plain) for place in (self.source, self.message)]
            rows = Rows(bodies, ends, column[0], column[1], starts)
        else:
            rows = self._uneven(Rows(bodies, ends, [], [], starts), cells)
            width = max(self.source, self.message, self.time or 0) + 1
            cells = [row + [""] * (width - len(row)) for row in cells]
            rows.sources, rows.messages = _column(cells, self.source, plain), _column(cells, self.message, plain)
        rows.sources = self._in_utf8([source.strip() for source in rows.sources])
        rows.messages = self._usable(rows.messages)  # type: ignore[arg-type]
        rows.times = None if self.time is None else [time.strip() for time in _column(cells, self.time, plain)]
        return rows

    def _uneven(self, rows: Rows, cells: Sequence[Sequence[str]]) -> Rows:
        """Blank lines are passed on; rows with another number of cells are bad."""
        width = len(self.names)
        rows.passed = {at for at, row in enumerate(cells) if not row}
        rows.bad = {at for at, row in enumerate(cells) if row and len(row) != width}
        rows.missing = {at: width - len(cells[at]) for at in rows.bad if len(cells[at]) < width}
        return rows

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The rows with the cells of their answers before the line end."""
        bodies = [_safe(body, self.delimiter) for body in rows.bodies] if self.options.safe_cells else rows.bodies
        distinct = set(answers)
        tails = self._tails(distinct)
        if isinstance(rows.ends, bytes) and not rows.bad and None not in distinct:
            ended = {answer: tail + rows.ends for answer, tail in tails.items()}
            pieces = [b""] * (2 * len(bodies))
            pieces[::2], pieces[1::2] = bodies, map(ended.__getitem__, answers)
            return b"".join(pieces)
        gone = rows.bad if self.options.bad_rows != "keep" else ()
        ends = [rows.ends] * len(rows) if isinstance(rows.ends, bytes) else rows.ends
        written = []
        for at, (body, answer, end) in enumerate(zip(bodies, answers, ends, strict=True)):
            if at in gone:
                continue
            tail = b"" if answer is None else self.delimiter.encode() * rows.missing.get(at, 0) + tails[answer]
            written.append(body + tail + end)
        return b"".join(written)

    def _tails(self, answers: Collection[Answer | None]) -> dict[Answer | None, bytes]:
        """The added cells of each answer as they are written, each with its delimiter before it."""
        verdicts = {answer: answer.verdict for answer in answers if answer is not None}
        if not self.options.explain:
            labels = {label: self.written((label,)) for label in {verdict.label for verdict in verdicts.values()}}
            return {answer: labels[verdict.label] for answer, verdict in verdicts.items()}
        return {
            answer: self.written(
                (verdict.label, _confidence(verdict), verdict.stage, verdict.rule or verdict.reason or "")
            )
            for answer, verdict in verdicts.items()
        }

    def written(self, cells: tuple[str, ...]) -> bytes:
        return _written(cells, self.delimiter, self.options.encoding, self.options.safe_cells)

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """All cells by column, as text; a row's cells beyond the header's are left out."""
        encoding = self.options.encoding
        read = _cells([_text(body) for body in rows.bodies], self.delimiter)
        width = len(self.names)
        padded = [[_bytes(cell).decode(encoding, "replace") for cell in cells[:width]] for cells in read]
        for cells in padded:
            cells += [""] * (width - len(cells))
        return {name: [cells[at] for cells in padded] for at, name in enumerate(self.columns_named())}

    def columns_named(self) -> tuple[str, ...]:
        """The names of the columns; those without one, or with another's, by their place."""
        return tuple(
            name if name and name not in self.names[:at] else f"column_{at + 1}" for at, name in enumerate(self.names)
        )


@dataclass(frozen=True, slots=True)
class DelimitedReading:
    """A CSV being read: cut into blocks at the ends of records."""

    delimiter: str
    name: str
    block_bytes: int = BLOCK_BYTES
    max_record_bytes: int = MAX_RECORD_BYTES

    def blocks(self, reader: BinaryIO, line: int) -> Iterator[Block]:
        """Blocks that depend only on where they start.

        Raises:
            BadInput: A quote is never closed, or a record is too large.
        """
        pending, size, cut = b"", min(self.block_bytes, self.max_record_bytes), -1
        while pending := pending + filled(reader, size - len(pending)):
            if cut:
                size = self._of_few_lines(pending, size)
            chunk, last = pending[:size], len(pending) < size
            try:
                cut, quoted = self._lines(chunk, last=last)
                cells = None
                if quoted is None:
                    cut, cells = self._records(chunk, line, last=last)
            except csv.Error as error:
                raise BadInput(f"{self.name}:{line}: from here on this is no CSV: {error}") from error
            if not cut and size >= self.max_record_bytes:
                raise BadInput(_endless(self.name, line, self.max_record_bytes))
            if cut:
                yield Block(pending[:cut], line, cells, quoted)
                line += pending.count(b"\n", 0, cut)
                pending = pending[cut:]
            size = min(self.block_bytes if cut else size * 2, self.max_record_bytes)

    def _of_few_lines(self, pending: bytes, size: int) -> int:
        """How much is cut at once: a row costs time and memory even where it is empty."""
        while size > 1 and pending.count(b"\n", 0, size) > max(1, self.block_bytes // SHORT_LINE):
            size //= 2
        return size

    def _lines(self, chunk: bytes, *, last: bool) -> tuple[int, Quoted | None]:
        """Where the last whole line of a chunk ends, and its lines with a quote, if each record is one line."""
        cut = len(chunk) if last else chunk.rfind(b"\n") + 1
        if b'"' not in chunk:
            return cut, ()
        body = chunk[:cut]
        end = _line_end(body)
        if end is None:
            return cut, None
        with collector_paused():
            return cut, _quoted_lines(body, body.split(end)[:-1], self.delimiter)

    def _records(self, chunk: bytes, start: int, *, last: bool) -> tuple[int, list[tuple[int, list[str]]]]:
        """Where the last whole record of a chunk ends, and the cells up to there."""
        lines = _lines(chunk)
        # A line more: it tells whether the quotes before it are closed.
        numbered = _numbered([*lines, "x"], self.delimiter)
        if last:
            del numbered[-1]
            opened = numbered[-1][0] if numbered else 0
            if opened != len(lines):
                raise BadInput(_unclosed(self.name, start + opened))
            return len(chunk), numbered
        # The last line may be cut off: what it closes or opens is not known yet.
        while numbered and numbered[-1][0] >= len(lines):
            del numbered[-1]
        return (sum(map(len, lines[: numbered[-1][0]])) if numbered else 0), numbered


def _unclosed(name: str, line: int) -> str:
    return f"{name}:{line}: a quote opened here is never closed; close it or double it"


def _endless(name: str, line: int, limit: int) -> str:
    return f"{name}:{line}: a record that does not end within {limit} bytes; is a quote never closed?"


def open_delimited(
    reader: BinaryIO, options: TableOptions, name: str
) -> tuple[DelimitedReading, DelimitedCodec, bytes, int]:
    """Read the header: how to go on, and the header as it came, with the number of lines it has.

    Raises:
        BadInput: Empty, a column is missing or there already, a quote is never closed.
    """
    head = _first_record(reader, name)
    text = head.removeprefix(BOM).rstrip(b"\r\n")
    if not text.strip():
        raise BadInput(
            f"{name}: is empty; a header with {options.source_column!r} and {options.message_column!r} is needed"
        )
    if b"\0" in text:
        raise BadInput(f"{name}:1: this is no text in UTF-8, and no CSV; convert it")
    if b"\r" in text and b'"' not in text:
        raise BadInput(f"{name}:1: lines end with a carriage return alone; convert them: tr '\\r' '\\n' <{name}")
    delimiter, names = _names(text, options)
    refuse_taken(names, options, f"{name}:1")
    source = place_of("source_column", names, options, f"{name}:1")
    message = place_of("message_column", names, options, f"{name}:1")
    codec = DelimitedCodec(options, delimiter, tuple(names), source, message, time_place(names, options, f"{name}:1"))
    reading = DelimitedReading(delimiter, name, options.block_bytes, options.max_record_bytes)
    return reading, codec, head, head.count(b"\n")


def header_of(codec: DelimitedCodec, head: bytes) -> bytes:
    """The header with the added columns before its line end."""
    body = head.rstrip(b"\r\n")
    added = (codec.options.label_column, *(EXPLAINED if codec.options.explain else ()))
    mark, cells = body[: len(BOM) * body.startswith(BOM)], body.removeprefix(BOM)
    if codec.options.safe_cells:
        cells = _safe(cells, codec.delimiter)
    return mark + cells + codec.written(added) + (head[len(body) :] or b"\n")


def _first_record(reader: BinaryIO, name: str) -> bytes:
    lines, size, quotes = list[bytes](), 0, 0
    while line := reader.readline(MAX_HEADER_BYTES + 1):
        if not lines:
            refuse_packed(line, name)
        lines.append(line)
        size += len(line)
        quotes += line.count(b'"')
        if size > MAX_HEADER_BYTES:
            raise BadInput(_endless(name, 1, MAX_HEADER_BYTES))
        if quotes % 2 == 0:
            return b"".join(lines)
    if lines:
        raise BadInput(_unclosed(name, 1))
    return b""


def _names(text: bytes, options: TableOptions) -> tuple[str, list[str]]:
    """The delimiter that shows the wanted columns, else the most frequent one, and the names it parts."""

    def names(delimiter: str) -> list[str]:
        cells = next(_cells([_text(text)], delimiter))
        return [_bytes(cell).decode(options.encoding, "replace").strip() for cell in cells]

    wanted = {options.source_column, options.message_column}
    candidates = [options.delimiter] if options.delimiter else list(DELIMITERS)
    best = max(candidates, key=lambda delimiter: (len(wanted & set(names(delimiter))), len(names(delimiter))))
    return best, names(best)


def _line_end(body: bytes) -> bytes | None:
    """The end of every line, where all have the same and nothing else looks like one."""
    if b"\r" not in body:
        return b"\n" if body.endswith(b"\n") else None
    same = body.endswith(b"\r\n") and body.count(b"\r\n") == body.count(b"\r") == body.count(b"\n")
    return b"\r\n" if same else None


@lru_cache(maxsize=16)
def _all_but(kept: bytes) -> bytes:
    return bytes(byte for byte in range(256) if byte not in kept)


def _quoted_lines(body: bytes, lines: Sequence[bytes], delimiter: str) -> Quoted | None:
    """Which lines of a body have a quote, and their cells; None if one of them is not a whole record.

    A line without a quote ends what it starts. The csv module reads the others as if they stood alone, and so they do
    as long as it takes one line for each.
    """
    marks = body.translate(None, _all_but(b'"\n')).split(b"\n")
    places = list(compress(range(len(lines)), marks))
    texts = b"\n".join([lines[at] for at in places]).decode("latin-1").split("\n")
    # A line more: it tells whether the quotes before it are closed.
    cells = list(_reader([*texts, "."], delimiter))
    return list(zip(places, cells, strict=False)) if len(cells) == len(places) + 1 else None


def _lines(payload: bytes) -> list[str]:
    """Lines with their ends, one letter a byte; a carriage return that ends no line is out of the csv module's way."""
    text = payload.decode("latin-1")
    if "\r" in text:
        text = text.replace("\r\n", "\u0101").replace("\r", _STRAY).replace("\u0101", "\r\n")
    return list(io.StringIO(text, newline="\n"))


def _bodies(payload: bytes, stops: Sequence[int]) -> tuple[list[bytes], bytes | list[bytes]]:
    """Each record without its line end, and the line ends: one for all where they are the same."""
    simple = b"\r" not in payload and payload.endswith(b"\n")
    if simple and len(stops) == payload.count(b"\n"):
        return payload.split(b"\n")[:-1], b"\n"
    lines = _lines(payload)
    starts = [0, *stops][:-1]
    records = [
        _bytes(lines[start] if stop - start == 1 else "".join(lines[start:stop]))
        for start, stop in zip(starts, stops, strict=True)
    ]
    if simple:
        return [record[:-1] for record in records], b"\n"
    bodies = [record.rstrip(b"\r\n") for record in records]
    return bodies, [record[len(body) :] or b"\n" for record, body in zip(records, bodies, strict=True)]


def _column(cells: Sequence[Sequence[str]], place: int, plain: str | None) -> list[bytes]:
    """One cell of each row; `plain`: none of them holds a carriage return."""
    if plain is not None:
        return [row[place].encode(plain) for row in cells]
    return [_bytes(row[place]) for row in cells]


def _text(body: bytes) -> str:
    return body.decode("latin-1").replace("\r", _STRAY)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.replace(_STRAY, "\r").encode("latin-1")


class _Reader(Protocol):
    """What the csv module gives."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...


def _reader(lines: Iterable[str], delimiter: str) -> _Reader:
    """The csv module, forgiving spaces after delimiters."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != " ")


def _numbered(lines: Iterable[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """The cells of each record, and the number of lines up to its end."""
    reader = _reader(lines, delimiter)
    with collector_paused():
        return [(reader.line_num, cells) for cells in reader]


def _cells(records: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The cells of whole records, whatever line ends are in them."""
    reader = _reader((record.replace("\n", "\u0102") for record in records), delimiter)
    return ([cell.replace("\u0102", "\n") for cell in cells] for cells in reader)


def _confidence(verdict: Verdict) -> str:
    return "" if verdict.confidence is None else f"{verdict.confidence:.4g}"


@lru_cache(maxsize=4096)
def _written(cells: tuple[str, ...], delimiter: str, encoding: str, safe: bool) -> bytes:
    try:
        return b"".join((delimiter + _quoted(cell, delimiter, safe=safe)).encode(encoding) for cell in cells)
    except UnicodeEncodeError as error:
        raise BadInput(f"--encoding {encoding} cannot write {error.object[error.start : error.end]!r}") from error


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + cell if cell.encode("utf-8", "replace")[:1] in FORMULA_STARTS else cell


def _quoted(cell: str, delimiter: str, *, safe: bool) -> str:
    if safe:
        cell = guarded(cell)
    if any(character in cell for character in (delimiter, '"', "\n", "\r")):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _safe(body: bytes, delimiter: str) -> bytes:
    """A record in which no cell starts like a formula: an apostrophe stands before it, all else stays."""
    if not any(start in body for start in FORMULA_STARTS):
        return body
    starts = FORMULA_STARTS - {delimiter.encode()}
    marks = [at for at in _cell_starts(body, delimiter.encode()) if body[at : at + 1] in starts]
    for at in reversed(marks):
        body = body[:at] + b"'" + body[at:]
    return body


def _cell_starts(body: bytes, delimiter: bytes) -> Iterator[int]:
    """Where the text of each cell starts, after spaces and the opening quote."""
    at = 0
    while True:
        while body[at : at + 1] == b" " != delimiter:
            at += 1
        quoted = body[at : at + 1] == b'"'
        at += quoted
        yield at
        if quoted:
            at = _closing(body, at)
        at = body.find(delimiter, at)
        if at < 0:
            return
        at += 1


def _closing(body: bytes, at: int) -> int:
    """The place after the quote that closes the cell whose text starts at `at`."""
    while (found := body.find(b'"', at)) >= 0:
        if body[found + 1 : found + 2] != b'"':
            return found + 1
        at = found + 2
    return len(body)
