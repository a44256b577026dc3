"""The page docs/cli.md, made from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from logclf_daemon.cli import ENVIRONMENT

OPENING = """\
# Command line

*Made by `logclf-daemon config reference --cli`; do not edit.*

Every option is an environment variable too, named after the command: `--no-llm` of `explain` is
`LOGCLF_EXPLAIN_LLM=false`. An option that may be given often takes its values there with spaces between them. Exit
codes: 0 ok, 1 failed, 2 usage, 65 bad input data, 69 a needed service is unavailable, 78 bad configuration.
"""


def command_page(group: click.Group) -> str:
    """All commands with their options, as Markdown."""
    with click.Context(group, info_name="logclf-daemon", auto_envvar_prefix=ENVIRONMENT) as context:
        return OPENING + "".join(_commands(group, context))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        with click.Context(command, parent=context, info_name=name, **command.context_settings) as inner:
            if isinstance(command, click.Group):
                yield f"\n## {inner.command_path}\n\n{_paragraphs(command)}\n"
                yield from _commands(command, inner)
            else:
                yield _command(command, inner)


def _command(command: click.Command, context: click.Context) -> str:
    depth = "##" if context.parent is not None and context.parent.parent is None else "###"
    arguments = " ".join(param.make_metavar(context) for param in command.params if isinstance(param, click.Argument))
    text = f"\n{depth} {context.command_path} {arguments}".rstrip() + f"\n\n{_paragraphs(command)}\n"
    rows = [_option(param, context) for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if rows:
        text += "\n| option | environment variable | meaning |\n|---|---|---|\n" + "".join(rows)
    return text


def _paragraphs(command: click.Command) -> str:
    """The help text; what click leaves as it is (examples) becomes a block of code."""
    found = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            found.append(" ".join(paragraph.split()))
            continue
        lines = [line.strip() for line in paragraph.removeprefix("\b").strip().splitlines()]
        commands = [line for line in lines if not line.startswith("Example")]
        found.append("```text\n" + "\n".join(commands) + "\n```")
    return "\n\n".join(found)


def _option(param: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if not param.is_flag and not param.count:
        names += f" {param.make_metavar(context)}"
    words = (param.help or "").replace("|", "\\|")
    return f"| {names.replace('|', chr(92) + '|')} | `{param.envvar}` | {words} |\n"
