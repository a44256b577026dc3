"""What is installed of the foreign programs, asked before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from interop.peers import TLS, Peer, build_go_client, node_modules


@pytest.fixture(scope="session")
def npm_packages() -> None:
    """Skip or fail a test that talks to programs of npm where there are none."""
    node_modules()


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Peer]:
    """Starts the Go client; called with its orders."""
    program = build_go_client(tmp_path_factory.mktemp("go"))

    def start(**orders: Any) -> Peer:
        return Peer([program], orders, SSL_CERT_FILE=str(TLS / "ca.pem"))

    return start
