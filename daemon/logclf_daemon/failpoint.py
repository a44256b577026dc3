"""Places where a test lets the process die, as if by kill -9: between any two steps of delivery.

`LOGCLF_FAILPOINT=name:count` ends the process when the named point is reached for the count-th time.
"""

from __future__ import annotations

import os
import signal

POINTS = ("read", "intent", "classified", "sent", "acked", "committed")

_name, _, _count = os.environ.get("LOGCLF_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def reached(name: str) -> None:
    """Die here if a test asked for it. Called once a batch."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
