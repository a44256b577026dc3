"""Three days of one kind of traffic: how often the LLM is asked, and how many lines get the right label.

The lines are those of programs of the corpus that no rule and no head has seen; the LLM is a scripted server on a real
socket that is wrong in one of twelve templates, and less sure then. Each day has templates the days before had not.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logclf_daemon.build import Parts, build_parts, cascade_of, close
from logclf_daemon.config import Config
from logclf_daemon.record import Question
from logclf_daemon.stages._llm.prompt import Prompt
from logclf_daemon.stages.rules import RulesOptions, load_rules
from logclf_daemon.suggest import Evidence, Wanted, suggest
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import canonical
from logclf_training import corpus, generate
from measure import table
from traffic import CORPUS, SEED

sys.path.insert(0, str(Path(__file__).parents[1]))

from ollama_double import OllamaDouble, Script, chat

PROGRAMS, KNOWN_PROGRAMS = 4, 6
LINES = 50_000  # a day
NEW_EACH_DAY = 0.03  # of the templates
WRONG, UNSURE = 1 / 12, 1 / 4  # of the LLM's answers
DAYS = (1, 2, 3)

Line = tuple[bytes, str]


@dataclass(frozen=True)
class Day:
    """What happened: questions, and the share of lines with an answer, and with the right one."""

    calls: int
    answered: float
    right: float

    def row(self) -> str:
        return (
            f"{self.calls * 1_000_000 // LINES:>7} calls per million lines   {self.answered:6.1%} answered   "
            f"{self.right:6.1%} of those right"
        )


def replay() -> None:
    """Day by day with the memory; day 2 also with what was learned from it and no memory."""
    parsed = [corpus.parse(path)[0] for path in sorted(CORPUS.glob("*.txt"))]
    random.Random(SEED).shuffle(parsed)
    traffic = days(parsed[:PROGRAMS])
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name, OllamaDouble(answering(traffic)) as server:
        folder = Path(name)
        first = day(folder, server, traffic[1])
        rows.append(("day 1", first.row()))
        rules = suggested(folder, server, parsed[PROGRAMS:])
        rows.append(("  of it made", f"{rules} rules, and a head"))
        learned = {"rules": {"builtin": False, "paths": [str(folder / "suggested.yaml")]}}
        head = distilled(folder, server, parsed[PROGRAMS : PROGRAMS + KNOWN_PROGRAMS])
        with_head = {**learned, "model": {"path": str(head), "max_error_rate": 0.05}} if head else learned
        for title, more in (("suggested rules", learned), ("suggested rules and distilled head", with_head)):
            bare = folder / title.replace(" ", "-")
            bare.mkdir()
            rows.append((f"day 2, memory lost, {title}", day(bare, server, traffic[2], more).row()))
        for number in DAYS[1:]:
            then = day(folder, server, traffic[number], with_head)
            rows.append(
                (f"day {number}, memory, rules and head", f"{then.row()}   {then.calls / first.calls - 1:+.0%}")
            )
    table(f"{PROGRAMS} programs nobody has seen, {LINES:,} lines a day", rows)


def days(programs: Sequence[corpus.Program]) -> dict[int, list[Line]]:
    """The lines of each day with their labels: few templates are frequent, some are new."""
    chosen = random.Random(SEED)
    pool = [(program, template) for program in programs for template in program.templates]
    chosen.shuffle(pool)
    fresh = int(len(pool) * NEW_EACH_DAY)
    found = {}
    for number in DAYS:
        there = pool[: len(pool) - fresh * (len(DAYS) - number)]
        # What is new is rare as a rule: it stands at the end. Names, paths and the like recur, and some are new.
        weights = [1 / (rank + 10) for rank in range(len(there))]
        variants = [
            [generate.line(program, template, at, SEED) for at in (*range(6), 100 + number)]
            for program, template in there
        ]
        picked = chosen.choices(range(len(there)), weights, k=LINES)
        lines = [chosen.choice(variants[at]) for at in picked]
        found[number] = [(line.text.encode(), line.label) for line in lines]
    return found


def answering(traffic: Mapping[int, Sequence[Line]]) -> Script:
    """A script that knows the lines, and is now and then wrong or unsure."""
    prompt, names = Prompt(Taxonomy()), Taxonomy().names
    truth = {}
    for text, label in {line for lines in traffic.values() for line in lines}:
        truth[prompt.readable(Question("", canonical(text), "app", text))] = label

    def script(request: dict[str, Any]) -> tuple[int, bytes]:
        line = request["messages"][1]["content"].split("\n")[2]
        dice = hashlib.sha256(line.encode()).digest()
        label = truth[line]
        wrong = dice[0] / 256 < WRONG
        if wrong:
            label = names[(names.index(label) + 1 + dice[1] % (len(names) - 1)) % len(names)]
        sure = dice[2] / 256 >= (0.85 if wrong else UNSURE)
        return chat(label, logprobs=_logprobs(label, names, 0.95 if sure else 0.6))

    return script


def _logprobs(label: str, names: Sequence[str], share: float) -> list[dict[str, object]]:
    other = next(name for name in names if name[:3] != label[:3])
    top = [{"token": label, "logprob": math.log(share)}, {"token": other, "logprob": math.log(1 - share)}]
    return [
        {"token": '{"label": "', "logprob": 0.0},
        {"token": label, "logprob": math.log(share), "top_logprobs": top},
    ]


def _config(folder: Path, server: OllamaDouble, more: Mapping[str, object] | None = None) -> Config:
    return Config.model_validate(
        {
            "llm": {"url": server.url},
            "rules": {"builtin": False},
            "model": {"enabled": False},
            "state": {"directory": str(folder)},
            **(more or {}),
        }
    )


def day(folder: Path, server: OllamaDouble, lines: Sequence[Line], more: Mapping[str, object] | None = None) -> Day:
    """Classify the lines of a day as the csv command does."""
    config = _config(folder, server, more)
    parts = build_parts(config, folder)
    cascade = cascade_of(parts, patient=True)
    before = len(server.requests)

    async def all_of_them() -> tuple[int, int]:
        answered = right = 0
        for start in range(0, len(lines), 4096):
            block = lines[start : start + 4096]
            classified = await cascade.classify("app", [text for text, _ in block])
            await cascade.settle_late(classified.late, classified.answers)
            for (_, label), answer in zip(block, classified.answers, strict=True):
                if answer is not None and not answer.verdict.abstained:
                    answered += 1
                    right += answer.verdict.label == label
        return answered, right

    answered, right = asyncio.run(all_of_them())
    close(cascade, parts)
    return Day(len(server.requests) - before, answered / len(lines), right / max(answered, 1))


def suggested(folder: Path, server: OllamaDouble, others: Sequence[corpus.Program]) -> int:
    """The rules that `rules suggest` would propose, all of them accepted; how many.

    They are tried on the corpus without the programs of the replay, which nobody has seen.
    """
    with_memory = _parts_of_memory(folder, server)
    verdicts = with_memory.memory.listed(limit=100_000) if with_memory.memory else []
    shipped = load_rules(RulesOptions(builtin=False), Taxonomy(), None)
    lines = [(line.text, line.label) for program in others for line in generate.lines(program, 2, SEED)]
    found = suggest(verdicts, shipped, Wanted(), [Evidence("lines of the corpus", lines)])
    (folder / "suggested.yaml").write_text(found.as_yaml())
    with_memory.close()
    return len(found.found)


def _parts_of_memory(folder: Path, server: OllamaDouble) -> Parts:
    return build_parts(_config(folder, server), folder)


def distilled(folder: Path, server: OllamaDouble, programs: Sequence[corpus.Program]) -> Path | None:
    """The model folder that `logclf-train distil` makes of the day and other programs; None without its libraries."""
    try:
        from logclf_training import distil
        from logclf_training.dataset import from_corpus
        from logclf_training.export import write_folder
        from logclf_training.recipe import SHIPPED, Recipe
    except ImportError as error:
        print(f"no head: {error.name} is not installed")
        return None
    parts = _parts_of_memory(folder, server)
    verdicts = parts.memory.listed(limit=100_000) if parts.memory else []
    parts.close()
    recipe = Recipe(encoder=SHIPPED, folds=3)
    known, _ = from_corpus(programs, recipe.lines_per_template, recipe.seed)
    taught = distil.taught(verdicts, known, 0.5, print)
    made = distil.distil(known, taught, recipe, print)
    print(f"held out: {made.before.accuracy:.3f} before, {made.after.accuracy:.3f} after; worse: {made.worse}")
    if made.worse:
        return None
    write_folder(distil.parts(made, taught, recipe), folder / "model", replace=False)
    return folder / "model"
