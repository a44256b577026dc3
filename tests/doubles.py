"""Small real doubles that many tests share. Seeds are fixed; nothing here sleeps to wait."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from logclf_daemon.cascade import Cascade
from logclf_daemon.errors import OutputUnavailable, RecordRejected, StageError
from logclf_daemon.generation import Generation
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.protocols import Stage
from logclf_daemon.record import Batch, Question, Verdict
from logclf_daemon.stages._rules.files import Rule, RuleOptions
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.waiting import WaitingRoom


def rule(pattern: str, label: str = "Error", **more: object) -> Rule:
    """A rule as if from a file."""
    name = str(more.pop("id", f"r{abs(hash((pattern, label))) % 10**9}"))
    options = RuleOptions.model_validate({"id": name, "label": label, "pattern": pattern, "examples": ["-"], **more})
    return Rule(options, Path("test.yaml"), 1, 1)


class FixedStage:
    """Answers by the words of a template; counts what it is asked."""

    def __init__(
        self, answers: dict[str, str] | None = None, *, name: str = "model", confidence: float | None = 0.9
    ) -> None:
        self.name = name
        self.asked: list[Question] = []
        self._answers = answers or {}
        self._confidence = confidence

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.asked += questions
        return [self._verdict(question.text) for question in questions]

    def _verdict(self, text: str) -> Verdict | None:
        for word, label in self._answers.items():
            if word in text:
                return Verdict(label, self._confidence, self.name)
        return None


class ChaosStage:
    """Answers, abstains, raises, or answers too few questions, at random."""

    name = "model"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        dice = self._random.random()
        if dice < 0.2:
            raise StageError("chaos")
        if dice < 0.4:
            raise RuntimeError("chaos")
        if dice < 0.6:
            return []
        return [Verdict("Error", 0.9, "model") if self._random.random() < 0.5 else None for _ in questions]


class SlowStage(FixedStage):
    """An LLM whose answers come when the test says so."""

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        super().__init__(answers, name="llm")
        self.go_on = threading.Event()
        self.reason: str | None = None
        self.warm = False
        self.looks: int | None = None  # since one was due

    def unavailable(self) -> str | None:
        return self.reason

    def warm_up(self) -> None:
        self.warm = True

    def due(self) -> bool:
        return self.looks is not None

    def look(self) -> None:
        assert self.looks is not None
        self.looks += 1
        self.go_on.wait(20)

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        self.go_on.wait(20)
        return super().classify(questions)


class ChaosOutput(MemoryOutput):
    """Away, slow or fine, at random; refuses what holds `poison` for good."""

    def __init__(self, seed: int, *, away: float = 0.5, poison: bytes | None = None) -> None:
        super().__init__(name="chaos")
        self._random = random.Random(seed)
        self._away = away
        self._poison = poison

    async def write(self, batch: Batch) -> None:
        await asyncio.sleep(self._random.random() / 1000)
        if self._poison is not None and any(line is not None and self._poison in line for line in batch.lines or ()):
            raise RecordRejected("poison")
        if self._random.random() < self._away:
            raise OutputUnavailable("away")
        await super().write(batch)


def cascade(
    rules: Sequence[Rule] = (), stages: Sequence[Stage] = (), *, waiting: WaitingRoom | None = None, **more: object
) -> Cascade:
    """A real cascade over these rules and stages."""
    generation = Generation(1, RuleSet(rules), stages, Taxonomy())
    return Cascade(generation, waiting=waiting, **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], object], *, secs: float = 30.0) -> None:
    """Poll until the condition holds; fails at the deadline."""
    deadline = asyncio.get_running_loop().time() + secs
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)
