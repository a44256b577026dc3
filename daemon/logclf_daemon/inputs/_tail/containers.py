"""The line formats of container runtimes: Docker's json-file and the CRI (containerd, CRI-O).

Both cut long lines into parts of 16 KiB: Docker's last part ends in a line feed, the CRI's is tagged F instead of P.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec


class Entry(NamedTuple):
    """One physical line: `complete` is False where the message goes on in the next one of the same stream."""

    stream: bytes
    time_ns: int | None
    message: bytes
    complete: bool


Parser = Callable[[bytes], Entry]


class _DockerLine(msgspec.Struct, gc=False):
    log: str
    stream: str = ""
    time: str = ""


_docker_line = msgspec.json.Decoder(_DockerLine).decode


def docker(line: bytes) -> Entry:
    """`{"log":"text\\n","stream":"stdout","time":"…"}`; anything else is a message as it stands."""
    try:
        found = _docker_line(line)
        message = found.log.encode()
    except (msgspec.DecodeError, UnicodeError):
        return plain(line)
    ends = message.endswith(b"\n")
    if ends:
        message = message[:-1].removesuffix(b"\r")
    return Entry(found.stream.encode(), nanoseconds(found.time), message, ends)


def cri(line: bytes) -> Entry:
    """`TIME STREAM TAGS MESSAGE` with P or F as the first tag; anything else is a message as it stands."""
    fields = line.split(b" ", 3)
    if len(fields) < 3 or fields[1] not in (b"stdout", b"stderr"):
        return plain(line)
    tag = fields[2].split(b":", 1)[0]
    if tag not in (b"P", b"F"):
        return plain(line)
    message = fields[3] if len(fields) == 4 else b""
    return Entry(fields[1], nanoseconds(fields[0].decode("ascii", "replace")), message, tag == b"F")


def plain(line: bytes) -> Entry:
    """A line that says nothing about itself."""
    return Entry(b"", None, line, True)


PARSERS: dict[str, Parser] = {"docker": docker, "cri": cri}


def nanoseconds(text: str) -> int | None:
    """An RFC 3339 time with up to nine digits of a second, as nanoseconds since 1970."""
    at = 19
    digits = 0
    if text[19:20] == ".":
        at = 20
        while at < len(text) and text[at].isdecimal():
            at += 1
        digits = int(text[20:at][:9].ljust(9, "0")) if at > 20 else 0
    seconds = _seconds(text[:19], text[at:])
    return None if seconds is None else seconds * 1_000_000_000 + digits


@lru_cache(maxsize=1024)
def _seconds(moment: str, zone: str) -> int | None:
    try:
        found = datetime.fromisoformat(f"{moment}{zone}")
        return int(found.timestamp()) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
