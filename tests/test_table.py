"""The csv engine: every other byte of the table stays."""

from __future__ import annotations

import asyncio
import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import FixedStage, cascade, rule
from logclf_daemon.errors import BadInput
from logclf_daemon.table import Summary, TableOptions, classify_table


def convert(table: bytes, **options: object) -> tuple[bytes, Summary]:
    writer = io.BytesIO()
    tested = cascade([rule("boom", "Critical Error", id="b")], [FixedStage({"disk": "Resource Usage"})])
    summary = asyncio.run(
        classify_table(io.BytesIO(table), writer, tested, TableOptions(**options), name="in.csv")  # type: ignore[arg-type]
    )
    tested.close()
    return writer.getvalue(), summary


def test_each_row_gets_its_label() -> None:
    out, summary = convert(b"source,log_message\napp,boom 1\napp,disk full\napp,hello\n")

    assert out == (
        b"source,log_message,target_label\n"
        b"app,boom 1,Critical Error\napp,disk full,Resource Usage\napp,hello,Unclassified\n"
    )
    assert (summary.rows, summary.unclassified) == (3, 1)
    assert dict(summary.stages) == {"rules": 1, "model": 1, "none": 1}


def test_explained_rows_say_why() -> None:
    out, _ = convert(b"source,log_message\na,boom\na,hello\n", explain=True)

    assert out.splitlines() == [
        b"source,log_message,target_label,confidence,stage,rule",
        b"a,boom,Critical Error,1,rules,b",
        b"a,hello,Unclassified,0,none,low_confidence",
    ]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (b'id,source,log_message\r\n007,"a, b",boom\r\n', b'007,"a, b",boom,Critical Error\r\n'),
        (b'\xef\xbb\xbfsource,log_message\na,"boom ""x"""\n', b'a,"boom ""x""",Critical Error\n'),
        (b'source,log_message,n\na,"boom\nline two",NA\n', b'a,"boom\nline two",NA,Critical Error\n'),
        (b"source;log_message\na;boom, loud\n", b"a;boom, loud;Critical Error\n"),
        (b"source\tlog_message\na\tboom\n", b"a\tboom\tCritical Error\n"),
        (b"source, log_message\na, boom\n", b"a, boom,Critical Error\n"),
        (b"source,log_message\na,boom", b"a,boom,Critical Error\n"),
        (b"source,log_message\na,boom \xff\n", b"a,boom \xff,Critical Error\n"),
        (b"source,log_message,x\na,boom\n", b"a,boom,,Critical Error\n"),
    ],
)
def test_cells_stay_as_they_are(table: bytes, expected: bytes) -> None:
    out, _ = convert(table)

    assert out.endswith(expected)
    assert out.startswith(table.splitlines()[0])


def test_blank_lines_pass_without_a_label() -> None:
    out, summary = convert(b"source,log_message\na,boom\n\na,boom\n")

    assert out.splitlines()[1:] == [b"a,boom,Critical Error", b"", b"a,boom,Critical Error"]
    assert summary.rows == 2


def test_rows_with_another_number_of_cells_are_reported() -> None:
    _, summary = convert(b'source,log_message\na,"x\ny"\na,b,c\na\n')

    assert summary.odd_rows == [4, 5]


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (b"src,log_message\n", "in.csv:1: no column 'source' .* did you mean --source-column 'src'"),
        (b"source,Message\n", "no column 'log_message'"),
        (b"", "in.csv: is empty"),
        (b"source,log_message,target_label\n", "there is a column 'target_label' already; choose another"),
        (b'source,log_message\na,b\na,"never closed\nx\n', "in.csv:3: a quote opened here is never closed"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_with_its_line(table: bytes, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as error:
        convert(table)

    assert error.value.exit_code == 65


def test_other_columns_by_option() -> None:
    out, _ = convert(b"app,text\nx,boom\n", source_column="app", message_column="text", label_column="a,b")

    assert out == b'app,text,"a,b"\nx,boom,Critical Error\n'


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=20)


@given(st.lists(st.tuples(cells, cells, cells), max_size=20))
def test_any_table_survives_the_way_through(rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("source", "log_message", "more"), *rows])

    out, _ = convert(text.getvalue().encode())

    read = list(csv.reader(io.StringIO(out.decode(), newline="")))
    assert [tuple(row[:3]) for row in read[1:]] == rows
    assert all(len(row) == 4 for row in read)


def test_a_large_table_keeps_its_order() -> None:
    table = b"source,log_message\n" + b"".join(f"s{number % 7},boom {number}\n".encode() for number in range(20_000))

    out, summary = convert(table)

    assert out.count(b"Critical Error") == summary.rows == 20_000
    assert [int(line.split(b",")[1].split()[1]) for line in out.splitlines()[1:]] == list(range(20_000))
