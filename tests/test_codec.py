"""Chunks to records and back."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from logclf_daemon.codec import (
    decode_entries,
    encode_entries,
    event_time,
    message_lines,
    raw_str,
    sealed_with,
    text_bytes,
)
from logclf_daemon.outputs._jsonl.text import JsonText
from logclf_daemon.record import SealedRecord

TIME = msgpack.ExtType(0, b"\x6b\x02\x9d\x7b\x35\x81\x13\xd2")


def packed(*entries: object) -> bytes:
    return b"".join(msgpack.packb(entry) for entry in entries)


def test_entries_leave_byte_for_byte_as_they_came() -> None:
    blob = packed([TIME, {"log": "x", "n": 1, "f": 1.5, "b": None}], [[TIME, {"m": "v"}], {"log": "y"}], [7, {}])

    assert encode_entries(decode_entries(blob, 3).records) == blob


@pytest.mark.parametrize("count", [None, 1, 2, 3, 99])
def test_a_missing_or_wrong_count_changes_nothing(count: int | None) -> None:
    blob = packed([TIME, {"log": "x"}], [TIME, {"log": "y"}])

    assert message_lines(decode_entries(blob, count).records, ("log",)) == [b"x", b"y"]


def test_invalid_utf8_in_values_survives() -> None:
    blob = packed([TIME, {"log": 1}])[:-1] + bytes(raw_str(bytes(range(256))))

    decoded = decode_entries(blob, 1)

    assert message_lines(decoded.records, ("log",)) == [bytes(range(256))]
    assert encode_entries(decoded.records) == blob


@pytest.mark.parametrize(
    "fields",
    [
        b"\x82\xa1\xff\x01\xa3log\xa1x",  # a key that is not UTF-8
        b"\x82\xc4\x01k\x01\xa3log\xa1x",  # a binary key
        b"\x82\x07\x01\xa3log\xa1x",  # an integer key
        b"\x82\x91\x01\x01\xa3log\xa1x",  # an array as a key
    ],
)
def test_odd_keys_are_sealed_not_changed(fields: bytes) -> None:
    blob = packed([TIME, {"log": "plain"}]) + b"\x92\x07" + fields

    decoded = decode_entries(blob, 2)

    assert message_lines(decoded.records, ("log",)) == [b"plain", b"x"]
    assert encode_entries(decoded.records) == blob
    sealed = decoded.records[1]
    assert isinstance(sealed, SealedRecord)
    assert (
        bytes(sealed_with(sealed.body, {"logclf": Raw(b"\xa1v")}))
        == b"\xdf\x00\x00\x00\x03" + fields[1:] + b"\xa6logclf\xa1v"
    )


@pytest.mark.parametrize("entry", [[TIME, [1, 2]], [TIME], 5, "text", [TIME, {"a": 1}, 3], {"a": 1}])
def test_an_entry_that_is_no_record_is_counted_and_the_others_stay(entry: object) -> None:
    decoded = decode_entries(packed([TIME, {"log": "a"}], entry, [TIME, {"log": "b"}]), 3)

    assert (message_lines(decoded.records, ("log",)), decoded.invalid) == ([b"a", b"b"], 1)


@pytest.mark.parametrize("blob", [b"\x92\x01", b"\xc1", packed([TIME, {"a": 1}]) + b"\x92"])
def test_truncated_or_reserved_bytes_are_an_error(blob: bytes) -> None:
    with pytest.raises(ValueError, match="not msgpack"):
        decode_entries(blob)


def test_group_markers_are_passed_through() -> None:
    start = msgpack.ExtType(0, b"\xff\xff\xff\xff" + b"\0" * 4)
    end = msgpack.ExtType(0, b"\xff\xff\xff\xfe" + b"\0" * 4)
    blob = packed([[start, {}], {"scope": 1}], [[TIME, {}], {"log": "x"}], [end, {}])

    assert decode_entries(blob, 3).passthrough == {0, 2}


@given(st.binary(max_size=300))
def test_no_bytes_make_it_do_worse_than_say_so(blob: bytes) -> None:
    try:
        decoded = decode_entries(blob, 2)
    except ValueError:
        return

    message_lines(decoded.records, ("log", "message"))
    JsonText().lines(decoded.records)


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536])
def test_text_has_the_right_header(size: int) -> None:
    assert msgpack.unpackb(bytes(raw_str(b"a" * size))) == "a" * size
    assert text_bytes(raw_str(b"a" * size)) == b"a" * size


@pytest.mark.parametrize(
    ("nanoseconds", "seconds", "rest"),
    [(1_500_000_000, 1, 500_000_000), (-1, 0, 0), (1 << 70, (1 << 32) - 1, 999_999_999)],
)
def test_event_times_outside_the_range_are_clamped(nanoseconds: int, seconds: int, rest: int) -> None:
    data = msgpack.unpackb(bytes(event_time(nanoseconds))).data

    assert (int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")) == (seconds, rest)


def test_the_message_is_the_first_key_that_is_text() -> None:
    records = decode_entries(
        packed([1, {"msg": "m", "log": 5}], [1, {"message": b"bin"}], [1, {"other": "x"}]), 3
    ).records

    assert message_lines(records, ("log", "message", "msg")) == [b"m", b"bin", None]
