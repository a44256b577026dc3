"""Examples for training and measuring: canonical texts with label, group (program) and weight."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logclf_daemon import quality
from logclf_daemon.template import canonical
from logclf_training.corpus import Program
from logclf_training.generate import lines


@dataclass(frozen=True, slots=True)
class Example:
    """A line as the model sees it. `group` is held out as a whole; the weights of one template add up to one."""

    text: str
    label: str
    group: str
    origin: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One canonical text under several labels: no model of the text can tell them apart."""

    text: str
    labels: tuple[str, ...]
    origins: tuple[str, ...]


def from_corpus(programs: Iterable[Program], count: int, seed: int) -> tuple[list[Example], list[Contradiction]]:
    """`count` lines of each template, equal texts of one template merged, contradictory texts left out."""
    examples: list[Example] = []
    for program in programs:
        texts: dict[str, dict[str, str]] = defaultdict(dict)
        labels = {}
        for line in lines(program, count, seed):
            where = line.template.where
            labels[where] = line.label
            texts[where].setdefault(canonical(line.text.encode("utf-8", "surrogateescape")), where)
        for where, distinct in texts.items():
            weight = 1 / len(distinct)
            examples += [Example(text, labels[where], program.name, where, weight) for text in distinct]
    return without_contradictions(examples)


def fingerprint(examples: Sequence[Example]) -> dict[str, object]:
    """What names the very texts that a model learned from: it changes with corpus, generator and template."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.label}\t{example.text}\n".encode("utf-8", "surrogatepass"))
    return {"count": len(examples), "sha256": digest.hexdigest()}


def without_contradictions(examples: Sequence[Example]) -> tuple[list[Example], list[Contradiction]]:
    """The examples whose text has one label, and what was left out."""
    by_text: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_text[example.text].append(example)
    contradictions = [
        Contradiction(
            text, tuple(sorted({same.label for same in alike})), tuple(sorted({same.origin for same in alike}))
        )
        for text, alike in by_text.items()
        if len({same.label for same in alike}) > 1
    ]
    refused = {contradiction.text for contradiction in contradictions}
    return [example for example in examples if example.text not in refused], contradictions


def read_labelled(path: Path) -> list[Example]:
    """The rows of a CSV with `log_message` and `target_label`; `source`, where there is one, is the group.

    Raises:
        BadInput: The file cannot be read, a column is missing, a row has no label.
    """
    return [Example(row.text, row.label, row.source, f"row {row.number}") for row in quality.read_labelled(path)]


def folds(examples: Sequence[Example], count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """`count` splits (train, test) of positions; each group is wholly on one side. Rows without a group stand alone."""
    weights: dict[str, float] = defaultdict(float)
    keys = [example.group or example.text for example in examples]
    for key, example in zip(keys, examples, strict=True):
        weights[key] += example.weight
    # Largest group first into the emptiest fold; a seeded hash breaks ties, so folds are even and repeatable.
    order = sorted(weights, key=lambda key: (-weights[key], hashlib.sha256(f"{seed}/{key}".encode()).digest()))
    sizes, fold_of = [0.0] * count, {}
    for key in order:
        fold = sizes.index(min(sizes))
        sizes[fold] += weights[key]
        fold_of[key] = fold
    return [
        (
            [position for position, key in enumerate(keys) if fold_of[key] != fold],
            [position for position, key in enumerate(keys) if fold_of[key] == fold],
        )
        for fold in range(count)
    ]
