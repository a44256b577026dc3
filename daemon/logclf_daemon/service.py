"""The daemon's life: start, reload, drain, stop. Signals only set flags; the work is done in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator

from logclf_daemon import __version__
from logclf_daemon.activation import CONTROL, PassedSockets
from logclf_daemon.build import Parts, build_parts, build_pipeline, cascade_of, generation_of, open_state, waiting_room
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config
from logclf_daemon.control import Answer, ControlServer, socket_path
from logclf_daemon.errors import ConfigError
from logclf_daemon.events import (
    NotUsed,
    Reloaded,
    ReloadRefused,
    SocketNotUsed,
    Stalled,
    Started,
    Stopped,
    Stopping,
    emit,
    records_dropped,
)
from logclf_daemon.metrics import value
from logclf_daemon.notify import notify, notify_reloading, watchdog_secs
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.resources import folder

WATCH_SECS = 0.25  # how often rule and model files are looked at: a save is in force within a second
RESTART_SECTIONS = ("inputs", "outputs", "state", "record", "delivery", "http")

Signature = tuple[tuple[str, int, int, int], ...]


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

    async def run(self) -> None:
        """Start, run, drain.

        Raises:
            LogclfError: It cannot start, or an input or output failed for good.
        """
        sockets = PassedSockets.from_environment()
        directory, state = open_state(self.config)
        self._directory = directory
        self._seen = self._signature()  # before they are read: a save from now on is noticed
        self._parts = build_parts(self.config, directory)
        self._cascade = cascade_of(self._parts)
        self._state = state
        control = ControlServer(
            socket_path(directory),
            {"status": self.status, "reload": self._reload_and_tell, "reload_soon": self._reload_soon},
            sockets.take_named(CONTROL),
        )
        try:
            self._pipeline = build_pipeline(self.config, self._cascade, state, once=self._once, sockets=sockets)
            await self._pipeline.open()
            if not self._once:
                await control.open()
            for left in sockets.close():
                emit(SocketNotUsed(socket=left))
            await self._serve(self._pipeline)
        finally:
            await control.close()
            self._close()
            if state is not None:
                state.close()

    async def _serve(self, pipeline: Pipeline) -> None:
        with self._signals(pipeline):
            background = [
                asyncio.create_task(task) for task in (self._watch_files(), self._reloads(), feed_watchdog(pipeline))
            ]
            self._tell_started()
            try:
                await pipeline.run()
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
        emit(Stopped(delivered=pipeline.totals.delivered, returned=pipeline.totals.returned))

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
        if self.config.http.listen is not None:
            emit(NotUsed(setting="http.listen"))
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

        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        loop.add_signal_handler(signal.SIGTERM, stop, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, stop, signal.SIGINT)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        try:
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

    async def status(self) -> Answer:
        """What the daemon does, for people and programs."""
        parts, pipeline, state = self._parts, self._pipeline, self._state
        return {
            "ok": True,
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started, 1),
            "generation": self._number,
            "rules": len(parts.rules),
            "model": f"{parts.model.path.name} {parts.model.digest[:8]}" if parts.model else "off",
            "llm": f"{self.config.llm.model}: {parts.llm.state}" if parts.llm else "off",
            "state": {
                "directory": str(self._directory),
                "offsets": ("behind: the disk takes no writes" if state.behind else "kept") if state else "not needed",
                "lost": "yes: state.db was damaged and set aside" if state and state.lost else None,
            },
            "inputs": {name: input_ledger(name) for name in (source.name for source in pipeline.inputs)},
            "outputs": {slot.output.name: output_ledger(slot) for slot in pipeline.outputs},
        }

    async def reload(self) -> str | None:
        """Read configuration, rules and model again and swap them in; the reason if they were refused."""
        async with self._reloading:
            notify_reloading()
            try:
                config = await asyncio.to_thread(self._reread) if self._reread else self.config
                changed = [name for name in RESTART_SECTIONS if getattr(config, name) != getattr(self.config, name)]
                if changed:
                    raise ConfigError(f"{', '.join(changed)}: changed; restart the service for that")
                parts = await asyncio.to_thread(build_parts, config, self._directory, self._parts)
            except ConfigError as error:
                emit(ReloadRefused(error=str(error)))
                notify("READY=1", f"STATUS=reload refused, generation {self._number} stays")
                return str(error)
            self._swap(config, parts)
            notify("READY=1", f"STATUS={len(parts.rules)} rules, generation {self._number}")
            return None

    def _swap(self, config: Config, parts: Parts) -> None:
        before, self._parts, self.config = self._parts, parts, config
        self._number += 1
        if parts.llm is not before.llm:
            room, self._cascade.waiting = self._cascade.waiting, waiting_room(parts)
            if room is not None:
                room.close()
        self._cascade.generation = generation_of(parts, self._number)
        before.close(kept=parts)
        emit(Reloaded(generation=self._number, rules=len(parts.rules)))

    async def _watch_files(self) -> None:
        """Reload when a rule or model file changed. Looked at, not watched: events get lost, a look does not."""
        while True:
            await asyncio.sleep(WATCH_SECS)
            now = await asyncio.to_thread(self._signature)
            if now != self._seen:
                self._seen = now
                await self.reload()

    def _signature(self) -> Signature:
        """Name, size, time and identity of every file a generation is made of."""
        places = [*self.config.rules.paths, *([folder("rules")] if self.config.rules.builtin else [])]
        if self.config.model.enabled:
            places.append(self.config.model.folder)
        found = []
        for place in places:
            with contextlib.suppress(OSError):
                for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                    stat = path.stat()
                    found.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return tuple(found)

    def _close(self) -> None:
        if (room := self._cascade.waiting) is not None:
            room.close()
        self._cascade.close()
        self._parts.close()

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


def input_ledger(name: str) -> dict[str, float]:
    """What became of the records of an input: read = delivered + dropped + returned + in_flight."""
    counted = {word: value(f"logclf_records_{word}_total", input=name) for word in ("read", "delivered", "returned")}
    dropped = sum(
        sample.value
        for metric in records_dropped.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["input"] == name
    )
    return {**counted, "dropped": dropped, "in_flight": value("logclf_records_in_flight", input=name)}


def output_ledger(slot: OutputSlot) -> dict[str, object]:
    """What an output took, and since when it is away."""
    return {
        "written": value("logclf_output_records_delivered_total", output=slot.output.name),
        "away_secs": round(time.monotonic() - slot.away_since) if slot.away_since is not None else None,
    }
