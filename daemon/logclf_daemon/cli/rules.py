"""`logclf-daemon rules`: check and try rule files."""

from __future__ import annotations

from pathlib import Path

import click

from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.cli.suggest import suggest
from logclf_daemon.errors import ConfigError, LogclfError
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages.rules import RuleSet, RulesOptions, read_rules


@click.group()
def rules() -> None:
    """Check and try rule files."""


def _loaded(config_path: Path | None, paths: tuple[Path, ...]) -> RuleSet:
    config = base_config(config_path, flags_given=bool(paths))
    options = RulesOptions(paths=paths, builtin=False) if paths else config.rules
    found = read_rules(options.paths, config.taxonomy, builtin=folder("rules") if options.builtin else None)
    if not found:
        places = ", ".join(map(str, options.paths)) or "the configuration"
        raise ConfigError(f"{places}: no rules; a folder's rule files end in .yaml or .yml")
    return RuleSet(found, cache_directory(), apart=True)


_PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))


rules.add_command(suggest)


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


@rules.command()
@_PATHS
@config_option
@click.option(
    "--sample", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Real lines to time rules on."
)
def lint(paths: tuple[Path, ...], config_path: Path | None, sample: Path | None) -> None:
    """Find rules that are dead, shadowed, contradicting, costly or too broad. Exit 1 for dead or contradicting ones.

    \b
    Example:
      logclf-daemon rules lint --sample /var/log/syslog
    """
    loaded = _loaded(config_path, paths)
    findings = list(loaded.findings(sample.read_bytes().splitlines() if sample else ()))
    for finding in findings:
        click.echo(str(finding))
    mistakes = sum(finding.mistake for finding in findings)
    if mistakes:
        raise LogclfError(f"{mistakes} of {len(findings)} findings are mistakes (dead or contradicts)")
    click.echo(f"ok: {len(loaded)} rules, {len(findings)} worth a look")


@rules.command()
@click.argument("line")
@_PATHS
@config_option
@click.option("--source", default="", help="The tag or file the line would come from.")
def explain(line: str, paths: tuple[Path, ...], config_path: Path | None, source: str) -> None:
    """Show which rules match LINE, the winner first, and where each stands.

    \b
    Example:
      logclf-daemon rules explain 'sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2'
    """
    matched = _loaded(config_path, paths).matches(line.encode("utf-8", "surrogateescape"), source)
    for place, rule in enumerate(matched):
        options = rule.options
        click.echo(f"{'wins' if place == 0 else 'also'}  {rule.id}  {options.label}  priority {options.priority}")
        click.echo(f"      {rule.path}:{rule.line}  {options.description}")
        click.echo(f"      {options.pattern}")
    if not matched:
        click.echo("no rule matches; memory, model and LLM are asked")
