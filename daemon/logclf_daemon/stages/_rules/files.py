"""Rule files: YAML to rules, in the order in which they win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from logclf_daemon.documents import Document, load, validated
from logclf_daemon.errors import ConfigError
from logclf_daemon.taxonomy import Taxonomy

RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class RuleOptions(BaseModel):
    """One rule as it stands in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: RuleId = Field(description="Unique over all files.")
    label: str = Field(description="A label of the taxonomy.")
    pattern: str = Field(min_length=1, max_length=10_000, description="RE2 syntax, searched anywhere in the line.")
    ignore_case: bool = Field(False, description="Letters A-Z match in both cases.")
    source: tuple[str, ...] = Field((), description="Globs on tag or file; none: all sources.")
    priority: int = Field(100, description="Higher wins; ties: file name, then order in the file.")
    description: str = Field("", description="What the line tells an operator.")
    examples: tuple[str, ...] = Field(min_length=1, description="Lines the pattern must match.")
    counterexamples: tuple[str, ...] = Field((), description="Lines it must not match.")


class RuleFile(BaseModel):
    """A whole rule file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="The format of this file.")
    rules: tuple[RuleOptions, ...] = Field(description="The rules.")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and where it stands."""

    options: RuleOptions
    path: Path
    line: int
    pattern_line: int
    shipped: bool = False

    @property
    def id(self) -> str:
        return self.options.id

    def where(self, *, pattern: bool = False) -> str:
        """`file:line: rule id`, as errors begin."""
        return f"{self.path}:{self.pattern_line if pattern else self.line}: {self.id}"


def rule_paths(places: Sequence[Path]) -> list[Path]:
    """The YAML files at `places` (files, or folders of *.yaml and *.yml).

    Raises:
        ConfigError: A place does not exist, or is closed to this user.
    """
    found: list[Path] = []
    for place in places:
        try:
            found += _files_at(place)
        except OSError as error:
            raise ConfigError(
                f"{place}: cannot be read: {error.strerror}; give the daemon's user access (chmod o+rX)"
            ) from error
    return list(dict.fromkeys(found))


def _files_at(place: Path) -> list[Path]:
    """In a folder those that are not hidden: what begins with a dot is another program's, on its way to a name."""
    if place.is_dir():
        named = (path for path in place.iterdir() if path.suffix in {".yaml", ".yml"} and path.name[0] != ".")
        return sorted(path for path in named if path.is_file())
    if not place.is_file():
        raise ConfigError(f"{place}: no such rule file or folder; create it or correct the path")
    return [place]


def read_rules(places: Sequence[Path], taxonomy: Taxonomy, *, builtin: Path | None = None) -> list[Rule]:
    """All rules of user files and, where given, of the shipped folder, in winning order.

    Shipped rules whose label the taxonomy does not have are left out: the user replaced the labels.

    Raises:
        ConfigError: One line for each mistake in any of the files.
    """
    mistakes: list[str] = []
    rules: list[Rule] = []
    for path in rule_paths([*([builtin] if builtin else []), *places]):
        try:
            document = load(path)
            parsed = validated(RuleFile, document)
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        shipped = builtin is not None and path.parent == builtin
        located = _located(parsed, document, path, shipped=shipped)
        rules += [rule for rule in located if not shipped or rule.options.label in taxonomy]
    mistakes += _unknown_labels(rules, taxonomy) + _repeated_ids(rules)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return sorted(rules, key=lambda rule: (-rule.options.priority, rule.path.name, str(rule.path.parent), rule.line))


def _located(parsed: RuleFile, document: Document, path: Path, *, shipped: bool) -> list[Rule]:
    lines = document.lines
    return [
        Rule(options, path, lines[("rules", at)], lines.get(("rules", at, "pattern"), lines[("rules", at)]), shipped)
        for at, options in enumerate(parsed.rules)
    ]


def _unknown_labels(rules: Sequence[Rule], taxonomy: Taxonomy) -> list[str]:
    return [
        f"{rule.where()}: label: {rule.options.label!r} is not a label{taxonomy.suggestion(rule.options.label)}"
        for rule in rules
        if rule.options.label not in taxonomy
    ]


def _repeated_ids(rules: Sequence[Rule]) -> list[str]:
    first: dict[str, Rule] = {}
    mistakes = []
    for rule in rules:
        other = first.setdefault(rule.id, rule)
        if other is not rule:
            mistakes.append(f"{rule.where()}: id: already used in {other.path}:{other.line}; choose another")
    return mistakes
