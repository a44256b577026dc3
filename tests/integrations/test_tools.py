"""The examples of integrations/, checked and run by the tools they are for, as far as registries have these."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml

from daemon_process import command
from logclf_daemon.config import load_config
from logclf_daemon.enrichment import DEFAULT_MEANINGS, SEVERITIES, Category, EventKind, EventType

pytestmark = [pytest.mark.integrations, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2] / "integrations"
TOOLS = Path(os.environ.get("LOGCLF_TOOLS_DIR", "/nonexistent"))


@pytest.fixture
def tool(needs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`needs`, that also looks where `install` puts things."""
    places = [TOOLS / "venv" / "bin", TOOLS / "syslog-ng" / "usr" / "sbin", Path("/usr/sbin")]
    monkeypatch.setenv("PATH", ":".join([*map(str, places), os.environ["PATH"]]))
    return needs


@pytest.fixture
def node(tool: Callable[[str], str]) -> Callable[..., str]:
    """Runs Node.js beside the packages that `install` puts there."""
    program = tool("node")
    if not (TOOLS / "node").is_dir():
        pytest.skip("the packages of npm are not installed: tests/integrations/install")
    return lambda *arguments: run(program, *arguments, folder=TOOLS / "node")


def run(*arguments: str, folder: Path = ROOT, said: str = "") -> str:
    """What the program printed, if it was content."""
    done = subprocess.run(
        arguments, cwd=folder, input=said, capture_output=True, text=True, timeout=150, check=False, errors="replace"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_rsyslog_accepts_its_configuration(tool: Callable[[str], str]) -> None:
    run(tool("rsyslogd"), "-N1", "-f", "rsyslog/60-logclf.conf")


def test_rsyslog_writes_what_the_daemon_labels(tool: Callable[[str], str], tmp_path: Path) -> None:
    port = free_port()
    example = (ROOT / "rsyslog" / "60-logclf.conf").read_text()
    example = example.replace("/var/log/logclf", str(tmp_path)).replace('fileGroup="adm" dirGroup="adm"', "")
    (tmp_path / "rsyslog.conf").write_text(
        f'module(load="imptcp")\ninput(type="imptcp" address="127.0.0.1" port="{port}")\n{example}'
    )
    arguments = ["-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")]
    written = tmp_path / "all.log"

    with subprocess.Popen([tool("rsyslogd"), *arguments], stderr=subprocess.DEVNULL) as rsyslogd:
        try:
            until(lambda: accepts(port))
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(
                    b"<38>Nov 28 12:00:00 web1 sshd[71]: Failed password for root from 203.0.113.9 port 22 ssh2\n"
                )
                peer.sendall(b"<30>Nov 28 12:00:00 web1 logclf-daemon[5]: of the daemon itself\n")
                peer.sendall(b"<30>Nov 28 12:00:00 web1 app[5]: the last\n")
            until(lambda: written.exists() and b"the last" in written.read_bytes())
        finally:
            rsyslogd.terminate()
    found = run(*command(), "run", "--tail", str(written), "--once", "--no-llm", folder=tmp_path)

    rows = [json.loads(line) for line in found.splitlines()]
    assert [row["log"].split(" ", 2)[2] for row in rows] == [
        "sshd[71]: Failed password for root from 203.0.113.9 port 22 ssh2",
        "app[5]: the last",
    ]
    assert rows[0]["logclf"]["label"] == "Security Alert"


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds; fails at the deadline."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def test_syslog_ng_accepts_its_configuration(
    tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(tool("syslog-ng"))
    (modules,) = list(program.parents[2].glob("usr/lib/syslog-ng/*/libaffile.so"))[:1]
    monkeypatch.setenv("LD_LIBRARY_PATH", str(modules.parent.parent))
    version = modules.parent.name
    whole = tmp_path / "whole.conf"
    whole.write_text(
        f"@version: {version}\nsource s_src {{ internal(); }};\n" + (ROOT / "syslog-ng" / "logclf.conf").read_text()
    )

    run(str(program), "--syntax-only", "--module-path", str(modules.parent), "-f", str(whole))


def test_hadolint_finds_nothing_in_the_dockerfile(tool: Callable[[str], str]) -> None:
    run(tool("hadolint"), "docker/Dockerfile")


def test_compose_is_as_its_specification_wants(tool: Callable[[str], str]) -> None:
    tool("hadolint")  # of the same environment
    check = (
        "import sys, yaml; from compose_spec.models import ComposeSpecification;"
        "ComposeSpecification.model_validate(yaml.safe_load(sys.stdin))"
    )

    run(str(TOOLS / "venv" / "bin" / "python"), "-c", check, said=(ROOT / "docker" / "compose.yaml").read_text())


def test_ecs_allows_what_labels_become(node: Callable[..., str]) -> None:
    """The schema as Elastic publishes it: each value, and each type only where its category expects it."""
    show = "process.stdout.write(JSON.stringify(require('@elastic/ecs').EcsFlat))"
    schema = json.loads(node("-e", show))
    allowed = {
        name: {value["name"]: value.get("expected_event_types") for value in schema[f"event.{name}"]["allowed_values"]}
        for name in ("kind", "category", "type")
    }

    for meaning in DEFAULT_MEANINGS.values():
        assert meaning.kind in allowed["kind"]
        assert set(meaning.type) <= set(allowed["type"])
        for category in meaning.category:
            assert set(meaning.type) <= set(allowed["category"][category])
    assert set(get_args(Category)) == set(allowed["category"])
    assert set(get_args(EventType)) == set(allowed["type"])
    assert set(get_args(EventKind)) == set(allowed["kind"]) - {"signal", "pipeline_error"}  # reserved
    assert "log.level" in schema


def test_severities_are_the_numbers_of_opentelemetry(node: Callable[..., str]) -> None:
    show = "process.stdout.write(JSON.stringify(require('@opentelemetry/api-logs').SeverityNumber))"
    numbers = json.loads(node("-e", show))

    assert all(numbers[text] == number for number, text in SEVERITIES.values())


def test_both_stores_know_every_name_in_what_they_are_sent(node: Callable[..., str]) -> None:
    """By the types of their own clients, in which an unknown name is an error."""
    types = TOOLS / "node" / "check.ts"
    pipeline, template = (
        (ROOT / "elasticsearch" / name).read_text() for name in ("ingest-pipeline.json", "index-template.json")
    )
    types.write_text(
        'import { estypes } from "@elastic/elasticsearch";\nimport { API } from "@opensearch-project/opensearch";\n'
        f'export const a: Omit<estypes.IngestPutPipelineRequest, "id"> = {pipeline};\n'
        f'export const b: Omit<estypes.IndicesPutIndexTemplateRequest, "name"> = {template};\n'
        f"export const c: API.Ingest_PutPipeline_RequestBody = {pipeline};\n"
        f"export const d: API.Indices_PutIndexTemplate_RequestBody = {template};\n"
    )
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]

    node("node_modules/typescript/bin/tsc", *options, types.name)


def test_kubernetes_would_take_the_manifests(tool: Callable[[str], str]) -> None:
    run(tool("kubernetes-validate"), "--strict", "kubernetes/daemonset.yaml", "kubernetes/sidecar.yaml")


@pytest.mark.parametrize("secrets", [[], ["forward"]])
def test_kubernetes_would_take_what_the_chart_renders(
    tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets: list[str]
) -> None:
    monkeypatch.setenv("GOCACHE", str(tmp_path / "go"))
    monkeypatch.setenv("GO111MODULE", "off")
    values = {**yaml.safe_load((ROOT / "kubernetes/chart/values.yaml").read_text()), "secrets": secrets}
    templates = sorted(map(str, (ROOT / "kubernetes" / "chart" / "templates").iterdir()))

    rendered = run(tool("go"), "run", str(Path(__file__).parent / "render.go"), *templates, said=json.dumps(values))
    (tmp_path / "rendered.yaml").write_text(rendered)
    config_map, daemon_set = yaml.safe_load_all(rendered)
    (tmp_path / "config.yaml").write_text(config_map["data"]["config.yaml"])

    run(tool("kubernetes-validate"), "--strict", str(tmp_path / "rendered.yaml"))
    assert load_config(tmp_path / "config.yaml").inputs
    assert len(daemon_set["spec"]["template"]["spec"]["containers"][0].get("envFrom", [])) == len(secrets)


def test_ansible_accepts_the_playbook(tool: Callable[[str], str]) -> None:
    run(tool("ansible-playbook"), "--syntax-check", "-i", "localhost,", "playbook.yaml", folder=ROOT / "ansible")


def test_ansible_lint_finds_nothing(
    tool: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "home"))

    run(tool("ansible-lint"), "--offline", "--nocolor", folder=ROOT / "ansible")
