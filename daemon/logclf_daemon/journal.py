"""Events to the systemd journal, each fact a field of its own: `journalctl LOGCLF_EVENT='records dropped' -o json`.

The journal's native protocol: one datagram an entry, `NAME=value` lines; a value with a line feed comes after its
length.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_NO_NAME = re.compile(r"[^A-Z0-9_]")


def is_ours() -> bool:
    """Whether what this process writes to standard error goes to the journal, as systemd tells it."""
    try:
        looked = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # it may be closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{looked.st_dev}:{looked.st_ino}"


class JournalHandler(logging.Handler):
    """Sends events to the journal; `instead` writes those it does not take (too large, or no journal there)."""

    def __init__(self, instead: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self._instead = instead
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        # A socket for each: events are few, and the journal may be restarted.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(self._path)
                sender.sendall(_datagram(self._fields(record)))
        except OSError:
            self._instead.handle(record)

    def _fields(self, record: logging.LogRecord) -> Mapping[str, str]:
        facts: Mapping[str, object] = getattr(record, "facts", None) or {}
        named = {f"LOGCLF_{_NO_NAME.sub('_', name.upper())}": str(fact) for name, fact in facts.items()}
        priority = str(PRIORITIES.get(record.levelno, 6))
        return {"MESSAGE": self.format(record), "PRIORITY": priority, "SYSLOG_IDENTIFIER": "logclf-daemon", **named}


def _datagram(fields: Mapping[str, str]) -> bytes:
    return b"".join(_field(name, value.encode("utf-8", "surrogateescape")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
