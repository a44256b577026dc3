"""Standard fields: what a label and a line say, in ECS and OpenTelemetry; no field of a record is ever replaced."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner
from msgspec import Raw

from daemon_process import Daemon
from doubles import cascade, rule
from logclf_daemon.cli import main
from logclf_daemon.codec import encode, encode_entries, raw_str
from logclf_daemon.config import Config, load_config
from logclf_daemon.enrichment import DEFAULT_MEANINGS, SEVERITIES, Enrichment, Meaning, level_of
from logclf_daemon.errors import ConfigError
from logclf_daemon.record import AnyRecord, Record, SealedRecord
from logclf_daemon.taxonomy import DEFAULT_LABELS
from logclf_daemon.template import canonical

RULES = [rule("denied", "Security Alert"), rule("boom", "Critical Error"), rule("hello", "System Notification")]


def enriched(record: AnyRecord, enrichment: Enrichment | None = None) -> dict[object, object]:
    """The fields of a record after the cascade, without the verdict."""
    tested = cascade(RULES, enrichment=enrichment or Enrichment(["ecs", "otel"]))
    line = record.fields.get("message") or record.fields["log"] if isinstance(record, Record) else None
    classified = asyncio.run(tested.classify("app.log", [bytes(line)[1:] if line is not None else b"boom"]))
    tested.attach([record], classified.answers)
    tested.close()
    entry: list[dict[object, object]] = msgpack.unpackb(encode_entries([record]), strict_map_key=False, raw=False)
    del entry[1]["logclf"]
    return entry[1]


def of(**fields: object) -> Record:
    return Record(Raw(b"\x01"), {name: Raw(encode(value)) for name, value in fields.items()})


def test_a_label_becomes_fields_of_both_standards() -> None:
    assert enriched(of(message="access denied", n=5)) == {
        "message": "access denied",
        "n": 5,
        "log.level": "error",
        "event.kind": "alert",
        "event.category": ["intrusion_detection"],
        "event.type": ["info"],
        "severityNumber": 17,
        "severityText": "ERROR",
    }


def test_each_standard_by_itself() -> None:
    assert set(enriched(of(message="boom"), Enrichment(["otel"]))) == {"message", "severityNumber", "severityText"}
    assert set(enriched(of(message="boom"), Enrichment(["ecs"]))) == {
        "message",
        "log.level",
        "event.kind",
        "event.type",
    }


def test_a_label_without_a_meaning_adds_nothing() -> None:
    assert enriched(of(message="of no rule")) == {"message": "of no rule"}


@pytest.mark.parametrize(
    ("own", "kept_out"),
    [
        ({"log.level": "mine"}, ("log.level",)),
        ({"log": {"level": "mine"}}, ("log.level",)),
        ({"log": {"file": "x"}}, ()),
        ({"log": "a line"}, ("log.level",)),
        ({"event": {"kind": "state", "type": ["start"]}}, ("event.kind", "event.type")),
        ({"event": "a text"}, ("event.kind", "event.category", "event.type")),
        ({"severityNumber": 1}, ("severityNumber",)),
    ],
    ids=str,
)
def test_what_a_record_has_stays(own: dict[str, object], kept_out: tuple[str, ...]) -> None:
    everything = set(enriched(of(message="access denied"))) - {"message"}

    found = enriched(of(message="access denied", **own))

    assert {name: found[name] for name in own} == own
    assert set(found) == {"message", *own, *everything} - (set(kept_out) - set(own))


def test_a_sealed_record_is_enriched_too_and_keeps_its_bytes() -> None:
    record = SealedRecord(Raw(b"\x01"), Raw(b"\x83\x07\xa1x\xa7message\xa4boom\xaeseverityNumber\x03"))

    found = enriched(record)

    assert found[7] == "x"
    assert found["severityNumber"] == 3
    assert found["severityText"] == "FATAL"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"Nov 28 12:00:00 web1 app[5]: WARN queue is long", "warn"),
        (b"2026-11-28T12:00:00Z ERROR [main] c.e.App - failed", "error"),
        (b"2026-11-28 12:00:00,123 - app.db - INFO - connected", "info"),
        (b"2026/11/28 12:00:00 [error] 31#31: *1 open() failed", "error"),
        (b'{"level":"debug","msg":"hello"}', "debug"),
        (b"time=2026-11-28T12:00:00Z level=warning msg=slow", "warn"),
        (b"kernel panic is what this text is about", None),
        (b"alert rule was loaded", None),
        (b"connected to the server", None),
        (b"", None),
    ],
)
def test_a_line_may_state_its_level(line: bytes, level: str | None) -> None:
    assert level_of(canonical(line)) == level


def test_the_level_of_the_line_is_the_more_precise_one() -> None:
    assert enriched(of(message="DEBUG hello"))["log.level"] == "debug"
    assert enriched(of(message="WARN hello"))["severityNumber"] == 13


def test_no_line_plays_down_what_was_labelled_as_trouble() -> None:
    assert enriched(of(message="DEBUG access denied"))["log.level"] == "error"
    assert enriched(of(message="FATAL access denied"))["log.level"] == "fatal"


def test_every_default_label_has_a_meaning() -> None:
    assert set(DEFAULT_MEANINGS) == set(DEFAULT_LABELS)
    assert [number for number, _ in SEVERITIES.values()] == sorted(number for number, _ in SEVERITIES.values())


def test_labels_of_ones_own_have_meanings_of_their_own() -> None:
    config = Config.model_validate(
        {
            "labels": {"Outage": "all is down", "Rest": "anything else"},
            "record": {"enrich": ["ecs"], "meanings": {"Outage": {"level": "fatal", "category": ["host"]}}},
        }
    )
    enrichment = Enrichment(config.record.enrich, config.record.meanings)

    assert enrichment.fields("Outage", None) == {
        "log.level": "fatal",
        "event.kind": "event",
        "event.category": ("host",),
    }
    assert enrichment.fields("Rest", None) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("record: {enrich: [ecss]}", "did you mean 'ecs'?"),
        ("record: {meanings: {Error: {level: eror}}}", "did you mean 'error'?"),
        ("record: {meanings: {Error: {category: [wob]}}}", "did you mean 'web'?"),
        ("record: {meanings: {Erorr: {level: warn}}}", "did you mean 'Error'?"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"config\.yaml:1: ") as refused:
        load_config(path)

    assert words in str(refused.value)


def test_every_unknown_label_is_named_with_the_line_of_its_own_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    meanings = "    Error: {level: warn}\n    Erorr: {level: warn}\n    '{Outage}': {level: fatal}\n"
    path.write_text(f"labels: {{Error: it failed, Rest: all else}}\nrecord:\n  meanings:\n{meanings}")

    with pytest.raises(ConfigError) as refused:
        load_config(path)

    assert str(refused.value).splitlines() == [
        f"{path}:5: record.meanings.Erorr: 'Erorr' is not a label; did you mean 'Error'?",
        f"{path}:6: record.meanings.{{Outage}}: '{{Outage}}' is not a label; the labels are: Error, Rest",
    ]


def test_the_defaults_of_a_label_may_be_replaced() -> None:
    assert Enrichment(["otel"], {"Error": Meaning(level="warn")}).fields("Error", None)["severityNumber"] == 13


def test_the_daemon_enriches_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "auth.log").write_text("sshd[7]: Failed password for root from 10.0.0.9 port 22 ssh2\n")
    (tmp_path / "config.yaml").write_text(
        f"inputs: [{{type: files, paths: ['{tmp_path}/auth.log'], message_key: message}}]\n"
        "record: {enrich: [ecs, otel]}\nmodel: {enabled: false}\nllm: {enabled: false}\n"
    )

    with Daemon("--config", str(tmp_path / "config.yaml"), "--once", "--state-dir", str(tmp_path)) as daemon:
        assert daemon.ended() == 0, daemon.said
        (record,) = map(json.loads, daemon.lines)

    assert record["logclf"]["label"] == "Security Alert"
    assert (record["event.kind"], record["log.level"], record["severityNumber"]) == ("alert", "error", 17)


def test_explain_shows_the_record_that_the_daemon_writes(tmp_path: Path) -> None:
    line = "sshd[7]: Failed password for root from 10.0.0.9 port 22 ssh2"
    (tmp_path / "auth.log").write_text(line + "\n")
    (tmp_path / "config.yaml").write_text(
        f"inputs: [{{type: files, paths: ['{tmp_path}/auth.log'], path_key: path}}]\n"
        "record: {enrich: [ecs, otel], flatten: true}\nmodel: {enabled: false}\nllm: {enabled: false}\n"
    )
    options = ["--config", str(tmp_path / "config.yaml"), "--state-dir", str(tmp_path)]

    with Daemon(*options, "--once") as daemon:
        assert daemon.ended() == 0, daemon.said
        (written,) = map(json.loads, daemon.lines)
    asked = ["explain", *options, "--source", str(tmp_path / "auth.log"), line]
    shown, words = CliRunner().invoke(main, [*asked, "--json"]).stdout, CliRunner().invoke(main, asked).stdout

    assert written["event.kind"] == "alert"
    assert json.loads(shown)["record"] == written
    assert words.splitlines()[-1] == f"  record    {json.dumps(written)}"


def test_explain_cuts_a_long_line_in_the_record_only_for_people(tmp_path: Path) -> None:
    asked = ["explain", "--no-llm", "--no-model", "--no-builtin-rules", "--state-dir", str(tmp_path), "x" * 5000]

    shown, words = CliRunner().invoke(main, [*asked, "--json"]).stdout, CliRunner().invoke(main, asked).stdout

    assert json.loads(shown)["record"]["log"] == "x" * 5000
    assert f'"log": "{"x" * 160}..."' in words


def test_raw_text_is_not_decoded_to_be_enriched() -> None:
    found = enriched(Record(Raw(b"\x01"), {"message": raw_str(b"boom"), "event": Raw(b"\x81\xa4kind\xa3own")}))

    assert found["event"] == {"kind": "own"}
    assert "event.kind" not in found
