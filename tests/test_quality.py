"""Quality: what is measured is what the daemon answers, alone and behind the rules; the page shows it and escapes."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from logclf_daemon.cascade import Cascade
from logclf_daemon.cli.model import model
from logclf_daemon.generation import Generation
from logclf_daemon.quality import calibration_error, measure, read_labelled, together
from logclf_daemon.report import page
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_daemon.stages.rules import RulesOptions, load_rules
from logclf_daemon.taxonomy import Taxonomy
from model_doubles import LABELS, tiny_model

RULE = "version: 1\nrules:\n  - {id: boom, label: Critical Error, pattern: boom, source: [a], examples: [boom]}\n"
ROWS = [
    ("a", "boom of the disk", "Critical Error"),  # the rule, right
    ("b", "boom failed failed failed", "Critical Error"),  # the rule is not for this source; the model is wrong
    ("b", "failed", "Error"),
    ("a", "started", "System Notification"),
    ("a", "disk", "Error"),  # nobody is sure
]


def labelled(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "log_message", "target_label"])
        writer.writerows(ROWS)
    return path


def configuration(folder: Path) -> Path:
    (folder / "own.yaml").write_text(RULE)
    tiny_model(folder / "tiny", thresholds={"0.02": dict.fromkeys(LABELS, 0.7), "0.5": dict.fromkeys(LABELS, 0.0)})
    path = folder / "config.yaml"
    path.write_text(f"rules: {{paths: [{folder}/own.yaml], builtin: false}}\nmodel: {{path: {folder}/tiny}}\n")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(model, [str(argument) for argument in arguments])


def test_rules_and_model_are_measured_together_as_the_daemon_asks_them(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(RULE)
    rules = load_rules(RulesOptions(paths=(tmp_path / "own.yaml",), builtin=False), Taxonomy(), None)
    cascade = Cascade(Generation(1, rules, [ModelStage(ModelOptions(path=tiny_model(tmp_path / "tiny")))], Taxonomy()))

    found = asyncio.run(together(cascade, read_labelled(labelled(tmp_path / "rows.csv"))))
    cascade.close()

    assert found.stages == {"rules": (1, 1), "model": (3, 2)}
    assert (found.rows, found.answered, found.right_of_answered) == (5, 0.8, 0.75)
    assert "rules 1 rows (100.0% right), model 3 rows (66.7% right)" in found.as_text()


def test_the_command_tells_both_as_text_and_as_json(tmp_path: Path) -> None:
    arguments = ("evaluate", labelled(tmp_path / "rows.csv"), "-c", configuration(tmp_path))

    text, parsed = run(*arguments), json.loads(run(*arguments, "--json").stdout)

    assert text.exit_code == 0, text.output
    assert "rules and model together: answer 80.0%, 75.0% of the answers right" in text.stdout
    assert (parsed["rows"], parsed["with_rules"]["stages"]["model"]) == (5, [3, 2])


def test_another_error_rate_can_be_tried(tmp_path: Path) -> None:
    arguments = ("evaluate", labelled(tmp_path / "rows.csv"), "-c", configuration(tmp_path), "--json")

    answered = [json.loads(run(*arguments, "--max-error-rate", rate).stdout)["answered"] for rate in ("0.02", "0.5")]

    assert answered == [0.6, 1]


def test_a_model_of_other_labels_is_measured_without_the_rules(tmp_path: Path) -> None:
    other = tiny_model(
        tmp_path / "tiny", labels=("Fire", "Water"), thresholds={"0.02": dict.fromkeys(("Fire", "Water"), 0.9)}
    )

    result = run("evaluate", labelled(tmp_path / "rows.csv"), "--path", other)

    assert result.exit_code == 0, result.output
    assert "rules not asked: their labels are not those of the model" in result.stdout


def test_bands_of_confidence_add_up_to_the_calibration_error() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet((1, 1, 1), size=300).astype(np.float32)
    truth = random.integers(0, 3, 300)

    found = measure(("A", "B", "C"), probabilities, truth)

    gaps = sum(share * abs(right - said) for said, right, share in found.reliability)
    assert sum(share for *_, share in found.reliability) == pytest.approx(1, abs=1e-3)
    assert gaps == pytest.approx(found.calibration_error, abs=2e-3)
    expected = calibration_error(probabilities.max(1), probabilities.argmax(1) == truth, np.ones(300))
    assert found.calibration_error == expected


def test_the_page_has_its_plots_and_escapes_what_comes_from_files() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], np.float32)
    quality = measure(("<b>A", "B&B"), probabilities, np.array([0, 1, 0]))

    text = page("<script>alert(1)</script>", quality, ["rules & model"])

    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;b&gt;A" in text
    assert "rules &amp; model" in text
    assert text.count("<svg") == 2 + len(quality.labels)  # two plots, and a bar for each label
    assert text.count("<circle") == len(quality.reliability)
    assert "//" not in text  # nothing is loaded from elsewhere
