"""Tables of one record a line: JSON objects, and plain logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import BinaryIO

import msgspec

from logclf_daemon.errors import BadInput
from logclf_daemon.generation import Answer
from logclf_daemon.tables.columns import place_of, refuse_taken, time_place
from logclf_daemon.tables.encodings import as_utf8, refuse_packed
from logclf_daemon.tables.rows import BLOCK_BYTES, MAX_RECORD_BYTES, Block, Rows, TableOptions, extra_of, filled

UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LinesReading:
    """A file being read, cut into blocks after line ends."""

    name: str
    block_bytes: int = BLOCK_BYTES
    max_record_bytes: int = MAX_RECORD_BYTES

    def blocks(self, reader: BinaryIO, line: int) -> Iterator[Block]:
        """Blocks that depend only on where they start.

        Raises:
            BadInput: A line is longer than anything that could be a record.
        """
        pending, size = b"", min(self.block_bytes, self.max_record_bytes)
        while pending := pending + filled(reader, size - len(pending)):
            last = len(pending) < size
            cut = len(pending) if last else pending.rfind(b"\n", 0, size) + 1
            if not cut and size >= self.max_record_bytes:
                raise BadInput(f"{self.name}:{line}: a line of more than {self.max_record_bytes} bytes; is it text?")
            if cut:
                yield Block(pending[:cut], line)
                line += pending.count(b"\n", 0, cut)
                pending = pending[cut:]
            size = min(size * 2 if not cut else self.block_bytes, self.max_record_bytes)


def split_lines(block: Block) -> tuple[list[bytes], bytes | list[bytes]]:
    """The lines without their ends, and the ends: one for all where they are the same."""
    payload = block.payload
    if b"\r\n" not in payload and payload.endswith(b"\n"):
        lines = payload.split(b"\n")
        del lines[-1]
        return lines, b"\n"
    lines, ends = [], []
    for line in payload.split(b"\n"):
        body = line.removesuffix(b"\r")
        lines.append(body)
        ends.append(line[len(body) :] + b"\n")
    if lines[-1] == b"" and payload.endswith(b"\n"):
        del lines[-1], ends[-1]
    return lines, ends


@dataclass(frozen=True)
class JsonCodec:
    """JSON objects, one a line: the label becomes their last member."""

    options: TableOptions
    time: str | None = None
    names: tuple[str, ...] = field(default=())

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[object]:
        wanted = {
            "source": self.options.source_column,
            "message": self.options.message_column,
            "label": self.options.label_column,
        }
        if self.time is not None:
            wanted["time"] = self.time
        # Two wanted names may be the same column: the struct has it once, and `_place` finds it for both.
        columns = list(dict.fromkeys(wanted.values()))
        struct = msgspec.defstruct(
            "Line",
            [(f"c{at}", msgspec.Raw, msgspec.Raw()) for at in range(len(columns))],
            rename={f"c{at}": column for at, column in enumerate(columns)},
        )
        return msgspec.json.Decoder(struct)

    def _place(self, column: str) -> str:
        columns = [self.options.source_column, self.options.message_column, self.options.label_column, self.time]
        return f"c{list(dict.fromkeys(columns)).index(column)}"

    def __reduce__(self) -> tuple[object, ...]:
        return (JsonCodec, (self.options, self.time, self.names))

    def parse(self, block: Block) -> Rows:
        """The rows of a block; a line that is no object, or has the label already, is bad."""
        bodies, ends = split_lines(block)
        count = len(bodies)
        rows = Rows(bodies, ends, [b""] * count, [None] * count, range(block.line, block.line + count))
        times: list[bytes] = [b""] * count
        source, message = self._place(self.options.source_column), self._place(self.options.message_column)
        label, time = self._place(self.options.label_column), self._place(self.time) if self.time else ""
        for at, body in enumerate(bodies):
            try:
                line = self._decoder.decode(body.removeprefix(UTF8_BOM))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                rows.passed.add(at)
                if body.strip():
                    rows.bad.add(at)
                continue
            if bytes(getattr(line, label)):
                rows.passed.add(at)
                rows.bad.add(at)
                continue
            rows.sources[at] = _plain(getattr(line, source)).strip()  # type: ignore[index]
            rows.messages[at] = _plain(getattr(line, message)) or None  # type: ignore[index]
            if time:
                times[at] = _plain(getattr(line, time))
        rows.times = times if time else None
        return rows

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The lines with the members of their answers before the closing brace."""
        tails = {answer: _members(extra_of(answer, self.options)) for answer in set(answers) if answer is not None}
        ends = [rows.ends] * len(rows) if isinstance(rows.ends, bytes) else rows.ends
        gone = rows.bad if self.options.bad_rows != "keep" else ()
        written = []
        for at, (body, answer, end) in enumerate(zip(rows.bodies, answers, ends, strict=True)):
            if at in gone:
                continue
            written.append((body if answer is None else _with_members(body, tails[answer])) + end)
        return b"".join(written)

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """The members of the header's names; nested ones as JSON, others are left out."""
        objects = [_object(body) for body in rows.bodies]
        found = dict.fromkeys(name for members in objects for name in members)
        names = self.names or tuple(found)
        rows.lost.update(found.keys() - set(names))
        return {name: [_cell(members.get(name)) for members in objects] for name in names}


def open_json(reader: BinaryIO, options: TableOptions, name: str) -> tuple[LinesReading, JsonCodec, bytes]:
    """Look at the first objects: the codec, and the bytes that were read.

    Raises:
        BadInput: No object, or it has no such members.
    """
    head = filled(reader, BLOCK_BYTES)
    while b"\n" not in head and len(head) < options.max_record_bytes and (more := filled(reader, len(head))):
        head += more  # the first line is a long one
    refuse_packed(head, name)
    whole = head.rpartition(b"\n")[0] or head
    objects = [members for members in map(_object, whole.split(b"\n")[:1000]) if members]
    names = tuple(dict.fromkeys(name for members in objects for name in members))
    if not names:
        example = msgspec.json.encode(options.message_column).decode()
        raise BadInput(f"{name}:1: no JSON object; write one a line, such as {{{example}: …}}")
    refuse_taken(names, options, f"{name}:1")
    place_of("message_column", names, options, f"{name}:1")
    place_of("source_column", names, options, f"{name}:1")
    time = time_place(names, options, f"{name}:1")
    return (
        LinesReading(name, options.block_bytes, options.max_record_bytes),
        JsonCodec(options, None if time is None else names[time], names),
        head,
    )


def _object(body: bytes) -> dict[str, object]:
    try:
        members = msgspec.json.decode(body.removeprefix(UTF8_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _cell(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value


def _plain(value: msgspec.Raw) -> bytes:
    """The text of a member: a string without quotes and escapes, anything else as it is written."""
    text = bytes(value)
    if text[:1] != b'"':
        return b"" if text == b"null" else text
    if b"\\" not in text:
        return text[1:-1]
    try:
        return msgspec.json.decode(text, type=str).encode("utf-8", "replace")
    except msgspec.DecodeError:  # half a surrogate pair
        return text[1:-1]


def _members(cells: dict[str, object]) -> bytes:
    return msgspec.json.encode(cells)[1:-1]


def _with_members(body: bytes, members: bytes) -> bytes:
    closing = body.rindex(b"}")
    head = body[:closing]
    comma = b"" if head.rstrip().endswith(b"{") else b","
    return head + comma + members + body[closing:]


@dataclass(frozen=True, slots=True)
class LogCodec:
    """Plain log lines: the label comes before the line, a tab between them, so that `cut -f2-` takes it off again."""

    options: TableOptions
    name: str

    def parse(self, block: Block) -> Rows:
        """Each line is a message of the file."""
        bodies, ends = split_lines(block)
        encoding = self.options.encoding
        texts = bodies if encoding == "utf-8" else [as_utf8(body, encoding) for body in bodies]
        if block.line == 1:
            texts = [texts[0].removeprefix(UTF8_BOM), *texts[1:]]
        source = self.name.encode("utf-8", "surrogateescape")
        passed = {at for at, body in enumerate(bodies) if not body} if not all(bodies) else set()
        return Rows(
            bodies, ends, [source] * len(bodies), texts, range(block.line, block.line + len(bodies)), passed=passed
        )

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The lines after their labels; blank lines stay blank."""
        heads = {answer: self._head(answer) for answer in set(answers) if answer is not None}
        ends = [rows.ends] * len(rows) if isinstance(rows.ends, bytes) else rows.ends
        return b"".join(
            [
                body + end if answer is None else heads[answer] + body + end
                for body, answer, end in zip(rows.bodies, answers, ends, strict=True)
            ]
        )

    def _head(self, answer: Answer) -> bytes:
        cells = [
            f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("\t", " ")
            for cell in extra_of(answer, self.options).values()
        ]
        return "".join(f"{cell}\t" for cell in cells).encode(self.options.encoding, "replace")

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """The file's name and the line."""
        texts = [body.decode(self.options.encoding, "replace") for body in rows.bodies]
        return {self.options.source_column: [self.name] * len(texts), self.options.message_column: list(texts)}


def log_name(name: str) -> str:
    """The source of a file's lines: its name without what it is packed with."""
    path = PurePath(name)
    return path.stem if path.suffix in (".gz", ".zst", ".xz", ".bz2") else path.name
