"""Verdicts as `verdicts export` writes them: one JSON object a line."""

from __future__ import annotations

import re
import time
from typing import Annotated

import msgspec

from logclf_daemon.errors import BadInput
from logclf_daemon.stages.verdicts import HUMAN, LLM, Remembered
from logclf_daemon.taxonomy import Taxonomy

TEMPLATE_ID = re.compile(r"[0-9a-f]{16}")
Count = Annotated[int, msgspec.Meta(ge=0, le=253402300799)]  # as seconds: up to the year 9999


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """Written by hand, template, source and label are enough. No confidence (null): not measured."""

    template: str
    source: str
    label: str
    confidence: float | None = 1.0
    origin: str = HUMAN
    model: str = ""
    asked: str = ""
    text: str = ""
    example: str = ""
    created: Count = 0
    last_seen: Count = 0
    hits: Count = 0


def read(line: bytes, where: str, taxonomy: Taxonomy | None = None) -> Remembered:
    """The verdict of a line; `where` is `file:line`. Without a taxonomy any label will do.

    Raises:
        BadInput: It is none.
    """
    try:
        read = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: {error}; one JSON object a line, as `verdicts export` writes") from error
    row = Remembered(**{**msgspec.structs.asdict(read), "created": read.created or int(time.time())})
    if not TEMPLATE_ID.fullmatch(row.template):
        raise BadInput(f"{where}: {row.template!r} is no template (16 hexadecimal digits)")
    if taxonomy is not None and row.label not in taxonomy:
        raise BadInput(f"{where}: unknown label {row.label!r}{taxonomy.suggestion(row.label)}")
    if row.confidence is not None and not 0 <= row.confidence <= 1:
        raise BadInput(f"{where}: confidence {row.confidence} is not between 0 and 1")
    if row.origin not in (HUMAN, LLM) or (row.origin == HUMAN) != (row.asked == ""):
        raise BadInput(f"{where}: origin is 'human' without `asked`, or 'llm' with it")
    return row
