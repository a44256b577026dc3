"""Lines and chunks to measure with: generated from the corpus, the same ones at every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
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


_PARTS = (
    "api",
    "users",
    "orders",
    "cart",
    "login",
    "static",
    "img",
    "search",
    "account",
    "admin",
    "reports",
    "v1",
    "v2",
)
_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
    "curl/8.5.0",
    "kube-probe/1.29",
)
_STATUS = {200: 60, 201: 3, 204: 2, 301: 2, 304: 12, 400: 2, 401: 2, 403: 1, 404: 8, 429: 1, 500: 2, 502: 1, 503: 1}


@cache
def access_log(count: int) -> tuple[bytes, ...]:
    """Lines of a web server: the hardest kind, for the numbers differ in length too and the status decides."""
    chosen = random.Random(SEED)
    paths = ["/" + "/".join(chosen.choices(_PARTS, k=chosen.randint(1, 4))) for _ in range(80)]
    rows = []
    for status in chosen.choices(list(_STATUS), list(_STATUS.values()), k=count):
        client = ".".join(str(chosen.randint(1, 255)) for _ in range(4))
        path = chosen.choice(paths) + (f"/{chosen.randint(1, 99_999)}" if chosen.random() < 0.5 else "")
        rows.append(
            f"{client} - - [28/Nov/2026:10:{chosen.randint(10, 59)}:{chosen.randint(10, 59)} +0000] "
            f'"GET {path} HTTP/1.1" {status} {chosen.randint(0, 99_999)} "-" "{chosen.choice(_AGENTS)}"'.encode()
        )
    return tuple(rows)


def _digits_changed(line: bytes, chosen: random.Random) -> bytes:
    """A third of the digits become others."""
    return bytes(
        chosen.randrange(0x30, 0x3A) if 0x30 <= byte <= 0x39 and chosen.random() < 0.3 else byte for byte in line
    )


@cache
def entries(count: int, chunk: int = 1000) -> tuple[bytes, ...]:
    """Chunks of entries as a shipper sends them: `[[EventTime, {}], {"log": line, "host": …, "stream": …}]`."""
    return packed(lines(count), chunk)


def packed(rows: Sequence[bytes], chunk: int = 1000) -> tuple[bytes, ...]:
    """The same of these lines."""
    chunks = []
    for start in range(0, len(rows), chunk):
        blob = [
            msgpack.packb([[TIME, {}], {"log": line.decode("utf-8", "replace"), "host": "web1", "stream": "stdout"}])
            for line in rows[start : start + chunk]
        ]
        chunks.append(b"".join(blob))
    return tuple(chunks)
