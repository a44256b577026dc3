"""Rates over the last minutes: the counters, looked at every few seconds."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from logclf_daemon.telemetry import verdict_counts

EVERY_SECS = 2.0
KEPT = 151  # five minutes


class History:
    """Samples of the verdict counters; differences of them are rates."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, dict[tuple[str, str], int]]] = deque(maxlen=KEPT)
        self.look()

    def look(self) -> None:
        """Take a sample."""
        counts = {(row["stage"], row["label"]): row["count"] for row in verdict_counts()}
        self._samples.append((self._clock(), counts))

    async def run(self) -> None:
        """Look regularly, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECS)
            self.look()

    def rates(self) -> dict[str, Any]:
        """`times`, and for each label and stage its records a second between them, as long as `times`."""
        samples = list(self._samples)
        times, labels, stages = [], dict[str, list[float]](), dict[str, list[float]]()
        for at in range(1, len(samples)):
            (then, before), (now, counts) = samples[at - 1], samples[at]
            times.append(round(now, 1))
            for (stage, label), count in counts.items():
                rate = (count - before.get((stage, label), 0)) / max(0.001, now - then)
                for found, name in ((labels, label), (stages, stage)):
                    found.setdefault(name, [0.0] * (len(samples) - 1))[at - 1] += rate
        rounded = [
            {name: [round(rate, 2) for rate in row] for name, row in found.items()} for found in (labels, stages)
        ]
        return {"times": times, "labels": rounded[0], "stages": rounded[1]}
