"""The README and the documents say what is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from logclf_daemon.config import Config, load_config
from logclf_daemon.stages._rules.dialect import complaint
from logclf_daemon.stages._rules.engines import Pattern, engine_complaint
from logclf_daemon.stages._rules.files import RuleFile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RULES_PAGE = (ROOT / "docs" / "rules.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


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


def commands_about_rules() -> list[str]:
    return [line for block in blocks("sh", RULES_PAGE) for line in block.splitlines()]


@pytest.mark.parametrize("command", commands_about_rules())
def test_the_commands_of_the_rules_page_run_on_its_own_rule_file(command: str, tmp_path: Path) -> None:
    (rules_file,) = [block for block in blocks("yaml", RULES_PAGE) if block.startswith("version: 1")]
    (tmp_path / "own.yaml").write_text(rules_file)
    program, *arguments = shlex.split(command)
    if arguments[0] == "ctl":  # it needs a running daemon
        arguments.append("--help")

    done = subprocess.run(
        [sys.executable, "-m", "logclf_daemon", *arguments], cwd=tmp_path, capture_output=True, timeout=50, check=False
    )

    assert program == "logclf-daemon"
    assert done.returncode == 0, done.stderr.decode()


def test_the_configuration_of_the_rules_page_is_valid() -> None:
    (text,) = [block for block in blocks("yaml", RULES_PAGE) if block.startswith("rules:")]

    assert Config.model_validate(yaml.safe_load(text)).rules.builtin


def refused_patterns() -> list[str]:
    rows = re.findall(
        r"^\| (.*?) \| .* \|$", RULES_PAGE.split("## What a pattern may say")[1].split("\n## ")[0], re.MULTILINE
    )
    return [pattern for row in rows for pattern in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("pattern", refused_patterns())
def test_what_the_rules_page_calls_refused_is_refused(pattern: str) -> None:
    if pattern == ".{0,900}":  # alone it is nothing; many are too large
        pattern = "|".join(f"w{number}{pattern}x{number}" for number in range(200))
    if pattern in {"^", "$"}:
        pattern = f"a{pattern}b"

    assert complaint(pattern) or engine_complaint(Pattern(pattern))


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_integrations_have_valid_configurations() -> None:
    found = sorted((ROOT / "integrations").rglob("config.yaml"))

    assert found
    for path in found:
        assert load_config(path).inputs
        assert (path.parent / "README.md").exists()


def test_fluent_bit_is_told_to_wait_for_acknowledgements() -> None:
    """Validated against the names in Fluent Bit's documentation; it is in no registry, so it cannot run here."""
    text = (ROOT / "integrations" / "fluent-bit" / "fluent-bit.conf").read_text()
    sections = re.findall(r"\[(\w+)\]\n((?:    \S+ +\S+\n)+)", text)
    output = dict(line.split(None, 1) for line in dict(sections)["OUTPUT"].splitlines())

    assert [name for name, _ in sections] == ["SERVICE", "INPUT", "OUTPUT"]
    assert output["require_ack_response"] == "on"
    assert output["retry_limit"] == "no_limits"
