"""The system around the files: folders, hints, errors, descriptors, permissions, links (cases 13 to 19, 23, 27)."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from logclf_daemon.inputs._tail.filesystem import Filesystem
from tail_doubles import Rig, lines_of, numbered, rotate, text, troubles


class Moody(Filesystem):
    """Refuses to open what ends as `refused` names, and every read while there is a `read_error`.

    Nobody looks into the folders in `closed`; those in `unlisted` are searched for a name and do not tell theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, int] = {}
        self.read_error = 0
        self.closed: set[Path] = set()
        self.unlisted: set[Path] = set()

    def _within(self, path: bytes) -> bool:
        return any(folder in self.closed for folder in Path(os.fsdecode(path)).parents)

    def glob(self, pattern: bytes) -> list[bytes]:
        named = Path(os.fsdecode(pattern)).name  # is found without a look at the names beside it
        shut = self.closed | self.unlisted
        return [
            path
            for path, found in ((path, Path(os.fsdecode(path))) for path in super().glob(pattern))
            if not self._within(path) and (found.name == named or found.parent not in shut)
        ]

    def enter(self, folder: bytes, *, listing: bool) -> None:
        path = Path(os.fsdecode(folder))
        if path in self.closed or self._within(folder) or (listing and path in self.unlisted):
            raise PermissionError(errno.EACCES, "Permission denied")
        super().enter(folder, listing=listing)

    def stat(self, path: bytes) -> os.stat_result:
        if self._within(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return super().stat(path)

    def open(self, path: bytes) -> int:
        for ending, number in self.refused.items():
            if path.endswith(ending.encode()):
                raise OSError(number, os.strerror(number))
        return super().open(path)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        if self.read_error:
            raise OSError(self.read_error, os.strerror(self.read_error))
        return super().pread(fd, size, position)


def test_13_a_deleted_file_is_read_to_its_end_and_closed(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig, rig.path("a.log").open("ab") as writer:
        writer.write(b"one\n")
        writer.flush()
        rig.read()
        rig.path("a.log").unlink()
        writer.write(b"two\n")
        writer.flush()
        seen = rig.read()
        held = rig.tailer.catalog.open_files
        rig.settle_down()

        assert seen == [b"two"]
        assert (held, rig.tailer.catalog.open_files) == (1, 0)


def test_14_a_folder_that_appears_later_and_comes_back_is_read(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["sub/*/x.log"], discover_secs=5) as rig:
        nothing = rig.read()
        rig.path("sub/one").mkdir(parents=True)
        rig.path("sub/one/x.log").write_bytes(b"one\n")
        first = rig.settle_down(6)
        rig.path("sub/one/x.log").unlink()
        rig.path("sub/one").rmdir()
        rig.settle_down(12)
        rig.path("sub/one").mkdir()
        rig.path("sub/one/x.log").write_bytes(b"two\n")

        assert (nothing, first, rig.settle_down(6)) == ([], [b"one"], [b"two"])


def test_14_a_hint_makes_a_new_file_known_soon(tmp_path: Path) -> None:
    with Rig(tmp_path, discover_secs=1000, reconcile_secs=1000) as rig:
        rig.read()
        rig.write("new.log", b"one\n")
        rig.now += 1
        rig.tailer.step([bytes(rig.path("new.log")), b"/somewhere/else"])
        first = rig.read(0.3)
        rig.write("new.log", b"two\n")
        second = lines_of(rig.tailer.step([bytes(rig.path("new.log"))]).batches)

        assert (first, second) == ([b"one"], [b"two"])


def test_15_after_an_overflow_everything_is_looked_at(tmp_path: Path) -> None:
    with Rig(tmp_path, discover_secs=1000, reconcile_secs=1000) as rig:
        rig.write("a.log", b"one\n")
        rig.read()
        rig.write("a.log", b"two\n")
        rig.write("b.log", b"three\n")
        missed = rig.read()
        seen = lines_of(rig.tailer.step(None).batches)

        assert missed == []
        assert sorted(seen) == [b"three", b"two"]


def test_16_a_stale_handle_is_opened_again_with_growing_pauses(tmp_path: Path) -> None:
    moody = Moody()
    with Rig(tmp_path, filesystem=moody) as rig:
        rig.write("a.log", b"one\n")
        rig.read()
        moody.read_error = errno.ESTALE
        rig.write("a.log", b"two\n")
        before = troubles("unreadable")
        rig.settle_down(10)
        told = troubles("unreadable") - before
        moody.read_error = 0
        rig.settle_down(60)

        assert rig.lines == [b"one", b"two"]
        assert told == 1


@pytest.mark.timeout(180)
def test_17_ten_thousand_files_need_few_descriptors_and_each_gets_its_turn(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        with Rig(tmp_path, max_open_files=512) as rig:
            for number in range(10_000):
                rig.write(f"{number}.log", b"%d\n" % number)
            rig.read()
            most = rig.tailer.catalog.open_files
            rig.write("77.log", b"more\n")
            more = rig.read()

            assert sorted(map(int, rig.lines[:10_000])) == list(range(10_000))
            assert most <= 512
            assert more == [b"more"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_17_a_large_file_does_not_keep_the_small_ones_waiting(tmp_path: Path) -> None:
    with Rig(tmp_path, read_bytes=4096) as rig:
        rig.write("large.log", text(numbered(0, 100_000)))
        for number in range(20):
            rig.write(f"small-{number}.log", b"small\n")
        first = lines_of(rig.step(1))

        assert first.count(b"small") == 20


def test_17_a_rotated_file_whose_descriptor_was_needed_elsewhere_is_found_by_its_inode(tmp_path: Path) -> None:
    with Rig(tmp_path, max_open_files=1) as rig:
        rig.write("a.log", b"a\n")
        rig.write("b.log", b"b\n")
        rig.read()
        rig.write("a.log", b"a late\n")
        rig.write("b.log", b"b late\n")
        rotate(rig.path("a.log"))
        rotate(rig.path("b.log"))

        assert sorted(rig.read()) == [b"a late", b"b late"]


def test_18_a_file_that_may_not_be_read_is_told_once_and_read_when_it_may(tmp_path: Path) -> None:
    moody = Moody()
    moody.refused = {"a.log": errno.EACCES}
    before = troubles("unreadable")
    with Rig(tmp_path, filesystem=moody) as rig:
        rig.write("a.log", b"one\n")
        rig.write("b.log", b"two\n")
        rig.settle_down(20)
        first, told = rig.lines, troubles("unreadable") - before
        moody.refused = {}
        soon = rig.read(1)

        assert (first, told, soon) == ([b"two"], 1, [b"one"])


def test_18_a_known_file_that_loses_and_regains_its_permissions(tmp_path: Path) -> None:
    moody = Moody()
    rig = Rig(tmp_path, filesystem=moody)
    rig.write("a.log", b"one\n")
    rig.read()
    rig.restart()
    rig.write("a.log", b"two\n")
    moody.refused = {"a.log": errno.EACCES}

    with rig:
        rig.settle_down(3)
        moody.refused = {}
        rig.settle_down(3)

        assert rig.lines == [b"one", b"two"]


CLOSED = "the folder cannot be looked into: Permission denied"


@pytest.mark.parametrize(
    ("pattern", "closed"),
    [
        ("deep/*.log", "deep"),
        ("deep/a.log", "deep"),
        ("deep/er/*.log", "deep"),
        ("deep/er/*.log", "deep/er"),
        ("*/er/a.log", "deep"),
        ("*/er/a.log", "deep/er"),
        ("de*/*/*.log", "deep/er"),
        ("**/*.log", "deep/er"),
        ("deep/er/**/*.log", "deep"),
    ],
)
def test_18_a_closed_folder_on_the_way_is_told_once_and_looked_into_when_it_opens(
    tmp_path: Path, pattern: str, closed: str
) -> None:
    moody = Moody()
    before = troubles("unreadable")
    with Rig(tmp_path, paths=[pattern], filesystem=moody) as rig:
        moody.closed = {rig.path(closed)}
        rig.path("deep/er").mkdir(parents=True)
        for folder in ("deep", "deep/er"):
            rig.write(f"{folder}/a.log", b"one\n")
        rig.settle_down(12)
        shown, told = rig.tailer.unreadable, troubles("unreadable") - before
        hidden = [line for line in rig.fields() if os.fsdecode(line["file"]).startswith(f"{rig.path(closed)}/")]
        moody.closed = set()
        rig.settle_down(7)

        assert (shown, told, hidden) == (((str(rig.path(closed)), CLOSED),), 1, [])
        assert rig.tailer.unreadable == ()
        assert any(os.fsdecode(line["file"]).startswith(f"{rig.path(closed)}/") for line in rig.fields())


def test_18_a_folder_that_does_not_tell_its_names_is_closed_to_a_wildcard_and_open_to_a_name(tmp_path: Path) -> None:
    moody = Moody()
    with Rig(tmp_path, paths=["deep/a.log"], filesystem=moody) as rig:
        moody.unlisted = {rig.path("deep")}
        rig.path("deep").mkdir()
        rig.write("deep/a.log", b"one\n")
        rig.settle_down(2)
        assert (rig.lines, rig.tailer.unreadable) == ([b"one"], ())
    with Rig(tmp_path, paths=["deep/*.log"], filesystem=moody) as rig:
        rig.settle_down(2)
        assert rig.tailer.unreadable == ((str(rig.path("deep")), CLOSED),)


@pytest.mark.parametrize("exclude", ["deep", "*/deep/*", "*/deep"])
def test_18_a_closed_folder_that_is_excluded_is_none_of_our_business(tmp_path: Path, exclude: str) -> None:
    moody = Moody()
    with Rig(tmp_path, paths=["**/*.log"], exclude=[exclude], filesystem=moody) as rig:
        moody.closed = {rig.path("deep")}
        rig.path("deep").mkdir()
        rig.write("a.log", b"one\n")
        rig.settle_down(2)

        assert (rig.lines, rig.tailer.unreadable) == ([b"one"], ())


def test_18_what_the_system_refuses_to_another_user(tmp_path: Path) -> None:
    """The same with real permissions: of a process that is not root."""
    look = """
import os, sys
from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.globs import Globs
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
globs = Globs(Filesystem(), [sys.argv[1]], [], inflate=False)
print(len(globs.find()), [os.fsdecode(folder) for folder in globs.closed], len(globs.problems), len(globs.empty))
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "a.log").write_text("one\n")

        def found(pattern: str, mode: int) -> str:
            (folder / "deep").chmod(mode)
            command = [sys.executable, "-c", look, f"{folder}/{pattern}"]
            try:
                return subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout.strip()
            finally:
                (folder / "deep").chmod(0o755)

        shut = f"0 ['{folder}/deep'] 0 0"
        assert found("deep/er/*.log", 0o000) == found("*/er/a.log", 0o000) == found("**/*.log", 0o000) == shut
        assert found("deep/*", 0o444) == shut  # names without what they stand for
        assert found("deep/er/*.log", 0o711) == found("**/*.log", 0o755) == "1 [] 0 0"
        assert found("**/*.log", 0o711).startswith("0 [")


def test_19_wrong_file_times_and_jumping_clocks_change_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n")
        os.utime(rig.path("a.log"), (4e9, 4e9))
        rig.read()
        rig.write("a.log", b"two\n")
        os.utime(rig.path("a.log"), (1, 1))
        rig.read()

        assert rig.lines == [b"one", b"two"]


def test_23_a_link_that_leads_elsewhere_is_followed_after_the_old_target_is_finished(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["link.log"]) as rig:
        rig.write("one", b"one\n")
        rig.write("two", b"two\n")
        rig.path("link.log").symlink_to("one")
        rig.read()
        rig.path("new").symlink_to("two")
        rig.path("new").rename(rig.path("link.log"))
        rig.write("one", b"one more\n")
        seen = rig.read() + rig.read()

        assert seen == [b"one more", b"two"]


def test_27_what_is_no_file_is_passed_over_and_told_once(tmp_path: Path) -> None:
    before = troubles("unreadable")
    with Rig(tmp_path, paths=["*"]) as rig, socket.socket(socket.AF_UNIX) as listener:
        os.mkfifo(rig.path("fifo"))
        rig.path("folder").mkdir()
        rig.path("device").symlink_to("/dev/null")
        rig.path("nowhere").symlink_to("missing")
        listener.bind(str(rig.path("socket")))
        rig.write("a.log", b"one\n")
        rig.settle_down(12)

        assert rig.lines == [b"one"]
        assert troubles("unreadable") == before + 3


def test_27_a_file_replaced_by_a_fifo_blocks_nobody(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["*"]) as rig:
        rig.write("a.log", b"one\n")
        rig.write("b.log", b"two\n")
        rig.read()
        rig.path("a.log").unlink()
        os.mkfifo(rig.path("a.log"))
        rig.write("b.log", b"three\n")
        rig.settle_down(12)

        assert sorted(rig.lines) == [b"one", b"three", b"two"]
        assert stat.S_ISFIFO(rig.path("a.log").stat().st_mode)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_27_a_folder_or_fifo_with_the_inode_of_a_file_that_is_gone_is_nothing_to_tell(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    before = troubles("unreadable")
    rig = Rig(tmp_path)
    rig.write("a.log", b"one\n")
    rig.read()
    rig.path("a.log").unlink()
    make(rig.path("other"))
    (offset,) = rig.state.load_offsets("files")
    rig.tailer.close()
    rig.state.commit([replace(offset, inode=rig.path("other").stat().st_ino, finished=False)])
    rig.state.close()
    rig.start()

    with rig:
        rig.settle_down(12)

        assert rig.lines == [b"one"]
        assert troubles("unreadable") == before


def test_27_names_may_be_any_bytes(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        names = [b"new\nline.log", b"\xff\xfe.log", b"with space.log", b"[x].log"]
        for name in names:
            Path(os.fsdecode(bytes(rig.folder) + b"/" + name)).write_bytes(b"x\n")
        rig.read()

        assert sorted(field["file"] for field in rig.fields()) == sorted(
            bytes(rig.folder) + b"/" + name for name in names
        )
        assert sorted(os.fsencode(batch.source) for batch in rig.batches) == sorted(
            field["file"] for field in rig.fields()
        )


def test_a_pattern_with_any_depth_and_exclusions(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["**/*.log"], exclude=["*skip*", "*/deep/er/*"]) as rig:
        for name in ("a.log", "x/b.log", "deep/er/c.log", "deep/d.log", "skip-me.log"):
            rig.path(name).parent.mkdir(parents=True, exist_ok=True)
            rig.path(name).write_bytes(name.encode() + b"\n")

        assert sorted(rig.read()) == [b"a.log", b"deep/d.log", b"x/b.log"]


def test_a_pattern_that_matches_nothing_yet_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "logclf"), Rig(tmp_path, paths=["none-*.log"]) as rig:
        rig.settle_down(20)
        told = [record.getMessage() for record in caplog.records if "nothing matches yet" in record.getMessage()]

        assert len(told) == 1
        assert "none-*.log" in told[0]


def test_a_hint_of_something_excluded_or_unreadable_asks_for_nothing(tmp_path: Path) -> None:
    moody = Moody()
    moody.refused = {"secret.log": errno.EACCES}
    with Rig(tmp_path, filesystem=moody, exclude=["skip*"], discover_secs=1000, reconcile_secs=1000) as rig:
        rig.write("secret.log", b"one\n")
        rig.read()
        rig.write("skip.log", b"two\n")
        rig.now += 1
        step = rig.tailer.step([bytes(rig.path("skip.log")), bytes(rig.path("secret.log"))])

        assert step.wait_secs > 900


@pytest.mark.parametrize("name", ["out.log", "link.log", "out.log.1", "out-20261129.log"])
def test_what_the_daemon_itself_writes_is_never_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    own = tmp_path / "logs" / "out.log"
    with Rig(tmp_path, paths=["*.log*"], own=[str(own)]) as rig:
        rig.write("out.log", b"labelled\n")
        if name == "link.log":
            rig.path(name).symlink_to(own)
        elif name != "out.log":
            own.rename(rig.path(name))
        rig.write("other.log", b"one\n")
        rig.write("out-of-this-world.log", b"two\n")
        with caplog.at_level("WARNING", logger="logclf"):
            seen = rig.read()

        assert sorted(seen) == [b"one", b"two"]
        assert "is what this daemon writes" in caplog.text
