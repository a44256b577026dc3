"""Everything that can happen: one event is one counter and one log line, declared here and nowhere else.

The message is fixed, the facts are fields; no user's log text is in them. An event that repeats is logged at most once
in ten seconds for each of its keys; the newest that was held back is told when they are over, with the number of the
others. INFO: no worry. WARNING: odd, nothing lost. ERROR: data lost or a person is needed.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

from prometheus_client import Counter

from logclf_daemon.metrics import counter, gauge, seconds

LOGGER = logging.getLogger("logclf")
QUIET_SECS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events: subclasses set the message, the level and (often) a counter."""

    message: ClassVar[str]
    level: ClassVar[int] = logging.INFO
    total: ClassVar[Counter | None] = None
    labels: ClassVar[tuple[str, ...]] = ()  # fields that label the counter and the repetition limit
    amount: ClassVar[str | None] = None  # field that is added to the counter; one if None
    asked_for: ClassVar[bool] = False  # the answer to what a person did: never held back
    traceback: ClassVar[bool] = False  # logged with that of the exception being handled

    def count_it(self) -> None:
        """Add this event to its counter, if it has one."""
        if self.total is None:
            return
        add = float(getattr(self, self.amount)) if self.amount else 1.0
        series = self.total.labels(*(str(getattr(self, name)) for name in self.labels)) if self.labels else self.total
        series.inc(add)

    def facts(self) -> dict[str, object]:
        """The message and the fields that are set."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"event": self.message} | {name: fact for name, fact in known.items() if fact is not None}

    def text(self) -> str:
        """Message and fields as one line."""
        facts = " ".join(f"{name}={_printable(fact)}" for name, fact in self.facts().items() if name != "event")
        return f"{self.message} {facts}".rstrip()


def _printable(fact: object) -> str:
    """Control characters and escape sequences never reach a terminal or a log file."""
    text = str(fact)
    if text.isprintable() and " " not in text:
        return text
    return '"' + text.encode("unicode_escape", "backslashreplace").decode("ascii").replace('"', '\\"') + '"'


@dataclass(slots=True)
class _Told:
    """When an event like this was logged last, how many were held back since, and the newest of them."""

    at: float
    held: int = 0
    newest: Event | None = None


class Alarm(Protocol):
    """Something that was put off; `threading.Timer` is one."""

    def cancel(self) -> None:
        """It shall not happen any more."""


def _later(secs: float, call: Callable[[], None]) -> Alarm:
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started now")  # Python 3.11 would wait for it for ever
    timer = threading.Timer(secs, call)
    timer.daemon = True
    timer.start()
    return timer


class _Limiter:
    """At most one log line for each key in `QUIET_SECS`; what is held back is told at the end of that time."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Alarm] = _later,
    ) -> None:
        self._clock = clock
        self._later = later
        self._told: dict[tuple[object, ...], _Told] = {}
        self._alarm: Alarm | None = None
        self._lock = threading.Lock()

    def held_back(self, event: Event) -> int | None:
        """How many events like this one were held back since the last, or None: hold this one back too."""
        key = (type(event), *(getattr(event, name) for name in event.labels))
        with self._lock:
            now, told = self._clock(), self._told.get(key)
            if told is None:
                if len(self._told) > 1000:
                    self._told = {key: told for key, told in self._told.items() if told.held}
                self._told[key] = _Told(now)
                return 0
            if now - told.at < QUIET_SECS:
                told.held, told.newest = told.held + 1, event
                self._set_alarm(now)
                return None
            held, told.at, told.held, told.newest = told.held, now, 0, None
            return held

    def flush(self, quiet_secs: float = 0.0) -> None:
        """Tell what was held back, of events that were last told `quiet_secs` ago."""
        due: list[tuple[Event, int]] = []
        with self._lock:
            now, self._alarm = self._clock(), None
            for told in self._told.values():
                if told.newest is not None and now - told.at >= quiet_secs:
                    due.append((told.newest, told.held - 1))
                    told.at, told.held, told.newest = now, 0, None
            self._set_alarm(now)
        for event, held in due:
            _log(event, held, traceback=False)

    def _set_alarm(self, now: float) -> None:
        waiting = [told.at for told in self._told.values() if told.held]
        if waiting and self._alarm is None:
            # RuntimeError: no thread can be started now. Then the next event like this tells it.
            with suppress(RuntimeError):
                self._alarm = self._later(max(0.0, min(waiting) + QUIET_SECS - now), lambda: self.flush(QUIET_SECS))

    def close(self) -> None:
        """Tell nothing more."""
        with self._lock:
            self._told.clear()
            if self._alarm is not None:
                self._alarm.cancel()


_limiter = _Limiter()
atexit.register(lambda: _limiter.flush())


def emit(event: Event) -> None:
    """Count the event and log it, unless the same one was logged just now."""
    event.count_it()
    if not LOGGER.isEnabledFor(event.level):
        return
    held = _limiter.held_back(event) if event.level != logging.INFO and not event.asked_for else 0
    if held is not None:
        _log(event, held, traceback=event.traceback)


def _log(event: Event, held: int, *, traceback: bool) -> None:
    more = f" (and {held} more like this)" if held else ""
    extra = {"facts": event.facts(), "held_back": held}  # for formatters that write fields
    LOGGER.log(event.level, "%s%s", event.text(), more, exc_info=traceback, extra=extra)


# --- the ledger -----------------------------------------------------------------------------------------------------
# For each input and each output, at any moment: read = delivered + dropped + returned + in flight.

records_read = counter("records_read", "Records read by an input", "input")
records_delivered = counter("records_delivered", "Records safe at every required output", "input")
records_returned = counter("records_returned", "Records given back to the input unacknowledged", "input")
records_in_flight = gauge("records_in_flight", "Records read and not yet settled", "input")
output_records_read = counter("output_records_read", "Records handed to an output", "output")
output_records_delivered = counter("output_records_delivered", "Records an output took", "output")
output_records_returned = counter("output_records_returned", "Records an output had not taken at the end", "output")
output_records_in_flight = gauge("output_records_in_flight", "Records an output has and did not take yet", "output")
verdicts_total = counter("verdicts", "Records by the stage that answered and the label", "stage", "label")


records_dropped = counter("records_dropped", "Records that will never be delivered", "input", "reason")
output_records_dropped = counter("output_records_dropped", "Records an output will never take", "output", "reason")
reloads = counter("reloads", "Reloads by result", "result")
bugs = counter("bugs", "Unexpected exceptions", "where")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsDropped(Event):
    message = "records dropped"
    level = logging.ERROR
    total = records_dropped
    labels = ("input", "reason")
    amount = "count"

    input: str
    reason: str
    count: int
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecordsDropped(Event):
    message = "an output dropped records"
    level = logging.ERROR
    total = output_records_dropped
    labels = ("output", "reason")
    amount = "count"

    output: str
    reason: str
    count: int


# --- how it goes ----------------------------------------------------------------------------------------------------
# Gauges without a comment are set when somebody looks (`Running.metrics`): they cost nothing otherwise.

stage_seconds = seconds("stage", "Time of a call of a stage: a batch for the rules, a few templates else", "stage")
cache_hits = counter("cache_hits", "Lines or templates found in a cache: fold, template or memory", "tier")
cache_misses = counter("cache_misses", "Lines or templates not found in a cache: fold, template or memory", "tier")
templates_new = counter("templates_new", "Templates not met lately")
model_llm_answers = counter("model_llm_answers", "LLM answers by whether the model would have guessed them", "agree")
# For files at each look.
input_lag_bytes = gauge("input_lag_bytes", "Bytes read or to be read and not delivered yet", "input")
input_lag_seconds = gauge("input_lag_seconds", "Age of the oldest line that is not delivered yet", "input")
output_away_seconds = gauge("output_away_seconds", "How long an output has been unavailable, else 0", "output")
llm_state = gauge("llm_state", "1 for the state the LLM is in", "state")
llm_available = gauge("llm_available", "1 if a question would be asked now, 0 while it is not asked")
llm_required = gauge("llm_required", "1 if llm.enabled is true: then no LLM is a fault, not just how the host is")
llm_records_waiting = gauge("llm_records_waiting", "Records that wait for the LLM")
llm_questions = gauge("llm_questions", "Templates queued for the LLM or asked now")
generation_number = gauge("generation", "Number of the rules, model and labels in force")
rules_loaded = gauge("rules", "Rules in force")
ready = gauge("ready", "1 if /readyz would answer 200")
uptime_seconds = gauge("uptime_seconds", "Time since the start")
build = gauge("build_info", "Always 1; what runs is in the labels", "version", "python", "model")


# --- life -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    message = "ready"

    version: str
    inputs: str
    outputs: str
    rules: int
    model: str
    llm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableUnknown(Event):
    message = "an environment variable is no option and was not used"
    level = logging.WARNING
    asked_for = True

    variable: str
    meant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLabels(Event):
    message = (
        "labels of your own: shipped rules for other labels and the shipped model are not used; write rules, train a "
        "model, or switch them off (rules.builtin, model.enabled)"
    )
    level = logging.WARNING
    asked_for = True

    shipped_rules: int | None
    shipped_model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpListens(Event):
    message = "the live page and the HTTP API are there"

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDropped(Event):
    """`too_many`: the one that was idle longest made room; `answer_not_taken`: its client does not read."""

    message = "an HTTP connection was closed"
    level = logging.WARNING
    total = counter("http_connections_dropped", "HTTP connections closed by us before their time", "why")
    labels = ("why",)

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryTrouble(Event):
    message = "a library met something odd"
    level = logging.WARNING
    total = counter("library_troubles", "Warnings and errors that libraries logged", "library")
    labels = ("library",)

    library: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    message = "stopping: inputs closed, delivering what is under way"

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled(Event):
    message = "a part that carries batches has come to a stand; systemd will hear no more of us and start us again"
    level = logging.ERROR
    total = counter("stalls", "Times a part of the daemon came to a stand", "part")
    labels = ("part",)

    part: str
    secs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketNotUsed(Event):
    message = "systemd holds a socket that nothing here reads; `listen` of an input must name it, or disable its unit"
    level = logging.WARNING

    socket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    message = "stopped"

    delivered: int
    returned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded(Event):
    message = "reloaded"
    total = reloads
    labels = ("result",)

    generation: int
    rules: int
    result: str = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadRefused(Event):
    message = "reload refused; the running rules, model and labels stay"
    level = logging.ERROR
    total = reloads
    labels = ("result",)
    asked_for = True

    error: str
    result: str = "refused"


# --- stages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailed(Event):
    message = "a stage could not answer; its lines went on to the next stage"
    level = logging.WARNING
    total = counter("stage_failures", "Times a stage could not answer", "stage")
    labels = ("stage",)

    stage: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmStateChanged(Event):
    message = "LLM state changed"
    level = logging.WARNING
    total = counter("llm_state_changes", "Changes of the LLM's state", "state")
    labels = ("state",)

    state: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmAbsent(Event):
    """With `llm.enabled: auto` this is how most hosts are, and no reason to worry where there never was one."""

    message = "no LLM answers; lines it would have decided stay Unclassified"
    total = LlmStateChanged.total
    labels = ("state",)

    url: str
    state: str = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCalled(Event):
    message = "LLM asked"
    level = logging.DEBUG
    total = counter("llm_calls", "Calls to the LLM by outcome", "outcome")
    labels = ("outcome",)

    outcome: str
    template: str
    secs: float


llm_breaker = gauge("llm_breaker", "1 for the state of the breaker before the LLM", "state")


# --- inputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTrouble(Event):
    """An input met something it can live with; `what` is a fixed word, for the counter."""

    message = "input trouble"
    level = logging.WARNING
    total = counter("input_troubles", "Odd things an input met and survived", "input", "what")
    labels = ("input", "what")

    input: str
    what: str
    where: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputNote(Event):
    """A change in what an input reads that an operator would like to see once."""

    message = "input"

    input: str
    what: str
    where: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRepeated(Event):
    message = "a sender repeated a chunk; it is acknowledged and not delivered again"
    level = logging.WARNING  # odd, and a sender decides how often it comes: at most one line in ten seconds
    total = counter("chunks_repeated", "Chunks sent again by their sender and not delivered again", "input")
    labels = ("input",)

    input: str


# --- outputs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAway(Event):
    message = "output unavailable; records wait at their source and are sent again"
    level = logging.WARNING
    total = counter("output_failures", "Failed writes that are tried again", "output")
    labels = ("output",)

    output: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputBack(Event):
    message = "output available again"
    labels = ("output",)

    output: str
    away_secs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsTruncated(Event):
    message = "records too large for one chunk were cut and marked `truncated`"
    level = logging.WARNING
    total = counter("records_truncated", "Records cut because they are larger than a chunk may be", "output")
    labels = ("output",)
    amount = "count"

    output: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTrouble(Event):
    message = "state database trouble; delivery goes on from memory"
    level = logging.ERROR
    total = counter("state_troubles", "Failed commits and quarantined state files", "what")
    labels = ("what",)

    what: str
    path: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitsForRoom(Event):
    message = "not started yet: waits for room on the disk"
    level = logging.ERROR

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug(Event):
    message = "a bug of ours; please report it with the traceback below"
    level = logging.ERROR
    traceback = True
    total = bugs
    labels = ("where",)

    where: str
    error: str


# --- what alerts look at --------------------------------------------------------------------------------------------

_REFUSED = ("not_logs", "unencodable")  # by an output, for good
_NO_RECORDS = {"forward": ("invalid", "corrupt_chunk", "inflated_too_large", "signal_refused")}  # to an input
_STAGES = ("verdicts", "model", "llm")


def count_from_zero(inputs: Mapping[str, str], outputs: Iterable[str]) -> None:
    """Create the counters that alerts look at: the increase of one that is born with its first event is nothing.

    `inputs` has the kind of each by its name.
    """
    for result in ("ok", "refused"):
        reloads.labels(result)
    for agree in ("yes", "no"):
        model_llm_answers.labels(agree)
    forward = [name for name, kind in inputs.items() if kind == "forward"]
    for where in ("pipeline", "http", *(f"stage {name}" for name in _STAGES), *(f"input {name}" for name in forward)):
        bugs.labels(where)
    for name, kind in inputs.items():
        for reason in (*_REFUSED, *_NO_RECORDS.get(kind, ())):
            records_dropped.labels(name, reason)
    for name in outputs:
        for reason in (*_REFUSED, "output_unavailable"):
            output_records_dropped.labels(name, reason)


count_from_zero({}, ())
