"""Listening sockets of the forward input: TCP and unix, from the text of `listen`."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path
from typing import Any

from logclf_daemon.errors import ConfigError, ServiceUnavailable

UNIX = "unix://"
BACKLOG = 1024


def split_address(listen: str) -> tuple[str, int]:
    """Host and port; for a unix socket its path and 0.

    Raises:
        ValueError: It is neither.
    """
    if listen.startswith(UNIX):
        path = listen.removeprefix(UNIX)
        if not path.startswith("/"):
            raise ValueError(f"'{listen}': the path of a unix socket must be absolute: unix:///run/logclf/forward.sock")
        return path, 0
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"'{listen}' is no address; write host:port, such as 127.0.0.1:24224, or unix:///path")
    return host.removeprefix("[").removesuffix("]"), int(port)


def resolve(host: str, port: int, name: str) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """The addresses of a host, IPv4 first."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"{name}: listen: no such host '{host}': {error.strerror}") from error
    return sorted(((info[0], info[4]) for info in infos), key=lambda found: found[0] != socket.AF_INET)


def listen_tcp(family: socket.AddressFamily, where: tuple[Any, ...], listen: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        remedy = "set another `listen`"
        if error.errno == errno.EADDRINUSE:
            remedy = f"stop what uses port {where[1]} (`ss -ltnp` shows it) or {remedy}"
        elif error.errno in {errno.EPERM, errno.EACCES}:
            remedy = "under systemd, name it in ListenStream= of logclf-daemon-forward.socket or in SocketBindAllow="
        raise ServiceUnavailable(f"cannot listen on {listen}: {error.strerror}; {remedy}") from error
    return listener


def keep_alive(sock: socket.socket) -> None:
    """Notice within minutes a peer that is gone without a word, or it would take the place of another for ever."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, count in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), count)


def listen_unix(path: Path) -> socket.socket:
    """Listen at the path; a socket nobody answers on is left over from a crash and replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_abandoned(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)  # before listen: nobody gets in earlier
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServiceUnavailable(
            f"cannot listen on {path}: {error.strerror or error}; stop what uses it, or check its folder"
        ) from error
    return listener


def _is_abandoned(path: Path) -> bool:
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
