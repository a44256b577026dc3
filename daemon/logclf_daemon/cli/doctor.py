"""`logclf-daemon doctor`: what is wrong with this host, and what to do."""

from __future__ import annotations

import ctypes
import errno
import glob as globbing
import grp
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from logclf_daemon.build import model_of, not_for_own_labels
from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import (
    DEFAULT_PATH,
    SYSTEM_STATE,
    Config,
    closed_service_state,
    located,
    state_directory,
    with_defaults,
    written_files,
)
from logclf_daemon.control import ask, socket_path, system_socket
from logclf_daemon.errors import ConfigError, LogclfError, ServiceUnavailable
from logclf_daemon.http.server import split_listen
from logclf_daemon.installation import SERVICE, installed, service_sandbox
from logclf_daemon.outputs.forward import ForwardOutputOptions, targets_of
from logclf_daemon.registry import INPUTS, OUTPUTS
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.sandbox import Sandbox

READERS = "adm"  # SupplementaryGroups= of the unit
TIME_ERROR = 5
REACH_SECS = 3.0
# Of the shipped configuration: which of them there is depends on the distribution.
ELSEWHERE = frozenset({"/var/log/syslog", "/var/log/messages", "/var/log/secure"})
AS_ROOT = "sudo logclf-daemon doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `warn` is worth knowing; `fail` keeps the daemon from working."""

    state: Literal["ok", "warn", "fail"]
    what: str
    todo: str = ""


@click.command()
@config_option
@click.option("--tail", multiple=True, metavar="GLOB", help="Check these files too.")
def doctor(config_path: Path | None, tail: tuple[str, ...]) -> None:
    """Check files, journal, ports, state folder, rules, model, Ollama and clock. Exit 1 if the daemon could not work.

    \b
    Example:
      logclf-daemon doctor --tail '/var/log/*.log'
    """
    config = with_defaults(base_config(config_path))
    # What root checks, or anyone checks by default, is meant for the service where there is one.
    of_service = os.geteuid() == 0 or config_path in {None, DEFAULT_PATH}
    sandbox = service_sandbox() if of_service else None
    findings = [finding for check in _checks(config, tail, sandbox) for finding in _looked(check)]
    for finding in findings:
        mark = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}[finding.state]
        click.echo(f"{mark}  {finding.what}" + (f"\n      -> {finding.todo}" if finding.todo else ""))
    failures = sum(finding.state == "fail" for finding in findings)
    if failures:
        raise LogclfError(f"{failures} of {len(findings)} checks failed; see above what to do")


def _looked(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check found, as far as this user may look."""
    try:
        yield from check()
    except PermissionError as error:
        yield Finding("warn", f"{error.filename}: closed to this user; nothing is known of it", AS_ROOT)


def _checks(config: Config, tail: tuple[str, ...], sandbox: Sandbox | None) -> list[Callable[[], Iterator[Finding]]]:
    return [
        _service,
        lambda: _files(config, tail, sandbox),
        lambda: _journals(config),
        lambda: _parts(config),
        lambda: _ports(config),
        lambda: _outputs(config),
        lambda: _written(config, sandbox),
        lambda: _state(config, sandbox),
        lambda: _rules(config),
        lambda: _model(config),
        lambda: _ollama(config),
        _clock,
    ]


def _files(config: Config, tail: tuple[str, ...], sandbox: Sandbox | None) -> Iterator[Finding]:
    groups = sandbox.groups if sandbox is not None else frozenset({READERS})
    patterns = list(tail) + [path for options in config.inputs for path in getattr(options, "paths", ())]
    for pattern in patterns:
        paths = [Path(path) for path in globbing.glob(str(pattern), recursive=True)]  # noqa: PTH207  # absolute patterns
        closed = [path for path in paths if path.is_file() and not _readable(path, groups)]
        if not paths and pattern in ELSEWHERE:
            yield Finding("ok", f"files {pattern}: none on this host")
        elif not paths:
            yield Finding(
                "warn", f"files {pattern}: none there now", "they are picked up when they appear; is the path right?"
            )
        elif closed:
            todo = (
                f"let group {READERS} read it: chgrp {READERS} FILE && chmod g+r FILE, or setfacl -m g:{READERS}:r FILE"
            )
            yield Finding(
                "fail", f"files {pattern}: {len(closed)} of {len(paths)} cannot be read, such as {closed[0]}", todo
            )
        else:
            yield Finding("ok", f"files {pattern}: {len(paths)} readable")


def _journals(config: Config) -> Iterator[Finding]:
    from logclf_daemon.inputs.journald import JournaldInputOptions, trouble_with

    for options in config.inputs:
        if not isinstance(options, JournaldInputOptions):
            continue
        name = f"journal {options.directory or 'of this host'}"
        trouble = trouble_with(options)
        if trouble is None:
            yield Finding("ok", f"{name}: readable")
        else:
            yield Finding(
                "fail", f"{name}: {trouble}", "add the daemon's user to the group systemd-journal (Debian: or adm)"
            )


def _service() -> Iterator[Finding]:
    """Whether systemd runs it, where it is installed as a service."""
    if not installed():
        return
    show = ("systemctl", "show", "-P", "ActiveState", SERVICE)
    state = subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()
    if state == "active":
        yield Finding("ok", "service: active")
    else:
        yield Finding("warn", f"service: {state}", f"journalctl -u {SERVICE} -n 20; systemctl start {SERVICE}")


def _readable(path: Path, groups: frozenset[str]) -> bool:
    """Whether the daemon may read it: as this user or, where root asks for the service, as that with its groups."""
    if os.geteuid() != 0 or not installed():
        return os.access(path, os.R_OK)
    # Each folder on the way must be open, by the name that is asked for and by the one it leads to.
    folders = {*path.absolute().parents, *path.resolve().parents}
    return _open_to(groups, path, "r") and all(_open_to(groups, folder, "x") for folder in folders)


def _open_to(groups: frozenset[str], path: Path, right: Literal["r", "x"]) -> bool:
    """Whether everybody or one of these groups may read a file or go through a folder; an access list may say so."""
    everybody, its_group = {"r": (stat.S_IROTH, stat.S_IRGRP), "x": (stat.S_IXOTH, stat.S_IXGRP)}[right]
    status = path.stat()
    if status.st_mode & everybody or "system.posix_acl_access" in os.listxattr(path):
        return True
    try:
        return bool(status.st_mode & its_group) and grp.getgrgid(status.st_gid).gr_name in groups
    except KeyError:
        return False


def _answers(config: Config) -> bool:
    """Whether a daemon of ours runs with this configuration, or as this host's service."""
    with suppress(LogclfError):
        path = system_socket() or socket_path(state_directory(config.state))
        return bool(ask(path, "status", timeout_secs=3.0)["ok"])
    return False


def _closed_control() -> bool:
    """Whether a service of ours has a control socket that this user may not open."""
    path = system_socket()
    return path is not None and not os.access(path, os.R_OK | os.W_OK)


def _parts(config: Config) -> Iterator[Finding]:
    """What is wrong with the options of inputs, outputs and HTTP beyond what reading them shows."""
    for section, kinds, options in (("inputs", INPUTS, config.inputs), ("outputs", OUTPUTS, config.outputs)):
        for at, option in enumerate(options):
            kind = kinds[option.type]  # type: ignore[attr-defined]  # every member of the union has it
            try:
                with located(config, section, at):
                    kind.create(option, f"{section}.{at}", dict.fromkeys(kind.needs))
            except LogclfError as error:
                yield Finding("fail", str(error), "logclf-daemon config check")
    if config.http.listen is not None:
        try:
            with located(config):
                split_listen(config.http)
        except LogclfError as error:
            yield Finding("fail", str(error), "logclf-daemon config check")


def _outputs(config: Config) -> Iterator[Finding]:
    for options in config.outputs:
        if isinstance(options, ForwardOutputOptions):
            for target in targets_of(options.address):
                yield _reached(str(target), (target.host, target.port) if target.path is None else target.path)


def _written(config: Config, sandbox: Sandbox | None) -> Iterator[Finding]:
    """Whether the folders of files it writes can be written: by the service, where it is meant, else by this user."""
    for option, path in written_files(config):
        name = f"{'output' if option[0] == 'outputs' else 'dead letter'} {path}"
        place = path.absolute().parent
        if sandbox is not None and sandbox.owns(place):
            yield Finding("ok", f"{name}: {place} is a folder of the service")
        elif sandbox is None and os.access(place, os.W_OK | os.X_OK):
            yield Finding("ok", f"{name}: its folder is writable")
        elif not place.is_dir():
            yield Finding("fail", f"{name}: {place} is not there", "create it for the daemon's user")
        elif sandbox is None:
            yield Finding("fail", f"{name}: {place} cannot be written", "create it for the daemon's user")
        elif refusal := sandbox.refusal(place):
            yield _refused(f"{name}: {place}", refusal)
        else:
            yield Finding("ok", f"{name}: {place} is writable for the service")


def _refused(name: str, refusal: str) -> Finding:
    what, _, todo = refusal.partition("; ")
    return Finding("fail", f"{name} is {what}", todo)


def _reached(name: str, where: tuple[str, int] | str) -> Finding:
    try:
        if not isinstance(where, str):
            socket.create_connection(where, timeout=REACH_SECS).close()
        else:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(REACH_SECS)
                probe.connect(where)
    except OSError as error:
        todo = "start it or correct the address; until then nothing is lost: lines wait at their source"
        return Finding("warn", f"output {name}: nothing answers: {error.strerror or error}", todo)
    return Finding("ok", f"output {name}: answers")


def _ports(config: Config) -> Iterator[Finding]:
    for listen in (*(getattr(options, "listen", "") for options in config.inputs), config.http.listen):
        host, _, port = str(listen).rpartition(":")
        if not port.isdigit():
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), int(port)))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and _answers(config):
                    yield Finding("ok", f"port {listen}: in use by the daemon that runs")
                    continue
                if error.errno == errno.EADDRINUSE and _closed_control():
                    yield Finding(
                        "warn", f"port {listen}: in use; this user may not ask whether by the daemon", AS_ROOT
                    )
                    continue
                todo = f"find who has it with: ss -ltnp 'sport = :{port}'; stop that, or set another `listen`"
                yield Finding("fail", f"port {listen}: {error.strerror}", todo)
            else:
                yield Finding("ok", f"port {listen}: free")


def _state(config: Config, sandbox: Sandbox | None) -> Iterator[Finding]:
    named = config.state.directory
    if sandbox is not None and named is None and closed_service_state():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(SYSTEM_STATE))
    if sandbox is not None and named is not None and named.is_dir() and (refusal := sandbox.refusal(named)):
        yield _refused(f"state {named}", refusal)
        return
    try:
        directory = state_directory(config.state)
    except ConfigError as error:
        yield Finding("fail", f"state: {str(error).removeprefix('state.')}", "create it for the daemon's user")
        return
    free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    if free < 100 << 20:
        yield Finding(
            "warn", f"state {directory}: {_amount(free)} free", "make room: offsets cannot be kept on a full disk"
        )
    else:
        yield Finding("ok", f"state {directory}: writable, {_amount(free)} free")


def _amount(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _rules(config: Config) -> Iterator[Finding]:
    from logclf_daemon.stages.rules import load_rules

    try:
        with located(config):
            rules = load_rules(config.rules, config.taxonomy, folder("rules"), cache_directory())
    except ConfigError as error:
        yield Finding("fail", f"rules: {str(error).splitlines()[0]}", "logclf-daemon rules check")
    else:
        yield Finding("ok", f"rules: {len(rules)} compiled, their examples hold")
        if config.rules.builtin and not_for_own_labels(config):
            shipped = sum(rule.shipped for rule in rules.rules)
            yield Finding(
                "warn",
                f"rules: {shipped} of them are shipped; the others that ship are for labels you replaced",
                "write rules for your labels into a folder of rules.paths, or set rules.builtin: false",
            )


def _model(config: Config) -> Iterator[Finding]:
    if not config.model.enabled:
        yield Finding("warn", "model: switched off", "set model.enabled: true to use it")
        return
    started = time.perf_counter()
    try:
        with located(config):
            model = model_of(config)
    except LogclfError as error:
        yield Finding("fail", f"model: {error}", "do what it says, or go on without: model.enabled: false")
        return
    if model is None:
        todo = "train one that does (logclf-train fit), or set model.enabled: false"
        yield Finding("warn", "model: the shipped one does not know your labels and is not used", todo)
        return
    secs = time.perf_counter() - started
    yield Finding("ok", f"model {model.path.name} {model.digest[:8]}: loaded in {secs:.2f} s")


def _ollama(config: Config) -> Iterator[Finding]:
    from logclf_daemon.stages.llm import reachable_models

    if config.llm.enabled is False:
        yield Finding("ok", "Ollama: switched off")
        return
    try:
        with located(config):
            models = reachable_models(config.llm)
    except ConfigError as error:
        yield Finding("fail", str(error), "logclf-daemon config check")
        return
    except ServiceUnavailable as error:
        if config.llm.enabled is True:
            yield Finding("fail", f"Ollama: {error}", "start it (ollama serve), or say llm.enabled: auto or false")
        else:
            yield Finding("warn", f"Ollama: {error}", "fine without; else start it (ollama serve) or correct llm.url")
        return
    if not {config.llm.model, f"{config.llm.model}:latest"} & set(models):
        yield Finding("warn", f"Ollama: has no model {config.llm.model}", f"ollama pull {config.llm.model}")
    else:
        yield Finding("ok", f"Ollama: {config.llm.model} is there")


def _clock() -> Iterator[Finding]:
    # Nothing of ours was made before this version; a clock that says so gives records a wrong time.
    if time.time() < 1_760_000_000:
        yield Finding("warn", f"clock: says {time.strftime('%Y-%m-%d %H:%M')}", "start an NTP client")
    elif not _synchronized():
        yield Finding("warn", "clock: not synchronized", "timedatectl set-ntp true (or start chrony or ntpd)")
    else:
        yield Finding("ok", f"clock: {time.strftime('%Y-%m-%d %H:%M %Z')}, synchronized")


def _synchronized() -> bool:
    """Whether the kernel says that something keeps its clock right (adjtimex(2): TIME_ERROR if not)."""
    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) != TIME_ERROR)
