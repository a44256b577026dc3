"""One sequence of bytes that is read once: its position, what is under way, and by what it is known again.

A stream is not a file. A truncated file begins a new stream; a copy made before the truncation takes the old one over;
a file renamed takes it along. Positions count from the start, after the `carry`: bytes of an unfinished record that
the file before left behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from logclf_daemon.acks import Watermark, _Range
from logclf_daemon.inputs._tail.identity import ANCHOR_BYTES, HEAD_BYTES, NOWHERE, Identity, digest
from logclf_daemon.inputs._tail.readers import Reader
from logclf_daemon.state import Intent, Offset


@dataclass(slots=True)
class Reading:
    """A range that was handed on, until it is safe."""

    token: _Range
    skip: str
    anchor: bytes


class Stream:
    """Where reading stands (`position`) and up to where all is delivered (`safe_position`)."""

    def __init__(self, offset: Offset, intents: Iterable[Intent] = ()) -> None:
        self.source = offset.source
        self.input = offset.input
        self.generation = offset.generation
        self.home = Identity(offset.device, offset.inode)
        self.label = offset.path
        self.position = offset.position
        self.skip = offset.skip
        self.anchor = offset.anchor
        self.carry = offset.carry
        self.finished = offset.finished
        self.replays = deque(_chain(offset.position, intents))
        self.known = True  # it stands in the state database
        self._head = b""
        self._head_known = (offset.head_bytes, offset.head)
        self._watermark = Watermark(offset.position)
        self._under_way: deque[Reading] = deque()
        self._safe = (offset.position, offset.skip, offset.anchor)

    @classmethod
    def new(cls, name: str, source: str, identity: Identity, generation: int, label: bytes) -> Stream:
        """A stream that nobody has read yet."""
        stream = cls(
            Offset(
                source=source,
                input=name,
                device=identity.device,
                inode=identity.inode,
                generation=generation,
                path=label,
                position=0,
            )
        )
        stream.known = False
        return stream

    @property
    def in_flight(self) -> int:
        """Ranges not yet safe."""
        return self._watermark.in_flight

    @property
    def safe_position(self) -> int:
        return self._safe[0]

    def read(self, reader: Reader, position: int, size: int) -> bytes:
        """Bytes of the carry and of the file after it."""
        if position >= len(self.carry):
            return reader.read_at(position - len(self.carry), size)
        data = self.carry[position : position + size]
        return data + reader.read_at(0, size - len(data)) if len(data) < size else data

    def start_at(self, reader: Reader, position: int, skip: str) -> None:
        """Begin somewhere else than at the start."""
        self.position, self.skip = position, skip
        self.anchor = self.anchor_at(reader, position)
        self._head = self.read(reader, 0, min(position, HEAD_BYTES))
        self._watermark = Watermark(position)
        self._safe = (position, skip, self.anchor)

    def recognises(self, reader: Reader) -> bool:
        """Whether the file has the bytes that were read of this stream: its first ones and the last ones.

        The last ones are those before `position`, and those of the next range that was under way in an earlier run.
        """
        size, expected = self._head_known
        wanted = max(size, len(self._head))
        head = self.read(reader, 0, wanted)
        if len(head) < wanted or not head.startswith(self._head) or (size and digest(head[:size]) != expected):
            return False
        marks = [(self.position, self.anchor)] if self.position else []
        if self.replays:
            marks.append((self.replays[0].end, self.replays[0].anchor))
        for end, anchor in marks:
            start = max(0, end - ANCHOR_BYTES)
            before = self.read(reader, start, end - start)
            if len(before) < end - start or digest(before) != anchor:
                return False
        self._head = head
        return True

    def anchor_at(self, reader: Reader, end: int) -> bytes:
        """A digest of the last bytes before `end`."""
        start = max(0, end - ANCHOR_BYTES)
        return digest(self.read(reader, start, end - start))

    def fingerprint(self, reader: Reader, end: int) -> bytes:
        """The first bytes up to `end`, at most 256; read again while there were fewer."""
        size = min(end, HEAD_BYTES)
        if len(self._head) < size:
            self._head = self.read(reader, 0, size)
        return self._head[:size]

    def issue(self, end: int, skip: str, anchor: bytes) -> Reading:
        """Reading moves on to `end`; the range up to there is under way."""
        reading = Reading(self._watermark.issue(end), skip, anchor)
        self._under_way.append(reading)
        self.position, self.skip, self.anchor = end, skip, anchor
        return reading

    def settle(self, reading: Reading) -> bool:
        """The range is safe. True if the safe position moved."""
        self._watermark.settle(reading.token)
        moved = False
        while self._under_way and self._under_way[0].token.settled:
            first = self._under_way.popleft()
            self._safe = (first.token.end, first.skip, first.anchor)
            moved = True
        return moved

    def offset(self) -> Offset:
        """The safe position as it is written down."""
        position, skip, anchor = self._safe
        size, expected = self._head_known
        if self._head:
            size = min(len(self._head), position)
            expected = digest(self._head[:size]) if size else b""
        return Offset(
            source=self.source,
            input=self.input,
            device=self.home.device,
            inode=self.home.inode,
            generation=self.generation,
            path=self.label,
            position=position,
            skip=skip,
            head_bytes=size,
            head=expected,
            anchor=anchor if position else b"",
            carry=self.carry,
            finished=self.finished,
        )

    def leave(self) -> None:
        """Its file is gone or begins anew; only a copy can still bring the rest."""
        self.home, self.finished = NOWHERE, True

    def move(self, home: Identity) -> None:
        """Its bytes are found there now."""
        self.home, self.finished = home, False


def _chain(position: int, intents: Iterable[Intent]) -> Iterable[Intent]:
    """The intents that follow each other without a gap: anything else would not cut the same ranges again."""
    for intent in intents:
        if intent.start != position:
            return
        yield intent
        position = intent.end
