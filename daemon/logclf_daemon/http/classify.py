"""Label lines: a CSV, a few lines as JSON, many as NDJSON, or one with the reasons. One cascade for all of them."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Annotated, Any, BinaryIO, TypeVar, cast

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from logclf_daemon.cascade import Cascade
from logclf_daemon.config import HttpOptions
from logclf_daemon.explained import explained
from logclf_daemon.generation import Answer
from logclf_daemon.http import schemas
from logclf_daemon.http.bodies import FORM, LINES, NDJSON, TABLE, Disk, media_type
from logclf_daemon.http.host import Now
from logclf_daemon.http.problems import responses
from logclf_daemon.table import TableOptions, classify_table
from logclf_daemon.tables.labelling import answers_of

SPOOL_BYTES = 1 << 20  # more than that of an upload or of its answer lies on disk
BLOCK_BYTES = 256 << 10
NDJSON_LINES = 1000  # classified together, or as many as are this large
NDJSON_BYTES = 1 << 20
TABLE_BYTES = 64 << 10  # of a CSV between two turns of everybody else
UPLOADS_AT_ONCE = 4
SLOT_SECS = 10.0  # for one of them to end

_REQUEST, _LINE = msgspec.json.Decoder(schemas.Asked), msgspec.json.Decoder(schemas.AskedLine)
MISTAKES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_T = TypeVar("_T")
Column = Annotated[str, Query(min_length=1, max_length=200)]

_CSV_EXAMPLE = "source,log_message\nauth.log,sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2\n"
_CSV_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "The CSV."}},
                }
            },
            TABLE: {"schema": {"type": "string"}, "example": _CSV_EXAMPLE},
        },
    }
}
_LINES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ClassifyRequest"}},
            NDJSON: {
                "schema": {"type": "string"},
                "example": '{"source": "auth.log", "log_message": "session opened for user root"}\n',
            },
        },
    }
}


def router(limits: HttpOptions, disk: Disk, slot_secs: float = SLOT_SECS) -> APIRouter:
    """The endpoints that label lines."""
    routes = APIRouter(tags=["classify"])
    uploads = _Places(UPLOADS_AT_ONCE, slot_secs)

    @routes.post(
        "/classify",
        response_class=StreamingResponse,
        openapi_extra=_CSV_BODY,
        responses={
            200: {"content": {"text/csv": {"example": _CSV_EXAMPLE.replace("\n", ",target_label\n", 1)}}},
            **responses(400, 413, 415, 422, 507),
        },
    )
    async def classify_csv(
        request: Request,
        now: Now,
        source_column: Column = "source",
        message_column: Column = "log_message",
        label_column: Column = "target_label",
        explain: bool = False,
    ) -> StreamingResponse:
        """Add the column `target_label` to a CSV with the columns `source` and `log_message`, of any size.

        Every other column and cell stays as it was. `explain` adds confidence, stage and rule.
        """
        options = TableOptions(
            source_column,
            message_column,
            label_column,
            explain,
            block_bytes=TABLE_BYTES,
            max_record_bytes=limits.max_body_bytes,
            over_http=True,
        )
        with ExitStack() as stack:
            writer = stack.enter_context(_Spool(disk))
            async with uploads.taken():
                with _room(), await _uploaded(request) as reader:
                    table = classify_table(reader, cast(BinaryIO, writer), now.cascade, options, name="file")
                    await _unless_gone(request, table)
            writer.file.seek(0)
            return _Sent(stack.pop_all(), _blocks(writer.file), "text/csv; charset=utf-8", _ATTACHED)

    @routes.post(
        "/api/v1/classify",
        response_model=schemas.ClassifyResponse,
        response_model_exclude_none=True,
        openapi_extra=_LINES_BODY,
        responses={200: {"content": {NDJSON: {}}}, **responses(400, 413, 415, 422, 507)},
    )
    async def classify_lines(request: Request, now: Now) -> Any:
        """Label lines: JSON in and out, or NDJSON, streamed: one object a line, answered in order.

        A line of NDJSON that cannot be read is answered by `{"error": …}` in its place.
        """
        kind = media_type(request.headers)
        if kind in LINES:
            async with uploads.taken():
                with _room():
                    spool = await _spooled(request)
            blocks = _line_blocks(spool, limits.max_body_bytes)
            return _Sent(spool, _labelled_lines(blocks, now.cascade), NDJSON)
        if kind != "application/json":
            raise HTTPException(415, f"send application/json or {NDJSON}")
        try:
            asked = _REQUEST.decode(await request.body())
        except MISTAKES as error:
            raise HTTPException(422, f"body: {error}") from error
        answers = await _unless_gone(request, labelled(now.cascade, asked.records))
        return {"records": [answer.fields for answer in answers]}

    @routes.post(
        "/api/v1/explain",
        response_model=schemas.Explanation,
        response_model_exclude_none=False,
        responses=responses(422),
    )
    async def explain_line(line: schemas.LogLine, now: Now) -> Any:
        """What each stage says of a line, why it gets its label, and the record that would be written."""
        raw = line.log_message.encode("utf-8", "replace")
        return await explained(now.cascade, now.config, line.source, raw) | {"line": line.log_message}

    return routes


_ATTACHED = {"Content-Disposition": 'attachment; filename="labelled.csv"'}


class _Places:
    """So many uploads at a time; the next one waits a while."""

    def __init__(self, count: int, wait_secs: float) -> None:
        self._free = asyncio.Semaphore(count)
        self._wait_secs = wait_secs

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """One of them.

        Raises:
            HTTPException: None becomes free.
        """
        try:
            async with asyncio.timeout(self._wait_secs):
                await self._free.acquire()
        except TimeoutError:
            headers = {"Retry-After": "10", "Connection": "close"}  # the body is not read
            raise HTTPException(503, "too many uploads at once; try again", headers) from None
        try:
            yield
        finally:
            self._free.release()


class _Spool:
    """An answer that lies on disk if it is large, until the end of the block."""

    def __init__(self, disk: Disk) -> None:
        self._share = disk.share()

    def __enter__(self) -> _Spool:
        self.file = _spool()
        self._take = self._share.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self._share.__exit__(None, None, None)

    def write(self, payload: bytes) -> None:
        self._take(len(payload))
        self.file.write(payload)


class _Sent(StreamingResponse):
    """What is sent of a file, which is closed afterwards, and also where nobody takes it."""

    def __init__(
        self,
        file: AbstractContextManager[Any],
        content: AsyncIterator[bytes],
        media_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


@contextmanager
def _room() -> Iterator[None]:
    """A full disk is told as one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise HTTPException(507, f"{gettempdir()}: {error.strerror}; send less at a time") from error


def _spool() -> BinaryIO:
    return cast(BinaryIO, SpooledTemporaryFile(SPOOL_BYTES))


async def _uploaded(request: Request) -> BinaryIO:
    """The CSV of a form or a plain body, on disk if it is large."""
    kind = media_type(request.headers)
    if kind == FORM:
        form = await request.form(max_files=1, max_fields=10)
        found = form.get("file")
        if not isinstance(found, UploadFile):
            raise HTTPException(422, "file: a CSV is needed in the form field `file`")
        return found.file
    if kind != TABLE:
        raise HTTPException(415, "send the CSV as multipart/form-data in the field `file`, or as text/csv")
    return await _spooled(request)


async def _spooled(request: Request) -> BinaryIO:
    """The whole body: an answer that begins before it was read would wait for a client that waits for us."""
    spool = _spool()
    try:
        async for block in request.stream():
            spool.write(block)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What the work comes to. It ends where it stands when the client goes: nobody would read the answer.

    Raises:
        ClientDisconnect: The client went.
    """
    working, going = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        going.cancel()
        await asyncio.gather(working, going, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


async def labelled(cascade: Cascade, lines: Sequence[schemas.AskedLine]) -> list[Answer]:
    """The answer of each line."""
    sources = [line.source.encode("utf-8", "replace") for line in lines]
    messages = [line.log_message.encode("utf-8", "replace") or None for line in lines]
    answers = await answers_of(cascade, sources, messages)
    return [answer for answer in answers if answer is not None]  # none is left out


async def _labelled_lines(blocks: Iterator[Sequence[bytes | None]], cascade: Cascade) -> AsyncIterator[bytes]:
    for block in blocks:
        parsed = [_parsed(line) for line in block]
        answers = iter(await labelled(cascade, [line for line in parsed if isinstance(line, schemas.AskedLine)]))
        rows = [next(answers).fields if isinstance(line, schemas.AskedLine) else {"error": line} for line in parsed]
        if rows:
            yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        await asyncio.sleep(0)  # nobody else had a turn while all of it was known


def _parsed(line: bytes | None) -> schemas.AskedLine | str:
    if line is None:
        return "body: the line is larger than http.max_body_bytes"
    try:
        return _LINE.decode(line)
    except MISTAKES as error:
        return f"body: {error}"


def _line_blocks(spool: BinaryIO, longest: int) -> Iterator[list[bytes | None]]:
    """The lines of a body, some at a time; blocks may be empty: lines that hold nothing take their time, too."""
    block, seen, start = list[bytes | None](), 0, spool.tell()
    for line in _lines(spool, longest):
        seen += 1
        if line != b"":
            block.append(line)
        if seen >= NDJSON_LINES or spool.tell() - start >= NDJSON_BYTES:
            yield block
            block, seen, start = [], 0, spool.tell()
    if block:
        yield block


def _lines(spool: BinaryIO, longest: int) -> Iterator[bytes | None]:
    """The lines; None for one that is too long, nothing for a blank one and for each part that is passed over."""
    while line := spool.readline(longest + 1):
        if len(line) > longest and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = spool.readline(NDJSON_BYTES)
                yield b""
            yield None
        else:
            yield line if line.strip() else b""
