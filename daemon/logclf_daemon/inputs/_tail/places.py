"""Where files are now: by name, and by inode when the name is gone."""

from __future__ import annotations

import os
import stat

from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.globs import Seen
from logclf_daemon.inputs._tail.identity import Identity
from logclf_daemon.inputs._tail.tail import Tail

Names = dict[bytes, dict[int, bytes]]  # of the entries of folders that were looked into just now


class Places:
    """The paths of all known files, with those that links lead to."""

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem
        self._by_path: dict[bytes, Tail] = {}

    @property
    def folders(self) -> set[bytes]:
        """The folders they are in."""
        return {os.path.dirname(path) for path in self._by_path}  # noqa: PTH120

    def find(self, path: bytes) -> Tail | None:
        """The file that was last seen at `path`, or that a link there leads to."""
        return self._by_path.get(path)

    def put(self, tail: Tail, path: bytes | None) -> None:
        """It is at `path` now, or nowhere."""
        for name in tail.names:
            if self._by_path.get(name) is tail:
                del self._by_path[name]
        tail.path = path
        if path == tail.label:
            tail.left_at = None
        tail.names = () if path is None else (path, self._filesystem.real(path))
        self._by_path.update((name, tail) for name in tail.names)

    def under_another_name(self, tail: Tail, names: Names) -> Seen | None:
        """A file that is not where it was: where its link led to, or renamed in its folder."""
        if tail.path is None:
            return None
        for name in tail.names:
            if name != tail.path and (seen := self._seen(name, tail.identity)) is not None:
                return seen
        return self.somewhere(tail.path, tail.identity, names)

    def somewhere(self, path: bytes, identity: Identity, names: Names) -> Seen | None:
        """Another name of the file in the same folder."""
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in names:
            try:
                names[folder] = self._filesystem.inodes(folder)
            except OSError:
                names[folder] = {}
        name = names[folder].get(identity.inode)
        return self._seen(os.path.join(folder, name), identity) if name is not None else None  # noqa: PTH118

    def _seen(self, path: bytes, identity: Identity) -> Seen | None:
        try:
            looked = self._filesystem.stat(path)
        except OSError:
            return None
        # The inode of a file that is gone may be that of a folder by now.
        same = stat.S_ISREG(looked.st_mode) and Identity.of(looked) == identity
        return Seen(looked, [path]) if same else None
