"""Whether the files a generation was made of are the same. Looked at, not watched: events get lost, a look does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from logclf_daemon.config import Config, saved_rules
from logclf_daemon.resources import folder

WATCH_SECS = 0.25  # how often they are looked at: a save is in force within a second
SHIPPED_EVERY = 20  # looks: what people save counts at once, what ships changes with an upgrade

Look = tuple[tuple[str, int, int, int], ...]


class Freshness:
    """Remembers how the files of a configuration looked, and the rules saved in the state folder."""

    def __init__(self, state: Path | None = None) -> None:
        self._saved = [saved_rules(state)] if state is not None else []
        self._seen: dict[Path, Look] = {}
        self._looks = 0

    def note(self, config: Config) -> None:
        """All of it is about to be read: what is saved from now on is a change."""
        self._seen |= {place: _look(place) for place in (*self._own(config), *_shipped(config))}

    def changed(self, config: Config) -> bool:
        """Whether a file is not as it was noted."""
        self._looks += 1
        places = self._own(config)
        if self._looks % SHIPPED_EVERY == 0:
            places += _shipped(config)
        return any(_look(place) != self._seen.get(place) for place in places)

    def _own(self, config: Config) -> list[Path]:
        own_model = config.model.enabled and config.model.path != "builtin"
        return [*config.rules.paths, *self._saved, *([config.model.folder] if own_model else [])]


def _shipped(config: Config) -> list[Path]:
    shipped_model = config.model.enabled and config.model.path == "builtin"
    return [*([folder("rules")] if config.rules.builtin else []), *([config.model.folder] if shipped_model else [])]


async def follow(
    turn: asyncio.Lock,
    look: Callable[[], tuple[bool, int | None]],
    reload: Callable[[], Awaitable[object]],
    take_reviews: Callable[[int | None], None],
) -> None:
    """Look for ever, in a thread: reload when a file changed, else hand on the number of reviews people have made.

    `turn` is held by whoever reloads: what a reload reads is no change.
    """
    while True:
        await asyncio.sleep(WATCH_SECS)
        async with turn:
            changed, reviewed = await asyncio.to_thread(look)
            if changed:
                await reload()
            else:
                take_reviews(reviewed)


def _look(place: Path) -> Look:
    return tuple(sorted(_found(place)))


def _found(place: Path) -> Iterator[tuple[str, int, int, int]]:
    """Name, size, time and identity of each file. Often and for years: pathlib costs ten times as much as `scandir`."""
    with contextlib.suppress(OSError):
        try:
            entries: Sequence[os.DirEntry[str]] = list(os.scandir(place))
        except NotADirectoryError:
            looked = place.stat()
            yield str(place), looked.st_size, looked.st_mtime_ns, looked.st_ino
            return
        for entry in entries:
            with contextlib.suppress(OSError):  # a link into nothing (an editor's lock) hides none of the others
                looked = entry.stat()
                yield entry.path, looked.st_size, looked.st_mtime_ns, looked.st_ino
