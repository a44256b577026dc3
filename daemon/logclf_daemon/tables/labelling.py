"""A block of rows through the cascade: asked source by source, answered row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from logclf_daemon.cascade import Cascade
from logclf_daemon.generation import Answer
from logclf_daemon.tables.rows import Block, Codec, Rows, TableOptions, collector_paused
from logclf_daemon.tables.summary import Details, Summary


@dataclass(frozen=True, slots=True)
class Labelled:
    """A block as it is written, what is sent aside, and what it held."""

    payload: bytes
    aside: bytes
    summary: Summary


async def label_block(block: Block, codec: Codec, cascade: Cascade, options: TableOptions) -> Labelled:
    """Label the rows of a block."""
    rows = await asyncio.to_thread(_parsed, block, codec) if options.over_http else _parsed(block, codec)
    left_out = rows.passed if options.bad_rows == "keep" else rows.passed | rows.bad
    answers = await answers_of(cascade, rows.sources, rows.messages, left_out)
    summary = Summary(details=Details() if options.details else None)
    summary.add(rows, answers)
    payload = codec.render(rows, answers)
    summary.note_lost(rows.lost)
    return Labelled(payload, _aside(rows, options), summary)


def _parsed(block: Block, codec: Codec) -> Rows:
    with collector_paused():
        return codec.parse(block)


def _aside(rows: Rows, options: TableOptions) -> bytes:
    if options.bad_rows != "aside" or not rows.bad:
        return b""
    return b"".join(
        rows.bodies[at] + (rows.ends if isinstance(rows.ends, bytes) else rows.ends[at]) for at in sorted(rows.bad)
    )


async def answers_of(
    cascade: Cascade,
    sources: Sequence[bytes],
    messages: Sequence[bytes | None],
    left_out: Collection[int] = (),
) -> Sequence[Answer | None]:
    """The answer of each row, asked for all sources together that the cascade does not tell apart; none if left out."""
    generation = cascade.generation
    first: dict[Hashable, bytes] = {}
    asked_as = {source: first.setdefault(generation.alike(_name(source)), source) for source in set(sources)}
    if len(first) == 1 and not left_out:
        return await _ask(cascade, first.popitem()[1], messages)
    groups: dict[bytes, list[int]] = {source: [] for source in first.values()}
    places_of = {source: groups[asked_as[source]] for source in asked_as}
    for at, source in enumerate(sources):
        places_of[source].append(at)
    if left_out:
        groups = {source: [at for at in places if at not in left_out] for source, places in groups.items()}
    answers: list[Answer | None] = [None] * len(sources)
    for source, places in groups.items():
        if cascade.generation is not generation:  # reloaded meanwhile: other rules may tell these sources apart
            return await answers_of(cascade, sources, messages, left_out)
        if places:
            lines = itemgetter(*places)(messages)
            for at, answer in zip(
                places, await _ask(cascade, source, lines if len(places) > 1 else [lines]), strict=True
            ):
                answers[at] = answer
    return answers


async def _ask(cascade: Cascade, source: bytes, lines: Sequence[bytes | None]) -> list[Answer | None]:
    classified = await cascade.classify(_name(source), lines)
    if classified.late:
        await cascade.settle_late(classified.late, classified.answers)
    return classified.answers


def _name(source: bytes) -> str:
    return source.strip().decode("utf-8", "replace")
