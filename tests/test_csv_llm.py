"""The csv command with an LLM: it waits for answers, keeps to a budget, and goes on where it was interrupted."""

from __future__ import annotations

import csv
import subprocess
import sys
import threading
import time
from pathlib import Path

from ollama_double import OllamaDouble, chat

ROWS = 200
TEMPLATES = 10


def table(path: Path) -> Path:
    words = [f"frobnicator {chr(97 + at) * 4} stalled" for at in range(TEMPLATES)]
    lines = ["source,log_message", *(f"app,{words[at % TEMPLATES]} {at}" for at in range(ROWS))]
    path.write_text("\n".join(lines) + "\n")
    return path


def start(folder: Path, server: OllamaDouble, *more: str) -> subprocess.Popen[bytes]:
    (folder / "config.yaml").write_text(
        f"llm: {{url: '{server.url}', wait_secs: 0.1}}\nmodel: {{enabled: false}}\nrules: {{builtin: false}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "logclf_daemon",
        "csv",
        str(table(folder / "in.csv")),
        "-o",
        str(folder / "out.csv"),
    ]
    places = ["--config", str(folder / "config.yaml"), "--state-dir", str(folder / "state")]
    return subprocess.Popen([*command, *places, *more], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=50)
    assert process.returncode == 0, said.decode()


def labels(folder: Path) -> list[str]:
    with (folder / "out.csv").open(newline="") as file:
        return [row["target_label"] for row in csv.DictReader(file)]


def test_every_row_waits_for_its_answer_and_a_template_costs_one_question(tmp_path: Path) -> None:
    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        finish(start(tmp_path, server))

    assert labels(tmp_path) == ["Workflow Error"] * ROWS
    assert len(server.requests) == TEMPLATES


def test_a_budget_bounds_the_questions_and_the_next_run_goes_on(tmp_path: Path) -> None:
    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        finish(start(tmp_path, server, "--llm-budget", "4"))
        assert len(server.requests) == 4
        assert labels(tmp_path).count("Workflow Error") == ROWS * 4 // TEMPLATES

        finish(start(tmp_path, server, "--llm-budget", "100"))
        assert len(server.requests) == TEMPLATES
        assert labels(tmp_path) == ["Workflow Error"] * ROWS


def test_an_interrupted_run_asks_nothing_twice(tmp_path: Path) -> None:
    five, go_on = threading.Event(), threading.Event()
    asked: list[object] = []

    def script(request: dict[str, object]) -> tuple[int, bytes]:
        if len(asked) == 5:  # the sixth question comes when five answers were taken
            five.set()
            go_on.wait(20)
        asked.append(request["messages"])
        return chat("Workflow Error")

    with OllamaDouble(script) as server:
        process = start(tmp_path, server)
        deadline = time.monotonic() + 40
        while not five.wait(0.1):
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.kill()
        process.communicate()
        assert not (tmp_path / "out.csv").exists()
        answered = list(asked)
        go_on.set()

        finish(start(tmp_path, server))

    assert labels(tmp_path) == ["Workflow Error"] * ROWS
    assert len(answered) == 5
    again = [request["messages"] for request in server.requests[6:]]
    assert len(again) == TEMPLATES - 5
    assert not [messages for messages in again if messages in answered]
