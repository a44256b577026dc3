"""The files input: tails files that match patterns, through rotations, truncations and crashes.

A line is sent at least once from the moment it is in a file that can still be opened. It comes twice only after a
crash, and then in a batch with the same chunk id. What a truncation removes before it was read is gone, unless a copy
made by the rotation (copytruncate) matches a pattern too: its rest is read. Files that are rotated away while the
daemon is stopped are found again in their folder; those that came and went in that time only if a pattern matches
their rotated name.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from logclf_daemon.descriptors import fair_share
from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs._tail.framing import Frames
from logclf_daemon.inputs._tail.lines import normal_name
from logclf_daemon.inputs._tail.multiline import grouping_for
from logclf_daemon.inputs._tail.settings import TailSettings
from logclf_daemon.inputs._tail.tailer import COMMIT_SECS, Step, Tailer
from logclf_daemon.loose import LooseThreads
from logclf_daemon.protocols import Emit
from logclf_daemon.state import StateDb
from logclf_daemon.watch import Watcher

CLOSE_SECS = 10.0  # for the last commit; a disk that hangs must not keep the process from its end
STILL_SECS = 60.0  # so long without reading what is there is worth a word
GATHER_SECS = 0.02  # a file that is written to without a pause does not wake us for each line

Result = TypeVar("Result")
Seconds = Annotated[float, Field(gt=0)]


class StartPattern(BaseModel):
    """Messages begin with a line that matches; all other lines belong to the message before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str = Field(description="RE2 pattern, searched in each line; use `^` to anchor it.")


class FilesInputOptions(BaseModel):
    """Options of the files input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Patterns of files to read; `**` goes through folders. Include the rotated names (`app.log*`).",
    )
    exclude: tuple[str, ...] = Field(
        default=(),
        description="Patterns, on the whole path or the name alone, of files to leave out. Compressed ones always are.",
    )
    start_at: Literal["checkpoint", "beginning", "end"] = Field(
        default="checkpoint",
        description="Files that are there at the start: go on where reading stopped (new ones from the beginning), or "
        "read them all again, or only what is added. Later ones are always read from the beginning.",
    )
    multiline: Literal["none", "python", "java", "go"] | StartPattern = Field(
        default="none", description="Put stack traces of a language together, or lines by `{start: pattern}`."
    )
    format: Literal["plain", "cri", "docker"] = Field(
        default="plain", description="Format of a container runtime: its prefix is removed, its parts are joined."
    )
    encoding: str = Field(
        default="utf-8",
        description="Encoding of the files; utf-8 bytes are passed on as they are, all others become UTF-8.",
    )
    gzip: bool = Field(default=False, description="Also read `.gz` files, once, unless their content was read before.")
    message_key: str = Field(default="log", description="Field for the line.")
    path_key: str = Field(default="file", description="Field for the path.")
    max_line_bytes: int = Field(
        default=1 << 20, ge=64, description="Longer lines or messages are cut there and marked `truncated`."
    )
    reconcile_secs: Seconds = Field(default=1.0, description="How often known files are looked at.")
    discover_secs: Seconds = Field(default=5.0, description="How often the patterns are looked up.")
    idle_flush_secs: Seconds = Field(
        default=5.0, description="An unfinished last line or message is sent after so long without a change."
    )
    rotate_wait_secs: Seconds = Field(
        default=5.0, description="A rotated or deleted file is closed after so long without a change, all delivered."
    )
    max_open_files: int = Field(
        default=512,
        ge=1,
        description="Files open at a time, at most half of what the process may open; there may be many more files.",
    )
    read_bytes: int = Field(
        default=128 << 10, ge=4096, description="Bytes read of one file before the next has a turn."
    )
    batch_lines: int = Field(default=1024, ge=1, description="Most records in a batch.")
    watch: bool = Field(default=True, description="Be woken by the kernel (inotify); off: only look regularly.")

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            normal_name(encoding)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return encoding

    @field_validator("multiline")
    @classmethod
    def _pattern_compiles(cls, multiline: str | StartPattern) -> str | StartPattern:
        if isinstance(multiline, StartPattern):
            try:
                grouping_for("none", multiline.start)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return multiline


class FilesInput:
    """Runs a tailer in a thread of its own, so that a slow disk never holds up the loop.

    `state` keeps the positions (None: they end with the process). With `once`, `run` ends when everything that was
    there at the start was read. `own_files` are what this daemon writes: no pattern matches them.
    """

    def __init__(
        self,
        options: FilesInputOptions,
        name: str = "files",
        *,
        state: StateDb | None = None,
        once: bool = False,
        own_files: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self._state = state or StateDb.in_memory()
        self._owns_state = state is None
        self._settings = _settings(options, name, self._state, once=once, own=own_files)
        self._tailer = Tailer(self._settings, self._state, clock=clock, now_ns=now_ns, on_settled=self._on_settled)
        self._clock = clock
        self._watches = options.watch and not once
        self._watched = -1
        self._thread = LooseThreads(1, f"tail {name}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    async def open(self) -> None:
        """Nothing to wait for: files may come later. That nothing matches yet is told when reading begins."""

    async def run(self, emit: Emit) -> None:
        """Read until `stop`, or with `once` to the present ends of the files."""
        self._loop = asyncio.get_running_loop()
        watcher = Watcher(self.name, self._wake_up) if self._watches else None
        saver = asyncio.create_task(self._save_regularly())
        try:
            await self._read(emit, watcher)
        finally:
            saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saver
            if watcher is not None:
                await self._end(watcher.close)

    def stop(self) -> None:
        """Read no further."""
        self._stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Commit the positions, close the files."""
        if await self._end(self._tailer.close):
            self._thread.shutdown()
            if self._owns_state:
                self._state.close()

    def matches(self, path: bytes) -> bool:
        """Whether a file of this name is one to read."""
        return self._tailer.catalog.matches(path)

    @property
    def unread_secs(self) -> float:
        """How long the oldest line that was not read has been there."""
        return self._tailer.lag.secs(self._clock())

    def troubles(self) -> list[str]:
        """What an operator should know: files that cannot be read, reading that stands still."""
        found = [f"{path}: {why}" for path, why in self._tailer.unreadable]
        if (still := self._tailer.lag.still_secs(self._clock())) > STILL_SECS:
            found.append(f"{self._tailer.lag.unread} bytes to read and none read for {still:.0f} s")
        return found

    async def _read(self, emit: Emit, watcher: Watcher | None) -> None:
        while not self._stopping:
            self._wake.clear()
            step = await self._work(lambda: self._step(watcher))
            for batch in step.batches:
                if self._stopping:
                    return  # written down and not sent: it comes after the next start
                await emit(batch)
            if step.done:
                return
            if step.wait_secs and not (self._tailer.blocked and self._tailer.unsaved):
                await self._sleep(step.wait_secs)

    def _step(self, watcher: Watcher | None) -> Step:
        if watcher is None:
            return self._tailer.step()
        if self._watched < 0:  # before the first look: what comes right after it is noticed
            watcher.watch(self._tailer.catalog.folders)
        step = self._tailer.step(watcher.take())
        if self._tailer.discoveries != self._watched:
            self._watched = self._tailer.discoveries
            watcher.watch(self._tailer.catalog.folders)
        return step

    async def _sleep(self, secs: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(secs):
                await self._wake.wait()
                if not self._stopping:
                    await asyncio.sleep(GATHER_SECS)

    async def _save_regularly(self) -> None:
        """Positions move also while the pipeline takes no more batches."""
        while True:
            await asyncio.sleep(COMMIT_SECS)
            if self._tailer.unsaved:
                await self._work(self._tailer.commit)

    async def _work(self, task: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, task)

    async def _end(self, task: Callable[[], None]) -> bool:
        """False: the thread hangs. What it would have written down comes again after the next start."""
        done, _ = await asyncio.wait([asyncio.ensure_future(self._work(task))], timeout=CLOSE_SECS)
        for each in done:
            each.result()
        return bool(done)

    def _on_settled(self) -> None:
        if self._tailer.blocked:
            self._wake_up()

    def _wake_up(self) -> None:
        if self._loop is not None:
            # The loop may have ended while the watcher's thread was on its way.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)


def _settings(options: FilesInputOptions, name: str, state: StateDb, *, once: bool, own: Sequence[str]) -> TailSettings:
    start = options.multiline.start if isinstance(options.multiline, StartPattern) else None
    preset = options.multiline if isinstance(options.multiline, str) else "none"
    lost_tail = state.lost and state.on_lost_state == "tail" and options.start_at == "checkpoint"
    return TailSettings(
        name=name,
        paths=options.paths,
        exclude=options.exclude,
        own=own,
        start_at="end" if lost_tail else options.start_at,
        frames=Frames(
            encoding=options.encoding,
            format=options.format,
            grouped=grouping_for(preset, start),
            max_line_bytes=options.max_line_bytes,
            read_bytes=options.read_bytes,
        ),
        message_key=options.message_key,
        path_key=options.path_key,
        gzip=options.gzip,
        reconcile_secs=options.reconcile_secs,
        discover_secs=options.discover_secs,
        idle_flush_secs=options.idle_flush_secs,
        rotate_wait_secs=options.rotate_wait_secs,
        max_open_files=fair_share(options.max_open_files),
        batch_lines=options.batch_lines,
        once=once,
    )
