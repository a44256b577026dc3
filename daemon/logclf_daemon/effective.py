"""What a configuration comes to: every option, its value and who said so. Secrets are never among the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from logclf_daemon.config import Config
from logclf_daemon.documents import Document, Place
from logclf_daemon.masking import without_login

SECRET = "(secret)"
REFERENCES = ("file:", "credential:")


@dataclass(frozen=True, slots=True)
class Setting:
    """One option. `value` is plain data, without anything secret."""

    place: Place
    value: Any
    origin: str

    @property
    def key(self) -> str:
        return ".".join(map(str, self.place))


def settings(config: Config, document: Document, flags: Mapping[Place, str]) -> list[Setting]:
    """All options of `config`; `document` is what was written, `flags` what the command line says instead."""
    return [
        Setting(place, _shown(value, _written_at(document, place)), _origin(place, document, flags))
        for place, value in _options(config, ())
    ]


def _options(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _options(getattr(value, name), (*place, name))
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        for at, item in enumerate(value):
            yield from _options(item, (*place, at))
    else:
        yield place, value


def _origin(place: Place, document: Document, flags: Mapping[Place, str]) -> str:
    for size in range(len(place), 0, -1):
        if place[:size] in flags:
            return flags[place[:size]]
    return document.where(place) if _is_written(document, place) else "default"


def _is_written(document: Document, place: Place) -> bool:
    return _written_at(document, place) is not None


def _written_at(document: Document, place: Place) -> Any:
    """What stands there, before references were followed; None if nothing does."""
    found: Any = document.data
    for part in place:
        if isinstance(found, Mapping):
            found = found.get(str(part))
        elif isinstance(found, Sequence) and not isinstance(found, str) and isinstance(part, int):
            found = found[part] if part < len(found) else None
        else:
            return None
    return found


def _shown(value: Any, as_written: Any) -> Any:
    """Plain data to print. What a reference stands for may be a key, wherever it is used: the reference is shown."""
    if isinstance(value, SecretStr):
        return SECRET
    if isinstance(value, Mapping):
        written = as_written if isinstance(as_written, Mapping) else {}
        return {str(name): _shown(inner, written.get(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        items = as_written if isinstance(as_written, list) else []
        return [_shown(item, items[at] if at < len(items) else None) for at, item in enumerate(value)]
    if isinstance(as_written, str) and as_written.startswith(REFERENCES):
        return as_written
    return without_login(str(value)) if isinstance(value, str | Path) else value
