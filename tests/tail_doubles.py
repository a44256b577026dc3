"""A tailer on real files with a clock that only a test moves.

The numbers in the names of tests are those of the cases that real tailers got wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from logclf_daemon.codec import text_bytes
from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.framing import Frames
from logclf_daemon.inputs._tail.settings import TailSettings
from logclf_daemon.inputs._tail.tailer import Tailer
from logclf_daemon.metrics import value
from logclf_daemon.record import Batch, Outcome, Record
from logclf_daemon.state import StateDb


class Rig:
    """Reads `folder/*.log` (or other `paths`), remembers what came out, and can crash."""

    def __init__(self, folder: Path, *, filesystem: Filesystem | None = None, **settings: Any) -> None:
        self.folder = folder / "logs"
        self.folder.mkdir(exist_ok=True)
        self.now = 1000.0
        self.batches: list[Batch] = []
        self.waiting: list[Batch] = []
        self.acknowledging = True
        self._state_folder = folder / "state"
        self._filesystem = filesystem
        frames = {name: settings.pop(name) for name in list(settings) if name in Frames.__slots__}
        paths = settings.pop("paths", ["*.log"])
        self.settings = TailSettings(
            paths=[str(self.folder / path) for path in paths], frames=Frames(**frames), **settings
        )
        self.start()

    def start(self) -> None:
        self.state = StateDb.open(self._state_folder)
        self.tailer = Tailer(
            self.settings,
            self.state,
            clock=lambda: self.now,
            now_ns=lambda: int(self.now * 1_000_000_000),
            filesystem=self._filesystem,
        )

    def crash(self) -> None:
        """End without committing anything, then start again."""
        self.tailer.catalog.close()
        self.state.close()
        self.waiting.clear()
        self.start()

    def stop(self) -> None:
        """End in good order."""
        self.tailer.close()
        self.state.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def acknowledge(self) -> None:
        waiting, self.waiting = self.waiting, []
        for batch in waiting:
            batch.settle(Outcome.DELIVERED)

    def step(self, secs: float = 0.0) -> list[Batch]:
        """One step, `secs` later."""
        self.now += secs
        batches = self.tailer.step().batches
        self.batches += batches
        self.waiting += batches
        if self.acknowledging:
            self.acknowledge()
        return batches

    def read(self, secs: float = 1.0) -> list[bytes]:
        """Step until nothing more comes, `secs` later; what came."""
        self.now += secs
        before = len(self.batches)
        for _ in range(10_000):
            step = self.tailer.step()
            self.batches += step.batches
            self.waiting += step.batches
            if self.acknowledging:
                self.acknowledge()
            if not step.batches and step.wait_secs:
                return lines_of(self.batches[before:])
        raise AssertionError("it never ends")

    def settle_down(self, secs: int = 20) -> list[bytes]:
        """Let `secs` go by, a second at a time."""
        return [line for _ in range(secs) for line in self.read(1.0)]

    @property
    def lines(self) -> list[bytes]:
        return lines_of(self.batches)

    def write(self, name: str, text: bytes) -> None:
        """Append to a file of the folder."""
        with (self.folder / name).open("ab") as file:
            file.write(text)

    def path(self, name: str) -> Path:
        return self.folder / name

    def fields(self) -> list[dict[str, bytes]]:
        """Text fields and flags of every record."""
        return [
            {name: text_bytes(value) or bytes(value) for name, value in record.fields.items()}
            for batch in self.batches
            for record in batch.records
            if isinstance(record, Record)
        ]


def troubles(what: str) -> float:
    """How often it was counted, in the tests before too."""
    return value("logclf_input_troubles_total", input="files", what=what)


def lines_of(batches: list[Batch]) -> list[bytes]:
    return [line for batch in batches for line in batch.lines or () if line is not None]


def numbered(first: int, last: int) -> list[bytes]:
    """Lines that are told apart by their number."""
    return [b"line %06d" % number for number in range(first, last)]


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def rotate(path: Path) -> None:
    """path.1 -> path.2, path -> path.1; a new, empty path."""
    for number in range(8, 0, -1):
        old = Path(f"{path}.{number}")
        if old.exists():
            old.rename(f"{path}.{number + 1}")
    path.rename(f"{path}.1")
    path.touch()


def copytruncate(path: Path, copy: Path) -> None:
    copy.write_bytes(path.read_bytes())
    os.truncate(path, 0)
