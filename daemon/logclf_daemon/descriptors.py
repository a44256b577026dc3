"""How many files, sockets and pipes this process may have open, and how inputs share them."""

from __future__ import annotations

import os
import resource

LEAST_KEPT = 24  # for the state, the outputs, the watchers and what is open for a moment


def fair_share(wanted: int) -> int:
    """`wanted`, or what an input may take so that the outputs never go without: about half of what there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (limit - max(LEAST_KEPT, limit // 16)) // 2))


def occupy_standard() -> None:
    """Put /dev/null where standard input, output or error is closed.

    Else a database or a socket gets that number, and with it whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
