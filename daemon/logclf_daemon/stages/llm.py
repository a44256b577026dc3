"""The LLM stage: a local Ollama server, asked one template at a time. An absent server is a state, not an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon.errors import ConfigError, ServiceUnavailable
from logclf_daemon.events import LlmAbsent, LlmCalled, LlmReady, LlmStateChanged, emit
from logclf_daemon.masking import without_login
from logclf_daemon.record import Question, Verdict, abstention
from logclf_daemon.stages._llm.breaker import LONGEST_PAUSE_SECS, Breaker
from logclf_daemon.stages._llm.nearest import Nearest
from logclf_daemon.stages._llm.prior import Shares, corrected, likeliest
from logclf_daemon.stages._llm.prompt import PROMPT_VERSION, Prompt
from logclf_daemon.taxonomy import Taxonomy

if TYPE_CHECKING:
    # The client takes a sixth of a second to import: that is left for the first call, when the daemon is ready.
    import ollama

    from logclf_daemon.stages._llm.server import Failure, OllamaServer

_DIGEST_DIGITS = 12


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
    answer_timeout_secs: float = Field(60, gt=0, description="The longest a loaded model may take to answer.")
    load_timeout_secs: float = Field(300, gt=0, description="The longest the server may take to load the model.")
    keep_alive: str = Field("30m", description="How long the server keeps the model loaded after a question.")
    num_ctx: int = Field(4096, ge=1024, description="Context size; constant, since changing it reloads the model.")
    num_thread: int | None = Field(None, ge=1, description="Threads of the server's runner; none: its own choice.")
    examples: int = Field(
        0, ge=0, le=8, description="Labelled lines of the rules shown with a question; better answers, slower ones."
    )
    prior_correction: bool = Field(
        False,
        description="Divide out what the model leans to by itself (one more question a model); better answers from "
        "some models, worse from others: `llm evaluate` says which. Needs a server that tells probabilities.",
    )
    protected_labels: tuple[str, ...] = Field(
        ("Security Alert",),
        description="Where the local model leans to one of these, the LLM may confirm it, never say something else.",
    )
    remember_days: float = Field(90, gt=0, description="How long an answer is kept after its template was last seen.")
    max_remembered: int = Field(100_000, ge=1, description="How many answers are kept; those seen last stay.")
    allow_remote: bool = Field(False, description="Allow models that send your lines to another host.")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call cost: seconds, and tokens read and written where the server counts them."""

    secs: float
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What the model answered, before anything was corrected; `shares` where the server tells probabilities."""

    label: str
    shares: Shares | None


class LlmStage:
    """Asks Ollama for a label. `classify` may be called from several threads. `labelled` are lines to show with it.

    Raises:
        ConfigError: From the constructor, for a model or URL that is refused.
    """

    name = "llm"

    def __init__(
        self,
        options: LlmOptions,
        taxonomy: Taxonomy,
        *,
        labelled: Sequence[tuple[str, str]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not options.allow_remote and options.model.endswith(("-cloud", ":cloud")):
            raise ConfigError(
                f"{options.model!r} would send log lines to another host; choose a local model or set llm.allow_remote",
                ("llm", "model"),
            )
        _refuse_no_url(options.url)
        self.options = options
        self.shown_url = without_login(options.url)
        shown = f"+{options.examples}" if options.examples else ""
        prior = "-prior" if options.prior_correction else ""
        self.key = f"{options.model}/{taxonomy.digest}/{PROMPT_VERSION}{shown}{prior}"
        self.state = "unknown"
        self.trouble = ""  # what is wrong and what to do, where the state is a failure
        self.spent: Spent | None = None  # by the last answer
        self.said: Said | None = None  # in the last answer
        self._prior: tuple[str, Shares | None] | None = None  # and the digest of the model it is of
        self._prompt = Prompt(taxonomy, Nearest(labelled) if options.examples else None, options.examples)
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = Breaker(clock)
        self._digest = ""
        self._under_way: dict[int, float] = {}
        self._asked = clock()  # the last time
        self._was_ready = False
        self._connecting = threading.Lock()
        self._connected: OllamaServer | None = None

    @property
    def _server(self) -> OllamaServer:
        with self._connecting:
            if self._connected is None:
                self._connected = server_of(self.options)
            return self._connected

    def identity(self) -> str:
        """The model's name, with the digest of its weights once the server told it."""
        return f"{self.options.model}@{self._digest}" if self._digest else self.options.model

    @property
    def breaker(self) -> str:
        """closed, open or half_open."""
        with self._lock:
            return self._breaker.state

    def unavailable(self) -> str | None:
        """Why a question would not be answered now, or None."""
        with self._lock:
            state, now = self._breaker.state, self._clock()
            if state == "open" or (state == "half_open" and self._under_way):
                return "llm_unavailable"  # the probe goes alone
            if any(now - started > self.options.wait_secs for started in self._under_way.values()):
                return "llm_busy"  # it hangs or loads: nobody else waits behind it
            return None

    def warm_up(self) -> None:
        """Have the model loaded before the first question; a failure is a state like any other."""

        def load() -> None:
            self._ready()
            self._recovered()

        self._counted("warm_up", "", load)

    def due(self) -> bool:
        """Whether nobody knows how the server is by now."""
        with self._lock:
            if self._under_way or self._breaker.state == "open":
                return False
            return self.state != "ready" or self._clock() - self._asked >= LONGEST_PAUSE_SECS

    def look(self) -> None:
        """As a warm-up where it failed; one that answered is asked whether it is there and need not load the model."""
        if self.state != "ready":
            self.warm_up()
            return
        from logclf_daemon.stages._llm.server import CLIENT_ERRORS, failure

        try:
            self._server.loaded()
        except CLIENT_ERRORS as error:
            self._failed(failure(error, self.shown_url, self.options.model))
        finally:
            self._asked = self._clock()

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Verdict:
        if not self._prompt.readable(question):
            return abstention("low_confidence")  # nothing but what must not be sent
        verdict = self._counted("ok", question.template, lambda: self._answer(question))
        assert verdict is not None
        return verdict

    def _counted(self, done: str, template: str, call: Callable[[], Verdict | None]) -> Verdict | None:
        """Make a call to the server; whatever comes of it is counted and a state."""
        from logclf_daemon.stages._llm.server import CLIENT_ERRORS, failure

        started = self._clock()
        with self._lock:
            self._under_way[threading.get_ident()] = started
        try:
            verdict = self._twice(call)
        except CLIENT_ERRORS as error:
            verdict = self._failed(failure(error, self.shown_url, self.options.model))
        finally:
            with self._lock:
                self._under_way.pop(threading.get_ident(), None)
                self._asked = self._clock()
        outcome = done if verdict is None else verdict.reason or done
        emit(LlmCalled(outcome=outcome, template=template, secs=round(self._clock() - started, 3)))
        return verdict

    def _twice(self, call: Callable[[], Verdict | None]) -> Verdict | None:
        """A runner that was killed under a question is there again for the next: ask once more, and only once."""
        from logclf_daemon.stages._llm.server import CLIENT_ERRORS, failure

        try:
            return call()
        except CLIENT_ERRORS as error:
            if not failure(error, self.shown_url, self.options.model).again:
                raise
            return call()

    def _ready(self) -> None:
        """Return when the model is loaded: a question may then have a deadline that never ends a load."""
        digest = self._server.loaded()
        if not digest:
            self._server.load()
            digest = self._server.loaded()
        if digest:
            self._digest = digest.removeprefix("sha256:")[:_DIGEST_DIGITS]

    def _answer(self, question: Question) -> Verdict:
        self._ready()
        started = self._clock()
        response = self._chat(self._prompt.messages(question))
        self._recovered()
        self.spent = Spent(self._clock() - started, response.prompt_eval_count or 0, response.eval_count or 0)
        return self._guarded(question, self._read(response))

    def _chat(self, messages: Sequence[dict[str, str]]) -> ollama.ChatResponse:
        return self._server.chat(messages, self._prompt.schema, self._prompt.max_tokens)

    def _read(self, response: ollama.ChatResponse) -> Verdict:
        self.said = None
        label = self._prompt.label_in(response.message.content or "") if response.done_reason != "length" else None
        if label is None:
            return abstention("low_confidence")
        shares = self._shares(response)
        self.said = Said(label, shares)
        if shares is None:
            return Verdict(label, None, "llm")
        if self.options.prior_correction and (prior := self._prior_in_force()) is not None:
            shares = corrected(shares, prior)
            label = likeliest(shares, label)
        return Verdict(label, shares[label], "llm")

    def _shares(self, response: ollama.ChatResponse) -> Shares | None:
        return self._prompt.shares([token.model_dump() for token in response.logprobs or ()])

    def _prior_in_force(self) -> Shares | None:
        """The prior of the loaded model; other weights under the same name have another."""
        if self._prior is None or self._prior[0] != self._digest:
            self._prior = (self._digest, self._shares(self._chat(self._prompt.content_free())))
        return self._prior[1]

    def prior(self) -> Shares | None:
        """What the model leans to when there is nothing to label; None where the server does not tell."""

        def ask() -> None:
            self._ready()
            self._prior_in_force()

        self._counted("prior", "", ask)
        return self._prior[1] if self._prior is not None else None

    def _guarded(self, question: Question, verdict: Verdict) -> Verdict:
        """A line can talk to an LLM: what the model thinks is an alarm never becomes something else by its words."""
        if question.guess in self.options.protected_labels and verdict.label != question.guess:
            return abstention("low_confidence")
        return verdict

    def _failed(self, failed: Failure) -> Verdict:
        if failed.state is None:
            return abstention(failed.reason)
        with self._lock:
            changed, self.state, self.trouble = self.state != failed.state, failed.state, failed.detail
            self._breaker.failed()
        if changed and failed.state == "absent" and self.options.enabled == "auto" and not self._was_ready:
            emit(LlmAbsent(url=self.shown_url))
        elif changed:
            emit(LlmStateChanged(state=failed.state, detail=failed.detail))
        return abstention(failed.reason)

    def _recovered(self) -> None:
        with self._lock:
            changed, self.state, self._was_ready = self.state != "ready", "ready", True
            self._breaker.worked()
        if changed:
            emit(LlmReady(model=self.options.model))

    def close(self) -> None:
        with self._connecting:
            if self._connected is not None:
                self._connected.close()


def _refuse_no_url(address: str) -> None:
    try:
        url = urlsplit(address)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0  # raises for one too large
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{without_login(address)!r} is not a URL; write http://127.0.0.1:11434", ("llm", "url"))


def server_of(options: LlmOptions) -> OllamaServer:
    """The server of these options. What is the same for all questions is set here: changing it reloads the model."""
    from logclf_daemon.stages._llm.server import OllamaServer

    runner: dict[str, Any] = {"num_ctx": options.num_ctx}
    if options.num_thread is not None:
        runner["num_thread"] = options.num_thread
    return OllamaServer(
        options.url,
        options.model,
        options=runner,
        keep_alive=options.keep_alive,
        answer_timeout_secs=options.answer_timeout_secs,
        load_timeout_secs=options.load_timeout_secs,
        allow_remote=options.allow_remote,
    )


def reachable_models(options: LlmOptions) -> list[str]:
    """The names of the models the server has.

    Raises:
        ConfigError: `url` is none.
        ServiceUnavailable: Nothing answers, or something that is no Ollama.
    """
    from logclf_daemon.stages._llm.server import CLIENT_ERRORS, no_models

    _refuse_no_url(options.url)
    server = server_of(options)
    try:
        return server.models()
    except CLIENT_ERRORS as error:
        raise ServiceUnavailable(no_models(error, without_login(options.url))) from error
    finally:
        server.close()
