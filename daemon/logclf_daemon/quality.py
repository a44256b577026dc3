"""How good answers are: per label, calibration, and what abstaining buys. Plain numbers, then text or JSON."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.errors import BadInput
from logclf_daemon.stages.model import ModelStage
from logclf_daemon.template import canonical

if TYPE_CHECKING:
    from logclf_daemon.cascade import Cascade

MESSAGE, LABEL, SOURCE = "log_message", "target_label", "source"

Floats = NDArray[np.float32]
BINS = 15
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Of one label, when the model must answer."""

    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model is on labelled rows. `confusion[t][p]`: rows of label t that were answered p.

    `reliability`: for each band of confidence with rows in it the mean confidence, the share that is right, and the
    share of all rows.
    """

    rows: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    answered: float
    right_of_answered: float
    labels: dict[str, LabelQuality]
    confusion: list[list[int]]
    risk_coverage: list[tuple[float, float]]
    reliability: list[tuple[float, float, float]]

    def as_json(self) -> dict[str, object]:
        """For a file or a program."""
        return asdict(self)


def measure(
    labels: Sequence[str],
    probabilities: Floats,
    truth: NDArray[np.intp],
    least: Sequence[float] | None = None,
    weights: NDArray[np.floating] | None = None,
) -> Quality:
    """Measure answers against the truth (positions in `labels`; -1: a label the model does not know).

    `least` holds the threshold of each label for the share that is answered; without it everything is.
    """
    weights = np.ones(len(truth)) if weights is None else weights
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    right = predicted == truth
    answered = confidence >= np.asarray(least)[predicted] if least is not None else np.ones(len(truth), bool)
    confusion = np.zeros((len(labels), len(labels)))
    known = truth >= 0
    np.add.at(confusion, (truth[known], predicted[known]), weights[known])
    by_label = {label: _label_quality(confusion, number) for number, label in enumerate(labels)}
    seen = [
        by_label[label].f1
        for number, label in enumerate(labels)
        if confusion[number].sum() + confusion[:, number].sum()
    ]
    return Quality(
        rows=len(truth),
        accuracy=_share(right, weights),
        macro_f1=round(float(np.mean(seen)), 4) if seen else 0.0,
        calibration_error=calibration_error(confidence, right, weights),
        answered=_share(answered, weights),
        right_of_answered=_share(right[answered], weights[answered]),
        labels=by_label,
        confusion=confusion.round().astype(int).tolist(),
        risk_coverage=_risk_coverage(confidence, right, weights),
        reliability=_reliability(confidence, right, weights),
    )


def _label_quality(confusion: NDArray[np.floating], number: int) -> LabelQuality:
    hits, answers, rows = confusion[number, number], confusion[:, number].sum(), confusion[number].sum()
    precision, recall = hits / answers if answers else 0.0, hits / rows if rows else 0.0
    f1 = 2 * hits / (answers + rows) if answers + rows else 0.0
    return LabelQuality(round(float(precision), 4), round(float(recall), 4), round(float(f1), 4), round(float(rows)))


def _share(which: NDArray[np.bool_], weights: NDArray[np.floating]) -> float:
    total = weights.sum()
    return round(float(weights[which].sum() / total), 4) if total else 0.0


def calibration_error(confidence: Floats, right: NDArray[np.bool_], weights: NDArray[np.floating]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over `BINS` equal bins."""
    bins = _bins(confidence)
    gaps = [abs((weights * (right - confidence))[bins == number].sum()) for number in range(BINS)]
    return round(float(sum(gaps) / weights.sum()), 4)


def _bins(confidence: Floats) -> NDArray[np.intp]:
    return np.minimum((confidence * BINS).astype(np.intp), BINS - 1)


def _reliability(
    confidence: Floats, right: NDArray[np.bool_], weights: NDArray[np.floating]
) -> list[tuple[float, float, float]]:
    bins = _bins(confidence)
    found = []
    for number in np.unique(bins):
        within = bins == number
        total = weights[within].sum()
        said = (weights * confidence)[within].sum() / total
        share = total / weights.sum()
        found.append((round(float(said), 4), _share(right[within], weights[within]), round(float(share), 4)))
    return found


def _risk_coverage(
    confidence: Floats, right: NDArray[np.bool_], weights: NDArray[np.floating]
) -> list[tuple[float, float]]:
    """(share answered, share of the answers that is wrong), surest answers first."""
    order = np.argsort(-confidence, kind="stable")
    answered = np.cumsum(weights[order])
    wrong = np.cumsum(np.where(right, 0.0, weights)[order])
    last = [int(np.searchsorted(answered, share * answered[-1] * (1 - 1e-9))) for share in COVERAGES]
    return [(share, round(float(wrong[at] / answered[at]), 4)) for share, at in zip(COVERAGES, last, strict=True)]


def as_text(quality: Quality) -> str:
    """A table for people."""
    width = max(map(len, quality.labels))
    table = [f"{'label':{width}}  precision  recall     f1   rows"]
    table += [
        f"{label:{width}}  {of.precision:9.3f}  {of.recall:6.3f}  {of.f1:5.3f}  {of.rows:5d}"
        for label, of in quality.labels.items()
    ]
    return "\n".join([summary(quality), "", *table])


def summary(quality: Quality) -> str:
    """The figures without the labels."""
    curve = "  ".join(f"{share:.0%}: {risk:.1%}" for share, risk in quality.risk_coverage)
    return "\n".join(
        [
            f"{quality.rows} rows: accuracy {quality.accuracy:.3f}, macro-F1 {quality.macro_f1:.3f}, "
            f"expected calibration error {quality.calibration_error:.3f}",
            f"with abstention: answers {quality.answered:.1%}, {quality.right_of_answered:.1%} of them right",
            f"share answered: share wrong  {curve}",
        ]
    )


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A line as the model sees it, with the label a person gave it; `number` is its row in the file, from 2."""

    number: int
    text: str
    label: str
    source: str
    message: bytes = b""


def read_labelled(path: Path) -> list[LabelledRow]:
    """The rows of a CSV with `log_message` and `target_label`, perhaps `source`.

    Raises:
        BadInput: The file cannot be read, a column is missing, a row has no label.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(_labelled(path, csv.DictReader(file)))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise BadInput(f"{path}: not a CSV file: {error}") from error
    if not rows:
        raise BadInput(f"{path}: no rows below the header")
    return rows


def _labelled(path: Path, rows: csv.DictReader[str]) -> Iterator[LabelledRow]:
    missing = {MESSAGE, LABEL} - set(rows.fieldnames or ())
    if missing:
        raise BadInput(
            f"{path}:1: no column {', '.join(sorted(missing))}; there is: {', '.join(rows.fieldnames or ())}"
        )
    for number, row in enumerate(rows, 2):
        label = (row[LABEL] or "").strip()
        if not label:
            raise BadInput(f"{path}: row {number} has no {LABEL}; label it or take the row out")
        message = (row[MESSAGE] or "").encode("utf-8", "surrogateescape")
        yield LabelledRow(number, canonical(message), label, row.get(SOURCE) or "", message)


def foreign_labels(rows: Sequence[LabelledRow], known: Container[str]) -> str | None:
    """Words for people on rows whose label cannot be answered at all: they count as wrong; None if there are none."""
    foreign = [row for row in rows if row.label not in known]
    if not foreign:
        return None
    names = ", ".join(sorted({repr(row.label) for row in foreign})[:5])
    return (
        f"{len(foreign)} of {len(rows)} rows count as wrong: no such label ({names}), first in row {foreign[0].number}"
    )


def quality_of(stage: ModelStage, rows: Sequence[LabelledRow]) -> Quality:
    """How good a model is on labelled rows, each asked alone; labels it does not know count as wrong."""
    number = {label: position for position, label in enumerate(stage.labels)}
    truth = np.array([number.get(row.label, -1) for row in rows], np.intp)
    answers = np.array([list(stage.probabilities(row.text).values()) for row in rows], np.float32)
    return measure(stage.labels, answers, truth, stage.least_confidence)


@dataclass(frozen=True, slots=True)
class Together:
    """What the daemon itself answers to labelled rows. `stages`: of each, its answers and how many are right."""

    rows: int
    answered: float
    right_of_answered: float
    stages: dict[str, tuple[int, int]]

    def as_json(self) -> dict[str, object]:
        """For a file or a program."""
        return asdict(self)

    def as_text(self) -> str:
        """One line for people."""
        parts = ", ".join(
            f"{stage} {answers} rows ({right / answers:.1%} right)" for stage, (answers, right) in self.stages.items()
        )
        return (
            f"rules and model together: answer {self.answered:.1%}, {self.right_of_answered:.1%} of the answers right"
            + (f": {parts}" if parts else "")
        )


async def together(cascade: Cascade, rows: Sequence[LabelledRow]) -> Together:
    """How often a cascade without an LLM answers, and is right then."""
    by_source: dict[str, list[LabelledRow]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    answers, right = Counter[str](), Counter[str]()
    for source, lines in by_source.items():
        classified = await cascade.classify(source, [row.message for row in lines])
        for row, answer in zip(lines, classified.answers, strict=True):
            if answer is not None and not answer.verdict.abstained:
                answers[answer.verdict.stage] += 1
                right[answer.verdict.stage] += answer.verdict.label == row.label
    answered = answers.total()
    return Together(
        rows=len(rows),
        answered=round(answered / len(rows), 4),
        right_of_answered=round(right.total() / answered, 4) if answered else 0.0,
        stages={stage: (answers[stage], right[stage]) for stage in sorted(answers, reverse=True)},
    )
