"""Counters of everything that can happen, in one Prometheus registry. Counted a batch at a time, never a record."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry(auto_describe=True)


def counter(name: str, help_text: str, *labels: str) -> Counter:
    """A counter `logclf_<name>_total` of this daemon."""
    return Counter(f"logclf_{name}", help_text, labels, registry=REGISTRY)


def gauge(name: str, help_text: str, *labels: str) -> Gauge:
    """A gauge `logclf_<name>` of this daemon."""
    return Gauge(f"logclf_{name}", help_text, labels, registry=REGISTRY)


def value(name: str, **labels: str) -> float:
    """The present value of a sample, 0 where nothing was counted yet. `name` is the full sample name."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
