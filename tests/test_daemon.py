"""The main job, end to end: the installed daemon as a process, real files, real sockets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner

from daemon_process import Daemon, command, rules_file
from forward_sink import ForwardSink
from logclf_daemon.cli import main
from model_doubles import LABELS, tiny_model
from ollama_double import OllamaDouble, captured, chat

pytestmark = pytest.mark.timeout(120)  # for a busy machine; none takes ten seconds on a quiet one
RESOURCES = Path(__file__).parents[1] / "resources"
QUIET = ("--no-llm",)


def logs(sink: ForwardSink) -> list[bytes]:
    return [record[b"log"] for _, record in sink.once()]


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_file_is_watched_labelled_and_delivered_and_a_restart_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log = tmp_path / "auth.log"
    with ForwardSink() as sink:
        arguments = ("--tail", str(tmp_path / "*.log"), "--to", f"forward://{sink.address}", *QUIET)
        with Daemon(*arguments) as daemon:
            daemon.ready()
            append(log, "sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2", "one")
            sink.records(2)
            append(log, "two")
            records = sink.records(3)
            assert daemon.stop() == 0

        append(log, "written while it was away")
        with Daemon(*arguments) as daemon:
            sink.records(4)
            append(log, "three")
            sink.records(5)
            assert daemon.stop() == 0

        tag, first = records[0]
        assert first[b"logclf"][b"label"] == b"Security Alert"
        assert first[b"logclf"][b"stage"] == b"rules"
        assert first[b"file"] == str(log).encode()
        assert tag
        assert [record[b"log"] for _, record in sink.entries][1:] == [
            b"one",
            b"two",
            b"written while it was away",
            b"three",
        ]


def test_a_first_start_is_ready_before_the_rules_are_compiled(tmp_path: Path) -> None:
    """It answers the same before and after, and keeps what it compiled for the next start."""
    (cache := tmp_path / "cache").mkdir(mode=0o700)
    log, line = tmp_path / "auth.log", "sshd[{}]: Failed password for root from 10.0.0.9 port 22 ssh2"
    arguments = ("--tail", str(log), "--state-dir", str(tmp_path / "state"), "--to", "-", *QUIET)
    append(log, line.format(1))
    with Daemon(*arguments, environment={"CACHE_DIRECTORY": str(cache)}) as daemon:
        daemon.ready()
        kept_then = len(list(cache.glob("*.hsdb")))
        daemon.wait_for(lambda daemon: len(daemon.lines) == 1)
        daemon.wait_for(lambda _: len(list(cache.glob("*.hsdb"))) == 2)
        append(log, f"{line.format(2)} again", "one more of another kind")
        daemon.wait_for(lambda daemon: len(daemon.lines) == 3)
        assert daemon.stop() == 0
        verdicts = [json.loads(printed)["logclf"] for printed in daemon.lines]

    assert kept_then < 2
    assert [verdict["stage"] for verdict in verdicts[:2]] == ["rules", "rules"]
    assert verdicts[0]["rule"] == verdicts[1]["rule"]


def test_rotation_and_truncation_lose_nothing(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, "one", "two")
    with ForwardSink() as sink, Daemon("--tail", str(log), "--to", f"forward://{sink.address}", *QUIET) as daemon:
        sink.records(2)
        log.rename(tmp_path / "app.log.1")
        append(tmp_path / "app.log.1", "late line for the old file")
        append(log, "three")
        sink.records(4)
        log.write_text("")
        append(log, "four")
        sink.records(5)
        assert daemon.stop() == 0

        assert sorted(logs(sink)) == sorted([b"one", b"two", b"late line for the old file", b"three", b"four"])


def test_forward_in_forward_out_acknowledges_only_after_the_sink_has(tmp_path: Path) -> None:
    port = free_port()
    with (
        ForwardSink(["none", "ack"]) as sink,
        Daemon("--forward", f"127.0.0.1:{port}", "--to", f"forward://{sink.address}", *QUIET) as daemon,
        socket.create_connection(("127.0.0.1", daemon.ready(port)), timeout=20) as peer,
    ):
        peer.sendall(msgpack.packb(["app.web", [[7, {"log": "boom"}], [8, {"log": "x", "n": 1}]], {"chunk": "c1"}]))
        sink.wait_for(lambda sink: len(sink.messages) == 1)
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(100)
        daemon.kill()

    assert [record[b"log"] for _, record in sink.once()] == [b"boom", b"x"]


def test_forward_in_forward_out(tmp_path: Path) -> None:
    port = free_port()
    with (
        ForwardSink() as sink,
        Daemon("--forward", f"127.0.0.1:{port}", "--to", f"forward://{sink.address}", *QUIET) as daemon,
        socket.create_connection(("127.0.0.1", daemon.ready(port)), timeout=20) as peer,
    ):
        for number in range(5):
            entries = [[msgpack.ExtType(0, b"\0" * 8), {"log": f"line {number}.{line}"}] for line in range(100)]
            peer.sendall(msgpack.packb(["app.web", entries, {"chunk": f"c{number}", "size": 100}]))
            assert msgpack.unpackb(peer.recv(1000)) == {"ack": f"c{number}"}
            assert len(logs(sink)) == 100 * (number + 1)
        assert daemon.stop() == 0

    assert logs(sink) == [f"line {number}.{line}".encode() for number in range(5) for line in range(100)]
    assert {tag for tag, _ in sink.entries} == {b"app.web"}


def test_an_output_that_was_away_gets_everything(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "app.log"
    append(log, *(f"line {number}" for number in range(1000)))
    with Daemon("--tail", str(log), "--to", f"forward://127.0.0.1:{port}", *QUIET) as daemon:
        daemon.wait_for(lambda daemon: "output unavailable" in daemon.said)
        with ForwardSink(port=port) as sink:
            sink.records(1000)
            assert daemon.stop() == 0
            assert logs(sink) == [f"line {number}".encode() for number in range(1000)]


def test_a_kill_loses_nothing_and_repeats_only_under_the_same_id(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    append(log, *(f"line {number}" for number in range(3000)))
    with ForwardSink(["ack", "none"]) as sink:
        arguments = ("--tail", str(log), "--to", f"forward://{sink.address}", *QUIET)
        with Daemon(*arguments) as daemon:
            sink.wait_for(lambda sink: len(sink.messages) >= 2)
            daemon.kill()
        with Daemon(*arguments) as daemon:
            daemon.ready()
            sink.wait_for(lambda sink: len(logs(sink)) >= 3000)
            assert daemon.stop() == 0

    assert sorted(logs(sink)) == sorted(f"line {number}".encode() for number in range(3000))


def test_a_saved_rule_is_in_force_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    rules, log = tmp_path / "own.yaml", tmp_path / "app.log"
    rules_file(rules, "Critical Error")
    log.touch()

    def label_of_the_next(daemon: Daemon, line: str) -> tuple[str, int]:
        before = len(daemon.lines)
        append(log, line)
        daemon.wait_for(lambda daemon: len(daemon.lines) > before)
        verdict = json.loads(daemon.lines[-1])["logclf"]
        return verdict["label"], verdict["generation"]

    with Daemon("--tail", str(log), "--rules", str(tmp_path / "own.yaml"), *QUIET) as daemon:
        daemon.ready()
        assert label_of_the_next(daemon, "boom 1") == ("Critical Error", 1)

        rules_file(rules, "User Action")
        daemon.wait_for(lambda daemon: "reloaded" in daemon.said)
        assert label_of_the_next(daemon, "boom 2") == ("User Action", 2)

        rules_file(rules, "User Action", "(?<=x)boom")
        daemon.wait_for(lambda daemon: "reload refused" in daemon.said)
        assert "own.yaml:3: own-boom: pattern: look-behind (?<= is not supported" in daemon.said
        assert label_of_the_next(daemon, "boom 3") == ("User Action", 2)

        rules_file(rules, "Workflow Error")
        daemon.wait_for(lambda daemon: daemon.said.count("reloaded") == 2)
        assert label_of_the_next(daemon, "boom 4") == ("Workflow Error", 3)
        assert daemon.stop() == 0


def test_a_new_model_folder_is_in_force_and_a_damaged_one_changes_nothing(tmp_path: Path) -> None:
    log, model, config = tmp_path / "app.log", tmp_path / "model", tmp_path / "config.yaml"
    log.touch()
    tiny_model(model)
    config.write_text(
        f"inputs: [{{type: files, paths: ['{log}']}}]\noutputs: [{{type: jsonl}}]\nllm: {{enabled: false}}\n"
        f"rules: {{builtin: false}}\nmodel: {{path: {model}}}\n"
    )

    def label_of_the_next(daemon: Daemon, line: str) -> tuple[str, str]:
        before = len(daemon.lines)
        append(log, line)
        daemon.wait_for(lambda daemon: len(daemon.lines) > before)
        verdict = json.loads(daemon.lines[-1])["logclf"]
        return verdict["label"], verdict["stage"]

    with Daemon("--config", str(config)) as daemon:
        daemon.ready()
        assert label_of_the_next(daemon, "failed") == ("Error", "model")

        (model / "head.npz").write_bytes(b"half a file")
        daemon.wait_for(lambda daemon: "head.npz: damaged or changed" in daemon.said)
        assert label_of_the_next(daemon, "failed failed") == ("Error", "model")

        tiny_model(tmp_path / "fresh", labels=LABELS[::-1])
        model.rename(tmp_path / "old")
        (tmp_path / "fresh").rename(model)
        daemon.wait_for(lambda daemon: "reloaded" in daemon.said)
        assert label_of_the_next(daemon, "failed") == ("System Notification", "model")
        assert daemon.stop() == 0


def test_hangup_reads_the_configuration_again(tmp_path: Path) -> None:
    config, log = tmp_path / "config.yaml", tmp_path / "app.log"
    log.touch()
    text = f"inputs: [{{type: files, paths: ['{log}']}}]\noutputs: [{{type: jsonl}}]\n"
    text += "llm: {enabled: false}\nmodel: {enabled: false}\n"
    config.write_text(text)
    with Daemon("--config", str(config)) as daemon:
        daemon.ready()
        config.write_text(text + "labels: {Fire: it burns, Water: it is wet}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda daemon: "reloaded" in daemon.said)

        config.write_text(text + "modle: {}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda daemon: "reload refused" in daemon.said)
        assert "did you mean 'model'" in daemon.said

        config.write_text(text.replace("jsonl", "jsonl, path: /tmp/x"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda daemon: "restart the service for that" in daemon.said)
        assert daemon.stop() == 0


def holds_hangups(daemon: Daemon) -> bool:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    return bool(blocked & 1 << signal.SIGHUP - 1)


@pytest.mark.parametrize("command", [("run", "--tail", "/nowhere/*.log"), ("serve", "--listen", "127.0.0.1:0")])
def test_a_hangup_during_the_start_is_answered_after_it(tmp_path: Path, command: tuple[str, ...]) -> None:
    does, *arguments = command
    with Daemon(*arguments, "--state-dir", str(tmp_path), *QUIET, does=does) as daemon:
        daemon.wait_for(holds_hangups)
        assert not daemon.said
        daemon.signal(signal.SIGHUP)

        daemon.wait_for(lambda daemon: "reloaded generation=2" in daemon.said)
        assert daemon.stop() == 0


def test_a_hangup_during_the_end_changes_nothing(tmp_path: Path) -> None:
    with Daemon("--tail", str(tmp_path / "*.log"), "--state-dir", str(tmp_path), *QUIET) as daemon:
        daemon.ready()
        daemon.signal(signal.SIGTERM)
        while daemon.alive:
            daemon.signal(signal.SIGHUP)  # far more than the pipe of the loop holds

        assert daemon.ended() == 0


def test_the_llm_is_asked_once_a_template_and_its_answer_survives_a_restart(tmp_path: Path) -> None:
    log, config = tmp_path / "app.log", tmp_path / "config.yaml"
    log.touch()
    with OllamaDouble(lambda _: chat("Workflow Error")) as server:
        config.write_text(
            f"inputs: [{{type: files, paths: ['{log}']}}]\noutputs: [{{type: jsonl}}]\n"
            f"model: {{enabled: false}}\nrules: {{builtin: false}}\nllm: {{url: '{server.url}'}}\n"
        )
        for start in (0, 10):
            with Daemon("--config", str(config)) as daemon:
                daemon.ready()
                append(log, *(f"frobnicator stalled {number}" for number in range(start, start + 10)))
                daemon.wait_for(lambda daemon: len(daemon.lines) == 10)
                rows = [json.loads(line) for line in daemon.lines]
                assert {row["logclf"]["label"] for row in rows} == {"Workflow Error"}
                assert {row["logclf"]["stage"] for row in rows} == {"llm"}
                assert daemon.stop() == 0

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason", "state"),
    [
        (captured("err_model_missing_chat"), "llm_unavailable", "model_missing"),
        (captured("queue_full_503"), "llm_unavailable", "failing"),
        (captured("chat_schema_truncated"), "low_confidence", "ready"),
    ],
)
def test_a_failing_llm_holds_nothing_back(tmp_path: Path, answer: tuple[int, bytes], reason: str, state: str) -> None:
    log, config = tmp_path / "app.log", tmp_path / "config.yaml"
    append(log, "frobnicator stalled 1", "frobnicator stalled 2")
    with OllamaDouble(lambda _: answer) as server:
        config.write_text(
            f"inputs: [{{type: files, paths: ['{log}']}}]\noutputs: [{{type: jsonl}}]\n"
            f"model: {{enabled: false}}\nllm: {{url: '{server.url}', model: 'nope:latest'}}\n"
            f"state: {{directory: '{tmp_path / 'state'}'}}\n"
        )
        with Daemon("--config", str(config)) as daemon:
            daemon.wait_for(lambda daemon: len(daemon.lines) == 2)
            status = CliRunner().invoke(main, ["ctl", "status", "--config", str(config)])
            assert f"nope:latest: {state}, breaker " in status.stdout
            assert ("breaker closed" in status.stdout) == (state == "ready")  # else open, or half_open by now
            assert {json.loads(line)["logclf"]["reason"] for line in daemon.lines} == {reason}
            if answer[0] == 404:
                daemon.wait_for(lambda daemon: "ollama pull nope:latest" in daemon.said)
            assert daemon.stop() == 0


def test_a_hanging_llm_holds_back_only_the_lines_that_need_it(tmp_path: Path) -> None:
    log, config = tmp_path / "app.log", tmp_path / "config.yaml"
    with OllamaDouble(lambda _: chat("Error")) as server:
        server.hang.clear()
        config.write_text(
            f"inputs: [{{type: files, paths: ['{log}']}}]\noutputs: [{{type: jsonl}}]\n"
            f"model: {{enabled: false}}\nllm: {{url: '{server.url}', wait_secs: 1}}\n"
        )
        with Daemon("--config", str(config)) as daemon:
            daemon.ready()
            append(log, "frobnicator stalled 1", "sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2")
            daemon.wait_for(lambda daemon: len(daemon.lines) == 2)
            rows = [json.loads(line) for line in daemon.lines]
            assert [row["logclf"]["stage"] for row in rows] == ["rules", "none"]
            assert rows[1]["logclf"]["reason"] == "llm_timeout"
            server.hang.set()
            daemon.wait_for(lambda daemon: "state=ready" in daemon.said)
            append(log, "frobnicator stalled 3")
            daemon.wait_for(lambda daemon: len(daemon.lines) == 3)
            assert json.loads(daemon.lines[2])["logclf"]["label"] == "Error"
            assert daemon.stop() == 0


def test_the_sample_log_flows_through(tmp_path: Path) -> None:
    sample = RESOURCES / "auth.log"
    with Daemon("--tail", str(sample), "--once", *QUIET) as daemon:
        assert daemon.ended() == 0
        rows = [json.loads(line) for line in daemon.lines]

    assert [row["log"].encode() for row in rows] == sample.read_bytes().splitlines()
    assert {"rules", "model"} <= {row["logclf"]["stage"] for row in rows}


def control(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "logclf_daemon", "ctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_running_daemon_tells_its_state_and_reloads_on_request(tmp_path: Path) -> None:
    rules, log = tmp_path / "own.yaml", tmp_path / "app.log"
    rules_file(rules)
    append(log, "one", "two")
    state = ("--state-dir", str(tmp_path / "st"))
    with Daemon("--tail", str(log), "--rules", str(rules), *state, *QUIET) as daemon:
        daemon.ready()
        daemon.wait_for(lambda daemon: len(daemon.lines) == 2)

        told = json.loads(control("status", "--json", *state).stdout)
        assert told["inputs"]["files.0"]["read"] == 2
        assert told["outputs"]["jsonl.0"]["written"] == 2
        assert told["state"]["offsets"] == "kept"
        shown = control("status", *state).stdout
        assert "generation 1" in shown
        assert "ready   yes" in shown
        assert "read 2, " in shown

        done = control("reload", *state)
        assert (done.returncode, "generation 2" in done.stdout) == (0, True)

        rules_file(rules, "No Such Label")
        refused = control("reload", *state)
        assert refused.returncode == 1
        assert "'No Such Label' is not a label" in refused.stderr
        assert "note    reload refused, generation 2 stays: " in control("status", *state).stdout
        assert daemon.stop() == 0

    gone = control("status", *state)
    assert gone.returncode == 69
    assert "no daemon answers" in gone.stderr


@pytest.mark.parametrize("to", ["a file", "standard output"])
def test_an_output_that_the_patterns_match_does_not_feed_itself(tmp_path: Path, to: str) -> None:
    out = tmp_path / "classified.log"
    append(tmp_path / "app.log", "one", "two")
    watched = ["--tail", str(tmp_path / "*.log"), "--state-dir", str(tmp_path / "state"), *QUIET, "--no-model"]
    target = ["--to", str(out)] if to == "a file" else []

    for _ in range(2):
        with out.open("ab") as standard_output:
            done = subprocess.run(
                [*command(), "run", "--once", *watched, *target],
                stdout=standard_output,
                stderr=subprocess.PIPE,
                timeout=60,
                check=True,
            )

    assert [json.loads(line)["log"] for line in out.read_text().splitlines()] == ["one", "two"]
    assert b"is what this daemon writes" in done.stderr


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "words"),
    [
        ("2>&-", ("--tail", "{folder}/app.log", "--to", "{folder}/out"), 0, ""),
        (">&-", ("--tail", "{folder}/app.log", "--to", "{folder}/out"), 0, "stopped delivered=1"),
        (">&-", ("--tail", "{folder}/app.log"), 78, "standard output is closed; connect it or name a file"),
        ("<&-", ("--stdin", "--to", "{folder}/out"), 78, "stdin: is closed"),
        ("0>{folder}/out", ("--stdin", "--to", "{folder}/out"), 69, "stdin: cannot be read: Bad file descriptor"),
    ],
)
def test_a_standard_stream_that_is_closed_or_wrong_is_told_if_it_is_needed(
    tmp_path: Path, closed: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    append(tmp_path / "app.log", "one")
    options = [*QUIET, "--no-model", "--once", "--state-dir", str(tmp_path / "state")]
    options += [argument.format(folder=tmp_path) for argument in arguments]

    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed.format(folder=tmp_path)}', "sh", *command(), "run", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, words in done.stderr, "a bug of ours" in done.stderr) == (code, True, False), done.stderr
    if code == 0:
        assert json.loads((tmp_path / "out").read_text())["log"] == "one"
