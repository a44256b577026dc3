"""Alerts and dashboard name what the daemon really has, and Prometheus' own tool can read them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import logclf_daemon.service  # noqa: F401  # all metrics are declared now
from logclf_daemon.metrics import REGISTRY

INTEGRATIONS = Path(__file__).parents[1] / "integrations"
ALERTS = INTEGRATIONS / "prometheus" / "alerts.yaml"
DASHBOARD = INTEGRATIONS / "grafana" / "dashboard.json"
WANTED = {
    "LogclfOutputDown": "logclf_output_away_seconds",
    "LogclfLag": "logclf_input_lag_seconds",
    "LogclfRecordsDropped": "logclf_records_dropped_total",
    "LogclfNoveltyDrift": "logclf_templates_new_total",
    "LogclfLlmDown": "logclf_llm_available",
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
        labels = set(re.split(r",\s*", grouped)) - {"instance"}
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
