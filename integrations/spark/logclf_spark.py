"""logclf-daemon on Apache Spark: `classify(frame)` adds the label of each row, in batch and in structured streaming.

Every Python process of an executor loads rules and model once and asks the cascade that the daemon and
`logclf-daemon csv` ask: the same lines get the same labels. No LLM is asked; verdicts that a daemon has collected
(`logclf-daemon verdicts export`) can be given along.

The work is done by `mapInArrow`, not `mapInPandas`: pandas turns nullable integers into floats, and no other column may
change. Executors need the package `logclf-daemon` and this file (`--py-files`); Spark broadcasts what is given along.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from logclf_daemon.cascade import Cascade
    from logclf_daemon.generation import Answer

ABOUT_AN_HOUR = 3600  # importing a large export


@dataclass(frozen=True, slots=True)
class Shipped:
    """What executors need besides the package: contents of files of the driver."""

    config: bytes = b""
    rules: tuple[bytes, ...] = ()
    verdicts: bytes = b""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the line and its source are found; `source` None: lines have no source."""

    source: str | None
    message: str
    label: str
    explain: bool

    @property
    def added(self) -> list[tuple[str, str]]:
        """Names and Spark types of the columns that are added."""
        more = [("confidence", "double"), ("stage", "string"), ("rule", "string")] if self.explain else []
        return [(self.label, "string"), *more]


def classify(
    frame: DataFrame,
    *,
    source_column: str | None = "source",
    message_column: str = "log_message",
    label_column: str = "target_label",
    explain: bool = False,
    config: Path | str | None = None,
    rules: Sequence[Path | str] = (),
    verdicts: Path | str | None = None,
) -> DataFrame:
    """The frame with `label_column` added (`explain`: also confidence, stage and rule); all other columns as they were.

    `config` is a configuration file (its rules, model and labels count), `rules` are rule files besides the shipped
    ones, `verdicts` is a verdict export. They are read here, on the driver, once.

    Raises:
        ValueError: A column is missing, or there already.
    """
    columns = Columns(source_column, message_column, label_column, explain)
    for name in filter(None, (source_column, message_column)):
        if name not in frame.columns:
            raise ValueError(f"no column {name!r} (there are: {', '.join(frame.columns)})")
    for name, _ in columns.added:
        if name in frame.columns:
            raise ValueError(f"there is a column {name!r} already; drop it or choose another label_column")
    shipped = Shipped(
        Path(config).read_bytes() if config is not None else b"",
        tuple(Path(path).read_bytes() for path in rules),
        Path(verdicts).read_bytes() if verdicts is not None else b"",
    )
    # The schema of the frame itself, so that whatever a column says of itself (nullability, metadata) stays.
    schema = frame.schema
    for name, kind in columns.added:
        schema = _with_field(schema, name, kind)

    def label(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return labelled(batches, columns, shipped)

    return frame.mapInArrow(label, schema)


def labelled(
    batches: Iterable[pa.RecordBatch], columns: Columns, shipped: Shipped = Shipped()
) -> Iterator[pa.RecordBatch]:
    """Each batch with its labels: what runs on an executor."""
    import pyarrow as pa

    cascade, runner = _loaded(shipped)
    for batch in batches:
        messages = [text or None for text in _texts(batch.column(columns.message))]
        sources = [b""] * len(messages)
        if columns.source is not None:
            sources = [name or b"" for name in _texts(batch.column(columns.source))]
        answers = runner.run(_answers(cascade, sources, messages))
        values: dict[str, Any] = {columns.label: [answer.verdict.label for answer in answers]}
        if columns.explain:
            values["confidence"] = [answer.verdict.confidence for answer in answers]
            values["stage"] = [answer.verdict.stage for answer in answers]
            values["rule"] = [answer.verdict.rule or answer.verdict.reason for answer in answers]
        kinds = {"string": pa.string(), "double": pa.float64()}
        added = [pa.array(values[name], kinds[kind]) for name, kind in columns.added]
        yield pa.RecordBatch.from_arrays([*batch.columns, *added], names=[*batch.schema.names, *values])


async def _answers(cascade: Cascade, sources: Sequence[bytes], messages: Sequence[bytes | None]) -> list[Answer]:
    """The answer of each row, as `logclf-daemon csv` asks for it."""
    from logclf_daemon.tables.labelling import answers_of

    return [answer for answer in await answers_of(cascade, sources, messages) if answer is not None]  # none is left out


def _texts(column: pa.Array) -> list[bytes | None]:
    """The cells of a column as bytes; those of text without a copy as str."""
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    return [_bytes(cell) for cell in column.to_pylist()]


@lru_cache(maxsize=1)
def _loaded(shipped: Shipped) -> tuple[Cascade, asyncio.Runner]:
    """Rules, model and remembered verdicts, once in the life of a process."""
    from logclf_daemon.build import build_parts, cascade_of, open_memory
    from logclf_daemon.config import Config, load_config
    from logclf_daemon.stages.llm import LlmStage

    folder = Path(tempfile.mkdtemp(prefix="logclf-spark-"))
    config = Config()
    if shipped.config:
        (folder / "config.yaml").write_bytes(shipped.config)
        config = load_config(folder / "config.yaml")
    paths = [folder / f"rules{number}.yaml" for number in range(len(shipped.rules))]
    for path, content in zip(paths, shipped.rules, strict=True):
        path.write_bytes(content)
    config = config.model_copy(
        update={
            "rules": config.rules.model_copy(update={"paths": (*config.rules.paths, *paths)}),
            "llm": config.llm.model_copy(update={"enabled": False}),
        }
    )
    parts = build_parts(config, None)
    if shipped.verdicts:
        _import(shipped.verdicts, folder)
        llm = LlmStage(config.llm, config.taxonomy)  # asked nothing: the memory is read by what it would be asked
        parts.memory = open_memory(config, llm, folder)
    return cascade_of(parts, patient=True), asyncio.Runner()


def _import(verdicts: bytes, folder: Path) -> None:
    (folder / "verdicts.jsonl").write_bytes(verdicts)
    arguments = ["verdicts", "import", "--state-dir", str(folder), str(folder / "verdicts.jsonl")]
    if (folder / "config.yaml").exists():
        arguments += ["--config", str(folder / "config.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "logclf_daemon", *arguments], capture_output=True, timeout=ABOUT_AN_HOUR, check=False
    )
    if done.returncode:
        raise ValueError(f"the verdict export cannot be read: {done.stderr.decode('utf-8', 'replace').strip()}")


def _bytes(text: object) -> bytes | None:
    if text is None or isinstance(text, bytes):
        return text
    return str(text).encode("utf-8", "surrogateescape")


def _with_field(schema: Any, name: str, kind: str) -> Any:
    from pyspark.sql.types import DoubleType, StructType

    return StructType([*schema.fields]).add(name, DoubleType() if kind == "double" else kind)
