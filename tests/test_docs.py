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
from logclf_daemon.resources import folder
from logclf_daemon.stages._rules.dialect import complaint
from logclf_daemon.stages._rules.engines import Pattern, engine_complaint
from logclf_daemon.stages._rules.files import RuleFile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RULES_PAGE = (ROOT / "docs" / "rules.md").read_text()
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```sh\n" in page.read_text()]
# As they are written they would not end, take a port, need a daemon or an LLM, or train for minutes: only whether there
# are such commands and options is tried.
LONG = {"run", "serve", "ctl", "llm", "fit", "default", "export", "convert"}
MODULES = {"logclf-daemon": "logclf_daemon", "logclf-train": "logclf_training.cli"}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    found = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/logclf-daemon")]
    assert found
    return found


def run_command(command: str, place: Path) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if arguments[0] in LONG:
        arguments.append("--help")
    arguments = [str(ROOT / argument) if argument.startswith("resources/") else argument for argument in arguments]
    if arguments[0] in {"csv", "explain"}:
        arguments.append("--no-llm")

    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *arguments], cwd=place, capture_output=True, timeout=150, check=False
    )

    assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    run_command(command, tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_the_documents_run_in_their_order(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    for rule_file in blocks("yaml", text):
        if rule_file.startswith("version: 1"):
            (tmp_path / "own.yaml").write_text(rule_file)
    lines = [line for block in blocks("sh", text) for line in block.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if line.split(" ")[0] in MODULES]

    assert found
    for command in found:
        run_command(command, tmp_path)


def test_the_examples_of_the_page_on_python_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)

    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), {})


def test_the_configuration_of_the_readme_is_valid() -> None:
    (text,) = [block for block in blocks("yaml") if "inputs:" in block]

    Config.model_validate(yaml.safe_load(text))


def test_the_rule_of_the_readme_is_valid() -> None:
    (text,) = [block for block in blocks("yaml") if "rules:\n" in block]

    RuleFile.model_validate(yaml.safe_load(text))


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


def test_the_configurations_of_the_operations_page_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    texts = blocks("yaml", (ROOT / "docs" / "operations.md").read_text())
    for name in re.findall(r"credential:(\w+)", "".join(texts)):
        (tmp_path / name).write_text("a long random text\n")

    for at, text in enumerate(texts):
        (tmp_path / f"{at}.yaml").write_text(text)
        load_config(tmp_path / f"{at}.yaml")

    assert len(texts) >= 2


def test_the_line_for_the_page_in_the_shipped_configuration_is_valid(tmp_path: Path) -> None:
    text = (folder("systemd") / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub("^# http:", "http:", text, flags=re.MULTILINE))

    assert load_config(tmp_path / "config.yaml").http.listen == "127.0.0.1:24280"


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
