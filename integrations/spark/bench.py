"""Rows a second on 1 and on 2 cores: python bench.py [ROWS]. Prints Markdown."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
LINES = (
    "Failed password for root from 203.0.113.{0} port {1} ssh2",
    "GET /api/v1/items/{1} HTTP/1.1 200 {0}",
    "Backup of volume {1} completed in {0} seconds",
    "worker {0}: out of memory: killed process {1}",
    "user {1} logged in from 198.51.100.{0}",
    "cache hit ratio {0}% after {1} requests",
)


def one(cores: int, rows: int) -> None:
    """Warm up, then time a pass over a table that is in memory; the result is counted, not kept."""
    from logclf_spark import classify
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    texts = ", ".join(f"'{line}'" for line in LINES)
    frame = (
        spark.range(rows, numPartitions=cores * 2)
        .selectExpr(
            "'app' AS source",
            f"replace(replace(array({texts})[int(id % {len(LINES)})], '{{0}}', string(id % 200)), '{{1}}', string(id))"
            " AS log_message",
        )
        .cache()
    )
    frame.count()
    classify(frame).limit(1000).collect()
    started = time.perf_counter()
    counted = classify(frame).groupBy("target_label").count().collect()
    secs = time.perf_counter() - started
    assert sum(row["count"] for row in counted) == rows
    print(f"| {cores} | {rows:,} | {secs:.1f} | {rows / secs:,.0f} |", flush=True)
    spark.stop()


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    if len(sys.argv) > 2:
        return one(int(sys.argv[2]), rows)
    print("| cores | rows | seconds | rows/s |\n|---|---|---|---|", flush=True)
    for cores in (1, 2):  # each in a process of its own: a JVM keeps what it learned
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, str(HERE / "bench.py"), str(rows), str(cores)], cwd=folder, check=True)
    return None


if __name__ == "__main__":
    main()
