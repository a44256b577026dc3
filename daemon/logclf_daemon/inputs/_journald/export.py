"""The journal's export format to entries.

Fields are `NAME=value` lines; a value that is no plain text stands after its name as a 64-bit little-endian size and
that many bytes; an empty line ends the entry (systemd's JOURNAL_EXPORT_FORMATS). A field may come more than once.
Whoever may write to the journal chooses what is in it, and how much: what is kept of a field and of an entry is
bounded, and the rest is read past without being held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Raw

from logclf_daemon.codec import array_header, raw_str

CURSOR = "__CURSOR"
ENTRY_FIELDS = 8  # an entry may hold as much as so many fields of the largest size

_SIZE_BYTES = 8
_NAME_BYTES = 64  # the longest name the journal takes


@dataclass(slots=True)
class Entry:
    """One entry. `fields` holds msgpack: text, or a list of texts where a field came more than once."""

    cursor: str
    fields: dict[str, Raw]
    texts: dict[str, bytes]  # the first value of each field, as it came
    size: int = 0
    truncated: bool = False


class ExportParser:
    """Takes the bytes in any portions, gives the entries that are complete.

    A value longer than `max_field_bytes` is cut there; what is over `ENTRY_FIELDS` times that in one entry is left out.
    """

    def __init__(self, max_field_bytes: int) -> None:
        self._limit = max_field_bytes
        self._rest = b""
        self._pairs: list[tuple[bytes, bytes]] = []
        self._kept = 0
        self._size = 0
        self._truncated = False
        self._skip = 0  # bytes of a binary value that are read past
        self._skip_line = False  # the rest of this line is read past

    def feed(self, data: bytes) -> Iterator[Entry]:
        """The entries that end in `data`."""
        data = self._rest + data
        at = self._skipped(data)
        while True:
            if not self._pairs and (end := data.find(b"\n\n", at)) >= 0 and (entry := self._plain(data[at:end])):
                yield entry
                at = end + 2
                continue
            step = self._field(data, at)
            if step is None:
                break
            at, ended = step
            if ended and self._pairs:
                yield self._entry()
        self._rest = data[at:]

    def _skipped(self, data: bytes) -> int:
        """Where reading goes on after what is read past."""
        at = 0
        if self._skip:
            at = min(self._skip, len(data))
            self._skip -= at
            self._size += at
        if self._skip_line:
            end = data.find(b"\n")
            at = len(data) if end < 0 else end + 1
            self._skip_line = end < 0
            self._size += at
        return at

    def _plain(self, block: bytes) -> Entry | None:
        """An entry of text fields only, each once and small: nearly all are. None: look at it field by field."""
        if len(block) > self._limit:
            return None
        texts: dict[str, bytes] = {}
        lines = block.split(b"\n")
        for line in lines:
            name, equals, value = line.partition(b"=")
            if not equals:
                return None
            texts[name.decode("ascii", "replace")] = value
        if len(texts) < len(lines):
            return None
        fields = dict(zip(texts, map(raw_str, texts.values()), strict=True))
        return Entry(texts.get(CURSOR, b"").decode("ascii", "replace"), fields, texts, len(block) + 2)

    def _field(self, data: bytes, at: int) -> tuple[int, bool] | None:
        """Take one field: where the next begins, and whether the entry ended there; None: more bytes are needed."""
        end = data.find(b"\n", at)
        if end < 0:
            return self._long_line(data, at)
        if end == at:
            return end + 1, True
        name, equals, value = data[at:end].partition(b"=")
        if equals:
            self._keep(name, value, len(value))
            self._size += end + 1 - at
            return end + 1, False
        start = end + 1 + _SIZE_BYTES
        if len(data) < start:
            return None
        size = int.from_bytes(data[end + 1 : start], "little")
        room = self._room(name)
        if len(data) < start + min(size, room) + (size <= room):
            return None
        self._keep(name, data[start : start + min(size, room)], size)
        over = start + size + 1 - len(data)
        self._skip = max(0, over)
        after = min(start + size + 1, len(data))
        self._size += after - at
        return after, False

    def _long_line(self, data: bytes, at: int) -> tuple[int, bool] | None:
        """A text value that is over the limit before its end has come; the rest of its line is read past."""
        name, equals, value = data[at:].partition(b"=")
        if len(name) <= _NAME_BYTES:
            if not equals or len(value) <= self._room(name):
                return None
            self._keep(name, value, len(value))
        self._size += len(data) - at
        self._skip_line = True
        return len(data), False

    def _room(self, name: bytes) -> int:
        """How much of a value may be kept; the message always finds room."""
        left = self._limit if name == b"MESSAGE" else self._limit * ENTRY_FIELDS - self._kept
        return max(0, min(self._limit, left))

    def _keep(self, name: bytes, value: bytes, size: int) -> None:
        room = self._room(name)
        if size > room:
            self._truncated = True
        if size <= room or room:
            self._pairs.append((name, value[:room]))
            self._kept += len(name) + min(size, room)

    def _entry(self) -> Entry:
        values: dict[str, list[bytes]] = {}
        for name, value in self._pairs:
            values.setdefault(name.decode("ascii", "replace"), []).append(value)
        texts = {name: several[0] for name, several in values.items()}
        fields = {name: _value(several) for name, several in values.items()}
        cursor = texts.get(CURSOR, b"").decode("ascii", "replace")
        entry = Entry(cursor, fields, texts, self._size + 1, self._truncated)
        self._pairs, self._kept, self._size, self._truncated = [], 0, 0, False
        return entry


def _value(values: list[bytes]) -> Raw:
    if len(values) == 1:
        return raw_str(values[0])
    return Raw(array_header(len(values), shortest=True) + b"".join(bytes(raw_str(value)) for value in values))
