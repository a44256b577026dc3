"""One machine for all tests of this folder: booting is quick, compiling the rules for the first time is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REQUIRED
from systemd.machine import Machine, interpreter


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "root's rights are missing"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (apt install systemd-container)"
    if interpreter() is None:
        return "there is no Python of this version outside of the homes (apt install python3)"
    return None


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with logclf-daemon in /opt, not yet a service."""
    if (reason := _missing()) is not None:
        if "systemd" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    with Machine(Path(tmp_path_factory.mktemp("machine"))) as booted:
        booted.install("logclf-daemon-1")
        (booted.root / "opt" / "logclf-daemon").symlink_to("logclf-daemon-1")
        yield booted
