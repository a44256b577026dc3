"""An output that keeps what it is given: for tests, and the reference for what an output must do."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from logclf_daemon.codec import message_lines
from logclf_daemon.record import AnyRecord, Batch


class MemoryOutputOptions(BaseModel):
    """Keeps everything in memory; not for production."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["memory"]


class MemoryOutput:
    """Keeps batches in the order in which they were written."""

    def __init__(self, options: MemoryOutputOptions | None = None, name: str = "memory") -> None:
        self.name = name
        self.batches: list[Batch] = []

    @property
    def written(self) -> list[AnyRecord]:
        """All records, in order."""
        return [record for batch in self.batches for record in batch.records]

    @property
    def lines(self) -> list[bytes | None]:
        """The message of each record, in order."""
        return message_lines(self.written, ("log",))

    async def open(self) -> None:
        return

    async def write(self, batch: Batch) -> None:
        self.batches.append(batch)

    async def close(self) -> None:
        return
