"""A person's word on a verdict: through the command line into a running daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon_process import Daemon
from fault_doubles import config_file, configuration
from logclf_daemon.cli import main
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.verdicts import VerdictMemory
from ollama_double import OllamaDouble, chat

TEMPLATE = "0123456789abcdef"
LINE = "frobnicator stalled 7"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    memory = VerdictMemory(tmp_path / "cache.db", "small:1b/labels/1", model=lambda: "small:1b")
    memory.remember(
        Question(TEMPLATE, "disk \x1b[31m full", "app", b"disk 7 \x1b[31m full"), Verdict("Error", 0.5, "llm")
    )
    memory.close()
    return tmp_path


def verdicts(state: Path, command: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["verdicts", command, "--state-dir", str(state), *arguments], input=stdin)


def exported(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in verdicts(state, "export").stdout.splitlines()]


def test_verdicts_are_listed_and_shown_without_anything_a_terminal_obeys(state: Path) -> None:
    listed, shown = verdicts(state, "list"), verdicts(state, "show", TEMPLATE)

    assert TEMPLATE in listed.stdout
    assert "Error" in shown.stdout
    assert "small:1b" in shown.stdout
    assert "\x1b" not in listed.output + shown.output
    assert json.loads(verdicts(state, "list", "--json").stdout)[0]["template"] == TEMPLATE
    assert json.loads(verdicts(state, "show", "--json", TEMPLATE).stdout)[0]["origin"] == "llm"
    assert verdicts(state, "list", "--current").stdout == ""
    assert TEMPLATE in verdicts(state, "list", "--stale", "--origin", "llm", "--label", "Error").stdout


def test_a_persons_word_joins_the_llms(state: Path) -> None:
    assert verdicts(state, "set", TEMPLATE, "Resource Usage").exit_code == 0

    assert {(row["origin"], row["label"]) for row in exported(state)} == {
        ("human", "Resource Usage"),
        ("llm", "Error"),
    }


def test_a_line_may_be_given_instead_of_its_template(state: Path) -> None:
    done = verdicts(state, "set", LINE, "Workflow Error", "--source", "/var/log/app-7.log.1")

    (row,) = [row for row in exported(state) if row["origin"] == "human"]
    assert done.exit_code == 0
    assert (row["source"], row["text"], row["example"]) == ("app.log", "frobnicator stalled", LINE)
    assert verdicts(state, "show", "frobnicator stalled 99").exit_code == 0


def test_a_line_and_a_source_may_hold_bytes_that_are_no_text(state: Path) -> None:
    done = verdicts(state, "set", "frob\udcff stalled here", "Workflow Error", "--source", "caf\udce9.log")

    assert done.exit_code == 0, done.output
    (row,) = [row for row in exported(state) if row["origin"] == "human"]
    assert (row["source"], row["example"]) == ("caf?.log", "frob\ufffd stalled here")


def test_what_a_person_wrote_may_name_the_file_it_comes_from(state: Path) -> None:
    line = json.dumps({"template": "f" * 16, "source": "/var/log/app-7.log.1", "label": "Error"})

    assert verdicts(state, "import", "-", stdin=line).exit_code == 0

    (row,) = [row for row in exported(state) if row["origin"] == "human"]
    assert row["source"] == "app.log"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("set", TEMPLATE, "Workflow Eror"), 2, "did you mean 'Workflow Error'?"),
        (("set", "f" * 16, "Error"), 2, "--source"),
        (("set", "f" * 16, "Error", "--source", "app"), 2, "the whole line"),
        (("list", "--label", "Eror"), 2, "did you mean 'Error'?"),
        (("show", "f" * 16), 1, "nothing is remembered"),
        (("forget", "f" * 16), 1, "nothing is remembered"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    state: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = verdicts(state, arguments[0], *arguments[1:])

    assert result.exit_code == code
    assert words in result.output


def test_what_is_exported_can_be_imported_elsewhere(state: Path, tmp_path: Path) -> None:
    verdicts(state, "set", TEMPLATE, "Resource Usage")
    text = verdicts(state, "export").stdout
    other = tmp_path / "other"

    done = verdicts(other, "import", "-", stdin=text)

    assert done.exit_code == 0
    assert verdicts(other, "export").stdout == text
    assert [row["origin"] for row in exported(other)] == ["human", "llm"]


def test_a_confidence_that_was_not_measured_is_none(state: Path, tmp_path: Path) -> None:
    (row,) = exported(state)
    text = json.dumps(row | {"confidence": None}) + "\n"
    other = tmp_path / "other"

    done = verdicts(other, "import", "-", stdin=text)

    assert done.exit_code == 0
    assert verdicts(other, "export").stdout == text
    assert json.loads(verdicts(other, "list", "--json").stdout)[0]["confidence"] is None
    assert "Error                   - llm" in verdicts(other, "list").stdout
    assert "confidence -" in verdicts(other, "show", TEMPLATE).stdout


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"template": "0123456789abcdef"}',
        '{"template": "short", "source": "a", "label": "Error"}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Nonsense"}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "confidence": 7}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "origin": "llm"}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "orign": "human"}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "created": 99999999999999999999}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "last_seen": 1795910071000}',
        '{"template": "0123456789abcdef", "source": "a", "label": "Error", "hits": -5}',
    ],
)
def test_a_wrong_line_imports_nothing(state: Path, line: str) -> None:
    good = '{"template": "aaaaaaaaaaaaaaaa", "source": "a", "label": "Error"}\n'

    result = verdicts(state, "import", "-", stdin=good + line + "\n")

    assert result.exit_code == 65
    assert ":2: " in result.output
    assert len(exported(state)) == 1


def test_a_running_daemon_follows_a_persons_word(tmp_path: Path) -> None:
    log, target = tmp_path / "app.log", tmp_path / "out.jsonl"

    def rows() -> list[dict[str, Any]]:
        return [json.loads(row)["logclf"] for row in target.read_text().splitlines()] if target.exists() else []

    def labelled(tested: Daemon, label: str) -> dict[str, Any]:
        """Lines come until one has this label."""

        def there(_: Daemon) -> bool:
            with log.open("a") as file:
                file.write(f"{LINE}\n")
            return any(row["label"] == label for row in rows())

        tested.wait_for(there)
        return next(row for row in rows() if row["label"] == label)

    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        config = configuration(tmp_path, {"type": "jsonl", "path": str(target)}, llm={"url": server.url})
        with Daemon("--config", config_file(tmp_path, config)) as tested:
            tested.ready()
            answer = labelled(tested, "Workflow Error")
            verdicts(tmp_path / "state", "set", answer["template"], "Security Alert")
            said = labelled(tested, "Security Alert")
            assert (said["stage"], said["confidence"]) == ("llm", 1.0)
            assert said["generation"] > answer["generation"]
            verdicts(tmp_path / "state", "forget", answer["template"])
            target.rename(tmp_path / "before.jsonl")
            labelled(tested, "Workflow Error")
            assert tested.stop() == 0

    assert len(server.requests) == 2
    memory = VerdictMemory(tmp_path / "state" / "cache.db", "x")
    assert sum(row.hits for row in memory.listed()) > 0, "what was used is counted at the end"
    memory.close()


def test_a_persons_word_counts_without_an_llm(state: Path, tmp_path: Path) -> None:
    asked = ("explain", LINE, "--source", "app.log", "--no-llm", "--no-model", "--json", "--state-dir", str(state))
    before = json.loads(CliRunner().invoke(main, asked).stdout)["logclf"]
    verdicts(state, "set", LINE, "User Action", "--source", "app.log")

    after = json.loads(CliRunner().invoke(main, asked).stdout)["logclf"]

    assert (before["label"], after["label"]) == ("Unclassified", "User Action")
