"""Which file is which: never by its name alone, and never by its content alone."""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from functools import lru_cache
from typing import NamedTuple

HEAD_BYTES = 256
ANCHOR_BYTES = 64
_DIGEST_BYTES = 16

_COMPRESSED_NAME = re.compile(rb"\.(?:gz|zst|xz|bz2|lz4)\Z")
_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh", b"\x04\x22\x4d\x18")
# What rotation adds to a name: .1  -20251122  .2025-11-22  -2025-11-22T10-00-00  .1763805317  .old
_ADDED = rb"[.\-_](?:\d{1,3}|\d{4}-?\d\d-?\d\d(?:[-_T.]?\d\d(?:[-:.]?\d\d){0,2}(?:\.\d+)?)?|\d{10}|old|bak)"
_ADDED_AT_END = re.compile(rb"(?:" + _ADDED + rb")+\Z")
_ADDED_BEFORE_SUFFIX = re.compile(rb"(?:" + _ADDED + rb")+(\.[A-Za-z]+)\Z")


class Identity(NamedTuple):
    """Device and inode: where the bytes are."""

    device: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        """The identity of the file that was looked at."""
        return cls(stat.st_dev, stat.st_ino)


NOWHERE = Identity(0, 0)  # of a stream whose file is gone


def digest(data: bytes) -> bytes:
    """A short hash, enough to know bytes again."""
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def source_key(name: str, identity: Identity, generation: int) -> str:
    """The name of a stream in the state database: the input, where it began, which content of that inode it is."""
    return f"{name}/{identity.device:x}:{identity.inode:x}:{generation}"


def born(source: str) -> tuple[Identity, int]:
    """Where a stream with this key began, and as which generation."""
    device, inode, generation = source.rpartition("/")[2].split(":")
    return Identity(int(device, 16), int(inode, 16)), int(generation)


def chunk_id(source: str, head: bytes, start: int, end: int) -> str:
    """24 characters, the same whenever the same range of the same file is sent again."""
    hashed = hashlib.sha256(f"{source}\0{start}\0{end}\0".encode("utf-8", "surrogateescape") + head)
    return b64encode(hashed.digest()[:18]).decode("ascii")


@lru_cache(maxsize=32_768)
def family(path: bytes) -> bytes:
    """The path without what rotation adds to it: the same for a log, its rotated parts and their copies."""
    folder, name = os.path.split(path)
    name = _COMPRESSED_NAME.sub(b"", name)
    shorter = _ADDED_AT_END.sub(b"", name)
    if shorter == name:
        shorter = _ADDED_BEFORE_SUFFIX.sub(rb"\1", name)
    return os.path.join(folder, shorter or name)  # noqa: PTH118  # paths are bytes here


def is_compressed(path: bytes, first_bytes: bytes = b"") -> bool:
    """By the name or, once they are known, by the first bytes."""
    return _COMPRESSED_NAME.search(path) is not None or first_bytes.startswith(_MAGICS)
