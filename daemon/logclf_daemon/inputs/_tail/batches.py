"""Messages to batches of records."""

from __future__ import annotations

import os

from msgspec import Raw

from logclf_daemon.codec import event_time, raw_str, raw_strs
from logclf_daemon.inputs._tail.lines import Cut
from logclf_daemon.record import AnyRecord, Batch, Record, Settle

TRUE = Raw(b"\xc3")


class BatchMaker:
    """Makes the records of one input: the line, the file's name, and marks where something is odd."""

    def __init__(self, name: str, message_key: str = "log", path_key: str = "file") -> None:
        self._name = name
        self._message_key = message_key
        self._path_key = path_key

    def batch(
        self, cut: Cut, path: bytes, *, chunk: str, read_ns: int, partial: bool, repeated: bool, settle: Settle
    ) -> Batch:
        """One record a message, timed when it was read unless its line tells a time.

        `partial`: a message without its end left because nothing followed for a while; its rest may yet come.
        """
        time, file = event_time(read_ns), raw_str(path)
        message_key, path_key = self._message_key, self._path_key
        records = [Record(time, {message_key: text, path_key: file}) for text in raw_strs(cut.lines)]
        if cut.origins is not None:
            for record, (stream, time_ns) in zip(records, cut.origins, strict=True):
                if stream:
                    record.fields["stream"] = raw_str(stream)
                if time_ns is not None:
                    record.time = event_time(time_ns)
        for at, mark in cut.marks.items():
            if mark == "truncated":
                records[at].fields["truncated"] = TRUE
            elif partial:
                records[at].fields["partial"] = TRUE
        found: list[AnyRecord] = []
        found += records
        lines: list[bytes | None] = []
        lines += cut.lines
        return Batch(
            os.fsdecode(path),
            found,
            settle,
            chunk,
            lines,
            input=self._name,
            alone=True,
            repeated=repeated,
            size=cut.length,
        )
