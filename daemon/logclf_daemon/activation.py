"""Sockets that systemd holds for us: they listen while we restart, so that nobody is refused."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence

FIRST_FD = 3  # SD_LISTEN_FDS_START
CONTROL = "control"  # FileDescriptorName= of the control socket


class PassedSockets:
    """Listening sockets by their FileDescriptorName; each is taken once."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._sockets = list(sockets)

    @classmethod
    def from_environment(cls) -> PassedSockets:
        """What systemd passed to this process ($LISTEN_FDS); children do not inherit it."""
        pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
        return cls(_received(int(count), names.split(":")) if pid == str(os.getpid()) and count.isdecimal() else ())

    def take(self, listen: str) -> socket.socket | None:
        """The socket that listens at `host:port` or `unix:///path`, if it was passed."""
        return self._taken(lambda _, sock: _listens_at(sock, listen))

    def take_named(self, name: str) -> socket.socket | None:
        """The socket of this name, if it was passed."""
        return self._taken(lambda known, _: known == name)

    def _taken(self, wanted: Callable[[str, socket.socket], bool]) -> socket.socket | None:
        for at, (name, sock) in enumerate(self._sockets):
            if wanted(name, sock):
                del self._sockets[at]
                return sock
        return None

    def close(self) -> list[str]:
        """Close those nobody took; their names and addresses."""
        left = [f"{name} {_address(sock)}".strip() for name, sock in self._sockets]
        for _, sock in self._sockets:
            sock.close()
        self._sockets.clear()
        return left


def _received(count: int, names: Sequence[str]) -> Iterator[tuple[str, socket.socket]]:
    for at, descriptor in enumerate(range(FIRST_FD, FIRST_FD + count)):
        os.set_inheritable(descriptor, False)
        yield names[at] if at < len(names) else "", socket.socket(fileno=descriptor)


def _listens_at(sock: socket.socket, listen: str) -> bool:
    if sock.family == socket.AF_UNIX:
        return listen.startswith("unix://") and _address(sock) == listen.removeprefix("unix://")
    host, _, port = listen.rpartition(":")
    bound = sock.getsockname()
    if not port.isdecimal() or int(port) != bound[1]:
        return False
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(bound[0])
    except ValueError:  # a name; which of its addresses it is, is known to whoever wrote the socket unit
        return host == "localhost" and ipaddress.ip_address(bound[0]).is_loopback


def _address(sock: socket.socket) -> str:
    bound = sock.getsockname()
    return f"{bound[0]}:{bound[1]}" if isinstance(bound, tuple) else str(bound)
