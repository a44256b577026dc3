"""A model for a user's own labelled rows: says what is wrong with them and how the result compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from logclf_daemon import quality
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.quality import LabelledRow, Quality, as_text, measure
from logclf_daemon.record import UNCLASSIFIED
from logclf_daemon.stages._model import folder
from logclf_daemon.stages._model.head import Floats
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_training import card
from logclf_training.corpus import load
from logclf_training.dataset import Contradiction, Example, from_corpus, without_contradictions
from logclf_training.export import Parts, assembled
from logclf_training.recipe import CARD_RATE, Data, Recipe, Say, Trained, least, provenance, train

LEAST_ROWS = 8
ENOUGH_ROWS = 30
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model of a user's rows; `shipped` is the existing model's quality on them, if it knows the labels."""

    trained: Trained
    data: Data
    own: Quality
    shipped: Quality | None

    @property
    def worse(self) -> bool:
        """Whether the existing model is right on more of the rows."""
        return self.shipped is not None and self.own.accuracy < self.shipped.accuracy

    def as_text(self) -> str:
        """The new model's quality, and the existing one's beside it."""
        text = f"New model, on rows held out of its training:\n{as_text(self.own)}"
        if self.shipped is None:
            return text
        better = self.own.accuracy - self.shipped.accuracy
        return (
            f"{text}\n\nExisting model, on the same rows:\n{as_text(self.shipped)}\n\n"
            f"The new model is right on {abs(better):.1%} {'more' if better >= 0 else 'FEWER'} of the rows."
        )

    def parts(self, rows: Path, made_by: Recipe) -> Parts:
        """What goes in the folder."""
        own = Counter(example.group for example in self.data.examples if example.origin.startswith("row "))
        story = card.Story(
            name=rows.stem,
            summary="A sentence encoder and one linear layer, fitted to labelled rows with `logclf-train fit`.",
            data=f"{own.total()} different rows of `{rows.name}`"
            + (
                f" and {len(self.data.examples) - own.total()} lines of a corpus"
                if len(self.data.examples) > own.total()
                else ""
            ),
            encoder=made_by.encoder,
            held_out=self.trained.held_out,
            in_operation=self.trained.in_operation,
            thresholds=self.trained.thresholds,
        )
        return assembled(self.trained, story, made_by, {**provenance(made_by, None), "rows": rows.name})


def silence(thresholds: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """What to say if the model would never answer at the daemon's default error rate."""
    speaking = [rate for rate, least in thresholds.items() if any(value is not None for value in least.values())]
    if CARD_RATE in speaking:
        return None
    promised = f"the least it can promise is {min(speaking, key=float)}" if speaking else "it can promise none"
    return (
        f"too few rows to promise an error rate of {CARD_RATE}, so the daemon would get no answer; {promised}. "
        "Set `model.max_error_rate` accordingly (1 answers always), add rows, or --mix shipped"
    )


def existing(path: Path | None) -> ModelStage | None:
    """The model to compare with: the one at `path`, or the shipped one if there is one.

    Raises:
        ConfigError: The one at `path` is not usable.
    """
    if path is not None:
        return stage_of(path, float(CARD_RATE))
    try:
        return ModelStage(ModelOptions())
    except ConfigError:
        return None


def stage_of(path: Path, max_error_rate: float) -> ModelStage:
    """The stage of a model folder, with the runtime it was made for.

    Raises:
        ConfigError: The folder is not usable.
    """
    runtime = folder.read(path).config.runtime
    return ModelStage(ModelOptions(path=path, max_error_rate=max_error_rate, runtime=runtime))


def corpus_examples(path: Path, made_by: Recipe) -> list[Example]:
    """The corpus as examples to mix in.

    Raises:
        BadInput: It has mistakes.
    """
    examples, _ = from_corpus(load(path), made_by.lines_per_template, made_by.seed)
    return examples


def examined(rows: Sequence[Example], least_rows: int, say: Say) -> list[Example]:
    """The rows that can be learned from; tells about contradictory and few ones.

    Raises:
        BadInput: A label has fewer than `least_rows` different rows, is none, or there is only one label.
    """
    unsure = [example.origin for example in rows if example.label == UNCLASSIFIED]
    if unsure:
        raise BadInput(
            f"{unsure[0]}: {UNCLASSIFIED} is what the daemon says when it is unsure; label it or take it out"
        )
    clear, contradictions = without_contradictions(rows)
    for contradiction in contradictions[:_SHOWN]:
        say(_told(contradiction))
    if len(contradictions) > _SHOWN:
        say(f"… and {len(contradictions) - _SHOWN} more contradictions")
    distinct = list({example.text: example for example in clear}.values())
    counts = Counter({example.label: 0 for example in rows})
    counts.update(example.label for example in distinct)
    few = {label: count for label, count in counts.items() if count < least_rows}
    if few:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(few.items()))
        raise BadInput(
            f"too few different rows: {listed}; give each label at least {least_rows} "
            "(rows that differ in numbers only count once), or take the label out"
        )
    if len(counts) < 2:
        raise BadInput(f"only one label ({next(iter(counts))}); a model needs two")
    scarce = sorted(label for label, count in counts.items() if count < ENOUGH_ROWS)
    if scarce:
        say(f"fewer than {ENOUGH_ROWS} different rows, so expect weak answers and much abstaining: {', '.join(scarce)}")
    return distinct


def _told(contradiction: Contradiction) -> str:
    rows = ", ".join(contradiction.origins)
    return f"left out, one text with several labels ({' / '.join(contradiction.labels)}): {rows}"


def fit(
    rows: Sequence[Example], mixed: Sequence[Example], recipe: Recipe, shipped: ModelStage | None, say: Say
) -> Fitted:
    """Train on the user's rows, and on `mixed` (the corpus) where given; measure on the user's held-out rows only."""
    known = {row.text for row in rows}
    examples = [*rows, *(example for example in mixed if example.text not in known)]
    labels = list(dict.fromkeys(example.label for example in examples))
    if shipped and set(labels) <= set(shipped.labels):
        labels = list(shipped.labels) if mixed else [label for label in shipped.labels if label in labels]
    data = Data.of(examples, labels)
    groups = len({example.group or example.text for example in examples})
    trained = train(data, replace(recipe, folds=max(2, min(recipe.folds, groups))), say)
    count = len(rows)
    own = measure(labels, trained.held_out_probabilities[:count], data.truth[:count], least(trained.thresholds, labels))
    return Fitted(trained, data, own, _compared(rows, shipped, say))


def _compared(rows: Sequence[Example], shipped: ModelStage | None, say: Say) -> Quality | None:
    if shipped is None:
        return None
    if unknown := sorted({row.label for row in rows} - set(shipped.labels)):
        say(f"not compared with the model in {shipped.path}: it does not know the label {', '.join(unknown)}")
        return None
    say(f"asking the model in {shipped.path} for the same {len(rows)} rows")
    return quality_of(shipped, rows)


def quality_of(stage: ModelStage, rows: Sequence[Example]) -> Quality:
    """The quality of a model folder on labelled rows."""
    return quality.quality_of(stage, [LabelledRow(0, row.text, row.label, row.group) for row in rows])


def answers(stage: ModelStage, rows: Sequence[Example]) -> Floats:
    """The probabilities a model folder gives the rows, each made alone."""
    return np.array([list(stage.probabilities(row.text).values()) for row in rows], np.float32)
