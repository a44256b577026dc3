"""The program `journalctl`, run as a child: its arguments, its output, its end.

Its output is not read faster than we can carry it: the pipe fills and it waits.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from logclf_daemon.errors import ServiceUnavailable

PROGRAM = "journalctl"
BLOCK_BYTES = 128 << 10
GATHER_BYTES = 1 << 20
GATHER_SECS = 0.02  # entries that come one by one are taken together
COMPLAINT_BYTES = 2000
NO_CURSOR = "Failed to seek to cursor"  # what it says of a cursor that is none
PATIENCE_SECS = 5.0  # between the end of the output and the end of the program


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are asked for."""

    units: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ()
    priorities: str | None = None
    matches: tuple[str, ...] = ()
    directory: str | None = None

    def arguments(self, cursor: str, *, since_us: int = 0, follow: bool = False) -> list[str]:
        """All entries from `cursor` on, that one included, in export format; with `follow` without end.

        Without a cursor those from the second of `since_us` on, which are microseconds since 1970.

        `--after-cursor` is of no use: where the cursor's entry is gone, or is not selected, it leaves out another
        one (systemd 30288, 38912). `--follow` alone leaves out what older boots wrote (systemd 36102): it may only go
        on where a run without it came to the end.
        """
        arguments = ["--output=export", "--no-pager", "--quiet", "--no-tail"]
        if follow:
            # In a folder there may be journals of many hosts; --merge lifts the limit to one boot.
            arguments += ["--follow", "--merge"] if self.directory else ["--follow"]
        if cursor:
            arguments.append(f"--cursor={cursor}")
        elif since_us:
            arguments.append(f"--since=@{since_us // 1_000_000}")
        return arguments + self._choice()

    def last(self, *, quiet: bool = True) -> list[str]:
        """The last entry alone; not `quiet`: with its hints on what it may not read."""
        arguments = ["--output=export", "--no-pager", "--lines=1", *self._choice()]
        return ["--quiet", *arguments] if quiet else arguments

    def _choice(self) -> list[str]:
        chosen = [f"--unit={unit}" for unit in self.units]
        chosen += [f"--identifier={identifier}" for identifier in self.identifiers]
        if self.priorities is not None:
            chosen.append(f"--priority={self.priorities}")
        if self.directory is not None:
            chosen.append(f"--directory={self.directory}")
        return chosen + list(self.matches)


class Journalctl:
    """One run of it. Used by one thread.

    Raises:
        ServiceUnavailable: It cannot be started.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.complaint = ""
        self._errors = os.memfd_create("journalctl")
        try:
            self._process = subprocess.Popen(
                [PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                start_new_session=True,  # a Ctrl-C in the terminal is for us
            )
        except OSError as error:
            os.close(self._errors)
            raise ServiceUnavailable(f"{PROGRAM}: {error.strerror}; it comes with systemd") from error

    def read(self, wake: int | None, wait_secs: float) -> bytes | None:
        """What it says next, gathered for a moment; empty at the end, None if `wake` or the time came first."""
        blocks: list[bytes] = []
        size = 0
        while size < GATHER_BYTES:
            ready = _ready((self._output, wake), GATHER_SECS if blocks else wait_secs)
            if self._output not in ready:
                break
            block = os.read(self._output, BLOCK_BYTES)
            blocks.append(block)
            size += len(block)
            if not block or wake in ready:
                break
        return b"".join(blocks) if blocks else None

    def end(self, *, by_itself: bool = False) -> int:
        """Kill it (it has nothing to lose), or take its own end where the output ended; how it ended, as an exit code.

        `complaint` is the end of what it said on standard error.
        """
        assert self._process.stdout is not None
        self._process.stdout.close()
        if not by_itself:
            self._process.kill()
        try:
            ended = self._process.wait(PATIENCE_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            ended = self._process.wait()
        said = os.pread(self._errors, COMPLAINT_BYTES, max(0, os.fstat(self._errors).st_size - COMPLAINT_BYTES))
        os.close(self._errors)
        self.complaint = said.decode("utf-8", "replace").strip()
        return ended

    @property
    def _output(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()


def pause(wake: int, secs: float) -> None:
    """Wait so long, or until `wake`."""
    _ready((wake,), secs)


def _ready(fds: Sequence[int | None], wait_secs: float) -> set[int | None]:
    poll = select.poll()
    for fd in fds:
        if fd is not None:
            poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(wait_secs * 1000)}
