"""The csv command's engine: a table of any size through the cascade in flat memory.

A table is read in blocks of whole records, each block is labelled (here or in a worker process) and written in order.
A record is passed on with its own bytes (quotes, leading zeros, line ends) and gains cells.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from logclf_daemon.cascade import Cascade
from logclf_daemon.failpoint import reached
from logclf_daemon.tables.crossing import Kind
from logclf_daemon.tables.kinds import OpenTable, kind_of, open_table, skip
from logclf_daemon.tables.labelling import Labelled, label_block
from logclf_daemon.tables.parquet import ParquetSink
from logclf_daemon.tables.rows import Block, Codec, TableOptions
from logclf_daemon.tables.summary import Details, Summary

__all__ = [
    "Kind",
    "OpenTable",
    "Position",
    "Summary",
    "TableOptions",
    "Task",
    "classify_table",
    "kind_of",
    "label_here",
    "open_table",
    "run",
]

CHECKPOINT_BLOCKS = 16  # packed output is cut there, so that it does not depend on interruptions

Label = Callable[[Block], Awaitable[Labelled]]
Progress = Callable[[int, int], None]


class Sink(Protocol):
    """Where bytes go."""

    def write(self, payload: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Position:
    """How far a table is labelled and written."""

    read: int  # bytes of rows
    line: int  # the number of the next one


@dataclass(slots=True)
class Task:
    """A table on its way: what it is, where it goes, and how far it is."""

    table: OpenTable
    sink: Sink
    aside: Sink | None = None
    summary: Summary = field(default_factory=Summary)
    ahead: int = 1  # blocks under way
    apart: bool = False  # blocks are cut in a thread: others use this event loop
    progress: Progress | None = None
    checkpoint: Callable[[Position, Summary], None] | None = None


def label_here(codec: Codec, cascade: Cascade, options: TableOptions) -> Label:
    """Blocks are labelled in this process."""

    def label(block: Block) -> Awaitable[Labelled]:
        return label_block(block, codec, cascade, options)

    return label


async def run(task: Task, label: Label, start: Position | None = None) -> Summary:
    """Label all blocks in order, from the head of the table or from where an earlier run came to.

    Raises:
        BadInput: What is read is not a table.
    """
    table = task.table
    if start is None:
        task.sink.write(table.head)
        if task.aside is not None:
            task.aside.write(table.aside_head)
        start = Position(0, table.line)
    else:
        skip(table, start.read)
    under_way: deque[tuple[Block, Awaitable[Labelled]]] = deque()
    try:
        await _run(task, label, start, under_way)
    finally:
        for _, labelled in under_way:
            _let_go(labelled)
    return task.summary


async def _run(task: Task, label: Label, start: Position, under_way: deque[tuple[Block, Awaitable[Labelled]]]) -> None:
    table, read, finished = task.table, start.read, 0
    blocks = table.reading.blocks(table.rows, start.line)
    while True:
        while len(under_way) < task.ahead:
            block = await asyncio.to_thread(next, blocks, None) if task.apart else next(blocks, None)
            if block is None:
                break
            under_way.append((block, label(block)))
        if not under_way:
            break
        block, labelled = under_way.popleft()
        _write(task, await labelled)
        read += len(block.payload)
        finished += 1
        if task.checkpoint is not None and finished % CHECKPOINT_BLOCKS == 0:
            task.checkpoint(Position(read, block.line + block.payload.count(b"\n")), task.summary)
        reached("block")
        await asyncio.sleep(0)  # other connections have their turn, and one that was cut ends this
        if task.progress is not None:
            task.progress(task.summary.rows, table.read + read)


def _let_go(labelled: Awaitable[Labelled]) -> None:
    """Nobody waits for it any more; what became of it is no news."""
    if isinstance(labelled, asyncio.Future):
        labelled.cancel()
        if not labelled.cancelled():
            labelled.exception()
    elif isinstance(labelled, Coroutine):
        labelled.close()


def _write(task: Task, labelled: Labelled) -> None:
    task.sink.write(labelled.payload)
    if task.aside is not None and labelled.aside:
        task.aside.write(labelled.aside)
    task.summary.merge(labelled.summary)


async def classify_table(
    reader: BinaryIO,
    writer: BinaryIO,
    cascade: Cascade,
    options: TableOptions,
    *,
    name: str = "-",
    progress: Progress | None = None,
    kind: Kind = "csv",
    into: Kind | None = None,
) -> Summary:
    """Copy `reader` to `writer` with the label of each row added; `progress` is told rows and bytes done.

    Raises:
        BadInput: No such column, an empty file, or a quote that is never closed.
    """
    table = open_table(reader, kind, into or kind, options, name)
    sink = ParquetSink(writer) if (into or kind) == "parquet" else writer
    summary = Summary(details=Details() if options.details else None)
    task = Task(table, sink, summary=summary, progress=progress, apart=options.over_http)
    done = await run(task, label_here(table.codec, cascade, options))
    if isinstance(sink, ParquetSink):
        sink.close()
    return done
