"""What the csv command does once it knows what is asked for. Heavy: imported when the command is called."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import click

from logclf_daemon import __version__
from logclf_daemon.build import Parts, build_parts, cascade_of, close, tell_unused
from logclf_daemon.cli.progress import Progress
from logclf_daemon.config import Config
from logclf_daemon.errors import LogclfError
from logclf_daemon.jobs import WorkerSetting, workers
from logclf_daemon.table import (
    Kind,
    Label,
    OpenTable,
    Position,
    Summary,
    TableOptions,
    Task,
    label_here,
    open_table,
    run,
)
from logclf_daemon.tables.files import Opened, Output, reading, writing
from logclf_daemon.tables.journal import Checkpoint, cut, taken_up, unfinished
from logclf_daemon.tables.parquet import ParquetSink
from logclf_daemon.tables.summary import Details
from logclf_daemon.tables.task import task_of


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for."""

    source: str
    target: str
    kind: Kind
    into: Kind
    options: TableOptions
    aside: str | None
    jobs: int
    resume: bool
    report: Path | None
    llm_budget: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.source if self.source != "-" else "standard input"


def labelled(order: Order, config: Config, state: Path | None) -> Summary:
    """Read, label, write; with what was left of an interrupted run if that is asked for.

    Raises:
        BadInput: What is read is no table, or an output cannot be written.
        LogclfError: The disk is full, or a worker died.
    """
    parts = build_parts(config, state)
    tell_unused(parts)
    cascade = cascade_of(parts, patient=True, budget=order.llm_budget)
    try:
        with _asked_to_end(), reading(order.source, order.options.encoding) as opened:
            options = replace(order.options, encoding=opened.encoding)
            table = open_table(opened.rows, order.kind, order.into, options, order.name)
            if order.jobs > 1:
                setting = WorkerSetting(config, state, table.codec, order.options, order.llm_budget)
                with workers(setting, order.jobs) as pool:
                    return _written(order, parts, opened, table, pool.label)
            return _written(order, parts, opened, table, label_here(table.codec, cascade, order.options))
    finally:
        close(cascade, parts)


@contextlib.contextmanager
def _asked_to_end() -> Iterator[None]:
    """Signals that ask for the end leave nothing unfinished behind, as Ctrl-C does not; those ignored stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, action in before.items():
        if action is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _written(order: Order, parts: Parts, opened: Opened, table: OpenTable, label: Label) -> Summary:
    try:
        if order.resume:
            return _resumed(order, parts, opened, table, label)
        return _afresh(order, opened, table, label)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise LogclfError(f"{order.target}: cannot be written: {error.strerror}") from error


def _afresh(order: Order, opened: Opened, table: OpenTable, label: Label) -> Summary:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(writing(order.target))
        aside = _output(order.aside, stack.enter_context(writing(order.aside)), opened) if order.aside else None
        if order.into == "parquet":
            sink = ParquetSink(file)
            stack.callback(sink.let_go)
            summary = _run(order, opened, Task(table, sink, aside), label)
            sink.close()
        else:
            main = _output(order.target, file, opened)
            summary = _run(order, opened, Task(table, main, aside, checkpoint=_sealing(main, aside)), label)
            main.seal()
        if aside is not None:
            aside.seal()
        return summary


def _sealing(*outputs: Output | None) -> Callable[[Position, Summary], None]:
    def seal(_position: Position, _summary: Summary) -> None:
        for output in outputs:
            if output is not None:
                output.seal()

    return seal


def _output(name: str, file: BinaryIO, opened: Opened) -> Output:
    return Output(file, Path(name), opened.encoding)


def _resumed(order: Order, parts: Parts, opened: Opened, table: OpenTable, label: Label) -> Summary:
    named = task_of(order.source, order.into, order.aside, order.options, _answering(parts))
    with contextlib.ExitStack() as stack:
        # It gets its name after the other: as long as there is a journal, all that it speaks of is unfinished.
        rest = stack.enter_context(unfinished(Path(order.aside))) if order.aside else None
        journal = stack.enter_context(taken_up(Path(order.target), named, rest))
        found = journal.found
        main, aside = _output(order.target, journal.file, opened), None
        if order.aside and rest is not None:
            cut(rest, found.aside if found else 0)
            aside = _output(order.aside, rest, opened)

        def note(position: Position, summary: Summary) -> None:
            written, sent_aside = main.saved(), aside.saved() if aside else 0
            journal.note(Checkpoint(position.read, position.line, written, sent_aside, summary.as_json()))

        task, start = Task(table, main, aside, checkpoint=note), None
        if found is not None:
            click.echo(f"goes on after {found.summary['rows']} rows", err=True)
            task.summary = Summary.from_json(found.summary)
            start = Position(found.read, found.line)
        summary = _run(order, opened, task, label, start)
        main.seal()
        if aside is not None:
            aside.seal()
        return summary


def _answering(parts: Parts) -> dict[str, object]:
    """The version, rules, model and labels a verdict depends on."""
    return {
        "version": __version__,
        "rules": [rule.options.model_dump(mode="json") for rule in parts.rules.rules],
        "labels": parts.config.taxonomy.digest,
        "model": parts.model.digest if parts.model is not None else None,
        "max_error_rate": parts.config.model.max_error_rate,
        "llm": parts.llm.key if parts.llm is not None else None,
    }


def _run(order: Order, opened: Opened, task: Task, label: Label, start: Position | None = None) -> Summary:
    task.ahead = order.jobs * 2 if order.jobs > 1 else 1
    if start is None and order.options.details:
        task.summary.details = Details()
    if not sys.stderr.isatty():
        return asyncio.run(run(task, label, start))
    progress = Progress(opened.size, opened.position)
    task.progress = progress.tell
    try:
        return asyncio.run(run(task, label, start))
    finally:
        progress.close()
