"""`python tests/bench/bench.py [what …]`: print what this machine does. Pin it: `taskset -c 0 python …`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "daemon"), str(HERE.parents[1] / "training")]

import hotpath  # noqa: E402
import llm  # noqa: E402
import replay  # noqa: E402
import scrape  # noqa: E402
import spark  # noqa: E402
import start  # noqa: E402
import tables  # noqa: E402
import whole  # noqa: E402
from measure import machine  # noqa: E402

PARTS = {
    "path": hotpath.whole_path,
    "pieces": hotpath.pieces,
    "hostile": hotpath.hostile,
    "telemetry": hotpath.telemetry,
    "baselines": hotpath.baselines,
    "model": hotpath.model,
    "loopback": whole.loopback,
    "latency": whole.latency,
    "files": whole.files,
    "save": whole.save,
    "memory": whole.memory,
    "start": start.start,
    "idle": start.idle,
    "scrape": scrape.scrape,
    "llm-hanging": llm.hanging,
    "llm-memory": llm.memory,
    "llm-cached": llm.cached,
    "llm-replay": replay.replay,
    "csv": tables.csv_table,
    "spark": spark.spark,
}


def main() -> None:
    """Run the named parts, or all."""
    wanted = sys.argv[1:] or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    print(machine())
    for name in wanted:
        PARTS[name]()


if __name__ == "__main__":
    main()
