"""Counters of everything that can happen, in one Prometheus registry. Counted a batch at a time, never a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

# Else there are twice as many samples; when a series was first counted is of no use here.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry(auto_describe=True)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)


class _Before(Collector):
    """A collector with nothing of its own. Registered first, so it is asked first."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def collect(self) -> Iterable[Metric]:
        for step in self.steps:
            step()
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()


_before = _Before()
REGISTRY.register(_before)


def before_collecting(step: Callable[[], None]) -> None:
    """Call this before the metrics are read: for what is counted lazily."""
    _before.steps.append(step)


def counter(name: str, help_text: str, *labels: str) -> Counter:
    """A counter `logclf_<name>_total` of this daemon."""
    return Counter(f"logclf_{name}", help_text, labels, registry=REGISTRY)


def gauge(name: str, help_text: str, *labels: str) -> Gauge:
    """A gauge `logclf_<name>` of this daemon."""
    return Gauge(f"logclf_{name}", help_text, labels, registry=REGISTRY)


def seconds(name: str, help_text: str, *labels: str) -> Histogram:
    """A histogram `logclf_<name>_seconds` of this daemon, from a tenth of a millisecond to a minute."""
    return Histogram(f"logclf_{name}_seconds", help_text, labels, registry=REGISTRY, buckets=SECONDS)


def value(name: str, **labels: str) -> float:
    """The present value of a sample, 0 where nothing was counted yet. `name` is the full sample name."""
    for step in _before.steps:
        step()
    found = (metric.samples for metric in REGISTRY.restricted_registry([name]).collect())
    return next((sample.value for samples in found for sample in samples if sample.labels == labels), 0.0)


def exposition() -> bytes:
    """All of it in Prometheus' text format."""
    return generate_latest(REGISTRY)
