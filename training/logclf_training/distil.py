"""A new head that has learned what the LLM and people said: the next such line needs no LLM.

The encoder stays; only the head is new. It is kept if it is not worse on lines that nobody taught it: the corpus and
people's verdicts, each held out with its whole program. What the LLM said is learned and never measured against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.errors import BadInput
from logclf_daemon.quality import Quality, as_text, measure
from logclf_daemon.stages._verdicts import exported
from logclf_daemon.stages.verdicts import HUMAN, Remembered
from logclf_daemon.suggest import in_force
from logclf_training import card
from logclf_training.dataset import Example
from logclf_training.export import Parts, assembled
from logclf_training.recipe import Data, Recipe, Say, Trained, least, provenance, train

HUMAN_WEIGHT = 3.0  # lines of the corpus weigh one a template
UNMEASURED_WEIGHT = 0.5  # of an LLM whose server tells no probabilities
LEAST_ROWS = 8
_CHANCE = 1.645  # standard deviations: one new head in twenty that is as good is refused


@dataclass(frozen=True, slots=True)
class Taught:
    """Verdicts as examples, apart by who said so."""

    people: list[Example]
    llm: list[Example]

    def __len__(self) -> int:
        return len(self.people) + len(self.llm)


@dataclass(frozen=True, slots=True)
class Distilled:
    """The new head beside the old one, on the same lines; `lost` and `won` are those only one of them gets right."""

    trained: Trained
    before: Quality
    after: Quality
    lost: int
    won: int

    @property
    def worse(self) -> bool:
        """Whether the new head is worse by more than chance (McNemar, one-sided, 5 %)."""
        return self.lost - self.won > _CHANCE * float(np.sqrt(self.lost + self.won))

    def as_text(self) -> str:
        """Both qualities and what changed."""
        return (
            f"Before, on held-out lines:\n{as_text(self.before)}\n\nWith the verdicts, on the same lines:\n"
            f"{as_text(self.after)}\n\n{self.won} lines are right now that were not, {self.lost} the other way round."
        )


def read_verdicts(path: Path) -> list[Remembered]:
    """The lines of a `verdicts export`.

    Raises:
        BadInput: One of them is none.
    """
    with path.open("rb") as file:
        return [exported.read(line, f"{path}:{number}") for number, line in enumerate(file, 1) if line.strip()]


def taught(verdicts: Iterable[Remembered], corpus: Sequence[Example], min_confidence: float, say: Say) -> Taught:
    """What can be learned from verdicts: people first; the LLM where it is sure and the corpus says nothing."""
    known = {example.text for example in corpus}
    people: list[Example] = []
    llm: list[Example] = []
    unsure = 0
    for rows in in_force(list(verdicts)):
        said = [row for row in rows if row.origin == HUMAN] or rows
        first = said[0]
        if len({row.label for row in said}) > 1 or not first.text:
            continue
        group = f"verdicts of {first.source}"
        if first.origin == HUMAN:
            people.append(Example(first.text, first.label, group, first.template, HUMAN_WEIGHT))
        elif first.confidence is not None and first.confidence < min_confidence:
            unsure += 1
        elif first.text not in known:
            weight = UNMEASURED_WEIGHT if first.confidence is None else first.confidence
            llm.append(Example(first.text, first.label, group, first.template, weight))
    if unsure:
        say(f"left out: {unsure} verdicts of the LLM below a confidence of {min_confidence:g}")
    return Taught(people, llm)


def distil(corpus: Sequence[Example], verdicts: Taught, recipe: Recipe, say: Say) -> Distilled:
    """Train with and without the verdicts and compare.

    Raises:
        BadInput: There is nothing to learn.
    """
    said = {example.text for example in verdicts.people}
    base = [example for example in corpus if example.text not in said]  # a person's word replaces the corpus's
    labels = _enough([*base, *verdicts.people, *verdicts.llm], say)
    base, people, llm = (
        [example for example in examples if example.label in labels]
        for examples in (base, verdicts.people, verdicts.llm)
    )
    if not people and not llm:
        raise BadInput("no verdict to learn from; see `logclf-daemon verdicts list`")
    say(f"learning from {len(people)} verdicts of people, {len(llm)} of the LLM and {len(base)} lines of the corpus")
    old = train(Data.of(base, labels), recipe, say)
    new = train(Data.of([*base, *people, *llm], labels), recipe, say)
    trusted = Data.of([*base, *people], labels)
    before = old.held_out_probabilities
    if people:
        before = np.concatenate([before, old.probabilities([example.text for example in people])])
    after = new.held_out_probabilities[: len(trusted.examples)]
    was, now = (_right(probabilities, trusted) for probabilities in (before, after))
    return Distilled(
        new,
        measure(labels, before, trusted.truth, least(old.thresholds, labels), trusted.weights),
        measure(labels, after, trusted.truth, least(new.thresholds, labels), trusted.weights),
        int((was & ~now).sum()),
        int((now & ~was).sum()),
    )


def _right(probabilities: NDArray[np.floating], data: Data) -> NDArray[np.bool_]:
    return np.asarray(probabilities.argmax(1) == data.truth)


def _enough(examples: Sequence[Example], say: Say) -> list[str]:
    """The labels that have enough examples."""
    counts = Counter(example.label for example in examples)
    few = sorted(label for label, count in counts.items() if count < LEAST_ROWS)
    if few:
        say(f"left out, fewer than {LEAST_ROWS} different lines: {', '.join(few)}")
    return [label for label in counts if label not in few]


def parts(made: Distilled, verdicts: Taught, made_by: Recipe) -> Parts:
    """What goes in the folder."""
    story = card.Story(
        name="distilled",
        summary="The shipped encoder with a linear layer that has learned verdicts, made with `logclf-train distil`.",
        data=f"The corpus, {len(verdicts.people)} verdicts of people and {len(verdicts.llm)} of an LLM.",
        encoder=made_by.encoder,
        held_out=made.trained.held_out,
        in_operation=made.trained.in_operation,
        thresholds=made.trained.thresholds,
    )
    return assembled(made.trained, story, made_by, provenance(made_by, None))
