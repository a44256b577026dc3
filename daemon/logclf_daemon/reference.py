"""The page docs/configuration.md, made from the declared options: what is documented is what is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from logclf_daemon.config import Config, environment_names
from logclf_daemon.documents import NOT_FOR_USERS
from logclf_daemon.registry import INPUTS, OUTPUTS, Kind

OPENING = """\
# Configuration

*Made by `logclf-daemon config reference`; do not edit.*

`/etc/logclf/config.yaml`, or the file given with `--config`. Every option has a default, and an environment variable,
which goes before the file; options of the command line go before both. `logclf-daemon config check` tells mistakes
with their line, `logclf-daemon config show` what is in force and who said so, `logclf-daemon config schema` is for
editors.

A text may refer to something else: `${NAME}` and `${NAME:-default}` are environment variables, `file:/path` is the
content of a file, `credential:NAME` that of `/etc/logclf/credentials/NAME`, which the systemd unit hands to the
service (`LoadCredential=`). A variable holds a text as it is, anything else as YAML: `LOGCLF_RULES_PATHS='[/a, /b]'`.
"""


def configuration_page() -> str:
    """All of the reference, as Markdown."""
    parts = [OPENING]
    names = {place: name for name, place in environment_names().items()}
    for section, field in Config.model_fields.items():
        parts.append(f"\n## {section}\n")
        kinds = {"inputs": INPUTS, "outputs": OUTPUTS}.get(section)
        if kinds is not None:
            parts.append(f"\n{field.description} A list; environment variable `{names[(section,)]}`.\n")
            parts += [_kind(name, kind) for name, kind in kinds.items() if name not in NOT_FOR_USERS]
        elif (model := _model(field.annotation)) is not None:
            parts.append(f"\n{_promise(model)}\n\n| option | value | default | environment variable | meaning |\n")
            parts.append("|---|---|---|---|---|\n")
            parts += [_row(name, option, names[section, name]) for name, option in model.model_fields.items()]
        else:
            parts.append(f"\n{field.description} Environment variable `{names[(section,)]}`.\n")
    return "".join(parts)


def _kind(name: str, kind: Kind) -> str:
    model = kind.options_model()
    rows = [_row(option, field) for option, field in _flat(model) if option != "type"]
    head = "| option | value | default | meaning |\n|---|---|---|---|\n"
    return f"\n### type: {name}\n\n{_promise(model)}\n\n{head}{''.join(rows)}"


def _flat(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The options of a model and of the models in it, with dots."""
    for name, field in model.model_fields.items():
        yield before + name, field
        if (inner := _model(field.annotation)) is not None:
            yield from _flat(inner, f"{before}{name}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    for choice in get_args(annotation) or (annotation,):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _promise(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _row(name: str, field: FieldInfo, variable: str | None = None) -> str:
    cells = [f"`{name}`", _words(field.annotation), _default(field)]
    cells += [f"`{variable}`"] if variable else []
    cells.append(" ".join((field.description or "").split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _words(annotation: Any) -> str:
    """The kind of value, for a person."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{_plain(choice)}`" for choice in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(dict.fromkeys(_words(choice) for choice in arguments if choice is not NoneType))
    if origin in {tuple, list}:
        return f"list of {_words(arguments[0])}s"
    if origin is dict:
        return f"mapping of names to {_words(arguments[1])}s"
    if hasattr(annotation, "__metadata__"):
        return _words(arguments[0])
    words = {bool: "true or false", int: "number", float: "number", str: "text", Path: "path", SecretStr: "secret text"}
    return words.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "none" if value is None or value is PydanticUndefined else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    if isinstance(value, tuple | list):
        return json.dumps([str(item) for item in value])
    return json.dumps(value) if isinstance(value, bool) else str(value)
