"""Metrics and readiness tell the truth."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from doubles import FixedStage, cascade, rule
from logclf_daemon.build import Parts
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config
from logclf_daemon.inputs._tail.lag import Lag
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.metrics import value
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.protocols import Input
from logclf_daemon.record import Batch
from logclf_daemon.stages.llm import LlmOptions, LlmStage
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.telemetry import Running
from tail_doubles import Rig


def running(
    tested: Cascade | None = None, inputs: Sequence[Input] = (), slots: Sequence[OutputSlot] = (), *, llm: bool = False
) -> Running:
    tested = tested or cascade([rule("known")], [FixedStage({"other": "User Action"})])
    stage = LlmStage(LlmOptions(), Taxonomy()) if llm else None
    parts = Parts(Config(), RuleSet([rule("known")]), None, None, stage)
    return Running(Config(), parts, tested, 3, time.monotonic(), pipeline=Pipeline(inputs, tested, slots))


def names(exposition: bytes) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", exposition.decode(), re.MULTILINE))


def test_everything_the_contract_names_is_exposed() -> None:
    wanted = """records_read records_delivered records_dropped records_in_flight verdicts stage_seconds cache_hits
        llm_calls llm_state input_lag_seconds input_lag_bytes output_failures reloads generation templates_new
        build_info model_llm_answers"""

    found = names(running().metrics())

    for name in wanted.split():
        assert {f"logclf_{name}", f"logclf_{name}_total"} & found, name


def test_the_label_sets_are_small_and_fixed() -> None:
    allowed = {"input", "output", "stage", "label", "reason", "outcome", "state", "tier", "result", "what", "where"}
    allowed |= {"agree", "version", "python", "model", "le", "part", "library", "why", "server"}

    found = set(re.findall(r'[{,](\w+)="', running().metrics().decode()))

    assert found <= allowed


def test_a_scrape_after_a_thousand_templates_takes_a_moment() -> None:
    tested = cascade([rule("known")])
    asyncio.run(tested.classify("app", [f"{'x' * number} hello".encode() for number in range(1000)]))
    looked = running(tested)

    looked.metrics()
    started = time.perf_counter()
    looked.metrics()

    assert time.perf_counter() - started < 5  # 3 ms on a quiet machine; the benchmark measures it


def test_caches_are_counted_by_tier() -> None:
    tested = cascade([rule("known")])
    before = {
        (word, tier): value(f"logclf_cache_{word}_total", tier=tier)
        for word in ("hits", "misses")
        for tier in ("fold", "template")
    }

    asyncio.run(tested.classify("app", [b"disk 11 full", b"disk 22 full", b"disk 333 full"]))
    asyncio.run(tested.classify("app", [b"disk 44 full"]))

    gained = {key: value(f"logclf_cache_{key[0]}_total", tier=key[1]) - count for key, count in before.items()}
    assert gained == {
        ("hits", "fold"): 2,
        ("misses", "fold"): 2,
        ("hits", "template"): 1,
        ("misses", "template"): 1,
    }


def test_an_output_away_for_a_minute_is_a_reason_not_to_be_ready() -> None:
    slot = OutputSlot(MemoryOutput(name="forward.0"))
    looked = running(inputs=[MemoryInput([])], slots=[slot])
    assert looked.troubles() == []

    slot.away_since = time.monotonic() - 59
    assert looked.troubles() == []
    slot.away_since = time.monotonic() - 61

    assert looked.troubles() == ["output forward.0: unavailable for 61 s"]
    slot.error = "127.0.0.1:24999: Connection refused"
    assert looked.troubles() == ["output forward.0: unavailable for 61 s: 127.0.0.1:24999: Connection refused"]
    looked.metrics()
    assert value("logclf_ready") == 0
    assert 61 <= value("logclf_output_away_seconds", output="forward.0") < 90


def test_an_output_that_may_be_away_never_makes_it_unready() -> None:
    slot = OutputSlot(MemoryOutput(), required=False, away_since=time.monotonic() - 600)

    assert running(inputs=[MemoryInput([])], slots=[slot]).troubles() == []


def test_a_daemon_that_drains_is_not_ready() -> None:
    looked = running(inputs=[MemoryInput([])])
    assert looked.pipeline is not None
    assert looked.troubles() == []

    looked.pipeline.stop()

    assert looked.troubles() == ["draining: it reads no more and delivers what is under way"]


def test_counts_are_whole_numbers() -> None:
    looked = running(inputs=[MemoryInput([], name="whole")], slots=[OutputSlot(MemoryOutput(name="whole"))])

    facts = [looked.live()["inputs"]["whole"], looked.live()["outputs"]["whole"]]

    assert [name for fact in facts for name, count in fact.items() if isinstance(count, float)] == ["lag_secs"]


def test_no_inputs_is_a_reason() -> None:
    assert running(slots=[OutputSlot(MemoryOutput())]).troubles() == ["inputs: there are none"]


def test_a_reload_that_was_refused_is_told_until_one_is_taken() -> None:
    looked = replace(running(inputs=[MemoryInput([])]), refused="own.yaml:3: one\nown.yaml:4: two")

    assert looked.troubles() == []
    assert looked.notes() == ["reload refused, generation 3 stays: own.yaml:3: one (and 1 more)"]
    assert looked.notes(to_anyone=True) == ["reload refused, generation 3 stays; its log says why"]


def test_a_model_the_llm_does_not_have_is_told_with_what_to_do() -> None:
    looked = running(inputs=[MemoryInput([])], llm=True)
    assert looked.parts.llm is not None
    looked.parts.llm.state, looked.parts.llm.trouble = "model_missing", "run: ollama pull qwen3:1.7b"

    assert looked.notes() == [
        "llm: model_missing: run: ollama pull qwen3:1.7b; lines it would have decided stay Unclassified"
    ]
    looked.parts.llm.close()


def test_a_verdict_memory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    looked = replace(running(inputs=[MemoryInput([])]), directory=tmp_path)

    assert looked.troubles() == []
    assert looked.notes() == ["verdicts: cache.db cannot be used; mend it, then: logclf-daemon ctl reload"]


def test_a_dead_ollama_is_named_and_no_reason_not_to_be_ready() -> None:
    looked = running(inputs=[MemoryInput([])], llm=True)
    assert looked.parts.llm is not None
    looked.parts.llm.state = "absent"

    assert looked.troubles() == []
    assert looked.notes() == ["llm: absent; lines it would have decided stay Unclassified"]
    looked.metrics()
    assert value("logclf_llm_state", state="absent") == 1
    assert value("logclf_llm_state", state="ready") == 0
    looked.parts.llm.close()


def test_the_oldest_batch_that_is_not_settled_tells_the_lag() -> None:
    now = 100.0
    held = asyncio.Event()

    class Held(MemoryOutput):
        async def write(self, batch: Batch) -> None:
            await held.wait()

    async def scenario() -> dict[str, tuple[float, int]]:
        nonlocal now
        tested = Pipeline([], cascade(), [Held()], clock=lambda: now)
        await tested.emit(Batch("a", [], input="one", size=10))
        now += 5
        await tested.emit(Batch("b", [], input="one", size=7))
        now += 2
        found = tested.unsettled()
        held.set()
        await tested.run()
        assert tested.unsettled() == {}
        return found

    assert asyncio.run(scenario()) == {"one": (7.0, 17)}


def test_lag_is_the_age_of_the_oldest_unread_byte() -> None:
    lag = Lag(0.0)
    lag.note(read=0, unread=100, now=10.0)
    lag.note(read=50, unread=150, now=20.0)
    assert lag.secs(25.0) == 15.0

    lag.note(read=120, unread=80, now=30.0)
    assert lag.secs(35.0) == 15.0  # what appeared by 10 was read, what appeared by 20 not
    lag.note(read=200, unread=0, now=40.0)
    assert lag.secs(99.0) == 0.0


def test_a_file_that_goes_away_unread_leaves_no_lag_behind() -> None:
    lag = Lag(0.0)
    lag.note(read=0, unread=1000, now=10.0)
    lag.note(read=0, unread=5, now=20.0)
    assert lag.secs(21.0) == 11.0

    lag.note(read=5, unread=0, now=30.0)
    assert lag.secs(31.0) == 0.0


def test_reading_that_stands_still_is_told_from_reading_that_is_behind() -> None:
    lag = Lag(0.0)
    lag.note(read=0, unread=100, now=0.0)
    lag.note(read=10, unread=100, now=50.0)
    assert lag.still_secs(60.0) == 10.0

    lag.note(read=110, unread=0, now=70.0)
    assert lag.still_secs(1000.0) == 0.0


def test_files_tell_what_is_not_delivered_yet(tmp_path: Path) -> None:
    with Rig(tmp_path, name="lagging") as rig:
        rig.acknowledging = False
        (rig.folder / "a.log").write_text("one\ntwo\n")
        rig.step(1)
        rig.step(1)
        assert value("logclf_input_lag_bytes", input="lagging") == 8

        rig.acknowledge()
        rig.step(1)
        rig.step(1)
        assert value("logclf_input_lag_bytes", input="lagging") == 0
        assert rig.tailer.lag.secs(rig.now) == 0
