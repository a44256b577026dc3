"""Messages of several lines: traces, start patterns, and the parts that Docker and the CRI write (cases 20 to 22)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from logclf_daemon.codec import event_time
from logclf_daemon.errors import ConfigError
from logclf_daemon.inputs._tail import multiline
from tail_doubles import Rig, rotate

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
