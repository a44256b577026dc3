"""Choosing an LLM: its figures on labelled lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from logclf_daemon.cli import main
from ollama_double import OllamaDouble, chat


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["llm", "evaluate", *arguments])


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    rows = [
        ("disk quota exceeded for volume 1", "Resource Usage"),
        ("disk quota exceeded for volume 2", "Resource Usage"),
        ("session of ann opened", "User Action"),
        ("backup job stalled", "Workflow Error"),
    ]
    path = tmp_path / "labelled.csv"
    path.write_text("source,log_message,target_label\n" + "".join(f"app,{line},{label}\n" for line, label in rows))
    return str(path)


def answer(request: dict[str, Any]) -> tuple[int, bytes]:
    """Right about the disk, and sure; wrong about the rest, and less sure."""
    sure = "disk" in request["messages"][1]["content"]
    label = "Resource Usage" if sure else "Error"
    share = 0.95 if sure else 0.6
    top = [{"token": label, "logprob": math.log(share)}, {"token": "HTTP", "logprob": math.log(1 - share)}]
    tokens = [{"token": '{"label": "', "logprob": 0.0}, {"token": label, "logprob": -0.1, "top_logprobs": top}]
    return chat(label, logprobs=tokens)


def test_accuracy_calibration_seconds_and_tokens_are_told(labelled: str) -> None:
    with OllamaDouble(answer) as server:
        found = json.loads(evaluate(labelled, "--url", server.url, "--json").stdout)
        text = evaluate(labelled, "--url", server.url).stdout

    assert (found["rows"], found["questions"], found["answered"]) == (4, 3, 1.0)
    assert found["right_of_answered"] == 0.5
    assert found["levels"][2] == {"confidence": 0.9, "answered": 0.5, "right": 1.0}
    assert found["calibration_error"] == pytest.approx((2 * 0.05 + 2 * 0.6) / 4, abs=1e-3)
    assert found["labels"]["Resource Usage"] == [2, 2]
    assert found["prompt_tokens"] > 0
    assert found["model"].startswith("qwen3:1.7b@")
    for words in ("50.0% of them right", "s a question", "tokens read", "confidence 0.9 or more"):
        assert words in text


def test_without_probabilities_calibration_is_not_measured(labelled: str) -> None:
    with OllamaDouble(lambda _: chat("Error")) as server:
        text = evaluate(labelled, "--url", server.url).stdout

    assert "not measured" in text
    assert "or more" not in text


def test_answers_without_probabilities_are_left_out_of_the_calibration(labelled: str) -> None:
    def now_and_then(request: dict[str, Any]) -> tuple[int, bytes]:
        return answer(request) if "disk" in request["messages"][1]["content"] else chat("Error")

    with OllamaDouble(now_and_then) as server:
        found = json.loads(evaluate(labelled, "--url", server.url, "--json").stdout)

    assert found["calibration_error"] == pytest.approx(0.05, abs=1e-3), "of the two rows about the disk"
    assert found["levels"][2] == {"confidence": 0.9, "answered": 0.5, "right": 1.0}
    assert found["right_of_answered"] == 0.5


def test_a_server_that_is_away_is_said(labelled: str) -> None:
    with OllamaDouble(answer) as server:
        url = server.url

    result = evaluate(labelled, "--url", url)

    assert result.exit_code == 69
    assert "absent" in result.output


def test_an_unreadable_table_is_bad_input(tmp_path: Path) -> None:
    assert evaluate(str(tmp_path / "none.csv")).exit_code == 65
