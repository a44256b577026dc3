"""One connection to a forward server: fluent-logger's sender, taught to wait for acknowledgements.

`emit` of the base class loses data whenever its server restarts; nothing here goes through it. What is used of it are
the hooks `_reconnect`, `_check_recv_side`, `_send_data` and `_close`, which all its releases since 0.9 have.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any

import msgpack
from fluent.sender import FluentSender
from msgpack.exceptions import OutOfData

from logclf_daemon.errors import OutputUnavailable
from logclf_daemon.failpoint import reached
from logclf_daemon.handshake import ClientLogin, LoginRefused
from logclf_daemon.outputs._forward.packing import Packet
from logclf_daemon.outputs._forward.targets import Target
from logclf_daemon.sandbox import silence_hint

_PROTOCOL_ERRORS = (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException)
READ_BYTES = 65_536
MAX_ANSWER_BYTES = 65_536


class _Talk(Exception):
    """The server said something that cannot be right."""


class ForwardSender(FluentSender):  # type: ignore[misc]  # fluent-logger has no types
    """Sends packets and returns when they are acknowledged. Blocking: one thread at a time, one connection."""

    socket: Any  # of the base class, which has no types

    def __init__(
        self,
        target: Target,
        *,
        login: ClientLogin | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        connect_timeout_secs: float = 5.0,
        ack_timeout_secs: float = 30.0,
    ) -> None:
        super().__init__(
            "", host=target.host, port=target.port, timeout=connect_timeout_secs, forward_packet_error=False
        )
        self._target = target
        self._login = login
        self._tls = tls
        self._server_name = server_name or target.host
        self._ack_timeout_secs = ack_timeout_secs
        self._unpacker = _new_unpacker()
        self._aborted = False

    def send_batch(self, packets: list[Packet]) -> None:
        """Send all packets, each acknowledged before the next one goes. Those that are safe leave the list.

        Raises:
            OutputUnavailable: The first of the rest may have arrived or not; send the rest again.
        """
        with self.lock:
            if self._closed:
                raise OutputUnavailable(f"{self._target}: closed")
            try:
                while packets:
                    self._send_data(packets[0].message)
                    reached("sent")
                    if packets[0].chunk is not None:
                        self._await_ack(packets[0].chunk)
                    reached("acked")
                    del packets[0]
            except (OSError, LoginRefused, _Talk, *_PROTOCOL_ERRORS) as error:
                # Whatever answer still comes on this connection would be taken for that to the next chunk.
                self.last_error = error
                self._close()
                raise OutputUnavailable(f"{self._target}: {_words(error)}") from error

    def abort(self) -> None:
        """From another thread: end a send that waits, for good. The connection is cut."""
        self._aborted = True
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    # --- the hooks of the base class --------------------------------------------------------------------------------

    def _send_data(self, bytes_: bytes) -> None:
        if self.socket is not None:
            self._check_recv_side()
        self._reconnect()
        if self._aborted:
            raise ConnectionError("stopped")
        self.socket.settimeout(self._ack_timeout_secs)  # for the whole message: a peer that stalls is away
        self.socket.sendall(bytes_)

    def _check_recv_side(self) -> None:
        """Notice a server that closed an idle connection, before data goes there. What it answered is kept."""
        self.socket.settimeout(0.0)
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if data:
            self._unpacker.feed(data)
        else:
            self._close()

    def _reconnect(self) -> None:
        if self.socket is not None:
            return
        deadline = time.monotonic() + self.timeout
        sock = self._connect()
        try:
            if self._tls is not None:
                sock.settimeout(_left(deadline))
                sock = self._tls.wrap_socket(sock, server_hostname=self._server_name)
            self._unpacker = _new_unpacker()
            if self._login is not None:
                self._log_in(sock, self._login, deadline)
        except BaseException:
            sock.close()
            raise
        self.socket = sock

    def _connect(self) -> socket.socket:
        if self._target.path is None:
            try:
                sock = socket.create_connection((self._target.host, self._target.port), self.timeout)
            except TimeoutError as error:
                raise TimeoutError(f"no connection within {self.timeout:g} s{silence_hint()}") from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._target.path)
        except BaseException:
            sock.close()
            raise
        return sock

    # --- what the server says ---------------------------------------------------------------------------------------

    def _log_in(self, sock: socket.socket, login: ClientLogin, deadline: float) -> None:
        """HELO, PING, PONG; no data goes before the server proved itself."""
        try:
            helo = self._next_answer(sock, deadline)
        except TimeoutError as error:
            raise _Talk("no HELO came; is shared_key set there too, and TLS on both sides or on none?") from error
        ping, proof = login.ping(helo)
        sock.settimeout(_left(deadline))
        try:
            sock.sendall(ping)
            pong = self._next_answer(sock, deadline)
        except ConnectionError as error:
            raise LoginRefused("it closed the connection without a word, as Fluent Bit does at a wrong key") from error
        proof.check(pong)

    def _await_ack(self, chunk: bytes) -> None:
        """Wait for the acknowledgement of this chunk; those of others are late ones and mean nothing."""
        deadline = time.monotonic() + self._ack_timeout_secs
        while True:
            try:
                answer = self._next_answer(self.socket, deadline)
            except TimeoutError as error:
                raise TimeoutError(f"no acknowledgement within {self._ack_timeout_secs:g} s") from error
            if isinstance(answer, list) and answer[:1] == [b"HELO"]:
                raise _Talk("it asks for a login; set shared_key")
            if not isinstance(answer, dict):
                raise _Talk("it sent something that is no acknowledgement")
            if answer.get(b"ack") == chunk:
                return

    def _next_answer(self, sock: socket.socket, deadline: float) -> object:
        while True:
            try:
                return self._unpacker.unpack()
            except OutOfData:
                sock.settimeout(_left(deadline))
                data = sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("it closed the connection before it answered") from None
                self._unpacker.feed(data)


def _new_unpacker() -> msgpack.Unpacker:
    return msgpack.Unpacker(
        raw=True, strict_map_key=False, max_buffer_size=2 * MAX_ANSWER_BYTES, max_array_len=64, max_map_len=64
    )


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _words(error: BaseException) -> str:
    """What happened, and what to look at where a person is needed."""
    if isinstance(error, LoginRefused):
        return f"login refused: {error}; check shared_key, username and password on both sides"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; check tls.ca and tls.server_name"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}; does it speak TLS on this port, and with this version?"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, _Talk):
        return str(error)
    return f"it does not speak the forward protocol: {error}"
