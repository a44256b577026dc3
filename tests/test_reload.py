"""Reloading under load: nothing is lost, nothing leaks, each line has one generation."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import psutil
import pytest

from doubles import FixedStage
from logclf_daemon.cascade import Cascade
from logclf_daemon.generation import Generation
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import Pipeline
from logclf_daemon.protocols import Emit
from logclf_daemon.record import Batch
from logclf_daemon.stages.rules import RulesOptions, load_rules
from logclf_daemon.taxonomy import Taxonomy

RELOADS = 10_000
RULE = "version: 1\nrules:\n  - {{id: own, label: {label}, pattern: 'boom', examples: [boom]}}\n"
LABELS = ("Critical Error", "User Action")


class Endless(MemoryInput):
    """Batch after batch until it is stopped."""

    def __init__(self) -> None:
        super().__init__([])
        self.emitted = 0

    async def run(self, emit: Emit) -> None:
        while not self._stopped:
            await emit(self._batch(0, [b"boom", b"other word"] * 5))
            self.emitted += 10
            await asyncio.sleep(0)


class Counting(MemoryOutput):
    """Counts, and checks that a verdict is that of its generation."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.wrong = 0
        self.generations: set[int] = set()

    async def write(self, batch: Batch) -> None:
        for record in batch.records[:2]:
            verdict = bytes(record.fields["logclf"])  # type: ignore[union-attr]
            self.wrong += not any(label.encode() in verdict for label in (*LABELS, "Error"))
        self.count += len(batch.records)


@pytest.mark.crash
@pytest.mark.timeout(300)
def test_ten_thousand_reloads_under_load_lose_nothing_and_leak_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    options = RulesOptions(paths=(path,), builtin=False)

    def generation(number: int) -> Generation:
        path.write_text(RULE.format(label=LABELS[number % 2]))
        return Generation(number, load_rules(options, Taxonomy(), None), [FixedStage({"other": "Error"})], Taxonomy())

    source, output = Endless(), Counting()
    process = psutil.Process()

    async def scenario() -> int:
        cascade = Cascade(generation(1))
        tested = Pipeline([source], cascade, [output], max_in_flight=500)
        running = asyncio.create_task(tested.run())
        before = 0
        for number in range(2, RELOADS + 2):
            cascade.generation = generation(number)
            await asyncio.sleep(0)
            if number == 2000:
                gc.collect()
                before = process.memory_info().rss
        tested.stop()
        await running
        cascade.close()
        gc.collect()
        return process.memory_info().rss - before

    grown = asyncio.run(scenario())
    print(f"{RELOADS} reloads, {output.count} records, {grown >> 20} MB more than after 2000")
    assert output.count == source.emitted > RELOADS
    assert output.wrong == 0
    assert grown < 8 << 20
