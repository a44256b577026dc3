"""Compiling in a process of its own: a pattern that would take minutes and gigabytes is refused, nothing else suffers.

Run as a script, this file reads patterns as JSON and writes the compiled database; it imports nothing of ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence

DEADLINE_SECS = 20.0
ALONE_SECS = 5.0  # for one pattern alone, when all together took too long
MAX_MEMORY_BYTES = 1 << 30

Plain = tuple[str, int]  # pattern, flags


class TooCostly(Exception):
    """Compiling was given up; `culprit` is the position of the pattern that is to blame, if one alone is."""

    def __init__(self, culprit: int | None) -> None:
        super().__init__("compiling takes too long or too much memory")
        self.culprit = culprit


def compile_apart(patterns: Sequence[Plain], deadline_secs: float = DEADLINE_SECS) -> bytes:
    """The serialised database of these patterns.

    Raises:
        ValueError: The engine refuses one of them.
        TooCostly: It takes longer than the deadline or more than a gigabyte.
    """
    try:
        return _run(patterns, deadline_secs)
    except TooCostly as error:
        raise TooCostly(_culprit(patterns)) from error


def _culprit(patterns: Sequence[Plain]) -> int | None:
    for number, pattern in enumerate(patterns):
        try:
            _run([pattern], ALONE_SECS)
        except TooCostly:
            return number
    return None


def _run(patterns: Sequence[Plain], deadline_secs: float) -> bytes:
    command = [sys.executable, "-I", __file__, str(int(deadline_secs) + 1)]
    try:
        done = subprocess.run(
            command, input=json.dumps(patterns).encode(), capture_output=True, timeout=deadline_secs, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TooCostly(None) from error
    if done.returncode == 0:
        return done.stdout
    words = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode < 0 or "memory" in words.lower():
        raise TooCostly(None)  # a limit ended it
    raise ValueError(words.splitlines()[-1] if words else f"the compiler ended with code {done.returncode}")


def _main() -> int:
    import hyperscan

    secs = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (secs, secs))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    patterns = json.load(sys.stdin)
    database = hyperscan.Database()
    try:
        database.compile(
            expressions=[pattern.encode() for pattern, _ in patterns],
            ids=list(range(len(patterns))),
            elements=len(patterns),
            flags=[flags for _, flags in patterns],
        )
    except hyperscan.error as error:
        sys.stderr.write(str(error))
        return 1
    sys.stdout.buffer.write(hyperscan.dumpb(database))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
