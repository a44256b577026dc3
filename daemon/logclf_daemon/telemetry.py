"""How the daemon is doing, for whoever asks: `/metrics`, `/readyz`, the page, `ctl`. Computed when asked."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from logclf_daemon import __version__, events
from logclf_daemon.build import Parts
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config
from logclf_daemon.metrics import exposition, value
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.stages.verdicts import FILE_NAME
from logclf_daemon.state import StateDb

AWAY_SECS = 60.0  # an output that is away for longer is a reason to look
LLM_STATES = ("off", "unknown", "ready", "absent", "model_missing", "refused", "remote_refused", "timeout", "failing")

Facts = dict[str, Any]


@runtime_checkable
class Watched(Protocol):
    """An input that knows what it has not read yet."""

    name: str

    @property
    def unread_secs(self) -> float:
        """How long the oldest line that was not read has been there."""

    def troubles(self) -> list[str]:
        """What keeps it from reading."""


@dataclass(slots=True)
class Running:
    """What runs at the moment. `pipeline` is None where only HTTP is served."""

    config: Config
    parts: Parts
    cascade: Cascade
    number: int
    started: float
    directory: Path | None = None
    pipeline: Pipeline | None = None
    state: StateDb | None = None
    refused: str | None = None  # why the last reload was

    def troubles(self) -> list[str]:
        """Why the daemon is not ready, one line for each reason; none if it is."""
        if self.pipeline is None:
            return []
        found = ["draining: it reads no more and delivers what is under way"] if self.pipeline.stopping else []
        away = [slot for slot in self.pipeline.outputs if slot.required and away_secs(slot) > AWAY_SECS]
        found += [f"output {slot.output.name}: unavailable for {away_secs(slot):.0f} s{_why(slot)}" for slot in away]
        if not self.pipeline.inputs:
            found.append("inputs: there are none")
        for source in self.pipeline.inputs:
            if isinstance(source, Watched):
                found += [f"input {source.name}: {trouble}" for trouble in source.troubles()]
        if self.state is not None and self.state.behind:
            found.append("state: the disk takes no writes; positions are kept in memory")
        return found

    def notes(self, *, to_anyone: bool = False) -> list[str]:
        """What is worth knowing though the daemon is ready; `to_anyone`: without what stands in its files."""
        found = []
        if self.refused is not None:
            first, *others = self.refused.splitlines()
            more = f" (and {len(others)} more)" if others else ""
            why = "; its log says why" if to_anyone else f": {first}{more}"
            found.append(f"reload refused, generation {self.number} stays{why}")
        llm = self.parts.llm
        if llm is not None and llm.state not in ("ready", "unknown"):
            what = f"{llm.state}: {llm.trouble}" if llm.state == "model_missing" else llm.state
            found.append(f"llm: {what}; lines it would have decided stay Unclassified")
        if self.directory is not None and self.parts.memory is None:
            found.append(f"verdicts: {FILE_NAME} cannot be used; mend it, then: logclf-daemon ctl reload")
        return found

    def metrics(self) -> bytes:
        """The Prometheus exposition of this moment."""
        self._refresh()
        return exposition()

    def _refresh(self) -> None:
        """Set the gauges that nobody keeps up to date otherwise."""
        events.uptime_seconds.set(time.monotonic() - self.started)
        events.build.labels(__version__, platform.python_version(), self.model).set(1)
        events.generation_number.set(self.number)
        events.rules_loaded.set(len(self.parts.rules))
        events.ready.set(not self.troubles())
        llm, room = self.parts.llm, self.cascade.waiting
        for state in LLM_STATES:
            events.llm_state.labels(state).set(state == (llm.state if llm else "off"))
        events.llm_available.set(llm is not None and llm.unavailable() is None)
        events.llm_required.set(self.config.llm.enabled is True)
        events.llm_records_waiting.set(room.waiting if room else 0)
        events.llm_questions.set(room.questions if room else 0)
        for name, (secs, size) in self._lags().items():
            events.input_lag_seconds.labels(name).set(secs)
            if size is not None:
                events.input_lag_bytes.labels(name).set(size)
        for slot in self.pipeline.outputs if self.pipeline else ():
            events.output_away_seconds.labels(slot.output.name).set(away_secs(slot))

    @property
    def model(self) -> str:
        model = self.parts.model
        return f"{model.path.name} {model.digest[:8]}" if model else "off"

    def inputs(self) -> dict[str, Facts]:
        """Each input's ledger and lag."""
        return {
            name: input_ledger(name)
            | {
                "lag_secs": secs,
                "lag_bytes": size if size is not None else int(value("logclf_input_lag_bytes", input=name)),
            }
            for name, (secs, size) in self._lags().items()
        }

    def _lags(self) -> dict[str, tuple[float, int | None]]:
        """Seconds and bytes each input is behind; bytes None: it keeps its gauge itself."""
        if self.pipeline is None:
            return {}
        found: dict[str, tuple[float, int | None]] = {}
        unsettled = self.pipeline.unsettled()
        for source in self.pipeline.inputs:
            age, size = unsettled.get(source.name, (0.0, 0))
            # A source that is read knows what it has not read; of one that is sent to us we know what we took.
            if isinstance(source, Watched):
                found[source.name] = (round(max(age, source.unread_secs), 3), None)
            else:
                found[source.name] = (round(age, 3), size)
        return found

    def outputs(self) -> dict[str, Facts]:
        """What each output took, and since when it is away."""
        return {slot.output.name: output_ledger(slot) for slot in self.pipeline.outputs} if self.pipeline else {}

    def llm(self) -> Facts:
        """The state of the LLM and its queue."""
        llm, room = self.parts.llm, self.cascade.waiting
        return {
            "model": self.config.llm.model if llm else None,
            "state": llm.state if llm else "off",
            "breaker": llm.breaker if llm else None,
            "available": llm is not None and llm.unavailable() is None,
            "questions": room.questions if room else 0,
            "records_waiting": room.waiting if room else 0,
        }

    def live(self) -> Facts:
        """What changes from second to second; rates are the reader's business: it sees two of these."""
        troubles = self.troubles()
        return {
            "at": time.time(),
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self.started, 1),
            "generation": self.number,
            "rules": len(self.parts.rules),
            "model": self.model,
            "ready": not troubles,
            "troubles": troubles,
            "notes": self.notes(),
            "verdicts": verdict_counts(),
            "inputs": self.inputs(),
            "outputs": self.outputs(),
            "llm": self.llm(),
            "templates": len(self.cascade.traffic),
            "templates_new": int(value("logclf_templates_new_total")),
        }


def away_secs(slot: OutputSlot) -> float:
    """How long an output has been away, 0 if it is there."""
    return time.monotonic() - slot.away_since if slot.away_since is not None else 0.0


def _why(slot: OutputSlot) -> str:
    return f": {slot.error}" if slot.error else ""


def verdict_counts() -> list[Facts]:
    """Records by stage and label since the start."""
    return [
        {"stage": sample.labels["stage"], "label": sample.labels["label"], "count": int(sample.value)}
        for metric in events.verdicts_total.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    ]


def input_ledger(name: str) -> Facts:
    """What became of the records of an input: read = delivered + dropped + returned + in_flight."""
    counted = {
        word: int(value(f"logclf_records_{word}_total", input=name)) for word in ("read", "delivered", "returned")
    }
    dropped = sum(
        int(sample.value)
        for metric in events.records_dropped.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["input"] == name
    )
    return {**counted, "dropped": dropped, "in_flight": int(value("logclf_records_in_flight", input=name))}


def output_ledger(slot: OutputSlot) -> Facts:
    """What an output took, since when it is away, and why."""
    return {
        "written": int(value("logclf_output_records_delivered_total", output=slot.output.name)),
        "away_secs": round(away_secs(slot)) if slot.away_since is not None else None,
        "error": slot.error,
    }
