"""`logclf-daemon verdicts`: what the LLM said, and what people say instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO

import click

from logclf_daemon.build import open_memory
from logclf_daemon.cli import harmless
from logclf_daemon.cli.options import Command, base_config, config_option
from logclf_daemon.config import StateOptions, located, reviewed_state, state_directory
from logclf_daemon.errors import LogclfError
from logclf_daemon.generation import source_class
from logclf_daemon.stages._verdicts import exported
from logclf_daemon.stages.llm import LlmStage
from logclf_daemon.stages.verdicts import HUMAN, LLM, Remembered, VerdictMemory
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import MAX_BYTES, canonical, key, spell_kept, template_id

_PAGE = 1000


@click.group()
def verdicts() -> None:
    """Review what the LLM said; the last word is yours, and final.

    TEMPLATE is the 16 digits of a record's logclf.template, or a whole line in quotes.
    """


def _with_memory(command: Command) -> Callable[..., Any]:
    """The options that find the memory, and the memory as the command's first argument."""

    @config_option
    @click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The daemon's state folder.")
    @wraps(command)
    def run(*args: Any, config_path: Path | None, state_dir: Path | None, **options: Any) -> Any:
        with opened(config_path, state_dir) as (memory, taxonomy):
            return command(memory, taxonomy, *args, **options)

    return run


@contextmanager
def opened(config_path: Path | None, state_dir: Path | None) -> Iterator[tuple[VerdictMemory, Taxonomy]]:
    """The memory of the configured (or this) state folder, and the labels in force."""
    config = base_config(config_path)
    if state_dir is not None:
        state = state_directory(StateOptions(directory=state_dir))
    else:
        with located(config):
            state = reviewed_state(config.state)
    llm = LlmStage(config.llm, config.taxonomy)
    try:
        memory = open_memory(config, llm, state)
    finally:
        llm.close()
    try:
        yield memory, config.taxonomy
    finally:
        memory.close()


@verdicts.command("list")
@click.option("--label", help="Only this label.")
@click.option("--origin", type=click.Choice([HUMAN, LLM]), help="Only what people said, or the LLM.")
@click.option(
    "--stale/--current", default=None, help="Only answers to older questions (other model or labels), or not."
)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@click.option("--offset", default=0, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@_with_memory
def list_(
    memory: VerdictMemory,
    taxonomy: Taxonomy,
    label: str | None,
    origin: str | None,
    stale: bool | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> None:
    """List remembered verdicts, those seen last first.

    \b
    Example:
      logclf-daemon verdicts list --origin llm --label 'Security Alert'
    """
    if label is not None:
        _known(label, taxonomy, memory)
    found = memory.listed(label=label, origin=origin, stale=stale, limit=limit, offset=offset)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    for row in found:
        facts = f"{row.label:<20} {_sure(row):>4} {row.origin:<5} {row.hits:>9} {_day(row.last_seen)}"
        click.echo(harmless(f"{row.template} {facts}  {row.source:<16} {(row.example or row.text)[:90]}"))
    click.echo(f"{len(found)} of {memory.count()} verdicts", err=True)


@verdicts.command()
@click.argument("template")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@_with_memory
def show(memory: VerdictMemory, _taxonomy: Taxonomy, template: str, as_json: bool) -> None:
    """Show everything that is remembered of TEMPLATE. Exit 1 if that is nothing.

    \b
    Example:
      logclf-daemon verdicts show 'backup of volume 7 took too long'
    """
    found = memory.shown(_template(template))
    if not found:
        raise LogclfError(f"{_template(template)}: nothing is remembered of this template")
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    for row in found:
        said = "a person" if row.origin == HUMAN else f"{row.model} (asked {row.asked})"
        click.echo(harmless(f"{row.template} from {row.source}: {row.label}, confidence {_sure(row)}"))
        click.echo(harmless(f"  said by   {said}"))
        click.echo(harmless(f"  template  {row.text}"))
        click.echo(harmless(f"  example   {row.example}"))
        click.echo(f"  created {_day(row.created)}, last seen {_day(row.last_seen)}, used for {row.hits} records")


@verdicts.command("set")
@click.argument("template")
@click.argument("label")
@click.option("--source", help="The tag or file it comes from. Default: every source it was seen from.")
@_with_memory
def set_(memory: VerdictMemory, taxonomy: Taxonomy, template: str, label: str, source: str | None) -> None:
    """Say that TEMPLATE means LABEL. It wins over model and LLM for ever; a running daemon follows within a second.

    \b
    Example:
      logclf-daemon verdicts set 0f3c5a7e9b1d2468 'Workflow Error'
      logclf-daemon verdicts set 'backup of volume 7 took too long' 'Workflow Error' --source backup.log
    """
    _known(label, taxonomy)
    which = _template(template)
    line = {}
    if which != template:
        line = {"text": canonical(_bytes(template)), "example": _bytes(template).decode("utf-8", "replace")}
    sources = [source_class(source)] if source else list(dict.fromkeys(row.source for row in memory.shown(which)))
    if not sources:
        raise click.UsageError(f"{which} was never asked; say where it comes from with --source TAG or FILE")
    if not line and not memory.shown(which):
        raise click.UsageError(f"{which} was never asked; give the whole line instead of its template")
    for name in sources:
        memory.set(which, name, label, **line)
    click.echo(harmless(f"ok: {which} from {', '.join(sources)} is {label}"))


@verdicts.command()
@click.argument("template")
@click.option("--source", help="Only what comes from this tag or file.")
@_with_memory
def forget(memory: VerdictMemory, _taxonomy: Taxonomy, template: str, source: str | None) -> None:
    """Forget what is remembered of TEMPLATE, also a person's word: the next such line is asked again.

    \b
    Example:
      logclf-daemon verdicts forget 0f3c5a7e9b1d2468
    """
    which = _template(template)
    count = memory.forget(which, source_class(source) if source else None)
    if not count:
        raise LogclfError(f"{which}: nothing is remembered of this template")
    click.echo(f"ok: {count} {'verdict' if count == 1 else 'verdicts'} forgotten")


@verdicts.command("export")
@click.option("--origin", type=click.Choice([HUMAN, LLM]), help="Only what people said, or the LLM.")
@_with_memory
def export(memory: VerdictMemory, _taxonomy: Taxonomy, origin: str | None) -> None:
    """Write all verdicts to standard output, one JSON object a line.

    \b
    Example:
      logclf-daemon verdicts export --origin human > reviewed.jsonl
    """
    for row in everything(memory, origin):
        click.echo(json.dumps(asdict(row)))


@verdicts.command("import")
@click.argument("file", type=click.File("rb"))
@_with_memory
def import_(memory: VerdictMemory, taxonomy: Taxonomy, file: BinaryIO) -> None:
    """Take over verdicts of an export (- is standard input): all of them, or none if one is wrong.

    \b
    Example:
      logclf-daemon verdicts import reviewed.jsonl
    """
    name = "standard input" if file is sys.stdin.buffer else file.name
    lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    rows = [exported.read(line, f"{name}:{number}", taxonomy) for number, line in lines]
    # By hand a person writes the path or tag, as for `set`; what was exported stays as it is.
    memory.put([replace(row, source=source_class(row.source)) for row in rows])
    click.echo(f"ok: {len(lines)} verdicts taken over")


def everything(memory: VerdictMemory, origin: str | None = None) -> Iterator[Remembered]:
    """All verdicts, a page at a time: no long read holds up the daemon's file."""
    offset = 0
    while page := memory.listed(origin=origin, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def _known(label: str, taxonomy: Taxonomy, memory: VerdictMemory | None = None) -> None:
    """A label of the taxonomy, or one that is still remembered.

    Raises:
        UsageError: Neither.
    """
    if label not in taxonomy and not (memory is not None and memory.listed(label=label, limit=1)):
        raise click.UsageError(f"unknown label {label!r}{taxonomy.suggestion(label)}")


def _template(text: str) -> str:
    """The id of a template, given as such or as a line of it."""
    return text if exported.TEMPLATE_ID.fullmatch(text) else template_id(key(spell_kept(_bytes(text)[:MAX_BYTES])))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sure(row: Remembered) -> str:
    return "-" if row.confidence is None else f"{row.confidence:.2f}"


def _day(secs: int) -> str:
    return datetime.fromtimestamp(secs, UTC).strftime("%Y-%m-%d") if secs else "never"
