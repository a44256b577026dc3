"""Which files there are and which stream is read from each: discovery, rotation, truncation, copies, deletion."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container

from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.globs import Globs, Seen
from logclf_daemon.inputs._tail.holds import Holds
from logclf_daemon.inputs._tail.identity import HEAD_BYTES, Identity, born, family, source_key
from logclf_daemon.inputs._tail.lines import REST_OF_LINE, splitter_for
from logclf_daemon.inputs._tail.notes import Notes
from logclf_daemon.inputs._tail.orphans import Orphans
from logclf_daemon.inputs._tail.places import Names, Places
from logclf_daemon.inputs._tail.readers import OpenFiles, Reader
from logclf_daemon.inputs._tail.settings import TailSettings
from logclf_daemon.inputs._tail.stream import Stream
from logclf_daemon.inputs._tail.tail import Tail
from logclf_daemon.state import Offset, StateDb

_LONGEST_PAUSE_SECS = 60.0
_LONGEST_TURN_SECS = 60.0  # order between files is a courtesy: it never holds one up for longer
_GENERATIONS = 100_000
_CHANCES = 5  # of a file without a name that cannot be read
_GONE = (FileNotFoundError, NotADirectoryError)


class Catalog:
    """The files of one input. `ready` is told of files to be looked into, `changed` of streams to be written down."""

    def __init__(
        self,
        settings: TailSettings,
        filesystem: Filesystem,
        notes: Notes,
        *,
        ready: Callable[[Tail], None],
        changed: Callable[[Stream], None],
    ) -> None:
        self.tails: dict[Identity, Tail] = {}
        self.discovered = False
        self._settings = settings
        self._filesystem = filesystem
        self._notes = notes
        self._ready = ready
        self._changed = changed
        self._globs = Globs(filesystem, settings.paths, settings.exclude, inflate=settings.gzip, own=settings.own)
        self._files = OpenFiles(filesystem, settings.max_open_files)
        self._orphans = Orphans()
        self._loaded: list[Offset] = []
        self._families: defaultdict[bytes, list[Tail]] = defaultdict(list)
        self._places = Places(filesystem)
        self._holds = Holds(settings.rotate_wait_secs)
        self._closed_to_us: dict[bytes, str] = {}
        self._generations: dict[Identity, int] = {}

    @property
    def folders(self) -> set[bytes]:
        """Folders where something may happen."""
        return self._globs.folders | self._places.folders

    def matches(self, path: bytes) -> bool:
        """Whether a pattern matches this name and nothing excludes it."""
        return self._globs.matches(path)

    @property
    def open_files(self) -> int:
        return len(self._files)

    def find(self, path: bytes) -> Tail | None:
        """The file that was last seen at `path`, or that a link there leads to."""
        return self._places.find(path)

    def may_matter(self, path: bytes) -> bool:
        """Whether something new at `path` could be for us. What cannot be read is tried in its own time."""
        known = path in self._closed_to_us or path in self._globs.problems
        return not known and self._globs.may_matter(path)

    def close(self) -> None:
        """Close all files."""
        self._files.close_all()

    # --- discovery --------------------------------------------------------------------------------------------------

    def load(self, state: StateDb) -> None:
        """Take up the streams of earlier runs."""
        self._loaded = state.load_offsets(self._settings.name)
        for source in state.sources(f"{self._settings.name}/"):  # also of files that another input reads by now
            identity, generation = born(source)
            self._generations[identity] = max(generation, self._generations.get(identity, -1))
        if self._settings.start_at != "checkpoint":
            state.forget([offset.source for offset in self._loaded])
            self._loaded = []
        intents = state.load_intents(self._settings.name)
        for offset in self._loaded:
            self._orphans.add(Stream(offset, intents.get(offset.source, ())))

    def discover(self, now: float) -> None:
        """Look for files: those known from earlier first, then the new ones, oldest first."""
        found = self._globs.find()
        self._closed_to_us = {}
        for tail in self.tails.values():
            seen = found.get(tail.identity)
            tail.listed = seen is not None
            if seen is not None and tail.path not in seen.paths:
                self._places.put(tail, seen.paths[0])
        back = [
            self._return(identity, seen, now)
            for identity, seen in found.items()
            if identity not in self.tails and self._orphans.lived_at(identity, seen.paths)
        ]
        if not self.discovered:
            self._resume_rotated(found, now)
        for returned in back:
            if returned is not None and not returned.stream.position:
                self._wait_in_turn(returned, None, now)
        self._admit_new(found, now)
        for identity in self._holds.release_missing(found):
            self._files.close(identity)
        self._notes.empty(self._globs.empty)
        self._notes.problems(self._globs.problems | self._globs.closed | self._closed_to_us)
        self.discovered = True

    def _return(self, identity: Identity, seen: Seen, now: float) -> Tail | None:
        """A file known from earlier, if it still has the bytes that were read of it."""
        reader = self._open_new(identity, seen.paths[0])
        try:
            stream = self._orphans.returning(identity, reader) if reader is not None else None
        except OSError as error:
            self._cannot_open(identity, seen.paths[0], error)
            return None
        if stream is None:
            return None
        path = stream.label if stream.label in seen.paths else seen.paths[0]
        return self._enter(identity, path, stream, seen.stat, now)

    def _resume_rotated(self, found: Container[Identity], now: float) -> None:
        """Files rotated out of the patterns while nobody looked: their rest is read."""
        names: Names = {}
        for offset in self._loaded:
            home = Identity(offset.device, offset.inode)
            if offset.finished or home in self.tails or home in found or not self._orphans.lived_at(home):
                continue
            if not self._globs.matches(offset.path):  # not rotated: it is not wanted any more
                continue
            seen = self._places.somewhere(offset.path, home, names)
            tail = self._return(home, seen, now) if seen is not None else None
            if tail is not None:
                tail.listed = False
        self._loaded = []

    def _admit_new(self, found: dict[Identity, Seen], now: float) -> None:
        new = sorted(
            (seen.stat.st_mtime_ns, seen.paths[0], identity)
            for identity, seen in found.items()
            if identity not in self.tails
        )
        newest: dict[bytes, Tail] = {}
        for _, path, identity in new:
            try:
                tail = self._admit(identity, path, found[identity], now)
            except OSError as error:
                self._cannot_open(identity, path, error)
                continue
            if tail is not None:
                self._wait_in_turn(tail, newest.get(family(path)), now)
                newest[family(path)] = tail

    def _admit(self, identity: Identity, path: bytes, seen: Seen, now: float) -> Tail | None:
        """Take up a file not known yet; None: it cannot be opened, or may be a copy that is just being made."""
        if not self._settings.once and self._holds.waits(identity, path, seen, now):
            return None
        reader = self._open_new(identity, path)
        if reader is None:
            return None
        for kin in list(self._families.get(family(path), ())):
            self._check(kin, now)  # truncated since it was looked at? then this may be the copy
        stream = self._orphans.adopt(identity, path, reader)
        if stream is None and self._is_perhaps_copy(identity, path, seen, reader, now):
            return None
        self._holds.release(identity)
        if stream is not None:
            return self._enter(identity, path, stream, seen.stat, now)
        stream = self._new_stream(identity, path)
        if not self.discovered and self._settings.start_at == "end":
            self._start_at_end(stream, reader, seen)
        elif self.discovered:
            self._notes.note("found", path)
        return self._enter(identity, path, stream, seen.stat, now)

    def _enter(self, identity: Identity, path: bytes, stream: Stream, looked: os.stat_result, now: float) -> Tail:
        tail = Tail(identity, None, stream, self._settings.frames.read_bytes, now)
        tail.inflate = self._settings.gzip and path.endswith(b".gz")
        tail.stop_at = looked.st_size if self._settings.once and not tail.inflate else None
        if stream.home != identity or stream.finished or not stream.known:
            # Also before anything is read of it: it may be rotated out of the patterns before its turn comes.
            stream.move(identity)
            self._changed(stream)
        if path != stream.label:
            tail.left_at = now
        self.tails[identity] = tail
        self._families[family(stream.label)].append(tail)
        self._places.put(tail, path)
        self._grown(tail, looked, now)
        self._ready(tail)
        return tail

    def _start_at_end(self, stream: Stream, reader: Reader, seen: Seen) -> None:
        size = seen.stat.st_size
        newline = splitter_for(self._settings.frames.encoding, stream.read(reader, 0, 4)).newline
        at_line_start = not size or stream.read(reader, max(0, size - len(newline)), len(newline)) == newline
        stream.start_at(reader, size, "" if at_line_start else REST_OF_LINE)

    def _new_stream(self, identity: Identity, label: bytes) -> Stream:
        generation = self._generations.pop(identity, -1) + 1
        self._generations[identity] = generation
        if len(self._generations) > _GENERATIONS:
            del self._generations[next(iter(self._generations))]
        name = self._settings.name
        return Stream.new(name, source_key(name, identity, generation), identity, generation, label)

    # --- copies and turns -------------------------------------------------------------------------------------------

    def _is_perhaps_copy(self, identity: Identity, path: bytes, seen: Seen, reader: Reader, now: float) -> bool:
        """A new file with the bytes of one that is being read: if it is a copy, that one is truncated in a moment."""
        if self._settings.once:
            return False
        for kin in self._families.get(family(path), ()):
            if self._holds.may_be_copy(identity, path, kin) and self._same_bytes(kin, reader, now):
                self._holds.wait_for(identity, seen, kin, now)
                return True
        return False

    def _same_bytes(self, kin: Tail, reader: Reader, now: float) -> bool:
        if kin.stream.position:
            return kin.stream.recognises(reader)
        other = self.reader(kin, now)
        head = reader.read_at(0, HEAD_BYTES)
        return other is not None and bool(head) and other.read_at(0, len(head)) == head

    def _wait_in_turn(self, tail: Tail, previous: Tail | None, now: float) -> None:
        """The rotated file that had this name before goes first; of several new ones the older."""
        before = max(
            (
                kin
                for kin in self._families[family(tail.label)]
                if kin is not tail
                and tail.left_at is None
                and kin.left_at is not None
                and kin.label == tail.label
                and kin.unread
            ),
            key=lambda kin: (kin.left_at or 0.0, kin.mtime_ns),
            default=previous,
        )
        if before is not None and before.unread:
            tail.waits_for, tail.waits_position, tail.waits_until = before, before.end, now + _LONGEST_TURN_SECS
            before.successor = tail

    # --- what becomes of them ---------------------------------------------------------------------------------------

    def reconcile(self, now: float) -> bool:
        """Look at each known file: what grew, moved, shrank. True if something new may be found now."""
        names: Names = {}
        moved = [tail for tail in list(self.tails.values()) if not self.look_at(tail, now)]
        changes = [self._follow(tail, now, names) for tail in moved]
        return any(changes) or any(self._opens(path) for path in self._closed_to_us)

    def look_at(self, tail: Tail, now: float) -> bool:
        """False if the file is not where it was."""
        if tail.path is None:
            return False
        try:
            looked = self._filesystem.stat(tail.path)
        except _GONE:
            return False
        except OSError as error:
            self.failed(tail, error, now)
            return True
        if Identity.of(looked) != tail.identity:
            return False
        self._grown(tail, looked, now)
        return True

    def _grown(self, tail: Tail, looked: os.stat_result, now: float) -> None:
        if not tail.seen(looked, now):
            return
        if not tail.inflate and looked.st_size + len(tail.stream.carry) < tail.stream.position:
            self.begin_anew(tail)
        self._ready(tail)

    def _follow(self, tail: Tail, now: float, names: Names) -> bool:
        """It lost its name, or another file has it now. True if that is news."""
        was = tail.path
        seen = self._places.under_another_name(tail, names)
        self._places.put(tail, seen.paths[0] if seen is not None else None)
        if tail.left_at is None:
            tail.left_at = now
        if seen is not None:
            self._grown(tail, seen.stat, now)
            return True
        reader = self._files.get(tail.identity)
        if reader is None:
            if was is None:  # a whole discovery has passed since it lost its name
                self._vanished(tail)
            return was is not None
        self._files.keep(tail.identity, True)
        try:
            looked = reader.stat()
        except OSError as error:
            self.failed(tail, error, now)
            return was is not None
        if was is not None and not looked.st_nlink:
            self._notes.note("deleted while open, reading it to its end", was)
        self._grown(tail, looked, now)
        return was is not None

    def _vanished(self, tail: Tail) -> None:
        if tail.unread:
            self._notes.trouble("vanished", tail.label, f"{tail.end - tail.stream.position} bytes were not read yet")
        self._drop(tail, gone=True)

    def begin_anew(self, tail: Tail) -> None:
        """The bytes that were read are not in the file any more: it was truncated or written anew."""
        self._notes.note("truncated, reading it from its beginning", tail.path or tail.label)
        self._leave(tail.stream)
        tail.begin(self._new_stream(tail.identity, tail.label), self._settings.frames.read_bytes)
        self._changed(tail.stream)
        self._ready(tail)

    def park(self, tail: Tail) -> None:
        """A rotated file that is drained and quiet: closed, and forgotten unless a pattern matches its new name."""
        self._files.close(tail.identity)
        if tail.listed and tail.path is not None:
            tail.parked = True
        else:
            self._drop(tail, gone=tail.path is None)

    def ignore(self, tail: Tail, why: str) -> None:
        """It turned out to be nothing to read."""
        tail.ignored = True
        self._files.close(tail.identity)
        self._notes.note(why, tail.path or tail.label)

    def _check(self, tail: Tail, now: float) -> None:
        self.look_at(tail, now)
        reader = self.reader(tail, now)
        try:
            if reader is not None and not tail.stream.recognises(reader):
                self.begin_anew(tail)
        except OSError as error:
            self.failed(tail, error, now)

    def _drop(self, tail: Tail, *, gone: bool) -> None:
        self._files.close(tail.identity)
        del self.tails[tail.identity]
        tail.gone = True
        kin = self._families[family(tail.label)]
        kin.remove(tail)
        if not kin:
            del self._families[family(tail.label)]
        self._places.put(tail, None)
        if tail.successor is not None:
            self._ready(tail.successor)
        if gone:
            self._leave(tail.stream)
        else:
            tail.stream.finished = True
            self._changed(tail.stream)
            self._orphans.add(tail.stream)

    def _leave(self, stream: Stream) -> None:
        if stream.replays:
            lost = f"{len(stream.replays)} batches were under way when the last run ended; only a copy can bring them"
            self._notes.trouble("left_under_way", stream.label, lost)
        stream.leave()
        self._changed(stream)
        self._orphans.add(stream)

    # --- open files -------------------------------------------------------------------------------------------------

    def reader(self, tail: Tail, now: float) -> Reader | None:
        """The file, open; None if it cannot be opened now (it is tried again later)."""
        reader = self._files.get(tail.identity)
        if reader is not None or tail.path is None or now < tail.retry_at:
            return reader
        try:
            reader = self._files.open(tail.identity, tail.path, inflate=tail.inflate)
        except _GONE:
            return None  # moved since it was looked at; the next reconcile follows it
        except OSError as error:
            self.failed(tail, error, now)
            return None
        tail.parked = False
        return reader

    def failed(self, tail: Tail, error: OSError, now: float) -> None:
        """It cannot be read: close it, try again later, tell it once."""
        tail.failures += 1
        if tail.path is None and tail.failures > _CHANCES:
            self._vanished(tail)
            return
        if tail.path is not None:  # else the descriptor is the last way to its bytes
            self._files.close(tail.identity)
        tail.at_end = False
        pause = self._settings.reconcile_secs
        if not isinstance(error, PermissionError):
            pause = min(_LONGEST_PAUSE_SECS, pause * 2 ** min(tail.failures - 1, 10))
        tail.retry_at = now + pause
        text = error.strerror or str(error)
        if text != tail.trouble:
            tail.trouble = text
            self._notes.trouble("unreadable", tail.path or tail.label, text)

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """Folders that cannot be looked into and files that cannot be read now, each with the reason."""
        found = {tail.path or tail.label: tail.trouble for tail in self.tails.values() if tail.trouble}
        closed = self._globs.closed | self._closed_to_us | found
        return tuple((os.fsdecode(path), why) for path, why in closed.items())

    def works(self, tail: Tail) -> None:
        """It was read: what was wrong is over."""
        if tail.failures:
            self._notes.note("readable again", tail.path or tail.label)
            tail.trouble, tail.failures, tail.retry_at = "", 0, 0.0

    def _open_new(self, identity: Identity, path: bytes) -> Reader | None:
        reader = self._files.get(identity)
        if reader is not None:
            return reader
        try:
            return self._files.open(identity, path, inflate=self._settings.gzip and path.endswith(b".gz"))
        except _GONE:
            return None
        except OSError as error:
            self._cannot_open(identity, path, error)
            return None

    def _cannot_open(self, identity: Identity, path: bytes, error: OSError) -> None:
        self._files.close(identity)
        self._closed_to_us[path] = error.strerror or str(error)

    def _opens(self, path: bytes) -> bool:
        try:
            self._filesystem.close(self._filesystem.open(path))
        except OSError:
            return False
        return True
