"""A forward server for tests: plain sockets in threads, scripted answers, everything it got is kept."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import msgpack

Step = Literal["ack", "none", "wrong", "split", "late", "close", "stall", "garbage", "twice"]
"""What to do with a chunk: acknowledge it · say nothing · acknowledge another one · byte by byte · only after the next
chunk came · close without a word · read no further · answer with something else · together with that of another one."""

DEADLINE_SECS = 45.0
NONCE = b"n" * 16
SALT = b"s" * 16


@dataclass(slots=True)
class Message:
    """One message as it came; text is bytes."""

    tag: bytes
    entries: list[Any]
    options: dict[bytes, Any]
    connection: int
    raw: bytes = b""


@dataclass(slots=True)
class Login:
    """What the sink demands and how it answers: `pong` replaces its answer, `helo` False says nothing at all."""

    key: str
    users: dict[str, str] = field(default_factory=dict)
    hostname: str = "sink"
    pong: list[Any] | None = None
    helo: bool = True


class ForwardSink:
    """Listens on loopback; each chunk takes one step of the script, then `ack` for ever.

    with ForwardSink(["close", "ack"]) as sink: … sink.address … sink.records(10)
    """

    def __init__(
        self,
        script: Iterable[Step] = (),
        *,
        host: str = "127.0.0.1",
        path: str | None = None,
        port: int = 0,
        login: Login | None = None,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.script = deque(script)
        self.messages: list[Message] = []
        self.received = bytearray()  # every byte of every connection that came after the login
        self.connections = 0
        self.logins: list[Any] = []
        self._login = login
        self._tls = tls
        self._owed: list[Any] = []  # chunks whose acknowledgement is late
        self._lock = threading.Condition()
        self._stopping = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(path)
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.listen()
        self._path = path
        self._host = host
        self.port: int = 0 if path is not None else self._listener.getsockname()[1]

    @property
    def address(self) -> str:
        """For the option `address` of the output."""
        if self._path is not None:
            return f"forward+unix://{self._path}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"forward+tls://{host}:{self.port}" if self._tls else f"{host}:{self.port}"

    # --- what came --------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[tuple[bytes, Any]]:
        """Tag and record of everything that came, repetitions too."""
        with self._lock:
            return [(message.tag, entry[1]) for message in self.messages for entry in message.entries]

    @property
    def chunks(self) -> list[bytes]:
        """The chunk ids in the order they came, repetitions too."""
        with self._lock:
            return [message.options[b"chunk"] for message in self.messages if b"chunk" in message.options]

    def once(self) -> list[tuple[bytes, Any]]:
        """Tag and record of everything, each chunk id once: what a receiver that drops repetitions has."""
        seen: set[bytes] = set()
        found = []
        with self._lock:
            for message in self.messages:
                chunk = message.options.get(b"chunk")
                if chunk is None or chunk not in seen:
                    found += [(message.tag, entry[1]) for entry in message.entries]
                if chunk is not None:
                    seen.add(chunk)
        return found

    def wait_for(self, condition: Callable[[ForwardSink], bool]) -> None:
        """Return when the condition holds; a test that waits in vain fails."""
        deadline = time.monotonic() + DEADLINE_SECS
        while not condition(self):
            with self._lock:
                left = deadline - time.monotonic()
                assert left > 0, "the sink waited in vain"
                self._lock.wait(min(left, 0.05))

    def records(self, count: int) -> list[tuple[bytes, Any]]:
        """Wait for so many records, then all that came."""
        self.wait_for(lambda sink: len(sink.entries) >= count)
        return self.entries

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> ForwardSink:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything; returns when all threads have ended."""
        self._stopping.set()
        self._cut(self._listener)
        self.cut_connections()
        for thread in list(self._threads):
            thread.join(DEADLINE_SECS)
            assert not thread.is_alive(), "a thread of the sink did not end"
        self._listener.close()

    def cut_connections(self) -> None:
        """Close all connections, as a restart would."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            self._cut(sock)

    def _cut(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # its end came first
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="forward-sink")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._sockets.add(sock)
                self._lock.notify_all()
            self._start(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        secured = sock
        try:
            sock.settimeout(DEADLINE_SECS)
            if self._tls is not None:
                secured = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._sockets.discard(sock)
                    self._sockets.add(secured)
            if self._login is None or self._log_in(secured, self._login):
                self._converse(secured, number)
        except OSError:
            pass  # the other side went away, which is what many tests are about
        finally:
            with self._lock:
                self._sockets.discard(sock)
                self._sockets.discard(secured)
                self._lock.notify_all()
            secured.close()
            sock.close()

    # --- what is said -----------------------------------------------------------------------------------------------

    def _log_in(self, sock: socket.socket, login: Login) -> bool:
        if not login.helo:
            return sock.recv(1) != b""
        auth = SALT if login.users else b""
        sock.sendall(msgpack.packb(["HELO", {"nonce": NONCE, "auth": auth, "keepalive": True}]))
        unpacker = msgpack.Unpacker(raw=True)
        while True:
            data = sock.recv(65536)
            if not data:
                return False
            unpacker.feed(data)
            try:
                ping = unpacker.unpack()
                break
            except msgpack.OutOfData:
                continue
        with self._lock:
            self.logins.append(ping)
        reason = self._refusal(ping, login)
        pong: list[Any] = ["PONG", False, reason, "", ""]
        if not reason:
            proof = hashlib.sha512(ping[2] + login.hostname.encode() + NONCE + login.key.encode()).hexdigest()
            pong = ["PONG", True, "", login.hostname, proof]
        sock.sendall(msgpack.packb(login.pong or pong))
        return not reason and login.pong is None

    def _refusal(self, ping: Any, login: Login) -> str:
        if not isinstance(ping, list) or len(ping) != 6:
            return "PING expected"
        _, hostname, salt, digest, username, password = ping
        if digest.decode() != hashlib.sha512(salt + hostname + NONCE + login.key.encode()).hexdigest():
            return "shared_key mismatch"
        expected = login.users.get(username.decode())
        if login.users and (
            expected is None or password.decode() != hashlib.sha512(SALT + username + expected.encode()).hexdigest()
        ):
            return "username/password mismatch"
        return ""

    def _converse(self, sock: socket.socket, number: int) -> None:
        unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=1 << 30)
        pending = bytearray()
        taken = 0
        while data := sock.recv(262_144):
            pending += data
            unpacker.feed(data)
            while True:
                try:
                    message = unpacker.unpack()
                except msgpack.OutOfData:
                    break
                end = unpacker.tell()
                raw = bytes(pending[: end - taken])
                del pending[: end - taken]
                taken = end
                if not self._take(sock, message, number, raw):
                    return

    def _take(self, sock: socket.socket, message: Any, number: int, raw: bytes) -> bool:
        """Keep a message and answer as the script says; False ends the connection."""
        if not isinstance(message, list):
            return False  # not the forward protocol
        tag, second, *rest = message
        options = rest[-1] if rest and isinstance(rest[-1], dict) else {}
        with self._lock:
            self.received += raw
            self.messages.append(Message(tag, _entries(second, rest, options), options, number, raw))
            chunk = options.get(b"chunk")
            step = (self.script.popleft() if self.script else "ack") if chunk is not None else "none"
            self._lock.notify_all()
        return self._answer(sock, step, chunk)

    def _answer(self, sock: socket.socket, step: Step, chunk: Any) -> bool:
        if step == "close":
            return False
        if step == "stall":
            self._stopping.wait(DEADLINE_SECS)
            return False
        if step == "garbage":
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif step == "late":
            self._owed.append(chunk)
        elif step == "wrong":
            sock.sendall(_ack(os.urandom(8).hex()))
        elif step == "split":
            answer = _ack(chunk)
            for at in range(len(answer)):
                sock.sendall(answer[at : at + 1])
        elif step == "twice":
            sock.sendall(_ack("another") + _ack(chunk))
        elif step == "ack":
            owed, self._owed = self._owed, []
            for late in owed:
                sock.sendall(_ack(late))
            sock.sendall(_ack(chunk))
        return True


def _ack(chunk: Any) -> bytes:
    packed: bytes = msgpack.packb({"ack": chunk.decode() if isinstance(chunk, bytes) else chunk})
    return packed


def _entries(second: Any, rest: list[Any], options: dict[bytes, Any]) -> list[Any]:
    """The entries of a message, whichever of the modes it is in; of metrics and traces the payload."""
    if options.get(b"fluent_signal"):
        return [(None, second)]
    if isinstance(second, list):
        return second
    if not isinstance(second, bytes):
        return [[second, rest[0]]]
    payload = gzip.decompress(second) if options.get(b"compressed") == b"gzip" else second
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=1 << 30)
    unpacker.feed(payload)
    return list(unpacker)
