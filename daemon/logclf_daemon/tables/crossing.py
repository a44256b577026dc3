"""One kind of table written as another: cell by cell, since its bytes cannot stay."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from logclf_daemon.generation import Answer
from logclf_daemon.tables import parquet
from logclf_daemon.tables.delimited import guarded
from logclf_daemon.tables.rows import EXPLAINED, Block, Codec, Rows, TableOptions, extra_of

Kind = Literal["csv", "jsonl", "log", "parquet"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Rows of one kind, rendered as another; `names` are the columns that are written before the label."""

    inner: Codec
    kind: Kind
    names: tuple[str, ...]
    options: TableOptions

    def parse(self, block: Block) -> Rows:
        """As the kind it is."""
        return self.inner.parse(block)

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """As the kind it is."""
        return self.inner.columns(rows)

    def head(self) -> bytes:
        """What stands before the first row."""
        if self.kind == "csv":
            return _csv([[*self.names, *self._added()]], safe=self.options.safe_cells)
        if self.kind == "parquet":
            return self._parquet({name: [] for name in self.names}, [])
        return b""

    def _added(self) -> tuple[str, ...]:
        return (self.options.label_column, *(EXPLAINED if self.options.explain else ()))

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The rows that have an answer; blank lines and rows that are none have no place in the other kind."""
        kept = [at for at, answer in enumerate(answers) if answer is not None]
        all_columns = self.inner.columns(rows)
        columns = {name: [all_columns[name][at] for at in kept] for name in self.names}
        cells = {answer: extra_of(answer, self.options) for answer in set(answers) if answer is not None}
        added = [cells[answer] for answer in answers if answer is not None]
        if self.kind == "parquet":
            return self._parquet(columns, added)
        if self.kind == "jsonl":
            rowwise = zip(*columns.values(), strict=True)
            objects = [dict(zip(columns, row, strict=True)) | more for row, more in zip(rowwise, added, strict=True)]
            return b"".join(msgspec.json.encode(members) + b"\n" for members in objects)
        texts = [[text_of(value) for value in values] for values in columns.values()]
        if self.kind == "csv":
            table = [[*row, *_written(more)] for row, more in zip(zip(*texts, strict=True), added, strict=True)]
            return _csv(table, safe=self.options.safe_cells)
        return _log(texts[self.names.index(self.options.message_column)], added)

    def _parquet(self, columns: dict[str, list[object]], added: Sequence[dict[str, object]]) -> bytes:
        table: dict[str, list[object]] = {
            name: [None if value is None else text_of(value) for value in values] for name, values in columns.items()
        }
        table |= {name: [more[name] for more in added] for name in self._added()}
        return parquet.stream_of(table, parquet.added_fields(self.options))


def text_of(value: object) -> str:
    """A cell as text: what JSON would write for it, without the quotes."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return msgspec.json.encode(value, enc_hook=str).decode().strip('"')


def _written(added: dict[str, object]) -> list[str]:
    return [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in added.values()]


def _csv(table: Sequence[Sequence[str]], *, safe: bool) -> bytes:
    text = io.StringIO()
    rows = [[guarded(cell) for cell in row] for row in table] if safe else table
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _log(messages: Sequence[str], added: Sequence[dict[str, object]]) -> bytes:
    lines = []
    for message, more in zip(messages, added, strict=True):
        cells = [cell.replace("\t", " ") for cell in _written(more)]
        # A line end within a message would make two lines of it.
        lines.append("\t".join([*cells, message.replace("\r", "\\r").replace("\n", "\\n")]) + "\n")
    return "".join(lines).encode("utf-8", "surrogatepass")
