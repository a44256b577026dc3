"""Folders watched for changes: a hint that makes things fast, never what makes them right.

Events get lost (overflow, folders removed and made again, links, network file systems), so whoever uses a `Watcher`
looks for itself from time to time; with no watcher at all everything still works, up to that much later.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from logclf_daemon.events import InputTrouble, emit

MAX_DIRTY = 10_000
MAX_FOLDERS = 256  # each watched folder costs a thread
# Without a filter, the opening and closing of our own reads would come back to us as events, for ever.
_WANTED: list[type[FileSystemEvent]] = [
    FileModifiedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    FileAttribEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
_OVERFLOW_LOGGER = "watchdog.observers.inotify_c"


class Watcher:
    """Marks changed paths dirty and calls `wake` (from another thread; it must not block).

    `name` is the component that its one warning, when watching is impossible, speaks of.
    """

    def __init__(self, name: str, wake: Callable[[], None], *, observer: Callable[[], BaseObserver] = Observer) -> None:
        self._name = name
        self._wake = wake
        self._dirty: set[bytes] = set()
        self._overflowed = False
        self._lock = threading.Lock()
        self._watches: dict[bytes, ObservedWatch] = {}
        self._new_observer = observer
        self._observer: BaseObserver | None = None
        self._handler = _Handler(self._mark)
        self._overflow = _OverflowHandler(self._everything)
        self.gave_up = False

    def watch(self, folders: Iterable[bytes]) -> None:
        """Watch exactly these folders, each without its subfolders; for a missing one the nearest that exists above.

        Called again from time to time: it also revives what died because its folder was removed.
        """
        if self.gave_up:
            return
        wanted = set(sorted({found for folder in folders for found in _existing(folder)})[:MAX_FOLDERS])
        try:
            self._watch_exactly(wanted)
        except OSError as error:
            # ENOSPC: fs.inotify.max_user_watches; EMFILE: max_user_instances. Half a watch helps nobody.
            self.gave_up = True
            self._stop_observer()
            emit(InputTrouble(input=self._name, what="watch_unavailable", where="inotify", detail=str(error)))

    def take(self) -> set[bytes] | None:
        """The paths that changed since the last call; None: too much happened, look at everything."""
        with self._lock:
            taken, self._dirty = self._dirty, set()
            overflowed, self._overflowed = self._overflowed, False
        return None if overflowed else taken

    def close(self) -> None:
        """Stop watching; `wake` is not called any more."""
        self._stop_observer()

    def _watch_exactly(self, wanted: set[bytes]) -> None:
        if self._observer is None:
            self._observer = self._new_observer()
            self._observer.start()
            logging.getLogger(_OVERFLOW_LOGGER).addHandler(self._overflow)
        dead = {os.fsencode(emitter.watch.path) for emitter in self._observer.emitters if not emitter.is_alive()}
        for folder in set(self._watches) - wanted | dead & set(self._watches):
            self._observer.unschedule(self._watches.pop(folder))
        for folder in wanted - set(self._watches):
            try:
                watch = self._observer.schedule(
                    self._handler, os.fsdecode(folder), event_filter=_WANTED, follow_symlink=True
                )
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # gone or closed since; the next call sees
            self._watches[folder] = watch

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        self._watches.clear()
        if observer is not None:
            logging.getLogger(_OVERFLOW_LOGGER).removeHandler(self._overflow)
            observer.stop()
            observer.join()

    def _mark(self, paths: Iterable[bytes]) -> None:
        with self._lock:
            self._dirty.update(paths)
            if len(self._dirty) > MAX_DIRTY:
                self._dirty.clear()
                self._overflowed = True
        self._wake()

    def _everything(self) -> None:
        with self._lock:
            self._overflowed = True
        self._wake()


class _Handler(FileSystemEventHandler):
    # An exception here would end watchdog's only dispatching thread: it does nothing but put paths into a set.
    def __init__(self, mark: Callable[[Iterable[bytes]], None]) -> None:
        self._mark = mark

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._mark([os.fsencode(path) for path in (event.src_path, event.dest_path) if path])


class _OverflowHandler(logging.Handler):
    """watchdog tells of lost events only in its log."""

    def __init__(self, everything: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._everything = everything

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._everything()


def _existing(folder: bytes) -> Iterable[bytes]:
    """The folder, or the nearest one above it that exists; and where it really is, if a link leads to it."""
    place = os.path.abspath(folder)  # noqa: PTH100  # paths are bytes here
    while not os.path.isdir(place):  # noqa: PTH112
        above = os.path.dirname(place)  # noqa: PTH120
        if above == place:
            break
        place = above
    return {place, os.path.realpath(place)}
