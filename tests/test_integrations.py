"""What stands in integrations/: every configuration is read, and what belongs together agrees.

The tools that CI can install check and run theirs in `tests/integrations`.
"""

from __future__ import annotations

import asyncio
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from msgspec import Raw

from logclf_daemon.build import build_parts, cascade_of, close
from logclf_daemon.cli import main
from logclf_daemon.codec import raw_str
from logclf_daemon.config import Config, load_config
from logclf_daemon.enrichment import Enrichment
from logclf_daemon.outputs._jsonl.text import JsonText
from logclf_daemon.record import Batch, Record
from logclf_daemon.stages.llm import LlmOptions
from logclf_daemon.taxonomy import DEFAULT_LABELS

ROOT = Path(__file__).parents[1] / "integrations"
OTHERS = {"prometheus", "grafana"}  # with tests of their own
FOLDERS = sorted(path for path in ROOT.iterdir() if path.is_dir() and path.name not in OTHERS)
CONFIGS = sorted(path for path in ROOT.rglob("config*.yaml") if "templates" not in path.parts)
FLUENT_BIT = sorted(ROOT.rglob("fluent-bit*.conf"))


def document(*names: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*names).read_text())


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    """The sections of a classic Fluent Bit configuration."""
    found = re.findall(r"\[(\w+)\]\n((?: {4}\S+ +\S.*\n)+)", text)
    return [(name, dict(line.split(None, 1) for line in body.splitlines())) for name, body in found]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_readme_is_read_in_a_minute_and_says_what_is_tested(folder: Path) -> None:
    text = (folder / "README.md").read_text()

    assert len(text.split()) < 500
    assert re.search(r"\bCI\b|Tested", text)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_daemon_accepts_the_configuration(path: Path) -> None:
    assert load_config(path).inputs


@pytest.mark.parametrize("path", FLUENT_BIT, ids=lambda path: "/".join(path.parts[-2:]))
def test_fluent_bit_waits_for_acknowledgements_and_never_gives_up(path: Path) -> None:
    """Names as in Fluent Bit's documentation; it is in no registry, so it cannot run here."""
    outputs = [options for name, options in sections(path.read_text()) if name == "OUTPUT"]

    assert outputs
    for options in outputs:
        assert options["name"] == "stdout" or options["retry_limit"] == "no_limits"
        if options["name"] == "forward":
            assert options["require_ack_response"] == "on"


@pytest.mark.parametrize("path", FLUENT_BIT, ids=lambda path: "/".join(path.parts[-2:]))
def test_labelled_records_never_match_the_way_to_the_daemon(path: Path) -> None:
    for name, options in sections(path.read_text()):
        if name == "OUTPUT" and options["name"] == "forward":
            assert not fnmatchcase("classified.host.var.log.syslog", options["match"])


def test_fluentd_waits_for_acknowledgements_and_keeps_its_loop_guard() -> None:
    text = (ROOT / "fluentd" / "fluent.conf").read_text()
    (match,) = re.findall(r"<match (\S+)>\n  @type forward\n(.*?)</match>", text, re.DOTALL)

    assert [text.count(f"<{name}") for name in ("source", "match", "buffer")] == [
        text.count(f"</{name}>") for name in ("source", "match", "buffer")
    ]
    assert match[0] == "host.**"
    for option in ("require_ack_response true", "retry_forever true", "overflow_action block"):
        assert option in match[1]


@pytest.mark.parametrize("folder", ["fluentd", "vector"])
def test_what_comes_back_is_under_a_prefix_and_on_the_port_that_is_listened_on(folder: str) -> None:
    (output,) = load_config(ROOT / folder / "config.yaml").model_dump()["outputs"]
    text = "".join(path.read_text() for path in (ROOT / folder).iterdir() if path.suffix in {".conf", ".yaml"})

    assert output["tag_prefix"] == "classified."
    assert re.search(r"(port |address: 127.0.0.1:)24225", text)


def test_the_parts_of_the_vector_configuration_are_connected() -> None:
    found = document("vector", "vector.yaml")
    (source,) = load_config(ROOT / "vector" / "config.yaml").model_dump()["inputs"]
    path = re.sub(r"%\w", "00", found["sinks"]["to_logclf"]["path"])
    fed = {name for part in ("transforms", "sinks") for item in found[part].values() for name in item["inputs"]}

    assert fed == {*found["sources"], *found["transforms"]}
    assert any(fnmatchcase(path, glob) for glob in source["paths"])


def test_the_parts_of_the_collector_configuration_are_connected() -> None:
    found = document("otel-collector", "otelcol.yaml")
    (statements,) = [item["statements"] for item in found["processors"]["transform"]["log_statements"]]
    logs = found["service"]["pipelines"]["logs"]

    assert all(set(logs[part]) <= set(found[part]) for part in ("receivers", "processors", "exporters"))
    read = {name for statement in statements for name in re.findall(r'attributes(?:\[|, )"(\w+)"', statement)}
    assert read == set(Enrichment(["otel"]).fields("Error", None))


def ecs(label: str) -> dict[str, object]:
    """What the daemon adds for a label, without the prefixes."""
    fields = Enrichment(["ecs"]).fields(label, None)
    return {name.partition(".")[2]: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def test_the_ingest_pipeline_says_what_the_daemon_says() -> None:
    pipeline = json.loads((ROOT / "elasticsearch" / "ingest-pipeline.json").read_text())

    assert pipeline["processors"][0]["script"]["params"] == {label: ecs(label) for label in DEFAULT_LABELS}


def test_the_index_template_has_every_field_that_the_daemon_adds() -> None:
    template = json.loads((ROOT / "elasticsearch" / "index-template.json").read_text())
    fields = template["template"]["mappings"]["properties"]

    assert set(fields["log"]["properties"]) == {"level"}
    assert set(fields["event"]["properties"]) == {"kind", "category", "type"}
    assert {"label", "confidence", "stage", "rule", "reason", "template", "generation"} == set(
        fields["logclf"]["properties"]
    )


def rows_of(readme: Path) -> dict[str, list[str]]:
    """The table of a README by the labels in its first cells."""
    lines = [line for line in readme.read_text().splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {label: row[1:] for row in cells for label in row[0].split(", ")}


def test_the_tables_of_the_readmes_say_what_the_daemon_does() -> None:
    def written(value: object) -> str:
        return ", ".join(value) if isinstance(value, list) else str(value)

    severities = {label: Enrichment(["otel"]).fields(label, None) for label in DEFAULT_LABELS}

    assert rows_of(ROOT / "elasticsearch" / "README.md") == {
        label: [written(ecs(label).get(name, "")) for name in ("level", "kind", "category", "type")]
        for label in DEFAULT_LABELS
    }
    assert rows_of(ROOT / "otel-collector" / "README.md") == {
        label: [f"{fields['severityNumber']} ({fields['severityText']})"] for label, fields in severities.items()
    }


def test_loki_gets_fields_that_the_daemon_writes_and_then_only_the_line() -> None:
    ((_, options),) = [
        found for found in sections((ROOT / "loki" / "fluent-bit.conf").read_text()) if found[0] == "OUTPUT"
    ]
    config = load_config(ROOT / "loki" / "config.yaml")
    added = set(Enrichment(config.record.enrich).fields("Error", None))
    named = set(re.findall(r"\$(\w+)", options["labels"] + options["structured_metadata"]))

    assert named <= {"logclf", "file", *added}
    assert set(re.split(r",\s*", options["remove_keys"])) == {"logclf", "file", *added}


@pytest.mark.parametrize("folder", ["elasticsearch", "loki", "otel-collector"])
def test_what_a_store_is_promised_is_in_the_records(folder: str, tmp_path: Path) -> None:
    config = load_config(ROOT / folder / "config.yaml")
    parts = build_parts(config.model_copy(update={"llm": LlmOptions(enabled=False)}), tmp_path)
    cascade = cascade_of(parts)
    (source,) = config.model_dump()["inputs"]
    line = b"sshd[7]: Failed password for root from 10.0.0.9 port 22 ssh2"
    record = Record(Raw(b"\x01"), {source["message_key"]: raw_str(line), "file": raw_str(b"/var/log/auth.log")})

    batch = Batch("auth.log", [record])
    cascade.attach(batch.records, asyncio.run(cascade.classify_batch(batch)).answers)
    close(cascade, parts)

    found = json.loads(JsonText().lines([record]))
    expected = Enrichment(config.record.enrich).fields("Security Alert", None)
    assert {name: found[name] for name in expected} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }


@pytest.mark.parametrize(("folder", "file"), [("rsyslog", "60-logclf.conf"), ("syslog-ng", "logclf.conf")])
def test_the_file_that_syslog_writes_is_the_one_that_is_read_rotated_or_not(folder: str, file: str) -> None:
    (source,) = load_config(ROOT / folder / "config.yaml").model_dump()["inputs"]
    text = (ROOT / folder / file).read_text()

    assert "/var/log/logclf/all.log" in text
    assert all(
        any(fnmatchcase(name, glob) for glob in source["paths"])
        for name in ("/var/log/logclf/all.log", "/var/log/logclf/all.log.1")
    )
    assert '"logclf-daemon"' in text  # its own messages stay out


def test_the_image_runs_without_root_and_tells_its_health() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()

    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2
    assert text.rindex("\nUSER 65532") > text.rindex("\nFROM ")
    assert "HEALTHCHECK" in text and '"ctl", "status"' in text


def test_the_services_of_compose_share_the_socket() -> None:
    found = document("docker", "compose.yaml")
    services = found["services"]
    named = {
        mount.split(":")[0] for service in services.values() for mount in service["volumes"] if mount[0] not in "./"
    }
    (source,) = load_config(ROOT / "docker" / "config.yaml").model_dump()["inputs"]
    outputs = [
        options for name, options in sections((ROOT / "docker" / "fluent-bit.conf").read_text()) if name == "OUTPUT"
    ]

    assert named == set(found["volumes"])
    assert source["listen"] == "unix://" + outputs[0]["unix_path"]
    for name in ("fluent-bit", "logclf"):
        assert "sockets:/run/logclf" in services[name]["volumes"]


def manifests() -> list[dict[str, Any]]:
    return [
        found
        for name in ("daemonset.yaml", "sidecar.yaml")
        for found in yaml.safe_load_all((ROOT / "kubernetes" / name).read_text())
    ]


def test_the_daemonset_has_a_valid_configuration_that_leaves_its_own_log_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARD_KEY", "secret")
    (config_map,) = [found for found in manifests() if found["kind"] == "ConfigMap"]
    (tmp_path / "config.yaml").write_text(config_map["data"]["config.yaml"])
    chart = Config.model_validate(document("kubernetes", "chart", "values.yaml")["config"])

    for config in (load_config(tmp_path / "config.yaml"), chart):
        (source,) = config.model_dump()["inputs"]
        name = "logclf-daemon-x2v7k_logging_logclf-daemon-0123456789ab.log"
        assert any(fnmatchcase(name, glob) for glob in source["exclude"])
        assert source["format"] == "cri"


def test_the_containers_have_no_more_rights_than_they_need() -> None:
    pods = [found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"] for found in manifests()[1:]]
    containers = [
        container
        for pod in pods
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        if container["name"] == "logclf-daemon"
    ]

    assert len(containers) == 2
    for container in containers:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] == "512Mi"


def test_the_playbook_gives_the_role_a_valid_configuration() -> None:
    (play,) = document("ansible", "playbook.yaml")
    defaults = document("ansible", "roles", "logclf_daemon", "defaults", "main.yaml")

    for config in (play["roles"][0]["logclf_daemon_config"], defaults["logclf_daemon_config"]):
        assert Config.model_validate(config).inputs


def test_the_role_has_its_files_checked_by_commands_that_there_are(tmp_path: Path) -> None:
    tasks = document("ansible", "roles", "logclf_daemon", "tasks", "main.yaml")
    copies = [task["ansible.builtin.copy"] for task in tasks if "ansible.builtin.copy" in task]
    commands = [copy["validate"] for copy in copies if "validate" in copy]
    texts = {"rules": "version: 1\nrules: [{id: a, label: Error, pattern: boom, examples: [boom]}]\n", "config": "{}\n"}

    for text in commands:
        _, *arguments = text.split()
        checked = tmp_path / arguments[0]
        checked.write_text(texts[arguments[0]])
        done = CliRunner().invoke(main, [argument.replace("%s", str(checked)) for argument in arguments])

        assert done.exit_code == 0, done.output

    assert len(commands) == 2


def test_every_integration_stands_in_the_overview() -> None:
    text = (ROOT.parent / "docs" / "integrations.md").read_text()

    for folder in FOLDERS:
        assert f"../integrations/{PurePath(folder).name}/README.md" in text
