"""From a template to a rule: the pattern its constant words make, what it matches lately, and a safe way to keep it."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import re2
import yaml

from logclf_daemon.build import rules_in_force
from logclf_daemon.config import Config, saved_rules
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.masking import masked
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules.proposed import pattern_of
from logclf_daemon.stages.rules import RulesOptions, complaint, load_rules, rule_paths
from logclf_daemon.traffic import Seen

FILE_NAME = "review.yaml"
MAX_EXAMPLES = 10
LEAST_LETTERS = 5  # a person looks at it, with the lines it matches beside it


def proposed_pattern(text: str, example: bytes) -> tuple[str, str]:
    """The pattern for a template, and a line of it to keep as the rule's example: masked, since files are shown around.

    Raises:
        BadInput: Too little of the line is constant.
    """
    shown = masked(example)
    pattern = pattern_of(masked(text), shown, least_words=1, least_letters=LEAST_LETTERS)
    if pattern is None:
        raise BadInput("too little of this line is constant; write the pattern yourself")
    return pattern, shown


def proposed_id(text: str) -> str:
    """A rule id from the first words of a template."""
    words = re.findall(r"[a-z]+", text.lower())[:4]
    return "-".join(["own", *words])[:100] or "own-rule"


def matches(pattern: str, *, ignore_case: bool, seen: Sequence[Seen]) -> dict[str, Any]:
    """What a pattern matches of what came by lately; one line of each template stands for it.

    Raises:
        BadInput: It is no RE2 pattern; says what to write instead.
    """
    if (reason := complaint(pattern, ignore_case=ignore_case)) is not None:
        raise BadInput(f"pattern: {reason}")
    options = re2.Options()
    options.case_sensitive, options.log_errors = not ignore_case, False
    options.encoding = re2.Options.Encoding.LATIN1
    compiled = re2.compile(pattern.encode(), options)
    found = sorted((row for row in seen if compiled.search(row.example)), key=lambda row: -row.count)
    labels: Counter[str] = Counter()
    for row in found:
        labels[row.verdict.label] += row.count
    return {
        "templates": len(found),
        "lines": sum(row.count for row in found),
        "examples": [masked(row.example) for row in found[:MAX_EXAMPLES]],
        "labels": dict(labels.most_common()),
    }


def save(config: Config, state: Path | None, rule: dict[str, Any]) -> Path:
    """Add a rule to `review.yaml` in the user's rules folder, after the whole set was compiled and tried with it.

    That is the first folder of `rules.paths` that can be written, else one in the state folder.

    Raises:
        ConfigError: The set with it is refused, or there is no folder to save to; nothing was changed.
    """
    places = [place for place in config.rules.paths if place.is_dir() and os.access(place, os.W_OK | os.X_OK)]
    if not places and state is None:
        raise ConfigError("rules.paths: there is no folder to save to; name one that can be written")
    target = (places[0] if places or state is None else saved_rules(state)) / FILE_NAME
    rules = [*_rules_in(target), rule]
    words = "# Rules saved on the live page. Comments in this file are not kept.\n"
    text = words + yaml.safe_dump({"version": 1, "rules": rules}, sort_keys=False, allow_unicode=True, width=1000)
    with tempfile.TemporaryDirectory() as trial:
        tried = Path(trial) / FILE_NAME
        tried.write_text(text, encoding="utf-8")
        in_force = rules_in_force(config, state)
        others = [path for path in rule_paths(in_force.paths) if path != target]
        try:
            options = RulesOptions(paths=(*others, tried), builtin=config.rules.builtin)
            load_rules(options, config.taxonomy, folder("rules"), cache_directory())
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(tried), str(target))) from error
    _replace(target, text)
    return target


def _rules_in(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        return list(known["rules"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a rule file; correct it first") from error


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
