"""How good a model of the LLM's server is on labelled lines, and what it costs: for choosing one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from logclf_daemon.cascade import source_class
from logclf_daemon.errors import ServiceUnavailable
from logclf_daemon.quality import LabelledRow, calibration_error
from logclf_daemon.record import Question
from logclf_daemon.stages.llm import LlmStage, Spent
from logclf_daemon.template import template_id

LEVELS = (0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Sure:
    """The answers with at least this confidence: their share of all rows, and how many of them are right."""

    confidence: float
    answered: float
    right: float


@dataclass(frozen=True, slots=True)
class LlmQuality:
    """Figures of one model. `calibration_error` is None where the server tells no probabilities."""

    model: str
    rows: int
    questions: int
    answered: float
    right_of_answered: float
    calibration_error: float | None
    levels: list[Sure]
    secs_median: float
    secs_p95: float
    prompt_tokens: float
    answer_tokens: float
    labels: dict[str, tuple[int, int]]

    def as_json(self) -> dict[str, object]:
        """For a program."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        width = max(map(len, self.labels))
        measured = "not measured: the server tells no probabilities"
        if self.calibration_error is not None:
            measured = f"{self.calibration_error:.3f}"
        return "\n".join(
            [
                f"{self.model}: {self.rows} rows, {self.questions} questions (one a template)",
                f"  answers {self.answered:.1%}, {self.right_of_answered:.1%} of them right",
                f"  expected calibration error {measured}",
                *(
                    f"  confidence {level.confidence:.1f} or more: {level.answered:6.1%} of the rows, "
                    f"{level.right:.1%} of them right"
                    for level in self.levels
                    if self.calibration_error is not None
                ),
                f"  {self.secs_median:.2f} s a question (95 % within {self.secs_p95:.2f} s), "
                f"{self.prompt_tokens:.0f} tokens read and {self.answer_tokens:.0f} written",
                *(f"  {name:{width}}  {right:5d} of {rows} right" for name, (right, rows) in self.labels.items()),
            ]
        )


def measure(stage: LlmStage, rows: Sequence[LabelledRow], progress: Callable[[int], None] | None = None) -> LlmQuality:
    """Ask about each template of the rows once.

    Raises:
        ServiceUnavailable: The server does not answer.
    """
    asked: dict[Question, list[LabelledRow]] = {}
    known: dict[tuple[str, str], Question] = {}
    for row in rows:
        template, kind = template_id(row.text.encode("utf-8", "surrogatepass")), source_class(row.source)
        question = known.setdefault((template, kind), Question(template, row.text, kind, row.message))
        asked.setdefault(question, []).append(row)
    stage.warm_up()
    spent: list[Spent] = []
    verdicts = []
    for question, same in asked.items():
        stage.spent = None
        (verdict,) = stage.classify([question])
        if stage.breaker != "closed":
            raise ServiceUnavailable(f"{stage.shown_url}: {stage.state}; see `logclf-daemon doctor`")
        if stage.spent is not None:
            spent.append(stage.spent)
        verdicts += [(row, verdict) for row in same if verdict is not None]
        if progress is not None:
            progress(len(same))
    answers = [(row, verdict) for row, verdict in verdicts if not verdict.abstained]
    confidence = np.array([verdict.confidence for _, verdict in answers], np.float32)
    right = np.array([verdict.label == row.label for row, verdict in answers], bool)
    secs = sorted(one.secs for one in spent) or [0.0]
    names = dict.fromkeys(row.label for row in rows)
    return LlmQuality(
        model=stage.identity(),
        rows=len(rows),
        questions=len(asked),
        answered=len(answers) / len(rows),
        right_of_answered=float(right.mean()) if len(right) else 0.0,
        calibration_error=calibration_error(confidence, right, np.ones(len(right))) if confidence.any() else None,
        levels=[_sure(level, confidence >= level, right, len(rows)) for level in LEVELS],
        secs_median=statistics.median(secs),
        secs_p95=secs[min(len(secs) - 1, int(len(secs) * 0.95))],
        prompt_tokens=statistics.fmean(one.prompt_tokens for one in spent) if spent else 0.0,
        answer_tokens=statistics.fmean(one.answer_tokens for one in spent) if spent else 0.0,
        labels={
            name: (
                sum(row.label == verdict.label == name for row, verdict in answers),
                sum(row.label == name for row in rows),
            )
            for name in names
        },
    )


def _sure(level: float, chosen: np.ndarray, right: np.ndarray, rows: int) -> Sure:
    count = int(chosen.sum())
    return Sure(level, count / rows, float(right[chosen].mean()) if count else 0.0)
