"""The references are made from the code and current; every option is an environment variable too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner

from logclf_daemon.cli import main
from logclf_daemon.cli.pages import command_page
from logclf_daemon.config import Config, environment_names, load_config, misspelt_variables
from logclf_daemon.errors import ConfigError
from logclf_daemon.reference import configuration_page

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("page", "made", "command"),
    [
        ("configuration.md", configuration_page, "logclf-daemon config reference > docs/configuration.md"),
        ("cli.md", lambda: command_page(main), "logclf-daemon config reference --cli > docs/cli.md"),
    ],
)
def test_a_reference_is_current(page: str, made: Any, command: str) -> None:
    assert (DOCS / page).read_text() == made(), f"run: {command}"


def options(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from options(command, (*words, name))
        for param in command.params:
            if isinstance(param, click.Option):
                yield (*words, name), param


def suitable(option: click.Option) -> str:
    """A value that the option takes."""
    if option.is_flag:
        return "true"
    if isinstance(option.type, click.Choice):
        return str(next(iter(option.type.choices)))
    return "1"


def test_every_option_of_every_command_is_read_from_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(options(main))

    assert len(found) > 40
    for words, option in found:
        assert isinstance(option.envvar, str), f"{words} {option.opts}"
        if words != ("config", "show"):
            assert option.envvar.startswith("_".join(("LOGCLF", *words)).upper().replace("-", "_"))
        monkeypatch.setenv(option.envvar, suitable(option))
        value, source = option.consume_value(click.Context(click.Command("x")), {})
        assert (source, value is not None) == (ParameterSource.ENVIRONMENT, True), option.envvar


def test_no_variable_means_two_things() -> None:
    of_commands = {str(option.envvar) for _, option in options(main)}

    assert not of_commands & set(environment_names())


VALUES: dict[Any, str] = {
    bool: "true",
    "rules.paths": "/a",
    "record.message_keys": "[a, b]",
    "record.enrich": "[ecs]",
    "record.meanings": "{Error: {level: warn}}",
    "llm.protected_labels": "[Error]",
    "labels": "{Fire: it burns, Water: it is wet}",
    "inputs": "[{type: stdin}]",
    "outputs": "{type: jsonl}",
}


@pytest.mark.parametrize(("variable", "place"), environment_names().items())
def test_every_option_of_the_configuration_is_an_environment_variable(variable: str, place: tuple[str, ...]) -> None:
    default: Any = Config()
    for part in place:
        default = getattr(default, part)
    words = VALUES.get(".".join(place))
    if words is None:
        more = str((default or 1) + 1) if type(default) is int else ""
        words = {bool: str(not default), int: more, float: "0.5"}.get(type(default), "")
    tried = [words] if words else ["2", "[a]", "true", "sentence-transformers", "refuse", "text"]

    changed = []
    for text in tried:
        try:
            value: Any = load_config(None, {variable: text})
        except ConfigError as error:
            assert f"environment variable {variable}: {'.'.join(place)}" in str(error)
            continue
        for part in place:
            value = getattr(value, part)
        changed.append(value != default)

    assert any(changed)


def test_the_environment_goes_before_the_file_and_names_itself_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("llm: {url: 'http://file:1', wait_secs: 3}\n")

    config = load_config(path, {"LOGCLF_LLM_URL": "http://environment:1", "LOGCLF_RULES_PATHS": "[/a, /b]"})

    assert (config.llm.url, config.llm.wait_secs) == ("http://environment:1", 3)
    assert list(map(str, config.rules.paths)) == ["/a", "/b"]
    with pytest.raises(ConfigError, match="environment variable LOGCLF_LLM_WAIT_SECS: llm"):
        load_config(path, {"LOGCLF_LLM_WAIT_SECS": "soon"})


def test_a_misspelt_variable_is_noticed_and_foreign_ones_are_not() -> None:
    environment = {"LOGCLF_LLM_URLL": "x", "LOGCLF_PORT_24224_TCP": "x", "LOGCLF_SERVICE_HOST": "x", "PATH": "x"}

    assert misspelt_variables(environment) == {"LOGCLF_LLM_URLL": "LOGCLF_LLM_URL"}


def shown(*arguments: str, **environment: str) -> dict[str, tuple[Any, str]]:
    done = CliRunner().invoke(main, ["config", "show", "--json", *arguments], env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {row["key"]: (row["value"], row["from"]) for row in json.loads(done.output)}


def test_show_tells_who_said_what(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("inputs:\n  - type: stdin\nllm:\n  url: http://x:1\n")

    found = shown(
        "-c", str(path), "--no-model", LOGCLF_LLM_WAIT_SECS="3", LOGCLF_RUN_STATE_DIR="/st", LOGCLF_RUN_TO="-"
    )  # fmt: skip

    assert found["llm.url"] == ("http://x:1", f"{path}:4")
    assert found["inputs.0.type"] == ("stdin", f"{path}:2")
    assert found["inputs.0.message_key"] == ("log", "default")
    assert found["llm.wait_secs"] == (3.0, "environment variable LOGCLF_LLM_WAIT_SECS")
    assert found["model.enabled"] == (False, "--model")
    assert found["state.directory"] == ("/st", "environment variable LOGCLF_RUN_STATE_DIR")
    assert found["outputs.0.path"] == ("-", "environment variable LOGCLF_RUN_TO")


def test_show_prints_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("s3cret-file")
    monkeypatch.setenv("KEY", "s3cret-variable")
    path = tmp_path / "c.yaml"
    path.write_text(
        "inputs:\n  - {type: forward, shared_key: '${KEY}', users: {bob: s3cret-user}}\n"
        "outputs:\n  - type: forward\n    address: 'x:1'\n    shared_key: 's3cret-text'\n"
        f"    self_hostname: 'file:{tmp_path}/key'\n"
        "llm: {url: 'http://me:s3cret-url@x:1'}\n"
    )

    text = CliRunner().invoke(main, ["config", "show", "-c", str(path)], catch_exceptions=False).output

    assert "s3cret" not in text
    assert text.count("(secret)") == 3
    assert f"file:{tmp_path}/key" in text


def test_what_show_prints_is_a_configuration_that_means_the_same(tmp_path: Path) -> None:
    path, again = tmp_path / "c.yaml", tmp_path / "again.yaml"
    path.write_text(
        "inputs:\n  - {type: files, paths: [/a]}\n  - {type: stdin}\noutputs: [{type: jsonl}]\n"
        "labels: {Fire: it burns, Water: it is wet}\n"
    )

    again.write_text(CliRunner().invoke(main, ["config", "show", "-c", str(path)], catch_exceptions=False).output)

    assert load_config(again) == load_config(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("here", None),
        ("missing", "put it into /etc/logclf/credentials/missing"),
        ("../x", "write the name of a file in /etc/logclf/credentials"),
    ],
)
def test_a_credential_is_what_systemd_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str | None
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "logclf_here").write_text("key\n")
    path = tmp_path / "c.yaml"
    path.write_text(f"inputs:\n  - {{type: forward, shared_key: 'credential:{name}'}}\n")

    if words is None:
        assert load_config(path).inputs[0].shared_key.get_secret_value() == "key"  # type: ignore[attr-defined]
    else:
        with pytest.raises(ConfigError, match=words):
            load_config(path)
