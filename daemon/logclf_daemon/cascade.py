"""THE HOT PATH: every line gets its verdict from the cheapest stage that is sure.

What is known of a line is looked up (`generation.py`); only templates never seen in this generation go to the later
stages, once each. Nothing here logs, counts or builds a dict for a single record; work is done a batch at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from msgspec import Raw

from logclf_daemon.codec import encode, message_lines, sealed_with
from logclf_daemon.enrichment import Enrichment
from logclf_daemon.failpoint import reached
from logclf_daemon.generation import NO_RULE, Answer, Generation, Known, ask_stage, source_class, template_key
from logclf_daemon.protocols import Stage
from logclf_daemon.record import AnyRecord, Batch, Question, Record, Verdict, abstention
from logclf_daemon.tap import Tap
from logclf_daemon.template import template_id, text_of
from logclf_daemon.traffic import Traffic
from logclf_daemon.waiting import WaitingRoom

SLICE = 1024  # lines at a time; 64-1024 measured best, 4096 is a quarter slower
ASKED_TOGETHER = 16  # templates a turn: a batch full of new ones must not hold up the few of others


@dataclass(slots=True)
class Late:
    """Records that wait for the LLM: their positions, and the answer when it comes."""

    known: Known
    positions: list[int]
    future: asyncio.Future[Verdict]


@dataclass(slots=True)
class Classified:
    """An answer for each line; None only at the positions of `late`."""

    answers: list[Answer | None]
    late: list[Late] = field(default_factory=list)


@dataclass(slots=True)
class Step:
    """What one stage said of a line, for `explain`."""

    stage: str
    verdict: Verdict | None
    secs: float

    def fields(self) -> dict[str, object]:
        """What was said, for people and programs."""
        verdict = self.verdict
        return {
            "stage": self.stage,
            "label": None if verdict is None or verdict.abstained else verdict.label,
            "confidence": None if verdict is None else verdict.rounded,
            "rule": verdict.rule if verdict else None,
            "reason": verdict.reason if verdict else None,
            "microseconds": round(self.secs * 1e6, 1),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a line gets its label."""

    line: bytes
    question: Question
    steps: Sequence[Step]
    answer: Answer

    def fields(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "line": self.line.decode("utf-8", "replace"),
            "template": self.question.text,
            "logclf": self.answer.fields,
            "steps": [step.fields() for step in self.steps],
        }


class Cascade:
    """Classifies lines for `run`, `csv`, `explain` and HTTP alike.

    `generation` is replaced as a whole on reload; a batch takes the reference once and sees one version.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        waiting: WaitingRoom | None = None,
        message_keys: Sequence[str] = ("log", "message", "MESSAGE", "msg", "log_message"),
        field_name: str = "logclf",
        flatten: bool = False,
        enrichment: Enrichment | None = None,
        local_wait_secs: float = float("inf"),
        traffic: Traffic | None = None,
    ) -> None:
        self.generation = generation
        self.taps: list[Tap] = []
        self.traffic = Traffic() if traffic is None else traffic
        self.waiting = waiting
        self._message_keys = tuple(message_keys)
        self._field = field_name
        self._flatten = flatten
        self._enrichment = enrichment
        self._local_wait_secs = local_wait_secs
        self.asked_since: float | None = None  # when the worker took the templates it has now
        self.answered_at = time.monotonic()  # when it was done with the last
        # One thread: the stages are not asked to be thread-safe, and the model uses one core by default.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stages")

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def classify_batch(self, batch: Batch) -> Classified:
        """Classify the records of a batch; nothing is attached yet."""
        lines = batch.lines if batch.lines is not None else message_lines(batch.records, self._message_keys)
        if batch.passthrough:
            lines = [None if at in batch.passthrough else line for at, line in enumerate(lines)]
        classified = await self.classify(batch.source, lines)
        for tap in self.taps:
            tap.offer(batch.source, lines, classified.answers)
        return classified

    async def classify(self, source: str, lines: Sequence[bytes | None]) -> Classified:
        """An answer for each line. Lines only the LLM can answer come `late`."""
        generation = self.generation
        deadline = asyncio.get_running_loop().time() + self._local_wait_secs
        if len(lines) <= SLICE:
            return await self._classify(generation, source, lines, 0, deadline)
        whole = Classified([])
        for start in range(0, len(lines), SLICE):
            part = await self._classify(generation, source, lines[start : start + SLICE], start, deadline)
            whole.answers += part.answers
            whole.late += part.late
            await asyncio.sleep(0)  # other connections and timers have their turn between slices
        return whole

    async def _classify(
        self, generation: Generation, source: str, lines: Sequence[bytes | None], start: int, deadline: float
    ) -> Classified:
        answers, opened = generation.recall(source, lines)
        result = Classified(answers)
        if opened:
            await self._ask_local(generation, opened, deadline)
            for known, positions in opened:
                answer = known.answer or self._open_answer(known, [start + at for at in positions], result)
                for at in positions:
                    answers[at] = answer
        self.traffic.add(answers)
        return result

    async def _ask_local(
        self, generation: Generation, opened: Sequence[tuple[Known, list[int]]], deadline: float
    ) -> None:
        """Ask the local stages about templates never seen, for as long as a batch may wait; the rest stays open.

        A flood of new templates costs that wait and no more: what is still open then leaves as `model_busy` and is
        asked again when it comes again.
        """
        fresh = [known for known, _ in opened if known.local is None]
        loop = asyncio.get_running_loop()
        for start in range(0, len(fresh), ASKED_TOGETHER):
            if loop.time() > deadline:
                break
            asked = fresh[start : start + ASKED_TOGETHER]
            questions = [known.question for known in asked]
            verdicts = await loop.run_in_executor(self._executor, self._ask_stages, generation, questions)
            for known, verdict in zip(asked, verdicts, strict=True):
                known.local = verdict
                open_still = verdict.abstained or (
                    verdict.provisional and self.waiting is not None and self.waiting.renews
                )
                if self.waiting is None or not open_still:
                    known.answer = known.answer_of(verdict)

    def _ask_stages(self, generation: Generation, questions: Sequence[Question]) -> list[Verdict]:
        """In the worker thread, with the time of it: what takes too long here has come to a stand."""
        self.asked_since = time.monotonic()
        reached("asked")
        try:
            return generation.ask(questions)
        finally:
            self.answered_at, self.asked_since = time.monotonic(), None

    def _open_answer(self, known: Known, positions: list[int], result: Classified) -> Answer | None:
        """For a template that rules, memory and model left open; None if its records wait for the LLM."""
        if known.local is None:
            return known.answer_of(abstention("model_busy"))
        if self.waiting is None:  # switched off while the model was asked
            return known.answer_of(known.local)
        if not known.local.abstained:
            self._renew(known)
            return known.answer_of(known.local)
        return self._ask_llm(known, positions, result)

    def _ask_llm(self, known: Known, positions: list[int], result: Classified) -> Answer | None:
        """The LLM's answer now, or why there is none; None if the records at `positions` wait for it."""
        assert self.waiting is not None
        assert known.local is not None
        asked = self.waiting.ask(replace(known.question, guess=known.local.guess), len(positions))
        if isinstance(asked, Verdict):
            return known.answer_of(asked)
        asked.add_done_callback(lambda done: _remember(known, done))
        result.late.append(Late(known, positions, asked))
        return None

    def _renew(self, known: Known) -> None:
        """Ask again what a provisional verdict answers; no record waits for that."""
        assert self.waiting is not None
        asked = self.waiting.ask(known.question, 0)
        if not isinstance(asked, Verdict) and asked is not known.renewal:
            known.renewal = asked
            asked.add_done_callback(lambda done: _remember(known, done))

    async def settle_late(self, late: Sequence[Late], answers: list[Answer | None]) -> None:
        """Wait for the LLM, at most as long as the waiting room allows; fill in what it said or why it did not."""
        if not late:
            return
        assert self.waiting is not None
        verdicts = await self.waiting.collect([(item.future, len(item.positions)) for item in late])
        for item, verdict in zip(late, verdicts, strict=True):
            answer = item.known.answer_of(verdict)
            for at in item.positions:
                answers[at] = answer
        self.traffic.add([answers[at] for item in late for at in item.positions])
        for tap in self.taps:
            for item in late:
                tap.offer(item.known.question.source, [item.known.question.example], [answers[item.positions[0]]])

    def take_seen(self) -> Mapping[tuple[str, str], int]:
        """How many records each verdict of the LLM or a person answered since this was last asked."""
        return self.traffic.take_used()

    def attach(
        self, records: Sequence[AnyRecord], answers: Sequence[Answer | None], passthrough: frozenset[int] = frozenset()
    ) -> None:
        """Write each answer into its record: one map under the field, or flat fields."""
        if passthrough:
            kept = [at for at in range(len(records)) if at not in passthrough]
            records, answers = [records[at] for at in kept], [answers[at] for at in kept]
        if self._enrichment is not None:
            self._enrichment.add(records, answers)
        name = self._field
        try:
            if not self._flatten:
                for record, answer in zip(records, answers, strict=True):
                    record.fields[name] = answer.raw  # type: ignore[union-attr]
                return
        except AttributeError:
            pass  # a sealed record among them: none of its bytes may change
        for record, answer in zip(records, answers, strict=True):
            assert answer is not None
            extra = self._flat(answer) if self._flatten else {name: answer.raw}
            if isinstance(record, Record):
                record.fields |= extra
            else:
                record.body = sealed_with(record.body, extra)

    def _flat(self, answer: Answer) -> dict[str, Raw]:
        return {f"{self._field}_{name}": Raw(encode(value)) for name, value in answer.fields.items()}

    async def explain(self, source: str, line: bytes) -> Explanation:
        """Ask every local stage about a line, whatever the earlier ones said; the LLM only where its answer counts."""
        generation = self.generation
        started = time.perf_counter()
        (number,), kept = generation.rules.match(source, [line])
        verdict = None if number == NO_RULE else generation.rules.verdict(number)
        steps = [Step("rules", verdict, time.perf_counter() - started)]
        template = template_key(line, kept.get(0))
        question = Question(template_id(template), text_of(template), source_class(source), line)
        loop = asyncio.get_running_loop()
        steps += [await loop.run_in_executor(self._executor, _step, stage, question) for stage in generation.stages]
        started = time.perf_counter()
        classified = await self.classify(source, [line or None])
        await self.settle_late(classified.late, classified.answers)
        answer = classified.answers[0]
        assert answer is not None
        if classified.late or (answer.verdict.reason or "").startswith("llm_"):
            steps.append(Step("llm", answer.verdict, time.perf_counter() - started))
        return Explanation(line, question, steps, answer)


def _step(stage: Stage, question: Question) -> Step:
    started = time.perf_counter()
    (verdict,) = ask_stage(stage, [question])
    return Step(stage.name, verdict, time.perf_counter() - started)


def _remember(known: Known, done: asyncio.Future[Verdict]) -> None:
    if not done.cancelled() and done.exception() is None and not done.result().abstained:
        known.answer = known.answer_of(done.result())
