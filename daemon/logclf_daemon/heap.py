"""The process's memory: looked through less often, and given back when it is free."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Loading takes more than is kept of it: 25 MB after rules were compiled. Takes milliseconds; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def collect_seldom() -> None:
    """Batches make thousands of small objects and no cycles: looking for cycles after each 700 of them costs 4 %."""
    gc.set_threshold(20_000, 20, 10)
