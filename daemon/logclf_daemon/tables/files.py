"""The files of a table: packed by name, in any encoding; an output appears under its name when it is complete."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from logclf_daemon.errors import BadInput
from logclf_daemon.tables.encodings import Transcoded, encoded, is_wide, order_of
from logclf_daemon.tables.rows import BLOCK_BYTES

PACKED = (".gz", ".xz", ".bz2", ".zst")


@dataclass(frozen=True, slots=True)
class Opened:
    """A table open for reading: the bytes of its rows, and how much of the file was read for them."""

    rows: BinaryIO
    encoding: str  # with its byte order
    size: int  # of the file; 0: not known
    position: Callable[[], int]


@contextlib.contextmanager
def reading(source: str, encoding: str) -> Iterator[Opened]:
    """Open a file, or standard input for `-`.

    Raises:
        BadInput: It cannot be read or unpacked.
    """
    if source == "-":
        yield _opened(sys.stdin.buffer, "standard input", encoding, size=0)
        return
    path = Path(source)
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{source}: cannot be read: {error.strerror}") from error
    try:
        with file, _unpacked(file, path) as stream:
            yield _opened(stream, source, encoding, size=os.fstat(file.fileno()).st_size, file=file)
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, _zstd_error()) as error:
        raise BadInput(f"{source}: cannot be unpacked: {error}; is the file complete?") from error
    except OSError as error:
        if path.suffix != ".bz2" or error.errno is not None:
            raise  # not of the file that is read
        raise BadInput(f"{source}: cannot be unpacked: {error}; is the file complete?") from error


def _opened(stream: BinaryIO, name: str, encoding: str, *, size: int, file: BinaryIO | None = None) -> Opened:
    position = file.tell if file is not None else (lambda: 0)
    if not is_wide(encoding):
        return Opened(stream, encoding, size, position)
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast("io.RawIOBase", stream))
    ordered = order_of(encoding, buffered.peek(4)[:4])
    rows = io.BufferedReader(Transcoded(buffered, ordered, name), BLOCK_BYTES)
    return Opened(cast("BinaryIO", rows), ordered, size, position)


@contextlib.contextmanager
def _unpacked(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        ".gz": lambda packed: gzip.GzipFile(fileobj=packed),
        ".xz": lzma.LZMAFile,
        ".bz2": bz2.BZ2File,
        # A file of several frames is one file.
        ".zst": lambda packed: io.BufferedReader(
            _zstandard(path).ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=False)
        ),
    }
    if path.suffix not in openers:
        yield file
        return
    with openers[path.suffix](file) as stream:
        yield stream


def _zstandard(path: PurePath) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise BadInput(f"{path}: .zst needs one more package: pip install 'logclf-daemon[zstd]'") from error
    return zstandard


def _zstd_error() -> type[Exception]:
    """What zstandard raises for a damaged file, if it is there at all."""
    module = sys.modules.get("zstandard")
    return module.ZstdError if module is not None else EOFError


class Output:
    """A file being written, packed by name. Sealed pieces stand by themselves: packed files may be cut after one."""

    def __init__(self, file: BinaryIO, name: PurePath, encoding: str) -> None:
        self._file = file
        self._name = name
        self._encoding = encoding if is_wide(encoding) else None
        self._piece: Any = None

    def write(self, payload: bytes) -> None:
        if not payload:
            return
        if self._encoding is not None:
            payload = encoded(payload, self._encoding)
        if self._piece is None:
            self._piece = self._packer()
        self._piece.write(payload)

    def _packer(self) -> Any:
        suffix = self._name.suffix
        if suffix == ".gz":
            return gzip.GzipFile(filename="", fileobj=self._file, mode="wb", compresslevel=6, mtime=0)
        if suffix == ".xz":
            return lzma.LZMAFile(self._file, "wb", preset=1)
        if suffix == ".bz2":
            return bz2.BZ2File(self._file, "wb")
        if suffix == ".zst":
            return _zstandard(self._name).ZstdCompressor(level=3).stream_writer(self._file, closefd=False)
        return self._file

    def seal(self) -> None:
        """End the piece that is being packed."""
        if self._piece is not None and self._piece is not self._file:
            self._piece.close()
        self._piece = None
        self._file.flush()

    def saved(self) -> int:
        """Seal, and wait until the disk has it all; how long the file is."""
        self.seal()
        os.fsync(self._file.fileno())
        return self._file.tell()


def is_special(path: Path) -> bool:
    """Whether it is a pipe or a device, which must not be replaced by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()


def refuse_folder(path: Path, named: str) -> None:
    """What is written gets its name in the end; that it cannot is told before the work.

    Raises:
        BadInput: The name is one of a folder.
    """
    if path.is_dir():
        raise BadInput(f"{named or path}: is a folder; name a file in it")


def mode_of(path: Path) -> int:
    """Who may read a file that is to stand there: who may read the one it replaces, else who the umask lets."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


@contextlib.contextmanager
def writing(target: str) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete: an interrupted run leaves none behind.

    Raises:
        BadInput: It cannot be written.
    """
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if is_special(Path(target)):  # not resolved: what /dev/stdout leads to has no name where it is a pipe
        with Path(target).open("wb") as file:
            yield file
        return
    path = Path(target).resolve()  # a link stays one
    refuse_folder(path, target)
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            os.fchmod(handle, mode_of(path))
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
