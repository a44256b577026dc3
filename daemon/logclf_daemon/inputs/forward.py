"""The forward input: a forward protocol v1 server for Fluent Bit, fluentd and their libraries.

It acknowledges a chunk when every output has it, not when it was read: that is stricter than both reference servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from logclf_daemon.activation import PassedSockets
from logclf_daemon.descriptors import fair_share
from logclf_daemon.errors import ConfigError
from logclf_daemon.handshake import RandomBytes, ServerLogin, default_hostname
from logclf_daemon.inputs._forward.connection import Connection
from logclf_daemon.inputs._forward.dedup import Window
from logclf_daemon.inputs._forward.server import Limits, Server
from logclf_daemon.inputs._forward.sockets import UNIX, keep_alive, listen_tcp, listen_unix, resolve, split_address
from logclf_daemon.pem import load_authorities, load_certificate
from logclf_daemon.protocols import Emit

ACCEPT_PAUSE_SECS = 1.0  # when no file descriptor is free and none becomes free
CLOSE_SECS = 2.0  # for the last acknowledgements to leave

Bytes = Annotated[int, Field(ge=1024)]
Seconds = Annotated[float, Field(gt=0)]


class ForwardInputTls(BaseModel):
    """TLS of the listening side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: Path = Field(description="File with the server's certificate and its chain (PEM).")
    key: Path = Field(description="File with the server's private key (PEM).")
    client_ca: Path | None = Field(
        default=None, description="File with the CA whose client certificates are demanded (PEM); none: no demand."
    )


class ForwardInputOptions(BaseModel):
    """Options of the forward input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["forward"] = "forward"
    listen: str = Field(
        default="127.0.0.1:24224",
        description="`host:port` or `unix:///path`. Off loopback it needs a shared key or client certificates.",
    )
    shared_key: SecretStr | None = Field(
        default=None,
        description="Key that senders must know (Fluent Bit `shared_key`, fluentd `<security>`).",
    )
    users: dict[str, SecretStr] = Field(
        default_factory=dict, description="User names and passwords, demanded besides the shared key."
    )
    self_hostname: str | None = Field(
        default=None,
        description="Name in the handshake; must differ from the senders'. Default: `logclf-daemon.` + host name.",
    )
    tls: ForwardInputTls | None = Field(default=None, description="Certificate and key; none: no TLS.")
    max_frame_bytes: Bytes = Field(default=16 << 20, description="Longest message; a longer one ends its connection.")
    max_inflated_bytes: Bytes = Field(
        default=32 << 20, description="Most that a compressed chunk may hold; a larger one ends its connection."
    )
    max_held_bytes: Bytes = Field(
        default=16 << 20,
        description="Most that is received and not yet handed on, all connections together; then reading pauses.",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        description="More senders than these are turned away; at most half of what the process may open.",
    )
    handshake_timeout_secs: Seconds = Field(default=10.0, description="Time for TLS and for the shared key handshake.")
    frame_timeout_secs: Seconds = Field(
        default=30.0, description="Time for a message once begun, plus one second for each 64 KiB of it."
    )
    dedup_window: int = Field(
        default=10_000, ge=0, description="Chunks remembered to answer repetitions without a second delivery; 0: none."
    )
    signals: Literal["pass", "refuse"] = Field(
        default="pass", description="Metrics and traces: `pass` them on as they came, or `refuse` them."
    )

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, listen: str) -> str:
        split_address(listen)
        return listen


class ForwardInput:
    """Listens, accepts, and keeps the connections within their limits.

    Of the `sockets` that systemd passed the one that listens at `listen` is taken, or `sock`. `clock` times deadlines,
    `sweep_secs` is how often they are looked at.
    """

    def __init__(
        self,
        options: ForwardInputOptions,
        name: str = "forward",
        *,
        sock: socket.socket | None = None,
        sockets: PassedSockets | None = None,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: RandomBytes = os.urandom,
        sweep_secs: float = 1.0,
    ) -> None:
        self.name = name
        self._options = options
        self._listener = sock if sock is not None or sockets is None else sockets.take(options.listen)
        self._activated = self._listener is not None
        if not self._activated and (literal := _literal_host(options.listen)) is not None:
            self._demand_protection([literal])  # before anything starts, and in `config check`
        self._sweep_secs = sweep_secs
        self._most = fair_share(options.max_connections)
        self._tls = _server_context(options.tls) if options.tls else None
        self._server = Server(
            name,
            Window(options.dedup_window),
            Limits(
                options.max_frame_bytes,
                options.max_inflated_bytes,
                max(options.max_held_bytes, options.max_frame_bytes),
                options.handshake_timeout_secs,
                options.frame_timeout_secs,
            ),
            _login(options),
            options.signals == "refuse",
            clock,
            random_bytes,
        )
        self._stopped = asyncio.Event()
        self._admitting: set[asyncio.Task[None]] = set()
        self._fresh: set[socket.socket] = set()  # accepted, and nobody's yet

    @property
    def address(self) -> tuple[str, int]:
        """The bound host and port; the path and 0 of a unix socket."""
        assert self._listener is not None
        bound = self._listener.getsockname()
        return (bound[0], bound[1]) if isinstance(bound, tuple) else (str(bound), 0)

    async def open(self) -> None:
        if self._listener is None:
            host, port = split_address(self._options.listen)
            if self._options.listen.startswith(UNIX):
                self._listener = listen_unix(Path(host))
            else:
                found = await asyncio.to_thread(resolve, host, port, self.name)
                self._demand_protection([str(where[0]) for _, where in found])
                self._listener = listen_tcp(*found[0], self._options.listen)
        elif self._listener.family != socket.AF_UNIX:
            self._demand_protection([self._listener.getsockname()[0]])
        self._listener.setblocking(False)

    def _demand_protection(self, hosts: list[str]) -> None:
        """Off loopback anybody could write into the logs."""
        protected = bool(self._options.shared_key and self._options.shared_key.get_secret_value())
        protected = protected or bool(self._options.tls and self._options.tls.client_ca)
        if not protected and not all(ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts):
            raise ConfigError(
                f"{self._options.listen} can be reached from other hosts; set shared_key or tls.client_ca, or listen "
                "on 127.0.0.1",
                ("listen",),
            )

    async def run(self, emit: Emit) -> None:
        self._server.emit = emit
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._accept()), loop.create_task(self._sweep())]
        stopped = loop.create_task(self._stopped.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            for task in (*tasks, stopped, *self._admitting):
                task.cancel()
            await asyncio.gather(*tasks, stopped, *self._admitting, return_exceptions=True)
            self._close_listener()
            for sock in self._fresh:
                sock.close()
        for task in done:
            task.result()  # a bug in accepting must not look like an orderly end
        # What was read whole and has no chunk id would be lost with us: it is still emitted.
        while self._server.tasks:
            await asyncio.wait(self._server.tasks)

    def stop(self) -> None:
        self._server.stopping = True
        self._stopped.set()
        for connection in self._server.peers:
            connection.stop_reading()

    async def close(self) -> None:
        self.stop()
        self._close_listener()
        if self._server.tasks:
            # What waited for room in the pipeline is refused by now: it still has to be counted.
            await asyncio.wait(self._server.tasks, timeout=CLOSE_SECS)
        for task in list(self._server.tasks):
            task.cancel()
        if self._server.tasks:
            await asyncio.wait(self._server.tasks)
        connections = list(self._server.peers)
        for connection in connections:
            connection.close()
        ended = [asyncio.ensure_future(connection.ended.wait()) for connection in connections]
        if ended:
            _, late = await asyncio.wait(ended, timeout=CLOSE_SECS)
            if late:
                for connection in connections:
                    connection.abort()
                await asyncio.wait(late)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        path = listener.getsockname() if listener.family == socket.AF_UNIX and not self._activated else None
        listener.close()
        if path:
            with contextlib.suppress(OSError):
                Path(path).unlink()

    # --- accepting --------------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        """Accept for ever. Without a free file descriptor it waits for one instead of spinning."""
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                self._server.trouble("accept_failed", self._options.listen, str(error))
                self._server.freed.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._server.freed.wait(), ACCEPT_PAUSE_SECS)
                continue
            if len(self._server.peers) + len(self._admitting) >= self._most:
                sock.close()
                limit = f"there are {self._most}"
                self._server.trouble("too_many_connections", self._options.listen, limit)
                continue
            self._fresh.add(sock)
            task = loop.create_task(self._admit(sock))
            self._admitting.add(task)
            task.add_done_callback(self._admitting.discard)

    async def _admit(self, sock: socket.socket) -> None:
        """Start a connection, after its TLS handshake if there is one to make."""
        self._fresh.discard(sock)
        timeout = self._options.handshake_timeout_secs if self._tls else None
        try:
            keep_alive(sock)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self._server), sock, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError as error:  # ssl.SSLError and the handshake's timeout are OSErrors too
            sock.close()
            self._server.trouble("tls_handshake", self._options.listen, str(error) or type(error).__name__)
            self._server.freed.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_secs)
            self._server.check()


def _literal_host(listen: str) -> str | None:
    """The IP address in it; None where there is a name, or a unix socket."""
    host, _ = split_address(listen)
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host.partition("%")[0]))
    return None


def _login(options: ForwardInputOptions) -> ServerLogin | None:
    if options.shared_key is None:
        if options.users:
            raise ConfigError("the protocol has no login without a shared_key; set one", ("users",))
        return None
    users = {user.encode(): secret.get_secret_value().encode() for user, secret in options.users.items()}
    hostname = options.self_hostname.encode() if options.self_hostname else default_hostname()
    return ServerLogin(hostname, options.shared_key.get_secret_value().encode(), users)


def _server_context(tls: ForwardInputTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, tls.cert, tls.key)
    if tls.client_ca is not None:
        load_authorities(context, tls.client_ca, ("tls", "client_ca"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
