"""Alerts and dashboard name what the daemon really has; Prometheus' own tool sees the alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import logclf_daemon.service  # all metrics are declared now
from logclf_daemon.events import _REFUSED
from logclf_daemon.metrics import REGISTRY

INTEGRATIONS = Path(__file__).parents[1] / "integrations"
ALERTS = INTEGRATIONS / "prometheus" / "alerts.yaml"
DASHBOARD = INTEGRATIONS / "grafana" / "dashboard.json"
WANTED = {
    "LogclfOutputDown": "logclf_output_away_seconds",
    "LogclfLag": "logclf_input_lag_seconds",
    "LogclfRecordsDropped": "logclf_records_dropped_total",
    "LogclfNoveltyDrift": "logclf_templates_new_total",
    "LogclfOutputRecordsDropped": "logclf_output_records_dropped_total",
    "LogclfBug": "logclf_bugs_total",
    "LogclfLlmDown": "logclf_llm_state",
    "LogclfReloadRefused": "logclf_reloads_total",
    "LogclfModelDisagreement": "logclf_model_llm_answers_total",
}


def alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return rules


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[tuple[str, str]]:
    """Where each expression stands, and the expression."""
    found = [(rule["alert"], rule["expr"]) for rule in alerts()]
    return found + [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def samples() -> dict[str, set[str]]:
    """Every sample name, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in set(REGISTRY._names_to_collectors.values()):
        assert isinstance(metric, MetricWrapperBase)
        labels = set(metric._labelnames)
        for described in metric.describe():
            kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(described.type, [""])
            for ending in kinds:
                found[described.name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str) -> None:
    known = samples()

    for name, matchers in re.findall(r"\b(logclf_\w+)(?:\{([^}]*)\})?", expression):
        assert name in known, f"{where}: {name}"
        for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", matchers):
            assert label in known[name] | {"instance", "job"}, f"{where}: {name}: {label}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        labels = set(re.split(r",\s*", grouped)) - {"instance", "job"}
        assert any(labels <= known[name] for name in re.findall(r"logclf_\w+", expression)), where


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_brackets_of_an_expression_match(where: str, expression: str) -> None:
    stack: list[str] = []
    for letter in re.sub(r'"[^"]*"', '""', expression):
        if letter in "([{":
            stack.append(")]}"["([{".index(letter)])
        elif letter in ")]}":
            assert stack.pop() == letter, where

    assert stack == []


def test_what_has_to_be_alerted_on_is() -> None:
    found = {rule["alert"]: rule for rule in alerts()}

    for name, metric in WANTED.items():
        assert metric in found[name]["expr"]
    for rule in found.values():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.integrations
def test_promtool_takes_alerts_and_configuration(needs: Callable[[str], str], tmp_path: Path) -> None:
    promtool = needs("promtool")
    queries = {"groups": [{"name": "x", "rules": []}]}
    for at, (_, expression) in enumerate(expressions()):
        plain = expression.replace("$instance", ".*")
        queries["groups"][0]["rules"].append({"record": f"query:{at}", "expr": plain})  # type: ignore[attr-defined]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump(queries))

    for arguments in (
        ["check", "rules", str(ALERTS)],
        ["check", "rules", str(tmp_path / "queries.yaml")],
        ["check", "config", str(ALERTS.with_name("prometheus.yml"))],
    ):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# --- as Prometheus evaluates them -----------------------------------------------------------------------------------

TARGET = {"instance": "web1:24280", "job": "logclf-daemon"}
OLD, NEW = "1000000+60x60", "20+60x60"  # uptime of a daemon that was there before, and of one that has just started


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """One series in promtool's notation, a value each minute: `0x9 1x20` is ten times 0, then 1."""
    told = ",".join(f'{label}="{value}"' for label, value in (TARGET | labels).items())
    return {"series": f"{name}{{{told}}}", "values": values}


def judged(promtool: str, folder: Path, alert: str, minute: int, fires: bool, *seen: dict[str, str]) -> str:
    """What promtool has against it that the alert fires at that minute of these series, or not; SUCCESS: nothing."""
    wanted = {
        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": "{}", "value": int(fires)}],
    }
    test = {"interval": "1m", "input_series": list(seen), "promql_expr_test": [wanted]}
    (folder / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]})
    )
    command = [promtool, "test", "rules", str(folder / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return "SUCCESS" if done.returncode == 0 else done.stdout + done.stderr


def llm(state: str, values: str) -> dict[str, str]:
    return series("logclf_llm_state", values, state=state)


@pytest.mark.integrations
@pytest.mark.parametrize(
    ("why", "minute", "seen", "fires"),
    [
        ("dead after it was ready", 30, [llm("ready", "1x9 0x60"), llm("absent", "0x9 1x60")], True),
        ("not yet", 20, [llm("ready", "1x9 0x60"), llm("absent", "0x9 1x60")], False),
        ("there again", 50, [llm("ready", "1x9 0x29 1x60"), llm("absent", "0x9 1x29 0x60")], False),
        (
            "never had one",
            60,
            [llm("ready", "0x90"), llm("absent", "1x90"), series("logclf_llm_required", "0x90")],
            False,
        ),
        ("switched off", 60, [llm("ready", "1x9 0x60"), llm("absent", "0x90"), llm("off", "0x9 1x60")], False),
        ("asked for, never there", 30, [llm("absent", "1x90"), series("logclf_llm_required", "1x90")], True),
        ("no such model", 30, [llm("absent", "0x90"), llm("model_missing", "1x90")], True),
        (
            "fails in more than one way",
            30,
            [llm("ready", "1x9 0x60"), llm("absent", "0x9 1x4 0x4 1x60"), llm("timeout", "0x14 1x4 0x60")],
            True,
        ),
        (
            "dead for days, the daemon started anew",
            4000,
            [llm("ready", "1x9 0x2000 0x2500"), llm("absent", "0x9 1x2000 1x2500")],
            True,
        ),
    ],
)
def test_an_llm_is_down_where_there_was_one_or_shall_be_one(
    needs: Callable[[str], str], tmp_path: Path, why: str, minute: int, seen: list[dict[str, str]], fires: bool
) -> None:
    # Whether a question would be asked goes up and down with the breaker's probes: nothing may hang on it.
    probes = series("logclf_llm_available", "1x9 " + "0 1 " * 30)

    assert judged(needs("promtool"), tmp_path, "LogclfLlmDown", minute, fires, *seen, probes) == "SUCCESS", why


COUNTED = [
    ("LogclfRecordsDropped", "logclf_records_dropped_total", {"input": "files.0", "reason": "unencodable"}),
    ("LogclfOutputRecordsDropped", "logclf_output_records_dropped_total", {"output": "jsonl.0", "reason": "not_logs"}),
    ("LogclfReloadRefused", "logclf_reloads_total", {"result": "refused"}),
    ("LogclfBug", "logclf_bugs_total", {"where": "pipeline"}),
]


@pytest.mark.integrations
@pytest.mark.parametrize(("alert", "name", "labels"), COUNTED)
@pytest.mark.parametrize(
    ("why", "uptime", "values", "minute", "fires"),
    [
        ("nothing happened", OLD, "0x60", 15, False),
        ("the first event", OLD, "0x9 7x60", 12, True),
        ("before the first scrape", NEW, "7x60", 2, True),
        ("as many after a restart as before it", f"{OLD.split('+')[0]}x4 {NEW}", "7x60", 8, True),
        ("long ago, and Prometheus started anew", OLD, "7x60", 5, False),
        ("a restart loses nothing", f"{OLD.split('+')[0]}x4 {NEW}", "7x4 0x60", 8, False),
    ],
)
def test_the_first_event_raises_an_alert_whenever_it_comes(
    needs: Callable[[str], str],
    tmp_path: Path,
    alert: str,
    name: str,
    labels: dict[str, str],
    why: str,
    uptime: str,
    values: str,
    minute: int,
    fires: bool,
) -> None:
    seen = [series(name, values, **labels), series("logclf_uptime_seconds", uptime)]

    assert judged(needs("promtool"), tmp_path, alert, minute, fires, *seen) == "SUCCESS", why


FRESH = """
import asyncio, pathlib, sys
from logclf_daemon import events
from logclf_daemon.build import Parts, build_parts, build_pipeline, cascade_of
from logclf_daemon.config import Config
from logclf_daemon.metrics import exposition

state = pathlib.Path(sys.argv[1])
config = Config.model_validate({
    "inputs": [{"type": "stdin"}, {"type": "forward", "listen": "127.0.0.1:0"}],
    "outputs": [{"type": "jsonl", "path": str(state / "out")}],
    "rules": {"builtin": False}, "model": {"enabled": False}, "llm": {"enabled": False},
})
build_pipeline(config, cascade_of(build_parts(config, None)), None)
print(exposition().decode(), end="\\0")
events.emit(events.RecordsDropped(input="forward.1", reason="invalid", count=3))
events.emit(events.OutputRecordsDropped(output="jsonl.0", reason="not_logs", count=3))
events.emit(events.ReloadRefused(error="x"))
events.emit(events.Bug(where="input forward.1", error="x"))
print(exposition().decode())
"""


def counted_by_a_fresh_daemon(folder: Path) -> list[dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """Every sample of a daemon that has just started, and of the same one when each counted event happened once."""
    done = subprocess.run([sys.executable, "-c", FRESH, folder], capture_output=True, text=True, timeout=50, check=True)
    return [
        {
            (sample.name, tuple(sample.labels.items())): sample.value
            for metric in text_string_to_metric_families(text)
            for sample in metric.samples
        }
        for text in done.stdout.split("\0")
    ]


def test_what_alerts_count_is_there_at_zero_before_it_happens(tmp_path: Path) -> None:
    before, after = counted_by_a_fresh_daemon(tmp_path)
    alerted = {name for _, name, _ in COUNTED} | {"logclf_model_llm_answers_total"}

    born = {key for key in after if key[0] in alerted} - set(before)

    assert born == set()
    assert {name for (name, _), count in after.items() if name in alerted and count} == {name for _, name, _ in COUNTED}
    assert sum(name in alerted for name, _ in before) < 40


def test_every_reason_to_refuse_records_is_counted_from_zero() -> None:
    package = Path(logclf_daemon.service.__file__).parent
    source = "".join(path.read_text() for path in [*package.glob("outputs/**/*.py"), package / "pipeline.py"])
    reasons = set(re.findall(r'RecordRejected\(.*, (?:reason=)?"(\w+)"\)', source))

    assert reasons == {*_REFUSED, "output_unavailable"}


@pytest.mark.integrations
@pytest.mark.parametrize(("alert", "name"), [(alert, name) for alert, name, _ in COUNTED])
def test_the_first_event_of_a_real_daemon_raises_its_alert(
    needs: Callable[[str], str], tmp_path: Path, alert: str, name: str
) -> None:
    before, after = counted_by_a_fresh_daemon(tmp_path)
    seen = [
        series(counted, f"{before.get((counted, labels), '_')}x9 {value}x60", **dict(labels))
        for (counted, labels), value in after.items()
        if counted == name
    ]

    seen.append(series("logclf_uptime_seconds", OLD))
    assert judged(needs("promtool"), tmp_path, alert, 12, True, *seen) == "SUCCESS"
    assert judged(needs("promtool"), tmp_path, alert, 9, True, *seen) != "SUCCESS"
