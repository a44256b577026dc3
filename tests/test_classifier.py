"""The Python API: lists of lines and data frames through the same cascade as everything else."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from doubles import FixedStage, SlowStage, cascade, rule
from logclf_daemon import Classifier, LineVerdict
from logclf_daemon.cli import main
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.record import Question, Verdict
from logclf_daemon.waiting import WaitingRoom

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


def test_one_line_is_not_taken_for_its_letters(classifier: Classifier) -> None:
    for line in ("boom", b"boom"):
        with pytest.raises(TypeError, match="in brackets"):
            classifier.classify(line)  # type: ignore[arg-type]


def test_lines_may_come_from_a_generator_that_asks_the_classifier_itself(classifier: Classifier) -> None:
    lines = (classifier.classify([line])[0].label for line in ("boom", "disk"))

    assert [verdict.label for verdict in classifier.classify(lines)] == ["Unclassified", "Unclassified"]


def test_an_odd_line_does_not_cost_the_others_their_verdicts(classifier: Classifier) -> None:
    pandas = pytest.importorskip("pandas")
    odd = ["boom", "", None, float("nan"), pandas.NA, "boom \ud800", "disk \udcff", 5]

    verdicts = classifier.classify(odd)

    assert [verdict.reason or verdict.label for verdict in verdicts] == [
        *("Critical Error", "no_message", "no_message", "no_message", "no_message"),
        *("Critical Error", "Resource Usage", "low_confidence"),
    ]


def test_columns_that_may_lack_values_are_taken(classifier: Classifier) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"source": ["auth.log", None], "log_message": ["login", None]}, dtype="string")

    assert classifier.classify_frame(frame)["target_label"].to_list() == ["User Action", "Unclassified"]


def test_a_frame_in_which_a_column_is_there_twice_is_refused(classifier: Classifier) -> None:
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([["a", "b", "c"]], columns=["source", "log_message", "log_message"])

    with pytest.raises(BadInput, match="several columns 'log_message'"):
        classifier.classify_frame(twice)
    with pytest.raises(BadInput, match="a column 'stage' of its own"):
        classifier.classify_frame(twice.iloc[:, :2], label_column="stage", explain=True)


def test_a_call_under_way_ends_when_the_classifier_is_closed() -> None:
    class Asked(SlowStage):
        asking = threading.Event()

        def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
            self.asking.set()
            return super().classify(questions)

    slow, told = Asked(), list[str]()
    tested = Classifier(cascade(waiting=WaitingRoom(slow, wait_secs=None)))

    def ask() -> None:
        try:
            tested.classify(["boom"])
        except ValueError as error:
            told.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert slow.asking.wait(30)
    closing = threading.Thread(target=tested.close)
    closing.start()
    asking.join(15)
    slow.go_on.set()  # closing may wait for the question that is being asked
    closing.join(30)

    assert told == ["the classifier is closed"]


def test_a_classifier_from_before_a_fork_says_so_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(
        "import os, signal, sys\n"
        "from logclf_daemon import Classifier\n"
        "classifier = Classifier.load(llm=False, model=False, builtin_rules=False)\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(20)\n"
        "    try:\n"
        "        classifier.classify(['x'])\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    sys.exit(0)\n"
        "print(os.wait()[1], classifier.classify(['x'])[0].label)\n"
    )

    done = subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, timeout=60, check=True)

    assert (
        done.stdout.decode() == "this classifier was loaded before a fork; load one in each process\n0 Unclassified\n"
    )
    assert done.stderr == b""


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
