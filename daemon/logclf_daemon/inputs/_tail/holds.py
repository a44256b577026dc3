"""New files that must wait, because they may be copies that are just being made."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from logclf_daemon.inputs._tail.globs import Seen
from logclf_daemon.inputs._tail.identity import Identity, family
from logclf_daemon.inputs._tail.stream import Stream
from logclf_daemon.inputs._tail.tail import Tail

_LONGEST_SECS = 60.0


@dataclass(slots=True)
class _Hold:
    """It has the bytes of `tail`, and is a copy if that is truncated soon; without one: it may grow still."""

    tail: Tail | None
    stream: Stream | None
    since: float
    until: float
    size: int


class Holds:
    """At most a minute each, while they grow; `wait_secs` after they stopped growing.

    A compressed file waits longer: as long as the file whose bytes it has is there, it says nothing new.
    """

    def __init__(self, wait_secs: float) -> None:
        self._wait_secs = wait_secs
        self._held: dict[Identity, _Hold] = {}

    def waits(self, identity: Identity, path: bytes, seen: Seen, now: float) -> bool:
        """Whether a new file has to wait (still)."""
        hold = self._held.get(identity)
        if hold is not None:
            return self._goes_on(hold, path, seen, now)
        if path.endswith(b".gz"):
            # Read half compressed it would look like a file of its own.
            self._held[identity] = _Hold(None, None, now, now + self._wait_secs, seen.stat.st_size)
            return True
        return False

    def may_be_copy(self, identity: Identity, path: bytes, tail: Tail) -> bool:
        """Whether the file could be a copy of what is in `tail`, and has not waited for that already."""
        hold = self._held.get(identity)
        return (hold is None or hold.tail is None) and tail.label == family(path) != path

    def wait_for(self, identity: Identity, seen: Seen, tail: Tail, now: float) -> None:
        """It has the bytes of `tail`: wait whether that is truncated."""
        self._held[identity] = _Hold(tail, tail.stream, now, now + self._wait_secs, seen.stat.st_size)

    def release(self, identity: Identity) -> None:
        """It was taken up."""
        self._held.pop(identity, None)

    def release_missing(self, found: Container[Identity]) -> Iterable[Identity]:
        """Forget those that are not there any more."""
        missing = [identity for identity in self._held if identity not in found]
        for identity in missing:
            del self._held[identity]
        return missing

    def _goes_on(self, hold: _Hold, path: bytes, seen: Seen, now: float) -> bool:
        if hold.tail is not None and hold.tail.stream is not hold.stream:
            return False
        compressed = path.endswith(b".gz")
        if now >= hold.until and seen.stat.st_size != hold.size:
            if compressed or now - hold.since < _LONGEST_SECS:
                hold.until = now + self._wait_secs
            hold.size = seen.stat.st_size
        return now < hold.until or (compressed and hold.tail is not None and not hold.tail.gone)
