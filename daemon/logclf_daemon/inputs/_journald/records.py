"""What an entry of the journal is as a record: its fields, its time, its source, the line that is classified."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec import Raw

from logclf_daemon.codec import event_time
from logclf_daemon.inputs._journald.export import Entry
from logclf_daemon.record import Record

TRUE = Raw(b"\xc3")


def record_of(entry: Entry) -> Record:
    """Every field as it came, at the time the journal took the entry."""
    if entry.truncated:
        entry.fields["truncated"] = TRUE
    return Record(event_time(written_us(entry) * 1000), entry.fields)


def written_us(entry: Entry) -> int:
    """When the journal took the entry, in microseconds; 0 if it does not say."""
    taken = entry.texts.get("__REALTIME_TIMESTAMP", b"")
    return int(taken) if taken.isdigit() and len(taken) < 20 else 0


def numbered(cursor: str) -> tuple[str, int]:
    """Which journal an entry is of, and its number there: a journal made anew counts anew, under another name."""
    journal, _, rest = cursor.partition(";")
    try:
        return journal, int(rest.partition(";")[0].removeprefix("i="), 16)
    except ValueError:
        return cursor, 0


def source_of(entry: Entry) -> str:
    """What rules and templates know the entry's writer by: its identifier, else its unit, else its program."""
    for name in ("SYSLOG_IDENTIFIER", "_SYSTEMD_USER_UNIT", "_SYSTEMD_UNIT", "_COMM"):
        if text := entry.texts.get(name):
            return text.decode("utf-8", "replace")
    return "journal"


def text_of(entry: Entry) -> bytes | None:
    """The message as a log file would have it, after `program[pid]: `: rules know programs by that.

    The same line gets the same label whether it is read from the journal or from the file a syslog daemon wrote.
    """
    message = entry.texts.get("MESSAGE")
    if message is None:
        return None
    texts = entry.texts
    name = texts.get("SYSLOG_IDENTIFIER") or texts.get("_COMM")
    if not name:
        return message
    pid = texts.get("SYSLOG_PID") or texts.get("_PID")
    # The kernel's own messages have no process.
    return b"%b[%b]: %b" % (name, pid, message) if pid else b"%b: %b" % (name, message)


def left_out(units: Collection[str], cgroup: str | None, pid: int) -> Callable[[Entry], bool]:
    """Which entries are not sent: those of `units`, and what this daemon wrote, which would come back for ever."""
    names = {unit.encode() if "." in unit else f"{unit}.service".encode() for unit in units}
    own_cgroup, own_pid = (cgroup or "\0").encode(), str(pid).encode()

    def decide(entry: Entry) -> bool:
        texts = entry.texts
        if texts.get("_PID") == own_pid or texts.get("_SYSTEMD_CGROUP") == own_cgroup:
            return True
        return bool(names) and not names.isdisjoint(
            (texts.get("_SYSTEMD_UNIT", b""), texts.get("_SYSTEMD_USER_UNIT", b""))
        )

    return decide


def own_cgroup(table: Path = Path("/proc/self/cgroup")) -> str | None:
    """The control group of the service this process runs as; None outside of one, such as in a terminal's session."""
    try:
        lines = os.fsdecode(table.read_bytes()).splitlines()
    except OSError:
        return None
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (hierarchy == "0" or controllers == "name=systemd") and path.endswith(".service"):
            return path
    return None
