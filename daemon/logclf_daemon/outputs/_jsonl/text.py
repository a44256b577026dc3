"""Records from msgpack to JSON, one object a line, without a Python value for what never changes.

Maps and lists that come again (verdicts, the pod a line is from) are remembered as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgpack
import msgspec
from msgspec import Raw

from logclf_daemon.cache import TwoGenerations
from logclf_daemon.record import AnyRecord, Record

NESTED_TOO_DEEP = "(nested too deep)"
REMEMBERED, REMEMBERED_BYTES = 8192, 2048  # maps and lists, up to twice as many; no larger ones

_scalar = msgspec.msgpack.Decoder(str | int | float | bool | None).decode
_ENCODER = msgspec.json.Encoder()
_ODD = (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException)


class JsonText:
    """Writes records as JSON lines; whatever a record holds, its line is valid JSON."""

    def __init__(self) -> None:
        self._remembered: TwoGenerations[bytes, Raw] = TwoGenerations(REMEMBERED)

    def lines(self, records: Sequence[AnyRecord], first: Sequence[Mapping[str, object]] | None = None) -> bytes:
        """One line a record; `first` are fields to begin with, which those of the record replace."""
        rows = self._rows(records)
        if first is not None:
            rows = [{**more, **row} for more, row in zip(first, rows, strict=True)]
        self._remembered.trim()
        return _ENCODER.encode_lines(rows)

    def _rows(self, records: Sequence[AnyRecord]) -> list[dict[str, object]]:
        """The fields of each record, ready for the encoder."""
        remembered, rows = self._remembered.young, []
        compound: set[str] = set()  # names under which maps and lists were met: a failed attempt costs ten good ones
        for record in records:
            if not isinstance(record, Record):
                rows.append(_fields(bytes(record.body)))
                continue
            row: dict[str, object] = {}
            for name, raw in record.fields.items():
                if name in compound:
                    data = bytes(raw)
                    row[name] = remembered.get(data) or self._other(data)
                    continue
                try:
                    row[name] = _scalar(raw)
                except ValueError:
                    data = bytes(raw)
                    row[name] = self._other(data)
                    if _is_compound(data):
                        compound.add(name)
            rows.append(row)
        return rows

    def _other(self, data: bytes) -> Raw:
        """The JSON of what is no plain scalar: maps, lists, bytes, extensions, damaged text."""
        known = self._remembered.find(data)
        if known is None:
            known = Raw(_encoded(_value(data)))
            if len(data) <= REMEMBERED_BYTES and _is_compound(data):
                self._remembered.young[data] = known
        return known


def _is_compound(data: bytes) -> bool:
    """Whether this is the msgpack of a map or a list."""
    return 0x80 <= data[0] <= 0x9F or 0xDC <= data[0] <= 0xDF


def _encoded(value: object) -> bytes:
    try:
        return _ENCODER.encode(value)
    except RecursionError:
        return _ENCODER.encode(NESTED_TOO_DEEP)


def _value(data: bytes) -> object:
    """Any msgpack as a value that JSON can carry."""
    try:
        return _text_only(_unpacked(data))
    except RecursionError:
        return NESTED_TOO_DEEP
    except _ODD:
        return data.decode("latin-1")


def _unpacked(data: bytes) -> object:
    return msgpack.unpackb(data, raw=False, unicode_errors="replace", strict_map_key=False, timestamp=0)


def _fields(body: bytes) -> dict[str, object]:
    """The same for a map that is a whole record."""
    try:
        fields = _unpacked(body)
    except _ODD:
        fields = None
    if not isinstance(fields, dict):
        return {"undecodable": body.decode("latin-1")}
    return {_text_of(name): _field(value) for name, value in fields.items()}


def _field(value: object) -> object:
    try:
        return Raw(_ENCODER.encode(_text_only(value)))
    except RecursionError:
        return NESTED_TOO_DEEP


def _text_of(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _text_only(value: object) -> object:
    if isinstance(value, bytes | datetime | msgpack.Timestamp):
        return _text_of(value)
    if isinstance(value, dict):
        return {_text_of(name): _text_only(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_text_only(inner) for inner in value]
    if isinstance(value, msgpack.ExtType):
        return {"type": value.code, "data": bytes(value.data).hex()}
    return value
