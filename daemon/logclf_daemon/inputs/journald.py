"""The journald input: entries of the systemd journal, through rotations, reboots and crashes.

It reads what `journalctl` exports. The library cannot be had for every platform: neither python-systemd nor cysystemd
has wheels, and one that brings its own libsystemd may be older than the journal it should read; journalctl always is of
the same release as the journal. An entry is sent at least once if it is still in the journal when it is read; twice
only after a crash, and then in a batch with the same chunk id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.inputs._journald.journalctl import PROGRAM, Journalctl, Selection
from logclf_daemon.inputs._journald.reader import COMMIT_SECS, LOOKUP_SECS, JournalReader
from logclf_daemon.inputs._journald.records import left_out, own_cgroup
from logclf_daemon.inputs._journald.windows import Windows
from logclf_daemon.protocols import Emit
from logclf_daemon.state import JOURNAL, Offset, StateDb

Result = TypeVar("Result")
Name = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]+$")]
Match = Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]*=[^\x00]*$")]
_LEVEL = "(?:[0-7]|emerg|alert|crit|err|warning|notice|info|debug)"
Priorities = Annotated[str, StringConstraints(pattern=rf"^{_LEVEL}(?:\.\.{_LEVEL})?$")]


class JournaldInputOptions(BaseModel):
    """Options of the journald input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["journald"] = "journald"
    units: tuple[Name, ...] = Field(default=(), description="Only these systemd units; patterns are allowed.")
    exclude_units: tuple[Name, ...] = Field(
        default=(), description="Leave these units out, by their whole name. What this daemon writes always is."
    )
    identifiers: tuple[Name, ...] = Field(default=(), description="Only these syslog identifiers.")
    priorities: Priorities | None = Field(
        default=None, description="Only this priority and more urgent ones, or a range such as `emerg..warning`."
    )
    matches: tuple[Match, ...] = Field(
        default=(), description="Only entries with `FIELD=VALUE`; several values of one field are alternatives."
    )
    directory: str | None = Field(
        default=None, min_length=1, description="Folder of journal files to read instead of this host's own."
    )
    start_at: Literal["checkpoint", "beginning", "end"] = Field(
        default="checkpoint",
        description="Go on where reading stopped (the first time from the oldest entry), or read all again, or only "
        "what is added.",
    )
    max_field_bytes: int = Field(
        default=1 << 20, ge=64, description="Longer fields are cut there and their record is marked `truncated`."
    )
    batch_lines: int = Field(default=1024, ge=1, description="Most entries taken together.")
    renew_secs: float = Field(
        default=3600, gt=0, description="journalctl is started anew so often: it keeps files that were removed open."
    )

    @property
    def selection(self) -> Selection:
        return Selection(self.units, self.identifiers, self.priorities, self.matches, self.directory)


def trouble_with(options: JournaldInputOptions) -> str | None:
    """Why these options read nothing on this host, as far as one look tells; None if they do."""
    try:
        child = Journalctl(options.selection.last(quiet=False))
    except ServiceUnavailable as error:
        return str(error)
    said = child.read(None, LOOKUP_SECS)
    code = child.end(by_itself=said is not None)
    if "not seeing messages" in child.complaint:
        return "this user sees its own entries only"
    if said:
        return None
    if said is None:
        return f"{PROGRAM} did not answer in {LOOKUP_SECS:.0f} s"
    return child.complaint.splitlines()[-1] if child.complaint else "has no such entry" if code == 0 else f"exit {code}"


class JournaldInput:
    """Runs journalctl from a thread of its own.

    `state` keeps the cursor (None: it ends with the process). With `once`, `run` ends at the end of the journal.
    """

    def __init__(
        self, options: JournaldInputOptions, name: str = "journald", *, state: StateDb | None = None, once: bool = False
    ) -> None:
        self.name = name
        self._options = options
        self._once = once
        self._state = state or StateDb.in_memory()
        self._owns_state = state is None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"journal {name}")
        self._wake_read, self._wake_write = -1, -1
        self._reader: JournalReader | None = None
        self._stopping = False

    async def open(self) -> None:
        """Find journalctl; that there is nothing to read yet is no error.

        Raises:
            ConfigError: This host has no journalctl.
        """
        if shutil.which(PROGRAM) is None:
            raise ConfigError(f"{self.name}: there is no {PROGRAM} here; it comes with systemd, or use another input")
        self._wake_read, self._wake_write = os.pipe()

    async def run(self, emit: Emit) -> None:
        """Read until `stop`, or with `once` to the end of the journal.

        Raises:
            ServiceUnavailable: With `once`, the journal cannot be read.
        """
        reader = self._reader = await self._work(self._new_reader)
        saver = asyncio.create_task(self._save_regularly(reader))
        try:
            if self._from_end() and not self._stopping:
                await self._work(reader.skip_to_end)
            while not self._stopping:
                step = await self._work(reader.step)
                for batch in step.batches:
                    if self._stopping:
                        return  # written down and not sent: it comes after the next start
                    await emit(batch)
                if step.done:
                    return
        finally:
            saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saver

    def stop(self) -> None:
        """Read no further."""
        self._stopping = True
        if self._wake_write >= 0:
            os.write(self._wake_write, b"\0")

    async def close(self) -> None:
        """End journalctl, commit the cursor."""
        self.stop()
        if self._reader is not None:
            await self._work(self._reader.close)
        self._thread.shutdown()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._wake_read, self._wake_write = -1, -1
        if self._owns_state:
            self._state.close()

    @property
    def unread_secs(self) -> float:
        """How old what was read last is, while there is more to read."""
        return self._reader.unread_secs if self._reader is not None else 0.0

    def troubles(self) -> list[str]:
        """What keeps it from reading."""
        trouble = self._reader.trouble if self._reader is not None else ""
        return [f"{PROGRAM}: {trouble}"] if trouble else []

    def _new_reader(self) -> JournalReader:
        options = self._options
        source = JOURNAL + self.name
        if options.start_at == "beginning":
            self._state.forget([source])
        known = [offset for offset in self._state.load_offsets(self.name) if offset.source == source]
        path = (options.directory or "journal").encode("utf-8", "surrogateescape")
        new = Offset(source=source, input=self.name, device=0, inode=0, generation=0, path=path, position=0)
        windows = Windows(
            self.name,
            known[0] if known else new,
            self._state.load_intents(self.name).get(source, ()),
            batch_lines=options.batch_lines,
            left_out=left_out(options.exclude_units, own_cgroup(), os.getpid()),
        )
        return JournalReader(
            self.name,
            options.selection,
            windows,
            self._state,
            wake=self._wake_read,
            once=self._once,
            max_field_bytes=options.max_field_bytes,
            renew_secs=options.renew_secs,
        )

    def _from_end(self) -> bool:
        lost_tail = self._state.lost and self._state.on_lost_state == "tail" and self._options.start_at == "checkpoint"
        return lost_tail or self._options.start_at == "end"

    async def _save_regularly(self, reader: JournalReader) -> None:
        """The cursor moves also while the pipeline takes no more batches."""
        while True:
            await asyncio.sleep(COMMIT_SECS)
            if reader.unsaved:
                await self._work(reader.commit)

    async def _work(self, task: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, task)
