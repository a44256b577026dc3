"""The vocabulary: what travels through the pipeline.

A record stays in msgpack from the wire to the wire: its values are `msgspec.Raw`, slices of the chunk they came in,
so fields nobody looks at are never decoded and leave byte for byte as they came (measured: .53 us a record for
decode + encode, against 1.8 for msgpack's Unpacker and Packer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec
from msgspec import Raw

UNCLASSIFIED = "Unclassified"


class Record(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """One event as the forward protocol writes it: `[time, fields]`.

    `time` is msgpack of an EventTime, an integer, or `[EventTime, metadata]`; it is passed on as it came.
    `fields` maps each key to the msgpack of its value.
    """

    time: Raw
    fields: dict[str, Raw]


class SealedRecord(msgspec.Struct, array_like=True, gc=False):
    """One event whose map cannot be opened without changing it (binary, integer or non-UTF-8 keys).

    `body` is the msgpack map as it came; a verdict is spliced into it, nothing else is touched.
    """

    time: Raw
    body: Raw


AnyRecord = Record | SealedRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stage says of a line: a label of the taxonomy, or `Unclassified` with the reason why.

    A `confidence` of None was not measured: the LLM's server tells no probabilities.
    A `provisional` one counts until the LLM, asked again in the background, says something else; a `fallback` one where
    no later stage is sure. `guess` is what an abstaining stage leans to.
    """

    label: str
    confidence: float | None
    stage: str
    rule: str | None = None
    reason: str | None = None
    provisional: bool = False
    fallback: bool = False
    guess: str | None = None

    @property
    def abstained(self) -> bool:
        return self.label == UNCLASSIFIED

    @property
    def rounded(self) -> float | None:
        """The confidence as it is shown."""
        return None if self.confidence is None else round(self.confidence, 4)


def abstention(reason: str, confidence: float = 0.0, guess: str | None = None) -> Verdict:
    """A verdict that says why there is none."""
    return Verdict(UNCLASSIFIED, confidence, "none", reason=reason, guess=guess)


@dataclass(frozen=True, slots=True)
class Question:
    """One distinct template that the rules left open, as the later stages see it.

    `text` is the canonical text of the template (what numbers and identifiers vary in is gone): the same for every line
    of the template, so that an answer never depends on which line came first. `example` is one real line, for people.
    `guess` is what the model leans to without being sure.
    """

    template: str
    text: str
    source: str
    example: bytes
    guess: str | None = None


class Outcome(Enum):
    """How a batch ended, told to the input that read it."""

    DELIVERED = "delivered"  # every required output said "safe", or the record was counted and dead-lettered
    RETURNED = "returned"  # given back at shutdown or on a bug of ours: do not acknowledge, do not advance


Settle = Callable[[Outcome], None]


def _ignore(_outcome: Outcome) -> None:
    return


@dataclass(slots=True)
class Batch:
    """Records read together, with their acknowledgement.

    `source` is the tag or the file's path. `lines` holds the message of each record as bytes (None: the record has no
    message) where the input knows it already; else the cascade takes it from the fields. `chunk` names the batch
    downstream: the same bytes read again after a crash get the same id, so that a receiver can drop the repetition.
    `opaque` is a chunk that is not logs (metrics, traces): it has no records, passes through as it came and `options`
    go with it. `passthrough` holds the positions of records that are not log lines (group markers): never classified.
    `alone` says that no other batch of its source is sent while it is: so at most one comes twice after a crash.
    `repeated` says that it was under way when the process died: parted once, it must be parted in the same way again.
    `size` is how many bytes it was read from, where the input knows. `settle` is called exactly once. `safe_parts` is
    for outputs that cut it: how many of its parts each of them has, so that only the rest is sent again.
    """

    source: str
    records: list[AnyRecord]
    settle: Settle = _ignore
    chunk: str | None = None
    lines: list[bytes | None] | None = None
    passthrough: frozenset[int] = frozenset()
    opaque: bytes | None = None
    options: dict[str, object] = field(default_factory=dict)
    input: str = ""
    alone: bool = False
    repeated: bool = False
    size: int = 0
    whole: Batch | None = None  # of which this is a part
    safe_parts: dict[str, int] = field(default_factory=dict)
    settled: int = 0  # of its records, when parts of it settle one after the other

    def __len__(self) -> int:
        return 1 if self.opaque is not None else len(self.records)

    @property
    def weight(self) -> int:
        """How many records it counts for where their number is bounded: a large one counts once for each KiB."""
        return max(len(self), self.size >> 10)

    def part(self, positions: Sequence[int], chunk: str | None) -> Batch:
        """The records at `positions` as a batch of their own; settling stays with the whole."""
        return Batch(
            source=self.source,
            records=[self.records[position] for position in positions],
            chunk=chunk,
            input=self.input,
            whole=self,
        )
