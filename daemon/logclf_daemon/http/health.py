"""Is it alive, is it ready, what does it do."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from logclf_daemon.config import HttpOptions
from logclf_daemon.http import proposals
from logclf_daemon.http.history import History
from logclf_daemon.http.host import Now
from logclf_daemon.http.schemas import Facts, Health, Readiness
from logclf_daemon.metrics import CONTENT_TYPE


def router(history: History, options: HttpOptions) -> APIRouter:
    """The endpoints that only look."""
    routes = APIRouter(tags=["state"])

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """The process is alive and its loop turns."""
        return Health(status="ok")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
    async def readyz(now: Now) -> Response:
        """200 if records flow; else 503 with the reasons."""
        troubles = now.troubles()
        found = Readiness(ready=not troubles, troubles=troubles, notes=now.notes(to_anyone=True))
        return JSONResponse(found.model_dump(), 503 if troubles else 200)

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(now: Now) -> Response:
        """Prometheus metrics."""
        return Response(now.metrics(), media_type=CONTENT_TYPE)

    @routes.get("/api/v1/status")
    async def status(now: Now) -> Facts:
        """What runs, what came in and went out, what waits; whether it may be reviewed, and where rules are saved."""
        labels = [{"name": name, "description": words} for name, words in now.config.taxonomy.labels.items()]
        place = await asyncio.to_thread(proposals.saved_in, now.config, now.directory)
        saved = {"review": options.review, "rules_folder": str(place) if place else None}
        return now.live() | {"labels": labels} | saved

    @routes.get("/api/v1/history")
    async def rates() -> Facts:
        """Records a second by label and by stage, over the last minutes."""
        return history.rates()

    return routes
