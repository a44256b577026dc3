"""Where batches go: addresses, their weights, and which of them is tried first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from logclf_daemon.masking import without_login

DEFAULT_PORT = 24224
# A server that failed is tried last for so long, twice as long each time: one that takes chunks and never
# acknowledges costs `ack_timeout_secs` at each try.
AWAY_SECS, LONGEST_AWAY_SECS = 10.0, 300.0
_SCHEMES = ("forward://", "forward+tls://", "forward+unix://")


@dataclass(frozen=True, slots=True)
class Target:
    """One server. A unix socket has a path; its host and port mean nothing."""

    host: str
    port: int
    path: str | None = None
    tls: bool = False
    weight: int = 1
    standby: bool = False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(address: str, weight: int = 1, standby: bool = False) -> Target:
    """An address: `host:port`, `forward://host:port`, `forward+tls://host:port` or `forward+unix:///path`.

    Raises:
        ValueError: It is none of them.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "forward", address
    if scheme == "forward+unix":
        if not rest.startswith("/"):
            raise ValueError(f"'{address}': the path of a unix socket must be absolute: forward+unix:///run/x.sock")
        return Target("localhost", 0, rest, weight=weight, standby=standby)
    if f"{scheme}://" not in _SCHEMES:
        raise ValueError(f"'{without_login(address)}': unknown scheme; use one of {', '.join(_SCHEMES)}")
    host, port = _host_and_port(rest.rstrip("/"), address)
    return Target(host, port, None, scheme == "forward+tls", weight, standby)


def _host_and_port(text: str, address: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        port = after.removeprefix(":") if after else str(DEFAULT_PORT)
        good = bool(bracket) and (not after or after.startswith(":"))
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(DEFAULT_PORT)
        good = True
    if not good or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"'{without_login(address)}' is no address; write host:port, such as 127.0.0.1:24224 or [::1]:24224"
        )
    return host, int(port)


class Router:
    """Which server gets the next batch: by weight among those that answer, then standbys, then those that failed."""

    def __init__(self, targets: Sequence[Target], clock: Callable[[], float] = time.monotonic) -> None:
        self._targets = tuple(targets)
        self._clock = clock
        self._credit = dict.fromkeys(self._targets, 0)
        self._away_until = dict.fromkeys(self._targets, float("-inf"))
        self._failures = dict.fromkeys(self._targets, 0)  # one after the other

    def order(self) -> list[Target]:
        """All servers, the one to try first in front."""
        now = self._clock()
        if len(self._targets) == 1:
            return list(self._targets)
        active = [each for each in self._targets if not each.standby and self._away_until[each] <= now]
        if active:
            # Smooth weighted round robin: every choice pays with what all have gained.
            for each in active:
                self._credit[each] += each.weight
            chosen = max(active, key=lambda each: self._credit[each])
            self._credit[chosen] -= sum(each.weight for each in active)
            active.remove(chosen)
            active.insert(0, chosen)
        rest = [each for each in self._targets if each not in active]
        return active + sorted(rest, key=lambda each: (self._away_until[each] > now, self._away_until[each]))

    def failed(self, target: Target) -> bool:
        """It goes last for a while. True if that is news."""
        now = self._clock()
        if now < self._away_until[target]:  # it was tried all the same, since no other answered
            return False
        self._failures[target] += 1
        pause = AWAY_SECS * 2 ** min(self._failures[target] - 1, 10)
        self._away_until[target] = now + min(pause, LONGEST_AWAY_SECS)
        return self._failures[target] == 1

    def answered(self, target: Target) -> bool:
        """It takes its share again. True if that is news."""
        was_away = self._failures[target] > 0
        self._failures[target] = 0
        self._away_until[target] = float("-inf")
        return was_away
