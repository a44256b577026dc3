"""`logclf-daemon ctl`: talk to a running daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import StateOptions, state_directory
from logclf_daemon.control import Answer, ask, socket_path, system_socket
from logclf_daemon.errors import LogclfError


@click.group()
def ctl() -> None:
    """Talk to a running daemon."""


_STATE_DIR = click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Its state folder.")


def _asked(command: str, config_path: Path | None, state_dir: Path | None) -> Answer:
    return ask(_socket(config_path, state_dir), command)


def _socket(config_path: Path | None, state_dir: Path | None) -> Path:
    """Of the daemon with this state folder, or of this host's service: a broken configuration does not matter then."""
    if state_dir is None and config_path is None and "STATE_DIRECTORY" not in os.environ:
        service = system_socket()
        if service is not None:
            return service
    if state_dir is None and "RUNTIME_DIRECTORY" in os.environ:  # ExecReload=: this is the service itself
        return system_socket() or socket_path(Path())
    options = StateOptions(directory=state_dir) if state_dir is not None else base_config(config_path).state
    return socket_path(state_directory(options))


@ctl.command()
@config_option
@_STATE_DIR
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(config_path: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show what a running daemon does: inputs, outputs, stages, state.

    \b
    Example:
      logclf-daemon ctl status
    """
    answer = _asked("status", config_path, state_dir)
    click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(_words(answer)))


def _words(answer: Answer) -> list[str]:
    rows = [
        f"logclf-daemon {answer['version']}, up {answer['uptime_secs']:.0f} s, generation {answer['generation']}",
        f"  rules   {answer['rules']}",
        f"  model   {answer['model']}",
        f"  llm     {answer['llm']}",
        f"  state   {_facts(answer['state'])}",
    ]
    for kind in ("inputs", "outputs"):
        rows += [f"  {kind[:-1]:<7} {name}: {_facts(facts)}" for name, facts in answer[kind].items()]
    return rows


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items() if value is not None)


@ctl.command()
@config_option
@_STATE_DIR
@click.option("--wait/--no-wait", default=True, help="Wait for the result and exit with it.")
def reload(config_path: Path | None, state_dir: Path | None, wait: bool) -> None:
    """Read configuration, rules and model again. Exit 1 if they were refused; the running ones stay then.

    \b
    Example:
      logclf-daemon ctl reload
    """
    answer = _asked("reload" if wait else "reload_soon", config_path, state_dir)
    if not answer["ok"]:
        raise LogclfError(answer["error"])
    click.echo(f"ok: generation {answer['generation']}" if wait else "ok: asked to reload")
