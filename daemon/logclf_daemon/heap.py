"""Memory that was freed goes back to the system; by itself the C library keeps most of it for later."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Loading takes more than is kept of it: 25 MB after rules were compiled. Takes milliseconds; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
