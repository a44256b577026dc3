"""The three kinds of component. A new one is a file, a line in `registry.py` and a case in `tests/contract/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from logclf_daemon.record import Batch, Question, Verdict

Emit = Callable[[Batch], Awaitable[None]]
"""Hands a batch to the pipeline. Returns when there is room for the next one: this is the back-pressure."""


class Input(Protocol):
    """Reads batches and learns by `Batch.settle` when each of them is safe."""

    name: str

    async def open(self) -> None:
        """Bind, create, check what can be checked before the daemon says that it is ready.

        Raises:
            ConfigError: It can never work as configured.
            ServiceUnavailable: A port or folder is taken or missing now.
        """

    async def run(self, emit: Emit) -> None:
        """Emit batches until `stop` was called or there is nothing more to read."""

    def stop(self) -> None:
        """Read no further; `run` returns soon. Batches under way still settle."""

    async def close(self) -> None:
        """After the last batch settled: commit positions, close files and connections."""


class Stage(Protocol):
    """Answers questions the rules left open. It never touches a record."""

    name: str

    def classify(self, questions: Sequence[Question]) -> Sequence[Verdict | None]:
        """One answer for each question, in order; None abstains, an `Unclassified` verdict abstains with a reason.

        Called in a worker thread, one call at a time for each stage.

        Raises:
            StageError: It could not answer this time; counts as abstention.
        """


class Output(Protocol):
    """Puts batches in a safe place."""

    name: str

    async def open(self) -> None:
        """Check what can be checked before the first batch; a destination that is away is no error."""

    async def write(self, batch: Batch) -> None:
        """Return only when the records are safe at the destination. Calls may overlap.

        Raises:
            OutputUnavailable: The same call may succeed later.
            RecordRejected: It never will.
        """

    async def close(self) -> None:
        """Flush and close; nothing is under way any more."""
