"""An input that reads lines from a list: for tests, and the reference for what an input must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.acks import Watermark
from logclf_daemon.codec import event_time, raw_str
from logclf_daemon.protocols import Emit
from logclf_daemon.record import Batch, Outcome, Record


class MemoryInputOptions(BaseModel):
    """Emits a fixed list of lines; not for production."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["memory"]
    lines: tuple[str, ...] = Field((), description="The lines to emit.")


class MemoryInput:
    """Emits `lines` in batches of `batch_size`, then ends. `watermark.position` counts the lines that are safe."""

    def __init__(
        self,
        options: MemoryInputOptions | Sequence[str],
        name: str = "memory",
        *,
        batch_size: int = 10,
        source: str = "memory",
    ) -> None:
        self.name = name
        self.lines = options.lines if isinstance(options, MemoryInputOptions) else tuple(options)
        self.watermark = Watermark()
        self.outcomes: list[Outcome] = []
        self._batch_size = batch_size
        self._source = source
        self._stopped = False

    async def open(self) -> None:
        return

    async def run(self, emit: Emit) -> None:
        for start in range(0, len(self.lines), self._batch_size):
            if self._stopped:
                return
            lines = [line.encode() for line in self.lines[start : start + self._batch_size]]
            await emit(self._batch(start, lines))

    def _batch(self, start: int, lines: Sequence[bytes]) -> Batch:
        token = self.watermark.issue(start + len(lines))

        def settle(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            if outcome is Outcome.DELIVERED:
                self.watermark.settle(token)

        records = [Record(event_time(0), {"log": raw_str(line)}) for line in lines]
        return Batch(self._source, list(records), settle, f"memory-{start}", list(lines), input=self.name)

    def stop(self) -> None:
        self._stopped = True

    async def close(self) -> None:
        return
