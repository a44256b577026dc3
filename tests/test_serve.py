"""`serve`: what a person can get wrong at its start, and that it follows rules, reviews and SIGHUP as `run` does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from daemon_process import Daemon, rules_file
from fault_doubles import configuration, free_port, until
from logclf_daemon.build import Parts, build_parts
from logclf_daemon.cli import main
from logclf_daemon.config import Config
from logclf_daemon.http.standalone import Standalone
from logclf_daemon.metrics import value
from ollama_double import OllamaDouble, chat

ALONE = ("--no-builtin-rules", "--no-model", "--no-llm")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    rules_file(folder / "own.yaml")
    return folder


@pytest.fixture
def served(rules: Path, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon("--listen", "127.0.0.1:0", "--rules", str(rules), *ALONE, does="serve") as daemon:
        daemon.wait_for(lambda daemon: "url=http" in daemon.said)
        yield daemon


def label_of(daemon: Daemon, line: str) -> str:
    (url,) = re.findall(r"url=(\S+)", daemon.said)
    answer = httpx.post(
        f"{url}/api/v1/classify", json={"records": [{"source": "app.log", "log_message": line}]}, timeout=30
    )
    label: str = answer.raise_for_status().json()["records"][0]["label"]
    return label


def test_a_saved_rule_is_in_force_without_a_restart(served: Daemon, rules: Path) -> None:
    assert label_of(served, "boom") == "Critical Error"

    rules_file(rules / "own.yaml", label="Workflow Error")

    served.wait_for(lambda daemon: label_of(daemon, "boom") == "Workflow Error")
    assert served.stop() == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_persons_word_elsewhere_counts_here_too(served: Daemon, lost: bool) -> None:
    if lost:  # somebody cleared the memory of a server that runs
        for file in Path(os.environ["STATE_DIRECTORY"]).glob("cache.db*"):
            file.unlink()
    assert label_of(served, "frobnicator stalled") == "Unclassified"

    said = CliRunner().invoke(
        main,
        ["verdicts", "set", "frobnicator stalled", "Workflow Error", "--source", "app.log"],
        catch_exceptions=False,
    )

    assert said.exit_code == 0, said.output
    served.wait_for(lambda daemon: label_of(daemon, "frobnicator stalled") == "Workflow Error")


def test_a_hang_up_reloads_and_says_so(served: Daemon) -> None:
    served.signal(signal.SIGHUP)

    served.wait_for(lambda daemon: "reloaded generation=2" in daemon.said)
    assert label_of(served, "boom") == "Critical Error"
    assert served.stop() == 0


def test_a_bug_at_a_reload_refuses_it_and_does_not_end_the_following_of_files(
    rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, {"type": "memory"}, rules={"builtin": False, "paths": [str(rules)]})
    host = Standalone(Config.model_validate(config))
    broken = threading.Event()

    def build(*arguments: Any, **_how: object) -> Parts:
        if broken.is_set():
            raise RuntimeError("a bug")
        return build_parts(*arguments)

    monkeypatch.setattr("logclf_daemon.http.standalone.build_parts", build)
    refused = value("logclf_reloads_total", result="refused")

    async def scenario() -> None:
        following = asyncio.create_task(host.watch())
        broken.set()
        rules_file(rules / "own.yaml")
        await until(lambda: value("logclf_reloads_total", result="refused") > refused)
        (note,) = host.running().notes()
        assert note.startswith("reload refused, generation 1 stays: a bug of ours")
        broken.clear()
        rules_file(rules / "own.yaml")
        await until(lambda: host.running().number == 2)
        assert host.running().notes() == []
        following.cancel()

    asyncio.run(scenario())
    host.close()


def test_an_llm_that_comes_and_goes_is_told_of_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logclf_daemon.waiting.LOOK_AGAIN_SECS", 0.02)
    monkeypatch.setattr("logclf_daemon.stages.llm.LONGEST_PAUSE_SECS", 0.2)
    monkeypatch.setattr("logclf_daemon.stages._llm.breaker.FIRST_PAUSE_SECS", 0.1)
    monkeypatch.setattr("logclf_daemon.stages._llm.server.QUICK_SECS", 0.5)
    port = free_port()
    llm = {"url": f"http://127.0.0.1:{port}"}
    host = Standalone(Config.model_validate(configuration(tmp_path, {"type": "memory"}, llm=llm)))

    def note(state: str) -> list[str]:
        return [f"llm: {state}; lines it would have decided stay Unclassified"]

    async def scenario() -> None:
        looking = asyncio.create_task(host.watch())
        await until(lambda: host.running().notes() == note("absent"))
        with OllamaDouble(lambda _: chat("Error"), port=port) as server:
            await until(lambda: host.running().llm()["state"] == "ready")
            server.frozen.clear()
            await until(lambda: host.running().notes() == note("timeout"))
            server.frozen.set()
            await until(lambda: host.running().notes() == [])
        looking.cancel()

    asyncio.run(scenario())
    host.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "--token-file: FILE cannot be read: No such file or directory"),
        ("", "--token-file: FILE is empty"),
        ("\n", "--token-file: FILE is empty"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)

    done = CliRunner().invoke(main, ["serve", "--token-file", str(file), *ALONE])

    assert words.replace("FILE", str(file)) in done.output
    assert done.exit_code == 78


def test_an_empty_token_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGCLF_HTTP_TOKEN", "")

    done = CliRunner().invoke(main, ["serve", *ALONE])

    assert "environment variable LOGCLF_HTTP_TOKEN: http.token: is empty" in done.output
    assert done.exit_code == 78
