"""The README and the documents say what is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from logclf_daemon.config import Config
from logclf_daemon.stages._rules.files import RuleFile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    found = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/logclf-daemon")]
    assert found
    return found


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    arguments = shlex.split(command)[1:]
    if arguments[0] == "run":  # as it is written it would not end, and take a port
        arguments = ["run", "--help"]
    arguments = [str(ROOT / argument) if argument.startswith("resources/") else argument for argument in arguments]
    if arguments[0] in {"csv", "explain"}:
        arguments.append("--no-llm")

    done = subprocess.run(
        [sys.executable, "-m", "logclf_daemon", *arguments], cwd=tmp_path, capture_output=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stderr.decode()


def test_the_configuration_of_the_readme_is_valid() -> None:
    (text,) = [block for block in blocks("yaml") if "inputs:" in block]

    Config.model_validate(yaml.safe_load(text))


def test_the_rule_of_the_readme_is_valid() -> None:
    (text,) = [block for block in blocks("yaml") if "rules:\n" in block]

    RuleFile.model_validate(yaml.safe_load(text))


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
