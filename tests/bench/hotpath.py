"""The path in one process: decode a chunk, find each record's verdict, encode it. One core, no sockets."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from logclf_daemon.cascade import Cascade
from logclf_daemon.codec import decode_entries, encode_entries, message_lines
from logclf_daemon.generation import Generation
from logclf_daemon.metrics import exposition
from logclf_daemon.record import Batch, Question, Verdict
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules.files import Rule, read_rules
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import FOLD, canonical, key, spell_kept
from logclf_daemon.traffic import Answered, Traffic
from measure import cpu_secs, table
from traffic import access_log, entries, lines, packed

RECORDS = 200_000


class Sure:
    """A model that answers everything at once: what is measured is the path, not the model."""

    name = "model"

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [Verdict("System Notification", 0.9, "model") for _ in questions]


def shipped_rules(count: int | None) -> list[Rule]:
    """So many of the shipped rules, taken evenly; all for None."""
    rules = read_rules((), Taxonomy(), builtin=folder("rules"))
    if count is None or count >= len(rules):
        return rules
    return [rules[index * len(rules) // count] for index in range(count)]


def cascade(count: int | None) -> Cascade:
    return Cascade(Generation(1, RuleSet(shipped_rules(count), cache_directory()), [Sure()], Taxonomy()))


async def carry(tested: Cascade, chunks: Sequence[bytes]) -> int:
    """All chunks through decode, classify, attach and encode; the bytes that come out."""
    size = 0
    for blob in chunks:
        batch = Batch("app.web", decode_entries(blob, 1000).records)
        classified = await tested.classify_batch(batch)
        tested.attach(batch.records, classified.answers)
        size += len(encode_entries(batch.records))
    return size


def _run(tested: Cascade, chunks: Sequence[bytes]) -> int:
    return asyncio.run(carry(tested, chunks))


def whole_path() -> None:
    chunks = entries(RECORDS)
    rows = []
    for count in (10, 50, 200, 500, None):
        tested = cascade(count)
        asyncio.run(carry(tested, chunks))  # warm
        secs = cpu_secs(partial(_run, tested, chunks))
        name = f"{len(tested.generation.rules.rules)} rules" + (" (all shipped)" if count is None else "")  # type: ignore[attr-defined]
        hits = sum(number >= 0 for number in tested.generation.rules.match("x", lines(20_000))[0]) / 20_000
        speed = f"{RECORDS / secs / 1000:6.0f} k records/s   {secs / RECORDS * 1e6:5.2f} us"
        rows.append((name, f"{speed}   {hits:.0%} decided by rules"))
        tested.close()
    cold = cpu_secs(lambda: asyncio.run(carry(cascade(50), chunks)), rounds=3)
    rows.append(("50 rules, cold cache", f"{RECORDS / cold / 1000:6.0f} k records/s   (with loading the rules)"))
    rows += [_access_log(count) for count in (50, None)]
    table(f"decode -> verdict -> encode, {RECORDS // 1000} k records, warm", rows)


def _access_log(count: int | None) -> tuple[str, str]:
    chunks = packed(access_log(RECORDS))
    tested = cascade(count)
    asyncio.run(carry(tested, chunks))  # warm
    secs = cpu_secs(partial(_run, tested, chunks), rounds=3)
    name = f"{len(tested.generation.rules.rules)} rules, access log"  # type: ignore[attr-defined]
    tested.close()
    return name, f"{RECORDS / secs / 1000:6.0f} k records/s   {secs / RECORDS * 1e6:5.2f} us"


def pieces() -> None:
    rows = lines(50_000)
    chunks = entries(50_000)
    records = [record for blob in chunks for record in decode_entries(blob, 1000).records]
    folds = [line.translate(FOLD) for line in rows]
    kept = [spell_kept(line) for line in rows]
    work = [
        ("decode a chunk", lambda: [decode_entries(blob, 1000) for blob in chunks]),
        ("encode a chunk", lambda: encode_entries(records)),
        ("find the message", lambda: message_lines(records, ("log",))),
        ("fold", lambda: [line.translate(FOLD) for line in rows]),
        ("template (only for a new fold)", lambda: [key(line) for line in kept]),
    ]
    found = [(name, f"{cpu_secs(step) / 50_000 * 1e6:6.2f}") for name, step in work]
    for count in (10, 50, 200, 500, None):
        rules = RuleSet(shipped_rules(count), cache_directory())
        counting = [line for line, (_, counts) in zip(rows, rules.by_fold("x", folds), strict=True) if counts]
        scans = (
            ("a new fold", cpu_secs(partial(_in_slices, rules.by_fold, folds)) / len(folds)),
            ("a line whose digits count", cpu_secs(partial(_in_slices, rules.by_digits, counting)) / len(counting)),
        )
        found += [(f"{len(rules)} rules, scan of {name}", f"{secs * 1e6:6.2f}") for name, secs in scans]
        found.append((f"{len(rules)} rules, lines whose digits count", f"{len(counting) / len(rows):6.0%}"))
    table("us a line", found)


def _in_slices(scan: Callable[[str, Sequence[bytes]], object], rows: Sequence[bytes]) -> None:
    for start in range(0, len(rows), 1000):
        scan("x", rows[start : start + 1000])


def hostile() -> None:
    tested = cascade(None)
    letters = b"abcdefghijklmnopqrstuvwxyz "
    cases = {
        "100 KB of one letter": b"a" * 100_000,
        "100 KB of blanks and digits": b" 1" * 50_000,
        "100 KB of every byte": bytes(range(256)) * 400,
        "100 KB of rule literals": (b'Failed password for kernel: sshd[1]: error HTTP/1.1" 500 exit code 1 ' * 1500)[
            :100_000
        ],
        "100 KB of random words": bytes(letters[(i * i * 31 + i // 7) % 27] for i in range(100_000)),
        "100 KB of brackets": b"[({" * 33_000,
    }
    rows = []
    for name, line in cases.items():
        worst = 0.0
        for _ in range(5):
            started = time.perf_counter()
            asyncio.run(tested.classify("x", [line]))
            worst = max(worst, time.perf_counter() - started)
        rows.append((name, f"{worst * 1000:6.2f} ms"))
    tested.close()
    table("hostile lines, all shipped rules, worst of 5", rows)


def baselines() -> None:
    rows = lines(2000)
    naive = [(re.compile(rule.options.pattern.encode()), rule.options.label) for rule in shipped_rules(50)]

    def loop() -> None:
        for line in rows:
            for pattern, _label in naive:
                if pattern.search(line):
                    break

    secs = cpu_secs(loop, rounds=3)
    found = [("a loop over 50 compiled `re` patterns, no codec", f"{len(rows) / secs / 1000:6.1f} k lines/s")]
    found.append(("the same, and sentence-transformers where none matches", _classical(rows[:300], naive)))
    table("baselines", found)


def _classical(rows: Sequence[bytes], patterns: Sequence[tuple[re.Pattern[bytes], str]]) -> str:
    """Patterns, then one `encode` a line: how such tools are usually built."""
    try:
        from logclf_training.encoder import load

        encoder = load("all-MiniLM-L6-v2", 128)
    except ImportError:
        return "needs the extra `train`"

    def loop() -> None:
        for line in rows:
            if not any(pattern.search(line) for pattern, _label in patterns):
                encoder.encode(line.decode("utf-8", "replace"))

    return f"{len(rows) / cpu_secs(loop, rounds=3) / 1000:6.3f} k lines/s"


def model() -> None:
    """The model on templates never seen, and a flood of them through the cascade."""
    stage = ModelStage(ModelOptions())
    texts = sorted({canonical(line) for line in lines(20_000)})
    usual = [text for text in texts if 12 <= len(text.split()) <= 18][:300]  # 20 to 30 word pieces
    questions = [Question(str(at), text, "app", b"") for at, text in enumerate(usual)]
    secs = cpu_secs(lambda: [stage.probabilities(question.text) for question in questions], rounds=3)
    rows = [("templates of 20-30 word pieces, one at a time", f"{len(questions) / secs:6.0f} a second, one core")]
    flood = [f"{text} {'x' * at}".encode() for at, text in enumerate((usual * 7)[:2000])]
    for wait in (0.5, 5.0):
        rules = RuleSet(shipped_rules(50), cache_directory())
        fresh = ModelStage(ModelOptions())  # remembers nothing yet
        tested = Cascade(Generation(1, rules, [fresh], Taxonomy()), local_wait_secs=wait)
        started = time.perf_counter()
        answers = asyncio.run(tested.classify("x", flood)).answers
        took = time.perf_counter() - started
        busy = sum(answer is not None and answer.verdict.reason == "model_busy" for answer in answers)
        rows.append(
            (f"2000 new templates at once, model.wait_secs {wait}", f"{took:5.2f} s, {busy} of them model_busy")
        )
        tested.close()
    table("the model", rows)


class _Unwatched(Traffic):
    """Counts nothing: what is left is the path without its telemetry."""

    def add(self, answers: Iterable[Answered | None]) -> None:
        return


def telemetry() -> None:
    """What counting costs, and a scrape after it."""
    chunks = entries(RECORDS)
    watched, unwatched = cascade(None), cascade(None)
    unwatched.traffic = _Unwatched()
    for tested in (watched, unwatched):
        asyncio.run(carry(tested, chunks))  # warm
    rounds = [(cpu_secs(partial(_run, unwatched, chunks)), cpu_secs(partial(_run, watched, chunks))) for _ in range(3)]
    without, with_it = min(bare for bare, _ in rounds), min(full for _, full in rounds)
    exposition()
    started = time.perf_counter()
    size = len(exposition())
    scrape = time.perf_counter() - started
    rows = [
        ("verdicts and templates counted", f"{with_it / without - 1:+.1%} of the path without"),
        (f"a scrape, {size / 1024:.0f} KiB", f"{scrape * 1000:.1f} ms"),
    ]
    table("telemetry", rows)
