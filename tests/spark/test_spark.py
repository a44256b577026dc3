"""logclf_spark on a local cluster: a master, two workers, each with processes of its own (pyspark, Java 17)."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import REQUIRED
from daemon_process import command

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "spark"
LABELLED = ROOT / "resources" / "labelled.csv"
RULE = """
version: 1
rules:
  - {id: own, label: Workflow Error, pattern: 'zorble', examples: [zorble], priority: 999}
"""


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        if "spark" in REQUIRED:
            raise
        pytest.skip("pyspark is not installed")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    session = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.submit.pyFiles", str(FOLDER / "logclf_spark.py"))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("logclf_spark")


def rows() -> list[dict[str, str]]:
    with LABELLED.open(newline="") as file:
        return [{"source": row["source"], "log_message": row["log_message"]} for row in csv.DictReader(file)]


def csv_labels(tmp_path: Path) -> list[str]:
    """What `logclf-daemon csv` says of the same rows."""
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["source", "log_message"])
        writer.writeheader()
        writer.writerows(rows())
    arguments = ["csv", str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv"), "--no-llm"]
    subprocess.run([*command(), *arguments], check=True, capture_output=True, timeout=300)
    with (tmp_path / "out.csv").open(newline="") as file:
        return [row["target_label"] for row in csv.DictReader(file)]


def test_parquet_in_and_out_with_the_labels_of_csv(spark: Any, module: ModuleType, tmp_path: Path) -> None:
    numbered = [{"id": number, **row} for number, row in enumerate(rows())]
    spark.createDataFrame(numbered).repartition(4).write.parquet(str(tmp_path / "in.parquet"))

    frame = module.classify(spark.read.parquet(str(tmp_path / "in.parquet")))
    frame.write.parquet(str(tmp_path / "out.parquet"))
    found = spark.read.parquet(str(tmp_path / "out.parquet")).orderBy("id").collect()

    assert [row["target_label"] for row in found] == csv_labels(tmp_path)
    assert [row["log_message"] for row in found] == [row["log_message"] for row in rows()]


def test_every_process_loads_once_and_both_workers_work(spark: Any, module: ModuleType) -> None:
    """Seen by the folders that the processes made for what they were given."""

    def processes(batches: Any) -> Any:
        import os

        import logclf_spark
        import pyarrow

        columns = logclf_spark.Columns(None, "log_message", "label", False)
        for _ in logclf_spark.labelled(batches, columns):
            loads = logclf_spark._loaded.cache_info().misses
            yield pyarrow.RecordBatch.from_arrays([[os.getpid()], [loads]], names=["pid", "loads"])

    frame = spark.createDataFrame(rows()).repartition(16)
    found = frame.mapInArrow(processes, "pid long, loads long").collect()

    assert len(found) >= 16
    seen = {(row["pid"], row["loads"]) for row in found}
    assert len({pid for pid, _ in seen}) == 2
    assert len(seen) == 2, "each counts what it loaded before, for others, and one load more"


def test_no_other_column_changes(spark: Any, module: ModuleType) -> None:
    """pandas would make floats of integers where some are missing."""
    frame = spark.sql(
        "SELECT * FROM VALUES (9007199254740993L, 'a', 'Failed password for root', array(1, NULL)),"
        " (NULL, NULL, NULL, NULL) AS t(big, source, log_message, list)"
    )

    found = module.classify(frame, explain=True).collect()

    assert [row["big"] for row in found] == [9007199254740993, None]
    assert [row["list"] for row in found] == [[1, None], None]
    assert (found[1]["target_label"], found[1]["rule"], found[1]["stage"]) == ("Unclassified", "no_message", "none")


def test_own_rules_and_remembered_verdicts_travel_with_the_job(spark: Any, module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULE)
    state = ["--state-dir", str(tmp_path / "state")]
    line = "qwxyz plumbus inverter has frobnicated the gleeb"
    subprocess.run(
        [*command(), "verdicts", "set", line, "User Action", "--source", "app", *state], check=True, capture_output=True
    )
    exported = subprocess.run([*command(), "verdicts", "export", *state], check=True, capture_output=True).stdout
    (tmp_path / "verdicts.jsonl").write_bytes(exported)
    frame = spark.createDataFrame([("app", "a zorble"), ("app", line)], ["source", "log_message"])

    found = module.classify(
        frame, rules=[tmp_path / "rules.yaml"], verdicts=tmp_path / "verdicts.jsonl", explain=True
    ).collect()

    assert [(row["target_label"], row["stage"]) for row in found] == [
        ("Workflow Error", "rules"),
        ("User Action", "llm"),
    ]


def test_a_stream_labels_what_is_new(spark: Any, module: ModuleType, tmp_path: Path) -> None:
    incoming, out = str(tmp_path / "in"), str(tmp_path / "out")
    schema = "source string, log_message string"

    def pass_over() -> int:
        stream = module.classify(spark.readStream.schema(schema).parquet(incoming)).writeStream.format("parquet")
        stream = stream.option("checkpointLocation", str(tmp_path / "checkpoint")).trigger(availableNow=True)
        stream.start(out).awaitTermination()
        return int(spark.read.parquet(out).count())

    first = spark.createDataFrame(rows()[:10], schema)
    first.write.parquet(incoming)
    counted = pass_over()
    first.limit(3).write.mode("append").parquet(incoming)

    assert counted == 10
    assert pass_over() == 13
    assert spark.read.parquet(out).filter("target_label IS NULL").count() == 0


def test_a_missing_column_is_told_at_once(spark: Any, module: ModuleType) -> None:
    frame = spark.createDataFrame([("a", "b")], ["source", "text"])

    with pytest.raises(ValueError, match="no column 'log_message'"):
        module.classify(frame)


def test_spark_submit_labels_a_table(spark: Any, tmp_path: Path) -> None:
    import pyspark

    submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    table = spark.createDataFrame(rows()[:20])
    table.write.parquet(str(tmp_path / "in.parquet"))
    arguments = ["--master", "local[2]", "--py-files", str(FOLDER / "logclf_spark.py"), str(FOLDER / "submit.py")]

    subprocess.run(
        [submit, *arguments, str(tmp_path / "in.parquet"), str(tmp_path / "out.csv"), "--explain"],
        check=True,
        capture_output=True,
        timeout=400,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )

    found = spark.read.options(header=True).csv(str(tmp_path / "out.csv"))
    assert found.columns == ["log_message", "source", "target_label", "confidence", "stage", "rule"]
    assert found.count() == 20
