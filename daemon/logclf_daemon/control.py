"""The control socket: one line of JSON asks, one line of JSON answers. Whoever may open the socket may ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

from logclf_daemon.errors import ServiceUnavailable

SOCKET_NAME = "control.sock"
# Where the shipped units have it: passed by logclf-daemon-control.socket, else in the service's own runtime folder.
SYSTEM_SOCKETS = (Path("/run/logclf/control.sock"), Path("/run/logclf-daemon/control.sock"))
SYSTEMD = Path("/run/systemd/system")  # is there where systemd runs the host
MAX_LINE_BYTES = 65_536
ANSWER_SECS = 60.0  # for a reload
LOOK_SECS = 5.0  # for what is answered at once; who does not is halted or far too busy

Answer = dict[str, Any]
Command = Callable[[], Awaitable[Answer]]
Stream = Callable[[Answer], AsyncIterator[Answer]]
"""Given the request, answers as long as the peer listens."""


def socket_path(state: Path) -> Path:
    """Where a daemon with this state folder listens: $RUNTIME_DIRECTORY under systemd, else beside its state."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return (Path(runtime) if runtime else state) / SOCKET_NAME


def system_socket() -> Path | None:
    """Where the daemon of this host answers, if it runs as a service; None: it does not, or not for us."""
    for path in SYSTEM_SOCKETS:
        with contextlib.suppress(OSError):  # a folder that is closed to us
            if path.is_socket():
                return path
    return None


class ControlServer:
    """Answers the named commands once and the named streams until the peer leaves.

    At `path` or on a socket that already listens.
    """

    def __init__(
        self,
        path: Path,
        commands: dict[str, Command],
        sock: socket.socket | None = None,
        *,
        streams: dict[str, Stream] | None = None,
    ) -> None:
        self._path = path
        self._commands = commands
        self._passed = sock
        self._streams = streams or {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, in place of a socket that a crash left behind. Only one daemon has a state folder at a time."""
        if self._passed is not None:
            self._server = await asyncio.start_server(self._talk, sock=self._passed, limit=MAX_LINE_BYTES)
            return
        self._path.unlink(missing_ok=True)
        before = os.umask(0o117)
        try:
            self._server = await asyncio.start_unix_server(self._talk, str(self._path), limit=MAX_LINE_BYTES)
        except OSError as error:
            raise ServiceUnavailable(f"{self._path}: cannot listen: {error.strerror or error}") from error
        finally:
            os.umask(before)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            if self._passed is None:  # else it is systemd's, and the next process listens on it
                with contextlib.suppress(OSError):
                    self._path.unlink()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 5.0)
            if (stream := self._stream(line)) is not None:
                await _stream_to(stream, reader, writer)
                return
            writer.write(json.dumps(await self._answered(line)).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            pass  # a peer that does not ask gets no answer
        finally:
            writer.close()

    def _stream(self, line: bytes) -> AsyncIterator[Answer] | None:
        try:
            request = json.loads(line)
            return self._streams[request["command"]](request)
        except (ValueError, KeyError, TypeError):
            return None

    async def _answered(self, line: bytes) -> Answer:
        try:
            name = json.loads(line)["command"]
            command = self._commands[name]
        except (ValueError, KeyError, TypeError):
            return {"ok": False, "error": f"unknown command; there are: {', '.join([*self._commands, *self._streams])}"}
        return await command()


async def _stream_to(stream: AsyncIterator[Answer], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the peer closes its end."""
    gone = asyncio.ensure_future(reader.read())
    try:
        async for answer in stream:
            if gone.done():
                break
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    finally:
        gone.cancel()
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def follow(
    path: Path, command: str, *, timeout_secs: float = ANSWER_SECS, **request: Any
) -> Generator[Answer, None, None]:
    """What a running daemon streams, until it stops.

    Raises:
        ServiceUnavailable: None listens there.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(timeout_secs)
            peer.connect(str(path))
            peer.sendall(json.dumps({"command": command, **request}).encode() + b"\n")
            with peer.makefile("rb") as reader:
                for line in reader:
                    yield json.loads(line)
    except PermissionError as error:
        raise ServiceUnavailable(f"{path}: permission denied; use sudo, or join the daemon's group") from error
    except TimeoutError as error:
        raise ServiceUnavailable(f"{path}: no answer in {timeout_secs:g} s; {_where_to_look(path)}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ServiceUnavailable(f"{path}: no daemon answers ({why}); {_where_to_look(path)}") from error


def _where_to_look(path: Path) -> str:
    """What to do where nobody answers: a service has its log, and systemd may hold its socket while it is not there."""
    told = "`systemctl status logclf-daemon` and `journalctl -u logclf-daemon` say why"
    if path in SYSTEM_SOCKETS:
        return told
    asked = "is it running, with this state folder?"
    return f"{asked} If it is a service, {told}" if SYSTEMD.is_dir() else asked


def ask(path: Path, command: str, timeout_secs: float = ANSWER_SECS) -> Answer:
    """Ask a running daemon.

    Raises:
        ServiceUnavailable: None listens there, or it does not answer.
    """
    with contextlib.closing(follow(path, command, timeout_secs=timeout_secs)) as answers:
        for answer in answers:
            return answer
    raise ServiceUnavailable(f"{path}: it hung up without an answer. If it does so again: {_where_to_look(path)}")
