"""Where the forward input listens: addresses, unix sockets, sockets of others, too few descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from forward_doubles import ack, forward, served, until
from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions


def test_a_peer_that_is_gone_without_a_word_is_noticed() -> None:
    async def scenario() -> None:
        async with served() as server:
            await server.connect()
            await until(lambda: bool(server.source._server.peers))

            (peer,) = server.source._server.peers
            sock = peer._transport.get_extra_info("socket")  # type: ignore[attr-defined]

            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60

    asyncio.run(scenario())


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            source = ForwardInput(ForwardInputOptions(listen=f"127.0.0.1:{port}"), "forward")

            with pytest.raises(ServiceUnavailable, match=rf"127\.0\.0\.1:{port}: Address already in use; .*ss -ltnp"):
                await source.open()

    asyncio.run(scenario())


@pytest.mark.parametrize("listen", ["", "24224", "host", "host:", ":24224", "host:99999", "host:x", "unix://relative"])
def test_a_bad_address_is_refused_with_the_form_of_a_good_one(listen: str) -> None:
    with pytest.raises(ValidationError, match=r"host:port|must be absolute"):
        ForwardInputOptions(listen=listen)


def test_a_host_that_does_not_exist_is_a_mistake_in_the_configuration() -> None:
    source = ForwardInput(ForwardInputOptions(listen="no-such-host.invalid:0"), "forward")

    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        asyncio.run(source.open())


def test_it_listens_on_ipv6() -> None:
    async def scenario() -> None:
        async with served(listen="[::1]:0") as server:
            assert server.address[0] == "::1"
            assert await server.still_serves()

    asyncio.run(scenario())


def test_it_listens_on_a_unix_socket_and_removes_it_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "forward.sock"

    async def scenario() -> None:
        async with served(listen=f"unix://{path}") as server:
            assert server.address == (str(path), 0)
            assert path.stat().st_mode & 0o777 == 0o660
            assert await server.still_serves()

    asyncio.run(scenario())
    assert not path.exists()


def test_a_unix_socket_left_over_from_a_crash_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "forward.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))

    async def scenario() -> None:
        async with served(listen=f"unix://{path}") as server:
            second = ForwardInput(ForwardInputOptions(listen=f"unix://{path}"), "forward")
            with pytest.raises(ServiceUnavailable, match="Address already in use"):
                await second.open()

            assert await server.still_serves()

    asyncio.run(scenario())


def test_a_socket_that_already_listens_is_taken_over() -> None:
    async def scenario() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with served(sock=sock, listen="127.0.0.1:1") as server:
            assert server.address == ("127.0.0.1", port)
            assert await server.still_serves()

    asyncio.run(scenario())


def highest_file_descriptor() -> int:
    return max(int(path.name) for path in Path("/proc/self/fd").iterdir())


def test_without_a_free_file_descriptor_it_waits_without_spinning_and_goes_on_after() -> None:
    async def scenario() -> None:
        async with served() as server:
            assert await server.still_serves()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            waiting = await server.connect()
            await waiting.send(forward("t", chunk="a"))
            await waiting.read(len(ack("a")))
            late = socket.socket()
            holes: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest_file_descriptor() + 1, hard))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        holes.append(os.dup(0))
                late.setblocking(False)
                spent = time.process_time()
                late.connect_ex(server.address)
                await until(lambda: server.troubles("accept_failed") >= 1)
                await asyncio.sleep(0.2)
                assert server.troubles("accept_failed") <= 2
                assert time.process_time() - spent < 0.2
                await waiting.send(forward("t", chunk="b"))
                assert await waiting.read(len(ack("b"))) == ack("b")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for hole in holes:
                    os.close(hole)
                late.close()
            await waiting.close()

            assert await server.still_serves()

    asyncio.run(scenario())
