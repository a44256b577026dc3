"""The stdin input: each line of standard input is a record; it ends where the input ends.

Nothing can be read twice from a pipe: what was read and not delivered when the process dies is lost.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.codec import event_time, raw_str
from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.inputs._tail.batches import TRUE
from logclf_daemon.inputs._tail.lines import Cut, PlainFraming, Splitter
from logclf_daemon.protocols import Emit
from logclf_daemon.record import AnyRecord, Batch, Record

READ_BYTES = 128 << 10


class StdinInputOptions(BaseModel):
    """Options of the stdin input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["stdin"] = "stdin"
    message_key: str = Field(default="log", description="Field for the line.")
    max_line_bytes: int = Field(
        default=1 << 20, ge=64, description="Longer lines are cut there and marked `truncated`."
    )
    batch_lines: int = Field(default=1024, ge=1, description="Most records in a batch.")


class StdinInput:
    """Reads in a thread of its own; `fd` is another descriptor to read from. Settling has no effect."""

    def __init__(
        self,
        options: StdinInputOptions,
        name: str = "stdin",
        *,
        fd: int | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self._options = options
        self._fd = fd
        self._now_ns = now_ns
        self._framing = PlainFraming(Splitter(), options.max_line_bytes, READ_BYTES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._wake_read, self._wake_write = -1, -1
        self._stopping = False

    async def open(self) -> None:
        """Find the descriptor.

        Raises:
            ConfigError: Standard input is closed.
        """
        if self._fd is None:
            try:
                self._fd = sys.stdin.fileno()
            except (AttributeError, ValueError, OSError) as error:
                raise ConfigError("stdin: is closed; connect it or use another input") from error
        self._wake_read, self._wake_write = os.pipe()

    async def run(self, emit: Emit) -> None:
        """Read until the end of the input or `stop`.

        Raises:
            ServiceUnavailable: It cannot be read (any more).
        """
        loop = asyncio.get_running_loop()
        rest, skip = b"", ""
        while not self._stopping:
            block = await loop.run_in_executor(self._thread, self._next_block)
            if block is None:
                return
            data = rest + block
            used = 0
            for cut in self._framing.cut(data, skip, closed=not block, limit=self._options.batch_lines):
                used += cut.length
                skip = cut.skip
                if cut.lines:
                    await emit(self._batch(cut))
            rest = data[used:]
            if not block:
                return

    def stop(self) -> None:
        """Read no further."""
        self._stopping = True
        if self._wake_write >= 0:
            os.write(self._wake_write, b"\0")

    async def close(self) -> None:
        """End the thread. Standard input itself stays open."""
        self.stop()
        self._thread.shutdown()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._wake_read, self._wake_write = -1, -1

    def _next_block(self) -> bytes | None:
        """What there is, as soon as there is something; empty at the end, None after `stop`."""
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._wake_read in ready:
            return None
        try:
            return os.read(self._fd, READ_BYTES)
        except OSError as error:
            raise ServiceUnavailable(
                f"stdin: cannot be read: {error.strerror}; connect it to something else"
            ) from error

    def _batch(self, cut: Cut) -> Batch:
        time, key = event_time(self._now_ns()), self._options.message_key
        records: list[AnyRecord] = [Record(time, {key: text}) for text in map(raw_str, cut.lines)]
        for at, mark in cut.marks.items():
            record = records[at]
            if mark == "truncated" and isinstance(record, Record):
                record.fields["truncated"] = TRUE
        lines: list[bytes | None] = []
        lines += cut.lines
        return Batch("stdin", records, lines=lines, input=self.name, size=cut.length)
