"""`logclf-daemon run`: the daemon."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import click

from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr, tell_misspelt
from logclf_daemon.config import CascadeFlags, Config, overridden, with_defaults
from logclf_daemon.descriptors import occupy_standard


@click.command()
@config_option
@click.option("--tail", multiple=True, metavar="GLOB", help="Watch these files. May be given often.")
@click.option("--forward", metavar="ADDR", help="Take the forward protocol at host:port or unix:///path.")
@click.option("--journald", is_flag=True, help="Read this host's systemd journal.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read lines from standard input.")
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="-, a file, forward://host:port, forward+tls://…, forward+unix:///path.",
)
@click.option("--once", is_flag=True, help="Read what is there, deliver it, exit.")
@cascade_options
def run(
    config_path: Path | None,
    tail: tuple[str, ...],
    forward: str | None,
    journald: bool,
    from_stdin: bool,
    targets: tuple[str, ...],
    once: bool,
    flags: CascadeFlags,
) -> None:
    """Watch files, read the journal or take the forward protocol, label each record and pass it on.

    With neither options nor a configuration file: forward protocol on 127.0.0.1:24224, JSON lines on standard output.

    \b
    Examples:
      logclf-daemon run --tail '/var/log/*.log'
      logclf-daemon run --forward 127.0.0.1:24224 --to forward://127.0.0.1:24225
    """
    occupy_standard()
    log_to_stderr(logging.INFO)
    tell_misspelt()
    if once and forward:
        raise click.UsageError("--once reads what is there; forward input has no end (leave one of them out)")
    sections = sections_of(tail, forward, journald, from_stdin, targets)

    def configured() -> Config:
        config = base_config(config_path, flags_given=bool(sections))
        return with_defaults(overridden(config, flags, sections=sections))

    from logclf_daemon.heap import collect_seldom
    from logclf_daemon.service import Service  # heavy: not needed for --help

    collect_seldom()
    asyncio.run(Service(configured(), once=once, reread=configured).run())


def sections_of(
    tail: tuple[str, ...], forward: str | None, journald: bool, from_stdin: bool, targets: tuple[str, ...]
) -> dict[str, Any]:
    """The inputs and outputs that options name, in place of those of the configuration."""
    flags = {"inputs": _inputs(tail, forward, journald, from_stdin), "outputs": [_target(target) for target in targets]}
    return {name: value for name, value in flags.items() if value}


def _inputs(tail: tuple[str, ...], forward: str | None, journald: bool, from_stdin: bool) -> list[dict[str, Any]]:
    inputs: list[dict[str, Any]] = []
    if tail:
        # A path the shell would expand to nothing must not depend on the folder the daemon runs in.
        inputs.append({"type": "files", "paths": [str(Path(glob).expanduser().absolute()) for glob in tail]})
    if forward:
        inputs.append({"type": "forward", "listen": forward})
    if journald:
        inputs.append({"type": "journald"})
    if from_stdin:
        inputs.append({"type": "stdin"})
    return inputs


def _target(target: str) -> dict[str, Any]:
    if target.startswith(("forward://", "forward+tls://", "forward+unix://")):
        return {"type": "forward", "address": target}
    if "://" in target:
        raise click.UsageError(
            f"--to {target}: unknown kind of target; use -, a file, forward://host:port, forward+tls://… or forward+unix:///path"
        )
    return {"type": "jsonl", "path": target}
