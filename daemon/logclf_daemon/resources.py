"""The data that rides with the code: rules, models, unit files. Installed: inside the package; else the checkout."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from logclf_daemon.errors import ConfigError


def folder(name: str) -> Path:
    """The folder `rules`, `models` or `systemd`.

    Raises:
        ConfigError: The installation is incomplete.
    """
    installed = Path(str(files("logclf_daemon"))) / name
    checkout = Path(str(files("logclf_daemon"))).parent.parent / name
    for place in (installed, checkout):
        if place.is_dir():
            return place
    raise ConfigError(f"{installed}: missing from this installation; install logclf-daemon again")


def cache_directory() -> Path | None:
    """A folder for what can be made again: $CACHE_DIRECTORY, else the user's cache; None if it is not ours alone."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    try:
        place = Path(given or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = place if given else place / "logclf-daemon"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
    except (OSError, RuntimeError):
        return None
    # Compiled patterns are loaded as they are: nobody else may have written them.
    return place if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None
