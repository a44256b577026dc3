"""Listens and serves the app in the loop it is started in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from logclf_daemon.config import HttpOptions
from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.events import Bug, HttpListens, emit

KEY = ("http", "listen")
KEEP_ALIVE_SECS = 75  # between two requests: Prometheus comes back on its connection after a minute or less
STOP_SECS = 2
TICK_SECS = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How many connections there may be, and how long a client is waited for."""

    connections: int = 256
    head_secs: float = 10.0  # until a request has come as far as its body; what is later: `bodies.py`
    take_secs: float = 60.0  # until it takes more of an answer


class HttpServer:
    """`create` makes the ASGI app; it is imported while records already flow, for it takes half a second.

    Raises:
        ConfigError: From `open`: no address, or one that needs a token and has none.
    """

    def __init__(self, options: HttpOptions, create: Callable[[], Any], patience: Patience | None = None) -> None:
        self._options = options
        self._patience = patience or Patience()
        self._create = create
        self._socket: socket.socket | None = None
        self._server: Any = None
        self._stopping = asyncio.Event()
        self.port = 0

    def open(self) -> None:
        """Take the port, so that a mistake is known before the daemon says that it is ready.

        Raises:
            ServiceUnavailable: The port is taken.
        """
        host, port = split_listen(self._options)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise ServiceUnavailable(
                f"http.listen: cannot listen on {self._options.listen}: {error.strerror or error}; set another"
            ) from error
        self._socket = listener
        self.port = listener.getsockname()[1]

    async def serve(self) -> None:
        """Answer until `stop`. A bug in here is told and never ends the daemon."""
        assert self._socket is not None
        try:
            app = await asyncio.to_thread(self._made)
            if self._stopping.is_set():
                return  # it was asked to stop before it could answer
            self._server = _server(app, self._stopping, self._patience)
            emit(HttpListens(url=f"http://{self._options.listen}".replace(":0", f":{self.port}")))
            await self._server.serve(sockets=[self._socket])
        except ConfigError:
            raise
        except Exception as error:
            emit(Bug(where="http", error=repr(error)))

    def _made(self) -> Any:
        app = self._create()
        asyncio.run(_asked_once(app))
        return app

    def stop(self) -> None:
        """Answer what was asked, take no more."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def split_listen(options: HttpOptions) -> tuple[str, int]:
    """Host and port of `listen`.

    Raises:
        ConfigError: It is no address, or others could come in without a token.
    """
    listen = options.listen or ""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{listen!r} is no address; write host:port, such as 127.0.0.1:24280", KEY)
    if not is_loopback(host) and options.token is None:
        raise ConfigError(f"{host} is not loopback; set http.token, such as file:/etc/logclf/token", KEY)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can come in there."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


async def _asked_once(app: Any) -> None:
    """FastAPI builds each route when it is first passed by: a tenth of a second that no scrape shall wait for."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Any) -> None:
        pass

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
    }
    scope |= {"headers": [(b"host", b"localhost")], "query_string": b"", "root_path": "", "client": None}
    for path in ("/healthz", "/redoc"):
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


def _server(app: Any, stopping: asyncio.Event, patience: Patience) -> Any:
    import uvicorn

    from logclf_daemon.http.connection import Connection

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they belong to whoever runs the loop

        async def main_loop(self) -> None:
            # uvicorn would look ten times a second whether it shall stop; its `Date` needs one look.
            while not await self.on_tick(0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), TICK_SECS)

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        http=partial(Connection, patience),  # type: ignore[arg-type]
        timeout_keep_alive=KEEP_ALIVE_SECS,
        timeout_graceful_shutdown=STOP_SECS,
    )
    return Server(config)
