"""Fitting the head: a logistic regression over embedding and hashed n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.stages._model.features import Buckets, char_buckets, word_buckets
from logclf_daemon.stages._model.head import Floats, Head

NEVER = -1e4
"""The score of a label that had no example."""


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How the head is fitted. No buckets: the embedding alone."""

    char_buckets: int = 2**15
    word_buckets: int = 2**15
    strength: float = 10.0  # C of the regression: larger fits closer
    balanced: bool = False
    max_iterations: int = 400


@dataclass(frozen=True, slots=True)
class Features:
    """What the head sees of some texts: embeddings, and their n-grams as a sparse matrix beside."""

    embeddings: Floats
    grams: Any  # scipy.sparse matrix; scipy has no types here

    def __len__(self) -> int:
        return len(self.embeddings)

    def at(self, positions: Sequence[int] | NDArray[np.intp]) -> Features:
        """The rows at these positions."""
        return Features(self.embeddings[positions], self.grams[positions])

    def matrix(self) -> Any:
        """Embeddings and n-grams side by side."""
        from scipy.sparse import csr_matrix, hstack

        return hstack([csr_matrix(self.embeddings), self.grams]).tocsr()


def features(embeddings: Floats, texts: Sequence[str], settings: HeadSettings) -> Features:
    """The features of texts, scaled as `Head.scores` scales them."""
    from scipy.sparse import csr_matrix, hstack

    parts: list[Any] = [csr_matrix((len(texts), 0), dtype=np.float32)]
    for buckets, count in ((char_buckets, settings.char_buckets), (word_buckets, settings.word_buckets)):
        if count:
            parts.append(_sparse([buckets(text, count) for text in texts], count))
    return Features(embeddings, hstack(parts).tocsr())


def _sparse(rows: Sequence[Buckets], width: int) -> Any:
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *map(len, rows)])
    values = np.concatenate([np.full(len(row), 1 / np.sqrt(max(len(row), 1)), np.float32) for row in rows])
    return csr_matrix((values, np.concatenate(rows), starts), shape=(len(rows), width))


def fit(
    known: Features,
    labels: Sequence[str],
    truth: NDArray[np.intp],
    weights: NDArray[np.floating],
    settings: HeadSettings,
) -> Head:
    """A head for `labels`; `truth` holds positions in them. A label without an example is never the answer."""
    from sklearn.linear_model import LogisticRegression

    if len(seen := np.unique(truth)) == 1:
        return _constant(int(seen[0]), len(labels), known.embeddings.shape[1], settings)
    regression = LogisticRegression(
        C=settings.strength,
        max_iter=settings.max_iterations,
        class_weight="balanced" if settings.balanced else None,
        tol=1e-3,
    )
    regression.fit(known.matrix(), truth, sample_weight=weights)
    fitted = from_coefficients(regression.coef_, regression.intercept_, known.embeddings.shape[1], settings)
    return _spread(fitted, regression.classes_, len(labels))


def _constant(label: int, labels: int, dimensions: int, settings: HeadSettings) -> Head:
    """The head that always answers one label: all there was."""
    width = dimensions + settings.char_buckets + settings.word_buckets
    bias = np.full(labels, NEVER, np.float32)
    bias[label] = 0
    return from_coefficients(np.zeros((labels, width)), bias, dimensions, settings)


def _spread(head: Head, seen: NDArray[np.intp], labels: int) -> Head:
    """The head for all labels where only some had examples: the others are never its answer."""
    if len(seen) == labels:
        return head

    def wide(array: NDArray[np.floating], empty: float) -> NDArray[np.floating]:
        found = np.full((*array.shape[:-1], labels), empty, array.dtype)
        found[..., seen] = array
        return found

    return Head(
        embedding=wide(head.embedding, 0).astype(np.float32),
        chars=wide(head.chars, 0),
        words=wide(head.words, 0),
        bias=wide(head.bias, NEVER).astype(np.float32),
    )


def from_coefficients(
    coefficients: NDArray[np.floating], intercept: NDArray[np.floating], dimensions: int, settings: HeadSettings
) -> Head:
    """The head with the coefficients of a linear classifier; two labels have one row there, two columns here."""
    weights, bias = np.asarray(coefficients, np.float32).T, np.asarray(intercept, np.float32)
    if weights.shape[1] == 1:
        weights, bias = np.hstack([np.zeros_like(weights), weights]), np.concatenate([[np.float32(0)], bias])
    middle = dimensions + settings.char_buckets
    return Head(
        embedding=np.ascontiguousarray(weights[:dimensions]),
        chars=weights[dimensions:middle].astype(np.float16),
        words=weights[middle:].astype(np.float16),
        bias=bias.astype(np.float32),
    )


def scores(head: Head, known: Features) -> Floats:
    """The head's scores of many texts at once; the same as `Head.scores` of each."""
    grams = np.vstack([head.chars, head.words]).astype(np.float32)
    return np.asarray(known.embeddings @ head.embedding + known.grams @ grams + head.bias, np.float32)
