"""Telling systemd how the service is: sd_notify, without a dependency."""

from __future__ import annotations

import os
import socket
import time

STEP_SECS = 120  # for one step of loading; a start that hangs in one still fails


def notify(*facts: str) -> None:
    """Send facts such as `READY=1` in one datagram; nothing happens where there is no systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall("\n".join(facts).encode())
    except OSError:
        return  # a service that cannot report is still a service


def notify_step(what: str) -> None:
    """Loading gets on: systemd waits for this step as long as it may take, whatever TimeoutStartSec= says."""
    notify(f"STATUS={what}", f"EXTEND_TIMEOUT_USEC={STEP_SECS * 1_000_000}")


def notify_reloading() -> None:
    """A reload begins; `READY=1` ends it. `Type=notify-reload` wants the time of it in the same datagram."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_secs() -> float | None:
    """How often systemd wants to hear of us; None: never."""
    usec, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not usec or (pid and int(pid) != os.getpid()):
        return None
    return int(usec) / 1e6
