"""The framing that the options ask for, for one file."""

from __future__ import annotations

from dataclasses import dataclass

from logclf_daemon.inputs._tail.containers import PARSERS
from logclf_daemon.inputs._tail.joining import Grouped, JoinedFraming
from logclf_daemon.inputs._tail.lines import Framing, PlainFraming, splitter_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """How messages lie in the files of one input."""

    encoding: str = "utf-8"
    format: str = "plain"
    grouped: Grouped | None = None
    max_line_bytes: int = 1 << 20
    read_bytes: int = 128 << 10

    def for_file(self, first_bytes: bytes) -> Framing:
        """A framing for a file that starts with these bytes (its byte order mark, if any)."""
        splitter = splitter_for(self.encoding, first_bytes)
        parser = PARSERS.get(self.format)
        if parser is None and self.grouped is None:
            return PlainFraming(splitter, self.max_line_bytes, self.read_bytes)
        return JoinedFraming(splitter, self.max_line_bytes, self.read_bytes, parser=parser, grouped=self.grouped)
