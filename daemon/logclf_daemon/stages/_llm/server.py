"""The Ollama server: what is sent to it, and what its failures mean.

How a real one behaves (queueing, loading, errors) was captured from Ollama 0.32. What a call may raise was found by
trying the client of ollama 0.6.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import ollama
from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.masking import without_login
from logclf_daemon.sandbox import silence_hint

# ValueError holds JSON and validation errors, RecursionError JSON nested too deep; the client's own mistakes are among
# the others.
CLIENT_ERRORS = (
    ollama.ResponseError,
    ConnectionError,
    httpx.HTTPError,
    httpx.InvalidURL,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
)
MAX_ANSWER_BYTES = 4 << 20  # a label with its logprobs has a few kilobytes
QUICK_SECS = 5.0  # for what a server answers at once, also while it loads a model
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class RemoteModel(ConnectionError):
    """The model runs on another host: log lines would leave this one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed call means: the server's new state, words for people, and the reason its records get.

    `state` None: it was this question's fault, the server is well. `again`: asking once more at once may help.
    """

    state: str | None
    detail: str
    reason: str = "llm_unavailable"
    again: bool = False


class _Tags(BaseModel):
    """The part of `/api/ps` and `/api/tags` that is read."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="ignore")
        name: str = ""
        digest: str = ""

    models: list[Model] = Field(default_factory=list)


class _Client(ollama.Client):
    """The client, with what its `chat` leaves out: no prompt is cut silently, no answer comes from another host."""

    allow_remote = False

    def _request_raw(self, *args: Any, **kwargs: Any) -> httpx.Response:
        if isinstance(sent := kwargs.get("json"), dict) and "messages" in sent:
            sent["truncate"] = False
        response: httpx.Response = super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        if not self.allow_remote:
            _refuse_remote(response.json())
        return response


class OllamaServer:
    """One model of one server. Safe to call from several threads; every method may raise any of `CLIENT_ERRORS`."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        options: Mapping[str, Any],
        keep_alive: str,
        answer_timeout_secs: float,
        load_timeout_secs: float,
        allow_remote: bool,
    ) -> None:
        self._url, self._model = url, model
        self._options, self._keep_alive = dict(options), keep_alive
        self._allow_remote = allow_remote
        self._asking = _client(url, answer_timeout_secs, allow_remote)
        self._loading = _client(url, load_timeout_secs, allow_remote)
        self._quick = httpx.Client(
            base_url=url,
            timeout=QUICK_SECS,
            trust_env=False,
            verify=urlsplit(url).scheme == "https",
            event_hooks=_bounded(QUICK_SECS),
        )

    def loaded(self) -> str | None:
        """The digest of the model if the server has it in memory; a server that hangs fails here, soon."""
        answer = self._quick.get("/api/ps")
        if answer.status_code == 404:
            return None  # too old to tell
        answer.raise_for_status()
        names = {self._model, f"{self._model}:latest"}
        return next((model.digest for model in _Tags(**answer.json()).models if model.name in names), None)

    def load(self) -> None:
        """Make the server load the model, however long that takes."""
        if not self._allow_remote:
            shown = self._quick.post("/api/show", json={"model": self._model})
            _refuse_remote(shown.json() if shown.is_success else {})
        # The same options as for a question: others would make it load again.
        self._loading.chat(model=self._model, messages=[], options=self._options, keep_alive=self._keep_alive)

    def chat(
        self, messages: Sequence[Mapping[str, str]], schema: dict[str, Any], max_tokens: int
    ) -> ollama.ChatResponse:
        """Ask the loaded model."""
        return self._asking.chat(
            model=self._model,
            messages=messages,
            format=schema,
            options={**self._options, "temperature": 0, "seed": 1, "num_predict": max_tokens},
            think=False,
            keep_alive=self._keep_alive,
            logprobs=True,
            top_logprobs=20,
        )

    def models(self) -> list[str]:
        """The names of the models it has."""
        answer = self._quick.get("/api/tags")
        answer.raise_for_status()
        return [model.name for model in _Tags(**answer.json()).models]

    def close(self) -> None:
        self._asking.close()  # type: ignore[no-untyped-call]
        self._loading.close()  # type: ignore[no-untyped-call]
        self._quick.close()


def failure(error: Exception, url: str, model: str) -> Failure:
    """What an exception of a call means, and what to do."""
    status = getattr(error, "status_code", None)
    if isinstance(error, RemoteModel):
        return Failure("remote_refused", f"{model} runs on {error}; choose a local model or set llm.allow_remote")
    if isinstance(error, httpx.ConnectTimeout):
        return Failure("timeout", _unconnected(url), "llm_timeout")
    if isinstance(error, httpx.TimeoutException):
        return Failure("timeout", f"{url} took a question and did not answer", "llm_timeout")
    if isinstance(error, ConnectionError | httpx.ConnectError):
        return Failure("absent", f"nothing answers at {url}")
    if status == 404:
        return Failure("model_missing", f"run: ollama pull {model}")
    if status == 400 and "exceed_context_size" in str(error):
        return Failure(None, "the question is longer than llm.num_ctx", "low_confidence")
    if status in {400, 401, 403}:
        return Failure("refused", _words(error))
    # A runner that was killed comes back with the next question; a full queue does not get emptier by asking.
    again = status == 500 or isinstance(error, httpx.ReadError | httpx.RemoteProtocolError | httpx.WriteError)
    return Failure("failing", _words(error), again=again)


def no_models(error: Exception, url: str) -> str:
    """Why there is no list of models."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"{url} answers {error.response.status_code} for its list of models: is it an Ollama server?"
    if isinstance(error, ConnectionError | httpx.ConnectError):
        return f"nothing answers at {url}"
    if isinstance(error, httpx.ConnectTimeout):
        return _unconnected(url)
    if isinstance(error, httpx.TimeoutException):
        return f"{url} does not answer within {QUICK_SECS:g} s"
    return f"{url} is no Ollama server: {_words(error)}"


def _unconnected(url: str) -> str:
    return f"no connection to {url} within {QUICK_SECS:g} s{silence_hint()}"


def _words(error: Exception) -> str:
    """The server's words; some errors are JSON within JSON."""
    text = str(getattr(error, "error", None) or error)
    try:
        inner = json.loads(text)["error"]
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return without_login(f"{type(error).__name__}: {text}")[:200]


def _refuse_remote(answer: object) -> None:
    if isinstance(answer, dict) and (host := answer.get("remote_host") or answer.get("remote_model")):
        raise RemoteModel(str(host))


class _Body(httpx.SyncByteStream):
    """An answer that ends: the client's own timeout begins anew with each byte, and it takes any number of them."""

    def __init__(self, stream: httpx.SyncByteStream, ends: float) -> None:
        self._stream, self._ends = stream, ends

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise httpx.DecodingError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
            if time.monotonic() > self._ends:
                raise httpx.ReadTimeout("the answer does not come to an end")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _bounded(timeout_secs: float) -> dict[str, list[Callable[..., None]]]:
    """Hooks of a client: a whole answer, from the request on, takes no longer than this."""

    def begins(request: httpx.Request) -> None:
        request.extensions["ends"] = time.monotonic() + timeout_secs

    def arrives(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Body(response.stream, response.request.extensions["ends"])

    return {"request": [begins], "response": [arrives]}


def _client(address: str, timeout_secs: float, allow_remote: bool) -> ollama.Client:
    """The client, without the redirects and the `Authorization` header it would add on its own."""
    url = urlsplit(address)

    def without_key(request: httpx.Request) -> None:
        if request.url.host in _LOOPBACK:
            request.headers.pop("Authorization", None)

    hooks = _bounded(timeout_secs)
    hooks["request"].append(without_key)
    client = _Client(
        host=address,
        timeout=httpx.Timeout(timeout_secs, connect=QUICK_SECS),
        follow_redirects=False,
        trust_env=not (url.hostname in _LOOPBACK or os.environ.get("no_proxy") == "*"),
        verify=url.scheme == "https",  # else reading the certificates of the host takes a tenth of a second for nothing
        event_hooks=hooks,
    )
    client.allow_remote = allow_remote
    return client
