"""SIGHUP asks for a reload, from the first moment to the last: one that comes too early waits, none ends a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

_HANGUP = {signal.SIGHUP}


def hold() -> None:
    """From now on it stays with the kernel until it is `heard`; after that it means nothing."""
    signal.signal(signal.SIGHUP, _wait)  # not SIG_IGN: the kernel would forget one that waits
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANGUP)


@contextlib.contextmanager
def heard(ask: Callable[[], object]) -> Iterator[None]:
    """Call `ask` in the running loop at each, also at one that was held. Afterwards it means what it meant before.

    Enter it after `add_signal_handler` was called for others.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def come() -> None:
        nonlocal asked
        asked = False
        ask()

    def hear(*_: object) -> None:
        nonlocal asked
        if not asked:  # a thousand that come at once are one: they must not fill the loop
            asked = True
            loop.call_soon_threadsafe(come)

    # Not `add_signal_handler`: once that is removed, SIGHUP would end the process, whose threads don't block it.
    handler = signal.signal(signal.SIGHUP, hear)
    _do_not_warn()
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANGUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # The interpreter's end leaves SIG_IGN alone, and makes SIG_DFL of a handler.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if handler is _wait else handler)


def _do_not_warn() -> None:
    """Of more signals than the loop's pipe holds: Python waits for a lock then, in the handler of who may hold it."""
    wakes = signal.set_wakeup_fd(-1)
    if wakes != -1:
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)


def _wait(*_: object) -> None:
    """It never gets here: it is blocked as long as this is its handler."""
