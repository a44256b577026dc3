"""How good answers are: per label, calibration, and what abstaining buys. Plain numbers, then text or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.stages._model.head import Floats

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
    """How good a model is on labelled rows. `confusion[t][p]`: rows of label t that were answered p."""

    rows: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    answered: float
    right_of_answered: float
    labels: dict[str, LabelQuality]
    confusion: list[list[int]]
    risk_coverage: list[tuple[float, float]]

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
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((weights * (right - confidence))[bins == number].sum()) for number in range(BINS)]
    return round(float(sum(gaps) / weights.sum()), 4)


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
