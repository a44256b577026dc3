"""Parquet: every other column keeps its type and values; the label is one more column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from logclf_daemon.errors import BadInput
from logclf_daemon.generation import Answer
from logclf_daemon.tables.columns import place_of, refuse_taken, time_place
from logclf_daemon.tables.rows import EXPLAINED, Block, Rows, TableOptions, extra_of

if TYPE_CHECKING:
    import pyarrow

BLOCK_ROWS = 8192
GROUP_BYTES = 64 << 20  # of a row group that is written, before it is packed


def arrow() -> Any:
    """pyarrow, which only Parquet needs.

    Raises:
        BadInput: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput("Parquet needs one more package: pip install 'logclf-daemon[parquet]'") from error
    return pyarrow


@dataclass(frozen=True, slots=True)
class ParquetReading:
    """A Parquet file being read, a few thousand rows at a time."""

    name: str

    def blocks(self, reader: BinaryIO, line: int) -> Iterator[Block]:
        """Blocks of rows as Arrow streams; `line` counts rows.

        Raises:
            BadInput: The file is damaged.
        """
        batches = arrow().parquet.ParquetFile(reader).iter_batches(batch_size=BLOCK_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (arrow().ArrowException, OSError) as error:
                raise BadInput(f"{self.name}: row {line} or one after it is damaged: {_first_line(error)}") from error
            if batch is None:
                return
            yield Block(_packed(arrow().Table.from_batches([batch])), line)
            line += len(batch)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, slots=True)
class ParquetCodec:
    """The rows of a Parquet file with these columns."""

    options: TableOptions
    source: str
    message: str
    time: str | None

    def parse(self, block: Block) -> Rows:
        """The rows of a block."""
        table = unpacked(block.payload)
        count = len(table)
        sources = [source or b"" for source in self._bytes(table, self.source)]
        times = [time or b"" for time in self._bytes(table, self.time)] if self.time else None
        messages = [message or None for message in self._bytes(table, self.message)]
        lines = range(block.line, block.line + count)
        return Rows([b""] * count, b"", sources, messages, lines, times, origin=table)

    @staticmethod
    def _bytes(table: Any, column: str) -> list[bytes | None]:
        values = table.column(column).to_pylist()
        return [
            value.encode("utf-8", "replace")
            if isinstance(value, str)
            else (value if value is None or isinstance(value, bytes) else str(value).encode())
            for value in values
        ]

    def render(self, rows: Rows, answers: Sequence[Answer | None]) -> bytes:
        """The rows with the columns of their answers, as an Arrow stream."""
        cells = {answer: extra_of(answer, self.options) for answer in set(answers) if answer is not None}
        table: Any = rows.origin
        for name, kind in added_fields(self.options):
            values = [None if answer is None else cells[answer][name] for answer in answers]
            table = table.append_column(name, arrow().array(values, kind))
        return _packed(table)

    def columns(self, rows: Rows) -> dict[str, list[object]]:
        """All values by column."""
        table: Any = rows.origin
        return {name: table.column(name).to_pylist() for name in table.column_names}


def added_fields(options: TableOptions) -> list[tuple[str, Any]]:
    """The columns a table gains, with their Arrow types."""
    names = (options.label_column, *(EXPLAINED if options.explain else ()))
    return [(name, arrow().float64() if name == "confidence" else arrow().string()) for name in names]


def open_parquet(
    reader: BinaryIO, options: TableOptions, name: str
) -> tuple[ParquetReading, ParquetCodec, bytes, tuple[str, ...]]:
    """Read the schema: how to go on, an empty table of the new schema, and the columns there are.

    Raises:
        BadInput: Not Parquet, or a column is missing or there already.
    """
    try:
        schema = arrow().parquet.ParquetFile(reader).schema_arrow
    except (arrow().ArrowInvalid, OSError) as error:
        raise BadInput(f"{name}: is no Parquet file: {_first_line(error)}") from error
    names = schema.names
    refuse_taken(names, options, name)
    place_of("source_column", names, options, name)
    place_of("message_column", names, options, name)
    time = time_place(names, options, name)
    for added, kind in added_fields(options):
        schema = schema.append(arrow().field(added, kind))
    codec = ParquetCodec(options, options.source_column, options.message_column, None if time is None else names[time])
    return ParquetReading(name), codec, _packed(schema.empty_table()), tuple(names)


def stream_of(columns: Mapping[str, Sequence[object]], kinds: Sequence[tuple[str, Any]]) -> bytes:
    """Columns of text, and others of given types, as an Arrow stream."""
    types = dict(kinds)
    arrays = {name: arrow().array(values, types.get(name, arrow().string())) for name, values in columns.items()}
    return _packed(arrow().table(arrays))


def _packed(table: pyarrow.Table) -> bytes:
    sink = arrow().BufferOutputStream()
    with arrow().ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpacked(payload: bytes) -> Any:
    """The table in an Arrow stream."""
    return arrow().ipc.open_stream(payload).read_all()


class ParquetSink:
    """Writes Arrow streams to one Parquet file, in row groups of a useful size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._bytes = 0

    def write(self, payload: bytes) -> None:
        table = unpacked(payload)
        if self._writer is None:
            self._writer = arrow().parquet.ParquetWriter(self._file, table.schema)
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(arrow().concat_tables(self._waiting))
        self._waiting, self._bytes = [], 0

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def let_go(self) -> None:
        """Leave the file unfinished: else the footer would be written where the file is closed already."""
        if self._writer is not None:
            self._writer.is_open = False
