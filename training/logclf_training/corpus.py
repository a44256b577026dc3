"""The corpus: log-line templates by program and label, in plain files that people can read and review.

A file holds one program: `# key: value` headers, then sections `[Label]` with one template a line. `%{name}` is a
variable (shared, or declared by `# var name: a | b`), `%{a|b}` an inline choice; a template that would start with `#`
or `[` has a backslash before it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from logclf_daemon.errors import BadInput
from logclf_daemon.taxonomy import DEFAULT_LABELS
from logclf_training.prefixes import STYLES
from logclf_training.variables import SHARED

LABELS = tuple(DEFAULT_LABELS)
PLACEHOLDER = re.compile(r"%\{([^{}]*)\}")
_SECTION = re.compile(r"\[([A-Za-z][A-Za-z ]*)\]\s*")
_HEADER = re.compile(r"#\s*([a-z]+)\b\s*([^:]*?)\s*:\s*(.*)")
_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Template:
    """One message of a program; `line` is where it stands in the file."""

    program: str
    label: str
    text: str
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def masked(self) -> str:
        """The text with each variable part as `*`: two templates with one mask are duplicates."""
        return " ".join(PLACEHOLDER.sub("*", self.text).lower().split())


@dataclass(frozen=True, slots=True)
class Program:
    """One file of the corpus."""

    name: str
    area: str
    prefixes: tuple[str, ...]
    tags: tuple[str, ...]
    variables: Mapping[str, tuple[str, ...]]
    templates: tuple[Template, ...]


@dataclass(slots=True)
class _Draft:
    """A file while it is read."""

    file: str
    headers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    templates: list[Template] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    label: str | None = None

    def refuse(self, line: int, problem: str) -> None:
        self.problems.append(f"{self.file}:{line}: {problem}")


def shipped() -> Path:
    """The corpus of the shipped model. Installed: beside this code; else the checkout's.

    Raises:
        BadInput: The installation is incomplete.
    """
    package = Path(str(files("logclf_training")))
    for place in (package / "templates", package.parent / "corpus"):
        if place.is_dir():
            return place
    raise BadInput(f"{package / 'templates'}: missing from this installation; install logclf-daemon again")


def fingerprint(folder: Path) -> dict[str, object]:
    """What names a corpus in the model that was made from it."""
    texts = sorted(folder.glob("*.txt"))
    digest = hashlib.sha256(b"".join(text.name.encode() + b"\0" + text.read_bytes() for text in texts))
    return {"files": len(texts), "sha256": digest.hexdigest()}


def load(folder: Path) -> list[Program]:
    """All programs of a folder, by name.

    Raises:
        BadInput: Something is wrong; the text names each place (file:line).
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise BadInput(f"{folder}: no corpus here (*.txt); give the folder that holds one file for each program")
    programs, problems = [], []
    for file in files:
        program, found = parse(file)
        programs.append(program)
        problems += found
    problems += conflicts(programs)
    if problems:
        more = f"\n… and {len(problems) - _MAX_SHOWN} more" if len(problems) > _MAX_SHOWN else ""
        raise BadInput("\n".join(problems[:_MAX_SHOWN]) + more)
    return programs


def parse(path: Path) -> tuple[Program, list[str]]:
    """One file as a program, and what is wrong with it as `file:line: problem` texts."""
    draft = _Draft(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return _finished(draft), [f"{path}: cannot be read as UTF-8 text: {error}"]
    for number, line in enumerate(text.split("\n"), 1):
        _read_line(draft, number, line.rstrip("\r"))
    program = _finished(draft)
    _check_headers(draft)
    for template in program.templates:
        _check_placeholders(draft, template)
    return program, draft.problems


def _read_line(draft: _Draft, number: int, line: str) -> None:
    if not line.strip():
        return
    section = _SECTION.fullmatch(line)
    if section:
        draft.label = section[1]
        if draft.label not in LABELS:
            draft.refuse(number, f"unknown label [{draft.label}]; known: {', '.join(LABELS)}")
    elif line.startswith("#"):
        _read_header(draft, number, line)
    elif draft.label is None:
        draft.refuse(number, "a template before the first [Label] section")
    else:
        text = line[1:] if line.startswith(("\\#", "\\[")) else line
        draft.templates.append(Template(_name(draft), draft.label, text, draft.file, number))


def _read_header(draft: _Draft, number: int, line: str) -> None:
    header = _HEADER.fullmatch(line)
    if draft.label is not None or header is None:
        draft.refuse(number, "comments are `# key: value` before the first section; write \\# for a template with #")
        return
    key, name, value = header.groups()
    if key == "var" and name:
        draft.variables[name] = tuple(choice.strip() for choice in value.split(" | "))
    elif key in {"program", "area", "prefix", "tags"} and not name:
        draft.headers[key] = value
    else:
        draft.refuse(number, f"unknown header {key!r}; known: program, area, prefix, tags, var NAME")


def _name(draft: _Draft) -> str:
    return draft.headers.get("program") or Path(draft.file).stem


def _finished(draft: _Draft) -> Program:
    return Program(
        name=_name(draft),
        area=draft.headers.get("area", ""),
        prefixes=tuple(draft.headers.get("prefix", "bare").replace(",", " ").split()),
        tags=tuple(tag.strip() for tag in draft.headers.get("tags", "").split("|") if tag.strip()),
        variables=draft.variables,
        templates=tuple(draft.templates),
    )


def _check_headers(draft: _Draft) -> None:
    for key in ("program", "prefix"):
        if key not in draft.headers:
            draft.refuse(1, f"the header `# {key}:` is missing")
    for style in _finished(draft).prefixes:
        if style not in STYLES:
            draft.refuse(1, f"unknown prefix {style!r}; known: {', '.join(STYLES)}")


def _check_placeholders(draft: _Draft, template: Template) -> None:
    for name in PLACEHOLDER.findall(template.text):
        if "|" not in name and name not in draft.variables and name not in SHARED:
            draft.refuse(template.line, f"unknown variable %{{{name}}}; declare it: # var {name}: a | b")
    if "%{" in PLACEHOLDER.sub("", template.text):
        draft.refuse(template.line, "a %{ that is not closed, or braces inside a choice")


def conflicts(programs: Iterable[Program]) -> list[str]:
    """Templates that stand twice, or under two labels."""
    seen: dict[str, Template] = {}
    problems = []
    for template in (template for program in programs for template in program.templates):
        first = seen.setdefault(template.masked, template)
        if first is template:
            continue
        what = "is a duplicate of" if first.label == template.label else f"has another label than [{first.label}]"
        problems.append(f"{template.where}: [{template.label}] {what} {first.where}: {template.text[:80]}")
    return problems


def count_by_label(programs: Iterable[Program]) -> Counter[str]:
    """How many templates each label has."""
    return Counter(template.label for program in programs for template in program.templates)
