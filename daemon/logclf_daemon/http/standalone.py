"""HTTP without a daemon: a cascade of its own, no inputs, no outputs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from logclf_daemon.build import build_parts, cascade_of, close, generation_of, reviews, settle, tell_unused
from logclf_daemon.config import DEFAULT_PATH, Config, load_config, located, state_directory
from logclf_daemon.errors import ConfigError
from logclf_daemon.events import Bug, Reloaded, ReloadRefused, emit
from logclf_daemon.freshness import Freshness, follow
from logclf_daemon.telemetry import Running
from logclf_daemon.waiting import look_after


class Standalone:
    """A host for `serve` and for ASGI servers.

    Raises:
        ConfigError: From the constructor: a rule, the model or a setting cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._started = time.monotonic()
        with located(config):
            self._directory = state_directory(config.state)
        self._config = config
        self._files = Freshness(self._directory)
        self._files.note(config)
        self._parts = build_parts(config, self._directory, soon=True)
        tell_unused(self._parts)
        self._reviewed = reviews(self._parts)
        self._reloading = asyncio.Lock()
        self._cascade = cascade_of(self._parts)
        self._number = 1
        self._why_refused: str | None = None

    @classmethod
    def from_environment(cls) -> Standalone:
        """By `$LOGCLF_CONFIG`, else the default configuration file if there is one."""
        named = os.environ.get("LOGCLF_CONFIG")
        path = Path(named) if named else DEFAULT_PATH
        return cls(load_config(path) if named or path.exists() else Config())

    def running(self) -> Running:
        return Running(
            self._config,
            self._parts,
            self._cascade,
            self._number,
            self._started,
            self._directory,
            refused=self._why_refused,
        )

    async def watch(self) -> None:
        """Reload when a rule or model file changed, and when people changed remembered verdicts; look after the LLM."""
        await asyncio.gather(
            asyncio.to_thread(settle, self._parts),
            follow(self._reloading, self._look, self._reload, self._take_reviews),
            look_after(lambda: self._cascade.waiting),
        )

    def _take_reviews(self, reviewed: int | None) -> None:
        if reviewed is not None and reviewed != self._reviewed:
            self._reviewed = reviewed
            self._swap()

    def _look(self) -> tuple[bool, int | None]:
        return self._files.changed(self._config), reviews(self._parts)

    async def reload(self) -> str | None:
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> str | None:
        self._files.note(self._config)
        try:
            parts = await asyncio.to_thread(build_parts, self._config, self._directory, self._parts, soon=True)
        except ConfigError as error:
            return self._refused(str(error))
        except Exception as error:  # nothing must end the following of files: it would be missed only much later
            emit(Bug(where="reload", error=repr(error)))
            return self._refused(f"a bug of ours, see the log: {error!r}")
        self._why_refused = None
        before, self._parts = self._parts, parts
        self._swap()
        before.close(kept=parts)
        emit(Reloaded(generation=self._number, rules=len(parts.rules)))
        return None

    def _refused(self, error: str) -> str:
        self._why_refused = error
        emit(ReloadRefused(error=error))
        return error

    async def reviewed(self) -> None:
        self._swap()

    def _swap(self) -> None:
        self._number += 1
        self._cascade.generation = generation_of(self._parts, self._number)

    def close(self) -> None:
        """End what runs in the background; write down what was used of the memory."""
        close(self._cascade, self._parts)
