"""From a frame to what the pipeline takes: its options, the entries out of their compression, parts of bounded size."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack
import msgspec
from msgpack.exceptions import OutOfData
from msgspec import Raw

from logclf_daemon.codec import Decoded, decode_entries, text_bytes
from logclf_daemon.inputs._forward.framing import PART_RECORDS, UNPACK_ERRORS, Frame, Malformed, Mode, Part, checked
from logclf_daemon.record import AnyRecord

MAX_CHUNK_ID_BYTES = 1024
_PIECE_BYTES = 1 << 20  # inflated at a time
_OPTIONS = msgspec.msgpack.Decoder(dict[str, Raw])
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_NIL = b"\xc0"


@dataclass(frozen=True, slots=True)
class Options:
    """The option map of a frame. `chunk` is the msgpack of the chunk id, echoed byte for byte and type for type."""

    chunk: bytes | None
    signal: int
    compressed: bytes
    metadata: bytes | None
    fields: dict[str, Raw]

    @property
    def ack(self) -> bytes | None:
        """The answer the sender waits for, if it waits for one."""
        return None if self.chunk is None else b"\x81\xa3ack" + self.chunk


_NO_OPTIONS = Options(None, 0, b"", None, {})


def read_options(packed: bytes) -> Options:
    """Read an option map; what it says of the number of entries is not believed, unknown keys are kept.

    Raises:
        Malformed: The chunk id or the signal is none.
    """
    if not packed:
        return _NO_OPTIONS
    try:
        fields = _OPTIONS.decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            fields = _read_odd_map(packed)
        except UNPACK_ERRORS as error:
            raise Malformed("malformed", f"options: {error}") from error
    chunk, compressed = fields.pop("chunk", None), fields.get("compressed")
    metadata = fields.get("metadata")
    return Options(
        None if chunk is None else _chunk_id(bytes(chunk)),
        _signal(fields.get("fluent_signal")),
        (compressed is not None and text_bytes(compressed)) or b"",
        None if metadata is None or bytes(metadata) in (_NIL, b"\x80") else bytes(metadata),
        fields,
    )


def _read_odd_map(packed: bytes) -> dict[str, Raw]:
    """The pairs with a text key of a map that msgspec refuses; undecodable bytes of a key become surrogates."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=len(packed))
    unpacker.feed(packed)
    fields: dict[str, Raw] = {}
    for _ in range(unpacker.read_map_header()):
        at = unpacker.tell()
        unpacker.skip()
        middle = unpacker.tell()
        unpacker.skip()
        key = text_bytes(packed[at:middle])
        if key is not None:
            fields[key.decode("utf-8", "surrogateescape")] = Raw(packed[middle : unpacker.tell()])
    return fields


def _chunk_id(packed: bytes) -> bytes | None:
    if packed == _NIL:
        return None
    is_integer = packed[0] < 0x80 or packed[0] >= 0xE0 or 0xCC <= packed[0] <= 0xD3
    if not is_integer and text_bytes(packed) is None:
        raise Malformed("malformed", "the chunk id is neither text nor a number")
    if len(packed) > MAX_CHUNK_ID_BYTES:
        raise Malformed("malformed", f"a chunk id of {len(packed)} bytes")
    return packed


def _signal(packed: Raw | None) -> int:
    if packed is None or bytes(packed) == _NIL:
        return 0
    try:
        return msgspec.msgpack.decode(packed, type=int)
    except msgspec.DecodeError as error:
        raise Malformed("malformed", "fluent_signal is not a number") from error


def downstream_id(tag: bytes, chunk: bytes, part: int = 0) -> str:
    """The id of a chunk on its further way: the same for the same chunk sent again, after a restart too."""
    named = len(tag).to_bytes(4, "big") + tag + chunk + (b"/%d" % part if part else b"")
    return base64.b64encode(hashlib.sha256(named).digest()[:18]).decode()


def element(frame: Frame) -> bytes:
    """The second element of a frame as it came; a single event becomes an array of one."""
    return b"\x91\x92" + frame.body if frame.mode is Mode.MESSAGE else frame.head + frame.body


def event_entry(frame: Frame, metadata: bytes | None) -> bytes:
    """A single event as an entry; its metadata takes the place it has in the other modes."""
    if metadata is None:
        return b"\x92" + frame.body
    return b"\x92\x92" + frame.body[: frame.middle] + metadata + frame.body[frame.middle :]


def is_long_work(payload: bytes, compressed: bytes) -> bool:
    """Whether opening this payload may take so long that others would notice."""
    packed = compressed not in (b"", b"text") or payload.startswith((_GZIP_MAGIC, _ZSTD_MAGIC))
    return len(payload) > (4096 if packed else 1 << 18)


def open_payload(payload: bytes, compressed: bytes, limit: int) -> tuple[bytes, list[Part]]:
    """The entries of a packed payload, `limit` bytes at most, and how they are cut.

    Raises:
        Malformed: It is too large, broken, or packed by an unknown method.
    """
    entries = inflate(payload, compressed, limit)
    return entries, walk(entries)


def inflate(payload: bytes, compressed: bytes, limit: int) -> bytes:
    """The entries of a packed payload out of their compression, `limit` bytes at most.

    gzip and zstd are known by their magic too: Fluent Bit sends gzip without saying so in some versions.

    Raises:
        Malformed: It is too large, broken, or packed by an unknown method.
    """
    if compressed == b"gzip" or (not compressed and payload.startswith(_GZIP_MAGIC)):
        return _gunzip(payload, limit)
    if compressed == b"zstd" or (not compressed and payload.startswith(_ZSTD_MAGIC)):
        return _unzstd(payload, limit)
    if compressed in (b"", b"text"):
        return payload
    raise Malformed("corrupt_chunk", f"unknown compression {compressed[:20]!r}")


def _gunzip(payload: bytes, limit: int) -> bytes:
    """All members. Each gets a growing window: `unused_data` is a copy, and there may be thousands of members."""
    view, inflated, at, window = memoryview(payload), bytearray(), 0, 512
    member, more = zlib.decompressobj(wbits=31), False
    try:
        while at < len(view) or more:
            piece = member.decompress(view[at : at + window], _PIECE_BYTES)
            inflated += piece
            if len(inflated) > limit:
                raise Malformed("inflated_too_large", f"more than max_inflated_bytes ({limit})")
            more = len(piece) == _PIECE_BYTES  # there may be some that needs no more input
            at += min(window, len(view) - at) - len(member.unused_data) - len(member.unconsumed_tail)
            window = min(window * 2, _PIECE_BYTES)
            if member.eof and at < len(view):
                member, window = zlib.decompressobj(wbits=31), 512
    except zlib.error as error:
        raise Malformed("corrupt_chunk", f"gzip: {error}") from error
    if not member.eof:
        raise Malformed("corrupt_chunk", "gzip: it ends too early")
    return bytes(inflated)


def _unzstd(payload: bytes, limit: int) -> bytes:
    try:
        import zstandard  # optional: only here
    except ImportError as error:
        missing = "zstd needs the package zstandard: pip install zstandard, or let the sender use gzip"
        raise Malformed("corrupt_chunk", missing) from error
    inflated, at = bytearray(), 0
    try:
        while at < len(payload):
            frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
            # 256 bytes of blocks that repeat one byte are 8 MiB at most: so far it may go beyond the limit.
            while not frame.eof and at < len(payload):
                inflated += frame.decompress(payload[at : at + 256])
                at += min(256, len(payload) - at) - len(frame.unused_data)
                if len(inflated) > limit:
                    raise Malformed("inflated_too_large", f"more than max_inflated_bytes ({limit})")
            if not frame.eof:
                raise Malformed("corrupt_chunk", "zstd: it ends too early")
    except zstandard.ZstdError as error:
        raise Malformed("corrupt_chunk", f"zstd: {error}") from error
    return bytes(inflated)


def walk(payload: bytes, part_records: int = PART_RECORDS) -> list[Part]:
    """Count the entries of a packed payload and cut it into parts.

    Raises:
        Malformed: It does not end with an entry.
    """
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(len(payload), 1))
    unpacker.feed(payload)
    skip, tell = unpacker.skip, unpacker.tell
    parts: list[Part] = []
    start = end = count = 0
    try:
        while True:
            for _ in range(part_records):
                skip()
                end = tell()
                count += 1
            parts.append(checked(Part(start, end, count)))
            start, count = end, 0
    except OutOfData:
        pass
    except UNPACK_ERRORS as error:
        raise Malformed("corrupt_chunk", f"no msgpack at byte {end} of {len(payload)}") from error
    if end != len(payload):
        raise Malformed("corrupt_chunk", f"an entry is cut at byte {end} of {len(payload)}")
    if count:
        parts.append(Part(start, end, count))
    return parts


def decode_part(entries: bytes, part: Part, *, floats: bool = True) -> Decoded:
    """The records of a part. Without a usable time an event is invalid: the next hop would refuse the whole chunk.

    `floats` says whether a time may be a float: in Message mode no receiver takes one.
    """
    whole = part.start == 0 and part.end == len(entries)
    decoded = decode_entries(entries if whole else entries[part.start : part.end], part.count)
    untimed = _untimed(decoded.records, floats)
    if not untimed:
        return decoded
    kept = [at for at in range(len(decoded.records)) if at not in untimed]
    marks = frozenset(place for place, at in enumerate(kept) if at in decoded.passthrough)
    return Decoded([decoded.records[at] for at in kept], marks, decoded.invalid + len(untimed))


def _untimed(records: Sequence[AnyRecord], floats: bool) -> set[int]:
    """The positions of records whose time is none. The kinds of a chunk are few: look at each kind once."""
    heads = {bytes(record.time)[:3] for record in records}
    if all(head == b"\x92\xd7\x00" or head[:2] == b"\xd7\x00" or _TIMED[head[0]] for head in heads):
        return set()
    return {at for at, record in enumerate(records) if not _is_time(bytes(record.time), floats)}


_INTEGERS = frozenset((*range(0x80), *range(0xE0, 0x100), *range(0xCC, 0xD4)))
_TIMED = bytes(byte in _INTEGERS for byte in range(256))  # first bytes that need no second look
_PAIRS = (b"\x92", b"\xdc\x00\x02", b"\xdd\x00\x00\x00\x02")


def _is_time(packed: bytes, floats: bool) -> bool:
    """Whether this is an integer, an EventTime, perhaps a float, or one of them with its metadata."""
    for pair in _PAIRS:
        packed = packed.removeprefix(pair)
    if _TIMED[packed[0]] or packed.startswith((b"\xd7\x00", b"\xc7\x08\x00")):
        return True
    return floats and packed[0] in (0xCA, 0xCB)
