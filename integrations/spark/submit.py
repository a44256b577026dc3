"""Label a table with Spark: spark-submit --py-files logclf_spark.py submit.py INPUT OUTPUT."""

from __future__ import annotations

import argparse
from pathlib import PurePath

from logclf_spark import classify
from pyspark.sql import DataFrame, SparkSession

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".orc": "orc"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="table or folder of tables; the format by its ending, else Parquet")
    parser.add_argument("output", help="folder that is made")
    parser.add_argument("--source-column", default="source", help="name of the column, or empty: there is none")
    parser.add_argument("--message-column", default="log_message")
    parser.add_argument("--label-column", default="target_label")
    parser.add_argument("--explain", action="store_true", help="also confidence, stage and rule")
    parser.add_argument("--config", help="configuration file of the daemon: its rules, model and labels count")
    parser.add_argument("--rules", action="append", default=[], help="rule file; may be given often")
    parser.add_argument("--verdicts", help="what `logclf-daemon verdicts export` wrote")
    parser.add_argument(
        "--stream", metavar="CHECKPOINT", help="read as a stream what is there, and next time what is new"
    )
    options = parser.parse_args()
    spark = SparkSession.builder.appName("logclf-daemon").getOrCreate()

    def labelled(frame: DataFrame) -> DataFrame:
        return classify(
            frame,
            source_column=options.source_column or None,
            message_column=options.message_column,
            label_column=options.label_column,
            explain=options.explain,
            config=options.config,
            rules=options.rules,
            verdicts=options.verdicts,
        )

    read, written = format_of(options.input), format_of(options.output)
    there = spark.read.format(read).options(header=True).load(options.input)
    if options.stream is None:
        labelled(there).write.format(written).options(header=True).save(options.output)
    else:
        new = spark.readStream.format(read).options(header=True).schema(there.schema).load(options.input)
        stream = labelled(new).writeStream.format(written).option("checkpointLocation", options.stream)
        stream.trigger(availableNow=True).start(options.output).awaitTermination()
    spark.stop()


def format_of(path: str) -> str:
    """By the ending of the name; Parquet for a folder without one."""
    return FORMATS.get(PurePath(path).suffix, "parquet")


if __name__ == "__main__":
    main()
