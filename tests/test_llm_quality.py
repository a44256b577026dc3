"""Choosing an LLM: its figures on labelled lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from logclf_daemon.cli import main
from ollama_double import OllamaDouble, captured, chat, with_shares


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


def leaning(request: dict[str, Any]) -> tuple[int, bytes]:
    """Leans to Error whatever it reads, by the captured answer: only what the line adds to that is a sign."""
    line = request["messages"][1]["content"].split("\n")[2]
    shares = {"Error": 0.6, "Workflow Error": 0.1, "User Action": 0.1, "Resource Usage": 0.2}
    if "backup" in line:
        shares = {"Error": 0.5, "Workflow Error": 0.3, "User Action": 0.1, "Resource Usage": 0.1}
    if "session" in line:
        shares = {"Error": 0.5, "Workflow Error": 0.1, "User Action": 0.3, "Resource Usage": 0.1}
    if "disk" in line:
        shares = {"Error": 0.3, "Workflow Error": 0.0, "User Action": 0.0, "Resource Usage": 0.7}
    return with_shares(max(shares, key=shares.__getitem__), shares)


def test_the_users_own_lines_say_whether_the_prior_correction_helps(labelled: str, tmp_path: Path) -> None:
    (tmp_path / "on.yaml").write_text("llm: {prior_correction: true}\n")
    with OllamaDouble(leaning) as server:
        found = json.loads(evaluate(labelled, "--url", server.url, "--json").stdout)
        off = evaluate(labelled, "--url", server.url).stdout
        on = evaluate(labelled, "--url", server.url, "--config", str(tmp_path / "on.yaml")).stdout

    assert found["prior"] == {"rows": 4, "right_with": 4, "right_without": 2, "won": 2, "lost": 0}
    assert found["right_of_answered"] == 0.5, "it is off by default"
    assert "100.0% of 4 answers right with it, 50.0% without (2 won, 0 lost); try llm.prior_correction: true" in off
    assert "100.0% of them right" in on
    assert "leave llm.prior_correction on" in on


def test_without_probabilities_nothing_is_said_of_the_prior(labelled: str) -> None:
    with OllamaDouble(lambda _: chat("Error")) as server:
        assert json.loads(evaluate(labelled, "--url", server.url, "--json").stdout)["prior"] is None


def test_a_server_that_is_away_is_said(labelled: str) -> None:
    with OllamaDouble(answer) as server:
        url = server.url

    result = evaluate(labelled, "--url", url)

    assert result.exit_code == 69
    assert "absent" in result.output


def test_a_model_the_server_does_not_have_says_what_to_do(labelled: str) -> None:
    missing = captured("err_model_missing_chat")
    with OllamaDouble(lambda _: missing, load=lambda _: missing) as server:
        result = evaluate(labelled, "--url", server.url, "--model", "nosuch:1b")

    assert result.exit_code == 69
    assert "model_missing: run: ollama pull nosuch:1b" in result.output


def test_rows_whose_label_is_none_are_told_and_count_as_wrong(labelled: str) -> None:
    with Path(labelled).open("a") as file:
        file.write("app,backup job hangs,Workflow Eror\n")
    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        result = evaluate(labelled, "--url", server.url)

    assert "1 of 5 rows count as wrong: no such label ('Workflow Eror'), first in row 6" in result.stderr
    assert result.exit_code == 0


def test_an_unreadable_table_is_bad_input(tmp_path: Path) -> None:
    assert evaluate(str(tmp_path / "none.csv")).exit_code == 65
