"""The csv engine: every other byte of the table stays."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import FixedStage, cascade, rule
from logclf_daemon.cascade import Cascade, Classified
from logclf_daemon.errors import BadInput
from logclf_daemon.generation import Generation
from logclf_daemon.stages._rules.files import Rule
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.table import Kind, Summary, TableOptions, classify_table
from logclf_daemon.tables.delimited import DelimitedCodec, DelimitedReading
from logclf_daemon.tables.labelling import answers_of
from logclf_daemon.tables.rows import Block
from logclf_daemon.taxonomy import Taxonomy


def convert(table: bytes, *, kind: Kind = "csv", **options: object) -> tuple[bytes, Summary]:
    writer = io.BytesIO()
    tested = cascade([rule("boom", "Critical Error", id="b")], [FixedStage({"disk": "Resource Usage"})])
    summary = asyncio.run(
        classify_table(io.BytesIO(table), writer, tested, TableOptions(**options), name="in.csv", kind=kind)  # type: ignore[arg-type]
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
    ("kind", "expected"),
    [("csv", b"a,disk,Error,,llm,"), ("jsonl", b'"target_label":"Error","confidence":null,"stage":"llm","rule":""}')],
)
def test_a_confidence_that_was_not_measured_is_an_empty_cell(kind: Kind, expected: bytes) -> None:
    tables = {"csv": b"source,log_message\na,disk\n", "jsonl": b'{"source":"a","log_message":"disk"}\n'}
    tested = cascade([], [FixedStage({"disk": "Error"}, name="llm", confidence=None)])
    writer = io.BytesIO()

    options = TableOptions(explain=True)
    asyncio.run(classify_table(io.BytesIO(tables[kind]), writer, tested, options, name="in", kind=kind))
    tested.close()

    assert writer.getvalue().rstrip().endswith(expected)


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


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'source,log_message\na,"' + b"a line\n" * 100_000, "in.csv:2: a record that does not end within 50000 bytes"),
        (b'source,log_message\na,"' + b"x" * 700_000 + b'"\n', "in.csv:2: a record that does not end within"),
        (b"source,log_message\na," + b"x" * 700_000, "in.csv:2: a record that does not end within"),
        (b'source,log_message\nb,ok\na,"' + b"a line\n" * 100_000, "in.csv:3: a record that does not end within"),
    ],
)
def test_no_more_is_read_of_a_record_than_it_may_have(text: bytes, complaint: str) -> None:
    reader = io.BytesIO(text)
    tested = cascade()

    with pytest.raises(BadInput, match=complaint):
        options = TableOptions(block_bytes=1000, max_record_bytes=50_000)
        asyncio.run(classify_table(reader, io.BytesIO(), tested, options, name="in.csv"))

    tested.close()
    assert reader.tell() < 60_000


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'"source\n' + b"x\n" * 1_000_000, "in.csv:1: a record that does not end within"),
        (b"PK\x03\x04\x00\x00 no table\n" * 1000, "in.csv: is a workbook or another zip archive, no text"),
        (b"\x00\x00 no table\n" * 1000, "in.csv:1: this is no text in UTF-8"),
        (b"x" * 2_000_000, "in.csv:1: a record that does not end within"),
    ],
)
def test_what_is_no_table_is_told_by_its_beginning(text: bytes, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        convert(text)


def test_a_message_names_no_more_columns_than_one_would_read() -> None:
    names = ",".join(f"{'long' * 100}{at}" for at in range(1000)).encode()

    with pytest.raises(BadInput, match="980 more") as error:
        convert(names + b"\n")

    assert len(str(error.value)) < 2000


def test_a_record_as_large_as_it_may_be_is_read() -> None:
    row = b'a,"boom' + b"\nx" * 10_000 + b'"\n'

    out, _ = convert(b"source,log_message\n" + row * 3, block_bytes=1000, max_record_bytes=len(row) + 1)

    assert out.count(b"Critical Error") == 3


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


SPLIT = b"source,log_message,n\n"
PIECES = ["a", "boom", " ", ",", '"', '""', "\n", "\r\n", ";", "\u00e9", "=1", "\t"]
ragged = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
rows_of_text = st.lists(
    st.tuples(*[st.text(st.sampled_from('ab",;\n\r\u00e9 '), max_size=6)] * 3).map(tuple), max_size=12
)


def reference(table: bytes) -> bytes | None:
    """The csv module over the whole table, one record after the other; None where a quote is never closed."""
    lines = list(io.StringIO(table.decode("latin-1"), newline="\n"))
    reader = csv.reader([*lines, "end"], skipinitialspace=True)
    written: list[str] = []
    start = 0
    for cells in reader:
        raw, start = "".join(lines[start : reader.line_num]), reader.line_num
        if start > len(lines):
            return (
                "".join(written).encode("latin-1") if raw == "" else None
            )  # else the line after the last is part of it
        body = raw.rstrip("\r\n")
        end = raw[len(body) :] or "\n"
        if not cells:
            written.append(raw)
            continue
        first = not written
        label = "target_label" if first else "Critical Error" if "boom" in "".join(cells[1:2]) else "Unclassified"
        written.append(body + "," * max(0, 3 - len(cells)) + "," + label + end)
    return None


@given(ragged, st.sampled_from([7, 31, 200, 1 << 20]))
def test_any_bytes_give_what_the_csv_module_sees_whatever_the_blocks(text: str, block_bytes: int) -> None:
    table = SPLIT + text.encode()
    expected = reference(table)

    if expected is None:
        with pytest.raises(BadInput, match="never closed"):
            convert(table, block_bytes=block_bytes)
    else:
        assert convert(table, block_bytes=block_bytes)[0] == expected


written = st.builds(
    lambda rows, end, quote: _written(rows, end, quote=quote),
    rows_of_text,
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
# Lines of three cells, mostly: what a writer would never write, stray and doubled quotes above all.
odd = st.lists(
    st.lists(st.lists(st.sampled_from('a" ;\u00e9'), max_size=5).map("".join), min_size=2, max_size=4).map(",".join),
    max_size=8,
).map(lambda lines: "".join(line + "\n" for line in lines))


def _written(rows: list[tuple[str, str, str]], end: str, *, quote: bool) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL, lineterminator=end).writerows(rows)
    return text.getvalue()


@given(st.one_of(written, odd))
def test_the_quick_way_gives_the_rows_of_the_slow_one(text: str) -> None:
    block = Block(text.encode(), 2)
    codec = DelimitedCodec(TableOptions(), ",", ("source", "log_message", "n"), 0, 1, 2)

    quick, slow = codec.parse(block), codec.parse_quoted(block)

    ends = [quick.ends] * len(quick) if isinstance(quick.ends, bytes) else quick.ends
    assert ends == ([slow.ends] * len(slow) if isinstance(slow.ends, bytes) else slow.ends)
    assert list(quick.bodies) == list(slow.bodies)
    assert [source.strip() for source in quick.sources] == list(slow.sources)
    assert list(quick.messages) == list(slow.messages)
    assert list(quick.lines) == list(slow.lines)
    assert quick.times == slow.times
    assert (quick.bad, quick.passed) == (slow.bad, slow.passed)


def test_a_stray_quote_swallows_nothing() -> None:
    out, _ = convert(b'source,log_message\na,5" boom\nb,ok\nc,say "hi" boom\n')

    assert out.splitlines()[1:] == [
        b'a,5" boom,Critical Error',
        b"b,ok,Unclassified",
        b'c,say "hi" boom,Critical Error',
    ]


def test_a_carriage_return_within_a_cell_stays() -> None:
    out, summary = convert(b"source,log_message\na,10%\r boom\nb,x\n")

    assert out == b"source,log_message,target_label\na,10%\r boom,Critical Error\nb,x,Unclassified\n"
    assert summary.odd_rows == []


def test_a_cell_may_be_larger_than_a_block() -> None:
    long = b"x" * 200_000 + b" boom"

    out, _ = convert(b'source,log_message\na,"' + long + b'\nmore"\nb,ok\n', block_bytes=1000)

    assert out.endswith(b'more",Critical Error\nb,ok,Unclassified\n')


@pytest.mark.parametrize(
    ("bad_rows", "expected"),
    [
        ("keep", [b"a,boom,Critical Error", b"a,b,c,d,Unclassified", b"a,,Unclassified", b"b,ok,Unclassified"]),
        ("drop", [b"a,boom,Critical Error", b"b,ok,Unclassified"]),
        ("aside", [b"a,boom,Critical Error", b"b,ok,Unclassified"]),
    ],
)
def test_rows_with_another_number_of_cells_are_kept_or_left_out(bad_rows: str, expected: list[bytes]) -> None:
    out, summary = convert(b"source,log_message\na,boom\na,b,c,d\na\nb,ok\n", bad_rows=bad_rows)

    assert out.splitlines()[1:] == expected
    assert (summary.odd_rows, summary.odd_count) == ([3, 4], 2)


def test_safe_cells_start_like_no_formula_and_others_stay() -> None:
    table = b'source,log_message,=n\n=1+1,"-boom, =x",ok\na," @x ""=""", +3\na,b=c,007\n'

    out, _ = convert(table, safe_cells=True)

    assert out.splitlines() == [
        b"source,log_message,'=n,target_label",
        b"'=1+1,\"'-boom, =x\",ok,Critical Error",
        b'a," @x ""=""", \'+3,Unclassified',
        b"a,b=c,007,Unclassified",
    ]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (b"app,log_message", "did you mean --source-column 'app'"),
        (b"source,msg", "did you mean --message-column 'msg'"),
        (b"Source,log_message", "did you mean --source-column 'Source'"),
        (b"source,x", "name it with --message-column"),
    ],
)
def test_a_missing_column_is_suggested(header: bytes, hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        convert(header + b"\n")


def test_the_delimiter_is_the_one_that_shows_the_columns() -> None:
    out, _ = convert(b"source;log_message;a,b,c,d,e\nx;boom;1\n")

    assert out.endswith(b"x;boom;1;Critical Error\n")


def test_one_byte_encodings_are_read_and_written_as_such() -> None:
    out, _ = convert("source,log_message\ncaf\u00e9,boom \u00e9\n".encode("latin-1"), encoding="iso8859-1")

    assert out.endswith("caf\u00e9,boom \u00e9,Critical Error\n".encode("latin-1"))


async def answered(tested: Cascade, rows: list[tuple[bytes, bytes | None]]) -> list[tuple[str, str | None]]:
    answers = await answers_of(tested, [source for source, _ in rows], [message for _, message in rows])
    return [(answer.verdict.label, answer.verdict.reason) for answer in answers if answer is not None]


def test_rows_of_all_sources_keep_their_order_and_each_source_its_rules() -> None:
    tested = cascade([rule("boom", "Critical Error", source=["db*"]), rule("boom", "Error", source=["web*"])])
    rows = [(b"web1", b"boom 1"), (b"db1", b"boom 2"), (b"web2", None), (b" db2 ", b"boom 3"), (b"x", b"boom 4")] * 3

    labels = asyncio.run(answered(tested, rows))
    tested.close()

    assert (
        labels
        == [
            ("Error", None),
            ("Critical Error", None),
            ("Unclassified", "no_message"),
            ("Critical Error", None),
            ("Unclassified", "low_confidence"),
        ]
        * 3
    )


class Watched(Cascade):
    """Notes which sources it is asked for; may be given other rules after the first."""

    asked: tuple[str, ...] = ()
    newer: Generation | None = None

    async def classify(self, source: str, lines: Sequence[bytes | None]) -> Classified:
        self.asked += (source,)
        classified = await super().classify(source, lines)
        self.generation = self.newer or self.generation
        return classified


def test_sources_that_are_not_told_apart_are_asked_together() -> None:
    tested = Watched(generation([rule("boom", "Critical Error")]))

    asyncio.run(answered(tested, [(b"app%d" % (number % 20), b"boom") for number in range(100)]))
    tested.close()

    assert len(tested.asked) == 1


def test_a_reload_between_two_sources_gives_all_rows_the_new_rules() -> None:
    tested = Watched(generation([rule("boom", "Error")]))
    tested.newer = generation([rule("boom", "Critical Error", source=["a*"])])

    labels = asyncio.run(answered(tested, [(b"a", b"boom"), (b"b", b"boom")]))
    tested.close()

    assert labels == [("Critical Error", None), ("Unclassified", "low_confidence")]


def generation(rules: Sequence[Rule]) -> Generation:
    return Generation(1, RuleSet(rules), [], Taxonomy())


def test_no_block_has_more_rows_than_one_of_usual_lines() -> None:
    body = b"\n" * 10_000 + b'a,"' + b"\n" * 5_000 + b'"\n' + b"a,b\n" * 10_000
    reading = DelimitedReading(",", "in", block_bytes=64 << 10)

    blocks = [block.payload for block in reading.blocks(io.BytesIO(body), 2)]

    assert b"".join(blocks) == body
    assert max(block.count(b"\n") for block in blocks if b'"' not in block) <= 2048
