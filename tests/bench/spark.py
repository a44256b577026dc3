"""Spark from Parquet to Parquet, on one core and on two, and how that scales: warm processes, medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = int(os.environ.get("BENCH_SPARK_ROWS", "1000000"))
DISTINCT, TEMPLATES = 20_000, 300  # lines and their forms, which each process learns before it is timed
FILES = 8
ROUNDS = 3


def spark() -> None:
    """The same files through `local[1]` on one core and `local[2]` on two: driver, JVM and Python all share them."""
    from measure import table

    cores = sorted(os.sched_getaffinity(0))
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_rows(folder / "in.parquet")
        rates = []
        for used in (cores[:1], cores[:2])[: len(cores)]:
            secs = _measured(folder, used)
            rates.append(ROWS / secs)
            results.append((f"{ROWS} rows, {len(used)} core", f"{rates[-1]:9,.0f} rows/s, {secs:6.1f} s"))
        if len(rates) == 2:
            results.append(("two cores", f"{rates[1] / rates[0]:.2f} times as fast as one"))
        else:
            results.append(("two cores", "not here: this process may use one only"))
    table("Spark, Parquet in and out, warm", results)


def _write_rows(target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from traffic import lines

    target.mkdir()
    texts = [line.decode("utf-8", "replace") for line in lines(DISTINCT, templates=TEMPLATES)]
    each = ROWS // FILES
    for file in range(FILES):
        places = range(file * each, ROWS if file == FILES - 1 else (file + 1) * each)
        columns = {
            "id": list(places),
            "source": [f"app{at % 20}" for at in places],
            "log_message": [texts[at % len(texts)] for at in places],
        }
        pq.write_table(pa.table(columns), target / f"{file}.parquet")


def _measured(folder: Path, cores: list[int]) -> float:
    """Median seconds of a pass, in a process that may use these cores only."""
    paths = [ROOT / "daemon", ROOT / "integrations" / "spark"]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(folder), ",".join(map(str, cores))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=folder,
    )
    secs: list[float] = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(secs)


def _passes(folder: Path, cores: list[int]) -> None:
    """One pass to warm up, then those that count; prints their seconds."""
    os.sched_setaffinity(0, cores)
    from logclf_spark import classify
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master(f"local[{len(cores)}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.files.maxPartitionBytes", "4m")  # whole files: as many tasks on one core as on two
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    secs = []
    for number in range(ROUNDS + 1):
        started = time.perf_counter()
        frame = session.read.parquet(str(folder / "in.parquet"))
        classify(frame).write.parquet(str(folder / f"out{len(cores)}.{number}.parquet"))
        secs.append(time.perf_counter() - started)
    assert session.read.parquet(str(folder / f"out{len(cores)}.1.parquet")).count() == ROWS
    session.stop()
    print(json.dumps(secs[1:]))


if __name__ == "__main__":
    _passes(Path(sys.argv[1]), [int(core) for core in sys.argv[2].split(",")])
