"""What the LLM costs: a thousand lines of one template nobody has seen are one call, counted at the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fault_doubles import configuration, daemon, until
from logclf_daemon.build import build_parts, cascade_of, close
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config
from ollama_double import OllamaDouble, chat

LINES = [f"frobnicator {at} of {at % 7} left its bearings after {at * 13} ms".encode() for at in range(1000)]
ROTATED = ("app.log", "/var/log/app.log", "/var/log/app-2.log", "/srv/app.log.1")  # one class of sources

Batches = Sequence[tuple[str, Sequence[bytes]]]
How = Callable[[Cascade, Batches], Awaitable[list[str]]]


def _parts(count: int) -> list[Sequence[bytes]]:
    return [LINES[start::count] for start in range(count)]


@contextmanager
def real_cascade(folder: Path, server: OllamaDouble, *, patient: bool = False) -> Iterator[Cascade]:
    """As `run` has it (`patient`: as `csv`), with the shipped rules and the memory before the LLM.

    Without the model: one that is made anew may know the line.
    """
    config = Config.model_validate({"llm": {"url": server.url, "wait_secs": 40}, "model": {"enabled": False}})
    parts = build_parts(config, folder)
    cascade = cascade_of(parts, patient=patient)
    try:
        yield cascade
    finally:
        close(cascade, parts)


async def labels_of(cascade: Cascade, source: str, lines: Sequence[bytes]) -> list[str]:
    classified = await cascade.classify(source, lines)
    await cascade.settle_late(classified.late, classified.answers)
    return [answer.verdict.label for answer in classified.answers if answer is not None]


async def one_after_the_other(cascade: Cascade, batches: Batches) -> list[str]:
    return [label for source, lines in batches for label in await labels_of(cascade, source, lines)]


async def at_once(cascade: Cascade, batches: Batches) -> list[str]:
    found = await asyncio.gather(*(labels_of(cascade, source, lines) for source, lines in batches))
    return [label for labels in found for label in labels]


@pytest.mark.parametrize("patient", [False, True], ids=["run", "csv"])
@pytest.mark.parametrize(
    ("batches", "how"),
    [
        ([("app.log", LINES)], one_after_the_other),
        ([("app.log", part) for part in _parts(10)], one_after_the_other),
        ([("app.log", part) for part in _parts(10)], at_once),
        (list(zip(ROTATED, _parts(4), strict=True)), at_once),
    ],
    ids=["one batch", "batches in a row", "batches at once", "several sources at once"],
)
def test_a_thousand_lines_of_an_unseen_template_are_one_call(
    tmp_path: Path, batches: Batches, how: How, patient: bool
) -> None:
    with OllamaDouble(lambda _: chat("Error")) as server, real_cascade(tmp_path, server, patient=patient) as cascade:

        async def scenario() -> list[str]:
            return await how(cascade, batches)

        labels = asyncio.run(scenario())

        assert Counter(labels) == {"Error": 1000}
        assert len(server.requests) == 1


def test_after_a_restart_they_are_none(tmp_path: Path) -> None:
    with OllamaDouble(lambda _: chat("Error")) as server:
        for _ in range(2):
            with real_cascade(tmp_path, server) as cascade:
                assert Counter(asyncio.run(labels_of(cascade, "app.log", LINES))) == {"Error": 1000}

        assert len(server.requests) == 1


def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        for _ in range(2):
            with real_cascade(tmp_path, server) as cascade:
                found = asyncio.run(labels_of(cascade, "/var/log/caf\udce9.log", LINES[:2]))
                assert found == ["Workflow Error"] * 2

    assert len(server.requests) == 1


def test_the_whole_daemon_asks_once_for_what_several_files_hold(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"

    def rows() -> list[str]:
        return target.read_text().splitlines() if target.exists() else []

    async def scenario(server: OllamaDouble) -> None:
        llm = {"url": server.url, "wait_secs": 40}
        async with daemon(configuration(tmp_path, {"type": "jsonl", "path": str(target)}, llm=llm)):
            await until(lambda: len(rows()) == len(LINES))

    for number, part in enumerate(_parts(4)):
        (tmp_path / f"app-{number}.log").write_bytes(b"".join(line + b"\n" for line in part))
    with OllamaDouble(lambda _: chat("Error")) as server:
        asyncio.run(scenario(server))

        assert {json.loads(row)["logclf"]["label"] for row in rows()} == {"Error"}
        assert len(server.requests) == 1
