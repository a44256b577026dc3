"""Streams without a file, remembered for when their bytes turn up again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Container, Iterable

from logclf_daemon.inputs._tail.identity import NOWHERE, Identity, born, family
from logclf_daemon.inputs._tail.readers import Reader
from logclf_daemon.inputs._tail.stream import Stream

_REMEMBERED = 4096


class Orphans:
    """The streams whose file was truncated, deleted, or not found at the start."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._families: defaultdict[bytes, dict[str, Stream]] = defaultdict(dict)
        self._homes: dict[Identity, Stream] = {}

    def add(self, stream: Stream) -> None:
        """Remember it; the oldest of very many is forgotten."""
        self._streams[stream.source] = stream
        self._families[family(stream.label)][stream.source] = stream
        if stream.home != NOWHERE:
            self._homes[stream.home] = stream
        if len(self._streams) > _REMEMBERED:
            self._remove(next(iter(self._streams.values())))

    def of_family(self, path: bytes) -> Iterable[Stream]:
        """Those that a file at `path` could continue."""
        return list(self._families[family(path)].values()) if family(path) in self._families else ()

    def returning(self, identity: Identity, reader: Reader) -> Stream | None:
        """The stream of a file that is back where it was, with the same bytes."""
        stream = self._homes.get(identity)
        if stream is None or not stream.recognises(reader):
            return None
        self._remove(stream)
        return stream

    def lived_at(self, identity: Identity, paths: Container[bytes] | None = None) -> bool:
        """Whether there is a stream to be asked for by `returning`, for a file that has one of these `paths`.

        A stream of which nothing was read recognises any file, and another one may have its inode by now: only the
        name can tell.
        """
        stream = self._homes.get(identity)
        if stream is None:
            return False
        return paths is None or bool(stream.position or stream.replays) or stream.label in paths

    def adopt(self, identity: Identity, path: bytes, reader: Reader) -> Stream | None:
        """The stream that a new file is a copy of: same family, another name, and the very bytes that were read.

        A file made anew under the old name is no copy, even if it begins in the same way; one whose device number
        changed (after a reboot) is the same.
        """
        for stream in self.of_family(path):
            birth, _ = born(stream.source)
            remounted = birth.inode == identity.inode and birth.device != identity.device
            if (
                (stream.position or stream.replays)
                and (path != stream.label or remounted)
                and stream.recognises(reader)
            ):
                self._remove(stream)
                return stream
        return None

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.source]
        kin = self._families[family(stream.label)]
        kin.pop(stream.source, None)
        if not kin:
            del self._families[family(stream.label)]
        if self._homes.get(stream.home) is stream:
            del self._homes[stream.home]
