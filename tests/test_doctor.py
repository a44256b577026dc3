"""The doctor: each finding says what to do, and the exit code whether the daemon could work."""

from __future__ import annotations

import grp
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon_process import Daemon
from logclf_daemon.cli import main
from logclf_daemon.cli.doctor import Finding, _amount, _looked, _readable
from logclf_daemon.resources import folder

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


def test_an_llm_that_must_be_there_is_not_called_optional(tmp_path: Path) -> None:
    must = QUIET.replace("llm: {enabled: false}", "llm: {enabled: true, url: 'http://127.0.0.1:1'}")

    code, said = examined(tmp_path, must + "inputs: [{type: stdin}]\n")

    assert (code, "fine without" in said) == (1, False)
    assert "-> start it (ollama serve), or say llm.enabled: auto or false" in said


def test_a_server_that_is_no_ollama_is_not_called_absent(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers 501 to everything
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        llm = f"llm: {{url: '{url}'}}"

        _, said = examined(tmp_path, QUIET.replace("llm: {enabled: false}", llm) + "inputs: [{type: stdin}]\n")
        server.shutdown()

    assert "nothing answers" not in said
    assert f"warn  Ollama: {url} answers 501 for its list of models: is it an Ollama server?" in said


def test_which_of_the_usual_log_files_there_are_is_no_reason_to_warn(tmp_path: Path) -> None:
    shipped = (folder("systemd") / "config.yaml").read_text()
    usual = set(re.findall(r'"(/var/log/[^"*]+)"', shipped.split("outputs:")[0]))

    _, said = examined(tmp_path, f"inputs: [{{type: files, paths: {sorted(usual)}}}]\n{QUIET}")

    assert len(usual) == 3
    for path in usual:
        if not Path(path).exists():
            assert f"ok    files {path}: none on this host" in said


def test_room_is_told_in_a_unit_that_fits() -> None:
    assert [_amount(count) for count in (870 << 20, 3 << 29, 40 << 20)] == ["870 MiB", "1.5 GiB", "40 MiB"]


def test_labels_of_ones_own_leave_what_ships_unused_and_it_says_so(tmp_path: Path) -> None:
    code, said = examined(tmp_path, "labels: {Apfel: a, Birne: b}\nllm: {enabled: false}\ninputs: [{type: stdin}]\n")

    assert code == 0
    assert "warn  rules: 0 of them are shipped; the others that ship are for labels you replaced" in said
    assert "warn  model: the shipped one does not know your labels and is not used" in said
    assert "logclf-train fit" in said


def test_what_this_user_may_not_look_at_is_a_finding_and_no_bug() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("ok", "first")
        raise PermissionError(13, "Permission denied", "/var/log/logclf-daemon")

    assert list(_looked(check)) == [
        Finding("ok", "first"),
        Finding(
            "warn",
            "/var/log/logclf-daemon: closed to this user; nothing is known of it",
            "sudo logclf-daemon doctor",
        ),
    ]


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
    monkeypatch.setattr("logclf_daemon.cli.doctor.installed", lambda: True)
    groups = frozenset({"adm", grp.getgrgid(os.getgid()).gr_name})
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
            assert (_readable(log, groups), _readable(top / "link.log", groups)) == (readable, readable)
        finally:
            (top / "deep").chmod(0o755)
