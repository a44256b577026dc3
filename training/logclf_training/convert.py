"""A scikit-learn head (.joblib) as arrays. Loading it runs code: only after the user said that they trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from logclf_daemon.errors import BadInput
from logclf_daemon.quality import Quality, as_text, measure
from logclf_daemon.stages._model.head import Head, softmax
from logclf_training import calibrate
from logclf_training.dataset import read_labelled
from logclf_training.export import Parts
from logclf_training.head import HeadSettings, from_coefficients
from logclf_training.recipe import Data, Recipe, least, prepared_encoder

EMBEDDING_ONLY = HeadSettings(char_buckets=0, word_buckets=0)


def converted(path: Path, recipe: Recipe, labels: Sequence[str], rows: Path | None) -> Parts:
    """The model folder of a head: the recipe's encoder exported, calibrated on `rows` where given.

    Raises:
        BadInput: The head or the rows cannot be used.
    """
    ready = prepared_encoder(recipe, None, lambda _text: None)
    exported, runs = ready.exported, ready.encoder
    assert exported is not None  # the recipe's runtime is onnx
    names, head = read_joblib(path, exported.dimensions, labels)
    thresholds: dict[str, dict[str, float | None]] = {"1.0": dict.fromkeys(names, 0.0)}
    figures = {}
    if rows is not None:
        known = [row for row in read_labelled(rows) if row.label in names]
        data = Data.of(known, names)
        scores = np.stack([head.scores(runs.embed(text), text) for text in data.texts])
        head = replace(head, temperature=calibrate.temperature(scores, data.truth, data.weights))
        probabilities = softmax(scores / np.float32(head.temperature))
        thresholds |= calibrate.thresholds(names, probabilities, data.truth, data.weights)
        figures = {rows.name: measure(names, probabilities, data.truth, least(thresholds, names))}
    return Parts(
        name=path.stem,
        labels=names,
        head=head,
        encoder=recipe.encoder,
        exported=exported,
        max_tokens=recipe.max_tokens,
        thresholds=thresholds,
        card=_card(path, recipe.encoder, figures),
        provenance={"converted": path.name, "quality": {name: quality.as_json() for name, quality in figures.items()}},
    )


def _card(path: Path, source: str, figures: Mapping[str, Quality]) -> str:
    measured = "\n\n".join(f"## Quality on {name}\n\n```\n{as_text(quality)}\n```" for name, quality in figures.items())
    return (
        f"# {path.stem}\n\nConverted from the scikit-learn head `{path.name}`, which was fitted on embeddings of "
        f"`{source}`. What it was trained on is not known here.\n\n{measured or 'Not measured, not calibrated.'}\n"
    )


def read_joblib(path: Path, dimensions: int, labels: Sequence[str]) -> tuple[tuple[str, ...], Head]:
    """The labels and weights of a fitted LogisticRegression, alone or as the last step of a one-step pipeline.

    `labels` names the classes where they are numbers.

    Raises:
        BadInput: It is something else, was fitted on other embeddings, or its classes have no names.
    """
    import joblib

    try:
        found: Any = joblib.load(path)
    except Exception as error:  # a pickle raises whatever it likes
        raise BadInput(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    if len(getattr(found, "steps", ())) == 1:
        found = found.steps[0][1]
    if not all(hasattr(found, name) for name in ("coef_", "intercept_", "classes_")):
        raise BadInput(f"{path}: holds a {type(found).__name__}; only a fitted LogisticRegression can be converted")
    width = np.shape(found.coef_)[1]
    if width != dimensions:
        raise BadInput(
            f"{path}: was fitted on {width} numbers a line, the encoder gives {dimensions}; give its --encoder"
        )
    return _names(path, found.classes_, labels), from_coefficients(
        found.coef_, found.intercept_, dimensions, EMBEDDING_ONLY
    )


def _names(path: Path, classes: Any, labels: Sequence[str]) -> tuple[str, ...]:
    if labels and len(labels) != len(classes):
        raise BadInput(f"{path}: has {len(classes)} classes, --labels names {len(labels)}")
    if labels:
        return tuple(labels)
    if not all(isinstance(name, str) for name in classes):
        raise BadInput(f"{path}: its classes are numbers; name them in this order with --labels A,B,…")
    return tuple(str(name) for name in classes)
