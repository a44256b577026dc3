"""`logclf-daemon config`: check a configuration before it is used."""

from __future__ import annotations

import json
from pathlib import Path

import click

from logclf_daemon.config import DEFAULT_PATH, Config, load_config
from logclf_daemon.registry import INPUTS, OUTPUTS
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages.rules import load_rules


@click.group()
def config() -> None:
    """Check a configuration file."""


@config.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check(path: Path | None) -> None:
    """Validate PATH (default: /etc/logclf/config.yaml) and the rules it names. Exit 78 if it is wrong.

    \b
    Example:
      logclf-daemon config check /etc/logclf/config.yaml
    """
    path = path or DEFAULT_PATH
    checked = load_config(path)
    for kinds, options in ((INPUTS, checked.inputs), (OUTPUTS, checked.outputs)):
        for at, option in enumerate(options):
            kind = kinds[option.type]  # type: ignore[attr-defined]  # every member of the union has it
            if "state" not in kind.needs:
                kind.create(option, f"{option.type}.{at}", {})  # type: ignore[attr-defined]
    rules = load_rules(checked.rules, checked.taxonomy, folder("rules"), cache_directory())
    click.echo(f"ok: {path}: {len(checked.inputs)} inputs, {len(checked.outputs)} outputs, {len(rules)} rules")
    if checked.http.listen is not None:
        click.echo("note: http.listen: this version has no HTTP API yet; the setting is ignored")


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))
