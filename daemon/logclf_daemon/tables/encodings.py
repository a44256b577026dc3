"""Character sets. Cells stay bytes: only what is classified is decoded, only UTF-16 and UTF-32 are transcoded."""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO, cast

from logclf_daemon.errors import BadInput
from logclf_daemon.tables.rows import BLOCK_BYTES

_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NAME_IT = "unpack it, or give it a name that says so"
_NO_TEXT = {
    b"\x1f\x8b": ("packed by gzip", _NAME_IT),
    b"\xfd7zXZ\0": ("packed by xz", _NAME_IT),
    b"BZh": ("packed by bzip2", _NAME_IT),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", _NAME_IT),
    b"PAR1": ("Parquet", "give it a name that says so, or --input-format parquet"),
    b"PK\x03\x04": ("a workbook or another zip archive", "save it as CSV"),
}
_WIDE = ("utf-16", "utf-32")


def checked(encoding: str) -> str:
    """The usual name of an encoding that leaves line ends, quotes and delimiters where they are.

    Raises:
        BadInput: Unknown, or one in which half a letter may look like a quote.
    """
    try:
        name = codecs.lookup(encoding).name
        if name in ("utf-8", "utf-8-sig", "ascii"):
            return "utf-8"
        if name.startswith(_WIDE):
            return name
        table = bytes(range(256)).decode(name, "replace")
    except (LookupError, UnicodeError):
        table, name = "", encoding
    if len(table) != 256 or table[:128] != bytes(range(128)).decode("ascii"):
        raise BadInput(f"--encoding {encoding}: use utf-8, utf-16, utf-32 or one of one byte a letter, such as latin-1")
    return name


def refuse_packed(start: bytes, name: str) -> None:
    """What is packed, or a workbook, is not text, whatever its name says.

    Raises:
        BadInput: It is; the text says how to go on.
    """
    for mark, (what, advice) in _NO_TEXT.items():
        if start.startswith(mark):
            raise BadInput(f"{name}: is {what}, no text; {advice}")


def is_wide(encoding: str) -> bool:
    """Whether a letter takes several bytes, so that the table is transcoded on its way in and out."""
    return encoding.startswith(_WIDE)


def as_utf8(text: bytes, encoding: str) -> bytes:
    """A cell as the cascade wants it."""
    return text if encoding == "utf-8" or text.isascii() else text.decode(encoding, "replace").encode()


def order_of(encoding: str, head: bytes) -> str:
    """`utf-16` with its byte order, from the mark at the head of the file; little-endian where there is none."""
    if encoding not in _WIDE:
        return encoding
    found = next((name for mark, name in _BOMS.items() if head.startswith(mark) and name.startswith(encoding)), None)
    return found or f"{encoding}-le"


class Transcoded(io.RawIOBase):
    """A UTF-16 or UTF-32 file read as UTF-8; the byte order mark stays a letter of the text."""

    def __init__(self, file: BinaryIO, encoding: str, name: str) -> None:
        self._file = file
        self._name = name
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        while not self._ready:
            data = self._file.read(BLOCK_BYTES)
            try:
                self._ready = self._decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
            except UnicodeError as error:
                raise BadInput(f"{self._name}: is not {error.args[0]}: {error}; see --encoding") from error
            if not data:
                break
        size = min(len(view), len(self._ready))
        view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def encoded(payload: bytes, encoding: str) -> bytes:
    """Whole records of UTF-8 in the encoding they came in."""
    return payload.decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")
