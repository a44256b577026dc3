"""A connection of the HTTP server: uvicorn's, which waits for its client for ever, with an end to the patience.

A request must come (`bodies.py` looks after its body), and a client must take its answer. Where there are too many
connections, the one that has been idle longest makes room; where all are at work, one more is told to come again,
except a probe: it must not have the daemon killed for being busy.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from logclf_daemon.events import ConnectionDropped, emit
from logclf_daemon.http.problems import problem
from logclf_daemon.http.server import Patience

PROBES = ("/healthz", "/readyz", "/metrics")


class Connection(H11Protocol):
    """One client."""

    def __init__(self, patience: Patience, **settings: Any) -> None:
        super().__init__(**settings)
        self._patience = patience
        self._head_due: asyncio.TimerHandle | None = None
        self._take_due: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing of a request is being worked on, nor of its answer on its way."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.unsent

    @property
    def unsent(self) -> int:
        """Bytes of an answer that the client did not take yet."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room if need be, and wait for a request, but not for ever."""
        present = cast("set[Connection]", self.connections)  # the server makes no others
        others = [one for one in present if not one.transport.is_closing() or one.unsent]
        super().connection_made(transport)
        self._wait()
        if len(others) < self._patience.connections:
            return
        idle = [one for one in others if one.idle and not one.transport.is_closing()]
        if idle:
            min(idle, key=lambda one: one.idle_since).drop("too_many")
        if len(others) - bool(idle) >= self._patience.connections:
            self.app = _Busy(self.app)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.idle:
            self._came()
        elif self._head_due is None and not self.transport.is_closing():
            self._wait()

    def on_response_complete(self) -> None:
        """From now on uvicorn counts the seconds to the next request."""
        self.idle_since = self.loop.time()
        self._came()
        super().on_response_complete()
        self._leave()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._leave()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._take_due = self.loop.call_later(self._patience.take_secs, self.drop, "answer_not_taken")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._took()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._came()
        self._took()

    def drop(self, why: str) -> None:
        """Close without a word."""
        emit(ConnectionDropped(why=why))
        self.transport.abort()

    def _leave(self) -> None:
        """It is not closed before all is sent: not for ever either."""
        if self._take_due is None and self.transport.is_closing() and self.unsent:
            self._take_due = self.loop.call_later(self._patience.take_secs, self.drop, "answer_not_taken")

    def _wait(self) -> None:
        self.idle_since = self.loop.time()
        # Not told: browsers open connections that they may need.
        self._head_due = self.loop.call_later(self._patience.head_secs, self.transport.abort)

    def _came(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _took(self) -> None:
        if self._take_due is not None:
            self._take_due.cancel()
            self._take_due = None


class _Busy:
    """Stands before the app where there are too many connections."""

    def __init__(self, app: Any) -> None:
        self._app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        headers = {"Retry-After": "5", "Connection": "close"}
        await problem(503, "too many connections at work; try again", headers)(scope, receive, send)
