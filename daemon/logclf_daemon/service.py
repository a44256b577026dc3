"""The daemon's life: start, reload, drain, stop. Signals only set flags; the work is done in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from logclf_daemon import __version__, hangup
from logclf_daemon.activation import CONTROL, PassedSockets
from logclf_daemon.build import (
    Parts,
    build_parts,
    build_pipeline,
    cascade_of,
    close,
    generation_of,
    open_state,
    reviews,
    settle,
    tell_unused,
    waiting_room,
)
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config, located
from logclf_daemon.control import Answer, ControlServer, socket_path
from logclf_daemon.errors import ConfigError, NoRoom
from logclf_daemon.events import (
    Bug,
    Reloaded,
    ReloadRefused,
    SocketNotUsed,
    Stalled,
    Started,
    Stopped,
    Stopping,
    WaitsForRoom,
    emit,
)
from logclf_daemon.freshness import Freshness, follow
from logclf_daemon.heap import give_back
from logclf_daemon.http.server import STOP_SECS, HttpServer
from logclf_daemon.notify import notify, notify_reloading, notify_step, watchdog_secs
from logclf_daemon.pipeline import Pipeline
from logclf_daemon.state import StateDb
from logclf_daemon.tap import Tap
from logclf_daemon.telemetry import Running
from logclf_daemon.waiting import look_after

TAP_SECS = 0.2
ROOM_SECS = 2.0
SETTLED_SECS = 3.0
SEEN_SECS = 10.0  # how often it is written down which remembered verdicts were used
RESTART_SECTIONS = ("inputs", "outputs", "state", "record", "delivery", "http")


class Service:
    """Runs one configuration until it is told to stop.

    `reread` gives the configuration again (SIGHUP); None where it came from the command line.
    """

    def __init__(self, config: Config, *, once: bool = False, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._once = once
        self._reread = reread
        self._number = 1
        self._started = time.monotonic()
        self._reload_asked = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._swapped = asyncio.Event()
        self._why_refused: str | None = None

    async def run(self) -> None:
        """Start, run, drain.

        Raises:
            LogclfError: It cannot start, or an input or output failed for good.
        """
        sockets = PassedSockets.from_environment()
        directory, state = await self._open_state()
        self._directory = directory
        self._files = Freshness(directory)
        self._files.note(self.config)
        self._parts = build_parts(self.config, directory, soon=True)
        tell_unused(self._parts)
        self._reviewed = reviews(self._parts)
        self._cascade = cascade_of(self._parts)
        self._state = state
        control = ControlServer(
            socket_path(directory),
            {
                "status": self.status,
                "live": self._live,
                "reload": self._reload_and_tell,
                "reload_soon": self._reload_soon,
            },
            sockets.take_named(CONTROL),
            streams={"tap": self._tap},
        )
        self._http = HttpServer(self.config.http, self._http_app) if self.config.http.listen is not None else None
        try:
            self._pipeline = build_pipeline(self.config, self._cascade, state, once=self._once, sockets=sockets)
            with located(self.config):
                await self._pipeline.open()
                if self._http is not None:
                    self._http.open()
            if not self._once:
                await control.open()
            for left in sockets.close():
                emit(SocketNotUsed(socket=left))
            await self._serve(self._pipeline)
        finally:
            await control.close()
            if self._http is not None:
                self._http.close()
            self._close()
            if state is not None:
                state.close()

    async def _open_state(self) -> tuple[Path, StateDb | None]:
        """Wait for room on a full disk, as running daemons do: giving up would need a person to start it again."""
        told = False
        while True:
            try:
                return open_state(self.config)
            except NoRoom as error:
                if self._once:
                    raise
                if not told:
                    emit(WaitsForRoom(error=str(error)))
                    told = True
                notify_step("waits for room on the disk")
                await asyncio.sleep(ROOM_SECS)

    async def _serve(self, pipeline: Pipeline) -> None:
        with self._signals(pipeline):
            background = [
                asyncio.create_task(task)
                for task in (
                    self._watch_files(),
                    self._reloads(),
                    self._count_seen(),
                    self._settle(),
                    look_after(lambda: self._cascade.waiting),
                    feed_watchdog(pipeline),
                )
            ]
            self._tell_started()
            if (room := self._cascade.waiting) is not None:
                room.warm_up()
            http = asyncio.create_task(self._http.serve()) if self._http is not None else None
            try:
                await pipeline.run()
            finally:
                if self._http is not None and http is not None:
                    self._http.stop()
                    await asyncio.wait([http], timeout=STOP_SECS + 1)
                    background.append(http)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
        emit(Stopped(delivered=pipeline.totals.delivered, returned=pipeline.totals.returned))

    def _http_app(self) -> object:
        from logclf_daemon.http.app import create_app  # heavy, and only needed where there is a port

        return create_app(self)

    def _tell_started(self) -> None:
        parts = self._parts
        emit(
            Started(
                version=__version__,
                inputs=",".join(options.type for options in self.config.inputs),  # type: ignore[attr-defined]
                outputs=",".join(options.type for options in self.config.outputs),  # type: ignore[attr-defined]
                rules=len(parts.rules),
                model=f"{parts.model.path.name} {parts.model.digest[:8]}" if parts.model else "off",
                llm=self.config.llm.model if parts.llm else "off",
            )
        )
        notify("READY=1", f"STATUS={len(parts.rules)} rules, generation {self._number}")

    @contextlib.contextmanager
    def _signals(self, pipeline: Pipeline) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        stops = 0

        def stop(number: int) -> None:
            nonlocal stops
            stops += 1
            if stops > 1:
                os._exit(1)  # asked twice: nothing was acknowledged that is not safe
            emit(Stopping(signal=signal.Signals(number).name))
            notify("STOPPING=1")
            pipeline.stop()

        handled = (signal.SIGTERM, signal.SIGINT)
        loop.add_signal_handler(signal.SIGTERM, stop, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, stop, signal.SIGINT)
        try:
            with hangup.heard(self._reload_asked.set):
                yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def _reloads(self) -> None:
        """SIGHUP: the configuration is read again."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self.reload()

    async def _reload_and_tell(self) -> Answer:
        error = await self.reload()
        return {"ok": error is None, "error": error, "generation": self._number}

    async def _reload_soon(self) -> Answer:
        self._reload_asked.set()
        return {"ok": True}

    async def _live(self) -> Answer:
        return {"ok": True, **self.running().live()}

    async def _tap(self, request: Answer) -> AsyncIterator[Answer]:
        """Labelled lines as they pass, a few times a second."""
        wanted = {name: str(request[name]) for name in ("label", "stage", "source") if request.get(name)}
        tap = Tap(per_sec=min(1000.0, float(request.get("per_sec", 50))), **wanted)  # type: ignore[arg-type]
        self._cascade.taps.append(tap)
        try:
            while True:
                yield {"ok": True, **tap.take()}
                await asyncio.sleep(TAP_SECS)
        finally:
            self._cascade.taps.remove(tap)

    async def status(self) -> Answer:
        """What the daemon does, for people and programs."""
        parts, state, running = self._parts, self._state, self.running()
        return {
            "ok": True,
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started, 1),
            "generation": self._number,
            "rules": len(parts.rules),
            "model": running.model,
            "llm": self._llm_status(),
            "state": {
                "directory": str(self._directory),
                "offsets": ("behind: the disk takes no writes" if state.behind else "kept") if state else "not needed",
                "lost": "yes: state.db was damaged and set aside" if state and state.lost else None,
            },
            "ready": "yes" if not (troubles := running.troubles()) else "; ".join(troubles),
            "troubles": troubles,
            "notes": running.notes(),
            "inputs": running.inputs(),
            "outputs": running.outputs(),
        }

    def _llm_status(self) -> str:
        llm = self.running().llm()
        if llm["model"] is None:
            return "off"
        words = f"{llm['model']}: {llm['state']}, breaker {llm['breaker']}"
        return f"{words}, {llm['questions']} questions queued, {llm['records_waiting']} records wait"

    def running(self) -> Running:
        """What runs now, for those who look at it."""
        return Running(
            config=self.config,
            parts=self._parts,
            cascade=self._cascade,
            number=self._number,
            started=self._started,
            directory=self._directory,
            pipeline=self._pipeline,
            state=self._state,
            refused=self._why_refused,
        )

    async def reload(self) -> str | None:
        """Read configuration, rules and model again and swap them in; the reason if they were refused."""
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> str | None:
        notify_reloading()
        try:
            config = await asyncio.to_thread(self._configured)
            changed = [name for name in RESTART_SECTIONS if getattr(config, name) != getattr(self.config, name)]
            if changed:
                raise ConfigError(f"{', '.join(changed)}: changed; restart the service for that")
            parts = await asyncio.to_thread(build_parts, config, self._directory, self._parts, soon=True)
        except ConfigError as error:
            return self._refused(str(error))
        except Exception as error:  # nothing must end the following of files: it would be missed only much later
            emit(Bug(where="reload", error=repr(error)))
            return self._refused(f"a bug of ours, see the log: {error!r}")
        self._why_refused = None
        if config.labels != self.config.labels:
            tell_unused(parts)
        self._swap(config, parts)
        notify("READY=1", f"STATUS={len(parts.rules)} rules, generation {self._number}")
        return None

    def _refused(self, error: str) -> str:
        self._why_refused = error
        emit(ReloadRefused(error=error))
        notify("READY=1", f"STATUS=reload refused, generation {self._number} stays")
        return error

    def _configured(self) -> Config:
        """The configuration as it is now; what it names is noted as looked at, whether it is taken or refused."""
        self._files.note(self.config)
        config = self._reread() if self._reread else self.config
        self._files.note(config)
        return config

    def _swap(self, config: Config, parts: Parts) -> None:
        before, self._parts, self.config = self._parts, parts, config
        self._swapped.set()
        self._number += 1
        if parts.llm is not before.llm or parts.memory is not before.memory:  # the room has both
            room, self._cascade.waiting = self._cascade.waiting, waiting_room(parts)
            if room is not None:
                room.close()
            if self._cascade.waiting is not None:
                self._cascade.waiting.warm_up()
        self._cascade.generation = generation_of(parts, self._number)
        before.close(kept=parts)
        emit(Reloaded(generation=self._number, rules=len(parts.rules)))

    async def _watch_files(self) -> None:
        """Reload when a rule or model file changed, and when people changed remembered verdicts."""
        await follow(self._reloading, self._look, self._reload, self._take_reviews)

    def _look(self) -> tuple[bool, int | None]:
        return self._files.changed(self.config), reviews(self._parts)

    async def reviewed(self) -> None:
        """People changed remembered verdicts: the caches of the generation hold the old ones, a new one has none."""
        async with self._reloading:
            self._take_reviews(await asyncio.to_thread(reviews, self._parts))

    def _take_reviews(self, reviewed: int | None) -> None:
        if reviewed is not None and reviewed != self._reviewed:
            self._reviewed = reviewed
            self._swap(self.config, self._parts)

    async def _settle(self) -> None:
        """After a start or reload: what was put off to be ready sooner, and memory nobody needs any more."""
        while True:
            self._swapped.clear()
            await asyncio.to_thread(settle, self._parts)
            await asyncio.sleep(SETTLED_SECS)
            await asyncio.to_thread(give_back)
            await self._swapped.wait()

    async def _count_seen(self) -> None:
        """Write down, every now and then, how often remembered verdicts were used."""
        while True:
            await asyncio.sleep(SEEN_SECS)
            seen, memory = self._cascade.take_seen(), self._parts.memory
            if seen and memory is not None:
                await asyncio.to_thread(memory.saw, seen)

    def _close(self) -> None:
        close(self._cascade, self._parts)

    @property
    def cascade(self) -> Cascade:
        return self._cascade


async def feed_watchdog(pipeline: Pipeline) -> None:
    """Tell systemd that batches get on: the loop turns, and no part that carries them has come to a stand."""
    secs = watchdog_secs()
    if secs is None:
        return
    # On its signal (SIGABRT) the journal shows where every thread stands.
    faulthandler.enable()
    while True:
        part = pipeline.stalled(secs / 2)
        if part is None:
            notify("WATCHDOG=1")
        else:
            emit(Stalled(part=part, secs=secs / 2))
        await asyncio.sleep(secs / 4)
