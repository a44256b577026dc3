"""How good a model of the LLM's server is on labelled lines, and what it costs: for choosing one."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from logclf_daemon.errors import ServiceUnavailable
from logclf_daemon.generation import source_class
from logclf_daemon.quality import LabelledRow, calibration_error
from logclf_daemon.record import Question
from logclf_daemon.stages._llm.prior import corrected, likeliest
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
class PriorCorrection:
    """The same answers with and without `llm.prior_correction`: rows right, and those right in only one of the ways."""

    rows: int
    right_with: int
    right_without: int
    won: int
    lost: int

    def as_text(self, *, on: bool) -> str:
        """For people: whether it helps, and what to do."""
        helps = self.right_with > self.right_without
        if helps == on or self.right_with == self.right_without:
            todo = f"leave llm.prior_correction {'on' if on else 'off'}"
        else:
            todo = f"try llm.prior_correction: {'true' if helps else 'false'}"
        return (
            f"  prior correction: {self.right_with / self.rows:.1%} of {self.rows} answers right with it, "
            f"{self.right_without / self.rows:.1%} without ({self.won} won, {self.lost} lost); {todo}"
        )


@dataclass(frozen=True, slots=True)
class LlmQuality:
    """Figures of one model. `calibration_error` and `prior` are None where the server tells no probabilities."""

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
    prior: PriorCorrection | None = None
    prior_correction: bool = False  # whether it was on

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
                *([self.prior.as_text(on=self.prior_correction)] if self.prior is not None else ()),
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
    prior = stage.prior()
    both: list[tuple[bool, bool]] = []  # right with the prior divided out, and without
    spent: list[Spent] = []
    verdicts = []
    for question, same in asked.items():
        stage.spent = stage.said = None
        (verdict,) = stage.classify([question])
        if stage.breaker != "closed":
            raise ServiceUnavailable(f"{stage.shown_url}: {stage.state}: {stage.trouble}")
        if stage.spent is not None:
            spent.append(stage.spent)
        if prior is not None and stage.said is not None and stage.said.shares is not None:
            said = stage.said.label
            other = likeliest(corrected(stage.said.shares, prior), said)
            both += [(row.label == other, row.label == said) for row in same]
        verdicts += [(row, verdict) for row in same if verdict is not None]
        if progress is not None:
            progress(len(same))
    answers = [(row, verdict) for row, verdict in verdicts if not verdict.abstained]
    right = [verdict.label == row.label for row, verdict in answers]
    # Answers whose server told no probabilities say nothing of calibration.
    told = [at for at, (_, verdict) in enumerate(answers) if verdict.confidence is not None]
    confidence = np.array([answers[at][1].confidence for at in told], np.float32)
    right_of_told = np.array([right[at] for at in told], bool)
    secs = sorted(one.secs for one in spent) or [0.0]
    names = dict.fromkeys(row.label for row in rows)
    return LlmQuality(
        model=stage.identity(),
        rows=len(rows),
        questions=len(asked),
        answered=len(answers) / len(rows),
        right_of_answered=statistics.fmean(right) if right else 0.0,
        calibration_error=calibration_error(confidence, right_of_told, np.ones(len(told))) if told else None,
        levels=[_sure(level, confidence >= level, right_of_told, len(rows)) for level in LEVELS],
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
        prior=_compared(both) if both else None,
        prior_correction=stage.options.prior_correction,
    )


def _compared(both: Sequence[tuple[bool, bool]]) -> PriorCorrection:
    counts = Counter(both)
    return PriorCorrection(
        rows=len(both),
        right_with=counts[True, True] + counts[True, False],
        right_without=counts[True, True] + counts[False, True],
        won=counts[True, False],
        lost=counts[False, True],
    )


def _sure(level: float, chosen: np.ndarray, right: np.ndarray, rows: int) -> Sure:
    count = int(chosen.sum())
    return Sure(level, count / rows, float(right[chosen].mean()) if count else 0.0)
