"""From a batch to the PackedForward messages that carry it: the same every time, cut before receivers refuse it."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec import Raw

from logclf_daemon.codec import encode, encode_entries, raw_str, text_bytes
from logclf_daemon.record import AnyRecord, Batch, Record, SealedRecord

NO_TAG = "logclf"
TRUE = Raw(b"\xc3")
MARK = "truncated"


@dataclass(frozen=True, slots=True)
class Packet:
    """One message on the wire; `chunk` is the id its acknowledgement must carry."""

    message: bytes
    chunk: bytes | None


@dataclass(slots=True)
class Packer:
    """How batches become messages. `ack` puts the chunk ids in; without, nobody would read the answers."""

    tag_prefix: str = ""
    ack: bool = True
    gzip: bool = False
    max_chunk_bytes: int = 4 << 20

    def packets(self, batch: Batch, chunk: str) -> tuple[list[Packet], int]:
        """The messages of a batch, and how many records had to be truncated.

        The same batch under the same id gives the same bytes. A part's id says which records are in it, so that a
        receiver that drops repetitions never drops a part that was cut elsewhere the first time.
        """
        tag = raw_str(tag_of(batch.source, self.tag_prefix).encode("utf-8", "surrogateescape"))
        if batch.opaque is not None:
            return [self._packet(tag, batch.opaque, dict(batch.options), chunk)], 0
        packets: list[Packet] = []
        truncated = 0
        for start, payload, count, cut in self._parts(batch.records, 0):
            truncated += cut
            whole = count == len(batch.records)
            part = chunk if whole else part_id(chunk, start, start + count)
            options: dict[str, object] = {"size": count}
            if self.gzip:
                payload = gzipped(payload)
                options["compressed"] = "gzip"
            packets.append(self._packet(tag, binary(payload), options, part))
        return packets, truncated

    def _parts(self, records: Sequence[AnyRecord], start: int) -> Iterator[tuple[int, bytes, int, int]]:
        """Halve until it fits: rare, and needs no size of each record. A record too large alone is truncated."""
        if not records:
            return
        payload = encode_entries(records)
        if len(payload) <= self.max_chunk_bytes:
            yield start, payload, len(records), 0
        elif len(records) == 1:
            yield start, encode_entries([truncated_record(records[0], self.max_chunk_bytes)]), 1, 1
        else:
            middle = len(records) // 2
            yield from self._parts(records[:middle], start)
            yield from self._parts(records[middle:], start + middle)

    def _packet(self, tag: Raw, element: bytes, options: dict[str, object], chunk: str) -> Packet:
        if self.ack:
            options = {"chunk": chunk, **options}
        message = b"\x93" + bytes(tag) + element + option_map(options)
        return Packet(message, chunk.encode() if self.ack else None)


def tag_of(source: str, prefix: str) -> str:
    """The tag of a source: a tag stays as it is, a path becomes one (`/var/log/a.log` is `var.log.a.log`).

    Never empty: fluentd refuses an empty tag.
    """
    name = source.strip("/").replace("/", ".") if source.startswith("/") else source
    return prefix + name if name else prefix.rstrip(".") or NO_TAG


def fresh_id() -> str:
    """An id for a chunk whose input gave none."""
    return base64.b64encode(os.urandom(18)).decode()


def part_id(chunk: str, start: int, end: int) -> str:
    """The id of the records `start` to `end` of a chunk."""
    return base64.b64encode(hashlib.sha256(f"{chunk}/{start}-{end}".encode()).digest()[:18]).decode()


def binary(payload: bytes) -> bytes:
    """A msgpack bin; always with the long header."""
    return struct.pack(">BI", 0xC6, len(payload)) + payload


def gzipped(payload: bytes) -> bytes:
    """One gzip member without a time in it."""
    deflater = zlib.compressobj(6, wbits=31)
    return deflater.compress(payload) + deflater.flush()


def option_map(options: dict[str, object]) -> bytes:
    """A msgpack map. The values that came with an opaque chunk are msgpack already."""
    pairs = b"".join(bytes(_text(key)) + _value(value) for key, value in options.items())
    header = bytes((0x80 | len(options),)) if len(options) < 16 else struct.pack(">BI", 0xDF, len(options))
    return header + pairs


def _text(text: str) -> Raw:
    return raw_str(text.encode("utf-8", "surrogateescape"))


def _value(value: object) -> bytes:
    return bytes(_text(value)) if isinstance(value, str) else encode(value)


def truncated_record(record: AnyRecord, limit: int) -> Record:
    """The record with its largest values cut until it fits, and the mark `truncated`.

    Text keeps its beginning; anything else that large goes. Of a sealed record only the mark is left.
    """
    if isinstance(record, SealedRecord):
        return Record(record.time if len(bytes(record.time)) < limit // 2 else Raw(b"\x00"), {MARK: TRUE})
    time = record.time if len(bytes(record.time)) < limit // 4 else Raw(b"\x00")
    fields = dict(record.fields)
    fields[MARK] = TRUE
    excess = len(encode_entries([Record(time, fields)])) - limit
    for name in sorted(fields, key=lambda each: len(bytes(fields[each])), reverse=True):
        if excess <= 0:
            break
        before = fields[name]
        fields[name] = _cut(before, excess)
        excess -= len(bytes(before)) - len(bytes(fields[name]))
    if excess > 0:  # it is the keys
        fields = {MARK: TRUE}
    return Record(time, fields)


def _cut(value: Raw, excess: int) -> Raw:
    text = text_bytes(value)
    if text is None:
        return Raw(b"\xc0") if len(bytes(value)) > 64 else value
    end = longest = max(len(text) - excess, 0)
    while end and longest - end < 3 and text[end] & 0xC0 == 0x80:
        end -= 1  # not in the middle of a UTF-8 sequence
    return Raw(binary(text[:end])) if bytes(value)[0] in (0xC4, 0xC5, 0xC6) else raw_str(text[:end])
