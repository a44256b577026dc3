"""What nobody was sure of, and what people say instead: templates, verdicts and rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.exceptions import HTTPException

from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.http import proposals, schemas
from logclf_daemon.http.host import Now, TheHost
from logclf_daemon.http.problems import responses
from logclf_daemon.masking import masked
from logclf_daemon.record import Verdict
from logclf_daemon.stages.verdicts import VerdictMemory
from logclf_daemon.telemetry import Running
from logclf_daemon.traffic import Seen

Template = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", examples=["62ed3ba47e8ba63f"])]
SURE = 1.0  # the confidence of a person's word; there is nothing to review about it

Limit = Annotated[int, Query(ge=1, le=2000)]
Offset = Annotated[int, Query(ge=0, le=10_000_000)]


def router() -> APIRouter:
    """The endpoints of the review."""
    routes = APIRouter(prefix="/api/v1", tags=["review"])
    saving = asyncio.Lock()

    @routes.get("/templates", response_model=schemas.TemplateList)
    async def templates(
        now: Now,
        kind: Literal["open", "unclassified", "llm", "all"] = "open",
        order: Literal["newest", "busiest", "last"] = "newest",
        limit: Limit = 50,
    ) -> Any:
        """Templates met lately; `open` are those that are Unclassified or were decided by the LLM and by no person."""
        found = [seen for seen in now.cascade.traffic.all() if _fits(seen, kind)]
        found.sort(key=_ORDERS[order], reverse=True)
        shown = found[:limit]
        await asyncio.to_thread(_mask, shown)  # some milliseconds for a page of new ones: records do not wait for that
        return {"templates": [_row(seen) for seen in shown], "total": len(found)}

    @routes.get("/verdicts", response_model=schemas.VerdictList, responses=responses(409, 503))
    async def verdicts(
        now: Now,
        label: Annotated[str | None, Query(max_length=200)] = None,
        origin: Literal["llm", "human"] | None = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> Any:
        """Remembered verdicts, those seen last first."""
        memory = _memory(now)
        found = await asyncio.to_thread(memory.listed, label=label, origin=origin, limit=limit, offset=offset)
        return {"verdicts": [asdict(verdict) for verdict in found], "total": await asyncio.to_thread(memory.count)}

    @routes.get("/verdicts/{template}", response_model=schemas.VerdictList, responses=responses(404, 409, 503))
    async def verdict(now: Now, template: Template) -> Any:
        """All that is remembered of a template."""
        found = await asyncio.to_thread(_memory(now).shown, template)
        if not found:
            raise HTTPException(404, f"nothing is remembered of {template}")
        return {"verdicts": [asdict(verdict) for verdict in found], "total": len(found)}

    @routes.put("/verdicts/{template}", response_model=schemas.VerdictList, responses=responses(403, 409, 422, 503))
    async def set_verdict(host: TheHost, now: Now, template: Template, review: schemas.Review) -> Any:
        """A person's word on a template: from now on its lines get this label, unless a rule decides them."""
        memory, seen = _memory(now), now.cascade.traffic.find(template, review.source)
        known = {"text": seen.text, "example": masked(seen.example)} if seen else {}
        await asyncio.to_thread(memory.set, template, review.source, review.label, **known)
        await host.reviewed()
        if seen is not None:
            seen.verdict = Verdict(review.label, SURE, "llm")  # as its next line will get it
        found = await asyncio.to_thread(memory.shown, template)
        return {"verdicts": [asdict(verdict) for verdict in found], "total": len(found)}

    @routes.delete("/verdicts/{template}", response_model=schemas.Forgotten, responses=responses(403, 409, 503))
    async def forget(
        host: TheHost, now: Now, template: Template, source: Annotated[str | None, Query(max_length=4096)] = None
    ) -> Any:
        """Drop what is remembered of a template; it is asked again when it comes again."""
        gone = await asyncio.to_thread(_memory(now).forget, template, source)
        await host.reviewed()
        return {"forgotten": gone}

    @routes.post("/rules/propose", response_model=schemas.Proposal, responses=responses(404, 422))
    async def propose(now: Now, asked: schemas.ProposeRequest) -> Any:
        """A rule that would decide a template, and what else it matches lately."""
        traffic = now.cascade.traffic
        seen = traffic.find(asked.template, asked.source or None)
        if seen is None:
            raise HTTPException(404, f"no line of {asked.template} came by lately")
        pattern, example = proposals.proposed_pattern(seen.text, seen.example)
        label = seen.verdict.label if not seen.verdict.abstained else now.config.taxonomy.names[0]
        found = await asyncio.to_thread(proposals.matches, pattern, ignore_case=False, seen=traffic.all())
        return {
            "id": proposals.proposed_id(seen.text),
            "label": label,
            "pattern": pattern,
            "example": example,
            "matches": found,
        }

    @routes.post("/rules/try", response_model=schemas.Matches, responses=responses(422))
    async def try_rule(now: Now, asked: schemas.RuleTry) -> Any:
        """What a pattern matches of what came by lately."""
        seen = now.cascade.traffic.all()
        return await asyncio.to_thread(proposals.matches, asked.pattern, ignore_case=asked.ignore_case, seen=seen)

    @routes.post("/rules", status_code=201, response_model=schemas.Saved, responses=responses(403, 409, 422))
    async def save_rule(host: TheHost, now: Now, rule: schemas.NewRule) -> Any:
        """Save a rule to the user's folder, after the whole set was compiled and tried with it; it is in force then."""
        async with saving:
            try:
                path = await asyncio.to_thread(proposals.save, now.config, now.directory, _as_written(rule))
            except ConfigError as error:
                raise BadInput(str(error)) from error
            refused = await host.reload()
        if refused is not None:
            raise HTTPException(409, f"saved to {path}, and the reload was refused: {refused}")
        return {"file": str(path), "generation": host.running().number}

    return routes


_ORDERS = {
    "newest": lambda seen: seen.first_at,
    "busiest": lambda seen: seen.count,
    "last": lambda seen: seen.last_at,
}


def _fits(seen: Seen, kind: str) -> bool:
    if kind == "unclassified":
        return seen.verdict.abstained
    if kind == "llm":
        return seen.verdict.stage == "llm"
    return kind == "all" or seen.verdict.abstained or (seen.verdict.stage == "llm" and seen.verdict.confidence != SURE)


def _mask(rows: Sequence[Seen]) -> None:
    for seen in rows:
        if seen.masked is None:
            seen.masked = masked(seen.text), masked(seen.example)


def _row(seen: Seen) -> schemas.TemplateRow:
    verdict = seen.verdict
    assert seen.masked is not None
    text, example = seen.masked
    return schemas.TemplateRow(
        template=seen.template,
        source=seen.source,
        text=text,
        example=example,
        count=seen.count,
        minutes=seen.minutes(time.time()),
        first_at=seen.first_at,
        last_at=seen.last_at,
        label=verdict.label,
        stage=verdict.stage,
        confidence=verdict.rounded,
        rule=verdict.rule,
        reason=verdict.reason,
    )


def _memory(now: Running) -> VerdictMemory:
    if now.parts.memory is None:
        raise HTTPException(409, "there is no verdict memory; see state.directory")
    return now.parts.memory


def _as_written(rule: schemas.NewRule) -> dict[str, Any]:
    written: dict[str, Any] = {"id": rule.id, "label": rule.label, "pattern": rule.pattern, "examples": [rule.example]}
    if rule.ignore_case:
        written["ignore_case"] = True
    if rule.description:
        written["description"] = rule.description
    return written
