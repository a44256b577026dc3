"""The LLM stage: what a hanging server costs the others, and the memory of a hundred thousand verdicts."""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgpack

from hotpath import shipped_rules
from logclf_daemon.cascade import Cascade
from logclf_daemon.generation import Generation
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages._rules.files import Rule, RuleOptions
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.stages.verdicts import Remembered, VerdictMemory
from logclf_daemon.taxonomy import Taxonomy
from measure import cpu_secs, table
from traffic import TIME
from whole import feed, fifty_rules, free_port, running, sink

sys.path.insert(0, str(Path(__file__).parents[1]))

from ollama_double import OllamaDouble, chat

VERDICTS = 100_000


def hanging() -> None:
    """Records that need no LLM, one at a time, while others ask for it: without an LLM, and with one that hangs."""
    rows = []
    figures: dict[str, list[float]] = {"no LLM": [], "an LLM that hangs": []}
    with tempfile.TemporaryDirectory() as name, sink() as out, OllamaDouble(lambda _: chat("Error")) as server:
        server.loaded = "qwen3:1.7b"
        server.hang.clear()
        for turn in range(3):
            for title, llm in (
                ("no LLM", {"enabled": False}),
                ("an LLM that hangs", {"url": server.url, "wait_secs": 5}),
            ):
                folder, port = Path(name) / f"{turn}{title[:2]}", free_port()
                folder.mkdir()
                config = {
                    "inputs": [{"type": "forward", "listen": f"127.0.0.1:{port}"}],
                    "outputs": [{"type": "forward", "address": f"127.0.0.1:{out}"}],
                    "rules": fifty_rules(folder),
                    "llm": llm,
                }
                with running(folder, config):
                    feed(port, 2000, 1, 1)  # warm: the model has seen the templates
                    with _strangers(port):
                        figures[title].append(feed(port, 2000, 1, 1)["p99_ms"])
    for title, taken in figures.items():
        rows.append((title, f"p99 {statistics.median(taken):6.2f} ms   ({', '.join(f'{one:.2f}' for one in taken)})"))
    without, with_it = (statistics.median(taken) for taken in figures.values())
    rows.append(("change", f"{with_it / without - 1:+.1%}"))
    table("latency of records that need no LLM while 50 a second ask for it, median of 3", rows)


class _Remembered:
    """A memory that knows every template."""

    name = "verdicts"

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [Verdict("Workflow Error", 0.9, "llm") for _ in questions]


def cached() -> None:
    """A line answered by a rule, and one answered by a verdict of the LLM that this generation has met."""
    lines = [f"backup of volume {number} stalled after {number % 7} seconds".encode() for number in range(100_000)]
    rows = []
    for title, pattern in (("a rule", "backup of volume"), ("a cached verdict", "no such words")):
        options = RuleOptions(id="own", label="Workflow Error", pattern=pattern, examples=(pattern,))
        rules = RuleSet([*shipped_rules(50), Rule(options, Path("own.yaml"), 1, 1)])
        tested = Cascade(Generation(1, rules, [_Remembered()], Taxonomy()))
        asyncio.run(tested.classify("app", lines))  # warm
        secs = cpu_secs(lambda tested=tested: asyncio.run(tested.classify("app", lines)))  # type: ignore[misc]
        rows.append((title, f"{secs / len(lines) * 1e6:6.3f} us a line"))
        tested.close()
    table("what answers a line, warm, 51 rules", rows)


@contextmanager
def _strangers(port: int) -> Iterator[None]:
    """Fifty new templates a second that only an LLM could label, from a sender that waits for no acknowledgement."""
    over, chosen = threading.Event(), random.Random(7)

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            while not over.wait(0.02):
                words = " ".join("".join(chosen.choices("bcdfghkmpqvwxz", k=7)) for _ in range(4))
                peer.sendall(msgpack.packb(["strange", [[TIME, {"log": words}]]]))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()


def memory() -> None:
    """Look-ups and size of a full verdict memory."""
    chosen = random.Random(7)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cache.db"
        verdicts = VerdictMemory(path, "qwen3:1.7b/0123456789abcdef/2", model=lambda: "qwen3:1.7b@0123456789ab")
        started = time.perf_counter()
        for start in range(0, VERDICTS, 1000):
            verdicts.put([_remembered(number, chosen) for number in range(start, start + 1000)])
        rows.append(("filled, a thousand a transaction", f"{VERDICTS / (time.perf_counter() - started):8.0f} a second"))
        for title, first in (("look-up, hit", 0), ("look-up, miss", VERDICTS)):
            questions = [Question(_template(first + number), "", "app", b"") for number in range(5000)]
            chosen.shuffle(questions)
            spent = time.process_time()
            for question in questions:
                verdicts.classify([question])
            rows.append((title, f"{(time.process_time() - spent) / len(questions) * 1e6:8.1f} us"))
        spent = time.process_time()
        verdicts.remember(Question("f" * 16, "text", "app", b"line"), Verdict("Error", 0.9, "llm"))
        rows.append(("one more", f"{(time.process_time() - spent) * 1e6:8.1f} us"))
        started = time.perf_counter()
        verdicts.listed()
        rows.append(("the page of a review", f"{(time.perf_counter() - started) * 1e3:8.1f} ms"))
        verdicts.close()
        rows.append((f"file with {VERDICTS:,} verdicts", f"{path.stat().st_size / 1e6:8.1f} MB"))
    table("verdict memory", rows)


def _template(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}"


def _remembered(number: int, chosen: random.Random) -> Remembered:
    """A verdict of the usual size: some twelve words of template, a line of a hundred and twenty characters."""
    text = " ".join("".join(chosen.choices("abcdefghijklmnop", k=6)) for _ in range(12))
    return Remembered(
        template=_template(number),
        source="app.log",
        label="System Notification",
        confidence=0.9,
        origin="llm",
        model="qwen3:1.7b@0123456789ab",
        asked="qwen3:1.7b/0123456789abcdef/2",
        text=text,
        example=f"2026-11-28T10:00:00 host app[{number}]: {text}"[:120],
        created=int(time.time()),
        last_seen=int(time.time()) - number,
        hits=number,
    )
