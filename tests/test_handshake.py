"""The handshake of the forward protocol, each side against recorded bytes of the other programs, and both together."""

from __future__ import annotations

import json
import socket
from typing import Any

import msgpack
import pytest

from forward_doubles import DATA
from logclf_daemon.handshake import (
    ClientLogin,
    LoginRefused,
    ServerLogin,
    default_hostname,
    key_digest,
    password_digest,
    refusal,
)

SERVER = ServerLogin(b"server", b"sekret")
ANSWERS = json.loads((DATA / "fluent-bit" / "answers.json").read_text())


def unpack(message: bytes) -> Any:
    return msgpack.unpackb(message, raw=True)


def recorded(name: str) -> tuple[Any, bytes]:
    """The PING Fluent Bit sent in this capture, and all that its server answered."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed((DATA / "fluent-bit" / name).read_bytes())
    return unpacker.unpack(), bytes.fromhex(ANSWERS[name])


@pytest.mark.parametrize(
    ("name", "key", "users"),
    [
        ("shared.c1.bin", b"sekret", {}),
        ("shared_user.c1.bin", b"sekret", {b"bob": b"pw"}),
        ("shared_empty.c1.bin", b"", {}),
    ],
)
def test_fluent_bit_is_answered_byte_for_byte_as_it_was_in_the_capture(
    name: str, key: bytes, users: dict[bytes, bytes]
) -> None:
    ping, answered = recorded(name)
    fixed = iter([b"N" * 16, b"A" * 16])
    challenge = ServerLogin(b"sink.local", key, users).challenge(lambda _count: next(fixed))

    said = challenge.helo() + challenge.answer(ping)

    assert answered.startswith(said)


def test_a_client_and_a_server_that_share_the_key_accept_each_other() -> None:
    challenge = SERVER.challenge()
    ping, proof = ClientLogin(b"client", b"sekret").ping(unpack(challenge.helo()))

    proof.check(unpack(challenge.answer(unpack(ping))))


def test_a_user_with_the_right_password_is_accepted() -> None:
    challenge = ServerLogin(b"server", b"sekret", {b"bob": b"pw"}).challenge()
    ping, proof = ClientLogin(b"client", b"sekret", b"bob", b"pw").ping(unpack(challenge.helo()))

    proof.check(unpack(challenge.answer(unpack(ping))))


@pytest.mark.parametrize("client", [ClientLogin(b"client", b"other"), ClientLogin(b"client", b"")])
def test_a_wrong_key_is_refused(client: ClientLogin) -> None:
    challenge = SERVER.challenge()
    ping, _ = client.ping(unpack(challenge.helo()))

    with pytest.raises(LoginRefused, match="shared_key mismatch"):
        challenge.answer(unpack(ping))


@pytest.mark.parametrize(("user", "password"), [(b"bob", b"wrong"), (b"eve", b"pw"), (b"", b""), (b"eve", b"")])
def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(user: bytes, password: bytes) -> None:
    challenge = ServerLogin(b"server", b"sekret", {b"bob": b"pw"}).challenge()
    ping, _ = ClientLogin(b"client", b"sekret", user, password).ping(unpack(challenge.helo()))

    with pytest.raises(LoginRefused, match=r"^username/password mismatch$"):
        challenge.answer(unpack(ping))


@pytest.mark.parametrize(
    "ping",
    [
        None,
        [b"PING", b"client", b"salt", b"digest", b""],
        [b"PONG", b"client", b"salt", b"digest", b"", b""],
        [b"PING", b"client", 1, b"digest", b"", b""],
        [b"PING", b"client", [b"salt"], b"digest", b"", b""],
        {b"PING": b"client"},
        [b"tag", 1, {}],
    ],
)
def test_what_is_no_ping_is_refused(ping: object) -> None:
    with pytest.raises(LoginRefused):
        SERVER.challenge().answer(ping)


def test_a_client_of_the_servers_own_name_is_refused_as_a_loop() -> None:
    challenge = SERVER.challenge()
    ping, _ = ClientLogin(b"server", b"sekret").ping(unpack(challenge.helo()))

    with pytest.raises(LoginRefused, match="loop"):
        challenge.answer(unpack(ping))


def test_a_server_of_the_clients_own_name_is_refused_as_a_loop() -> None:
    _, proof = ClientLogin(b"me", b"sekret").ping(unpack(SERVER.challenge().helo()))
    digest = key_digest(proof.salt, b"me", proof.nonce, b"sekret")

    with pytest.raises(LoginRefused, match="loop"):
        proof.check([b"PONG", True, b"", b"me", digest])


def test_every_connection_has_its_own_challenge() -> None:
    login = ServerLogin(b"server", b"sekret", {b"bob": b"pw"})

    challenges = [login.challenge() for _ in range(100)]

    assert len({challenge.nonce for challenge in challenges}) == 100
    assert len({challenge.auth_salt for challenge in challenges}) == 100
    assert {len(challenge.nonce) for challenge in challenges} == {16}


def test_an_answer_to_another_challenge_is_refused() -> None:
    ping, _ = ClientLogin(b"client", b"sekret").ping(unpack(SERVER.challenge().helo()))

    with pytest.raises(LoginRefused):
        SERVER.challenge().answer(unpack(ping))


def test_the_ping_is_all_text_because_fluent_bit_refuses_a_binary_salt() -> None:
    ping, _ = ClientLogin(b"client", b"sekret", b"bob", b"pw").ping(
        unpack(ServerLogin(b"server", b"sekret", {b"bob": b"pw"}).challenge().helo())
    )

    parts = msgpack.unpackb(ping, raw=False)

    assert all(isinstance(part, str) for part in parts)
    assert len(parts) == 6
    assert (len(parts[3]), len(parts[5])) == (128, 128)


def test_a_server_that_asks_for_no_user_is_told_none() -> None:
    ping, _ = ClientLogin(b"client", b"sekret", b"bob", b"pw").ping(unpack(SERVER.challenge().helo()))

    assert unpack(ping)[4:] == [b"", b""]


@pytest.mark.parametrize(
    "helo",
    [
        None,
        {b"ack": b"x"},
        [b"HELO"],
        [b"HELO", None],
        [b"HELO", {}],
        [b"HELO", {b"nonce": 5}],
        [b"HELO", {b"nonce": b"n", b"auth": 5}],
    ],
)
def test_what_is_no_helo_is_refused(helo: object) -> None:
    with pytest.raises(LoginRefused):
        ClientLogin(b"client", b"sekret").ping(helo)


@pytest.mark.parametrize(
    ("pong", "words"),
    [
        (None, "PONG"),
        ([b"PONG", True, b"", b"server"], "PONG"),
        ([b"PONG", 1, b"", b"server", b"0" * 128], "no reason"),
        ([b"PONG", True, b"", b"server", b"0" * 128], "does not know the shared key"),
        ([b"PONG", True, b"", None, b"0" * 128], "malformed"),
        ([b"PONG", True, b"", b"server", 7], "malformed"),
        (msgpack.unpackb(refusal("go away"), raw=True), "go away"),
        ([b"PONG", False, b"x" * 100_000, b"", b""], "x{200}$"),
    ],
)
def test_a_pong_that_proves_nothing_is_refused(pong: object, words: str) -> None:
    _, proof = ClientLogin(b"client", b"sekret").ping(unpack(SERVER.challenge().helo()))

    with pytest.raises(LoginRefused, match=words):
        proof.check(pong)


def test_digests_are_what_the_specification_says() -> None:
    empty = (
        "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
        "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
    )

    assert key_digest(b"", b"", b"", b"").decode() == empty
    assert key_digest(b"s", b"h", b"n", b"k") == key_digest(b"sh", b"", b"", b"nk")
    assert password_digest(b"a", b"u", b"p") == key_digest(b"a", b"u", b"p", b"")


def test_the_default_name_is_not_the_bare_host_name_that_fluentd_uses() -> None:
    assert default_hostname() != socket.gethostname().encode()
    assert socket.gethostname().encode() in default_hostname()
