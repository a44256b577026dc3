"""HELO, PING and PONG: how both ends of a forward connection prove that they know the shared key.

Forward protocol v1, section "Handshake messages". Every text travels and is compared as bytes: hostnames, salts and
nonces of other programs need not be UTF-8.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgpack

RandomBytes = Callable[[int], bytes]


class LoginRefused(Exception):
    """The other side's handshake message is wrong; the text is the reason it may be told."""


def default_hostname() -> bytes:
    """What this daemon calls itself unless configured otherwise.

    Not the bare host name: fluentd uses that for both of its ends and refuses a peer of its own name.
    """
    return f"logclf-daemon.{socket.gethostname()}".encode()


def key_digest(salt: bytes, hostname: bytes, nonce: bytes, key: bytes) -> bytes:
    """Proof of the shared key for one connection, in hexadecimal."""
    return hashlib.sha512(salt + hostname + nonce + key).hexdigest().encode()


def password_digest(auth_salt: bytes, username: bytes, password: bytes) -> bytes:
    """Proof of a user's password for one connection, in hexadecimal."""
    return hashlib.sha512(auth_salt + username + password).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class ServerLogin:
    """The listening side: its name, the shared key and the users; no users means that nobody needs a password."""

    hostname: bytes
    key: bytes
    users: Mapping[bytes, bytes] = field(default_factory=dict)

    def challenge(self, random_bytes: RandomBytes = os.urandom) -> ServerChallenge:
        """A fresh challenge: one for each connection, used once."""
        return ServerChallenge(self, random_bytes(16), random_bytes(16) if self.users else b"")


@dataclass(frozen=True, slots=True)
class ServerChallenge:
    """What one connection was asked to answer."""

    login: ServerLogin
    nonce: bytes
    auth_salt: bytes

    def helo(self) -> bytes:
        """The first message on the connection. Nonce and salt are bin: clients that check UTF-8 would refuse str."""
        return _pack("HELO", {"nonce": self.nonce, "auth": self.auth_salt, "keepalive": True})

    def answer(self, ping: object) -> bytes:
        """The PONG to a correct PING.

        Raises:
            LoginRefused: Send `refusal(reason)` and close.
        """
        hostname, salt, digest, username, password = _texts("PING", ping, 6)
        login = self.login
        # All three are worked out in any case, so that the time taken tells nothing.
        same_key = hmac.compare_digest(digest, key_digest(salt, hostname, self.nonce, login.key))
        known = login.users.get(username)
        expected = password_digest(self.auth_salt, username, known or b"")
        same_password = hmac.compare_digest(password, expected) and known is not None
        if hostname == login.hostname:
            raise LoginRefused("same hostname on both sides: a loop, or self_hostname must be set on one of them")
        if not same_key:
            raise LoginRefused("shared_key mismatch")
        if login.users and not same_password:
            raise LoginRefused("username/password mismatch")
        proof = key_digest(salt, login.hostname, self.nonce, login.key)
        return _pack("PONG", True, "", _text(login.hostname), _text(proof))


def refusal(reason: str) -> bytes:
    """The PONG that says no."""
    return _pack("PONG", False, reason, "", "")


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """The connecting side: its name, the shared key and, where the server asks for it, a user with a password."""

    hostname: bytes
    key: bytes
    username: bytes = b""
    password: bytes = b""

    def ping(self, helo: object, random_bytes: RandomBytes = os.urandom) -> tuple[bytes, ClientProof]:
        """The answer to a HELO, and what its PONG must prove.

        Raises:
            LoginRefused: This is no HELO.
        """
        if not isinstance(helo, list) or len(helo) != 2 or helo[0] != b"HELO" or not isinstance(helo[1], dict):
            raise LoginRefused("the server did not begin with a HELO")
        nonce, auth_salt = helo[1].get(b"nonce"), helo[1].get(b"auth") or b""
        if not isinstance(nonce, bytes) or not isinstance(auth_salt, bytes):
            raise LoginRefused("the server's HELO has no usable nonce")
        salt = random_bytes(16).hex().encode()  # as text: Fluent Bit refuses a binary one
        digest = key_digest(salt, self.hostname, nonce, self.key)
        password = password_digest(auth_salt, self.username, self.password) if auth_salt else b""
        username = self.username if auth_salt else b""
        message = _pack("PING", *map(_text, (self.hostname, salt, digest, username, password)))
        return message, ClientProof(self, salt, nonce)


@dataclass(frozen=True, slots=True)
class ClientProof:
    """What the server must prove before it gets any data."""

    login: ClientLogin
    salt: bytes
    nonce: bytes

    def check(self, pong: object) -> None:
        """Return if the server took our PING and knows the key itself.

        Raises:
            LoginRefused: It did not, it does not, or it goes by our own name.
        """
        if not isinstance(pong, list) or len(pong) != 5 or pong[0] != b"PONG":
            raise LoginRefused("the server did not answer with a PONG")
        _, accepted, reason, hostname, digest = pong
        if accepted is not True:
            raise LoginRefused(f"the server said: {_shown(reason)}")
        if not isinstance(hostname, bytes) or not isinstance(digest, bytes):
            raise LoginRefused("the server's PONG is malformed")
        if hostname == self.login.hostname:
            raise LoginRefused("same hostname on both sides: a loop, or self_hostname must be set on one of them")
        if not hmac.compare_digest(digest, key_digest(self.salt, hostname, self.nonce, self.login.key)):
            raise LoginRefused("the server does not know the shared key itself")


def _texts(name: str, message: object, length: int) -> list[bytes]:
    """The byte strings after the name of a handshake message."""
    if not isinstance(message, list) or len(message) != length or message[0] != name.encode():
        raise LoginRefused(f"{name} expected")
    if not all(isinstance(part, bytes) for part in message):
        raise LoginRefused(f"{name} has a part that is not text")
    return message[1:]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _shown(reason: object) -> str:
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else repr(reason)
    return text[:200] or "no reason given"


def _pack(*parts: object) -> bytes:
    packed: bytes = msgpack.packb(parts, use_bin_type=True, unicode_errors="surrogateescape")
    return packed
