"""The live page and the API documents: files of our own and of `fastapi-offline`. Nothing comes from another host."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

_PAGE = Path(str(files("logclf_daemon.http"))) / "page"
_DOCS_FILES = Path(fastapi_offline.__file__).parent / "static"

_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"

_SHELL = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>logclf-daemon: API</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="/assets/icon.svg">{head}</head><body>{body}</body></html>'
)
SWAGGER = _SHELL.format(
    head='<link rel="stylesheet" href="/docs-assets/swagger-ui.css">',
    body='<div id="docs"></div><script src="/docs-assets/swagger-ui-bundle.js"></script>'
    '<script src="/assets/docs.js"></script>',
)
REDOC = _SHELL.format(
    head="",
    body='<redoc spec-url="/openapi.json"></redoc><script src="/docs-assets/redoc.standalone.js"></script>',
)


def serve_pages(app: FastAPI) -> None:
    """Mount page, assets and documents."""
    routes = APIRouter(include_in_schema=False)

    @routes.head("/")
    @routes.get("/")
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html")

    @routes.head("/docs")
    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(SWAGGER)

    @routes.head("/redoc")
    @routes.get("/redoc")
    async def redoc() -> HTMLResponse:
        return HTMLResponse(REDOC)

    @routes.get("/docs-assets/redoc.standalone.js")
    async def redoc_script() -> Response:
        """ReDoc without the logo it would fetch from another host."""
        script = await asyncio.to_thread((_DOCS_FILES / "redoc.standalone.js").read_bytes)
        return Response(script.replace(_REDOC_LOGO, b"/assets/icon.svg"), media_type="text/javascript")

    app.include_router(routes)
    app.mount("/assets", StaticFiles(directory=_PAGE), name="assets")
    app.mount("/docs-assets", StaticFiles(directory=_DOCS_FILES), name="docs-assets")
