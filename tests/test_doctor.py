"""The doctor: each finding says what to do, and the exit code whether the daemon could work."""

from __future__ import annotations

import grp
import os
import socket
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon_process import Daemon
from logclf_daemon.cli import main
from logclf_daemon.cli.doctor import _readable

QUIET = "model: {enabled: false}\nrules: {builtin: false}\nllm: {enabled: false}\n"


def examined(tmp_path: Path, text: str) -> tuple[int, str]:
    (tmp_path / "c.yaml").write_text(text)
    done = CliRunner().invoke(main, ["doctor", "-c", str(tmp_path / "c.yaml")], catch_exceptions=False)
    return done.exit_code, done.output


def test_a_port_that_another_program_has_is_a_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, said = examined(tmp_path, f"inputs: [{{type: forward, listen: '127.0.0.1:{port}'}}]\n{QUIET}")

    assert (code, f"FAIL  port 127.0.0.1:{port}" in said, f"ss -ltnp 'sport = :{port}'" in said) == (1, True, True)


def test_a_port_that_the_running_daemon_has_is_none(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = f"inputs: [{{type: forward, listen: '127.0.0.1:{port}'}}]\n{QUIET}state: {{directory: {tmp_path}/st}}\n"
    (tmp_path / "c.yaml").write_text(text)

    with Daemon("--config", str(tmp_path / "c.yaml")) as daemon:
        daemon.ready()
        code, said = examined(tmp_path, text)
        assert daemon.stop() == 0

    assert (code, f"ok    port 127.0.0.1:{port}: in use by the daemon that runs" in said) == (0, True)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("modle: {}\n", 78, "did you mean 'model'?"),
        (QUIET.replace("llm: {enabled: false}", "llm: {enabled: true, url: 'http://127.0.0.1:1'}"), 1, "ollama serve"),
        (
            QUIET.replace("enabled: false}\nrules", "path: /no/model}\nrules"),
            1,
            "model.path: /no/model: no such model folder",
        ),
        (QUIET + "state: {directory: /proc/none}\n", 1, "FAIL  state"),
        (QUIET + "inputs: [{type: files, paths: [/no/such/*.log]}]\n", 0, "is the path right?"),
        (
            QUIET.replace("llm: {enabled: false}", "llm: {enabled: true, url: 'http://me:s3cret@127.0.0.1:1'}"),
            1,
            "nothing answers at http://…@127.0.0.1:1",
        ),
        (QUIET + "http: {listen: abc}\n", 1, "c.yaml:4: http.listen: 'abc' is no address; write host:port"),
        (QUIET + "outputs: [{type: jsonl, path: /no/such/out}]\n", 1, "output /no/such/out: /no/such is not there"),
        (
            QUIET + "outputs: [{type: forward, address: '127.0.0.1:1'}]\n",
            0,
            "warn  output 127.0.0.1:1: nothing answers",
        ),
        (
            QUIET + "outputs: [{type: forward, address: 'forward+unix:///no/s'}]\n",
            0,
            "warn  output unix:///no/s: nothing",
        ),
        (
            QUIET + "outputs: [{type: forward, address: '127.0.0.1:1', tls: {ca: /no/ca.pem}}]\n",
            1,
            "c.yaml:4: outputs.0.tls.ca: /no/ca.pem cannot be read: No such file or directory; correct the path",
        ),
    ],
)
def test_it_says_what_is_wrong_and_what_to_do(tmp_path: Path, text: str, code: int, words: str) -> None:
    if "inputs" not in text:
        text += "inputs: [{type: stdin}]\n"

    found, said = examined(tmp_path, text)

    assert words in said
    assert "s3cret" not in said
    assert found == code


@pytest.mark.parametrize(
    ("of_folder", "of_file", "readable"),
    [
        (0o755, 0o644, True),
        (0o711, 0o640, True),
        (0o750, 0o640, True),
        (0o700, 0o640, False),
        (0o740, 0o644, False),
        (0o755, 0o600, False),
    ],
)
def test_for_the_service_a_file_is_readable_where_each_folder_on_the_way_is_open_to_its_group(
    monkeypatch: pytest.MonkeyPatch, of_folder: int, of_file: int, readable: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("logclf_daemon.cli.doctor._installed", lambda: True)
    monkeypatch.setattr("logclf_daemon.cli.doctor.READERS", grp.getgrgid(os.getgid()).gr_name)
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        top = Path(place)
        top.chmod(0o755)
        log = top / "deep" / "er" / "a.log"
        log.parent.mkdir(parents=True)
        log.touch()
        log.chmod(of_file)
        (top / "deep").chmod(of_folder)
        (top / "link.log").symlink_to(log)

        try:
            assert (_readable(log), _readable(top / "link.log")) == (readable, readable)
        finally:
            (top / "deep").chmod(0o755)
