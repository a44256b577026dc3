"""What one client may cost: bodies, time, connections. Nobody else is kept waiting, and memory stays what it was."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import httpx
import pytest

from doubles import SlowStage
from http_doubles import Raw, SmallHost, talk
from logclf_daemon.config import HttpOptions
from logclf_daemon.http.app import create_app
from logclf_daemon.http.bodies import Bodies
from logclf_daemon.http.classify import NDJSON_BYTES, UPLOADS_AT_ONCE, _line_blocks
from logclf_daemon.http.guard import Guard

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


def test_bodies_in_memory_are_bounded_all_together(tmp_path: Path) -> None:
    host, options = SmallHost(tmp_path), HttpOptions()
    line = json.dumps({"log_message": "sshd"}).encode()

    async def scenario() -> None:
        app = Guard(create_app(host, options), options, bodies=Bodies(options, held_bytes=1000))
        slow, second, third = (Raw("/api/v1/explain", "application/json") for _ in range(3))
        slow.send(b" " * 900)
        slow_one = asyncio.create_task(slow.ask(app))
        await asyncio.sleep(0)
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
