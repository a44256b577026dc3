"""Which file is which: rotated, copied, truncated, refilled, deleted and made again (cases 1 to 6, 24)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logclf_daemon.inputs._tail.identity import family
from tail_doubles import Rig, copytruncate, lines_of, numbered, rotate, text


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
