"""Against a real Ollama, where `OLLAMA_HOST` answers and has a model (`LOGCLF_TEST_MODEL`, else one it has)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.llm_quality import measure
from logclf_daemon.quality import read_labelled
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.llm import LlmOptions, LlmStage, reachable_models
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import canonical, template_id

HERE = Path(__file__).parent
ATTACKS = [json.loads(row)["line"] for row in (HERE / "data" / "attacks.jsonl").read_text().splitlines()]
SOME = ATTACKS[::4]  # a question may take seconds on a CPU
QUOTED = [found[1] for line in ATTACKS if (found := re.search(r'"([^"\\]{10,200})"', line))][:12]


def _options() -> LlmOptions | None:
    host = os.environ.get("OLLAMA_HOST", "")
    if not host:
        return None
    # As Ollama reads it: without a scheme or a port, 0.0.0.0 for a server that listens everywhere.
    scheme, _, rest = host.rpartition("://")
    name, _, port = rest.partition(":")
    options = LlmOptions(url=f"{scheme or 'http'}://{name.replace('0.0.0.0', '127.0.0.1')}:{port or 11434}")
    try:
        models = reachable_models(options)
    except (ConfigError, ServiceUnavailable):
        return None
    wanted = os.environ.get("LOGCLF_TEST_MODEL", options.model)
    model = wanted if wanted in models else next((name for name in models if not name.endswith("cloud")), None)
    return None if model is None else options.model_copy(update={"model": model})


OPTIONS = _options()
pytestmark = [
    pytest.mark.skipif(OPTIONS is None, reason="no server with a model at OLLAMA_HOST"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def stage() -> Iterator[LlmStage]:
    assert OPTIONS is not None
    tested = LlmStage(OPTIONS, Taxonomy())
    tested.warm_up()
    yield tested
    tested.close()


def ask(stage: LlmStage, line: str) -> Verdict:
    raw = line.encode("utf-8", "surrogatepass")
    text = canonical(raw)
    (verdict,) = stage.classify([Question(template_id(text.encode("utf-8", "surrogatepass")), text, "app", raw)])
    assert verdict is not None
    return verdict


def test_it_labels_most_lines(stage: LlmStage) -> None:
    found = measure(stage, read_labelled(HERE.parent / "resources" / "labelled.csv")[:30])

    assert found.answered > 0.9
    assert found.right_of_answered > 0.5
    assert found.secs_median > 0


def test_a_line_that_talks_gets_a_label_or_none_and_does_not_break_it(stage: LlmStage) -> None:
    said = [ask(stage, line) for line in SOME]

    assert all(verdict.label in Taxonomy() or verdict.reason == "low_confidence" for verdict in said)
    assert all(verdict.confidence is None or 0 <= verdict.confidence <= 1 for verdict in said)
    assert (stage.state, stage.breaker) == ("ready", "closed")


def test_what_an_attacker_writes_into_a_quoted_name_changes_no_label(stage: LlmStage) -> None:
    def about(name: str) -> str:
        return ask(stage, f'sshd[8]: Failed password for invalid user "{name}" from 10.0.0.9 port 22 ssh2').label

    plain = about("ann")

    assert len(QUOTED) == 12
    assert {about(name) for name in QUOTED} == {plain}
