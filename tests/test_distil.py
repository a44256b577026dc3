"""A head that has learned verdicts, kept only if it is not worse."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from logclf_daemon.errors import BadInput
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_daemon.stages.verdicts import Remembered
from logclf_daemon.template import template_id
from logclf_training import cli, distil, fit, recipe
from logclf_training.dataset import Example
from logclf_training.distil import Taught
from logclf_training.encoder import Exported
from logclf_training.head import HeadSettings
from logclf_training.recipe import Recipe
from model_doubles import LABELS, tiny_encoder, tiny_tokenizer

SMALL = Recipe(encoder=recipe.SHIPPED, folds=3, head=HeadSettings(char_buckets=64, word_buckets=64))
FILLERS = [f"{a} {b}" for a in ("alpha", "beta", "gamma", "delta", "kappa", "sigma") for b in ("up", "on", "at", "by")]


@pytest.fixture(autouse=True)
def tiny_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe `shipped` finds the five-word encoder."""
    monkeypatch.setattr(recipe, "shipped_encoder", lambda: Exported(tiny_encoder(), tiny_tokenizer(), 4))


def silent(_text: str) -> None:
    return


def corpus() -> list[Example]:
    """Lines of four programs, failed ones and started ones."""
    return [
        Example(f"{event} {filler} service", label, f"program-{at % 4}", f"{at}")
        for at, filler in enumerate(FILLERS)
        for event, label in zip(("failed", "started"), LABELS[:2], strict=True)
    ]


def verdict(
    text: str, label: str, *, origin: str = "llm", confidence: float | None = 0.9, source: str = "app"
) -> Remembered:
    asked = "" if origin == "human" else "x"
    return Remembered(template_id(text.encode()), source, label, confidence, origin, "m", asked, text, text, 1, 1, 9)


def jammed(label: str, origin: str = "llm") -> list[Remembered]:
    """Verdicts on lines that the corpus knows nothing of."""
    return [
        verdict(f"jammed {filler} queue", label, source=f"app{at % 3}", origin=origin)
        for at, filler in enumerate(FILLERS)
    ]


def taught(*verdicts: Remembered) -> Taught:
    return distil.taught(verdicts, corpus(), 0.5, silent)


def test_people_weigh_most_and_the_llm_as_much_as_it_is_sure() -> None:
    found = taught(
        verdict("one two", LABELS[0], confidence=0.7),
        verdict("three four", LABELS[0], confidence=None),
        verdict("five six", LABELS[0], confidence=0.4),
        verdict("seven eight", LABELS[1], origin="human", confidence=1.0),
    )

    assert [(example.text, example.weight) for example in found.people] == [("seven eight", distil.HUMAN_WEIGHT)]
    assert {example.text: example.weight for example in found.llm} == {
        "one two": 0.7,
        "three four": distil.UNMEASURED_WEIGHT,
    }


def test_a_persons_word_wins_over_the_llm_and_the_corpus_over_the_llm() -> None:
    in_corpus = corpus()[0].text
    found = taught(
        verdict("one two", LABELS[0]),
        verdict("one two", LABELS[1], origin="human"),
        verdict(in_corpus, LABELS[1]),
        verdict("torn", LABELS[0]),
        verdict("torn", LABELS[1], source="web"),
    )

    assert [(example.text, example.label) for example in found.people] == [("one two", LABELS[1])]
    assert found.llm == []


def test_the_new_head_knows_what_was_said_and_is_not_worse(tmp_path: Path) -> None:
    said = taught(*jammed(LABELS[0]))

    made = distil.distil(corpus(), said, SMALL, silent)

    assert not made.worse
    assert made.after.rows == made.before.rows == len(corpus()), "what the LLM said is not measured against"
    answers = made.trained.probabilities([example.text for example in said.llm])
    right = made.trained.labels.index(LABELS[0])
    assert (answers.argmax(1) == right).mean() > 0.9


def test_verdicts_that_make_it_worse_are_refused(tmp_path: Path) -> None:
    wrong = [
        verdict(f"{example.text} again", LABELS[1] if example.label == LABELS[0] else LABELS[0], confidence=1.0)
        for example in corpus()
        for _ in range(2)
    ]
    many = taught(*wrong)
    heavy = Taught([], [Example(one.text, one.label, one.group, one.origin, 50.0) for one in many.llm])

    made = distil.distil(corpus(), heavy, SMALL, silent)

    assert made.worse
    assert made.lost > made.won


def test_what_people_said_is_measured_too() -> None:
    made = distil.distil(corpus(), taught(*jammed(LABELS[0], origin="human")), SMALL, silent)

    assert made.after.rows == len(corpus()) + len(FILLERS)


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(BadInput, match="no verdict to learn from"):
        distil.distil(corpus(), Taught([], []), SMALL, silent)


def test_an_export_becomes_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "corpus_examples", lambda *_: corpus())
    export = tmp_path / "verdicts.jsonl"
    export.write_text("".join(json.dumps(asdict(row)) + "\n" for row in jammed(LABELS[0])))

    done = CliRunner().invoke(cli.main, ["distil", str(export), "--out", str(tmp_path / "model")])

    assert done.exit_code == 0, done.output
    assert "lines are right now that were not" in done.output
    assert ModelStage(ModelOptions(path=tmp_path / "model")).labels == tuple(LABELS[:2])


def test_a_wrong_line_of_an_export_is_named(tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_text("{}\n")

    done = CliRunner().invoke(cli.main, ["distil", str(tmp_path / "verdicts.jsonl"), "--out", str(tmp_path / "model")])

    assert done.exit_code == 65
    assert "verdicts.jsonl:1:" in done.output
