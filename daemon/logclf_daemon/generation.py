"""THE HOT PATH, second half: what rules, caches and local stages know of lines, one version of it at a time.

The digit-to-0 fold of a line looks up what all lines of that fold get (level 1): in most logs, for most lines, the
digits decide nothing, and no rule is tried again. A new fold is scanned with all rules, once, and reduced to its
template key (level 2), which holds one pre-encoded verdict for each rule and one for "no rule". Where the digits may
decide, a rule or the template, each line is scanned with the patterns that look at digits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import PurePath
from typing import Protocol

from msgspec import Raw
from prometheus_client import Counter as Counted

from logclf_daemon.cache import TwoGenerations
from logclf_daemon.codec import encode
from logclf_daemon.enrichment import Encoded
from logclf_daemon.errors import StageError
from logclf_daemon.events import Bug, StageFailed, cache_hits, cache_misses, emit, stage_seconds, verdicts_total
from logclf_daemon.protocols import Stage
from logclf_daemon.record import Question, Verdict, abstention
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import FOLD, MAX_BYTES, key, spell_kept, template_id, text_of
from logclf_daemon.template import fold as line_fold
from logclf_daemon.traffic import Seen

NO_RULE = -1
LEVEL1_LIMIT, LEVEL2_LIMIT = 8192, 16384  # entries a generation of the cache, per class of sources
MAX_CLASSES = 64


class Rules(Protocol):
    """What the cascade needs of the rules stage on the hot path. The numbers of rules are in winning order."""

    def scope(self, source: str) -> Hashable:
        """The same for sources whose lines meet the same rules."""

    def by_fold(self, source: str, folds: Sequence[bytes]) -> list[tuple[int, bool]]:
        """For each fold: the best rule among those that match all its lines, or -1, and whether their digits count."""

    def by_digits(self, source: str, lines: Sequence[bytes]) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """For each line the best rule that looks at digits, or -1; for some which of `template.KEPT` end where."""

    def match(self, source: str, lines: Sequence[bytes]) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
        """Both at once: for each line the winning rule or -1; for some which of `template.KEPT` end where."""

    def verdict(self, number: int) -> Verdict:
        """What that rule says."""


class Answer:
    """A verdict with its template, encoded once for all records that get it."""

    __slots__ = ("fields", "generation", "question", "raw", "seen", "series", "standard", "template", "verdict")

    def __init__(self, verdict: Verdict, template: str, generation: int, question: Question | None = None) -> None:
        self.verdict = verdict
        self.series = series_of(verdict)
        self.template = template
        self.generation = generation
        self.question = question
        self.seen: Seen | None = None  # the traffic's own
        self.standard: Encoded | None = None  # the enrichment's own
        self.fields: dict[str, object] = {"label": verdict.label}
        if verdict.confidence is not None:
            self.fields["confidence"] = verdict.rounded
        self.fields["stage"] = verdict.stage
        if verdict.rule is not None:
            self.fields["rule"] = verdict.rule
        if verdict.reason is not None:
            self.fields["reason"] = verdict.reason
        self.fields |= {"template": template, "generation": generation}
        self.raw = Raw(encode(self.fields))


class Decided:
    """What a rule says of a template."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class DigitsCount:
    """A fold whose lines have to be looked at one by one; `rule` is the best of those that match them all."""

    __slots__ = ("answer", "rule")

    def __init__(self, rule: int) -> None:
        self.answer = None
        self.rule = rule


class Known:
    """A template seen in this generation; `answer` is what the later stages said, None while it is open."""

    __slots__ = ("_decided", "answer", "generation", "local", "question", "renewal", "verdict_of")

    def __init__(self, question: Question, generation: int, verdict_of: Callable[[int], Verdict]) -> None:
        self.question = question
        self.generation = generation
        self.verdict_of = verdict_of
        self.answer: Answer | None = None
        self.local: Verdict | None = None  # what the local stages said, when they were asked
        self.renewal: asyncio.Future[Verdict] | None = None  # the question that will replace a provisional verdict
        self._decided: dict[int, Decided] = {}

    def under(self, rule: int) -> Known | Decided:
        """What lines of this template get that this rule matches, or none for `NO_RULE`."""
        if rule == NO_RULE:
            return self
        decided = self._decided.get(rule)
        if decided is None:
            decided = self._decided[rule] = Decided(self.answer_of(self.verdict_of(rule)))
        return decided

    def answer_of(self, verdict: Verdict) -> Answer:
        return Answer(verdict, self.question.template, self.generation, self.question)


Case = Known | Decided | DigitsCount
_answer_of = attrgetter("answer")


@dataclass(slots=True)
class _Caches:
    folds: TwoGenerations[bytes, Case]
    exact: TwoGenerations[bytes, Known]  # folds with the digits that count
    templates: TwoGenerations[bytes, Known]

    def trim(self) -> None:
        """Bound the memory, once a batch."""
        self.folds.trim()
        self.exact.trim()
        self.templates.trim()


class Generation:
    """One immutable set of rules, stages and labels, with the caches that belong to it and die with it."""

    def __init__(self, number: int, rules: Rules, stages: Sequence[Stage], taxonomy: Taxonomy) -> None:
        self.number = number
        self.rules = rules
        self.stages = tuple(stages)
        self.taxonomy = taxonomy
        self._caches: dict[Hashable, _Caches] = {}
        self.no_message = Answer(abstention("no_message"), template_id(b""), number)

    def caches(self, kind: str, scope: Hashable) -> _Caches:
        """The caches of one class of sources whose lines meet the same rules."""
        caches = self._caches.pop((kind, scope), None)
        if caches is None:
            if len(self._caches) >= MAX_CLASSES:
                del self._caches[next(iter(self._caches))]
            # Many classes share the memory of a few; each shrinks as they come.
            level1, level2 = (limit // max(1, len(self._caches) // 4) for limit in (LEVEL1_LIMIT, LEVEL2_LIMIT))
            caches = _Caches(TwoGenerations(level1), TwoGenerations(level1), TwoGenerations(level2))
        self._caches[kind, scope] = caches  # used last
        return caches

    def alike(self, source: str) -> Hashable:
        """The same for sources whose lines get the same answers: of one class, under the same rules."""
        return source_class(source), self.rules.scope(source)

    def recall(
        self, source: str, lines: Sequence[bytes | None]
    ) -> tuple[list[Answer | None], list[tuple[Known, list[int]]]]:
        """Answers from rules and caches; templates still open, each with the positions of its lines."""
        kind = source_class(source)
        caches = self.caches(kind, self.rules.scope(source))
        # `all` costs a tenth of `None in`: the slow look comes only when something is empty.
        texts: Sequence[bytes] = lines if all(lines) else [line or b"" for line in lines]  # type: ignore[assignment]
        folds = [text.translate(FOLD) for text in texts]
        cases: list[Case | None] = list(map(caches.folds.young.get, folds))
        if all(cases):
            _FOLD_HITS.inc(len(cases))
        else:
            self._find(caches, source, kind, cases, folds, texts)
        answers: list[Answer | None] = list(map(_answer_of, cases))
        if not all(answers):
            self._look_at_digits(caches, source, kind, cases, answers, texts)
        if texts is not lines:
            answers = [self.no_message if line is None else answer for line, answer in zip(lines, answers, strict=True)]
        opened: dict[str, tuple[Known, list[int]]] = {}
        if not all(answers):
            for at, (case, answer) in enumerate(zip(cases, answers, strict=True)):
                if answer is None and type(case) is Known:
                    opened.setdefault(case.question.template, (case, []))[1].append(at)
        caches.trim()
        return answers, list(opened.values())

    def _find(
        self,
        caches: _Caches,
        source: str,
        kind: str,
        cases: list[Case | None],
        folds: Sequence[bytes],
        texts: Sequence[bytes],
    ) -> None:
        """Fill in what the lines get whose fold is not among those used last."""
        missing = [at for at, case in enumerate(cases) if case is None]
        fresh: dict[bytes, int] = {}
        for at in missing:
            cases[at] = caches.folds.find(folds[at])
            if cases[at] is None:
                fresh.setdefault(folds[at], at)
        _FOLD_HITS.inc(len(cases) - len(fresh))
        _FOLD_MISSES.inc(len(fresh))
        with _RULES_SECONDS.time():
            rules = self.rules.by_fold(source, list(fresh))
        found: dict[bytes, Case] = {}
        for (fold, at), (rule, digits_count) in zip(fresh.items(), rules, strict=True):
            # Of a long line the template sees the head only, the rules all of it: each such line is looked at.
            if digits_count or len(fold) > MAX_BYTES:
                found[fold] = DigitsCount(rule)
            else:
                found[fold] = self._known(caches, key(fold), texts[at], kind).under(rule)
        for at in missing:
            cases[at] = cases[at] or found[folds[at]]
        caches.folds.young |= {fold: case for fold, case in found.items() if len(fold) <= MAX_BYTES}

    def _look_at_digits(
        self,
        caches: _Caches,
        source: str,
        kind: str,
        cases: list[Case | None],
        answers: list[Answer | None],
        texts: Sequence[bytes],
    ) -> None:
        """Fill in what those lines get whose digits may decide."""
        counting = [at for at, case in enumerate(cases) if type(case) is DigitsCount]
        with _RULES_SECONDS.time():
            numbers, kept = self.rules.by_digits(source, [texts[at] for at in counting])
        young = caches.exact.young
        for place, (at, number) in enumerate(zip(counting, numbers, strict=True)):
            found = kept.get(place, ())
            exact = line_fold(texts[at], found)
            known = young.get(exact) or caches.exact.find(exact)
            if known is None:
                known = young[exact] = self._known(caches, template_key(texts[at], found), texts[at], kind)
            rule: int = cases[at].rule  # type: ignore[union-attr]
            if number != NO_RULE and (rule == NO_RULE or number < rule):
                rule = number
            cases[at] = case = known if rule == NO_RULE else known.under(rule)
            answers[at] = case.answer

    def _known(self, caches: _Caches, template: bytes, text: bytes, kind: str) -> Known:
        """Level 2: a template, known or new."""
        known = caches.templates.find(template)
        if known is None:
            _TEMPLATE_MISSES.inc()
            question = Question(template_id(template), text_of(template), kind, text)
            known = caches.templates.young[template] = Known(question, self.number, self.rules.verdict)
        else:
            _TEMPLATE_HITS.inc()
        return known

    def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """What the local stages say, one after the other; an abstention with its reason where none is sure."""
        answers: list[Verdict] = [abstention("low_confidence")] * len(questions)
        still = list(range(len(questions)))
        for stage in self.stages:
            if not still:
                break
            for at, verdict in zip(still, ask_stage(stage, [questions[at] for at in still]), strict=True):
                if verdict is not None:
                    kept = answers[at].fallback and verdict.abstained
                    answers[at] = replace(answers[at], guess=verdict.guess) if kept else verdict
            still = [at for at in still if answers[at].abstained or answers[at].fallback]
        return answers


def ask_stage(stage: Stage, questions: Sequence[Question]) -> Sequence[Verdict | None]:
    """Whatever a stage does, each question gets an answer or an abstention: a stage cannot lose a record."""
    try:
        with stage_seconds.labels(stage.name).time():
            answers = stage.classify(questions)
    except StageError as error:
        emit(StageFailed(stage=stage.name, error=str(error)))
        return [abstention("stage_failed")] * len(questions)
    except Exception as error:
        # A bug in one stage must not stop the flow: it would come back after a restart, with the same records.
        emit(Bug(where=f"stage {stage.name}", error=repr(error)))
        return [abstention("stage_failed")] * len(questions)
    if len(answers) != len(questions):
        emit(StageFailed(stage=stage.name, error=f"{len(answers)} answers to {len(questions)} questions"))
        return [abstention("stage_failed")] * len(questions)
    return answers


def template_key(text: bytes, found: Sequence[tuple[int, int]] | None) -> bytes:
    """The template of a line in which a scan found these of `template.KEPT`."""
    if len(text) > MAX_BYTES:
        # What the scan found may lie beyond the head, and a pattern's end may fall on the cut: look again.
        return key(spell_kept(text[:MAX_BYTES]))
    return key(spell_kept(text, sorted({number for number, _ in found})) if found else text)


_RULES_SECONDS = stage_seconds.labels("rules")
_FOLD_HITS, _FOLD_MISSES = cache_hits.labels("fold"), cache_misses.labels("fold")
_TEMPLATE_HITS, _TEMPLATE_MISSES = cache_hits.labels("template"), cache_misses.labels("template")


@lru_cache(maxsize=1024)
def _series(stage: str, label: str) -> Counted:
    return verdicts_total.labels(stage, label)


def series_of(verdict: Verdict) -> Counted:
    """The counter a verdict adds to: looked up once an answer, not once a record."""
    return _series(verdict.stage, verdict.label)


_VARYING = re.compile(r"[-_.@]?[0-9a-f]*[0-9][0-9a-f]*")


def source_class(source: str) -> str:
    """Sources that write the same kind of lines: the file's name or the tag without numbers, hashes and rotation."""
    # A file may be named in any bytes; what is kept in a database and sent to an LLM is text.
    name = PurePath(source).name.encode("utf-8", "replace").decode()
    return _VARYING.sub("", name) or "numbered"
