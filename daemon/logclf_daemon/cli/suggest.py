"""`logclf-daemon rules suggest`: rules from remembered verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import Config


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
    help="A log file of recent lines that no rule may contradict.",
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

    Each was tried on the remembered lines, on the examples of all rules in force and on the files of --against: it
    matches none that has another label.

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
    traffic = labelled(config, against) if against else []
    found = suggest(verdicts, rules, Wanted(min_hits, min_confidence), traffic)
    if found.found and output is None:
        click.echo(found.as_yaml(), nl=False)
    elif found.found and output is not None:
        output.write_text(found.as_yaml(), encoding="utf-8")
    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found.left_out.most_common())
    click.echo(f"{len(found.found)} rules suggested{f'; of other templates {why}' if why else ''}", err=True)


def labelled(config: Config, paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The lines of log files with what rules and model say of them, where they say something."""
    from logclf_daemon.build import build_parts, cascade_of, close

    parts = build_parts(config.model_copy(update={"llm": config.llm.model_copy(update={"enabled": False})}), None)
    cascade = cascade_of(parts, patient=True)
    found = []
    try:
        for path in paths:
            lines = path.read_bytes().splitlines()
            answers = asyncio.run(cascade.classify(str(path), lines)).answers
            for line, answer in zip(lines, answers, strict=True):
                if answer is not None and not answer.verdict.abstained:
                    found.append((line.decode("utf-8", "replace"), answer.verdict.label))
    finally:
        close(cascade, parts)
    return found
