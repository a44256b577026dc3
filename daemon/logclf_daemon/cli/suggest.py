"""`logclf-daemon rules suggest`: rules from remembered verdicts."""

from __future__ import annotations

import asyncio
import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logclf_daemon.cli import harmless
from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import Config
from logclf_daemon.errors import LogclfError

if TYPE_CHECKING:
    from logclf_daemon.inputs.files import FilesInputOptions
    from logclf_daemon.suggest import Evidence, Suggestions

RECENT_FILES, RECENT_BYTES = 20, 64 << 10  # of each
REFUSED_SHOWN = 5


@click.command()
@config_option
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The daemon's state folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: standard output.")
@click.option("--min-hits", default=20, show_default=True, type=click.IntRange(0), help="Records a verdict answered.")
@click.option(
    "--min-confidence", default=0.8, show_default=True, type=click.FloatRange(0, 1), help="Of the LLM; people are sure."
)
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A log file of recent lines that no rule may contradict.  [default: the ends of the configured files]",
)
def suggest(
    config_path: Path | None,
    state_dir: Path | None,
    output: Path | None,
    min_hits: int,
    min_confidence: float,
    against: tuple[Path, ...],
) -> None:
    """Propose rules from verdicts that are stable and frequent, as a rule file to review; none where there are none.

    Each was tried on the remembered lines, on the examples of all rules in force, on the corpus of the shipped model
    and on recent lines: it matches none that has another label. The file says on how many lines of each.

    \b
    Example:
      logclf-daemon rules suggest -o suggested.yaml && logclf-daemon rules test suggested.yaml
    """
    from logclf_daemon.cli.verdicts import everything, opened  # heavy: not needed for --help
    from logclf_daemon.resources import cache_directory, folder
    from logclf_daemon.stages.rules import load_rules
    from logclf_daemon.suggest import Wanted, suggest

    config = base_config(config_path)
    rules = load_rules(config.rules, config.taxonomy, folder("rules"), cache_directory())
    with opened(config_path, state_dir) as (memory, taxonomy):
        verdicts = [row for row in everything(memory) if row.label in taxonomy]
    evidence = [_corpus(config), _recent(config, against)] if verdicts else []
    found = suggest(verdicts, rules, Wanted(min_hits, min_confidence), evidence)
    if found.found and output is None:
        click.echo(found.as_yaml(), nl=False)
    elif found.found and output is not None:
        try:
            output.write_text(found.as_yaml(), encoding="utf-8")
        except OSError as error:
            raise LogclfError(f"{output}: cannot be written: {error.strerror}; give another -o") from error
    for line in _report(found):
        click.echo(harmless(line), err=True)


def _report(found: Suggestions) -> Iterator[str]:
    from logclf_daemon.masking import masked
    from logclf_daemon.suggest import counted

    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found.left_out.most_common())
    yield f"{len(found.found)} rules suggested{f'; of other templates {why}' if why else ''}"
    if found.found or found.refused:
        yield f"tried on {counted(found.tried)}"
    for one in found.refused[:REFUSED_SHOWN]:
        pattern, line = one.rule.pattern[:80], masked(one.line)[:120]
        yield f"refused for {one.rule.label}: {pattern} matches, of the {one.what}, {line} which is {one.label}"


def _corpus(config: Config) -> Evidence:
    """The corpus of the shipped model, as far as its labels are ours."""
    from logclf_daemon.registry import corpus_lines
    from logclf_daemon.suggest import Evidence

    lines = [(line, label) for line, label in corpus_lines() or () if label in config.taxonomy]
    return Evidence("lines of the corpus", lines)


def _recent(config: Config, against: Sequence[Path]) -> Evidence:
    """Whole files where they are named, else what came last in the configured ones."""
    from logclf_daemon.suggest import Evidence

    named = ((path, path.read_bytes().splitlines()) for path in against)
    return Evidence("recent lines", labelled(config, list(named if against else _ends(config))))


def _ends(config: Config) -> Iterator[tuple[Path, list[bytes]]]:
    """The last whole lines of the configured files that changed last, as far as they may be read."""
    from logclf_daemon.inputs.files import FilesInputOptions

    there: dict[Path, float] = {}
    for options in config.inputs:
        if isinstance(options, FilesInputOptions):
            there |= {path: path.stat().st_mtime for path in _files(options)}
    for path in sorted(there, key=lambda path: -there[path])[:RECENT_FILES]:
        try:
            with path.open("rb") as file:
                start = max(0, os.fstat(file.fileno()).st_size - RECENT_BYTES)
                file.seek(start)
                lines = file.read(RECENT_BYTES).splitlines()
        except OSError as error:
            click.echo(harmless(f"{path}: not tried: {error.strerror}"), err=True)
        else:
            yield path, lines[1:] if start else lines


def _files(options: FilesInputOptions) -> Iterator[Path]:
    from logclf_daemon.inputs._tail.identity import is_compressed

    for pattern in options.paths:
        for path in map(Path, glob.glob(os.path.abspath(pattern), recursive=True)):  # noqa: PTH100, PTH207  # as the input
            left_out = any(fnmatch(str(path), name) or fnmatch(path.name, name) for name in options.exclude)
            if path.is_file() and not left_out and not is_compressed(os.fsencode(path)):
                yield path


def labelled(config: Config, files: Sequence[tuple[Path, list[bytes]]]) -> list[tuple[str, str]]:
    """The lines of log files with what rules and model say of them, where they say something."""
    from logclf_daemon.build import build_parts, cascade_of, close

    if not files:
        return []
    parts = build_parts(config.model_copy(update={"llm": config.llm.model_copy(update={"enabled": False})}), None)
    cascade = cascade_of(parts, patient=True)
    found = []
    try:
        for path, lines in files:
            answers = asyncio.run(cascade.classify(str(path), lines)).answers
            for line, answer in zip(lines, answers, strict=True):
                if answer is not None and not answer.verdict.abstained:
                    found.append((line.decode("utf-8", "replace"), answer.verdict.label))
    finally:
        close(cascade, parts)
    return found
