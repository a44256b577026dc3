"""Which files match: patterns with `**`, exclusions, what is no file at all, and folders that are closed to us."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.identity import Identity, family, is_compressed

_MAGIC = re.compile(rb"[*?\[]")
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class Seen:
    """A file that matches, under all its matching names."""

    stat: os.stat_result
    paths: list[bytes] = field(default_factory=list)


class Globs:
    """The patterns of one input. `inflate`: compressed files are read too (gzip) instead of passed over.

    What this daemon itself writes (`own`) is never read, rotated or not: each line would come back as another one.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        paths: Sequence[str],
        exclude: Sequence[str],
        *,
        inflate: bool,
        own: Sequence[str] = (),
    ) -> None:
        self._filesystem = filesystem
        self._patterns = [os.path.abspath(os.fsencode(path)) for path in paths]  # noqa: PTH100
        self._exclude = [re.compile(fnmatch.translate(pattern)).match for pattern in exclude]
        self._inflate = inflate
        self._own = [os.path.realpath(os.fsencode(path)) for path in own]
        self._own_now: set[Identity] = set()
        self._wholes = [_whole(pattern) for pattern in self._patterns]
        self._prefixes = [re.compile(prefix).fullmatch for pattern in self._patterns for prefix in _prefixes(pattern)]
        self.empty: list[bytes] = []
        self._ways = {pattern: _way(pattern) for pattern in self._patterns}
        self.problems: dict[bytes, str] = {}
        self.closed: dict[bytes, str] = {}

    @property
    def folders(self) -> set[bytes]:
        """The fixed part of each pattern: where something new may appear."""
        return {_fixed_part(pattern) for pattern in self._patterns}

    def matches(self, path: bytes) -> bool:
        """Whether a file of this name is one of ours, wherever it is now."""
        return any(whole.fullmatch(path) for whole in self._wholes) and not self._excluded(path)

    def find(self) -> dict[Identity, Seen]:
        """Every regular file that matches.

        `problems` tells of names that are something else, `closed` of folders on the way that cannot be looked into,
        `empty` of patterns.
        """
        found: dict[Identity, Seen] = {}
        self.problems, self.closed = {}, {}
        self.empty = []
        self._own_now = set(self._own_files())
        for pattern in self._patterns:
            before = len(found) + len(self.problems)
            closed = self._closed_on_the_way(pattern)
            for path in sorted(self._filesystem.glob(pattern)):
                if not self._excluded(path) and os.path.dirname(path) not in closed:  # noqa: PTH120
                    self._look_at(path, found)
            told = {folder: why for folder, why in closed.items() if not self._excluded_whole(folder)}
            self.closed |= told
            if len(found) + len(self.problems) == before and not told:
                self.empty.append(pattern)
        return found

    def _closed_on_the_way(self, pattern: bytes) -> dict[bytes, str]:
        """Folders a search for the pattern cannot look into, with the reason: what is in them counts as not there."""
        closed: dict[bytes, str] = {}
        for step, listing in self._ways[pattern]:
            for folder in self._filesystem.glob(step + b"/") if _MAGIC.search(step) else [step]:
                try:
                    self._filesystem.enter(folder, listing=listing)
                except OSError as error:
                    if error.errno not in _NO_FOLDER:
                        outermost = self._outermost_closed(folder.rstrip(b"/") or b"/")
                        closed[outermost] = f"the folder cannot be looked into: {error.strerror or error}"
        return closed

    def _outermost_closed(self, folder: bytes) -> bytes:
        """`folder`, or the one above it that is in the way already."""
        parts = folder.split(b"/")
        for count in range(2, len(parts)):
            above = b"/".join(parts[:count])
            try:
                self._filesystem.enter(above, listing=False)
            except OSError:
                return above
        return folder

    def _excluded_whole(self, folder: bytes) -> bool:
        return self._excluded(folder) or self._excluded(folder + b"/")

    def may_matter(self, path: bytes) -> bool:
        """Whether something at `path` can be a file of ours or a folder on the way to one."""
        return any(matches(path) for matches in self._prefixes) and not self._excluded(path)

    def _look_at(self, path: bytes, found: dict[Identity, Seen]) -> None:
        try:
            looked = self._filesystem.stat(path)
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems[path] = error.strerror or str(error)
            return
        if not stat.S_ISREG(looked.st_mode):
            # A folder is no surprise where the pattern ends in `**`.
            if not stat.S_ISDIR(looked.st_mode):
                self.problems[path] = "not a regular file"
            return
        if self._is_own(path, looked):
            self.problems[path] = "is what this daemon writes; exclude it, or write to another folder"
            return
        seen = found.setdefault(Identity.of(looked), Seen(looked))
        if path not in seen.paths:
            seen.paths.append(path)

    def _own_files(self) -> Iterator[Identity]:
        for path in self._own:
            with suppress(OSError):
                yield Identity.of(self._filesystem.stat(path))

    def _is_own(self, path: bytes, looked: os.stat_result) -> bool:
        if not self._own:
            return False
        if Identity.of(looked) in self._own_now:
            return True
        before_rotation = family(path)
        names = (os.path.basename(own) for own in self._own)  # noqa: PTH119
        if os.path.basename(before_rotation) not in names:  # noqa: PTH119
            return False
        return os.path.realpath(before_rotation) in self._own

    def _excluded(self, path: bytes) -> bool:
        if is_compressed(path) and not (self._inflate and path.endswith(b".gz")):
            return True
        if not self._exclude:
            return False
        text = os.fsdecode(path)
        name = os.path.basename(text)  # noqa: PTH119
        return any(excluded(text) or excluded(name) for excluded in self._exclude)


def _fixed_part(pattern: bytes) -> bytes:
    folder = os.path.dirname(pattern)  # noqa: PTH120
    while _MAGIC.search(folder):
        folder = os.path.dirname(folder)  # noqa: PTH120
    return folder


def _way(pattern: bytes) -> list[tuple[bytes, bool]]:
    """The folders a search for the pattern goes into, as patterns, and whether it needs all names in them."""
    parts = pattern.split(b"/")
    found: list[tuple[bytes, bool]] = []
    several = False  # folders: each is looked at, for one of them alone it is enough to look at the last
    for at, part in enumerate(parts[1:], 1):
        folder = b"/".join(parts[:at]) or b"/"
        if part == b"**":
            return [*found, (folder, True), (folder + b"/**", True)]  # all below, whatever comes after
        magic = _MAGIC.search(part) is not None
        if magic or several or at == len(parts) - 1:
            found.append((folder, magic))
        several = several or magic
    return found


def _whole(pattern: bytes) -> re.Pattern[bytes]:
    """A regular expression for what the pattern matches."""
    *folders, name = pattern.split(b"/")[1:]
    way = b"".join(b"(?:[^/]+/)*" if part == b"**" else _part(part) + b"/" for part in folders)
    return re.compile(b"(?s:/" + way + (b".*" if name == b"**" else _part(name)) + b")")


def _prefixes(pattern: bytes) -> list[bytes]:
    """Regular expressions for the pattern and for each folder on the way to what it matches."""
    parts = pattern.split(b"/")
    found = []
    for count in range(2, len(parts) + 1):
        if b"**" in parts[:count]:
            found.append(b"(?s:" + b"/".join(map(_part, parts[: parts.index(b"**")])) + b"/.*)")
            break
        found.append(b"(?s:" + b"/".join(map(_part, parts[:count])) + b")")
    return found


def _part(part: bytes) -> bytes:
    inner: Callable[[str], str] = fnmatch.translate
    translated = inner(os.fsdecode(part).replace("**", "*")).removeprefix("(?s:").removesuffix(")\\Z")
    return os.fsencode(translated.replace(".*", "[^/]*"))
