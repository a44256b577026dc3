"""What is in the files: holes, unfinished and very long lines, encodings, compressed files (cases 7 to 12, 26)."""

from __future__ import annotations

import gzip
import os
import resource
from pathlib import Path

import pytest

from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs._tail.lines import PlainFraming, Splitter, normal_name, splitter_for
from tail_doubles import Rig, numbered, rotate, text, troubles


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


def test_26_carriage_returns_empty_lines_and_the_mark_at_the_start(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.write("a.log", b"\xef\xbb\xbfone\r\n\r\n\ntw\ro\r\r\nthree")
        rig.settle_down(10)

        assert rig.lines == [b"one", b"", b"", b"tw\ro\r", b"three"]


def test_a_cut_made_again_from_its_own_bytes_is_the_same_cut() -> None:
    data = b"one\r\n" + b"x" * 30 + b"\n\0\0two\nthr"
    framing = PlainFraming(splitter_for("utf-8", b""), 20, 64)

    for cut in framing.cut(data, "", closed=True, limit=2):
        again = framing.cut(data[: cut.length], "", closed=True, limit=0)
        data = data[cut.length :]
        assert again == [cut]
