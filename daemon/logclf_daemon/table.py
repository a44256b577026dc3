"""The csv command's engine: a CSV of any size through the cascade in flat memory.

A record is passed on with its own bytes (quotes, leading zeros, line ends) and gets one or more cells at its end; it is
parsed only to find its source and message.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby
from typing import BinaryIO

from logclf_daemon.cascade import Answer, Cascade
from logclf_daemon.errors import BadInput

BOM = b"\xef\xbb\xbf"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20  # a quote that is never closed must not swallow a whole disk
DELIMITERS = ",;\t|"
EXPLAINED = ("confidence", "stage", "rule")


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Which columns are read and written."""

    source_column: str = "source"
    message_column: str = "log_message"
    label_column: str = "target_label"
    explain: bool = False
    delimiter: str | None = None  # None: found in the header


@dataclass(slots=True)
class Summary:
    """What the table held, by label and stage."""

    rows: int = 0
    unclassified: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    odd_rows: list[int] = field(default_factory=list)  # line numbers of rows with another number of cells


@dataclass(frozen=True, slots=True)
class _Header:
    delimiter: str
    width: int
    source: int
    message: int


@dataclass(slots=True)
class _Row:
    raw: bytes
    line: int
    source: str
    message: bytes | None  # None: passed on without a label
    missing: int = 0  # cells that the row lacks


async def classify_table(
    reader: BinaryIO,
    writer: BinaryIO,
    cascade: Cascade,
    options: TableOptions,
    *,
    name: str = "-",
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Copy `reader` to `writer` with the label of each row added; `progress` is told rows and bytes done.

    Raises:
        BadInput: No such column, an empty file, or a quote that is never closed.
    """
    records = _records(reader, name)
    header, cells = _header(next(records, (b"", 1)), options, name)
    added = (options.label_column, *(EXPLAINED if options.explain else ()))
    writer.write(_with_cells(cells, added, header.delimiter))
    summary = Summary()
    done = len(cells)
    for block in _blocks(records):
        rows = list(_parse(block, header, summary))
        answers = await _classify(rows, cascade)
        for row, answer in zip(rows, answers, strict=True):
            writer.write(_with_cells(row.raw, _cells(row, answer, options), header.delimiter))
        _add_up(summary, answers)
        done += sum(len(row.raw) for row in rows)
        if progress is not None:
            progress(summary.rows, done)
    return summary


def _records(reader: BinaryIO, name: str) -> Iterator[tuple[bytes, int]]:
    """Each CSV record with its line end, and the number of its first line: a line end within quotes is part of it."""
    pending, start, number, quotes = b"", 1, 0, 0
    for block in iter(lambda: reader.readlines(CHUNK_BYTES), []):
        for line in block:
            number += 1
            quotes += line.count(b'"')
            if pending:
                line = pending + line
            if quotes % 2:
                if len(line) > MAX_RECORD_BYTES:
                    raise BadInput(f"{name}:{start}: a quote opened here is never closed; close it or double it")
                pending = line
                continue
            yield line, start
            pending, start, quotes = b"", number + 1, 0
    if pending:
        raise BadInput(f"{name}:{start}: a quote opened here is never closed; close it or double it")


def _header(first: tuple[bytes, int], options: TableOptions, name: str) -> tuple[_Header, bytes]:
    raw, _ = first
    text = raw.removeprefix(BOM).decode("utf-8", "replace").rstrip("\r\n")
    if not text.strip():
        raise BadInput(
            f"{name}: is empty; a header with {options.source_column!r} and {options.message_column!r} is needed"
        )
    delimiter = options.delimiter or max(DELIMITERS, key=text.count)
    names = [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))]
    if options.label_column in names:
        raise BadInput(
            f"{name}:1: there is a column {options.label_column!r} already; choose another with --label-column"
        )
    places = [_column(column, names, flag, name) for column, flag in _wanted(options)]
    return _Header(delimiter, len(names), *places), raw


def _wanted(options: TableOptions) -> Iterable[tuple[str, str]]:
    return (options.source_column, "--source-column"), (options.message_column, "--message-column")


def _column(column: str, names: Sequence[str], flag: str, name: str) -> int:
    if column in names:
        return names.index(column)
    close = get_close_matches(column.lower(), [other.lower() for other in names], n=1, cutoff=0.5)
    similar = next((other for other in names if close and other.lower() == close[0]), None)
    hint = f"did you mean {flag} {similar!r}?" if similar else f"name it with {flag}"
    raise BadInput(f"{name}:1: no column {column!r} (there are: {', '.join(map(repr, names))}); {hint}")


def _blocks(records: Iterator[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    block: list[tuple[bytes, int]] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record[0])
        if len(block) >= 4096 or size > CHUNK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _parse(block: Sequence[tuple[bytes, int]], header: _Header, summary: Summary) -> Iterator[_Row]:
    for raw, line in block:
        text = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if not text:
            yield _Row(raw, line, "", None)
            continue
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=header.delimiter, skipinitialspace=True), [])
        if len(cells) != header.width:
            summary.odd_rows.append(line)
        if header.message >= len(cells):
            yield _Row(raw, line, "", b"", header.width - len(cells))
            continue
        source = cells[header.source].strip() if header.source < len(cells) else ""
        message = cells[header.message].encode("utf-8", "surrogateescape")
        yield _Row(raw, line, source, message, max(0, header.width - len(cells)))


async def _classify(rows: Sequence[_Row], cascade: Cascade) -> list[Answer | None]:
    """The answer of each row; rows without a message (blank lines) have none."""
    answers: list[Answer | None] = [None] * len(rows)
    order = sorted((at for at, row in enumerate(rows) if row.message is not None), key=lambda at: rows[at].source)
    for source, group in groupby(order, key=lambda at: rows[at].source):
        positions = list(group)
        classified = await cascade.classify(source, [rows[at].message or None for at in positions])
        if classified.late:
            await cascade.settle_late(classified.late, classified.answers)
        for at, answer in zip(positions, classified.answers, strict=True):
            answers[at] = answer
    return answers


def _cells(row: _Row, answer: Answer | None, options: TableOptions) -> Sequence[str]:
    if answer is None:
        return ()
    verdict = answer.verdict
    cells = [""] * row.missing + [verdict.label]
    if options.explain:
        cells += [f"{verdict.confidence:.4g}", verdict.stage, verdict.rule or verdict.reason or ""]
    return cells


def _with_cells(raw: bytes, cells: Sequence[str], delimiter: str) -> bytes:
    """The record with more cells before its line end."""
    if not cells:
        return raw
    body = raw.rstrip(b"\r\n")
    end = raw[len(body) :] or b"\n"
    return body + b"".join((delimiter + _quoted(cell, delimiter)).encode() for cell in cells) + end


def _quoted(cell: str, delimiter: str) -> str:
    if any(character in cell for character in (delimiter, '"', "\n", "\r")):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _add_up(summary: Summary, answers: Sequence[Answer | None]) -> None:
    for answer, count in Counter(answers).items():
        if answer is not None:
            summary.rows += count
            summary.labels[answer.verdict.label] += count
            summary.stages[answer.verdict.stage] += count
            summary.unclassified += count if answer.verdict.abstained else 0
