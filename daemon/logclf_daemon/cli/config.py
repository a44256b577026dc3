"""`logclf-daemon config`: check a configuration before it is used, see what it comes to, look options up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from logclf_daemon.build import build_parts, dead_letter_of, refuse_circles, unused_by_own_labels
from logclf_daemon.cli import ENVIRONMENT, name_variables
from logclf_daemon.cli.options import config_file, config_option
from logclf_daemon.cli.run import run, sections_of
from logclf_daemon.config import (
    DEFAULT_PATH,
    STATE_DIRECTORY,
    CascadeFlags,
    Config,
    load_config,
    located,
    overridden,
    spot,
    unknown_variables,
    with_defaults,
    written,
    written_files,
)
from logclf_daemon.documents import Place
from logclf_daemon.effective import Setting, settings
from logclf_daemon.errors import ConfigError
from logclf_daemon.http.server import split_listen
from logclf_daemon.installation import service_sandbox
from logclf_daemon.registry import INPUTS, OUTPUTS
from logclf_daemon.writable import NEVER, look_at_file, look_at_folder

# The options of `run` that stand for options of the configuration.
FLAGS: dict[str, Place] = {
    "tail": ("inputs",),
    "forward": ("inputs",),
    "journald": ("inputs",),
    "from_stdin": ("inputs",),
    "targets": ("outputs",),
    "rules_paths": ("rules", "paths"),
    "builtin_rules": ("rules", "builtin"),
    "llm": ("llm", "enabled"),
    "model": ("model", "enabled"),
    "state_dir": ("state", "directory"),
}
COMMENT_COLUMN = 60


@click.group()
def config() -> None:
    """Check a configuration, show what is in force, look options up."""


@config.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@config_option
def check(path: Path | None, config_path: Path | None) -> None:
    """Validate PATH (default: /etc/logclf/config.yaml), the rules and the model it names. Exit 78 if it is wrong.

    \b
    Example:
      logclf-daemon config check /etc/logclf/config.yaml
    """
    if path is not None and config_path is not None:
        raise click.UsageError(f"two configurations: {path} and {config_path}; check one after the other")
    path = path or config_path or DEFAULT_PATH
    checked = load_config(path)
    for section, kinds, options in (("inputs", INPUTS, checked.inputs), ("outputs", OUTPUTS, checked.outputs)):
        for at, option in enumerate(options):
            kind = kinds[option.type]  # type: ignore[attr-defined]  # every member of the union has it
            if "state" not in kind.needs:
                with located(checked, section, at):
                    kind.create(option, f"{option.type}.{at}", {})  # type: ignore[attr-defined]
    if checked.http.listen is not None:
        with located(checked):
            split_listen(checked.http)
    dead_letter_of(checked)
    refuse_circles(checked)
    notes = list(_not_writable(checked))
    with closing(build_parts(checked, None)) as parts:  # as `run` does
        count, unused = len(parts.rules), unused_by_own_labels(parts)
    _refuse_forbidden(checked, path)
    counts = {"input": len(checked.inputs), "output": len(checked.outputs), "rule": count}
    numbers = [f"{many} {what}" if many == 1 else f"{many} {what}s" for what, many in counts.items()]
    click.echo(f"ok: {path}: {', '.join(numbers)}")
    for note in notes:
        click.echo(f"note: {note}")
    if unused is not None:
        click.echo(f"note: {unused.text()}")
    for name, meant in unknown_variables(_variables_of_commands()).items():
        hint = f"did you mean {meant}?" if meant else "all of them: logclf-daemon config reference"
        click.echo(f"note: the environment variable {name} is no option; {hint}")


def _variables_of_commands() -> set[str]:
    """The environment variables of the options of all commands."""
    from logclf_daemon.cli import main  # the group of all commands, which is loaded by now

    def options(command: click.Command) -> Iterator[str]:
        for param in command.params:
            yield str(param.envvar)
        if isinstance(command, click.Group):
            with click.Context(command) as context:
                for inner in map(command.get_command, repeat(context), command.list_commands(context)):
                    yield from options(inner) if inner is not None else ()

    return set(options(main))


def _refuse_forbidden(checked: Config, path: Path) -> None:
    """What the service of this host runs with must name files that its unit lets it write.

    Raises:
        ConfigError: It would end with this at its start.
    """
    sandbox = service_sandbox() if path == DEFAULT_PATH else None
    if sandbox is None:
        return
    for place, file in written_files(checked):
        with suppress(PermissionError):  # closed to this user: doctor, by root, tells
            if (refusal := sandbox.refusal(file.absolute().parent)) is not None:
                raise ConfigError(f"{spot(checked, place)}: {file.parent} is {refusal}")


def _not_writable(config: Config) -> Iterator[str]:
    """What keeps this user, or this hour, from writing where the configuration says; the daemon's may be another.

    Raises:
        ConfigError: Nobody can ever write there.
    """
    places: list[tuple[Place, Path, Callable[[Path], None]]]
    places = [(place, path, look_at_file) for place, path in written_files(config)]
    if config.state.directory is not None:
        places.append((STATE_DIRECTORY, config.state.directory, look_at_folder))
    for place, path, look in places:
        try:
            look(path)
        except NEVER as error:
            why = f"{path}: cannot be written to: {error.strerror}; correct the path"
            raise ConfigError(f"{spot(config, place)}: {why}") from error
        except OSError as error:
            why = f"{path}: cannot be written to by this user now: {error.strerror}: {error.filename}"
            yield f"{spot(config, place)}: {why}"


@click.option("--json", "as_json", is_flag=True, help="Machine-readable: key, value, from.")
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@click.pass_context
def show(context: click.Context, /, as_json: bool, changed: bool, config_path: Path | None, **flags: Any) -> None:
    """Show every option as `run` would have it with the same options, and who said so. Secrets are not shown.

    \b
    Example:
      logclf-daemon config show --changed
    """
    named = {name: flags.pop(name) for name in ("tail", "forward", "journald", "from_stdin", "targets")}
    sections = sections_of(**named)
    path = config_file(config_path, flags_given=bool(sections))
    effective = with_defaults(overridden(load_config(path), CascadeFlags(**flags), sections=sections))
    found = settings(effective, written(path), _given(context))
    shown = [setting for setting in found if not changed or setting.origin != "default"]
    if as_json:
        rows = [{"key": setting.key, "value": setting.value, "from": setting.origin} for setting in shown]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_as_yaml(shown)))


# It takes what `run` takes, and its environment variables.
name_variables(run, f"{ENVIRONMENT}_run")
config.command()(show)
config.commands["show"].params[:0] = [param for param in run.params if param.name != "once"]


def _given(context: click.Context) -> dict[Place, str]:
    """Which options of the configuration the command line sets, by the name of the flag or its variable."""
    given: dict[Place, list[str]] = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in FLAGS and source is not ParameterSource.DEFAULT:
            by_variable = source is ParameterSource.ENVIRONMENT
            name = f"environment variable {param.envvar}" if by_variable else param.opts[0]
            given.setdefault(FLAGS[param.name], []).append(name)
    return {place: ", ".join(names) for place, names in given.items()}


def _as_yaml(shown: Sequence[Setting]) -> Iterator[str]:
    """A configuration that means the same, each option with its origin as a comment."""
    before: Place = ()
    for setting in shown:
        *parents, name = setting.place
        fresh = next((at for at, part in enumerate(parents) if before[: at + 1] != (*parents,)[: at + 1]), len(parents))
        bullet = ""
        for depth in range(fresh, len(parents)):
            if isinstance(parents[depth], int):
                bullet = "- "
            else:
                yield "  " * depth + f"{parents[depth]}:"
        indent = "  " * len(parents)
        indent = indent[:-2] + bullet if bullet else indent
        text = f"{indent}{name}: {json.dumps(setting.value, ensure_ascii=False)}"
        yield f"{text:<{COMMENT_COLUMN}} # {setting.origin}"
        before = setting.place


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration.

    \b
    Example:
      logclf-daemon config schema > logclf.schema.json
    """
    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config.command()
@click.option("--cli", "of_commands", is_flag=True, help="All commands instead (docs/cli.md).")
def reference(of_commands: bool) -> None:
    """Print all options with their values, defaults and environment variables (docs/configuration.md).

    \b
    Example:
      logclf-daemon config reference | less
    """
    if of_commands:
        from logclf_daemon.cli import main  # the group of all commands, which is loaded by now
        from logclf_daemon.cli.pages import command_page

        click.echo(command_page(main), nl=False)
        return
    from logclf_daemon.reference import configuration_page

    click.echo(configuration_page(), nl=False)
