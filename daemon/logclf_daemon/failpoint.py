"""Places where a test lets the process die, as if by kill -9: between any two steps of delivery.

`LOGCLF_FAILPOINT=name:count` ends the process when the named point is reached for the count-th time;
`name:count:hang` lets the thread that reaches it stand still instead, as a deadlock would.
"""

from __future__ import annotations

import os
import signal
import threading

POINTS = ("read", "intent", "asked", "classified", "sent", "acked", "committed")

_name, _count, _how = (os.environ.get("LOGCLF_FAILPOINT", "") + "::").split(":")[:3]
_left = int(_count or 1)


def reached(name: str) -> None:
    """Die or hang here if a test asked for it. Called once a batch."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left <= 0 and _how == "hang":
        threading.Event().wait()
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
