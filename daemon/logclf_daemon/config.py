"""The configuration: one declared tree, from which parser, checks, JSON schema and reference are made."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from logclf_daemon.documents import Document, Place, load, parse, validated
from logclf_daemon.enrichment import Meaning, Standard
from logclf_daemon.errors import ConfigError, LogclfError
from logclf_daemon.registry import INPUTS, OUTPUTS, Kind
from logclf_daemon.stages.llm import LlmOptions
from logclf_daemon.stages.model import ModelOptions
from logclf_daemon.stages.rules import RulesOptions
from logclf_daemon.taxonomy import DEFAULT_LABELS, Taxonomy

DEFAULT_PATH = Path("/etc/logclf/config.yaml")
SYSTEM_STATE = Path("/var/lib/logclf-daemon")
STATE_DIRECTORY: Place = ("state", "directory")
CREDENTIALS = Path("/etc/logclf/credentials")  # what the unit's LoadCredential=logclf: takes


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
    enrich: tuple[Standard, ...] = Field(
        (),
        description="Also add `log.level`, `event.kind`, `event.category`, `event.type` (`ecs`), `severityNumber`, "
        "`severityText` (`otel`). What a record has stays; a record with the line in `log` gets no `log.level`.",
    )
    meanings: dict[str, Meaning] = Field(
        {}, description="What labels of your own stand for there: `{Outage: {level: fatal, category: [host]}}`."
    )


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
        None,
        min_length=1,
        description="Asked of every client as `Authorization: Bearer …`; needed where `listen` is not loopback.",
    )
    hosts: tuple[str, ...] = Field((), description="More names it may be called by, besides localhost.")
    review: bool = Field(True, description="Verdicts and rules may be changed over HTTP.")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="Largest record of a CSV, line of NDJSON, and JSON body.")
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
    _written: Document | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Two that mean the same are equal, wherever they were written."""
        return isinstance(other, Config) and all(getattr(self, n) == getattr(other, n) for n in Config.model_fields)

    @field_validator("labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        if labels:
            try:
                Taxonomy(labels)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("labels: ")) from error
        return labels

    @model_validator(mode="after")
    def _labels_that_are_named_exist(self) -> Self:
        named: list[tuple[str, tuple[str | int, ...]]]
        named = [(label, ("record", "meanings", label)) for label in self.record.meanings]
        if self.llm.protected_labels != LlmOptions().protected_labels:  # the default is for those who have that label
            named += [(label, ("llm", "protected_labels", at)) for at, label in enumerate(self.llm.protected_labels)]
        unknown = [self._no_label(label, key) for label, key in named if label not in self.taxonomy]
        if unknown:  # each at its own key, not at the top of the file
            raise ValidationError.from_exception_data("Config", unknown)
        return self

    def _no_label(self, label: str, key: tuple[str | int, ...]) -> InitErrorDetails:
        words = {"label": repr(label), "hint": self.taxonomy.suggestion(label)}
        kind = PydanticCustomError("unknown_label", "{label} is not a label{hint}", words)
        return InitErrorDetails(type=kind, loc=key, input=label)

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(self.labels or dict(DEFAULT_LABELS))


@contextmanager
def located(config: Config, *section: str | int) -> Iterator[None]:
    """A mistake that shows only when an option of this section is used: told with the file and line of the option."""
    try:
        yield
    except ConfigError as error:
        if not error.key:
            raise
        raise ConfigError(f"{spot(config, (*section, *error.key))}: {error.text}") from error


def spot(config: Config, place: Place) -> str:
    """`file:line: key` of an option, or whatever gave it."""
    where = f"{config._written.where(place)}: " if config._written is not None else ""
    return where + ".".join(map(str, place))


def with_defaults(config: Config) -> Config:
    """What runs when nothing else is said: forward input on 24224, JSON lines on standard output."""
    missing: dict[str, list[dict[str, str]]] = {}
    if not config.inputs:
        missing["inputs"] = [{"type": "forward"}]
    if not config.outputs:
        missing["outputs"] = [{"type": "jsonl"}]
    return config.model_copy(update={name: getattr(Config.model_validate(missing), name) for name in missing})


@dataclass(frozen=True, slots=True)
class CascadeFlags:
    """What a command line, or whoever calls, says of the cascade; None and no paths leave it to the configuration."""

    rules_paths: tuple[Path, ...] = ()
    builtin_rules: bool | None = None
    llm: bool | None = None
    model: bool | None = None
    state_dir: Path | None = None


def overridden(
    config: Config,
    flags: CascadeFlags,
    *,
    sections: dict[str, Any] | None = None,
    said_by: str = "command line",
) -> Config:
    """The configuration with what the command line, or whoever calls, says instead.

    Raises:
        ConfigError: What they say is none.
    """
    changes: dict[str, Any] = dict(sections or {})
    if flags.rules_paths or flags.builtin_rules is not None:
        changes["rules"] = {
            "paths": list(flags.rules_paths) or list(config.rules.paths),
            "builtin": config.rules.builtin if flags.builtin_rules is None else flags.builtin_rules,
        }
    if flags.llm is not None:
        changes["llm"] = {**config.llm.model_dump(), "enabled": flags.llm}
    if flags.model is not None:
        changes["model"] = {**config.model.model_dump(), "enabled": flags.model}
    if flags.state_dir is not None:
        changes["state"] = {**config.state.model_dump(), "directory": flags.state_dir}
    parsed = validated(Config, Document(said_by, changes))
    found = config.model_copy(update={name: getattr(parsed, name) for name in changes})
    found._written = _said(config._written, changes, said_by)
    return found


def _said(document: Document | None, changes: Mapping[str, Any], said_by: str) -> Document:
    """Where options stand when somebody said these sections instead."""
    if document is None:
        return Document(said_by, changes)
    lines = {place: line for place, line in document.lines.items() if place[:1] and place[0] not in changes}
    origins = {place: origin for place, origin in document.origins.items() if place[:1] and place[0] not in changes}
    return Document(document.name, document.data, lines, {**origins, **{(name,): said_by for name in changes}})


def load_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file, if there is one, and the LOGCLF_ variables of the environment.

    Raises:
        ConfigError: One line for each mistake: file:line: key: what; what to do.
    """
    document = resolved(written(path, environment))
    config = validated(Config, document)
    config._written = document
    return config


def written(path: Path | None, environment: Mapping[str, str] = os.environ) -> Document:
    """The configuration as it is written, references and all: the file with the environment's options in it."""
    document = load(path) if path is not None else Document("configuration", None)
    if document.data is not None and not isinstance(document.data, dict):
        raise ConfigError(f"{path}:1: a configuration is a mapping such as 'inputs: […]'")
    data, origins, lines = dict(document.data or {}), dict[Place, str](), dict(document.lines)
    for name, place in environment_names().items():
        if name not in environment:
            continue
        value = _from_environment(environment[name], name, place)
        section = data.get(place[0])
        if len(place) == 1 or section is None or isinstance(section, dict):
            data[str(place[0])] = value if len(place) == 1 else {**(section or {}), place[1]: value}
        origins[place] = f"environment variable {name}"
        lines = {known: line for known, line in lines.items() if known[: len(place)] != place}
    return Document(document.name, data, lines, origins)


def environment_names() -> dict[str, Place]:
    """The environment variable of each option: LOGCLF_LLM_URL is llm.url, LOGCLF_INPUTS the whole list."""
    places: list[tuple[str, ...]] = []
    for section, field in Config.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            places += [(section, name) for name in model.model_fields]
        else:
            places.append((section,))
    return {"_".join(("LOGCLF", *place)).upper(): place for place in places}


def misspelt_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that look like an option's and are none, each with the one that was meant."""
    return {name: meant for name, meant in unknown_variables((), environment).items() if meant is not None}


def unknown_variables(
    of_commands: Collection[str], environment: Mapping[str, str] = os.environ
) -> dict[str, str | None]:
    """Variables that begin as an option's and are neither one nor `of_commands`; with what was meant, if that is near.

    Those that Kubernetes makes for a service of such a name are nobody's mistake.
    """
    names = environment_names()
    sections = tuple(f"LOGCLF_{section.upper()}" for section in Config.model_fields)
    unknown = [
        name
        for name in environment
        if name.startswith(sections) and name not in names and name not in of_commands and not _LINK.search(name)
    ]
    close = {name: get_close_matches(name, names, n=1, cutoff=0.85) for name in unknown}
    return {name: next(iter(found), None) for name, found in close.items()}


_LINK = re.compile("_(SERVICE_HOST|SERVICE_PORT|PORT)(_[A-Z0-9_]+)?$")


def _from_environment(text: str, name: str, place: Place) -> Any:
    """What a variable says: text where the option is text, else YAML as in the file; one item alone is a list of it."""
    annotation = _annotation(place)
    if _is_text(annotation):
        return text
    value = parse(text, f"environment variable {name}").data
    return [value] if get_origin(annotation) is tuple and not isinstance(value, list) else value


def _annotation(place: Place) -> Any:
    model: Any = Config
    for part in place:
        model = model.model_fields[part].annotation
    return model


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    if get_origin(annotation) in {Union, UnionType}:
        return all(_is_text(part) for part in get_args(annotation))
    return annotation in {str, Path, SecretStr, NoneType}


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def resolved(document: Document) -> Document:
    """`${NAME}`, `${NAME:-default}`, `file:/path` and `credential:NAME` replaced by what they stand for."""

    def resolve(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {name: resolve(inner, (*place, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [resolve(inner, (*place, at)) for at, inner in enumerate(value)]
        if isinstance(value, str):
            return _text(value, f"{document.where(place)}: {'.'.join(map(str, place))}")
        return value

    return Document(document.name, resolve(document.data, ()), document.lines, document.origins)


def _text(value: str, where: str) -> str:
    def variable(found: re.Match[str]) -> str:
        text = os.environ.get(found.group(1), found.group(2))
        if text is None:
            hint = f"; write ${{{found.group(1)}:-DEFAULT}} if it may be missing"
            if found.group(1) == "CREDENTIALS_DIRECTORY":  # of systemd, in the service only
                hint = "; write credential:NAME, which is found outside of the service too"
            raise ConfigError(f"{where}: the environment variable {found.group(1)} is not set{hint}")
        return text

    value = _VARIABLE.sub(variable, value)
    if value.startswith("credential:"):
        path = _credential(value.removeprefix("credential:"), where)
    elif value.startswith("file:"):
        path = Path(value.removeprefix("file:"))
    else:
        return value
    return secret_in(path, where)


def secret_in(path: Path, where: str) -> str:
    """The text of a file that holds a secret.

    Raises:
        ConfigError: It cannot be read, or there is nothing in it: an empty secret would keep nobody out.
    """
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{where}: {path} cannot be read: {reason}; write the secret into it, readable for the daemon's user"
        ) from error
    if not text.strip():
        raise ConfigError(f"{where}: {path} is empty; write the secret into it")
    return text


def _credential(name: str, where: str) -> Path:
    """The file of a key: in the service what systemd passed ($CREDENTIALS_DIRECTORY), else where root keeps it."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ConfigError(f"{where}: credential:{name}: write the name of a file in {CREDENTIALS}")
    passed = os.environ.get("CREDENTIALS_DIRECTORY")
    if not passed:
        return CREDENTIALS / name
    places = [Path(passed) / name, Path(passed) / f"logclf_{name}"]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise ConfigError(
            f"{where}: no credential {name}; put it into {CREDENTIALS / name} (or LoadCredential={name}:FILE), restart"
        )
    return found


def written_files(config: Config) -> Iterator[tuple[Place, Path]]:
    """The options that name files to be written, and the files."""
    for at, options in enumerate(config.outputs):
        path = getattr(options, "path", "-")
        if path != "-":
            yield ("outputs", at, "path"), Path(path)
    if config.delivery.dead_letter is not None:
        yield ("delivery", "dead_letter"), config.delivery.dead_letter


def _own_state() -> list[Path]:
    """The user's state folder; none where the user has no home, as one that systemd made up and nss does not know."""
    try:
        return [Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "logclf-daemon"]
    except RuntimeError:
        return []


def closed_service_state() -> bool:
    """Whether a service of this host keeps its state where this user may not look."""
    return os.path.lexists(SYSTEM_STATE) and not os.access(SYSTEM_STATE, os.R_OK | os.W_OK | os.X_OK)


def reviewed_state(options: StateOptions) -> Path:
    """The state folder whose verdicts people look at: never quietly their own one in place of the service's.

    Raises:
        LogclfError: It is the service's, and closed to this user.
    """
    if options.directory is None and not os.environ.get("STATE_DIRECTORY") and closed_service_state():
        own = "".join(f", or --state-dir {place} for your own" for place in _own_state())
        raise LogclfError(f"{SYSTEM_STATE}: the verdicts of the service: permission denied; use sudo{own}")
    return state_directory(options)


def saved_rules(state: Path) -> Path:
    """Where rules that people save on the page go if no folder of `rules.paths` can be written: they count too."""
    return state / "rules.d"


def state_directory(options: StateOptions) -> Path:
    """The folder for `state.db` and `cache.db`, made if need be.

    Raises:
        ConfigError: None of the places can be used.
    """
    given = options.directory or os.environ.get("STATE_DIRECTORY", "").split(":")[0] or None
    places = [Path(given)] if given else [SYSTEM_STATE, *_own_state()]
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK):
            return place
    what = f"{places[-1]} cannot be written; create it or set another with --state-dir"
    raise ConfigError(what, STATE_DIRECTORY) if options.directory else ConfigError(f"state.directory: {what}")
