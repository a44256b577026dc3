"""The watcher: hints while it can, silence and one warning when it cannot."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from logclf_daemon.metrics import value
from logclf_daemon.watch import MAX_DIRTY, Watcher


class Woken:
    """Remembers what a watcher marked."""

    def __init__(self, observer: Callable[[], BaseObserver] = Observer) -> None:
        self._event = threading.Event()
        self.watcher = Watcher("files", self._event.set, observer=observer)
        self.dirty: set[bytes] = set()

    def waits_for(self, path: Path) -> bool:
        """Until `path` is dirty, ten seconds at most."""
        deadline = time.monotonic() + 10
        while bytes(path) not in self.dirty and time.monotonic() < deadline:
            self._event.wait(0.5)
            self._event.clear()
            self.dirty |= self.watcher.take() or set()
        return bytes(path) in self.dirty

    @property
    def was_woken(self) -> bool:
        return self._event.is_set()


@pytest.fixture
def woken() -> Iterator[Woken]:
    found = Woken()
    yield found
    found.watcher.close()
    assert not [thread for thread in threading.enumerate() if "watchdog" in type(thread).__module__]


def test_writes_new_files_moves_and_permissions_mark_their_paths(woken: Woken, tmp_path: Path) -> None:
    path, moved = tmp_path / "a.log", tmp_path / "b.log"
    woken.watcher.watch([bytes(tmp_path)])

    path.write_bytes(b"one\n")
    assert woken.waits_for(path)
    woken.dirty.clear()
    path.chmod(0o600)
    assert woken.waits_for(path)
    path.rename(moved)
    assert woken.waits_for(moved)


def test_our_own_reading_wakes_nobody(woken: Woken, tmp_path: Path) -> None:
    path, sign = tmp_path / "a.log", tmp_path / "sign"
    path.write_bytes(b"one\n")
    woken.watcher.watch([bytes(tmp_path)])

    for _ in range(10):
        path.read_bytes()
    sign.write_bytes(b"")

    assert woken.waits_for(sign)
    assert bytes(path) not in woken.dirty


def test_a_missing_folder_is_watched_from_above_and_then_itself(woken: Woken, tmp_path: Path) -> None:
    folder = tmp_path / "later" / "still"
    woken.watcher.watch([bytes(folder)])

    folder.mkdir(parents=True)
    assert woken.waits_for(tmp_path / "later")
    woken.watcher.watch([bytes(folder)])
    (folder / "a.log").write_bytes(b"one\n")
    assert woken.waits_for(folder / "a.log")


def test_a_folder_removed_and_made_again_is_watched_again(woken: Woken, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    woken.watcher.watch([bytes(folder)])
    folder.rmdir()
    assert woken.waits_for(folder)
    woken.watcher.watch([bytes(folder)])

    folder.mkdir()
    woken.watcher.watch([bytes(folder)])
    (folder / "a.log").write_bytes(b"one\n")

    assert woken.waits_for(folder / "a.log")


def test_a_folder_behind_a_link_is_watched_where_it_is(woken: Woken, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    woken.watcher.watch([bytes(tmp_path / "link")])

    (tmp_path / "real" / "a.log").write_bytes(b"one\n")

    assert woken.waits_for(tmp_path / "real" / "a.log")


def test_too_many_changes_mean_look_at_everything(woken: Woken, tmp_path: Path) -> None:
    woken.watcher._mark(b"%d" % number for number in range(MAX_DIRTY + 1))

    assert woken.was_woken
    assert woken.watcher.take() is None
    assert woken.watcher.take() == set()


def test_an_overflow_in_the_kernel_means_look_at_everything(woken: Woken, tmp_path: Path) -> None:
    woken.watcher.watch([bytes(tmp_path)])

    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")

    assert woken.watcher.take() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_without_watches_left_there_is_one_warning_and_nothing_else(tmp_path: Path, number: int) -> None:
    class Exhausted(Observer):  # type: ignore[valid-type,misc]
        def schedule(self, *_args: object, **_more: object) -> object:
            raise OSError(number, "no more watches")

    before = value("logclf_input_troubles_total", input="files", what="watch_unavailable")
    found = Woken(Exhausted)
    for _ in range(3):
        found.watcher.watch([bytes(tmp_path)])
    found.watcher.close()

    assert found.watcher.gave_up
    assert found.watcher.take() == set()
    assert value("logclf_input_troubles_total", input="files", what="watch_unavailable") == before + 1
