"""Whatever the LLM's server does: no record is lost, none waits longer than it may, and it recovers by itself."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fault_doubles import configuration, daemon, free_port, until
from logclf_daemon.metrics import value
from logclf_daemon.stages._llm import breaker
from ollama_double import OllamaDouble, captured, chat

Answer = tuple[int, bytes] | None
WAIT_SECS = 1.0
LINES = 60  # two of three are known to a rule
RULES = "version: 1\nrules:\n  - {id: known, label: User Action, pattern: 'known', examples: [known]}\n"


def lines(word: str) -> list[str]:
    return [f"known {word} {at}" if at % 3 else f"{word} {chr(97 + at // 3)}{'x' * 3} stalled" for at in range(LINES)]


class Faulty:
    """A server that fails in one way until it is mended."""

    def __init__(self, fault: str, port: int) -> None:
        self.fault = fault
        self.mended = threading.Event()
        self.server: OllamaDouble | None = None
        self._port = port
        self._dying: threading.Thread | None = None

    def start(self) -> None:
        if self.fault != "absent":
            self._listen()

    def _listen(self) -> None:
        if self._dying is not None:
            self._dying.join()
        self.server = OllamaDouble(self._script, load=self._load, port=self._port)
        if self.fault not in ("no model", "no load"):
            self.server.loaded = "qwen3:1.7b"
        self.server.__enter__()
        if self.fault == "frozen":
            self.server.frozen.clear()
        if self.fault == "hanging":
            self.server.hang.clear()

    def _load(self, _request: object) -> Answer:
        if self.mended.is_set():
            return captured("chat_load_only")
        crashed = (500, b'{"error":"llama-server process has terminated: signal: illegal instruction"}')
        return captured("err_model_missing_chat") if self.fault == "no model" else crashed

    def _script(self, _request: object) -> Answer:
        if self.mended.is_set() or self.fault in ("frozen", "hanging"):
            return chat("Workflow Error")
        if self.fault == "slow":
            self.mended.wait(3 * WAIT_SECS)
            return chat("Workflow Error")
        if self.fault == "dies":
            assert self.server is not None
            self._dying, self.server = threading.Thread(target=self.server.__exit__), None
            self._dying.start()
            return None
        answers: dict[str, Answer] = {
            "busy": captured("queue_full_503"),
            "500": (500, b'{"error":"llama-server process has terminated"}'),
            "garbage": (200, b"\x00\xffgarbage"),
            "killed": None,
        }
        return answers[self.fault]

    def mend(self) -> None:
        self.mended.set()
        if self.server is None:
            self._listen()
        else:
            self.server.hang.set()
            self.server.frozen.set()

    def stop(self) -> None:
        self.mend()
        assert self.server is not None
        self.server.__exit__()


@pytest.mark.parametrize(
    "fault",
    ["absent", "no model", "no load", "frozen", "hanging", "slow", "busy", "500", "garbage", "killed", "dies"],
)
def test_no_record_is_lost_or_waits_too_long_and_it_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECS", 0.2)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECS", 0.4)
    monkeypatch.setattr("logclf_daemon.stages._llm.server.QUICK_SECS", 1.0)
    log, target, port = tmp_path / "app.log", tmp_path / "out.jsonl", free_port()
    (tmp_path / "own.yaml").write_text(RULES)
    config = configuration(
        tmp_path,
        {"type": "jsonl", "path": str(target)},
        rules={"builtin": False, "paths": [str(tmp_path / "own.yaml")]},
        llm={"url": f"http://127.0.0.1:{port}", "wait_secs": WAIT_SECS, "answer_timeout_secs": 2.0},
    )
    faulty = Faulty(fault, port)

    def rows() -> list[dict[str, Any]]:
        return [json.loads(row) for row in target.read_text().splitlines()] if target.exists() else []

    def write(*texts: str) -> None:
        with log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)

    def answered(label: str) -> Callable[[], bool]:
        """A new line now and then, until one is answered."""
        asked = [0.0, 0.0]

        def there() -> bool:
            if time.monotonic() - asked[0] > 0.3:
                write(f"after{chr(97 + int(asked[1]) % 26)} the repair stalled")
                asked[:] = time.monotonic(), asked[1] + 1
            return any(row["logclf"]["label"] == label and row["log"].startswith("after") for row in rows())

        return there

    async def scenario() -> None:
        async with daemon(config):
            started = time.monotonic()
            write(*lines("broken"))
            await until(lambda: len(rows()) == LINES)
            took.append(time.monotonic() - started)
            if fault not in ("slow", "hanging"):
                await until(lambda: value("logclf_llm_breaker", state="closed") == 0)
            faulty.mend()
            await until(answered("Workflow Error"))
            assert value("logclf_llm_breaker", state="closed") == 1

    took: list[float] = []
    faulty.start()
    try:
        asyncio.run(scenario())
    finally:
        faulty.stop()

    found = rows()
    assert sorted(row["log"] for row in found if "broken" in row["log"]) == sorted(lines("broken")), "each line once"
    assert {row["logclf"]["label"] for row in found if row["log"].startswith("known")} == {"User Action"}
    assert took[0] < WAIT_SECS + 8, "on a busy machine, with some seconds for everything else"
    unclassified = {row["logclf"].get("reason") for row in found if row["logclf"]["label"] == "Unclassified"}
    assert unclassified <= {"llm_unavailable", "llm_busy", "llm_timeout"}
