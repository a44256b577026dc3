"""Random requests made from the OpenAPI: never a 500, every answer as it is described."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from conftest import REQUIRED
from http_doubles import SmallHost
from logclf_daemon.config import HttpOptions
from logclf_daemon.http.app import create_app
from logclf_daemon.http.server import HttpServer

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(600)]
EXAMPLES = 15  # for each operation and phase


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server in a thread of its own."""
    started, servers = threading.Event(), []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        host = SmallHost(tmp_path)
        options = HttpOptions(listen="127.0.0.1:0", requests_per_sec=100_000)
        server = HttpServer(options, lambda: create_app(host, options))
        server.open()
        servers.append(server)
        loops.append(asyncio.get_running_loop())
        started.set()
        await server.serve()
        server.close()
        host.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    yield f"http://127.0.0.1:{servers[0].port}"
    loops[0].call_soon_threadsafe(servers[0].stop)
    thread.join(60)


def test_no_request_surprises_the_api(address: str) -> None:
    try:
        schemathesis: Any = import_module("schemathesis")
    except ImportError:
        if "fuzz" in REQUIRED:
            pytest.fail("schemathesis is required here and not installed")
        pytest.skip("schemathesis is not installed (extra `fuzz`)")
    from hypothesis import HealthCheck, given, settings

    described: Any = import_module("schemathesis.specs.openapi.checks")
    checks = [
        import_module("schemathesis.checks").not_a_server_error,
        described.status_code_conformance,
        described.content_type_conformance,
        described.response_schema_conformance,
    ]
    few = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    tried = 0

    def fuzz(case: Any) -> None:
        case.call_and_validate(checks=checks)

    for operation in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():
        few(given(case=operation.ok().as_strategy())(fuzz))()
        tried += 1

    assert tried >= 15
