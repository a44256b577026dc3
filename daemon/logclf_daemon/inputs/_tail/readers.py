"""Open files, as bytes at positions: plain ones, and the inflated content of a .gz."""

from __future__ import annotations

import errno
import os
import zlib
from collections import OrderedDict
from typing import Protocol

from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.identity import ANCHOR_BYTES, HEAD_BYTES, Identity

_INFLATE_BYTES = 64 << 10


class Reader(Protocol):
    """An open file."""

    complete: bool  # nothing can ever follow what was read

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def stat(self) -> os.stat_result:
        """Of the open file, whatever its name is now."""

    def next_data(self, position: int) -> int | None:
        """Where the next byte outside a hole is, if that is known."""

    def close(self) -> None:
        """Give the descriptor back."""


class PlainReader:
    """A file as it is."""

    complete = False

    def __init__(self, filesystem: Filesystem, fd: int) -> None:
        self._filesystem = filesystem
        self._fd = fd

    def read_at(self, position: int, size: int) -> bytes:
        return self._filesystem.pread(self._fd, size, position)

    def stat(self) -> os.stat_result:
        return self._filesystem.fstat(self._fd)

    def next_data(self, position: int) -> int | None:
        return self._filesystem.next_data(self._fd, position)

    def close(self) -> None:
        self._filesystem.close(self._fd)


class InflatedReader:
    """The content of a .gz (of all its members, one after the other), inflated as it is asked for.

    Going back further than the last block begins again at the start of the file. A member that ends too early counts
    as not yet written; broken data raise OSError.
    """

    def __init__(self, filesystem: Filesystem, fd: int) -> None:
        self._filesystem = filesystem
        self._fd = fd
        self._head = b""
        self._rewind()

    def read_at(self, position: int, size: int) -> bytes:
        if position == 0 and size <= HEAD_BYTES and len(self._head) >= size:
            return self._head[:size]
        if position < self._start:
            self._rewind()
        # What lies a little before is kept: the anchor of the next block, and a line that was not complete.
        keep_from = max(0, position - ANCHOR_BYTES)
        while self._start + len(self._buffer) < position + size and self._more():
            if keep_from > self._start:
                gone = min(keep_from - self._start, len(self._buffer))
                del self._buffer[:gone]
                self._start += gone
        at = position - self._start
        return bytes(self._buffer[at : at + size])

    def stat(self) -> os.stat_result:
        return self._filesystem.fstat(self._fd)

    def next_data(self, position: int) -> int | None:
        return position

    def close(self) -> None:
        self._filesystem.close(self._fd)

    def _rewind(self) -> None:
        self.complete = False
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._compressed_at = 0
        self._pending = b""
        self._buffer = bytearray()
        self._start = 0

    def _more(self) -> bool:
        """Inflate a little more; False at the end of what is there."""
        if not self._pending:
            self._pending = self._filesystem.pread(self._fd, _INFLATE_BYTES, self._compressed_at)
            self._compressed_at += len(self._pending)
        if not self._pending:
            self.complete = self._member.eof
            return False
        if self._member.eof:
            self._pending = self._pending.lstrip(b"\0")  # padding between members, as gzip allows it
            self._member = zlib.decompressobj(zlib.MAX_WBITS | 16) if self._pending else self._member
            return True
        try:
            self._buffer += self._member.decompress(self._pending, _INFLATE_BYTES)
        except zlib.error as error:
            raise OSError(f"not gzip data: {error}") from error
        self._pending = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        if self._start == 0 and len(self._head) < HEAD_BYTES:
            self._head = bytes(self._buffer[:HEAD_BYTES])
        return True


class OpenFiles:
    """At most `limit` files open at a time: the one not used longest goes, unless nothing else leads to its bytes."""

    def __init__(self, filesystem: Filesystem, limit: int) -> None:
        self._filesystem = filesystem
        self._limit = limit
        self._open: OrderedDict[Identity, Reader] = OrderedDict()
        self._kept: set[Identity] = set()

    def get(self, identity: Identity) -> Reader | None:
        """The reader, if the file is open."""
        reader = self._open.get(identity)
        if reader is not None:
            self._open.move_to_end(identity)
        return reader

    def open(self, identity: Identity, path: bytes, *, inflate: bool) -> Reader:
        """Open the file at `path`, which must be the one meant.

        Raises:
            FileNotFoundError: Something else is there now.
            OSError: It cannot be opened.
        """
        while len(self._open) >= self._limit and self._close_oldest():
            pass
        fd = self._opened(path)
        try:
            found = Identity.of(self._filesystem.fstat(fd))
            if found != identity:
                raise FileNotFoundError(f"{os.fsdecode(path)!r} is another file now")
        except BaseException:
            self._filesystem.close(fd)
            raise
        reader: Reader = InflatedReader(self._filesystem, fd) if inflate else PlainReader(self._filesystem, fd)
        self._open[identity] = reader
        return reader

    def _opened(self, path: bytes) -> int:
        while True:
            try:
                return self._filesystem.open(path)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_oldest():
                    raise

    def keep(self, identity: Identity, kept: bool) -> None:
        """Whether the descriptor is the only way to the bytes (the file has lost its name)."""
        if kept:
            self._kept.add(identity)
        else:
            self._kept.discard(identity)

    def close(self, identity: Identity) -> None:
        """Close this one, if it is open."""
        self._kept.discard(identity)
        reader = self._open.pop(identity, None)
        if reader is not None:
            reader.close()

    def close_all(self) -> None:
        """Close every file."""
        for identity in list(self._open):
            self.close(identity)

    def __len__(self) -> int:
        return len(self._open)

    def _close_oldest(self) -> bool:
        oldest = next((identity for identity in self._open if identity not in self._kept), None)
        if oldest is None:
            return False
        self.close(oldest)
        return True
