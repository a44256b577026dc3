"""What goes in and out as JSON, with examples; the OpenAPI is made from it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_RECORDS = 10_000
MAX_SOURCE = 4096
MAX_LINE = 1 << 20
MAX_MEMBERS = 100  # of an object: each one too many would be described

TemplateId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Source = Annotated[str, StringConstraints(max_length=MAX_SOURCE)]
Line = Annotated[str, StringConstraints(max_length=MAX_LINE)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > MAX_MEMBERS:
            raise ValueError("has too many members")
        return given


class LogLine(_In):
    """One line and where it came from."""

    source: Source = Field("", description="Tag or file.", examples=["auth.log"])
    log_message: Line = Field(
        description="The line.", examples=["sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2"]
    )


class ClassifyRequest(_In):
    """Lines to label."""

    records: Annotated[list[LogLine], Field(min_length=1, max_length=MAX_RECORDS)]


class AskedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """`LogLine`, read by msgspec: it stops at the first mistake, where pydantic describes each of a million."""

    log_message: Annotated[str, msgspec.Meta(max_length=MAX_LINE)]
    source: Annotated[str, msgspec.Meta(max_length=MAX_SOURCE)] = ""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ClassifyRequest`, read so."""

    records: Annotated[list[AskedLine], msgspec.Meta(min_length=1, max_length=MAX_RECORDS)]


class Verdict(BaseModel):
    """What the cascade says of a line: the map a record gains."""

    label: str = Field(examples=["Security Alert"])
    confidence: float | None = Field(None, description="None: the LLM's server tells no probabilities.", examples=[1.0])
    stage: str = Field(description="rules, model, llm or none.", examples=["rules"])
    rule: str | None = Field(None, examples=["sshd-failed-password"])
    reason: str | None = Field(None, description="Why it is Unclassified.")
    template: str = Field(examples=["62ed3ba47e8ba63f"])
    generation: int = Field(examples=[1])


class ClassifyResponse(BaseModel):
    """A verdict for each line, in order."""

    records: list[Verdict]


class Step(BaseModel):
    """What one stage said of a line."""

    stage: str
    label: str | None
    confidence: float | None
    rule: str | None
    reason: str | None
    microseconds: float


class Explanation(BaseModel):
    """A line, its verdict, what each stage said, and the record."""

    line: str
    template: str
    logclf: Verdict
    steps: list[Step]
    record: dict[str, Any] = Field(
        description="What `run` would write of a file with this line, `record.enrich` and all.",
        examples=[{"log": "sshd[811]: …", "event.kind": "alert", "logclf": {"label": "Security Alert"}}],
    )


class TemplateRow(BaseModel):
    """A template met lately."""

    template: str
    source: str = Field(description="The class of sources it comes from.")
    text: str = Field(description="The line without what varies.")
    example: str = Field(description="One line of it, with secrets and names masked.")
    count: int
    minutes: list[int] = Field(description="Lines a minute in the last hour, the present minute last.")
    first_at: float
    last_at: float
    label: str
    stage: str
    confidence: float | None
    rule: str | None
    reason: str | None


class TemplateList(BaseModel):
    """Templates, and how many more there are."""

    templates: list[TemplateRow]
    total: int


class Remembered(BaseModel):
    """A verdict of the LLM or a person."""

    template: str
    source: str
    label: str
    confidence: float | None
    origin: str = Field(description="llm or human.")
    model: str
    text: str
    example: str
    created: int
    last_seen: int
    hits: int


class VerdictList(BaseModel):
    """Remembered verdicts, those seen last first."""

    verdicts: list[Remembered]
    total: int


class Review(_In):
    """A person's word on a template: it is final."""

    source: Source = Field("", description="The class of sources.", examples=["auth.log"])
    label: Label = Field(examples=["Security Alert"])


class Forgotten(BaseModel):
    """How many verdicts went."""

    forgotten: int


class ProposeRequest(_In):
    """The template a rule is wanted for."""

    template: TemplateId = Field(examples=["62ed3ba47e8ba63f"])
    source: Source = ""


class RuleTry(_In):
    """A pattern to try on recent traffic."""

    pattern: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] = Field(
        examples=["Failed password for .* from .* port"]
    )
    ignore_case: bool = False


class Matches(BaseModel):
    """What a pattern matches of what came by lately."""

    templates: int
    lines: int
    examples: list[str] = Field(description="At most ten lines, the busiest first.")
    labels: dict[str, int] = Field(description="Lines by the label they get now.")


class Proposal(BaseModel):
    """A rule that would decide a template, and what it matches."""

    id: str
    label: str
    pattern: str
    example: str
    matches: Matches


class NewRule(RuleTry):
    """A rule to save."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        examples=["own-backup-finished"]
    )
    label: Label = Field(examples=["System Notification"])
    example: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] = Field(
        description="A line it must match.", examples=["backup finished in 3 s"]
    )
    description: Annotated[str, StringConstraints(max_length=1000)] = ""


class Saved(BaseModel):
    """Where a rule was saved, and since which generation it is in force."""

    file: str
    generation: int


class Health(BaseModel):
    """Alive."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """Ready, or why not; notes are worth knowing and no reason."""

    ready: bool
    troubles: list[str] = Field(examples=[["output forward.0: unavailable for 75 s"]])
    notes: list[str] = Field(examples=[["llm: absent; lines it would have decided stay Unclassified"]])


Facts = dict[str, Any]
