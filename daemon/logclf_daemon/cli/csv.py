"""`logclf-daemon csv`: one-off classification of a table."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
import logging
import lzma
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr, overridden
from logclf_daemon.config import state_directory
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.table import Summary, TableOptions, classify_table

_OPENERS: dict[str, Callable[..., object]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


@click.command("csv")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", "target", default="-", metavar="OUT", help="Where to write; - is standard output.")
@click.option("--source-column", default="source", show_default=True)
@click.option("--message-column", default="log_message", show_default=True)
@click.option("--label-column", default="target_label", show_default=True)
@click.option("--delimiter", metavar="CHAR", help="Default: found in the header.")
@click.option("--explain", is_flag=True, help="Add confidence, stage and rule.")
@click.option(
    "--llm-budget", type=click.IntRange(0), metavar="N", help="Ask the LLM at most N times; answers are kept."
)
@config_option
@cascade_options
def csv_command(
    source: str,
    target: str,
    source_column: str,
    message_column: str,
    label_column: str,
    delimiter: str | None,
    explain: bool,
    llm_budget: int | None,
    config_path: Path | None,
    rules_paths: tuple[Path, ...],
    builtin_rules: bool | None,
    llm: bool | None,
    model: bool | None,
    state_dir: Path | None,
) -> None:
    """Add the column target_label to a CSV with the columns source and log_message.

    INPUT is a file (.gz, .xz, .bz2, .zst by name) or - for standard input. Other cells stay as they are.

    \b
    Example:
      logclf-daemon csv logs.csv -o labelled.csv
    """
    from logclf_daemon.build import build_parts, cascade_of, close  # heavy: not needed for --help

    log_to_stderr(logging.WARNING)
    config = overridden(
        base_config(config_path),
        rules_paths=rules_paths,
        builtin_rules=builtin_rules,
        llm=llm,
        model=model,
        state_dir=state_dir,
    )
    options = TableOptions(source_column, message_column, label_column, explain, delimiter)
    with _reading(source) as reader, _writing(target) as writer:
        parts = build_parts(config, _state(config))
        cascade = cascade_of(parts, patient=True, budget=llm_budget)
        try:
            with _progress(source) as progress:
                name = source if source != "-" else "standard input"
                summary = asyncio.run(classify_table(reader, writer, cascade, options, name=name, progress=progress))
        finally:
            close(cascade, parts)
    _report(summary)


def _state(config: object) -> Path | None:
    """Where LLM verdicts are remembered; nowhere if there is no place to write."""
    try:
        return state_directory(config.state)  # type: ignore[attr-defined]
    except ConfigError:
        return None


@contextlib.contextmanager
def _reading(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    path = Path(source)
    try:
        stream = _opened(path, "rb")
    except OSError as error:
        raise BadInput(f"{source}: cannot be read: {error.strerror or error}") from error
    try:
        with stream as reader:
            yield reader
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, IsADirectoryError) as error:
        raise BadInput(f"{source}: cannot be unpacked: {error}; is the file complete?") from error


def _opened(path: Path, mode: str) -> BinaryIO:
    if path.suffix == ".zst":
        return _zstd(path, mode)
    return cast("BinaryIO", _OPENERS.get(path.suffix, open)(path, mode))


def _zstd(path: Path, mode: str) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise BadInput(f"{path}: .zst needs one more package: pip install zstandard") from error
    return cast("BinaryIO", zstandard.open(path, mode))


@contextlib.contextmanager
def _writing(target: str) -> Iterator[BinaryIO]:
    """A file appears under its name when it is complete: an interrupted run leaves none behind."""
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written: {error.strerror}") from error
    try:
        with _opened(Path(unfinished), "wb") as writer:
            yield writer
        umask = os.umask(0)
        os.umask(umask)
        Path(unfinished).chmod(0o666 & ~umask)
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(source: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    size = Path(source).stat().st_size if source != "-" and Path(source).suffix not in {*_OPENERS, ".zst"} else 0
    bar: Any
    with click.progressbar(length=size or None, label="classifying", file=sys.stderr) as bar:
        seen = 0

        def tell(_rows: int, done: int) -> None:
            nonlocal seen
            bar.update(done - seen)
            seen = done

        yield tell


def _report(summary: Summary) -> None:
    click.echo(f"{summary.rows} rows, {summary.unclassified} unclassified", err=True)
    for title, counts in (("label", summary.labels), ("stage", summary.stages)):
        for name, count in counts.most_common():
            click.echo(f"  {title} {name:<22} {count:>9}  {count / max(summary.rows, 1):6.1%}", err=True)
    if summary.odd_rows:
        lines = ", ".join(map(str, summary.odd_rows[:5]))
        more = f" and {len(summary.odd_rows) - 5} more" if len(summary.odd_rows) > 5 else ""
        click.echo(f"note: another number of cells than the header in line {lines}{more}; kept as they are", err=True)
