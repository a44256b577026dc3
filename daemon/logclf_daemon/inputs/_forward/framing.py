"""Where the messages of a forward connection begin and end, in time linear in the bytes however they arrive.

msgpack's Unpacker walks the entries without building objects (6 million a second) and goes on where the last segment
ended; the payload of a PackedForward is not walked at all, its header says how long it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgpack
from msgpack.exceptions import OutOfData

MAX_TAG_BYTES = 4096
PART_RECORDS = 16_384  # a frame of more is handed on in parts: 16 MiB of tiny entries would be gigabytes of objects
MIN_RECORD_BYTES = 3
UNPACK_ERRORS = (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException)


class Malformed(Exception):
    """The connection cannot be understood any further: close it. `what` is a fixed word for the counter."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what
        self.detail = detail


class Mode(Enum):
    """The shapes of a message, told apart by its second element."""

    MESSAGE = "message"
    FORWARD = "forward"
    PACKED = "packed"


@dataclass(frozen=True, slots=True)
class Part:
    """Entries that belong together: their place in the body, and how many they are."""

    start: int
    end: int
    count: int


@dataclass(slots=True)
class Frame:
    """One message. `body` is the entries, the packed payload, or time and record of a single event.

    `head` is the header of the second element, so that `head + body` is that element byte for byte. `middle` is where
    the record of a single event begins. `parts` cut the entries of Forward mode; empty otherwise.
    """

    mode: Mode
    tag: bytes
    head: bytes
    body: bytes
    options: bytes = b""
    middle: int = 0
    parts: tuple[Part, ...] = ()


def checked(part: Part) -> Part:
    """The part, unless it is a whole one of things too small for records (a bomb; a few of them are just invalid).

    Raises:
        Malformed: It is.
    """
    if part.count == PART_RECORDS and part.end - part.start < part.count * MIN_RECORD_BYTES:
        raise Malformed("corrupt_chunk", "thousands of entries that are no records")
    return part


class Sink(Protocol):
    """Takes the frames in the order they end."""

    def append(self, frame: Frame, /) -> None: ...


_OTHER, _TEXT, _ARRAY, _MAP, _NIL = range(5)


def _kind(first: int) -> int:
    if 0xA0 <= first <= 0xBF or first in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        return _TEXT
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return _ARRAY
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return _MAP
    return _NIL if first == 0xC0 else _OTHER


_KIND = bytes(map(_kind, range(256)))  # by the first byte of an element

# How many bytes after the first one tell the length of a str or bin; a short str has its length in the first byte.
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


def new_unpacker() -> msgpack.Unpacker:
    """An Unpacker for hostile bytes: whoever feeds it bounds what it keeps. The limits are for what it builds: tags."""
    return msgpack.Unpacker(
        raw=True,
        strict_map_key=False,
        read_size=4096,  # what a connection costs that sends nothing
        max_str_len=MAX_TAG_BYTES,
        max_bin_len=MAX_TAG_BYTES,
        max_array_len=8,
        max_map_len=8,
        max_ext_len=MAX_TAG_BYTES,
        max_buffer_size=0,
    )


class Framer:
    """Cuts the bytes of one connection into frames. After `Malformed` it is of no further use."""

    def __init__(self, max_frame_bytes: int, part_records: int = PART_RECORDS) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._part_records = part_records
        self._buffer = bytearray()  # from the start of the frame that is not complete
        self._unpacker = new_unpacker()
        self._origin = 0  # the place in the buffer where the unpacker's stream begins
        self._start = 0  # of the present frame; zero between two segments
        self._payload_end: int | None = None  # of a packed payload that is not fed to the unpacker
        # A function, not a method of this object: one that refers to itself is not freed with its connection.
        self._state: Callable[[Framer, Sink], None] = Framer._message
        self._elements = 0
        self._tag = b""
        self._element_at = 0
        self._body_at = 0
        self._middle = 0
        self._body_end = 0
        self._parts: list[Part] = []
        self._left = 0
        self._part_at = 0
        self._part_left = 0

    @property
    def buffered(self) -> int:
        """Bytes of the frame that is not complete; zero between two frames."""
        return len(self._buffer)

    def feed(self, data: bytes, frames: Sink) -> None:
        """Append to `frames` each frame that is complete now.

        Raises:
            Malformed: Close the connection; the frames appended before are good.
        """
        self._buffer += data
        if self._payload_end is None:
            self._unpacker.feed(data)
        try:
            while True:
                self._state(self, frames)
        except OutOfData:
            pass
        except UNPACK_ERRORS as error:
            raise Malformed("malformed", f"not msgpack: {error}" if str(error) else type(error).__name__) from error
        self._forget(self._start)
        if len(self._buffer) > self._max_frame_bytes:
            self._too_large()

    def _forget(self, count: int) -> None:
        """Drop the bytes of complete frames from the buffer."""
        if not count:
            return
        del self._buffer[:count]
        self._start = 0
        self._origin -= count
        self._element_at -= count
        self._body_at -= count
        self._middle -= count
        self._body_end -= count
        self._part_at -= count
        if self._payload_end is not None:
            self._payload_end -= count

    def _too_large(self) -> None:
        raise Malformed("frame_too_large", f"a message is longer than max_frame_bytes ({self._max_frame_bytes})")

    def _at(self) -> int:
        return self._origin + int(self._unpacker.tell())

    def _first(self, at: int) -> int:
        """The first byte of the element at this place."""
        try:
            return self._buffer[at]
        except IndexError:
            raise OutOfData from None

    # --- one state for each element of a message; each takes its element whole or raises OutOfData ------------------

    def _message(self, _frames: Sink) -> None:
        self._start = at = self._at()
        kind = _KIND[self._first(at)]
        if kind == _NIL:  # a heartbeat
            self._unpacker.skip()
            return
        if kind != _ARRAY:
            raise Malformed("not_forward", _guess(bytes(self._buffer[at : at + 8])))
        self._elements = self._unpacker.read_array_header()
        if not 2 <= self._elements <= 4:
            raise Malformed("malformed", f"a message of {self._elements} elements")
        self._element_at = self._at()
        self._state = Framer._message_tag

    def _message_tag(self, _frames: Sink) -> None:
        at = self._element_at
        if _KIND[self._first(at)] != _TEXT:
            raise Malformed("malformed", "the tag is not a string")
        if self._text_end(at) - at > MAX_TAG_BYTES:
            raise Malformed("malformed", "a tag of more than a few kilobytes")
        self._tag = self._unpacker.unpack()
        self._state = Framer._second

    def _second(self, _frames: Sink) -> None:
        self._element_at = at = self._at()
        first = self._first(at)
        if _KIND[first] == _ARRAY:
            self._begin_entries(self._unpacker.read_array_header())
            self._expect_at_most(3)
        elif _KIND[first] == _TEXT:
            self._begin_payload(first, at)
            self._expect_at_most(3)
        else:
            self._state = Framer._time
            if self._elements < 3:
                raise Malformed("malformed", "a message without entries")

    def _expect_at_most(self, elements: int) -> None:
        if self._elements > elements:
            raise Malformed("malformed", f"a message of {self._elements} elements with entries")

    def _begin_entries(self, count: int) -> None:
        if count > self._max_frame_bytes:
            self._too_large()
        self._body_at = self._part_at = self._at()
        self._parts = []
        self._left = count
        self._part_left = min(count, self._part_records)
        self._state = Framer._entries

    def _entries(self, _frames: Sink) -> None:
        while self._left:
            self._skip_entries()
            count, at = min(self._left, self._part_records), self._at()
            self._parts.append(checked(Part(self._part_at - self._body_at, at - self._body_at, count)))
            self._part_at = at
            self._left -= count
            self._part_left = min(self._left, self._part_records)
        self._body_end = self._at()
        self._state = Framer._forward_options

    def _forward_options(self, frames: Sink) -> None:
        self._options(Mode.FORWARD, frames)

    def _skip_entries(self) -> None:
        """The hot loop: one call an entry, nothing else."""
        skip, done = self._unpacker.skip, 0
        try:
            for done in range(self._part_left):  # noqa: B007  # how far it came is needed when the data ends
                skip()
        except OutOfData:
            self._part_left -= done
            raise

    def _text_end(self, at: int) -> int:
        """Where a str or bin ends, from its header alone."""
        first = self._buffer[at]
        width = _LENGTH_BYTES.get(first, 0)
        if not width:
            return at + 1 + (first & 0x1F)
        self._first(at + width)
        return at + 1 + width + int.from_bytes(self._buffer[at + 1 : at + 1 + width], "big")

    def _begin_payload(self, first: int, at: int) -> None:
        self._body_end = self._text_end(at)
        self._body_at = at + 1 + _LENGTH_BYTES.get(first, 0)
        if self._body_end - self._start > self._max_frame_bytes:
            self._too_large()
        if self._body_end <= len(self._buffer):
            self._unpacker.skip()
            self._state = Framer._packed_options
        else:
            self._payload_end = self._body_end
            self._state = Framer._payload

    def _payload(self, _frames: Sink) -> None:
        assert self._payload_end is not None
        if len(self._buffer) < self._payload_end:
            raise OutOfData
        self._unpacker = new_unpacker()
        self._unpacker.feed(memoryview(self._buffer)[self._payload_end :])
        self._origin = self._payload_end
        self._payload_end = None
        self._state = Framer._packed_options

    def _packed_options(self, frames: Sink) -> None:
        self._options(Mode.PACKED, frames)

    def _time(self, _frames: Sink) -> None:
        self._body_at = self._element_at
        self._unpacker.skip()
        self._middle = self._at()
        self._state = Framer._record

    def _record(self, _frames: Sink) -> None:
        self._unpacker.skip()
        self._body_end = self._at()
        self._state = Framer._message_options

    def _message_options(self, frames: Sink) -> None:
        self._options(Mode.MESSAGE, frames)

    def _options(self, mode: Mode, frames: Sink) -> None:
        options = b""
        if self._elements == (4 if mode is Mode.MESSAGE else 3):
            at = self._body_end
            if _KIND[self._first(at)] not in (_MAP, _NIL):
                raise Malformed("malformed", "the options are not a map")
            self._unpacker.skip()
            options = bytes(self._buffer[at : self._at()])
        self._finish(mode, options if options != b"\xc0" else b"", frames)

    def _finish(self, mode: Mode, options: bytes, frames: Sink) -> None:
        end = self._at()
        if end - self._start > self._max_frame_bytes:
            self._too_large()
        view = memoryview(self._buffer)
        frames.append(
            Frame(
                mode,
                self._tag,
                bytes(view[self._element_at : self._body_at]),
                bytes(view[self._body_at : self._body_end]),
                options,
                self._middle - self._body_at if mode is Mode.MESSAGE else 0,
                tuple(self._parts) if mode is Mode.FORWARD else (),
            )
        )
        view.release()
        self._start = end
        self._state = Framer._message


def _guess(start: bytes) -> str:
    """What a sender that does not speak the forward protocol probably speaks."""
    if start[:1] == b"\x16":
        return "looks like TLS; this port has no tls configured"
    if start[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI"):
        return "looks like HTTP"
    if start[:1] in b"{[":
        return "looks like JSON; the forward protocol is msgpack"
    return f"first byte 0x{start[0]:02x} begins no forward message"
