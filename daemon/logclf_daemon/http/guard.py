"""Who may ask, how much and how often: looked at before anything else sees a request.

Loopback is not a wall: a web page in the user's browser can send requests there. So the `Host` must be a name of ours
(DNS rebinding), and what is not a plain read must not come from another site.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from logclf_daemon.config import HttpOptions
from logclf_daemon.http.bodies import Bodies
from logclf_daemon.http.problems import problem
from logclf_daemon.http.server import is_loopback

OPEN = ("/", "/healthz", "/readyz", "/docs", "/redoc", "/openapi.json")  # no secret in them: they need no token
OPEN_BELOW = ("/assets/", "/docs-assets/")
READS = frozenset({"GET", "HEAD", "OPTIONS"})
# What may be answered instead of what was asked for, in the words of the OpenAPI.
REFUSALS = {
    401: "A token is needed",
    413: "Larger than the limit",
    421: "Called by a name that is not ours",
    429: "Too many requests",
    503: "Too much at once",
}
REFUSED_CHANGES = {403: "Asked by a page of another site, or review is switched off", 408: "The body did not come"}
CHANGES = ("/api/v1/verdicts", "/api/v1/rules")
MAX_CLIENTS = 4096

_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI and ReDoc write styles of their own.
_DOCS = _STRICT.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'") + "; worker-src blob:"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Rate:
    """A bucket of requests for each client; it fills up again with time."""

    def __init__(self, per_sec: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_sec = per_sec
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_secs(self, client: str) -> float:
        """Take one; 0, or how long to wait for the next one."""
        now, full = self._clock(), max(1.0, 2 * self._per_sec)
        left, at = self._buckets.pop(client, (full, now))
        left = min(full, left + (now - at) * self._per_sec)
        if len(self._buckets) >= MAX_CLIENTS:
            del self._buckets[next(iter(self._buckets))]
        taken = left >= 1.0
        self._buckets[client] = (left - taken, now)
        return 0.0 if taken else (1.0 - left) / self._per_sec


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        options: HttpOptions,
        clock: Callable[[], float] = time.monotonic,
        bodies: Bodies | None = None,
    ) -> None:
        self._app = app
        self._bodies = bodies or Bodies(options)
        self._options = options
        self._token = options.token.get_secret_value().encode() if options.token is not None else None
        self._hosts = {"localhost", *(host.lower() for host in options.hosts)}
        self._rate = Rate(options.requests_per_sec, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path: str = scope["path"]
        guarded = _with_headers(send, _DOCS if path in ("/docs", "/redoc") else _STRICT)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        try:
            self._bodies.refuse_declared(path, headers)
        except HTTPException as error:
            await problem(error.status_code, error.detail)(scope, receive, guarded)
            return
        with self._bodies.passed(path, headers, receive) as passed:
            await self._app(scope, passed, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is not let in."""
        client = (scope.get("client") or ("unix", 0))[0]
        wait = self._rate.wait_secs(client)
        if wait:
            return problem(429, f"too many requests; try again in {wait:.1f} s", {"Retry-After": str(int(wait) + 1)})
        if not self._known(headers.get("host", "")):
            return problem(421, "called by a name that is not ours; add it to http.hosts")
        path, method = scope["path"], scope["method"]
        if method not in READS and _other_site(headers):
            return problem(403, "a page of another site may not do that")
        if path not in OPEN and not path.startswith(OPEN_BELOW):
            asked = {"WWW-Authenticate": 'Bearer realm="logclf-daemon"'}
            if self._token is None and _from_outside(scope):
                return problem(401, "this address is not loopback: set http.token in the configuration", asked)
            given = headers.get("authorization", "").encode("latin-1", "replace")
            if self._token is not None and not hmac.compare_digest(given, b"Bearer " + self._token):
                return problem(401, "a token is needed: Authorization: Bearer …", asked)
        if not self._options.review and method not in READS and path.startswith(CHANGES):
            return problem(403, "http.review is off: verdicts and rules are not changed over HTTP")
        return None

    def _known(self, host: str) -> bool:
        """Whether `Host` is an address or one of our names: DNS rebinding always comes with a name."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _from_outside(scope: Scope) -> bool:
    """Whether a request came in at an address that other hosts reach: a server of one's own listens where it wants."""
    host, port = scope.get("server") or scope.get("client") or ("a unix socket", None)
    return port is not None and not is_loopback(host)


def _other_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site sends this."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.split("://", 1)[-1].lower() != headers.get("host", "").lower()


def _with_headers(send: Send, policy: str) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, words in {**_HEADERS, "Content-Security-Policy": policy}.items():
                headers.setdefault(name, words)
        await send(message)

    return guarded
