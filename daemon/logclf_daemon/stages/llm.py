"""The LLM stage: a local Ollama server, asked one template at a time.

How a real server behaves (queueing, loading, errors) was captured from Ollama 0.32; an absent server is a state, not an
error.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import ollama
from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.errors import ConfigError
from logclf_daemon.events import LlmAbsent, LlmCalled, LlmStateChanged, emit
from logclf_daemon.record import Question, Verdict, abstention
from logclf_daemon.stages._llm.prompt import PROMPT_VERSION, Prompt
from logclf_daemon.taxonomy import Taxonomy

# All that the client of ollama 0.6 raises, as found by trying; ValueError holds JSON and validation errors.
CLIENT_ERRORS = (
    ollama.ResponseError,
    ConnectionError,
    httpx.HTTPError,
    httpx.InvalidURL,
    ValueError,
    TypeError,
    AttributeError,
)

FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS = 5.0, 120.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class LlmOptions(BaseModel):
    """The local LLM that is asked when rules, memory and model are not sure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: Literal["auto"] | bool = Field("auto", description="auto: used if it answers; false: never asked.")
    url: str = Field("http://127.0.0.1:11434", description="The Ollama server.")
    model: str = Field("qwen3:1.7b", description="A model the server has (`ollama pull NAME`).")
    wait_secs: float = Field(10, gt=0, description="How long a record may wait for an answer.")
    max_waiting: int = Field(1000, ge=0, description="How many records may wait at a time.")
    max_questions: int = Field(1000, ge=1, description="How many templates may be queued.")
    concurrency: int = Field(1, ge=1, le=16, description="Questions under way at a time.")
    load_timeout_secs: float = Field(
        300, gt=0, description="The longest a call may take; loading a model is part of it."
    )
    keep_alive: str = Field("30m", description="How long the server keeps the model loaded after a question.")
    num_ctx: int = Field(4096, ge=1024, description="Context size; constant, since changing it reloads the model.")
    num_thread: int | None = Field(None, ge=1, description="Threads of the server's runner; none: its own choice.")
    remember_days: float = Field(90, gt=0, description="How long an answer is kept after its template was last seen.")
    max_remembered: int = Field(100_000, ge=1, description="How many answers are kept; those seen last stay.")
    allow_remote: bool = Field(False, description="Allow models that send your lines to another host.")


class LlmStage:
    """Asks Ollama for a label. `classify` may be called from several threads.

    Raises:
        ConfigError: From the constructor, for a model or URL that is refused.
    """

    name = "llm"

    def __init__(self, options: LlmOptions, taxonomy: Taxonomy, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not options.allow_remote and options.model.endswith(("-cloud", ":cloud")):
            raise ConfigError(
                f"llm.model: {options.model!r} would send log lines to another host; "
                "choose a local model or set llm.allow_remote"
            )
        self.options = options
        self.key = f"{options.model}/{taxonomy.digest}/{PROMPT_VERSION}"
        self.state = "unknown"
        self._digest = ""
        self._prompt = Prompt(taxonomy)
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._pause = FIRST_PAUSE_SECS
        self._under_way: dict[int, float] = {}
        self._client = _client(options)

    def identity(self) -> str:
        """The model's name, with the digest of its weights once the server told it."""
        return f"{self.options.model}@{self._digest}" if self._digest else self.options.model

    def unavailable(self) -> str | None:
        """Why a question would not be answered now, or None."""
        with self._lock:
            now = self._clock()
            if now < self._closed_until:
                return "llm_unavailable"
            if any(now - started > self.options.wait_secs for started in self._under_way.values()):
                return "llm_busy"  # it hangs or loads: nobody else waits behind it
            return None

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Verdict:
        started = self._clock()
        with self._lock:
            self._under_way[threading.get_ident()] = started
        try:
            if self.state != "ready" and not self.options.allow_remote and (host := self._remote_host()):
                self._break("remote_refused", f"{self.options.model} runs on {host}; choose a local model")
                verdict = abstention("llm_unavailable")
            else:
                verdict = self._read(self._chat(self._prompt.messages(question)))
        except CLIENT_ERRORS as error:
            verdict = self._failed(error)
        finally:
            with self._lock:
                self._under_way.pop(threading.get_ident(), None)
        outcome = verdict.reason or "ok"
        emit(LlmCalled(outcome=outcome, template=question.template, secs=round(self._clock() - started, 3)))
        return verdict

    def _remote_host(self) -> str | None:
        """The host a model of this server really runs on, if it is another. The client's own types leave it out."""
        with httpx.Client(base_url=self.options.url, timeout=5.0, trust_env=False) as client:
            answer = client.post("/api/show", json={"model": self.options.model})
        shown = answer.json() if answer.is_success else {}
        return (shown.get("remote_host") or shown.get("remote_model")) if isinstance(shown, dict) else None

    def _chat(self, messages: Sequence[dict[str, str]]) -> ollama.ChatResponse:
        options: dict[str, Any] = {
            "temperature": 0,
            "seed": 1,
            "num_ctx": self.options.num_ctx,
            "num_predict": self._prompt.max_tokens,
        }
        if self.options.num_thread is not None:
            options["num_thread"] = self.options.num_thread
        return self._client.chat(
            model=self.options.model,
            messages=messages,
            format=self._prompt.schema,
            options=options,
            think=False,
            keep_alive=self.options.keep_alive,
            logprobs=True,
            top_logprobs=20,
        )

    def _read(self, response: ollama.ChatResponse) -> Verdict:
        self._recovered()
        label = self._prompt.label_in(response.message.content or "") if response.done_reason != "length" else None
        if label is None:
            return abstention("low_confidence")
        tokens = [token.model_dump() for token in response.logprobs or ()]
        return Verdict(label, self._prompt.confidence(tokens, label), "llm")

    def _failed(self, error: Exception) -> Verdict:
        status = getattr(error, "status_code", None)
        if status == 404:
            self._break("model_missing", f"run: ollama pull {self.options.model}")
        elif status in {400, 401, 403}:
            self._break("refused", str(error)[:200])
        elif isinstance(error, httpx.TimeoutException):
            self._break("timeout", f"no answer within {self.options.load_timeout_secs:g} s")
            return abstention("llm_timeout")
        elif isinstance(error, ConnectionError | httpx.ConnectError):
            self._break("absent", f"nothing answers at {self.options.url}")
        else:
            self._break("failing", f"{type(error).__name__}: {error}"[:200])
        return abstention("llm_unavailable")

    def _break(self, state: str, detail: str) -> None:
        """Stop asking for a growing pause; the first question after it is the probe."""
        with self._lock:
            changed, self.state = self.state != state, state
            self._closed_until = self._clock() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECS)
        if changed and state == "absent" and self.options.enabled == "auto":
            emit(LlmAbsent(url=self.options.url))
        elif changed:
            emit(LlmStateChanged(state=state, detail=detail))

    def _recovered(self) -> None:
        with self._lock:
            changed, self.state = self.state != "ready", "ready"
            self._closed_until, self._pause = 0.0, FIRST_PAUSE_SECS
        if changed:
            emit(LlmStateChanged(state="ready", detail=self.options.model))

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]


def reachable_models(options: LlmOptions) -> list[str] | None:
    """The names of the models the server has; None if nothing answers."""
    client = _client(options.model_copy(update={"load_timeout_secs": 5.0}))
    try:
        return [str(model.model) for model in client.list().models]
    except CLIENT_ERRORS:
        return None
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _client(options: LlmOptions) -> ollama.Client:
    """The client, without the redirects and the `Authorization` header it would add on its own."""
    url = urlsplit(options.url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigError(f"llm.url: {options.url!r} is not a URL; write http://127.0.0.1:11434")

    def without_key(request: httpx.Request) -> None:
        if request.url.host in _LOOPBACK:
            request.headers.pop("Authorization", None)

    timeout = httpx.Timeout(options.load_timeout_secs, connect=5.0)
    return ollama.Client(
        host=options.url,
        timeout=timeout,
        follow_redirects=False,
        trust_env=not (url.hostname in _LOOPBACK or os.environ.get("no_proxy") == "*"),
        event_hooks={"request": [without_key]},
    )
