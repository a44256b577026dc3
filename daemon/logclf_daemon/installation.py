"""The service on this host: which files it is made of, and the steps that put them there or take them away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from logclf_daemon.errors import LogclfError, ServiceUnavailable
from logclf_daemon.resources import folder
from logclf_daemon.sandbox import SETTINGS, Sandbox

SERVICE = "logclf-daemon.service"
CONTROL_SOCKET = "logclf-daemon-control.socket"
FORWARD_SOCKET = "logclf-daemon-forward.socket"
UNITS = (SERVICE, CONTROL_SOCKET, FORWARD_SOCKET)

SHIPPED_COMMAND = "/usr/bin/logclf-daemon"  # as the unit file has it
PACKAGED = ("usr/lib/systemd/system", "lib/systemd/system")
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # from the service, by ProtectHome and PrivateTmp
IN_IMAGES = tuple(Path(place) / "logclf-daemon" for place in ("/opt/logclf-daemon/bin", "/usr/local/bin", "/usr/bin"))
KEPT = ("etc/logclf", "var/lib/private/logclf-daemon", "var/lib/logclf-daemon", "var/log/private/logclf-daemon")
DISPOSABLE = ("var/cache/private/logclf-daemon", "var/cache/logclf-daemon", "var/log/logclf-daemon")

WHERE_TO_INSTALL = (
    "install it where the service may read it: "
    "sudo python3 -m venv /opt/logclf-daemon && sudo /opt/logclf-daemon/bin/pip install . "
    "(from the folder of its source, or give a wheel) && sudo /opt/logclf-daemon/bin/logclf-daemon install-service"
)


class Step(Protocol):
    """One thing that is done to the host."""

    def __str__(self) -> str:
        """What it does, for a person."""

    def needed(self) -> bool:
        """Whether it would change anything."""

    def do(self) -> None:
        """Do it.

        Raises:
            LogclfError: It failed.
        """


@dataclass(frozen=True, slots=True)
class Write:
    """A file with this text; one that is there and belongs to the user (`keep`) stays."""

    path: Path
    text: str
    keep: bool = False

    def __str__(self) -> str:
        return f"write {self.path}"

    def needed(self) -> bool:
        if self.keep and self.path.exists():
            return False
        try:
            return self.path.read_text(encoding="utf-8") != self.text
        except OSError:
            return True

    def do(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.new")
        unfinished.write_text(self.text, encoding="utf-8")
        unfinished.chmod(0o644)
        unfinished.replace(self.path)


@dataclass(frozen=True, slots=True)
class Remove:
    """A file or folder that is gone afterwards."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"

    def needed(self) -> bool:
        return self.path.is_symlink() or self.path.exists()

    def do(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


@dataclass(frozen=True, slots=True)
class Run:
    """A command; `may_fail` where its failure only says that there was nothing to do."""

    command: tuple[str, ...]
    may_fail: bool = False

    def __str__(self) -> str:
        return f"run {' '.join(self.command)}"

    def needed(self) -> bool:
        return True

    def do(self) -> None:
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LogclfError(f"{self.command[0]}: {error.strerror}; it is part of systemd") from error
        if done.returncode and not self.may_fail:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise LogclfError("\n".join([f"{' '.join(self.command)}: exit {done.returncode}", *said]))


@dataclass(frozen=True, slots=True)
class Host:
    """The system that gets the service: this one, or an image under `root` that does not run."""

    root: Path = Path("/")

    @property
    def runs(self) -> bool:
        return self.root == Path("/")

    @property
    def packaged(self) -> Path | None:
        """The folder of the unit files where a package of the distribution brought them."""
        places = [self.root / place for place in PACKAGED]
        return next((place for place in places if (place / SERVICE).exists()), None)

    def systemctl(self, *arguments: str, may_fail: bool = False) -> Run:
        where = () if self.runs else (f"--root={self.root}",)
        return Run(("systemctl", *where, *arguments), may_fail)


def installing(host: Host, command: Path, *, forward: bool, start: bool) -> Iterator[Step]:
    """The steps that make `command` the service of the host; done again they change nothing.

    `forward`: a forward input listens at the address of its socket unit.
    """
    units: list[Step] = []
    if host.packaged is None:
        units = [Write(host.root / "etc/systemd/system" / name, unit_text(name, command)) for name in UNITS]
    yield from units
    yield from _surroundings(host)
    changed = any(unit.needed() for unit in units)
    if host.runs:
        yield host.systemctl("daemon-reload")
    enabled = [name for name in UNITS if forward or name != FORWARD_SOCKET]
    yield host.systemctl("enable", *enabled)
    if not (host.runs and start):
        return
    yield host.systemctl("reset-failed", *UNITS, may_fail=True)
    if changed:  # the sockets of a service that runs cannot be replaced
        yield host.systemctl("stop", *UNITS, may_fail=True)
    yield host.systemctl("start", *(name for name in enabled if name != SERVICE))
    yield host.systemctl("restart" if changed else "start", SERVICE)


def _surroundings(host: Host) -> Iterator[Step]:
    """Folders, group and a first configuration; a package of the distribution has its own way for the first two."""
    shipped = folder("systemd")
    etc = host.root / "etc"
    where = () if host.runs else (f"--root={host.root}",)
    for kind, command in (("sysusers", ("systemd-sysusers",)), ("tmpfiles", ("systemd-tmpfiles", "--create"))):
        name = f"logclf-daemon.{kind}.conf"
        if host.packaged is None:
            yield Write(etc / f"{kind}.d" / "logclf-daemon.conf", (shipped / name).read_text(encoding="utf-8"))
        yield Run((*command, *where, "logclf-daemon.conf"))
    if (etc / "logrotate.d").is_dir():
        text = (shipped / "logclf-daemon.logrotate").read_text(encoding="utf-8")
        yield Write(etc / "logrotate.d" / "logclf-daemon", text, keep=host.packaged is not None)
    yield Write(etc / "logclf" / "config.yaml", (shipped / "config.yaml").read_text(encoding="utf-8"), keep=True)


def uninstalling(host: Host, *, purge: bool) -> Iterator[Step]:
    """The steps that take the service away; configuration, state and output stay unless `purge`."""
    if host.runs:
        yield host.systemctl("stop", *UNITS, may_fail=True)
    yield host.systemctl("disable", *UNITS, may_fail=True)
    etc = host.root / "etc"
    yield from (Remove(etc / "systemd/system" / name) for name in UNITS)
    yield from (Remove(etc / f"{kind}.d" / "logclf-daemon.conf") for kind in ("sysusers", "tmpfiles"))
    yield Remove(etc / "logrotate.d" / "logclf-daemon")
    if purge:
        yield from (Remove(etc / "systemd/system" / f"{name}.d") for name in UNITS)
        yield from (Remove(host.root / place) for place in (*DISPOSABLE, *KEPT))
    if host.runs:
        yield host.systemctl("daemon-reload")
        yield host.systemctl("reset-failed", *UNITS, may_fail=True)


def unit_text(name: str, command: Path) -> str:
    """A shipped unit file, with the path of the command that is installed here."""
    text = (folder("systemd") / name).read_text(encoding="utf-8")
    path = str(command).replace("%", "%%")
    if any(letter in path for letter in " \t\"'\\"):
        raise LogclfError(f"{path}: a path with spaces or quotes cannot be a service; {WHERE_TO_INSTALL}")
    return text.replace(SHIPPED_COMMAND, path)


def installed() -> bool:
    """Whether the unit is on this host, and systemd runs."""
    there = (Path("/etc/systemd/system") / SERVICE).exists() or Host().packaged is not None
    return there and Path("/run/systemd/system").is_dir()


def service_sandbox() -> Sandbox | None:
    """What the service of this host may write, by its unit and drop-ins; None where there is no such service."""
    if not installed():
        return None
    show = ("systemctl", "show", *(f"--property={name}" for name in SETTINGS), SERVICE)
    return Sandbox.parsed(subprocess.run(show, capture_output=True, text=True, check=False).stdout)


def command_path() -> Path:
    """The `logclf-daemon` that was called, as it was called: a link that an upgrade turns stays a link."""
    called = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).with_name("logclf-daemon")
    found = called if called.name == "logclf-daemon" else beside
    if found.is_file():
        return found
    raise LogclfError(f"{beside}: there is no such command; {WHERE_TO_INSTALL}")


def command_in(host: Host) -> Path:
    """The path of the command for the unit file: as the host that gets the service will see it.

    Raises:
        LogclfError: There is none.
    """
    if host.runs:
        return command_path()
    called = Path(sys.argv[0]).absolute()
    inside = [Path("/") / called.relative_to(host.root)] if called.is_relative_to(host.root) else []
    for place in (*inside, *IN_IMAGES):
        there = host.root / place.relative_to("/")
        if there.exists() or there.is_symlink():  # a link of the image leads somewhere in the image
            return place
    looked = ", ".join(map(str, IN_IMAGES))
    raise LogclfError(f"{host.root}: there is no logclf-daemon in this image ({looked}); install it there first")


def refuse_hidden(command: Path) -> None:
    """The service of an image must see its command; who may read it is the business of whoever builds the image.

    Raises:
        LogclfError: It will not.
    """
    for hidden in HIDDEN:
        if command.is_relative_to(hidden):
            raise LogclfError(f"{command}: {hidden} is hidden from the service; {WHERE_TO_INSTALL}")


def refuse_unreadable(command: Path) -> None:
    """A service of its own user must be able to read and run all of it.

    Raises:
        LogclfError: It cannot; says what to do.
    """
    places = {command, command.resolve(), Path(sys.executable).resolve(), Path(__file__).resolve(), Path(sys.prefix)}
    for place in sorted(places):
        refuse_hidden(place)
        for part in (place, *place.parents):
            if not part.stat().st_mode & (0o001 if part.is_dir() else 0o004):
                raise LogclfError(
                    f"{part}: closed to other users, so the service cannot read it; "
                    f"sudo chmod o+rX {part} (or install it again with umask 022)"
                )


def refuse_without_systemd(host: Host) -> None:
    """Nothing here works without root's rights and a systemd that runs.

    Raises:
        LogclfError: One is missing.
    """
    if os.geteuid() != 0:
        raise LogclfError(f"only root may change the services of this host; run: sudo {command_path()} install-service")
    if host.runs and not Path("/run/systemd/system").is_dir():
        raise ServiceUnavailable(
            "systemd does not run here (a container?); start the daemon with: logclf-daemon run --config FILE"
        )


def carry_out(steps: Sequence[Step]) -> Iterator[str]:
    """Do what is needed, one step after the other, and tell it."""
    for step in steps:
        if step.needed():
            step.do()
            yield str(step)
