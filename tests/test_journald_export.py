"""The journal's export format, as journalctl writes it."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal_doubles import exported
from logclf_daemon.codec import text_bytes
from logclf_daemon.inputs._journald.export import ENTRY_FIELDS, Entry, ExportParser

PLAIN = b"__CURSOR=s=1;i=2\n__REALTIME_TIMESTAMP=7\nMESSAGE=a=b\nEMPTY=\n\n"
BINARY = b"__CURSOR=c\nMESSAGE\n" + struct.pack("<Q", 9) + b"two\n\nx=\xff\0" + b"\nPRIORITY=6\n\n"


def parsed(data: bytes, limit: int = 1 << 20, portion: int = 1 << 30) -> list[Entry]:
    parser = ExportParser(limit)
    return [entry for at in range(0, len(data), portion) for entry in parser.feed(data[at : at + portion])]


def values(entry: Entry) -> dict[str, bytes | None]:
    return {name: text_bytes(value) for name, value in entry.fields.items()}


def test_text_fields_keep_their_bytes_and_equals_signs() -> None:
    (entry,) = parsed(PLAIN)

    assert entry.cursor == "s=1;i=2"
    assert values(entry) == {
        "__CURSOR": b"s=1;i=2",
        "__REALTIME_TIMESTAMP": b"7",
        "MESSAGE": b"a=b",
        "EMPTY": b"",
    }
    assert (entry.size, entry.truncated) == (len(PLAIN), False)


def test_a_binary_field_may_hold_anything_even_what_ends_an_entry() -> None:
    first, second = parsed(BINARY + PLAIN)

    assert values(first) == {"__CURSOR": b"c", "MESSAGE": b"two\n\nx=\xff\0", "PRIORITY": b"6"}
    assert first.size == len(BINARY)
    assert second.cursor == "s=1;i=2"


def test_a_size_that_looks_like_line_ends_is_a_size() -> None:
    value = b"x" * 0x0A0A

    (entry,) = parsed(b"MESSAGE\n" + struct.pack("<Q", len(value)) + value + b"\n\n")

    assert values(entry) == {"MESSAGE": value}


def test_a_field_that_comes_again_becomes_a_list() -> None:
    (entry,) = parsed(exported({"__CURSOR": "c", "K": ["1", b"\n2"], "MESSAGE": "m"}))

    assert msgspec.msgpack.decode(entry.fields["K"]) == ["1", "\n2"]
    assert entry.texts["K"] == b"1"


@pytest.mark.parametrize("portion", [1, 7, 64])
def test_long_fields_are_cut_and_the_rest_read_past(portion: int) -> None:
    data = exported({"__CURSOR": "c", "A": "x" * 500, "B": b"\n" * 500, "MESSAGE": "m"}) + PLAIN

    first, second = parsed(data, limit=100, portion=portion)

    assert values(first) == {"__CURSOR": b"c", "A": b"x" * 100, "B": b"\n" * 100, "MESSAGE": b"m"}
    assert (first.truncated, first.size) == (True, len(data) - len(PLAIN))
    assert values(second)["MESSAGE"] == b"a=b"


def test_an_entry_of_many_long_fields_is_bounded_and_keeps_its_message() -> None:
    fields = {f"F{number}": b"\n" * 100 for number in range(50)}

    (entry,) = parsed(exported({"__CURSOR": "c", **fields, "MESSAGE": "the message"}), limit=100)

    assert sum(map(len, entry.texts.values())) <= 100 * (ENTRY_FIELDS + 1)
    assert values(entry)["MESSAGE"] == b"the message"
    assert entry.truncated


def test_a_size_beyond_all_memory_is_read_past() -> None:
    parser = ExportParser(100)

    entries = list(parser.feed(b"__CURSOR=c\nMESSAGE\n" + struct.pack("<Q", 1 << 63) + b"x" * 1000))

    assert entries == []
    assert len(parser._rest) == 0


@given(st.binary(max_size=400), st.integers(1, 50))
def test_whatever_comes_nothing_is_raised_and_little_is_held(data: bytes, portion: int) -> None:
    parser = ExportParser(64)

    for at in range(0, len(data), portion):
        list(parser.feed(data[at : at + portion]))

    assert len(parser._rest) <= 64 + 64 + 50 + 16


NAMES = st.sampled_from(["A", "B_C", "MESSAGE"])
VALUES = st.one_of(st.text(max_size=10), st.binary(max_size=20))
ENTRIES = st.lists(st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=2), min_size=1), max_size=4)


@given(ENTRIES, st.integers(1, 40))
def test_what_was_written_is_read_in_any_portions(entries: list[dict[str, list[str | bytes]]], portion: int) -> None:
    data = b"".join(map(exported, entries))

    found = parsed(data, portion=portion)

    assert [entry.texts for entry in found] == [
        {name: value if isinstance(value, bytes) else value.encode() for name, (value, *_) in entry.items()}
        for entry in entries
    ]
    assert sum(entry.size for entry in found) == len(data)
