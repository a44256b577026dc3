"""What one client may cost: bodies, time, connections. Nobody else is kept waiting, and memory stays what it was."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from doubles import SlowStage, until
from http_doubles import Raw, SmallHost, talk
from logclf_daemon.config import HttpOptions
from logclf_daemon.http import classify
from logclf_daemon.http.app import create_app
from logclf_daemon.http.bodies import Bodies, Disk, disk_of
from logclf_daemon.http.classify import NDJSON_BYTES, NDJSON_LINES, UPLOADS_AT_ONCE, _line_blocks
from logclf_daemon.http.guard import Guard
from logclf_daemon.http.problems import answer_problems
from logclf_daemon.http.server import HttpServer, Patience
from logclf_daemon.libraries import Libraries
from logclf_daemon.metrics import REGISTRY

LINES = "application/x-ndjson"
FORM = "multipart/form-data; boundary=b"

# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/api/v1/classify", "application/json", 413),
        ("/api/v1/explain", "application/json", 413),
        ("/classify", "application/json", 413),
        ("/api/v1/classify", LINES, 200),
        ("/api/v1/classify", f"{LINES}; charset=utf-8", 200),
        ("/classify", "text/csv", 200),
    ],
)
def test_only_what_is_put_down_on_disk_may_be_as_large_as_an_upload(
    tmp_path: Path, path: str, kind: str, status: int
) -> None:
    line = {"text/csv": b"a,hello\n"}.get(kind, b'{"log_message": "hello"}\n')
    head = b"source,log_message\n" if kind == "text/csv" else b""

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.post(path, content=head + line * 1000, headers={"Content-Type": kind})

        assert answer.status_code == status

    talk(tmp_path, conversation, max_body_bytes=2000, max_upload_bytes=50_000)


def test_a_line_of_ndjson_that_is_too_long_is_one_error_and_the_next_one_is_read(tmp_path: Path) -> None:
    long = json.dumps({"log_message": "sshd" + "x" * 5000}).encode()
    fits = json.dumps({"log_message": "disk" + "x" * 1000}).encode()

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        body = b"\n".join([long, fits, b"", long])
        answer = await asked.post("/api/v1/classify", content=body, headers={"Content-Type": LINES})

        rows = [json.loads(line) for line in answer.text.splitlines()]
        assert [row.get("label", "error") for row in rows] == ["error", "Resource Usage", "error"]
        assert "http.max_body_bytes" in rows[0]["error"]

    talk(tmp_path, conversation, max_body_bytes=2000)


def test_lines_are_taken_together_by_what_they_weigh() -> None:
    body = io.BytesIO((b"x" * (NDJSON_BYTES // 2) + b"\n") * 9 + b"y\n" * 1500)

    blocks = [len(block) for block in _line_blocks(body, NDJSON_BYTES)]

    assert blocks[:4] == [2, 2, 2, 2]
    assert max(blocks) == 1000
    assert sum(blocks) == 1509


def test_lines_that_hold_nothing_take_turns_as_others_do() -> None:
    blank, endless = io.BytesIO(b"\n" * (5 * NDJSON_LINES)), io.BytesIO(b"x" * (5 * NDJSON_BYTES) + b"\ny\n")

    assert list(_line_blocks(blank, NDJSON_BYTES)) == [[]] * 5
    assert [block for block in _line_blocks(endless, 1000) if block] == [[None, b"y\n"]]
    endless.seek(0)
    assert len(list(_line_blocks(endless, 1000))) == 5


@pytest.mark.parametrize("path", ["/api/v1/classify", "/api/v1/explain"])
def test_not_every_one_of_many_mistakes_is_described(tmp_path: Path, path: str) -> None:
    body = json.dumps({f"m{at}": at for at in range(10_000)}).encode()

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.post(path, content=body, headers={"Content-Type": "application/json"})

        assert answer.status_code == 422
        assert len(answer.json()["detail"]) < 100

    talk(tmp_path, conversation)


def test_an_upload_that_finds_no_place_is_told_so_after_a_while(tmp_path: Path) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()
    app = FastAPI()
    app.state.host = host
    app.include_router(classify.router(options, disk_of(options), slot_secs=0.05))
    answer_problems(app)

    async def scenario() -> None:
        slow = [Raw("/classify", "text/csv") for _ in range(UPLOADS_AT_ONCE)]
        at_work = [asyncio.create_task(one.ask(app)) for one in slow]
        answers = {}
        for path, kind in (("/classify", "text/csv"), ("/api/v1/classify", LINES)):
            answers[path] = late = Raw(path, kind)
            await asyncio.wait_for(late.ask(app), 30)
        for one in slow:
            one.send(b"source,log_message\na,sshd\n", more=False)
        await asyncio.gather(*at_work)

        assert [(one.status, json.loads(one.body)["detail"]) for one in answers.values()] == [
            (503, "too many uploads at once; try again")
        ] * 2
        assert [one.status for one in slow] == [200] * UPLOADS_AT_ONCE

    asyncio.run(scenario())
    host.close()


def test_uploads_and_answers_on_disk_are_bounded_all_together(tmp_path: Path) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()
    table = b"source,log_message\n" + b"a,sshd\n" * 100
    disk = Disk(len(table) * 5)

    async def scenario() -> None:
        app = FastAPI()
        app.state.host = host
        app.include_router(classify.router(options, disk))
        answer_problems(app)
        guarded = Guard(app, options, bodies=Bodies(options, disk=disk))
        slow, second, third, long = (Raw("/classify", "text/csv") for _ in range(4))
        slow.send(table)
        at_work = asyncio.create_task(slow.ask(guarded))
        await until(lambda: disk.free < len(table) * 5)
        second.send(table, more=False)
        await second.ask(guarded)
        slow.go()
        await at_work
        third.send(table, more=False)
        await third.ask(guarded)
        long.send(b"source,log_message\n" + b"a,sshd\n" * 400, more=False)
        await long.ask(guarded)

        assert (second.status, third.status, long.status) == (503, 200, 413)
        assert "on disk at once; try again" in json.loads(second.body)["detail"]
        assert disk.free == len(table) * 5

    asyncio.run(scenario())
    host.close()


def test_a_full_disk_is_told_as_one() -> None:
    with pytest.raises(HTTPException, match="No space left on device") as told, classify._room():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert told.value.status_code == 507


def test_bodies_in_memory_are_bounded_all_together(tmp_path: Path) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()
    line = json.dumps({"log_message": "sshd"}).encode()

    async def scenario() -> None:
        bodies = Bodies(options, held_bytes=1000)
        app = Guard(create_app(host, options), options, bodies=bodies)
        slow, second, third = (Raw("/api/v1/explain", "application/json") for _ in range(3))
        slow.send(b" " * 900)
        slow_one = asyncio.create_task(slow.ask(app))
        await until(lambda: bodies._free < 1000)
        second.send(line + b" " * 200, more=False)
        await second.ask(app)
        slow.send(line, more=False)
        await slow_one
        third.send(line + b" " * 200, more=False)
        await third.ask(app)

        assert (second.status, json.loads(second.body)["title"]) == (503, "Service Unavailable")
        assert (slow.status, third.status) == (200, 200)

    asyncio.run(scenario())
    host.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v1/classify", LINES),
        ("/classify", "text/csv"),
        ("/classify", FORM),
        ("/api/v1/classify", "application/json"),
        ("/api/v1/explain", "application/json"),
    ],
)
def test_a_body_that_does_not_come_is_given_up_and_its_place_is_free(tmp_path: Path, path: str, kind: str) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()

    async def scenario() -> None:
        app = Guard(create_app(host, options), options, bodies=Bodies(options, stall_secs=0.05))
        for _ in range(UPLOADS_AT_ONCE + 1):
            stalled = Raw(path, kind)
            stalled.send(b"--b\r\n")

            await asyncio.wait_for(stalled.ask(app), 30)

            assert (stalled.status, json.loads(stalled.body)["title"]) == (408, "Request Timeout")

    asyncio.run(scenario())
    host.close()


def test_drop_by_drop_is_too_slow(tmp_path: Path) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()

    async def scenario() -> None:
        app = Guard(create_app(host, options), options, bodies=Bodies(options, stall_secs=0.3))
        dripping = Raw("/classify", "text/csv")
        asked = asyncio.create_task(dripping.ask(app))
        while not asked.done():
            dripping.send(b"x")
            await asyncio.sleep(0.01)

        assert dripping.status == 408

    asyncio.run(asyncio.wait_for(scenario(), 30))
    host.close()


# --- clients that went ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/classify", "text/csv", b"source,log_message\n" + b"".join(b"a,%c word\n" % at for at in range(97, 123))),
        (
            "/api/v1/classify",
            "application/json",
            json.dumps({"records": [{"log_message": f"{chr(at)} word"} for at in range(97, 123)]}).encode(),
        ),
    ],
)
def test_work_for_a_client_that_went_ends_and_its_place_is_free(
    tmp_path: Path, path: str, kind: str, body: bytes
) -> None:
    host, slow = SmallHost(tmp_path), SlowStage()
    host.cascade.generation.stages = (slow,)

    async def scenario() -> None:
        app = create_app(host, HttpOptions())
        for _ in range(UPLOADS_AT_ONCE + 1):
            client = Raw(path, kind)
            client.send(body, more=False)
            client.go()
            await asyncio.wait_for(client.ask(app), 10)

    try:
        asyncio.run(scenario())
    finally:
        slow.go_on.set()
        host.close()
    assert len(slow.asked) < 26  # of each none but what was being asked when it went


def test_an_upload_that_is_broken_off_is_no_bug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = SmallHost(tmp_path)

    async def scenario() -> None:
        app = create_app(host, HttpOptions())
        for path, kind in (("/classify", "text/csv"), ("/api/v1/classify", LINES), ("/classify", FORM)):
            client = Raw(path, kind)
            client.send(b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx')
            client.go()
            await client.ask(app)

    asyncio.run(scenario())
    host.close()
    assert "bug" not in caplog.text


# --- connections ----------------------------------------------------------------------------------------------------

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 9\r\n\r\n"


class Line:
    """One TCP connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> bytes:
        """Head and body of the answer."""
        self.send(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self._reader.readexactly(size)

    async def begin(self, request: bytes) -> None:
        """Until the app asks for the body."""
        self.send(request)
        assert b"100 Continue" in await self._reader.readuntil(b"\r\n\r\n")

    def send(self, part: bytes) -> None:
        self._writer.write(part)

    async def cut(self) -> bool:
        """Wait until the server closes it."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Connect = Callable[[], Awaitable[Line]]


def served(folder: Path, scenario: Callable[[Connect], Coroutine[Any, Any, None]], patience: Patience) -> None:
    """Play a scenario with clients of a real server."""
    host, http = SmallHost(folder), HttpOptions(listen="127.0.0.1:0", requests_per_sec=10_000)
    server = HttpServer(http, lambda: create_app(host, http), patience)

    lines: list[Line] = []

    async def connect() -> Line:
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", server.port)))
        return lines[-1]

    async def play() -> None:
        server.open()
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.wait_for(scenario(connect), 50)
        finally:
            for line in lines:
                await line.close()
            server.stop()
            await serving
            server.close()

    asyncio.run(play())
    host.close()


def test_connections_that_say_nothing_make_room_for_who_comes(tmp_path: Path) -> None:
    async def scenario(connect: Connect) -> None:
        asked = await connect()
        await asked.ask(HEALTH)  # served before the others came: the oldest
        silent = [await connect() for _ in range(30)]
        late = await connect()

        assert b"200 OK" in await late.ask(HEALTH)
        assert await asked.cut()
        assert all([await line.cut() for line in silent[:20]])
        assert b"200 OK" in await silent[-1].ask(HEALTH)

    served(tmp_path, scenario, Patience(connections=8))


@pytest.mark.parametrize("said", [b"", b"GET /heal", HEALTH + b"GET /"])
def test_a_request_that_does_not_come_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    async def scenario(connect: Connect) -> None:
        line = await connect()
        if said.startswith(HEALTH):
            await line.ask(HEALTH)
        line.send(said.removeprefix(HEALTH))

        assert await line.cut()

    served(tmp_path, scenario, Patience(head_secs=0.2))


def test_where_all_are_at_work_one_more_is_told_so_and_a_probe_is_answered(tmp_path: Path) -> None:
    async def scenario(connect: Connect) -> None:
        at_work = [await connect() for _ in range(4)]
        for line in at_work:
            await line.begin(UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        answer = await (await connect()).ask(HEALTH.replace(b"healthz", b"api/v1/status"))

        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable")
        assert b"content-type: application/problem+json" in head
        assert "too many connections" in json.loads(body)["detail"]
        assert b"200 OK" in await (await connect()).ask(HEALTH)

    served(tmp_path, scenario, Patience(connections=4))


def dropped() -> float:
    why = {"why": "answer_not_taken"}
    return REGISTRY.get_sample_value("logclf_http_connections_dropped_total", why) or 0.0


def test_who_does_not_take_an_answer_is_left(tmp_path: Path) -> None:
    body = b"source,log_message\n" + b"app,sshd %s\n" % (b"x" * 1000) * 30_000
    head = UPLOAD.replace(b": 9", b": %d" % len(body))

    async def scenario(connect: Connect) -> None:
        line = await connect()
        line.send(head + body)
        before = dropped()

        await until(lambda: dropped() > before, secs=45)

    served(tmp_path, scenario, Patience(take_secs=0.2))


# --- what libraries log ---------------------------------------------------------------------------------------------


def test_what_a_library_logs_is_an_event_without_what_a_client_sent(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.Logger("uvicorn.error")
    logger.addHandler(Libraries())

    logger.warning("Odd header %r", "secret")
    logger.info("Started")
    logger.error("Exception in ASGI application\n", exc_info=ValueError("told where it was met"))

    said = [record.getMessage() for record in caplog.records if record.name == "logclf"]
    assert len(said) == 1
    assert "library=uvicorn" in said[0]
    assert "Odd header" in said[0]
    assert "secret" not in caplog.text


def test_an_exception_nobody_waited_for_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.Logger("asyncio")
    logger.addHandler(Libraries())

    logger.error("Task exception was never retrieved\nfuture: <Task>", exc_info=ValueError("odd"))
    logger.error("socket.accept() out of system resource\nsocket: <>", exc_info=OSError(24, "Too many open files"))

    said = [record.getMessage() for record in caplog.records if record.name == "logclf"]
    assert ["bug of ours" in line for line in said] == [True, False]
    assert "Too many open files" in said[1]


def test_what_somebody_listens_for_is_told_by_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    listened, hearing = logging.getLogger("library.of.this.test"), Libraries()
    record = listened.makeRecord(listened.name, logging.WARNING, "", 1, "lost events", (), None)
    handler = logging.NullHandler()

    listened.addHandler(handler)
    hearing.handle(record)
    listened.removeHandler(handler)
    assert "lost events" not in caplog.text
    hearing.handle(record)

    assert "lost events" in caplog.text


def test_a_stop_while_the_app_is_still_being_made_is_not_lost(tmp_path: Path) -> None:
    """Importing it takes a second, in which a service is told to stop as at any other time."""
    options, made = HttpOptions(listen="127.0.0.1:0"), threading.Event()

    def create() -> FastAPI:
        assert made.wait(60)
        return create_app(SmallHost(tmp_path), options)

    async def scenario() -> None:
        server = HttpServer(options, create)
        server.open()
        serving = asyncio.create_task(server.serve())
        await asyncio.sleep(0)  # it has begun
        server.stop()
        made.set()
        async with asyncio.timeout(60):
            await serving
        server.close()

    asyncio.run(scenario())
