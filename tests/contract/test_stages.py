"""What every stage must do. A stage in the registry without a case here fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from doubles import rule
from logclf_daemon.protocols import Stage
from logclf_daemon.record import Question, Verdict
from logclf_daemon.registry import STAGES
from logclf_daemon.stages.llm import LlmOptions, LlmStage
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.stages.verdicts import VerdictMemory
from logclf_daemon.taxonomy import Taxonomy
from ollama_double import OllamaDouble, chat

QUESTIONS = [
    Question(f"{number:016x}", text, "app", text.encode())
    for number, text in enumerate(
        ["kernel panic not syncing", "", "user logged in", "\ufffd" * 900, "kernel panic not syncing"]
    )
]


def _rules(_path: Path, _stack: ExitStack) -> Stage:
    return RuleSet([rule("panic", "Critical Error")])


def _verdicts(path: Path, stack: ExitStack) -> Stage:
    memory = VerdictMemory(path / "cache.db", "asked")
    stack.callback(memory.close)
    memory.remember(QUESTIONS[0], Verdict("Critical Error", 0.9, "llm"))
    return memory


def _model(_path: Path, _stack: ExitStack) -> Stage:
    return ModelStage(ModelOptions())


def _llm(_path: Path, stack: ExitStack) -> Stage:
    server = stack.enter_context(OllamaDouble(lambda _: chat("Error")))
    stage = LlmStage(LlmOptions(url=server.url), Taxonomy())
    stack.callback(stage.close)
    return stage


CASES: dict[str, Callable[[Path, ExitStack], Stage]] = {
    "rules": _rules,
    "verdicts": _verdicts,
    "model": _model,
    "llm": _llm,
}


@pytest.fixture(params=list(STAGES))
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    assert request.param in CASES, "a stage in the registry needs a case here"
    with ExitStack() as stack:
        yield CASES[request.param](tmp_path, stack)


def test_one_answer_a_question_in_order(stage: Stage) -> None:
    answers = stage.classify(QUESTIONS)

    assert len(answers) == len(QUESTIONS)
    assert all(answer is None or isinstance(answer, Verdict) for answer in answers)


def test_answers_are_labels_with_a_confidence(stage: Stage) -> None:
    for answer in stage.classify(QUESTIONS):
        if answer is not None and not answer.abstained:
            assert answer.label in Taxonomy()
            assert answer.confidence is None or 0 <= answer.confidence <= 1
            assert answer.reason is None


def test_the_same_question_gets_the_same_answer_whatever_stands_beside_it(stage: Stage) -> None:
    together = stage.classify(QUESTIONS)
    alone = [stage.classify([question])[0] for question in QUESTIONS]

    assert list(together) == alone


def test_no_question_is_no_answer(stage: Stage) -> None:
    assert list(stage.classify([])) == []


def test_it_has_the_name_of_the_registry(stage: Stage) -> None:
    assert stage.name in STAGES
