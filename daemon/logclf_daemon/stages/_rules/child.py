"""Compiling in a process of its own: a pattern that would take minutes and gigabytes is refused, nothing else suffers.

Run as a script, this file reads patterns as JSON and writes the compiled database; or, after `alone`, the position of
each before it is compiled by itself. It imports nothing of ours.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

DEADLINE_SECS = 20.0
MORE_SECS = 0.01  # for each pattern: most take a millisecond or two
ALONE_SECS = 5.0  # for one pattern alone, when all together took too long
MAX_MEMORY_BYTES = 1 << 30

_COMMAND = (sys.executable, "-I", __file__)

Plain = tuple[str, int]  # pattern, flags


class TooCostly(Exception):
    """Compiling was given up; `culprit` is the position of the pattern that is to blame, if one alone is."""

    def __init__(self, culprit: int | None) -> None:
        super().__init__("compiling takes too long or too much memory")
        self.culprit = culprit


def compile_apart(patterns: Sequence[Plain]) -> bytes:
    """The serialised database of these patterns.

    Raises:
        ValueError: The engine refuses one of them.
        TooCostly: It takes longer than one may wait for so many, or more than a gigabyte.
    """
    deadline_secs = DEADLINE_SECS + MORE_SECS * len(patterns)
    command = [*_COMMAND, str(int(deadline_secs) + 1)]
    try:
        done = subprocess.run(
            command, input=json.dumps(patterns).encode(), capture_output=True, timeout=deadline_secs, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TooCostly(_culprit(patterns)) from error
    if done.returncode == 0:
        return done.stdout
    words = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode < 0 or "memory" in words.lower():
        raise TooCostly(_culprit(patterns))  # a limit ended it
    raise ValueError(words.splitlines()[-1] if words else f"the compiler ended with code {done.returncode}")


def _culprit(patterns: Sequence[Plain]) -> int | None:
    """The pattern that takes too long or too much alone. One process tries them all: starting one takes longer."""
    command = [*_COMMAND, str(ALONE_SECS), "alone"]
    done = subprocess.run(command, input=json.dumps(patterns).encode(), capture_output=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode else None


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    patterns: list[Plain] = json.load(sys.stdin)
    return _each_alone(patterns, float(sys.argv[1])) if sys.argv[2:] else _together(patterns, int(sys.argv[1]))


def _together(patterns: Sequence[Plain], secs: int) -> int:
    import hyperscan

    resource.setrlimit(resource.RLIMIT_CPU, (secs, secs))
    try:
        database = _compiled(patterns)
    except hyperscan.error as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.buffer.write(hyperscan.dumpb(database))
    return 0


def _each_alone(patterns: Sequence[Plain], secs: float) -> int:
    """Not 0, or ended by the alarm, at the one that is to blame: its position was written last."""
    import hyperscan

    for at, pattern in enumerate(patterns):
        print(at, flush=True)
        signal.setitimer(signal.ITIMER_REAL, secs)  # not handled: it ends the process, also within the compiler
        try:
            _compiled([pattern])
        except hyperscan.error as error:
            if "memory" in str(error).lower():
                return 1
    return 0


def _compiled(patterns: Sequence[Plain]) -> Any:
    import hyperscan

    database = hyperscan.Database()
    database.compile(
        expressions=[pattern.encode() for pattern, _ in patterns],
        ids=list(range(len(patterns))),
        elements=len(patterns),
        flags=[flags for _, flags in patterns],
    )
    return database


if __name__ == "__main__":
    sys.exit(_main())
