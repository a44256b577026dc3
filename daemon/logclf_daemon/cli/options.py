"""Options that several commands share, and what they mean for the configuration."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from logclf_daemon import journal
from logclf_daemon.config import DEFAULT_PATH, CascadeFlags, Config, load_config, misspelt_variables
from logclf_daemon.events import LOGGER, VariableUnknown, emit
from logclf_daemon.libraries import hear_libraries

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`."""
    return click.option(
        "--config",
        "-c",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"Configuration file. Default: {DEFAULT_PATH} if it exists.",
    )(command)


def cascade_options(command: Command) -> Callable[..., Any]:
    """The options that choose rules and LLM without a configuration file; the command gets them as `flags`."""
    names = [field.name for field in fields(CascadeFlags)]

    @wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        return command(*args, flags=CascadeFlags(**{name: options.pop(name) for name in names}), **options)

    decorated: Callable[..., Any] = gathered
    for option in (
        click.option(
            "--rules", "rules_paths", multiple=True, type=click.Path(path_type=Path), help="Rule file or folder."
        ),
        click.option(
            "--builtin-rules/--no-builtin-rules", default=None, help="Use the rules that ship with the daemon."
        ),
        click.option("--llm/--no-llm", default=None, help="Ask the local Ollama. Default: if it answers."),
        click.option("--model/--no-model", default=None, help="Use the local model."),
        click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Where state is kept."),
    ):
        decorated = option(decorated)
    return decorated


def base_config(path: Path | None, *, flags_given: bool = False) -> Config:
    """The configuration file if one is named or, without flags, the default one if it exists."""
    return load_config(config_file(path, flags_given=flags_given))


def config_file(path: Path | None, *, flags_given: bool = False) -> Path | None:
    """The file that is read: the one that is named, else without flags the default one if it exists."""
    return DEFAULT_PATH if path is None and not flags_given and DEFAULT_PATH.exists() else path


def log_to_stderr(level: int) -> None:
    """Events from this level on go to standard error; all of them with --debug."""
    context = click.get_current_context().find_root()
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if context.params.get("log_format") == "json":
        handler.setFormatter(_Json())
    elif journal.is_ours():  # it has the time, and takes each fact as a field
        handler.setFormatter(_Prefixed())
        handler = journal.JournalHandler(instead=handler)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG if context.params.get("debug") else level)
    hear_libraries()


def tell_misspelt() -> None:
    """Variables that somebody meant for an option and that are none: what they say is not in force."""
    for variable, meant in misspelt_variables().items():
        emit(VariableUnknown(variable=variable, meant=meant))


class _Prefixed(logging.Formatter):
    """The priority before the text, for what the journal reads from standard error."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{journal.PRIORITIES.get(record.levelno, 6)}>{super().format(record)}"


class _Json(logging.Formatter):
    """One object a line: when, how bad, what, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        known = {"time": round(record.created, 3), "level": record.levelname.lower()}
        facts = getattr(record, "facts", None) or {"event": record.getMessage()}
        held = {"held_back": record.held_back} if getattr(record, "held_back", 0) else {}  # type: ignore[attr-defined]
        trace = {"traceback": self.formatException(record.exc_info)} if record.exc_info and record.exc_info[0] else {}
        return json.dumps({**known, **facts, **held, **trace}, default=str)
