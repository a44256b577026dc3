"""An HTTP app around real parts, and a client that speaks to it without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

from doubles import FixedStage, rule
from logclf_daemon.build import Parts, cascade_of, generation_of
from logclf_daemon.config import Config, HttpOptions
from logclf_daemon.http.app import create_app
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.stages._rules.files import Rule
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.stages.verdicts import VerdictMemory
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.telemetry import Running

RULES = (rule("sshd", "Security Alert", id="sshd-any"),)
MODEL = {"disk": "Resource Usage"}


class SmallHost:
    """A daemon without a service: rules, a memory on disk and a model that knows words."""

    def __init__(
        self, folder: Path, *, rules: Sequence[Rule] = RULES, record: dict[str, Any] | None = None, **http: Any
    ) -> None:
        sections = {"rules": {"paths": [str(folder)], "builtin": False}, "http": http, "record": record or {}}
        self.config = Config.model_validate(sections)
        self.memory = VerdictMemory(folder / "cache.db", "asked", taxonomy=Taxonomy())
        self.slot = OutputSlot(MemoryOutput())
        self.reloads = 0
        self.refuses: str | None = None
        self._parts = Parts(self.config, RuleSet(rules), None, self.memory, None)
        self.cascade = cascade_of(self._parts)
        self._number = 0
        self._swap()
        self._pipeline = Pipeline([MemoryInput([])], self.cascade, [self.slot])

    def _swap(self) -> None:
        self._number += 1
        generation = generation_of(self._parts, self._number)
        generation.stages += (FixedStage(MODEL),)
        self.cascade.generation = generation

    def running(self) -> Running:
        return Running(self.config, self._parts, self.cascade, self._number, time.monotonic(), pipeline=self._pipeline)

    async def reload(self) -> str | None:
        self.reloads += 1
        self._swap()
        return self.refuses

    async def reviewed(self) -> None:
        self._swap()

    def close(self) -> None:
        self.cascade.close()
        self.memory.close()


@asynccontextmanager
async def client(host: SmallHost, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(host, HttpOptions(**options)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:24280") as asked:
        yield asked


def talk(
    folder: Path,
    conversation: Callable[[httpx.AsyncClient, SmallHost], Coroutine[Any, Any, None]],
    host: SmallHost | None = None,
    **options: Any,
) -> None:
    """Run a conversation with the app of a host."""
    served = host or SmallHost(folder)

    async def scenario() -> None:
        async with client(served, **options) as asked:
            await conversation(asked, served)

    try:
        asyncio.run(scenario())
    finally:
        served.close()


class Raw:
    """A client that speaks to the app message by message: what no well-behaved library sends."""

    def __init__(self, path: str, kind: str, **headers: str) -> None:
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._headers = {"host": "127.0.0.1", "content-type": kind, **headers}
        self._path = path
        self.status = 0
        self.body = b""

    def send(self, body: bytes, *, more: bool = True) -> None:
        """A piece of the body."""
        self._said.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def go(self) -> None:
        """Close the connection."""
        self._said.put_nowait({"type": "http.disconnect"})

    async def ask(
        self, app: ASGIApp, method: str = "POST", server: tuple[str, int | None] = ("127.0.0.1", 24280)
    ) -> None:
        """Until the app is done with it."""
        headers = [(name.encode(), words.encode()) for name, words in self._headers.items()]
        scope = {"type": "http", "method": method, "path": self._path, "query_string": b"", "headers": headers}
        scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "server": server, "client": ("10.0.0.9", 9)}
        await app(scope, self._said.get, self._take)

    async def _take(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
