"""`logclf-daemon install-service`, `uninstall-service`: the daemon as a systemd service of this host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import click

from logclf_daemon.config import Config, load_config
from logclf_daemon.errors import LogclfError
from logclf_daemon.installation import (
    SERVICE,
    Host,
    Step,
    carry_out,
    command_in,
    installing,
    refuse_hidden,
    refuse_unreadable,
    refuse_without_systemd,
    uninstalling,
)
from logclf_daemon.resources import folder

FORWARD_ADDRESS = "127.0.0.1:24224"  # of logclf-daemon-forward.socket as it is shipped

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done and do nothing.")
_ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="An image that does not run, instead of this host.",
)


@click.command("install-service")
@_DRY_RUN
@_ROOT
@click.option("--start/--no-start", default=True, help="Start it now (else at the next boot).")
def install_service(dry_run: bool, root: Path, start: bool) -> None:
    """Make this logclf-daemon a systemd service, and start it. Again: changes only what is different.

    Writes unit files to /etc/systemd/system and, where there is none, /etc/logclf/config.yaml.

    \b
    Example:
      sudo /opt/logclf-daemon/bin/logclf-daemon install-service
    """
    host = Host(root.absolute())
    command = command_in(host)
    refuse = refuse_unreadable if host.runs else refuse_hidden
    config = _configuration(host)
    steps = list(installing(host, command, forward=_takes_forward(config), start=start))
    if dry_run:
        _show(steps)
        try:
            refuse(command)
        except LogclfError as error:
            click.echo(f"note: it would be refused: {error}", err=True)
        return
    refuse_without_systemd(host)
    refuse(command)
    try:
        for done in carry_out(steps):
            click.echo(done)
    except LogclfError as error:
        raise LogclfError(f"{error}\n{_journal()}" if host.runs else str(error)) from error
    click.echo(f"ok: {SERVICE} is installed" + (" and ready" if host.runs and start else ""))
    if host.runs:
        click.echo("look at it: systemctl status logclf-daemon; journalctl -u logclf-daemon; logclf-daemon ctl status")


@click.command("uninstall-service")
@_DRY_RUN
@_ROOT
@click.option("--purge", is_flag=True, help="Remove configuration, drop-ins, state and output files too.")
def uninstall_service(dry_run: bool, root: Path, purge: bool) -> None:
    """Stop the service and remove its unit files. Configuration, state and output stay, unless --purge.

    \b
    Example:
      sudo /opt/logclf-daemon/bin/logclf-daemon uninstall-service --dry-run
    """
    host = Host(root.absolute())
    if host.packaged is not None:
        raise LogclfError(f"{host.packaged / SERVICE}: belongs to a package; remove that (apt remove logclf-daemon)")
    steps = list(uninstalling(host, purge=purge))
    if dry_run:
        _show(steps)
        return
    refuse_without_systemd(host)
    for done in carry_out(steps):
        click.echo(done)
    click.echo(f"ok: {SERVICE} is not installed" + ("" if purge else "; configuration and state were kept (--purge)"))


def _configuration(host: Host) -> Config:
    """What the service will run with: the host's own, else the shipped one. A mistake in it ends the installation."""
    own = host.root / "etc/logclf/config.yaml"
    return load_config(own if own.exists() else folder("systemd") / "config.yaml", environment={})


def _takes_forward(config: Config) -> bool:
    return any(getattr(options, "listen", None) == FORWARD_ADDRESS for options in config.inputs)


def _show(steps: list[Step]) -> None:
    for line in _planned(steps):
        click.echo(line)


def _planned(steps: list[Step]) -> Iterator[str]:
    for step in steps:
        yield f"would {step}" if step.needed() else f"unchanged: {str(step).partition(' ')[2]}"


def _journal() -> str:
    """Why it did not start."""
    command = ("journalctl", "-u", SERVICE, "-n", "15", "--no-pager", "-o", "cat")
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "\n".join(f"  {line}" for line in said.splitlines())
