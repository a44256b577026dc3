"""The configuration: one declared tree, from which parser, checks, JSON schema and reference are made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from logclf_daemon.documents import Document, Place, load, validated
from logclf_daemon.errors import ConfigError
from logclf_daemon.registry import INPUTS, OUTPUTS, Kind
from logclf_daemon.stages.llm import LlmOptions
from logclf_daemon.stages.model import ModelOptions
from logclf_daemon.stages.rules import RulesOptions
from logclf_daemon.taxonomy import DEFAULT_LABELS, Taxonomy

DEFAULT_PATH = Path("/etc/logclf/config.yaml")
SYSTEM_STATE = Path("/var/lib/logclf-daemon")


def _one_of(kinds: Mapping[str, Kind]) -> Any:
    models = tuple(kind.options_model() for kind in kinds.values())
    return Annotated[Union[models], Field(discriminator="type")]  # noqa: UP007


if TYPE_CHECKING:
    InputOptions = BaseModel
    OutputOptions = BaseModel
else:
    InputOptions = _one_of(INPUTS)
    OutputOptions = _one_of(OUTPUTS)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordOptions(_Section):
    """Where the message is found in a record and the verdict is put."""

    message_keys: tuple[str, ...] = Field(
        ("log", "message", "MESSAGE", "msg", "log_message"),
        min_length=1,
        description="The first of these that a record has is its message.",
    )
    field: str = Field("logclf", min_length=1, description="The key of the verdict.")
    flatten: bool = Field(False, description="true: logclf_label, logclf_confidence, … instead of one map.")


class DeliveryOptions(_Section):
    """How much may be under way, and how long stopping may take."""

    max_in_flight: int = Field(
        20_000,
        ge=1,
        description="Records read and not yet acknowledged; then reading pauses. A large one counts once for each KiB.",
    )
    drain_secs: float = Field(20, ge=0, description="At SIGTERM, how long to wait for acknowledgements.")
    dead_letter: Path | None = Field(None, description="JSON lines file for records an output refused for good.")


class StateOptions(_Section):
    """Where offsets and remembered verdicts are kept."""

    directory: Path | None = Field(
        None, description="Default: $STATE_DIRECTORY, else /var/lib/logclf-daemon, else the user's state folder."
    )
    on_lost_state: Literal["head", "tail", "refuse"] = Field(
        "head", description="When state.db is damaged: read files again, only what is new, or do not start."
    )


class HttpOptions(_Section):
    """The HTTP API and the live page."""

    listen: str | None = Field(None, description="host:port, such as 127.0.0.1:24280; none: no HTTP.")
    token: SecretStr | None = Field(
        None, description="Asked of every client as `Authorization: Bearer …`; needed where `listen` is not loopback."
    )
    hosts: tuple[str, ...] = Field((), description="More names it may be called by, besides localhost.")
    review: bool = Field(True, description="Verdicts and rules may be changed over HTTP.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Largest JSON or NDJSON line and JSON body.")
    max_upload_bytes: int = Field(2 << 30, ge=1024, description="Largest CSV or NDJSON upload.")
    requests_per_sec: float = Field(50, gt=0, description="Requests a second of one client; twice as many at once.")


class Config(_Section):
    """Everything `run` needs."""

    inputs: tuple[InputOptions, ...] = Field((), description="Where records come from.")
    outputs: tuple[OutputOptions, ...] = Field((), description="Where they go.")
    rules: RulesOptions = RulesOptions()
    model: ModelOptions = ModelOptions()
    llm: LlmOptions = LlmOptions()
    state: StateOptions = StateOptions()
    record: RecordOptions = RecordOptions()
    delivery: DeliveryOptions = DeliveryOptions()
    http: HttpOptions = HttpOptions()
    labels: dict[str, str] = Field({}, description="name: description; replaces the default labels.")

    @field_validator("labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        if labels:
            try:
                Taxonomy(labels)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("labels: ")) from error
        return labels

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(self.labels or dict(DEFAULT_LABELS))


def with_defaults(config: Config) -> Config:
    """What runs when nothing else is said: forward input on 24224, JSON lines on standard output."""
    missing: dict[str, list[dict[str, str]]] = {}
    if not config.inputs:
        missing["inputs"] = [{"type": "forward"}]
    if not config.outputs:
        missing["outputs"] = [{"type": "jsonl"}]
    return config.model_copy(update={name: getattr(Config.model_validate(missing), name) for name in missing})


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: One line for each mistake: file:line: key: what; what to do.
    """
    document = load(path)
    if document.data is not None and not isinstance(document.data, dict):
        raise ConfigError(f"{path}:1: a configuration is a mapping such as 'inputs: […]'")
    return validated(Config, _resolved(document))


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _resolved(document: Document) -> Document:
    """`${NAME}`, `${NAME:-default}` and `file:/path` replaced by what they stand for."""

    def resolve(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {name: resolve(inner, (*place, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, (*place, at)) for at, inner in enumerate(value)]
        if isinstance(value, str):
            return _text(value, f"{document.where(place)}: {'.'.join(map(str, place))}")
        return value

    return Document(document.name, resolve(document.data, ()), document.lines)


def _text(value: str, where: str) -> str:
    def variable(found: re.Match[str]) -> str:
        text = os.environ.get(found.group(1), found.group(2))
        if text is None:
            raise ConfigError(f"{where}: the environment variable {found.group(1)} is not set")
        return text

    value = _VARIABLE.sub(variable, value)
    if not value.startswith("file:"):
        return value
    path = Path(value.removeprefix("file:"))
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def state_directory(options: StateOptions) -> Path:
    """The folder for `state.db` and `cache.db`, made if need be.

    Raises:
        ConfigError: None of the places can be used.
    """
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "logclf-daemon"
    given = options.directory or os.environ.get("STATE_DIRECTORY", "").split(":")[0] or None
    places = [Path(given)] if given else [SYSTEM_STATE, home]
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK):
            return place
    raise ConfigError(f"state.directory: {places[-1]} cannot be written; create it or set another with --state-dir")
