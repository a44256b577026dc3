"""Run by the service's own unit inside its sandbox: what it can do there, as JSON in its state folder."""

import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def allowed(deed: Callable[[], object]) -> bool:
    try:
        deed()
    except (OSError, PermissionError, subprocess.SubprocessError):
        return False
    return True


def runs_what_it_wrote() -> None:
    program = Path(os.environ["STATE_DIRECTORY"]) / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    subprocess.run([program], check=True)


def call(number: int, *arguments: object) -> None:
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def keeps_uploads_in_its_cache() -> None:
    with tempfile.NamedTemporaryFile() as file:
        if not Path(file.name).parent.samefile(os.environ["CACHE_DIRECTORY"]):
            raise OSError(file.name)


can: dict[str, Callable[[], object]] = {
    "write /etc": lambda: Path("/etc/logclf/x").write_text("x"),
    "write /usr": lambda: Path("/usr/x").write_text("x"),
    "write /opt": lambda: Path("/opt/x").write_text("x"),
    "write a log": lambda: os.open("/var/log/app/app.log", os.O_WRONLY),
    "see /root": lambda: Path("/root/secret").stat(),
    "read root's keys": lambda: list(Path("/etc/logclf/credentials").iterdir()),
    "run what it wrote": runs_what_it_wrote,
    "make code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "send raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "talk netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "become root": lambda: os.setuid(0),
    "unshare": lambda: call(272, 0x00020000),
    "mount": lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "trace": lambda: call(101, 0, 0, 0, 0),
    "see others": lambda: Path("/proc/1/cmdline").read_bytes(),
    "read a log": lambda: Path("/var/log/app/app.log").read_text(),
    "write its state": lambda: (Path(os.environ["STATE_DIRECTORY"]) / "x").write_text("x"),
    "read its key": lambda: (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "logclf_probe").read_text(),
    "keep an upload in its cache": keeps_uploads_in_its_cache,
    "resolve a name": lambda: socket.getaddrinfo("localhost", 80),
}
found = sorted(name for name, deed in can.items() if allowed(deed))
(Path(os.environ["STATE_DIRECTORY"]) / "probe.json").write_text(json.dumps(found))
sys.exit(0)
