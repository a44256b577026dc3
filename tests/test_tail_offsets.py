"""Where reading begins and ends, and what moves the offset (case 25)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from logclf_daemon.record import Outcome
from tail_doubles import Rig, numbered, text


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


def test_files_of_two_inputs_have_chunk_ids_of_their_own(tmp_path: Path) -> None:
    with Rig(tmp_path) as first:
        first.write("a.log", b"one\n")
        first.read()
    with Rig(tmp_path, name="other") as second:
        second.read()

        assert second.lines == [b"one"]
        assert first.batches[0].chunk != second.batches[0].chunk
        assert len(first.batches[0].chunk or "") == 24


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
