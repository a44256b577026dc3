"""The command line as a person meets it: real processes, exit codes, one clear line for each mistake."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

RESOURCES = Path(__file__).parents[1] / "resources"


def run(
    *arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "logclf_daemon", *arguments],
        input=stdin,
        capture_output=True,
        timeout=50,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def errors(result: subprocess.CompletedProcess[bytes]) -> str:
    text = result.stderr.decode()
    assert "Traceback" not in text
    return text


RULE = """
version: 1
rules:
  - {id: own-boom, label: Critical Error, pattern: 'boom \\d+', examples: ["boom 1"], priority: 999}
"""


def test_help_has_an_example_for_each_command() -> None:
    assert "Commands" in run("--help").stdout.decode()
    for command in (
        ["run"],
        ["csv"],
        ["explain"],
        ["rules", "check"],
        ["rules", "test"],
        ["config", "check"],
        ["doctor"],
    ):
        assert "Example" in run(*command, "--help").stdout.decode()


def test_explain_says_why(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(RULE)

    result = run("explain", "--rules", str(tmp_path), "--no-llm", "--json", "a boom 12")

    found = json.loads(result.stdout)
    assert (found["logclf"]["label"], found["logclf"]["rule"]) == ("Critical Error", "own-boom")
    assert [step["stage"] for step in found["steps"]] == ["rules", "verdicts", "model"]
    assert run("explain", "--rules", str(tmp_path), "--no-llm", "a boom 12").stdout.startswith(b"Critical Error")


def test_explain_reads_lines_from_standard_input() -> None:
    result = run(
        "explain",
        "--no-llm",
        "--no-model",
        "--json",
        stdin=b"sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2\nzz\n",
    )

    labels = [json.loads(line)["logclf"]["label"] for line in result.stdout.splitlines()]
    assert labels == ["Security Alert", "Unclassified"]


def test_run_once_reads_a_file_and_goes_on_there_the_next_time(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("boom 1\nhello\n")
    (tmp_path / "own.yaml").write_text(RULE)
    command = (
        "run",
        "--tail",
        str(log),
        "--once",
        "--rules",
        str(tmp_path / "own.yaml"),
        "--no-llm",
        "--state-dir",
        str(tmp_path / "st"),
    )

    first = run(*command)
    with log.open("a") as more:
        more.write("boom 2\n")
    second = run(*command)

    rows = [json.loads(line) for line in first.stdout.splitlines()]
    assert [(row["log"], row["file"]) for row in rows] == [("boom 1", str(log)), ("hello", str(log))]
    assert rows[0]["logclf"]["rule"] == "own-boom"
    assert [json.loads(line)["log"] for line in second.stdout.splitlines()] == ["boom 2"]
    assert (first.returncode, second.returncode) == (0, 0)


def test_run_reads_standard_input_and_writes_a_file(tmp_path: Path) -> None:
    result = run("run", "--stdin", "--once", "--to", str(tmp_path / "out"), "--no-llm", "--no-model", stdin=b"one\ntwo")

    assert result.returncode == 0, errors(result)
    assert [json.loads(line)["log"] for line in (tmp_path / "out").read_text().splitlines()] == ["one", "two"]


def test_csv_adds_the_label_and_sums_up(tmp_path: Path) -> None:
    out = tmp_path / "out.csv.gz"

    result = run("csv", str(RESOURCES / "sample.csv"), "-o", str(out), "--no-llm")

    assert result.returncode == 0, errors(result)
    rows = gzip.decompress(out.read_bytes()).splitlines()
    before = (RESOURCES / "sample.csv").read_bytes().splitlines()
    assert rows[0] == before[0] + b",target_label"
    assert all(row.startswith(line) for row, line in zip(rows, before, strict=True))
    assert f"{len(rows) - 1} rows" in errors(result)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_csv_and_run_and_explain_agree(tmp_path: Path) -> None:
    lines = (RESOURCES / "auth.log").read_bytes().splitlines()[:40]
    (tmp_path / "auth.log").write_bytes(b"\n".join(lines) + b"\n")
    quoted = b"".join(b'x,"' + line.replace(b'"', b'""') + b'"\n' for line in lines)

    streamed = run("run", "--tail", str(tmp_path / "auth.log"), "--once", "--no-llm", "--state-dir", str(tmp_path))
    table = run("csv", "-", "--no-llm", stdin=b"source,log_message\n" + quoted)
    explained = run("explain", "--no-llm", "--json", stdin=b"\n".join(lines))

    labels = [json.loads(row)["logclf"]["label"] for row in streamed.stdout.splitlines()]
    assert labels == [row.rsplit(b",", 1)[1].decode() for row in table.stdout.splitlines()[1:]]
    assert labels == [json.loads(row)["logclf"]["label"] for row in explained.stdout.splitlines()]
    assert len(labels) == 40


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("csv", "/no/such.csv"), 65, "/no/such.csv: cannot be read: No such file"),
        (("csv", "MISSING_COLUMN"), 65, "no column 'log_message' (there are: 'source', 'text')"),
        (("csv", "NOT_GZIP"), 65, "cannot be unpacked"),
        (("run", "--config", "/no/such.yaml"), 78, "/no/such.yaml: cannot be read"),
        (("run", "--config", "BAD_CONFIG"), 78, "config.yaml:1: llm.urll: unknown option; did you mean 'url'?"),
        (("config", "check", "BAD_CONFIG"), 78, "did you mean 'url'?"),
        (("rules", "check", "BAD_RULE"), 78, "bad.yaml:3: look: pattern: look-behind (?<= is not supported"),
        (("rules", "check", "/no/such/folder"), 78, "/no/such/folder: no such rule file or folder"),
        (("rules", "check", "NO_RULES"), 78, "none.yaml: no rules; a folder's rule files end in .yaml or .yml"),
        (("rules", "check", "NO_LIST"), 78, "nolist.yaml:3: rules.0.source: must be a list, as in [one, two]"),
        (("rules", "test", "BAD_EXAMPLE"), 1, "does not match its example 'bang'"),
        (("run", "--to", "kafka://x"), 2, "unknown kind of target"),
        (("run", "--forward", "127.0.0.1:0", "--once"), 2, "forward input has no end"),
        (("run", "--stdin", "--to", "/no/such/folder/out"), 78, "cannot be opened"),
        (("run", "--tail", "/tmp/x", "--state-dir", "/proc/nothing"), 78, "cannot be written"),
        (("nonsense",), 2, "No such command 'nonsense'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    files = {
        "MISSING_COLUMN": ("x.csv", "source,text\na,b\n"),
        "NOT_GZIP": ("x.csv.gz", "source,log_message\n"),
        "BAD_CONFIG": ("config.yaml", "llm: {urll: x}\n"),
        "BAD_RULE": (
            "bad.yaml",
            "version: 1\nrules:\n  - {id: look, label: Error, pattern: '(?<=a)b', examples: [ab]}\n",
        ),
        "NO_RULES": ("none.yaml", "version: 1\nrules: []\n"),
        "NO_LIST": (
            "nolist.yaml",
            "version: 1\nrules:\n  - {id: a, label: Error, pattern: b, examples: [b], source: 'sshd*'}\n",
        ),
        "BAD_EXAMPLE": ("ex.yaml", "version: 1\nrules:\n  - {id: ex, label: Error, pattern: boom, examples: [bang]}\n"),
    }
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    given = [str(tmp_path / files[argument][0]) if argument in files else argument for argument in arguments]

    result = run(*given)

    assert words in errors(result)
    assert result.returncode == code


@pytest.mark.parametrize("command", [("run",), ("csv", str(RESOURCES / "sample.csv")), ("explain", "x"), ("serve",)])
def test_each_command_that_classifies_heeds_the_flags_of_the_cascade(command: tuple[str, ...]) -> None:
    result = run(*command, "--rules", "/no/such", "--no-llm")

    assert "command line: rules.paths.0: /no/such: no such rule file or folder" in errors(result)
    assert result.returncode == 78


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        result = run("run", "--forward", f"127.0.0.1:{port}", "--no-llm", "--no-model")

    assert f"127.0.0.1:{port}" in errors(result)
    assert result.returncode == 69


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "c.yaml").write_text(f"model: {{path: {tmp_path}/model}}\n")

    result = run("explain", "-c", str(tmp_path / "c.yaml"), "x")

    assert str(tmp_path / "model") in errors(result)
    assert result.returncode == 78


def test_options_come_from_the_environment_too(tmp_path: Path) -> None:
    result = run("explain", "--no-llm", "--json", "x", environment={"LOGCLF_EXPLAIN_MODEL": "false"})

    assert [step["stage"] for step in json.loads(result.stdout)["steps"]] == ["rules", "verdicts"]


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("hello\n" * 20_000)
    daemon = f"{sys.executable} -m logclf_daemon run --tail {log} --once --no-llm --no-model --state-dir {tmp_path}"

    result = subprocess.run(["bash", "-c", f"{daemon} | head -n 1"], capture_output=True, timeout=50, check=False)

    assert json.loads(result.stdout)["log"] == "hello"
    assert "Traceback" not in result.stderr.decode()


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x\n")
    (tmp_path / "c.yaml").write_text(
        "llm: {url: 'http://127.0.0.1:1'}\ninputs: [{type: forward, listen: '127.0.0.1:0'}]\n"
    )

    result = run("doctor", "-c", str(tmp_path / "c.yaml"), "--tail", str(tmp_path / "*.log"))

    text = result.stdout.decode()
    assert "files" in text
    assert "1 readable" in text
    assert "Ollama: nothing answers" in text
    assert "ollama serve" in text
    assert result.returncode == 0, text + errors(result)


def test_doctor_fails_when_the_daemon_could_not_work(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nrules:\n  - {id: x, label: Nope, pattern: a, examples: [a]}\n")
    (tmp_path / "c.yaml").write_text(f"rules: {{paths: [{tmp_path}/bad.yaml]}}\nllm: {{enabled: false}}\n")

    result = run("doctor", "-c", str(tmp_path / "c.yaml"))

    assert "FAIL" in result.stdout.decode()
    assert result.returncode == 1


def test_the_configuration_schema_is_json() -> None:
    schema = json.loads(run("config", "schema").stdout)

    assert "inputs" in schema["properties"]


def test_the_model_shows_its_card_and_is_measured_on_labelled_lines(tmp_path: Path) -> None:
    assert "Licence" in run("model", "show").stdout.decode() or "licence" in run("model", "show").stdout.decode()

    page = tmp_path / "quality.html"
    result = run("model", "evaluate", str(RESOURCES / "labelled.csv"), "--json", "--html", str(page))

    measured = json.loads(result.stdout)
    assert measured["accuracy"] > 0.8
    assert measured["rows"] == len((RESOURCES / "labelled.csv").read_text().splitlines()) - 1
    assert "<polyline" in page.read_text()
    assert "http" not in page.read_text().replace("HTTP", "")

    wrong = run("model", "evaluate", str(RESOURCES / "sample.csv"))
    assert "no column target_label" in errors(wrong)
    assert wrong.returncode == 65


def test_what_is_said_and_not_used_is_told_once_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x\n")
    (tmp_path / "c.yaml").write_text(
        f"labels: {{Apfel: a, Birne: b}}\nllm: {{enabled: false}}\n"
        f"inputs: [{{type: files, paths: [{tmp_path}/a.log]}}]\noutputs: [{{type: jsonl, path: '{tmp_path}/out'}}]\n"
    )

    result = run("run", "-c", str(tmp_path / "c.yaml"), "--once", environment={"LOGCLF_LLM_URLL": "http://x"})

    said = errors(result)
    assert said.count("labels of your own: shipped rules for other labels and the shipped model are not used") == 1
    assert "variable=LOGCLF_LLM_URLL meant=LOGCLF_LLM_URL" in said
    assert result.returncode == 0


def test_the_words_of_the_pattern_engine_are_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"inputs: [{{type: files, paths: [{tmp_path}/a.log], multiline: {{start: '(?=x)'}}}}]\n"
    )

    result = run("config", "check", str(tmp_path / "c.yaml"))

    assert "multiline.start: '(?=x)': invalid perl operator" in errors(result)
    assert "b'" not in errors(result)
