"""docs/llm.md says what is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from logclf_daemon import cli
from logclf_daemon.config import Config
from logclf_daemon.stages.llm import LlmOptions
from logclf_training import cli as training

PAGE = (Path(__file__).parents[1] / "docs" / "llm.md").read_text()
PROGRAMS: dict[str, click.Command] = {"logclf-daemon": cli.main, "logclf-train": training.main}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    lines = [line.strip().partition(" > ")[0] for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line.partition(" ")[0] in PROGRAMS]


@pytest.mark.parametrize("line", commands())
def test_its_commands_and_their_options_exist(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("suggested.yaml", "verdicts.jsonl", "labelled.csv", "logs.csv"):
        Path(name).touch()
    program, *words = shlex.split(line.replace("/var/log/syslog", "logs.csv"))
    command = PROGRAMS[program]
    context = click.Context(command)

    while isinstance(command, click.Group):
        word, *words = words
        found = command.get_command(context, word)
        assert found is not None, word
        command = found
        context = click.Context(command, parent=context, info_name=word)

    with context:
        command.parse_args(context, words)  # raises for an option or argument there is none of


def test_its_settings_are_the_defaults() -> None:
    (text,) = blocks("yaml")

    assert Config.model_validate(yaml.safe_load(text)).llm == LlmOptions()
