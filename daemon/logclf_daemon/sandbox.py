"""What the sandbox of the systemd unit forbids, and which of its settings allows it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SETTINGS = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "ReadWritePaths"),
    *("StateDirectory", "CacheDirectory", "LogsDirectory", "RuntimeDirectory"),
    *("User", "Group", "SupplementaryGroups"),
)
_OWN = {"StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log"}
_HOMES = ("/home", "/root", "/run/user")


def in_service() -> bool:
    """Whether systemd runs this process as a service that tells it how it is: what fails may be the unit's doing."""
    return "INVOCATION_ID" in os.environ and "NOTIFY_SOCKET" in os.environ


def silence_hint() -> str:
    """What to add to a time-out of a connection to another host: the unit's filter drops packets without a word."""
    if not in_service():
        return ""
    return "; IPAddressDeny= of the unit drops what IPAddressAllow= does not name (drop-in remote.conf)"


def writing_hint(path: str, error: OSError) -> str:
    """What to do about a file that cannot be opened for writing."""
    if in_service() and error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return f"the unit must name {Path(path).parent} in ReadWritePaths= (drop-in other-output-folder.conf)"
    return "correct the path or its permissions"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The settings of an installed unit (`SETTINGS`, as `systemctl show` words them)."""

    settings: Mapping[str, str]

    @classmethod
    def parsed(cls, shown: str) -> Sandbox:
        """From what `systemctl show` prints: NAME=VALUE lines."""
        return cls(dict(line.split("=", 1) for line in shown.splitlines() if "=" in line))

    def owns(self, folder: Path) -> bool:
        """Whether it is one of the folders that systemd makes for the service, or inside of one."""
        return any(folder.is_relative_to(own) for own in self._own())

    def refusal(self, folder: Path) -> str | None:
        """Why the service may not write in this folder, with what to do; None if it may.

        Raises:
            PermissionError: The folder may not be looked at.
        """
        if self.owns(folder):
            return None
        if self._has("ProtectHome", "yes", "tmpfs") and any(folder.is_relative_to(home) for home in _HOMES):
            return "hidden from the service (ProtectHome=); choose a folder outside of the homes"
        if self._has("PrivateTmp", "yes") and any(folder.is_relative_to(place) for place in ("/tmp", "/var/tmp")):
            return "another one for the service, and gone with it (PrivateTmp=); choose a folder outside of /tmp"
        named = [Path(word.lstrip("-+")) for word in self._words("ReadWritePaths")]
        strict = self._has("ProtectSystem", "strict")
        if strict and not any(folder.is_relative_to(place) for place in named):
            return (
                "read-only for the service (ProtectSystem=strict); name it in ReadWritePaths= "
                "(drop-in other-output-folder.conf)"
            )
        if not self._permitted(folder):
            group = next(iter(self._words("SupplementaryGroups")), self.settings.get("Group", ""))
            return f"closed to the service's user; sudo chgrp {group} {folder} && sudo chmod g+rwxs {folder}"
        return None

    @property
    def groups(self) -> frozenset[str]:
        """The groups of the service's user, those of drop-ins too."""
        own = self.settings.get("Group") or self.settings.get("User") or ""
        return frozenset({*self._words("SupplementaryGroups"), own} - {""})

    def _own(self) -> Iterator[Path]:
        for setting, parent in _OWN.items():
            for name in self._words(setting):
                yield Path(parent, name)
                yield Path(parent, "private", name)
        yield from (Path("/run", name) for name in self._words("RuntimeDirectory"))

    def _permitted(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except FileNotFoundError:
            return True  # not there for anybody: others tell that
        if status.st_mode & stat.S_IWOTH or "system.posix_acl_access" in os.listxattr(folder):
            return True
        with suppress(KeyError):  # a dynamic user has no name while it does not run
            if status.st_mode & stat.S_IWUSR and status.st_uid == pwd.getpwnam(self.settings.get("User", "")).pw_uid:
                return True
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            return False
        return bool(status.st_mode & stat.S_IWGRP) and group in self.groups

    def _words(self, setting: str) -> list[str]:
        return self.settings.get(setting, "").split()

    def _has(self, setting: str, *values: str) -> bool:
        return self.settings.get(setting) in values
