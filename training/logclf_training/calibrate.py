"""From scores on held-out programs to probabilities that mean something and thresholds that keep a promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.stages._model.head import Floats, softmax

Truth = NDArray[np.intp]
Weights = NDArray[np.floating]

RATES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
DOUBT = 0.1
"""The promise of a threshold holds with probability 1 - DOUBT over the draw of the held-out templates."""
STEP = 0.01
FIRST = 0.05
"""Thresholds are tried from the surest FIRST of the answers on, STEP by STEP."""
PULL = 5.0
"""How strongly a label's reliability is drawn to what its confidence says; matters for labels with few answers."""


def temperature(scores: Floats, truth: Truth, weights: Weights) -> float:
    """The divisor of the scores under which held-out truth is likeliest (Guo et al., 2017)."""
    low, high = np.log(0.05), np.log(20.0)
    for _ in range(40):
        third = (high - low) / 3
        left, right = low + third, high - third
        if _surprise(scores / np.exp(left), truth, weights) <= _surprise(scores / np.exp(right), truth, weights):
            high = right
        else:
            low = left
    return round(float(np.exp((low + high) / 2)), 4)


def _surprise(scores: Floats, truth: Truth, weights: Weights) -> float:
    chosen = softmax(scores)[np.arange(len(truth)), truth]
    return float(-(weights * np.log(np.maximum(chosen, 1e-12))).sum())


def thresholds(
    labels: Sequence[str], probabilities: Floats, truth: Truth, weights: Weights, rates: Sequence[float] = RATES
) -> dict[str, dict[str, float | None]]:
    """For each error rate, the least confidence of each label so that at most this share of all answers is wrong.

    One label's 0.9 is worth more than another's. So a reliability curve is fitted to each label, all answers are ranked
    by it, and one cut through the ranking is one threshold for each label. None: no cut keeps the rate.
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    right = predicted == truth
    curves = [
        reliability(confidence[predicted == number], right[predicted == number], weights[predicted == number])
        for number in range(len(labels))
    ]
    slopes, shifts = np.array(curves).T
    trust = slopes[predicted] * _logit(confidence) + shifts[predicted]
    table: dict[str, dict[str, float | None]] = {}
    for rate in rates:
        cut = least_trust(trust, right, weights, rate)
        table[str(rate)] = {
            label: None if cut is None else _rounded_up((cut - shift) / slope)
            for label, (slope, shift) in zip(labels, curves, strict=True)
        }
    return table


def _logit(share: NDArray[np.floating]) -> NDArray[np.float64]:
    kept = np.clip(share.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)))


def _rounded_up(logit: float) -> float:
    return float(np.ceil(1e4 / (1 + np.exp(-logit))) / 1e4)


def reliability(confidence: Floats, right: NDArray[np.bool_], weights: Weights) -> tuple[float, float]:
    """Slope and shift of the logistic curve from confidence (as logit) to the chance to be right.

    The likeliest one, with a pull towards (1, 0): the confidence means what it says.
    """
    from scipy.optimize import minimize

    inputs = _logit(confidence)
    sign = np.where(right, 1.0, -1.0)

    def surprise(curve: NDArray[np.float64]) -> float:
        slope, shift = curve
        missed = weights @ np.logaddexp(0, -sign * (slope * inputs + shift))
        return float(missed + PULL / 2 * ((slope - 1) ** 2 + shift**2))

    found = minimize(surprise, (1.0, 0.0), method="L-BFGS-B", bounds=((0.2, 5), (-5, 5)))
    slope, shift = found.x
    return float(slope), float(shift)


def least_trust(trust: NDArray[np.floating], right: NDArray[np.bool_], weights: Weights, rate: float) -> float | None:
    """The lowest cut above which, with probability 1 - `DOUBT`, at most `rate` of the answers are wrong.

    Cuts are tried in a fixed order, surest answers first, until one fails: choosing the best of many that happen to
    look good would break the promise (Angelopoulos et al., "Learn then test", 2021; simulation shows it, too). Each
    is tried by Clopper and Pearson's upper limit, for as many independent answers as the weights are worth.
    """
    from scipy.stats import beta

    order = np.argsort(-trust, kind="stable")
    answered = np.cumsum(weights[order])
    wrong = np.cumsum(np.where(right, 0.0, weights)[order])
    worth = answered**2 / np.cumsum(weights[order] ** 2)
    # Fewer prove nothing, even if all are right; twice as many, so that the first wrong one does not end the search.
    least = min(2 * np.log(DOUBT) / np.log1p(-rate), worth[-1] if len(order) else 0)
    shares = np.arange(FIRST, 1 + STEP / 2, STEP)
    tried = np.searchsorted(answered, np.minimum(shares, 1) * answered[-1] * (1 - 1e-9)) if len(order) else []
    cut = None
    for at in tried:
        if worth[at] < least:
            continue
        missed = wrong[at] / answered[at] * worth[at]
        if beta.ppf(1 - DOUBT, missed + 1, max(worth[at] - missed, 1e-9)) > rate:
            break
        cut = float(trust[order[at]])
    return cut
