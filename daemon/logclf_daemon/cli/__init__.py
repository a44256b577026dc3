"""The command line. Commands are imported when they are called: `--help` stays fast."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from logclf_daemon import __version__, hangup
from logclf_daemon.errors import LogclfError

COMMANDS = {
    "run": ("logclf_daemon.cli.run", "run", "Watch files or take the forward protocol, label, pass on."),
    "csv": ("logclf_daemon.cli.csv", "csv_command", "Add a label to each row of a CSV."),
    "explain": ("logclf_daemon.cli.explain", "explain", "Show what each stage says of one line."),
    "rules": ("logclf_daemon.cli.rules", "rules", "Check and try rule files."),
    "verdicts": ("logclf_daemon.cli.verdicts", "verdicts", "Review what the LLM said; the last word is yours."),
    "model": ("logclf_daemon.cli.model", "model", "Show and measure the local model."),
    "llm": ("logclf_daemon.cli.llm", "llm", "Measure the LLM."),
    "config": ("logclf_daemon.cli.config", "config", "Check a configuration file."),
    "ctl": ("logclf_daemon.cli.ctl", "ctl", "Talk to a running daemon."),
    "serve": ("logclf_daemon.cli.serve", "serve", "Serve the HTTP API and the live page alone."),
    "install-service": ("logclf_daemon.cli.service", "install_service", "Make it a systemd service of this host."),
    "uninstall-service": ("logclf_daemon.cli.service", "uninstall_service", "Take the systemd service away."),
    "doctor": ("logclf_daemon.cli.doctor", "doctor", "Check this host and say what to do."),
}

DAEMONS = ("run", "serve")  # they stay, and reload at SIGHUP

ENVIRONMENT = "LOGCLF"


def name_variables(command: click.Command, prefix: str) -> None:
    """Each option is an environment variable of its own name: `--to` of `run` is LOGCLF_RUN_TO."""
    prefix = prefix.upper().replace("-", "_")
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            name_variables(inner, f"{prefix}_{name}")
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            word = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{prefix}_{word}".upper().replace("-", "_")


class LazyGroup(click.Group):
    """A group whose commands are modules, loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in DAEMONS:
            hangup.hold()  # before the imports: a rotation or `systemctl reload` does not know how far a start is
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        name_variables(command, f"{ENVIRONMENT}_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """One line for a person's mistake, with the exit code that says whose it is; a traceback only on request."""
        try:
            return super().invoke(ctx)
        except LogclfError as error:
            _complain(ctx, str(error))
            ctx.exit(error.exit_code)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output went away: nothing to tell it
            ctx.exit(1)
        except Exception as error:
            _complain(
                ctx,
                f"unexpected {type(error).__name__}: {error}; a bug of ours, please report it (--debug shows where)",
            )
            ctx.exit(1)


def _complain(ctx: click.Context, text: str) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()
    for line in text.splitlines():
        click.echo(f"error: {harmless(line)}", err=True)


def harmless(text: str) -> str:
    """Text without anything a terminal would obey."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": ENVIRONMENT,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How events are written to standard error; under systemd `text` goes to the journal, each fact a field.",
)
@click.version_option(__version__, prog_name="logclf-daemon")
def main(debug: bool, log_format: str) -> None:
    """Give every log line an operational label and pass it on.

    \b
    Example:
      logclf-daemon run --tail '/var/log/*.log'
    """
