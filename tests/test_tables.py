"""The csv command on every kind of table: files by name, one kind as another, bad rows, reports, interruptions."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from click.testing import CliRunner

from doubles import SlowStage
from logclf_daemon.cli import main
from logclf_daemon.cli.progress import Progress, line_of
from logclf_daemon.errors import BadInput
from logclf_daemon.jobs import TakingTurns
from logclf_daemon.record import Question
from logclf_daemon.stages.verdicts import VerdictMemory
from logclf_daemon.table import Kind, TableOptions, open_table
from logclf_daemon.tables.encodings import checked
from logclf_daemon.tables.files import reading
from logclf_daemon.tables.journal import Checkpoint, taken_up, unfinished
from logclf_daemon.tables.kinds import kind_of
from logclf_daemon.tables.lines import LinesReading
from logclf_daemon.tables.summary import Details, Summary, minute_of
from test_cli import RULE, errors, run
from test_table import convert

HEADER = b"source,log_message\n"


@pytest.fixture
def rules(tmp_path: Path) -> tuple[str, ...]:
    """Options with which `boom 1` is a Critical Error and all else Unclassified."""
    (tmp_path / "own.yaml").write_text(RULE)
    return ("--rules", str(tmp_path / "own.yaml"), "--no-builtin-rules", "--no-llm", "--no-model")


def converted(*arguments: str) -> str:
    """What the command says; in this process, which spares a second each."""
    result = CliRunner().invoke(main, ["csv", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stderr


def test_a_file_is_what_its_name_says() -> None:
    names = ["a.csv.gz", "a.tsv", "a", "a.ndjson", "a.jsonl.zst", "x.log.xz", "x.parquet"]

    assert [kind_of(name) for name in names] == ["csv", "csv", "csv", "jsonl", "jsonl", "log", "parquet"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_packed_files_are_read_and_written_by_name(tmp_path: Path, rules: tuple[str, ...], suffix: str) -> None:
    from logclf_daemon.tables.files import Output

    packed, out = tmp_path / f"in.csv{suffix}", tmp_path / f"out.csv{suffix}"
    with packed.open("wb") as file:  # in two pieces, as `cat a.gz b.gz` makes them
        output = Output(file, packed, "utf-8")
        for piece in (HEADER + b"a,boom 1\n", b"a,x\n"):
            output.write(piece)
            output.seal()

    converted(str(packed), "-o", str(out), *rules)

    with reading(str(out), "utf-8") as opened:
        assert opened.rows.read() == b"source,log_message,target_label\na,boom 1,Critical Error\na,x,Unclassified\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "latin-1"])
def test_other_encodings_stay_what_they_are(tmp_path: Path, rules: tuple[str, ...], encoding: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    written = "utf-16-le" if encoding == "utf-16" else encoding
    (tmp_path / "in.csv").write_bytes(f'{mark}source,log_message\r\ncaf\u00e9,"boom 1, \u00e9"\r\n'.encode(written))

    converted(str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--encoding", encoding, *rules)

    assert (tmp_path / "out.csv").read_bytes().decode(written) == (
        f'{mark}source,log_message,target_label\r\ncaf\u00e9,"boom 1, \u00e9",Critical Error\r\n'
    )


@pytest.mark.parametrize("encoding", ["shift_jis", "nonsense", "hex"])
def test_an_encoding_in_which_half_a_letter_may_be_a_quote_is_refused(encoding: str) -> None:
    with pytest.raises(BadInput, match="use utf-8, utf-16"):
        checked(encoding)


def test_json_lines_gain_a_member_and_keep_every_byte() -> None:
    lines = (
        b'{"n": 1e2, "source":"a", "log_message":"boom \\u0031"}\r\n'
        b'{"log_message":"x","source":null,"deep":{"log_message":"boom"}} \n'
        b"not json\n\n"
        b"[1]\n{}"
    )

    out, summary = convert(lines, kind="jsonl")

    assert out == (
        b'{"n": 1e2, "source":"a", "log_message":"boom \\u0031","target_label":"Critical Error"}\r\n'
        b'{"log_message":"x","source":null,"deep":{"log_message":"boom"},"target_label":"Unclassified"} \n'
        b"not json\n\n"
        b'[1]\n{"target_label":"Unclassified"}\n'
    )
    assert summary.odd_rows == [3, 5]


def test_an_object_that_has_the_label_already_is_a_bad_row() -> None:
    usual = b'{"source":"a","log_message":"x"}\n' * 1500
    labelled = b'{"source":"a","target_label":"mine","log_message":"boom"}\n'

    out, summary = convert(usual + labelled, kind="jsonl")

    assert out.endswith(labelled)
    assert summary.odd_rows == [1501]
    with pytest.raises(BadInput, match="there is a column 'target_label' already"):
        convert(labelled, kind="jsonl")


def test_json_lines_without_the_column_are_refused_with_a_suggestion() -> None:
    with pytest.raises(BadInput, match="did you mean --message-column 'msg'"):
        convert(b'{"source":"a","msg":"x"}\n', kind="jsonl")


def test_members_that_have_no_column_are_named(tmp_path: Path, rules: tuple[str, ...]) -> None:
    first = b'{"source": "a", "log_message": "boom 1", "n": "%s"}\n' % (b"x" * 1000)
    (tmp_path / "in.jsonl").write_bytes(first * 3000 + b'{"source": "a", "log_message": "boom 1", "late": 1}\n')

    told = converted(str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.csv"), *rules)
    same = converted(str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), *rules)

    assert "left out, since the first objects have no such member: 'late'\n" in told
    assert "left out" not in same


def test_log_lines_stand_after_their_label() -> None:
    out, _ = convert(b"boom 1\n\nx\ty\r\nlast", kind="log", explain=True)

    assert out == (
        b"Critical Error\t1\trules\tb\tboom 1\n\n"
        b"Unclassified\t0\tnone\tlow_confidence\tx\ty\r\nUnclassified\t0\tnone\tlow_confidence\tlast\n"
    )


def test_a_log_becomes_a_csv_json_lines_and_parquet(tmp_path: Path, rules: tuple[str, ...]) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    log = tmp_path / "app.log"
    log.write_bytes(b'boom 1, "x"\n\nfine\n')

    for name in ("out.csv", "out.jsonl", "out.parquet"):
        converted(str(log), "-o", str(tmp_path / name), *rules)

    rows = [
        {"source": "app.log", "log_message": 'boom 1, "x"', "target_label": "Critical Error"},
        {"source": "app.log", "log_message": "fine", "target_label": "Unclassified"},
    ]
    assert list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))) == rows
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    assert pyarrow.read_table(tmp_path / "out.parquet").to_pylist() == rows


def test_parquet_keeps_types_values_and_metadata(tmp_path: Path, rules: tuple[str, ...]) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet") and pytest.importorskip("pyarrow")
    table = pyarrow.table(
        {
            "n": pyarrow.array([1, None, 3], pyarrow.int8()),
            "source": pyarrow.array(["a", "b", None]).dictionary_encode(),
            "log_message": ["boom 1", None, "x"],
            "when": pyarrow.array([1, 2, 3], pyarrow.timestamp("ms", "UTC")),
        }
    ).replace_schema_metadata({"owner": "us"})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")

    converted(str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.parquet"), "--explain", *rules)
    converted(str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.csv"), *rules)

    out = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert out.select(table.column_names).equals(table)
    assert out.schema.metadata[b"owner"] == b"us"
    assert out["target_label"].to_pylist() == ["Critical Error", "Unclassified", "Unclassified"]
    assert out["rule"].to_pylist() == ["own-boom", "no_message", "low_confidence"]
    assert (tmp_path / "out.csv").read_text().splitlines()[2] == ",b,,1970-01-01T00:00:00.002000Z,Unclassified"


def test_an_empty_parquet_file_stays_one(tmp_path: Path, rules: tuple[str, ...]) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet") and pytest.importorskip("pyarrow")
    kinds = pyarrow.schema([("source", pyarrow.string()), ("log_message", pyarrow.string())])
    pyarrow.parquet.write_table(kinds.empty_table(), tmp_path / "in.parquet")

    converted(str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.parquet"), *rules)

    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").column_names[-1] == "target_label"


def test_bad_rows_are_sent_aside_as_they_came(tmp_path: Path, rules: tuple[str, ...]) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b'a,boom 1\n"x, y",2,"3"\r\nb\n')

    told = converted(
        str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--bad-rows", str(tmp_path / "bad.csv"), *rules
    )

    assert (tmp_path / "bad.csv").read_bytes() == HEADER + b'"x, y",2,"3"\r\nb\n'
    assert (tmp_path / "out.csv").read_bytes() == b"source,log_message,target_label\na,boom 1,Critical Error\n"
    assert "line 3, 4; sent to" in told


@pytest.mark.timeout(180)  # three interpreters start: long on a busy machine
def test_many_processes_give_the_same_bytes_and_report(tmp_path: Path, rules: tuple[str, ...]) -> None:
    rows = [b'"s%d","%s %d"\n' % (at % 5, b"boom" if at % 3 else b"x, y\nz", at) for at in range(40_000)]
    (tmp_path / "in.csv").write_bytes(HEADER + b"".join(rows) + b"odd\n")

    pages = []
    for jobs in ("1", "2"):
        out = str(tmp_path / f"out{jobs}.csv")
        page = tmp_path / f"{jobs}.html"
        told = converted(str(tmp_path / "in.csv"), "-o", out, "--jobs", jobs, "--report", str(page), *rules)
        assert "40001 rows, 13335 unclassified" in told
        pages.append(page.read_text())

    assert (tmp_path / "out1.csv").read_bytes() == (tmp_path / "out2.csv").read_bytes()
    assert pages[0] == pages[1]


def test_a_failed_run_leaves_the_output_of_an_earlier_one(tmp_path: Path, rules: tuple[str, ...]) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b'a,b\na,"never closed\n')
    (tmp_path / "out.csv").write_bytes(b"earlier")

    result = run("csv", str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), *rules)

    assert result.returncode == 65
    assert "in.csv:3: a quote opened here is never closed" in errors(result)
    assert (tmp_path / "out.csv").read_bytes() == b"earlier"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_device_and_a_link_are_written_not_replaced(tmp_path: Path, rules: tuple[str, ...]) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"a,boom 1\n")
    (tmp_path / "link.csv").symlink_to("real.csv")

    converted(str(tmp_path / "in.csv"), "-o", "/dev/null", *rules)
    converted(str(tmp_path / "in.csv"), "-o", str(tmp_path / "link.csv"), *rules)

    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link.csv").is_symlink()
    assert b"Critical Error" in (tmp_path / "real.csv").read_bytes()


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_an_output_stays_what_it_was_a_link_or_readable_by_its_owner_alone(
    tmp_path: Path, rules: tuple[str, ...], more: tuple[str, ...]
) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"a,boom 1\n")
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.touch(mode=0o600)
    link.symlink_to("real.csv")

    converted(str(tmp_path / "in.csv"), "-o", str(link), *more, *rules)

    assert link.is_symlink()
    assert b"Critical Error" in real.read_bytes()
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_pipe_with_a_name_is_written_to(tmp_path: Path, rules: tuple[str, ...]) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"a,boom 1\n")

    result = run("csv", str(tmp_path / "in.csv"), "-o", "/dev/stdout", *rules)

    assert result.returncode == 0
    assert b"a,boom 1,Critical Error\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "in.csv"), "OUT is INPUT"),
        (("-o", "same.csv"), "OUT is INPUT"),
        (("-o", "out.csv", "--bad-rows", "in.csv"), "--bad-rows is INPUT"),
        (("-o", "out.csv", "--bad-rows", "out.csv"), "--bad-rows is OUT"),
        (("-o", "out.csv", "--report", "in.csv"), "--report is INPUT"),
        (("-o", "out.csv", "--report", "out.csv"), "--report is OUT"),
        (("--bad-rows", "-"), "standard output is for OUT"),
        (("-o", "out.parquet.gz"), "leave .gz off the name"),
    ],
)
def test_nothing_is_written_over_what_is_read_or_written_as_well(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(HEADER + b"a,b\n")
    (tmp_path / "same.csv").symlink_to(source)
    given = [str(tmp_path / one) if "." in one else one for one in arguments]

    result = CliRunner().invoke(main, ["csv", str(source), *given, "--no-llm", "--no-model", "--no-builtin-rules"])

    assert words in result.stderr
    assert result.exit_code == 2
    assert source.read_bytes() == HEADER + b"a,b\n"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "same.csv"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "folder"), "is a folder; name a file in it"),
        (("-o", "out.csv", "--bad-rows", "folder"), "is a folder; name a file in it"),
        (("-o", "out.csv", "--report", "none/page.html"), "page.html: cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"a,b\n")
    (tmp_path / "folder").mkdir()
    given = [one if one.startswith("-") else str(tmp_path / one) for one in arguments]

    result = CliRunner().invoke(
        main, ["csv", str(tmp_path / "in.csv"), *given, "--no-llm", "--no-model", "--no-builtin-rules"]
    )

    assert words in result.stderr
    assert result.exit_code == 65
    assert {path.name for path in tmp_path.iterdir()} - {"state"} == {"in.csv", "folder"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_leaves_nothing_behind(
    tmp_path: Path, rules: tuple[str, ...], number: signal.Signals
) -> None:
    source = tmp_path / "in.csv"
    os.mkfifo(source)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "logclf_daemon", "csv", str(source), "-o", str(tmp_path / "out.csv"), *rules],
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it is ignored, and stays so
        ) as running,
        source.open("wb", buffering=0) as file,
    ):
        file.write(HEADER)
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".out.csv.*")) and time.monotonic() < deadline:
            time.sleep(0.01)

        running.send_signal(number)

        # Rows go on coming: a signal that arrives just before a read is seen after it.
        with suppress(BrokenPipeError):
            while running.poll() is None and time.monotonic() < deadline:
                file.write(b"a,b\n" * 1000)
                time.sleep(0.01)
        assert running.wait(30) == 128 + number
    assert not list(tmp_path.glob("*out.csv*"))


def test_bad_rows_that_are_gone_are_no_reason_to_go_on_with_zeros_in_their_place(tmp_path: Path) -> None:
    target, task = tmp_path / "out", {"input": 1}
    with (
        pytest.raises(KeyboardInterrupt),
        unfinished(tmp_path / "bad") as aside,
        taken_up(target, task, aside) as journal,
    ):
        journal.file.write(b"123")
        journal.file.flush()
        journal.note(Checkpoint(10, 2, 3, 5, {}))
        raise KeyboardInterrupt
    (tmp_path / ".bad.part").unlink()

    with unfinished(tmp_path / "bad") as aside, taken_up(target, task, aside) as journal:
        assert journal.found is None


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("start", "words"),
    [(b"\x1f\x8b\x08\x00", "is packed by gzip"), (b"PK\x03\x04", "is a workbook"), (b"PAR1", "is Parquet")],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path: Path, kind: Kind, start: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=f"in: {words}"):
        open_table(io.BytesIO(start + b'"\n'), kind, kind, TableOptions(), "in")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, rules: tuple[str, ...]) -> None:
    mark = b"\xef\xbb\xbf"
    lines = {"in.jsonl": b'{"source": "a", "log_message": "boom 1"}\n', "in.log": b"boom 1\n"}
    anchored = tmp_path / "anchored.yaml"
    anchored.write_text(RULE.replace("'boom", "'^boom"))
    for name, line in lines.items():
        (tmp_path / name).write_bytes(mark + line)

        converted(str(tmp_path / name), "-o", str(tmp_path / f"out.{name}"), *rules[2:], "--rules", str(anchored))

    assert (tmp_path / "out.in.log").read_bytes() == b"Critical Error\t" + mark + b"boom 1\n"
    assert (tmp_path / "out.in.jsonl").read_bytes().startswith(mark + b'{"source": "a"')
    assert b"Critical Error" in (tmp_path / "out.in.jsonl").read_bytes()


def test_a_first_object_may_be_as_long_as_any_other() -> None:
    line = b'{"source": "a", "log_message": "' + b"x" * (3 << 20) + b'"}\n'

    table = open_table(io.BytesIO(line * 2), "jsonl", "jsonl", TableOptions(), "in")

    assert [block.payload for block in table.reading.blocks(table.rows, 1)] == [line, line]


def test_no_more_of_an_endless_line_is_read_than_a_record_may_have() -> None:
    endless = io.BytesIO(b"x" * 10_000)

    with pytest.raises(BadInput, match="in:1: a line of more than 1000 bytes"):
        list(LinesReading("in", 100, 1000).blocks(endless, 1))

    assert endless.tell() == 1000


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("suffix", "jobs"), [(".csv.gz", "1"), (".csv", "2")])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, rules: tuple[str, ...], suffix: str, jobs: str
) -> None:
    source, bad = tmp_path / "in.csv", tmp_path / "bad.csv"
    with source.open("wb") as file:
        file.write(HEADER)
        for at in range(2400):  # of 8 KiB: more blocks than between two checkpoints
            file.write(b'a,"boom %d %s"\n' % (at, b"x" * 8192))
            file.write(b"odd\n" if at % 100 == 0 else b"")
    out, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    command = (str(source), "--bad-rows", str(bad), *rules)

    killed = run(
        "csv", *command, "-o", str(out), "--jobs", jobs, "--resume", environment={"LOGCLF_FAILPOINT": "block:18"}
    )
    told = converted(*command, "-o", str(out), "--resume")
    aside = bad.read_bytes()
    again = converted(*command, "-o", str(whole))

    assert killed.returncode == -signal.SIGKILL
    assert "goes on after" in told
    assert told.partition("\n")[2] == again
    assert out.read_bytes() == whole.read_bytes()
    assert aside == bad.read_bytes() == HEADER + b"odd\n" * 24
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_task_is_not_taken_up(tmp_path: Path) -> None:
    target = tmp_path / "out"

    for task, found in (({"input": 1}, False), ({"input": 1}, True), ({"input": 2}, False)):
        with pytest.raises(KeyboardInterrupt), taken_up(target, task) as journal:
            assert (journal.found is not None) == found
            assert journal.file.tell() == (3 if found else 0)
            journal.file.write(b"12345")
            journal.file.flush()
            journal.note(Checkpoint(10, 2, 3, 0, {}))
            with pytest.raises(BadInput, match="another run is writing it"), taken_up(target, task):
                pass
            raise KeyboardInterrupt

    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-", "--resume"), 2, "--resume needs files"),
        (("in.log", "--safe-cells"), 2, "--safe-cells is for CSV"),
        (("in.csv", "--delimiter", "ab"), 2, "one ASCII character"),
        (("in.csv", "--encoding", "shift_jis"), 65, "use utf-8, utf-16"),
        (("in.csv", "-o", "in.csv"), 2, "OUT is INPUT"),
        (("in.csv", "-o", "/no/such/out.csv"), 65, "cannot be written"),
        (("in.csv", "-o", "/dev/full"), 1, "/dev/full: cannot be written: No space left on device"),
        (("in.csv", "-o", "/dev/null", "--resume"), 2, "--resume needs a file"),
        (("in.csv.gz",), 65, "cannot be unpacked"),
        (("in.csv.bz2",), 65, "cannot be unpacked"),
        (("in.csv.xz",), 65, "cannot be unpacked"),
        (("in.csv", "--label-column="), 65, "--label-column: '' is no name for the label"),
        (("in.csv", "--label-column", "rule", "--explain"), 65, "'rule' is no name for the label"),
        (("in.csv", "--explain"), 65, "there is a column 'stage' already"),
        (("in.csv.zst",), 65, "cannot be unpacked"),
        (("in.parquet",), 65, "is no Parquet file"),
        (("in.csv", "--encoding", "utf-16"), 65, "is not utf-16"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    for name in ("in.csv", "in.log", "in.csv.zst", "in.csv.gz", "in.csv.bz2", "in.csv.xz", "in.parquet"):
        (tmp_path / name).write_bytes(b"source,log_message,stage\nx,y,z\n")
    given = [str(tmp_path / name) if (tmp_path / name).exists() else name for name in arguments]

    result = CliRunner().invoke(main, ["csv", *given, "--no-llm", "--no-model", "--no-builtin-rules"])

    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.exit_code == code


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> \x1b]0;x\x07 \u202e"


def test_the_report_opens_offline_and_escapes_what_it_shows() -> None:
    from logclf_daemon.tables.report import page

    text = io.StringIO()
    times = [f"2026-11-28T12:{minute:02}:00Z" for minute in range(50)]
    rows = [(time, HOSTILE, f"boom {HOSTILE} {at}" if at % 2 else f"disk {HOSTILE}") for at, time in enumerate(times)]
    csv.writer(text).writerows([("time", "source", "log_message"), *rows])

    _, summary = convert(text.getvalue().encode(), details=True)
    written = page(HOSTILE, summary)

    assert "50 rows" in written
    assert written.count("<rect") > 50
    for bad in ("<script", "<img", "\x1b", "http:", "https:", "javascript:", "url(", "\u202e", "@import"):
        assert bad not in written, bad
    assert "&lt;script&gt;" in written
    assert "Least certain" in written


@pytest.mark.parametrize(
    ("written", "minute"),
    [
        (b"2026-11-28T12:34:56.789+02:00"[:16], "2026-11-28T12:34"),
        (b"2026-11-28", "2026-11-28T00:00"),
        (b"2026/11/28 12:34", "2026-11-28T12:34"),
        (b"28/Nov/2026:12:34:56 +0000", "2026-11-28T12:34"),
        (b"1790000000", "2026-09-21T14:13"),
        (b"1790000000123", "2026-09-21T14:13"),
        (b"1790000000.5", "2026-09-21T14:13"),
        (b"soon", None),
        (b"", None),
        (b"9" * 400, None),
    ],
)
def test_times_are_read_as_they_are_written(written: bytes, minute: str | None) -> None:
    assert minute_of(written) == minute


def test_a_long_time_and_many_templates_stay_small() -> None:
    header = "time,source,log_message\n"
    rows = [
        f"20{at % 60:02}-{at % 12 + 1:02}-{at % 28 + 1:02}T{at % 24:02}:{at % 60:02},a,{'w' * (at % 300 + 1)}\n"
        for at in range(6000)
    ]

    _, summary = convert((header + "".join(rows)).encode(), details=True)

    assert summary.details is not None
    assert len(summary.details.times) <= 2000
    assert sum(sum(labels.values()) for labels in summary.details.times.values()) == 6000


def test_summaries_survive_the_journal() -> None:
    _, summary = convert(b"time,source,log_message\n2026-01-01,a,boom\n,a,disk\n,\n", details=True)

    assert Summary.from_json(json.loads(json.dumps(summary.as_json()))) == summary
    assert isinstance(summary.details, Details)


def test_progress_tells_rate_and_time_left() -> None:
    now = [100.0]
    stream, at = io.StringIO(), [0]
    progress = Progress(1000, lambda: at[0], stream=stream, clock=lambda: now[0])
    progress.tell(0, 0)

    now[0], at[0] = 110.0, 250
    progress.tell(5000, 250)
    progress.close()

    assert " 25%  5,000 rows  500 rows/s  0:30 left" in stream.getvalue()
    assert stream.getvalue().endswith("\r")
    assert line_of(10, 0, 0, (0, 0), 1.0) == "10 rows  10 rows/s"


def test_processes_ask_the_llm_what_no_other_has_asked_and_share_a_budget(tmp_path: Path) -> None:
    llm, memory = SlowStage({"disk": "Resource Usage"}), VerdictMemory(tmp_path / "cache.db", "x")
    llm.go_on.set()
    left = get_context("spawn").Value("q", 1)
    first, second = (TakingTurns(llm, memory, left) for _ in range(2))
    questions = [Question(f"{at:016}", "disk full", "app", b"disk full") for at in (1, 1, 2)]

    answers = [
        stage.classify([question])[0] for stage, question in zip([first, second, second], questions, strict=True)
    ]

    assert [answer.label for answer in answers if answer] == ["Resource Usage", "Resource Usage", "Unclassified"]
    assert len(llm.asked) == 1
    memory.close()


def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "import multiprocessing as m, os, time\n"
        "from logclf_daemon.jobs import _end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    child = m.get_context('spawn').Process(target=_end_with_parent)\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()

        assert parent.stdout.read() == b""  # the child had it open too, and is gone


def test_a_worker_that_is_killed_ends_the_run_with_a_word(tmp_path: Path, rules: tuple[str, ...]) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(HEADER + b"a,%s\n" % (b"x" * 1000) * 8000)  # more blocks than are under way at once
    command = [sys.executable, "-m", "logclf_daemon", "csv", str(source), "-o", str(out), "--jobs", "2", *rules]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        deadline = time.monotonic() + 30
        workers: list[str] = []
        while not workers and time.monotonic() < deadline:
            found = children.read_text().split()
            workers = [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]

        os.kill(int(workers[0]), signal.SIGKILL)

        try:
            told = running.communicate(timeout=50)[1]
        except subprocess.TimeoutExpired:
            running.kill()
            raise
    assert (running.returncode, told) == (1, b"error: a worker process died; is there memory for --jobs? try fewer\n")
    assert not list(tmp_path.glob("*out.csv*"))


def test_a_damaged_parquet_file_is_told_in_one_line(tmp_path: Path, rules: tuple[str, ...]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "in.parquet"
    table = pyarrow.table({"source": ["a"] * 40_000, "log_message": [f"boom {at}" for at in range(40_000)]})
    parquet.write_table(table, source, row_group_size=20_000, compression="snappy")
    whole = bytearray(source.read_bytes())
    whole[len(whole) * 3 // 4 : len(whole) * 3 // 4 + 2000] = b"\xff" * 2000
    source.write_bytes(whole)

    result = run("csv", str(source), "-o", str(tmp_path / "out.parquet"), *rules)

    assert result.returncode == 65
    assert errors(result).startswith(f"error: {source}: row ")
    assert errors(result).count("\n") == 1
