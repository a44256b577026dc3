"""Lines from templates: variables filled in, a prefix before, the same for the same seed.

Every line has a random source of its own, named by seed, program, template and number. So adding a template changes no
line of any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from logclf_training.corpus import PLACEHOLDER, Program, Template
from logclf_training.prefixes import STYLES, Origin, usual_level
from logclf_training.variables import SHARED

ALSO_BARE = 0.15
"""Share of lines without any prefix whatever the program prints: the words alone must do, too."""


@dataclass(frozen=True, slots=True)
class Line:
    """A generated log line and where it comes from."""

    text: str
    label: str
    program: str
    template: Template


def fill(random: Random, program: Program, text: str) -> str:
    """The message of a template with a value for each placeholder."""

    def value(name: str) -> str:
        if "|" in name:
            return random.choice(name.split("|"))
        if name in program.variables:
            return random.choice(program.variables[name])
        return SHARED[name](random)

    return PLACEHOLDER.sub(lambda found: value(found[1]), text)


def process_name(random: Random, program: str) -> str:
    """What a program's processes call themselves. A file of several programs is named `a-b-c`: one of them.

    A collection of one kind of line from everywhere must not be known by its name: it gets any application's.
    """
    if program.endswith("collection"):
        return SHARED["app"](random)
    return random.choice((program, *program.split("-")))


def line(program: Program, template: Template, number: int, seed: int) -> Line:
    """The `number`-th line of a template."""
    random = Random(f"{seed}/{program.name}/{template.text}/{number}")
    message = fill(random, program, template.text)
    style = "bare" if random.random() < ALSO_BARE else random.choice(program.prefixes)
    process = process_name(random, program.name)
    tag = random.choice(program.tags) if program.tags else process
    origin = Origin(process, tag, usual_level(random, template.label))
    return Line(STYLES[style](random, origin, message), template.label, program.name, template)


def lines(program: Program, count: int, seed: int) -> Iterator[Line]:
    """`count` lines of each template, template by template."""
    for template in program.templates:
        for number in range(count):
            yield line(program, template, number, seed)
