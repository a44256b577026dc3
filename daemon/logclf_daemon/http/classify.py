"""Label lines: a CSV, a few lines as JSON, many as NDJSON, or one with the reasons. One cascade for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import groupby, islice
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from logclf_daemon.cascade import Cascade
from logclf_daemon.explained import explained
from logclf_daemon.generation import Answer
from logclf_daemon.http import schemas
from logclf_daemon.http.host import Now
from logclf_daemon.http.problems import responses
from logclf_daemon.table import TableOptions, classify_table

SPOOL_BYTES = 4 << 20  # more than that of an upload or of its answer lies on disk
BLOCK_BYTES = 256 << 10
NDJSON = "application/x-ndjson"
MAX_LINE_BYTES = 4 << 20
NDJSON_LINES = 1000  # classified together
UPLOADS_AT_ONCE = 4

Column = Annotated[str, Query(min_length=1, max_length=200)]

_CSV_EXAMPLE = "source,log_message\nauth.log,sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2\n"
_CSV_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "The CSV."}},
                }
            },
            "text/csv": {"schema": {"type": "string"}, "example": _CSV_EXAMPLE},
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


def router() -> APIRouter:
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
        options = TableOptions(source_column, message_column, label_column, explain)
        async with uploads:
            reader = await _uploaded(request)
            writer = _spool()
            try:
                await classify_table(reader, writer, now.cascade, options, name="file")
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
        kind = _media_type(request)
        if kind in (NDJSON, "application/ndjson", "application/jsonl"):
            return StreamingResponse(_labelled_lines(await _spooled(request), now.cascade), media_type=NDJSON)
        if kind != "application/json":
            raise HTTPException(415, f"send application/json or {NDJSON}")
        try:
            asked = schemas.ClassifyRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise HTTPException(422, _mistakes(error)) from error
        return {"records": [answer.fields for answer in await labelled(now.cascade, asked.records)]}

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


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _mistakes(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors()[:5])


def _spool() -> BinaryIO:
    return cast(BinaryIO, SpooledTemporaryFile(SPOOL_BYTES))  # closed by who streams it


async def _uploaded(request: Request) -> BinaryIO:
    """The CSV of a form or a plain body, on disk if it is large."""
    kind = _media_type(request)
    if kind == "multipart/form-data":
        form = await request.form(max_files=1, max_fields=10)
        found = form.get("file")
        if not isinstance(found, UploadFile):
            raise HTTPException(422, "file: a CSV is needed in the form field `file`")
        return found.file
    if kind != "text/csv":
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


async def _labelled_lines(spool: BinaryIO, cascade: Cascade) -> AsyncIterator[bytes]:
    with spool:
        for block in _line_blocks(spool):
            parsed = [_parsed(line) for line in block]
            answers = iter(await labelled(cascade, [line for line in parsed if isinstance(line, schemas.LogLine)]))
            rows = [next(answers).fields if isinstance(line, schemas.LogLine) else {"error": line} for line in parsed]
            yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _parsed(line: bytes) -> schemas.LogLine | str:
    try:
        return schemas.LogLine.model_validate_json(line)
    except ValidationError as error:
        return _mistakes(error)


def _line_blocks(spool: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a body, some at a time; blank ones are left out. One that is too long is no JSON any more."""
    lines = iter(lambda: spool.readline(MAX_LINE_BYTES), b"")
    while block := list(islice((line for line in lines if line.strip()), NDJSON_LINES)):
        yield block
