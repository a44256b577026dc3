"""The labels and what they mean. The descriptions are what the LLM is told and what people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import blake2b

from logclf_daemon.errors import ConfigError
from logclf_daemon.record import UNCLASSIFIED

DEFAULT_LABELS: dict[str, str] = {
    "HTTP Status": "an HTTP request or response that shows its status code",
    "Critical Error": "outage, crash, panic, data loss, uncorrected hardware failure; cannot go on",
    "Security Alert": "failed or refused authentication, unknown user, access denied by a policy, probe or break-in",
    "Error": "anything else that failed and is survived: exception, timeout, refused connection, bad input",
    "System Notification": "routine: start, stop, configuration, progress, state change, connection accepted, debug",
    "Resource Usage": "a measurement, limit or exhaustion of memory, CPU, disk, quota, bandwidth, temperature or power",
    "User Action": "a login, logout, session, account or permission change of a person that succeeded",
    "Workflow Error": "a named job, task, attempt, workflow or pipeline step that failed, was aborted or cleaned up",
    "Deprecation Warning": "an API, feature, option or version is deprecated, outdated, retired or to be removed",
}
MAX_CHARS = 100  # of a name: it stands in every record, in metrics, on terminals and in the prompt


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The labels in force, in order, each with its description."""

    labels: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_LABELS))

    def __post_init__(self) -> None:
        if UNCLASSIFIED in self.labels:
            raise ConfigError(
                f"labels: {UNCLASSIFIED!r} is what the daemon says when it is unsure; choose another name"
            )
        for name in self.labels:
            if name != name.strip() or not name or not name.isprintable() or len(name) > MAX_CHARS:
                raise ConfigError(
                    f"labels: {name[:MAX_CHARS]!r} is no name; write at most {MAX_CHARS} printable characters"
                )
        if len(self.labels) < 2:
            raise ConfigError("labels: at least two labels are needed")

    def __contains__(self, label: object) -> bool:
        return label in self.labels

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def digest(self) -> str:
        """Changes with any label or description: remembered verdicts belong to one taxonomy."""
        return blake2b(repr(sorted(self.labels.items())).encode(), digest_size=8).hexdigest()

    def suggestion(self, label: str) -> str:
        """`; did you mean 'X'?`, or the list of labels."""
        close = get_close_matches(label, self.labels, n=1)
        return f"; did you mean {close[0]!r}?" if close else f"; the labels are: {', '.join(self.labels)}"
