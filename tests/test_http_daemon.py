"""The HTTP port of whole processes: in the daemon, alone, and under an ASGI server."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from daemon_process import Daemon, rules_file
from logclf_daemon.http.app import create_app

LINE = "sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2"


def configuration(folder: Path, rules: object = None, **http: object) -> Path:
    """A configuration that tails `a.log`, on a port the system chooses."""
    path = folder / "config.yaml"
    written = {
        "inputs": [{"type": "files", "paths": [str(folder / "a.log")]}],
        "outputs": [{"type": "jsonl", "path": str(folder / "out")}],
        "model": {"enabled": False},
        "llm": {"enabled": False},
        "http": {"listen": "127.0.0.1:0", **http},
        **({"rules": rules} if rules else {}),
    }
    path.write_text(json.dumps(written))
    return path


def url_of(daemon: Daemon) -> str:
    daemon.wait_for(lambda daemon: "url=http://127.0.0.1:" in daemon.said)
    return daemon.said.split("url=")[1].split()[0]


def test_a_running_daemon_answers_beside_its_traffic_and_stops_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"{LINE}\n" * 5)
    with Daemon("--config", str(configuration(tmp_path))) as daemon:
        url = url_of(daemon)
        daemon.wait_for(lambda _: (tmp_path / "out").exists() and (tmp_path / "out").read_text().count("\n") == 5)

        assert httpx.get(f"{url}/readyz").json()["ready"] is True
        metrics = httpx.get(f"{url}/metrics").text
        status = httpx.get(f"{url}/api/v1/status").json()
        with httpx.stream("GET", f"{url}/api/v1/status"):  # a client that is still there holds nothing up
            assert daemon.stop() == 0

    assert 'logclf_records_delivered_total{input="files.0"} 5.0' in metrics
    assert status["inputs"]["files.0"]["delivered"] == 5
    assert "Traceback" not in daemon.said


def test_what_is_no_http_is_told_in_events_that_nobody_outside_can_multiply(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("")
    with Daemon("--config", str(configuration(tmp_path))) as daemon:
        url = url_of(daemon)
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as line:
                line.sendall(b"\x16\x03\x01 no request\r\n\r\n")
                assert b"400" in line.recv(100)
        metrics = httpx.get(f"{url}/metrics").text
        assert daemon.stop() == 0

    said = [line for line in daemon.said.splitlines() if "Invalid HTTP" in line]
    assert 1 <= len(said) < 10
    assert all("a library met something odd library=uvicorn" in line for line in said)
    assert 'logclf_library_troubles_total{library="uvicorn"} 30.0' in metrics


def test_while_it_drains_it_is_not_ready_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"{LINE}\n")
    config = json.loads(configuration(tmp_path).read_text())
    config["outputs"] = [{"type": "forward", "address": "127.0.0.1:1"}]  # nobody is there
    config["delivery"] = {"drain_secs": 60}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with Daemon("--config", str(tmp_path / "config.yaml")) as daemon:
        url = url_of(daemon)
        daemon.wait_for(lambda daemon: "output unavailable" in daemon.said)
        before = httpx.get(f"{url}/readyz")

        daemon.signal(signal.SIGTERM)
        daemon.wait_for(lambda daemon: "stopping" in daemon.said)
        after = httpx.get(f"{url}/readyz")
        daemon.kill()

    assert before.status_code == 200
    assert after.status_code == 503
    assert after.json()["troubles"] == ["draining: it reads no more and delivers what is under way"]


def test_a_rule_saved_on_the_page_is_one_reload(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("")
    rules = tmp_path / "rules.d"
    rules.mkdir()
    config = configuration(tmp_path, rules={"paths": [str(rules)], "builtin": False})
    with Daemon("--config", str(config)) as daemon:
        url = url_of(daemon)

        rule = {"id": "own-x", "label": "Error", "pattern": "fine words", "example": "fine words"}
        saved = httpx.post(f"{url}/api/v1/rules", json=rule, timeout=60)
        rules_file(rules / "own.yaml")  # a change that only looking finds: what is found before it was found by then
        daemon.wait_for(lambda daemon: daemon.said.count("reloaded") > 1)
        assert daemon.stop() == 0

    assert (saved.status_code, saved.json()["generation"]) == (201, 2)
    assert [line.split("generation=")[1].split()[0] for line in daemon.said.splitlines() if "reloaded" in line] == [
        "2",
        "3",
    ]


def test_a_rule_is_saved_in_the_state_folder_where_no_other_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("")
    config = configuration(tmp_path, rules={"builtin": False})
    kept = tmp_path / "state" / "rules.d" / "review.yaml"
    with Daemon("--config", str(config)) as daemon:
        rule = {"id": "own-x", "label": "Error", "pattern": "fine words", "example": "fine words"}
        saved = httpx.post(f"{url_of(daemon)}/api/v1/rules", json=rule, timeout=60)
        assert daemon.stop() == 0

    assert (saved.status_code, saved.json()) == (201, {"file": str(kept), "generation": 2})
    assert daemon.said.count("reloaded") == 1
    with Daemon("--config", str(config)) as daemon:
        (tmp_path / "a.log").write_text("fine words\n")
        daemon.wait_for(lambda _: (tmp_path / "out").exists() and "own-x" in (tmp_path / "out").read_text())
        kept.write_text(kept.read_text().replace("own-x", "own-y"))  # by hand: seen like any other rule file
        daemon.wait_for(lambda daemon: "reloaded" in daemon.said)
        assert daemon.stop() == 0


def test_a_port_that_needs_a_token_and_has_none_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("")
    with Daemon("--config", str(configuration(tmp_path, listen="0.0.0.0:0"))) as daemon:
        assert daemon.ended() == 78

    assert "set http.token" in daemon.said


def test_the_commands_of_the_page_on_http_get_labels(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = (Path(__file__).parents[1] / "docs" / "http.md").read_text()
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    commands = [line for line in shell.splitlines() if line.startswith("curl ")]
    (tmp_path / "a.log").write_text("")
    (tmp_path / "labels.csv").write_text(f"source,log_message\nauth.log,{LINE}\n")
    (tmp_path / "lines.ndjson").write_text(json.dumps({"source": "auth.log", "log_message": LINE}) + "\n")
    with Daemon("--config", str(configuration(tmp_path))) as daemon:
        url = url_of(daemon)
        for command in commands:
            words = shlex.split(command.replace("http://127.0.0.1:24280", url))
            done = subprocess.run([*words, "-sS", "--fail"], cwd=tmp_path, capture_output=True, timeout=60, check=False)

            saved = (tmp_path / "labelled.csv").read_bytes() if "-o" in words else b""
            assert (done.returncode, b"Security Alert" in done.stdout + saved) == (0, True), (
                f"{command}\n{done.stderr!r}"
            )
        assert daemon.stop() == 0

    assert len(commands) >= 4


def test_an_asgi_server_makes_the_app_by_its_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (rules := tmp_path / "rules").mkdir()
    monkeypatch.setenv("LOGCLF_CONFIG", str(configuration(tmp_path, {"paths": [str(rules)]})))

    async def scenario() -> None:
        app = create_app()
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            answer = await client.post("/api/v1/classify", json={"records": [{"log_message": LINE}]})
            assert answer.json()["records"][0]["label"] == "Security Alert"

            rules_file(rules / "own.yaml", "Workflow Error")
            async with asyncio.timeout(60):
                label = None
                while label != "Workflow Error":  # it follows what is saved
                    answer = await client.post("/api/v1/classify", json={"records": [{"log_message": "boom"}]})
                    label = answer.json()["records"][0]["label"]
                    await asyncio.sleep(0.2)

    asyncio.run(scenario())
