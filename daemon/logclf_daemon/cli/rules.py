"""`logclf-daemon rules`: check and try rule files."""

from __future__ import annotations

from pathlib import Path

import click

from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.errors import LogclfError
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages.rules import RuleSet, RulesOptions, read_rules


@click.group()
def rules() -> None:
    """Check and try rule files."""


def _loaded(config_path: Path | None, paths: tuple[Path, ...]) -> RuleSet:
    config = base_config(config_path, flags_given=bool(paths))
    options = RulesOptions(paths=paths, builtin=False) if paths else config.rules
    return RuleSet(
        read_rules(options.paths, config.taxonomy, builtin=folder("rules") if options.builtin else None),
        cache_directory(),
    )


_PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))


@rules.command()
@_PATHS
@config_option
def check(paths: tuple[Path, ...], config_path: Path | None) -> None:
    """Validate rule files: format, labels, unique ids, patterns.

    PATHS are files or folders; without them the rules of the configuration and the shipped ones are checked.

    \b
    Example:
      logclf-daemon rules check /etc/logclf/rules.d
    """
    loaded = _loaded(config_path, paths)
    files = len({rule.path for rule in loaded.rules})
    click.echo(f"ok: {len(loaded)} rules in {files} files")


@rules.command()
@_PATHS
@config_option
def test(paths: tuple[Path, ...], config_path: Path | None) -> None:
    """Run each rule on its own examples and counterexamples.

    \b
    Example:
      logclf-daemon rules test /etc/logclf/rules.d
    """
    loaded = _loaded(config_path, paths)
    failed = list(loaded.failed_examples())
    if failed:
        raise LogclfError("\n".join(failed))
    examples = sum(len(rule.options.examples) for rule in loaded.rules)
    counterexamples = sum(len(rule.options.counterexamples) for rule in loaded.rules)
    click.echo(f"ok: {len(loaded)} rules, {examples} examples match, {counterexamples} counterexamples do not")
