"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logclf_daemon import events

try:
    from hypothesis import HealthCheck, settings
except ImportError:
    pass  # some tiers run where only what they need is installed
else:  # the time of an example tells of the machine, not of the code
    settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy machine")

REQUIRED = set(os.environ.get("LOGCLF_TEST_REQUIRE", "").split(","))


@pytest.fixture(autouse=True)
def _private_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test uses the user's state or environment, and what one logged holds back nothing in the next."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # `run` in this process holds SIGHUP: children would inherit it
    limiter = events.limiter()
    monkeypatch.setattr(events, "_limiter", limiter)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    for name in [name for name in os.environ if name.startswith("LOGCLF_") and not name.startswith("LOGCLF_TEST")]:
        monkeypatch.delenv(name)
    yield
    limiter.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def needs() -> Callable[[str], str]:
    """`needs("npm")`: the path of a program; without it a skip, or a failure where CI requires it."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            if program in REQUIRED:
                pytest.fail(f"{program} is required here and not installed")
            pytest.skip(f"{program} is not installed")
        return path

    return find
