"""The cases that real tailers got wrong, each with a clock that only the test moves and no watcher."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from logclf_daemon.codec import event_time
from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs._tail import multiline
from logclf_daemon.inputs._tail.filesystem import Filesystem
from logclf_daemon.inputs._tail.identity import family
from logclf_daemon.inputs._tail.lines import PlainFraming, Splitter, normal_name, splitter_for
from logclf_daemon.metrics import value
from logclf_daemon.record import Outcome
from tail_doubles import Rig, copytruncate, lines_of, numbered, rotate, text


class Moody(Filesystem):
    """Refuses what `mood` names, by path ending or for every read."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, int] = {}
        self.read_error = 0

    def open(self, path: bytes) -> int:
        for ending, number in self.refused.items():
            if path.endswith(ending.encode()):
                raise OSError(number, os.strerror(number))
        return super().open(path)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        if self.read_error:
            raise OSError(self.read_error, os.strerror(self.read_error))
        return super().pread(fd, size, position)


def troubles(what: str) -> float:
    return value("logclf_input_troubles_total", input="files", what=what)


# --- 1 to 6: which file is which ------------------------------------------------------------------------------------


def test_01_late_writes_to_a_renamed_file_are_read_with_those_to_the_new_one(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n")
        rig.read()
        rotate(rig.path("a.log"))
        rig.write("a.log.1", b"late\n")
        rig.write("a.log", b"new\n")
        seen = rig.read()
        rig.write("a.log.1", b"later\n")

        assert sorted(seen) == [b"late", b"new"]
        assert rig.read() == [b"later"]


def test_01_a_renamed_file_stays_open_while_batches_of_it_are_not_acknowledged(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.acknowledging = False
        rig.write("a.log", b"one\n")
        rig.read()
        rig.path("a.log").rename(rig.path("gone.1"))
        rig.settle_down(30)
        still_open = rig.tailer.catalog.open_files
        rig.acknowledge()
        rig.settle_down(10)

        assert still_open == 1
        assert rig.tailer.catalog.open_files == 0


def test_02_two_rotations_while_stopped_lose_nothing_and_the_oldest_comes_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["a.log*"])
    rig.write("a.log", text(numbered(0, 10)))
    rig.read()
    rig.write("a.log", text(numbered(10, 20)))
    rig.stop()
    for first in (20, 30):
        rotate(rig.path("a.log"))
        rig.write("a.log", text(numbered(first, first + 10)))
        os.utime(rig.path("a.log"), (first, first))
    os.utime(rig.path("a.log.2"), (10, 10))
    rig.start()

    with rig:
        rig.settle_down()

        assert rig.lines == numbered(0, 40)


def test_02_a_file_rotated_out_of_the_pattern_while_stopped_is_finished(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["a.log"])
    rig.write("a.log", text(numbered(0, 10)))
    rig.read()
    rig.write("a.log", text(numbered(10, 20)))
    rig.stop()
    rotate(rig.path("a.log"))
    rig.write("a.log", text(numbered(20, 30)))
    rig.start()

    with rig:
        rig.settle_down()

        assert rig.lines == numbered(0, 30)
        assert {field["file"] for field in rig.fields()} == {bytes(rig.path("a.log"))}


def test_03_a_truncated_file_is_read_from_its_beginning_and_its_copy_is_not_read_again(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*"]) as rig:
        rig.write("a.log", text(numbered(0, 10)))
        rig.read()
        copytruncate(rig.path("a.log"), rig.path("a.log.1"))
        rig.read()
        rig.write("a.log", text(numbered(10, 12)))
        rig.settle_down()

        assert rig.lines == numbered(0, 12)


def test_03_what_was_not_read_before_the_truncation_is_read_from_the_copy(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*"]) as rig:
        rig.write("a.log", text(numbered(0, 10)))
        rig.read()
        rig.write("a.log", text(numbered(10, 20)))
        copytruncate(rig.path("a.log"), rig.path("a.log.1"))
        rig.write("a.log", text(numbered(20, 22)))
        rig.settle_down()

        assert sorted(rig.lines) == numbered(0, 22)


@pytest.mark.parametrize("seen_before", [True, False])
def test_03_a_copy_found_before_the_truncation_waits_for_it(tmp_path: Path, seen_before: bool) -> None:
    with Rig(tmp_path, paths=["a.log*"]) as rig:
        rig.write("a.log", text(numbered(0, 10)))
        rig.read()
        rig.path("a.log.1").write_bytes(rig.path("a.log").read_bytes())
        if seen_before:
            rig.now += 5
            rig.read()
        os.truncate(rig.path("a.log"), 0)
        rig.settle_down()

        assert rig.lines == numbered(0, 10)


def test_03_copytruncate_while_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["a.log*"])
    rig.write("a.log", text(numbered(0, 10)))
    rig.read()
    rig.write("a.log", text(numbered(10, 20)))
    rig.stop()
    copytruncate(rig.path("a.log"), rig.path("a.log.1"))
    rig.write("a.log", text(numbered(20, 60)))
    rig.start()

    with rig:
        rig.settle_down()

        assert sorted(rig.lines) == numbered(0, 60)


def test_03_a_file_with_the_bytes_of_another_that_is_never_truncated_is_read_in_the_end(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*"]) as rig:
        rig.write("a.log", b"same\n")
        rig.read()
        rig.write("a.log.old", b"same\nand more\n")
        rig.settle_down(30)

        assert sorted(rig.lines) == [b"and more", b"same", b"same"]


def test_04_a_file_truncated_and_refilled_beyond_the_offset_is_read_from_its_beginning(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", text(numbered(0, 10)))
        rig.read()
        os.truncate(rig.path("a.log"), 0)
        rig.write("a.log", text(numbered(100, 200)))

        assert rig.read() == numbered(100, 200)


def test_04_a_file_refilled_to_the_same_size_is_noticed(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", text(numbered(0, 10)))
        rig.read()
        rig.path("a.log").write_bytes(text(numbered(10, 20)))

        assert rig.read() == numbered(10, 20)


def test_04_refilled_while_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("a.log", text(numbered(0, 10)))
    rig.read()
    rig.stop()
    rig.path("a.log").write_bytes(text(numbered(50, 90)))
    rig.start()

    with rig:
        assert rig.read() == numbered(50, 90)


def test_05_a_new_file_that_got_the_inode_of_a_deleted_one_is_new_and_has_other_chunk_ids(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("a.log", b"same size 1\n")
    rig.read()
    rig.stop()
    inode = rig.path("a.log").stat().st_ino
    for _ in range(100):
        rig.path("a.log").unlink()
        rig.write("a.log", b"same size 2\n")
        if rig.path("a.log").stat().st_ino == inode:
            break
    rig.start()

    with rig:
        rig.settle_down()

        assert rig.lines == [b"same size 1", b"same size 2"]
        assert len({batch.chunk for batch in rig.batches}) == 2


def test_05_the_row_of_a_deleted_file_does_not_stay_for_ever(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n")
        rig.read()
        rig.path("a.log").unlink()
        rig.settle_down()
        (row,) = rig.state.load_offsets("files")

        assert row.finished


def test_06_files_with_equal_beginnings_are_all_read_however_small(tmp_path: Path) -> None:
    head = b"#" * 300 + b"\n"
    with Rig(tmp_path) as rig:
        for name in ("a.log", "b.log", "c.log"):
            rig.write(name, head + name.encode() + b"\n")
        rig.write("d.log", b"x\n")
        rig.write("e.log", b"x\n")
        rig.write("f.log", b"")
        seen = rig.read()

        assert sorted(seen) == sorted([head[:-1]] * 3 + [b"a.log", b"b.log", b"c.log", b"x", b"x"])


def test_06_a_file_deleted_and_made_again_with_the_same_beginning_is_read_whole(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"start\n")
        rig.read()
        rig.path("a.log").unlink()
        rig.write("a.log", b"start\ngoes on\n")
        rig.settle_down()

        assert rig.lines == [b"start", b"start", b"goes on"]


# --- 7 to 12: what is in them ---------------------------------------------------------------------------------------


def test_07_nuls_left_by_a_writer_that_did_not_notice_the_truncation_are_passed_over(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig, rig.path("a.log").open("wb") as writer:
        writer.write(text(numbered(0, 1000)))
        writer.flush()
        rig.read()
        os.truncate(rig.path("a.log"), 0)
        rig.read()
        writer.write(b"after the hole\n")
        writer.flush()
        before = troubles("nul_bytes")
        seen = rig.read()

        assert seen == [b"after the hole"]
        assert troubles("nul_bytes") > before


def test_07_a_hole_of_gigabytes_costs_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        with rig.path("a.log").open("wb") as file:
            file.seek(8 << 30)
            file.write(b"far away\n")

        assert rig.read() == [b"far away"]


def test_07_nuls_at_the_end_are_waited_for_since_their_data_may_still_come(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n\0\0\0\0")
        first = rig.settle_down()
        with rig.path("a.log").open("r+b") as file:
            file.seek(4)
            file.write(b"two\n")

        assert first == [b"one"]
        assert rig.read() == [b"two"]


def test_08_an_unfinished_line_is_held_then_sent_as_partial_and_its_rest_later(tmp_path: Path) -> None:
    with Rig(tmp_path, idle_flush_secs=5) as rig:
        rig.write("a.log", b"one\ntw")
        first = rig.read() + rig.read(2)
        rig.write("a.log", b"o")
        still = rig.read(1) + rig.read(4)
        flushed = rig.read(1)
        rig.write("a.log", b" and a half\n")
        rest = rig.read()

        assert (first, still, flushed, rest) == ([b"one"], [], [b"two"], [b" and a half"])
        assert ["partial" in fields for fields in rig.fields()] == [False, True, False]


def test_08_an_unfinished_line_of_a_rotated_file_is_sent_at_its_end(tmp_path: Path) -> None:
    with Rig(tmp_path, idle_flush_secs=1000) as rig:
        rig.write("a.log", b"one\ntwo")
        rig.read()
        rotate(rig.path("a.log"))
        rig.settle_down()

        assert rig.lines == [b"one", b"two"]


def test_08_a_line_torn_by_a_crash_of_ours_is_completed_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("a.log", b"one\ntw")
    rig.read()
    rig.crash()
    rig.write("a.log", b"o\n")

    with rig:
        rig.settle_down()

        assert rig.lines == [b"one", b"one", b"two"] or rig.lines == [b"one", b"two"]


def test_09_a_very_long_line_leaves_its_head_and_the_file_goes_on(tmp_path: Path) -> None:
    before = troubles("long_line")
    with Rig(tmp_path, max_line_bytes=1000, read_bytes=4096) as rig:
        rig.write("a.log", b"before\n" + b"x" * (20 << 20) + b"\nafter\n")
        peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rig.read()
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before

        assert rig.lines == [b"before", b"x" * 1000, b"after"]
        assert [fields.get("truncated") for fields in rig.fields()] == [None, b"\xc3", None]
        assert troubles("long_line") == before + 1
        assert peak_kib < 10 << 10


def test_09_a_restart_in_the_middle_of_a_long_line_does_not_send_its_rest(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_line_bytes=100, read_bytes=64)
    rig.write("a.log", b"x" * 5000)
    rig.read()
    rig.restart()
    rig.write("a.log", b"x" * 5000 + b"\nafter\n")

    with rig:
        rig.settle_down()

        assert rig.lines == [b"x" * 100, b"after"]


@pytest.mark.parametrize("size", range(98, 103))
def test_09_the_limit_is_the_same_wherever_blocks_end(tmp_path: Path, size: int) -> None:
    with Rig(tmp_path, max_line_bytes=100, read_bytes=64) as rig:
        rig.write("a.log", b"a\n" + b"x" * size + b"\nb\n")
        rig.read()

        assert rig.lines == [b"a", b"x" * min(size, 100), b"b"]


def test_09_a_long_line_is_cut_between_characters() -> None:
    assert Splitter().head("aé€😀".encode(), 5) == "aé".encode()
    assert Splitter().head("aé€😀".encode(), 6) == "aé€".encode()
    assert Splitter().head("aé€😀".encode(), 9) == "aé€".encode()
    assert Splitter().head(b"\x80\x80\x80\x80\x80\x80", 5) == b"\x80\x80\x80\x80\x80"


def test_10_every_byte_arrives_as_it_was(tmp_path: Path) -> None:
    line = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
    with Rig(tmp_path) as rig:
        rig.write("a.log", line + b"\n")
        rig.read()

        assert rig.fields()[0]["log"] == line
        assert rig.lines == [line]


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("marked", [True, False])
def test_11_wide_characters_are_split_on_their_boundaries(tmp_path: Path, name: str, marked: bool) -> None:
    words = ["plain", "grün", "ਊ odd bytes: \u0a0a\u000b\u0a00", "😀", ""]
    data = "".join(f"{word}\r\n" for word in words).encode(name)
    data = ("\ufeff".encode(name) if marked else b"") + data
    with Rig(tmp_path, encoding=name[:6] if marked else name, read_bytes=16) as rig:
        for at in range(0, len(data), 7):  # 7: a write ends within a character
            rig.write("a.log", data[at : at + 7])
            rig.read(0.5)
        rig.read()

        assert [line.decode() for line in rig.lines] == words


def test_11_the_byte_order_is_remembered_after_a_restart(tmp_path: Path) -> None:
    rig = Rig(tmp_path, encoding="utf-16")
    rig.write("a.log", "\ufeffone\n".encode("utf-16-be"))
    rig.read()
    rig.restart()
    rig.write("a.log", "two\n".encode("utf-16-be"))

    with rig:
        rig.read()

        assert rig.lines == [b"one", b"two"]


def test_11_single_byte_encodings_become_utf8_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    with Rig(tmp_path, encoding="latin-1") as rig:
        rig.write("a.log", "grün\n".encode("latin-1"))
        rig.read()

        assert rig.lines == ["grün".encode()]
    for wrong in ("klingon", "hex", "cp037"):
        with pytest.raises(ConfigError, match=wrong):
            normal_name(wrong)


def test_12_compressed_files_are_passed_over_unless_asked_for(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["*"]) as rig:
        rig.path("a.log.1.gz").write_bytes(gzip.compress(b"one\n"))
        rig.path("no-ending").write_bytes(gzip.compress(b"two\n"))
        rig.write("a.log", b"three\n")

        assert rig.settle_down() == [b"three"]


def test_12_a_gz_is_read_once_with_all_its_members(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["*"], gzip=True, read_bytes=4096)
    lines = numbered(0, 30_000)
    half = len(lines) // 2
    rig.path("old.gz").write_bytes(gzip.compress(text(lines[:half])) + gzip.compress(text(lines[half:]) + b"no end"))
    rig.settle_down()
    rig.restart()
    rig.path("old.gz").rename(rig.path("older.gz"))

    with rig:
        rig.settle_down()

        assert rig.lines == [*lines, b"no end"]


def test_12_a_log_that_was_read_and_then_compressed_is_not_read_again(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*"], gzip=True) as rig:
        rig.write("a.log", text(numbered(0, 1000)))
        rig.read()
        rotate(rig.path("a.log"))
        rig.write("a.log.1", b"late\n")
        rig.read()
        packed = gzip.compress(rig.path("a.log.1").read_bytes())
        rig.path("a.log.1.gz").write_bytes(packed[:300])
        rig.settle_down(4)
        rig.path("a.log.1.gz").write_bytes(packed)
        rig.path("a.log.1").unlink()
        rig.settle_down(30)

        assert rig.lines == [*numbered(0, 1000), b"late"]


def test_12_broken_gz_data_are_told_once_and_hold_up_nothing(tmp_path: Path) -> None:
    before = troubles("unreadable")
    with Rig(tmp_path, paths=["*"], gzip=True) as rig:
        rig.path("bad.gz").write_bytes(b"\x1f\x8b\x08\x00 this is not gzip")
        rig.write("a.log", b"one\n")
        rig.settle_down(30)

        assert rig.lines == [b"one"]
        assert troubles("unreadable") == before + 1


# --- 13 to 19: the system around them -------------------------------------------------------------------------------


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


def test_19_wrong_file_times_and_jumping_clocks_change_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n")
        os.utime(rig.path("a.log"), (4e9, 4e9))
        rig.read()
        rig.write("a.log", b"two\n")
        os.utime(rig.path("a.log"), (1, 1))
        rig.read()

        assert rig.lines == [b"one", b"two"]


# --- 20 to 27: messages of several lines, names, links --------------------------------------------------------------

TRACE = b"""Traceback (most recent call last):
  File "a.py", line 1, in <module>
    raise ValueError(1)
ValueError: 1

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise KeyError(2)
KeyError: 2"""
HALF = TRACE.index(b"    raise ValueError")


def grouped(name: str, start: str | None = None) -> object:
    return multiline.grouping_for(name, start)


def test_20_a_trace_split_over_steps_is_one_message_and_nothing_is_committed_before(tmp_path: Path) -> None:
    with Rig(tmp_path, grouped=grouped("python")) as rig:
        rig.write("a.log", b"before\n" + TRACE[:100])
        first = rig.read(1)
        rig.write("a.log", TRACE[100:] + b"\n")
        second = rig.read(1)
        committed = rig.state.load_offsets("files")[0].position
        rig.write("a.log", b"after\n")
        third = rig.read(1)
        last = rig.settle_down(8)

        assert (first, second, third, last) == ([b"before"], [], [TRACE], [b"after"])
        assert committed == len(b"before\n")


def test_20_a_trace_across_a_rotation_is_one_message(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*"], grouped=grouped("python"), idle_flush_secs=60) as rig:
        rig.write("a.log", b"before\n" + TRACE[:HALF])
        rig.read()
        rotate(rig.path("a.log"))
        rig.write("a.log", TRACE[HALF:] + b"\nafter\n")
        rig.settle_down(80)

        assert rig.lines == [b"before", TRACE, b"after"]


@pytest.mark.parametrize("crash_after", range(14))
def test_20_a_crash_around_the_hand_over_between_two_files_loses_nothing(tmp_path: Path, crash_after: int) -> None:
    rig = Rig(tmp_path, paths=["a.log*"], grouped=grouped("python"), idle_flush_secs=60)
    rig.write("a.log", b"before\n" + TRACE[:HALF])
    rig.read()
    rotate(rig.path("a.log"))
    rig.write("a.log", TRACE[HALF:] + b"\nafter\n")
    rig.acknowledging = False
    rig.settle_down(crash_after)
    rig.acknowledging = True
    rig.crash()

    with rig:
        rig.settle_down(80)
        chunks = {(batch.chunk, tuple(batch.lines or ())) for batch in rig.batches}

        assert set(rig.lines) == {b"before", TRACE, b"after"}
        assert len({chunk for chunk, _ in chunks}) == len(chunks)


def test_20_lines_of_java_and_go_belong_together(tmp_path: Path) -> None:
    java = b"java.lang.RuntimeException: x\n\tat a.B.c(D.java:1)\n\t... 3 more\nCaused by: y\n\tat e.F.g(H.java:2)"
    go = b"panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/a/main.go:5 +0x1d\nexit status 2"
    with Rig(tmp_path, paths=["java.log"], grouped=grouped("java")) as rig:
        rig.write("java.log", b"INFO one\n" + java + b"\nINFO two\n")
        rig.settle_down(8)

        assert rig.lines == [b"INFO one", java, b"INFO two"]
    other = tmp_path / "other"
    other.mkdir()
    with Rig(other, grouped=grouped("go")) as rig:
        rig.write("go.log", b"one\n" + go + b"\n2024/01/01 two\n")
        rig.settle_down(8)

        assert rig.lines == [b"one", go, b"2024/01/01 two"]


def test_20_a_start_pattern_groups_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    with Rig(tmp_path, grouped=grouped("none", r"^\d{4}-")) as rig:
        rig.write("a.log", b"no start\n2024-01-01 a\n  more\n\xff\n2024-01-02 b\n")
        first = rig.read(1)
        rest = rig.settle_down(8)

        assert first == [b"no start", b"2024-01-01 a\n  more\n\xff"]
        assert rest == [b"2024-01-02 b"]
    with pytest.raises(ConfigError, match="look-around"):
        grouped("none", "(?=x)")


def test_20_a_group_without_end_leaves_its_head_and_memory_stays_bounded(tmp_path: Path) -> None:
    with Rig(tmp_path, grouped=grouped("none", "^START"), max_line_bytes=1000, read_bytes=4096) as rig:
        rig.write("a.log", b"START one\n" + b"more\n" * 100_000 + b"START two\n")
        rig.settle_down(8)

        assert [line[:9] for line in rig.lines] == [b"START one", b"START two"]
        assert [len(line) for line in rig.lines] == [1000, 9]
        assert rig.fields()[0]["truncated"] == b"\xc3"


def docker(text: str, stream: str = "stdout", second: int = 5) -> bytes:
    line = {"log": text, "stream": stream, "time": f"2024-01-02T03:04:{second:02}.123456789Z"}
    return json.dumps(line).encode() + b"\n"


def test_21_parts_of_docker_are_joined_for_each_stream(tmp_path: Path) -> None:
    with Rig(tmp_path, format="docker") as rig:
        rig.write("a.log", docker("out 1 ") + docker("err 1\n", "stderr") + docker("out 2\n") + b"not json\n")
        first = rig.read()
        rig.write("a.log", docker("a" * 16384))
        held = rig.read()
        rig.write("a.log", docker("end\n"))
        joined = rig.read()
        fields = rig.fields()

        assert first == [b"err 1", b"out 1 out 2", b"not json"]
        assert (held, joined) == ([], [b"a" * 16384 + b"end"])
        assert [field.get("stream") for field in fields] == [b"stderr", b"stdout", None, b"stdout"]
        assert bytes(rig.batches[0].records[0].time).hex() == bytes(event_time(1704164645_123456789)).hex()


def test_21_parts_that_never_end_leave_their_head(tmp_path: Path) -> None:
    with Rig(tmp_path, format="docker", max_line_bytes=1000, read_bytes=4096) as rig:
        rig.write("a.log", docker("x" * 100) * 5000 + docker("end\n") + docker("after\n"))
        rig.settle_down(10)

        assert [len(line) for line in rig.lines] == [1000, 5]
        assert rig.fields()[0]["truncated"] == b"\xc3"


def test_21_a_stream_of_a_strange_name_skips_nothing_else(tmp_path: Path) -> None:
    with Rig(tmp_path, format="docker", max_line_bytes=1000, read_bytes=4096) as rig:
        rig.write("a.log", docker("x" * 100, "a,b;line;group=x") * 50)
        rig.settle_down(10)
        rig.restart()
        rig.write("a.log", docker("end\n", "a,b;line;group=x") + docker("after\n"))
        rig.settle_down(10)

        assert [len(line) for line in rig.lines] == [1000, 5]


def cri(text: str, tag: str = "F", stream: str = "stdout") -> bytes:
    return f"2024-01-02T03:04:05.123456789+01:00 {stream} {tag} {text}\n".encode()


def test_22_parts_of_the_cri_are_joined_across_a_rotation(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["0.log"], format="cri", idle_flush_secs=60) as rig:
        rig.write("0.log", cri("one") + cri("begin ", "P"))
        first = rig.read()
        rotate(rig.path("0.log"))
        rig.write("0.log", cri("end") + cri("next"))
        rig.settle_down(12)

        assert first == [b"one"]
        assert rig.lines == [b"one", b"begin end", b"next"]
        assert {field["file"] for field in rig.fields()} == {bytes(rig.path("0.log"))}


def test_22_a_part_whose_end_never_comes_is_sent_when_it_is_idle(tmp_path: Path) -> None:
    with Rig(tmp_path, format="cri", idle_flush_secs=5) as rig:
        rig.write("0.log", cri("begin ", "P") + cri("", "F", "stderr") + b"odd line\n")
        held = rig.read()
        rig.settle_down(6)

        assert held == []
        assert rig.lines == [b"", b"odd line", b"begin "]


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


def test_24_a_rotated_file_that_a_pattern_matches_again_is_the_same_file(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["a.log*", "*.log"]) as rig:
        for first in range(0, 50, 10):
            rig.write("a.log", text(numbered(first, first + 10)))
            rig.read()
            rotate(rig.path("a.log"))
            rig.settle_down(8)
        os.link(rig.path("a.log.1"), rig.path("linked.log"))
        rig.settle_down(10)

        assert rig.lines == numbered(0, 50)


def test_25_the_offset_moves_only_with_the_acknowledgements_and_without_a_gap(tmp_path: Path) -> None:
    with Rig(tmp_path, batch_lines=2) as rig:
        rig.acknowledging = False
        rig.write("a.log", b"1\n2\n3\n4\n5\n6\n")
        rig.read()
        first, second, third = rig.waiting
        positions = []
        for batch in (second, first, third):
            batch.settle(Outcome.DELIVERED)
            rig.read(1)
            positions.append(rig.state.load_offsets("files")[0].position)

        assert positions == [0, 8, 12]


def test_25_after_a_crash_the_same_ranges_come_with_the_same_ids_and_bytes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, batch_lines=3)
    rig.acknowledging = False
    rig.write("a.log", text(numbered(0, 5)) + b"idle")
    rig.settle_down(7)
    before = [(batch.chunk, batch.records) for batch in rig.batches]
    rig.write("a.log", b" no more\n")
    rig.now += 1000
    rig.crash()

    with rig:
        rig.settle_down(3)
        after = [(batch.chunk, batch.records) for batch in rig.batches[len(before) :]]

        assert after[: len(before)] == before
        assert rig.lines[-1] == b" no more"


def test_25_a_file_is_not_read_further_than_so_many_batches_ahead(tmp_path: Path) -> None:
    with Rig(tmp_path, batch_lines=1, max_unacked=4, read_bytes=8) as rig:
        rig.acknowledging = False
        rig.write("a.log", b"x\n" * 1000)
        rig.settle_down(5)
        ahead = len(rig.batches)
        rig.acknowledging = True
        rig.acknowledge()
        rig.settle_down(1)

        assert ahead <= 8
        assert len(rig.lines) == 1000


def test_25_what_is_returned_stays_at_its_source_and_comes_after_the_next_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.acknowledging = False
    rig.write("a.log", b"one\n")
    rig.read()
    rig.waiting.pop().settle(Outcome.RETURNED)
    rig.restart()
    rig.acknowledging = True

    with rig:
        assert rig.read() == [b"one"]
        assert len({batch.chunk for batch in rig.batches}) == 1


def test_25_commits_are_coalesced(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"one\n")
        rig.read()
        rig.step(0.2)
        rig.write("a.log", b"two\n")
        rig.tailer.step([bytes(rig.path("a.log"))]).batches[0].settle(Outcome.DELIVERED)
        step = rig.tailer.step()
        early = rig.state.load_offsets("files")[0].position
        rig.step(0.2)

        assert early == 4
        assert 0 < step.wait_secs < 0.21
        assert rig.state.load_offsets("files")[0].position == 8


def test_26_carriage_returns_empty_lines_and_the_mark_at_the_start(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"\xef\xbb\xbfone\r\n\r\n\ntw\ro\r\r\nthree")
        rig.settle_down(10)

        assert rig.lines == [b"one", b"", b"", b"tw\ro\r", b"three"]


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


# --- where to begin, where to end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start_at", "expected"),
    [
        ("checkpoint", [b"old", b"more", b"new", b"fresh"]),
        ("beginning", [b"old", b"old", b"more", b"new", b"fresh"]),
        ("end", [b"new", b"fresh"]),
    ],
)
def test_reading_starts_where_it_is_told(tmp_path: Path, start_at: str, expected: list[bytes]) -> None:
    rig = Rig(tmp_path, start_at=start_at)
    rig.write("a.log", b"old\n")
    rig.read()
    rig.stop()
    rig.write("a.log", b"more\nhalf")
    rig.start()

    with rig:
        rig.read()
        rig.write("a.log", b" a line\nnew\n")
        rig.write("b.log", b"fresh\n")
        rig.settle_down(10)

        assert [line for line in rig.lines if line != b"half a line"] == expected
        assert (b"half a line" in rig.lines) == (start_at != "end")


def test_once_reads_what_is_there_with_the_unfinished_line_and_no_more(tmp_path: Path) -> None:
    with Rig(tmp_path, once=True) as rig:
        rig.write("a.log", b"one\ntwo")
        rig.write("b.log", b"three\n\0\0")
        rig.write("c.log", b"")
        rig.step()
        rig.write("a.log", b" more\n")
        for _ in range(10):
            done = rig.tailer.step().done
        rig.read()

        assert done
        assert sorted(rig.lines) == [b"one", b"three", b"two"]


def test_a_pattern_with_any_depth_and_exclusions(tmp_path: Path) -> None:
    with Rig(tmp_path, paths=["**/*.log"], exclude=["*skip*", "*/deep/er/*"]) as rig:
        for name in ("a.log", "x/b.log", "deep/er/c.log", "deep/d.log", "skip-me.log"):
            rig.path(name).parent.mkdir(parents=True, exist_ok=True)
            rig.path(name).write_bytes(name.encode() + b"\n")

        assert sorted(rig.read()) == [b"a.log", b"deep/d.log", b"x/b.log"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/l/a.log", "/l/a.log"),
        ("/l/a.log.12", "/l/a.log"),
        ("/l/a.log.2.gz", "/l/a.log"),
        ("/l/a-20251122.log", "/l/a.log"),
        ("/l/a.log.2025-11-22T10-00-00.gz", "/l/a.log"),
        ("/l/0.log.20251122-101010", "/l/0.log"),
        ("/l/7", "/l/7"),
    ],
)
def test_rotated_names_belong_to_the_family_of_the_log(path: str, expected: str) -> None:
    assert family(path.encode()) == expected.encode()


def test_a_cut_made_again_from_its_own_bytes_is_the_same_cut() -> None:
    data = b"one\r\n" + b"x" * 30 + b"\n\0\0two\nthr"
    framing = PlainFraming(splitter_for("utf-8", b""), 20, 64)

    for cut in framing.cut(data, "", closed=True, limit=2):
        again = framing.cut(data[: cut.length], "", closed=True, limit=0)
        data = data[cut.length :]
        assert again == [cut]


def test_04_a_file_written_anew_while_stopped_never_goes_out_under_the_ids_of_what_it_held(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.acknowledging = False
    rig.write("a.log", text(numbered(0, 5)))
    rig.read()
    rig.path("a.log").write_bytes(text(numbered(10, 15)) + b"more\n")
    rig.crash()

    with rig:
        rig.read()
        first, second = rig.batches

        assert lines_of([second]) == [*numbered(10, 15), b"more"]
        assert first.chunk != second.chunk


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


def test_once_reads_rotated_files_oldest_first_and_compressed_ones_too(tmp_path: Path) -> None:
    with Rig(tmp_path, once=True, paths=["a.log*"], gzip=True) as rig:
        rig.path("a.log.2.gz").write_bytes(gzip.compress(text(numbered(0, 3000))))
        rig.path("a.log.1").write_bytes(text(numbered(3000, 6000)))
        rig.path("a.log").write_bytes(text(numbered(6000, 9000)))
        for age, name in enumerate(["a.log", "a.log.1", "a.log.2.gz"]):
            os.utime(rig.path(name), (1000 - age, 1000 - age))
        rig.read()

        assert rig.lines == numbered(0, 9000)
        assert rig.tailer.step().done


def test_a_pattern_that_matches_nothing_yet_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "logclf"), Rig(tmp_path, paths=["none-*.log"]) as rig:
        rig.settle_down(20)
        told = [record.getMessage() for record in caplog.records if "nothing matches yet" in record.getMessage()]

        assert len(told) == 1
        assert "none-*.log" in told[0]


def test_files_of_two_inputs_have_chunk_ids_of_their_own(tmp_path: Path) -> None:
    with Rig(tmp_path) as first:
        first.write("a.log", b"one\n")
        first.read()
    with Rig(tmp_path, name="other") as second:
        second.read()

        assert second.lines == [b"one"]
        assert first.batches[0].chunk != second.batches[0].chunk
        assert len(first.batches[0].chunk or "") == 24


def test_02_a_file_that_was_found_and_not_read_is_known_after_a_crash_wherever_it_was_rotated(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["a.log"], max_unacked=1, batch_lines=1)
    rig.acknowledging = False
    rig.write("a.log", text(numbered(0, 10)))
    rig.read()
    rotate(rig.path("a.log"))
    rig.write("a.log", text(numbered(10, 20)))
    rig.settle_down(3)
    rotate(rig.path("a.log"))
    rig.acknowledging = True
    rig.crash()

    with rig:
        rig.settle_down()

        assert sorted(set(rig.lines)) == numbered(0, 20)


def test_a_copy_with_the_inode_of_a_file_that_was_empty_is_not_that_file_rotated(tmp_path: Path) -> None:
    """Its log was removed and made anew while nobody looked; what proves nothing must not bring a line twice."""
    rig = Rig(tmp_path, paths=["a.log*"])
    rig.write("a.log", b"")
    rig.read()
    rig.stop()
    rig.path("a.log").rename(rig.path("a.log.1"))  # the inode is free, and goes to the copy
    rig.write("a.log", b"one\n")
    rig.write("a.log.1", b"one\n")
    rig.start()

    with rig:
        rig.step(1.0)
        os.truncate(rig.path("a.log"), 0)
        rig.settle_down()

        assert rig.lines == [b"one"]


def test_a_file_that_was_empty_is_read_also_if_it_was_rotated_out_of_the_patterns(tmp_path: Path) -> None:
    rig = Rig(tmp_path, paths=["a.log"])
    rig.write("a.log", b"")
    rig.read()
    rig.stop()
    rig.write("a.log", b"one\n")
    rig.path("a.log").rename(rig.path("a.log.1"))
    rig.write("a.log", b"two\n")
    rig.start()

    with rig:
        assert sorted(rig.settle_down()) == [b"one", b"two"]
