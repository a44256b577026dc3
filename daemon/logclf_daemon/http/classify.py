"""Label lines: a CSV, a few lines as JSON, many as NDJSON, or one with the reasons. One cascade for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from itertools import groupby
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, BinaryIO, TypeVar, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from logclf_daemon.cascade import Cascade
from logclf_daemon.config import HttpOptions
from logclf_daemon.explained import explained
from logclf_daemon.generation import Answer
from logclf_daemon.http import schemas
from logclf_daemon.http.bodies import FORM, LINES, NDJSON, TABLE, media_type
from logclf_daemon.http.host import Now
from logclf_daemon.http.problems import responses
from logclf_daemon.table import TableOptions, classify_table

SPOOL_BYTES = 1 << 20  # more than that of an upload or of its answer lies on disk
BLOCK_BYTES = 256 << 10
NDJSON_LINES = 1000  # classified together, or as many as are this large
NDJSON_BYTES = 1 << 20
UPLOADS_AT_ONCE = 4

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


def router(limits: HttpOptions) -> APIRouter:
    """The endpoints that label lines."""
    routes = APIRouter(tags=["classify"])
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    @routes.post(
        "/classify",
        response_class=StreamingResponse,
        openapi_extra=_CSV_BODY,
        responses={
            200: {"content": {"text/csv": {"example": _CSV_EXAMPLE.replace("\n", ",target_label\n", 1)}}},
            **responses(400, 413, 415, 422),
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
            max_record_bytes=limits.max_body_bytes,
            over_http=True,
        )
        async with uploads:
            reader = await _uploaded(request)
            writer = _spool()
            try:
                await _unless_gone(request, classify_table(reader, writer, now.cascade, options, name="file"))
            except BaseException:
                writer.close()
                raise
            finally:
                reader.close()
        writer.seek(0)
        return StreamingResponse(_blocks(writer), media_type="text/csv; charset=utf-8", headers=_ATTACHED)

    @routes.post(
        "/api/v1/classify",
        response_model=schemas.ClassifyResponse,
        response_model_exclude_none=True,
        openapi_extra=_LINES_BODY,
        responses={200: {"content": {NDJSON: {}}}, **responses(400, 413, 415, 422)},
    )
    async def classify_lines(request: Request, now: Now) -> Any:
        """Label lines: JSON in and out, or NDJSON, streamed: one object a line, answered in order.

        A line of NDJSON that cannot be read is answered by `{"error": …}` in its place.
        """
        kind = media_type(request.headers)
        if kind in LINES:
            async with uploads:
                spool = await _spooled(request)
            blocks = _line_blocks(spool, limits.max_body_bytes)
            return StreamingResponse(_labelled_lines(spool, blocks, now.cascade), media_type=NDJSON)
        if kind != "application/json":
            raise HTTPException(415, f"send application/json or {NDJSON}")
        try:
            asked = schemas.ClassifyRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise HTTPException(422, _mistakes(error)) from error
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


def _mistakes(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()[:5])


def _spool() -> BinaryIO:
    return cast(BinaryIO, SpooledTemporaryFile(SPOOL_BYTES))  # closed by who streams it


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
    try:
        while block := file.read(BLOCK_BYTES):
            yield block
    finally:
        file.close()


async def labelled(cascade: Cascade, lines: Sequence[schemas.LogLine]) -> list[Answer]:
    """The answer of each line."""
    answers: list[Answer | None] = [None] * len(lines)
    order = sorted(range(len(lines)), key=lambda at: lines[at].source)
    for source, group in groupby(order, key=lambda at: lines[at].source):
        positions = list(group)
        messages = [lines[at].log_message.encode("utf-8", "replace") or None for at in positions]
        classified = await cascade.classify(source, messages)
        if classified.late:
            await cascade.settle_late(classified.late, classified.answers)
        for at, answer in zip(positions, classified.answers, strict=True):
            answers[at] = answer
    return [answer for answer in answers if answer is not None]


async def _labelled_lines(
    spool: BinaryIO, blocks: Iterator[Sequence[bytes | None]], cascade: Cascade
) -> AsyncIterator[bytes]:
    with spool:
        for block in blocks:
            parsed = [_parsed(line) for line in block]
            answers = iter(await labelled(cascade, [line for line in parsed if isinstance(line, schemas.LogLine)]))
            rows = [next(answers).fields if isinstance(line, schemas.LogLine) else {"error": line} for line in parsed]
            yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)
            await asyncio.sleep(0)  # nobody else had a turn while all of it was known


def _parsed(line: bytes | None) -> schemas.LogLine | str:
    if line is None:
        return "body: the line is larger than http.max_body_bytes"
    try:
        return schemas.LogLine.model_validate_json(line)
    except ValidationError as error:
        return _mistakes(error)


def _line_blocks(spool: BinaryIO, longest: int) -> Iterator[list[bytes | None]]:
    """The lines of a body, some at a time."""
    block, size = list[bytes | None](), 0
    for line in _lines(spool, longest):
        block.append(line)
        size += len(line or b"")
        if len(block) >= NDJSON_LINES or size >= NDJSON_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _lines(spool: BinaryIO, longest: int) -> Iterator[bytes | None]:
    """The lines that are not blank; None for one that is too long."""
    while line := spool.readline(longest + 1):
        if len(line) > longest and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = spool.readline(NDJSON_BYTES)
            yield None
        elif line.strip():
            yield line
