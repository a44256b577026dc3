"""The HTTP app: put together around a daemon, or around a cascade of its own.

`uvicorn --factory logclf_daemon.http.app:create_app` serves without a daemon; the configuration is
`$LOGCLF_CONFIG`, or the default one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from logclf_daemon import __version__
from logclf_daemon.config import HttpOptions
from logclf_daemon.http import classify, health, review, schemas
from logclf_daemon.http.bodies import Bodies, disk_of
from logclf_daemon.http.guard import READS, REFUSALS, REFUSED_CHANGES, Guard
from logclf_daemon.http.history import History
from logclf_daemon.http.host import Host
from logclf_daemon.http.pages import serve_pages
from logclf_daemon.http.problems import Problem, answer_problems
from logclf_daemon.http.server import split_listen
from logclf_daemon.http.standalone import Standalone

_WORDS = """Labels log lines by rules, memory, model and a local LLM, as `logclf-daemon run` and `csv` do.

Errors are `application/problem+json`. Where a token is configured, send `Authorization: Bearer …`.
"""


def create_app(host: Host | None = None, options: HttpOptions | None = None) -> FastAPI:
    """The ASGI app. Without a host it builds a cascade of its own and closes it in the end.

    Raises:
        ConfigError: The configuration, a rule or the model cannot be used, or others could come in without a token.
    """
    own = Standalone.from_environment() if host is None else None
    served = own or host
    assert served is not None
    options = options or served.running().config.http
    if options.listen is not None:
        split_listen(options)
    history, disk = History(), disk_of(options)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        background = [asyncio.create_task(history.run())]
        if own is not None:
            background.append(asyncio.create_task(own.watch()))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            if own is not None:
                own.close()

    app = FastAPI(
        title="logclf-daemon",
        version=__version__,
        description=_WORDS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.host = served
    app.include_router(classify.router(options, disk))
    app.include_router(review.router())
    app.include_router(health.router(history, options))
    serve_pages(app)
    answer_problems(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Guard, options=options, bodies=Bodies(options, disk=disk))
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with what the routes refer to by name."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = document.setdefault("components", {})
        named = parts.setdefault("schemas", {})
        for model in (Problem, schemas.ClassifyRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            named.update(schema.pop("$defs", {}))
            named[model.__name__] = schema
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"token": []}]
        for path in document["paths"].values():
            for method, operation in path.items():
                _problems_everywhere(method, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _problems_everywhere(method: str, operation: dict[str, Any]) -> None:
    """FastAPI describes 422 in a form of its own and knows nothing of the guard; here every error is a problem."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers = operation["responses"]
    if "422" in answers:
        answers["422"] = {"description": "Unprocessable Content", "content": content}
    refusals = REFUSALS | (REFUSED_CHANGES if method.upper() not in READS else {})
    for status, words in refusals.items():
        answers.setdefault(str(status), {"description": words, "content": content})
    operation["responses"] = dict(sorted(answers.items()))
