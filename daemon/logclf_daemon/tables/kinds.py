"""Kinds of tables by file name, and how each is opened and turned into another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import BinaryIO, cast

from logclf_daemon.tables.crossing import Crossing, Kind
from logclf_daemon.tables.delimited import header_of, open_delimited
from logclf_daemon.tables.encodings import is_wide
from logclf_daemon.tables.files import PACKED
from logclf_daemon.tables.lines import LinesReading, LogCodec, log_name, open_json
from logclf_daemon.tables.parquet import open_parquet
from logclf_daemon.tables.rows import Codec, Reading, TableOptions

KINDS: Mapping[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".log": "log",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def kind_of(name: str) -> Kind:
    """What a file holds, by its name; a CSV where the name does not say."""
    path = PurePath(name)
    return KINDS.get((path.with_suffix("") if path.suffix in PACKED else path).suffix.lower(), "csv")


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A table whose head was read: how to go on."""

    reading: Reading
    codec: Codec
    rows: BinaryIO  # stands at the first row
    line: int  # of the first row
    read: int  # bytes before it
    head: bytes  # what the output starts with
    aside_head: bytes  # what the file for bad rows starts with


class _Replayed:
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head or self._rest.read(size)


def open_table(reader: BinaryIO, kind: Kind, into: Kind, options: TableOptions, name: str) -> OpenTable:
    """Read the head of a table of one kind that is to be written as another.

    Raises:
        BadInput: It is empty, a column is missing or is there already.
    """
    if is_wide(options.encoding):
        options = replace(options, encoding="utf-8")  # that is how it arrives here
    if kind == "csv":
        delimited, csv_codec, head, lines = open_delimited(reader, options, name)
        table = OpenTable(delimited, csv_codec, reader, lines + 1, len(head), header_of(csv_codec, head), head)
        names = csv_codec.columns_named()
    elif kind == "jsonl":
        json_lines, json_codec, seen = open_json(reader, options, name)
        table = OpenTable(json_lines, json_codec, cast("BinaryIO", _Replayed(seen, reader)), 1, 0, b"", b"")
        names = json_codec.names
    elif kind == "log":
        log_codec = LogCodec(options, log_name(name))
        table = OpenTable(
            LinesReading(name, options.block_bytes, options.max_record_bytes), log_codec, reader, 1, 0, b"", b""
        )
        names = (options.source_column, options.message_column)
    else:
        parquet, parquet_codec, empty, names = open_parquet(reader, options, name)
        table = OpenTable(parquet, parquet_codec, reader, 1, 0, empty, b"")
    if kind == into:
        return table
    crossing = Crossing(table.codec, into, names, options)
    return replace(table, codec=crossing, head=crossing.head())


def skip(table: OpenTable, size: int) -> None:
    """Go on that many bytes of rows further down."""
    if table.read and table.rows.seekable():
        table.rows.seek(table.read + size)
        return
    while size > 0:
        size -= len(table.rows.read(min(size, 1 << 20))) or size
