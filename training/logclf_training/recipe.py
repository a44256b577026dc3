"""From examples to a model: teach the encoder, export it, measure on held-out programs, fit the head on everything.

Whole programs are held out, never random lines: a random split of such lines scores 0.99 and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.errors import BadInput
from logclf_daemon.quality import Quality, measure
from logclf_daemon.stages._model import folder
from logclf_daemon.stages._model.encoders import Encoder, OnnxEncoder, SentenceTransformersEncoder
from logclf_daemon.stages._model.folder import Runtime
from logclf_daemon.stages._model.head import Floats, Head, softmax
from logclf_daemon.stages.model import ModelOptions
from logclf_training import calibrate, head
from logclf_training.corpus import fingerprint
from logclf_training.dataset import Example, folds
from logclf_training.encoder import (
    MINILM,
    Exported,
    agreement,
    dimensions,
    embed,
    export,
    keep_layers,
    load,
    original_embeddings,
)
from logclf_training.finetune import Lessons, TuningSettings, tune
from logclf_training.head import Features, HeadSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Say = Callable[[str], None]
CARD_RATE = "0.02"
"""The error rate that cards and comparisons speak of: the daemon's default."""
SHIPPED = "shipped"
TOOLS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "scikit-learn",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result, beside the examples."""

    seed: int = 1
    encoder: str = MINILM
    runtime: Runtime = "onnx"
    quantised: bool = True
    layers: tuple[int, ...] | None = None
    max_tokens: int = 64
    tuning: TuningSettings | None = None
    head: HeadSettings = field(default_factory=HeadSettings)
    folds: int = 5
    lines_per_template: int = 3
    routine_share: float | None = None
    """Share of routine lines in operation, where it is known to differ from the examples'; for calibration only."""


@dataclass(frozen=True, slots=True)
class Data:
    """Examples as arrays."""

    examples: Sequence[Example]
    labels: tuple[str, ...]
    truth: NDArray[np.intp]
    weights: NDArray[np.floating]

    @classmethod
    def of(cls, examples: Sequence[Example], labels: Sequence[str]) -> Data:
        number = {label: position for position, label in enumerate(labels)}
        return cls(
            examples,
            tuple(labels),
            np.array([number[example.label] for example in examples], np.intp),
            np.array([example.weight for example in examples]),
        )

    @property
    def texts(self) -> list[str]:
        return [example.text for example in self.examples]

    def lessons(self, positions: Sequence[int]) -> Lessons:
        """These examples for the encoder."""
        texts = [self.examples[position].text for position in positions]
        return Lessons(texts, self.truth[positions], self.weights[positions], len(self.labels))


@dataclass(frozen=True, slots=True)
class Trained:
    """A model, and how good it was on programs it had not seen."""

    labels: tuple[str, ...]
    head: Head
    exported: Exported | None
    encoder: Encoder
    thresholds: dict[str, dict[str, float | None]]
    held_out: Quality
    in_operation: Quality
    """As `held_out`, with routine lines counted as often as they occur in operation."""
    held_out_probabilities: Floats
    original: SentenceTransformer | None = None
    """What `exported` was made from."""

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Of each label for each text, as the daemon computes them."""
        return np.stack([self.head.probabilities(self.encoder.embed(text), text) for text in texts])

    def quality(self, data: Data) -> Quality:
        """On rows it has not seen, which have the same labels."""
        return measure(data.labels, self.probabilities(data.texts), data.truth, least(self.thresholds, self.labels))

    def agreement(self, texts: Sequence[str]) -> str | None:
        """How far the exported encoder is from its original, as a sentence; None where there is no export."""
        if self.original is None:
            return None
        served, original = embed(self.encoder, texts), original_embeddings(self.original, texts)
        mean, lowest = agreement(served, original)
        labels = [
            [int(self.head.scores(embedding, text).argmax()) for embedding, text in zip(embeddings, texts, strict=True)]
            for embeddings in (served, original)
        ]
        same = np.mean(np.array(labels[0]) == np.array(labels[1]))
        return (
            f"The exported encoder against its original in sentence-transformers, {len(texts)} lines of the corpus: "
            f"cosine {mean:.4f} on average, {lowest:.4f} at least; the same label for {same:.1%}."
        )


def least(thresholds: dict[str, dict[str, float | None]], labels: Sequence[str], rate: str = CARD_RATE) -> list[float]:
    """The least confidence of each label for an error rate; above 1 where the label is never answered."""
    return [2.0 if (value := thresholds[rate][label]) is None else value for label in labels]


def train(data: Data, recipe: Recipe, say: Say) -> Trained:
    """Train and measure by the recipe."""
    everywhere = range(len(data.examples))
    shared = None if recipe.tuning else _embedded(data, recipe, everywhere, say)
    scores = held_out_scores(data, recipe, shared, say)
    made = shared or _embedded(data, recipe, everywhere, say)
    fitted = head.fit(made.features, data.labels, data.truth, data.weights, recipe.head)
    weights = operational_weights(data, recipe.routine_share)
    degree = calibrate.temperature(scores, data.truth, weights)
    probabilities = softmax(scores / np.float32(degree))
    thresholds = calibrate.thresholds(data.labels, probabilities, data.truth, weights)
    return Trained(
        labels=data.labels,
        head=replace(fitted, temperature=degree),
        exported=made.exported,
        encoder=made.encoder,
        thresholds=thresholds,
        held_out=measure(data.labels, probabilities, data.truth, least(thresholds, data.labels), data.weights),
        in_operation=measure(data.labels, probabilities, data.truth, least(thresholds, data.labels), weights),
        held_out_probabilities=probabilities,
        original=made.original,
    )


@dataclass(frozen=True, slots=True)
class _Embedded:
    """An encoder as the daemon runs it, and what it makes of all examples."""

    exported: Exported | None
    encoder: Encoder
    original: SentenceTransformer | None
    features: Features


def held_out_scores(data: Data, recipe: Recipe, shared: _Embedded | None, say: Say) -> Floats:
    """The scores of each example by a model that has not seen its program; `shared`: an encoder that learns nothing."""
    scores = np.zeros((len(data.examples), len(data.labels)), np.float32)
    for number, (known, unknown) in enumerate(folds(data.examples, recipe.folds, recipe.seed), 1):
        say(f"fold {number} of {recipe.folds}: {len(known)} lines known, {len(unknown)} unknown")
        features = (shared or _embedded(data, recipe, known, say)).features
        fitted = head.fit(features.at(known), data.labels, data.truth[known], data.weights[known], recipe.head)
        scores[unknown] = head.scores(fitted, features.at(unknown))
    return scores


def _embedded(data: Data, recipe: Recipe, known: Sequence[int], say: Say) -> _Embedded:
    """The encoder, taught on the `known` examples, and the features of all: as the daemon's runtime computes them."""
    ready = prepared_encoder(recipe, data.lessons(list(known)), say)
    say(f"embedding {len(data.examples)} lines, one by one as the daemon does")
    features = head.features(embed(ready.encoder, data.texts), data.texts, recipe.head)
    return _Embedded(ready.exported, ready.encoder, ready.original, features)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An encoder as the daemon runs it; `original` is what `exported` was made from."""

    encoder: Encoder
    exported: Exported | None = None
    original: SentenceTransformer | None = None


def prepared_encoder(recipe: Recipe, lessons: Lessons | None, say: Say) -> Prepared:
    """The recipe's encoder, taught if it says so, and exported if the daemon is to run it without torch.

    Raises:
        BadInput: It cannot be loaded, or the daemon could not load it later.
    """
    if recipe.encoder == SHIPPED:
        if not recipe.quantised:
            raise BadInput("encoder shipped: it is int8 already; for fp32 name the encoder it was made from")
        exported = shipped_encoder()
        return Prepared(_onnx(exported, recipe), exported)
    if recipe.runtime == "sentence-transformers" and recipe.encoder == MINILM:
        raise BadInput("runtime sentence-transformers: give --encoder a local folder, the daemon loads it from there")
    model = load(recipe.encoder, recipe.max_tokens)
    if recipe.layers is not None:
        keep_layers(model, recipe.layers)
    if recipe.tuning and lessons:
        tune(model, lessons, recipe.tuning, recipe.seed, say)
    if recipe.runtime == "sentence-transformers":
        return Prepared(
            SentenceTransformersEncoder(recipe.encoder, max_tokens=recipe.max_tokens, dimensions=dimensions(model))
        )
    exported = export(model, quantised=recipe.quantised)
    return Prepared(_onnx(exported, recipe), exported, model)


def _onnx(exported: Exported, recipe: Recipe) -> OnnxEncoder:
    return OnnxEncoder(exported.model, exported.tokenizer, max_tokens=recipe.max_tokens, dimensions=exported.dimensions)


def shipped_encoder() -> Exported:
    """The encoder of the model that ships: it knows logs already.

    Raises:
        ConfigError: It is missing or damaged.
    """
    found = folder.read(ModelOptions().folder)
    return Exported(found.files[folder.ENCODER], found.files[folder.TOKENIZER], found.config.dimensions)


def operational_weights(data: Data, routine_share: float | None) -> NDArray[np.floating]:
    """The examples' weights, changed so that System Notification has its share in operation."""
    if routine_share is None:
        return data.weights
    routine = data.truth == data.labels.index("System Notification")
    share = data.weights[routine].sum() / data.weights.sum()
    factor = np.where(routine, routine_share / share, (1 - routine_share) / (1 - share))
    return np.asarray(data.weights * factor)


def provenance(recipe: Recipe, corpus: Path | None) -> dict[str, object]:
    """What somebody needs to build the same model again."""
    found: dict[str, object] = {"recipe": asdict(recipe), "tools": dict(_versions())}
    if corpus:
        found["corpus"] = fingerprint(corpus)
    return found


def _versions() -> Iterator[tuple[str, str]]:
    for tool in TOOLS:
        try:
            yield tool, version(tool)
        except PackageNotFoundError:
            continue  # not needed for this model
