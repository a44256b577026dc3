"""Lines and chunks to measure with: generated from the corpus, the same ones at every run."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import msgpack

from logclf_training import corpus, generate

CORPUS = Path(__file__).parents[2] / "training" / "corpus"
TIME = msgpack.ExtType(0, (1_790_000_000).to_bytes(4, "big") + bytes(4))
SEED = 7


@cache
def lines(count: int, templates: int = 2000) -> tuple[bytes, ...]:
    """Mixed lines: few templates are frequent, many are rare, numbers differ from line to line."""
    chosen = random.Random(SEED)
    programs = [corpus.parse(path)[0] for path in sorted(CORPUS.glob("*.txt"))]
    pool = [(program, template) for program in programs for template in program.templates]
    pool = chosen.sample(pool, min(templates, len(pool)))
    weights = [1 / (rank + 10) for rank in range(len(pool))]
    picked = chosen.choices(range(len(pool)), weights, k=count)
    # Filling a template is slow: a few variants of each, their digits changed from line to line.
    variants = [[generate.line(*pair, number, SEED).text.encode() for number in range(3)] for pair in pool]
    return tuple(_digits_changed(chosen.choice(variants[index]), chosen) for index in picked)


def _digits_changed(line: bytes, chosen: random.Random) -> bytes:
    """A third of the digits become others."""
    return bytes(
        chosen.randrange(0x30, 0x3A) if 0x30 <= byte <= 0x39 and chosen.random() < 0.3 else byte for byte in line
    )


@cache
def entries(count: int, chunk: int = 1000) -> tuple[bytes, ...]:
    """Chunks of entries as a shipper sends them: `[[EventTime, {}], {"log": line, "host": …, "stream": …}]`."""
    chunks = []
    rows = lines(count)
    for start in range(0, count, chunk):
        packed = [
            msgpack.packb([[TIME, {}], {"log": line.decode("utf-8", "replace"), "host": "web1", "stream": "stdout"}])
            for line in rows[start : start + chunk]
        ]
        chunks.append(b"".join(packed))
    return tuple(chunks)
