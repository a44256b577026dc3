"""How many files, sockets and pipes this process may have open, and how inputs share them."""

from __future__ import annotations

import resource

LEAST_KEPT = 24  # for the state, the outputs, the watchers and what is open for a moment


def fair_share(wanted: int) -> int:
    """`wanted`, or what an input may take so that the outputs never go without: about half of what there is."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (limit - max(LEAST_KEPT, limit // 16)) // 2))
