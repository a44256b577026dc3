"""The Python API: lists of lines and data frames through the same cascade as everything else."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from doubles import FixedStage, cascade, rule
from logclf_daemon import Classifier, LineVerdict
from logclf_daemon.cli import main
from logclf_daemon.errors import BadInput, ConfigError

SAMPLE = Path(__file__).parents[1] / "resources" / "sample.csv"


@pytest.fixture
def classifier() -> Iterator[Classifier]:
    rules = [rule("boom", "Critical Error", id="b"), rule("login", "User Action", id="l", source=["auth*"])]
    with Classifier(cascade(rules, [FixedStage({"disk": "Resource Usage"})])) as tested:
        yield tested


def test_each_line_gets_its_verdict_in_order(classifier: Classifier) -> None:
    verdicts = classifier.classify(["boom 1", b"disk full", "login", None, "boom 2"])

    assert [verdict.label for verdict in verdicts] == [
        *("Critical Error", "Resource Usage", "Unclassified", "Unclassified", "Critical Error")
    ]
    assert verdicts[0] == LineVerdict("Critical Error", 1.0, "rules", "b", None, verdicts[4].template)
    assert [verdict.reason for verdict in verdicts[2:4]] == ["low_confidence", "no_message"]


def test_the_source_counts(classifier: Classifier) -> None:
    (verdict,) = classifier.classify(["login"], source="auth.log")

    assert verdict.label == "User Action"


def test_no_line_no_verdict(classifier: Classifier) -> None:
    assert classifier.classify([]) == []


def test_it_works_where_an_event_loop_runs(classifier: Classifier) -> None:
    async def both() -> list[LineVerdict]:
        return classifier.classify(["boom 1"]) + await classifier.classify_async(["boom 2"])

    assert [verdict.label for verdict in asyncio.run(both())] == ["Critical Error"] * 2


def test_several_threads_may_ask_at_once(classifier: Classifier) -> None:
    found: list[list[LineVerdict]] = []
    lines = [f"{word} {at}" for at in range(500) for word in ("boom", "disk full", "x")]
    threads = [threading.Thread(target=lambda: found.append(classifier.classify(lines))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(found) == 8
    assert all(verdicts == found[0] for verdicts in found)


def test_a_pandas_frame_gains_the_label_and_keeps_its_index(classifier: Classifier) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"source": ["auth.log", None], "log_message": ["login", float("nan")]}, index=[7, 3])

    labelled = classifier.classify_frame(frame)
    explained = classifier.classify_frame(frame, explain=True, label_column="label", source_column=None)

    assert labelled["target_label"].to_dict() == {7: "User Action", 3: "Unclassified"}
    assert list(frame.columns) == ["source", "log_message"]
    assert list(explained.columns)[2:] == ["label", "confidence", "stage", "rule"]
    assert explained["rule"].to_list() == ["low_confidence", "no_message"]


def test_a_confidence_that_was_not_measured_is_missing_in_a_frame() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    stages = [FixedStage({"disk": "Error"}, name="llm", confidence=None)]
    rows = {"source": ["a", "a"], "log_message": ["disk", "boom"]}

    with Classifier(cascade([rule("boom")], stages)) as classifier:
        (verdict,) = classifier.classify(["disk"])
        in_pandas = classifier.classify_frame(pandas.DataFrame(rows), explain=True)["confidence"]
        in_polars = classifier.classify_frame(polars.DataFrame(rows), explain=True)["confidence"]

    assert verdict.confidence is None
    assert (in_pandas.isna().to_list(), in_pandas.dtype.kind, in_pandas[1]) == ([True, False], "f", 1.0)
    assert in_polars.to_list() == [None, 1.0]


def test_a_polars_frame_gains_the_label(classifier: Classifier) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"source": ["auth.log", None], "log_message": ["login", None]})

    labelled = classifier.classify_frame(frame)

    assert labelled["target_label"].to_list() == ["User Action", "Unclassified"]
    assert classifier.classify_frame(frame.head(0)).columns == ["source", "log_message", "target_label"]


@pytest.mark.parametrize(
    "columns", [["source", "text"], ["app", "log_message"], ["source", "log_message", "target_label"]]
)
def test_a_frame_without_the_columns_is_refused(classifier: Classifier, columns: list[str]) -> None:
    pandas = pytest.importorskip("pandas")

    with pytest.raises(BadInput, match=r"no column|already"):
        classifier.classify_frame(pandas.DataFrame([["x"] * len(columns)], columns=columns))


def test_a_closed_classifier_says_so(classifier: Classifier) -> None:
    classifier.close()
    classifier.close()

    with pytest.raises(ValueError, match="is closed"):
        classifier.classify(["x"])


def test_own_rules_and_mistakes_are_told_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "version: 1\nrules:\n  - {id: own, label: Error, pattern: zork, examples: [zork], priority: 9}\n"
    )

    with Classifier.load(rules=[tmp_path], builtin_rules=False, model=False, llm=False) as tested:
        assert tested.classify(["a zork"])[0].rule == "own"

    (tmp_path / "own.yaml").write_text("version: 1\nrules: [{id: own}]\n")
    with pytest.raises(ConfigError, match=r"own.yaml:2"):
        Classifier.load(rules=[tmp_path], builtin_rules=False, model=False, llm=False)


@pytest.mark.timeout(180)  # loads the model three times
def test_csv_and_explain_and_classifier_give_the_same_labels(tmp_path: Path) -> None:
    rows = list(csv.DictReader(SAMPLE.read_text().splitlines(keepends=True)))

    assert CliRunner().invoke(main, ["csv", str(SAMPLE), "-o", str(tmp_path / "out.csv"), "--no-llm"]).exit_code == 0
    table = [row["target_label"] for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines(True))]
    with Classifier.load(llm=False) as tested:
        listed = [tested.classify([row["log_message"]], row["source"])[0].label for row in rows]
    explained = CliRunner().invoke(
        main, ["explain", "--no-llm", "--json"], input="".join(row["log_message"] + "\n" for row in rows)
    )

    assert listed == table
    assert [json.loads(line)["logclf"]["label"] for line in explained.stdout.splitlines()] == table
    assert len(set(table)) > 5


def test_the_import_alone_loads_nothing_heavy() -> None:
    code = (
        "import sys; import logclf_daemon; assert len([n for n in sys.modules if n.startswith('logclf')]) == 1;"
        "from logclf_daemon import Classifier;"
        "assert not {'onnxruntime', 'pandas', 'polars', 'sklearn', 'pyarrow', 'ollama', 'hyperscan'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
