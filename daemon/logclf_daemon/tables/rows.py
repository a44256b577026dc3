"""The vocabulary of tables: a block of bytes, the rows in it, and what a format must be able to do with both."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

from logclf_daemon.generation import Answer

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20  # a quote that is never closed must not swallow a whole disk, nor all memory
EXPLAINED = ("confidence", "stage", "rule")

Quoted = Sequence[tuple[int, Sequence[str]]]
BadRows = Literal["keep", "drop", "aside"]


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Which columns are read and written, and how."""

    source_column: str = "source"
    message_column: str = "log_message"
    label_column: str = "target_label"
    explain: bool = False
    delimiter: str | None = None  # None: found in the header
    encoding: str = "utf-8"  # of the cells; every other byte of the table is ASCII
    bad_rows: BadRows = "keep"
    safe_cells: bool = False
    time_column: str | None = None  # for the report; None: found by its name
    details: bool = False  # collect what the report shows
    block_bytes: int = BLOCK_BYTES
    max_record_bytes: int = MAX_RECORD_BYTES
    over_http: bool = False  # what is wrong is told to who wrote a request, not to who wrote a command

    def called(self, option: str) -> str:
        """An option as the reader of a message would write it."""
        return option if self.over_http else "--" + option.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Block:
    """Some whole records, as they came, and the number of the first one's line.

    `cells`: each record's cells and the number of lines up to its end, where the cut was found by parsing them.
    `quoted`: which lines have a quote, and their cells, where each record was found to be one line.
    """

    payload: bytes
    line: int
    cells: Sequence[tuple[int, list[str]]] | None = None
    quoted: Quoted | None = None


@dataclass(slots=True)
class Rows:
    """The records of a block. All sequences are as long as `bodies`.

    `bodies` are the records without their line ends, byte for byte. A message of None is a row without one.
    `passed` rows (blank lines) leave as they came, without a label; `missing` says how many cells a row lacks;
    `bad` holds the positions of rows that are not what they should be.
    """

    bodies: Sequence[bytes]
    ends: bytes | Sequence[bytes]
    sources: Sequence[bytes]
    messages: Sequence[bytes | None]
    lines: Sequence[int]
    times: Sequence[bytes] | None = None
    passed: set[int] = field(default_factory=set)
    missing: dict[int, int] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)  # names of members that have no column where they are written
    origin: object = None  # what `bodies` stand for, where records are not bytes

    def __len__(self) -> int:
        return len(self.bodies)


class Reading(Protocol):
    """A table being read: its blocks in order. Belongs to the process that reads."""

    def blocks(self, reader: BinaryIO, line: int) -> Iterator[Block]:
        """The blocks from where `reader` stands, which is the line with this number."""


class Codec(Protocol):
    """How rows of one kind of table are taken from a block and given back. Plain data: it is sent to workers."""

    def parse(self, block: Block) -> Rows:
        """The rows of a block. Never raises for what stands in them."""

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The rows with their labels; those without an answer and those left out (`bad`, by option) as they are."""

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """All cells by column, to be written as another kind of table."""


def extra_of(answer: Answer, options: TableOptions) -> dict[str, object]:
    """The cells a row gains: its label and, when they are asked for, where it came from."""
    verdict = answer.verdict
    cells: dict[str, object] = {options.label_column: verdict.label}
    if options.explain:
        sure = None if verdict.confidence is None else float(f"{verdict.confidence:.4g}")
        explained = (sure, verdict.stage, verdict.rule or verdict.reason or "")
        cells |= dict(zip(EXPLAINED, explained, strict=True))
    return cells


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """The cyclic garbage collector at rest while rows are parsed: tens of thousands of lists that die by themselves.

    It would look at each for nothing, which takes a third to a half of the time of parsing (measured).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def filled(reader: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes; fewer only at the end, so that blocks do not depend on how the bytes arrive."""
    if size <= 0:
        return b""
    data = reader.read(size)
    if len(data) >= size or not data:
        return data
    parts = [data]
    left = size - len(data)
    while left and (data := reader.read(left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
