"""Which files match: patterns with `**`, exclusions, and what is no file at all."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.identity import Identity, is_compressed

_MAGIC = re.compile(rb"[*?\[]")


@dataclass(slots=True)
class Seen:
    """A file that matches, under all its matching names."""

    stat: os.stat_result
    paths: list[bytes] = field(default_factory=list)


class Globs:
    """The patterns of one input. `inflate`: compressed files are read too (gzip) instead of passed over."""

    def __init__(self, filesystem: Filesystem, paths: Sequence[str], exclude: Sequence[str], *, inflate: bool) -> None:
        self._filesystem = filesystem
        self._patterns = [os.path.abspath(os.fsencode(path)) for path in paths]  # noqa: PTH100
        self._exclude = [re.compile(fnmatch.translate(pattern)).match for pattern in exclude]
        self._inflate = inflate
        self._prefixes = [re.compile(prefix).fullmatch for pattern in self._patterns for prefix in _prefixes(pattern)]
        self.empty: list[bytes] = []
        self.problems: dict[bytes, str] = {}

    @property
    def folders(self) -> set[bytes]:
        """The fixed part of each pattern: where something new may appear."""
        return {_fixed_part(pattern) for pattern in self._patterns}

    def find(self) -> dict[Identity, Seen]:
        """Every regular file that matches. `problems` tells of names that are something else, `empty` of patterns."""
        found: dict[Identity, Seen] = {}
        self.problems = {}
        self.empty = []
        for pattern in self._patterns:
            before = len(found) + len(self.problems)
            for path in sorted(self._filesystem.glob(pattern)):
                if not self._excluded(path):
                    self._look_at(path, found)
            if len(found) + len(self.problems) == before:
                self.empty.append(pattern)
        return found

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
        seen = found.setdefault(Identity.of(looked), Seen(looked))
        if path not in seen.paths:
            seen.paths.append(path)

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
