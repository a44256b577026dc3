"""YAML files that people write, checked against a pydantic model, with the line of every mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from logclf_daemon.errors import ConfigError

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_NODES = 1_000_000  # an alias bomb unfolds to more
MAX_DEPTH = 100  # of mappings and lists within each other
NOT_FOR_USERS = {"memory"}  # kinds of inputs and outputs that are for tests: nobody is told of them


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and the line (from 1) where each key or item stands; `origins` name what comes from elsewhere."""

    name: str
    data: Any
    lines: Mapping[Place, int] = field(default_factory=dict)
    origins: Mapping[Place, str] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """`file:line` of the innermost known part of `place`."""
        for size in range(len(place), -1, -1):
            if (known := self.origin(place[:size])) is not None:
                return known
        return self.name

    def origin(self, place: Place) -> str | None:
        """`file:line` of exactly this key or item, or what else gave it; None if nobody did."""
        if (given := self.origins.get(place)) is not None:
            return given
        line = self.lines.get(place)
        return f"{self.name}:{line}" if line is not None else None


def load(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: It cannot be read, or it is not YAML of plain mappings, lists and scalars.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Like `load`, from text."""
    loader = _Loader(text)
    lines: dict[Place, int] = {}
    try:
        node = loader.get_single_node()
        data = _Walk(loader, name, lines).value(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem or error}") from error
    except yaml.reader.ReaderError as error:
        line = text.encode("utf-8", "surrogateescape")[: error.position].count(b"\n") + 1
        what = f"the character U+{int(error.character):04X} may not stand in it; take it out"
        raise ConfigError(f"{name}:{line}: not valid YAML: {what}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    return Document(name, data, lines)


class _TooDeep(yaml.MarkedYAMLError):
    def __init__(self, node: yaml.Node | None) -> None:
        mark = node.start_mark if node is not None else None
        super().__init__(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)


class _Loader(yaml.CSafeLoader):
    """It composes by recursion in C: without a bound a file of brackets would end the process."""

    _depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooDeep(current_node)

    def ascend_resolver(self) -> None:
        self._depth -= 1


class _Walk:
    """Nodes to plain data, noting lines; refuses what a configuration never needs."""

    def __init__(self, loader: yaml.CSafeLoader, name: str, lines: dict[Place, int]) -> None:
        self._loader = loader
        self._name = name
        self._lines = lines
        self._nodes = 0

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ConfigError(f"{self._name}: too large once its aliases are unfolded")
        if len(place) > MAX_DEPTH:  # a list that holds itself
            raise _TooDeep(node)
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, place))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, at)) for at, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _pairs(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                raise ConfigError(f"{self._name}:{line}: a key must be plain text")
            name = str(name_node.value)
            if name in seen:
                raise ConfigError(f"{self._name}:{line}: {name}: given twice, first in line {seen[name]}")
            seen[name] = self._lines[(*place, name)] = line
            yield name, self.value(value_node, (*place, name))


def validated(model: type[Model], document: Document) -> Model:
    """The document as an instance of `model`.

    Raises:
        ConfigError: One line for each mistake: file:line: key: what is wrong; what to do.
    """
    try:
        return model.model_validate(document.data if document.data is not None else {})
    except ValidationError as error:
        raise ConfigError("\n".join(_mistakes(model, document, error.errors()))) from error


def _mistakes(model: type[BaseModel], document: Document, errors: list[ErrorDetails]) -> Iterator[str]:
    found: dict[Place, list[str]] = {}  # an option that may be of several kinds has a complaint for each
    for error in errors:
        place = _in_document(error["loc"], {} if document.data is None else document.data)
        found.setdefault(place, []).append(_words(model, error))
    for place, complaints in found.items():
        key = ".".join(str(part) for part in place) or "the file"
        what, *others = dict.fromkeys(complaints)
        alternatives = "".join(f", or {other.removeprefix('must be ')}" for other in others)
        yield f"{document.where(place)}: {key}: {what}{alternatives}"


def _in_document(place: Place, data: Any) -> Place:
    """A pydantic location without the tags of unions, which do not stand in the file."""
    found: list[str | int] = []
    for at, part in enumerate(place):
        missing = at == len(place) - 1 and isinstance(part, str) and isinstance(data, dict)
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if inside or missing:
            found.append(part)
        if inside:
            data = data[part]
    return tuple(found)


def _words(model: type[BaseModel], error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), _known_names(model, error["loc"][:-1]), n=1)
        return "unknown option" + (f"; did you mean {close[0]!r}?" if close else "")
    if kind == "missing":
        return "missing"
    if kind in {"tuple_type", "list_type"}:
        return "must be a list, as in [one, two]"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _tag_words(_known_tags(model, error["loc"]), str(error.get("ctx", {}).get("tag", "")))
    if kind == "literal_error":
        expected = str(error.get("ctx", {}).get("expected", ""))
        close = get_close_matches(str(error["input"]), re.findall(r"'([^']*)'", expected), n=1)
        return f"must be {expected}" + (f"; did you mean {close[0]!r}?" if close else "")
    if kind in {"too_short", "string_too_short"} and error.get("ctx", {}).get("min_length") == 1:
        return "is empty"
    if (words := _KINDS.get(kind)) is not None:
        return words
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub("^Input should be ", "must be ", message)
    return message[:1].lower() + message[1:]


_KINDS = {
    "model_type": "must hold keys and values",
    "model_attributes_type": "must hold keys and values",
    "dict_type": "must hold keys and values",
    "string_type": "must be text; put it in quotes",
    "path_type": "must be a path",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
}


def _tag_words(tags: list[str], given: str) -> str:
    close = get_close_matches(given, tags, n=1)
    return f"'type' must be one of {', '.join(tags)}" + (f"; did you mean {close[0]!r}?" if close else "")


def _known_tags(model: type[BaseModel], place: Place) -> list[str]:
    """What `type` may be in the items of the list at `place`."""
    field = next((part for part in reversed(place) if isinstance(part, str) and part in model.model_fields), None)
    items = _models_in(model.model_fields[field].annotation) if field is not None else []
    tags = [str(tag) for item in items for tag in get_args(item.model_fields["type"].annotation)]
    return [tag for tag in tags if tag not in NOT_FOR_USERS]


def _known_names(model: type[BaseModel], place: Place) -> list[str]:
    """The option names valid at `place`: follows fields, list items and union tags."""
    candidates: list[type[BaseModel]] = [model]
    for part in place:
        if isinstance(part, int):
            continue
        inner = [
            option
            for candidate in candidates
            if part in candidate.model_fields
            for option in _models_in(candidate.model_fields[part].annotation)
        ]
        tagged = [
            candidate
            for candidate in candidates
            if part in get_args(getattr(candidate.model_fields.get("type"), "annotation", None))
        ]
        candidates = inner or tagged or candidates
    return [name for candidate in candidates for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
