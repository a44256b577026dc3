"""`logclf-daemon ctl`: talk to a running daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from logclf_daemon.cli import harmless
from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import StateOptions, state_directory
from logclf_daemon.control import ANSWER_SECS, LOOK_SECS, Answer, ask, follow, socket_path, system_socket
from logclf_daemon.errors import LogclfError

MAX_TROUBLES = 5


@click.group()
def ctl() -> None:
    """Talk to a running daemon."""


_STATE_DIR = click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Its state folder.")


def _asked(command: str, config_path: Path | None, state_dir: Path | None) -> Answer:
    secs = ANSWER_SECS if command == "reload" else LOOK_SECS
    return ask(_socket(config_path, state_dir), command, secs)


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
        *_readiness(answer["troubles"]),
        *(f"  note    {harmless(note)}" for note in answer["notes"]),
    ]
    for kind in ("inputs", "outputs"):
        rows += [f"  {kind[:-1]:<7} {name}: {_facts(facts)}" for name, facts in answer[kind].items()]
    return rows


def _readiness(troubles: Sequence[str]) -> list[str]:
    """What /readyz would say, and why; of many troubles the first few."""
    if not troubles:
        return ["  ready   yes"]
    rows = [f"          {harmless(trouble)}" for trouble in troubles[:MAX_TROUBLES]]
    if len(troubles) > MAX_TROUBLES:
        rows.append(f"          and {len(troubles) - MAX_TROUBLES} more (--json has them all)")
    return ["  ready   no:", *rows]


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_shown(fact)}" for name, fact in facts.items() if fact is not None)


def _shown(fact: object) -> str:
    whole = int(fact) if isinstance(fact, float) and fact.is_integer() else fact
    return harmless(str(whole))


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


@ctl.command()
@config_option
@_STATE_DIR
@click.option("--label", help="Only lines with this label.")
@click.option("--stage", type=click.Choice(["rules", "model", "llm", "none"]), help="Only lines this stage decided.")
@click.option("--source", metavar="GLOB", help="Only lines of this tag or file.")
@click.option("--per-sec", type=click.FloatRange(0.1, 1000), default=50.0, show_default=True, help="At most so many.")
@click.option("--limit", type=click.IntRange(1), help="End after so many lines.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
def tap(
    config_path: Path | None,
    state_dir: Path | None,
    label: str | None,
    stage: str | None,
    source: str | None,
    per_sec: float,
    limit: int | None,
    as_json: bool,
) -> None:
    """Watch labelled lines as they pass: a sample, which holds nothing up.

    \b
    Example:
      logclf-daemon ctl tap --label 'Security Alert'
    """
    shown = 0
    path = _socket(config_path, state_dir)
    for answer in follow(path, "tap", label=label, stage=stage, source=source, per_sec=per_sec):
        for row in answer["lines"]:
            click.echo(json.dumps(row) if as_json else _tapped(row))
            shown += 1
            if shown == limit:
                return
        if answer["missed"] and not as_json:
            click.secho(f"… {answer['missed']} more like these", dim=True, err=True)


_COLORS = {"rules": "blue", "model": "green", "llm": "magenta", "none": None}


def _tapped(row: dict[str, Any]) -> str:
    why = row["rule"] or row["reason"] or row["stage"]
    label = click.style(f"{row['label']:<20}", fg=_COLORS.get(row["stage"]), bold=True)
    return f"{label} {harmless(why)[:24]:<24} {harmless(row['source'])}: {harmless(row['line'])}"


@ctl.command()
@config_option
@_STATE_DIR
@click.option("--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look twice, print, exit.")
def top(config_path: Path | None, state_dir: Path | None, every: float, once: bool) -> None:
    """Watch the rates of a running daemon: by label and stage, inputs, outputs, the LLM.

    \b
    Example:
      logclf-daemon ctl top
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from logclf_daemon.cli.top import screen

    path = _socket(config_path, state_dir)
    console = Console()
    before = ask(path, "live", LOOK_SECS)
    with Live(console=console, screen=console.is_terminal and not once, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            now = ask(path, "live", LOOK_SECS)
            live.update(screen(before, now), refresh=True)
            before = now
            if once:
                return
