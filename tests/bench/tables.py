"""`logclf-daemon csv` end to end: rate, processor time and peak memory, for two sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hotpath import shipped_rules
from logclf_daemon.cascade import Cascade
from logclf_daemon.generation import Generation
from logclf_daemon.resources import cache_directory
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.table import TableOptions, classify_table
from logclf_daemon.taxonomy import Taxonomy
from measure import cpu_secs, table
from traffic import lines

ROOT = Path(__file__).parents[2]
ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
DISTINCT = 200_000  # lines, written again and again with other numbers in the first column
SOURCES = 20
MANY = 1_000_000  # beyond, only what memory is about: BENCH_ROWS=10000000 takes minutes as it is


def _rows(count: int, *, quoted: bool) -> Iterator[bytes]:
    """Rows of mixed logs; `quoted`: where a CSV writer would, which is about every third."""
    texts = lines(min(count, DISTINCT))
    cells = [
        b'"' + text.replace(b'"', b'""') + b'"'
        if quoted and (b'"' in text or b"," in text)
        else text.replace(b'"', b"'").replace(b",", b";")
        for text in texts
    ]
    for at in range(count):
        yield b"%08d,app%d,%s\n" % (at, at % SOURCES, cells[at % len(cells)])


def write_table(path: Path, count: int, *, quoted: bool) -> None:
    """A CSV of `count` rows, the same at every run."""
    with path.open("wb", buffering=1 << 20) as file:
        file.write(b"id,source,log_message\n")
        file.writelines(_rows(count, quoted=quoted))


def measured(*arguments: str) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak KiB of a command on one core, its children included."""
    command = [sys.executable, "-m", "logclf_daemon", "csv", "--no-llm", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'training'}"}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss


def csv_table() -> None:
    """A part of the rows and all of them: what is common to both runs (loading, each template once) is not the rate."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "in.csv", folder / "out.csv"
        for quoted in (False, True) if ROWS <= MANY else (True,):
            words = "every third row quoted" if quoted else "no quotes"
            runs = []
            for count in (max(ROWS // 5, DISTINCT), ROWS):
                write_table(source, count, quoted=quoted)
                secs, cpu, peak = measured(str(source), "-o", str(out))
                runs.append((count, cpu, peak))
                rate = f"{count / cpu:9,.0f} rows per core second"
                results.append((f"{count} rows, {words}, end to end", f"{rate}, {secs:6.1f} s, peak {peak >> 10} MiB"))
            (few, few_cpu, few_peak), (many, many_cpu, many_peak) = runs
            if many > few:
                warm = (many - few) / max(many_cpu - few_cpu, 1e-9)
                more = f"{(many_peak - few_peak) / 1024:+.0f} MiB for {many / few:.0f} times the rows"
                results.append((f"the same, warm templates, {words}", f"{warm:9,.0f} rows per core second, {more}"))
        for jobs in ("1", "2") if ROWS <= MANY else ():
            secs, cpu, _ = measured(str(source), "-o", str(out), "--jobs", jobs)
            results.append((f"{ROWS} rows, --jobs {jobs}", f"{ROWS / secs:9,.0f} rows/s, {cpu:6.1f} core seconds"))
    results += _parts()
    table("csv", results)


def _parts() -> list[tuple[str, str]]:
    """What the table costs beside the cascade, on warm templates without the model: holds on a noisy machine too."""
    import asyncio
    import io

    count = 100_000
    rows = [row.rstrip(b"\n").split(b",", 2) for row in _rows(count, quoted=False)]
    whole = io.BytesIO(b"id,source,log_message\n" + b"".join(_rows(count, quoted=False)))
    quoted = io.BytesIO(b"id,source,log_message\n" + b"".join(_rows(count, quoted=True)))
    groups: dict[bytes, list[bytes | None]] = {}
    for _, source, text in rows:
        groups.setdefault(source, []).append(text)
    cascade = Cascade(Generation(1, RuleSet(shipped_rules(300), cache_directory()), [], Taxonomy()))

    async def only() -> None:
        for source, texts in groups.items():
            await cascade.classify(source.decode(), texts)

    def through(reader: io.BytesIO) -> None:
        reader.seek(0)
        asyncio.run(classify_table(reader, io.BytesIO(), cascade, TableOptions()))

    asyncio.run(only())
    alone = cpu_secs(lambda: asyncio.run(only()))
    found = [("the cascade alone, warm", f"{alone / count * 1e6:6.2f} us a row")]
    for words, reader in (("no quotes", whole), ("every third row quoted", quoted)):
        secs = cpu_secs(lambda reader=reader: through(reader))  # type: ignore[misc]
        found.append(
            (f"with the table around it, {words}", f"{secs / count * 1e6:6.2f} us a row, {secs / alone:.2f} times")
        )
    cascade.close()
    return found
