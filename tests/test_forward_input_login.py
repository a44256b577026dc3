"""Whom the forward input serves: the shared key, users, TLS and client certificates (S21, S22)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from forward_doubles import CHUNK, DATA, KEY, Sender, Served, ack, forward, pack, packed, served, until
from logclf_daemon.errors import ConfigError
from logclf_daemon.handshake import ClientLogin
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions

TLS = DATA / "tls"


async def logged_in(server: Served, login: ClientLogin, trailing: bytes = b"") -> tuple[Sender, Any]:
    sender = await server.connect()
    ping, _ = login.ping(await sender.read_object())
    await sender.send(ping + trailing)
    return sender, await sender.read_object()


def test_s21_the_nonce_is_fresh_for_each_connection() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, users={"bob": "pw"}) as server:
            helos = [await (await server.connect()).read_object() for _ in range(5)]

            assert len({helo[1][b"nonce"] for helo in helos}) == 5
            assert len({helo[1][b"auth"] for helo in helos}) == 5

    asyncio.run(scenario())


def test_s21_who_knows_the_key_is_served_even_if_data_follows_at_once() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY) as server:
            sender, pong = await logged_in(server, ClientLogin(b"client", KEY.encode()), forward("t", chunk="a"))

            assert pong[:2] == [b"PONG", True]
            assert await sender.read(len(ack("a"))) == ack("a")
            await sender.send(forward("t", chunk="b"))
            assert await sender.read(len(ack("b"))) == ack("b")

    asyncio.run(scenario())


REFUSED = {
    "wrong key": ClientLogin(b"client", b"wrong", b"bob", b"pw"),
    "unknown user": ClientLogin(b"client", KEY.encode(), b"eve", b"pw"),
    "wrong password": ClientLogin(b"client", KEY.encode(), b"bob", b"wrong"),
    "no user": ClientLogin(b"client", KEY.encode()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_s21_who_cannot_prove_it_gets_a_reason_and_the_end(what: str) -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, users={"bob": "pw"}) as server:
            sender, pong = await logged_in(server, REFUSED[what], forward("t", chunk=CHUNK))

            assert pong[:2] == [b"PONG", False]
            assert b"mismatch" in pong[2]
            assert await sender.rest() == b""
            assert server.troubles("handshake_refused") == 1
            assert server.pipeline.batches == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pack(["PING", "h", "s", "d", ""]), id="five elements"),
        pytest.param(forward("t", chunk=CHUNK), id="data"),
        pytest.param(packed(b"x" * 100_000, chunk=CHUNK), id="much data"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\xdd\x7f\xff\xff\xff" * 3, id="bomb"),
        pytest.param(b"\x96\xa4PING\xdb\x00\x10\x00\x00" + b"x" * 20_000, id="long name"),
        pytest.param(b"\x81\x91\x01\x01", id="unhashable"),
    ],
)
def test_s21_nothing_but_a_ping_is_understood_before_the_login(data: bytes) -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY) as server:
            sender = await server.connect()
            await sender.read_object()
            await sender.send(data)

            assert (await sender.read_object())[:2] == [b"PONG", False]
            assert await sender.rest() == b""
            assert server.pipeline.batches == []
            assert server.troubles("handshake_refused") == 1

    asyncio.run(scenario())


def test_s22_a_client_of_the_servers_own_name_is_refused() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, self_hostname="here") as server:
            sender, pong = await logged_in(server, ClientLogin(b"here", KEY.encode()))

            assert pong[1] is False
            assert b"same hostname" in pong[2]
            assert await sender.rest() == b""

    asyncio.run(scenario())


def test_s22_the_pong_proves_the_servers_knowledge_under_its_own_name() -> None:
    async def scenario() -> None:
        async with served(shared_key=KEY, self_hostname="here") as server:
            sender = await server.connect()
            ping, proof = ClientLogin(b"client", KEY.encode()).ping(await sender.read_object())
            await sender.send(ping)

            pong = await sender.read_object()

            assert pong[3] == b"here"
            proof.check(pong)

    asyncio.run(scenario())


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("key", [None, ""])
def test_off_loopback_a_key_or_client_certificates_are_demanded(listen: str, key: str | None) -> None:
    with pytest.raises(ConfigError, match=r"shared_key or tls\.client_ca"):
        ForwardInput(ForwardInputOptions.model_validate({"listen": listen, "shared_key": key}), "forward")


def test_off_loopback_a_key_is_enough() -> None:
    async def scenario() -> None:
        async with served(listen="0.0.0.0:0", shared_key=KEY) as server:
            assert server.address[0] == "0.0.0.0"

    asyncio.run(scenario())


def test_users_without_a_key_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="shared_key"):
        ForwardInput(ForwardInputOptions.model_validate({"users": {"bob": "pw"}}), "forward")


def client_context(with_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=TLS / "ca.pem")
    if with_certificate:
        context.load_cert_chain(TLS / "client.pem", TLS / "client.key")
    return context


def server_tls(**more: str) -> dict[str, str]:
    return {"cert": str(TLS / "server.pem"), "key": str(TLS / "server.key"), **more}


def test_it_serves_over_tls_and_survives_bad_handshakes() -> None:
    async def scenario() -> None:
        async with served(tls=server_tls()) as server:
            plain = await server.connect()
            await plain.send(forward("t", chunk=CHUNK))
            assert await plain.rest() != ack(CHUNK)
            with pytest.raises(ssl.SSLCertVerificationError):
                await server.connect(tls=ssl.create_default_context())
            (await server.connect()).reset()
            await until(lambda: server.troubles("tls_handshake") == 3)

            good = await server.connect(tls=client_context())
            await good.send(forward("t", chunk=CHUNK))

            assert await good.read(len(ack(CHUNK))) == ack(CHUNK)
            assert server.pipeline.records == 1

    asyncio.run(scenario())


def test_a_large_chunk_over_tls_is_one_chunk() -> None:
    async def scenario() -> None:
        async with served(tls=server_tls()) as server:
            sender = await server.connect(tls=client_context())
            await sender.send(forward("t", 50_000, chunk=CHUNK))

            assert await sender.read(len(ack(CHUNK))) == ack(CHUNK)
            assert server.pipeline.records == 50_000

    asyncio.run(scenario())


def test_off_loopback_client_certificates_are_enough_and_are_demanded() -> None:
    async def scenario() -> None:
        async with served(listen="0.0.0.0:0", tls=server_tls(client_ca=str(TLS / "ca.pem"))) as server:
            server.address = ("127.0.0.1", server.address[1])
            good = await server.connect(tls=client_context(with_certificate=True))
            await good.send(forward("t", chunk=CHUNK))
            assert await good.read(len(ack(CHUNK))) == ack(CHUNK)

            bad = await server.connect(tls=client_context())
            await bad.send(forward("t", chunk="bad"))

            with contextlib.suppress(ssl.SSLError):
                assert await bad.rest() == b""
            await until(lambda: server.troubles("tls_handshake") == 1)
            assert server.pipeline.records == 1

    asyncio.run(scenario())


def test_a_certificate_that_cannot_be_read_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    options = {"tls": {"cert": str(tmp_path / "no.pem"), "key": str(TLS / "server.key")}}

    with pytest.raises(ConfigError, match=r"no\.pem"):
        ForwardInput(ForwardInputOptions.model_validate(options), "forward")


def test_the_secrets_do_not_show() -> None:
    options = ForwardInputOptions.model_validate({"shared_key": "hush", "users": {"bob": "hush"}})

    assert "hush" not in repr(options)
    assert "hush" not in options.model_dump_json()
