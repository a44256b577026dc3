"""Chunks of msgpack entries to records and back, and the few bytes of msgpack written by hand.

msgspec does the work; what it refuses (binary, integer or non-UTF-8 keys, wrong counts) is read again entry by entry
with msgpack's Unpacker, and the record stays sealed: its map is never changed, a verdict is spliced into it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgpack
import msgspec
from msgspec import Raw

from logclf_daemon.record import AnyRecord, Record, SealedRecord

_ENTRIES = msgspec.msgpack.Decoder(list[Record])
_ENTRY = msgspec.msgpack.Decoder(Record)
_ENCODER = msgspec.msgpack.Encoder()
encode = _ENCODER.encode

# Offset of the text in the msgpack of a str or bin, by its first byte; 0: something else.
_TEXT_AT = bytes(
    1 if 0xA0 <= byte <= 0xBF else {0xD9: 2, 0xDA: 3, 0xDB: 5, 0xC4: 2, 0xC5: 3, 0xC6: 5}.get(byte, 0)
    for byte in range(256)
)
_STR_HEADERS = tuple(bytes((0xA0 | size,)) if size < 32 else bytes((0xD9, size)) for size in range(256))
_GROUP_MARKS = (
    b"\xd7\x00\xff\xff\xff\xff",
    b"\xd7\x00\xff\xff\xff\xfe",
)  # EventTime seconds of OTLP group start and end
_MARKS_SHARE = b"\xff\xff\xff"  # rare in log records, so the search is fast
_MAX_DEPTH_ERRORS = (ValueError, RecursionError, msgpack.exceptions.UnpackException)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The records of a chunk; `invalid` entries were no records at all, `passthrough` ones are no log lines."""

    records: list[AnyRecord]
    passthrough: frozenset[int] = frozenset()
    invalid: int = 0


def decode_entries(blob: bytes, count: int | None = None) -> Decoded:
    """Decode concatenated entries (`[time, map]`, `[[time, metadata], map]`).

    `count` is what the sender says; a wrong or missing one costs a second look, nothing else.

    Raises:
        ValueError: The bytes are not msgpack to their end.
    """
    if count:
        try:
            return _with_marks(_ENTRIES.decode(array_header(count) + blob), blob)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass
    spans = list(_spans(blob))
    try:
        return _with_marks(_ENTRIES.decode(array_header(len(spans)) + blob), blob)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        found = [_one(blob[start:end]) for start, end in spans]
    records = [record for record in found if record is not None]
    return _with_marks(records, blob, invalid=len(found) - len(records))


def _with_marks(records: Sequence[AnyRecord], blob: bytes, invalid: int = 0) -> Decoded:
    if _MARKS_SHARE not in blob:
        return Decoded(list(records), invalid=invalid)
    marked = [
        at for at, record in enumerate(records) if bytes(record.time)[:7].lstrip(b"\x92").startswith(_GROUP_MARKS)
    ]
    return Decoded(list(records), frozenset(marked), invalid)


def _spans(blob: bytes) -> Iterator[tuple[int, int]]:
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(len(blob), 1))
    unpacker.feed(blob)
    start, size = 0, len(blob)
    while start < size:
        try:
            unpacker.skip()
        except _MAX_DEPTH_ERRORS as error:
            raise ValueError(f"not msgpack at byte {start} of {size}") from error
        end = unpacker.tell()
        yield start, end
        start = end


def _one(entry: bytes) -> AnyRecord | None:
    """One entry that msgspec may refuse; None if it is not a time and a map."""
    try:
        return _ENTRY.decode(entry)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(len(entry), 1))
    unpacker.feed(entry)
    try:
        if unpacker.read_array_header() != 2:
            return None
        start = unpacker.tell()
        unpacker.skip()
        middle = unpacker.tell()
        unpacker.read_map_header()
    except _MAX_DEPTH_ERRORS:
        return None
    return SealedRecord(Raw(entry[start:middle]), Raw(entry[middle:]))


def encode_entries(records: Sequence[AnyRecord]) -> bytes:
    """The records as concatenated entries: the payload of a PackedForward message."""
    encoded = encode(records)
    return encoded[len(array_header(len(records), shortest=True)) :]


def array_header(count: int, *, shortest: bool = False) -> bytes:
    """The msgpack header of an array; always 5 bytes unless the `shortest` is asked for."""
    if shortest and count < 16:
        return bytes((0x90 | count,))
    if shortest and count < 1 << 16:
        return struct.pack(">BH", 0xDC, count)
    return struct.pack(">BI", 0xDD, count)


def event_time(nanoseconds: int) -> Raw:
    """A msgpack EventTime (fixext8 type 0); times outside 1970-2106 are clamped."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    if not 0 <= seconds < 1 << 32:
        seconds, rest = (0, 0) if seconds < 0 else ((1 << 32) - 1, 999_999_999)
    return Raw(struct.pack(">BBII", 0xD7, 0, seconds, rest))


def raw_str(text: bytes) -> Raw:
    """A msgpack str of these very bytes, whether they are UTF-8 or not."""
    size = len(text)
    if size < 1 << 8:
        return Raw(_STR_HEADERS[size] + text)
    if size < 1 << 16:
        return Raw(struct.pack(">BH", 0xDA, size) + text)
    return Raw(struct.pack(">BI", 0xDB, size) + text)


def raw_strs(texts: Sequence[bytes]) -> list[Raw]:
    """The same for many: most texts are short, and a call for each would cost as much as its work."""
    headers = _STR_HEADERS
    return [Raw(headers[len(text)] + text) if len(text) < 256 else raw_str(text) for text in texts]


def text_bytes(value: Raw | bytes) -> bytes | None:
    """The bytes of a msgpack str or bin; None if it is something else."""
    data = bytes(value)
    at = _TEXT_AT[data[0]]
    return data[at:] if at else None


def message_lines(records: Sequence[AnyRecord], keys: Sequence[str]) -> list[bytes | None]:
    """The message of each record: the first of `keys` that is present and is text."""
    first, text_at = keys[0], _TEXT_AT
    lines: list[bytes | None] = []
    for record in records:
        try:
            data = bytes(record.fields[first])  # type: ignore[union-attr]  # a sealed record has no fields: below
            at = text_at[data[0]]
        except (KeyError, AttributeError):
            at = 0
        lines.append(data[at:] if at else _other_line(record, keys))
    return lines


def _other_line(record: AnyRecord, keys: Sequence[str]) -> bytes | None:
    fields = record.fields if isinstance(record, Record) else opened(record.body)
    for name in keys:
        value = fields.get(name)
        if value is not None and (text := text_bytes(value)) is not None:
            return text
    return None


def opened(body: Raw) -> dict[str, Raw]:
    """The text keys of a sealed map, undecodable bytes as surrogates; empty if it cannot be read at all."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(len(bytes(body)), 1))
    data = bytes(body)
    unpacker.feed(data)
    fields: dict[str, Raw] = {}
    try:
        for _ in range(unpacker.read_map_header()):
            start = unpacker.tell()
            unpacker.skip()
            middle = unpacker.tell()
            unpacker.skip()
            name = text_bytes(data[start:middle])
            if name is not None:
                fields.setdefault(name.decode("utf-8", "surrogateescape"), Raw(data[middle : unpacker.tell()]))
    except _MAX_DEPTH_ERRORS:
        pass
    return fields


def sealed_with(body: Raw, extra: dict[str, Raw]) -> Raw:
    """The msgpack map `body` with more pairs at its end; its own bytes stay as they are."""
    data = bytes(body)
    if data[0] & 0xF0 == 0x80:
        count, rest = data[0] & 0x0F, data[1:]
    elif data[0] == 0xDE:
        count, rest = int.from_bytes(data[1:3], "big"), data[3:]
    else:
        count, rest = int.from_bytes(data[1:5], "big"), data[5:]
    pairs = b"".join(encode(name) + bytes(value) for name, value in extra.items())
    return Raw(struct.pack(">BI", 0xDF, count + len(extra)) + rest + pairs)
